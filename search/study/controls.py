"""Standard controls: baselines that a study is given, and sanity checks of what its own arms found.

The baselines are ordinary arms. The checks are planned when all else is done: each is about one
setting of an arm, trained with the same seeds, data and budget (`trainables.controls.Check`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ...analysis.points import front
from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location
from ...trainables import controls as offered
from ...trainables.algorithms import find, is_ours, known
from ...trainables.contract import Algorithm
from ...trainables.controls import Check
from ...trainables.domain import Value, complete, hyperparameters, setting
from ...trainables.records.networks import kept_members
from ...trainables.task import Task
from .schema import Arm, Hp, Listed, Study

Row = Mapping[Any, Any]
Sizes = Mapping[str, int]
"""Arm -> how many configurations it has."""
Listing = Mapping[str, Listed]
"""The space of a standard arm."""
Configurations = dict[str, list[Hp]]
"""Arm -> configurations."""
SHARED = ("lr", "weight_decay")
"""Hyper-parameters that a check has from the setting that it is about."""


def added(own: Sequence[Arm], task: Task) -> tuple[Arm, ...]:
    """The arms of a study with the standard controls: baselines that it lacks, and the checks of
    each arm that is no control.

    Controls that need new initial weights are left out where the model has none (`cautions` says
    which). Raises Mistake if one of its own has the name of one of these.
    """
    new: list[Arm] = []
    for baseline in _baselines(task):
        if not any(_is_same(baseline, arm) for arm in own):
            new.append(baseline)
    for arm in own:
        if not arm.algorithm.control:
            new += _checks(arm, task)
    _check_names(own, new)
    return (*own, *new)


def _check_names(own: Sequence[Arm], new: Sequence[Arm]) -> None:
    """Raise Mistake if a standard arm has the name of one of the study's own."""
    names = {arm.name for arm in own}
    for arm in new:
        if arm.name in names:
            rule = "arms have distinct names"
            raise Mistake(f'{rule}, and "{arm.name}" is that of a standard control')


def with_parent(study: Study) -> Study:
    """The study with the parent as an arm, if it lacks it: the standard arm that searches nothing.

    Raises Mistake if another arm has its name.
    """
    new: list[Arm] = []
    for standard in _standard_arms():
        parent = standard.arm()
        if not standard.space and not any(_is_same(parent, arm) for arm in study.arms):
            new.append(parent)
    _check_names(study.arms, new)
    return dataclasses.replace(study, arms=(*study.arms, *new))


def cautions(study: Study) -> list[str]:
    """What a reader should know of the study before any verdict, one sentence each."""
    task = study.task
    if not task.loaded:
        return []
    model = f"The model function {task.model} gives {task.loaded} the same initial weights"
    sentences = [
        f"{model} for every seed: seeds differ in the order of examples only, nothing was trained "
        "from new initial weights, and no figure here says whether the weights were needed."
    ]
    if study.about.controls == "standard":
        left_out = ", ".join(_needing_initial(task))
        rule = "Controls that need new initial weights were left out for that reason"
        sentences.append(f"{rule}: {left_out}.")
    return sentences


def wanted(study: Study, folder: Location) -> Configurations:
    """The configurations of each arm of checks, by what is measured: random masks for every
    setting, the others on the front.

    Checked are settings of which something was removed, all of whose seeds are done and their
    networks kept, of the task's own model. The front is that of all arms that are no controls, by
    masked or by shrunk FLOPs and validation accuracy.
    """
    rows = _checkable(study, folder)
    configurations: Configurations = {}
    if rows.empty:
        return configurations
    for point in _points(rows).to_dict("records"):
        algorithm = find(point["algorithm"])
        given = hyperparameters(point["hp"])
        hp = complete(algorithm.space, given)
        parent = algorithm.parent(study.task, hp)
        if not _has_model_of(study.task, parent):
            continue
        for arm in study.arms:
            if arm.follows == point["arm"] and _is_due(arm, point):
                configuration = _configuration(arm, point, hp)
                configurations.setdefault(arm.name, []).append(configuration)
    return configurations


def expected(arms: Sequence[Arm], sizes: Sizes) -> dict[str, int]:
    """About how many configurations each arm of checks will have, before anything is measured.

    Checks of the front are expected for as many
    settings as an arm would have there if all arms that are checked were alike: its share of them.
    """
    followers = [arm for arm in arms if arm.follows]
    followed = {arm.follows for arm in followers}
    counts: dict[str, int] = {}
    for arm in followers:
        settings = sizes.get(arm.follows, 0)  # none where it cannot run on the task
        if _about(arm).front:
            settings = -(-settings // len(followed))
        counts[arm.name] = settings
    return counts


def _checkers() -> dict[str, Algorithm]:
    """The algorithms that make sanity checks, by name; those of this package before others that are
    installed.
    """
    own: dict[str, Algorithm] = {}
    others: dict[str, Algorithm] = {}
    for name, algorithm in known().items():
        if not offered.checks(algorithm):
            continue
        if is_ours(algorithm):
            own[name] = algorithm
        else:
            others[name] = algorithm
    return {**own, **others}


def _checks(arm: Arm, task: Task) -> list[Arm]:
    """The checks of an arm. Where two algorithms call theirs alike, the later one's name stands
    beside it.
    """
    checks: dict[str, Arm] = {}
    from_dense = arm.algorithm.from_dense and task.dense_steps
    for checker, algorithm in _checkers().items():
        for check, about in offered.checks(algorithm).items():
            if about.from_dense and not from_dense:
                continue
            if about.needs_initial and task.loaded:
                continue
            name = f"{arm.name}, {about.called}"
            if name in checks:
                name = f"{name} ({checker})"
            space = {"check": (check,)}
            checks[name] = Arm(name, checker, algorithm, "follows", None, space, follows=arm.name)
    return list(checks.values())


def _baselines(task: Task) -> list[Arm]:
    """The standard arms that can start from the task's model."""
    arms: list[Arm] = []
    for arm in _standard_arms():
        with contextlib.suppress(Mistake):  # a model without a width
            if not (arm.is_other(task) and task.loaded):
                arms.append(arm.arm())
    return arms


class _Standard(NamedTuple):
    """A standard arm of an algorithm."""

    name: str
    algorithm_name: str
    algorithm: Algorithm
    space: Listing

    def arm(self) -> Arm:
        return Arm(
            name=self.name,
            algorithm_name=self.algorithm_name,
            algorithm=self.algorithm,
            sampler="grid",
            members=None,
            space=self.space,
        )

    def is_other(self, task: Task) -> bool:
        """Whether it trains another network than the task's model: a narrower one, say. Mistake if
        there is none.
        """
        algorithm = self.algorithm
        hp: dict[str, Value] = {}
        for key, values in self.space.items():
            hp[key] = values[0]
        hp = complete(algorithm.space, hp)
        parent = algorithm.parent(task, hp)
        return parent != task


def _standard_arms() -> Iterator[_Standard]:
    for algorithm_name, algorithm in known().items():
        baselines = offered.baselines(algorithm)
        for name, space in baselines.items():
            yield _Standard(name, algorithm_name, algorithm, space)


def _needing_initial(task: Task) -> list[str]:
    """What checks and standard arms that need new initial weights are called."""
    names: list[str] = []
    for checker in _checkers().values():
        for about in offered.checks(checker).values():
            if about.needs_initial:
                names.append(about.called)
    for arm in _standard_arms():
        with contextlib.suppress(Mistake):
            if arm.is_other(task):
                names.append(arm.name)
    return names


def _is_same(one: Arm, other: Arm) -> bool:
    """Whether two arms are of one algorithm and search the same hyper-parameters, with the same
    value where it is one.
    """
    if one.algorithm_name != other.algorithm_name:
        return False
    return _searched(one) == _searched(other)


def _searched(arm: Arm) -> dict[str, object]:
    """Hyper-parameters that are not left at their defaults; None for those that have several
    values.
    """
    searched: dict[str, object] = {}
    for name, values in arm.space.items():
        if not isinstance(values, tuple) or len(values) != 1:
            searched[name] = None
            continue
        domain = arm.algorithm.space[name]
        if values != (domain.default,):
            searched[name] = values
    return searched


def _checkable(study: Study, folder: Location) -> pd.DataFrame:
    """Last rows of the members of settings that may be checked."""
    current = table.current(folder, table.read(folder))
    last = table.last(current)
    rows = front.selectable(last)
    followed = {arm.follows for arm in study.arms if arm.follows}
    is_followed = rows["arm"].isin(followed)
    is_control = rows["control"].astype(bool)
    rows = rows[is_followed & ~is_control]
    is_done = rows["status"].eq("done")
    kept = kept_members(folder)
    is_kept = rows["member"].isin(kept)
    is_pruned = rows["sparsity"].gt(0)
    is_whole = is_done & is_kept & is_pruned
    setting_of = [rows["arm"], rows["hp"]]
    seeds = is_whole.groupby(setting_of).transform("sum")
    has_all = seeds == len(study.about.seeds)
    return rows[has_all]


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each setting, means over seeds.

    best: on the front.  first: the first of those that differ in how many candidates were searched,
    which does not change how many weights are kept.  smaller: of fewer units than the parent.
    """
    measures = ["accuracy_valid", "flops_masked", "flops_shrunk"]
    settings = rows.groupby(["arm", "algorithm", "hp"])
    points = settings[measures].mean().reset_index()
    on_masked = front.fronts(points, "flops_masked")
    on_shrunk = front.fronts(points, "flops_shrunk")
    points["best"] = on_masked | on_shrunk
    unsearched = front.unsearched(points)
    alike = unsearched.groupby([points["arm"], unsearched])
    points["first"] = alike.cumcount() == 0
    is_cut = rows["flops_shrunk"] < rows["flops_dense"]
    setting_of = [rows["arm"], rows["hp"]]
    smaller = is_cut.groupby(setting_of).all()
    smaller = smaller.rename("smaller")
    return points.join(smaller, on=["arm", "hp"])


def _has_model_of(task: Task, parent: Task) -> bool:
    return (parent.model, parent.model_options) == (task.model, task.model_options)


def _is_due(arm: Arm, point: Row) -> bool:
    """Whether an arm checks a setting."""
    about = _about(arm)
    if about.smaller and not point["smaller"]:
        return False
    if about.front:
        return point["best"]
    return point["first"]


def _configuration(arm: Arm, point: Row, hp: Hp) -> dict[str, Value]:
    """How an arm checks a setting, whose hyper-parameters are `hp`."""
    space = arm.algorithm.space
    given: dict[str, Value] = {}
    for name in SHARED:
        value = hp.get(name)
        if name in space and value is not None:
            given[name] = value
    if "of" in space:
        given["of"] = setting(point["algorithm"], point["hp"])
    given["check"] = _check_name(arm)
    return complete(space, given)


def _about(arm: Arm) -> Check:
    checks = offered.checks(arm.algorithm)
    return checks[_check_name(arm)]


def _check_name(arm: Arm) -> str:
    values = arm.space["check"]
    assert isinstance(values, tuple)
    return str(values[0])
