"""Flips: what a unit or a block is worth, measured by taking it out and putting it back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from .. import pulse
from ..training import stack
from ..tree import take
from .narrow import Cut
from .shapes import Site, shaped
from .units import Structure, gated

if TYPE_CHECKING:
    from ..contract import State
    from ..task import Task

_BatchNorm = nn.modules.batchnorm._BatchNorm

TOGETHER = 6
"""Units that are taken out at a time, each for itself, when all are: so few that it takes little
more memory than training.
"""

Tensors = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Stack:
    """K networks of one shape, and which of their units and blocks are there.

    gates: hidden layer -> (K, units) and block -> (K,), 1 where something is there, and 0.
    """

    task: Task
    shape: Cut | None
    params: Tensors
    buffers: Tensors
    gates: Tensors

    @staticmethod
    def of(task: Task, state: State, gates: Tensors) -> Stack:
        """The networks of a state, with these gates."""
        params = state.members["params"]
        buffers = state.members.get("buffers", {})
        return Stack(task, state.shape, params, buffers, gates)

    def at(self, members: Tensor) -> Stack:
        """The networks at these places."""
        return dataclasses.replace(
            self,
            params=take(self.params, members),
            buffers=take(self.buffers, members),
            gates=take(self.gates, members),
        )


@dataclasses.dataclass(frozen=True)
class Flipped:
    """Loss with it minus loss without it: of units (K, k) float64, and of a block (K,).

    base: the loss (K,) with all as the gates say, but the block in question there.
    """

    units: Tensor
    block: Tensor
    base: Tensor


def flip(
    networks: Stack,
    site: Site,
    order: Tensor,
    x: Tensor,
    y: Tensor,
) -> Flipped:
    """What some units of a layer, and the block of a site, are worth on one batch.

    order: (K, k), the units that are tried; the block that the layer is in is put there while they
    are.  x: (K, B, *shape).  y: (K, B).

    What comes before the site is computed once, and what follows for all k + 2 settings as one
    batch. Batch-norm uses the batch's own statistics, as in training; dropout is off.
    """
    layer, _ = site
    model = shaped(networks.task, networks.shape)
    structure = model.structure
    opened = _opened(structure, site)
    before, after = model.halves(site)
    first = stack.Call(on_batches(before))
    second = stack.Call(on_batches(after))
    switches = torch.ones(order.shape[1] + 2, dtype=x.dtype, device=x.device)
    switches[-1] = 0

    def one(
        params: Tensors,
        held: Tensors,
        gates: Tensors,
        order: Tensor,
        x: Tensor,
        y: Tensor,
    ) -> dict[str, Tensor]:
        there = dict(gates)
        for name in opened:
            there[name] = torch.ones_like(gates[name])
        effective = gated(structure, params, there, there)
        values = first(effective, dict(held), x)
        base = x.new_ones(1)
        if layer is not None:
            base = gates[layer].to(x.dtype)
        places = torch.arange(len(base), device=x.device)
        is_tried = places == order[:, None]
        flipped = torch.where(is_tried, 1 - base, base)

        def loss(units: Tensor, switch: Tensor) -> Tensor:
            logits = second(effective, dict(held), *values, units, switch)
            return F.cross_entropy(logits, y)

        settings = torch.cat([base[None], flipped, base[None]])
        losses = vmap(loss)(settings, switches).double()
        was_on = base[order] > 0.5
        sign = torch.where(was_on, 1.0, -1.0)
        return {
            "units": sign * (losses[0] - losses[1:-1]),
            "block": losses[0] - losses[-1],
            "base": losses[0],
        }

    held = without_statistics(model.module, networks.buffers)
    lifted = stack.lift(one, len(x))
    made = lifted(networks.params, held, networks.gates, order, x, y)
    return Flipped(made["units"], made["block"], made["base"])


def _opened(structure: Structure, site: Site) -> set[str]:
    """Names of the gates that are opened while a site is tried: its own, and the block's around."""
    layer, block = site
    names: set[str] = set()
    if block is not None:
        names.add(block)
    if layer is not None:
        names.add(layer)
        around = structure.block_of(layer)
        if around is not None:
            names.add(around.name)
    return names


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


def worths(networks: Stack, sample: Sample) -> dict[str, Tensor]:
    """Loss with it minus loss without it, float64, of units and blocks: hidden layer -> (K, units),
    block -> (K,).

    What is not wanted may have any value.
    """
    sums: dict[str, Tensor] = {}
    for name, gates in networks.gates.items():
        sums[name] = torch.zeros(gates.shape, dtype=torch.float64, device=gates.device)
    model = shaped(networks.task, networks.shape)
    sites = model.structure.sites
    parts = _parts(networks.task, sample)
    total = len(sites) * len(parts)
    batches, asked, widths = _wishes(sample, sites)
    for place, site in enumerate(sites):
        order = _order(sample, site, widths[place])
        for number, part in enumerate(parts):
            has_batch = batches > number
            is_measured = asked[place] & has_batch
            here = is_measured.nonzero()[:, 0]
            if not len(here):
                continue
            done = place * len(parts) + number
            pulse.tell("audited batch", done, total)
            here = here.to(order.device, non_blocking=True)
            _add(networks, sample, site, here, order, part, sums)
    return sums


def _wishes(sample: Sample, sites: Sequence[Site]) -> tuple[Tensor, Tensor, list[int]]:
    """What is wanted, on the CPU, in one reading of the device: how many batches (K,) of each
    member, of which members anything of a site, (sites, K) bool, and the most units of a site that
    a member wants.
    """
    device = next(iter(sample.wanted.values())).device
    rows = [sample.batches.to(device, non_blocking=True)]
    for site in sites:
        rows.append(_asked(sample, site).long())
    for site in sites:
        rows.append(_units_wanted(sample, site))
    told = torch.stack(rows).cpu()
    batches, asked, units = told.split([1, len(sites), len(sites)])
    return batches[0], asked.bool(), units.amax(1).tolist()


def _add(
    networks: Stack,
    sample: Sample,
    site: Site,
    here: Tensor,
    order: Tensor,
    part: Tensor,
    sums: dict[str, Tensor],
) -> None:
    """Add what one batch says of a site, of the members at `here`, to the sums of all members."""
    task = networks.task
    layer, block = site
    if len(here) < len(order):
        networks = networks.at(here)
        order = order[here]
    inputs, labels = task.data.labelled("train", part)
    x = inputs.expand(len(here), *inputs.shape)
    y = labels.expand(len(here), *labels.shape)
    tried: list[Flipped] = []
    for some in order.split(TOGETHER, 1):
        flipped = flip(networks, site, some, x, y)
        tried.append(flipped)
    most = len(_parts(task, sample))
    batches = sample.batches.to(here.device)
    batches = batches.clamp(max=most)
    share = batches[here]
    if layer is not None:
        units = torch.cat([flipped.units for flipped in tried], 1)
        mean = units / share[:, None]
        nothing = torch.zeros_like(sums[layer][here])
        sums[layer][here] += nothing.scatter(1, order, mean)
    if block is not None:
        sums[block][here] += tried[0].block / share


def _parts(task: Task, sample: Sample) -> tuple[Tensor, ...]:
    """The examples of a sample, batch by batch."""
    examples = len(sample.rows)
    size = min(task.batch_size, examples)
    return sample.rows.split(size)


def _asked(sample: Sample, site: Site) -> Tensor:
    """(K,) bool: whether anything of a site is wanted of a member."""
    members = len(sample.batches)
    asked: list[Tensor] = []
    for name in site:
        if name is None:
            continue
        wanted = sample.wanted[name].view(members, -1)
        asked.append(wanted.any(1))
    return torch.stack(asked).any(0)


def _units_wanted(sample: Sample, site: Site) -> Tensor:
    """(K,): how many units of a site's layer are wanted of each member."""
    layer, block = site
    if layer is None:
        wanted = sample.wanted[str(block)]
        return torch.zeros_like(wanted, dtype=torch.long)
    return sample.wanted[layer].sum(1)


def _order(sample: Sample, site: Site, most: int) -> Tensor:
    """(K, k): the units that are tried, all that any member wants among them; none of no layer.

    most: units that a member wants.
    """
    layer, block = site
    if layer is None:
        members = len(sample.batches)
        device = sample.wanted[str(block)].device
        return torch.zeros(members, 0, dtype=torch.long, device=device)
    wanted = sample.wanted[layer].int()
    order = wanted.argsort(dim=1, descending=True, stable=True)
    return order[:, :most]


def on_batches(module: nn.Module) -> nn.Module:
    """`module`, its batch-norm layers in training and all else in evaluation."""
    for part in module.modules():
        is_norm = isinstance(part, _BatchNorm)
        part.train(is_norm)
    return module


def without_statistics(module: nn.Module, buffers: Tensors) -> Tensors:
    """`buffers` without the running statistics of batch-norm layers, which then use the batch's
    own.
    """
    running: set[str] = set()
    for name, part in module.named_modules():
        if not isinstance(part, _BatchNorm):
            continue
        for own, _ in part.named_buffers():
            running.add(f"{name}.{own}")
    left: dict[str, Tensor] = {}
    for name, value in buffers.items():
        if name not in running:
            left[name] = value
    return left
