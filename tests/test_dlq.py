"""Dead letters: counted, shown without a card number, and sent again once each, through a kill, on real Kafka."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import exit_status
from consumer.dead_letters import (
    CONNECT,
    MARK,
    SENT_FROM,
    SENT_TIMES,
    DeadLetter,
    Tally,
    mark_of,
    read_letter,
    sent_headers,
)
from consumer.decode import Rejected
from consumer.kafka.redrive import Redriver
from consumer.publish import DEAD_LETTER_LIMIT_BYTES
from consumer.redrive import Asked, Oracle, plan, send
from consumer.settings import load
from features.errors import KafkaUnavailable
from models.bundle import Bundle
from tests.poison import CARD_NUMBER, Record, payment
from tests.services.kafka import KafkaBroker
from tests.services.reader import ReadCommitted, Seen
from tests.services.redis import RedisServer
from tests.support.bundles import make_bundle
from tests.support.doubles import decoder
from tests.test_end_to_end import DEADLINE_S, Plant, environment, produce
from tests.test_publish import outbox

ORACLE = Oracle(decoder(), ("payments", "labels"))
NOW_MS = 1_800_000_000_000
Header = tuple[str, bytes | None]


def buried(record: Record, at: int, reason: str = "not_json", detail: str = "the record is not JSON") -> Record:
    """A record as it lies in the dead-letter topic at an offset."""
    (made,) = outbox().dead_letters([Rejected(record, "decode", reason, detail)])
    stamp = (1, made.timestamp_ms) if made.timestamp_ms else (0, -1)
    return Record(made.value, 0, at, made.key, tuple(made.headers or ()), stamp, "payments.dlq")


def letter_of(record: Record) -> DeadLetter:
    letter = read_letter(record)
    assert isinstance(letter, DeadLetter)
    return letter


def mark(letter: DeadLetter, at: int) -> Record:
    return Record(None, letter.place[0], at, letter.message.key(), tuple(mark_of(letter, NOW_MS)), (1, NOW_MS))


names = st.sampled_from(["a", "__connect.errors.topic", "__connect.errors.offset", "fraudline.redriven.from", MARK])


@given(st.lists(st.tuples(names, st.none() | st.binary(max_size=4)), max_size=6), st.none() | st.binary(max_size=5))
def test_a_letter_has_the_original_s_own_headers_whatever_they_are(headers: list[Header], value: bytes | None) -> None:
    original = Record(value, 3, 41, b"k", tuple(headers), (2, 1_700_000_000_000))
    letter = letter_of(buried(original, at=7))
    assert (letter.topic, letter.origin, letter.place) == ("payments", (3, 41), (0, 7))
    assert (letter.stage, letter.reason, letter.time_ms) == ("decode", "not_json", 1_700_000_000_000)
    assert letter.headers() == headers
    again = sent_headers(letter, NOW_MS)
    ours = [name for name, _ in again if name.startswith("fraudline.redriven.")]
    assert ours == ["fraudline.redriven.from", "fraudline.redriven.at_ms", "fraudline.redriven.times"]
    assert [each for each in again if not each[0].startswith("fraudline.redriven.")] == [
        each for each in headers if not each[0].startswith("fraudline.redriven.")
    ]


def test_a_letter_that_is_sent_again_counts_how_often() -> None:
    headers: tuple[Header, ...] = ()
    for times in (1, 2, 3):
        letter = letter_of(buried(Record(b"x", record_headers=headers), at=times))
        headers = tuple(sent_headers(letter, NOW_MS))
        assert dict(headers)[SENT_TIMES] == str(times).encode()
        assert dict(headers)[SENT_FROM] == f"payments.dlq-0-{times}".encode()


def test_a_sender_s_own_header_does_not_stop_a_redrive() -> None:
    """No number of ours has so many digits, and the interpreter refuses to read it."""
    letter = letter_of(buried(Record(b"x", record_headers=((SENT_TIMES, b"9" * 5_000),)), at=1))
    assert dict(sent_headers(letter, NOW_MS))[SENT_TIMES] == b"1"
    assert read_letter(Record(None, record_headers=((MARK, b"9" * 5_000),))) is None


def test_a_payment_can_not_pass_for_a_mark() -> None:
    """Else whoever may send payments could hide the dead letters of others."""
    forged = buried(Record(None, record_headers=((MARK, b"0"),)), at=5)
    assert isinstance(read_letter(forged), DeadLetter)
    assert read_letter(Record(b"{}", record_headers=((MARK, b"0"),))) is None


def test_letters_are_counted_by_where_they_come_from_and_why() -> None:
    one = [buried(Record(b"x", at_offset=n, record_timestamp=(2, 1_000 + n)), at=n) for n in range(3)]
    label = buried(Record(b"y", of_topic="labels", record_timestamp=(2, 5_000)), at=3, reason="card_number")
    tally = Tally()
    tally.add([*one, label, mark(letter_of(one[1]), at=4), Record(b"foreign", at_offset=5)])
    first, second = tally.sorted()
    assert (first.topic, first.reason, first.count, first.sent_again) == ("payments", "not_json", 3, 1)
    assert (first.first_ms, first.last_ms, first.newest) == (1_000, 1_002, "0:2")
    assert (second.topic, second.reason, second.count, second.sent_again) == ("labels", "card_number", 1, 0)
    assert tally.others == 1
    some = Tally(from_ms=1_001, to_ms=1_002)
    some.add([*one, label, mark(letter_of(one[0]), at=4)])
    assert [(each.count, each.sent_again) for each in some.sorted()] == [(1, 0)]


def padded(number: int, **changes: Any) -> bytes:
    return payment(event_id=f"evt-{number}", card_id=f"tok_{number % 5}", x_note="n" * 300, **changes)


def test_what_would_be_refused_again_is_not_sent_and_says_why() -> None:
    stamp = (2, NOW_MS)
    letters = [
        buried(Record(payment(event_id="mended"), record_timestamp=stamp), 0, "too_large"),
        buried(Record(b"{", record_timestamp=stamp), 1, "not_json"),
        buried(Record(payment(card_id=CARD_NUMBER), record_timestamp=stamp), 2, "card_number"),
        buried(Record(payment(event_time=NOW_MS - 1), record_timestamp=(2, 1)), 3, "future_event_time"),
        buried(Record(payment(event_time=NOW_MS + 10**9), record_timestamp=(2, 1)), 4, "future_event_time"),
        buried(Record(b"x" * (DEAD_LETTER_LIMIT_BYTES + 1), record_timestamp=stamp), 5, "too_large"),
        buried(Record(payment(), record_timestamp=stamp, of_topic="elsewhere"), 6),
    ]
    expected = [ORACLE.expects(letter_of(each), NOW_MS) for each in letters]
    assert expected == ["accepted", "not_json", "card_number", "accepted", "future_event_time", "not_whole",
                        "another_topic"]  # fmt: skip
    careful = plan([letters], Asked(), ORACLE, NOW_MS)
    assert careful.chosen == [(0, 0), (0, 3)]
    assert sum(careful.refused.values()) == 5
    forced = plan([letters], Asked(force=True), ORACLE, NOW_MS)
    assert forced.chosen == [(0, 0), (0, 1), (0, 3), (0, 4)], "never a card number, nor what is not whole"


def test_a_plan_means_what_was_asked_for_without_what_was_sent() -> None:
    letters = [
        buried(Record(payment(), at_offset=n, record_timestamp=(2, n)), n, "too_large" if n % 2 else "empty")
        for n in range(10)
    ]
    marks = [mark(letter_of(letters[3]), at=10)]
    found = plan([letters, marks], Asked(reasons=frozenset(["too_large"]), limit=3), ORACLE, NOW_MS)
    assert (found.chosen, found.left, found.sent_before) == ([(0, 1), (0, 5), (0, 7)], 1, 1)
    assert plan([letters], Asked(from_ms=4, to_ms=6), ORACLE, NOW_MS).chosen == [(0, 4), (0, 5)]
    assert plan([letters, marks], Asked(places=frozenset([(0, 3), (0, 8)])), ORACLE, NOW_MS).chosen == [(0, 8)]
    assert plan([letters], Asked(topics=frozenset(["labels"])), ORACLE, NOW_MS).chosen == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "nowhere"), "PLACE is neither"),
        (("redrive", "--reason", "bad"), "is no reason of a dead letter"),
        (("redrive", "--from", "decisions"), "is neither payments nor labels"),
        (("redrive", "--at", "3"), "is not PARTITION:OFFSET"),
        (("redrive", "--rate", "inf", "--yes"), "--rate is no number"),
        (("redrive", "--at", "4111111111111111"), "is not PARTITION:OFFSET"),
        (("show", "4" * 30 + ":1"), "PLACE is neither"),
        (("redrive",), "say --yes if that is meant"),
        (("redrive", "--yes", "--actor", "ada"), "audit.enabled is false"),
    ],
)
def test_what_can_not_be_meant_is_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(["dlq", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert CARD_NUMBER not in error


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("dlq") / "bundle")


@pytest.fixture
def plant(
    kafka: KafkaBroker,
    redis_server: RedisServer,
    topics: Callable[..., dict[str, str]],
    bundle: Bundle,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Plant]:
    made = topics(payments=3, labels=1, decisions=2, alerts=1, dead_letters=2, journal=1, lists=1, audit=1)
    settings = environment(kafka.bootstrap, redis_server.url, bundle.path, unique, made)
    settings |= {"FRAUDLINE_AUDIT__ENABLED": "true"}
    for name, value in settings.items():
        if name.startswith("FRAUDLINE_"):
            monkeypatch.setenv(name, value)
    plant = Plant(made, settings)
    yield plant
    for worker in plant.workers:
        worker.end()


_DIES = """
import os, signal, sys
import consumer.kafka.redrive as redrive
from consumer.cli import exit_status
at, number = sys.argv[1], int(sys.argv[2])
class Dying(redrive.TransactionalPublisher):
    def __init__(self, kafka, source):
        self.left = number
        super().__init__(kafka, source, self.step)
    def step(self, name):
        self.left -= name == at
        if self.left == 0 and name == at:
            os.kill(os.getpid(), signal.SIGKILL)
redrive.TransactionalPublisher = Dying
exit_status(sys.argv[3:])
"""
REDRIVE = ("dlq", "redrive", "--yes", "--rate", "1000000", "--reason", "too_large", "--actor", "ada")
COUNT = 450


def killed(plant: Plant, at: str, number: int) -> None:
    words = [sys.executable, "-c", _DIES, at, str(number), *REDRIVE]
    assert subprocess.run(words, env=plant.environment, check=False).returncode == -signal.SIGKILL


def decided(seen: list[Seen], topic: str) -> Counter[str]:
    return Counter(json.loads(each.value or b"")["event_id"] for each in seen if each.topic == topic)


def stop(plant: Plant) -> None:
    worker = plant.workers[-1]
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(DEADLINE_S) == 0, worker.lines


def test_dead_letters_are_sent_again_once_each_however_often_it_is_killed_and_decided_once(
    plant: Plant, kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    payments, decisions, letters = (plant.topics[role] for role in ("payments", "decisions", "dead_letters"))

    def told(*words: str) -> Any:
        capsys.readouterr()
        assert exit_status([*words, "--json"]) == 0
        return msgspec.json.decode(capsys.readouterr().out)

    with ReadCommitted(kafka.bootstrap, [payments, decisions, letters, plant.topics["audit"]]) as reader:
        plant.start(FRAUDLINE_PROCESSING__MAX_PAYMENT_BYTES="300").wait_for("started")
        produce(kafka.bootstrap, payments, [*(padded(number) for number in range(COUNT)), payment(card_id=CARD_NUMBER)])
        reader.wait_until(lambda seen: sum(each.topic == letters for each in seen) == COUNT + 1, DEADLINE_S)
        stop(plant)

        groups = told("dlq", "list")
        assert [(each["reason"], each["count"], each["sent_again"]) for each in groups] == [
            ("too_large", COUNT, 0),
            ("card_number", 1, 0),
        ]
        expected = [{"topic": payments, "expected": "accepted", "letters": COUNT}]
        dry = told("dlq", "redrive", "--dry-run")
        assert dry["sent"] == expected
        assert dry["refused"] == [{"topic": payments, "expected": "card_number", "letters": 1}]
        assert len([each for each in reader.read_to_end() if each.topic == payments]) == COUNT + 1

        killed(plant, "after_flush", 2)  # one block is sent, and one is on its way
        killed(plant, "after_commit", 1)  # one more is
        rest = told(*REDRIVE)
        assert rest["sent_before"] == 400
        assert rest["sent"] == [{"topic": payments, "expected": "accepted", "letters": COUNT - 400}]
        assert told(*REDRIVE)["sent"] == []

        plant.start().wait_for("started")
        reader.wait_until(lambda seen: sum(each.topic == decisions for each in seen) >= COUNT, DEADLINE_S)
        stop(plant)
        seen = reader.read_to_end()

    assert decided(seen, decisions) == Counter(f"evt-{number}" for number in range(COUNT))
    sent = [each for each in seen if each.topic == payments]
    first = {each.offset: each for each in sent if not each.headers and each.partition == 0}
    again = [each for each in sent if each.headers]
    assert len(again) == COUNT
    assert Counter((each.partition, each.key, each.value) for each in again) == Counter(
        (each.partition, each.key, each.value) for each in sent if not each.headers and len(each.value or b"") > 300
    ), "the same bytes under the same key in the same partition, in which the card's others are"
    assert first
    assert {dict(each.headers)[SENT_TIMES] for each in again} == {b"1"}
    origins = {dict(each.headers)[SENT_FROM] for each in again}
    assert len(origins) == COUNT
    assert all((origin or b"").startswith(letters.encode()) for origin in origins)
    marks = [each for each in seen if each.topic == letters and each.value is None]
    assert len(marks) == COUNT

    assert told("dlq", "list")[0]["sent_again"] == COUNT
    audited = told("audit", "list", "--action", "dlq.redrive")
    assert sum(each["detail"]["letters"] for each in audited) == COUNT
    assert {each["actor"] for each in audited} == {"ada"}


def test_a_letter_is_shown_by_either_place_and_never_with_its_card_number(
    plant: Plant, kafka: KafkaBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    payments, letters = plant.topics["payments"], plant.topics["dead_letters"]
    with ReadCommitted(kafka.bootstrap, [letters]) as reader:
        plant.start().wait_for("started")
        produce(kafka.bootstrap, payments, [payment(card_id=CARD_NUMBER, event_id="\x1b[31mred")])
        [seen] = reader.wait_until(lambda seen: len(seen) == 1, DEADLINE_S)
        stop(plant)
    for place in (f"{payments}-0-0", f"{seen.partition}:{seen.offset}", f"{letters}-{seen.partition}-{seen.offset}"):
        capsys.readouterr()
        assert exit_status(["dlq", "show", place, "--json"]) == 0
        told = msgspec.json.decode(capsys.readouterr().out)
        assert (told["from"], told["reason"], told["now"]) == (f"{payments}-0-0", "card_number", "card_number")
        assert "payload" not in told
    assert exit_status(["dlq", "show", f"{payments}-0-0", "--payload"]) == 0
    text = capsys.readouterr().out
    assert "************1111" in text
    assert CARD_NUMBER not in text
    assert "\x1b" not in text
    assert exit_status(["dlq", "show", "0:999"]) == 2
    assert "holds no such dead letter" in capsys.readouterr().err

    strange = {"topic": "other", "partition": "0", "offset": "1", "stage": "\x1b[2J", "class.name": f"E {CARD_NUMBER}",
               "exception.message": f"bad value '{CARD_NUMBER}'"}  # fmt: skip
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    producer.produce(letters, b"x", b"k", 0, headers={f"{CONNECT}{name}": text for name, text in strange.items()})
    producer.flush(DEADLINE_S)
    with ReadCommitted(kafka.bootstrap, [letters]) as reader:
        at = max(each.offset for each in reader.read_to_end() if each.partition == 0)
    for words in (("list",), ("list", "--json"), ("show", f"0:{at}")):
        assert exit_status(["dlq", *words]) == 0
        text = capsys.readouterr().out
        assert f"{'*' * 12}1111" in text
        assert CARD_NUMBER not in text
        assert "\x1b" not in text


def test_a_redrive_that_was_overtaken_sends_nothing_more(plant: Plant, kafka: KafkaBroker) -> None:
    """Two at once would else send the same letters twice: the second one looks only after the first is shut out."""
    letters = plant.topics["dead_letters"]
    with ReadCommitted(kafka.bootstrap, [letters]) as reader:
        plant.start(FRAUDLINE_PROCESSING__MAX_PAYMENT_BYTES="300").wait_for("started")
        produce(kafka.bootstrap, plant.topics["payments"], [padded(number) for number in range(6)])
        buried = reader.wait_until(lambda seen: len(seen) == 6, DEADLINE_S)
        stop(plant)
    places = sorted((each.partition, each.offset) for each in buried)
    loaded = load(None)
    first = Redriver(loaded, None)
    assert send(first.letters(places[:2]), first, 1_000.0) == 2
    second = Redriver(loaded, None)
    with pytest.raises(KafkaUnavailable, match="run it again"):
        send(first.letters(places[2:]), first, 1_000.0)
    assert send(second.letters(places[2:]), second, 1_000.0) == 4
    first.close()
    second.close()
    with ReadCommitted(kafka.bootstrap, [letters, plant.topics["payments"]]) as reader:
        seen = reader.read_to_end()
    assert sum(each.value is None for each in seen) == 6
    assert sum(bool(each.headers) for each in seen if each.topic == plant.topics["payments"]) == 6


def test_a_redrive_waits_for_marks_behind_a_transaction_that_is_still_open(plant: Plant, kafka: KafkaBroker) -> None:
    """Processors write dead letters too: what readers are not shown yet may be that a letter was sent."""
    loaded, topic = load(None), plant.topics["dead_letters"]
    letter = buried(Record(payment(), of_topic=loaded.topics.payments), at=0)
    other = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{topic}-processor", "log_level": 0})
    other.init_transactions(DEADLINE_S)
    other.begin_transaction()
    other.produce(topic, letter.value(), letter.key(), 0, headers=letter.headers())
    other.commit_transaction(DEADLINE_S)
    other.begin_transaction()
    other.produce(topic, b"of another batch", b"k", 0)
    other.flush(DEADLINE_S)
    with closing(Redriver(loaded, None)) as first:
        assert send(first.letters([(0, 0)]), first, 1_000.0) == 1
    with closing(Redriver(loaded, None)) as second, closing(second.stream()) as stream:
        chunks = stream.chunks()
        begun = next(chunks)
        other.commit_transaction(DEADLINE_S)
        found = plan([begun, *chunks], Asked(), Oracle(decoder(), (loaded.topics.payments,)), NOW_MS)
    assert (found.chosen, found.sent_before) == ([], 1)
    other.close()


@dataclass(slots=True)
class Clocked:
    """Keeps how many letters were sent when, by a clock that only waiting moves."""

    now_s: float = 0.0
    sent: list[tuple[float, int]] = field(default_factory=list)

    def send(self, letters: Sequence[DeadLetter]) -> None:
        self.sent.append((self.now_s, len(letters)))

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.mark.parametrize(
    ("count", "rate", "sent"),
    [
        (450, 1_000.0, [(0.0, 200), (0.2, 200), (0.4, 50)]),
        (41, 20.0, [(0.0, 20), (1.0, 20), (2.0, 1)]),
        (2, 0.5, [(0.0, 1), (2.0, 1)]),
    ],
)
def test_no_more_are_sent_than_the_rate_allows(count: int, rate: float, sent: list[tuple[float, int]]) -> None:
    letters = [letter_of(buried(Record(b"x"), at)) for at in range(count)]
    kept = Clocked()
    assert send(letters, kept, rate, clock=lambda: kept.now_s, wait=kept.wait) == count
    assert [(pytest.approx(at), size) for at, size in sent] == kept.sent
