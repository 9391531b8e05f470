"""The published points that the fronts show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .. import page
from ..points import words
from ..rows.published import CAVEAT
from ._section import Drawings, Section
from ._study import Study

TEXTS = ["name", "source", "model", "protocol", "counted"]


def figures(study: Study) -> pd.DataFrame | None:
    return study.published


def html(_: Study, points: pd.DataFrame, __: Drawings) -> Iterator[str]:
    yield page.say(
        f"{CAVEAT} They are as a file given with --published states them, on the same data set."
    )
    head = [*TEXTS, "test accuracy %", "FLOPs", "parameters"]
    yield page.grid(head, [_cells(point) for point in page.records(points)])


def _cells(point: Mapping[str, Any]) -> list[str]:
    parameters = "-" if math.isnan(point["params"]) else words.large(point["params"])
    return [
        *[str(point[name]) for name in TEXTS],
        words.number(100 * point["accuracy"], ".2f"),
        words.large(point["flops"]),
        parameters,
    ]


SECTION = Section(name="points_of", title="Published points", figures=figures, html=html)
