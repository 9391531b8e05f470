"""Proposals: the configurations that a sampler makes of an arm's search space. The same, whenever
they are asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ...trainables.contract import Value, complete
from ..study.schema import MOST_CONFIGURATIONS, Arm, Span, Values

Configuration = dict[str, Value]


def proposals(arm: Arm) -> Proposals:
    """Every configuration of `arm`, hyper-parameters complete with defaults; none twice.

    grid: all combinations of the values, the last one varying fastest.  random: independent draws.
    sobol: a scrambled Sobol' sequence (Owen 1998), which fills the space evenly.  Both of them are
    seeded with the arm's `sampler_seed`.
    """
    assert arm.sampler in ("grid", "random", "sobol"), "the others propose from what was measured"
    if arm.sampler == "grid":
        return Proposals(arm, np.empty((0, len(arm.space))), _combinations(arm))
    return _draws(arm)


@dataclasses.dataclass(frozen=True)
class Proposals(Sequence[Configuration]):
    """Configurations that are made when they are asked for, in small memory.

    points: (n, d) of the unit cube, for those that are drawn.  places: of those on a grid, which
    come after them.
    """

    arm: Arm
    points: NDArray[np.float64]
    places: Sequence[int] | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points) + len(self.places)

    @overload
    def __getitem__(self, index: int) -> Configuration: ...
    @overload
    def __getitem__(self, index: slice) -> list[Configuration]: ...
    def __getitem__(self, index: int | slice) -> Configuration | list[Configuration]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]  # counts from the end, and raises, as any sequence does
        drawn = i < len(self.points)
        hp = (
            place(self.arm.space, self.points[i])
            if drawn
            else _at(self.arm, int(self.places[i - len(self.points)]))
        )
        return settled(self.arm, hp)


def active(arm: Arm, hp: Mapping[str, Value], name: str) -> bool:
    """Whether the hyper-parameter `name` is searched in `hp`: the others have the values that its
    condition names.
    """
    domains = arm.algorithm.space
    return all(
        hp.get(other, domains[other].default) in values
        for other, values in arm.when.get(name, {}).items()
    )


def settled(arm: Arm, hp: Mapping[str, Value]) -> Configuration:
    """`hp` complete with defaults, which also those have that are not searched in it."""
    kept = dict(hp)
    for name in arm.when:
        if not active(arm, kept, name):
            kept.pop(name, None)
    return complete(arm.algorithm.space, kept)


def digest(hp: Mapping[str, Value]) -> bytes:
    """What tells complete configurations apart, 16 bytes."""
    return hashlib.blake2b(repr(sorted(hp.items())).encode(), digest_size=16).digest()


def _draws(arm: Arm) -> Proposals:
    """`arm.members` distinct configurations, or as many as there are."""
    from scipy.stats import (
        qmc,  # takes a second to import, in every worker too, and few studies need it
    )

    assert arm.members is not None, "checked when the study was read"
    wanted = min(arm.members, _most(arm))
    points, seen = [np.empty((0, len(arm.space)))], set[bytes]()
    generator, sobol = (
        np.random.default_rng(arm.sampler_seed),
        qmc.Sobol(len(arm.space), rng=arm.sampler_seed),
    )
    # A power of two at a time keeps the balance of the sequence; what is too many is cut off.
    count = 2 ** math.ceil(math.log2(arm.members))
    for _ in range(64):  # repeated values are passed over; a small space may take several turns
        if len(seen) >= wanted:
            break
        drawn = (
            generator.random((count, len(arm.space)))
            if arm.sampler == "random"
            else sobol.random(count)
        )
        new = [
            i
            for i, point in enumerate(drawn)
            if len(seen) < wanted and _new(arm, place(arm.space, point), seen)
        ]
        points.append(drawn[new])
    places: list[int] = []
    if len(seen) < wanted and math.isfinite(size := math.prod(map(_size, arm.space.values()))):
        for index in range(int(size)):  # what is rare on a logarithm may be missed in every turn
            if _new(arm, _at(arm, index), seen):
                places.append(index)
            if len(seen) == wanted:
                break
    return Proposals(arm, np.concatenate(points), places)


def _new(arm: Arm, hp: Mapping[str, Value], seen: set[bytes]) -> bool:
    """Whether a configuration is not among those seen, among which it is from now on."""
    before = len(seen)
    seen.add(digest(settled(arm, hp)))
    return len(seen) > before


def _most(arm: Arm) -> float:
    """How many distinct configurations there are at most; exactly, unless conditions make equal
    ones of more than `MOST_CONFIGURATIONS`.
    """
    size = math.prod(map(_size, arm.space.values()))
    return len(_combinations(arm)) if size <= MOST_CONFIGURATIONS else size


def _size(values: tuple[Value, ...] | Span) -> float:
    """How many different values there are."""
    if isinstance(values, Span):
        return values.high - values.low + 1 if values.whole else math.inf
    return len(values)


def _columns(arm: Arm) -> list[Sequence[Value]]:
    """The values of each hyper-parameter of a finite space."""
    return [
        range(int(v.low), int(v.high) + 1) if isinstance(v, Span) else v for v in arm.space.values()
    ]


def _at(arm: Arm, place: int) -> Configuration:
    """The combination of values at a place of the grid, the last one varying fastest."""
    hp: Configuration = {}
    for name, values in reversed([*zip(arm.space, _columns(arm), strict=True)]):
        place, digit = divmod(place, len(values))
        hp[name] = values[digit]
    return hp


def _combinations(arm: Arm) -> Sequence[int] | NDArray[np.int64]:
    """Places of the grid whose configurations differ: the first of those that conditions make
    equal.
    """
    columns = _columns(arm)
    size = math.prod(map(len, columns))
    if not arm.when:
        return range(size)
    codes = dict(
        zip(arm.space, np.unravel_index(np.arange(size), [*map(len, columns)]), strict=True)
    )
    values = {name: [*column] for name, column in zip(arm.space, columns, strict=True)}
    for name, needs in arm.when.items():
        default = arm.algorithm.space[name].default
        if default not in values[name]:
            values[name].append(default)
        held = [
            np.isin(codes[o], [i for i, v in enumerate(values[o]) if v in wanted])
            for o, wanted in needs.items()
        ]
        codes[name] = np.where(
            np.logical_and.reduce(held), codes[name], values[name].index(default)
        )
    _, first = np.unique(
        np.ravel_multi_index([*codes.values()], [*map(len, values.values())]), return_index=True
    )
    return np.sort(first)


def place(
    space: Mapping[str, tuple[Value, ...] | Span], point: NDArray[np.float64]
) -> Configuration:
    """The configuration at a point of the unit cube."""
    hp: Configuration = {}
    for (name, values), u in zip(space.items(), point.tolist(), strict=True):
        if not isinstance(values, Span):
            hp[name] = values[int(u * len(values))]
        elif values.whole:
            low, high = values.low - 0.5, values.high + 0.5
            drawn = (
                math.exp(_between(math.log(max(low, 0.5)), math.log(high), u))
                if values.log
                else _between(low, high, u)
            )
            hp[name] = int(min(max(round(drawn), values.low), values.high))
        elif values.log:
            hp[name] = min(
                max(math.exp(_between(math.log(values.low), math.log(values.high), u)), values.low),
                values.high,
            )
        else:
            hp[name] = _between(values.low, values.high, u)
    return hp


def _between(low: float, high: float, u: float) -> float:
    return low + u * (high - low)
