"""CRONOS-AM: the head is what its rule says on the features as they are, features move and the head
does not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables import convex
from prunefront.trainables.algorithms import _cronos_heads, find
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.structure import graph
from prunefront.trainables.task import Task
from prunefront.trainables.training import optimizers, stack
from prunefront.trainables.tree import leaves

TASK = Task(model_options={"widths": [12, 40]}, epochs=2, rungs=2, dtype="float64")
ALGORITHM = find("cronos_am")
HEAD = ("3.weight", "3.bias", "5.weight", "5.bias")


def hp(**given: object) -> dict[str, Any]:
    return complete(ALGORITHM.space, {"checkpoint": 20, **given})


def parent(task: Task = TASK, **given: object) -> Task:
    return ALGORITHM.parent(task, hp(**given))


def train(members: list[Member], rungs: int = TASK.rungs, task: Task = TASK) -> State:
    task = ALGORITHM.parent(task, members[0].hp)
    state = ALGORITHM.start(task, members)
    for _ in range(rungs):
        state = ALGORITHM.advance(task, state)
    return state


def network(task: Task, state: State, k: int) -> dict[str, Tensor]:
    found = ALGORITHM.networks(task, state)
    return {name: tensor[k] for name, tensor in found.params.items()}


def features(task: Task, params: dict[str, Tensor]) -> Tensor:
    """What the head reads, (n, d), for the models of TASK."""
    flat = task.data.inputs["train"].flatten(1)  # type: ignore[union-attr]
    return torch.relu(F.linear(flat, params["1.weight"], params["1.bias"]))


def logits(params: dict[str, Tensor], read: Tensor) -> Tensor:
    return F.linear(
        torch.relu(F.linear(read, params["3.weight"], params["3.bias"])),
        params["5.weight"],
        params["5.bias"],
    )


def targets(task: Task) -> Tensor:
    return F.one_hot(task.data.labels["train"], 10).double()


class Functional(nn.Module):
    """Its ReLU is a function and its layers are defined in another order than they are used in."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.last, self.first, self.stem = (
            nn.Linear(40, classes),
            nn.Linear(6, 40),
            nn.Linear(inputs, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(torch.relu(self.stem(x.flatten(1))), 0.2, self.training)  # vmap refuses it
        return self.last(F.relu(self.first(x)))


def functional(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Functional(input_shape[0] * input_shape[1] * input_shape[2], classes)


def between(input_shape: tuple[int, ...], classes: int, how: str = "dropout") -> nn.Module:
    """Models that only look as if they ended in linear, ReLU, linear."""
    inputs = input_shape[0] * input_shape[1] * input_shape[2]
    start = [nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 40, bias=how != "bias")]
    after: dict[str, list[nn.Module]] = {
        "dropout": [nn.ReLU(), nn.Dropout(0.1), nn.Linear(40, classes)],
        "tanh": [nn.Tanh(), nn.Linear(40, classes)],
        "bias": [nn.ReLU(), nn.Linear(40, classes)],
        "softmax": [nn.ReLU(), nn.Linear(40, classes), nn.Softmax(1)],
    }
    return nn.Sequential(*start, *after[how])


def test_the_head_is_found_in_the_code():
    for model, options, names in (
        ("mlp", {"widths": [12, 40]}, ("3", "5")),
        ("mlp", {"widths": [40]}, ("1", "3")),
        ("test_cronos_am.functional", {}, ("first", "last")),
        ("example_models.scaled", {}, ("7", "9")),
        ("example_models.normed", {}, None),
        ("example_models.residual", {}, None),
        ("example_models.refused", {}, None),
        *(("test_cronos_am.between", {"how": how}, None) for how in ("dropout", "tanh", "softmax")),
    ):
        task = dataclasses.replace(TASK, model=model, model_options=options)
        found = graph.head(task.template, task.structure)
        assert (found and tuple(layer.name for layer in found)) == names, model


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (
            "mlp",
            {"widths": [12, 19]},
            "the last hidden layer has two units for each class, 20 or more, and a layer before it; mlp has 19",
        ),
        (
            "mlp",
            {"widths": [40]},
            "it needs a layer before the last two, to be trained by gradient; mlp has none",
        ),
        (
            "example_models.normed",
            {},
            "the model ends in linear, ReLU, linear, with biases; example_models.normed does not",
        ),
        (
            "test_cronos_am.between",
            {"how": "bias"},
            "linear, with biases; test_cronos_am.between does not",
        ),
    ],
)
def test_what_is_refused(model: str, options: dict[str, Any], sentence: str):
    task = parent(dataclasses.replace(TASK, model=model, model_options=options))
    with pytest.raises(ValueError, match=sentence):
        ALGORITHM.check(task, hp())


def test_features_are_those_of_evaluation():
    task = parent(dataclasses.replace(TASK, model="test_cronos_am.functional", model_options={}))
    ALGORITHM.check(task, hp())
    body, x = (
        graph.before(task.template.eval(), "first"),
        task.data.examples("train", torch.arange(9)),
    )
    assert dict(body.named_parameters()).keys() == {"stem.weight", "stem.bias"}
    expected = torch.relu(
        F.linear(
            x.flatten(1),
            *(task.template.get_parameter(f"stem.{name}") for name in ("weight", "bias")),
        )
    )
    assert torch.equal(stack.Call(body)(dict(task.template.named_parameters()), {}, x), expected)


def test_a_model_that_vmap_refuses_has_its_head_solved_for():
    task = parent(
        dataclasses.replace(
            TASK, model="test_cronos_am.functional", model_options={}, epochs=1, rungs=1
        )
    )
    assert not task.stackable
    members = [
        Member(hp(head="least_squares", beta=beta), seed) for seed, beta in enumerate((1e-3, 10.0))
    ]
    together, alone = train(members, 1, task), train(members[1:], 1, task)
    for name, tensor in leaves(alone.members["pruning"]).items():
        assert torch.equal(tensor[0], leaves(together.members["pruning"])[name][1]) or name in (
            "primal",
            "gap",
        )
    assert all(
        row["accuracy_train"] > 0.5 for row in measure(task, ALGORITHM, together, last=False)
    )


def test_gates_are_normal_and_a_seeds_own():
    drawn = convex.gate_vectors(torch.tensor(3), 40, 500)
    assert torch.equal(drawn, convex.gate_vectors(torch.tensor(3), 40, 500))
    assert not torch.equal(drawn, convex.gate_vectors(torch.tensor(4), 40, 500))
    assert drawn.isfinite().all()
    assert abs(float(drawn.mean())) < 0.03
    assert abs(float(drawn.std()) - 1) < 0.03
    assert abs(float(drawn.pow(4).mean()) - 3) < 0.2


def test_neurons_compute_what_the_convex_program_does():
    """v whose own patterns are the gates, as the program's constraints want it: sum_i D_i X (v_i -
    w_i).
    """
    torch.manual_seed(0)
    x, v = torch.randn(30, 4).double(), torch.randn(3, 2, 4, 5).double()
    v[0, 1, :, 2] = 0
    hidden, outer = convex.layers(v.mT)
    assert (hidden.shape, outer.shape) == ((30, 4), (3, 30))
    terms = torch.einsum(
        "nd,csdp->csnp", x, v
    ).relu()  # D_i X v_i where the gates are v's own patterns
    expected = (terms[:, 0] - terms[:, 1]).sum(-1).T
    torch.testing.assert_close((x @ hidden.T).relu() @ outer.T, expected)
    assert int((outer != 0).any(0).sum()) == int(hidden.any(1).sum()) == 29
    assert ((outer != 0).sum(0) <= 1).all(), "a neuron feeds its own class only"
    norms = hidden.norm(dim=1) - outer.abs().sum(0)
    assert norms.abs().max() < 1e-12, (
        "in and out weigh the same, where 1/2 (|in|^2 + |out|^2) is least"
    )


def test_ridge_is_a_minimum():
    torch.manual_seed(0)
    hidden, wanted, beta = (
        torch.randn(30, 7).double().relu(),
        torch.randn(30, 3).double(),
        torch.tensor(0.3).double(),
    )
    weight, bias = (
        each.clone().requires_grad_() for each in _cronos_heads.ridge(hidden, wanted, beta)
    )
    loss = (F.linear(hidden, weight, bias) - wanted).square().sum() + beta * (
        weight.square().sum() + bias.square().sum()
    )
    assert all(grad.abs().max() < 1e-12 for grad in torch.autograd.grad(loss, [weight, bias]))


@pytest.mark.parametrize("head", ["least_squares", "random_features"])
def test_a_ridge_head_is_solved_on_the_features_that_are_measured(head: str):
    task = parent()
    members = [
        Member(hp(head=head, beta=beta), seed) for seed, beta in ((0, 1e-3), (1, 5.0), (0, 5.0))
    ]
    state = train(members)
    initial, _ = task.initial([member.seed for member in members])
    for k, member in enumerate(members):
        params = network(task, state, k)
        read = features(task, params)
        assert not torch.equal(params["1.weight"], initial["1.weight"][k])
        if head == "least_squares":
            assert torch.equal(params["3.weight"], initial["3.weight"][k])
        else:
            vectors = convex.gate_vectors(torch.tensor(member.seed), 40, 13)  # as many as units
            torch.testing.assert_close(
                params["3.weight"] * read.square().mean().sqrt(), vectors[:, :-1]
            )
            torch.testing.assert_close(params["3.bias"], vectors[:, -1])
        last = [params[name].clone().requires_grad_() for name in HEAD[2:]]
        loss = (
            (logits({**params, **dict(zip(HEAD[2:], last, strict=True))}, read) - targets(task))
            .square()
            .sum()
        )
        loss = loss + member.hp["beta"] * sum(p.square().sum() for p in last)  # type: ignore[operator]
        assert all(grad.abs().max() < 1e-8 for grad in torch.autograd.grad(loss, last))


def test_the_convex_program_is_given_the_features_and_its_solution_is_the_head(
    monkeypatch: pytest.MonkeyPatch,
):
    """A solver that notes what it is asked, and answers with numbers."""
    asked: list[Any] = []
    answer = (
        torch.randn(
            1, 10, 2, 13, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        / 10
    )
    answer[0, 3, 1, :, 0] = 0
    real = convex.solve(
        torch.ones(4, 2).double(),
        torch.ones(1, 4).double(),
        torch.ones(4, 1).bool(),
        torch.ones(1).double(),
    )

    def solve(*given: Any, **options: Any) -> Any:
        asked.append((*given, options))
        number = torch.tensor([7.0]).double()
        return dataclasses.replace(
            real, v=answer, objective=number, gap=number / 7, flops=torch.tensor([1234])
        )

    monkeypatch.setattr(convex, "solve", solve)
    task, members = (
        parent(),
        [Member(hp(beta=beta, lr=0.01), seed) for seed, beta in enumerate((1e-3, 2.0))],
    )
    state = train(members)
    assert len(asked) == 2 * (1 + TASK.steps // 20 + 1), (
        "at the start, every 20 steps, and at the end"
    )
    for k, member in enumerate(members):
        x, y, gates, betas, options = asked[-2 + k]
        params = network(task, state, k)
        read = features(task, params)
        size = read.square().mean().sqrt()
        torch.testing.assert_close(x, F.pad(read / size, (0, 1), value=1.0))
        assert abs(float(x[:, :-1].square().mean()) - 1) < 1e-12
        assert torch.equal(y, targets(task).T)
        assert torch.equal(gates, x @ convex.gate_vectors(torch.tensor(member.seed), 2, 13).T >= 0)
        assert betas.tolist() == [member.hp["beta"]]
        assert options == {"iterations": 25, "tolerance": 1e-4}
        hidden, outer = convex.layers(answer[0].mT)
        torch.testing.assert_close(logits(params, read), (x @ hidden.T).relu() @ outer.T)
        kept = ALGORITHM.networks(task, state).kept
        assert (
            kept["3.bias"][k].sum()
            == kept["3.weight"][k].any(1).sum()
            == kept["5.weight"][k].sum()
            == 39
        )
        assert not kept["5.bias"][k].any()
        assert kept["1.weight"].all()
    rows = measure(task, ALGORITHM, state, last=False)
    assert [(row["m_neurons"], row["m_primal"], row["m_gap"]) for row in rows] == [(39, 7, 1)] * 2
    each = 1222 * 2 * (64 * 12 + 13 * 2) + 1234  # features, gates, the solve
    assert all(row["search_flops"] == each * len(asked) // 2 for row in rows)
    assert all(row["params_shrunk"] == 64 * 12 + 12 + 39 * (12 + 1 + 10) + 10 for row in rows)


def test_a_large_beta_removes_the_head():
    task, members = parent(), [Member(hp(beta=beta, iterations=20), 0) for beta in (1e6, 1e-3)]
    rows = measure(task, ALGORITHM, train(members, 1), last=False)
    assert [row["m_neurons"] > 0 for row in rows] == [False, True]
    assert rows[0]["flops_shrunk"] == 0 < rows[1]["flops_shrunk"]


@pytest.mark.parametrize("head", ["convex", "least_squares", "frozen", "trained"])
def test_the_head_moves_when_it_is_solved_for_and_only_then(head: str):
    """Weight decay included."""
    task, given = parent(), {"head": head, "checkpoint": 1000, "weight_decay": 0.1}
    members = [Member(hp(**given), seed) for seed in (0, 1)]
    start, half, end = (train(members, rungs) for rungs in (0, 1, 2))
    first, middle, last = (network(task, state, 1) for state in (start, half, end))
    initial = {name: tensor[1] for name, tensor in task.initial([0, 1])[0].items()}
    assert not torch.equal(first["1.weight"], middle["1.weight"])
    for name in HEAD[2:]:  # the last layer, which every solve sets
        if head == "frozen":
            assert torch.equal(initial[name], last[name])
        elif head == "trained":
            assert torch.equal(initial[name], first[name])
            assert not torch.equal(first[name], middle[name])
        else:
            assert torch.equal(first[name], middle[name]), "half of the budget, and no solve in it"
    if head in ("convex", "least_squares"):
        assert not torch.equal(initial["5.weight"], first["5.weight"])
        assert not torch.equal(middle["5.weight"], last["5.weight"])
    assert ALGORITHM.is_control(members[0].hp) == (head != "convex")


def test_a_schedule_of_the_users_is_kept_and_the_default_is_a_warm_up_and_linear_decay():
    own = parent(dataclasses.replace(TASK, schedule="constant"))
    assert (own.schedule, own.warmup, own.optimizer) == ("constant", 0.0, "dadapt_adamw")
    default = parent()
    assert (default.schedule, default.warmup) == ("linear", 0.1)
    warmer = parent(dataclasses.replace(TASK, warmup=0.3), optimizer="dadapt_adam")
    assert (warmer.schedule, warmer.warmup, warmer.optimizer) == ("linear", 0.3, "dadapt_adam")


@pytest.mark.parametrize("model", ["mlp", "lenet5"])
def test_the_head_has_units_and_gates_of_its_own(model: str, tmp_path: Path):
    """100 units in place of the model's; three gates need room for a neuron of each class and
    sign.
    """
    base = TASK if model == "mlp" else Task("npz", model, **images(tmp_path))
    task = parent(base, head_units=100, gates=3)
    first, _ = graph.head(task.template, task.structure) or pytest.fail("no head")
    assert first.units == 100
    member = Member(hp(head_units=100, gates=3, beta=1e-3), 0)
    ALGORITHM.check(task, member.hp)
    state = ALGORITHM.advance(task, ALGORITHM.start(task, [member]))
    (row,) = measure(task, ALGORITHM, state, last=True)
    assert 0 < row["m_neurons"] <= 2 * 3 * task.data.classes
    assert row["flops_dense"] == task.counts.flops
    with pytest.raises(Mistake, match=r"`gates` is at most .*, 5 for 100 units .*; got 6"):
        ALGORITHM.check(task, hp(head_units=100, gates=6))


def images(folder: Path) -> dict[str, Any]:
    """A data set of few images, and a short budget."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 1, 28, 28)).astype(np.float32)
    y = np.arange(200) % 10
    np.savez(folder / "images.npz", x_train=x, y_train=y)
    return {"path": str(folder / "images.npz"), "epochs": 1, "rungs": 1}


def test_a_model_without_a_head_has_none_to_be_made_wider():
    task = ALGORITHM.parent(
        dataclasses.replace(TASK, model="example_models.normed", model_options={}),
        hp(head_units=40),
    )
    with pytest.raises(Mistake, match="a head of other units needs a model that ends linear, ReLU"):
        _ = task.template


def test_frozen_layers_are_no_part_of_what_d_adaptation_measures():
    """The features of a frozen head move as the library moves them, given nothing else."""
    from test_optimizers import theirs_of

    task = dataclasses.replace(parent(head="frozen", lr=0.3), epochs=1, rungs=1)
    state = ALGORITHM.advance(
        task, ALGORITHM.start(task, [Member(hp(head="frozen", lr=0.3), seed) for seed in (5, 6)])
    )
    module = task.build(6)
    for name in HEAD:
        module.get_parameter(name).requires_grad_(False)

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return 5 * F.mse_loss(outputs, F.one_hot(labels, 10).double())  # a mean over ten classes

    distance = theirs_of(task, module, 6, loss, lr=0.3)
    assert float(state.members["optimizer"][optimizers.DISTANCE][1]) == pytest.approx(
        distance, rel=1e-9
    )
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(
            network(task, state, 1)[name], parameter.detach(), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("head", ["convex", "least_squares"])
def test_members_of_other_betas_and_seeds_resume_in_any_company(head: str, tmp_path: Path):
    members = [Member(hp(head=head, beta=beta), seed) for beta in (1e-3, 1.0) for seed in (0, 1)]
    task, whole, half = parent(), train(members), train(members, 1)
    half.save(tmp_path / "state.safetensors")
    for index in ([0, 1, 2, 3], [3, 1]):
        state = State.load(tmp_path / "state.safetensors", task.torch_device).select(index)
        resumed = leaves(ALGORITHM.advance(task, state).members)
        assert all(
            torch.equal(resumed[name], t[index])
            for name, t in leaves(whole.members).items()
            if not t.isnan().any()
        )
    for k in (1, 2):
        alone, among = network(task, train(members[k : k + 1]), 0), network(task, whole, k)
        for name, tensor in alone.items():
            torch.testing.assert_close(tensor, among[name], rtol=0, atol=1e-7)
    assert not torch.equal(network(task, whole, 0)["5.weight"], network(task, whole, 2)["5.weight"])


@pytest.mark.parametrize("head", ["convex", "least_squares", "trained"])
@pytest.mark.parametrize(
    ("pruner", "schedule"),
    [("magnitude", {}), ("magnitude", {"features.schedule": "gradual"}), ("dns", {})],
)
def test_features_are_pruned_by_another_algorithm_and_the_head_is_solved_on_what_is_left(
    head: str, pruner: str, schedule: dict[str, object]
) -> None:
    given: dict[str, Any] = {"head": head, "features": pruner, **schedule}
    given["features.sparsity"] = 0.75
    members = [Member(hp(**given), seed) for seed in (0, 1)]
    state = train(members)
    task = parent(**given)
    assert state.scalars["before"] == TASK.dense_steps, "they are trained first"
    found = ALGORITHM.networks(task, state)
    below = {name: kept for name, kept in found.kept.items() if name.startswith("1.")}
    for k in range(2):
        left = sum(int(kept[k].sum()) for kept in below.values())
        total = sum(kept[k].numel() for kept in below.values())
        assert abs(left - total / 4) <= 1
        params = network(task, state, k)
        for name, kept in below.items():
            assert not params[name][~kept[k]].any(), "what is removed is zero in what is measured"
        if head == "least_squares":
            read = torch.relu(
                F.linear(features(task, params), params["3.weight"], params["3.bias"])
            )
            outer, offset = _cronos_heads.ridge(read, targets(task), torch.tensor(1.0).double())
            assert torch.allclose(outer, params["5.weight"], atol=1e-8)
            assert torch.allclose(offset, params["5.bias"], atol=1e-8)


def test_defaults_of_the_algorithm_named_are_its_own() -> None:
    space = ALGORITHM.space
    assert hp()["features"] == "none"
    for name in space:
        if name.startswith("features."):
            assert space[name].default is None
    given: dict[str, Any] = {"features": "magnitude"}
    (row, *_) = measure(parent(**given), ALGORITHM, train([Member(hp(**given), 0)]), last=True)
    weights, biases = 64 * 12, 12
    removed = row["params_dense"] - row["params_kept"]
    assert removed >= round(0.9 * (weights + biases)), "magnitude's own sparsity"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"features.sparsity": 0.5}, "`features.sparsity` is used with `features` magnitude or dns alone; got 0.5"),
        ({"features": "magnitude", "features.gamma": 0.1}, "`features.gamma` is used with `features` dns alone; got 0.1"),
        ({"features": "dns", "features.ramp": 0.5}, "`features.ramp` is used with `features` magnitude alone; got 0.5"),
    ],
)  # fmt: skip
def test_hyperparameters_of_another_features_algorithm_are_refused(
    given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Mistake) as caught:
        ALGORITHM.check(parent(**given), hp(**given))
    assert sentence in str(caught.value)
