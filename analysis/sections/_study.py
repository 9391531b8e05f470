"""What sections are made from: a study's rows, and what several sections compute from them."""

from __future__ import annotations

import functools

import pandas as pd

from ..inference import verdicts
from ..points import front
from ..rows import published as literature
from ..rows import table
from ..rows.loaded import Loaded, open_rows
from ..rows.mistake import Mistake
from ..rows.storage import Where


class Study(Loaded):
    """A study that a report is made of, with at least one member that is done.

    published: points from the literature on the same data set, as from `published.points_of`; None
    where no file of them was given.
    """

    def __init__(self, loaded: Loaded, published: pd.DataFrame | None = None) -> None:
        super().__init__(loaded.folder, loaded.written, loaded.rows)
        self.published = published

    @functools.cached_property
    def own(self) -> pd.DataFrame:
        """The last rows that are of no sanity check."""
        return self.last[~front.is_check(self.last)]

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """Every operating point, as from `front.summarise`."""
        return front.summarise(self.last)

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """The operating points that a page has room for, as from `front.listed`."""
        return front.listed(self.summary, self.last)

    @functools.cached_property
    def uncounted(self) -> list[str]:
        """Operations without a FLOPs formula."""
        return front.unknown_operations(self.done)

    @functools.cached_property
    def compared(self) -> verdicts.Verdicts | str:
        """The comparisons of the study's arms at equal FLOPs, or why there are none."""
        try:
            return verdicts.build([self])
        except Mistake as error:
            return str(error).removeprefix(f"{self.folder}: ")


def open_study(folder: Where, published: Where | None = None) -> Study:
    """The study in `folder`, read. published: a file of published points.

    Raises Mistake as `loaded.open_rows` and `published.points_of` do, and if no member is done.
    """
    loaded = open_rows(folder)
    if loaded.done.empty:
        raise Mistake(
            f"{loaded.folder}: a report needs a member that is done; got none ({_counted(loaded)})"
        )
    if published is None:
        return Study(loaded)
    points = literature.points_of(published)
    return Study(loaded, literature.beside(points, loaded.dataset, published))


def _counted(loaded: Loaded) -> str:
    """How many members ended in which way."""
    counts = loaded.last["status"].value_counts()
    told: list[str] = []
    for status in table.FINAL:
        if status in counts:
            told.append(f"{counts[status]} {status}")
    unfinished = len(loaded.unfinished)
    if unfinished:
        told.append(f"{unfinished} unfinished")
    return ", ".join(told)
