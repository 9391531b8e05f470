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
from ..structure.alive import units_read
from ..structure.shapes import shaped
from ..structure.units import Structure
from . import optimizers, stack
from .engine import execution
from .hooks import Hooks, Params, Pruning, contexts, varying

if TYPE_CHECKING:
    from ..task import Task

SHARE = 0.9
"""A stack is cut when less than this share of its hidden units would be left, or when a block is
gone.
"""

COMPILED_SHARE = 0.6
"""The same of a stack that trains and whose steps are compiled, for each shape anew."""

_SHAPED = ("params", "buffers", "pruning", "units")
"""What of a state's members has the shape of the stack, beside slots of the optimiser."""


def compact(pruner: Hooks, task: Task, state: State) -> State:
    """The same members in the smallest stack that holds what is left of them, if that is smaller
    than theirs.
    """
    structure = shaped(task, state.shape).structure
    if not pruner.narrows:
        return state
    if not structure.sites:
        return state
    if not (task.stackable and task.narrows):
        return state
    left = _left(pruner, task, state)
    alive = units_read(structure, left)
    gone = _gone(structure, left, state.size, task.torch_device)
    clear = functools.partial(narrow.cleared, structure=structure, alive=alive, gone=gone)
    cleared = _reshaped(task, state, _shaped_trees(state), clear)
    state = dataclasses.replace(state, members=cleared)
    cut, index = narrow.survivors(structure, alive, gone)
    units_before = sum(layer.units for layer in structure.hidden)
    units_after = sum(cut.widths.values())
    has_begun = state.scalars["step"] > 0
    share = COMPILED_SHARE if has_begun and execution(task).compile else SHARE
    limit = share * units_before
    if not cut.gone and units_after >= limit:
        return state
    trees = _shaped_trees(state)
    units = _places(structure, state.size, task)
    known = state.members.get("units", {})
    trees["units"] = {**units, **known}
    gather = functools.partial(narrow.gathered, structure=structure, cut=cut, index=index)
    members = _reshaped(task, state, trees, gather)
    gone_blocks = cut.gone
    if state.shape is not None:
        gone_blocks = (*state.shape.gone, *cut.gone)
    widths = dict(cut.widths)
    shape = narrow.Cut(widths, gone_blocks)
    return dataclasses.replace(state, members=members, shape=shape)


def _gone(
    structure: Structure,
    left: Mapping[str, Tensor],
    members: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Block -> (K,) bool: whether it is gone from each member."""
    gone: dict[str, Tensor] = {}
    for block in structure.blocks:
        name = block.name
        if name in left:
            gone[name] = ~left[name]
        else:
            gone[name] = torch.zeros(members, dtype=torch.bool, device=device)
    return gone


def _reshaped(
    task: Task,
    state: State,
    trees: Mapping[str, Any],
    reshape: Callable[[Any], Any],
) -> dict[str, Any]:
    """A state's members with `reshape` applied to what has the shape of the stack: `trees`, and the
    slots of the optimiser that are shaped like parameters.
    """
    kept = state.members.get("optimizer", {})
    slots = optimizers.reshaped(task, kept, reshape)
    others = reshape(trees)
    return {**state.members, **others, "optimizer": slots}


@torch.no_grad()
def _left(pruner: Hooks, task: Task, state: State) -> dict[str, Tensor]:
    """What `lasting` says of each member, (K, ...) by name."""
    context = contexts(task, state)
    step = state.scalars["step"]

    def lasting(params: Params, pruning: Pruning, given: Params) -> Params:
        ctx = context(given, step)
        return pruner.lasting(params, pruning, ctx)

    trees = state.members
    params = trees["params"]
    pruning = trees.get("pruning", {})
    given = varying(trees)
    lifted = stack.lift(lasting, state.size)
    return lifted(params, pruning, given)


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
        own = torch.arange(layer.units, device=task.torch_device)
        own = own.expand(members, -1)
        places[layer.name] = own
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
    parent = task.structure
    units = state.members.get("units", {})
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
