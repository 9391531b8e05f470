"""A block of code that is broken off when it takes too long."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator


class LateError(BaseException):
    """A block took too long. No `except Exception` inside it takes this for a fault."""


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raise LateError where the block takes longer; None, or outside of the main thread: it may
    take for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
