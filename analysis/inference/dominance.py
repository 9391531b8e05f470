"""Stopping by dominance: which settings go on from a rung, and what stopping would have kept of a
study that ran whole.

Successive halving on the front: settings are ordered by non-dominated layers, and one in so many
goes on. A setting is (arm, hp), its measures are means over its seeds, and its seeds share its
fate: else means would be of those that were lucky.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
    measures = np.asarray(values, dtype=float)
    costs = signs * measures
    count = len(costs)
    broken = _broken(violations, count)
    joined = np.hstack([broken, costs])
    finite = np.isfinite(joined)
    whole = finite.all(axis=1)
    points, number = np.unique(joined[whole], axis=0, return_inverse=True)
    limits = broken.shape[1]
    layer, spread = _ranks(points, limits)
    deepest = layer.max(initial=-1)
    beyond = deepest + 2
    layers = np.full(count, beyond)
    layers[whole] = layer[number] + 1
    spreads = np.zeros(count)
    spreads[whole] = spread[number]
    order = np.lexsort((spreads, layers))
    places = np.empty(count, dtype=np.int64)
    places[order] = np.arange(count)
    return places, layers


def _broken(violations: ArrayLike | None, count: int) -> Values:
    """(count, c): by how much each point breaks each limit, 0 where it is kept."""
    if violations is None:
        return np.empty((count, 0))
    excess = np.asarray(violations, dtype=float)
    return np.maximum(excess, 0.0)


def _ranks(points: Values, limits: int) -> tuple[Places, Values]:
    """Of distinct points, (n, limits + objectives): the layer of each, from 0, by all that orders
    layers, and its place in the layer's epsilon-net.
    """
    broken, costs = np.split(points, [limits], axis=1)
    is_broken = broken > 0
    count = is_broken.sum(axis=1)
    keys = [count.astype(float)]
    violation_layer = _within(keys, broken, _layers)
    keys.append(violation_layer)
    cost_layer = _within(keys, costs, _layers)
    keys.append(cost_layer)
    spread = _within(keys, costs, _spread)
    joined = np.stack(keys, axis=1)
    _, layer = np.unique(joined, axis=0, return_inverse=True)
    return layer, spread


def _within(keys: Sequence[Values], points: Values, rank: Rank) -> Values:
    """The rank of each point among those of the same keys."""
    ranks = np.zeros(len(points))
    joined = np.stack(keys, axis=1)
    _, number = np.unique(joined, axis=0, return_inverse=True)
    order = np.argsort(number, kind="stable")
    sizes = np.bincount(number)
    ends = np.cumsum(sizes)
    groups = np.split(order, ends[:-1])
    for group in groups:
        own = points[group]
        ranks[group] = rank(own)
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
    varied = high > low
    ranges = np.where(varied, high - low, 1.0)
    scaled = (points - low) / ranges
    count = len(points)
    places = np.empty(count)
    nearest = np.full(count, math.inf)  # to those that have a place
    farthest = 0
    for place in range(count):
        places[farthest] = place
        steps = scaled - scaled[farthest]
        squares = steps**2
        distance = squares.sum(axis=1)
        nearest = np.minimum(nearest, distance)
        nearest[farthest] = -1.0
        following = nearest.argmax()
        farthest = int(following)
    return places


def settings_at(rows: pd.DataFrame, rung: int, goals: Goals) -> pd.DataFrame:
    """One line for each setting measured at a rung, indexed by (arm, hp): `rung`, and means over
    seeds of `goals.columns`.

    A setting is there once each seed of the rows has a row of it at that rung, or ended badly at it
    or before; means are NaN where one ended badly.
    """
    seen = front.selectable(rows)
    here = seen["rung"] == rung
    earlier = seen["rung"] < rung
    unfit = seen["status"].isin(UNFIT)
    seen = seen.assign(here=here, unfit=unfit)
    counts = here | (unfit & earlier)
    seen = seen[counts]
    seen = seen.sort_values("seed")
    alike = [*SETTING, "seed", "here", "unfit"]
    seen = seen.drop_duplicates(alike)
    grouped = seen.groupby(SETTING)
    measures = list(goals.columns)
    means = grouped[measures].mean()
    badly_ended = grouped["unfit"].any()
    pool = means.where(~badly_ended)
    all_seeds = rows["seed"].nunique()
    complete = grouped["seed"].nunique() == all_seeds
    present = grouped["here"].any()
    pool = pool[complete & present]
    return pool.assign(rung=rung)


def _pools(rows: pd.DataFrame, goals: Goals) -> dict[int, pd.DataFrame]:
    """By rung, from the first: as from `settings_at`."""
    pools: dict[int, pd.DataFrame] = {}
    for rung in _rungs(rows):
        pools[rung] = settings_at(rows, rung, goals)
    return pools


def decide(
    pool: pd.DataFrame,
    goals: Goals,
    factor: float,
    floor: int,
) -> pd.DataFrame:
    """Which settings go on: `go` and `reason`, indexed as the pool.

    pool: as from `settings_at`.  The best ceil(n / factor) of n settings go on, and of each decade
    of the first measure to minimize at least `floor`, the best there. Settings of equal measures
    share their fate. One that ended badly in a seed does not go on.
    """
    values = goals.values(pool)
    violations = goals.violations(pool)
    places, layers = _places(values, goals.directions, violations)
    finite = np.isfinite(np.hstack([values, violations]))
    whole = finite.all(axis=1)
    fit = np.asarray(whole)
    number = math.ceil(len(pool) / factor)
    best = places < number
    if goals.minimize:
        first_cost = len(goals.maximize)
        cost = values[:, first_cost]
        best |= _best_of_decades(places, cost, floor)
    shared = _shared(best & fit, pool, goals)
    decided = pd.DataFrame({"go": shared & fit}, index=pool.index)
    ranks = _rank_texts(places, layers, fit)
    count = decided["go"].sum()
    reasons: list[str] = []
    for rung, rank in zip(pool["rung"], ranks, strict=True):
        reasons.append(f"rung {rung}: {rank}; {count} go on")
    decided["reason"] = reasons
    return decided


def _shared(going: NDArray[np.bool_], pool: pd.DataFrame, goals: Goals) -> NDArray[np.bool_]:
    """Which settings go, or have the measures of one that does."""
    goes = pd.Series(going, index=pool.index)
    measures = [pool[name] for name in goals.columns]
    alike = goes.groupby(measures, dropna=False)
    any_goes = alike.transform("any")
    return any_goes.to_numpy(dtype=bool)


def _rank_texts(places: Places, layers: Places, fit: NDArray[np.bool_]) -> list[str]:
    """The layer and the place of each setting in words."""
    count = len(places)
    texts: list[str] = []
    for place, layer, whole in zip(places, layers, fit, strict=True):
        if whole:
            texts.append(f"layer {layer}, place {place + 1} of {count}")
        else:
            texts.append(UNMEASURED)
    return texts


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
    has_ended = seen["status"] != table.RUNNING
    last = seen[has_ended]
    by_setting = last.groupby(SETTING)
    seeds = by_setting["seed"].nunique()
    all_seeds = seen["seed"].nunique()
    settings = seeds.index[seeds == all_seeds]
    rungs = _rungs(seen)
    if rungs:
        first = settings_at(seen, rungs[0], goals)
        settings = settings.intersection(first.index)
    else:
        settings = settings[:0]
    of_row = pd.MultiIndex.from_frame(seen[SETTING])
    belongs = of_row.isin(settings)
    return seen[belongs]


def _rungs(rows: pd.DataFrame) -> list[int]:
    reached = rows["rung"] > 0
    rungs = rows.loc[reached, "rung"].unique()
    return sorted(rungs.tolist())


def ends(
    rows: pd.DataFrame,
    goals: Goals,
    factor: float,
    floor: int,
) -> pd.DataFrame:
    """The last rung of each setting if losers had left, indexed by (arm, hp): `rung`, and `reason`,
    empty at the last one.

    rows: as from `ended`, of a study without stopping.
    """
    pools = _pools(rows, goals)
    return _ends(pools, goals, factor, floor)


def _ends(
    pools: Mapping[int, pd.DataFrame],
    goals: Goals,
    factor: float,
    floor: int,
) -> pd.DataFrame:
    """As `ends`; pools: as from `_pools`, which are the same whoever leaves."""
    *rungs, last = pools
    first = min(pools)
    going = pools[first].index
    parts: list[pd.DataFrame] = []
    for rung in rungs:
        pool = pools[rung]
        is_there = pool.index.isin(going)
        pool = pool[is_there]
        decided = decide(pool, goals, factor, floor)
        goes = decided["go"]
        losers = decided.loc[~goes, ["reason"]]
        losers = losers.assign(rung=rung)
        parts.append(losers)
        going = decided.index[goes]
    survivors = pd.DataFrame({"reason": "", "rung": last}, index=going)
    parts.append(survivors)
    settings = pd.concat(parts)
    return settings[["rung", "reason"]]


def until(rows: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The rows of settings up to the rung at which each ends; found: as from `ends`."""
    last = found["rung"]
    settings = rows[SETTING]
    joined = settings.merge(last, how="left", left_on=SETTING, right_index=True)
    rung = rows["rung"].to_numpy()
    end = joined["rung"].to_numpy()
    within = rung <= end
    return rows[within]


def dense_epochs(rows: pd.DataFrame) -> pd.Series[float]:
    """Epochs, by arm, of the dense phase that its members start from; 0 without one.

    Rungs divide evenly what comes after that phase, so it is where the line through a member's
    rungs begins; one that begins within two optimiser steps of 0, or rungs that are on no line, are
    of none.
    """
    reached = rows["rung"] > 0
    rows = rows[reached]
    line = _budget_lines(rows)
    joined = rows.merge(line, left_on=MEMBER, right_index=True)
    rise = joined["slope"] * joined["rung"]
    distance = joined["epochs"] - joined["start"] - rise
    off = distance.abs() > joined["step"]
    by_arm = off.groupby(joined["arm"])
    off_line = by_arm.any()
    lines_by_arm = line.groupby("arm")
    medians = lines_by_arm[["start", "step"]].median()
    start = medians["start"]
    late = start > 2 * medians["step"]
    has_phase = late & ~off_line
    start = start.where(has_phase, 0.0)
    arms = rows["arm"].unique()
    return start.reindex(arms, fill_value=0.0)


def _budget_lines(rows: pd.DataFrame) -> pd.DataFrame:
    """Epochs over rungs of each member with several, as a line: `start`, `slope`, and `step`, the
    epochs of an optimiser step.
    """
    ordered = rows.sort_values("rung")
    by_member = ordered.groupby(MEMBER)
    members = by_member[["rung", "epochs", "steps"]]
    several = members.size() > 1
    first = members.first()
    first = first[several]
    last = members.last()
    last = last[several]
    epochs = last["epochs"] - first["epochs"]
    rungs = last["rung"] - first["rung"]
    slope = epochs / rungs
    line = pd.DataFrame({"slope": slope})
    rise = slope * first["rung"]
    line["start"] = first["epochs"] - rise
    line["step"] = last["epochs"] / last["steps"]
    return line


def spent(rows: pd.DataFrame, dense: pd.Series[float]) -> tuple[float, float]:
    """Epochs that members took until their last row here: those that were trained, and those that
    were charged.

    dense: as from `dense_epochs`.  Charged is the sum over members. Trained counts once what
    members share: a dense phase of a seed, and a network that several counts of candidates took.
    """
    networks = front.networks(rows)
    named = rows.assign(network=networks)
    return _spent(named, dense)


def _spent(rows: pd.DataFrame, dense: pd.Series[float]) -> tuple[float, float]:
    """As `spent`; rows: with `network`, as from `front.networks`."""
    ordered = rows.sort_values("rung")
    last = ordered.drop_duplicates(MEMBER, keep="last")
    epochs = last["epochs"]
    shared = last["arm"].map(dense)
    own = epochs - shared
    networks = last["network"]
    of_network = own.groupby(networks)
    own = of_network.max()
    phases = pd.DataFrame({"seed": last["seed"]})
    phases["dense"] = shared
    phases = phases.drop_duplicates()
    trained = own.sum() + phases["dense"].sum()
    charged = epochs.sum()
    return float(trained), float(charged)


def replayed(
    rows: pd.DataFrame,
    goals: Goals,
    factor: float,
    floor: int,
) -> pd.DataFrame:
    """One line for each rung of a study without stopping, as it would have been with it.

    rows: as from `ended`.  Columns: rung; `settings` measured there and how many of them `go` on
    (or end well); `epochs` trained from the start of the study until then, `charged` likewise
    (`spent`), and their shares of what all members took.
    """
    dense = dense_epochs(rows)
    settings = ends(rows, goals, factor, floor)
    kept = until(rows, settings)
    last = settings["rung"]
    is_survivor = settings["reason"] == ""
    survivors = is_survivor.sum()
    lines: list[tuple[Any, ...]] = []
    for rung in _rungs(rows):
        past = kept["rung"] <= rung
        so_far = kept[past]
        trained, charged = spent(so_far, dense)
        there = last >= rung
        beyond = last > rung
        going = beyond.sum() or survivors
        line = (rung, int(there.sum()), int(going), trained, charged)
        lines.append(line)
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
    cost = _cost(goals)
    is_done = rows["status"] == "done"
    done = rows[is_done]
    share = done[cost] / done["flops_dense"]
    points = pd.DataFrame({"accuracy": done["accuracy_valid"]})
    points["cost"] = share
    by_seed: dict[Any, float] = {}
    for seed, group in points.groupby(done["seed"]):
        values = group.to_numpy()
        volume = front.hypervolume(values, front.REFERENCE, front.DIRECTIONS)
        by_seed[seed] = volume
    seeds = rows["seed"].unique()
    known = pd.Series(by_seed, dtype=float)
    return known.reindex(sorted(seeds), fill_value=0.0)


def _cost(goals: Goals) -> str:
    """The first measure to minimize that is a count of FLOPs, else masked FLOPs."""
    for name in goals.minimize:
        if name in front.COSTS:
            return name
    return "flops_masked"


def curve(
    rows: pd.DataFrame,
    goals: Goals,
    floor: int = FLOOR,
    factors: Sequence[float] = FACTORS,
) -> pd.DataFrame:
    """One line for each reduction factor and seed: what stopping would have spent and kept.

    rows: as from `ended`.  Columns: factor, seed; `share` of epochs trained and `share_charged`
    (`spent`); `settings` that reach the last rung, their `hypervolume`, `whole` without stopping,
    and `kept`, the quotient.
    """
    whole = volumes(rows, goals)
    dense = dense_epochs(rows)
    pools = _pools(rows, goals)
    networks = front.networks(rows)
    rows = rows.assign(network=networks)
    all_trained, all_charged = _spent(rows, dense)
    parts: list[pd.DataFrame] = []
    for factor in factors:
        settings = _ends(pools, goals, factor, floor)
        left = until(rows, settings)
        trained, charged = _spent(left, dense)
        volume = volumes(left, goals)
        part = pd.DataFrame({"hypervolume": volume, "whole": whole})
        part["factor"] = factor
        part["share"] = trained / all_trained
        part["share_charged"] = charged / all_charged
        is_survivor = settings["reason"] == ""
        part["settings"] = is_survivor.sum()
        part["kept"] = part["hypervolume"] / part["whole"]
        part = part.rename_axis("seed")
        parts.append(part.reset_index())
    lines = pd.concat(parts, ignore_index=True)
    return lines[CURVE]


# ---- what a report says of it


def tried(rows: pd.DataFrame, goals: Goals) -> pd.DataFrame:
    """As `curve`, of a whole study's rows; empty if losers left it, and with fewer than two rungs
    or `FEWEST` settings.
    """
    known = ended(rows, goals)
    has_stopped = rows["status"] == "stopped"
    rungs = _rungs(known)
    settings = known.groupby(SETTING).ngroups
    if has_stopped.any() or len(rungs) < 2 or settings < FEWEST:
        return pd.DataFrame()
    lines = curve(known, goals)
    return lines.dropna(subset="kept")


def means(lines: pd.DataFrame) -> pd.DataFrame:
    """One line for each factor of `tried`: mean of `kept` over seeds, `low` and `high` a deviation
    off it, the `least`, `n`.
    """
    factors = lines.groupby("factor")
    spending = factors[["share", "share_charged", "settings"]]
    costs = spending.first()
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
    reached = rows["rung"] > 0
    seen = rows[reached]
    has_stopped = seen["status"] == "stopped"
    stopped = _settings_by_rung(seen[has_stopped])
    if not stopped.size:
        return pd.DataFrame()
    settings = _settings_by_rung(seen)
    counts = pd.DataFrame({"settings": settings, "stopped": stopped})
    counts = counts.fillna(0)
    counts = counts.astype(int)
    return counts.reset_index()


def _settings_by_rung(rows: pd.DataFrame) -> pd.Series[int]:
    distinct = rows.drop_duplicates([*SETTING, "rung"])
    return distinct.groupby("rung").size()


def saved(rows: pd.DataFrame) -> tuple[float, float]:
    """Shares of epochs, trained and charged (`spent`), that a study took which losers left, of what
    all would have taken.
    """
    reached = rows["rung"] > 0
    seen = rows[reached]
    seen = seen.drop_duplicates([*MEMBER, "rung"], keep="last")
    is_done = seen["status"] == "done"
    whole = seen["epochs"].where(is_done)
    by_arm = whole.groupby(seen["arm"])
    of_arm = by_arm.transform("max")
    most = of_arm.max()
    full = of_arm.fillna(most)
    dense = dense_epochs(seen)
    trained, charged = spent(seen, dense)
    unstopped = seen.assign(epochs=full)
    all_trained, all_charged = spent(unstopped, dense)
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
