"""Timed numbers: numbers that are functions of the step, for a step that is written down once and
taken many times.

A pruner's hooks branch on the step and compute with it, as Python does. While their step is being
written down as a graph, `Context.step` is a Timed: it computes like the number that it is now, and
notes how it was used. Compared, it is the number of now, and the graph holds for the steps that
compare alike. Together with a tensor it is a tensor, which the graph reads from a table that has a
row for each step.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

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

    @property
    def words(self) -> str:
        """How it is made, in words: `floordiv(step, 100)`."""
        if self._function is _itself:
            return "step"
        parts = [part.words if isinstance(part, Timed) else repr(part) for part in self._parts]
        name = getattr(self._function, "__name__", "a function")
        return f"{name}({', '.join(parts)})"

    def over(self, steps: Sequence[int]) -> Sequence[Any]:
        """The number at each of `steps`, as Python computes it there."""
        if self._function is _itself:
            return steps
        columns: list[Iterable[Any]] = []
        for part in self._parts:
            column = part.over(steps) if isinstance(part, Timed) else itertools.repeat(part)
            columns.append(column)
        return list(map(self._function, *columns))

    def tensor(self, like: Tensor) -> Tensor:
        """The number in the type to which torch brings a number of Python's beside `like`."""
        is_whole = kind_of(self.now) is torch.int64
        kind = torch.result_type(like, 1 if is_whole else 1.0)
        number = self._clock.tensor(self)
        return number.to(kind)

    # Looked at: the number of now. The graph holds for the steps at which what is seen is the same.

    def _seen(self) -> Any:
        return self._clock.seen(self)

    def __bool__(self) -> bool:
        return timed(operator.truth, self)._seen()

    def __int__(self) -> int:
        return timed(int, self)._seen()

    def __index__(self) -> int:
        return timed(operator.index, self)._seen()

    def __float__(self) -> float:
        return timed(float, self)._seen()

    def __hash__(self) -> int:
        return hash(self._seen())

    def __repr__(self) -> str:
        return repr(self._seen())

    def __format__(self, wanted: str) -> str:
        return format(self._seen(), wanted)

    # Functions of one number, and numpy's.

    def __round__(self, digits: int | None = None) -> Any:
        if digits is None:
            return timed(round, self)
        return timed(round, self, digits)

    def __array_ufunc__(self, function: Function, method: str, *parts: Any, **options: Any) -> Any:
        """numpy's functions of numbers."""
        are_numbers = all(isinstance(part, int | float | np.number | Timed) for part in parts)
        if method != "__call__" or options or not are_numbers:
            return NotImplemented
        return timed(function, *parts)

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
    __and__ = _with(operator.and_)
    __rand__ = _reflected(operator.and_)
    __or__ = _with(operator.or_)
    __ror__ = _reflected(operator.or_)
    __lshift__ = _with(operator.lshift)
    __rlshift__ = _reflected(operator.lshift)
    __rshift__ = _with(operator.rshift)
    __rrshift__ = _reflected(operator.rshift)
    __neg__ = _alone(operator.neg)
    __pos__ = _alone(operator.pos)
    __abs__ = _alone(operator.abs)
    __invert__ = _alone(operator.invert)
    __floor__ = _alone(math.floor)
    __ceil__ = _alone(math.ceil)
    __trunc__ = _alone(math.trunc)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Any, Any]:
        return other // self, other % self
