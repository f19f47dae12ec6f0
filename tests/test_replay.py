"""`fraudline replay`: everything is sent once in its order, and a replay that stops goes on where it was."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import main
from consumer.kafka.replay import TopicFeed, TopicSink, ranges
from consumer.replay import FileFeed, Record, Replay
from consumer.settings import KafkaSettings
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.errors import ConfigError, KafkaUnavailable
from tests.services.kafka import KafkaBroker
from tests.services.reader import ReadCommitted, Seen

ROOT = Path(__file__).parents[1]
BYTES = 65_536


class Sent:
    """A sink that keeps what it is sent, and may be full after so many."""

    def __init__(self, most: int | None = None) -> None:
        self.records: list[Record] = []
        self.flushed = 0
        self._most = most
        self.full: Any = None

    def send(self, records: Sequence[Record]) -> None:
        before = len(self.records)
        self.records += records
        if self._most is not None and before < self._most <= len(self.records):
            self.full()

    def poll(self) -> None:
        pass

    def flush(self) -> None:
        self.flushed = len(self.records)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    write(Simulation(payments=3_000, seed=11, days=20, fraud_rate=0.05, late=0.02, malformed=0.01), folder)
    return folder


def feed(history: Path, **options: Any) -> FileFeed:
    return FileFeed(history / PAYMENTS_FILE, history / LABELS_FILE, max_payment_bytes=BYTES, **options)


def by_hand(history: Path) -> list[tuple[bool, bytes]]:
    """What should be sent: each label before the first payment that is not older, and the lines as they are."""
    known = sorted(
        map(json.loads, (history / LABELS_FILE).read_bytes().splitlines()), key=lambda each: each["labelled_at"]
    )
    labels = [(each["labelled_at"], each["event_id"]) for each in known]
    expected: list[tuple[bool, bytes]] = []
    for line in (history / PAYMENTS_FILE).read_bytes().splitlines():
        try:
            payment = json.loads(line)
            at_ms = payment["event_time"]
            assert isinstance(at_ms, int)
        except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
            continue
        while labels and labels[0][0] <= at_ms:
            expected.append((True, labels.pop(0)[1].encode()))
        expected.append((False, payment["event_id"].encode()))
    return expected + [(True, event_id.encode()) for _, event_id in labels]


def ids(records: list[Record]) -> list[tuple[bool, bytes]]:
    return [(each.is_label, json.loads(each.value or b"{}")["event_id"].encode()) for each in records]


def test_payments_are_sent_as_they_are_and_labels_when_they_became_known(history: Path) -> None:
    sink = Sent()
    done = Replay(feed(history), sink).run()
    good = {each[1] for each in ids(sink.records) if not each[0]}
    assert ids(sink.records) == [each for each in by_hand(history) if each[0] or each[1] in good]
    lines = (history / PAYMENTS_FILE).read_bytes().splitlines()
    payments = [each for each in sink.records if not each.is_label]
    assert {each.value for each in payments} <= set(lines)
    assert all(each.key == json.loads(each.value or b"")["card_id"].encode() for each in payments)
    assert done.payments + sum(count for what, count in done.refused.items() if what.startswith("payment")) == len(
        lines
    )
    assert done.refused
    assert done.labels == len((history / LABELS_FILE).read_bytes().splitlines())
    assert done.is_complete


def test_a_range_is_of_event_times_and_of_when_labels_became_known(history: Path) -> None:
    everything, part = Sent(), Sent()
    Replay(feed(history), everything).run()
    times = sorted(each.at_ms for each in everything.records)
    start, end = times[len(times) // 4], times[len(times) // 2]
    Replay(feed(history, from_ms=start, to_ms=end), part).run()
    assert ids(part.records) == ids([each for each in everything.records if start <= each.at_ms < end])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_other_formats_send_the_same_records(history: Path, tmp_path: Path, suffix: str) -> None:
    good, sink = Sent(), Sent()
    Replay(feed(history), good).run()
    plain = tmp_path / "plain"
    plain.mkdir()
    for name, is_label in ((PAYMENTS_FILE, False), (LABELS_FILE, True)):
        values = [each.value or b"" for each in good.records if each.is_label is is_label]
        (plain / name).write_bytes(b"\n".join(values) + b"\n")
        table = pa_json.read_json(plain / name)
        to = (tmp_path / name).with_suffix(suffix)
        pq.write_table(table, to) if suffix == ".parquet" else pa_csv.write_csv(table, to)
    payments, labels = ((tmp_path / name).with_suffix(suffix) for name in (PAYMENTS_FILE, LABELS_FILE))
    Replay(FileFeed(payments, labels, max_payment_bytes=BYTES), sink).run()
    assert [(each.is_label, each.key, json.loads(each.value or b"")) for each in sink.records] == [
        (each.is_label, each.key, json.loads(each.value or b"")) for each in good.records
    ]


@given(st.lists(st.integers(1, 3_200), max_size=6))
def test_however_often_it_is_stopped_everything_is_sent_once_in_order(
    history: Path, tmp_path_factory: pytest.TempPathFactory, stops: list[int]
) -> None:
    checkpoint = tmp_path_factory.mktemp("stops") / "checkpoint"
    sent: list[Record] = []
    for most in [*stops, None]:
        sink = Sent(most)
        replay = Replay(feed(history), sink, checkpoint=checkpoint)
        sink.full = replay.stop
        done = replay.run()
        assert sink.flushed == len(sink.records)
        sent += sink.records
    assert done.is_complete
    whole = Sent()
    Replay(feed(history), whole).run()
    assert ids(sent) == ids(whole.records)


def test_a_checkpoint_of_another_replay_is_refused(history: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    Replay(feed(history), Sent(), checkpoint=checkpoint, target={"into": "a"}).run()
    again = Sent()
    assert Replay(feed(history), again, checkpoint=checkpoint, target={"into": "a"}).run().is_complete
    assert not again.records
    with pytest.raises(ConfigError, match=r"another replay \(into differ\)"):
        Replay(feed(history), Sent(), checkpoint=checkpoint, target={"into": "b"})
    with pytest.raises(ConfigError, match=r"another replay \(range differ\)"):
        Replay(feed(history, to_ms=10**12), Sent(), checkpoint=checkpoint, target={"into": "a"})
    checkpoint.write_text("{")
    with pytest.raises(ConfigError, match="no checkpoint that can be read"):
        Replay(feed(history), Sent(), checkpoint=checkpoint)
    with pytest.raises(ConfigError, match="does not exist"):
        Replay(feed(history), Sent(), checkpoint=tmp_path / "nowhere" / "checkpoint")


def test_an_input_that_was_written_anew_is_another_one(history: Path, tmp_path: Path) -> None:
    path, checkpoint = tmp_path / "p.jsonl", tmp_path / "checkpoint"
    lines = (history / PAYMENTS_FILE).read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines))
    Replay(FileFeed(path, None, max_payment_bytes=BYTES), Sent(), checkpoint=checkpoint).run()
    path.write_bytes(b"".join(lines[::-1]))
    with pytest.raises(ConfigError, match=r"another replay \(files differ\)"):
        Replay(FileFeed(path, None, max_payment_bytes=BYTES), Sent(), checkpoint=checkpoint)


def test_a_slow_replay_keeps_its_checkpoint_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before a block is full: what it says is what was sent."""
    monkeypatch.setattr("consumer.replay.CHECKPOINT_S", 0.0)
    line = {"event_id": "", "event_time": 0, "card_id": "c", "merchant_id": "m", "amount_minor": 1, "currency": "USD"}
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps(line | {"event_id": str(n), "event_time": 1_600_000_000_000 + n}) + "\n" for n in range(9))
    )
    seen_: list[int] = []

    class Looking(Sent):
        def send(self, records: Sequence[Record]) -> None:
            if (tmp_path / "at").exists():
                seen_.append(json.loads((tmp_path / "at").read_bytes())["position"])
            super().send(records)

    feed_ = FileFeed(tmp_path / "p.jsonl", None, max_payment_bytes=BYTES)
    Replay(feed_, Looking(), speed=1_000.0, checkpoint=tmp_path / "at").run()
    assert seen_ == list(range(1, 9))


def test_nothing_counts_as_done_that_was_not_acknowledged(history: Path, tmp_path: Path) -> None:
    class Refusing(Sent):
        def flush(self) -> None:
            raise KafkaUnavailable("no")

    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KafkaUnavailable):
        Replay(feed(history), Refusing(), checkpoint=checkpoint).run()
    assert not checkpoint.exists()


def test_a_pace_keeps_records_as_far_apart_as_they_were_divided_by_the_speed(tmp_path: Path) -> None:
    """By the clock that the replay is given: nothing is asserted on how long anything took."""
    line = {"event_id": "", "event_time": 0, "card_id": "c", "merchant_id": "m", "amount_minor": 1, "currency": "USD"}
    times = [1_600_000_000_000 + at for at in (0, 400, 300, 2_000, 2_000, 5_000)]  # the third is late
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps(line | {"event_id": str(n), "event_time": at}) + "\n" for n, at in enumerate(times))
    )
    moments: list[float] = []

    class Timed(Sent):
        def send(self, records: Sequence[Record]) -> None:
            moments.extend([time.monotonic()] * len(records))

    begun = time.monotonic()
    done = Replay(FileFeed(tmp_path / "p.jsonl", None, max_payment_bytes=BYTES), Timed(), speed=20.0).run()
    assert done.late_p99_ms is not None
    latest = 0
    for at, moment in zip(times, moments, strict=True):
        latest = max(latest, at)
        assert moment - begun >= (latest - times[0]) / 1_000 / 20  # never early


# -- real Kafka


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "from consumer.cli import main; main()", "replay", *words]


def environment(kafka: KafkaBroker) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    return kept | {"FRAUDLINE_KAFKA__BROKERS": kafka.bootstrap}


def seen(kafka: KafkaBroker, *topics: str) -> list[Seen]:
    with ReadCommitted(kafka.bootstrap, topics) as reader:
        return reader.read_to_end(60.0)


def test_a_file_goes_into_topics_and_a_topic_into_another(history: Path, kafka: KafkaBroker, unique: str) -> None:
    topics = [f"{unique}-{name}" for name in ("p", "l", "p2", "l2")]
    kafka.create_topics(dict.fromkeys(topics, 3))
    files = ["--payments", str(history / PAYMENTS_FILE), "--labels", str(history / LABELS_FILE)]
    run = subprocess.run(
        command(*files, "--into", topics[0], "--labels-into", topics[1], "--json"),
        cwd=ROOT, env=environment(kafka), capture_output=True, text=True, check=True,
    )  # fmt: skip
    done = json.loads(run.stdout)
    first = seen(kafka, *topics[:2])
    assert len(first) == done["payments"] + done["labels"]
    # headers, keys and timestamps of a topic are kept where that is asked for
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    producer.produce(
        topics[0], b"anything", b"key", headers=[("trace", b"1"), ("empty", None)], timestamp=1_500_000_000_000
    )
    assert producer.flush(10) == 0
    run = subprocess.run(
        command("--payments-topic", topics[0], "--labels-topic", topics[1], "--into", topics[2],
                "--labels-into", topics[3], "--keep-timestamps", "--json"),
        cwd=ROOT, env=environment(kafka), capture_output=True, text=True, check=True,
    )  # fmt: skip
    total = len(first) + 1
    assert json.loads(run.stdout)["payments"] + json.loads(run.stdout)["labels"] == total
    before = seen(kafka, *topics[:2])
    after = seen(kafka, *topics[2:])
    assert len(after) == total

    def told(records: list[Seen]) -> dict[tuple[str, bytes | None], list[Any]]:
        found = defaultdict(list)
        for each in sorted(records, key=lambda each: (each.topic, each.partition, each.offset)):
            found[each.topic[-2:].strip("-2"), each.key].append((each.value, each.headers, each.timestamp_ms))
        return found

    assert told(after) == told(before)


def test_records_of_a_topic_come_by_their_timestamps_and_each_partition_in_its_own_order(
    kafka: KafkaBroker, unique: str
) -> None:
    kafka.create_topics({unique: 4})
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    draw = random.Random(3)
    for number in range(2_000):
        at = 1_600_000_000_000 + 10 * number + draw.choice((0, 0, -500))
        producer.produce(unique, str(number).encode(), partition=draw.randrange(4), timestamp=at)
    assert producer.flush(10) == 0
    settings = KafkaSettings(brokers=kafka.bootstrap)
    found = ranges(settings, [unique], None, None)
    assert sum(end - start for start, end in found.values()) == 2_000
    topic_feed = TopicFeed(settings, found, None)
    records = [record for block, _ in topic_feed.blocks() for record in block]
    assert sorted(int(each.value or b"") for each in records) == list(range(2_000))
    in_order = [each.at_ms for each in records]
    assert sum(b < a - 500 for a, b in itertools.pairwise(in_order)) == 0
    later = ranges(settings, [unique], 1_600_000_010_000, 1_600_000_015_000)
    part = [record for block, _ in TopicFeed(settings, later, None).blocks() for record in block]
    assert 400 < len(part) < 600


def test_a_record_that_the_broker_refuses_is_told_and_not_acknowledged(kafka: KafkaBroker, unique: str) -> None:
    kafka.create_topics({unique: 1}, {"max.message.bytes": "200"})
    sink = TopicSink(KafkaSettings(brokers=kafka.bootstrap), unique, None, keep_timestamps=False, is_paced=True)
    sink.send([Record(0, False, b"k", bytes(range(256)))])
    with pytest.raises(KafkaUnavailable, match=f"did not take every record of {unique}"):
        sink.flush()


def test_a_replay_of_a_topic_goes_on_to_where_it_was_to_go(kafka: KafkaBroker, unique: str, tmp_path: Path) -> None:
    kafka.create_topics({unique: 2})
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    for number in range(1_000):
        producer.produce(unique, str(number).encode(), partition=number % 2, timestamp=1_600_000_000_000 + number)
    assert producer.flush(10) == 0
    settings, sent = KafkaSettings(brokers=kafka.bootstrap), list[Record]()
    for most in (10, 300, None):
        topic_feed = TopicFeed(settings, ranges(settings, [unique], None, None), None, {"topics": [unique]})
        sink = Sent(most)
        replay = Replay(topic_feed, sink, checkpoint=tmp_path / "at")
        sink.full = replay.stop
        replay.run()
        sent += sink.records
        producer.produce(unique, b"later", partition=0)  # not asked for when it began
        assert producer.flush(10) == 0
    assert sorted(int(each.value or b"") for each in sent) == list(range(1_000))


@pytest.mark.faults
def test_a_replay_that_is_killed_goes_on_from_its_checkpoint_and_leaves_nothing_out(
    tmp_path: Path, kafka: KafkaBroker, unique: str
) -> None:
    write(Simulation(payments=120_000, seed=2), tmp_path)
    kafka.create_topics({unique: 2})
    words = ("--payments", str(tmp_path / PAYMENTS_FILE), "--into", unique, "--checkpoint", str(tmp_path / "at"))
    slow = ("--speed", "150000")  # 30 days in about 17 s
    running = subprocess.Popen(command(*words, *slow), cwd=ROOT, env=environment(kafka))
    while not (tmp_path / "at").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.kill()
    running.wait()
    stopped = subprocess.Popen(
        command(*words, *slow), cwd=ROOT, env=environment(kafka), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    known = (tmp_path / "at").read_bytes()
    while (tmp_path / "at").read_bytes() == known:
        assert stopped.poll() is None
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    _, told = stopped.communicate(timeout=60)
    assert stopped.returncode == 0
    assert b"it goes on with the same command" in told
    subprocess.run(command(*words), cwd=ROOT, env=environment(kafka), check=True, capture_output=True)
    expected = [json.loads(line)["event_id"] for line in (tmp_path / PAYMENTS_FILE).read_bytes().splitlines()]
    records = seen(kafka, unique)
    numbers = {event_id: place for place, event_id in enumerate(expected)}
    for partition in (0, 1):
        places = [numbers[json.loads(each.value)["event_id"]] for each in records if each.partition == partition]
        repeats = sum(b <= a for a, b in itertools.pairwise(places))
        assert repeats <= 1, "only the kill may repeat anything"
    assert {json.loads(each.value)["event_id"] for each in records} == set(expected)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "either --payments PATH or --payments-topic"),
        ("--payments a", "--into TOPIC, or --dry-run"),
        ("--payments a --labels b --into c", "--labels-into TOPIC"),
        ("--payments a --into c --labels-into d", "--labels-into needs"),
        ("--payments a.jsonl --into c --speed fast", "--speed must be max"),
        ("--payments /nowhere.jsonl --into c", "/nowhere.jsonl is not there"),
        ("--payments-topic a --into a", "can't be replayed into itself"),
        ("--payments-topic a --into b --map x=y", "--map belongs to --payments"),
        ("--payments a.jsonl --into b --offsets 0:1-2", "belong to --payments-topic"),
    ],
)
def test_what_does_not_say_from_where_to_where_is_refused(
    words: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["replay", *words.split()])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1
