"""A study's rows, read once and handed on."""

from __future__ import annotations

import functools
from typing import Any

import pandas as pd

from . import goals, rundir, table
from .mistake import Mistake
from .storage import Location, Where, locate


class Loaded:
    """The rows of a study, and what else its folder says; each part is computed when it is first
    asked for.

    written: every row that the folder holds.  rows: those of the members that the study holds as
    it is now, all rungs.  No one changes a frame in place.
    """

    def __init__(self, folder: Location, written: pd.DataFrame, rows: pd.DataFrame) -> None:
        self.folder = folder
        self.written = written
        self.rows = rows

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.rows["study"].iloc[0])

    @property
    def dataset(self) -> str:
        return str(self.rows["dataset"].iloc[0])

    @functools.cached_property
    def last(self) -> pd.DataFrame:
        """The last row of each member that has one."""
        return table.last(self.rows)

    @functools.cached_property
    def done(self) -> pd.DataFrame:
        """The last rows of the members that are done."""
        return self.last[self.last["status"] == "done"]

    @functools.cached_property
    def unfinished(self) -> pd.DataFrame:
        """The latest row of each member that has no last one."""
        return table.unfinished(self.rows)

    @functools.cached_property
    def removed(self) -> int:
        """Members with a last row that the study file no longer holds."""
        return len(table.last(self.written)) - len(self.last)

    @functools.cached_property
    def footers(self) -> list[dict[str, Any]]:
        """Where the rows come from: the distinct footers of their files."""
        return table.footers(self.folder)

    @functools.cached_property
    def cautions(self) -> list[str]:
        """What a reader should know before any verdict, one sentence each."""
        return table.cautions(self.folder)

    @functools.cached_property
    def goals(self) -> goals.Goals:
        """What the study looks for."""
        return goals.recorded(self.folder)

    @functools.cached_property
    def rejected(self) -> list[str]:
        """Names of the files that were set aside because they could not be trusted."""
        return sorted(path.name for path in rundir.rejected(self.folder).glob("*"))


def open_rows(folder: Where) -> Loaded:
    """The rows of the study in `folder`. Raises Mistake as `table.read` does, and where there is no
    folder.
    """
    folder = locate(folder)
    if not folder.is_dir():
        raise Mistake(f"{folder}: no such folder; a report is made from a study's output folder")
    written = table.read(folder)
    return Loaded(folder, written, table.current(folder, written))
