"""Stopping by dominance: which settings go on from a rung, and what stopping would have kept of a
study that ran whole.

Successive halving on the front: settings are ordered by non-dominated layers, and one in so many
goes on. A setting is (arm, hp), its measures are means over its seeds, and its seeds share its
fate: else means would be of those that were lucky.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..points import front
from ..rows import table
from ..rows.goals import Goals

Values = NDArray[np.float64]
Places = NDArray[np.int64]
Rank = Callable[[Values], Values]
SETTING = ["arm", "hp"]
MEMBER = table.MEMBER
UNFIT = ("diverged", "failed", "skipped")
FACTORS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Reduction factors that a report tries on a study that ran whole."""
FLOOR = 1
"""Settings of each decade that it lets go on."""
FEWEST = 8
"""Settings from which on it does."""
CURVE = [
    "factor", "seed", "share", "share_charged", "settings", "hypervolume", "whole", "kept"
]  # fmt: skip
UNMEASURED = "a seed diverged, failed or was not measured"


def order(
    values: ArrayLike, directions: Sequence[bool], violations: ArrayLike | None = None
) -> Places:
    """Positions from the best point to the worst, (n,).

    They go by how many limits are broken, layer of violations, layer, place in an epsilon-net of
    the layer, index.

    values: (n, m).  directions: (m,), True where more is better.  violations: (n, c), at most 0
    where a limit is kept. Constraint-domination and layers are Deb et al. 2002; violations are
    layered, not summed, as each limit has a unit of its own. The net is that of Schmucker et al.
    2021. Equal points are one point of it. What is not finite comes last.
    """
    places, _ = _places(values, directions, violations)
    return np.argsort(places)


def _places(
    values: ArrayLike, directions: Sequence[bool], violations: ArrayLike | None
) -> tuple[Places, Places]:
    """The place of each point in the order, from 0, and its layer, from 1."""
    maximize = np.asarray(directions, dtype=bool)
    signs = np.where(maximize, -1.0, 1.0)
    costs = signs * np.asarray(values, dtype=float)
    count = len(costs)
    broken = np.empty((count, 0))
    if violations is not None:
        broken = np.maximum(np.asarray(violations, dtype=float), 0.0)
    joined = np.hstack([broken, costs])
    whole = np.isfinite(joined).all(axis=1)
    points, number = np.unique(joined[whole], axis=0, return_inverse=True)
    layer, spread = _ranks(points, broken.shape[1])
    beyond = layer.max(initial=-1) + 2
    layers = np.full(count, beyond)
    layers[whole] = layer[number] + 1
    spreads = np.zeros(count)
    spreads[whole] = spread[number]
    order = np.lexsort((spreads, layers))
    places = np.empty(count, dtype=np.int64)
    places[order] = np.arange(count)
    return places, layers


def _ranks(points: Values, limits: int) -> tuple[Places, Values]:
    """Of distinct points, (n, limits + objectives): the layer of each, from 0, by all that orders
    layers, and its place in the layer's epsilon-net.
    """
    broken, costs = np.split(points, [limits], axis=1)
    count = (broken > 0).sum(axis=1)
    keys = [count.astype(float)]
    keys.append(_within(keys, broken, _layers))
    keys.append(_within(keys, costs, _layers))
    spread = _within(keys, costs, _spread)
    _, layer = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    return layer, spread


def _within(keys: Sequence[Values], points: Values, rank: Rank) -> Values:
    """The rank of each point among those of the same keys."""
    ranks = np.zeros(len(points))
    joined = np.stack(keys, axis=1)
    _, number = np.unique(joined, axis=0, return_inverse=True)
    order = np.argsort(number, kind="stable")
    sizes = np.bincount(number)
    ends = np.cumsum(sizes)[:-1]
    for group in np.split(order, ends):
        ranks[group] = rank(points[group])
    return ranks


def _layers(points: Values) -> Values:
    """The non-dominated layer of each point, from 0; less is better."""
    if not points.size:
        return np.zeros(len(points))
    layers = moocore.pareto_rank(points)
    return layers.astype(float)


def _spread(points: Values) -> Values:
    """The place of each point of a layer in an epsilon-net: from an end, each next one is the
    farthest from those before.

    Axes are scaled to the layer's range.  On digits, over 24 ways to stop, it kept 97.8 % of the
    hypervolume, crowding distance (Deb et al. 2002) 95.8 %, that distance taken anew after each
    point left 96.9 %, no spreading 93.1 %.
    """
    low = points.min(axis=0, initial=math.inf)
    high = points.max(axis=0, initial=-math.inf)
    ranges = np.where(high > low, high - low, 1.0)
    scaled = (points - low) / ranges
    places = np.empty(len(points))
    nearest = np.full(len(points), math.inf)  # to those that have a place
    farthest = 0
    for place in range(len(points)):
        places[farthest] = place
        distance = ((scaled - scaled[farthest]) ** 2).sum(axis=1)
        nearest = np.minimum(nearest, distance)
        nearest[farthest] = -1.0
        farthest = int(nearest.argmax())
    return places


def settings_at(rows: pd.DataFrame, rung: int, goals: Goals) -> pd.DataFrame:
    """One line for each setting measured at a rung, indexed by (arm, hp): `rung`, and means over
    seeds of `goals.columns`.

    A setting is there once each seed of the rows has a row of it at that rung, or ended badly at it
    or before; means are NaN where one ended badly.
    """
    seen = front.selectable(rows)
    here = seen["rung"] == rung
    unfit = seen["status"].isin(UNFIT)
    before = unfit & (seen["rung"] < rung)
    seen = seen.assign(here=here, unfit=unfit)[here | before].sort_values("seed")
    seen = seen.drop_duplicates([*SETTING, "seed", "here", "unfit"])
    grouped = seen.groupby(SETTING)
    means = grouped[list(goals.columns)].mean()
    pool = means.where(~grouped["unfit"].any())
    complete = grouped["seed"].nunique() == rows["seed"].nunique()
    present = grouped["here"].any()
    return pool[complete & present].assign(rung=rung)


def decide(pool: pd.DataFrame, goals: Goals, factor: float, floor: int) -> pd.DataFrame:
    """Which settings go on: `go` and `reason`, indexed as the pool.

    pool: as from `settings_at`.  The best ceil(n / factor) of n settings go on, and of each decade
    of the first measure to minimize at least `floor`, the best there. Settings of equal measures
    share their fate. One that ended badly in a seed does not go on.
    """
    values = goals.values(pool)
    violations = goals.violations(pool)
    places, layers = _places(values, goals.directions, violations)
    finite = np.isfinite(np.hstack([values, violations]))
    fit = np.asarray(finite.all(axis=1))
    number = math.ceil(len(pool) / factor)
    best = places < number
    if goals.minimize:
        cost = values[:, len(goals.maximize)]
        best |= _best_of_decades(places, cost, floor)
    going = pd.Series(best & fit, index=pool.index)
    alike = [pool[name] for name in goals.columns]
    by_measures = going.groupby(alike, dropna=False)
    shared = by_measures.transform("any").to_numpy(dtype=bool)
    decided = pd.DataFrame({"go": shared & fit}, index=pool.index)
    count = decided["go"].sum()
    reasons: list[str] = []
    for place, layer, rung, whole in zip(places, layers, pool["rung"], fit, strict=True):
        rank = f"layer {layer}, place {place + 1} of {len(pool)}" if whole else UNMEASURED
        reasons.append(f"rung {rung}: {rank}; {count} go on")
    decided["reason"] = reasons
    return decided


def _best_of_decades(places: Places, costs: Values, floor: int) -> NDArray[np.bool_]:
    """Which points are among the best `floor` of their decade of cost."""
    decades = _decades(costs)
    of_decade = pd.Series(places).groupby(decades)
    ranks = of_decade.rank().to_numpy()
    return ranks <= floor


def _decades(costs: Values) -> Values:
    """The power of ten at or below each cost; minus infinity for what costs nothing, NaN for what
    has none.
    """
    with np.errstate(divide="ignore"):
        exponents = np.log10(np.maximum(costs, 0.0))
        return np.floor(exponents)


# ---- what stopping would have kept of a study without it: members do not influence each other, so
# its rows tell exactly


def ended(rows: pd.DataFrame, goals: Goals) -> pd.DataFrame:
    """The rows of the settings that were measured at the first rung and of which every seed has a
    last row.
    """
    seen = front.selectable(rows)
    seen = seen.drop_duplicates([*MEMBER, "rung"], keep="last")
    last = seen[seen["status"] != table.RUNNING]
    seeds = last.groupby(SETTING)["seed"].nunique()
    settings = seeds.index[seeds == seen["seed"].nunique()]
    rungs = _rungs(seen)
    if rungs:
        first = settings_at(seen, rungs[0], goals)
        settings = settings.intersection(first.index)
    else:
        settings = settings[:0]
    of_row = pd.MultiIndex.from_frame(seen[SETTING])
    return seen[of_row.isin(settings)]


def _rungs(rows: pd.DataFrame) -> list[int]:
    return sorted(rows.loc[rows["rung"] > 0, "rung"].unique().tolist())


def ends(rows: pd.DataFrame, goals: Goals, factor: float, floor: int) -> pd.DataFrame:
    """The last rung of each setting if losers had left, indexed by (arm, hp): `rung`, and `reason`,
    empty at the last one.

    rows: as from `ended`, of a study without stopping.
    """
    *rungs, last = _rungs(rows)
    first = rungs[0] if rungs else last
    going = settings_at(rows, first, goals).index
    parts: list[pd.DataFrame] = []
    for rung in rungs:
        pool = settings_at(rows, rung, goals)
        pool = pool[pool.index.isin(going)]
        decided = decide(pool, goals, factor, floor)
        losers = decided.loc[~decided["go"], ["reason"]]
        parts.append(losers.assign(rung=rung))
        going = decided.index[decided["go"]]
    survivors = pd.DataFrame({"reason": "", "rung": last}, index=going)
    return pd.concat([*parts, survivors])[["rung", "reason"]]


def until(rows: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The rows of settings up to the rung at which each ends; found: as from `ends`."""
    last = found["rung"]
    settings = rows[SETTING]
    joined = settings.merge(last, how="left", left_on=SETTING, right_index=True)
    within = rows["rung"].to_numpy() <= joined["rung"].to_numpy()
    return rows[within]


def dense_epochs(rows: pd.DataFrame) -> pd.Series[float]:
    """Epochs, by arm, of the dense phase that its members start from; 0 without one.

    Rungs divide evenly what comes after that phase, so it is where the line through a member's
    rungs begins; one that begins within two optimiser steps of 0, or rungs that are on no line, are
    of none.
    """
    rows = rows[rows["rung"] > 0]
    line = _budget_lines(rows)
    joined = rows.merge(line, left_on=MEMBER, right_index=True)
    rise = joined["slope"] * joined["rung"]
    distance = joined["epochs"] - joined["start"] - rise
    off = distance.abs() > joined["step"]
    off_line = off.groupby(joined["arm"]).any()
    by_arm = line.groupby("arm")
    medians = by_arm[["start", "step"]].median()
    start = medians["start"]
    late = start > 2 * medians["step"]
    start = start.where(late & ~off_line, 0.0)
    arms = rows["arm"].unique()
    return start.reindex(arms, fill_value=0.0)


def _budget_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Epochs over rungs of each member with several, as a line: `start`, `slope`, and `step`, the
    epochs of an optimiser step.
    """
    ordered = rows.sort_values("rung")
    members = ordered.groupby(MEMBER)[["rung", "epochs", "steps"]]
    several = members.size() > 1
    first = members.first()[several]
    last = members.last()[several]
    epochs = last["epochs"] - first["epochs"]
    slope = epochs / (last["rung"] - first["rung"])
    line = pd.DataFrame({"slope": slope})
    line["start"] = first["epochs"] - slope * first["rung"]
    line["step"] = last["epochs"] / last["steps"]
    return line


def spent(rows: pd.DataFrame, dense: pd.Series[float]) -> tuple[float, float]:
    """Epochs that members took until their last row here: those that were trained, and those that
    were charged.

    dense: as from `dense_epochs`.  Charged is the sum over members. Trained counts once what
    members share: a dense phase of a seed, and a network that several counts of candidates took.
    """
    ordered = rows.sort_values("rung")
    last = ordered.drop_duplicates(MEMBER, keep="last")
    epochs = last["epochs"]
    shared = last["arm"].map(dense)
    networks = front.networks(last)
    own = (epochs - shared).groupby(networks).max()
    phases = pd.DataFrame({"seed": last["seed"]})
    phases["dense"] = shared
    phases = phases.drop_duplicates()
    trained = own.sum() + phases["dense"].sum()
    return float(trained), float(epochs.sum())


def replayed(rows: pd.DataFrame, goals: Goals, factor: float, floor: int) -> pd.DataFrame:
    """One line for each rung of a study without stopping, as it would have been with it.

    rows: as from `ended`.  Columns: rung; `settings` measured there and how many of them `go` on
    (or end well); `epochs` trained from the start of the study until then, `charged` likewise
    (`spent`), and their shares of what all members took.
    """
    dense = dense_epochs(rows)
    settings = ends(rows, goals, factor, floor)
    kept = until(rows, settings)
    last = settings["rung"]
    survivors = (settings["reason"] == "").sum()
    lines: list[tuple[Any, ...]] = []
    for rung in _rungs(rows):
        so_far = kept[kept["rung"] <= rung]
        trained, charged = spent(so_far, dense)
        there = (last >= rung).sum()
        going = (last > rung).sum() or survivors
        lines.append((rung, int(there), int(going), trained, charged))
    columns = ["rung", "settings", "go", "epochs", "charged"]
    table = pd.DataFrame(lines, columns=columns)
    all_trained, all_charged = spent(rows, dense)
    table["share"] = table["epochs"] / all_trained
    table["share_charged"] = table["charged"] / all_charged
    return table


def volumes(rows: pd.DataFrame, goals: Goals) -> pd.Series[float]:
    """Hypervolume, by seed, of the done members' networks, of all arms together: axes and reference
    of `attainment.volumes`.

    Its cost is the first measure to minimize, if that is a count of FLOPs, else masked FLOPs.
    """
    costs = [name for name in goals.minimize if name in front.COSTS]
    cost = costs[0] if costs else "flops_masked"
    is_done = rows["status"] == "done"
    done = rows[is_done]
    share = done[cost] / done["flops_dense"]
    points = pd.DataFrame({"accuracy": done["accuracy_valid"]})
    points["cost"] = share
    by_seed: dict[Any, float] = {}
    for seed, group in points.groupby(done["seed"]):
        values = group.to_numpy()
        by_seed[seed] = front.hypervolume(values, front.REFERENCE, front.DIRECTIONS)
    seeds = sorted(rows["seed"].unique())
    known = pd.Series(by_seed, dtype=float)
    return known.reindex(seeds, fill_value=0.0)


def curve(
    rows: pd.DataFrame, goals: Goals, floor: int = FLOOR, factors: Sequence[float] = FACTORS
) -> pd.DataFrame:
    """One line for each reduction factor and seed: what stopping would have spent and kept.

    rows: as from `ended`.  Columns: factor, seed; `share` of epochs trained and `share_charged`
    (`spent`); `settings` that reach the last rung, their `hypervolume`, `whole` without stopping,
    and `kept`, the quotient.
    """
    whole = volumes(rows, goals)
    dense = dense_epochs(rows)
    all_trained, all_charged = spent(rows, dense)
    parts: list[pd.DataFrame] = []
    for factor in factors:
        settings = ends(rows, goals, factor, floor)
        left = until(rows, settings)
        trained, charged = spent(left, dense)
        part = pd.DataFrame({"hypervolume": volumes(left, goals), "whole": whole})
        part["factor"] = factor
        part["share"] = trained / all_trained
        part["share_charged"] = charged / all_charged
        part["settings"] = (settings["reason"] == "").sum()
        part["kept"] = part["hypervolume"] / part["whole"]
        parts.append(part.rename_axis("seed").reset_index())
    return pd.concat(parts, ignore_index=True)[CURVE]


# ---- what a report says of it


def tried(rows: pd.DataFrame, goals: Goals) -> pd.DataFrame:
    """As `curve`, of a whole study's rows; empty if losers left it, and with fewer than two rungs
    or `FEWEST` settings.
    """
    known = ended(rows, goals)
    stopped = "stopped" in set(rows["status"])
    settings = known.groupby(SETTING).ngroups
    if stopped or len(_rungs(known)) < 2 or settings < FEWEST:
        return pd.DataFrame()
    return curve(known, goals).dropna(subset="kept")


def means(lines: pd.DataFrame) -> pd.DataFrame:
    """One line for each factor of `tried`: mean of `kept` over seeds, `low` and `high` a deviation
    off it, the `least`, `n`.
    """
    factors = lines.groupby("factor")
    costs = factors[["share", "share_charged", "settings"]].first()
    kept = factors["kept"].agg(kept="mean", std="std", least="min", n="size")
    table = costs.join(kept)
    deviation = table["std"].fillna(0.0)
    table["low"] = table["kept"] - deviation
    table["high"] = table["kept"] + deviation
    return table.reset_index()


def departures(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each rung of a study that losers left: `settings` measured there, and how many
    were `stopped` there.
    """
    seen = rows[rows["rung"] > 0]
    stopped = _settings_by_rung(seen[seen["status"] == "stopped"])
    if not stopped.size:
        return pd.DataFrame()
    counts = pd.DataFrame({"settings": _settings_by_rung(seen), "stopped": stopped})
    return counts.fillna(0).astype(int).reset_index()


def _settings_by_rung(rows: pd.DataFrame) -> pd.Series[int]:
    distinct = rows.drop_duplicates([*SETTING, "rung"])
    return distinct.groupby("rung").size()


def saved(rows: pd.DataFrame) -> tuple[float, float]:
    """Shares of epochs, trained and charged (`spent`), that a study took which losers left, of what
    all would have taken.
    """
    seen = rows[rows["rung"] > 0]
    seen = seen.drop_duplicates([*MEMBER, "rung"], keep="last")
    whole = seen["epochs"].where(seen["status"] == "done")
    of_arm = whole.groupby(seen["arm"]).transform("max")
    full = of_arm.fillna(of_arm.max())
    dense = dense_epochs(seen)
    trained, charged = spent(seen, dense)
    all_trained, all_charged = spent(seen.assign(epochs=full), dense)
    return trained / all_trained, charged / all_charged


def told(lines: pd.DataFrame, goals: Goals) -> str:
    """What a reader should know of the curve of `tried`."""
    measures = ", ".join(goals.measures)
    seeds = lines["seed"].nunique()
    floor = ""
    if goals.minimize:
        floor = f", and at least the best {FLOOR} of each decade of {goals.minimize[0]}"
    return (
        "What stopping would have spent and kept, computed from the rows: members do not influence "
        "each other. At each rung but the last the best one in so many settings goes on, by "
        f"non-dominated layers of means over seeds ({measures}){floor}. Kept: hypervolume of what "
        f"reaches the last rung over that of all, for each of {seeds} seeds. Epochs are counted as "
        "trained, what members share once; in brackets, as charged to each member."
    )
