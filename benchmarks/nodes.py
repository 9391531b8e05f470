"""Throughput of one study on clusters: one node, two nodes, one CPU each, and a Ray of the driver's
own with two CPUs.

Nodes are real processes of `ray start` on this machine, with a token. The three take turns; all
tables must be equal, bit for bit, so cohorts have a fixed size. Seconds are from the start of the
driver to its last row: imports, joining or starting Ray, and training, without the report.

    python benchmarks/nodes.py [STUDY] [--set task.epochs=10] [--max-cohort 8] [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from faults import rows
from prunefront.analysis.rows import table

STARTS = 90.0
"""Seconds that a node may take to start."""
COMMAND = [sys.executable, "-c", "from prunefront.search.cli import main; main()", "run"]


@contextlib.contextmanager
def head(cpus: int = 1, auth: str = "token") -> Iterator[tuple[Path, str, dict[str, str]]]:
    """A cluster of one node on this machine: a folder for files, its address, and the environment
    of who may join it.
    """
    scratch = Path(tempfile.mkdtemp(prefix="prunefront-nodes-"))
    with open(os.open(scratch / "token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    known = {"RAY_AUTH_MODE": auth, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
    } | known
    if auth == "token":
        environment["RAY_AUTH_TOKEN_PATH"] = str(scratch / "token")
    options = [
        "--head",
        f"--port={address.rpartition(':')[2]}",
        f"--temp-dir={scratch / 'ray'}",
        "--include-dashboard=false",
    ]
    try:
        with _started(scratch, environment, cpus, *options):
            yield scratch, address, environment
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def node(
    scratch: Path, address: str, environment: Mapping[str, str], cpus: int = 1
) -> Iterator[subprocess.Popen[bytes]]:
    """One more node of the cluster that `head` gave. Its processes end with the one given, however
    that ends.
    """
    with _started(scratch, environment, cpus, f"--address={address}") as process:
        yield process


@contextlib.contextmanager
def _started(
    scratch: Path, environment: Mapping[str, str], cpus: int, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--block",
        "--node-ip-address=127.0.0.1",
        *options,
    ]
    command += [f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=100000000"]
    log = scratch / f"{secrets.token_hex(4)}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=scratch
        )
    try:
        end = time.monotonic() + STARTS
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a node did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def driven(study: Path, folder: Path, environment: Mapping[str, str], *options: str) -> float:
    """Seconds that a driver of two CPUs takes from its start to the last row in `folder`."""
    begun = time.time()
    command = ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:2])), *COMMAND]
    subprocess.run(
        [*command, str(study), "--out", str(folder), *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return max(path.stat().st_mtime for path in (folder / "rows").iterdir()) - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, nargs="?", default=Path("studies/digits.toml"))
    parser.add_argument(
        "--set", action="append", default=[], help="study.KEY=VALUE or task.KEY=VALUE"
    )
    parser.add_argument("--max-cohort", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    study, options = (
        given.study.absolute(),
        [f"--max-cohort={given.max_cohort}", *(f"--set={each}" for each in given.set)],
    )
    took: dict[str, list[float]] = {"one node": [], "two nodes": [], "local, two CPUs": []}
    first: pd.DataFrame | None = None
    with head() as (scratch, address, environment):
        for number in range(given.rounds):
            for name, seconds in took.items():
                folder = scratch / f"{name[:3]}-{number}"
                where = [] if name.startswith("local") else [f"--address={address}"]
                with (
                    node(scratch, address, environment)
                    if name == "two nodes"
                    else contextlib.nullcontext()
                ):
                    seconds.append(driven(study, folder, environment, *options, *where))
                found = rows(folder)
                first = found if first is None else first
                pd.testing.assert_frame_equal(found, first, check_exact=True)
                members = len(table.last(found))
                print(
                    f"{name}: {seconds[-1]:.1f} s, {members / seconds[-1]:.2f} members/s, the same table",
                    flush=True,
                )
    assert first is not None
    members, base = len(table.last(first)), statistics.median(took["one node"])
    for name, seconds in took.items():
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        print(
            f"{name}: {members} members, {middle:.1f} s ({spread}), {members / middle:.2f} members/s, {base / middle:.2f}x"
        )


if __name__ == "__main__":
    main()
