"""Hypervolume of each arm, what it adds to the joint front, and how far it is behind the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .. import page
from ..inference import attainment
from ..points import front, words
from ._section import Drawings, Section
from ._study import Study

Figures = tuple[pd.DataFrame, pd.DataFrame]
"""A line for each label; and how far each is behind each other one (`attainment.epsilons`)."""


def figures(study: Study) -> Figures:
    label = attainment.LABEL
    masked = attainment.points(study.own, "flops_masked")
    shrunk = attainment.points(study.own, "flops_shrunk")
    by_masked = attainment.hypervolumes(masked)
    by_shrunk = attainment.hypervolumes(shrunk)
    lines = by_masked.merge(by_shrunk, on=label, suffixes=("", "_shrunk"))
    added = attainment.contributions(masked).drop(columns="seeds")
    compared = lines.merge(added, on=label)
    gaps = attainment.epsilons(masked)
    return compared, gaps


def html(_: Study, figures: Figures, __: Drawings) -> Iterator[str]:
    accuracy, cost = front.REFERENCE
    yield page.say(
        f"Validation data, reference point: accuracy {accuracy:g}, cost {cost:g} times the "
        "parent's FLOPs. One front for each seed, then the mean over seeds with its 95 % t "
        "interval; 1 is the most. Networks that cost more than the parent count for nothing. An "
        "arm with more distinct networks has had more tries. Adds: hypervolume of the joint front "
        "of all arms that is lost without this one, and in brackets how many of its points are "
        "this arm's. Behind: the largest additive epsilon to another arm (Zitzler et al. 2003), "
        "what must be added to accuracy and to the share of FLOPs so that one of its networks is "
        "as good as any of the other's; 0 or less: behind none."
    )
    lines, gaps = figures
    about = ["arm", "seeds", "networks for each seed"]
    head = [*about, "masked FLOPs", "interval", "adds", "behind", "shrunk FLOPs", "interval"]
    yield page.grid(head, [_cells(line, gaps) for line in page.records(lines)])


def _cells(line: Mapping[str, Any], gaps: pd.DataFrame) -> list[str]:
    networks = dict.fromkeys([line["points_least"], line["points_most"]])
    return [
        page.label(line),
        str(line["seeds"]),
        " to ".join(map(str, networks)),
        *_mean(line, ""),
        f"{line['contribution']:.4f} ({line['own']:.1f} of {line['joint']:.1f})",
        _behind(line, gaps),
        *_mean(line, "_shrunk"),
    ]


def _behind(line: Mapping[str, Any], gaps: pd.DataFrame) -> str:
    """The other label that one is farthest behind, and by how much."""
    same_arm = gaps["arm"] == line["arm"]
    same_control = gaps["control"] == line["control"]
    own = gaps[same_arm & same_control]
    if own.empty:
        return "-"
    place = own["epsilon"].idxmax()
    most = own.loc[place]
    other = {"arm": most["against"], "control": most["against_control"]}
    name = page.label(other)
    return f"{most['epsilon']:+.4f} ({name})"


def _mean(line: Mapping[str, Any], cost: str) -> tuple[str, str]:
    """A hypervolume, mean over seeds, and its interval. cost: how its columns end."""
    mean = line[f"hypervolume{cost}"]
    low = line[f"hypervolume_low{cost}"]
    high = line[f"hypervolume_high{cost}"]
    volume = words.number(mean, ".4f")
    interval = words.interval(low, high, ".4f", 1)
    return volume, interval


SECTION = Section(name="hypervolume", title="Hypervolume", figures=figures, html=html)
