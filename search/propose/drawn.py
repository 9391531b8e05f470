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
        return Proposals(arm, no_points, _combinations(arm))
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
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]  # counts from the end, and raises, as any sequence does
        drawn = len(self.points)
        if i < drawn:
            hp = place(self.arm.space, self.points[i])
        else:
            hp = _combination(self.arm, int(self.places[i - drawn]))
        return settled(self.arm, hp)


def active(arm: Arm, hp: Hp, name: str) -> bool:
    """Whether the hyper-parameter `name` is searched in `hp`: the others have the values that its
    condition names.
    """
    domains = arm.algorithm.space
    for other, values in arm.when.get(name, {}).items():
        if hp.get(other, domains[other].default) not in values:
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
            hp[name] = values[int(u * len(values))]
    return hp


def _in_span(span: Span, u: float) -> float | int:
    """The number at a share `u` of a range."""
    if span.whole:
        return _whole_in_span(span, u)
    if not span.log:
        return _between(span.low, span.high, u)
    logarithm = _between(math.log(span.low), math.log(span.high), u)
    number = math.exp(logarithm)
    return min(max(number, span.low), span.high)


def _whole_in_span(span: Span, u: float) -> int:
    low = span.low - 0.5
    high = span.high + 0.5
    if span.log:
        least = math.log(max(low, 0.5))
        number = math.exp(_between(least, math.log(high), u))
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
    count = 2 ** math.ceil(math.log2(arm.members))
    points = [np.empty((0, len(arm.space)))]
    draw = _source(arm)
    for _ in range(MOST_TURNS):
        if len(seen) >= wanted:
            break
        drawn = draw(count)
        points.append(drawn[_new_points(arm, drawn, wanted, seen)])
    places: list[int] = []
    size = _size(arm)
    if len(seen) < wanted and math.isfinite(size):
        # What is rare on a logarithm may be missed in every turn.
        for index in range(int(size)):
            if _is_new(arm, _combination(arm, index), seen):
                places.append(index)
            if len(seen) == wanted:
                break
    return Proposals(arm, np.concatenate(points), places)


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
        if _is_new(arm, place(arm.space, point), seen):
            new.append(index)
    return new


def _is_new(arm: Arm, hp: Hp, seen: set[bytes]) -> bool:
    """Whether a configuration is not among those seen, among which it is from now on."""
    before = len(seen)
    seen.add(digest(settled(arm, hp)))
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
            values = range(int(values.low), int(values.high) + 1)
        columns[name] = values
    return columns


def _combination(arm: Arm, place: int) -> Configuration:
    """The combination of values at a place of the grid, the last one varying fastest."""
    hp: Configuration = {}
    for name, values in reversed(_columns(arm).items()):
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
    values = {name: list(column) for name, column in columns.items()}
    indices = np.unravel_index(np.arange(size), lengths)
    codes = dict(zip(columns, indices, strict=True))
    for name, condition in arm.when.items():
        default = arm.algorithm.space[name].default
        if default not in values[name]:
            values[name].append(default)
        is_active = np.ones(size, dtype=bool)
        for other, wanted in condition.items():
            fitting = _indices(values[other], wanted)
            is_active &= np.isin(codes[other], fitting)
        code = values[name].index(default)
        codes[name] = np.where(is_active, codes[name], code)
    settled_lengths = [len(values[name]) for name in columns]
    settled_places = np.ravel_multi_index(tuple(codes.values()), settled_lengths)
    _, first = np.unique(settled_places, return_index=True)
    return np.sort(first)


def _indices(values: Sequence[Value], wanted: Sequence[Value]) -> list[int]:
    """Where the wanted ones are."""
    indices: list[int] = []
    for index, value in enumerate(values):
        if value in wanted:
            indices.append(index)
    return indices
