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
import os, signal, sys, threading, time
import numpy as np
import xgboost
import models.fit
from models.fit import Part, TreeOptions, fit

heard, asked = threading.Event(), 0
ask, shown = xgboost.DataIter._next_wrapper, Part.chunk

def handle(number, frame):
    heard.set()
    sys.exit(143)

def told_to_end_each_time(self, this):
    signal.raise_signal(signal.SIGTERM)
    return ask(self, this)

def told_to_end_once(self, start):
    global asked
    asked += 1
    if asked == 1:
        os.kill(os.getpid(), signal.SIGTERM)  # the main thread is told
        heard.wait()
    time.sleep(0.001)
    return shown(self, start)

if sys.argv[1] == "each":
    xgboost.DataIter._next_wrapper = told_to_end_each_time
else:
    Part.chunk = told_to_end_once
models.fit.CHUNK_ROWS = 10
signal.signal(signal.SIGTERM, handle)
rows = np.arange(10_000)
part = Part((rows % 7.0).astype(np.float32)[:, None], rows, np.arange(1), rows % 5 == 0)
try:
    fit(part, ("a",), TreeOptions(1, 1, 0.1, 1, 1), lambda text, share: None, 100)
finally:
    print(asked)
"""


def test_a_signal_that_comes_while_a_matrix_is_made_ends_a_fit() -> None:
    """What a handler raises in XGBoost's callback is printed and lost, and memory was corrupted."""
    done = fitting("each")
    assert (done.returncode, done.stderr) == (143, b"")


def test_a_signal_ends_a_fit_before_the_whole_history_was_read() -> None:
    done = fitting("once")
    assert (done.returncode, done.stderr) == (143, b"")
    assert 1 <= int(done.stdout) < 1_000  # chunks; XGBoost reads them all several times


def fitting(told: str) -> subprocess.CompletedProcess[bytes]:
    """What becomes of a process that fits, and is told to end at the first chunk or at each."""
    command = [sys.executable, "-c", FITTING, told]
    return subprocess.run(command, capture_output=True, check=False, timeout=DEADLINE_S)
