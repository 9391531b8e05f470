"""Cohorts: which members train together, and how many."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import TypeVar

from ...analysis.rows.mistake import Mistake
from ...trainables.algorithms import of_dense_phase
from ...trainables.contract import Algorithm, Member
from ...trainables.domain import code_path, complete
from ...trainables.measure.latency import threads
from ...trainables.records.cohort import Cohort
from ...trainables.training import engine, planner
from ...trainables.training.engine import Execution
from ...trainables.training.memory import allowance, fitting, fitting_shapes, member_bytes
from ..study.schema import Arm, Hp, Study
from .patience import LateError, within

LEAST_MEMBERS = 8
"""Below this, an automatic cohort is not cut to keep all workers busy: its steps would cost nearly
the same.
"""
MOST_MEMBERS = 4096
"""Of an automatic cohort: what is lost with a worker, and written at once, stays small."""

_T = TypeVar("_T")

Unit = list[int]
"""Places of members that must share a cohort."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """What trains a study. here: whether they are on this machine, so that its memory is theirs."""

    count: int
    here: bool = True


@dataclasses.dataclass(frozen=True)
class Batch:
    """Configurations of an arm, each with every seed. Members are made when they are asked for; a
    place is the index of one.
    """

    arm: Arm
    configurations: Sequence[Hp]
    seeds: Sequence[int]

    def __len__(self) -> int:
        return len(self.configurations) * len(self.seeds)

    def __iter__(self) -> Iterator[Member]:
        for hp in self.configurations:
            for seed in self.seeds:
                yield Member(hp, seed)

    def member(self, place: int) -> Member:
        """The member at a place."""
        configuration, number = divmod(place, len(self.seeds))
        hp = self.configurations[configuration]
        seed = self.seeds[number]
        return Member(hp, seed)

    def digest(self, member: Member) -> int:
        """What a member is known by in a plan."""
        arm = self.arm
        version = arm.algorithm.version
        return member_digest(arm.name, arm.algorithm_name, version, member)


@dataclasses.dataclass
class Ledger:
    """What a plan holds, so that nothing is planned twice; `form` adds to it.

    cohorts: how many, which numbers their names.  members: their digests.  dense: seed -> name of
    the cohort that trains its dense network.  bytes: (algorithm, code path) -> what a member takes
    while it trains, where that was measured.  choices: (algorithm, code path) -> how its members
    are run.  cut: arm -> a sentence that says that members which should share a cohort do not.
    """

    cohorts: int = 0
    members: set[int] = dataclasses.field(default_factory=set)
    dense: dict[int, str] = dataclasses.field(default_factory=dict)
    bytes: dict[Hashable, int] = dataclasses.field(default_factory=dict)
    choices: dict[Hashable, planner.Choice] = dataclasses.field(default_factory=dict)
    cut: dict[str, str] = dataclasses.field(default_factory=dict)


def member_digest(
    arm: str,
    algorithm: str,
    version: int,
    member: Member,
) -> int:
    """What a member is known by in a plan: arm, algorithm and version, hyper-parameters, seed."""
    parts = [arm, algorithm, version, member.hp, member.seed]
    content = json.dumps(parts, sort_keys=True)
    digest = hashlib.blake2b(content.encode(), digest_size=8)
    return int.from_bytes(digest.digest())


def form(
    study: Study,
    workers: Workers,
    batches: Sequence[Batch],
    ledger: Ledger,
) -> Iterator[Cohort]:
    """Cohorts of those members of `batches` that are not planned yet, made when they are asked for.

    First those that train the dense networks which others start from.
    """
    unplanned: list[tuple[Batch, list[int]]] = []
    for batch in batches:
        places = _enter(batch, ledger)
        unplanned.append((batch, places))
    yield from _dense_cohorts(study, workers, unplanned, ledger)
    count = sum(len(places) for _, places in unplanned)
    share = max(LEAST_MEMBERS, -(-count // workers.count))
    share = min(share, MOST_MEMBERS)
    for batch, places in unplanned:
        for units in _groups(batch, places):
            yield from _group_cohorts(study, workers, batch, units, share, ledger)


def _enter(batch: Batch, ledger: Ledger) -> list[int]:
    """Places of the members that the ledger did not have; it has them from now on."""
    places: list[int] = []
    for place, member in enumerate(batch):
        digest = batch.digest(member)
        if digest in ledger.members:
            continue
        ledger.members.add(digest)
        places.append(place)
    return places


def _dense_cohorts(
    study: Study,
    workers: Workers,
    unplanned: Sequence[tuple[Batch, list[int]]],
    ledger: Ledger,
) -> Iterator[Cohort]:
    needed: set[int] = set()
    for batch, places in unplanned:
        if not batch.arm.algorithm.from_dense:
            continue
        for place in places:
            number = place % len(batch.seeds)
            needed.add(batch.seeds[number])
    seeds = sorted(needed.difference(ledger.dense))
    lacking = [[seed] for seed in seeds]
    size = study.about.max_cohort
    if size == "auto":  # all else waits for them, and so they are spread over all workers
        share = -(-len(lacking) // workers.count)
        size = max(LEAST_MEMBERS, share)
    if not lacking:
        return
    name, plain = of_dense_phase()
    first = Member(complete(plain.space, {}), seeds[0])
    most = min(size, len(lacking))
    chosen = _chosen(study, name, plain, first, most, len(lacking), workers, ledger)
    for seeds in _parts(lacking, size):
        members = tuple(Member({}, seed) for seed in seeds)
        unnamed = Cohort("", "", "", members, together=chosen.together, compile=chosen.compile)
        cohort = _named(unnamed, ledger)
        ledger.dense |= dict.fromkeys(seeds, cohort.name)
        yield cohort


def _group_cohorts(
    study: Study,
    workers: Workers,
    batch: Batch,
    units: list[Unit],
    share: int,
    ledger: Ledger,
) -> Iterator[Cohort]:
    """Cohorts of members of one code path."""
    arm = batch.arm
    first = batch.member(units[0][0])
    longest = max(map(len, units))
    share = max(share, LEAST_MEMBERS * longest)
    size, bytes_each = _size(study, workers, arm, first, share, ledger)
    most = max(size, longest)
    fits = _fits(study, workers, arm, first, most)
    if fits is not None:
        if longest > fits:
            ledger.cut.setdefault(arm.name, _told_cut(arm, longest, fits))
        units = _cut(units, fits)
        size = min(size, fits)
    count = sum(map(len, units))
    algorithm = arm.algorithm
    most = min(size, count)
    chosen = _chosen(study, arm.algorithm_name, algorithm, first, most, count, workers, ledger)
    for places in _parts(units, size):
        members = tuple(batch.member(place) for place in places)
        after: set[str] = set()
        if arm.algorithm.from_dense:
            after = {ledger.dense[member.seed] for member in members}
        cohort = Cohort(
            name="",
            arm=arm.name,
            algorithm=arm.algorithm_name,
            members=members,
            after=tuple(sorted(after)),
            version=arm.algorithm.version,
            bytes=bytes_each,
            together=chosen.together,
            compile=chosen.compile,
        )
        yield _named(cohort, ledger)


def _chosen(
    study: Study,
    name: str,
    algorithm: Algorithm,
    first: Member,
    size: int,
    count: int,
    workers: Workers,
    ledger: Ledger,
) -> Execution:
    """How `count` members like `first` are run, in cohorts of `size`; chosen once for a plan, if
    [task] does not say otherwise since.
    """
    kind = name, code_path(algorithm.space, first.hp)
    known = ledger.choices.get(kind)
    if known is not None and planner.agrees(study.task, known.execution):
        return known.execution
    try:
        parent = algorithm.parent(study.task, first.hp)
        with within(study.about.limit), threads(study.about.cpus):
            if workers.here:
                choice = planner.choose(parent, algorithm, first, size, count, workers.count)
            else:  # on other machines, of which nothing is known
                choice = planner.Choice(engine.execution(parent), planner.BY_RULE)
    except (Exception, LateError):
        return Execution()  # what fails or hangs here does in its worker too, and becomes rows
    ledger.choices[kind] = choice
    return choice.execution


def _named(cohort: Cohort, ledger: Ledger) -> Cohort:
    """The cohort with a name, which tells its place and what is in it."""
    members = [[member.hp, member.seed] for member in cohort.members]
    parts = [cohort.arm, cohort.algorithm, cohort.version, members]
    content = json.dumps(parts, sort_keys=True)
    digest = hashlib.sha256(content.encode())
    told = digest.hexdigest()[:12]
    number = ledger.cohorts
    ledger.cohorts += 1
    name = f"{number:05d}-{told}"
    return dataclasses.replace(cohort, name=name)


def _fits(
    study: Study,
    workers: Workers,
    arm: Arm,
    first: Member,
    most: int,
) -> int | None:
    """How many members like `first`, up to `most`, fit a worker by what their algorithm says of
    their shapes; at least 1.

    None if it says nothing, or workers are elsewhere. They refuse what does not fit them, with a
    reason in its rows.
    """
    if not workers.here:
        return None
    room = allowance(study.task.torch_device, workers.count)
    try:
        parent = arm.algorithm.parent(study.task, first.hp)
        return fitting_shapes(parent, arm.algorithm, first.hp, most, room)
    except Mistake:
        return 1


def _size(
    study: Study,
    workers: Workers,
    arm: Arm,
    first: Member,
    share: int,
    ledger: Ledger,
) -> tuple[int, int]:
    """Most members in a cohort, and the bytes of each (0: not measured).

    What the study says, or up to `share` what fits the memory.
    """
    if study.about.max_cohort != "auto":
        return study.about.max_cohort, 0
    try:
        parent = arm.algorithm.parent(study.task, first.hp)
        if arm.algorithm.footprint(parent, first.hp, 1) is not None:
            return share, 0  # `_fits` says the rest
        bytes_each = _measured_bytes(study, arm, first, ledger)
        fits = fitting(bytes_each, study.task.torch_device, workers.count)
    except (Exception, LateError):
        return share, 0  # what fails or hangs here does in its worker too, and becomes rows
    return min(share, fits), bytes_each


def _measured_bytes(
    study: Study,
    arm: Arm,
    first: Member,
    ledger: Ledger,
) -> int:
    """What a member like `first` takes. It takes a few steps of training, and rounds may be many:
    it is measured once.
    """
    kind = arm.algorithm_name, code_path(arm.algorithm.space, first.hp)
    if kind not in ledger.bytes:
        with within(study.about.limit):
            ledger.bytes[kind] = member_bytes(study.task, arm.algorithm, first)
    return ledger.bytes[kind]


def _groups(batch: Batch, places: Sequence[int]) -> list[list[Unit]]:
    """Places of members that may share a cohort, as lists of units (`Algorithm.together`)."""
    algorithm = batch.arm.algorithm
    groups: dict[Hashable, dict[Hashable, Unit]] = {}
    for place in places:
        member = batch.member(place)
        unit: Hashable = place
        if algorithm.together:
            apart = dict(member.hp)
            for name in algorithm.together:
                apart.pop(name, None)
            unit = json.dumps([apart, member.seed], sort_keys=True)
        path = code_path(algorithm.space, member.hp)
        group = groups.setdefault(path, {})
        places_of_unit = group.setdefault(unit, [])
        places_of_unit.append(place)
    return [list(units.values()) for units in groups.values()]


def _cut(units: list[Unit], most: int) -> list[Unit]:
    """Units of at most `most` members: memory is stronger than what should share a cohort."""
    cut: list[Unit] = []
    for unit in units:
        count = -(-len(unit) // most)
        cut += _equal_parts(unit, count)
    return cut


def _told_cut(arm: Arm, longest: int, fits: int) -> str:
    """That units of up to `longest` members are cut where so many fit, in a sentence."""
    names = [f"`{name}`" for name in arm.algorithm.together]
    differing = " or ".join(names)
    rule = f"members that differ in {differing} alone train together where they fit a worker"
    became = "they train in parts, each of which does over again what they would share"
    cure = f"to keep them together, lower {arm.algorithm.lighter}"
    return f'arm "{arm.name}": {rule}; got {longest} where at most {fits} fit: {became}; {cure}'


def _parts(units: list[Unit], size: int) -> Iterator[list[int]]:
    """Units in order, cut into the fewest parts of at most `size` members (or one unit), as equal
    as can be.
    """
    members = sum(map(len, units))
    whole_parts = -(-members // size)
    fewest = min(whole_parts, len(units))
    fewest = max(1, fewest)
    for count in range(fewest, len(units) + 1):
        parts = _equal_parts(units, count)
        if not all(_is_small(part, size) for part in parts):
            continue
        for part in parts:
            yield list(itertools.chain.from_iterable(part))
        return


def _is_small(part: list[Unit], size: int) -> bool:
    if len(part) == 1:
        return True
    members = sum(map(len, part))
    return members <= size


def _equal_parts(whole: list[_T], count: int) -> list[list[_T]]:
    """A list cut into `count` parts in order, whose lengths differ by 1 at most."""
    parts: list[list[_T]] = []
    begin = 0
    for index in range(1, count + 1):
        end = len(whole) * index // count
        part = whole[begin:end]
        parts.append(part)
        begin = end
    return parts
