"""Compaction: a stack shrinks with its members while they train, and is measured in the parent's
shape.
"""

from __future__ import annotations

import dataclasses
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
    gone: dict[str, Tensor] = {}
    for block in structure.blocks:
        gone[block.name] = torch.zeros(state.size, dtype=torch.bool, device=task.torch_device)
        if block.name in left:
            gone[block.name] = ~left[block.name]
    clear = functools.partial(narrow.cleared, structure=structure, alive=alive, gone=gone)
    cleared = _reshaped(task, state, _shaped_trees(state), clear)
    state = dataclasses.replace(state, members=cleared)
    cut, index = narrow.survivors(structure, alive, gone)
    units_before = sum(layer.units for layer in structure.hidden)
    units_after = sum(cut.widths.values())
    if not cut.gone and units_after >= SHARE * units_before:
        return state
    trees = _shaped_trees(state)
    known = state.members.get("units", {})
    trees["units"] = {**_places(structure, state.size, task), **known}
    gather = functools.partial(narrow.gathered, structure=structure, cut=cut, index=index)
    members = _reshaped(task, state, trees, gather)
    gone_before = () if state.shape is None else state.shape.gone
    shape = narrow.Cut(dict(cut.widths), (*gone_before, *cut.gone))
    return dataclasses.replace(state, members=members, shape=shape)


def _reshaped(
    task: Task,
    state: State,
    trees: Mapping[str, Any],
    reshape: Callable[[Any], Any],
) -> dict[str, Any]:
    """A state's members with `reshape` applied to what has the shape of the stack: `trees`, and the
    slots of the optimiser that are shaped like parameters.
    """
    slots = optimizers.reshaped(task, state.members.get("optimizer", {}), reshape)
    return {**state.members, **reshape(trees), "optimizer": slots}


@torch.no_grad()
def _left(pruner: Hooks, task: Task, state: State) -> dict[str, Tensor]:
    """What `lasting` says of each member, (K, ...) by name."""
    context = contexts(task, state)
    step = state.scalars["step"]

    def lasting(params: Params, pruning: Pruning, given: Params) -> Params:
        return pruner.lasting(params, pruning, context(given, step))

    trees = state.members
    pruning = trees.get("pruning", {})
    lifted = stack.lift(lasting, state.size)
    return lifted(trees["params"], pruning, varying(trees))


def _shaped_trees(state: State) -> dict[str, Any]:
    trees: dict[str, Any] = {}
    for name, tree in state.members.items():
        if name in _SHAPED:
            trees[name] = tree
    return trees


def _places(structure: Structure, members: int, task: Task) -> dict[str, Tensor]:
    """Hidden layer -> (K, width): which unit of the parent each one is, before any cut."""
    places: dict[str, Tensor] = {}
    for layer in structure.hidden:
        units = torch.arange(layer.units, device=task.torch_device)
        places[layer.name] = units.expand(members, -1)
    return places


def restored(
    task: Task,
    state: State,
    params: Params,
    buffers: Params,
    kept: Params,
) -> tuple[Params, Params, Params]:
    """Stacked tensors of a state, each (K, ...), in the parent's shape."""
    if state.shape is None:
        return params, buffers, kept
    parent, units = task.structure, state.members.get("units", {})
    trained, fixed = stack.stacked([task.template])
    trained = stack.single(trained)
    fixed = stack.single(fixed)
    masks: dict[str, Tensor] = {}
    for name in parent.parameters:
        masks[name] = trained[name].bool()
    for block in parent.blocks:
        masks[block.name] = torch.ones((), dtype=torch.bool, device=task.torch_device)
    params = narrow.restored(params, parent, trained, units, state.size)
    buffers = narrow.restored(buffers, parent, fixed, units, state.size)
    kept = narrow.restored(kept, parent, masks, units, state.size)
    return params, buffers, kept
