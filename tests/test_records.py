"""Alerts are named alike in any replay, and readers of one version can read the next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.audit import AuditEntry
from consumer.records import Alert, Decision, JournalEntry, ShadowDecision, alert_id
from features.event import Label
from models.lists import ListEntry
from tests.documents import EXAMPLES

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.text("0123456789:", max_size=8)
keys = st.tuples(ids, ids, st.integers(0, 4_102_444_800_000))
TYPES: dict[str, Any] = {
    "labels": Label,
    "decisions": Decision,
    "alerts": Alert,
    "journal": JournalEntry,
    "lists": ListEntry,
    "shadow": ShadowDecision,
    "audit": AuditEntry,
}
MAPPINGS = ("detail",)  # whose names are free


def test_alert_ids_are_pinned() -> None:
    """Consumers drop repetitions by them: never change how they are made."""
    assert alert_id("tok_8f2a", "evt-1", 1_700_000_000_000) == "5c6f8e5238d3a3cdd9b35a3e7f42d3b6"
    assert alert_id("é", "", 0) == "b0505c55f7eb0eb1d5743c986be81b73"


@given(keys, keys)
def test_different_payments_have_different_alert_ids(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    assert (alert_id(*one) == alert_id(*other)) == (one == other)


@given(ids, ids, st.integers(0, 10**13))
def test_moving_text_between_the_ids_gives_another_alert(card: str, event: str, time: int) -> None:
    text = card + event
    names = {alert_id(text[:cut], text[cut:], time) for cut in range(len(text) + 1)}
    assert len(names) == len(text) + 1
    assert alert_id(card, event + "1", time) != alert_id(card, event, int(f"1{time}"))


@pytest.mark.parametrize("name", TYPES)
def test_a_reader_ignores_fields_of_a_later_version(name: str) -> None:
    record = EXAMPLES[name]
    later = _with_unknown_fields(record)
    assert msgspec.json.decode(msgspec.json.encode(later), type=TYPES[name]) == msgspec.convert(record, TYPES[name])


@pytest.mark.parametrize("name", TYPES)
def test_an_example_is_whole(name: str) -> None:
    """Encoding what was read gives every field of the example, and no other."""
    read = msgspec.convert(EXAMPLES[name], TYPES[name])
    assert msgspec.json.decode(msgspec.json.encode(read)) == EXAMPLES[name]


def _with_unknown_fields(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_unknown_fields(inner) if key not in MAPPINGS else inner for key, inner in value.items()} | {
            "later": [{"x": None}]
        }
    return [_with_unknown_fields(inner) for inner in value] if isinstance(value, list) else value
