"""`fraudline train`: from payments and labels to a bundle."""

# ruff: noqa: PLC0415  heavy imports stay inside the command
from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from consumer.cli_options import AsJson, CatalogName, Mapped, columns_of, moment_ms
from consumer.cli_output import only_one, print_mapping, progress_stages


class Device(StrEnum):
    """Where a model computes."""

    CPU = "cpu"
    CUDA = "cuda"


def train(
    *,
    payments: Annotated[
        Path, typer.Option(metavar="PATH", help="Parquet, CSV or JSON lines in log order; a file, or a folder of them.")
    ],
    labels: Annotated[Path, typer.Option(metavar="PATH", help="Likewise, in any order.")],
    mapped: Mapped = None,
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="The directory that becomes the model bundle.")],
    alert_budget: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of payments that may be stopped or reviewed (default: 0.01)."),
    ] = None,
    alerts_per_day: Annotated[
        float | None, typer.Option(min=0.0, help="In place of that share: so many alerts a day.")
    ] = None,
    review_precision: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="In place of a budget: this share of the alerts is fraud.")
    ] = None,
    alert_cost: Annotated[
        float | None, typer.Option(min=0.0, help="In place of a budget: what an alert costs, in minor units.")
    ] = None,
    block_precision: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Block where this share of the blocked is fraud (default: 0.9)."),
    ] = None,
    decline_cost: Annotated[
        float | None, typer.Option(min=0.0, help="In place of that: what a good payment blocked costs, minor units.")
    ] = None,
    segment_thresholds: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Thresholds of their own for the values of this field.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Learn from payments of this time on (ISO 8601).")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="Learn as at this time: nothing later is known, labels included."),
    ] = None,
    label_delay_days: Annotated[
        float, typer.Option(min=0.0, help="How long labels take: younger payments are not learned from.")
    ] = 7.0,
    windows: Annotated[int, typer.Option(min=2, help="Windows of validation; the newest is the test.")] = 3,
    trees: Annotated[int, typer.Option(min=10, help="At most so many; validation says how many are best.")] = 600,
    depth: Annotated[int, typer.Option(min=1, max=12, help="Of each tree.")] = 4,
    learning_rate: Annotated[float, typer.Option(min=0.001, max=1.0, help="Of each tree.")] = 0.03,
    min_child_weight: Annotated[float, typer.Option(min=0.0, help="Of a leaf: more is more cautious.")] = 1.0,
    subsample: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the payments a tree.")] = 0.8,
    columns_per_tree: Annotated[float, typer.Option(min=0.05, max=1.0, help="Share of the features a tree.")] = 0.5,
    l2: Annotated[float, typer.Option(min=0.0, help="Regularisation of leaves.")] = 1.0,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FEATURE|none",
            help="A feature that trees may not use; repeatable (default: merchant_mean_30d and merchant_count_7d).",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="The model's name.")] = "fraudline",
    model_version: Annotated[str, typer.Option(help="The model's version.")] = "1",
    device: Annotated[Device, typer.Option(help="Where trees are grown.")] = Device.CPU,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory for work; what is more waits in files.")] = 2_048,
    search_minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Look for better options for so long (Optuna, extra fraudline\\[train])."),
    ] = None,
    search_trials: Annotated[
        int | None, typer.Option(min=1, help="Or so many times: the same number and seed find the same.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and inputs give the same bytes.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads; more than one pays on idle cores only.")] = 1,
    report: Annotated[
        str | None,
        typer.Option(metavar="FILE|none", help="The report, .html, with a .json beside it (default: by the bundle)."),
    ] = None,
    segment: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Also tell payments apart by this field; repeatable.")
    ] = None,
    catalog: CatalogName = "default",
    as_json: AsJson = False,
) -> int:
    """Train a model bundle from payments and labels, and print how good it is on later payments."""
    from consumer import logs
    from consumer.decode import looks_like_card_number
    from consumer.report_page import report_writer
    from features.profiles import load_catalog
    from models.train import ALERT_SHARE, BLOCK_PRECISION, LEFT_OUT, TrainOptions
    from models.train import train as train_bundle

    logs.configure_command()
    only_one({"--alert-budget": alert_budget, "--alerts-per-day": alerts_per_day,
              "--review-precision": review_precision, "--alert-cost": alert_cost})  # fmt: skip
    only_one({"--block-precision": block_precision, "--decline-cost": decline_cost})
    options = TrainOptions(
        alert_share=ALERT_SHARE if alert_budget is None else alert_budget,
        alerts_per_day=alerts_per_day,
        review_precision=review_precision,
        alert_cost_minor=alert_cost,
        block_precision=BLOCK_PRECISION if block_precision is None else block_precision,
        decline_cost_minor=decline_cost,
        segment_thresholds=segment_thresholds,
        from_ms=moment_ms(since, "--from"),
        to_ms=moment_ms(until, "--to"),
        label_delay_days=label_delay_days,
        windows=windows,
        trees=trees,
        depth=depth,
        learning_rate=learning_rate,
        min_child_weight=min_child_weight,
        subsample=subsample,
        columns_per_tree=columns_per_tree,
        leave_out=LEFT_OUT if leave_out is None else tuple(name for name in leave_out if name != "none"),
        l2=l2,
        name=name,
        version=model_version,
        device=device.value,
        memory_mb=memory_mb,
        seed=seed,
        threads=threads,
    )
    chosen = load_catalog(catalog)
    segments = tuple(segment or ())
    write_report = report_writer(report, out, f"{name} {model_version}", segments)
    choose = None
    if search_minutes is not None or search_trials is not None:
        from models.search import searcher

        choose = searcher(chosen, minutes=search_minutes, trials=search_trials)
    with progress_stages() as advance:
        metrics = train_bundle(
            payments,
            labels,
            out,
            options=options,
            catalog=chosen,
            progress=advance,
            is_card_number=looks_like_card_number,
            choose=choose,
            report=write_report,
            segments=segments,
            mapped=columns_of(mapped),
        )
    for what, place in (("payment", payments), ("label", labels)):
        if bad := metrics[f"bad_{what}_lines"]:
            sys.stderr.write(f"{bad:,} rows of {place} are no {what} and were left out\n")
    print_mapping(f"Trained {out}", metrics, as_json=as_json)
    return 0
