"""What a model costs: scoring, the policy, reasons, and what decisions wait for while a promotion is taken.

All lines take turns in each round. No Kafka and no Redis: features are computed from logs in memory.
"""

from __future__ import annotations

import gc
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xgboost

from bench.loadgen import read_payments
from bench.prepare import MAX_FUTURE_MS, MAX_PAYMENT_BYTES, Prepared, as_partitioned_messages
from consumer.decode import Decoder, Message
from consumer.drift import Drift
from consumer.edge import StreamPublisher, TrustedState
from consumer.judge import Surroundings
from consumer.model_loader import ModelLoader
from consumer.pipeline import Pipeline
from consumer.settings import ModelSettings, Settings
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.event import PaymentBatch
from features.store import MemoryStore, Span
from models.bundle import Bundle, load
from models.bundle_writer import Recipe, write
from models.drift import reference
from models.explain import Explainer
from models.facts import fields_of
from models.policy import Policy, Rule
from models.registry import Registry
from models.score import Scorer

ROWS: Final = (1, 128, 1_024)
BATCH: Final = 128
ALERTS: Final = 16
RULES: Final = 20
TOPIC: Final = "payments"
SWAP_BATCH: Final = 16
SWAP_EVERY_S: Final = 0.02
SWAP_S: Final = 12.0

Values = npt.NDArray[np.float32]


def measure(prepared: Prepared, *, rounds: int, quick: bool) -> dict[str, Any]:
    """All of it, on the prepared bundle and payments."""
    calls = 100 if quick else 1_000
    bundle = load(prepared.bundle, DEFAULT)
    batch, values = _features(prepared, 4_096)
    engines = _engines(bundle)
    rows = {
        (name, size): [_times(score, values, size, max(20, calls // size**0.5)) for _ in range(rounds)]
        for size in ROWS
        for name, score in engines.items()
    }
    scores = engines["Fraudline on XGBoost"](values)
    compiled = engines["Fraudline, compiled"](values)
    return {
        "scoring": [{"engine": name, "rows": size, "rounds": found} for (name, size), found in rows.items()],
        "largest_difference": float(np.abs(scores - compiled).max()),
        "policy": _policy(bundle, batch, values, scores, rounds, calls),
        "reasons": _reasons(bundle, values, scores, rounds, max(5, calls // 20)),
        "drift": _drift(bundle, values, scores, rounds, calls),
        "swap": _swap(prepared, 3.0 if quick else SWAP_S),
    }


def _engines(bundle: Bundle) -> dict[str, Callable[[Values], Values]]:
    """What people write by hand, as XGBoost's own documents advise for small batches, and ours."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(bundle.model))
    booster.set_param({"nthread": 1})
    plain, compiled = Scorer(bundle), Scorer(bundle, compiled=True)
    names = list(bundle.manifest.features)
    found: dict[str, Callable[[Values], Values]] = {
        "by hand, DMatrix": lambda some: booster.predict(xgboost.DMatrix(some, feature_names=names, nthread=1)),
        "by hand, inplace_predict": lambda some: booster.inplace_predict(some, validate_features=False),
        "Fraudline on XGBoost": plain.score,
        "Fraudline, compiled": compiled.score,
    }
    for score in found.values():
        score(np.zeros((BATCH, len(names)), np.float32))
    return found


def _features(prepared: Prepared, count: int) -> tuple[PaymentBatch, Values]:
    """Payments, decoded, and their features."""
    decoder = Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS)
    messages = _messages(prepared, count)
    store = MemoryStore()
    store.adopt({(TOPIC, 0): 0})
    enricher = Enricher(DEFAULT, store)
    epochs = [position.epoch for position in store.positions()]
    batch = decoder.decode(messages).batch
    enriched = enricher.enrich(batch, (Span(TOPIC, 0, 0, len(messages), 0),), epochs)
    return batch, np.ascontiguousarray(enriched.values)


def _messages(prepared: Prepared, count: int) -> list[Message]:
    """The newest payments of the history's beginning, one after the other in one partition."""
    found = as_partitioned_messages(read_payments(prepared.payments, count), TOPIC, round(time.time() * 1_000))
    return [
        type(message)(
            topic=TOPIC, partition=0, offset=place, key=message.key(), value=message.value(),
            timestamp=message.timestamp(),
        )
        for place, message in enumerate(found)
    ]  # fmt: skip


def _times(score: Callable[[Values], Any], values: Values, size: int, calls: float) -> dict[str, float]:
    """Microseconds of a call: percentiles, and the median of a row."""
    parts = [np.ascontiguousarray(values[at : at + size]) for at in range(0, len(values) - size + 1, size)][:256]
    spent = []
    gc.collect()
    for call in range(int(calls)):
        part = parts[call % len(parts)]
        begun = time.perf_counter_ns()
        score(part)
        spent.append((time.perf_counter_ns() - begun) / 1_000)
    p50, p99 = np.quantile(spent, (0.5, 0.99)).tolist()
    return {"p50_us": p50, "p99_us": p99, "max_us": max(spent), "row_us": p50 / size}


def _policy(
    bundle: Bundle, batch: PaymentBatch, values: Values, scores: Values, rounds: int, calls: int
) -> list[dict[str, float]]:
    """Twenty rules over fields and features, on batches of 128."""
    rules = tuple(
        Rule(
            f"rule_{number}",
            f"amount_minor >= {100_000 + number} and card_count_1h > {3 + number % 5} and channel = 'ecom'"
            if number % 2
            else f"score > 0.{10 + number} and (merchant_count_24h between 1 and {number + 1} or mcc is null)",
            "review",
            "A rule.",
        )
        for number in range(RULES)
    )
    policy = Policy(DEFAULT.flags, bundle.policy.thresholds, rules)
    parts = [
        (batch.payments[at : at + BATCH], np.ascontiguousarray(values[at : at + BATCH]), scores[at : at + BATCH],
         batch.event_time[at : at + BATCH])
        for at in range(0, len(values), BATCH)
    ]  # fmt: skip
    found = []
    for _ in range(rounds):
        spent = []
        for call in range(max(20, calls // 4)):
            payments, some, told, times = parts[call % len(parts)]
            begun = time.perf_counter_ns()
            policy.decide(told, some, "full", fields=fields_of(payments), event_time=times)
            spent.append((time.perf_counter_ns() - begun) / 1_000 / BATCH)
        found.append({"payment_us": float(np.median(spent)), "max_us": max(spent)})
    return found


def _reasons(bundle: Bundle, values: Values, scores: Values, rounds: int, calls: int) -> list[dict[str, float]]:
    """Reasons for the 16 highest scores at once, and one by one as people write it."""
    explainer = Explainer(bundle)
    explainer.warm_up()
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(bundle.model))
    alerts = np.ascontiguousarray(values[np.argsort(-scores)[:ALERTS]])
    names = list(bundle.manifest.features)
    currencies = ["EUR"] * ALERTS
    found = []
    for _ in range(rounds):
        ours, theirs = [], []
        for _ in range(calls):
            begun = time.perf_counter()
            explainer.explain(alerts, "full", currencies=currencies)
            ours.append((time.perf_counter() - begun) * 1_000)
            begun = time.perf_counter()
            for row in alerts:
                booster.predict(xgboost.DMatrix(row[None, :], feature_names=names, nthread=1), pred_contribs=True)
            theirs.append((time.perf_counter() - begun) * 1_000)
        found.append({"batch_ms": float(np.median(ours)), "max_ms": max(ours), "by_hand_ms": float(np.median(theirs))})
    return found


def _drift(bundle: Bundle, values: Values, scores: Values, rounds: int, calls: int) -> list[float]:
    """Microseconds a payment of counting all features, in batches of 128."""
    known = reference(DEFAULT.only(bundle.manifest.features).features, values, scores)
    drift = Drift(bundle.digest, known, bundle.manifest.features, time.time)
    some, told = np.ascontiguousarray(values[:BATCH]), np.ascontiguousarray(scores[:BATCH])
    drift.count(told, some)
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(calls // 4):
            drift.count(told, some)
        found.append((time.perf_counter() - begun) / (calls // 4) / BATCH * 1e6)
    return found


def _swap(prepared: Prepared, seconds: float) -> dict[str, Any]:
    """A small batch every 20 ms through a whole pipeline, while another bundle is promoted, and without that."""
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(folder)
        first = load(prepared.bundle, DEFAULT)
        second = _again(first, Path(folder) / "second")
        registry.promote(prepared.bundle, "champion", DEFAULT)
        quiet = _paced(prepared, folder, seconds, lambda: None)
        busy = _paced(prepared, folder, seconds, lambda: registry.promote(second, "champion", DEFAULT))
    return {"seconds": seconds, "batch": SWAP_BATCH, "every_ms": SWAP_EVERY_S * 1_000, "quiet": quiet, "swap": busy}


def _again(bundle: Bundle, path: Path) -> Path:
    """The same models as another version."""
    manifest = bundle.manifest
    recipe = Recipe(
        name=manifest.name,
        version=f"{manifest.version}-again",
        created_ms=manifest.created_ms,
        model=bundle.model,
        no_features=bundle.no_features,
        policy=bundle.policy,
        golden_rows=np.zeros((4, len(manifest.features)), np.float32),
        window=(manifest.training_window.first_ms, manifest.training_window.last_ms),
        metrics={},
    )
    return write(path, recipe, DEFAULT).path


def _paced(prepared: Prepared, registry: str, seconds: float, promote: Callable[[], object]) -> dict[str, Any]:
    """How long batches took from when they were due, and when the new model decided."""
    settings = Settings(model=ModelSettings(registry=registry, poll_s=0.2))
    telemetry, store = Telemetry(), MemoryStore()
    loader = ModelLoader(settings, DEFAULT, telemetry)
    store.adopt({(TOPIC, 0): 0})
    enricher = Enricher(DEFAULT, store)
    pipeline = Pipeline(
        decoder=Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS),
        enricher=enricher,
        state=TrustedState(enricher, store),
        line_up=loader.current,
        around=Surroundings(settings.topics),
        publisher=StreamPublisher(settings.topics.decisions, settings.topics.dead_letters, io.BytesIO(), io.BytesIO()),
        telemetry=telemetry,
        budget_ms=settings.processing.budget_ms,
        pause_on_outage=False,
    )
    count = int(seconds / SWAP_EVERY_S)
    messages = _messages(prepared, (count + 50) * SWAP_BATCH)
    began_with = loader.current().champion.reference.digest
    took, swapped_s = [], None
    with _following(loader):
        due = time.perf_counter()
        for number in range(-50, count):
            at = (number + 50) * SWAP_BATCH
            due = max(due + SWAP_EVERY_S, time.perf_counter() - SWAP_EVERY_S)
            time.sleep(max(0.0, due - time.perf_counter()))
            pipeline.process(messages[at : at + SWAP_BATCH], (Span(TOPIC, 0, at, at + SWAP_BATCH, at),))
            if number == count // 4:
                promote()
                due = time.perf_counter()  # the promotion itself is another process's work
            elif number >= 0:
                took.append((time.perf_counter() - due) * 1_000)
            if swapped_s is None and pipeline.line_up.champion.reference.digest != began_with:
                swapped_s = (number - count // 4) * SWAP_EVERY_S
    p50, p99 = np.quantile(took, (0.5, 0.99)).tolist()
    return {"p50_ms": p50, "p99_ms": p99, "max_ms": max(took), "batches": len(took), "swapped_s": swapped_s}


@contextmanager
def _following(loader: ModelLoader) -> Iterator[None]:
    loader.start()
    try:
        yield
    finally:
        loader.stop()
