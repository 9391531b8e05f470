"""A study's rows in an Optuna storage, one Optuna study for each arm, for optuna-dashboard and
Optuna's own plots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ...analysis.rows import table
from ...analysis.rows.goals import Goals
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Where
from ..propose.learnt import quiet

if TYPE_CHECKING:  # optuna takes a second to import
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    Distributions = dict[str, BaseDistribution]

Row = dict[Any, Any]
Params = dict[str, Any]
NUMBERS = (table._real, table._count)
FIGURES = {name for name, kind, _ in table.COLUMNS if kind in NUMBERS} - {"seed", "rung"}
ATTRIBUTES = ("member", "seed", "status", "reason")
"""Columns of a row that a trial has as user attributes."""


def export(folder: Where, url: str, wanted: Goals) -> list[str]:
    """Write the last rows in `folder` to the storage at `url`, a trial for each member; returns the
    names of the studies.

    url: of a database, or a path that ends in .log.  A member that is done is a complete trial; one
    that was stopped too, with a constraint that it breaks, since it was measured and may not win;
    others are failed.  Seed, status and the measures of earlier rungs are user attributes.  Raises
    Mistake if the storage cannot be opened or has one of the studies.
    """
    rows = table.current(folder, table.read(folder))
    for name in wanted.columns:
        if name not in rows:
            rule = "every objective and constraint is a measure of the rows"
            raise Mistake(f"{folder}: {rule}; they have no {name!r}")
    running = rows[rows["status"] == table.RUNNING]
    studies: dict[str, pd.DataFrame] = {}
    last_rows = table.last(rows)
    for arm, last in last_rows.groupby("arm"):
        study = last["study"].iloc[0]
        studies[f"{study}/{arm}"] = last
    with quiet():
        storage = _storage(url)
        _check_new(storage, url, studies)
        for name, last in studies.items():
            arm = last["arm"].iloc[0]
            is_arm = running["arm"] == arm
            earlier = running[is_arm]
            _add_study(storage, name, last, earlier, wanted)
    return list(studies)


def _storage(url: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        if url.endswith(".log"):
            return JournalStorage(JournalFileBackend(url))
        return RDBStorage(url)
    except Exception as error:  # of any database's driver
        rule = "a storage is the URL of a database, such as sqlite:///FILE.db"
        first, *_ = str(error).splitlines() or [""]
        raise Mistake(f"{rule}, or a path that ends in .log; got {url!r} ({first})") from error


def _check_new(storage: BaseStorage, url: str, studies: Container[str]) -> None:
    from optuna.study import get_all_study_names

    for name in get_all_study_names(storage):
        if name in studies:
            rule = f"an export adds new studies, and the storage has {name!r} already"
            raise Mistake(f"{url}: {rule}; name another one")


def _add_study(
    storage: BaseStorage,
    name: str,
    last: pd.DataFrame,
    earlier: pd.DataFrame,
    goals: Goals,
) -> None:
    """last, earlier: rows of one arm."""
    import optuna
    from optuna.study import StudyDirection

    ways = (StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE)
    directions = [ways[up] for up in goals.directions]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions)
    study.set_metric_names(list(goals.measures))
    by_member: dict[Any, Sequence[Row]] = {}
    for member, rows in earlier.groupby("member"):
        by_member[member] = rows.to_dict("records")
    study.add_trials(_trials(last, by_member, goals))


def _trials(
    last: pd.DataFrame,
    earlier: Mapping[Any, Sequence[Row]],
    goals: Goals,
) -> list[FrozenTrial]:
    """A trial for each of an arm's last rows. earlier: member -> its rows of rungs before."""
    rows = last.to_dict("records")
    params = [_params(row) for row in rows]
    distributions = _distributions(params)
    values = goals.values(last)
    violations = goals.violations(last)
    trials: list[FrozenTrial] = []
    for row, hp, objectives, broken in zip(rows, params, values, violations, strict=True):
        before = earlier.get(row["member"], [])
        attributes = {name: row[name] for name in ATTRIBUTES}
        for at_rung in (*before, row):
            rung = at_rung["rung"]
            attributes[f"rung {rung}"] = _figures(at_rung)
        limits: dict[str, float] = {}
        for limit, by in zip(goals.constraints, broken, strict=True):
            limits[str(limit)] = float(by)
        used = {name: distributions[name] for name in hp}
        status = row["status"]
        trial = _trial(status, hp, used, objectives.tolist(), limits, attributes)
        trials.append(trial)
    return trials


def _trial(
    status: str,
    hp: Params,
    distributions: Distributions,
    values: Sequence[float],
    limits: Mapping[str, float],
    attributes: Mapping[str, Any],
) -> FrozenTrial:
    """values, limits: of the objectives, and by how much each constraint is broken."""
    import optuna
    from optuna.trial import TrialState

    stopped = status == "stopped"
    numbers = [*values, *limits.values()]
    ended_well = stopped or status == "done"
    measured = ended_well and all(map(math.isfinite, numbers))
    if not measured:
        return optuna.create_trial(
            state=TrialState.FAIL,
            params=dict(hp),
            distributions=dict(distributions),
            user_attrs=dict(attributes),
        )
    return optuna.create_trial(
        state=TrialState.COMPLETE,
        values=values,
        params=dict(hp),
        distributions=dict(distributions),
        constraints={**limits, "stopped": float(stopped)},
        user_attrs=dict(attributes),
    )


def _params(row: Row) -> Params:
    """The hyper-parameters of a row by name; lists as JSON. One that is left to the algorithm is
    left out.
    """
    params: Params = {}
    for key, value in row.items():
        column = str(key)
        if not column.startswith("hp_") or pd.isna(value):
            continue
        name = column.removeprefix("hp_")
        params[name] = value
    for name, value in json.loads(row["hp"]).items():
        if isinstance(value, list):
            params[name] = json.dumps(value)
    return params


def _distributions(params: Sequence[Params]) -> Distributions:
    """Of each hyper-parameter the range, or the values, that rows have: what was searched is not in
    them.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    values: dict[str, list[Any]] = {}
    for hp in params:
        for name, value in hp.items():
            values.setdefault(name, []).append(value)
    distributions: Distributions = {}
    for name in sorted(values):
        known = values[name]
        if isinstance(known[0], str):
            distributions[name] = CategoricalDistribution(sorted(set(known)))
        else:
            distributions[name] = FloatDistribution(min(known), max(known))
    return distributions


def _figures(row: Row) -> dict[str, float]:
    """The numbers that were measured."""
    figures: dict[str, float] = {}
    for key, value in row.items():
        name = str(key)
        is_figure = name in FIGURES or name.startswith("m_")
        if is_figure and math.isfinite(value):
            figures[name] = value
    return figures
