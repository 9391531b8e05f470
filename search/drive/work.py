"""What is to be done next: cohorts up to a rung, decisions between rungs, rounds of proposals.
Nothing here needs Ray.

Carrying on is the ordinary case: how far cohorts are is read from the rows, what was decided from
the plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set

import pandas as pd

from ...analysis.rows import rundir, table
from ...analysis.rows.storage import Location
from ...trainables.domain import Value, canonical
from ...trainables.records.cohort import Cohort
from ...trainables.records.rows import footer, hp_types, labels
from ...trainables.task import Task, identity
from ...trainables.training.dense import dense_ready
from ..plan import rungs
from ..plan.generations import Plan, Planned, read_cohort
from ..study import controls
from ..study.schema import Arm, Study


@dataclasses.dataclass(frozen=True)
class Segment:
    """A cohort, and the rung up to which it is to be trained."""

    cohort: Planned
    upto: int


@dataclasses.dataclass
class _Place:
    """How far a cohort is: the rung that it has reached, and how many of its members have no last
    row.
    """

    rung: int
    left: int


_NOT_PLANNED = _Place(0, 0)


class Work:
    """Hands out segments and takes them back. `open` comes first: it reads how far all is. With
    rounds or rungs to wait for, the order of what ends makes no difference.

    check: raises Mistake if the folder is no longer ours.  stopped: called with the number of
    members that a decision stops, and the rung.
    """

    def __init__(
        self,
        study: Study,
        folder: Location,
        plan: Plan,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.study = study
        self.folder = folder
        self.plan = plan
        self._check = check
        self.stopped: Callable[[int, int], None] = lambda count, rung: None
        self._arms = {arm.name: arm for arm in study.arms}
        self._measured = rungs.Measured(study.goals)
        self._queue: list[Planned] = []
        self._running: dict[str, Planned] = {}
        self._places: dict[str, _Place] = {}
        self._dense: set[str] = set()  # dense phases that are not trained yet
        self._decisions: set[str] = set()  # names of the files that record them
        self._complete = False

    def open(self) -> None:
        """Read how far all cohorts are, and put what is to be trained into the queue.

        What failed is tried again: its rows are removed. Where nothing waits, the next decision is
        made or the next round planned, so that afterwards the queue is empty only where nothing is
        left to do.
        """
        self._check()
        self._decisions = {path.name for path in rundir.decision_files(self.folder)}
        names = {path.name for path in table.files(self.folder)}
        for planned in self.plan.cohorts:
            failed = self._rows(planned, "failed")
            if failed.name in names:
                failed.unlink(missing_ok=True)
            if planned.algorithm:
                self._places[planned.name] = self._settled(planned, names)
        self._enter(self.plan.cohorts)
        self._refill()

    # ---- questions

    @property
    def left(self) -> int:
        """Members without a last row, of those planned so far."""
        return sum(place.left for place in self._places.values())

    @property
    def members(self) -> int:
        """Members planned so far."""
        return sum(planned.size for planned in self.plan.cohorts if planned.algorithm)

    @property
    def over(self) -> bool:
        """Whether nothing is left to hand out or to wait for, and nothing more will be planned."""
        return self._complete and not self._queue and not self._running

    def anything(self) -> bool:
        """Whether there is something to train."""
        return bool(self._queue)

    # ---- handing out and taking back

    def next(self) -> Segment | None:
        """Hand out what is to be trained now; None while that depends on what is being trained,
        and when all is over.
        """
        self._check()
        self._refill()
        for planned in self._queue:
            if self._dense.isdisjoint(planned.after):
                self._queue.remove(planned)
                self._running[planned.name] = planned
                return Segment(planned, self._upto(planned))
        return None

    def again(self, cohort: str) -> None:
        """A segment that was handed out was not trained: it is the next one."""
        self._queue.insert(0, self._running.pop(cohort))

    def ended(self, cohort: str, error: str | None = None) -> None:
        """A segment came back, trained or given up for the reason `error`."""
        planned = self._running.pop(cohort)
        if not planned.algorithm:
            # Where it failed, those that wait for it train it themselves, or fail too.
            self._dense.discard(cohort)
        elif error is not None:
            self._fail(planned, error)
        else:
            self._trained(planned)

    def _trained(self, planned: Planned) -> None:
        """Read how far a cohort came."""
        before = self._places[planned.name].rung
        place = self._settled(planned, None)
        self._places[planned.name] = place
        refused = self._rows(planned, "stopped-0")
        if not before and self._limited and refused.exists():
            self._measured.take(refused)
            count = table.length(refused)
            self.stopped(count, 0)
        if self._searching:
            for rung in range(before + 1, place.rung + 1):
                self._measure(planned, rung)
        if place.left and not self._is_undecided(planned, place):
            self._queue.append(planned)  # its worker stopped before the rung that was asked for

    # ---- where cohorts are

    @property
    def _limited(self) -> bool:
        """Whether members may be stopped before they train."""
        return self.study.about.reduction_factor is not None and bool(self.study.goals.constraints)

    @property
    def _searching(self) -> bool:
        """Whether anything is decided from rows."""
        return self.study.about.reduction_factor is not None or bool(self.plan.rounds)

    def _rows(self, planned: Planned, key: int | str) -> Location:
        return rundir.rows_file(self.folder, planned.name, key)

    def _settled(self, planned: Planned, names: Set[str] | None) -> _Place:
        """How far a cohort is, by its rows. Rows of members whose stop was recorded are written
        where a kill came between.

        names: of all row files, or None to look them up.
        """

        def exists(key: int | str) -> bool:
            path = self._rows(planned, key)
            if names is None:
                return path.exists()
            return path.name in names

        last_rung = self.study.task.rungs
        rung = 0
        while rung < last_rung and exists(rung + 1):
            rung += 1
        if not rung:
            refused = 0
            if self._limited and exists("stopped-0"):
                stopped = self._rows(planned, "stopped-0")
                refused = table.length(stopped)
            return _Place(0, planned.size - refused)
        self._stop_again(planned, rung, names)
        if rung == last_rung:
            return _Place(rung, 0)
        rows = self._rows(planned, rung)
        gone = table.ended(rows)
        if self._decided(planned, rung):
            stopped = self._rows(planned, f"stopped-{rung}")
            gone |= table.ended(stopped)
        left = table.length(rows) - len(gone)
        return _Place(rung, left)

    def _stop_again(self, planned: Planned, rung: int, names: Set[str] | None) -> None:
        """Write the rows of members whose stop was recorded, up to a rung, where they may be
        missing.
        """
        for before in range(1, rung + 1):
            if not self._decided(planned, before):
                continue
            stopped = self._rows(planned, f"stopped-{before}")
            if names is None or stopped.name not in names:
                self._stop(planned, before)

    def _stop(self, planned: Planned, rung: int) -> int:
        """Write the rows of the members that a decision stops; how many."""
        return rungs.stop(
            self.study,
            self.folder,
            self._arms[planned.arm],
            planned.name,
            rung,
        )

    def _waits(self, place: _Place) -> bool:
        """Whether a cohort with members left stands at a rung where it is decided who goes on."""
        if self.study.about.reduction_factor is None:
            return False
        return 0 < place.rung < self.study.task.rungs

    def _upto(self, planned: Planned) -> int:
        if not planned.algorithm or self.study.about.reduction_factor is None:
            return self.study.task.rungs
        return self._places[planned.name].rung + 1

    def _is_undecided(self, planned: Planned, place: _Place) -> bool:
        """Whether a cohort waits for a decision that has not been made."""
        return self._waits(place) and not self._decided(planned, place.rung)

    def _decided(self, planned: Planned, rung: int) -> bool:
        return rundir.decision_file(self.folder, planned.name, rung).name in self._decisions

    # ---- the queue

    def _refill(self) -> None:
        """Decide and plan until something is in the queue, or nothing can be put there now."""
        while not self._queue and self._advance():
            continue

    def _enter(self, cohorts: Sequence[Planned]) -> None:
        """Put what is to be trained of some cohorts, and the dense phases that they start from,
        into the queue.
        """
        new = [planned for planned in cohorts if planned.algorithm]
        for planned in new:
            self._places.setdefault(planned.name, _Place(0, planned.size))
        unfinished = [planned for planned in new if self._places[planned.name].left]
        dense = self._dense_before(unfinished)
        self._dense.update(planned.name for planned in dense)
        if self._searching:
            for planned in new:
                self._measure_all(planned)
        self._queue += dense
        for planned in unfinished:
            place = self._places[planned.name]
            if not self._is_undecided(planned, place):
                self._queue.append(planned)

    def _dense_before(self, cohorts: Sequence[Planned]) -> list[Planned]:
        """The dense phases that these cohorts start from and that are not trained or queued yet."""
        needed: set[str] = set()
        for planned in cohorts:
            needed.update(planned.after)
        missing = needed - self._dense
        starts = rundir.starts(self.folder)
        task = dataclasses.replace(self.study.task, starts=str(starts))
        dense: list[Planned] = []
        for planned in self.plan.cohorts:
            if planned.name in missing and not dense_ready(task, planned.seeds):
                dense.append(planned)
        return dense

    def _measure(self, planned: Planned, rung: int) -> None:
        """Take the rows of a cohort at a rung for decisions, and of those that were stopped."""
        rows = self._rows(planned, rung)
        self._measured.take(rows)
        if self._decided(planned, rung):  # elsewhere: the plan is a copy
            stopped = self._rows(planned, f"stopped-{rung}")
            self._measured.take(stopped)

    def _measure_all(self, planned: Planned) -> None:
        refused = self._rows(planned, "stopped-0")
        if self._limited and refused.exists():
            self._measured.take(refused)
        place = self._places[planned.name]
        for rung in range(1, place.rung + 1):
            self._measure(planned, rung)

    # ---- decisions

    def _advance(self) -> bool:
        """Decide who goes on, or plan the next round; returns whether there is something new."""
        if self._complete or (self._running and self.study.about.rounds == "synchronous"):
            return False
        if self.study.about.reduction_factor is not None and self._decide():
            return True
        new = self.plan.grow(self._propose)
        if not new and not self._running and self.study.about.controls == "standard":
            new = self.plan.follow(controls.wanted(self.study, self.folder))
        if new:
            self._enter(new)
            return True
        self._complete = not self._running
        return False

    def _decide(self) -> bool:
        """Decide who goes on from the first rung at which cohorts stand; returns whether it was
        decided for any.
        """
        waiting = self._waiting()
        for rung in sorted(waiting):
            measured = self._measured.rows()
            decided = rungs.decided(measured, self.study, rung)
            at_rung = (measured["rung"] == rung) & (measured["status"] == table.RUNNING)
            standing = measured[at_rung]
            any_ready = False
            for planned in waiting[rung]:
                rows = standing[standing["cohort"] == planned.name]
                gone = self._losers(rows, rung, decided)
                if gone is not None:
                    self._record(planned, rung, gone)
                    any_ready = True
            if any_ready:
                return True
        return False

    def _waiting(self) -> dict[int, list[Planned]]:
        """Rung -> the cohorts that stand there, and for which it is not decided who goes on."""
        waiting: dict[int, list[Planned]] = {}
        busy = {planned.name for planned in self._queue}
        busy.update(planned.name for planned in self._running.values())
        for planned in self.plan.cohorts:
            if planned.name in busy:
                continue
            place = self._places.get(planned.name, _NOT_PLANNED)
            if place.left and self._is_undecided(planned, place):
                at_rung = waiting.setdefault(place.rung, [])
                at_rung.append(planned)
        return waiting

    def _losers(
        self, rows: pd.DataFrame, rung: int, decided: Mapping[tuple[str, str], str]
    ) -> dict[str, str] | None:
        """Member -> why it does not go on, of a cohort's rows at a rung; None if it cannot be said
        yet: a seed of a setting is in another cohort, which is not there yet.
        """
        settings = list(zip(rows["arm"], rows["hp"], strict=True))
        are_known = decided.keys() >= set(settings)
        if self._running and not are_known:
            return None
        absent = f"rung {rung}: another seed of it did not get here"
        gone: dict[str, str] = {}
        for member, setting in zip(rows["member"], settings, strict=True):
            reason = decided.get(setting, absent)
            if reason:
                gone[member] = reason
        return gone

    def _record(self, planned: Planned, rung: int, gone: Mapping[str, str]) -> None:
        """Write a decision down, then the rows of those that it stops; the others go on."""
        recorded = rungs.record(self.folder, planned.name, rung, gone)
        self._decisions.add(recorded)
        count = self._stop(planned, rung)
        self.stopped(count, rung)
        rows = self._rows(planned, f"stopped-{rung}")
        self._measured.take(rows)
        place = self._places[planned.name]
        place.left -= len(gone)
        if place.left:
            self._queue.append(planned)

    def _propose(self, arm: Arm, number: int, count: int) -> Sequence[Mapping[str, Value]]:
        from ..propose.learnt import propose
        from ..propose.population import Told

        measured = self._measured.rows()
        goals = self.study.goals
        known = rungs.told(measured, goals, arm, self.study.task.rungs)
        before: list[Told] = []
        for round_, hp in self.plan.rounds[arm.name]:
            key = canonical(arm.algorithm.space, hp)
            values, violations = known.get(key, (None, ()))
            proposed = Told(round_, hp, values, violations)
            before.append(proposed)
        return propose(arm, goals, before, number, count)

    def _fail(self, planned: Planned, reason: str) -> None:
        """Rows for the members of a cohort that have no last one, with the reason."""
        cohort = read_cohort(self.folder, planned)
        ended: set[str] = set()
        last_rung = self.study.task.rungs
        for rung in range(1, last_rung + 1):
            for key in (rung, f"stopped-{rung}"):
                path = self._rows(planned, key)
                if path.exists():
                    ended |= table.ended(path)
        write_ends(self.study, self.folder, cohort, "failed", reason, ended)
        place = self._places[planned.name]
        place.left = 0
        failed = self._rows(planned, "failed")
        self._measured.take(failed)


def write_ends(
    study: Study,
    folder: Location,
    cohort: Cohort,
    status: str,
    reason: str,
    ended: Set[str] = frozenset(),
) -> None:
    """Last rows, without measures, of the members of a cohort that are not in `ended`."""
    task: Task = study.task
    algorithm = next(arm.algorithm for arm in study.arms if arm.name == cohort.arm)
    end = {"rung": 0, "status": status, "reason": reason}
    rows = []
    for slot, member in enumerate(cohort.members):
        name = identity(task, cohort.algorithm, algorithm, member)
        if name not in ended:
            rows.append(labels(study.about.name, task, cohort, algorithm, slot, name) | end)
    if rows:
        path = rundir.rows_file(folder, cohort.name, status)
        table.write(path, rows, hp_types(algorithm.space), footer(task))
