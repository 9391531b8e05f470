"""CRONOS (Feng, Frangella, Pilanci; NeurIPS 2024; arXiv 2411.01088): a two-layer ReLU network as a
convex program.

    1.  Draw h_i ~ N(0, I), i = 1..P: the gates D_i = diag(1[X h_i >= 0]), X with a column of ones.
    2.  For each class, one against the rest, by ADMM: minimise
            1/2 |sum_i D_i X (v_i - w_i) - y|^2 + beta sum_i (|v_i| + |w_i|)
        subject to (2 D_i - I) X v_i >= 0, and the same for w_i.
    3.  Every non-zero v_i is a neuron with first-layer weights v_i / sqrt|v_i| and second-layer
        weight sqrt|v_i|, every w_i one with -sqrt|w_i|.

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
EXAMPLES = 1024
"""Examples that are read at a time."""


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

    source = (
        "Feng, Frangella, Pilanci 2024 (arXiv 2411.01088), algorithm 1 and section 3; "
        "mode solve, refit: derivation"
    )
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
        gates = _whole(hp["gates"])
        units = 2 * gates * task.data.classes
        return dataclasses.replace(
            task,
            model="mlp",
            model_options={"widths": [units]},
        )

    def skip(self, task: Task) -> str | None:
        if not task.augment:
            return None
        return f"the data are trained on as they are: `augment` is []; got {task.augment}"

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if reason := self.skip(task):
            raise Mistake(reason)
        iterations = _iterations(task, hp)
        if iterations < task.rungs:
            rule = f"`iterations` is at least the number of rungs, {task.rungs}"
            raise Mistake(f"{rule}; got {iterations}")

    def footprint(self, task: Task, hp: Mapping[str, Value], count: int) -> int:
        n, d = _extents(task)
        classes = task.data.classes
        gates = _whole(hp["gates"])
        mode = "paper" if hp["mode"] == "paper" else "solve"
        room = convex.Room(
            n=n,
            d=d,
            classes=classes,
            gates=gates,
            mode=mode,
            device=task.torch_device,
        )
        width = 4 if hp["precision"] == "float32" else 8  # bytes of a number
        at_a_time = _at_a_time(classes, gates, n, d)
        together = min(count, at_a_time)
        solving = width * room.solving(together)
        # A certificate is in float64, and of float32 a copy.
        copied = 0
        if width < 8:
            copied = 8 * (room.problem - room.data)
        held = width * (room.problem + room.data)
        of_neuron = width + 2 + 2 * task.torch_dtype.itemsize
        networks = count * classes * room.neurons * of_neuron
        proof = 8 * room.proof
        proving = held + copied + proof + networks
        states = width * count * room.member
        return states + max(solving, proving)

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """All neurons zero."""
        hp = members[0].hp
        device = task.torch_device
        programs = (len(members), task.data.classes)
        gates = _whole(hp["gates"])
        n, d = _extents(task)
        kind = getattr(torch, str(hp["precision"]))

        def zeros(*shape: int, dtype: torch.dtype = kind) -> Tensor:
            return torch.zeros(*programs, *shape, dtype=dtype, device=device)

        betas = [member.hp["beta"] for member in members]
        seeds = [member.seed for member in members]
        held: dict[str, Any] = {
            "t": zeros(2, gates, d),
            "z": zeros(2, gates, n),
            "u": zeros(2, gates, d),
            "rho": zeros(),
            "used": zeros(dtype=torch.long),
            "made": zeros(dtype=torch.long),
            "beta": torch.tensor(
                betas,
                dtype=torch.float64,
                device=device,
            ),
            "seed": torch.tensor(seeds, device=device),
            "slot": torch.arange(len(members), device=device),
        }
        static: dict[str, Value] = {}
        for name, domain in self.space.items():
            if domain.static:
                static[name] = hp[name]
        scalars: dict[str, Any] = {
            "step": 0,
            "rung": 0,
            "before": 0,
            "seconds": 0.0,
            "static": static,
        }
        return State(held, scalars)

    @torch.no_grad()
    def advance(self, task: Task, state: State) -> State:
        """So many iterations of ADMM for all betas of a seed together, seed after seed."""
        begun = time.perf_counter()
        scalars = dict(state.scalars)
        hp = scalars["static"]
        rung = scalars["rung"] + 1
        iterations = _iterations(task, hp)
        last = task.rung_step(iterations, rung)
        gates = _whole(hp["gates"])
        for problem, index in _problems(task, state):
            n, d = problem.program.X.shape
            classes = len(problem.Y)
            together = _at_a_time(classes, gates, n, d)
            for part in index.split(together):
                _iterate_to(last, problem, state, part)
        spent = time.perf_counter() - begun
        scalars["rung"] = rung
        scalars["step"] = last
        scalars["seconds"] += spent / state.size
        return dataclasses.replace(state, scalars=scalars)

    @torch.no_grad()
    def networks(self, task: Task, state: State) -> Networks:
        """primal, dual, gap, violation, stationarity: the certificate of what was solved, before
        refit and optimal_prune.

        beta_max: from here on the empty network is the optimum.  gates: that a neuron uses.
        neurons: in the network.
        """
        columns = _columns(task, state)
        first, last = task.structure.layers
        names = {
            first.weight: "hidden",
            str(first.bias): "bias",
            last.weight: "outer",
            str(last.bias): "offset",
        }
        params: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, kind in names.items():
            params[name] = columns[kind].to(task.torch_dtype)
            kept[name] = columns[f"{kind} kept"]
        made = state.members["made"].amax(1)
        examples = len(task.data.labels["train"])
        return Networks(
            params=params,
            buffers={},
            kept=kept,
            metrics={name: columns[name] for name in METRICS},
            of=torch.arange(state.size, device=task.torch_device),
            progress={
                "steps": made,
                "epochs": made.double(),
                "examples": made * examples,
                "train_flops": columns["flops"],
            },
        )


METRICS = ("primal", "dual", "gap", "violation", "stationarity", "beta_max", "gates", "neurons")


def _columns(task: Task, state: State) -> dict[str, Tensor]:
    """What there is to say of each member, (K, ...) by name."""
    rows = _rows(task, state)
    columns: dict[str, Tensor] = {}
    for name in rows[0]:
        column = [rows[k][name] for k in range(state.size)]
        columns[name] = torch.stack(column)
    return columns


def _rows(task: Task, state: State) -> dict[int, dict[str, Tensor]]:
    """What there is to say of each member, by its place in the state."""
    rows: dict[int, dict[str, Tensor]] = {}
    for problem, index in _problems(task, state):
        program = problem.program
        X = program.X * problem.scale
        most = convex.beta_max(program, problem.Y).max()
        beta_max = most * problem.scale
        for part in index.split(1):
            place = int(part)
            row = _certified(problem, X, state, part)
            row["beta_max"] = beta_max
            rows[place] = row
    return rows


def _iterate_to(
    last: int,
    problem: convex.Problem,
    state: State,
    part: Tensor,
) -> None:
    """Bring the programs of the members at `part` to iteration `last`, in place."""
    held = state.members
    step = state.scalars["step"]
    kind = held["t"].dtype
    betas = held["beta"][part].to(kind)
    at = problem.start(betas) if step == 0 else _iterate(held, part)
    hp = state.scalars["static"]
    at, made = problem.run(
        at,
        betas,
        step,
        last - step,
        float(hp["tolerance"]),
    )
    for field in dataclasses.fields(at):
        column = held[field.name]
        value = getattr(at, field.name)
        column[part] = value.view_as(column[part])
    held["made"][part] += made.view(len(part), -1)


def _certified(
    problem: convex.Problem,
    X: Tensor,
    state: State,
    part: Tensor,
) -> dict[str, Tensor]:
    """The network of the member at `part`, (1,), with its certificate and what it cost."""
    hp = state.scalars["static"]
    held = state.members
    iterate = _iterate(held, part)
    beta = held["beta"][part].to(X.dtype)
    solved, proof = problem.found(iterate, beta)
    v = solved[0]
    if hp["optimal_prune"] == "yes":
        v = convex.prune_dependent(v, X)
    refit = hp["refit"] == "yes"
    row = _layers(v, X, problem.Y, refit)
    for name in ("primal", "dual", "gap"):
        by_class = getattr(proof, name)
        row[name] = by_class.sum()
    for name in ("violation", "stationarity"):
        by_class = getattr(proof, name)
        row[name] = by_class.max()
    is_neuron = v.norm(dim=-1) > 0
    is_used = is_neuron.flatten(0, 1).any(0)
    row["gates"] = is_used.sum()
    row["neurons"] = is_neuron.sum()
    made, used = held["made"], held["used"]
    flops = problem.flops(made[part], used[part])
    row["flops"] = flops[0]
    return row


def _problems(task: Task, state: State) -> Iterator[tuple[convex.Problem, Tensor]]:
    """For each distinct seed what its members share, and which these are; made when it is asked
    for, since it is large.
    """
    hp = state.scalars["static"]
    held = state.members
    seeds = held["seed"]
    kind = held["t"].dtype
    X, Y = _data(task, kind)
    count = _whole(hp["gates"])
    columns = X.shape[1]
    for seed in seeds.unique():
        vectors = convex.gate_vectors(seed, count, columns)
        gates = convex.patterns(X, vectors)
        is_of_seed = seeds == seed
        members = is_of_seed.nonzero()[:, 0]
        yield convex.Problem(X, Y, gates, hp["mode"]), members


def _extents(task: Task) -> tuple[int, int]:
    """Of X, (n, d): examples, and features with the column of ones."""
    examples = len(task.data.labels["train"])
    first = task.structure.layers[0]
    return examples, first.columns + 1


def _data(task: Task, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """X (n, d) with a column of ones, and Y (classes, n), one class against the rest."""
    data = task.data
    parts: list[Tensor] = []
    for x, _ in data.parts("train", EXAMPLES):
        rows = x.flatten(1)
        parts.append(rows)
    features = torch.cat(parts).to(kind)
    labels = data.labels["train"]
    targets = F.one_hot(labels, data.classes)
    X = convex.with_ones(features)
    Y = targets.mT.to(kind)
    return X, Y


def _at_a_time(
    classes: int,
    gates: int,
    n: int,
    d: int,
) -> int:
    """How many members of a seed are solved at a time; at least 1."""
    iterate = 2 * gates * classes * (n + d)
    needed = COPIES * iterate
    return max(1, NUMBERS // needed)


def _iterate(held: Mapping[str, Tensor], part: Tensor) -> Iterate:
    """The programs of the members at `part`, the classes of one after each other."""
    fields: dict[str, Tensor] = {}
    for field in dataclasses.fields(Iterate):
        name = field.name
        column = held[name]
        own = column[part]
        fields[name] = own.flatten(0, 1)
    return Iterate(**fields)


def _layers(
    v: Tensor,
    X: Tensor,
    Y: Tensor,
    refit: bool,
) -> dict[str, Tensor]:
    """Step 3: the network of neurons v (C, 2, P, d), its bias apart, and what of it is kept."""
    hidden, outer = convex.layers(v)
    is_neuron = v.norm(dim=-1).flatten() > 0
    kept = outer != 0
    offset = outer.new_zeros(len(Y))
    if refit:
        given = X @ hidden[is_neuron].mT
        active = given.clamp(min=0)
        again = convex.refit(active, Y).to(outer)
        outer = torch.zeros_like(outer)
        outer[:, is_neuron] = again[:, :-1]
        kept = is_neuron.expand_as(outer)
        offset = again[:, -1]
    features = hidden.shape[1] - 1
    return {
        "hidden": hidden[:, :-1],
        "hidden kept": is_neuron[:, None].expand(-1, features),
        "bias": hidden[:, -1],
        "bias kept": is_neuron,
        "outer": outer,
        "outer kept": kept,
        "offset": offset,
        "offset kept": torch.full_like(offset, refit, dtype=torch.bool),
    }


def _iterations(task: Task, hp: Mapping[str, Any]) -> int:
    if hp["iterations"] is None:
        return max(1, round(task.epochs))
    return _whole(hp["iterations"])


def _whole(value: Value) -> int:
    assert isinstance(value, int)
    return value
