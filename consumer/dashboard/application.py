"""The web application: one page, its data, its stream, probes and metrics. Everything but that is `guard`'s."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final
from urllib.parse import parse_qs

import msgspec
import structlog
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from consumer import __version__
from consumer.dashboard import gauges as gauges_module
from consumer.dashboard import shown
from consumer.dashboard.access import COOKIE, SESSION_S, Access, TooManyFailures
from consumer.dashboard.assets import Assets
from consumer.dashboard.board import Board
from consumer.dashboard.gauges import Gauges
from consumer.dashboard.guard import Guard, reader_of, too_many_failures
from consumer.dashboard.selection import BadRequest, selection_of, whole
from consumer.dashboard.streams import Streams
from consumer.dashboard.verdicts import Asked, Unknown, Verdicts
from features.errors import FraudlineError

MAX_BODY_BYTES: Final = 4_096
BODY_S: Final = 10.0
PAGE: Final = 100
MAX_PAGE: Final = 500
MOST_WORDS: Final = 200
COME_BACK_S: Final = 15
MAX_NUMBER: Final = 10**15
_LOG: Final = structlog.get_logger("dashboard")


class Application:
    """The routes of one page. All that they answer comes from the board; none of them waits for Kafka but a verdict."""

    def __init__(
        self,
        *,
        board: Board,
        streams: Streams,
        gauges: Gauges,
        access: Access,
        verdicts: Verdicts | None,
        host: str,
    ) -> None:
        """`verdicts` is None where the page is read-only; `host` is the address that it listens on."""
        self._board, self._streams, self._gauges = board, streams, gauges
        self._access, self._verdicts = access, verdicts
        self._assets = Assets()
        routes = [
            Route("/", self._asset("index.html")),
            Route("/page.css", self._asset("page.css")),
            Route("/page.js", self._asset("page.js")),
            Route("/icon.svg", self._asset("icon.svg")),
            Route("/api/about", self._about),
            Route("/api/alerts", self._alerts),
            Route("/api/payment", self._payment),
            Route("/api/figures", self._figures),
            Route("/api/stream", self._stream),
            Route("/livez", self._live),
            Route("/readyz", self._ready),
            Route("/metrics", self._metrics),
        ]
        if access.way == "token":
            routes += [
                Route("/login", self._login_form),
                Route("/login", self._login, methods=["POST"]),
                Route("/logout", self._logout, methods=["POST"]),
            ]
        if verdicts is not None:
            routes.append(Route("/api/verdict", self._verdict, methods=["POST"]))
        self.routes: tuple[Route, ...] = tuple(routes)
        inner = Starlette(
            routes=routes,
            exception_handlers={HTTPException: _http_error, BadRequest: _bad_request, Exception: _bug},
        )
        inner.router.redirect_slashes = False
        self.asgi: ASGIApp = Guard(inner, access=access, gauges=gauges, host=host)  # around errors too

    def _asset(self, name: str):  # type: ignore[no-untyped-def]  # a Starlette endpoint
        async def endpoint(request: Request) -> Response:
            return self._assets.response(name, request)

        return endpoint

    async def _about(self, request: Request) -> Response:
        return _json(
            {
                "version": __version__,
                "reader": reader_of(request).name,
                "way": self._access.way,
                "verdicts": self._verdicts is not None,
                "words": self._board.words(MOST_WORDS),
            }
        )

    async def _alerts(self, request: Request) -> Response:
        asked = request.query_params
        selection = selection_of(asked)
        limit = whole(asked, "limit", 1, MAX_PAGE, PAGE)
        before = whole(asked, "before", 0, MAX_NUMBER, MAX_NUMBER)
        number = self._board.number
        before = min(before, number + 1)  # what comes meanwhile is the stream's to tell
        kept, more = await asyncio.to_thread(self._board.newest, selection, limit, before)
        labels = [self._board.label(each.alert.event_id) for each in kept]
        return _json(
            {
                "alerts": [msgspec.Raw(each.line) for each in kept],
                "labels": [label for label in labels if label is not None],
                "more": more,
                "number": number,
                "reading": self._streams.reading(),
            }
        )

    async def _payment(self, request: Request) -> Response:
        known = self._board.payment(request.query_params.get("event_id", ""))
        if known is None:
            return PlainTextResponse("This page does not know that payment, or no longer.\n", 404)
        return _json(
            {
                "alert": shown.whole_alert(known.kept.raised_ms, known.kept.alert) if known.kept else None,
                "decision": shown.whole_decision(known.decided_at_ms, known.decision) if known.decision else None,
                "label": known.label,
            }
        )

    async def _figures(self, _request: Request) -> Response:
        return Response(self._streams.figures(), media_type="application/json")

    async def _stream(self, request: Request) -> Response:
        selection = selection_of(request.query_params)
        after = whole(request.query_params, "after", 0, MAX_NUMBER, self._board.number)
        start = self._streams.start(request.headers.get("last-event-id"), after)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        if not self._streams.enter():
            told = {"Retry-After": str(COME_BACK_S), "Connection": "close"}
            return PlainTextResponse("As many browsers follow this page as may: come back later.\n", 503, told)
        return _Stream(self._streams, EventSourceResponse(self._streams.follow(selection, start)))

    async def _verdict(self, request: Request) -> Response:
        assert self._verdicts is not None  # noqa: S101  else there is no such route
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "A verdict is JSON: send it as application/json.")
        try:
            asked = msgspec.json.decode(await _body(request), type=Asked)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadRequest("A verdict is an object with event_id and label, which is fraud or genuine.") from None
        try:
            given = await self._verdicts.give(asked, reader_of(request).name)
        except Unknown:
            raise HTTPException(404, "This page does not have that alert, or no longer.") from None
        except FraudlineError:
            raise HTTPException(503, "The verdict was not acknowledged by Kafka: try again.") from None
        self._streams.wake()
        return _json(given)

    async def _login_form(self, request: Request) -> Response:
        return self._assets.response("login.html", request)

    async def _login(self, request: Request) -> Response:
        try:
            fields = parse_qs((await _body(request)).decode("utf-8", "replace"), max_num_fields=8)
        except ValueError:
            raise BadRequest("A sign-in is a form with a token.") from None
        try:
            proven = self._access.proves(request, fields.get("token", [""])[0])
        except TooManyFailures:
            return too_many_failures()
        if not proven:
            self._gauges.refused.inc()
            return self._assets.response("refused.html", request, 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            COOKIE, self._access.session(), max_age=SESSION_S, httponly=True, samesite="strict", secure=_by_tls(request)
        )
        return answer

    async def _logout(self, _request: Request) -> Response:
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    async def _live(self, _request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def _ready(self, _request: Request) -> Response:
        reading = self._board.reading()
        if not reading.loaded:
            return PlainTextResponse("reading what was published before\n", 503)
        return PlainTextResponse("stale: Kafka does not answer\n" if reading.stale else "ready\n")

    async def _metrics(self, _request: Request) -> Response:
        return Response(self._gauges.text(), media_type=gauges_module.CONTENT_TYPE)


class _Stream(Response):
    """A stream that gives its place back however it ends, also before it began."""

    def __init__(self, streams: Streams, response: EventSourceResponse) -> None:
        self._streams, self._response = streams, response
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._streams.leave()


async def _body(request: Request) -> bytes:
    """A small body, sent in reasonable time."""
    body = b""
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise HTTPException(413, "That is too much.", {"Connection": "close"})
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "The request did not come to its end.", {"Connection": "close"}) from None
    return body


def _by_tls(request: Request) -> bool:
    """Whether the browser speaks TLS, whatever stands between: it says so in Origin."""
    return request.headers.get("origin", "").lower().startswith("https://")


def _json(document: object) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  what it is registered for
    told = {404: "There is no such page.", 405: "This can't be done here."}.get(error.status_code, error.detail)
    text = error.detail if error.detail.endswith((".", ":")) else told
    return PlainTextResponse(f"{text}\n", error.status_code, error.headers)


async def _bad_request(_request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 400)


async def _bug(_request: Request, error: Exception) -> Response:
    with suppress(Exception):
        _LOG.error("request_failed", exc_info=error)
    return PlainTextResponse("Something is wrong here; the log says more.\n", 500)
