"""The batches of a cohort's steps: functions of the members' seeds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..contract import State
from ..data.augment import augment
from . import draws

if TYPE_CHECKING:
    from ..task import Task

Batch = tuple[int, Tensor, Tensor]
"""A step, its inputs (K, B, *shape) and its labels (K, B)."""

EPOCHS = 2
"""How many orders of the examples are kept: steps may be asked for across the end of an epoch."""


class Batches:
    """The batches of the members of `state` up to step `last`; read, and augmented, once for each
    distinct seed.
    """

    def __init__(self, task: Task, state: State, last: int) -> None:
        seeds = state.members["seed"]
        numbers = list(dict.fromkeys(seeds.tolist()))
        self._task = task
        on_host = torch.tensor(numbers)
        self._seeds = on_host.to(seeds.device, non_blocking=True)
        self._ordering = self._seeds
        if task.data.streams:  # the host reads inputs, and so must know their order
            self._ordering = on_host
        self._of: Tensor | None = None
        if len(numbers) < len(seeds):
            is_its_own = seeds[:, None] == self._seeds
            self._of = is_its_own.int().argmax(1)
        self._site = "order"
        if state.scalars["before"]:
            self._site = "pruning"  # the dense phase before it, a task of its own, draws others
        self._order = functools.lru_cache(EPOCHS)(self._drawn_order)
        self._ahead: Iterator[Batch] = iter(())
        self._next = -1  # the step whose batch is the first one ahead
        self._last = last

    @property
    def is_resident(self) -> bool:
        """Whether inputs are on the device as they are trained on, so that rows are enough."""
        inputs = self._task.data.inputs["train"]
        return isinstance(inputs, Tensor) and not self._task.augment

    def take(self, steps: range) -> Iterator[Batch]:
        """The batches of `steps`, one after the other; later ones may be read ahead.

        They are read anew from there if these steps do not follow the ones of the last call.
        """
        if self._next != steps.start:
            self._ahead = self._read(steps.start)
        self._next = steps.stop
        return itertools.islice(self._ahead, len(steps))

    def rows(self, steps: range) -> Tensor:
        """The examples of each member at each of `steps`, (steps, K, B) int64."""
        parts: list[Tensor] = []
        whole = self._task.steps_per_epoch
        first_epoch = steps.start // whole
        last_epoch = (steps.stop - 1) // whole
        for epoch in range(first_epoch, last_epoch + 1):
            begin = max(steps.start - epoch * whole, 0)
            end = min(steps.stop - epoch * whole, whole)
            parts.append(self._batched(epoch)[:, begin:end])
        of_seeds = torch.cat(parts, 1).transpose(0, 1)
        if self._of is None:
            return of_seeds
        return of_seeds[:, self._of]

    def _read(self, first: int) -> Iterator[Batch]:
        steps = range(first, self._last)
        rows = map(self._rows, steps)
        read = self._task.data.feed(rows)
        for step, (x, y) in zip(steps, read, strict=True):
            if self._task.augment:
                own_site = f"{self._site} augment"
                key = draws.key(self._seeds, step, own_site)
                x = augment(x, self._task.augment, key)
            if self._of is not None:
                x = x[self._of]
                y = y[self._of]
            yield step, x, y

    def _rows(self, step: int) -> Tensor:
        """The examples of each distinct seed at a step, (seeds, B)."""
        epoch, place = divmod(step, self._task.steps_per_epoch)
        return self._batched(epoch)[:, place]

    def _batched(self, epoch: int) -> Tensor:
        """The examples of each distinct seed in an epoch, (seeds, steps, B)."""
        task = self._task
        examples = task.steps_per_epoch * task.batch_size
        shuffled = self._order(epoch)[:, :examples]
        return shuffled.unflatten(1, (task.steps_per_epoch, task.batch_size))

    def _drawn_order(self, epoch: int) -> Tensor:
        key = draws.key(self._ordering, epoch, self._site)
        examples = len(self._task.data.labels["train"])
        return draws.permutation(key, examples)
