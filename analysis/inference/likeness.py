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
from ..rows.storage import Location, Where, locate
from . import equal_flops, paired

Facts = Mapping[str, Any]
"""What a row file's footer, or the task in it, says: field -> value."""
SPENT = ("epochs", "steps", "examples", "search_flops")
"""What of a member's budget is compared."""
RECIPE = ("lr", "weight_decay")
"""What an arm may override in the task."""
ABOUT = ("commit", "device", "versions")
"""What of a footer is named where it differs: results may depend on it, but nothing says that they
do.
"""
UNSAID = "its default"
"""What a footer means that lacks a field: keys that came later are left out at their defaults."""
MEASURES = (
    "accuracy_valid",
    "flops_masked",
    "flops_shrunk",
    *(score for score in front.SCORES if score != "accuracy_valid"),
)


def comparable_rows(
    folders: Sequence[Where | Loaded], anyway: bool = False
) -> tuple[pd.DataFrame, list[str]]:
    """The done rows of the studies in `folders` but for sanity checks, with `label`; and sentences
    about what is unlike.

    folders: or studies that are read already.
    label: as from `equal_flops.labels`; of several studies "study: arm", by the folders if they
    have the same names. task_<name>, for `RECIPE`: the arm's value, or else the task's. Raises
    Mistake if a folder has no rows or none that are done, a file cannot be trusted, a measure is
    missing, or tasks differ and `anyway` is false.
    """
    places = [_place(folder) for folder in folders]
    if len(set(places)) < len(places):
        names = ", ".join(map(str, places))
        raise Mistake(f"a study is compared once; got {names}")
    opened = [_opened(folder) for folder in folders]
    studies = _named(opened)
    footers: dict[str, Sequence[Facts]] = {}
    tasks: dict[str, list[dict[str, Any]]] = {}
    for name, study in zip(studies, opened, strict=True):
        footers[name] = study.footers
        tasks[name] = _tasks(study.footers)
    differ = _differ(tasks)
    if differ and not anyway:
        rule = "studies are compared that share data, split, model and task"
        raise Mistake(f"{rule}; got {differ} (--anyway compares them)")
    for name, rows in studies.items():
        if len(places) > 1:
            label = f"{name}: " + rows["label"]
            rows = rows.assign(label=label)
        first_task = tasks[name][0]
        studies[name] = _recipe(rows, first_task)
    notes: list[str] = []
    if differ:
        notes.append(f"The studies differ in their task: {differ}.")
    for study in opened:
        notes += study.cautions
    notes += _parents(studies)
    notes += _written_apart(footers)
    rows_of_all = pd.concat(studies.values(), ignore_index=True)
    return rows_of_all, notes


def _named(opened: Sequence[Loaded]) -> dict[str, pd.DataFrame]:
    """The done rows of each study by its name; by its folder if names are the same."""
    by_name: dict[str, pd.DataFrame] = {}
    by_folder: dict[str, pd.DataFrame] = {}
    for study in opened:
        rows = _done(study)
        name = str(rows["study"].iloc[0])
        by_name[name] = rows
        folder = str(study.folder)
        by_folder[folder] = rows
    if len(by_name) < len(opened):
        return by_folder
    return by_name


def _written_apart(footers: Mapping[str, Sequence[Facts]]) -> list[str]:
    """A sentence if code or machine differ, none if not."""
    about: dict[str, list[dict[str, Any]]] = {}
    for name, stamps in footers.items():
        about[name] = [_part(stamp) for stamp in stamps]
    differ = _differ(about)
    if not differ:
        return []
    rule = "Rows were not all written by the same code on the same machine"
    return [f"{rule}: {differ}."]


def _part(footer: Facts) -> dict[str, Any]:
    """What a footer says of `ABOUT`."""
    part: dict[str, Any] = {}
    for field in ABOUT:
        if field in footer:
            part[field] = footer[field]
    return part


def unlike(rows: pd.DataFrame, other: pd.DataFrame) -> str:
    """In what the training of two labels differs, in words: budget and recipe; empty if in nothing.

    rows, other: their done rows, as from `load`; the figures of `rows` come first.
    """
    recipe = [f"task_{name}" for name in RECIPE]
    differences: list[str] = []
    for name in (*SPENT, *recipe):
        own = _values(rows, name)
        others = _values(other, name)
        if own == others:
            continue
        bare = name.removeprefix("task_")
        word = bare.replace("_", " ")
        difference = f"{word} {_range(own)} against {_range(others)}"
        differences.append(difference)
    return ", ".join(differences)


def _values(rows: pd.DataFrame, name: str) -> list[Any]:
    """The distinct values of a column, sorted; none without it."""
    if name not in rows:
        return []
    values = rows[name].dropna()
    return sorted(values.unique())


def _range(values: Sequence[Any]) -> str:
    first, last = values[:1], values[-1:]
    ends: list[str] = []
    for value in (*first, *last):
        form = ","
        if isinstance(value, float):
            form = ",.4g"
        ends.append(format(value, form))
    distinct = dict.fromkeys(ends)
    return " to ".join(distinct) or "none"


def _place(folder: Where | Loaded) -> Location:
    return folder.folder if isinstance(folder, Loaded) else locate(folder)


def _opened(folder: Where | Loaded) -> Loaded:
    if isinstance(folder, Loaded):
        return folder
    if not locate(folder).is_dir():
        raise Mistake(f"{folder}: no such folder; studies are compared by their output folders")
    return loaded.open_rows(folder)


def _done(study: Loaded) -> pd.DataFrame:
    folder = study.folder
    is_check = front.is_check(study.done)
    done = study.done[~is_check]
    if done.empty:
        rule = "no member is done; a comparison needs those of two seeds at least"
        raise Mistake(f"{folder}: {rule}")
    for name in MEASURES:
        unmeasured = done[name].isna()
        lacking = done[unmeasured]
        if not lacking.empty:
            first = lacking.iloc[0]
            which = f'the first of them of arm "{first["arm"]}", seed {first["seed"]}'
            rule = f"every done member has its `{name}`"
            raise Mistake(f"{folder}: {rule}; {len(lacking)} have none, {which}")
    labels = equal_flops.labels(done)
    return done.assign(label=labels)


def _tasks(footers: Sequence[Facts]) -> list[dict[str, Any]]:
    """The distinct tasks in footers."""
    tasks: dict[str, dict[str, Any]] = {}
    for footer in footers:
        stated = footer.get("task", {})
        task = dict(stated)
        text = json.dumps(task, sort_keys=True)
        tasks[text] = task
    return list(tasks.values())


def _recipe(rows: pd.DataFrame, task: Facts) -> pd.DataFrame:
    nothing = pd.Series(math.nan, rows.index)
    recipe: dict[str, pd.Series[float]] = {}
    for name in RECIPE:
        if name not in task:
            continue
        own = rows.get(f"hp_{name}", nothing)
        value = task[name]
        recipe[f"task_{name}"] = own.fillna(value)
    return rows.assign(**recipe)


def _differ(facts: Mapping[str, Sequence[Facts]]) -> str:
    """In words, the fields in which the studies' facts are not all alike, with the values of each
    study.
    """
    fields: dict[str, None] = {}
    for stated in facts.values():
        for fact in stated:
            fields |= dict.fromkeys(fact)
    differences: list[str] = []
    for field in fields:
        values: dict[str, list[str]] = {}
        for name, stated in facts.items():
            values[name] = _distinct(stated, field)
        sides = _sides(values)
        if sides:
            differences.append(f"{field} {sides}")
    return "; ".join(differences)


def _sides(values: Mapping[str, Sequence[str]]) -> str:
    """What each study says of a field, in words; empty if all say the same."""
    said = set[str]().union(*values.values())
    if len(said) < 2:
        return ""
    sides: list[str] = []
    for name, words in values.items():
        joined = " and ".join(words)
        sides.append(f"{joined} ({name})")
    return " against ".join(sides)


def _distinct(facts: Sequence[Facts], field: str) -> list[str]:
    """What facts say of a field, in words, once each."""
    words: list[str] = []
    for fact in facts:
        word = UNSAID
        if field in fact:
            word = _word(fact[field])
        if word not in words:
            words.append(word)
    return words


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value[:16] if re.fullmatch("[0-9a-f]{20,}", value) else value
    return json.dumps(value, sort_keys=True)


def _parents(studies: Mapping[str, pd.DataFrame]) -> list[str]:
    """Whether the studies' parents are as accurate in the same seeds, a sentence for each of which
    that is not so.
    """
    (first, rows), *others = studies.items()
    start = front.parent_scores(rows)["accuracy_valid"]
    sentences: list[str] = []
    for name, other in others:
        scores = front.parent_scores(other)["accuracy_valid"]
        apart = (scores - start).abs().dropna()
        if apart.empty:
            sentences.append(
                f"Whether {first} and {name} start from the same parent is not known: none that "
                "both have in a seed."
            )
        elif apart.max() > paired.ALIKE:
            sentences.append(
                f"The parents of {first} and {name} are up to {100 * apart.max():.2f} percentage "
                "points apart in the same seed (validation accuracy)."
            )
    return sentences
