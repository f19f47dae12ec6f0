"""A wall clock that jumps while a process runs, as when NTP sets it: libfaketime, in that process alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

_PLACES: Final = ("lib/*/faketime", "lib/faketime", "lib64/faketime", "local/lib/faketime")  # in /usr
_NAME: Final = "libfaketimeMT.so.1"  # the one that is safe beside threads
_WAITS: Final = Path(__file__).with_name("waits.c")


def missing() -> str | None:
    """Why clocks can't be made to jump here, in one sentence; None when they can."""
    if _library() is None:
        return "libfaketime not found (on Debian: the package faketime)."
    if shutil.which("cc") is None:
        return "no C compiler found (on Debian: the packages gcc and libc6-dev)."
    return None


def _library() -> Path | None:
    return next((found for place in _PLACES for found in sorted(Path("/usr").glob(f"{place}/{_NAME}"))), None)


class Clock:
    """Processes that are started with `environment` tell the time that `jump` says last.

    Only the wall clock jumps, and with it every wait until a wall time. The monotonic clock goes on, as it does when a
    machine's clock is set.
    """

    def __init__(self, folder: Path) -> None:
        """Compile what libfaketime lacks into `folder`."""
        self._file = folder / "faketime"
        self._waits = folder / "waits.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", self._waits, _WAITS], check=True)
        self.jump(0)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment, beside everything else."""
        return {
            "LD_PRELOAD": f"{self._waits}:{_library()}",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # numba compiles anew what it takes for changed
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # it ends monotonic waits, such as the interpreter's, at once
        }

    def jump(self, offset_s: int) -> None:
        """Be so many seconds before (negative) or after the machine's own time from now on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)  # at once, so that nobody reads half of it
