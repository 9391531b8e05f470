"""Dynamic Network Surgery as its authors run it: compression, and error beside the dense network.

    python benchmarks/surgery.py digits [--seeds 5]
    python benchmarks/surgery.py fashion --root /usr/share/datasets/fashion-mnist [--seeds 3]

digits: 64-300-100-10, the paper's c = 5, 3, 3 and c = 2, 2, 2, 2500 dense steps and 4000 of
surgery. fashion: LeNet-300-100 on Fashion-MNIST, c = 5, 3, 3 and c = 2, 2, 2, and sparsities, with
as many dense steps as of surgery. Dense networks train on for as many steps in all.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task

Row = Mapping[str, Any]
SETTINGS: Mapping[str, Sequence[dict[str, Any]]] = {
    "digits": [{"c": [5, 3, 3]}, {"c": [2, 2, 2]}],
    "fashion": [
        {"c": [5, 3, 3]},
        {"c": [2, 2, 2]},
        {"sparsity": 0.9},
        {"sparsity": 0.98, "growth": "first half"},
    ],
}


def task_of(which: str, root: str, dense: int, surgery: int) -> Task:
    """MLP with 300 and 100 hidden units, and a budget of so many steps."""
    common: dict[str, Any] = {
        "model_options": {"widths": [300, 100]},
        "batch_size": 64,
        "lr": 0.05 if which == "digits" else 0.01,
        "schedule": "inverse",
        "weight_decay": 5e-4,
        "rungs": 1,
        "dense_share": dense / (dense + surgery),
    }
    if which == "digits":
        task = Task(**common)
    else:
        task = Task("idx", dataset_options={"root": root}, **common)
    return dataclasses.replace(task, epochs=(dense + surgery) / task.steps_per_epoch)


def trained(name: str, settings: Sequence[dict[str, Any]], task: Task, seeds: int) -> list[Row]:
    """Last rows of the members of all settings, a setting's seeds after each other."""
    algorithm = find(name)
    rows: list[Row] = []
    for hp in settings:
        members = [Member(complete(algorithm.space, hp), seed) for seed in range(seeds)]
        state = algorithm.advance(task, algorithm.start(task, members))
        rows += measure(task, algorithm, state, last=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=tuple(SETTINGS))
    parser.add_argument("--root", default="/usr/share/datasets/fashion-mnist")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--dense", type=int, default=2500)
    parser.add_argument("--surgery", type=int, default=4000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = task_of(given.data, given.root, given.dense, given.surgery)
    begun = time.perf_counter()
    dense = trained("dense", [{}], task, given.seeds)
    print(f"dense: error {_error(dense)} %, {time.perf_counter() - begun:.0f} s")
    print("| setting | compression | error % | minus dense, points | returned | s |")
    print("|---|---|---|---|---|---|")
    for hp in SETTINGS[given.data]:
        begun = time.perf_counter()
        rows = trained("dns", [hp], task, given.seeds)
        spent = time.perf_counter() - begun
        times = [row["params_dense"] / row["params_kept"] for row in rows]
        pairs = zip(dense, rows, strict=True)
        more = [100 * (d["accuracy_test"] - row["accuracy_test"]) for d, row in pairs]
        returned = np.mean([row["m_returned"] for row in rows])
        print(
            f"| {hp} | {np.mean(times):.1f} ({min(times):.1f} to {max(times):.1f}) "
            f"| {_error(rows)} | {np.mean(more):+.2f} ± {np.std(more, ddof=1):.2f} "
            f"| {returned:.2f} | {spent:.0f} |"
        )


def _error(rows: Sequence[Row]) -> str:
    errors = [100 * (1 - row["accuracy_test"]) for row in rows]
    return f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f}"


if __name__ == "__main__":
    main()
