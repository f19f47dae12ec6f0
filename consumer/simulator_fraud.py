"""How fraud unfolds in the simulated world: five campaigns on the cards of people who were living there.

Card testing then a spree, a compromised merchant, taken-over accounts, mule rings, and skimmed terminals; see
`simulator_world` for units.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from consumer.simulator_world import (
    COMPROMISED,
    COUNTRIES,
    DAY_MS,
    ECOM,
    HOUR_MS,
    MINUTE_MS,
    POS,
    RING,
    SKIMMED,
    TAKEOVER,
    TESTING,
    Bools,
    Columns,
    Floats,
    Ints,
    World,
    columns_of,
    concatenate,
    spend,
)

_SHARES: Final = (0.25, 0.25, 0.15, 0.15, 0.20)  # of all fraud, in the order of CAMPAIGNS


def fraud_payments(world: World, genuine: Columns, count: int, rng: np.random.Generator) -> Columns:
    """`count` fraudulent payments on the cards of `genuine` (not in time order).

    A world too small for its share of compromised merchants or skimmed terminals has more taken-over accounts instead.
    """
    quota = np.diff(np.rint(np.cumsum((0.0, *_SHARES)) * count)).astype(int).tolist()
    scene = _Scene(world, genuine, rng)
    skimmed, compromised = scene.skimmed(quota[4]), scene.compromised(quota[1])
    missing = quota[4] - len(skimmed) + quota[1] - len(compromised)
    parts = [skimmed, compromised, scene.testing(quota[0]), scene.takeover(quota[2] + missing)]
    return concatenate([*parts, scene.ring(quota[3])])


def _sequences(counts: Ints, limit: int) -> tuple[Ints, Ints]:
    """Who acts and for which time (from 0), for the first `limit` acts of people who act `counts` times each."""
    who = np.repeat(np.arange(len(counts)), counts)[:limit]
    return who, np.arange(len(who)) - (np.cumsum(counts) - counts)[who]


def _elapsed(gap_ms: Floats, step: Ints) -> Floats:
    """Time since each sequence began, where a sequence begins at step 0 and `gap_ms` lies before each act."""
    total: Floats = np.cumsum(gap_ms)
    began: Floats = (total - gap_ms)[step == 0]
    elapsed: Floats = total - began[np.cumsum(step == 0) - 1]
    return elapsed


class _Scene:
    """The fraudsters' view: which cards can be had, what their owners usually do, which devices are unused."""

    def __init__(self, world: World, genuine: Columns, rng: np.random.Generator) -> None:
        self._world, self._genuine, self._rng = world, genuine, rng
        self._home = world.home[world.holder]
        lived = np.bincount(genuine.card, minlength=world.cards)
        spent = np.bincount(genuine.card, weights=genuine.euro, minlength=world.cards)
        self._habit = np.where(lived > 0, spent / np.maximum(lived, 1), 30.0)
        # A card is exposed where it is used: the more it pays, the sooner it comes up.
        self._queue = np.argsort(rng.exponential(1.0, world.cards) / np.maximum(lived, 1e-6) ** 0.5)
        self._taken = np.zeros(world.cards, np.bool_)
        self.devices_of = 0

    def testing(self, count: int) -> Columns:
        """Cards tried with tiny payments at two shops of one gang, minutes apart; the good ones then go on a spree."""
        world, rng = self._world, self._rng
        tests = rng.integers(3, 7, count)
        spree = np.where(rng.random(count) < 0.85, rng.integers(2, 7, count), 0)
        card, step = _sequences(tests + spree, count)
        gang = self._gangs(card, 3, 9)
        trying = step < tests[card]
        stagger = np.where(step == 0, rng.random(count) * 25.0, rng.exponential(0.9, count)) * MINUTE_MS
        wait = np.where(step == tests[card], rng.uniform(0.3, 5.0, count), rng.exponential(0.3, count)) * HOUR_MS
        time = self._schedule(gang, _elapsed(np.where(trying, stagger, wait), step))
        victim = self._victims(card)
        usual = world.tiny.pick(rng.integers(0, len(COUNTRIES), 2 * (gang.max(initial=0) + 1)), rng)
        shop = np.where(trying, usual[2 * gang + rng.integers(0, 2, count)], self._online_shop(victim, 0.8, 0.1))
        tiny = rng.lognormal(0.3, 0.5, count)
        large = 15.0 + world.level[shop] * np.exp(rng.normal(0.6, 0.6, count))
        euro = np.where(trying, tiny, large)
        shared = rng.random(count)[gang] < 0.5
        device = self._new_devices(np.where(shared, gang, gang.max(initial=0) + 1 + card), shown=0.8)
        return self._online(time=time, victim=victim, shop=shop, euro=euro, device=device, campaign=TESTING)

    def takeover(self, count: int) -> Columns:
        """Accounts entered from a device they never used, for amounts above their own habit, sometimes from abroad."""
        rng = self._rng
        card, step = _sequences(rng.integers(2, 6, count), count)
        time = self._schedule(card, _elapsed(rng.exponential(2.5, count) * HOUR_MS * (step > 0), step), after=0.15)
        victim = self._victims(card)
        away = (rng.random(count) < 0.35)[card]
        shop = self._online_shop(victim, 0.45, away)
        euro = self._habit[victim] * (1.3 + rng.lognormal(0.6, 0.7, count))
        device = self._new_devices(card, shown=1.0)
        return self._online(time=time, victim=victim, shop=shop, euro=euro, device=device, campaign=TAKEOVER)

    def ring(self, count: int) -> Columns:
        """A handful of little-used cards share one device and pay fair sums to the same two or three shops."""
        rng = self._rng
        card, step = _sequences(rng.integers(2, 7, count), count)
        ring = self._gangs(card, 3, 8)
        pause = np.where(step == 0, rng.random(count) * 36.0, rng.exponential(5.0, count)) * HOUR_MS
        time = self._schedule(ring, _elapsed(pause, step))
        victim = self._victims(card, idle=True)
        lead = victim[np.searchsorted(ring, np.arange(ring.max(initial=-1) + 1))]
        shops = np.stack([self._online_shop(lead, share, 0.1) for share in (0.5, 0.0, 0.0)], axis=1)
        shop = shops[ring, rng.integers(0, 3, count)]
        euro = rng.lognormal(np.log(120.0), 0.5, count)
        device = self._new_devices(ring, shown=1.0)
        return self._online(time=time, victim=victim, shop=shop, euro=euro, device=device, campaign=RING)

    def compromised(self, count: int) -> Columns:
        """Cards that paid at a breached merchant inside a window are used elsewhere over the days that follow."""
        world, rng, genuine = self._world, self._rng, self._genuine
        order = np.argsort(genuine.merchant, kind="stable")
        start = np.searchsorted(genuine.merchant[order], np.arange(world.merchants + 1))
        card: list[Ints] = [np.empty(0, np.int32)]
        begins = [np.empty(0)]
        found = 0
        for merchant in rng.permutation(np.flatnonzero(np.diff(start) >= 20)):
            if found >= count:
                break
            opens = rng.uniform(0.05, 0.4) * world.span_ms
            closes = opens + min(0.25 * world.span_ms, 7.0 * DAY_MS)
            sales = order[start[merchant] : start[merchant + 1]]
            time = genuine.time_ms[sales]
            cards = np.unique(genuine.card[sales[(time >= opens) & (time < closes)]])
            cards = rng.permutation(cards[~self._taken[cards]])[:40]
            if len(cards) < 4:
                continue
            self._taken[cards] = True
            room = min(0.9 * (world.span_ms - closes), 14.0 * DAY_MS)
            card.append(cards)
            begins.append(closes + rng.random(len(cards)) * room)
            found += 2 * len(cards)
        victims, begin = np.concatenate(card), np.concatenate(begins)
        self._taken[victims] = False
        who, step = _sequences(rng.integers(2, 5, len(victims)), count)
        self._taken[victims[who]] = True
        return self._cash_in(victims[who], begin[who], who, step)

    def _cash_in(self, victim: Ints, begin: Floats, who: Ints, step: Ints) -> Columns:
        world, rng, count = self._world, self._rng, len(victim)
        pause = np.where(step == 0, 0.0, rng.exponential(9.0, count) * HOUR_MS)
        time = begin + np.minimum(_elapsed(pause, step), 0.95 * (world.span_ms - begin))
        cloned = (rng.random(len(who)) < 0.4)[who]
        street = world.resale_street.pick(self._home[victim], rng)
        shop = np.where(cloned, street, self._online_shop(victim, 0.75, 0.15))
        euro = world.level[shop] * np.exp(rng.normal(0.3, 0.7, count))
        device = self._new_devices(who, shown=0.85)
        used = self._online(time=time, victim=victim, shop=shop, euro=euro, device=device, campaign=COMPROMISED)
        return replace(
            used,
            terminal=world.terminal_at(shop, rng.random(count)).astype(np.int32),
            channel=np.where(cloned, POS, ECOM).astype(np.int8),
            device=np.where(cloned, -1, used.device),
            ip=np.where(cloned, -1, used.ip),
        )

    def skimmed(self, count: int) -> Columns:
        """For weeks, a terminal charges cards of its own customers again, days later, as if they had bought as usual.

        Only the terminal gives it away: the hour, the amount, the channel and the device are those of an honest sale.
        """
        world, rng, genuine = self._world, self._rng, self._genuine
        latest = world.span_ms - DAY_MS
        weeks = min(28.0 * DAY_MS, 0.9 * latest)
        busiest = min(max(count // 8, 10), 60)  # so that it is several terminals, where most of what they take is fraud
        like: list[Ints] = [np.empty(0, np.int64)]
        days = [np.empty(0, np.int64)]
        found = 0
        for sales in self._sales_by_terminal(count + 20) if latest > DAY_MS else ():
            if found >= count:
                break
            lasts = rng.uniform(0.7, 1.0) * weeks
            opens = rng.random() * (latest - lasts)
            time = genuine.time_ms[sales]
            honest = int(((time >= opens) & (time < opens + lasts)).sum())
            seen = sales[(time < opens + lasts) & ~self._taken[genuine.card[sales]]]
            if not 3 <= honest <= busiest or len(seen) < 4:
                continue
            again = rng.choice(seen, int(rng.integers(honest, 2 * honest + 1)))
            begins = np.maximum(genuine.time_ms[again], opens)
            then = begins + rng.random(len(again)) * (opens + lasts - begins)
            like.append(again)
            days.append(np.ceil((then - genuine.time_ms[again]) / DAY_MS).clip(1).astype(np.int64))
            found += len(again)
        sold = genuine.take(np.concatenate(like)[:count])
        self._taken[sold.card] = True
        shift = np.concatenate(days)[:count] * DAY_MS + rng.normal(0.0, 30.0, len(sold)) * MINUTE_MS
        return replace(
            sold,
            time_ms=np.clip(sold.time_ms + shift, 0, world.span_ms - 1).astype(np.int64),
            euro=spend(world, world.holder[sold.card], sold.merchant, rng),
            campaign=np.full(len(sold), SKIMMED, np.int8),
        )

    def _sales_by_terminal(self, most: int) -> list[Ints]:
        """The rows of `genuine` at each of some terminals that aren't idle, at most `most` of them, in any order."""
        terminal = self._genuine.terminal
        sales = np.bincount(terminal + 1, minlength=2)[1:]
        picked = self._rng.permutation(np.flatnonzero(sales >= 8))[:most]
        place = np.full(len(sales) + 1, -1)  # the last is what -1 finds: online
        place[picked] = np.arange(len(picked))
        rows = np.flatnonzero(place[terminal] >= 0)
        rows = rows[np.argsort(place[terminal[rows]], kind="stable")]
        return np.split(rows, np.cumsum(sales[picked])[:-1])

    def _online(self, *, time: Floats, victim: Ints, shop: Ints, euro: Floats, device: Ints, campaign: int) -> Columns:
        """Payments from the fraudsters' own machines, which stand in the victim's country or look as if they did."""
        count = len(victim)
        near = self._rng.random(count) < 0.6
        country = np.where(near, self._home[victim], self._rng.integers(0, len(COUNTRIES), count))
        return columns_of(
            time=time,
            card=victim,
            merchant=shop,
            terminal=np.full(count, -1),
            euro=euro,
            channel=np.full(count, ECOM),
            device=device,
            ip=country * 4096 + self._rng.integers(0, 4096, count),
            campaign=campaign,
        )

    def _online_shop(self, victim: Ints, resale: float, abroad: float | Bools) -> Ints:
        world, rng, markets = self._world, self._rng, len(COUNTRIES)
        away = abroad if isinstance(abroad, np.ndarray) else rng.random(len(victim)) < abroad
        home = self._home[victim]
        country = np.where(away, (home + rng.integers(1, markets, len(victim))) % markets, home)
        chosen = rng.random(len(victim)) < resale
        return np.where(chosen, world.resale_online.pick(country, rng), world.shops.pick(country + markets, rng))

    def _victims(self, card: Ints, *, idle: bool = False) -> Ints:
        """A free card for each number of `card`; once all are taken, they come up again."""
        wanted = int(card.max(initial=-1)) + 1
        queue = self._queue[::-1] if idle else self._queue
        free = queue[~self._taken[queue]]
        chosen = np.resize(free if len(free) else queue, wanted)
        self._taken[chosen] = True
        return chosen[card]

    def _gangs(self, card: Ints, least: int, below: int) -> Ints:
        """Group cards 0, 1, 2... into gangs of `least` to `below` - 1; the gang of each act."""
        sizes = self._rng.integers(least, below, int(card.max(initial=-1)) + 2)
        return np.searchsorted(np.cumsum(sizes), card, side="right")

    def _new_devices(self, group: Ints, *, shown: float) -> Ints:
        number = self.devices_of + group
        self.devices_of = int(number.max(initial=self.devices_of)) + 1
        return np.where(self._rng.random(len(group)) < shown, self._world.attack_device(number), -1)

    def _schedule(self, incident: Ints, elapsed_ms: Floats, after: float = 0.0) -> Floats:
        """Begin each incident at an hour when people pay (three in five) or at any, so that all of it fits the span."""
        span, rng = float(self._world.span_ms), self._rng
        elapsed_ms = elapsed_ms * min(1.0, 0.6 * span / max(elapsed_ms.max(initial=0.0), 1.0))
        incidents = int(incident.max(initial=-1)) + 1
        latest = np.zeros(incidents)
        np.maximum.at(latest, incident, elapsed_ms)
        busy = rng.choice(self._genuine.time_ms, incidents)
        begin = np.where(rng.random(incidents) < 0.6, busy, rng.random(incidents) * span)
        return after * span + np.mod(begin, span * (1.0 - after) - latest)[incident] + elapsed_ms
