"""The topics that a processor uses, held to what `fraudline topics plan` wants of them; and who reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from consumer.group_lag import GroupLag
from consumer.kafka.logreader import Extent
from consumer.kafka.topics import SettingsHidden, Topics
from consumer.settings import Settings
from consumer.survey import ahead, standing
from consumer.topic_plan import Found, Step, plan
from consumer.topics import Options, amount, declared, reach_ms
from features.catalog import Catalog
from features.checkup import Verdict, bad, doubtful, good, left_out, worst
from features.errors import StoreUnsuitable
from features.store import Position, Source

APPLY = "fraudline topics apply"
LONG_S = 60.0
AHEAD_S = 1.0


class Admin(Protocol):
    """Who is asked about topics."""

    def look(self, names: Sequence[str], /) -> Topics:
        """These topics, as far as they are there. Raises KafkaUnavailable."""


def topic(admin: Admin, settings: Settings, catalog: Catalog, role: str) -> Verdict:
    """One topic. Raises KafkaUnavailable."""
    name = str(getattr(settings.topics, role))
    try:
        there = admin.look([name])
    except SettingsHidden as error:
        seen, _, mend = str(error).rpartition(": ")
        return doubtful(seen, mend)
    wanted = declared(settings.topics, catalog, Options(), brokers=max(1, there.brokers), payments_partitions=None)
    steps = plan([each for each in wanted if each.role == role], there.found)
    verdicts = [_verdict(step, reach_ms(catalog)) for step in steps]
    if (found := there.found.get(name)) is not None:
        verdicts.append(_shape(name, found))
    return worst(verdicts)


def _shape(name: str, found: Found) -> Verdict:
    if found.leaderless:
        numbers = ", ".join(map(str, found.leaderless))
        return bad(f"nobody leads partition {numbers} of {name}", "bring the brokers back that hold them")
    partitions, copies = _count(found.partitions, "partition"), _count(found.copies, "copy", "copies")
    if found.in_step < found.copies:
        return doubtful(f"{name} has {found.in_step} of {copies} in step", "see which broker is away, or can't follow")
    return good(f"{name} has {partitions}, {copies}, and the right settings")


def _verdict(step: Step, reach_ms: int) -> Verdict:
    if step.action == "create":
        return bad(f"there is no topic {step.topic}", f"create it: {APPLY}")
    seen = f"{step.topic} has {step.setting} {step.has} and should have {step.wants}: {step.why}"
    mend = step.left or APPLY
    # how long an outage may be is the operator's choice: what windows need is not
    is_enough = step.setting == "retention.ms" and amount(step.has or "") >= reach_ms and step.role != "audit"
    return bad(seen, mend) if step.needed and not is_enough else doubtful(seen, mend)


def partitions(found: GroupLag, payments: str) -> Verdict:
    """Whether there are enough partitions for the members."""
    count = sum(each.topic == payments for each in found.partitions)
    members = len(found.members)
    if not count:
        return left_out(f"there is no topic {payments}")
    if members and found.state != "stable":
        return left_out(f"group {found.group} is {found.state}, and shares them out anew: look again")
    if members > count:
        return doubtful(
            f"{members} processors share {_count(count, 'partition')} of {payments}: {members - count} stand by",
            "run fewer, or add partitions (docs/operations.md, Topics)",
        )
    idle = [each.client_id for each in found.members if not any(topic == payments for topic, _ in each.owns) and count]
    if idle:
        return doubtful(
            f"{', '.join(idle)} read labels only, and no payments", "give payments several times as many partitions"
        )
    return good(f"{_count(count, 'partition')} of {payments} for {_count(members, 'processor')} that run")


def group(found: GroupLag, now_ms: float) -> Verdict:
    """Where the group stands."""
    if found.missing:
        return left_out(f"there is no topic {', '.join(found.missing)}")
    if (stuck := _stuck(found)) is not None:
        return stuck
    if all(each.committed is None for each in found.partitions):
        return good(f"group {found.group} has decided nothing yet, and {found.records:,} records wait")
    waits_s = found.seconds(now_ms)
    if waits_s is None:
        return doubtful(f"how long records wait for group {found.group} was not told in time", "look: fraudline lag")
    is_abandoned = found.records > 0 and not found.members
    seen = f"group {found.group} is {found.state}, {found.records:,} offsets and {waits_s:,.1f} s behind"
    seen += ", and nobody reads" if is_abandoned else ""
    if is_abandoned or waits_s > LONG_S:
        mend = "start processors: fraudline run" if is_abandoned else "see fraudline lag, and the stages' metrics"
        return doubtful(seen, mend)
    return good(seen)


def _stuck(found: GroupLag) -> Verdict | None:
    """What keeps a processor from going on where the group stands, if anything does."""
    lost = [f"{each.topic}/{each.partition}" for each in found.partitions if each.lost]
    if lost:
        return bad(
            f"records of {', '.join(lost)} were deleted before they were decided",
            "keep records longer (fraudline topics plan), and reset the group's offsets to go on without them",
        )
    above = [f"{each.topic}/{each.partition}" for each in found.partitions if each.above_end]
    if above:
        return bad(
            f"the group stands above the end of {', '.join(above)}: the topic was made anew",
            "take a new store.namespace, and reset the group's offsets",
        )
    return None


def clock(found: GroupLag, payments: str, now_ms: float) -> Verdict:
    """The brokers' clock, as far as their timestamps tell: none can be later than now."""
    newest = [each.newest_ms for each in found.partitions if each.topic == payments and each.newest_ms is not None]
    if not newest:
        return left_out("there is no payment yet whose timestamp would tell")
    ahead_s = (max(newest) - now_ms) / 1_000
    if ahead_s > AHEAD_S:
        return doubtful(
            f"the newest payment is stamped {ahead_s:,.1f} s later than it is here",
            "have brokers and this machine follow a time server, and set message.timestamp.type to LogAppendTime",
        )
    return good(f"the newest payment is stamped {-ahead_s:,.1f} s before now, so the clocks don't contradict")


def markers(extents: Mapping[Source, Extent], positions: Sequence[Position], *, allow_cold_state: bool) -> Verdict:
    """Whether the state can be caught up, as a processor finds out. `extents` are older than `positions`."""
    if why := ahead(extents, positions):
        seen, _, mend = why.rpartition("; ")
        return bad(seen, mend)
    try:
        found = standing(extents, positions, {}, allow_cold_state=allow_cold_state)
    except StoreUnsuitable as error:
        seen, _, mend = str(error).partition("; ")
        return bad(seen, f"keep records longer; {mend}")
    behind = sum(end - start for start, end in found.behind.values())
    if behind:
        return doubtful(
            f"the state lacks {behind:,} decided offsets, which Kafka still holds",
            "let processors run: they catch up by themselves, and decide without the state until then",
        )
    if not any(each.markers for each in positions):
        return left_out("there is no state yet")
    return good("the state has everything that the group has decided")


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"
