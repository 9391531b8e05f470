"""What a reader came for, first: which arm, at which budget, and whether the difference is real.

Each arm's accuracy at given FLOPs, FLOPs at given accuracy, hypervolume and cost. A line for each
label, (arm, control). Sanity checks have a section of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from .. import page
from ..inference import attainment, equal_flops, paired, verdicts
from ..points import front, words
from ._section import Drawings, Section
from ._study import Study

SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)
"""Shares of the parent's FLOPs at which accuracy is told, of those that two labels reach at most
`SHARES_TOLD`.
"""
SHARES_TOLD = 4
BY_COST = ("accuracy_at_", "flops_within_", "hypervolume")
"""How the columns begin that are others for another cost."""
DROPS = (0.005, 0.02)
"""How much less validation accuracy than the parent's is asked for, where the fewest FLOPs are
told.
"""
READING = (
    "FLOPs shrunk: of the dense network that `prunefront pick` hands over; masked: removed weights "
    "cost nothing. At a share: test accuracy in percent, mean ± standard deviation over seeds, at "
    "this share of the parent's FLOPs, read off each seed's own front of validation accuracy and "
    "these FLOPs, between its networks and never beyond them. Within: the fewest FLOPs of a "
    "network whose validation accuracy is at most so many percentage points below the parent's of "
    "the same seed, mean over seeds. “-”: not every seed gets there. Hypervolume: with its 95 % t "
    "interval. Charged: to all networks of a seed, search included. The same table is in arms.md "
    "and arms.csv."
)
Label = tuple[str, bool]
Lines = dict[int, np.ndarray]
"""The front of each seed, as from `equal_flops.lines`."""


# ---- the figures


def both(last_rows: pd.DataFrame) -> pd.DataFrame:
    """`arms` by shrunk FLOPs, and by masked ones where these are others; figures that go by a cost
    end in its name.
    """
    shrunk = _suffixed(last_rows, "flops_shrunk")
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    alike = done["flops_masked"] == done["flops_shrunk"]
    if alike.all():
        return shrunk
    masked = _suffixed(last_rows, "flops_masked")
    label = attainment.LABEL
    own = [name for name in masked if str(name).endswith("_masked")]
    by_masked = masked[[*label, *own]]
    return shrunk.merge(by_masked, on=label, how="left")


def _suffixed(last_rows: pd.DataFrame, cost: front.Cost) -> pd.DataFrame:
    """`arms` by one cost, with its name at the end of what goes by it."""
    kind = cost.removeprefix("flops_")
    lines = arms(last_rows, cost)
    longer = {}
    for name in map(str, lines):
        if name.startswith(BY_COST):
            longer[name] = f"{name}_{kind}"
    return lines.rename(columns=longer)


def arms(
    last_rows: pd.DataFrame, cost: front.Cost = "flops_shrunk", at: Sequence[float] | None = None
) -> pd.DataFrame:
    """One line for each label, in the order of (control, arm).

    last_rows: as from `table.last`.  cost: what leaves is a dense network, which costs its shrunk
    FLOPs.  at: shares of the parent's FLOPs; None: `shares`.  Columns: arm, control; `networks`,
    the most that a seed has; for each share `accuracy_at_<percent>` and `_std`, of test data, read
    off each seed's own front of validation accuracy as comparisons are (`equal_flops.at`), NaN if a
    seed does not reach it; for each of `DROPS` `flops_within_<points>`, the fewest FLOPs of a
    network whose validation accuracy is at most so much below the parent's of the same seed, mean
    over seeds, NaN if a seed has none; as from `attainment.averaged`: seeds and `hypervolume`; and
    `train_flops` and `seconds`, charged to all networks of a seed, mean over seeds.
    """
    last_rows = last_rows[~front.is_check(last_rows)]
    done = last_rows[last_rows["status"] == "done"]
    known = _known_lines(done, cost)
    dense = float(done["flops_dense"].max())
    wanted = _reached(known, dense) if at is None else list(at)
    parent = front.parent_scores(done)["accuracy_valid"]
    told = []
    for label, rows in _labelled(done):
        arm, control = label
        line: dict[str, object] = {"arm": arm, "control": bool(control)}
        line |= _accuracies(known[label], wanted, dense)
        line |= _least_flops(rows, cost, parent)
        told.append(line)
    frame = pd.DataFrame(told)
    frame = frame.merge(_volumes(done, cost), how="left")
    frame = frame.merge(charged(last_rows), how="left")
    return frame.sort_values(["control", "arm"], ignore_index=True)


def _volumes(done: pd.DataFrame, cost: front.Cost) -> pd.DataFrame:
    """Hypervolume and the most networks of a seed, by label."""
    points = attainment.points(done, cost)
    volumes = attainment.hypervolumes(points)
    volumes = volumes.rename(columns={"points_most": "networks"})
    return volumes.drop(columns="points_least")


def shares(done: pd.DataFrame, cost: front.Cost = "flops_shrunk") -> list[float]:
    """Of `SHARES` those that at least two labels reach in every seed, the first `SHARES_TOLD`."""
    known = _known_lines(done, cost)
    dense = done["flops_dense"].max()
    return _reached(known, float(dense))


def _reached(known: Mapping[Label, Lines], dense: float) -> list[float]:
    """As `shares`. dense: the parent's FLOPs."""
    reached = []
    for share in SHARES:
        there = 0
        for lines in known.values():
            scores = _at(lines, share * dense)
            there += scores.notna().all()
        if there > 1:
            reached.append(share)
    return reached[:SHARES_TOLD]


def _accuracies(lines: Lines, wanted: Sequence[float], dense: float) -> dict[str, float]:
    """Accuracy at each share of the parent's FLOPs, and its deviation over seeds."""
    told = {}
    for share in wanted:
        scores = _at(lines, share * dense)
        name = f"accuracy_at_{100 * share:g}"
        told[name] = math.nan
        told[f"{name}_std"] = math.nan
        if scores.notna().all():
            told[name] = scores.mean()
            told[f"{name}_std"] = scores.std()
    return told


def _least_flops(rows: pd.DataFrame, cost: front.Cost, parent: pd.Series) -> dict[str, float]:
    """The fewest FLOPs within each drop, mean over seeds; NaN if a seed has no such network."""
    is_eligible = front.eligible(rows)
    able = rows[is_eligible]
    wanted = able["seed"].map(parent)
    seeds = rows["seed"].nunique()
    told = {}
    for drop in DROPS:
        bound = wanted - drop - paired.ALIKE
        near = able[able["accuracy_valid"] >= bound]
        by_seed = near.groupby("seed")
        least = by_seed[cost].min()
        name = f"flops_within_{100 * drop:g}"
        told[name] = math.nan
        if len(least) == seeds:
            told[name] = least.mean()
    return told


def charged(last_rows: pd.DataFrame) -> pd.DataFrame:
    """`train_flops` and `seconds` charged to all networks of a seed, mean over seeds, by label.

    A network that several rows took is charged once, as the cheapest; rows without charges are left
    out.
    """
    charges = list(attainment.CHARGES)
    seeds = [*attainment.LABEL, "seed"]
    known = last_rows.dropna(subset=charges)
    network = front.networks(known)
    known = known.assign(network=network)
    known = known.sort_values("train_flops", kind="stable")
    known = known.drop_duplicates([*seeds, "network"])
    totals = []
    for key, group in known.groupby(seeds):
        line = dict(zip(seeds, key, strict=True))
        for name in charges:
            mean = group[name].mean()
            line[name] = len(group) * mean
        totals.append(line)
    columns = [*seeds, *charges]
    frame = pd.DataFrame(totals, columns=columns)
    by_label = frame.groupby(attainment.LABEL)
    means = by_label[charges].mean()
    return means.reset_index()


def _labelled(done: pd.DataFrame) -> Iterator[tuple[Label, pd.DataFrame]]:
    labels = done.groupby(attainment.LABEL)
    for (arm, control), rows in labels:
        label = str(arm), bool(control)
        yield label, rows


def _known_lines(done: pd.DataFrame, cost: front.Cost) -> dict[Label, Lines]:
    """As `equal_flops.lines`, by label; without points for a seed all of whose networks have no
    FLOPs left.
    """
    known = {}
    for label, rows in _labelled(done):
        nothing = np.empty((0, 3))
        lines = dict.fromkeys(rows["seed"].tolist(), nothing)
        known[label] = lines | equal_flops.lines(rows, cost)
    return known


def _at(lines: Lines, flops: float) -> pd.Series:
    """Test accuracy at these FLOPs by seed, NaN where a line does not reach them."""
    known = {}
    for seed, line in lines.items():
        if len(line):
            known[seed] = line
    scores = equal_flops.at(known, flops)["accuracy_test"]
    return scores.reindex(list(lines))


# ---- as text


def html(study: Study, arms: pd.DataFrame, _: Drawings) -> Iterator[str]:
    if study.uncounted:
        yield page.say(front.uncounted(study.uncounted))
    yield from _verdicts(study.compared)
    head, lines = cells(arms, study.uncounted)
    yield page.grid(head, lines, kind="first")
    yield page.say(READING)


def _verdicts(compared: verdicts.Verdicts | str) -> Iterator[str]:
    if isinstance(compared, str):
        yield page.say(f"No difference between arms was tested: {compared}.")
        return
    yield page.say(
        f"Test accuracy minus that of {compared.baseline}, at equal masked FLOPs and paired by "
        "seed; better or worse only where the t test says so at 5 % after Holm's correction for "
        "all comparisons:"
    )
    lines = compared.lines[compared.lines["cost"] == "flops_masked"]
    items = []
    for arm, group in lines.groupby("arm", sort=False):
        items.append(f"<li>{escape(_against(str(arm), group))}</li>\n")
    yield f"<ul>\n{''.join(items)}</ul>\n"
    for caution in compared.cautions:
        yield page.say(caution)


def _against(arm: str, lines: pd.DataFrame) -> str:
    """What the comparisons of an arm say, in a sentence."""
    verdicts = lines["difference_test_verdict"]
    if not lines["difference_test_n"].any():
        return f"{arm}: {verdicts.iloc[0]}."
    parts_of_verdicts = verdicts.str.split("[:,]")
    kinds = parts_of_verdicts.str[0]
    said = []
    for kind, part in lines.groupby(kinds, sort=False):
        if kind == "not compared":
            said.append(f"at {len(part)} not compared")
            continue
        percent = 100 * part["difference_test"]
        ends = _ends(percent, "+z.2f")
        points = f"{ends} points"
        if kind == "no difference shown":
            points += _power(part)
        said.append(f"{kind} at {len(part)} of {len(lines)} counts of FLOPs ({points})")
    sentence = ", ".join(said)
    return f"{arm}: {sentence}."


def _power(lines: pd.DataFrame) -> str:
    """Which differences comparisons could have shown, after a semicolon."""
    could = 100 * lines["difference_test_detectable"].dropna()
    if could.empty:
        return ""
    if could.min() >= 100:
        return "; so few seeds could show none"
    return f"; could show: {_ends(could, '.2f')}"


def _ends(values: pd.Series, form: str) -> str:
    """The least and the largest value, once where they read the same."""
    low = format(values.min(), form)
    high = format(values.max(), form)
    if low == high:
        return low
    return f"{low} to {high}"


def markdown(study: Study, arms: pd.DataFrame) -> str:
    """The table, and what is to be known beside it."""
    head, lines = cells(arms, study.uncounted)
    parts = [f"{words.grid(head, lines)}\n"]
    for sentence in notes_on(study):
        parts.append(f"\n{sentence}\n")
    return "".join(parts)


def notes_on(study: Study) -> list[str]:
    """What is to be known beside every figure of FLOPs: operations that are not counted, networks
    that are no points.
    """
    notes = front.left_out(study.last)
    if study.uncounted:
        notes.insert(0, front.uncounted(study.uncounted))
    return notes


def cells(arms: pd.DataFrame, uncounted: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
    """The table of `both` as text: headings, each with its cost, and lines.

    uncounted: operations without a FLOPs formula, which make counts lower bounds.
    """
    head = ["arm", "seeds", "networks"]
    columns: list[str] = []
    for cost in front.COSTS:
        kind = cost.removeprefix("flops_")
        for name in map(str, arms):
            measure, _, end = name.rpartition("_")
            headings = _headings(measure, kind)
            if end == kind and headings:
                head += headings
                columns.append(name)
    lines = []
    for line in page.records(arms):
        lines.append(_cells(line, columns, bool(uncounted)))
    return [*head, "train FLOPs charged", "seconds charged"], lines


def _headings(measure: str, kind: str) -> list[str]:
    """The headings of a column; none for one that is told beside another."""
    if "_std" in measure:
        return []
    if measure.startswith("accuracy_at_"):
        return [f"at {measure.removeprefix('accuracy_at_')} % of FLOPs, {kind}"]
    if measure.startswith("flops_within_"):
        return [f"FLOPs {kind}, within {measure.removeprefix('flops_within_')}"]
    if measure == "hypervolume":
        return [f"hypervolume, {kind}", "interval"]
    return []


def _cells(line: Mapping[str, Any], columns: Sequence[str], uncounted: bool) -> list[str]:
    told = [
        page.label(line),
        words.number(line["seeds"], ".0f"),
        words.number(line["networks"], ".0f"),
    ]
    for name in columns:
        told += _measure(line, name, uncounted)
    return [*told, words.large(line["train_flops"]), words.large(line["seconds"])]


def _measure(line: Mapping[str, Any], name: str, uncounted: bool) -> list[str]:
    """A column of `both` as cells: a hypervolume has two, its mean and its interval."""
    measure, _, kind = name.rpartition("_")
    value = line[name]
    doubt = " ?" if uncounted else ""
    if measure == "hypervolume":
        low = line[f"hypervolume_low_{kind}"]
        high = line[f"hypervolume_high_{kind}"]
        interval = words.interval(low, high, ".4f", 1)
        mean = words.number(value, ".4f")
        return [mean + doubt, interval]
    if math.isnan(value):
        return ["-"]
    if measure.startswith("flops_within_"):
        return [words.flops(value, uncounted)]
    deviation = line[f"{measure}_std_{kind}"]
    accuracy = words.spread(value, deviation)
    return [accuracy + doubt]


def figures(study: Study) -> pd.DataFrame:
    return both(study.last)


def table(_: Study, arms: pd.DataFrame) -> pd.DataFrame:
    return arms


SECTION = Section(
    name="question",
    title="Which arm, at which budget, and is the difference real?",
    figures=figures,
    html=html,
    tables={"arms": table},
    texts={"arms.md": markdown},
)
