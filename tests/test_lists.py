"""Lists: whom they name, by the payment's own time; and on real Kafka, that every change is heard."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import exit_status
from consumer.kafka.compacted import CompactedReader, put
from consumer.lists import ListsReader, entries_of
from consumer.settings import KafkaSettings
from consumer.settings_source import variable
from consumer.telemetry import Telemetry
from features.errors import ConfigError, KafkaUnavailable
from models.facts import Facts
from models.lists import FIELD_OF, LISTS, ListEntry, Lists, checked
from tests.services.kafka import KafkaBroker

DEADLINE_S = 30.0
IDS = ("a", "b", "c")
ADDRESSES = ("10.0.0.1", "10.0.0.200", "10.1.0.1", "2001:db8::1", "2001:db9::1", "::ffff:10.0.0.1", "no address", None)
NETWORKS = ("10.0.0.1", "10.0.0.0/25", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::/32", "2001:db8::1", "::/0")

people = st.builds(
    ListEntry,
    list=st.sampled_from(LISTS),
    kind=st.sampled_from(["card", "merchant", "device"]),
    value=st.sampled_from(IDS),
    expires_at=st.sampled_from([None, 0, 5, 10]),
)
ranges = st.builds(
    ListEntry,
    list=st.sampled_from(LISTS),
    kind=st.just("ip"),
    value=st.sampled_from(NETWORKS),
    expires_at=st.sampled_from([None, 5, 10]),
)
paid = st.fixed_dictionaries(
    {name: st.sampled_from([*IDS, *([None] if name == "device_id" else [])]) for name in FIELD_OF.values()}
    | {"ip": st.sampled_from(ADDRESSES), "event_time": st.integers(0, 11)}
)


def facts(some: list[dict[str, Any]]) -> tuple[Facts, Any]:
    times = np.array([each["event_time"] for each in some], np.int64)
    return Facts(np.zeros((len(some), 0), np.float32), None, lambda name: [each[name] for each in some]), times


def names(entry: ListEntry, payment: dict[str, Any]) -> bool:
    value = payment[FIELD_OF[entry.kind]]
    if entry.expires_at is not None and payment["event_time"] >= entry.expires_at:
        return False
    if entry.kind != "ip" or value is None:
        return bool(value == entry.value)
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(entry.value)
    except ValueError:
        return False


@given(st.lists(people | ranges, max_size=6), st.lists(paid, max_size=6))
def test_a_list_names_whom_its_entries_name_at_the_payments_own_time(
    entries: list[ListEntry], some: list[dict[str, Any]]
) -> None:
    entries = list({each.key: each for each in entries}.values())
    lists = Lists(entries, 1)
    for name in LISTS:
        mask = lists.named(name, *facts(some))
        expected = [any(each.list == name and names(each, payment) for each in entries) for payment in some]
        assert (mask.tolist() if mask is not None else [False] * len(some)) == expected


@pytest.mark.parametrize(
    ("value", "spelled"),
    [("10.0.0.0/24", "10.0.0.0/24"), ("10.0.0.7/32", "10.0.0.7"), ("2001:DB8::0/32", "2001:db8::/32")],
)
def test_addresses_have_one_spelling(value: str, spelled: str) -> None:
    assert checked(ListEntry("deny", "ip", value)).value == spelled


@pytest.mark.parametrize("value", ["10.0.0.1/8", "10.0.0", "shop", "10.0.0.0/33"])
def test_what_is_no_range_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="is no IP address and no range"):
        checked(ListEntry("deny", "ip", value))


def test_records_that_are_no_entries_name_nobody() -> None:
    good = ListEntry("deny", "card", "c1")
    table = {
        good.key.encode(): msgspec.json.encode(good),
        b"deny:card:c2": msgspec.json.encode(good),
        b"deny:card:c3": b"{",
        b"deny:ip:x": msgspec.json.encode(ListEntry("deny", "ip", "x")),
        b"grey:card:c4": b'{"list": "grey", "kind": "card", "value": "c4"}',
    }
    assert entries_of(table) == [good]


@pytest.fixture
def topic(kafka: KafkaBroker) -> str:
    name = f"lists-{uuid4().hex[:8]}"
    kafka.create_topics({name: 2}, {"cleanup.policy": "compact"})
    return name


def settings_of(kafka: KafkaBroker) -> KafkaSettings:
    return KafkaSettings(brokers=kafka.bootstrap, group_id=f"lists-{uuid4().hex[:8]}", transactional_id="lists")


def entry(name: Any, card: str) -> dict[bytes, bytes | None]:
    made = ListEntry(name, "card", card)
    return {made.key.encode(): msgspec.json.encode(made)}


def until(heard: threading.Event, condition: Any) -> None:
    """Wait for `condition`, looking at every change."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert heard.wait(max(0.0, deadline_s - time.monotonic())), "the change was not heard"
        heard.clear()


class Heard(ListsReader):
    """Tells of every change."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.heard = threading.Event()

    def _take(self, changed: Iterable[bytes]) -> None:
        super()._take(changed)
        self.heard.set()


def test_all_is_known_before_the_first_decision_and_changes_are_heard(kafka: KafkaBroker, topic: str) -> None:
    settings = settings_of(kafka)
    put(settings, topic, entry("deny", "c1") | entry("watch", "c2") | entry("deny", "c3"))
    put(settings, topic, {b"deny:card:c3": None})
    telemetry = Telemetry()
    reader = Heard(CompactedReader(settings, topic), telemetry)
    reader.start()
    try:
        some = [{"card_id": f"c{n}", "event_time": 1} for n in (1, 2, 3, 4)]
        before = reader.current()
        assert before.named("deny", *facts(some)).tolist() == [True, False, False, False]  # type: ignore[union-attr]
        assert before.named("watch", *facts(some)).tolist() == [False, True, False, False]  # type: ignore[union-attr]
        put(settings, topic, entry("deny", "c4") | {b"watch:card:c2": None})
        until(reader.heard, lambda: reader.current().named("watch", *facts(some)) is None)
        until(reader.heard, lambda: reader.current().named("deny", *facts(some)).tolist()[3])  # type: ignore[union-attr]
        assert reader.current().version > before.version
        assert before.named("watch", *facts(some)) is not None, "a snapshot does not change"
        put(settings, topic, {b"deny:card:c1": b"no entry"})
        until(reader.heard, lambda: not reader.current().named("deny", *facts(some)).tolist()[0])  # type: ignore[union-attr]
        version = telemetry.registry.get_sample_value("fraudline_lists_version")
        assert version == reader.current().version
    finally:
        reader.stop()


def test_a_missing_topic_stops_the_start(kafka: KafkaBroker) -> None:
    reader = ListsReader(CompactedReader(settings_of(kafka), "no-such-topic"), Telemetry())
    with pytest.raises(KafkaUnavailable, match="has no topic no-such-topic: create it"):
        reader.start()
    reader.stop()


def test_the_commands_add_show_and_remove(
    kafka: KafkaBroker, topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable("kafka.brokers"), kafka.bootstrap)
    monkeypatch.setenv(variable("topics.lists"), topic)

    def fraudline(*words: str) -> tuple[int, str, str]:
        status = exit_status(["policy", "lists", *words])
        told = capsys.readouterr()
        return status, told.out, told.err

    assert fraudline("add", "deny", "card", "tok_1", "--reason", "stolen", "--for", "30d")[0] == 0
    assert fraudline("add", "watch", "ip", "192.0.2.0/24", "--until", "2030-01-01T00:00:00Z")[0] == 0
    shown = msgspec.json.decode(fraudline("show", "--json")[1])
    assert [(each["list"], each["kind"], each["value"], each["reason"]) for each in shown] == [
        ("deny", "card", "tok_1", "stolen"),
        ("watch", "ip", "192.0.2.0/24", ""),
    ]
    assert shown[1]["until"] == "2030-01-01T00:00:00+00:00"
    assert fraudline("remove", "deny", "card", "tok_1")[0] == 0
    assert [each["value"] for each in msgspec.json.decode(fraudline("show", "--json")[1])] == ["192.0.2.0/24"]
    status, _, error = fraudline("remove", "deny", "card", "tok_1")
    assert (status, error.count("\n")) == (2, 1)
    assert "is not on the list deny" in error
    assert "tok_1" not in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("add", "deny", "card", "4111111111111111"), "looks like a card number"),
        (("remove", "deny", "card", "4111 1111 1111 1111"), "VALUE looks like a card number"),
        (("add", "deny", "card", "c", "--reason", "of 4111-1111-1111-1111"), "--reason holds what looks like a card"),
        (("add", "deny", "card", "c", "--actor", "4111111111111111"), "--actor holds what looks like a card number"),
        (("add", "deny", "card", "c\udcff"), "VALUE is not UTF-8"),
        (("add", "deny", "ip", "4111111111111111"), "is no IP address and no range"),
        (("add", "deny", "ip", "10.0.0.1/8"), "is no IP address and no range"),
        (("add", "deny", "card", "c", "--for", "soon"), "--for is not a time"),
        (("add", "deny", "card", "c", "--for", "1d", "--until", "2030-01-01"), "give one of them"),
        (("add", "grey", "card", "c"), "see fraudline policy lists"),
    ],
)
def test_a_change_that_can_not_be_meant_is_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(["policy", "lists", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert "1111" not in error
