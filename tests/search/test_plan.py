"""Plans: what shares a cohort, what comes first, and how a study may grow in its folder."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunefront.analysis.rows import rundir
from prunefront.analysis.rows.mistake import Mistake
from prunefront.search.drive.work import Work
from prunefront.search.plan import checks, generations, rungs
from prunefront.search.plan import cohorts as forming
from prunefront.search.study.parse import read
from prunefront.search.study.schema import Study
from prunefront.trainables.algorithms.chance import Chance
from prunefront.trainables.domain import code_path
from prunefront.trainables.records.cohort import Cohort

STUDY = '[study]\nname = "s"\nseeds = {seeds}\nmax_cohort = {size}\n[task]\nwidths = [4]\nepochs = {epochs}\n'
DENSE = '[[arm]]\nalgorithm = "dense"\n'
CHANCE = '[[arm]]\nalgorithm = "chance"\nspace.sparsity = [0.5, 0.8]\nspace.granularity = ["weight", "node"]\n'
MAGNITUDE = '[[arm]]\nalgorithm = "magnitude"\nspace.sparsity = [0.5, 0.8]\n'
DNS = '[[arm]]\nalgorithm = "dns"\nspace.scope = ["layerwise", "global"]\n'


class Grouped(Chance):
    """Chance, with sparsities that share a cohort."""

    together = ("sparsity",)


class Lonely(Chance):
    """Chance, nowhere."""

    def skip(self, task: object) -> str | None:
        return "not here"


def study(
    folder: Path,
    *arms: str,
    seeds: Sequence[int] = (0, 1, 2),
    size: object = 100,
    epochs: float = 2,
) -> Study:
    """A study of `arms` in a file of its own."""
    path = folder / "study.toml"
    path.write_text(
        STUDY.format(seeds=list(seeds), size=json.dumps(size), epochs=epochs) + "".join(arms)
    )
    return read(path)


def using(found: Study, algorithm: Chance) -> Study:
    """The study with another algorithm in its first arm."""
    return dataclasses.replace(
        found, arms=(dataclasses.replace(found.arms[0], algorithm=algorithm), *found.arms[1:])
    )


def prepare(found: Study, folder: Path, workers: int) -> list[Cohort]:
    """The cohorts of a study, with their members: read again what is planned, plan what is new."""
    planned = generations.Plan(found, folder, workers)
    planned.open()
    planned.grow(lambda arm, number, count: [])
    return [generations.read_cohort(folder, each) for each in planned.cohorts]


def lines(folder: Path) -> dict[str, bytes]:
    """The files of cohorts in a plan."""
    return {
        path.name: path.read_bytes() for path in sorted((folder / "plan").glob("cohorts-*.jsonl"))
    }


def members(cohorts: Sequence[Cohort], arm: str | None = None) -> Counter[str]:
    """How often each member is in `cohorts`, those of dense phases left out."""
    return Counter(
        json.dumps([c.arm, dict(m.hp), m.seed])
        for c in cohorts
        if c.algorithm and arm in (None, c.arm)
        for m in c.members
    )  # fmt: skip


def test_every_member_is_in_one_cohort(tmp_path: Path) -> None:
    found = study(tmp_path, DENSE, CHANCE, MAGNITUDE, DNS)
    cohorts = prepare(found, tmp_path, 2)
    every = Counter(
        json.dumps([arm.name, dict(member.hp), member.seed])
        for arm in found.arms
        for member in generations.members(arm, found.about.seeds)
    )
    assert members(cohorts) == every
    assert set(every.values()) == {1}
    assert len(every) == 3 + 12 + 6 + 6


def test_order_and_names_are_stable(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    found = study(tmp_path, DENSE, CHANCE, MAGNITUDE)
    first, again = (prepare(found, tmp_path / name, 2) for name in ("a", "b"))
    assert first == again
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert (
        prepare(found, tmp_path / "a", 7) == first
    )  # what is planned stays, on another machine too
    assert [cohort.name for cohort in first] == sorted({cohort.name for cohort in first})
    assert [cohort.arm for cohort in first] == ["", "dense", "chance", "chance", "magnitude"]


def test_a_cohort_has_one_arm_and_one_code_path(tmp_path: Path) -> None:
    given = (
        DNS.replace("dns", "magnitude")
        + "space.lr = [0.1, 0.2]\n"
        + DNS
        + 'name = "c"\nspace.c = [[1, 2], [3, 4]]\n'
    )
    found = study(tmp_path, CHANCE, given)
    arms = {arm.name: arm for arm in found.arms}
    cohorts = prepare(found, tmp_path, 2)
    for cohort in cohorts:
        if cohort.algorithm:
            assert (
                len(
                    {
                        code_path(arms[cohort.arm].algorithm.space, member.hp)
                        for member in cohort.members
                    }
                )
                == 1
            )
    assert Counter(cohort.arm for cohort in cohorts) == {"": 1, "chance": 2, "magnitude": 2, "c": 2}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_a_cohort_has_at_most_so_many_members(tmp_path: Path, size: int) -> None:
    cohorts = prepare(
        study(tmp_path, DENSE, CHANCE, MAGNITUDE, size=size, seeds=range(7)), tmp_path, 2
    )
    assert max(len(cohort.members) for cohort in cohorts) == min(size, 14)
    for arm, count in (("", 7), ("dense", 7), ("magnitude", 14)):
        sizes = [len(cohort.members) for cohort in cohorts if cohort.arm == arm]
        assert len(sizes) == -(-count // size)
        assert max(sizes) - min(sizes) <= 1


def test_an_automatic_size_keeps_all_workers_busy_and_is_not_tiny(tmp_path: Path) -> None:
    for seeds, workers, sizes in (
        (64, 2, [32] * 2),
        (64, 4, [16] * 4),
        (12, 4, [6, 6]),
        (8, 8, [8]),
    ):
        found = study(tmp_path, DENSE, seeds=range(seeds), size="auto")
        cohorts = prepare(found, tmp_path / f"{seeds}-{workers}", workers)
        assert [len(cohort.members) for cohort in cohorts] == sizes


def test_what_stays_together_counts_as_one_for_an_automatic_size(tmp_path: Path) -> None:
    """Many members of one search are few networks: cut by members alone, stacks would be tiny."""
    weedout = '[[arm]]\nalgorithm = "weedout"\nspace.sparsity = [0.5, 0.8]\nspace.candidates = {low = 1, high = 30}\n'
    cohorts = prepare(study(tmp_path, weedout, seeds=range(6), size="auto"), tmp_path, 2)
    assert [len(cohort.members) for cohort in cohorts] == [6 * 30, 6 * 30]
    for cohort in cohorts:
        assert set(
            Counter((member.seed, member.hp["sparsity"]) for member in cohort.members).values()
        ) == {30}


@pytest.mark.parametrize("size", [1, 2, 4, 6, 100])
def test_what_belongs_together_is_never_split(tmp_path: Path, size: int) -> None:
    found = using(study(tmp_path, CHANCE, size=size), Grouped())
    cohorts = prepare(found, tmp_path, 2)
    where = {}
    for cohort in cohorts:
        for member in cohort.members:
            where.setdefault((member.hp["granularity"], member.seed), set()).add(cohort.name)
    assert len(where) == 6
    assert all(len(names) == 1 for names in where.values())
    assert max(len(cohort.members) for cohort in cohorts) <= max(size, 2)


@given(sizes=st.lists(st.integers(1, 9), max_size=12), most=st.integers(1, 12))
def test_parts_keep_units_whole_in_order_and_small(sizes: list[int], most: int) -> None:
    units = [[100 * unit + k for k in range(size)] for unit, size in enumerate(sizes)]
    parts = list(forming._parts(units, most))
    assert [place for part in parts for place in part] == [
        place for unit in units for place in unit
    ]
    for part in parts:
        within = {place // 100 for place in part}
        assert len(part) == sum(sizes[unit] for unit in within)
        assert len(part) <= most or len(within) == 1


def test_dense_phases_come_first_once_for_each_seed(tmp_path: Path) -> None:
    cohorts = prepare(study(tmp_path, DENSE, MAGNITUDE, DNS, seeds=range(5), size=2), tmp_path, 2)
    kinds = [bool(cohort.algorithm) for cohort in cohorts]
    assert kinds == sorted(kinds)
    dense = {
        member.seed: cohort.name
        for cohort in cohorts
        if not cohort.algorithm
        for member in cohort.members
    }
    assert sum(len(cohort.members) for cohort in cohorts if not cohort.algorithm) == len(dense) == 5
    for cohort in cohorts:
        needed = (
            {dense[member.seed] for member in cohort.members}
            if cohort.algorithm in ("magnitude", "dns")
            else set()
        )
        assert cohort.after == tuple(sorted(needed))


def test_no_dense_phase_where_nothing_starts_from_one(tmp_path: Path) -> None:
    cohorts = prepare(study(tmp_path, DENSE, CHANCE), tmp_path, 2)
    assert all(cohort.algorithm and not cohort.after for cohort in cohorts)


GROWN = {
    "seeds": lambda folder: study(folder, DENSE, MAGNITUDE, seeds=(0, 1, 2, 7)),
    "values": lambda folder: study(folder, DENSE, MAGNITUDE.replace("0.8", "0.8, 0.9")),
    "arms": lambda folder: study(folder, DENSE, DNS, MAGNITUDE),
}


@pytest.mark.parametrize("what", GROWN)
def test_growth_plans_only_what_is_new(tmp_path: Path, what: str) -> None:
    before = prepare(study(tmp_path, DENSE, MAGNITUDE), tmp_path, 2)
    written = lines(tmp_path)
    cohorts = prepare(GROWN[what](tmp_path), tmp_path, 2)
    after = lines(tmp_path)
    assert list(after) == ["cohorts-000.jsonl", "cohorts-001.jsonl"]
    assert after["cohorts-000.jsonl"] == written["cohorts-000.jsonl"]
    assert cohorts[: len(before)] == before
    assert set(members(cohorts).values()) == {1}
    new = cohorts[len(before) :]
    assert len(members(new)) == {"seeds": 3, "values": 3, "arms": 6}[what]
    seeds = [member.seed for cohort in cohorts if not cohort.algorithm for member in cohort.members]
    assert sorted(seeds) == [0, 1, 2, 7][: 4 if what == "seeds" else 3]
    names = [cohort.name for cohort in cohorts]
    assert names == sorted(set(names))
    prepare(GROWN[what](tmp_path), tmp_path, 2)
    assert lines(tmp_path) == after  # nothing is new any more


def test_what_was_removed_is_not_run(tmp_path: Path) -> None:
    whole = prepare(study(tmp_path, DENSE, MAGNITUDE, CHANCE), tmp_path, 2)
    written = lines(tmp_path)
    less = prepare(study(tmp_path, CHANCE, DENSE), tmp_path, 2)
    assert lines(tmp_path) == written
    assert [cohort.arm for cohort in less] == ["dense", "chance", "chance"]  # no dense phase either
    assert all(cohort in whole for cohort in less)
    assert prepare(study(tmp_path, DENSE, MAGNITUDE, CHANCE), tmp_path, 2) == whole


def test_a_cohort_that_holds_removed_members_beside_others_is_done_when_it_is_done(
    tmp_path: Path,
) -> None:
    both = CHANCE.replace(', "node"', "")
    before = study(tmp_path, both)
    (cohort,) = prepare(before, tmp_path, 1)
    for rung in range(1, 5):
        rundir.rows_file(tmp_path, cohort.name, rung).parent.mkdir(exist_ok=True)
        rundir.rows_file(tmp_path, cohort.name, rung).write_text("the rows of all members")
    after = study(tmp_path, both.replace("0.5, ", ""))
    planned = generations.Plan(after, tmp_path, 1)
    planned.open()
    assert [each.name for each in planned.cohorts] == [cohort.name]
    work = Work(after, tmp_path, planned)
    work.open()
    assert not work.anything()


def test_another_algorithm_under_the_same_label_is_new(tmp_path: Path) -> None:
    plain = '[[arm]]\nname = "a"\nalgorithm = "{}"\nspace.sparsity = [0.5]\n'
    (first,) = prepare(study(tmp_path, plain.format("chance")), tmp_path, 2)
    dense, second = prepare(study(tmp_path, plain.format("magnitude")), tmp_path, 2)
    assert (first.algorithm, second.algorithm, dense.algorithm) == ("chance", "magnitude", "")


def test_arms_that_skip_the_task_are_not_planned(tmp_path: Path) -> None:
    found = using(study(tmp_path, CHANCE, DENSE), Lonely())
    assert [cohort.arm for cohort in prepare(found, tmp_path, 2)] == ["dense"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": '"t"'}, 'holds the study "s"; got "t"; give it another --out'),
        (
            {"epochs": "3"},
            "was begun with another task, and its rows would not compare: `epochs` was 2.0; got 3.0;",
        ),
        ({"widths": "[5]"}, "`widths` was [4]; got [5]; give it another --out"),
        ({"optimizer": '"adam"'}, "`optimizer` was 'sgd'; got 'adam'; give it another --out"),
        ({"split_seed": "1"}, "`split_seed` was 0; got 1; give it another --out"),
    ],
)
def test_another_task_is_refused(tmp_path: Path, change: dict[str, str], sentence: str) -> None:
    (cohort,) = prepare(study(tmp_path, DENSE), tmp_path, 2)
    (tmp_path / "rows").mkdir()
    rundir.rows_file(tmp_path, cohort.name, 1).write_bytes(b"")
    written = {path: path.read_bytes() for path in (tmp_path / "plan").iterdir()}
    settings = [
        f"{'study' if key == 'name' else 'task'}.{key}={value}" for key, value in change.items()
    ]
    with pytest.raises(ValueError, match="give it another --out") as caught:
        prepare(read(tmp_path / "study.toml", settings), tmp_path, 2)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert sentence in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "plan").iterdir()} == written


def test_another_task_takes_the_place_of_one_without_measured_rows(tmp_path: Path) -> None:
    """Also of one whose members all failed or were skipped; nothing of it stays."""
    (cohort,) = prepare(study(tmp_path, DENSE), tmp_path, 2)
    left = [
        rundir.rows_file(tmp_path, cohort.name, "failed"),
        tmp_path / "rows" / "skipped-0.parquet",
        tmp_path / "state" / "a",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    prepare(read(tmp_path / "study.toml", ["task.epochs=3"]), tmp_path, 2)
    assert not any(path.exists() for path in left)
    assert json.loads((tmp_path / "plan" / "study.json").read_text())["task"]["epochs"] == 3
    assert len(list((tmp_path / "plan").glob("cohorts-*.jsonl"))) == 1


def test_device_and_keep_may_change(tmp_path: Path) -> None:
    first = prepare(study(tmp_path, DENSE), tmp_path, 2)
    settings = ["task.device=cpu", "study.keep=all"]
    assert prepare(read(tmp_path / "study.toml", settings), tmp_path, 2) == first


@pytest.mark.parametrize("content", ["[]", "3", '{"name": "x"}'])
def test_a_plan_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "study.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan/study\.json says what the folder holds"):
        prepare(study(tmp_path, DENSE), tmp_path, 2)


@pytest.mark.parametrize("name", ["study.json", "cohorts-000.jsonl"])
@pytest.mark.parametrize("content", ['{"x":', "[]", "", '{"name": 3}', "\x00"])
def test_a_damaged_plan_is_named(tmp_path: Path, name: str, content: str):
    """It is said which file, and rows are not touched; an empty list of cohorts is what a plan may
    be.
    """
    found = study(tmp_path, DNS)
    prepare(found, tmp_path / "run", 1)
    file = tmp_path / "run" / "plan" / name
    file.write_text(content)
    again = generations.Plan(found, tmp_path / "run", 1)
    if (name, content) == ("cohorts-000.jsonl", ""):
        again.open()
        return
    with pytest.raises(Mistake, match=name):
        again.open()


@pytest.mark.parametrize("content", ["{", "3", '["x"]', ""])
def test_a_damaged_decision_is_named(tmp_path: Path, content: str):
    found = study(tmp_path, DNS)
    path = rundir.decision_file(tmp_path, "abc", 1)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(Mistake, match="rung-1-abc"):
        rungs.stop(found, tmp_path, found.arms[0], "abc", 1)


CONVEX = '[[arm]]\nalgorithm = "cronos"\nspace.beta = [0.1, 0.5]\nspace.gates = [1, 2]\n'


def test_networks_that_may_be_larger_than_the_model_are_cautioned_of(tmp_path: Path) -> None:
    """Of 64 inputs and 10 classes: 4 hidden units, against one for each class, sign and gate."""
    (sentence,) = checks.cautions(study(tmp_path, CONVEX, MAGNITUDE, epochs=9))
    assert sentence == (
        'arm "cronos": networks may have more FLOPs than the task\'s model, 592: they are cut from '
        "one of up to 5,920; the rows of those that end with more say how many times as many "
        "(`m_over_task`)"
    )
    wider = study(tmp_path, CONVEX, epochs=9)
    large = dataclasses.replace(wider.task, model_options={"widths": [40]})
    assert checks.cautions(dataclasses.replace(wider, task=large)) == [], "as many FLOPs"


def test_a_control_is_not_cautioned_of(tmp_path: Path) -> None:
    control = 'space.units_from = "random_features"\nspace.select = "greedy"\nspace.neurons = 4\n'
    random = f'[[arm]]\nalgorithm = "cronos"\n{control}'
    assert checks.cautions(study(tmp_path, random, epochs=9)) == []
