"""`fraudline score`: lines in, decisions out in their order, from an empty state; what can't be decided says why."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import xgboost

from consumer.edge import score_stream
from consumer.simulator import History, Simulation, simulate
from features import offline
from features.catalog import DEFAULT
from features.event import Label, Payment
from models.bundle import Bundle
from models.manifest import MANIFEST, MODEL, POLICY
from models.policy import Rule, Thresholds
from tests.poison import CARD_NUMBER, POISON, VALID, payment
from tests.support.bundles import edit_manifest, make_bundle, replace_file

ROOT = Path(__file__).parents[1]
DEADLINE_S = 60.0
BAR = Thresholds(0.6, 0.9)


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    out: bytes
    err: str

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def start(*arguments: str | Path, bufsize: int = -1) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDLINE_")}
    command = [sys.executable, "-c", "from consumer.cli import main; main()", "score", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=bufsize)


def score(content: bytes, *arguments: str | Path) -> Ran:
    process = start(*arguments)
    try:
        out, err = process.communicate(content, DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    return Ran(process.returncode, out, err.decode())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("edge") / "bundle", review=BAR.review, block=BAR.block)


@pytest.fixture(scope="module")
def history() -> History:
    """Payments of which some come late, some twice and some damaged."""
    return simulate(Simulation(payments=500, seed=5, fraud_rate=0.04, late=0.02, duplicate=0.04, malformed=0.08))


@pytest.fixture(scope="module")
def lines(history: History) -> list[bytes]:
    return [value for _, value, _ in history.records()]


@pytest.fixture(scope="module")
def due(history: History) -> list[int]:
    """The lines that must be decided: undamaged, and the first of their payment."""
    first: dict[int, int] = {}
    for number, (row, damage) in enumerate(zip(history.row.tolist(), history.damage.tolist(), strict=True)):
        if not damage:
            first.setdefault(row, number)
    return sorted(first.values())


@pytest.fixture(scope="module")
def files(history: History, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Labels to read and a place for rejects."""
    folder = tmp_path_factory.mktemp("files")
    labels = folder / "labels.jsonl"
    labels.write_bytes(b"\n".join(value for _, value, _ in history.labels()) + b"\n\n")
    return labels, folder / "rejects.jsonl"


@pytest.fixture(scope="module")
def whole(bundle: Bundle, lines: list[bytes], files: tuple[Path, Path]) -> Ran:
    labels, rejects = files
    return score(b"\n".join(lines) + b"\n", "--bundle", bundle.path, "--labels", labels, "--rejects", rejects)


def test_every_payment_gets_one_decision_in_the_order_of_the_input(
    whole: Ran, lines: list[bytes], due: list[int]
) -> None:
    assert whole.status == 0, whole.err
    assert [decision["source"]["offset"] for decision in whole.decisions] == due
    assert [decision["event_id"] for decision in whole.decisions] == [
        json.loads(lines[number])["event_id"] for number in due
    ]
    assert {decision["tier"] for decision in whole.decisions} == {"full"}
    assert whole.out.endswith(b"\n")


def test_scores_are_those_of_the_model_on_the_offline_features(
    whole: Ran, bundle: Bundle, history: History, lines: list[bytes]
) -> None:
    """By another way: features of the whole history at once, and XGBoost's own prediction."""
    payments = [
        msgspec.json.decode(line, type=Payment)
        for line, damage in zip(lines, history.damage.tolist(), strict=True)
        if not damage
    ]
    labels = [msgspec.json.decode(value, type=Label) for _, value, _ in history.labels()]
    table = offline.build(offline.interleaved(payments, labels))
    known = table.values[:, [DEFAULT.names.index(name) for name in ("card_frauds_30d", "merchant_frauds_30d")]]
    assert known.any(), "some label was known to a later payment"
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bundle.path / MODEL)
    matrix = xgboost.DMatrix(table.values[table.kept], feature_names=list(DEFAULT.names), nthread=1)
    scores = booster.predict(matrix)
    assert len(set(scores.tolist())) > 10
    np.testing.assert_allclose([decision["score"] for decision in whole.decisions], scores, atol=1e-6)
    named = ["block" if s >= BAR.block else "review" if s >= BAR.review else "approve" for s in scores]
    assert [decision["decision"] for decision in whole.decisions] == named
    assert len(set(named)) > 1


def test_rejects_have_their_line_and_a_reason_and_nothing_of_the_payload(
    whole: Ran, history: History, files: tuple[Path, Path]
) -> None:
    raw = files[1].read_bytes()
    rejects = [json.loads(line) for line in raw.splitlines()]
    assert [reject["line"] for reject in rejects] == (np.flatnonzero(history.damage) + 1).tolist()
    assert all(reject.keys() == {"line", "stage", "reason", "detail"} for reject in rejects)
    assert all(reject["stage"] == "decode" and reject["detail"] for reject in rejects)
    assert len({reject["reason"] for reject in rejects}) >= 8
    for secret in (CARD_NUMBER.encode(), b"card_0", b"not JSON</payment>", b"XXQ", b"12.50"):
        assert secret not in raw
        assert secret not in whole.err.encode()


def test_standard_error_says_that_the_state_was_empty_and_what_came_out(
    whole: Ran, history: History, lines: list[bytes], due: list[int]
) -> None:
    began, ended = whole.err.splitlines()
    assert began.endswith("scoring with test 1; the state is empty at the start")
    rejected = int(np.count_nonzero(history.damage))
    stopped = {d["event_id"] for d in whole.decisions if d["decision"] != "approve"}
    frauds = history.fraud_event_ids
    assert ended == (
        f"fraudline score: {len(lines)} lines: {len(due)} decisions ({len(stopped)} not approved), "
        f"{rejected} rejected, {len(lines) - rejected - len(due)} repeated; "
        f"{len(frauds & stopped)} of {len(frauds)} frauds caught"
    )


def test_how_the_input_arrives_changes_nothing(
    whole: Ran, bundle: Bundle, lines: list[bytes], files: tuple[Path, Path]
) -> None:
    """Odd pieces through a slow pipe, Windows line ends and no end of the last line give the same bytes."""
    content = b"\r\n".join(lines)
    sizes = random.Random(7)
    process = start("--bundle", bundle.path, "--labels", files[0], "--rejects", os.devnull, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    with ThreadPoolExecutor(1) as reader:
        out = reader.submit(process.stdout.read)
        at = 0
        while at < len(content):
            size = sizes.choice((1, 7, 300, 5_000, 40_000))
            process.stdin.write(content[at : at + size])
            at += size
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()
    ours = [msgspec.json.decode(line) for line in out.result().splitlines()]
    theirs = whole.decisions
    assert len({decision["state"].pop("epoch") for decision in ours}) == 1  # drawn at random for each state
    assert len({decision["state"].pop("epoch") for decision in theirs}) == 1
    assert ours == theirs


def test_a_writer_that_waits_for_each_decision_gets_it(bundle: Bundle) -> None:
    process = start("--bundle", bundle.path, bufsize=0)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(3):
            process.stdin.write(payment(event_id=f"evt-{number}") + b"\n")
            assert json.loads(process.stdout.readline())["event_id"] == f"evt-{number}"
        out, _ = process.communicate(timeout=DEADLINE_S)
        assert out == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


Score = Callable[..., tuple[list[dict[str, Any]], list[dict[str, Any]], str]]


@pytest.fixture
def stream(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> Score:
    """Scores lines in this process: decisions, rejects, and what standard error says."""

    def run(
        content: bytes, *, as_of_ms: int | None = None, labels: Path | None = None, by: Path = bundle.path
    ) -> tuple[list[Any], list[Any], str]:
        out, rejects = io.BytesIO(), io.BytesIO()
        status = score_stream(
            bundle=by,
            payments=io.BytesIO(content),
            decisions=out,
            rejects=rejects,
            labels=labels,
            as_of_ms=as_of_ms,
        )
        assert status == 0
        parts = [[json.loads(line) for line in stream.getvalue().splitlines()] for stream in (out, rejects)]
        return parts[0], parts[1], capsys.readouterr().err

    return run


def test_every_bad_record_is_rejected_for_its_own_reason(stream: Score) -> None:
    """Every one that can stand on a line; the valid payment behind each is decided."""
    poison = [each for each in POISON if each.value is None or b"\n" not in each.value]
    content = b"\n".join(
        (each.value or b"") + b"\n" + payment(event_id=f"after-{number}") for number, each in enumerate(poison)
    )
    decisions, rejects, _ = stream(content)
    assert [decision["event_id"] for decision in decisions] == [f"after-{number}" for number in range(len(poison))]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [
        (2 * number + 1, each.reason) for number, each in enumerate(poison)
    ]


def test_payments_after_as_of_are_rejected_and_without_it_none_is(stream: Score) -> None:
    now_ms = VALID["event_time"]
    content = b"\n".join(payment(event_id=f"evt-{shift}", event_time=now_ms + shift) for shift in (-1, 0, 1, 10**9))
    decisions, rejects, _ = stream(content, as_of_ms=now_ms)
    assert [decision["event_id"] for decision in decisions] == ["evt--1", "evt-0"]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [
        (3, "future_event_time"),
        (4, "future_event_time"),
    ]
    decisions, rejects, _ = stream(content)
    assert len(decisions) == 4
    assert rejects == []


def test_no_input_is_no_error(stream: Score) -> None:
    decisions, rejects, said = stream(b"")
    assert (decisions, rejects) == ([], [])
    assert "0 lines: 0 decisions (0 not approved), 0 rejected, 0 repeated" in said


def test_blank_lines_count_and_are_rejected(stream: Score) -> None:
    decisions, rejects, _ = stream(b"\n" + payment() + b"\n\r\n  \n")
    assert [decision["source"]["offset"] for decision in decisions] == [1]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [(1, "empty"), (3, "empty"), (4, "not_json")]


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_a_line_of_a_megabyte_is_rejected_and_the_next_is_decided(stream: Score, ending: bytes) -> None:
    long = payment(event_id="long", unknown="x" * 1_000_000)
    decisions, rejects, _ = stream(payment() + b"\n" + long + b"\n" + payment(event_id="evt-2") + b"\n" + long + ending)
    assert [decision["event_id"] for decision in decisions] == ["evt-1", "evt-2"]
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [(2, "too_large"), (4, "too_large")]


def test_a_repeated_event_is_decided_once_wherever_it_lies(stream: Score) -> None:
    far = [payment(event_id="evt-1")] + [payment(event_id=f"other-{number}") for number in range(100)]
    decisions, rejects, said = stream(b"\n".join([*far, payment(event_id="evt-1"), payment(event_id="evt-2")]))
    assert [decision["event_id"] for decision in decisions].count("evt-1") == 1
    assert decisions[-1]["event_id"] == "evt-2"
    assert rejects == []
    assert "0 rejected, 1 repeated" in said


def label(event_id: str, at_ms: int, verdict: str = "fraud") -> bytes:
    known = {"event_id": event_id, "label": verdict, "labelled_at": VALID["event_time"] + at_ms, "source": "analyst"}
    return json.dumps({name: VALID[name] for name in ("card_id", "merchant_id", "event_time")} | known).encode()


@pytest.fixture(scope="module")
def by_frauds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that reviews what a card with a known fraud pays, and nothing else."""
    rule = Rule("known", "card_frauds_30d >= 1", "review", "The card has a known fraud.")
    return make_bundle(tmp_path_factory.mktemp("frauds") / "bundle", review=1.0, block=None, rules=(rule,)).path


def test_a_label_is_known_to_the_payments_from_its_time_on_and_until_it_is_reversed(
    stream: Score, by_frauds: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_bytes(b"\n".join([label("evt-0", 200, "genuine"), b"", label("evt-0", 100), label("late", 10_000)]))
    times = (0, 99, 100, 50, 199, 200, 201)  # the one of 50 comes late: the label lies before it in the log
    content = [
        payment(event_id=f"evt-{number}", event_time=VALID["event_time"] + at) for number, at in enumerate(times)
    ]
    content.insert(2, payment(event_id="refused", event_time=VALID["event_time"] + 150, currency="XXQ"))
    decisions, rejects, said = stream(b"\n".join(content), labels=labels, by=by_frauds)
    verdicts = [decision["decision"] for decision in decisions]
    assert verdicts == ["approve", "approve", "review", "review", "review", "approve", "approve"]
    assert [decision["source"]["offset"] for decision in decisions] == [0, 1, 3, 4, 5, 6, 7]
    assert [reject["line"] for reject in rejects] == [3]
    assert "8 lines: 7 decisions (3 not approved), 1 rejected, 0 repeated; 0 of 0 frauds caught" in said


def test_any_number_of_labels_may_become_known_between_two_payments(
    stream: Score, by_frauds: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_bytes(b"\n".join(label(f"old-{number}", number) for number in range(1_500)))
    content = [payment(event_id=f"evt-{at}", event_time=VALID["event_time"] + at) for at in (0, 2_000)]
    decisions, _, _ = stream(b"\n".join(content), labels=labels, by=by_frauds)
    assert [decision["decision"] for decision in decisions] == ["review", "review"]
    assert decisions[1]["state"]["sequence"] - decisions[0]["state"]["sequence"] == 1_500


def _missing(path: Path) -> None:
    shutil.rmtree(path)


def _truncated(path: Path) -> None:
    (path / MODEL).write_bytes((path / MODEL).read_bytes()[:-100])


def _tampered(path: Path) -> None:
    (path / POLICY).write_text((path / POLICY).read_text().replace("0.6", "0.7"))


def _forged(path: Path) -> None:
    """A damaged model that the manifest vouches for: it may crash the process that loads it."""
    model = bytearray((path / MODEL).read_bytes())
    model[len(model) // 2 : len(model) // 2 + 64] = bytes(64)
    replace_file(path, MODEL, bytes(model))


def _pickled(path: Path) -> None:
    replace_file(path, MODEL, b"\x80\x04cos\nsystem\n")


def _later_version(path: Path) -> None:
    edit_manifest(path, schema_version=99)


def _other_catalog(path: Path) -> None:
    edit_manifest(path, catalog_fingerprint="0" * 64)


def _no_manifest(path: Path) -> None:
    (path / MANIFEST).write_bytes(b"{")


@pytest.mark.parametrize(
    "damage",
    [_missing, _truncated, _tampered, _forged, _pickled, _later_version, _other_catalog, _no_manifest],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_a_bundle_that_can_not_be_trusted_is_one_line_and_exit_1(
    damage: Callable[[Path], None], bundle: Bundle, tmp_path: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    damage(copy)
    ran = score(payment() + b"\n", "--bundle", copy)
    assert ran.status == 1
    assert ran.out == b""
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert str(copy) in ran.err
    assert "Traceback" not in ran.err


def test_labels_that_can_not_be_read_are_one_line_and_exit_2(bundle: Bundle, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_bytes(b'{"event_id": "canary-9","label":"maybe"}\n')
    ran = score(payment() + b"\n", "--bundle", bundle.path, "--labels", labels)
    assert (ran.status, ran.out) == (2, b"")
    assert ran.err == f"error: {labels} line 1 is no label that can be used (out_of_range): mend or remove it\n"


def test_a_reader_that_goes_away_ends_it_quietly(bundle: Bundle) -> None:
    process = start("--bundle", bundle.path, "--rejects", os.devnull, bufsize=0)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with suppress(BrokenPipeError):
        process.stdin.write(b"\n".join(payment(event_id=f"evt-{number}") for number in range(2_000)))
    process.stdin.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(DEADLINE_S) == 1
    assert "Traceback" not in said
    assert "error" not in said
