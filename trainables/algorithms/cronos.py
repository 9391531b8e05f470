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
import torch.nn.functional as F
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from .. import convex
from ..contract import Algorithm, Member, Networks, State
from ..convex.admm import Iterate
from ..domain import Domain, Value
from ..task import Task
from ..training.dense import dense_networks

NUMBERS = 1 << 28
"""Numbers that the programs solved at a time may hold, with all that accelerates them; more are
solved in turn.
"""
COPIES = 24
"""Tensors of the size of a program's iterate that are alive at a time."""
EXAMPLES = 1024
"""Examples that are read at a time."""
SHARE = 0.1
"""beta where none is given: a share of beta_max."""
PAPER_BETA = 1e-3
"""beta of the mode paper where none is given, as it is."""
PAPER_ITERATIONS = 5
"""Iterations of ADMM of the mode paper where none are given."""
GATES: Mapping[str, tuple[int, int]] = {"paper": (10, 32), "solve": (8, 8)}
"""The number of gates where none is given: for two classes, and for more."""


class Cronos(Algorithm):
    """Two-layer ReLU networks for the squared loss, by convex optimisation; the task's model and
    optimiser are not used, but for gates from `sgd`.

    beta: a share of beta_max, the least weight at which the network is empty.  beta_absolute: the
    paper's number instead; the loss is a sum over examples, so that it grows with their number.
    iterations: of ADMM, which reads the training data once an iteration: an epoch.  mode solve: to
    a gap of `tolerance` of the objective, where it can; paper: its settings, rho .01, 20 directions
    in the sketch, and conjugate gradients from zero to a residual of (1 + k)^-1.2, however near the
    optimum that comes; its loose linear solves amplify rounding, so that members agree with others
    alone for a few dozen iterations only.
    gates_from normal: as in the paper; pairs: halfway between random pairs of examples; sgd: hidden
    units of a network of P of them after `gate_epochs`, which the member is charged for.
    select greedy: forward selection of at most `neurons` with one second layer for all classes, a
    ridge regression; beta: as they are.  candidates random_features: random ReLU units in place of
    the convex program's, as many as it may have, and the same selection: a control.
    refit: the second layer is fitted anew, all neurons to all classes, by least squares.
    optimal_prune: neurons whose activations on the training data depend linearly on others go; the
    predictions there stay.
    precision: of solving; in float32 the gap has a floor: 2e-5 to 7e-5 of the objective on small
    problems with small beta, 1e-7 with larger ones.
    """

    source = (
        "Feng, Frangella, Pilanci 2024 (arXiv 2411.01088), algorithm 1 and section 3; "
        "mode solve, refit, gates_from pairs and sgd, select: derivation"
    )
    version = 2
    together = ("beta", "beta_absolute")
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
        "candidates": Domain(
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
        return hp["candidates"] != "convex"

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        """An MLP with a hidden unit for each program, sign and gate."""
        units = 2 * _gates(hp, task.data.classes) * _programs(task)
        options = {"widths": [units]}
        return dataclasses.replace(task, model="mlp", model_options=options)

    def skip(self, task: Task) -> str | None:
        if not task.augment:
            return None
        return f"the data are trained on as they are: `augment` is []; got {task.augment}"

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if reason := self.skip(task):
            raise Mistake(reason)
        if hp["beta"] is not None and hp["beta_absolute"] is not None:
            rule = "`beta`, a share of beta_max, is given or `beta_absolute`, not both"
            raise Mistake(f"{rule}; got {hp['beta']} and {hp['beta_absolute']}")
        gates, examples = _gates(hp, task.data.classes), len(task.data.labels["train"])
        if gates > examples:
            rule = f"`gates` is at most the number of training examples, {examples}"
            raise Mistake(f"{rule}; got {gates}")
        if hp["gates_from"] == "sgd" and not _gate_steps(task, hp):
            rule = "`gate_epochs` makes at least one step of the network that gives gates"
            raise Mistake(f"{rule}; got {hp['gate_epochs']}")
        if hp["candidates"] == "random_features" and hp["select"] != "greedy":
            raise Mistake("`candidates` random_features goes with `select` greedy; got beta")
        if (iterations := _iterations(task, hp)) < task.rungs:
            rule = f"`iterations` is at least the number of rungs, {task.rungs}"
            raise Mistake(f"{rule}; got {iterations}")

    def footprint(self, task: Task, hp: Mapping[str, Value], count: int) -> int:
        n = len(task.data.labels["train"])
        d = task.structure.layers[0].columns + 1
        classes = _programs(task)
        gates = _gates(hp, task.data.classes)
        mode = "paper" if hp["mode"] == "paper" else "solve"
        room = convex.Room(n, d, classes, gates, mode, task.torch_device)
        width = 4 if hp["precision"] == "float32" else 8  # bytes of a number
        together = min(count, _at_a_time(classes, gates, n, d))
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
        programs = (len(members), _programs(task))
        gates = _gates(hp, task.data.classes)
        n = len(task.data.labels["train"])
        d = task.structure.layers[0].columns + 1
        kind = getattr(torch, str(hp["precision"]))

        def zeros(*shape: int, dtype: torch.dtype = kind) -> Tensor:
            return torch.zeros(*programs, *shape, dtype=dtype, device=device)

        def numbers(name: str) -> Tensor:
            values = [member.hp.get(name) for member in members]
            numbers = [math.nan if value is None else value for value in values]
            return torch.tensor(numbers, dtype=torch.float64, device=device)

        begun = time.perf_counter()
        vectors = _gate_vectors(task, members)
        spent = (time.perf_counter() - begun) / len(members)
        held: dict[str, Any] = {
            "t": zeros(2, gates, d),
            "z": zeros(2, gates, n),
            "u": zeros(2, gates, d),
            "rho": zeros(),
            "used": zeros(dtype=torch.long),
            "made": zeros(dtype=torch.long),
            "beta": numbers("beta_absolute"),  # NaN until the share is known of what
            "share": numbers("beta"),
            "neurons": numbers("neurons").long(),
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
        for problem, index in _problems(task, state):
            n, d = problem.program.X.shape
            _resolve_betas(problem, state, index)
            together = _at_a_time(len(problem.Y), len(problem.program.on), n, d)
            if hp["candidates"] != "convex":
                continue  # nothing is solved
            for part in index.split(together):
                _iterate_to(last, problem, state, part)
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
        hp = state.scalars["static"]
        rows: dict[int, dict[str, Tensor]] = {}
        for problem, index in _problems(task, state):
            X = problem.program.X * problem.scale
            most = convex.beta_max(problem.program, problem.Y).max()
            for part in index.split(1):
                row = _certified(problem, X, state, part)
                row["beta_max"] = most * problem.scale
                rows[int(part)] = row
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
                "train_flops": columns["flops"] + _gate_flops(task, hp),
            },
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


def _certified(problem: convex.Problem, X: Tensor, state: State, part: Tensor) -> dict[str, Tensor]:
    """The network of the member at `part`, (1,), with its certificate and what it cost."""
    hp, held = state.scalars["static"], state.members
    iterate = _iterate(held, part)
    beta = held["beta"][part].to(X.dtype)
    solved, proof = problem.found(iterate, beta)
    v = solved[0]
    if hp["candidates"] == "random_features":
        v = _random_neurons(held["seed"][part][0], v)
    if hp["optimal_prune"] == "yes":
        v = convex.prune_dependent(v, X)
    row = _layers(v, X, problem.Y, hp, int(held["neurons"][part]))
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
    """For each distinct seed what its members share, and which these are; made when it is asked
    for, since it is large.
    """
    hp = state.scalars["static"]
    seeds = state.members["seed"]
    X, Y = _data(task, state.members["t"].dtype)
    for seed in seeds.unique():
        is_of_seed = seeds == seed
        members = is_of_seed.nonzero()[:, 0]
        vectors = state.members["vectors"][members[0]]
        gates = convex.patterns(X, vectors)
        inner = hp["pcg_iterations"]
        yield convex.Problem(X, Y, gates, hp["mode"], inner=inner), members


def _resolve_betas(problem: convex.Problem, state: State, index: Tensor) -> None:
    """Put the weight in place of a share of beta_max, for the members at `index` that have one."""
    held, mode = state.members, state.scalars["static"]["mode"]
    most = convex.beta_max(problem.program, problem.Y).max() * problem.scale
    share = held["share"][index]
    default = torch.full_like(share, PAPER_BETA) if mode == "paper" else SHARE * most
    wanted = torch.where(share.isnan(), default, share * most)
    given = held["beta"][index]
    held["beta"][index] = torch.where(given.isnan(), wanted, given)


# ---- data and gates


def _data(task: Task, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """X (n, d) with a column of ones, and Y (programs, n): one class against the rest, 1 and 0, and
    of two classes the second against the first, 1 and -1.
    """
    features = _features(task).to(kind)
    labels = task.data.labels["train"]
    if task.data.classes == 2:
        return features, (2 * labels - 1)[None].to(kind)
    targets = F.one_hot(labels, task.data.classes)
    return features, targets.mT.to(kind)


def _features(task: Task) -> Tensor:
    parts: list[Tensor] = []
    for x, _ in task.data.parts("train", EXAMPLES):
        parts.append(x.flatten(1))
    return convex.with_ones(torch.cat(parts))


def _programs(task: Task) -> int:
    """How many programs there are for a weight: one of two classes, else one for each."""
    classes = task.data.classes
    return 1 if classes == 2 else classes


def _gate_vectors(task: Task, members: Sequence[Member]) -> Tensor:
    """The vectors h of each member's gates, (K, P, d) float64."""
    hp = members[0].hp
    count = _gates(hp, task.data.classes)
    seeds = [member.seed for member in members]
    if hp["gates_from"] == "sgd":
        return _trained_units(task, seeds, count, _gate_steps(task, hp))
    X = _features(task)
    of_seed: dict[int, Tensor] = {}
    for seed in seeds:
        if seed in of_seed:
            continue
        drawn_by = torch.tensor(seed, device=X.device)
        if hp["gates_from"] == "pairs":
            of_seed[seed] = convex.pair_vectors(drawn_by, count, X)
        else:
            of_seed[seed] = convex.gate_vectors(drawn_by, count, X.shape[1])
    return torch.stack([of_seed[seed] for seed in seeds])


def _trained_units(task: Task, seeds: Sequence[int], count: int, steps: int) -> Tensor:
    """Weights and biases (K, count, d) float64 of the hidden units of small trained networks."""
    small = _gate_task(task, count)
    dense = dense_networks(small, seeds, steps)
    layer = small.structure.layers[0]
    weight = dense.params[layer.weight]
    bias = dense.params[str(layer.bias)]
    return torch.cat([weight, bias[..., None]], -1).double()


def _gate_task(task: Task, count: int) -> Task:
    return dataclasses.replace(task, model="mlp", model_options={"widths": [count]})


def _gate_steps(task: Task, hp: Mapping[str, Any]) -> int:
    return round(hp["gate_epochs"] * task.steps_per_epoch)


def _gate_flops(task: Task, hp: Mapping[str, Any]) -> int:
    """What the network that gives gates cost, if there is one."""
    if hp["gates_from"] != "sgd":
        return 0
    small = _gate_task(task, _gates(hp, task.data.classes))
    examples = _gate_steps(task, hp) * task.batch_size
    return 3 * small.counts.flops * examples


# ---- networks


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


def _random_neurons(seed: Tensor, like: Tensor) -> Tensor:
    """Random ReLU units in the place of each neuron, (C, 2, P, d), by which a class, a sign and a
    gate mean nothing.
    """
    count = like[..., 0].numel()
    drawn = convex.gate_vectors(seed, count, like.shape[-1])
    return drawn.to(like).view(like.shape)


def _layers(v: Tensor, X: Tensor, Y: Tensor, hp: Mapping[str, Any], most: int) -> dict[str, Tensor]:
    """Steps 3 and 4: the network of neurons v (C, 2, P, d), its bias apart, and what of it is kept.

    most: neurons that are selected at most.
    """
    hidden, outer = convex.layers(v)
    is_neuron = v.norm(dim=-1).flatten() > 0
    kept = outer != 0
    offset = outer.new_zeros(len(Y))
    has_offset = False
    if hp["select"] == "greedy":
        is_neuron, again = _selected(hidden, is_neuron, X, Y, most)
    elif hp["refit"] == "yes":
        given = X @ hidden[is_neuron].mT
        again = torch.zeros(len(Y), len(hidden) + 1, dtype=torch.float64, device=X.device)
        places = is_neuron.nonzero()[:, 0]
        fitted = convex.refit(given.clamp(min=0), Y)
        again[:, places] = fitted[:, :-1]
        again[:, -1] = fitted[:, -1]
    else:
        again = None
    if again is not None:
        hidden = torch.where(is_neuron[:, None], hidden, 0)
        outer, offset = again[:, :-1].to(outer), again[:, -1].to(outer)
        kept = is_neuron.expand_as(outer)
        has_offset = True
    if len(outer) == 1:  # of two classes: the second's logit, and its negative
        outer, offset = torch.cat([-outer, outer]), torch.cat([-offset, offset])
        kept = kept.expand_as(outer)
    return {
        "hidden": hidden[:, :-1],
        "hidden kept": is_neuron[:, None].expand(-1, hidden.shape[1] - 1),
        "bias": hidden[:, -1],
        "bias kept": is_neuron,
        "outer": outer,
        "outer kept": kept,
        "offset": offset,
        "offset kept": torch.full_like(offset, has_offset, dtype=torch.bool),
    }


def _selected(
    hidden: Tensor, is_neuron: Tensor, X: Tensor, Y: Tensor, most: int
) -> tuple[Tensor, Tensor]:
    """Which units (m,) are selected of those that are neurons, and the second layer (C, m + 1) of
    all units, bias last.
    """
    places = is_neuron.nonzero()[:, 0]
    active = (X @ hidden[places].mT).clamp(min=0)
    choice = convex.Selection(active, Y)
    order = choice.order(most)
    layer = choice.layer(order)
    again = torch.zeros(len(Y), len(hidden) + 1, dtype=layer.dtype, device=X.device)
    again[:, places] = layer[:, :-1]
    again[:, -1] = layer[:, -1]
    is_selected = torch.zeros_like(is_neuron)
    is_selected[places[order]] = True
    return is_selected, again


def _gates(hp: Mapping[str, Any], classes: int) -> int:
    """The number of gates P."""
    if hp["gates"] is not None:
        return hp["gates"]
    of_two, of_more = GATES[hp["mode"]]
    return of_two if classes == 2 else of_more


def _iterations(task: Task, hp: Mapping[str, Any]) -> int:
    if hp["iterations"] is not None:
        return hp["iterations"]
    if hp["mode"] == "paper":
        return PAPER_ITERATIONS
    return max(1, round(task.epochs))
