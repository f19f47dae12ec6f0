"""What production decided, from its topic, a dump of it, or a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from consumer.certificate.streams import Stream
from consumer.records import Decision
from features.errors import ConfigError
from models.policy import DECISIONS

ROWS: Final = 16_384
Told = tuple[str, str, str, float | None, Sequence[str]]
"""Event, card, decision, score, rules."""


def decisions_told(source: Path | Stream) -> Iterator[list[Told]]:
    """Decisions, some thousand at a time. Raises ConfigError for what is none, KafkaUnavailable."""
    return _of_table(source) if isinstance(source, Path) else _of_stream(source)


def _of_stream(stream: Stream) -> Iterator[list[Told]]:
    decode = msgspec.json.Decoder(Decision).decode
    for _, values in stream.values():
        try:
            known = list(map(decode, values))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _nothing_of_ours(stream.topic) from None
        yield [(each.event_id, each.card_id, each.decision, each.score, each.rules) for each in known]


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
        raise _nothing_of_ours(str(path)) from None
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}).") from None


def _nothing_of_ours(where: str) -> ConfigError:
    return ConfigError(f"{where} holds something else than decisions; give what the decisions topic has.")
