"""`fraudline dashboard`: the alert page."""

# ruff: noqa: PLC0415  heavy imports stay inside the commands, so that `fraudline --help` answers at once
from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from consumer.cli_options import ConfigFile
from features.errors import ConfigError

if TYPE_CHECKING:
    from consumer.settings import Settings


def dashboard(
    *,
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(help="Listen on this address (setting: dashboard.host).")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="And this port; 0: any (setting: dashboard.port).")
    ] = None,
) -> int:
    """Serve the alert page: alerts as they come, rates and latency, a payment's reasons, analysts' verdicts."""
    from consumer import logs, settings

    loaded = _with(settings.load(config), host, port)
    logs.configure(loaded.telemetry.log_level, loaded.telemetry.log_format)
    from consumer.dashboard.compose import run

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    return run(loaded, stop)


def _with(loaded: Settings, host: str | None, port: int | None) -> Settings:
    """The settings with what the command line says in their place. Raises ConfigError."""
    from pydantic import ValidationError

    from consumer.settings import DashboardSettings

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    try:
        page = DashboardSettings.model_validate(loaded.dashboard.model_dump() | given)
    except ValidationError:
        raise ConfigError("--host must name an address, such as 127.0.0.1.") from None
    return loaded.model_copy(update={"dashboard": page})
