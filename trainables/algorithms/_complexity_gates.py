"""Gates of complexity-aware training: random switches of units and blocks, and how they go.

A pruner's state holds trees of them by name: of a hidden layer one for each unit, of a block one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..contract import State
from ..structure.shapes import shaped
from ..structure.units import Structure, expected, node_masks
from ..task import Task
from ..training import stack
from ..training.hooks import contexts, varying
from ..training.pruner import Context, Params, Pruning

Gates = Mapping[str, Tensor]
"""By name: of a hidden layer, one for each unit; of a block, one."""


def initial(structure: Structure, seed: Tensor) -> Pruning:
    """What is kept of one network's gates, all of them at 1."""
    one = torch.ones((), dtype=torch.float64, device=seed.device)
    sizes: dict[str, tuple[int, ...]] = {layer.name: (layer.units,) for layer in structure.hidden}
    sizes.update({block.name: () for block in structure.blocks})
    theta = {name: one.expand(size).clone() for name, size in sizes.items()}
    count = sum(gate.numel() for gate in theta.values())
    return {
        "theta": theta,
        "alive": {name: gate > 0 for name, gate in theta.items()},
        "lot": split(torch.arange(count, device=seed.device), theta),
        "zeros": {name: gate.long() * 0 for name, gate in theta.items()},  # updates at 0, in a row
        "slope": {name: gate * 0 for name, gate in theta.items()},  # d objective / d theta, smooth
        "kappa": one * 0,  # the largest |d E[C] / d theta| seen, by the norm of the unit
        "held": seed * 0,
        "spent": seed * 0,  # FLOPs of learning the gates
        "certificate": one * torch.nan,
        "audited": one * torch.nan,
        "loss": one * torch.nan,  # of training, smoothed over updates
        "waited": seed * 0,
    }


def gates_of(pruning: Pruning, key: str) -> Gates:
    """What `key` holds by name; nothing if no gates are left in any member, since a state keeps no
    empty trees.
    """
    return pruning.get(key, {})


def flat(gates: Gates) -> Tensor:
    """(K, all gates)."""
    return torch.cat([gate.view(len(gate), -1) for gate in gates.values()], 1)


def unflat(matrix: Tensor, like: Gates) -> dict[str, Tensor]:
    """Gates shaped like `like` out of (K, all gates)."""
    parts = matrix.split([gate[0].numel() for gate in like.values()], 1)
    gates: dict[str, Tensor] = {}
    for (name, gate), part in zip(like.items(), parts, strict=True):
        gates[name] = part.view(gate.shape)
    return gates


def split(vector: Tensor, like: Gates) -> dict[str, Tensor]:
    """One network's gates, shaped like `like`, out of a vector of them all."""
    parts = vector.split([gate.numel() for gate in like.values()])
    gates: dict[str, Tensor] = {}
    for (name, gate), part in zip(like.items(), parts, strict=True):
        gates[name] = part.view(gate.shape)
    return gates


def beside(column: Tensor, like: Tensor) -> Tensor:
    """(K,), broadcastable to `like`, (K,) or (K, units)."""
    ones = (1,) * (like.ndim - 1)
    return column.view(-1, *ones)


def drawn(pruning: Pruning, ctx: Context, site: str) -> dict[str, Tensor]:
    """Gates that are on with probability theta."""
    theta = torch.cat([theta.flatten() for theta in pruning["theta"].values()])
    return split(_uniform(pruning, ctx, site) < theta, pruning["theta"])


def _uniform(pruning: Pruning, ctx: Context, site: str) -> Tensor:
    """A number in [0, 1) for each gate, in one vector, whatever the stack's shape."""
    lots = torch.cat([pruning["lot"][name].flatten() for name in pruning["theta"]])
    return ctx.uniform(site, (), lots)


def draw(task: Task, state: State) -> tuple[Gates, Gates]:
    """A draw of all gates, and another number in [0, 1) for each of them."""
    context, step = contexts(task, state), state.scalars["step"]

    def one(pruning: Pruning, given: Params) -> dict[str, Any]:
        ctx = context(given, step)
        lots = split(_uniform(pruning, ctx, "lot"), pruning["theta"])
        return {"gates": drawn(pruning, ctx, "other"), "lots": lots}

    lifted = stack.lift(one, state.size)
    made = lifted(state.members["pruning"], varying(state.members))
    return made["gates"], made["lots"]


def rounded(structure: Structure, pruning: Pruning) -> dict[str, Tensor]:
    """Gates that are on where theta is 1/2 or more; if none of a layer is, then the one that pays
    most.
    """
    on = {name: theta >= 0.5 for name, theta in gates_of(pruning, "theta").items()}
    for layer in structure.hidden:
        alive, slope = pruning["alive"][layer.name], pruning["slope"][layer.name]
        steepest = torch.where(alive, slope, torch.inf).argmin()
        best = torch.arange(layer.units, device=slope.device) == steepest
        none_left = ~(on[layer.name] & alive).any()
        on[layer.name] = alive & (on[layer.name] | (best & none_left))
    return on


def kept_by(structure: Structure, params: Params, on: Gates) -> dict[str, Tensor]:
    """What is kept of each removable parameter, and the blocks, where these gates are on."""
    blocks = {block.name: on[block.name] for block in structure.blocks}
    return node_masks(structure, on, params, blocks)


def remove(task: Task, state: State, condemned: Gates) -> bool:
    """Let condemned units and blocks go; the last unit of a layer stays as long as its block does.

    Returns whether anything went.
    """
    structure = shaped(task, state.shape).structure
    pruning = state.members["pruning"]
    dead: dict[str, Tensor] = {}
    for block in structure.blocks:
        if block.name in condemned:
            dead[block.name] = condemned[block.name]
    for layer in structure.hidden:
        alive, block = pruning["alive"][layer.name], structure.block_of(layer.name)
        gone = torch.zeros_like(alive[:, 0])
        if block is not None:
            gone = dead.get(block.name, gone)
        off = condemned.get(layer.name, torch.zeros_like(alive))
        held = _held(alive, off, gone, pruning["slope"][layer.name])
        pruning["held"] = pruning["held"] + held.sum(1)
        pruning["theta"][layer.name] = torch.where(held, 1.0, pruning["theta"][layer.name])
        dead[layer.name] = (off & ~held) | gone[:, None]
    going = {name: gone & pruning["alive"][name] for name, gone in dead.items()}
    if not torch.stack([gone.any() for gone in going.values()]).any():
        return False
    for name, gone in going.items():
        alive = pruning["alive"][name] & ~gone
        pruning["alive"][name] = alive
        pruning["theta"][name] = torch.where(alive, pruning["theta"][name], 0.0)
    return True


def _held(alive: Tensor, off: Tensor, gone: Tensor, slope: Tensor) -> Tensor:
    """(K, units): the unit that stays against the rule where a layer would lose all of its own.

    gone: (K,), where the layer's block goes and the layer with it.
    """
    best = torch.where(alive, slope, torch.inf).argmin(1, keepdim=True)
    bare = alive.any(1) & ~(alive & ~off).any(1) & ~gone
    return torch.zeros_like(alive).scatter(1, best, bare[:, None])


def sums(task: Task, state: State, key: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums over gates, (K,) float64 by name, of the parent's hidden layers and of its blocks; 0 for
    those that are gone.
    """
    left: dict[str, Tensor] = {}
    for name, gates in gates_of(state.members["pruning"], key).items():
        left[name] = gates.double().view(state.size, -1).sum(1)
    none = torch.zeros(state.size, dtype=torch.float64, device=task.torch_device)
    units: dict[str, Tensor] = {}
    for layer in task.structure.hidden:
        units[layer.name] = left.get(layer.name, none.clone())
    blocks: dict[str, Tensor] = {}
    for block in task.structure.blocks:
        blocks[block.name] = left.get(block.name, none.clone())
    return units, blocks


def flops_alive(task: Task, state: State) -> Tensor:
    """FLOPs of an example's forward pass through what is alive, (K,) int64."""
    units, blocks = sums(task, state, "alive")
    flops, _ = expected(task.structure, task.counts, units, blocks)
    return flops.round().long()
