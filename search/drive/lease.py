"""A lock in a remote folder, where there is no file lock: an object that its holder renews."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Remote

LASTS = 3
"""A lease that is not renewed for so many periods has run out."""


@contextlib.contextmanager
def held(folder: Remote, every: float = 10.0) -> Iterator[Callable[[], None]]:
    """A lease on `folder` for the block; gives a function that raises Mistake if it was lost.

    every: seconds between renewals, the same for all that use the folder. Who finds a lease watches
    whether it is renewed, so that no clocks are compared: one that lives is refused within about
    `every` seconds, one whose holder was killed has run out after `LASTS * every`. Raises Mistake
    if another one holds it; OSError if the folder cannot be reached.

    It keeps two drivers apart that begin at different moments, and shows those that begin together,
    or whose holder could not reach the folder for `LASTS * every` seconds, that they were two. It
    cannot keep these apart at every moment: a store has no lock, and a request may be late. Rows
    are the same whoever writes them: two drivers waste work and lose nothing.
    """
    lock = folder / "lock"
    _wait(lock, every)
    lease = _Lease(lock, every)
    try:
        lease.renew(0)
        time.sleep(
            every / 10
        )  # time for another one that saw no lock either: the last to write holds it
        if lease.found() != lease.name:
            raise Mistake(_taken(lock))
        lease.thread.start()
        yield lease.check
    finally:
        lease.end()


def _wait(lock: Remote, every: float) -> None:
    """Return when there is no lease, or one that has run out. Raises Mistake when it is seen to be
    renewed.
    """
    before, end = _text(lock), time.monotonic() + LASTS * every
    while before and time.monotonic() < end:
        time.sleep(every / 10)
        now = _text(lock)
        if now not in ("", before):
            raise Mistake(_taken(lock))
        before = now


def _text(lock: Remote) -> str:
    """Who holds the lease and how often it was renewed: a name, the host, the process, a count.
    Empty: nobody.
    """
    try:
        return lock.read_text()
    except FileNotFoundError:
        return ""


def _taken(lock: Remote) -> str:
    by = _text(lock).split()
    where = f" on {by[1]}, process {by[2]}" if len(by) == 4 else ""
    return (
        f"{lock.parent}: one run at a time writes to an output folder; another one does now{where}"
    )


class _Lease:
    """A lease of this process on the object `lock`."""

    def __init__(self, lock: Remote, every: float) -> None:
        self.lock, self.every, self.name = lock, every, uuid.uuid4().hex
        self.lost, self.stop = False, threading.Event()
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def check(self) -> None:
        """Raise Mistake if another one may have taken the folder."""
        if self.lost:
            raise Mistake(f"{_taken(self.lock)}, or did; this one stops, and its rows are kept")

    def found(self) -> str:
        """The name of who holds the lease; empty: nobody."""
        return _text(self.lock).partition(" ")[0]

    def renew(self, count: int) -> None:
        """Write the lease, other than it was before."""
        self.lock.write_text(f"{self.name} {socket.gethostname()} {os.getpid()} {count}")

    def end(self) -> None:
        """Give the folder back, unless it is another one's by now."""
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join()
        with contextlib.suppress(OSError):  # then it runs out
            if self.found() == self.name:
                self.lock.unlink()

    def _keep(self) -> None:
        """Renew the lease until it is to end or lost."""
        seen, count = time.monotonic(), 0
        while not self.lost and not self.stop.wait(self.every):
            with contextlib.suppress(OSError):  # the next one may get through
                count += 1
                if self.found() not in ("", self.name):
                    self.lost = True
                    return
                self.renew(count)
                seen = time.monotonic()
            self.lost = time.monotonic() - seen > LASTS * self.every
