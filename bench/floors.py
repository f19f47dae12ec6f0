"""The floors: what each stage would cost if nothing were done but the work that no design can leave out.

Each floor does on the same bytes, on the same machine and in the same round what the libraries do for the stage,
without validation, bookkeeping or guards. All give microseconds a payment, CPU of this process with all its threads.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import hiredis
import msgspec
import numpy as np
import numpy.typing as npt
import orjson
import psutil
import xgboost
from confluent_kafka import Consumer, Producer, TopicPartition
from hiredis import pack_command
from redis import Redis

from bench.prepare import PARTITIONS
from bench.processes import BenchError
from bench.stages import Passed
from consumer.kafka.client import group_config
from consumer.kafka.publisher import Outgoing, producer_config
from consumer.records import Alert, Decision, JournalEntry
from consumer.settings import KafkaSettings, TopicSettings
from features.catalog import DEFAULT
from features.cells import EXTRAS
from features.event import Payment
from features.grouping import Grouper
from features.reader import EntityReader
from features.store import Append, Applied, records_of_keys
from models.edge.forest import read
from models.edge.walk import Walker
from models.native import CpuPredictor
from models.shap import TreeShap
from models.trees import Forest

DEADLINE_S: Final = 30.0
READ_BYTES: Final = 65_536
EMPTY_SCRIPT: Final = b"return 1"
RAW: Final = b"raw:"

Values = npt.NDArray[np.float32]
Offsets = Callable[[], tuple[list[TopicPartition], object]]


def micros(work: Callable[[], object], payments: int) -> float:
    """CPU of this process, all threads, that `work` uses, in microseconds a payment."""
    begun = time.process_time_ns()
    work()
    return (time.process_time_ns() - begun) / payments / 1e3


def decode(passed: Sequence[Passed]) -> dict[str, float]:
    """Parsing alone: msgspec into the type that we need, and orjson into a dictionary."""
    values = [message.value() or b"" for each in passed for message in each.messages]
    typed = msgspec.json.Decoder(Payment).decode
    return {
        "msgspec, typed": micros(lambda: [typed(value) for value in values], len(values)),
        "orjson": micros(lambda: [orjson.loads(value) for value in values], len(values)),
    }


def fold(passed: Sequence[Passed], applied: Sequence[Applied], payments: int) -> float:
    """The compiled fold alone, over logs that are at hand and payments that are grouped."""
    grouper = Grouper(DEFAULT.logged)
    readers = [EntityReader(DEFAULT, entity) for entity in DEFAULT.logged]
    given = []
    for each, answer in zip(passed, applied, strict=True):
        grouping, (words, starts, ends) = grouper.group(each.batch, None), answer.logs()
        values = np.empty((len(each.batch), len(DEFAULT.features)), np.float32)
        sources, extra = each.batch.base[grouping.rows, 2], np.zeros((len(grouping.rows), EXTRAS), np.int64)
        given += [
            (
                reader,
                (words, starts[first:end], ends[first:end], grouping.bounds[first : end + 1]),
                (sources, values, grouping.rows, extra),
            )
            for reader, (first, end) in zip(readers, pairwise(grouping.first), strict=True)
            if reader.entity in DEFAULT.entities
        ]
    return micros(lambda: [reader.fill(*logs, *rest) for reader, logs, rest in given], payments)


def exchange(
    client: Redis, server: psutil.Process, prefix: bytes, appends: Sequence[Append], payments: int
) -> dict[str, dict[str, float]]:
    """The same bytes to and from Redis: a plain APPEND a key and one MGET a batch; and a script that does nothing.

    The keys are copies under another name, so that the logs have the length that they have. Gives `client_us` and
    `redis_us`, CPU, and `wall_us`.
    """
    for key in {key for append in appends for key in append.keys}:
        client.copy(prefix + key, RAW + key, replace=True)
    plain, empty = [], []
    for append in appends:
        keys = [RAW + key for key in append.keys]
        records = [each.tobytes() for _, each in records_of_keys(append)]
        commands = [(b"APPEND", key, content) for key, content in zip(keys, records, strict=True)]
        plain.append(([*commands, (b"MGET", *keys)], len(commands) + 1))
        empty.append(([(b"EVAL", EMPTY_SCRIPT, str(len(keys)).encode(), *keys, append.records.tobytes())], 1))
    return {
        "APPEND and MGET": _exchanged(client, server, plain, payments),
        "empty script": _exchanged(client, server, empty, payments),
    }


def _exchanged(
    client: Redis, server: psutil.Process, calls: Sequence[tuple[Sequence[Any], int]], payments: int
) -> dict[str, float]:
    """A socket and hiredis' parser; redis-py is not in between."""
    packed = [(b"".join([pack_command(command) for command in commands]), replies) for commands, replies in calls]
    reader, buffer = hiredis.Reader(), memoryview(bytearray(READ_BYTES))
    connection = client.connection_pool.connection_kwargs
    with socket.create_connection((connection["host"], connection["port"])) as wire:
        before, wall, cpu = server.cpu_times(), time.perf_counter_ns(), time.process_time_ns()
        for content, replies in packed:
            wire.sendall(content)
            due = replies
            while due:
                if reader.gets() is not False:
                    due -= 1
                elif size := wire.recv_into(buffer):
                    reader.feed(buffer[:size])
        spent = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        after = server.cpu_times()
    redis_s = after.user + after.system - before.user - before.system
    return {
        "client_us": spent[0] / payments / 1e3,
        "wall_us": spent[1] / payments / 1e3,
        "redis_us": redis_s / payments * 1e6,
    }


def score(model: bytes, batches: Sequence[Values], payments: int) -> dict[str, float]:
    """XGBoost alone, by its own Python function and by its C function, and compiled trees alone."""
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    booster.set_param({"nthread": 1})
    walk, native = Walker(read(model)), CpuPredictor(booster)
    found = {}
    for name, predict in (
        ("compiled trees", walk),
        ("XGBoost's C function", native),
        ("XGBoost's inplace_predict", booster.inplace_predict),
    ):
        predict(batches[0])
        found[name] = micros(lambda predict=predict: [predict(values) for values in batches], payments)
    return found


def explain(model: bytes, batches: Sequence[Values], payments: int) -> float:
    """TreeSHAP alone."""
    shap = TreeShap(Forest(model))
    alerts = [values for values in batches if len(values)]
    return micros(lambda: [shap(values) for values in alerts], payments)


def decide(batches: Sequence[npt.NDArray[np.float32]], payments: int) -> float:
    """Two comparisons a batch."""
    return micros(lambda: [(scores >= 0.5).astype(np.uint8) + (scores >= 0.9) for scores in batches], payments)


def encode(passed: Sequence[Passed], topics: TopicSettings, payments: int) -> dict[str, float]:
    """The same records from objects that are there: msgspec from its structs, orjson from dictionaries."""
    kinds = {topics.decisions: Decision, topics.alerts: Alert, topics.journal: JournalEntry}
    records = [(kinds[record.topic], record.value or b"") for each in passed for record in each.records]
    structs = [msgspec.json.decode(value, type=kind) for kind, value in records]
    plain = [orjson.loads(value) for _, value in records]
    to_json = msgspec.json.Encoder().encode
    return {
        "msgspec": micros(lambda: [to_json(struct) for struct in structs], payments),
        "orjson": micros(lambda: [orjson.dumps(each) for each in plain], payments),
    }


def consume(kafka: KafkaSettings, topic: str, count: int, size: int) -> float:
    """`Consumer.consume` alone, with the processor's settings, of a topic's first records."""
    consumer = Consumer(group_config(kafka) | {"group.id": f"{kafka.group_id}-floor"})
    partitions = [TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)]
    consumer.assign(partitions)
    consumer.pause(partitions)
    consumer.consume(1, 1.0)  # connect

    def drain() -> None:
        consumer.resume(partitions)
        left, deadline = count, time.monotonic() + DEADLINE_S
        while left > 0:
            left -= len(consumer.consume(min(size, left), 1.0))
            if time.monotonic() > deadline:
                raise BenchError(f"{topic} was not read in {DEADLINE_S:.0f} s.")

    try:
        return micros(drain, count)
    finally:
        consumer.close()


class RawTransactions:
    """librdkafka's transactional producer with the processor's settings, and nothing around it."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._producer = Producer(producer_config(kafka) | {"transactional.id": f"{kafka.transactional_id}-floor"})
        self._producer.init_transactions(DEADLINE_S)

    def run(self, batches: Sequence[Sequence[Outgoing]], offsets: Offsets, payments: int) -> tuple[float, float]:
        """Microseconds a payment of producing and of committing: a transaction a batch with the group's offsets in it.

        `offsets` gives a batch's and the membership of whoever read them.
        """
        producer, produced_ns, began = self._producer, 0, time.process_time_ns()
        for records in batches:
            producer.begin_transaction()
            before = time.process_time_ns()
            for record in records:
                producer.produce(record.topic, record.value, record.key)
            producer.flush(DEADLINE_S)
            produced_ns += time.process_time_ns() - before
            producer.send_offsets_to_transaction(*offsets(), DEADLINE_S)
            producer.commit_transaction(DEADLINE_S)
        whole_ns = time.process_time_ns() - began
        return produced_ns / payments / 1e3, (whole_ns - produced_ns) / payments / 1e3

    def close(self) -> None:
        """Release the producer."""
        self._producer.close()
