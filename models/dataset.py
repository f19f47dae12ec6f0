"""What a model learns from: features of a payments file in log order, and what its labels file said, and when.

Time is split as `train | gap | valid | test` by event time. Training rows know only the labels that had arrived when
the validation part begins: later ones are not used, because a model trained then could not have had them. The gap
gives the labels of the last training rows time to arrive. The validation and test parts are judged by every label in
the file.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from features import offline
from features.catalog import Catalog
from features.currencies import CURRENCIES
from features.errors import ConfigError
from features.event import Label, Payment

Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Times = npt.NDArray[np.int64]

ALL_LABELS: Final = 2**62  # a time by which every label has arrived
DAY_MS: Final = 86_400_000
_MAX_LINE_BYTES: Final = 1 << 20

Progress = Callable[[str, float], None]  # what is being done, and the share that is done, 0 to 1
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Dataset:
    """n distinct payments in log order.

    Attributes:
        values: (n, features) float32, NaN where missing, of what was known at each payment: labels included.
        event_time: (n,) ms.
        label_row: (m,) which payment each label is about, labels in order of arrival.
        label_at: (m,) ms, when each label arrived, rising.
        label_fraud: (m,) what each label says.
        bad_payments: lines of the payments file that are no payment, or one that is never decided.
        bad_labels: lines of the labels file that are no label, or one that says what it could not know yet.
        repeated: payments left out because their event id had been seen.
        unmatched_labels: labels about no payment in the file: a label names its payment by event id and card.
    """

    values: Values
    event_time: Times
    label_row: npt.NDArray[np.int64]
    label_at: Times
    label_fraud: Mask
    bad_payments: int
    bad_labels: int
    repeated: int
    unmatched_labels: int

    def fraud_known_by(self, time_ms: int) -> Mask:
        """(n,) which payments the last label that arrived before `time_ms` calls fraud."""
        fraud = np.zeros(len(self.values), np.bool_)
        arrived = self.label_at < time_ms
        fraud[self.label_row[arrived]] = self.label_fraud[arrived]  # numpy keeps the last of repeated indices
        return fraud


@dataclass(frozen=True, slots=True)
class Split:
    """Which rows are in which part, (n,) each, and where the validation part begins in ms: the cut for labels."""

    train: Mask
    valid: Mask
    test: Mask
    cut_ms: int


def read(
    payments: Path,
    labels: Path,
    catalog: Catalog,
    progress: Progress,
    is_card_number: Callable[[str], bool] = lambda _text: False,
) -> Dataset:
    """Read both files, one JSON record a line, and compute features in the order of the payments file.

    A label counts from its `labelled_at` on: it lies in the log before the first payment of that time or later. What
    production would refuse is left out: unknown currencies, card numbers in place of tokens (told by
    `is_card_number`), and labels that are older than their payment.

    Raises:
        ConfigError: a file is missing or can't be read.
    """
    progress("reading labels", 0.0)
    known, bad_labels = _labels(labels, is_card_number)
    tape = _Tape(known, is_card_number)
    total = _lines(payments)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress("computing features", min(done / total, 1.0) if total else 1.0)

    ordered = [label for some in known.values() for label in some]
    history = offline.build(offline.interleaved(tape.play(payments), ordered), catalog, progress=advance)
    row_of = np.cumsum(history.kept) - 1
    told = np.asarray(tape.label_row, np.int64)
    first = history.kept[told] if len(told) else np.zeros(0, np.bool_)
    told, at = told[first], np.asarray(tape.label_at, np.int64)[first]
    order = np.argsort(at, kind="stable")
    return Dataset(
        values=history.values[history.kept],
        event_time=np.asarray(tape.event_time, np.int64)[history.kept],
        label_row=row_of[told[order]],
        label_at=at[order],
        label_fraud=np.asarray(tape.label_fraud, np.bool_)[first][order],
        bad_payments=tape.bad,
        bad_labels=bad_labels,
        repeated=int((~history.kept).sum()),
        unmatched_labels=sum(map(len, known.values())) - len(told),
    )


def split(event_time: Times, *, valid_share: float, test_share: float, gap_ms: int) -> Split:
    """Part n payments by event time; equal times stay together, and each share is of all n payments.

    A part is empty where the span of time is too short for the gap; the caller refuses that.
    """
    ordered = np.sort(event_time)
    n = len(ordered)
    test_from = int(ordered[min(n - round(n * test_share), n - 1)])
    before = int(np.searchsorted(ordered, test_from))
    cut = int(ordered[max(before - round(n * valid_share), 0)])
    return Split(
        train=event_time < cut - gap_ms,
        valid=(event_time >= cut) & (event_time < test_from),
        test=event_time >= test_from,
        cut_ms=cut,
    )


class _Tape:
    """Plays a payments file once and notes what the features don't keep: times, and which rows the labels are about."""

    def __init__(self, labels: dict[str, list[Label]], is_card_number: Callable[[str], bool]) -> None:
        self._is_card_number = is_card_number
        self.bad = 0
        self.event_time = array("q")
        self.label_row = array("q")
        self.label_at = array("q")
        self.label_fraud = array("b")
        self._labels = labels

    def play(self, path: Path) -> Iterator[Payment]:
        for payment in _records(path, Payment):
            if payment is None or payment.currency not in CURRENCIES or self._is_card_number(payment.card_id):
                self.bad += 1
                continue
            for label in self._labels.get(payment.event_id, ()):
                if label.card_id != payment.card_id:
                    continue
                self.label_row.append(len(self.event_time))
                self.label_at.append(label.labelled_at)
                self.label_fraud.append(label.label == "fraud")
            self.event_time.append(payment.event_time)
            yield payment


def _labels(path: Path, is_card_number: Callable[[str], bool]) -> tuple[dict[str, list[Label]], int]:
    known: dict[str, list[Label]] = {}
    bad = 0
    for label in _records(path, Label):
        if label is None or label.event_time > label.labelled_at or is_card_number(label.card_id):
            bad += 1
        else:
            known.setdefault(label.event_id, []).append(label)
    return known, bad


def _records(path: Path, kind: type[_T]) -> Iterator[_T | None]:
    """Each line of a file as a record, or None where it is none; blank lines are skipped."""
    decode = msgspec.json.Decoder(kind).decode
    for line in _read_lines(path):
        if line.isspace():
            continue
        try:
            yield decode(line) if len(line) <= _MAX_LINE_BYTES else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            yield None


def _lines(path: Path) -> int:
    return sum(1 for _ in _read_lines(path))


def _read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; what follows the first MiB of an over-long line comes as lines of its own."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE_BYTES + 1):
                yield line
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}); give a file of JSON lines.") from error
