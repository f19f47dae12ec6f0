"""Where the group stands, as the doctor judges it."""

from __future__ import annotations

from consumer.doctor.topics import group
from consumer.group_lag import GroupLag, Member, PartitionLag

MEMBER = Member("m-1", "reader-7", "10.0.0.7", frozenset({("payments", 0)}))


def found(members: list[Member], end: int) -> GroupLag:
    partition = PartitionLag("payments", 0, 0, end, committed=5, next_ms=9_000 if end > 5 else None)
    return GroupLag("g", "stable" if members else "empty", members, [partition])


def test_payments_that_nobody_reads_are_no_health_however_short_they_wait() -> None:
    verdict = group(found([], 8), 10_000)
    assert verdict.status == "warn"
    assert "nobody reads" in verdict.seen
    assert "start processors" in verdict.mend


def test_nobody_has_to_read_what_is_not_there_and_members_may_be_a_second_behind() -> None:
    assert group(found([], 5), 10_000).status == "pass"
    assert group(found([MEMBER], 8), 10_000).status == "pass"
