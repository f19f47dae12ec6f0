"""The processor's loop: poll, process, recover, until it is told to stop. One batch is decided at a time.

While there is a backlog the store works on the next batch already when a batch is scored and published, and its
features are computed while that one is committed (see docs/adr/0008-one-batch-ahead.md). It is decided only once the
one before it is committed, and forgotten when that one fails: then both are read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from consumer.decode import Message
from consumer.kafka.publisher import Publisher
from consumer.kafka.source import POLL_SLICE_S, KafkaSource, Taken
from consumer.pace import Pace
from consumer.pipeline import Begun, Pipeline
from consumer.state import StateKeeper
from consumer.telemetry import Health, Telemetry
from features.errors import KafkaRefused, KafkaUnavailable, ProducerLost, StoreUnavailable, TransactionAborted
from features.event import batch_of

_LOG: Final = structlog.get_logger("loop")
RECOVERY_SLICE_S: Final = 0.02  # while payments wait, catching up takes no more than this between two batches
RECOVERY_IDLE_SLICE_S: Final = 0.25
IDLE_PATIENCE_S: Final = 0.05
NO_PAYMENTS: Final = batch_of([], topic="", partition=[], offset=[])
RETRY_WAIT_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch that was taken, and begun."""

    taken: Taken
    begun: Begun
    is_full: bool


class Loop:
    """Runs the pipeline. Whatever a batch does not survive, the offsets say where to go on from."""

    def __init__(
        self,
        *,
        source: KafkaSource,
        publisher: Publisher,
        pipeline: Pipeline,
        state: StateKeeper,
        pace: Pace,
        telemetry: Telemetry,
        health: Health,
        max_batch: int,
        pause_on_outage: bool,
        give_up_after_s: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`clock` is monotonic, `now` is Unix time; both in seconds. Kafka may fail for `give_up_after_s`."""
        self._source, self._publisher, self._pipeline, self._state = source, publisher, pipeline, state
        self._pace, self._telemetry, self._health = pace, telemetry, health
        self._max_batch = max_batch
        self._pause_on_outage = pause_on_outage
        self._give_up_after_s = give_up_after_s
        self._clock, self._now = clock, now
        self._stopping = False
        self._failing_since_s: float | None = None
        self._failures = 0
        self._must_renew = self._must_rewind = False
        self._ahead: _Batch | None = None
        self._unread: KafkaUnavailable | None = None  # what looking ahead met

    def stop(self) -> None:
        """Finish the batches in flight, then return from `run`. Safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Work until `stop`. Raises FraudlineError when going on would be wrong or pointless."""
        while self._ahead is not None or not self._stopping:
            self._health.beat()
            self._telemetry.heartbeat.set(self._now())
            try:
                self._turn()
            except TransactionAborted as error:
                self._telemetry.transactions["aborted"].inc()
                self._failed(error, renew=False)
            except KafkaRefused:  # what is not allowed does not come to be by asking again
                raise
            except (ProducerLost, KafkaUnavailable) as error:
                if isinstance(error, ProducerLost):
                    self._telemetry.transactions["lost"].inc()
                self._failed(error, renew=isinstance(error, ProducerLost))
            except StoreUnavailable as error:
                _LOG.warning("waiting_for_store", error=str(error))
                self._forget_ahead()
                self._must_rewind = True
            self._telemetry.backlog(self._source.backlog(), self._source.labels_lag_records())
            self._health.ready(*self._readiness())

    def _turn(self) -> None:
        if self._must_renew:
            self._publisher.renew()
            self._must_renew = False
        if self._must_rewind:
            self._source.rewind()
            self._must_rewind = False
        if self._ahead is not None:
            begun = self._clock()
            self._process(self._taken_ahead())
            self._pace.worked(self._clock() - begun, 0.0)
            return
        if not self._state.ready and not self._recover():
            return
        waited_from = self._clock()
        messages = self._first()
        begun = self._clock()
        if messages:
            messages = self._gather(messages)
            worked_from = self._clock()
            if messages:
                self._process(self._begin(messages))
            self._pace.worked(self._clock() - worked_from, worked_from - waited_from)
        else:
            self._pace.worked(0.0, begun - waited_from)
            self._idle()

    def _idle(self) -> None:
        """Nothing waits: all is well as far as we know, and the store may hear what was committed last."""
        self._failing_since_s, self._failures = None, 0
        batch = self._begin(())
        spans = batch.taken.spans
        if any(span.end > span.start for span in spans):
            self._process(batch)
        elif spans and self._state.ready and self._state.enrich(NO_PAYMENTS, spans, IDLE_PATIENCE_S):
            self._source.told(spans)

    def _recover(self) -> bool:
        """Give the state a slice of time. Whether payments may be taken meanwhile."""
        if not self._pause_on_outage:
            self._state.recover(self._clock() + RECOVERY_SLICE_S)
            return True
        if self._state.recover(self._clock() + RECOVERY_IDLE_SLICE_S):
            self._source.resume()
            return True
        self._source.pause()
        if self._source.poll(1, POLL_SLICE_S):
            self._must_rewind = True  # it was fetched before the pause
        return False

    def _first(self) -> list[Message]:
        """What is there already, or the first record that comes within a slice, with what came beside it."""
        messages = self._source.poll(self._max_batch, 0)
        if not messages:
            messages = self._source.poll(1, POLL_SLICE_S if self._state.ready else RECOVERY_SLICE_S)
            if messages and self._max_batch > 1:
                messages += self._source.poll(self._max_batch - 1, 0)
        return messages

    def _gather(self, messages: list[Message]) -> list[Message]:
        """Wait for more, as the pace says; then keep only what is still ours."""
        room = self._max_batch - len(messages)
        oldest_ms = min(message.timestamp()[1] for message in messages)
        wait_s = self._pace.wait_s(self._now() - oldest_ms / 1000) if room else 0.0
        if wait_s > 0:
            messages = messages + self._source.poll(room, wait_s)
        return self._source.still_owned(messages)

    def _begin(self, messages: Sequence[Message], *, ahead: bool = False) -> _Batch:
        """Begin with a batch of what was polled last."""
        taken = self._source.take(messages)
        begun = self._pipeline.begin(messages, taken.spans, ahead=ahead)
        return _Batch(taken, begun, is_full=len(messages) >= self._max_batch)

    def _process(self, batch: _Batch) -> None:
        self._source.hold(batch.taken)
        spans = batch.taken.spans
        decided = self._pipeline.finish(batch.begun, self._look_ahead if batch.is_full else None)
        if decided.enriched is not None:
            self._source.told(spans)
        self._source.committed(spans)
        self._telemetry.transactions["committed"].inc()
        self._failing_since_s = None
        self._failures = 0
        error, self._unread = self._unread, None
        if error is not None:
            raise error

    def _look_ahead(self) -> Begun | None:
        """Have the store begin with the next batch, if a whole one waits: a small one gains by waiting for more.

        What can't be read is told once the batch in hand is committed. Raises TransactionAborted when that one would be
        decided in vain: its partitions were taken away when we polled.
        """
        if self._stopping or not self._state.ready or sum(self._source.backlog().values()) < 2 * self._max_batch:
            return None
        try:
            messages = self._source.still_owned(self._source.poll(self._max_batch, 0))
        except KafkaUnavailable as error:
            self._unread = error
            messages = []
        if not self._source.still_holds():
            raise TransactionAborted("partitions of the batch in hand were taken away")
        if not messages:
            return None
        self._ahead = self._begin(messages, ahead=True)
        return self._ahead.begun

    def _taken_ahead(self) -> _Batch:
        batch, self._ahead = self._ahead, None
        assert batch is not None  # noqa: S101  the caller has looked
        return batch

    def _forget_ahead(self) -> None:
        """The batch before it failed: both are read again, and what the store was sent is found there."""
        self._unread = None
        if self._ahead is not None and (sent := self._taken_ahead().begun.sent) is not None:
            self._state.forget(sent)

    def _failed(self, error: Exception, *, renew: bool) -> None:
        self._forget_ahead()
        now = self._clock()
        if self._failing_since_s is None:
            self._failing_since_s = now
        if now - self._failing_since_s > self._give_up_after_s:
            raise error
        _LOG.warning("batch_failed", error=str(error), renew=renew)
        self._must_renew = self._must_renew or renew
        self._must_rewind = True
        time.sleep(RETRY_WAIT_S[min(self._failures, len(RETRY_WAIT_S) - 1)])
        self._failures += 1

    def _readiness(self) -> tuple[bool, str]:
        if self._failing_since_s is not None:
            return False, "Kafka does not take what is published"
        if not self._source.owned:
            return self._state.ready, "standing by: no partition is assigned"
        if not self._state.ready:
            return not self._pause_on_outage, "the state is not trusted"
        return True, "ready"
