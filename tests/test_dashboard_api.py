"""The alert page answers as its OpenAPI document says, whatever it is asked: real server, requests made from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from consumer.dashboard.guard import MAX_HEADERS, PUBLIC
from tests.support.page import TOKEN, Page, alert, decision, served

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parents[1] / "docs" / "dashboard.openapi.json").read_text())
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
OWN_FILES = {"/", "/page.css", "/page.js", "/icon.svg"}
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]

api = schemathesis.openapi.from_dict(DOCUMENT)
# a stream does not end, and wrong tokens shut their sender out; both have tests of their own in test_dashboard_web
asked = api.exclude(operation_id=["stream", "login"])


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with served(auth="token", token=TOKEN, verdicts=True) as made:
        made.show(alert("e-1"), alert("e-2", decision="block", rules=("list_deny",)))
        made.tail.feed("decisions", decision("e-1", decision="review"), decision("e-approved"))
        made.wait(lambda: made.dashboard.board.payment("e-approved"))
        yield made


@asked.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_every_answer_is_one_that_the_document_has(case: schemathesis.Case, page: Page) -> None:
    answer = case.call(base_url=page.address, headers=BEARER)
    case.validate_response(answer, checks=[*CHECKS, *_refuses(case)])


def _refuses(case: schemathesis.Case) -> list[Any]:
    """Bad parameters and bodies are refused; headers and unknown parameters are left alone, as the document says."""
    return [negative_data_rejection] if case.method == "POST" and case.path == "/api/verdict" else []


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_what_needs_a_token_is_told_to_nobody_without_one(path: str, method: str, page: Page) -> None:
    secured = DOCUMENT["paths"][path][method].get("security", DOCUMENT["security"])
    with httpx.Client(base_url=page.address, trust_env=False) as http:
        answer = http.request(method, path, headers={"Sec-Fetch-Site": "same-origin"})
    if secured:
        assert (answer.status_code, answer.text) == (401, "A token is needed.\n")
    else:
        assert path in PUBLIC | {"/login"}
    assert str(answer.status_code) in DOCUMENT["paths"][path][method]["responses"]


def test_the_document_has_every_route_and_nothing_else(page: Page) -> None:
    routes = [(route.path, route.methods or set()) for route in page.dashboard.application.routes]
    asked = {(path, method.lower()) for path, methods in routes for method in methods - {"HEAD"}}
    assert {(path, method) for path, method in asked if path not in OWN_FILES} == set(OPERATIONS)


WRONG = {
    "limit": ["0", "501", "-1", "1.5", "x", "\u0661", "1e2", "9" * 30, "+1", " 1"],
    "before": ["-1", "1000000000000001", "x", "0x10"],
    "min_score": ["-1", "nan", "inf", "x", "1" * 40],
    "min_amount": ["-0.1", "Infinity", "\u00bd"],
    "decision": ["fraud", "BLOCK", "block,review"],
    "tier": ["half", "\0"],
    "reason": ["r" * 129],
    "text": ["\U0001f600" * 129],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_parameter_that_can_t_be_used_is_refused_with_its_name_and_without_its_value(
    name: str, value: str, page: Page
) -> None:
    with httpx.Client(base_url=page.address, headers=BEARER, trust_env=False) as http:
        answer = http.get("/api/alerts", params={name: value})
    assert answer.status_code == 400, answer.text
    assert answer.text.startswith(f"{name} m")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


ODD_IDS = [
    "e" * 1_900,
    "\U0001f600\u202e\0",
    "e-1\r\nSet-Cookie: a=b",
    "<script>",
    "../../etc/passwd",
    "%00%0d%0a",
    "' or 1=1",
]


@pytest.mark.parametrize("event_id", ODD_IDS, ids=range(len(ODD_IDS)))
def test_an_odd_id_is_unknown_and_comes_back_nowhere(event_id: str, page: Page) -> None:
    with httpx.Client(base_url=page.address, headers=BEARER, trust_env=False) as http:
        asked = http.get("/api/payment", params={"event_id": event_id})
        given = http.post("/api/verdict", json={"event_id": event_id, "label": "fraud"})
    for answer in (asked, given):
        assert answer.status_code in {404, 414}
        assert event_id not in answer.text
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("name", ["Last-Event-ID", "Cookie", "X-Forwarded-For", "Content-Type", "Origin", "Host"])
def test_long_and_odd_headers_are_answered_as_the_document_says(name: str, page: Page) -> None:
    known = set(DOCUMENT["paths"]["/api/figures"]["get"]["responses"])
    with httpx.Client(base_url=page.address, trust_env=False) as http:
        for value in ("\xff\xfe".encode("latin-1"), b"\t\\"[1:], b"a" * (MAX_HEADERS - 2_000), b"a;b=c;,,;", b"[::1"):
            answer = http.get(
                "/api/figures", headers=[(k.encode(), v.encode()) for k, v in BEARER.items()] + [(name.encode(), value)]
            )
            assert str(answer.status_code) in known | {"400"}, (value[:20], answer.status_code)
