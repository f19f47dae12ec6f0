"""What reports and pictures of the peers ask of the results."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from bench.peers.catalog import EVERYBODY, FRAUDLINE, VARIANTS
from bench.peers.results import Results

Key = tuple[str, str]  # peer and variant
Found = dict[Key, dict[str, Any]]

EXACTLY_ONCE: Key = (FRAUDLINE.name, "exactly_once")


def entries_of(results: Results) -> Found:
    """What there is of each entry, in the order of the catalog; what the catalog has no more comes last."""
    order: list[Key] = [(peer.name, variant) for peer in EVERYBODY for variant in peer.variants]
    known = {(peer, variant): each for peer, of in results["peers"].items() for variant, each in of.items()}
    return {key: known[key] for key in (*order, *(known.keys() - set(order))) if key in known}


def title_of(key: Key) -> str:
    """Who that is, in a table."""
    peer, variant = key
    titles = {each.name: each.title for each in EVERYBODY}
    words: dict[str, str] = {str(name): text for name, text in VARIANTS.items()}
    if peer != FRAUDLINE.name:
        words["exactly_once"] = f"{VARIANTS['per_event']}, exactly once"
    return f"{titles.get(peer, peer)}, {words.get(variant, variant)}"


def middle(entry: dict[str, Any], name: str) -> float | None:
    """The median of `name` over an entry's saturation runs; None where there is none."""
    runs = entry.get("saturation", {}).get("runs", [])
    return median(each[name] for each in runs) if runs else None


def ratio(more: float | None, less: float | None) -> float | None:
    """One over the other; None where either is not known."""
    return None if more is None or not less else more / less


def cells(found: Found, rate: int | None = None) -> Iterator[tuple[Key, dict[str, Any]]]:
    """The cells of the open loop, of one rate if that is given."""
    for key, entry in found.items():
        for cell in entry.get("latency", {}).get("cells", []):
            if rate in (None, cell["rate"]):
                yield key, cell


def in_short(failure: str) -> str:
    """What failed, and the last thing that was said about it; the whole of it is in the results."""
    lines = [line.strip() for line in failure.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys((lines[0], lines[-1])))
