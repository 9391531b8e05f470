"""Graphs of steps that are alike, and the numbers that they read at each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .feed import ROWS
from .timed import Condition, Timed, kind_of

Call = Callable[..., object]

KINDS = (torch.float64, torch.int64)
"""Types of the numbers that change from step to step; each has a table."""


@dataclasses.dataclass
class Graph:
    """Steps that are alike.

    conditions: what Python saw when the step was written down, in that order.  columns: numbers
    that the step reads from tables.  compiles: whether it is worth a call.  call: takes such a
    step, once it is compiled.  refused: why it cannot be.
    """

    conditions: Sequence[Condition] = ()
    columns: Sequence[Timed] = ()
    compiles: bool = False
    call: Call | None = None
    refused: str = ""

    def among(self, steps: range) -> np.ndarray:
        """Which of `steps` are such steps, (n,) bool."""
        alike: Sequence[int] = steps
        for number, seen in self.conditions:
            # Python looked at it only where it had seen what comes before.
            values = number.over(alike)
            alike = [step for step, value in zip(alike, values, strict=True) if value == seen]
        are_alike = np.zeros(len(steps), dtype=bool)
        are_alike[np.asarray(alike, dtype=np.int64) - steps.start] = True
        return are_alike


class Numbers:
    """The numbers that a graph reads: a table of each kind, with a row for each of `steps`, filled
    where the graph is theirs, and the place of the row of now.

    alike: whose the graph is, (steps,) bool.
    """

    def __init__(self, graph: Graph, steps: range, device: torch.device) -> None:
        self._at: list[tuple[int, int]] = []
        kinds: list[list[Timed]] = [[], []]
        for number in graph.columns:
            kind = KINDS.index(kind_of(number.now))
            self._at.append((kind, len(kinds[kind])))
            kinds[kind].append(number)
        self.alike = graph.among(steps)
        places = np.flatnonzero(self.alike)
        alike_steps = [steps[place] for place in places.tolist()]
        self.tensors: list[Tensor] = []
        for kind, numbers in zip(KINDS, kinds, strict=True):
            table = torch.zeros((ROWS, max(1, len(numbers))), dtype=kind)
            for column, number in enumerate(numbers):
                values = number.over(alike_steps)
                table[places, column] = torch.tensor(values, dtype=kind)
            self.tensors.append(table.to(device, non_blocking=True))
        place = torch.zeros(1, dtype=torch.long, device=device)
        self.tensors.append(place)

    def at(self, place: int) -> list[Tensor]:
        """The tables, and another place."""
        *tables, start = self.tensors
        return [*tables, torch.full_like(start, place)]

    def reader(
        self, tables: Sequence[Tensor], place: Tensor
    ) -> Callable[[int, torch.dtype], Tensor]:
        """What gives the number () in a column at a place, out of tables like the own ones."""
        rows = [table.index_select(0, place)[0] for table in tables]

        def read(column: int, kind: torch.dtype) -> Tensor:
            table, place_in_it = self._at[column]
            return rows[table][place_in_it]

        return read


class Running:
    """The graph by which steps of `part` are taken, and the numbers that it reads."""

    def __init__(self, part: range, device: torch.device) -> None:
        self._part = part
        self._device = device
        self._graph: Graph | None = None
        self._known: dict[int, Numbers] = {}
        self.numbers: list[Tensor] = []

    def graph_at(self, step: int) -> Graph | None:
        """The graph of the step before, if it is this one's too."""
        if self._graph is None:
            return None
        known = self._known[id(self._graph)]
        if known.alike[step - self._part.start]:
            return self._graph
        return None

    def turn_to(self, graph: Graph, step: int) -> None:
        """Take steps by `graph`, from `step` on."""
        self._graph = graph
        if id(graph) not in self._known:
            self._known[id(graph)] = Numbers(graph, self._part, self._device)
        numbers = self._known[id(graph)]
        # A new tensor: CUDA graphs move a place of their own on, and copy what is new.
        self.numbers = numbers.at(step - self._part.start)

    def leave(self) -> None:
        """After a step that was taken without a graph."""
        self._graph = None
