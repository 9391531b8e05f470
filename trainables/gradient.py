"""GradientPruner: the training loop of a cohort. A pruner gives functions for ONE network; the loop lifts them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import draws, optimizers, stack
from .contract import Algorithm, Domain, Member, Networks, State, Tree, complete, map_tree
from .structure import Structure
from .task import Task

Params = Mapping[str, Tensor]
Pruning = Tree


@dataclasses.dataclass(slots=True)
class Context:
    """What a pruner's functions may know beside parameters.

    hp: by name, a number () float64, or (layers,) for a `reals` domain; static ones are plain values, and those left to the
    algorithm (None) are absent.  seed: () int64.  step: steps done since `start`, of `steps` in all.
    """

    hp: Mapping[str, Any]
    seed: Tensor
    step: int
    steps: int
    structure: Structure

    def uniform(self, site: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Numbers in [0, 1), float64, drawn from (seed, step, site) alone."""
        return draws.uniform(draws.key(self.seed, self.step, site), shape)


def space(**own: Domain) -> dict[str, Domain]:
    """A pruner's hyper-parameters, and those that every training by gradient has."""
    return {
        **own,
        "lr": Domain("real", None, "the learning rate (default: the task's)", low=0, log=True, tunable=True),
        "weight_decay": Domain("real", None, "the L2 penalty (default: the task's)", low=0, log=True, tunable=True),
    }


class GradientPruner(Algorithm):
    """An algorithm that trains by gradient. Subclasses override functions of one network, without branches on tensors."""

    source = "plain training by gradient"
    space: ClassVar[Mapping[str, Domain]] = space()

    def init(self, params: Params, ctx: Context) -> Pruning:
        """Masks, gates, or whatever the pruner keeps, before the first step."""
        return {}

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """What the network computes with; the loss's gradient reaches `params` through this function."""
        return params

    def penalty(self, params: Params, pruning: Pruning, ctx: Context) -> Tensor | None:
        """Added to the loss, (); None adds nothing."""
        return None

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        """Parameters and pruning after an optimiser's step; `ctx.step` counts it."""
        return params, pruning

    def kept(self, params: Params, pruning: Pruning) -> Params:
        """Name -> bool, True keeps, for each removable parameter that is not kept whole."""
        return {}

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """The pruner's own figures, name -> ()."""
        return {}

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """Initial or dense-trained weights, and what `init` makes of them."""
        seeds = [member.seed for member in members]
        (params, buffers), seconds = dense_networks(task, seeds) if self.from_dense else (task.initial(seeds), 0.0)
        first, device = members[0], task.torch_device
        held: dict[str, Any] = {
            "params": params,
            "buffers": buffers,
            "optimizer": optimizers.slots(task, params),
            "hp": {name: torch.tensor(column, dtype=torch.float64, device=device)
                   for name, column in _columns(task, self, members).items()},
            "seed": torch.tensor(seeds, device=device),
            "slot": torch.arange(len(seeds), device=device),
        }  # fmt: skip
        static = {name: first.hp[name] for name, domain in self.space.items() if domain.static}
        state = State(held, {"step": 0, "rung": 0, "seconds": seconds, "static": static})

        context = self._contexts(task, state)

        def init(params: Params, given: Params) -> Pruning:
            return self.init(params, context(given, 0))

        held["pruning"] = stack.lift(init, state.size)(params, _given(held))
        return state

    def advance(self, task: Task, state: State) -> State:
        """To the next rung: all members together, or one after the other if `vmap` refuses the model."""
        if state.size > 1 and not task.stackable:
            alone = [self.advance(task, state.select([k])) for k in range(state.size)]
            joined = State.concatenate(alone)
            joined.scalars["seconds"] = sum(each.scalars["seconds"] for each in alone) / state.size
            return joined
        begun, rung = time.perf_counter(), state.scalars["rung"] + 1
        last = task.rung_step(task.steps - task.dense_steps(self), rung)
        # A model that vmap refuses may draw from torch's generator, which is then seeded at each step.
        with torch.random.fork_rng(enabled=not task.stackable):
            members = self._train(task, state, last)
        seconds = state.scalars["seconds"] + (time.perf_counter() - begun) / state.size
        return State(members, {**state.scalars, "step": last, "rung": rung, "seconds": seconds})

    def networks(self, task: Task, state: State) -> Networks:
        """One network for each member."""
        params, pruning = state.members["params"], state.members.get("pruning", {})
        context, step, removable = self._contexts(task, state), state.scalars["step"], task.structure.parameters

        def measured(params: Params, pruning: Pruning, given: Params) -> Tree:
            effective = self.effective(params, pruning, context(given, step))
            kept = {name: torch.ones_like(params[name], dtype=torch.bool) for name in removable}
            return {
                "params": dict(effective),
                "kept": {**kept, **self.kept(params, pruning)},
                "metrics": dict(self.metrics(params, pruning)),
            }

        with torch.no_grad():
            found = stack.lift(measured, state.size)(params, pruning, _given(state.members))
        of = torch.arange(state.size, device=task.torch_device)
        return Networks(found["params"], state.members.get("buffers", {}), found["kept"], found["metrics"], of)

    def _contexts(self, task: Task, state: State) -> Callable[[Params, int], Context]:
        """A function of (what differs between members, step); made outside `vmap`, since it looks at the model."""
        static, steps, structure = state.scalars["static"], task.steps - task.dense_steps(self), task.structure
        return lambda given, step: Context({**static, **given}, given["seed"], step, steps, structure)

    def _train(self, task: Task, state: State, last: int) -> dict[str, Any]:
        """The members after step `last`. One body for a stack and for a lone member, whose trees lose their leading 1."""
        lone, module = state.size == 1, task.template.train()
        trees = stack.single(state.members) if lone else state.members
        params: Params = map_tree(lambda p: p.detach().requires_grad_(), trees["params"])
        buffers, pruning, given = trees.get("buffers", {}), trees.get("pruning", {}), _given(trees)
        steps = task.steps - task.dense_steps(self)
        context, call, drops = self._contexts(task, state), stack.Call(module), stack.dropout_keys(module)

        def outputs(params: Params, buffers: Params, pruning: Pruning, given: Params, x: Tensor) -> dict[str, Any]:
            ctx = context(given, step)
            held = {name: value.clone() for name, value in buffers.items()}
            held |= {name: draws.key(ctx.seed, step, name) for name in drops}
            logits = call(self.effective(params, pruning, ctx), held, x)
            penalty = self.penalty(params, pruning, ctx)
            found = {"logits": logits, "buffers": {name: held[name].detach() for name in buffers}}
            return found if penalty is None else {**found, "penalty": penalty}

        def after(params: Params, pruning: Pruning, given: Params) -> tuple[Params, Pruning]:
            return self.after_step(params, pruning, context(given, step + 1))

        forward, follow = (outputs, after) if lone else (stack.lift(outputs, state.size), stack.lift(after, state.size))
        follows = type(self).after_step is not GradientPruner.after_step
        update = optimizers.updater(task, trees["hp"], trees.get("optimizer", {}), steps)
        inputs, labels = task.data.inputs["train"], task.data.labels["train"]
        orders = functools.lru_cache(1)(lambda epoch: self._order(task, state, epoch))
        for step in range(state.scalars["step"], last):  # `outputs` and `after` read it
            epoch, place = divmod(step, task.steps_per_epoch)
            rows = orders(epoch)[:, place * task.batch_size : (place + 1) * task.batch_size]
            x = inputs.index_select(0, rows.flatten()).view(*rows.shape, *inputs.shape[1:])
            y = labels[rows]
            if lone:
                x, y = x[0], y[0]
            if not task.stackable:
                torch.manual_seed(int(draws.key(given["seed"], step, "torch")))
            found = forward(params, buffers, pruning, given, x)
            buffers = found["buffers"]
            # Outside of vmap, where it costs less; the sum over members has each member's gradient.
            fit = F.cross_entropy(found["logits"].flatten(0, -2), y.flatten(), reduction="sum") / task.batch_size
            total = fit + found["penalty"].sum() if "penalty" in found else fit
            grads = torch.autograd.grad(total, list(params.values()), materialize_grads=True)
            with torch.no_grad():
                update(params, dict(zip(params, grads, strict=True)), step)
                if follows:
                    params, pruning = follow(params, pruning, given)
                    params = map_tree(lambda p: p.detach().requires_grad_(), params)
        done = {**trees, "params": map_tree(Tensor.detach, params), "buffers": buffers, "pruning": pruning}
        return stack.restacked(done) if lone else done

    def _order(self, task: Task, state: State, epoch: int) -> Tensor:
        """(K, n) int64: each member's order of examples in `epoch`, a function of its seed."""
        seeds, of = torch.unique(state.members["seed"], return_inverse=True)
        site = "pruning" if self.from_dense else "order"
        return draws.permutation(draws.key(seeds, epoch, site), len(task.data.labels["train"]))[of]


def dense_networks(task: Task, seeds: Sequence[int]) -> tuple[tuple[dict[str, Any], dict[str, Any]], float]:
    """Parameters and buffers (K, ...) of the dense phase's trained networks of `seeds`, and mean seconds each of them took.

    Every distinct seed is trained once; with `task.starts`, once for all cohorts of the task.
    """
    phase = _dense_phase(task)
    if phase is None:
        return task.initial(seeds), 0.0
    distinct = list(dict.fromkeys(seeds))
    places = [_place(task, phase, seed) for seed in distinct]
    missing = [seed for seed, place in zip(distinct, places, strict=True) if place is None or not place.exists()]
    trained: dict[int, State] = {}
    if missing:
        # What is shared must not depend on who trains it, and a stack of one rounds differently: train two.
        doubled = missing * 2 if len(missing) == 1 and task.starts and task.stackable else missing
        plain = GradientPruner()
        hp = complete(plain.space, {})
        state = plain.advance(phase, plain.start(phase, [Member(hp, seed) for seed in doubled]))
        state.scalars["seconds"] *= len(doubled) / len(missing)  # a twin is paid by its original
        trained = {seed: state.select([k]) for k, seed in enumerate(missing)}
    for seed, place in zip(distinct, places, strict=True):
        if place is not None and seed in trained:
            trained[seed].save(place)
        elif place is not None:
            trained[seed] = State.load(place, task.torch_device)
    joined = State.concatenate([trained[seed] for seed in seeds]).members
    seconds = sum(trained[seed].scalars["seconds"] for seed in seeds) / len(seeds)
    return (joined["params"], joined.get("buffers", {})), seconds


def dense_ready(task: Task, seeds: Sequence[int]) -> bool:
    """Whether the dense networks of `seeds` are in `task.starts`."""
    phase = _dense_phase(task)
    return phase is None or all((place := _place(task, phase, seed)) and place.exists() for seed in seeds)


def _dense_phase(task: Task) -> Task | None:
    """The dense phase as a task of its own, with a schedule of its own; None if the budget leaves it no step."""
    steps = round(task.dense_share * task.steps)
    return dataclasses.replace(task, epochs=steps / task.steps_per_epoch, rungs=1, starts="") if steps else None


def _place(task: Task, phase: Task, seed: int) -> Path | None:
    """Where the dense network of `seed` is kept for other cohorts."""
    if not task.starts:
        return None
    name = hashlib.sha256(json.dumps([phase.describe(), seed], sort_keys=True).encode()).hexdigest()[:16]
    return Path(task.starts) / f"{name}.safetensors"


def _given(trees: Mapping[str, Any]) -> dict[str, Tensor]:
    """Hyper-parameters and seed: what differs between members beside their networks."""
    return {**trees.get("hp", {}), "seed": trees["seed"]}


def _columns(task: Task, algorithm: Algorithm, members: Sequence[Member]) -> dict[str, list[Any]]:
    """Values of the hyper-parameters that may differ between members; None means the task's, where the task has the name."""
    columns: dict[str, list[Any]] = {}
    for name, domain in algorithm.space.items():
        values = [getattr(task, name, None) if member.hp[name] is None else member.hp[name] for member in members]
        if not domain.static and values[0] is not None:
            columns[name] = values
    return columns
