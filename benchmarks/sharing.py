"""Processes that share a device, each with one hand-written loop of Dynamic Network Surgery,
against one cohort. No Ray.

That is what Tune's fractional GPUs give, but for Tune's own costs. Each trains from initial weights
and measures nothing; the time begins when all processes are warm. Prints members per minute of both
and their ratio.

    python benchmarks/sharing.py --device cuda --processes 16 --members 512 --task '{"dataset": "parquet", "dataset_options":
        {"train": "train.parquet", "test": "test.parquet"}, "model": "mlp", "batch_size": 64}'
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from typing import Any

import torch
from torch import multiprocessing

import hand
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task

WARM = 50
"""Steps before the clock is looked at."""


def hand_loop(task: Task, seed: int, steps: int) -> None:
    """One network, as a good user trains it; returns when the device is done."""
    given = {
        name: getattr(task, name)
        for name in ("rungs", "batch_size", "lr", "momentum", "weight_decay")
    }
    x, y = next(task.data.parts("train", 1 << 30))
    for _ in hand.surgery(task.build(seed), x, y, 0.9, steps=steps, **given):
        pass
    hand.synchronize(task.torch_device)


def process(task: Task, seed: int, barrier: Any) -> None:
    """One of the processes: the barrier is met before and after its training."""
    torch.set_num_threads(1)
    hand_loop(task, seed, WARM)
    barrier.wait()
    hand_loop(task, seed, task.steps)
    barrier.wait()


def shared(task: Task, processes: int) -> float:
    """Seconds for each member when `processes` processes train at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    started = [
        context.Process(target=process, args=(task, seed, barrier), daemon=True)
        for seed in range(processes)
    ]
    for each in started:
        each.start()
    barrier.wait(600)
    begun = time.perf_counter()
    barrier.wait(3600)
    seconds = time.perf_counter() - begun
    for each in started:
        each.join()
    return seconds / processes


def cohort(task: Task, members: int, steps: int) -> float:
    """Seconds for each member when one cohort of `members` trains."""
    dns, short = find("dns"), dataclasses.replace(task, epochs=steps / task.steps_per_epoch)
    state = dns.start(short, [Member(complete(dns.space, {}), seed) for seed in range(members)])
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    dns.advance(short, state)
    hand.synchronize(task.torch_device)
    return (time.perf_counter() - begun) / members


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--members", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--task",
        type=json.loads,
        default={},
        help="JSON: fields of the task beside its device and budget",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = Task(**given.task, device=given.device, dense_share=0.0, rungs=1)
    task = dataclasses.replace(task, epochs=given.steps / task.steps_per_epoch)
    cohort(task, given.members, WARM)
    pairs = [
        (shared(task, given.processes), cohort(task, given.members, task.steps))
        for _ in range(given.rounds)
    ]
    apart, together = (60 / statistics.median(column) for column in zip(*pairs, strict=True))
    where = torch.cuda.get_device_name() if given.device == "cuda" else "CPU, one thread each"
    print(
        f"dns, {task.model}, {task.dataset}, batch {task.batch_size}, {task.steps} steps, {where}, median of {given.rounds}"
    )
    print(f"{given.processes} processes: {apart:.1f} members a minute")
    print(
        f"cohort of {given.members}: {together:.1f} members a minute, {together / apart:.2f} times as many"
    )


if __name__ == "__main__":
    main()
