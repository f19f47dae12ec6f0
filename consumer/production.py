"""What production decided, from its topic, a dump of it, or a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from consumer.records import DecisionName
from consumer.streams import Stream, decoded
from features.errors import ConfigError
from models.policy import DECISIONS

ROWS: Final = 16_384
Told = tuple[str, str, str, float | None, Sequence[str]]
"""Event, card, decision, score, rules."""


def decisions_told(source: Path | Stream) -> Iterator[list[Told]]:
    """Decisions, some thousand at a time. Raises ConfigError for what is none, KafkaUnavailable."""
    return _of_table(source) if isinstance(source, Path) else _of_stream(source)


class _Line(msgspec.Struct, frozen=True, gc=False):
    """What the decisions topic has, and what `fraudline score` writes."""

    event_id: str
    card_id: str
    decision: DecisionName
    score: float | None
    rules: tuple[str, ...] = ()


def _of_stream(stream: Stream) -> Iterator[list[Told]]:
    for known in decoded(stream, _Line, "decision"):
        yield [(each.event_id, each.card_id, each.decision, each.score, each.rules) for _, each in known]


def _of_table(path: Path) -> Iterator[list[Told]]:
    names = ["event_id", "card_id", "decision", "score", "rules"]
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=names):
                texts = [batch.column(name).cast(pa.string()) for name in names[:3]]
                if any(each.null_count for each in texts) or set(texts[2].to_pylist()) - set(DECISIONS):
                    raise KeyError
                scores = batch.column("score").cast(pa.float32()).to_pylist()
                rules = [each or () for each in batch.column("rules").to_pylist()]
                yield list(zip(*(each.to_pylist() for each in texts), scores, rules, strict=True))
    except (pa.ArrowException, KeyError):
        raise ConfigError(
            f"{path} holds something else than decisions; give what the decisions topic has, or what score wrote."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}).") from None
