"""A study's rows in an Optuna storage, one Optuna study for each arm, for optuna-dashboard and
Optuna's own plots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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


def export(folder: Where, url: str, wanted: Goals) -> list[str]:
    """Write the last rows in `folder` to the storage at `url`, a trial for each member; returns the
    names of the studies.

    url: of a database, or a path that ends in .log.  A member that is done is a complete trial; one
    that was stopped too, with a constraint that it breaks, since it was measured and may not win;
    others are failed.  Seed, status and the measures of earlier rungs are user attributes.  Raises
    Mistake if the storage cannot be opened or has one of the studies.
    """
    import optuna

    rows = table.current(folder, table.read(folder))
    last = table.last(rows)
    lacking = [name for name in wanted.columns if name not in rows]
    if lacking:
        raise Mistake(
            f"{folder}: every objective and constraint is a measure of the rows; they have no {lacking[0]!r}"
        )
    with quiet():
        storage = _storage(url)
        studies = {
            f"{arm_rows['study'].iloc[0]}/{arm}": arm_rows for arm, arm_rows in last.groupby("arm")
        }
        for name in optuna.study.get_all_study_names(storage):
            if name in studies:
                raise Mistake(
                    f"{url}: an export adds new studies, and the storage has {name!r} already; name another one"
                )
        ways = (optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE)
        for name, arm_rows in studies.items():
            study = optuna.create_study(
                study_name=name, storage=storage, directions=[ways[up] for up in wanted.directions]
            )
            study.set_metric_names(list(wanted.measures))
            earlier = rows[
                (rows["arm"] == arm_rows["arm"].iloc[0]) & (rows["status"] == table.RUNNING)
            ]
            study.add_trials(_trials(arm_rows, dict(list(earlier.groupby("member"))), wanted))
    return [*studies]


def _storage(url: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        return JournalStorage(JournalFileBackend(url)) if url.endswith(".log") else RDBStorage(url)
    except Exception as error:  # of any database's driver
        rule = "a storage is the URL of a database, such as sqlite:///FILE.db, or a path that ends in .log"
        raise Mistake(f"{rule}; got {url!r} ({(str(error).splitlines() or [''])[0]})") from error


def _trials(
    last: pd.DataFrame, earlier: Mapping[Any, pd.DataFrame], goals: Goals
) -> list[FrozenTrial]:
    """A trial for each of an arm's last rows."""
    import optuna
    from optuna.trial import TrialState

    params = [_params(row) for row in last.to_dict("records")]
    distributions = _distributions(params)
    values, violations = goals.values(last), goals.violations(last)
    trials: list[FrozenTrial] = []
    for row, hp, objectives, broken in zip(
        last.to_dict("records"), params, values, violations, strict=True
    ):
        stopped = row["status"] == "stopped"
        measured = (stopped or row["status"] == "done") and all(
            map(math.isfinite, (*objectives, *broken))
        )
        limits = {
            str(limit): float(by) for limit, by in zip(goals.constraints, broken, strict=True)
        }
        before = earlier.get(row["member"])
        trials.append(
            optuna.create_trial(
                state=TrialState.COMPLETE if measured else TrialState.FAIL,
                values=objectives.tolist() if measured else None,
                params=hp,
                distributions={name: distributions[name] for name in hp},
                constraints={**limits, "stopped": float(stopped)} if measured else None,
                user_attrs={
                    **{name: row[name] for name in ("member", "seed", "status", "reason")},
                    **{
                        f"rung {r['rung']}": _figures(r)
                        for r in ([] if before is None else before.to_dict("records"))
                    },
                    f"rung {row['rung']}": _figures(row),
                },
            )
        )
    return trials


def _params(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The hyper-parameters of a row by name; lists as JSON. One that is left to the algorithm is
    left out.
    """
    given = {
        str(key)[3:]: value
        for key, value in row.items()
        if str(key).startswith("hp_") and not pd.isna(value)
    }
    lists = {
        name: json.dumps(value)
        for name, value in json.loads(row["hp"]).items()
        if isinstance(value, list)
    }
    return {**given, **lists}


def _distributions(params: Sequence[Mapping[str, Any]]) -> dict[str, BaseDistribution]:
    """Of each hyper-parameter the range, or the values, that rows have: what was searched is not in
    them.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, BaseDistribution] = {}
    for name in sorted({name for hp in params for name in hp}):
        values = [hp[name] for hp in params if name in hp]
        if isinstance(values[0], str):
            found[name] = CategoricalDistribution(sorted(set(values)))
        else:
            found[name] = FloatDistribution(min(values), max(values))
    return found


def _figures(row: Mapping[Any, Any]) -> dict[str, float]:
    """The numbers that were measured."""
    known = [name for name, kind, _ in table.COLUMNS if kind in (table._real, table._count)]
    names = [name for name in row if name in known or str(name).startswith("m_")]
    return {
        str(name): row[name]
        for name in names
        if name not in ("seed", "rung") and math.isfinite(row[name])
    }
