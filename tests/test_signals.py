"""A process that is told to end does so in good order, or by itself once its time is over."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DEADLINE_S = 30.0
CHILD = """
import signal, sys
from consumer.app import stop_on_signals
ends = sys.argv[1] == "ends"
stop_on_signals((lambda: sys.exit(0)) if ends else (lambda: None), 60.0 if ends else 0.1)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("what", "status"), [("ends", 0), ("hangs", 1)])
def test_a_drain_ends_in_good_order_or_with_its_deadline(what: str, status: int, number: signal.Signals) -> None:
    command = [sys.executable, "-c", CHILD, what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(number)
            assert child.wait(DEADLINE_S) == status
        except subprocess.TimeoutExpired:
            pytest.fail("it went on though its time was over")
        finally:
            child.kill()
