"""What the numbers were measured on: hardware, kernel and versions, and the time and command of a run."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
from confluent_kafka import libversion

from tests.services.kafka import KAFKA_VERSION

LIBRARIES: Final = ("confluent-kafka", "xgboost", "numpy", "redis", "hiredis", "msgspec", "orjson")
ROOT: Final = Path(__file__).parents[1]


def machine() -> dict[str, Any]:
    """Facts of this machine and of everything that takes part."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "redis-server": _first(r"v=(\S+)", _said("redis-server", "--version")),
        "java": _first(r'version "([^"]+)"', _said("java", "-version")),
        "librdkafka": libversion()[0],
        "tcp": _congestion_control(),
        **{("redis-py" if name == "redis" else name): version(name) for name in LIBRARIES},
    }


def occasion(arguments: Sequence[str], module: str = "bench.run") -> dict[str, Any]:
    """When, by which command, from which commit, and how busy the machine was when it began."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", module, *arguments]),
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if sys.platform == "linux" and info.exists() else ""
    return _first(r"model name\s*:\s*(.+)", text) if text else platform.processor()


def _congestion_control() -> str:
    """What slows connections down, of loopback too: with `bbr` a reply of some hundred kilobytes may take 50 ms."""
    setting = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return setting.read_text().strip() if setting.exists() else "unknown"


def _commit() -> str:
    commit = _said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD").strip()
    changed = _said(
        "git", "-C", str(ROOT), "status", "--porcelain", "--", "consumer", "features", "models", "bench/*.py"
    )
    return f"{commit or 'unknown'}{' with changes' if changed.strip() else ''}"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return ""
    return done.stdout + done.stderr if done.returncode == 0 else ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1].strip() if found else "unknown"
