"""The servers that the suite starts behave as the other tests rely on."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.services.clock import Clock
from tests.services.kafka import KafkaBroker
from tests.services.process import ServiceError, free_ports
from tests.services.proxy import Api, KafkaProxy
from tests.services.reader import ReadCommitted
from tests.services.redis import RedisServer

Topics = Callable[..., dict[str, str]]


def _transactional(broker: KafkaBroker, transactional_id: str) -> Producer:
    producer = Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
        }
    )
    producer.init_transactions(30.0)
    return producer


def _commit(producer: Producer, topic: str, *values: bytes, partition: int = 0) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(topic, value, partition=partition)
    producer.commit_transaction(30.0)


def test_topics_have_the_partitions_and_settings_asked_for(kafka: KafkaBroker, topics: Topics) -> None:
    names = topics({"payments.dlq": 1}, payments=3, config={"message.timestamp.type": "LogAppendTime"})
    known = kafka.admin.list_topics(timeout=10.0).topics
    assert {name: len(known[topic].partitions) for name, topic in names.items()} == {"payments.dlq": 1, "payments": 3}


def test_a_transaction_is_seen_only_after_its_commit(kafka: KafkaBroker, topics: Topics, unique: str) -> None:
    topic = topics(decisions=2)["decisions"]
    open_one, other = _transactional(kafka, f"{unique}.a"), _transactional(kafka, f"{unique}.b")
    with ReadCommitted(kafka.bootstrap, [topic]) as reader:
        open_one.begin_transaction()
        open_one.produce(topic, b"open", key=b"k", headers=[("h", b"1")], partition=0)
        open_one.flush(30.0)
        _commit(other, topic, b"elsewhere", partition=1)
        assert [record.value for record in reader.wait_until(len)] == [b"elsewhere"]
        open_one.commit_transaction(30.0)
        (record,) = (record for record in reader.wait_until(lambda seen: len(seen) == 2) if record.partition == 0)
    assert (record.key, record.value, record.headers, record.offset) == (b"k", b"open", (("h", b"1"),), 0)
    assert record.topic == topic
    assert record.timestamp_ms > 0


def test_an_aborted_transaction_is_never_seen(kafka: KafkaBroker, topics: Topics, unique: str) -> None:
    topic = topics(decisions=1)["decisions"]
    producer = _transactional(kafka, unique)
    with ReadCommitted(kafka.bootstrap, [topic]) as reader:
        producer.begin_transaction()
        producer.produce(topic, b"aborted")
        producer.flush(30.0)
        producer.abort_transaction(30.0)
        _commit(producer, topic, b"committed")
        assert [record.value for record in reader.read_to_end()] == [b"committed"]


def test_a_reader_that_waits_in_vain_says_so(kafka: KafkaBroker, topics: Topics) -> None:
    topic = topics(decisions=1)["decisions"]
    with ReadCommitted(kafka.bootstrap, [topic]) as reader:
        assert reader.read_to_end() == []
        with pytest.raises(TimeoutError, match="0 committed records"):
            reader.wait_until(len, timeout_s=0.1)
    with pytest.raises(LookupError, match="absent"):
        ReadCommitted(kafka.bootstrap, [topic, "absent"])


def _producer(bootstrap: str) -> Producer:
    return Producer({"bootstrap.servers": bootstrap, "reconnect.backoff.max.ms": 200, "log_level": 0})


@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_services_for_people_listen_where_they_say_and_are_gone_afterwards(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.services"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as child:
        assert child.stdout is not None
        try:
            said = dict(line.removeprefix("export ").strip().split("=", 1) for line in islice(child.stdout, 2))
            brokers, url = said["FRAUDLINE_KAFKA__BROKERS"], said["FRAUDLINE_STORE__URL"]
            child.stdout.readline()
            assert AdminClient({"bootstrap.servers": brokers}).list_topics(timeout=10.0).brokers
            with Redis.from_url(url) as client:
                assert client.ping()
            started = psutil.Process(child.pid).children(recursive=True)
            child.send_signal(number)
            assert child.wait(30.0) == 0
            assert psutil.wait_procs(started, timeout=10.0)[1] == []
        finally:
            child.kill()


@pytest.mark.faults
def test_an_answer_that_a_proxy_loses_was_carried_out(kafka: KafkaBroker, topics: Topics) -> None:
    topic = topics(decisions=1)["decisions"]
    with KafkaProxy(kafka) as proxy, ReadCommitted(kafka.bootstrap, [topic]) as reader:
        producer = _producer(proxy.bootstrap)
        producer.produce(topic, b"heard")
        assert producer.flush(30.0) == 0
        proxy.lose_answers(Api.PRODUCE, times=1)
        producer.produce(topic, b"sent again")  # by a client that is not idempotent
        assert producer.flush(30.0) == 0
        assert proxy.lost(Api.PRODUCE) == 1
        assert [record.value for record in reader.read_to_end()] == [b"heard", b"sent again", b"sent again"]


@pytest.mark.faults
@pytest.mark.parametrize("kinds", [(), (Api.PRODUCE,)], ids=["everything", "PRODUCE"])
def test_what_a_proxy_holds_back_arrives_later_and_once(
    kafka: KafkaBroker, topics: Topics, kinds: tuple[Api, ...]
) -> None:
    topic = topics(decisions=1)["decisions"]
    with KafkaProxy(kafka) as proxy, ReadCommitted(kafka.bootstrap, [topic]) as reader:
        producer = _producer(proxy.bootstrap)
        producer.list_topics(timeout=30.0)
        proxy.hold(*kinds)
        producer.produce(topic, b"late")
        assert producer.flush(0.2) == 1
        assert reader.read_to_end() == []
        proxy.release()
        assert producer.flush(30.0) == 0
        assert [record.value for record in reader.read_to_end()] == [b"late"]
    with KafkaProxy(kafka) as proxy:  # another takes its place
        assert topic in _producer(proxy.bootstrap).list_topics(timeout=30.0).topics


@pytest.mark.faults
def test_what_a_proxy_refuses_is_told_to_the_client_and_to_nobody_else(kafka: KafkaBroker, topics: Topics) -> None:
    refused, taken = topics(decisions=1, alerts=1).values()
    failed: list[int] = []

    def note(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failed.append(error.code())

    with KafkaProxy(kafka) as proxy, ReadCommitted(kafka.bootstrap, [refused, taken]) as reader:
        producer = Producer({"bootstrap.servers": proxy.bootstrap, "retries": 0, "log_level": 0})
        proxy.refuse(refused, KafkaError.NOT_ENOUGH_REPLICAS)
        for topic in (refused, taken):
            producer.produce(topic, b"while refused", on_delivery=note)
        assert producer.flush(30.0) == 0
        assert failed == [KafkaError.NOT_ENOUGH_REPLICAS]
        proxy.accept()
        producer.produce(refused, b"later", on_delivery=note)
        assert producer.flush(30.0) == 0
        seen = {record.topic: record.value for record in reader.read_to_end()}
        assert seen == {taken: b"while refused", refused: b"later"}


@pytest.mark.faults
def test_a_killed_broker_comes_back_with_what_was_committed(kafka: KafkaBroker, topics: Topics, unique: str) -> None:
    topic = topics(decisions=1)["decisions"]
    producer = _transactional(kafka, f"{unique}.before")
    with ReadCommitted(kafka.bootstrap, [topic]) as reader:
        _commit(producer, topic, b"before")
        reader.wait_until(len)
        producer.begin_transaction()
        producer.produce(topic, b"in flight")
        producer.flush(30.0)
        bootstrap = kafka.bootstrap
        kafka.kill()
        kafka.restart()
        assert kafka.bootstrap == bootstrap
        successor = _transactional(kafka, f"{unique}.before")  # the same id: fences, and aborts what was in flight
        _commit(successor, topic, b"after")
        assert [record.value for record in reader.read_to_end(60.0)] == [b"before", b"after"]


@pytest.mark.faults
def test_a_stalled_broker_goes_on(kafka: KafkaBroker, topics: Topics, unique: str) -> None:
    topic = topics(decisions=1)["decisions"]
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "log_level": 0})
    kafka.pause()
    producer.produce(topic, b"waits")
    assert producer.flush(0.2) == 1
    kafka.resume()
    assert producer.flush(30.0) == 0


def test_redis_demands_what_the_store_demands(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert client.info("persistence")["aof_enabled"] == 1
        assert client.info("replication")["role"] == "master"


@pytest.mark.faults
@pytest.mark.parametrize("end", [RedisServer.kill, RedisServer.stop])
def test_redis_comes_back_with_its_data(
    redis_server: RedisServer, unique: str, end: Callable[[RedisServer], None]
) -> None:
    url = redis_server.url
    with redis_server.client() as client:
        client.set(unique, b"kept")
    redis_server.persist()
    end(redis_server)
    with redis_server.client() as client, pytest.raises(RedisConnectionError):
        client.ping()
    redis_server.restart()
    assert redis_server.url == url
    with redis_server.client() as client:
        assert client.get(unique) == b"kept"


@pytest.mark.faults
def test_redis_can_be_stalled_and_flushed(redis_server: RedisServer, unique: str) -> None:
    with redis_server.client(timeout_s=0.05) as client:
        client.set(unique, b"1")
        redis_server.pause()
        with pytest.raises(RedisTimeoutError):
            client.get(unique)
        redis_server.resume()
    redis_server.flush()
    with redis_server.client() as client:
        assert client.dbsize() == 0


@pytest.mark.redis
def test_settings_can_be_replaced_and_data_is_deleted_at_the_end() -> None:
    with RedisServer(config={"appendonly": "no"}) as server, server.client() as client:
        assert client.info("persistence")["aof_enabled"] == 0
        data, pid = server.data, server.pid
    assert not data.exists()
    assert not psutil.pid_exists(pid)


@pytest.mark.redis
def test_a_server_that_ends_at_once_shows_its_log() -> None:
    server = RedisServer(config={"no-such-setting": "1"})
    with pytest.raises(ServiceError, match="no-such-setting"), server:
        pass
    assert not server.data.exists()


@pytest.mark.redis
def test_a_server_does_not_outlive_a_killed_test_run() -> None:
    program = (
        "import sys; from tests.services.redis import RedisServer\n"
        "server = RedisServer().start()\n"
        "print(server.pid, server.data, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid_text, data = run.stdout.readline().split()
        server = psutil.Process(int(pid_text))
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    psutil.wait_procs([server], timeout=30.0)
    shutil.rmtree(data)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_free_ports_are_distinct() -> None:
    assert len(set(free_ports(20))) == 20


LIVES_BY_A_CLOCK = """
import ctypes, time
libc, condition, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
libc.cnd_init(condition)
libc.mtx_init(lock, 0)
libc.mtx_lock(lock)
def tell(*words):
    print(*words, flush=True)
def now():
    return time.time() - time.monotonic()
def wait_until(end):
    libc.cnd_timedwait(condition, lock, (ctypes.c_long * 2)(end, 0))
began = now()
time.sleep(0.01)
end = int(time.time())
tell("waits")
wait_until(end + 3600)  # as librdkafka does
tell("is ahead by", round((now() - began) / 3600))
wait_until(end + 7200)
tell("is ahead by", round((now() - began) / 3600))
"""


@pytest.mark.faketime
def test_waits_until_a_wall_time_end_when_the_clock_says_so(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    command, environment = [sys.executable, "-c", LIVES_BY_A_CLOCK], os.environ | clock.environment
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "waits\n"
            clock.jump(3_600)
            assert child.stdout.readline() == "is ahead by 1\n"
            clock.jump(0)
            assert not select.select([child.stdout], [], [], 0.2)[0]
            clock.jump(7_200)
            assert child.stdout.readline() == "is ahead by 2\n"
        finally:
            child.kill()
