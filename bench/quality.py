"""`python -m bench.quality FILE`: how well `fraudline train` and `fraudline score` find fraud, on the Handbook's data.

FILE is the Fraud Detection Handbook's simulated payments as Parquet (event_id, event_time, customer_id, terminal_id,
amount_minor, is_fraud). The protocol is the book's: train, wait 7 days for labels, test on 7 days, for four weeks; who
was known to be defrauded leaves the test. Everything goes through the command line, labels arriving as label events.
Every run is appended to `bench/quality_runs.jsonl`; choose on other weeks than the test weeks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bench.machine import machine, occasion
from bench.run import QUALITY, RESULTS, merge
from models.evaluate import average_precision, card_precision_at, recall_at_precision, roc_auc

BEGUN: Final = datetime(2018, 4, 1, tzinfo=UTC)
DAY_MS: Final = 86_400_000
TEST_WEEKS: Final = (94, 101, 108, 115)
EARLIER_WEEKS: Final = (66, 73, 80, 87)
DELAY_DAYS: Final = 7
RUN_LOG: Final = Path(__file__).parent / "quality_runs.jsonl"
MEASURES: Final = ("auc", "ap", "recall_at_precision_90", "card_precision_100")


@dataclass(frozen=True, slots=True)
class Setup:
    """One configuration: the catalog, how many days are learned from, when labels arrive, and further options."""

    name: str
    catalog: str
    days: int
    labelled_after_days: float = DELAY_DAYS
    options: tuple[str, ...] = ()


BOOK: Final = "--depth 3 --trees 100 --learning-rate 0.1 --subsample 1 --columns-per-tree 1"  # its recipe
SETUPS: Final = {
    each.name: each
    for each in (
        Setup("default", "default", 28),
        Setup("handbook", "handbook", 7, options=tuple(BOOK.split())),
        Setup("leak_3", "default", 28, 3),
        Setup("leak_1", "default", 28, 1),
        Setup("leak_0", "default", 28, 0),
    )
}


@dataclass(frozen=True, slots=True)
class World:
    """The data as arrays, in the order of the file."""

    event_time: npt.NDArray[np.int64]
    card: npt.NDArray[np.int64]
    fraud: npt.NDArray[np.bool_]

    @property
    def day(self) -> npt.NDArray[np.int64]:
        """Of each payment, counted from the first."""
        return (self.event_time - round(BEGUN.timestamp() * 1_000)) // DAY_MS


def convert(source: Path, folder: Path, labelled_after_days: float) -> World:
    """Write payments and labels as Fraudline reads them."""
    table = pq.read_table(source)
    ids = {name: _texts(prefix, table[name]) for name, prefix in (("event_id", "e"), ("customer_id", "c"))}
    terminal, fraud = _texts("t", table["terminal_id"]), np.asarray(table["is_fraud"]) == 1
    common = {"event_id": ids["event_id"], "card_id": ids["customer_id"], "merchant_id": terminal}
    common |= {"terminal_id": terminal, "event_time": table["event_time"]}
    currency = pa.array(["USD"] * len(fraud)).dictionary_encode()
    pq.write_table(
        pa.table(common | {"amount_minor": table["amount_minor"], "currency": currency}), folder / "payments.parquet"
    )
    told = pa.table(common).filter(pa.array(fraud))
    after = pa.array(np.asarray(told["event_time"]) + round(labelled_after_days * DAY_MS))
    for name, column in (
        ("label", pa.array(["fraud"] * len(told))),
        ("labelled_at", after),
        ("source", pa.array(["chargeback"] * len(told))),
    ):
        told = told.append_column(name, column)
    pq.write_table(told, folder / "labels.parquet")
    return World(np.asarray(table["event_time"]), np.asarray(table["customer_id"]), fraud)


def _texts(prefix: str, column: pa.ChunkedArray) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in column.to_pylist()])


def tested(world: World, week: int) -> npt.NDArray[np.int64]:
    """The payments of a test week, without customers known to be defrauded: when training ended, or reported since."""
    day, known = world.day, set[int]()
    rows = []
    for today in range(week, week + 7):
        reported = (day >= week - 14) & (day < today - DELAY_DAYS) & world.fraud
        known.update(world.card[reported].tolist())
        here = np.flatnonzero(day == today)
        rows.append(here[~np.isin(world.card[here], list(known))])
    return np.concatenate(rows)


def run(world: World, folder: Path, setup: Setup, week: int) -> dict[str, Any]:
    """Train for one week, score, and measure."""
    bundle, scores = folder / f"bundle-{setup.name}-{week}", folder / "scores.parquet"
    files = ("--payments", str(folder / "payments.parquet"), "--labels", str(folder / "labels.parquet"))
    begun = time.monotonic()
    times = [(BEGUN + timedelta(days=days)).isoformat() for days in (week - DELAY_DAYS - setup.days, week)]
    _fraudline(
        "train", *files, "--out", str(bundle), "--catalog", setup.catalog, "--from", times[0], "--to", times[1],
        "--threads", "2", *setup.options,
    )  # fmt: skip
    trained = time.monotonic()
    _fraudline(
        "score", *files, "--bundle", str(bundle), "--out", str(scores), "--catalog", setup.catalog, "--threads", "2"
    )
    table = pq.read_table(scores, columns=["event_id", "score"])
    rows = tested(world, week)
    assert len(table) == len(world.fraud), "a payment was not scored"
    score, fraud = np.asarray(table["score"])[rows], world.fraud[rows]
    return {
        "setup": setup.name,
        "week": week,
        "payments": len(rows),
        "frauds": int(fraud.sum()),
        "auc": roc_auc(fraud, score),
        "ap": average_precision(fraud, score),
        "recall_at_precision_90": recall_at_precision(fraud, score, 0.9),
        "card_precision_100": card_precision_at(fraud, score, world.card[rows], world.event_time[rows], 100),
        "train_s": round(trained - begun, 1),
        "score_s": round(time.monotonic() - trained, 1),
        "trees": json.loads((bundle / "manifest.json").read_text())["trees"]["model.ubj"],
    }


def _fraudline(*words: str) -> None:
    command = [sys.executable, "-c", "from consumer.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"fraudline {words[0]} failed: {done.stderr.strip()}")


def measure(source: Path, setups: list[Setup], weeks: tuple[int, ...], note: str) -> dict[str, Any]:
    """All setups on all weeks: each week's figures, mean and standard deviation; `note` goes into the log of runs."""
    found: dict[str, Any] = {"machine": machine(), "weeks": list(weeks), "setups": {}}
    for setup in setups:
        with tempfile.TemporaryDirectory() as place:
            world = convert(source, Path(place), setup.labelled_after_days)
            runs = []
            for week in weeks:
                runs.append(run(world, Path(place), setup, week))
                print(runs[-1], flush=True)
                with RUN_LOG.open("a") as log:
                    log.write(
                        json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "note": note} | runs[-1])
                        + "\n"
                    )
        summary = {
            each: {
                "mean": float(np.mean([one[each] for one in runs])),
                "deviation": float(np.std([one[each] for one in runs])),
            }
            for each in MEASURES
        }
        found["setups"][setup.name] = {"setup": asdict(setup), "runs": runs, "summary": summary}
        print(setup.name, {name: f"{v['mean']:.4f} +- {v['deviation']:.4f}" for name, v in summary.items()}, flush=True)
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("source", type=Path, help="the Handbook's payments, Parquet")
    parser.add_argument("--setups", default="default,handbook,leak_3,leak_1,leak_0", help="comma-separated")
    parser.add_argument("--earlier", action="store_true", help="the weeks for choosing, not the test weeks")
    parser.add_argument("--weeks", help="comma-separated days that weeks begin on, in place of those")
    parser.add_argument("--note", default="", help="what is tried, for the log of runs")
    parser.add_argument("--keep", action="store_true", help="put the figures into results.json and RESULTS.md")
    args = parser.parse_args()
    weeks = EARLIER_WEEKS if args.earlier else TEST_WEEKS
    if args.weeks:
        weeks = tuple(int(each) for each in args.weeks.split(","))
    when = occasion(["FILE", *sys.argv[2:]], module="bench.quality")
    found = when | measure(args.source, [SETUPS[name] for name in args.setups.split(",")], weeks, args.note)
    if args.keep:  # setups that were not run now keep what they had
        results = Path(__file__).parent / RESULTS
        known = json.loads(results.read_text()).get(QUALITY, {}) if results.exists() else {}
        setups = known.get("setups", {}) | found["setups"]
        found["setups"] = {name: setups[name] for name in SETUPS if name in setups}
        merge(Path(__file__).parent, QUALITY, found)


if __name__ == "__main__":
    main()
