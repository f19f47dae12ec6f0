"""What `docs/records.md` shows, read from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).parents[1] / "docs"
RECORDS: Final = (DOCS / "records.md").read_text(encoding="utf-8")
EXAMPLES: Final[dict[str, Any]] = {
    name: json.loads(text)
    for name, text in re.findall(r"^```json (\w+)\n(.*?)^```$", RECORDS, re.MULTILINE | re.DOTALL)
}
"""The example of each topic, by the topic's short name."""


def table(heading: str) -> list[list[str]]:
    """The rows of the table whose first column has that heading: the names in backquotes of each row's first cell."""
    (_, _, rest) = RECORDS.partition(f"\n| {heading} |")
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append(re.findall(r"`([^`]+)`", line.split(" | ")[0]))
    return rows


def section(title: str) -> str:
    """The text between a heading of the second level and the next."""
    return RECORDS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
