"""What a study looks for: measures to maximize and to minimize, and limits that measures must keep."""

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
        found = _LIMIT.fullmatch(text)
        try:
            if found is None:
                raise Mistake
            measure, relation, number = found.groups()
            most = float(number)
            if not np.isfinite(most):
                raise Mistake
        except ValueError:
            raise Mistake(
                f"a constraint is a measure, <= or >=, and a number; got {text!r}"
            ) from None
        return Limit(measurable(measure), 1 if relation == "<=" else -1, most)

    def __str__(self) -> str:
        return f"{self.measure} {'<=' if self.sign > 0 else '>='} {self.most!r}"

    def violation(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """By how much each row breaks the limit, in the measure's unit; at most 0 where it is kept."""
        return self.sign * (frame[self.measure].to_numpy(dtype=float) - self.most)


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
        names = [measurable(name) for name in (*maximize, *minimize)]
        if not names or len(set(names)) < len(names):
            raise Mistake(
                f"`maximize` and `minimize` name distinct measures, at least one; got {names}"
            )
        return Goals(tuple(maximize), tuple(minimize), tuple(map(Limit.parse, constraints)))

    @property
    def measures(self) -> tuple[str, ...]:
        """The objectives' columns: those to maximize first."""
        return (*self.maximize, *self.minimize)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that goals are read from."""
        return tuple(
            dict.fromkeys([*self.measures, *(limit.measure for limit in self.constraints)])
        )

    @property
    def directions(self) -> tuple[bool, ...]:
        """For each of `measures`, True if more is better."""
        return (True,) * len(self.maximize) + (False,) * len(self.minimize)

    def values(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, objectives), as measured; NaN where one is missing."""
        return frame[list(self.measures)].to_numpy(dtype=float)

    def violations(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """(rows, constraints): by how much each is broken, at most 0 where it is kept."""
        columns = [limit.violation(frame) for limit in self.constraints]
        return np.stack(columns, axis=1) if columns else np.empty((len(frame), 0))


def recorded(folder: Where) -> Goals:
    """What the study in `folder` looks for, as plan/study.json says; the default without one."""
    about = table.planned(folder)
    return Goals() if about is None else Goals.parse(**about["goals"])


def measurable(name: str) -> str:
    """`name`, if it is a column with a measured number that may choose: no key and nothing of test
    data.
    """
    known = [
        n
        for n, kind, _ in table.COLUMNS
        if not pa.types.is_string(kind) and not pa.types.is_boolean(kind)
    ]
    known = [n for n in known if n not in ("seed", "rung", "seconds")]
    if "_test" in name:
        raise Mistake(
            f"test data may not steer a search; got the measure {name!r}; its validation measure may"
        )
    if name not in known and not re.fullmatch(r"m_\w+", name):
        own = [n for n in known if "_test" not in n]
        raise Mistake(
            f"no measure {name!r}; known: {', '.join(own)}, and an algorithm's own as m_<name>"
        )
    return name
