"""Optimisers and learning rate schedules for a stack: every member has a learning rate and a weight
decay of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..task import Task

Tensors = Mapping[str, Tensor]
Update = Callable[[Tensors, Tensors, int], None]
"""(params, grads, step): one step in place, at the learning rate that the schedule gives for it."""

SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "constant": lambda step, steps: 1.0,
    "cosine": lambda step, steps: 0.5 * (1 + math.cos(math.pi * step / steps)),
    "inverse": lambda step, steps: (1 + 1e-4 * step) ** -0.75,
}
"""Factor of the learning rate at a step of `steps`."""


# The dots keep them apart from layers: in a state, tensors are known by the last word of their
# path.
DISTANCE, NUMERATOR = "d.", "numerator."
"""Slots of dadapt_adam with one number for each member: the estimated distance to a solution, and
what it comes from.
"""

FIRST_DISTANCE = 1e-6


def slots(task: Task, params: Tensors) -> dict[str, Any]:
    """What the task's optimiser keeps, at its start: slot -> name -> zeros like the parameter, or
    slot -> (K,) float64.
    """
    sgd = ("momentum",) if task.momentum else ()
    names = {"sgd": sgd, "adam": ("mean", "square"), "dadapt_adam": ("mean", "square", "sum")}[
        task.optimizer
    ]
    found: dict[str, Any] = {
        name: {p: torch.zeros_like(value) for p, value in params.items()} for name in names
    }
    if task.optimizer == "dadapt_adam":
        some = next(iter(params.values()))
        zero = torch.zeros(len(some), dtype=torch.float64, device=some.device)
        found |= {DISTANCE: zero + FIRST_DISTANCE, NUMERATOR: zero}
    return found


def updater(task: Task, hp: Tensors, kept: Mapping[str, Any], steps: int) -> Update:
    """The task's optimiser as a function; `kept` are its slots, written in place.

    hp: `lr` and `weight_decay`, (K,) for a stack, () for a lone member.  steps: the horizon of the
    schedule.
    sgd: heavy-ball momentum, as torch.optim.SGD.  adam: decoupled weight decay (Loshchilov & Hutter
    2019), betas .9 and .999.
    dadapt_adam: Adam that finds its learning rate (Defazio & Mishchenko 2023, arXiv 2301.07733;
    without bias correction, weight decay decoupled); `lr` is a factor of what it finds, usually 1.
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
            change = (mean / (1 - 0.9 ** (step + 1))) / (
                (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
            )
            if decays:
                change = torch.addcmul(change, p, _like(hp["weight_decay"], p))
            p.addcmul_(change, _like(rate, p), value=-1)

    def dadapt_adam(params: Tensors, grads: Tensors, step: int) -> None:
        distance, numerator, beta = kept[DISTANCE], kept[NUMERATOR], math.sqrt(0.999)
        rate = distance * hp["lr"] * schedule(step, steps)
        along, length = torch.zeros_like(rate), torch.zeros_like(rate)
        for name, grad in sorted(
            grads.items()
        ):  # sums do not depend on a tree's order, which is another after it was saved
            mean, square, total = (kept[slot][name] for slot in ("mean", "square", "sum"))
            along += _sums(grad * total / (square.sqrt() + 1e-8), rate)
            mean.mul_(0.9).addcmul_(grad, _like(0.1 * rate, grad))
            square.mul_(0.999).addcmul_(grad, grad, value=0.001)
            total.mul_(beta).addcmul_(grad, _like((1 - beta) * rate, grad))
            length += _sums(total.abs(), rate)
        moved = length != 0  # a member that has had no gradient yet stays as it is
        numerator.copy_(torch.where(moved, beta * numerator + (1 - beta) * rate * along, numerator))
        found = numerator / ((1 - beta) * length)
        distance.copy_(torch.where(found > distance, found, distance))  # also where `found` is NaN
        decay = torch.where(moved, rate * hp["weight_decay"], 0.0)
        for name, p in params.items():
            if decays:
                p.addcmul_(p, _like(decay, p), value=-1)
            p.addcdiv_(kept["mean"][name], kept["square"][name].sqrt() + 1e-8, value=-1)

    return {"sgd": sgd, "adam": adam, "dadapt_adam": dadapt_adam}[task.optimizer]


def _like(scale: Tensor, p: Tensor) -> Tensor:
    """`scale`, (K,) or (), in the type of `p` and broadcastable to it."""
    return (
        scale.to(p.dtype).view(*scale.shape, *(1,) * (p.ndim - 1))
        if scale.ndim
        else scale.to(p.dtype)
    )


def _sums(values: Tensor, like: Tensor) -> Tensor:
    """Sums of each member's entries of a parameter, float64, shaped like `like`, (K,) or ()."""
    # In one piece, so that the order of additions does not depend on the cohort.
    return values.reshape(*like.shape, -1).contiguous().sum(-1, dtype=torch.float64)
