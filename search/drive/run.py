"""The driver: what is left of a study is trained, then what was measured is looked at. The table is
the truth.

Carrying on is the ordinary case: which members are done is read from the rows, which cohorts there
are from the plan.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...analysis.points import front
from ...analysis.rows import rundir, table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, locate, remove_tree, sweep
from ...trainables.data.share import Packed, pack
from ...trainables.records.cohort import Cohort
from ...trainables.records.networks import keep_only
from .. import DONE, FAILED, INTERRUPTED
from ..console import Console
from ..plan import checks, generations
from ..study.parse import at
from ..study.schema import Study
from . import interrupts, preview, scratch
from .early import FITS_BYTES, Early, imported
from .lock import locked
from .progress import Progress
from .work import Work, write_ends

Say = Callable[[str], None]


def run(
    study: Study,
    folder: Where,
    console: Console,
    address: str | None = None,
    insecure: bool = False,
    early: Early | None = None,
) -> int:
    """Do what is left of `study` in `folder`; returns an exit code.

    address: of a Ray cluster to join; without it one is started on this machine.  insecure: join it
    though it is open; RAY_AUTH_MODE is `disabled` then, since before Ray was imported.  early: a
    Ray of our own that runs already.

    Raises Mistake with one sentence, before anything is trained, if the study cannot run there.
    """
    folder = locate(folder)
    if insecure and address is None:
        raise Mistake("--insecure: goes with --address; a Ray of our own is never open")
    with at(study.place):
        checks.check(study)
    from . import cluster  # Ray takes two seconds to import, and bad input should not wait for it

    last_words: list[str] = []
    with interrupts.handled(), contextlib.ExitStack() as stack:
        # When Ray is gone, which says something of its own until then.
        stack.callback(_say_all, console.say, last_words)
        if address is not None:
            stack.enter_context(cluster.joined_ray(address, insecure))
        with at(study.place):
            slots = cluster.workers(study, address is not None)
            if address is None and _is_new(folder):
                checks.check_memory(study, slots)
        check = stack.enter_context(locked(folder))
        here = stack.enter_context(scratch.folder())
        if address is not None:
            cluster.check_shared(folder)
        plan = generations.Plan(study, folder, slots, here=address is None)
        plan.say = console.say
        plan.open()
        _say_cautions(study, folder, console.say)
        _skip(study, folder, console.say)
        work = Work(study, folder, plan, check)
        work.open()
        if work.anything():
            own = None if address is not None else slots * study.about.cpus
            interrupted = _train(
                study,
                work,
                console,
                here,
                own,
                early,
            )
            if interrupted:
                last_words.append(f"{interrupted}: the same command goes on")
                return INTERRUPTED
        return _finish(study, folder, plan, console.say)


def _train(
    study: Study,
    work: Work,
    console: Console,
    here: Path,
    cpus: int | None,
    early: Early | None,
) -> str:
    """Train all there is; returns what interrupted it, if anything did.

    here: a scratch folder.  cpus: of a Ray of our own; None: one was joined.  early: it, if it
    runs already.
    """
    from . import handout

    folder = work.folder
    before = work.members - work.left
    expected = work.plan.expected
    # Ray ends after the display, which would be in the way of what Ray says.
    with (
        contextlib.ExitStack() as after,
        Progress(folder, expected, before, study.task.rungs, console) as progress,
    ):
        work.stopped = progress.left
        packed = pack(study.task.data)
        after.enter_context(_ray(here, cpus, packed, early))
        after.enter_context(preview.drawn(folder, console))
        if early is not None:  # the report comes next, and workers import what they need now
            after.enter_context(imported("...analysis.report"))
        try:
            handout.train(study, work, here, packed, progress)
        except OSError as error:
            return f"{folder}: {error.strerror or error}; rows are kept"
    if not work.over:
        return f"interrupted with {work.left} members to go; rows are kept in {folder}"
    return ""


@contextlib.contextmanager
def _ray(
    here: Path,
    cpus: int | None,
    packed: Packed | None,
    early: Early | None,
) -> Iterator[None]:
    """A Ray of our own with so many CPUs and room for the data, or the one that was joined."""
    from . import cluster, quick

    if cpus is None:
        yield
        return
    room = _bytes(packed)
    with contextlib.ExitStack() as stack:
        stack.enter_context(quick.inherited_environment())
        if early is not None and room > FITS_BYTES:
            early.end()
            early = None
        if early is None:
            stack.enter_context(cluster.local_ray(here, cpus, room))
        yield
        if early is not None:
            early.end()  # what it says when it ends comes before the last words


def _bytes(packed: Packed | None) -> int:
    """Bytes of a packed data set."""
    if packed is None:
        return 0
    total = 0
    for part in ("inputs", "labels"):
        total += sum(array.nbytes for array in packed[part].values())
    return total


def _finish(
    study: Study,
    folder: Location,
    plan: generations.Plan,
    say: Say,
) -> int:
    """Tidy up after the last cohort, and keep the networks that are wanted; the exit code."""
    remove_tree(rundir.states(folder))
    sweep(folder)
    names = {path.name for path in table.files(folder)}
    failed = any(f"{cohort.name}-failed.parquet" in names for cohort in plan.cohorts)
    tried_again = failed and study.about.controls == "standard"  # controls are
    if study.about.keep == "front" and not tried_again:
        rows = table.read(folder)
        current = table.current(folder, rows)
        last = table.last(current)
        members = front.members_on_front(last)
        lost = keep_only(folder, members)
        if lost:
            say(f"{lost} networks now on the front were dropped when the study was smaller")
    return FAILED if failed else DONE


def _say_all(say: Say, sentences: Sequence[str]) -> None:
    for sentence in sentences:
        say(sentence)


def _say_cautions(study: Study, folder: Location, say: Say) -> None:
    """Set aside the row files that cannot be trusted, and say that and what looks odd."""
    place = rundir.rejected(folder)
    aside = table.set_aside(folder)
    for path, why in aside.items():
        say(f"{path.name}: {why}; moved to {place}")
    for caution in checks.cautions(study):
        say(f"caution: {caution}")


def _is_new(folder: Location) -> bool:
    """Whether a folder holds no plan yet. What cannot be read is not new: `locked` says what is
    wrong with it.
    """
    try:
        return table.planned(folder) is None
    except OSError:
        return False


def _skip(study: Study, folder: Location, say: Say) -> None:
    """Rows for the members of arms that cannot run on the task, with the reason."""
    for arm in study.arms:
        reason = checks.skipped(arm, study.task)
        if reason is None:
            continue
        say(f"arm {arm.name}: skipped: {reason}")
        hashed = hashlib.sha256(arm.name.encode())
        digest = hashed.hexdigest()
        name = f"skipped-{digest[:12]}"
        members = generations.members(arm, study.about.seeds)
        cohort = Cohort(name, arm.name, arm.algorithm_name, tuple(members))
        write_ends(study, folder, cohort, "skipped", reason)
