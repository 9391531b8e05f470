"""CRONOS as an algorithm: cohorts, rungs, the network that is measured and what it costs; the
solver has tests of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from prunefront.trainables import convex
from prunefront.trainables.algorithms import cronos, find
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task
from prunefront.trainables.training.dense import dense_networks

CRONOS = find("cronos")
TASK = Task(dataset="test_cronos.few", epochs=60, rungs=3, dtype="float64", batch_size=8)
GATES, CLASSES, INPUTS = 3, 10, 64
VALID, TEST = slice(500, 600), slice(600, 700)


def few(
    count: int = 120, missing: int | None = None, repeat: int = 1, below: int = 10
) -> dict[str, tuple[Any, Any]]:
    """The first of the digits, a class of them left out of training, or all from one on; each
    example so many times.
    """
    images, labels = load_digits(return_X_y=True)
    x, y = np.asarray(images).reshape(-1, 1, 8, 8), np.asarray(labels)
    here = np.tile(np.flatnonzero((y[:count] != missing) & (y[:count] < below)), repeat)
    valid, test = (np.flatnonzero(y[part] < below) + part.start for part in (VALID, TEST))
    return {"train": (x[here], y[here]), "valid": (x[valid], y[valid]), "test": (x[test], y[test])}


def member(beta: float = 1.0, seed: int = 0, **hp: Any) -> Member:
    return Member(complete(CRONOS.space, {"beta_absolute": beta, "gates": GATES, **hp}), seed)


def parent(members: list[Member], task: Task = TASK) -> Task:
    CRONOS.check(made := CRONOS.parent(task, members[0].hp), members[0].hp)
    return made


def train(members: list[Member], task: Task = TASK, rungs: int | None = None) -> tuple[Task, State]:
    task = parent(members, task)
    state = CRONOS.start(task, members)
    for _ in range(task.rungs if rungs is None else rungs):
        state = CRONOS.advance(task, state)
    return task, state


def rows(members: list[Member], task: Task = TASK) -> list[dict[str, Any]]:
    return measure((trained := train(members, task))[0], CRONOS, trained[1], last=True)


def alike(one: State, other: State, close: float) -> bool:
    return all(
        torch.allclose(one.members[name], other.members[name], rtol=0, atol=close)
        for name in ("t", "z", "u", "rho")
    )


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """X, Y and gates of TASK, as the docstring of the algorithm says."""
    X = convex.with_ones(TASK.data.inputs["train"].flatten(1))  # type: ignore[union-attr]
    gates = convex.patterns(X, convex.gate_vectors(torch.tensor(seed), GATES, INPUTS + 1))
    return X, F.one_hot(TASK.data.labels["train"], CLASSES).double().mT, gates


def module(task: Task, state: State, k: int) -> nn.Module:
    """The network that is measured."""
    found, made = CRONOS.networks(task, state), task.build(0)
    for name, value in found.params.items():
        made.get_parameter(name).data.copy_(value[k])
    return made


def logits(task: Task, state: State, k: int) -> Tensor:
    return module(task, state, k)(task.data.inputs["train"]).detach()


def with_bias(of: nn.Module) -> Tensor:
    """First-layer weights with their bias as the last column, of the units that are not zero."""
    whole = torch.cat(
        [of.get_parameter("1.weight"), of.get_parameter("1.bias")[:, None]], 1
    ).detach()
    return whole[whole.norm(dim=1) > 0]


COHORT = [member(beta, seed) for seed in (0, 1) for beta in (0.02, 0.2, 1.0, 3.0, 1e4)]


def test_members_together_are_as_each_alone():
    """Of different weights and seeds, in the mode solve after 60 iterations, with balances and
    accelerations between.
    """
    _, together = train(COHORT)
    for k, each in enumerate(COHORT):
        _, alone = train([each])
        assert alike(alone, together.select([k]), 1e-9), each
    assert not alike(together.select([0]), together.select([5]), 1e-3), "seeds differ"
    assert not alike(together.select([0]), together.select([1]), 1e-3), "weights differ"


def test_solving_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    _, whole = train(COHORT)
    sizes: list[int] = []
    run = convex.Problem.run

    def counted(self: convex.Problem, at: Any, betas: Tensor, *rest: Any) -> Any:
        sizes.append(len(betas))
        return run(self, at, betas, *rest)

    monkeypatch.setattr(convex.Problem, "run", counted)
    one = 2 * GATES * CLASSES * (120 + INPUTS + 1)
    monkeypatch.setattr(cronos, "NUMBERS", 2 * cronos.COPIES * one)
    _, parts = train(COHORT)
    assert sizes == [2, 2, 1] * 2 * TASK.rungs
    assert alike(parts, whole, 1e-9)
    monkeypatch.setattr(cronos, "NUMBERS", 1)
    sizes.clear()
    train(COHORT, rungs=1)
    assert sizes == [1] * 10, "one at a time at least"


def test_rung_by_rung_is_where_one_solve_of_as_many_iterations_is():
    """In the mode of the paper exactly; solve accelerates anew at each rung, and ends at the same
    optimum.
    """
    members = [member(0.3, mode="paper"), member(2.0, mode="paper")]
    _, parts = train(members, dataclasses.replace(TASK, epochs=12))
    _, whole = train(members, dataclasses.replace(TASK, epochs=12, rungs=1))
    assert alike(parts, whole, 0)
    members = [member(1.0), member(3.0)]
    long = dataclasses.replace(TASK, epochs=3000)
    one, other = (rows(members, dataclasses.replace(long, rungs=rungs)) for rungs in (1, 3))
    for left, right in zip(one, other, strict=True):
        assert max(left["m_gap"], right["m_gap"]) <= 10 * 1e-4 * left["m_primal"], (
            "of each class 1e-4"
        )
        assert left["m_primal"] == pytest.approx(right["m_primal"], rel=1e-3)


def test_a_saved_state_goes_on_the_same(tmp_path: Path):
    task, state = train(COHORT[:3], rungs=2)
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors", task.torch_device)
    assert alike(CRONOS.advance(task, loaded), CRONOS.advance(task, state), 0)


def only(of: convex.Solution, k: int) -> convex.Solution:
    """What was found for the weight at place k."""
    here = slice(k, k + 1)
    proof = convex.Certificate(*(part[here] for part in of.certificate))
    return dataclasses.replace(
        of, objective=of.objective[here], gap=of.gap[here], v=of.v[here], certificate=proof
    )


@pytest.mark.parametrize(("mode", "iterations"), [("solve", 60), ("paper", 20)])
def test_the_network_is_that_of_the_solver(mode: Any, iterations: int):
    """paper: one iteration of conjugate gradients more or less, by a last bit, shows; after 90 of
    ADMM in the first decimal.
    """
    betas, task = (0.2, 1.0, 1e4), dataclasses.replace(TASK, rungs=1)
    for seed in (0, 3):
        made, state = train(
            [member(beta, seed, mode=mode, iterations=iterations) for beta in betas], task
        )
        X, Y, gates = problem(seed)
        solve = functools.partial(
            convex.solve, X, Y, gates, mode=mode, iterations=iterations, tolerance=1e-4
        )
        if mode == "paper":  # rounding shows: as they are solved here, all together
            whole = solve(torch.tensor(betas).double())
            singles = [only(whole, k) for k in range(len(betas))]
        else:  # together they would start from their neighbours
            singles = [solve(torch.tensor([beta]).double()) for beta in betas]
        for k in range(len(betas)):
            network = singles[k].network(0)
            torch.testing.assert_close(
                network(X).detach(), logits(made, state, k), rtol=0, atol=1e-7
            )
            torch.testing.assert_close(
                network.get_parameter("0.weight").detach(),
                with_bias(module(made, state, k)),
                rtol=0,
                atol=1e-7,
            )
        metrics = CRONOS.networks(made, state).metrics
        torch.testing.assert_close(
            metrics["primal"], torch.cat([each.objective for each in singles]), rtol=1e-7, atol=0
        )
        torch.testing.assert_close(
            metrics["gap"], torch.cat([each.gap for each in singles]), rtol=1e-5, atol=1e-9
        )
        proofs = convex.Certificate(
            *(
                torch.cat(parts)
                for parts in zip(*(each.certificate for each in singles), strict=True)
            )
        )
        torch.testing.assert_close(metrics["dual"], proofs.dual.sum(1), rtol=1e-6, atol=1e-9)
        for name in ("violation", "stationarity"):
            torch.testing.assert_close(
                metrics[name], getattr(proofs, name).amax(1), rtol=1e-3, atol=1e-9
            )


def test_metrics_say_what_the_network_is():
    task, state = train(COHORT)
    metrics, (X, Y, gates) = CRONOS.networks(task, state).metrics, problem(0)
    most = max(float((X.mT @ (on * y)).norm()) for on in gates.mT for y in Y)
    assert metrics["beta_max"][:5].tolist() == pytest.approx([most] * 5)
    for k in range(state.size):
        made = module(task, state, k)
        hidden = (
            torch.cat(
                [made.get_parameter("1.weight"), made.get_parameter("1.bias")[:, None]], 1
            ).norm(dim=1)
            > 0
        )
        assert int(metrics["neurons"][k]) == int(hidden.sum())
        assert int(metrics["gates"][k]) == int(hidden.view(CLASSES * 2, GATES).any(0).sum())
    neurons = metrics["neurons"].view(2, 5).tolist()
    assert all(before >= after for each in neurons for before, after in itertools.pairwise(each)), (
        neurons
    )
    assert [each[-1] for each in neurons] == [0, 0], "the weight is above beta_max"
    assert neurons[0][3] < neurons[0][0]


def test_flops_and_parameters_are_counted_by_neurons():
    """2 d m + 2 m C are stored; 2 d m + 2 m are not zero: a neuron is one class's."""
    for row in rows(COHORT):
        m = int(row["m_neurons"])
        assert row["flops_shrunk"] == 2 * INPUTS * m + 2 * m * CLASSES
        assert row["flops_masked"] == 2 * INPUTS * m + 2 * m
        assert row["params_kept"] == INPUTS * m + m + m
        whole = 2 * GATES * CLASSES
        assert row["flops_dense"] == 2 * whole * (INPUTS + CLASSES)
        assert (row["epochs"], row["examples"]) == (row["steps"], row["steps"] * 120)


def test_a_network_of_more_flops_than_the_tasks_model_says_so():
    """A hidden unit has 148 FLOPs; the model has ten of them."""
    task = dataclasses.replace(TASK, model="mlp", model_options={"widths": [10]})
    made, state = train(COHORT, task)
    told = []
    for row in measure(made, CRONOS, state, last=True, dense=task.counts):
        assert row["flops_dense"] == 1480
        if row["m_neurons"] > 10:
            told.append(row["m_over_task"])
            assert row["m_over_task"] == row["m_neurons"] / 10
        else:
            assert "m_over_task" not in row
    assert 0 < len(told) < len(COHORT)


def test_refit_keeps_the_neurons_and_fits_better():
    betas = (0.2, 1.0, 2.0, 1e4)
    (task, plain), (_, again) = (
        train([member(beta, refit=refit) for beta in betas]) for refit in ("no", "yes")
    )
    Y = problem(0)[1]
    for k, beta in enumerate(betas):
        one, two = module(task, plain, k), module(task, again, k)
        assert torch.equal(with_bias(one), with_bias(two))
        before, after = (
            float((logits(task, state, k).mT - Y).square().sum()) for state in (plain, again)
        )
        assert after < before * (1 - 1e-3), beta
        hidden = torch.cat(
            [F.relu(problem(0)[0] @ with_bias(two).mT), torch.ones(120, 1).double()], 1
        )
        left = (logits(task, again, k).mT - Y) @ hidden
        assert left.abs().max() < 1e-5, "what is left is orthogonal to what there is"
    networks = CRONOS.networks(task, again)
    for row, m in zip(
        measure(task, CRONOS, again, last=False),
        networks.metrics["neurons"].int().tolist(),
        strict=True,
    ):
        assert row["flops_masked"] == row["flops_shrunk"] == 2 * INPUTS * m + 2 * m * CLASSES
    torch.testing.assert_close(networks.params["3.bias"][3], Y.mean(1), rtol=0, atol=1e-9)


def test_optimal_prune_keeps_the_answers():
    """Few examples, so that neurons depend on each other: at most as many of a class and sign stay
    as there are examples.
    """
    task = dataclasses.replace(TASK, dataset_options={"count": 14, "repeat": 3}, batch_size=2)
    members = [
        [member(1e-4, gates=40, optimal_prune=prune, mode="paper", iterations=60)]
        for prune in ("no", "yes")
    ]
    (made, plain), (_, pruned) = (train(each, task) for each in members)
    before, after = (
        int(CRONOS.networks(made, state).metrics["neurons"]) for state in (plain, pruned)
    )
    assert 0 < after < before
    assert after <= 2 * CLASSES * 14
    torch.testing.assert_close(logits(made, pruned, 0), logits(made, plain, 0), rtol=0, atol=1e-8)
    hp = {"optimal_prune": "yes", "refit": "yes", "mode": "paper", "iterations": 60}
    both = train([member(1e-4, gates=40, **hp)], task)
    assert int(CRONOS.networks(*both).metrics["neurons"]) == after


def test_the_mode_of_the_paper_makes_all_of_its_iterations_and_solve_stops():
    paper, solved = (
        rows([member(1e4, mode=mode, iterations=60)])[0] for mode in ("paper", "solve")
    )
    assert (paper["steps"], solved["steps"]) == (60, 0)
    assert paper["epochs"] == 60
    assert rows([member(1e4, mode="paper")])[0]["steps"] == 5
    assert rows([member(1.0, iterations=7)])[0]["steps"] == 7


def test_training_is_charged_by_hand():
    """n = 120, d = 65, P = 3, r = 120 eigenvectors: exact for 195 unknowns, without conjugate
    gradients.
    """
    found = rows([member(1.0), member(1e4)])
    one, setup = 2 * 120 * 65 * 3, 2 * 120 * 65**2 + 2 * 120 * 195**2
    assert found[1]["train_flops"] == setup, "no iteration was made"
    each = 4 * one + 4 * 195 * 120
    made = train([member(1.0)])[1].members["made"].sum()
    assert found[0]["train_flops"] == setup + int(made) * each
    long = member(1.0, mode="paper", iterations=60)
    state = train([long])[1]
    used, thin = int(state.members["used"].sum()), 4 * 195 * 20
    assert used > 0
    expected = (
        2 * 120 * 65**2
        + 2 * one * 20
        + 10 * 60 * (4 * one + thin)
        + used * (2 * one + 4 * 3 * 65**2 + thin)
    )
    assert rows([long])[0]["train_flops"] == expected


def test_float32_is_solved_in_float32():
    task, state = train([member(1.0, precision="float32")])
    assert state.members["t"].dtype == torch.float32
    assert CRONOS.networks(task, state).params["1.weight"].dtype == torch.float64, "the task's"
    _, exact = train([member(1.0)])
    one, other = (CRONOS.networks(task, each).metrics["primal"] for each in (state, exact))
    torch.testing.assert_close(one.double(), other, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("task", "hp", "sentence"),
    [
        ({"augment": ["flip"]}, {}, r"trained on as they are: `augment` is \[\]; got \['flip'\]"),
        ({"dataset_options": {"missing": 4}}, {}, "and no example of class 4; "),
        ({"dataset_options": {"count": 7}, "batch_size": 1}, {}, "which `train` lacks"),
        ({}, {"iterations": 2}, "`iterations` is at least the number of rungs, 3; got 2"),
        ({"epochs": 2}, {}, "`iterations` is at least the number of rungs, 3; got 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_solved(task: dict[str, Any], hp: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        parent([member(1.0, **hp)], dataclasses.replace(TASK, **task))


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), float("inf"), "much", 1.01])
def test_beta_is_a_share(beta: Any):
    with pytest.raises(ValueError, match=r"`beta` .*share of beta_max.*\[1e-09, 1\]; got"):
        complete(CRONOS.space, {"beta": beta})
    if beta == 1.01:
        return
    with pytest.raises(ValueError, match=r"`beta_absolute` .*got"):
        complete(CRONOS.space, {"beta_absolute": beta})


def defaults(**hp: Any) -> Member:
    return Member(complete(CRONOS.space, hp), 0)


def test_a_share_is_that_of_the_least_weight_of_the_empty_network():
    """The same members, by share and by number; at 1 there is no neuron, below there is: the constraints keep it empty for a while."""
    most = rows([defaults(beta=0.5, gates=GATES)])[0]["m_beta_max"]
    shares = (0.01, 0.3, 1.0)
    by_share = [defaults(beta=share, gates=GATES) for share in shares]
    by_number = [member(share * most) for share in shares]
    for one, other in zip(rows(by_share), rows(by_number), strict=True):
        assert one["m_beta"] == pytest.approx(other["m_beta"], rel=1e-12)
        assert one["m_neurons"] == other["m_neurons"]
        assert one["loss_train"] == pytest.approx(other["loss_train"], rel=1e-6)
    near = rows([defaults(beta=share, gates=GATES, tolerance=1e-9) for share in (1.0, 0.4)])
    assert near[0]["m_neurons"] == 0
    assert near[1]["m_neurons"] > 0


@pytest.mark.parametrize("mode", ["solve", "paper"])
def test_no_default_ends_with_an_empty_network(mode: str):
    (row,) = rows([defaults(mode=mode)])
    assert row["m_neurons"] > 0
    assert row["m_gates"] <= (32 if mode == "paper" else 8)
    if mode == "paper":
        assert row["m_beta"] == 1e-3
        assert row["steps"] == 5
        assert 0 < row["m_cg"] <= 5 * 32 * CLASSES


@pytest.mark.parametrize("hp", [{}, {"refit": "yes"}, {"gates": 16}, {"gates_from": "pairs"}])
def test_the_default_weight_neither_ends_empty_nor_larger_than_the_model(hp: dict[str, Any]):
    """Of the digits: 64 inputs, 32 hidden units, 10 classes."""
    task = Task(widths=[32], epochs=10, rungs=1)
    members = [dataclasses.replace(defaults(**hp), seed=seed) for seed in (0, 1, 2)]
    made = CRONOS.parent(task, members[0].hp)
    state = CRONOS.advance(made, CRONOS.start(made, members))
    for row in measure(made, CRONOS, state, last=False, dense=task.counts):
        assert 0 < row["m_neurons"] <= 32
        assert row["flops_shrunk"] <= task.counts.flops
        assert "m_over_task" not in row


def test_the_default_weight_keeps_the_longest_neurons():
    """A given weight keeps all; the same weight by default the 32 longest."""
    task = Task(widths=[32], epochs=10, rungs=1)
    members = [defaults(), defaults(beta=cronos.SHARE)]
    made = CRONOS.parent(task, members[0].hp)
    state = CRONOS.advance(made, CRONOS.start(made, members))
    few_, every = CRONOS.networks(made, state).params["3.weight"].abs().amax(1)
    order = every.argsort(descending=True)
    assert int((every > 0).sum()) > 32
    assert set(few_.nonzero()[:, 0].tolist()) == set(order[:32].tolist())


@pytest.mark.parametrize("hp", [{}, {"refit": "yes"}, {"select": "greedy", "neurons": 3}])
def test_two_classes_are_one_program(hp: dict[str, Any]):
    """Targets +1 and -1; half the units, and the network says what the convex program says."""
    task = dataclasses.replace(TASK, dataset_options={"below": 2, "count": 300})
    members = [defaults(beta=0.05, gates=GATES, **hp)]
    made, state = train(members, task)
    assert state.members["t"].shape[1] == 1
    assert made.template.get_parameter("1.weight").shape[0] == 2 * GATES
    (row,) = measure(made, CRONOS, state, last=True)
    assert row["accuracy_test"] > 0.9
    answers = logits(made, state, 0)
    torch.testing.assert_close(answers[:, 0], -answers[:, 1])


def test_greedy_selection_takes_the_best_neurons_of_those_there_are():
    few_, many = (defaults(beta=0.02, select="greedy", neurons=most) for most in (4, 9))
    plain = defaults(beta=0.02)
    task, state = train([few_, many])
    units = [with_bias(module(task, state, k)) for k in (0, 1)]
    assert [len(rows_of) for rows_of in units] == [4, 9]
    everything = with_bias(module(*train([plain]), 0))
    for part, whole in ((units[0], units[1]), (units[1], everything)):
        away = torch.cdist(part, whole)
        assert away.amin(1).max() < 1e-6, "a prefix of one order, out of what there is"
        assert len(part) < len(whole)
    greedy, again = measure(task, CRONOS, state, last=True)
    assert greedy["flops_masked"] == greedy["flops_shrunk"] == 2 * 4 * (INPUTS + CLASSES)
    assert again["loss_train"] < greedy["loss_train"]


@pytest.mark.parametrize("where", ["pairs", "sgd"])
def test_gates_come_from_where_they_are_said_to(where: str):
    hp = {"gates_from": where, "beta_absolute": 0.3, "gates": GATES}
    task, state = train([defaults(**hp)])
    X = problem(0)[0]
    vectors = state.members["vectors"][0]
    if where == "pairs":
        expected = convex.pair_vectors(torch.tensor(0), GATES, X)
    else:
        small = dataclasses.replace(TASK, model="mlp", model_options={"widths": [GATES]})
        dense = dense_networks(small, [0], 5 * small.steps_per_epoch)
        expected = torch.cat(
            [dense.params["1.weight"][0], dense.params["1.bias"][0][:, None]], 1
        ).double()
    assert torch.equal(vectors, expected)
    assert not torch.equal(
        vectors, train([defaults(**{**hp, "gates_from": "normal"})])[1].members["vectors"][0]
    )
    (row,) = measure(task, CRONOS, state, last=True)
    (drawn,) = rows([defaults(**{**hp, "gates_from": "normal", "iterations": 60})])
    if where == "sgd":
        counts = dataclasses.replace(TASK, model="mlp", model_options={"widths": [GATES]}).counts
        trained = 3 * counts.flops * 5 * 15 * 8
        assert row["train_flops"] > trained
    assert row["m_neurons"] > 0
    assert drawn["m_neurons"] > 0


def test_random_features_are_as_many_and_nothing_is_solved():
    hp = {"units_from": "random_features", "select": "greedy", "neurons": 12, "gates": GATES}
    task, state = train([defaults(**hp)])
    (row,) = measure(task, CRONOS, state, last=True)
    assert row["m_neurons"] == 12
    assert row["steps"] == 0
    assert CRONOS.is_control(defaults(**hp).hp)
    drawn = convex.gate_vectors(torch.tensor(0), 2 * CLASSES * GATES, INPUTS + 1)
    selected = with_bias(module(task, state, 0))
    assert len(selected) == 12
    scaled = drawn / drawn.norm(dim=1, keepdim=True).sqrt()
    assert torch.cdist(selected, scaled).amin(1).max() < 1e-6


@pytest.mark.parametrize(
    ("hp", "sentence"),
    [
        ({"beta": 0.1, "beta_absolute": 1.0}, "`beta`, a share of beta_max, is given or"),
        ({"gates": 121}, "`gates` is at most the number of training examples, 120; got 121"),
        ({"gates_from": "sgd", "gate_epochs": 0}, "`gate_epochs` makes at least one step.*got 0"),
        ({"units_from": "random_features"}, "goes with `select` greedy; got beta"),
        ({"neurons": 5}, "`neurons` is used with `select` greedy alone; got 5"),
        ({"gate_epochs": 2}, "`gate_epochs` is used with `gates_from` sgd alone; got 2"),
        (
            {"units_from": "random_features", "select": "greedy", "gates_from": "sgd"},
            "`gates_from` is used with `units_from` convex alone; got sgd",
        ),
    ],
)
def test_hyper_parameters_that_do_not_fit_together(hp: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        parent([defaults(**hp)])


def test_members_that_differ_in_the_number_of_neurons_share_one_solution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solved: list[int] = []
    run = convex.Problem.run

    def counted(self: convex.Problem, at: Any, betas: Tensor, *rest: Any) -> Any:
        solved.append(len(betas))
        return run(self, at, betas, *rest)

    monkeypatch.setattr(convex.Problem, "run", counted)
    algorithm = find("cronos")
    settings = [
        {"beta": beta, "neurons": neurons, "select": "greedy", "gates": 4, "iterations": 30}
        for neurons in (4, 8, 16)
        for beta in (0.02, 0.1)
    ]
    members = [Member(complete(algorithm.space, hp), 3) for hp in settings]
    parent = algorithm.parent(TASK, members[0].hp)
    state = algorithm.start(parent, members)
    state = algorithm.advance(parent, state)
    assert sum(solved) == 2, "two weights, however many neurons are selected"
    certified: list[int] = []
    found = convex.Problem.found

    def noticed(self: convex.Problem, at: Any, betas: Tensor) -> Any:
        certified.append(len(betas))
        return found(self, at, betas)

    monkeypatch.setattr(convex.Problem, "found", noticed)
    networks = algorithm.networks(parent, state)
    assert sum(certified) == 2, "and two certificates"
    assert networks.metrics["neurons"].tolist()[::2] == [4, 8, 16]
    alone = algorithm.advance(parent, algorithm.start(parent, members[4:5]))
    for name in ("t", "u", "z"):
        assert torch.allclose(state.members[name][4], alone.members[name][0], atol=1e-9)
    assert torch.equal(state.members["made"][4], alone.members["made"][0]), "each is charged all"
