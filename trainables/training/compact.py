"""Compaction: a stack shrinks with its members while they train, and is measured in the parent's
shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contract import State
from ..structure import narrow
from ..structure.alive import read
from ..structure.shapes import shaped
from ..structure.units import Structure
from . import optimizers, stack
from .hooks import Hooks, Params, Pruning, contexts, varying

if TYPE_CHECKING:
    from ..task import Task

SHARE = 0.9
"""A stack is cut when less than this share of its hidden units would be left, or when a block is
gone.
"""

_SHAPED = ("params", "buffers", "pruning", "units")
"""What of a state's members has the shape of the stack, beside slots of the optimiser."""


def compact(pruner: Hooks, task: Task, state: State) -> State:
    """The same members in the smallest stack that holds what is left of them, if that is smaller
    than theirs.
    """
    structure = shaped(task, state.shape).structure
    if not pruner.narrows or not structure.sites:
        return state
    if not (task.stackable and task.narrows):
        return state
    left = _left(pruner, task, state)
    alive = read(structure, left)
    none = torch.zeros(state.size, dtype=torch.bool, device=task.torch_device)
    gone: dict[str, Tensor] = {}
    for block in structure.blocks:
        gone[block.name] = ~left[block.name] if block.name in left else none
    clear = functools.partial(narrow.cleared, structure=structure, alive=alive, gone=gone)
    cleared = _reshaped(task, state, _shaped_trees(state), clear)
    state = State(cleared, state.scalars, state.shared, state.shape)
    shape, index = narrow.survivors(structure, alive, gone)
    units = sum(layer.units for layer in structure.hidden)
    if not shape.gone and sum(shape.widths.values()) >= SHARE * units:
        return state
    trees = _shaped_trees(state)
    trees["units"] = {**_places(structure, state.size, task), **state.members.get("units", {})}
    gather = functools.partial(narrow.gathered, structure=structure, cut=shape, index=index)
    gathered = _reshaped(task, state, trees, gather)
    before = () if state.shape is None else state.shape.gone
    total = narrow.Cut(dict(shape.widths), (*before, *shape.gone))
    return State(gathered, state.scalars, state.shared, total)


def _reshaped(
    task: Task, state: State, trees: Mapping[str, Any], reshape: Callable[[Any], Any]
) -> dict[str, Any]:
    """A state's members with `reshape` applied to what has the shape of the stack: `trees`, and the
    slots of the optimiser that are shaped like parameters.
    """
    slots = optimizers.reshaped(task, state.members.get("optimizer", {}), reshape)
    return {**state.members, **reshape(trees), "optimizer": slots}


@torch.no_grad()
def _left(pruner: Hooks, task: Task, state: State) -> dict[str, Tensor]:
    """What `lasting` says of each member, (K, ...) by name."""
    context, step = contexts(task, state), state.scalars["step"]

    def lasting(params: Params, pruning: Pruning, given: Params) -> Params:
        return pruner.lasting(params, pruning, context(given, step))

    trees = state.members
    return stack.lift(lasting, state.size)(
        trees["params"], trees.get("pruning", {}), varying(trees)
    )


def _shaped_trees(state: State) -> dict[str, Any]:
    return {name: tree for name, tree in state.members.items() if name in _SHAPED}


def _places(structure: Structure, members: int, task: Task) -> dict[str, Tensor]:
    """Hidden layer -> (K, width): which unit of the parent each one is, before any cut."""
    places: dict[str, Tensor] = {}
    for layer in structure.hidden:
        units = torch.arange(layer.units, device=task.torch_device)
        places[layer.name] = units.expand(members, -1)
    return places


def restored(
    task: Task, state: State, params: Params, buffers: Params, kept: Params
) -> tuple[Params, Params, Params]:
    """Stacked tensors of a state, each (K, ...), in the parent's shape."""
    if state.shape is None:
        return params, buffers, kept
    parent = task.structure
    whole_params, whole_buffers = (stack.single(tree) for tree in stack.stacked([task.template]))
    whole_kept: dict[str, Tensor] = {}
    for name in parent.parameters:
        whole_kept[name] = whole_params[name].bool()
    for block in parent.blocks:
        whole_kept[block.name] = torch.ones((), dtype=torch.bool, device=task.torch_device)
    units = state.members.get("units", {})

    def whole(tree: Params, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return narrow.restored(tree, parent, like, units, state.size)

    return whole(params, whole_params), whole(buffers, whole_buffers), whole(kept, whole_kept)
