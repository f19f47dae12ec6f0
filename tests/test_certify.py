"""`fraudline certify`: equal after crashes, regressions, late events, duplicates, labels and new models; else not."""

from __future__ import annotations

import copy
import functools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from consumer.certificate.certify import Asked, Certification
from consumer.certificate.outcome import Certificate
from consumer.certificate.refused import Refused, read_refused
from consumer.cli import exit_status
from consumer.lines import Line
from consumer.records import alert_id
from consumer.streams import FileStream
from features.catalog import DEFAULT
from features.enrich import Enricher
from features.errors import BundleError, ConfigError
from features.store import MemoryStore
from models.bundle import load
from models.bundle_writer import write_with_policy
from models.lists import ListEntry, Lists
from models.policy import Rule
from tests.faults.payments import PARTITIONS, history
from tests.mutants.state import WithoutLabels
from tests.support.bundles import make_bundle
from tests.support.doubles import LABELS, Flaky
from tests.support.world import TOPICS, World

RULES = (
    Rule("big", "amount_minor > 30000", "review", "A large amount."),
    Rule("fast", "card_count_1h >= 9", "block", "Many payments."),
    Rule("watched", "hour < 3", "review", "At night.", shadow=True),
)

LOAD = """
[limiter]
max_blocks_per_minute = 3
[alert_rate]
per_hour = 40
lowest = 0.05
highest = 0.7
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder / "one", rules=RULES, review=0.5, block=0.8, trees=60, noise=0.4)
    make_bundle(folder / "two", seed=5, review=0.4, rules=RULES[:1], version="2", trees=30, noise=0.4)
    return folder / "one", folder / "two"


@pytest.fixture(autouse=True, scope="module")
def _loaded_once() -> Iterator[None]:
    """A bundle is tried in a child process once, not for every certificate."""
    once = functools.cache(load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumer.certificate.certify.load", once)
        patch.setattr("consumer.model_loader.load", once)
        yield


def world(bundle: Path, count: int = 1_500, *, seed: int = 1, partitions: int = PARTITIONS, **options: Any) -> World:
    """A dense history: few cards and merchants, late payments, duplicates, labels, and records that are none."""
    records = history(count, seed)
    parts = [
        [each.value for each in records if not each.is_label and each.partition % partitions == number]
        for number in range(partitions)
    ]
    labels = [each.value for each in records if each.is_label]
    return World(bundle, parts, labels, **options)


def certified(made: World, folder: Path, *bundles: Path, **changes: Any) -> Certificate:
    topics = made.dump(folder)
    asked = Asked(
        decisions=FileStream(topics["decisions"], "decisions"),
        payments=FileStream(topics["payments"], "payments"),
        labels=FileStream(topics["labels"], "labels"),
        journal=FileStream(topics["journal"], "journal"),
        alerts=FileStream(topics["alerts"], "alerts"),
        bundles=bundles,
        registry=None,
        shards=made.store.shards,
        max_payment_bytes=65_536,
        max_future_ms=300_000,
    )
    return Certification(replace(asked, **changes), DEFAULT).run()


def equal(found: Certificate, made: World | None = None) -> None:
    assert found.verdict == "equal", json.dumps(found.document() | {"partitions": []})
    assert found.results["equal"] == found.decisions
    for each in found.partitions:
        assert each.published.hexdigest() == each.replayed.hexdigest()
        if made is not None:
            assert each.features.hexdigest() == made.features(each.partition)  # to the bit what the processor computed


def take(made: World, rng: random.Random, rounds: int, most: int = 20) -> None:
    for _ in range(rounds):
        made.process(labels=rng.randrange(6), **{f"p{n}": rng.randrange(most) for n in range(len(made.partitions))})


def go_back(made: World, to: MemoryStore) -> None:
    """As a server does that is started from an older file."""
    store = made.store
    assert isinstance(store, MemoryStore)
    store._shards = copy.deepcopy(to._shards)
    store.renew([shard.epoch for shard in store._shards])
    made.start()


def test_what_was_decided_in_any_batches_is_equal(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    made = world(bundles[0])
    take(made, random.Random(1), 30)
    made.drain()
    found = certified(made, tmp_path, bundles[0])
    equal(found, made)
    assert found.decisions == len(made.publisher.values("decisions"))
    assert found.payments["repeated"] > 0


def test_features_are_the_same_in_batches_of_one_and_of_a_hundred(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    """One partition and no labels: then batches change no order, and everything is the same to the byte."""
    digests = set()
    for batch in (1, 7, 100):
        made = world(bundles[0], 600, partitions=1)
        made.log.partitions["labels", 0].high = 0
        made.drain(batch)
        found = certified(made, tmp_path / str(batch), bundles[0], labels=None, journal=None, threads=2)
        equal(found, made)
        [each] = found.partitions
        digests.add((each.published.hexdigest(), each.features.hexdigest()))
    assert len(digests) == 1


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("step", ["after_apply", "before_commit", "after_commit"])
def test_crashes_change_nothing(bundles: tuple[Path, Path], tmp_path: Path, step: str, shards: int) -> None:
    made = world(bundles[0], store=MemoryStore(shards))
    rng = random.Random(2)
    for _ in range(6):
        take(made, rng, 3)
        made.kill_at(step, labels=3, p0=9, p1=5, p3=8)
    made.drain()
    found = certified(made, tmp_path, bundles[0])
    equal(found, made)
    assert (found.published_again > 0) == (step == "after_commit")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("published", [True, False])
def test_decisions_made_of_a_state_that_was_lost_are_equal_too(
    bundles: tuple[Path, Path], tmp_path: Path, shards: int, published: bool
) -> None:
    """The store goes back in time, twice: what was recorded since is recorded anew, in another order."""
    made = world(bundles[0], store=MemoryStore(shards))
    rng = random.Random(3)
    for _ in range(2):
        take(made, rng, 6)
        older = copy.deepcopy(made.store)
        assert isinstance(older, MemoryStore)
        take(made, rng, 5)
        if not published:
            made.kill_at("before_commit", labels=2, p0=5, p2=5)
        go_back(made, older)
    made.drain()
    found = certified(made, tmp_path, bundles[0])
    if shards == 1:
        equal(found, made)
    else:  # of payments that were recorded twice in another shard than the card's nobody can tell which counted
        assert found.verdict in {"equal", "unverifiable"}, found.differences
        assert found.results["equal"] > 0.7 * found.decisions
        assert set(found.unverifiable) <= {"order_not_published"}


def test_a_state_that_begins_late_is_no_gap(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    made = world(bundles[0])
    for held in made.log.partitions.values():
        held.committed = 20  # somebody else decided these
    made.store.adopt(dict.fromkeys(made.log.partitions, 20))
    made.drain()
    found = certified(made, tmp_path, bundles[0])
    equal(found, made)
    assert all(each.first >= 20 for each in found.partitions)
    assert not found.payments["unverifiable"]


def test_models_may_change_between_batches(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    made = world(bundles[0])
    rng = random.Random(4)
    for number in range(6):
        made.promote(bundles[number % 2])
        take(made, rng, 3)
    made.drain()
    found = certified(made, tmp_path, *bundles)
    equal(found, made)
    assert len(found.bundles) == 2
    lacking = certified(made, tmp_path, bundles[0])
    assert lacking.verdict == "unverifiable"
    assert set(lacking.unverifiable) == {"bundle_not_given"}
    assert 0 < lacking.results["equal"] < found.results["equal"]


def test_decisions_without_the_store_are_equal_and_what_was_caught_up_counts(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    store = Flaky()
    made = world(bundles[0], store=store)
    rng = random.Random(5)
    take(made, rng, 5)
    store.failures = 1_000
    take(made, rng, 5)
    store.failures = 0
    made.now_s += 100
    made.drain()
    found = certified(made, tmp_path, bundles[0])
    equal(found, made)
    tiers = [json.loads(value)["tier"] for value in made.publisher.values("decisions")]
    assert 0 < tiers.count("no_features") < len(tiers)


def test_what_depended_on_load_and_lists_is_taken_as_told(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text((bundles[0] / "policy.toml").read_text() + LOAD)
    bundle = tmp_path / "limited"
    write_with_policy(bundles[0], policy, bundle, DEFAULT)
    listed = [
        ListEntry("deny", "card", "card-3"),
        ListEntry("watch", "merchant", "merchant-1"),
        ListEntry("allow", "device", "device-2"),
    ]
    made = world(bundle, lists=Lists(listed, 7))
    rng = random.Random(6)
    for _ in range(30):
        take(made, rng, 1)
        made.now_s += 20
    made.drain()
    told = [json.loads(value) for value in made.publisher.values("decisions")]
    assert {"review", None} == {each["inputs"]["limiter"] for each in told}
    assert len({each["inputs"]["review_threshold"] for each in told}) > 1
    assert {"list_deny", "list_watch", "list_allow"} <= {rule for each in told for rule in each["rules"]}
    equal(certified(made, tmp_path, bundle))


Change = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(scope="module")
def dumped(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    """What a processor published of labels and two partitions."""
    made = world(bundles[0], 700, partitions=2)
    take(made, random.Random(7), 10)
    made.drain(20)
    return made, tmp_path_factory.mktemp("dumped")


def of_topic(folder: Path, name: str, change: Change) -> Path:
    """A copy of a dump in which something was changed."""
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    change(rows)
    copied = folder / "changed.jsonl"
    copied.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return copied


def _set(place: int, **fields: Any) -> Change:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[place] |= fields

    return change


def _drop(place: int) -> Change:
    return lambda rows: rows.__delitem__(place)


def _drop_approved(rows: list[dict[str, Any]]) -> None:
    rows.remove(next(row for row in rows[40:] if row["decision"] == "approve"))


def _nudge(rows: list[dict[str, Any]]) -> None:
    rows[40]["score"] = float(np.nextafter(np.float32(rows[40]["score"]), np.float32(1)))


def _alert_of_nobody(rows: list[dict[str, Any]]) -> None:
    rows.append(rows[3] | {"source": rows[3]["source"] | {"offset": 1}})


def _other_reason(rows: list[dict[str, Any]]) -> None:
    row = next(row for row in rows if row["reasons"])
    row["reasons"][0]["value"] = 12.5


def _without_reasons(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["reasons"] = []


def _limited(rows: list[dict[str, Any]]) -> None:
    rows[30]["inputs"]["limiter"] = "review"


def _other_digest(of: str) -> Change:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[40]["digests"][of] = "0" * 64

    return change


def _other_tier(rows: list[dict[str, Any]]) -> None:
    rows[40]["inputs"]["tier"] = "no_features"


def _block_limited(rows: list[dict[str, Any]]) -> None:
    row = next(row for row in rows if row["decision"] == "block")
    row["inputs"]["limiter"], row["decision"] = "review", "review"


def _twice(rows: list[dict[str, Any]]) -> None:
    rows.append(rows[4] | {"decision": "block" if rows[4]["decision"] == "review" else "review"})


def _bar(rows: list[dict[str, Any]]) -> None:
    rows[30]["inputs"]["review_threshold"] = 0.77


@pytest.mark.parametrize(
    ("topic", "change", "what"),
    [
        pytest.param("decisions", _nudge, {"score"}, id="the last bit of a score"),
        pytest.param("decisions", _set(40, rules=["fast", "never"]), {"rules"}, id="a rule"),
        pytest.param("decisions", _set(40, shadow_rules=["never"]), {"rules"}, id="a shadow rule"),
        pytest.param("decisions", _set(40, model="test@9"), {"model"}, id="the model's name"),
        pytest.param("decisions", _other_digest("policy"), {"model"}, id="the policy"),
        pytest.param("decisions", _other_digest("catalog"), {"model"}, id="the catalog"),
        pytest.param("decisions", _other_tier, {"tier"}, id="the tier that was asked for"),
        pytest.param("decisions", _block_limited, {"limiter"}, id="a block that no limiter could have held"),
        pytest.param("alerts", _twice, {"alert"}, id="a second alert, of another decision"),
        pytest.param("decisions", _set(40, card_id="card-99"), {"payment"}, id="whose payment it was"),
        pytest.param("decisions", _limited, {"limiter"}, id="a limiter that is not there"),
        pytest.param("decisions", _bar, {"thresholds"}, id="a threshold"),
        pytest.param("decisions", _drop_approved, {"undecided"}, id="a payment without decision"),
        pytest.param("alerts", _drop(4), {"alert"}, id="an alert that is missing"),
        pytest.param("alerts", _alert_of_nobody, {"alert"}, id="an alert that nothing asks for"),
        pytest.param("alerts", _set(4, alert_id="0" * 32), {"alert"}, id="an alert's id"),
        pytest.param("alerts", _other_reason, {"alert"}, id="a reason's value"),
        pytest.param("alerts", _without_reasons, set(), id="no time for reasons is no difference"),
    ],
)
def test_what_was_published_otherwise_is_found(
    bundles: tuple[Path, Path], dumped: tuple[World, Path], topic: str, change: Change, what: set[str]
) -> None:
    made, folder = dumped
    equal(certified(made, folder, bundles[0]))
    found = certified(made, folder, bundles[0], **{topic: FileStream(of_topic(folder, topic, change), topic)})
    assert set(found.differences) - {"decision"} == what | ({"alert"} & set(found.differences) if what else set()), (
        found.document()
    )
    assert found.verdict == ("different" if what else "equal")
    digests = [(each.published.hexdigest(), each.replayed.hexdigest()) for each in found.partitions]
    assert any(published != replayed for published, replayed in digests) == bool(what)
    if what:
        first = found.document()["first_difference"]
        assert first["what"] in found.differences
        assert first["published"] != first["replayed"] or topic == "alerts"


def test_the_other_decision_is_found_and_told(bundles: tuple[Path, Path], dumped: tuple[World, Path]) -> None:
    made, folder = dumped
    equal(certified(made, folder, bundles[0]))
    rows = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    place = next(number for number, row in enumerate(rows) if row["decision"] == "review")
    changed = of_topic(folder, "decisions", _set(place, decision="approve"))
    found = certified(made, folder, bundles[0], decisions=FileStream(changed, "decisions"), alerts=None)
    assert dict(found.differences) == {"decision": 1}
    [told] = found.examples
    row = rows[place]
    assert (told["partition"], told["offset"]) == (row["source"]["partition"], row["source"]["offset"])
    assert (told["event_id"], told["card_id"]) == (row["event_id"], row["card_id"])
    assert (told["published"]["decision"], told["replayed"]["decision"]) == ("approve", "review")
    assert told["replayed"]["score"] == told["published"]["score"] == row["score"]
    [one] = [each for each in found.partitions if each.partition == row["source"]["partition"]]
    assert one.published.hexdigest() != one.replayed.hexdigest()


def test_a_payment_that_was_decided_twice_by_its_event_is_found(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    topics = made.dump(folder)
    rows = [json.loads(line) for line in topics["decisions"].read_text().splitlines()]
    sources = {(row["source"]["partition"], row["source"]["offset"]) for row in rows}
    known = {row["event_id"]: row for row in rows}
    again = next(
        (row, json.loads(line["payload"]))
        for line in map(json.loads, topics["payments"].read_text().splitlines())
        if (line["partition"], line["offset"]) not in sources
        and (line["payload"] or "").startswith("{")
        and (row := known.get(json.loads(line["payload"]).get("event_id"))) is not None
        and (row := row | {"source": row["source"] | {"partition": line["partition"], "offset": line["offset"]}})
    )[0]
    journal = [json.loads(line) for line in topics["journal"].read_text().splitlines()]
    at = again["source"]
    run = next(
        each
        for each in journal
        if each["topic"] == "payments"
        and each["partition"] == at["partition"]
        and each["offset"] <= at["offset"] < each["offset"] + each["count"]
    )
    again["state"] = again["state"] | {"sequence": run["sequence"] + at["offset"] - run["offset"]}
    changed = of_topic(folder, "decisions", lambda some: some.append(again))
    found = certified(made, folder, bundles[0], decisions=FileStream(changed, "decisions"), alerts=None)
    assert found.differences["repeated"] == 1


def test_payments_and_labels_that_are_missing_or_other_make_a_difference(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    made.dump(folder)

    def dearer(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows[20:] if row["payload"] and '"amount_minor"' in row["payload"])
        row["payload"] = row["payload"].replace('"amount_minor": ', '"amount_minor": 7')

    def forgiving(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["payload"] = row["payload"] and row["payload"].replace('"fraud"', '"genuine"')

    for topic, change in (("payments", dearer), ("labels", forgiving)):
        stream = FileStream(of_topic(folder, topic, change), topic)
        found = certified(made, folder, bundles[0], **{topic: stream})
        assert found.verdict == "different"
        assert found.differences["score"] > 0


@pytest.mark.parametrize("enricher", [Enricher, WithoutLabels])
def test_a_replay_without_labels_tells_whether_they_were_used(
    bundles: tuple[Path, Path], tmp_path: Path, enricher: type[Enricher]
) -> None:
    """The journal does not: whoever forgets labels moves their marker all the same, and journals that."""
    made = world(bundles[0], 700, enricher=enricher)
    take(made, random.Random(1), 30)
    made.drain()
    stream = FileStream(made.dump(tmp_path)["labels"], "labels")
    entries = [json.loads(each) for each in made.publisher.values(TOPICS.journal)]
    assert any(each["topic"] == LABELS and each["count"] for each in entries)
    none = Refused()
    none.add_all(stream)
    with_labels, without = certified(made, tmp_path, bundles[0]), certified(made, tmp_path, bundles[0], refused=none)
    used, forgot = (with_labels, without) if enricher is Enricher else (without, with_labels)
    equal(used, made)
    assert forgot.verdict == "different"
    assert forgot.differences["score"] > 0
    assert forgot.results["unverifiable"] == 0


def test_records_that_were_refused_by_themselves_leave_no_number_in_doubt(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    """Who takes one record at a time has batches in which all is refused: else what came after a loss may be there."""
    made = world(bundles[0], 400)
    take(made, random.Random(6), 3)
    for _ in range(100):
        made.process(p1=1)
    made.store = MemoryStore()
    made.start()
    made.drain()
    equal(certified(made, tmp_path, bundles[0]), made)


def test_what_was_never_journaled_is_unverifiable_and_whom_it_may_touch(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    """A run in the middle is gone: its own payments, and later ones of the same cards, merchants, ... are in doubt."""
    made, folder = dumped
    made.dump(folder)
    gone: list[dict[str, Any]] = []

    def forget(rows: list[dict[str, Any]]) -> None:
        place = next(
            number
            for number in range(len(rows) // 2, len(rows))
            if rows[number]["topic"] == "payments" and rows[number]["count"] > 3
        )
        gone.append(rows.pop(place))

    stream = FileStream(of_topic(folder, "journal", forget), "journal")
    found = certified(made, folder, bundles[0], journal=stream)
    assert found.verdict == "unverifiable", found.document()
    assert set(found.unverifiable) == {"order_not_published"}
    journal = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    earlier = max(
        each["sequence"] + each["count"]
        for each in journal
        if (each["topic"], each["partition"]) == (gone[0]["topic"], gone[0]["partition"])
        and each["sequence"] < gone[0]["sequence"]
    )
    before = sum(
        row["state"]["sequence"] < earlier
        for row in map(json.loads, (folder / "decisions.jsonl").read_text().splitlines())
    )
    assert found.results["equal"] >= before > 0


def test_history_that_kafka_no_longer_has_makes_young_decisions_unverifiable(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    made.dump(folder)
    for topic in ("payments", "labels"):
        stream = FileStream(of_topic(folder, topic, lambda rows: rows.__delitem__(slice(0, 30))), topic)
        found = certified(made, folder, bundles[0], **{topic: stream})
        assert found.verdict == "unverifiable"
        assert found.results["equal"] <= 2  # payments of a far future
        assert (found.unverifiable["payment_not_read"] > 0) == (topic == "payments")
        assert found.unverifiable["history_incomplete"] > 0


def test_scores_of_another_device_may_differ_in_their_last_bits(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    """And where that flips a decision, it is told by itself."""
    made, folder = dumped
    made.dump(folder)
    rows = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    bar = np.float32(0.5)
    closest = min(
        (row for row in rows if row["decision"] == "review" and not row["rules"] and row["tier"] == "full"),
        key=lambda row: row["score"],
    )

    def elsewhere(some: list[dict[str, Any]]) -> None:
        for row in some:
            row["inputs"]["device"] = "cuda"
            row["score"] = float(np.float32(row["score"]) - np.float32(4e-6))

    stream = FileStream(of_topic(folder, "decisions", elsewhere), "decisions")
    found = certified(made, folder, bundles[0], decisions=stream)
    assert found.verdict == "equal", found.document()
    assert found.near > 0.9 * found.decisions
    far = certified(made, folder, bundles[0], decisions=stream, tolerance=1e-6)
    assert far.differences["score"] > 0.9 * found.decisions

    def flipped(some: list[dict[str, Any]]) -> None:
        for row in some:
            if row["event_id"] == closest["event_id"] and row["source"] == closest["source"]:
                row["score"] = float(np.nextafter(bar, np.float32(0)))
                row["decision"] = "approve"

    def without_its_alert(some: list[dict[str, Any]]) -> None:
        some[:] = [row for row in some if row["source"] != closest["source"]]

    wide = closest["score"] - 0.5 + 1e-6
    alerts = of_topic(folder, "alerts", without_its_alert).rename(folder / "alerts_elsewhere.jsonl")
    stream = FileStream(of_topic(folder, "decisions", flipped), "decisions")
    more: dict[str, Any] = {"tolerance": wide, "alerts": FileStream(alerts, "alerts")}
    found = certified(made, folder, bundles[0], decisions=stream, **more)
    assert found.verdict == "equal", found.document()
    assert (found.flipped, len(found.flips)) == (1, 1)
    assert found.flips[0]["event_id"] == closest["event_id"]

    below = max(
        (row for row in rows if row["decision"] == "approve" and not row["rules"]), key=lambda row: row["score"]
    )
    payment = next(
        json.loads(line["payload"])
        for line in map(json.loads, (folder / "payments.jsonl").read_text().splitlines())
        if (line["partition"], line["offset"]) == (below["source"]["partition"], below["source"]["offset"])
    )

    def alerted(some: list[dict[str, Any]]) -> None:
        own = {name: payment[name] for name in ("card_id", "event_id", "event_time", "merchant_id", "amount_minor")}
        name = alert_id(own["card_id"], own["event_id"], own["event_time"])
        like = next(row for row in some if row["decision"] == "review" and row["tier"] == "full")
        some.append(like | own | {"alert_id": name, "source": below["source"], "state": below["state"], "rules": []})

    def reviewed(some: list[dict[str, Any]]) -> None:
        next(row for row in some if row["source"] == below["source"]).update(decision="review", score=float(bar))

    stream = FileStream(of_topic(folder, "decisions", reviewed).rename(folder / "reviewed.jsonl"), "decisions")
    more_alerts = FileStream(of_topic(folder, "alerts", alerted), "alerts")
    found = certified(
        made, folder, bundles[0], decisions=stream, tolerance=0.5 - below["score"] + 1e-6, alerts=more_alerts
    )
    assert (found.verdict, found.flipped) == ("equal", 1), found.document()

    def wrongly(some: list[dict[str, Any]]) -> None:
        flipped(some)
        next(row for row in some if row["source"] == closest["source"])["decision"] = "block"

    stream = FileStream(of_topic(folder, "decisions", wrongly), "decisions")
    assert certified(made, folder, bundles[0], decisions=stream, **more).differences["decision"] == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"journal": None}, "the journal tells"),
        ({"labels": None}, "The state learned from labels"),
        ({"shards": 3}, "shards"),
        ({"bundles": ()}, "None of the bundles"),
        ({"decisions": "journal"}, r"Record 1 of .*journal.jsonl is no decision \(object missing required field"),
        ({"journal": "decisions"}, "is no entry of the journal"),
        ({"from_ms": 4_200_000_000_000}, "no decision that is to be certified"),
    ],
)
def test_what_does_not_fit_together_is_told(
    bundles: tuple[Path, Path], dumped: tuple[World, Path], changes: dict[str, Any], says: str
) -> None:
    made, folder = dumped
    topics = made.dump(folder)
    given = {
        name: FileStream(topics[value], name) if isinstance(value, str) else value for name, value in changes.items()
    }
    with pytest.raises((ConfigError, BundleError), match=says):
        certified(made, folder, bundles[0], **given)


def test_a_part_of_the_time_is_certified_and_all_of_it_replayed(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    times = sorted(json.loads(value)["event_time"] for value in made.publisher.values("decisions"))
    since, until = times[len(times) // 3], times[2 * len(times) // 3]
    found = certified(made, folder, bundles[0], from_ms=since, to_ms=until, alerts=None)
    equal(found)
    assert found.decisions == sum(since <= time < until for time in times)


def test_a_moving_threshold_moves_nothing_else(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    """Neither what blocks, nor the decisions that a limiter had nothing to do with."""
    text = (bundles[0] / "policy.toml").read_text() + LOAD
    segment = '[[thresholds.full.segments]]\nname = "shops"\nwhen = "channel = \'pos\'"\nreview = 0.62\nblock = 0.8\n'
    (tmp_path / "policy.toml").write_text(text + segment)
    bundle = tmp_path / "limited"
    write_with_policy(bundles[0], tmp_path / "policy.toml", bundle, DEFAULT)
    made = world(bundle, 400)
    made.drain(10)
    equal(certified(made, tmp_path, bundle), made)

    def higher(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row["decision"] == "block" and not row["rules"])
        row["inputs"]["block_threshold"], row["decision"] = 0.999, "review"

    def held(rows: list[dict[str, Any]]) -> None:
        next(row for row in rows if row["decision"] == "approve")["inputs"]["limiter"] = "review"

    def of_a_segment(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row["inputs"]["review_threshold"] > 0.61 and row["decision"] == "approve")
        row["inputs"]["review_threshold"] = 0.7

    for change, what in ((higher, "thresholds"), (held, "limiter"), (of_a_segment, "thresholds")):
        stream = FileStream(of_topic(tmp_path, "decisions", change), "decisions")
        assert certified(made, tmp_path, bundle, decisions=stream, alerts=None).differences[what] == 1


@pytest.mark.parametrize("shards", [1, 3])
def test_a_payment_that_was_decided_again_of_another_state_is_equal_twice(
    bundles: tuple[Path, Path], tmp_path: Path, shards: int
) -> None:
    """Published and not committed, then the state went back, and labels came before it is decided anew."""
    made = world(bundles[0], 700, store=MemoryStore(shards))
    take(made, random.Random(8), 5)
    older = copy.deepcopy(made.store)
    assert isinstance(older, MemoryStore)
    made.kill_at("after_commit", p0=15, p1=15, p2=15)
    go_back(made, older)
    made.process(labels=100)
    made.drain()
    told = [json.loads(value) for value in made.publisher.values("decisions")]
    scores: dict[tuple[int, int], set[float]] = {}
    for each in told:
        scores.setdefault((each["source"]["partition"], each["source"]["offset"]), set()).add(each["score"])
    assert any(len(some) == 2 for some in scores.values())
    found = certified(made, tmp_path, bundles[0])
    assert not found.differences, found.document()
    if shards == 1:
        equal(found)
        assert found.decisions == len(told)

        def without_the_first_time(rows: list[dict[str, Any]]) -> None:
            lost = [row for row in rows if row["count"] and row["epoch"] == rows[0]["epoch"]][-3:]
            rows[:] = [row for row in rows if row not in lost]

        stream = FileStream(of_topic(tmp_path, "journal", without_the_first_time), "journal")
        found = certified(made, tmp_path, bundles[0], journal=stream)
        assert found.verdict == "unverifiable", found.document()  # the alerts of those are no other payments' fault
    else:
        assert found.unverifiable["order_not_published"] > 0


def test_after_very_many_losses_what_is_recorded_again_is_unverifiable(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    made = world(bundles[0], 300, partitions=2)
    take(made, random.Random(1), 4)
    assert isinstance(made.store, MemoryStore)
    for number in range(18):  # every time in another order
        made.store.flush()
        made.start()
        made.process(**{"labels": 1, f"p{number % 2}": 2})
    made.drain()
    found = certified(made, tmp_path, bundles[0])
    assert not found.differences, found.document()
    assert found.results["equal"] > 0


def test_what_was_applied_by_the_dead_and_decided_without_the_store_is_journaled_all_the_same(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    """Nobody asks for it: the markers lie behind it, and it was committed without features."""
    store = Flaky()
    made = world(bundles[0], 300, store=store)
    made.process(labels=5, p0=5, p1=5)
    made.kill_at("after_apply", p0=9, p1=9)
    store.failures = 1_000
    made.start()
    made.process(p0=9, p1=9)
    store.failures = 0
    made.now_s += 100
    made.drain()
    equal(certified(made, tmp_path, bundles[0]), made)


def test_a_shard_whose_journal_is_gone_leaves_its_entities_unverifiable(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    made = world(bundles[0], 300, store=MemoryStore(3))
    made.drain(20)
    equal(certified(made, tmp_path, bundles[0]), made)

    def without_one(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["shard"] != 1]

    stream = FileStream(of_topic(tmp_path, "journal", without_one), "journal")
    found = certified(made, tmp_path, bundles[0], journal=stream)
    assert found.verdict == "unverifiable", found.document()
    assert found.unverifiable["order_not_published"] > found.decisions // 2


def test_what_is_cut_off_at_either_end_is_no_difference(bundles: tuple[Path, Path], dumped: tuple[World, Path]) -> None:
    """Decisions with their alerts still there, and decisions whose alerts are gone."""
    made, folder = dumped
    topics = made.dump(folder)
    for cut in (slice(0, 60), slice(-60, None)):
        stream = FileStream(of_topic(folder, "decisions", lambda rows, cut=cut: rows.__delitem__(cut)), "decisions")
        found = certified(made, folder, bundles[0], decisions=stream)
        assert found.verdict == "equal", found.document()
    lines = topics["alerts"].read_text().splitlines()
    dump = folder / "alerts_left.jsonl"
    rows = ({"partition": 0, "offset": n, "payload": line} for n, line in enumerate(lines) if n >= 40)
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = certified(made, folder, bundles[0], alerts=FileStream(dump, "alerts"))
    assert not found.differences, found.document()
    assert set(found.unverifiable) == {"alert_not_there"}
    short = of_topic(folder, "alerts", lambda rows: rows.__delitem__(slice(-30, None)))
    found = certified(made, folder, bundles[0], alerts=FileStream(short, "alerts"))
    assert not found.differences, found.document()
    assert set(found.unverifiable) == {"alert_not_there"}


def test_decisions_behind_the_last_payment_are_unverifiable(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    made.dump(folder)

    def without_the_last(rows: list[dict[str, Any]]) -> None:
        ends = {number: max(row["offset"] for row in rows if row["partition"] == number) for number in (0, 1)}
        rows[:] = [row for row in rows if row["offset"] <= ends[row["partition"]] - 20]

    stream = FileStream(of_topic(folder, "payments", without_the_last), "payments")
    found = certified(made, folder, bundles[0], payments=stream)
    assert not found.differences, found.document()
    assert set(found.unverifiable) == {"payment_not_read"}


def test_a_partition_without_any_decision_is_not_equal(bundles: tuple[Path, Path], dumped: tuple[World, Path]) -> None:
    made, folder = dumped
    made.dump(folder)

    def of_the_first(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["source"]["partition"] == 0]

    stream = FileStream(of_topic(folder, "decisions", of_the_first), "decisions")
    found = certified(made, folder, bundles[0], decisions=stream, alerts=None)
    assert found.verdict == "unverifiable", found.document()
    assert found.payments["unverifiable"] > 200
    found = certified(made, folder, bundles[0], decisions=stream)
    assert found.differences["alert"] > 0


@pytest.fixture(scope="module")
def limited(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path, Path]:
    """Some payments and labels were refused as too large, then the limit was raised, and they came again."""
    made = world(bundles[0], 700, partitions=2, max_payment_bytes=0)
    lengths = sorted(len(each) for held in made.log.partitions.values() for each in held.values.values())
    made.max_payment_bytes = lengths[len(lengths) * 4 // 5]
    made.start()
    made.drain(20)
    letters = [each for each in made.publisher.visible if each.topic == TOPICS.dead_letters]
    again = [dict(each.headers or ()) for each in letters]
    again = [each for each in again if each["__connect.errors.class.name"].endswith(b"too_large")]
    places = [
        (
            (each["__connect.errors.topic"].decode(), int(each["__connect.errors.partition"])),
            int(each["__connect.errors.offset"]),
        )
        for each in again
    ]
    made.max_payment_bytes = 65_536
    made.start()
    for source, offset in places:
        made.log.partitions[source].add(made.log.partitions[source].values[offset])
    made.drain(20)
    folder = tmp_path_factory.mktemp("limited")
    made.dump(folder)
    return made, folder, made.dump_dead_letters(folder / "dead_letters.jsonl")


def refused(path: Path) -> Refused:
    return read_refused(FileStream(path, TOPICS.dead_letters))


def test_what_was_refused_under_another_limit_is_taken_from_the_dead_letters(
    bundles: tuple[Path, Path], limited: tuple[World, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made, folder, letters = limited
    found = certified(made, folder, bundles[0], refused=refused(letters))
    equal(found, made)
    assert found.refused["payments"] > 50
    assert found.refused["labels"] > 0
    without = certified(made, folder, bundles[0])
    assert without.verdict == "different"
    assert {"undecided", "repeated"} <= set(without.differences)
    topics = made.dump(folder)
    words = ["certify", *(f"--{name}={path}" for name, path in topics.items()), f"--bundle={bundles[0]}", "--json"]
    assert exit_status([*words, f"--dead-letters={letters}"]) == 0
    assert json.loads(capsys.readouterr().out)["refused_as_told"] == found.refused
    assert exit_status([*words, f"--dead-letters={letters}", f"--out={letters}"]) == 2
    assert exit_status([*words, f"--dead-letters={topics['journal']}"]) == 2
    assert "dump the topic with kcat -J" in capsys.readouterr().err


def test_a_dead_letter_hides_no_decision(bundles: tuple[Path, Path], limited: tuple[World, Path, Path]) -> None:
    """Also none that lies outside of what is certified."""
    made, folder, letters = limited
    decisions = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    forged = folder / "forged.jsonl"
    lines = [
        {"partition": 0, "offset": 10_000 + n, "payload": "{}", "headers": letter_headers(**each["source"])}
        for n, each in enumerate(decisions[::3])
    ]
    forged.write_text(letters.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
    equal(certified(made, folder, bundles[0], refused=refused(forged)), made)
    middle = sorted(each["event_time"] for each in decisions)[len(decisions) // 2]
    equal(certified(made, folder, bundles[0], refused=refused(forged), from_ms=middle, alerts=None))
    changed = FileStream(of_topic(folder, "decisions", _set(3, rules=["never"])), "decisions")
    found = certified(made, folder, bundles[0], refused=refused(forged), decisions=changed, alerts=None)
    assert dict(found.differences) == {"rules": 1}


def letter_headers(topic: str, partition: int, offset: int) -> list[str]:
    """The headers of a dead letter as `kcat -J` writes them."""
    told = {
        "topic": topic,
        "partition": str(partition),
        "offset": str(offset),
        "stage": "decode",
        "class.name": "fraudline.Rejected.too_large",
        "exception.message": "too large",
    }
    return [word for name, text in told.items() for word in (f"__connect.errors.{name}", text)]


def test_marks_and_letters_that_are_no_text_are_read(tmp_path: Path) -> None:
    lines = [
        {"partition": 0, "offset": 0, "payload": "?", "headers": letter_headers("payments", 2, 7)},
        {"partition": 0, "offset": 1, "payload": None, "headers": ["fraudline.redrive.sent", "0"]},
        {"partition": 0, "offset": 2, "payload": "{}", "headers": ["other", None]},
    ]
    dump = tmp_path / "letters.jsonl"
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
    dump.write_bytes(raw.replace(b'"?"', b'"\xff\xfe"'))
    stream = FileStream(dump, "payments.dlq")
    found = refused(dump)
    messages = [Line(offset, b"x", None, "payments", 2) for offset in range(9)]
    assert [each.offset() for each in found.without(messages, ("payments",))] == [0, 1, 2, 3, 4, 5, 6, 8]
    assert found.without(messages, ("labels",)) == messages
    assert next(stream.chunks())[0].value() == b"\xff\xfe"


def test_digests_are_the_same_however_much_is_read_at_once(
    bundles: tuple[Path, Path], dumped: tuple[World, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = dumped
    made.dump(folder)
    changed = FileStream(of_topic(folder, "decisions", _set(40, rules=["never"])), "decisions")
    told = []
    for chunk in (8_192, 97, 1):
        monkeypatch.setattr("consumer.streams.CHUNK", chunk)
        found = certified(made, folder, bundles[0], decisions=changed, threads=2)
        told.append([each.document() for each in found.partitions] + found.examples)
    assert told[0] == told[1] == told[2]


def test_what_differs_first_is_told_first(bundles: tuple[Path, Path], dumped: tuple[World, Path]) -> None:
    made, folder = dumped
    made.dump(folder)

    def changed(rows: list[dict[str, Any]]) -> None:
        own = [row for row in rows if row["source"]["partition"] == 0 and row["decision"] == "approve"]
        rows.remove(own[30])
        own[5]["rules"] = ["never"]

    stream = FileStream(of_topic(folder, "decisions", changed), "decisions")
    found = certified(made, folder, bundles[0], decisions=stream, alerts=None)
    assert [each["what"] for each in found.examples] == ["rules", "undecided"]


def test_one_decision_of_another_shard_is_a_difference(bundles: tuple[Path, Path], dumped: tuple[World, Path]) -> None:
    made, folder = dumped
    made.dump(folder)

    def moved(rows: list[dict[str, Any]]) -> None:
        rows[40]["state"]["shard"] = 7

    stream = FileStream(of_topic(folder, "decisions", moved), "decisions")
    found = certified(made, folder, bundles[0], decisions=stream, alerts=None)
    assert found.differences["shard"] == found.results["different"] == 1


def test_an_alert_of_a_payment_that_is_not_there_is_not_equal(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    made.dump(folder)

    def forged(rows: list[dict[str, Any]]) -> None:
        rows.append(rows[3] | {"source": rows[3]["source"] | {"partition": 9}})

    stream = FileStream(of_topic(folder, "alerts", forged), "alerts")
    found = certified(made, folder, bundles[0], alerts=stream)
    assert (found.verdict, found.unread_alerts) == ("unverifiable", 1), found.document()


def test_of_decisions_in_several_partitions_only_what_all_of_them_have_can_be_missing(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    lines = made.dump(folder)["decisions"].read_text().splitlines()
    by_card = [(int(json.loads(line)["card_id"].partition("-")[2]) // 7 % 2, line) for line in lines]
    halves = [[line for number, line in by_card if number == half] for half in (0, 1)]
    kept = [halves[0], halves[1][len(halves[1]) // 3 :]]
    rows = [
        {"partition": half, "offset": len(halves[half]) - len(some) + place, "payload": line}
        for half, some in enumerate(kept)
        for place, line in enumerate(some)
    ]
    dump = folder / "decisions_left.jsonl"
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = certified(made, folder, bundles[0], decisions=FileStream(dump, "decisions"), alerts=None)
    assert found.verdict == "equal", found.document()
    shorter = [row for row in rows if row["partition"] == 0 or row["offset"] < 0.8 * len(halves[1])]
    dump.write_text("".join(json.dumps(row) + "\n" for row in shorter))
    found = certified(made, folder, bundles[0], decisions=FileStream(dump, "decisions"), alerts=None)
    assert found.verdict == "equal", found.document()
    one = round(0.7 * len(halves[0]))
    rows = [row for row in rows if (row["partition"], row["offset"]) != (0, one)]
    dump.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = certified(made, folder, bundles[0], decisions=FileStream(dump, "decisions"), alerts=None)
    assert dict(found.differences) == {"undecided": 1}


def test_a_partition_that_is_gone_leaves_everything_unverifiable(
    bundles: tuple[Path, Path], dumped: tuple[World, Path]
) -> None:
    made, folder = dumped
    made.dump(folder)

    def first_one(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["partition"] == 0]

    stream = FileStream(of_topic(folder, "payments", first_one), "payments")
    found = certified(made, folder, bundles[0], payments=stream)
    assert found.verdict == "unverifiable", found.document()
    assert found.unread_alerts > 0
    assert found.results["equal"] == 0


def test_without_a_journal_a_state_that_began_elsewhere_is_unverifiable(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    made = world(bundles[0], 400, partitions=1)
    made.log.partitions["labels", 0].high = 0
    made.log.partitions["payments", 0].committed = 60
    made.store.adopt({("payments", 0): 60})
    made.drain()
    found = certified(made, tmp_path, bundles[0], labels=None, journal=None)
    assert set(found.unverifiable) == {"order_not_published"}
    assert not found.differences
    equal(certified(made, tmp_path, bundles[0], labels=None), made)


def test_without_a_journal_there_is_one_partition_whatever_its_number(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    made = world(bundles[0], 300, partitions=2)
    made.log.partitions["labels", 0].high = 0
    made.log.partitions["payments", 0].high = 0
    made.drain()
    topics = made.dump(tmp_path)
    equal(certified(made, tmp_path, bundles[0], labels=None, journal=None), made)
    with topics["payments"].open("a") as dump:
        dump.write(
            json.dumps({"partition": 0, "offset": 0, "payload": made.log.partitions["payments", 1].values[5].decode()})
        )
    payments = topics["payments"].rename(tmp_path / "both.jsonl")
    with pytest.raises(ConfigError, match="the journal tells"):
        certified(made, tmp_path, bundles[0], labels=None, journal=None, payments=FileStream(payments, "payments"))


def test_a_dump_has_each_partition_in_order(bundles: tuple[Path, Path], dumped: tuple[World, Path]) -> None:
    made, folder = dumped
    made.dump(folder)

    def swapped(rows: list[dict[str, Any]]) -> None:
        rows[3], rows[4] = rows[4], rows[3]

    stream = FileStream(of_topic(folder, "payments", swapped), "payments")
    with pytest.raises(ConfigError, match=r"offset 3 of partition 0 comes after 4"):
        certified(made, folder, bundles[0], payments=stream)


def test_a_journal_and_payments_that_are_both_cut_are_told_from_a_state_that_began_there(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    made = world(bundles[0], 400, partitions=1)
    made.log.partitions["labels", 0].high = 0
    made.drain(10)
    made.dump(tmp_path)
    journal = of_topic(tmp_path, "journal", lambda rows: rows.__delitem__(slice(0, 6))).rename(tmp_path / "later.jsonl")
    payments = of_topic(tmp_path, "payments", lambda rows: rows.__delitem__(slice(0, 60)))
    found = certified(
        made, tmp_path, bundles[0], journal=FileStream(journal, "journal"), payments=FileStream(payments, "payments")
    )
    assert found.verdict == "unverifiable", found.document()
    assert found.unverifiable["history_incomplete"] > 0


def test_the_command_tells_the_verdict_by_its_status_and_overwrites_nothing(
    bundles: tuple[Path, Path], dumped: tuple[World, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    made, folder = dumped
    topics = made.dump(folder)
    words = ["certify", *(f"--{name}={path}" for name, path in topics.items()), f"--bundle={bundles[0]}"]
    out = folder / "certificate.json"
    assert exit_status([*words, f"--out={out}"]) == 0
    assert json.loads(out.read_text())["verdict"] == "equal"
    assert "The verdict: equal" in capsys.readouterr().out
    changed = of_topic(folder, "decisions", _set(40, rules=["never"]))
    assert exit_status([*words, f"--decisions={changed}"]) == 3
    told = capsys.readouterr().out
    assert "The verdict: different" in told
    assert "by never" in told
    shorter = of_topic(folder, "journal", lambda rows: rows.__delitem__(slice(8, 9)))
    assert exit_status([*words, f"--journal={shorter}"]) == 4
    capsys.readouterr()
    for path in topics.values():
        before = path.read_bytes()
        assert exit_status([*words, f"--out={path}"]) == 2
        assert "is what is read" in capsys.readouterr().err
        assert path.read_bytes() == before
    for wrong, says in (
        ("--payments=nowhere.jsonl", "nowhere.jsonl is not there"),
        (f"--decisions={folder}/decisions.parquet", "is no dump of a topic"),
        ("--from=2026-02-01 --to=2026-01-01", "--from must be earlier than --to"),
    ):
        assert exit_status([*words, *wrong.split()]) == 2
        assert says in capsys.readouterr().err


def test_what_one_shard_recorded_again_is_read_with_what_the_others_recorded_once(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    made = world(bundles[0], 700, store=MemoryStore(3))
    take(made, random.Random(9), 5)
    store = made.store
    assert isinstance(store, MemoryStore)
    older = copy.deepcopy(store._shards[1])
    made.kill_at("after_commit", p0=15, p1=15, p2=15)
    store._shards[1] = older
    store.renew([-1, older.epoch, -1])
    made.start()
    made.process(labels=100)
    made.drain()
    made.dump(tmp_path)

    def of_that_shard(rows: list[dict[str, Any]]) -> None:
        rows[:] = [row for row in rows if row["state"]["shard"] == 1]

    stream = FileStream(of_topic(tmp_path, "decisions", of_that_shard), "decisions")
    found = certified(made, tmp_path, bundles[0], decisions=stream, alerts=None)
    assert not found.unverifiable, found.document()
    assert found.results["equal"] == found.decisions > 100
