"""Scale: members that train nothing, planned, run and recorded by the driver; beside them plain
Tune with reused actors.

For each number of members: planning alone, the whole run, the same command again when all is done,
the report; each in a process of its own. Prints seconds, members a second, the peak of the driver's
memory and that after its imports, and bytes.

    python benchmarks/scale.py --sizes 1000 10000 100000 --plain 1000 10000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SLOTS = 2
"""Cohorts, or plain trials, at a time."""
STUDY = """
[study]
name = "scale"
seeds = [0]
keep = "none"
[task]
widths = [1]
epochs = 1
rungs = 1
[[arm]]
algorithm = "problems.Pair"
sampler = "random"
members = {members}
space.x0 = {{low = 0, high = 1}}
space.x1 = {{low = 0, high = 1}}
"""


def memory(of: str) -> float:
    """MB of this process: `VmRSS`, what it takes now, or `VmHWM`, the most that it took."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{of}:")) / 1024


def plan(folder: Path) -> dict[str, float]:
    """Planning into an empty folder, without Ray."""
    from prunefront.search.plan import generations
    from prunefront.search.study import parse

    found = parse.read(folder / "study.toml")
    return clocked(lambda: _planned(generations.Plan(found, folder / "planned", SLOTS)))


def _planned(planned: Any) -> None:
    planned.open()
    planned.grow(lambda arm, number, count: [])


def run(folder: Path) -> dict[str, float]:
    """The driver, as `prunefront run` calls it but for the report. ray: seconds that Ray's start
    and end took.
    """
    from prunefront.search.console import Console
    from prunefront.search.drive import cluster
    from prunefront.search.drive import run as driver
    from prunefront.search.study import parse

    taken, local_ray = [0.0], cluster.local_ray

    @contextlib.contextmanager
    def started(*given: Any) -> Iterator[None]:
        begun = time.perf_counter()
        with local_ray(*given):
            taken[0] += time.perf_counter() - begun
            yield
            begun = time.perf_counter()
        taken[0] += time.perf_counter() - begun

    cluster.local_ray = started
    found = parse.read(folder / "study.toml")
    codes: list[int] = []
    facts = clocked(lambda: codes.append(driver.run(found, folder / "run", Console(stderr=True))))
    assert codes == [0], codes
    return {**facts, "ray": taken[0]}


def report(folder: Path) -> dict[str, float]:
    """The report of what was run."""
    from prunefront.analysis import report

    return clocked(lambda: report.build(folder / "run"))


def plain(folder: Path, size: int) -> dict[str, float]:
    """The same members as trials of plain Tune: actors reused, no file loggers, as the driver sets
    them.
    """
    import problems
    from prunefront.search.drive import cluster  # which sets Ray up, and comes before it

    import torch  # isort: skip
    from ray import tune  # isort: skip

    class Trial(tune.Trainable):
        def setup(self, config: dict[str, float]) -> None:
            self.x = torch.tensor([config["x0"], config["x1"]], dtype=torch.float64)

        def reset_config(self, new_config: dict[str, float]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            first, second = problems.Pair.values(self.x).tolist()
            return {"f1": first, "f2": second, "done": True}

    counted: list[int] = []

    def fit() -> None:
        found = tune.Tuner(
            tune.with_resources(Trial, {"cpu": 1}),
            param_space={"x0": tune.uniform(0, 1), "x1": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(
                num_samples=size, max_concurrent_trials=SLOTS, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                storage_path=str(folder / "tune"),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
            ),
        ).fit()
        counted.append(
            sum(result.metrics is not None and "f2" in result.metrics for result in found)
        )

    begun = time.perf_counter()
    with cluster.local_ray(folder, SLOTS):
        start = time.perf_counter() - begun
        facts = clocked(fit)
    assert counted == [size], counted
    return {**facts, "seconds": facts["seconds"] + start, "ray": start}


def clocked(function: Callable[[], object]) -> dict[str, float]:
    """Seconds and memory of a call: imported, before it; peak, until its end."""
    before, begun = memory("VmRSS"), time.perf_counter()
    function()
    return {"seconds": time.perf_counter() - begun, "imported": before, "peak": memory("VmHWM")}


def apart(part: str, folder: Path, size: int) -> dict[str, float]:
    """What a part of this file says of itself in a process of its own."""
    here = Path(__file__).resolve()
    path = os.pathsep.join(filter(None, [str(here.parent), os.environ.get("PYTHONPATH")]))
    said = subprocess.run(
        [sys.executable, str(here), "--part", part, "--folder", str(folder), "--sizes", str(size)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(said.stdout.splitlines()[-1])


def size_of(folder: Path) -> float:
    """MB of the files right in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*")) / 1e6


def line(size: int, what: str, facts: dict[str, float], more: str = "") -> None:
    seconds, ray = facts["seconds"], facts.get("ray", 0.0)
    rates = f"{size / seconds:8.0f} members/s" + (
        f", {size / (seconds - ray):8.0f} without Ray's start and end" if ray else ""
    )
    print(
        f"{size:7d} {what:8s} {seconds:7.1f} s {rates}; MB {facts['peak']:.0f} (+{facts['peak'] - facts['imported']:.0f})"
        f"{more}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="*",
        default=[1_000, 10_000, 100_000],
        help="members, by the driver",
    )
    parser.add_argument(
        "--plain", type=int, nargs="*", default=[1_000, 10_000], help="members, by plain Tune"
    )
    parser.add_argument(
        "--reports",
        type=int,
        nargs="*",
        default=[1_000],
        help="sizes of which a report is written too",
    )
    parser.add_argument(
        "--part",
        choices=["plan", "run", "report", "plain"],
        help="only this, of --folder; prints JSON",
    )
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.part == "plain":
        print(json.dumps(plain(given.folder, given.sizes[0])))
        return
    if given.part:
        print(json.dumps({"plan": plan, "run": run, "report": report}[given.part](given.folder)))
        return
    for size in given.sizes:
        folder = Path(tempfile.mkdtemp(prefix="scale-"))
        try:
            (folder / "study.toml").write_text(STUDY.format(members=size))
            line(
                size,
                "plan",
                apart("plan", folder, size),
                f"; plan/ {size_of(folder / 'planned' / 'plan'):.1f} MB",
            )
            line(
                size,
                "run",
                apart("run", folder, size),
                f"; rows/ {size_of(folder / 'run' / 'rows'):.1f} MB",
            )
            line(size, "again", apart("run", folder, size))
            if size in given.reports:
                line(size, "report", apart("report", folder, size))
        finally:
            shutil.rmtree(folder)
    for size in given.plain:
        folder = Path(tempfile.mkdtemp(prefix="scale-"))
        try:
            line(size, "Tune", apart("plain", folder, size))
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
