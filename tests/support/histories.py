"""Small histories that are hard on a feature builder, and files of them in every format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from features.catalog import DAY_MS, HOUR_MS
from features.event import Label, Payment
from features.history.fields import fields_of

MONDAY_MS = 1_750_032_000_000  # 2025-06-16 00:00 UTC
LONG_ID = "ä" * 128  # 256 bytes


def history(
    payments: int, *, seed: int = 1, entities: int = 12, days: int = 60, merchants: int | None = None
) -> tuple[list[Payment], list[Label]]:
    """Payments in log order, late and repeated ones among them, and labels in no order.

    Many times are equal, parties are often absent, ids are of all lengths; labels are repeated, reversed, and about
    payments that never were.
    """
    random = Random(seed)

    def party(kind: str, count: int = entities) -> str:
        number = random.randrange(count)
        return LONG_ID if number == 0 else f"{kind}{number}" * (1 + number % 7)

    def perhaps(text: str, share: float = 0.7) -> str | None:
        return text if random.random() < share else None

    made: list[Payment] = []
    for number in range(payments):
        if made and random.random() < 0.03:
            made.append(random.choice(made[-50:]))
            continue
        time_ms = MONDAY_MS + days * DAY_MS * number // payments // HOUR_MS * HOUR_MS
        if random.random() < 0.05:
            time_ms -= random.randrange(40 * DAY_MS)
        made.append(
            Payment(
                event_id=f"event-{number}",
                event_time=time_ms,
                card_id=party("card"),
                merchant_id=party("shop", merchants or entities),
                amount_minor=random.choice((0, 99, 499, 500, 1_000, random.randrange(10**9), 10**12)),
                currency=random.choice(("EUR", "SEK", "JPY")),
                device_id=perhaps(party("d")),
                ip=perhaps(random.choice(("", "10.0.0.1", "2001:db8::1"))),
                mcc=perhaps(random.choice(("5411", "0000", "12x4", "7995"))),
                country=perhaps(random.choice(("SE", "US", "åä"))),
                card_country=perhaps("SE"),
                channel=perhaps(random.choice(("pos", "ecom", "pigeon"))),
                terminal_id=perhaps(party("t")),
                account_id=perhaps(party("a")),
            )
        )
    labels = [_label(random.choice(made), random, payments) for _ in range(payments // 8)]
    labels += [random.choice(labels) for _ in range(payments // 40)] if labels else []
    return made, labels


def _label(about: Payment, random: Random, payments: int) -> Label:
    return Label(
        event_id=about.event_id if random.random() < 0.9 else f"nobody's-{random.randrange(payments)}",
        card_id=about.card_id,
        merchant_id=about.merchant_id,
        event_time=about.event_time,
        label="fraud" if random.random() < 0.8 else "genuine",
        labelled_at=about.event_time + random.choice((0, HOUR_MS, random.randrange(20) * DAY_MS)),
        source="analyst",
        account_id=about.account_id,
        terminal_id=about.terminal_id,
        device_id=about.device_id,
        ip=about.ip,
    )


def table_of(records: Sequence[Payment] | Sequence[Label], kind: type[Payment] | type[Label]) -> pa.Table:
    """Records as a table: text and int64."""
    return pa.table(
        {
            each.name: pa.array([getattr(record, each.name) for record in records], _type(each.is_whole))
            for each in fields_of(kind)
        }
    )


def _type(is_whole: bool) -> pa.DataType:
    return pa.int64() if is_whole else pa.string()


def write_parquet(path: Path, table: pa.Table) -> None:
    pq.write_table(table, path, row_group_size=1_000)


def write_csv(path: Path, table: pa.Table) -> None:
    pa_csv.write_csv(table, path)


def write_jsonl(path: Path, table: pa.Table) -> None:
    rows = ({name: value for name, value in row.items() if value is not None} for row in table.to_pylist())
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
