"""What is declared of a guard: where it stands, what stands there without it, and which tests must then fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class Rotten(Exception):
    """The list no longer fits the tree: a guard's text is not there, or not once."""


@dataclass(frozen=True, slots=True)
class Guard:
    """One guard of the product, and how it is taken away.

    Attributes:
        name: what the product is without, in the table.
        promise: the invariant of the design (`1` to `5`) or the sentence that no longer holds.
        file: where it stands, from the root of the tree.
        text: its exact text, once in the file.
        instead: what the file has in its place.
        tests: pytest node ids, of each of which at least one case must fail.
        errors: names of exceptions that are a sign too, beside a failed assertion and an error of `features.errors`.
    """

    name: str
    promise: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]
    errors: tuple[str, ...] = ()

    def without(self, root: Path) -> str:
        """The file's text with the guard taken away. Raises Rotten."""
        whole = (root / self.file).read_text()
        found = whole.count(self.text)
        if found != 1:
            raise Rotten(f"{self.name}: {self.file} has the text {found} times and should have it once: {self.text!r}")
        return whole.replace(self.text, self.instead)
