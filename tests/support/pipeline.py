"""What the processor's own pipeline decides of a history in files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from consumer.edge import score_stream
from consumer.simulator import LABELS_FILE, PAYMENTS_FILE


def in_production(history: Path, bundle: Path) -> list[dict[str, Any]]:
    """Decisions of the pipeline itself, payment after payment."""
    decisions, rejects = io.BytesIO(), io.BytesIO()
    with (history / PAYMENTS_FILE).open("rb") as payments:
        score_stream(
            bundle=bundle,
            payments=payments,
            decisions=decisions,
            rejects=rejects,
            labels=history / LABELS_FILE,
            as_of_ms=None,
        )
    return [json.loads(line) for line in decisions.getvalue().splitlines()]
