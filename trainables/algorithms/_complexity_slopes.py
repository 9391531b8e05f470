"""Slopes of the expected loss in the gates of complexity-aware training: flips, and ablations.

Each estimator gives a slope by name, and says which of the gates it tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract import State
from ..structure.flips import Stack, flip, on_batches, without_statistics
from ..structure.shapes import Site, shaped
from ..structure.units import gated
from ..task import Task
from ..training import draws, stack
from ..training.hooks import Params
from ._complexity_gates import Gates, charge, draw, flops_alive

SUBSET = 0.1
"""Share of the gates that the subset estimator sets to a uniform number."""

SMOOTHING = 0.3
"""Weight of the latest loss or slope in the smoothed one."""


class Slope(NamedTuple):
    """value: d E[C] / d theta of the gates of a layer or block.  tried: bool, where it is known."""

    value: Tensor
    tried: Tensor


Slopes = Mapping[str, Slope]


def flips(
    task: Task,
    state: State,
    x: Tensor,
    y: Tensor,
) -> Slopes:
    """C(xi = 1) - C(xi = 0) for some units of one layer and for its block, on one draw of all other
    gates.
    """
    layer, block = site = _chosen(task, state)
    if site == (None, None):
        return {}
    gates, lots = draw(task, state)
    order = _order(state, layer, lots)
    networks = Stack.of(task, state, gates)
    flipped = flip(networks, site, order, x, y)
    _note_loss(state, flipped.base)
    _charge_flips(task, state, site, x.shape[1])
    slopes: dict[str, Slope] = {}
    if layer is not None:
        units = _block_gate(task, state, layer) * flipped.units
        slopes[layer] = _of_units(units, order, lots[layer])
    if block is not None:
        everything = torch.ones_like(flipped.block, dtype=torch.bool)
        slopes[block] = Slope(flipped.block, everything)
    return slopes


def _of_units(units: Tensor, order: Tensor, like: Tensor) -> Slope:
    """The slope of a layer whose units at `order` (K, k) were flipped; like: (K, units)."""
    zeros = torch.zeros_like(like)
    value = zeros.scatter(1, order, units)
    nothing = torch.zeros_like(like, dtype=torch.bool)
    tried = nothing.scatter(1, order, True)
    return Slope(value, tried)


def _chosen(task: Task, state: State) -> Site:
    """The site of an update, the same for all members, without what is gone in all of them.

    A layer is as likely as it has units, those removed included.
    """
    sites = task.structure.sites
    units = {layer.name: layer.units for layer in task.structure.hidden}
    shares = [units.get(layer or "", 1) for layer, _ in sites]
    ends = torch.tensor(shares).cumsum(0)
    step = state.scalars["step"]
    key = draws.key(torch.tensor(0), step, "site")
    lot = draws.uniform(key) * ends[-1]
    is_over = lot >= ends
    place = int(is_over.sum())
    layer, block = sites[place]
    left = shaped(task, state.shape).structure
    layers_left = {own.name for own in left.hidden}
    pruning = state.members["pruning"]
    if layer not in layers_left:
        layer = None
    if block not in pruning["theta"]:
        block = None
    return layer, block


def _order(state: State, layer: str | None, lots: Gates) -> Tensor:
    """(K, k): the units of a layer that are flipped in each member, drawn out of those alive."""
    members = state.members
    if layer is None:
        return torch.zeros(
            state.size,
            0,
            dtype=torch.long,
            device=members["seed"].device,
        )
    alive = members["pruning"]["alive"][layer]
    ranked = torch.where(alive, lots[layer], 2.0)
    order = ranked.argsort(stable=True)
    count = state.scalars["static"]["flips"]
    return order[:, :count]


def _block_gate(task: Task, state: State, layer: str) -> Tensor | float:
    """theta of the block around a layer, (K, 1); 1 where there is none."""
    structure = shaped(task, state.shape).structure
    around = structure.block_of(layer)
    if around is None:
        return 1.0
    theta = state.members["pruning"]["theta"]
    return theta[around.name][:, None]


def _charge_flips(
    task: Task,
    state: State,
    site: Site,
    examples: int,
) -> None:
    """Charge each flip as a whole forward pass, and one more for the loss without any."""
    alive = state.members["pruning"]["alive"]
    there: list[Tensor] = []
    for name in site:
        if name is not None:
            gates = alive[name].view(state.size, -1)
            there.append(gates.sum(1))
    most = state.scalars["static"]["flips"] + 1
    count = torch.stack(there).sum(0)
    count = count.clamp(max=most)
    passes = torch.where(count > 0, count + 1, 0)
    spent = passes * examples * flops_alive(task, state)
    charge(state, spent)


def subset(
    task: Task,
    state: State,
    x: Tensor,
    y: Tensor,
) -> Slopes:
    """d C / d xi at the random gates that are set to u ~ U(0, 1)."""
    gates, lots = draw(task, state)
    values: dict[str, Tensor] = {}
    tried: dict[str, Tensor] = {}
    for name, lot in lots.items():
        is_tried = lot < SUBSET
        uniform = lot / SUBSET
        drawn = gates[name].double()
        tried[name] = is_tried
        values[name] = torch.where(is_tried, uniform, drawn)
    return _derivatives(task, state, values, tried, x, y)


def straight_through(
    task: Task,
    state: State,
    x: Tensor,
    y: Tensor,
) -> Slopes:
    """d C / d xi at all gates, as they are drawn."""
    gates, _ = draw(task, state)
    values: dict[str, Tensor] = {}
    tried: dict[str, Tensor] = {}
    for name, drawn in gates.items():
        values[name] = drawn.double()
        tried[name] = torch.ones_like(drawn, dtype=torch.bool)
    return _derivatives(task, state, values, tried, x, y)


def _derivatives(
    task: Task,
    state: State,
    values: Gates,
    tried: Gates,
    x: Tensor,
    y: Tensor,
) -> Slopes:
    """d C / d xi at gates of these values."""
    model = shaped(task, state.shape)
    call = stack.Call(on_batches(model.module))
    buffers = state.members.get("buffers", {})
    held = without_statistics(model.module, buffers)

    def loss(
        params: Params,
        held: Params,
        gates: Gates,
        x: Tensor,
        y: Tensor,
    ) -> dict[str, Tensor]:
        effective = gated(model.structure, params, gates, gates)
        logits = call(effective, dict(held), x)
        mean = F.cross_entropy(logits, y)
        return {"loss": mean}

    lifted = stack.lift(loss, state.size)
    with torch.enable_grad():
        leaves = {name: value.requires_grad_() for name, value in values.items()}
        made = lifted(
            state.members["params"],
            held,
            leaves,
            x,
            y,
        )
        losses = made["loss"]
        grads = torch.autograd.grad(
            losses.sum(),
            list(leaves.values()),
            materialize_grads=True,
        )
    _note_loss(state, losses.detach().double())
    spent = 3 * x.shape[1] * flops_alive(task, state)
    charge(state, spent)
    slopes: dict[str, Slope] = {}
    for name, grad in zip(leaves, grads, strict=True):
        slopes[name] = Slope(grad, tried[name])
    return slopes


def _note_loss(state: State, losses: Tensor) -> None:
    """Take the latest losses (K,) into the smoothed ones."""
    pruning = state.members["pruning"]
    before = pruning["loss"]
    smoothed = before.lerp(losses, SMOOTHING)
    pruning["loss"] = torch.where(before.isnan(), losses, smoothed)


ESTIMATORS: Mapping[str, Callable[[Task, State, Tensor, Tensor], Slopes]] = {
    "flips": flips,
    "subset": subset,
    "straight-through": straight_through,
}
