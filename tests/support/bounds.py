"""Sizes that several tests and the soak hold the product to."""

from __future__ import annotations

from itertools import islice
from typing import Final

from tests.services.redis import RedisServer

LOG_BYTES: Final = 16_384
"""A full log of one entity stays below it, however hot (docs/adr/0004); what is not committed comes on top."""
_ASKED: Final = 5_000  # keys at a time
_PATIENCE_S: Final = 5.0


def longest_log(redis: RedisServer, namespace: str) -> int:
    """Bytes of the longest log of an entity. Raises ValueError: there is none."""
    longest = 0
    with redis.client(timeout_s=_PATIENCE_S) as client:
        keys = client.scan_iter(match=f"{namespace}:*:[cmatdi]:*", count=_ASKED)
        while some := list(islice(keys, _ASKED)):
            with client.pipeline(transaction=False) as pipeline:
                for key in some:
                    pipeline.strlen(key)
                longest = max(longest, *pipeline.execute())
    if not longest:
        message = f"There is no log of an entity in {namespace}."
        raise ValueError(message)
    return longest
