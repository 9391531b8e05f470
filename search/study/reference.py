"""The reference of a study file: every key, data set, model, algorithm and hyper-parameter, from
what checks them.

python -m prunefront.search.study.reference > docs/reference.md
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pydantic

from ...analysis.points import words as wording
from ...trainables import models
from ...trainables.algorithms import is_ours, known
from ...trainables.contract import Algorithm
from ...trainables.data import readers
from ...trainables.data.augment import AUGMENTATIONS
from ...trainables.domain import Domain
from ...trainables.task import DOMAINS, Task
from .schema import About, ArmTable

HEAD = """# Reference

Every key of a study file, every data set and model that comes with prunefront, and every algorithm with its
hyper-parameters. This page is written by `python -m prunefront.search.study.reference` from the code that checks a
study; a test holds it against that code.
"""  # noqa: E501
ARM = """A hyper-parameter stands under `space`: one value, a list of values, or a range such as
`{ low = 0.1, high = 0.9, log = true }`. What is not given has its default.
"""
NAMED = (
    "`{key}` is one of these names, or the dotted path of a function of yours. "
    "Options stand in `[task]` too.\n"
)
WRAP = """Each that is a plain chain, one of your own too, takes `wrap` (`false`) as well: with `wrap = true` there are
residual connections around its sections of one or two layers, so that layers can be removed whole.
"""  # noqa: E501
STATIC = "one value a cohort"
"""Said of hyper-parameters that change shapes or code paths: members with other values train in
another cohort.
"""
Functions = Mapping[str, Callable[..., Any]]
"""By name."""
NOUNS = {"real": "number", "whole": "whole number", "reals": "a number for each layer"}
"""Kind of a domain -> what its values are called."""


def page(algorithms: Mapping[str, Algorithm]) -> str:
    """The whole reference, in Markdown. algorithms: by name."""
    parts = [
        HEAD,
        "## `[study]`\n",
        schema(About),
        "## `[task]`\n",
        task(),
        prose(Task),
        "## Data sets\n",
        NAMED.format(key="dataset"),
        *functions(readers.DATASETS, given=0),
        "## Models\n",
        NAMED.format(key="model"),
        WRAP,
        *functions(models.MODELS, given=2),
        "## `[[arm]]`\n",
        schema(ArmTable),
        ARM,
        "## Algorithms\n",
    ]
    for name, algorithm in algorithms.items():
        parts += section(name, algorithm)
    return "\n".join(parts)


def schema(tables: type[pydantic.BaseModel]) -> str:
    """The keys of one table of a study file."""
    lines: list[list[str]] = []
    for name, field in tables.model_fields.items():
        default = "required"
        if not field.is_required():
            default = shown(field.default)
        key = f"`{name}`"
        meaning = str(field.description)
        lines.append([key, default, meaning])
    return grid(["key", "default", "what it is"], lines)


def task() -> str:
    """The keys of `[task]` but for options of data set and model."""
    lines: list[list[str]] = []
    for field in dataclasses.fields(Task):
        told = key_of_task(field.name)
        if told is not None:
            meaning, values = told
            key = f"`{field.name}`"
            default = shown(field.default)
            lines.append([key, default, values, meaning])
    return grid(["key", "default", "values", "what it is"], lines)


def key_of_task(name: str) -> tuple[str, str] | None:
    """What a field of a task means, and its values; None if it is no key of a study."""
    if name in DOMAINS:
        domain = DOMAINS[name]
        return domain.about, allowed(domain)
    if name == "augment":
        values = f"a list out of {words(AUGMENTATIONS)}"
        return "what is done to training images", values
    if name in ("dataset", "model"):
        noun = name.replace("dataset", "data set")
        return f"the {noun}", "a name, or a dotted path"
    return None


def functions(functions: Functions, given: int) -> Iterator[str]:
    """Functions by name, with the options that they take after their first `given` arguments."""
    for name, function in functions.items():
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        options = [option(parameter) for parameter in parameters[given:]]
        yield f"### `{name}`\n"
        yield prose(function)
        if options:
            listed = ", ".join(options)
            yield f"Options: {listed}.\n"


def option(parameter: inspect.Parameter) -> str:
    """One option of a function, with its default."""
    if parameter.kind is parameter.VAR_KEYWORD:
        return "others of its own"
    if parameter.default is parameter.empty:
        return f"`{parameter.name}` (required)"
    default = shown(parameter.default)
    return f"`{parameter.name}` ({default})"


def section(name: str, algorithm: Algorithm) -> Iterator[str]:
    """An algorithm: what it does, its source, its hyper-parameters."""
    yield f"### `{name}`\n"
    yield prose(type(algorithm))
    if algorithm.source:
        yield f"Source: {algorithm.source}.\n"
    lines: list[list[str]] = []
    for parameter, domain in algorithm.space.items():
        meaning = domain.about
        if domain.static:
            meaning = f"{meaning}; {STATIC}"
        default = ""
        if domain.default is not None:
            default = shown(domain.default)
        key = f"`{parameter}`"
        values = allowed(domain)
        lines.append([key, default, values, meaning])
    yield grid(["hyper-parameter", "default", "values", "what it is"], lines)


def allowed(domain: Domain) -> str:
    """The values of a domain in words."""
    if domain.kind == "choice":
        return words(domain.choices)
    if domain.kind == "text":
        return "text"
    return f"{NOUNS[domain.kind]} in {domain.range}"


def words(choices: Sequence[str]) -> str:
    """Choices as code."""
    return ", ".join(f"`{choice}`" for choice in choices)


def shown(value: object) -> str:
    """A default as a study file would have it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value)}`"


def prose(documented: object) -> str:
    """A docstring as Markdown: it is plain text with paragraphs."""
    if isinstance(documented, functools.partial):
        documented = documented.func
    text = inspect.getdoc(documented) or ""
    return text.replace("<", "&lt;") + "\n"


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of text."""
    return wording.grid(head, lines, numbers=False) + "\n"


def ours() -> dict[str, Algorithm]:
    """The algorithms that come with prunefront, by name."""
    own: dict[str, Algorithm] = {}
    for name, algorithm in known().items():
        if is_ours(algorithm):
            own[name] = algorithm
    return own


if __name__ == "__main__":
    print(page(ours()), end="")
