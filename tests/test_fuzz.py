"""Every fuzz target over its seeds, past findings and so many mutations of them, the same on every run."""

from __future__ import annotations

import pytest

from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS

SEED = "fraudline"


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_promise(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    assert seeds
    for file, data in seeds:
        _check(name, file, data)
    mutator = Mutator([data for _, data in seeds], target.words, target.most_bytes)
    for number, data in enumerate(mutator.inputs(SEED, target.turns)):
        _check(name, f"input {number}", data)


def _check(name: str, which: str, data: bytes) -> None:
    try:
        TARGETS[name].check(data)
    except Exception as error:
        error.add_note(f"{name}, {which}: {data[:300]!r}")
        raise
