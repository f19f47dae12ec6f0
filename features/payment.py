"""The features of a payment alone: what needs no log."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from features.catalog import ROUND_AMOUNT_MINOR, Catalog
from features.event import PaymentBatch, Words
from features.kernels import Table, borrowing, compiled, readable
from features.units import DAY, MINUTE

Values = npt.NDArray[np.float32]

_AMOUNT, _ROUND_AMOUNT, _HOUR, _WEEKDAY, _WEEKEND, _NIGHT, _CHANNEL, _MCC, _FOREIGN = range(9)
PAYMENT_OPS: Final = {
    "amount": _AMOUNT,
    "round_amount": _ROUND_AMOUNT,
    "hour": _HOUR,
    "weekday": _WEEKDAY,
    "weekend": _WEEKEND,
    "night": _NIGHT,
    "channel": _CHANNEL,
    "mcc": _MCC,
    "foreign": _FOREIGN,
}
"""The operations over a payment alone, with their numbers."""

NIGHT_ENDS: Final = 7 * 60 * MINUTE


class PaymentReader:
    """The features of a catalog that are computed from the payment alone, compiled once."""

    def __init__(self, catalog: Catalog) -> None:
        """Settle which operation fills which column."""
        self.columns = np.array(catalog.payment_columns, np.int64)
        self._operations = np.array([PAYMENT_OPS[catalog.features[c].op] for c in catalog.payment_columns], np.int64)

    def read(self, batch: PaymentBatch) -> Values:
        """(n, columns) the features of n payments, NaN where missing."""
        values = np.empty((batch.event_time.size, self.columns.size), np.float32)  # a history has columns alone
        self._fill(batch, values, np.arange(self.columns.size))
        return values

    def fill(self, batch: PaymentBatch, values: Values) -> None:
        """The same, into a matrix of all features."""
        self._fill(batch, values, self.columns)

    def _fill(self, batch: PaymentBatch, values: Values, columns: Words) -> None:
        read_payments(
            readable(batch.event_time),
            readable(batch.amount),
            batch.channel,
            batch.mcc,
            batch.country,
            batch.card_country,
            ROUND_AMOUNT_MINOR,
            self._operations,
            columns,
            values,
        )


@compiled
def read_payments(
    event_time: Words,
    amount: Words,
    channel: npt.NDArray[np.uint8],
    mcc: npt.NDArray[np.uint16],
    country: npt.NDArray[np.uint16],
    card_country: npt.NDArray[np.uint16],
    round_minor: int,
    operations: Table,
    columns: Table,
    values: Values,
) -> None:
    """Put the value of operation k of n payments into column `columns[k]` of `values`, shape (n, any)."""
    for i in range(event_time.size):
        abroad = np.nan
        if country[i] and card_country[i]:
            abroad = 1.0 if country[i] != card_country[i] else 0.0
        for k in range(operations.size):
            operation = operations[k]
            if operation == _FOREIGN:
                value = abroad
            elif operation == _CHANNEL:
                value = _code(channel[i])
            elif operation == _MCC:
                value = _code(mcc[i])
            elif operation == _AMOUNT:
                value = float(amount[i])
            elif operation == _ROUND_AMOUNT:
                value = 1.0 if amount[i] % round_minor == 0 else 0.0
            else:
                value = _of_time(operation, event_time[i])
            values[i, columns[k]] = value


@borrowing
def _code(code: int) -> float:
    """A code as a number; 0 means absent."""
    return float(code) if code else np.nan


@borrowing
def _of_time(operation: int, time: int) -> float:
    weekday = (time // DAY + 3) % 7  # 1970-01-01 was a Thursday
    if operation == _HOUR:
        return (time % DAY) / (60 * MINUTE)
    if operation == _WEEKDAY:
        return float(weekday)
    if operation == _WEEKEND:
        return 1.0 if weekday >= 5 else 0.0
    return 1.0 if time % DAY < NIGHT_ENDS else 0.0  # _NIGHT
