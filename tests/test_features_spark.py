"""`fraudline features build --engine spark`, on a local Spark: bit for bit what one machine gives."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumer import cli
from consumer.decode import looks_like_card_number
from features.errors import ConfigError
from features.event import Label, Payment
from features.history import local
from features.history.job import Job
from tests.support.histories import history, table_of, write_jsonl, write_parquet

pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'fraudline[spark]'")

from pyspark.sql import SparkSession  # noqa: E402  after the skip

from features.history import spark as engine  # noqa: E402
from features.history.spark_tasks import Sizes  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),  # a Java machine has to warm up
    pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning:pyspark.*"),
]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[2]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()


def read_folder(out: Path) -> pa.Table:
    """The files of an output in the order of their names."""
    assert (out / "_SUCCESS").exists()
    return pa.concat_tables([pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))])


def same(a: pa.Table, b: pa.Table) -> bool:
    """Whether two tables have the same bits, NaN included."""
    assert a.schema.equals(b.schema, check_metadata=True)
    for name, kind in zip(a.schema.names, a.schema.types, strict=True):
        left, right = a.column(name).combine_chunks(), b.column(name).combine_chunks()
        if pa.types.is_float32(kind):
            left, right = left.view(pa.int32()), right.view(pa.int32())
        if not left.equals(right):
            return False
    return True


def test_spark_gives_what_one_machine_gives(tmp_path: Path) -> None:
    """Many row groups, segments and ranges; late, repeated and bad payments."""
    payments, labels = history(6_000, seed=21, entities=30, merchants=2)
    bad = payments[:]
    bad[1_500:1_500] = [Payment("", 0, "", "", -1, "?")] * 3
    write_parquet(tmp_path / "payments.parquet", table_of(bad, Payment))
    write_parquet(tmp_path / "labels.parquet", table_of(labels, Label))
    paths = (tmp_path / "payments.parquet", tmp_path / "labels.parquet")
    here = local.build(Job(*paths, tmp_path / "here.parquet", looks_like_card_number, skip_bad=True))
    job = Job(*paths, tmp_path / "there", looks_like_card_number, skip_bad=True)
    there = engine.build(job, sizes=Sizes(task_records=3_000, segment_rows=500, range_rows=700))
    assert there == here
    assert here.refused_payments == {"out_of_range": 3}
    assert len(list((tmp_path / "there").glob("part-*"))) == 9
    assert same(pq.read_table(tmp_path / "here.parquet"), read_folder(tmp_path / "there"))


def test_the_command_on_spark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    payments, labels = history(500, seed=22)
    write_jsonl(tmp_path / "payments.jsonl", table_of(payments, Payment))
    write_jsonl(tmp_path / "labels.jsonl", table_of(labels, Label))
    words = [
        "features",
        "build",
        f"--payments={tmp_path}/payments.jsonl",
        f"--labels={tmp_path}/labels.jsonl",
        "--json",
    ]
    assert cli.exit_status([*words, f"--out={tmp_path}/here"]) == 0
    here = capsys.readouterr().out
    assert cli.exit_status([*words, f"--out={tmp_path}/there", "--engine=spark"]) == 0
    assert capsys.readouterr().out == here
    assert same(pq.read_table(tmp_path / "here"), read_folder(tmp_path / "there"))
    assert cli.exit_status([*words, f"--out={tmp_path}/there", "--engine=spark"]) == 2
    assert "there must be an empty folder" in capsys.readouterr().err


def test_spark_refuses_what_one_machine_refuses(tmp_path: Path) -> None:
    payments, _ = history(2_500, seed=23)
    payments[1_200] = msgspec.structs.replace(payments[1_200], currency="XYZ")
    payments[2_400] = msgspec.structs.replace(payments[2_400], event_id="")
    write_parquet(tmp_path / "payments.parquet", table_of(payments, Payment))
    for out, build in (("here", local.build), ("there", engine.build)):
        with pytest.raises(ConfigError, match=r"2 rows that are no payment \(row 1,201: column currency is not"):
            build(Job(tmp_path / "payments.parquet", None, tmp_path / out, looks_like_card_number))
    (tmp_path / "payments.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="can't be read as Parquet"):
        engine.build(Job(tmp_path / "payments.parquet", None, tmp_path / "more", looks_like_card_number))


def test_an_empty_history_gives_a_finished_folder(tmp_path: Path) -> None:
    write_parquet(tmp_path / "payments.parquet", table_of([], Payment))
    engine.build(Job(tmp_path / "payments.parquet", None, tmp_path / "out", looks_like_card_number))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["_SUCCESS"]
