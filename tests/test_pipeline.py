"""The pipeline: one outcome for every record, the tier that can be had, and numbers that agree with what left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from consumer.decode import Decoder
from consumer.explaining import Explain
from consumer.judge import Brain, LineUp, Model, Surroundings
from consumer.metrics import DECISIONS_MADE
from consumer.pipeline import STORE_SHARE, Begun, Pipeline
from consumer.publish import Decided
from consumer.records import Alert, Decision, Digests, JournalEntry, ModelRef, Source
from consumer.settings import TopicSettings
from consumer.telemetry import Telemetry
from features.catalog import DEFAULT, Catalog
from features.enrich import Enriched, Enricher, Sent
from features.errors import InputUnusable, StoreUnavailable, TransactionAborted
from features.event import LabelBatch, PaymentBatch
from features.reader import Values
from features.store import Applied, MemoryStore, Span
from models.explain import Explainer, Reason
from models.policy import Policy, Rule, Thresholds, Tier
from models.score import ConstantScorer, Scorer, Scores, Scoring, ScoringFailed
from tests.poison import POISON, VALID, Record, payment
from tests.support.bundles import make_bundle
from tests.support.doubles import ListPublisher

TOPICS = TopicSettings()
NOW_MS = 1_700_000_000_500
BUDGET_MS = 20_000  # a busy machine does not pass it: time is judged elsewhere
REASON = Reason("amount_minor", 1_250.0, 0.5)
RULE = Rule("large_amount", "amount_minor >= 90000", "review", "A large amount.")
POLICY = Policy(DEFAULT.flags, {"full": Thresholds(0.5, 0.9), "no_features": Thresholds(0.2)}, (RULE,))


@dataclass(slots=True)
class Switch:
    """State that answers while it is `up`; it keeps what it was asked."""

    enricher: Enricher
    epochs: list[int]
    up: bool = True
    patience_s: list[float] = field(default_factory=list)

    def send(self, batch: PaymentBatch, spans: tuple[Span, ...], labels: LabelBatch | None = None) -> Sent | None:
        return self.enricher.send(batch, spans, self.epochs, labels) if self.up else None

    def enrich(
        self,
        batch: PaymentBatch,
        spans: tuple[Span, ...],
        patience_s: float,
        labels: LabelBatch | None = None,
        sent: Sent | None = None,
    ) -> Enriched | None:
        self.patience_s.append(patience_s)
        if not self.up:
            return None
        return self.enricher.enrich(batch, spans, self.epochs, labels) if sent is None else self.enricher.receive(sent)


@dataclass(frozen=True, slots=True)
class Broken:
    """A `Scoring` whose device is gone."""

    has_small: bool = False
    device: str = "cpu"

    def score(self, values: Values) -> Scores:
        raise ScoringFailed("the device is gone")

    def score_small(self, values: Values) -> Scores:
        raise ScoringFailed("the device is gone")

    def score_payment_only(self, values: Values) -> Scores:
        raise ScoringFailed("the device is gone")

    def warm_up(self) -> None:
        raise ScoringFailed("the device is gone")


def model(
    version: str,
    scorer: Scoring,
    policy: Policy = POLICY,
    explain: Explain = lambda values, _tier, **_: [(REASON,)] * len(values),
    catalog: Catalog = DEFAULT,
) -> Model:
    reference = ModelRef("test", version, version.rjust(64, "0"))
    return Model(reference, Digests("0", "1", "2"), Brain(scorer, policy, explain), "cpu", catalog)


THREE = Span("payments", 0, 0, 3, 0)


@dataclass(slots=True)
class Rig:
    """A pipeline with its parts at hand. Time stands at `NOW_MS`, unless a test moves it."""

    scorer: Scoring = field(default_factory=ConstantScorer)
    policy: Policy = POLICY
    pause: bool = False
    most_rejected: int = 0
    explain: Explain = lambda values, _tier, **_: [(REASON,)] * len(values)
    publisher: ListPublisher = field(default_factory=ListPublisher)
    telemetry: Telemetry = field(default_factory=Telemetry)
    store: MemoryStore = field(default_factory=MemoryStore)
    steps: list[str] = field(default_factory=list)
    positions: dict[tuple[str, int], int] = field(default_factory=dict)
    next_offset: int = 0
    clock_s: float = NOW_MS / 1_000
    ticks_s: float = 0.0
    state: Switch = field(init=False)
    pipeline: Pipeline = field(init=False)
    line_up: LineUp = field(init=False)

    def __post_init__(self) -> None:
        self.line_up = LineUp(model("1", self.scorer, self.policy, self.explain))
        self.store.adopt({("payments", 0): 0, ("labels", 0): 0})
        enricher = Enricher(DEFAULT, self.store)
        self.state = Switch(enricher, [position.epoch for position in self.store.positions()])
        self.pipeline = Pipeline(
            decoder=Decoder(max_payment_bytes=65_536, max_future_ms=300_000, labels_topic=TOPICS.labels),
            enricher=enricher,
            state=self.state,
            line_up=lambda: self.line_up,
            around=Surroundings(TOPICS, clock=lambda: self.clock_s, ticks=lambda: self.ticks_s),
            publisher=self.publisher,
            telemetry=self.telemetry,
            budget_ms=BUDGET_MS,
            pause_on_outage=self.pause,
            positions=lambda: self.positions,
            max_rejected_in_a_row=self.most_rejected,
            step=self.steps.append,
        )

    def process(self, *values: bytes | None, age_ms: Sequence[int] | None = None, floor: int = 0) -> Decided:
        """The next records of partition 0, each `age_ms` old."""
        start = self.next_offset
        ages = [0] * len(values) if age_ms is None else age_ms
        records = [
            Record(value, at_offset=start + place, record_timestamp=(1, NOW_MS - age))
            for place, (value, age) in enumerate(zip(values, ages, strict=True))
        ]
        span = Span("payments", 0, start, start + len(records), floor)
        decided = self.pipeline.process(records, (span,))
        self.next_offset = span.end
        return decided

    @property
    def decisions(self) -> list[Decision]:
        return [msgspec.json.decode(value, type=Decision) for value in self.publisher.values(TOPICS.decisions)]

    @property
    def alerts(self) -> list[Alert]:
        return [msgspec.json.decode(value, type=Alert) for value in self.publisher.values(TOPICS.alerts)]

    @property
    def journal(self) -> list[JournalEntry]:
        return [msgspec.json.decode(value, type=JournalEntry) for value in self.publisher.values(TOPICS.journal)]

    def count(self, name: str, **labels: str) -> float:
        return self.telemetry.registry.get_sample_value(name, labels) or 0.0

    @property
    def decided(self) -> float:
        """All decisions that telemetry counted."""
        return sum(
            sample.value
            for family in self.telemetry.registry.collect()
            for sample in family.samples
            if sample.name == DECISIONS_MADE.name
        )


def events(count: int, first: int = 0, **changes: Any) -> list[bytes]:
    return [payment(event_id=f"evt-{number}", **changes) for number in range(first, first + count)]


def test_every_record_has_exactly_one_outcome() -> None:
    rig = Rig()
    poison = [each.value for each in POISON]
    good = events(20)
    mixed = [value for pair in zip(good, poison[:20], strict=True) for value in pair] + poison[20:] + [good[3], good[3]]
    rig.process(*mixed)
    assert [decision.event_id for decision in rig.decisions] == [f"evt-{number}" for number in range(20)]
    assert sorted(rig.publisher.values(TOPICS.dead_letters)) == sorted(value or b"" for value in poison)
    assert rig.count("fraudline_payments_total") == len(mixed)
    assert rig.count("fraudline_duplicates_total") == 2
    assert rig.decided == 20
    rejected = sum(
        rig.count("fraudline_rejected_total", stage="decode", reason=reason)
        for reason in {each.reason for each in POISON}
    )
    assert rejected == len(poison)
    assert rig.decided + rejected + 2 == len(mixed)


def test_a_batch_is_published_and_committed_once_and_in_that_order() -> None:
    rig = Rig()
    rig.process(*events(3))
    assert rig.steps == ["after_apply"]
    assert rig.publisher.commits == [(Span("payments", 0, 0, 3, 0),)]
    assert rig.publisher.pending == []
    assert [(entry.offset, entry.count) for entry in rig.journal] == [(0, 3)]
    assert [decision.state and decision.state.sequence for decision in rig.decisions] == [0, 1, 2]


def test_a_repeated_event_id_gets_no_decision_and_is_counted() -> None:
    rig = Rig(ConstantScorer(full=0.95))
    rig.process(payment(), payment(), payment(event_id="evt-2"))
    rig.process(payment(), payment(event_id="evt-2"))
    assert [decision.event_id for decision in rig.decisions] == ["evt-1", "evt-2"]
    assert [alert.event_id for alert in rig.alerts] == ["evt-1", "evt-2"]
    assert rig.count("fraudline_duplicates_total") == 3
    assert rig.count("fraudline_payments_total") == 5
    assert rig.decided == 2


def test_a_payment_that_another_worker_has_committed_gets_no_decision() -> None:
    """This worker was away: the records lie below the floor, and their log no longer holds them."""
    rig = Rig(ConstantScorer(full=0.95))
    rig.store.adopt({("payments", 0): 5}, force=True)
    decided = rig.process(*events(5), floor=5)
    assert decided.enriched is not None
    assert decided.enriched.stale.all()
    assert (rig.decisions, rig.alerts, rig.journal) == ([], [], [])
    assert rig.count("fraudline_payments_total") == rig.count("fraudline_duplicates_total") == rig.decided == 0


def test_without_the_store_payments_are_decided_by_the_model_that_needs_none() -> None:
    rig = Rig(ConstantScorer(full=0.99, payment_only=0.3))
    rig.state.up = False
    rig.process(*events(2))
    assert [(d.tier, d.decision, d.state) for d in rig.decisions] == [("no_features", "review", None)] * 2
    assert [d.score for d in rig.decisions] == pytest.approx([0.3, 0.3])
    assert [(a.tier, a.feature_age_ms, a.reasons) for a in rig.alerts] == [("no_features", None, (REASON,))] * 2
    assert rig.journal == []
    assert rig.state.patience_s == [BUDGET_MS / 1_000 * STORE_SHARE]
    assert rig.count("fraudline_decisions_total", decision="review", tier="no_features") == 2


def test_without_the_store_and_with_pause_nothing_leaves() -> None:
    rig = Rig(pause=True)
    rig.state.up = False
    with pytest.raises(StoreUnavailable, match=r"store.outage is 'pause'"):
        rig.process(*events(2), b"not JSON")
    assert rig.publisher == ListPublisher()
    assert rig.steps == []
    assert rig.count("fraudline_payments_total") == 0
    rig.state.up = True
    rig.process(*events(2), b"not JSON")
    assert len(rig.decisions) == 2


def test_a_flood_of_bad_records_stops_at_a_limit_and_one_payment_ends_it() -> None:
    rig = Rig(most_rejected=10)
    bad = [b"no payment"] * 4
    rig.process(*bad, payment(event_id="evt-1"), *bad)
    for _ in range(2):
        rig.process(*bad, b"{}")
    for _ in range(2):  # nothing of it is published, and a repetition counts nothing twice
        published = len(rig.publisher.visible)
        with pytest.raises(InputUnusable, match=r"the last 11 records .* \(not_json 9, missing_field 2\)"):
            rig.process(b"no payment")
        assert len(rig.publisher.visible) == published
        assert not rig.publisher.pending
    rig.process(*bad, payment(event_id="evt-2"))
    for _ in range(2):
        rig.process(*bad, b"{}")
    assert len(rig.publisher.values(TOPICS.dead_letters)) == 8 + 10 + 4 + 10


def test_nothing_of_a_flood_moves_before_it_was_looked_at() -> None:
    """A decoder that is mended may find payments in it: then their place must not have been passed."""
    rig = Rig(most_rejected=2)
    begun = rig.pipeline.begin([Record(b"no payment", at_offset=n) for n in range(3)], (THREE,), ahead=True)
    with pytest.raises(InputUnusable):
        rig.pipeline.finish(begun)
    assert rig.store.positions()[0].markers["payments", 0] == 0


def test_a_batch_that_was_begun_ahead_is_decided_as_any_other() -> None:
    rig, usual = Rig(), Rig()
    records = [Record(payment(event_id=f"evt-{n}"), at_offset=n) for n in range(3)]
    begun = rig.pipeline.begin(records, (THREE,), ahead=True)
    assert rig.steps == ["after_send"]
    assert rig.store.positions()[0].markers["payments", 0] == 3
    assert not rig.publisher.visible
    rig.positions["payments", 1] = 5
    decided = rig.pipeline.finish(begun, lambda: rig.positions.update({("payments", 1): 9}))
    assert decided.state_offsets == (Source("payments", 1, 5), Source("payments", 0, 3))  # as it was for its features
    usual.process(*(payment(event_id=f"evt-{n}") for n in range(3)))
    assert [d.score for d in rig.decisions] == [d.score for d in usual.decisions]
    assert [d.event_id for d in rig.decisions] == [d.event_id for d in usual.decisions]


def test_what_fails_meanwhile_leaves_nothing_published() -> None:
    rig = Rig()
    begun = rig.pipeline.begin([Record(payment(), at_offset=n) for n in range(3)], (THREE,))

    def fail() -> None:
        raise TransactionAborted("taken away")

    with pytest.raises(TransactionAborted):
        rig.pipeline.finish(begun, fail)
    assert not rig.publisher.visible
    assert not rig.publisher.pending


@dataclass(slots=True)
class Committing(ListPublisher):
    """Commits once it is `due`, or fails with `error`."""

    due: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None

    def commit(self, spans: Sequence[Span]) -> None:
        assert self.due.wait(30)
        if self.error is not None:
            raise self.error
        ListPublisher.commit(self, spans)


def two_batches(publisher: Committing) -> tuple[Rig, Begun, Callable[[], Begun]]:
    """A batch, and what begins with the next one; the publisher may commit when the store is asked for its answer."""
    rig = Rig(publisher=publisher)
    first, second = (
        [Record(payment(event_id=f"evt-{n}"), at_offset=n) for n in three] for three in ((0, 1, 2), (3, 4, 5))
    )

    def next_one() -> Begun:
        begun = rig.pipeline.begin(second, (Span("payments", 0, 3, 6, 0),), ahead=True)
        assert begun.sent is not None
        reply = begun.sent.reply

        def answer() -> list[Applied]:
            publisher.due.set()
            return reply()

        begun.sent.reply = answer
        return begun

    return rig, rig.pipeline.begin(first, (THREE,)), next_one


def test_the_answer_for_the_next_batch_is_taken_while_one_is_committed() -> None:
    rig, begun, next_one = two_batches(Committing())
    ahead: list[Begun] = []

    def meanwhile() -> Begun:
        ahead.append(next_one())
        return ahead[0]

    rig.pipeline.finish(begun, meanwhile)
    assert [d.event_id for d in rig.decisions] == ["evt-0", "evt-1", "evt-2"]
    rig.pipeline.finish(ahead[0])
    assert [d.event_id for d in rig.decisions] == [f"evt-{n}" for n in range(6)]


@pytest.mark.parametrize("answers", [True, False])
def test_a_batch_whose_commit_fails_beside_the_next_one_fails_as_any_other(answers: bool) -> None:
    publisher = Committing(error=TransactionAborted("taken away"))
    rig, begun, next_one = two_batches(publisher)

    def meanwhile() -> Begun:
        ahead = next_one()
        assert ahead.sent is not None
        if not answers:
            reply = ahead.sent.reply

            def lose() -> list[Applied]:
                reply()
                raise StoreUnavailable("the answer was lost")

            ahead.sent.reply = lose
        return ahead

    with pytest.raises(TransactionAborted):
        rig.pipeline.finish(begun, meanwhile)
    assert not rig.publisher.visible
    assert rig.count("fraudline_payments_total") == 0


def test_what_is_wrong_with_the_next_batch_is_not_hidden_by_a_commit_that_fails() -> None:
    rig, begun, next_one = two_batches(Committing(error=TransactionAborted("taken away")))

    def meanwhile() -> Begun:
        ahead = next_one()
        assert ahead.sent is not None
        reply = ahead.sent.reply

        def lie() -> list[Applied]:
            reply()
            raise ZeroDivisionError

        ahead.sent.reply = lie
        return ahead

    with pytest.raises(ZeroDivisionError):
        rig.pipeline.finish(begun, meanwhile)
    assert not rig.publisher.visible


def test_what_is_done_beside_a_commit_is_no_part_of_it() -> None:
    """It is told as what it is: the next batch's wait for the store."""
    rig, begun, next_one = two_batches(Committing())
    held: list[Begun] = []
    began_s = time.perf_counter()

    def meanwhile() -> Begun:
        ahead = next_one()
        assert ahead.sent is not None
        reply = ahead.sent.reply

        def slowly() -> list[Applied]:
            """Takes as long as all until the commit's end, and longer."""
            applied = reply()
            while not rig.publisher.commits:
                time.sleep(0.001)
            enough_s = 2 * (time.perf_counter() - began_s) + 0.01
            while time.perf_counter() - began_s < enough_s:
                time.sleep(0.001)
            return applied

        ahead.sent.reply = slowly
        held.append(ahead)
        return ahead

    decided = rig.pipeline.finish(begun, meanwhile)
    assert decided.stage_ms["commit"] < rig.pipeline.finish(held[0]).stage_ms["enrich"]


def test_without_a_limit_a_flood_of_bad_records_goes_on() -> None:
    rig = Rig()
    for _ in range(30):
        rig.process(*[b"no payment"] * 1_000)
    assert rig.count("fraudline_payments_total") == 30_000


@pytest.mark.parametrize("up", [True, False])
def test_without_a_model_the_rules_decide_and_say_so(up: bool) -> None:
    rig = Rig(Broken())
    rig.state.up = up
    rig.process(payment(), payment(event_id="evt-2", amount_minor=90_000))
    assert [(d.tier, d.score, d.decision) for d in rig.decisions] == [
        ("rules_only", None, "approve"),
        ("rules_only", None, "review"),
    ]
    assert all(d.inputs.review_threshold is d.inputs.block_threshold is None for d in rig.decisions)
    (alert,) = rig.alerts
    assert (alert.event_id, alert.rules, alert.reasons, alert.score) == ("evt-2", ("large_amount",), (), None)
    assert rig.count("fraudline_decisions_total", decision="review", tier="rules_only") == 1


@pytest.mark.parametrize("impossible", [np.nan, np.inf, -np.inf, 1.5, -0.25])
@pytest.mark.parametrize("up", [True, False])
def test_a_score_that_is_no_probability_decides_nothing(impossible: float, up: bool) -> None:
    """A model that gives one is as good as none: the rules decide the whole batch."""
    rig = Rig(ConstantScorer(full=impossible, payment_only=impossible))
    rig.state.up = up
    rig.process(*events(3, amount_minor=90_000))
    assert [(d.tier, d.score, d.decision) for d in rig.decisions] == [("rules_only", None, "review")] * 3
    assert b"NaN" not in b"".join(record.value or b"" for record in rig.publisher.visible)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_the_ends_of_the_scale_are_scores(score: float) -> None:
    rig = Rig(ConstantScorer(full=score))
    rig.process(payment())
    assert [(d.tier, d.score) for d in rig.decisions] == [("full", score)]


def test_only_what_is_not_approved_is_alerted_with_reasons_and_rules() -> None:
    rig = Rig(ConstantScorer(full=0.1))
    rig.process(*events(2), payment(event_id="evt-9", amount_minor=95_000, device_id="dev-1", account_id="acc-1"))
    assert [d.decision for d in rig.decisions] == ["approve", "approve", "review"]
    (alert,) = rig.alerts
    assert (alert.event_id, alert.decision, alert.amount_minor) == ("evt-9", "review", 95_000)
    assert (alert.reasons, alert.rules) == ((REASON,), ("large_amount",))
    assert (alert.device_id, alert.account_id, alert.source.offset) == ("dev-1", "acc-1", 2)
    assert rig.count("fraudline_alerts_total") == 1


def test_nothing_is_explained_for_those_who_are_approved() -> None:
    asked: list[int] = []

    def explain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
        assert len(currencies) == len(values)
        asked.append(len(values))
        return [(REASON,)] * len(values)

    rig = Rig(ConstantScorer(full=0.1), explain=explain)
    rig.process(*events(5))
    assert asked == []
    rig.process(payment(event_id="evt-8", amount_minor=90_000), payment(event_id="evt-9"))
    assert asked == [1]


def test_a_real_model_decides_and_explains_in_both_tiers(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", rules=())
    scorer, explainer = Scorer(bundle), Explainer(bundle)
    rig = Rig(scorer, bundle.policy, explain=explainer.explain)
    decided = rig.process(*events(40, amount_minor=100_000), *events(10, 40, amount_minor=7))
    assert decided.enriched is not None
    assert [d.score for d in rig.decisions] == pytest.approx(scorer.score(decided.enriched.values).tolist())
    assert rig.alerts
    assert all(alert.reasons for alert in rig.alerts)
    assert {a.event_id for a in rig.alerts} == {d.event_id for d in rig.decisions if d.decision != "approve"}
    rig.state.up = False
    rig.process(*events(2, 100, amount_minor=100_000))
    assert [d.tier for d in rig.decisions[-2:]] == ["no_features"] * 2
    payment_features = {DEFAULT.names[column] for column in DEFAULT.payment_columns}
    assert {r.feature for a in rig.alerts if a.tier == "no_features" for r in a.reasons} <= payment_features


def test_the_budget_runs_from_the_kafka_timestamp() -> None:
    """A payment that was over budget when read gets the full path, and is counted late."""
    rig = Rig(ConstantScorer(full=0.95))
    ages_ms = [0, 200, BUDGET_MS, BUDGET_MS + 1, 3 * BUDGET_MS]
    rig.process(*events(5), age_ms=ages_ms)
    assert {d.tier for d in rig.decisions} == {"full"}
    assert rig.count("fraudline_late_total") == 2
    assert rig.count("fraudline_end_to_end_seconds_count") == 5
    assert rig.count("fraudline_end_to_end_seconds_bucket", le="0.2") == 2
    assert rig.count("fraudline_end_to_end_seconds_sum") == pytest.approx(sum(ages_ms) / 1_000)
    assert [alert.stage_ms.queued for alert in rig.alerts] == ages_ms
    assert rig.count("fraudline_lag_seconds") == 0


def test_repeated_and_rejected_records_have_no_latency() -> None:
    rig = Rig()
    rig.process(payment(), payment(), b"not JSON", age_ms=[0, 9_000, 9_000])
    assert rig.count("fraudline_end_to_end_seconds_count") == 1
    assert rig.count("fraudline_late_total") == 0


@pytest.mark.parametrize("up", [True, False])
def test_a_batch_of_rejected_records_only_still_moves_on(up: bool) -> None:
    rig = Rig()
    rig.state.up = up
    rig.process(b"not JSON", None, b"{}")
    assert rig.publisher.commits == [(Span("payments", 0, 0, 3, 0),)]
    assert rig.store.positions()[0].markers == {("payments", 0): 3 if up else 0, ("labels", 0): 0}
    assert len(rig.publisher.values(TOPICS.dead_letters)) == 3
    assert rig.decisions == []
    assert [(entry.offset, entry.count) for entry in rig.journal] == ([(0, 3)] if up else [])
    assert rig.count("fraudline_batch_size_sum") == rig.count("fraudline_payments_total") == 3
    assert rig.decided == 0


def test_stage_seconds_have_one_observation_a_batch() -> None:
    rig = Rig()
    rig.process(*events(3))
    rig.process(b"not JSON")
    for stage in ("decode", "enrich", "score", "decide", "publish", "commit"):
        assert rig.count("fraudline_stage_seconds_count", stage=stage) == 2


def label(verdict: str = "fraud", **fields: object) -> bytes:
    known = {"event_id": "evt-1", "card_id": VALID["card_id"], "merchant_id": VALID["merchant_id"]}
    times = {"event_time": NOW_MS - 3_600_000, "labelled_at": NOW_MS - 60_000}
    return msgspec.json.encode(known | times | {"label": verdict, "source": "issuer"} | fields)


def with_labels(rig: Rig, labels: Sequence[bytes], payments: Sequence[bytes]) -> Decided:
    """One batch of both topics, the payments first as they come; partition 0 of each is read from its start."""
    records = [Record(value, at_offset=i, record_timestamp=(1, NOW_MS)) for i, value in enumerate(payments)]
    records += [
        Record(value, at_offset=i, record_timestamp=(1, NOW_MS), of_topic="labels") for i, value in enumerate(labels)
    ]
    spans = (Span("labels", 0, 0, len(labels), 0, labels=True), Span("payments", 0, 0, len(payments), 0))
    return rig.pipeline.process(records, spans)


def test_a_label_counts_for_the_payments_of_its_own_batch() -> None:
    rig = Rig()
    decided = with_labels(rig, [label(), label("genuine", event_id="evt-2"), b"?"], [payment(event_time=NOW_MS)])
    column = DEFAULT.names.index("card_frauds_30d")
    assert decided.enriched is not None
    assert decided.enriched.values[:, column].tolist() == [1.0]
    assert len(rig.decisions) == 1
    assert rig.count("fraudline_labels_total", label="fraud", source="issuer") == 1
    assert rig.count("fraudline_labels_total", label="genuine", source="issuer") == 1
    assert rig.count("fraudline_rejected_total", stage="decode", reason="not_json") == 1
    assert rig.count("fraudline_payments_total") == 1, "a rejected label is no payment"
    assert [(entry.topic, entry.sequence, entry.count) for entry in rig.journal] == [
        ("labels", 0, 3),
        ("payments", 3, 1),
    ]


def test_an_alert_tells_the_state_it_was_given_in() -> None:
    rig = Rig(scorer=ConstantScorer(0.95))
    with_labels(rig, [label()], [payment(event_time=NOW_MS)])
    (alert,), (decision,) = rig.alerts, rig.decisions
    assert alert.state == decision.state
    assert {(s.topic, s.partition): s.offset for s in alert.state_offsets} == {("labels", 0): 1, ("payments", 0): 1}
    rig.positions |= {("labels", 0): 1, ("payments", 0): 1, ("payments", 3): 9}  # one that is quiet, too
    rig.next_offset = 1
    rig.process(payment(event_id="evt-9", event_time=NOW_MS))
    told = {(s.topic, s.partition): s.offset for s in rig.alerts[1].state_offsets}
    assert told == {("labels", 0): 1, ("payments", 0): 2, ("payments", 3): 9}


def test_clocks_and_ages_are_exported() -> None:
    rig = Rig()
    rig.process(payment(event_time=NOW_MS + 2_000), payment(event_id="evt-2", event_time=NOW_MS - 5_000))
    assert rig.count("fraudline_clock_skew_seconds", partition="0") == 2.0
    rig.process(payment(event_id="evt-3", event_time=NOW_MS - 6_000))
    assert rig.count("fraudline_clock_skew_seconds", partition="0") == 1.0, "a weight of 1/8: 2 + (-6 - 2) / 8"
    assert rig.count("fraudline_feature_age_seconds_count") == 0, "the others happened later than each of them"
    rig.process(payment(event_id="evt-4", event_time=NOW_MS + 2_500), age_ms=[500])
    assert rig.count("fraudline_feature_age_seconds_sum") == 0.5


def test_the_state_is_as_old_as_the_newest_payment_in_it() -> None:
    rig = Rig()
    rig.process(payment(event_time=NOW_MS), age_ms=[500])
    assert rig.count("fraudline_state_age_seconds") == 0.5
    rig.process(payment(event_id="evt-2", event_time=NOW_MS), age_ms=[900])
    assert rig.count("fraudline_state_age_seconds") == 0.5
    rig.state.up = False
    rig.process(payment(event_id="evt-3", event_time=NOW_MS))
    assert rig.count("fraudline_state_age_seconds") == 0.5, "decided without the state, so not in it"


def test_a_payment_older_than_every_window_is_scored_and_counted() -> None:
    rig = Rig()
    rig.process(payment(event_time=NOW_MS - 38 * 86_400_000), payment(event_id="evt-2", event_time=NOW_MS))
    assert (rig.count("fraudline_too_late_total"), len(rig.decisions)) == (1, 2)
