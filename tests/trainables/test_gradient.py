"""The training loop of a cohort against torch's own optimisers, and the promise that a cohort is
neutral.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member, Networks, State
from prunefront.trainables.domain import Value, complete
from prunefront.trainables.measure import flops
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task
from prunefront.trainables.training import dense, draws, optimizers, stack
from prunefront.trainables.training.dense import dense_networks, dense_ready
from prunefront.trainables.training.pruner import GradientPruner, Params, Pruning
from prunefront.trainables.training.start import Dense
from prunefront.trainables.tree import leaves, map_tree

FLOAT64 = Task(model_options={"widths": [32]}, rungs=1, dtype="float64")


def steps(task: Task, count: int) -> Task:
    """The task with a budget of `count` steps."""
    return dataclasses.replace(task, epochs=count / task.steps_per_epoch)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "inverse"])
@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adam", 0.9)])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_dense_member_is_what_torchs_optimiser_makes_of_it(
    optimizer: str, momentum: float, decay: float, schedule: str
):
    count = 60
    task = steps(
        dataclasses.replace(
            FLOAT64, optimizer=optimizer, momentum=momentum, schedule=schedule, lr=0.01
        ),
        count,
    )  # type: ignore[arg-type]
    dense, hp = find("dense"), {"weight_decay": decay}
    state = dense.advance(
        task,
        dense.start(task, [Member(complete(find("dense").space, hp), seed) for seed in (5, 6)]),
    )
    module = task.build(6)
    theirs = (
        torch.optim.SGD(module.parameters(), lr=task.lr, momentum=momentum, weight_decay=decay)
        if optimizer == "sgd"
        else torch.optim.AdamW(module.parameters(), lr=task.lr, weight_decay=decay)
    )
    rate = torch.optim.lr_scheduler.LambdaLR(
        theirs, lambda step: optimizers.SCHEDULES[schedule](step, count)
    )
    x, y = task.data.inputs["train"], task.data.labels["train"]
    for step in range(count):
        epoch, place = divmod(step, task.steps_per_epoch)
        order = draws.permutation(draws.key(torch.tensor(6), epoch, "order"), len(y))
        rows = order[place * task.batch_size : (place + 1) * task.batch_size]
        theirs.zero_grad()
        F.cross_entropy(module(x[rows]), y[rows]).backward()
        theirs.step()
        rate.step()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(
            state.members["params"][name][1], parameter.detach(), rtol=0, atol=1e-11
        )


def dithered() -> dict[str, Any]:
    """Digits whose pixels all differ a little.

    Where equal pixels meet a filter, pooled values tie, and how a convolution rounds decides which
    position the removed weights of the filter learn from: a stack of one rounds differently.
    """
    images, labels = load_digits(return_X_y=True)
    noise = np.random.default_rng(0).uniform(0, 0.01, size=np.shape(images))
    return {"train": (np.reshape(images + noise, (-1, 1, 8, 8)), np.asarray(labels))}


@pytest.mark.parametrize(
    ("name", "model"),
    [("dns", "mlp"), ("magnitude", "mlp"), ("chance", "mlp"), ("dns", "example_models.normed")],
)
def test_the_same_bits_in_cohorts_of_2_7_and_64_and_1e_9_alone(name: str, model: str):
    task = steps(dataclasses.replace(FLOAT64, model=model, model_options={}, lr=0.02), 200)
    if model == "mlp":
        task = dataclasses.replace(task, model_options={"widths": [32]})
    else:
        task = dataclasses.replace(task, dataset="test_gradient.dithered")
    algorithm = find(name)
    everyone = [
        Member(complete(algorithm.space, {"sparsity": 0.5 + 0.005 * k}), seed=k % 5)
        for k in range(64)
    ]

    def trained(members: list[Member]) -> State:
        return algorithm.advance(task, algorithm.start(task, members))

    whole = trained(everyone)
    for few in (2, 7):
        part = trained(everyone[:few])
        for path, tensor in leaves(part.members).items():
            assert torch.equal(tensor, leaves(whole.members)[path][:few]), path
    rows = measure(task, algorithm, whole, last=True)
    assert rows[:7] == [
        {**row, "seconds": rows[0]["seconds"]}
        for row in measure(task, algorithm, trained(everyone[:7]), True)
    ]
    alone = trained(everyone[3:4])
    (row,) = measure(task, algorithm, alone, last=True)
    assert abs(row["loss_train"] - rows[3]["loss_train"]) < 1e-9
    assert row["params_kept"] == rows[3]["params_kept"]
    mask, masks = leaves(alone.members["pruning"]["mask"]), leaves(whole.members["pruning"]["mask"])
    assert all(torch.equal(mask[parameter][0], masks[parameter][3]) for parameter in mask)


def test_float32_is_bit_neutral_too():
    task = steps(dataclasses.replace(FLOAT64, precision="float32"), 100)
    dns = find("dns")
    members = [Member(complete(dns.space, {"sparsity": 0.8}), seed) for seed in range(7)]
    whole, part = (dns.advance(task, dns.start(task, chosen)) for chosen in (members, members[4:6]))
    for path, tensor in leaves(part.members).items():
        assert path == "slot" or torch.equal(tensor, leaves(whole.members)[path][4:6])


def test_the_dense_phase_is_trained_once_and_shared(tmp_path: Path):
    own = steps(FLOAT64, 100)
    shared = dataclasses.replace(own, starts=str(tmp_path))
    assert not dense_ready(shared, [0, 1])
    first = dense_networks(shared, [0, 1, 0], shared.dense_steps)
    params = first.params
    assert first.seconds > 0
    assert first.steps == 40
    assert dense_ready(shared, [0, 1])
    assert len(list(tmp_path.iterdir())) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = dense_networks(shared, [1, 0], shared.dense_steps)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before, "trained again"
    assert again.seconds == pytest.approx(first.seconds, rel=1e-6)
    for name, tensor in params.items():
        assert torch.equal(tensor[0], tensor[2])
        assert torch.equal(tensor[0], again.params[name][1])
    # What is shared does not depend on who came first: one seed alone gives the same bits.
    lone = dense_networks(
        dataclasses.replace(shared, starts=str(tmp_path / "other")), [1], shared.dense_steps
    )
    assert all(torch.equal(lone.params[name][0], params[name][1]) for name in params)
    plain = GradientPruner()
    phase = dataclasses.replace(own, epochs=40 / own.steps_per_epoch)
    state = plain.advance(
        phase, plain.start(phase, [Member(complete(plain.space, {}), seed) for seed in (0, 1)])
    )
    assert all(
        torch.equal(state.members["params"][name], tensor[:2]) for name, tensor in params.items()
    )


def test_all_arms_have_one_budget_and_pay_for_their_dense_phase():
    task = steps(FLOAT64, 100)
    for name in ("dense", "dns"):
        algorithm = find(name)
        state = algorithm.advance(
            task, algorithm.start(task, [Member(complete(algorithm.space, {}), 0)])
        )
        (row,) = measure(task, algorithm, state, last=True)
        assert (row["steps"], row["examples"]) == (100, 100 * task.batch_size)
        assert row["train_flops"] == 3 * task.counts.flops * row["examples"]


def test_magnitude_keeps_the_largest_and_gradual_pruning_follows_the_cubic():
    task = dataclasses.replace(steps(FLOAT64, 100), rungs=4)
    magnitude = find("magnitude")
    first = magnitude.start(task, [Member(complete(magnitude.space, {"sparsity": 0.7}), 0)])
    for weight, bias in (("1.weight", "1.bias"), ("3.weight", "3.bias")):
        values = torch.cat([first.members["params"][n].abs().flatten() for n in (weight, bias)])
        mask = torch.cat([first.members["pruning"]["mask"][n].flatten() for n in (weight, bias)])
        assert int(mask.sum()) == round(0.3 * len(mask))
        assert values[mask].min() >= values[~mask].max()
    gradual = {"sparsity": 0.8, "schedule": "gradual", "ramp": 0.5, "every": 1}
    state = magnitude.start(task, [Member(complete(magnitude.space, gradual), 0)])
    found = []
    for _ in range(4):
        state = magnitude.advance(task, state)
        found.append(measure(task, magnitude, state, last=False)[0]["sparsity"])
    expected = [0.8 * (1 - (1 - min(1, 2 * rung / 4)) ** 3) for rung in (1, 2, 3, 4)]
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_floor_that_keeps_more_than_the_sparsity_is_refused():
    magnitude = find("magnitude")
    hp = complete(magnitude.space, {"scope": "global", "sparsity": 0.9, "floor": 0.2})
    with pytest.raises(
        ValueError, match=r"`floor` keeps 482 of 2410 at least, `sparsity` 0\.9 keeps 241"
    ):
        magnitude.check(FLOAT64, hp)
    magnitude.check(FLOAT64, {**hp, "floor": 0.05})


class Saliency(GradientPruner):
    """Takes gradients of each member at `start`, at `begin` and after every tenth step, and does
    nothing with them.
    """

    source = "a test"
    at: ClassVar[tuple[str, ...]] = ("every",)
    examples = 8

    def start(self, task: Task, members: Sequence[Member]) -> State:
        state = super().start(task, members)
        return self.gradients(task, state) if "start" in self.at else state

    def begin(self, task: Task, members: Sequence[Member], dense: Dense) -> State:
        state = super().begin(task, members, dense)
        return self.gradients(task, state) if "begin" in self.at else state

    def due(self, hp: Mapping[str, Value], step: int, steps: int) -> bool:
        return step % 10 == 0

    def every(self, task: Task, state: State, x: Tensor, y: Tensor) -> State:
        return self.gradients(task, state) if "every" in self.at else state

    def gradients(self, task: Task, state: State) -> State:
        call, x = (
            stack.Call(task.template),
            task.data.examples("train", torch.arange(self.examples)),
        )

        def loss(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {"loss": call(params, {}, x).square().sum()}

        params = map_tree(lambda p: p.detach().requires_grad_(), state.members["params"])
        total = stack.lift(loss, state.size)(params)["loss"].sum()
        torch.autograd.grad(total, list(params.values()))
        return state


class FromDense(Saliency):
    from_dense = True
    at = ("start", "begin", "every")


class ChargesItself(FromDense):
    charges = True


class Tells(FromDense):
    def networks(self, task: Task, state: State) -> Networks:
        nothing = torch.zeros(state.size, dtype=torch.long)
        return dataclasses.replace(
            super().networks(task, state), search={"flops": nothing + 7, "seconds": nothing}
        )


def measured(algorithm: GradientPruner, task: Task, size: int) -> list[dict[str, Any]]:
    members = [Member(complete(algorithm.space, {}), seed) for seed in range(size)]
    state = algorithm.start(task, members)
    for _ in range(task.rungs):
        state = algorithm.advance(task, state)
    return measure(task, algorithm, state, last=True)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("kind", "model"), [(Saliency, "mlp"), (FromDense, "mlp"), (Saliency, "example_models.refused")]
)
def test_gradients_beside_the_steps_are_charged(kind: type[Saliency], size: int, model: str):
    task = steps(dataclasses.replace(FLOAT64, model=model, model_options={}, rungs=2), 50)
    rows = measured(kind(), task, size)
    first = task.counts.layers[task.structure.layers[0].name]  # needs no gradient of its inputs
    each = (3 * task.counts.flops - first) * Saliency.examples
    calls = 5 if kind is Saliency else 2 + 3  # of 50 steps, 20 are the dense phase
    for row in rows:
        assert row["search_flops"] == calls * each
        assert row["train_flops"] == 3 * task.counts.flops * row["examples"] + calls * each


class Sensitive(GradientPruner):
    """Takes a gradient of each member's network before the first step."""

    source = "a test"

    def init_member(self, task: Task, member: Member, params: Params, buffers: Params) -> Pruning:
        x = task.data.examples("train", torch.arange(Saliency.examples))
        own = {name: p.detach().requires_grad_() for name, p in params.items()}
        total = torch.func.functional_call(task.template, own, (x,)).square().sum()
        torch.autograd.grad(total, list(own.values()))
        return {}


def test_gradients_of_each_member_before_the_first_step_are_charged():
    task = steps(FLOAT64, 20)
    first = task.counts.layers[task.structure.layers[0].name]  # needs no gradient of its inputs
    each = (3 * task.counts.flops - first) * Saliency.examples
    assert [row["search_flops"] for row in measured(Sensitive(), task, 2)] == [each, each]


def test_what_charges_itself_is_not_charged_twice():
    task = steps(FLOAT64, 50)
    assert [row["search_flops"] for row in measured(ChargesItself(), task, 2)] == [0, 0]
    assert [row["search_flops"] for row in measured(Tells(), task, 2)] == [7, 7]
    assert [row["search_flops"] for row in measured(GradientPruner(), task, 2)] == [0, 0]


def test_what_is_charged_survives_a_kill_and_changes_no_weight(tmp_path: Path):
    task = dataclasses.replace(steps(FLOAT64, 50), rungs=2)
    algorithm, plain = FromDense(), ChargesItself()
    members = [Member(complete(algorithm.space, {}), seed) for seed in range(2)]
    half = algorithm.advance(task, algorithm.start(task, members))
    half.save(tmp_path / "state")
    loaded = State.load(tmp_path / "state", torch.device("cpu"))
    resumed, straight = algorithm.advance(task, loaded), algorithm.advance(task, half)
    assert resumed.scalars["charged"] == straight.scalars["charged"] > half.scalars["charged"] > 0
    uncounted = plain.advance(task, plain.advance(task, plain.start(task, members)))
    for path, tensor in leaves(uncounted.members).items():
        assert torch.equal(tensor, leaves(straight.members)[path]), path


def test_the_dense_phase_is_trained_without_a_counter(monkeypatch: pytest.MonkeyPatch):
    task, inside = steps(FLOAT64, 20), []
    phase = dense._dense_networks

    def watched(*given: Any) -> Dense:
        inside.append(flops._charging.get())
        return phase(*given)

    monkeypatch.setattr(dense, "_dense_networks", watched)
    FromDense().start(task, [Member(complete(FromDense.space, {}), 0)])
    assert set(inside) == {None}
