"""What is to be saved by complexity-aware training, and what each unit and block costs of it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import State
from ..structure.units import expected
from ..task import Task
from ._complexity_gates import Gates, sums

LEAST = 1e-12
"""A mean price below this counts as this."""


def complexity(task: Task, units: Gates, blocks: Gates, alpha: Tensor, beta: Tensor) -> Tensor:
    """J, (...): 1 for the whole network. units: hidden layer -> mean number of units (...).
    blocks: block -> theta (...).
    """
    flops, params = expected(task.structure, task.counts, units, blocks)
    width = alpha * flops / task.counts.flops + (1 - alpha) * params / task.counts.params
    depth = sum(blocks.values())
    return (1 - beta) * width + beta * depth / max(1, len(blocks))


def prices(task: Task, state: State) -> tuple[Gates, Gates]:
    """d (nu J) / d theta of any gate of each hidden layer and block, (K,) by name; and its mean
    over all units, or blocks.
    """
    hp = state.members["hp"]
    units, blocks = sums(task, state, "theta")
    leaves = {**units, **blocks}
    for total in leaves.values():
        total.requires_grad_()
    with torch.enable_grad():
        cost = hp["nu"] * complexity(task, units, blocks, hp["alpha"], hp["beta"])
        slopes = torch.autograd.grad(cost.sum(), list(leaves.values()), materialize_grads=True)
    price = dict(zip(leaves, slopes, strict=True))
    means: dict[str, Tensor] = {}
    for kind in sums(task, state, "alive"):
        total = count = torch.zeros_like(hp["nu"])
        for name, alive in kind.items():
            total = total + price[name] * alive
            count = count + alive
        mean = (total / count.clamp(min=1)).clamp(min=LEAST)
        means |= dict.fromkeys(kind, mean)
    return price, means
