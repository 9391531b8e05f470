"""What a cohort costs: one member against a hand-written PyTorch loop, and K members against K such
loops.

Both train the same network on the same batches. The two are timed in turn, so that a machine whose
speed drifts slows both. Prints milliseconds per member-step (median and range over rounds) and the
ratios.

Needs torch, but neither Ray nor an installation: `make lint` leaves links in build/types that
PYTHONPATH may name.

    python benchmarks/step.py [--widths 32] [--members 64] [--steps 400] [--rounds 7] [--algorithm
    dense] [--device cpu]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import torch
import torch.nn.functional as F

import hand
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Algorithm, Member
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task


def hand_loop(task: Task, steps: int) -> float:
    """Seconds that a plain eager training loop takes, as a good user writes it."""
    model, data = task.build(0).train(), task.data
    x, y = data.inputs["train"], data.labels["train"]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=task.lr, momentum=task.momentum, weight_decay=task.weight_decay
    )
    order = torch.randperm(len(y), device=y.device)
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    for step in range(steps):
        place = step % task.steps_per_epoch
        if place == 0:
            order = torch.randperm(len(y), device=y.device)
        rows = order[place * task.batch_size : (place + 1) * task.batch_size]
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    hand.synchronize(task.torch_device)
    return time.perf_counter() - begun


def cohort(task: Task, algorithm: Algorithm, members: int) -> float:
    """Seconds that `members` members take together, from the start of training to its end."""
    hp = complete(algorithm.space, {})
    state = algorithm.start(task, [Member(hp, seed) for seed in range(members)])
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    algorithm.advance(task, state)
    hand.synchronize(task.torch_device)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[32])
    parser.add_argument("--members", type=int, nargs="+", default=[64])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--algorithm", default="dense")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = Task(
        model_options={"widths": given.widths},
        batch_size=given.batch_size,
        device=given.device,
        rungs=1,
    )
    algorithm = find(given.algorithm)
    share = 1 - task.dense_share * algorithm.from_dense
    task = dataclasses.replace(task, epochs=given.steps / task.steps_per_epoch / share)
    sizes = [1, *given.members]
    times: dict[int, list[float]] = {size: [] for size in [0, *sizes]}
    hand_loop(task, given.steps)  # not counted
    cohort(task, algorithm, 1)
    for _ in range(given.rounds):
        times[0].append(hand_loop(task, given.steps))
        for size in sizes:
            times[size].append(cohort(task, algorithm, size) / size)
    where = torch.cuda.get_device_name() if given.device == "cuda" else "CPU, one thread"
    print(
        f"{given.algorithm}, MLP {given.widths}, batch {given.batch_size}, {given.steps} steps, {where}"
    )
    for size, seconds in times.items():
        each = [1e3 * s / given.steps for s in seconds]
        ratio = statistics.median(a / b for a, b in zip(seconds, times[0], strict=True))
        name = "hand-written loop" if size == 0 else f"cohort of {size}"
        spread = f"{min(each):.4f} to {max(each):.4f}"
        print(
            f"{name:>20}: {statistics.median(each):.4f} ms per member-step ({spread}), {ratio:.3f} of a hand-written loop"
        )


if __name__ == "__main__":
    main()
