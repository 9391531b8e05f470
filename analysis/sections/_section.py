"""The contract of a section of the report."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import pandas as pd

from ..draw.render import Picture
from ..rows.mistake import Mistake
from ._study import Study

Figures = TypeVar("Figures")
Drawings = Mapping[str, str]
"""The charts of a section that could be drawn, by name, as SVG text."""

NAME = re.compile("[a-z][a-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Section(Generic[Figures]):
    """One part of the report's page, with its charts and tables.

    Every function is given the study, which reads its rows once for all sections, and what
    `figures` made of it. A function that raises costs what it would have made: all of the section
    (`figures`), one chart, one table, or the text (`html`); the page names it.
    """

    name: str
    """Of the section, in messages."""
    figures: Callable[[Study], Figures | None]
    """What the section tells, computed from the rows; None: nothing, and the page leaves it out."""
    html: Callable[[Study, Figures, Drawings], Iterable[str]]
    """Its text, in parts (`page.say`, `page.grid`, `page.figure`); without any, no heading."""
    title: str = ""
    """Its heading; empty: it goes on under the one before."""
    columns: tuple[str, ...] = ()
    """Columns that the rows need, each with a value at least; else the section is skipped."""
    charts: Mapping[str, Callable[[Study, Figures], Picture | None]] = dataclasses.field(
        default_factory=dict
    )
    """By the name of their files, which end in .svg and .pdf; None: there is nothing to draw."""
    tables: Mapping[str, Callable[[Study, Figures], pd.DataFrame]] = dataclasses.field(
        default_factory=dict
    )
    """By the name of their files, which end in .csv; one without lines is not written."""
    texts: Mapping[str, Callable[[Study, Figures], str]] = dataclasses.field(default_factory=dict)
    """Other files, by their whole name."""

    def __post_init__(self) -> None:
        for name in (self.name, *self.charts, *self.tables):
            if not NAME.fullmatch(name):
                raise Mistake(
                    "a section and its files have names of small letters, digits and _, a letter "
                    f"first; got {name!r}"
                )

    def lacks(self, rows: pd.DataFrame) -> bool:
        """Whether the rows are without one of `columns`."""
        needed = rows.reindex(columns=list(self.columns))
        is_absent = needed.isna().all()
        return bool(is_absent.any())
