"""The plan: members grouped into cohorts, written once, resumed whole. It holds every decision that
was made.

RUN_DIR/plan/study.json says what is studied; cohorts-NNN.jsonl hold the cohorts, one a line, in the
order in which they are handed out. Each file is a generation: a round of proposals, or what a study
that has grown (arms, values, seeds) added; what was planned before stays as it was. Members are
made when a line is written and not kept: a plan may have very many.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, atomic, read_range, remove_tree
from ...trainables import models
from ...trainables.algorithms import is_ours
from ...trainables.contract import Member
from ...trainables.domain import Value, canonical, code_path
from ...trainables.records.cohort import Cohort
from ...trainables.rehearsal import rehearse_algorithm
from ...trainables.task import Task, identity
from ...trainables.training.memory import allowance, fitting, fitting_shapes, member_bytes
from ..propose.drawn import proposals
from ..study import controls
from ..study.parse import MODELLED, Arm, Study, at
from .rungs import part_of_plan

LEAST, MOST = 8, 4096
"""Members below which an automatic cohort is not cut to keep all workers busy: its steps would cost
nearly the same; and the most that it has: what is lost with a worker, and written at once, stays
small.
"""

REHEARSED, PATIENCE = 4, 5.0
"""Code paths of an algorithm of a user's own that are rehearsed, and the seconds after which a
rehearsal is broken off: what is slow is no mistake."""

Propose = Callable[[Arm, int, int], Sequence[Mapping[str, Value]]]
"""(arm, round, count) -> that many new configurations, or as many as there are."""


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """A cohort of the plan without its members: the driver holds no more of it.

    line: its place in the plan, as file, and bytes from where and how many.
    """

    name: str
    arm: str
    algorithm: str
    size: int
    after: tuple[str, ...]
    seeds: tuple[int, ...]  # of a dense phase; else empty
    line: tuple[str, int, int]


class Plan:
    """The cohorts of a study in its output folder. `open` reads them; `grow` adds what is new, and
    the next round of proposals.

    cohorts: those that the study as it is now needs, in order.  rounds: arm -> the configurations
    that measurements have led to so far, by a sampler that learns from results or as controls, each
    with the number of its generation.
    here: whether workers are on this machine, so that its memory is theirs.
    """

    def __init__(self, study: Study, folder: Location, workers: int, here: bool = True) -> None:
        self.study, self.folder, self.workers, self.here = study, folder, workers, here
        self.arms = [arm for arm in study.arms if skipped(arm, study.task) is None]
        self.cohorts: list[Planned] = []
        self.rounds: dict[str, list[tuple[int, dict[str, Value]]]] = {
            arm.name: [] for arm in self.arms if arm.sampler in MODELLED or arm.follows
        }
        self._generations = self._count = 0
        self._followed = False
        self._known: set[int] = set()
        self._dense: dict[int, str] = {}
        self._bytes: dict[object, int] = {}
        self._exhausted = {arm.name for arm in self.arms if arm.follows}
        self._first = {arm.name: _beforehand(arm) for arm in self.arms}
        self._todo: list[tuple[Arm, Sequence[Mapping[str, Value]]]] = []

    @property
    def total(self) -> int:
        """Members that the study will have, as far as is known, if no space is exhausted."""
        sizes = (
            arm.members or len(self.rounds.get(arm.name, self._first[arm.name]))
            for arm in self.arms
        )
        return sum(sizes) * len(self.study.about.seeds)

    def expected(self) -> tuple[int, bool]:
        """Members that the study will have, and whether that is an estimate: checks are planned
        when all else is done.
        """
        guessed = not self._followed and any(arm.follows for arm in self.arms)
        if not guessed:
            return self.total, False
        sizes = {
            arm.name: arm.members or len(self.rounds.get(arm.name, self._first[arm.name]))
            for arm in self.arms
        }
        known = sum(len(self.rounds[arm.name]) for arm in self.arms if arm.follows)
        checks = sum(controls.expected(self.arms, sizes).values())
        return self.total + max(0, checks - known) * len(self.study.about.seeds), True

    def open(self) -> None:
        """Read what is planned. Raises Mistake if the folder has rows of another study or task;
        without rows it begins anew.
        """
        place, about = self.folder / "plan", self._about()
        with at(self.folder):
            before = table.planned(self.folder)
            differs = None if before is None else _unlike(before, about)
            if differs and _measured(self.folder):
                raise Mistake(differs)
            if differs:
                _clear(self.folder)
            files = sorted(place.glob("cohorts-*.jsonl"), key=lambda path: path.name)
            for path in files:
                self._read_rounds(path)
            self._todo = [
                (arm, [hp for _, hp in self.rounds.get(arm.name, [])] or self._first[arm.name])
                for arm in self.arms
            ]
            wanted = self._wanted() if files else set[int]()
            dense, removed = list[Planned](), dict[str, list[str]]()
            for path in files:
                for planned, cohort in _lines(path):
                    self._count += 1
                    here = [(_digest(cohort, member), member) for member in cohort.members]
                    if not cohort.algorithm:
                        self._dense |= dict.fromkeys(planned.seeds, planned.name)
                        dense.append(planned)
                        continue
                    self._known.update(digest for digest, _ in here)
                    gone = [member for digest, member in here if digest not in wanted]
                    arm = next(
                        (
                            a
                            for a in self.arms
                            if (a.name, a.algorithm_name) == (cohort.arm, cohort.algorithm)
                        ),
                        None,
                    )
                    if arm is not None and gone:
                        about_it = self.study.task, cohort.algorithm, arm.algorithm
                        ids = (identity(*about_it, member, cohort.version) for member in gone)
                        removed.setdefault(cohort.arm, []).extend(ids)
                    if len(gone) < len(here):
                        self.cohorts.append(planned)
        self._todo = [(arm, found) for arm, found in self._todo if not arm.follows]
        self._generations = len(files)
        needed = {name for planned in self.cohorts for name in planned.after}
        self.cohorts = sorted(
            [*self.cohorts, *(d for d in dense if d.name in needed)],
            key=lambda planned: planned.name,
        )
        about["arms"] = {arm.name: arm.algorithm_name for arm in self.study.arms}
        about["removed"] = removed
        about["cautions"] = cautions(self.study)
        with atomic(place / "study.json") as temporary:
            temporary.write_text(json.dumps(about))

    def grow(self, propose: Propose) -> list[Planned]:
        """Plan what is not planned yet, with the next round of proposals; returns the new cohorts,
        none at the end.
        """
        number = self._generations
        for arm in self.arms:
            if arm.name in self.rounds and arm.name not in self._exhausted:
                count = min((arm.members or 0) - len(self.rounds[arm.name]), self.study.about.batch)
                found = [dict(hp) for hp in propose(arm, number, count)] if count > 0 else []
                found.sort(
                    key=lambda hp, space=arm.algorithm.space: canonical(space, hp)
                )  # as `_read_rounds` finds them
                self.rounds[arm.name] += [(number, hp) for hp in found]
                self._todo.append((arm, found))
                if len(found) < count or count <= 0:
                    self._exhausted.add(arm.name)
        return self._written()

    def follow(self, wanted: Mapping[str, Sequence[Mapping[str, Value]]]) -> list[Planned]:
        """Plan the controls of what other arms found, as far as they are not planned yet. wanted:
        arm -> configurations.
        """
        self._followed = True
        for arm in (arm for arm in self.arms if arm.follows):
            known = {canonical(arm.algorithm.space, hp) for _, hp in self.rounds[arm.name]}
            new = [
                dict(hp)
                for hp in wanted.get(arm.name, [])
                if canonical(arm.algorithm.space, hp) not in known
            ]
            self.rounds[arm.name] += [(self._generations, hp) for hp in new]
            self._todo.append((arm, [hp for _, hp in self.rounds[arm.name]]))
        return self._written()

    def _written(self) -> list[Planned]:
        """The cohorts of what is to be planned, as a new generation of the plan; none if there is
        nothing.
        """
        cohorts, new, name = (
            self._cohorts(),
            list[Planned](),
            f"cohorts-{self._generations:03d}.jsonl",
        )
        first = next(cohorts, None)
        self._todo = []
        if first is None:
            return []
        with atomic(self.folder / "plan" / name) as temporary, temporary.open("wb") as file:
            offset = 0
            for cohort in itertools.chain([first], cohorts):
                line = cohort.to_json().encode() + b"\n"
                file.write(line)
                new.append(_planned(cohort, (name, offset, len(line))))
                offset += len(line)
        self._generations += 1
        self.cohorts += new
        return new

    def _about(self) -> dict[str, Any]:
        study = self.study
        return {
            "name": study.about.name,
            "keep": study.about.keep,
            "task": _settings(study.task),
            "description": study.task.describe(),
            "goals": {"maximize": study.goals.maximize, "minimize": study.goals.minimize}
            | {"constraints": list(map(str, study.goals.constraints))},
        }

    def _read_rounds(self, path: Location) -> None:
        """Take the configurations from a file of cohorts that were not known before, in the order
        of proposals.
        """
        number = int(path.name.removesuffix(".jsonl").rpartition("-")[2])
        for arm in (arm for arm in self.arms if arm.name in self.rounds):
            seen = {canonical(arm.algorithm.space, hp) for _, hp in self.rounds[arm.name]}
            fresh: dict[str, Member] = {}
            for _, cohort in _lines(path):
                if (cohort.arm, cohort.algorithm) == (arm.name, arm.algorithm_name):
                    for member in cohort.members:
                        fresh.setdefault(canonical(arm.algorithm.space, member.hp), member)
            new = [(number, dict(fresh[key].hp)) for key in sorted(fresh) if key not in seen]
            self.rounds[arm.name] = [*self.rounds[arm.name], *new][: arm.members]

    def _wanted(self) -> set[int]:
        """Digests of the members that the study holds as it is now."""
        seeds = self.study.about.seeds
        return {
            _digest(arm, Member(hp, seed))
            for arm, found in self._todo
            for hp in found
            for seed in seeds
        }

    def _cohorts(self) -> Iterator[Cohort]:
        """Cohorts for members that are not planned yet; first those that train the dense networks
        which others start from.
        """
        seeds = self.study.about.seeds
        fresh = [(arm, configurations, list[int]()) for arm, configurations in self._todo]
        for arm, configurations, places in fresh:
            for place in range(len(configurations) * len(seeds)):
                digest = _digest(
                    arm, Member(configurations[place // len(seeds)], seeds[place % len(seeds)])
                )
                if digest not in self._known:
                    self._known.add(digest)
                    places.append(place)
        share = min(
            MOST, max(LEAST, -(-sum(len(places) for _, _, places in fresh) // self.workers))
        )
        yield from self._dense_cohorts(fresh)
        for arm, configurations, places in fresh:
            for units in _groups(arm, configurations, places, seeds):
                first = Member(
                    configurations[units[0][0] // len(seeds)], seeds[units[0][0] % len(seeds)]
                )
                size, each = self._size(arm, first, max(map(len, units)), share)
                if (fits := self._fits(arm, first, max(size, *map(len, units)))) is not None:
                    units, size = _cut(units, fits), min(size, fits)
                for part in _parts(units, size):
                    members = tuple(
                        Member(configurations[i // len(seeds)], seeds[i % len(seeds)]) for i in part
                    )
                    after = (
                        {self._dense[m.seed] for m in members}
                        if arm.algorithm.from_dense
                        else set[str]()
                    )
                    yield self._cohort(
                        arm.name, arm.algorithm_name, members, after, arm.algorithm.version, each
                    )

    def _dense_cohorts(self, fresh: Sequence[tuple[Arm, Any, list[int]]]) -> Iterator[Cohort]:
        seeds = self.study.about.seeds
        needed = {
            seeds[i % len(seeds)]
            for arm, _, places in fresh
            if arm.algorithm.from_dense
            for i in places
        }
        lacking = [[seed] for seed in sorted(needed - set(self._dense))]
        most = self.study.about.max_cohort
        size = max(LEAST, -(-len(lacking) // self.workers)) if most == "auto" else most
        for part in _parts(
            lacking, size
        ):  # all else waits for them, and so they are spread over all workers
            cohort = self._cohort("", "", tuple(Member({}, seed) for seed in part), set(), 1, 0)
            self._dense |= dict.fromkeys(part, cohort.name)
            yield cohort

    def _cohort(
        self,
        arm: str,
        algorithm: str,
        members: tuple[Member, ...],
        after: set[str],
        version: int,
        each: int,
    ) -> Cohort:
        """The next cohort; its name tells its place and what is in it."""
        content = json.dumps(
            [arm, algorithm, version, [[m.hp, m.seed] for m in members]], sort_keys=True
        )
        name = f"{self._count:05d}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
        self._count += 1
        return Cohort(name, arm, algorithm, members, tuple(sorted(after)), version, each)

    def _fits(self, arm: Arm, first: Member, most: int) -> int | None:
        """How many members like `first`, up to `most`, fit a worker by what their algorithm says of
        their shapes; at least 1.

        None if it says nothing, or workers are elsewhere. They refuse what does not fit them, with
        a reason in its rows.
        """
        if not self.here:
            return None
        room = allowance(self.study.task.torch_device, self.workers)
        try:
            return fitting_shapes(
                arm.algorithm.parent(self.study.task, first.hp), arm.algorithm, first.hp, most, room
            )
        except Mistake:
            return 1

    def _size(self, arm: Arm, first: Member, unit: int, share: int) -> tuple[int, int]:
        """Most members in a cohort, and the bytes of each: what the study says, or what keeps
        workers busy and fits memory.
        """
        most, task = self.study.about.max_cohort, self.study.task
        if most != "auto":
            return most, 0
        share = max(
            share, LEAST * unit
        )  # what must stay together may be many members, and few networks
        try:
            if (
                arm.algorithm.footprint(arm.algorithm.parent(task, first.hp), first.hp, 1)
                is not None
            ):
                return share, 0  # `_fits` says the rest
            kind = arm.algorithm_name, code_path(arm.algorithm.space, first.hp)
            if kind not in self._bytes:  # it takes a few steps of training, and rounds may be many
                with _within(self.study.about.limit):
                    self._bytes[kind] = member_bytes(task, arm.algorithm, first)
            each = self._bytes[kind]
            return min(share, fitting(each, task.torch_device, self.workers)), each
        except (
            Exception,
            _LateError,
        ):  # an algorithm that fails or hangs here does in its worker too: it becomes rows
            return share, 0


def cautions(study: Study) -> list[str]:
    """What a reader should know of the study before any verdict, one sentence each: of its data,
    its model, its controls.
    """
    said = list(study.task.data.cautions)
    for name, why in study.task.structure.failed:
        said.append(
            f"model {study.task.model}: {name or 'all of it'} stays whole, though it looked as if it could go: {why}"
        )
    return [*said, *controls.cautions(study)]


def check(study: Study) -> None:
    """Raise Mistake with one sentence if data, model, budget and hyper-parameters do not fit
    together.
    """
    with at("[task]"):
        study.task.check()
    arms = [arm for arm in study.arms if not arm.follows]
    reasons = {arm.name: skipped(arm, study.task) for arm in arms}
    if all(reasons.values()):
        first = arms[0].name
        raise Mistake(
            f'at least one arm can run on the task; got none: arm "{first}": {reasons[first]}'
        )
    for arm in arms:
        if reasons[arm.name] is None:
            with at(f'arm "{arm.name}"'):
                _check(arm, study.task)


def skipped(arm: Arm, task: Task) -> str | None:
    """Why an arm cannot run on the task, or None if it can."""
    with at(f'arm "{arm.name}"'), _blamed(arm, "says whether it can run on the task"):
        return arm.algorithm.skip(task)


def _check(arm: Arm, task: Task) -> None:
    """Raise Mistake if a configuration of an arm does not fit the task; an algorithm of a user's
    own is rehearsed too.
    """
    parents: dict[object, Task] = {}
    spread = (
        dataclasses.replace(arm, sampler="sobol", members=64) if arm.sampler in MODELLED else arm
    )
    for hp in proposals(spread):
        path = code_path(arm.algorithm.space, hp)
        new = path not in parents
        if new:
            with _blamed(arm, "gives the network that members start from"):
                parents[path] = arm.algorithm.parent(task, hp)
            if parents[path] is not task:
                parents[path].check(rehearsed=False)  # the model was rehearsed at its own width
        with _blamed(arm, "checks its hyper-parameters"):
            arm.algorithm.check(parents[path], hp)
        if new and not is_ours(arm.algorithm) and len(parents) <= REHEARSED:
            with contextlib.suppress(_LateError), _within(PATIENCE):
                rehearse_algorithm(arm.algorithm_name, arm.algorithm, parents[path], hp)


@contextlib.contextmanager
def _blamed(arm: Arm, doing: str) -> Iterator[None]:
    """What an algorithm of a user's own raises is a Mistake that names it."""
    if is_ours(arm.algorithm):
        yield
        return
    with models.blamed(f"algorithm {arm.algorithm_name}: {doing}"):
        yield


def check_memory(study: Study, workers: int) -> None:
    """Raise Mistake with one sentence if a member is known not to fit one of `workers` of this
    machine.
    """
    room = allowance(study.task.torch_device, workers)
    for arm in study.arms:
        if arm.follows or arm.sampler in MODELLED or arm.algorithm.skip(study.task) is not None:
            continue
        seen = set[object]()
        for hp in proposals(arm):
            if (path := code_path(arm.algorithm.space, hp)) not in seen:
                seen.add(path)
                with at(f'arm "{arm.name}", {workers} {"worker" if workers == 1 else "workers"}'):
                    fitting_shapes(arm.algorithm.parent(study.task, hp), arm.algorithm, hp, 1, room)


def _settings(task: Task) -> dict[str, Any]:
    return {key: value for key, value in task.to_json().items() if key != "starts"}


def _unlike(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Why rows of what was planned before do not go with those of what is planned now, or None if
    they do.
    """
    if before["name"] != now["name"]:
        return f'holds the study "{before["name"]}"; got "{now["name"]}"; give it another --out'
    was, is_ = (
        {**d, **d["model_options"]}
        for d in (before["description"], json.loads(json.dumps(now["description"])))
    )
    for key in sorted(was.keys() | is_.keys()):
        if key != "model_options" and was.get(key) != is_.get(key):
            rule = "was begun with another task, and its rows would not compare"
            return (
                f"{rule}: `{key}` was {was.get(key)!r}; got {is_.get(key)!r}; give it another --out"
            )
    return None


def _measured(folder: Location) -> bool:
    """Whether a folder has rows, other than those of members that were skipped or failed."""
    return any(
        not path.name.startswith("skipped-") and not path.name.endswith("-failed.parquet")
        for path in table.files(folder)
    )


def _clear(folder: Location) -> None:
    """Remove a plan that nothing was measured of, and what was begun of it."""
    for path in table.files(folder):
        path.unlink(missing_ok=True)
    for name in ("state", "networks", "plan"):
        remove_tree(folder / name)


class _LateError(BaseException):
    """A block took too long. No `except Exception` inside it takes this for a fault."""


@contextlib.contextmanager
def _within(seconds: float | None) -> Iterator[None]:
    """Raise _LateError where the block takes longer; None, or outside of the main thread: it may
    take for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise _LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _beforehand(arm: Arm) -> Sequence[Mapping[str, Value]]:
    """The configurations that an arm has before anything is measured."""
    return [] if arm.sampler in MODELLED or arm.follows else proposals(arm)


def read_cohort(folder: Location, planned: Planned) -> Cohort:
    """A cohort of the plan with its members."""
    name, offset, length = planned.line
    return Cohort.from_json(read_range(folder / "plan" / name, offset, length).decode())


def members(arm: Arm, seeds: Sequence[int]) -> list[Member]:
    """All members of an arm, every configuration with every seed; of an arm that learns from
    results its defaults.
    """
    plain = (
        dataclasses.replace(arm, sampler="grid", space={})
        if arm.sampler in MODELLED or arm.follows
        else arm
    )
    return [Member(hp, seed) for hp in proposals(plain) for seed in seeds]


def _lines(path: Location) -> Iterator[tuple[Planned, Cohort]]:
    """The cohorts in a file of the plan."""
    offset = 0
    for line in path.read_bytes().splitlines(keepends=True):
        with part_of_plan(path):
            cohort = Cohort.from_json(line.decode())
        yield _planned(cohort, (path.name, offset, len(line))), cohort
        offset += len(line)


def _planned(cohort: Cohort, line: tuple[str, int, int]) -> Planned:
    seeds = () if cohort.algorithm else tuple(member.seed for member in cohort.members)
    return Planned(
        cohort.name, cohort.arm, cohort.algorithm, len(cohort.members), cohort.after, seeds, line
    )


def _digest(of: Arm | Cohort, member: Member) -> int:
    """What a member is known by in a plan: arm, algorithm and version, hyper-parameters, seed."""
    name, algorithm = (
        (of.arm, of.algorithm) if isinstance(of, Cohort) else (of.name, of.algorithm_name)
    )
    key = [name, algorithm, of.version if isinstance(of, Cohort) else of.algorithm.version]
    content = json.dumps([*key, member.hp, member.seed], sort_keys=True)
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest())


def _groups(
    arm: Arm,
    configurations: Sequence[Mapping[str, Value]],
    places: Sequence[int],
    seeds: Sequence[int],
) -> list[list[list[int]]]:
    """Places of members that may share a cohort, as lists of units; a unit's members must share one
    (`together`).
    """
    groups: dict[Any, dict[Any, list[int]]] = {}
    for place in places:
        hp, key = configurations[place // len(seeds)], place
        if arm.algorithm.together:
            alone = {
                name: value for name, value in hp.items() if name not in arm.algorithm.together
            }
            key = json.dumps([alone, seeds[place % len(seeds)]], sort_keys=True)
        groups.setdefault(code_path(arm.algorithm.space, hp), {}).setdefault(key, []).append(place)
    return [list(units.values()) for units in groups.values()]


def _cut(units: list[list[int]], most: int) -> list[list[int]]:
    """Units of at most `most` members: memory is stronger than what should share a cohort."""
    cut: list[list[int]] = []
    for unit in units:
        count = -(-len(unit) // most)
        ends = [len(unit) * index // count for index in range(count + 1)]
        cut += [unit[begin:end] for begin, end in itertools.pairwise(ends)]
    return cut


def _parts(units: list[list[int]], size: int) -> Iterator[list[int]]:
    """Units in order, cut into the fewest parts of at most `size` members (or one unit), as equal
    as can be.
    """
    least = -(-sum(map(len, units)) // size)
    for count in range(max(1, min(least, len(units))), len(units) + 1):
        cuts = [index * len(units) // count for index in range(count + 1)]
        parts = [units[i:j] for i, j in itertools.pairwise(cuts)]
        if all(len(part) == 1 or sum(map(len, part)) <= size for part in parts):
            yield from (list(itertools.chain.from_iterable(part)) for part in parts)
            return
