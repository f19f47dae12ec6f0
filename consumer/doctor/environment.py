"""What the settings say together, where secrets lie, and what this machine gives: cores, files, ports, a GPU."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import resource
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from consumer.cli_options import cores
from consumer.settings import Settings, files_with_secrets
from features.checkup import Verdict, bad, doubtful, good, left_out, worst

FEW_FILES: Final = 1_024
CGROUP: Final = Path("/sys/fs/cgroup")
THROTTLED: Final = 0.05
ANSWER_LIMIT_S: Final = 3.0
ANSWER_LIMIT_BYTES: Final = 65_536


def sense(settings: Settings) -> Verdict:
    """What each setting alone does not show."""
    kafka, store, processing = settings.kafka, settings.store, settings.processing
    odd: list[Verdict] = []
    if kafka.transaction_timeout_ms >= kafka.max_poll_interval_ms:
        odd.append(
            doubtful(
                "kafka.transaction_timeout_ms is not below kafka.max_poll_interval_ms",
                "lower it: a transaction that was left open stalls every reader for so long",
            )
        )
    if store.timeout_ms + processing.linger_ms >= processing.budget_ms:
        odd.append(
            doubtful(
                "store.timeout_ms and processing.linger_ms use up all of processing.budget_ms",
                "lower store.timeout_ms: one slow call to Redis makes a whole batch late",
            )
        )
    if _in_kubernetes() and ipaddress_is_loopback(settings.telemetry.host):
        odd.append(
            doubtful(
                f"telemetry.host is {settings.telemetry.host}, which probes of Kubernetes don't reach",
                "set telemetry.host to 0.0.0.0",
            )
        )
    if settings.challenger.enabled and settings.model.registry is None:
        odd.append(
            doubtful(
                "challenger.enabled is set without model.registry, so there is never a challenger",
                "set model.registry, or unset challenger.enabled",
            )
        )
    return worst(odd) if odd else good(f"they fit together; delivery is {processing.delivery}, outage {store.outage}")


def secret_files(settings: Settings) -> Verdict:
    """Whether others may read the files that secrets lie in."""
    found = files_with_secrets(settings)
    if not found:
        return good("no secret is read from a file")
    verdicts = [_file(name, path) for name, path in found.items()]
    return worst(verdicts)


def _file(name: str, path: Path) -> Verdict:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        return bad(f"{path} ({name}) can't be looked at: {error.strerror}", "check its path and permissions")
    if mode & stat.S_IWOTH:
        return bad(f"everybody may change {path} ({name})", f"chmod 600 {path}, and give out new secrets")
    if mode & stat.S_IROTH:
        return doubtful(f"everybody on this machine may read {path} ({name})", f"chmod 600 {path} (or 640)")
    return good(f"{_count(len([path]), 'file')} with secrets can be read by its owner and group only")


def dashboard(settings: Settings) -> Verdict:
    """Whether the alert page lets in whom it should."""
    page = settings.dashboard
    if page.auth == "none" and not ipaddress_is_loopback(page.host):
        return bad(
            f"dashboard.auth is none, and dashboard.host is {page.host}: everybody who reaches it sees all alerts",
            "set dashboard.auth to token or proxy, or dashboard.host to 127.0.0.1",
        )
    if page.auth == "token" and page.token is None:
        return left_out("no dashboard.token is set, so the alert page is not served")
    if page.auth == "proxy" and any(network.num_addresses > 1 << 24 for network in page.trusted_proxies):
        return doubtful(
            "dashboard.trusted_proxies holds whole worlds: anybody there may say who they are",
            "name the proxies' own addresses",
        )
    return good(f"auth is {page.auth}, verdicts are {'taken' if page.verdicts else 'not taken'}")


def telemetry(settings: Settings) -> Verdict:
    """Whether metrics can be served, or are already."""
    host, port = settings.telemetry.host, settings.telemetry.port
    if port == 0:
        return good("the port is chosen at the start")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            why = (error.strerror or "it can't be used").lower()
        else:
            return good(f"{host}:{port} is free")
    said = _ready_at("127.0.0.1" if host in {"0.0.0.0", "::"} else host, port)  # noqa: S104  asked, not listened on
    if said is not None:
        return good(f"a processor serves {host}:{port} and says: {said}")
    return bad(f"{host}:{port} can't be listened on ({why})", "change telemetry.port or telemetry.host, or free it")


def _ready_at(host: str, port: int) -> str | None:
    """What a processor there says of its readiness; None if it is none."""
    said = []
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=ANSWER_LIMIT_S)) as connection:
        for path in ("/livez", "/readyz"):
            try:
                connection.request("GET", path)
                said.append(connection.getresponse().read(ANSWER_LIMIT_BYTES))
            except (OSError, http.client.HTTPException):
                return None
    alive, ready = said
    return ready.decode(errors="replace").strip()[:200] if alive.startswith(b"the loop last turned") else None


def cpu(settings: Settings, cgroup: Path = CGROUP) -> Verdict:
    """Threads against cores, and whether the container is held back."""
    have, threads = cores(), settings.model.threads
    quota = _quota(cgroup)
    usable = float(have) if quota is None else min(float(have), quota)
    seen = f"{have} cores" + ("" if quota is None else f", of which the container may use {quota:g}")
    verdicts = []
    if settings.model.device == "cpu" and threads > max(1.0, usable):
        verdicts.append(
            doubtful(
                f"model.threads is {threads} and there are {seen}", "lower model.threads: waiting threads cost most"
            )
        )
    if usable < 1:
        verdicts.append(doubtful(seen, "give the processor at least a whole core, or batches are late"))
    stopped = _throttled(cgroup)
    if stopped is not None and stopped > THROTTLED:
        verdicts.append(
            doubtful(
                f"the container was stopped by its CPU limit in {stopped:.0%} of its periods",
                "raise or drop the limit: a stopped batch is late by up to 100 ms",
            )
        )
    return worst(verdicts) if verdicts else good(f"{seen}; model.threads is {threads}")


def _quota(cgroup: Path) -> float | None:
    """How many cores' time the container may use; None for all."""
    words = _read(cgroup / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _throttled(cgroup: Path) -> float | None:
    """In which share of its periods the container was stopped; None where that is not told."""
    told = dict(line.split(" ", 1) for line in _read(cgroup / "cpu.stat").splitlines() if " " in line)
    periods = int(told.get("nr_periods", "0"))
    return int(told["nr_throttled"]) / periods if periods and "nr_throttled" in told else None


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def files(limit: int | None = None) -> Verdict:
    """How many files and connections may be open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    if soft == resource.RLIM_INFINITY:
        return good("any number of files and connections may be open")
    seen = f"{soft:,} files and connections may be open at once"
    return good(seen) if soft >= FEW_FILES else doubtful(seen, f"raise it to {FEW_FILES:,} (ulimit -n)")


def gpu(settings: Settings) -> Verdict:
    """Whether there is a GPU that XGBoost can use, with room on it."""
    if settings.model.device != "cuda":
        return left_out("model.device is cpu")
    from models.gpu import cupy  # noqa: PLC0415  it takes a second to import

    runtime = cupy().cuda.runtime
    free, whole = runtime.memGetInfo()
    name = runtime.getDeviceProperties(0)["name"].decode(errors="replace")
    seen = f"{name}, {free / (1 << 30):.1f} of {whole / (1 << 30):.1f} GiB free"
    return good(seen) if free > 1 << 30 else doubtful(seen, "free memory on it: without room, the CPU scores")


def ipaddress_is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_kubernetes(environ: Mapping[str, str] = os.environ) -> bool:
    return "KUBERNETES_SERVICE_HOST" in environ


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
