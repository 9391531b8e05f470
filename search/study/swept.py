"""Values of [task] that a study sweeps: a list in place of a value makes a study for each.

Each has its own parents, controls and front, and a folder of its own in the output folder. Only
differences to the parent are compared across values (`analysis.inference.across`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location
from ...trainables.structure.wrapping import WRAP
from ...trainables.task import DOMAINS, OLD
from .schema import Content, Study

SWEPT = (*DOMAINS, OLD, WRAP)
"""Keys of [task] that have one value, so that a list says that they are swept."""
MOST_VALUES = 64
"""Studies that one file may make."""


def variants(content: Content) -> dict[str, Content]:
    """The tables of a study for each combination of values that [task] lists, by a name such as
    `label_noise=0.2`; the tables as they are under an empty name if it lists none.

    Only keys of the task with one value can be listed: an option of data set or model, and
    `augment`, may be a list by itself. Raises Mistake for a list that is empty or repeats a value,
    and for too many combinations.
    """
    task = content.get("task", {})
    if not isinstance(task, Mapping):
        return {"": content}  # whoever reads it says what is wrong
    listed: dict[str, list[Any]] = {}
    for key, values in task.items():
        if key in SWEPT and isinstance(values, list):
            _check_values(key, values)
            listed[key] = values
    if not listed:
        return {"": content}
    combinations = list(itertools.product(*listed.values()))
    if len(combinations) > MOST_VALUES:
        rule = f"[task]: the values that are listed make at most {MOST_VALUES} studies"
        raise Mistake(f"{rule}; got {len(combinations)}")
    tables: dict[str, Content] = {}
    for values in combinations:
        chosen = dict(zip(listed, values, strict=True))
        tables[_name(chosen)] = _with(content, chosen)
    return tables


def named(studies: Mapping[str, Study]) -> str:
    """The name of the study that a file says, without the values."""
    value = next(iter(studies))
    name = studies[value].about.name
    ending = f", {value}"
    return name.removesuffix(ending)


def place(folder: Location, value: str) -> Location:
    """The output folder of the study of a value; without one, the folder itself."""
    return folder / value if value else folder


def _check_values(key: str, values: list[Any]) -> None:
    rule = f"[task]: `{key}` has one value, or a list of distinct values to sweep"
    got = json.dumps(values)
    for value in values:
        if not isinstance(value, str | int | float):
            raise Mistake(f"{rule}; got {got}")
    if not values or len(set(values)) < len(values):  # 0 and 0.0 are one
        raise Mistake(f"{rule}; got {got}")


def _name(chosen: Mapping[str, Any]) -> str:
    """What a combination of values is called, as a folder can be."""
    words: list[str] = []
    for key, value in chosen.items():
        text = value if isinstance(value, str) else json.dumps(value)
        words.append(f"{key}={text}")
    return ",".join(words)


def _with(content: Content, chosen: Mapping[str, Any]) -> Content:
    """The tables of a study with these values in [task], and its name with them."""
    task = {**content["task"], **chosen}
    about = content.get("study")
    if isinstance(about, Mapping) and isinstance(about.get("name"), str):
        about = {**about, "name": f"{about['name']}, {_name(chosen)}"}
    return {**content, "study": about, "task": task}
