"""Standard controls: baselines that a study is given, and sanity checks of what its own arms found.

The baselines are ordinary arms. The checks are planned when all else is done: each is about one setting of an arm, trained with
the same seeds, data and budget (`contract.Check`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from ..analysis import front, table
from ..analysis.mistake import Mistake
from ..analysis.storage import Location
from ..trainables.algorithms import find, known
from ..trainables.contract import Algorithm, Value, complete, hyperparameters, setting
from ..trainables.kept import kept_members
from ..trainables.task import Task
from .study import Arm, Study


def added(own: Sequence[Arm], task: Task) -> tuple[Arm, ...]:
    """The arms of a study with the standard controls: baselines that it lacks, and the checks of each arm that is no control.

    Controls that need new initial weights are left out where the model has none (`cautions` says which).
    Raises Mistake if one of its own has the name of one of these.
    """
    arms = [*own, *(arm for arm in _baselines(task) if not any(_same(arm, other) for other in own))]
    checker = _checker()
    for arm in (arm for arm in own if not arm.algorithm.control):
        for check, about in find(checker).checks.items():
            fitting = not about.from_dense or (arm.algorithm.from_dense and task.dense_steps)
            if fitting and not (about.needs_initial and task.loaded):
                name, space = f"{arm.name}, {about.called}", {"check": (check,)}
                arms.append(Arm(name, checker, find(checker), "follows", None, space, follows=arm.name))
    names = {arm.name for arm in own}
    if clash := [arm.name for arm in arms[len(own) :] if arm.name in names]:
        raise Mistake(f'arms have distinct names, and "{clash[0]}" is that of a standard control')
    return tuple(arms)


def _checker() -> str:
    """The algorithm that makes sanity checks."""
    return next(name for name, algorithm in known().items() if algorithm.checks)


def _baselines(task: Task) -> list[Arm]:
    """The standard arms that can start from the task's model."""
    arms: list[Arm] = []
    for name, algorithm in known().items():
        for arm, space in algorithm.standard.items():
            with contextlib.suppress(Mistake):  # a model without a width
                other = _is_other(algorithm, space, task)
                if not (other and task.loaded):
                    arms.append(Arm(arm, name, algorithm, "grid", None, space))
    return arms


def _is_other(algorithm: Algorithm, space: Mapping[str, tuple[Value, ...]], task: Task) -> bool:
    """Whether a standard arm trains another network than the task's model: a narrower one, say. Mistake if there is none."""
    first = {key: values[0] for key, values in space.items()}
    return algorithm.parent(task, complete(algorithm.space, first)) != task


def cautions(study: Study) -> list[str]:
    """What a reader should know of the study before any verdict, one sentence each."""
    task = study.task
    if not task.loaded:
        return []
    said = [
        f"The model function {task.model} gives {task.loaded} the same initial weights for every seed: seeds differ in the "
        "order of examples only, nothing was trained from new initial weights, and no figure here says whether the weights "
        "were needed."
    ]
    if study.about.controls == "standard":
        checks = [about.called for about in find(_checker()).checks.values() if about.needs_initial]
        others = []
        for algorithm in known().values():
            for arm, space in algorithm.standard.items():
                with contextlib.suppress(Mistake):
                    others += [arm] if _is_other(algorithm, space, task) else []
        said.append(f"Controls that need new initial weights were left out for that reason: {', '.join([*checks, *others])}.")
    return said


def _same(one: Arm, other: Arm) -> bool:
    """Whether two arms are of one algorithm and search the same hyper-parameters, with the same value where it is one."""

    def told(arm: Arm) -> Mapping[str, object]:
        """Hyper-parameters that are not left at their defaults; those that have several values without them."""
        single = {name: values for name, values in arm.space.items() if isinstance(values, tuple) and len(values) == 1}
        varied = dict.fromkeys(arm.space.keys() - single.keys())
        return varied | {name: values for name, values in single.items() if values != (arm.algorithm.space[name].default,)}

    return one.algorithm_name == other.algorithm_name and told(one) == told(other)


def wanted(study: Study, folder: Location) -> dict[str, list[Mapping[str, Value]]]:
    """The configurations of each arm of checks, by what is measured: random masks for every setting, the others on the front.

    Checked are settings of which something was removed, all of whose seeds are done and their networks kept, of the task's own
    model. The front is that of all arms that are no controls, by masked or by shrunk FLOPs and validation accuracy.
    """
    rows = front.selectable(table.last(table.current(folder, table.read(folder))))
    own = {arm.follows for arm in study.arms if arm.follows}
    rows = rows[rows["arm"].isin(own) & ~rows["control"].astype(bool)]
    whole = rows["status"].eq("done") & rows["member"].isin(kept_members(folder)) & rows["sparsity"].gt(0)
    seeds = whole.groupby([rows["arm"], rows["hp"]]).transform("sum")
    rows = rows[seeds == len(study.about.seeds)]
    found: dict[str, list[Mapping[str, Value]]] = {}
    if rows.empty:
        return found
    points = rows.groupby(["arm", "algorithm", "hp"])[["accuracy_valid", "flops_masked", "flops_shrunk"]].mean().reset_index()
    points["best"] = front.fronts(points, "flops_masked") | front.fronts(points, "flops_shrunk")
    counted = front.unsearched(points)  # how many candidates were searched does not change how many weights are kept
    points["first"] = counted.groupby([points["arm"], counted]).cumcount() == 0
    cut = rows["flops_shrunk"] < rows["flops_dense"]
    points = points.join(cut.groupby([rows["arm"], rows["hp"]]).all().rename("smaller"), on=["arm", "hp"])
    checks = find(_checker()).checks
    arms = {(arm.follows, _check(arm)): arm for arm in study.arms if arm.follows}
    for point in points.to_dict("records"):
        algorithm = find(point["algorithm"])
        hp = complete(algorithm.space, hyperparameters(point["hp"]))
        parent = algorithm.parent(study.task, hp)
        if (parent.model, parent.model_options) != (study.task.model, study.task.model_options):
            continue
        like: dict[str, Value] = {name: hp[name] for name in ("lr", "weight_decay") if hp.get(name) is not None}
        like["of"] = setting(point["algorithm"], point["hp"])
        for check, about in checks.items():
            arm = arms.get((point["arm"], check))
            due = point["best"] if about.front else point["first"]
            if arm is not None and due and (point["smaller"] or not about.smaller):
                found.setdefault(arm.name, []).append(complete(arm.algorithm.space, {**like, "check": check}))
    return found


def _check(arm: Arm) -> str:
    values = arm.space["check"]
    assert isinstance(values, tuple)
    return str(values[0])
