"""What a study looks for: measures to maximize and to minimize, and limits that they must keep."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from . import table
from .mistake import Mistake
from .storage import Where

Values = NDArray[np.float64]
_LIMIT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*")


@dataclasses.dataclass(frozen=True)
class Limit:
    """`measure` <= `most`, or >= if `sign` is -1."""

    measure: str
    sign: int
    most: float

    @staticmethod
    def parse(text: str) -> Limit:
        """The limit that a text such as `flops_shrunk <= 2e6` states. Raises Mistake if it states
        none.
        """
        rule = f"a constraint is a measure, <= or >=, and a number; got {text!r}"
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise Mistake(rule)
        measure, relation, number = match.groups()
        try:
            most = float(number)
        except ValueError:
            raise Mistake(rule) from None
        if not np.isfinite(most):
            raise Mistake(rule)
        sign = 1 if relation == "<=" else -1
        return Limit(measurable(measure), sign, most)

    def __str__(self) -> str:
        relation = "<=" if self.sign > 0 else ">="
        return f"{self.measure} {relation} {self.most!r}"

    def violation(self, frame: pd.DataFrame) -> Values:
        """By how much each row breaks the limit, in the measure's unit; at most 0 where it keeps
        it.
        """
        measured = frame[self.measure]
        values = measured.to_numpy(dtype=float)
        excess = values - self.most
        return self.sign * excess


@dataclasses.dataclass(frozen=True)
class Goals:
    """Objectives by column name, with their directions, and constraints."""

    maximize: tuple[str, ...] = ("accuracy_valid",)
    minimize: tuple[str, ...] = ("flops_masked",)
    constraints: tuple[Limit, ...] = ()

    @staticmethod
    def parse(
        maximize: Sequence[str], minimize: Sequence[str], constraints: Sequence[str]
    ) -> Goals:
        """Raises Mistake with one sentence for a measure that is none, that is of test data, or
        that is named twice.
        """
        objectives = (*maximize, *minimize)
        names = [measurable(name) for name in objectives]
        distinct = set(names)
        if not names or len(distinct) < len(names):
            rule = "`maximize` and `minimize` name distinct measures, at least one"
            raise Mistake(f"{rule}; got {names}")
        limits = [Limit.parse(text) for text in constraints]
        return Goals(tuple(maximize), tuple(minimize), tuple(limits))

    @property
    def measures(self) -> tuple[str, ...]:
        """The objectives' columns: those to maximize first."""
        return (*self.maximize, *self.minimize)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that goals are read from."""
        columns = list(self.measures)
        for limit in self.constraints:
            if limit.measure not in columns:
                columns.append(limit.measure)
        return tuple(columns)

    @property
    def directions(self) -> tuple[bool, ...]:
        """For each of `measures`, True if more is better."""
        more = [True] * len(self.maximize)
        less = [False] * len(self.minimize)
        return (*more, *less)

    def values(self, frame: pd.DataFrame) -> Values:
        """(rows, objectives), as measured; NaN where one is missing."""
        measured = frame[list(self.measures)]
        return measured.to_numpy(dtype=float)

    def violations(self, frame: pd.DataFrame) -> Values:
        """(rows, constraints): by how much each is broken, at most 0 where it is kept."""
        rows = len(frame)
        limits = len(self.constraints)
        broken = np.empty((rows, limits))
        for place, limit in enumerate(self.constraints):
            broken[:, place] = limit.violation(frame)
        return broken


def recorded(folder: Where) -> Goals:
    """What the study in `folder` looks for, as plan/study.json says; the default without one."""
    about = table.planned(folder)
    if about is None:
        return Goals()
    stated = about["goals"]
    return Goals.parse(**stated)


def measurable(name: str) -> str:
    """`name`, if it is a column with a measured number that may choose: no key and nothing of test
    data.
    """
    if "_test" in name:
        rule = "test data may not steer a search"
        raise Mistake(f"{rule}; got the measure {name!r}; its validation measure may")
    measures = _measures()
    if name not in measures and not re.fullmatch(r"m_\w+", name):
        known = ", ".join(measure for measure in measures if "_test" not in measure)
        raise Mistake(f"no measure {name!r}; known: {known}, and an algorithm's own as m_<name>")
    return name


def _measures() -> list[str]:
    """The columns with a measured number that is the same when a study is run again."""
    measures: list[str] = []
    for name, kind, _ in table.COLUMNS:
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        is_key = name in ("seed", "rung")
        if is_number and not is_key and name not in table.CLOCK:
            measures.append(name)
    return measures
