"""What only a store across a network can suffer: lost scripts, lost replies, reconnections, unsuitable servers."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from redis import Redis

from features.errors import ConfigError, FraudlineError, StateBehind, StoreError, StoreUnavailable, StoreUnsuitable
from features.event import RECORD_BYTES
from features.redis_store import RedisStore
from features.store import Span
from tests.contracts.store import TOPIC, Record, append, offsets, opened, records, span
from tests.services.redis import RedisServer

pytestmark = pytest.mark.redis
PASSWORD = "s3cr:et/pa#ss"
ESCAPED = "s3cr%3Aet%2Fpa%23ss"
GIVE_UP_S = 30.0


@pytest.fixture(scope="module")
def rough_server() -> Iterator[RedisServer]:
    """A server that these tests may stall and set up badly."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(rough_server: RedisServer) -> Iterator[RedisServer]:
    rough_server.heal()
    yield rough_server
    rough_server.heal()
    with rough_server.client() as client:
        client.replicaof("NO", "ONE")
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        client.flushall()


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with server.client() as client:
        yield client


def store_on(server: RedisServer, *, timeout_ms: int = 5_000, url: str = "") -> RedisStore:
    return RedisStore(url or server.url, namespace="ns", keep=4, timeout_ms=timeout_ms)


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    with closing(store_on(server)) as store:
        yield store


def dump(client: Redis) -> dict[bytes, bytes | None]:
    """All data, comparably."""
    return {key: client.dump(key) for key in client.scan_iter()}


def until_applied(client: Redis, marker: int) -> None:
    """Wait for a call that the server still has to run."""
    deadline = time.monotonic() + GIVE_UP_S
    while int(client.hget("ns:1:{s0}:meta", f"m:{TOPIC}:0") or -1) < marker:
        assert time.monotonic() < deadline, "the call was never applied"


def test_a_lost_script_is_sent_again(store: RedisStore, client: Redis) -> None:
    epoch = opened(store)
    for offset in range(4):
        client.script_flush()
        assert offsets(store.apply(append(epoch, records([offset]))).logs[0]) == list(range(offset + 1))
    assert offsets(store.apply(append(epoch, records([4]))).logs[0]) == [0, 1, 2, 3, 4]


def test_a_call_whose_reply_was_lost_may_be_repeated(server: RedisServer, client: Redis) -> None:
    """The server stalls while it has the call; it runs it after the client has given up."""
    with closing(store_on(server, timeout_ms=100)) as store:
        epoch = opened(store)
        store.apply(append(epoch, records([0])))
        call = append(epoch, records([1, 2]))
        server.pause()
        with pytest.raises(StoreUnavailable):
            store.apply(call)
        server.resume()
        until_applied(client, 3)
        assert store.position().markers == {(TOPIC, 0): 3}
        applied = store.apply(call)
        assert offsets(applied.logs[0]) == [0, 1, 2]
        assert applied.markers == [3]
        assert client.strlen("ns:1:{s0}:c:a") == 3 * RECORD_BYTES


def test_after_a_lost_connection_nothing_is_applied_until_the_position_was_read(
    store: RedisStore, client: Redis
) -> None:
    epoch = opened(store)
    store.apply(append(epoch, records([0])))
    client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StoreUnavailable):
        store.apply(append(epoch, records([1])))
    for _ in range(2):
        with pytest.raises(StateBehind, match="reconnected"):
            store.apply(append(epoch, records([1])))
    assert store.position().markers == {(TOPIC, 0): 1}
    assert offsets(store.apply(append(epoch, records([1]))).logs[0]) == [0, 1]


def test_a_store_that_was_never_asked_for_its_position_applies_nothing(store: RedisStore, client: Redis) -> None:
    with pytest.raises(StateBehind):
        store.apply(append(1, records([0])))
    assert dump(client) == {}


def test_after_close_nothing_is_applied(store: RedisStore) -> None:
    epoch = opened(store)
    store.close()
    with pytest.raises(StateBehind):
        store.apply(append(epoch, records([0])))


def test_flushall_is_noticed(store: RedisStore, client: Redis) -> None:
    epoch = opened(store)
    store.apply(append(epoch, records([0])))
    client.flushall()
    with pytest.raises(StateBehind, match="another epoch"):
        store.apply(append(epoch, records([1])))
    assert dump(client) == {}
    assert store.position().epoch != epoch


@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("make_foreign", [
    lambda client, key: client.hset(key, "a", "b"),
    lambda client, key: client.rpush(key, "a"),
    lambda client, key: client.set(key, "not a multiple of a record"),
])  # fmt: skip
@pytest.mark.parametrize("suffix", ["c:a", "m:shop", "c:z"])
def test_a_foreign_key_refuses_and_nothing_is_written(
    store: RedisStore, client: Redis, suffix: str, make_foreign: Callable[[Redis, str], object], overlap: int
) -> None:
    epoch = opened(store)
    store.apply(append(epoch, [Record(0), Record(1, "z", "kiosk")]))
    key = f"ns:1:{{s0}}:{suffix}"
    client.delete(key)
    make_foreign(client, key)
    before = dump(client)
    with pytest.raises(StoreUnsuitable, match=r"store\.namespace"):
        store.apply(append(epoch, [*records(range(2 - overlap, 4)), Record(4, "z")]))
    assert dump(client) == before


def test_a_foreign_key_in_the_place_of_the_markers_refuses(store: RedisStore, client: Redis) -> None:
    client.set("ns:1:{s0}:meta", "text")
    with pytest.raises(StoreUnsuitable):
        store.position()


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", "may evict keys (maxmemory-policy allkeys-lru)"),
        ("appendonly", "no", "does not persist its writes: set appendonly yes"),
    ],
)
def test_a_server_that_could_lose_state_is_refused(
    store: RedisStore, client: Redis, setting: str, value: str, words: str
) -> None:
    store.check()
    client.config_set(setting, value)
    with pytest.raises(StoreUnsuitable) as caught:
        store.check()
    assert words in str(caught.value)
    assert_one_sentence(caught.value)


def test_a_replica_is_refused_and_its_writes_are_an_outage(
    server: RedisServer, store: RedisStore, client: Redis
) -> None:
    epoch = opened(store)
    store.apply(append(epoch, records([0])))
    before = dump(client)
    with RedisServer() as primary:
        primary_port = primary.ports[0]
        client.replicaof("127.0.0.1", str(primary_port))
    # that primary is gone: this replica keeps its data and refuses writes
    client.config_set("replica-serve-stale-data", "yes")
    with pytest.raises(StoreUnsuitable, match="is a replica") as caught:
        store.check()
    assert_one_sentence(caught.value)
    with pytest.raises(StoreUnavailable) as refused:
        store.apply(append(epoch, records([1])))
    assert_one_sentence(refused.value)
    client.replicaof("NO", "ONE")
    assert dump(client) in (before, {})


def test_a_full_server_is_an_outage_and_nothing_is_partly_written(store: RedisStore, client: Redis) -> None:
    epoch = opened(store)
    store.apply(append(epoch, records([0])))
    before = dump(client)
    client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable) as caught:
        store.apply(append(epoch, [*records([1, 2]), Record(3, "b")]))
    assert_one_sentence(caught.value)
    assert dump(client) == before
    client.config_set("maxmemory", "0")
    store.position()
    assert offsets(store.apply(append(epoch, records([1]))).logs[0]) == [0, 1]


def test_a_refused_call_says_why(store: RedisStore, client: Redis) -> None:
    epoch = opened(store)
    client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="out of memory"):
        store.apply(append(epoch, records([0])))


def test_a_stalled_server_is_an_outage_for_every_verb(server: RedisServer) -> None:
    with closing(store_on(server, timeout_ms=50)) as store:
        epoch = opened(store)
        server.pause()
        verbs: list[Callable[[], object]] = [
            store.check,
            store.position,
            lambda: store.adopt({(TOPIC, 0): 1}),
        ]
        with pytest.raises(StoreUnavailable):
            store.apply(append(epoch, records([0])))
        for verb in verbs:
            with pytest.raises(StoreUnavailable):
                verb()


def test_a_server_that_is_not_there_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}/0", namespace="ns", keep=4, timeout_ms=50)
    for verb in (store.check, store.position):
        with pytest.raises(StoreUnavailable) as caught:
            verb()
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert_one_sentence(caught.value)
    store.close()


def test_a_server_that_accepts_and_says_nothing_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        store = RedisStore(f"redis://127.0.0.1:{mute.getsockname()[1]}/0", namespace="ns", keep=4, timeout_ms=50)
        with pytest.raises(StoreUnavailable):
            store.position()
        store.close()


def test_a_server_of_another_kind_is_refused_in_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        impostor = threading.Thread(target=answer)
        impostor.start()
        store = RedisStore(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", namespace="ns", keep=4, timeout_ms=5_000)
        with pytest.raises(StoreError) as caught:
            store.position()
        impostor.join()
        assert_one_sentence(caught.value)
        store.close()


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_a_password_is_never_shown(server: RedisServer, client: Redis, password: str) -> None:
    client.config_set("requirepass", PASSWORD)
    escaped = ESCAPED if password == PASSWORD else "wr0ngs3cr"
    shown: list[str] = []
    try:
        port = server.ports[0]
        for url in (
            f"redis://:{escaped}@127.0.0.1:{port}/0",
            f"redis://user-{escaped}:{escaped}@127.0.0.1:{port}/0",
            f"redis://:{escaped}@127.0.0.1:{port}/no-number",
            f"redis://:{escaped}@127.0.0.1:1/0",
            f"redis://:{escaped}@127.0.0.1:{port}/0?no_such_option={escaped}",
            f"http://:{escaped}@127.0.0.1:{port}/0",
            f"redis://:{PASSWORD}@127.0.0.1:{port}/0",  # not escaped, so that it does not parse
            f"redis://127.0.0.1:{port}:{escaped}/0",
        ):
            try:
                store = RedisStore(url, namespace="ns", keep=4, timeout_ms=2_000)
                store.check()
                store.position()
                store.close()
            except FraudlineError as error:
                assert_one_sentence(error)
                shown.append("".join(traceback.format_exception(error)))
    finally:
        client.config_set("requirepass", "")
    assert len(shown) >= 6
    for text in shown:
        messages = [line for line in text.splitlines() if not line.startswith("    ")]  # source lines quote no values
        assert not any(part in line for line in messages for part in ("s3cr", "pa#ss", "wr0ng")), messages


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:6379", "http://127.0.0.1", "redis://127.0.0.1:port/0", "redis://h:1/x?a=b"]
)
def test_an_address_that_is_none_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"store\.url") as caught:
        RedisStore(url, namespace="ns", keep=4, timeout_ms=50)
    assert_one_sentence(caught.value)


def test_a_user_without_permission_is_told_so(server: RedisServer, client: Redis) -> None:
    client.acl_setuser("guest", enabled=True, nopass=True, keys=["ns:*"], commands=["+hsetnx", "+hgetall"])
    try:
        with closing(store_on(server, url=f"redis://guest:x@127.0.0.1:{server.ports[0]}/0")) as store:
            epoch = store.position().epoch
            with pytest.raises(StoreUnsuitable, match="ACL") as caught:
                store.apply(append(epoch, records([0])))
            assert_one_sentence(caught.value)
    finally:
        client.acl_deluser("guest")


def test_a_hot_key_of_a_large_batch_fits_one_call(store: RedisStore) -> None:
    epoch = opened(store)
    call = append(epoch, records(range(2_000)))
    assert offsets(store.apply(call).logs[0]) == list(range(2_000))


def test_offsets_beyond_32_bits_are_kept_exactly(store: RedisStore) -> None:
    epoch = store.position().epoch
    far = 2**45 + 1
    store.adopt({(TOPIC, 0): far})
    store.apply(append(epoch, records([far]), Span(TOPIC, 0, far, far + 1, far)))
    assert store.position().markers == {(TOPIC, 0): far + 1}
    applied = store.apply(append(epoch, records([far, far + 1]), Span(TOPIC, 0, far, far + 2, far)))
    assert offsets(applied.logs[0]) == [far, far + 1]
    assert applied.floors == [far]


def test_markers_of_many_partitions_and_of_topics_with_colons_are_told_apart(store: RedisStore) -> None:
    opened(store, *[("a:b", partition) for partition in range(300)], ("a", 1))
    markers = store.position().markers
    assert len(markers) == 301
    assert markers["a:b", 299] == 0


def test_a_batch_over_many_partitions_is_one_call(store: RedisStore) -> None:
    count = 600
    epoch = opened(store, *[(TOPIC, partition) for partition in range(count)])
    rows = [Record(0, f"card{partition}", partition=partition) for partition in range(count)]
    applied = store.apply(append(epoch, rows, *[span(0, 1, partition=partition) for partition in range(count)]))
    assert applied.markers == [0] * count


def assert_one_sentence(error: Exception) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 250
