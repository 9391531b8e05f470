"""What a reader should know before trusting the numbers: how members ended, and checks of what was
measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from html import escape

import pandas as pd

from .. import page
from ..points import front, words
from ..rows import table
from ._section import Drawings, Section
from ._study import Study

TOLERANCE = 0.005
"""Requested and achieved sparsity further apart than this are listed."""
NAMED = 8
"""Members that are named after a count."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """ways: members by arm and by the way they ended.  reasons: arm, status, reason, and how many
    members ended so.  findings: sentences.
    """

    ways: pd.DataFrame
    reasons: pd.DataFrame
    findings: list[str]


def figures(study: Study) -> Figures:
    waiting = study.unfinished.groupby("arm").size()
    ended = study.summary.groupby("arm")[list(table.FINAL)].sum()
    ways = ended.join(waiting.rename("unfinished"), how="outer")
    others = study.last[study.last["status"] != "done"]
    others = others.fillna({"reason": "no reason given"})
    reasons = others.groupby(["arm", "status", "reason"]).size()
    return Figures(
        ways.fillna(0),
        reasons.reset_index(name="members"),
        list(_findings(study)),
    )


def html(_: Study, figures: Figures, __: Drawings) -> Iterator[str]:
    yield "<h3>Members by the way they ended</h3>\n"
    ways = figures.ways
    lines: list[list[str]] = []
    for arm in ways.index:
        counts = [f"{count:.0f}" for count in ways.loc[arm]]
        lines.append([str(arm), *counts])
    yield page.grid(["arm", *ways.columns], lines)
    if len(figures.reasons):
        reasons = []
        for arm, status, reason, count in figures.reasons.to_numpy().tolist():
            why = f"{status}: {reason}"
            reasons.append([arm, why, str(count)])
        yield page.grid(["arm", "reason", "members"], reasons)
    yield "<h3>Measurements</h3>\n<ul>\n"
    for finding in figures.findings:
        yield f"<li>{escape(finding)}</li>\n"
    yield "</ul>\n"


def _findings(study: Study) -> Iterator[str]:
    """What a reader should know before trusting the numbers, one sentence each."""
    done = study.done
    names = done["arm"] + " (" + front.settings(done) + ")"
    yield from _requested(done, names)
    dead = done["layers_dead"] > 0
    yield (
        f"Dead layers (nothing kept): in {dead.sum()} of {len(done)} members{_among(names[dead])}."
    )
    larger = done["flops_shrunk"] > done["flops_dense"]
    yield (
        f"Networks of more FLOPs (shrunk) than the task's model: {larger.sum()} of {len(done)} "
        f"members{_among(names[larger])}."
    )
    rungs = study.rows.sort_values("rung")
    more = rungs.groupby("member")["params_kept"].diff() > 0
    back = done["member"].isin(rungs.loc[more, "member"])
    yield (
        "Removed parameters that came back (more kept at a rung than at the one before; some "
        f"algorithms may): in {back.sum()} of {len(done)} members{_among(names[back])}."
    )
    yield f"Operations without a FLOPs formula: {', '.join(study.uncounted) or 'none'}."
    if not front.is_check(study.last).any():
        yield (
            'Sanity checks of what was found: none; controls = "standard" in [study] trains them, '
            "and baselines."
        )
    alone = done["stacked"].eq(False)
    arms = _among(done["arm"][alone])
    yield (
        "Trained one after the other rather than together: "
        f"{alone.sum()} of {len(done)} members{arms}."
    )
    twice = done.duplicated(["arm", "hp", "seed"], keep=False)
    yield (
        "Members alike in arm, setting and seed, each counted as a seed: "
        f"{twice.sum()}{_among(names[twice])}."
    )
    parents = ", ".join(front.parents(done)) or "none in this study, so no differences"
    yield f"Parent, to which differences are taken: {parents}."
    yield (
        f"Members that the study file no longer holds, left out of all of this: {study.removed}."
    )
    rejected = ", ".join(study.rejected) or "none"
    yield f"Files set aside because they could not be trusted: {rejected}."


def _requested(done: pd.DataFrame, names: pd.Series) -> Iterator[str]:
    """Whether members are as sparse as they were asked to be."""
    if "hp_sparsity" not in done or done["hp_sparsity"].isna().all():
        yield (
            "No sparsity was requested (no column hp_sparsity), so none can be compared with what "
            "was achieved."
        )
        return
    apart = (done["hp_sparsity"] - done["sparsity"]).abs()
    if "hp_granularity" in done:
        of_weights = done["hp_granularity"].isna() | done["hp_granularity"].eq("weight")
        apart = apart.where(of_weights)
    far = apart > TOLERANCE
    most = words.number(100 * apart.max(), ".2f")
    yield (
        f"Requested (hp_sparsity) and achieved sparsity: at most {most} percentage points apart; "
        f"{far.sum()} of {apart.notna().sum()} members by more than "
        f"{100 * TOLERANCE:g}{_among(names[far])}."
    )
    rest = done["hp_sparsity"].notna() & apart.isna()
    if rest.any():
        yield (
            "Members whose requested sparsity is of units, and so not compared with that of "
            f"parameters: {rest.sum()}."
        )


def _among(names: pd.Series) -> str:
    """Which ones, after a count: the first ones; nothing for none."""
    known = sorted(set(names))
    if not known:
        return ""
    first_ones = "; ".join(known[:NAMED])
    more = f"; and {len(known) - NAMED} more" if len(known) > NAMED else ""
    return f": {first_ones}{more}"


SECTION = Section(name="checks", title="Checks", figures=figures, html=html)
