"""What commands print: titles are whole, nothing reads as Python writes it, and an empty table says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer.cli import exit_status
from consumer.cli_output import print_mapping, print_table


def test_an_error_does_not_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('"\\u001b[2Jx" = 1\n')
    assert exit_status(["config", "show", "--config", str(policy)]) == 2
    told = capsys.readouterr().err
    assert r"\x1b[2Jx" in told
    assert told[:-1].isprintable()


def test_a_title_that_is_longer_than_its_table_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Built /srv/data/of/ours/history/features.parquet", ("a",), [(1,)], as_json=False)
    assert "Built /srv/data/of/ours/history/features.parquet\n" in capsys.readouterr().out


def test_a_table_without_rows_says_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Changes", ("time", "who"), [], as_json=False)
    assert capsys.readouterr().out.split() == ["Changes", "none"]


def test_values_are_written_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"signed_by": None, "sent_again": False, "whole": True, "left_out": ["a", "b"], "n": 1234}
    print_mapping("Bundle", values, as_json=False)
    out = capsys.readouterr().out
    for shown in ("no", "yes", "a, b", "1,234"):
        assert shown in out
    for python in ("None", "False", "True", "["):
        assert python not in out


def test_an_action_that_nobody_can_take_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(["audit", "list", "--action", "nosuch"]) == 2
    assert "--action is none of model.promote" in capsys.readouterr().err
