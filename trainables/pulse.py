"""What long work says of itself between two rungs, to whoever listens: a driver, by a file; or
nobody.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from ..analysis.rows import rundir
from ..analysis.rows.storage import Location, save

EVERY = 5.0
"""Seconds between two words, at least."""

_listener: Callable[[str], None] | None = None
_next = 0.0


def tell(what: str, done: int, total: int) -> None:
    """Say that `done` of `total` are done. what: one of them, such as "step". Costs next to nothing
    where nobody listens.
    """
    global _next
    if _listener is None:
        return
    now = time.monotonic()
    if now < _next:
        return
    _next = now + EVERY
    _listener(f"{what} {done:,} of {total:,}")


@contextlib.contextmanager
def heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Have `listener` called with what is said, every few seconds, the first time when `EVERY` has
    passed.
    """
    global _listener, _next
    before = _listener
    _listener = listener
    _next = time.monotonic() + EVERY
    try:
        yield
    finally:
        _listener = before


def path(folder: Location, cohort: str) -> Location:
    """Where the last word of a cohort is, in a study's output folder, while it trains."""
    return rundir.pulse_file(folder, cohort)


@contextlib.contextmanager
def left_in(folder: Location, cohort: str) -> Iterator[None]:
    """Leave the words of a cohort in a file for the driver to `read`. Where that cannot be done,
    training goes on without.
    """

    def leave(word: str) -> None:
        with contextlib.suppress(OSError):
            save(path(folder, cohort), word.encode())

    try:
        with heard(leave):
            yield
    finally:
        with contextlib.suppress(OSError):
            path(folder, cohort).unlink(missing_ok=True)


def last_word(folder: Location, cohort: str) -> str | None:
    """The last word of a cohort; None without one."""
    try:
        return path(folder, cohort).read_text()
    except OSError:
        return None
