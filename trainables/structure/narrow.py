"""Shrinking: stacks of networks cut down to the units and blocks that are left, and brought back to
the parent's shape.

A cohort has one shape. Each member's surviving units move to the front, widths are cut to the
largest number of survivors in the cohort, and what a member lacks of that is padded with zeros,
momentum included. Blocks go when they are gone in all members. Units of a layer are exchangeable,
so all this changes nothing but rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..measure.flops import CONVOLUTIONS
from ..training.stack import copied
from ..tree import leaves, nest
from .graph import without
from .units import Axis, Block, Layer, Link, Structure, norm_producers

Names = tuple[str, ...]
Named = dict[str, Tensor]

MULTIPLE = 8
"""Widths of convolutions are cut to multiples of this: others can be slower on a CPU than the wider
ones.
"""

Tensors = Mapping[str, Tensor]
Index = Tensors
"""Hidden layer -> (K, width) int64: where a unit comes from; -1: from nowhere, it is padding."""
_Normed = TypeVar("_Normed", Link, Block)


@dataclasses.dataclass(frozen=True)
class Cut:
    """The shape of a stack: hidden layer -> width; names of the blocks that are gone."""

    widths: Mapping[str, int]
    gone: Names = ()


def narrowed(structure: Structure, cut: Cut) -> Structure:
    """The structure of a stack with the shape `cut`."""
    lost = _layers_in(structure, cut.gone)
    links: list[Link] = []
    columns: dict[str, int] = {}
    entries: dict[str, int] = {}  # of batch-norm layers
    for link in structure.links:
        if link.consumer in lost:
            continue
        links.append(link)
        width = cut.widths[link.producer]
        columns[link.consumer] = width * link.repeat
        for norm in link.norms:
            entries[norm.name] = width

    def narrower(layer: Layer) -> Layer:
        name = layer.name
        units = cut.widths.get(name, layer.units)
        fed = columns.get(name, layer.columns)
        return dataclasses.replace(layer, units=units, columns=fed)

    def with_norms(old: _Normed) -> _Normed:
        norms = []
        for norm in old.norms:
            units = entries.get(norm.name, norm.units)
            narrow_norm = dataclasses.replace(norm, units=units)
            norms.append(narrow_norm)
        return dataclasses.replace(old, norms=tuple(norms))

    layers: list[Layer] = []
    for layer in structure.layers:
        if layer.name not in lost:
            layers.append(narrower(layer))
    blocks: list[Block] = []
    for block in structure.blocks:
        if block.name not in cut.gone:
            blocks.append(with_norms(block))
    passed = map(with_norms, links)
    return Structure(tuple(layers), tuple(passed), tuple(blocks))


def _layers_in(structure: Structure, blocks: Sequence[str]) -> set[str]:
    """The layers of some blocks."""
    layers: set[str] = set()
    for block in structure.blocks:
        if block.name in blocks:
            layers.update(block.layers)
    return layers


def narrowed_module(module: nn.Module, structure: Structure, cut: Cut) -> nn.Module:
    """A copy of `module` with the shape `cut`, its tensors zero where they have another shape than
    before.
    """
    whole = copied(module)
    module = without(whole, structure, cut.gone)
    new = narrowed(structure, cut)
    parts = dict(module.named_modules())
    for layer in new.layers:
        # Of a layer that nothing calls there may be nothing left: it went with a block.
        if layer.name in parts:
            part = parts[layer.name]
            _resize_layer(part, layer)
    for norm in norm_producers(new):
        part = parts[norm.name]
        setattr(part, "num_features", norm.units)  # noqa: B010 - modules take it for a tensor
        for name in norm.tensors:
            _, _, own = name.rpartition(".")
            _resize(part, own, (norm.units,))
    return module


def _resize_layer(part: nn.Module, layer: Layer) -> None:
    """Give a module the shape of `layer`, in place."""
    if isinstance(part, nn.Linear):
        part.out_features = layer.units
        part.in_features = layer.columns
    elif isinstance(part, CONVOLUTIONS):
        part.out_channels = layer.units
        groups = int(part.groups)
        part.in_channels = layer.columns * groups
    shape = (layer.units, layer.columns, *layer.kernel)
    _resize(part, "weight", shape)
    _resize(part, "bias", (layer.units,))


def _resize(part: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    before = getattr(part, name)
    if before is None or before.shape == shape:
        return
    after = before.new_zeros(shape)
    if isinstance(before, nn.Parameter):
        after = nn.Parameter(after, before.requires_grad)
    setattr(part, name, after)


def survivors(structure: Structure, alive: Tensors, gone: Tensors) -> tuple[Cut, Index]:
    """The smallest shape that holds what is left of K members, and where its units come from.

    alive: hidden layer -> (K, width) bool.  gone: block -> (K,) bool. A layer keeps a width of at
    least one.
    """
    lost, most = _lost_and_most(structure, alive, gone)
    inside = _layers_in(structure, lost)
    widths: dict[str, int] = {}
    index: Named = {}
    for layer in structure.hidden:
        if layer.name in inside:
            continue
        name = layer.name
        live = alive[name]
        width = _width(layer, most[name])
        order = torch.argsort(~live, dim=1, stable=True)
        first = order[:, :width]
        lives = live.take_along_dim(first, 1)
        index[name] = torch.where(lives, first, -1)
        widths[name] = first.shape[1]
    cut = Cut(widths, tuple(lost))
    return cut, index


def _lost_and_most(
    structure: Structure,
    alive: Tensors,
    gone: Tensors,
) -> tuple[list[str], dict[str, int]]:
    """The blocks that are gone from all members, and the most units that a member has of each
    hidden layer: all in one reading of the device.
    """
    parts: list[Tensor] = []
    for block in structure.blocks:
        is_lost = gone[block.name].all()
        parts.append(is_lost.long())
    for layer in structure.hidden:
        counts = alive[layer.name].sum(1)
        parts.append(counts.max())
    if not parts:
        return [], {}
    numbers = iter(torch.stack(parts).tolist())
    lost: list[str] = []
    for block in structure.blocks:
        if next(numbers):
            lost.append(block.name)
    most = {layer.name: next(numbers) for layer in structure.hidden}
    return lost, most


def _width(layer: Layer, survivors: int) -> int:
    """The width that a layer is cut to."""
    width = max(1, survivors)
    if layer.kind != "conv":
        return width
    multiples = -(-width // MULTIPLE)
    return min(layer.units, multiples * MULTIPLE)


def gathered(
    tree: Mapping[str, Any],
    structure: Structure,
    cut: Cut,
    index: Index,
) -> dict[str, Any]:
    """A tree of stacks brought to the shape `cut`, which `index` leads to.

    Tensors depend on units as the last word of their path says: a parameter, a statistic, a hidden
    layer (one entry for each unit), or a block; others stay as they are.
    """
    lost: set[str] = set()
    for block in structure.blocks:
        if block.name in cut.gone:
            lost.update(structure.inside(block), block.layers)
            lost.add(block.name)
    narrow: Named = {}
    for path, tensor in leaves(tree).items():
        name = _last_word(path)
        if name not in lost:
            axes = structure.axes.get(name, ())
            narrow[path] = _gather(tensor, axes, index)
    return nest(narrow)


def _last_word(path: str) -> str:
    _, _, word = path.rpartition("/")
    return word


def cleared(
    tree: Mapping[str, Any],
    structure: Structure,
    alive: Tensors,
    gone: Tensors,
) -> dict[str, Any]:
    """A tree of stacks in which all that is removed is zero, or False: dead units and, member by
    member, blocks that are gone.

    alive: hidden layer -> (K, width) bool.  gone: block -> (K,) bool.  Nothing reads these entries,
    but a member's then do not depend on how far the stack that it is in could be cut.
    """
    index: Named = {}
    for name, live in alive.items():
        places = torch.arange(live.shape[1], device=live.device)
        index[name] = torch.where(live, places, -1)
    lost: Named = {}
    for block in structure.blocks:
        off = gone[block.name]
        lost |= dict.fromkeys(structure.inside(block), off)
    uncut = Cut({})
    clear = leaves(gathered(tree, structure, uncut, index))
    for path, tensor in clear.items():
        off = lost.get(_last_word(path))
        if off is not None:
            behind = (1,) * (tensor.ndim - 1)
            members = off.view(-1, *behind)
            clear[path] = tensor.masked_fill(members, 0)
    return nest(clear)


def restored(
    tensors: Tensors,
    parent: Structure,
    like: Tensors,
    units: Index,
    count: int,
) -> Named:
    """Stacked tensors (count, ...) brought back to the parent's shapes: zero, or False, where units
    and blocks are gone.

    like: the parent's tensors of these kinds, name -> any of its shape and type; all of them are
    returned.
    units: hidden layer of the stack -> (count, width), the unit of the parent that each one was.
    """
    inverse: Named = {}
    for name, places in units.items():
        width = parent.by_name[name].units
        inverse[name] = _inverse(places, width)
    whole: Named = {}
    for name, shaped in like.items():
        if name in tensors:
            axes: list[Axis] = []
            for axis in parent.axes.get(name, ()):
                _, layer, _ = axis
                if layer in inverse:
                    axes.append(axis)
            whole[name] = _gather(tensors[name], axes, inverse)
        else:
            shape = (count, *shaped.shape)
            whole[name] = shaped.new_zeros(shape)
    return whole


def _inverse(places: Tensor, width: int) -> Tensor:
    """(K, width): where each of a parent's units is in a stack, given where the stack's were."""
    members, own = places.shape
    order = torch.arange(own, device=places.device)
    # What is padding goes to the last column.
    is_padding = places < 0
    sources = torch.where(is_padding, width, places)
    back = places.new_full((members, width + 1), -1)
    orders = order.expand_as(places)
    back.scatter_(1, sources, orders)
    return back[:, :-1]


def _gather(tensor: Tensor, axes: Sequence[Axis], index: Index) -> Tensor:
    """tensor (K, ...) with entries along each axis taken from where `index` says; padding is zero,
    False, or -1 (int64).
    """
    for dim, layer, repeat in axes:
        units = index[layer]
        places = _repeated(units, repeat)
        tensor = _gather_along(tensor, dim + 1, places)
    return tensor


def _repeated(places: Tensor, repeat: int) -> Tensor:
    """Places of the entries of units, `repeat` for each unit, given those of units."""
    if repeat == 1:
        return places
    inner = torch.arange(repeat, device=places.device)
    units = places[..., None]
    entries = units * repeat + inner
    is_padding = units < 0
    entries = torch.where(is_padding, -1, entries)
    return entries.flatten(1)


def _gather_along(tensor: Tensor, dim: int, places: Tensor) -> Tensor:
    sizes = [1] * tensor.ndim
    sizes[0], sizes[dim] = places.shape
    padding = places < 0
    sources = places.clamp(min=0)
    if len(places) == 1:  # of one network, for which there is a faster way
        tensor = tensor.index_select(dim, sources[0])
    else:
        sources = sources.view(sizes)
        tensor = tensor.take_along_dim(sources, dim)
    nothing = 0
    if tensor.dtype == torch.long:
        nothing = -1
    padding = padding.view(sizes)
    return tensor.masked_fill(padding, nothing)
