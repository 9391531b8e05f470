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
FRONT = [*LABEL, "seed"]
"""What tells the fronts of a study apart."""
MEASURES = ("accuracy_valid", *front.COSTS, "flops_dense")
CORNERS = ["accuracy_high", "relative_low", "accuracy_low", "relative_high", "difference"]
Key = tuple[Any, ...]
Objectives = Sequence[str]
Points = NDArray[np.float64]


def points(last_rows: pd.DataFrame, cost: front.Cost = "flops_masked") -> pd.DataFrame:
    """One line for each label, seed and distinct network that is done and measured; of one network
    the cheapest to train.

    last_rows: as from `table.last`.  Columns: arm, control, seed, member, `CHARGES`,
    accuracy_valid, and `relative`, the cost as a share of the parent's, `flops_dense`.  Rows that
    are not `front.eligible` are left out.
    """
    rows = front.selectable(last_rows)
    is_done = rows["status"] == "done"
    rows = rows[is_done & front.eligible(rows)]
    relative = rows[cost] / rows["flops_dense"]
    rows = rows.assign(relative=relative, network=front.networks(rows))
    measured = rows.dropna(subset=list(OBJECTIVES))
    networks = _cheapest(measured).sort_index()
    columns = [*FRONT, "member", *CHARGES, *OBJECTIVES]
    return networks[columns].reset_index(drop=True)


def _cheapest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows from the cheapest to train on, one for each `network` of a front."""
    ordered = rows.sort_values("train_flops", kind="stable")
    return ordered.drop_duplicates([*FRONT, "network"])


def read(folder: Where, cost: front.Cost = "flops_masked") -> pd.DataFrame:
    """The front of each label and seed of a study of any size: arm, control, seed, accuracy_valid,
    relative.

    Goes through the files once, reads seven columns of the rows that are done, and keeps what
    nothing dominates, since the front of all is the front of fronts: memory does not grow with the
    rows. What is computed from `points` comes out the same from this, but for numbers of points.
    Raises Mistake as `table.read` does.
    """
    fronts = _Fronts()
    columns = [*FRONT, *MEASURES]
    for rows in table.scan(folder, columns, "done", BATCH):
        fronts.add(rows, cost)
    return fronts.frame()


class _Fronts:
    """The front of each label and seed, of the rows so far.

    bounds: (fronts, BINS), the accuracy that a network of a bin must exceed to be on the front.
    """

    def __init__(self) -> None:
        self.points: dict[Key, Points] = {}
        self.places: dict[Key, int] = {}
        self.bounds = np.empty((0, BINS))

    def add(self, rows: pa.Table, cost: front.Cost) -> None:
        """Go through more rows."""
        values = _measured(rows, cost)
        number, keys = _numbered(rows, FRONT)
        places = self._places(keys)
        place = places[number]
        # Most are no better than a cheaper one that is known, and need not be sorted; NaN is not
        # larger either.
        bound = self.bounds[place, _bin(values[:, 1])]
        candidates = np.flatnonzero(values[:, 0] > bound)
        for i in np.unique(number[candidates]):
            own = candidates[number[candidates] == i]
            self._join(keys[i], values[own])

    def _places(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """The place of each key's front, new ones included."""
        for key in keys:
            place = len(self.places)
            self.places.setdefault(key, place)
        new = len(self.places) - len(self.bounds)
        unbounded = np.full((new, BINS), -np.inf)
        self.bounds = np.concatenate([self.bounds, unbounded])
        return np.array([self.places[key] for key in keys])

    def _join(self, key: Key, more: Points) -> None:
        known = self.points.get(key, np.empty((0, 2)))
        joined = _joined(known, more)
        self.points[key] = joined
        self.bounds[self.places[key]] = _bound(joined)

    def frame(self) -> pd.DataFrame:
        """The fronts, in the order of their labels and seeds."""
        lines: list[list[Any]] = []
        for key in sorted(self.points):
            lines += [[*key, *point] for point in self.points[key]]
        return pd.DataFrame(lines, columns=[*FRONT, *OBJECTIVES])


def _measured(rows: pa.Table, cost: front.Cost) -> Points:
    """(rows, 2): the objectives of each row, NaN for what cannot be on a front."""
    columns = {name: rows[name].to_numpy() for name in MEASURES}
    measured = pd.DataFrame(columns)
    measured = measured.where(front.eligible(measured))
    relative = measured[cost] / measured["flops_dense"]
    return np.column_stack([measured["accuracy_valid"], relative])


def _numbered(rows: pa.Table, names: list[str]) -> tuple[NDArray[np.int64], list[Key]]:
    """Which of the distinct values of some columns each row has, and these values."""
    number = np.zeros(rows.num_rows, dtype=np.int64)
    keys: list[Key] = [()]
    for name in names:
        column = rows[name].dictionary_encode()
        column = column.combine_chunks()
        values = column.dictionary.to_pylist()
        number *= len(values)
        number += column.indices.to_numpy()
        keys = [(*key, value) for key in keys for value in values]
    return number, keys


def _bin(relative: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of costs: 64 for each factor of 2, the first for all that cost less, the last for all
    that cost more.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.log2(relative) * 64 + BINS - 128
        known = np.nan_to_num(places, nan=0)
        known = known.clip(0, BINS - 1)
        return known.astype(np.int64)


def _bound(known: Points) -> NDArray[np.float64]:
    """For each bin the accuracy of the best of the points whose bin is a cheaper one.  known: a
    front, from the cheapest.
    """
    accuracies, costs = known.T
    best = np.full(BINS + 1, -np.inf)
    following = _bin(costs) + 1
    np.maximum.at(best, following, accuracies)
    best = np.maximum.accumulate(best)
    return best[:BINS]


def _joined(known: Points, more: Points) -> Points:
    """The front of a front, from the cheapest, and more points; what the front already holds is
    looked up, not sorted.
    """
    accuracies, costs = known.T
    reached = np.concatenate([[-np.inf], accuracies])
    place = np.searchsorted(costs, more[:, 1], side="right")
    better = more[:, 0] > reached[place]
    both = np.concatenate([known, more[better]])
    belongs = front.front(both, front.DIRECTIONS)
    both = both[belongs]
    order = np.argsort(both[:, 1], kind="stable")
    return both[order]


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
        rule = "latencies are shares of the dense parent's, which was not measured"
        raise Mistake(f"{rule}; `prunefront run --latency` does")
    by_member = known.drop_duplicates("member").set_index("member")
    shares = by_member["milliseconds"] / parent.iloc[0]
    shares = shares.reindex(found["member"]).to_numpy(float)
    return found.assign(latency=shares).dropna(subset="latency", ignore_index=True)


def _maximize(objectives: Objectives) -> list[bool]:
    return [name.startswith("accuracy") for name in objectives]


def _losses(found: pd.DataFrame, objectives: Objectives) -> Points:
    """The points with every objective to be minimized."""
    values = found[list(objectives)].to_numpy(float)
    return values * _signs(objectives)


def _signs(objectives: Objectives) -> Points:
    """What turns objectives into losses, and losses into objectives."""
    return np.where(_maximize(objectives), -1.0, 1.0)


def _volume(found: pd.DataFrame, objectives: Objectives) -> float:
    values = found[list(objectives)]
    reference = [WORST[name] for name in objectives]
    return front.hypervolume(values, reference, _maximize(objectives))


def averaged(lines: pd.DataFrame, by: list[str], name: str) -> pd.DataFrame:
    """For each `by` the mean of a column over its lines, one a seed: `seeds`, `name`, and with
    `_std`, `_low`, `_high`.
    """
    keys: list[Any] = []
    values: list[pd.Series[float]] = []
    for key, group in lines.groupby(by):
        keys.append(key)
        values.append(group[name])
    tests = paired.paired_groups(values)
    labels = pd.DataFrame(keys, columns=by)
    means = paired.columns(tests, name).drop(columns=f"{name}_p")
    means.insert(0, "seeds", means.pop(f"{name}_n"))
    return labels.join(means)


# ---- attainment surfaces


def surfaces(
    found: pd.DataFrame, objectives: Objectives = OBJECTIVES
) -> tuple[pd.DataFrame, dict[tuple[str, bool], str]]:
    """What a share of the seeds attains, for each label; and, for labels without surfaces, why.

    found: as from `points`, `read` or `timed`.  Columns: arm, control, seeds, `percent` (of
    `PERCENT`) and the objectives: the corners of the surface, from the cheapest. At least percent /
    100 of the seeds have a network that is as good or better in every objective (Grunert da
    Fonseca, Fonseca & Hall 2001). objectives: two or three, any columns.
    """
    columns = [*LABEL, "seeds", "percent", *objectives]
    parts: list[pd.DataFrame] = []
    refused: dict[tuple[str, bool], str] = {}
    for (arm, control), group in found.groupby(LABEL):  # type: ignore[misc]
        group = group.dropna(subset=list(objectives))
        seeds = group["seed"].nunique()
        if seeds < FEWEST:
            rule = f"bands say how seeds differ, and need at least {FEWEST} of them"
            refused[str(arm), bool(control)] = f"{rule}; got {seeds}"
            continue
        corners = _corners(group, objectives)
        corners = corners.assign(arm=str(arm), control=bool(control), seeds=seeds)
        parts.append(corners[columns].astype({"percent": int}))
    if not parts:
        return pd.DataFrame(columns=columns), refused
    return pd.concat(parts, ignore_index=True), refused


def _corners(group: pd.DataFrame, objectives: Objectives) -> pd.DataFrame:
    """The corners of the surfaces of one label: `percent` and the objectives, from the cheapest."""
    group = group.sort_values("seed")  # moocore 0.3.2 mixes sets that are not contiguous
    losses = _losses(group, objectives)
    sets = group["seed"].rank(method="dense")
    corners = moocore.eaf(losses, sets, percentiles=list(PERCENT))
    lines = pd.DataFrame(corners, columns=[*objectives, "percent"])
    lines[list(objectives)] *= _signs(objectives)
    return lines.sort_values(["percent", objectives[1], objectives[0]])


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
        rule = f"surfaces are compared over at least {FEWEST} seeds that both have"
        raise Mistake(f"{rule}; got {len(seeds)}")
    rectangles = _rectangles(_sets(one, seeds), _sets(other, seeds))
    rectangles *= [-1, 1, -1, 1, 1 / len(seeds)]
    lines = pd.DataFrame(rectangles, columns=CORNERS)
    differs = lines["difference"] != 0
    return lines[differs].reset_index(drop=True)


def _sets(side: pd.DataFrame, seeds: Sequence[int]) -> Points:
    """(points, 3): losses, and the number of the seed, of the points of some seeds."""
    shared = side["seed"].isin(seeds)
    side = side[shared]
    losses = _losses(side, OBJECTIVES)
    number = side["seed"].rank(method="dense")
    return np.column_stack([losses, number])


def _rectangles(one: Points, other: Points) -> Points:
    """(rectangles, 5): two corners, and by how many more sets of `one` attain what is between."""
    if np.array_equal(_attained(one), _attained(other)):
        return np.empty((0, 5))  # where there is no rectangle, moocore 0.3.2 fails
    return moocore.eafdiff(one, other, rectangles=True)


def _attained(side: Points) -> Points:
    order = np.argsort(side[:, 2])
    losses = side[order, :2]
    sets = np.sort(side[:, 2])
    return moocore.eaf(losses, sets)


# ---- indicators


def volumes(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> pd.DataFrame:
    """Hypervolume of each label and seed up to `WORST`: arm, control, seed, points, hypervolume."""
    columns = [*FRONT, "points", "hypervolume"]
    lines: list[list[Any]] = []
    for key, group in found.groupby(FRONT):
        volume = _volume(group, objectives)
        lines.append([*key, len(group), volume])
    return pd.DataFrame(lines, columns=columns)


def together(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> tuple[int, float]:
    """Of all labels and seeds at once: how many networks none dominates, and their hypervolume up
    to `WORST`.
    """
    values = found[list(objectives)]
    maximize = _maximize(objectives)
    belongs = front.front(values, maximize)
    volume = _volume(found, objectives)
    return int(belongs.sum()), volume


def hypervolumes(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> pd.DataFrame:
    """Hypervolume of each label, one front per seed: all axes linear, the reference point `WORST`,
    1 is the most.

    Columns: as from `averaged`, and points_least and points_most, distinct networks of a seed.
    """
    lines = volumes(found, objectives)
    sizes = lines.groupby(LABEL)["points"].agg(points_least="min", points_most="max")
    means = averaged(lines, LABEL, "hypervolume")
    return means.merge(sizes.reset_index(), on=LABEL)


def contributions(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> pd.DataFrame:
    """What each label adds to the joint front of all, one such front per seed.

    Columns: as from `averaged`, `contribution` being the hypervolume that is lost when the label is
    left out; means of `own`, how many points of the joint front are its own (equal ones of two
    labels are of both), and of `joint`, how many it has. Seeds of which a label has no point do not
    count for it.
    """
    counted = ["own", "joint"]
    found = found.reset_index(drop=True)
    lines: list[list[Any]] = []
    for _, group in found.groupby("seed"):
        lines += _contributions(group, objectives)
    frame = pd.DataFrame(lines, columns=[*LABEL, "contribution", *counted])
    counts = frame.groupby(LABEL)[counted].mean()
    means = averaged(frame, LABEL, "contribution")
    return means.merge(counts.reset_index(), on=LABEL)


def _contributions(group: pd.DataFrame, objectives: Objectives) -> list[list[Any]]:
    """Of one seed: each label, what is lost without it, its points on the joint front, and all."""
    whole = _volume(group, objectives)
    belongs = front.front(group[list(objectives)], _maximize(objectives))
    joint = pd.Series(belongs, index=group.index)
    lines: list[list[Any]] = []
    for label, part in group.groupby(LABEL):
        rest = _volume(group.drop(part.index), objectives)
        lost = max(whole - rest, 0.0)  # below 0 by rounding
        own = joint[part.index].sum()
        lines.append([*label, lost, own, joint.sum()])
    return lines


def epsilons(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> pd.DataFrame:
    """Additive epsilon indicator of each label against each other one (Zitzler et al. 2003), over
    the seeds of both.

    Columns: as from `averaged`, by arm, control, against, against_control.  `epsilon`: what must be
    added to every objective of each of the arm's networks so that one of them is as good as any of
    the other's; at most 0 if that holds as it is. One unit is all of the accuracy and the whole
    cost of the parent.
    """
    names = [*LABEL, "against", "against_control"]
    lines: list[list[Any]] = []
    for _, group in found.groupby("seed"):
        sides: dict[Any, Points] = {}
        for label, part in group.groupby(LABEL):
            sides[label] = _losses(part, objectives)
        for one, other in permutations(sides, 2):
            epsilon = moocore.epsilon_additive(sides[one], ref=sides[other])
            lines.append([*one, *other, epsilon])
    frame = pd.DataFrame(lines, columns=[*names, "epsilon"])
    return averaged(frame, names, "epsilon")


# ---- equal total compute


def expected(
    losses: NDArray[np.float64], counts: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Expected hypervolume of k of the points, drawn at random without replacement, for each k of
    `counts`, or for k = 1 to n; exact.

    losses: (n, 2), (-accuracy, relative), NaN: a point that adds nothing.  Each area is weighted by
    the chance that it is dominated by one of the k: if j points dominate it, 1 - C(n - j, k) / C(n,
    k). For one objective this is the expected best of k (Tang et al. 2020).
    """
    if counts is None:
        counts = np.arange(1, len(losses) + 1)
    unmeasured = np.isnan(losses).any(axis=1, keepdims=True)
    losses = np.where(unmeasured, [0.0, 1.0], losses)
    order = np.argsort(losses[:, 1], kind="stable")
    losses = losses[order].clip(max=[0.0, 1.0])
    return _chances(counts, len(losses)) @ _areas(losses)


def _areas(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): the area that is dominated by more than j of the points, for j = 0 to n - 1.

    losses: (n, 2), from the cheapest, none beyond the reference point.
    """
    heights, costs = losses.T
    widths = np.diff(costs, append=1.0)
    areas = np.zeros(len(losses))
    ranked = np.empty(len(losses))  # the heights so far, sorted: sorting anew would be cubic
    for i, (height, width) in enumerate(zip(heights, widths, strict=True)):
        place = np.searchsorted(ranked[:i], height)
        ranked[place + 1 : i + 1] = ranked[place:i]
        ranked[place] = height
        if width:
            areas[: i + 1] -= ranked[: i + 1] * width
    return areas


def _chances(counts: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """(counts, n): the chance C(n - 1 - j, k - 1) / C(n, k) that the best of k points, drawn at
    random, is the one that j are better than.
    """
    k = counts[:, None]
    left = n - 1 - np.arange(n)
    rest = np.maximum(left - k + 2, 1)
    factorial = gammaln(k)
    ways = gammaln(left + 1) - factorial - gammaln(rest)
    factorial = gammaln(k + 1)
    all_ways = gammaln(n + 1) - factorial - gammaln(n - k + 1)
    chance = np.exp(ways - all_ways)
    possible = left >= k - 1
    return np.where(possible, chance, 0.0)


def compute(
    last_rows: pd.DataFrame, cost: front.Cost = "flops_masked", most: int | None = None
) -> pd.DataFrame:
    """Hypervolume reached after so much charged compute, one line for each label, seed and number
    of networks trained.

    Columns: arm, control, seed, networks, train_flops, seconds, hypervolume.  Rows tell no order of
    training, and any that was chosen afterwards would flatter, so all orders count alike: after k
    networks the mean over orders of the charges, k times the mean of one, and of the hypervolume
    (`expected`).  Charges are as in the rows: search and dense phase included, and what networks
    share charged to each.  Networks that were stopped or diverged are charged and add nothing,
    those of a search that several rows took are charged once, as the cheapest; rows without charges
    are left out.  most: of more numbers of networks, so many, evenly spread, the same for all seeds
    of a label.
    """
    rows = front.selectable(last_rows).dropna(subset=list(CHARGES))
    relative = (rows[cost] / rows["flops_dense"]).where(rows["status"] == "done")
    rows = _cheapest(rows.assign(network=front.networks(rows), relative=relative))
    columns = [*FRONT, "networks", *CHARGES, "hypervolume"]
    parts: list[pd.DataFrame] = []
    sizes = rows.groupby(FRONT).size()
    fewest = sizes.groupby(level=LABEL).min().to_dict()
    for key, group in rows.groupby(FRONT):
        label = pd.DataFrame([key], columns=FRONT)
        counts = _counts(fewest[key[:2]], len(group), most)
        curve = label.merge(_curve(group, counts), how="cross")
        parts.append(curve)
    if not parts:
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)


def _counts(least: int, networks: int, most: int | None) -> NDArray[np.int64]:
    """The numbers of networks of a curve. least: those of the seed that has the fewest."""
    if most is None or networks <= most:
        return np.arange(1, networks + 1)
    evenly = np.linspace(1, least, most)
    whole = evenly.round().astype(np.int64)
    return np.unique(whole)


def _curve(group: pd.DataFrame, number: NDArray[np.int64]) -> pd.DataFrame:
    """Of one label and seed, for each number of networks: charges and hypervolume."""
    curve = pd.DataFrame({"networks": number})
    for name in CHARGES:
        curve[name] = number * group[name].mean()
    curve["hypervolume"] = expected(_losses(group, OBJECTIVES), number)
    return curve


def spent(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the lines of `compute`, up to the number of networks that every seed of a
    label has.

    Columns: as from `averaged`, by arm, control, networks, with the mean `CHARGES`.
    """
    by = [*LABEL, "networks"]
    of_label = curves.groupby(LABEL)["seed"].transform("nunique")
    there = curves.groupby(by)["seed"].transform("nunique")
    curves = curves[there == of_label]
    charges = curves.groupby(by)[list(CHARGES)].mean().reset_index()
    return averaged(curves, by, "hypervolume").merge(charges, on=by)
