"""The loop: optimiser steps of a cohort, all of its members in one program."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import pulse
from ..contract import State
from ..data.augment import augment
from ..structure.shapes import shaped
from ..tree import map_tree
from . import draws, dropout, optimizers, precision, stack
from .compact import compact
from .hooks import Hooks, Params, Pruning, contexts, varying
from .start import separated

if TYPE_CHECKING:
    from ..task import Task

Batch = tuple[int, Tensor, Tensor]
"""A step, its inputs (K, B, *shape) and its labels (K, B)."""


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
    """The members after their first step: a rehearsal."""
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
    batches = _batches(task, state, last)
    while state.scalars["step"] < last:
        step = state.scalars["step"]
        end = step + 1
        while end < last:
            if pruner.due(static, end, steps):
                break
            end += 1
        undisturbed = itertools.islice(batches, end - step)
        members, x, y = _steps(pruner, task, state, undisturbed)
        scalars = {**state.scalars, "step": end}
        state = dataclasses.replace(state, members=members, scalars=scalars)
        if pruner.due(static, end, steps):
            state = pruner.every(task, state, x, y)
    return state


class _Lifted:
    """A pruner's forward pass, and what follows the optimiser, for a stack or for a lone member."""

    def __init__(self, pruner: Hooks, task: Task, state: State) -> None:
        module = shaped(task, state.shape).module
        module.train()
        self.step = 0
        self._pruner = pruner
        self._context = contexts(task, state)
        self._call = precision.forward(task, stack.Call(module))
        self._drops = dropout.keys(module)
        self.forward = self._forward
        self.follow = self._follow
        if state.size > 1:
            self.forward = stack.lift(self._forward, state.size)
            self.follow = stack.lift(self._follow, state.size)

    def _forward(
        self,
        params: Params,
        buffers: Params,
        pruning: Pruning,
        given: Params,
        x: Tensor,
    ) -> dict[str, Any]:
        """Logits, buffers and, if there is one, the penalty."""
        ctx = self._context(given, self.step)
        held: dict[str, Tensor] = {}
        for name, value in buffers.items():
            held[name] = value.clone()
        for name in self._drops:
            held[name] = draws.key(ctx.seed, self.step, name)
        effective = self._pruner.effective(params, pruning, ctx)
        logits = self._call(effective, held, x)
        penalty = self._pruner.penalty(params, pruning, ctx)
        after: dict[str, Tensor] = {}
        for name in buffers:
            after[name] = held[name].detach()
        made: dict[str, Any] = {"logits": logits, "buffers": after}
        if penalty is not None:
            made["penalty"] = penalty
        return made

    def _follow(
        self,
        params: Params,
        pruning: Pruning,
        given: Params,
    ) -> tuple[Params, Pruning]:
        """Parameters and pruning after the optimiser's step."""
        step = self.step + 1
        ctx = self._context(given, step)
        return self._pruner.after_step(params, pruning, ctx)


def _steps(
    pruner: Hooks,
    task: Task,
    state: State,
    batches: Iterable[Batch],
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The members after a step for each of `batches`, and the last of those.

    One body for a stack and for a lone member, whose trees lose their leading 1.
    """
    lone = state.size == 1
    steps = task.steps - state.scalars["before"]
    lifted = _Lifted(pruner, task, state)
    trees = state.members
    if lone:
        trees = stack.single(trees)
    params: Params = map_tree(_trained, trees["params"])
    buffers = trees.get("buffers", {})
    pruning = trees.get("pruning", {})
    slots = trees.get("optimizer", {})
    given = varying(trees)
    update = optimizers.updater(task, trees["hp"], slots, steps)
    inputs = labels = torch.empty(0)
    for step, inputs, labels in batches:
        lifted.step = step
        x = inputs
        y = labels
        if lone:
            x = inputs[0]
            y = labels[0]
        if not task.stackable:
            seed = draws.key(given["seed"], step, "torch")
            torch.manual_seed(int(seed))
        made = lifted.forward(params, buffers, pruning, given, x)
        buffers = made["buffers"]
        loss = _loss(pruner, task, made, y)
        leaves = list(params.values())
        grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
        named_grads = dict(zip(params, grads, strict=True))
        with torch.no_grad():
            update(params, named_grads, step)
            if pruner.follows:
                params, pruning = lifted.follow(params, pruning, given)
                params, pruning = separated(params, pruning)
                params = map_tree(_trained, params)
        pulse.tell("step", step + 1, steps)
    trees = {
        **trees,
        "params": map_tree(Tensor.detach, params),
        "buffers": buffers,
        "pruning": pruning,
    }
    if lone:
        trees = stack.restacked(trees)
    return trees, inputs, labels


def _loss(
    pruner: Hooks,
    task: Task,
    made: Mapping[str, Any],
    labels: Tensor,
) -> Tensor:
    """The sum over members of what each minimises, which has each member's gradient.

    Outside of vmap, where it costs less.
    """
    logits = made["logits"].flatten(0, -2)
    labels = labels.flatten()
    loss = pruner.loss(logits, labels)
    loss = loss / task.batch_size
    if "penalty" in made:
        loss = loss + made["penalty"].sum()
    return loss


def _trained(parameter: Tensor) -> Tensor:
    values = parameter.detach()
    return values.requires_grad_()


def _batches(task: Task, state: State, last: int) -> Iterator[Batch]:
    """Each step up to `last` with its examples, a function of the members' seeds.

    Read, and augmented, once for each distinct seed.
    """
    seeds = state.members["seed"]
    numbers = list(dict.fromkeys(seeds.tolist()))
    distinct = torch.tensor(numbers, device=seeds.device)
    of = None
    if len(distinct) < len(seeds):
        is_its_own = seeds[:, None] == distinct
        of = is_its_own.int().argmax(1)
    site = "order"
    if state.scalars["before"]:
        site = "pruning"  # the dense phase before it, a task of its own, draws others
    examples = len(task.data.labels["train"])

    @functools.lru_cache(1)
    def order(epoch: int) -> Tensor:
        key = draws.key(distinct, epoch, site)
        return draws.permutation(key, examples)

    def rows(step: int) -> Tensor:
        epoch, place = divmod(step, task.steps_per_epoch)
        first = place * task.batch_size
        end = first + task.batch_size
        shuffled = order(epoch)
        return shuffled[:, first:end]

    steps = range(state.scalars["step"], last)
    read = task.data.feed(map(rows, steps))
    for step, (x, y) in zip(steps, read, strict=True):
        if task.augment:
            own_site = f"{site} augment"
            key = draws.key(distinct, step, own_site)
            x = augment(x, task.augment, key)
        if of is not None:
            x = x[of]
            y = y[of]
        yield step, x, y
