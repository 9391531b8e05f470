"""What tests share: one thread, the folder of large data, one small Ray and one object store for
those that need them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadFileScheduling

torch.set_num_threads(1)

RAY = ("test_cluster.py", "test_docs.py", "test_faults.py", "test_run.py", "test_tuning.py")
"""Files whose tests start Ray: one process runs them all, so that two never share the cores, and
begins early; with them tests that have `with_ray` in their names."""


class _Files(LoadFileScheduling):
    """A process runs a file at a time, and one of them those of `RAY`; in the order of their names."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "ray" if file.endswith(RAY) or "with_ray" in nodeid else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Of the tests in several processes."""
    return _Files(config, log)


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
    from prunefront.search.drive.cluster import local_ray

    with local_ray(scratch, 2):
        yield scratch
    shutil.rmtree(scratch, ignore_errors=True)


STORE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """The URI of an empty bucket on a real server of S3's protocol, which the environment names as
    a user's would.
    """
    with (
        subprocess.Popen(
            [sys.executable, "-c", STORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert server.stdout is not None
        port = next(line.split()[1] for line in server.stdout if line.startswith("port "))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
        ).close()
        yield "s3://bucket"
        server.terminate()
