"""What a cohort costs: one member against a hand-written PyTorch loop, K members against K such
loops, and against the matrix products alone that K members need.

All train the same network on the same batches. They are timed in turn, so that a machine whose
speed drifts slows all. Prints milliseconds per member-step (median and range over rounds), the
share of a hand-written loop's, and how many times the limit's: the products of a step of K members,
forward, by weights and by inputs, each a batched product, and nothing else.

Needs torch, but neither Ray nor an installation: `make lint` leaves links in build/types that
PYTHONPATH may name.

    python benchmarks/step.py [--widths 32] [--members 64] [--steps 400] [--rounds 7] [--algorithm
    dense] [--compile] [--device cpu]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hand
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Algorithm, Member
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training import compiled

GOALS = {
    ((32,), 32): (4.0, 7.0),
    ((300, 100), 64): (2.0, 2.5),
}
"""Widths and batch -> times the limit that 64 members take at most, dense and masked."""
MASKED = ("dns", "magnitude")

Product = tuple[Tensor, Tensor, Tensor]
"""Two stacks of matrices, and where their products go."""


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


def products(task: Task, members: int) -> list[Product]:
    """The products of a step of `members` networks of linear layers."""
    layers = [part for part in task.template.modules() if isinstance(part, nn.Linear)]

    def numbers(*shape: int) -> Tensor:
        return torch.randn(members, *shape, device=task.torch_device)

    made: list[Product] = []
    for place, layer in enumerate(layers):
        weight = numbers(layer.out_features, layer.in_features)
        x = numbers(task.batch_size, layer.in_features)
        upstream = numbers(task.batch_size, layer.out_features)
        made.append((x, weight.mT, torch.empty_like(upstream)))
        made.append((upstream.mT, x, torch.empty_like(weight)))
        if place > 0:  # nobody asks for the gradient by the data
            made.append((upstream, weight, torch.empty_like(x)))
    return made


def limit(task: Task, steps: int, of_step: Sequence[Product]) -> float:
    """Seconds that the products of `steps` steps take."""
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    for _ in range(steps):
        for left, right, out in of_step:
            torch.bmm(left, right, out=out)
    hand.synchronize(task.torch_device)
    return time.perf_counter() - begun


def goal(task: Task, algorithm: str, members: int) -> str:
    """What is aimed at, in words; "" where nothing is."""
    if members != 64:
        return ""
    widths = tuple(task.model_options["widths"])
    aims = GOALS.get((widths, task.batch_size))
    if aims is None or algorithm not in ("dense", *MASKED):
        return ""
    most = aims[algorithm in MASKED]
    return f" (goal: {most:g})"


@dataclasses.dataclass
class Times:
    """Seconds for each member, by round."""

    loop: list[float]
    cohorts: dict[int, list[float]]
    limits: dict[int, list[float]]


def timed(task: Task, algorithm: Algorithm, given: argparse.Namespace) -> Times:
    """All of them, in turn."""
    sizes = [1, *given.members]
    of_step = {size: products(task, size) for size in sizes}
    hand_loop(task, given.steps)  # not counted
    for size in sizes:
        cohort(task, algorithm, size)
        limit(task, 3, of_step[size])
    times = Times([], {size: [] for size in sizes}, {size: [] for size in sizes})
    for _ in range(given.rounds):
        times.loop.append(hand_loop(task, given.steps))
        for size in sizes:
            times.cohorts[size].append(cohort(task, algorithm, size) / size)
            times.limits[size].append(limit(task, given.steps, of_step[size]) / size)
    return times


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Of what was timed in the same rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def said(name: str, seconds: Sequence[float], steps: int) -> str:
    """Milliseconds of a member and step, in words."""
    each = [1e3 * s / steps for s in seconds]
    spread = f"{min(each):.4f} to {max(each):.4f}"
    return f"{name:>20}: {statistics.median(each):.4f} ms per member-step ({spread})"


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
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = Task(
        model_options={"widths": given.widths},
        batch_size=given.batch_size,
        device=given.device,
        compile=given.compile,
        rungs=1,
    )
    algorithm = find(given.algorithm)
    share = 1 - task.dense_share * algorithm.from_dense
    task = dataclasses.replace(task, epochs=given.steps / task.steps_per_epoch / share)
    times = timed(task, algorithm, given)
    if refusal := compiled.refusal():
        print(f"not compiled: {refusal}")
    how = "compiled" if given.compile else "eager"
    where = torch.cuda.get_device_name() if given.device == "cuda" else "CPU, one thread"
    print(
        f"{given.algorithm}, {how}, MLP {given.widths}, batch {given.batch_size}, {given.steps} steps, {where}"
    )
    print(said("hand-written loop", times.loop, given.steps))
    for size, seconds in times.cohorts.items():
        print(said(f"limit of {size}", times.limits[size], given.steps))
        of_loop = median_ratio(seconds, times.loop)
        of_limit = median_ratio(seconds, times.limits[size])
        aim = goal(task, given.algorithm, size)
        print(
            f"{said(f'cohort of {size}', seconds, given.steps)}, {of_loop:.3f} of a hand-written loop, {of_limit:.2f} times the limit{aim}"
        )


if __name__ == "__main__":
    main()
