"""What a solver says of its memory: against peaks, and what becomes of cohorts that it says do not
fit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prunefront.search.console import Console
from prunefront.search.drive.run import run
from prunefront.search.plan import generations
from prunefront.search.study.parse import read
from prunefront.trainables.algorithms import cronos, find
from prunefront.trainables.contract import Member
from prunefront.trainables.convex import linear
from prunefront.trainables.domain import complete
from prunefront.trainables.records import training
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.training import Training
from prunefront.trainables.task import Task
from prunefront.trainables.training import memory

CRONOS = find("cronos")


def drawn(count: int, side: int = 8, classes: int = 10) -> dict[str, Any]:
    """Random images of every class."""
    x = np.random.default_rng(0).random((count + 40, 1, side, side))
    y = np.arange(count + 40) % classes
    return {
        "train": (x[:count], y[:count]),
        "valid": (x[count:-20], y[count:-20]),
        "test": (x[-20:], y[-20:]),
    }


def task(**options: int) -> Task:
    return Task(
        dataset="test_footprint.drawn", dataset_options=options, epochs=3, rungs=1, batch_size=8
    )


def cohort_of(betas: int, seeds: int = 1, **hp: Any) -> list[Member]:
    return [
        Member(complete(CRONOS.space, {"beta_absolute": 1.0 + k, **hp}), seed)
        for seed in range(seeds)
        for k in range(betas)
    ]


@pytest.mark.parametrize(
    ("data", "betas", "hp"),
    [
        ({"count": 1000}, 4, {}),  # exact, fewer unknowns than examples
        ({"count": 300, "side": 14, "classes": 4}, 2, {}),  # exact, fewer examples than unknowns
        ({"count": 3000}, 2, {}),  # few programs at a time
        ({"count": 3000}, 2, {"precision": "float32"}),
        ({"count": 500}, 12, {"gates": 16}),
        ({"count": 1000}, 4, {"mode": "paper"}),
        ({"count": 300, "side": 14, "classes": 3}, 1, {"mode": "paper", "gates": 16}),
        ({"count": 2000, "side": 16, "classes": 2}, 2, {"gates": 2, "refit": "yes"}),
    ],
)  # fmt: skip
def test_a_footprint_is_the_peak_that_is_measured(
    data: dict[str, int], betas: int, hp: dict[str, Any]
):
    members = cohort_of(betas, **hp)
    parent = CRONOS.parent(task(**data), members[0].hp)
    most = peak(parent, members)
    said = CRONOS.footprint(parent, members[0].hp, betas)
    assert said is not None
    assert most / 1.3 < said < 1.3 * most, (said, most)


def test_a_footprint_is_the_peak_where_systems_are_sketched(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("prunefront.trainables.convex.solver.EXACT", 100)
    test_a_footprint_is_the_peak_that_is_measured(
        {"count": 1000, "side": 12, "classes": 3}, 1, {"gates": 4}
    )


def peak(parent: Task, members: list[Member]) -> int:
    """Most bytes of tensors alive while `members` train and their networks are made."""
    _ = parent.data, parent.stackable, parent.structure
    with memory._Peak() as found:
        CRONOS.networks(parent, CRONOS.advance(parent, CRONOS.start(parent, members)))
    return found.most


def test_it_grows_with_members_and_with_what_there_is_to_hold():
    members = cohort_of(1)
    parent = CRONOS.parent(task(count=1000), members[0].hp)
    sizes = [CRONOS.footprint(parent, members[0].hp, count) or 0 for count in (1, 2, 3, 30, 31)]
    assert sizes == sorted(set(sizes))
    wide = cohort_of(1, gates=32)[0].hp
    assert (CRONOS.footprint(CRONOS.parent(parent, wide), wide, 1) or 0) > 2 * sizes[0]


def test_others_do_not_say_and_are_measured():
    dense = find("dense")
    hp = complete(dense.space, {})
    assert memory.fitting_shapes(Task(), dense, hp, 5, 0) is None


def test_solves_that_share_a_factor_do_not_copy_it_for_all(monkeypatch: pytest.MonkeyPatch):
    """Of a thousand right-hand sides with a (30, 30) factor as many as CHUNK allows are solved at a
    time, to the same bits.
    """
    generator = torch.Generator().manual_seed(0)
    factor = torch.linalg.cholesky(torch.eye(30).double() * 30 + torch.ones(30, 30))
    rows = torch.randn(1000, 3, 30, generator=generator, dtype=torch.float64)
    sizes: list[int] = []
    solve = torch.linalg.solve_triangular

    def counted(a: torch.Tensor, b: torch.Tensor, *, upper: bool) -> torch.Tensor:
        sizes.append(len(b))
        return solve(a, b, upper=upper)

    whole = linear._solved(factor, rows, upper=False)
    monkeypatch.setattr(torch.linalg, "solve_triangular", counted)
    monkeypatch.setattr(linear, "CHUNK", 100 * 900)
    parts = linear._solved(factor, rows, upper=False)
    assert sizes == [100] * 10
    assert torch.equal(parts, whole)
    torch.testing.assert_close(parts @ factor.mT, rows)


def test_sketches_and_spectra_in_parts_are_as_in_one(monkeypatch: pytest.MonkeyPatch):
    from prunefront.trainables import convex

    data = drawn(400, side=4)["train"][0].reshape(400, 16)
    X = convex.with_ones(torch.tensor(data))
    gates = convex.patterns(X, convex.gate_vectors(torch.tensor(0), 3, 17))
    program = convex.Program.of(X, gates)
    right, rho = (
        torch.randn(5, 2, 3, 17, generator=torch.Generator().manual_seed(1)).double(),
        torch.rand(5).double() + 0.1,
    )
    for kind, rank in (("exact", 0), ("block+nystrom", 30), ("nystrom", 20)):
        both = []
        for chunk in (linear.CHUNK, 3000):
            monkeypatch.setattr(linear, "CHUNK", chunk)
            generator = torch.Generator().manual_seed(0)
            apply = linear.preconditioner(program, kind, rank, generator, 0.1)  # type: ignore[arg-type]
            both.append(apply(right, rho))
        torch.testing.assert_close(both[1], both[0], rtol=1e-8, atol=1e-10)


STUDY = """
[study]
name = "large"
seeds = [0, 1]
[task]
dataset = "test_footprint.drawn"
count = 2000
model = "mlp"
epochs = 10
batch_size = 8
rungs = 1
[[arm]]
algorithm = "cronos"
space.beta_absolute = [1, 2, 3, 4]
"""


def study(folder: Path, content: str = STUDY) -> Any:
    (folder / "study.toml").write_text(content)
    return read(folder / "study.toml")


def planned(
    found: Any, folder: Path, here: bool = True, say: Callable[[str], None] = print
) -> list[Cohort]:
    made = generations.Plan(found, folder, 2, here)
    made.say = say
    made.open()
    made.grow(lambda arm, number, count: [])
    return [generations.read_cohort(folder, each) for each in made.cohorts]


def needed(found: Any, count: int) -> int:
    hp = complete(CRONOS.space, {})
    said = CRONOS.footprint(CRONOS.parent(found.task, hp), hp, count)
    assert said is not None
    return said


@pytest.mark.parametrize(
    ("fits", "sizes"),
    [(8, [8]), (5, [4, 4]), (4, [4, 4]), (3, [2] * 4), (1, [1] * 8), (0, [1] * 8)],
)
def test_a_cohort_that_does_not_fit_is_cut_by_seeds_and_then_by_weights(
    fits: int, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = study(tmp_path)
    room = needed(found, fits) if fits else needed(found, 1) // 2
    free = int(2 * room / memory.SHARE) + 8  # two workers share it
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    cohorts = planned(found, tmp_path)
    assert [len(each.members) for each in cohorts] == sizes
    if max(sizes) <= 4:
        assert all(len({member.seed for member in each.members}) == 1 for each in cohorts)


def test_seeds_and_gates_are_split_first_and_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Four weights fit a worker, and so the weights of a seed and a number of gates stay together."""
    found = study(tmp_path, STUDY + "space.gates = [4, 8]\n")
    room = needed(found, 4)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(2 * room / memory.SHARE) + 8)
    said: list[str] = []
    cohorts = planned(found, tmp_path, say=said.append)
    for cohort in cohorts:
        assert len({member.hp["gates"] for member in cohort.members}) == 1
    of_eight = [each for each in cohorts if each.members[0].hp["gates"] == 8]
    weights = [{member.hp["beta_absolute"] for member in each.members} for each in of_eight]
    assert weights == [{1, 2, 3, 4}] * 2
    assert [each.members[0].seed for each in of_eight] == [0, 1]
    assert said == []


def test_weights_that_are_split_are_said_once_for_an_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = study(tmp_path, STUDY + "[[arm]]\nname = 'other'\n" + STUDY.split("[[arm]]\n")[1])
    room = needed(found, 3)
    monkeypatch.setattr(memory, "free_bytes", lambda device: int(2 * room / memory.SHARE) + 8)
    said: list[str] = []
    planned(found, tmp_path, say=said.append)
    assert said == [
        f'arm "{arm}": members that differ in `beta` or `beta_absolute` or `neurons` alone train together '
        "where they fit a worker; got 4 where at most 3 fit: they train in parts, each of which "
        f"does over again what they would share; to keep them together, lower {CRONOS.lighter}"
        for arm in ("cronos", "other")
    ]
    planned(found, tmp_path, say=said.append)
    assert len(said) == 2, "what is planned is not said again"


def test_the_memory_of_this_machine_says_nothing_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    assert [len(each.members) for each in planned(study(tmp_path), tmp_path, here=False)] == [8]


def test_what_cannot_fit_is_refused_with_the_figures_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 80_000_000)
    with pytest.raises(ValueError, match="one member holds") as caught:
        run(study(tmp_path), tmp_path / "out", Console(quiet=True))
    said = str(caught.value)
    assert (
        f"about {needed(study(tmp_path), 1) / 1e6:,.1f} MB while it trains on 2,000 examples"
        in said
    )
    assert 'arm "cronos"' in said
    assert "lower `gates`, the number of training examples" in said
    assert not (tmp_path / "out").exists()


def test_a_worker_with_less_memory_than_the_plan_thought_cuts_or_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = study(tmp_path)
    members = tuple(cohort_of(4))
    large = Cohort("00000-large", "cronos", "cronos", members)
    monkeypatch.setattr(training, "free_bytes", lambda device: needed(found, 2))
    assert [state.size for state in Training(tmp_path, "s", found.task, large, False).states] == [
        2,
        2,
    ]
    monkeypatch.setattr(training, "free_bytes", lambda device: needed(found, 1) - 1)
    with pytest.raises(ValueError, match=r"one member holds about .* and a worker may fill"):
        Training(tmp_path, "s", found.task, dataclasses.replace(large, name="00001-large"), False)


def test_solving_asks_for_as_many_members_at_a_time_as_it_says():
    assert cronos._at_a_time(10, 8, 51_000, 785) == 1
    assert cronos._at_a_time(10, 3, 120, 65) > 100
