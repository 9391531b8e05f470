"""Lanes: members of a cohort that are run in one program, from step to step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import pulse
from ..contract import State
from ..tree import map_tree
from . import compiled, draws, engine, optimizers, stack
from .batches import Batches
from .hooks import Hooks
from .start import separated
from .step import Step, trained, trees_of

if TYPE_CHECKING:
    from ..task import Task


class Lane:
    """Members of a cohort that are run in one program, those of `state` at `places`."""

    def __init__(
        self,
        pruner: Hooks,
        task: Task,
        state: State,
        places: range,
        last: int,
        chosen: engine.Execution,
    ) -> None:
        self._pruner = pruner
        self._task = task
        self._members = len(places)
        self._compiles = chosen.compile and task.stackable
        self._refused = ""
        if chosen.compile and not task.stackable:
            self._refused = f"vmap refuses model {task.model}"
        width = chosen.padded(len(places))
        missing = width - len(places)
        self._places = [*places, *[places[-1]] * missing]
        self._is_whole = self._places == list(range(state.size))
        own = self._of(state)
        self._batches = Batches(task, own, last)

    def run(self, state: State, end: int) -> tuple[State, Tensor, Tensor]:
        """The members after the steps up to `end`, and their last batch. state: of all members."""
        own = self._of(state)
        if self._compiles:
            own, x, y = self._compiled(own, end)
        else:
            own, x, y = steps(self._pruner, self._task, own, end, self._batches)
        if self._refused:
            own.scalars["uncompiled"] = self._refused
        if len(self._places) == self._members:
            return own, x, y
        there = range(self._members)
        return own.select(there), x[: self._members], y[: self._members]

    def _of(self, state: State) -> State:
        if self._is_whole:
            return state
        return state.select(self._places)

    def _compiled(self, own: State, end: int) -> tuple[State, Tensor, Tensor]:
        """The same by compiled steps; as they are written where they cannot be compiled."""
        program = compiled.program(self._pruner, self._task, own)
        if program.is_vain:
            ran = steps(self._pruner, self._task, own, end, self._batches)
        else:
            ran = program.run(own, end, self._batches)
        self._refused = program.refused
        return ran


def lanes_of(pruner: Hooks, task: Task, state: State, last: int) -> list[Lane]:
    """The members that are run together, as the task's execution has it, up to step `last`."""
    chosen = engine.execution(task)
    lanes: list[Lane] = []
    for places in chosen.parts(state.size):
        lane = Lane(pruner, task, state, places, last, chosen)
        lanes.append(lane)
    return lanes


def run_together(lanes: Sequence[Lane], state: State, end: int) -> tuple[State, Tensor, Tensor]:
    """The members after the steps up to `end`, and the last batch."""
    if len(lanes) == 1:
        return lanes[0].run(state, end)
    states: list[State] = []
    inputs: list[Tensor] = []
    labels: list[Tensor] = []
    for lane in lanes:
        own, x, y = lane.run(state, end)
        states.append(own)
        inputs.append(x)
        labels.append(y)
    return State.concatenate(states), torch.cat(inputs), torch.cat(labels)


def steps(
    pruner: Hooks,
    task: Task,
    state: State,
    end: int,
    batches: Batches,
) -> tuple[State, Tensor, Tensor]:
    """The members after the steps up to `end`, and the last batch.

    One body for a stack and for a lone member, whose trees lose their leading 1.
    """
    lone = state.size == 1
    budget = task.steps - state.scalars["before"]
    one_step = Step(pruner, task, state)
    members = state.members
    if lone:
        members = stack.single(members)
    trees = trees_of(members)
    update = optimizers.updater(task, trees["hp"], trees["optimizer"], budget)
    inputs = labels = torch.empty(0)
    left = range(state.scalars["step"], end)
    for step, inputs, labels in batches.take(left):
        x = inputs
        y = labels
        if lone:
            x = inputs[0]
            y = labels[0]
        if not task.stackable:
            seed = draws.key(trees["seed"], step, "torch")
            torch.manual_seed(int(seed))
        trees = one_step.take(trees, update, x, y, step)
        if pruner.follows:
            trees["params"], trees["pruning"] = separated(trees["params"], trees["pruning"])
            trees["params"] = map_tree(trained, trees["params"])
        pulse.tell("step", step + 1, budget)
    trees["params"] = map_tree(Tensor.detach, trees["params"])
    for name in ("params", "buffers", "pruning"):
        members = {**members, name: trees[name]}
    if lone:
        members = stack.restacked(members)
    scalars = {**state.scalars, "step": end}
    return dataclasses.replace(state, members=members, scalars=scalars), inputs, labels
