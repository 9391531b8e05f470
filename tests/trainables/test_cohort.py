"""A cohort on disk, without Ray: whatever file is there or missing, the rows are the same in the
end.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from prunefront.analysis.rows import rundir, table
from prunefront.analysis.rows.goals import Limit
from prunefront.trainables.algorithms import find
from prunefront.trainables.algorithms.dns import DNS
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure import flops
from prunefront.trainables.records import physical
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.networks import (
    export,
    keep_only,
    kept_members,
    load_network,
    load_shrunk,
)
from prunefront.trainables.records.parts import ask_parts
from prunefront.trainables.records.training import Training
from prunefront.trainables.task import Task
from prunefront.trainables.training import memory

TASK = Task(model_options={"widths": [8]}, epochs=2, rungs=3)
MEMBERS = tuple(
    Member(complete(find("dns").space, {"sparsity": sparsity}), seed)
    for sparsity in (0.5, 0.9)
    for seed in (0, 1)
)
COHORT = Cohort("00000-test", "surgery", "dns", MEMBERS)


def train(folder: Path, cohort: Cohort = COHORT, rungs: int = 3, keep: bool = True) -> Training:
    training = Training(folder, "study", TASK, cohort, keep)
    while not training.finished and training.rung < rungs:
        training.advance()
    return training


def rows(folder: Path):
    return table.read(folder).drop(columns=list(table.CLOCK))


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calm")
    assert train(folder).finished
    return folder


def test_json_makes_the_same_cohort():
    assert Cohort.from_json(COHORT.to_json()) == COHORT


def test_it_ends_with_rows_and_networks_and_without_a_state(calm: Path):
    assert len(rows(calm)) == 12
    assert {path.name for path in calm.iterdir()} == {"rows", "networks", "state"}
    assert not list((calm / "state").iterdir())


@pytest.mark.parametrize("rung", [1, 2])
@pytest.mark.parametrize("lost", [None, "rows", "earlier rows", "state"])
def test_opened_again_it_carries_on(calm: Path, tmp_path: Path, rung: int, lost: str | None):
    train(tmp_path, rungs=rung)
    if lost == "rows":  # killed after the State was saved and before its rows were
        rundir.rows_file(tmp_path, COHORT.name, rung).unlink()
    if lost == "earlier rows":
        rundir.rows_file(tmp_path, COHORT.name, 1).unlink()
    if lost == "state":
        (tmp_path / "state" / f"{COHORT.name}-0-1.safetensors").unlink()
    assert train(tmp_path).finished
    assert rows(tmp_path).equals(rows(calm))


def test_a_diverged_member_leaves_with_a_row_and_the_others_go_on(calm: Path, tmp_path: Path):
    wild = Member({**COHORT.members[1].hp, "lr": 1e30}, 1)
    cohort = Cohort("00000-test", "surgery", "dns", (COHORT.members[0], wild, *COHORT.members[2:]))
    training = train(tmp_path, cohort)
    assert training.finished
    last = table.last(rows(tmp_path))
    assert sorted(last["status"]) == ["diverged", "done", "done", "done"]
    gone = last[last["status"] == "diverged"].iloc[0]
    assert gone["rung"] == 1
    assert "loss" in gone["reason"]
    assert last["accuracy_test"].isna().sum() == 1
    others = table.last(rows(calm))
    same = last.merge(others, on="member")
    assert len(same) == 3
    assert same["accuracy_test_x"].equals(same["accuracy_test_y"])
    with pytest.raises(ValueError, match="no kept network"):
        load_network(tmp_path, gone["member"])


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_cohort_that_does_not_fit_is_split_and_its_rows_are_the_same(
    calm: Path, tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
):
    """A device that runs out of memory when more than so many members train; rounding differs where
    one is left alone.
    """
    whole, sizes = DNS.advance, list[int]()

    def advance(self: DNS, task: Task, state: State) -> State:
        sizes.append(state.size)
        if state.size > most:
            whole(self, task, state)  # what was handed in may be consumed
            raise torch.OutOfMemoryError
        return whole(self, task, state)

    monkeypatch.setattr(DNS, "advance", advance)
    train(tmp_path, rungs=2)
    training = Training(tmp_path, "study", TASK, COHORT, True)
    assert [state.size for state in training.states] == ([1] * 4 if most == 1 else [2, 2])
    while not training.finished:
        training.advance()
    assert sizes[0] == 4
    assert not list((tmp_path / "state").iterdir())
    assert kept_members(tmp_path) == kept_members(calm)
    found, expected = rows(tmp_path), rows(calm)
    if most == 1:
        assert found["loss_train"].to_numpy() == pytest.approx(
            expected["loss_train"].to_numpy(), rel=1e-3
        )
    else:
        assert found.equals(expected)


@pytest.mark.parametrize("rung", [0, 1])
def test_who_trains_a_cohort_next_splits_it_where_that_was_asked(
    calm: Path, tmp_path: Path, rung: int
):
    if rung:
        train(tmp_path, rungs=rung)
    assert ask_parts(tmp_path, COHORT.name, 2) == 2
    training = Training(tmp_path, "study", TASK, COHORT, True)
    assert [state.size for state in training.states] == [2, 2]
    training.advance()
    assert ask_parts(tmp_path, COHORT.name, 4) == 8, "more than there are members"
    training = Training(tmp_path, "study", TASK, COHORT, True)
    assert [state.size for state in training.states] == [1] * 4
    while not training.finished:
        training.advance()
    assert not list((tmp_path / "state").iterdir())
    found, expected = rows(tmp_path), rows(calm)
    assert found["loss_train"].to_numpy() == pytest.approx(
        expected["loss_train"].to_numpy(), rel=1e-3
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_of_this_machine_runs_out_as_that_of_a_gpu_does(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    whole = DNS.advance

    def advance(self: DNS, task: Task, state: State) -> State:
        if state.size > 2:
            raise error
        return whole(self, task, state)

    monkeypatch.setattr(DNS, "advance", advance)
    train(tmp_path)
    assert rows(tmp_path).equals(rows(calm))


def test_a_device_on_which_not_one_member_fits_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def advance(self: DNS, task: Task, state: State) -> State:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(DNS, "advance", advance)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        train(tmp_path)


def test_a_cohort_is_split_by_the_memory_of_the_device_that_it_lands_on(
    calm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 4000)
    cohort = dataclasses.replace(
        COHORT, bytes=500
    )  # 4000 bytes, half of them for cohorts, two workers: room for 2
    training = Training(tmp_path, "study", TASK, cohort, True, workers=2)
    assert [state.size for state in training.states] == [2, 2]
    while not training.finished:
        training.advance()
    assert rows(tmp_path).equals(rows(calm))


def test_who_is_known_to_break_a_limit_is_stopped_before_training(tmp_path: Path):
    chance = find("chance")
    hp = [complete(chance.space, {"sparsity": s}) for s in (0.5, 0.9)]
    cohort = Cohort(
        "00000-test",
        "chance",
        "chance",
        tuple(Member(each, seed) for each in hp for seed in (0, 1)),
    )
    limits = [Limit.parse("flops_masked <= 500")]
    Training(tmp_path, "study", TASK, cohort, False, limits=limits)
    training = Training(tmp_path, "study", TASK, cohort, False, limits=limits)  # opened again
    assert [state.size for state in training.states] == [2]
    while not training.finished:
        training.advance()
    found = rows(tmp_path)
    gone = found[found["status"] == "stopped"]
    assert gone["hp"].nunique() == 1
    assert (gone["flops_masked"] > 500).all()
    assert gone["reason"].str.contains("breaks flops_masked <= 500").all()
    assert len(gone) == 2
    last = table.last(found[found["status"] != "stopped"])
    assert (last["status"] == "done").all()
    assert (last["flops_masked"] <= 500).all()
    dns = Training(tmp_path / "dns", "study", TASK, COHORT, False, limits=limits)
    assert dns.states[0].size == 4, "its masks change while it trains"


def test_only_chosen_networks_are_kept(tmp_path: Path):
    train(tmp_path)
    chosen, dropped = table.last(rows(tmp_path))["member"].tolist()[:2]
    before = load_network(tmp_path, chosen).state_dict()
    assert keep_only(tmp_path, {chosen}) == 0
    assert keep_only(tmp_path, {chosen, "unknown"}) == 1
    after = load_network(tmp_path, chosen).state_dict()
    assert all(bool((before[name] == after[name]).all()) for name in before)
    with pytest.raises(ValueError, match="no kept network"):
        load_network(tmp_path, dropped)
    keep_only(tmp_path, set())
    assert not list((tmp_path / "networks").iterdir())


def test_a_kept_network_is_shrunk_to_what_its_row_counts_and_exported(calm: Path, tmp_path: Path):
    last = table.last(rows(calm))
    assert kept_members(calm) == set(last["member"])
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for row in last.itertuples():
        member = str(row.member)
        small, whole = load_shrunk(calm, member), load_network(calm, member)
        counts = flops.count(small, (1, 8, 8))
        assert (counts.flops, counts.params) == (row.flops_shrunk, row.params_shrunk)
        with torch.no_grad():
            torch.testing.assert_close(small(x), whole(x), rtol=1e-5, atol=1e-5)
            export(calm, member, tmp_path / "small.safetensors")
            assert torch.equal(physical.load(tmp_path / "small.safetensors")(x), small(x))
    assert (last["flops_shrunk"] < last["flops_dense"]).any()
    with pytest.raises(ValueError, match="no kept network"):
        export(calm, "unknown", tmp_path / "none")
    assert not (tmp_path / "none").exists()
