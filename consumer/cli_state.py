"""`fraudline state`: build the state anew, and check it against Kafka."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from consumer.cli_audit import Actor, recorded
from consumer.cli_options import AsJson, ConfigFile, moment_ms
from consumer.cli_output import print_mapping, print_table, progress_bar
from features.errors import ConfigError

EXIT_DIFFERENT = 1
EXIT_UNVERIFIABLE = 4  # as that of `fraudline certify`


app = typer.Typer(help="Build the state anew, or check it against Kafka.")


@app.command()
def rebuild(
    *,
    since: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Leave out what came before (ISO 8601, Kafka's time).")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    actor: Actor = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Empty the state and build it anew from Kafka, up to what the group has decided; nothing is decided again.

    Processors may run: they decide without entity features until it is done, and help.
    """
    from consumer import logs, settings
    from consumer.rebuild import Rebuild

    loaded = settings.load(config)
    logs.configure_command()
    from_ms = moment_ms(since, "--from")
    with closing(Rebuild(loaded)) as work:
        starts = work.starts(from_ms)
        namespace = loaded.store.namespace
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError(f"This empties the state in namespace {namespace}: say --yes if that is meant.")
            typer.confirm(f"Empty the state in namespace {namespace} and build it anew?", abort=True, err=True)
        with (
            recorded(config, "state.rebuild", namespace, actor=actor, detail={"from_ms": from_ms}),
            progress_bar("records", work.size(starts)) as advance,
        ):
            rebuilt = work.run(starts, advance)
    print_mapping(f"Rebuilt {namespace}", asdict(rebuilt), as_json=as_json)
    return 0


@app.command()
def verify(
    *,
    sample: Annotated[int, typer.Option(min=1, max=100_000, help="How many entities to check.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, other entities.")] = 0,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Recompute entities from all that Kafka holds, without the store, and compare.

    Exit status 0: none differs; 1: some differ; 4: none of them could be verified.
    """
    from consumer import logs, settings
    from consumer.verify import Verification

    loaded = settings.load(config)
    logs.configure_command()
    with closing(Verification(loaded, sample=sample, seed=seed)) as work, progress_bar("records", work.size) as advance:
        outcome = work.run(advance)
    if as_json:
        print_mapping("", outcome.document(), as_json=True)
    else:
        if outcome.mismatches:
            rows = [(each.entity, each.shard, each.key, each.what) for each in outcome.mismatches]
            print_table("Mismatches", ("entity", "shard", "key hash", "what differs"), rows, as_json=False)
        print_mapping(f"Checked {loaded.store.namespace}", outcome.counts(), as_json=False)
    if outcome.mismatches:
        return EXIT_DIFFERENT
    if outcome.results["unverifiable"] and not outcome.results["equal"]:
        sys.stderr.write(
            "nothing could be verified: the state lacks what was decided (fraudline doctor tells how much), or the "
            "journal does not tell its order; while payments come, processors catch it up\n"
        )
        return EXIT_UNVERIFIABLE
    return 0
