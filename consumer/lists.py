"""The lists as a processor has them: all of the topic at the start, then every change, between two batches."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
import structlog

from consumer.kafka.client import within
from consumer.kafka.compacted import CompactedReader
from consumer.telemetry import Telemetry
from features.errors import ConfigError, KafkaRefused, KafkaUnavailable
from models.lists import ListEntry, Lists, checked

LOAD_S: Final = 60.0
POLL_S: Final = 0.5
RETRY_S: Final = 1.0
_LOG: Final = structlog.get_logger("lists")


_decode: Final = msgspec.json.Decoder(ListEntry).decode


def entry_of(key: bytes, value: bytes) -> ListEntry | None:
    """The entry of a record; None if it is none, or not that of its key: such a record names nobody."""
    try:
        entry = checked(_decode(value))
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError):
        return None
    return entry if entry.key.encode() == key else None


def entries_of(table: Mapping[bytes, bytes]) -> list[ListEntry]:
    """The entries of a topic's records."""
    found = [entry_of(key, value) for key, value in table.items()]
    return [entry for entry in found if entry is not None]


class ListsReader:
    """Follows the lists topic on a thread of its own. `current` is what holds now."""

    def __init__(self, reader: CompactedReader, telemetry: Telemetry) -> None:
        """Nothing is read yet; the reader is closed by `stop`."""
        self._reader, self._telemetry = reader, telemetry
        self._current = Lists((), 0)
        self._entries: dict[bytes, ListEntry] = {}
        self._refused: KafkaRefused | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="lists")

    def current(self) -> Lists:
        """All lists as they are known now. Safe from any thread.

        Raises KafkaRefused when they may not be read any more: who was put on one since then would not be known.
        """
        if self._refused is not None:
            raise self._refused
        return self._current

    def start(self) -> None:
        """Read the whole topic, then follow it. Raises KafkaUnavailable."""
        self._reader.load(LOAD_S)
        self._take(list(self._reader.table))
        self._thread.start()

    def stop(self) -> None:
        """End, and release the connection."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(2 * POLL_S)
        within(self._reader.close, 2.0)

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                self._take(self._reader.poll(POLL_S))
            except KafkaRefused as error:
                self._refused = error
                return
            except KafkaUnavailable as error:
                _LOG.warning("lists_not_read", error=str(error))
                self._stopping.wait(RETRY_S)

    def _take(self, changed: Iterable[bytes]) -> None:
        """Look at the records of these keys anew, and let what they say hold from now on."""
        keys = list(changed)
        if not keys and self._current.version == self._reader.version:
            return
        for key in keys:
            value = self._reader.table.get(key)
            entry = None if value is None else entry_of(key, value)
            if entry is None:
                self._entries.pop(key, None)
                if value is not None:
                    _LOG.error("list_entry_refused", version=self._reader.version)
            else:
                self._entries[key] = entry
        self._current = Lists(self._entries.values(), self._reader.version)
        self._telemetry.lists_version.set(self._reader.version)
