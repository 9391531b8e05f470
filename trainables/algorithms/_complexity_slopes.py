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
from ..structure.units import Structure, gated
from ..task import Task
from ..training import draws, stack
from ..training.hooks import Params
from ._complexity_gates import Gates, draw, flops_alive

SUBSET = 0.1
"""Share of the gates that the subset estimator sets to a uniform number."""

SMOOTHING = 0.3
"""Weight of the latest loss or slope in the smoothed one."""


class Slope(NamedTuple):
    """value: d E[C] / d theta of the gates of a layer or block.  tried: bool, where it is known."""

    value: Tensor
    tried: Tensor


Slopes = Mapping[str, Slope]


def flips(task: Task, state: State, x: Tensor, y: Tensor) -> Slopes:
    """C(xi = 1) - C(xi = 0) for some units of one layer and for its block, on one draw of all other
    gates.
    """
    pruning = state.members["pruning"]
    structure = shaped(task, state.shape).structure
    hidden = {layer.name for layer in structure.hidden}
    layer, block = _chosen(task.structure, state.scalars["step"])
    layer = layer if layer in hidden else None
    block = block if block in pruning["theta"] else None
    if layer is None and block is None:
        return {}  # gone in all members
    gates, lots = draw(task, state)
    picked = torch.zeros(state.size, 0, device=x.device)
    if layer is not None:
        picked = torch.where(pruning["alive"][layer], lots[layer], 2.0)
    order = picked.argsort(stable=True)[:, : state.scalars["static"]["flips"]]
    params, buffers = state.members["params"], state.members.get("buffers", {})
    networks = Stack(task, state.shape, params, buffers, gates)
    flipped = flip(networks, (layer, block), order, x, y)
    _note_loss(state, flipped.base)
    _charge_flips(task, state, (layer, block), x.shape[1])
    slopes: dict[str, Slope] = {}
    if layer is not None:
        around = structure.block_of(layer)
        weight = 1.0 if around is None else pruning["theta"][around.name][:, None]
        value = torch.zeros_like(picked).scatter(1, order, weight * flipped.units)
        tried = torch.zeros_like(picked, dtype=torch.bool).scatter(1, order, True)
        slopes[layer] = Slope(value, tried)
    if block is not None:
        slopes[block] = Slope(flipped.block, torch.ones_like(flipped.block, dtype=torch.bool))
    return slopes


def _chosen(structure: Structure, step: int) -> Site:
    """The site of an update, the same for all members: a layer is as likely as it has units, those
    removed included.
    """
    units = {layer.name: layer.units for layer in structure.hidden}
    shares = [units.get(layer or "", 1) for layer, _ in structure.sites]
    ends = torch.tensor(shares).cumsum(0)
    lot = draws.uniform(draws.key(torch.tensor(0), step, "site")) * ends[-1]
    return structure.sites[int((lot >= ends).sum())]


def _charge_flips(task: Task, state: State, site: Site, examples: int) -> None:
    """Charge each flip as a whole forward pass, and one more for the loss without any."""
    pruning, most = state.members["pruning"], state.scalars["static"]["flips"] + 1
    there: list[Tensor] = []
    for name in site:
        if name is not None:
            there.append(pruning["alive"][name].view(state.size, -1).sum(1))
    count = torch.stack(there).sum(0).clamp(max=most)
    passes = torch.where(count > 0, count + 1, 0) * examples
    pruning["spent"] = pruning["spent"] + passes * flops_alive(task, state)


def subset(task: Task, state: State, x: Tensor, y: Tensor) -> Slopes:
    """d C / d xi at the random gates that are set to u ~ U(0, 1)."""
    gates, lots = draw(task, state)
    values: dict[str, Tensor] = {}
    tried: dict[str, Tensor] = {}
    for name, lot in lots.items():
        tried[name] = lot < SUBSET
        values[name] = torch.where(tried[name], lot / SUBSET, gates[name].double())
    return _derivatives(task, state, values, tried, x, y)


def straight_through(task: Task, state: State, x: Tensor, y: Tensor) -> Slopes:
    """d C / d xi at all gates, as they are drawn."""
    gates, lots = draw(task, state)
    values = {name: gate.double() for name, gate in gates.items()}
    tried = {name: torch.ones_like(lot, dtype=torch.bool) for name, lot in lots.items()}
    return _derivatives(task, state, values, tried, x, y)


def _derivatives(
    task: Task, state: State, values: Gates, tried: Gates, x: Tensor, y: Tensor
) -> Slopes:
    """d C / d xi at gates of these values."""
    model = shaped(task, state.shape)
    call = stack.Call(on_batches(model.module))
    held = without_statistics(model.module, state.members.get("buffers", {}))

    def loss(params: Params, held: Params, gates: Gates, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits = call(gated(model.structure, params, gates, gates), dict(held), x)
        return {"loss": F.cross_entropy(logits, y)}

    lifted = stack.lift(loss, state.size)
    with torch.enable_grad():
        leaves = {name: value.requires_grad_() for name, value in values.items()}
        losses = lifted(state.members["params"], held, leaves, x, y)["loss"]
        slopes = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    _note_loss(state, losses.detach().double())
    pruning = state.members["pruning"]
    pruning["spent"] = pruning["spent"] + 3 * x.shape[1] * flops_alive(task, state)
    return {name: Slope(slope, tried[name]) for name, slope in zip(leaves, slopes, strict=True)}


def _note_loss(state: State, losses: Tensor) -> None:
    """Take the latest losses (K,) into the smoothed ones."""
    pruning = state.members["pruning"]
    before = pruning["loss"]
    pruning["loss"] = torch.where(before.isnan(), losses, before.lerp(losses, SMOOTHING))


ESTIMATORS: Mapping[str, Callable[[Task, State, Tensor, Tensor], Slopes]] = {
    "flips": flips,
    "subset": subset,
    "straight-through": straight_through,
}
