"""Standard controls: baselines that a study is given, and sanity checks of what its own arms found.

The baselines are ordinary arms. The checks are planned when all else is done: each is about one
setting of an arm, trained with the same seeds, data and budget (`trainables.controls.Check`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from ...analysis.points import front
from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location
from ...trainables import controls as offered
from ...trainables.algorithms import find, is_ours, known
from ...trainables.contract import Algorithm
from ...trainables.domain import Value, complete, hyperparameters, setting
from ...trainables.records.networks import kept_members
from ...trainables.task import Task
from .schema import Arm, Study


def added(own: Sequence[Arm], task: Task) -> tuple[Arm, ...]:
    """The arms of a study with the standard controls: baselines that it lacks, and the checks of
    each arm that is no control.

    Controls that need new initial weights are left out where the model has none (`cautions` says
    which). Raises Mistake if one of its own has the name of one of these.
    """
    arms = [*own, *(arm for arm in _baselines(task) if not any(_same(arm, other) for other in own))]
    for arm in (arm for arm in own if not arm.algorithm.control):
        arms += _checks(arm, task)
    names = {arm.name for arm in own}
    if clash := [arm.name for arm in arms[len(own) :] if arm.name in names]:
        raise Mistake(f'arms have distinct names, and "{clash[0]}" is that of a standard control')
    return tuple(arms)


def _checkers() -> dict[str, Algorithm]:
    """The algorithms that make sanity checks, by name; those of this package before others that are
    installed.
    """
    makers = {name: algorithm for name, algorithm in known().items() if offered.checks(algorithm)}
    own = {name: algorithm for name, algorithm in makers.items() if is_ours(algorithm)}
    return {**own, **makers}


def _checks(arm: Arm, task: Task) -> list[Arm]:
    """The checks of an arm. Where two algorithms call theirs alike, the later one's name stands
    beside it.
    """
    arms: dict[str, Arm] = {}
    for checker, algorithm in _checkers().items():
        for check, about in offered.checks(algorithm).items():
            if about.from_dense and not (arm.algorithm.from_dense and task.dense_steps):
                continue
            if about.needs_initial and task.loaded:
                continue
            name = f"{arm.name}, {about.called}"
            if name in arms:
                name = f"{name} ({checker})"
            arms[name] = Arm(
                name, checker, algorithm, "follows", None, {"check": (check,)}, follows=arm.name
            )
    return list(arms.values())


def _baselines(task: Task) -> list[Arm]:
    """The standard arms that can start from the task's model."""
    arms: list[Arm] = []
    for name, algorithm in known().items():
        for arm, space in offered.baselines(algorithm).items():
            with contextlib.suppress(Mistake):  # a model without a width
                other = _is_other(algorithm, space, task)
                if not (other and task.loaded):
                    arms.append(Arm(arm, name, algorithm, "grid", None, space))
    return arms


def _is_other(algorithm: Algorithm, space: Mapping[str, tuple[Value, ...]], task: Task) -> bool:
    """Whether a standard arm trains another network than the task's model: a narrower one, say.
    Mistake if there is none.
    """
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
        checks: list[str] = []
        for checker in _checkers().values():
            checks += [
                about.called for about in offered.checks(checker).values() if about.needs_initial
            ]
        others: list[str] = []
        for algorithm in known().values():
            for arm, space in offered.baselines(algorithm).items():
                with contextlib.suppress(Mistake):
                    others += [arm] if _is_other(algorithm, space, task) else []
        said.append(
            f"Controls that need new initial weights were left out for that reason: {', '.join([*checks, *others])}."
        )
    return said


def _same(one: Arm, other: Arm) -> bool:
    """Whether two arms are of one algorithm and search the same hyper-parameters, with the same
    value where it is one.
    """

    def told(arm: Arm) -> Mapping[str, object]:
        """Hyper-parameters that are not left at their defaults; those that have several values
        without them.
        """
        single = {
            name: values
            for name, values in arm.space.items()
            if isinstance(values, tuple) and len(values) == 1
        }
        varied = dict.fromkeys(arm.space.keys() - single.keys())
        return varied | {
            name: values
            for name, values in single.items()
            if values != (arm.algorithm.space[name].default,)
        }

    return one.algorithm_name == other.algorithm_name and told(one) == told(other)


def wanted(study: Study, folder: Location) -> dict[str, list[Mapping[str, Value]]]:
    """The configurations of each arm of checks, by what is measured: random masks for every
    setting, the others on the front.

    Checked are settings of which something was removed, all of whose seeds are done and their
    networks kept, of the task's own model. The front is that of all arms that are no controls, by
    masked or by shrunk FLOPs and validation accuracy.
    """
    rows = front.selectable(table.last(table.current(folder, table.read(folder))))
    own = {arm.follows for arm in study.arms if arm.follows}
    rows = rows[rows["arm"].isin(own) & ~rows["control"].astype(bool)]
    whole = (
        rows["status"].eq("done")
        & rows["member"].isin(kept_members(folder))
        & rows["sparsity"].gt(0)
    )
    seeds = whole.groupby([rows["arm"], rows["hp"]]).transform("sum")
    rows = rows[seeds == len(study.about.seeds)]
    found: dict[str, list[Mapping[str, Value]]] = {}
    if rows.empty:
        return found
    points = (
        rows.groupby(["arm", "algorithm", "hp"])[["accuracy_valid", "flops_masked", "flops_shrunk"]]
        .mean()
        .reset_index()
    )
    points["best"] = front.fronts(points, "flops_masked") | front.fronts(points, "flops_shrunk")
    counted = front.unsearched(
        points
    )  # how many candidates were searched does not change how many weights are kept
    points["first"] = counted.groupby([points["arm"], counted]).cumcount() == 0
    cut = rows["flops_shrunk"] < rows["flops_dense"]
    points = points.join(
        cut.groupby([rows["arm"], rows["hp"]]).all().rename("smaller"), on=["arm", "hp"]
    )
    checks: dict[str, list[Arm]] = {}
    for arm in study.arms:
        if arm.follows:
            checks.setdefault(arm.follows, []).append(arm)
    for point in points.to_dict("records"):
        algorithm = find(point["algorithm"])
        hp = complete(algorithm.space, hyperparameters(point["hp"]))
        parent = algorithm.parent(study.task, hp)
        if (parent.model, parent.model_options) != (study.task.model, study.task.model_options):
            continue
        like: dict[str, Value] = {
            name: hp[name] for name in ("lr", "weight_decay") if hp.get(name) is not None
        }
        like["of"] = setting(point["algorithm"], point["hp"])
        for arm in checks.get(point["arm"], []):
            check = _check(arm)
            about = offered.checks(arm.algorithm)[check]
            due = point["best"] if about.front else point["first"]
            if due and (point["smaller"] or not about.smaller):
                given = {name: value for name, value in like.items() if name in arm.algorithm.space}
                found.setdefault(arm.name, []).append(
                    complete(arm.algorithm.space, {**given, "check": check})
                )
    return found


def expected(arms: Sequence[Arm], sizes: Mapping[str, int]) -> dict[str, int]:
    """About how many configurations each arm of checks will have, before anything is measured.

    sizes: how many configurations each arm has.  Checks of the front are expected for as many
    settings as an arm would have there if all arms that are checked were alike: its share of them.
    """
    own = {arm.follows for arm in arms if arm.follows}
    found = {}
    for arm in (arm for arm in arms if arm.follows):
        settings = sizes.get(arm.follows, 0)  # none where it cannot run on the task
        about = offered.checks(arm.algorithm)[_check(arm)]
        found[arm.name] = -(-settings // len(own)) if about.front else settings
    return found


def _check(arm: Arm) -> str:
    values = arm.space["check"]
    assert isinstance(values, tuple)
    return str(values[0])
