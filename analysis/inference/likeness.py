"""Studies read together, and how alike their training was: the same data and task, parent, budget
and recipe.

What was learnt on other data or by another task is refused, or named wherever it is shown; nothing
unlike is ranked in silence.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..points import front
from ..rows import loaded
from ..rows.loaded import Loaded
from ..rows.mistake import Mistake
from ..rows.storage import Where, locate
from . import equal_flops, paired

SPENT = ("epochs", "steps", "examples", "search_flops")
"""What of a member's budget is compared."""
RECIPE = ("lr", "weight_decay")
"""What an arm may override in the task."""
ABOUT = ("commit", "device", "versions")
"""What of a footer is named where it differs: results may depend on it, but nothing says that they
do.
"""
MEASURES = (
    "accuracy_valid",
    "flops_masked",
    "flops_shrunk",
    *(score for score in front.SCORES if score != "accuracy_valid"),
)


def load(folders: Sequence[Where | Loaded], anyway: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """The done rows of the studies in `folders` but for sanity checks, with `label`; and sentences
    about what is unlike.

    folders: or studies that are read already.
    label: as from `equal_flops.labels`; of several studies "study: arm", by the folders if they have
    the same names. task_<name>, for `RECIPE`: the arm's value, or else the task's. Raises Mistake
    if a folder has no rows or none that are done, a file cannot be trusted, a measure is missing,
    or tasks differ and `anyway` is false.
    """
    places = [folder.folder if isinstance(folder, Loaded) else locate(folder) for folder in folders]
    if len(set(places)) < len(places):
        raise Mistake(f"a study is compared once; got {', '.join(map(str, places))}")
    opened = [folder if isinstance(folder, Loaded) else _opened(folder) for folder in folders]
    studies = [_done(study) for study in opened]
    names = [str(rows["study"].iloc[0]) for rows in studies]
    if len(set(names)) < len(names):
        names = list(map(str, places))
    footers = [study.footers for study in opened]
    tasks = {name: _tasks(found) for name, found in zip(names, footers, strict=True)}
    differ = _differ(tasks)
    if differ and not anyway:
        raise Mistake(
            f"studies are compared that share data, split, model and task; got {differ} (--anyway compares them)"
        )
    if len(places) > 1:
        studies = [
            rows.assign(label=name + ": " + rows["label"])
            for name, rows in zip(names, studies, strict=True)
        ]
    studies = [_recipe(rows, tasks[name][0]) for name, rows in zip(names, studies, strict=True)]
    said = [f"The studies differ in their task: {differ}."] if differ else []
    for study in opened:
        said += study.cautions
    said += _parents(dict(zip(names, studies, strict=True)))
    if about := _differ(
        {
            name: [{k: f[k] for k in ABOUT if k in f} for f in found]
            for name, found in zip(names, footers, strict=True)
        }
    ):
        said.append(f"Rows were not all written by the same code on the same machine: {about}.")
    return pd.concat(studies, ignore_index=True), said


def unlike(rows: pd.DataFrame, other: pd.DataFrame) -> str:
    """In what the training of two labels differs, in words: budget and recipe; empty if in nothing.

    rows, other: their done rows, as from `load`; the figures of `rows` come first.
    """
    found = []
    for name in (*SPENT, *(f"task_{name}" for name in RECIPE)):
        one, two = (
            sorted(each[name].dropna().unique()) if name in each else [] for each in (rows, other)
        )
        if one != two:
            found.append(
                f"{name.removeprefix('task_').replace('_', ' ')} {_range(one)} against {_range(two)}"
            )
    return ", ".join(found)


def _range(values: Sequence[Any]) -> str:
    ends = [
        f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
        for value in (*values[:1], *values[-1:])
    ]
    return " to ".join(dict.fromkeys(ends)) or "none"


def _opened(folder: Where) -> Loaded:
    if not locate(folder).is_dir():
        raise Mistake(f"{folder}: no such folder; studies are compared by their output folders")
    return loaded.load(folder)


def _done(study: Loaded) -> pd.DataFrame:
    folder, done = study.folder, study.done[~front.is_check(study.done)]
    if done.empty:
        raise Mistake(
            f"{folder}: no member is done; a comparison needs those of two seeds at least"
        )
    for name in MEASURES:
        if done[name].isna().any():
            first = done[done[name].isna()].iloc[0]
            raise Mistake(
                f"{folder}: every done member has its `{name}`; {done[name].isna().sum()} have none, the first of them "
                f'of arm "{first["arm"]}", seed {first["seed"]}'
            )
    return done.assign(label=equal_flops.labels(done))


def _tasks(footers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return list(
        {
            json.dumps(footer.get("task", {}), sort_keys=True): dict(footer.get("task", {}))
            for footer in footers
        }.values()
    )


def _recipe(rows: pd.DataFrame, task: Mapping[str, Any]) -> pd.DataFrame:
    own = {
        name: rows.get(f"hp_{name}", pd.Series(math.nan, rows.index))
        for name in RECIPE
        if name in task
    }
    return rows.assign(
        **{f"task_{name}": values.fillna(task[name]) for name, values in own.items()}
    )


def _differ(facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """In words, the fields in which the studies' facts are not all alike, with the values of each
    study.
    """
    every = [fact for found in facts.values() for fact in found]
    said = []
    for field in dict.fromkeys(field for fact in every for field in fact):
        values = {
            name: list(dict.fromkeys(_word(fact.get(field)) for fact in found))
            for name, found in facts.items()
        }
        if len({value for found in values.values() for value in found}) > 1:
            said.append(
                f"{field} "
                + " against ".join(
                    f"{' and '.join(found)} ({name})" for name, found in values.items()
                )
            )
    return "; ".join(said)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value[:16] if re.fullmatch("[0-9a-f]{20,}", value) else value
    return json.dumps(value, sort_keys=True)


def _parents(studies: Mapping[str, pd.DataFrame]) -> list[str]:
    """Whether the studies' parents are as accurate in the same seeds, a sentence for each of which
    that is not so.
    """
    (first, start), *others = (
        (name, front.parent_scores(rows)["accuracy_valid"]) for name, rows in studies.items()
    )
    said = []
    for name, scores in others:
        apart = (scores - start).abs().dropna()
        if apart.empty:
            said.append(
                f"Whether {first} and {name} start from the same parent is not known: none that both have in a seed."
            )
        elif apart.max() > paired.ALIKE:
            said.append(
                f"The parents of {first} and {name} are up to {100 * apart.max():.2f} percentage points apart in the same seed "
                "(validation accuracy)."
            )
    return said
