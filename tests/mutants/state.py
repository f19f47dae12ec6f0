"""Mutants of the state: each lacks one rule of the entity log, in process and in the script."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from features.catalog import Catalog, Entity
from features.enrich import Asked, Enricher
from features.event import LabelBatch, PaymentBatch, Words
from features.reader import EntityReader, Values
from features.redis_store import APPLY
from features.store import Append, Applied, MemoryStore, Replacement, Span, _Shard


class WithoutMarkerGuard(MemoryStore):
    """Appends whatever comes, though records before it are missing."""

    def _guard(self, shard: _Shard, append: Append) -> list[int]:
        if append.epoch != shard.epoch:
            return super()._guard(shard, append)
        return [shard.markers.get((span.topic, span.partition), span.start) for span in append.spans]


class WithoutEpochGuard(MemoryStore):
    """Appends to state that was lost and begun anew, as long as the markers happen to fit."""

    def _guard(self, shard: _Shard, append: Append) -> list[int]:
        own, shard.epoch = shard.epoch, append.epoch
        try:
            return super()._guard(shard, append)
        finally:
            shard.epoch = own


class WithoutBelowMarkerSkip(MemoryStore):
    """Appends again what lies below the marker."""

    def _new(self, records: Words, fresh: Mapping[int, int]) -> Words:
        return super()._new(records, dict.fromkeys(fresh, 0))


class WithoutComparing(MemoryStore):
    """Replaces the beginning of a log, whatever it is by now."""

    def _replace(self, shard: _Shard, replacement: Replacement) -> None:
        log = shard.logs.get(replacement.key)
        if log is not None:
            log[: replacement.cut] = replacement.summary


class WithoutRenewal(MemoryStore):
    """Goes on in the epoch of a state that went back in time."""

    def renew(self, epochs: Sequence[int]) -> None:
        pass


class WithoutFloors(Enricher):
    """Compacts records that are not committed."""

    def _settle(self, spans: tuple[Span, ...], applied: list[Applied]) -> None:
        super()._settle(spans, applied)
        self._floors[:] = 1 << 47


class _WholeLogs(EntityReader):
    """Reads the newest payment of each log in the place of the one asked for."""

    def fill(
        self,
        words: Words,
        starts: Words,
        ends: Words,
        bounds: Words,
        sources: Words,
        values: Values,
        rows: Words,
        extra: Words,
    ) -> None:
        payments = [self._newest(words, start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        newest = sources.copy()
        newest[bounds[0] : bounds[-1]] = np.repeat(np.array(payments, np.int64), np.diff(bounds))
        super().fill(words, starts, ends, bounds, newest, values, rows, extra)

    def _newest(self, words: Words, start: int, end: int) -> int:
        kinds = (words[start:end, 1] >> 48) & 0xFF
        payments = np.flatnonzero(kinds == 1)
        return int(words[start + payments[-1], 2]) if payments.size else 0


class WithoutLabels(Enricher):
    """Moves the markers of labels and forgets what they say."""

    def _ask(
        self, batch: PaymentBatch, spans: tuple[Span, ...], epochs: Sequence[int], labels: LabelBatch | None
    ) -> Asked:
        del labels
        return super()._ask(batch, spans, epochs, None)


class WithoutOwnPrefix(Enricher):
    """Computes features over whole logs, so that a replay sees what came after the payment."""

    def compute(self, catalog: Catalog) -> None:
        super().compute(catalog)
        entities: list[Entity] = [reader.entity for reader in self._readers]
        self._readers = [_WholeLogs(catalog, entity) for entity in entities]


def script_without(text: str, replacement: str) -> str:
    """The apply script with one piece replaced; a piece that is no longer there, or not once, is an error."""
    if APPLY.count(text) != 1:
        message = f"apply.lua has changed: {text!r} is in it {APPLY.count(text)} times"
        raise ValueError(message)
    return APPLY.replace(text, replacement)


@dataclass(frozen=True)
class Mutant:
    """What is taken out, in each implementation that has it."""

    name: str
    memory: Callable[[int], MemoryStore] = MemoryStore
    enricher: type[Enricher] = Enricher
    script: tuple[str, str] | None = None
    regressions: bool = False  # it shows only when state goes back in time


MUTANTS: Final = (
    Mutant("marker guard", WithoutMarkerGuard, script=("if marker < span[3] then", "if false then")),
    Mutant("below-marker skip", WithoutBelowMarkerSkip, script=("if offset >= fresh[source] then", "if true then")),
    Mutant("own-record prefix", enricher=WithoutOwnPrefix),
    Mutant("floors of compaction", enricher=WithoutFloors),
    Mutant(
        "comparing before replacing",
        WithoutComparing,
        script=("if log and #log - (appended[place] or 0) >= cut and sub(log, 1, UNIT) == first then", "if log then"),
    ),
    Mutant("renewal of epochs", WithoutRenewal, regressions=True),
)
EPOCH_GUARD: Final = Mutant("epoch guard", WithoutEpochGuard, script=("if known[1] ~= epoch then", "if false then"))
