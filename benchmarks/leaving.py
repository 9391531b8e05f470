"""What leaves is what was measured: every kept network of studies, physically smaller, held against
its row.

For each member of an output folder whose network was kept (`keep = "all"` keeps each), the network
that `load_shrunk` gives is measured again: right answers on the test split against the row's
accuracy, in the row's precision, FLOPs and parameters against the row's, to the digit. Without
folders, models that are unlike each other are trained first, with arms that remove weights, units
and blocks, without Ray.

    python benchmarks/leaving.py [STUDY.toml FOLDER]... [--epochs 1] [--models 99]
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.data.dataset import Data
from prunefront.trainables.domain import complete
from prunefront.trainables.measure import flops
from prunefront.trainables.measure.members import EXAMPLES
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.networks import kept_members, load_shrunk
from prunefront.trainables.records.training import Training
from prunefront.trainables.task import Task

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

MODELS = [
    "normed",
    "refused",
    "residual",
    "odd",
    "padded",
    "dropping",
    "written",
    "scaled",
    "bottleneck",
]
"""Of tests/example_models.py."""
BUILT_IN: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"widths": [20, 12]}),
    ("residual_mlp", {"units": 16, "hidden": 12, "blocks": 3}),
    ("resnet", {"depth": 8, "width": 0.5}),
]
ARMS: list[tuple[str, list[dict[str, Any]]]] = [
    ("dns", [{"sparsity": 0.5}, {"sparsity": 0.9}]),
    (
        "chance",
        [{"sparsity": s, "granularity": g} for s in (0.5, 0.9, 0.98) for g in ("weight", "node")],
    ),
    ("l1_filters", [{"sparsity": 0.5}, {"sparsity": 0.9}]),
    ("group_lasso", [{"penalty": 0.003}, {"penalty": 0.03}]),
    ("complexity_aware", [{"nu": 0.01}, {"nu": 1.0}]),
]


@torch.no_grad()
def right(network: torch.nn.Module, data: Data) -> int:
    """Right answers on the test split."""
    total = 0
    for x, labels in data.parts("test", EXAMPLES):
        total += int((network(x).argmax(1) == labels).sum())
    return total


def faults(task: Task, folder: Path) -> tuple[int, list[str]]:
    """How many kept networks there are, and a line for each that is not its row's."""
    rows = table.last(table.read(folder)).set_index("member")
    examples = len(task.data.labels["test"])
    lines: list[str] = []
    members = sorted(kept_members(folder))
    for member in members:
        row = rows.loc[member]
        network = load_shrunk(folder, member)
        got = right(network, task.data)
        wanted = round(row["accuracy_test"] * examples)
        if got != wanted:
            lines.append(
                f"{row['arm']} {row['hp']} {member}: {got} of {examples} right, {wanted} in the row"
            )
        counts = flops.count(network, task.data.shape)
        told = tuple(row[["flops_shrunk", "params_shrunk"]].astype(int))
        if (counts.flops, counts.params) != told:
            lines.append(
                f"{row['arm']} {row['hp']} {member}: {counts.flops, counts.params}, {told} in the row"
            )
    return len(members), lines


def odd(epochs: float, models: int, scratch: Path) -> Iterator[tuple[str, Task, Path]]:
    """Studies of models that are unlike each other: name, task, folder."""
    named = [(f"example_models.{name}", {}) for name in MODELS] + BUILT_IN
    for model, options in named[:models]:
        task = Task(model=model, model_options=options, epochs=epochs, rungs=1, device="cpu")
        folder = scratch / model
        for name, settings in ARMS:
            algorithm = find(name)
            for place, hp in enumerate(settings):
                members = tuple(Member(complete(algorithm.space, hp), seed) for seed in (0, 1))
                try:
                    for member in members:
                        algorithm.check(task, member.hp)
                    if algorithm.skip(task) is None:
                        Training(
                            folder,
                            model,
                            task,
                            Cohort(f"{name}-{place}", name, name, members),
                            keep=True,
                        ).advance()
                except Mistake:
                    continue  # this model has nothing for this arm to remove
        yield model, task, folder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("studies", nargs="*", help="a study file and its output folder, and so on")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--models", type=int, default=99)
    given = parser.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, task, folder in (
            studies(given.studies)
            if given.studies
            else odd(given.epochs, given.models, Path(scratch))
        ):
            count, lines = faults(task, folder)
            wrong += len(lines)
            print(f"{name}: {count} networks, {len(lines)} faults", flush=True)
            print("".join(f"    {line}\n" for line in lines[:5]), end="")
    return int(wrong > 0)


def studies(places: list[str]) -> Iterator[tuple[str, Task, Path]]:
    """Studies that were run: name, task, folder."""
    from prunefront.search.study import parse as reading

    for path, folder in zip(places[::2], places[1::2], strict=True):
        read = reading.read(Path(path))
        yield read.about.name, dataclasses.replace(read.task, device="cpu"), Path(folder)


if __name__ == "__main__":
    sys.exit(main())
