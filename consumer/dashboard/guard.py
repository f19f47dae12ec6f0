"""What stands before every request: sizes, the Host header, who asks, where a change comes from; and safe headers."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consumer.dashboard.access import Access, Reader, TooManyFailures, loopback
from consumer.dashboard.gauges import Gauges

MAX_PATH: Final = 512
MAX_QUERY: Final = 2_048
MAX_HEADERS: Final = 16_384
PAUSE_S: Final = 60
PUBLIC: Final = frozenset(("/livez", "/readyz", "/metrics", "/page.css", "/page.js", "/icon.svg"))
LOGIN: Final = "/login"
SAFE: Final = frozenset(("GET", "HEAD"))

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser sends its own form with `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """Middleware around the application. It puts the `Reader` into `scope["state"]["reader"]`."""

    def __init__(self, app: ASGIApp, *, access: Access, gauges: Gauges, host: str) -> None:
        """`host` is the address that the page listens on."""
        self._app, self._access, self._gauges = app, access, gauges
        self._only_this_machine = loopback(host) and access.way != "proxy"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http":
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        request = HTTPConnection(scope)
        answer = self._refusal(request)
        await (answer or self._app)(scope, receive, send_safely)

    def _refusal(self, request: HTTPConnection) -> Response | None:
        if too_long := _too_long(request):
            return too_long
        if self._only_this_machine and not self._names_this_machine(request):
            return PlainTextResponse("This page answers to localhost only.\n", 421)
        path = request.scope["path"]
        if path in PUBLIC:
            return None
        if request.scope["method"] not in SAFE and not _from_here(request):
            return PlainTextResponse("This came from another site, or did not say where it came from.\n", 403)
        if path == LOGIN and self._access.way == "token":
            return None
        return self._unknown(request)

    def _unknown(self, request: HTTPConnection) -> Response | None:
        """The refusal of somebody who may not read; None after noting who may."""
        try:
            reader = self._access.reader(request)
        except TooManyFailures:
            self._gauges.refused.inc()
            return too_many_failures()
        if reader is not None:
            request.scope.setdefault("state", {})["reader"] = reader
            return None
        if self._access.way == "proxy":
            self._gauges.refused.inc()
            return PlainTextResponse("This page is read through its reverse proxy only.\n", 403)
        if request.scope["path"] == "/" and request.scope["method"] in SAFE and "authorization" not in request.headers:
            return RedirectResponse(LOGIN, 303)
        self._gauges.refused.inc()
        return PlainTextResponse("A token is needed.\n", 401, {"WWW-Authenticate": 'Bearer realm="fraudline"'})

    def _names_this_machine(self, request: HTTPConnection) -> bool:
        """Whether Host is a name of this machine: another site's name that leads here is not (DNS rebinding)."""
        try:
            name = urlsplit("//" + request.headers.get("host", "")).hostname or ""
        except ValueError:
            name = ""
        return loopback(name) or self._access.trusted(request)


def _too_long(request: HTTPConnection) -> Response | None:
    scope = request.scope
    if len(scope["path"]) > MAX_PATH or len(scope["query_string"]) > MAX_QUERY:
        return PlainTextResponse("The address is too long.\n", 414)
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
        return PlainTextResponse("The headers are too long.\n", 431)
    return None


def too_many_failures() -> Response:
    """What a client hears that has failed too often."""
    return PlainTextResponse("Too many wrong tokens: wait a minute.\n", 429, {"Retry-After": str(PAUSE_S)})


def reader_of(request: HTTPConnection) -> Reader:
    """Who asks, as the guard has found out."""
    reader: Reader = request.scope["state"]["reader"]
    return reader


def _from_here(request: HTTPConnection) -> bool:
    """Whether a request that changes something comes from our own page, or from no browser at all.

    A browser says where it comes from (Sec-Fetch-Site, or Origin); what says neither must bring a token of its own.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    return request.headers.get("authorization", "").lower().startswith("bearer ")
