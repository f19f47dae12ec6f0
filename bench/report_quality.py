"""The part of the report that says how well training finds fraud; see `bench.quality`."""

from __future__ import annotations

from typing import Any, Final

from bench.tables import table, verdict

MEASURES: Final = {
    "auc": "AUC ROC",
    "ap": "AP",
    "recall_at_precision_90": "recall at precision 0.9",
    "card_precision_100": "card precision at 100",
}
TARGETS: Final = {"auc": 0.885, "ap": 0.755, "recall_at_precision_90": 0.72}
BOOK_RECIPE: Final = {"auc": (0.878, 0.009), "ap": (0.705, 0.020), "recall_at_precision_90": (0.642, 0.035)}
LEAK: Final = 0.80  # an average precision that only the future can give
HONEST: Final = ("default", "handbook")
ELSEWHERE: Final = (
    ("published by the book, XGBoost", "0.869", "0.687", "-", "0.303"),
    ("the book's 15 inputs and recipe, independent code", "0.878", "0.705", "0.642", "-"),
    ("about 50 generic features, label-fed, independent code", "0.885", "0.758", "0.721", "-"),
)


def quality(section: dict[str, Any]) -> list[str]:
    """Every run, means, deviations and verdicts."""
    setups = section["setups"]
    lines = [
        f"    {section['command']}",
        "",
        f"{section['date']}, commit {section['commit']}; {section['machine']['cpu']}.",
        "The Fraud Detection Handbook's simulated payments and its protocol, four test weeks; everything through "
        "`fraudline train` and `fraudline score`, labels arriving as label events. Every run there was is in "
        "`quality_runs.jsonl`, with the weeks that choices were made on.",
        "",
    ]
    if "default" in setups:
        found = setups["default"]["summary"]
        lines += [
            verdict(f"full catalog, defaults, {MEASURES[name]}", found[name]["mean"], target, at_most=False, digits=4)
            for name, target in TARGETS.items()
        ]
    if "handbook" in setups:
        found = setups["handbook"]["summary"]
        lines += [
            verdict(f"profile handbook, {MEASURES[name]}, off the independent figure", abs(found[name]["mean"] - mean),
                    deviation, at_most=True, digits=4)
            for name, (mean, deviation) in BOOK_RECIPE.items()
        ]  # fmt: skip
    rows = [
        (name, *[f"{each['summary'][m]['mean']:.4f} ± {each['summary'][m]['deviation']:.4f}" for m in MEASURES])
        for name, each in setups.items()
    ]
    lines += ["", *table(("setup", *MEASURES.values()), [*rows, *ELSEWHERE]), ""]
    if any(name.startswith("leak") for name in setups):
        lines += [
            "The leak test: the same with labels that come 3, 1 and 0 days after their payment instead of 7. Average "
            f"precision rises above {LEAK:.2f}, which nothing that only knows the past reaches.",
            "",
        ]
    columns = ("setup", "week", "payments", "frauds", *MEASURES.values(), "trees", "train s", "score s")
    every = [run for each in setups.values() for run in each["runs"]]
    return lines + table(columns, map(_row, every))


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    facts = (run["setup"], str(run["week"]), f"{run['payments']:,}", str(run["frauds"]))
    return (*facts, *(f"{run[name]:.4f}" for name in MEASURES), *(str(run[n]) for n in ("trees", "train_s", "score_s")))
