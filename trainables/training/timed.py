"""Timed numbers: numbers that are functions of the step, for a step that is written down once and
taken many times.

A pruner's hooks branch on the step and compute with it, as Python does. While their step is being
written down as a graph, `Context.step` is a Timed: it computes like the number that it is now, and
notes how it was used. Compared, it is the number of now, and the graph holds for the steps that
compare alike. Together with a tensor it is a tensor, which the graph reads from a table that has a
row for each step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Number = float | int
Function = Callable[..., Any]
Operator = Callable[..., Any]
Condition = tuple["Timed", Any]
"""A number, and what it was when Python looked at it."""


def kind_of(value: Any) -> torch.dtype:
    """The type of a column of numbers like `value`."""
    if isinstance(value, int | np.integer):
        return torch.int64
    return torch.float64


def timed(function: Function, *parts: Any) -> Any:
    """`function` of numbers; a Timed one if one of them is."""
    for part in parts:
        if isinstance(part, Timed):
            return Timed(part._clock, function, parts)
    return function(*parts)


def _itself(step: Any) -> Any:
    return step


def _floor(value: Any) -> Any:
    return value // 1


def _rounded(value: Any) -> Any:
    return np.rint(value).astype(np.int64)


def _with(function: Function) -> Operator:
    """An operator between a Timed number and another number or a tensor."""

    def forward(number: Timed, other: Any) -> Any:
        if isinstance(other, Tensor):
            return function(number.tensor(other), other)
        if isinstance(other, int | float | np.number | Timed):
            return timed(function, number, other)
        return NotImplemented

    return forward


def _reflected(function: Function) -> Operator:
    """The same with the Timed number on the right."""

    def backward(number: Timed, other: Any) -> Any:
        if isinstance(other, Tensor):
            return function(other, number.tensor(other))
        if isinstance(other, int | float | np.number):
            return timed(function, other, number)
        return NotImplemented

    return backward


def _compared(function: Function) -> Operator:
    """A comparison, whose answer Python looks at."""
    combine = _with(function)

    def answer(number: Timed, other: Any) -> Any:
        result = combine(number, other)
        if isinstance(result, Timed):
            return bool(result)
        return result

    return answer


def _alone(function: Function) -> Operator:
    def of(number: Timed) -> Any:
        return timed(function, number)

    return of


class Clock:
    """The step of now, and how numbers that follow from it were used.

    conditions: numbers that Python has looked at, and what it saw.  columns: numbers that met
    tensors, in the order in which they did.  read: gives the tensor () of a column, float64 or
    int64; None: a constant, as the number is now.
    """

    def __init__(
        self,
        now: int,
        device: torch.device,
        read: Callable[[int, torch.dtype], Tensor] | None = None,
    ) -> None:
        self.now = now
        self.device = device
        self.read = read
        self.conditions: dict[Hashable, Condition] = {}
        self.columns: dict[Hashable, Timed] = {}
        self._tensors: dict[Hashable, Tensor] = {}

    @property
    def step(self) -> Timed:
        """The step."""
        return Timed(self, _itself, ())

    def seen(self, number: Timed) -> Any:
        """The number of now, which Python looks at."""
        value = number.now
        self.conditions[number.key] = (number, value)
        return value

    def tensor(self, number: Timed) -> Tensor:
        """The number as a tensor (), float64 or int64."""
        key = number.key
        if key not in self._tensors:
            place = len(self.columns)
            self.columns[key] = number
            kind = kind_of(number.now)
            if self.read is None:
                made = torch.full((), number.now, dtype=kind, device=self.device)
            else:
                made = self.read(place, kind)
            self._tensors[key] = made
        return self._tensors[key]


class Timed:
    """A number that is a function of the step: `function` of `parts`, numbers or Timed ones."""

    __slots__ = ("_clock", "_function", "_parts", "key", "now")

    def __init__(self, clock: Clock, function: Function, parts: Sequence[Any]) -> None:
        self._clock = clock
        self._function = function
        self._parts = parts
        keys: list[Hashable] = []
        present: list[Any] = []
        for part in parts:
            is_timed = isinstance(part, Timed)
            keys.append(part.key if is_timed else (type(part), part))
            present.append(part.now if is_timed else part)
        self.key: Hashable = (function, *keys)
        self.now: Any = clock.now
        if function is not _itself:
            self.now = function(*present)

    def at(self, step: int) -> Any:
        """The number at a step."""
        if self._function is _itself:
            return step
        values: list[Any] = []
        for part in self._parts:
            values.append(part.at(step) if isinstance(part, Timed) else part)
        return self._function(*values)

    def over(self, steps: np.ndarray) -> np.ndarray:
        """The number at each of `steps`, (n,) int64."""
        if self._function is _itself:
            return steps
        if self._function not in _ELEMENTWISE:
            return np.array([self.at(step) for step in steps.tolist()])
        values: list[Any] = []
        for part in self._parts:
            values.append(part.over(steps) if isinstance(part, Timed) else part)
        return self._function(*values)

    def tensor(self, like: Tensor) -> Tensor:
        """The number in the type to which torch brings a number of Python's beside `like`."""
        number = self._clock.tensor(self)
        if like.is_floating_point() or not number.is_floating_point():
            return number.to(like.dtype)
        return number.to(torch.get_default_dtype())

    # Looked at: the number of now.

    def __bool__(self) -> bool:
        return bool(self._clock.seen(self))

    def __int__(self) -> int:
        return int(self._clock.seen(self))

    def __index__(self) -> int:
        return operator.index(self._clock.seen(self))

    def __float__(self) -> float:
        return float(self._clock.seen(self))

    def __hash__(self) -> int:
        return hash(self._clock.seen(self))

    def __repr__(self) -> str:
        return repr(self._clock.seen(self))

    def __format__(self, wanted: str) -> str:
        return format(self._clock.seen(self), wanted)

    # numpy's functions of an object are methods of it.

    def sqrt(self) -> Timed:
        return timed(np.sqrt, self)

    def cos(self) -> Timed:
        return timed(np.cos, self)

    # Between a Timed number and another number or a tensor.

    __add__ = _with(operator.add)
    __radd__ = _reflected(operator.add)
    __sub__ = _with(operator.sub)
    __rsub__ = _reflected(operator.sub)
    __mul__ = _with(operator.mul)
    __rmul__ = _reflected(operator.mul)
    __truediv__ = _with(operator.truediv)
    __rtruediv__ = _reflected(operator.truediv)
    __floordiv__ = _with(operator.floordiv)
    __rfloordiv__ = _reflected(operator.floordiv)
    __mod__ = _with(operator.mod)
    __rmod__ = _reflected(operator.mod)
    __pow__ = _with(operator.pow)
    __rpow__ = _reflected(operator.pow)
    __xor__ = _with(operator.xor)
    __rxor__ = _reflected(operator.xor)
    __lt__ = _compared(operator.lt)
    __le__ = _compared(operator.le)
    __eq__ = _compared(operator.eq)
    __ne__ = _compared(operator.ne)
    __gt__ = _compared(operator.gt)
    __ge__ = _compared(operator.ge)
    __neg__ = _alone(operator.neg)
    __abs__ = _alone(operator.abs)
    __floor__ = _alone(_floor)
    __round__ = _alone(_rounded)


_ELEMENTWISE = {
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.xor,
    operator.neg,
    operator.abs,
    operator.lt,
    operator.le,
    operator.eq,
    operator.ne,
    operator.gt,
    operator.ge,
    np.sqrt,
    np.cos,
    _floor,
    _rounded,
}
"""Functions that do to an array what they do to each of its numbers."""
