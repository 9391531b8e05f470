"""Stopping by dominance: which settings go on from a rung, and what stopping would have kept of a study that ran whole.

Successive halving on the front: settings are ordered by non-dominated layers, and one in so many goes on. A setting is
(arm, hp), its measures are means over its seeds, and its seeds share its fate: else means would be of those that were lucky.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from . import front
from .goals import Goals

SETTING = ["arm", "hp"]
UNFIT = ("diverged", "failed", "skipped")


def order(values: ArrayLike, directions: Sequence[bool], violations: ArrayLike | None = None) -> NDArray[np.int64]:
    """Positions from the best point to the worst, (n,): fewest limits broken, layer of violations, layer, crowding, index.

    values: (n, m).  directions: (m,), True where more is better.  violations: (n, c), at most 0 where a limit is kept.
    Constraint-domination, non-dominated layers and crowding distance are Deb et al. 2002; violations are layered, not
    summed, as each limit has a unit of its own. Equal points are one point in the crowd. What is not finite comes last.
    """
    places, _ = _places(values, directions, violations)
    return np.argsort(places)


def _places(
    values: ArrayLike, directions: Sequence[bool], violations: ArrayLike | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The place of each point in the order, from 0, and its layer, from 1."""
    costs = np.where(np.asarray(directions, dtype=bool), -1.0, 1.0) * np.asarray(values, dtype=float)
    broken = np.empty((len(costs), 0)) if violations is None else np.maximum(np.asarray(violations, dtype=float), 0.0)
    joined = np.hstack([broken, costs])
    whole = np.isfinite(joined).all(axis=1)
    points, of = np.unique(joined[whole], axis=0, return_inverse=True)
    keys = [(points[:, : broken.shape[1]] > 0).sum(axis=1).astype(float)]
    columns = np.split(points, [broken.shape[1]], axis=1)
    for part, rank in ((columns[0], _layers), (columns[1], _layers), (columns[1], _crowded)):
        found = np.zeros(len(points))
        _, alike = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
        for group in np.split(np.argsort(alike, kind="stable"), np.cumsum(np.bincount(alike))[:-1]):
            found[group] = rank(part[group])
        keys.append(found)
    _, layer = np.unique(np.stack(keys[:-1], axis=1), axis=0, return_inverse=True)
    layers = np.full(len(costs), layer.max(initial=-1) + 2)
    layers[whole] = layer[of] + 1
    crowd = np.zeros(len(costs))
    crowd[whole] = keys[-1][of]
    places = np.empty(len(costs), dtype=np.int64)
    places[np.lexsort((crowd, layers))] = np.arange(len(costs))
    return places, layers


def _layers(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The non-dominated layer of each point, from 0; less is better."""
    return moocore.pareto_rank(points).astype(float) if points.size else np.zeros(len(points))


def _crowded(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus the crowding distance of each point: minus infinity at the ends of an objective (Deb et al. 2002)."""
    distance = np.zeros(len(points))
    for column in points.T:
        by = np.argsort(column, kind="stable")
        spread = column[by[-1]] - column[by[0]] if len(column) else 0.0
        if spread:
            distance[by[1:-1]] += (column[by[2:]] - column[by[:-2]]) / spread
            distance[by[[0, -1]]] = math.inf
    return -distance


def settings_at(rows: pd.DataFrame, rung: int, goals: Goals) -> pd.DataFrame:
    """One line for each setting measured at a rung, indexed by (arm, hp): `rung`, and means over seeds of `goals.columns`.

    A setting is there once each seed of the rows has a row of it at that rung, or ended badly at it or before; means are
    NaN where one ended badly.
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

    pool: as from `settings_at`.  The best ceil(n / factor) of n settings go on, and of each decade of the first measure to
    minimize at least `floor`, the best there. Settings of equal measures share their fate. One that ended badly in a seed
    does not go on.
    """
    values, violations = goals.values(pool), goals.violations(pool)
    places, layers = _places(values, goals.directions, violations)
    fit = np.asarray(np.isfinite(np.hstack([values, violations])).all(axis=1))
    go = places < math.ceil(len(pool) / factor)
    if goals.minimize:
        place = pd.Series(places, index=pool.index)
        go |= (place.groupby(_decades(values[:, len(goals.maximize)])).rank() <= floor).to_numpy()
    alike = [pool[name] for name in goals.columns]
    go = pd.Series(go & fit, index=pool.index).groupby(alike, dropna=False).transform("any").to_numpy(dtype=bool) & fit
    ranked = [
        f"layer {layer}, place {place + 1} of {len(pool)}" if whole else "a seed diverged, failed or was not measured"
        for layer, place, whole in zip(layers, places, fit.tolist(), strict=True)
    ]
    reason = [f"rung {rung}: {said}; {go.sum()} go on" for rung, said in zip(pool["rung"], ranked, strict=True)]
    return pd.DataFrame({"go": go, "reason": reason}, index=pool.index)


def _decades(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The power of ten at or below each cost; minus infinity for what costs nothing, NaN for what has none."""
    with np.errstate(divide="ignore"):
        return np.floor(np.log10(np.maximum(costs, 0.0)))
