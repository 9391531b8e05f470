"""The device of members: what its errors mean, and how its memory is cut up."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prunefront.trainables import tuning
from prunefront.trainables.training import device

CUDA = torch.device("cuda")
ILLEGAL = "CUDA error: an illegal memory access was encountered"


def broken(*given: object, **named: object) -> None:
    raise RuntimeError(ILLEGAL)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(ILLEGAL),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ],
)
def test_a_gpu_is_lost_where_it_fails_again(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "ones", broken)
    assert device.is_lost(CUDA, error)


def test_a_gpu_that_works_again_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", lambda count, device: torch.zeros(count))
    assert not device.is_lost(CUDA, RuntimeError(ILLEGAL))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        ValueError("`sparsity` lies in [0, 1)"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_other_errors_are_not_asked_about(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "ones", broken)
    assert not device.is_lost(CUDA, error)


def test_a_cpu_is_never_lost() -> None:
    assert not device.is_lost(torch.device("cpu"), RuntimeError(ILLEGAL))


NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def test_memory_grows_in_place_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    device.settle()
    assert [os.environ.get(name) for name in NAMES].count("expandable_segments:True") == 1
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(NAMES[1], "max_split_size_mb:64")
    device.settle()
    assert NAMES[0] not in os.environ


@pytest.mark.parametrize("lost", [True, False])
def test_a_worker_ends_with_its_gpu_and_with_nothing_else(
    lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives what a dead worker had to another; an error of ours ends the cohort."""
    worker: Any = tuning.CohortTrainable.__new__(tuning.CohortTrainable)
    worker._limit = None
    worker._folder = tmp_path
    worker._cohort = SimpleNamespace(name="a")
    worker._task = SimpleNamespace(torch_device=CUDA)
    worker._segment = broken
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(device, "is_lost", lambda where, error: lost)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        worker.step()
    assert codes == [tuning.LOST] * lost
