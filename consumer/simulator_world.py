"""The simulated world: who pays whom, how much and when, and how fraud unfolds in it.

Everything here is columns of numpy drawn from one generator, so that a seed gives one history. `World` holds habits;
`genuine_payments` lives them; `simulator_fraud` adds five campaigns to what was lived. Times are milliseconds since the
history's start; money is in euro until the caller turns it into minor units. Honest people also buy at night, abroad,
in bursts, on borrowed or new devices and far above their habit, because a model that never has to doubt would teach
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from features.event import CHANNELS

Ints = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
CAMPAIGNS: Final = (
    "genuine",
    "card_testing",
    "compromised_merchant",
    "account_takeover",
    "mule_ring",
    "skimmed_terminal",
)
TESTING, COMPROMISED, TAKEOVER, RING, SKIMMED = range(1, len(CAMPAIGNS))
POS, ECOM, ATM, CONTACTLESS, MOTO, RECURRING = range(len(CHANNELS))


class Country(NamedTuple):
    """A market: its currency, how many minor units a euro buys, its clock and its share of customers."""

    code: str
    currency: str
    minor_per_euro: float
    utc_hours: int
    weight: float


class Category(NamedTuple):
    """A kind of merchant: its usual ticket (median in euro, log spread), how common it is, how much of it is online."""

    mcc: str
    euro: float
    spread: float
    weight: float
    ecom: float
    opens: int
    closes: int


COUNTRIES: Final = (
    Country("DE", "EUR", 100, 1, 0.22),
    Country("FR", "EUR", 100, 1, 0.18),
    Country("GB", "GBP", 86, 0, 0.18),
    Country("ES", "EUR", 100, 1, 0.12),
    Country("NL", "EUR", 100, 1, 0.08),
    Country("PL", "PLN", 430, 1, 0.08),
    Country("US", "USD", 108, -6, 0.09),
    Country("JP", "JPY", 165, 9, 0.05),
)
CATEGORIES: Final = (
    Category("5411", 27, 0.7, 22, 0.08, 7, 22),  # groceries
    Category("5812", 26, 0.6, 11, 0.05, 11, 24),  # restaurants
    Category("5814", 9, 0.5, 12, 0.15, 7, 24),  # fast food
    Category("5541", 50, 0.45, 6, 0.0, 6, 23),  # fuel
    Category("5912", 17, 0.6, 6, 0.15, 8, 20),  # pharmacies
    Category("5311", 45, 0.8, 5, 0.3, 9, 20),  # department stores
    Category("5651", 52, 0.7, 6, 0.5, 9, 20),  # clothes
    Category("4111", 4, 0.5, 8, 0.15, 5, 24),  # transit
    Category("4121", 15, 0.5, 3, 0.6, 0, 24),  # taxis
    Category("7011", 130, 0.7, 1.5, 0.6, 0, 24),  # hotels
    Category("4511", 180, 0.7, 1, 0.9, 0, 24),  # airlines
    Category("5942", 18, 0.6, 2, 0.6, 9, 20),  # books
    Category("5999", 33, 0.9, 4, 0.6, 9, 20),  # other shops
    Category("6011", 80, 0.6, 3, 0.0, 0, 24),  # cash machines
    Category("4899", 13, 0.3, 3, 1.0, 0, 24),  # subscriptions
    Category("5816", 6, 1.0, 4, 1.0, 0, 24),  # games
    Category("8398", 12, 1.1, 1, 1.0, 0, 24),  # donations
    Category("5732", 130, 0.95, 3, 0.6, 9, 20),  # electronics
    Category("5947", 45, 0.8, 2, 0.7, 8, 22),  # gift cards
    Category("5944", 150, 1.0, 1, 0.4, 10, 19),  # jewellery
)
_MCCS: Final = tuple(category.mcc for category in CATEGORIES)
RESALE: Final = (_MCCS.index("5732"), _MCCS.index("5947"), _MCCS.index("5944"))  # what fraudsters turn into cash
TINY: Final = (_MCCS.index("5816"), _MCCS.index("8398"))  # where a stolen card is tried unnoticed
CASH: Final = _MCCS.index("6011")
_SUBSCRIPTION: Final = _MCCS.index("4899")
_UTC_HOURS: Final = np.array([country.utc_hours for country in COUNTRIES])
_FAVOURITES: Final = (5, 3)  # in the street, online
_BLOCK_PAYMENTS: Final = 400_000  # bounds the temporaries of one step of `genuine_payments`
_MAX_EURO: Final = 15_000.0
_MOST_TERMINALS: Final = 40  # at the largest merchant of a world that is not small; cash machines are twice as many
_SECOND_CARDS: Final = 0.12  # of customers
_WEEKDAY_WEIGHT: Final = np.array([0.95, 0.95, 1.0, 1.0, 1.15, 1.2, 0.75])


@dataclass(frozen=True, slots=True)
class Columns:
    """n payments. All of shape (n,): `terminal`, `device` and `ip` are -1 where there is none.

    `card`, `merchant` and `terminal` are rows of the `World`; `campaign` indexes `CAMPAIGNS`.
    """

    time_ms: npt.NDArray[np.int64]
    card: npt.NDArray[np.int32]
    merchant: npt.NDArray[np.int32]
    terminal: npt.NDArray[np.int32]
    euro: npt.NDArray[np.float64]
    channel: npt.NDArray[np.int8]
    device: npt.NDArray[np.int32]
    ip: npt.NDArray[np.int32]
    campaign: npt.NDArray[np.int8]

    def __len__(self) -> int:
        """The number of payments."""
        return len(self.time_ms)

    def take(self, rows: Ints | slice) -> Columns:
        """The chosen rows, in the order given."""
        return Columns(*(getattr(self, field.name)[rows] for field in fields(self)))


def concatenate(parts: Sequence[Columns]) -> Columns:
    """Lay columns end to end."""
    return Columns(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Columns)))


class Pool:
    """Merchants in groups, drawn in proportion to their size. An empty group stands for all of them."""

    __slots__ = ("_cumulative", "_members", "_start")

    def __init__(self, members: Ints, group: Ints, size: Floats, groups: int) -> None:
        order = np.argsort(group, kind="stable")
        self._members = members[order]
        self._cumulative = np.concatenate([[0.0], np.cumsum(size[order])])
        self._start = np.searchsorted(group[order], np.arange(groups + 1))

    def pick(self, group: Ints, rng: np.random.Generator) -> Ints:
        """One merchant for each group asked for, shape (len(group),)."""
        first, end = self._start[group], self._start[group + 1]
        empty = first == end
        first, end = np.where(empty, 0, first), np.where(empty, len(self._members), end)
        low, high = self._cumulative[first], self._cumulative[end]
        at = np.searchsorted(self._cumulative, low + rng.random(len(first)) * (high - low), side="right") - 1
        picked: Ints = self._members[np.clip(at, first, end - 1)]
        return picked


class World:
    """Customers and merchants with their habits, drawn once. Rows are customers (shape (customers,)) or merchants.

    `holder` and `usage` have a row a card: whose it is, and how much it pays. `account` has one a customer. Terminals
    are numbered merchant by merchant: `first_terminal` and the `terminals` - 1 that follow it; a merchant that sells
    online has none.
    """

    def __init__(self, customers: int, merchants: int, days: float, rng: np.random.Generator) -> None:
        self.customers, self.merchants, self.days = customers, merchants, days
        self.span_ms = int(days * DAY_MS)
        self._open_shops(rng)
        self._place_terminals()
        self._settle_customers(rng)
        self._issue_cards(rng)

    def _open_shops(self, rng: np.random.Generator) -> None:
        count, markets = self.merchants, len(COUNTRIES)
        self.shop_country = rng.choice(markets, count, p=[country.weight for country in COUNTRIES])
        weight, online = (np.array([getattr(c, name) for c in CATEGORIES]) for name in ("weight", "ecom"))
        self.shop_ecom = rng.random(count) < 0.35
        # Every market needs a shop of either sort, and fraud its resale and tiny-ticket shops, however small the world.
        self.shop_country[: 2 * markets] = np.arange(2 * markets) % markets
        self.shop_ecom[: 2 * markets] = np.arange(2 * markets) < markets
        in_street, on_line = weight * (1 - online), weight * online
        self.category = np.where(
            self.shop_ecom,
            rng.choice(len(weight), count, p=on_line / on_line.sum()),
            rng.choice(len(weight), count, p=in_street / in_street.sum()),
        )
        forced = slice(2 * markets, 2 * markets + 2 * len(RESALE) + len(TINY))
        self.category[forced] = RESALE * 2 + TINY
        self.shop_ecom[forced] = np.arange(forced.stop - forced.start) >= len(RESALE)
        resale, tiny = np.isin(self.category, RESALE), np.isin(self.category, TINY)
        # Zipf. Resale shops are kept out of the very top, where one seed's jeweller would outsell all groceries.
        self.size = np.where(resale, 0.3, 1.0) / (rng.permutation(count) + 1.0) ** 1.05
        self.level = np.array([c.euro for c in CATEGORIES])[self.category] * rng.lognormal(0.0, 0.3, count)
        self.spread = np.array([c.spread for c in CATEGORIES])[self.category]
        self.opens = np.where(self.shop_ecom, 0, np.array([c.opens for c in CATEGORIES])[self.category])
        self.closes = np.where(self.shop_ecom, 24, np.array([c.closes for c in CATEGORIES])[self.category])
        everyone = np.arange(count)
        self.shops = Pool(everyone, self.shop_country + markets * self.shop_ecom, self.size, 2 * markets)
        self.resale_street, self.resale_online = (
            Pool(everyone[chosen], self.shop_country[chosen], np.sqrt(self.size[chosen]), markets)
            for chosen in (resale & ~self.shop_ecom, resale & self.shop_ecom)
        )
        self.tiny = Pool(everyone[tiny], self.shop_country[tiny], np.sqrt(self.size[tiny]), markets)

    def _place_terminals(self) -> None:
        size = np.where(self.shop_ecom, 0.0, self.size)
        most = min(_MOST_TERMINALS, 2 + self.merchants // 10) * np.where(self.category == CASH, 2, 1)
        machines = most * np.sqrt(size / size.max())
        self.terminals = np.where(self.shop_ecom, 0, np.maximum(np.rint(machines), 1)).astype(np.int64)
        self.first_terminal = np.cumsum(self.terminals) - self.terminals

    def _settle_customers(self, rng: np.random.Generator) -> None:
        count, markets = self.customers, len(COUNTRIES)
        share = min(1.0, self.days / 30.0)
        home = rng.choice(markets, count, p=[country.weight for country in COUNTRIES])
        # Families share a device, so sharing one is no proof.
        self.owner = np.arange(count) - np.where(rng.random(count) < 0.06, rng.integers(1, 4, count), 0).clip(0)
        self.owner = np.maximum(self.owner, 0)
        self.home = home[self.owner]
        self.activity = rng.gamma(1.2, 1.0, count) + 0.02
        self.spending = rng.lognormal(0.0, 0.45, count)
        self.online = rng.beta(2.0, 4.0, count)
        self.gamer = rng.random(count) < 0.02
        self.burst = np.where(self.gamer, 0.55, rng.beta(1.2, 4.5, count))
        self.peak_hour = np.where(rng.random(count) < 0.06, 25.0, rng.normal(14.5, 2.0, count))
        self.wallet = rng.random(count) < 0.35
        self.second_device = rng.random(count) < 0.3
        self.corner = rng.random(count)
        upgrades = rng.random(count) < 0.15 * share
        self.upgrade_ms = np.where(upgrades, rng.random(count) * self.span_ms, np.inf)
        travels = rng.random(count) < 0.25 * share
        self.trip_day = np.where(travels, rng.random(count) * self.days, np.inf)
        self.trip_days = rng.uniform(2.0, 10.0, count)
        self.trip_country = (self.home + rng.integers(1, markets, count)) % markets
        street, online = _FAVOURITES
        self.favourites = np.empty((count, street + online), np.int32)
        for slot in range(street + online):
            self.favourites[:, slot] = self.shops.pick(self.home + markets * (slot >= street), rng)

    def _issue_cards(self, rng: np.random.Generator) -> None:
        everyone = np.arange(self.customers)
        two = np.flatnonzero(rng.random(self.customers) < _SECOND_CARDS)
        self.holder = np.concatenate([everyone, two])
        self.cards = len(self.holder)
        self.usage = self.activity[self.holder]
        self.usage[two] *= 0.65
        self.usage[self.customers :] *= 0.35
        # Half of those who share the devices of a family share its account.
        family = (self.owner[self.owner] == self.owner) & (rng.random(self.customers) < 0.5)
        self.account = np.where(family, self.owner, everyone)

    def terminal_at(self, merchant: Ints, corner: Floats) -> Ints:
        """The terminal in a corner, in [0, 1), of each merchant; -1 online. Shape (len(merchant),)."""
        there = self.terminals[merchant]
        return np.where(there > 0, self.first_terminal[merchant] + (corner * there).astype(np.int64), -1)

    def borrowed_device(self, count: int, rng: np.random.Generator) -> Ints:
        """Devices that many people use once: a library, a friend's phone. Shape (count,)."""
        return 4 * self.customers + rng.integers(0, self.customers // 15 + 1, count)

    def attack_device(self, number: Ints) -> Ints:
        """The fraudsters' devices, by number: never one of a customer's."""
        return 4 * self.customers + self.customers // 15 + 1 + number

    def ip_of(self, customer: Ints, country: Ints, rng: np.random.Generator) -> Ints:
        """24-bit addresses: most from home, the rest behind a carrier of the country. Shape (len(customer),)."""
        at_home = (self.owner[customer] * 0x9E3779 + 0x51ED) & 0xFFFFFF
        carrier = (country * 4096 + rng.integers(0, 4096, len(customer))) & 0xFFFFFF
        return np.where(rng.random(len(customer)) < 0.7, at_home, carrier)


def genuine_payments(world: World, count: int, rng: np.random.Generator) -> Columns:
    """`count` payments of people who live their habits, grouped by card (not yet in time order)."""
    per_card = rng.multinomial(count, world.usage / world.usage.sum())
    ends = np.cumsum(per_card)
    cuts = np.searchsorted(ends, np.arange(_BLOCK_PAYMENTS, count, _BLOCK_PAYMENTS), side="right")
    blocks = np.split(np.arange(world.cards), np.unique(cuts))
    return concatenate([_live(world, np.repeat(block, per_card[block]), rng) for block in blocks])


def _live(world: World, card: Ints, rng: np.random.Generator) -> Columns:
    """One block of cards: `card` is sorted; a session is a payment and those that follow it within minutes."""
    customer, count = world.holder[card], len(card)
    rows = np.arange(count)
    follows = rng.random(count) < world.burst[customer]
    follows[np.flatnonzero(np.diff(card, prepend=-1))] = False
    leader = np.maximum.accumulate(np.where(follows, 0, rows))
    day = _days(world, count, rng)[leader]
    merchant = _choose_shops(world, customer, day, rng)
    again = follows & (rng.random(count) < np.where(world.gamer[customer], 0.9, 0.3))
    merchant = np.where(again, merchant[leader], merchant)

    clock = np.where(world.shop_ecom[merchant], world.home[customer], world.shop_country[merchant])
    hour = _hours(world, customer, rng)
    closed = (hour < world.opens[merchant]) | (hour >= world.closes[merchant])
    opens, closes = world.opens[merchant], world.closes[merchant]
    hour = np.where(closed, opens + rng.random(count) * (closes - opens), hour)
    begins = (day * 24.0 + hour - _UTC_HOURS[clock]) * HOUR_MS
    gap = np.cumsum(np.where(follows, rng.exponential(np.where(world.gamer[customer], 2.0, 14.0)) * MINUTE_MS, 0.0))
    time = begins[leader] + gap - gap[leader]
    hour = (time / HOUR_MS + _UTC_HOURS[clock]) % 24.0
    shut = follows & ((hour < world.opens[merchant]) | (hour >= world.closes[merchant]))
    merchant = np.where(shut, merchant[leader], merchant)

    time_ms = np.mod(time, world.span_ms).astype(np.int64)
    euro = spend(world, customer, merchant, rng)
    channel = _channels(world, customer, merchant, euro, rng)
    device = devices_of(world, customer, time_ms, channel, rng)
    ip = np.where(channel == ECOM, world.ip_of(customer, clock, rng), -1)
    usual = rng.random(count) < 0.5  # people have their way through a shop
    terminal = world.terminal_at(merchant, np.where(usual, world.corner[customer], rng.random(count)))
    return columns_of(
        time=time_ms,
        card=card,
        merchant=merchant,
        terminal=terminal,
        euro=euro,
        channel=channel,
        device=device,
        ip=ip,
        campaign=0,
    )


def columns_of(
    *,
    time: Ints | Floats,
    card: Ints,
    merchant: Ints,
    terminal: Ints,
    euro: Floats,
    channel: Ints,
    device: Ints,
    ip: Ints,
    campaign: int,
) -> Columns:
    """Payments of one campaign as columns, in their storage types; amounts are capped."""
    return Columns(
        time_ms=time.astype(np.int64),
        card=card.astype(np.int32),
        merchant=merchant.astype(np.int32),
        terminal=terminal.astype(np.int32),
        euro=np.minimum(euro, _MAX_EURO),
        channel=channel.astype(np.int8),
        device=device.astype(np.int32),
        ip=ip.astype(np.int32),
        campaign=np.full(len(card), campaign, np.int8),
    )


def _days(world: World, count: int, rng: np.random.Generator) -> Ints:
    days = np.arange(int(np.ceil(world.days)))
    weight = _WEEKDAY_WEIGHT[days % 7] * np.minimum(world.days - days, 1.0)  # the last day may be a part of one
    return np.searchsorted(np.cumsum(weight) / weight.sum(), rng.random(count)).clip(0, len(weight) - 1)


def _hours(world: World, customer: Ints, rng: np.random.Generator) -> Floats:
    """Local hours in [0, 24): around the customer's own peak or in the evening, and at any hour once in a while."""
    count, dice = len(customer), rng.random(len(customer))
    own = rng.normal(world.peak_hour[customer], 3.2)
    hour = np.where(dice < 0.66, own, np.where(dice < 0.96, rng.normal(19.0, 2.2, count), rng.random(count) * 24.0))
    in_day: Floats = np.mod(hour, 24.0)
    return in_day


def _choose_shops(world: World, customer: Ints, day: Ints, rng: np.random.Generator) -> Ints:
    count, markets = len(customer), len(COUNTRIES)
    street, online = _FAVOURITES
    ecom = rng.random(count) < world.online[customer]
    skew = rng.random(count) ** 1.7
    slot = np.where(ecom, street + (skew * online).astype(np.int64), (skew * street).astype(np.int64))
    away = (day >= world.trip_day[customer]) & (day < world.trip_day[customer] + world.trip_days[customer]) & ~ecom
    country = np.where(away, world.trip_country[customer], world.home[customer])
    abroad = ecom & (rng.random(count) < 0.15)
    country = np.where(abroad, (country + rng.integers(1, markets, count)) % markets, country)
    new = world.shops.pick(country + markets * ecom, rng)
    chosen = np.where(away | (rng.random(count) > 0.68), new, world.favourites[customer, slot])
    treat = np.where(ecom, world.resale_online.pick(country, rng), world.resale_street.pick(country, rng))
    return np.where(rng.random(count) < 0.012, treat, chosen)


def spend(world: World, customer: Ints, merchant: Ints, rng: np.random.Generator) -> Floats:
    """What customers usually pay there in euro, and at times far more. Shape (len(customer),)."""
    count = len(customer)
    noise = np.exp(rng.normal(0.0, 1.0, count) * world.spread[merchant])
    euro = world.level[merchant] * world.spending[customer] * noise
    splurge = rng.random(count) < 0.012
    euro = np.where(splurge, euro * rng.lognormal(1.4, 0.5, count), euro)
    paid: Floats = np.where(world.category[merchant] == CASH, np.ceil(euro / 10.0) * 10.0, euro)
    return paid


def _channels(world: World, customer: Ints, merchant: Ints, euro: Floats, rng: np.random.Generator) -> Ints:
    count, category = len(customer), world.category[merchant]
    tap = (world.wallet[customer] | (euro < 50.0)) & (rng.random(count) < 0.7)
    street = np.where(category == CASH, ATM, np.where(tap, CONTACTLESS, POS))
    net = np.where(category == _SUBSCRIPTION, RECURRING, np.where(rng.random(count) < 0.02, MOTO, ECOM))
    return np.where(world.shop_ecom[merchant], net, street)


def devices_of(world: World, customer: Ints, time_ms: Ints, channel: Ints, rng: np.random.Generator) -> Ints:
    """The device of each payment: mostly the customer's first, at times the second or a new one."""
    count = len(customer)
    second = world.second_device[customer] & (rng.random(count) < 0.3)
    slot = np.where(second, 1, np.where(time_ms >= world.upgrade_ms[customer], 2, 0))
    device = world.owner[customer] * 4 + slot
    device = np.where(rng.random(count) < 0.025, world.borrowed_device(count, rng), device)
    shown = ((channel == ECOM) & (rng.random(count) < 0.94)) | ((channel == CONTACTLESS) & world.wallet[customer])
    return np.where(shown, device, -1)
