"""Logs: one format for everything that logs, and nothing in it that a person could be harmed by."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from consumer import logs
from consumer.logs import REDACTED, is_sensitive, mask_card_numbers, passes_luhn, plain
from features.errors import ConfigError
from features.event import Payment

CARD = "4111111111111111"
SENSITIVE = [
    *("password", "sasl_password", "SASL-Password", "passwd", "secret", "clientSecret", "access_token", "api_key"),
    *("Authorization", "payload", "raw_payload", "value", "record_value", "doc", "card_id", "cardId", "card-id", "pan"),
]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Logs as configured for a process whose standard error is no terminal; put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    logs.configure("info", "auto", text)
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def with_check_digit(digits: str) -> str:
    return next(digits + last for last in "0123456789" if passes_luhn(digits + last))


card_numbers = st.text("0123456789", min_size=11, max_size=18).map(with_check_digit)
no_digits = st.text(st.characters(codec="utf-8", exclude_categories=["Nd", "Cs"]), max_size=20)


def test_luhn_knows_the_published_test_numbers() -> None:
    assert all(passes_luhn(number) for number in (CARD, "378282246310005", "5555555555554444", "6011111111111117"))
    assert not passes_luhn("4111111111111112")


@given(card=card_numbers, before=no_digits, after=no_digits)
def test_a_card_number_inside_any_text_is_masked(card: str, before: str, after: str) -> None:
    assert mask_card_numbers(f"{before}{card}{after}") == f"{before}{REDACTED}{after}"


@given(digits=st.text("0123456789", min_size=1, max_size=25))
def test_digits_that_are_no_card_number_stay(digits: str) -> None:
    is_card = 12 <= len(digits) <= 19 and passes_luhn(digits)
    assert (mask_card_numbers(digits) == digits) is not is_card


@pytest.mark.parametrize("text", ["4111 1111 1111 1111", "4111-1111-1111-1111", "3782 822463 10005"])
def test_a_card_number_written_in_groups_is_masked(text: str) -> None:
    assert mask_card_numbers(f"card {text}, 5") == f"card {REDACTED}, 5"


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | no_digits | card_numbers | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(no_digits | card_numbers, inner, max_size=3),
    max_leaves=10,
)


@given(tree=trees, card=card_numbers)
def test_whatever_is_logged_renders_as_json_without_the_card_number(tree: object, card: str) -> None:
    event = logs.redact(None, "info", {"event": card, "a": tree, "b": {"deep": [tree, f"x{card}"]}})
    text = json.dumps(event, allow_nan=False)
    assert not re.search(rf"(?<!\d){card}(?!\d)", text)  # 10**12 has the digits of twelve noughts, which are no card's


@pytest.mark.parametrize("number", [int(CARD), -int(CARD), float(CARD), np.float64(CARD)])
def test_a_card_number_that_came_as_a_number_is_masked(number: float) -> None:
    assert logs.plain(number) == REDACTED
    assert logs.plain(number + 1) == number + 1


@pytest.mark.parametrize("key", SENSITIVE)
def test_sensitive_keys_are_never_rendered(key: str, stream: io.StringIO) -> None:
    assert is_sensitive(key)
    logs.bind("test").info("x", **{key: "harm", "nested": [{key: {"a": "harm"}}]})
    logging.getLogger("other").info("x %s", {key: "harm"})
    assert "harm" not in stream.getvalue()


@pytest.mark.parametrize("key", ["max_payment_bytes", "event", "evaluated", "company", "partition", "stage", "offset"])
def test_ordinary_keys_are_rendered(key: str) -> None:
    assert not is_sensitive(key)


def test_a_line_has_time_level_logger_and_component(stream: io.StringIO) -> None:
    structlog.contextvars.bind_contextvars(worker=3)
    logs.bind("loop", partition=2).warning("late", offset=17)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "late",
        "level": "warning",
        "logger": "fraudline.loop",
        "component": "loop",
        "partition": 2,
        "offset": 17,
        "worker": 3,
    }


def test_a_logger_made_before_the_configuration_follows_it() -> None:
    structlog.reset_defaults()
    early = logs.bind("early")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    try:
        logs.configure("warning", "json", text)
        early.info("not shown")
        early.warning("shown")
        assert [line["event"] for line in lines(text)] == ["shown"]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()


def test_stdlib_loggers_and_warnings_take_the_same_way(stream: io.StringIO) -> None:
    logging.getLogger("librdkafka").error("broker %s is down", "a:9092")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"WARNING: {CARD}", UserWarning, stacklevel=1)
    logging.getLogger("librdkafka").debug("not shown")
    first, second = lines(stream)
    assert (first["event"], first["logger"], first["level"]) == ("broker a:9092 is down", "librdkafka", "error")
    assert second["logger"] == "py.warnings"
    assert REDACTED in second["event"]


def test_debug_does_not_tell_each_step_of_a_compilation(stream: io.StringIO) -> None:
    """A processor's start would take minutes, all of them spent on lines that nobody asked for."""
    logs.configure("debug", "json", stream)
    logging.getLogger("numba.core.ssa").debug("on stmt")
    logging.getLogger("numba.core.ssa").warning("shown")
    logging.getLogger("fraudline.any").debug("shown too")
    assert [line["event"] for line in lines(stream)] == ["shown", "shown too"]


def test_an_error_of_ours_is_told_with_its_sentence(stream: io.StringIO) -> None:
    try:
        raise ConfigError("store.url is missing: set it.")
    except ConfigError:
        logs.bind("test").exception("refused")
    (line,) = lines(stream)
    assert (line["error_type"], line["error"]) == ("ConfigError", "store.url is missing: set it.")
    assert "test_logs.py" in line["error_at"][-1]


@pytest.mark.parametrize("foreign", [False, True])
def test_the_message_of_any_other_error_is_not_told(foreign: bool, stream: io.StringIO) -> None:
    try:
        json.loads('{"card_id": "harm"')
    except json.JSONDecodeError as error:
        if foreign:
            logging.getLogger("other").exception("failed: %s", error)
            logging.getLogger("other").error(error, stack_info=True)
        else:
            logs.bind("test").exception("failed: %s", error, cause=error, doc=error.doc, stack_info=True)
            logs.bind("test").error(cast("str", error))
    text = stream.getvalue()
    assert len(lines(stream)) == 2
    assert "JSONDecodeError" in text
    assert "harm" not in text
    assert "delimiter" not in text
    assert "json.loads('" not in text


def test_objects_are_told_by_their_type_only() -> None:
    payment = Payment("harm", 1_767_571_200_000, "harm", "harm", 1, "EUR")
    odd: list[object] = [payment, SecretStr("harm"), b"harm", bytearray(b"harm"), msgspec.Raw(b"harm"), {"harm"}, sys]
    assert "harm" not in json.dumps(plain(odd[:5]))
    assert plain(odd)[:3] == ["<Payment>", "<SecretStr>", "<4 bytes>"]
    assert plain(np.int64(5)) == 5
    assert plain(np.float32(0.5)) == 0.5
    assert plain(float("nan")) == "nan"


def test_no_log_call_raises_whatever_its_arguments(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    logs.bind("test").info("offset %d", "harm")
    logs.configure("info", "json", stream)  # replaces pytest's own handlers, which do raise
    logging.getLogger("other").info("offset %d", b"harm")
    told = stream.getvalue()
    assert "a line of logger other could not be written" in told
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_text() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = Terminal()
    try:
        logs.configure("info", "auto", text)
        logs.bind("test").info("hello", password="harm", card=CARD)
        assert "hello" in text.getvalue()
        assert not text.getvalue().startswith("{")
        assert "harm" not in text.getvalue()
        assert CARD not in text.getvalue()
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()


def test_a_command_tells_each_complaint_of_the_kafka_client_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure_command()
    client = logging.getLogger("librdkafka")
    try:
        for tried in range(3):
            client.error("FAIL: connection refused (after %dms)", tried)
            client.error("FAIL: certificate verify failed")
        lines = capsys.readouterr().err.splitlines()
    finally:
        client.filters.clear()
    assert [json.loads(line)["event"] for line in lines] == [
        "FAIL: connection refused (after 0ms)",
        "FAIL: certificate verify failed",
    ]
