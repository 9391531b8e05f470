"""The studies of one file, in turn: one, or one for each value of [task] that is swept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping

from ...analysis.rows import rundir, swept
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location
from .. import DONE, FAILED, INTERRUPTED
from ..console import Console
from ..plan import checks
from ..study.schema import Study, at
from . import run as single
from .early import Early
from .lock import locked


def run(
    studies: Mapping[str, Study],
    folder: Location,
    console: Console,
    address: str | None = None,
    insecure: bool = False,
    early: Early | None = None,
) -> int:
    """`run.run` of each study, one after the other, in the folder of its value; the worst code.

    studies: as from `parse.read_swept`.  All are checked before the first one starts.
    """
    if "" in studies:
        _check_unswept(folder)
        return single.run(studies[""], folder, console, address, insecure, early)
    for study in studies.values():
        with at(study.place):
            checks.check(_unloaded(study))
    with locked(folder) as check:
        _check_swept(folder)
        _say_left_out(studies, folder, console)
        swept.record(folder, list(studies))
        worst = DONE
        for number, (value, study) in enumerate(studies.items(), 1):
            check()
            console.say(f"[task] {value} ({number} of {len(studies)})")
            code = single.run(_unloaded(study), folder / value, console, address, insecure, early)
            if code == INTERRUPTED:
                return INTERRUPTED
            if code == FAILED:
                worst = FAILED
            if early is not None:  # each of the others has a Ray of its own
                early.end()
                early = None
    return worst


def _say_left_out(studies: Mapping[str, Study], folder: Location, console: Console) -> None:
    """Say which values of an earlier run are compared no more. Raises Mistake if other keys were
    swept.
    """
    before = swept.studies(folder)
    swept_now = _keys(next(iter(studies)))
    for value in before:
        if _keys(value) != swept_now:
            rule = f"an output folder is of one sweep, this one of {_keys(value)}"
            raise Mistake(f"{folder}: {rule}; got {swept_now}: choose another --out")
        if value not in studies:
            console.say(f"{value} is compared no more; its rows are kept in {before[value]}")


def _keys(value: str) -> str:
    """The keys that a combination of values is of."""
    keys = [part.partition("=")[0] for part in value.split(",")]
    return ", ".join(keys)


def _check_swept(folder: Location) -> None:
    """Raise Mistake if a folder holds a study that sweeps nothing."""
    if rundir.plan(folder).exists():
        rule = "a study that sweeps values of [task] has an output folder of its own"
        got = "one of a study that sweeps none: choose another --out"
        raise Mistake(f"{folder}: {rule}; got {got}")


def _unloaded(study: Study) -> Study:
    """The study with a task that has read no data: memory holds those of one value at a time."""
    task = dataclasses.replace(study.task)
    return dataclasses.replace(study, task=task)


def _check_unswept(folder: Location) -> None:
    """Raise Mistake if a folder holds studies of swept values. What cannot be read holds none:
    `locked` says what is wrong with it.
    """
    values: object = None
    with contextlib.suppress(OSError):
        values = swept.studies(folder)
    if values:
        rule = "a study that sweeps no value of [task] has an output folder of its own"
        raise Mistake(f"{folder}: {rule}; got one of swept values: choose another --out")
