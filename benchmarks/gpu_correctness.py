"""Part of benchmarks/gpu.py: whether a device gives what a CPU gives, and a saved state goes on as if
it had not been saved.

In float64, so that what differs is a mistake and not rounding.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import find, known
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training import compiled
from prunefront.trainables.training.hooks import Hooks
from prunefront.trainables.tree import leaves

MEMBERS = 3
STEPS = 24
TOLERANCE = 1e-8
"""Of the largest entry of a tensor, in float64."""
OPTIONS: Mapping[str, dict[str, Any]] = {
    "complexity_aware": {"interval": 4, "warmup": 0.0, "settle": 1.0, "audit": 32},
    "weedout": {"candidates": 16, "examples": 64},
    "cronos": {"gates": 2, "iterations": 20},
}
"""Hyper-parameters that are not the defaults."""
NETWORKS: Mapping[str, dict[str, Any]] = {
    "mlp": {"model": "mlp", "widths": [60, 20], "size": 16},
    "lenet5": {"model": "lenet5", "width": 0.25, "size": 16},
    "resnet8": {"model": "resnet", "depth": 8, "width": 0.25, "size": 8},
}


def task_of(network: str) -> Task:
    """A short training."""
    return Task(
        "hand.images",
        **NETWORKS[network],
        count=256,
        batch_size=16,
        epochs=STEPS / 16,
        rungs=2,
        dense_share=0.25,
        precision="float64",
        device="cpu",
        compile=False,
    )


def members_of(name: str, task: Task) -> tuple[Task, list[Member]]:
    """What an algorithm trains. Raises Mistake if it does not take the task."""
    algorithm = find(name)
    hp = complete(algorithm.space, OPTIONS.get(name, {}))
    if reason := algorithm.skip(task):
        raise Mistake(reason)
    own = algorithm.parent(task, hp)
    algorithm.check(own, hp)
    return own, [Member(hp, seed) for seed in range(MEMBERS)]


def trained(algorithm: Algorithm, task: Task, members: list[Member]) -> State:
    """After two rungs."""
    state = algorithm.start(task, members)
    for _ in range(task.rungs):
        state = algorithm.advance(task, state)
    return state


def resumed(algorithm: Algorithm, task: Task, members: list[Member]) -> State:
    """The same, saved and read again after the first rung."""
    state = algorithm.advance(task, algorithm.start(task, members))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        state.save(path)
        state = State.load(path, task.torch_device)
    return algorithm.advance(task, state)


def networks_of(algorithm: Algorithm, task: Task, state: State) -> dict[str, Tensor]:
    """What the members are, by path, on the CPU."""
    made = algorithm.networks(task, state)
    trees = {"params": made.params, "buffers": made.buffers, "kept": made.kept}
    return {path: tensor.cpu() for path, tensor in leaves(trees).items()}


def apart(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of tensors by path, as a share of a tensor's largest entry; infinite
    where they are not alike at all.
    """
    largest = 0.0
    if ours.keys() != theirs.keys():
        return float("inf")
    for path, tensor in ours.items():
        other = theirs[path]
        if tensor.shape != other.shape:
            return float("inf")
        scale = max(float(other.double().abs().max()), 1e-12) if other.numel() else 1.0
        difference = (tensor.double() - other.double()).abs()
        if difference.isnan().any():
            return float("inf")
        if difference.numel():
            largest = max(largest, float(difference.max()) / scale)
    return largest


def same_bits(one: State, other: State) -> bool:
    """Whether two states are the same, but for what a clock said."""
    ours = leaves(one.members)
    theirs = leaves(other.members)
    if ours.keys() != theirs.keys():
        return False
    return all(
        torch.equal(tensor, theirs[path])
        for path, tensor in ours.items()
        if "seconds" not in path and not tensor.isnan().any()
    )


def checks(
    device: str, network: str, algorithms: list[str], left: Callable[[], float]
) -> Iterator[tuple[str, Any]]:
    """For each algorithm and way: how far apart it is, and whether it resumes. left: seconds."""
    torch.backends.cudnn.deterministic = True
    for compiles in (False, True):
        for name in algorithms or known():
            way = "compiled" if compiles else "eager"
            if left() < 30:
                yield f"{name}, {way}", {"left out": "no time"}
                continue
            try:
                found = check(device, task_of(network), name, compiles)
            except Mistake as error:
                found = {"refused": str(error)}
            except RuntimeError as error:
                found = {"failed": str(error).partition("\n")[0]}
            if found:
                yield f"{name}, {way}", found


def check(device: str, task: Task, name: str, compiles: bool) -> dict[str, Any]:
    """Of one algorithm; nothing where nothing is compiled."""
    algorithm = find(name)
    if compiles and not isinstance(algorithm, Hooks):
        return {}
    compiled.forget()
    own, members = members_of(name, task)
    there = dataclasses.replace(own, device=device, compile=compiles)
    expected = networks_of(algorithm, own, trained(algorithm, own, members))
    state = trained(algorithm, there, members)
    difference = apart(networks_of(algorithm, there, state), expected)
    found: dict[str, Any] = {
        "apart": difference,
        "as on the CPU": difference < TOLERANCE,
        "resumes": same_bits(resumed(algorithm, there, members), state),
    }
    if compiles and compiled.refusal():
        found["not compiled"] = compiled.refusal()
    return found
