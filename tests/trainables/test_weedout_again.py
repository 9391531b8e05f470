"""Weedout that searches again while it trains: when, among what, and what it costs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from prunefront.trainables.algorithms import _weedout_training, find
from prunefront.trainables.algorithms._weedout_search import (
    INCUMBENT,
    Incumbent,
    Search,
    search,
)
from prunefront.trainables.algorithms.weedout import Weedout
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import canonical, complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.structure import masks
from prunefront.trainables.task import Task
from prunefront.trainables.training import draws
from prunefront.trainables.training.start import Dense
from prunefront.trainables.tree import leaves, take

WEEDOUT = find("weedout")
assert isinstance(WEEDOUT, Weedout)
TASK = Task(model_options={"widths": [24, 16]}, epochs=2, rungs=2, dtype="float64")
NORMED = dataclasses.replace(TASK, model="example_models.normed", model_options={})
EPOCH = TASK.steps_per_epoch
STRATEGIES = ("random", "mutation", "climb", "genetic")


def member(candidates: int = 6, seed: int = 0, **hp: Any) -> Member:
    slow = {"lr": 0.001}  # or what is trained is soon better than all others
    given = {"again": 0.25, "sparsity": 0.75, "candidates": candidates, **slow, **hp}
    return Member(complete(WEEDOUT.space, given), seed)


def train(task: Task, members: Sequence[Member], rungs: int | None = None) -> State:
    state = WEEDOUT.start(task, members)
    for _ in range(task.rungs if rungs is None else rungs):
        state = WEEDOUT.advance(task, state)
    return state


class Seen:
    """A search that was made again, with the network that it was made for."""

    def __init__(self, found: Search, parents: Dense, place: int, incumbent: Incumbent) -> None:
        self.found = found
        self.step = incumbent.step
        self.winner = found.genome(int(found.winners[0]))
        self.params = {name: value.clone() for name, value in take(parents.params, place).items()}
        self.genome = {site: value.clone() for site, value in incumbent.genome.items()}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """Every search that is made again."""
    found: list[Seen] = []

    def spied(
        task: Task,
        parents: Dense,
        place: int,
        of: Member,
        counts: Sequence[int],
        incumbent: Incumbent,
    ) -> Search:
        made = search(task, parents, place, of, counts, incumbent)
        found.append(Seen(made, parents, place, incumbent))
        return made

    monkeypatch.setattr(_weedout_training, "search", spied)
    return found


@pytest.mark.parametrize("rungs", [1, 2, 5])
@pytest.mark.parametrize(("again", "warmup"), [(0.25, 0), (1.0, 0), (1.9, 0), (0.5, 30)])
def test_searches_are_after_each_so_many_epochs_and_every_one_is_charged(
    again: float, warmup: int, rungs: int, seen: list[Seen]
):
    task = dataclasses.replace(TASK, rungs=rungs)
    of = member(again=again, warmup=warmup, examples=200)
    WEEDOUT.check(task, of.hp)
    state = train(task, [of])
    trained = task.steps - warmup
    interval = round(again * EPOCH)
    assert [one.step for one in seen] == list(range(interval, trained, interval))
    (row,) = measure(task, WEEDOUT, state, last=True)
    assert row["steps"] == task.steps
    assert row["search_flops"] == (1 + len(seen)) * 6 * 200 * task.counts.flops
    training = 3 * task.counts.flops * task.steps * task.batch_size
    assert row["train_flops"] == training + row["search_flops"]
    assert row["m_score"] == float(seen[-1].found.losses.min())
    assert "m_winner" not in row, "by which a row's network would be taken for another's"
    assert 0 <= row["m_changes"] <= len(seen)


def test_seconds_of_searches_are_counted_once():
    members = [member(count) for count in (2, 16)]
    state = train(TASK, members)
    found = state.shared["found"]["seconds"]
    assert state.scalars["seconds"] > 0
    assert found[1] > found[0] > 0
    rows = measure(TASK, WEEDOUT, state, last=True)
    for row, spent in zip(rows, found.tolist(), strict=True):
        assert row["seconds"] == state.scalars["seconds"] + spent


def test_the_first_search_and_what_follows_it_are_those_of_a_single_one():
    task = dataclasses.replace(TASK, rungs=8)
    ours, theirs = (
        train(task, [member(40, seed, again=again) for seed in (0, 1)], rungs=2)
        for again in (1.0, None)
    )
    for one, other in zip(
        *(measure(task, WEEDOUT, s, last=True) for s in (ours, theirs)), strict=True
    ):
        assert one.pop("m_changes") == 0
        del other["m_winner"]
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.parametrize("rungs", [3, 8])  # between searches, and in the step of one
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_resume_between_searches_is_exact(strategy: str, rungs: int, tmp_path: Path):
    task = dataclasses.replace(TASK, rungs=rungs)
    members = [member(20, seed, again=0.25, strategy=strategy) for seed in (0, 1)]
    whole = train(task, members)
    state = WEEDOUT.start(task, members)
    for _ in range(rungs):
        state.save(tmp_path / "state")
        state = WEEDOUT.advance(task, State.load(tmp_path / "state", task.torch_device))
    left, right = (leaves(s.shared) for s in (whole, state))
    assert left.keys() == right.keys()
    for path, tensor in left.items():
        assert torch.equal(tensor, right[path]) or path == "found/seconds", path
    assert int(whole.shared["found"]["changes"].sum()) > 0


def test_members_that_differ_in_candidates_are_as_they_would_be_alone():
    members = [member(count, seed) for seed in (0, 1) for count in (1, 2, 6, 40)]
    together = train(TASK, members)
    assert together.shared["seed"].shape[0] == len(members)
    rows = measure(TASK, WEEDOUT, together, last=True)
    for of, row in zip(members, rows, strict=True):
        (alone,) = measure(TASK, WEEDOUT, train(TASK, [of]), last=True)
        same = ("m_changes", "search_flops", "accuracy_test", "params_kept")
        assert [alone[name] for name in same] == [row[name] for name in same]
        assert alone["m_score"] == pytest.approx(row["m_score"], abs=1e-9)
    assert len({row["m_score"] for row in rows}) == len(rows), "each has weights of its own"


def test_members_that_are_the_same_share_a_network():
    state = train(TASK, [member(), member(8), member()])
    assert state.shared["seed"].shape[0] == 2
    rows = measure(TASK, WEEDOUT, state, last=True)
    assert {**rows[0], "layers": ""} == {**rows[2], "layers": ""}


@pytest.mark.parametrize("granularity", ["node", "weight"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_mask_so_far_is_a_candidate_and_no_search_makes_the_score_worse(
    strategy: str, granularity: str, seen: list[Seen]
):
    of = member(24, strategy=strategy, granularity=granularity, examples=100_000)
    train(TASK, [of])
    assert len(seen) == 7
    x, y = TASK.data.inputs["train"], TASK.data.labels["train"]
    for one in seen:
        losses = one.found.losses
        winner = int(one.found.winners[0])
        assert losses[winner] == losses.min() <= losses[INCUMBENT]
        mask = mask_of(TASK, of, one.params, one.genome)
        effective = masks.apply(one.params, mask)
        loss = F.cross_entropy(torch.func.functional_call(TASK.build(0), effective, x), y)
        torch.testing.assert_close(losses[INCUMBENT], loss, rtol=0, atol=1e-12)
    for one, after in itertools.pairwise(seen):
        for site, numbers in one.winner.items():
            assert torch.equal(numbers, after.genome[site]), "what was picked was trained"


def mask_of(
    task: Task, of: Member, params: dict[str, torch.Tensor], genome: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return masks.at_random(
        task.structure,
        params,
        lambda site, shape: genome[site],
        torch.tensor(of.hp["sparsity"], dtype=torch.float64),
        str(of.hp["granularity"]),
        str(of.hp["allocation"]),
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_candidates_of_a_budget_are_a_prefix_in_every_search(strategy: str):
    state = train(TASK, [member(2), member(3)], rungs=1)
    inner = state.shared
    own = take(inner["pruning"]["genome"], 1)
    parents = Dense(inner["params"], {}, 19, 0.0)
    of = member(70, strategy=strategy)

    def losses(count: int, step: int = 19) -> torch.Tensor:
        return search(TASK, parents, 1, of, [count], Incumbent(step, own)).losses

    whole = losses(70)
    for count in (1, 2, 3, 16, 17, 33):
        assert torch.equal(losses(count), whole[:count])
    later = losses(70, step=38)
    assert later[INCUMBENT] == whole[INCUMBENT]
    assert not torch.isclose(later[2:16], whole[2:16]).any(), "each search draws others"


def test_one_candidate_is_chance_again():
    """A new random mask at each search, whatever its score."""
    task = dataclasses.replace(TASK, rungs=8)
    of = member(1)
    assert WEEDOUT.is_control(of.hp)
    state = WEEDOUT.start(task, [of])
    for rung in range(1, 8):
        state = WEEDOUT.advance(task, state)
        step = state.scalars["step"]
        expected: dict[str, torch.Tensor] = {}
        for layer in task.structure.hidden:
            key = draws.key(torch.tensor(0), step - step % 10, f"chance/{layer.name}")
            expected[layer.name] = draws.uniform(key, (layer.units,))
        kept = WEEDOUT.networks(task, state).kept
        params = take(state.shared["params"], 0)
        if step >= 10:
            for name, mask in mask_of(task, of, params, expected).items():
                assert torch.equal(kept[name][0], mask), (rung, name)


def test_the_worst_is_the_worst_each_time(seen: list[Seen]):
    train(TASK, [member(9, pick="worst")])
    for one in seen:
        winner = int(one.found.winners[0])
        assert one.found.losses[winner] == one.found.losses.max()


@pytest.mark.parametrize("allocation", ["uniform", "global", "erdos-renyi"])
@pytest.mark.parametrize("granularity", ["node", "weight"])
def test_as_much_is_kept_after_every_search(granularity: str, allocation: str):
    task = dataclasses.replace(TASK, rungs=8)
    how = {"granularity": granularity, "allocation": allocation}
    state = WEEDOUT.start(task, [member(12, seed, **how) for seed in (0, 1)])
    for _ in range(task.rungs):
        state = WEEDOUT.advance(task, state)
        kept = WEEDOUT.networks(task, state).kept
        for k in (0, 1):
            if granularity == "node":
                units = [int(kept[name][k].sum()) for name in ("1.bias", "3.bias")]
                assert sum(units) == 10
                assert units == [6, 4] or allocation != "uniform"
                continue
            total = sum(mask[k].numel() for mask in kept.values())
            left = sum(int(mask[k].sum()) for mask in kept.values())
            assert left == pytest.approx(total / 4, abs=2)
    assert int(state.shared["found"]["changes"].sum()) >= 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "dadapt_adam"])
def test_what_is_removed_rests_and_returns_with_the_value_that_it_had(optimizer: str):
    task = dataclasses.replace(TASK, optimizer=optimizer, weight_decay=0.0)
    assert task.momentum
    task = dataclasses.replace(task, rungs=task.steps)
    state = WEEDOUT.start(task, [member(1, seed, again=0.25) for seed in (0, 1)])
    rested = trained = returned = 0
    for _ in range(task.steps):
        before = {name: value.clone() for name, value in state.shared["params"].items()}
        mask = {name: value.clone() for name, value in state.shared["pruning"]["mask"].items()}
        state = WEEDOUT.advance(task, state)
        for name, kept in mask.items():
            after = state.shared["params"][name]
            assert torch.equal(before[name][~kept], after[~kept])
            rested += int((~kept).sum())
            trained += int((before[name] != after)[kept].sum())
            now = state.shared["pruning"]["mask"][name]
            returned += int((now & ~kept).sum())
    assert min(rested, trained, returned) > 0


@pytest.mark.parametrize("stackable", [True, False])
def test_batch_norm_goes_by_the_scoring_examples(stackable: bool, seen: list[Seen]):
    """By what it averaged in training, units that were removed would seem to have no variance."""
    task = dataclasses.replace(NORMED)
    task.workbench.stackable = stackable
    of = member(16, again=1.0, sparsity=0.5, lr=0.05, examples=100_000)
    state = train(task, [of], rungs=1)
    (one,) = seen
    own = take(state.shared["params"], 0)
    module = task.build(0).eval()
    module[1].train()  # type: ignore[index]
    x, y = task.data.inputs["train"], task.data.labels["train"]
    for number in (0, INCUMBENT, 2):
        genome = one.genome
        if number != INCUMBENT:
            key = draws.key(torch.tensor(0), one.step, "chance/0")
            units = draws.uniform(key, (6,), index=number)
            other = draws.key(torch.tensor(0), one.step, "chance/4")
            genome = {"0": units, "4": draws.uniform(other, (8,), index=number)}
        effective = masks.apply(own, mask_of(task, of, own, genome))
        loss = F.cross_entropy(torch.func.functional_call(module, effective, x), y)
        torch.testing.assert_close(one.found.losses[number], loss, rtol=0, atol=1e-9)


def test_what_it_keeps_changes_and_its_default_is_as_before():
    assert not WEEDOUT.fixed(member().hp)
    plain = member(again=None)
    assert WEEDOUT.fixed(plain.hp)
    assert "again" not in canonical(WEEDOUT.space, plain.hp)
    state = train(TASK, [plain])
    assert "found" not in state.shared
    assert "m_changes" not in measure(TASK, WEEDOUT, state, last=False)[0]


@pytest.mark.parametrize(
    ("again", "warmup", "left"), [(0.0, 0, "2"), (0.01, 0, "2"), (2.0, 0, "2"), (1.2, 38, "1")]
)
def test_an_interval_that_does_nothing_is_refused(again: float, warmup: int, left: str):
    rule = rf"`again` is at least a step, 0.026\d epochs, and less than the {left} trained; got {again:g}"
    with pytest.raises(ValueError, match=rule):
        WEEDOUT.check(TASK, member(again=again, warmup=warmup).hp)


@pytest.mark.parametrize("again", [-1, float("nan"), float("inf"), "often", True])
def test_what_is_no_number_of_epochs_is_refused(again: object):
    with pytest.raises(ValueError, match="`again` is the epochs from one search to the next"):
        complete(WEEDOUT.space, {"again": again})
