"""What to gather for a catalog's features of one entity, worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from features.catalog import COUNTERPARTS, MONTH_MS, Entity, Feature
from features.cells import CHANNELS
from features.event import Words
from features.values import OPERATIONS, PROGRAM_COLUMNS


@dataclass(frozen=True)
class Plan:
    """One entity's features: the edges of its cells, the channels that are needed, and a program of values."""

    edges: Words
    needed: Words
    program: Words

    @classmethod
    def of(cls, entity: Entity, features: Sequence[Feature]) -> Plan:
        """Work it out. An entity without features has a plan too: its logs still tell repeated event ids."""
        ages = {feature.delay_ms for feature in features} | {f.delay_ms + f.window_ms for f in features} | {MONTH_MS}
        edges = sorted(ages - {0})
        needed = np.zeros(CHANNELS, np.int64)
        program = np.zeros((len(features), PROGRAM_COLUMNS), np.int64)
        for row, feature in enumerate(features):
            operation = OPERATIONS[feature.op]
            which = 0 if feature.of is None else (*COUNTERPARTS[entity], "country", "mcc").index(feature.of)
            needed[list(operation.channels)] = 1
            if operation.by_tag is not None:
                needed[operation.by_tag + which] = 1
            lower = edges.index(feature.delay_ms) + 1 if feature.delay_ms else 0
            upper = edges.index(feature.delay_ms + feature.window_ms) + 1
            program[row] = (operation.number, lower, upper, which, feature.window_ms, edges.index(MONTH_MS) + 1)
        return cls(np.array(edges, np.int64), needed, program)
