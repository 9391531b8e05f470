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
        raise Mistake(
            f"`reference` has one number per objective; got {len(reference)}, should be {len(maximize)}"
        )
    signs = np.where(np.asarray(maximize, dtype=bool), 1.0, -1.0)
    values = values[(signs * values > signs * np.asarray(reference, dtype=float)).all(axis=1)]
    return (
        float(moocore.hypervolume(values, ref=list(reference), maximise=list(maximize)))
        if len(values)
        else 0.0
    )


def _values(points: ArrayLike, maximize: Sequence[bool]) -> NDArray[np.float64]:
    values = np.asarray(points, dtype=float)
    if values.size == 0:
        return np.empty((0, len(maximize)))
    if values.ndim != 2 or values.shape[1] != len(maximize):
        raise Mistake(
            f"`maximize` has one entry per objective; got {len(maximize)} for points of shape {values.shape}, "
            f"which should be (n, {len(maximize)})"
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
    return (frame[costs].astype(float) > 0).all(axis=1)


def eligible(frame: pd.DataFrame) -> pd.Series[bool]:
    """Which lines may be on a front: networks that have FLOPs left, of a validation accuracy that
    is a finite number.
    """
    scores = frame["accuracy_valid"].astype(float)
    return computes(frame) & scores.map(np.isfinite).astype(bool)


def left_out(last_rows: pd.DataFrame) -> list[str]:
    """How many members that are done are on no front, and why, in sentences; none if all may be.

    last_rows: as from `table.last`.
    """
    done = last_rows[last_rows["status"] == "done"]
    computing = computes(done)
    unknown = computing & ~eligible(done)
    said = []
    if count := int((~computing).sum()):
        said.append(
            f"{count} of {len(done)} networks have no FLOPs left, and are no points of a front."
        )
    if count := int(unknown.sum()):
        said.append(
            f"{count} of {len(done)} networks have a validation accuracy that is no finite number, and are not drawn."
        )
    return said


def unknown_operations(rows: pd.DataFrame) -> list[str]:
    """The operations without a FLOPs formula that the networks of these rows, or operating points,
    compute.
    """
    if "unknown_ops" not in rows:
        return []
    told = rows["unknown_ops"].dropna().unique()
    return sorted({name for names in told for name in str(names).split(",") if name})


def uncounted(operations: Sequence[str]) -> str:
    """What operations without a formula mean for figures, in a sentence; empty without any."""
    if not operations:
        return ""
    names = ", ".join(operations)
    return (
        f"FLOPs leave out what has no formula here: {names}. Every count of FLOPs is a lower bound (marked with ≥), and every "
        "speed-up and share of FLOPs is of what is counted alone (marked with ?)."
    )


def parents(done: pd.DataFrame) -> list[str]:
    """The arms that are the parent: controls, whole and as large as the task's model, of the
    largest `flops_dense`.

    Nothing was removed, and `flops_masked` is `flops_dense`: an arm may start from a wider or a
    narrower network.
    """
    large = (done["flops_masked"] == done["flops_dense"]) & (
        done["flops_dense"] == done["flops_dense"].max()
    )
    whole = large & (done["sparsity"] == 0) & done["control"].astype(bool)
    return sorted(done["arm"][whole.groupby(done["arm"]).transform("all")].unique())


def parent_scores(done: pd.DataFrame) -> pd.DataFrame:
    """The parent's accuracies and charges by seed; the mean of several parents, empty without one."""
    return done[done["arm"].isin(parents(done))].groupby("seed")[[*SCORES, *CHARGES]].mean()


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
        if last_rows[name].isna().any():
            raise Mistake(
                f"every row states its `{name}`; {last_rows[name].isna().sum()} rows do not"
            )
    done = last_rows[last_rows["status"] == "done"]
    status = last_rows.groupby([*POINT, "status"]).size().unstack(fill_value=0)
    measured = done.groupby(POINT)
    means = measured[[*SCORES, "sparsity", *COUNTS, *CHARGES]].mean()
    spread = measured[SPREAD].std().add_suffix("_std")
    summary = status.reindex(columns=list(table.FINAL), fill_value=0).join(
        [means, spread, _differences(done)]
    )
    if "unknown_ops" in done:
        summary["unknown_ops"] = _operations(done)
    summary["compression"] = summary["params_dense"] / summary["params_kept"]
    summary["speedup_masked"] = summary["flops_dense"] / summary["flops_masked"]
    summary["speedup_shrunk"] = summary["flops_dense"] / summary["flops_shrunk"]
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
    return ",".join(unknown_operations(pd.DataFrame({"unknown_ops": operations})))


def settings(rows: pd.DataFrame) -> pd.Series[str]:
    """For each row, in words, the hyper-parameters that differ within its arm; if none do, those
    that are no defaults.
    """
    rows = rows.assign(hp=rows["hp"].fillna("{}"))
    points = rows.drop_duplicates(["arm", "hp"])  # far fewer than rows
    chosen = points["hp"].map(json.loads)
    told: dict[Any, list[str]] = {}
    for arm, group in chosen.groupby(points["arm"]):
        names = sorted(set().union(*group))
        told[arm] = [n for n in names if len({json.dumps(hp.get(n)) for hp in group}) > 1] or names
    lines = {
        (row["arm"], row["hp"]): ", ".join(
            f"{name} {_word(hp.get(name, row.get(f'hp_{name}')))}"
            for name in told.get(row["arm"], [])
        )
        for hp, row in zip(chosen, points.to_dict("records"), strict=True)
    }
    words = [lines[key] or "defaults" for key in zip(rows["arm"], rows["hp"], strict=True)]
    return pd.Series(words, index=rows.index, dtype=object)


def unsearched(rows: pd.DataFrame) -> pd.Series[str]:
    """Each row's `hp` without the hyper-parameters of a search over candidates: what its networks
    are compared within.
    """
    rest = {
        hp: json.dumps({n: v for n, v in json.loads(hp).items() if n not in SEARCHED})
        for hp in rows["hp"].unique()
    }
    return rows["hp"].map(rest)


def varying(rows: pd.DataFrame) -> str | None:
    """The column `hp_<name>` of the one number in which settings of an arm differ; None if they
    differ in more, or in words.
    """
    names = [str(name) for name in rows if str(name).startswith("hp_")]
    differ = [name for name in names if (rows.groupby("arm")[name].nunique(dropna=False) > 1).any()]
    if len(differ) != 1:
        return None
    values = rows[differ[0]]
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return differ[0] if number and values.notna().all() else None


def evenly(frame: pd.DataFrame, most: int, always: int) -> pd.DataFrame:
    """At most `most` lines of a frame, evenly spread over its order; the one at position `always`
    is among them.
    """
    if len(frame) <= most:
        return frame
    return frame.iloc[
        sorted({*np.linspace(0, len(frame) - 1, most - 1).round().astype(int).tolist(), always})
    ]


def networks(rows: pd.DataFrame) -> pd.Series[str]:
    """Which network each row is of: its member's own, unless a search took it (`m_winner`: the
    candidate's number).

    Rows that took the same candidate, with the same seed and the same hyper-parameters but for
    `SEARCHED`, are of one network, trained once.
    """
    if "m_winner" not in rows:
        return rows["member"]
    taken = (
        rows["algorithm"]
        + "\t"
        + unsearched(rows)
        + "\t"
        + rows["seed"].astype(str)
        + "\t"
        + rows["m_winner"].astype(str)
    )
    return taken.where(rows["m_winner"].notna(), rows["member"])


def marks(counts: Iterable[float]) -> list[int]:
    """Of all candidate counts those that are shown: the first from each of 1, 4, 16, ... on, and
    the largest.
    """
    known = sorted({int(count) for count in counts})
    powers = [4**i for i in range(32) if known and 4**i <= known[-1]]
    return sorted(
        {next(count for count in known if count >= power) for power in powers} | set(known[-1:])
    )


def listed(summary: pd.DataFrame, last_rows: pd.DataFrame) -> pd.DataFrame:
    """The points that a page has room for: all, but of a search over candidates only some counts.

    Counts that took the same networks in every seed are one point, the one of the fewest
    candidates, with the range in its `setting`. Of these stay the ones with a count of `marks` and
    those on the front of their arm (control or not), by masked or by shrunk FLOPs.
    """
    done = last_rows[last_rows["status"] == "done"]
    if "hp_candidates" not in done or done["hp_candidates"].isna().all():
        return summary
    rows = done[["arm", "hp", "hp_candidates"]].assign(
        pick=done.get("hp_pick"), networks=networks(done)
    )
    behind = rows.groupby(["arm", "hp"]).agg(
        {"hp_candidates": "first", "pick": "first", "networks": lambda n: " ".join(sorted(n))}
    )
    seen = selectable(summary).join(behind, on=["arm", "hp"])
    seen["label"] = seen["arm"] + seen["control"].astype(str)
    seen["front"] = fronts(seen, "flops_masked", "label") | fronts(seen, "flops_shrunk", "label")
    seen = seen[seen["hp_candidates"].notna()].sort_values(["hp_candidates", "pick"], kind="stable")
    # One candidate is the best and the worst of itself.
    seen["pick"] = seen["pick"].where(seen["hp_candidates"] > 1, "").fillna("")
    alike = seen.groupby(["label", unsearched(seen), "pick"])["hp_candidates"]
    shown = seen["front"] | alike.transform(lambda counts: counts.isin(marks(counts)))
    told: dict[Any, str] = {}
    for _, group in seen.groupby(["label", "pick", "networks"], dropna=False):
        if shown[group.index].any():
            low, high = int(group["hp_candidates"].iloc[0]), int(group["hp_candidates"].iloc[-1])
            several = f"candidates {low}" + (f"..{high}" if high > low else "")
            told[group.index[0]] = group["setting"].iloc[0].replace(f"candidates {low}", several, 1)
    lines = summary.drop(index=[i for i in seen.index if i not in told])
    return lines.assign(
        setting=pd.Series(told, dtype=lines["setting"].dtype)
        .reindex(lines.index)
        .fillna(lines["setting"])
    )


def _word(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else f"{value:g}"
        if isinstance(value, float)
        else json.dumps(value)
    )


def _differences(done: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread, over seeds, of accuracy minus the parent's of the same seed."""
    paired = done[SCORES] - parent_scores(done)[SCORES].reindex(done["seed"]).to_numpy()
    paired.columns = ["difference_valid", "difference_test"]
    measured = paired.groupby([done[name] for name in POINT])
    return measured.mean().join(measured.std().add_suffix("_std"))


def fronts(
    summary: pd.DataFrame, cost: Cost = "flops_masked", within: str | None = None
) -> pd.Series[bool]:
    """Which operating points are non-dominated in (mean validation accuracy up, mean cost down).

    within: a column; a point then competes only with those of its value there ("arm": the front of
    each arm). Points that are not `eligible` neither belong nor dominate.
    """
    seen = selectable(summary)
    belongs = pd.Series(False, index=seen.index, dtype=bool)
    seen = seen[eligible(seen)]
    for _, group in seen.groupby(np.zeros(len(seen)) if within is None else within):
        belongs[group.index] = front(group[["accuracy_valid", cost]].to_numpy(), DIRECTIONS)
    return belongs


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
    found = pd.Series(False, index=seen.index, dtype=bool)
    there = seen[fronts(summary, cost, within)].sort_values(cost, kind="stable")
    for _, group in there.groupby(np.zeros(len(there)) if within is None else within):
        ends = pd.DataFrame({"accuracy": group["accuracy_valid"], "cost": np.log(group[cost])})
        spans = ends.iloc[-1] - ends.iloc[0]
        if (spans > 0).all():
            beyond = (ends - ends.iloc[0]) / spans
            distance = beyond["accuracy"] - beyond["cost"]  # times a half's root
            if distance.max() > ROUNDING:
                found[found.index.isin([distance.idxmax()])] = True
    return found


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
            chosen |= fronts(points, cost).reindex(summary.index, fill_value=False)
    done = last_rows[last_rows["status"] == "done"]
    return set(done.merge(summary.loc[chosen, ["arm", "hp"]])["member"])


def ordered(summary: pd.DataFrame, cost: Cost = "flops_masked") -> pd.DataFrame:
    """The summary with its front first, then the other points; in each part from the dearest to the
    cheapest.
    """
    natural = [
        re.sub(r"\d+", lambda digits: digits[0].zfill(18), hp) for hp in summary["hp"]
    ]  # 4 before 16
    seen = selectable(summary).assign(other=~fronts(summary, cost), natural=natural)
    ascending = [True, False, True, True, True]
    return summary.loc[
        seen.sort_values(["other", cost, "arm", "control", "natural"], ascending=ascending).index
    ]
