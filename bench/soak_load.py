"""The load of a soak: payments on a schedule without end, a part of them of cards that nobody has seen, and labels.

They are those of a simulated history, over and over, each time with new event ids and dated when they are due. Run
`python -m bench.soak_load --help`; it writes the sidecar of `bench.loadgen` and prints one JSON line at the end.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import Producer

from bench.loadgen import Record, send_on_schedule

TEMPLATES: Final = 100_000
NEW_EVERY: Final = 10  # one payment in ten is of a card that this round of the history brings
LABEL_EVERY: Final = 50
LABEL_AFTER: Final = 5_000  # payments later its label comes
LABELLED: Final = ("merchant_id", "device_id", "terminal_id", "account_id", "ip")


class Template(NamedTuple):
    """A payment without its event id, its time and its card; `named` is what a label says besides."""

    card: bytes
    rest: bytes
    named: bytes


def templates(path: Path, count: int = TEMPLATES) -> list[Template]:
    """The first payments of a history."""
    found = []
    with path.open("rb") as file:
        for line in file:
            fields = orjson.loads(line)
            card = fields.pop("card_id").encode()
            del fields["event_id"], fields["event_time"]
            named = {name: fields[name] for name in LABELLED if fields.get(name) is not None}
            found.append(Template(card, orjson.dumps(fields)[1:], orjson.dumps(named)[1:]))
            if len(found) == count:
                break
    return found


class Endless(Sequence[Record]):
    """`count` payments, each made when it is asked for; to be asked for once, in order.

    Args:
        made_of: the templates.
        count: how many payments there are.
        label: takes the key and value of a label.
        clock_ms: tells Unix time.
    """

    def __init__(
        self,
        made_of: Sequence[Template],
        count: int,
        label: Callable[[bytes, bytes], None],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._made_of, self._count, self._label, self._clock_ms = made_of, count, label, clock_ms
        self.labels = 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        """Payment `index`, dated now."""
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        now_ms = self._clock_ms()
        if index % LABEL_EVERY == 0 and index >= LABEL_AFTER:
            self._tell(index - LABEL_AFTER, now_ms)
        template, card = self._made_of[index % len(self._made_of)], self.card(index)
        value = b'{"event_id":"s-%x","event_time":%d,"card_id":"%s",%s' % (index, now_ms, card, template.rest)
        return card, value

    def card(self, index: int) -> bytes:
        """Who pays."""
        own = self._made_of[index % len(self._made_of)].card
        return own if index % NEW_EVERY else b"%s-%d" % (own, index // len(self._made_of))

    def _tell(self, index: int, now_ms: int) -> None:
        card, template = self.card(index), self._made_of[index % len(self._made_of)]
        verdict = b"fraud" if index % (4 * LABEL_EVERY) == 0 else b"genuine"
        value = b'{"event_id":"s-%x","event_time":%d,"labelled_at":%d,"label":"%s","source":"issuer","card_id":"%s",%s'
        self._label(card, value % (index, now_ms - 1_000, now_ms, verdict, card, template.named))
        self.labels += 1


def card_numbers(made_of: Sequence[Template], indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(n,) a number for the card of each payment, equal for equal cards."""
    known: dict[bytes, int] = {}
    own = np.array([known.setdefault(each.card, len(known)) for each in made_of], np.int64)
    round_of = np.where(indices % NEW_EVERY == 0, indices // len(made_of) + 1, 0)
    numbers: npt.NDArray[np.int64] = own[indices % len(made_of)] + len(known) * round_of
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description="Produce payments and labels at a fixed rate, for any length.")
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True, help="of the payments")
    parser.add_argument("--labels-topic", required=True)
    parser.add_argument("--payments", required=True, type=Path, help="payments.jsonl, whose payments are taken over")
    parser.add_argument("--rate", required=True, type=float, help="payments a second")
    parser.add_argument("--duration-s", required=True, type=float)
    parser.add_argument("--out", required=True, type=Path, help="where the sidecar goes (.npy)")
    args = parser.parse_args()
    options = {"bootstrap.servers": args.brokers, "acks": "all", "linger.ms": 1}
    producer = Producer(options | {"queue.buffering.max.messages": 500_000})
    endless = Endless(
        templates(args.payments),
        round(args.rate * args.duration_s),
        lambda key, value: producer.produce(args.labels_topic, value, key),
    )
    gc.freeze()
    delivery, late_ns = send_on_schedule(producer, args.topic, endless, args.rate)
    np.save(args.out, delivery.sent)
    summary: dict[str, Any] = {
        "count": len(endless),
        "delivered": int((delivery.sent["offset"] >= 0).sum()),
        "labels": endless.labels,
        "max_late_ms": float(late_ns.max()) / 1e6,
        "late_over_5ms": int((late_ns > 5_000_000).sum()),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
