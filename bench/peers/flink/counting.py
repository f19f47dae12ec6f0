"""The usual counters as Flink's Python functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson
import pandas as pd
from pyflink.common import Row
from pyflink.datastream import FlatMapFunction, RuntimeContext
from pyflink.table import FunctionContext, ScalarFunction

from bench.peers.counters import Counters, is_alert
from bench.peers.flink.job import DECIDED

FIELDS: Final = ("event_id", "event_time", "card_id", "merchant_id", "amount_minor")


class DecideOne(FlatMapFunction):
    """A payment's row of `DECIDED`; none for what is no payment."""

    def __init__(self, redis_url: str, model: str) -> None:
        self._opened_with = redis_url, model

    def open(self, runtime_context: RuntimeContext) -> None:  # noqa: ARG002
        """Load the model where the function runs, once."""
        self._counters = Counters(*self._opened_with)

    def flat_map(self, value: str) -> Iterator[Row]:
        """Decide one."""
        payment = parsed(value)
        if payment is not None:
            yield Row(*_told(self._counters.decide(payment)))

    def close(self) -> None:
        """Release the connection."""
        self._counters.close()


class DecideMany(ScalarFunction):
    """Rows of `DECIDED` for a batch of payments; empty ones for what is no payment."""

    def __init__(self, redis_url: str, model: str) -> None:
        self._opened_with = redis_url, model

    def open(self, function_context: FunctionContext) -> None:  # noqa: ARG002
        """Load the model where the function runs, once."""
        self._counters = Counters(*self._opened_with)

    def eval(self, payloads: pd.Series) -> pd.DataFrame:
        """Decide a batch."""
        payments = [parsed(payload) for payload in payloads]
        decisions = iter(self._counters.decide_batch([payment for payment in payments if payment is not None]))
        rows = [(None, None, None) if payment is None else _told(next(decisions)) for payment in payments]
        return pd.DataFrame(rows, columns=list(DECIDED))

    def close(self) -> None:
        """Release the connection."""
        self._counters.close()


def parsed(value: bytes | str) -> dict[str, Any] | None:
    """The payment, or None for what is none."""
    try:
        payment = orjson.loads(value)
    except ValueError:
        return None
    return payment if isinstance(payment, dict) and all(field in payment for field in FIELDS) else None


def _told(decision: dict[str, Any]) -> tuple[str, str, str | None]:
    record = orjson.dumps(decision).decode()
    return decision["card_id"], record, record if is_alert(decision) else None
