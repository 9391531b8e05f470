"""Structure: the removable layers of a model, which units of one feed which columns of another, and which of them are dead.

A unit is one output of a linear layer or one channel of a convolution. The graph is found by symbolic tracing of the model's
code, not from names. Where the tracer cannot follow (an addition of two branches, an operation not listed here) a unit is
taken to influence the output: counts can then be too large, never too small.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

_Conv = nn.modules.conv._ConvNd


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear or convolution layer. `weight` and `bias` are parameter names; `bias` is None where there is none."""

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
class Link:
    """Every unit of `producer` feeds `repeat` consecutive columns of `consumer`, and nothing else does.

    norms: parameters of batch-norm layers on the way, one entry for each unit.
    shifts: what is nothing may be something after them, or after an activation on the way.
    folds: a unit that is constant can be folded into the consumer's bias exactly.
    """

    producer: str
    consumer: str
    repeat: int
    norms: tuple[str, ...]
    shifts: bool
    folds: bool


@dataclasses.dataclass(frozen=True)
class Structure:
    """The removable layers of a model in order of definition, and the links between them.

    A layer with units that nothing but linked layers read is the producer of at least one link; the units of others are never
    dead for want of readers.
    """

    layers: tuple[Layer, ...]
    links: tuple[Link, ...]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all removable parameters."""
        return tuple(name for layer in self.layers for name in layer.parameters)

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """Layers whose units can be removed: all that read them is known."""
        producers = {link.producer for link in self.links}
        return tuple(layer for layer in self.layers if layer.name in producers)


def find(module: nn.Module, input_shape: tuple[int, ...]) -> Structure:
    """The structure of `module` for inputs of `input_shape` (without batch)."""
    layers = []
    uses = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear | _Conv) or (isinstance(part, _Conv) and part.transposed):
            continue
        if any(uses[id(p)] > 1 or not p.requires_grad for p in part.parameters()):
            continue  # tied or frozen parameters are not ours to remove
        layers.append(
            Layer(
                name=name,
                weight=f"{name}.weight" if name else "weight",
                bias=None if part.bias is None else f"{name}.bias" if name else "bias",
                kind="conv" if isinstance(part, _Conv) else "fc",
                units=part.weight.shape[0],
                columns=part.weight.shape[1],
                kernel=tuple(part.weight.shape[2:]),
                grouped=isinstance(part, _Conv) and part.groups > 1,
            )
        )
    return Structure(tuple(layers), _links(module, input_shape, {layer.name: layer for layer in layers}))


def node_masks(structure: Structure, alive: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks that remove whole units: incoming rows, biases and outgoing columns.

    alive: layer -> (units,) bool, for hidden layers.  like: parameters by name, for shapes.  Returns name -> bool, True keeps.
    """
    masks = {name: torch.ones_like(like[name], dtype=torch.bool) for name in structure.parameters}
    for layer in structure.hidden:
        for parameter in layer.parameters:
            masks[parameter] = masks[parameter] & _along(alive[layer.name], 0, masks[parameter].ndim)
    return masks | {name: masks[name] & columns for name, columns in column_masks(structure, alive, like).items()}


def column_masks(structure: Structure, alive: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks that only disconnect units, by their outgoing columns: weight -> bool, broadcastable to it, True keeps.

    The network computes what it does with `node_masks`, since all that reads hidden units is known.
    """
    masks: dict[str, Tensor] = {}
    for link in structure.links:
        weight = next(layer.weight for layer in structure.layers if layer.name == link.consumer)
        columns = _along(alive[link.producer].repeat_interleave(link.repeat), 1, like[weight].ndim)
        masks[weight] = masks[weight] & columns if weight in masks else columns
    return masks


def alive(structure: Structure, kept: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Units and columns that can influence the output, for M networks at once.

    kept: removable parameter -> (M, *shape) bool.  Returns layer -> (M, units) bool and layer -> (M, columns) bool.
    A unit is dead if nothing live reads it, or if it has no live input and what it then constantly gives is nothing (no bias)
    or folds into the next bias.
    """
    connected = {layer.name: kept[layer.weight].flatten(3).any(-1) if kept[layer.weight].ndim > 3 else kept[layer.weight]
                 for layer in structure.layers}  # fmt: skip
    units = {name: torch.ones_like(links[:, :, 0]) for name, links in connected.items()}
    columns = {name: torch.ones_like(links[:, 0, :]) for name, links in connected.items()}
    outgoing = {layer.name: [link for link in structure.links if link.producer == layer.name] for layer in structure.hidden}
    while True:
        before = sum(int(live.sum()) for live in units.values())
        for layer in structure.hidden:
            name, live = layer.name, units[layer.name]
            fed = (connected[name] & columns[name][:, None, :]).any(-1)
            # What a unit without an input gives is constant: nothing, or foldable, or to be kept.
            constant = torch.zeros_like(live) if layer.bias is None else kept[layer.bias].clone()
            constant |= any(link.shifts for link in outgoing[name])
            constant &= not all(link.folds for link in outgoing[name])
            read = torch.zeros_like(live)
            for link in outgoing[name]:
                readers = (connected[link.consumer] & units[link.consumer][:, :, None]).any(1)
                read |= readers.unflatten(1, (-1, link.repeat)).any(-1)
            units[name] = live & read & (fed | constant)
            for link in outgoing[name]:
                columns[link.consumer] = units[name].repeat_interleave(link.repeat, dim=1)
        if sum(int(live.sum()) for live in units.values()) == before:
            return units, columns


def _along(vector: Tensor, dim: int, ndim: int) -> Tensor:
    return vector.view(*(-1 if i == dim else 1 for i in range(ndim)))


_UNITWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_FUNCTIONS = {F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.dropout,
              F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d}  # fmt: skip
_METHODS = {"relu", "tanh", "sigmoid", "contiguous"}
_SHIFTS = (nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, torch.sigmoid, "sigmoid")
"""Of the above, those that make something of nothing."""
_SHAPES = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}


def _links(module: nn.Module, input_shape: tuple[int, ...], layers: Mapping[str, Layer]) -> tuple[Link, ...]:
    try:
        graph = fx.symbolic_trace(module)
        parameter = next(module.parameters())
        example = torch.zeros(2, *input_shape, device=parameter.device, dtype=parameter.dtype)
        with torch.no_grad():
            ShapeProp(graph.eval()).propagate(example)
    except Exception:
        # Tracing runs the user's code on symbols, which may fail in any way; without a graph every unit counts as live.
        return ()
    calls = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    once = {name: layer for name, layer in layers.items() if calls.count(name) == 1 and not layer.grouped}
    links: list[Link] = []
    for node in graph.graph.nodes:
        if node.op == "call_module" and node.target in once:
            links += _follow(node, once[str(node.target)], once, dict(module.named_modules())) or []
    return tuple(links)


def _follow(start: fx.Node, layer: Layer, layers: Mapping[str, Layer], modules: Mapping[str, Any]) -> list[Link] | None:
    """Links from the units of `layer` to all of `layers` that read them; None if something else reads them."""
    if _shape(start)[1:2] != (layer.units,) or (layer.kind == "fc") != (len(_shape(start)) == 2):
        return None  # units lie along another dimension
    links: list[Link] = []
    pending: list[tuple[fx.Node, tuple[str, ...], bool]] = [(start, (), False)]
    while pending:
        node, norms, shifts = pending.pop()
        for user in node.users:
            part = modules.get(str(user.target)) if user.op == "call_module" else None
            if user.op == "call_module" and user.target in layers:
                consumer = layers[str(user.target)]
                if _shape(node)[1] != consumer.columns or (consumer.kind == "fc") != (len(_shape(node)) == 2):
                    return None
                padded = isinstance(part, _Conv) and part.padding not in ("valid", (0,) * len(part.kernel_size))
                repeat = consumer.columns // layer.units
                folds = consumer.bias is not None and not padded
                links.append(Link(layer.name, consumer.name, repeat, norms, shifts, folds))
            elif isinstance(part, _NORMS) and _shape(node)[1] == layer.units:
                pending.append((user, norms + tuple(f"{user.target}.{name}" for name, _ in part.named_parameters()), True))
            elif (
                isinstance(part, _UNITWISE)
                or (isinstance(part, _AVERAGES) and part.padding in (0, (0,), (0, 0), (0, 0, 0)))
                or (user.op == "call_function" and user.target in _FUNCTIONS)
                or (user.op == "call_method" and user.target in _METHODS)
            ):
                pending.append((user, norms, shifts or type(part) in _SHIFTS or user.target in _SHIFTS))
            elif isinstance(part, nn.Flatten) or (user.op in ("call_function", "call_method") and user.target in _SHAPES):
                # Units stay whole and in order only if everything behind the batch is flattened together.
                if len(_shape(user)) != 2 or _shape(user)[0] != 2:
                    return None
                pending.append((user, norms, shifts))
            elif user.target in ("size", "dim") or (user.target is getattr and user.args[1] in ("shape", "ndim", "dtype")):
                continue  # reads the shape, not the values
            else:
                return None
    return links


def _shape(node: fx.Node) -> tuple[int, ...]:
    found = node.meta.get("tensor_meta")
    return tuple(getattr(found, "shape", ()))
