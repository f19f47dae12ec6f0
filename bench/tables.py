"""What all parts of the report are made of: tables, numbers and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median


def verdict(
    what: str, value: float | None, target: float, *, unit: str = "", at_most: bool, digits: int | None = None
) -> str:
    """One line: the target, what was measured (to so many digits), and whether it was met."""
    bound = "at most" if at_most else "at least"
    aim = f"- {what}: {bound} {target:,.10g}{unit}."
    if value is None:
        return f"{aim} **Not measured.**"
    met = value <= target if at_most else value >= target
    shown = number(value) if digits is None else f"{value:.{digits}f}"
    return f"{aim} Measured {shown}{unit}: **{'met' if met else 'not met'}.**"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, its first column left and the others right aligned."""
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join(['---', *['---:'] * (len(head) - 1)])}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def number(value: float | None) -> str:
    """A measured number, with no more digits than it deserves."""
    if value is None:
        return "-"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> list[str]:
    """Least, median and largest."""
    return [number(min(values)), number(median(values)), number(max(values))]
