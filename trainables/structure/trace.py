"""Tracing: the layers of a model, and the links between them, found in its code.

The graph is found by symbolic tracing (torch.fx), not from names. Where the tracer cannot follow, a
unit is taken to influence the output: counts can then be too large, never too small.

Torch-Pruning's dependency graph was tried as the finder of units and agrees with this one (a test
holds them equal). It knows neither branches and shortcuts nor which constants fold into a bias, and
removes units from modules in place, where stacks with their momentum are needed; all of that wants
a graph of our own, from which the links then come for nothing.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx, nn

from ..measure.flops import CONVOLUTIONS, LAYERS, TRANSPOSED, blank_inputs, evaluating
from ..measure.flow import functional, steps
from ..models import raised
from ..training.dropout import CounterDropout
from . import operations
from .branches import Branch, branches
from .nodes import calling, calls, closure, module_of, read_outside, users_of
from .units import Layer, Link, Norm, Structure

Shape = tuple[int, ...]

Layers = Mapping[str, Layer]
Modules = Mapping[str, Any]
Added = dict[fx.Node, tuple[str, fx.Node]]
"""The node that adds a block -> the block, and the node that ends it."""
SHAPE = "prunefront.shape"
"""Where a node of a graph keeps the shape of what it gives."""
Obstacle = tuple[str, str]
"""A layer, and what stands in the way of removing its units."""


def hints(module: nn.Module, input_shape: Shape) -> Structure:
    """What `module` seems to be made of, by the types of its operations, for inputs of
    `input_shape` (without batch).

    Hints, of which `trial.structure_of` believes what it has tried. A model may give its own, by a
    method `structure()`.
    """
    layers, obstacles = _layers(module)
    try:
        graph = with_shapes(module, input_shape)
    except Exception as error:
        # Tracing runs the user's code on symbols, which may fail in any way; without a graph every
        # unit counts as live.
        why = f"torch.fx cannot follow the model's code: {raised(error)}"
        obstacles.append(("", why))
        opaque = Structure(layers, (), obstacles=tuple(obstacles))
        own = _declared(module) or opaque
        return dataclasses.replace(own, flow=())
    modules = known(module)
    whole = _whole(graph.graph, layers)
    obstacles += whole.items()
    once: dict[str, Layer] = {}
    for layer in layers:
        if layer.name not in whole:
            once[layer.name] = layer
    links, unfollowed = _links(graph.graph, once, modules)
    obstacles += unfollowed.items()
    residual: list[Branch] = []
    if is_constant(module):
        residual = branches(graph.graph, once, modules)
    blocks = tuple(branch.block for branch in residual)
    seen = Structure(layers, tuple(links), blocks, tuple(obstacles))
    own = _declared(module) or seen
    added = _added(own, residual)
    with evaluating(graph):
        inputs = blank_inputs(module, input_shape)
        flow = steps(graph, inputs, added)
    return dataclasses.replace(own, flow=flow)


def with_shapes(module: nn.Module, input_shape: Shape) -> fx.GraphModule:
    """The graph of a model; its nodes know the shapes of what they give for two inputs."""
    graph = traced(module)
    with evaluating(graph):
        _Shapes(graph).run(blank_inputs(module, input_shape, examples=2))
    return graph


class _Shapes(fx.Interpreter):
    """Runs a graph, and keeps the shape of each tensor that a node gives.

    torch.fx.passes.shape_prop does as much, and imports SymPy for it, which takes most of a second.
    """

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            n.meta[SHAPE] = tuple(result.shape)
        return result


def _declared(module: nn.Module) -> Structure | None:
    """What a model says of itself, if it does."""
    method = getattr(module, "structure", None)
    if not callable(method):
        return None
    declared = method()
    if not isinstance(declared, Structure):
        return None
    return declared


def _added(structure: Structure, residual: Iterable[Branch]) -> Added:
    """The blocks of a structure by the node that adds them, and the node that ends them."""
    names = {block.name for block in structure.blocks}
    added: Added = {}
    for branch in residual:
        name = branch.block.name
        if name in names:
            added[branch.total] = (name, branch.end)
    return added


# ---- graphs of models


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, CounterDropout):
            return True
        return super().is_leaf_module(m, module_qualified_name)


def traced(module: nn.Module) -> fx.GraphModule:
    """The graph of a model, in which nothing reads a value that has been overwritten.

    Raises what its code raises.
    """
    graph = fx.GraphModule(module, _Tracer().trace(module))
    functional(graph)
    graph.recompile()
    return graph


def is_constant(module: nn.Module) -> bool:
    """Whether the model's own code does the same in training as in evaluation: its graph then is
    the model in both.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        training = traced(module.train(True)).code
        evaluation = traced(module.train(False)).code
    except Exception:  # code that can be followed in one mode alone
        return False
    finally:
        for part, mode in modes.items():
            part.training = mode
    return training == evaluation


class Unknown(nn.Module):
    """Stands for a module of which nothing is known by its type."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.told = f"{type(part).__name__} with a hook"


def known(module: nn.Module) -> dict[str, nn.Module]:
    """The parts of a model by name, without those whose type does not say all that they do."""
    parts: dict[str, nn.Module] = {}
    for name, part in module.named_modules():
        if hooked(part):
            parts[name] = Unknown(part)
        else:
            parts[name] = part
    return parts


def hooked(part: nn.Module) -> bool:
    """Whether calling a module does more than its type says: it has a hook, or a `forward` of its
    own.
    """
    own = vars(part)
    if "forward" in own:
        return True
    # There is no public way to ask. Where torch keeps hooks otherwise, a trial sees what they do.
    return bool(own.get("_forward_hooks") or own.get("_forward_pre_hooks"))


# ---- layers


def _layers(module: nn.Module) -> tuple[tuple[Layer, ...], list[Obstacle]]:
    """The linear and convolution layers whose parameters are theirs alone, and why others are none
    of ours.
    """
    layers: list[Layer] = []
    obstacles: list[Obstacle] = []
    uses: Counter[int] = Counter()
    for part in module.modules():
        own = part.parameters(recurse=False)
        uses.update(id(parameter) for parameter in own)
    for name, part in module.named_modules():
        if not isinstance(part, LAYERS) or isinstance(part, TRANSPOSED):
            continue
        why = _why_not_ours(part, uses)
        if why is None:
            layers.append(_layer(name, part))
        else:
            obstacles.append((name, why))
    return tuple(layers), obstacles


def _why_not_ours(part: nn.Module, uses: Mapping[int, int]) -> str | None:
    """Why rows of a layer's weight cannot be taken out; None if nothing speaks against it."""
    own = dict(part.named_parameters())
    if "weight" not in own or not own.keys() <= {"weight", "bias"}:
        source = ", ".join(own) or "buffers"
        return f"its weight is computed from {source}"
    for parameter in own.values():
        if uses[id(parameter)] > 1:
            return "it shares parameters with another layer"
    if not all(parameter.requires_grad for parameter in own.values()):
        return "it is frozen"
    if hooked(part):
        return "a hook of its own may change what it takes or gives"
    return None


def _layer(name: str, part: Any) -> Layer:
    prefix = ""
    if name:
        prefix = f"{name}."
    bias = None
    if part.bias is not None:
        bias = f"{prefix}bias"
    kind = "fc"
    convolution = isinstance(part, CONVOLUTIONS)
    if convolution:
        kind = "conv"
    units, columns, *kernel = part.weight.shape
    return Layer(
        name=name,
        weight=f"{prefix}weight",
        bias=bias,
        kind=kind,
        units=units,
        columns=columns,
        kernel=tuple(kernel),
        grouped=convolution and part.groups > 1,
    )


def _whole(graph: fx.Graph, layers: Iterable[Layer]) -> dict[str, str]:
    """The layers that a graph uses so that no unit of them can go, and why."""
    called = calls(graph)
    outside = read_outside(graph)
    whole: dict[str, str] = {}
    for layer in layers:
        if layer.name in outside:
            whole[layer.name] = "the code reads its parameters itself"
        elif called[layer.name] != 1:
            whole[layer.name] = f"it is called {called[layer.name]} times"
        elif layer.grouped:
            whole[layer.name] = "its channels are in groups"
    return whole


# ---- links


def _links(
    graph: fx.Graph,
    layers: Layers,
    modules: Modules,
) -> tuple[list[Link], dict[str, str]]:
    """Links from all layers whose readers are known, and why there are none from the others."""
    links: list[Link] = []
    obstacles: dict[str, str] = {}
    for node in calling(graph):
        name = str(node.target)
        if name not in layers:
            continue
        followed = _follow(node, layers[name], layers, modules)
        if isinstance(followed, str):
            obstacles[name] = followed
        else:
            links += followed
    return links, obstacles


@dataclasses.dataclass(frozen=True)
class _Way:
    """How far a layer's units have been followed: they are the second dimension of what `node`
    gives.

    norms: what was passed.  shifts: what was nothing may be something here.
    """

    node: fx.Node
    norms: tuple[Norm, ...] = ()
    shifts: bool = False

    def to(self, node: fx.Node, shifts: bool = False) -> _Way:
        """The way, and one operation more."""
        return _Way(node, self.norms, self.shifts or shifts)


def _follow(
    start: fx.Node,
    layer: Layer,
    layers: Layers,
    modules: Modules,
) -> list[Link] | str:
    """Links from the units of `layer` to all of `layers` that read them; what else reads them, if
    something does.
    """
    shape = _shape(start)
    second = shape[1:2]
    if second != (layer.units,) or _kind(shape) != layer.kind:
        return f"its units lie along another dimension than the second of {shape}"
    links: list[Link] = []
    pending = [_Way(start)]
    while pending:
        way = pending.pop()
        for user in way.node.users:
            if user.op == "output":
                return []
            if operations.asks_shape(user):
                continue
            part = module_of(user, modules)
            if user.op == "call_module" and user.target in layers:
                reader = _link(way, layer, layers[str(user.target)], part)
            else:
                reader = _onwards(way, layer, user, part)
            if isinstance(reader, str):
                return reader
            if isinstance(reader, Link):
                links.append(reader)
            else:
                pending.append(reader)
    return links


def _link(way: _Way, layer: Layer, consumer: Layer, part: Any) -> Link | str:
    """The link from a layer to one that reads it, or why there is none."""
    shape = _shape(way.node)
    repeat, rest = divmod(consumer.columns, layer.units)
    whole = shape[1] == consumer.columns and not rest
    if not whole or _kind(shape) != consumer.kind:
        return f"they are not what {consumer.name} takes for its columns"
    return Link(
        producer=layer.name,
        consumer=consumer.name,
        repeat=repeat,
        norms=way.norms,
        shifts=way.shifts,
        folds=consumer.bias is not None and not _is_padded(part),
    )


def _kind(shape: Shape) -> str:
    """The kind of layers that give or take values of a shape."""
    if len(shape) == 2:
        return "fc"
    return "conv"


def _is_padded(part: Any) -> bool:
    if not isinstance(part, CONVOLUTIONS):
        return False
    none = (0,) * len(part.kernel_size)
    return part.padding not in ("valid", none)


def _onwards(way: _Way, layer: Layer, user: fx.Node, part: Any) -> _Way | str:
    """The way behind an operation, or why it ends there."""
    if isinstance(part, operations.BATCH_NORMS):
        _, entries, *_ = _shape(way.node)
        if entries == layer.units:
            norm = Norm.of(str(user.target), part)
            norms = (*way.norms, norm)
            return _Way(user, norms, shifts=True)
    is_unitwise = operations.is_unitwise(user, part)
    if is_unitwise or operations.is_unpadded_average(part):
        shifts = operations.shifts(user, part)
        return way.to(user, shifts)
    if operations.reshapes(user, part):
        # Units stay whole and in order only if everything behind the batch is flattened together.
        batch, *behind = _shape(user)
        if batch == 2 and len(behind) == 1:
            return way.to(user)
    reader = told(user, part)
    return f"they are read by {reader}"


def told(node: fx.Node, part: Any) -> str:
    """An operation and where it is, for people."""
    if node.op == "call_module":
        kind = type(part).__name__
        if isinstance(part, Unknown):
            kind = part.told
        return f"{kind} ({node.target})"
    name = node.target
    if not isinstance(name, str):
        name = getattr(name, "__name__", str(name))
    for user in closure([node], users_of):
        if user.op == "call_module":
            return f"{name} before {user.target}"
    return name


def _shape(node: fx.Node) -> Shape:
    return node.meta.get(SHAPE, ())
