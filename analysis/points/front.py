"""Non-dominated sets, hypervolume, and the operating points of a study they are computed from.

An operating point is what the seeds of one setting share: (arm, algorithm, control, hp); `setting`
is hp in words. Whatever chooses or orders points takes its frame through `selectable` and so cannot
see test data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..rows import table
from ..rows.mistake import Mistake

Cost = Literal["flops_masked", "flops_shrunk"]
POINT = ["arm", "algorithm", "control", "hp", "setting"]
SCORES = ["accuracy_valid", "accuracy_test"]
COSTS: tuple[Cost, Cost] = ("flops_shrunk", "flops_masked")
COUNTS = [
    "flops_dense",
    "flops_masked",
    "flops_shrunk",
    "params_dense",
    "params_kept",
    "params_shrunk",
]
CHARGES = ["seconds", "train_flops", "search_flops"]
SPREAD = [*SCORES, "sparsity", "flops_masked", "flops_shrunk", "params_kept"]
SEARCHED = ("candidates", "pick")
"""Hyper-parameters of a search over candidate networks: how many were scored, and which of them was
taken.
"""
DIRECTIONS = (True, False)
"""Accuracy is maximized, cost is not."""
REFERENCE = (0.0, 1.0)
"""Reference point of the hypervolume: accuracy 0, cost 1.0 times the parent's FLOPs."""

Settings = dict[str, Any]
"""Hyper-parameters by name."""
ROUNDING = 1e-9
"""Distances from the line of a knee that are no larger say nothing."""


def front(points: ArrayLike, maximize: Sequence[bool]) -> NDArray[np.bool_]:
    """Which points no other point dominates; equal points on the front all belong to it.

    points: (n, m).  maximize: (m,), True where more is better.  Returns (n,) bool.
    A point with a NaN neither belongs nor dominates.  Raises Mistake if the lengths disagree.
    """
    values = _values(points, maximize)
    whole = np.flatnonzero(~np.isnan(values).any(axis=1))
    belongs = np.zeros(len(values), dtype=np.bool_)
    if len(whole):
        belongs[whole] = moocore.is_nondominated(
            values[whole], maximise=list(maximize), keep_weakly=True
        )
    return belongs


def hypervolume(points: ArrayLike, reference: Sequence[float], maximize: Sequence[bool]) -> float:
    """Volume that the points dominate up to `reference`; 0.0 for no points.

    points: (n, m).  reference: (m,).  maximize: (m,), True where more is better. A point that does
    not improve on the reference in every objective, or has a NaN, contributes nothing.
    """
    values = _values(points, maximize)
    if len(reference) != len(maximize):
        rule = "`reference` has one number per objective"
        raise Mistake(f"{rule}; got {len(reference)}, should be {len(maximize)}")
    signs = np.where(np.asarray(maximize, dtype=bool), 1.0, -1.0)
    bound = signs * np.asarray(reference, dtype=float)
    improves = (signs * values > bound).all(axis=1)
    if not improves.any():
        return 0.0
    volume = moocore.hypervolume(values[improves], ref=list(reference), maximise=list(maximize))
    return float(volume)


def _values(points: ArrayLike, maximize: Sequence[bool]) -> NDArray[np.float64]:
    values = np.asarray(points, dtype=float)
    objectives = len(maximize)
    if values.size == 0:
        return np.empty((0, objectives))
    if values.ndim != 2 or values.shape[1] != objectives:
        raise Mistake(
            f"`maximize` has one entry per objective; got {objectives} for points of shape "
            f"{values.shape}, which should be (n, {objectives})"
        )
    return values


def selectable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without its test columns (`*_test`, and their spread): all that may be used to
    choose or to order.
    """
    return frame[[name for name in frame.columns if "_test" not in name]]


def is_check(rows: pd.DataFrame) -> pd.Series[bool]:
    """Which rows, or operating points with their `hp`, are of sanity checks."""
    if "hp_of" in rows:
        return rows["hp_of"].notna()
    return rows["hp"].str.contains('"of":', regex=False)


def computes(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which lines have FLOPs left, by every count of `COSTS` that the frame has: a network without
    gives one answer for all.
    """
    costs = [cost for cost in COSTS if cost in frame]
    flops = frame[costs].astype(float)
    return (flops > 0).all(axis=1)


def eligible(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which lines may be on a front: networks that have FLOPs left, of a validation accuracy that
    is a finite number.
    """
    scores = frame["accuracy_valid"].astype(float)
    finite = scores.map(np.isfinite).astype(bool)
    return computes(frame) & finite


def left_out(last_rows: pd.DataFrame) -> list[str]:
    """How many members that are done are on no front, and why, in sentences; none if all may be.

    last_rows: as from `table.last`.
    """
    done = last_rows[last_rows["status"] == "done"]
    computing = computes(done)
    idle = int((~computing).sum())
    unknown = int((computing & ~eligible(done)).sum())
    sentences: list[str] = []
    if idle:
        sentences.append(
            f"{idle} of {len(done)} networks have no FLOPs left, and are no points of a front."
        )
    if unknown:
        sentences.append(
            f"{unknown} of {len(done)} networks have a validation accuracy that is no finite "
            "number, and are not drawn."
        )
    return sentences


def unknown_operations(rows: pd.DataFrame) -> list[str]:
    """The operations without a FLOPs formula that the networks of these rows, or operating points,
    compute.
    """
    if "unknown_ops" not in rows:
        return []
    operations = set[str]()
    for names in rows["unknown_ops"].dropna().unique():
        operations.update(str(names).split(","))
    return sorted(operations - {""})


def uncounted(operations: Sequence[str]) -> str:
    """What operations without a formula mean for figures, in a sentence; empty without any."""
    if not operations:
        return ""
    return (
        f"FLOPs leave out what has no formula here: {', '.join(operations)}. Every count of FLOPs "
        "is a lower bound (marked with ≥), and every speed-up and share of FLOPs is of what is "
        "counted alone (marked with ?)."
    )


def parents(done: pd.DataFrame) -> list[str]:
    """The arms that are the parent: controls, whole and as large as the task's model, of the
    largest `flops_dense`.

    Nothing was removed, and `flops_masked` is `flops_dense`: an arm may start from a wider or a
    narrower network.
    """
    dense = done["flops_dense"]
    full = done["flops_masked"] == dense
    largest = dense == dense.max()
    control = done["control"].astype(bool)
    whole = full & largest & (done["sparsity"] == 0) & control
    of_arm = whole.groupby(done["arm"]).transform("all")
    return sorted(done["arm"][of_arm].unique())


def parent_scores(done: pd.DataFrame) -> pd.DataFrame:
    """The parent's accuracies and charges by seed; means of several parents, empty without one."""
    rows = done[done["arm"].isin(parents(done))]
    by_seed = rows.groupby("seed")
    return by_seed[[*SCORES, *CHARGES]].mean()


def summarise(last_rows: pd.DataFrame) -> pd.DataFrame:
    """One line per operating point, in the order of (arm, hp).

    last_rows: as from `table.last`.  Columns: `POINT`; members by status (`done`: how many are
    behind each mean); means of measures over done members and sample standard deviations `*_std`
    (NaN for one); `difference_valid` and `difference_test`, mean over seeds of accuracy minus the
    parent's of the same seed (NaN without one); `compression`, `speedup_masked` and
    `speedup_shrunk`, quotients of means (infinite where nothing is left). Raises Mistake if a row
    does not say which point it belongs to, as grouping would drop it in silence.
    """
    last_rows = last_rows.assign(setting=settings(last_rows))
    for name in [*POINT, "seed", "status"]:
        silent = last_rows[name].isna().sum()
        if silent:
            raise Mistake(f"every row states its `{name}`; {silent} rows do not")
    done = last_rows[last_rows["status"] == "done"]
    status = last_rows.groupby([*POINT, "status"]).size().unstack(fill_value=0)
    status = status.reindex(columns=list(table.FINAL), fill_value=0)
    measured = done.groupby(POINT)
    means = measured[[*SCORES, "sparsity", *COUNTS, *CHARGES]].mean()
    spread = measured[SPREAD].std().add_suffix("_std")
    summary = status.join([means, spread, _differences(done)])
    if "unknown_ops" in done:
        summary["unknown_ops"] = _operations(done)
    dense = summary["flops_dense"]
    summary["compression"] = summary["params_dense"] / summary["params_kept"]
    summary["speedup_masked"] = dense / summary["flops_masked"]
    summary["speedup_shrunk"] = dense / summary["flops_shrunk"]
    return summary.rename_axis(columns=None).reset_index()


def _operations(done: pd.DataFrame) -> pd.Series[str]:
    """All that `unknown_ops` names, by point. Nearly always a point has one such text, and few
    points have different ones: each text is read once.
    """
    told = done.groupby(POINT)["unknown_ops"]
    texts = told.first().fillna("")
    known = {text: _joined(pd.Series([text])) for text in texts.unique()}
    operations = texts.map(known)
    for point in operations.index[told.nunique() > 1]:
        operations[point] = _joined(told.get_group(point))
    return operations


def _joined(operations: pd.Series[str]) -> str:
    """All that a column `unknown_ops` names, as it does."""
    names = unknown_operations(pd.DataFrame({"unknown_ops": operations}))
    return ",".join(names)


def settings(rows: pd.DataFrame) -> pd.Series[str]:
    """For each row, in words, the hyper-parameters that differ within its arm; if none do, those
    that are no defaults.
    """
    keys = rows[["arm", "hp"]].fillna({"hp": "{}"})
    points = rows.assign(hp=keys["hp"]).drop_duplicates(["arm", "hp"])  # far fewer than rows
    words: dict[tuple[Any, Any], str] = {}
    for arm, group in points.groupby("arm"):
        chosen = [json.loads(hp) for hp in group["hp"]]
        names = _telling(chosen)
        lines = group.to_dict("records")
        for hp, line in zip(chosen, lines, strict=True):
            words[arm, line["hp"]] = _setting(hp, line, names)
    of_row: list[str] = []
    for key in zip(keys["arm"], keys["hp"], strict=True):
        of_row.append(words.get(key, "defaults"))
    return pd.Series(of_row, index=rows.index, dtype=object)


def _telling(chosen: Sequence[Settings]) -> list[str]:
    """The hyper-parameters that differ within an arm; if none do, all that it has."""
    names = sorted(set[str]().union(*chosen))
    differing: list[str] = []
    for name in names:
        values = {json.dumps(hp.get(name)) for hp in chosen}
        if len(values) > 1:
            differing.append(name)
    return differing or names


def _setting(hp: Settings, row: dict[Any, Any], names: Sequence[str]) -> str:
    """Some hyper-parameters of a row in words; a default is in its column `hp_<name>`."""
    words: list[str] = []
    for name in names:
        default = row.get(f"hp_{name}")
        word = _word(hp.get(name, default))
        words.append(f"{name} {word}")
    return ", ".join(words) or "defaults"


def unsearched(rows: pd.DataFrame) -> pd.Series[str]:
    """Each row's `hp` without the hyper-parameters of a search over candidates: what its networks
    are compared within.
    """
    rest: dict[str, str] = {}
    for text in rows["hp"].unique():
        hp = json.loads(text)
        for name in SEARCHED:
            hp.pop(name, None)
        rest[text] = json.dumps(hp)
    return rows["hp"].map(rest)


def varying(rows: pd.DataFrame) -> str | None:
    """The column `hp_<name>` of the one number in which settings of an arm differ; None if they
    differ in more, or in words.
    """
    arms = rows.groupby("arm")
    differing: list[str] = []
    for name in map(str, rows):
        if name.startswith("hp_") and (arms[name].nunique(dropna=False) > 1).any():
            differing.append(name)
    if len(differing) != 1:
        return None
    values = rows[differing[0]]
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return None
    return differing[0] if values.notna().all() else None


def evenly(frame: pd.DataFrame, most: int, always: int) -> pd.DataFrame:
    """At most `most` lines of a frame, evenly spread over its order; the one at position `always`
    is among them.
    """
    if len(frame) <= most:
        return frame
    spaced = np.linspace(0, len(frame) - 1, most - 1).round()
    places = {*spaced.astype(int).tolist(), always}
    return frame.iloc[sorted(places)]


def networks(rows: pd.DataFrame) -> pd.Series[str]:
    """Which network each row is of: its member's own, unless a search took it (`m_winner`: the
    candidate's number).

    Rows that took the same candidate, with the same seed and the same hyper-parameters but for
    `SEARCHED`, are of one network, trained once.
    """
    if "m_winner" not in rows:
        return rows["member"]
    winner = rows["m_winner"]
    taken = rows["algorithm"] + "\t" + unsearched(rows)
    taken = taken + "\t" + rows["seed"].astype(str)
    taken = taken + "\t" + winner.astype(str)
    return taken.where(winner.notna(), rows["member"])


def marks(counts: Iterable[float]) -> list[int]:
    """Of all candidate counts those that are shown: the first from each of 1, 4, 16, ... on, and
    the largest.
    """
    known = sorted({int(count) for count in counts})
    shown = set(known[-1:])
    power = 1
    for count in known:
        if count >= power:
            shown.add(count)
        while power <= count:
            power *= 4
    return sorted(shown)


def listed(summary: pd.DataFrame, last_rows: pd.DataFrame) -> pd.DataFrame:
    """The points that a page has room for: all, but of a search over candidates only some counts.

    Counts that took the same networks in every seed are one point, the one of the fewest
    candidates, with the range in its `setting`. Of these stay the ones with a count of `marks` and
    those on the front of their arm (control or not), by masked or by shrunk FLOPs.
    """
    done = last_rows[last_rows["status"] == "done"]
    if "hp_candidates" not in done or done["hp_candidates"].isna().all():
        return summary
    points = _search_points(summary, done)
    shown = points["front"] | _marked(points)
    ranges: dict[Any, str] = {}
    for _, group in points.groupby(["label", "pick", "networks"], dropna=False):
        if shown[group.index].any():
            ranges[group.index[0]] = _range(group)
    lines = summary.drop(index=[i for i in points.index if i not in ranges])
    setting = pd.Series(ranges, dtype=lines["setting"].dtype).reindex(lines.index)
    return lines.assign(setting=setting.fillna(lines["setting"]))


def _search_points(summary: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    """The operating points of searches, from the fewest candidates: with `label` (arm and control),
    `front`, `hp_candidates`, `pick` and `networks`.
    """
    rows = done[["arm", "hp", "hp_candidates"]]
    rows = rows.assign(pick=done.get("hp_pick"), networks=networks(done))
    taken = {"hp_candidates": "first", "pick": "first", "networks": _sorted_names}
    behind = rows.groupby(["arm", "hp"]).agg(taken)
    points = selectable(summary).join(behind, on=["arm", "hp"])
    points["label"] = points["arm"] + points["control"].astype(str)
    points["front"] = False
    for cost in COSTS:
        points["front"] |= fronts(points, cost, "label")
    points = points[points["hp_candidates"].notna()]
    points = points.sort_values(["hp_candidates", "pick"], kind="stable")
    # One candidate is the best and the worst of itself.
    several = points["hp_candidates"] > 1
    points["pick"] = points["pick"].where(several, "").fillna("")
    return points


def _sorted_names(names: pd.Series[str]) -> str:
    return " ".join(sorted(names))


def _marked(points: pd.DataFrame) -> pd.Series[bool]:
    """Which points of searches have a count of `marks` among those that differ in it alone."""
    alike = points.groupby(["label", unsearched(points), "pick"])
    return alike["hp_candidates"].transform(_is_mark)


def _is_mark(counts: pd.Series[float]) -> pd.Series[bool]:
    return counts.isin(marks(counts))


def _range(group: pd.DataFrame) -> str:
    """The setting of points that took the same networks, with their range of candidates."""
    counts = group["hp_candidates"].astype(int)
    low, high = counts.iloc[0], counts.iloc[-1]
    one = f"candidates {low}"
    several = f"{one}..{high}" if high > low else one
    setting = group["setting"].iloc[0]
    return setting.replace(one, several, 1)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value)


def _differences(done: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread, over seeds, of accuracy minus the parent's of the same seed."""
    parent = parent_scores(done)[SCORES]
    paired = done[SCORES] - parent.reindex(done["seed"]).to_numpy()
    paired.columns = ["difference_valid", "difference_test"]
    points = [done[name] for name in POINT]
    measured = paired.groupby(points)
    deviations = measured.std().add_suffix("_std")
    return measured.mean().join(deviations)


def fronts(
    summary: pd.DataFrame, cost: Cost = "flops_masked", within: str | None = None
) -> pd.Series[bool]:
    """Which operating points are non-dominated in (mean validation accuracy up, mean cost down).

    within: a column; a point then competes only with those of its value there ("arm": the front of
    each arm). Points that are not `eligible` neither belong nor dominate.
    """
    seen = selectable(summary)
    belongs = pd.Series(False, index=seen.index, dtype=bool)
    for group in _groups(seen[eligible(seen)], within):
        points = group[["accuracy_valid", cost]].to_numpy()
        belongs[group.index] = front(points, DIRECTIONS)
    return belongs


def _groups(frame: pd.DataFrame, within: str | None) -> list[pd.DataFrame]:
    """The lines of each value of a column; all together without one."""
    if within is None:
        return [frame] if len(frame) else []
    return [group for _, group in frame.groupby(within)]


def knees(
    summary: pd.DataFrame, cost: Cost = "flops_masked", within: str | None = None
) -> pd.Series[bool]:
    """The knee of each of `fronts`: of its points the one farthest from the line that joins its two
    ends (Das 1999).

    Distances are in (mean validation accuracy, logarithm of mean cost), each from 0 to 1 between
    the ends: a factor counts the same wherever it is, as in the chart; with linear cost the few
    dearest networks would set the scale. No point of a front is a knee if none lies on the better
    side of the line. The cheapest wins ties.
    """
    seen = selectable(summary)
    on_front = seen[fronts(summary, cost, within)].sort_values(cost, kind="stable")
    knees = pd.Series(False, index=seen.index, dtype=bool)
    for group in _groups(on_front, within):
        distance = _distances(group, cost)
        if distance.max() > ROUNDING:
            knees |= knees.index == distance.idxmax()
    return knees


def _distances(group: pd.DataFrame, cost: Cost) -> pd.Series[float]:
    """How far the points of a front, from the cheapest, lie beyond the line that joins its ends,
    times the root of 2; 0 for all if it has no two ends.
    """
    points = pd.DataFrame({"accuracy": group["accuracy_valid"]})
    points["cost"] = np.log(group[cost])
    first = points.iloc[0]
    spans = points.iloc[-1] - first
    if not (spans > 0).all():
        return pd.Series(0.0, index=group.index)
    scaled = (points - first) / spans
    return scaled["accuracy"] - scaled["cost"]


def members_on_front(last_rows: pd.DataFrame) -> set[str]:
    """The done members of the operating points on the front of all arms, by masked or by shrunk
    FLOPs.

    With sanity checks and without: a check may dominate the setting that it is about, which can be
    picked all the same.
    """
    summary = summarise(last_rows)
    chosen = pd.Series(False, index=summary.index, dtype=bool)
    for points in (summary, summary[~is_check(summary)]):
        for cost in COSTS:
            belongs = fronts(points, cost)
            chosen |= belongs.reindex(summary.index, fill_value=False)
    done = last_rows[last_rows["status"] == "done"]
    members = done.merge(summary.loc[chosen, ["arm", "hp"]])
    return set(members["member"])


def ordered(summary: pd.DataFrame, cost: Cost = "flops_masked") -> pd.DataFrame:
    """The summary with its front first, then the other points; in each part from the dearest to the
    cheapest.
    """
    seen = selectable(summary)
    natural = [re.sub(r"\d+", _padded, hp) for hp in seen["hp"]]  # 4 before 16
    seen = seen.assign(other=~fronts(summary, cost), natural=natural)
    keys = ["other", cost, "arm", "control", "natural"]
    order = seen.sort_values(keys, ascending=[True, False, True, True, True])
    return summary.loc[order.index]


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(18)
