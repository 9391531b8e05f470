"""What a trial removes of a network: units, blocks, layers and weights, in one way or another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from .units import Block, Structure, node_masks

Tensors = Mapping[str, Tensor]
Named = dict[str, Tensor]
Kept = Named
"""Removable parameter -> bool of its shape, block -> () bool."""


class Chance(Protocol):
    """Numbers in [0, 1) of a shape."""

    def __call__(self, *shape: int) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that something is removed of. chance: what is drawn, on the parameters' device."""

    structure: Structure
    params: Tensors
    chance: Chance

    def whole(self) -> Kept:
        """Nothing is removed."""
        kept: Kept = {}
        for name in self.structure.parameters:
            like = self.params[name]
            kept[name] = torch.ones_like(like, dtype=torch.bool)
        some = next(iter(self.params.values()))
        there = torch.ones((), dtype=torch.bool, device=some.device)
        for block in self.structure.blocks:
            kept[block.name] = there
        return kept

    def with_units(self, alive: Tensors) -> Kept:
        """Nothing is removed but the units of hidden layers that are not `alive`: layer -> (units,)
        bool.
        """
        kept = self.whole()
        kept |= node_masks(self.structure, alive, self.params)
        return kept

    def without_blocks(self, gone: Iterable[Block]) -> Kept:
        """Nothing is removed but the blocks `gone`."""
        kept = self.whole()
        for block in gone:
            kept[block.name] = ~kept[block.name]
            for name in self.structure.inside(block):
                if name in kept:
                    kept[name] = torch.zeros_like(kept[name])
        return kept


Kind = Callable[[Network], Kept]
"""Draws what is kept of a network."""


def some_units(network: Network) -> Kept:
    """Some units of each layer, and at least one, where there are several; nothing else."""
    alive: Named = {}
    for layer in network.structure.hidden:
        order = network.chance(layer.units).argsort()
        lost = 0
        if layer.units > 1:
            lost = (layer.units + 2) // 3
        alive[layer.name] = order >= lost
    return network.with_units(alive)


def unread(network: Network) -> Kept:
    """Some units are only disconnected from what reads them."""
    kept = some_units(network)
    for layer in network.structure.hidden:
        for name in layer.parameters:
            mask = kept[name]
            rows = mask
            if mask.ndim > 1:
                rows = mask.flatten(1).any(1)
            is_there = _as_rows(rows, mask)
            kept[name] = mask | ~is_there
    return kept


def unfed(network: Network) -> Kept:
    """Some units lose what they read, and half of these their bias: what they give is constant."""
    kept = network.whole()
    for layer in network.structure.hidden:
        stay = network.chance(layer.units) >= 0.4
        weight = kept[layer.weight]
        rows = _as_rows(stay, weight)
        kept[layer.weight] = weight & rows
        if layer.bias is not None:
            constant = network.chance(layer.units) >= 0.5
            kept[layer.bias] = stay | constant
    return kept


def first_dead(network: Network) -> Kept:
    """The first hidden layer loses all units."""
    alive: Named = {}
    share = 1.0
    for layer in network.structure.hidden:
        drawn = network.chance(layer.units)
        alive[layer.name] = drawn >= share
        share = 0.0
    return network.with_units(alive)


def dead_layers(network: Network) -> Kept:
    """A third of the layers lose all units, others some."""
    alive: Named = {}
    for layer in network.structure.hidden:
        drawn = network.chance(layer.units)
        is_dead = float(network.chance()) < 0.34
        share = 0.3
        if is_dead:
            share = 1.0
        alive[layer.name] = drawn >= share
    return network.with_units(alive)


def some_blocks(network: Network) -> Kept:
    """Each second block."""
    blocks = network.structure.blocks
    return network.without_blocks(blocks[0::2])


def other_blocks(network: Network) -> Kept:
    """The other ones."""
    blocks = network.structure.blocks
    return network.without_blocks(blocks[1::2])


def everything(network: Network) -> Kept:
    """Weights, units, layers and blocks at random."""
    kept = dead_layers(network)
    for name in network.structure.parameters:
        mask = kept[name]
        drawn = network.chance(*mask.shape)
        kept[name] = mask & (drawn >= 0.3)
    for block in network.structure.blocks:
        kept[block.name] = network.chance() >= 0.4
    return kept


def _as_rows(stay: Tensor, like: Tensor) -> Tensor:
    """One value for each row (units,) as broadcastable to `like`."""
    behind = (1,) * (like.ndim - 1)
    return stay.view(-1, *behind)


KINDS: tuple[Kind, ...] = (
    some_units, some_blocks, other_blocks, unread, unfed, first_dead, dead_layers, everything
)  # fmt: skip
UNFOLDED: tuple[Kind, ...] = (some_units, some_blocks, other_blocks)
"""Kinds in which nothing constant is folded: stacks in training are cut so."""
