"""The state of a cohort that trains by gradient, before its first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contract import Member, State
from ..tree import leaves, map_tree, nest, take
from . import optimizers, stack
from .hooks import Hooks, Params, Pruning, contexts, varying

if TYPE_CHECKING:
    from ..task import Task


@dataclasses.dataclass
class Dense:
    """Networks after `steps` of dense training, one for each of K members; seconds: what one of
    them took.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    steps: int
    seconds: float


def begin(
    pruner: Hooks,
    task: Task,
    members: Sequence[Member],
    dense: Dense,
) -> State:
    """The state of members that start from `dense`, one network for each."""
    device = task.torch_device
    columns: dict[str, Tensor] = {}
    for name, values in _columns(pruner, task, members).items():
        column = torch.tensor(values, dtype=torch.float64)
        columns[name] = column.to(device, non_blocking=True)
    seeds = [member.seed for member in members]
    trees: dict[str, Any] = {
        "params": dense.params,
        "buffers": dense.buffers,
        "optimizer": optimizers.slots(task, dense.params),
        "hp": columns,
        "seed": torch.tensor(seeds).to(device, non_blocking=True),
        "slot": torch.arange(len(members), device=device),
    }
    first = members[0]
    static: dict[str, Any] = {}
    for name, domain in pruner.space.items():
        if domain.static:
            static[name] = first.hp[name]
    scalars = {
        "step": 0,
        "rung": 0,
        "before": dense.steps,
        "seconds": dense.seconds,
        "static": static,
    }
    state = State(trees, scalars)
    context = contexts(task, state)

    def init(params: Params, given: Params) -> Pruning:
        ctx = context(given, 0)
        return pruner.init(params, ctx)

    lifted = stack.lift(init, len(members))
    pruning = lifted(dense.params, varying(trees))
    pruning |= _init_members(pruner, task, members, dense)
    trees["params"], trees["pruning"] = separated(dense.params, pruning)
    return state


def _init_members(
    pruner: Hooks,
    task: Task,
    members: Sequence[Member],
    dense: Dense,
) -> dict[str, Any]:
    """What `init_member` gives for each member, stacked."""
    rows: list[dict[str, Tensor]] = []
    for k, member in enumerate(members):
        params = take(dense.params, k)
        buffers = take(dense.buffers, k)
        made = pruner.init_member(task, member, params, buffers)
        row = leaves(made)
        rows.append(row)
    stacked: dict[str, Tensor] = {}
    for path in rows[0]:
        values = [row[path] for row in rows]
        stacked[path] = torch.stack(values)
    return nest(stacked)


def separated(params: Params, pruning: Pruning) -> tuple[Params, Pruning]:
    """The same values, each parameter in memory of its own: an optimiser writes there in place."""
    taken: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, parameter in params.items():
        place = _storage(parameter)
        if place in taken or 0 in parameter.stride():
            parameter = parameter.clone(memory_format=torch.contiguous_format)
            place = _storage(parameter)
        taken.add(place)
        own[name] = parameter

    def apart(tensor: Tensor) -> Tensor:
        if _storage(tensor) in taken:
            return tensor.clone()
        return tensor

    return own, map_tree(apart, pruning)


def _storage(tensor: Tensor) -> int:
    """Where a tensor's memory is: views of one memory have one place."""
    storage = tensor.untyped_storage()
    return storage._cdata


def _columns(pruner: Hooks, task: Task, members: Sequence[Member]) -> dict[str, list[Any]]:
    """Values of the hyper-parameters that may differ between members; None means the task's, where
    the task has the name.
    """
    columns: dict[str, list[Any]] = {}
    for name, domain in pruner.space.items():
        if domain.static or domain.kind == "text":
            continue
        default = getattr(task, name, None)
        values: list[Any] = []
        for member in members:
            value = member.hp[name]
            if value is None:
                value = default
            values.append(value)
        if values[0] is not None:
            columns[name] = values
    return columns
