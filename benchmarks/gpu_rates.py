"""Part of benchmarks/gpu.py: steps a second of all members together, of cohorts and of processes
that share the device; what a step asks of the device; Weedout's scoring and CRONOS' path.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import multiprocessing

import hand
import path
import scoring
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training import compiled

ALGORITHMS = ("dense", "dns", "complexity_aware")
OPTIONS: Mapping[str, dict[str, Any]] = {
    "complexity_aware": {"warmup": 0.0, "settle": 1.0, "nu": 1e-6}
}
"""Gates are learnt all the time that is measured, and nothing goes, so that all steps are alike."""
WAYS: Mapping[str, dict[str, Any]] = {
    "eager": {"compile": False},
    "compiled": {"compile": True},
    "compiled, bf16": {"compile": True, "precision": "bf16"},
}
SPARSITY = 0.9
WARM = 20
"""Steps of a process before the clock is looked at."""

Left = Callable[[], float]
"""Seconds that a part still has."""
Found = Iterator[tuple[str, Any]]
"""What was measured, and its result."""


@dataclasses.dataclass(frozen=True)
class Network:
    """members: numbers in a cohort, the most telling first.  steps: of a rung.  alone: of a process.
    longest: seconds that compiling a cohort is expected to take at most.
    """

    keys: Mapping[str, Any]
    members: Sequence[int]
    steps: int
    alone: int
    longest: float

    def task(self, device: str, **keys: Any) -> Task:
        fixed: dict[str, Any] = {"batch_size": 64, "dense_share": 0.0, "together": 0}
        return Task("hand.images", device=device, **fixed, **self.keys, **keys)


NETWORKS: Mapping[str, Network] = {
    "lenet300": Network(
        {"model": "mlp", "widths": [300, 100]}, (64, 512, 256, 128), 100, 4000, 60.0
    ),
    "lenet5": Network({"model": "lenet5"}, (64, 8, 32, 16), 40, 2000, 60.0),
    "resnet20": Network(
        {"model": "resnet", "depth": 20, "size": 32, "channels": 3}, (32, 8, 64, 16), 20, 500, 120.0
    ),
}
TINY: Mapping[str, Network] = {
    "lenet300": Network({"model": "mlp", "widths": [8], "size": 8, "count": 256}, (2,), 2, 4, 0.0),
    "lenet5": Network({"model": "lenet5", "width": 0.1, "count": 128}, (2,), 2, 4, 0.0),
    "resnet20": Network(
        {"model": "resnet", "depth": 8, "width": 0.25, "size": 8, "count": 128}, (2,), 2, 4, 0.0
    ),
}
PROCESSES = (16, 1, 8, 4)
ROUNDS = 5


# ---- cohorts


def started(task: Task, name: str, count: int) -> tuple[Algorithm, State]:
    """Members of a task, before their first step."""
    algorithm = find(name)
    hp = complete(algorithm.space, OPTIONS.get(name, {}))
    return algorithm, algorithm.start(task, [Member(hp, seed) for seed in range(count)])


def advanced(task: Task, algorithm: Algorithm, state: State) -> tuple[float, State]:
    """Seconds to the next rung."""
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    state = algorithm.advance(task, state)
    hand.synchronize(task.torch_device)
    return time.perf_counter() - begun, state


def rate(task: Task, name: str, count: int, steps: int, left: Left) -> dict[str, Any]:
    """Steps a second of all members together; the first rung, with what is compiled, apart.

    Of a training twice as long, for masks no longer change near the end of one.
    """
    compiled.forget()
    rungs = 2 * (ROUNDS + 1)
    task = dataclasses.replace(task, rungs=rungs, epochs=rungs * steps / task.steps_per_epoch)
    algorithm, state = started(task, name, count)
    if task.torch_device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, state = advanced(task, algorithm, state)
    rates: list[float] = []
    for _ in range(ROUNDS):
        before = state.scalars["step"]
        seconds, state = advanced(task, algorithm, state)
        rates.append(count * (state.scalars["step"] - before) / seconds)
        if left() < 20:
            break
    found: dict[str, Any] = {
        "member-steps a second": statistics.median(rates),
        "range": [min(rates), max(rates)],
        "first rung, s": first,
    }
    if task.torch_device.type == "cuda":
        found["peak memory, MB"] = torch.cuda.max_memory_allocated() / 1e6
    if refusal := compiled.refusal():
        found["not compiled"] = refusal
    return found


def cohorts(network: Network, name: str, device: str, left: Left) -> Found:
    """Of an algorithm: every number of members, in every way."""
    for count in network.members:
        for way, keys in WAYS.items():
            item = f"{name}, {way}, {count}"
            wanted = network.longest if keys["compile"] else network.longest / 3
            if left() < wanted:
                yield item, {"left out": "no time"}
                continue
            task = network.task(device, **keys)
            yield item, tried(partial(rate, task, name, count, network.steps, left))
            if device == "cuda":
                torch.cuda.empty_cache()


def tried(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What work gives, or why it does not."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    except RuntimeError as error:
        return {"failed": str(error).partition("\n")[0]}


# ---- processes that share the device


def process(task: Task, sparsity: float, seed: int, barrier: Any, steps: int) -> None:
    """One of the processes: the barrier is met before and after its training."""
    torch.set_num_threads(1)
    x, y = next(task.data.parts("train", 1 << 30))
    loop = hand.Loop(task.build(seed), x, y, batch_size=task.batch_size, sparsity=sparsity)
    loop.run(min(WARM, steps))
    barrier.wait()
    loop.run(steps)
    barrier.wait()


def shared(
    task: Task, sparsity: float, processes: int, steps: int, longest: float
) -> dict[str, Any]:
    """Steps a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes + 1)
    workers: list[Any] = []
    try:
        for seed in range(processes):
            work = context.Process(
                target=process, args=(task, sparsity, seed, barrier, steps), daemon=True
            )
            work.start()
            workers.append(work)
        barrier.wait(longest)
        begun = time.perf_counter()
        barrier.wait(longest)
        seconds = time.perf_counter() - begun
    except Exception as error:  # one of them failed, or all take too long
        return {"failed": type(error).__name__}
    finally:
        for work in workers:
            work.join(10)
            if work.is_alive():
                work.terminate()
    return {"member-steps a second": processes * steps / seconds}


def alone(network: Network, device: str, left: Left, processes: Sequence[int]) -> Found:
    """Processes with a hand-written loop each, dense and Dynamic Network Surgery."""
    task = network.task(device)
    for count in processes:
        for name, sparsity in (("dense", 0.0), ("dns", SPARSITY)):
            item = f"{name}, {count} processes"
            if left() < 40:
                yield item, {"left out": "no time"}
                continue
            yield item, shared(task, sparsity, count, network.alone, left() - 20)


# ---- what a step asks of the device


def profile(
    task: Task, name: str, count: int, steps: int
) -> tuple[Counter[str], Counter[str], float]:
    """Of so many steps: how often each kernel and call ran, microseconds of each, and seconds."""
    rungs = 4  # the second one is seen, long before masks no longer change
    task = dataclasses.replace(task, rungs=rungs, epochs=rungs * steps / task.steps_per_epoch)
    algorithm, state = started(task, name, count)
    _, state = advanced(task, algorithm, state)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if task.torch_device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as seen:
        seconds, _ = advanced(task, algorithm, state)
    counts: Counter[str] = Counter()
    spent: Counter[str] = Counter()
    for event in seen.events() or ():
        is_kernel = event.device_type.name != "CPU"
        kind = "kernel" if is_kernel else "call"
        counts[f"{kind} {event.name}"] += 1
        if is_kernel:
            spent[event.name] += event.time_range.elapsed_us()
    return counts, spent, seconds


WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchKernelExC", "cudaGraphLaunch")


def asked(task: Task, name: str, count: int, steps: int) -> dict[str, Any]:
    """Kernels, launches and waits of the host a step: of twice as many steps, less of as many."""
    few, _, _ = profile(task, name, count, steps)
    many, spent, seconds = profile(task, name, count, 2 * steps)
    more = Counter(many)
    more.subtract(few)

    def a_step(names: Sequence[str]) -> float:
        return sum(more[f"call {call}"] for call in names) / steps

    kernels = sum(number for event, number in more.items() if event.startswith("kernel"))
    operations = sum(number for event, number in more.items() if event.startswith("call aten::"))
    total = sum(spent.values())
    slowest = {event: us / total for event, us in spent.most_common(5)}
    return {
        "kernels": kernels / steps,
        "launches": a_step(LAUNCHES),
        "waits": a_step(WAITS),
        "operations": operations / steps,
        "device busy": total / 1e6 / seconds,
        "largest shares": slowest,
    }


def profiles(network: Network, device: str, left: Left) -> Found:
    """Of the first number of members, eager and compiled."""
    count = network.members[0]
    steps = min(10, network.steps)
    for name in ALGORITHMS:
        for way in ("eager", "compiled"):
            item = f"{name}, {way}, {count}"
            if left() < network.longest:
                yield item, {"left out": "no time"}
                continue
            task = network.task(device, **WAYS[way])
            yield item, tried(partial(asked, task, name, count, steps))


# ---- Weedout's scoring, and CRONOS' path


def scored(device: str, left: Left, candidates: int) -> Found:
    """Candidates a second, of a loop and of the stacked search."""
    weedout = find("weedout")
    for widths in ([32], [300, 100]):
        task = Task("hand.images", widths=widths, size=8, device=device)
        for precision in ("task", "bfloat16"):
            hp = {"sparsity": 0.8, "examples": 1024, "precision": precision}
            member = Member(complete(weedout.space, hp), 0)
            some = max(1, candidates // 16)
            item = f"{'-'.join(map(str, widths))}, {precision}"
            if left() < 60:
                yield item, {"left out": "no time"}
                continue
            scoring.stacked(task, member, candidates)  # the first one loads and chooses
            scoring.loop(task, 0.8, 1024, min(8, some))
            fast = [scoring.stacked(task, member, candidates) for _ in range(3)]
            slow = [scoring.loop(task, 0.8, 1024, some) for _ in range(3)]
            found = {"stacked": statistics.median(fast), "loop": statistics.median(slow)}
            yield item, found


@torch.no_grad()
def paths(device: str, left: Left, betas: int, tolerance: float) -> Found:
    """Seconds of a path of weights in one solve, and one after the other."""
    for precision in ("float64", "float32"):
        task = Task("hand.images", size=8, count=1437, device=device, precision=precision)
        data = path.prepared(task, 8)
        weights = path.weights(data, betas, 0.02)
        if left() < 60:
            yield precision, {"left out": "no time"}
            continue
        together = partial(path.together, data, weights, tolerance)
        seconds, (objectives, made) = path.timed(together, task.torch_device)
        found = {"one path, s": seconds, "iterations": int(made.sum())}
        yield precision, found
        if left() < 6 * seconds + 30:
            continue
        singles = partial(path.singles, data, weights, tolerance, True)
        apart, (others, made) = path.timed(singles, task.torch_device)
        difference = ((objectives - others) / others).abs().max()
        found |= {"singles, s": apart, "iterations of singles": int(made.sum())}
        found |= {"objectives apart": float(difference)}
        yield precision, found
