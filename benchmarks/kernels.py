"""What a GPU would be asked to do: operations and waits of the host, for each algorithm on three
networks, counted on a pretend GPU (tests/pretend_cuda.py). Needs none, and times nothing.

An operation is one of torch's that launches work on the device, one kernel or several. In a wait
the host stands still until the device has done all that it was asked for: for a value, or for a
copy. A run has two rungs, and STEPS in all: iterations of ADMM for CRONOS, training steps for
others. Operations a step are the difference between such a run and one of twice the steps. Waits
are counted in a rung of either run, and in what is done beside: at the start, in measuring, and
when a state is saved, loaded and selected.

    python benchmarks/kernels.py [--steps 12] [--members 4] [--algorithms dense dns] [--networks
    mlp] [--out FILE] [--before FILE]

--out writes the counts as JSON; --before reads what an older version counted, and prints both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import find, known
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.data.readers import digits
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from pretend_cuda import PretendGpu, counted

NETWORKS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"widths": [60, 20]}),
    "lenet5": ("lenet5", {"width": 0.25}),
    "resnet8": ("resnet", {"depth": 8, "width": 0.25}),
}
"""Narrow ones: the counts do not depend on widths."""
OPTIONS: Mapping[str, dict[str, Any]] = {
    "complexity_aware": {"interval": 4, "warmup": 0.0, "settle": 1.0, "audit": 32},
    "weedout": {"candidates": 16, "examples": 64},
}
"""Hyper-parameters that are not the defaults. Gates are learnt in every fourth step."""
RUNGS = 2
COLUMNS = {
    "operations": "operations a step",
    "rung": "waits a rung",
    "longer": "of twice the steps",
    "start": "at the start",
    "measure": "in measuring",
    "save": "in saving",
    "load": "loading",
    "select": "selecting",
}
"""What is counted; all but the first are waits."""

Counts = dict[str, float]
"""Of an algorithm on a network, by the names of `COLUMNS`."""


@dataclasses.dataclass
class Run:
    """What a run came to. operations, waits: of its two rungs together; the others are waits."""

    operations: int
    waits: int
    start: int
    measure: int
    save: int
    load: int
    select: int


def run(gpu: PretendGpu, task: Task, algorithm: Algorithm, members: list[Member]) -> Run:
    """Start, two rungs, and what is done with the state then."""

    def waits(work: Callable[[], Any]) -> tuple[Any, int]:
        with counted(gpu) as (waited, _):
            result = work()
        return result, waited.total()

    state, at_start = waits(lambda: algorithm.start(task, members))
    with counted(gpu) as (waited, launched):
        for _ in range(task.rungs):
            state = algorithm.advance(task, state)
    _, measuring = waits(lambda: measure(task, algorithm, state, last=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        _, saving = waits(lambda: state.save(path))
        _, loading = waits(lambda: State.load(path, task.torch_device))
    half = range(0, len(members), 2)
    _, selecting = waits(lambda: state.select(list(half)))
    return Run(
        operations=launched.total(),
        waits=waited.total(),
        start=at_start,
        measure=measuring,
        save=saving,
        load=loading,
        select=selecting,
    )


def write_images(path: Path) -> None:
    """Digits of twice their size, which LeNet-5 takes: 256 for training."""
    small, labels = digits()["train"]
    images = np.kron(np.asarray(small), np.ones((1, 1, 2, 2)))
    ends = {"train": 256, "valid": 320, "test": 384}
    arrays: dict[str, np.ndarray] = {}
    begin = 0
    for split, end in ends.items():
        arrays[f"x_{split}"] = images[begin:end]
        arrays[f"y_{split}"] = np.asarray(labels)[begin:end]
        begin = end
    np.savez(path, **arrays)  # type: ignore[arg-type]


def planned(
    task: Task,
    name: str,
    steps: int,
    count: int,
) -> tuple[Task, Algorithm, list[Member]] | None:
    """The task as an algorithm has it for so many steps, and its members; None if it refuses it, or
    trains another network than the task's, which the MLP's table has.
    """
    algorithm = find(name)
    task = dataclasses.replace(task, epochs=steps / task.steps_per_epoch)
    given = dict(OPTIONS.get(name, {}))
    if "iterations" in algorithm.space:
        given["iterations"] = steps
    hp = complete(algorithm.space, given)
    if algorithm.skip(task):
        return None
    try:
        parent = algorithm.parent(task, hp)
        algorithm.check(parent, hp)
    except Mistake:
        return None
    if parent.model != task.model:
        return None
    members = [Member(hp, seed) for seed in range(count)]
    return parent, algorithm, members


def counts(task: Task, name: str, steps: int, count: int) -> Counts | None:
    """Of an algorithm on the network of a task; None as from `planned`."""
    runs: list[Run] = []
    for length in (steps, steps, 2 * steps):  # the first one finds out about the model, too
        with PretendGpu() as gpu:
            plan = planned(task, name, length, count)
            if plan is None:
                return None
            parent, algorithm, members = plan
            one_run = run(gpu, parent, algorithm, members)
            runs.append(one_run)
    _, short, long = runs
    return {
        "operations": (long.operations - short.operations) / steps,
        "start": short.start,
        "rung": short.waits / RUNGS,
        "longer": long.waits / RUNGS,
        "measure": short.measure,
        "save": short.save,
        "load": short.load,
        "select": short.select,
    }


def cell(name: str, found: Counts, before: Counts | None) -> str:
    """One number of the table, after what it was before."""
    now = f"{found[name]:.4g}"
    if before is None:
        return now
    was = f"{before[name]:.4g}"
    return now if was == now else f"{was} → {now}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--algorithms", nargs="+", default=list(known()))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--out", type=Path, help="where the counts are written, as JSON")
    parser.add_argument("--before", type=Path, help="counts of an older version")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npz"
        write_images(images)
        report(given, images)


def report(given: argparse.Namespace, images: Path) -> None:
    """Count, and print a table for each network."""
    before = json.loads(given.before.read_text()) if given.before else {}
    everything: dict[str, dict[str, Counts]] = {}
    for network in given.networks:
        everything[network] = {}
        model, options = NETWORKS[network]
        task = Task(
            "npz",
            model,
            path=str(images),
            device="cuda",
            rungs=RUNGS,
            dense_share=0.0,
            batch_size=8,
            **options,
        )
        print(f"\n{network}, {given.members} members, {given.steps} steps\n")
        print(f"| | {' | '.join(COLUMNS.values())} |")
        print(f"|---|{'---|' * len(COLUMNS)}")
        for name in given.algorithms:
            found = counts(task, name, given.steps, given.members)
            if found is None:
                continue
            everything[network][name] = found
            was = before.get(network, {}).get(name)
            cells = [cell(column, found, was) for column in COLUMNS]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if given.out:
        given.out.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
