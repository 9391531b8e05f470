"""The flow of a forward pass: which operation reads which, what each costs, and what is left of
them when parts are gone.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from .flops import Counter

Names = Collection[str]
Numbers = tuple[tuple[str, int], ...]
"""(name, number)."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation of a forward pass.

    inputs: places of the steps that it reads, in the flow.  module: the part that it calls; empty
    if it calls none.
    block: the residual block that it adds to its shortcut, and the place of what that block gives;
    None if it adds none.
    flops: (layer, FLOPs of one example) as `flops.count` attributes them; the layer is empty where
    there is none.
    params: (name, entries) of the parameters that it reads.
    """

    inputs: tuple[int, ...]
    module: str = ""
    block: tuple[str, int] | None = None
    flops: Numbers = ()
    params: Numbers = ()


@dataclasses.dataclass(frozen=True)
class Left:
    """What is left of a flow: the modules that are called or read, and FLOPs and parameters of all
    that is not named apart.
    """

    modules: frozenset[str]
    flops: int
    params: int


@functools.lru_cache(1024)
def left(
    steps: tuple[Step, ...],
    empty: frozenset[str],
    gone: frozenset[str],
    apart: frozenset[str],
    entries: frozenset[str],
) -> Left:
    """What still reaches the output, which the last of `steps` is.

    empty: modules that read nothing any more.  gone: blocks that are not added.  apart: modules
    whose FLOPs, and entries: parameters whose number, are not to be counted here.
    """
    flops = 0
    params: dict[str, int] = {}
    modules: set[str] = set()
    for place in _reached(steps, empty, gone):
        step = steps[place]
        modules.add(step.module)
        for layer, spent in step.flops:
            if layer not in apart:
                flops += spent
        for name, number in step.params:
            holder, _, _ = name.rpartition(".")
            modules.add(holder)
            params[name] = number
    others = params.keys() - entries
    counted = sum(params[name] for name in others)
    return Left(frozenset(modules), flops, counted)


def _reached(steps: Sequence[Step], empty: Names, gone: Names) -> set[int]:
    """The places of all steps that the output depends on."""
    reached: set[int] = set()
    pending = [len(steps) - 1]
    while pending:
        place = pending.pop()
        if place not in reached:
            reached.add(place)
            pending += _sources(steps[place], empty, gone)
    return reached


def _sources(step: Step, empty: Names, gone: Names) -> Sequence[int]:
    """The places that a step still reads."""
    if step.module in empty:
        return ()
    if step.block is None:
        return step.inputs
    block, branch = step.block
    if block not in gone:
        return step.inputs
    return [place for place in step.inputs if place != branch]


def steps(
    graph: fx.GraphModule, example: Tensor, blocks: Mapping[fx.Node, tuple[str, fx.Node]]
) -> tuple[Step, ...]:
    """The flow of a traced model.  example: one input (1, ...).  blocks: node -> the block it adds,
    and what that gives.
    """
    costs = _Costs(graph)
    with costs.counter.watching(graph), costs.counter:
        costs.run(example)
    places = {node: place for place, node in enumerate(graph.graph.nodes)}
    names = {id(parameter): name for name, parameter in graph.named_parameters()}
    flow: list[Step] = []
    for node in places:
        sources = [places[source] for source in node.all_input_nodes]
        module = ""
        if node.op == "call_module":
            module = str(node.target)
        block = None
        if node in blocks:
            added, branch = blocks[node]
            block = (added, places[branch])
        params: list[tuple[str, int]] = []
        for parameter in _read(graph, node):
            name = names[id(parameter)]
            entries = parameter.numel()
            params.append((name, entries))
        step = Step(
            inputs=tuple(sources),
            module=module,
            block=block,
            flops=costs.spent.get(node, ()),
            params=tuple(params),
        )
        flow.append(step)
    return tuple(flow)


def _read(graph: fx.GraphModule, node: fx.Node) -> Iterable[nn.Parameter]:
    """The parameters that a node reads itself."""
    if node.op not in ("call_module", "get_attr"):
        return ()
    path = str(node.target)
    if node.op == "call_module":
        module = graph.get_submodule(path)
        return module.parameters()
    attribute = operator.attrgetter(path)
    value = attribute(graph)
    if isinstance(value, nn.Parameter):
        return (value,)
    return ()


class _Costs(fx.Interpreter):
    """Runs a graph and keeps the FLOPs of each node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.counter = Counter()
        self.spent: dict[fx.Node, Numbers] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.counter.spent.clear()
        result = super().run_node(n)
        self.spent[n] = tuple(self.counter.spent.items())
        return result


def functional(graph: fx.GraphModule) -> None:
    """Let what reads a value after an operation has overwritten it read what that operation gives:
    they are one tensor.

    What the graph says is then what the code does, and parts can be taken out of it. Views of what
    is overwritten are not seen.
    """
    parts = dict(graph.named_modules())
    passed: set[fx.Node] = set()

    def is_later(user: fx.Node) -> bool:
        return user not in passed

    for node in graph.graph.nodes:
        passed.add(node)
        if node.all_input_nodes and overwrites(node, parts):
            node.all_input_nodes[0].replace_all_uses_with(node, delete_user_cb=is_later)


def overwrites(node: fx.Node, parts: Mapping[str, nn.Module]) -> bool:
    """Whether an operation overwrites its first input."""
    if node.op == "call_module":
        part = parts[str(node.target)]
        return bool(getattr(part, "inplace", False))
    if node.op == "call_method":
        return _marked(str(node.target))
    if node.op != "call_function":
        return False
    if _marked(getattr(node.target, "__name__", "")):
        return True
    return bool(_arguments(node).get("inplace", False))


def _arguments(node: fx.Node) -> Mapping[str, Any]:
    """The arguments of a function that a node calls, by name, as far as they are known."""
    function: Any = node.target
    try:
        signature = inspect.signature(function)
        given = signature.bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # some that are written in C do not say
        return node.kwargs
    return given.arguments


def _marked(name: str) -> bool:
    """Whether a name ends as those of torch's operations in place do."""
    return name.endswith("_") and not name.endswith("__")
