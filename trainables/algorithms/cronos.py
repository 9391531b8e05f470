"""CRONOS (Feng, Frangella, Pilanci; NeurIPS 2024; arXiv 2411.01088): a two-layer ReLU network as a
convex program.

    1.  Draw h_i ~ N(0, I), i = 1..P: the gates D_i = diag(1[X h_i >= 0]), X with a column of ones.
    2.  For each class, one against the rest: minimise 1/2 |sum_i D_i X (v_i - w_i) - y|^2 + beta sum_i (|v_i| + |w_i|)
        subject to (2 D_i - I) X v_i >= 0, and the same for w_i, by ADMM.
    3.  Every non-zero v_i is a neuron with first-layer weights v_i / sqrt|v_i| and second-layer weight sqrt|v_i|, every w_i
        one with -sqrt|w_i|.

beta brings whole neurons to zero. Members that differ in beta are solved together: gates, products
with X and the factor of the linear systems are the same for all. Nothing else here can say how near
its optimum it is: `gap`, for the drawn gates.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from .. import convex
from ..contract import Algorithm, Member, Networks, State
from ..convex.admm import Iterate
from ..domain import Domain, Value
from ..task import Task

NUMBERS = 1 << 28
"""Numbers that the programs solved at a time may hold, with all that accelerates them; more are
solved in turn.
"""
COPIES = 24
"""Tensors of the size of a program's iterate that are alive at a time."""


class Cronos(Algorithm):
    """Two-layer ReLU networks for the squared loss, by convex optimisation; the task's model and
    optimiser are not used.

    beta: of a loss that is a sum over examples, so that it grows with their number.  iterations: of
    ADMM, which reads the training data once an iteration: an epoch.  mode solve: to a gap of
    `tolerance` of the objective, where it can; paper: its settings, rho .01 and 20 directions in
    the sketch, however near the optimum that comes; its loose linear solves amplify rounding, so
    that members agree with others alone for a few dozen iterations only.  refit: the second layer
    is fitted anew, all neurons to all classes, by least squares.  optimal_prune: neurons whose
    activations on the training data depend linearly on others go; the predictions there stay.
    precision: of solving; in float32 the gap has a floor: 2e-5 to 7e-5 of the objective on small
    problems with small beta, 1e-7 with larger ones.
    """

    source = "Feng, Frangella, Pilanci 2024 (arXiv 2411.01088), algorithm 1 and section 3; mode solve, refit: derivation"
    together = ("beta",)
    lighter = "`gates`, the number of training examples, or `precision` to float32"
    space = {
        "beta": Domain(
            "real",
            1.0,
            "the weight of the regulariser, beside a sum over examples",
            low=1e-9,
            log=True,
        ),
        "gates": Domain("whole", 8, "the number of gate patterns P", low=1, static=True),
        "iterations": Domain(
            "whole", None, "ADMM iterations (default: the task's epochs)", low=1, static=True
        ),
        "mode": Domain(
            "choice", "solve", "how far to solve", choices=("solve", "paper"), static=True
        ),
        "tolerance": Domain(
            "real",
            1e-4,
            "the gap that ends mode solve, as a share of the objective",
            low=0,
            static=True,
        ),
        "refit": Domain(
            "choice",
            "no",
            "whether the second layer is fitted anew",
            choices=("no", "yes"),
            static=True,
        ),
        "optimal_prune": Domain(
            "choice", "no", "whether dependent neurons go", choices=("no", "yes"), static=True
        ),
        "precision": Domain(
            "choice", "float64", "the type to solve in", choices=("float64", "float32"), static=True
        ),
    }

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        """An MLP with a hidden unit for each class, sign and gate."""
        widths = [2 * _whole(hp["gates"]) * task.data.classes]
        return dataclasses.replace(task, model="mlp", model_options={"widths": widths})

    def skip(self, task: Task) -> str | None:
        return (
            f"the data are trained on as they are: `augment` is []; got {task.augment}"
            if task.augment
            else None
        )

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if reason := self.skip(task):
            raise Mistake(reason)
        if (iterations := _iterations(task, hp)) < task.rungs:
            raise Mistake(
                f"`iterations` is at least the number of rungs, {task.rungs}; got {iterations}"
            )

    def footprint(self, task: Task, hp: Mapping[str, Value], count: int) -> int:
        n, classes, gates = len(task.data.labels["train"]), task.data.classes, _whole(hp["gates"])
        d, bytes_ = task.structure.layers[0].columns + 1, 4 if hp["precision"] == "float32" else 8
        room = convex.Room(
            n, d, classes, gates, "paper" if hp["mode"] == "paper" else "solve", task.torch_device
        )
        part = min(count, _at_a_time(classes, gates, n, d))
        solving = bytes_ * room.solving(part)
        network = classes * room.neurons * (bytes_ + 2 + 2 * task.torch_dtype.itemsize)
        wider = (
            8 * (room.problem - room.data) if bytes_ < 8 else 0
        )  # a certificate is in float64, and of float32 a copy
        proving = bytes_ * (room.problem + room.data) + wider + 8 * room.proof + count * network
        return bytes_ * count * room.member + max(solving, proving)

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """All neurons zero."""
        count, first, device = len(members), members[0], task.torch_device
        hp, classes, inputs = first.hp, task.data.classes, task.structure.layers[0].columns
        gates, n, kind = (
            _whole(hp["gates"]),
            len(task.data.labels["train"]),
            getattr(torch, str(hp["precision"])),
        )
        zero = {"dtype": kind, "device": device}
        held: dict[str, Any] = {
            "t": torch.zeros(count, classes, 2, gates, inputs + 1, **zero),
            "z": torch.zeros(count, classes, 2, gates, n, **zero),
            "u": torch.zeros(count, classes, 2, gates, inputs + 1, **zero),
            "rho": torch.zeros(count, classes, **zero),
            "used": torch.zeros(count, classes, dtype=torch.long, device=device),
            "made": torch.zeros(count, classes, dtype=torch.long, device=device),
            "beta": torch.tensor(
                [member.hp["beta"] for member in members], dtype=torch.float64, device=device
            ),
            "seed": torch.tensor([member.seed for member in members], device=device),
            "slot": torch.arange(count, device=device),
        }
        static = {name: hp[name] for name, domain in self.space.items() if domain.static}
        return State(held, {"step": 0, "rung": 0, "before": 0, "seconds": 0.0, "static": static})

    @torch.no_grad()
    def advance(self, task: Task, state: State) -> State:
        """So many iterations of ADMM for all betas of a seed together, seed after seed."""
        begun, hp, held = time.perf_counter(), state.scalars["static"], state.members
        rung, step = state.scalars["rung"] + 1, state.scalars["step"]
        last = task.rung_step(_iterations(task, hp), rung)
        for problem, index in _problems(task, state):
            for part in index.split(
                _at_a_time(len(problem.Y), _whole(hp["gates"]), *problem.program.X.shape)
            ):
                betas = held["beta"][part].to(held["t"].dtype)
                at = problem.start(betas) if step == 0 else _iterate(held, part)
                at, made = problem.run(at, betas, step, last - step, float(hp["tolerance"]))
                for field in dataclasses.fields(at):
                    held[field.name][part] = getattr(at, field.name).view_as(held[field.name][part])
                held["made"][part] += made.view(len(part), -1)
        seconds = state.scalars["seconds"] + (time.perf_counter() - begun) / state.size
        return State(
            held, {**state.scalars, "rung": rung, "step": last, "seconds": seconds}, state.shared
        )

    @torch.no_grad()
    def networks(self, task: Task, state: State) -> Networks:
        """primal, dual, gap, violation, stationarity: the certificate of what was solved, before
        refit and optimal_prune.

        beta_max: from here on the empty network is the optimum.  gates: that a neuron uses.
        neurons: in the network.
        """
        hp, held, (first, last) = state.scalars["static"], state.members, task.structure.layers
        found: list[dict[str, Tensor]] = [{} for _ in range(state.size)]
        for problem, index in _problems(task, state):
            X, most = (
                problem.program.X * problem.scale,
                convex.beta_max(problem.program, problem.Y).max() * problem.scale,
            )
            for part in index.split(1):
                v, proof = problem.found(_iterate(held, part), held["beta"][part].to(X.dtype))
                v = convex.prune_dependent(v[0], X) if hp["optimal_prune"] == "yes" else v[0]
                found[int(part)] = {
                    **_layers(v, X, problem.Y, hp["refit"] == "yes"),
                    **{name: getattr(proof, name).sum() for name in ("primal", "dual", "gap")},
                    **{name: getattr(proof, name).max() for name in ("violation", "stationarity")},
                    "beta_max": most,
                    "gates": (v.norm(dim=-1) > 0).flatten(0, 1).any(0).sum(),
                    "neurons": (v.norm(dim=-1) > 0).sum(),
                    "flops": problem.flops(held["made"][part], held["used"][part])[0],
                }
        columns = {name: torch.stack([each[name] for each in found]) for name in found[0]}
        names = {
            first.weight: "hidden",
            str(first.bias): "bias",
            last.weight: "outer",
            str(last.bias): "offset",
        }
        made = held["made"].amax(1)
        return Networks(
            params={name: columns[kind].to(task.torch_dtype) for name, kind in names.items()},
            buffers={},
            kept={name: columns[f"{kind} kept"] for name, kind in names.items()},
            metrics={name: columns[name] for name in METRICS},
            of=torch.arange(state.size, device=task.torch_device),
            progress={
                "steps": made,
                "epochs": made.double(),
                "examples": made * len(task.data.labels["train"]),
                "train_flops": columns["flops"],
            },
        )


METRICS = ("primal", "dual", "gap", "violation", "stationarity", "beta_max", "gates", "neurons")


def _problems(task: Task, state: State) -> Iterator[tuple[convex.Problem, Tensor]]:
    """For each distinct seed what its members share, and which these are; made when it is asked
    for, since it is large.
    """
    hp, seeds, kind = state.scalars["static"], state.members["seed"], state.members["t"].dtype
    labels = task.data.labels["train"]
    features = torch.cat([x.flatten(1) for x, _ in task.data.parts("train", 1024)]).to(kind)
    X, Y = convex.with_ones(features), F.one_hot(labels, task.data.classes).mT.to(kind)
    del features
    for seed in seeds.unique():
        gates = convex.patterns(X, convex.gate_vectors(seed, _whole(hp["gates"]), X.shape[1]))
        yield convex.Problem(X, Y, gates, hp["mode"]), (seeds == seed).nonzero()[:, 0]


def _at_a_time(classes: int, gates: int, n: int, d: int) -> int:
    """How many members of a seed are solved at a time; at least 1."""
    return max(1, NUMBERS // (COPIES * 2 * gates * classes * (n + d)))


def _iterate(held: Mapping[str, Tensor], part: Tensor) -> Iterate:
    """The programs of the members at `part`, the classes of one after each other."""
    return Iterate(*(held[field.name][part].flatten(0, 1) for field in dataclasses.fields(Iterate)))


def _layers(v: Tensor, X: Tensor, Y: Tensor, refit: bool) -> dict[str, Tensor]:
    """Step 3: the network of neurons v (C, 2, P, d), its bias apart, and what of it is kept."""
    hidden, outer = convex.layers(v)
    some = v.norm(dim=-1).flatten() > 0
    kept, offset = outer != 0, outer.new_zeros(len(Y))
    if refit:
        again = convex.refit((X @ hidden[some].mT).clamp(min=0), Y).to(outer)
        outer, kept, offset = torch.zeros_like(outer), some.expand_as(outer), again[:, -1]
        outer[:, some] = again[:, :-1]
    return {
        "hidden": hidden[:, :-1],
        "hidden kept": some[:, None].expand(-1, hidden.shape[1] - 1),
        "bias": hidden[:, -1],
        "bias kept": some,
        "outer": outer,
        "outer kept": kept,
        "offset": offset,
        "offset kept": torch.full_like(offset, refit, dtype=torch.bool),
    }


def _iterations(task: Task, hp: Mapping[str, Any]) -> int:
    return max(1, round(task.epochs)) if hp["iterations"] is None else _whole(hp["iterations"])


def _whole(value: Value) -> int:
    assert isinstance(value, int)
    return value
