"""CRONOS-AM (Feng, Frangella, Pilanci; NeurIPS 2024; arXiv 2411.01088): alternating minimisation of
a deep network.

    min 1/2 sum over examples |a_2 (a_1 f(x) + b)_+ - e_label|^2 + regulariser

The features f are stepped by D-Adaptation Adam with the last two layers frozen; every `checkpoint`
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
from .. import convex, pulse
from ..contract import Domain, Member, Networks, State, Value
from ..structure import graph
from ..structure.units import Layer
from ..task import Task
from ..training import stack
from ..training.optimizers import DISTANCE
from ..training.pruner import Context, Dense, GradientPruner, Params, Pruning, space

TOLERANCE = 1e-4
"""At which a solve of the convex head ends, if it comes so near."""
EXAMPLES = 256
"""Examples whose features are computed at a time; fixed, so that results do not depend on the
cohort.
"""


class CronosAM(GradientPruner):
    """Trains the features by gradient and solves for the head: the last two layers of a model that
    ends Linear-ReLU-Linear.

    head convex: P = H // (2 classes) gates for a hidden layer of H units, which then holds a neuron
    for each class, sign and gate; beta brings neurons to zero, and what is zero is removed.
    least_squares: the hidden layer stays as initialised, the last one is a ridge regression.
    random_features: the hidden layer are the P vectors that give the gates, the last one is a ridge
    regression.  frozen: both stay as initialised.  trained: both are stepped like the features,
    nothing is solved.
    beta: of the convex head and of ridges; the loss is a sum over examples.  lr: a factor of the
    rate that D-Adaptation finds.
    iterations: of the mode solve of `cronos`; the paper's five, with its rho and its sketch, gave
    worse heads on digits. Solves are charged as `search_flops`. A row before the last shows the
    head of the last solve before it.
    """

    source = "Feng, Frangella, Pilanci 2024 (arXiv 2411.01088); Defazio & Mishchenko 2023 (arXiv 2301.07733)"
    charges = True
    space = space(
        head=Domain(
            "choice", "convex", "how the last two layers are found", static=True,
            choices=("convex", "least_squares", "random_features", "frozen", "trained"),
        ),
        beta=Domain("real", 1.0, "the weight of the regulariser, beside a sum over examples", low=1e-9, log=True),
        checkpoint=Domain("whole", 100, "the number of steps between solves", low=1, static=True),
        iterations=Domain("whole", 25, "ADMM iterations of a solve of the convex head", low=1, static=True),
    )  # fmt: skip

    def is_control(self, hp: Mapping[str, Value]) -> bool:
        return hp["head"] != "convex"

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        task = super().parent(task, hp)
        return dataclasses.replace(
            task, optimizer="dadapt_adam", lr=1.0, weight_decay=0.0, schedule="constant"
        )

    def skip(self, task: Task) -> str | None:
        """Why the model has no head to be solved for, or nothing before it; None if it has."""
        head = graph.head(task.template, task.structure)
        if head is None or head[0].bias is None or head[1].bias is None:
            return f"the model ends in linear, ReLU, linear, with biases; {task.model} does not"
        least, units = 2 * task.data.classes, head[0].units
        if units < least:
            return f"the last hidden layer has two units for each class, {least} or more; {task.model} has {units}"
        solved = {name for layer in head for name in layer.parameters}
        if solved >= {name for name, _ in task.template.named_parameters()}:
            return f"there are parameters before the last two layers, to be trained; {task.model} has none"
        return None

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if reason := self.skip(task):  # another `width` of the model may have too few units
            raise Mistake(reason)

    def begin(self, task: Task, members: Sequence[Member], dense: Dense) -> State:
        state, begun = super().begin(task, members, dense), time.perf_counter()
        first, last = _head(task)
        seeds, nothing = (
            state.members["seed"],
            torch.full_like(state.members["hp"]["beta"], torch.nan),
        )
        pruning = {
            "spent": 0 * seeds,
            "neurons": 0 * seeds + first.units,
            "primal": nothing,
            "gap": nothing.clone(),
        }
        if members[0].hp["head"] != "trained":
            names = (*first.parameters, *last.parameters)
            pruning["head"] = {name: state.members["params"][name].clone() for name in names}
        state.members["pruning"] = pruning
        if _solves(members[0].hp):
            self._solve(task, state)
        state.scalars["seconds"] += (time.perf_counter() - begun) / state.size
        return state

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return {
            **params,
            **pruning.get("head", {}),
        }  # not a parameter of the optimiser, whose weight decay would reach it

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits - F.one_hot(labels, logits.shape[1])).square().sum() / 2

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return (
            {name: tensor != 0 for name, tensor in pruning["head"].items()}
            if _solves(ctx.hp)
            else {}
        )

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """neurons: of the head's hidden layer that are left.  primal, gap: of the last solve's
        convex program, for its gates.

        d, in `networks`: the distance that D-Adaptation has found.
        """
        return {name: pruning[name] for name in ("neurons", "primal", "gap")}

    def networks(self, task: Task, state: State) -> Networks:
        found, spent = super().networks(task, state), state.members["pruning"]["spent"]
        metrics = {**found.metrics, "d": state.members["optimizer"][DISTANCE]}
        return dataclasses.replace(
            found, metrics=metrics, search={"flops": spent, "seconds": 0 * spent}
        )

    def due(self, hp: Mapping[str, Any], step: int, steps: int) -> bool:
        return _solves(hp) and (step % hp["checkpoint"] == 0 or step == steps)

    def every(self, task: Task, state: State, x: Tensor, y: Tensor) -> State:
        self._solve(task, state)
        return state

    @torch.no_grad()
    def _solve(self, task: Task, state: State) -> None:
        """Solve for the head of each member anew, in place: one after the other, each with the
        memory of one.
        """
        (first, last), classes = _head(task), task.data.classes
        hp, pruning = state.scalars["static"], state.members["pruning"]
        call = stack.Call(graph.before(task.template.eval(), first.name))
        body = task.counts.flops - task.counts.layers[first.name] - task.counts.layers[last.name]
        targets = F.one_hot(task.data.labels["train"], classes).double()
        for k in range(state.size):
            pulse.tell("head", k, state.size)
            params, buffers = (
                {n: t[k] for n, t in state.members.get(kind, {}).items()}
                for kind in ("params", "buffers")
            )
            parts = [call(params, dict(buffers), x) for x, _ in task.data.parts("train", EXAMPLES)]
            features, beta = torch.cat(parts).double(), state.members["hp"]["beta"][k]
            size = features.square().mean().sqrt()
            if not torch.isfinite(size):
                continue  # it has diverged, and goes on with the head that it has
            head = {name: tensor[k] for name, tensor in pruning["head"].items()}
            if hp["head"] == "least_squares":
                size = torch.ones_like(size)
                hidden = torch.cat([head[first.weight], head[str(first.bias)][:, None]], 1).double()
            else:  # features of one size at every solve, so that beta and the gates keep their meaning
                size = torch.where(size > 0, size, 1.0)
                hidden = convex.gate_vectors(
                    state.members["seed"][k], first.units // (2 * classes), features.shape[1] + 1
                )
            x = convex.with_ones(features / size)
            given, (n, d) = x @ hidden.mT, x.shape
            spent = n * (body + 2 * d * len(hidden))
            if hp["head"] == "convex":
                found = convex.solve(
                    x,
                    targets.mT,
                    given >= 0,
                    beta[None],
                    iterations=hp["iterations"],
                    tolerance=TOLERANCE,
                )
                hidden, outer, bias = *convex.layers(found.v[0].mT), targets.new_zeros(classes)
                pruning["primal"][k], pruning["gap"][k] = found.objective[0], found.gap[0]
                spent += int(found.flops[0])
            else:
                outer, bias = ridge(given.relu(), targets, beta)
                spent += (
                    2 * n * (len(hidden) + 1) * (len(hidden) + 1 + classes)
                )  # Gram matrix and right-hand side
            rest = first.units - len(hidden)
            head[first.weight].copy_(F.pad(hidden[:, :-1] / size, (0, 0, 0, rest)))
            head[str(first.bias)].copy_(F.pad(hidden[:, -1], (0, rest)))
            head[last.weight].copy_(F.pad(outer, (0, rest)))
            head[str(last.bias)].copy_(bias)
            pruning["neurons"][k] = head[last.weight].any(0).sum()
            pruning["spent"][k] += spent


def ridge(hidden: Tensor, targets: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, m) and biases (C,) that minimise 1/2 |hidden W' + b - targets|^2 + beta/2 (|W|^2
    + |b|^2).

    hidden: (n, m).  targets: (n, C).  beta: () > 0.
    """
    x = convex.with_ones(hidden)
    gram = x.mT @ x + beta * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    found = torch.linalg.solve_ex(gram, x.mT @ targets).result.mT
    return found[:, :-1], found[:, -1]


def _head(task: Task) -> tuple[Layer, Layer]:
    found = graph.head(task.template, task.structure)
    assert found is not None, "`check` has seen it"
    return found


def _solves(hp: Mapping[str, Any]) -> bool:
    return hp["head"] not in ("frozen", "trained")
