"""The Chromium that this machine has."""

from __future__ import annotations

import shutil

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> str | None:
    """Why there is no browser here, in one sentence; None when there is."""
    return None if CHROMIUM else "chromium not found on PATH."
