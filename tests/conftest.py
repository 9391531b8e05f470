"""What tests share: one thread, the folder of large data, and one small Ray for those that need it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder that PRUNEFRONT_DATA names; tests that need it skip where it is not set."""
    if "PRUNEFRONT_DATA" not in os.environ:
        pytest.skip("PRUNEFRONT_DATA names no folder with CIFAR-10 and the released LeNet-5")
    return Path(os.environ["PRUNEFRONT_DATA"])


@pytest.fixture(scope="session")
def small_ray() -> Iterator[Path]:
    """Ray with two CPUs; gives a scratch folder that is removed afterwards."""
    scratch = Path(tempfile.mkdtemp(prefix="prunefront-test-"))
    from prunefront.search.cluster import local_ray

    with local_ray(scratch, 2):
        yield scratch
    shutil.rmtree(scratch, ignore_errors=True)
