"""Mutants of the state: each lacks one rule of the entity log, in process and in the script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from features.catalog import Entity
from features.enrich import Enricher
from features.event import PaymentBatch
from features.redis_store import SCRIPT
from features.store import Append, MemoryStore
from features.windows import Ints, Logs, View


class WithoutMarkerGuard(MemoryStore):
    """Appends whatever comes, though payments before it are missing."""

    def _guard(self, append: Append) -> list[int]:
        if append.epoch != self._epoch:
            return super()._guard(append)
        return [self._markers.get((span.topic, span.partition), span.start) for span in append.spans]


class WithoutEpochGuard(MemoryStore):
    """Appends to state that was lost and begun anew, as long as the markers happen to fit."""

    def _guard(self, append: Append) -> list[int]:
        own, self._epoch = self._epoch, append.epoch
        try:
            return super()._guard(append)
        finally:
            self._epoch = own


class WithoutBelowMarkerSkip(MemoryStore):
    """Appends again what lies below the marker."""

    def _append(self, append: Append, fresh: dict[int, int], *, partial: bool) -> list[bytes]:
        return super()._append(append, dict.fromkeys(fresh, 0), partial=partial)


class WithoutFloors(MemoryStore):
    """Trims records that are not committed."""

    def _trim(self, key: bytes, log: bytearray) -> None:
        floors, self._floors = self._floors, dict.fromkeys(self._markers, 1 << 62)
        try:
            super()._trim(key, log)
        finally:
            self._floors = floors


class WithoutOwnPrefix(Enricher):
    """Computes features over the whole log, so that a replay sees what came after the payment."""

    def _view(self, entity: Entity, logs: Logs, own: Ints, slot: Ints, batch: PaymentBatch, rows: Ints) -> View:
        return super()._view(entity, logs, logs.ends[slot] - 1, slot, batch, rows)


def script_without(text: str, replacement: str) -> str:
    """The apply script with one piece replaced; a piece that is no longer there, or not once, is an error."""
    if SCRIPT.count(text) != 1:
        message = f"apply.lua has changed: {text!r} is in it {SCRIPT.count(text)} times"
        raise ValueError(message)
    return SCRIPT.replace(text, replacement)


@dataclass(frozen=True)
class Mutant:
    """What is taken out, in each implementation that has it."""

    name: str
    memory: Callable[[int], MemoryStore] = MemoryStore
    enricher: type[Enricher] = Enricher
    script: tuple[str, str] | None = None


MUTANTS: Final = (
    Mutant("marker guard", WithoutMarkerGuard, script=("if marker < span[3] then", "if false then")),
    Mutant(
        "below-marker skip",
        WithoutBelowMarkerSkip,
        script=("skip = unpack_int('<i8', head, 17) < fresh[unpack_int('<I2', head, 45)]", "skip = false"),
    ),
    Mutant("own-record prefix", enricher=WithoutOwnPrefix),
    Mutant("floors of trimming", WithoutFloors, script=(">= (floor_of[", ">= 1e15 + (floor_of[")),
)
EPOCH_GUARD: Final = Mutant("epoch guard", WithoutEpochGuard, script=("if known[1] ~= epoch then", "if false then"))
