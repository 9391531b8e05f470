"""Where the rows come from, and how the figures are computed from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .. import page
from ..rows import table
from ._section import Drawings, Section
from ._study import Study

FORMULAS = {
    "mean ± standard deviation": "over the n done members of one setting, one for each seed; "
    "sample standard deviation (n - 1), “-” where n is 1",
    "front": "the points that no other point dominates by being at least as good in mean "
    "validation accuracy and in mean cost, and better in one; equal points all belong",
    "difference": "validation accuracy minus the parent's of the same seed, mean over seeds, in "
    "percentage points; the parent is the control from which nothing was removed",
    "compression": "params_dense / params_kept, a quotient of means",
    "speed-up ideal": "flops_dense / flops_masked, a quotient of means",
    "any hardware": "speed-up of the shrunk network, flops_dense / flops_shrunk, a quotient of "
    "means",
    "train FLOPs (search)": "mean of train_flops; in brackets the share that a search took, if "
    "there was one",
    "hypervolume": "area between the front of one seed's members and the reference point, in "
    "(validation accuracy, cost / flops_dense), both linear",
}
EXPLAINED = (
    "flops_dense",
    "flops_masked",
    "flops_shrunk",
    "params_kept",
    "sparsity",
    "seconds",
    "train_flops",
    "search_flops",
)
"""Columns whose meaning is told."""


def figures(study: Study) -> dict[str, str]:
    """What the footers of the files say, by name; of several values all."""
    facts: dict[str, list[str]] = {}
    for footer in study.footers:
        for name, value in _flat(footer):
            known = facts.setdefault(name, [])
            if value not in known:
                known.append(value)
    told: dict[str, str] = {}
    for name, values in facts.items():
        told[name] = "; ".join(values)
    return told


def _flat(footer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names, dotted where facts are inside others, and values."""
    for name, value in footer.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        elif isinstance(value, str):
            yield path, value
        else:
            yield path, json.dumps(value)


def html(_: Study, facts: dict[str, str], __: Drawings) -> Iterator[str]:
    yield page.terms(facts)
    yield "<h2>How the figures are computed</h2>\n"
    meanings = {name: meaning for name, _, meaning in table.COLUMNS if name in EXPLAINED}
    explained = {**FORMULAS, **meanings}
    yield page.terms(explained)


SECTION = Section(name="provenance", title="Provenance", figures=figures, html=html)
