"""The order in which payments were applied, as runs: what a replay of shared entities follows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consumer.records import JournalEntry
from features.enrich import Enriched
from features.event import PaymentBatch
from features.store import Span

SHARD = 0  # a single node is one shard


def entries(batch: PaymentBatch, enriched: Enriched, spans: Sequence[Span]) -> list[JournalEntry]:
    """The batch's runs in which offsets and sequence numbers rise by one, within one partition and epoch."""
    known = np.flatnonzero(~enriched.stale & (enriched.sequence >= 0))
    if not known.size:
        return []
    partition, offset = batch.partition[known], batch.offset[known]
    epoch, sequence = enriched.epoch[known], enriched.sequence[known]
    breaks = (np.diff(partition) != 0) | (np.diff(offset) != 1) | (np.diff(epoch) != 0) | (np.diff(sequence) != 1)
    firsts = np.flatnonzero(np.concatenate(([True], breaks)))
    lasts = np.append(firsts[1:], known.size) - 1
    topic = spans[0].topic
    return [
        JournalEntry(
            shard=SHARD,
            epoch=int(epoch[first]),
            sequence=int(sequence[first]),
            count=int(last - first + 1),
            topic=topic,
            partition=int(partition[first]),
            offset=int(offset[first]),
        )
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
    ]
