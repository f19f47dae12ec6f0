"""What the alert page knows: which alerts are kept, found and told, and what the figures are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.dashboard.board import NEWS_LABELS, RECENT_DECISIONS, Board, Kind
from consumer.dashboard.compose import Dashboard
from consumer.dashboard.feed import AHEAD_MS, Feed
from consumer.dashboard.figures import BOUNDS_MS, EXACT_MS, SPAN_S, STEP_S, Figures
from consumer.dashboard.selection import EVERYTHING, BadRequest, Selection, selection_of, whole
from consumer.dashboard.shown import amount, decided_ms, line
from consumer.records import StageTimes
from features.currencies import CURRENCIES, exponent
from features.errors import FraudlineError, KafkaUnavailable
from features.event import Label
from models.explain import Reason
from tests.support.page import NOW_MS, HandFed, alert, decision, page_settings, until

ENCODE = msgspec.json.encode


def board(keep: int = 100) -> Board:
    return Board(keep, 200.0)


def label(event_id: str, word: str = "fraud", at_ms: int = NOW_MS + 1, source: str = "analyst") -> bytes:
    return ENCODE(Label(event_id, "tok_1", "m_12", NOW_MS, word, at_ms, source))  # type: ignore[arg-type]


def events(found: Board, asked: Selection = EVERYTHING, limit: int = 100) -> list[str]:
    return [kept.alert.event_id for kept in found.newest(asked, limit)[0]]


@given(st.integers(-(10**12), 10**12), st.sampled_from(sorted(CURRENCIES)))
def test_an_amount_is_shown_whole_with_the_decimals_of_its_currency(minor: int, currency: str) -> None:
    shown = amount(minor, currency)
    units, _, rest = shown.replace(",", "").partition(".")
    assert len(rest) == exponent(currency)
    assert int(units + rest) == minor or (minor < 0 and int(units.lstrip("-") + rest) == -minor)
    assert shown.startswith("-") == (minor < 0)


def test_a_line_shows_an_alert_as_it_is() -> None:
    shown = msgspec.json.decode(line(7, NOW_MS, alert("e", amount_minor=1_234_567, currency="KWD", rules=("r1",))))
    assert (shown["amount"], shown["currency"], shown["rules"]) == ("1,234.567", "KWD", ["r1"])
    assert shown["reasons"][0] == "4 payments under 5.00 in 24 hours with this card"


ALERTS = [
    alert("a-block", decision="block", score=0.9, rules=("Many_Small",), tier="full"),
    alert("a-none", score=None, tier="rules_only", reasons=(), rules=("list_deny",)),
    alert("a-yen", amount_minor=1_718, currency="JPY", merchant_id="Shop <b>", card_id="tok_2"),
    alert("a-low", score=0.01, tier="no_features", amount_minor=10, reasons=(Reason("hour", 2.0, 0.1, "time.hour"),)),
]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Selection(), {"a-block", "a-none", "a-yen", "a-low"}),
        (Selection(decision="block"), {"a-block"}),
        (Selection(tier="rules_only"), {"a-none"}),
        (Selection(min_score=0.2), {"a-block", "a-yen"}),
        (Selection(min_amount=17.18), {"a-block", "a-none", "a-yen"}),
        (Selection(min_amount=18), {"a-yen"}),
        (Selection(reason="many_small"), {"a-block"}),
        (Selection(reason="time."), {"a-low"}),
        (Selection(reason="card_small"), {"a-block", "a-yen"}),
        (Selection(text="shop <b"), {"a-yen"}),
        (Selection(text="tok_"), {"a-block", "a-none", "a-yen", "a-low"}),
        (Selection(text="d_9", decision="review", min_score=0.1), {"a-yen"}),
        (Selection(text="nobody"), set()),
    ],
)
def test_a_selection_takes_what_is_asked_for(asked: Selection, found: set[str]) -> None:
    assert {each.event_id for each in ALERTS if asked.takes(each)} == found


@pytest.mark.parametrize(
    "asked",
    [
        {"decision": "approve'"},
        {"tier": "x"},
        {"min_score": "nan"},
        {"min_score": "-1"},
        {"min_amount": "inf"},
        {"min_amount": "1" * 33},
        {"text": "x" * 129},
        {"reason": "x" * 129},
    ],
)
def test_what_can_not_be_asked_is_refused_without_being_repeated(asked: dict[str, str]) -> None:
    with pytest.raises(BadRequest) as refused:
        selection_of(asked)
    assert not set(asked.values()) & set(str(refused.value).split())


@pytest.mark.parametrize("text", ["-1", "1.5", "²", "1e3", "9" * 19, "501"])
def test_numbers_of_a_request_are_whole_and_in_range(text: str) -> None:
    assert whole({}, "limit", 1, 500, 100) == 100
    with pytest.raises(BadRequest):
        whole({"limit": text}, "limit", 1, 500, 100)


def test_the_newest_alerts_are_kept_and_everything_that_belongs_to_older_ones_goes() -> None:
    found = board(3)
    for number in range(5):
        found.take("alert", ENCODE(alert(f"e{number}", rules=(f"r{number}",))), NOW_MS + number)
        found.take("decision", ENCODE(decision(f"e{number}", decision="review")), NOW_MS + number)
        found.take("label", label(f"e{number}"), NOW_MS + number)
    assert events(found) == ["e4", "e3", "e2"]
    known = found.payment("e4")
    assert known is not None
    assert known.kept is not None
    assert (known.decision and known.decision.decision, known.label and known.label.label) == ("review", "fraud")
    assert found.label("e0") is None
    assert {word for word in found.words(100) if word.startswith("r")} == {"r2", "r3", "r4"}
    assert len(found._flagged) == len(found._labels) == len(found._by_event) == 3


def test_memory_is_bounded_whatever_comes() -> None:
    found = board(100)
    for number in range(RECENT_DECISIONS + 50):
        found.take("decision", ENCODE(decision(f"e{number}")), NOW_MS + number * 1_000)
    for number in range(NEWS_LABELS + 200):
        found.take("alert", ENCODE(alert(f"e{number}")), NOW_MS)
        found.take("label", label(f"e{number}"), NOW_MS)
    assert len(found._recent) == RECENT_DECISIONS
    assert len(found._alerts) == len(found._labels) == 100
    assert len(found._news_labels) == NEWS_LABELS
    assert found.payment("e0") is None
    assert found.payment("e60") is not None


def test_an_alert_that_comes_again_is_one_alert() -> None:
    found = board()
    for _ in range(2):
        found.take("alert", ENCODE(alert("e1")), NOW_MS)
    assert events(found) == ["e1"]
    assert found.number == 1


@pytest.mark.parametrize("kind", ["alert", "decision", "label"])
@pytest.mark.parametrize("value", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"event_id": 1}', b"[" * 100_000])
def test_what_can_not_be_read_is_counted_and_nothing_of_it_kept(kind: Kind, value: bytes | None) -> None:
    found = board()
    found.take(kind, value, NOW_MS)
    reading = found.reading()
    assert (reading.unreadable[kind], reading.records[kind]) == (1, 1)
    assert events(found) == []


@pytest.mark.parametrize(("kind", "record"), [("alert", alert), ("decision", decision)])
def test_a_record_of_a_card_number_is_not_shown(kind: Kind, record: Callable[..., Any]) -> None:
    found = board()
    found.take(kind, ENCODE(record("e-1", card_id="4111 1111 1111 1111")), NOW_MS)
    assert events(found) == []
    assert found.payment("e-1") is None
    assert found.reading().unreadable[kind] == 1


@given(st.integers(0, 12), st.integers(0, 30), st.integers(1, 6))
def test_news_are_what_came_since_oldest_first_and_what_was_passed_over_is_counted(
    seen: int, come: int, limit: int
) -> None:
    found = board(20)
    for number in range(seen + come):
        found.take("alert", ENCODE(alert(f"e{number}")), NOW_MS)
    news = found.since(seen, EVERYTHING, limit)
    told = [kept.number for kept in news.alerts]
    assert told == list(range(seen + come - len(told) + 1, seen + come + 1))
    assert len(told) + news.skipped == min(come, 20)
    assert len(told) <= limit
    assert news.number == seen + come
    assert found.since(news.number, EVERYTHING, limit).alerts == []


def test_pages_follow_each_other_without_gap_or_repetition() -> None:
    found = board()
    for number in range(7):
        found.take("alert", ENCODE(alert(f"e{number}")), NOW_MS)
    first, more = found.newest(EVERYTHING, 4)
    assert more
    second, more = found.newest(EVERYTHING, 4, before=first[-1].number)
    assert not more
    assert [kept.alert.event_id for kept in first + second] == [f"e{number}" for number in reversed(range(7))]


def test_the_latest_label_counts_and_is_told_once() -> None:
    found = board()
    found.take("alert", ENCODE(alert("e1")), NOW_MS)
    for value in (
        label("e1", "genuine", NOW_MS + 5),
        label("e1", "genuine", NOW_MS + 5),
        label("e1", at_ms=NOW_MS + 3),
    ):
        found.take("label", value, NOW_MS)
    told = found.label("e1")
    assert told is not None
    assert told.label == "genuine"
    assert len(found.since(0, EVERYTHING, 10).labels) == 1


def test_labels_of_other_payments_are_left_alone() -> None:
    found = board()
    found.take("label", label("e1"), NOW_MS)
    assert (found.label("e1"), found.number) == (None, 0)


def test_figures_count_by_the_records_own_time() -> None:
    figures = Figures(200.0)
    start_ms = NOW_MS // 1_000 * 1_000
    for second in range(-120, 0):
        for place in range(5):
            at_ms = start_ms + second * 1_000 + place
            figures.decision(at_ms, "approve" if place else "block", "full", at_ms - second - 121)
        figures.alert(start_ms + second * 1_000, alert(stage_ms=StageTimes(float(second + 121), 0, 0, 0, 0)), None)
    told = figures.document(start_ms)
    assert (told["payments_per_s"], told["alerts_per_s"]) == (5.0, 1.0)
    assert told["decisions"] == {"approve": 480, "review": 0, "block": 120}
    assert told["tiers"]["full"] == 600
    assert [told["latency"][name] for name in ("p50_ms", "p95_ms", "p99_ms", "payments")] == [60, 114, 119, 600]
    assert told["series"]["p99_ms"][-1] == 120
    assert told["series"]["p50_ms"][:70] == [None] * 70
    assert told["latency"]["over_budget"] == 0.0
    assert told["lag"]["queued_max_ms"] == 120.0
    assert told["lag"]["reach_p50_ms"] is None
    series = told["series"]["payments_per_s"]
    assert len(series) == SPAN_S // STEP_S - 1
    assert set(series[-10:]) == {5.0}
    assert set(series[:70]) == {None}


def test_figures_of_a_page_that_has_just_begun_are_of_what_was_read() -> None:
    figures = Figures(200.0)
    assert figures.document(NOW_MS)["payments_per_s"] is None
    for second in range(5):
        for _ in range(30):
            figures.decision(NOW_MS + second * 1_000, "approve", "full")
    assert figures.document(NOW_MS + 5_000)["payments_per_s"] == 30.0


def test_figures_forget_what_is_older_than_they_span() -> None:
    figures = Figures(200.0)
    figures.decision(NOW_MS, "approve", "full")
    figures.alert(NOW_MS, alert(), NOW_MS + 7)
    assert figures.document(NOW_MS)["lag"]["reach_p50_ms"] == 7.0
    later = figures.document(NOW_MS + (SPAN_S + 20) * 1_000)
    assert later["tiers"]["full"] == 0
    assert later["latency"]["payments"] == 0
    assert later["stages_p50_ms"]["decode"] is None
    figures.decision(NOW_MS + SPAN_S * 1_000, "approve", "full")
    figures.decision(NOW_MS, "approve", "full")  # its place is another second's now
    assert figures.document(NOW_MS + SPAN_S * 1_000)["decisions"]["approve"] == 1


@given(st.lists(st.integers(0, 700_000), min_size=1, max_size=60))
def test_latency_is_that_of_every_payment(took: list[int]) -> None:
    """Exact to a millisecond up to a second, to a twentieth beyond; as `numpy` tells it of the values themselves."""
    figures = Figures(200.0)
    for each in took:
        figures.decision(NOW_MS, "approve", "full", NOW_MS - each)
    told = figures.document(NOW_MS + STEP_S * 1_000)
    assert told["latency"]["over_budget"] == pytest.approx(np.mean(np.array(took) > 200), abs=1e-6)
    for part in (50, 95, 99):
        true = np.percentile(took, part, method="inverted_cdf")
        shown = told["latency"][f"p{part}_ms"]
        assert shown == true if true <= EXACT_MS else min(true, BOUNDS_MS[-1]) <= shown <= 1.05 * true + 1
    assert told["series"]["p99_ms"][-1] == told["latency"]["p99_ms"]


def test_decisions_that_do_not_say_when_they_were_paid_are_not_timed() -> None:
    figures = Figures(200.0)
    figures.decision(NOW_MS, "approve", "full")
    assert figures.document(NOW_MS)["latency"]["p99_ms"] is None
    assert decided_ms(alert()) == 13.0


def fed(tail: HandFed) -> tuple[Board, Feed]:
    found = board()
    return found, Feed(tail, found, {"alerts": "alert", "decisions": "decision"}, clock=lambda: NOW_MS / 1_000)


def test_the_past_is_put_in_the_order_of_time_before_any_of_it_is_shown() -> None:
    tail = HandFed(caught_up=False)
    found, feed = fed(tail)
    tail.feed("alerts", alert("second"), at_ms=NOW_MS - 10)
    feed.turn()
    assert events(found) == []
    assert not found.reading().loaded
    tail.feed("alerts", alert("first"), at_ms=NOW_MS - 20)
    tail.caught_up = True
    feed.turn()
    assert events(found) == ["second", "first"]
    assert found.reading().loaded


def test_a_record_dated_far_ahead_does_not_push_the_others_out_of_the_figures() -> None:
    tail = HandFed()
    found, feed = fed(tail)
    for _ in range(2):  # what is of the past, and what comes
        tail.feed("alerts", alert("e-ahead"), at_ms=NOW_MS + 10**12)
        tail.feed("decisions", decision(), at_ms=NOW_MS - 5_000)
        tail.feed("decisions", decision("d-ahead"), at_ms=2**62)
        feed.turn()
    told = found.figures(NOW_MS)
    assert sum(told["decisions"].values()) == 4
    assert told["lag"]["newest_decision_ms"] <= NOW_MS + AHEAD_MS
    [kept], _ = found.newest(EVERYTHING, 9)
    assert kept.raised_ms <= NOW_MS + AHEAD_MS


def test_a_reader_that_breaks_is_told_and_ends_the_page() -> None:
    tail = HandFed()
    page = Dashboard(page_settings(), tail=tail)
    page.start()
    try:
        until(lambda: page.board.reading().loaded)
        page.check()
        tail.feed("a-topic-that-nobody-asked-for", alert())
        until(lambda: page.board.reading().stale)
        with pytest.raises(FraudlineError, match="reader has ended"):
            page.check()
    finally:
        page.close()


def test_an_outage_is_told_and_ends_by_itself() -> None:
    tail = HandFed()
    found, feed = fed(tail)
    feed.turn()
    assert (found.reading().stale, found.reading().heard_ms) == (False, NOW_MS)
    tail.away = True
    with pytest.raises(KafkaUnavailable):
        feed.turn()
    feed.start()
    try:
        until(lambda: found.reading().stale)
        assert found.reading().heard_ms == NOW_MS
        tail.feed("alerts", alert("e1"))
        tail.away = False
        until(lambda: not found.reading().stale and events(found))
    finally:
        feed.stop()
    assert tail.closed
