"""Policies, expressions and lists: refused in one sentence, or the same again after printing, and lawful."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from consumer.lists import entries_of, entry_of
from features.errors import ConfigError
from models.expressions import Expression, compiled
from models.facts import FIELDS, Facts
from models.lists import FIELD_OF, ListEntry, Lists
from models.policy import DECISIONS, SCHEMA_VERSION, TIERS, Policy, parse
from tests.fuzz.target import one_sentence

FEATURES: Final[Mapping[str, bool]] = {"card_count_1h": False, "is_foreign": True, "merchant_fraud_rate_30d": False}
_ROWS: Final = 7
_NAN: Final = float("nan")
_VALUES: Final = np.array(
    [[0, 1, 0.5], [5, 0, _NAN], [_NAN, _NAN, _NAN], [1e6, 1, 0.05], [-1, 0, 1], [3, 1, 0.2], [3e38, 0, 0]], np.float32
)
_SCORES: Final = np.array([0, 0.1, 0.5, 0.9, 1, 0.2084, 0.93], np.float32)
_TIMES: Final = np.array([0, 1, 1_700_000_000_000, 1_767_225_600_000, 2**40, 2**41, 4_102_444_800_000], np.int64)
_TEXTS: Final = ["DE", None, "fr", "192.0.2.7", "2001:db8::1", "tok_1", "it's"]


def _fields(name: str) -> Any:
    at = list(FIELDS).index(name)
    if FIELDS[name] == "number":
        return np.array([0, 1, 5, 50_000, 250_000, 10**12, 1_700_000_000_000 + at], np.int64)
    return _TEXTS[at % _ROWS :] + _TEXTS[: at % _ROWS]


def _facts() -> Facts:
    return Facts(_VALUES, _SCORES, _fields)


def check_expression(data: bytes) -> None:
    """An expression and its negation are never both true; twice negated, doubled or in parentheses it is the same."""
    text = data.decode("utf-8", "replace")
    try:
        found = compiled(text, FEATURES, where="rules[0].when")
    except ConfigError as error:
        one_sentence(error)
        return
    true = _mask(found)
    assert found.names <= {*FIELDS, *FEATURES, "score"}
    if "--" in text or "/*" in text or len(text) > 1_000:  # a comment would swallow what is put around it
        return
    false = _again(f"not ({text})")
    for same in (f"({text})", f"not (not ({text}))", f"({text}) or ({text})", f"({text}) and ({text})"):
        again = _again(same)
        assert again is None or np.array_equal(true, again), f"{same} is another"
    assert false is None or not (true & false).any(), "true and false"


def _again(text: str) -> Any:
    """The mask of a text made of one that was taken; None where only its depth is too much."""
    try:
        return _mask(compiled(text, FEATURES, where="again"))
    except ConfigError as error:
        if "nested too deeply" in str(error):
            return None
        raise AssertionError(f"{text} is refused: {error}") from error


def _mask(expression: Expression) -> Any:
    with np.errstate(all="raise", under="ignore"):
        mask = expression.test(_facts())
    assert mask.dtype == np.bool_
    assert mask.shape == (_ROWS,)
    return mask


def check_policy(data: bytes) -> None:
    """A policy that can be read is written and read back as the same, and decides the same."""
    try:
        policy = parse(data.decode("utf-8", "replace"), FEATURES)
    except ConfigError as error:
        one_sentence(error)
        return
    for held in policy.thresholds.values():
        assert all(0 <= bar.review <= 1 for bar in (held, *held.segments))
        assert all(bar.block is None or bar.review <= bar.block <= 1 for bar in (held, *held.segments))
    text = policy.to_toml()
    assert f"schema_version = {SCHEMA_VERSION}" in text
    again = parse(text, FEATURES)
    assert again == policy
    assert again.digest == policy.digest
    assert again.to_toml() == text
    for tier in TIERS:
        if tier == "rules_only" or tier in policy.thresholds:
            _same_verdicts(policy, again, tier)


def _same_verdicts(one: Policy, other: Policy, tier: Any) -> None:
    scores = None if tier == "rules_only" else _SCORES
    first, second = (each.decide(scores, _VALUES, tier, fields=_fields, event_time=_TIMES) for each in (one, other))
    assert first.decision.shape == (_ROWS,)
    assert int(first.decision.max()) < len(DECISIONS)
    assert np.array_equal(first.decision, second.decision)
    told = [[(rule, mask.tolist()) for rule, mask in (*each.fired, *each.shadow)] for each in (first, second)]
    assert told[0] == told[1]
    assert {rule for rule, _ in told[0]} <= set(one.order)


def check_list(data: bytes) -> None:
    """A record of the lists topic: nobody, or whom its entry names for as long as it says."""
    key = _key_of(data)
    entry = entry_of(key, data)
    assert entries_of({key: data}) == ([] if entry is None else [entry])
    assert entry_of(key + b"x", data) is None
    if entry is None:
        return
    assert entry.key.encode() == key
    values = [entry.value, *_TEXTS[1:]]
    facts = Facts(_VALUES, None, lambda name: values if name == FIELD_OF[entry.kind] else [None] * _ROWS)
    named = Lists([entry], 1).named(entry.list, facts, _TIMES)
    told = np.zeros(_ROWS, np.bool_) if named is None else named
    assert told.tolist() == [_named(entry, value, time) for value, time in zip(values, _TIMES.tolist(), strict=True)]


def _key_of(data: bytes) -> bytes:
    """The key that a record's own value asks for."""
    try:
        read = json.loads(data)
        value = str(read["value"])
        if read["kind"] == "ip":
            network = ipaddress.ip_network(value)
            value = str(network.network_address if network.num_addresses == 1 else network)
        return f"{read['list']}:{read['kind']}:{value}".encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return b"deny:card:tok_1"


def _named(entry: ListEntry, value: str | None, time_ms: int) -> bool:
    """One payment at a time, as plainly as can be."""
    if value is None or (entry.expires_at is not None and time_ms >= entry.expires_at):
        return False
    if entry.kind != "ip":
        return value == entry.value
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(entry.value)
    except ValueError:
        return False
