"""Standard controls: baselines that a study is given, and sanity checks of what its own arms found.

The baselines are ordinary arms. The checks are planned when all else is done: each is about one setting of an arm, trained with
the same seeds, data and budget (`trainables/algorithms/sanity.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from ..analysis import front, table
from ..analysis.storage import Location
from ..trainables.algorithms import find, sanity
from ..trainables.contract import Value, complete
from ..trainables.kept import kept_members
from ..trainables.task import Task
from .study import Arm, Study

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
"""Of the baselines that remove weights."""
WIDTHS = (0.7, 0.5, 0.35, 0.25, 0.18, 0.125)
"""Of narrower dense networks."""
CHECKS = {"random": "random masks", "shuffled": "shuffled masks", "reinitialised": "re-initialised", "scratch": "from scratch"}
"""Each check, and what its arm is called behind the name of the arm that it is about."""


def added(own: Sequence[Arm], task: Task) -> tuple[Arm, ...]:
    """The arms of a study with the standard controls: baselines that it lacks, and the checks of each arm that is no control.

    Raises ValueError if one of its own has the name of one of these.
    """
    arms = [*own, *(arm for arm in _baselines(task) if not any(_same(arm, other) for other in own))]
    for arm in (arm for arm in own if not arm.algorithm.control):
        for check, called in CHECKS.items():
            if check != "shuffled" or (arm.algorithm.from_dense and task.dense_steps):
                name, space = f"{arm.name}, {called}", {"check": (check,)}
                arms.append(Arm(name, "sanity", find("sanity"), "follows", None, space, follows=arm.name))
    names = {arm.name for arm in own}
    if clash := [arm.name for arm in arms[len(own) :] if arm.name in names]:
        raise ValueError(f'arms have distinct names, and "{clash[0]}" is that of a standard control')
    return tuple(arms)


def _baselines(task: Task) -> list[Arm]:
    dense, magnitude = find("dense"), find("magnitude")
    arms = [Arm("dense", "dense", dense, "grid", None, {})]
    with contextlib.suppress(ValueError):  # a model without a width
        dense.parent(task, complete(dense.space, {"width": WIDTHS[0]}))
        arms.append(Arm("dense, narrower", "dense", dense, "grid", None, {"width": WIDTHS}))
    for scope in ("layerwise", "global"):
        space: dict[str, tuple[Value, ...]] = {"sparsity": SPARSITIES, "scope": (scope,)}
        arms.append(Arm(f"magnitude, {scope}", "magnitude", magnitude, "grid", None, space))
    return arms


def _same(one: Arm, other: Arm) -> bool:
    """Whether two arms are of one algorithm and search the same hyper-parameters, with the same value where it is one."""

    def told(arm: Arm) -> dict[str, object]:
        """Hyper-parameters that are not left at their defaults; those that have several values without them."""
        single = {name: values for name, values in arm.space.items() if isinstance(values, tuple) and len(values) == 1}
        varied: dict[str, object] = dict.fromkeys(arm.space.keys() - single.keys())
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
    arms = {(arm.follows, _check(arm)): arm for arm in study.arms if arm.follows}
    for point in points.to_dict("records"):
        algorithm = find(point["algorithm"])
        hp = complete(algorithm.space, sanity.hyperparameters(point["hp"]))
        parent = algorithm.parent(study.task, hp)
        if (parent.model, parent.model_options) != (study.task.model, study.task.model_options):
            continue
        like: dict[str, Value] = {name: hp[name] for name in ("lr", "weight_decay") if hp.get(name) is not None}
        like["of"] = sanity.setting(point["algorithm"], point["hp"])
        due = {"random": "first", "shuffled": "best", "reinitialised": "best", "scratch": "smaller"}
        for check, column in due.items():
            arm = arms.get((point["arm"], check))
            if arm is not None and point[column] and (check == "random" or point["best"]):
                found.setdefault(arm.name, []).append(complete(arm.algorithm.space, {**like, "check": check}))
    return found


def _check(arm: Arm) -> str:
    values = arm.space["check"]
    assert isinstance(values, tuple)
    return str(values[0])
