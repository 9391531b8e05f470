"""The driver: what is left of a study is trained, then what was measured is looked at. The table is the truth.

Carrying on is the ordinary case: which members are done is read from the rows, which cohorts there are from the plan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console

from ..analysis import front, table
from ..trainables.cohort import Cohort, footer, hp_types, keep_only, labels, rows_path
from ..trainables.gradient import dense_ready
from ..trainables.task import identity
from . import DONE, FAILED, INTERRUPTED, LONGEST_TEMPORARY, plan
from .progress import Progress
from .study import Study, at

Statuses = Mapping[tuple[str, str], str]
"""(arm, member) -> status of its last row."""


def run(study: Study, folder: Path, console: Console) -> int:
    """Do what is left of `study` in `folder`; returns an exit code.

    Raises ValueError with one sentence, before Ray starts, if the study cannot run there.
    """
    with at(study.path):
        plan.check(study)
        from .cluster import train, workers  # Ray takes two seconds to import, and bad input should not wait for it

        slots = workers(study)
    with locked(folder) as scratch:
        cohorts = plan.prepare(study, folder, slots)
        for path, why in table.set_aside(folder).items():
            console.print(f"{path.name}: {why}; moved to {folder / 'rejected'}", highlight=False, soft_wrap=True)
        _skip(study, folder)
        statuses = _statuses(folder)
        pending = _pending(study, folder, cohorts, statuses)
        if pending:
            for cohort in pending:
                rows_path(folder, cohort.name, "failed").unlink(missing_ok=True)
            ended = sum(_ended(study, cohort, statuses) for cohort in cohorts)
            with Progress(folder, pending, ended, study.task.rungs, console) as progress:
                errors = train(study, folder, scratch, pending, slots, progress)
            statuses = _statuses(folder)
            pending = _pending(study, folder, cohorts, statuses)
            for cohort in pending:
                if cohort.name in errors:
                    _fail(study, folder, cohort, errors[cohort.name], statuses)
            left = [cohort for cohort in pending if cohort.algorithm and cohort.name not in errors]
            if left:
                count = sum(len(cohort.members) - _ended(study, cohort, statuses) for cohort in left)
                sentence = f"interrupted with {count} members to go; rows are kept in {folder}: the same command goes on"
                console.print(sentence, highlight=False, soft_wrap=True)
                return INTERRUPTED
        shutil.rmtree(folder / "state", ignore_errors=True)
        if study.about.keep == "front":
            chosen = front.members_on_front(table.last(table.current(folder, table.read(folder))))
            if lost := keep_only(folder, chosen):
                console.print(f"{lost} networks now on the front were dropped when the study was smaller", soft_wrap=True)
        held = table.last(table.current(folder, table.read(folder, ["arm", "member", "rung", "status"])))
        return FAILED if "failed" in set(held["status"]) else DONE


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[Path]:
    """Hold `folder` for this driver alone; gives a scratch folder that is removed at the end.

    Raises ValueError if the folder cannot be written to, if another driver holds it, or as `_scratch` does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        try:
            probe.write_bytes(bytes(1 << 20))
        finally:
            probe.unlink(missing_ok=True)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise ValueError(f"{folder}: the output folder can be written to and has 1 MB free; got: {error.strerror}") from None
    with file:
        if not _held(file):
            raise ValueError(f"{folder}: one run at a time writes to an output folder; another one does now")
        with _scratch() as scratch:
            yield scratch


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for Ray; those of drivers that were killed are removed first.

    Raises ValueError if the path of the temporary folder is too long for Ray.
    """
    length = len(os.fsencode(tempfile.gettempdir()))
    if length > LONGEST_TEMPORARY:
        rule = f"the temporary folder has a path of at most {LONGEST_TEMPORARY} bytes, for Ray's sockets below it"
        raise ValueError(f"{tempfile.gettempdir()}: {rule}; got {length}; set TMPDIR to a shorter one, such as /tmp")
    for path in Path(tempfile.gettempdir()).glob("prunefront-*/driver"):
        with contextlib.suppress(OSError), path.open("a") as file:
            if _held(file):  # its driver does not live
                shutil.rmtree(path.parent, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="prunefront-"))
    try:
        with (scratch / "driver").open("a") as file:
            _held(file)
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _held(file: IO[str]) -> bool:
    """Whether this process now holds the lock of `file`; it goes with the process, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _statuses(folder: Path) -> Statuses:
    """Of the members that have a last row and the rows of all rungs before it: a file may have been set aside.

    Also of those that were taken out of the study: their cohorts may hold others, and have nothing to do for them.
    """
    if not table.files(folder):
        return {}
    rows = table.read(folder, ["arm", "member", "rung", "status"])
    measured = rows[rows["rung"] > 0].groupby(["arm", "member"]).size().to_dict()
    last = table.last(rows).itertuples()
    return {(row.arm, row.member): row.status for row in last if measured.get((row.arm, row.member), 0) >= row.rung}  # type: ignore[misc]


def _ids(study: Study, cohort: Cohort) -> list[tuple[str, str]]:
    """(arm, member) of each member of a cohort."""
    algorithm = next((arm.algorithm for arm in study.arms if arm.name == cohort.arm), None)
    if algorithm is None:
        return []
    return [(cohort.arm, identity(study.task, cohort.algorithm, algorithm, member)) for member in cohort.members]


def _ended(study: Study, cohort: Cohort, statuses: Statuses) -> int:
    """How many members of a cohort need no more training; those that failed are tried again."""
    return sum(statuses.get(key, "failed") != "failed" for key in _ids(study, cohort))


def _pending(study: Study, folder: Path, cohorts: Sequence[Cohort], statuses: Statuses) -> list[Cohort]:
    """Cohorts with members left to train, and the dense phases that those start from, if they are not there."""
    task = dataclasses.replace(study.task, starts=str(folder / "starts"))
    open_ = [c for c in cohorts if c.algorithm and _ended(study, c, statuses) < len(c.members)]
    before = {name for cohort in open_ for name in cohort.after}
    dense = [c for c in cohorts if c.name in before and not dense_ready(task, [member.seed for member in c.members])]
    return [*dense, *open_]


def _skip(study: Study, folder: Path) -> None:
    """Rows for the members of arms that cannot run on the task, with the reason."""
    for arm in study.arms:
        reason = arm.algorithm.skip(study.task)
        if reason is not None:
            name = f"skipped-{hashlib.sha256(arm.name.encode()).hexdigest()[:12]}"
            cohort = Cohort(name, arm.name, arm.algorithm_name, tuple(plan.members(arm, study.about.seeds)))
            _write_ends(study, folder, cohort, range(len(cohort.members)), "skipped", reason)


def _fail(study: Study, folder: Path, cohort: Cohort, reason: str, statuses: Statuses) -> None:
    """Rows for the members of a cohort that did not end, with the reason."""
    missing = [slot for slot, key in enumerate(_ids(study, cohort)) if key not in statuses]
    _write_ends(study, folder, cohort, missing, "failed", reason)


def _write_ends(study: Study, folder: Path, cohort: Cohort, slots: Sequence[int], status: str, reason: str) -> None:
    algorithm, ids = next(arm.algorithm for arm in study.arms if arm.name == cohort.arm), _ids(study, cohort)
    rows = [
        labels(study.about.name, study.task, cohort, algorithm, slot, ids[slot][1])
        | {"rung": 0, "status": status, "reason": reason}
        for slot in slots
    ]
    if rows:
        table.write(rows_path(folder, cohort.name, status), rows, hp_types(algorithm.space), footer(study.task))
