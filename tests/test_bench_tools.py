"""The tools of the benches measure what they say they measure."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
import xgboost as xgb
from confluent_kafka import Consumer, Producer

from bench import loadgen, naive, naive_model, reader
from consumer.kafka.open_loop import keep, schedule
from tests.services.kafka import KafkaBroker
from tests.services.redis import RedisServer
from tests.support.bench_payments import payments as _payments

MS = 1_000_000


def _write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records))
    return path


def _model(folder: Path, payments: list[dict[str, Any]]) -> Path:
    labels = [{"event_id": payment["event_id"], "label": "fraud"} for payment in payments[::10]]
    path = folder / "model.ubj"
    naive_model.train_naive_model(
        path, _write(folder / "train.jsonl", payments), _write(folder / "labels.jsonl", labels), trees=20, depth=4
    )
    return path


def test_latencies_count_every_payment_and_the_first_decision_of_each(tmp_path: Path) -> None:
    sent = np.array([(0, 0, 0), (1, 0, 10 * MS), (0, 1, 20 * MS), (1, 1, 30 * MS), (0, -1, 40 * MS)], loadgen.SENT)
    received = np.array(
        [(1, 0, 260 * MS), (0, 0, 100 * MS), (0, 0, 900 * MS), (7, 7, 5 * MS), (1, 1, 31 * MS)], reader.RECEIVED
    )
    np.save(tmp_path / "sent.npy", sent)
    np.save(tmp_path / "received.npy", received)
    assert reader.latencies(tmp_path / "sent.npy", tmp_path / "received.npy") == {
        "count": 4,
        "missing": 1,
        "duplicates": 1,
        "p50_ms": 100.0,
        "p90_ms": 250.0,
        "p99_ms": 250.0,
        "p99_9_ms": 250.0,
        "max_ms": 250.0,
        "max_at_s": 0.01,
        "within_200ms": 0.5,
    }


def test_latencies_of_nothing_received_are_no_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "sent.npy", np.array([(0, 0, 0)], loadgen.SENT))
    np.save(tmp_path / "received.npy", np.array([], reader.RECEIVED))
    found = reader.latencies(tmp_path / "sent.npy", tmp_path / "received.npy")
    assert (found["missing"], found["within_200ms"]) == (1, 0.0)
    assert np.isnan(found["p50_ms"])


def test_a_load_never_repeats_payments(tmp_path: Path) -> None:
    file = _write(tmp_path / "payments.jsonl", _payments("a", 5))
    assert [key for key, _ in loadgen.read_payments(file, 2, skip=3)] == [
        payment["card_id"].encode() for payment in _payments("a", 5)[3:]
    ]
    with pytest.raises(SystemExit, match="has 2 payments after the first 3, but 3 are needed"):
        loadgen.read_payments(file, 3, skip=3)


def test_the_baseline_refuses_a_model_of_other_features(tmp_path: Path) -> None:
    data = xgb.DMatrix(np.zeros((4, 1)), label=np.array([0, 1, 0, 1]), feature_names=["other"])
    xgb.train({}, data, num_boost_round=1).save_model(tmp_path / "model.ubj")
    with pytest.raises(SystemExit, match="other features"):
        naive_model.load_model(tmp_path / "model.ubj")


def test_the_baseline_scores_live_what_it_was_trained_on(
    redis_server: RedisServer, unique: str, tmp_path: Path
) -> None:
    payments = _payments(unique, 200)
    booster = naive_model.load_model(_model(tmp_path, payments))
    with redis_server.client() as client:
        score = naive.Scorer(client, booster)
        live = [score(payment) for payment in payments]
    assert live == booster.inplace_predict(naive_model.feature_rows(payments)).tolist()


def test_load_baseline_and_reader_agree_on_real_kafka(
    kafka: KafkaBroker, redis_server: RedisServer, topics: Callable[..., dict[str, str]], unique: str, tmp_path: Path
) -> None:
    names = topics(payments=2, decisions=2, alerts=1)
    payments = _payments(unique, 200)
    booster = naive_model.load_model(_model(tmp_path, payments))
    records = loadgen.read_payments(tmp_path / "train.jsonl", 200)

    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    filled = loadgen.fill(producer, names["payments"], records[:100])
    delivery, late_ns = loadgen.send_on_schedule(producer, names["payments"], records[100:], rate=1000.0)
    assert late_ns.shape == (100,)
    assert late_ns.min() >= 0
    assert np.unique(np.diff(delivery.sent["intended_ns"])).tolist() == [1 * MS]
    sent = np.concatenate([filled.sent, delivery.sent])
    np.save(tmp_path / "sent.npy", sent)
    producer.produce(names["payments"], b"not json", key=b"k")
    producer.flush(30.0)

    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": unique, "enable.auto.offset.store": False}
        | {"auto.offset.reset": "earliest"}
    )
    publisher = naive.Publisher(producer, decisions_topic=names["decisions"], alerts_topic=names["alerts"])
    with closing(consumer), redis_server.client() as client:
        consumer.subscribe([names["payments"]])
        score = naive.Scorer(client, booster)
        result = naive.run(consumer, score, publisher, threshold=0.5, max_events=201, idle_exit_s=60.0)
    assert (result.events, result.bad, result.undelivered) == (201, 1, 0)

    with closing(reader.open_consumer(kafka.bootstrap, names["decisions"], from_end=False)) as decisions:
        rows = reader.read(decisions, expect=200, idle_exit_s=30.0, stopping=threading.Event())
    np.save(tmp_path / "received.npy", np.array(rows, reader.RECEIVED))
    found = reader.latencies(tmp_path / "sent.npy", tmp_path / "received.npy")
    assert (found["count"], found["missing"], found["duplicates"]) == (200, 0, 0)
    assert found["max_ms"] > 0


def test_a_schedule_is_kept_in_order_and_whoever_is_told_to_stop_says_how_far_it_came() -> None:
    due, handed, turns = schedule(50, 2_000.0), [], []
    late_ns = keep(due, handed.append, lambda: turns.append(len(handed)))
    assert handed == list(range(50))
    assert late_ns.shape == (50,)
    assert late_ns.min() >= 0
    assert turns[-1] == 50
    due[10:] += 2_000_000_000
    assert len(keep(due, handed.append, lambda: None, lambda: len(handed) == 60)) == 10


def test_a_reader_needs_only_the_source_of_a_decision() -> None:
    decision = {"event_id": "e", "source": {"topic": "payments", "partition": 3, "offset": 9}, "score": 0.1}
    found = msgspec.json.decode(orjson.dumps(decision), type=reader.Decision)
    assert (found.source.partition, found.source.offset) == (3, 9)
