"""Pruners of whole units: by hand on small cases; and a stack that shrinks trains the networks of
one that does not.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prunefront.trainables import models
from prunefront.trainables.algorithms import find
from prunefront.trainables.algorithms._masked import removed
from prunefront.trainables.algorithms._structured import Structured
from prunefront.trainables.algorithms.depgraph import chosen
from prunefront.trainables.algorithms.group_lasso import GroupLasso
from prunefront.trainables.algorithms.l1_filters import L1Filters
from prunefront.trainables.algorithms.scratch import Scratch, found
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import Value, complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.structure import masks, narrow, trial
from prunefront.trainables.structure import units as structure
from prunefront.trainables.structure.alive import alive as live_parts
from prunefront.trainables.task import Task
from prunefront.trainables.training import draws, stack
from prunefront.trainables.training.pruner import Context, GradientPruner
from prunefront.trainables.tree import leaves

MLP = Task(
    model_options={"widths": [16, 12]}, epochs=2, rungs=4, dtype="float64", weight_decay=1e-3
)
RESIDUAL = dataclasses.replace(
    MLP, model="residual_mlp", model_options={"units": 8, "hidden": 9, "blocks": 3}
)
RESNET = dataclasses.replace(
    MLP, model="resnet", model_options={"depth": 8, "width": 0.7}, epochs=1
)
NORMED = dataclasses.replace(MLP, model="example_models.scaled", model_options={})
ADAM = dataclasses.replace(NORMED, optimizer="adam", lr=0.003)


class WholeL1Filters(L1Filters):
    """The same on a stack that keeps its shape."""

    narrows = False


class WholeGroupLasso(GroupLasso):
    """The same on a stack that keeps its shape."""

    narrows = False


class WholeScratch(Scratch):
    """The same on a stack that keeps its shape."""

    narrows = False


def members(algorithm: GradientPruner, *hps: dict[str, Any]) -> list[Member]:
    return [Member(complete(algorithm.space, hp), seed) for seed, hp in enumerate(hps)]


def train(
    algorithm: GradientPruner, task: Task, given: list[Member], rungs: int | None = None
) -> State:
    state = algorithm.start(task, given)
    for _ in range(task.rungs if rungs is None else rungs):
        state = algorithm.advance(task, state)
    return state


def networks(
    algorithm: GradientPruner, task: Task, state: State
) -> tuple[dict[str, Tensor], Tensor]:
    """Each member's tensors, zero where they belong to what is removed, and its outputs for 50
    examples.
    """
    found = algorithm.networks(task, state)
    outputs = torch.stack([
        stack.Call(task.template.eval())(
            {n: p[k] for n, p in found.params.items()},
            {n: b[k] for n, b in found.buffers.items()},
            task.data.examples("valid", torch.arange(50)),
        )
        for k in range(state.size)
    ])  # fmt: skip
    alive, _ = live_parts(task.structure, found.kept)
    alive = {layer.name: alive[layer.name] for layer in task.structure.hidden}
    gone = {block.name: ~found.kept[block.name] for block in task.structure.blocks}
    # What counts batches goes on in one stack and is gone with its block in the other.
    buffers = {name: tensor for name, tensor in found.buffers.items() if tensor.is_floating_point()}
    trees = {"params": found.params, "buffers": buffers, "kept": found.kept}
    return leaves(narrow.cleared(trees, task.structure, alive, gone)), outputs


def agree(one: tuple[dict[str, Tensor], Tensor], other: tuple[dict[str, Tensor], Tensor]) -> None:
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        torch.testing.assert_close(
            tensor, other[0][name], rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
    torch.testing.assert_close(one[1], other[1], rtol=0, atol=1e-9)


def context(task: Task, step: int = 0, **hp: float) -> Context:
    """At a step of ten, of which the one of number 3 has half the learning rate."""
    numbers = {n: torch.tensor(v, dtype=torch.float64) if n != "stop" else v for n, v in hp.items()}
    return Context(
        numbers, torch.tensor(0), step, 10, task.structure, lambda step: 0.5 if step == 3 else 1.0
    )


def test_l1_filters_keep_the_largest_sums_of_absolute_weights_whatever_their_squares_and_biases():
    task = dataclasses.replace(MLP, model_options={"widths": [4]})
    params = {name: torch.zeros_like(p) for name, p in task.build(0).named_parameters()}
    rows = [[3.0, 0, 0, 0], [-2, 2, 0, 0], [1, -1, 1, -1.5], [0.5, 0, 0, 0]]
    params["1.weight"][:, :4] = torch.tensor(rows)
    params["1.bias"][3] = 100.0
    mask = find("l1_filters").init(params, context(task, sparsity=0.5))["mask"]  # type: ignore[attr-defined]
    assert mask["1.bias"].tolist() == [False, True, True, False]
    assert mask["1.weight"].all(1).tolist() == [False, True, True, False]
    assert mask["3.weight"].all(0).tolist() == [False, True, True, False]
    assert mask["3.bias"].all()


def lasso(
    task: Task, params: dict[str, Tensor], step: int, **hp: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters, and masks, after a step of ten, of which the penalty takes six."""
    algorithm, ctx = GroupLasso(), context(task, step, lr=0.1, stop=0.6, **hp)
    after, pruning = algorithm.after_step(params, algorithm.init(params, ctx), ctx)
    return dict(after), dict(pruning["mask"])


def test_the_proximal_step_of_a_unit_with_a_row_and_a_bias():
    task = dataclasses.replace(MLP, model_options={"widths": [3]})
    params = {name: torch.zeros_like(p) for name, p in task.build(0).named_parameters()}
    params["1.weight"][0, :2] = torch.tensor([3.0, 4.0])
    params["1.weight"][1, 0], params["1.bias"][1] = 0.3, 0.4
    after, mask = lasso(
        task, params, step=4, penalty=1.0
    )  # the step just made is the fourth, number 3: half the rate
    threshold = 0.1 * 0.5 * 1.0 * math.sqrt(65)  # a row of 64 and a bias
    assert threshold < 0.5
    torch.testing.assert_close(after["1.weight"][0], params["1.weight"][0] * (1 - threshold / 5))
    torch.testing.assert_close(
        after["1.bias"][1], torch.tensor(0.4 * (1 - threshold / 0.5), dtype=torch.float64)
    )
    assert not after["1.weight"][2].any()
    assert torch.equal(after["3.weight"], params["3.weight"])
    assert all(each.all() for each in mask.values()), "nothing is removed before the sixth step"
    after, _ = lasso(task, params, step=5, penalty=1.0)  # at the whole rate .8 is above .5
    assert not after["1.weight"][1].any()
    assert not after["1.bias"][1]


def test_units_at_zero_go_at_stop_and_the_largest_of_a_layer_outside_of_blocks_stays():
    task = dataclasses.replace(MLP, model_options={"widths": [3]})
    params = {name: p.detach() for name, p in task.build(0).named_parameters()}
    params["1.weight"] = (
        torch.diag(torch.tensor([5.0, 3.0, 0.1]).double()) @ torch.eye(3, 64).double()
    )
    params["1.bias"] = torch.zeros(3).double()
    after, mask = lasso(task, params, step=6, penalty=1.0)
    assert mask["1.bias"].tolist() == [True, True, False]
    assert mask["3.weight"].all(0).tolist() == [True, True, False]
    after, mask = lasso(task, params, step=6, penalty=1e3)
    assert mask["1.bias"].tolist() == [True, False, False]
    assert torch.equal(after["1.weight"][0], params["1.weight"][0])
    after, mask = lasso(task, params, step=7, penalty=1e3)
    assert all(torch.equal(after[name], params[name]) for name in params), (
        "no penalty after the sixth step"
    )
    assert all(each.all() for each in mask.values())


def test_the_group_of_a_unit_with_batch_norm_is_its_scale_and_shift():
    params = {name: p.detach() for name, p in NORMED.build(0).named_parameters()}
    params["1.weight"][0], params["1.bias"][0] = -3.0, 4.0
    after, _ = lasso(NORMED, params, step=5, penalty=1.0)
    factor = 1 - 0.1 * math.sqrt(2) / 5
    assert abs(float(after["1.weight"][0]) + 3 * factor) < 1e-12
    assert abs(float(after["1.bias"][0]) - 4 * factor) < 1e-12
    assert torch.equal(after["0.weight"], params["0.weight"])
    assert not torch.equal(after["4.weight"], params["4.weight"]), "no batch-norm behind it"


def test_a_unit_at_zero_may_return_until_stop_and_not_later():
    """Under a penalty that grows weak, with no unit at zero at the end, none is removed though many
    were at zero.
    """
    task = dataclasses.replace(MLP, model_options={"widths": [3]})
    params = {name: p.detach().clone() for name, p in task.build(0).named_parameters()}
    at_zero, mask = lasso(task, params, step=5, penalty=100.0)
    assert (at_zero["1.weight"] == 0).all(1).sum() == 2, "the largest stays"
    at_zero["1.weight"] += 1.0
    _, mask = lasso(task, at_zero, step=6, penalty=1e-6)
    assert all(each.all() for each in mask.values())


def test_a_block_without_units_is_gone_and_adds_nothing():
    params = {name: p.detach() for name, p in RESIDUAL.build(0).named_parameters()}
    _, mask = lasso(RESIDUAL, params, step=6, penalty=1e3)
    assert [bool(mask[block.name]) for block in RESIDUAL.structure.blocks] == [False] * 3
    assert not mask["2.inner.weight"].any()
    assert not mask["2.outer.weight"].any()
    assert not mask["2.outer.bias"].any()
    computed = removed(RESIDUAL.structure, params, mask)
    x = RESIDUAL.data.examples("valid", torch.arange(3))
    first = F.linear(x.flatten(1), params["1.weight"], params["1.bias"])
    expected = F.linear(first.relu(), params["6.weight"], params["6.bias"])
    torch.testing.assert_close(stack.Call(RESIDUAL.build(0))(computed, {}, x), expected)
    params = {name: p.detach() for name, p in RESNET.build(0).named_parameters()}
    params |= {name: torch.ones_like(p) for name, p in params.items() if name.endswith("bn2.bias")}
    _, mask = lasso(RESNET, params, step=6, penalty=1e3)
    computed = removed(RESNET.structure, params, mask)
    assert not any(computed[name].any() for block in RESNET.structure.blocks for name in block.last)


def test_scratch_trains_the_structure_that_l1_filters_found():
    for task in (MLP, RESIDUAL, NORMED):
        pruner, scratch = L1Filters(), Scratch()
        state = train(pruner, task, members(pruner, {"sparsity": 0.3}, {"sparsity": 0.8}), rungs=1)
        theirs = pruner.networks(task, state)
        units = [
            found(task.structure, {name: mask[k] for name, mask in theirs.kept.items()})
            for k in range(2)
        ]
        hidden = task.structure.hidden
        assert units[0][: len(hidden)] == tuple(round(0.7 * layer.units) for layer in hidden)
        assert units[0][len(hidden) :] == (1.0,) * len(task.structure.blocks)
        given = members(scratch, *({"units": each} for each in units))
        for member in given:
            scratch.check(task, member.hp)
        rows, before = (
            measure(task, scratch, train(scratch, task, given), last=False),
            measure(task, pruner, state, last=False),
        )
        for name in ("flops_shrunk", "params_shrunk", "params_kept"):
            assert [row[name] for row in rows] == [row[name] for row in before], name
        assert rows[0]["flops_shrunk"] != rows[1]["flops_shrunk"]


def test_scratch_starts_from_initial_weights_and_a_cut_network_has_its_blocks():
    scratch = Scratch()
    units = (4.0, 0.0, 9.0, 1.0, 0.0, 1.0)
    state = scratch.start(RESIDUAL, members(scratch, {"units": units}))
    kept = scratch.networks(RESIDUAL, state).kept
    initial = dict(RESIDUAL.build(0).named_parameters())
    params = scratch.networks(RESIDUAL, state).params
    assert torch.equal(params["2.inner.weight"][0, :4], initial["2.inner.weight"][:4])
    assert not params["2.inner.weight"][0, 4:].any()
    assert found(RESIDUAL.structure, {name: mask[0] for name, mask in kept.items()}) == units
    later = scratch.networks(RESIDUAL, scratch.advance(RESIDUAL, state)).kept
    assert found(RESIDUAL.structure, {name: mask[0] for name, mask in later.items()}) == units


def test_a_block_that_only_adds_a_constant_is_not_in_the_found_structure():
    like = {name: p.detach() for name, p in RESIDUAL.build(0).named_parameters()}
    alive = {
        layer.name: torch.arange(layer.units) < place
        for place, layer in enumerate(RESIDUAL.structure.hidden)
    }
    there = {block.name: torch.tensor(True) for block in RESIDUAL.structure.blocks}
    units = found(RESIDUAL.structure, structure.node_masks(RESIDUAL.structure, alive, like, there))
    assert units == (0.0, 1.0, 2.0, 0.0, 1.0, 1.0)
    Scratch().check(RESIDUAL, {"units": units})


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ((4.0, 4.0), r"one number for each of the model's 3 hidden layers and 3 blocks; got 2"),
        ((4.0, 4.0, 4.0, 1.0, 1.0, 2.0), r"ends with 1 or 0 for each block; got 2 for 4.outer"),
        ((4.5, 4.0, 4.0, 1.0, 1.0, 1.0), r"layer 2.inner: a whole number in \[1, 9\]; got 4.5"),
        ((4.0, 0.0, 4.0, 1.0, 1.0, 1.0), r"layer 3.inner: a whole number in \[1, 9\]; got 0"),
        ((4.0, 4.0, 10.0, 1.0, 1.0, 1.0), r"layer 4.inner: a whole number in \[1, 9\]; got 10"),
        (
            (4.0, 4.0, 4.0, 0.0, 1.0, 1.0),
            r"layer 2.inner, in a block that is gone: a whole number in \[0, 0\]; got 4",
        ),
    ],
)
def test_units_that_are_no_structure_are_refused(units: tuple[float, ...], message: str):
    with pytest.raises(ValueError, match=message):
        Scratch().check(RESIDUAL, {"units": units})


@pytest.mark.parametrize("name", ["l1_filters", "group_lasso", "scratch", "depgraph"])
def test_a_model_without_hidden_units_is_skipped_with_what_stood_in_the_way(name: str):
    algorithm = find(name)
    assert algorithm.skip(MLP) is None
    why = algorithm.skip(dataclasses.replace(MLP, model="example_models.odd", model_options={}))
    assert why is not None
    needs = "it needs hidden units whose readers are all known"
    assert why.startswith(f"{needs}; model example_models.odd has none (tied: ")


@pytest.mark.parametrize("task", [MLP, RESNET, NORMED], ids=lambda task: task.model)
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9])
def test_depgraph_removes_the_least_of_squared_rows_scales_and_columns_and_as_many_as_other_arms(
    task: Task, sparsity: float
):
    module, share = task.build(0), torch.tensor(sparsity, dtype=torch.float64)
    params = {
        n: draws.uniform(draws.key(torch.tensor(3), n), tuple(p.shape)) - 0.3
        for n, p in module.named_parameters()
    }
    alive = chosen(task, params, dict(module.named_buffers()), share)
    for layer in task.structure.hidden:
        score = params[layer.weight].square().flatten(1).sum(1)
        for link in task.structure.links:
            if link.producer == layer.name:
                read = next(
                    each.weight for each in task.structure.layers if each.name == link.consumer
                )
                score = score + params[read].square().transpose(0, 1).flatten(1).sum(1).view(
                    layer.units, -1
                ).sum(1)
                score = score + sum(params[norm.parameters[0]].square() for norm in link.norms)
        assert torch.equal(
            alive[layer.name], masks.top(score, masks.kept_count(share, layer.units))
        )


@pytest.mark.parametrize(
    ("model", "shape", "options"),
    [("resnet", (3, 8, 8), {"depth": 8}), ("vgg16_bn", (3, 32, 32), {"width": 0.1})],
)
def test_what_chance_removes_of_a_convolution_has_no_say_whatever_its_batch_norm_holds(
    model: str, shape: tuple[int, ...], options: dict[str, Any]
):
    module = models.build(model, shape, 10, **options).double()
    structure_ = trial.structure_of(module, shape)
    params, buffers = (
        {n: t.detach() for n, t in f()} for f in (module.named_parameters, module.named_buffers)
    )
    hp = {
        **complete(find("chance").space, {"granularity": "node"}),
        "sparsity": torch.tensor(0.5, dtype=torch.float64),
    }
    ctx = Context(hp, torch.tensor(1), 0, 10, structure_)
    chance = find("chance")
    assert isinstance(chance, GradientPruner)
    pruning = chance.init(params, ctx)
    x = draws.uniform(draws.key(torch.tensor(1)), (2, *shape))
    call = stack.Call(module.eval())
    before = call(chance.effective(params, pruning, ctx), dict(buffers), x)
    changed = 0
    for norm, producer in {
        norm: link.producer for link in structure_.links for norm in link.norms
    }.items():
        producer_bias = next(layer for layer in structure_.layers if layer.name == producer)
        dead = ~pruning["mask"][producer_bias.weight].flatten(1).any(1)
        changed += int(dead.sum())
        for tree in (params, buffers):
            tree |= {
                n: torch.where(dead, 7.0, t)
                for n, t in tree.items()
                if n in (*norm.parameters, *norm.statistics)
            }
    assert changed == sum(layer.units - round(0.5 * layer.units) for layer in structure_.hidden) > 0
    torch.testing.assert_close(
        call(chance.effective(params, pruning, ctx), dict(buffers), x), before, rtol=0, atol=0
    )
    whole = params | {n: torch.ones_like(p) for n, p in params.items() if n.endswith("bias")}
    assert not torch.equal(call(whole, dict(buffers), x), before)


def settings(task: Task) -> list[tuple[Structured, Structured, list[dict[str, Value]]]]:
    """Each algorithm, its twin that keeps the stack's shape, and hyper-parameters of three members
    that differ in size.
    """
    blocks, hidden = len(task.structure.blocks), task.structure.hidden
    half = tuple(float(layer.units // 2) for layer in hidden) + (1.0,) * blocks
    few = tuple(float(1 + layer.units // 4) for layer in hidden) + (1.0,) * blocks
    if blocks:  # the first block is gone in all members, the last in one
        count = len(hidden)
        half = (0.0, *half[1:count], 0.0, *half[count + 1 :])
        few = (0.0, *few[1 : count - 1], 0.0, 0.0, *few[count + 1 : -1], 0.0)
    both = {
        "mlp": (0.1, 0.15),
        "residual_mlp": (0.19, 0.24),
        "example_models.scaled": (0.06, 0.1),
        "resnet": (1.5, 1.7),
    }
    penalties: list[dict[str, Value]] = [
        {"penalty": p, "stop": 0.3} for p in (*both[task.model], 30.0)
    ]
    if task.optimizer == "adam":
        penalties = [{"penalty": p, "stop": 0.3} for p in (1.0, 3.0, 300.0)]
    return [
        (L1Filters(), WholeL1Filters(), [{"sparsity": s} for s in (0.3, 0.6, 0.9)]),
        (Scratch(), WholeScratch(), [{"units": half}, {"units": few}, {"units": half}]),
        (GroupLasso(), WholeGroupLasso(), penalties),
    ]


@pytest.mark.parametrize(
    "task", [MLP, RESIDUAL, NORMED, ADAM, RESNET], ids=lambda task: f"{task.model}-{task.optimizer}"
)
@pytest.mark.parametrize("place", range(3), ids=["l1_filters", "scratch", "group_lasso"])
def test_a_stack_that_shrinks_trains_the_same_networks(place: int, task: Task):
    cutting, whole, hps = settings(task)[place]
    together = members(cutting, *hps)
    short, long = train(cutting, task, together), train(whole, task, together)
    assert short.shape is not None
    assert long.shape is None
    ours = networks(cutting, task, short)
    agree(ours, networks(whole, task, long))
    for k in (0, 2):
        alone = networks(cutting, task, train(cutting, task, [together[k]]))
        agree(
            alone,
            ({name: tensor[k : k + 1] for name, tensor in ours[0].items()}, ours[1][k : k + 1]),
        )


def test_a_member_in_company_that_cannot_be_cut_is_what_it_is_alone_to_its_last_entry():
    """What nothing reads, such as the batch-norm entries of removed units, is zero in both."""
    for task, algorithm, most, least in (
        (NORMED, L1Filters(), {"sparsity": 0.8}, {"sparsity": 0.0}),
        (
            RESNET,
            Scratch(),
            {"units": (0.0, 0.0, 8.0, 0.0, 0.0, 1.0)},
            {"units": (11.0, 22.0, 45.0, 1.0, 1.0, 1.0)},
        ),
    ):
        given = members(algorithm, most, least)
        together, alone = train(algorithm, task, given), train(algorithm, task, given[:1])
        assert alone.shape is not None
        assert together.shape is None
        one, other = (algorithm.networks(task, state) for state in (alone, together))
        for name, tensor in leaves(
            {"params": one.params, "buffers": one.buffers, "kept": one.kept}
        ).items():
            if tensor.is_floating_point() or tensor.dtype == torch.bool:
                its = leaves(
                    {"params": other.params, "buffers": other.buffers, "kept": other.kept}
                )[name]
                torch.testing.assert_close(tensor[0], its[0], rtol=0, atol=1e-9, msg=name)


def test_a_block_that_is_gone_in_all_members_leaves_the_stack_and_their_networks_as_they_were():
    scratch, whole = Scratch(), WholeScratch()
    nothing: dict[str, Value] = {"units": (0.0,) * 6}
    for hps in (
        [nothing, nothing],
        [nothing],
        [nothing, {"units": (0.0, 0.0, 9.0, 0.0, 0.0, 1.0)}],
    ):
        given = members(scratch, *hps)
        state = train(scratch, RESIDUAL, given)
        lost = 3 if hps[-1] is nothing else 2
        assert state.shape is not None
        assert len(state.shape.gone) == lost
        assert "2.inner.weight" not in state.members["params"]
        agree(
            networks(scratch, RESIDUAL, state),
            networks(whole, RESIDUAL, train(whole, RESIDUAL, given)),
        )


@pytest.mark.parametrize("task", [RESIDUAL, RESNET], ids=lambda task: task.model)
@pytest.mark.parametrize("place", range(3), ids=["l1_filters", "scratch", "group_lasso"])
def test_resume_is_exact_with_a_stack_that_was_cut(place: int, task: Task, tmp_path: Path):
    algorithm, _, hps = settings(task)[place]
    half = train(algorithm, task, members(algorithm, *hps), rungs=3)
    assert half.shape is not None
    half.save(tmp_path / "state.safetensors")
    whole = algorithm.advance(task, half)
    fresh = dataclasses.replace(task)  # knows nothing of the shapes that `task` has met
    resumed = algorithm.advance(
        fresh, State.load(tmp_path / "state.safetensors", task.torch_device)
    )
    left, right = leaves(whole.members), leaves(resumed.members)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert {**whole.scalars, "seconds": 0} == {**resumed.scalars, "seconds": 0}


def test_a_stack_is_cut_further_when_large_members_leave():
    pruner = L1Filters()
    state = train(pruner, MLP, members(pruner, {"sparsity": 0.3}, {"sparsity": 0.8}), rungs=1)
    assert state.shape is not None
    assert state.shape.widths == {"1": 11, "3": 8}
    assert [(places >= 0).tolist() for places in state.members["units"]["3"]] == [
        [True] * 8,
        [True] * 2 + [False] * 6,
    ]
    before = pruner.networks(MLP, state)
    left = pruner.compact(MLP, state.select([1]))
    assert left.shape is not None
    assert left.shape.widths == {"1": 3, "3": 2}
    assert (
        left.members["params"]["3.weight"].shape
        == left.members["optimizer"]["momentum"]["3.weight"].shape
        == (1, 2, 3)
    )
    after = pruner.networks(MLP, left)
    for name, tensor in leaves({"params": after.params, "kept": after.kept}).items():
        assert torch.equal(
            tensor[0], leaves({"params": before.params, "kept": before.kept})[name][1]
        )
    units = left.members["units"]["1"][0]
    assert units.tolist() == after.kept["1.bias"][0].nonzero().flatten().tolist(), (
        "places are the parent's"
    )


@pytest.mark.parametrize("model", ["example_models.dropping", "example_models.normed"])
def test_a_model_that_cannot_be_stacked_or_made_narrower_is_not_cut(model: str):
    task, pruner = dataclasses.replace(MLP, model=model, model_options={}, epochs=0.3), L1Filters()
    assert task.structure.hidden
    assert task.narrows is model.endswith("dropping")
    assert task.stackable is not model.endswith("dropping")
    given = members(pruner, {"sparsity": 0.5}, {"sparsity": 0.75})
    state = train(pruner, task, given)
    assert state.shape is None
    kept = pruner.networks(task, state).kept
    assert [
        int(kept[task.structure.hidden[0].weight][k].flatten(1).any(1).sum()) for k in range(2)
    ] in ([8, 4], [3, 2], [3, 1])
    whole = WholeL1Filters()
    agree(networks(pruner, task, state), networks(whole, task, train(whole, task, given)))


def test_a_model_with_its_width_written_in_the_code_has_no_units_to_cut():
    task = dataclasses.replace(MLP, model="example_models.written", model_options={})
    assert not task.structure.hidden
    reason = L1Filters().skip(task)
    assert reason is not None
    assert "model example_models.written has none" in reason
