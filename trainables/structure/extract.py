"""One network without the units and blocks that cannot influence its output: an ordinary module
that computes the same.

Any hardware runs it faster. Its FLOPs and parameters are those that `removed.compression` counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..measure.flops import blank_inputs, evaluating
from ..training.stack import restacked, single, tensors
from . import graph
from .alive import alive
from .narrow import Cut, gathered, narrowed, narrowed_module
from .units import Structure

Tensors = Mapping[str, Tensor]
Named = dict[str, Tensor]
Shape = tuple[int, ...]
Seen = dict[str, tuple[Tensor, Shape]]
"""Layer -> its inputs (columns,) at the first position, and the shape of one output."""


class Constant(nn.Module):
    """In place of a layer that reads nothing that is left: its bias at every position, or zeros if
    it has none.

    shape: of what it gives for one example, (units, ...).
    """

    def __init__(self, shape: Shape, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.shape = shape
        self.bias = bias

    def extra_repr(self) -> str:
        """What it says of itself between its brackets."""
        return f"shape={self.shape}, bias={self.bias is not None}"

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, ...), of which only the size of the batch is read."""
        examples = x.shape[0]
        zeros = x.new_zeros(examples, *self.shape)
        if self.bias is None:
            return zeros
        positions = (1,) * (len(self.shape) - 1)
        bias = self.bias.view(-1, *positions)
        return zeros + bias


def shrunk(
    module: nn.Module,
    structure: Structure,
    kept: Tensors,
    input_shape: Shape,
) -> nn.Module:
    """A copy of `module` in evaluation mode, without the units and blocks that cannot influence the
    output.

    module: its parameters are zero where removed.  kept: removable parameter -> bool of its shape,
    block -> () bool, as of `removed.compression` for one network.  input_shape: without batch. A
    unit that gives a constant is measured where it is read, in one run, and folded into the
    reader's bias. A layer that reads nothing any more is a `Constant`, and what only fed it is
    gone.
    """
    units, columns = alive(structure, restacked(kept))
    gone: list[str] = []
    lost: set[str] = set()  # the layers in them
    for block in structure.blocks:
        if block.name in kept and not kept[block.name]:
            gone.append(block.name)
            lost.update(block.layers)
    index: Named = {}
    widths: dict[str, int] = {}
    for layer in structure.hidden:
        name = layer.name
        if name in lost:
            continue
        places = units[name].nonzero()[:, 1]
        index[name] = places[None]
        widths[name] = len(places)
    cut = Cut(widths, tuple(gone))
    folds: dict[str, bool] = {}
    for link in structure.links:
        if link.consumer not in lost:
            folds[link.consumer] = link.folds
    with evaluating(module):
        seen = _watched(module, folds, input_shape)
    values = tensors(module)
    for layer in structure.layers:
        if layer.bias is None or not folds.get(layer.name):
            continue
        given, _ = seen[layer.name]
        left = columns[layer.name][0]
        constant = given.double().masked_fill(left, 0)
        weight = values[layer.weight]
        bias = values[layer.bias]
        values[layer.bias] = _folded(weight, bias, constant)
    shapes: dict[str, Shape] = {}
    for name, (_, shape) in seen.items():
        shapes[name] = shape
    small = cut_module(module, structure, cut, shapes)
    stacks = gathered(restacked(values), structure, cut, index)
    fill(small, single(stacks))
    return small.eval()


def _folded(weight: Tensor, bias: Tensor, constant: Tensor) -> Tensor:
    """The bias of a layer, and what constant inputs (columns,) float64 add to it."""
    rows, columns, *_ = weight.shape
    kernels = weight.detach().double()
    kernels = kernels.reshape(rows, columns, -1)
    sums = kernels.sum(-1)
    added = sums @ constant
    before = bias.detach().double()
    folded = before + added
    return folded.to(bias.dtype)


def cut_module(
    module: nn.Module,
    structure: Structure,
    cut: Cut,
    shapes: Mapping[str, Shape],
) -> nn.Module:
    """A copy of `module` with the shape `cut`, its layers without columns replaced.

    shapes: layer -> (units, ...), what one example gives there; a layer that nothing reads needs
    none.
    """
    small = narrowed_module(module, structure, cut)
    empty: dict[str, nn.Module] = {}
    for layer in narrowed(structure, cut).layers:
        if layer.columns:
            continue
        _, *positions = shapes.get(layer.name, (0,))
        shape = (layer.units, *positions)
        part: Any = small.get_submodule(layer.name)
        empty[layer.name] = Constant(shape, part.bias)
    if structure.flow:
        return graph.replaced(small, empty)
    for name, part in empty.items():  # code that cannot be traced is called as it is
        small.set_submodule(name, part)
    return small


def _watched(module: nn.Module, readers: Iterable[str], input_shape: Shape) -> Seen:
    """What the layers `readers` are given and give, in one run."""
    seen: Seen = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(
            part: nn.Module,
            inputs: Any,
            named: Any,
            output: Tensor,
        ) -> None:
            given, *_ = (*inputs, *named.values())
            example = given[0]
            if example.ndim > 1:
                example = example.flatten(1)[:, 0]
            _, *shape = output.shape
            seen[name] = (example, tuple(shape))

        return hook

    hooks = []
    for name in readers:
        part = module.get_submodule(name)
        hook = part.register_forward_hook(watch(name), with_kwargs=True)
        hooks.append(hook)
    try:
        blank = blank_inputs(module, input_shape)
        module(blank)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


@torch.no_grad()
def fill(module: nn.Module, values: Tensors) -> None:
    """Copy into a module its own ones of `values`."""
    own = tensors(module)
    for name, tensor in own.items():
        tensor.copy_(values[name])
