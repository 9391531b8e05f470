"""The plan: members grouped into cohorts, written once, resumed whole.

RUN_DIR/plan/study.json says what is studied; cohorts-NNN.jsonl hold the cohorts, one a line, in the order in which they are
handed out. A study that has grown (arms, values, seeds) adds a file; what was planned before stays as it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..analysis.table import atomic
from ..trainables.cohort import Cohort
from ..trainables.contract import Member, code_path
from ..trainables.memory import fitting
from ..trainables.task import Task
from .domains import proposals
from .study import Arm, Study

LEAST = 8
"""Members below which an automatic cohort is not cut to keep all workers busy: its steps would cost nearly the same."""


def prepare(study: Study, folder: Path, workers: int) -> list[Cohort]:
    """Every cohort of the study that is planned in `folder`, planning what is new. Raises ValueError for another task."""
    place = folder / "plan"
    about = {
        "name": study.about.name,
        "keep": study.about.keep,
        "task": _settings(study.task),
        "description": study.task.describe(),
    }
    if (place / "study.json").exists():
        _compare(json.loads((place / "study.json").read_text()), about, folder)
    files = sorted(place.glob("cohorts-*.jsonl"))
    planned = [Cohort.from_json(line) for file in files for line in file.read_text().splitlines()]
    new = _cohorts(study, planned, workers)
    if new:
        with atomic(place / f"cohorts-{len(files):03d}.jsonl") as temporary:
            temporary.write_text("".join(cohort.to_json() + "\n" for cohort in new))
    with atomic(place / "study.json") as temporary:
        temporary.write_text(json.dumps(about, indent=1))
    return _wanted(study, [*planned, *new])


def members(arm: Arm, seeds: Sequence[int]) -> list[Member]:
    """All members of an arm: every configuration with every seed."""
    return [Member(hp, seed) for hp in proposals(arm) for seed in seeds]


def _settings(task: Task) -> dict[str, Any]:
    return {key: value for key, value in task.to_json().items() if key != "starts"}


def _compare(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to mix rows of different studies or tasks in one folder."""
    if before["name"] != now["name"]:
        raise ValueError(f'{folder}: holds the study "{before["name"]}"; got "{now["name"]}"; give it another --out')
    for key, value in json.loads(json.dumps(now["description"])).items():
        if before["description"].get(key) != value:
            rule = f"{folder}: was begun with another task, and its rows would not compare"
            raise ValueError(f"{rule}: `{key}` was {before['is'].get(key)!r}; got {value!r}; give it another --out")


def _wanted(study: Study, cohorts: list[Cohort]) -> list[Cohort]:
    """Cohorts that hold a member of the study as it is now, and those they come after."""
    ids = {(arm.name, _key(member)) for arm in study.arms for member in members(arm, study.about.seeds)}
    wanted = [c for c in cohorts if c.algorithm and any((c.arm, _key(member)) in ids for member in c.members)]
    before = {name for cohort in wanted for name in cohort.after}
    return [cohort for cohort in cohorts if cohort in wanted or cohort.name in before]


def _key(member: Member) -> str:
    return json.dumps([member.hp, member.seed], sort_keys=True)


def _cohorts(study: Study, planned: list[Cohort], workers: int) -> list[Cohort]:
    """Cohorts for the members that are not planned yet; first those that train the dense networks which others start from."""
    known = {(cohort.arm, _key(member)) for cohort in planned for member in cohort.members}
    fresh = [
        (arm, [member for member in members(arm, study.about.seeds) if (arm.name, _key(member)) not in known])
        for arm in study.arms
        if arm.algorithm.skip(study.task) is None
    ]
    share = max(LEAST, -(-sum(len(found) for _, found in fresh) // (2 * workers)))
    numbers, new = itertools.count(len(planned)), list[Cohort]()
    dense = {member.seed: cohort.name for cohort in planned if not cohort.algorithm for member in cohort.members}
    needed = {member.seed for arm, found in fresh if arm.algorithm.from_dense for member in found}
    for part in _parts([[Member({}, seed)] for seed in sorted(needed - set(dense))], share):
        new.append(_cohort(next(numbers), "", "", part, set()))
        dense |= {member.seed: new[-1].name for member in part}
    for arm, found in fresh:
        for units in _groups(arm, found):
            size = study.about.max_cohort
            if size == "auto":
                size = min(share, fitting(study.task, arm.algorithm, units[0][0], workers))
            for part in _parts(units, size):
                after = {dense[member.seed] for member in part} if arm.algorithm.from_dense else set[str]()
                new.append(_cohort(next(numbers), arm.name, arm.algorithm_name, part, after))
    return new


def _cohort(number: int, arm: str, algorithm: str, part: list[Member], after: set[str]) -> Cohort:
    """The cohort at place `number`; its name tells the place and what is in it."""
    content = json.dumps([arm, [_key(member) for member in part]])
    name = f"{number:05d}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    return Cohort(name, arm, algorithm, tuple(part), tuple(sorted(after)))


def _groups(arm: Arm, found: list[Member]) -> list[list[list[Member]]]:
    """Members that may share a cohort, as lists of units; a unit's members must share one (`together`)."""
    groups: dict[Any, dict[Any, list[Member]]] = {}
    for member in found:
        alone = {name: value for name, value in member.hp.items() if name not in arm.algorithm.together}
        unit = json.dumps([alone, member.seed if arm.algorithm.together else id(member)], sort_keys=True)
        groups.setdefault(code_path(arm.algorithm.space, member.hp), {}).setdefault(unit, []).append(member)
    return [list(units.values()) for units in groups.values()]


def _parts(units: list[list[Member]], size: int) -> Iterator[list[Member]]:
    """Units in order, cut into the fewest parts of at most `size` members (or one unit), as equal as can be."""
    count = -(-sum(map(len, units)) // size)
    for index in range(count):
        part = units[index * len(units) // count : (index + 1) * len(units) // count]
        if part:
            yield list(itertools.chain.from_iterable(part))
