"""What came of mutated payments, as a `read_committed` reader of decisions and dead letters sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from tests.fuzz.payments import SECRET
from tests.fuzz.tally import Tally
from tests.support.canaries import leaks

PARTITIONS: Final = 4
DEADLINE_S: Final = 60.0
PATIENCE_S: Final = 60.0


class _Source(msgspec.Struct, gc=False):
    partition: int
    offset: int


class _Decided(msgspec.Struct, gc=False):
    source: _Source


class Outcomes:
    """Reads decisions and dead letters into a tally."""

    def __init__(self, brokers: str, topics: dict[str, str], tally: Tally) -> None:
        self._topics, self._tally = topics, tally
        self._reader = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": "million-reader",  # required by the client; nothing is committed
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        wanted = (topics["decisions"], topics["dead_letters"])
        self._sources = [TopicPartition(topic, at, OFFSET_BEGINNING) for topic in wanted for at in range(PARTITIONS)]
        self._reached: dict[tuple[str, int], int] = {}
        self._reader.assign(self._sources)

    def read_one_each(self, duplicates: Callable[[], int]) -> None:
        """Read until there is an outcome for each record; fail when none came for long."""
        tally, deadline = self._tally, time.monotonic() + PATIENCE_S
        while True:
            if self._read_some():
                deadline = time.monotonic() + PATIENCE_S
                continue
            tally.duplicates = duplicates()
            if len(tally.decided) + len(tally.refused) + tally.duplicates >= tally.sent:
                return
            if time.monotonic() > deadline:
                message = f"no outcome came for {PATIENCE_S:.0f} s; {tally.summary()}"
                raise AssertionError(message)

    def read_to_end(self) -> Tally:
        """Read all that is committed now, as nobody writes any more: a second outcome may have come late."""
        deadline = time.monotonic() + PATIENCE_S
        ends = {(at.topic, at.partition): self._reader.get_watermark_offsets(at, DEADLINE_S)[1] for at in self._sources}
        while any(self._reached.get(source, 0) < end for source, end in ends.items()):
            self._read_some()
            assert time.monotonic() < deadline, f"not everything could be read in {PATIENCE_S:.0f} s"
        return self._tally

    def close(self) -> None:
        """Release the connection."""
        self._reader.close()

    def _read_some(self) -> int:
        """How many came."""
        count = 0
        for message in self._reader.consume(2_000, timeout=0.5):
            source = (message.topic(), message.partition())
            if message.error() is None:
                self._reached[source] = message.offset() + 1
                _take(message, self._topics, self._tally)
                count += 1
            else:  # the end, behind the marker of the last transaction
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                self._reached[source] = message.offset()
        return count


_decode: Final = msgspec.json.Decoder(_Decided).decode


def _take(message: Any, topics: dict[str, str], tally: Tally) -> None:
    if message.topic() == topics["decisions"]:
        source = _decode(message.value()).source
        tally.decided[source.partition, source.offset] += 1
        return
    headers = {name: value or b"" for name, value in message.headers()}
    own = {name: value.decode() for name, value in headers.items() if name.startswith("__connect.errors.")}
    tally.refused[int(own["__connect.errors.partition"]), int(own["__connect.errors.offset"])] += 1
    tally.reasons[own["__connect.errors.class.name"]] += 1
    if found := leaks(own["__connect.errors.exception.message"], (SECRET,)):
        tally.told.setdefault("a dead letter's header", []).extend(found)
