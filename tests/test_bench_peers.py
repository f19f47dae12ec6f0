"""The peers are measured alike, and what is said of them is true."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from bench import naive_model
from bench.peers.arguments import arguments
from bench.peers.catalog import PEERS, named
from bench.peers.counters import Counters, decision, is_alert
from bench.peers.judge import judge_logs
from bench.peers.ours import MAX_FUTURE_MS, MAX_PAYMENT_BYTES, Ours, Record
from consumer.decode import Decoder, in_log_order
from consumer.simulator import Simulation, write
from consumer.stored import stored
from features.audit import Parts
from features.catalog import DEFAULT
from features.grouping import Grouper
from features.redis_store import RedisStore
from models.train import TrainOptions, train
from tests.services.redis import RedisServer
from tests.support.bench_payments import payments


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = payments("t", 200)
    (tmp_path / "payments.jsonl").write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in made))
    labels = [{"event_id": each["event_id"], "label": "fraud"} for each in made[::10]]
    (tmp_path / "labels.jsonl").write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in labels))
    path = tmp_path / "model.ubj"
    naive_model.train_naive_model(path, tmp_path / "payments.jsonl", tmp_path / "labels.jsonl", trees=20, depth=4)
    return path


@pytest.mark.parametrize("size", [1, 7, 200])
def test_a_batch_is_decided_as_its_payments_one_by_one(
    redis_server: RedisServer, unique: str, model: Path, size: int
) -> None:
    batched, single = (
        [each | {"card_id": f"{kind}{each['card_id']}", "merchant_id": f"{kind}{each['merchant_id']}"}
         | ({"device_id": f"{kind}{each['device_id']}"} if "device_id" in each else {})
         for each in payments(unique, 200)]
        for kind in ("b", "s")
    )  # fmt: skip
    with closing(Counters(redis_server.url, model)) as counters:
        one_by_one = [counters.decide(each) for each in single]
        at_once = [
            each for start in range(0, 200, size) for each in counters.decide_batch(batched[start : start + size])
        ]
    assert [each["score"] for each in at_once] == [each["score"] for each in one_by_one]
    truth = naive_model.load_model(model).inplace_predict(naive_model.feature_rows(single))
    assert [each["score"] for each in one_by_one] == truth.tolist()
    with redis_server.client() as client:
        for payment, other in zip(batched, single, strict=True):
            for own, twin in zip(naive_model.counter_keys(payment), naive_model.counter_keys(other), strict=True):
                if own is not None and twin is not None:
                    assert client.hgetall(own[0]) == client.hgetall(twin[0])
                    assert client.ttl(own[0]) > own[1] - 300


def test_nothing_to_decide_asks_nothing(model: Path) -> None:
    with closing(Counters("redis://127.0.0.1:1/0", model)) as counters:
        assert counters.decide_batch([]) == []


def test_a_decision_has_what_is_joined_on() -> None:
    payment = payments("d", 1)[0]
    assert decision(payment, 0.25) == {
        "event_id": "d-e0",
        "card_id": payment["card_id"],
        "event_time": payment["event_time"],
        "decision": "approve",
        "score": 0.25,
    }
    assert [is_alert(decision(payment, score)) for score in (0.49, 0.5)] == [False, True]


def test_a_model_of_other_features_is_refused(tmp_path: Path) -> None:
    data = naive_model.xgb.DMatrix(np.zeros((4, 1)), label=np.array([0, 1, 0, 1]), feature_names=["other"])
    naive_model.xgb.train({}, data, num_boost_round=1).save_model(tmp_path / "model.ubj")
    with pytest.raises(SystemExit, match="other features"):
        Counters("redis://127.0.0.1:1/0", tmp_path / "model.ubj")


WORDS = [
    word
    for name in ("group", "namespace", "payments-topic", "decisions-topic", "alerts-topic", "model", "bundle", "state")
    for word in (f"--{name}", name)
] + ["--brokers", "127.0.0.1:1", "--redis", "redis://127.0.0.1:1/0"]


def test_every_peer_takes_the_same_arguments() -> None:
    parsed = arguments("x", WORDS)
    assert (parsed.payments_topic, parsed.model, parsed.state) == ("payments-topic", Path("model"), Path("state"))
    with pytest.raises(SystemExit):
        arguments("x", WORDS[2:])


def test_every_declared_variant_is_there_with_its_locked_requirements() -> None:
    for peer in PEERS:
        assert named(peer.name) is peer
        lines = [line for line in peer.requirements.read_text().splitlines() if not line.startswith((" ", "#"))]
        assert all("==" in line for line in lines)
        assert any(line.startswith(f"{peer.package.lower()}==") for line in lines)
        for variant in peer.variants:
            assert (peer.home / f"{variant}.py").exists()
    with pytest.raises(SystemExit, match="no peer 'other'; there are fraudline, kafka-python"):
        named("other")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    write(Simulation(payments=5_000, seed=31, days=30, fraud_rate=0.03), folder)
    train(
        folder / "payments.jsonl", folder / "labels.jsonl", folder / "bundle", options=TrainOptions(trees=20, depth=4)
    )
    return folder / "bundle"


@pytest.fixture
def ours(redis_server: RedisServer, unique: str, bundle: Path) -> Iterator[Callable[..., Ours]]:
    made: list[Ours] = []

    def make(clock: Callable[[], float] = time.monotonic) -> Ours:
        given = argparse.Namespace(
            redis=redis_server.url,
            namespace=unique,
            bundle=bundle,
            payments_topic="p",
            decisions_topic="d",
            alerts_topic="a",
        )
        made.append(Ours(given, clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def records(bundle: Path, count: int) -> list[Record]:
    lines = (bundle.parent / "payments.jsonl").read_bytes().splitlines()[:count]
    ends = [0, 0]
    found = []
    for line in lines:
        partition = orjson.loads(line)["card_id"].encode()[-1] % 2
        found.append(Record("p", partition, ends[partition], b"k", line))
        ends[partition] += 1
    return found


def kept(answer: bytes) -> dict[str, Any]:
    told = orjson.loads(answer)
    return {name: told[name] for name in ("event_id", "source", "decision", "score", "state")}


def test_our_batches_are_decided_again_as_they_were_and_counted_once(ours: Callable[..., Ours], bundle: Path) -> None:
    given = records(bundle, 600)
    first = ours()
    told = [each for start in range(0, 600, 100) for each in first.decide(given[start : start + 100])]
    assert sorted(kept(each.decision)["event_id"] for each in told) == sorted(
        orjson.loads(each.value_ or b"")["event_id"] for each in given
    )
    assert first.decide([]) == []
    again = ours()  # as after a kill: from an offset that was committed on, in other batches
    repeated = [each for start in range(300, 600, 75) for each in again.decide(given[start : start + 75])]
    by_event = {kept(each.decision)["event_id"]: kept(each.decision) for each in told}
    assert len(repeated) == 300
    for answer in repeated:
        assert kept(answer.decision) == by_event[kept(answer.decision)["event_id"]]


def test_an_alert_is_the_answer_to_its_own_payment(ours: Callable[..., Ours], bundle: Path) -> None:
    told = ours().decide(records(bundle, 2_000))
    alerts = [(orjson.loads(each.decision), each.alert) for each in told]
    assert any(alert for _, alert in alerts)
    for decided, alert in alerts:
        assert (alert is not None) == (decided["decision"] != "approve")
        if alert is not None:
            assert orjson.loads(alert)["event_id"] == decided["event_id"]
            assert orjson.loads(alert)["reasons"]


def test_each_error_in_entity_logs_is_found_by_itself(
    ours: Callable[..., Ours], redis_server: RedisServer, unique: str, bundle: Path
) -> None:
    given = records(bundle, 4_001)
    known, extra = given[:4_000], given[4_000]
    made = ours()
    for start in range(0, 4_000, 500):  # what is committed is folded by later batches, so that summaries are judged too
        made.decide(known[start : start + 500])
        for partition in (0, 1):
            end = max(each.offset_ for each in known[: start + 500] if each.partition_ == partition) + 1
            made.committed("p", partition, end)

    def judged(messages: list[Record]) -> tuple[int, int, int]:
        found = judge_logs(redis_server.url, unique, "", messages)
        assert found.what == "entity logs"
        assert found.keys > 100
        return found.wrong, found.missing, found.excess

    entities = sum(f"{name}_id" in orjson.loads(extra.value_ or b"") for name in ("card", "merchant", "device"))
    decoder = Decoder(max_payment_bytes=MAX_PAYMENT_BYTES, max_future_ms=MAX_FUTURE_MS)
    keys = Grouper(DEFAULT.logged).group(decoder.decode(in_log_order(known)).batch, None).keys
    with closing(RedisStore(redis_server.url, namespace=unique, timeout_ms=1_000)) as store:
        assert any(Parts.of(log).folded for log in stored(store, keys)[1].values())
    assert judged(known) == (0, 0, 0)
    wrong, missing, excess = judged([*known, extra])
    assert wrong == missing >= entities
    assert excess == 0
    wrong, missing, excess = judged(known[:-1])
    assert (wrong, missing) == (excess, 0)
    assert wrong > 0
    moved = [*known[:-1], replace(known[-1], offset_=known[-1].offset_ + 7)]  # as many, but another one
    wrong, missing, excess = judged(moved)
    assert wrong == missing == excess > 0


def test_a_partition_counts_as_committed_to_where_it_stood_half_a_minute_ago(
    ours: Callable[..., Ours], bundle: Path
) -> None:
    given = [each for each in records(bundle, 600) if each.partition_ == 0]
    now = [0.0]
    made = ours(lambda: now[0])
    floors = []
    for at in range(6):
        made.decide(given[at * 40 : at * 40 + 40])
        floors.append(made.floor(("p", 0)))
        now[0] += 10.0
    assert floors == [0, 0, 0, 0, 80, 120]  # where it stood is noted once a second, the first batch is within one
    made.committed("p", 0, 200)
    assert made.floor(("p", 0)) == 200
