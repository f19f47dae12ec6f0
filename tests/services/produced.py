"""Requests to produce and their answers, as Kafka's protocol writes them since lengths are varints."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

OLDEST: Final = 9  # the first version of the request that is so
_REQUEST: Final = struct.Struct(">hhi")  # its kind, that kind's version, a correlation id
_SHORT: Final = struct.Struct(">h")
_INT: Final = struct.Struct(">i")
_NOWHERE: Final = struct.pack(">qqq", -1, -1, -1)  # offset, timestamp, start of the log


class Produced(NamedTuple):
    """What a request to produce is about. librdkafka names one partition in each."""

    correlation: int
    topic: str
    partition: int

    @classmethod
    def of(cls, frame: bytes) -> Produced:
        """Read the beginning of a request; lengths are one more than they are."""
        _, version, correlation = _REQUEST.unpack_from(frame)
        assert version >= OLDEST, f"requests to produce of version {version} are not understood"
        at = _REQUEST.size
        (client_bytes,) = _SHORT.unpack_from(frame, at)
        at += _SHORT.size + max(0, client_bytes) + 1  # no tags
        id_bytes, at = _varint(frame, at)
        at += max(0, id_bytes - 1) + _SHORT.size + _INT.size  # acks, time-out
        _, at = _varint(frame, at)  # how many topics
        name_bytes, at = _varint(frame, at)
        topic = frame[at : at + name_bytes - 1].decode()
        _, at = _varint(frame, at + name_bytes - 1)  # how many partitions
        return cls(correlation, topic, *_INT.unpack_from(frame, at))

    def answer(self, code: int) -> bytes:
        """An answer that says this code of the partition, and nothing else. The topic's name is a short one."""
        name = self.topic.encode()
        of_partition = _INT.pack(self.partition) + _SHORT.pack(code) + _NOWHERE + b"\x01\x00\x00"  # no errors, no text
        of_topic = bytes([len(name) + 1]) + name + b"\x02" + of_partition + b"\x00"
        return _INT.pack(self.correlation) + b"\x00\x02" + of_topic + _INT.pack(0) + b"\x00"


def _varint(frame: bytes, at: int) -> tuple[int, int]:
    """An unsigned varint, and where it ends."""
    value = shift = 0
    while True:
        byte = frame[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
