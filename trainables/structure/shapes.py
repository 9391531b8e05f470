"""Shapes of a stack: the module and the structure of its networks, which narrow as units leave."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from torch import fx, nn

from . import graph
from .narrow import Cut, narrowed, narrowed_module
from .units import Structure

if TYPE_CHECKING:
    from ..task import Task

Site = tuple[str | None, str | None]
"""A hidden layer, and a residual block; one of them may be missing."""

SHAPES = 4
"""How many shapes are remembered: those of a cohort that trains in a few parts."""


@dataclasses.dataclass
class Shaped:
    """A model whose networks have one shape."""

    module: nn.Module  # its parameter values are not used
    structure: Structure
    _graph: fx.Graph | None = None
    _halves: dict[Site, tuple[nn.Module, nn.Module]] = dataclasses.field(default_factory=dict)

    def halves(self, site: Site) -> tuple[nn.Module, nn.Module]:
        """The module, cut in two at a site by `graph.halves`."""
        if self._graph is None:
            self._graph = graph.divisible(self.module)
        if site not in self._halves:
            layer, block = site
            self._halves[site] = graph.halves(
                self.module,
                self._graph,
                self.structure,
                layer,
                block,
            )
        return self._halves[site]


_Key = tuple[nn.Module, tuple[tuple[str, int], ...], tuple[str, ...]]
_remembered: dict[_Key, Shaped] = {}


def shaped(task: Task, shape: Cut | None) -> Shaped:
    """The task's model in a shape; None: in the parent's."""
    cut = shape
    if cut is None:
        cut = Cut({})
    widths = sorted(cut.widths.items())
    key = (task.template, tuple(widths), cut.gone)
    if key in _remembered:
        return _remembered[key]
    if shape is None:
        made = Shaped(task.template, task.structure)
    else:
        module = narrowed_module(task.template, task.structure, shape)
        structure = narrowed(task.structure, shape)
        made = Shaped(module, structure)
    while len(_remembered) >= SHAPES:
        oldest = next(iter(_remembered))
        del _remembered[oldest]
    _remembered[key] = made
    return made
