"""Flips: what a unit or a residual block is worth, measured by taking it out and putting it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from .. import pulse
from ..task import Task
from ..training import stack
from .operations import BATCH_NORMS
from .units import gated

_BatchNorm = (*BATCH_NORMS, nn.SyncBatchNorm)

TOGETHER = 6
"""Units that are taken out at a time, each for itself, when all are: so few that it takes little
more memory than training.
"""

Tensors = Mapping[str, Tensor]
Site = tuple[str | None, str | None]
"""A hidden layer, and a residual block; one of them may be missing."""


def differences(
    task: Task,
    cut: Mapping[str, Any] | None,
    site: Site,
    networks: tuple[Tensors, Tensors],
    gates: Tensors,
    order: Tensor,
    x: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """Loss with it minus loss without it, for K members: of units (K, k) float64, and of a block
    (K,); as of `measured`.
    """
    units, whole, _ = measured(task, cut, site, networks, gates, order, x, y)
    return units, whole


def measured(
    task: Task,
    cut: Mapping[str, Any] | None,
    site: Site,
    networks: tuple[Tensors, Tensors],
    gates: Tensors,
    order: Tensor,
    x: Tensor,
    y: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`differences`, and the loss (K,) with all as the gates say, but the block in question there.

    cut: shape of the stack, as in its State.  networks: parameters and buffers.  gates: hidden
    layer -> (K, units) and block -> (K,), what is there (1) or not (0); the block that a layer is
    in is put there while units are tried.  order: (K, k), the units that are tried.  x: (K, B,
    *shape).  y: (K, B).

    What comes before the site is computed once, and what follows for all k + 2 settings as one
    batch. Batch-norm uses the batch's own statistics, as in training; dropout is off.
    """
    layer, block = site
    module, structure = task.cut(cut)
    around = None if layer is None else structure.block_of(layer)
    opened = {name for name in (layer, block, around and around.name) if name is not None}
    first, second = (stack.Call(on_batches(half)) for half in task.halves(cut, layer, block))
    switches = torch.ones(order.shape[1] + 2, dtype=x.dtype, device=x.device)
    switches[-1] = 0

    def one(
        params: Tensors, held: Tensors, gates: Tensors, order: Tensor, x: Tensor, y: Tensor
    ) -> dict[str, Tensor]:
        there = {**gates, **{name: torch.ones_like(gates[name]) for name in opened}}
        effective = gated(structure, params, there, there)
        values = first(effective, dict(held), x)
        base = x.new_ones(1) if layer is None else gates[layer].to(x.dtype)
        flipped = torch.where(
            torch.arange(len(base), device=x.device) == order[:, None], 1 - base, base
        )

        def loss(units: Tensor, switch: Tensor) -> Tensor:
            return F.cross_entropy(second(effective, dict(held), *values, units, switch), y)

        losses = vmap(loss)(torch.cat([base[None], flipped, base[None]]), switches).double()
        sign = torch.where(base[order] > 0.5, 1.0, -1.0)
        return {
            "units": sign * (losses[0] - losses[1:-1]),
            "block": losses[0] - losses[-1],
            "base": losses[0],
        }

    params, buffers = networks
    found = stack.lift(one, len(x))(params, without_statistics(module, buffers), gates, order, x, y)
    return found["units"], found["block"], found["base"]


@dataclasses.dataclass(frozen=True)
class Sample:
    """What is measured of each of K members. rows: training examples, a whole number of the task's
    batches, or less than one.

    batches: (K,), how many of these, from the first on.  wanted: hidden layer -> (K, units) bool,
    block -> (K,) bool.
    """

    rows: Tensor
    batches: Tensor
    wanted: Tensors


def worths(
    task: Task,
    cut: Mapping[str, Any] | None,
    networks: tuple[Tensors, Tensors],
    gates: Tensors,
    sample: Sample,
) -> dict[str, Tensor]:
    """Loss with it minus loss without it, float64, of units and blocks: hidden layer -> (K, units),
    block -> (K,).

    What is not wanted may have any value.
    """
    _, structure = task.cut(cut)
    device, sums = task.torch_device, dict[str, Tensor]()
    parts = sample.rows.to(device).split(min(task.batch_size, len(sample.rows)))
    batches = sample.batches.to(device).clamp(max=len(parts))
    for site, (layer, block) in enumerate(structure.sites):
        order = _order(None if layer is None else sample.wanted[layer], len(batches), device)
        asked = [
            sample.wanted[name].view(len(batches), -1).any(1)
            for name in (layer, block)
            if name is not None
        ]
        for name in (layer, block):
            if name is not None:
                sums[name] = torch.zeros(gates[name].shape, dtype=torch.float64, device=device)
        for number, part in enumerate(parts):
            here = (torch.stack(asked).any(0) & (batches > number)).nonzero()[:, 0]
            if not len(here):
                continue
            among = len(here) < len(batches)
            pair, ons, places = (
                (networks, gates, order) if not among else _among(here, networks, gates, order)
            )
            x, y = task.data.examples("train", part), task.data.labels["train"][part]
            x, y = (t.expand(len(here), *t.shape) for t in (x, y))
            pulse.tell(
                "audited batch", site * len(parts) + number, len(structure.sites) * len(parts)
            )
            found = [
                differences(task, cut, (layer, block), pair, ons, some, x, y)
                for some in places.split(TOGETHER, 1)
            ]
            share = batches[here]
            if layer is not None:
                units = torch.cat([units for units, _ in found], 1) / share[:, None]
                sums[layer][here] += torch.zeros_like(sums[layer][here]).scatter(1, places, units)
            if block is not None:
                sums[block][here] += found[0][1] / share
    return sums


def _order(wanted: Tensor | None, members: int, device: torch.device) -> Tensor:
    """(K, k): the units that are tried, all that any member wants among them; (K, 0) of no layer."""
    if wanted is None:
        return torch.zeros(members, 0, dtype=torch.long, device=device)
    count = int(wanted.sum(1).max())
    return wanted.int().argsort(dim=1, descending=True, stable=True)[:, :count]


def _among(here: Tensor, networks: tuple[Tensors, Tensors], gates: Tensors, order: Tensor) -> Any:
    """Networks, gates and order of the members at `here`."""
    params, buffers, ons = (
        {name: t[here] for name, t in tree.items()} for tree in (*networks, gates)
    )
    return (params, buffers), ons, order[here]


def on_batches(module: nn.Module) -> nn.Module:
    """`module`, its batch-norm layers in training and all else in evaluation."""
    for part in module.modules():
        part.train(isinstance(part, _BatchNorm))
    return module


def without_statistics(module: nn.Module, buffers: Tensors) -> Tensors:
    """`buffers` without the running statistics of batch-norm layers, which then use the batch's
    own.
    """
    parts = (item for item in module.named_modules() if isinstance(item[1], _BatchNorm))
    running = {f"{name}.{own}" for name, part in parts for own, _ in part.named_buffers()}
    return {name: value for name, value in buffers.items() if name not in running}
