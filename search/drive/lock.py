"""The lock of an output folder: one driver at a time writes to it.

On this machine it is a lock of the kernel, which goes with its process. In a store, where there is
none, it is a lease: an object that its holder renews.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO

from ...analysis.rows import rundir
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Remote

LASTS_PERIODS = 3
"""A lease that is not renewed for so many periods has run out."""
FREE_BYTES = 1 << 20
"""Room that an output folder must have."""

_ONE_AT_A_TIME = "one run at a time writes to an output folder; another one does now"


@contextlib.contextmanager
def locked(folder: Location) -> Iterator[Callable[[], None]]:
    """Hold `folder`, made where it is not there, for this driver alone; gives a function that
    raises Mistake if it was lost.

    Raises Mistake if the folder cannot be written to, or if another driver holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            _probe(folder)
            if isinstance(folder, Remote):
                check = stack.enter_context(leased(folder))
            else:
                check = _never_lost
                file = stack.enter_context((folder / rundir.LOCK).open("a"))
                if not take(file):
                    raise Mistake(f"{folder}: {_ONE_AT_A_TIME}")
        except OSError as error:
            rule = "the output folder can be written to and has 1 MB free"
            raise Mistake(f"{folder}: {rule}; got: {error.strerror or error}") from None
        yield check


def _probe(folder: Location) -> None:
    """Raise OSError if `folder` has no room or cannot be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".probe"
    try:
        probe.write_bytes(bytes(FREE_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def _never_lost() -> None:
    """A lock of this machine's kernel cannot be lost."""


def take(file: IO[str]) -> bool:
    """Whether this process now holds the lock of `file`; it goes with the process, however that
    ends.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def leased(folder: Remote, every: float = 10.0) -> Iterator[Callable[[], None]]:
    """A lease on `folder` for the block; gives a function that raises Mistake if it was lost.

    every: seconds between renewals, the same for all that use the folder. Who finds a lease watches
    whether it is renewed, so that no clocks are compared: one that lives is refused within about
    `every` seconds, one whose holder was killed has run out after `LASTS_PERIODS * every`. Raises
    Mistake if another one holds it; OSError if the folder cannot be reached.

    It keeps two drivers apart that begin at different moments, and shows those that begin together,
    or whose holder could not reach the folder for `LASTS_PERIODS * every` seconds, that they were
    two. It cannot keep these apart at every moment: a store has no lock, and a request may be late.
    Rows are the same whoever writes them: two drivers waste work and lose nothing.
    """
    lock = folder / rundir.LOCK
    _wait(lock, every)
    lease = _Lease(lock, every)
    try:
        lease.renew(0)
        # Time for another one that saw no lock either: the last to write holds it.
        time.sleep(every / 10)
        if lease.holder() != lease.name:
            raise Mistake(_taken(lock))
        lease.thread.start()
        yield lease.check
    finally:
        lease.end()


def _wait(lock: Remote, every: float) -> None:
    """Return when there is no lease, or one that has run out. Raises Mistake when it is seen to be
    renewed.
    """
    before = _text(lock)
    end = time.monotonic() + LASTS_PERIODS * every
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
    sentence = f"{lock.parent}: {_ONE_AT_A_TIME}"
    words = _text(lock).split()
    if len(words) != 4:
        return sentence
    _, host, process, _ = words
    return f"{sentence} on {host}, process {process}"


class _Lease:
    """A lease of this process on the object `lock`."""

    def __init__(self, lock: Remote, every: float) -> None:
        self.lock = lock
        self.every = every
        self.name = uuid.uuid4().hex
        self.lost = False
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def check(self) -> None:
        """Raise Mistake if another one may have taken the folder."""
        if self.lost:
            raise Mistake(f"{_taken(self.lock)}, or did; this one stops, and its rows are kept")

    def holder(self) -> str:
        """The name of who holds the lease; empty: nobody."""
        return _text(self.lock).partition(" ")[0]

    def renew(self, count: int) -> None:
        """Write the lease, other than it was before."""
        host = socket.gethostname()
        process = os.getpid()
        self.lock.write_text(f"{self.name} {host} {process} {count}")

    def end(self) -> None:
        """Give the folder back, unless it is another one's by now."""
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join()
        with contextlib.suppress(OSError):  # then it runs out
            if self.holder() == self.name:
                self.lock.unlink()

    def _keep(self) -> None:
        """Renew the lease until it is to end or lost."""
        renewed = time.monotonic()
        count = 0
        while not self.lost and not self.stop.wait(self.every):
            with contextlib.suppress(OSError):  # the next one may get through
                count += 1
                if self.holder() not in ("", self.name):
                    self.lost = True
                    return
                self.renew(count)
                renewed = time.monotonic()
            self.lost = time.monotonic() - renewed > LASTS_PERIODS * self.every
