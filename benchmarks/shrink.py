"""What shrinking saves: a complexity-aware run against a dense run of the same network for as many
epochs, in one process.

The two are advanced rung by rung in turn, so that a machine whose speed drifts slows both. Prints
seconds, their ratio at each rung, FLOPs left, accuracies, and the certificate, with m (steps
between updates of gates) and k (flips in one). Measuring at rungs is not timed; the certificate and
the audits are.

Needs torch, but neither Ray nor an installation: `make lint` leaves links in build/types that
PYTHONPATH may name. CIFAR-10 in Parquet is found through PRUNEFRONT_DATA; without --cifar10 the
images are scikit-learn's digits.

    python benchmarks/shrink.py [--cifar10] [--model resnet20] [--steps 2000] [--members 1] [--nu 1]
    [--device cpu]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time

import torch

import hand
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import evaluate
from prunefront.trainables.measure.removed import compression
from prunefront.trainables.task import Task


def advanced(task: Task, algorithm: Algorithm, state: State) -> tuple[State, float]:
    """The state at the next rung, and the seconds it took."""
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    state = algorithm.advance(task, state)
    hand.synchronize(task.torch_device)
    return state, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", action="store_true")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--rungs", type=int, default=8)
    parser.add_argument("--nu", type=float, default=1.0)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--interval", type=int, default=4)
    parser.add_argument("--flips", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--audit", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    parquet = {
        name: f"{os.environ.get('PRUNEFRONT_DATA', '')}/cifar10-{name}.parquet"
        for name in ("train", "test")
    }
    task = Task(
        dataset="parquet" if given.cifar10 else "digits",
        dataset_options=parquet if given.cifar10 else {},
        model=given.model,
        batch_size=given.batch_size,
        lr=0.1,
        weight_decay=5e-4,
        augment=("crop", "flip") if given.cifar10 else (),
        rungs=given.rungs,
        device=given.device,
    )
    task = dataclasses.replace(task, epochs=given.steps / task.steps_per_epoch)
    print(f"{given.model}, {given.members} members, {task.steps} steps of {task.batch_size}, {given.device}, "
          f"{given.threads} threads, m = {given.interval}, k = {given.flips}, nu = {given.nu:g}", flush=True)  # fmt: skip
    dense, aware = find("dense"), find("complexity_aware")
    own = {
        name: getattr(given, name) for name in ("nu", "beta", "interval", "flips", "share", "audit")
    }
    states = {
        algorithm: algorithm.start(
            task, [Member(complete(algorithm.space, hp), seed) for seed in range(given.members)]
        )
        for algorithm, hp in ((dense, {}), (aware, own))
    }
    spent = dict.fromkeys(states, 0.0)
    for rung in range(1, task.rungs + 1):
        for algorithm in states:
            states[algorithm], seconds = advanced(task, algorithm, states[algorithm])
            spent[algorithm] += seconds
        kept = aware.networks(task, states[aware]).kept
        left = compression(task.structure, task.counts, kept)["flops_shrunk"] / task.counts.flops
        print(f"rung {rung}: dense {spent[dense]:.1f} s, complexity-aware {spent[aware]:.1f} s, ratio "
              f"{spent[aware] / spent[dense]:.2f}; FLOPs left {words(left)}", flush=True)  # fmt: skip
    for name, algorithm in (("dense", dense), ("complexity-aware", aware)):
        print(
            f"{name}: test accuracy {words(evaluate(task, algorithm.networks(task, states[algorithm]), 'test')[1])}"
        )
    print(f"certificate {words(aware.networks(task, states[aware]).metrics['certificate'])}")


def words(values: torch.Tensor) -> str:
    """One number for each member."""
    return ", ".join(f"{value:.3f}" for value in values.tolist())


if __name__ == "__main__":
    main()
