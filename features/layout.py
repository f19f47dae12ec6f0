"""Lays the records of a batch out by key: the loop behind `features.grouping`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from features.event import UNIT_WORDS, Words
from features.kernels import Table, borrowing, compiled

Tags = npt.NDArray[np.uint32]

CARD, MERCHANT, DEVICE, IP = 0, 1, 2, 3  # the tags that a batch has


@compiled
def by_key(
    slots: Table,
    keys: int,
    labels: Words,
    payments: Words,
    card: Tags,
    merchant: Tags,
    device: Tags,
    ip: Tags,
    counterparts: Table,
) -> tuple[Table, Words, Table, Table]:
    """Put the records of m labels and n payments under the keys that they name, labels first.

    Args:
        slots: (entities * (m + n),) the number of the key that a record names, entity by entity; -1 where none.
        keys: how many there are. Numbers rise with the entities.
        labels: (m, 6)
        payments: (n, 6) without counterparts.
        card: (n,) tags.
        merchant: (n,) likewise.
        device: (n,) likewise.
        ip: (n,) likewise.
        counterparts: (entities, 3) which tags are the counterparts of an entity's records.

    Returns:
        counts, records, rows and bounds, as in `features.grouping.Grouping`.
    """
    before, size = labels.shape[0], labels.shape[0] + payments.shape[0]
    counts, bounds = np.zeros(keys, np.int64), np.zeros(keys + 1, np.int64)
    for i in range(slots.size):
        if slots[i] >= 0:
            counts[slots[i]] += 1
            if i % size >= before:
                bounds[slots[i] + 1] += 1
    place, row = np.zeros(keys, np.int64), np.zeros(keys, np.int64)
    total = 0
    for key in range(keys):
        place[key], total = total, total + counts[key]
        bounds[key + 1] += bounds[key]
        row[key] = bounds[key]
    records, rows = np.empty((total, UNIT_WORDS), np.int64), np.empty(bounds[keys], np.int64)
    for i in range(slots.size):
        key = slots[i]
        if key < 0:
            continue
        entity, at = i // size, place[key]
        place[key] += 1
        if i % size < before:
            records[at] = labels[i % size]
            continue
        payment = i % size - before
        rows[row[key]] = payment
        row[key] += 1
        records[at] = payments[payment]
        first = _tag(counterparts[entity, 0], payment, card, merchant, device, ip)
        second = _tag(counterparts[entity, 1], payment, card, merchant, device, ip)
        records[at, 4] = (second << 32) | first
        records[at, 5] |= _tag(counterparts[entity, 2], payment, card, merchant, device, ip)
    return counts, records, rows, bounds


@borrowing
def _tag(which: int, payment: int, card: Tags, merchant: Tags, device: Tags, ip: Tags) -> np.int64:
    if which == CARD:
        return np.int64(card[payment])
    if which == MERCHANT:
        return np.int64(merchant[payment])
    return np.int64(device[payment]) if which == DEVICE else np.int64(ip[payment])
