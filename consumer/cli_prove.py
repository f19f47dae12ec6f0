"""`fraudline prove`: README's promises, tried on the user's own Kafka and Redis."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from consumer.cli_options import AsJson, ConfigFile
from consumer.cli_output import print_json, print_mapping, print_table
from features.errors import ConfigError, FraudlineError

if TYPE_CHECKING:
    from consumer.prove.plan import Asked
    from consumer.prove.report import LatencyTable, Report
    from consumer.settings import Settings

LONGEST_S: Final = 3_600
BESIDE_CLEAN: Final = frozenset(("clean", "config", "as_json"))
EXIT_OF: Final = {"held": 0, "broken": 3, "unverified": 4}  # as those of `fraudline certify`


def prove(
    context: typer.Context,
    *,
    bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Prove with this bundle (default: that of the settings).")
    ] = None,
    rate: Annotated[float, typer.Option(min=1, max=100_000, help="Records a second.")] = 2_000.0,
    seconds: Annotated[float, typer.Option(min=1, max=LONGEST_S, help="How long latency is measured.")] = 30.0,
    payments: Annotated[
        int | None, typer.Option(min=100, max=2_000_000, help="How many records are measured, instead of --seconds.")
    ] = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Also kill, stop and drain processors, and lose the run's own state.")
    ] = False,
    kills: Annotated[int, typer.Option(min=1, max=100, help="How often --faults kills a processor.")] = 6,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another seed, another history.")] = 1,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the report goes (default: fraudline-prove-RUN).")
    ] = None,
    clean: Annotated[
        str | None, typer.Option(metavar="RUN", help="Only remove what a run that was killed has left.")
    ] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Try what README promises on your own Kafka and Redis, in topics and keys that are made for it and removed.

    No topic, group or key of yours is read or written. Exit status 0: every promise that was tested is held; 3: one is
    broken; 4: none is, and the decisions could not be verified; 1 and 2: there is no proof.
    """
    from consumer import logs, settings

    _refuse_idle(_given(context), is_clean=clean is not None, has_faults=faults)
    logs.configure("critical")  # what the clients complain of is told in our words
    loaded = settings.load(config)
    if clean is not None:
        return _clean(clean, loaded, as_json=as_json)
    loaded = _with_bundle(loaded, bundle)
    from consumer.prove.plan import MOST, Asked, plan

    asked = Asked(
        config=config,
        rate=rate,
        seconds=seconds if payments is None else payments / rate,
        faults=faults,
        kills=kills,
        seed=seed,
        out=Path(),
    )
    if asked.seconds > LONGEST_S:
        raise ConfigError(f"That takes {asked.seconds:,.0f} s at this rate: no more than {LONGEST_S:,} are measured.")
    if plan(asked).records > MOST:
        raise ConfigError(f"That is more than {MOST:,} records, which are held in memory: ask for fewer.")
    return _prove(loaded, asked, out, as_json=as_json)


def _given(context: typer.Context) -> list[str]:
    """The options on the command line, by the names of their parameters."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


def _refuse_idle(given: Collection[str], *, is_clean: bool, has_faults: bool) -> None:
    """An option that would do nothing is a mistake of whoever gave it. Raises ConfigError."""
    if is_clean and (idle := [name for name in given if name not in BESIDE_CLEAN]):
        raise ConfigError(f"--{idle[0]} has no effect beside --clean: leave one of them out.")
    if "kills" in given and not has_faults:
        raise ConfigError("--kills has no effect without --faults: give both, or neither.")
    if {"payments", "seconds"} <= set(given):
        raise ConfigError("--seconds has no effect beside --payments: leave one of them out.")


def _with_bundle(loaded: Settings, bundle: Path | None) -> Settings:
    if bundle is None:
        return loaded
    if loaded.model.registry is not None:
        raise ConfigError("--bundle has no effect while model.registry is set: leave one of them out.")
    return loaded.model_copy(update={"model": loaded.model.model_copy(update={"bundle": bundle})})


def _prove(loaded: Settings, asked: Asked, out: Path | None, *, as_json: bool) -> int:
    from consumer.prove.names import new_run
    from consumer.prove.report import report, write
    from consumer.prove.run import prove as run_proof

    run, load_before = new_run(), os.getloadavg()[0]
    folder = out or Path(run.prefix)
    is_ours = _make_folder(folder)
    began_s = time.time()

    def tell(text: str) -> None:
        with suppress(OSError):  # who listened may have gone; what was made is removed all the same
            sys.stderr.write(f"{time.time() - began_s:5.0f} s  {text}\n")
            sys.stderr.flush()

    tell(f"run {run.run}; its topics, group and keys begin with {run.prefix}")
    try:
        evidence = run_proof(run, loaded, replace(asked, out=folder), tell)
    except BaseException:
        if is_ours:
            _remove_if_empty(folder)
        raise
    seconds = time.time() - began_s
    made = report(run, loaded, asked, evidence, began_s=began_s, seconds=seconds, load_before=load_before)
    files = write(made, folder)
    if as_json:
        print_json(_plain(made))
    else:
        _show(made, files)
    return EXIT_OF[made.verdict]


def _make_folder(out: Path) -> bool:
    """Whether it was not there before. Raises ConfigError where nothing can be written to it, or a report is in it."""
    from consumer.prove.report import DOCUMENT, PAGE

    is_new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"The report can't be written to {out}, which is a file: give --out a folder.") from None
    except OSError as error:
        raise ConfigError(f"The report can't be written to {out} ({error.strerror}).") from None
    if any((out / name).exists() for name in (DOCUMENT, PAGE)):
        raise ConfigError(f"There is a report in {out} already: give --out another folder.")
    if not os.access(out, os.W_OK | os.X_OK):
        raise ConfigError(f"The report can't be written to {out}: this user may not write there.")
    return is_new


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _plain(made: Report) -> object:
    """A report as JSON values."""
    import msgspec

    return msgspec.to_builtins(made)


def _show(made: Report, files: list[Path]) -> None:
    rows = [(each.verdict, each.sentence.replace("**", "").replace("`", ""), each.evidence) for each in made.promises]
    print_table("What README promises", ("verdict", "promise", "what was seen"), rows, as_json=False)
    if made.latency is not None:
        print_mapping("Latency, from when each payment was due", _latency(made.latency), as_json=False)
    if (load := float(made.machine["load_before"])) > (cores := int(made.machine["cores"])):
        typer.echo(
            f"The machine was busy before the proof began (load average {load:g} on {cores} cores): a budget that was "
            "missed and payments without features may be its own."
        )
    told = {name: sum(each.verdict == name for each in made.promises) for name in ("held", "broken", "not tested")}
    typer.echo(f"{', '.join(f'{count} {name}' for name, count in told.items())}: {made.verdict}")
    typer.echo(f"The report: {files[-1]}")
    if len(files) == 1:
        typer.echo("A page is drawn where matplotlib and jinja2 are: install fraudline[train].")


def _latency(told: LatencyTable) -> dict[str, object]:
    rates = f"{told.rate_sent:,.1f} of {told.rate_asked:,.0f} records/s"
    found: dict[str, object] = {
        "payments": told.payments,
        **{f"{name} ms": _tenths(value) for name, value in told.percentiles_ms.items()},
        "max ms": _tenths(told.max_ms),
        f"within {told.budget_ms:,} ms": f"{told.within_budget:.3%}",
        "undecided": told.undecided,
        "sent": f"{rates}: the generator fell short" if told.generator_fell_short else rates,
    }
    if (slow := told.slowest) is not None:
        found["slowest"] = (
            f"{slow.sending_ms:.1f} ms in the generator, {slow.appending_ms:.1f} until the broker had it, "
            f"{slow.deciding_ms:.1f} until its decision was read"
        )
    return found


def _tenths(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f}"


def _clean(text: str, loaded: Settings, *, as_json: bool) -> int:
    from consumer.prove.names import known_run, settings_of
    from consumer.prove.resources import clean, leftovers

    run = known_run(text)
    cleaned = clean(run, settings_of(run, loaded))
    if not (cleaned.topics or cleaned.keys or cleaned.foreign):
        others = ", ".join(leftovers(loaded))
        told = f"there are topics of {others}" if others else "there is no other run either"
        raise FraudlineError(f"Nothing of run {run.run} is there; {told}.")
    if as_json:
        print_json({"topics": cleaned.topics, "keys": cleaned.keys, "left_alone": cleaned.foreign})
    else:
        what = {"topics": len(cleaned.topics), "keys": cleaned.keys}
        print_mapping(f"Removed of run {run.run}", what, as_json=False)
    if cleaned.foreign:
        names = ", ".join(cleaned.foreign)
        raise FraudlineError(f"Left alone, since the mark of run {run.run} is not on it: {names}.")
    return 0
