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
        for name in ("start", "begin", "every"):
            if name in vars(cls):
                setattr(cls, name, _charged(vars(cls)[name]))
        if "init_member" in vars(cls) and "begin" not in vars(cls):
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
        width = own * float(hp["width"])  # type: ignore[arg-type]
        options = {**task.model_options, "width": width}
        return dataclasses.replace(task, model_options=options)

    def before(self, task: Task, hp: Mapping[str, Value]) -> int:
        """Steps of dense training that members start from."""
        return task.dense_steps if self.from_dense else 0

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """Initial or dense-trained weights, and what `init` makes of them."""
        seeds = [member.seed for member in members]
        steps = self.before(task, members[0].hp)
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
        context, step = contexts(task, state), state.scalars["step"]
        structure = shaped(task, state.shape).structure
        trees = state.members

        def measured(params: Params, pruning: Pruning, given: Params) -> Tree:
            ctx = context(given, step)
            effective = self.measured(params, pruning, ctx)
            kept: dict[str, torch.Tensor] = {}
            for name in structure.parameters:
                kept[name] = torch.ones_like(params[name], dtype=torch.bool)
            for block in structure.blocks:
                kept[block.name] = torch.ones_like(given["seed"], dtype=torch.bool)
            kept.update(self.kept(params, pruning, ctx))
            metrics = dict(self.metrics(params, pruning))
            return {"params": dict(effective), "kept": kept, "metrics": metrics}

        with torch.no_grad():
            lifted = stack.lift(measured, state.size)
            made = lifted(trees["params"], trees.get("pruning", {}), varying(trees))
        params, buffers, kept = restored(
            task, state, made["params"], trees.get("buffers", {}), made["kept"]
        )
        of = torch.arange(state.size, device=task.torch_device)
        return Networks(params, buffers, kept, made["metrics"], of)


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
        _ = task.data, task.stackable, task.structure, task.counts, task.narrows
        with charging() as counter:
            state = method(self, task, *args, **kwargs)
        if not isinstance(state, State):  # a user's mistake, which the rehearsal names
            return state
        charged = state.scalars.get("charged", 0) + counter.total / state.size
        return dataclasses.replace(state, scalars={**state.scalars, "charged": charged})

    return counted
