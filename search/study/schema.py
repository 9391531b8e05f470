"""What a study is: the tables of its file with their rules, and the frozen values made of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from ...analysis.rows.goals import Goals
from ...analysis.rows.mistake import Mistake
from ...trainables.contract import Algorithm
from ...trainables.domain import Value
from ...trainables.task import Task

MODELLED = ("tpe", "nsga2", "gp")
"""Samplers that learn from results, and so propose in rounds."""
MOST_CONFIGURATIONS = 1_000_000
"""That an arm may have: more is a slip of the pen."""
FOLDER_NAME = r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$"
ONE_LINE = r"^[^\x00-\x1f\x7f]+$"


def _is(rule: str, **limits: Any) -> Any:
    """A field's limits, and the rule in words that ends a sentence beginning with the field's
    name.
    """
    return pydantic.Field(description=rule, **limits)


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)


def _distinct(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise Mistake
    return seeds


def _whole_or_share(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise Mistake
    return gpus


Count = Annotated[int, pydantic.Field(ge=1)]
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**63)]
Seeds = Annotated[list[Seed], pydantic.AfterValidator(_distinct)]
Factor = Annotated[float, pydantic.Field(gt=1, allow_inf_nan=False)]
Seconds = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Gpus = Annotated[
    float, pydantic.Field(ge=0, allow_inf_nan=False), pydantic.AfterValidator(_whole_or_share)
]


class About(_Table):
    """Table [study]."""

    name: str = _is(
        "a name for a folder: one line, no slashes, no dot in front", pattern=FOLDER_NAME
    )
    seeds: Seeds = _is("a list of distinct whole numbers from 0, below 2^63", min_length=1)
    keep: Literal["all", "front", "none"] = _is(
        "which networks are kept: all, front or none", default="front"
    )
    max_cohort: Count | Literal["auto"] = _is(
        'the most members of a cohort: a whole number from 1, or "auto"', default="auto"
    )
    cpus: Count = _is("the CPUs of a cohort: a whole number from 1", default=1)
    gpus: Gpus | Literal["auto"] = _is(
        'the GPUs of a cohort: a whole number, a share of one below 1, or "auto"', default="auto"
    )
    maximize: list[str] = _is(
        "a list of measures, of which more is better", default=["accuracy_valid"]
    )
    minimize: list[str] = _is(
        "a list of measures, of which less is better", default=["flops_masked"]
    )
    constraints: list[str] = _is('a list of limits such as "flops_shrunk <= 2e6"', default=[])
    batch: Count = _is(
        "how many configurations a round of proposals has: a whole number from 1", default=16
    )
    rounds: Literal["synchronous", "asynchronous"] = _is(
        "synchronous or asynchronous", default="synchronous"
    )
    reduction_factor: Factor | None = _is(
        "a number above 1: at each rung one in so many goes on; without it all do", default=None
    )
    floor: Annotated[int, pydantic.Field(ge=0)] = _is(
        "how many configurations go on in each decade of the first measure to minimize: "
        "a whole number from 0",
        default=1,
    )
    controls: Literal["none", "standard"] = _is(
        "none or standard: whether the study is given controls", default="none"
    )
    limit: Seconds | None = _is(
        "the most seconds that a cohort may take from rung to rung: a finite number above 0",
        default=None,
    )


class ArmTable(_Table):
    """One table [[arm]]."""

    algorithm: str = _is("the name of an algorithm")
    name: str | None = _is("a label: text on one line", default=None, pattern=ONE_LINE)
    sampler: Literal["grid", "random", "sobol", "tpe", "nsga2", "gp"] = _is(
        "one of grid, random, sobol, tpe, nsga2, gp", default="grid"
    )
    members: Count | None = _is(
        "how many configurations a sampler other than grid proposes: "
        f"from 1 to {MOST_CONFIGURATIONS}",
        default=None,
        le=MOST_CONFIGURATIONS,
    )
    sampler_seed: Annotated[int, pydantic.Field(ge=0)] = _is(
        "the seed of what a sampler draws: a whole number from 0", default=0
    )
    space: dict[str, Any] = _is(
        "a table of hyper-parameters, each with values or a range", default={}
    )


class Tables(_Table):
    """The whole study file."""

    study: About = _is("a table, [study], with a name and seeds")
    task: dict[str, Any] = _is("a table, [task]", default={})
    arm: list[ArmTable] = _is("a list of tables, [[arm]], at least one", min_length=1)


@dataclasses.dataclass(frozen=True)
class Span:
    """A range to propose from: [low, high], evenly over the logarithm if `log`; whole numbers if
    `whole`.
    """

    low: float
    high: float
    log: bool
    whole: bool


Hp = Mapping[str, Value]
"""Hyper-parameters."""
Listed = tuple[Value, ...]
Values = Listed | Span
"""What a hyper-parameter may have: values to try, or the span to propose from."""
Space = Mapping[str, Values]
Content = Mapping[str, Any]
"""Tables of a study file, or one of them, as they are given."""
Conditions = Mapping[str, Mapping[str, Listed]]
"""Hyper-parameter -> other -> values of the other with which the first is searched."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One algorithm with its search space.

    when: of hyper-parameters that are searched only where others have certain values; each after
    those that it depends on.  follows: the arm whose settings it checks (`controls.py`), if it
    does; its configurations are known when those are measured.
    """

    name: str
    algorithm_name: str
    algorithm: Algorithm
    sampler: str
    members: int | None
    space: Space
    sampler_seed: int = 0
    when: Conditions = dataclasses.field(default_factory=dict)
    follows: str = ""


@dataclasses.dataclass(frozen=True)
class Study:
    """A validated study. path: of the file that it was read from; None if it was made in Python."""

    about: About
    task: Task
    arms: tuple[Arm, ...]
    path: Path | None
    goals: Goals

    @staticmethod
    def from_dict(tables: Content) -> Study:
        """The study of a dict with the keys of a study file: `study`, `task`, and `arm`, a list.

        Raises Mistake with one sentence: key, rule, value.
        """
        from .parse import checked_copy, from_tables  # which make what is defined here

        return from_tables(checked_copy(tables), None)

    @property
    def place(self) -> str:
        """What a sentence about a mistake begins with."""
        if self.path is None:
            return f'study "{self.about.name}"'
        return str(self.path)


@contextlib.contextmanager
def at(place: object) -> Iterator[None]:
    """Put `place` in front of what a Mistake from inside says, on one line: keys and names may hold
    line breaks.
    """
    try:
        yield
    except Mistake as error:
        lines = str(error).splitlines()
        raise Mistake(f"{place}: {' '.join(lines)}") from None
