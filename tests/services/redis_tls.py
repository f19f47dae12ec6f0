"""A redis-server that speaks TLS only, with certificates made for the test."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.redis_store import Tls
from tests.services.redis import RedisServer

_WHO = "127.0.0.1"


class TlsRedisServer(RedisServer):
    """Trusts clients of its own authority only.

    Args:
        name: whom its certificate names.
        expired: whether that certificate's time is over.
    """

    def __init__(self, *, name: str = _WHO, expired: bool = False) -> None:
        super().__init__()
        self.authority = trustme.CA()
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        since = datetime.now(UTC) - timedelta(days=2) if expired else None
        own = self.authority.issue_cert(name, not_after=until, not_before=since)
        own.private_key_pem.write_to_path(str(self.data / "key.pem"))
        for blob in own.cert_chain_pems:
            blob.write_to_path(str(self.data / "cert.pem"), append=True)
        self._own = self.tls(self.data)  # once: the server may be reading these files

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.ports[0]}/0"

    def tls(self, folder: Path, *, certificate: bool = True) -> Tls:
        """What a client of this server has, as files; without a `certificate` it can't say who it is."""
        ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(ca))
        if not certificate:
            return Tls(ca)
        client = self.authority.issue_cert("client.example")
        client.private_key_pem.write_to_path(str(folder / "client-key.pem"))
        client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
        return Tls(ca, folder / "client.pem", folder / "client-key.pem")

    def client(self, *, timeout_s: float = 5.0) -> Redis:
        return Redis(
            host="127.0.0.1",
            port=self.ports[0],
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            ssl=True,
            ssl_cert_reqs=ssl.CERT_NONE,  # the servers of some tests are not to be trusted
            ssl_check_hostname=False,
            ssl_certfile=str(self._own.certificate_file),
            ssl_keyfile=str(self._own.key_file),
        )

    def command(self) -> Sequence[str]:
        words = list(super().command())
        at = words.index("--port")
        words[at : at + 2] = ["--port", "0", "--tls-port", words[at + 1], "--tls-auth-clients", "yes"]
        files = {"cert": "cert.pem", "key": "key.pem", "ca-cert": "ca.pem"}
        return [
            *words,
            *[word for kind, file in files.items() for word in (f"--tls-{kind}-file", str(self.data / file))],
        ]
