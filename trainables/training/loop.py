"""The loop: optimiser steps of a cohort, all of its members in one program."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ..contract import State
from . import precision
from .compact import compact
from .hooks import Hooks
from .lanes import lanes_of, run_together

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
    with torch.random.fork_rng(enabled=not task.stackable), precision.training(task):
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
    """The members after their first step: a rehearsal, for which nothing is compiled."""
    task = task.run_as(together=0, compiles=False)
    with torch.random.fork_rng(enabled=not task.stackable), precision.training(task):
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
    lanes = lanes_of(pruner, task, state, last)
    while state.scalars["step"] < last:
        end = state.scalars["step"] + 1
        while end < last:
            if pruner.due(static, end, steps):
                break
            end += 1
        state, x, y = run_together(lanes, state, end)
        if pruner.due(static, end, steps):
            state = pruner.every(task, state, x, y)
    return state
