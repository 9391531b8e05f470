"""Every algorithm on a pretend GPU: as on the CPU, without tensors of two devices in an operation,
and with few waits of the host: none in a training step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from pretend_cuda import CUDA, PRODUCT, OnDevice, PretendGpu, Wait, counted

from prunefront.analysis.rows import table
from prunefront.trainables import pulse
from prunefront.trainables.algorithms import find, known
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.training import Training
from prunefront.trainables.task import Task
from prunefront.trainables.training.pruner import GradientPruner
from prunefront.trainables.tree import on_host

STEPS = 6
"""Optimiser steps, or iterations of ADMM, in two rungs."""
TASK = Task(
    model_options={"widths": [6, 20]},
    batch_size=8,
    rungs=2,
    dense_share=0.25,
    train_share=0.1,
    dtype="float64",
)
NETWORKS = {
    "mlp": TASK,
    "convolutional": dataclasses.replace(
        TASK, model="example_models.normed", model_options={"channels": 4}
    ),
    "residual": dataclasses.replace(
        TASK, model="resnet", model_options={"depth": 8, "width": 0.25}
    ),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "complexity_aware": {"interval": 2, "warmup": 0.0, "settle": 0.8, "audit": 16, "nu": 1.0},
    "cronos": {"gates": 2, "mode": "solve"},
    "weedout": {"candidates": 4, "examples": 32},
}
"""Hyper-parameters that are not the defaults: small programs and searches."""

A_RUNG, ITS_ROWS, A_FILE = 4, 14, 5
"""The most waits in a rung of a pruner that learns nothing between its steps, in measuring it, and
in saving, loading and selecting it, whatever the members, the steps and the layers.
"""
AN_UPDATE = 6
"""The most waits when gates are learnt or audited, and the stack is cut."""
A_PROGRAM, AN_ITERATION = 12, 2
"""The most waits for a seed's convex programs in a rung, and for one of their iterations."""


@functools.cache
def task_of(network: str, device: str, stream: str) -> Task:
    """The task for a network, with steps for two rungs."""
    task = dataclasses.replace(NETWORKS[network], device=device, stream=stream)
    return dataclasses.replace(task, epochs=STEPS / task.steps_per_epoch)


def planned(
    name: str,
    network: str,
    device: str = "cuda",
    stream: str = "never",
    seeds: Sequence[int] = (0, 1),
    steps: int = STEPS,
) -> tuple[Task, Algorithm, list[Member]]:
    """The task as the algorithm has it, and a member for each seed; skips what it refuses, and
    networks of its own.
    """
    task = task_of(network, device, stream)
    if steps != STEPS:
        task = dataclasses.replace(task, epochs=steps / task.steps_per_epoch)
    algorithm = find(name)
    given = dict(OPTIONS.get(name, {}))
    if "iterations" in algorithm.space:
        given["iterations"] = steps
    hp = complete(algorithm.space, given)
    parent = algorithm.parent(task, hp)
    reason = algorithm.skip(task)
    if reason is None and parent.model != task.model:
        reason = "it has a network of its own"
    if reason is not None:
        pytest.skip(reason)
    algorithm.check(parent, hp)
    members = [Member(hp, seed) for seed in seeds]
    return parent, algorithm, members


@dataclasses.dataclass
class Life:
    """What came of one: rows without what a clock says, and how often the host waited: in the
    second rung, in measuring it, and for files and selecting.

    after: the waits until the end of each step of the first rung.
    """

    rows: pd.DataFrame
    rung: int
    measuring: int
    files: int
    after: dict[int, Counter[Wait]]


def lived(
    gpu: PretendGpu,
    task: Task,
    algorithm: Algorithm,
    members: list[Member],
    folder: Path,
) -> Life:
    """A life with everything in it: a rung, a file, the loss of members, and a rung.

    gpu: whose waits are counted; it need not be entered.
    """
    path = folder / "state.safetensors"
    after: dict[int, Counter[Wait]] = {}

    def note(what: str, done: int, total: int) -> None:
        if what == "step":
            after[done] = Counter(gpu.waits)

    state = algorithm.start(task, members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulse, "tell", note)
        state = algorithm.advance(task, state)
    rows = measure(task, algorithm, state, last=False)
    with counted(gpu) as (files, _):
        state.save(path)
        state = State.load(path, task.torch_device)
        state = state.select([1, 0, *range(2, len(members))])
    with counted(gpu) as (rung, _):
        state = algorithm.advance(task, state)
    with counted(gpu) as (measuring, _):
        rows += measure(task, algorithm, state, last=True)
    without_clock = pd.DataFrame(rows).drop(columns=list(table.CLOCK), errors="ignore")
    return Life(without_clock, rung.total(), measuring.total(), files.total(), after)


@pytest.mark.parametrize("stream", ["never", "always"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", known())
def test_results_are_those_of_the_cpu_and_no_step_waits(
    name: str, network: str, stream: str, tmp_path: Path
) -> None:
    idle = PretendGpu()
    on_cpu = lived(idle, *planned(name, network, "cpu", stream), tmp_path)
    with PretendGpu() as gpu:
        task, algorithm, members = planned(name, network, "cuda", stream)
        assert task.torch_device.type == "cuda"
        on_gpu = lived(gpu, task, algorithm, members, tmp_path)
    assert gpu.kernels
    assert not gpu.mixed
    pd.testing.assert_frame_equal(
        on_gpu.rows, on_cpu.rows, check_exact=False, rtol=1e-9, atol=1e-12
    )
    expect_few_waits(name, on_gpu, STEPS, len(members))
    if name not in ("cronos", "cronos_am"):
        expect_no_wait_in_steps(algorithm, members[0], task, on_gpu)


def expect_no_wait_in_steps(
    algorithm: Algorithm,
    member: Member,
    task: Task,
    life: Life,
) -> None:
    """Fail if the host waited between the ends of two steps, where nothing else was due."""
    compared = 0
    for step, waits in life.after.items():
        before = life.after.get(step - 1)
        if before is None:
            continue
        is_pruner = isinstance(algorithm, GradientPruner)
        if is_pruner and algorithm.due(member.hp, step - 1, task.steps):
            continue
        assert waits == before, f"the host waits in step {step}"
        compared += 1
    assert compared


def expect_few_waits(name: str, life: Life, steps: int, seeds: int) -> None:
    """Fail where there are more waits than in a few rungs: the bounds know no members, and no
    layers, and no steps but those in which gates are learnt or programs solved.
    """
    rung, measuring = A_RUNG, ITS_ROWS
    if name == "complexity_aware":
        rung += AN_UPDATE * steps // 2
    if name in ("cronos", "cronos_am"):
        rung += seeds * (A_PROGRAM + AN_ITERATION * steps)
    if name == "cronos":
        measuring += seeds * A_PROGRAM
    assert life.rung <= rung
    assert life.measuring <= measuring
    assert life.files <= A_FILE


@pytest.mark.parametrize("name", known())
def test_waits_grow_with_neither_members_nor_steps(name: str, tmp_path: Path) -> None:
    with PretendGpu() as gpu:
        plan = planned(name, "mlp", seeds=(0, 1, 2, 3, 3, 3), steps=3 * STEPS)
        life = lived(gpu, *plan, tmp_path)
    expect_few_waits(name, life, 3 * STEPS, seeds=4)


# ---- memory


WIDE = dataclasses.replace(TASK, model_options={"widths": [160, 160]}, batch_size=32, epochs=0.8)


def trained(name: str, folder: Path, device: str, members: int) -> Training:
    """A cohort with a seed for each member, at its end."""
    hp = complete(find(name).space, {})
    each = tuple(Member(hp, seed) for seed in range(members))
    cohort = Cohort("00000-test", "arm", name, each)
    task = dataclasses.replace(WIDE, device=device)
    training = Training(folder, "study", task, cohort, keep=True)
    while not training.finished:
        training.advance()
    return training


@pytest.mark.parametrize("name", ["dense", "dns"])  # dns: it needs the most at its start
def test_a_cohort_that_does_not_fit_the_memory_is_split(name: str, tmp_path: Path) -> None:
    peaks: dict[int, int] = {}
    for members in (2, 4):
        with PretendGpu() as gpu:
            trained(name, tmp_path / f"of {members}", "cuda", members)
        peaks[members] = gpu.peak
    trained(name, tmp_path / "cpu", "cpu", 4)
    between = (peaks[2] + 3 * peaks[4]) // 4
    with PretendGpu(limit=between) as gpu:
        training = trained(name, tmp_path / "gpu", "cuda", 4)
    assert len(training.states) == 2
    assert gpu.peak <= between < peaks[4]
    expected, found = (
        table.read(tmp_path / device).drop(columns=list(table.CLOCK)) for device in ("cpu", "gpu")
    )
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=1e-9, atol=1e-12)


# ---- the pretence itself


def test_tensors_of_two_devices_are_refused_as_cuda_refuses_them() -> None:
    with PretendGpu() as gpu:
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        assert there.device == CUDA
        assert there.is_cuda
        assert isinstance(there, OnDevice)
        for mixes in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: there.index_select(0, torch.tensor([1])),
            lambda: torch.where(there > 0, there, here),
        ):
            with pytest.raises(RuntimeError, match="on the same device"):
                mixes()
        assert gpu.mixed.total() == 4
        gpu.clear()
        number = torch.tensor(2.0)
        both = there * number + there[torch.tensor([0, 1, 2])]
        assert both.tolist() == [3, 3, 3]
        assert not gpu.mixed
        with pytest.raises(TypeError, match="to numpy"):
            there.numpy()


def test_waits_are_counted_and_asynchronous_copies_are_none() -> None:
    with PretendGpu() as gpu:
        there = torch.arange(4.0).to("cuda", non_blocking=True)
        assert not gpu.waits
        assert gpu.kernels["_to_copy"] == 1
        _ = there.sum() + there.mean()
        assert not gpu.waits
        for waits in (
            lambda: there.sum().item(),
            lambda: bool((there > 0).any()),
            lambda: there.nonzero(),
            lambda: there[there > 1],
            lambda: there.cpu(),
            lambda: there.tolist(),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: there[torch.tensor([0])],
            torch.cuda.synchronize,
        ):
            before = gpu.waits.total()
            waits()
            assert gpu.waits.total() == before + 1
        there[there > 1] = 0.0
        assert gpu.waits.total() == 9


def test_a_wait_has_the_line_of_the_product_that_made_it() -> None:
    with PretendGpu() as gpu:
        tensors = {"a": torch.ones(2, device="cuda"), "b": torch.ones(3, device="cuda")}
        on_host(tensors)
    (wait,) = gpu.waits
    assert wait.why == "copy to the host"
    file, _, line = wait.line.partition(":")
    assert ".cpu()" in (PRODUCT / file).read_text().splitlines()[int(line) - 1]


def test_memory_is_counted_while_tensors_are_alive() -> None:
    with PretendGpu(limit=1000) as gpu:
        some = torch.zeros(50, device="cuda")
        view = some[10:]
        assert gpu.in_use == 200
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(500, device="cuda")
        assert torch.cuda.mem_get_info() == (800, 1000)
        del some
        assert gpu.in_use == 200
        del view
        assert gpu.in_use == 0
        assert gpu.peak == 200


def test_what_comes_to_the_host_together_is_what_came_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {
        "matrix": torch.arange(6.0).view(2, 3).mT,
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(7),
        "wide": torch.arange(40.0),
        "narrow": torch.zeros(2),
    }
    monkeypatch.setattr("prunefront.trainables.tree.TOGETHER", 100)
    with PretendGpu() as gpu:
        there = {name: tensor.to("cuda") for name, tensor in given.items()}
        gpu.clear()
        here = on_host(there)
    assert gpu.waits.total() == 4, "float32 in two parts, whole numbers, and the mask"
    assert here.keys() == given.keys()
    for name, tensor in given.items():
        assert torch.equal(here[name], tensor)
    assert all(on_host(given)[name].data_ptr() == given[name].data_ptr() for name in given)
