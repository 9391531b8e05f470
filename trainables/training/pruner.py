"""GradientPruner: an algorithm that trains by gradient, as hooks for one network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from ...analysis.rows.mistake import Mistake
from .. import models
from ..contract import Algorithm, Member, Networks, State
from ..domain import Domain, Value
from ..measure.flops import charging
from ..structure.shapes import shaped
from ..structure.units import Structure
from ..task import Task
from ..tree import Tree
from . import loop, stack, start
from .compact import compact, restored
from .dense import dense_networks
from .hooks import Context, Hooks, Params, Pruning, contexts, space, varying
from .start import Dense

__all__ = ["Context", "GradientPruner", "Params", "Pruning", "space"]


class GradientPruner(Hooks, Algorithm):
    """An algorithm that trains by gradient. Subclasses override hooks, functions of one network.

    What a subclass computes in a `start`, `begin`, `init_member` or `every` of its own is counted,
    and charged to its members in equal parts as `search_flops`; not so if it says by `charges` that
    it does so itself, in `Networks.search`.
    """

    source = "plain training by gradient"
    space: ClassVar[Mapping[str, Domain]] = space()
    charges: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = dict(vars(cls))
        for name in ("start", "begin", "every"):
            if name in own:
                charged = _charged(own[name])
                setattr(cls, name, charged)
        if "init_member" in own and "begin" not in own:
            cls.begin = _charged(cls.begin)  # which calls it

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        """The model at another `width`."""
        if hp["width"] == 1:
            return task
        build = models.lookup(task.model, models.MODELS, "model")
        names, others = models.options(build, given=2)
        if "width" not in names and not others:
            rule = "`width` other than 1 needs a model with an option `width`"
            raise Mistake(f"{rule}; {task.model} has none")
        own = float(task.model_options.get("width", 1))
        factor = float(hp["width"])  # type: ignore[arg-type]
        width = own * factor
        options = {**task.model_options, "width": width}
        return dataclasses.replace(task, model_options=options)

    def before(self, task: Task, hp: Mapping[str, Value]) -> int:
        """Steps of dense training that members start from."""
        if not self.from_dense:
            return 0
        return task.dense_steps

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """Initial or dense-trained weights, and what `init` makes of them."""
        seeds = [member.seed for member in members]
        first = members[0]
        steps = self.before(task, first.hp)
        dense = dense_networks(task, seeds, steps)
        return self.begin(task, members, dense)

    def begin(self, task: Task, members: Sequence[Member], dense: Dense) -> State:
        """The state of members that start from `dense`, one network for each."""
        return start.begin(self, task, members, dense)

    def advance(self, task: Task, state: State) -> State:
        """To the next rung: all members together, or one after the other if `vmap` refuses the
        model.
        """
        return loop.advance(self, task, state)

    def first_step(self, task: Task, state: State) -> State:
        """The members after their first step: a rehearsal."""
        return loop.first_step(self, task, state)

    def compact(self, task: Task, state: State) -> State:
        """The same members in the smallest stack that holds what is left of them, if that is
        smaller than theirs.
        """
        return compact(self, task, state)

    def networks(self, task: Task, state: State) -> Networks:
        """One network for each member."""
        context = contexts(task, state)
        step = state.scalars["step"]
        structure = shaped(task, state.shape).structure
        trees = state.members
        pruning = trees.get("pruning", {})
        buffers = trees.get("buffers", {})
        given = varying(trees)

        def measured(params: Params, pruning: Pruning, given: Params) -> Tree:
            ctx = context(given, step)
            effective = self.measured(params, pruning, ctx)
            kept = _whole(structure, params, given)
            kept.update(self.kept(params, pruning, ctx))
            metrics = self.metrics(params, pruning)
            return {
                "params": dict(effective),
                "kept": kept,
                "metrics": dict(metrics),
            }

        with torch.no_grad():
            lifted = stack.lift(measured, state.size)
            made = lifted(trees["params"], pruning, given)
        params, buffers, kept = restored(task, state, made["params"], buffers, made["kept"])
        of = torch.arange(state.size, device=task.torch_device)
        return Networks(params, buffers, kept, made["metrics"], of)


def _whole(structure: Structure, params: Params, given: Params) -> dict[str, torch.Tensor]:
    """Masks of one network that keep all of it."""
    kept: dict[str, torch.Tensor] = {}
    for name in structure.parameters:
        weight = params[name]
        kept[name] = torch.ones_like(weight, dtype=torch.bool)
    seed = given["seed"]
    for block in structure.blocks:
        kept[block.name] = torch.ones_like(seed, dtype=torch.bool)
    return kept


def _charged(method: Callable[..., State]) -> Callable[..., State]:
    """`method`, (self, task, ...) -> State, that adds what it costs to the state's scalar
    `charged`, FLOPs of a member.
    """

    @functools.wraps(method)
    def counted(self: GradientPruner, task: Task, *args: Any, **kwargs: Any) -> State:
        if self.charges:
            return method(self, task, *args, **kwargs)
        # What the task finds out by trying its model belongs to no member, and is known after the
        # first one.
        _ = task.data
        _ = task.stackable
        _ = task.structure
        _ = task.counts
        _ = task.narrows
        with charging() as counter:
            state = method(self, task, *args, **kwargs)
        if not isinstance(state, State):  # a user's mistake, which the rehearsal names
            return state
        before = state.scalars.get("charged", 0)
        share = counter.total / state.size
        charged = before + share
        scalars = {**state.scalars, "charged": charged}
        return dataclasses.replace(state, scalars=scalars)

    return counted
