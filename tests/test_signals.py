"""A process that is told to end does so in good order, or by itself once its time is over."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DEADLINE_S = 30.0
CHILD = """
import ctypes, signal, sys
from consumer.app import stop_on_signals
ends = sys.argv[1] == "ends"
stop_on_signals((lambda: sys.exit(0)) if ends else (lambda: None), 60.0 if ends else 0.1)
print("ready", flush=True)
lock, lock_it = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
while sys.argv[1] == "stuck":
    lock_it(lock)  # the second time for ever
while True:
    signal.pause()
"""


@pytest.mark.parametrize(
    ("what", "status", "number"),
    [
        *(("ends", 0, number) for number in (signal.SIGTERM, signal.SIGINT)),
        *(("hangs", 1, number) for number in (signal.SIGTERM, signal.SIGINT)),
        ("stuck", 1, signal.SIGTERM),
    ],
)
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
