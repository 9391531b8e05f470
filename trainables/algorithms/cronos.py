"""CRONOS (Feng, Frangella, Pilanci; NeurIPS 2024; arXiv 2411.01088): a two-layer ReLU network as a
convex program.

    1.  Choose h_i, i = 1..P, from N(0, I) or where they help: the gates D_i = diag(1[X h_i >= 0]),
        X with a column of ones.
    2.  For each class, one against the rest (two classes: once, with y = +-1), by ADMM: minimise
            1/2 |sum_i D_i X (v_i - w_i) - y|^2 + beta sum_i (|v_i| + |w_i|)
        subject to (2 D_i - I) X v_i >= 0, and the same for w_i.
    3.  Every non-zero v_i is a neuron with first-layer weights v_i / sqrt|v_i| and second-layer
        weight sqrt|v_i|, every w_i one with -sqrt|w_i|.
    4.  Optionally, of these neurons the few are selected that explain most, with one second layer.

beta brings whole neurons to zero. Members that differ in beta are solved together: gates, products
with X and the factor of the linear systems are the same for all. Nothing else here can say how near
its optimum it is: `gap`, for the drawn gates.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from .. import convex
from ..contract import Algorithm, Member, Networks, State
from ..convex.admm import Iterate
from ..domain import Domain, Value, expect_defaults
from ..task import Task
from ..training.precision import expect_solvable
from . import _cronos_gates as gates
from ._cronos_network import network, random_neurons

NUMBERS = 1 << 28
"""Numbers that the programs solved at a time may hold, with all that accelerates them; more are
solved in turn.
"""
COPIES = 24
"""Tensors of the size of a program's iterate that are alive at a time."""
SHARE = 0.1
"""beta where none is given: a share of beta_max."""
PAPER_BETA = 1e-3
"""beta of the mode paper where none is given, as it is."""
PAPER_ITERATIONS = 5
"""Iterations of ADMM of the mode paper where none are given."""


class Cronos(Algorithm):
    """Two-layer ReLU networks for the squared loss, by convex optimisation; the task's model and
    optimiser are not used, but for gates from `sgd`.

    beta: a share of beta_max, the least weight at which the network is empty.  beta_absolute: the
    paper's number instead; the loss is a sum over examples, so that it grows with their number.
    iterations: of ADMM, which reads the training data once an iteration: an epoch.  mode solve: to
    a gap of `tolerance` of the objective, where it can; paper: its settings, rho 0.01, 20
    directions in the sketch, and conjugate gradients from zero to a residual of (1 + k)^-1.2,
    however near the optimum that comes; its loose linear solves amplify rounding, so that members
    agree with others alone for a few dozen iterations only.
    gates_from normal: as in the paper; pairs: halfway between random pairs of examples; sgd: hidden
    units of a network of P of them after `gate_epochs`, which the member is charged for.
    Where no weight is given, mode solve keeps the longest 32 neurons at most.
    select greedy: forward selection of at most `neurons` with one second layer for all classes, a
    ridge regression; beta: as they are.  units_from random_features: random ReLU units in place of
    the convex program's, as many as it may have, and the same selection: a control.
    refit: the second layer is fitted anew, all neurons to all classes, by least squares.
    optimal_prune: neurons whose activations on the training data depend linearly on others go; the
    predictions there stay.
    precision: of solving, whichever of float32 and float64 the task's is, which networks have; the
    task's can be no other. In float32 the gap has a floor: 2e-5 to 7e-5 of the objective on small
    problems with small beta, 1e-7 with larger ones. Certificates are computed in float64.
    """

    source = (
        "Feng, Frangella, Pilanci 2024 (arXiv 2411.01088), algorithm 1 and section 3; "
        "mode solve, refit, gates_from pairs and sgd, select: derivation"
    )
    version = 3
    together = ("beta", "beta_absolute", "neurons")
    lighter = "`gates`, the number of training examples, or `precision` to float32"
    space = {
        "beta": Domain(
            "real",
            None,
            f"the weight of the regulariser as a share of beta_max (default: {SHARE:g}; "
            f"mode paper: `beta_absolute` {PAPER_BETA:g})",
            low=1e-9,
            high=1,
            log=True,
        ),
        "beta_absolute": Domain(
            "real",
            None,
            "the weight of the regulariser, beside a sum over examples, in place of `beta`",
            low=1e-9,
            log=True,
        ),
        "gates": Domain(
            "whole",
            None,
            "the number of gate patterns P (default: 8; mode paper: 32, of two classes 10)",
            low=1,
            static=True,
        ),
        "gates_from": Domain(
            "choice",
            "normal",
            "where gates come from",
            choices=("normal", "pairs", "sgd"),
            static=True,
        ),
        "gate_epochs": Domain(
            "real", 5.0, "epochs of the network that gives gates: sgd", low=0, static=True
        ),
        "iterations": Domain(
            "whole",
            None,
            "ADMM iterations (default: the task's epochs; mode paper: 5)",
            low=1,
            static=True,
        ),
        "pcg_iterations": Domain(
            "whole",
            None,
            "most iterations of conjugate gradients for a linear system (default: 200; mode paper: "
            "32)",
            low=1,
            static=True,
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
        "units_from": Domain(
            "choice",
            "convex",
            "what neurons there are to select from",
            choices=("convex", "random_features"),
            static=True,
        ),
        "select": Domain(
            "choice", "beta", "how neurons are chosen", choices=("beta", "greedy"), static=True
        ),
        "neurons": Domain("whole", 32, "neurons at most: select greedy", low=1),
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

    def is_control(self, hp: Mapping[str, Value]) -> bool:
        return hp["units_from"] != "convex"

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        """An MLP with a hidden unit for each program, sign and gate."""
        neurons = 2 * gates.programs(task)  # of a gate
        units = neurons * gates.count(task, hp)
        options = {"widths": [units]}
        return dataclasses.replace(task, model="mlp", model_options=options)

    def skip(self, task: Task) -> str | None:
        if not task.augment:
            return None
        return f"the data are trained on as they are: `augment` is []; got {task.augment}"

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if reason := self.skip(task):
            raise Mistake(reason)
        expect_solvable(task, "a convex program")
        if hp["beta"] is not None and hp["beta_absolute"] is not None:
            rule = "`beta`, a share of beta_max, is given or `beta_absolute`, not both"
            raise Mistake(f"{rule}; got {hp['beta']} and {hp['beta_absolute']}")
        count = gates.count(task, hp)
        examples = len(task.data.labels["train"])
        if count > examples:
            rule = f"`gates` is at most the number of training examples, {examples}"
            raise Mistake(f"{rule}; got {count}")
        if hp["gates_from"] == "sgd" and not gates.steps(task, hp):
            rule = "`gate_epochs` makes at least one step of the network that gives gates"
            raise Mistake(f"{rule}; got {hp['gate_epochs']}")
        self._check_used(hp)
        if (iterations := _iterations(task, hp)) < task.rungs:
            rule = f"`iterations` is at least the number of rungs, {task.rungs}"
            raise Mistake(f"{rule}; got {iterations}")

    def _check_used(self, hp: Mapping[str, Value]) -> None:
        """Raise Mistake if a hyper-parameter is given that does nothing beside the others."""
        if hp["units_from"] == "random_features":
            if hp["select"] != "greedy":
                raise Mistake("`units_from` random_features goes with `select` greedy; got beta")
            solved = ("beta", "beta_absolute", "gates_from", "mode")
            expect_defaults(self.space, hp, solved, "with `units_from` convex")
        if hp["select"] != "greedy":
            expect_defaults(self.space, hp, ("neurons",), "with `select` greedy")
        if hp["gates_from"] != "sgd":
            expect_defaults(self.space, hp, ("gate_epochs",), "with `gates_from` sgd")

    def footprint(self, task: Task, hp: Mapping[str, Value], count: int) -> int:
        n = len(task.data.labels["train"])
        d = task.structure.layers[0].columns + 1
        classes = gates.programs(task)
        count_of_gates = gates.count(task, hp)
        mode = "paper" if hp["mode"] == "paper" else "solve"
        room = convex.Room(n, d, classes, count_of_gates, mode, task.torch_device)
        width = 4 if hp["precision"] == "float32" else 8  # bytes of a number
        together = min(count, _at_a_time(classes, count_of_gates, n, d))
        solving = width * room.solving(together)
        # A certificate is in float64, and of float32 a copy.
        copied = 0
        if width < 8:
            copied = 8 * (room.problem - room.data)
        held = width * (room.problem + room.data)
        of_neuron = width + 2 + 2 * task.torch_dtype.itemsize
        networks = count * classes * room.neurons * of_neuron
        proving = held + copied + 8 * room.proof + networks
        states = width * count * room.member
        return states + max(solving, proving)

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """All neurons zero."""
        hp, device = members[0].hp, task.torch_device
        programs = (len(members), gates.programs(task))
        P = gates.count(task, hp)
        n = len(task.data.labels["train"])
        d = task.structure.layers[0].columns + 1
        kind = getattr(torch, str(hp["precision"]))

        def zeros(*shape: int, dtype: torch.dtype = kind) -> Tensor:
            return torch.zeros(*programs, *shape, dtype=dtype, device=device)

        def numbers(name: str) -> Tensor:
            values: list[Any] = []
            for member in members:
                value = member.hp[name]
                values.append(math.nan if value is None else value)
            column = torch.tensor(values, dtype=torch.float64)
            return column.to(device, non_blocking=True)

        begun = time.perf_counter()
        vectors = gates.vectors(task, members)
        spent = (time.perf_counter() - begun) / len(members)
        held: dict[str, Any] = {
            "t": zeros(2, P, d),
            "z": zeros(2, P, n),
            "u": zeros(2, P, d),
            "rho": zeros(),
            "used": zeros(dtype=torch.long),
            "made": zeros(dtype=torch.long),
            "beta": numbers("beta_absolute"),  # NaN until the share is known of what
            "share": numbers("beta"),
            "neurons": torch.tensor([_most(member.hp) for member in members], device=device),
            "vectors": vectors,
            "seed": torch.tensor([member.seed for member in members], device=device),
            "slot": torch.arange(len(members), device=device),
        }
        static = {name: hp[name] for name, domain in self.space.items() if domain.static}
        scalars = {"step": 0, "rung": 0, "before": 0, "seconds": spent, "static": static}
        return State(held, scalars)

    @torch.no_grad()
    def advance(self, task: Task, state: State) -> State:
        """So many iterations of ADMM for all betas of a seed together, seed after seed."""
        begun = time.perf_counter()
        hp = state.scalars["static"]
        rung = state.scalars["rung"] + 1
        last = task.rung_step(_iterations(task, hp), rung)
        for problem, places in _problems(task, state):
            n, d = problem.program.X.shape
            index = _on_device(places, state)
            _resolve_betas(problem, state, index)
            together = _at_a_time(len(problem.Y), len(problem.program.on), n, d)
            if hp["units_from"] != "convex":
                continue  # nothing is solved
            leaders = _leaders(state, places)
            for part in leaders.unique().split(together):
                _iterate_to(last, problem, state, _on_device(part, state))
            _follow(state, places, leaders)
        spent = (time.perf_counter() - begun) / state.size
        seconds = state.scalars["seconds"] + spent
        scalars = {**state.scalars, "rung": rung, "step": last, "seconds": seconds}
        return dataclasses.replace(state, scalars=scalars)

    @torch.no_grad()
    def networks(self, task: Task, state: State) -> Networks:
        """primal, dual, gap, violation, stationarity: the certificate of what was solved, before
        refit and optimal_prune.

        beta: the weight of the regulariser as it is.  beta_max: from here on the empty network is
        the optimum.  gates: that a neuron uses.  cg: iterations of conjugate gradients.  neurons:
        in the network.
        """
        hp, held = state.scalars["static"], state.members
        rows: dict[int, dict[str, Tensor]] = {}
        neurons = held["neurons"].tolist()
        for problem, places in _problems(task, state):
            X = problem.program.X * problem.scale
            most = convex.beta_max(problem.program, problem.Y).max()
            leaders = _leaders(state, places)
            for leader in leaders.unique():
                part = _on_device(leader[None], state)
                solved = problem.found(_iterate(held, part), held["beta"][part].to(X.dtype))
                for own in places[leaders == leader].tolist():
                    row = _certified(problem, X, state, own, neurons[own], solved)
                    row["beta_max"] = most * problem.scale
                    rows[own] = row
        columns: dict[str, Tensor] = {}
        for name in rows[0]:
            columns[name] = torch.stack([rows[k][name] for k in range(state.size)])
        first, last = task.structure.layers
        names = {
            first.weight: "hidden",
            str(first.bias): "bias",
            last.weight: "outer",
            str(last.bias): "offset",
        }
        made = state.members["made"].amax(1)
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
                "train_flops": columns["flops"] + gates.flops(task, hp),
            },
            notes=gates.notes(task, hp, columns["bias"]),
        )


METRICS = (
    "primal",
    "dual",
    "gap",
    "violation",
    "stationarity",
    "beta",
    "beta_max",
    "gates",
    "cg",
    "neurons",
)


def _iterate_to(last: int, problem: convex.Problem, state: State, part: Tensor) -> None:
    """Bring the programs of the members at `part` to iteration `last`, in place."""
    held = state.members
    step = state.scalars["step"]
    kind = held["t"].dtype
    betas = held["beta"][part].to(kind)
    at = problem.start(betas) if step == 0 else _iterate(held, part)
    tolerance = float(state.scalars["static"]["tolerance"])
    more = last - step
    at, made = problem.run(at, betas, step, more, tolerance)
    for field in dataclasses.fields(at):
        column = held[field.name]
        value = getattr(at, field.name)
        column[part] = value.view_as(column[part])
    held["made"][part] += made.view(len(part), -1)


def _leaders(state: State, places: Tensor) -> Tensor:
    """For each member at `places`, all of one seed, the first one whose program is the same: they
    differ in how many neurons are selected, and one is solved for all.
    """
    betas = state.members["beta"][_on_device(places, state)]
    is_same = betas[:, None] == betas
    is_same.fill_diagonal_(True)  # NaN before the first iteration
    first = is_same.int().argmax(1)
    return places[first.cpu()]


def _follow(state: State, places: Tensor, leaders: Tensor) -> None:
    """Put the programs of leaders in place of those of the members at `places` that have one."""
    follows = leaders != places
    followers = _on_device(places[follows], state)
    followed = _on_device(leaders[follows], state)
    names = [field.name for field in dataclasses.fields(Iterate)]
    for name in (*names, "made"):
        column = state.members[name]
        column[followers] = column[followed]


def _on_device(places: Tensor, state: State) -> Tensor:
    """Places of members, known to the host, as an index of their tensors."""
    return places.to(state.members["t"].device, non_blocking=True)


def _certified(
    problem: convex.Problem,
    X: Tensor,
    state: State,
    place: int,
    most: int,
    solved: tuple[Tensor, convex.Certificate],
) -> dict[str, Tensor]:
    """The network of the member at a place, with its certificate and what it cost.

    most: neurons that it has at most, as from `_most`.  solved: as from `Problem.found`, of its
    program.
    """
    part = slice(place, place + 1)
    hp, held = state.scalars["static"], state.members
    neurons, proof = solved
    v = neurons[0]
    if hp["units_from"] == "random_features":
        (seed,) = held["seed"][part]
        v = random_neurons(seed, v)
    if hp["optimal_prune"] == "yes":
        v = convex.prune_dependent(v, X)
    row = network(v, X, problem.Y, hp, most)
    for name in ("primal", "dual", "gap"):
        row[name] = getattr(proof, name).sum()
    for name in ("violation", "stationarity"):
        row[name] = getattr(proof, name).max()
    is_neuron = row["bias kept"]
    of_gates = is_neuron.view(v.shape[:-1]).flatten(0, 1)
    row["gates"] = of_gates.any(0).sum()
    row["neurons"] = is_neuron.sum()
    row["beta"] = held["beta"][part][0]
    row["cg"] = held["used"][part].sum()
    flops = problem.flops(held["made"][part], held["used"][part])
    row["flops"] = flops[0]
    return row


def _problems(task: Task, state: State) -> Iterator[tuple[convex.Problem, Tensor]]:
    """For each distinct seed what its members share, and which these are, on the CPU; made when it
    is asked for, since it is large.
    """
    hp = state.scalars["static"]
    seeds = state.members["seed"].cpu()
    kind = state.members["t"].dtype
    X = gates.inputs(task).to(kind)
    Y = gates.targets(task).to(kind)
    for seed in seeds.unique():
        is_of_seed = seeds == seed
        members = is_of_seed.nonzero()[:, 0]
        vectors = state.members["vectors"][int(members[0])]
        opened = convex.patterns(X, vectors)
        problem = convex.Problem(X, Y, opened, hp["mode"], inner=hp["pcg_iterations"])
        yield problem, members


def _resolve_betas(problem: convex.Problem, state: State, index: Tensor) -> None:
    """Put the weight in place of a share of beta_max, for the members at `index` that have none."""
    held = state.members
    by_program = convex.beta_max(problem.program, problem.Y)
    most = by_program.max() * problem.scale
    share = held["share"][index]
    default = torch.full_like(share, PAPER_BETA)
    if state.scalars["static"]["mode"] == "solve":
        default = SHARE * most
    of_share = torch.where(share.isnan(), default, share * most)
    given = held["beta"][index]
    held["beta"][index] = torch.where(given.isnan(), of_share, given)


def _at_a_time(classes: int, gates: int, n: int, d: int) -> int:
    """How many members of a seed are solved at a time; at least 1."""
    iterate = 2 * gates * classes * (n + d)
    needed = COPIES * iterate
    return max(1, NUMBERS // needed)


def _iterate(held: Mapping[str, Tensor], part: Tensor) -> Iterate:
    """The programs of the members at `part`, the classes of one after each other."""
    fields: dict[str, Tensor] = {}
    for field in dataclasses.fields(Iterate):
        column = held[field.name]
        fields[field.name] = column[part].flatten(0, 1)
    return Iterate(**fields)


def _most(hp: Mapping[str, Value]) -> int:
    """Neurons that a network has at most; 0: as many as there are."""
    given = hp["beta"] is not None or hp["beta_absolute"] is not None
    is_default = hp["mode"] == "solve" and not given
    if hp["select"] != "greedy" and not is_default:
        return 0
    return int(hp["neurons"])  # type: ignore[arg-type]


def _iterations(task: Task, hp: Mapping[str, Any]) -> int:
    if hp["iterations"] is not None:
        return hp["iterations"]
    if hp["mode"] == "paper":
        return PAPER_ITERATIONS
    return max(1, round(task.epochs))
