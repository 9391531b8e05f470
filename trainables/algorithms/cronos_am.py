"""CRONOS-AM (Feng, Frangella, Pilanci; NeurIPS 2024; arXiv 2411.01088): alternating minimisation of
a deep network.

    min 1/2 sum over examples |a_2 (a_1 f(x) + b)_+ - e_label|^2 + regulariser

The features f are stepped by D-Adaptation AdamW with the last two layers frozen; every `checkpoint`
steps these are solved for anew on the features of the whole training set, as a convex program.
There is no guarantee that this converges.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from .. import pulse
from ..contract import Member, Networks, State
from ..domain import Domain, Value
from ..structure import graph, heads, masks
from ..structure.units import Layer
from ..task import Task
from ..training import stack
from ..training.optimizers import DISTANCE
from ..training.precision import expect_solvable
from ..training.pruner import Context, GradientPruner, Params, Pruning, space
from ..training.start import Dense, separated
from ..tree import take
from . import _cronos_features as pruned
from ._cronos_heads import HEADS, Problem, Solved

WARMUP = 0.1
"""The share of the steps in which the rate rises, unless the task has a schedule of its own."""
EXAMPLES = 256
"""Examples whose features are computed at a time; fixed, so that results do not depend on the
cohort.
"""


class CronosAM(GradientPruner):
    """Trains the features by gradient and solves for the head: the last two layers of a model that
    ends Linear-ReLU-Linear.

    head convex: P gates for a hidden layer of H units, which holds a neuron for each class, sign
    and gate; beta brings neurons to zero, and what is zero is removed.
    least_squares: the hidden layer stays as initialised, the last one is a ridge regression.
    random_features: the hidden layer is random, drawn as gates are, the last one is a ridge
    regression.  frozen: both stay as initialised.  trained: both are stepped like the features,
    nothing is solved.
    beta: of the convex head and of ridges; the loss is a sum over examples.  head_units: H, in
    place of the model's own, which has two units for each class itself; the parent has it too.
    features: what prunes the layers below the head while they train, from a dense phase on; its
    hyper-parameters are `features.*`.
    lr: a factor of the rate that D-Adaptation finds; it has a linear decay after a warm-up of a
    tenth of the steps, unless the task names a schedule.
    iterations: of the mode solve of `cronos`; the paper's five, with its rho and its sketch, gave
    worse heads on digits. Solves are charged as `search_flops`. A row before the last shows the
    head of the last solve before it.
    """

    source = (
        "Feng, Frangella, Pilanci 2024 (arXiv 2411.01088); "
        "Defazio & Mishchenko 2023 (arXiv 2301.07733)"
    )
    version = 2
    charges = True
    follows = True
    space = space(
        **pruned.domains(),
        head=Domain(
            "choice",
            "convex",
            "how the last two layers are found",
            choices=("convex", "least_squares", "random_features", "frozen", "trained"),
            static=True,
        ),
        beta=Domain(
            "real",
            1.0,
            "the weight of the regulariser, beside a sum over examples",
            low=1e-9,
            log=True,
        ),
        gates=Domain(
            "whole",
            None,
            "the number of gates P (default and most: H // (2 classes))",
            low=1,
            static=True,
        ),
        head_units=Domain(
            "whole",
            None,
            "units of the last hidden layer (default: the model's)",
            low=1,
            static=True,
        ),
        optimizer=Domain(
            "choice",
            "dadapt_adamw",
            "of the features: with Adam's bias correction, or without",
            choices=("dadapt_adamw", "dadapt_adam"),
            static=True,
        ),
        checkpoint=Domain("whole", 100, "the number of steps between solves", low=1, static=True),
        iterations=Domain(
            "whole", 25, "ADMM iterations of a solve of the convex head", low=1, static=True
        ),
    )

    def is_control(self, hp: Mapping[str, Value]) -> bool:
        return hp["head"] != "convex"

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        task = super().parent(task, hp)
        if hp["head_units"] is not None:
            options = {**task.model_options, "of": task.model, "units": hp["head_units"]}
            task = dataclasses.replace(task, model=heads.PATH, model_options=options)
        if task.schedule == "auto":
            task = dataclasses.replace(task, schedule="linear", warmup=task.warmup or WARMUP)
        return dataclasses.replace(task, optimizer=hp["optimizer"], lr=1.0, weight_decay=0.0)

    def before(self, task: Task, hp: Mapping[str, Value]) -> int:
        """Features that are to be pruned are trained first."""
        return task.dense_steps if hp["features"] != pruned.NONE else 0

    def skip(self, task: Task) -> str | None:
        """Why the model has no head to be solved for, or nothing before it; None if it has."""
        head = graph.head(task.template, task.structure)
        if head is None or head[0].bias is None or head[1].bias is None:
            return f"the model ends in linear, ReLU, linear, with biases; {task.model} does not"
        first, last = head
        least = 2 * task.data.classes
        if first.units < least:
            rule = f"the last hidden layer has two units for each class, {least} or more"
            return f"{rule}, and a layer before it; {_model(task)} has {first.units}"
        solved = {*first.parameters, *last.parameters}
        names = {name for name, _ in task.template.named_parameters()}
        if solved >= names:
            rule = "it needs a layer before the last two, to be trained by gradient"
            return f"{rule}; {task.model} has none"
        return None

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if reason := self.skip(task):  # another `width` of the model may have too few units
            raise Mistake(reason)
        if _solves(hp):
            expect_solvable(task, f"the head {hp['head']}")
        pruned.check(self.space, hp)
        gates = hp["gates"]
        first, _ = _head_layers(task)
        most = first.units // (2 * task.data.classes)
        if gates is not None and int(gates) > most:  # type: ignore[arg-type]
            rule = "`gates` is at most the units of the last hidden layer by two for each class"
            raise Mistake(f"{rule}, {most} for {first.units} units (`head_units`); got {gates}")

    def begin(
        self,
        task: Task,
        members: Sequence[Member],
        dense: Dense,
    ) -> State:
        state = super().begin(task, members, dense)
        begun = time.perf_counter()
        hp = members[0].hp
        first, last = _head_layers(task)
        zeros = 0 * state.members["seed"]
        beta = state.members["hp"]["beta"]
        nothing = torch.full_like(beta, torch.nan)
        pruning: dict[str, Any] = {
            "spent": zeros,
            "neurons": zeros + first.units,
            "primal": nothing,
            "gap": nothing.clone(),
        }
        params = state.members["params"]
        names = (*first.parameters, *last.parameters)
        if hp["head"] != "trained":
            pruning["head"] = {name: params[name].clone() for name in names}
        if hp["features"] != pruned.NONE:
            pruning["features"] = pruned.begun(task, state, names)
        state.members["params"], state.members["pruning"] = separated(params, pruning)
        if _solves(hp):
            self._solve(task, state)
        spent = time.perf_counter() - begun
        state.scalars["seconds"] += spent / state.size
        return state

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        if "features" in pruning:
            params = pruned.effective(params, pruning["features"], ctx)
        # The head is not a parameter of the optimiser, whose weight decay would reach it.
        return {**params, **pruning.get("head", {})}

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        if "features" not in pruning:
            return params, pruning
        params, own = pruned.after_step(params, pruning["features"], ctx)
        return params, {**pruning, "features": own}

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = F.one_hot(labels, logits.shape[1])
        squares = (logits - targets).square()
        return squares.sum() / 2

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        kept: dict[str, Tensor] = {}
        if "features" in pruning:
            kept |= pruning["features"]["mask"]
        if _solves(ctx.hp):
            kept |= {name: tensor != 0 for name, tensor in pruning["head"].items()}
        return kept

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """neurons: of the head's hidden layer that are left.  primal, gap: of the last solve's
        convex program, for its gates.

        d, in `networks`: the distance that D-Adaptation has found.
        """
        return {name: pruning[name] for name in ("neurons", "primal", "gap")}

    def networks(self, task: Task, state: State) -> Networks:
        trained = super().networks(task, state)
        distance = state.members["optimizer"][DISTANCE]
        spent = state.members["pruning"]["spent"]
        return dataclasses.replace(
            trained,
            metrics={**trained.metrics, "d": distance},
            search={"flops": spent, "seconds": 0 * spent},
        )

    def due(self, hp: Mapping[str, Any], step: int, steps: int) -> bool:
        if not _solves(hp):
            return False
        return step == steps or step % hp["checkpoint"] == 0

    def every(
        self,
        task: Task,
        state: State,
        x: Tensor,
        y: Tensor,
    ) -> State:
        self._solve(task, state)
        return state

    @torch.no_grad()
    def _solve(self, task: Task, state: State) -> None:
        """Solve for the head of each member anew, in place: one after the other, each with the
        memory of one.
        """
        first, _ = _head_layers(task)
        head = state.scalars["static"]["head"]
        solve = HEADS[head]
        module = task.template.eval()
        body = graph.before(module, first.name)
        call = stack.Call(body)
        data = task.data
        labels = data.labels["train"]
        targets = F.one_hot(labels, data.classes)
        targets = targets.double()
        for k in range(state.size):
            pulse.tell("head", k, state.size)
            problem = _problem(task, state, k, call, targets)
            if problem is None:
                continue
            solved = solve(problem)
            _write(task, state, k, solved)


def _problem(
    task: Task,
    state: State,
    k: int,
    call: stack.Call,
    targets: Tensor,
) -> Problem | None:
    """What the head of member `k` is solved for; None if it has diverged, and goes on with the head
    that it has.

    call: the features of given inputs.
    """
    members = state.members
    given = _features(task, state, k, call)
    size = given.square().mean().sqrt()
    if not torch.isfinite(size):
        return None
    first, last = _head_layers(task)
    layers = task.counts.layers
    body = task.counts.flops - layers[first.name] - layers[last.name]
    head = take(members["pruning"]["head"], k)
    bias = head[str(first.bias)]
    own = torch.cat([head[first.weight], bias[:, None]], 1).double()
    static = state.scalars["static"]
    return Problem(
        features=given,
        targets=targets,
        beta=members["hp"]["beta"][k],
        seed=members["seed"][k],
        size=size,
        own=own,
        flops=len(given) * body,
        iterations=static["iterations"],
        gates=static["gates"] or first.units // (2 * task.data.classes),
    )


def _features(
    task: Task,
    state: State,
    k: int,
    call: stack.Call,
) -> Tensor:
    """What member `k` gives its head for each example, (n, d) float64."""
    params = take(state.members["params"], k)
    if "features" in state.members["pruning"]:
        mask = state.members["pruning"]["features"]["mask"]
        params = masks.apply(params, take(mask, k))
    buffers = take(state.members.get("buffers", {}), k)
    parts: list[Tensor] = []
    for x, _ in task.data.parts("train", EXAMPLES):
        features = call(params, dict(buffers), x)
        parts.append(features)
    return torch.cat(parts).double()


def _write(
    task: Task,
    state: State,
    k: int,
    solved: Solved,
) -> None:
    """Put a head in place of member `k`'s; units that it lacks are zero."""
    first, last = _head_layers(task)
    pruning = state.members["pruning"]
    head = take(pruning["head"], k)
    rest = first.units - len(solved.hidden)
    weight = solved.hidden[:, :-1] / solved.size
    bias = solved.hidden[:, -1]
    padded = {
        first.weight: F.pad(weight, (0, 0, 0, rest)),
        str(first.bias): F.pad(bias, (0, rest)),
        last.weight: F.pad(solved.outer, (0, rest)),
        str(last.bias): solved.bias,
    }
    for name, value in padded.items():
        head[name].copy_(value)
    is_neuron = head[last.weight].any(0)
    pruning["neurons"][k] = is_neuron.sum()
    pruning["spent"][k] += solved.flops
    if solved.proof is None:
        return
    primal, gap = solved.proof
    pruning["primal"][k] = primal
    pruning["gap"][k] = gap


def _model(task: Task) -> str:
    """What a sentence calls the model."""
    if task.model != heads.PATH:
        return task.model
    return f"{task.model_options['of']} with `head_units`"


def _head_layers(task: Task) -> tuple[Layer, Layer]:
    head = graph.head(task.template, task.structure)
    assert head is not None, "`check` has seen it"
    return head


def _solves(hp: Mapping[str, Any]) -> bool:
    return hp["head"] in HEADS
