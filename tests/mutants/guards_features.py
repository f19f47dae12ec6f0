"""Guards of the features: which part of a log a payment sees, what counts once, and what a log may grow to."""

from __future__ import annotations

from typing import Final

from tests.mutants.guard import Guard

_ENRICH: Final = "features/enrich.py"
_FOLD: Final = "features/fold.py"
_PROPERTIES: Final = "tests/test_windows_properties.py"
_ORACLE: Final = f"{_PROPERTIES}::test_memory_store_and_offline_equal_the_oracle"
_FEATURES: Final = "tests/test_features.py"

FEATURES: Final = (
    Guard(
        "a payment sees its log up to its own record",
        "2: a replay sees what the first pass saw",
        "features/folding.py",
        "while wanted < last and (every or targets[order[wanted]] == unit):",
        "while wanted < last and (every or unit == ends[k] - 1):",
        (
            _ORACLE,
            "tests/faults/test_kills.py::test_a_worker_that_is_killed_at_a_step_loses_and_repeats_nothing"
            "[after_produce-exactly_once]",
        ),
    ),
    Guard(
        "every number that a shard gives is told",
        "2: every payment in the state has a published order",
        _ENRICH,
        "if run.end > span.start and run.start < span.end\n",
        "if run.end > span.start and run.start < span.end and each.units\n",
        ("tests/test_certify.py::test_records_that_were_refused_by_themselves_leave_no_number_in_doubt",),
    ),
    Guard(
        "a repeated event id weighs nothing",
        "1: a duplicate is counted, not decided",
        _FOLD,
        "state.repeated[own] = 1",
        "state.repeated[own] = 0",
        ("tests/test_pipeline.py::test_a_repeated_event_id_gets_no_decision_and_is_counted",),
    ),
    Guard(
        "a repetition is one within its horizon",
        "1: a duplicate is counted, not decided",
        _FOLD,
        "if words[state.raw[before], 0] > clock - limits[DUPLICATE]:",
        "if True:",
        (_ORACLE,),
    ),
    Guard(
        "a log's clock is that of its newest payment, not of its last",
        "2: a late event is placed by event time",
        _FOLD,
        "if time > scalars[CLOCK]:",
        "if time != scalars[CLOCK]:",
        (_ORACLE,),
    ),
    Guard(
        "a record that is missing above the floor is a loss",
        "2: a lost state is never taken for history",
        _ENRICH,
        "if offset >= self._floors[partition]:",
        "if False:",
        (f"{_FEATURES}::test_a_lost_record_above_the_floor_is_a_regression_and_below_it_another_workers",),
    ),
    Guard(
        "dropping what another worker has committed meanwhile",
        "1: a stale worker decides nothing",
        _ENRICH,
        "if floor > span.floor and not span.labels:",
        "if False:",
        (f"{_FEATURES}::test_what_others_have_committed_meanwhile_is_not_due_even_where_its_record_is_still_there",),
    ),
    Guard(
        "compacting only what is committed",
        "2: compaction changes no value",
        _ENRICH,
        "self._floors[span.source_id] = min(each.floors[place] for each in applied)",
        "self._floors[span.source_id] = 1 << 47",
        ("tests/test_simulation.py::test_random_histories_on_the_memory_store",),
    ),
    Guard(
        "compacting at all",
        "5: memory is bounded however hot the entity",
        _ENRICH,
        "for place in np.flatnonzero(cuts > logs.starts).tolist()[:COMPACTIONS]:",
        "for place in np.flatnonzero(cuts > logs.starts).tolist()[:0]:",
        (f"{_PROPERTIES}::test_logs_are_compacted_below_the_floor_and_stay_small",),
    ),
    Guard(
        "so many compactions a call and no more",
        "5: memory is bounded, and a call fits its time-out",
        _ENRICH,
        ".tolist()[:COMPACTIONS]:",
        ".tolist():",
        (f"{_FEATURES}::test_a_call_carries_a_bounded_number_of_compactions",),
    ),
    Guard(
        "keeping a log alive that is used",
        "2: no record is missing from a log",
        _ENRICH,
        "self._upkeep[shard].refresh.append(keys[place])",
        "pass",
        ("tests/test_features.py::test_a_log_that_is_used_is_kept_alive_once_in_thirty_days",),
    ),
    Guard(
        "the bound of remembered codes",
        "5: memory is bounded",
        "features/event.py",
        "if len(self) >= self.LIMIT:",
        "if False:",
        ("tests/test_event.py::test_a_flood_of_codes_is_remembered_in_bounds_and_right",),
    ),
    Guard(
        "the spot check compares each record to the bit",
        "2: damage of the state is noticed",
        "consumer/spotcheck.py",
        'return "equal" if len(same) == 1 and (same[0] == record).all() else "mismatch"',
        'return "equal"',
        ("tests/test_spotcheck.py::test_damage_is_a_mismatch",),
    ),
)
