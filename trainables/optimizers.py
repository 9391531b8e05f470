"""Optimisers and learning rate schedules for a stack: every member has a learning rate and a weight decay of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .task import Task

Tensors = Mapping[str, Tensor]
Update = Callable[[Tensors, Tensors, int], None]
"""(params, grads, step): one step in place, at the learning rate that the schedule gives for it."""

SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "constant": lambda step, steps: 1.0,
    "cosine": lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
    "inverse": lambda step, steps: (1 + 1e-4 * step) ** -0.75,
}
"""Factor of the learning rate at a step of `steps`."""


def slots(task: Task, params: Tensors) -> dict[str, Any]:
    """What the task's optimiser keeps for each parameter, at its start: slot -> name -> zeros like the parameter."""
    names = {"sgd": ("momentum",) if task.momentum else (), "adam": ("mean", "square")}[task.optimizer]
    return {name: {p: torch.zeros_like(value) for p, value in params.items()} for name in names}


def updater(task: Task, hp: Tensors, kept: Mapping[str, dict[str, Tensor]], steps: int) -> Update:
    """The task's optimiser as a function; `kept` are its slots, written in place.

    hp: `lr` and `weight_decay`, (K,) for a stack, () for a lone member.  steps: the horizon of the schedule.
    sgd: heavy-ball momentum, as torch.optim.SGD.  adam: decoupled weight decay (Loshchilov & Hutter 2019), betas .9 and .999.
    """
    schedule, decays = SCHEDULES[task.schedule], bool((hp["weight_decay"] != 0).any())

    def sgd(params: Tensors, grads: Tensors, step: int) -> None:
        rate = hp["lr"] * schedule(step, steps)
        for name, p in params.items():
            change = grads[name]
            if task.momentum:
                change = kept["momentum"][name].mul_(task.momentum).add_(change)
                if decays:
                    change.addcmul_(p, _like(hp["weight_decay"], p))
            elif decays:
                change = torch.addcmul(change, p, _like(hp["weight_decay"], p))
            p.addcmul_(change, _like(rate, p), value=-1)

    def adam(params: Tensors, grads: Tensors, step: int) -> None:
        rate = hp["lr"] * schedule(step, steps)
        for name, p in params.items():
            mean = kept["mean"][name].lerp_(grads[name], 0.1)
            square = kept["square"][name].lerp_(grads[name].square(), 0.001)
            change = (mean / (1 - 0.9 ** (step + 1))) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            if decays:
                change = torch.addcmul(change, p, _like(hp["weight_decay"], p))
            p.addcmul_(change, _like(rate, p), value=-1)

    return {"sgd": sgd, "adam": adam}[task.optimizer]


def _like(scale: Tensor, p: Tensor) -> Tensor:
    """`scale`, (K,) or (), in the type of `p` and broadcastable to it."""
    return scale.to(p.dtype).view(*scale.shape, *(1,) * (p.ndim - 1)) if scale.ndim else scale.to(p.dtype)
