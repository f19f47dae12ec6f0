"""Sizes that several tests and the soak hold the product to."""

from __future__ import annotations

from typing import Final

LOG_BYTES: Final = 16_384
"""A full log of one entity stays below it, however hot (docs/adr/0004); what is not committed comes on top."""
