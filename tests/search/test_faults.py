"""Faults, a short form of benchmarks/faults.py: members that hang or eat memory, two drivers, and
kills in mid-write.

Members that raise, workers and drivers that die once are in test_run.py.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from faults import Place, Record, hurt, rows, start, wrong
from prunefront.analysis.rows import table
from prunefront.analysis.rows.storage import atomic, sweep
from prunefront.trainables.records.networks import kept_members

STUDY = """
[study]
name = "search"
seeds = [0, 1]
max_cohort = 4
batch = 4
reduction_factor = 2.0

[task]
widths = [4]
epochs = 6
rungs = 3

[[arm]]
algorithm = "dense"

[[arm]]
algorithm = "chance"
sampler = "tpe"
members = 12
space.sparsity = {low = 0.1, high = 0.9}

[[arm]]
algorithm = "magnitude"
sampler = "random"
members = 8
space.sparsity = {low = 0.1, high = 0.9}
"""

PLUGIN = '''
"""Members that do not behave, as long as the file that FAULT names is there."""

import os, resource, time

import ray
import torch
from prunefront.trainables.algorithms.dense import Dense


class Hanging(Dense):
    source = "a test"

    def advance(self, task, state):
        if os.path.exists(os.environ["FAULT"]) and ray.is_initialized():  # in a worker, not when it is rehearsed
            time.sleep(600)
        return super().advance(task, state)


class Greedy(Dense):
    """Ends at a limit of its own, half a gigabyte above what it has."""

    source = "a test"

    def advance(self, task, state):
        if os.path.exists(os.environ["FAULT"]) and ray.is_initialized():
            before = resource.getrlimit(resource.RLIMIT_AS)
            with open("/proc/self/statm") as file:
                has = int(file.read().split()[0]) * resource.getpagesize()
            try:
                resource.setrlimit(resource.RLIMIT_AS, (has + (1 << 29), before[1]))
                eaten = [torch.zeros(1 << 28) for _ in range(8)]
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
            raise AssertionError(f"ate {len(eaten)} GB")
        return super().advance(task, state)
'''

BAD = """
[study]
name = "bad"
seeds = [0, 1]
keep = "none"
limit = 4

[task]
widths = [4]
epochs = 6
rungs = 2

[[arm]]
algorithm = "bad_members.Hanging"

[[arm]]
algorithm = "bad_members.Greedy"

[[arm]]
algorithm = "dense"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "search.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def second(study: Path) -> tuple[int, str]:
    """Exit code and words of a driver in the folder `calm`, where another one is at work and ends
    well.
    """
    folder = study.parent / "calm"
    first = start(study, folder)
    while not (folder / "plan" / "study.json").exists():
        assert first.poll() is None
        time.sleep(0.05)
    late = start(study, folder)
    refused, _ = late.communicate()
    said, _ = first.communicate()
    assert first.returncode == 0, said
    return late.returncode, refused


def test_of_two_drivers_on_one_folder_the_second_is_refused_and_the_first_unharmed(
    study: Path, second: tuple[int, str]
) -> None:
    code, said = second
    folder = study.parent / "calm"
    assert code == 2
    assert (
        said
        == f"prunefront: {folder}: one run at a time writes to an output folder; another one does now\n"
    )
    calm = rows(folder)
    assert set(table.last(calm)["status"]) == {"done", "stopped"}
    assert not wrong(folder, calm, kept_members(folder))


def test_a_kill_in_mid_write_and_two_interrupts_in_the_middle_of_decisions_change_nothing(
    study: Path, second: tuple[int, str]
) -> None:
    place, record, calm = Place(study.parent), Record(2), study.parent / "calm"
    cards = [
        "twice",
        "write",
    ]  # from the end on; kills of workers and drivers at other moments are in test_run.py
    folder = study.parent / "hurt"
    hurt(
        study, place, folder, cards, 1.0, random.Random(0), record
    )  # as soon as there is something to kill
    assert not record.wrong
    assert record.done == {"write": 1, "twice": 1}
    assert not wrong(folder, rows(calm), kept_members(calm))


def test_members_that_hang_or_eat_memory_become_rows_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad_members.py").write_text(PLUGIN)
    path, fault = tmp_path / "bad.toml", tmp_path / "fault"
    path.write_text(BAD)
    fault.touch()

    driver = start(path, tmp_path / "out", cwd=tmp_path, env={**os.environ, "FAULT": str(fault)})
    said, _ = driver.communicate()
    assert "Traceback" not in said, said
    assert driver.returncode == 1
    last = table.last(rows(tmp_path / "out"))
    ends = {
        str(arm): set(zip(part["status"], part["reason"], strict=True))
        for arm, part in last.groupby("arm")
    }
    assert ends["dense"] == {("done", "")}
    assert ends["bad_members.Hanging"] == {
        ("failed", "took more than the 4 s that `limit` allows from rung to rung")
    }
    ((status, reason),) = ends["bad_members.Greedy"]
    assert status == "failed"
    assert "memory" in reason


def test_what_a_kill_left_in_mid_write_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    stay = [tmp_path / "rows" / name for name in ("a-1.parquet", ".hidden", ".a.parquet.0123")]
    for path in stay:
        path.touch()
    with atomic(tmp_path / "rows" / "b.parquet") as temporary:
        temporary.touch()
    temporary.touch()
    sweep(tmp_path)
    assert sorted((tmp_path / "rows").iterdir()) == sorted([*stay, tmp_path / "rows" / "b.parquet"])
