"""Sanity checks: what they keep, on which weights they begin, and which are planned for what was
measured.
"""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pandas as pd
import pytest
import torch

from prunefront.analysis import report
from prunefront.analysis.rows import table
from prunefront.analysis.rows.storage import locate
from prunefront.search.drive.work import Work
from prunefront.search.plan.generations import Plan, read_cohort
from prunefront.search.study import controls, parse
from prunefront.search.study.schema import Study
from prunefront.trainables import algorithms
from prunefront.trainables import controls as offered
from prunefront.trainables.algorithms import find, known, sanity
from prunefront.trainables.contract import Algorithm, Member
from prunefront.trainables.controls import Check
from prunefront.trainables.domain import Domain, complete, setting
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.networks import load_masks
from prunefront.trainables.records.training import Training
from prunefront.trainables.structure import masks
from prunefront.trainables.structure.units import node_masks
from prunefront.trainables.task import Task
from prunefront.trainables.training.memory import member_bytes
from prunefront.trainables.training.pruner import GradientPruner, space

TASK = Task(model_options={"widths": [12, 10]}, epochs=2, rungs=1)
CHECKS = ("random", "shuffled", "reinitialised", "scratch")


def random_mask(seed: int) -> dict[str, torch.Tensor]:
    """Half of the weights of each layer, by chance."""
    generator = torch.Generator().manual_seed(seed)
    like = dict(TASK.template.named_parameters())
    return {
        name: torch.rand(like[name].shape, generator=generator) < 0.5
        for name in TASK.structure.parameters
    }


def counts(mask: dict[str, torch.Tensor]) -> list[int]:
    return [int(masks.flat(layer, mask).sum()) for layer in TASK.structure.layers]


def test_a_shuffled_mask_has_the_counts_of_each_layer_and_is_another():
    found = random_mask(0)
    made = {check: sanity.checked(TASK.structure, found, check, seed=3) for check in CHECKS}
    assert counts(made["random"]) == counts(found)
    assert any(not torch.equal(made["random"][name], found[name]) for name in found)
    assert all(torch.equal(made["reinitialised"][name], found[name]) for name in found)
    assert all(torch.equal(made["shuffled"][name], made["random"][name]) for name in found), (
        "they differ in their weights"
    )
    again = sanity.checked(TASK.structure, found, "random", seed=4)
    assert any(not torch.equal(again[name], made["random"][name]) for name in found), (
        "each seed draws its own"
    )


def test_a_mask_of_whole_units_is_shuffled_by_units():
    like = dict(TASK.template.named_parameters())
    first, second = TASK.structure.hidden
    units = {first.name: torch.arange(12) % 3 == 0, second.name: torch.arange(10) < 7}
    found = node_masks(TASK.structure, units, like)
    made = sanity.checked(TASK.structure, found, "random", seed=0)
    kept = {layer.name: made[layer.weight].any(1) for layer in (first, second)}
    assert {name: int(mask.sum()) for name, mask in kept.items()} == {first.name: 4, second.name: 7}
    assert any(not torch.equal(kept[name], units[name]) for name in units)
    assert all(
        torch.equal(made[name], mask)
        for name, mask in node_masks(TASK.structure, kept, like).items()
    )


def test_from_scratch_are_whole_layers_of_the_units_that_live():
    first, second = TASK.structure.hidden
    found = {name: torch.ones_like(mask) for name, mask in random_mask(0).items()}
    found[first.weight][2:] = (
        False  # without inputs, and what they constantly give folds into the next biases
    )
    found[second.weight][::2, 0] = False
    made = sanity.checked(TASK.structure, found, "scratch", seed=0)
    assert made[first.weight].any(1).tolist() == [True] * 2 + [False] * 10
    assert int(made[second.weight].sum()) == 2 * 10


def trained(
    folder: Path, task: Task, algorithm: str, hp: dict[str, object], seeds: tuple[int, ...] = (0, 1)
) -> list[dict]:
    """Last rows of a cohort of one setting, in `folder`."""
    method = find(algorithm)
    members = tuple(Member(complete(method.space, hp), seed) for seed in seeds)
    name = f"{len(list((folder / 'rows').glob('*'))):05d}"
    training = Training(folder, "study", task, Cohort(name, algorithm, algorithm, members), True)
    while not training.finished:
        training.advance()
    rows = table.last(table.read(folder))
    return rows[rows["cohort"] == name].sort_values("seed").to_dict("records")


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_trains_with_what_the_member_of_the_same_seed_kept(tmp_path: Path, check: str):
    task = dataclasses.replace(TASK, starts=str(tmp_path / "starts"))
    own = trained(tmp_path, task, "magnitude", {"sparsity": 0.8})
    of = setting("magnitude", own[0]["hp"])
    rows = trained(tmp_path, task, "sanity", {"of": of, "check": check})
    assert [row["control"] for row in rows] == [True, True]
    assert [row["hp_of"] for row in rows] == [of, of]
    before = load_masks(tmp_path, [row["member"] for row in own])
    after = load_masks(tmp_path, [row["member"] for row in rows])
    for one, other in zip(own, rows, strict=True):
        kept, mine = before[one["member"]], after[other["member"]]
        if check == "scratch":
            assert other["flops_masked"] == one["flops_shrunk"]
        else:
            assert counts(mine) == counts(kept)
            assert other["sparsity"] == one["sparsity"]
        assert all(torch.equal(mine[n], kept[n]) for n in kept) == (check == "reinitialised")
        assert other["steps"] == one["steps"]


def test_what_is_no_setting_is_refused_with_a_sentence():
    space = find("sanity").space
    for of, why in {
        "dns": "JSON object",
        "dns [1]": "JSON object",
        "dsn {}": "did you mean",
        'dns {"x": 1}': "`x`",
    }.items():
        with pytest.raises(ValueError, match=why):
            find("sanity").check(TASK, complete(space, {"of": of}))
    with pytest.raises(ValueError, match="text; got 3"):
        complete(space, {"of": 3})


def test_a_setting_is_checked_in_the_run_that_is_handed_over(tmp_path: Path):
    own = trained(tmp_path, TASK, "magnitude", {"sparsity": 0.8}, seeds=(0,))
    hp = {"of": setting("magnitude", own[0]["hp"]), "check": "random"}
    member = Member(complete(find("sanity").space, hp), 0)
    with pytest.raises(ValueError, match="is checked in the run; got no run"):
        find("sanity").start(TASK, [member])
    here = find("sanity").in_run(locate(tmp_path))
    kept = here.networks(TASK, here.start(TASK, [member])).kept
    mine = {name: mask[0] for name, mask in kept.items()}
    (found,) = load_masks(tmp_path, [own[0]["member"]]).values()
    assert counts(mine) == counts({name: found[name] for name in mine})


STUDY = """
[study]
name = "checked"
seeds = [0, 1]
controls = "standard"
max_cohort = 8
{more}
[task]
widths = [8]
epochs = 2
rungs = 1

[[arm]]
algorithm = "magnitude"
space.sparsity = [0.5, 0.9]

[[arm]]
name = "chance"
algorithm = "chance"
"""


def opened(folder: Path, more: str = "") -> tuple[Study, Work]:
    path = folder / "checked.toml"
    path.write_text(STUDY.format(more=more))
    read = parse.read(path)
    plan = Plan(read, folder / "out", 1)
    plan.open()
    work = Work(read, folder / "out", plan)
    work.open()
    return read, work


def finished(folder: Path, most: int = 1000) -> Work:
    """The work of a driver that trains at most so many segments, here."""
    read, work = opened(folder)
    task = dataclasses.replace(read.task, starts=str(folder / "out" / "starts"))
    while most and (segment := work.next()) is not None:
        if segment.cohort.algorithm:
            training = Training(
                folder / "out", "checked", task, read_cohort(folder / "out", segment.cohort), True
            )
            while not training.finished:
                training.advance()
        work.ended(segment.cohort.name)
        most -= 1
    return work


def test_standard_controls_are_baselines_that_the_study_lacks_and_checks_of_its_own_arms(
    tmp_path: Path,
):
    read, _ = opened(tmp_path)
    assert [(arm.name, arm.follows) for arm in read.arms] == [
        ("magnitude", ""),
        ("chance", ""),
        ("dense", ""),
        ("dense, narrower", ""),
        ("magnitude, global", ""),
        ("magnitude, random masks", "magnitude"),
        ("magnitude, shuffled masks", "magnitude"),
        ("magnitude, re-initialised", "magnitude"),
        ("magnitude, from scratch", "magnitude"),
    ]


def test_checks_are_planned_when_all_else_is_done_and_carried_on_after_a_kill(tmp_path: Path):
    for more in (4, 2, 1, 1000):  # drivers that end early, one after the other
        work = finished(tmp_path, more)
    assert work.over
    rows = table.last(table.read(tmp_path / "out"))
    assert (rows["status"] == "done").all()
    assert work.plan.total == work.members == len(rows)
    checks = rows[rows["hp_of"].notna()]
    settings = {f"magnitude {hp}" for hp in rows[rows["arm"] == "magnitude"]["hp"]}
    assert set(checks[checks["arm"] == "magnitude, random masks"]["hp_of"]) == settings
    assert (checks.groupby(["arm", "hp"])["seed"].nunique() == 2).all()
    assert set(checks["arm"]) >= {"magnitude, shuffled masks", "magnitude, re-initialised"}
    page = Path(str(report.build(tmp_path / "out"))).read_text()
    assert all(
        f'<figure id="{name}">' in page
        for name in ("flops_masked", "attained", "checks", "layers", "compute")
    )
    assert "random masks (control)" in page
    calm = tmp_path / "calm"
    calm.mkdir()
    finished(calm)
    other = table.last(table.read(calm / "out"))
    pd.testing.assert_frame_equal(
        rows.drop(columns=list(table.CLOCK)),
        other.drop(columns=list(table.CLOCK)),
        check_exact=True,
    )


def test_cohorts_of_checks_are_sized_by_the_memory_of_their_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(
        globals(),
        "STUDY",
        STUDY.replace("max_cohort = 8\n", "").replace("epochs = 2", "epochs = 0.3"),
    )
    work = finished(tmp_path)
    assert work.over
    cohorts = [
        json.loads(line)
        for path in (tmp_path / "out" / "plan").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    bytes_ = {
        cohort["arm"]: cohort["bytes"] for cohort in cohorts if cohort.get("algorithm") == "sanity"
    }
    assert bytes_.keys() >= {
        "magnitude, random masks",
        "magnitude, shuffled masks",
        "magnitude, re-initialised",
    }
    assert all(size > 4 * TASK.counts.params / 2 for size in bytes_.values()), bytes_


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_takes_about_as_much_memory_as_a_fixed_mask(check: str):
    hp = {"of": setting("magnitude", '{"sparsity":0.5}'), "check": check}
    own, chance = (
        member_bytes(TASK, find(name), Member(complete(find(name).space, given), 0))
        for name, given in (("sanity", hp), ("chance", {}))
    )
    assert own == pytest.approx(chance, rel=0.2)


def installed(monkeypatch: pytest.MonkeyPatch, name: str, algorithm: Algorithm) -> None:
    """Another package's algorithm, as its entry point would have it."""
    everything = dict(sorted({**known(), name: algorithm}.items()))
    for place in (controls, algorithms):
        monkeypatch.setattr(place, "known", lambda: everything)
    monkeypatch.setattr(controls, "find", everything.__getitem__)


class Theirs(GradientPruner):
    """Another package's algorithm, which makes checks too: one that is called as ours, and one of
    its own.
    """

    source = "a test"
    control = True
    space = space(
        of=Domain("text", None, "the setting that is checked"),
        check=Domain(
            "choice", "random", "what is made of it", choices=("random", "halved"), static=True
        ),
    )
    checks = {"random": Check("random masks", front=False), "halved": Check("halved")}


def test_checks_of_an_algorithm_that_is_installed_stand_beside_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ours, _ = opened(tmp_path)
    installed(monkeypatch, "a_plugin", Theirs())
    read, _ = opened(tmp_path)
    arms = {arm.name: arm.algorithm_name for arm in read.arms}
    theirs = {name for name, algorithm in arms.items() if algorithm == "a_plugin"}
    assert theirs == {"magnitude, random masks (a_plugin)", "magnitude, halved"}
    assert [name for name in arms if name not in theirs] == [arm.name for arm in ours.arms]
    assert arms["magnitude, random masks"] == "sanity"


def test_each_algorithm_makes_its_own_checks_of_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed(monkeypatch, "a_plugin", Theirs())
    read, _ = opened(tmp_path)
    task = dataclasses.replace(read.task, starts=str(tmp_path / "out" / "starts"))
    trained(tmp_path / "out", task, "magnitude", {"sparsity": 0.5})
    due = controls.wanted(read, locate(tmp_path / "out"))
    assert due.keys() >= {
        "magnitude, random masks",
        "magnitude, random masks (a_plugin)",
        "magnitude, halved",
    }
    assert {hp["check"] for hp in due["magnitude, halved"]} == {"halved"}


def test_an_algorithm_that_is_installed_may_not_have_the_name_of_ours(
    monkeypatch: pytest.MonkeyPatch,
):
    entry = EntryPoint("sanity", "somewhere:Theirs", algorithms.GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [entry])
    with pytest.raises(
        ValueError,
        match="its name is one of prunefront's own; got it from entry point somewhere",
    ):
        known.__wrapped__()


def test_a_study_that_grows_by_a_seed_checks_it_when_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    finished(tmp_path)
    before = table.last(table.read(tmp_path / "out"))
    monkeypatch.setitem(globals(), "STUDY", STUDY.replace("seeds = [0, 1]", "seeds = [0, 1, 2]"))
    work = finished(tmp_path)
    after = table.last(table.read(tmp_path / "out"))
    assert (after["status"] == "done").all()
    assert len(after) >= 1.5 * len(before)
    assert set(before["member"]) <= set(after["member"])
    assert work.over


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('keep = "none"', "needs the networks"),
        ("reduction_factor = 2", "goes without `reduction_factor`"),
    ],
)
def test_controls_that_cannot_be_are_refused_with_a_sentence(tmp_path: Path, more: str, why: str):
    with pytest.raises(ValueError, match=why):
        opened(tmp_path, more)


def test_an_arm_may_not_have_the_name_of_a_standard_control(tmp_path: Path):
    path = tmp_path / "clash.toml"
    path.write_text(
        STUDY.format(more="").replace('name = "chance"\n', 'name = "magnitude, random masks"\n')
    )
    with pytest.raises(ValueError, match='"magnitude, random masks" is that of a standard control'):
        parse.read(path)
    assert offered.checks(find("sanity")).keys() == set(CHECKS)
