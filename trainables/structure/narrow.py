"""Shrinking: stacks of networks cut down to the units and blocks that are left, and brought back to
the parent's shape.

A cohort has one shape. Each member's surviving units move to the front, widths are cut to the
largest number of survivors in the cohort, and what a member lacks of that is padded with zeros,
momentum included. Blocks go when they are gone in all members. Units of a layer are exchangeable,
so all this changes nothing but rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..training.stack import copied
from ..tree import leaves, nest
from .trace import without
from .units import Layer, Structure

MULTIPLE = 8
"""Widths of convolutions are cut to multiples of this: others can be slower on a CPU than the wider
ones.
"""

Index = Mapping[str, Tensor]
"""Hidden layer -> (K, width) int64: where a unit comes from; -1: from nowhere, it is padding."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """The shape of a stack: hidden layer -> width; names of the blocks that are gone."""

    widths: Mapping[str, int]
    gone: tuple[str, ...] = ()


def narrowed(structure: Structure, cut: Cut) -> Structure:
    """The structure of a stack with the shape `cut`."""
    blocks = tuple(block for block in structure.blocks if block.name not in cut.gone)
    lost = {name for block in structure.blocks if block.name in cut.gone for name in block.layers}
    links = [link for link in structure.links if link.consumer not in lost]
    fed = {link.consumer: cut.widths[link.producer] * link.repeat for link in links}
    norms = {
        norm.name: dataclasses.replace(norm, units=cut.widths[link.producer])
        for link in links
        for norm in link.norms
    }

    def layer(old: Layer) -> Layer:
        return dataclasses.replace(
            old, units=cut.widths.get(old.name, old.units), columns=fed.get(old.name, old.columns)
        )

    def with_norms(old: Any) -> Any:
        return dataclasses.replace(
            old, norms=tuple(norms.get(norm.name, norm) for norm in old.norms)
        )

    return Structure(
        tuple(layer(old) for old in structure.layers if old.name not in lost),
        tuple(map(with_norms, links)),
        tuple(with_norms(block) for block in blocks),
    )


def narrowed_module(module: nn.Module, structure: Structure, cut: Cut) -> nn.Module:
    """A copy of `module` with the shape `cut`, its tensors zero where they have another shape than
    before.
    """
    module = without(copied(module), structure, cut.gone)
    new = narrowed(structure, cut)
    parts = dict(module.named_modules())
    for layer in new.layers:
        part = parts.get(layer.name)
        if part is None:  # nothing calls it, and leaving out a block left it out too
            continue
        if isinstance(part, nn.Linear):
            part.out_features, part.in_features = layer.units, layer.columns
        elif isinstance(part, nn.modules.conv._ConvNd):
            part.out_channels, part.in_channels = layer.units, layer.columns * int(part.groups)
        _resize(part, "weight", (layer.units, layer.columns, *layer.kernel))
        _resize(part, "bias", (layer.units,))
    for norm in {norm for link in new.links for norm in link.norms}:
        part = parts[norm.name]
        setattr(part, "num_features", norm.units)  # noqa: B010 - modules take it for a tensor
        for name in (*norm.parameters, *norm.statistics):
            _resize(part, name.rpartition(".")[2], (norm.units,))
    return module


def survivors(
    structure: Structure, alive: Mapping[str, Tensor], gone: Mapping[str, Tensor]
) -> tuple[Cut, Index]:
    """The smallest shape that holds what is left of K members, and where its units come from.

    alive: hidden layer -> (K, width) bool.  gone: block -> (K,) bool. A layer keeps a width of at
    least one.
    """
    lost = tuple(block.name for block in structure.blocks if bool(gone[block.name].all()))
    inside = {name for block in structure.blocks if block.name in lost for name in block.layers}
    index: dict[str, Tensor] = {}
    for layer in structure.hidden:
        if layer.name in inside:
            continue
        live = alive[layer.name]
        width = max(1, int(live.sum(1).max()))
        width = (
            min(layer.units, -(-width // MULTIPLE) * MULTIPLE) if layer.kind == "conv" else width
        )
        order = torch.argsort(~live, dim=1, stable=True)[:, :width]
        index[layer.name] = torch.where(live.take_along_dim(order, 1), order, -1)
    return Cut({name: places.shape[1] for name, places in index.items()}, lost), index


def gathered(
    tree: Mapping[str, Any], structure: Structure, cut: Cut, index: Index
) -> dict[str, Any]:
    """A tree of stacks brought to the shape `cut`, which `index` leads to.

    Tensors are known by the last word of their path: a parameter, a statistic, a hidden layer (one
    entry for each unit), or a block; others stay as they are.
    """
    lost = {name for block in structure.blocks if block.name in cut.gone
            for name in (*structure.inside(block), *block.layers, block.name)}  # fmt: skip
    found: dict[str, Tensor] = {}
    for path, tensor in leaves(tree).items():
        name = path.rpartition("/")[2]
        if name not in lost:
            found[path] = _gather(tensor, structure.axes.get(name, ()), index)
    return nest(found)


def cleared(
    tree: Mapping[str, Any],
    structure: Structure,
    alive: Mapping[str, Tensor],
    gone: Mapping[str, Tensor],
) -> dict[str, Any]:
    """A tree of stacks in which all that is removed is zero, or False: dead units and, member by
    member, blocks that are gone.

    alive: hidden layer -> (K, width) bool.  gone: block -> (K,) bool.  Nothing reads these entries,
    but a member's then do not depend on how far the stack that it is in could be cut.
    """
    index = {
        name: torch.where(live, torch.arange(live.shape[1], device=live.device), -1)
        for name, live in alive.items()
    }
    inside = {
        name: gone[block.name] for block in structure.blocks for name in structure.inside(block)
    }
    found = leaves(gathered(tree, structure, Cut({}), index))
    for path, tensor in found.items():
        if (off := inside.get(path.rpartition("/")[2])) is not None:
            found[path] = tensor.masked_fill(off.view(-1, *(1,) * (tensor.ndim - 1)), 0)
    return nest(found)


def restored(
    tensors: Mapping[str, Tensor],
    parent: Structure,
    like: Mapping[str, Tensor],
    units: Index,
    count: int,
) -> dict[str, Tensor]:
    """Stacked tensors (count, ...) brought back to the parent's shapes: zero, or False, where units
    and blocks are gone.

    like: the parent's tensors of these kinds, name -> any of its shape and type; all of them are
    returned.
    units: hidden layer of the stack -> (count, width), the unit of the parent that each one was.
    """
    inverse: dict[str, Tensor] = {}
    for layer in parent.hidden:
        if layer.name in units:
            places = units[layer.name]
            order = torch.arange(places.shape[1], device=places.device).expand_as(places)
            back = places.new_full(
                (len(places), layer.units + 1), -1
            )  # what is padding goes to the last column
            back.scatter_(1, torch.where(places < 0, layer.units, places), order)
            inverse[layer.name] = back[:, :-1]
    found: dict[str, Tensor] = {}
    for name, shaped in like.items():
        if name in tensors:
            axes = tuple(axis for axis in parent.axes.get(name, ()) if axis[1] in inverse)
            found[name] = _gather(tensors[name], axes, inverse)
        else:
            found[name] = shaped.new_zeros((count, *shaped.shape))
    return found


def _gather(tensor: Tensor, axes: tuple[tuple[int, str, int], ...], index: Index) -> Tensor:
    """tensor (K, ...) with entries along each axis taken from where `index` says; padding is zero,
    False, or -1 (int64).
    """
    for dim, layer, repeat in axes:
        places = index[layer]
        if repeat > 1:
            inner = torch.arange(repeat, device=places.device)
            places = torch.where(
                places[..., None] < 0, -1, places[..., None] * repeat + inner
            ).flatten(1)
        view = (len(places), *(places.shape[1] if i == dim else 1 for i in range(tensor.ndim - 1)))
        if len(places) == 1:  # of one network, for which there is a faster way
            tensor = tensor.index_select(dim + 1, places[0].clamp(min=0))
        else:
            tensor = tensor.take_along_dim(places.view(view).clamp(min=0), dim + 1)
        if bool((places < 0).any()):
            tensor = tensor.masked_fill(
                places.view(view) < 0, -1 if tensor.dtype == torch.long else 0
            )
    return tensor


def _resize(part: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    before = getattr(part, name)
    if before is None or before.shape == shape:
        return
    after = before.new_zeros(shape)
    setattr(
        part,
        name,
        nn.Parameter(after, before.requires_grad) if isinstance(before, nn.Parameter) else after,
    )
