"""`fraudline` as a child of a proof: it does not outlive its parent, however that ended, also where it is stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from consumer.cli import main

_PR_SET_PDEATHSIG = 1


def follow_parent(parent: int) -> None:
    """Be killed when the parent process ends; where the system has no such thing, only the parent ends it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            sys.exit(1)


if __name__ == "__main__":
    follow_parent(int(sys.argv[1]))
    main(sys.argv[2:])
