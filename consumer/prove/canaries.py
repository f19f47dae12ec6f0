"""Looks for what must never be seen: card numbers and secrets, in every guise in which they could slip out."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from consumer.prove.history import Canaries
from consumer.prove.processes import Seen
from consumer.settings import Settings, TopicSettings

SHORTEST = 6  # characters: a shorter secret stands in texts by chance
_KNOWN_NUMBER = "4111111111111111"  # the simulator's: the card networks' published test number


def secrets_of(settings: Settings) -> list[str]:
    """Every secret of the settings that is long enough to be looked for; of the Redis URL its password."""
    found = []
    for _, section in settings:
        for _, value in section:
            if isinstance(value, SecretStr):
                text = value.get_secret_value()
                found.append(unquote(urlsplit(text).password or "") if "://" in text else text)
    return [each for each in dict.fromkeys(found) if len(each) >= SHORTEST]


def guises(secret: str) -> set[str]:
    """A secret as it is, and as JSON, a URL, base64 and hexadecimal digits have it."""
    raw = secret.encode()
    return {
        secret,
        json.dumps(secret)[1:-1],
        quote(secret, safe=""),
        base64.b64encode(raw).decode().rstrip("="),
        raw.hex(),
    }


class Search:
    """Collects where something was found. What was found is never told, only where."""

    def __init__(self, canaries: Canaries, secrets: Iterable[str]) -> None:
        """Look for the canaries of a run, and for secrets."""
        numbers = (
            "".join(f"{digit}[^0-9A-Za-z]{{0,3}}" for digit in number)
            for number in (canaries.card_number, _KNOWN_NUMBER)
        )
        texts = sorted({guise for each in (canaries.secret, *secrets) for guise in guises(each)}, key=len)
        self._numbers = re.compile("|".join(numbers).encode())
        self._secrets = re.compile("|".join(map(re.escape, texts)).encode())
        self.found: list[str] = []
        self.looked_at: Counter[str] = Counter()

    def look(self, kind: str, text: str | bytes, where: str) -> None:
        """Look at one text of a kind, such as `log lines`."""
        raw = text.encode() if isinstance(text, str) else text
        self.looked_at[kind] += 1
        if self._numbers.search(raw):
            self.found.append(f"a card number stands in {where}")
        if self._secrets.search(raw):
            self.found.append(f"a secret stands in {where}")

    def look_at_records(self, seen: Iterable[Seen], topics: TopicSettings) -> None:
        """Look at what was published; of dead letters, which are records as they came, at the headers alone."""
        kinds = {topics.decisions: "decisions", topics.alerts: "alerts", topics.journal: "entries of the journal"}
        for each in seen:
            where = f"{each.topic}/{each.partition}/{each.offset}"
            if each.topic == topics.dead_letters:
                for name, content in each.headers:
                    self.look("headers of dead letters", content or b"", f"the header {name} of {where}")
            elif each.value is not None:
                self.look(kinds[each.topic], (each.key or b"") + b" " + each.value, where)
