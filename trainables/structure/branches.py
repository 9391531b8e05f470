"""Residual branches of a traced model: what is added to a shortcut, and can be left out whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import fx, nn

from ..measure.flops import CONVOLUTIONS
from . import operations
from .nodes import Nodes, calls, closure, inputs_of, module_of, read_outside
from .units import Block, Layer, Norm


@dataclasses.dataclass(frozen=True)
class Branch:
    """A block in a graph. total: the node that adds it to its shortcut.  end: what it gives."""

    block: Block
    total: fx.Node
    end: fx.Node


def branches(
    graph: fx.Graph,
    layers: Mapping[str, Layer],
    modules: Mapping[str, Any],
) -> list[Branch]:
    """Every residual branch of a graph, in its order."""
    search = _Search(graph, layers, modules)
    residual: list[Branch] = []
    for total in graph.nodes:
        if not operations.is_sum_of_two(total):
            continue
        branch = search.branch(total)
        if branch is not None:
            residual.append(branch)
    return residual


class _Search:
    """What a graph calls, for judging the sides of its sums."""

    def __init__(
        self,
        graph: fx.Graph,
        layers: Mapping[str, Layer],
        modules: Mapping[str, Any],
    ) -> None:
        self.graph = graph
        self.modules = modules
        self.called = calls(graph)
        outside = read_outside(graph)
        self.layers: set[str] = set()
        for name, layer in layers.items():
            plain = name not in outside and not layer.grouped
            if plain and self.called[name] == 1:
                self.layers.add(name)

    def branch(self, total: fx.Node) -> Branch | None:
        """The side of a sum that can be left out; None if there is none."""
        end, shortcut = total.all_input_nodes
        to_end = closure([end], inputs_of)
        to_shortcut = closure([shortcut], inputs_of)
        nodes = _without(to_end, to_shortcut)
        others = _without(to_shortcut, to_end)
        weight = self._weight(nodes)
        other_weight = self._weight(others)
        if weight == other_weight:
            return None  # neither side is the shortcut of the other
        if weight < other_weight:
            end = shortcut
            nodes = others
        last = self._last_affine(end)
        if last is None or last not in nodes:
            return None
        if not all(map(self._is_harmless, nodes)):
            return None
        if not _is_read_by(nodes, total):
            return None
        block = self._block(str(last.target), nodes)
        return Branch(block, total, end)

    def _called(self, nodes: Nodes) -> list[str]:
        """Names of the modules that nodes call."""
        return [str(node.target) for node in nodes if node.op == "call_module"]

    def _weight(self, nodes: Nodes) -> int:
        """How many layers there are among nodes."""
        names = self._called(nodes)
        return sum(name in self.layers for name in names)

    def _block(self, last: str, nodes: Nodes) -> Block:
        """The block of a branch. last: its last affine layer."""
        layers: list[str] = []
        norms: list[Norm] = []
        for name in self._called(nodes):
            if name in self.layers:
                layers.append(name)
            elif self._is_norm(name):
                norm = Norm.of(name, self.modules[name])
                norms.append(norm)
        scale: list[str] = []
        for own, _ in self.modules[last].named_parameters():
            scale.append(f"{last}.{own}")
        return Block(last, tuple(layers), tuple(norms), tuple(scale))

    def _is_norm(self, name: str) -> bool:
        return isinstance(self.modules[name], operations.BATCH_NORMS)

    def _is_harmless(self, node: fx.Node) -> bool:
        """Whether a node of a branch seems not to hinder the branch's removal."""
        part = module_of(node, self.modules)
        # Without parameters it may be called anywhere else too.
        if operations.is_unitwise(node, part):
            return True
        if operations.reshapes(node, part):
            return True
        if node.op != "call_module":
            return False
        if operations.is_average(part):
            return True
        name = str(node.target)
        if self.called[name] != 1:
            return False
        return name in self.layers or self._is_norm(name)

    def _last_affine(self, node: fx.Node) -> fx.Node | None:
        """The layer that ends a branch: with its parameters at zero, all that follows it in the
        branch is zero.

        None if there is none, or if it is frozen, and so never at zero.
        """
        while True:
            part = module_of(node, self.modules)
            if _is_affine(part):
                trained = all(parameter.requires_grad for parameter in part.parameters())
                if not trained:
                    return None
                return node
            if not operations.is_unitwise(node, part):
                return None
            if operations.shifts(node, part):
                return None
            if not node.all_input_nodes:
                return None
            node = node.all_input_nodes[0]


def _without(nodes: Nodes, others: Nodes) -> Nodes:
    return dict.fromkeys(node for node in nodes if node not in others)


def _is_affine(part: Any) -> bool:
    if isinstance(part, operations.BATCH_NORMS):
        return part.affine
    return isinstance(part, (nn.Linear, *CONVOLUTIONS))


def _is_read_by(nodes: Nodes, total: fx.Node) -> bool:
    """Whether nothing but the nodes and `total` reads what the nodes give."""
    for node in nodes:
        for user in node.users:
            if user not in nodes and user is not total:
                return False
    return True
