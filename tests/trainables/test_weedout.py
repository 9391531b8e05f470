"""Weedout: its candidates, its search, and what it costs."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prunefront.trainables.algorithms import find
from prunefront.trainables.algorithms._weedout_search import CHUNK, records, search
from prunefront.trainables.algorithms.weedout import Weedout
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task
from prunefront.trainables.training import draws, stack
from prunefront.trainables.training.dense import dense_networks

WEEDOUT, CHANCE = find("weedout"), find("chance")
assert isinstance(WEEDOUT, Weedout)
TASK = Task(model_options={"widths": [24, 16]}, epochs=1, rungs=2, dtype="float64")


def member(candidates: int = 1, seed: int = 0, **hp: Any) -> Member:
    return Member(complete(WEEDOUT.space, {"candidates": candidates, **hp}), seed)


def scores(task: Task, of: Member, count: int) -> torch.Tensor:
    return search(task, dense_networks(task, [of.seed], 0), 0, of, [count]).losses


def kept(task: Task, state: State) -> list[dict[str, torch.Tensor]]:
    found = WEEDOUT.networks(task, state)
    return [{name: mask[k] for name, mask in found.kept.items()} for k in found.of.tolist()]


@pytest.mark.parametrize("allocation", ["uniform", "global", "erdos-renyi"])
@pytest.mark.parametrize("granularity", ["node", "weight"])
def test_one_candidate_is_chance_bit_for_bit(granularity: str, allocation: str):
    how = {"granularity": granularity, "allocation": allocation, "sparsity": 0.7}
    ours = WEEDOUT.start(TASK, [member(1, seed, **how) for seed in (0, 1)])
    theirs = CHANCE.start(TASK, [Member(complete(CHANCE.space, how), seed) for seed in (0, 1)])
    masks = CHANCE.networks(TASK, theirs).kept
    for k, mask in enumerate(kept(TASK, ours)):
        assert all(torch.equal(mask[name], masks[name][k]) for name in masks)
    after = [
        a.networks(TASK, a.advance(TASK, s)).params for a, s in ((WEEDOUT, ours), (CHANCE, theirs))
    ]
    assert all(torch.equal(after[0][name], after[1][name]) for name in after[0]), (
        "trained alike too"
    )


def test_candidates_of_a_budget_are_a_prefix_and_the_best_score_never_rises():
    counts = [1, 2, 3, 7, CHUNK - 1, CHUNK, CHUNK + 1, 150]
    of = member(150, sparsity=0.8)
    whole = scores(TASK, of, 150)
    assert all(torch.equal(scores(TASK, of, count), whole[:count]) for count in counts)
    state = WEEDOUT.start(TASK, [member(count, sparsity=0.8) for count in counts])
    best = state.members["score"].tolist()
    assert best == [float(whole[:count].min()) for count in counts]
    assert all(later <= earlier for earlier, later in itertools.pairwise(best))
    assert state.members["winner"].tolist() == [int(whole[:count].argmin()) + 1 for count in counts]
    worst = WEEDOUT.start(TASK, [member(count, sparsity=0.8, pick="worst") for count in counts])
    assert worst.members["score"].tolist() == [float(whole[:count].max()) for count in counts]


@given(
    st.lists(
        st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("nan"), float("inf")]), min_size=1, max_size=30
    )
)
def test_records_are_prefix_minima_the_earliest_of_equals(losses: list[float]):
    found = records(torch.tensor(losses, dtype=torch.float64)).tolist()
    finite = [float("inf") if value != value else value for value in losses]
    assert found == [finite.index(min(finite[:n])) for n in range(1, len(losses) + 1)]


@pytest.mark.parametrize("granularity", ["node", "weight"])
def test_a_score_is_the_training_loss_of_the_masked_network_before_training(granularity: str):
    """The search computes differently (stacked, rows left whole); here it is done by hand, one
    network at a time.
    """
    of = member(5, seed=3, sparsity=0.6, granularity=granularity, examples=100_000)
    found = scores(TASK, of, 5)
    x, y = TASK.data.inputs["train"], TASK.data.labels["train"]
    for count in range(1, 6):
        state = WEEDOUT.start(
            TASK, [member(count, seed=3, sparsity=0.6, granularity=granularity, examples=100_000)]
        )
        effective = {name: p[0] for name, p in WEEDOUT.networks(TASK, state).params.items()}
        loss = F.cross_entropy(torch.func.functional_call(TASK.build(3), effective, x), y)
        torch.testing.assert_close(loss, found[:count].min(), rtol=0, atol=1e-12)


def test_exactly_k_nodes_are_kept_and_a_physically_smaller_network_computes_the_same():
    task = dataclasses.replace(TASK, epochs=3)
    for sparsity in (0.5, 0.9):
        state = WEEDOUT.start(task, [member(40, sparsity=sparsity)])
        for _ in range(task.rungs):
            state = WEEDOUT.advance(task, state)
        (mask,), found = kept(task, state), WEEDOUT.networks(task, state)
        module = task.build(0)
        for name, value in found.params.items():
            module.get_parameter(name).data.copy_(value[0])
        first, second = (mask[name].nonzero().flatten() for name in ("1.bias", "3.bias"))
        assert (len(first), len(second)) == (round((1 - sparsity) * 24), round((1 - sparsity) * 16))
        small = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, len(first)),
            nn.ReLU(),
            nn.Linear(len(first), len(second)),
            nn.ReLU(),
            nn.Linear(len(second), 10),
        ).double()
        rows = [torch.arange(64), first, second, torch.arange(10)]
        for place, (columns, units) in zip((1, 3, 5), itertools.pairwise(rows), strict=True):
            small.get_parameter(f"{place}.weight").data.copy_(
                module.get_parameter(f"{place}.weight")[units][:, columns]
            )
            small.get_parameter(f"{place}.bias").data.copy_(
                module.get_parameter(f"{place}.bias")[units]
            )
        x = task.data.inputs["valid"]
        torch.testing.assert_close(small(x), module(x), rtol=0, atol=1e-6)
        assert not torch.equal(
            module.get_parameter("5.bias"), task.build(0).get_parameter("5.bias")
        ), "it was trained"
        (row,) = measure(task, WEEDOUT, state, last=False)
        assert row["params_shrunk"] == sum(p.numel() for p in small.parameters())


def test_a_sweep_over_every_count_trains_only_distinct_winners_and_gives_every_row():
    task = dataclasses.replace(TASK, rungs=1)
    members = [
        member(count, seed, sparsity=s)
        for seed in (0, 1)
        for s in (0.5, 0.9)
        for count in range(1, 257)
    ]
    state = WEEDOUT.start(task, members)
    trained = state.shared["seed"].shape[0]
    winners = {
        (m.seed, m.hp["sparsity"], w)
        for m, w in zip(members, state.members["winner"].tolist(), strict=True)
    }
    assert trained == len(winners)
    assert 4 <= trained <= 4 * 16, "about ln 256 + 0.58 = 6.1 for each seed and sparsity"
    state = WEEDOUT.advance(task, state)
    rows = measure(task, WEEDOUT, state, last=True)
    assert len(rows) == len(members)
    training = 3 * task.counts.flops * task.steps * task.batch_size
    for m, row in zip(members, rows, strict=True):
        assert row["search_flops"] == int(str(m.hp["candidates"])) * 1024 * task.counts.flops
        assert row["train_flops"] == training + row["search_flops"]
        assert row["seconds"] > state.scalars["seconds"]
    same = [
        row for m, row in zip(members, rows, strict=True) if (m.seed, m.hp["sparsity"]) == (0, 0.5)
    ]
    for one, other in itertools.pairwise(same):
        assert (
            one["m_winner"] != other["m_winner"] or one["accuracy_test"] == other["accuracy_test"]
        )
    # One member of the sweep has the network that it would have had alone.
    alone = WEEDOUT.advance(task, WEEDOUT.start(task, [members[99]]))
    (row,) = measure(task, WEEDOUT, alone, last=True)
    assert (row["m_winner"], row["m_score"]) == (rows[99]["m_winner"], rows[99]["m_score"])
    assert row["loss_train"] == pytest.approx(rows[99]["loss_train"], abs=1e-9)


def test_networks_that_no_member_uses_any_more_are_trained_no_more():
    state = WEEDOUT.start(TASK, [member(count, sparsity=0.8) for count in (1, 4, 200)])
    assert state.shared["seed"].shape[0] == 3
    half = WEEDOUT.advance(TASK, state)
    left = WEEDOUT.advance(TASK, half.select([2]))
    assert left.shared["seed"].shape[0] == 1
    whole = WEEDOUT.networks(TASK, WEEDOUT.advance(TASK, half))
    for name, value in WEEDOUT.networks(TASK, left).params.items():
        torch.testing.assert_close(value[0], whole.params[name][whole.of[2]], rtol=0, atol=1e-9)


def test_the_search_leaves_the_parent_as_it_was():
    parents = dense_networks(TASK, [0, 1], 0)
    before = copy.deepcopy(parents)
    search(TASK, parents, 1, member(100), [100])
    assert all(torch.equal(value, before.params[name]) for name, value in parents.params.items())
    untouched = TASK.build(1)
    state = WEEDOUT.start(TASK, [member(100, seed=1)])
    for name, value in state.shared["params"].items():
        assert torch.equal(value[0], untouched.get_parameter(name)), (
            "members inherit the parent's weights"
        )


def test_the_search_sees_training_data_only():
    task, of = dataclasses.replace(TASK), member(30)
    expected = scores(task, of, 30)
    poisoned = dict.fromkeys(("valid", "test"))
    data = dataclasses.replace(
        task.data,
        inputs={**task.data.inputs, **poisoned},  # type: ignore[dict-item]
        labels={**task.data.labels, **poisoned},  # type: ignore[dict-item]
    )
    blind = dataclasses.replace(TASK)
    blind.workbench.data = data
    assert torch.equal(scores(blind, of, 30), expected)
    WEEDOUT.advance(blind, WEEDOUT.start(blind, [of]))  # nor does training


def test_warm_up_comes_before_the_search_and_out_of_the_budget():
    task = dataclasses.replace(TASK, epochs=2, rungs=2)
    state = WEEDOUT.start(task, [member(20, seed, warmup=30, sparsity=0.8) for seed in (0, 1)])
    trained = dense_networks(task, [0, 1], 30).params
    assert all(
        torch.equal(value[:2], trained[name]) for name, value in state.shared["params"].items()
    )
    assert not torch.equal(
        scores(task, member(20), 20),
        search(task, dense_networks(task, [0], 30), 0, member(20), [20]).losses,
    )
    for _ in range(2):
        state = WEEDOUT.advance(task, state)
    assert all(row["steps"] == task.steps for row in measure(task, WEEDOUT, state, last=True))
    with pytest.raises(
        ValueError, match="`warmup` leaves at least a step for each rung: it is at most 74; got 75"
    ):
        WEEDOUT.check(task, member(1, warmup=75).hp)


def test_a_wider_parent_is_compared_with_the_tasks_own_model():
    of = member(8, sparsity=0.5, width=2)
    wide = WEEDOUT.parent(TASK, of.hp)
    assert wide.template.get_parameter("1.weight").shape == (48, 64)
    (row,) = measure(
        wide, WEEDOUT, WEEDOUT.advance(wide, WEEDOUT.start(wide, [of])), True, TASK.counts
    )
    assert (row["flops_dense"], row["params_dense"]) == (TASK.counts.flops, TASK.counts.params)
    assert row["flops_shrunk"] == TASK.counts.flops, (
        "half of the nodes of a network of twice the width"
    )
    assert row["train_flops"] - row["search_flops"] == 3 * wide.counts.flops * row["examples"]
    own = dataclasses.replace(TASK, model="example_models.residual", model_options={})
    with pytest.raises(
        ValueError, match=r"needs a model with an option `width`; example_models.residual has none"
    ):
        WEEDOUT.parent(own, of.hp)


def test_scores_do_not_depend_on_how_they_are_computed():
    """One candidate after the other, where vmap refuses the model, and in another type, to its
    precision.
    """
    of, looped = member(70, sparsity=0.6), dataclasses.replace(TASK)
    stacked = scores(TASK, of, 70)
    looped.workbench.stackable = False
    torch.testing.assert_close(scores(looped, of, 70), stacked, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        scores(TASK, member(70, sparsity=0.6, precision="bfloat16"), 70), stacked, rtol=0, atol=0.02
    )
    lenet = dataclasses.replace(TASK, model="example_models.normed", model_options={})
    other = dataclasses.replace(lenet)
    other.workbench.stackable = False
    torch.testing.assert_close(scores(lenet, of, 9), scores(other, of, 9), rtol=0, atol=1e-12)


def test_controls_are_marked():
    assert WEEDOUT.is_control(member(1).hp)
    assert WEEDOUT.is_control(member(9, pick="worst").hp)
    assert not WEEDOUT.is_control(member(9).hp)
    assert CHANCE.is_control({})


def test_features_first_layers_compute_what_linear_layers_do():
    model = TASK.build(0)
    x = torch.randn(7, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(stack.features_first(model)(x), model(x), rtol=0, atol=1e-12)
    odd = nn.Linear(4, 3, bias=False)
    for shape in ((5, 4), (2, 5, 4)):
        x = torch.randn(shape)
        torch.testing.assert_close(stack.features_first(odd)(x), odd(x))
    assert type(odd) is nn.Linear


STRATEGIES = ("mutation", "climb", "genetic")
WIDE = Task(model_options={"widths": [40, 30]}, epochs=1, rungs=1, dtype="float64")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "how", [{}, {"granularity": "weight"}, {"allocation": "global"}, {"sparsity": 0.0}]
)
def test_candidates_of_every_strategy_are_a_prefix_and_keep_as_much(
    strategy: str, how: dict[str, Any]
):
    """The first generation is that of random search; a budget is a prefix of every larger one; as
    much is kept as at random.
    """
    hp = {"sparsity": 0.7, "strategy": strategy, **how}
    counts = [1, 3, 16, 17, 50, 80]
    whole = scores(TASK, member(80, **hp), 80)
    assert torch.equal(scores(TASK, member(50, **hp), 50), whole[:50])
    first = scores(TASK, member(16, **{**hp, "strategy": "random"}), 16)
    torch.testing.assert_close(first, whole[:16], rtol=0, atol=1e-12)
    members = [member(count, **hp) for count in counts]
    state = WEEDOUT.start(TASK, members)
    assert state.members["score"].tolist() == [float(whole[:count].min()) for count in counts]
    for of, mask in zip(members, kept(TASK, state), strict=True):
        (random,) = kept(TASK, WEEDOUT.start(TASK, [member(1, **{**hp, "strategy": "random"})]))
        total = sum(int(part.sum()) for part in mask.values())
        assert total == sum(int(part.sum()) for part in random.values()) or "allocation" in how, of
    alone = WEEDOUT.start(TASK, members[3:4])
    for name, mask in kept(TASK, alone)[0].items():
        assert torch.equal(mask, kept(TASK, state)[3][name])


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("model", ["mlp", "example_models.normed", "example_models.residual"])
def test_what_is_trained_is_what_was_scored(strategy: str, model: str):
    options = {"widths": [24, 16]} if model == "mlp" else {}
    task = dataclasses.replace(TASK, model=model, model_options=options)
    of = member(70, sparsity=0.6, strategy=strategy, examples=200)
    state = WEEDOUT.start(task, [of])
    networks = WEEDOUT.networks(task, state)
    module = task.build(0).eval()
    for name, value in networks.params.items():
        module.get_parameter(name).data.copy_(value[0])
    rows = search_rows(task, of)
    logits = module(task.data.examples("train", rows)).detach()
    loss = F.cross_entropy(logits, task.data.labels["train"][rows])
    assert float(loss) == pytest.approx(float(state.members["score"][0]), rel=1e-9)
    state = WEEDOUT.advance(task, state)
    after = WEEDOUT.networks(task, state)
    for name, mask in networks.kept.items():
        assert torch.equal(after.kept[name], mask), "the mask is frozen"


def search_rows(task: Task, of: Member) -> torch.Tensor:
    """The training examples that candidates of a member are scored on."""
    key = draws.key(torch.tensor(of.seed), "weedout")
    order = draws.permutation(key, len(task.data.labels["train"]))
    count = of.hp["examples"]
    assert isinstance(count, int)
    return order[:count]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_finds_better_scores_than_chance_at_equal_evaluations(strategy: str):
    led, drawn = [], []
    for seed in range(6):
        hp = {"sparsity": 0.8, "seed": seed}
        led.append(float(scores(WIDE, member(320, strategy=strategy, **hp), 320).min()))
        drawn.append(float(scores(WIDE, member(320, **hp), 320).min()))
    better = sum(one < other for one, other in zip(led, drawn, strict=True))
    assert better >= 5, (led, drawn)


def test_the_worst_is_a_control_of_random_search_alone():
    with pytest.raises(ValueError, match=r"`pick` worst is a control of random .*; got climb"):
        WEEDOUT.check(TASK, member(4, pick="worst", strategy="climb").hp)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_goes_on_where_all_or_none_of_a_tensor_is_kept(strategy: str):
    for sparsity in (0.0, 0.01, 0.95, 0.999):
        of = member(48, sparsity=sparsity, strategy=strategy, granularity="weight")
        losses = scores(TASK, of, 48)
        assert torch.isfinite(losses).all()
