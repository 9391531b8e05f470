"""Nodes of a traced model: which are reached, what they call, and what their code reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import fx

Nodes = dict[fx.Node, None]
"""A set of nodes in order."""
Following = Callable[[fx.Node], Iterable[fx.Node]]


def closure(start: Iterable[fx.Node], following: Following) -> Nodes:
    """Nodes that are reached from `start`, in the order of the graph."""
    seen: set[fx.Node] = set()
    pending = list(start)
    while pending:
        node = pending.pop()
        if node not in seen:
            seen.add(node)
            pending += following(node)
    if not seen:
        return {}
    graph = next(iter(seen)).graph
    reached = [node for node in graph.nodes if node in seen]
    return dict.fromkeys(reached)


def inputs_of(node: fx.Node) -> Iterable[fx.Node]:
    """The nodes that a node reads."""
    return node.all_input_nodes


def users_of(node: fx.Node) -> Iterable[fx.Node]:
    """The nodes that read a node."""
    return node.users


def calling(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that call a module."""
    return [node for node in graph.nodes if node.op == "call_module"]


def calls(graph: fx.Graph) -> Counter[Any]:
    """How often each module is called, by name."""
    return Counter(node.target for node in calling(graph))


def read_outside(graph: fx.Graph) -> set[str]:
    """The modules whose parameters are read by the code that calls them."""
    holders: set[str] = set()
    for node in graph.nodes:
        if node.op == "get_attr":
            holder, _, _ = str(node.target).rpartition(".")
            holders.add(holder)
    return holders


def module_of(node: fx.Node, modules: Mapping[str, Any]) -> Any:
    """The module that a node calls; None if it calls none."""
    if node.op != "call_module":
        return None
    return modules.get(str(node.target))


def output_of(graph: fx.Graph) -> fx.Node:
    """The node that is the output."""
    return next(node for node in graph.nodes if node.op == "output")
