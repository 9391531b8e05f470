"""Residual connections around the nonlinear sections of a plain chain, so that its layers can be
removed.

Guenter and Sideris wrap LeNet and VGG-16 so (arXiv 2406.04549). Where a section gives another shape
than it reads, its shortcut is a `Projection`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ...analysis.rows.mistake import Mistake
from .. import models
from ..measure.flops import CONVOLUTIONS, LAYERS, TRANSPOSED
from . import operations
from .nodes import calls, module_of
from .trace import SHAPE, is_constant, known, told, with_shapes

WRAP = "wrap"
"""The option of any model; one that has an option of this name itself keeps it."""
DEPTH = 2
"""Layers in a section at most: U and V in h + V act(U h). Nothing but V reads the units of U, which
can so be removed too. With one layer in each section no unit could, since sums read them all; that
was worse (docs/results/complexity.md).
"""
RULE = "`wrap` is for a plain chain, in which each operation reads the one before it alone"

Shape = tuple[int, ...]
Options = Mapping[str, Any]
Modules = Mapping[str, Any]
Section = list[fx.Node]
"""Operations one behind the other; the first one is a layer."""


# ---- the option


def options(model: str) -> tuple[dict[str, bool], bool]:
    """`models.options` of a model by name, and `wrap`."""
    function = _function(model)
    names, takes_any = models.options(function, given=2)
    with_wrap = {WRAP: False, **names}
    return with_wrap, takes_any


def settled(model: str, given: Options) -> dict[str, Any]:
    """The options `given` of a model, without a `wrap` that says what is so anyway.

    Raises Mistake if it is neither true nor false.
    """
    own = dict(given)
    if _take(model, own):
        own[WRAP] = True
    return own


def build(
    model: str,
    input_shape: Shape,
    classes: int,
    **given: Any,
) -> nn.Module:
    """The model that `models.build` makes, wrapped if its options say so.

    Raises Mistake naming what is wrong with the name or the options, or what stands in the way.
    """
    own = dict(given)
    is_wrapped = _take(model, own)
    module = models.build(model, input_shape, classes, **own)
    if not is_wrapped:
        return module
    try:
        return wrapped(module, input_shape)
    except Mistake as error:
        raise Mistake(f"model {model}: {error}") from error


def _take(model: str, own: dict[str, Any]) -> bool:
    """Take `wrap` out of options, unless the model has one itself; whether it is true."""
    if WRAP not in own:
        return False
    names, _ = models.options(_function(model), given=2)
    if WRAP in names:
        return False
    value = own.pop(WRAP)
    if type(value) is not bool:
        raise Mistake(f"`wrap` is true or false; got {value!r}")
    return value


def _function(model: str) -> Any:
    return models.lookup(model, models.MODELS, "model")


# ---- the chain


def wrapped(module: nn.Module, input_shape: Shape) -> nn.Module:
    """`module`, a plain chain, with residual connections around its sections; its parts keep their
    names. The last layer is in none.

    Raises Mistake if it is no chain, or has nothing that can be wrapped.
    """
    try:
        graph = with_shapes(module, input_shape)
    except Exception as error:  # anybody's code
        why = models.raised(error)
        raise Mistake(f"{RULE}; following it by torch.fx raised {why}") from error
    if not is_constant(module):
        raise Mistake(f"{RULE}; got code that asks whether it is in training")
    modules = known(graph)
    chain = _chain(graph.graph, modules)
    sections = _sections(chain, modules)
    if not sections:
        kinds = "a linear or ungrouped convolution layer before the last layer"
        raise Mistake(f"`wrap` is for a chain with {kinds}; got none that can be wrapped")
    for section in sections:
        shortcut = _shortcut(section, modules)
        _add(graph, section, shortcut)
    graph.recompile()
    return graph.train(module.training)


def _chain(graph: fx.Graph, modules: Modules) -> list[fx.Node]:
    """All operations on tensors, one behind the other."""
    node = next(iter(graph.nodes))
    chain: list[fx.Node] = []
    while node.op != "output":
        chain.append(node)
        readers = [user for user in node.users if not operations.asks_shape(user)]
        if len(readers) != 1:
            name = _named(node, modules)
            raise Mistake(f"{RULE}; got {name}, which {len(readers)} operations read")
        (reader,) = readers
        sources = [source for source in reader.all_input_nodes if SHAPE in source.meta]
        if len(sources) != 1:
            name = _named(reader, modules)
            raise Mistake(f"{RULE}; got {name}, which reads {len(sources)} tensors")
        node = reader
    return chain


def _named(node: fx.Node, modules: Modules) -> str:
    if node.op == "placeholder":
        return "the input"
    return told(node, module_of(node, modules))


def _sections(chain: Sequence[fx.Node], modules: Modules) -> list[Section]:
    """Up to `DEPTH` layers each, without the last of the chain, and what works unit by unit on
    what they give; pooling and what changes shapes ends a section.
    """
    sections: list[Section] = []
    current: Section = []
    layers = 0
    places = [place for place, node in enumerate(chain) if _is_layer(node, modules)]
    last = places[-1] if places else 0
    for node in chain[:last]:
        is_wrappable = _can_be_wrapped(node, modules)
        if current and is_wrappable and layers < DEPTH:
            layers += 1
            current.append(node)
        elif is_wrappable:
            layers = 1
            current = [node]
            sections.append(current)
        elif current and _continues(current, node, modules):
            current.append(node)
        else:
            current = []
    return sections


def _is_layer(node: fx.Node, modules: Modules) -> bool:
    return isinstance(module_of(node, modules), LAYERS)


def _can_be_wrapped(node: fx.Node, modules: Modules) -> bool:
    """Whether an operation is a layer that can go with a block, and that a shortcut can pass."""
    part = module_of(node, modules)
    if isinstance(part, nn.Linear):
        is_plain = len(_shape(node)) == 1
    elif isinstance(part, CONVOLUTIONS):
        is_plain = part.groups == 1 and not isinstance(part, TRANSPOSED)
    else:
        return False
    called = calls(node.graph)
    return is_plain and called[node.target] == 1


def _continues(section: Section, node: fx.Node, modules: Modules) -> bool:
    """Whether an operation works unit by unit on what a section gives, and keeps its shape."""
    part = module_of(node, modules)
    is_unitwise = operations.is_unitwise(node, part)
    is_norm = isinstance(part, operations.BATCH_NORMS)
    keeps_shape = _shape(node) == _shape(section[-1])
    return keeps_shape and (is_unitwise or is_norm)


def _source(section: Section) -> fx.Node:
    """What a section reads."""
    return section[0].all_input_nodes[0]


def _shape(node: fx.Node) -> Shape:
    """The shape of what a node gives, without batch."""
    return node.meta[SHAPE][1:]


def _add(graph: fx.GraphModule, section: Section, shortcut: nn.Module | None) -> None:
    """Add to what a section gives what it reads, by way of `shortcut` if there is one."""
    first = section[0]
    end = section[-1]
    beside = _source(section)
    with graph.graph.inserting_after(end):
        if shortcut is not None:
            name = f"{first.target}_shortcut"
            graph.add_submodule(name, shortcut)
            beside = graph.graph.call_module(name, (beside,))
    behind = end if shortcut is None else beside
    with graph.graph.inserting_after(behind):
        total = graph.graph.call_function(operator.add, (beside, end))

    def reads_total(user: fx.Node) -> bool:
        return user is not total

    end.replace_all_uses_with(total, delete_user_cb=reads_total)
    total.meta[SHAPE] = end.meta[SHAPE]


# ---- shortcuts


def _shortcut(section: Section, modules: Modules) -> nn.Module | None:
    """What brings that which a section reads to the shape of what it gives; None if it has it."""
    before = _shape(_source(section))
    after = _shape(section[-1])
    if before == after:
        return None
    parts: list[nn.Module] = []
    if before[1:] != after[1:]:
        layers = [module_of(node, modules) for node in section if _is_layer(node, modules)]
        centres = _Centres(layers, before[1:], after[1:])
        parts.append(centres)
    if before[0] != after[0]:
        projection = Projection(before[0], after[0], len(before) - 1)
        parts.append(projection)
    if len(parts) == 1:
        return parts[0]
    return nn.Sequential(*parts)


class _Centres(nn.Module):
    """What convolutions one behind the other have at the centre of their kernels, position by
    position; zeros outside.

    before, after: positions of what the first one reads and the last one gives.
    """

    def __init__(self, layers: Sequence[Any], before: Shape, after: Shape) -> None:
        super().__init__()
        self.steps: list[int] = []
        self.margins: list[int] = []  # as F.pad has them, the last dimension first
        for dim in range(len(before)):
            first = 0
            step = 1
            for layer in layers:
                offset = _reach(layer, dim) - _padding(layer, dim)
                first += step * offset
                step *= layer.stride[dim]
            end = first + (after[dim] - 1) * step + 1
            self.steps.append(step)
            self.margins = [-first, end - before[dim], *self.margins]

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, channels, *positions)."""
        cut = F.pad(x, self.margins)
        places = [slice(None, None, step) for step in self.steps]
        return cut[(slice(None), slice(None), *places)]


def _reach(layer: Any, dim: int) -> int:
    """How many positions a kernel reaches back from its centre."""
    return layer.dilation[dim] * (layer.kernel_size[dim] - 1) // 2


def _padding(layer: Any, dim: int) -> int:
    """How many positions a convolution adds in front."""
    if layer.padding == "valid":
        return 0
    if layer.padding == "same":
        return _reach(layer, dim)
    return layer.padding[dim]


_CONVOLVE = (F.conv1d, F.conv1d, F.conv2d, F.conv3d)
"""By the number of dimensions that positions have."""


class Projection(nn.Module):
    """A fixed map from `inputs` to `outputs` channels that reads or writes each channel once.

    Output j is the sum of the inputs j, j + outputs, ..., or a copy of input j mod inputs if there
    are fewer inputs, scaled so that rows (or columns) are orthonormal. A dense orthogonal matrix
    would cost as much as a linear layer that is removed, and gain nothing; zeros in place of copies
    would leave channels of which nothing is left once all sections are gone. It is not trained and
    draws nothing: its weights are a buffer. It is computed as a convolution in `min(inputs,
    outputs)` groups, and so counts, 2 FLOPs for each of its weights and positions.

    dims: the number of dimensions that positions have; 0 for vectors.
    """

    weight: Tensor

    def __init__(self, inputs: int, outputs: int, dims: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.groups = min(inputs, outputs)
        most = max(inputs, outputs)
        self.times = math.ceil(most / self.groups)
        self.missing = self.times * self.groups - most
        self.gathers = inputs > outputs
        self.dims = dims
        places = torch.arange(most) % self.groups
        weight = places.bincount().rsqrt()
        weight = weight.repeat_interleave(self.times)
        reads = self.times if self.gathers else 1
        kernel = (1,) * max(1, dims)
        weight = weight.reshape(-1, reads, *kernel)
        self.register_buffer("weight", weight)

    def extra_repr(self) -> str:
        """What it says of itself between its brackets."""
        return f"groups={self.groups}, outputs={self.outputs}"

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, inputs, *positions)."""
        if self.dims == 0:
            x = x.unsqueeze(-1)
        convolve = _CONVOLVE[self.dims]
        if self.gathers:
            x = self._regrouped(self._padded(x), self.times)
            projected = convolve(x, self.weight, groups=self.groups)
        else:
            copies = convolve(x, self.weight, groups=self.groups)
            projected = self._regrouped(copies, self.groups)[:, : self.outputs]
        if self.dims == 0:
            return projected.squeeze(-1)
        return projected

    def _padded(self, x: Tensor) -> Tensor:
        """With channels of zeros behind, so that all groups are of one size."""
        behind_channels = (0, 0) * max(1, self.dims) + (0, self.missing)
        return F.pad(x, behind_channels)

    def _regrouped(self, x: Tensor, rows: int) -> Tensor:
        """Channels that are `rows` lines one behind the other, column by column."""
        lines = x.unflatten(1, (rows, -1))
        return lines.transpose(1, 2).flatten(1, 2)
