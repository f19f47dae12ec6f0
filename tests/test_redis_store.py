"""What only a store across a network can suffer: lost scripts, lost replies, reconnections, unsuitable servers."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis

from features.catalog import Limits
from features.errors import ConfigError, FraudlineError, StateBehind, StoreError, StoreUnavailable, StoreUnsuitable
from features.event import LAYOUT_VERSION, UNIT_BYTES
from features.redis_store import IDLE_S, RedisStore
from tests.contracts.calls import (
    L0,
    T0,
    TOPIC,
    Record,
    Reply,
    appends,
    apply,
    epochs_of,
    markers,
    opened,
    records,
    replacing,
    span,
    summary_of,
)
from tests.services.redis import RedisServer

pytestmark = pytest.mark.redis
PASSWORD = "s3cr:et/pa#ss"
ESCAPED = "s3cr%3Aet%2Fpa%23ss"
GIVE_UP_S = 30.0
SPACE = f"ns:{LAYOUT_VERSION}:"
S0 = SPACE + "{s0}:"


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


def store_on(
    server: RedisServer,
    *,
    timeout_ms: int = 5_000,
    url: str = "",
    owner: str = "",
    limits: Limits = Limits(),  # noqa: B008  immutable
    shards: int = 1,
    **more: Any,
) -> RedisStore:
    return RedisStore(
        url or server.url, namespace="ns", timeout_ms=timeout_ms, owner=owner, limits=limits, shards=shards, **more
    )


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    with closing(store_on(server)) as store:
        yield store


def dump(client: Redis) -> dict[bytes, object]:
    """All data, comparably: a dumped hash has its fields in any order."""
    return {key: client.hgetall(key) if client.type(key) == b"hash" else client.dump(key) for key in client.scan_iter()}


def until_applied(client: Redis, marker: int) -> None:
    """Wait for a call that the server still has to run."""
    deadline = time.monotonic() + GIVE_UP_S
    while int(client.hget(S0 + "meta", f"m:{TOPIC}:0") or -1) < marker:
        assert time.monotonic() < deadline, "the call was never applied"


@pytest.mark.parametrize("shards", [1, 3])
def test_a_lost_script_is_sent_again(server: RedisServer, client: Redis, shards: int) -> None:
    with closing(store_on(server, shards=shards)) as store:
        epochs = opened(store)
        for offset in range(4):
            client.script_flush()
            assert apply(store, epochs, records([offset])).offsets() == list(range(offset + 1))
        assert apply(store, epochs, records([4])).offsets() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_call_whose_reply_was_lost_may_be_repeated(server: RedisServer, client: Redis, shards: int) -> None:
    """The server stalls while it has the call; it runs it after the client has given up."""
    with closing(store_on(server, timeout_ms=100, shards=shards)) as store:
        epochs = opened(store)
        apply(store, epochs, records([0]))
        server.pause()
        with pytest.raises(StoreUnavailable):
            apply(store, epochs, records([1, 2]))
        server.resume()
        until_applied(client, 3)
        assert markers(store) == {T0: 3}
        reply = apply(store, epochs, records([1, 2]))
        assert reply.offsets() == reply.offsets(b"m:shop") == [0, 1, 2]
        assert reply.markers == [3]
        assert reply.runs == [[(0, 1, 0), (1, 3, 1)]]
        lengths = [client.strlen(key) for key in client.scan_iter(SPACE + "*:[cm]:*")]
        assert lengths == [3 * UNIT_BYTES] * 2


@pytest.mark.parametrize("shards", [1, 3])
def test_what_was_sent_is_applied_before_its_answer_is_taken(server: RedisServer, client: Redis, shards: int) -> None:
    with closing(store_on(server, shards=shards)) as store:
        epochs = opened(store)
        apply(store, epochs, records([0]))  # from here on the server knows the script
        calls = appends(epochs, records([0, 1]), span(0, 2))
        answer = store.send(calls)
        until_applied(client, 2)
        assert Reply(calls, answer()).offsets() == [0, 1]


def test_an_answer_that_is_lost_is_an_outage_and_what_was_sent_may_be_repeated(
    server: RedisServer, client: Redis
) -> None:
    with closing(store_on(server, timeout_ms=100)) as store:
        epochs = opened(store)
        apply(store, epochs, records([0]))  # from here on the server knows the script
        server.pause()
        answer = store.send(appends(epochs, records([1]), span(1, 2)))
        with pytest.raises(StoreUnavailable):
            answer()
        server.resume()
        until_applied(client, 2)
        with pytest.raises(StateBehind, match="reconnected"):
            store.send(appends(epochs, records([1]), span(1, 2)))
        assert markers(store) == {T0: 2}
        assert apply(store, epochs, records([1]), span(1, 2)).offsets() == [0, 1]


def test_an_answer_that_nobody_took_is_never_taken_for_that_of_another_call(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    apply(store, epochs, records([0]))  # from here on the server knows the script
    answer = store.send(appends(epochs, records([1]), span(1, 2)))
    until_applied(client, 2)
    with pytest.raises(StateBehind, match="reconnected"):
        apply(store, epochs, records([2]), span(2, 3))
    assert markers(store) == {T0: 2}
    with pytest.raises(StateBehind, match="reconnected"):
        answer()
    assert apply(store, epochs, records([1, 2]), span(1, 3)).offsets() == [0, 1, 2]


def test_after_a_lost_connection_nothing_is_applied_until_the_positions_were_read(
    store: RedisStore, client: Redis
) -> None:
    epochs = opened(store)
    apply(store, epochs, records([0]))
    client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StoreUnavailable):
        apply(store, epochs, records([1]))
    for _ in range(2):
        with pytest.raises(StateBehind, match="reconnected"):
            apply(store, epochs, records([1]))
    assert markers(store) == {T0: 1}
    assert apply(store, epochs, records([1])).offsets() == [0, 1]


def test_a_store_that_was_never_asked_for_its_positions_applies_nothing(store: RedisStore, client: Redis) -> None:
    with pytest.raises(StateBehind):
        apply(store, [1], records([0]))
    assert dump(client) == {}


def test_after_close_nothing_is_applied(store: RedisStore) -> None:
    epochs = opened(store)
    store.close()
    with pytest.raises(StateBehind):
        apply(store, epochs, records([0]))


def test_flushall_is_noticed(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    apply(store, epochs, records([0]))
    client.flushall()
    with pytest.raises(StateBehind, match="another epoch"):
        apply(store, epochs, records([1]))
    assert dump(client) == {}
    assert epochs_of(store) != epochs


@pytest.mark.parametrize("shards", [1, 3])
def test_a_state_that_another_server_process_held_gets_new_epochs(server: RedisServer, shards: int) -> None:
    """A restart may have lost the last second, and a copy any time: the numbers drawn then are not drawn again."""
    with closing(store_on(server, shards=shards)) as store, closing(store_on(server, shards=shards)) as other:
        epochs = opened(store)
        apply(store, epochs, records([0, 1]))
        assert epochs_of(store) == epochs_of(other) == epochs
        server.persist()
        server.kill()
        server.restart()
        for each in (store, other):
            with pytest.raises(StoreUnavailable):
                each.positions()
        positions = store.positions()
        renewed = [position.epoch for position in positions]
        assert not set(renewed) & set(epochs)
        assert [position.parent for position in positions] == [(epoch, 2) for epoch in epochs]
        assert other.positions() == store.positions() == positions
        assert apply(store, renewed, records([2])).offsets() == [0, 1, 2]


def test_a_log_expires_when_it_is_idle_and_not_while_it_is_used(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    key = S0 + "c:a"

    def lives_s() -> int:
        """Seconds that the log has left; then it has lived for a while."""
        left = int(client.ttl(key))
        client.expire(key, 1_000)
        return left

    def is_full(seconds: int) -> bool:
        return IDLE_S - 60 < seconds <= IDLE_S

    apply(store, epochs, records([0]))
    assert is_full(lives_s())
    apply(store, epochs, records([1]))
    assert lives_s() <= 1_000  # an append leaves it alone: that is what refreshing is for
    apply(store, epochs, [Record(2, "b")], refresh=[b"c:a"])
    assert is_full(lives_s())
    apply(store, epochs, [Record(3, "b")], replacements=[replacing(b"c:a", 0, 2, summary_of(9))])
    assert is_full(lives_s())
    assert client.ttl(S0 + "meta") == -1


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
    epochs = opened(store)
    apply(store, epochs, [Record(0), Record(1, "z", "kiosk")])
    client.delete(S0 + suffix)
    make_foreign(client, S0 + suffix)
    before = dump(client)
    replacement = replacing(b"m:kiosk", 1, 1, summary_of(9))
    with pytest.raises(StoreUnsuitable, match=r"store\.namespace"):
        apply(store, epochs, [*records(range(2 - overlap, 4)), Record(4, "z")], replacements=[replacement])
    assert dump(client) == before


def test_a_foreign_key_that_is_only_to_be_replaced_refuses_too(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    client.rpush(S0 + "c:z", "a")
    before = dump(client)
    with pytest.raises(StoreUnsuitable, match=r"store\.namespace"):
        apply(store, epochs, records([0]), replacements=[replacing(b"c:z", 0, 1, summary_of(9))])
    assert dump(client) == before


def test_a_log_of_another_length_is_no_log_also_to_those_who_only_read(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    apply(store, epochs, records([0]))
    client.append(S0 + "c:a", "x")
    nothing = [
        replace(call, spans=(), counts=[0, 0], records=call.records[:0]) for call in appends(epochs, records([0]))
    ]
    with pytest.raises(StoreUnsuitable, match="that is no log"):
        store.apply(nothing)


def test_a_foreign_key_in_the_place_of_the_markers_refuses(store: RedisStore, client: Redis) -> None:
    client.set(S0 + "meta", "text")
    with pytest.raises(StoreUnsuitable):
        store.positions()


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    "changed",
    [
        {"limits": Limits(keep=64)},
        {"shards": 2},
        {"entities": ("card", "merchant")},
        {"owner": "group b reading payments"},
    ],
)
def test_a_namespace_of_another_shape_or_owner_is_refused_and_left_alone(
    server: RedisServer, client: Redis, shards: int, changed: dict[str, Any]
) -> None:
    mine: dict[str, Any] = {"owner": "group a reading payments", "shards": shards}
    with closing(store_on(server, **mine)) as store, closing(store_on(server, **mine | changed)) as other:
        epochs = opened(store)
        client.hset(S0 + "meta", "server", "another")  # a reason to renew the epoch, for those who may
        before = dump(client)
        with pytest.raises(StoreUnsuitable, match="this namespace") as caught:
            other.positions()
        assert_one_sentence(caught.value)
        assert dump(client) == before
        assert epochs_of(store) != epochs


def test_both_hold_a_shard_in_one_hash_slot(server: RedisServer, client: Redis) -> None:
    with closing(store_on(server, shards=3)) as store:
        epochs = opened(store)
        apply(store, epochs, [Record(offset, card) for offset, card in enumerate("abcdefgh")])
        keys = [key.decode() for key in client.scan_iter()]
    assert len(keys) == 3 + 8 + 1
    assert {key.split(":")[2] for key in keys} == {"{s0}", "{s1}", "{s2}"}


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
    epochs = opened(store)
    apply(store, epochs, records([0]))
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
        apply(store, epochs, records([1]))
    assert_one_sentence(refused.value)
    client.replicaof("NO", "ONE")
    assert dump(client) in (before, {})


def test_a_full_server_is_an_outage_and_nothing_is_partly_written(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    apply(store, epochs, records([0]))
    before = dump(client)
    client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable) as caught:
        apply(store, epochs, [*records([1, 2]), Record(3, "b")])
    assert_one_sentence(caught.value)
    assert dump(client) == before
    client.config_set("maxmemory", "0")
    assert epochs_of(store) == epochs
    assert apply(store, epochs, records([1])).offsets() == [0, 1]


def test_a_refused_call_says_why(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    client.config_set("maxmemory", "1")
    with pytest.raises(StoreUnavailable, match="out of memory"):
        apply(store, epochs, records([0]))


def test_a_stalled_server_is_an_outage_for_every_verb(server: RedisServer) -> None:
    with closing(store_on(server, timeout_ms=50)) as store:
        epochs = opened(store)
        server.pause()
        verbs: list[Callable[[], object]] = [
            store.check,
            store.positions,
            lambda: store.adopt({T0: 1}),
            lambda: store.renew(epochs),
        ]
        with pytest.raises(StoreUnavailable):
            apply(store, epochs, records([0]))
        for verb in verbs:
            with pytest.raises(StoreUnavailable):
                verb()


def test_a_server_that_is_not_there_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    store = RedisStore(f"redis://127.0.0.1:{port}/0", namespace="ns", timeout_ms=50)
    for verb in (store.check, store.positions):
        with pytest.raises(StoreUnavailable) as caught:
            verb()
        assert f"127.0.0.1:{port}" in str(caught.value)
        assert_one_sentence(caught.value)
    store.close()


def test_a_server_that_accepts_and_says_nothing_is_an_outage() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        store = RedisStore(f"redis://127.0.0.1:{mute.getsockname()[1]}/0", namespace="ns", timeout_ms=50)
        with pytest.raises(StoreUnavailable):
            store.positions()
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
        store = RedisStore(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", namespace="ns", timeout_ms=5_000)
        with pytest.raises(StoreError) as caught:
            store.positions()
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
                store = RedisStore(url, namespace="ns", timeout_ms=2_000)
                store.check()
                store.positions()
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
        RedisStore(url, namespace="ns", timeout_ms=50)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize(
    "behind",
    [
        "0?socket_timeout=0",
        "0?socket_timeout=3600",
        "0?decode_responses=true",
        "0?retry_on_timeout=true",
        "0?protocol=3",
        "0?db=1&health_check_interval=1",
        "payments",
        "1/2",
    ],
)
def test_an_address_does_not_change_how_the_server_is_spoken_to(behind: str) -> None:
    """What stands behind a ? would win over `timeout_ms`; a database that is no number would be database 0."""
    RedisStore("redis://h/0?db=3&client_name=fraudline", namespace="ns", timeout_ms=50).close()
    with pytest.raises(ConfigError, match=r"store\.url") as caught:
        RedisStore(f"redis://h/{behind}", namespace="ns", timeout_ms=50)
    assert_one_sentence(caught.value)


def test_a_user_without_permission_is_told_so(server: RedisServer, client: Redis) -> None:
    client.acl_setuser(
        "guest",
        enabled=True,
        nopass=True,
        keys=["ns:*"],
        commands=["+eval", "+info", "+hget", "+hsetnx", "+hmget", "+hset", "+hgetall"],
    )
    try:
        with closing(store_on(server, url=f"redis://guest:x@127.0.0.1:{server.ports[0]}/0")) as store:
            epochs = epochs_of(store)
            with pytest.raises(StoreUnsuitable, match="ACL") as caught:
                apply(store, epochs, records([0]))
            assert_one_sentence(caught.value)
    finally:
        client.acl_deluser("guest")


def test_a_hot_key_of_a_large_batch_fits_one_call(store: RedisStore) -> None:
    epochs = opened(store)
    assert apply(store, epochs, records(range(2_000))).offsets() == list(range(2_000))
    assert apply(store, epochs, records(range(1_000, 2_001))).offsets() == list(range(2_001))


def test_offsets_beyond_32_bits_are_kept_exactly(store: RedisStore) -> None:
    epochs = epochs_of(store)
    far = 2**45 + 1
    store.adopt({(TOPIC, 0): far})
    store.adopt({L0: 3})
    apply(store, epochs, records([far]), span(far, far + 1, far))
    assert markers(store) == {T0: far + 1, L0: 3}
    reply = apply(store, epochs, records([far, far + 1]), span(far, far + 2, far), all_floors=True)
    assert reply.offsets() == [far, far + 1]
    assert reply.floors == [far]
    assert reply.runs == [[(far, far + 1, 0), (far + 1, far + 2, 1)]]
    assert reply.applied[0].all_floors == {0: far}


def test_a_long_life_draws_numbers_beyond_32_bits_exactly(store: RedisStore, client: Redis) -> None:
    epochs = opened(store)
    client.hset(S0 + "meta", "seq", 2**45 + 1)
    assert apply(store, epochs, records([0, 1])).runs == [[(0, 2, 2**45 + 1)]]
    assert apply(store, epochs, records([2])).runs == [[(0, 2, 2**45 + 1), (2, 3, 2**45 + 3)]]
    store.renew(epochs)
    assert store.positions()[0].parent == (epochs[0], 2**45 + 4)


def test_markers_of_many_partitions_and_of_topics_with_colons_are_told_apart(store: RedisStore) -> None:
    opened(store, *[("a:b", partition) for partition in range(300)], ("a", 1))
    found = markers(store)
    assert len(found) == 301
    assert found["a:b", 299] == 0


def test_a_batch_over_many_partitions_is_one_call(store: RedisStore) -> None:
    count = 600
    epochs = opened(store, *[(TOPIC, partition) for partition in range(count)])
    rows = [Record(0, f"card{partition}", partition=partition) for partition in range(count)]
    reply = apply(store, epochs, rows, *[span(0, 1, partition=partition) for partition in range(count)])
    assert reply.markers == [0] * count


def assert_one_sentence(error: Exception) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert len(text) < 250
