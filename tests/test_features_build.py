"""`fraudline features build`: bit for bit what `features.offline.build` gives, from any format, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from consumer import cli
from consumer.decode import looks_like_card_number
from features import offline
from features.catalog import DEFAULT, HANDBOOK, Catalog
from features.errors import ConfigError
from features.event import Label, Payment, tags_of
from features.history import files, local
from features.history.fields import Refusals
from features.history.job import Job, Outcome
from features.history.spill import Scratch
from features.history.xxh3 import ABSENT, OK, TOO_SHORT_OR_LONG, hash_strings
from tests.support.histories import history, table_of, write_csv, write_jsonl, write_parquet

WRITERS: dict[str, Callable[[Path, pa.Table], None]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".jsonl": write_jsonl,
}
Run = Callable[..., Outcome]


def bits(values: npt.NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def expected(payments: list[Payment], labels: list[Label], catalog: Catalog = DEFAULT) -> offline.Offline:
    return offline.build(list(offline.interleaved(payments, labels)), catalog)


def assert_same(out: Path, payments: list[Payment], labels: list[Label], catalog: Catalog = DEFAULT) -> None:
    """The file has the payments in order, and exactly the features of the whole log folded at once."""
    table, known = pq.read_table(out), expected(payments, labels, catalog)
    assert table.schema.names == ["event_id", "card_id", "event_time", "repeated", *catalog.names]
    assert table.column("event_id").to_pylist() == [payment.event_id for payment in payments]
    assert table.column("card_id").to_pylist() == [payment.card_id for payment in payments]
    assert table.column("event_time").to_pylist() == [payment.event_time for payment in payments]
    assert table.column("repeated").to_pylist() == (~known.kept).tolist()
    assert not any(table.column(name).null_count for name in catalog.names)
    values = np.column_stack([table.column(name).to_numpy() for name in catalog.names])
    assert values.dtype == np.float32
    wrong = [name for at, name in enumerate(catalog.names) if bits(values[:, at]) != bits(known.values[:, at])]
    assert wrong == []


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Writes records to files of a format, builds, and leaves `features.parquet`."""

    def build(payments: list[Payment], labels: list[Label] | None, suffix: str = ".parquet", **options: Any) -> Outcome:
        paths = {"payments": tmp_path / f"payments{suffix}", "labels": tmp_path / f"labels{suffix}"}
        WRITERS[suffix](paths["payments"], table_of(payments, Payment))
        if labels is not None:
            WRITERS[suffix](paths["labels"], table_of(labels, Label))
        return local.build(
            Job(
                payments=paths["payments"],
                labels=None if labels is None else paths["labels"],
                out=tmp_path / "features.parquet",
                is_card_number=looks_like_card_number,
                **options,
            )
        )

    return build


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_every_format_gives_what_the_whole_log_gives(suffix: str, run: Run, tmp_path: Path) -> None:
    payments, labels = history(4_000)
    if suffix == ".csv":  # which can't tell an empty text from none
        payments = [each for each in payments if each.ip != ""]
        labels = [each for each in labels if each.ip != ""]
    outcome = run(payments, labels, suffix)
    assert (outcome.payments, outcome.labels, outcome.refused_payments) == (len(payments), len(labels), {})
    assert outcome.repeated > 50
    assert_same(tmp_path / "features.parquet", payments, labels)


def test_the_handbook_catalog_and_a_history_without_labels(run: Run, tmp_path: Path) -> None:
    payments, labels = history(1_500, seed=2)
    run(payments, labels, catalog=HANDBOOK)
    assert_same(tmp_path / "features.parquet", payments, labels, HANDBOOK)
    run(payments, None)
    assert_same(tmp_path / "features.parquet", payments, [])


@pytest.mark.parametrize("rows", [1, 65_536])
def test_a_label_counts_from_the_first_payment_that_is_not_before_it(
    rows: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ROWS", rows)
    payments, _ = history(40, entities=1, days=1, seed=3)
    payments.append(msgspec.structs.replace(payments[0], event_id="a late one"))
    at = payments[len(payments) // 2].event_time
    label = Label(
        event_id="x",
        card_id=payments[0].card_id,
        merchant_id=payments[0].merchant_id,
        event_time=payments[0].event_time,
        label="fraud",
        labelled_at=at,
        source="issuer",
    )
    run(payments, [label])
    frauds = pq.read_table(tmp_path / "features.parquet").column("card_frauds_30d").to_pylist()
    latest = np.maximum.accumulate([payment.event_time for payment in payments])
    assert frauds == (latest >= at).astype(float).tolist()


@pytest.mark.parametrize("jobs", [1, 3])
def test_little_memory_changes_nothing(jobs: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merchant of all payments is folded in segments, records and values go through files, ranges are many."""
    monkeypatch.setattr(files, "ROWS", 1_000)
    payments, labels = history(15_000, seed=4, entities=40, merchants=2)
    outcome = run(payments, labels, memory_mb=1, jobs=jobs)
    assert outcome.payments == len(payments)
    assert pq.read_metadata(tmp_path / "features.parquet").num_row_groups > 10
    assert_same(tmp_path / "features.parquet", payments, labels)


def test_a_folder_is_its_files_in_order_of_their_names(tmp_path: Path) -> None:
    payments, labels = history(900, seed=5)
    for number in range(3):
        for folder in ("payments", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        some = payments[300 * number : 300 * number + 300]
        write_jsonl(tmp_path / f"payments/{number}.jsonl", table_of(some, Payment))
        write_jsonl(tmp_path / f"labels/{number}.jsonl", table_of(labels[number::3], Label))
    out = tmp_path / "out.parquet"
    outcome = local.build(Job(tmp_path / "payments", tmp_path / "labels", out, looks_like_card_number))
    assert outcome.payments == 900
    assert_same(out, payments, [label for number in range(3) for label in labels[number::3]])
    write_csv(tmp_path / "payments/4.csv", table_of(payments, Payment))
    with pytest.raises(ConfigError, match="must hold files of one format"):
        local.build(Job(tmp_path / "payments", None, out, looks_like_card_number))


def test_an_empty_history_gives_an_empty_file(run: Run, tmp_path: Path) -> None:
    assert run([], []) == Outcome(features=len(DEFAULT.names))
    assert pq.read_table(tmp_path / "features.parquet").num_rows == 0


def test_the_file_says_which_catalog_it_is_of(run: Run, tmp_path: Path) -> None:
    run(history(10)[0], None)
    assert pq.read_schema(tmp_path / "features.parquet").metadata[b"fraudline.catalog"].decode() == DEFAULT.fingerprint


def test_numbers_may_be_timestamps_or_floats_and_text_may_be_encoded(tmp_path: Path) -> None:
    payments, _ = history(500, seed=6)
    table = table_of(payments, Payment)
    times = table.column("event_time").cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("us", "UTC"))
    table = table.set_column(1, "event_time", times)
    for name, type_ in (("amount_minor", pa.float64()), ("merchant_id", pa.large_string())):
        table = table.set_column(table.schema.names.index(name), name, table.column(name).cast(type_))
    table = table.set_column(2, "card_id", table.column("card_id").dictionary_encode())
    write_parquet(tmp_path / "payments.parquet", table.append_column("note", pa.array(range(len(payments)))))
    out = tmp_path / "out.parquet"
    local.build(Job(tmp_path / "payments.parquet", None, out, looks_like_card_number))
    assert_same(out, payments, [])


FAULTS: list[tuple[str, Any, str]] = [
    ("event_id", None, "missing_field"),
    ("event_id", "", "out_of_range"),
    ("card_id", "x" * 129, "out_of_range"),
    ("card_id", "4111 1111-1111 1111", "card_number"),
    ("event_time", 5, "out_of_range"),
    ("event_time", None, "missing_field"),
    ("amount_minor", -1, "out_of_range"),
    ("amount_minor", 10**12 + 1, "out_of_range"),
    ("currency", "EURO", "out_of_range"),
    ("currency", "XYZ", "unknown_currency"),
    ("currency", None, "missing_field"),
    ("country", "SWE", "out_of_range"),
    ("mcc", "541", "out_of_range"),
    ("ip", "1" * 46, "out_of_range"),
]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize(("column", "value", "reason"), FAULTS)
def test_a_bad_row_is_named_or_left_out(column: str, value: object, reason: str, suffix: str, tmp_path: Path) -> None:
    payments, labels = history(60, seed=7)
    table = table_of(payments, Payment)
    at = table.schema.names.index(column)
    cells = table.column(column).to_pylist()
    for row in (17, 40):
        cells[row] = value
    source, out = tmp_path / f"payments{suffix}", tmp_path / "out.parquet"
    WRITERS[suffix](source, table.set_column(at, column, pa.array(cells, table.schema.field(at).type)))
    write_parquet(tmp_path / "labels.parquet", table_of(labels, Label))
    job = {
        "payments": source,
        "labels": tmp_path / "labels.parquet",
        "out": out,
        "is_card_number": looks_like_card_number,
    }
    with pytest.raises(
        ConfigError, match=rf"payments{suffix} has 2 rows that are no payment \(row 18: column {column}"
    ) as e:
        local.build(Job(**job))  # type: ignore[arg-type]
    assert value is None or value == "" or str(value) not in str(e.value).replace(str(tmp_path), "")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(("out", ".out"))] == []
    outcome = local.build(Job(**job, skip_bad=True))  # type: ignore[arg-type]
    assert (outcome.payments, outcome.refused_payments) == (58, {reason: 2})
    assert_same(out, [each for row, each in enumerate(payments) if row not in (17, 40)], labels)


def test_bad_lines_and_bad_labels_are_counted_by_reason(tmp_path: Path) -> None:
    payments, labels = history(200, seed=8)
    write_jsonl(tmp_path / "payments.jsonl", table_of(payments, Payment))
    lines = (tmp_path / "payments.jsonl").read_bytes().splitlines()
    lines[3:3] = [b"", b"{", b"[1]", b'"\xff"', b'{"event_id": 3}', b'{"event_id": "e"}']
    (tmp_path / "payments.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    rows = table_of(labels, Label).to_pylist()
    rows[0]["label"], rows[1]["source"], rows[2]["labelled_at"] = "perhaps", "rumour", 0
    rows[3]["event_time"], rows[4]["card_id"] = rows[3]["labelled_at"] + 1, "4111111111111111"
    write_parquet(tmp_path / "labels.parquet", pa.Table.from_pylist(rows, table_of(labels, Label).schema))
    out = tmp_path / "out.parquet"
    job = Job(tmp_path / "payments.jsonl", None, out, looks_like_card_number)
    with pytest.raises(ConfigError, match=r"has 5 rows that are no payment \(row 5: is not one row"):
        local.build(job)
    outcome = local.build(
        Job(tmp_path / "payments.jsonl", tmp_path / "labels.parquet", out, looks_like_card_number, skip_bad=True)
    )
    assert outcome.refused_payments == {"malformed": 3, "wrong_type": 1, "missing_field": 1}
    assert outcome.refused_labels == {"out_of_range": 3, "future_event_time": 1, "card_number": 1}
    assert_same(out, payments, labels[5:])


def test_bad_rows_of_csv_keep_their_numbers(tmp_path: Path) -> None:
    payments = [each for each in history(100, seed=9)[0] if each.ip != ""]
    source, out = tmp_path / "payments.csv", tmp_path / "out.parquet"
    write_csv(source, table_of(payments, Payment))
    lines = source.read_text().splitlines()
    lines[5] = "too,few"
    lines[9] = _with_amount(lines[9], "many")
    lines[12] = lines[12].replace("event-", "x" * 130)
    source.write_text("\n".join(lines) + "\n")
    [piece] = files.Source(source, Payment).pieces(Refusals(source, "payment"))
    assert piece.rows.tolist() == [row for row in range(1, len(lines)) if row != 5]
    with pytest.raises(ConfigError, match=r"has 3 rows that are no payment \(row 5: is not one row"):
        local.build(Job(source, None, out, looks_like_card_number))
    lines[5] = lines[6]
    source.write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=r"has 2 rows that are no payment \(row 9: column amount_minor has another"):
        local.build(Job(source, None, out, looks_like_card_number))
    outcome = local.build(Job(source, None, out, looks_like_card_number, skip_bad=True))
    assert outcome.refused_payments == {"out_of_range": 1, "wrong_type": 1}


def _with_amount(line: str, amount: str) -> str:
    cells = line.split(",")
    cells[4] = amount
    return ",".join(cells)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("payments.parquet", None, "payments.parquet is not there"),
        ("payments.parquet", b"PAR0", "payments.parquet can't be read as Parquet"),
        ("payments.xls", b"", "must be a file that ends in .parquet, .csv or .jsonl"),
        ("payments.csv", b"event_id,card_id\n", "has no column event_time"),
        ("payments.csv", b"event_id,event_id\n", "names a column twice"),
        ("payments.csv", b"", "has no column event_id"),
    ],
)
def test_a_file_that_is_none_is_told_in_a_sentence(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        local.build(Job(tmp_path / name, None, tmp_path / "out.parquet", looks_like_card_number))


def test_a_column_of_another_type_is_told(tmp_path: Path) -> None:
    table = table_of(history(5)[0], Payment)
    for name, values in (("event_time", ["a"] * 5), ("card_id", [1] * 5), ("card_id", [["a"]] * 5)):
        write_parquet(tmp_path / "p.parquet", table.set_column(table.schema.names.index(name), name, pa.array(values)))
        with pytest.raises(ConfigError, match=f"column {name} has type .*, and should hold"):
            local.build(Job(tmp_path / "p.parquet", None, tmp_path / "out.parquet", looks_like_card_number))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    table = table_of(history(5)[0], Payment)
    broken = pa.array([b"\xff"] * 5, pa.binary()).view(pa.string())
    write_parquet(tmp_path / "p.parquet", table.set_column(2, "card_id", broken))
    with pytest.raises(ConfigError, match=r"p\.parquet can't be read as Parquet"):
        local.build(Job(tmp_path / "p.parquet", None, tmp_path / "out.parquet", looks_like_card_number))


def test_an_output_that_cannot_be_written_is_told(run: Run, tmp_path: Path) -> None:
    write_parquet(tmp_path / "p.parquet", table_of(history(5)[0], Payment))
    with pytest.raises(ConfigError, match=r"nowhere/out.parquet can't be written \(No such file or directory\)"):
        local.build(Job(tmp_path / "p.parquet", None, tmp_path / "nowhere/out.parquet", looks_like_card_number))


def test_the_command_builds_and_prints_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    payments, labels = history(300, seed=10)
    write_jsonl(tmp_path / "payments.jsonl", table_of(payments, Payment))
    write_jsonl(tmp_path / "labels.jsonl", table_of(labels, Label))
    (tmp_path / "catalog.toml").write_text('profile = "default"\ngroups = ["payment", "card.volume"]\n')
    out = tmp_path / "out.parquet"
    words = f"features build --payments {tmp_path}/payments.jsonl --labels {tmp_path}/labels.jsonl --out {out} --json"
    assert cli.exit_status(words.split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["payments"], told["labels"], told["features"]) == (300, len(labels), 95)
    assert_same(out, payments, labels)
    assert cli.exit_status([*words.split(), "--catalog", f"{tmp_path}/catalog.toml"]) == 0
    groups = ("payment", "card.volume")
    assert_same(out, payments, labels, Catalog(tuple(each for each in DEFAULT.features if each.group in groups)))
    capsys.readouterr()
    assert cli.exit_status(words.replace("payments.jsonl", "none.jsonl").split()) == 2
    assert "none.jsonl is not there" in capsys.readouterr().err


@given(st.lists(st.one_of(st.none(), st.text(max_size=300)), max_size=20))
def test_hashes_are_those_of_the_library(texts: list[str | None]) -> None:
    array = pa.array([None, "x", *texts], pa.string()).slice(2)
    hashes, faults = hash_strings(array, 0, 128)
    for text, found, fault in zip(texts, hashes.tolist(), faults.tolist(), strict=True):
        if text is None or len(text) > 128:
            assert (found, fault) == (0, ABSENT if text is None else TOO_SHORT_OR_LONG)
        else:
            assert (found % 2**64, fault) == (xxh3_64_intdigest(text.encode()), OK)


def test_a_tag_is_never_that_of_nobody() -> None:
    hashes = np.array([0, 1 << 32, 5, -(1 << 40)], np.int64)
    assert tags_of(hashes).tolist() == [0, 1, 5, 1]


def test_hashes_of_every_length() -> None:
    texts = ["".join(chr(33 + (7 * n + i) % 90) for i in range(n)) for n in range(129)]
    hashes, _ = hash_strings(pa.array(texts), 0, 128)
    assert [each % 2**64 for each in hashes.tolist()] == [xxh3_64_intdigest(text.encode()) for text in texts]


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=12), st.integers(0, 400))
def test_what_is_spilled_comes_back_by_part_in_order(
    tmp_path_factory: pytest.TempPathFactory, added: list[list[int]], memory_bytes: int
) -> None:
    scratch = Scratch(tmp_path_factory.mktemp("spill"), memory_bytes)
    spills = [scratch.spill(name, 4, 2, np.int64) for name in ("a", "b")]
    known: list[list[tuple[int, int]]] = [[] for _ in range(4)]
    for number, parts in enumerate(added):
        rows = np.array([(part, 100 * number + i) for i, part in enumerate(sorted(parts))], np.int64).reshape(-1, 2)
        for part, value in rows.tolist():
            known[part].append((part, value))
        for spill in spills:
            scratch.add(spill, rows, np.searchsorted(rows[:, 0], np.arange(5)))
            assert sum(each.held_bytes for each in spills) <= memory_bytes
    for spill in spills:
        assert [list(map(tuple, spill.part(part).tolist())) for part in range(4)] == known
        spill.drop()


def test_moments_of_payments_and_labels_decide_their_order() -> None:
    payments, labels = history(30, entities=2, days=1, seed=11)
    log = list(offline.interleaved(payments, labels))
    assert [each for each in log if isinstance(each, Payment)] == payments
    latest = 0
    waiting = sorted(label.labelled_at for label in labels)
    for each in log:
        if isinstance(each, Payment):
            latest = max(latest, each.event_time)
            assert not any(at <= latest for at in waiting)
        else:
            assert waiting.pop(0) == each.labelled_at
            assert each.labelled_at > latest or latest == 0
