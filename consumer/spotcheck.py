"""The check that never ends: now and then a few records that were just committed are looked for in their logs."""

from __future__ import annotations

import random
import threading
import time
from typing import Final

import structlog

from consumer.decode import Decoder
from consumer.kafka.logreader import Extent
from consumer.state import Log
from consumer.stored import stored
from consumer.telemetry import Telemetry
from features.audit import Parts, described
from features.enrich import shard_of
from features.errors import FraudlineError
from features.event import Words
from features.grouping import ENTITY_OF, Grouper
from features.store import Source, StateStore

RECORDS: Final = 16  # a look
NEWEST: Final = 10_000  # offsets of a partition that a look may fall on
READ_S: Final = 2.0
JOIN_S: Final = 2.0
_LOG: Final = structlog.get_logger("check")


class SpotCheck:
    """Looks at a few records on a thread of its own, over connections of its own; the loop never waits for it."""

    def __init__(
        self,
        *,
        store: StateStore,
        log: Log,
        decoder: Decoder,
        grouper: Grouper,
        telemetry: Telemetry,
        interval_s: float,
        rng: random.Random | None = None,
    ) -> None:
        """`store` and `log` are used by this check alone, which does not close them."""
        self._store, self._log, self._decoder, self._grouper = store, log, decoder, grouper
        self._telemetry, self._interval_s = telemetry, interval_s
        self._rng = rng or random.Random()  # noqa: S311  no secret
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="spotcheck")

    def start(self) -> None:
        """Begin; the first look comes after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait a little for a look that is on its way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def look(self) -> None:
        """One look: each record must be once, and bit for bit, in the log of every entity that it names.

        A record that the log's summary may stand for, and one that the state does not reach, are `unverifiable`.
        """
        chosen = self._chosen()
        if chosen is None:
            return
        source, start, end = chosen
        messages, _ = self._log.read(source, start, end, RECORDS, time.monotonic() + READ_S)
        decoded = self._decoder.decode(messages)
        grouping = self._grouper.group(decoded.batch, decoded.labels)
        positions, logs = stored(self._store, grouping.keys)
        at = 0
        for key, count in zip(grouping.keys, grouping.counts.tolist(), strict=True):
            position = positions[shard_of(key, len(positions))]
            in_state = position.markers.get(source, 0) >= end and position.begun.get(source, start + 1) <= start
            for record in grouping.records[at : at + count]:
                result = found(record, logs[key]) if in_state else "unverifiable"
                self._telemetry.state_checks[result].inc()
                if result == "mismatch":
                    _LOG.error("state_differs", entity=ENTITY_OF[key[:2]], record=described(record[2]))
            at += count

    def _chosen(self) -> tuple[Source, int, int] | None:
        """A few offsets among the newest that are committed, of a random partition."""
        extents = self._log.extents()
        some = [source for source, extent in extents.items() if _committed(extent) > extent.low]
        if not some:
            return None
        source = self._rng.choice(some)
        extent = extents[source]
        low = max(extent.low, _committed(extent) - NEWEST)
        start = self._rng.randrange(low, _committed(extent))
        return source, start, min(start + RECORDS, _committed(extent))

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.look()
            except FraudlineError as error:
                self._telemetry.state_checks["unverifiable"].inc()
                _LOG.info("state_not_checked", why=str(error))


def found(record: Words, log: Words) -> str:
    """Whether a record (6,) is in a log (units, 6), once and as it should be: equal, mismatch or unverifiable."""
    parts = Parts.of(log)
    same = [row for row in (*parts.kept, *parts.singles) if row[2] == record[2]]
    if not same:
        return "unverifiable" if parts.folded else "mismatch"
    return "equal" if len(same) == 1 and (same[0] == record).all() else "mismatch"


def _committed(extent: Extent) -> int:
    return extent.low if extent.committed is None else extent.committed
