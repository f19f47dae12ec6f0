"""Compares a stored log with one that was made of all its records anew: are they the same history?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.event import FLAG_SHIFT, MAX_PARTITION, OFFSET_BITS, OFFSET_MASK, Words, source_id
from features.reader import EntityReader
from features.units import first_record, has_summary, is_payment, raw_of_summary

_PLAIN: Final = (1 << FLAG_SHIFT) - 1
_NOWHERE: Final = source_id(MAX_PARTITION) << OFFSET_BITS | OFFSET_MASK  # a source that no record has


@dataclass(frozen=True, slots=True)
class Parts:
    """A stored log taken apart.

    Attributes:
        folded: how many records its summary stands for; 0 without one.
        kept: (k, 6) the payments that its summary has as they were, without flags.
        singles: (m, 6) the records behind the summary.
    """

    folded: int
    kept: Words
    singles: Words

    @classmethod
    def of(cls, log: Words) -> Parts:
        """Take a log, shape (units, 6), apart."""
        if not has_summary(log, 0, len(log)):
            return cls(0, log[:0], log)
        first = first_record(log, 0, len(log))
        end = first + raw_of_summary(log, 0)
        kept = log[first:end].copy()
        kept[:, 1] &= _PLAIN
        return cls(int(log[0, 3]), kept, log[end:])


def difference(reader: EntityReader, log: Words, expected: Words, *, complete: bool = True) -> str:
    """What is wrong with a stored log, in a few words; empty if nothing is.

    `expected` (n, 6) are all records that it should have, in the order in which they were recorded. Every record that
    is still by itself has to be there, bit for bit; what is folded shows in the features of one more payment.
    If they are not `complete` then what is missing is forgotten by now, and was folded.
    """
    parts = Parts.of(log)
    tail = expected[len(expected) - len(parts.singles) :] if len(parts.singles) else expected[:0]
    held = parts.folded + len(parts.singles)
    if held < len(expected) or (complete and held > len(expected)) or not np.array_equal(parts.singles, tail):
        return _unlike(parts.singles, tail, held, len(expected))
    known = {bytes(record) for record in expected}
    if complete and any(bytes(record) not in known for record in parts.kept):
        return "a payment of its summary is not Kafka's"
    payments = [row for row in expected if is_payment(row.reshape(1, -1), 0)]
    if payments and not np.array_equal(_probed(reader, log, payments), _probed(reader, expected, payments)):
        return "what is folded makes other features than its records"
    return ""


def described(source: int) -> str:
    """A record's place as people write it."""
    number = int(source) >> OFFSET_BITS & 0xFFFF
    topic = "labels" if number >> 15 else "payments"
    return f"{topic} partition {number & 0x7FFF} offset {int(source) & OFFSET_MASK}"


def _probed(reader: EntityReader, log: Words, payments: list[Words]) -> Words:
    """What one more payment would see of a log: like the newest one, at the largest time of all."""
    probe = payments[-1].copy()
    probe[0], probe[2], probe[3] = max(row[0] for row in payments), _NOWHERE, ~probe[3]
    probed = np.concatenate((log, probe.reshape(1, -1)))
    values, extra = reader.read(probed, np.array([0]), np.array([len(probed)]), np.array([0, 1]), probe[2:3])
    return np.concatenate((values.view(np.int32).ravel(), extra.ravel()))


def _unlike(singles: Words, tail: Words, held: int, due: int) -> str:
    sources = singles[:, 2].tolist()
    if len(set(sources)) < len(sources):
        twice = next(source for at, source in enumerate(sources) if source in sources[:at])
        return f"{described(twice)} is there twice"
    if held != due:
        return f"it has {held} records and {due} are due"
    if sorted(sources) != sorted(tail[:, 2].tolist()):
        return "it has other records than are due"
    if sources != tail[:, 2].tolist():
        return "its records lie in another order than the journal tells"
    wrong = next(at for at in range(len(singles)) if not np.array_equal(singles[at], tail[at]))
    return f"{described(sources[wrong])} is not what Kafka holds"
