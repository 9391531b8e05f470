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
from ..trainables.task import Task, identity
from .domains import proposals
from .study import Arm, Study, at

LEAST = 8
"""Members below which an automatic cohort is not cut to keep all workers busy: its steps would cost nearly the same."""


def check(study: Study) -> None:
    """Raise ValueError with one sentence if data, model, budget and hyper-parameters do not fit together."""
    with at("[task]"):
        study.task.check()
    for arm in study.arms:
        if arm.algorithm.skip(study.task) is None:
            with at(f'arm "{arm.name}"'):
                parents: dict[object, Task] = {}
                for hp in proposals(arm):
                    path = code_path(arm.algorithm.space, hp)
                    if path not in parents:
                        parents[path] = arm.algorithm.parent(study.task, hp)
                        if parents[path] is not study.task:
                            parents[path].check()
                    arm.algorithm.check(parents[path], hp)


def prepare(study: Study, folder: Path, workers: int) -> list[Cohort]:
    """Every cohort of the study that is planned in `folder`, planning what is new. Raises ValueError for another task."""
    place = folder / "plan"
    about = {
        "name": study.about.name,
        "keep": study.about.keep,
        "task": _settings(study.task),
        "description": study.task.describe(),
    }
    files = sorted(place.glob("cohorts-*.jsonl"))
    with at(folder):
        if (place / "study.json").exists():
            _compare(json.loads((place / "study.json").read_text()), about)
        planned = [Cohort.from_json(line) for file in files for line in file.read_text().splitlines()]
    new = _cohorts(study, planned, workers)
    if new:
        with atomic(place / f"cohorts-{len(files):03d}.jsonl") as temporary:
            temporary.write_text("".join(cohort.to_json() + "\n" for cohort in new))
    about["members"] = {
        arm.name: [identity(study.task, arm.algorithm_name, arm.algorithm, m) for m in members(arm, study.about.seeds)]
        for arm in study.arms
    }
    with atomic(place / "study.json") as temporary:
        temporary.write_text(json.dumps(about))
    return _wanted(study, [*planned, *new])


def members(arm: Arm, seeds: Sequence[int]) -> list[Member]:
    """All members of an arm: every configuration with every seed."""
    return [Member(hp, seed) for hp in proposals(arm) for seed in seeds]


def _settings(task: Task) -> dict[str, Any]:
    return {key: value for key, value in task.to_json().items() if key != "starts"}


def _compare(before: Any, now: dict[str, Any]) -> None:
    """Refuse to mix rows of different studies or tasks in one folder."""
    if not isinstance(before, dict) or not {"name", "description"} <= before.keys():
        raise ValueError("plan/study.json says what the folder holds; got one that prunefront did not write")
    if before["name"] != now["name"]:
        raise ValueError(f'holds the study "{before["name"]}"; got "{now["name"]}"; give it another --out')
    was, is_ = ({**d, **d["model_options"]} for d in (before["description"], json.loads(json.dumps(now["description"]))))
    for key in sorted(was.keys() | is_.keys()):
        if key != "model_options" and was.get(key) != is_.get(key):
            rule = "was begun with another task, and its rows would not compare"
            raise ValueError(f"{rule}: `{key}` was {was.get(key)!r}; got {is_.get(key)!r}; give it another --out")


def _wanted(study: Study, cohorts: list[Cohort]) -> list[Cohort]:
    """Cohorts that hold a member of the study as it is now, and those they come after."""
    ids = {(arm.name, arm.algorithm_name, _key(m)) for arm in study.arms for m in members(arm, study.about.seeds)}
    wanted = [c for c in cohorts if c.algorithm and any((c.arm, c.algorithm, _key(m)) in ids for m in c.members)]
    before = {name for cohort in wanted for name in cohort.after}
    return [cohort for cohort in cohorts if cohort in wanted or cohort.name in before]


def _key(member: Member) -> str:
    return json.dumps([member.hp, member.seed], sort_keys=True)


def _cohorts(study: Study, planned: list[Cohort], workers: int) -> list[Cohort]:
    """Cohorts for the members that are not planned yet; first those that train the dense networks which others start from."""
    known = {(cohort.arm, cohort.algorithm, _key(member)) for cohort in planned for member in cohort.members}
    fresh = [
        (arm, [m for m in members(arm, study.about.seeds) if (arm.name, arm.algorithm_name, _key(m)) not in known])
        for arm in study.arms
        if arm.algorithm.skip(study.task) is None
    ]
    share = max(LEAST, -(-sum(len(found) for _, found in fresh) // workers))
    numbers, new = itertools.count(len(planned)), list[Cohort]()
    dense = {member.seed: cohort.name for cohort in planned if not cohort.algorithm for member in cohort.members}
    needed = {member.seed for arm, found in fresh if arm.algorithm.from_dense for member in found}
    lacking = [[Member({}, seed)] for seed in sorted(needed - set(dense))]
    size = max(LEAST, -(-len(lacking) // workers)) if study.about.max_cohort == "auto" else study.about.max_cohort
    for part in _parts(lacking, size):  # all else waits for them, and so they are spread over all workers
        new.append(_cohort(next(numbers), "", "", part, set()))
        dense |= {member.seed: new[-1].name for member in part}
    for arm, found in fresh:
        for units in _groups(arm, found):
            for part in _parts(units, _size(study, arm, units, share, workers)):
                after = {dense[member.seed] for member in part} if arm.algorithm.from_dense else set[str]()
                new.append(_cohort(next(numbers), arm.name, arm.algorithm_name, part, after))
    return new


def _size(study: Study, arm: Arm, units: list[list[Member]], share: int, workers: int) -> int:
    """Members in a cohort at most: what the study says, or what keeps all workers busy and fits their memory."""
    if study.about.max_cohort != "auto":
        return study.about.max_cohort
    share = max(share, LEAST * max(map(len, units)))  # what must stay together may be many members, and few networks
    try:
        return min(share, fitting(study.task, arm.algorithm, units[0][0], workers))
    except Exception:  # an algorithm that fails here fails in its worker too, where it becomes rows
        return share


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
    parts: list[list[list[Member]]] = []
    least = -(-sum(map(len, units)) // size)
    for count in range(max(1, min(least, len(units))), len(units) + 1):
        cuts = [index * len(units) // count for index in range(count + 1)]
        parts = [units[i:j] for i, j in itertools.pairwise(cuts)]
        if all(len(part) == 1 or sum(map(len, part)) <= size for part in parts):
            break
    yield from (list(itertools.chain.from_iterable(part)) for part in parts)
