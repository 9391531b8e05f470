"""The scratch folder of a driver on its own machine: for Ray's files, and gone with the driver."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...analysis.rows.mistake import Mistake
from .. import LONGEST_TEMPORARY
from . import interrupts, lock


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A new folder, removed at the end; those of drivers that were killed are removed first.

    Raises Mistake if the path of the temporary folder is too long for Ray.
    """
    _check_length()
    _remove_orphans()
    scratch = Path(tempfile.mkdtemp(prefix="prunefront-"))
    remove = functools.partial(shutil.rmtree, scratch, ignore_errors=True)
    try:
        with (scratch / "driver").open("a") as file, interrupts.at_the_latest(remove):
            lock.take(file)
            yield scratch
    finally:
        remove()


def _check_length() -> None:
    temporary = tempfile.gettempdir()
    length = len(os.fsencode(temporary))
    if length <= LONGEST_TEMPORARY:
        return
    rule = f"the temporary folder has a path of at most {LONGEST_TEMPORARY} bytes"
    why = "for Ray's sockets below it"
    cure = "set TMPDIR to a shorter one, such as /tmp"
    raise Mistake(f"{temporary}: {rule}, {why}; got {length}; {cure}")


def _remove_orphans() -> None:
    for path in Path(tempfile.gettempdir()).glob("prunefront-*/driver"):
        with contextlib.suppress(OSError), path.open("a") as file:
            if lock.take(file):  # its driver does not live
                shutil.rmtree(path.parent, ignore_errors=True)
