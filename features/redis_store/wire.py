"""Calls and replies of `apply.lua` as Redis carries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from hiredis import pack_command

from features.event import UNIT_BYTES
from features.store import Append, Applied, Run, packed_spans

_RUN: Final = 4  # numbers


@dataclass(frozen=True, slots=True)
class Call:
    """One shard's call: what `apply.lua` is given, and the keys whose logs are to be read right after it.

    Redis reads them itself, in the same transaction: through the script every byte would be copied and hashed by Lua.

    Attributes:
        begins: number of keys, and the key of the shard's hash.
        logs: the keys of the logs, `count` of them, packed as Redis wants its words; they are sent twice.
        rest: the other keys, and the arguments.
    """

    begins: tuple[bytes, bytes]
    logs: bytes
    count: int
    rest: Sequence[bytes]

    @property
    def commands(self) -> int:
        """How many replies its transaction gets; the last one is that of EXEC."""
        return 4 if self.count else 3

    def transaction(self, *script: bytes) -> bytes:
        """Its commands, packed; `script` says how the script is named."""
        words = len(script) + len(self.begins) + self.count + len(self.rest)
        apply = b"*%d\r\n%b%b%b" % (words, _words(*script, *self.begins), self.logs, _words(*self.rest))
        read = b"*%d\r\n%b%b" % (self.count + 1, _MGET, self.logs) if self.count else b""
        return _MULTI + apply + read + _EXEC


def call(prefix: bytes, append: Append, idle_s: int) -> Call:
    """What `apply.lua` wants."""
    places = {key: place for place, key in enumerate(append.keys, start=2)}
    extra = [key for key in (*(each.key for each in append.replacements), *append.refresh) if key not in places]
    for key in extra:
        places.setdefault(key, len(places) + 2)
    others = list(places)[len(append.keys) :]
    replacements = [[places[each.key], each.cut] for each in append.replacements]
    rest = [
        *[prefix + key for key in others],
        str(append.epoch).encode(),
        packed_spans(append.spans),
        msgspec.msgpack.encode(append.counts),
        append.records.tobytes(),
        str(idle_s).encode(),
        msgspec.msgpack.encode(replacements),
        msgspec.msgpack.encode([places[key] for key in append.refresh]),
        str(len(others)).encode(),
        b"1" if append.all_floors else b"0",
        *[content for each in append.replacements for content in (each.first, each.summary)],
    ]
    logs = _words(*[prefix + key for key in append.keys]) if append.keys else b""
    return Call((str(1 + len(places)).encode(), prefix + b"meta"), logs, len(append.keys), rest)


def _words(*words: bytes) -> bytes:
    """Words as they stand in a command, without the head that says how many there are."""
    packed: bytes = pack_command(words)  # type: ignore[arg-type]  # of bytes
    return packed[packed.index(b"\n") + 1 :]


_MULTI: Final[bytes] = pack_command(("MULTI",))
_EXEC: Final[bytes] = pack_command(("EXEC",))
_MGET: Final = _words(b"MGET")


def applied(reply: list[Any], logs: Sequence[bytes | None]) -> Applied | None:
    """The reply to a call that was not refused, and the logs after it; None if one of them can't be a log."""
    held = [log or b"" for log in logs]
    lengths, rest = np.divmod(np.fromiter(map(len, held), np.int64, len(held)), UNIT_BYTES)
    if rest.any():
        return None
    runs = [runs_of(packed) for packed in reply[4]]
    return Applied(b"".join(held), lengths, reply[1] == 1, reply[2], reply[3], runs, _floors(reply[5]))


def runs_of(packed: bytes) -> list[Run]:
    """A source's runs, from the hash of a shard."""
    numbers = msgspec.msgpack.decode(packed)
    return [Run(*numbers[i : i + _RUN]) for i in range(0, len(numbers), _RUN)]


def _floors(flat: list[bytes]) -> dict[int, int]:
    """All floors by source id, from the hash of a shard."""
    held = dict(zip(flat[::2], flat[1::2], strict=True))
    return {int(value): int(held[b"f:" + name[2:]]) for name, value in held.items() if name[:2] == b"i:"}
