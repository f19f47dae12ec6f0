"""The topics that a processor uses, held to what `fraudline topics plan` wants of them; and who reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consumer.group_lag import GroupLag
from consumer.kafka.topics import SettingsHidden, TopicAdmin
from consumer.settings import Settings
from consumer.topic_plan import Found, Step, plan
from consumer.topics import Options, declared
from features.catalog import Catalog
from features.checkup import Verdict, bad, doubtful, good, left_out, worst

APPLY = "fraudline topics apply"
LONG_S = 60.0
AHEAD_S = 1.0


def topic(admin: TopicAdmin, settings: Settings, catalog: Catalog, role: str) -> Verdict:
    """One topic. Raises KafkaUnavailable."""
    name = str(getattr(settings.topics, role))
    try:
        there = admin.look([name])
    except SettingsHidden as error:
        seen, _, mend = str(error).rpartition(": ")
        return doubtful(seen, mend)
    wanted = declared(settings.topics, catalog, Options(), brokers=max(1, there.brokers), payments_partitions=None)
    steps = plan([each for each in wanted if each.role == role], there.found)
    return worst([_verdict(step) for step in steps]) if steps else _well(name, there.found[name])


def _well(name: str, found: Found) -> Verdict:
    partitions, copies = _count(found.partitions, "partition"), _count(found.copies, "copy", "copies")
    if found.in_step < found.copies:
        return doubtful(f"{name} has {found.in_step} of {copies} in step", "see which broker is away, or can't follow")
    return good(f"{name} has {partitions}, {copies}, and the right settings")


def _verdict(step: Step) -> Verdict:
    if step.action == "create":
        return bad(f"there is no topic {step.topic}", f"create it: {APPLY}")
    seen = f"{step.topic} has {step.setting} {step.has} and should have {step.wants}: {step.why}"
    mend = step.left or APPLY
    return bad(seen, mend) if step.needed else doubtful(seen, mend)


def partitions(found: GroupLag, payments: str) -> Verdict:
    """Whether there are enough partitions for the members."""
    count = sum(each.topic == payments for each in found.partitions)
    members = len(found.members)
    if not count:
        return left_out(f"there is no topic {payments}")
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
    seen = f"group {found.group} is {found.state}, {found.records:,} offsets and {waits_s:,.1f} s behind"
    if waits_s > LONG_S:
        mend = "start processors" if not found.members else "see fraudline lag, and the stages' metrics"
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


def markers(found: GroupLag, shards: Sequence[Mapping[tuple[str, int], int]]) -> Verdict:
    """The state's markers against the log and what the group committed: whether it can be caught up."""
    if not any(shards):
        return left_out("there is no state yet")
    behind, gone, ahead = 0, [], []
    for each in found.partitions:
        known = [held[each.topic, each.partition] for held in shards if (each.topic, each.partition) in held]
        if not known:
            continue
        marker, committed = min(known), each.committed or 0
        if max(known) > each.end:
            ahead.append(f"{each.topic}/{each.partition}")
        elif marker < each.low and marker < committed:
            gone.append(f"{each.topic}/{each.partition}")
        behind += max(0, committed - marker)
    if ahead:
        return bad(
            f"the state is ahead of {', '.join(ahead)}: the topic was made anew",
            "take a new store.namespace, and reset the group's offsets",
        )
    if gone:
        return bad(
            f"Kafka no longer holds what the state lacks of {', '.join(gone)}",
            "keep records longer; to go on without that history, fraudline run --allow-cold-state",
        )
    if behind:
        return good(f"the state lacks {behind:,} decided offsets, which Kafka still holds: processors catch up")
    return good("the state has everything that the group has decided")


def _count(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"
