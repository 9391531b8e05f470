"""One network without the units and blocks that cannot influence its output: an ordinary module
that computes the same.

Any hardware runs it faster. Its FLOPs and parameters are those that `removed.compression` counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..training import stack
from . import trace
from .narrow import Cut, gathered, narrowed, narrowed_module
from .units import Structure, alive


class Constant(nn.Module):
    """In place of a layer that reads nothing that is left: its bias at every position, or zeros if
    it has none.

    shape: of what it gives for one example, (units, ...).
    """

    def __init__(self, shape: tuple[int, ...], bias: nn.Parameter | None) -> None:
        super().__init__()
        self.shape, self.bias = shape, bias

    def extra_repr(self) -> str:
        """What it says of itself between its brackets."""
        return f"shape={self.shape}, bias={self.bias is not None}"

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, ...), of which only the size of the batch is read."""
        zeros = x.new_zeros(x.shape[0], *self.shape)
        return (
            zeros
            if self.bias is None
            else zeros + self.bias.view(-1, *(1,) * (len(self.shape) - 1))
        )


def shrunk(
    module: nn.Module,
    structure: Structure,
    kept: Mapping[str, Tensor],
    input_shape: tuple[int, ...],
) -> nn.Module:
    """A copy of `module` in evaluation mode, without the units and blocks that cannot influence the
    output.

    module: its parameters are zero where removed.  kept: removable parameter -> bool of its shape,
    block -> () bool, as of `removed.compression` for one network.  input_shape: without batch. A
    unit that gives a constant is measured where it is read, in one run, and folded into the
    reader's bias. A layer that reads nothing any more is a `Constant`, and what only fed it is
    gone.
    """
    units, columns = alive(structure, {name: mask[None] for name, mask in kept.items()})
    gone = tuple(
        block.name for block in structure.blocks if block.name in kept and not kept[block.name]
    )
    lost = {name for block in structure.blocks if block.name in gone for name in block.layers}
    index = {
        layer.name: units[layer.name][0].nonzero().mT
        for layer in structure.hidden
        if layer.name not in lost
    }
    cut = Cut({name: places.shape[1] for name, places in index.items()}, gone)
    values, layers = tensors(module), {layer.name: layer for layer in structure.layers}
    readers = {link.consumer: link.folds for link in structure.links if link.consumer not in lost}
    with trace.evaluating(module):
        seen = _watched(module, readers, input_shape)
    for name, folds in readers.items():
        bias = layers[name].bias
        if folds and bias is not None:
            given = seen[name][0].double().masked_fill(columns[name][0], 0)
            weight = values[layers[name].weight].detach().double()
            added = weight.reshape(*weight.shape[:2], -1).sum(-1) @ given
            values[bias] = (values[bias].detach().double() + added).to(values[bias].dtype)
    small = cut_module(module, structure, cut, {name: shape for name, (_, shape) in seen.items()})
    fill(small, stack.single(gathered(stack.restacked(values), structure, cut, index)))
    return small.eval()


def cut_module(
    module: nn.Module, structure: Structure, cut: Cut, shapes: Mapping[str, tuple[int, ...]]
) -> nn.Module:
    """A copy of `module` with the shape `cut`, its layers without columns replaced.

    shapes: layer -> (units, ...), what one example gives there; a layer that nothing reads needs
    none.
    """
    small = narrowed_module(module, structure, cut)
    empty: dict[str, nn.Module] = {}
    for layer in narrowed(structure, cut).layers:
        if not layer.columns:
            positions = shapes.get(layer.name, (0,))[1:]
            bias = small.get_submodule(layer.name).bias
            empty[layer.name] = Constant((layer.units, *positions), bias)  # type: ignore[arg-type]
    if structure.flow:
        return trace.replaced(small, empty)
    for name, part in empty.items():  # code that cannot be traced is called as it is
        small.set_submodule(name, part)
    return small


def _watched(
    module: nn.Module, readers: Iterable[str], input_shape: tuple[int, ...]
) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """For each of the layers `readers`, in one run: inputs (columns,) at the first position, and
    the shape of one output.
    """
    found: dict[str, tuple[Tensor, tuple[int, ...]]] = {}

    def watch(name: str) -> Any:
        def hook(
            part: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
        ) -> None:
            given = (*inputs, *named.values())[0][0]
            found[name] = (
                given.flatten(1)[:, 0] if given.ndim > 1 else given,
                tuple(output.shape[1:]),
            )

        return hook

    hooks = [
        module.get_submodule(name).register_forward_hook(watch(name), with_kwargs=True)
        for name in readers
    ]
    parameter = next(module.parameters(), torch.empty(0))
    try:
        module(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; tied ones have one name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def fill(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy into a module its own ones of `values`."""
    for name, own in tensors(module).items():
        own.copy_(values[name])
