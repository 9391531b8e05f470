"""D-Adaptation Adam against the library of its authors, and what optimisers say of their slots."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunefront.trainables.algorithms import find
from prunefront.trainables.algorithms.l1_filters import L1Filters
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task
from prunefront.trainables.training import draws, optimizers
from prunefront.trainables.tree import leaves

TASK = Task(
    model_options={"widths": [16, 12]},
    optimizer="dadapt_adam",
    lr=1.0,
    schedule="constant",
    dtype="float64",
    epochs=2,
    rungs=2,
)

SHAPES = {"weight": (4, 3), "bias": (4,)}
SIZES = (1.0, 3.0, 0.3)
"""How far the minimum of each member is."""


def gradients(values: dict[str, Tensor], size: float) -> dict[str, Tensor]:
    """Of a smooth function with its minimum at `size`."""
    return {
        name: torch.tanh((p - size) / size) * (1 + p.square().mean()) for name, p in values.items()
    }


def theirs(
    size: float, lr: float, decay: float, steps: int, corrects: bool = False
) -> tuple[list[Tensor], list[float]]:
    """Parameters after `steps` by the library, and its `d` after each step."""
    from dadaptation import DAdaptAdam

    parameters = {
        name: torch.nn.Parameter(torch.full(shape, 0.1, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = DAdaptAdam(
            parameters.values(),  # type: ignore[arg-type]
            lr=lr,
            weight_decay=decay,  # type: ignore[arg-type]
            decouple=True,
            use_bias_correction=corrects,
        )
    found = []
    for _ in range(steps):
        for name, grad in gradients(
            {name: p.detach() for name, p in parameters.items()}, size
        ).items():
            parameters[name].grad = grad
        optimizer.step()
        found.append(optimizer.param_groups[0]["d"])
    return [p.detach() for p in parameters.values()], found


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("lr", [1.0, 0.5])
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("name", ["dadapt_adam", "dadapt_adamw"])
def test_d_adaptation_is_what_the_library_does_for_each_member(
    name: str, members: int, lr: float, decay: float
):
    task = dataclasses.replace(TASK, optimizer=name)
    steps, lone = 50, members == 1
    stacked = {
        name: torch.full((members, *shape), 0.1, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }
    slots: dict[str, Any] = optimizers.slots(task, stacked)
    hp = {
        "lr": torch.full((members,), lr, dtype=torch.float64),
        "weight_decay": torch.full((members,), decay, dtype=torch.float64),
    }
    if lone:  # as the loop has a cohort of one
        stacked, hp = ({name: t[0] for name, t in tree.items()} for tree in (stacked, hp))
        slots = {
            n: {p: t[0] for p, t in s.items()} if isinstance(s, dict) else s[0]
            for n, s in slots.items()
        }
    update = optimizers.updater(task, hp, slots, steps)
    found = []
    for step in range(steps):
        each = [
            gradients({n: p if lone else p[k] for n, p in stacked.items()}, SIZES[k])
            for k in range(members)
        ]
        grads = (
            each[0]
            if lone
            else {name: torch.stack([grad[name] for grad in each]) for name in SHAPES}
        )
        update(stacked, grads, step)
        found.append(slots[optimizers.DISTANCE].reshape(members).clone())
    for k in range(members):
        corrects = name == "dadapt_adamw"
        parameters, distances = theirs(SIZES[k], lr, decay, steps, corrects)
        assert distances[-1] > 100 * distances[0], "the estimate grows in this time"
        ours = torch.stack(found)[:, k]
        torch.testing.assert_close(
            ours, torch.tensor(distances, dtype=torch.float64), rtol=1e-9, atol=0
        )
        for part, parameter in zip(SHAPES, parameters, strict=True):
            torch.testing.assert_close(
                stacked[part].view(members, *SHAPES[part])[k], parameter, rtol=0, atol=1e-9
            )


def test_the_corrected_form_on_numbers_worked_by_hand():
    """Two steps of one weight with gradients 1 and 1, d0 = 1e-6: D-Adaptation's formulas with
    Adam's correction, sqrt(1 - 0.999^k) / (1 - 0.9^k).
    """
    task = dataclasses.replace(TASK, optimizer="dadapt_adamw", weight_decay=0.0)
    params = {"weight": torch.zeros(1, 1, dtype=torch.float64)}
    slots = optimizers.slots(task, params)
    hp = {"lr": torch.ones(1).double(), "weight_decay": torch.zeros(1).double()}
    update = optimizers.updater(task, hp, slots, 10)
    beta = math.sqrt(0.999)
    d, mean, square, total, numerator, weight = 1e-6, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in (1, 2):
        rate = d * math.sqrt(1 - 0.999**k) / (1 - 0.9**k)
        along = rate * total / (math.sqrt(square) + 1e-8)
        mean = 0.9 * mean + 0.1 * rate
        square = 0.999 * square + 0.001
        total = beta * total + (1 - beta) * rate
        numerator = beta * numerator + (1 - beta) * along
        d = max(d, numerator / ((1 - beta) * total))
        weight -= mean / (math.sqrt(square) + 1e-8)
        update(params, {"weight": torch.ones(1, 1).double()}, k - 1)
        assert float(params["weight"]) == pytest.approx(weight, rel=1e-9)
        assert float(slots[optimizers.DISTANCE]) == pytest.approx(d, rel=1e-9)


def test_a_rate_rises_in_equal_steps_and_then_follows_the_schedule():
    warmed = dataclasses.replace(TASK, schedule="linear", warmup=0.2)
    course = optimizers.course(warmed)
    factors = [course(step, 20) for step in range(20)]
    assert factors[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert factors[4:] == pytest.approx([1 - k / 16 for k in range(16)])
    plain = dataclasses.replace(warmed, warmup=0.0)
    assert optimizers.course(plain)(5, 20) == pytest.approx(0.75)
    assert optimizers.course(warmed)(0, 1) > 0, "a horizon of one step has a rate"


def test_keys_that_came_later_do_not_rename_members_of_older_studies():
    task = Task(epochs=1)
    assert "warmup" not in task.describe()
    assert task.describe() == dataclasses.replace(task, schedule="cosine").describe()
    assert dataclasses.replace(task, warmup=0.1).describe()["warmup"] == 0.1


def test_a_member_without_a_gradient_waits_as_in_the_library():
    """Its weights do not decay, and its estimate stays, until the first gradient comes; the other
    member goes on.
    """
    params = {"weight": torch.ones(2, 3, dtype=torch.float64)}
    slots = optimizers.slots(TASK, params)
    hp = {"lr": torch.ones(2).double(), "weight_decay": torch.full((2,), 0.1, dtype=torch.float64)}
    update = optimizers.updater(TASK, hp, slots, 11)
    for step in range(10):
        update(params, {"weight": torch.tensor([[0.0] * 3, [1.0] * 3]).double()}, step)
    assert torch.equal(params["weight"][0], torch.ones(3).double())
    assert (
        slots[optimizers.DISTANCE].tolist()[0]
        == optimizers.FIRST_DISTANCE
        < slots[optimizers.DISTANCE].tolist()[1]
    )
    update(params, {"weight": torch.ones(2, 3).double()}, 10)
    assert (params["weight"][0] < 1).all()


def test_a_gradient_that_is_not_finite_stays_with_its_member():
    start = {"weight": torch.ones(2, 3, dtype=torch.float64)}
    ends = []
    for wild in (1.0, torch.nan, torch.inf):
        params = {name: p.clone() for name, p in start.items()}
        slots = optimizers.slots(TASK, params)
        hp = {"lr": torch.ones(2).double(), "weight_decay": torch.zeros(2).double()}
        update = optimizers.updater(TASK, hp, slots, 20)
        for step in range(20):
            update(params, {"weight": torch.tensor([[wild] * 3, [1.0] * 3]).double()}, step)
        ends.append((params["weight"][1], slots[optimizers.DISTANCE][1]))
        assert bool(params["weight"][0].isfinite().all()) == (wild == 1.0)
    assert all(torch.equal(a, b) for end in ends[1:] for a, b in zip(ends[0], end, strict=True))


def train(algorithm: Algorithm, members: list[Member], rungs: int = TASK.rungs) -> State:
    state = algorithm.start(TASK, members)
    for _ in range(rungs):
        state = algorithm.advance(TASK, state)
    return state


def theirs_of(
    task: Task, module: nn.Module, seed: int, loss: Callable[..., Tensor], lr: float
) -> float:
    """Train `module` by the library on the batches of `seed`, for the task's budget; returns its
    `d`.
    """
    from dadaptation import DAdaptAdam

    x, y = (
        task.data.examples("train", torch.arange(len(task.data.labels["train"]))),
        task.data.labels["train"],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        optimizer = DAdaptAdam(
            [p for p in module.parameters() if p.requires_grad],
            lr=lr,
            decouple=True,
            use_bias_correction=task.optimizer == "dadapt_adamw",
        )
    course = optimizers.course(task)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: course(step, task.steps))
    for step in range(task.steps):
        epoch, place = divmod(step, task.steps_per_epoch)
        order = draws.permutation(draws.key(torch.tensor(seed), epoch, "order"), len(y))
        rows = order[place * task.batch_size : (place + 1) * task.batch_size]
        optimizer.zero_grad()
        loss(module(x[rows]), y[rows]).backward()
        optimizer.step()
        rate.step()
    return optimizer.param_groups[0]["d"]


def test_a_dense_member_is_what_the_library_makes_of_it():
    """With a schedule, which multiplies the library's `lr`, for as long as rounding leaves the two
    together.
    """
    task = dataclasses.replace(TASK, epochs=3, rungs=1, lr=0.3, schedule="cosine")
    dense, module = find("dense"), task.build(6)
    state = dense.advance(
        task, dense.start(task, [Member(complete(dense.space, {}), seed) for seed in (5, 6)])
    )
    distance = theirs_of(task, module, 6, F.cross_entropy, lr=0.3)
    assert distance > 1e-3
    assert float(state.members["optimizer"][optimizers.DISTANCE][1]) == pytest.approx(
        distance, rel=1e-9
    )
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(
            state.members["params"][name][1], parameter.detach(), rtol=0, atol=1e-9
        )
    assert measure(task, dense, state, last=False)[1]["accuracy_train"] > 0.8


def test_slots_of_one_number_each_survive_saving_selecting_and_resuming(tmp_path: Path):
    dense = find("dense")
    members = [Member(complete(dense.space, {}), seed) for seed in range(3)]
    whole, half = train(dense, members), train(dense, members, rungs=1)
    assert half.members["optimizer"][optimizers.DISTANCE].shape == (3,)
    assert len(set(half.members["optimizer"][optimizers.DISTANCE].tolist())) == 3
    half.save(tmp_path / "state.safetensors")
    state = State.load(tmp_path / "state.safetensors", TASK.torch_device)
    for index in ([0, 1, 2], [2, 0]):
        resumed = leaves(dense.advance(TASK, state.select(index)).members)
        for name, tensor in leaves(whole.members).items():
            assert torch.equal(resumed[name], tensor[index]), name
    for seed in (0, 1):
        alone = train(dense, members[seed : seed + 1])
        for name, tensor in leaves(alone.members["optimizer"]).items():
            torch.testing.assert_close(
                tensor[0], leaves(whole.members["optimizer"])[name][seed], rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize(
    ("optimizer", "momentum", "shaped", "of_members"),
    [
        ("sgd", 0.9, {"momentum"}, set()),
        ("sgd", 0.0, set(), set()),
        ("adam", 0.9, {"mean", "square"}, set()),
        (
            "dadapt_adam",
            0.9,
            {"mean", "square", "sum"},
            {optimizers.DISTANCE, optimizers.NUMERATOR},
        ),
    ],
)
def test_an_optimiser_says_which_slots_are_narrowed_with_the_parameters(
    optimizer: str, momentum: float, shaped: set[str], of_members: set[str]
):
    task = dataclasses.replace(TASK, optimizer=optimizer, momentum=momentum)
    params = {"one": torch.ones(2, 4, 3), "two": torch.ones(2, 4)}
    slots = optimizers.slots(task, params)
    assert slots.keys() == shaped | of_members
    for name in of_members:
        assert (slots[name].shape, slots[name].dtype) == ((2,), torch.float64)

    def halved(slot: Any) -> dict[str, Any]:
        return {name: tensor[:, :2] for name, tensor in slot.items()}

    narrow = optimizers.reshaped(task, slots, halved)
    assert narrow.keys() == slots.keys()
    for name in shaped:
        assert slots[name]["one"].shape == (2, 4, 3)
        shapes = {parameter: tensor.shape for parameter, tensor in narrow[name].items()}
        assert shapes == {"one": (2, 2, 3), "two": (2, 2)}
    for name in of_members:
        assert narrow[name] is slots[name]


class Whole(L1Filters):
    """The same on a stack that keeps its shape."""

    narrows = False


def test_a_stack_that_shrinks_keeps_each_members_numbers():
    cutting = L1Filters()
    members = [
        Member(complete(cutting.space, {"sparsity": sparsity}), seed)
        for seed, sparsity in enumerate((0.5, 0.8))
    ]
    short, long = train(cutting, members), train(Whole(), members)
    assert short.shape is not None
    assert long.shape is None
    for name in (optimizers.DISTANCE, optimizers.NUMERATOR):
        torch.testing.assert_close(
            short.members["optimizer"][name],
            long.members["optimizer"][name],
            rtol=1e-9,
            atol=1e-12,
            msg=name,
        )


def test_the_proximal_step_of_the_group_lasso_needs_a_learning_rate_that_it_knows():
    lasso = find("group_lasso")
    with pytest.raises(ValueError, match="sgd or adam; got dadapt_adam"):
        lasso.check(TASK, complete(lasso.space, {}))
    lasso.check(dataclasses.replace(TASK, optimizer="adam"), complete(lasso.space, {}))
