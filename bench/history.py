"""Asking a history: what `backtest` and `certify` cost, and how fast and how evenly `replay` sends.

`backtest` and its stages (features, scoring, deciding, writing) are measured in turn, each in a process of its own, in
the same run; its scaling is judged against two loops of plain Python beside each other. Replays go to a real Kafka; how
evenly they send is read from what arrived, by the clock of the sender that each record carries.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from bench.features_build import files
from bench.stack import Stack
from consumer.backtest import Asked, backtest, variant
from consumer.certificate.certify import Asked as ToCertify
from consumer.certificate.certify import Certification
from consumer.decode import looks_like_card_number
from consumer.edge import score_stream
from consumer.kafka.replay import TopicSink
from consumer.replay import FileFeed, Record, Replay
from consumer.settings import KafkaSettings
from consumer.simulator import Simulation, write
from consumer.streams import FileStream
from features.catalog import DEFAULT
from features.history import local
from features.history.job import Job
from models import outcomes
from models.score import Scorer

PAYMENTS: Final = 500_000
QUICK_PAYMENTS: Final = 20_000
REPLAYED: Final = 500_000
QUICK_REPLAYED: Final = 10_000
PACED_RATE: Final = 2_000  # records a second
PACED_S: Final = 15
QUICK_PACED_S: Final = 3
BURN: Final = 12_000_000
CERTIFIED: Final = 300_000
QUICK_CERTIFIED: Final = 10_000
BUILD, SCORE, JUDGE, TEST = "features", "score and decide", "judge", "backtest"
CERTIFY, HELD = "certify", "backtest held to the same decisions"


def measure(stack: Stack, *, rounds: int, quick: bool) -> dict[str, Any]:
    """Every round of everything."""
    payments, labels = files(QUICK_PAYMENTS if quick else PAYMENTS)
    bundle = str(stack.prepared.bundle)
    found: dict[str, Any] = {"payments": QUICK_PAYMENTS if quick else PAYMENTS, "backtest": [], "replay": []}
    for _ in range(rounds):
        alone = {what: _apart(what, payments, labels, bundle) for what in (BUILD, SCORE, JUDGE)}
        one, two = (_apart(TEST, payments, labels, bundle, variants=count) for count in (1, 2))
        both = _apart(TEST, payments, labels, bundle, threads=2)
        found["backtest"].append({"alone": alone, "one": one, "two": two, "two_threads": both, "loops": loops()})
        print({"backtest": found["backtest"][-1]}, flush=True)
    payments, decisions = _decided(stack, QUICK_CERTIFIED if quick else CERTIFIED)
    found["certified"] = QUICK_CERTIFIED if quick else CERTIFIED
    found["certify"] = [
        {what: _apart(what, payments, decisions, bundle, threads=threads) for what in (HELD, CERTIFY)}
        | {"threads": threads}
        for _ in range(rounds)
        for threads in (1, 2)
    ]
    print({"certify": found["certify"]}, flush=True)
    found["replay"] = [_fast(stack, payments, quick=quick) for _ in range(rounds)]
    found["paced"] = [_paced(stack, quick=quick) for _ in range(rounds)]
    return found


def _apart(
    what: str, payments: Path, labels: Path, bundle: str, *, threads: int = 1, variants: int = 1
) -> dict[str, float]:
    """Seconds and memory of one stage, or of the whole, in a process of its own."""
    words = [what, str(payments), str(labels), bundle, str(threads), str(variants)]
    done = subprocess.run([sys.executable, "-m", "bench.history", *words], capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def _decided(stack: Stack, count: int) -> tuple[Path, Path]:
    """Payments of the simulated history as lines, and what the processor's pipeline decided of them."""
    bundle = stack.prepared.bundle
    home = bundle.parent / f"certify-{count}"
    payments, decisions = home / "payments.jsonl", home / "decisions.jsonl"
    if not decisions.exists():
        home.mkdir(parents=True, exist_ok=True)
        write(Simulation(payments=count, seed=6), home)
        beside = home / ".decisions"
        with payments.open("rb") as lines, beside.open("wb") as to, (home / "rejects").open("wb") as rejects:
            score_stream(bundle=bundle, payments=lines, decisions=to, rejects=rejects, labels=None, as_of_ms=None)
        beside.replace(decisions)
    return payments, decisions


def loops() -> float:
    """How much more two loops beside each other do than one: what two cores allow."""
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_burn, (1, 1)))  # so that both processes are there
        begun = time.perf_counter()
        _ = pool.submit(_burn, BURN).result()
        one = time.perf_counter() - begun
        begun = time.perf_counter()
        list(pool.map(_burn, (BURN, BURN)))
        return 2 * one / (time.perf_counter() - begun)


def _burn(count: int) -> int:
    total = 0
    for number in range(count):
        total += number & 7
    return total


def _stage(what: str, payments: Path, labels: Path, bundle: str, threads: int, variants: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        table = folder / "features.parquet"
        loaded = variant(f"a={bundle}", DEFAULT)
        used = DEFAULT.only(tuple(n for n in DEFAULT.names if n in loaded.bundle.manifest.features))
        job = Job(payments, labels, table, looks_like_card_number, catalog=used, jobs=threads,
                  keep=tuple(sorted({"amount_minor", *loaded.policy.fields})))  # fmt: skip
        scorer = Scorer(loaded.bundle, compiled=True)
        scorer.warm_up()
        if what in (SCORE, JUDGE):
            local.build(job)
        begun = time.perf_counter()
        if what == BUILD:
            local.build(job)
        elif what == SCORE:
            _score(table, loaded, scorer)
        elif what == JUDGE:
            _judge(pq.read_metadata(table).num_rows)
        elif what == HELD:
            asked = Asked(payments, None, (loaded,), FileStream(labels, "decisions"), threads=threads, resamples=0)
            backtest(asked, DEFAULT, folder / "out.parquet")
        elif what == CERTIFY:
            _certify(payments, labels, Path(bundle), threads)
        else:
            made = tuple(variant(f"v{number}={bundle}", DEFAULT) for number in range(variants))
            begun = time.perf_counter()
            backtest(Asked(payments, labels, made, threads=threads), DEFAULT, folder / "out.parquet")
        seconds = time.perf_counter() - begun
    status = Path("/proc/self/status").read_text()  # what getrusage tells begins with the parent's
    return {"s": seconds, "rss_mb": int(status.split("VmHWM:")[1].split()[0]) / 1_024}


def _certify(payments: Path, decisions: Path, bundle: Path, threads: int) -> None:
    """A certificate of everything that was decided, which must say that it is equal."""
    files = {"decisions": FileStream(decisions, "decisions"), "payments": FileStream(payments, "payments")}
    made = ToCertify(
        **files, labels=None, journal=None, bundles=(bundle,), registry=None, shards=1, max_payment_bytes=65_536,
        max_future_ms=300_000, threads=threads,
    )  # fmt: skip
    if (verdict := Certification(made, DEFAULT).run().verdict) != "equal":
        raise SystemExit(f"the certificate says {verdict}")


def _score(table: Path, loaded: Any, scorer: Scorer) -> None:
    """Read the features, score, decide, and write what was decided, as plainly as it can be done."""
    from consumer.columns import decisions_of, fields_of  # noqa: PLC0415  this stage alone

    names = loaded.bundle.manifest.features
    with pq.ParquetFile(table) as file:
        for batch in file.iter_batches(16_384):
            values = np.empty((len(batch), len(names)), np.float32)
            for column, name in enumerate(names):
                values[:, column] = batch.column(name)
            scores = scorer.score(values)
            times = np.asarray(batch.column("event_time"))
            told = loaded.policy.decide(scores, values, "full", fields=fields_of(batch), event_time=times)
            decisions_of(told.decision)


def _judge(n: int) -> None:
    """Measures with intervals of so many payments."""
    rng = np.random.default_rng(1)
    fraud = rng.random(n) < 0.005
    times = np.arange(n, dtype=np.int64) * 5_000 + 1_600_000_000_000
    truth = outcomes.Truth(times, rng.integers(1, 10**5, n), rng.integers(0, n // 12 + 1, n), fraud, np.ones(n, bool))
    scores = (0.7 * rng.random(n) + 0.3 * fraud).astype(np.float32)
    said = outcomes.Said(scores, (scores > 0.7).astype(np.uint8), np.ones(n, bool), {}, scores, {})
    outcomes.Jury(truth).measures(said)


def _fast(stack: Stack, payments: Path, *, quick: bool) -> dict[str, Any]:
    """Payments a second from Parquet into a topic, all acknowledged."""
    names = stack.fresh(f"replay{time.monotonic_ns()}")
    kafka = KafkaSettings(brokers=stack.kafka.bootstrap)
    sink = TopicSink(kafka, names.topics["payments"], None, keep_timestamps=False, is_paced=False)
    feed = FileFeed(payments, None, max_payment_bytes=65_536)
    begun = time.perf_counter()
    done = Replay(feed, sink).run()
    seconds = time.perf_counter() - begun
    return {"per_s": done.payments / seconds, "payments": done.payments, "quick": quick}


class _Stamped(TopicSink):
    """Notes when each record was handed over."""

    moments: list[float]

    def send(self, records: Sequence[Record]) -> None:
        """See `TopicSink`."""
        self.moments += [time.monotonic()] * len(records)
        super().send(records)


def _paced(stack: Stack, *, quick: bool) -> dict[str, float]:
    """How far from their original distance records are sent, in ms: of each to the one before it."""
    names = stack.fresh(f"paced{time.monotonic_ns()}")
    seconds = QUICK_PACED_S if quick else PACED_S
    rng = np.random.default_rng(7)
    gaps = rng.exponential(1_000 / PACED_RATE, seconds * PACED_RATE)
    times = (1_600_000_000_000 + np.cumsum(gaps)).astype(np.int64)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "payments.jsonl"
        line = '{"event_id":"%d","event_time":%d,"card_id":"c%d","merchant_id":"m","amount_minor":1,"currency":"EUR"}\n'
        path.write_text("".join(line % (number, at, number % 977) for number, at in enumerate(times.tolist())))
        kafka = KafkaSettings(brokers=stack.kafka.bootstrap)
        sink = _Stamped(kafka, names.topics["payments"], None, keep_timestamps=False, is_paced=True)
        sink.moments = []
        done = Replay(FileFeed(path, None, max_payment_bytes=65_536), sink, speed=1.0).run()
    sent = np.diff(np.array(sink.moments)) * 1_000
    error = np.abs(sent - np.diff(times))
    late = done.late_p99_ms
    return {
        "p50_ms": float(np.median(error)),
        "p99_ms": float(np.quantile(error, 0.99)),
        "max_ms": float(error.max()),
        "late_p99_ms": -1.0 if late is None else late,
    }


def ratios(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the rounds: backtest to the sum of its stages, a second variant, a second thread, two loops."""
    return {
        "to_stages": statistics.median(r["one"]["s"] / sum(each["s"] for each in r["alone"].values()) for r in rounds),
        "second_variant": statistics.median(r["two"]["s"] / r["one"]["s"] - 1 for r in rounds),
        "second_thread": statistics.median(r["one"]["s"] / r["two_threads"]["s"] for r in rounds),
        "two_loops": statistics.median(r["loops"] for r in rounds),
    }


if __name__ == "__main__":
    what, payments, labels, bundle, threads, variants = sys.argv[1:]
    print(json.dumps(_stage(what, Path(payments), Path(labels), bundle, int(threads), int(variants))))
