"""Timed numbers: Python's numbers as functions of the step, and the steps for which a graph holds."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from prunefront.trainables.training.compiled import Graph
from prunefront.trainables.training.timed import Clock, Timed, timed

STEPS = range(40)
Of = Callable[[Any], Any]
"""A number, out of the step."""


def clock(step: int) -> Clock:
    return Clock(step, torch.device("cpu"))


def outcome(of: Of, step: Any) -> Any:
    """What a function gives, or the kind of its error."""
    try:
        return of(step)
    except (ArithmeticError, RuntimeWarning) as error:
        return type(error)


BINARY: list[Callable[[Any, Any], Any]] = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    min,
    max,
]
SINGLE: list[Of] = [
    operator.neg,
    operator.pos,
    abs,
    math.floor,
    math.ceil,
    math.trunc,
    round,
    lambda x: round(x, 1),
    lambda x: x**2,
    lambda x: 0.5**x,
    lambda x: np.sqrt(abs(x)),
    lambda x: np.cos(x),
    lambda x: np.exp(-abs(x)),
    lambda x: divmod(x, 7)[0],
    lambda x: divmod(x, 7)[1],
    lambda x: 0.25 * (x > 3),
]
NUMBERS = st.integers(-9, 9) | st.floats(-9, 9, allow_subnormal=False)


def followed(base: st.SearchStrategy[Of]) -> st.SearchStrategy[Of]:
    """Numbers that follow from others."""

    def single(function: Of, of: Of) -> Of:
        return lambda step: function(of(step))

    def binary(function: Callable[[Any, Any], Any], left: Of, right: Of) -> Of:
        return lambda step: function(left(step), right(step))

    return st.builds(single, st.sampled_from(SINGLE), base) | st.builds(
        binary, st.sampled_from(BINARY), base, base
    )


def constant(number: float) -> Of:
    return lambda step: number


EXPRESSIONS = st.recursive(
    st.just(lambda step: step) | NUMBERS.map(constant), followed, max_leaves=6
)


@given(EXPRESSIONS, st.sampled_from(STEPS))
def test_a_number_is_pythons(of: Of, step: int):
    expected = outcome(of, step)
    got = outcome(of, clock(step).step)
    if isinstance(got, Timed):
        assert type(got.now) is type(expected)
        got = got.now
    assert got == expected or (got != got and expected != expected)


@given(EXPRESSIONS)
def test_over_many_steps_it_is_what_it_is_at_each(of: Of):
    """Of the steps at which Python took the same way."""
    outcomes = [outcome(of, step) for step in STEPS]
    assume(not any(isinstance(value, type) for value in outcomes))
    for now in (0, 17):
        watch = clock(now)
        number = outcome(of, watch.step)
        if not isinstance(number, Timed):
            continue
        graph = Graph(list(watch.conditions.values()))
        alike = [step for step in STEPS if graph.among(range(step, step + 1)).all()]
        expected = [outcomes[step] for step in alike]
        np.testing.assert_array_equal(list(number.over(alike)), expected)


def _branched(step: Any) -> list[object]:
    """What a hook may ask, which is what it does."""
    asked: list[object] = []
    if step % 5:
        asked.append("between")
    elif step in (10, 20):
        asked.append("listed")
    if step > 3 and math.floor(60 / (step - 3)) > 4:  # at step 3 it would divide by zero
        asked.append("early")
    if 7 <= step < 12 or step == 30:
        asked.append(min(step, 2))
    asked.append(int(step / 16))
    asked.append(list(range(step // 13)))
    asked.append([10, 20, 30, 40][step // 10])
    asked.append(bool(step - 39))
    asked.append(f"{step // 20:02d}")
    return asked


def test_a_graph_is_of_the_steps_at_which_branches_are_the_same():
    for now in STEPS:
        watch = clock(now)
        seen = _branched(watch.step)
        assert seen == _branched(now)
        graph = Graph(list(watch.conditions.values()))
        same = [_branched(step) == seen for step in STEPS]
        assert graph.among(STEPS).tolist() == same
        assert graph.among(range(5, 23)).tolist() == same[5:23]


def test_what_is_asked_is_held_and_no_more():
    watch = clock(13)
    if watch.step % 10:
        assert Graph(list(watch.conditions.values())).among(STEPS).sum() == 36
    watch = clock(13)
    assert watch.step not in {10, 20}
    assert Graph(list(watch.conditions.values())).among(STEPS).sum() == 1, (
        "a set looks at all of it"
    )


def test_whole_numbers_have_no_end():
    watch = clock(3)
    number = watch.step**40 % 1000
    assert number.now == 3**40 % 1000
    assert number.over([13, 2]) == [13**40 % 1000, 2**40 % 1000]


def test_no_number_of_now_is_looked_at_where_it_meets_a_tensor():
    watch = clock(5)
    assert float(torch.ones(()) * watch.step) == 5
    assert not watch.conditions
    assert len(watch.columns) == 1
    _ = watch.step * torch.ones(2) + (watch.step + 1)
    assert len(watch.columns) == 2, "each number once"


TENSORS = [
    torch.tensor([1.5, -2.0, 0.25]),
    torch.tensor([1.5, -2.0, 0.25], dtype=torch.float64),
    torch.tensor([3, -2, 0]),
    torch.tensor([True, False, True]),
]
BESIDE: list[Callable[[Any, Any], Any]] = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.lt,
    operator.le,
    operator.eq,
    operator.ne,
    operator.gt,
    operator.ge,
]
FORMS: list[Of] = [
    lambda step: step,
    lambda step: step / 2,
    lambda step: step - 6.5,
    lambda step: math.floor(step / 2),
    lambda step: round(step / 3),
    lambda step: np.sqrt(step),
]


@pytest.mark.parametrize("like", TENSORS, ids=lambda tensor: str(tensor.dtype))
@pytest.mark.parametrize("combine", BESIDE, ids=lambda combine: combine.__name__)
def test_beside_a_tensor_it_has_the_value_and_the_type_of_pythons_number(
    combine: Callable[[Any, Any], Any], like: Tensor
):
    for form in FORMS:
        for turned in (False, True):

            def of(tensor: Tensor, step: Any, form: Of = form, turned: bool = turned) -> Tensor:
                number = form(step)
                return combine(number, tensor) if turned else combine(tensor, number)

            try:
                expected = of(like, 7)
            except RuntimeError:  # no difference of truth values, say
                with pytest.raises(RuntimeError):
                    of(like, clock(7).step)
                continue
            got = of(like, clock(7).step)
            lifted = torch.vmap(functools.partial(of, step=clock(7).step))(like)
            for result in (got, lifted):
                assert result.dtype == expected.dtype
                rounding = torch.finfo(result.dtype).eps if result.is_floating_point() else 0
                torch.testing.assert_close(
                    result, expected, rtol=2 * rounding, atol=0, equal_nan=True
                )


def test_a_function_of_ones_own_is_taken_whole():
    """`timed` takes what has no form of its own, such as math's functions."""

    def course(step: int) -> float:
        return math.cos(step / 10) if step > 5 else 1.0

    watch = clock(8)
    number = timed(course, watch.step)
    assert number.now == course(8)
    assert not watch.conditions
    assert number.over([2, 8]) == [1.0, course(8)]
    assert timed(course, 8) == course(8)


@pytest.mark.parametrize(
    "use",
    [
        lambda step: torch.tensor(step),
        lambda step: torch.full((2,), step),
        lambda step: torch.ones(2).clamp(max=step),
        lambda step: step.bit_length(),
        lambda step: np.zeros(3) * step,
        lambda step: "a" + step,
    ],
)
def test_what_it_is_not_made_for_raises_an_error_or_looks_at_it(use: Callable[[Any], Any]):
    """It is never silently another number: the step is then taken as it is written."""
    watch = clock(3)
    try:
        use(watch.step)
    except (TypeError, AttributeError, RuntimeError):
        return
    assert watch.conditions
