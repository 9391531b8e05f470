"""Compiled steps: a step of a stack as one graph, which is made once and taken many times.

`make_fx` follows the step as it is written, `vmap`, backward pass, optimiser and draws included,
and inductor compiles what it saw. State is written in place. What changes from step to step is read
from tables on the device at a place that the graph itself moves on, so that nothing goes between
host and device and a CUDA graph can hold the step. Masks, bool at rest, are float32 while steps are
taken: inductor's code for a CPU multiplies by bool one entry at a time.

A graph holds for the steps at which a pruner's hooks take the same branches (`timed.Clock`). Steps
that come too seldom to be worth one are taken as they are written.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from .. import pulse
from ..contract import State
from ..tree import leaves, map_tree
from . import optimizers, stack
from .batches import Batches
from .captured import Captured
from .feed import ROWS, Feed, feed_of
from .hooks import Hooks
from .moving import Moving
from .step import Step, Trees, trained
from .timed import Clock, Condition, Timed, kind_of

if TYPE_CHECKING:
    from ..task import Task

OFTEN = 0.02
"""The share of a training's steps that must be alike for a graph to be made of them."""

Call = Callable[..., object]
Backend = Callable[[GraphModule], Call]

KINDS = (torch.float64, torch.int64)
"""Types of the numbers that change from step to step; each has a table."""


def with_inductor(graph: GraphModule) -> Call:
    """What torch makes of a graph for these shapes alone.

    A program gives its graphs the same shapes in each step, so that torch need not look: of 0.13 ms
    that 8 small members take for a step, it looked for 0.02 (torch 2.14). Older ones must look.
    """
    options: dict[str, Any] = {}
    if hasattr(torch.compiler, "skip_all_guards_unsafe"):
        options["guard_filter_fn"] = torch.compiler.skip_all_guards_unsafe
    return torch.compile(graph.forward, fullgraph=True, dynamic=False, options=options)


@dataclasses.dataclass
class Graph:
    """Steps that are alike.

    conditions: what Python saw when the step was written down.  columns: numbers that the step
    reads from tables.  call: None: they are too few, and are taken as they are written.
    """

    conditions: Sequence[Condition]
    columns: Sequence[Timed]
    call: Call | None = None

    def among(self, steps: range) -> np.ndarray:
        """Which of `steps` are such steps, (n,) bool."""
        places = np.arange(steps.start, steps.stop)
        alike = np.ones(len(places), dtype=bool)
        for number, seen in self.conditions:
            alike &= number.over(places) == seen
        return alike


class Program:
    """The compiled steps of a pruner on a task, for stacks with the shape, size and static
    hyper-parameters of `state`.

    refused: why no graph can be made, as far as that is known; such steps are taken as they are
    written.
    """

    def __init__(
        self,
        pruner: Hooks,
        task: Task,
        state: State,
        backend: Backend = with_inductor,
    ) -> None:
        self._task = task
        self._step = Step(pruner, task, state)
        self._steps = task.steps - state.scalars["before"]
        self._decays = optimizers.decaying(state.members["hp"])
        self._is_lone = state.size == 1
        self._backend = backend
        self.graphs: list[Graph] = []
        self.refused = ""

    def run(self, state: State, end: int, batches: Batches) -> tuple[State, Tensor, Tensor]:
        """The state after the steps up to `end`, and the last batch; the tensors that were given
        may be written to.
        """
        members = state.members
        if self._is_lone:
            members = stack.single(members)
        moving = Moving(members)
        begin = state.scalars["step"]
        x = y = torch.empty(0)
        for first in range(begin, end, ROWS):
            part = range(first, min(first + ROWS, end))
            feed = feed_of(self._task, batches, part, self._is_lone)
            self._take_part(moving, part, feed)
            x, y = feed.now()
        after = {**members, **moving.trees()}
        if self._is_lone:
            after = stack.restacked(after)
            x, y = x[None], y[None]
        scalars = {**state.scalars, "step": end}
        return dataclasses.replace(state, members=after, scalars=scalars), x, y

    def _take_part(self, moving: Moving, part: range, feed: Feed) -> None:
        """Take the steps of `part`, at most ROWS."""
        running = _Running(part, moving.device)
        for step in part:
            feed.to(step)
            graph = running.graph_at(step)
            if graph is None:
                graph = self._graph(moving, step, feed)
                running.turn_to(graph, step)
            if graph.call is None:
                trees = moving.trees()
                after = self._taken(trees, *feed.now(), step)
                moving.write(trees, after)
                running.leave()
            else:
                with torch.no_grad():  # as it was compiled: torch would do it again otherwise
                    graph.call(*moving.tensors, *feed.tensors, *running.numbers)
            pulse.tell("step", step + 1, self._steps)

    def _taken(self, trees: Trees, x: Tensor, y: Tensor, step: int | Timed) -> Trees:
        """The trees at rest after a step; parameters and slots are written in place."""
        leaves = map_tree(trained, trees["params"])
        hp = trees["hp"]
        slots = trees["optimizer"]
        update = optimizers.updater(self._task, hp, slots, self._steps, self._decays)
        return self._step.take({**trees, "params": leaves}, update, x, y, step)

    # ---- making graphs

    def _graph(self, moving: Moving, step: int, feed: Feed) -> Graph:
        """The graph of a step; made if there is none."""
        for graph in self.graphs:
            if graph.among(range(step, step + 1)).all():
                return graph
        graph = self._tried(moving, step, feed)
        alike = graph.among(range(self._steps))
        if alike.sum() >= max(2, OFTEN * self._steps) and not self.refused:
            graph.call = self._compiled(graph, moving, step, feed)
        self.graphs.append(graph)
        return graph

    def _tried(self, moving: Moving, step: int, feed: Feed) -> Graph:
        """What a step looks at and reads, found by taking it with copies."""
        x, y = feed.now()
        clock = Clock(step, moving.device)
        copies = map_tree(torch.clone, moving.trees())
        self._taken(copies, x, y, clock.step)
        conditions = tuple(clock.conditions.values())
        columns = tuple(clock.columns.values())
        return Graph(conditions, columns)

    def _compiled(self, graph: Graph, moving: Moving, step: int, feed: Feed) -> Call | None:
        """A step of `graph`, written down and compiled; None if it is refused."""
        numbers = Numbers(range(step, step + 1), graph.columns, moving.device)
        kept = len(moving.tensors)
        read = len(feed.tensors)

        def whole(*given: Tensor) -> None:
            state = given[:kept]
            batch = given[kept : kept + read]
            *tables, place = given[kept + read :]
            clock = Clock(step, place.device, numbers.reader(tables, place))
            x, y = feed.read(batch, place)
            trees = moving.trees(state)
            after = self._taken(trees, x, y, clock.step)
            with torch.no_grad():
                moving.write(trees, after, state)
                place.add_(1)
            if list(clock.columns) != [number.key for number in graph.columns]:
                raise ValueError("its numbers are others when it is taken again")

        example = [*moving.tensors, *feed.tensors, *numbers.tensors]
        try:
            with torch.enable_grad():
                follow = make_fx(whole, tracing_mode="fake", _allow_non_fake_inputs=True)
                written = follow(*example)
            _masks_as_numbers(written)
            call = self._backend(written)
            _try(call, example)
        except Exception as error:  # whatever torch's compilers raise; the step itself was taken
            first_line = str(error).strip().partition("\n")[0]
            self.refused = f"{type(error).__name__}: {first_line}"
            return None
        if moving.device.type == "cuda":
            return Captured(call, kept)
        return call


def _masks_as_numbers(written: GraphModule) -> None:
    """Have parameters multiplied by masks as numbers of their own type, not by the bytes of masks
    (`masks.apply`), which inductor reads one at a time on a CPU.
    """
    graph = written.graph
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.view.dtype):
        mask, kind = node.args
        if kind is not torch.uint8 or mask.meta["val"].dtype is not torch.bool:
            continue
        products = _products(node)
        kinds = {product.meta["val"].dtype for product in products}
        if len(kinds) != 1:
            continue
        with graph.inserting_before(node):
            number = graph.call_function(
                torch.ops.aten._to_copy.default, (mask,), {"dtype": kinds.pop()}
            )
        number.meta["val"] = mask.meta["val"].to(number.kwargs["dtype"])
        node.replace_all_uses_with(number)
    graph.eliminate_dead_code()
    written.recompile()


def _products(node: Node) -> list[Node]:
    """The products in which a tensor ends, itself or by another name; none if it ends otherwise."""
    products: list[Node] = []
    for user in node.users:
        if user.target is torch.ops.aten.alias.default:
            products += _products(user)
        elif user.target is torch.ops.aten.mul.Tensor:
            products.append(user)
        else:
            return []
    return products


_PROGRAMS: dict[str, Program] = {}
MOST_PROGRAMS = 8
"""How many are remembered: those of a cohort that narrows while it trains."""


def program(pruner: Hooks, task: Task, state: State) -> Program:
    """The compiled steps of a pruner on a task for stacks like `state`, made once in a process."""
    parts = [
        type(pruner).__qualname__,
        type(pruner).__module__,
        task.to_json(),
        dataclasses.asdict(state.shape) if state.shape else None,
        state.size,
        state.scalars["static"],
        state.scalars["before"],
        optimizers.decaying(state.members["hp"]),
        sorted(leaves(state.members)),
        torch.get_num_threads(),  # compiled for so many
    ]
    key = json.dumps(parts, sort_keys=True)
    if key not in _PROGRAMS:
        while len(_PROGRAMS) >= MOST_PROGRAMS:
            oldest = next(iter(_PROGRAMS))
            del _PROGRAMS[oldest]
        _PROGRAMS[key] = Program(pruner, task, state)
    return _PROGRAMS[key]


def forget() -> None:
    """Make all programs again from now on."""
    _PROGRAMS.clear()


def refusal() -> str:
    """Why a program of this process could not be made; "" if all could."""
    for made in _PROGRAMS.values():
        if made.refused:
            return made.refused
    return ""


def _try(call: Call, example: Sequence[Tensor]) -> None:
    """Compile a graph, which its first call does, with copies."""
    with torch.no_grad():
        call(*(tensor.clone() for tensor in example))


class Numbers:
    """The numbers that the graph of a step reads: a table of each kind, with a row for each of
    `steps`, and the place of the row of now.
    """

    def __init__(self, steps: range, columns: Sequence[Timed], device: torch.device) -> None:
        self._at: list[tuple[int, int]] = []
        kinds: list[list[Timed]] = [[], []]
        for number in columns:
            kind = KINDS.index(kind_of(number.now))
            self._at.append((kind, len(kinds[kind])))
            kinds[kind].append(number)
        self.tensors: list[Tensor] = []
        for kind, numbers in zip(KINDS, kinds, strict=True):
            table = torch.zeros((ROWS, max(1, len(numbers))), dtype=kind)
            for column, number in enumerate(numbers):
                values = [number.at(step) for step in steps]
                table[: len(values), column] = torch.tensor(values, dtype=kind)
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


class _Running:
    """The graph by which steps of `part` are taken, and the numbers that it reads."""

    def __init__(self, part: range, device: torch.device) -> None:
        self._part = part
        self._device = device
        self._graph: Graph | None = None
        self._known: dict[int, tuple[np.ndarray, Numbers]] = {}
        self.numbers: list[Tensor] = []

    def graph_at(self, step: int) -> Graph | None:
        """The graph of the step before, if it is this one's too."""
        if self._graph is None:
            return None
        alike, _ = self._known[id(self._graph)]
        if alike[step - self._part.start]:
            return self._graph
        return None

    def turn_to(self, graph: Graph, step: int) -> None:
        """Take steps by `graph`, from `step` on."""
        self._graph = graph
        if id(graph) not in self._known:
            alike = graph.among(self._part)
            numbers = Numbers(self._part, graph.columns, self._device)
            self._known[id(graph)] = alike, numbers
        _, numbers = self._known[id(graph)]
        # A new tensor: CUDA graphs move a place of their own on, and copy what is new.
        self.numbers = numbers.at(step - self._part.start)

    def leave(self) -> None:
        """After a step that was taken without a graph."""
        self._graph = None
