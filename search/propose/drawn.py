"""Proposals: the configurations that a sampler makes of an arm's search space. The same, whenever
they are asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ...trainables.domain import Value, complete
from ..study.schema import MOST_CONFIGURATIONS, Arm, Hp, Space, Span, Values

Points = NDArray[np.float64]
"""Of the unit cube, one or more."""
Configuration = dict[str, Value]
Places = Sequence[int] | NDArray[np.int64]
"""Of combinations of values on a grid, the last hyper-parameter varying fastest."""
MOST_TURNS = 64
"""Of drawing again, since what is drawn twice is passed over."""


def proposals(arm: Arm) -> Proposals:
    """Every configuration of `arm`, hyper-parameters complete with defaults; none twice.

    grid: all combinations of the values, the last one varying fastest.  random: independent draws.
    sobol: a scrambled Sobol' sequence (Owen 1998), which fills the space evenly.  Both of them are
    seeded with the arm's `sampler_seed`.
    """
    assert arm.sampler in ("grid", "random", "sobol"), "the others propose from what was measured"
    if arm.sampler == "grid":
        no_points = np.empty((0, len(arm.space)))
        places = _combinations(arm)
        return Proposals(arm, no_points, places)
    return _draws(arm)


@dataclasses.dataclass(frozen=True)
class Proposals(Sequence[Configuration]):
    """Configurations that are made when they are asked for, in small memory.

    points: (n, d) of the unit cube, for those that are drawn.  places: of those on a grid, which
    come after them.
    """

    arm: Arm
    points: Points
    places: Places

    def __len__(self) -> int:
        return len(self.points) + len(self.places)

    @overload
    def __getitem__(self, index: int) -> Configuration: ...
    @overload
    def __getitem__(self, index: slice) -> list[Configuration]: ...
    def __getitem__(self, index: int | slice) -> Configuration | list[Configuration]:
        if isinstance(index, slice):
            indices = range(*index.indices(len(self)))
            return [self[i] for i in indices]
        i = range(len(self))[index]  # counts from the end, and raises, as any sequence does
        drawn = len(self.points)
        if i < drawn:
            point = self.points[i]
            hp = place(self.arm.space, point)
        else:
            place_on_grid = int(self.places[i - drawn])
            hp = _combination(self.arm, place_on_grid)
        return settled(self.arm, hp)


def active(arm: Arm, hp: Hp, name: str) -> bool:
    """Whether the hyper-parameter `name` is searched in `hp`: the others have the values that its
    condition names.
    """
    domains = arm.algorithm.space
    condition = arm.when.get(name, {})
    for other, values in condition.items():
        default = domains[other].default
        if hp.get(other, default) not in values:
            return False
    return True


def settled(arm: Arm, hp: Hp) -> Configuration:
    """`hp` complete with defaults, which also those have that are not searched in it."""
    kept = dict(hp)
    for name in arm.when:
        if not active(arm, kept, name):
            kept.pop(name, None)
    return complete(arm.algorithm.space, kept)


def digest(hp: Hp) -> bytes:
    """What tells complete configurations apart, 16 bytes."""
    content = repr(sorted(hp.items()))
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def place(space: Space, point: Points) -> Configuration:
    """The configuration at a point of the unit cube."""
    hp: Configuration = {}
    for (name, values), u in zip(space.items(), point.tolist(), strict=True):
        if isinstance(values, Span):
            hp[name] = _in_span(values, u)
        else:
            index = int(u * len(values))
            hp[name] = values[index]
    return hp


def _in_span(span: Span, u: float) -> float | int:
    """The number at a share `u` of a range."""
    if span.whole:
        return _whole_in_span(span, u)
    if not span.log:
        return _between(span.low, span.high, u)
    low = math.log(span.low)
    high = math.log(span.high)
    number = math.exp(_between(low, high, u))
    number = max(number, span.low)
    return min(number, span.high)


def _whole_in_span(span: Span, u: float) -> int:
    low = span.low - 0.5
    high = span.high + 0.5
    if span.log:
        least = math.log(max(low, 0.5))
        most = math.log(high)
        number = math.exp(_between(least, most, u))
    else:
        number = _between(low, high, u)
    nearest = max(round(number), span.low)
    return int(min(nearest, span.high))


def _between(low: float, high: float, u: float) -> float:
    return low + u * (high - low)


def _draws(arm: Arm) -> Proposals:
    """`arm.members` distinct configurations, or as many as there are."""
    assert arm.members is not None, "checked when the study was read"
    wanted = min(arm.members, _most(arm))
    seen: set[bytes] = set()
    # A power of two at a time keeps the balance of the sequence; what is too many is cut off.
    exponent = math.ceil(math.log2(arm.members))
    count = 2**exponent
    points = [np.empty((0, len(arm.space)))]
    draw = _source(arm)
    for _ in range(MOST_TURNS):
        if len(seen) >= wanted:
            break
        drawn = draw(count)
        new = _new_points(arm, drawn, wanted, seen)
        points.append(drawn[new])
    places: list[int] = []
    size = _size(arm)
    if len(seen) < wanted and math.isfinite(size):
        # What is rare on a logarithm may be missed in every turn.
        for index in range(int(size)):
            hp = _combination(arm, index)
            if _is_new(arm, hp, seen):
                places.append(index)
            if len(seen) == wanted:
                break
    all_points = np.concatenate(points)
    return Proposals(arm, all_points, places)


def _source(arm: Arm) -> Callable[[int], Points]:
    """What draws so many points of the unit cube, others at each call."""
    dimensions = len(arm.space)
    if arm.sampler == "random":
        generator = np.random.default_rng(arm.sampler_seed)
        return lambda count: generator.random((count, dimensions))
    # It takes a second to import, in every worker too, and few studies need it.
    from scipy.stats import qmc

    return qmc.Sobol(dimensions, rng=arm.sampler_seed).random


def _new_points(
    arm: Arm,
    points: Points,
    wanted: float,
    seen: set[bytes],
) -> list[int]:
    """Indices of the points whose configurations are not among those seen, among which they are
    from now on, until so many are seen as are wanted.
    """
    new: list[int] = []
    for index, point in enumerate(points):
        if len(seen) >= wanted:
            break
        hp = place(arm.space, point)
        if _is_new(arm, hp, seen):
            new.append(index)
    return new


def _is_new(arm: Arm, hp: Hp, seen: set[bytes]) -> bool:
    """Whether a configuration is not among those seen, among which it is from now on."""
    before = len(seen)
    complete_hp = settled(arm, hp)
    seen.add(digest(complete_hp))
    return len(seen) > before


def _most(arm: Arm) -> float:
    """How many distinct configurations there are at most; exactly, unless conditions make equal
    ones of more than `MOST_CONFIGURATIONS`.
    """
    size = _size(arm)
    if size <= MOST_CONFIGURATIONS:
        return len(_combinations(arm))
    return size


def _size(arm: Arm) -> float:
    """How many combinations of values there are, conditions aside."""
    return math.prod(map(_value_count, arm.space.values()))


def _value_count(values: Values) -> float:
    if not isinstance(values, Span):
        return len(values)
    if not values.whole:
        return math.inf
    return values.high - values.low + 1


def _columns(arm: Arm) -> dict[str, Sequence[Value]]:
    """The values of each hyper-parameter of a finite space."""
    columns: dict[str, Sequence[Value]] = {}
    for name, values in arm.space.items():
        if isinstance(values, Span):
            low = int(values.low)
            high = int(values.high)
            values = range(low, high + 1)
        columns[name] = values
    return columns


def _combination(arm: Arm, place: int) -> Configuration:
    """The combination of values at a place of the grid, the last one varying fastest."""
    hp: Configuration = {}
    columns = _columns(arm)
    for name, values in reversed(columns.items()):
        place, digit = divmod(place, len(values))
        hp[name] = values[digit]
    return hp


def _combinations(arm: Arm) -> Places:
    """Places of the grid whose configurations differ: the first of those that conditions make
    equal.
    """
    columns = _columns(arm)
    lengths = [len(column) for column in columns.values()]
    size = math.prod(lengths)
    if not arm.when:
        return range(size)
    values: dict[str, list[Value]] = {}
    for name, column in columns.items():
        values[name] = list(column)
    places = np.arange(size)
    indices = np.unravel_index(places, lengths)
    codes = dict(zip(columns, indices, strict=True))
    for name, condition in arm.when.items():
        default = arm.algorithm.space[name].default
        if default not in values[name]:
            values[name].append(default)
        is_active = np.ones(size, dtype=bool)
        for other, wanted in condition.items():
            fitting = _indices(values[other], wanted)
            is_active &= np.isin(codes[other], fitting)
        default_code = values[name].index(default)
        codes[name] = np.where(is_active, codes[name], default_code)
    settled_lengths = [len(values[name]) for name in columns]
    settled_codes = tuple(codes.values())
    settled_places = np.ravel_multi_index(settled_codes, settled_lengths)
    _, first = np.unique(settled_places, return_index=True)
    return np.sort(first)


def _indices(values: Sequence[Value], wanted: Sequence[Value]) -> list[int]:
    """Where the wanted ones are."""
    indices: list[int] = []
    for index, value in enumerate(values):
        if value in wanted:
            indices.append(index)
    return indices
