"""Random models for tests: chains and branches of whatever people write, straight on a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Operation = Callable[[Any, list[Any]], Any]
"""(the model's modules, the values so far) -> a new value."""


class RandomModel(nn.Module):
    """Runs a list of operations; the last value is the output."""

    def __init__(self, parts: nn.ModuleList, operations: list[Operation]) -> None:
        super().__init__()
        self.parts, self.operations = parts, operations

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, ...)."""
        values: list[Any] = [x]
        for operation in self.operations:
            values.append(operation(self.parts, values))
        return values[-1]


_ACTIVATIONS: list[Callable[[Any], Any]] = [
    F.relu,
    torch.tanh,
    lambda v: v.relu_(),
    lambda v: F.relu(v, inplace=True),
    lambda v: F.softmax(v, 1),
    lambda v: v - v.mean(1, keepdim=True),
]


class _Writer:
    """Writes a random model, one operation after the other, on shapes without batch."""

    def __init__(self, seed: int, shape: tuple[int, ...]) -> None:
        self.random = random.Random(seed)
        self.parts = nn.ModuleList()
        self.operations: list[Operation] = []
        self.shapes: list[tuple[int, ...]] = [shape]
        self.last = 0

    def part(self, module: nn.Module) -> int:
        """The place of a new module."""
        self.parts.append(module)
        return len(self.parts) - 1

    def write(self, operation: Operation, shape: tuple[int, ...]) -> int:
        """Append an operation that gives `shape`; the place of its value."""
        self.operations.append(operation)
        self.shapes.append(shape)
        self.last = len(self.shapes) - 1
        return self.last

    def call(self, module: nn.Module, source: int, shape: tuple[int, ...]) -> int:
        """A module called on a value, by position or by keyword."""
        place = self.part(module)
        named = self.random.random() < 0.2

        def by_name(parts: Any, values: list[Any]) -> Any:
            return parts[place](input=values[source])

        def by_place(parts: Any, values: list[Any]) -> Any:
            return parts[place](values[source])

        if named and not isinstance(module, nn.Flatten | nn.Sequential):
            return self.write(by_name, shape)
        return self.write(by_place, shape)

    # ---- layers

    def layer(self, source: int, units: int | None = None) -> int:
        """A linear layer on vectors, a convolution on images."""
        shape = self.shapes[source]
        units = units or self.random.randint(2, 7)
        bias = self.random.random() < 0.7
        if len(shape) == 1:
            return self.call(nn.Linear(shape[0], units, bias=bias), source, (units,))
        padding = self.random.choice([0, 1]) if shape[1] > 3 else 1
        side = shape[1] - 2 + 2 * padding
        return self.call(
            nn.Conv2d(shape[0], units, 3, padding=padding, bias=bias), source, (units, side, side)
        )

    def same(self, source: int) -> int:
        """A layer, or more, that gives what has the shape of what it reads."""
        shape = self.shapes[source]
        if len(shape) == 1:
            return self.layer(source, shape[0])
        return self.call(nn.Conv2d(shape[0], shape[0], 3, padding=1), source, shape)

    def norm(self, source: int) -> int:
        """A normalisation."""
        shape = self.shapes[source]
        if len(shape) == 1:
            return self.call(
                self.random.choice([nn.BatchNorm1d, nn.LayerNorm])(shape[0]), source, shape
            )
        kinds = [
            nn.BatchNorm2d(shape[0]),
            nn.BatchNorm2d(shape[0], affine=False),
            nn.GroupNorm(1, shape[0]),
        ]
        return self.call(self.random.choice(kinds), source, shape)

    def activation(self, source: int) -> int:
        """An activation, written in one of the ways there are."""
        shape, pick = self.shapes[source], self.random.randrange(9)
        if pick == 0:
            return self.call(nn.ReLU(inplace=True), source, shape)
        if pick == 1:
            return self.call(nn.Sigmoid(), source, shape)
        if pick == 2:
            place = self.part(nn.ReLU(inplace=True))

            def statement(parts: Any, values: list[Any]) -> Any:
                parts[place](values[source])
                return values[source]

            return self.write(statement, shape)
        way = _ACTIVATIONS[pick - 3]
        return self.write(lambda parts, values: way(values[source]), shape)

    def dropout(self, source: int) -> int:
        """Dropout."""
        if self.random.random() < 0.5:
            return self.call(nn.Dropout(0.5), source, self.shapes[source])
        return self.write(
            lambda parts, values: F.dropout(values[source], 0.5, False), self.shapes[source]
        )

    # ---- what joins and splits

    def branch(self, source: int) -> int:
        """A residual branch of one or two layers, that begins and ends in one of the ways there
        are.
        """
        inner = source
        if self.random.random() < 0.4:
            inner = self.activation(inner)
        if self.random.random() < 0.7:
            inner = self.activation(self.call_inner(inner))
        inner = (
            self.layer(inner, self.shapes[source][0])
            if len(self.shapes[source]) == 1
            else self.back(inner, source)
        )
        if self.random.random() < 0.4:
            inner = self.norm(inner)
        return self.add(inner, source)

    def call_inner(self, source: int) -> int:
        """A layer inside of a branch, which keeps the size of images."""
        shape = self.shapes[source]
        if len(shape) == 1:
            return self.layer(source)
        units = self.random.randint(2, 7)
        return self.call(nn.Conv2d(shape[0], units, 3, padding=1), source, (units, *shape[1:]))

    def back(self, source: int, like: int) -> int:
        """A convolution back to the channels of another value."""
        channels = self.shapes[like][0]
        return self.call(
            nn.Conv2d(self.shapes[source][0], channels, 3, padding=1), source, self.shapes[like]
        )

    def add(self, one: int, other: int) -> int:
        """The sum of two values of one shape."""

        def grown(parts: Any, values: list[Any]) -> Any:
            total = values[one]
            total += values[other]
            return total

        def swapped(parts: Any, values: list[Any]) -> Any:
            return values[other].add_(values[one])

        ways: list[Operation] = [
            lambda parts, values: values[one] + values[other],
            lambda parts, values: values[other] + values[one],
            lambda parts, values: torch.add(values[one], values[other], alpha=0.5),
            lambda parts, values: torch.add(values[one], other=values[other]),
            grown,
            swapped,
        ]
        return self.write(self.random.choice(ways), self.shapes[one])

    def broadcast(self, source: int) -> int:
        """One unit, added to or multiplied with all."""
        shape = self.shapes[source]
        one = (
            self.layer(source, 1)
            if len(shape) == 1
            else self.call(nn.Conv2d(shape[0], 1, 1), source, (1, *shape[1:]))
        )
        if self.random.random() < 0.5:
            return self.write(lambda parts, values: values[one] + values[source], shape)
        return self.write(lambda parts, values: torch.sigmoid(values[one]) * values[source], shape)

    def joined(self, source: int) -> int:
        """Two layers side by side."""
        one = self.same(source)
        other = self.same(source)
        units, *positions = self.shapes[one]
        more, *_ = self.shapes[other]

        def join(parts: Any, values: list[Any]) -> Any:
            return torch.cat([values[one], values[other]], 1)

        return self.write(join, (units + more, *positions))

    def gated(self, source: int) -> int:
        """A layer whose units are cut in two, one half the other's gate."""
        half = self.random.randint(2, 4)
        inner = self.layer(source, 2 * half)

        def gate(parts: Any, values: list[Any]) -> Any:
            one, other = values[inner].chunk(2, 1)
            return one * torch.sigmoid(other)

        def sliced(parts: Any, values: list[Any]) -> Any:
            both = values[inner]
            return both[:, :half] + both[:, half:]

        _, *positions = self.shapes[inner]
        way = self.random.choice([gate, sliced])
        return self.write(way, (half, *positions))

    def reused(self, source: int) -> int:
        """A module, or its weight, used twice."""
        shape = self.shapes[source]
        if len(shape) > 1:
            norm = self.part(nn.BatchNorm2d(shape[0]))
            one, other = self.same(source), self.same(source)
            return self.write(
                lambda parts, values: parts[norm](values[one]) + parts[norm](values[other]), shape
            )
        units = self.shapes[source][0]
        place = self.part(nn.Linear(units, units))
        ways: list[Operation] = [
            lambda parts, values: parts[place](torch.relu(parts[place](values[source]))),
            lambda parts, values: (
                parts[place](values[source]) + F.linear(values[source], parts[place].weight)
            ),
            lambda parts, values: F.linear(
                torch.relu(parts[place](values[source])), parts[place].weight.t()
            ),
            lambda parts, values: torch.relu(parts[place](values[source])) @ parts[place].weight,
        ]
        return self.write(self.random.choice(ways), shape)

    def reshaped(self, source: int) -> int:
        """Another view of the units, or a pool over them."""
        shape = self.shapes[source]
        if len(shape) == 1:
            return self.pooled_units(source)
        if shape[0] % 2:
            return self.call(
                nn.Conv2d(shape[0], shape[0], 3, padding=1, groups=shape[0]), source, shape
            )
        channels, side = shape[0], shape[1]

        def shuffled(parts: Any, values: list[Any]) -> Any:
            return (
                values[source]
                .reshape(-1, 2, channels // 2, side, side)
                .transpose(1, 2)
                .reshape(-1, channels, side, side)
            )

        def grouped(parts: Any, values: list[Any]) -> Any:
            return parts[place](values[source])

        place = self.part(nn.Conv2d(channels, channels, 3, padding=1, groups=2))
        return self.write(self.random.choice([shuffled, grouped]), shape)

    def pooled_units(self, source: int) -> int:
        """A pool over units, or a view with their number in it."""
        units = self.shapes[source][0]
        ways: list[Operation] = [
            lambda parts, values: values[source].view(-1, units),
            lambda parts, values: values[source].reshape(values[source].size(0), -1),
            lambda parts, values: F.avg_pool1d(values[source], 3, 1, 1),
            lambda parts, values: values[source].unflatten(1, (units, 1)).flatten(1),
            lambda parts, values: values[source].flip(1),
        ]
        return self.write(self.random.choice(ways), (units,))

    def pooled(self, source: int) -> int:
        """A pool over positions, where there are enough."""
        shape = self.shapes[source]
        if len(shape) == 1 or shape[1] < 4:
            return self.activation(source)
        pools = [
            nn.MaxPool2d(2),
            nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d(shape[1] // 2),
            nn.AvgPool3d((1, 2, 2)),
        ]
        return self.call(
            self.random.choice(pools), source, (shape[0], shape[1] // 2, shape[1] // 2)
        )

    def flat(self, source: int) -> int:
        """Images as vectors."""
        shape = self.shapes[source]
        if len(shape) == 1:
            return source
        size = shape[0] * shape[1] * shape[2]
        if self.random.random() < 0.3:
            return self.write(lambda parts, values: values[source].mean((2, 3)), (shape[0],))
        if self.random.random() < 0.3:
            return self.write(lambda parts, values: values[source].reshape(-1, size), (size,))
        return self.call(nn.Flatten(), source, (size,))


def random_model(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A model and the shape of its inputs, without batch; three classes."""
    shape = (5,) if seed % 2 else (2, 6, 6)
    writer = _Writer(seed, shape)
    steps = [
        writer.layer, writer.layer, writer.norm, writer.activation, writer.activation,
        writer.branch, writer.branch, writer.broadcast, writer.joined, writer.gated, writer.reused,
        writer.reshaped, writer.pooled, writer.dropout,
    ]  # fmt: skip
    last_steps = [writer.layer, writer.activation, writer.branch]
    writer.layer(0)
    for _ in range(writer.random.randint(2, 6)):
        step = writer.random.choice(steps)
        step(writer.last)
    writer.flat(writer.last)
    for _ in range(writer.random.randint(0, 3)):
        step = writer.random.choice(last_steps)
        step(writer.last)
    writer.layer(writer.last, 3)
    return RandomModel(writer.parts, writer.operations), shape
