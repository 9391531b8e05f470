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
Values = NDArray[np.float64]
Numbers = NDArray[np.int64]
Points = Values


def points(last_rows: pd.DataFrame, cost: front.Cost = "flops_masked") -> pd.DataFrame:
    """One line for each label, seed and distinct network that is done and measured; of one network
    the cheapest to train.

    last_rows: as from `table.last`.  Columns: arm, control, seed, member, `CHARGES`,
    accuracy_valid, and `relative`, the cost as a share of the parent's, `flops_dense`.  Rows that
    are not `front.eligible` are left out.
    """
    rows = front.selectable(last_rows)
    is_done = rows["status"] == "done"
    is_point = is_done & front.eligible(rows)
    rows = rows[is_point]
    relative = rows[cost] / rows["flops_dense"]
    network = front.networks(rows)
    rows = rows.assign(relative=relative, network=network)
    measured = rows.dropna(subset=list(OBJECTIVES))
    networks = _cheapest(measured)
    networks = networks.sort_index()
    columns = [*FRONT, "member", *CHARGES, *OBJECTIVES]
    lines = networks[columns]
    return lines.reset_index(drop=True)


def _cheapest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows from the cheapest to train on, one for each `network` of a front."""
    ordered = rows.sort_values("train_flops", kind="stable")
    return ordered.drop_duplicates([*FRONT, "network"])


def fronts_by_seed(folder: Where, cost: front.Cost = "flops_masked") -> pd.DataFrame:
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
        accuracies, costs = values.T
        # Most are no better than a cheaper one that is known, and need not be sorted; NaN is not
        # larger either.
        bound = self.bounds[place, _bin(costs)]
        candidates = np.flatnonzero(accuracies > bound)
        fronts = number[candidates]
        for i in np.unique(fronts):
            own = candidates[fronts == i]
            self._join(keys[i], values[own])

    def _places(self, keys: Sequence[Key]) -> Numbers:
        """The place of each key's front, new ones included."""
        for key in keys:
            place = len(self.places)
            self.places.setdefault(key, place)
        known = len(self.bounds)
        new = len(self.places) - known
        unbounded = np.full((new, BINS), -np.inf)
        self.bounds = np.concatenate([self.bounds, unbounded])
        places = [self.places[key] for key in keys]
        return np.array(places)

    def _join(self, key: Key, more: Points) -> None:
        nothing = np.empty((0, 2))
        known = self.points.get(key, nothing)
        joined = _joined(known, more)
        self.points[key] = joined
        place = self.places[key]
        self.bounds[place] = _bound(joined)

    def frame(self) -> pd.DataFrame:
        """The fronts, in the order of their labels and seeds."""
        lines: list[list[Any]] = []
        for key in sorted(self.points):
            for point in self.points[key]:
                lines.append([*key, *point])
        columns = [*FRONT, *OBJECTIVES]
        return pd.DataFrame(lines, columns=columns)


def _measured(rows: pa.Table, cost: front.Cost) -> Points:
    """(rows, 2): the objectives of each row, NaN for what cannot be on a front."""
    columns = {name: rows[name].to_numpy() for name in MEASURES}
    measured = pd.DataFrame(columns)
    eligible = front.eligible(measured)
    measured = measured.where(eligible)
    accuracy = measured["accuracy_valid"]
    relative = measured[cost] / measured["flops_dense"]
    return np.column_stack([accuracy, relative])


def _numbered(rows: pa.Table, names: list[str]) -> tuple[Numbers, list[Key]]:
    """Which of the distinct values of some columns each row has, and these values."""
    number = np.zeros(rows.num_rows, dtype=np.int64)
    keys: list[Key] = [()]
    for name in names:
        column = rows[name].dictionary_encode()
        column = column.combine_chunks()
        values = column.dictionary.to_pylist()
        number *= len(values)
        number += column.indices.to_numpy()
        longer: list[Key] = []
        for key in keys:
            for value in values:
                longer.append((*key, value))
        keys = longer
    return number, keys


def _bin(relative: Values) -> Numbers:
    """The bin of costs: 64 for each factor of 2, the first for all that cost less, the last for all
    that cost more.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        exponents = np.log2(relative)
        places = exponents * 64 + BINS - 128
        known = np.nan_to_num(places, nan=0)
        known = known.clip(0, BINS - 1)
        return known.astype(np.int64)


def _bound(known: Points) -> Values:
    """For each bin the accuracy of the best of the points whose bin is a cheaper one.  known: a
    front, from the cheapest.
    """
    accuracies, costs = known.T
    best = np.full(BINS + 1, -np.inf)
    bins = _bin(costs)
    following = bins + 1
    np.maximum.at(best, following, accuracies)
    best = np.maximum.accumulate(best)
    return best[:BINS]


def _joined(known: Points, more: Points) -> Points:
    """The front of a front, from the cheapest, and more points; what the front already holds is
    looked up, not sorted.
    """
    accuracies, costs = known.T
    reached = np.concatenate([[-np.inf], accuracies])
    new_accuracies, new_costs = more.T
    place = np.searchsorted(costs, new_costs, side="right")
    better = new_accuracies > reached[place]
    both = np.concatenate([known, more[better]])
    belongs = front.front(both, front.DIRECTIONS)
    both = both[belongs]
    _, costs = both.T
    order = np.argsort(costs, kind="stable")
    return both[order]


def timed(found: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """The points that were timed, with `latency`: milliseconds as a share of the parent's in the
    same place, mode and batch.

    found: as from `points`.  measured: lines of `latency.timings` of one of `latency.GROUP`.
    Raises Mistake if they are of several, or if the parent was not timed.
    """
    groups = measured[latency.GROUP].drop_duplicates()
    if len(groups) > 1:
        names = ", ".join(latency.GROUP)
        raise Mistake(f"latencies are compared within one {names}; got several")
    was_timed = measured["milliseconds"].notna()
    known = measured[was_timed]
    is_parent = known["parent"].astype(bool)
    parent = known.loc[is_parent, "milliseconds"]
    if parent.empty:
        rule = "latencies are shares of the dense parent's, which was not measured"
        raise Mistake(f"{rule}; `prunefront run --latency` does")
    distinct = known.drop_duplicates("member")
    by_member = distinct.set_index("member")
    shares = by_member["milliseconds"] / parent.iloc[0]
    shares = shares.reindex(found["member"])
    points = found.assign(latency=shares.to_numpy(float))
    return points.dropna(subset="latency", ignore_index=True)


def _maximize(objectives: Objectives) -> list[bool]:
    return [name.startswith("accuracy") for name in objectives]


def _losses(found: pd.DataFrame, objectives: Objectives) -> Points:
    """The points with every objective to be minimized."""
    names = list(objectives)
    values = found[names].to_numpy(float)
    return values * _signs(objectives)


def _signs(objectives: Objectives) -> Points:
    """What turns objectives into losses, and losses into objectives."""
    maximize = _maximize(objectives)
    return np.where(maximize, -1.0, 1.0)


def _volume(found: pd.DataFrame, objectives: Objectives) -> float:
    names = list(objectives)
    values = found[names]
    reference = [WORST[name] for name in objectives]
    maximize = _maximize(objectives)
    return front.hypervolume(values, reference, maximize)


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
    means = paired.columns(tests, name)
    means = means.drop(columns=f"{name}_p")
    seeds = means.pop(f"{name}_n")
    means.insert(0, "seeds", seeds)
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
    names = list(objectives)
    parts: list[pd.DataFrame] = []
    refused: dict[tuple[str, bool], str] = {}
    for (arm, control), group in found.groupby(LABEL):  # type: ignore[misc]
        label = (str(arm), bool(control))
        group = group.dropna(subset=names)
        seeds = group["seed"].nunique()
        if seeds < FEWEST:
            rule = f"bands say how seeds differ, and need at least {FEWEST} of them"
            refused[label] = f"{rule}; got {seeds}"
            continue
        corners = _corners(group, objectives)
        corners = corners.assign(arm=label[0], control=label[1], seeds=seeds)
        corners = corners[columns]
        parts.append(corners.astype({"percent": int}))
    if not parts:
        return pd.DataFrame(columns=columns), refused
    lines = pd.concat(parts, ignore_index=True)
    return lines, refused


def _corners(group: pd.DataFrame, objectives: Objectives) -> pd.DataFrame:
    """The corners of the surfaces of one label: `percent` and the objectives, from the cheapest."""
    group = group.sort_values("seed")  # moocore 0.3.2 mixes sets that are not contiguous
    losses = _losses(group, objectives)
    sets = group["seed"].rank(method="dense")
    percentiles = list(PERCENT)
    corners = moocore.eaf(losses, sets, percentiles=percentiles)
    names = list(objectives)
    lines = pd.DataFrame(corners, columns=[*names, "percent"])
    lines[names] *= _signs(objectives)
    accuracy, cost, *_ = objectives
    return lines.sort_values(["percent", cost, accuracy])


def differences(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Where the seeds of one label attain more than those of another: rectangles that share no
    area.

    one, other: the points of a label each.  Columns: `accuracy_low`, `accuracy_high`,
    `relative_low`, `relative_high` (an infinity where it has no end), and `difference`, the share
    of seeds of `one` that attain the inside of the rectangle minus that of `other`, in [-1, 1];
    differences of 0 are left out.  Only seeds of both count, as the pairs are compared. Raises
    Mistake for fewer than `FEWEST` of them.
    """
    own_seeds = set(one["seed"])
    other_seeds = set(other["seed"])
    seeds = sorted(own_seeds & other_seeds)
    count = len(seeds)
    if count < FEWEST:
        rule = f"surfaces are compared over at least {FEWEST} seeds that both have"
        raise Mistake(f"{rule}; got {count}")
    own = _sets(one, seeds)
    others = _sets(other, seeds)
    rectangles = _rectangles(own, others)
    rectangles *= [-1, 1, -1, 1, 1 / count]
    lines = pd.DataFrame(rectangles, columns=CORNERS)
    differs = lines["difference"] != 0
    lines = lines[differs]
    return lines.reset_index(drop=True)


def _sets(side: pd.DataFrame, seeds: Sequence[int]) -> Points:
    """(points, 3): losses, and the number of the seed, of the points of some seeds."""
    shared = side["seed"].isin(seeds)
    side = side[shared]
    losses = _losses(side, OBJECTIVES)
    number = side["seed"].rank(method="dense")
    return np.column_stack([losses, number])


def _rectangles(one: Points, other: Points) -> Points:
    """(rectangles, 5): two corners, and by how many more sets of `one` attain what is between."""
    attained = _attained(one)
    if np.array_equal(attained, _attained(other)):
        return np.empty((0, 5))  # where there is no rectangle, moocore 0.3.2 fails
    return moocore.eafdiff(one, other, rectangles=True)


def _attained(side: Points) -> Points:
    number = side[:, 2]
    order = np.argsort(number)
    losses = side[order, :2]
    sets = np.sort(number)
    return moocore.eaf(losses, sets)


# ---- indicators


def volumes(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> pd.DataFrame:
    """Hypervolume of each label and seed up to `WORST`: arm, control, seed, points, hypervolume."""
    lines: list[list[Any]] = []
    for key, group in found.groupby(FRONT):
        points = len(group)
        volume = _volume(group, objectives)
        lines.append([*key, points, volume])
    columns = [*FRONT, "points", "hypervolume"]
    return pd.DataFrame(lines, columns=columns)


def together(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> tuple[int, float]:
    """Of all labels and seeds at once: how many networks none dominates, and their hypervolume up
    to `WORST`.
    """
    names = list(objectives)
    values = found[names]
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
    by_label = lines.groupby(LABEL)
    sizes = by_label["points"].agg(points_least="min", points_most="max")
    sizes = sizes.reset_index()
    means = averaged(lines, LABEL, "hypervolume")
    return means.merge(sizes, on=LABEL)


def contributions(found: pd.DataFrame, objectives: Objectives = OBJECTIVES) -> pd.DataFrame:
    """What each label adds to the joint front of all, one such front per seed.

    Columns: as from `averaged`, `contribution` being the hypervolume that is lost when the label is
    left out; means of `own`, how many points of the joint front are its own (equal ones of two
    labels are of both), and of `joint`, how many it has. Seeds of which a label has no point do not
    count for it.
    """
    found = found.reset_index(drop=True)
    lines: list[list[Any]] = []
    for _, group in found.groupby("seed"):
        lines += _contributions(group, objectives)
    counted = ["own", "joint"]
    columns = [*LABEL, "contribution", *counted]
    frame = pd.DataFrame(lines, columns=columns)
    by_label = frame.groupby(LABEL)
    counts = by_label[counted].mean()
    counts = counts.reset_index()
    means = averaged(frame, LABEL, "contribution")
    return means.merge(counts, on=LABEL)


def _contributions(group: pd.DataFrame, objectives: Objectives) -> list[list[Any]]:
    """Of one seed: each label, what is lost without it, its points on the joint front, and all."""
    whole = _volume(group, objectives)
    names = list(objectives)
    maximize = _maximize(objectives)
    belongs = front.front(group[names], maximize)
    joint = pd.Series(belongs, index=group.index)
    all_points = joint.sum()
    lines: list[list[Any]] = []
    for label, part in group.groupby(LABEL):
        others = group.drop(part.index)
        rest = _volume(others, objectives)
        lost = max(whole - rest, 0.0)  # below 0 by rounding
        is_own = joint[part.index]
        line = [*label, lost, is_own.sum(), all_points]
        lines.append(line)
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
        sides = _sides(group, objectives)
        for one, other in permutations(sides, 2):
            reference = sides[other]
            epsilon = moocore.epsilon_additive(sides[one], ref=reference)
            lines.append([*one, *other, epsilon])
    columns = [*names, "epsilon"]
    frame = pd.DataFrame(lines, columns=columns)
    return averaged(frame, names, "epsilon")


def _sides(group: pd.DataFrame, objectives: Objectives) -> dict[Any, Points]:
    """The losses of each label of one seed."""
    sides: dict[Any, Points] = {}
    for label, part in group.groupby(LABEL):
        sides[label] = _losses(part, objectives)
    return sides


# ---- equal total compute


def expected(losses: Values, counts: Numbers | None = None) -> Values:
    """Expected hypervolume of k of the points, drawn at random without replacement, for each k of
    `counts`, or for k = 1 to n; exact.

    losses: (n, 2), (-accuracy, relative), NaN: a point that adds nothing.  Each area is weighted by
    the chance that it is dominated by one of the k: if j points dominate it, 1 - C(n - j, k) / C(n,
    k). For one objective this is the expected best of k (Tang et al. 2020).
    """
    n = len(losses)
    if counts is None:
        counts = np.arange(1, n + 1)
    unmeasured = np.isnan(losses).any(axis=1, keepdims=True)
    losses = np.where(unmeasured, [0.0, 1.0], losses)
    costs = losses[:, 1]
    order = np.argsort(costs, kind="stable")
    losses = losses[order]
    losses = losses.clip(max=[0.0, 1.0])
    chances = _chances(counts, n)
    areas = _areas(losses)
    return chances @ areas


def _areas(losses: Values) -> Values:
    """(n,): the area that is dominated by more than j of the points, for j = 0 to n - 1.

    losses: (n, 2), from the cheapest, none beyond the reference point.
    """
    heights, costs = losses.T
    widths = np.diff(costs, append=1.0)
    n = len(losses)
    areas = np.zeros(n)
    ranked = np.empty(n)  # the heights so far, sorted: sorting anew would be cubic
    steps = zip(heights, widths, strict=True)
    for i, (height, width) in enumerate(steps):
        earlier = ranked[:i]
        place = np.searchsorted(earlier, height)
        ranked[place + 1 : i + 1] = ranked[place:i]
        ranked[place] = height
        if width:
            known = slice(i + 1)
            areas[known] -= ranked[known] * width
    return areas


def _chances(counts: Numbers, n: int) -> Values:
    """(counts, n): the chance C(n - 1 - j, k - 1) / C(n, k) that the best of k points, drawn at
    random, is the one that j are better than.
    """
    k = counts[:, None]
    left = n - 1 - np.arange(n)
    rest = np.maximum(left - k + 2, 1)
    ways = gammaln(left + 1)
    ways = ways - gammaln(k)
    ways = ways - gammaln(rest)
    all_ways = gammaln(n + 1)
    all_ways = all_ways - gammaln(k + 1)
    all_ways = all_ways - gammaln(n - k + 1)
    logarithm = ways - all_ways
    chance = np.exp(logarithm)
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
    rows = front.selectable(last_rows)
    rows = rows.dropna(subset=list(CHARGES))
    is_done = rows["status"] == "done"
    relative = rows[cost] / rows["flops_dense"]
    relative = relative.where(is_done)
    network = front.networks(rows)
    rows = rows.assign(network=network, relative=relative)
    rows = _cheapest(rows)
    parts: list[pd.DataFrame] = []
    by_front = rows.groupby(FRONT)
    sizes = by_front.size()
    by_label = sizes.groupby(level=LABEL)
    fewest = by_label.min().to_dict()
    for key, group in by_front:
        label = key[:2]
        counts = _counts(fewest[label], len(group), most)
        curve = _curve(group, counts)
        lead = pd.DataFrame([key], columns=FRONT)
        parts.append(lead.merge(curve, how="cross"))
    if not parts:
        columns = [*FRONT, "networks", *CHARGES, "hypervolume"]
        return pd.DataFrame(columns=columns)
    return pd.concat(parts, ignore_index=True)


def _counts(least: int, networks: int, most: int | None) -> Numbers:
    """The numbers of networks of a curve. least: those of the seed that has the fewest."""
    if most is None or networks <= most:
        return np.arange(1, networks + 1)
    evenly = np.linspace(1, least, most)
    whole = evenly.round()
    counts = whole.astype(np.int64)
    return np.unique(counts)


def _curve(group: pd.DataFrame, number: Numbers) -> pd.DataFrame:
    """Of one label and seed, for each number of networks: charges and hypervolume."""
    curve = pd.DataFrame({"networks": number})
    for name in CHARGES:
        mean = group[name].mean()
        curve[name] = number * mean
    losses = _losses(group, OBJECTIVES)
    curve["hypervolume"] = expected(losses, number)
    return curve


def spent(curves: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the lines of `compute`, up to the number of networks that every seed of a
    label has.

    Columns: as from `averaged`, by arm, control, networks, with the mean `CHARGES`.
    """
    by = [*LABEL, "networks"]
    by_label = curves.groupby(LABEL)
    of_label = by_label["seed"].transform("nunique")
    by_number = curves.groupby(by)
    there = by_number["seed"].transform("nunique")
    complete = there == of_label
    curves = curves[complete]
    by_number = curves.groupby(by)
    charges = by_number[list(CHARGES)].mean()
    charges = charges.reset_index()
    means = averaged(curves, by, "hypervolume")
    return means.merge(charges, on=by)
