"""The first minutes of somebody new: a study of one network, `--help`, and a report.

Usage: python benchmarks/first_minutes.py [--repeats 5] [--folder DIR] [--imports]

Prints medians of so many repetitions, in seconds, wall and CPU of all processes; of the study also
when its steps are seen from outside, and the CPU time of each process. folder: an output folder
whose report is timed (a copy of it); default that of the study. --imports: what the driver's
imports cost, by package.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

MAIN = "from prunefront.search.cli import main; main()"
STUDY = """
[study]
name = "trivial"
seeds = [0]

[task]
widths = [8]
epochs = 2
rungs = 1

[[arm]]
algorithm = "dense"
"""
KINDS = {
    "gcs_server": "Ray: gcs",
    "raylet/raylet": "Ray: raylet",
    "dashboard.py": "Ray: dashboard",
    "monitor.py": "Ray: monitors",
    "agent.py": "Ray: agents",
    "agent/main.py": "Ray: agents",
    "DashboardAgent": "Ray: agents",
    "RuntimeEnvAgent": "Ray: agents",
    "default_worker.py": "workers",
    "ray::": "workers",
    "prunefront": "driver",
}
"""A part of a command line -> what is summed up under it; the first that fits."""
LOOK_SECONDS = 0.02
TICKS = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class Ran:
    """One run of a command: seconds, when each step was first seen, CPU seconds by kind."""

    wall: float
    steps: dict[str, float]
    cpu: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--imports", action="store_true")
    given = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} CPUs")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "study.toml").write_text(STUDY)
        if given.imports:
            imports(folder)
            return
        study = [_study(folder) for _ in range(given.repeats)]
        tell("a study of one network", study)
        tell("prunefront --help", [watched(["--help"], {}) for _ in range(given.repeats)])
        source = given.folder or folder / "out"
        shutil.copytree(source, folder / "copy")
        report = ["report", str(folder / "copy")]
        tell("prunefront report", [watched(report, {}) for _ in range(given.repeats)])


def _study(folder: Path) -> Ran:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    seen = {
        "planned": lambda: (out / "plan" / "study.json").exists(),
        "measured": lambda: any((out / "rows").glob("*.parquet")),
        "reported": lambda: (out / "report" / "report.html").exists(),
    }
    return watched(["run", str(folder / "study.toml"), "--out", str(out)], seen)


def watched(words: list[str], seen: dict[str, Callable[[], bool]]) -> Ran:
    """Run the command with these words, and look at all its processes until it ends."""
    command = [sys.executable, "-c", MAIN, *words]
    begun = time.monotonic()
    steps: dict[str, float] = {}
    cpu: dict[int, tuple[str, float]] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None:
            for number, (kind, seconds) in _processes(process.pid).items():
                known, _ = cpu.get(number, (kind, 0.0))
                # One that ends has no command line any more.
                cpu[number] = (known if kind == "other" else kind, seconds)
            there = [kind for kind, _ in cpu.values()]
            there += [step for step, happened in seen.items() if step not in steps and happened()]
            for step in there:
                steps.setdefault(step, time.monotonic() - begun)
            time.sleep(LOOK_SECONDS)
    assert process.returncode == 0, words
    sums = collections.defaultdict[str, float](float)
    for kind, seconds in cpu.values():
        sums[kind] += seconds
    return Ran(time.monotonic() - begun, steps, dict(sums))


def _processes(session: int) -> dict[int, tuple[str, float]]:
    """The processes of a session: their kinds, and CPU seconds so far."""
    processes: dict[int, tuple[str, float]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                seconds = (int(fields[11]) + int(fields[12])) / TICKS
                processes[int(path.name)] = (_kind(line), seconds)
    return processes


def _kind(line: str) -> str:
    for part, kind in KINDS.items():
        if part in line:
            return kind
    return "other"


def tell(what: str, runs: list[Ran]) -> None:
    """Print medians."""
    wall = statistics.median(ran.wall for ran in runs)
    cpu = statistics.median(sum(ran.cpu.values()) for ran in runs)
    print(f"\n{what}: {wall:.2f} s, {cpu:.2f} s of CPU (medians of {len(runs)})")
    for name, parts in (("at", [ran.steps for ran in runs]), ("CPU", [ran.cpu for ran in runs])):
        for part in dict.fromkeys(key for each in parts for key in each):
            seconds = statistics.median(each.get(part, 0.0) for each in parts)
            print(f"  {name} {seconds:6.2f} s  {part}")


def imports(folder: Path) -> None:
    """Print what the driver's imports cost, by package: seconds under a profiler of imports."""
    words = ["run", str(folder / "study.toml"), "--out", str(folder / "out")]
    command = [sys.executable, "-X", "importtime", "-c", MAIN, *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    sums = collections.defaultdict[str, float](float)
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", ran.stderr, re.M):
        sums[name.partition(".")[0]] += int(own) / 1e6
    for package, seconds in sorted(sums.items(), key=lambda item: -item[1])[:20]:
        print(f"{seconds:6.2f} s  {package}")


if __name__ == "__main__":
    main()
