"""What a fuzz target is, and what all of them hold against: an error is one sentence."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from consumer.masking import printable

CORPUS: Final = Path(__file__).parent / "corpus"
LONGEST_SENTENCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Target:
    """One parser under test.

    Attributes:
        name: of the target, and of the folder of its seeds and past findings in `corpus`.
        check: raises where these bytes break what is promised; anything that it raises is a finding.
        turns: how many mutated inputs the suite tries.
        words: what the language of its inputs is made of; mutations put them in.
        most_bytes: of an input.
    """

    name: str
    check: Callable[[bytes], None]
    turns: int
    words: tuple[bytes, ...] = ()
    most_bytes: int = 4_096

    def seeds(self) -> list[tuple[str, bytes]]:
        """Its committed inputs by file name: seeds, and what was once a finding."""
        return [(path.name, path.read_bytes()) for path in sorted((CORPUS / self.name).iterdir())]


def one_sentence(error: Exception) -> str:
    """The text of an error that people read, once it is sure that it is one sentence."""
    text = " ".join(str(error).split())
    assert 0 < len(text) <= LONGEST_SENTENCE, f"an error of {len(text)} characters"
    assert text.endswith("."), f"no sentence: {printable(text)}"
    return text


@cache
def _folder(_process: int) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fraudline-fuzz-")


def scratch(name: str, data: bytes) -> Path:
    """A file with these bytes, which the next one of the same name replaces."""
    path = Path(_folder(os.getpid()).name) / name
    with suppress(FileNotFoundError):
        path.unlink()
    path.write_bytes(data)
    return path
