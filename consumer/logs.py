"""Logs: structlog configured once for everything that logs in this process; JSON when stderr is not a terminal.

The last processors are a last line of defence, not a licence: they keep card numbers, payloads and secrets out of any
line, whoever wrote it. Only plain values are rendered; an object appears as its type, an exception of ours as its type
and sentence, any other exception as its type and place, because its message may quote what it choked on.

The Kafka client's `logger` should be `logging.getLogger("librdkafka")`; XGBoost's warnings arrive through `warnings`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, Literal, TextIO

import numpy as np
import structlog
from structlog.typing import EventDict, Processor

from features.errors import FraudlineError

REDACTED: Final = "[redacted]"
MAX_DEPTH: Final = 6

CLIENT: Final = "librdkafka"
COMPILER: Final = "numba"
_ANSWER: Final = re.compile(r"(OIDC|OAUTHBEARER) token[^:]*")

_SENSITIVE_PARTS: Final = re.compile(
    r"passw|secret|token|payload|cardid|cardnumber|apikey|authorization|credential|cookie", re.IGNORECASE
)
_SENSITIVE_WORDS: Final = frozenset({"value", "values", "pan", "doc"})
_WORD: Final = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_STRUCTLOG_OWN: Final = frozenset({"_record", "_from_structlog"})  # the formatter removes them before rendering
_DIGITS: Final = re.compile(r"(?<!\d)\d{12,19}(?!\d)")
_GROUPED: Final = re.compile(r"(?<!\d)(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{1,7}|\d{4}[ -]\d{6}[ -]\d{4,5})(?!\d)")
_ANY_NUMBER: Final = re.compile(r"\d+")
_NUMBERS: Final = range(10**13, 10**19)  # 14 to 19 digits: 13 would hide one time in ms out of ten


def configure(
    level: str = "info", log_format: Literal["auto", "json", "console"] = "auto", stream: TextIO | None = None
) -> None:
    """Send every log of this process, stdlib logging and warnings included, to `stream` (standard error)."""
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    as_json = log_format == "json" or (log_format == "auto" and not terminal)
    renderer: Processor = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=terminal)
    )
    handler = _Handler(stream)
    handler.addFilter(_plain_arguments)
    handler.addFilter(_no_answers)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_chain(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger(COMPILER).setLevel(logging.WARNING)  # it tells each step of a compilation: that takes minutes
    logging.captureWarnings(True)
    _configure_structlog()


def configure_command() -> None:
    """Logs of a command that a person typed: warnings, and each of the Kafka client's complaints once.

    The client repeats itself at every try; the command says in its own words what came of it.
    """
    configure("warning")
    client = logging.getLogger(CLIENT)
    client.filters[:] = [_Once()]


class _Once(logging.Filter):
    """Lets a text pass once, whatever numbers are in it."""

    def __init__(self) -> None:
        super().__init__()
        self._passed = set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new."""
        text = _ANY_NUMBER.sub("", record.getMessage())
        known = text in self._passed
        self._passed.add(text)
        return not known


def bind(component: str, **context: object) -> structlog.stdlib.BoundLogger:
    """A logger for one part of the program; its lines carry `component` and `context`. Safe at import time."""
    if not structlog.is_configured():
        _configure_structlog()
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(
        f"fraudline.{component}", component=component, **context
    )
    return logger


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _join_positional,
            *_chain(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # so that module-level loggers follow a later `configure`
    )


def _chain() -> list[Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_exception,
        redact,
    ]


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Say which logger failed; logging's own report would print the arguments as they are."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(f'{{"level": "error", "event": "a line of logger {record.name} could not be written"}}\n')


def _plain_arguments(record: logging.LogRecord) -> bool:
    """Filter for foreign records: make the message and its arguments plain before logging joins them to a string."""
    if isinstance(record.msg, BaseException | bytes):
        record.msg = plain(record.msg)
    if isinstance(record.args, Mapping):
        record.args = plain(record.args)
    elif record.args:
        record.args = tuple(plain(argument) for argument in record.args)
    return True


def _no_answers(record: logging.LogRecord) -> bool:
    """Filter for the Kafka client's records: a token endpoint's answer, which may quote the secret, is left out."""
    if record.name == CLIENT and (found := _ANSWER.search(text := record.getMessage())):
        record.msg, record.args = f"{text[: found.end()]} [what it answered is not logged]", ()
    return True


def _join_positional(_logger: object, _method: str, event: EventDict) -> EventDict:
    """`log.info("read %d", n)`: join, or show the arguments beside the message; a log line must never raise."""
    if arguments := event.pop("positional_args", ()):
        shown = tuple(plain(argument) for argument in arguments)
        try:
            event["event"] = str(plain(event["event"])) % shown
        except (TypeError, ValueError):
            event["arguments"] = shown
    return event


def describe_exception(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Turn `exc_info` into `error`, `error_type` and `error_at`; drop stacks, which quote source text."""
    event.pop("stack_info", None)
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error_type"] = type(error).__name__
        if isinstance(error, FraudlineError):
            event["error"] = str(error)
        event["error_at"] = places(error)
    return event


def places(error: BaseException, *, innermost: int = 8) -> list[str]:
    """Where an error came from, innermost last, as `file:line function`; never source text, values or messages."""
    frames = traceback.extract_tb(error.__traceback__)[-innermost:]
    return [f"{'/'.join(PurePath(f.filename).parts[-2:])}:{f.lineno} {f.name}" for f in frames]


def redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The last line of defence: see the module's docstring."""
    plain_event = _redact_mapping(event, 0)
    if isinstance(text := plain_event.get("event"), str):
        plain_event["event"] = text.rstrip()
    return plain_event


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as something that may be rendered: numbers, masked text, or containers of these."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return REDACTED if _is_card_number(value) else int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return REDACTED if value.is_integer() and _is_card_number(int(value)) else float(value)
    if isinstance(value, str | FraudlineError | PurePath | date | time):
        return mask_card_numbers(f"{type(value).__name__}: {value}" if isinstance(value, Exception) else str(value))
    return _plain_container(value, depth) if depth < MAX_DEPTH else f"<{type(value).__name__}>"


def _is_card_number(value: int) -> bool:
    return abs(value) in _NUMBERS and passes_luhn(str(abs(value)))


def _plain_container(value: Any, depth: int) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Enum):
        return plain(value.value, depth + 1)
    if isinstance(value, Mapping):
        return _redact_mapping(value, depth + 1)
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item(), depth + 1)
    return f"<{type(value).__name__}>"


def _redact_mapping(values: Mapping[Any, Any], depth: int) -> MutableMapping[str, Any]:
    result: MutableMapping[str, Any] = {}
    for key, value in values.items():
        if key in _STRUCTLOG_OWN and depth == 0:
            result[key] = value
        elif isinstance(key, str):
            result[mask_card_numbers(key)] = REDACTED if is_sensitive(key) else plain(value, depth)
        else:
            result[str(plain(key, MAX_DEPTH))] = plain(value, depth)
    return result


def is_sensitive(key: str) -> bool:
    """Whether a key names something that is never rendered: a secret, a payload, a card."""
    words = _WORD.findall(key)
    return bool(_SENSITIVE_PARTS.search("".join(words))) or any(word.lower() in _SENSITIVE_WORDS for word in words)


def mask_card_numbers(text: str) -> str:
    """`text` with every run of 12 to 19 digits that passes Luhn, grouped as on a card or not, replaced."""
    return _GROUPED.sub(_mask, _DIGITS.sub(_mask, text))


def _mask(match: re.Match[str]) -> str:
    return REDACTED if passes_luhn("".join(c for c in match.group() if c.isdigit())) else match.group()


def passes_luhn(digits: str) -> bool:
    """Whether a string of decimal digits ends in its Luhn check digit."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) << (place & 1)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0
