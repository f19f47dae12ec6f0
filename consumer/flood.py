"""A flood of bad records: where nothing that comes in is a payment, going on would only copy the topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from consumer.decode import Rejected
from features.errors import InputUnusable

SHOWN: Final = 3  # reasons


class Flood:
    """Counts the records of payments that were rejected in a row, in batches that were committed."""

    def __init__(self, most: int, labels_topic: str | None = None) -> None:
        """`most` may be rejected in a row, 0 for any number. Records of `labels_topic` don't count."""
        self._most, self._labels_topic = most, labels_topic
        self._reasons = Counter[str]()
        self._pending = Counter[str]()

    def look(self, rejected: Sequence[Rejected], *, any_valid: bool) -> None:
        """Look at a batch before anything of it is done: what it rejected, and whether it has a valid payment.

        Raises InputUnusable when the rejected ones in a row are too many with it.
        """
        self._pending = Counter() if any_valid else self._reasons.copy()
        if any_valid or not self._most:
            return
        self._pending.update(each.reason for each in rejected if each.message.topic() != self._labels_topic)
        count = self._pending.total()
        if count > self._most:
            shown = ", ".join(f"{reason} {number:,}" for reason, number in self._pending.most_common(SHOWN))
            raise InputUnusable(
                f"the last {count:,} records in a row are no payments ({shown}): look at the dead letters with "
                "fraudline dlq list and mend what sends them; to go on as it is start again, or raise "
                "processing.max_rejected_in_a_row"
            )

    def settle(self) -> None:
        """The batch was committed; one that was not is looked at again when it comes again."""
        self._reasons = self._pending
