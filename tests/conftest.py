"""What tests share: one thread, the folder of large data, one small Ray and one object store for
those that need them; and which tests `make check` leaves out.
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
    """A process runs a file at a time, and one of them those of `RAY`; in the order of names."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "ray" if file.endswith(RAY) or "with_ray" in nodeid else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Of the tests in several processes."""
    return _Files(config, log)


SLOW = Path(__file__).with_name("slow.txt")
"""Tests that `make check` has no time for, one a line as `name` has it: written by `make slow`."""
CHECK_SECONDS = 80
"""What the other tests took together when SLOW was written, one after the other."""


def name(nodeid: str) -> str:
    """File and function of a test, whatever its folder and its parameters."""
    return nodeid.partition("[")[0].rpartition("/")[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    """--find-slow writes SLOW."""
    parser.addoption("--find-slow", action="store_true", help=f"write {SLOW.name} by what was run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray, and what is slow."""
    slow = set(SLOW.read_text().split())
    for item in items:
        starts_ray = {"small_ray", "pair"} & set(getattr(item, "fixturenames", ()))
        if starts_ray or item.path.name in RAY or "with_ray" in item.name:
            item.add_marker("ray")
        if name(item.nodeid) in slow:
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Of all that was run, the quickest tests that take `CHECK_SECONDS` together are not slow."""
    if not config.getoption("--find-slow"):
        return
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                test = name(report.nodeid)
                seconds[test] = seconds.get(test, 0) + report.duration
    spent, slow = 0.0, list[str]()
    for test in sorted(seconds, key=seconds.__getitem__):
        spent += seconds[test]
        if spent > CHECK_SECONDS:
            slow.append(test)
    SLOW.write_text("".join(f"{test}\n" for test in sorted(slow)))


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
