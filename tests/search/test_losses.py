"""Losses of workers: none ends a study, and one for memory is told from others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray import exceptions
from ray.air.execution._internal.actor_manager import RayActorManager

from faults import rows, start
from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.search.drive import cluster, handout, losses
from prunefront.trainables.records.parts import parts_asked

LOW = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 6de9) was \
21.34GB used / 23.54GB limit (0.906426)
OOM kill reason: Memory usage 4603801600B exceeded threshold of 4600324608B (18.2% of 25276510208B limit)
"""
ANYTHING = "The actor died unexpectedly before finishing this task. (1) the process is killed by SIGKILL by OOM killer."


@pytest.fixture
def manager() -> Iterator[type[RayActorManager]]:
    before = RayActorManager._actor_task_failed
    yield RayActorManager
    RayActorManager._actor_task_failed = before


@pytest.mark.parametrize(
    "error",
    [
        exceptions.OutOfMemoryError(LOW),
        exceptions.WorkerCrashedError(),
        exceptions.RaySystemError("cannot be unpickled"),
    ],
)
def test_tune_takes_every_error_of_ray_as_the_death_of_an_actor(
    manager: type[RayActorManager], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    heard: list[Exception] = []
    monkeypatch.setattr(manager, "_cleanup_actor", lambda self, tracked_actor: None)
    actor = SimpleNamespace(_on_error=lambda actor, found: heard.append(found), actor_id=1)
    task = SimpleNamespace(_tracked_actor=actor, _on_error=None)
    told: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)

    with pytest.raises(RuntimeError, match="unexpected exception"):
        manager._actor_task_failed(told, task, error)  # type: ignore[arg-type]
    assert losses.deaths_only(), (
        "Ray's private function is gone: Tune is started again for such an error"
    )
    assert losses.deaths_only(), "twice is as once"
    manager._actor_task_failed(told, task, error)  # type: ignore[arg-type]
    (found,) = heard
    assert isinstance(found, exceptions.RayActorError)
    assert str(found) == f"{type(error).__name__}: {error}"


def test_memory_is_told_from_other_ends() -> None:
    low = "Ray ended its worker as memory ran low, at 21.34GB of 23.54GB"
    assert losses.memory(exceptions.RayActorError(error_msg=f"OutOfMemoryError: {LOW}"), 0) == low
    assert losses.memory(LOW, 0) == low
    for cause in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("[...] DefaultCPUAllocator: can't allocate"),
    ):
        task = exceptions.RayTaskError("step", "Traceback", cause)
        assert losses.memory(task, 0) == "it ran out of memory"
    assert (
        losses.memory(exceptions.ActorDiedError(), 1)
        == "the kernel ended its worker as memory ran out"
    )
    assert losses.memory(None, 0) == ""
    assert losses.memory(exceptions.RayActorError(error_msg=ANYTHING), 0) == ""
    assert (
        losses.memory(exceptions.RayTaskError("step", "Traceback", ArithmeticError("no")), 1) == ""
    )


class Hands:
    """Two cohorts that train."""

    def __init__(self, folder: Path) -> None:
        self.work, self.config = (
            SimpleNamespace(folder=folder),
            {"limit": None, "folder": str(folder)},
        )
        self.going = {f"trial-{name}": SimpleNamespace(name=name, size=6) for name in "ab"}
        self.notes: list[str] = []
        self.tried: list[str] = []
        self.failed: dict[str, str] = {}
        self.progress = SimpleNamespace(note=self.notes.append)
        self.guarded = contextlib.nullcontext

    def again(self, trial: str) -> None:
        self.tried.append(trial)

    def ended(self, trial: str, error: str) -> None:
        self.failed[self.going.pop(trial).name] = error


def test_a_cohort_whose_worker_ran_out_of_memory_is_tried_smaller_and_then_failed(
    tmp_path: Path,
) -> None:
    hands: Any = Hands(tmp_path)
    report = handout.Report(hands)
    for _ in range(handout.RETRIES + 1):
        report.lost("trial-a", LOW)
    assert hands.tried == ["trial-a"] * 3
    assert [note.partition("; traceback: ")[0].rpartition(", ")[2] for note in hands.notes[:3]] == [
        "in 4 parts",
        "in 6 parts",
        "in 6 parts",
    ]
    logs = [note.partition("; traceback: ")[2] for note in hands.notes[:4]]
    assert [Path(log).is_file() for log in logs] == [True] * 4, (
        "each loss says where its traceback is"
    )
    assert hands.failed == {"a": "Ray ended its worker as memory ran low, at 21.34GB of 23.54GB"}
    assert parts_asked(tmp_path, "a") == 64
    assert parts_asked(tmp_path, "b") == 1
    report.all_lost(RuntimeError("whatever ended Tune"))
    assert hands.tried[3:] == ["trial-b"]
    assert (
        hands.notes[-1].partition("; traceback: ")[0]
        == "cohort b: lost to an error or a dead worker; carried on from its last rung"
    )


def test_why_steps_are_not_compiled_is_said_once_of_an_algorithm(tmp_path: Path) -> None:
    hands: Any = Hands(tmp_path)
    for planned in hands.going.values():
        planned.algorithm = "mine.Own"
    hands.progress.reached = lambda planned, rung: None
    report = handout.Report(hands)
    for rung, reason in ((1, ""), (2, "it looks at `step`"), (3, "it looks at `step`")):
        for name in "ab":
            result = {"rung": rung, "uncompiled": reason}
            trial = SimpleNamespace(trial_id=f"trial-{name}")
            report.on_trial_result(0, [], trial, result)
    assert hands.notes == ["mine.Own: its steps run without being compiled: it looks at `step`"]


GREEDY = """
import torch
from prunefront.trainables.algorithms.dense import Dense


class Greedy(Dense):
    source = "a test"

    def advance(self, task, state):
        eaten = [torch.ones(1 << 24) for _ in range(state.size * 24)]  # 1.6 GB each
        return super().advance(task, state)
"""
STUDY = """
[study]
name = "greedy"
seeds = [0, 1, 2, 3]
keep = "none"
max_cohort = 4

[task]
widths = [4]
epochs = 2
rungs = 2

[[arm]]
algorithm = "greedy.Greedy"

[[arm]]
algorithm = "dense"
"""


@pytest.mark.long
def test_a_cohort_that_ray_ends_for_memory_trains_in_parts(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    known = {name: int(value) for name, value, *_ in lines}
    may = (known["MemTotal:"] - known["MemAvailable:"] + 4.5e6) / known["MemTotal:"]
    environment = {
        **os.environ,
        "RAY_memory_usage_threshold": f"{may:.3f}",
        "RAY_memory_monitor_refresh_ms": "50",
    }
    driver = start(path, tmp_path / "out", env=environment, cwd=tmp_path)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert "Ray ended its worker as memory ran low" in said
    assert set(table.last(rows(tmp_path / "out"))["status"]) == {"done"}


@pytest.mark.parametrize(("slow", "said"), [(0, ""), (1, ""), (2, "twice it did not, at load")])
def test_a_ray_that_a_busy_machine_starts_too_late_is_started_once_more(
    slow: int, said: str, monkeypatch: pytest.MonkeyPatch
):
    calls = list[str]()

    def init(**options: Any) -> None:
        calls.append("init")
        if calls.count("init") <= slow:
            raise Exception(
                "The current node timed out during startup. This could happen because ..."
            )

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(Mistake, match=said) if said else contextlib.nullcontext():
        cluster._start({})
    assert calls == ["init", "shutdown", "init", "shutdown"][: 2 * slow + 1 if slow < 2 else 4]


def test_another_fault_of_a_start_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster.ray, "init", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cluster._start({})
