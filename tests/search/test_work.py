"""What is done next, without Ray: the order in which cohorts end, kills and the number of workers
change nothing.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prunefront.analysis.rows import rundir, table
from prunefront.search.drive.work import Segment, Work
from prunefront.search.plan import generations
from prunefront.search.study.parse import read
from prunefront.search.study.schema import Study
from prunefront.trainables.records.training import Training

STUDY = """
[study]
name = "search"
seeds = [0, 1]
keep = "none"
max_cohort = 6
batch = 4
{settings}
[task]
widths = [4]
epochs = 1.5
rungs = 3
"""
RANDOM = """
[[arm]]
algorithm = "chance"
sampler = "random"
members = 9
space.sparsity = {low = 0.1, high = 0.9}
space.lr = {low = 1e-3, high = 1, log = true}
"""
TPE = RANDOM.replace("random", "tpe").replace("members = 9", 'members = 14\nname = "found"')


def study(folder: Path, *arms: str, **settings: Any) -> Study:
    path = folder / "study.toml"
    given = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
    path.write_text(STUDY.format(settings=given) + "".join(arms))
    return read(path)


def opened(found: Study, folder: Path, workers: int = 2) -> Work:
    planned = generations.Plan(found, folder, workers)
    planned.open()
    work = Work(found, folder, planned)
    work.open()
    return work


def train(found: Study, folder: Path, segment: Segment) -> None:
    """What a worker does."""
    cohort = generations.read_cohort(folder, segment.cohort)
    training = Training(folder, found.about.name, found.task, cohort, False)
    while not training.finished and training.rung < segment.upto:
        training.advance()


def finish(found: Study, folder: Path, workers: int = 2, seed: int = 0, most: int = 10**6) -> Work:
    """Do a study with so many workers that end in random order; a driver that was killed after
    `most` segments.
    """
    work, going, chance = opened(found, folder, workers), list[Segment](), random.Random(seed)
    while True:
        while len(going) < workers and (segment := work.next()):
            going.append(segment)
        if not going:
            assert work.over
            assert not work.left
            return work
        segment = going.pop(chance.randrange(len(going)))
        train(found, folder, segment)
        if not most:
            return work
        most -= 1
        work.ended(segment.cohort.name)


def rows(folder: Path) -> pd.DataFrame:
    frame = table.read(folder).drop(columns=list(table.CLOCK))
    return frame.sort_values(["arm", "member", "rung"], ignore_index=True)[sorted(frame.columns)]


def decisions(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted((folder / "plan").iterdir())
        if path.name != "study.json"
    }


def test_without_rungs_to_wait_for_a_cohort_trains_to_the_end_in_one_segment(
    tmp_path: Path,
) -> None:
    found = study(tmp_path, RANDOM)
    work = opened(found, tmp_path)
    segment = work.next()
    assert segment is not None
    assert segment.upto == 3
    assert finish(found, tmp_path / "run").members == 18
    last = table.last(rows(tmp_path / "run"))
    assert (last["status"] == "done").all()
    assert not opened(found, tmp_path / "run").anything()


@pytest.mark.parametrize("arms", [(RANDOM,), (TPE,), (RANDOM, TPE)])
def test_kills_workers_and_the_order_of_ends_change_no_decision(
    tmp_path: Path, arms: tuple[str, ...]
) -> None:
    found = study(tmp_path, *arms, reduction_factor=2.0)
    finish(found, tmp_path / "calm")
    calm, chance = rows(tmp_path / "calm"), random.Random(1)
    assert set(table.last(calm)["status"]) == {"done", "stopped"}
    for workers, seed in ((1, 1), (3, 2)):
        folder = tmp_path / f"again-{workers}"
        for _ in range(6):
            finish(found, folder, workers, chance.randrange(99), most=chance.randrange(4))
            if victims := [p for p in table.files(folder) if chance.random() < 0.1]:
                victims[0].unlink()
        finish(found, folder, workers, seed)
        pd.testing.assert_frame_equal(
            rows(folder).drop(columns="cohort"), calm.drop(columns="cohort"), check_exact=True
        )


def test_who_is_stopped_has_a_last_row_at_its_rung_with_the_reason(tmp_path: Path) -> None:
    found = study(tmp_path, RANDOM, reduction_factor=3.0, floor=0)
    finish(found, tmp_path)
    whole, last = rows(tmp_path), table.last(rows(tmp_path))
    assert not whole.duplicated(["member", "rung"]).any()
    gone = last[last["status"] == "stopped"]
    assert gone["accuracy_test"].isna().all()
    assert gone["accuracy_valid"].notna().all()
    for row in gone.itertuples():
        assert str(row.reason).startswith(f"rung {row.rung}: ")
        assert (whole[whole["member"] == row.member]["rung"] <= row.rung).all()
    assert (whole.groupby("rung")["member"].nunique().loc[[1, 2, 3]] == [18, 6, 2]).all(), (
        "one in three, 2 seeds"
    )
    assert (last.groupby("hp")["status"].nunique() == 1).all(), (
        "the seeds of a setting share its fate"
    )


def test_survivors_have_the_rows_of_a_study_in_which_nobody_is_stopped(tmp_path: Path) -> None:
    finish(study(tmp_path, RANDOM, reduction_factor=3.0), tmp_path / "stopped")
    finish(study(tmp_path, RANDOM), tmp_path / "whole")
    stopped, whole = rows(tmp_path / "stopped"), rows(tmp_path / "whole")
    kept = stopped[stopped["status"] != "stopped"]
    both = kept.merge(whole, on=["member", "rung"], suffixes=("", "_whole"))
    assert len(both) == len(kept)
    for name in ("loss_train", "accuracy_valid", "flops_masked"):
        assert both[name].equals(both[f"{name}_whole"])


def test_rounds_are_proposed_from_what_was_measured(tmp_path: Path) -> None:
    found = study(tmp_path, TPE)
    work = finish(found, tmp_path)
    assert [number for number, _ in work.plan.rounds["found"]] == [0] * 4 + [1] * 4 + [2] * 4 + [
        3
    ] * 2
    assert len(rows(tmp_path)) == 14 * 2 * 3
    other = study(tmp_path, TPE, maximize=["loss_valid"], minimize=["accuracy_valid"])
    finish(other, tmp_path / "other")
    first, second = (
        (folder / "plan" / "cohorts-000.jsonl").read_bytes()
        for folder in (tmp_path, tmp_path / "other")
    )
    assert first == second, "nothing was known yet"
    assert (tmp_path / "plan" / "cohorts-003.jsonl").read_bytes() != (
        tmp_path / "other/plan/cohorts-003.jsonl"
    ).read_bytes()


def test_what_was_decided_asynchronously_is_recorded_and_replayed(tmp_path: Path) -> None:
    found = study(tmp_path, TPE, rounds="asynchronous", reduction_factor=2.0)
    finish(found, tmp_path / "first", workers=3, seed=3)
    (tmp_path / "again").mkdir()
    shutil.copytree(tmp_path / "first" / "plan", tmp_path / "again" / "plan")
    before = decisions(tmp_path / "again")
    finish(found, tmp_path / "again", workers=1)
    assert decisions(tmp_path / "again") == before
    pd.testing.assert_frame_equal(
        rows(tmp_path / "again"), rows(tmp_path / "first"), check_exact=True
    )


def test_a_cohort_that_fails_has_rows_with_the_reason_and_is_tried_again(tmp_path: Path) -> None:
    found = study(tmp_path, RANDOM, TPE, reduction_factor=2.0)
    work = opened(found, tmp_path)
    segment = work.next()
    assert segment is not None
    work.ended(segment.cohort.name, "the roof fell in")
    failed = rows(tmp_path)
    assert (failed["status"] == "failed").all()
    assert (failed["reason"] == "the roof fell in").all()
    assert len(failed) == segment.cohort.size
    finish(found, tmp_path)
    assert set(table.last(rows(tmp_path))["status"]) == {"done", "stopped"}


def test_a_failed_cohort_does_not_hold_up_the_others(tmp_path: Path) -> None:
    found = study(tmp_path, RANDOM, reduction_factor=2.0)
    work = opened(found, tmp_path)
    broken = work.next()
    assert broken is not None
    work.ended(broken.cohort.name, "no")
    while segment := work.next():
        train(found, tmp_path, segment)
        work.ended(segment.cohort.name)
    assert work.over
    last = table.last(rows(tmp_path))
    assert set(last["status"]) == {"failed", "done", "stopped"}
    assert not rundir.decision_file(tmp_path, broken.cohort.name, 1).exists()


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_is_asked_writes_nothing_and_neither_does_the_constructor(tmp_path: Path) -> None:
    found = study(tmp_path, RANDOM, TPE, reduction_factor=2.0)
    folder = tmp_path / "run"
    work = opened(found, folder)
    segment = work.next()
    assert segment is not None
    work.ended(segment.cohort.name, "the roof fell in")
    planned = generations.Plan(found, folder, 2)
    planned.open()
    before = contents(folder)
    assert any(name.endswith("-failed.parquet") for name in before)
    work = Work(found, folder, planned)
    assert not work.anything(), "nothing is known before it is opened"
    assert not work.left
    assert not work.over
    assert contents(folder) == before
    work.open()
    opened_as = contents(folder)
    assert set(before) - set(opened_as) == {f"rows/{segment.cohort.name}-failed.parquet"}
    assert work.anything()
    assert work.members == work.left
    assert contents(folder) == opened_as
    assert work.next() == segment, "what was asked handed nothing out"


def test_opening_a_study_in_which_all_is_done_finds_nothing_to_train(tmp_path: Path) -> None:
    found = study(tmp_path, TPE, reduction_factor=2.0)
    finish(found, tmp_path)
    work = opened(found, tmp_path)
    assert not work.anything()
    assert work.over
