"""Things that must never be seen: card numbers and secrets, in every guise in which they could slip out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote

CARD_NUMBERS = ("4000056655665556", "5555341244441115", "378734493671000", "6011000990139424")


def guises(canary: str) -> set[str]:
    """A canary as it is, and as JSON, a URL and base64 have it."""
    raw = canary.encode()
    return {
        canary,
        json.dumps(canary)[1:-1],
        quote(canary, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        raw.hex(),
    }


def leaks(text: str, secrets: Iterable[str] = ()) -> list[str]:
    """Which canaries stand in a text; card numbers also with separators in them, as on a card or at a table's edge."""
    bare = "".join(filter(str.isalnum, text))
    found = [number for number in CARD_NUMBERS if number in bare]
    return found + [secret for secret in secrets if any(guise in text for guise in guises(secret))]
