"""The study file: TOML in, validated values out, one clear sentence for each mistake."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from ...analysis.rows.goals import Goals
from ...analysis.rows.mistake import Mistake
from ...trainables import models
from ...trainables.algorithms import find
from ...trainables.task import KEYS, Task
from . import controls
from .schema import (
    MOST_CONFIGURATIONS,
    About,
    Arm,
    ArmTable,
    Content,
    Space,
    Span,
    Study,
    Tables,
    Values,
    at,
)
from .space import conditions, every_whole, shown, values_of
from .swept import variants

TABLES: dict[str, type[pydantic.BaseModel]] = {"study": About, "arm": ArmTable}


def read(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Study:
    """The study in the TOML file `path`, with `settings` ("table.key=value", TOML values) in place
    of what it says.

    Raises Mistake with one sentence: file, key, rule, value.
    """
    studies = read_swept(path, settings)
    if len(studies) > 1 or "" not in studies:
        rule = "this takes a study with one value for each key of [task]"
        raise Mistake(f"{path}: {rule}; got {len(studies)}: {', '.join(studies)}")
    return studies[""]


def read_swept(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> dict[str, Study]:
    """As `read`, a study for each combination of the values that [task] lists, by a name such as
    `label_noise=0.2`; one with an empty name if it lists none.
    """
    path = Path(path)
    studies: dict[str, Study] = {}
    with at(path):
        content = _read_toml(path)
        for setting in settings:
            _set(content, setting)
        for name, tables in variants(content).items():
            study = from_tables(tables, path)
            if name:  # what is compared across values is compared with the parent
                study = controls.with_parent(study)
            studies[name] = study
    return studies


def checked_copy(tables: Content) -> dict[str, Any]:
    """A deep copy of what is given in Python, as TOML would have it: lists for tuples, text for
    paths. Raises Mistake for what TOML has no word for.
    """
    try:
        text = json.dumps(dict(tables), default=os.fspath)
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        rule = "a study has text, numbers, truth values, and lists and tables of these"
        raise Mistake(f"{rule}; got: {error}") from None


def from_tables(content: Content, path: Path | None) -> Study:
    """The study of the tables of a study file. path: of the file, if there is one.

    Raises Mistake with one sentence: key, rule, value.
    """
    try:
        tables = Tables.model_validate(content)
    except pydantic.ValidationError as error:
        raise Mistake(_sentence(error, content)) from None
    about = tables.study
    with at("[task]"):
        task = Task.from_table(tables.task)
    with at("[study]"):
        goals = Goals.parse(about.maximize, about.minimize, about.constraints)
    arms = _arms(tables.arm)
    if about.controls == "standard":
        with at("[task]"):
            _ = task.loaded  # controls are given to what there is
        with at("[study]"):
            _check_controlled(about)
            arms = controls.added(arms, task)
    return Study(about, task, arms, path, goals)


def _check_controlled(about: About) -> None:
    if about.keep == "none":
        rule = '`controls` "standard" needs the networks that it checks: `keep` is front or all'
        raise Mistake(f"{rule}; got none")
    if about.reduction_factor is not None:
        rule = '`controls` "standard" gives every member the whole budget'
        without = "and so goes without `reduction_factor`"
        raise Mistake(f"{rule}, {without}; got {about.reduction_factor:g}")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
        json.dumps(content)
    except FileNotFoundError:
        raise Mistake("no such file") from None
    except OSError as error:
        raise Mistake(f"a study file can be read; got: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # the encoding's own errors are ValueErrors too
        raise Mistake(f"a study file is TOML in UTF-8; got: {error}") from None
    except TypeError:
        rule = "no key of a study is a date or a time"
        raise Mistake(f"{rule}, but one is here; quotes make it text") from None
    return content


def _set(content: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    outer, _, inner = key.strip().partition(".")
    is_whole = equals and inner
    if not is_whole or outer not in ("study", "task"):
        raise Mistake(f"--set takes study.KEY=VALUE or task.KEY=VALUE; got {setting!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    table = content.setdefault(outer, {})
    if isinstance(table, dict):
        table[inner] = parsed


def _sentence(error: pydantic.ValidationError, content: Content) -> str:
    """One mistake in one sentence: the field's own rule, since pydantic's words are about its
    types.
    """
    # A key that is not known first: it may be why another one is missing.
    errors = error.errors(include_url=False)
    details = min(errors, key=_is_known_key)
    outer, *inner = details["loc"]
    place = ""
    key = str(outer)
    fields = Tables.model_fields
    keys = [part for part in inner if isinstance(part, str)]
    if keys:
        place = _place(outer, inner, content)
        key = keys[0]  # what comes after it is inside the value
        fields = TABLES[str(outer)].model_fields
    if details["type"] == "extra_forbidden":
        hint = models.hint(key, fields)
        if outer == "study" and key in KEYS:
            hint = " it is one of [task]"
        return f"{place}`{key}` is no key here;{hint}"
    rule = fields[key].description
    if details["type"] == "missing":
        return f"{place}`{key}` is missing: {rule}"
    got = shown(details["input"])
    return f"{place}`{key}` is {rule}; got {got}"


def _is_known_key(details: ErrorDetails) -> bool:
    return details["type"] != "extra_forbidden"


def _place(outer: int | str, inner: Sequence[int | str], content: Content) -> str:
    if outer != "arm":
        return f"[{outer}]: "
    index = int(inner[0])
    arm = content["arm"][index]
    label = None
    if isinstance(arm, Mapping):
        label = arm.get("name") or arm.get("algorithm")
    if label and isinstance(label, str):
        return f'arm "{label}": '
    return f"arm {index + 1}: "


def _arms(tables: Sequence[ArmTable]) -> tuple[Arm, ...]:
    arms: dict[str, Arm] = {}
    for table in tables:
        name = table.name or table.algorithm
        with at(f'arm "{name}"'):
            if name in arms:
                rule = "arms have distinct names, and another one has this"
                raise Mistake(f"{rule}; give one of them a `name`")
            arms[name] = _arm(name, table)
    return tuple(arms.values())


def _arm(name: str, table: ArmTable) -> Arm:
    algorithm = find(table.algorithm)
    on_grid = table.sampler == "grid"
    space: dict[str, Values] = {}
    for key, given in table.space.items():
        values = values_of(algorithm, key, given)
        if on_grid:
            values = every_whole(values)
        space[key] = values
    if on_grid:
        _check_grid(table, space)
    else:
        _check_drawn(table, space)
    return Arm(
        name,
        table.algorithm,
        algorithm,
        table.sampler,
        table.members,
        space,
        table.sampler_seed,
        conditions(algorithm, table.space, space),
    )


def _check_grid(table: ArmTable, space: Space) -> None:
    if table.members is not None:
        rule = "`members` is how many a sampler other than grid proposes"
        raise Mistake(f"{rule}; got {table.members}")
    if "sampler_seed" in table.model_fields_set:
        rule = "`sampler_seed` is of samplers that draw, which a grid does not"
        raise Mistake(f"{rule}; got {table.sampler_seed}")
    for key, values in space.items():
        if isinstance(values, Span):
            rule = f"`{key}` is a list of values for the sampler grid, or a range of whole numbers"
            raise Mistake(f"{rule}, all of which are tried; got {table.space[key]}")
    combinations = _combinations(space)
    if combinations > MOST_CONFIGURATIONS:
        rule = f"`space` has at most {MOST_CONFIGURATIONS} combinations"
        raise Mistake(f"{rule}; got {combinations}")


def _check_drawn(table: ArmTable, space: Space) -> None:
    if table.members is None:
        raise Mistake(f"`members` is missing: how many the sampler {table.sampler} proposes")
    has_ranges = any(isinstance(values, Span) for values in space.values())
    has_one = _combinations(space) == 1
    if has_one and not has_ranges:
        rule = f"`space` has ranges or several values for the sampler {table.sampler}"
        raise Mistake(f"{rule}; got {table.space}")


def _combinations(space: Space) -> int:
    """Of the values that are listed."""
    product = 1
    for values in space.values():
        if not isinstance(values, Span):
            product *= len(values)
    return product
