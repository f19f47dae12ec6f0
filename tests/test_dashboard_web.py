"""The alert page over HTTP: who may read it, what it answers to bad requests, streams, verdicts; nothing leaks."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from threading import Barrier, BrokenBarrierError
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumer.dashboard import access as access_module
from consumer.dashboard import server as server_module
from consumer.dashboard import streams as streams_module
from consumer.dashboard.access import COOKIE, FAILURES, SESSION_S, Access, loopback
from consumer.dashboard.board import Board
from consumer.dashboard.gauges import Gauges
from consumer.dashboard.guard import HEADERS, MAX_QUERY
from consumer.dashboard.server import listen
from consumer.dashboard.verdicts import MOST_WAITING, Asked, Verdicts
from consumer.metrics import DASHBOARD_METRICS
from consumer.records import Alert
from consumer.settings import DashboardSettings
from features.errors import ConfigError
from features.event import Label, Payment
from tests.support.page import NOW_MS, TOKEN, ListWriter, Page, alert, decision, now_ms, served, until

BEARER = {"Authorization": f"Bearer {TOKEN}"}
HERE = {"Sec-Fetch-Site": "same-origin"}
DATA = ("/api/about", "/api/alerts", "/api/payment?event_id=e-1", "/api/figures", "/api/stream")
PUBLIC = ("/livez", "/readyz", "/metrics", "/page.css", "/page.js", "/icon.svg")


@contextmanager
def client(page: Page, **headers: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=page.address, headers=headers, timeout=20, trust_env=False) as made:
        yield made


@pytest.fixture(scope="module")
def locked() -> Iterator[Page]:
    with served(auth="token", token=TOKEN, verdicts=True) as page:
        page.show(alert("e-1"))
        yield page


@pytest.fixture(scope="module")
def open_page() -> Iterator[Page]:
    with served(verdicts=True) as page:
        page.show(alert("e-1"), alert("e-2", decision="block", rules=("list_deny",)))
        page.tail.feed("decisions", decision("e-1", decision="review"), decision("e-approved"))
        page.wait(lambda: page.dashboard.board.payment("e-approved"))
        yield page


@contextmanager
def stream(http: httpx.Client, path: str = "/api/stream", **headers: str) -> Iterator[Iterator[tuple[str, str, Any]]]:
    """A stream's events as (event, id, data)."""
    with http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()

        def events() -> Iterator[tuple[str, str, Any]]:
            event: dict[str, str] = {}
            for text in answer.iter_lines():
                if not text and event:
                    yield event["event"], event["id"], json.loads(event["data"])
                    event = {}
                elif ": " in text and not text.startswith(":"):
                    name, _, value = text.partition(": ")
                    event[name] = value

        yield events()


def news(events: Iterator[tuple[str, str, Any]]) -> tuple[str, Any]:
    return next((at, data) for event, at, data in events if event == "news")


# who may read


@pytest.mark.parametrize("path", [*DATA, "/api/nowhere", "/../etc/passwd"])
def test_without_a_token_nothing_is_told(locked: Page, path: str) -> None:
    with client(locked) as http:
        answer = http.get(path)
    assert (answer.status_code, answer.text) == (401, "A token is needed.\n")
    assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", PUBLIC)
def test_probes_and_the_page_s_own_files_need_no_token_and_hold_no_data(locked: Page, path: str) -> None:
    with client(locked) as http:
        answer = http.get(path)
    assert answer.status_code == 200
    for secret in ("tok_1", "m_12", "e-1", TOKEN):
        assert secret not in answer.text


def test_a_browser_without_a_session_is_led_to_the_form(locked: Page) -> None:
    with client(locked) as http:
        answer = http.get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        assert 'name="token"' in http.get("/login").text


@pytest.mark.parametrize("path", DATA)
def test_the_token_opens_everything(locked: Page, path: str) -> None:
    with client(locked, **BEARER) as http, http.stream("GET", path) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "header", ["Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer", f"bearer {TOKEN[:-1]}", "\xff"]
)
def test_a_forged_token_is_refused_and_not_repeated(header: str) -> None:
    with served(auth="token", token=TOKEN) as page, client(page) as http:
        answer = http.get("/api/alerts", headers={"Authorization": header.encode("latin-1")})
        assert (answer.status_code, answer.text) == (401, "A token is needed.\n")


def login(http: httpx.Client, token: str, **headers: str) -> httpx.Response:
    return http.post("/login", data={"token": token}, headers={**HERE, **headers})


def test_a_session_is_a_strict_cookie_that_ends_at_sign_out(locked: Page) -> None:
    with client(locked) as http:
        answer = login(http, TOKEN)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "secure" not in cookie
        assert TOKEN not in cookie
        assert http.get("/api/alerts").json()["alerts"][0]["event_id"] == "e-1"
        assert http.post("/logout", headers=HERE).status_code == 303
        assert http.get("/api/alerts").status_code == 401


def test_behind_tls_the_cookie_is_for_tls_only(locked: Page) -> None:
    with client(locked) as http:
        host = http.base_url.netloc.decode()
        answer = login(http, TOKEN, Origin=f"https://{host}")
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("body", [b"a=1&" * 9, b"&".join(b"token=x" for _ in range(9)), b"\xff%ff=%zz", b""])
def test_what_is_no_sign_in_is_refused_and_no_error_of_ours(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with served(auth="token", token=TOKEN) as page, client(page, **HERE) as http:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert http.post("/login", content=body, headers=kind).status_code in (400, 401)
    assert not caplog.records


def test_a_session_holds_over_a_restart_and_not_over_another_token(locked: Page) -> None:
    with client(locked) as http:
        cookie = login(http, TOKEN).cookies[COOKIE]
    for token, status in ((TOKEN, 200), (TOKEN + "-2", 401)):
        with served(auth="token", token=token) as page, client(page, Cookie=f"{COOKIE}={cookie}") as http:
            assert http.get("/api/about").status_code == status


@pytest.mark.parametrize("forge", ["later", "signature", "empty", "unsigned"])
def test_a_forged_session_is_refused(locked: Page, forge: str) -> None:
    with client(locked) as http:
        cookie = login(http, TOKEN).cookies[COOKIE]
    until_s, nonce, signature = cookie.split(".")
    forged = {
        "later": f"{int(until_s) + 1}.{nonce}.{signature}",
        "signature": f"{until_s}.{nonce}.{'0' * 64}",
        "empty": "",
        "unsigned": f"{until_s}.{nonce}.",
    }[forge]
    with client(locked, Cookie=f"{COOKIE}={forged}") as http:
        assert http.get("/api/about").status_code == 401


def test_a_session_ends() -> None:
    now_s = [1_000.0]
    made = Access(DashboardSettings.model_validate({"token": TOKEN}), clock=lambda: now_s[0])
    cookie = made.session()
    assert made._holds(cookie)
    now_s[0] += SESSION_S
    assert not made._holds(cookie)


def test_after_too_many_wrong_tokens_the_right_one_is_not_heard_either_for_a_while() -> None:
    with served(auth="token", token=TOKEN) as page, client(page) as http:
        for _ in range(FAILURES):
            assert login(http, "wrong").status_code == 401
        answer = login(http, TOKEN)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
        assert http.get("/api/alerts", headers=BEARER).status_code == 429
        assert http.get("/livez").status_code == 200


def test_failures_are_forgotten_after_a_while_and_their_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_module, "MAX_CLIENTS", 3)
    now_s = [0.0]
    made = Access(DashboardSettings.model_validate({"token": TOKEN}), clock=lambda: now_s[0])

    def asks(host: str) -> Any:
        return access_module.HTTPConnection({"type": "http", "client": (host, 1), "headers": []})

    for number in range(5):
        assert not made.proves(asks(f"10.0.0.{number}"), "wrong")
    assert len(made._failures) == 3
    for _ in range(FAILURES):
        made.proves(asks("10.0.0.9"), "wrong")
    with pytest.raises(access_module.TooManyFailures):
        made.proves(asks("10.0.0.9"), TOKEN)
    now_s[0] += access_module.FAILURES_WINDOW_S
    assert made.proves(asks("10.0.0.9"), TOKEN)


PROXY = {"auth": "proxy", "trusted_proxies": "127.0.0.0/8"}


def test_a_trusted_proxy_s_header_names_the_reader() -> None:
    with served(**PROXY) as page, client(page) as http:
        answer = http.get("/api/about", headers={"X-Forwarded-User": "ada", "Host": "fraud.example.com"})
        assert answer.json()["reader"] == "ada"


def test_a_reader_s_name_is_read_as_proxies_send_it() -> None:
    with served(**PROXY) as page, client(page) as http:
        for sent in ("Łukasz Żółw".encode(), "Voilà".encode(), "Zoë".encode("latin-1")):
            named = http.get("/api/about", headers={b"X-Forwarded-User": sent}).json()["reader"]
            assert named in ("Łukasz Żółw", "Voilà", "Zoë")
        for hidden in ("ada\u202eadmin", "ada\u200b", "ada\x85"):
            assert http.get("/api/about", headers={b"X-Forwarded-User": hidden.encode()}).status_code == 403


@pytest.mark.parametrize(
    ("page", "headers"),
    [
        (PROXY, []),
        (PROXY, [("X-Forwarded-User", "")]),
        (PROXY, [("X-Forwarded-User", "mallory"), ("X-Forwarded-User", "ada")]),
        (PROXY, [("X-Forwarded-User", "a" * 200)]),
        (PROXY, [("Authorization", f"Bearer {TOKEN}")]),
        (
            {"auth": "proxy", "trusted_proxies": "10.0.0.1"},
            [("X-Forwarded-User", "ada"), ("X-Forwarded-For", "10.0.0.1")],
        ),
    ],
)
def test_whoever_does_not_come_through_the_proxy_is_refused(
    page: dict[str, str], headers: list[tuple[str, str]]
) -> None:
    with served(**page) as made, client(made) as http:
        answer = http.get("/api/about", headers=headers)
    assert (answer.status_code, answer.text) == (403, "This page is read through its reverse proxy only.\n")


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ({"auth": "none", "host": "0.0.0.0"}, "for this machine alone"),
        ({"auth": "token"}, "also needs dashboard.token"),
    ],
)
def test_settings_that_would_let_everybody_in_are_refused(page: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Access(DashboardSettings.model_validate(page))


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("127.9.9.9", True), ("0.0.0.0", False),
     ("10.0.0.1", False), ("example.com", False), ("localhost.example.com", False), ("", False)],
)  # fmt: skip
def test_what_only_this_machine_can_reach(host: str, own: bool) -> None:
    assert loopback(host) == own


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9465", "127.0.0.1.evil.example", "", "[", "a@127.0.0.1.x"]
)
def test_another_site_s_name_that_leads_here_is_not_answered(open_page: Page, host: str) -> None:
    with client(open_page) as http:
        answer = http.get("/api/alerts", headers={"Host": host})
    assert answer.status_code in (400, 421)
    assert "tok_1" not in answer.text


def test_a_port_that_is_taken_gets_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"can't be served on 127.0.0.1:{port} \(Address already in use\)"):
            listen("127.0.0.1", port)


# bad requests


@pytest.mark.parametrize("path", ["/", "/login.html", "/api/nowhere", "/livez", "/page.css", "/api/alerts"])
def test_every_answer_has_the_safe_headers(open_page: Page, path: str) -> None:
    with client(open_page) as http:
        answer = http.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert answer.headers["cache-control"] == ("no-cache" if path in ("/", "/page.css") else "no-store")
    assert "server" not in answer.headers


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/..%2f..%2fetc/passwd", "/page.css/../../board.py", "/static/page.js", "/%00", "//page.js",
     "/board.py", "/refused.html", "/api/", "/login"],
)  # fmt: skip
def test_there_is_no_way_to_other_files(open_page: Page, path: str) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(open_page.address).port or 0)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(4_096), b"")).decode()
    assert answer.startswith("HTTP/1.1 404 ")
    assert answer.endswith("There is no such page.\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_what_only_reads_is_only_read(open_page: Page, method: str) -> None:
    with client(open_page, **HERE) as http:
        assert http.request(method, "/api/alerts").status_code == 405


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/alerts?text={'x' * MAX_QUERY}", 414),
        (f"/{'x' * 600}", 414),
        (f"/api/alerts?text={'x' * 20_000}", 414),
        ("/api/alerts?limit=501", 400),
        ("/api/alerts?before=-1", 400),
        ("/api/alerts?min_score=much", 400),
        ("/api/stream?decision=drop", 400),
        ("/api/payment", 404),
        ("/api/payment?event_id=%00%ff", 404),
    ],
)
def test_what_can_not_be_answered_gets_a_short_sentence(open_page: Page, path: str, status: int) -> None:
    with client(open_page) as http:
        answer = http.get(path)
    assert answer.status_code == status
    assert len(answer.text) < 200
    assert "Traceback" not in answer.text


def test_a_head_that_is_too_large_is_refused(open_page: Page) -> None:
    with client(open_page) as http:
        assert http.get("/api/alerts", headers={"X-Filler": "x" * 100_000}).status_code == 431


def test_a_bug_is_one_sentence_for_the_reader(caplog: pytest.LogCaptureFixture) -> None:
    with served() as page, client(page) as http:
        page.dashboard.board.figures = None  # type: ignore[method-assign, assignment]
        answer = http.get("/api/figures")
        assert (answer.status_code, answer.text) == (500, "Something is wrong here; the log says more.\n")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_what_is_no_http_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    upgrade = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    twice = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    with served() as page:
        for junk in (b"\x16\x03\x01\r\n\r\n", b"GET /\r\n\r\n", twice, upgrade):
            with socket.create_connection(("127.0.0.1", httpx.URL(page.address).port or 0), timeout=20) as raw:
                raw.sendall(junk)
                assert raw.recv(4_096).startswith(b"HTTP/1.1 200 " if junk is upgrade else b"HTTP/1.1 400 ")
    assert not caplog.records


# what is told


def test_the_list_is_filtered_searched_and_paged(open_page: Page) -> None:
    with client(open_page) as http:
        found = http.get("/api/alerts", params={"limit": 1}).json()
        assert ([each["event_id"] for each in found["alerts"]], found["more"]) == (["e-2"], True)
        older = http.get("/api/alerts", params={"before": found["alerts"][0]["number"]}).json()
        assert ([each["event_id"] for each in older["alerts"]], older["more"]) == (["e-1"], False)
        for asked in ({"decision": "block"}, {"reason": "DENY"}, {"text": "E-2"}):
            found = http.get("/api/alerts", params=asked).json()
            assert [each["event_id"] for each in found["alerts"]] == ["e-2"]
        assert "list_deny" in http.get("/api/about").json()["words"]


def test_an_alert_that_comes_while_the_list_is_made_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as page, client(page) as http:
        page.show(alert("before"))
        newest = page.dashboard.board.newest

        def meanwhile(*asked: Any) -> Any:
            page.show(alert("meanwhile"))
            return newest(*asked)

        monkeypatch.setattr(page.dashboard.board, "newest", meanwhile)
        found = http.get("/api/alerts").json()
        with stream(http, f"/api/stream?after={found['number']}") as events:
            _, told = news(events)
    assert [each["event_id"] for each in found["alerts"]] == ["before"]
    assert [each["event_id"] for each in told["alerts"]] == ["meanwhile"]


def test_a_payment_is_told_with_its_alert_and_its_decision(open_page: Page) -> None:
    with client(open_page) as http:
        known = http.get("/api/payment", params={"event_id": "e-1"}).json()
        assert (known["alert"]["decided_ms"], known["alert"]["amount"]) == (13.0, "17.18")
        assert known["decision"]["decision"] == "review"
        assert known["label"] is None
        known = http.get("/api/payment", params={"event_id": "e-approved"}).json()
        assert (known["alert"], known["decision"]["decision"]) == (None, "approve")


def test_assets_are_asked_for_again_and_not_sent_again(open_page: Page) -> None:
    with client(open_page) as http:
        first = http.get("/page.js")
        again = http.get("/page.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_metrics_are_those_that_are_declared(open_page: Page) -> None:
    with client(open_page) as http:
        families = {each.name: each for each in text_string_to_metric_families(http.get("/metrics").text)}
    told = {name + ("_total" if each.type == "counter" else ""): (each.type, each.documentation)
            for name, each in families.items()}  # fmt: skip
    assert told == {each.name: (each.kind, each.help) for each in DASHBOARD_METRICS}
    read = {sample.labels["kind"]: sample.value for sample in families["fraudline_dashboard_records"].samples}
    assert (read["alert"], read["decision"]) == (2, 2)


def test_readiness_says_whether_the_past_was_read_and_stays_while_kafka_is_away() -> None:
    with served() as page, client(page) as http:
        assert (http.get("/readyz").status_code, http.get("/readyz").text) == (200, "ready\n")
        page.tail.away = True
        page.wait(lambda: page.dashboard.board.reading().stale)
        assert (http.get("/readyz").status_code, http.get("/readyz").text) == (200, "stale: Kafka does not answer\n")
        for path in ("/api/alerts", "/api/figures", "/readyz"):
            assert "secret-host" not in http.get(path).text
        assert http.get("/api/alerts").json()["reading"]["stale"] is True


# streams


def test_alerts_come_by_the_stream_and_the_chosen_ones_only(open_page: Page) -> None:
    with client(open_page) as http, stream(http, "/api/stream?decision=block") as events:
        assert next(events)[0] == "figures"
        open_page.show(alert("e-review"), alert("e-block", decision="block"))
        _, told = news(events)
    assert [each["event_id"] for each in told["alerts"]] == ["e-block"]
    assert told["skipped"] == 0


def test_a_browser_that_comes_back_gets_what_it_missed_once() -> None:
    with served() as page, client(page) as http:
        with stream(http) as events:
            page.show(alert("seen"))
            last, _ = news(events)
        page.show(alert("missed"))
        with stream(http, **{"Last-Event-ID": last}) as events:
            _, told = news(events)
        assert [each["event_id"] for each in told["alerts"]] == ["missed"]
        with stream(http, "/api/stream?after=0", **{"Last-Event-ID": "0123abcd-7"}) as events:
            assert next(events)[0] == "reset"


def test_who_is_far_behind_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "FAR_BEHIND", 3)
    with served() as page, client(page) as http:
        with stream(http) as events:
            page.show(alert("seen"))
            last, _ = news(events)
        page.show(*(alert(f"e-{number}") for number in range(4)))
        for path, headers in (("/api/stream?after=0", {}), ("/api/stream", {"Last-Event-ID": last})):
            with stream(http, path, **headers) as events:
                assert next(events)[0] == "reset"
        with stream(http, "/api/stream?after=2") as events:
            assert next(events)[0] == "news"


def test_more_than_a_stream_tells_at_once_is_counted() -> None:
    with served() as page, client(page) as http:
        page.show(*(alert(f"e-{number}") for number in range(streams_module.AT_ONCE + 20)))
        with stream(http, "/api/stream?after=0") as events:
            _, told = news(events)
        assert (len(told["alerts"]), told["skipped"]) == (streams_module.AT_ONCE, 20)
        assert told["alerts"][-1]["event_id"] == f"e-{streams_module.AT_ONCE + 19}"


def test_only_so_many_streams_are_open_and_a_place_is_free_again_when_one_ends() -> None:
    with served(max_streams=2) as page, client(page) as http, ExitStack() as held:
        opened = [held.enter_context(stream(http)) for _ in range(2)]
        for events in opened:
            next(events)
        with http.stream("GET", "/api/stream") as answer:
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "15")
            assert "come back later" in answer.read().decode()
        held.close()
        until(lambda: page.dashboard.streams.open == 0, "the places' return")
        with stream(http) as events:
            next(events)


def test_a_page_that_closes_ends_its_streams() -> None:
    with served() as page, client(page) as http, stream(http) as events:
        next(events)
        page.dashboard.close()
        list(events)


def test_a_crowd_of_streams_is_refused_and_the_page_still_answers() -> None:
    """Every connection is open at once; those beyond `max_streams` get a 503, and the feed is not held up."""
    crowd = 500
    with served(max_streams=20) as page, ExitStack() as held:
        port = httpx.URL(page.address).port or 0
        request = b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def follow(_number: int) -> tuple[socket.socket, bytes]:
            raw = socket.create_connection(("127.0.0.1", port), timeout=30)
            try:
                raw.sendall(request)
                return raw, raw.recv(64)
            except OSError:
                return raw, b"HTTP/1.1 503"  # told so before it had asked

        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(follow, range(crowd)))
        for raw, _ in answers:
            held.callback(raw.close)
        statuses = [answer[9:12] for _, answer in answers]
        assert statuses.count(b"200") == 20
        assert statuses.count(b"503") == crowd - 20
        turns = page.tail.turns
        page.show(alert("e-in-the-crowd"))
        assert page.tail.turns > turns
        with client(page) as http:
            assert http.get("/livez").status_code == 200
            assert http.get("/api/alerts").json()["alerts"][0]["event_id"] == "e-in-the-crowd"


def test_a_stream_that_is_not_read_holds_nobody_up() -> None:
    with served() as page, client(page) as http:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        with raw:
            raw.connect(("127.0.0.1", httpx.URL(page.address).port or 0))
            raw.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            raw.recv(64)
            with stream(http) as events:
                for number in range(2_000):
                    page.tail.feed("alerts", alert(f"e-{number}", merchant_id="m" * 128))
                page.wait(lambda: page.dashboard.board.payment("e-1999"))
                told = 0
                while told < 2_000:
                    _, data = news(events)
                    told += len(data["alerts"]) + data["skipped"]
            assert told == 2_000


def test_connections_beyond_the_limit_are_told_so_and_silent_ones_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "BESIDE_STREAMS", 4)
    monkeypatch.setattr(server_module, "HEAD_S", 1.0)
    with served(max_streams=1) as page, ExitStack() as held:
        address = ("127.0.0.1", httpx.URL(page.address).port or 0)
        silent = [held.enter_context(socket.create_connection(address, timeout=20)) for _ in range(5)]
        silent[0].sendall(b"GET /livez HTTP/1.1\r\nHost: loc")  # never ends
        crowd = held.enter_context(socket.create_connection(address, timeout=20))
        assert b"".join(iter(lambda: crowd.recv(4_096), b"")).startswith(b"HTTP/1.1 503 ")
        for raw in silent:
            with suppress(ConnectionResetError):
                assert raw.recv(64) == b""
        with client(page) as http:
            assert http.get("/livez").status_code == 200


def test_a_browser_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STALLED_S", 0.2)
    with served() as page, socket.socket() as raw:
        page.dashboard._server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)  # accepted ones inherit
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        raw.connect(("127.0.0.1", httpx.URL(page.address).port or 0))
        raw.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        raw.recv(64)
        assert page.dashboard.streams.open == 1
        fed = 0

        def cut_off() -> bool:
            nonlocal fed
            page.tail.feed("alerts", *(alert(f"e-{fed + n}", merchant_id="m" * 128) for n in range(100)))
            fed += 100
            page.wait(lambda: page.dashboard.board.payment(f"e-{fed - 1}"))
            return page.dashboard.streams.open == 0

        until(cut_off, "the end of a stream that nobody reads")


# verdicts


def verdict(http: httpx.Client, event_id: str, label: str, **headers: str) -> httpx.Response:
    return http.post("/api/verdict", json={"event_id": event_id, "label": label}, headers={**HERE, **headers})


def test_a_page_is_read_only_unless_it_is_told_otherwise() -> None:
    with served() as page, client(page) as http:
        page.show(alert("e-1"))
        assert verdict(http, "e-1", "fraud").status_code == 404
        assert http.get("/api/about").json()["verdicts"] is False
        assert page.writer.written == []


def test_a_verdict_is_a_label_of_all_that_the_payment_names() -> None:
    payment = Payment("e-1", NOW_MS, "tok_1", "m_12", 1_718, "GBP", ip="10.0.37.49", terminal_id="t_1")
    with served(payment, verdicts=True, **PROXY) as page, client(page, **{"X-Forwarded-User": "ada"}) as http:
        page.show(alert("e-1"))
        before_ms = now_ms()
        given = verdict(http, "e-1", "fraud").json()
        [(label, actor)] = page.writer.written
        assert actor == "ada"
        assert before_ms <= label.labelled_at == given["labelled_ms"]
        assert label == Label("e-1", "tok_1", "m_12", NOW_MS, "fraud", label.labelled_at, "analyst",
                              account_id="a_7", terminal_id="t_1", device_id="d_9", ip="10.0.37.49")  # fmt: skip
        assert msgspec.json.decode(msgspec.json.encode(label), type=Label) == label
        assert (given["repeated"], given["whole"]) == (False, True)
        assert http.get("/api/payment?event_id=e-1").json()["label"]["label"] == "fraud"


def test_the_same_verdict_again_is_answered_and_another_one_written() -> None:
    with served(verdicts=True) as page, client(page) as http:
        page.show(alert("e-1"))
        first = verdict(http, "e-1", "fraud").json()
        again = verdict(http, "e-1", "fraud").json()
        assert (again["repeated"], again["labelled_ms"]) == (True, first["labelled_ms"])
        assert verdict(http, "e-1", "genuine").json()["repeated"] is False
        assert [label.label for label, _ in page.writer.written] == ["fraud", "genuine"]


def test_the_same_verdict_from_two_at_once_is_written_once() -> None:
    """The second one would look up the payment beside the first, if it were let in before that was written."""
    board, writer, both = Board(10, 200.0), ListWriter(), Barrier(2)
    board.take("alert", msgspec.json.encode(alert("e-1")), NOW_MS)

    def payment_of(_alert: Alert) -> None:
        with suppress(BrokenBarrierError):
            both.wait(0.5)

    verdicts = Verdicts(board, writer, payment_of, Gauges(board))
    with ThreadPoolExecutor(2) as pool:
        given = list(pool.map(lambda _: verdicts.give_now(Asked("e-1", "fraud"), "ada"), range(2)))
    assert [each.repeated for each in given].count(False) == len(writer.written) == 1


def test_a_label_from_elsewhere_does_not_stand_for_the_analyst_s() -> None:
    with served(verdicts=True) as page, client(page) as http:
        page.show(alert("e-1"))
        page.tail.feed("labels", Label("e-1", "tok_1", "m_12", NOW_MS, "fraud", NOW_MS + 1, "chargeback"))
        page.wait(lambda: page.dashboard.board.label("e-1"))
        assert verdict(http, "e-1", "fraud").json()["repeated"] is False


def test_a_verdict_that_was_not_acknowledged_may_be_given_again() -> None:
    with served(verdicts=True) as page, client(page) as http:
        page.show(alert("e-1"))
        page.writer.away = True
        answer = verdict(http, "e-1", "fraud")
        assert (answer.status_code, answer.text) == (503, "The verdict was not acknowledged by Kafka: try again.\n")
        page.writer.away = False
        assert verdict(http, "e-1", "fraud").json()["repeated"] is False


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 404),
    ],
)
def test_another_site_can_not_give_verdicts(open_page: Page, headers: dict[str, str], status: int) -> None:
    with client(open_page) as http:
        answer = http.post("/api/verdict", json={"event_id": "nobody's", "label": "fraud"}, headers=headers)
    assert answer.status_code == status


def test_a_program_with_the_token_needs_no_origin(locked: Page) -> None:
    with client(locked, **BEARER) as http:
        answer = http.post("/api/verdict", json={"event_id": "nobody's", "label": "fraud"})
    assert (answer.status_code, answer.text) == (404, "This page does not have that alert, or no longer.\n")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 4_000, "application/json", 400),
        (b'{"event_id": "e-1", "label": "maybe"}', "application/json", 400),
        (b'{"event_id": "e-1", "label": "fraud", "source": "issuer"}', "application/json", 400),
        (b'{"event_id": "e-1", "label": "fraud"}', "text/plain", 415),
        (b'{"event_id": "e-1", "label": "fraud"}', "application/x-www-form-urlencoded", 415),
        (b"x" * 5_000, "application/json", 413),
    ],
)
def test_what_is_no_verdict_is_refused(open_page: Page, content: bytes, kind: str, status: int) -> None:
    with client(open_page, **HERE) as http:
        answer = http.post("/api/verdict", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert len(answer.text) < 120
    assert open_page.writer.written == []


def test_verdicts_that_wait_for_kafka_keep_nobody_from_looking() -> None:
    """More wait than any pool of threads has; those beyond a few are told so at once, the rest when Kafka is back."""
    crowd = 40
    with served(verdicts=True) as page, client(page) as http, ThreadPoolExecutor(crowd) as pool:
        page.show(*(alert(f"e-{number}") for number in range(crowd)))
        page.writer.answers.clear()
        try:
            waiting = [pool.submit(verdict, http, f"e-{number}", "fraud") for number in range(crowd)]
            until(lambda: sum(each.done() for each in waiting) == crowd - MOST_WAITING, "the refusals")
            assert {each.result().status_code for each in waiting if each.done()} == {503}
            assert len(http.get("/api/alerts").json()["alerts"]) == crowd
        finally:
            page.writer.answers.set()
        assert [each.result().status_code for each in waiting].count(200) == MOST_WAITING


def test_a_verdict_takes_the_place_of_one_that_is_dated_later() -> None:
    """Another page's clock may be ahead, and a payment be dated ahead of all of them."""
    ahead_ms = now_ms() + 3_600_000
    with served(verdicts=True) as page, client(page) as http:
        page.show(alert("e-1"), alert("e-ahead", event_time=ahead_ms))
        page.tail.feed("labels", Label("e-1", "tok_1", "m_12", NOW_MS, "fraud", ahead_ms, "analyst"))
        page.wait(lambda: page.dashboard.board.label("e-1"))
        assert verdict(http, "e-ahead", "fraud").json()["labelled_ms"] == ahead_ms
        for event_id in ("e-1", "e-ahead"):
            assert verdict(http, event_id, "genuine").json()["labelled_ms"] == ahead_ms + 1
            assert http.get("/api/payment", params={"event_id": event_id}).json()["label"]["label"] == "genuine"
            assert verdict(http, event_id, "fraud").json()["repeated"] is False
