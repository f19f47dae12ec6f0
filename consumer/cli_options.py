"""Options that several commands have."""

# ruff: noqa: PLC0415  the decoder is imported when something is refused, so that `--help` answers at once
from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from features.errors import ConfigError

if TYPE_CHECKING:
    from features.history.mapping import Columns

EXIT_OF: Final = {"equal": 0, "different": 3, "unverifiable": 4}
"""The exit status for a verdict on what was decided; 1 and 2 are errors."""

ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings in TOML (default: FRAUDLINE_CONFIG, if set).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
CatalogName = Annotated[
    str, typer.Option("--catalog", metavar="NAME|FILE", help="A profile (default, handbook), or a catalog file.")
]
Mapped = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN|FILE",
        help="Where a field has another name in the files: event_time=TX_DATETIME, amount_minor='TX_AMOUNT * 100', "
        "label.labelled_at='TX_DATETIME + 7d'; repeatable; or a TOML file of these.",
    ),
]


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def columns_of(words: list[str] | None) -> Columns:
    """What `--map` says. Raises ConfigError."""
    from features.history.mapping import AS_NAMED, parse

    return parse(words) if words else AS_NAMED


def refuse_no_text(text: str | None, option: str) -> None:
    """Refuse bytes that are no text. Raises ConfigError, which quotes none of them."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{option} is not UTF-8.") from None


def refuse_card_number(text: str | None, option: str) -> None:
    """Refuse what is no text, and a text with a card number in it. Raises ConfigError, which quotes none of it."""
    from consumer.masking import holds_card_number

    refuse_no_text(text, option)
    if holds_card_number(text or ""):
        raise ConfigError(f"{option} holds what looks like a card number: leave it out.")


def refuse_no_token(text: str | None, option: str) -> None:
    """Refuse what is no text, and what can't be a card's token. Raises ConfigError, which quotes none of it."""
    from consumer.decode import looks_like_card_number

    refuse_no_text(text, option)
    if text and looks_like_card_number(text):
        raise ConfigError(f"{option} looks like a card number: give the card's token.")


def moment_ms(text: str | None, option: str) -> int | None:
    """What an option says of time, if it is given. Raises ConfigError."""
    return None if text is None else epoch_ms(text, option)


def epoch_ms(text: str, option: str) -> int:
    """An ISO 8601 time as ms since the epoch; without an offset it is UTC. Raises ConfigError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} is not an ISO 8601 time such as 2026-01-05T00:00:00Z.") from None
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000)
