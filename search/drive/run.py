"""The driver: what is left of a study is trained, then what was measured is looked at. The table is
the truth.

Carrying on is the ordinary case: which members are done is read from the rows, which cohorts there
are from the plan.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ...analysis.points import front
from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Remote, Where, locate, remove_tree, sweep
from ...trainables.data.splits import pack
from ...trainables.records.cohort import Cohort
from ...trainables.records.networks import keep_only
from .. import DONE, FAILED, INTERRUPTED, LONGEST_TEMPORARY
from ..console import Console
from ..plan import checks, generations
from ..study.schema import Study, at
from . import interrupts, lease
from .progress import Progress
from .work import Work, write_ends


def run(
    study: Study,
    folder: Where,
    console: Console,
    address: str | None = None,
    insecure: bool = False,
) -> int:
    """Do what is left of `study` in `folder`; returns an exit code.

    address: of a Ray cluster to join; without it one is started on this machine.  insecure: join it
    though it is open; RAY_AUTH_MODE is `disabled` then, since before Ray was imported. Raises
    Mistake with one sentence, before anything is trained, if the study cannot run there.
    """
    folder = locate(folder)

    say = console.say
    if insecure and address is None:
        raise Mistake("--insecure: goes with --address; a Ray of our own is never open")
    with at(study.place):
        checks.check(study)
    from . import cluster  # Ray takes two seconds to import, and bad input should not wait for it

    last_words: list[str] = []
    with interrupts.handled(), contextlib.ExitStack() as stack:
        stack.callback(
            _say_all, say, last_words
        )  # when Ray is gone, which says something of its own until then
        if address is not None:
            stack.enter_context(cluster.joined_ray(address, insecure))
        with at(study.place):
            slots = cluster.workers(study, address is not None)
            if address is None and _is_new(folder):
                checks.check_memory(study, slots)
        held = stack.enter_context(locked(folder))
        if address is not None:
            cluster.shared(folder)
        planned = generations.Plan(study, folder, slots, here=address is None)
        planned.open()
        for path, why in table.set_aside(folder).items():
            say(f"{path.name}: {why}; moved to {folder / 'rejected'}")
        for caution in checks.cautions(study):
            say(f"caution: {caution}")
        _skip(study, folder, say)
        work = Work(study, folder, planned, held.check)
        if work.anything():
            before = work.members - work.left
            with Progress(folder, planned.expected, before, study.task.rungs, console) as progress:
                work.stopped = progress.left
                packed = pack(study.task.data)
                if address is None:
                    room = (
                        sum(
                            x.nbytes for part in ("inputs", "labels") for x in packed[part].values()
                        )
                        if packed
                        else 0
                    )
                    stack.enter_context(
                        cluster.local_ray(held.scratch, slots * study.about.cpus, room)
                    )
                try:
                    cluster.train(study, work, held.scratch, packed, progress)
                except OSError as error:
                    last_words.append(
                        f"{folder}: {error.strerror or error}; rows are kept: the same command goes on"
                    )
                    return INTERRUPTED
            if not work.over:
                left = f"interrupted with {work.left} members to go"
                last_words.append(f"{left}; rows are kept in {folder}: the same command goes on")
                return INTERRUPTED
        remove_tree(folder / "state")
        sweep(folder)
        names = {path.name for path in table.files(folder)}
        failed = any(f"{cohort.name}-failed.parquet" in names for cohort in planned.cohorts)
        if study.about.keep == "front" and not (
            failed and study.about.controls == "standard"
        ):  # controls are tried again
            chosen = front.members_on_front(table.last(table.current(folder, table.read(folder))))
            if lost := keep_only(folder, chosen):
                say(f"{lost} networks now on the front were dropped when the study was smaller")
        return FAILED if failed else DONE


def _say_all(say: Callable[[str], None], sentences: Sequence[str]) -> None:
    for sentence in sentences:
        say(sentence)


def _is_new(folder: Location) -> bool:
    """Whether a folder holds no plan yet. What cannot be read is not new: `locked` says what is
    wrong with it.
    """
    try:
        return table.planned(folder) is None
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class Held:
    """An output folder held by this driver. scratch: a folder on this machine.  check: raises
    Mistake if it was lost.
    """

    scratch: Path
    check: Callable[[], None]


@contextlib.contextmanager
def locked(folder: Location) -> Iterator[Held]:
    """Hold `folder` for this driver alone, with a scratch folder that is removed at the end.

    Raises Mistake if the folder cannot be written to, if another driver holds it, or as `_scratch`
    does.
    """
    with contextlib.ExitStack() as stack:
        check: Callable[[], None] = lambda: None  # noqa: E731 - a lock of this machine is not lost
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / ".probe"
            try:
                probe.write_bytes(bytes(1 << 20))
            finally:
                probe.unlink(missing_ok=True)
            if isinstance(folder, Remote):
                check = stack.enter_context(lease.held(folder))
            elif not _held(stack.enter_context((folder / "lock").open("a"))):
                raise Mistake(
                    f"{folder}: one run at a time writes to an output folder; another one does now"
                )
        except OSError as error:
            rule = "the output folder can be written to and has 1 MB free"
            raise Mistake(f"{folder}: {rule}; got: {error.strerror or error}") from None
        yield Held(stack.enter_context(_scratch()), check)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for Ray; those of drivers that were killed are removed first.

    Raises Mistake if the path of the temporary folder is too long for Ray.
    """
    length = len(os.fsencode(tempfile.gettempdir()))
    if length > LONGEST_TEMPORARY:
        rule = f"the temporary folder has a path of at most {LONGEST_TEMPORARY} bytes, for Ray's sockets below it"
        raise Mistake(
            f"{tempfile.gettempdir()}: {rule}; got {length}; set TMPDIR to a shorter one, such as /tmp"
        )
    for path in Path(tempfile.gettempdir()).glob("prunefront-*/driver"):
        with contextlib.suppress(OSError), path.open("a") as file:
            if _held(file):  # its driver does not live
                shutil.rmtree(path.parent, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="prunefront-"))
    remove = functools.partial(shutil.rmtree, scratch, ignore_errors=True)
    try:
        with (scratch / "driver").open("a") as file, interrupts.at_the_latest(remove):
            _held(file)
            yield scratch
    finally:
        remove()


def _held(file: IO[str]) -> bool:
    """Whether this process now holds the lock of `file`; it goes with the process, however that
    ends.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _skip(study: Study, folder: Location, say: Callable[[str], None]) -> None:
    """Rows for the members of arms that cannot run on the task, with the reason."""
    for arm in study.arms:
        reason = checks.skipped(arm, study.task)
        if reason is not None:
            say(f"arm {arm.name}: skipped: {reason}")
            name = f"skipped-{hashlib.sha256(arm.name.encode()).hexdigest()[:12]}"
            known = generations.members(arm, study.about.seeds)
            write_ends(
                study,
                folder,
                Cohort(name, arm.name, arm.algorithm_name, tuple(known)),
                "skipped",
                reason,
            )
