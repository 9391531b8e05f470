"""What the fronts of several seeds say together: attainment surfaces, hypervolumes, shares of the
joint front, and compute.

A label is (arm, control): an arm, or those of its points that are controls. One front for each
label and seed; numbers are means over seeds with 95 % t intervals (`paired.paired`). Objectives go
by their names: `accuracy_*` is maximized, all else minimized. Validation data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import moocore
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import gammaln

from ..points import front
from ..rows import table
from ..rows.mistake import Mistake
from ..rows.storage import Where
from . import latency, paired

LABEL = ["arm", "control"]
OBJECTIVES = ("accuracy_valid", "relative")
TIMED = (*OBJECTIVES, "latency")
WORST = {**dict(zip(OBJECTIVES, front.REFERENCE, strict=True)), "latency": 1.0}
"""The reference point of hypervolumes: `front.REFERENCE`, and the parent's milliseconds."""
PERCENT = (25, 50, 75)
FEWEST = 2
"""Seeds that an attainment surface needs."""
BINS = 1024
"""Bins of costs, below which what cannot be on a front is told without sorting."""
BATCH = 1 << 17
"""Rows that are grouped at a time."""
CHARGES = ("train_flops", "seconds")


def points(last_rows: pd.DataFrame, cost: front.Cost = "flops_masked") -> pd.DataFrame:
    """One line for each label, seed and distinct network that is done and measured; of one network
    the cheapest to train.

    last_rows: as from `table.last`.  Columns: arm, control, seed, member, `CHARGES`,
    accuracy_valid, and `relative`, the cost as a share of the parent's, `flops_dense`.  Rows that
    are not `front.eligible` are left out.
    """
    seen = front.selectable(last_rows)
    seen = seen[(seen["status"] == "done") & front.eligible(seen)].assign(
        relative=lambda rows: rows[cost] / rows["flops_dense"]
    )
    seen = seen.assign(network=front.networks(seen)).dropna(subset=list(OBJECTIVES))
    seen = (
        seen.sort_values("train_flops", kind="stable")
        .drop_duplicates([*LABEL, "seed", "network"])
        .sort_index()
    )
    return seen[[*LABEL, "seed", "member", *CHARGES, *OBJECTIVES]].reset_index(drop=True)


def read(folder: Where, cost: front.Cost = "flops_masked") -> pd.DataFrame:
    """The front of each label and seed of a study of any size: arm, control, seed, accuracy_valid,
    relative.

    Goes through the files once, reads seven columns of the rows that are done, and keeps what
    nothing dominates, since the front of all is the front of fronts: memory does not grow with the
    rows. What is computed from `points` comes out the same from this, but for numbers of points.
    Raises Mistake as `table.read` does.
    """
    names, kept = [*LABEL, "seed"], dict[tuple[Any, ...], NDArray[np.float64]]()
    places, bounds = dict[tuple[Any, ...], int](), np.empty((0, BINS))
    measures = ["accuracy_valid", *front.COSTS, "flops_dense"]
    for rows in table.scan(folder, [*names, *measures], "done", BATCH):
        measured = pd.DataFrame({name: rows[name].to_numpy() for name in measures})
        measured = measured.where(front.eligible(measured))  # NaN is on no front
        values = np.column_stack(
            [measured["accuracy_valid"], measured[cost] / measured["flops_dense"]]
        )
        number, keys = _numbered(rows, names)
        for key in (key for key in keys if key not in places):
            places[key] = len(places)
        bounds = np.concatenate([bounds, np.full((len(places) - len(bounds), BINS), -np.inf)])
        place = np.array([places[key] for key in keys])[number]
        # Most are no better than a cheaper one that is known, and need not be sorted; NaN is not
        # larger either.
        left = np.flatnonzero(values[:, 0] > bounds[place, _bin(values[:, 1])])
        for key in {keys[i] for i in np.unique(number[left])}:
            own = values[left[place[left] == places[key]]]
            kept[key] = _joined(kept.get(key, np.empty((0, 2))), own)
            bounds[places[key]] = _bound(kept[key])
    lines = [[*key, *point] for key in sorted(kept) for point in kept[key]]
    return pd.DataFrame(lines, columns=[*names, *OBJECTIVES])


def _numbered(rows: pa.Table, names: list[str]) -> tuple[NDArray[np.int64], list[tuple[Any, ...]]]:
    """Which of the distinct values of some columns each row has, and these values."""
    number, keys = np.zeros(rows.num_rows, dtype=np.int64), list[tuple[Any, ...]]([()])
    for name in names:
        column = rows[name].dictionary_encode().combine_chunks()
        values = column.dictionary.to_pylist()
        number = number * len(values) + column.indices.to_numpy()
        keys = [(*key, value) for key in keys for value in values]
    return number, keys


def _bin(relative: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of costs: 64 for each factor of 2, the first for all that cost less, the last for all
    that cost more.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            np.nan_to_num(np.log2(relative) * 64 + BINS - 128, nan=0)
            .clip(0, BINS - 1)
            .astype(np.int64)
        )


def _bound(known: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each bin the accuracy of the best of the points whose bin is a cheaper one.  known: a
    front, from the cheapest.
    """
    best = np.full(BINS + 1, -np.inf)
    np.maximum.at(best, _bin(known[:, 1]) + 1, known[:, 0])
    return np.maximum.accumulate(best)[:BINS]


def _joined(known: NDArray[np.float64], more: NDArray[np.float64]) -> NDArray[np.float64]:
    """The front of a front, from the cheapest, and more points; what the front already holds is
    looked up, not sorted.
    """
    best = np.concatenate([[-np.inf], known[:, 0]])[
        np.searchsorted(known[:, 1], more[:, 1], side="right")
    ]
    both = np.concatenate([known, more[more[:, 0] > best]])
    both = both[front.front(both, front.DIRECTIONS)]
    return both[np.argsort(both[:, 1], kind="stable")]


def timed(found: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """The points that were timed, with `latency`: milliseconds as a share of the parent's in the
    same place, mode and batch.

    found: as from `points`.  measured: lines of `latency.read` of one of `latency.GROUP`.  Raises
    Mistake if they are of several, or if the parent was not timed.
    """
    if len(measured[latency.GROUP].drop_duplicates()) > 1:
        raise Mistake(f"latencies are compared within one {', '.join(latency.GROUP)}; got several")
    known = measured[measured["milliseconds"].notna()]
    parent = known.loc[known["parent"].astype(bool), "milliseconds"]
    if parent.empty:
        raise Mistake(
            "latencies are shares of the dense parent's, which was not measured; `prunefront run --latency` does"
        )
    times = known.drop_duplicates("member").set_index("member")["milliseconds"] / parent.iloc[0]
    return found.assign(latency=times.reindex(found["member"]).to_numpy(float)).dropna(
        subset="latency", ignore_index=True
    )


def _maximize(objectives: Sequence[str]) -> list[bool]:
    return [name.startswith("accuracy") for name in objectives]


def _losses(found: pd.DataFrame, objectives: Sequence[str]) -> NDArray[np.float64]:
    """The points with every objective to be minimized."""
    return found[list(objectives)].to_numpy(float) * np.where(_maximize(objectives), -1, 1)


def _volume(found: pd.DataFrame, objectives: Sequence[str]) -> float:
    return front.hypervolume(
        found[list(objectives)], [WORST[name] for name in objectives], _maximize(objectives)
    )


def averaged(lines: pd.DataFrame, by: list[str], name: str) -> pd.DataFrame:
    """For each `by` the mean of a column over its lines, one a seed: `seeds`, `name`, and with
    `_std`, `_low`, `_high`.
    """
    means = []
    for key, group in lines.groupby(by):
        mean = paired.paired(group[name])
        spread = {f"{name}_std": mean.std, f"{name}_low": mean.low, f"{name}_high": mean.high}
        means.append(
            {**dict(zip(by, key, strict=True)), "seeds": mean.n, name: mean.mean, **spread}
        )
    return pd.DataFrame(
        means, columns=[*by, "seeds", name, f"{name}_std", f"{name}_low", f"{name}_high"]
    )


# ---- attainment surfaces


def surfaces(
    found: pd.DataFrame, objectives: Sequence[str] = OBJECTIVES
) -> tuple[pd.DataFrame, dict[tuple[str, bool], str]]:
    """What a share of the seeds attains, for each label; and, for labels without surfaces, why.

    found: as from `points`, `read` or `timed`.  Columns: arm, control, seeds, `percent` (of
    `PERCENT`) and the objectives: the corners of the surface, from the cheapest. At least percent /
    100 of the seeds have a network that is as good or better in every objective (Grunert da
    Fonseca, Fonseca & Hall 2001). objectives: two or three, any columns.
    """
    parts, refused = [], {}
    for (arm, control), group in found.groupby(LABEL):  # type: ignore[misc]
        label = str(arm), bool(control)
        group = group.dropna(subset=list(objectives)).sort_values(
            "seed"
        )  # moocore 0.3.2 mixes sets that are not contiguous
        seeds = group["seed"].nunique()
        if seeds < FEWEST:
            refused[label] = (
                f"bands say how seeds differ, and need at least {FEWEST} of them; got {seeds}"
            )
            continue
        corners = moocore.eaf(
            _losses(group, objectives),
            group["seed"].rank(method="dense"),
            percentiles=list(PERCENT),
        )
        lines = pd.DataFrame(corners, columns=[*objectives, "percent"])
        lines[list(objectives)] *= np.where(_maximize(objectives), -1, 1)
        lines = lines.assign(arm=label[0], control=label[1], seeds=seeds).sort_values(
            ["percent", objectives[1], objectives[0]]
        )
        parts.append(lines[[*LABEL, "seeds", "percent", *objectives]].astype({"percent": int}))
    empty = pd.DataFrame(columns=[*LABEL, "seeds", "percent", *objectives])
    return pd.concat(parts, ignore_index=True) if parts else empty, refused


def differences(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Where the seeds of one label attain more than those of another: rectangles that share no
    area.

    one, other: the points of a label each.  Columns: `accuracy_low`, `accuracy_high`,
    `relative_low`, `relative_high` (an infinity where it has no end), and `difference`, the share
    of seeds of `one` that attain the inside of the rectangle minus that of `other`, in [-1, 1];
    differences of 0 are left out.  Only seeds of both count, as the pairs are compared. Raises
    Mistake for fewer than `FEWEST` of them.
    """
    seeds = sorted(set(one["seed"]) & set(other["seed"]))
    if len(seeds) < FEWEST:
        raise Mistake(
            f"surfaces are compared over at least {FEWEST} seeds that both have; got {len(seeds)}"
        )
    sides = []
    for side in (one, other):
        side = side[side["seed"].isin(seeds)]
        sides.append(
            np.column_stack([_losses(side, OBJECTIVES), side["seed"].rank(method="dense")])
        )
    alike = [moocore.eaf(side[np.argsort(side[:, 2]), :2], np.sort(side[:, 2])) for side in sides]
    # moocore 0.3.2 fails where there is no rectangle
    found = (
        np.empty((0, 5))
        if np.array_equal(alike[0], alike[1])
        else moocore.eafdiff(*sides, rectangles=True)
    )
    names = ["accuracy_high", "relative_low", "accuracy_low", "relative_high", "difference"]
    lines = pd.DataFrame(found * [-1, 1, -1, 1, 1 / len(seeds)], columns=names)
    return lines[lines["difference"] != 0].reset_index(drop=True)


# ---- indicators


def volumes(found: pd.DataFrame, objectives: Sequence[str] = OBJECTIVES) -> pd.DataFrame:
    """Hypervolume of each label and seed up to `WORST`: arm, control, seed, points, hypervolume."""
    lines = [
        {
            **dict(zip([*LABEL, "seed"], key, strict=True)),
            "points": len(group),
            "hypervolume": _volume(group, objectives),
        }
        for key, group in found.groupby([*LABEL, "seed"])
    ]
    return pd.DataFrame(lines, columns=[*LABEL, "seed", "points", "hypervolume"])


def together(found: pd.DataFrame, objectives: Sequence[str] = OBJECTIVES) -> tuple[int, float]:
    """Of all labels and seeds at once: how many networks none dominates, and their hypervolume up
    to `WORST`.
    """
    belongs = front.front(found[list(objectives)], _maximize(objectives))
    return int(belongs.sum()), _volume(found, objectives)


def hypervolumes(found: pd.DataFrame, objectives: Sequence[str] = OBJECTIVES) -> pd.DataFrame:
    """Hypervolume of each label, one front per seed: all axes linear, the reference point `WORST`,
    1 is the most.

    Columns: as from `averaged`, and points_least and points_most, distinct networks of a seed.
    """
    lines = volumes(found, objectives)
    sizes = lines.groupby(LABEL)["points"].agg(points_least="min", points_most="max").reset_index()
    return averaged(lines, LABEL, "hypervolume").merge(sizes, on=LABEL)


def contributions(found: pd.DataFrame, objectives: Sequence[str] = OBJECTIVES) -> pd.DataFrame:
    """What each label adds to the joint front of all, one such front per seed.

    Columns: as from `averaged`, `contribution` being the hypervolume that is lost when the label is
    left out; means of `own`, how many points of the joint front are its own (equal ones of two
    labels are of both), and of `joint`, how many it has. Seeds of which a label has no point do not
    count for it.
    """
    lines = []
    for _, group in found.reset_index(drop=True).groupby("seed"):
        whole = _volume(group, objectives)
        belongs = pd.Series(
            front.front(group[list(objectives)], _maximize(objectives)), index=group.index
        )
        for (arm, control), part in group.groupby(LABEL):
            lost = max(whole - _volume(group.drop(part.index), objectives), 0.0)  # rounding
            own = {"own": belongs[part.index].sum(), "joint": belongs.sum()}
            lines.append({"arm": arm, "control": control, "contribution": lost, **own})
    frame = pd.DataFrame(lines, columns=[*LABEL, "contribution", "own", "joint"])
    return averaged(frame, LABEL, "contribution").merge(
        frame.groupby(LABEL)[["own", "joint"]].mean().reset_index(), on=LABEL
    )


def epsilons(found: pd.DataFrame, objectives: Sequence[str] = OBJECTIVES) -> pd.DataFrame:
    """Additive epsilon indicator of each label against each other one (Zitzler et al. 2003), over
    the seeds of both.

    Columns: as from `averaged`, by arm, control, against, against_control.  `epsilon`: what must be
    added to every objective of each of the arm's networks so that one of them is as good as any of
    the other's; at most 0 if that holds as it is. One unit is all of the accuracy and the whole
    cost of the parent.
    """
    lines, names = [], [*LABEL, "against", "against_control"]
    for _, group in found.groupby("seed"):
        sides = {label: _losses(part, objectives) for label, part in group.groupby(LABEL)}
        for one, other in permutations(sides, 2):
            epsilon = moocore.epsilon_additive(sides[one], ref=sides[other])
            lines.append({**dict(zip(names, [*one, *other], strict=True)), "epsilon": epsilon})
    return averaged(pd.DataFrame(lines, columns=[*names, "epsilon"]), names, "epsilon")


# ---- equal total compute


def expected(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected hypervolume of k of the points, drawn at random without replacement, for k = 1 to n;
    exact.

    losses: (n, 2), (-accuracy, relative), NaN: a point that adds nothing.  Each area is weighted by
    the chance that it is dominated by one of the k: if j points dominate it, 1 - C(n - j, k) / C(n,
    k). For one objective this is the expected best of k (Tang et al. 2020).
    """
    n = len(losses)
    losses = np.where(np.isnan(losses).any(axis=1, keepdims=True), [0.0, 1.0], losses)
    losses = losses[np.argsort(losses[:, 1], kind="stable")].clip(max=[0.0, 1.0])
    widths = np.diff(losses[:, 1], append=1.0)
    areas = np.zeros(n)  # areas[j]: dominated by more than j points
    for i in np.flatnonzero(widths):
        areas[: i + 1] -= np.sort(losses[: i + 1, 0]) * widths[i]
    k, j = np.arange(1, n + 1)[:, None], np.arange(n)
    left = np.maximum(n - 1 - j, 0)
    chance = gammaln(left + 1) - gammaln(k) - gammaln(np.maximum(left - k + 2, 1))  # C(left, k - 1)
    chance -= gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.where(left >= k - 1, np.exp(chance), 0.0) @ areas


def compute(last_rows: pd.DataFrame, cost: front.Cost = "flops_masked") -> pd.DataFrame:
    """Hypervolume reached after so much charged compute, one line for each label, seed and number
    of networks trained.

    Columns: arm, control, seed, networks, train_flops, seconds, hypervolume.  Rows tell no order of
    training, and any that was chosen afterwards would flatter, so all orders count alike: after k
    networks the mean over orders of the charges, k times the mean of one, and of the hypervolume
    (`expected`).  Charges are as in the rows: search and dense phase included, and what networks
    share charged to each.  Networks that were stopped or diverged are charged and add nothing,
    those of a search that several rows took are charged once, as the cheapest; rows without charges
    are left out.
    """
    seen = front.selectable(last_rows).dropna(subset=list(CHARGES))
    seen = seen.assign(network=front.networks(seen), relative=seen[cost] / seen["flops_dense"])
    seen.loc[seen["status"] != "done", "relative"] = np.nan
    seen = seen.sort_values("train_flops", kind="stable").drop_duplicates(
        [*LABEL, "seed", "network"]
    )
    parts = []
    for (arm, control, seed), group in seen.groupby([*LABEL, "seed"]):
        number = np.arange(1, len(group) + 1)
        charges = {name: number * group[name].mean() for name in CHARGES}
        reached = expected(_losses(group, OBJECTIVES))
        parts.append(
            pd.DataFrame(
                {
                    "arm": arm,
                    "control": control,
                    "seed": seed,
                    "networks": number,
                    **charges,
                    "hypervolume": reached,
                }
            )
        )
    names = [*LABEL, "seed", "networks", *CHARGES, "hypervolume"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)


def spent(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the lines of `compute`, up to the number of networks that every seed of a
    label has.

    Columns: as from `averaged`, by arm, control, networks, with the mean `CHARGES`.
    """
    by = [*LABEL, "networks"]
    whole = curves.groupby(LABEL)["seed"].transform("nunique")
    curves = curves[curves.groupby(by)["seed"].transform("nunique") == whole]
    return averaged(curves, by, "hypervolume").merge(
        curves.groupby(by)[list(CHARGES)].mean().reset_index(), on=by
    )
