"""Gates of complexity-aware training: random switches of units and blocks, and how they go.

A pruner's state holds trees of them by name: of a hidden layer one for each unit, of a block one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..contract import State
from ..structure.shapes import shaped
from ..structure.units import Block, Layer, Structure, expected, node_masks
from ..task import Task
from ..training import stack
from ..training.hooks import contexts, varying
from ..training.pruner import Context, Params, Pruning

Gates = Mapping[str, Tensor]
"""By name: of a hidden layer, one for each unit; of a block, one."""


def initial(structure: Structure, seed: Tensor) -> Pruning:
    """What is kept of one network's gates, all of them at 1."""
    one = torch.ones((), dtype=torch.float64, device=seed.device)
    theta: dict[str, Tensor] = {}
    for layer in structure.hidden:
        row = one.expand(layer.units)
        theta[layer.name] = row.clone()
    for block in structure.blocks:
        theta[block.name] = one.clone()
    alive: dict[str, Tensor] = {}
    zeros: dict[str, Tensor] = {}
    slope: dict[str, Tensor] = {}
    for name, gate in theta.items():
        alive[name] = gate > 0
        zeros[name] = gate.long() * 0
        slope[name] = gate * 0
    count = sum(gate.numel() for gate in theta.values())
    numbers = torch.arange(count, device=seed.device)
    return {
        "theta": theta,
        "alive": alive,
        "lot": split(numbers, theta),
        "zeros": zeros,  # updates at 0, in a row
        "slope": slope,  # d objective / d theta, smooth
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
    rows = [gate.view(len(gate), -1) for gate in gates.values()]
    return torch.cat(rows, 1)


def unflat(matrix: Tensor, like: Gates) -> dict[str, Tensor]:
    """Gates shaped like `like` out of (K, all gates)."""
    sizes = [gate[0].numel() for gate in like.values()]
    parts = matrix.split(sizes, 1)
    return _by_name(parts, like)


def split(vector: Tensor, like: Gates) -> dict[str, Tensor]:
    """One network's gates, shaped like `like`, out of a vector of them all."""
    sizes = [gate.numel() for gate in like.values()]
    parts = vector.split(sizes)
    return _by_name(parts, like)


def _by_name(parts: Sequence[Tensor], like: Gates) -> dict[str, Tensor]:
    """The parts that gates shaped like `like` were laid out in."""
    gates: dict[str, Tensor] = {}
    for name, part in zip(like, parts, strict=True):
        shape = like[name].shape
        gates[name] = part.view(shape)
    return gates


def beside(column: Tensor, like: Tensor) -> Tensor:
    """(K,), broadcastable to `like`, (K,) or (K, units)."""
    ones = (1,) * (like.ndim - 1)
    return column.view(-1, *ones)


def drawn(pruning: Pruning, ctx: Context, site: str) -> dict[str, Tensor]:
    """Gates that are on with probability theta."""
    theta = pruning["theta"]
    vectors = [gate.flatten() for gate in theta.values()]
    probability = torch.cat(vectors)
    numbers = _uniform(pruning, ctx, site)
    is_on = numbers < probability
    return split(is_on, theta)


def _uniform(pruning: Pruning, ctx: Context, site: str) -> Tensor:
    """A number in [0, 1) for each gate, in one vector, whatever the stack's shape."""
    lots: list[Tensor] = []
    for name in pruning["theta"]:
        lot = pruning["lot"][name]
        lots.append(lot.flatten())
    joined = torch.cat(lots)
    return ctx.uniform(site, (), joined)


def draw(task: Task, state: State) -> tuple[Gates, Gates]:
    """A draw of all gates, and another number in [0, 1) for each of them."""
    context = contexts(task, state)
    step = state.scalars["step"]
    members = state.members

    def one(pruning: Pruning, given: Params) -> dict[str, Any]:
        ctx = context(given, step)
        numbers = _uniform(pruning, ctx, "lot")
        return {
            "gates": drawn(pruning, ctx, "other"),
            "lots": split(numbers, pruning["theta"]),
        }

    lifted = stack.lift(one, state.size)
    made = lifted(members["pruning"], varying(members))
    gates, lots = made["gates"], made["lots"]
    return gates, lots


def rounded(structure: Structure, pruning: Pruning) -> dict[str, Tensor]:
    """Gates that are on where theta is 1/2 or more; if none of a layer is, then the one that pays
    most.
    """
    on: dict[str, Tensor] = {}
    for name, theta in gates_of(pruning, "theta").items():
        on[name] = theta >= 0.5
    for layer in structure.hidden:
        name = layer.name
        alive = pruning["alive"][name]
        slope = torch.where(alive, pruning["slope"][name], torch.inf)
        steepest = slope.argmin()
        places = torch.arange(layer.units, device=slope.device)
        is_best = places == steepest
        survives = on[name] & alive
        is_bare = ~survives.any()
        is_last = is_best & is_bare
        stays = on[name] | is_last
        on[name] = alive & stays
    return on


def kept_by(structure: Structure, params: Params, on: Gates) -> dict[str, Tensor]:
    """What is kept of each removable parameter, and the blocks, where these gates are on."""
    blocks: dict[str, Tensor] = {}
    for block in structure.blocks:
        name = block.name
        blocks[name] = on[name]
    return node_masks(structure, on, params, blocks)


def remove(task: Task, state: State, condemned: Gates) -> bool:
    """Let condemned units and blocks go; the last unit of a layer stays as long as its block does.

    Returns whether anything went.
    """
    pruning = state.members["pruning"]
    alive = pruning["alive"]
    theta = pruning["theta"]
    dead = _dead(task, state, condemned)
    going: dict[str, Tensor] = {}
    for name, gone in dead.items():
        going[name] = gone & alive[name]
    goes = [gone.any() for gone in going.values()]
    if not torch.stack(goes).any():
        return False
    for name, gone in going.items():
        left = alive[name] & ~gone
        alive[name] = left
        theta[name] = torch.where(left, theta[name], 0.0)
    return True


def _dead(task: Task, state: State, condemned: Gates) -> dict[str, Tensor]:
    """What goes, and with a block all of its units; a unit that stays against the rule is noted."""
    structure = shaped(task, state.shape).structure
    pruning = state.members["pruning"]
    theta = pruning["theta"]
    dead: dict[str, Tensor] = {}
    for block in structure.blocks:
        name = block.name
        if name in condemned:
            dead[name] = condemned[name]
    for layer in structure.hidden:
        name = layer.name
        alive = pruning["alive"][name]
        slope = pruning["slope"][name]
        nothing = torch.zeros_like(alive)
        off = condemned.get(name, nothing)
        gone = nothing[:, 0]
        block = structure.block_of(name)
        if block is not None:
            gone = dead.get(block.name, gone)
        held = _held(alive, off, gone, slope)
        held_now = held.sum(1)
        pruning["held"] = pruning["held"] + held_now
        theta[name] = torch.where(held, 1.0, theta[name])
        goes = off & ~held
        dead[name] = goes | gone[:, None]
    return dead


def _held(
    alive: Tensor,
    off: Tensor,
    gone: Tensor,
    slope: Tensor,
) -> Tensor:
    """(K, units): the unit that stays against the rule where a layer would lose all of its own.

    gone: (K,), where the layer's block goes and the layer with it.
    """
    slope = torch.where(alive, slope, torch.inf)
    best = slope.argmin(1, keepdim=True)
    survives = alive & ~off
    loses_all = alive.any(1) & ~survives.any(1)
    is_bare = loses_all & ~gone
    nothing = torch.zeros_like(alive)
    return nothing.scatter(1, best, is_bare[:, None])


def sums(
    task: Task,
    state: State,
    key: str,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums over gates, (K,) float64 by name, of the parent's hidden layers and of its blocks; 0 for
    those that are gone.
    """
    gates = gates_of(state.members["pruning"], key)
    parent = task.structure
    units = _sums(task, state, gates, parent.hidden)
    blocks = _sums(task, state, gates, parent.blocks)
    return units, blocks


def _sums(
    task: Task,
    state: State,
    gates: Gates,
    parts: Sequence[Layer | Block],
) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for part in parts:
        name = part.name
        if name in gates:
            own = gates[name].double()
            by_member = own.view(state.size, -1)
            total[name] = by_member.sum(1)
        else:
            total[name] = torch.zeros(
                state.size,
                dtype=torch.float64,
                device=task.torch_device,
            )
    return total


def flops_alive(task: Task, state: State) -> Tensor:
    """FLOPs of an example's forward pass through what is alive, (K,) int64."""
    units, blocks = sums(task, state, "alive")
    flops, _ = expected(
        task.structure,
        task.counts,
        units,
        blocks,
    )
    return flops.round().long()


def charge(state: State, flops: Tensor) -> None:
    """Count FLOPs (K,) among those of learning the gates."""
    pruning = state.members["pruning"]
    before = pruning["spent"]
    pruning["spent"] = before + flops
