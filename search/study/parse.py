"""The study file: TOML in, validated values out, one clear sentence for each mistake."""

from __future__ import annotations

import graphlib
import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from ...analysis.rows.goals import Goals
from ...analysis.rows.mistake import Mistake
from ...trainables import models
from ...trainables.algorithms import find
from ...trainables.contract import Algorithm
from ...trainables.domain import Domain, Value
from ...trainables.task import Task
from .schema import MOST, About, Arm, ArmTable, File, Span, Study, at


def read(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Study:
    """The study in the TOML file `path`, with `settings` ("table.key=value", TOML values) in place
    of what it says.

    Raises Mistake with one sentence: file, key, rule, value.
    """
    path = Path(path)
    with at(path):
        content = _content(path)
        for setting in settings:
            _set(content, setting)
        try:
            file = File.model_validate(content)
        except pydantic.ValidationError as error:
            raise Mistake(_sentence(error, content)) from None
        with at("[task]"):
            task = Task.from_table(file.task)
        with at("[study]"):
            goals = Goals.parse(file.study.maximize, file.study.minimize, file.study.constraints)
        arms = _arms(file.arm)
        if file.study.controls == "standard":
            with at("[task]"):
                _ = task.loaded  # controls are given to what there is
            with at("[study]"):
                arms = _controlled(file.study, task, arms)
        return Study(file.study, task, arms, path, goals)


def _controlled(about: About, task: Task, arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    from .controls import added

    if about.keep == "none":
        raise Mistake(
            '`controls` "standard" needs the networks that it checks: `keep` is front or all; got none'
        )
    if about.reduction_factor is not None:
        rule = '`controls` "standard" gives every member the whole budget, and so goes without `reduction_factor`'
        raise Mistake(f"{rule}; got {about.reduction_factor:g}")
    return added(arms, task)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(content)
    except FileNotFoundError:
        raise Mistake("no such file") from None
    except OSError as error:
        raise Mistake(f"a study file can be read; got: {error.strerror}") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # tomllib's own errors and those of the encoding are ValueErrors
        raise Mistake(f"a study file is TOML in UTF-8; got: {error}") from None
    except TypeError:
        raise Mistake(
            "no key of a study is a date or a time, but one is here; quotes make it text"
        ) from None
    return content


def _set(content: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    outer, _, inner = key.strip().partition(".")
    if not equals or not inner or outer not in ("study", "task"):
        raise Mistake(f"--set takes study.KEY=VALUE or task.KEY=VALUE; got {setting!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    if isinstance(content.setdefault(outer, {}), dict):
        content[outer][inner] = parsed


def _sentence(error: pydantic.ValidationError, content: Mapping[str, Any]) -> str:
    """One mistake in one sentence: the field's own rule, since pydantic's words are about its
    types.
    """
    # A key that is not known first: it may be why another one is missing.
    first = min(
        error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden"
    )
    outer, *inner = first["loc"]
    key = next(
        (part for part in inner if isinstance(part, str)), None
    )  # what comes after it is inside the value
    place = "" if key is None else _place(outer, inner, content)
    fields = (File if key is None else {"study": About, "arm": ArmTable}[str(outer)]).model_fields
    key = str(outer) if key is None else key
    if first["type"] == "extra_forbidden":
        return f"{place}`{key}` is no key here;{models.hint(key, fields)}"
    rule = fields[key].description
    if first["type"] == "missing":
        return f"{place}`{key}` is missing: {rule}"
    return f"{place}`{key}` is {rule}; got {_shown(first['input'])}"


def _place(outer: int | str, inner: Sequence[int | str], content: Mapping[str, Any]) -> str:
    if outer != "arm":
        return f"[{outer}]: "
    arm = content["arm"][inner[0]]
    label = (arm.get("name") or arm.get("algorithm")) if isinstance(arm, Mapping) else None
    return f'arm "{label}": ' if label and isinstance(label, str) else f"arm {int(inner[0]) + 1}: "


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _arms(tables: Sequence[ArmTable]) -> tuple[Arm, ...]:
    arms: dict[str, Arm] = {}
    for table in tables:
        name = table.name or table.algorithm
        with at(f'arm "{name}"'):
            if name in arms:
                raise Mistake(
                    "arms have distinct names, and another one has this; give one of them a `name`"
                )
            arms[name] = _arm(name, table)
    return tuple(arms.values())


def _arm(name: str, table: ArmTable) -> Arm:
    algorithm = find(table.algorithm)
    space = {key: _values(algorithm, key, value) for key, value in table.space.items()}
    if table.sampler == "grid":
        space = {key: _every(values) for key, values in space.items()}
    spans = [key for key, values in space.items() if isinstance(values, Span)]
    sizes = [len(values) for values in space.values() if not isinstance(values, Span)]
    if table.sampler == "grid":
        if table.members is not None:
            raise Mistake(
                f"`members` is how many a sampler other than grid proposes; got {table.members}"
            )
        if "sampler_seed" in table.model_fields_set:
            raise Mistake(
                f"`sampler_seed` is of samplers that draw, which a grid does not; got {table.sampler_seed}"
            )
        if spans:
            rule = f"`{spans[0]}` is a list of values for the sampler grid, or a range of whole numbers"
            raise Mistake(f"{rule}, all of which are tried; got {table.space[spans[0]]}")
        if math.prod(sizes) > MOST:
            raise Mistake(f"`space` has at most {MOST} combinations; got {math.prod(sizes)}")
    else:
        if table.members is None:
            raise Mistake(f"`members` is missing: how many the sampler {table.sampler} proposes")
        if not spans and math.prod(sizes) == 1:
            raise Mistake(
                f"`space` has ranges or several values for the sampler {table.sampler}; got {table.space}"
            )
    when = _when(algorithm, table.space, space)
    return Arm(
        name,
        table.algorithm,
        algorithm,
        table.sampler,
        table.members,
        space,
        table.sampler_seed,
        when,
    )


def _values(algorithm: Algorithm, key: str, given: Any) -> tuple[Value, ...] | Span:
    """The values that `space.key` names: a list of values, one value, or a range; a condition
    beside them is left out.
    """
    if key not in algorithm.space:
        raise Mistake(
            f"`{key}` is no hyper-parameter of its algorithm;{models.hint(key, algorithm.space)}"
        )
    domain = algorithm.space[key]
    if isinstance(given, Mapping):
        given = {name: value for name, value in given.items() if name != "when"}
        given = given["values"] if given.keys() == {"values"} else given
    try:
        return _span(domain, given) if isinstance(given, Mapping) else _listed(domain, given)
    except Mistake as error:
        raise Mistake(f"`{key}` {error}") from None


def _listed(domain: Domain, given: Any) -> tuple[Value, ...]:
    """A value, or a list of them, checked."""
    several = isinstance(given, list) and (
        domain.kind != "reals" or bool(given and isinstance(given[0], list))
    )
    values = tuple(domain.check(value) for value in (given if several else [given]))
    if not values or len(set(values)) < len(values):
        raise Mistake(f"has distinct values, at least one; got {_shown(given)}")
    return values


def _when(
    algorithm: Algorithm, given: Mapping[str, Any], space: Mapping[str, tuple[Value, ...] | Span]
) -> dict[str, dict[str, tuple[Value, ...]]]:
    """The conditions in `space`, as `Arm.when` has them."""
    found: dict[str, dict[str, tuple[Value, ...]]] = {}
    for key, value in given.items():
        if not isinstance(value, Mapping) or "when" not in value:
            continue
        if not isinstance(value["when"], Mapping) or not value["when"]:
            rule = f"`{key}` has a condition such as when = {{NAME = VALUE}}, or a list of values"
            raise Mistake(f"{rule}; got {_shown(value['when'])}")
        found[key] = {}
        for other, wanted in value["when"].items():
            if other not in space:
                raise Mistake(
                    f"`{key}` depends on another key of the same `space`; got {other!r};{models.hint(other, space)}"
                )
            try:
                found[key][other] = _listed(algorithm.space[other], wanted)
            except Mistake as error:
                raise Mistake(f"`{key}` depends on `{other}`, which {error}") from None
            may = _held(space[other], found[key][other])
            if isinstance(given[other], Mapping) and "when" in given[other]:
                may = (*may, algorithm.space[other].default)
            for one in found[key][other]:
                if one not in may:
                    raise Mistake(
                        f"`{key}` depends on a value of `{other}` that `space` has; got {one!r}"
                    )
    try:
        order = [
            *graphlib.TopologicalSorter(
                {key: list(needs) for key, needs in found.items()}
            ).static_order()
        ]
    except graphlib.CycleError as error:
        circle = " on ".join(f"`{name}`" for name in reversed(error.args[1]))
        raise Mistake(f"no hyper-parameter depends on itself; got {circle}") from None
    return {key: found[key] for key in order if key in found}


def _held(values: tuple[Value, ...] | Span, asked: tuple[Value, ...]) -> tuple[Value, ...]:
    """Which of the values `asked` for a hyper-parameter may have."""
    if isinstance(values, Span):
        return tuple(
            one
            for one in asked
            if isinstance(one, int | float) and values.low <= one <= values.high
        )
    return values


def _every(values: tuple[Value, ...] | Span) -> tuple[Value, ...] | Span:
    """Of a range of whole numbers each one, for a grid."""
    if isinstance(values, Span) and values.whole and values.high - values.low < MOST:
        return tuple(range(int(values.low), int(values.high) + 1))
    return values


def _span(domain: Domain, given: Mapping[str, Any]) -> Span:
    if domain.kind not in ("real", "whole"):
        raise Mistake(f"is {domain.about}: a list of values; got the range {given}")
    log = given.get("log", domain.log)
    if not {"low", "high"} <= given.keys() <= {"low", "high", "log"} or not isinstance(log, bool):
        raise Mistake(f"has a range of low, high and, if need be, log = true or false; got {given}")
    for end in ("low", "high"):
        domain.check(given[end])
    low, high = float(given["low"]), float(given["high"])
    if low >= high:
        raise Mistake(f"has a range with low < high; got low {low:g}, high {high:g}")
    if log and low <= 0:
        raise Mistake(
            f"has a logarithmic range above 0 (log = false makes it linear); got low {low:g}"
        )
    return Span(low, high, log, domain.kind == "whole")
