"""The plan on disk: cohorts written once, resumed whole. It holds every decision that was made.

RUN_DIR/plan/study.json says what is studied; cohorts-NNN.jsonl hold the cohorts, one a line, in the
order in which they are handed out. Each file is a generation: a round of proposals, or what a study
that has grown (arms, values, seeds) added; what was planned before stays as it was. Members are
made when a line is written and not kept: a plan may have very many.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...analysis.rows import rundir, table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, atomic, read_range, remove_tree
from ...trainables.algorithms import of_dense_phase
from ...trainables.contract import Algorithm, Member
from ...trainables.domain import canonical, code_path, complete
from ...trainables.records.cohort import Cohort
from ...trainables.records.planned import read_line
from ...trainables.task import Task, identity
from ...trainables.training import planner
from ...trainables.training.engine import Execution
from ..propose.drawn import Configuration, proposals
from ..study import controls
from ..study.schema import MODELLED, Arm, Hp, Study, at
from .checks import cautions, skipped
from .cohorts import Batch, Ledger, Workers, form, member_digest
from .rungs import part_of_plan

Hps = Sequence[Hp]
About = dict[str, Any]
"""What is written down of a study."""
Propose = Callable[[Arm, int, int], Hps]
"""(arm, round, count) -> that many new configurations, or as many as there are."""
ByJson = dict[str, Hp]
"""Canonical JSON -> the configuration."""
Rounds = dict[str, list[tuple[int, Configuration]]]
"""Arm -> its configurations, each with the number of the generation that it came with."""


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
    the next round of proposals; `follow` adds controls.

    cohorts: those that the study as it is now needs, in order.  rounds: the configurations that
    measurements have led to so far, by a sampler that learns from results or as controls.
    here: whether workers are on this machine, so that its memory is theirs.  say: called with what
    a user should know of new cohorts, a sentence each, once for an arm.
    """

    def __init__(
        self,
        study: Study,
        folder: Location,
        workers: int,
        here: bool = True,
    ) -> None:
        self.study = study
        self.folder = folder
        self.workers = Workers(workers, here)
        self.arms: list[Arm] = []  # that can run on the task
        self.cohorts: list[Planned] = []
        self.rounds: Rounds = {}
        self.say: Callable[[str], None] = lambda sentence: None
        self._beforehand: dict[str, Hps] = {}
        self._pending: list[Batch] = []  # for the next generation
        self._exhausted: set[str] = set()  # arms without another round
        self._ledger = Ledger()
        self._generations = 0
        self._followed = False

    @property
    def total(self) -> int:
        """Members that the study will have, as far as is known, if no space is exhausted."""
        configurations = sum(self._sizes().values())
        return configurations * len(self.study.about.seeds)

    def expected(self) -> tuple[int, bool]:
        """Members that the study will have, and whether that is an estimate: checks are planned
        when all else is done.
        """
        followers = [arm for arm in self.arms if arm.follows]
        if self._followed or not followers:
            return self.total, False
        known = 0
        for arm in followers:
            rounds = self.rounds[arm.name]
            known += len(rounds)
        sizes = self._sizes()
        checks = controls.expected(self.arms, sizes)
        needed = sum(checks.values())
        to_come = max(0, needed - known)
        members = to_come * len(self.study.about.seeds)
        return self.total + members, True

    def open(self) -> None:
        """Read what is planned, and write down what is studied now. Raises Mistake if the folder
        has rows of another study or task; without rows it begins anew.
        """
        task = self.study.task
        self.arms = [arm for arm in self.study.arms if skipped(arm, task) is None]
        self._beforehand = {}
        self._exhausted = set()
        for arm in self.arms:
            self._beforehand[arm.name] = _beforehand(arm)
            if arm.follows:
                self._exhausted.add(arm.name)
        about = _about(self.study)
        with at(self.folder):
            _make_way(self.folder, about)
            files = rundir.cohorts_files(self.folder)
            self.rounds = _read_rounds(files, self.arms)
            batches = [self._batch(arm) for arm in self.arms]
            stored = _read_stored(files, task, batches)
        self._generations = len(files)
        self._ledger = stored.ledger
        self._pending = [batch for batch in batches if not batch.arm.follows]
        self.cohorts = stored.cohorts
        about["arms"] = {arm.name: arm.algorithm_name for arm in self.study.arms}
        about["removed"] = stored.removed
        about["cautions"] = cautions(self.study)
        written_down = rundir.study_file(self.folder)
        with atomic(written_down) as temporary:
            temporary.write_text(json.dumps(about))

    def grow(self, propose: Propose) -> list[Planned]:
        """Plan what is not planned yet, with the next round of proposals; returns the new cohorts,
        none at the end.
        """
        batches = self._pending
        self._pending = []
        for arm in self.arms:
            if arm.name not in self.rounds or arm.name in self._exhausted:
                continue
            proposed = self._next_round(arm, propose)
            batch = Batch(arm, proposed, self.study.about.seeds)
            batches.append(batch)
        return self._write(batches)

    def follow(self, wanted: Mapping[str, Hps]) -> list[Planned]:
        """Plan the controls of what other arms found, as far as they are not planned yet. wanted:
        arm -> configurations.
        """
        self._followed = True
        batches: list[Batch] = []
        for arm in self.arms:
            if not arm.follows:
                continue
            rounds = self.rounds[arm.name]
            known = _canonicals(arm, rounds)
            for hp in wanted.get(arm.name, []):
                key = canonical(arm.algorithm.space, hp)
                if key not in known:
                    rounds.append((self._generations, dict(hp)))
            batches.append(self._batch(arm))
        return self._write(batches)

    def _next_round(self, arm: Arm, propose: Propose) -> list[Configuration]:
        """What an arm proposes next, which is entered in its rounds."""
        number = self._generations
        rounds = self.rounds[arm.name]
        members = arm.members or 0
        left = members - len(rounds)
        count = min(left, self.study.about.batch)
        configurations: list[Configuration] = []
        if count > 0:
            configurations = [dict(hp) for hp in propose(arm, number, count)]
        if len(configurations) < count or count <= 0:
            self._exhausted.add(arm.name)
        # As `_read_rounds` has them.
        by_json = functools.partial(canonical, arm.algorithm.space)
        configurations.sort(key=by_json)
        rounds += [(number, hp) for hp in configurations]
        return configurations

    def _write(self, batches: Sequence[Batch]) -> list[Planned]:
        """The cohorts of what is not planned yet, as a new generation of the plan; none if there is
        nothing.
        """
        said = set(self._ledger.cut)
        chosen = set(self._ledger.choices)
        cohorts = form(self.study, self.workers, batches, self._ledger)
        first = next(cohorts, None)
        if first is None:
            return []
        new: list[Planned] = []
        path = rundir.cohorts_file(self.folder, self._generations)
        with atomic(path) as temporary, temporary.open("wb") as file:
            offset = 0
            for cohort in itertools.chain([first], cohorts):
                line = cohort.to_json().encode() + b"\n"
                file.write(line)
                length = len(line)
                planned = _planned(cohort, (path.name, offset, length))
                new.append(planned)
                offset += length
        self._generations += 1
        self.cohorts += new
        for arm, sentence in self._ledger.cut.items():
            if arm not in said:
                self.say(sentence)
        for sentence in _told_choices(self._ledger, chosen):
            self.say(sentence)
        return new

    def _batch(self, arm: Arm) -> Batch:
        """All members of an arm that are known so far."""
        configurations = self._configurations(arm)
        return Batch(arm, configurations, self.study.about.seeds)

    def _configurations(self, arm: Arm) -> Hps:
        """Those of an arm that are known so far."""
        if arm.name in self.rounds:
            return [hp for _, hp in self.rounds[arm.name]]
        return self._beforehand[arm.name]

    def _sizes(self) -> dict[str, int]:
        """How many configurations each arm will have, as far as is known."""
        sizes: dict[str, int] = {}
        for arm in self.arms:
            known: Sequence[object] = self._beforehand[arm.name]
            if arm.name in self.rounds:
                known = self.rounds[arm.name]
            sizes[arm.name] = arm.members or len(known)
        return sizes


def _told_choices(ledger: Ledger, before: set[Hashable]) -> Iterator[str]:
    """How the members of new cohorts are run, a sentence for each way that is not by rule."""
    algorithms: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for kind, choice in ledger.choices.items():
        if kind in before or choice.reason == planner.BY_RULE:
            continue
        name, _ = kind  # type: ignore[misc]
        way = str(choice.execution)
        reasons.setdefault(way, choice.reason)
        names = algorithms.setdefault(way, [])
        if name not in names:
            names.append(name)
    for way, names in algorithms.items():
        yield f"{', '.join(names)}: {way} ({reasons[way]})"


def read_cohort(folder: Location, planned: Planned) -> Cohort:
    """A cohort of the plan with its members."""
    name, offset, length = planned.line
    path = rundir.plan(folder) / name
    line = read_range(path, offset, length)
    return read_line(line.decode())


def members(arm: Arm, seeds: Sequence[int]) -> list[Member]:
    """All members of an arm, every configuration with every seed; of an arm that learns from
    results its defaults.
    """
    if arm.sampler in MODELLED or arm.follows:
        arm = dataclasses.replace(arm, sampler="grid", space={})
    configurations = proposals(arm)
    every = Batch(arm, configurations, seeds)
    return list(every)


def _beforehand(arm: Arm) -> Hps:
    """The configurations that an arm has before anything is measured."""
    if arm.sampler in MODELLED or arm.follows:
        return []
    return proposals(arm)


def _about(study: Study) -> About:
    """What is written down of a study before it is compared with what was studied before."""
    constraints = [str(limit) for limit in study.goals.constraints]
    settings = study.task.to_json()
    settings.pop("starts", None)
    return {
        "name": study.about.name,
        "keep": study.about.keep,
        "task": settings,
        "description": study.task.describe(),
        "goals": {
            "maximize": study.goals.maximize,
            "minimize": study.goals.minimize,
            "constraints": constraints,
        },
    }


def _make_way(folder: Location, about: About) -> None:
    """Remove the plan of another study or task. Raises Mistake if something was measured of it."""
    before = table.planned(folder)
    if before is None:
        return
    difference = _difference(before, about)
    if difference is None:
        return
    if _measured(folder):
        raise Mistake(difference)
    for path in table.files(folder):
        path.unlink(missing_ok=True)
    for name in ("state", "networks", "plan"):
        remove_tree(folder / name)


def _difference(before: About, now: About) -> str | None:
    """Why rows of what was planned before do not go with those of what is planned now, or None if
    they do.
    """
    if before["name"] != now["name"]:
        return f'holds the study "{before["name"]}"; got "{now["name"]}"; give it another --out'
    was = _flat(before["description"])
    as_read = json.loads(json.dumps(now["description"]))
    is_now = _flat(as_read)
    for key in sorted(was.keys() | is_now.keys()):
        if key == "model_options":
            continue
        old = was.get(key)
        new = is_now.get(key)
        if old == new:
            continue
        rule = "was begun with another task, and its rows would not compare"
        return f"{rule}: `{key}` was {old!r}; got {new!r}; give it another --out"
    return None


def _flat(description: About) -> About:
    return {**description, **description["model_options"]}


def _measured(folder: Location) -> bool:
    """Whether a folder has rows, other than those of members that were skipped or failed."""
    for path in table.files(folder):
        skipped_arm = path.name.startswith("skipped-")
        if not skipped_arm and not path.name.endswith("-failed.parquet"):
            return True
    return False


def _read_lines(path: Location) -> Iterator[tuple[Planned, Cohort]]:
    """The cohorts in a file of the plan."""
    offset = 0
    for line in path.read_bytes().splitlines(keepends=True):
        with part_of_plan(path):
            cohort = read_line(line.decode())
        length = len(line)
        planned = _planned(cohort, (path.name, offset, length))
        yield planned, cohort
        offset += length


def _planned(cohort: Cohort, line: tuple[str, int, int]) -> Planned:
    seeds: tuple[int, ...] = ()
    if not cohort.algorithm:
        seeds = tuple(member.seed for member in cohort.members)
    return Planned(
        name=cohort.name,
        arm=cohort.arm,
        algorithm=cohort.algorithm,
        size=len(cohort.members),
        after=cohort.after,
        seeds=seeds,
        line=line,
    )


def _read_rounds(files: Iterable[Location], arms: Sequence[Arm]) -> Rounds:
    """The configurations that files of cohorts have of arms that learn from results or follow, in
    the order of proposals; at most as many as an arm has members.
    """
    learning = [arm for arm in arms if arm.sampler in MODELLED or arm.follows]
    rounds: Rounds = {arm.name: [] for arm in learning}
    if not learning:
        return rounds
    for path in files:
        _, _, digits = path.name.removesuffix(".jsonl").rpartition("-")
        number = int(digits)
        in_file = _read_configurations(path, learning)
        for arm in learning:
            earlier = rounds[arm.name]
            known = _canonicals(arm, earlier)
            new = in_file[arm.name]
            for key in sorted(new):
                if key in known:
                    continue
                hp = dict(new[key])
                earlier.append((number, hp))
            rounds[arm.name] = earlier[: arm.members]
    return rounds


def _canonicals(arm: Arm, rounds: Sequence[tuple[int, Configuration]]) -> set[str]:
    """What the configurations of an arm are known by."""
    known: set[str] = set()
    space = arm.algorithm.space
    for _, hp in rounds:
        key = canonical(space, hp)
        known.add(key)
    return known


def _read_configurations(path: Location, arms: Sequence[Arm]) -> dict[str, ByJson]:
    """Arm -> the configurations that a file of cohorts has of it, by their canonical JSON."""
    by_names = _by_names(arms)
    configurations: dict[str, ByJson] = {arm.name: {} for arm in arms}
    for _, cohort in _read_lines(path):
        arm = by_names.get((cohort.arm, cohort.algorithm))
        if arm is None:
            continue
        by_json = configurations[arm.name]
        for member in cohort.members:
            key = canonical(arm.algorithm.space, member.hp)
            by_json.setdefault(key, member.hp)
    return configurations


@dataclasses.dataclass
class _Stored:
    """What the files of a plan hold.

    cohorts: those with members that the study has now, and what they wait for, in order.  removed:
    arm -> identities of members that it has no more.
    """

    cohorts: list[Planned]
    removed: dict[str, list[str]]
    ledger: Ledger


def _read_stored(
    files: Sequence[Location],
    task: Task,
    batches: Sequence[Batch],
) -> _Stored:
    """batches: all members that the study has as it is now."""
    ledger = Ledger()
    cohorts: list[Planned] = []
    dense: list[Planned] = []
    removed: dict[str, list[str]] = {}
    wanted: set[int] = set()
    if files:
        wanted = _digests(batches)
    arms = _by_names([batch.arm for batch in batches])
    lines = map(_read_lines, files)
    for planned, cohort in itertools.chain.from_iterable(lines):
        ledger.cohorts += 1
        if not cohort.algorithm:
            ledger.dense |= dict.fromkeys(planned.seeds, planned.name)
            dense.append(planned)
            _enter_choice(ledger, *of_dense_phase(), cohort)
            continue
        gone: list[Member] = []
        for member in cohort.members:
            digest = member_digest(cohort.arm, cohort.algorithm, cohort.version, member)
            ledger.members.add(digest)
            if digest not in wanted:
                gone.append(member)
        arm = arms.get((cohort.arm, cohort.algorithm))
        if arm is not None:
            _enter_choice(ledger, cohort.algorithm, arm.algorithm, cohort)
        if arm is not None and gone:
            names = removed.setdefault(cohort.arm, [])
            names += _identities(task, arm, cohort, gone)
        if len(gone) < len(cohort.members):
            cohorts.append(planned)
    needed: set[str] = set()
    for planned in cohorts:
        needed.update(planned.after)
    cohorts += [planned for planned in dense if planned.name in needed]
    cohorts.sort(key=lambda planned: planned.name)
    return _Stored(cohorts, removed, ledger)


def _enter_choice(ledger: Ledger, name: str, algorithm: Algorithm, cohort: Cohort) -> None:
    """Have new members of an algorithm run like those of a cohort that was planned before."""
    first = cohort.members[0]
    hp = first.hp or complete(algorithm.space, {})  # members of a dense phase have none
    kind = name, code_path(algorithm.space, hp)
    ran = Execution(cohort.together, cohort.compile)
    ledger.choices.setdefault(kind, planner.Choice(ran, planner.BY_RULE))


def _by_names(arms: Sequence[Arm]) -> dict[tuple[str, str], Arm]:
    """By their own names and those of their algorithms, as cohorts have them."""
    by_names: dict[tuple[str, str], Arm] = {}
    for arm in arms:
        names = (arm.name, arm.algorithm_name)
        by_names[names] = arm
    return by_names


def _digests(batches: Sequence[Batch]) -> set[int]:
    digests: set[int] = set()
    for batch in batches:
        for member in batch:
            digests.add(batch.digest(member))
    return digests


def _identities(
    task: Task,
    arm: Arm,
    cohort: Cohort,
    cohort_members: Sequence[Member],
) -> Iterator[str]:
    """The names that members of a cohort have in rows."""
    for member in cohort_members:
        yield identity(task, cohort.algorithm, arm.algorithm, member, cohort.version)
