"""A process that is told to end does so in good order, or by itself once its time is over."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DEADLINE_S = 30.0
CHILD = """
import ctypes, sys, threading, time
from consumer.app import stop_on_signals
ends, is_stuck = (sys.argv[1] == what for what in ("ends", "stuck"))
stop_on_signals((lambda: sys.exit(0)) if ends else (lambda: None), 60.0 if ends else 0.1)
lock, lock_it, told = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock, threading.Event()

def tell():
    told.wait()
    print("ready", flush=True)

threading.Thread(target=tell, daemon=True).start()
sys.setswitchinterval(1000.0)  # so the thread is heard once this one waits, and not before
if is_stuck:
    lock_it(lock)
told.set()
if is_stuck:
    lock_it(lock)  # the second time for ever
while True:
    time.sleep(0.01)  # a signal just before a longer wait would not end it
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


FITTING = """
import signal, sys
import numpy as np
import xgboost
from models.fit import Part, TreeOptions, fit

read = xgboost.DataIter._next_wrapper

def told_to_end(self, this):
    signal.raise_signal(signal.SIGTERM)
    return read(self, this)

xgboost.DataIter._next_wrapper = told_to_end
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
rows = np.arange(100)
part = Part((rows % 7.0).astype(np.float32)[:, None], rows, np.arange(1), rows % 5 == 0)
fit(part, ("a",), TreeOptions(1, 1, 0.1, 1, 1), lambda text, share: None, 100)
"""


def test_a_signal_that_comes_while_a_matrix_is_made_ends_a_fit() -> None:
    """What a handler raises in XGBoost's callback is printed and lost, and memory was corrupted."""
    done = subprocess.run([sys.executable, "-c", FITTING], capture_output=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout, done.stderr) == (143, b"", b"")
