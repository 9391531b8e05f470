"""Signals that stop a run: SIGTERM, and the SIGHUP of a terminal that was closed, do what Ctrl-C
does.

They come from a user, from `timeout`, from a scheduler, at any moment and more than once. What was
measured is kept, and a process of ours ends within `GRACE` seconds, whatever hangs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from .. import INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE = 10.0
"""Seconds after the first signal in which a process may end in good order."""

AGAIN_SECONDS = 0.1
"""After so long what could not be raised is raised again."""

_first = threading.Event()
"""Set by whoever hears of a signal first: the handler, or the thread that keeps the time while a
library has the handlers.
"""
_stopping = False
"""Whether the handler has run."""
_timed = False
"""Whether a thread keeps the time, and ends the process if tidying up takes too long."""
_last_acts: list[Callable[[], None]] = []


def heard() -> bool:
    """Whether a signal asked the run to stop."""
    return _first.is_set()


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """The first signal stops the block: through Tune's own handler while Tune has one, else with
    KeyboardInterrupt.

    A signal that was ignored before, as by nohup, is ignored still. In another thread than the main
    one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if _stop not in before.values():
        _begin()
    take()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _begin() -> None:
    global _stopping
    _stopping = False
    _first.clear()


def take() -> None:
    """Have the signals handled here, also after a library took them: ray.init does."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


@contextlib.contextmanager
def tune_listens() -> Iterator[None]:
    """Tune, which runs in the block, stops in good order on SIGUSR1; after it nobody listens to
    that any more.
    """
    before = signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, before)


def _stop(number: int, frame: object) -> None:
    global _stopping
    again, _stopping = _stopping, True
    _first.set()
    if not again and callable(signal.getsignal(signal.SIGUSR1)):
        signal.raise_signal(signal.SIGUSR1)
    elif not again or (
        number == signal.SIGINT and not _timed
    ):  # another signal need not disturb what is being tidied up
        raise KeyboardInterrupt


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """For a process of ours, around all that it does: after a signal it ends with INTERRUPTED, at
    the latest after `GRACE`.

    A thread keeps the time: the main one may hang in a library's call, where Python runs no
    handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before_unraisable = sys.unraisablehook
    sys.unraisablehook = _unraisable
    global _timed
    _timed = True
    _begin()
    take()
    try:
        yield
    except BaseException as error:
        if not heard() and isinstance(error, SystemExit) and _cut_short(error):
            _say()  # a user's own code raised KeyboardInterrupt
        if not heard() or (isinstance(error, SystemExit) and not error.code):
            raise
        if not isinstance(error, SystemExit) or _cut_short(error):
            _say()
        raise SystemExit(INTERRUPTED) from None
    finally:
        for (
            number,
            handler,
        ) in before.items():  # after the first signal another one finds nothing left to stop
            signal.signal(number, signal.SIG_IGN if heard() else handler)
        sys.unraisablehook = before_unraisable
        _timed = False
        if not heard():
            signal.set_wakeup_fd(-1)
            os.close(writer)


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    """An interrupt where Python lets nothing through, as in a callback of a fork, comes again."""
    global _stopping
    if told.exc_type is not KeyboardInterrupt or not heard():
        sys.__unraisablehook__(told)
        return
    _stopping = False
    listening = [number for number in SIGNALS if signal.getsignal(number) == _stop]
    main = threading.main_thread().ident
    if listening and main is not None:
        again = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, listening[0]))
        again.daemon = True
        again.start()


def _cut_short(error: BaseException | None) -> bool:
    """Whether an error came of a KeyboardInterrupt: Typer makes an exit of it, without a word."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _watch(reader: int) -> None:
    while (told := os.read(reader, 1)) and told[0] not in SIGNALS:
        continue
    if not told:  # all ended without a signal
        os.close(reader)
        return
    _first.set()
    time.sleep(GRACE)
    for act in reversed(_last_acts):
        with contextlib.suppress(Exception):
            act()
    _say()
    os._exit(INTERRUPTED)


def _say() -> None:
    with contextlib.suppress(OSError):  # a terminal that was closed
        os.write(sys.stderr.fileno(), b"prunefront: interrupted; the same command goes on\n")


@contextlib.contextmanager
def at_the_latest(act: Callable[[], None]) -> Iterator[None]:
    """`act` must still be done where the block does not end within `GRACE` after a signal."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)
