"""`fraudline dlq`: what the dead-letter topic holds, one of them, and sending them again once the cause is mended."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from consumer.cli_audit import Actor, is_audited
from consumer.cli_options import AsJson, ConfigFile, moment_ms
from consumer.cli_output import iso, print_json, print_mapping, print_table, progress_bar
from features.errors import ConfigError

if TYPE_CHECKING:
    from consumer.dead_letters import DeadLetter, Place
    from consumer.decode import Decoder, Message
    from consumer.redrive import Plan
    from consumer.settings import Settings
    from consumer.streams import TopicStream

app = typer.Typer(help="Look at dead letters, and send them again.")
OWN: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,18})")
ORIGIN: Final = re.compile(r"(.+)-([0-9]{1,10})-([0-9]{1,18})")

Since = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="Records of then on (ISO 8601; the originals' Kafka time)."),
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Records of before then.")]


@app.command(name="list")
def list_letters(
    *,
    since: Since = None,
    until: Until = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Look at no more than the newest so many of each partition.")
    ] = 1_000_000,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Count dead letters by topic, stage and reason: how many, from when to when, how many were sent again."""
    from consumer.dead_letters import Tally
    from consumer.masking import shown

    loaded = _loaded(config)
    tally = Tally(moment_ms(since, "--since"), moment_ms(until, "--until"))
    with closing(_stream(loaded)) as stream:
        newest = stream.newest(limit)
        for messages in _read(stream, newest):
            tally.add(messages)
    groups = tally.sorted()
    for each in groups:  # what is no letter of ours may say anything there
        said = each.topic, each.stage, each.reason, each.detail
        each.topic, each.stage, each.reason, each.detail = (shown(text.encode()) for text in said)
    if cut := sum(start - stream.begins(number) for number, (start, _) in newest.items()):
        sys.stderr.write(f"{cut:,} older offsets were not looked at; see --limit\n")
    if tally.others:
        sys.stderr.write(f"{tally.others:,} records are no dead letters of fraudline\n")
    if as_json:
        print_json([asdict(each) for each in groups])
        return 0
    rows = [
        (each.topic, each.stage, each.reason, f"{each.count:,}", f"{each.sent_again:,}", _time(each.first_ms),
         _time(each.last_ms), each.newest, each.detail)
        for each in groups
    ]  # fmt: skip
    columns = ("from", "stage", "reason", "letters", "sent again", "first", "last", "newest at", "newest says")
    print_table(f"Dead letters in {loaded.topics.dead_letters}", columns, rows, as_json=False)
    return 0


@app.command()
def show(
    place: Annotated[
        str,
        typer.Argument(metavar="PLACE", help="Its PARTITION:OFFSET here; or the original's, TOPIC-PARTITION-OFFSET."),
    ],
    *,
    payload: Annotated[
        bool, typer.Option("--payload", help="Show the bytes too; what looks like a card number is masked.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Show where a dead letter came from, why it was refused, and whether it would be accepted now."""
    loaded = _loaded(config)
    asked = _place(place, loaded.topics.dead_letters)
    letter, is_sent = _found(loaded, asked)
    if letter is None:
        raise ConfigError(f"{loaded.topics.dead_letters} holds no such dead letter; see fraudline dlq list.")
    told = _about(loaded, letter, is_sent=is_sent)
    if payload:
        from consumer.masking import shown

        content = letter.message.value()
        told["payload"] = None if content is None else shown(content)
    print_mapping(f"Dead letter {told['lies_at']}", told, as_json=as_json)
    return 0


@app.command()
def redrive(
    *,
    reasons: Annotated[
        list[str] | None, typer.Option("--reason", metavar="REASON", help="Only of this reason; repeatable.")
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option("--from", metavar="TOPIC", help="Only from this topic; repeatable.")
    ] = None,
    places: Annotated[
        list[str] | None, typer.Option("--at", metavar="PARTITION:OFFSET", help="Only this one; repeatable.")
    ] = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Send no more than so many.")] = 10_000,
    rate: Annotated[float, typer.Option(min=0.1, help="Send no more than so many a second.")] = 100.0,
    force: Annotated[
        bool, typer.Option("--force", help="Also those that would be refused again (never a card number).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    actor: Actor = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Send dead letters to the topics that they came from: each once, however often this is run or killed."""
    from consumer import redrive as work
    from consumer.audit import new_entry
    from consumer.kafka.redrive import Redriver, told_of

    loaded = _loaded(config)
    topics = loaded.topics
    asked = work.Asked(
        reasons=frozenset(reasons or ()),
        topics=frozenset(sources or ()),
        places=frozenset(_own(each) for each in places or ()),
        from_ms=moment_ms(since, "--since"),
        to_ms=moment_ms(until, "--until"),
        limit=limit,
        force=force,
    )
    _check(asked, loaded)
    if not math.isfinite(rate):
        raise ConfigError("--rate is no number of dead letters a second.")

    def told(letters: Any) -> Any:
        return new_entry("dlq.redrive", topics.dead_letters, actor=actor, outcome="done", detail=told_of(letters))

    audit = told if is_audited(loaded, actor) else None
    now_ms = round(time.time() * 1_000)
    oracle = work.Oracle(_decoder(loaded), (topics.payments, topics.labels))
    if dry_run:
        with closing(_stream(loaded)) as stream:
            found = work.plan(_read(stream), asked, oracle, now_ms)
        _print_plan(found, "Would be sent", as_json=as_json)
        return 0
    _agree(loaded, asked, oracle, now_ms, yes=yes)
    with closing(Redriver(loaded, audit)) as sender:
        with closing(sender.stream()) as stream:  # once more: now nobody else can send
            found = work.plan(_read(stream), asked, oracle, now_ms)
        with progress_bar("dead letters", len(found.chosen)) as advance:
            work.send(sender.letters(found.chosen), sender, rate, advance)
    _print_plan(found, "Sent again", as_json=as_json)
    return 0


def _agree(loaded: Settings, asked: Any, oracle: Any, now_ms: int, *, yes: bool) -> None:
    """Ask a person, who is shown what would be sent. Raises ConfigError where there is none."""
    from consumer import redrive as work

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("This sends records to payments or labels: say --yes if that is meant, or --dry-run.")
    with closing(_stream(loaded)) as stream:
        found = work.plan(_read(stream), asked, oracle, now_ms)
    _print_plan(found, "Would be sent", as_json=False)
    typer.confirm(f"Send {len(found.chosen):,} dead letters again?", abort=True, err=True)


def _check(asked: Any, loaded: Settings) -> None:
    """Refuse what can't be meant. Raises ConfigError."""
    from consumer.decode import REASONS

    own = {loaded.topics.payments, loaded.topics.labels}
    if strange := sorted(asked.reasons - set(REASONS)):
        raise ConfigError(f"--reason {strange[0]} is no reason of a dead letter; fraudline dlq list shows those.")
    if strange := sorted(asked.topics - own):
        raise ConfigError(f"--from {strange[0]} is neither {loaded.topics.payments} nor {loaded.topics.labels}.")


def _print_plan(found: Plan, title: str, *, as_json: bool) -> None:
    def listed(counts: Any) -> list[dict[str, Any]]:
        return [{"topic": topic, "expected": what, "letters": n} for (topic, what), n in sorted(counts.items())]

    if as_json:
        print_json(
            {"sent": listed(found.expected), "refused": listed(found.refused), "sent_before": found.sent_before,
             "left": found.left}
        )  # fmt: skip
        return
    rows = [
        (each["topic"], EXPECTED.get(each["expected"], f"still refused: {each['expected']}"), each["letters"], is_sent)
        for is_sent, counts in (("yes", found.expected), ("no", found.refused))
        for each in listed(counts)
    ]
    print_table(title, ("topic", "to be expected", "letters", "sent"), rows, as_json=False)
    more = {"sent before": found.sent_before, "more than --limit": found.left}
    print_mapping("Besides", more, as_json=False)
    if not found.chosen and found.refused:
        sys.stderr.write(
            "nothing is sent: all would be refused again; mend what refuses them (docs/records.md), or see --force\n"
        )


EXPECTED: Final = {
    "accepted": "accepted now",
    "not_whole": "not whole: it was cut when it was put aside",
    "another_topic": "from a topic that these settings do not name",
}


def _found(loaded: Settings, asked: tuple[str, Place]) -> tuple[DeadLetter | None, bool]:
    """A dead letter by its own place or the original's, and whether it was sent again."""
    from consumer.dead_letters import DeadLetter, read_letter

    topic, place = asked
    found: DeadLetter | None = None
    marks: set[Place] = set()
    with closing(_stream(loaded)) as stream:
        for messages in _read(stream):
            for message in messages:
                letter = read_letter(message)
                if not isinstance(letter, DeadLetter):
                    marks |= set() if letter is None or found is None or letter != found.place else {letter}
                elif place == (letter.place if topic == loaded.topics.dead_letters else letter.origin) and (
                    topic in (letter.topic, loaded.topics.dead_letters)
                ):
                    found = letter
    return found, bool(marks)


def _about(loaded: Settings, letter: DeadLetter, *, is_sent: bool) -> dict[str, Any]:
    from consumer.masking import shown
    from consumer.redrive import Oracle

    message = letter.message
    value, key = message.value(), message.key()
    oracle = Oracle(_decoder(loaded), (loaded.topics.payments, loaded.topics.labels))
    return {
        "from": f"{shown(letter.topic.encode())}-{letter.origin[0]}-{letter.origin[1]}",
        "lies_at": "{}:{}".format(*letter.place),
        "time": _time(letter.time_ms),
        "stage": shown(letter.stage.encode()),
        "reason": shown(letter.reason.encode()),
        "detail": shown(letter.detail.encode()),
        "now": oracle.expects(letter, round(time.time() * 1_000)),
        "sent_again": is_sent,
        "not_whole": list(letter.cut),
        "key": None if key is None else shown(key),
        "bytes": None if value is None else len(value),
        "headers": {shown(name.encode()): None if content is None else shown(_bytes(content))
                    for name, content in letter.headers()},
    }  # fmt: skip


def _bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _place(text: str, dead_letters: str) -> tuple[str, Place]:
    if OWN.fullmatch(text):
        return dead_letters, _own(text)
    if not (matched := ORIGIN.fullmatch(text)):
        raise ConfigError("PLACE is neither PARTITION:OFFSET nor TOPIC-PARTITION-OFFSET.")
    return matched[1], (int(matched[2]), int(matched[3]))


def _own(text: str) -> Place:
    matched = OWN.fullmatch(text)
    if not matched:
        raise ConfigError("--at is not PARTITION:OFFSET, as fraudline dlq list shows them.")
    return int(matched[1]), int(matched[2])


def _time(time_ms: int | None) -> str:
    return "" if time_ms is None else iso(time_ms)


def _loaded(config: Path | None) -> Settings:
    from consumer import logs, settings

    logs.configure_command()
    return settings.load(config)


def _decoder(loaded: Settings) -> Decoder:
    from consumer.decode import Decoder

    processing = loaded.processing
    return Decoder(
        max_payment_bytes=processing.max_payment_bytes,
        max_future_ms=processing.max_future_ms,
        labels_topic=loaded.topics.labels,
    )


def _stream(loaded: Settings) -> TopicStream:
    from consumer.streams import TopicStream

    return TopicStream(loaded.kafka, loaded.topics.dead_letters)


def _read(stream: TopicStream, only: dict[int, tuple[int, int]] | None = None) -> Iterator[list[Message]]:
    """All records, with a bar on a terminal."""
    with progress_bar("records", stream.size()) as advance:
        for messages in stream.chunks(only):
            advance(len(messages))
            yield messages
