"""Allow, deny and watch lists: cards, merchants, devices, addresses and ranges of them, each for a time or for good.

What a list says of a payment depends on the payment's own time, so that a replay finds the same.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, Protocol, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from features.errors import ConfigError
from models.facts import Facts

ListName = Literal["deny", "allow", "watch"]
ListKind = Literal["card", "merchant", "device", "ip"]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

LISTS: Final[tuple[ListName, ...]] = get_args(ListName)
KINDS: Final[tuple[ListKind, ...]] = get_args(ListKind)
FIELD_OF: Final[dict[ListKind, str]] = {
    "card": "card_id",
    "merchant": "merchant_id",
    "device": "device_id",
    "ip": "ip",
}
FOR_GOOD: Final = 2**62

Moment = Annotated[int, msgspec.Meta(ge=-FOR_GOOD, le=FOR_GOOD)]  # ms since the epoch, fit for an array


class ListEntry(msgspec.Struct, frozen=True, gc=False):
    """Whom a list names: a record of the `lists` topic, keyed by `list:kind:value`; one without value takes it off.

    `value` is an id, an address, or a range of addresses as `192.0.2.0/24`. From `expires_at` (ms since the epoch) on
    it does not count.
    """

    list: ListName
    kind: ListKind
    value: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""
    added_by: Annotated[str, msgspec.Meta(max_length=200)] = ""
    added_at: Moment = 0
    expires_at: Moment | None = None
    schema_version: int = 1

    @property
    def key(self) -> str:
        """The record's key."""
        return f"{self.list}:{self.kind}:{self.value}"


def checked(entry: ListEntry) -> ListEntry:
    """The entry, its address or range spelled as this project spells it. Raises ConfigError where it is none."""
    if entry.kind != "ip":
        return entry
    try:
        network = ipaddress.ip_network(entry.value, strict=True)
    except ValueError:
        raise ConfigError("The value is no IP address and no range of them such as 192.0.2.0/24; mend it.") from None
    single = network.prefixlen == network.max_prefixlen
    return msgspec.structs.replace(entry, value=str(network.network_address if single else network))


@dataclass(slots=True)
class _Ranges:
    """Ranges of addresses: by version and length of the prefix, until when each counts."""

    by_prefix: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)

    def add(self, network: Network, until_ms: int) -> None:
        self.by_prefix.setdefault((network.version, network.prefixlen), {})[int(network.network_address)] = until_ms

    def until(self, text: str) -> int:
        """Until when a range names the address; 0 if none does, or if it is no address."""
        try:
            address: Address = ipaddress.ip_address(text)
        except ValueError:
            return 0
        found, number, bits = 0, int(address), address.max_prefixlen
        for (version, length), networks in self.by_prefix.items():
            if version == address.version:
                found = max(found, networks.get(number >> (bits - length) << (bits - length), 0))
        return found


class Listed(Protocol):
    """What says whom a list names."""

    def named(self, name: ListName, facts: Facts, event_time: Times) -> Mask | None:
        """(n,) which payments a list names; None where it names none."""
        ...


class Lists:
    """All lists at one moment. Never changed: what changes is a new one.

    `version` rises with every change of the topic.
    """

    def __init__(self, entries: Iterable[ListEntry], version: int) -> None:
        """The entries are valid."""
        self.version = version
        self._exact: dict[ListName, dict[ListKind, dict[str, int]]] = {}
        self._ranges: dict[ListName, _Ranges] = {}
        for entry in entries:
            until_ms = FOR_GOOD if entry.expires_at is None else entry.expires_at
            if entry.kind == "ip":
                ranges = self._ranges.setdefault(entry.list, _Ranges())
                ranges.add(ipaddress.ip_network(entry.value), until_ms)
            else:
                self._exact.setdefault(entry.list, {}).setdefault(entry.kind, {})[entry.value] = until_ms

    def named(self, name: ListName, facts: Facts, event_time: Times) -> Mask | None:
        """(n,) which payments a list names; None where it names none."""
        found: Mask | None = None
        for kind, known in self._exact.get(name, {}).items():
            found = _joined(found, _counts(known, facts.field(FIELD_OF[kind]), event_time))
        if name in self._ranges:
            texts = list(facts.field("ip"))
            known = {text: self._ranges[name].until(text) for text in set(texts) if text is not None}
            found = _joined(found, _counts(known, texts, event_time))
        return found


NO_LISTS: Final = Lists((), 0)


def _counts(known: Mapping[str, int], texts: list[str | None], event_time: Times) -> Mask | None:
    """Where a known text still counts; None for nowhere. Nearly always nothing is known of any."""
    if known.keys().isdisjoint(texts):
        return None
    mask = np.array([known.get(text, 0) if text is not None else 0 for text in texts], np.int64) > event_time
    return mask if mask.any() else None


def _joined(one: Mask | None, other: Mask | None) -> Mask | None:
    if one is None or other is None:
        return other if one is None else one
    return one | other
