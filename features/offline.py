"""Features of a history, by the code that computes them online: the same enricher over a store in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from features.catalog import DEFAULT, Catalog
from features.enrich import Enricher, Mask, Values
from features.event import Payment, batch_of
from features.store import MemoryStore, Span

_TOPIC: Final = "history"


@dataclass(frozen=True, slots=True)
class Offline:
    """Point-in-time features of n payments in log order.

    Attributes:
        values: (n, features) float32, NaN where missing.
        kept: (n,) False where an event id is repeated; production publishes no decision for those.
    """

    values: Values
    kept: Mask


def build(
    payments: Iterable[Payment],
    catalog: Catalog = DEFAULT,
    *,
    batch: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> Offline:
    """Compute every payment's features from the payments before it in `payments`, and itself.

    Args:
        payments: n payments in log order.
        catalog: the features to compute.
        batch: payments a step, at most 65,535; it changes nothing in the result.
        progress: told the number of payments of each step.
    """
    store = MemoryStore(catalog.keep)
    store.adopt({(_TOPIC, 0): 0})
    epoch = store.position().epoch
    enricher = Enricher(catalog, store)
    values, kept = [], []
    start = 0
    for chunk in _chunks(payments, batch):
        end = start + len(chunk)
        columns = batch_of(chunk, topic=_TOPIC, partition=[0] * len(chunk), offset=range(start, end))
        enriched = enricher.enrich(columns, (Span(_TOPIC, 0, start, end, floor=start),), epoch)
        values.append(enriched.values)
        kept.append(~enriched.repeated)
        start = end
        if progress:
            progress(len(chunk))
    if not values:
        return Offline(np.zeros((0, len(catalog.features)), np.float32), np.zeros(0, np.bool_))
    return Offline(np.concatenate(values), np.concatenate(kept))


def _chunks(payments: Iterable[Payment], size: int) -> Iterator[list[Payment]]:
    iterator = iter(payments)
    while chunk := list(islice(iterator, size)):
        yield chunk
