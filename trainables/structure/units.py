"""Structure: the removable layers of a model, the units and blocks that can go whole, and what
depends on them.

A unit is one output of a linear layer or one channel of a convolution: its row, its bias, its
batch-norm entries, and the columns of all that read it. A block is a residual branch beside its
shortcut. `trial.structure_of` finds both from a model's code, and tries what it found; a model may
declare them by a method `structure()` that returns a Structure, which is tried as well.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..measure.flops import Counts
from ..measure.flow import Step

Named = dict[str, Tensor]
Names = tuple[str, ...]
Tensors = Mapping[str, Tensor]
Axis = tuple[int, str, int]
"""(dimension, hidden layer, entries for each of its units)."""
Site = tuple[str | None, str | None]
"""A hidden layer, and a residual block; one of them may be missing."""

EVERY: Tensors = {}
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
    def parameters(self) -> Names:
        """Names of the removable parameters."""
        if self.bias is None:
            return (self.weight,)
        return (self.weight, self.bias)


@dataclasses.dataclass(frozen=True)
class Norm:
    """A batch-norm layer: `units` entries in each of its parameters and statistics, all named in
    full.

    frozen: whether one of the parameters is not trained.
    """

    name: str
    units: int
    parameters: Names
    statistics: Names
    frozen: bool = False

    @classmethod
    def of(cls, name: str, part: Any) -> Norm:
        """The description of a batch-norm module."""
        parameters: list[str] = []
        frozen = False
        for own, parameter in part.named_parameters():
            parameters.append(f"{name}.{own}")
            frozen |= not parameter.requires_grad
        statistics: list[str] = []
        for own, tensor in part.named_buffers():
            if tensor.ndim:
                statistics.append(f"{name}.{own}")
        return cls(
            name=name,
            units=int(part.num_features),
            parameters=tuple(parameters),
            statistics=tuple(statistics),
            frozen=frozen,
        )

    @property
    def tensors(self) -> Names:
        """Names of the parameters and the statistics."""
        return (*self.parameters, *self.statistics)


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
    layers: Names
    norms: tuple[Norm, ...]
    last: Names


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
    def parameters(self) -> Names:
        """Names of all removable parameters."""
        names: list[str] = []
        for layer in self.layers:
            names += layer.parameters
        return tuple(names)

    @functools.cached_property
    def by_name(self) -> Mapping[str, Layer]:
        """The layers by name."""
        return {layer.name: layer for layer in self.layers}

    @functools.cached_property
    def weights(self) -> Mapping[str, str]:
        """The name of each layer's weight."""
        return {layer.name: layer.weight for layer in self.layers}

    @functools.cached_property
    def hidden(self) -> tuple[Layer, ...]:
        """Layers whose units can be removed: all that read them is known."""
        producers = {link.producer for link in self.links}
        hidden: list[Layer] = []
        for layer in self.layers:
            if layer.name in producers:
                hidden.append(layer)
        return tuple(hidden)

    @functools.cached_property
    def axes(self) -> Mapping[str, tuple[Axis, ...]]:
        """How tensors depend on units, by name of a parameter or statistic.

        A hidden layer's own name stands for tensors with one entry for each of its units.
        """
        axes: dict[str, dict[Axis, None]] = defaultdict(dict)  # sets in order
        for layer in self.hidden:
            rows = (0, layer.name, 1)
            for name in (*layer.parameters, layer.name):
                axes[name][rows] = None
        for link in self.links:
            weight = self.weights[link.consumer]
            columns = (1, link.producer, link.repeat)
            axes[weight][columns] = None
            entries = (0, link.producer, 1)
            for norm in link.norms:
                for name in norm.tensors:
                    axes[name][entries] = None
        ordered: dict[str, tuple[Axis, ...]] = {}
        for name, several in axes.items():
            ordered[name] = tuple(several)
        return ordered

    @property
    def sites(self) -> tuple[Site, ...]:
        """Each hidden layer, with its block at the block's last one, and blocks without hidden
        layers: (layer, block).
        """
        ends: dict[str, str] = {}  # block -> the last hidden layer in it
        for layer in self.hidden:
            block = self.block_of(layer.name)
            if block is not None:
                ends[block.name] = layer.name
        closed = {layer: block for block, layer in ends.items()}
        sites: list[Site] = []
        for layer in self.hidden:
            own_block = closed.get(layer.name)
            sites.append((layer.name, own_block))
        for block in self.blocks:
            if block.name not in ends:
                sites.append((None, block.name))
        return tuple(sites)

    def inside(self, block: Block) -> Names:
        """Names of all parameters and statistics of a block."""
        names: list[str] = []
        for layer in self.layers:
            if layer.name in block.layers:
                names += layer.parameters
        for norm in block.norms:
            names += norm.tensors
        return tuple(names)

    def block_of(self, layer: str) -> Block | None:
        """The block that a layer is in, if it is in one."""
        for block in self.blocks:
            if layer in block.layers:
                return block
        return None

    def scale(self, layer: str) -> Names:
        """Names of the parameters that set how much a hidden layer's units give, one row or entry
        for each unit.

        Those of the batch-norm layers behind it, and the layer's own where something reads it
        without one that is trained.
        """
        own = self.by_name[layer].parameters
        names: dict[str, None] = {}  # a set in order
        for link in self.links:
            if link.producer != layer:
                continue
            last = own
            for norm in link.norms:
                if norm.parameters and not norm.frozen:
                    last = norm.parameters
            names |= dict.fromkeys(last)
        return tuple(names)


def expected(
    structure: Structure,
    counts: Counts,
    units: Tensors,
    blocks: Tensors,
) -> tuple[Tensor, Tensor]:
    """Mean FLOPs and parameters, (...) float64 each, of networks whose units and blocks are there
    independently.

    counts: of the whole network.  units: hidden layer -> mean number of its units (...).  blocks:
    block -> probability (...). A layer costs in proportion to the mean shares of its units and of
    its columns, multiplied (derivation).
    """
    some, *_ = (*units.values(), *blocks.values())
    one = torch.ones((), dtype=torch.float64, device=some.device)
    there: Named = {}  # layer -> the probability of its block
    for block in structure.blocks:
        for name in block.layers:
            there[name] = blocks[block.name]
    fed: Named = {}
    for link in structure.links:
        fed[link.consumer] = units[link.producer] * link.repeat
    flops = one * counts.flops
    params = one * counts.params
    for layer in structure.layers:
        name = layer.name
        on = there.get(name, one)
        rows = units.get(name, one * layer.units)
        columns = fed.get(name, one * layer.columns)
        size = layer.units * layer.columns
        share = on * rows * columns / size
        missing = 1 - share
        spent = counts.layers.get(name, 0)
        flops = flops - spent * missing
        weights = size * math.prod(layer.kernel)
        params = params - weights * missing
        if layer.bias is not None:
            lost = layer.units - on * rows
            params = params - lost
    inner = norm_producers(structure)
    for norm, producer in inner.items():
        on = there.get(producer, one)
        left = on * units[producer]
        lost = norm.units - left
        params = params - len(norm.parameters) * lost
    for norm, block in _norm_blocks(structure).items():
        if norm not in inner:
            entries = len(norm.parameters) * norm.units
            missing = 1 - blocks[block]
            params = params - entries * missing
    return flops, params


def norm_producers(structure: Structure) -> dict[Norm, str]:
    """The batch-norm layers that lose entries with the units of a layer, and that layer."""
    producers: dict[Norm, str] = {}
    for link in structure.links:
        producers |= dict.fromkeys(link.norms, link.producer)
    return producers


def _norm_blocks(structure: Structure) -> dict[Norm, str]:
    """The batch-norm layers in blocks, and the block."""
    blocks: dict[Norm, str] = {}
    for block in structure.blocks:
        blocks |= dict.fromkeys(block.norms, block.name)
    return blocks


def node_masks(
    structure: Structure,
    alive: Tensors,
    like: Tensors,
    blocks: Tensors = EVERY,
) -> Named:
    """Masks that remove whole units, by incoming rows, biases and outgoing columns, and whole
    blocks, by all of their layers.

    alive: layer -> (units,) bool, for hidden layers.  like: parameters by name, for shapes.
    blocks: block -> () bool, if it may be gone.  Returns name -> bool, True keeps; and `blocks`.
    """
    masks: Named = {}
    for name in structure.parameters:
        masks[name] = torch.ones_like(like[name], dtype=torch.bool)
    for layer in structure.hidden:
        live = alive[layer.name]
        for name in layer.parameters:
            mask = masks[name]
            rows = _along(live, 0, mask.ndim)
            masks[name] = mask & rows
    for name, columns in column_masks(structure, alive, like).items():
        masks[name] = masks[name] & columns
    for block in structure.blocks:
        if block.name not in blocks:
            continue
        there = blocks[block.name]
        for name in structure.inside(block):
            if name in masks:
                masks[name] = masks[name] & there
    return {**masks, **blocks}


def column_masks(structure: Structure, alive: Tensors, like: Tensors) -> Named:
    """Masks that only disconnect units, by their outgoing columns: weight -> bool, broadcastable to
    it, True keeps.

    The network computes what it does with `node_masks`, since all that reads hidden units is known.
    """
    masks: Named = {}
    for link in structure.links:
        weight = structure.weights[link.consumer]
        columns = alive[link.producer].repeat_interleave(link.repeat)
        dimensions = like[weight].ndim
        mask = _along(columns, 1, dimensions)
        if weight in masks:
            mask = masks[weight] & mask
        masks[weight] = mask
    return masks


def gated(
    structure: Structure,
    params: Tensors,
    units: Tensors,
    blocks: Tensors,
) -> Named:
    """Parameters of a network whose units are scaled where they are read, and whose blocks where
    they end.

    units: hidden layer -> factors (units,).  blocks: block -> factors ().
    """
    scaled = dict(params)
    for link in structure.links:
        name = structure.weights[link.consumer]
        weight = scaled[name]
        factors = units[link.producer]
        if link.repeat > 1:
            factors = factors.repeat_interleave(link.repeat)
        factors = factors.to(weight.dtype)
        factors = _along(factors, 1, weight.ndim)
        scaled[name] = weight * factors
    for block in structure.blocks:
        for name in block.last:
            weight = scaled[name]
            factor = blocks[block.name].to(weight.dtype)
            scaled[name] = weight * factor
    return scaled


def _along(vector: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector as a tensor of `ndim` dimensions, all of size 1 but `dim`."""
    sizes = [1] * ndim
    sizes[dim] = -1
    return vector.view(sizes)
