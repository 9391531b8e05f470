"""The reference of a study file: every key, data set, model, algorithm and hyper-parameter, from
what checks them.

python -m prunefront.search.study.reference > docs/reference.md
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pydantic

from ...analysis.points import words as wording
from ...trainables import models
from ...trainables.algorithms import known
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
"""
ARM = """A hyper-parameter stands under `space`: one value, a list of values, or a range such as
`{ low = 0.1, high = 0.9, log = true }`. What is not given has its default.
"""
STATIC = "one value a cohort"
"""Said of hyper-parameters that change shapes or code paths: members with other values train in
another cohort.
"""


def page(algorithms: Mapping[str, Algorithm]) -> str:
    """The whole reference, in Markdown. algorithms: by name."""
    parts = [
        HEAD,
        "## `[study]`\n",
        *schema(About),
        "## `[task]`\n",
        *task(),
        "## Data sets\n",
        "`dataset` is one of these names, or the dotted path of a function of yours. Options stand in `[task]` too.\n",
        *functions(readers.DATASETS, given=0),
        "## Models\n",
        "`model` is one of these names, or the dotted path of a function of yours. Options stand in `[task]` too.\n",
        *functions(models.MODELS, given=2),
        "## `[[arm]]`\n",
        *schema(ArmTable),
        ARM,
        "## Algorithms\n",
    ]
    for name, algorithm in algorithms.items():
        parts += section(name, algorithm)
    return "\n".join(parts)


def schema(table: type[pydantic.BaseModel]) -> Iterator[str]:
    """The keys of one table of a study file."""
    lines = list[list[str]]()
    for name, field in table.model_fields.items():
        default = "required" if field.is_required() else shown(field.default)
        lines.append([f"`{name}`", default, str(field.description)])
    yield grid(["key", "default", "what it is"], lines)


def task() -> Iterator[str]:
    """The keys of `[task]` but for options of data set and model."""
    lines = list[list[str]]()
    for field in dataclasses.fields(Task):
        if field.name in DOMAINS:
            meaning, values = DOMAINS[field.name].about, allowed(DOMAINS[field.name])
        elif field.name == "augment":
            meaning, values = (
                "what is done to training images",
                f"a list out of {words(AUGMENTATIONS)}",
            )
        elif field.name in ("dataset", "model"):
            meaning, values = (
                f"the {field.name.replace('dataset', 'data set')}",
                "a name, or a dotted path",
            )
        else:
            continue
        lines.append([f"`{field.name}`", shown(field.default), values, meaning])
    yield grid(["key", "default", "values", "what it is"], lines)
    yield prose(Task)


def functions(known: Mapping[str, Callable[..., Any]], given: int) -> Iterator[str]:
    """Functions by name, with the options that they take after their first `given` arguments."""
    for name, function in known.items():
        parameters = list(inspect.signature(function).parameters.values())[given:]
        options = [option(parameter) for parameter in parameters]
        yield f"### `{name}`\n"
        yield prose(function)
        if options:
            yield f"Options: {', '.join(options)}.\n"


def option(parameter: inspect.Parameter) -> str:
    """One option of a function, with its default."""
    if parameter.kind is parameter.VAR_KEYWORD:
        return "others of its own"
    if parameter.default is parameter.empty:
        return f"`{parameter.name}` (required)"
    return f"`{parameter.name}` ({shown(parameter.default)})"


def section(name: str, algorithm: Algorithm) -> Iterator[str]:
    """An algorithm: what it does, its source, its hyper-parameters."""
    yield f"### `{name}`\n"
    yield prose(type(algorithm))
    if algorithm.source:
        yield f"Source: {algorithm.source}.\n"
    lines = list[list[str]]()
    for parameter, domain in algorithm.space.items():
        meaning = f"{domain.about}; {STATIC}" if domain.static else domain.about
        default = shown(domain.default) if domain.default is not None else ""
        lines.append([f"`{parameter}`", default, allowed(domain), meaning])
    yield grid(["hyper-parameter", "default", "values", "what it is"], lines)


def allowed(domain: Domain) -> str:
    """The values of a domain in words."""
    if domain.kind == "choice":
        return words(domain.choices)
    if domain.kind == "text":
        return "text"
    noun = {"real": "number", "whole": "whole number", "reals": "a number for each layer"}[
        domain.kind
    ]
    return f"{noun} in {domain.range}"


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
    text = inspect.getdoc(documented) or ""
    return text.replace("<", "&lt;") + "\n"


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of text."""
    return wording.grid(head, lines, numbers=False) + "\n"


def ours() -> dict[str, Algorithm]:
    """The algorithms that come with prunefront, by name."""
    return {
        name: each
        for name, each in known().items()
        if type(each).__module__.startswith("prunefront.")
    }


if __name__ == "__main__":
    print(page(ours()), end="")
