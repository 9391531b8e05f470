"""Every comparison of arms at equal FLOPs."""

from __future__ import annotations

from collections.abc import Iterator

from .. import page
from ..draw.render import Picture
from ..inference import verdicts
from ..inference.verdicts import Verdicts
from ._section import Drawings, Section
from ._study import Study


def figures(study: Study) -> Verdicts | None:
    return None if isinstance(study.compared, str) else study.compared


def picture(_: Study, compared: Verdicts) -> Picture:
    return verdicts.picture(compared)


def html(_: Study, compared: Verdicts, drawings: Drawings) -> Iterator[str]:
    yield page.figure("differences", drawings)
    yield from map(page.say, verdicts.ABOUT)
    yield page.say(
        "`prunefront compare` compares with any other arm, at any FLOPs, and writes CSV and "
        "Markdown."
    )
    for cost, lines in compared.lines.groupby("cost", sort=False):
        rows = [verdicts.texts(line) for line in lines.to_dict("records")]
        head = list(rows[0])
        cells = [list(row.values()) for row in rows]
        grid = page.grid(head, cells, kind="search")
        title = verdicts.title(str(cost))
        yield page.details(title, grid)


SECTION = Section(
    name="differences",
    title="Differences at equal FLOPs",
    figures=figures,
    html=html,
    charts={"differences": picture},
)
