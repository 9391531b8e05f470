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
    missing = np.isnan(values)
    is_whole = ~missing.any(axis=1)
    whole = np.flatnonzero(is_whole)
    belongs = np.zeros(len(values), dtype=np.bool_)
    if len(whole):
        belongs[whole] = moocore.is_nondominated(
            values[whole],
            maximise=list(maximize),
            keep_weakly=True,
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
    is_maximized = np.asarray(maximize, dtype=bool)
    signs = np.where(is_maximized, 1.0, -1.0)
    bound = signs * np.asarray(reference, dtype=float)
    gains = signs * values
    improves = (gains > bound).all(axis=1)
    if not improves.any():
        return 0.0
    volume = moocore.hypervolume(
        values[improves],
        ref=list(reference),
        maximise=list(maximize),
    )
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
    columns = [name for name in frame.columns if "_test" not in name]
    return frame[columns]


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
    remain = flops > 0
    return remain.all(axis=1)


def eligible(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which lines may be on a front: networks that have FLOPs left, of a validation accuracy that
    is a finite number.
    """
    scores = frame["accuracy_valid"].astype(float)
    finite = scores.map(np.isfinite)
    finite = finite.astype(bool)
    return computes(frame) & finite


def left_out(last_rows: pd.DataFrame) -> list[str]:
    """How many members that are done are on no front, and why, in sentences; none if all may be.

    last_rows: as from `table.last`.
    """
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    computing = computes(done)
    idle = int((~computing).sum())
    unscored = computing & ~eligible(done)
    unknown = int(unscored.sum())
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
    texts = rows["unknown_ops"].dropna()
    operations = set[str]()
    for names in texts.unique():
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
    unpruned = done["sparsity"] == 0
    control = done["control"].astype(bool)
    whole = full & largest & unpruned & control
    arms = done["arm"]
    by_arm = whole.groupby(arms)
    of_arm = by_arm.transform("all")
    return sorted(arms[of_arm].unique())


def parent_scores(done: pd.DataFrame) -> pd.DataFrame:
    """The parent's accuracies and charges by seed; means of several parents, empty without one."""
    is_parent = done["arm"].isin(parents(done))
    rows = done[is_parent]
    by_seed = rows.groupby("seed")
    measures = [*SCORES, *CHARGES]
    return by_seed[measures].mean()


def summarise(last_rows: pd.DataFrame) -> pd.DataFrame:
    """One line per operating point, in the order of (arm, hp).

    last_rows: as from `table.last`.  Columns: `POINT`; members by status (`done`: how many are
    behind each mean); means of measures over done members and sample standard deviations `*_std`
    (NaN for one); `difference_valid` and `difference_test`, mean over seeds of accuracy minus the
    parent's of the same seed (NaN without one); `compression`, `speedup_masked` and
    `speedup_shrunk`, quotients of means (infinite where nothing is left). Raises Mistake if a row
    does not say which point it belongs to, as grouping would drop it in silence.
    """
    setting = settings(last_rows)
    last_rows = last_rows.assign(setting=setting)
    for name in [*POINT, "seed", "status"]:
        silent = last_rows[name].isna().sum()
        if silent:
            raise Mistake(f"every row states its `{name}`; {silent} rows do not")
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    by_status = last_rows.groupby([*POINT, "status"])
    status = by_status.size().unstack(fill_value=0)
    status = status.reindex(columns=list(table.FINAL), fill_value=0)
    measured = done.groupby(POINT)
    measures = [*SCORES, "sparsity", *COUNTS, *CHARGES]
    means = measured[measures].mean()
    spread = measured[SPREAD].std()
    spread = spread.add_suffix("_std")
    differences = _differences(done)
    summary = status.join([means, spread, differences])
    if "unknown_ops" in done:
        summary["unknown_ops"] = _operations(done)
    dense = summary["flops_dense"]
    summary["compression"] = summary["params_dense"] / summary["params_kept"]
    summary["speedup_masked"] = dense / summary["flops_masked"]
    summary["speedup_shrunk"] = dense / summary["flops_shrunk"]
    summary = summary.rename_axis(columns=None)
    return summary.reset_index()


def _operations(done: pd.DataFrame) -> pd.Series[str]:
    """All that `unknown_ops` names, by point. Nearly always a point has one such text, and few
    points have different ones: each text is read once.
    """
    by_point = done.groupby(POINT)
    told = by_point["unknown_ops"]
    texts = told.first().fillna("")
    known: dict[str, str] = {}
    for text in texts.unique():
        operations = pd.Series([text])
        known[text] = _joined(operations)
    joined = texts.map(known)
    several = told.nunique() > 1
    for point in joined.index[several]:
        of_point = told.get_group(point)
        joined[point] = _joined(of_point)
    return joined


def _joined(operations: pd.Series[str]) -> str:
    """All that a column `unknown_ops` names, as it does."""
    column = pd.DataFrame({"unknown_ops": operations})
    names = unknown_operations(column)
    return ",".join(names)


def settings(rows: pd.DataFrame) -> pd.Series[str]:
    """For each row, in words, the hyper-parameters that differ within its arm; if none do, those
    that are no defaults.
    """
    keys = rows[["arm", "hp"]].fillna({"hp": "{}"})
    points = rows.assign(hp=keys["hp"])
    points = points.drop_duplicates(["arm", "hp"])  # far fewer than rows
    words: dict[tuple[Any, Any], str] = {}
    for arm, group in points.groupby("arm"):
        for hp, setting in _settings_of_arm(group).items():
            words[arm, hp] = setting
    of_row: list[str] = []
    for key in zip(keys["arm"], keys["hp"], strict=True):
        setting = words.get(key, "defaults")
        of_row.append(setting)
    return pd.Series(of_row, index=rows.index, dtype=object)


def _settings_of_arm(group: pd.DataFrame) -> dict[str, str]:
    """The settings of the points of an arm in words, by `hp`."""
    chosen = [json.loads(hp) for hp in group["hp"]]
    names = _telling(chosen)
    lines = group.to_dict("records")
    words: dict[str, str] = {}
    for hp, line in zip(chosen, lines, strict=True):
        text = line["hp"]
        words[text] = _setting(hp, line, names)
    return words


def _telling(chosen: Sequence[Settings]) -> list[str]:
    """The hyper-parameters that differ within an arm; if none do, all that it has."""
    every_name = set[str]().union(*chosen)
    names = sorted(every_name)
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
        value = hp.get(name, default)
        word = _word(value)
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
        if not name.startswith("hp_"):
            continue
        counts = arms[name].nunique(dropna=False)
        if (counts > 1).any():
            differing.append(name)
    if len(differing) != 1:
        return None
    column = differing[0]
    values = rows[column]
    if pd.api.types.is_bool_dtype(values):
        return None
    if not pd.api.types.is_numeric_dtype(values):
        return None
    if values.isna().any():
        return None
    return column


def evenly(frame: pd.DataFrame, most: int, always: int) -> pd.DataFrame:
    """At most `most` lines of a frame, evenly spread over its order; the one at position `always`
    is among them.
    """
    count = len(frame)
    if count <= most:
        return frame
    spaced = np.linspace(0, count - 1, most - 1)
    positions = spaced.round().astype(int)
    places = {*positions.tolist(), always}
    return frame.iloc[sorted(places)]


def networks(rows: pd.DataFrame) -> pd.Series[str]:
    """Which network each row is of: its member's own, unless a search took it (`m_winner`: the
    candidate's number).

    Rows that took the same candidate, with the same seed and the same hyper-parameters but for
    `SEARCHED`, are of one network, trained once.
    """
    if "m_winner" not in rows:
        return rows["member"]
    was_searched = rows["m_winner"].notna()
    searched = rows[was_searched]
    seed = searched["seed"].astype(str)
    winner = searched["m_winner"].astype(str)
    rest = unsearched(searched)
    taken = searched["algorithm"] + "\t" + rest
    taken = taken + "\t" + seed
    taken = taken + "\t" + winner
    names = rows["member"].copy()
    names[was_searched] = taken.to_numpy()
    return names


def marks(counts: Iterable[float]) -> list[int]:
    """Of all candidate counts those that are shown: the first from each of 1, 4, 16, ... on, and
    the largest.
    """
    distinct = {int(count) for count in counts}
    known = sorted(distinct)
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
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    if "hp_candidates" not in done or done["hp_candidates"].isna().all():
        return summary
    points = _search_points(summary, done)
    ranges = _shown_ranges(points)
    hidden = [i for i in points.index if i not in ranges]
    lines = summary.drop(index=hidden)
    own = lines["setting"]
    setting = pd.Series(ranges, dtype=own.dtype)
    setting = setting.reindex(lines.index)
    setting = setting.fillna(own)
    return lines.assign(setting=setting)


def _shown_ranges(points: pd.DataFrame) -> dict[Any, str]:
    """The settings, with their ranges of candidates, of the points of searches that are shown, by
    the index of the one of the fewest candidates.
    """
    shown = points["front"] | _marked(points)
    points = points.assign(point=points.index, shown=shown)
    alike = points.groupby(["label", "pick", "networks"], dropna=False)
    lines = alike.agg(
        point=("point", "first"),
        setting=("setting", "first"),
        low=("hp_candidates", "first"),
        high=("hp_candidates", "last"),
        shown=("shown", "any"),
    )
    ranges: dict[Any, str] = {}
    lines = lines[lines["shown"]]
    for line in lines.to_dict("records"):
        low = int(line["low"])
        high = int(line["high"])
        first = line["point"]
        setting = line["setting"]
        ranges[first] = _range(setting, low, high)
    return ranges


def _search_points(summary: pd.DataFrame, done: pd.DataFrame) -> pd.DataFrame:
    """The operating points of searches, from the fewest candidates: with `label` (arm and control),
    `front`, `hp_candidates`, `pick` and `networks`.
    """
    is_search = done["hp_candidates"].notna()
    searched = done[is_search]
    rows = searched[["arm", "hp", "hp_candidates"]]
    pick = searched.get("hp_pick")
    names = networks(searched)
    rows = rows.assign(pick=pick, networks=names)
    taken = {"hp_candidates": "first", "pick": "first", "networks": _sorted_names}
    by_setting = rows.groupby(["arm", "hp"])
    behind = by_setting.agg(taken)
    points = selectable(summary)
    points = points.join(behind, on=["arm", "hp"])
    kind = points["control"].astype(str)
    points["label"] = points["arm"] + kind
    points["front"] = False
    for cost in COSTS:
        points["front"] |= fronts(points, cost, "label")
    is_search = points["hp_candidates"].notna()
    points = points[is_search]
    points = points.sort_values(["hp_candidates", "pick"], kind="stable")
    # One candidate is the best and the worst of itself.
    several = points["hp_candidates"] > 1
    picks = points["pick"].where(several, "")
    points["pick"] = picks.fillna("")
    return points


def _sorted_names(names: pd.Series[str]) -> str:
    return " ".join(sorted(names))


def _marked(points: pd.DataFrame) -> pd.Series[bool]:
    """Which points of searches have a count of `marks` among those that differ in it alone."""
    rest = unsearched(points)
    alike = points.groupby(["label", rest, "pick"])
    counts = alike["hp_candidates"]
    return counts.transform(is_mark)


def is_mark(counts: pd.Series[float]) -> pd.Series[bool]:
    """Which candidate counts are among their `marks`."""
    shown = marks(counts)
    return counts.isin(shown)


def _range(setting: str, low: int, high: int) -> str:
    """The setting of points that took the same networks, with their range of candidates."""
    if high <= low:
        return setting
    one = f"candidates {low}"
    several = f"{one}..{high}"
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
    of_seed = parent.reindex(done["seed"])
    paired = done[SCORES] - of_seed.to_numpy()
    paired.columns = ["difference_valid", "difference_test"]
    points = [done[name] for name in POINT]
    measured = paired.groupby(points)
    means = measured.mean()
    deviations = measured.std()
    deviations = deviations.add_suffix("_std")
    return means.join(deviations)


def fronts(
    summary: pd.DataFrame, cost: Cost = "flops_masked", within: str | None = None
) -> pd.Series[bool]:
    """Which operating points are non-dominated in (mean validation accuracy up, mean cost down).

    within: a column; a point then competes only with those of its value there ("arm": the front of
    each arm). Points that are not `eligible` neither belong nor dominate.
    """
    seen = selectable(summary)
    belongs = pd.Series(False, index=seen.index, dtype=bool)
    candidates = seen[eligible(seen)]
    for group in _groups(candidates, within):
        objectives = group[["accuracy_valid", cost]]
        points = objectives.to_numpy()
        belongs[group.index] = front(points, DIRECTIONS)
    return belongs


def _groups(frame: pd.DataFrame, within: str | None) -> list[pd.DataFrame]:
    """The lines of each value of a column; all together without one."""
    if within is not None:
        return [group for _, group in frame.groupby(within)]
    if frame.empty:
        return []
    return [frame]


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
    belongs = fronts(summary, cost, within)
    on_front = seen[belongs]
    on_front = on_front.sort_values(cost, kind="stable")
    knees = pd.Series(False, index=seen.index, dtype=bool)
    for group in _groups(on_front, within):
        distance = _distances(group, cost)
        if distance.max() > ROUNDING:
            farthest = distance.idxmax()
            knees |= knees.index == farthest
    return knees


def _distances(group: pd.DataFrame, cost: Cost) -> pd.Series[float]:
    """How far the points of a front, from the cheapest, lie beyond the line that joins its ends,
    times the root of 2; 0 for all if it has no two ends.
    """
    points = pd.DataFrame({"accuracy": group["accuracy_valid"]})
    points["cost"] = np.log(group[cost])
    first = points.iloc[0]
    last = points.iloc[-1]
    spans = last - first
    has_two_ends = (spans > 0).all()
    if not has_two_ends:
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
    without_checks = summary[~is_check(summary)]
    chosen = pd.Series(False, index=summary.index, dtype=bool)
    for points in (summary, without_checks):
        for cost in COSTS:
            belongs = fronts(points, cost)
            chosen |= belongs.reindex(summary.index, fill_value=False)
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    settings_on_front = summary.loc[chosen, ["arm", "hp"]]
    members = done.merge(settings_on_front)
    return set(members["member"])


def ordered(summary: pd.DataFrame, cost: Cost = "flops_masked") -> pd.DataFrame:
    """The summary with its front first, then the other points; in each part from the dearest to the
    cheapest.
    """
    seen = selectable(summary)
    natural = [re.sub(r"\d+", _padded, hp) for hp in seen["hp"]]  # 4 before 16
    other = ~fronts(summary, cost)
    seen = seen.assign(other=other, natural=natural)
    order = seen.sort_values(
        ["other", cost, "arm", "control", "natural"],
        ascending=[True, False, True, True, True],
    )
    return summary.loc[order.index]


def _padded(digits: re.Match[str]) -> str:
    return digits[0].zfill(18)
