"""Compiled steps: a step of a stack as one graph, which is made once and taken many times.

`make_fx` follows the step as it is written, `vmap`, backward pass, optimiser and draws included,
and inductor compiles what it saw. State is written in place. What changes from step to step is read
from tables on the device at a place that the graph itself moves on, so that nothing goes between
host and device and a CUDA graph can hold the step. Masks, bool at rest, are float32 while steps are
taken: inductor's code for a CPU multiplies by bool one entry at a time.

A graph holds for the steps at which a pruner's hooks take the same branches (`timed.Clock`). Which
graphs there are is found before the first step of a program, wherever that is in the training: so a
training that is carried on takes each step as one that never stopped. Steps that come too seldom to
be worth a graph, and those of which none can be made, are taken as they are written.
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
from . import kept, optimizers, stack
from .batches import Batches
from .captured import Captured
from .feed import ROWS, Feed, feed_of
from .graphs import Call, Graph, Numbers, Running
from .hooks import Hooks
from .moving import Moving
from .step import Step, Trees, trained
from .timed import Clock, Timed, kind_of

if TYPE_CHECKING:
    from ..task import Task

OFTEN = 0.02
"""The share of a training's steps that must be alike for a graph to be made of them."""
MOST_GRAPHS = 8
"""How many are compiled for a program: those of the most steps. Each takes its seconds."""
MOST_KINDS = 64
"""Kinds of steps that a training may have: one with more is taken as it is written."""

Backend = Callable[[GraphModule], Call]


def with_inductor(graph: GraphModule) -> Call:
    """What torch makes of a graph for these shapes alone.

    A program gives its graphs the same shapes in each step, so that torch need not look: of 0.13 ms
    that 8 small members take for a step, it looked for 0.02 (torch 2.14). Older ones must look.
    """
    options: dict[str, Any] = {}
    if hasattr(torch.compiler, "skip_all_guards_unsafe"):
        options["guard_filter_fn"] = torch.compiler.skip_all_guards_unsafe
    return torch.compile(graph.forward, fullgraph=True, dynamic=False, options=options)


class Program:
    """The compiled steps of a pruner on a task, for stacks with the shape, size and static
    hyper-parameters of `state`.

    graphs: of all steps of the training; none before the first one is taken.
    """

    def __init__(
        self,
        pruner: Hooks,
        task: Task,
        state: State,
        backend: Backend | None = None,
    ) -> None:
        self._task = task
        self._step = Step(pruner, task, state)
        self._pruner = pruner
        self._static = state.scalars["static"]
        self._width = state.size
        self._steps = task.steps - state.scalars["before"]
        self._decays = optimizers.decaying(state.members["hp"])
        self._is_lone = state.size == 1
        self._backend = backend or with_inductor
        self.graphs: list[Graph] = []

    @property
    def refused(self) -> str:
        """Why steps that are worth a graph have none, as far as that is known; "" if all have."""
        for graph in self.graphs:
            if graph.refused:
                return graph.refused
        return ""

    @property
    def is_vain(self) -> bool:
        """Whether it is known that no step is compiled."""
        return bool(self.graphs) and not any(graph.compiles for graph in self.graphs)

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
        running = Running(part, moving.device)
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
        """The graph of a step, compiled if that is worth it."""
        if not self.graphs:
            self.graphs = self._found(moving, feed)
        here = range(step, step + 1)
        graph = next(graph for graph in self.graphs if graph.among(here).all())
        if graph.compiles and graph.call is None:
            self._compile(graph, moving, step, feed)
        return graph

    def _found(self, moving: Moving, feed: Feed) -> list[Graph]:
        """The graphs of all steps, not compiled yet."""
        try:
            kinds = self._kinds(moving, feed)
        except Exception as error:  # whatever hooks do with a number that is none of Python's
            _raise_if_of_memory(error)
            return [Graph(refused=_told(error))]
        often = max(2, OFTEN * self._steps)
        by_steps = sorted(kinds, key=lambda kind: -kind[1])
        for graph, steps in by_steps[:MOST_GRAPHS]:
            graph.compiles = steps >= often
        for graph, steps in by_steps[MOST_GRAPHS:]:
            if steps >= often:
                graph.refused = f"its steps are of more than {MOST_GRAPHS} kinds, each of many"
        return [graph for graph, _ in kinds]

    def _kinds(self, moving: Moving, feed: Feed) -> list[tuple[Graph, int]]:
        """The graphs of all steps, with how many steps each has: a step is looked at that is like
        none before, until there is none.
        """
        kinds: list[tuple[Graph, int]] = []
        every = range(self._steps)
        left = np.ones(len(every), dtype=bool)
        while left.any():
            step = int(left.argmax())
            if len(kinds) == MOST_KINDS:
                looked_at = _last_seen(kinds)
                raise ValueError(
                    f"its steps are of more than {MOST_KINDS} kinds: Python looks at {looked_at}"
                )
            graph = self._tried(moving, step, feed)
            alike = graph.among(every)
            if not alike[step]:
                raise ValueError("Python looks at a number that is not equal to itself")
            _check_columns(graph, np.flatnonzero(alike).tolist())
            kinds.append((graph, int(alike.sum())))
            left &= ~alike
        return kinds

    def _tried(self, moving: Moving, step: int, feed: Feed) -> Graph:
        """What a step looks at and reads, found by taking it with copies."""
        x, y = feed.now()
        clock = Clock(step, moving.device)
        copies = map_tree(torch.clone, moving.trees())
        self._taken(copies, x, y, clock.step)
        conditions = tuple(clock.conditions.values())
        columns = tuple(clock.columns.values())
        return Graph(conditions, columns)

    def _compile(self, graph: Graph, moving: Moving, step: int, feed: Feed) -> None:
        """Write a step of `graph` down and compile it, or note why that cannot be."""
        numbers = Numbers(graph, range(step, step + 1), moving.device)
        held = len(moving.tensors)
        read = len(feed.tensors)

        def whole(*given: Tensor) -> None:
            state = given[:held]
            batch = given[held : held + read]
            *tables, place = given[held + read :]
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
        except Exception as error:  # whatever torch's compilers raise; no step was taken
            _raise_if_of_memory(error)
            graph.compiles = False
            graph.refused = _told(error)
            return
        kept.note_compiled(self._task, self._pruner, self._static, self._width)
        if moving.device.type == "cuda":
            call = Captured(call, held)
        graph.call = call


def _told(error: Exception) -> str:
    """An error in a line."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}"


def _raise_if_of_memory(error: Exception) -> None:
    """Memory that runs out is no refusal: fewer members may fit."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        raise error


def _last_seen(kinds: Sequence[tuple[Graph, int]]) -> str:
    """The number at which the steps of the last kind were told from others, in words."""
    graph, _ = kinds[-1]
    number, _ = graph.conditions[-1]
    return number.words


def _check_columns(graph: Graph, steps: Sequence[int]) -> None:
    """Raise an error if the numbers of a graph's steps are not all of one kind."""
    for number in graph.columns:
        kind = kind_of(number.now)
        values = number.over(steps)
        if any(kind_of(value) is not kind for value in values):
            raise ValueError(f"{number.words} is a whole number at some steps alone")
        torch.tensor(values, dtype=kind)  # or it is too large


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


_PROGRAMS: dict[tuple[type, str], Program] = {}
MOST_PROGRAMS = 8
"""How many are remembered: those of a cohort that narrows while it trains."""


def program(pruner: Hooks, task: Task, state: State) -> Program:
    """The compiled steps of a pruner on a task for stacks like `state`, made once in a process."""
    parts = [
        task.to_json(),
        dataclasses.asdict(state.shape) if state.shape else None,
        state.size,
        state.scalars["static"],
        state.scalars["before"],
        optimizers.decaying(state.members["hp"]),
        sorted(leaves(state.members)),
        torch.get_num_threads(),  # compiled for so many
    ]
    # The class itself: another one of its name may have been made since, as in a notebook.
    key = type(pruner), json.dumps(parts, sort_keys=True)
    if key not in _PROGRAMS:
        while len(_PROGRAMS) >= MOST_PROGRAMS:
            oldest = next(iter(_PROGRAMS))
            del _PROGRAMS[oldest]
        _PROGRAMS[key] = Program(pruner, task, state)
    return _PROGRAMS[key]


def forget() -> None:
    """Drop all programs; they are made again from now on."""
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
