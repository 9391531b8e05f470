"""Ray's start before the study is read: both take seconds, and neither needs the other.

It is worth while in a fresh process that has all of a study to do. One worker starts with Ray: it
imports what cohorts need, is given nothing before the study was checked, and ends with the driver
if the study is refused. A study that names code of a
user's own is read first: what runs in the driver then is told from a worker by whether Ray runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...analysis.rows import rundir
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, locate
from . import interrupts, scratch

FITS_BYTES = 16 << 20
"""A data set for which the object store of a Ray that knew of none has room."""


@dataclasses.dataclass(frozen=True)
class Early:
    """A Ray of our own that runs on all CPUs of this machine."""

    stack: contextlib.ExitStack

    def end(self) -> None:
        """End Ray, and remove its folder."""
        self.stack.close()


@contextlib.contextmanager
def started(study: Path, folder: str | None) -> Iterator[Early | None]:
    """Ray, where starting it now saves time; None where it does not.

    study: a file that nobody has read yet.  folder: the output folder as the command line has it.
    """
    if not _saves_time(study, folder):
        yield None
        return
    with contextlib.ExitStack() as stack:
        yield _start(stack)


def _start(stack: contextlib.ExitStack) -> Early | None:
    stack.enter_context(interrupts.handled())
    try:
        here = stack.enter_context(scratch.folder())
    except Mistake:  # it will be said when the study was looked at
        return None
    from . import cluster

    # While Ray's processes start, this one waits, and may import what takes longest.
    stack.enter_context(imported("torch"))
    cpus = len(os.sched_getaffinity(0))
    stack.enter_context(cluster.local_ray(here, cpus))
    return Early(stack)


@contextlib.contextmanager
def imported(module: str) -> Iterator[None]:
    """Import a module beside the block, which mostly waits; whoever needs it waits for that."""
    ahead = threading.Thread(
        target=_import,
        args=(module,),
        name="imports",
    )
    ahead.start()
    try:
        yield
    finally:
        ahead.join()


def _import(module: str) -> None:
    with contextlib.suppress(Exception):  # it is raised where the module is used
        importlib.import_module(module, __package__)


def _saves_time(study: Path, folder: str | None) -> bool:
    """Whether all is still to be imported, and all of a study that looks like one, without code of
    a user's own, is still to be done in a folder of this machine.
    """
    if "torch" in sys.modules:
        return False
    try:
        text: Any = tomllib.loads(study.read_text(encoding="utf-8"))
        place = locate(folder or Path("runs") / text["study"]["name"])
        return _is_ours(text) and _is_new(place)
    except (OSError, ValueError, LookupError, TypeError):
        return False  # what is wrong is said by who reads it


def _is_ours(text: dict[str, Any]) -> bool:
    """Whether a study has arms and names no module: a name of ours has no dot in it."""
    arms = text["arm"]
    for arm in arms:
        if "." in arm["algorithm"]:
            return False
    task = text.get("task", {})
    for value in task.values():
        if isinstance(value, str) and "." in value:
            return False
    return bool(arms)


def _is_new(folder: Location) -> bool:
    """Whether nothing was planned in a folder of this machine."""
    return isinstance(folder, Path) and not rundir.plan(folder).exists()
