"""What compiled steps read their batches from."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .batches import Batches

if TYPE_CHECKING:
    from ..task import Task

ROWS = 256
"""Steps whose numbers go to the device at a time."""


class Feed(abc.ABC):
    """The batches of some steps. tensors: what a step reads them from."""

    tensors: Sequence[Tensor]

    @abc.abstractmethod
    def to(self, step: int) -> None:
        """Make the batch of the next step ready."""

    @abc.abstractmethod
    def read(self, tensors: Sequence[Tensor], place: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (K, B, *shape) and labels (K, B) of the step at a place (1,), out of tensors like
        `tensors`.
        """

    @abc.abstractmethod
    def now(self) -> tuple[Tensor, Tensor]:
        """The batch that is ready."""


class Resident(Feed):
    """Batches of inputs that are on the device: rows of many steps go there at once."""

    def __init__(self, task: Task, batches: Batches, steps: range, is_lone: bool) -> None:
        rows = batches.rows(steps)
        if is_lone:
            rows = rows[:, 0]
        table = rows.new_zeros((ROWS, *rows.shape[1:]))
        table[: len(rows)] = rows
        data = task.data
        inputs = data.inputs["train"]
        assert isinstance(inputs, Tensor), "`Batches.is_resident` said so"
        self.tensors = (inputs, data.labels["train"], table)
        self._shape = data.shape
        self._first = steps.start
        self._at = 0

    def to(self, step: int) -> None:
        self._at = step - self._first

    def read(self, tensors: Sequence[Tensor], place: Tensor) -> tuple[Tensor, Tensor]:
        inputs, labels, table = tensors
        rows = table.index_select(0, place)[0]
        return self._examples(inputs, labels, rows)

    def now(self) -> tuple[Tensor, Tensor]:
        inputs, labels, table = self.tensors
        return self._examples(inputs, labels, table[self._at])

    def _examples(self, inputs: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        flat_rows = rows.flatten()
        flat = inputs.index_select(0, flat_rows)
        x = flat.view(*rows.shape, *self._shape)
        return x, labels[rows]


class Streamed(Feed):
    """Batches that come to the device one after the other."""

    def __init__(self, batches: Batches, steps: range, is_lone: bool) -> None:
        self._ahead = batches.take(steps)
        self._is_lone = is_lone

    def to(self, step: int) -> None:
        _, x, y = next(self._ahead)
        if self._is_lone:
            x, y = x[0], y[0]
        self.tensors = (x, y)

    def read(self, tensors: Sequence[Tensor], place: Tensor) -> tuple[Tensor, Tensor]:
        x, y = tensors
        return x, y

    def now(self) -> tuple[Tensor, Tensor]:
        x, y = self.tensors
        return x, y


def feed_of(task: Task, batches: Batches, steps: range, is_lone: bool) -> Feed:
    """The batches of `steps`, at most ROWS."""
    if batches.is_resident:
        return Resident(task, batches, steps, is_lone)
    return Streamed(batches, steps, is_lone)
