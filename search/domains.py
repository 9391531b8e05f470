"""Proposals: the configurations that a sampler makes of an arm's search space. The same, whenever they are asked for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import qmc

from ..trainables.contract import Value, complete
from .study import Arm, Span


def proposals(arm: Arm) -> list[dict[str, Value]]:
    """Every configuration of `arm`, hyper-parameters complete with defaults; none twice.

    grid: all combinations of the values, the last one varying fastest.  random: independent draws.  sobol: a scrambled Sobol'
    sequence (Owen 1998), which fills the space evenly.  Both of them are seeded with 0.
    """
    return [complete(arm.algorithm.space, hp) for hp in (_grid(arm) if arm.sampler == "grid" else _draws(arm))]


def _grid(arm: Arm) -> list[dict[str, Value]]:
    columns = [values for values in arm.space.values() if not isinstance(values, Span)]
    return [dict(zip(arm.space, values, strict=True)) for values in itertools.product(*columns)]


def _draws(arm: Arm) -> list[dict[str, Value]]:
    """`arm.members` distinct configurations, or as many as there are."""
    assert arm.members is not None, "checked when the study was read"
    size = math.prod(_size(values) for values in arm.space.values())
    wanted = min(arm.members, size)
    found: dict[tuple[Value, ...], dict[str, Value]] = {}
    generator, sobol = np.random.default_rng(0), qmc.Sobol(len(arm.space), rng=0)
    # A power of two at a time keeps the balance of the sequence; what is too many is cut off.
    count = 2 ** math.ceil(math.log2(arm.members))
    for _ in range(64):  # repeated values are passed over; a small space may take several turns
        if len(found) >= wanted:
            break
        points = generator.random((count, len(arm.space))) if arm.sampler == "random" else sobol.random(count)
        for point in points:
            hp = _place(arm.space, point)
            found.setdefault(tuple(hp.values()), hp)
    if len(found) < wanted and math.isfinite(size):  # what is rare on a logarithm may be missed in every turn
        columns = [range(int(v.low), int(v.high) + 1) if isinstance(v, Span) else v for v in arm.space.values()]
        for values in itertools.product(*columns):
            found.setdefault(values, dict(zip(arm.space, values, strict=True)))
    return list(found.values())[: int(wanted)]


def _size(values: tuple[Value, ...] | Span) -> float:
    """How many different values there are."""
    if isinstance(values, Span):
        return values.high - values.low + 1 if values.whole else math.inf
    return len(values)


def _place(space: Mapping[str, tuple[Value, ...] | Span], point: np.ndarray) -> dict[str, Value]:
    """The configuration at a point of the unit cube."""
    hp: dict[str, Value] = {}
    for (name, values), u in zip(space.items(), point.tolist(), strict=True):
        if not isinstance(values, Span):
            hp[name] = values[int(u * len(values))]
        elif values.whole:
            low, high = values.low - 0.5, values.high + 0.5
            drawn = math.exp(_between(math.log(max(low, 0.5)), math.log(high), u)) if values.log else _between(low, high, u)
            hp[name] = int(min(max(round(drawn), values.low), values.high))
        elif values.log:
            hp[name] = min(max(math.exp(_between(math.log(values.low), math.log(values.high), u)), values.low), values.high)
        else:
            hp[name] = _between(values.low, values.high, u)
    return hp


def _between(low: float, high: float, u: float) -> float:
    return low + u * (high - low)
