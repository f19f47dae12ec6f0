"""What each operation of the catalog makes of a payment's cells. `docs/features.md` defines every one in words.

Cells are exact integers; here they become float64, and float32 when they are stored. `OPERATIONS` gives an operation
its number and the channels that it needs; `value` is where it is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from features.cells import (
    AMOUNT,
    CLOSE,
    COUNT,
    DISTINCT,
    EARLIER,
    FRAUD_NEWEST,
    FRAUD_OLDEST,
    HAS,
    KNOWN_FRAUDS,
    LAST_COUNTRY,
    OLDEST,
    OWN_COUNTRY,
    PEAK,
    RAW,
    REPEATED,
    SAME,
    SINCE_LAST,
    SMALL,
    SQUARE_HIGH,
    SQUARE_LOW,
    TOTAL,
    TROUGH,
)
from features.kernels import Table, inlined
from features.units import LOW_BITS, NEVER

(
    _COUNT,
    _SUM,
    _MEAN,
    _MAX,
    _STD,
    _SMALL_COUNT,
    _AMOUNT_TO_MEAN,
    _AMOUNT_TO_MAX,
    _AMOUNT_TO_MIN,
    _AMOUNT_ZSCORE,
    _DISTINCT,
    _SAME,
    _SINCE_LAST,
    _SINCE_LAST_RATIO,
    _VELOCITY,
    _NEAR_HOUR,
    _COUNTRY_CHANGED,
    _FRAUDS,
    _FRAUD_RATE,
    _RISK,
    _SINCE_FRAUD,
    _SINCE_FIRST_FRAUD,
) = range(22)

# columns of a program: one row a feature
OP, LOWER, UPPER, WHICH, WINDOW, USUAL = 0, 1, 2, 3, 4, 5  # USUAL: cells below it are the last 30 days
PROGRAM_COLUMNS: Final = 6

NO_SPREAD: Final = 1e-12  # of the mean's square: a smaller variance is rounding


@dataclass(frozen=True)
class Operation:
    """An operation's number, and the channels it needs; `by_tag`: the one of its counterpart."""

    number: int
    channels: tuple[int, ...] = ()
    by_tag: int | None = None


_RAW: Final = (RAW, TROUGH, OLDEST, CLOSE)
OPERATIONS: Final[dict[str, Operation]] = {
    "count": Operation(_COUNT),
    "count_before": Operation(_COUNT),
    "sum": Operation(_SUM),
    "mean": Operation(_MEAN),
    "max": Operation(_MAX),
    "std": Operation(_STD, (SQUARE_HIGH, SQUARE_LOW)),
    "small_count": Operation(_SMALL_COUNT),
    "amount_to_mean": Operation(_AMOUNT_TO_MEAN),
    "amount_to_max": Operation(_AMOUNT_TO_MAX),
    "amount_to_min": Operation(_AMOUNT_TO_MIN, _RAW),
    "amount_zscore": Operation(_AMOUNT_ZSCORE, (SQUARE_HIGH, SQUARE_LOW)),
    "distinct": Operation(_DISTINCT, by_tag=DISTINCT),
    "same": Operation(_SAME, by_tag=SAME),
    "since_last": Operation(_SINCE_LAST),
    "since_last_ratio": Operation(_SINCE_LAST_RATIO, _RAW),
    "velocity": Operation(_VELOCITY),
    "near_hour": Operation(_NEAR_HOUR, _RAW),
    "country_changed": Operation(_COUNTRY_CHANGED),
    "frauds": Operation(_FRAUDS, (KNOWN_FRAUDS,)),
    "fraud_rate": Operation(_FRAUD_RATE, (KNOWN_FRAUDS,)),
    "risk": Operation(_RISK, (KNOWN_FRAUDS,)),
    "since_fraud": Operation(_SINCE_FRAUD, (KNOWN_FRAUDS,)),
    "since_first_fraud": Operation(_SINCE_FIRST_FRAUD, (KNOWN_FRAUDS,)),
}


@inlined
def _sum(sums: Table, channel: int, lower: int, upper: int) -> float:
    return float(sums[channel, upper] - sums[channel, lower])


@inlined
def _most(cells: Table, channel: int, lower: int, upper: int) -> float:
    peak = cells[channel, lower]
    for cell in range(lower + 1, upper):
        peak = max(peak, cells[channel, cell])
    return float(peak)


@inlined
def _least(cells: Table, channel: int, lower: int, upper: int) -> int:
    trough = cells[channel, lower]
    for cell in range(lower + 1, upper):
        trough = min(trough, cells[channel, cell])
    return trough


@inlined
def _divide(above: float, below: float) -> float:
    """The quotient, missing where the divisor is not above 0."""
    return above / below if below > 0 else np.nan


@inlined
def _earlier_total(sums: Table, extra: Table, lower: int, upper: int) -> float:
    """Sum of earlier amounts: the own one has age 0, and is in the first cell unless it is repeated."""
    own = extra[AMOUNT] if lower == 0 and not extra[REPEATED] else 0
    return _sum(sums, TOTAL, lower, upper) - own


@inlined
def _deviation(sums: Table, extra: Table, lower: int, upper: int) -> tuple[float, float]:
    """Mean and population deviation of earlier amounts: sqrt(n * sum of squares - sum**2) / n."""
    count, total = _sum(sums, EARLIER, lower, upper), _earlier_total(sums, extra, lower, upper)
    high, low = _sum(sums, SQUARE_HIGH, lower, upper), _sum(sums, SQUARE_LOW, lower, upper)
    spread = count * (high * float(1 << LOW_BITS) + low) - total * total
    if count < 2:
        return np.nan, np.nan
    return total / count, np.sqrt(spread) / count if spread > NO_SPREAD * total * total else 0.0


@inlined
def value(program: Table, row: int, sums: Table, cells: Table, extra: Table) -> float:
    """One feature of one payment: `row` is its place in the program, the rest is from `cells.gather`."""
    op, lower, upper, which = program[row, OP], program[row, LOWER], program[row, UPPER], program[row, WHICH]
    amount = float(extra[AMOUNT])
    if op == _COUNT:
        return _sum(sums, COUNT, lower, upper)
    if op == _SUM:
        return _sum(sums, TOTAL, lower, upper)
    if op == _DISTINCT:
        return _sum(sums, DISTINCT + which, lower, upper)
    if op == _SAME:
        return _sum(sums, SAME + which, lower, upper) if (extra[HAS] >> which) & 1 else np.nan
    if op == _FRAUDS:
        return _sum(sums, KNOWN_FRAUDS, lower, upper)
    if op == _SMALL_COUNT:
        return _sum(sums, SMALL, lower, upper)
    if op == _MEAN:
        return _divide(_sum(sums, TOTAL, lower, upper), _sum(sums, COUNT, lower, upper))
    if op == _MAX:
        own = amount if lower == 0 and not extra[REPEATED] else -1.0
        largest = max(_most(cells, PEAK, lower, upper), own)
        return largest if largest >= 0 else np.nan
    if op == _STD:
        return _deviation(sums, extra, lower, upper)[1]
    if op == _AMOUNT_ZSCORE:
        mean, deviation = _deviation(sums, extra, lower, upper)
        return _divide(amount - mean, deviation)
    if op == _AMOUNT_TO_MEAN:
        earlier = _sum(sums, EARLIER, lower, upper)
        return _divide(amount * earlier, _earlier_total(sums, extra, lower, upper))
    if op == _AMOUNT_TO_MAX:
        return _divide(amount, _most(cells, PEAK, lower, upper))
    if op == _AMOUNT_TO_MIN:
        least = _least(cells, TROUGH, lower, upper)
        return amount / max(least, 1) if least < NEVER else np.nan
    if op == _VELOCITY:
        usual = _sum(sums, EARLIER, 0, program[row, USUAL]) * program[row, WINDOW] / 2_592_000_000
        return _divide(_sum(sums, COUNT, lower, upper), usual)
    if op == _NEAR_HOUR:
        return _divide(_sum(sums, CLOSE, lower, upper), _sum(sums, RAW, lower, upper))
    if op == _FRAUD_RATE:
        return _divide(_sum(sums, KNOWN_FRAUDS, lower, upper), _sum(sums, COUNT, lower, upper))
    if op == _RISK:
        count = _sum(sums, COUNT, lower, upper)
        return _sum(sums, KNOWN_FRAUDS, lower, upper) / count if count > 0 else 0.0
    if op == _SINCE_FRAUD:
        newest = _least(cells, FRAUD_NEWEST, lower, upper)
        return newest / 1000 if newest < NEVER else np.nan
    if op == _SINCE_FIRST_FRAUD:
        oldest = _most(cells, FRAUD_OLDEST, lower, upper)
        return oldest / 1000 if oldest >= 0 else np.nan
    if extra[SINCE_LAST] >= program[row, WINDOW]:
        return np.nan
    if op == _SINCE_LAST:
        return extra[SINCE_LAST] / 1000
    if op == _SINCE_LAST_RATIO:
        count = _sum(sums, RAW, lower, upper)
        return _divide(extra[SINCE_LAST] * count, _most(cells, OLDEST, lower, upper))
    if op == _COUNTRY_CHANGED:
        if not extra[LAST_COUNTRY] or not extra[OWN_COUNTRY]:
            return np.nan
        return 1.0 if extra[LAST_COUNTRY] != extra[OWN_COUNTRY] else 0.0
    return np.nan
