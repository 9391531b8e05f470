"""What is to be done next: cohorts up to a rung, decisions between rungs, rounds of proposals.
Nothing here needs Ray.

Carrying on is the ordinary case: how far cohorts are is read from the rows, what was decided from
the plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence, Set

from ...analysis.rows import table
from ...analysis.rows.storage import Location
from ...trainables.contract import Value, canonical
from ...trainables.records.cohort import Cohort
from ...trainables.records.rows import footer, hp_types, labels, rows_path
from ...trainables.task import Task, identity
from ...trainables.training.pruner import dense_ready
from ..plan import rungs
from ..plan.generations import Plan, Planned, read_cohort
from ..study import controls
from ..study.parse import Arm, Study


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


class Work:
    """Hands out segments and takes them back. With rounds or rungs to wait for, the order of what
    ends makes no difference.

    check: raises Mistake if the folder is no longer ours.  stopped: called with the number of
    members that a decision stops, and the rung.
    """

    def __init__(
        self, study: Study, folder: Location, plan: Plan, check: Callable[[], None] = lambda: None
    ) -> None:
        self.study, self.folder, self.plan, self._check = study, folder, plan, check
        self.stopped: Callable[[int, int], None] = lambda count, rung: None
        self._arms = {arm.name: arm for arm in study.arms}
        self._measured = rungs.Measured(study.goals)
        self._queue: list[Planned] = []
        self._running: dict[str, Planned] = {}
        self._places: dict[str, _Place] = {}
        self._dense: set[str] = set()  # dense phases that are not trained yet
        self._complete = False
        self._decisions = {path.name for path in (folder / "plan").glob("rung-*.json")}
        names = {path.name for path in table.files(folder)}
        for planned in plan.cohorts:
            failed = rows_path(folder, planned.name, "failed")
            if failed.name in names:  # they are tried again
                failed.unlink(missing_ok=True)
            if planned.algorithm:
                self._places[planned.name] = self._found(planned, names)
        self._enter(plan.cohorts)

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
        segment = self.next()
        if segment is not None:
            self.again(segment.cohort.name)
        return segment is not None

    def again(self, cohort: str) -> None:
        """A segment that was handed out was not trained: it is the next one."""
        self._queue.insert(0, self._running.pop(cohort))

    def next(self) -> Segment | None:
        """What to train now; None while that depends on what is being trained, and when all is
        over.
        """
        self._check()
        while True:
            for planned in self._queue:
                if self._dense.isdisjoint(planned.after):
                    self._queue.remove(planned)
                    self._running[planned.name] = planned
                    return Segment(planned, self._upto(planned))
            if self._queue or not self._advance():
                return None

    def ended(self, cohort: str, error: str | None = None) -> None:
        """A segment came back, trained or given up for the reason `error`."""
        planned = self._running.pop(cohort)
        if not planned.algorithm:
            self._dense.discard(
                cohort
            )  # where it failed, those that wait for it train it themselves, or fail too
            return
        place = self._places[cohort]
        if error is not None:
            self._fail(planned, error)
            return
        before, place = place.rung, self._found(planned, None)
        self._places[cohort] = place
        refused = rows_path(self.folder, cohort, "stopped-0")
        if not before and self._limited and refused.exists():
            self._measured.take(refused)
            self.stopped(table.length(refused), 0)
        if self._searching:
            for rung in range(before + 1, place.rung + 1):
                self._measured.take(rows_path(self.folder, cohort, rung))
                if self._decided(planned, rung):  # elsewhere: the plan is a copy
                    self._measured.take(rows_path(self.folder, cohort, f"stopped-{rung}"))
        if place.left and (not self._waits(place) or self._decided(planned, place.rung)):
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

    def _found(self, planned: Planned, names: set[str] | None) -> _Place:
        """How far a cohort is, by its rows; names: of all row files, or None to look them up."""

        def there(key: int | str) -> bool:
            path = rows_path(self.folder, planned.name, key)
            return path.name in names if names is not None else path.exists()

        rung = 0
        while rung < self.study.task.rungs and there(rung + 1):
            rung += 1
        if not rung:
            refused = rows_path(self.folder, planned.name, "stopped-0")
            return _Place(
                0,
                planned.size
                - (table.length(refused) if self._limited and there("stopped-0") else 0),
            )
        for before in filter(lambda before: self._decided(planned, before), range(1, rung + 1)):
            path = rows_path(self.folder, planned.name, f"stopped-{before}")
            if names is None or path.name not in names:
                rungs.stop(self.study, self.folder, self._arms[planned.arm], planned.name, before)
        if rung == self.study.task.rungs:
            return _Place(rung, 0)
        last, stopped = (
            rows_path(self.folder, planned.name, key) for key in (rung, f"stopped-{rung}")
        )
        gone = table.ended(last) | (table.ended(stopped) if self._decided(planned, rung) else set())
        return _Place(rung, table.length(last) - len(gone))

    def _waits(self, place: _Place) -> bool:
        """Whether a cohort with members left stands at a rung where it is decided who goes on."""
        return (
            self.study.about.reduction_factor is not None and 0 < place.rung < self.study.task.rungs
        )

    def _upto(self, planned: Planned) -> int:
        if not planned.algorithm or self.study.about.reduction_factor is None:
            return self.study.task.rungs
        return self._places[planned.name].rung + 1

    def _enter(self, cohorts: Sequence[Planned]) -> None:
        """Put what is to be trained of some cohorts, and the dense phases that they start from,
        into the queue.
        """
        new = [planned for planned in cohorts if planned.algorithm]
        for planned in new:
            self._places.setdefault(planned.name, _Place(0, planned.size))
        open_ = [planned for planned in new if self._places[planned.name].left]
        before = {name for planned in open_ for name in planned.after}
        task = dataclasses.replace(self.study.task, starts=str(self.folder / "starts"))
        dense = [
            c
            for c in self.plan.cohorts
            if c.name in before - self._dense and not dense_ready(task, c.seeds)
        ]
        self._dense.update(planned.name for planned in dense)
        if self._searching:
            for planned in new:
                refused = rows_path(self.folder, planned.name, "stopped-0")
                if self._limited and refused.exists():
                    self._measured.take(refused)
                for rung in range(1, self._places[planned.name].rung + 1):
                    self._measured.take(rows_path(self.folder, planned.name, rung))
                    if self._decided(planned, rung):
                        self._measured.take(rows_path(self.folder, planned.name, f"stopped-{rung}"))
        ready = (
            p
            for p in open_
            if not self._waits(self._places[p.name]) or self._decided(p, self._places[p.name].rung)
        )
        self._queue += [*dense, *ready]

    def _decided(self, planned: Planned, rung: int) -> bool:
        return rungs.decision(self.folder, planned.name, rung).name in self._decisions

    # ---- decisions

    def _advance(self) -> bool:
        """Decide who goes on, or plan the next round; returns whether there is something new in the
        queue.
        """
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
        waiting: dict[int, list[Planned]] = {}
        busy = {planned.name for planned in [*self._queue, *self._running.values()]}
        for planned in self.plan.cohorts:
            place = self._places.get(planned.name, _Place(0, 0))
            if (
                place.left
                and self._waits(place)
                and planned.name not in busy
                and not self._decided(planned, place.rung)
            ):
                waiting.setdefault(place.rung, []).append(planned)
        for rung in sorted(waiting):
            measured = self._measured.rows()
            decided = rungs.decided(measured, self.study, rung)
            here = measured[(measured["rung"] == rung) & (measured["status"] == table.RUNNING)]
            ready = 0
            for planned in waiting[rung]:
                rows = here[here["cohort"] == planned.name]
                settings = list(zip(rows["arm"], rows["hp"], strict=True))
                if self._running and not decided.keys() >= set(settings):
                    continue  # a seed of a setting is in another cohort, which is not there yet
                absent = f"rung {rung}: another seed of it did not get here"
                reasons = [decided.get(setting, absent) for setting in settings]
                gone = {
                    member: reason
                    for member, reason in zip(rows["member"], reasons, strict=True)
                    if reason
                }
                self._decisions.add(rungs.record(self.folder, planned.name, rung, gone))
                self.stopped(
                    rungs.stop(
                        self.study, self.folder, self._arms[planned.arm], planned.name, rung
                    ),
                    rung,
                )
                self._measured.take(rows_path(self.folder, planned.name, f"stopped-{rung}"))
                place = self._places[planned.name]
                place.left -= len(gone)
                self._queue += [planned] if place.left else []
                ready += 1
            if ready:
                return True
        return False

    def _propose(self, arm: Arm, number: int, count: int) -> Sequence[Mapping[str, Value]]:
        from ..propose.learnt import Told, propose

        known = rungs.told(self._measured.rows(), self.study.goals, arm, self.study.task.rungs)
        before: list[Told] = []
        for round_, hp in self.plan.rounds[arm.name]:
            values, violations = known.get(canonical(arm.algorithm.space, hp), (None, ()))
            before.append(Told(round_, hp, values, violations))
        return propose(arm, self.study.goals, before, number, count)

    def _fail(self, planned: Planned, reason: str) -> None:
        """Rows for the members of a cohort that have no last one, with the reason."""
        cohort = read_cohort(self.folder, planned)
        ended: set[str] = set()
        for key in [k for r in range(1, self.study.task.rungs + 1) for k in (r, f"stopped-{r}")]:
            path = rows_path(self.folder, planned.name, key)
            ended |= table.ended(path) if path.exists() else set()
        write_ends(self.study, self.folder, cohort, "failed", reason, ended)
        self._places[planned.name] = _Place(self._places[planned.name].rung, 0)
        self._measured.take(rows_path(self.folder, planned.name, "failed"))


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
    rows = []
    for slot, member in enumerate(cohort.members):
        name = identity(task, cohort.algorithm, algorithm, member)
        if name not in ended:
            key = labels(study.about.name, task, cohort, algorithm, slot, name)
            rows.append(key | {"rung": 0, "status": status, "reason": reason})
    if rows:
        table.write(
            rows_path(folder, cohort.name, status), rows, hp_types(algorithm.space), footer(task)
        )
