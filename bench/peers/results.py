"""What was measured of the peers, kept in one file: runs of parts are merged by peer, variant and measurement."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final, Literal, get_args

Measurement = Literal["saturation", "latency", "kills"]
MEASUREMENTS: Final[tuple[Measurement, ...]] = get_args(Measurement)
RESULTS: Final = "results.json"

Results = dict[str, Any]


def load(path: Path) -> Results:
    """The file's results; empty ones where there is none.

    Raises:
        SystemExit: it holds something else.
    """
    if not path.exists():
        return {"occasions": {}, "peers": {}}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        message = f"{path} is no JSON ({error}); take it from the repository again, or delete it."
        raise SystemExit(message) from error
    if not isinstance(found, dict) or not {"occasions", "peers"} <= found.keys():
        message = f"{path} is no file of results of bench.peers; take it from the repository again, or delete it."
        raise SystemExit(message)
    return found


def merge(
    known: Results, peer: str, variant: str, what: Measurement, found: dict[str, Any], occasion: dict[str, Any]
) -> Results:
    """`known` with one measurement in place of an earlier one; occasions that nothing refers to any more are left out.

    `occasion` is when, where and by which command; those that are equal are kept once.
    """
    peers: dict[str, Any] = {
        name: {each: dict(of) for each, of in those.items()} for name, those in known["peers"].items()
    }
    occasions: dict[str, Any] = dict(known["occasions"])
    at = next((name for name, each in occasions.items() if each == occasion), None)
    if at is None:
        at = occasion["date"]
        while at in occasions:
            at += "+"
        occasions[at] = occasion
    peers.setdefault(peer, {}).setdefault(variant, {})[what] = _finite(found) | {"occasion": at}
    used = {
        of[name]["occasion"] for those in peers.values() for of in those.values() for name in MEASUREMENTS if name in of
    }
    return {"occasions": {name: each for name, each in occasions.items() if name in used}, "peers": peers}


def save(path: Path, results: Results) -> None:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    fresh.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    fresh.replace(path)


def _finite(value: Any) -> Any:
    """The same with None for every number that JSON can't hold: a latency that nobody knows."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
