"""`--map`: a file of others gives what the same payments give in a file of ours, whatever its format and types."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.cli import main
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.errors import ConfigError
from features.event import Label, Payment
from features.history.fields import Refusals
from features.history.files import sources
from features.history.mapping import AS_NAMED, Columns, parse

DAY_MS = 86_400_000
WORDS = [
    "event_id=TX ID",
    "event_time=TX_DATETIME",
    "card_id=CUSTOMER",
    "merchant_id=TERMINAL",
    "terminal_id=TERMINAL",
    "amount_minor=TX_AMOUNT * 100",
    "currency='USD'",
    "label.label=TX_FRAUD",
    "label.labelled_at=TX_DATETIME + 7d",
    "label.source='chargeback'",
]


TEXTS = ["event_id=id", "card_id=id", "merchant_id=id", "event_time=at", "amount_minor=amount*100", "currency='EUR'"]


@pytest.fixture(scope="module")
def payments(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Payments of a few days: numbers for ids, whether each was fraud."""
    folder = tmp_path_factory.mktemp("history")
    write(Simulation(payments=3_000, seed=5, days=12, fraud_rate=0.03), folder)
    frauds = {json.loads(line)["event_id"] for line in (folder / LABELS_FILE).read_text().splitlines()}
    found = []
    for number, line in enumerate((folder / PAYMENTS_FILE).read_text().splitlines()):
        known = json.loads(line)
        found.append(
            {
                "event_id": number,
                "event_time": known["event_time"] // 1_000 * 1_000,
                "card": int(known["card_id"].removeprefix("card_")),
                "terminal": crc32(known["merchant_id"].encode()) % 200,
                "amount_minor": known["amount_minor"],
                "fraud": known["event_id"] in frauds,
            }
        )
    return found


def ours(payments: list[dict[str, Any]], folder: Path) -> tuple[Path, Path]:
    with (folder / "payments.jsonl").open("w") as to, (folder / "labels.jsonl").open("w") as labels:
        for each in payments:
            ids = {"event_id": str(each["event_id"]), "event_time": each["event_time"], "card_id": str(each["card"])}
            ids |= {"merchant_id": str(each["terminal"]), "terminal_id": str(each["terminal"])}
            to.write(json.dumps(ids | {"amount_minor": each["amount_minor"], "currency": "USD"}) + "\n")
            if each["fraud"]:
                said = {"label": "fraud", "labelled_at": each["event_time"] + 7 * DAY_MS, "source": "chargeback"}
                labels.write(json.dumps(ids | said) + "\n")
    return folder / "payments.jsonl", folder / "labels.jsonl"


def theirs(payments: list[dict[str, Any]], path: Path) -> Path:
    """The same under other names, in one file: ids as numbers, times and amounts as the format has them."""
    rows = [
        {
            "TX ID": each["event_id"],
            "TX_DATETIME": datetime.fromtimestamp(each["event_time"] / 1_000, UTC).replace(tzinfo=None),
            "CUSTOMER": each["card"],
            "TERMINAL": each["terminal"],
            "TX_AMOUNT": each["amount_minor"] / 100,
            "TX_FRAUD": int(each["fraud"]),
            "SCENARIO": None,
        }
        for each in payments
    ]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, default=datetime.isoformat) + "\n" for row in rows))
    return path


def built(out: Path, payments: Path, labels: Path, *words: str) -> pa.Table:
    options = [word for each in words for word in ("--map", each)]
    files = ["--payments", str(payments), "--labels", str(labels), "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(["features", "build", *files, *options])
    assert ended.value.code == 0
    return pq.read_table(out)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_foreign_file_gives_the_features_of_the_same_payments(
    payments: list[dict[str, Any]], tmp_path: Path, suffix: str
) -> None:
    expected = built(tmp_path / "ours.parquet", *ours(payments, tmp_path))
    foreign = theirs(payments, tmp_path / f"theirs{suffix}")
    found = built(tmp_path / "theirs.features.parquet", foreign, foreign, *WORDS)
    assert found.column_names == expected.column_names
    for name in expected.column_names:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(expected[name]), name)  # NaN equals NaN
    frauds = np.asarray(expected["merchant_frauds_30d"])
    assert np.nanmax(frauds) > 0, "no label was known to any payment"


def test_a_file_of_mappings_says_the_same(payments: list[dict[str, Any]], tmp_path: Path) -> None:
    tables: dict[str, list[str]] = {"payments": [], "labels": []}
    for word in WORDS:
        name, _, text = word.partition("=")
        tables["labels" if name.startswith("label.") else "payments"].append(
            f'{name.removeprefix("label.")} = """{text}"""'
        )
    file = tmp_path / "handbook.toml"
    file.write_text("".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in tables.items()))
    assert parse([str(file)]) == parse(WORDS)


def read(path: Path, mapped: Columns, kind: type[Payment | Label] = Payment) -> tuple[dict[str, list[Any]], Refusals]:
    [source] = sources(path, kind, mapped)
    refusals = Refusals(path, "payment")
    pieces = list(source.pieces(refusals))
    columns = {
        name: [each for piece in pieces for each in piece.columns[name].to_pylist()] for name in pieces[0].columns
    }
    return columns, refusals


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**9),
            st.integers(946_684_800, 4_000_000_000),
            st.sampled_from(["%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S+00:00", "ms"]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_amounts_and_times_of_texts_are_exact(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("texts") / "theirs.csv"
    ms = [1_000 * second for _, second, _ in rows]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["amount", "at", "id"])
        for minor, second, form in rows:
            at = 1_000 * second if form == "ms" else datetime.fromtimestamp(second, UTC).strftime(form)
            writer.writerow([f"{minor // 100}.{minor % 100:02}", at, "x"])
    columns, _ = read(path, parse(TEXTS))
    assert columns["amount_minor"] == [minor for minor, _, _ in rows]
    assert columns["event_time"] == ms


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_what_can_not_be_mapped_is_refused_by_row_and_reason(
    payments: list[dict[str, Any]], tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = theirs(payments[:20], tmp_path / f"theirs{suffix}")
    lines = foreign.read_text().splitlines()
    first = 1 if suffix == ".csv" else 0
    moment = datetime.fromtimestamp(payments[3]["event_time"] / 1_000, UTC).replace(tzinfo=None)
    text = str(moment) if suffix == ".csv" else moment.isoformat()
    assert text in lines[first + 3]
    lines[first + 3] = lines[first + 3].replace(text, "yesterday")
    foreign.write_text("\n".join(lines) + "\n")
    options = [word for each in WORDS for word in ("--map", each)]
    files = ["--payments", str(foreign), "--out", str(tmp_path / "out.parquet")]
    for more, status in (([], 2), (["--skip-bad"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(["features", "build", *files, *options, *more])
        assert ended.value.code == status
    said = capsys.readouterr()
    assert "row 4: column event_time has another type than it should" in said.err
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 19


def test_a_column_that_only_later_lines_have_is_read(
    payments: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("features.history.files.KEY_LINES", 3)
    path, _ = ours(payments[:50], tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[7] |= {"device_id": "d7", "address": "192.0.2.7"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns, _ = read(path, parse(["mcc='5411'", "ip=address"]))
    for name, value in (("device_id", "d7"), ("ip", "192.0.2.7")):
        assert columns[name] == [None] * 7 + [value] + [None] * 42


def test_an_amount_that_no_number_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text("id,at,amount\na,1600000000000,999999999999999\nb,1600000000000,1.25\n")
    columns, _ = read(path, parse(TEXTS))
    assert columns["amount_minor"] == [None, 125]


def test_of_a_flag_only_fraud_is_a_label(payments: list[dict[str, Any]], tmp_path: Path) -> None:
    foreign = theirs(payments, tmp_path / "theirs.parquet")
    columns, _ = read(foreign, parse(WORDS), Label)
    assert columns["event_id"] == [str(each["event_id"]) for each in payments if each["fraud"]]
    assert set(columns["label"]) == {"fraud"}


def test_fields_that_are_not_mapped_are_columns_of_their_own_names(
    payments: list[dict[str, Any]], tmp_path: Path
) -> None:
    path, _ = ours(payments, tmp_path)
    plain, _ = read(path, AS_NAMED)
    mapped, _ = read(path, parse(["mcc='5411'"]))
    assert set(mapped["mcc"]) == {"5411"}
    assert mapped["event_id"] == plain["event_id"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["amount=AMOUNT"], "--map amount: there is no such field; there are event_id, "),
        (["label.amount_minor=AMOUNT"], "--map label.amount_minor: there is no such field"),
        (["event_id=a * 2"], "event_id is a text"),
        (["amount_minor=a + 7d"], "amount_minor is no time"),
        (["amount_minor=a * b"], "a * b is none of COLUMN"),
        (["currency='US"], "is none of COLUMN"),
        (["/nowhere.toml"], "/nowhere.toml can't be read"),
    ],
)
def test_a_mapping_that_says_nothing_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("*", r"\*")) as caught:
        parse(words)
    assert str(caught.value).endswith(".")


def test_columns_that_are_missing_are_named(payments: list[dict[str, Any]], tmp_path: Path) -> None:
    foreign = theirs(payments[:5], tmp_path / "theirs.parquet")
    with pytest.raises(ConfigError, match="has no column TX_TIME, which event_time is mapped to"):
        read(foreign, parse([*WORDS, "event_time=TX_TIME"]))
    with pytest.raises(ConfigError, match="has no column event_time; map it with --map event_time=COLUMN"):
        read(foreign, parse(["event_id=TX ID"]))
