"""Redis over TLS, and as a user that may do no more than the documents say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from features.errors import ConfigError, StoreError, StoreUnsuitable
from features.redis_store import RedisStore, Tls
from features.store import StateStore
from tests.contracts.calls import T0, apply, epochs_of, opened, records, replacing, span, summary_of
from tests.contracts.store import MakeStore, StoreContract
from tests.services.redis import RedisServer
from tests.services.redis_cluster import RedisCluster
from tests.services.redis_tls import TlsRedisServer

pytestmark = pytest.mark.redis
OPERATIONS = Path(__file__).parents[1] / "docs" / "operations.md"
PASSWORD = "s3cret"


@pytest.fixture(scope="module")
def tls_server() -> Iterator[TlsRedisServer]:
    with TlsRedisServer() as server:
        yield server


def store_at(url: str, tls: Tls = Tls(), **more: object) -> RedisStore:  # noqa: B008  it is frozen
    return RedisStore(url, namespace="ns", timeout_ms=2_000, tls=tls, **more)  # type: ignore[arg-type]


def test_a_store_works_over_mutual_tls(tls_server: TlsRedisServer, tmp_path: Path) -> None:
    with closing(store_at(tls_server.url, tls_server.tls(tmp_path))) as store:
        store.check()
        assert apply(store, opened(store), records([0])).offsets() == [0]


def refused(server: TlsRedisServer, tls: Tls, url: str = "", error: type[StoreError] = StoreUnsuitable) -> str:
    """What a store says that can't come to trust the server, or is not trusted, in one sentence."""
    with closing(store_at(url or server.url, tls)) as store, pytest.raises(error) as caught:
        store.check()
    text = str(caught.value)
    assert "\n" not in text
    assert "store.tls_" in text
    return text


@pytest.mark.faults
def test_a_server_of_another_authority_is_refused(tls_server: TlsRedisServer, tmp_path: Path) -> None:
    with TlsRedisServer() as other:
        assert "certificate" in refused(tls_server, other.tls(tmp_path))


@pytest.mark.faults
def test_a_server_of_another_name_is_refused(tmp_path: Path) -> None:
    with TlsRedisServer(name="redis.example") as server:
        assert "127.0.0.1" in refused(server, server.tls(tmp_path))


@pytest.mark.faults
def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    with TlsRedisServer(expired=True) as server:
        assert "expired" in refused(server, server.tls(tmp_path))


@pytest.mark.faults
def test_a_client_without_certificate_is_told_so(tls_server: TlsRedisServer, tmp_path: Path) -> None:
    """Whether it hears why depends on what comes first, its own next word or the server's."""
    assert "certificate" in refused(tls_server, tls_server.tls(tmp_path, certificate=False), error=StoreError)


@pytest.mark.parametrize(
    "query",
    [
        "ssl_cert_reqs=none",
        "ssl_cert_reqs=none&ssl_check_hostname=False",
        "ssl_check_hostname=false",
        "ssl_ca_certs=/other.pem",
        "ssl_ca_path=/etc",
        "ssl_ca_data=x",
        "ssl_min_version=1",
        "ssl=false",
    ],
)
@pytest.mark.parametrize("is_trusted", [True, False])
def test_nothing_in_the_address_changes_what_is_verified(
    tls_server: TlsRedisServer, tmp_path: Path, query: str, is_trusted: bool
) -> None:
    tls = tls_server.tls(tmp_path) if is_trusted else Tls()
    with pytest.raises(ConfigError, match="TLS always verifies"):
        store_at(f"{tls_server.url}?{query}", tls)


@pytest.mark.faults
@pytest.mark.parametrize("user", ["nobody:", "fraudline:"])
def test_a_bad_password_is_refused_and_not_shown(tls_server: TlsRedisServer, tmp_path: Path, user: str) -> None:
    url = tls_server.url.replace("rediss://", f"rediss://{user}{PASSWORD}-wrong@")
    with closing(store_at(url, tls_server.tls(tmp_path))) as store, pytest.raises(StoreUnsuitable) as caught:
        store.check()
    assert "refuses this user: check store.url and the user's ACL" in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_client_in_plain_text_is_told_of_tls(tls_server: TlsRedisServer) -> None:
    with closing(store_at(tls_server.url.replace("rediss", "redis"))) as store, pytest.raises(StoreError) as caught:
        store.check()
    assert "if it speaks TLS, begin store.url with rediss://" in str(caught.value)


def test_a_server_in_plain_text_is_not_spoken_to(redis_server: RedisServer, tmp_path: Path) -> None:
    """Not even the password is sent."""
    url = redis_server.url.replace("redis:", "rediss:")
    with closing(store_at(url)) as store, pytest.raises(StoreError) as caught:
        store.check()
    assert "does not answer to TLS" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "part"),
    [
        (("junk", None, None), "store.tls_ca_file names"),
        (("absent", None, None), "store.tls_ca_file names"),
        (("ca.pem", "junk", "junk"), "no certificate and its key"),
        (("ca.pem", "client.pem", "ca.pem"), "no certificate and its key"),
    ],
)
def test_files_that_are_no_certificates_are_refused(
    tls_server: TlsRedisServer, tmp_path: Path, files: tuple[str | None, ...], part: str
) -> None:
    tls_server.tls(tmp_path)
    (tmp_path / "junk").write_text("-----BEGIN JUNK-----")
    with pytest.raises(ConfigError, match=part):
        store_at(tls_server.url, Tls(*(None if name is None else tmp_path / name for name in files)))


def test_certificates_without_tls_are_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begin it with rediss://"):
        store_at("redis://127.0.0.1:1/0", Tls(tmp_path))


def documented_rules() -> list[str]:
    """The rules of the user in the documents, without its name and password."""
    [line] = re.findall(r"^    ACL SETUSER fraudline on >PASSWORD (.*)$", OPERATIONS.read_text(), re.MULTILINE)
    return str(line).replace("~fraudline:*", "~*").split()


def permit(client: Redis, rules: list[str]) -> None:
    client.execute_command("ACL", "SETUSER", "fraudline", "reset", "on", f">{PASSWORD}", *rules)


@pytest.mark.parametrize("place", ["one server", "cluster"])
class TestDocumentedUser(StoreContract):
    @pytest.fixture
    def make_store(
        self, place: str, redis_server: RedisServer, redis_cluster: RedisCluster, unique: str
    ) -> Iterator[MakeStore]:
        servers = [redis_server] if place == "one server" else redis_cluster.nodes
        for server in servers:
            with server.client() as client:
                permit(client, documented_rules())
        url = redis_server.url if place == "one server" else redis_cluster.url
        stores: list[RedisStore] = []

        def make() -> StateStore:
            stores.append(
                RedisStore(
                    url.replace("redis://", f"redis://fraudline:{PASSWORD}@"),
                    namespace=f"{unique}{len(stores)}",
                    timeout_ms=5_000,
                    shards=1 if place == "one server" else 16,
                    cluster=place == "cluster",
                )
            )
            return stores[-1]

        yield make
        for store in stores:
            store.close()
        for server in servers:
            with server.client() as client:
                client.acl_deluser("fraudline")


def everything(url: str, *, cluster: bool) -> None:
    """Use all that a processor and its commands use. Raises StoreError where something is not permitted."""
    shards = 3 if cluster else 1
    with closing(store_at(url, shards=shards, cluster=cluster)) as store:
        store.check()
        store.reset({T0: 0})
        epochs = epochs_of(store)
        apply(store, epochs, records([0, 1]))
        apply(store, epochs, records([1, 2]), span(1, 3))
        more = [replacing(b"c:a", 0, 2, summary_of(9))]
        apply(store, epochs, records([3]), span(3, 4), replacements=more, refresh=[b"c:a"], all_floors=True)
        store.adopt({T0: 9}, force=True)
        store.renew(epochs)
        store.positions()


@pytest.mark.faults
@pytest.mark.parametrize("rule", [rule for rule in documented_rules() if rule.startswith("+")])
def test_each_permission_is_needed(redis_server: RedisServer, redis_cluster: RedisCluster, rule: str) -> None:
    """For state on one server, or on a cluster. What only a foreign key or a moving shard makes use of is exempt."""
    if rule in {"+asking", "+strlen", "+del", "+time"}:
        return
    rules = [each for each in documented_rules() if each != rule]
    failed = []
    for servers, url, cluster in (
        ([redis_server], redis_server.url, False),
        (redis_cluster.nodes, redis_cluster.url, True),
    ):
        for server in servers:
            with server.client() as client:
                permit(client, rules)
        try:
            everything(url.replace("redis://", f"redis://fraudline:{PASSWORD}@"), cluster=cluster)
        except StoreUnsuitable as error:
            failed.append(str(error))
        for server in servers:
            with server.client() as client:
                client.acl_deluser("fraudline")
    assert failed
    assert all("check store.url and the user's ACL" in text for text in failed)
