"""What each precision costs and gives: time and memory of a step, and test accuracy, of cohorts that
differ in precision alone.

rate: ms a member and step, the precisions in turn, so that a machine whose speed drifts slows all
of them; medians of the rounds. Memory is that of one more member. The images of Fashion-MNIST
(`--fashion`, the folder of its IDX files) are for those models that need them, which are left out
without.
accuracy: test accuracy, mean over seeds.

Needs torch, but neither Ray nor an installation: `make lint` leaves links in build/types that
PYTHONPATH may name.

    python benchmarks/precisions.py rate [--fashion FOLDER] [--rounds 7] [--device cpu]
    python benchmarks/precisions.py accuracy [--fashion FOLDER] [--seeds 5] [--epochs 40] [--arms ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

import hand
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task
from prunefront.trainables.training.memory import member_bytes

DIGITS: dict[str, Any] = {"batch_size": 32, "epochs": 8, "dense_share": 0.0}
FASHION: dict[str, Any] = {**DIGITS, "dataset": "idx", "train_share": 0.05, "epochs": 1}
RATES: tuple[tuple[str, dict[str, Any], int, int, float], ...] = (
    ("64-32-10", {**DIGITS, "model_options": {"widths": [32]}}, 64, 40, 1),
    ("64-300-100-10", {**DIGITS, "model_options": {"widths": [300, 100]}}, 8, 20, 1),
    ("784-300-100-10", {**FASHION, "model_options": {"widths": [300, 100]}}, 8, 8, 1),
    ("LeNet-5", {**FASHION, "model": "lenet5"}, 8, 4, 1),
    ("ResNet-8, width 2", {**FASHION, "model": "resnet", "model_options": {"depth": 8}}, 8, 1, 2),
)
"""Model, task, members, steps that are timed at once, width."""
ARMS: dict[str, dict[str, object]] = {
    "dense": {},
    "dns": {"sparsity": 0.8},
    "magnitude": {"sparsity": 0.8},
    "complexity_aware": {},
    "weedout": {"sparsity": 0.5, "candidates": 16},
}
"""Algorithm -> hyper-parameters."""


def rate(given: argparse.Namespace) -> None:
    """A line for each model that there are data for."""
    dense = find("dense")
    for label, keys, members, steps, width in RATES:
        if "dataset" in keys:
            if not given.fashion:
                continue
            keys = {**keys, "dataset_options": {"root": given.fashion}}
        hp = complete(dense.space, {"width": width})
        cohort = [Member(hp, seed) for seed in range(members)]
        tasks: dict[str, Task] = {}
        seconds: dict[str, list[float]] = {name: [] for name in given.precisions}
        for name in given.precisions:
            task = Task(precision=name, device=given.device, **keys)
            rungs = task.steps // steps  # so many steps from one to the next
            tasks[name] = dense.parent(dataclasses.replace(task, rungs=rungs), hp)
        states = {name: first_rung(task, cohort) for name, task in tasks.items()}
        for _ in range(given.rounds):
            for name, task in tasks.items():
                hand.synchronize(task.torch_device)
                begun = time.perf_counter()
                dense.advance(task, states[name])
                hand.synchronize(task.torch_device)
                seconds[name].append(time.perf_counter() - begun)
        for name, task in tasks.items():
            spent = 1e3 * statistics.median(seconds[name]) / steps / members
            memory = member_bytes(task, dense, cohort[0]) / 1e6
            print(f"{members} x {label}, {name}: {spent:.3f} ms a member and step, {memory:.2f} MB")


def first_rung(task: Task, cohort: Sequence[Member]) -> State:
    dense = find("dense")
    return dense.advance(task, dense.start(task, cohort))


def accuracy(given: argparse.Namespace) -> None:
    """A line for each algorithm and precision."""
    keys: dict[str, Any] = {"model_options": {"widths": [32]}}
    if given.fashion:
        keys = {"dataset": "idx", "dataset_options": {"root": given.fashion}, "model": "lenet5",
                "batch_size": 64, "lr": 0.02, "train_share": 0.2}  # fmt: skip
    for arm in given.arms:
        algorithm = find(arm)
        own = complete(algorithm.space, ARMS[arm])
        cohort = [Member(own, seed) for seed in range(given.seeds)]
        for name in given.precisions:
            task = Task(precision=name, device=given.device, epochs=given.epochs, rungs=1, **keys)
            task = algorithm.parent(task, own)
            state = algorithm.advance(task, algorithm.start(task, cohort))
            rows = measure(task, algorithm, state, last=True)
            scores = [100 * row["accuracy_test"] for row in rows]
            listed = " ".join(f"{score:.2f}" for score in scores)
            print(f"{arm}, {name}: {statistics.mean(scores):.2f} % ({listed})")


PARTS = {"rate": rate, "accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--fashion", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    PARTS[given.part](given)


if __name__ == "__main__":
    main()
