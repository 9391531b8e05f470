"""The study file: TOML in, validated values out, one clear sentence for each mistake."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from ..trainables import data, models
from ..trainables.algorithms import find
from ..trainables.contract import Algorithm, Domain, Value
from ..trainables.task import Task

_strict = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


class About(pydantic.BaseModel):
    """Table [study]."""

    model_config = _strict
    name: Annotated[str, pydantic.Field(min_length=1, pattern=r"^[^/\\\x00-\x1f]+$")]
    seeds: Annotated[list[Annotated[int, pydantic.Field(ge=0, lt=2**63)]], pydantic.Field(min_length=1)]
    keep: Literal["all", "front", "none"] = "front"
    max_cohort: Annotated[int, pydantic.Field(ge=1)] | Literal["auto"] = "auto"
    cpus: Annotated[int, pydantic.Field(ge=1)] = 1
    gpus: Annotated[float, pydantic.Field(ge=0)] | Literal["auto"] = "auto"

    @pydantic.field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds are distinct; got {seeds}")
        return seeds


class Range(pydantic.BaseModel):
    """A range to propose from, instead of a list of values: {low, high, log}."""

    model_config = _strict
    low: float
    high: float
    log: bool = False


class ArmTable(pydantic.BaseModel):
    """One table [[arm]]."""

    model_config = _strict
    algorithm: str
    name: Annotated[str, pydantic.Field(min_length=1)] | None = None
    sampler: Literal["grid", "random", "sobol"] = "grid"
    members: Annotated[int, pydantic.Field(ge=1)] | None = None
    space: dict[str, Any] = {}


class File(pydantic.BaseModel):
    """The whole study file."""

    model_config = _strict
    study: About
    task: dict[str, Any] = {}
    arm: Annotated[list[ArmTable], pydantic.Field(min_length=1)]


@dataclasses.dataclass(frozen=True)
class Span:
    """A range to propose from: [low, high], evenly over the logarithm if `log`; whole numbers if `whole`."""

    low: float
    high: float
    log: bool
    whole: bool


@dataclasses.dataclass(frozen=True)
class Arm:
    """One algorithm with its search space. space: hyper-parameter -> values to try, or the span to propose from."""

    name: str
    algorithm_name: str
    algorithm: Algorithm
    sampler: str
    members: int | None
    space: Mapping[str, tuple[Value, ...] | Span]


@dataclasses.dataclass(frozen=True)
class Study:
    """A validated study."""

    about: About
    task: Task
    arms: tuple[Arm, ...]


def read(path: Path, settings: Sequence[str] = ()) -> Study:
    """The study in the TOML file `path`, with `settings` ("table.key=value", TOML values) in place of what it says.

    Raises ValueError with one sentence: file, key, rule, value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    for setting in settings:
        _set(content, setting)
    try:
        file = File.model_validate(content)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}: {_sentence(error, content)}") from None
    try:
        return Study(file.study, _task(file.task), _arms(file.arm))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _set(content: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    outer, dot, inner = key.strip().partition(".")
    if not equals or not dot or outer not in ("study", "task"):
        raise ValueError(f"--set takes study.KEY=VALUE or task.KEY=VALUE; got {setting!r}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    content.setdefault(outer, {})[inner] = parsed


def _sentence(error: pydantic.ValidationError, content: Mapping[str, Any]) -> str:
    """The first mistake in one sentence."""
    first = error.errors(include_url=False)[0]
    *outer, key = [part for part in first["loc"] if not _is_branch(part)]
    table = _table(outer or [key], content)
    if first["type"] == "extra_forbidden":
        known = _known(outer)
        nearest = difflib.get_close_matches(str(key), known, n=1)
        hint = f' did you mean "{nearest[0]}"?' if nearest else ""
        return f"{table}: `{key}` is no key here;{hint} known: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{_table(outer, content)}: `{key}` is missing"
    name = ".".join(str(part) for part in [*outer[1:], key] if not isinstance(part, int)) or str(key)
    return f"{table}: `{name}`: {first['msg'].removeprefix('Value error, ').lower()}; got {first['input']!r}"


def _is_branch(part: int | str) -> bool:
    """Whether a part of a place only names the branch of a union that pydantic tried."""
    return isinstance(part, str) and (part.startswith(("literal[", "constrained-", "function-")) or part in ("int", "float"))


def _table(place: Sequence[int | str], content: Mapping[str, Any]) -> str:
    if not place:
        return "the study"
    if place[0] == "arm" and len(place) > 1:
        arm = content["arm"][place[1]]
        label = (arm.get("name") or arm.get("algorithm")) if isinstance(arm, Mapping) else None
        return f'arm "{label}"' if label else f"arm {int(place[1]) + 1}"
    return f"[{place[0]}]"


def _known(outer: Sequence[int | str]) -> list[str]:
    model = {"study": About, "arm": ArmTable}.get(str(outer[0]) if outer else "", File)
    return sorted(model.model_fields)


_OPTIONS = ("dataset_options", "model_options", "starts")


def _task(table: Mapping[str, Any]) -> Task:
    """The task of table [task]: its own keys, and beside them the options of its data set and model."""
    own = {field.name for field in dataclasses.fields(Task)} - set(_OPTIONS)
    plain = {key: value for key, value in table.items() if key in own}
    rest = {key: value for key, value in table.items() if key not in own}
    try:
        # As JSON: pydantic's strict mode takes no mapping for a dataclass otherwise.
        names = pydantic.TypeAdapter(Task).validate_json(json.dumps(plain, default=str), strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = first["loc"][0] if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(
            f"[task]: `{key}`: {message.lower()}; got {first['input']!r}" if key else f"[task]: {message}"
        ) from None
    options: dict[str, dict[str, Any]] = {"dataset_options": {}, "model_options": {}}
    takes = {
        "dataset_options": models.option_names(models.lookup(names.dataset, data.DATASETS, "dataset")),
        "model_options": models.option_names(models.lookup(names.model, models.MODELS, "model"), ("input_shape", "classes")),
    }
    for key, value in rest.items():
        homes = [home for home, known in takes.items() if known is not None and key in known] or [
            home for home, known in takes.items() if known is None
        ]
        if not homes:
            known = sorted(own.union(*(names or () for names in takes.values())))
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f' did you mean "{nearest[0]}"?' if nearest else ""
            raise ValueError(f"[task]: `{key}` is no key here;{hint} known: {', '.join(known)}")
        options[homes[0]][key] = value
    try:
        return dataclasses.replace(names, **options)
    except ValueError as error:
        raise ValueError(f"[task]: {error}") from None


def _arms(tables: Sequence[ArmTable]) -> tuple[Arm, ...]:
    arms = tuple(_arm(table) for table in tables)
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'arm "{name}": arms have distinct names; give one of the {names.count(name)} another `name`')
    return arms


def _arm(table: ArmTable) -> Arm:
    algorithm = find(table.algorithm)
    name = table.name or table.algorithm
    try:
        space = {key: _values(algorithm, key, value) for key, value in table.space.items()}
        spans = [key for key, values in space.items() if isinstance(values, Span)]
        if table.sampler == "grid" and table.members is not None:
            raise ValueError("`members` is how many a random or sobol sampler proposes; a grid has all combinations")
        if table.sampler == "grid" and spans:
            raise ValueError(f"`space.{spans[0]}` is a list of values for the sampler grid; got a range")
        if table.sampler != "grid" and table.members is None:
            raise ValueError(f"`members` says how many the sampler {table.sampler} proposes; it is missing")
        if table.sampler != "grid" and not spans and not any(len(v) > 1 for v in space.values()):  # type: ignore[arg-type]
            raise ValueError(f"`space` has something to propose from for the sampler {table.sampler}; got {table.space}")
    except ValueError as error:
        raise ValueError(f'arm "{name}": {error}') from None
    return Arm(name, table.algorithm, algorithm, table.sampler, table.members, space)


def _values(algorithm: Algorithm, key: str, given: Any) -> tuple[Value, ...] | Span:
    """The values that `space.key` names: a list of values, one value, or a range."""
    if key not in algorithm.space:
        nearest = difflib.get_close_matches(key, algorithm.space, n=1)
        hint = f' did you mean "{nearest[0]}"?' if nearest else ""
        known = ", ".join(algorithm.space)
        raise ValueError(f"`space.{key}` is no hyper-parameter of it;{hint} known: {known or 'none'}")
    domain = algorithm.space[key]
    try:
        if isinstance(given, Mapping):
            return _span(domain, given)
        several = isinstance(given, list) and (domain.kind != "reals" or bool(given and isinstance(given[0], list)))
        values = tuple(domain.check(value) for value in (given if several else [given]))
    except ValueError as error:
        raise ValueError(f"`{key}` {error}") from None
    if not values:
        raise ValueError(f"`space.{key}` has at least one value; got []")
    if len(set(values)) < len(values):
        raise ValueError(f"`space.{key}` has distinct values; got {given}")
    return values


def _span(domain: Domain, given: Mapping[str, Any]) -> Span:
    if domain.kind not in ("real", "whole"):
        raise ValueError(f"is {domain.about}: a list of values; got a range")
    try:
        limits = Range.model_validate(given, strict=False)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"has a range of low, high and log; got {dict(given)} ({where}: {first['msg'].lower()})") from None
    for end in (limits.low, limits.high):
        domain.check(end)
    if limits.low >= limits.high:
        raise ValueError(f"has a range with low < high; got low {limits.low:g}, high {limits.high:g}")
    if limits.log and limits.low <= 0:
        raise ValueError(f"has a logarithmic range above 0; got low {limits.low:g}")
    return Span(limits.low, limits.high, limits.log or domain.log, domain.kind == "whole")
