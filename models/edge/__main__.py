"""`fraudline-edge BUNDLE`: reads rows of feature values from standard input, as JSON lines, and writes their scores."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import EdgeError, Tier, load


def main(arguments: list[str] | None = None) -> int:
    """Score standard input. Exit status 1 where the bundle can't be used, 2 where a line can't."""
    parser = argparse.ArgumentParser(
        prog="fraudline-edge",
        description="Score rows of feature values (JSON objects, one a line) by a bundle of Fraudline.",
    )
    parser.add_argument("bundle", type=Path, help="the bundle's directory")
    parser.add_argument(
        "--payment-only", action="store_true", help="by the model that looks at the payment alone, not at its history"
    )
    options = parser.parse_args(arguments)
    try:
        model = load(options.bundle)
    except EdgeError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    try:
        for line in _scored(model.payment_only if options.payment_only else model.full, sys.stdin.buffer):
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except EdgeError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _scored(tier: Tier, lines: Iterable[bytes]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            scores = tier.score(tier.row(_object(line)))
        except EdgeError as error:
            raise EdgeError(f"In line {number}: {error}") from error
        yield json.dumps({"score": float(scores[0]), "decision": tier.decide(scores)[0]})


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # text that is not UTF-8 is a ValueError too
        raise EdgeError("this is not JSON; give one object a line.") from None
    if not isinstance(found, dict):
        raise EdgeError("this is no object; give one object a line.")
    return found


if __name__ == "__main__":
    sys.exit(main())
