"""`fraudline drift`: how far what is seen now has moved from what the model was made from."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from consumer.cli_model import BundleName, CatalogName, RegistryUrl, catalog_of, place_of
from consumer.cli_options import AsJson, ConfigFile, Mapped, columns_of
from consumer.cli_output import print_json, print_table, progress_stages
from features.errors import ConfigError

if TYPE_CHECKING:
    from models.bundle import Bundle
    from models.drift import Counts

app = typer.Typer(help="See how far payments have moved from those that the model was made from.")
TIMEOUT_S: Final = 5.0
MOST_BYTES: Final = 16 << 20
SHOWN: Final = 20


@app.callback()
def _drift() -> None:
    pass


@app.command()
def report(
    bundle: BundleName,
    *,
    worker: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Where a processor serves its metrics, as http://10.0.0.3:9464; repeatable."),
    ] = None,
    payments: Annotated[
        Path | None, typer.Option(metavar="PATH", help="In place of workers: a history, in log order.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(metavar="PATH", help="Its labels.")] = None,
    days: Annotated[int, typer.Option(min=1, max=366, help="Of the history: the newest so many.")] = 14,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw a page, .html, with a .json beside it.")
    ] = None,
    mapped: Mapped = None,
    memory_mb: Annotated[int, typer.Option(min=16, help="Memory for a history's features.")] = 2_048,
    registry: RegistryUrl = None,
    catalog: CatalogName = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Compare what workers have seen lately, or the days of a history, with what the bundle was made from."""
    from consumer.decode import looks_like_card_number
    from consumer.report_page import check_drawing, write_page
    from consumer.trust import configured
    from models import drift_report
    from models.bundle import load

    if bool(worker) == (payments is not None):
        raise ConfigError("Give either --worker, once or several times, or --payments with --labels.")
    if payments is not None and labels is None:
        raise ConfigError("--payments needs --labels: features count the frauds that were known.")
    if out is not None:
        if out.suffix != ".html":
            raise ConfigError("--out must end in .html.")
        check_drawing()
    with place_of(bundle, registry, config) as (path, _):
        whole = catalog_of(catalog, config)
        loaded = load(path, whole, configured(config))
        if payments is None:
            windows = _of_workers(loaded, worker or ())
        else:
            assert labels is not None  # noqa: S101  checked above
            with progress_stages() as progress:
                windows = drift_report.of_history(
                    loaded,
                    payments,
                    labels,
                    whole,
                    progress,
                    looks_like_card_number,
                    days,
                    memory_mb,
                    columns_of(mapped),
                )
        if not windows:
            raise ConfigError("The history holds no payment; give payments in log order.")
        told = drift_report.figures(loaded, windows)
    if out is not None:
        write_page(out, drift_report.render(told, f"Drift of {bundle}"), told)
    if as_json:
        print_json(told)
        return 0
    _print(told)
    return 0


def _of_workers(bundle: Bundle, urls: Sequence[str]) -> dict[str, Counts]:
    """The counts of all workers together."""
    import numpy as np

    from consumer.drift import WINDOWS
    from models.drift_report import bins_of

    bins = bins_of(bundle)
    total = {window.name: np.zeros(bins.then.shape, np.int64) for window in WINDOWS}
    for url in urls:
        told = _asked(url)
        try:
            if told["bundle"] != bundle.digest:
                raise ConfigError(f"The worker at {url} decides with another bundle ({str(told['bundle'])[:12]}).")
            for name in total:
                total[name] += np.asarray(told["windows"][name], np.int64).reshape(bins.then.shape)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{url}/drift says nothing that can be read; is it a Fraudline worker?") from error
    return total


def _asked(url: str) -> Any:
    import orjson

    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url} is no address of a worker; give one as http://10.0.0.3:9464.")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/drift", timeout=TIMEOUT_S) as answer:  # noqa: S310  http only
            return orjson.loads(answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        why = error.read(500).decode(errors="replace").strip() or str(error.code)
        raise ConfigError(f"The worker at {url} does not tell its drift ({why}).") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"The worker at {url} does not answer ({reason}); give its metrics' address.") from None


def _print(told: dict[str, Any]) -> None:
    names = [window["name"] for window in told["windows"]][-4:]
    columns = ("", *(f"PSI, {name}" for name in names), f"missing, {names[-1]}")
    rows = [("payments", *(f"{each['payments']:,}" for each in told["windows"][-4:]), "")]
    for row in told["rows"][:SHOWN]:
        shift = row["missing_shift"][names[-1]]
        cells = ("" if (index := row["psi"][name]) is None else f"{index:.3f}" for name in names)
        rows.append((row["name"], *cells, "" if shift is None else f"{100 * shift:+.1f} %"))
    from models.drift import MIN_PAYMENTS

    if max(each["payments"] for each in told["windows"]) < MIN_PAYMENTS:
        sys.stderr.write(f"no window has the {MIN_PAYMENTS} payments from which on drift can be told from chance\n")
    print_table(f"The score and the {SHOWN - 1} features that moved most", columns, rows, as_json=False)
