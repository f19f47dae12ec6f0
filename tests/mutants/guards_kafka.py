"""Guards against what Kafka and its clients do: answers that are lost, queues that are full, owners that died."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard

_SOURCE: Final = "consumer/kafka/source.py"
_PUBLISHER: Final = "consumer/kafka/publisher.py"
_LOST: Final = "tests/faults/test_lost_answers.py"
_REFUSED: Final = "tests/faults/test_refused_records.py"

KAFKA: Final = (
    Guard(
        "a bound for adding offsets to a transaction",
        "a worker goes on though its client does not",
        _PUBLISHER,
        "self._bounded(send, self._timeout_s + OVERDUE_S)",
        "send()",
        (f"{_LOST}::test_an_answer_is_lost_and_its_connection_with_it[0-exactly_once]",),
    ),
    Guard(
        "a bound for committing offsets outside a transaction",
        "a worker goes on though its client does not",
        "consumer/kafka/client.py",
        '        "socket.timeout.ms": max(',
        '        "socket.timeout.ms": 60_000 + max(',
        (f"{_LOST}::test_offsets_whose_commit_is_stuck_are_given_up",),
    ),
    Guard(
        "no commit of what the broker refused",
        "1: nothing is lost",
        _PUBLISHER,
        "        if self._undelivered:\n            raise ProducerLost(",
        "        if False:\n            raise ProducerLost(",
        (f"{_REFUSED}::test_what_a_topic_finds_too_large_for_a_while_is_published_once_it_takes_it",),
    ),
    Guard(
        "waiting for room in the producer's queue",
        "a full queue slows the worker and nothing else",
        _PUBLISHER,
        "except BufferError:\n                self._produce_when_there_is_room(record)",
        "except BufferError:\n                raise",
        (f"{_REFUSED}::test_a_full_queue_of_the_producer_slows_the_worker_and_nothing_else",),
    ),
    Guard(
        "rates by a clock that nobody sets",
        "a minute is a minute",
        "consumer/judge.py",
        "self._ticks = around.ticks",
        "self._ticks = around.clock",
        ("tests/test_line_up.py::test_the_limiter_forgets_after_a_minute_though_the_clock_is_set",),
    ),
    Guard(
        "asking for what is kept after a rebalance",
        "partitions that stay are read on",
        _SOURCE,
        "if ends:\n            with suppress",
        "if False:\n            with suppress",
        ("tests/test_kafka_contract.py::test_what_a_member_keeps_is_asked_for_at_once_after_a_rebalance[kafka]",),
    ),
    Guard(
        "heartbeats that do not wait for the session's end",
        "members hear of each other soon",
        "consumer/kafka/client.py",
        "min(HEARTBEAT_MS, kafka.session_timeout_ms // 5)",
        "kafka.session_timeout_ms // 5",
        ("tests/test_kafka_contract.py::test_members_hear_of_each_other_soon_however_long_they_may_be_silent[kafka]",),
    ),
    Guard(
        "a rewind asks the broker what is committed",
        "1: one outcome a record",
        _SOURCE,
        "if partition.offset >= 0:\n                owned.committed = partition.offset",
        "if False:\n                owned.committed = partition.offset",
        (f"{_LOST}::test_a_commit_whose_outcome_is_never_heard_is_not_repeated[26-exactly_once]",),
    ),
    Guard(
        "a bound for the wait for room in the producer's queue",
        "a worker goes on though its client does not",
        _PUBLISHER,
        "if time.monotonic() > deadline:\n                raise ProducerLost(\"the producer's queue",
        "if False:\n                raise ProducerLost(\"the producer's queue",
        (f"{_REFUSED}::test_a_queue_that_stays_full_is_given_up_with_its_producer",),
    ),
    Guard(
        "waiting for the outcome of a dead owner's transaction",
        "1: one outcome a record",
        _SOURCE,
        "deadline = time.monotonic() + self._kafka.request_timeout_ms / 1000\n        while True:",
        "deadline = time.monotonic()\n        while True:",
        ("tests/test_kafka_contract.py::test_a_member_waits_for_the_outcome_of_a_dead_owners_transaction",),
    ),
    Guard(
        "no offset is made up where the committed one is gone",
        "1: nothing is skipped silently",
        "consumer/kafka/client.py",
        '"auto.offset.reset": "error"',
        '"auto.offset.reset": "latest"',
        ("tests/faults/test_out_of_range.py::test_retention_passes_a_worker_that_stands_still",),
    ),
    Guard(
        "a batch is finished though the process was told to end",
        "SIGTERM costs no batch",
        "consumer/loop.py",
        "        self._stopping = True\n",
        "        raise SystemExit(0)\n",
        ("tests/faults/test_sigterm.py::test_loaded_it_finishes_its_batch_and_ends_well[exactly_once]",),
    ),
)
