"""Proposals: grids in order, draws that are distinct, in their range, spread, and the same every
time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefront.search.propose.drawn import proposals
from prunefront.search.study.schema import Arm, Span
from prunefront.trainables.algorithms import find
from prunefront.trainables.domain import Value

Space = Mapping[str, tuple[Value, ...] | Span]
DRAWS = ("random", "sobol")


def arm(space: Space, sampler: str = "grid", members: int | None = None) -> Arm:
    """An arm of magnitude pruning."""
    return Arm("a", "magnitude", find("magnitude"), sampler, members, space)


def drawn(name: str, values: tuple[Value, ...] | Span, sampler: str, members: int) -> list[float]:
    """The values of one hyper-parameter in the proposals for it alone."""
    found = [hp[name] for hp in proposals(arm({name: values}, sampler, members))]
    assert all(isinstance(value, int | float) for value in found)
    return found  # type: ignore[return-value]


def test_grid_order_and_defaults() -> None:
    found = proposals(
        arm({"sparsity": (0.5, 0.1), "scope": ("layerwise", "global"), "floor": (0.0,)})
    )
    assert [(hp["sparsity"], hp["scope"]) for hp in found] == [
        (0.5, "layerwise"), (0.5, "global"), (0.1, "layerwise"), (0.1, "global")
    ]  # fmt: skip
    domains = find("magnitude").space
    for hp in found:
        assert list(hp) == sorted(domains)
        assert (hp["floor"], hp["lr"], hp["every"]) == (0.0, None, domains["every"].default)


def test_an_empty_space_is_the_defaults() -> None:
    assert list(proposals(arm({}))) == [
        {name: domain.default for name, domain in sorted(find("magnitude").space.items())}
    ]


@given(sizes=st.lists(st.integers(1, 4), max_size=3))
def test_grid_is_all_combinations(sizes: list[int]) -> None:
    names = ("sparsity", "floor", "ramp")
    space = {
        name: tuple((k + 1) / 8 for k in range(size))
        for name, size in zip(names, sizes, strict=False)
    }
    found = [tuple(hp[name] for name in space) for hp in proposals(arm(space))]
    assert found == list(itertools.product(*space.values()))


@st.composite
def _spaces(draw: st.DrawFn) -> Space:
    low = draw(st.floats(1e-6, 0.5))
    every = draw(st.integers(1, 50))
    columns: dict[str, tuple[Value, ...] | Span] = {
        "sparsity": Span(low, draw(st.floats(low * 1.01, 0.99)), draw(st.booleans()), whole=False),
        "every": Span(every, every + draw(st.integers(1, 40)), draw(st.booleans()), whole=True),
        "scope": ("layerwise", "global"),
        "ramp": (0.25, 0.5, 1.0),
    }
    names = draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, unique=True))
    return {name: columns[name] for name in names}


@settings(deadline=None)
@given(space=_spaces(), sampler=st.sampled_from(DRAWS), members=st.integers(1, 40))
def test_draws_are_distinct_within_range_and_the_same_every_time(
    space: Space, sampler: str, members: int
) -> None:
    found = proposals(arm(space, sampler, members))
    assert list(found) == list(proposals(arm(space, sampler, members)))
    sizes = [
        len(v) if isinstance(v, tuple) else v.high - v.low + 1 if v.whole else math.inf
        for v in space.values()
    ]
    assert len(found) == min(members, math.prod(sizes))
    assert len({tuple(hp.values()) for hp in found}) == len(found)
    for hp in found:
        for name, values in space.items():
            value = hp[name]
            if isinstance(values, Span):
                assert isinstance(value, int if values.whole else float)
                assert values.low <= value <= values.high
            else:
                assert value in values


@pytest.mark.parametrize("sampler", DRAWS)
def test_more_members_add_to_fewer(sampler: str) -> None:
    span = Span(0.0, 0.5, log=False, whole=False)
    few = drawn("sparsity", span, sampler, 5)
    assert drawn("sparsity", span, sampler, 8)[:5] == few


@pytest.mark.parametrize("sampler", DRAWS)
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("span", [(1, 13), (1, 1000), (3, 4)])
def test_finite_spaces_are_exhausted(sampler: str, log: bool, span: tuple[int, int]) -> None:
    low, high = span
    values = drawn("every", Span(low, high, log, whole=True), sampler, 1500)
    assert sorted(values) == list(range(low, high + 1))


def test_sobol_fills_the_space_evenly() -> None:
    values = drawn("sparsity", Span(0.0, 0.5, log=False, whole=False), "sobol", 64)
    assert sorted(int(value * 128) for value in values) == list(
        range(64)
    )  # one in each of 64 equal parts


@pytest.mark.parametrize("sampler", DRAWS)
def test_logarithmic_ranges_are_spread_over_the_logarithm(sampler: str) -> None:
    values = drawn("lr", Span(1e-6, 1.0, log=True, whole=False), sampler, 4096)
    decades = [
        sum(10.0**k <= value < 10.0 ** (k + 1) for value in values) / len(values)
        for k in range(-6, 0)
    ]
    assert decades == pytest.approx([1 / 6] * 6, abs=0.03)


@pytest.mark.parametrize("sampler", DRAWS)
def test_whole_numbers_are_equally_likely_at_the_ends(sampler: str) -> None:
    space: Space = {
        "every": Span(1, 4, log=False, whole=True),
        "ramp": Span(0.1, 1.0, log=False, whole=False),
    }
    found = [hp["every"] for hp in proposals(arm(space, sampler, 2048))]
    assert [found.count(k) / 2048 for k in (1, 2, 3, 4)] == pytest.approx([0.25] * 4, abs=0.04)
