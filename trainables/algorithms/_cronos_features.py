"""What prunes the layers below CRONOS-AM's head: another algorithm, which sees these layers alone.

Its hyper-parameters are `features.<name>`; what is not given is at that algorithm's own default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from ..contract import State
from ..domain import Domain, Value, expect_defaults
from ..structure.units import Structure
from ..task import Task
from ..training import stack
from ..training.hooks import Context, Params, Pruning, contexts, varying
from ..training.pruner import GradientPruner
from .dns import DNS
from .magnitude import Magnitude

NONE = "none"
PREFIX = "features."
PRUNERS: Mapping[str, GradientPruner] = {"magnitude": Magnitude(), "dns": DNS()}
TAKEN: Mapping[str, Sequence[str]] = {
    "magnitude": ("sparsity", "schedule", "ramp", "every"),
    "dns": ("sparsity", "sigma", "gamma", "power", "growth", "stop"),
}
"""Hyper-parameters of each that make sense on a part of a network: none that names its layers."""


def domains() -> dict[str, Domain]:
    """`features`, and the hyper-parameters of all that it may name."""
    choices = (NONE, *PRUNERS)
    about = "the algorithm that prunes the layers below the head"
    space = {"features": Domain("choice", NONE, about, choices=choices, static=True)}
    for algorithm, names in TAKEN.items():
        for name in names:
            own = PRUNERS[algorithm].space[name]
            about = f"{own.about} (default: that of `features`)"
            domain = dataclasses.replace(own, default=None, about=about, tunable=False)
            space.setdefault(f"{PREFIX}{name}", domain)
    return space


def check(space: Mapping[str, Domain], hp: Mapping[str, Value]) -> None:
    """Raise Mistake if a hyper-parameter is given that what prunes the features has not."""
    used = TAKEN.get(str(hp["features"]), ())
    for name in space:
        own = name.removeprefix(PREFIX)
        if own == name or own in used:
            continue
        having = [algorithm for algorithm, names in TAKEN.items() if own in names]
        expect_defaults(space, hp, (name,), f"with `features` {' or '.join(having)}")


def begun(task: Task, state: State, head: Collection[str]) -> Pruning:
    """What the algorithm keeps of each member, before the first step; head: names of parameters
    that it does not see.
    """
    context = contexts(task, state)
    static = state.scalars["static"]
    pruner = PRUNERS[static["features"]]
    names = set(task.structure.parameters) - set(head)

    def init(params: Params, given: Params) -> Pruning:
        ctx = context(given, 0)
        return pruner.init(params, _seen(ctx, names))

    lifted = stack.lift(init, state.size)
    return lifted(state.members["params"], varying(state.members))


def after_step(params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
    """Parameters, and what the algorithm keeps, after an optimiser's step."""
    pruner = PRUNERS[ctx.hp["features"]]
    own = _seen(ctx, pruning["mask"])
    return pruner.after_step(params, pruning, own)


def effective(params: Params, pruning: Pruning, ctx: Context) -> Params:
    """What is computed with, and how the gradient reaches parameters."""
    pruner = PRUNERS[ctx.hp["features"]]
    own = _seen(ctx, pruning["mask"])
    return pruner.effective(params, pruning, own)


def _seen(ctx: Context, names: Collection[str]) -> Context:
    """The context as the algorithm sees it: the layers of these parameters, and its own names."""
    pruner = PRUNERS[ctx.hp["features"]]
    hp: dict[str, Any] = {}
    for name, domain in pruner.space.items():
        value: Any = ctx.hp.get(f"{PREFIX}{name}")
        if value is None:
            value = domain.default
            if value is not None and not domain.static:
                value = torch.full((), value, dtype=torch.float64, device=ctx.seed.device)
        if value is not None:
            hp[name] = value
    layers = [layer for layer in ctx.structure.layers if layer.weight in names]
    return dataclasses.replace(ctx, hp=hp, structure=Structure(tuple(layers), ()))
