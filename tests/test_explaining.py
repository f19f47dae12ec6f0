"""Reasons beside the main path: in time or not at all, and never at the cost of an alert."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from consumer.explaining import AT_ONCE, Explaining, Job
from models.clearing import Change, Clearing
from models.explain import NOT_EXPLAINED, Explanation, Reason
from models.policy import Scores, Tier, Values
from models.score import ConstantScorer
from tests.poison import payment
from tests.test_pipeline import Rig

REASON = Reason("amount_minor", 1.0, 0.5)
CLEARING = Clearing((Change("amount_minor", 2.0, 1.0),), 0.1)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Shut until a test opens it; open in the end, so that no thread is left behind."""
    gate = threading.Event()
    yield gate
    gate.set()


def plain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
    assert len(currencies) == len(values)
    return [(REASON,)] * len(values)


def cleared(values: Values, _tier: Tier, _scores: Scores, _bars: Scores, _until: float) -> list[Clearing | None]:
    return [CLEARING] * len(values)


def job(count: int, explain: object = plain, clear: object = None, limit_s: float = 60.0) -> Job:
    scores = np.linspace(0.5, 1, count, dtype=np.float32)
    values = np.arange(count, dtype=np.float32)[:, None]
    bars = np.full(count, 0.5, np.float32)
    return Job(explain, clear, values, ["full"] * count, scores, bars, ["EUR"] * count, limit_s)  # type: ignore[arg-type]


def test_each_alert_gets_its_own() -> None:
    def explain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
        assert len(values) == len(currencies) <= AT_ONCE
        return [(Reason("amount_minor", float(value), 1.0),) for value in values[:, 0]]

    count = 3 * AT_ONCE + 5
    found = Explaining(60).begin(job(count, explain, cleared)).result()
    assert found == [Explanation((Reason("amount_minor", float(n), 1.0),), CLEARING) for n in range(count)]


def test_what_is_not_done_in_time_leaves_without_reasons_the_highest_scores_first(gate: threading.Event) -> None:
    calls: list[list[float]] = []

    def explain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
        calls.append(values[:, 0].tolist())
        if len(calls) == 2:
            gate.wait()
        return [(REASON,)] * len(values)

    count = 2 * AT_ONCE
    found = Explaining(0.5).begin(job(count, explain, limit_s=0.5)).result()
    assert found == [NOT_EXPLAINED] * AT_ONCE + [Explanation((REASON,))] * AT_ONCE
    assert calls[0] == list(range(count - 1, AT_ONCE - 1, -1))


def test_nothing_is_explained_once_the_time_is_over() -> None:
    """The batch has left; the one behind it is not to wait for reasons that nobody reads."""
    calls: list[int] = []

    def explain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
        calls.append(len(values))
        if len(calls) == 2:
            over.wait()
        return [(REASON,)] * len(values)

    explaining, over = Explaining(60), threading.Event()
    count = 3 * AT_ONCE
    assert explaining.begin(job(count, explain, limit_s=0.2)).result()[:AT_ONCE] == [NOT_EXPLAINED] * AT_ONCE
    over.set()  # which `result` waited for until the time was over
    assert explaining.begin(job(1)).result() == [Explanation((REASON,))]
    assert len(calls) <= 2


def test_reasons_that_fail_cost_no_alert() -> None:
    def explain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
        raise RuntimeError("broken")

    assert Explaining(60).begin(job(3, explain)).result() == [NOT_EXPLAINED] * 3


def test_decisions_are_handed_over_before_reasons_are_waited_for(gate: threading.Event) -> None:
    """The alert waits for its reasons; its decision, and those of others, do not."""
    handed: list[int] = []

    def explain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
        assert gate.wait(30)
        return [(REASON,)] * len(values)

    rig = Rig(ConstantScorer(full=0.95), explain=explain)

    class Watching(list):  # type: ignore[type-arg]
        def __iadd__(self, records: object) -> Watching:
            for record in records:  # type: ignore[attr-defined]
                self.append(record)
                handed.append(len(self))
                if len(self) == 3:
                    gate.set()  # three decisions have left while nothing is explained
            return self

    rig.pipeline._explaining.limit_s = 60.0
    rig.publisher.pending = Watching()
    rig.process(*(payment(event_id=f"evt-{number}") for number in range(3)))
    assert [alert.reasons for alert in rig.alerts] == [(REASON,)] * 3
    assert rig.count("fraudline_alerts_unexplained_total") == 0


def test_alerts_that_were_not_explained_are_counted(gate: threading.Event) -> None:
    def explain(values: Values, _tier: Tier, *, currencies: Sequence[str]) -> list[tuple[Reason, ...]]:
        gate.wait()
        return [(REASON,)] * len(values)

    rig = Rig(ConstantScorer(full=0.95), explain=explain)
    rig.process(*(payment(event_id=f"evt-{number}") for number in range(3)))
    assert [alert.reasons for alert in rig.alerts] == [()] * 3
    assert rig.count("fraudline_alerts_unexplained_total") == 3
