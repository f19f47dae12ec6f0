"""The usual design's way to a decision: counters of tumbling windows in Redis, and one model over them.

A payment updates and reads its 12 counters (24 numbers) with one script call and is scored by the model of
`bench.naive_model`; a batch does the same with one call and one predict for all its payments. A pipeline would be 36
commands a payment, each of which costs redis-py more than the counting costs Redis: a script takes less than half of
the client's CPU. Kafka is left to the caller.
It imports numpy, redis and xgboost alone, so that it runs beside whatever a framework pins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import xgboost as xgb
from redis import Redis

from bench.naive_model import FEATURES, Row, counter_keys, fill_row, fill_rows, load_model

THRESHOLD: Final = 0.5
ADD: Final = """
local totals = {}
for at, key in ipairs(KEYS) do
  totals[2 * at - 1] = redis.call('HINCRBY', key, 'count', ARGV[3 * at - 2])
  totals[2 * at] = redis.call('HINCRBY', key, 'amount', ARGV[3 * at - 1])
  redis.call('EXPIRE', key, ARGV[3 * at])
end
return totals
"""
APPROVE: Final = "approve"
REVIEW: Final = "review"

Payment = Mapping[str, Any]
Keys = list[tuple[str, int] | None]


class Scorer:
    """Updates the counters of payments in Redis and scores them: one round trip and one predict a call."""

    def __init__(self, redis: Redis, booster: xgb.Booster) -> None:
        self._booster = booster
        self._add = redis.register_script(ADD)
        self._row: Row = np.empty((1, len(FEATURES)), np.float32)

    def __call__(self, payment: Payment) -> float:
        """The payment's fraud score, 0 to 1."""
        keys, amount = counter_keys(payment), payment["amount_minor"]
        known = [key for key in keys if key is not None]
        words = [word for _, seconds in known for word in (1, amount, seconds)]
        replies = iter(self._add([name for name, _ in known], words))
        fill_row(self._row, payment, list(_counters(keys, replies)))
        return float(self._booster.inplace_predict(self._row, validate_features=False)[0])

    def batch(self, payments: Sequence[Payment]) -> list[float]:
        """The scores of payments in this order, as if they had come one by one.

        A counter that several of them share is incremented once, by the sum; what each of them saw follows from it.
        """
        if not payments:
            return []
        keys = [counter_keys(payment) for payment in payments]
        added: dict[tuple[str, int], list[int]] = {}
        for payment, own in zip(payments, keys, strict=True):
            amount = payment["amount_minor"]
            for key in own:
                if key is not None:
                    sums = added.setdefault(key, [0, 0])
                    sums[0] += 1
                    sums[1] += amount
        names = [name for name, _ in added]
        replies = iter(self._add(names, [word for (_, s), (n, sum_) in added.items() for word in (n, sum_, s)]))
        for sums in added.values():  # from what the batch adds to what was there before it
            sums[0] = next(replies) - sums[0]
            sums[1] = next(replies) - sums[1]
        rows: Row = np.empty((len(payments), len(FEATURES)), np.float32)
        fill_rows(rows, payments, list(_running(payments, keys, added)))
        scores: list[float] = self._booster.inplace_predict(rows, validate_features=False).tolist()
        return scores


class Counters:
    """Decides payments by counters in Redis. One instance a process or thread; `close` it."""

    def __init__(self, redis_url: str, model_path: Path | str) -> None:
        """Load the model (`model.ubj` of `bench.naive_model`) and connect when first asked.

        Raises:
            SystemExit: the model was trained on other features.
        """
        self._redis = Redis.from_url(redis_url)
        self._scorer = Scorer(self._redis, load_model(Path(model_path)))

    def decide(self, payment: Payment) -> dict[str, Any]:
        """The decision on one payment, as JSON has it; an alert is due unless it is to approve (`is_alert`)."""
        return decision(payment, self._scorer(payment))

    def decide_batch(self, payments: Sequence[Payment]) -> list[dict[str, Any]]:
        """The decisions on payments, in their order: one script call and one predict for all of them."""
        return [decision(payment, score) for payment, score in zip(payments, self._scorer.batch(payments), strict=True)]

    def close(self) -> None:
        """Release the connection."""
        self._redis.close()


def decision(payment: Payment, score: float, threshold: float = THRESHOLD) -> dict[str, Any]:
    """What is published of one payment."""
    return {
        "event_id": payment["event_id"],
        "card_id": payment["card_id"],
        "event_time": payment["event_time"],
        "decision": APPROVE if score < threshold else REVIEW,
        "score": score,
    }


def is_alert(decided: Mapping[str, Any]) -> bool:
    """Whether a decision goes to the alerts topic too."""
    return bool(decided["decision"] != APPROVE)


def _counters(keys: Keys, replies: Iterator[int]) -> Iterator[float]:
    for key in keys:
        if key is None:
            yield from (np.nan, np.nan)
        else:
            yield next(replies)
            yield next(replies)


def _running(
    payments: Sequence[Payment], keys: Sequence[Keys], totals: dict[tuple[str, int], list[int]]
) -> Iterator[list[float]]:
    """Each payment's 24 numbers, right after its own were added; `totals` begin before the batch."""
    for payment, own in zip(payments, keys, strict=True):
        seen: list[float] = []
        for key in own:
            if key is None:
                seen += (np.nan, np.nan)
            else:
                total = totals[key]
                total[0] += 1
                total[1] += payment["amount_minor"]
                seen += total
        yield seen
