"""GradientPruner: the training loop of a cohort. A pruner gives functions for ONE network; the loop
lifts them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, locate
from .. import models, pulse
from ..contract import Algorithm, Domain, Member, Networks, State, Tree, Value, complete, map_tree
from ..data.splits import augment
from ..measure.flops import charging, uncharged
from ..structure import narrow
from ..structure.alive import read
from ..structure.units import Structure
from ..task import Task
from . import draws, dropout, optimizers, stack

Params = Mapping[str, Tensor]
Pruning = Tree

STEP = 0.9
"""A stack is cut when less than this share of its hidden units would be left, or when a block is
gone.
"""

_SHAPED = ("params", "buffers", "pruning", "units")
"""What of a state's members has the shape of the stack."""


@dataclasses.dataclass(slots=True)
class Context:
    """What a pruner's functions may know beside parameters.

    hp: by name, a number () float64, or (layers,) for a `reals` domain; static ones are plain
    values, and those left to the algorithm (None) are absent.  seed: () int64.  step: steps done
    since `start`, of `steps` in all.
    structure: of the network as it is now, which may be narrower than the parent.  schedule: factor
    of the learning rate at a step.
    """

    hp: Mapping[str, Any]
    seed: Tensor
    step: int
    steps: int
    structure: Structure
    schedule: Callable[[int], float] = lambda step: 1.0

    def uniform(self, site: str, shape: tuple[int, ...] = (), index: Tensor | int = 0) -> Tensor:
        """Numbers in [0, 1), float64, drawn from (seed, step, site) alone; `index` counts further
        draws of the shape.
        """
        return draws.uniform(draws.key(self.seed, self.step, site), shape, index=index)


def space(**own: Domain) -> dict[str, Domain]:
    """A pruner's hyper-parameters, and those that every training by gradient has."""
    return {
        **own,
        "width": Domain(
            "real",
            1.0,
            "the parent's width, in widths of the task's model",
            low=0.01,
            high=100,
            log=True,
            static=True,
        ),
        "lr": Domain(
            "real", None, "the learning rate (default: the task's)", low=0, log=True, tunable=True
        ),
        "weight_decay": Domain(
            "real", None, "the L2 penalty (default: the task's)", low=0, log=True, tunable=True
        ),
    }


class GradientPruner(Algorithm):
    """An algorithm that trains by gradient. Subclasses override functions of one network, without
    branches on tensors.

    What a subclass computes in a `start`, `begin` or `every` of its own is counted, and charged to
    its members in equal parts as `search_flops`; not so if it says by `charges` that it does so
    itself, in `Networks.search`.
    """

    source = "plain training by gradient"
    space: ClassVar[Mapping[str, Domain]] = space()
    charges: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in ("start", "begin", "every"):
            if name in vars(cls):
                setattr(cls, name, _charged(vars(cls)[name]))

    def init(self, params: Params, ctx: Context) -> Pruning:
        """Masks, gates, or whatever the pruner keeps, before the first step."""
        return {}

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """What the network computes with; the loss's gradient reaches `params` through this
        function.
        """
        return params

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is minimised, summed over examples, (): cross-entropy. logits: (n, classes).
        labels: (n,).
        """
        return F.cross_entropy(logits, labels, reduction="sum")

    def penalty(self, params: Params, pruning: Pruning, ctx: Context) -> Tensor | None:
        """Added to the loss, (); None adds nothing."""
        return None

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        """Parameters and pruning after an optimiser's step; `ctx.step` counts it."""
        return params, pruning

    def measured(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """What is measured: a network of its own, with nothing left to chance."""
        return self.effective(params, pruning, ctx)

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """Name -> bool, True keeps, for each removable parameter not kept whole; block -> () bool,
        if it may be gone.
        """
        return {}

    def lasting(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        """Of `kept`, what stays as it is removed to the end: units and blocks in it are cut out of
        the stack.

        Masks of all that reads a unit must be there. Tensors of `pruning` are cut too, known by the
        last word of their path: a parameter, a hidden layer (one entry for each unit), or a block.
        """
        return {}

    def due(self, hp: Mapping[str, Value], step: int, steps: int) -> bool:
        """Whether `every` is called after `step` of `steps` optimiser steps. hp: the static ones."""
        return False

    def every(self, task: Task, state: State, x: Tensor, y: Tensor) -> State:
        """Work outside `vmap`, driven by data: inputs (K, B, *shape) and labels (K, B) of the step
        just made.
        """
        return state

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """The pruner's own figures, name -> ()."""
        return {}

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        """The model at another `width`."""
        if hp["width"] == 1:
            return task
        names, others = models.options(models.lookup(task.model, models.MODELS, "model"), given=2)
        if "width" not in names and not others:
            raise Mistake(
                f"`width` other than 1 needs a model with an option `width`; {task.model} has none"
            )
        width = float(task.model_options.get("width", 1)) * float(hp["width"])  # type: ignore[arg-type]
        return dataclasses.replace(task, model_options={**task.model_options, "width": width})

    def before(self, task: Task, hp: Mapping[str, Value]) -> int:
        """Steps of dense training that members start from."""
        return task.dense_steps if self.from_dense else 0

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """Initial or dense-trained weights, and what `init` makes of them."""
        return self.begin(
            task,
            members,
            dense_networks(
                task, [member.seed for member in members], self.before(task, members[0].hp)
            ),
        )

    def begin(self, task: Task, members: Sequence[Member], dense: Dense) -> State:
        """The state of members that start from `dense`, one network for each."""
        seeds, first, device = [member.seed for member in members], members[0], task.torch_device
        params, buffers = dense.params, dense.buffers
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
        state = State(
            held,
            {
                "step": 0,
                "rung": 0,
                "before": dense.steps,
                "seconds": dense.seconds,
                "static": static,
            },
        )

        context = self._contexts(task, state)

        def init(params: Params, given: Params) -> Pruning:
            return self.init(params, context(given, 0))

        held["pruning"] = stack.lift(init, state.size)(params, varying(held))
        held["params"], held["pruning"] = _own(params, held["pruning"])
        return state

    def advance(self, task: Task, state: State) -> State:
        """To the next rung: all members together, or one after the other if `vmap` refuses the
        model.
        """
        if state.size > 1 and not task.stackable:
            alone = [self.advance(task, state.select([k])) for k in range(state.size)]
            joined = State.concatenate(alone)
            for spent in ("seconds", "charged"):
                if spent in joined.scalars:
                    joined.scalars[spent] = sum(each.scalars[spent] for each in alone) / state.size
            return joined
        begun, rung = time.perf_counter(), state.scalars["rung"] + 1
        last = task.rung_step(task.steps - state.scalars["before"], rung)
        # A model that vmap refuses may draw from torch's generator, which is then seeded at each
        # step.
        with torch.random.fork_rng(enabled=not task.stackable):
            state = self._train(task, self.compact(task, state), last)
        state.scalars |= {
            "rung": rung,
            "seconds": state.scalars["seconds"] + (time.perf_counter() - begun) / state.size,
        }
        return state

    def compact(self, task: Task, state: State) -> State:
        """The same members in the smallest stack that holds what is left of them, if that is
        smaller than theirs.
        """
        _, structure = task.cut(state.scalars.get("cut"))
        if (
            type(self).lasting is GradientPruner.lasting
            or not structure.sites
            or not (task.stackable and task.narrows)
        ):
            return state
        params, pruning = state.members["params"], state.members.get("pruning", {})
        context, step = self._contexts(task, state), state.scalars["step"]

        def lasting(params: Params, pruning: Pruning, given: Params) -> Params:
            return self.lasting(params, pruning, context(given, step))

        with torch.no_grad():
            left = stack.lift(lasting, state.size)(params, pruning, varying(state.members))
        none = torch.zeros(state.size, dtype=torch.bool, device=task.torch_device)
        gone = {
            block.name: ~left[block.name] if block.name in left else none
            for block in structure.blocks
        }
        alive = read(structure, left)
        trees = {name: tree for name, tree in state.members.items() if name in _SHAPED}
        clear = functools.partial(narrow.cleared, structure=structure, alive=alive, gone=gone)
        kept = optimizers.reshaped(task, state.members.get("optimizer", {}), clear)
        cleared = {**state.members, **clear(trees), "optimizer": kept}
        state = State(cleared, state.scalars, state.shared)
        cut, index = narrow.survivors(structure, alive, gone)
        if not cut.gone and sum(cut.widths.values()) >= STEP * sum(
            layer.units for layer in structure.hidden
        ):
            return state
        all_ = {
            layer.name: torch.arange(layer.units, device=task.torch_device)
            for layer in structure.hidden
        }
        places = {name: units.expand(state.size, -1) for name, units in all_.items()}
        trees = {name: tree for name, tree in state.members.items() if name in _SHAPED}
        trees["units"] = {**places, **state.members.get("units", {})}
        gather = functools.partial(narrow.gathered, structure=structure, cut=cut, index=index)
        kept = optimizers.reshaped(task, state.members["optimizer"], gather)
        members = {**state.members, **gather(trees), "optimizer": kept}
        lost = (*state.scalars.get("cut", {}).get("gone", ()), *cut.gone)
        settings = {"widths": dict(cut.widths), "gone": list(lost)}
        return State(members, {**state.scalars, "cut": settings}, state.shared)

    def networks(self, task: Task, state: State) -> Networks:
        """One network for each member."""
        params, pruning = state.members["params"], state.members.get("pruning", {})
        context, step = self._contexts(task, state), state.scalars["step"]
        _, structure = task.cut(state.scalars.get("cut"))
        removable = structure.parameters

        def measured(params: Params, pruning: Pruning, given: Params) -> Tree:
            ctx = context(given, step)
            effective = self.measured(params, pruning, ctx)
            kept = {name: torch.ones_like(params[name], dtype=torch.bool) for name in removable}
            kept |= {
                block.name: torch.ones_like(given["seed"], dtype=torch.bool)
                for block in structure.blocks
            }
            return {
                "params": dict(effective),
                "kept": {**kept, **self.kept(params, pruning, ctx)},
                "metrics": dict(self.metrics(params, pruning)),
            }

        with torch.no_grad():
            found = stack.lift(measured, state.size)(params, pruning, varying(state.members))
        params, buffers, kept = found["params"], state.members.get("buffers", {}), found["kept"]
        if "cut" in state.scalars:
            parent, units = task.structure, state.members.get("units", {})
            trained, fixed = (stack.single(tree) for tree in stack.stacked([task.template]))
            masks = {name: trained[name].bool() for name in parent.parameters}
            masks |= {
                block.name: torch.ones((), dtype=torch.bool, device=task.torch_device)
                for block in parent.blocks
            }
            params, buffers, kept = (
                narrow.restored(tree, parent, like, units, state.size)
                for tree, like in ((params, trained), (buffers, fixed), (kept, masks))
            )
        return Networks(
            params,
            buffers,
            kept,
            found["metrics"],
            torch.arange(state.size, device=task.torch_device),
        )

    def _contexts(self, task: Task, state: State) -> Callable[[Params, int], Context]:
        """A function of (what differs between members, step); made outside `vmap`, since it looks
        at the model.
        """
        static, steps = state.scalars["static"], task.steps - state.scalars["before"]
        _, structure = task.cut(state.scalars.get("cut"))
        course = optimizers.SCHEDULES[task.schedule]

        def rate(step: int) -> float:
            return course(step, steps)

        def context(given: Tree, step: int) -> Context:
            return Context({**static, **given["hp"]}, given["seed"], step, steps, structure, rate)

        return context

    def _train(self, task: Task, state: State, last: int) -> State:
        """The members after step `last`, with `every` between the steps after which it is due."""
        batches, steps = self._batches(task, state, last), task.steps - state.scalars["before"]
        while (step := state.scalars["step"]) < last:
            due = (
                later
                for later in range(step + 1, last)
                if self.due(state.scalars["static"], later, steps)
            )
            end = next(due, last)
            members, x, y = self._steps(task, state, itertools.islice(batches, end - step))
            state = State(members, {**state.scalars, "step": end}, state.shared)
            if self.due(state.scalars["static"], end, steps):
                state = self.every(task, state, x, y)
        return state

    def first_step(self, task: Task, state: State) -> State:
        """The members after their first step: a rehearsal."""
        with torch.random.fork_rng(enabled=not task.stackable):
            if state.size > 1 and not task.stackable:
                return State.concatenate(
                    [self._train(task, state.select([k]), 1) for k in range(state.size)]
                )
            return self._train(task, state, 1)

    def _steps(
        self, task: Task, state: State, batches: Iterable[tuple[int, Tensor, Tensor]]
    ) -> tuple[dict[str, Any], Tensor, Tensor]:
        """The members after a step for each of `batches`, and the last of those.

        One body for a stack and for a lone member, whose trees lose their leading 1.
        """
        lone, (module, _) = state.size == 1, task.cut(state.scalars.get("cut"))
        module.train()
        trees = stack.single(state.members) if lone else state.members
        params: Params = map_tree(lambda p: p.detach().requires_grad_(), trees["params"])
        buffers, pruning, given = trees.get("buffers", {}), trees.get("pruning", {}), varying(trees)
        steps = task.steps - state.scalars["before"]
        context, call, drops = (
            self._contexts(task, state),
            stack.Call(module),
            dropout.keys(module),
        )

        def outputs(
            params: Params, buffers: Params, pruning: Pruning, given: Params, x: Tensor
        ) -> dict[str, Any]:
            ctx = context(given, step)
            held = {name: value.clone() for name, value in buffers.items()}
            held |= {name: draws.key(ctx.seed, step, name) for name in drops}
            logits = call(self.effective(params, pruning, ctx), held, x)
            penalty = self.penalty(params, pruning, ctx)
            found = {"logits": logits, "buffers": {name: held[name].detach() for name in buffers}}
            return found if penalty is None else {**found, "penalty": penalty}

        def after(params: Params, pruning: Pruning, given: Params) -> tuple[Params, Pruning]:
            return self.after_step(params, pruning, context(given, step + 1))

        forward, follow = (
            (outputs, after)
            if lone
            else (stack.lift(outputs, state.size), stack.lift(after, state.size))
        )
        follows = type(self).after_step is not GradientPruner.after_step
        update = optimizers.updater(task, trees["hp"], trees.get("optimizer", {}), steps)
        inputs = labels = torch.empty(0)
        for step, inputs, labels in batches:  # `outputs` and `after` read `step`
            x, y = (inputs[0], labels[0]) if lone else (inputs, labels)
            if not task.stackable:
                torch.manual_seed(int(draws.key(given["seed"], step, "torch")))
            found = forward(params, buffers, pruning, given, x)
            buffers = found["buffers"]
            # Outside of vmap, where it costs less; the sum over members has each member's gradient.
            fit = self.loss(found["logits"].flatten(0, -2), y.flatten()) / task.batch_size
            total = fit + found["penalty"].sum() if "penalty" in found else fit
            grads = torch.autograd.grad(total, list(params.values()), materialize_grads=True)
            with torch.no_grad():
                update(params, dict(zip(params, grads, strict=True)), step)
                if follows:
                    params, pruning = _own(*follow(params, pruning, given))
                    params = map_tree(lambda p: p.detach().requires_grad_(), params)
            pulse.tell("step", step + 1, steps)
        done = {
            **trees,
            "params": map_tree(Tensor.detach, params),
            "buffers": buffers,
            "pruning": pruning,
        }
        return stack.restacked(done) if lone else done, inputs, labels

    def _batches(self, task: Task, state: State, last: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each step up to `last` with its inputs (K, B, *shape) and labels (K, B), a function of
        the members' seeds.

        Read, and augmented, once for each distinct seed.
        """
        seeds = state.members["seed"]
        distinct = torch.tensor(list(dict.fromkeys(seeds.tolist())), device=seeds.device)
        of = (seeds[:, None] == distinct).int().argmax(1) if len(distinct) < len(seeds) else None
        site = (
            "pruning" if state.scalars["before"] else "order"
        )  # the dense phase before it, a task of its own, draws others
        count = len(task.data.labels["train"])
        orders = functools.lru_cache(1)(
            lambda epoch: draws.permutation(draws.key(distinct, epoch, site), count)
        )

        def rows(step: int) -> Tensor:
            epoch, place = divmod(step, task.steps_per_epoch)
            return orders(epoch)[:, place * task.batch_size : (place + 1) * task.batch_size]

        steps = range(state.scalars["step"], last)
        for step, (x, y) in zip(steps, task.data.feed(map(rows, steps)), strict=True):
            if task.augment:
                x = augment(x, task.augment, draws.key(distinct, step, f"{site} augment"))
            yield step, *((x, y) if of is None else (x[of], y[of]))


def _charged(method: Callable[..., State]) -> Callable[..., State]:
    """`method`, (self, task, ...) -> State, that adds what it costs to the state's scalar
    `charged`, FLOPs of a member.
    """

    @functools.wraps(method)
    def counted(self: GradientPruner, task: Task, *args: Any, **kwargs: Any) -> State:
        if self.charges:
            return method(self, task, *args, **kwargs)
        # What the task finds out by trying its model belongs to no member, and is known after the
        # first one.
        _ = task.data, task.stackable, task.structure, task.counts, task.narrows
        with charging() as counter:
            state = method(self, task, *args, **kwargs)
        if not isinstance(
            state, State
        ):  # a mistake in an algorithm of a user's own, which the rehearsal names
            return state
        charged = state.scalars.get("charged", 0) + counter.total / state.size
        return State(state.members, {**state.scalars, "charged": charged}, state.shared)

    return counted


@dataclasses.dataclass
class Dense:
    """Networks after `steps` of dense training, one for each of K members; seconds: what one of
    them took.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    steps: int
    seconds: float


def dense_networks(task: Task, seeds: Sequence[int], steps: int) -> Dense:
    """Networks of `seeds` after `steps` of dense training with a schedule of their own, as phases
    of the budget have it.

    Every distinct seed is trained once; with `task.starts`, once for all cohorts of the task.
    """
    with uncharged():  # it is charged by its steps
        return _dense_networks(task, seeds, steps)


def _dense_networks(task: Task, seeds: Sequence[int], steps: int) -> Dense:
    if not steps:
        return Dense(*task.initial(seeds), 0, 0.0)
    phase = _dense_phase(task, steps)
    distinct = list(dict.fromkeys(seeds))
    places = [_place(task, phase, seed) for seed in distinct]
    missing = [
        seed
        for seed, place in zip(distinct, places, strict=True)
        if place is None or not place.exists()
    ]
    trained: dict[int, State] = {}
    if missing:
        # What is shared must not depend on who trains it, and a stack of one rounds differently:
        # train two.
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
    return Dense(joined["params"], joined.get("buffers", {}), steps, seconds)


def dense_ready(task: Task, seeds: Sequence[int]) -> bool:
    """Whether the networks of `seeds` after the task's dense phase are in `task.starts`."""
    if not task.dense_steps:
        return True
    phase = _dense_phase(task, task.dense_steps)
    return all((place := _place(task, phase, seed)) and place.exists() for seed in seeds)


def _dense_phase(task: Task, steps: int) -> Task:
    """Dense training for `steps` as a task of its own, with a schedule of its own."""
    return dataclasses.replace(task, epochs=steps / task.steps_per_epoch, rungs=1, starts="")


def _place(task: Task, phase: Task, seed: int) -> Location | None:
    """Where the dense network of `seed` is kept for other cohorts."""
    if not task.starts:
        return None
    name = hashlib.sha256(
        json.dumps([phase.describe(), seed], sort_keys=True).encode()
    ).hexdigest()[:16]
    return locate(task.starts) / f"{name}.safetensors"


def _own(params: Params, pruning: Pruning) -> tuple[Params, Pruning]:
    """The same values, each parameter in memory of its own: an optimiser writes there in place."""
    taken: set[torch.UntypedStorage] = set()
    own: dict[str, Tensor] = {}
    for name, parameter in params.items():
        place = parameter.untyped_storage()
        if place in taken or 0 in parameter.stride():
            parameter = parameter.clone(memory_format=torch.contiguous_format)
            place = parameter.untyped_storage()
        taken.add(place)
        own[name] = parameter

    def apart(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.untyped_storage() in taken else tensor

    return own, map_tree(apart, pruning)


def varying(trees: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters and seed: what differs between members beside their networks."""
    return {"hp": trees.get("hp", {}), "seed": trees["seed"]}


def _columns(task: Task, algorithm: Algorithm, members: Sequence[Member]) -> dict[str, list[Any]]:
    """Values of the hyper-parameters that may differ between members; None means the task's, where
    the task has the name.
    """
    columns: dict[str, list[Any]] = {}
    for name, domain in algorithm.space.items():
        values = [
            getattr(task, name, None) if member.hp[name] is None else member.hp[name]
            for member in members
        ]
        if not domain.static and domain.kind != "text" and values[0] is not None:
            columns[name] = values
    return columns
