"""Tracing: links and blocks of a model found in its code, and its graph taken apart: blocks left
out, or cut at a site.

The graph is found by symbolic tracing (torch.fx), not from names. Where the tracer cannot follow, a
unit is taken to influence the output: counts can then be too large, never too small.

Torch-Pruning's dependency graph was tried as the finder of units and agrees with this one (a test
holds them equal). It knows neither branches and shortcuts nor which constants fold into a bias, and
removes units from modules in place, where stacks with their momentum are needed; all of that wants
a graph of our own, from which the links then come for nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ...analysis.rows.mistake import Mistake
from ..measure.flow import functional, steps
from ..models import raised
from ..training.stack import CounterDropout
from .units import Block, Layer, Link, Norm, Structure

_Conv = nn.modules.conv._ConvNd
_Nodes = dict[fx.Node, None]
"""A set of nodes in order."""


def find(module: nn.Module, input_shape: tuple[int, ...]) -> Structure:
    """What `module` seems to be made of, by the types of its operations, for inputs of
    `input_shape` (without batch).

    Hints, of which `trial.find` believes what it has tried. A model may give its own, by a method
    `structure()`.
    """
    layers, obstacles = _layers(module)
    by_name = {layer.name: layer for layer in layers}
    try:
        graph = _traced(module)
        with evaluating(graph):
            ShapeProp(graph).propagate(_zeros(module, 2, input_shape))
    except Exception as error:
        # Tracing runs the user's code on symbols, which may fail in any way; without a graph every
        # unit counts as live.
        why = f"torch.fx cannot follow the model's code: {raised(error)}"
        own = _declared(module) or Structure(layers, (), obstacles=(*obstacles, ("", why)))
        return dataclasses.replace(own, flow=())
    called = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    outside = _read_outside(graph.graph)
    whole: dict[str, str] = {}
    for name, layer in by_name.items():
        if name in outside:
            whole[name] = "the code reads its parameters itself"
        elif called[name] != 1:
            whole[name] = f"it is called {called[name]} times"
        elif layer.grouped:
            whole[name] = "its channels are in groups"
    once = {name: layer for name, layer in by_name.items() if name not in whole}
    obstacles += whole.items()
    modules = _known(module)
    links: list[Link] = []
    for node in graph.graph.nodes:
        if node.op != "call_module" or node.target not in once:
            continue
        followed = _follow(node, once[str(node.target)], once, modules)
        if isinstance(followed, str):
            obstacles.append((str(node.target), followed))
        else:
            links += followed
    blocks = _blocks(graph.graph, once, modules, called) if _constant(module) else []
    own = _declared(module) or Structure(
        layers, tuple(links), tuple(block for block, _, _ in blocks), tuple(obstacles)
    )
    known = {block.name for block in own.blocks}
    added = {total: (block.name, branch) for block, total, branch in blocks if block.name in known}
    with evaluating(graph):
        return dataclasses.replace(own, flow=steps(graph, _zeros(module, 1, input_shape), added))


def _declared(module: nn.Module) -> Structure | None:
    """What a model says of itself, if it does."""
    declared = getattr(module, "structure", None)
    found = declared() if callable(declared) else None
    return found if isinstance(found, Structure) else None


def _read_outside(graph: fx.Graph) -> set[str]:
    """The modules whose parameters are read by the code that calls them."""
    return {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}


def _layers(module: nn.Module) -> tuple[tuple[Layer, ...], list[tuple[str, str]]]:
    """The linear and convolution layers whose parameters are theirs alone, and why others are none
    of ours.
    """
    layers, obstacles = list[Layer](), list[tuple[str, str]]()
    uses = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    for name, part in module.named_modules():
        if not isinstance(part, nn.Linear | _Conv) or (isinstance(part, _Conv) and part.transposed):
            continue
        own = dict(part.named_parameters())
        if "weight" not in own or not own.keys() <= {"weight", "bias"}:
            obstacles.append((name, f"its weight is computed from {', '.join(own) or 'buffers'}"))
        elif any(uses[id(p)] > 1 for p in own.values()):
            obstacles.append((name, "it shares parameters with another layer"))
        elif not all(p.requires_grad for p in own.values()):
            obstacles.append((name, "it is frozen"))
        elif hooked(part):
            obstacles.append((name, "a hook of its own may change what it takes or gives"))
        else:
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
    return tuple(layers), obstacles


def hooked(part: nn.Module) -> bool:
    """Whether calling a module does more than its type says: it has a hook, or a `forward` of its
    own.
    """
    return bool(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


class _Unknown(nn.Module):
    """Stands for a module of which nothing is known by its type."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.told = f"{type(part).__name__} with a hook"


def _known(module: nn.Module) -> dict[str, nn.Module]:
    """The parts of a model by name, without those whose type does not say all that they do."""
    return {name: _Unknown(part) if hooked(part) else part for name, part in module.named_modules()}


def _zeros(module: nn.Module, examples: int, input_shape: tuple[int, ...]) -> Tensor:
    """Inputs of no meaning, of the type and on the device of the model's parameters."""
    parameter = next(module.parameters(), torch.empty(0))
    return torch.zeros(examples, *input_shape, device=parameter.device, dtype=parameter.dtype)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients; then each part is in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        for part, training in modes.items():
            part.training = training


def without(module: nn.Module, structure: Structure, gone: Iterable[str]) -> nn.Module:
    """`module` with its blocks `gone` left out: what they were added to stays. It shares all other
    parts with `module`.
    """
    gone = set(gone)
    if not gone:
        return module
    graph = _traced(module)
    for block, total, branch in _blocks_of(graph, structure):
        if block.name in gone:
            total.replace_all_uses_with(
                next(node for node in total.all_input_nodes if node is not branch)
            )
            graph.graph.erase_node(total)
    return _swept(graph)


def replaced(module: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """`module` with others in place of its layers `parts`, which read the model's inputs; what only
    fed them is left out.

    It shares all other parts with `module`.
    """
    if not parts:
        return module
    graph = _traced(module)
    entry = next(node for node in graph.graph.nodes if node.op == "placeholder")
    for node in graph.graph.nodes:
        if node.op == "call_module" and node.target in parts:
            node.args, node.kwargs = (entry,), {}
    for name, part in parts.items():
        graph.set_submodule(name, part)
    return _swept(graph)


def _swept(graph: fx.GraphModule) -> fx.GraphModule:
    """`graph` without the operations that do not reach its output, and without what only those
    read.
    """
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    called = tuple(f"{node.target}." for node in graph.graph.nodes if node.op == "call_module")
    read = {node.target for node in graph.graph.nodes if node.op == "get_attr"}
    for name, _ in [*graph.named_parameters(), *graph.named_buffers()]:
        if name not in read and not name.startswith(called):
            holder, _, own = name.rpartition(".")
            delattr(graph.get_submodule(holder), own)
    graph.recompile()
    return graph


def head(module: nn.Module, structure: Structure) -> tuple[Layer, Layer] | None:
    """The last two layers of a model that ends in linear, ReLU, linear, and nothing else reads
    these; None of others.
    """
    try:
        graph = _traced(module)
    except Exception:  # anybody's code
        return None
    modules, layers = _known(graph), {layer.name: layer for layer in structure.layers}
    node, found = next(node for node in graph.graph.nodes if node.op == "output"), []
    for kind in (nn.Linear, nn.ReLU, nn.Linear):
        if len(node.all_input_nodes) != 1 or len((node := node.all_input_nodes[0]).users) != 1:
            return None
        part = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(part, kind) and not (
            kind is nn.ReLU and node.target in (F.relu, torch.relu, "relu")
        ):
            return None
        found.append(str(node.target))
    last, _, first = found
    linked = any(
        (link.producer, link.consumer, link.repeat) == (first, last, 1) for link in structure.links
    )
    return (layers[first], layers[last]) if linked else None


def before(module: nn.Module, layer: str) -> nn.Module:
    """What `module`, in the mode that it is in, gives to its layer `layer`. It shares its parts
    with `module`.
    """
    graph = _traced(module)
    reader = next(
        node for node in graph.graph.nodes if node.op == "call_module" and node.target == layer
    )
    next(node for node in graph.graph.nodes if node.op == "output").args = (
        reader.all_input_nodes[0],
    )
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
        graph = _traced(module)
    except Exception as error:  # anybody's code
        raise Mistake(
            f"a model that is written down can be traced by torch.fx; it raised {raised(error)}"
        ) from error
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    return graph.code.strip(), {
        name: repr(module.get_submodule(name)) for name in dict.fromkeys(called)
    }


def divisible(module: nn.Module) -> fx.Graph:
    """The graph of a model that `halves` can cut.

    Raises Mistake if it cannot be traced, if it draws from torch's generator, since two settings
    could then not be compared, or if its code asks whether it is in training.
    """
    try:
        graph = _traced(module).graph
    except Exception as error:  # anybody's code
        raise Mistake(
            f"a model that is to be cut can be traced by torch.fx; it raised {raised(error)}"
        ) from error
    if any(node.target in _RANDOM for node in graph.nodes):
        raise Mistake(
            "dropout is a module (nn.Dropout) in a model that is to be cut; got a call of a function that draws"
        )
    if not _constant(module):
        raise Mistake(
            "a model that is to be cut leaves it to its modules what differs in training; got code that asks for it"
        )
    return graph


def halves(
    module: nn.Module, graph: fx.Graph, structure: Structure, layer: str | None, block: str | None
) -> tuple[nn.Module, nn.Module]:
    """`module`, whose graph is `divisible`, cut in two, for trying settings of a layer's units and
    of a block on one batch.

    before: inputs -> a tuple of values.  after: (*values, gates, switch) -> outputs, where gates
    (units,) scales what the hidden layer `layer` gives to its readers, and switch () what `block`
    adds to its shortcut. Both share the module's parts.
    """
    scaled: dict[
        fx.Node, tuple[fx.Node, str, int]
    ] = {}  # node -> the input that is scaled, by what, entries for each unit
    readers = {link.consumer: link.repeat for link in structure.links if link.producer == layer}
    for node in graph.nodes:
        if node.op == "call_module" and node.target in readers:
            scaled[node] = (node.all_input_nodes[0], "gates", readers[str(node.target)])
    for found, total, branch in _blocks_of(fx.GraphModule(module, graph), structure):
        if found.name == block:
            scaled[total] = (branch, "switch", 1)
    later = _closure(scaled, lambda node: node.users)
    earlier = [node for node in graph.nodes if node not in later and node.op != "output"]
    crossing = [node for node in earlier if any(user in later for user in node.users)]
    before, after = fx.Graph(), fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in earlier:
        copied[node] = before.node_copy(node, lambda n: copied[n])
    before.output(tuple(copied[node] for node in crossing))
    given = {node: after.placeholder(node.name) for node in crossing}
    factors = {name: after.placeholder(name) for name in ("gates", "switch")}
    for node in later:
        local = dict(given)
        if node in scaled:
            what, factor, repeat = scaled[node]
            local[what] = after.call_function(_scale, (given[what], factors[factor], repeat))
        given[node] = after.node_copy(node, lambda n, local=local: local[n])
    return fx.GraphModule(module, before), fx.GraphModule(module, after)


def _scale(values: Tensor, factors: Tensor, repeat: int) -> Tensor:
    """Values (batch, units * repeat, ...) times a factor for each unit (units,), or for all ()."""
    if factors.ndim:
        factors = factors.repeat_interleave(repeat).view(-1, *(1,) * (values.ndim - 2))
    return values * factors


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, CounterDropout) or super().is_leaf_module(m, module_qualified_name)


def _traced(module: nn.Module) -> fx.GraphModule:
    graph = fx.GraphModule(module, _Tracer().trace(module))
    functional(graph)
    graph.recompile()
    return graph


def _constant(module: nn.Module) -> bool:
    """Whether the model's own code does the same in training as in evaluation: its graph then is
    the model in both.
    """
    modes = {part: part.training for part in module.modules()}
    try:
        return len({_traced(module.train(mode)).code for mode in (True, False)}) == 1
    except Exception:  # code that can be followed in one mode alone
        return False
    finally:
        for part, training in modes.items():
            part.training = training


def _norm(name: str, part: nn.Module) -> Norm:
    parameters = tuple(f"{name}.{each}" for each, _ in part.named_parameters())
    statistics = tuple(f"{name}.{each}" for each, tensor in part.named_buffers() if tensor.ndim)
    frozen = not all(parameter.requires_grad for parameter in part.parameters())
    return Norm(name, int(part.num_features), parameters, statistics, frozen)  # type: ignore[arg-type]


def _blocks_of(graph: fx.GraphModule, structure: Structure) -> list[tuple[Block, fx.Node, fx.Node]]:
    """Blocks of a traced model whose structure is known, by the names there."""
    layers = {layer.name: layer for layer in structure.layers}
    called = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    known = {block.name for block in structure.blocks}
    found = _blocks(graph.graph, layers, _known(graph), called)
    return [(block, total, branch) for block, total, branch in found if block.name in known]


def _blocks(
    graph: fx.Graph,
    layers: Mapping[str, Layer],
    modules: Mapping[str, Any],
    called: Mapping[Any, int],
) -> list[tuple[Block, fx.Node, fx.Node]]:
    """Every block, with the node that adds it to its shortcut and the node of what it gives."""
    outside = _read_outside(graph)
    layers = {
        n: layer
        for n, layer in layers.items()
        if called[n] == 1 and n not in outside and not layer.grouped
    }
    found: list[tuple[Block, fx.Node, fx.Node]] = []
    for total in graph.nodes:
        if (
            total.target not in _SUMS
            or len(total.all_input_nodes) != 2
            or len(total.args) != 2
            or total.kwargs
        ):
            continue
        sides = [
            _closure([node], lambda node: node.all_input_nodes) for node in total.all_input_nodes
        ]
        own = [
            [node for node in graph.nodes if node in mine and node not in other]
            for mine, other in (sides, sides[::-1])
        ]
        inside = [[str(node.target) for node in nodes if node.op == "call_module"] for nodes in own]
        weighty = [sum(name in layers for name in names) for names in inside]
        if weighty[0] == weighty[1]:
            continue  # neither side is the shortcut of the other
        side = int(weighty[1] > weighty[0])
        branch, nodes, names = total.all_input_nodes[side], own[side], inside[side]
        last, parts = (
            _last_affine(branch, modules),
            {node: modules.get(str(node.target)) for node in nodes},
        )
        known = all(_block_part(node, parts[node], layers, called) for node in nodes)
        alone = all(user in parts or user is total for node in nodes for user in node.users)
        if last is None or last not in parts or not known or not alone:
            continue
        norms = tuple(
            _norm(name, modules[name]) for name in names if isinstance(modules[name], _NORMS)
        )
        scale = tuple(
            f"{last.target}.{name}" for name, _ in modules[str(last.target)].named_parameters()
        )
        held = tuple(name for name in names if name in layers)
        found.append((Block(str(last.target), held, norms, scale), total, branch))
    return found


def _block_part(
    node: fx.Node, part: Any, layers: Mapping[str, Layer], called: Mapping[Any, int]
) -> bool:
    """Whether a node of a branch seems not to hinder the branch's removal."""
    if node.op == "call_module":
        if isinstance(part, (*_UNITWISE, *_AVERAGES, nn.Flatten)):
            return True  # without parameters it may be called anywhere else too
        return called[node.target] == 1 and (node.target in layers or isinstance(part, _NORMS))
    return node.op in ("call_function", "call_method") and node.target in (
        *_FUNCTIONS,
        *_METHODS,
        *_SHAPES,
    )


def _last_affine(node: fx.Node, modules: Mapping[str, Any]) -> fx.Node | None:
    """The layer that ends a branch: with its parameters at zero, all that follows it in the branch
    is zero.

    None if there is none, or if it is frozen, and so never at zero.
    """
    while True:
        part = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(part, nn.Linear | _Conv) or (isinstance(part, _NORMS) and part.affine):
            frozen = not all(parameter.requires_grad for parameter in part.parameters())
            return None if frozen else node
        zero = isinstance(part, _UNITWISE) or node.target in (*_FUNCTIONS, *_METHODS)
        if not zero or type(part) in _SHIFTS or node.target in _SHIFTS or not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]


def _closure(start: Iterable[fx.Node], following: Any) -> _Nodes:
    """Nodes that are reached from `start`, in the order of the graph."""
    seen, pending = set[fx.Node](), list(start)
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += following(node)
    return (
        dict.fromkeys(node for node in next(iter(seen)).graph.nodes if node in seen) if seen else {}
    )


_UNITWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus,
    nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, CounterDropout,
)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_FUNCTIONS = {
    F.relu, torch.relu, F.relu_, F.relu6, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.hardtanh, F.hardswish, F.tanh, F.sigmoid, F.softplus, F.hardsigmoid, torch.tanh, torch.sigmoid, F.dropout,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
}  # fmt: skip
_METHODS = {"relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_", "contiguous"}
_SHIFTS = (
    nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, torch.sigmoid, F.sigmoid, F.softplus, F.hardsigmoid, "sigmoid", "sigmoid_",
)  # fmt: skip
"""Of the above, those that make something of nothing."""
_SHAPES = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_RANDOM = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, F.rrelu, torch.bernoulli,
    torch.normal, torch.rand, torch.rand_like, torch.randint, torch.randn, torch.randn_like,
    "bernoulli", "bernoulli_", "normal_", "uniform_",
}  # fmt: skip


def _follow(
    start: fx.Node, layer: Layer, layers: Mapping[str, Layer], modules: Mapping[str, Any]
) -> list[Link] | str:
    """Links from the units of `layer` to all of `layers` that read them; what else reads them, if
    something does.
    """
    if _shape(start)[1:2] != (layer.units,) or (layer.kind == "fc") != (len(_shape(start)) == 2):
        return f"its units lie along another dimension than the second of {_shape(start)}"
    links: list[Link] = []
    pending: list[tuple[fx.Node, tuple[Norm, ...], bool]] = [(start, (), False)]
    while pending:
        node, norms, shifts = pending.pop()
        for user in node.users:
            part = modules.get(str(user.target)) if user.op == "call_module" else None
            if user.op == "call_module" and user.target in layers:
                consumer = layers[str(user.target)]
                if (
                    _shape(node)[1] != consumer.columns
                    or consumer.columns % layer.units
                    or (consumer.kind == "fc") != (len(_shape(node)) == 2)
                ):
                    return f"they are not what {consumer.name} takes for its columns"
                padded = isinstance(part, _Conv) and part.padding not in (
                    "valid",
                    (0,) * len(part.kernel_size),
                )
                repeat = consumer.columns // layer.units
                folds = consumer.bias is not None and not padded
                links.append(Link(layer.name, consumer.name, repeat, norms, shifts, folds))
            elif isinstance(part, _NORMS) and _shape(node)[1] == layer.units:
                pending.append((user, (*norms, _norm(str(user.target), part)), True))
            elif (
                isinstance(part, _UNITWISE)
                or (isinstance(part, _AVERAGES) and part.padding in (0, (0,), (0, 0), (0, 0, 0)))
                or (user.op == "call_function" and user.target in _FUNCTIONS)
                or (user.op == "call_method" and user.target in _METHODS)
            ):
                pending.append(
                    (user, norms, shifts or type(part) in _SHIFTS or user.target in _SHIFTS)
                )
            elif isinstance(part, nn.Flatten) or (
                user.op in ("call_function", "call_method") and user.target in _SHAPES
            ):
                # Units stay whole and in order only if everything behind the batch is flattened
                # together.
                if len(_shape(user)) != 2 or _shape(user)[0] != 2:
                    return f"they are read by {_told(user, part)}"
                pending.append((user, norms, shifts))
            elif user.target in ("size", "dim") or (
                user.target is getattr and user.args[1] in ("shape", "ndim", "dtype")
            ):
                continue  # reads the shape, not the values
            else:
                return [] if user.op == "output" else f"they are read by {_told(user, part)}"
    return links


def _told(node: fx.Node, part: Any) -> str:
    """An operation and where it is, for people."""
    if node.op == "call_module":
        return f"{part.told if isinstance(part, _Unknown) else type(part).__name__} ({node.target})"
    name = (
        node.target
        if isinstance(node.target, str)
        else getattr(node.target, "__name__", str(node.target))
    )
    where = [str(user.target) for user in _closure([node], _users) if user.op == "call_module"]
    return f"{name}{f' before {where[0]}' if where else ''}"


def _users(node: fx.Node) -> Iterable[fx.Node]:
    return node.users


def _shape(node: fx.Node) -> tuple[int, ...]:
    found = node.meta.get("tensor_meta")
    return tuple(getattr(found, "shape", ()))
