"""The loop: optimiser steps of a cohort, all of its members in one program."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import pulse
from ..contract import State
from ..tree import map_tree
from . import compiled, draws, engine, optimizers, stack
from .batches import Batches
from .compact import compact
from .hooks import Hooks
from .start import separated
from .step import Step, trained, trees_of

if TYPE_CHECKING:
    from ..task import Task


def advance(pruner: Hooks, task: Task, state: State) -> State:
    """The members at the next rung: trained together, or one after the other if `vmap` refuses the
    model.
    """
    if state.size > 1 and not task.stackable:
        return _advance_alone(pruner, task, state)
    begun = time.perf_counter()
    rung = state.scalars["rung"] + 1
    steps = task.steps - state.scalars["before"]
    last = task.rung_step(steps, rung)
    # A model that vmap refuses may draw from torch's generator, which is then seeded at each step.
    with torch.random.fork_rng(enabled=not task.stackable):
        state = compact(pruner, task, state)
        state = _train(pruner, task, state, last)
    elapsed = time.perf_counter() - begun
    spent = elapsed / state.size
    state.scalars["seconds"] = state.scalars["seconds"] + spent
    state.scalars["rung"] = rung
    return state


def _advance_alone(pruner: Hooks, task: Task, state: State) -> State:
    """The members at the next rung, trained one after the other."""
    alone: list[State] = []
    for k in range(state.size):
        lone = state.select([k])
        lone = advance(pruner, task, lone)
        alone.append(lone)
    joined = State.concatenate(alone)
    for spent in ("seconds", "charged"):
        if spent not in joined.scalars:
            continue
        total = sum(lone.scalars[spent] for lone in alone)
        joined.scalars[spent] = total / state.size
    return joined


def first_step(pruner: Hooks, task: Task, state: State) -> State:
    """The members after their first step: a rehearsal."""
    with torch.random.fork_rng(enabled=not task.stackable):
        if state.size == 1 or task.stackable:
            return _train(pruner, task, state, 1)
        alone: list[State] = []
        for k in range(state.size):
            lone = state.select([k])
            lone = _train(pruner, task, lone, 1)
            alone.append(lone)
        return State.concatenate(alone)


def _train(pruner: Hooks, task: Task, state: State, last: int) -> State:
    """The members after step `last`, with `every` between the steps after which it is due."""
    static = state.scalars["static"]
    steps = task.steps - state.scalars["before"]
    lanes = _lanes(pruner, task, state, last)
    while state.scalars["step"] < last:
        end = state.scalars["step"] + 1
        while end < last:
            if pruner.due(static, end, steps):
                break
            end += 1
        state, x, y = _together(lanes, state, end)
        if pruner.due(static, end, steps):
            state = pruner.every(task, state, x, y)
    return state


def _lanes(pruner: Hooks, task: Task, state: State, last: int) -> list[Lane]:
    """The members that are run together, as the task's execution has it, up to step `last`."""
    chosen = engine.execution(task, state.size)
    lanes: list[Lane] = []
    for places in chosen.parts(state.size):
        lane = Lane(pruner, task, state, places, last, chosen)
        lanes.append(lane)
    return lanes


def _together(lanes: Sequence[Lane], state: State, end: int) -> tuple[State, Tensor, Tensor]:
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
        if program.refused:
            return steps(self._pruner, self._task, own, end, self._batches)
        return program.run(own, end, self._batches)


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
    count = end - state.scalars["step"]
    for step, inputs, labels in batches.take(count):
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
