"""Physically smaller networks: one network without the units and blocks that cannot influence its output, and its file.

What is left is an ordinary module that computes the same in evaluation, and that any hardware runs faster. Its FLOPs and
parameters are those that `measure.compression` counts.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..analysis.mistake import Mistake
from ..analysis.storage import Location, atomic, local
from . import models, stack, tracing
from .shrinking import Cut, gathered, narrowed, narrowed_module
from .structure import Structure, alive

HEADER = "prunefront"
"""Key of the description in the header of an exported file."""


@dataclasses.dataclass(frozen=True)
class Parent:
    """What a network was cut from: a model by name or dotted path, with its options, and the type of its parameters."""

    model: str
    input_shape: tuple[int, ...]
    classes: int
    dtype: str = "float32"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self) -> nn.Module:
        """The model with some initial weights; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            module = models.build(self.model, self.input_shape, self.classes, **self.options)
        return module.to(getattr(torch, self.dtype))


class Constant(nn.Module):
    """In place of a layer that reads nothing that is left: its bias at every position, or zeros if it has none.

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
        return zeros if self.bias is None else zeros + self.bias.view(-1, *(1,) * (len(self.shape) - 1))


def shrunk(module: nn.Module, structure: Structure, kept: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> nn.Module:
    """A copy of `module` in evaluation mode, without the units and blocks that cannot influence the output.

    module: its parameters are zero where removed.  kept: removable parameter -> bool of its shape, block -> () bool,
    as of `measure.compression` for one network.  input_shape: without batch.
    A unit that gives a constant is measured where it is read, in one run, and folded into the reader's bias. A layer that reads
    nothing any more is a `Constant`, and what only fed it is gone.
    """
    module = copy.deepcopy(module).eval()
    units, columns = alive(structure, {name: mask[None] for name, mask in kept.items()})
    gone = tuple(block.name for block in structure.blocks if block.name in kept and not kept[block.name])
    lost = {name for block in structure.blocks if block.name in gone for name in block.layers}
    index = {layer.name: units[layer.name][0].nonzero().mT for layer in structure.hidden if layer.name not in lost}
    cut = Cut({name: places.shape[1] for name, places in index.items()}, gone)
    tensors, layers = _tensors(module), {layer.name: layer for layer in structure.layers}
    readers = {link.consumer: link.folds for link in structure.links if link.consumer not in lost}
    seen = _watched(module, readers, input_shape)
    for name, folds in readers.items():
        bias = layers[name].bias
        if folds and bias is not None:
            given = seen[name][0].double().masked_fill(columns[name][0], 0)
            weight = tensors[layers[name].weight].detach().double()
            added = weight.reshape(*weight.shape[:2], -1).sum(-1) @ given
            tensors[bias] = (tensors[bias].detach().double() + added).to(tensors[bias].dtype)
    small = _cut(module, structure, cut, {name: shape for name, (_, shape) in seen.items()})
    _fill(small, stack.single(gathered(stack.restacked(tensors), structure, cut, index)))
    return small


def save(path: Location, network: nn.Module, parent: Parent) -> None:
    """Write `network`, as from `shrunk`, to one safetensors file from which `load` makes it again; complete or absent.

    Raises Mistake if it was not cut from `parent`.
    """
    structure = tracing.find(parent.build(), parent.input_shape)
    parts = dict(network.named_modules())
    gone = [block.name for block in structure.blocks if block.name not in parts]
    lost = {name for block in structure.blocks if block.name in gone for name in block.layers}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(network).items()}
    try:
        about = {
            **dataclasses.asdict(parent),
            "widths": {layer.name: _width(parts.get(layer.name)) for layer in structure.hidden if layer.name not in lost},
            "gone": gone,
            "positions": {name: list(part.shape[1:]) for name, part in parts.items() if isinstance(part, Constant)},
        }
        _restore(_described(*_read(about)), tensors)
    except (Mistake, AttributeError) as error:
        raise Mistake(f"{path}: what is saved was cut from its parent, {parent.model}; got: {error}") from None
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(about)})


def load(path: Location) -> nn.Module:
    """The network in a file that `save` wrote, in evaluation mode, bit for bit.

    Raises Mistake if there is no such file, if it is torn or foreign, or if its model is now another one.
    """
    if not path.is_file():
        raise Mistake(f"{path}: no such file; `physical.save` writes one")
    try:
        with local(path) as here, safe_open(here, framework="pt") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            parent, cut, shapes = _read(about)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise Mistake(f"{path}: a complete file that `physical.save` wrote; got {models.raised(error)}") from None
    small = _described(parent, cut, shapes)
    try:
        _restore(small, tensors)
    except Mistake as error:
        raise Mistake(f"{path}: the model {parent.model} is as it was when its network was saved; got: {error}") from None
    return small


def _read(about: Mapping[str, Any]) -> tuple[Parent, Cut, dict[str, tuple[int, ...]]]:
    """What the header of a file says: the parent, the shape, and what one example gives at each layer that is a Constant."""
    parent = Parent(about["model"], tuple(about["input_shape"]), about["classes"], about["dtype"], about["options"])
    return parent, Cut(about["widths"], tuple(about["gone"])), {n: (0, *shape) for n, shape in about["positions"].items()}


def _described(parent: Parent, cut: Cut, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The module that the header of a file describes, with values of no meaning."""
    module = parent.build().eval()
    return _cut(module, tracing.find(module, parent.input_shape), cut, shapes)


def _cut(module: nn.Module, structure: Structure, cut: Cut, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of `module` with the shape `cut`, its layers without columns replaced.

    shapes: layer -> (units, ...), what one example gives there; a layer that nothing reads needs none.
    """
    small = narrowed_module(module, structure, cut)
    empty = {}
    for layer in narrowed(structure, cut).layers:
        if not layer.columns:
            positions = shapes.get(layer.name, (0,))[1:]
            empty[layer.name] = Constant((layer.units, *positions), small.get_submodule(layer.name).bias)  # type: ignore[arg-type]
    return tracing.replaced(small, empty)


@torch.no_grad()
def _watched(
    module: nn.Module, readers: Iterable[str], input_shape: tuple[int, ...]
) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """For each of the layers `readers`, in one run: inputs (columns,) at the first position, and the shape of one output."""
    found: dict[str, tuple[Tensor, tuple[int, ...]]] = {}

    def watch(name: str) -> Any:
        def hook(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = (inputs[0][0].flatten(1)[:, 0] if inputs[0].ndim > 2 else inputs[0][0], tuple(output.shape[1:]))

        return hook

    hooks = [module.get_submodule(name).register_forward_hook(watch(name)) for name in readers]
    parameter = next(module.parameters(), torch.empty(0))
    module(torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype))
    for hook in hooks:
        hook.remove()
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; tied ones have one name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


@torch.no_grad()
def _fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy into a module its own ones of `tensors`."""
    for name, own in _tensors(module).items():
        own.copy_(tensors[name])


def _restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into a module. Raises Mistake unless it has just these, with their shapes and types."""
    own, given = ({f"{name} {tuple(t.shape)} {t.dtype}" for name, t in each.items()} for each in (_tensors(module), tensors))
    if own != given:
        raise Mistake(f"{min(own ^ given)}, which only the {'model' if min(own ^ given) in own else 'network'} has")
    _fill(module, tensors)


def _width(part: nn.Module | None) -> int:
    """The units of a hidden layer; none if it is gone."""
    if part is None:
        return 0
    return part.shape[0] if isinstance(part, Constant) else len(part.weight)  # type: ignore[arg-type]
