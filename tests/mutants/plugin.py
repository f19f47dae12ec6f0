"""A pytest plugin that writes down how each test ended, with the kinds of exceptions: `--told FILE`."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

Ending = dict[str, object]
_told: list[Ending] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--told", type=Path, required=True, help="where to write how each test ended")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _told.append({"test": report.nodeid, "when": "collect", "outcome": "failed", "kinds": [], "text": ""})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    error = call.excinfo.value if call.excinfo else None
    kinds = [[kind.__name__ for kind in type(leaf).__mro__] for leaf in _leaves(error)]
    text = "" if error is None else (str(error).splitlines() or [""])[0]
    _told.append({"test": item.nodeid, "when": call.when, "outcome": report.outcome, "kinds": kinds, "text": text})
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path: Path = session.config.option.told
    path.write_text(json.dumps(_told))


def _leaves(error: BaseException | None) -> Iterator[BaseException]:
    """The exceptions of a group (Hypothesis raises one when a test fails in several ways), or the exception itself."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    elif error is not None:
        yield error
