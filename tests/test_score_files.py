"""`fraudline score` of whole histories: what the pipeline says, in every format, from topics, on Spark, and gone on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from consumer import cli, score_files
from consumer.replay import Record
from consumer.score_files import Asked, Work
from consumer.score_part import Model, parts_of, score_part
from consumer.score_topic import Limits, sent, spooled
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE, Simulation, write
from features.catalog import DEFAULT
from features.errors import BundleError, ConfigError, KafkaUnavailable
from features.event import Payment
from models.bundle import load
from models.bundle_writer import sign
from models.manifest import MANIFEST
from models.policy import Rule
from models.signature import PRIVATE_KEY, PUBLIC_KEY, make_keys, trust
from tests.services.kafka import KafkaBroker
from tests.services.reader import ReadCommitted
from tests.support.bundles import edit_manifest, make_bundle
from tests.support.histories import history as short_history
from tests.support.histories import table_of
from tests.support.pipeline import in_production

RULES = (
    Rule("big", "amount_minor > 30000", "review", "A large amount."),
    Rule("abroad", "country <> card_country", "review", "Abroad."),
    Rule("watched", "hour < 3", "review", "At night.", shadow=True),
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("score") / "bundle"
    make_bundle(folder, rules=RULES, review=0.5, block=0.8, trees=40, noise=0.4)
    return folder


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    write(Simulation(payments=3_000, seed=32, days=20, fraud_rate=0.03, duplicate=0.01), folder)
    return folder


@pytest.fixture(scope="module")
def expected(history: Path, bundle: Path) -> list[dict[str, Any]]:
    """What the pipeline decides."""
    return in_production(history, bundle)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group of some hundred payments, and each a part."""
    monkeypatch.setattr("features.history.files.BLOCK_BYTES", 100_000)
    monkeypatch.setattr("consumer.score_files.GROUPS", 1)


def asked(history: Path, bundle: Path, out: Path, **options: Any) -> Asked:
    return Asked(bundle, history / PAYMENTS_FILE, history / LABELS_FILE, out, **({"threads": 2} | options))


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        made = list(csv.DictReader(file))
    for row in made:
        row |= {"event_time": int(row["event_time"]), "score": float(row["score"])}
        row |= {name: row[name].split() for name in ("rules", "shadow_rules")}
    return made


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_history_is_decided_as_the_pipeline_decides(
    history: Path, bundle: Path, expected: list[dict[str, Any]], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    summary = score_files.score_files(asked(history, bundle, out), DEFAULT)
    rows = read(out)
    assert len(rows) == len(expected)
    assert summary.approve + summary.review + summary.block == len(rows)
    assert summary.payments == len(rows) + summary.repeated
    for row, told in zip(rows, expected, strict=True):
        assert row["score"] == pytest.approx(told["score"], rel=1e-7)  # as CSV writes a float32
        for name in ("event_id", "card_id", "event_time", "decision", "rules", "shadow_rules", "model"):
            assert row[name] == told[name]
        assert (row["bundle"], row["policy"]) == (told["digests"]["bundle"], told["digests"]["policy"])
    if suffix == ".parquet":
        assert [row["score"] for row in rows] == [told["score"] for told in expected]  # to the bit
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def signed(bundle: Path, tmp_path: Path) -> Path:
    """A copy of one's own, signed; its keys lie beside it."""
    copy = Path(shutil.copytree(bundle, tmp_path / "signed"))
    make_keys(tmp_path / "keys", None)
    sign(copy, tmp_path / "keys" / PRIVATE_KEY, None)
    return copy


def _same_in_other_bytes(bundle: Path) -> None:
    """What has the digest still, and is not what was signed."""
    raw = (bundle / MANIFEST).read_bytes()
    (bundle / MANIFEST).write_bytes(msgspec.json.encode(msgspec.json.decode(raw)))


@pytest.mark.parametrize("on_spark", [False, True])
def test_a_forged_bundle_is_refused_before_any_work(
    history: Path, signed: Path, tmp_path: Path, on_spark: bool
) -> None:
    out = tmp_path / ("out" if on_spark else "out.csv")
    made = asked(history, signed, out, trust=trust([tmp_path / "keys" / PUBLIC_KEY], required=True))
    edit_manifest(signed, version="forged")
    told: list[str] = []
    score: Any = score_files.score_files
    if on_spark:
        pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'fraudline[spark]'")
        from consumer.score_spark import score_spark  # noqa: PLC0415  after the skip

        score = score_spark
    with pytest.raises(BundleError, match="no signature of this"):
        score(made, DEFAULT, progress=lambda stage, _: told.append(stage))
    assert not told
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: make_bundle(path, seed=9), "is not signed"),
        (_same_in_other_bytes, "no signature of this"),
    ],
)
def test_a_bundle_is_held_to_its_signature_again_once_the_features_are_built(
    history: Path, signed: Path, tmp_path: Path, change: Any, says: str
) -> None:
    made = asked(history, signed, tmp_path / "out.csv", trust=trust([tmp_path / "keys" / PUBLIC_KEY], required=True))
    with pytest.raises(BundleError, match=says):
        score_files.score_files(made, DEFAULT, _changes(lambda: change(signed)))
    assert not made.out.exists()


def _changes(change: Any) -> Any:
    left = [change]

    def progress(_stage: str, _done: float) -> None:
        if left:
            left.pop()()

    return progress


def test_a_bundle_that_is_replaced_meanwhile_decides_nothing(history: Path, signed: Path, tmp_path: Path) -> None:
    """Its features may be others than those that were built."""
    made = asked(history, signed, tmp_path / "out.csv")
    with pytest.raises(BundleError, match="was changed while it was used"):
        score_files.score_files(made, DEFAULT, _changes(lambda: make_bundle(signed, seed=9)))
    assert not made.out.exists()


def test_one_process_decides_with_what_lies_there_now(history: Path, signed: Path, tmp_path: Path) -> None:
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    score_files.score_files(asked(history, signed, before), DEFAULT)
    digest = make_bundle(signed, seed=9).digest
    score_files.score_files(asked(history, signed, after), DEFAULT)
    assert {row["bundle"] for row in read(after)} == {digest}
    assert {row["bundle"] for row in read(before)} != {digest}


class _Stopped(Exception):
    pass


def _stops_at(share: float) -> Any:
    def progress(_stage: str, done: float) -> None:
        if done >= share:
            raise _Stopped

    return progress


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_run_that_was_stopped_goes_on(
    history: Path, bundle: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features are not built again, and no part is decided twice."""
    score_files.score_files(asked(history, bundle, tmp_path / f"whole{suffix}"), DEFAULT)
    here = asked(history, bundle, tmp_path / f"out{suffix}", work=tmp_path / "work", threads=1)
    with pytest.raises(_Stopped):
        score_files.score_files(here, DEFAULT, _stops_at(0.85))
    assert not (tmp_path / f"out{suffix}").exists()
    parts = set(json.loads((tmp_path / "work" / "state.json").read_text())["parts"])
    assert len(parts) >= 2
    decided: list[str] = []

    def noted(part: Any, model: Any, do: Any = score_files.score_part) -> dict[str, int]:
        decided.append(part.out.name)
        counts: dict[str, int] = do(part, model)
        return counts

    monkeypatch.setattr("consumer.score_files.score_part", noted)
    monkeypatch.setattr("features.history.local.build", lambda _job: pytest.fail("features were built again"))
    summary = score_files.score_files(here, DEFAULT)
    assert decided
    assert not parts & set(decided)
    assert (tmp_path / f"out{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert summary.approve + summary.review + summary.block == len(read(tmp_path / f"out{suffix}"))
    assert not (tmp_path / "work").exists()


def test_work_on_something_else_is_not_gone_on_with(history: Path, bundle: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(_Stopped):
        score_files.score_files(asked(history, bundle, tmp_path / "a.jsonl", work=work), DEFAULT, _stops_at(0.1))
    with pytest.raises(ConfigError, match="holds work with another out"):
        score_files.score_files(asked(history, bundle, tmp_path / "a.csv", work=work), DEFAULT)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="something else than work"):
        score_files.score_files(asked(history, bundle, tmp_path / "a.csv", work=tmp_path / "own"), DEFAULT)
    assert (tmp_path / "own" / "thesis.txt").exists()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_rows_that_are_none_are_put_aside_with_the_reason(bundle: Path, tmp_path: Path, suffix: str) -> None:
    payments, _ = short_history(300, seed=33)
    table = table_of(payments, Payment)
    bad: dict[int, tuple[str, str, str]]
    bad = {4: ("currency", "XYZ", "unknown_currency"), 100: ("card_id", "4111111111111111", "card_number")}
    bad[299] = ("merchant_id", "", "out_of_range" if suffix != ".csv" else "missing_field")
    for place, (column, value, _) in bad.items():
        cells = table.column(column).to_pylist()
        cells[place] = value
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(cells))
    source = tmp_path / f"payments{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, source)
    elif suffix == ".csv":
        pa_csv.write_csv(table, source)
        lines = source.read_text().splitlines(keepends=True)
        source.write_text("".join([*lines[:3], "\n", *lines[3:]]))  # a blank line is no row
    else:
        lines = [{name: cell for name, cell in row.items() if cell is not None} for row in table.to_pylist()]
        source.write_text("".join(json.dumps(line) + "\n" for line in lines) + "nonsense\n")
        bad[300] = ("", "nonsense", "malformed")
    rejects = tmp_path / "rejects.jsonl"
    made = Asked(bundle, source, None, tmp_path / "out.parquet", rejects=rejects)
    summary = score_files.score_files(made, DEFAULT)
    assert summary.payments == 297
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [each["row"] for each in told] == [place + 1 for place in bad]
    for each, (column, value, reason) in zip(told, bad.values(), strict=True):
        assert (each["file"], each["column"] or "", each["reason"]) == (str(source), column, reason)
        assert each["why"]
        if suffix == ".jsonl":
            assert value in each["record"]
        else:
            assert each["record"][column] == value
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="rows that are no payment"):
        score_files.score_files(Asked(bundle, source, None, tmp_path / "out.parquet"), DEFAULT)


def test_nothing_is_written_over_what_is_read_or_twice_to_one_place(
    history: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    for rejects in (history / PAYMENTS_FILE, history / LABELS_FILE):
        before = rejects.read_bytes()
        with pytest.raises(ConfigError, match="is what is read"):
            score_files.score_files(asked(history, bundle, out, rejects=rejects), DEFAULT)
        assert rejects.read_bytes() == before
    with pytest.raises(ConfigError, match="can't take both"):
        score_files.score_files(asked(history, bundle, out, rejects=out), DEFAULT)


def test_work_for_one_topic_is_not_sent_to_another(history: Path, bundle: Path, tmp_path: Path) -> None:
    made = asked(history, bundle, tmp_path / "out.jsonl", work=tmp_path / "work", into="here/one")
    with pytest.raises(_Stopped):
        score_files.score_files(made, DEFAULT, _stops_at(0.8))
    for _ in range(2):  # a refusal keeps no lock
        with pytest.raises(ConfigError, match="holds work with another out"):
            score_files.score_files(replace(made, into="here/other"), DEFAULT)
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o700


def test_what_a_file_can_not_tell_is_refused_while_a_topic_is_read(tmp_path: Path) -> None:
    class Given:
        def blocks(self) -> Any:
            early, late = ({"event_time": 1_700_000_000_000 + ms} for ms in (900, 1_100))
            values = [json.dumps(each).encode() for each in (early, late)] + [b"x" * 300, b"nonsense", None]
            yield [Record(1_700_000_000_000, False, b"k", value) for value in values], 0.5
            yield [Record(0, True, b"k", json.dumps(late).encode())], 1.0

    work = Work(tmp_path / "work", {})
    told: dict[str, Any] = {"has_labels": True, "progress": lambda _stage, _share: None}
    payments, labels, refused = spooled(Given(), work, Limits(256, 1_000), **told)  # type: ignore[arg-type]  # a part of a feed
    assert refused == {"future_event_time": 1, "too_large": 1}
    assert payments.read_bytes().splitlines() == [b'{"event_time": 1700000000900}', b"nonsense", b"null"]
    assert labels is not None
    assert len(labels.read_bytes().splitlines()) == 1
    assert spooled(None, work, Limits(256, 1_000), **told) == (payments, labels, refused)  # type: ignore[arg-type]  # not read again
    work.release()


def test_two_runs_do_not_share_their_work(history: Path, bundle: Path, tmp_path: Path) -> None:
    made = asked(history, bundle, tmp_path / "out.jsonl", work=tmp_path / "work")
    told: list[str] = []

    def meanwhile(_stage: str, share: float) -> None:
        if not told and share > 0.5:
            with pytest.raises(ConfigError, match="is in use by another run"):
                score_files.score_files(made, DEFAULT)
            told.append("refused")

    score_files.score_files(made, DEFAULT, meanwhile)
    assert told


def test_files_of_rejected_rows_are_the_owner_s_alone_whatever_they_were(
    history: Path, bundle: Path, tmp_path: Path
) -> None:
    rejects = tmp_path / "rejects.jsonl"
    rejects.touch(0o644)
    score_files.score_files(asked(history, bundle, tmp_path / "out.csv", rejects=rejects), DEFAULT)
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    assert rejects.read_bytes() == b""


def test_a_part_that_stands_alone_has_a_header(history: Path, bundle: Path, tmp_path: Path) -> None:
    made = asked(history, bundle, tmp_path / "out.csv", work=tmp_path / "work")
    with pytest.raises(_Stopped):
        score_files.score_files(made, DEFAULT, _stops_at(0.71))
    model = Model(bundle, load(bundle, DEFAULT).digest, DEFAULT)
    [part] = parts_of([tmp_path / "work" / "features.parquet"], tmp_path, ".csv", 4, alone=True)
    score_part(part, model)
    score_files.score_files(made, DEFAULT)
    assert part.out.read_bytes() == (tmp_path / "out.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("default::ResourceWarning", "default::DeprecationWarning:pyspark.*")
def test_spark_decides_what_one_machine_decides(
    history: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'fraudline[spark]'")
    from consumer.score_spark import score_spark  # noqa: PLC0415  after the skip
    from features.history.spark_tasks import Sizes  # noqa: PLC0415

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with (history / PAYMENTS_FILE).open() as file:
        lines = file.readlines()
    (tmp_path / "payments.jsonl").write_text("".join([*lines[:10], "{}\n", *lines[10:]]))
    options = {"payments": tmp_path / "payments.jsonl", "labels": history / LABELS_FILE, "bundle": bundle}
    here = Asked(**options, out=tmp_path / "here.parquet", rejects=tmp_path / "here.rejects")
    summary = score_files.score_files(here, DEFAULT)
    there = Asked(**options, out=tmp_path / "there", rejects=tmp_path / "there.rejects")
    sizes = Sizes(task_records=3_000, segment_rows=500, range_rows=700)
    assert score_spark(there, DEFAULT, master="local[2]", sizes=sizes) == summary
    assert (tmp_path / "there" / "_SUCCESS").exists()
    parts = [pq.read_table(path) for path in sorted((tmp_path / "there").glob("part-*.parquet"))]
    assert len(parts) > 3
    assert pa.concat_tables(parts).equals(pq.read_table(tmp_path / "here.parquet"))
    assert (tmp_path / "there.rejects").read_text() == (tmp_path / "here.rejects").read_text()
    with pytest.raises(ConfigError, match="must be an empty folder"):
        score_spark(there, DEFAULT, master="local[2]")


class _Sink:
    """Takes records, and is gone after some."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.taken: list[Record] = []
        self._most = most

    def send(self, records: Any) -> None:
        if len(self.taken) + len(records) > self._most:
            raise KafkaUnavailable("it is away")
        self.taken += records

    def poll(self) -> None:
        """Nothing comes back."""

    def flush(self) -> None:
        """All is taken."""


@pytest.mark.usefixtures("small_parts")
def test_decisions_that_were_acknowledged_are_not_sent_again(
    history: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.score_topic.BLOCK", 250)
    made = asked(history, bundle, tmp_path / "out.jsonl", work=tmp_path / "work")
    first, second = _Sink(most=1_100), _Sink()

    def send_to(sink: _Sink) -> Any:
        def send(parts: list[Path], work: Work) -> int:
            return sent(parts, work, sink, lambda _stage, _share: None)

        return send

    with pytest.raises(KafkaUnavailable):
        score_files.score_files(made, DEFAULT, then=send_to(first))
    summary = score_files.score_files(made, DEFAULT, then=send_to(second))
    score_files.score_files(asked(history, bundle, tmp_path / "whole.jsonl"), DEFAULT)
    whole = (tmp_path / "whole.jsonl").read_bytes().splitlines()
    together = [*first.taken, *second.taken]
    assert [record.value for record in together] == whole
    assert all(json.loads(record.value or b"")["card_id"].encode() == record.key for record in together)
    assert summary.sent == len(whole)
    assert first.taken
    assert not (tmp_path / "out.jsonl").exists()


@pytest.fixture
def topics(kafka: KafkaBroker, unique: str) -> dict[str, str]:
    names = {role: f"{unique}.{role}" for role in ("payments", "labels", "decided")}
    kafka.create_topics({names["payments"]: 3, names["labels"]: 1, names["decided"]: 2})
    return names


def test_a_topic_is_decided_into_a_topic(
    kafka: KafkaBroker,
    topics: dict[str, str],
    history: Path,
    bundle: Path,
    expected: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The history goes into topics, each record with its own time; what comes out is what files give."""
    monkeypatch.setenv("FRAUDLINE_KAFKA__BROKERS", kafka.bootstrap)
    paths = [f"--payments={history / PAYMENTS_FILE}", f"--labels={history / LABELS_FILE}"]
    into = [f"--into={topics['payments']}", f"--labels-into={topics['labels']}", "--keep-timestamps"]
    assert cli.exit_status(["replay", *paths, *into]) == 0
    given = [f"--bundle={bundle}", f"--payments-topic={topics['payments']}", f"--labels-topic={topics['labels']}"]
    given.append(f"--work={tmp_path / 'work'}")
    capsys.readouterr()
    assert cli.exit_status(["score", *given, f"--into={topics['decided']}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sent"] == len(expected)
    with ReadCommitted(kafka.bootstrap, [topics["decided"]]) as reader:
        seen = reader.read_to_end()
    assert len(seen) == len(expected)
    found = {json.loads(each.value or b"")["event_id"]: each for each in seen}
    for told in expected:
        row = found[told["event_id"]]
        assert row.key == told["card_id"].encode()
        assert json.loads(row.value or b"")["score"] == told["score"]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--payments a.jsonl", "give either --out FILE or --into TOPIC"),
        ("--out a.csv", "--out needs --payments or --payments-topic"),
        ("--payments a.jsonl --payments-topic p --out b.csv", "either --payments or --payments-topic"),
        ("--payments a.jsonl --labels-topic l --out b.csv", "--labels-topic belongs to --payments-topic"),
        ("--payments a.jsonl --from 2026-01-01 --out b.csv", "belong to --payments-topic"),
        ("--payments-topic p --out b --engine spark", "Spark reads and writes files only"),
        ("--payments a.jsonl --out b --work w --engine spark", "--work is for one machine"),
        ("--payments a.jsonl --out b.xlsx", "must end in .parquet, .csv or .jsonl"),
        ("--map event_id=x", "--map needs --payments"),
        ("--engine spark", "--engine needs --payments"),
        ("--skip-bad", "--skip-bad needs --payments"),
        ("--threads 2", "--threads needs --payments"),
        ("--json", "--json needs --payments"),
        ("--payments a.jsonl --out b.csv --as-of 2026-01-01", "--as-of is for lines"),
        ("--payments a.jsonl --out b.csv --spark-format csv", "need --engine spark"),
    ],
)
def test_what_does_not_fit_together_is_told(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.exit_status(["score", "--bundle=b", *words.split()]) == 2
    assert says in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written where the tests are run from."""
    monkeypatch.chdir(tmp_path)
