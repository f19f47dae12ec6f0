"""Units of a log and the constants of a fold: what `docs/features.md` fixes."""

from __future__ import annotations

from typing import Final

import numpy as np

from features.event import KIND_PAYMENT, KIND_SHIFT, Words
from features.kernels import Table, borrowing

KIND_SUMMARY: Final = 3
KIND_BUCKET: Final = 4
LIST_WIDTH: Final = 3  # fraud labels, or days of frozen ones, in a unit of a summary

MINUTE: Final = 60_000
DAY: Final = 86_400_000
SIZES: Final = (MINUTE, 10 * MINUTE, 120 * MINUTE, DAY)  # of buckets, by level
FINE_FOR: Final = (5 * MINUTE, 60 * MINUTE, DAY)  # how long after its end a coarser bucket is kept in finer ones
COARSEST: Final = 3
SMALL_AMOUNT: Final = 500
NEAR: Final = 120 * MINUTE
NEVER: Final = np.iinfo(np.int64).max

KEEP, HORIZON, DUPLICATE, FRAUDS = 0, 1, 2, 3  # limits, in the order of `catalog.Limits`

# scalars of a fold's state: the clock; how many buckets, listed frauds and days of frozen ones there are; the first
# raw payment and the number of payments; the clock at which a bucket changes; how many records were folded
CLOCK, BUCKETS, LISTED, DAYS, FIRST, PAYMENTS, NEXT, FOLDED = 0, 1, 2, 3, 4, 5, 6, 7
SCALARS: Final = 8
MAX_BUCKETS: Final = 192  # at most 15 + 18 + 24 + 39 are alive at a time
MAX_DAYS: Final = 64

START, LEVEL, B_COUNT, B_SMALL, B_TOTAL, B_HIGH, B_LOW, B_PEAK = 0, 1, 2, 3, 4, 5, 6, 7  # columns of a bucket
BUCKET_COLUMNS: Final = 8

LOW_BITS: Final = 40
LOW_MASK: Final = (1 << LOW_BITS) - 1
HALF_MASK: Final = (1 << 20) - 1

COUNTRY, CATEGORY = 3, 4  # of a record's five tags; the first three are its counterparts
TAGS: Final = 5


@borrowing
def is_payment(words: Words, unit: int) -> bool:
    """Whether a unit behind a log's summary is a payment; else it is a label."""
    return (words[unit, 1] >> KIND_SHIFT) & 0xFF == KIND_PAYMENT


@borrowing
def has_summary(words: Words, start: int, end: int) -> bool:
    """Whether the log in `words[start:end]` begins with a summary."""
    return start < end and (words[start, 1] >> KIND_SHIFT) & 0xFF == KIND_SUMMARY


@borrowing
def raw_of_summary(words: Words, start: int) -> int:
    """How many payments a summary's raw part has."""
    return (words[start, 2] >> 48) & 0xFFFF


@borrowing
def first_record(words: Words, start: int, end: int) -> int:
    """The first unit of a log that is a record: behind the buckets and labels of its summary."""
    if not has_summary(words, start, end):
        return start
    counts = words[start, 2]
    listed, days = (counts >> 16) & 0xFFFF, (counts >> 32) & 0xFFFF
    return start + 1 + (counts & 0xFFFF) + (listed + 2) // LIST_WIDTH + (days + 2) // LIST_WIDTH


@borrowing
def forgotten(time: int, clock: int, horizon: int) -> bool:
    """Whether the UTC day of `time` ended at or before clock - horizon."""
    return time - time % DAY + DAY <= clock - horizon


@borrowing
def tag_of(words: Words, unit: int, which: int) -> int:
    """One of a record's tags: first, second, third counterpart, country, merchant category; 0 is none."""
    if which == 0:
        return words[unit, 4] & 0xFFFFFFFF
    if which == 1:
        return (words[unit, 4] >> 32) & 0xFFFFFFFF
    if which == 2:
        return words[unit, 5] & 0xFFFFFFFF
    if which == COUNTRY:
        return (words[unit, 5] >> 32) & 0xFFFF
    return (words[unit, 5] >> 48) & 0xFFFF


@borrowing
def square(amount: int) -> tuple[int, int]:
    """An amount below 2**40, squared: upper part and lower 40 bits, so that their sums stay exact."""
    high, low = amount >> 20, amount & HALF_MASK
    rest = ((2 * high * low) << 20) + low * low
    return high * high + (rest >> LOW_BITS), rest & LOW_MASK


@borrowing
def place_of(table: Table, key: int, generation: int) -> int:
    """Where a key is, or would be, in a table of (key, value, generation) with a power of two of rows."""
    mask = table.shape[0] - 1
    place = (key ^ (key >> 29)) & mask
    while table[place, 2] == generation and table[place, 0] != key:
        place = (place + 1) & mask
    return place


@borrowing
def power_of_two(least: int) -> int:
    """The number of rows of a table for `least` / 2 keys."""
    size = 16
    while size < least:
        size *= 2
    return size
