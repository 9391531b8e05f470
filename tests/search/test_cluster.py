"""Clusters: nodes as processes of `ray start`, what is refused, and what a run leaves behind."""

from __future__ import annotations

import os
import pickletools
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import pytest

import nodes
from faults import rows

STUDY = """
[study]
name = "tiny"
seeds = [0, 1]
max_cohort = 2
keep = "all"

[task]
widths = [8]
epochs = 8
rungs = 2

[[arm]]
algorithm = "where.Where"
space.lr = [0.01, 0.02, 0.05, 0.1]

[[arm]]
algorithm = "dns"
"""

# A user's own algorithm beside the study, which says on which nodes it ran, and waits while it is
# told to.
WHERE = """
import os, pathlib, time

import ray
from prunefront.trainables.training.pruner import GradientPruner


class Where(GradientPruner):
    source = "a test"

    def advance(self, task, state):
        here = pathlib.Path(__file__).parent
        if ray.is_initialized():
            (here / f"node-{ray.get_runtime_context().get_node_id()}").touch()
        while (here / "hold").exists():
            time.sleep(0.05)
        return super().advance(task, state)
"""

Cluster = tuple[Path, str, dict[str, str]]


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """A cluster of two nodes."""
    with nodes.head() as (scratch, address, environment), nodes.node(scratch, address, environment):
        yield scratch, address, environment


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "where.py").write_text(WHERE)
    (folder / "tiny.toml").write_text(STUDY)
    return folder / "tiny.toml"


def start(
    study: Path, out: str, environment: Mapping[str, str], *options: str
) -> subprocess.Popen[str]:
    """A driver beside its study."""
    command = [*nodes.COMMAND, str(study), "--out", out, *options]
    return subprocess.Popen(
        command,
        cwd=study.parent,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def refused(
    study: Path, environment: Mapping[str, str], *options: str, out: str = "refused"
) -> str:
    """The one sentence with which a run ends."""
    driver = start(study, out, environment, *options)
    said, _ = driver.communicate(timeout=100)
    assert driver.returncode == 2, said
    assert said.startswith("prunefront: "), said
    assert said.count("\n") == 1, said
    return said


@pytest.fixture(scope="module")
def alone(study: Path) -> Path:
    """The output folder of a run without a cluster, of a user without a home, whose token was
    looked at.
    """
    home = study.parent / "home"
    home.write_text("no folder")
    with tempfile.TemporaryDirectory(
        prefix="pf-", dir="/tmp"
    ) as temporary:  # short, for Ray's sockets
        given = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
        }
        driver = start(study, "alone", {**given, "HOME": str(home), "TMPDIR": temporary})
        seen = set[int]()
        while driver.poll() is None:
            seen |= {
                stat.S_IMODE(path.stat().st_mode)
                for path in Path(temporary).glob("prunefront-*/token")
            }
            time.sleep(0.02)
        said, _ = driver.communicate()
        assert driver.returncode == 0, said
        assert seen == {0o600}
        assert not list(Path(temporary).glob("prunefront-*")), "the token went with the run"
        assert home.read_text() == "no folder"
    return study.parent / "alone"


def test_a_study_has_the_same_table_on_two_nodes(pair: Cluster, study: Path, alone: Path) -> None:
    for mark in study.parent.glob("node-*"):
        mark.unlink()
    (study.parent / "hold").touch()  # or the node that starts first may do it all
    driver = start(study, "pair", pair[2], "--address", pair[1])
    while len(list(study.parent.glob("node-*"))) < 2 and driver.poll() is None:
        time.sleep(0.05)
    (study.parent / "hold").unlink()
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert len(list(study.parent.glob("node-*"))) == 2, "both nodes trained"
    pd.testing.assert_frame_equal(rows(study.parent / "pair"), rows(alone), check_exact=True)


def test_a_node_may_come_late_and_be_killed(study: Path, alone: Path) -> None:
    with nodes.head() as (scratch, address, environment):
        for mark in study.parent.glob("node-*"):
            mark.unlink()
        (study.parent / "hold").touch()
        driver = start(study, "late", environment, "--address", address)
        while not list(study.parent.glob("node-*")) and driver.poll() is None:
            time.sleep(0.05)
        with nodes.node(scratch, address, environment) as second:
            while len(list(study.parent.glob("node-*"))) < 2 and driver.poll() is None:
                time.sleep(0.05)
            second.kill()
        (study.parent / "hold").unlink()
        said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert len(list(study.parent.glob("node-*"))) == 2, "who came late trained too"
    assert "carried on from its last rung" in said
    pd.testing.assert_frame_equal(rows(study.parent / "late"), rows(alone), check_exact=True)


TWICE = """
import os, stat, sys, tempfile
from pathlib import Path
from prunefront.search.drive import cluster
import ray


@ray.remote
def worker():
    return os.getpid()


os.environ["RAY_AUTH_TOKEN_PATH"] = "/before"
tokens = set()
for _ in range(2):
    with tempfile.TemporaryDirectory(prefix="prunefront-test-") as scratch, cluster.local_ray(scratch, 1):
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert token.parent == Path(scratch)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        tokens.add(token.read_text())
        assert ray.get(worker.remote()) != os.getpid()
        group = os.getpgrp()
        for path in Path("/proc").glob("[0-9]*"):
            if b"gcs_server" in (path / "cmdline").read_bytes().partition(b"\\0")[0]:
                status = (path / "status").read_text()
                if f"PPid:\\t{os.getpid()}\\n" in status:
                    assert os.getpgid(int(path.name)) != group, "a signal to our group would end Ray"
                    print("apart")
    assert not token.exists()
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == "/before"
(token,) = tokens
assert len(token) == 64
"""


def test_two_rays_in_one_process_one_after_the_other() -> None:
    """Each has its files and a process group of its own; Ray would not take another token."""
    ran = subprocess.run(
        [sys.executable, "-c", TWICE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert ran.stdout.splitlines() == ["apart", "apart"]


def test_a_client_without_the_token_is_refused(small_ray: Path) -> None:
    import ray

    from prunefront.search.drive import cluster

    address = ray.get_runtime_context().gcs_address
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    assert cluster._answer(address, os.environ) == ""
    assert cluster.TOKEN in cluster._answer(address, {**others, "RAY_AUTH_MODE": "disabled"})
    assert cluster.TOKEN in cluster._answer(
        address, {**others, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1" * 64}
    )


def test_who_has_no_token_joins_no_cluster(pair: Cluster, study: Path) -> None:
    wrong = {**pair[2], "RAY_AUTH_TOKEN": "1" * 64}
    assert "it does not take our token" in refused(study, wrong, "--address", pair[1])
    assert "--insecure sends none" in refused(study, pair[2], "--address", pair[1], "--insecure")


def test_an_address_is_that_of_a_cluster(study: Path) -> None:
    from prunefront.search.drive import cluster

    assert "got 127.0.0.1:1: nothing listens there" in refused(
        study, os.environ, "--address", "127.0.0.1:1"
    )
    for wrong in ("here", "127.0.0.1:https", "127.0.0.1:99999"):
        with (
            pytest.raises(ValueError, match="nothing listens there"),
            cluster.joined_ray(wrong, False),
        ):
            pass
    assert "--insecure: goes with --address" in refused(study, os.environ, "--insecure")


def test_the_output_folder_is_one_that_all_nodes_see(pair: Cluster, study: Path) -> None:
    said = refused(
        study, pair[2], "--address", pair[1], out="/proc/self/cwd/mine"
    )  # each process has its own
    assert "got one that 2 of 2 nodes do not see" in said


def test_an_open_cluster_is_joined_only_when_told_to(study: Path, alone: Path) -> None:
    with nodes.head(auth="disabled") as (_, address, environment):
        assert "this one lets anybody in" in refused(study, environment, "--address", address)
        driver = start(study, "open", environment, "--address", address, "--insecure")
        said, _ = driver.communicate()
    assert driver.returncode == 0, said
    pd.testing.assert_frame_equal(rows(study.parent / "open"), rows(alone), check_exact=True)


def test_no_file_of_a_study_is_a_pickle(alone: Path) -> None:
    files = [path for path in alone.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {
        ".parquet",
        ".safetensors",
        ".jsonl",
        ".json",
        ".html",
    }
    for path in files:
        content = path.read_bytes()
        assert not content.startswith((b"PK", b"\x80")), (
            f"{path}: a zip file, as torch.save writes it, or a pickle"
        )
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it stumbles over
            assert [code.name for code, _, _ in pickletools.genops(content)] == []
