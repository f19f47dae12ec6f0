"""`fraudline explain`: one event found, told, and made again as the certificate does; on files and on real Kafka."""

from __future__ import annotations

import functools
import json
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from consumer.cli import exit_status
from consumer.dossier import partition_of
from consumer.settings import load as load_settings
from consumer.settings_source import variable
from consumer.streams import TopicStream
from features.catalog import DEFAULT
from features.store import MemoryStore
from models.bundle import load
from tests.poison import CARD_NUMBER, payment
from tests.services.kafka import KafkaBroker
from tests.services.reader import ReadCommitted
from tests.services.redis import RedisServer
from tests.support.bundles import make_bundle
from tests.support.world import World
from tests.test_certify import RULES, world
from tests.test_end_to_end import DEADLINE_S, Plant, environment, label, produce


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "bundle"
    make_bundle(path, rules=RULES, review=0.5, block=0.8, trees=60, noise=0.4)
    return path


@pytest.fixture(autouse=True, scope="module")
def _loaded_once() -> Iterator[None]:
    """A bundle is tried in a child process once, not for every event."""
    once = functools.cache(load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumer.certificate.certify.load", once)
        patch.setattr("consumer.model_loader.load", once)
        yield


@pytest.fixture(scope="module")
def made(bundle: Path) -> World:
    """A history with a crash, after which everything of the last batch was decided and published again."""
    made = world(bundle, 900)
    made.process(labels=20, p0=60, p1=60, p2=60, p3=60)
    made.kill_at("after_commit", labels=10, p0=40, p1=40, p2=40, p3=40)
    made.drain()
    return made


@pytest.fixture(scope="module")
def topics(made: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made.dump(tmp_path_factory.mktemp("explain-topics"))


def explained(
    capsys: pytest.CaptureFixture[str], event: str, topics: dict[str, Path], bundle: Path, *words: str
) -> tuple[int, dict[str, Any]]:
    files = [word for role, path in topics.items() for word in (f"--{role}", str(path))]
    capsys.readouterr()
    status = exit_status(["explain", event, *files, "--bundle", str(bundle), "--threads", "1", "--json", *words])
    out, error = capsys.readouterr()
    assert not error, error
    return status, msgspec.json.decode(out)


def decided(topics: dict[str, Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in topics["decisions"].read_text().splitlines()]


def samples(decisions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every fortieth, and one of each decision."""
    some = decisions[::40]
    return some + [next(each for each in decisions if each["decision"] == what) for what in ("review", "block")]


def test_each_event_is_made_again_to_the_bit_from_what_its_entities_had(
    made: World, topics: dict[str, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = load(bundle, DEFAULT).manifest.features
    for each in samples(decided(topics)):
        status, told = explained(capsys, each["event_id"], topics, bundle)
        assert (status, told["verdict"]) == (0, "equal"), told
        [decision, *again] = told["decisions"]
        assert all(other["decision"] == decision["decision"] for other in again)
        assert decision["source"] == each["source"]
        check = decision["check"]
        assert check["replayed"]["score"] == each["score"]
        values = [np.nan if one["value"] is None else one["value"] for one in check["features"]]
        seen = made.seen[each["source"]["partition"], each["source"]["offset"]]
        assert np.array_equal(np.array(values, np.float32), seen, equal_nan=True)
        assert [one["feature"] for one in check["features"]] == list(names)
        if each["decision"] != "approve":
            reasons = {one["feature"]: one["contribution"] for one in decision["alert"]["reasons"]}
            parts = {one["feature"]: one["contribution"] for one in check["features"]}
            assert {name: parts[name] for name in reasons} == reasons


def test_contributions_add_up_to_the_score(
    topics: dict[str, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = next(one for one in decided(topics) if one["decision"] == "block")
    check = explained(capsys, each["event_id"], topics, bundle)[1]["decisions"][0]["check"]
    total = check["constant"] + sum(one["contribution"] for one in check["features"])
    assert 1 / (1 + np.exp(-total)) == pytest.approx(each["score"], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"score": 0.123}, "score"),
        ({"decision": "block"}, "decision"),
        ({"rules": ["big"]}, "rules"),
        ({"model": "test@9"}, "model"),
        ({"event_time": 1}, "payment"),
    ],
)
def test_a_planted_difference_is_found_and_named(
    topics: dict[str, Path],
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    what: str,
) -> None:
    decisions = decided(topics)
    place, planted = next((n, each) for n, each in enumerate(decisions) if each["decision"] == "approve" and n > 500)
    decisions[place] = planted | change
    forged = tmp_path / "decisions.jsonl"
    forged.write_text("".join(json.dumps(each) + "\n" for each in decisions))
    status, told = explained(capsys, planted["event_id"], topics | {"decisions": forged}, bundle)
    assert (status, told["verdict"]) == (3, "different")
    assert any(what in each["check"]["why"] for each in told["decisions"])


def test_what_the_state_had_and_kafka_has_no_more_is_unverifiable(
    topics: dict[str, Path], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = topics["payments"].read_text().splitlines()
    cut = [line for line in lines if json.loads(line)["offset"] >= 100]
    short = tmp_path / "payments.jsonl"
    short.write_text("".join(f"{line}\n" for line in cut))
    late = decided(topics)[-1]
    status, told = explained(capsys, late["event_id"], topics | {"payments": short}, bundle)
    assert (status, told["decisions"][0]["check"]["why"]) == (4, ["history_incomplete"])
    early = next(each for each in decided(topics) if each["source"]["offset"] < 50)
    status, told = explained(capsys, early["event_id"], topics | {"payments": short}, bundle)
    assert (status, told["decisions"][0]["check"]["why"]) == (4, ["payment_not_read"])


def test_another_bundle_can_verify_nothing(
    topics: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "other", seed=9)
    status, told = explained(capsys, decided(topics)[5]["event_id"], topics, tmp_path / "other")
    assert status == 4
    assert told["decisions"][0]["check"]["why"][0].startswith("bundle_not_given")


def test_without_the_check_only_what_was_published_is_told(
    topics: dict[str, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, told = explained(capsys, decided(topics)[5]["event_id"], topics, bundle, "--no-check")
    assert (status, told["verdict"]) == (0, "not_checked")
    assert "check" not in told["decisions"][0]


def test_repetitions_and_strangers(topics: dict[str, Path], bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[str, int] = {}
    for line in topics["payments"].read_text().splitlines():
        try:
            payment = json.loads(json.loads(line)["payload"] or "")
            counts[payment["event_id"]] = counts.get(payment["event_id"], 0) + 1
        except (ValueError, TypeError, KeyError):
            continue
    of = {each["event_id"]: each for each in decided(topics)}
    twice = next(event for event, count in counts.items() if count == 2 and event in of)
    status, told = explained(capsys, twice, topics, bundle)
    assert (status, len(told["repeated_at"])) == (0, 1)
    status, told = explained(capsys, "nobody", topics, bundle)
    assert (status, told["outcome"]) == (1, "never_seen")
    event = of[twice]["event_id"]
    assert explained(capsys, event, topics, bundle, "--card", "another")[1]["outcome"] == "never_seen"
    assert explained(capsys, event, topics, bundle, "--card", of[twice]["card_id"])[0] == 0


def test_people_are_shown_the_same_with_bars(
    topics: dict[str, Path], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = next(one for one in decided(topics) if one["decision"] == "block" and not one["rules"])
    files = [word for role, path in topics.items() for word in (f"--{role}", str(path))]
    assert exit_status(["explain", each["event_id"], *files, "--bundle", str(bundle)]) == 0
    out = capsys.readouterr().out
    for part in (each["event_id"], each["card_id"], "The decision", "block", "Why, as the alert said", "+++",
                 "Made again from Kafka", "equal", "What counted most"):  # fmt: skip
        assert part in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--decisions", "d.jsonl"), "Also give --payments"),
        (("--around", "yesterday"), "--around is not an ISO 8601 time"),
        (("--within", "soon"), "--within is not a time"),
        (("--card", CARD_NUMBER), "--card looks like a card number"),
        (("--card", "tok\udcff"), "--card is not UTF-8"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(["explain", "evt", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert CARD_NUMBER not in error


def test_an_id_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["explain", "evt\udcff"]) == 2
    assert "EVENT_ID is not UTF-8" in capsys.readouterr().err


def test_an_id_is_shown_without_the_card_number_in_it(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"order-{CARD_NUMBER}"
    made = World(bundle, [[payment(event_id=name, card_id="tok_a", merchant_id=CARD_NUMBER, account_id=CARD_NUMBER)]])
    made.drain()
    files = [word for role, path in made.dump(tmp_path).items() for word in (f"--{role}", str(path))]
    for words in ((), ("--json",)):
        assert exit_status(["explain", name, *files, "--bundle", str(bundle), *words]) == 0
        out = capsys.readouterr().out
        assert f"order-{'*' * 12}1111" in out
        assert "tok_a" in out
        assert CARD_NUMBER not in out


def test_cards_that_share_an_event_id_are_judged_each_by_itself(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is published of one says nothing of the other's alert."""
    big = {"event_id": "shared", "amount_minor": 90_000_000}
    made = World(bundle, [[payment(card_id="tok_a", **big), payment(card_id="tok_b", **big)]])
    made.drain()
    topics = made.dump(tmp_path)
    assert {each["decision"] for each in decided(topics)} <= {"review", "block"}
    assert explained(capsys, "shared", topics, bundle)[0] == 0
    alerts = topics["alerts"].read_text().splitlines()
    topics["alerts"].write_text("".join(f"{line}\n" for line in alerts if json.loads(line)["card_id"] == "tok_a"))
    for score, verdicts in ((None, ["equal", "unverifiable"]), (0.123, ["equal", "different"])):
        decisions = decided(topics)
        if score is not None:
            decisions[1]["score"] = score
        topics["decisions"].write_text("".join(json.dumps(each) + "\n" for each in decisions))
        found = explained(capsys, "shared", topics, bundle)[1]["decisions"]
        assert [each["check"]["verdict"] for each in found] == verdicts, found
    assert found[1]["check"]["why"] == ["score"]


def test_an_alert_that_is_not_there_leaves_its_decision_unverifiable(
    topics: dict[str, Path], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    each = next(one for one in decided(topics) if one["decision"] == "block")
    others = [
        line for line in topics["alerts"].read_text().splitlines() if json.loads(line)["event_id"] != each["event_id"]
    ]
    (tmp_path / "alerts.jsonl").write_text("".join(f"{line}\n" for line in others))
    status, told = explained(capsys, each["event_id"], topics | {"alerts": tmp_path / "alerts.jsonl"}, bundle)
    assert (status, told["decisions"][0]["check"]["why"]) == (4, ["alert_not_there"])


def test_a_state_in_shards_is_followed_for_every_entity(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log in another shard than the card's is read too, and only that of the payment's entities is folded."""
    made = world(bundle, 400, store=MemoryStore(shards=3))
    made.drain(30)
    topics = made.dump(tmp_path)
    monkeypatch.setenv(variable("store.shards"), "3")
    for each in decided(topics)[::60]:
        status, told = explained(capsys, each["event_id"], topics, bundle)
        assert (status, told["verdict"]) == (0, "equal"), told


def test_what_was_refused_under_another_limit_is_taken_from_the_dead_letters(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = payment(event_id="large", card_id="tok_a", merchant_id="m-a", note="x" * 400)
    small = [payment(event_id=f"evt-{n}", card_id="tok_a", merchant_id="m-a") for n in range(4)]
    made = World(bundle, [[small[0], large, small[1], small[2]]], max_payment_bytes=400)
    made.drain()
    letters = {"dead-letters": made.dump_dead_letters(tmp_path / "letters.jsonl")}
    topics = made.dump(tmp_path)
    assert explained(capsys, "evt-2", topics, bundle)[1]["verdict"] == "different"
    assert explained(capsys, "evt-2", topics | letters, bundle)[1]["verdict"] == "equal"
    assert explained(capsys, "large", topics | letters, bundle)[1]["outcome"] == "dead_letter"

    made.max_payment_bytes = 65_536
    made.start()
    made.log.partitions["payments", 0].add(large, small[3])
    made.drain()
    topics = made.dump(tmp_path)
    assert explained(capsys, "large", topics, bundle)[1]["verdict"] == "different"
    for event in ("large", "evt-3"):
        status, told = explained(capsys, event, topics | letters, bundle)
        assert (status, told["verdict"], told["repeated_at"]) == (0, "equal", []), told

    lines = letters["dead-letters"].read_text()
    forged = json.loads(lines.splitlines()[0])
    for offset in (0, 4):  # a payment of the same card that was decided, and the one itself
        told = {"__connect.errors.offset": str(offset)}
        pairs = dict(zip(forged["headers"][::2], forged["headers"][1::2], strict=True)) | told
        forged |= {"offset": forged["offset"] + 1, "headers": [word for pair in pairs.items() for word in pair]}
        lines += json.dumps(forged) + "\n"
    letters["dead-letters"].write_text(lines)
    for event in ("large", "evt-3"):
        assert explained(capsys, event, topics | letters, bundle)[1]["verdict"] == "equal"


@pytest.fixture
def create(kafka: KafkaBroker, unique: str) -> Callable[..., dict[str, str]]:
    """As the fixture `topics`, whose name is taken here."""

    def make(**partitions: int) -> dict[str, str]:
        kafka.create_topics({f"{unique}.{role}": count for role, count in partitions.items()})
        return {role: f"{unique}.{role}" for role in partitions}

    return make


def test_partitions_that_know_nothing_of_the_payment_are_no_gap_in_its_history(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How old their beginnings are is known all the same."""
    own = [payment(event_id=f"evt-{n}", card_id="tok_a", merchant_id="m-a") for n in range(3)]
    others = [payment(event_id=f"other-{n}", card_id="tok_b", merchant_id="m-b") for n in range(3)]
    made = World(bundle, [own, others])
    made.drain()
    status, told = explained(capsys, "evt-2", made.dump(tmp_path), bundle)
    assert (status, told["verdict"]) == (0, "equal"), told


def pay(kafka: KafkaBroker, topic: str, *values: bytes) -> None:
    """Payments under the keys of their cards."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "log_level": 0})
    for value in values:
        producer.produce(topic, value, json.loads(value)["card_id"].encode())
    assert producer.flush(DEADLINE_S) == 0
    producer.close()


@pytest.fixture
def plant(
    kafka: KafkaBroker,
    redis_server: RedisServer,
    create: Callable[..., dict[str, str]],
    bundle: Path,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Plant]:
    made = create(payments=3, labels=1, decisions=3, alerts=2, dead_letters=2, journal=1, lists=1)
    settings = environment(kafka.bootstrap, redis_server.url, bundle, unique, made)
    for name, value in settings.items():
        if name.startswith("FRAUDLINE_"):
            monkeypatch.setenv(name, value)
    plant = Plant(made, settings)
    yield plant
    for worker in plant.workers:
        worker.end()


def test_what_became_of_any_event_is_found_in_a_running_deployment(
    plant: Plant, kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    payments, decisions = plant.topics["payments"], plant.topics["decisions"]

    def told(event: str, *words: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = exit_status(["explain", event, "--json", *words])
        out, error = capsys.readouterr()
        assert not error, error
        return status, msgspec.json.decode(out)

    good = [
        payment(event_id=f"evt-{n}", card_id=f"tok_{n % 9}", merchant_id=f"m-{n % 5}", amount_minor=100 + 977 * n,
                account_id=CARD_NUMBER, ip="192.0.2.7")
        for n in range(90)
    ]  # fmt: skip
    with ReadCommitted(kafka.bootstrap, [decisions, plant.topics["dead_letters"], plant.topics["journal"]]) as reader:
        worker = plant.start()
        worker.wait_for("started")
        produce(kafka.bootstrap, plant.topics["labels"], [label("evt-1", "fraud")])
        reader.wait_until(lambda seen: any(plant.topics["labels"].encode() in (r.value or b"") for r in seen))
        pay(kafka, payments, *good, payment(event_id="bad", currency="XXX"))
        reader.wait_until(lambda seen: sum(r.topic == decisions for r in seen) == len(good), DEADLINE_S)
        reader.wait_until(lambda seen: any(b'"bad"' in (r.value or b"") for r in seen), DEADLINE_S)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(DEADLINE_S) == 0, worker.lines
        seen = reader.read_to_end(DEADLINE_S)
    pay(kafka, payments, payment(event_id="waiting", card_id="tok_1"))

    by_event = {json.loads(r.value or b"")["event_id"]: r for r in seen if r.topic == decisions}
    assert all(r.partition == partition_of((r.key or b"").decode(), 3) for r in by_event.values())
    now = datetime.fromtimestamp(by_event["evt-80"].timestamp_ms / 1_000, UTC).isoformat()
    for words in ((), ("--card", "tok_8"), ("--around", now, "--within", "90m"), ("--card", "tok_8", "--around", now)):
        status, found = told("evt-80", *words)
        assert (status, found["verdict"]) == (0, "equal"), found
        assert found["decisions"][0]["latency_ms"] >= 0
        assert found["payments"][0]["merchant_id"] == "m-0"
        assert found["payments"][0]["account_id"] == f"{'*' * 12}1111"
    assert told("evt-80", "--around", "2020-01-01", "--within", "1h", "--no-check")[1]["outcome"] == "never_seen"

    moved = json.loads(by_event["evt-80"].value or b"") | {"event_id": "moved"}
    elsewhere = (by_event["evt-80"].partition + 1) % 3  # as if the topic had had fewer partitions then
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    producer.produce(decisions, json.dumps(moved, separators=(",", ":")).encode(), b"tok_8", elsewhere)
    assert producer.flush(DEADLINE_S) == 0
    producer.close()
    assert told("moved", "--card", "tok_8", "--no-check")[1]["outcome"] == "decided"

    status, found = told("waiting")
    assert (status, found["outcome"]) == (1, "undecided")
    assert "1 payments are due" in found["text"]
    status, found = told("bad")
    assert (status, found["outcome"], found["dead_letters"][0]["reason"]) == (1, "dead_letter", "unknown_currency")
    assert (told("nobody")[0], told("nobody")[1]["outcome"]) == (1, "never_seen")

    def decide_meanwhile(stream: TopicStream) -> int:
        """As if a processor had committed after the decisions were looked at."""
        count = size(stream)
        if stream.topic == decisions:
            end = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": loaded.kafka.group_id})
            places = [TopicPartition(payments, number, 1_000) for number in range(3)]
            end.commit(offsets=places, asynchronous=False)
            end.close()
        return count

    size, loaded = TopicStream.size, load_settings(None)
    with monkeypatch.context() as patch:
        patch.setattr(TopicStream, "size", decide_meanwhile)
        assert told("waiting")[1]["outcome"] == "undecided"
    assert told("waiting")[1]["outcome"] == "repeated_or_lost"

    forged = json.loads(by_event["evt-80"].value or b"") | {"score": 0.875}
    pay(kafka, decisions, json.dumps(forged, separators=(",", ":")).encode())
    status, found = told("evt-80", "--card", "tok_8")
    assert (status, [each["check"]["verdict"] for each in found["decisions"]]) == (3, ["equal", "different"])
    assert exit_status(["explain", "evt-80"]) == 3
    out = capsys.readouterr().out
    assert CARD_NUMBER not in out
    assert "different" in out
