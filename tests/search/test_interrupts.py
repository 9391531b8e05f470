"""Signals: the first one stops, others do not disturb what is being tidied up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prunefront.search import INTERRUPTED
from prunefront.search.drive import interrupts

AGAIN = """
import os, signal, sys, time
from prunefront.search.drive import interrupts
with interrupts.bounded():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    finally:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        print("tidied up", flush=True)
"""


def test_more_signals_do_not_disturb_tidying_up():
    ran = subprocess.run(
        [sys.executable, "-c", AGAIN], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == INTERRUPTED
    assert ran.stdout == "tidied up\n"
    assert ran.stderr == "prunefront: interrupted; the same command goes on\n", (
        "one sentence, and no traceback"
    )


FORKING = """
import os, signal, time
from prunefront.search.drive import interrupts
signals = [signal.SIGTERM]
def callback():
    if signals:
        signal.raise_signal(signals.pop())
os.register_at_fork(after_in_parent=callback)
with interrupts.bounded():
    begun = time.monotonic()
    if not os.fork():
        os._exit(0)
    try:
        time.sleep(5)
    finally:
        print("at once" if time.monotonic() - begun < 4 else "late", flush=True)
"""


def test_an_interrupt_that_python_swallows_comes_again():
    """Python prints what a callback of a fork raises, and goes on: libraries have such callbacks."""
    command = [sys.executable, "-W", "ignore", "-c", FORKING]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == INTERRUPTED
    assert ran.stdout == "at once\n"
    assert ran.stderr == "prunefront: interrupted; the same command goes on\n"


def test_where_no_thread_keeps_the_time_a_second_interrupt_is_heard():
    """In a notebook, say."""
    with interrupts.handled():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    interrupts._begin()


def test_a_keyboard_interrupt_of_a_users_own_code_is_said(tmp_path: Path):
    (tmp_path / "stops.py").write_text("def data():\n    raise KeyboardInterrupt\n")
    study = '[study]\nname = "s"\nseeds = [0]\n[task]\ndataset = "stops.data"\n[[arm]]\nalgorithm = "dense"\n'
    (tmp_path / "study.toml").write_text(study)
    code = "from prunefront.search.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "study.toml"]
    ran = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.returncode, ran.stdout) == (INTERRUPTED, "")
    assert ran.stderr == "prunefront: interrupted; the same command goes on\n"
