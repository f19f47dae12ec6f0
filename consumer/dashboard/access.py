"""Who may read the page: by a token, by the header of a trusted reverse proxy, or anybody on this machine.

A browser gives the token once, on the login form, and gets a session: a signed cookie that says until when it holds.
It is signed with a key made from the token, so that it outlives a restart, and another token ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Final

from starlette.requests import HTTPConnection

from consumer.settings import DashboardSettings
from features.errors import ConfigError

SESSION_S: Final = 12 * 3_600
COOKIE: Final = "fraudline_session"
MAX_NAME: Final = 128
FAILURES: Final = 10
FAILURES_WINDOW_S: Final = 60.0
MAX_CLIENTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody who may read the page: the name that is told of them, and whether a browser sends proof by itself."""

    name: str
    ambient: bool


class TooManyFailures(Exception):
    """This client has failed too often of late: it is not heard for a while."""


def loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Access:
    """Tells who a request comes from."""

    def __init__(self, dashboard: DashboardSettings, clock: Callable[[], float] = time.time) -> None:
        """`clock` tells Unix time in seconds. Raises ConfigError: these settings would let in whom they should not."""
        self.way = dashboard.auth
        self._proxies = [ip_network(str(each)) for each in dashboard.trusted_proxies]
        self._header = dashboard.proxy_header.lower()
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()
        if self.way == "none" and not loopback(dashboard.host):
            raise ConfigError(
                f"dashboard.auth is 'none', which is for this machine alone, and dashboard.host is {dashboard.host!r}: "
                "take 127.0.0.1, or auth 'token' or 'proxy'."
            )
        if self.way == "token" and dashboard.token is None:
            raise ConfigError(
                "dashboard.auth is 'token', which also needs dashboard.token (or dashboard.token_file): a long, random "
                "text that readers give; on your own machine dashboard.auth = 'none' needs none."
            )
        self._token = dashboard.token.get_secret_value().strip().encode() if dashboard.token else b""
        self._key = hmac.digest(self._token, b"fraudline dashboard session 1", "sha256")

    def reader(self, request: HTTPConnection) -> Reader | None:
        """Who a request comes from; None if that is nobody who may read. Raises TooManyFailures."""
        if self.way == "none":
            return Reader("local", ambient=True)
        if self.way == "proxy":
            return self._by_proxy(request)
        given = request.headers.get("authorization")
        if given is None:
            return Reader("token", ambient=True) if self._holds(request.cookies.get(COOKIE, "")) else None
        scheme, _, token = given.partition(" ")
        return Reader("token", ambient=False) if scheme.lower() == "bearer" and self.proves(request, token) else None

    def proves(self, request: HTTPConnection, token: str) -> bool:
        """Whether this is the token; failures are counted by client. Raises TooManyFailures."""
        client = self._client(request)
        begun_s, failures = self._failures.get(client, (0.0, 0))
        now_s = self._clock()
        if now_s - begun_s >= FAILURES_WINDOW_S:
            begun_s, failures = now_s, 0
        if failures >= FAILURES:
            raise TooManyFailures
        if self._token and hmac.compare_digest(token.strip().encode(), self._token):
            return True
        self._failures[client] = (begun_s, failures + 1)
        self._failures.move_to_end(client)
        if len(self._failures) > MAX_CLIENTS:
            self._failures.popitem(last=False)
        return False

    def session(self) -> str:
        """A new session's cookie."""
        body = f"{int(self._clock()) + SESSION_S}.{secrets.token_hex(8)}"
        return f"{body}.{self._sign(body)}"

    def trusted(self, request: HTTPConnection) -> bool:
        """Whether the other end of the socket is a trusted proxy, whatever the headers say."""
        if request.client is None:
            return False
        try:
            peer = ip_address(request.client.host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in network for network in self._proxies)

    def _by_proxy(self, request: HTTPConnection) -> Reader | None:
        """Twice the header is none: one of them may be the client's own."""
        given = request.headers.getlist(self._header)
        if not self.trusted(request) or len(given) != 1:
            return None
        name = _as_utf8(given[0].strip(" \t"))
        return Reader(name, ambient=True) if 0 < len(name) <= MAX_NAME and name.isprintable() else None

    def _client(self, request: HTTPConnection) -> str:
        """Whom failures are counted for: the peer, or whom a trusted proxy names as its own peer."""
        peer = request.client.host if request.client else ""
        if self.trusted(request):
            named = request.headers.getlist("x-forwarded-for")
            return named[-1].rpartition(",")[2].strip()[:64] if named else peer
        return peer

    def _holds(self, cookie: str) -> bool:
        body, _, signature = cookie[:256].rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return False
        return int(body.partition(".")[0]) > self._clock()

    def _sign(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()


def _as_utf8(header: str) -> str:
    """A header as proxies send names: it was read as Latin-1, which is left where it is no UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header
