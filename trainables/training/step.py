"""One optimiser step of a cohort, written once: it is taken as it stands, or compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..contract import State
from ..structure.shapes import shaped
from ..tree import leaves, map_tree, nest
from . import draws, dropout, precision, stack
from .hooks import Hooks, Params, Pruning, contexts, varying
from .optimizers import Update
from .timed import Timed

if TYPE_CHECKING:
    from ..task import Task

Trees = dict[str, Any]
"""What a step reads and changes: `params`, `buffers`, `pruning`, `optimizer`, `hp`, `seed`."""


class Step:
    """A step of the members of `state`, as a function of their trees: stacked, or a lone member's
    without the leading 1.
    """

    def __init__(self, pruner: Hooks, task: Task, state: State) -> None:
        module = shaped(task, state.shape).module
        module.train()
        self._now: int | Timed = 0
        self._pruner = pruner
        self._task = task
        self._context = contexts(task, state)
        self._call = precision.forward(task, stack.Call(module))
        self._drops = dropout.keys(module)
        self._forward = self._forward_of_one
        self._follow = self._follow_of_one
        if state.size > 1:
            self._forward = stack.lift(self._forward_of_one, state.size)
            self._follow = stack.lift(self._follow_of_one, state.size)

    def take(
        self,
        trees: Trees,
        update: Update,
        x: Tensor,
        y: Tensor,
        step: int | Timed,
    ) -> Trees:
        """The trees after `step`, the optimiser's slots written in place by `update`.

        params: leaves that ask for a gradient, and so they are again.  x: (K, B, *shape).  y:
        (K, B).
        """
        self._now = step
        params: Params = trees["params"]
        pruning: Pruning = trees["pruning"]
        given = varying(trees)
        made = self._forward(params, trees["buffers"], pruning, given, x)
        loss = self._loss(made, y)
        leaves = list(params.values())
        grads = torch.autograd.grad(loss, leaves, materialize_grads=True)
        named_grads = dict(zip(params, grads, strict=True))
        after = {**trees, "buffers": made["buffers"]}
        with torch.no_grad():
            update(params, named_grads, step)  # type: ignore[arg-type]
            if self._pruner.follows:
                changed = self._follow(params, pruning, given)
                after["params"] = _with(params, changed["params"])
                after["pruning"] = _with(pruning, changed["pruning"])
        return after

    def _forward_of_one(
        self,
        params: Params,
        buffers: Params,
        pruning: Pruning,
        given: Params,
        x: Tensor,
    ) -> dict[str, Any]:
        """Logits, buffers and, if there is one, the penalty."""
        now: Any = self._now
        ctx = self._context(given, now)
        held: dict[str, Tensor] = {}
        for name, value in buffers.items():
            held[name] = value.clone()
        for name in self._drops:
            held[name] = draws.key(ctx.seed, now, name)
        effective = self._pruner.effective(params, pruning, ctx)
        logits = self._call(effective, held, x)
        penalty = self._pruner.penalty(params, pruning, ctx)
        after: dict[str, Tensor] = {}
        for name in buffers:
            after[name] = held[name].detach()
        made: dict[str, Any] = {"logits": logits, "buffers": after}
        if penalty is not None:
            made["penalty"] = penalty
        return made

    def _follow_of_one(
        self,
        params: Params,
        pruning: Pruning,
        given: Params,
    ) -> dict[str, Any]:
        """What `after_step` changes: tensors by path, of `params` and of `pruning`."""
        following: Any = self._now + 1
        ctx = self._context(given, following)
        new_params, new_pruning = self._pruner.after_step(params, pruning, ctx)
        return {
            "params": _changed(params, new_params),
            "pruning": _changed(pruning, new_pruning),
        }

    def _loss(self, made: Mapping[str, Any], labels: Tensor) -> Tensor:
        """The sum over members of what each minimises, which has each member's gradient.

        Outside of vmap, where it costs less.
        """
        logits = made["logits"].flatten(0, -2)
        loss = self._pruner.loss(logits, labels.flatten())
        loss = loss / self._task.batch_size
        if "penalty" in made:
            loss = loss + made["penalty"].sum()
        return loss


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of `after` that are not those of `before`, by path."""
    old = leaves(before)
    changed: dict[str, Tensor] = {}
    for path, tensor in leaves(after).items():
        if tensor is not old.get(path):
            changed[path] = tensor
    return changed


def _with(tree: Mapping[str, Any], changed: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """A tree with tensors changed, by path."""
    if not changed:
        return tree
    flat = leaves(tree)
    flat.update(changed)
    return nest(flat)


def trained(parameter: Tensor) -> Tensor:
    """The same values as a leaf that asks for a gradient."""
    values = parameter.detach()
    return values.requires_grad_()


def trees_of(members: Mapping[str, Any]) -> Trees:
    """The trees of a stack, or of a lone member, that steps read and change."""
    trees: Trees = {name: members.get(name, {}) for name in ("buffers", "pruning", "optimizer")}
    trees["params"] = map_tree(trained, members["params"])
    trees["hp"] = members["hp"]
    trees["seed"] = members["seed"]
    return trees
