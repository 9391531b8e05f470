"""The graph of a model taken apart: blocks left out, layers replaced, or all of it cut in two."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NoReturn

from torch import Tensor, fx, nn

from ...analysis.rows.mistake import Mistake
from ..models import raised
from ..training.stack import tensors
from . import operations
from .branches import Branch, branches
from .nodes import calling, closure, module_of, output_of, users_of
from .trace import is_constant, known, traced
from .units import Layer, Structure


def without(module: nn.Module, structure: Structure, gone: Iterable[str]) -> nn.Module:
    """`module` with its blocks `gone` left out: what they were added to stays. It shares all other
    parts with `module`.
    """
    gone = set(gone)
    if not gone:
        return module
    graph = traced(module)
    for branch in _branches_of(graph, structure):
        if branch.block.name not in gone:
            continue
        total = branch.total
        sides = total.all_input_nodes
        shortcut = next(node for node in sides if node is not branch.end)
        total.replace_all_uses_with(shortcut)
        graph.graph.erase_node(total)
    return _swept(graph)


def _branches_of(graph: fx.GraphModule, structure: Structure) -> list[Branch]:
    """Branches of a traced model whose structure is known, by the names there."""
    names = {block.name for block in structure.blocks}
    of_structure: list[Branch] = []
    modules = known(graph)
    for branch in branches(graph.graph, structure.by_name, modules):
        if branch.block.name in names:
            of_structure.append(branch)
    return of_structure


def replaced(module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """`module` with others in place of its layers `parts`, which read the model's inputs; what only
    fed them is left out.

    It shares all other parts with `module`.
    """
    if not parts:
        return module
    graph = traced(module)
    entry = next(node for node in graph.graph.nodes if node.op == "placeholder")
    for node in calling(graph.graph):
        if node.target in parts:
            node.args = (entry,)
            node.kwargs = {}
    for name, part in parts.items():
        graph.set_submodule(name, part)
    return _swept(graph)


def _swept(graph: fx.GraphModule) -> fx.GraphModule:
    """`graph` without the operations that do not reach its output, and without what only those
    read.
    """
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    called = [f"{node.target}." for node in calling(graph.graph)]
    in_called = tuple(called)
    read = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name in tensors(graph):
        if name in read or name.startswith(in_called):
            continue
        place, _, own = name.rpartition(".")
        holder = graph.get_submodule(place)
        delattr(holder, own)
    graph.recompile()
    return graph


def head(module: nn.Module, structure: Structure) -> tuple[Layer, Layer] | None:
    """The last two layers of a model that ends in linear, ReLU, linear, and nothing else reads
    these; None of others.
    """
    try:
        graph = traced(module)
    except Exception:  # anybody's code
        return None
    modules = known(graph)
    node = output_of(graph.graph)
    names: list[str] = []
    for kind in (nn.Linear, nn.ReLU, nn.Linear):
        if len(node.all_input_nodes) != 1:
            return None
        node = node.all_input_nodes[0]
        part = module_of(node, modules)
        if len(node.users) != 1:
            return None
        called = kind is nn.ReLU and operations.is_relu(node)
        if not called and not isinstance(part, kind):
            return None
        names.append(str(node.target))
    last, _, first = names
    return _linked(structure, first, last)


def _linked(structure: Structure, first: str, last: str) -> tuple[Layer, Layer] | None:
    """Two layers by name, if each unit of the first feeds one column of the last."""
    layers = structure.by_name
    for link in structure.links:
        if link.producer != first or link.consumer != last:
            continue
        if link.repeat == 1:
            return layers[first], layers[last]
    return None


def before(module: nn.Module, layer: str) -> nn.Module:
    """What `module`, in the mode that it is in, gives to its layer `layer`. It shares its parts
    with `module`.
    """
    graph = traced(module)
    reader = next(node for node in calling(graph.graph) if node.target == layer)
    given = reader.all_input_nodes[0]
    output = output_of(graph.graph)
    output.args = (given,)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def code(module: nn.Module) -> tuple[str, dict[str, str]]:
    """The forward pass of a model as Python code, and what each part that it calls says of itself,
    by name.

    Raises Mistake if it cannot be traced.
    """
    try:
        graph = traced(module)
    except Exception as error:  # anybody's code
        _refuse("a model that is written down", error)
    parts: dict[str, str] = {}
    for node in calling(graph.graph):
        name = str(node.target)
        part = module.get_submodule(name)
        parts[name] = repr(part)
    return graph.code.strip(), parts


def _refuse(model: str, error: Exception) -> NoReturn:
    """Raise Mistake for a model that cannot be traced."""
    rule = f"{model} can be traced by torch.fx"
    raise Mistake(f"{rule}; it raised {raised(error)}") from error


def divisible(module: nn.Module) -> fx.Graph:
    """The graph of a model that `halves` can cut.

    Raises Mistake if it cannot be traced, if it draws from torch's generator, since two settings
    could then not be compared, or if its code asks whether it is in training.
    """
    model = "a model that is to be cut"
    try:
        graph = traced(module).graph
    except Exception as error:  # anybody's code
        _refuse(model, error)
    if any(map(operations.is_random, graph.nodes)):
        rule = f"dropout is a module (nn.Dropout) in {model}"
        raise Mistake(f"{rule}; got a call of a function that draws")
    if not is_constant(module):
        rule = f"{model} leaves it to its modules what differs in training"
        raise Mistake(f"{rule}; got code that asks for it")
    return graph


# ---- halves


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """An input that is scaled before a node reads it. factor: "gates" or "switch".  repeat: entries
    for each unit.
    """

    value: fx.Node
    factor: str
    repeat: int


def halves(
    module: nn.Module,
    graph: fx.Graph,
    structure: Structure,
    layer: str | None,
    block: str | None,
) -> tuple[nn.Module, nn.Module]:
    """`module`, whose graph is `divisible`, cut in two, for trying settings of a layer's units and
    of a block on one batch.

    before: inputs -> a tuple of values.  after: (*values, gates, switch) -> outputs, where gates
    (units,) scales what the hidden layer `layer` gives to its readers, and switch () what `block`
    adds to its shortcut. Both share the module's parts.
    """
    whole = fx.GraphModule(module, graph)
    scaled = _scaled(whole, graph, structure, layer, block)
    later = closure(scaled, users_of)
    earlier: list[fx.Node] = []
    crossing: list[fx.Node] = []
    for node in graph.nodes:
        if node in later or node.op == "output":
            continue
        earlier.append(node)
        if any(user in later for user in node.users):
            crossing.append(node)
    first = _first_half(earlier, crossing)
    second = _second_half(later, crossing, scaled)
    return fx.GraphModule(module, first), fx.GraphModule(module, second)


def _scaled(
    traced_module: fx.GraphModule,
    graph: fx.Graph,
    structure: Structure,
    layer: str | None,
    block: str | None,
) -> dict[fx.Node, _Scaled]:
    """The nodes that read what is tried."""
    repeats: dict[str, int] = {}
    for link in structure.links:
        if link.producer == layer:
            repeats[link.consumer] = link.repeat
    scaled: dict[fx.Node, _Scaled] = {}
    for node in calling(graph):
        repeat = repeats.get(str(node.target))
        if repeat is None:
            continue
        source = node.all_input_nodes[0]
        scaled[node] = _Scaled(source, "gates", repeat)
    for branch in _branches_of(traced_module, structure):
        if branch.block.name == block:
            scaled[branch.total] = _Scaled(branch.end, "switch", 1)
    return scaled


def _first_half(
    nodes: Iterable[fx.Node],
    crossing: Iterable[fx.Node],
) -> fx.Graph:
    """A graph of `nodes` that gives the values of those that are `crossing`."""
    half = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        copies[node] = half.node_copy(node, copies.__getitem__)
    values = [copies[node] for node in crossing]
    half.output(tuple(values))
    return half


def _second_half(
    nodes: Iterable[fx.Node],
    crossing: Iterable[fx.Node],
    scaled: Mapping[fx.Node, _Scaled],
) -> fx.Graph:
    """A graph of `nodes` from the values of those that are `crossing`, gates and switch."""
    half = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in crossing:
        copies[node] = half.placeholder(node.name)
    factors: dict[str, fx.Node] = {}
    for name in ("gates", "switch"):
        factors[name] = half.placeholder(name)
    for node in nodes:
        inputs = dict(copies)
        if node in scaled:
            source = scaled[node]
            value = copies[source.value]
            factor = factors[source.factor]
            given = (value, factor, source.repeat)
            inputs[source.value] = half.call_function(_scale, given)
        copies[node] = half.node_copy(node, inputs.__getitem__)
    return half


def _scale(values: Tensor, factors: Tensor, repeat: int) -> Tensor:
    """Values (batch, units * repeat, ...) times a factor for each unit (units,), or for all ()."""
    if factors.ndim:
        behind = (1,) * (values.ndim - 2)
        factors = factors.repeat_interleave(repeat)
        factors = factors.view(-1, *behind)
    return values * factors
