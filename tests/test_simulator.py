from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path

import msgspec
import numpy as np
import pytest

from consumer.simulator import LABELS_FILE, MALFORMATIONS, PAYMENTS_FILE, History, Simulation, simulate, write
from consumer.simulator_world import (
    CAMPAIGNS,
    COMPROMISED,
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    RING,
    SKIMMED,
    TAKEOVER,
    TESTING,
)
from features.errors import ConfigError
from features.event import CHANNELS, Label, Payment

RESALE = {"5732", "5944", "5947"}
CURRENCIES = {"EUR", "GBP", "PLN", "USD", "JPY"}
IN_PERSON = {"pos", "contactless", "atm"}


@cache
def history(payments: int = 50_000, seed: int = 11) -> History:
    return simulate(Simulation(payments, seed))


@cache
def decoded(payments: int = 50_000, seed: int = 11) -> tuple[Payment, ...]:
    decode = msgspec.json.Decoder(Payment).decode
    return tuple(decode(value) for _, value, _ in history(payments, seed).records())


@cache
def labels(seed: int = 11) -> tuple[Label, ...]:
    decode = msgspec.json.Decoder(Label).decode
    return tuple(decode(value) for _, value, _ in history(seed=seed).labels())


def campaign(kind: int) -> dict[str, list[Payment]]:
    """The payments of one campaign by card, in time order."""
    cards: dict[str, list[Payment]] = defaultdict(list)
    for payment, of in zip(decoded(), history().columns.campaign.tolist(), strict=True):
        if of == kind:
            cards[payment.card_id].append(payment)
    return cards


def luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def euro(payment: Payment) -> float:
    return payment.amount_minor / {"EUR": 100, "GBP": 86, "PLN": 430, "USD": 108, "JPY": 165}[payment.currency]


def test_same_simulation_same_bytes(tmp_path: Path) -> None:
    simulation = Simulation(3_000, 5, late=0.1, duplicate=0.05, malformed=0.05)
    for name in ("first", "second"):
        write(simulation, tmp_path / name)
    write(replace(simulation, seed=6), tmp_path / "other")
    for file in (PAYMENTS_FILE, LABELS_FILE):
        first = (tmp_path / "first" / file).read_bytes()
        assert first == (tmp_path / "second" / file).read_bytes()
        assert first != (tmp_path / "other" / file).read_bytes()


def test_files_hold_what_the_history_yields(tmp_path: Path) -> None:
    simulation = Simulation(2_000, 5, duplicate=0.1, malformed=0.1)
    steps: list[int] = []
    summary = write(simulation, tmp_path / "new" / "folder", steps.append)
    whole = simulate(simulation)
    for file, records in ((PAYMENTS_FILE, whole.records()), (LABELS_FILE, whole.labels())):
        lines = (tmp_path / "new" / "folder" / file).read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert lines == [value for _, value, _ in records]
    assert sum(steps) == simulation.records == summary["records"] == 2_400
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {PAYMENTS_FILE, LABELS_FILE}
    assert msgspec.json.decode(msgspec.json.encode(summary)) == summary
    assert summary["payments_per_s"] > 0


def test_failed_write_leaves_no_partial_file(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(Simulation(1_000, 1), tmp_path, stop)
    assert not (tmp_path / PAYMENTS_FILE).exists()
    assert not list(tmp_path.glob(".*"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="can't be written"):
        write(Simulation(1_000, 1), tmp_path / "file")


def test_payments_are_valid_and_hold_no_card_number() -> None:
    payments = decoded()
    assert len({p.event_id for p in payments}) == len(payments) == 50_000
    assert {p.channel for p in payments} == set(CHANNELS)
    assert {p.currency for p in payments} <= CURRENCIES
    texts: set[str] = set()
    for payment in payments:
        texts.update(value for value in msgspec.structs.astuple(payment) if isinstance(value, str))
        assert (payment.terminal_id is not None) == (payment.channel in IN_PERSON)
        assert (payment.ip is not None) == (payment.channel == "ecom")
        assert payment.account_id is not None
    assert not [text for text in texts if re.fullmatch(r"\d{12,19}", text) and luhn(text)]
    assert not [run for text in texts for run in re.findall(r"\d{12,}", re.sub(r"[-_ .]", "", text)) if luhn(run)]
    assert min(p.amount_minor for p in payments) > 0
    assert b"null" not in next(history().records())[1]


def test_keys_and_times_are_those_of_the_records() -> None:
    for (key, value, event_time), payment in zip(history().records(), decoded(), strict=True):
        assert (key, event_time) == (payment.card_id.encode(), payment.event_time)
        assert b"\n" not in value
    simulation = history().simulation
    times = [p.event_time for p in decoded()]
    assert times == sorted(times)
    assert times[0] >= simulation.start_ms
    assert times[-1] < simulation.start_ms + history().summary["days"] * DAY_MS


def test_a_terminal_stands_at_its_merchant_and_the_large_have_tens() -> None:
    sales: Counter[str] = Counter()
    terminals: dict[str, set[str]] = defaultdict(set)
    for payment in decoded():
        if payment.channel in IN_PERSON:
            assert payment.terminal_id is not None
            kind = "atm" if payment.channel == "atm" else "t"
            assert re.fullmatch(rf"{kind}_{payment.merchant_id.removeprefix('m_')}_\d\d", payment.terminal_id)
            sales[payment.merchant_id] += 1
            terminals[payment.merchant_id].add(payment.terminal_id)
    counts = [len(terminals[merchant]) for merchant, _ in sales.most_common()]
    assert counts.count(1) > 10
    assert 20 < max(counts) <= 80
    tenth = len(counts) // 10
    assert np.mean(counts[:tenth]) > 3 * np.mean(counts[tenth:])
    assert history().summary["terminals"] == sum(counts)


def test_an_account_is_one_persons_or_one_familys() -> None:
    cards: dict[str, set[str]] = defaultdict(set)
    account_of: dict[str, str] = {}
    homes: dict[str, set[str | None]] = defaultdict(set)
    for payment in decoded():
        assert payment.account_id is not None
        assert account_of.setdefault(payment.card_id, payment.account_id) == payment.account_id
        cards[payment.account_id].add(payment.card_id)
        homes[payment.account_id].add(payment.card_country)
    assert all(len(home) == 1 for home in homes.values())
    assert history().summary["accounts"] == len(cards)
    assert history().summary["cards"] == len(account_of)
    sizes = Counter(len(held) for held in cards.values())
    assert sizes[1] > 0.75 * len(cards)
    assert sizes[2] > 0.08 * len(cards)
    world = history().world
    holders: dict[int, set[int]] = defaultdict(set)
    for customer, account in zip(world.holder.tolist(), world.account[world.holder].tolist(), strict=True):
        holders[account].add(customer)
    assert set(np.bincount(world.holder).tolist()) == {1, 2}
    assert 0.01 < sum(len(people) > 1 for people in holders.values()) / len(holders) < 0.06
    assert all(len(set(world.owner[list(people)].tolist())) == 1 for people in holders.values())


def test_the_two_cards_of_a_person_show_the_same_devices() -> None:
    world = history().world
    devices: dict[str, set[str]] = defaultdict(set)
    for payment, fraud in zip(decoded(), history().fraud.tolist(), strict=True):
        if payment.device_id is not None and not fraud:
            devices[payment.card_id].add(payment.device_id)
    pairs = [
        (devices[f"card_{first:07d}"], devices[f"card_{second:07d}"])
        for second, first in enumerate(world.holder[world.customers :].tolist(), start=world.customers)
    ]
    seen = [(first, second) for first, second in pairs if first and second]
    assert len(seen) > 100
    assert np.mean([bool(first & second) for first, second in seen]) > 0.8


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_fraud_share_and_campaigns(seed: int) -> None:
    whole = history(seed=seed)
    assert 0.003 < whole.fraud.mean() < 0.008
    assert whole.summary["fraud"] == whole.fraud.sum() == len(whole.fraud_event_ids)
    assert set(whole.summary["campaigns"]) == set(CAMPAIGNS[1:])
    counts = [of["payments"] for of in whole.summary["campaigns"].values()]
    assert sum(counts) == whole.summary["fraud"]
    assert min(counts) > 0.1 * sum(counts)


def test_card_testing_is_small_then_large_within_hours() -> None:
    cards = campaign(TESTING)
    sprees = 0
    for payments in cards.values():
        tiny = list(takewhile(lambda p: p.mcc in {"5816", "8398"} and euro(p) < 10, payments))
        assert tiny
        assert len({p.merchant_id for p in tiny}) <= 2
        assert all(p.channel == "ecom" for p in payments)
        assert tiny[-1].event_time - tiny[0].event_time < 30 * MINUTE_MS
        large = payments[len(tiny) :]
        if large:
            sprees += 1
            assert large[0].event_time - tiny[-1].event_time < 6 * HOUR_MS
            assert np.median([euro(p) for p in large]) > 5 * max(euro(p) for p in tiny[:1])
    assert sprees > len(cards) / 2


def test_compromised_merchant_is_what_the_victims_share() -> None:
    cards = campaign(COMPROMISED)
    visits: dict[str, set[str]] = defaultdict(set)
    for payment, fraud in zip(decoded(), history().fraud.tolist(), strict=True):
        misuse = cards.get(payment.card_id)
        if misuse and not fraud and payment.event_time < misuse[0].event_time:
            visits[payment.card_id].add(payment.merchant_id)
    assert visits.keys() == cards.keys()
    left, breached = set(cards), []
    while left:
        merchant, shared = Counter(shop for card in sorted(left) for shop in visits[card]).most_common(1)[0]
        left -= {card for card in left if merchant in visits[card]}
        breached.append(shared)
    assert len(breached) < len(cards) / 3
    misuse = [payment for payments in cards.values() for payment in payments]
    assert sum(p.mcc in RESALE for p in misuse) > 0.6 * len(misuse)
    assert max(p[-1].event_time - p[0].event_time for p in cards.values()) > 6 * HOUR_MS
    assert max(p.event_time for p in misuse) - min(p.event_time for p in misuse) > 3 * DAY_MS


def test_takeover_is_a_device_the_card_never_showed() -> None:
    cards = campaign(TAKEOVER)
    habits: dict[str, list[float]] = defaultdict(list)
    devices: dict[str, set[str | None]] = defaultdict(set)
    for payment, fraud in zip(decoded(), history().fraud.tolist(), strict=True):
        if payment.card_id in cards and not fraud:
            habits[payment.card_id].append(euro(payment))
            devices[payment.card_id].add(payment.device_id)
    abroad = 0
    for card, payments in cards.items():
        (device,) = {p.device_id for p in payments}
        assert device is not None
        assert device not in devices[card]
        assert min(euro(p) for p in payments) > 1.2 * float(np.mean(habits[card]))
        abroad += any(p.country != p.card_country for p in payments)
    assert 0 < abroad < len(cards)


def test_mule_ring_shares_a_device_and_few_merchants() -> None:
    rings: dict[str | None, list[Payment]] = defaultdict(list)
    for payments in campaign(RING).values():
        for payment in payments:
            rings[payment.device_id].append(payment)
    assert None not in rings
    handfuls = [ring for ring in rings.values() if len({p.card_id for p in ring}) >= 3]
    assert len(handfuls) >= len(rings) - 1  # the last ring may be cut short by the fraud rate
    for ring in handfuls:
        assert len({p.card_id for p in ring}) <= 7
        assert len({p.merchant_id for p in ring}) <= 3
    assert 60 < np.median([euro(p) for ring in handfuls for p in ring]) < 250


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_skimmed_terminal_is_mostly_fraud_for_a_while_at_usual_amounts(seed: int) -> None:
    whole = history(seed=seed)
    labelled_at = {label.event_id: label.labelled_at for label in labels(seed) if label.label == "fraud"}
    sales: dict[str, list[tuple[Payment, bool]]] = defaultdict(list)
    skimmed: dict[str, list[Payment]] = defaultdict(list)
    for payment, of in zip(decoded(seed=seed), whole.columns.campaign.tolist(), strict=True):
        if payment.terminal_id is not None:
            sales[payment.terminal_id].append((payment, of > 0))
            if of == SKIMMED:
                skimmed[payment.terminal_id].append(payment)
    assert sum(map(len, skimmed.values())) == whole.summary["campaigns"]["skimmed_terminal"]["payments"]
    assert len(skimmed) >= 3
    others = [fraud for terminal, of in sales.items() if terminal not in skimmed for _, fraud in of]
    meanwhile: list[bool] = []
    for terminal, misuse in skimmed.items():
        begins, ends = misuse[0].event_time, misuse[-1].event_time
        assert ends - begins < 28 * DAY_MS
        meanwhile += [fraud for payment, fraud in sales[terminal] if begins <= payment.event_time <= ends]
        for payment in misuse:
            customers = {p.card_id for p, fraud in sales[terminal] if not fraud and p.event_time < payment.event_time}
            assert payment.card_id in customers
    assert max(of[-1].event_time - of[0].event_time for of in skimmed.values()) > 7 * DAY_MS
    assert np.mean(meanwhile) > 0.4 > 100 * np.mean(others)
    frauds = [payment for misuse in skimmed.values() for payment in misuse]
    honest = [payment for terminal in skimmed for payment, fraud in sales[terminal] if not fraud]
    assert 0.5 < np.median([euro(p) for p in frauds]) / np.median([euro(p) for p in honest]) < 2
    known = [any(labelled_at[p.event_id] < q.event_time for p in skimmed[str(q.terminal_id)]) for q in frauds]
    assert np.mean(known) > 0.5  # or what labels tell of a terminal would come too late to help


def test_honest_people_look_suspicious_too() -> None:
    known: dict[str, set[str]] = defaultdict(set)
    holders: dict[str, set[str]] = defaultdict(set)
    suspicious: Counter[str] = Counter()
    for payment, fraud in zip(decoded(), history().fraud.tolist(), strict=True):
        card, device = payment.card_id, payment.device_id
        if not fraud:
            suspicious["abroad"] += payment.country != payment.card_country
            suspicious["resale over 150 euro"] += payment.mcc in RESALE and euro(payment) > 150
            suspicious["another device"] += device is not None and bool(known[card]) and device not in known[card]
            if device is not None:
                known[card].add(device)
                holders[device].add(card)
    frauds = history().summary["fraud"]
    assert suspicious["abroad"] > 3 * frauds
    assert suspicious["resale over 150 euro"] > frauds
    assert suspicious["another device"] > frauds
    assert sum(len(cards) >= 3 for cards in holders.values()) > 20


def entities(record: Payment | Label) -> tuple[str | None, ...]:
    ids = (record.card_id, record.account_id, record.merchant_id, record.terminal_id, record.device_id, record.ip)
    return (record.event_id, *ids)


def test_labels_name_the_entities_of_their_payment() -> None:
    payments = {p.event_id: p for p in decoded()}
    for label in labels():
        assert entities(label) == entities(payments[label.event_id])
    named = [sum(value is not None for value in column) for column in zip(*map(entities, labels()), strict=True)]
    assert min(named) > 100
    assert not any(b"null" in value for _, value, _ in history().labels())


def test_labels_follow_their_payment_and_reach_all_fraud() -> None:
    whole = history()
    payments = {p.event_id: p for p in decoded()}
    assert [time for _, _, time in whole.labels()] == [label.labelled_at for label in labels()]
    assert [key for key, _, _ in whole.labels()] == [label.card_id.encode() for label in labels()]
    assert all(a.labelled_at <= b.labelled_at for a, b in pairwise(labels()))
    delays: dict[str, list[int]] = defaultdict(list)
    for label in labels():
        payment = payments[label.event_id]
        assert label.event_time == payment.event_time < label.labelled_at
        delays[label.source].append(label.labelled_at - label.event_time)
    assert {label.event_id for label in labels() if label.label == "fraud"} == whole.fraud_event_ids
    genuine = [label for label in labels() if label.label == "genuine"]
    assert {label.source for label in genuine} == {"analyst"}
    assert 0.005 < len(genuine) / len(payments) < 0.02
    assert len(labels()) == len({label.event_id for label in labels()}) == whole.summary["labels"]
    assert min(delays["chargeback"]) > 5 * DAY_MS
    assert max(delays["chargeback"]) < 46 * DAY_MS
    assert np.median(delays["issuer"]) < 2 * HOUR_MS < np.median(delays["customer"]) < 3 * DAY_MS


def test_merchants_are_zipf_and_cards_pay_less_than_daily() -> None:
    sizes = sorted(Counter(p.merchant_id for p in decoded(200_000, 3)).values(), reverse=True)
    assert sum(sizes[: len(sizes) // 100]) > 0.15 * sum(sizes)
    assert sum(sizes[len(sizes) // 2 :]) < 0.2 * sum(sizes)
    whole = history(200_000, 3)
    assert 25 <= whole.summary["days"] <= 35
    assert whole.summary["payments"] / whole.summary["cards"] < whole.summary["days"]


def test_late_payments_arrive_behind_younger_ones() -> None:
    whole = simulate(Simulation(20_000, 4, late=0.2))
    times = np.array([time for _, _, time in whole.records()])
    behind = np.maximum.accumulate(times) - times
    # A payment that is two minutes late in a quiet hour is overtaken by none: fewer are seen to be late than are.
    assert 0.15 < np.mean(behind > 0) <= whole.summary["late"] / 20_000
    assert behind.max() < 7 * HOUR_MS
    assert whole.summary["late"] == pytest.approx(4_000, rel=0.1)
    payments = {msgspec.json.decode(value)["event_id"]: at for at, (_, value, _) in enumerate(whole.records())}
    assert list(payments.values()) == list(range(20_000))


def test_duplicates_are_the_same_bytes_again() -> None:
    whole = simulate(Simulation(10_000, 4, duplicate=0.07))
    seen: dict[bytes, int] = {}
    again = []
    for at, (_, value, _) in enumerate(whole.records()):
        if value in seen:
            again.append(at - seen[value])
        else:
            seen[value] = at
    assert len(again) == whole.summary["duplicates"] == 700
    assert len(seen) == len({msgspec.json.decode(value)["event_id"] for value in seen}) == 10_000
    assert max(again) < 1_000


def unusable(value: bytes) -> bool:
    try:
        payment = msgspec.json.decode(value, type=Payment)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return payment.currency == "XXQ" or (payment.card_id.isdigit() and luhn(payment.card_id))


def test_malformed_records_are_all_unusable_and_lie_between_valid_ones() -> None:
    simulation = Simulation(5_000, 4, malformed=0.1)
    whole = simulate(simulation)
    bad = [unusable(value) for _, value, _ in whole.records()]
    assert sum(bad) == whole.summary["malformed"] == 500
    assert bad == (whole.damage > 0).tolist()
    assert set(whole.damage.tolist()) == set(range(len(MALFORMATIONS) + 1))
    halves = np.array_split(np.flatnonzero(bad), 2)
    assert halves[0].max() < 0.6 * len(bad)
    assert halves[1].min() > 0.4 * len(bad)
    assert not any(b"\n" in value for _, value, _ in whole.records())
    assert len(whole.fraud) == 5_000


def test_options_leave_the_payments_alone() -> None:
    plain = simulate(Simulation(3_000, 9))
    noisy = simulate(Simulation(3_000, 9, duplicate=0.2, malformed=0.2))
    valid = [value for (_, value, _), damage in zip(noisy.records(), noisy.damage, strict=True) if damage == 0]
    assert list(dict.fromkeys(valid)) == [value for _, value, _ in plain.records()]
    moved = simulate(Simulation(3_000, 9, start_ms=plain.simulation.start_ms + DAY_MS))
    for (_, _, before), (_, _, after) in zip(plain.records(), moved.records(), strict=True):
        assert after - before == DAY_MS


@pytest.mark.parametrize(
    "simulation",
    [
        Simulation(1, 0),
        Simulation(7, 1, fraud_rate=0.2),
        Simulation(2_000, 2**32 - 1, fraud_rate=0.0),
        Simulation(2_000, 1, fraud_rate=0.2, customers=50, merchants=50, days=1),
        Simulation(2_000, 1, days=1.5, late=0.9, duplicate=0.9, malformed=0.9),
        Simulation(2_000, 1, customers=20_000, merchants=20_000, days=365),
    ],
)
def test_unusual_worlds(simulation: Simulation) -> None:
    whole = simulate(simulation)
    assert len(whole.fraud) == simulation.payments
    assert whole.fraud.sum() == round(simulation.payments * simulation.fraud_rate)
    assert len(list(whole.records())) == simulation.records
    span = whole.world.span_ms
    assert whole.columns.time_ms.min() >= 0
    assert whole.columns.time_ms.max() <= span
    assert sum(unusable(value) for _, value, _ in whole.records()) == whole.summary["malformed"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("payments", 0),
        ("payments", 10**9),
        ("seed", -1),
        ("seed", 2**32),
        ("start_ms", 0),
        ("customers", 3),
        ("merchants", 0),
        ("days", 0.0),
        ("days", float("nan")),
        ("fraud_rate", 0.5),
        ("fraud_rate", -0.1),
        ("late", 1.0),
        ("duplicate", -0.1),
        ("malformed", float("inf")),
    ],
)
def test_bad_parameters_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"simulator's {field} must lie between"):
        replace(Simulation(1_000, 1), **{field: value})  # type: ignore[arg-type]  # the field is a parameter here
