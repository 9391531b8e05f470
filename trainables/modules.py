"""What can be asked of one ordinary `nn.Module`: its counts, and a physically smaller one without
what masks remove.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..analysis.rows.mistake import Mistake
from . import models
from .measure import flops
from .measure.flops import Counts
from .structure import extract, trial
from .structure.units import Block, Structure


def count(module: nn.Module, input_shape: Sequence[int]) -> Counts:
    """FLOPs and parameters of `module` in evaluation mode, for one example.

    input_shape: of one example, without the batch.  Returns `flops` (2 per multiply-accumulate,
    one example, forward), `params`, FLOPs by layer in `layers`, and in `unknown` the operations
    that no formula counts.  Zeros count like any number: `shrink` takes them out.  Raises Mistake
    if `module` does not take such inputs.
    """
    shape = _shape(module, input_shape)
    with models.blamed(f"`input_shape` is of one example that the module takes; got {shape}"):
        return flops.count(module, shape)


def shrink(module: nn.Module, masks: Mapping[str, Tensor], input_shape: Sequence[int]) -> nn.Module:
    """A physically smaller copy of `module` in evaluation mode, without the units and blocks that
    masks cut off from its output.

    masks: parameter of a linear or convolution layer -> bool of its shape, True keeps; what has no
    mask stays.  A residual block is named by the last affine layer inside, block -> () bool; one
    whose last weights and biases are all removed goes by itself.  input_shape: of one example,
    without the batch.
    The copy computes what `module` does in evaluation mode with its removed entries at zero.
    Single weights inside units that stay are zeros in it: only whole units and blocks make a
    network smaller.  Raises Mistake if a mask fits nothing that can be removed.
    """
    count(module, input_shape)  # it is computed as it stands before anything is taken out
    shape = tuple(input_shape)
    structure = trial.structure_of(module, shape)
    kept = _completed(module, structure, masks)
    masked = copy.deepcopy(module)
    parameters = dict(masked.named_parameters())
    with torch.no_grad():
        for name in structure.parameters:
            parameters[name].mul_(kept[name])
    return extract.shrunk(masked, structure, kept, shape)


def _shape(module: object, input_shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise Mistake(f"`module` is an nn.Module; got {kind}")
    is_list = isinstance(input_shape, list | tuple)  # torch.Size is one
    if not is_list or not all(_is_extent(extent) for extent in input_shape):
        rule = "`input_shape` is a list of whole numbers above 0, without the batch"
        raise Mistake(f"{rule}; got {input_shape!r}")
    return tuple(input_shape)


def _is_extent(value: object) -> bool:
    return type(value) is int and value > 0


def _completed(
    module: nn.Module, structure: Structure, masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """A mask for each removable parameter, True where none was given, and for each block that is
    gone or was named.
    """
    parameters = dict(module.named_parameters())
    kept: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in structure.parameters:
        parameter = parameters[name]
        kept[name] = torch.ones_like(parameter, dtype=torch.bool)
        shapes[name] = tuple(parameter.shape)
    for block in structure.blocks:
        shapes[block.name] = ()
    for name, mask in masks.items():
        _check(name, mask, shapes)
        if name in kept:
            device = kept[name].device
            kept[name] = mask.to(device)
        else:
            kept[name] = mask.cpu()
    for block in structure.blocks:
        if block.name not in kept and _is_empty(block, kept):
            kept[block.name] = torch.tensor(False)
    return kept


def _check(name: str, mask: object, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if name not in shapes:
        hint = models.hint(str(name), shapes)
        rule = "`masks` is of parameters that can be removed"
        raise Mistake(f"{rule}; got {name!r};{hint}")
    rule = _rule(name)
    if not isinstance(mask, Tensor):
        kind = type(mask).__name__
        raise Mistake(f"{rule}; got {kind}")
    if mask.dtype != torch.bool:
        raise Mistake(f"{rule}; got {mask.dtype}")
    given = tuple(mask.shape)
    right = shapes[name]
    if given != right:
        rule = f"mask {name!r} has the shape of what it masks, {right}"
        raise Mistake(f"{rule}; got {given}")


def _rule(name: str) -> str:
    return f"mask {name!r} is a bool tensor, True where a value stays"


def _is_empty(block: Block, kept: Mapping[str, Tensor]) -> bool:
    """Whether all that ends a block is removed: it then gives nothing."""
    for name in block.last:
        if name not in kept:
            return False
    left = [kept[name].any() for name in block.last]
    return not any(left)
