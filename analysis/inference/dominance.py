"""Stopping by dominance: which settings go on from a rung, and what stopping would have kept of a
study that ran whole.

Successive halving on the front: settings are ordered by non-dominated layers, and one in so many
goes on. A setting is (arm, hp), its measures are means over its seeds, and its seeds share its
fate: else means would be of those that were lucky.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..points import front
from ..rows import table
from ..rows.goals import Goals

SETTING = ["arm", "hp"]
UNFIT = ("diverged", "failed", "skipped")
FACTORS = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Reduction factors that a report tries on a study that ran whole."""
FLOOR = 1
"""Settings of each decade that it lets go on."""
FEWEST = 8
"""Settings from which on it does."""


def order(
    values: ArrayLike, directions: Sequence[bool], violations: ArrayLike | None = None
) -> NDArray[np.int64]:
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
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of each point in the order, from 0, and its layer, from 1."""
    costs = np.where(np.asarray(directions, dtype=bool), -1.0, 1.0) * np.asarray(
        values, dtype=float
    )
    broken = (
        np.empty((len(costs), 0))
        if violations is None
        else np.maximum(np.asarray(violations, dtype=float), 0.0)
    )
    joined = np.hstack([broken, costs])
    whole = np.isfinite(joined).all(axis=1)
    points, of = np.unique(joined[whole], axis=0, return_inverse=True)
    keys = [(points[:, : broken.shape[1]] > 0).sum(axis=1).astype(float)]
    columns = np.split(points, [broken.shape[1]], axis=1)
    for part, rank in ((columns[0], _layers), (columns[1], _layers), (columns[1], _spread)):
        found = np.zeros(len(points))
        _, alike = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
        for group in np.split(np.argsort(alike, kind="stable"), np.cumsum(np.bincount(alike))[:-1]):
            found[group] = rank(part[group])
        keys.append(found)
    _, layer = np.unique(np.stack(keys[:-1], axis=1), axis=0, return_inverse=True)
    layers = np.full(len(costs), layer.max(initial=-1) + 2)
    layers[whole] = layer[of] + 1
    spread = np.zeros(len(costs))
    spread[whole] = keys[-1][of]
    places = np.empty(len(costs), dtype=np.int64)
    places[np.lexsort((spread, layers))] = np.arange(len(costs))
    return places, layers


def _layers(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The non-dominated layer of each point, from 0; less is better."""
    return moocore.pareto_rank(points).astype(float) if points.size else np.zeros(len(points))


def _spread(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The place of each point of a layer in an epsilon-net: from an end, each next one is the
    farthest from those before.

    Axes are scaled to the layer's range.  On digits, over 24 ways to stop, it kept 97.8 % of the
    hypervolume, crowding distance (Deb et al. 2002) 95.8 %, that distance taken anew after each
    point left 96.9 %, no spreading 93.1 %.
    """
    low, high = points.min(axis=0, initial=math.inf), points.max(axis=0, initial=-math.inf)
    scaled = (points - low) / np.where(high > low, high - low, 1.0)
    places, far, at = np.empty(len(points)), np.full(len(points), math.inf), 0
    for place in range(len(points)):
        places[at] = place
        far = np.minimum(far, ((scaled - scaled[at]) ** 2).sum(axis=1))
        far[at] = -1.0
        at = int(far.argmax())
    return places


def settings_at(rows: pd.DataFrame, rung: int, goals: Goals) -> pd.DataFrame:
    """One line for each setting measured at a rung, indexed by (arm, hp): `rung`, and means over
    seeds of `goals.columns`.

    A setting is there once each seed of the rows has a row of it at that rung, or ended badly at it
    or before; means are NaN where one ended badly.
    """
    seen = front.selectable(rows)
    seen = seen[(seen["rung"] == rung) | (seen["status"].isin(UNFIT) & (seen["rung"] < rung))]
    seen = seen.assign(here=seen["rung"] == rung, unfit=seen["status"].isin(UNFIT))
    seen = seen.sort_values("seed").drop_duplicates([*SETTING, "seed", "here", "unfit"])
    grouped = seen.groupby(SETTING)
    pool = grouped[list(goals.columns)].mean().where(~grouped["unfit"].any())
    whole = (grouped["seed"].nunique() == rows["seed"].nunique()) & grouped["here"].any()
    return pool[whole].assign(rung=rung)


def decide(pool: pd.DataFrame, goals: Goals, factor: float, floor: int) -> pd.DataFrame:
    """Which settings go on: `go` and `reason`, indexed as the pool.

    pool: as from `settings_at`.  The best ceil(n / factor) of n settings go on, and of each decade
    of the first measure to minimize at least `floor`, the best there. Settings of equal measures
    share their fate. One that ended badly in a seed does not go on.
    """
    values, violations = goals.values(pool), goals.violations(pool)
    places, layers = _places(values, goals.directions, violations)
    fit = np.asarray(np.isfinite(np.hstack([values, violations])).all(axis=1))
    go = places < math.ceil(len(pool) / factor)
    if goals.minimize:
        place = pd.Series(places, index=pool.index)
        go |= (place.groupby(_decades(values[:, len(goals.maximize)])).rank() <= floor).to_numpy()
    alike = [pool[name] for name in goals.columns]
    go = (
        pd.Series(go & fit, index=pool.index)
        .groupby(alike, dropna=False)
        .transform("any")
        .to_numpy(dtype=bool)
        & fit
    )
    ranked = [
        f"layer {layer}, place {place + 1} of {len(pool)}"
        if whole
        else "a seed diverged, failed or was not measured"
        for layer, place, whole in zip(layers, places, fit.tolist(), strict=True)
    ]
    reason = [
        f"rung {rung}: {said}; {go.sum()} go on"
        for rung, said in zip(pool["rung"], ranked, strict=True)
    ]
    return pd.DataFrame({"go": go, "reason": reason}, index=pool.index)


def _decades(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The power of ten at or below each cost; minus infinity for what costs nothing, NaN for what
    has none.
    """
    with np.errstate(divide="ignore"):
        return np.floor(np.log10(np.maximum(costs, 0.0)))


# ---- what stopping would have kept of a study without it: members do not influence each other, so its rows tell exactly


def ended(rows: pd.DataFrame, goals: Goals) -> pd.DataFrame:
    """The rows of the settings that were measured at the first rung and of which every seed has a
    last row.
    """
    seen = front.selectable(rows).drop_duplicates(["arm", "member", "rung"], keep="last")
    seeds = seen[seen["status"] != table.RUNNING].groupby(SETTING)["seed"].nunique()
    whole = seeds.index[seeds == seen["seed"].nunique()]
    first = settings_at(seen, _rungs(seen)[0], goals).index if len(_rungs(seen)) else whole[:0]
    return seen[pd.MultiIndex.from_frame(seen[SETTING]).isin(whole.intersection(first))]


def _rungs(rows: pd.DataFrame) -> list[int]:
    return sorted(rows.loc[rows["rung"] > 0, "rung"].unique().tolist())


def ends(rows: pd.DataFrame, goals: Goals, factor: float, floor: int) -> pd.DataFrame:
    """The last rung of each setting if losers had left, indexed by (arm, hp): `rung`, and `reason`,
    empty at the last one.

    rows: as from `ended`, of a study without stopping.
    """
    *rungs, last = _rungs(rows)
    found: list[pd.DataFrame] = []
    going = settings_at(rows, rungs[0] if rungs else last, goals).index
    for rung in rungs:
        pool = settings_at(rows, rung, goals)
        decided = decide(pool[pool.index.isin(going)], goals, factor, floor)
        found.append(decided.loc[~decided["go"], ["reason"]].assign(rung=rung))
        going = decided.index[decided["go"]]
    return pd.concat([*found, pd.DataFrame({"reason": "", "rung": last}, index=going)])[
        ["rung", "reason"]
    ]


def until(rows: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The rows of settings up to the rung at which each ends; found: as from `ends`."""
    last = (
        rows[SETTING]
        .merge(found["rung"], how="left", left_on=SETTING, right_index=True)["rung"]
        .to_numpy()
    )
    return rows[rows["rung"].to_numpy() <= last]


def dense_epochs(rows: pd.DataFrame) -> pd.Series[float]:
    """Epochs, by arm, of the dense phase that its members start from; 0 without one.

    Rungs divide evenly what comes after that phase, so it is where the line through a member's
    rungs begins; one that begins within two optimiser steps of 0, or rungs that are on no line, are
    of none.
    """
    rows = rows[rows["rung"] > 0]
    lines = (
        rows.sort_values("rung")
        .groupby(["arm", "member"])[["rung", "epochs", "steps"]]
        .agg(["first", "last", "size"])
    )
    lines = lines[lines["rung", "size"] > 1]
    slope = (lines["epochs", "last"] - lines["epochs", "first"]) / (
        lines["rung", "last"] - lines["rung", "first"]
    )
    line = pd.DataFrame(
        {"start": lines["epochs", "first"] - slope * lines["rung", "first"], "slope": slope}
    )
    line["step"] = lines["epochs", "last"] / lines["steps", "last"]
    on = rows.merge(line, left_on=["arm", "member"], right_index=True)
    off = (on["epochs"] - on["start"] - on["slope"] * on["rung"]).abs() > on["step"]
    by = line.groupby("arm")[["start", "step"]].median()
    start = by["start"].where((by["start"] > 2 * by["step"]) & ~off.groupby(on["arm"]).any(), 0.0)
    return start.reindex(rows["arm"].unique(), fill_value=0.0)


def spent(rows: pd.DataFrame, dense: pd.Series[float]) -> tuple[float, float]:
    """Epochs that members took until their last row here: those that were trained, and those that
    were charged.

    dense: as from `dense_epochs`.  Charged is the sum over members. Trained counts once what
    members share: a dense phase of a seed, and a network that several counts of candidates took.
    """
    last = rows.sort_values("rung").drop_duplicates(["arm", "member"], keep="last")
    shared = last["arm"].map(dense)
    own = (last["epochs"] - shared).groupby(front.networks(last)).max().sum()
    phases = pd.DataFrame({"seed": last["seed"], "dense": shared}).drop_duplicates()
    return float(own + phases["dense"].sum()), float(last["epochs"].sum())


def replayed(rows: pd.DataFrame, goals: Goals, factor: float, floor: int) -> pd.DataFrame:
    """One line for each rung of a study without stopping, as it would have been with it.

    rows: as from `ended`.  Columns: rung; `settings` measured there and how many of them `go` on
    (or end well); `epochs` trained from the start of the study until then, `charged` likewise
    (`spent`), and their shares of what all members took.
    """
    found, dense = ends(rows, goals, factor, floor), dense_epochs(rows)
    kept, every = until(rows, found), spent(rows, dense)
    lines = []
    for rung in _rungs(rows):
        epochs, charged = spent(kept[kept["rung"] <= rung], dense)
        there, go = (
            int((found["rung"] >= rung).sum()),
            int((found["rung"] > rung).sum() or (found["reason"] == "").sum()),
        )
        lines.append(
            {"rung": rung, "settings": there, "go": go, "epochs": epochs, "charged": charged}
        )
    both = pd.DataFrame(lines)
    return both.assign(share=both["epochs"] / every[0], share_charged=both["charged"] / every[1])


def volumes(rows: pd.DataFrame, goals: Goals) -> pd.Series[float]:
    """Hypervolume, by seed, of the done members' networks, of all arms together: axes and reference
    of `attainment.volumes`.

    Its cost is the first measure to minimize, if that is a count of FLOPs, else masked FLOPs.
    """
    cost = next(
        (name for name in goals.minimize if name in ("flops_masked", "flops_shrunk")),
        "flops_masked",
    )
    done = rows[rows["status"] == "done"]
    points = pd.DataFrame(
        {"accuracy": done["accuracy_valid"], "cost": done[cost] / done["flops_dense"]}
    )
    by_seed = {
        seed: front.hypervolume(group.to_numpy(), front.REFERENCE, front.DIRECTIONS)
        for seed, group in points.groupby(done["seed"])
    }
    return pd.Series(by_seed, dtype=float).reindex(sorted(rows["seed"].unique()), fill_value=0.0)


def curve(
    rows: pd.DataFrame, goals: Goals, floor: int = FLOOR, factors: Sequence[float] = FACTORS
) -> pd.DataFrame:
    """One line for each reduction factor and seed: what stopping would have spent and kept.

    rows: as from `ended`.  Columns: factor, seed; `share` of epochs trained and `share_charged`
    (`spent`); `settings` that reach the last rung, their `hypervolume`, `whole` without stopping,
    and `kept`, the quotient.
    """
    whole, dense, lines = volumes(rows, goals), dense_epochs(rows), []
    every = spent(rows, dense)
    for factor in factors:
        found = ends(rows, goals, factor, floor)
        left = until(rows, found)
        epochs, charged = spent(left, dense)
        both = (
            pd.DataFrame({"hypervolume": volumes(left, goals), "whole": whole})
            .rename_axis("seed")
            .reset_index()
        )
        both = both.assign(
            share=epochs / every[0],
            share_charged=charged / every[1],
            settings=(found["reason"] == "").sum(),
        )
        lines.append(both.assign(factor=factor, kept=both["hypervolume"] / both["whole"]))
    joined = pd.concat(lines, ignore_index=True)
    return joined[
        ["factor", "seed", "share", "share_charged", "settings", "hypervolume", "whole", "kept"]
    ]


# ---- what a report says of it


def tried(rows: pd.DataFrame, goals: Goals) -> pd.DataFrame:
    """As `curve`, of a whole study's rows; empty if losers left it, and with fewer than two rungs
    or `FEWEST` settings.
    """
    known = ended(rows, goals)
    if (
        "stopped" in set(rows["status"])
        or len(_rungs(known)) < 2
        or known.groupby(SETTING).ngroups < FEWEST
    ):
        return pd.DataFrame()
    return curve(known, goals).dropna(subset="kept")


def means(lines: pd.DataFrame) -> pd.DataFrame:
    """One line for each factor of `tried`: mean of `kept` over seeds, `low` and `high` a deviation
    off it, the `least`, `n`.
    """
    by = lines.groupby("factor")
    found = (
        by[["share", "share_charged", "settings"]]
        .first()
        .join(by["kept"].agg(kept="mean", std="std", least="min", n="size"))
    )
    std = found["std"].fillna(0.0)
    return found.assign(low=found["kept"] - std, high=found["kept"] + std).reset_index()


def departures(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for each rung of a study that losers left: `settings` measured there, and how many
    were `stopped` there.
    """
    seen = rows[rows["rung"] > 0]
    counts = {
        name: part.drop_duplicates([*SETTING, "rung"]).groupby("rung").size()
        for name, part in (("settings", seen), ("stopped", seen[seen["status"] == "stopped"]))
    }
    return (
        pd.DataFrame(counts).fillna(0).astype(int).reset_index()
        if counts["stopped"].size
        else pd.DataFrame()
    )


def saved(rows: pd.DataFrame) -> tuple[float, float]:
    """Shares of epochs, trained and charged (`spent`), that a study took which losers left, of what
    all would have taken.
    """
    seen = rows[rows["rung"] > 0].drop_duplicates(["arm", "member", "rung"], keep="last")
    full = seen["epochs"].where(seen["status"] == "done")
    full = full.groupby(seen["arm"]).transform("max").fillna(full.max())
    dense = dense_epochs(seen)
    took, every = spent(seen, dense), spent(seen.assign(epochs=full), dense)
    return took[0] / every[0], took[1] / every[1]


def told(lines: pd.DataFrame, goals: Goals) -> str:
    """What a reader should know of the curve of `tried`."""
    floor = (
        f", and at least the best {FLOOR} of each decade of {goals.minimize[0]}"
        if goals.minimize
        else ""
    )
    return (
        "What stopping would have spent and kept, computed from the rows: members do not influence each other. At each rung "
        "but the last the best one in so many settings goes on, by non-dominated layers of means over seeds "
        f"({', '.join(goals.measures)}){floor}. Kept: "
        f"hypervolume of what reaches the last rung over that of all, for each of {lines['seed'].nunique()} seeds. Epochs are "
        "counted as trained, what members share once; in brackets, as charged to each member."
    )
