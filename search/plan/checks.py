"""What is checked of a study before it starts: whether its arms can run, go together with the task
and fit the memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import pyarrow as pa

from ...analysis.rows.mistake import Mistake
from ...trainables import models
from ...trainables.algorithms import is_ours
from ...trainables.domain import code_path
from ...trainables.records.rows import hp_types
from ...trainables.rehearsal import rehearse_algorithm
from ...trainables.task import Task
from ...trainables.training.memory import allowance, fitting_shapes
from ..propose.drawn import Configuration, proposals
from ..study import controls
from ..study.schema import MODELLED, Arm, Study, at
from .patience import LateError, within

REHEARSED_CODE_PATHS = 4
"""Of an algorithm of a user's own."""
REHEARSAL_SECONDS = 5.0
"""After which a rehearsal is broken off: what is slow is no mistake."""
SPREAD_MEMBERS = 64
"""Configurations over its space that are checked of an arm that learns from results."""


def cautions(study: Study) -> list[str]:
    """What a reader should know of the study before any verdict, one sentence each: of its data,
    its model, its controls.
    """
    model = study.task.model
    sentences = list(study.task.data.cautions)
    for name, why in study.task.structure.failed:
        what = name or "all of it"
        looks = "stays whole, though it looked as if it could go"
        sentences.append(f"model {model}: {what} {looks}: {why}")
    sentences += controls.cautions(study)
    sentences += _larger_than_the_model(study)
    return sentences


def _larger_than_the_model(study: Study) -> Iterator[str]:
    """A sentence for each arm whose networks may have more FLOPs than the task's model; of arms
    that propose them, and not of controls.
    """
    own = study.task.counts.flops
    for arm in study.arms:
        if arm.follows or skipped(arm, study.task) is not None:
            continue
        most = _most_flops(arm, study.task)
        if most <= own:
            continue
        yield (
            f'arm "{arm.name}": networks may have more FLOPs than the task\'s model, {own:,}: they '
            f"are cut from one of up to {most:,}; the rows of those that end with more say how "
            "many times as many (`m_over_task`)"
        )


def _most_flops(arm: Arm, task: Task) -> int:
    """FLOPs of the largest network that a member of an arm starts from; 0 if there is none."""
    algorithm = arm.algorithm
    most = 0
    seen = set[object]()
    for hp in proposals(_spread(arm)):
        path = code_path(algorithm.space, hp)
        if path in seen or algorithm.is_control(hp):
            continue
        seen.add(path)
        with contextlib.suppress(Mistake):  # `check` says it
            parent = algorithm.parent(task, hp)
            most = max(most, parent.counts.flops)
    return most


def check(study: Study) -> None:
    """Raise Mistake with one sentence if data, model, budget and hyper-parameters do not fit
    together.
    """
    _check_columns(study.arms)
    with at("[task]"):
        study.task.check()
    arms = [arm for arm in study.arms if not arm.follows]
    reasons = {arm.name: skipped(arm, study.task) for arm in arms}
    if all(reasons.values()):
        first = arms[0].name
        rule = "at least one arm can run on the task"
        raise Mistake(f'{rule}; got none: arm "{first}": {reasons[first]}')
    for arm in arms:
        if reasons[arm.name] is not None:
            continue
        with at(f'arm "{arm.name}"'):
            _check_arm(arm, study.task)


def _check_columns(arms: Sequence[Arm]) -> None:
    """Raise Mistake if hyper-parameters of one name are text in one arm and numbers in another: in
    the rows they are one column.
    """
    first: dict[str, Arm] = {}
    for arm in arms:
        for name, kind in hp_types(arm.algorithm.space).items():
            other = first.setdefault(name, arm)
            known = hp_types(other.algorithm.space)[name]
            is_text = pa.types.is_string(kind)
            if is_text == pa.types.is_string(known):
                continue
            rule = f"hyper-parameters `{name}` are one column of the rows, of text or of numbers"
            both = f'`{name}` is {kind} here and {known} in arm "{other.name}"'
            raise Mistake(f'arm "{arm.name}": {rule}; {both}; give one of them another name')


def skipped(arm: Arm, task: Task) -> str | None:
    """Why an arm cannot run on the task, or None if it can."""
    with (
        at(f'arm "{arm.name}"'),
        _blamed(arm, "says whether it can run on the task"),
    ):
        return arm.algorithm.skip(task)


def check_memory(study: Study, workers: int) -> None:
    """Raise Mistake with one sentence if a member is known not to fit one of `workers` of this
    machine.
    """
    room = allowance(study.task.torch_device, workers)
    noun = "workers"
    if workers == 1:
        noun = "worker"
    for arm in study.arms:
        if arm.follows or arm.sampler in MODELLED:
            continue  # its configurations are not known yet
        if arm.algorithm.skip(study.task) is not None:
            continue
        with at(f'arm "{arm.name}", {workers} {noun}'):
            _check_arm_memory(arm, study.task, room)


def _check_arm(arm: Arm, task: Task) -> None:
    """Raise Mistake if a configuration of an arm does not fit the task; an algorithm of a user's
    own is rehearsed too.
    """
    algorithm = arm.algorithm
    parents: dict[object, Task] = {}
    for hp in proposals(_spread(arm)):
        path = code_path(algorithm.space, hp)
        is_new = path not in parents
        if is_new:
            parents[path] = _checked_parent(arm, task, hp)
        parent = parents[path]
        with _blamed(arm, "checks its hyper-parameters"):
            algorithm.check(parent, hp)
        if not is_new or is_ours(algorithm):
            continue
        if len(parents) > REHEARSED_CODE_PATHS:
            continue
        with contextlib.suppress(LateError), within(REHEARSAL_SECONDS):
            rehearse_algorithm(arm.algorithm_name, algorithm, parent, hp)


def _spread(arm: Arm) -> Arm:
    """The arm, or for one that learns from results one that spreads configurations over its
    space.
    """
    if arm.sampler not in MODELLED:
        return arm
    return dataclasses.replace(arm, sampler="sobol", members=SPREAD_MEMBERS)


def _checked_parent(arm: Arm, task: Task, hp: Configuration) -> Task:
    with _blamed(arm, "gives the network that members start from"):
        parent = arm.algorithm.parent(task, hp)
    if parent is not task:
        parent.check(rehearsed=False)  # the model was rehearsed at its own width
    return parent


def _check_arm_memory(arm: Arm, task: Task, room: int) -> None:
    """room: bytes."""
    algorithm = arm.algorithm
    checked = set[object]()
    for hp in proposals(arm):
        path = code_path(algorithm.space, hp)
        if path in checked:
            continue
        checked.add(path)
        parent = algorithm.parent(task, hp)
        fitting_shapes(parent, algorithm, hp, 1, room)


@contextlib.contextmanager
def _blamed(arm: Arm, doing: str) -> Iterator[None]:
    """What an algorithm of a user's own raises is a Mistake that names it."""
    if is_ours(arm.algorithm):
        yield
        return
    with models.blamed(f"algorithm {arm.algorithm_name}: {doing}"):
        yield
