"""The flow of a forward pass: which operation reads which, what each costs, and what is left of
them when parts are gone.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from .flops import Counter


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
    flops: tuple[tuple[str, int], ...] = ()
    params: tuple[tuple[str, int], ...] = ()


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
    reached: set[int] = set()
    pending = [len(steps) - 1]
    while pending:
        place = pending.pop()
        if place in reached:
            continue
        reached.add(place)
        step = steps[place]
        if step.module in empty:
            continue
        skipped = step.block[1] if step.block and step.block[0] in gone else None
        pending += [source for source in step.inputs if source != skipped]
    flops, params = 0, dict[str, int]()
    modules: set[str] = set()
    for place in reached:
        step = steps[place]
        flops += sum(number for layer, number in step.flops if layer not in apart)
        params.update(step.params)
        modules |= {step.module, *(name.rpartition(".")[0] for name, _ in step.params)}
    counted = sum(number for name, number in params.items() if name not in entries)
    return Left(frozenset(modules), flops, counted)


def steps(
    graph: fx.GraphModule, example: Tensor, blocks: Mapping[fx.Node, tuple[str, fx.Node]]
) -> tuple[Step, ...]:
    """The flow of a traced model.  example: one input (1, ...).  blocks: node -> the block it adds,
    and what that gives.
    """
    costs = _Costs(graph)
    with costs.counter.watching(graph), costs.counter:
        costs.run(example)
    nodes = list(graph.graph.nodes)
    places = {node: place for place, node in enumerate(nodes)}
    first = {id(parameter): name for name, parameter in graph.named_parameters()}
    found = []
    for node in nodes:
        block = blocks.get(node)
        found.append(
            Step(
                inputs=tuple(places[source] for source in node.all_input_nodes),
                module=str(node.target) if node.op == "call_module" else "",
                block=None if block is None else (block[0], places[block[1]]),
                flops=costs.spent.get(node, ()),
                params=tuple(
                    (first[id(parameter)], parameter.numel()) for parameter in _read(graph, node)
                ),
            )
        )
    return tuple(found)


def _read(graph: fx.GraphModule, node: fx.Node) -> Iterable[nn.Parameter]:
    """The parameters that a node reads itself."""
    if node.op == "call_module":
        return graph.get_submodule(str(node.target)).parameters()
    if node.op != "get_attr":
        return ()
    value = operator.attrgetter(str(node.target))(graph)
    return (value,) if isinstance(value, nn.Parameter) else ()


class _Costs(fx.Interpreter):
    """Runs a graph and keeps the FLOPs of each node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.counter = Counter()
        self.spent: dict[fx.Node, tuple[tuple[str, int], ...]] = {}

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
    for node in graph.graph.nodes:
        passed.add(node)
        if node.all_input_nodes and overwrites(node, parts):
            later = functools.partial(_later, passed=frozenset(passed))
            node.all_input_nodes[0].replace_all_uses_with(node, delete_user_cb=later)


def _later(user: fx.Node, passed: frozenset[fx.Node]) -> bool:
    return user not in passed


def overwrites(node: fx.Node, parts: Mapping[str, nn.Module]) -> bool:
    """Whether an operation overwrites its first input."""
    if node.op == "call_module":
        return bool(getattr(parts[str(node.target)], "inplace", False))
    if node.op == "call_method":
        return _marked(str(node.target))
    if node.op != "call_function":
        return False
    if _marked(getattr(node.target, "__name__", "")):
        return True
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # some that are written in C do not say
        return bool(node.kwargs.get("inplace", False))
    return bool(given.arguments.get("inplace", False))


def _marked(name: str) -> bool:
    """Whether a name ends as those of torch's operations in place do."""
    return name.endswith("_") and not name.endswith("__")
