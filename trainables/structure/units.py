"""Structure: the removable layers of a model, the units and blocks that can go whole, and what
depends on them.

A unit is one output of a linear layer or one channel of a convolution: its row, its bias, its
batch-norm entries, and the columns of all that read it. A block is a residual branch beside its
shortcut. `trial.find` finds both from a model's code, and tries what it found; a model may declare
them by a method `structure()` that returns a Structure, which is tried as well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..measure.flops import Counts
from ..measure.flow import Step

EVERY: Mapping[str, Tensor] = {}
"""Blocks that may be gone, if none may."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear or convolution layer. `weight` and `bias` are parameter names; `bias` is None where
    there is none.
    """

    name: str
    weight: str
    bias: str | None
    kind: str  # "conv" or "fc"
    units: int  # outputs or output channels
    columns: int  # inputs or input channels, per group
    kernel: tuple[int, ...]  # of a convolution
    grouped: bool

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the removable parameters."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)


@dataclasses.dataclass(frozen=True)
class Norm:
    """A batch-norm layer: `units` entries in each of its parameters and statistics, all named in
    full.

    frozen: whether one of the parameters is not trained.
    """

    name: str
    units: int
    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    frozen: bool = False


@dataclasses.dataclass(frozen=True)
class Link:
    """Every unit of `producer` feeds `repeat` consecutive columns of `consumer`, and nothing else
    does.

    norms: batch-norm layers on the way, with one entry for each unit.
    shifts: what is nothing may be something after them, or after an activation on the way.
    folds: a unit that is constant can be folded into the consumer's bias exactly.
    """

    producer: str
    consumer: str
    repeat: int
    norms: tuple[Norm, ...]
    shifts: bool
    folds: bool


@dataclasses.dataclass(frozen=True)
class Block:
    """A residual branch: what it gives is added to its shortcut, and nothing else reads what is
    computed inside.

    name: of the last affine layer in it, whose parameters are `last`; with those at zero the branch
    gives nothing. layers, norms: all that has parameters inside, in order.
    """

    name: str
    layers: tuple[str, ...]
    norms: tuple[Norm, ...]
    last: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Structure:
    """The removable layers of a model in order of definition, the links between them, and the
    blocks.

    A layer with units that nothing but linked layers read is the producer of at least one link; the
    units of others are never dead for want of readers.
    obstacles: (layer or block, what stood in the way of removing its units or it), in the order in
    which they were met.
    failed: those of the obstacles that only a trial showed.
    flow: the forward pass, the output last; empty for a model that cannot be traced.
    """

    layers: tuple[Layer, ...]
    links: tuple[Link, ...]
    blocks: tuple[Block, ...] = ()
    obstacles: tuple[tuple[str, str], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    flow: tuple[Step, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all removable parameters."""
        return tuple(name for layer in self.layers for name in layer.parameters)

    @functools.cached_property
    def hidden(self) -> tuple[Layer, ...]:
        """Layers whose units can be removed: all that read them is known."""
        producers = {link.producer for link in self.links}
        return tuple(layer for layer in self.layers if layer.name in producers)

    @functools.cached_property
    def axes(self) -> Mapping[str, tuple[tuple[int, str, int], ...]]:
        """How tensors depend on units: name of a parameter or statistic -> (dimension, hidden
        layer, entries for each unit).

        A hidden layer's own name stands for tensors with one entry for each of its units.
        """
        found: dict[str, dict[tuple[int, str, int], None]] = {}
        by_name = {layer.name: layer for layer in self.layers}
        for layer in self.hidden:
            for name in (*layer.parameters, layer.name):
                found.setdefault(name, {})[0, layer.name, 1] = None
        for link in self.links:
            found.setdefault(by_name[link.consumer].weight, {})[1, link.producer, link.repeat] = (
                None
            )
            for norm in link.norms:
                for name in (*norm.parameters, *norm.statistics):
                    found.setdefault(name, {})[0, link.producer, 1] = None
        return {name: tuple(axes) for name, axes in found.items()}

    @property
    def sites(self) -> tuple[tuple[str | None, str | None], ...]:
        """Each hidden layer, with its block at the block's last one, and blocks without hidden
        layers: (layer, block).
        """
        last = {self.block_of(layer.name): layer.name for layer in self.hidden}
        layers = [(layer.name, self.block_of(layer.name)) for layer in self.hidden]
        bare = tuple((None, block.name) for block in self.blocks if block not in last)
        return (
            *(
                (name, block.name if block and last[block] == name else None)
                for name, block in layers
            ),
            *bare,
        )

    def inside(self, block: Block) -> tuple[str, ...]:
        """Names of all parameters and statistics of a block."""
        layers = (layer for layer in self.layers if layer.name in block.layers)
        norms = (name for norm in block.norms for name in (*norm.parameters, *norm.statistics))
        return (*(name for layer in layers for name in layer.parameters), *norms)

    def block_of(self, layer: str) -> Block | None:
        """The block that a layer is in, if it is in one."""
        return next((block for block in self.blocks if layer in block.layers), None)

    def scale(self, layer: str) -> tuple[str, ...]:
        """Names of the parameters that set how much a hidden layer's units give, one row or entry
        for each unit.

        Those of the batch-norm layers behind it, and the layer's own where something reads it
        without one that is trained.
        """
        own = next(each.parameters for each in self.layers if each.name == layer)
        last = [
            [norm.parameters for norm in link.norms if norm.parameters and not norm.frozen][-1:]
            for link in self.links
            if link.producer == layer
        ]
        return tuple(
            dict.fromkeys(name for norms in last for names in norms or [own] for name in names)
        )


def expected(
    structure: Structure, counts: Counts, units: Mapping[str, Tensor], blocks: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean FLOPs and parameters, (...) float64 each, of networks whose units and blocks are there
    independently.

    counts: of the whole network.  units: hidden layer -> mean number of its units (...).  blocks:
    block -> probability (...). A layer costs in proportion to the mean shares of its units and of
    its columns, multiplied (derivation).
    """
    one = torch.ones(
        (), dtype=torch.float64, device=next(iter([*units.values(), *blocks.values()])).device
    )
    there = {layer: blocks[block.name] for block in structure.blocks for layer in block.layers}
    fed = {link.consumer: units[link.producer] * link.repeat for link in structure.links}
    flops, params = one * counts.flops, one * counts.params
    for layer in structure.layers:
        on, rows = there.get(layer.name, one), units.get(layer.name, one * layer.units)
        share = on * rows * fed.get(layer.name, one * layer.columns) / (layer.units * layer.columns)
        flops = flops - counts.layers.get(layer.name, 0) * (1 - share)
        params = params - layer.units * layer.columns * math.prod(layer.kernel) * (1 - share)
        params = params - (0 if layer.bias is None else layer.units - on * rows)
    inner = {norm: link.producer for link in structure.links for norm in link.norms}
    outer = {
        norm: block.name for block in structure.blocks for norm in block.norms if norm not in inner
    }
    for norm, producer in inner.items():
        params = params - len(norm.parameters) * (
            norm.units - there.get(producer, one) * units[producer]
        )
    for norm, block in outer.items():
        params = params - len(norm.parameters) * norm.units * (1 - blocks[block])
    return flops, params


def node_masks(
    structure: Structure,
    alive: Mapping[str, Tensor],
    like: Mapping[str, Tensor],
    blocks: Mapping[str, Tensor] = EVERY,
) -> dict[str, Tensor]:
    """Masks that remove whole units, by incoming rows, biases and outgoing columns, and whole
    blocks, by all of their layers.

    alive: layer -> (units,) bool, for hidden layers.  like: parameters by name, for shapes.
    blocks: block -> () bool, if it may be gone.  Returns name -> bool, True keeps; and `blocks`.
    """
    masks = {name: torch.ones_like(like[name], dtype=torch.bool) for name in structure.parameters}
    for layer in structure.hidden:
        for parameter in layer.parameters:
            masks[parameter] = masks[parameter] & _along(
                alive[layer.name], 0, masks[parameter].ndim
            )
    masks |= {
        name: masks[name] & columns
        for name, columns in column_masks(structure, alive, like).items()
    }
    for block in structure.blocks:
        if block.name in blocks:
            inside = (name for name in structure.inside(block) if name in masks)
            masks |= {name: masks[name] & blocks[block.name] for name in inside}
    return {**masks, **blocks}


def column_masks(
    structure: Structure, alive: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Masks that only disconnect units, by their outgoing columns: weight -> bool, broadcastable to
    it, True keeps.

    The network computes what it does with `node_masks`, since all that reads hidden units is known.
    """
    masks: dict[str, Tensor] = {}
    for link in structure.links:
        weight = next(layer.weight for layer in structure.layers if layer.name == link.consumer)
        columns = _along(alive[link.producer].repeat_interleave(link.repeat), 1, like[weight].ndim)
        masks[weight] = masks[weight] & columns if weight in masks else columns
    return masks


def read(structure: Structure, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which units anything reads, for M networks: hidden layer -> (M, units) bool.

    kept: weight of each layer that reads hidden units -> (M, *shape) bool; block -> (M,) bool, if
    it may be gone.
    """
    found: dict[str, Tensor] = {}
    weights = {layer.name: layer.weight for layer in structure.layers}
    for link in structure.links:
        mask = kept[weights[link.consumer]]
        live = mask.any(1).flatten(2).any(-1) if mask.ndim > 3 else mask.any(1)
        live = live.unflatten(1, (-1, link.repeat)).any(-1)
        block = structure.block_of(link.producer)
        if block is not None and block.name in kept:
            live = live & kept[block.name][:, None]
        found[link.producer] = found[link.producer] | live if link.producer in found else live
    return found


def gated(
    structure: Structure,
    params: Mapping[str, Tensor],
    units: Mapping[str, Tensor],
    blocks: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Parameters of a network whose units are scaled where they are read, and whose blocks where
    they end.

    units: hidden layer -> factors (units,).  blocks: block -> factors ().
    """
    found = dict(params)
    weights = {layer.name: layer.weight for layer in structure.layers}
    for link in structure.links:
        name = weights[link.consumer]
        factors = (
            units[link.producer].repeat_interleave(link.repeat)
            if link.repeat > 1
            else units[link.producer]
        )
        found[name] = found[name] * _along(factors.to(found[name].dtype), 1, found[name].ndim)
    for block in structure.blocks:
        for name in block.last:
            found[name] = found[name] * blocks[block.name].to(found[name].dtype)
    return found


def alive(
    structure: Structure, kept: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Units and columns that can influence the output, for M networks at once.

    kept: removable parameter -> (M, *shape) bool.  Returns layer -> (M, units) bool and layer ->
    (M, columns) bool. A unit is dead if nothing live reads it, or if it has no live input and what
    it then constantly gives is nothing (no bias) or folds into the next bias. All units of a block
    that is gone are dead.
    """
    gone = {
        layer: ~kept[block.name]
        for block in structure.blocks
        if block.name in kept
        for layer in block.layers
    }
    connected = {layer.name: kept[layer.weight].flatten(3).any(-1) if kept[layer.weight].ndim > 3 else kept[layer.weight]
                 for layer in structure.layers}  # fmt: skip
    connected = {
        n: links & ~_along(gone[n], 0, 3) if n in gone else links for n, links in connected.items()
    }
    units = {name: torch.ones_like(links[:, :, 0]) for name, links in connected.items()}
    units |= {name: units[name] & ~off[:, None] for name, off in gone.items()}
    columns = {name: torch.ones_like(links[:, 0, :]) for name, links in connected.items()}
    folded = {
        name: torch.zeros_like(live) for name, live in columns.items()
    }  # columns that are gone, and were a constant
    outgoing = {
        layer.name: [link for link in structure.links if link.producer == layer.name]
        for layer in structure.hidden
    }
    while True:
        before = sum(int(live.sum()) for live in units.values())
        for layer in structure.hidden:
            name, live = layer.name, units[layer.name]
            fed = (connected[name] & columns[name][:, None, :]).any(-1)
            # What a unit without an input gives is constant: nothing, or foldable, or to be kept.
            some = (connected[name] & folded[name][:, None, :]).any(-1)
            some |= False if layer.bias is None else kept[layer.bias]
            constant = some | any(link.shifts for link in outgoing[name])
            constant &= not all(link.folds for link in outgoing[name])
            read = torch.zeros_like(live)
            for link in outgoing[name]:
                readers = (connected[link.consumer] & units[link.consumer][:, :, None]).any(1)
                read |= readers.unflatten(1, (-1, link.repeat)).any(-1)
            units[name] = live & read & (fed | constant)
            for link in outgoing[name]:
                columns[link.consumer] = units[name].repeat_interleave(link.repeat, dim=1)
                left = ~units[name] & ~fed & (some | link.shifts)
                folded[link.consumer] = left.repeat_interleave(link.repeat, dim=1)
        if sum(int(live.sum()) for live in units.values()) == before:
            return units, columns


def _along(vector: Tensor, dim: int, ndim: int) -> Tensor:
    return vector.view(*(-1 if i == dim else 1 for i in range(ndim)))
