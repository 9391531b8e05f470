"""Hooks: what a pruner does to ONE network while it trains; the loop lifts them to a cohort."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..contract import Member, State
from ..domain import Domain, Value
from ..structure.shapes import shaped
from ..structure.units import Structure
from ..tree import Tree
from . import draws, optimizers
from .timed import timed

if TYPE_CHECKING:
    from ..task import Task

Params = Mapping[str, Tensor]
Pruning = Tree


@dataclasses.dataclass(slots=True)
class Context:
    """What a pruner's functions may know beside parameters.

    hp: by name, a number () float64, or (layers,) for a `reals` domain; static ones are plain
    values, and those left to the algorithm (None) are absent.  seed: () int64.  step: steps done
    since `start`, of `steps` in all.
    structure: of the network as it is now, which may be narrower than the parent.  schedule: factor
    of the learning rate at a step.
    """

    hp: Mapping[str, Any]
    seed: Tensor
    step: int
    steps: int
    structure: Structure
    schedule: Callable[[int], float] = lambda step: 1.0

    def uniform(
        self,
        site: str,
        shape: tuple[int, ...] = (),
        index: Tensor | int = 0,
    ) -> Tensor:
        """Numbers in [0, 1), float64, drawn from (seed, step, site) alone; `index` counts further
        draws of the shape.
        """
        key = draws.key(self.seed, self.step, site)
        return draws.uniform(key, shape, index=index)


def space(**own: Domain) -> dict[str, Domain]:
    """A pruner's hyper-parameters, and those that every training by gradient has."""
    about_width = "the parent's width, in widths of the task's model"
    about_decay = "the L2 penalty (default: the task's)"
    about_rate = "the learning rate (default: the task's)"
    width = Domain("real", 1.0, about_width, low=0.01, high=100, log=True, static=True)
    lr = Domain("real", None, about_rate, low=0, log=True, tunable=True)
    weight_decay = Domain("real", None, about_decay, low=0, log=True, tunable=True)
    return {
        **own,
        "width": width,
        "lr": lr,
        "weight_decay": weight_decay,
    }


class Hooks:
    """Plain training; a pruner overrides what it does otherwise, without branches on tensors.

    Two hooks are called only where the class says that it has them, since they cost time in every
    cohort.  follows: `after_step` does something.  narrows: `lasting` says what may be cut out of
    the stack.
    """

    space: ClassVar[Mapping[str, Domain]] = space()
    follows: ClassVar[bool] = False
    narrows: ClassVar[bool] = False

    def init(self, params: Params, ctx: Context) -> Pruning:
        """Masks, gates, or whatever the pruner keeps, before the first step."""
        return {}

    def init_member(
        self,
        task: Task,
        member: Member,
        params: Params,
        buffers: Params,
    ) -> Pruning:
        """What `vmap` cannot make of one member's network, added to what `init` gives.

        Called once for each member, outside of `vmap`: values may be looked at, and other packages
        called.
        """
        return {}

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """What the network computes with; the loss's gradient reaches `params` through this
        function.
        """
        return params

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is minimised, summed over examples, (): cross-entropy. logits: (n, classes).
        labels: (n,).
        """
        return F.cross_entropy(logits, labels, reduction="sum")

    def penalty(self, params: Params, pruning: Pruning, ctx: Context) -> Tensor | None:
        """Added to the loss, (); None adds nothing."""
        return None

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        """Parameters and pruning after an optimiser's step; `ctx.step` counts it."""
        return params, pruning

    def measured(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """What is measured: a network of its own, with nothing left to chance."""
        return self.effective(params, pruning, ctx)

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """Name -> bool, True keeps, for each removable parameter not kept whole; block -> () bool,
        if it may be gone.
        """
        return {}

    def lasting(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """Of `kept`, what stays as it is removed to the end: units and blocks in it are cut out of
        the stack.

        Masks of all that reads a unit must be there. Tensors of `pruning` are cut too, known by the
        last word of their path: a parameter, a hidden layer (one entry for each unit), or a block.
        """
        return {}

    def due(self, hp: Mapping[str, Value], step: int, steps: int) -> bool:
        """Whether `every` is called after `step` of `steps` optimiser steps. hp: static ones."""
        return False

    def every(self, task: Task, state: State, x: Tensor, y: Tensor) -> State:
        """Work outside `vmap`, driven by data: inputs (K, B, *shape) and labels (K, B) of the step
        just made.
        """
        return state

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """The pruner's own figures, name -> ()."""
        return {}


DECLARED = {"follows": "after_step", "narrows": "lasting"}
"""The attribute by which a class says that it has a hook."""


def misdeclared(kind: type[Hooks]) -> str | None:
    """What a class says wrongly of its hooks, as a sentence; None if nothing."""
    for attribute, hook in DECLARED.items():
        overrides = getattr(kind, hook) is not getattr(Hooks, hook)
        declares = getattr(kind, attribute)
        if overrides and declares is not True:
            return f"`{hook}` is called only where `{attribute}` = True; got {declares!r}"
        if declares and not overrides:
            return (
                f"`{attribute}` says that there is a `{hook}`: False without one; got {declares!r}"
            )
    return None


def varying(trees: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters and seed: what differs between members beside their networks."""
    hp = trees.get("hp", {})
    seed = trees["seed"]
    return {"hp": hp, "seed": seed}


def contexts(task: Task, state: State) -> Callable[[Tree, int], Context]:
    """A function of (what is `varying` of one member, step); made outside `vmap`, since it looks at
    the model.
    """
    static = state.scalars["static"]
    steps = task.steps - state.scalars["before"]
    structure = shaped(task, state.shape).structure
    course = optimizers.course(task)

    def rate(step: int) -> float:
        return timed(course, step, steps)

    def context(given: Tree, step: int) -> Context:
        hp = {**static, **given["hp"]}
        seed = given["seed"]
        return Context(hp, seed, step, steps, structure, schedule=rate)

    return context
