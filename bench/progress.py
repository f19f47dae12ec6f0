"""How far a consumer group has come, seen from outside: it reads offsets and joins nothing."""

from __future__ import annotations

import time
from typing import Final, Self

from confluent_kafka import Consumer, TopicPartition

from bench.loadgen import Sent

TIMEOUT_S: Final = 10.0
LOOK_EVERY_S: Final = 0.05


class Progress:
    """The committed offsets of a group in one topic, and the topic's end. Use as a context manager."""

    def __init__(self, brokers: str, group: str, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, "enable.auto.commit": False})
        found = self._consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions
        self._partitions = [TopicPartition(topic, partition) for partition in found]

    def committed(self) -> dict[int, int]:
        """The next offset by partition; 0 where nothing is committed."""
        found = self._consumer.committed(self._partitions, timeout=TIMEOUT_S)
        return {each.partition: max(each.offset, 0) for each in found}

    def lag(self) -> int:
        """How many records are there that the group has not committed."""
        done = self.committed()
        ends = [self._consumer.get_watermark_offsets(each, timeout=TIMEOUT_S)[1] for each in self._partitions]
        return sum(max(0, end - done[each.partition]) for each, end in zip(self._partitions, ends, strict=True))

    def wait_done(self, sent: Sent, deadline_s: float) -> bool:
        """Whether the group commits all that was sent in time."""
        wanted = {
            int(each): int(sent["offset"][sent["partition"] == each].max()) + 1 for each in set(sent["partition"])
        }
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            done = self.committed()
            if all(done[partition] >= end for partition, end in wanted.items()):
                return True
            time.sleep(LOOK_EVERY_S)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()
