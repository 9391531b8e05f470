"""The data of CRONOS, and where its gates come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import convex
from ..contract import Member
from ..task import Task
from ..training.dense import dense_networks

EXAMPLES = 1024
"""Examples that are read at a time."""
COUNTS: Mapping[str, tuple[int, int]] = {"paper": (10, 32), "solve": (8, 8)}
"""The number of gates where none is given, by mode: for two classes, and for more."""


def inputs(task: Task) -> Tensor:
    """X (n, d) of the training data, with a column of ones."""
    parts: list[Tensor] = []
    for x, _ in task.data.parts("train", EXAMPLES):
        flat = x.flatten(1)
        parts.append(flat)
    features = torch.cat(parts)
    return convex.with_ones(features)


def targets(task: Task) -> Tensor:
    """Y (programs, n): one class against the rest, 1 and 0; of two classes the second against the
    first, 1 and -1.
    """
    labels = task.data.labels["train"]
    if task.data.classes == 2:
        signs = 2 * labels - 1
        return signs[None]
    one_hot = F.one_hot(labels, task.data.classes)
    return one_hot.mT


def programs(task: Task) -> int:
    """How many programs there are for a weight: one of two classes, else one for each."""
    classes = task.data.classes
    return 1 if classes == 2 else classes


def count(task: Task, hp: Mapping[str, Any]) -> int:
    """The number of gates P."""
    if hp["gates"] is not None:
        return hp["gates"]
    of_two, of_more = COUNTS[hp["mode"]]
    return of_two if task.data.classes == 2 else of_more


def vectors(task: Task, members: Sequence[Member]) -> Tensor:
    """The vectors h of each member's gates, (K, P, d) float64."""
    hp = members[0].hp
    seeds = [member.seed for member in members]
    if hp["gates_from"] == "sgd":
        return _trained_units(task, seeds, hp)
    X = inputs(task)
    P = count(task, hp)
    of_seed: dict[int, Tensor] = {}
    for seed in seeds:
        key = torch.tensor(seed, device=X.device)
        if hp["gates_from"] == "pairs":
            of_seed[seed] = convex.pair_vectors(key, P, X)
        else:
            of_seed[seed] = convex.gate_vectors(key, P, X.shape[1])
    by_member = [of_seed[seed] for seed in seeds]
    return torch.stack(by_member)


def _trained_units(task: Task, seeds: Sequence[int], hp: Mapping[str, Any]) -> Tensor:
    """Weights and biases (K, P, d) float64 of the hidden units of small trained networks."""
    small = _small(task, hp)
    dense = dense_networks(small, seeds, steps(task, hp))
    layer = small.structure.layers[0]
    weight = dense.params[layer.weight]
    bias = dense.params[str(layer.bias)]
    units = torch.cat([weight, bias[..., None]], -1)
    return units.double()


def _small(task: Task, hp: Mapping[str, Any]) -> Task:
    """The task of the network whose hidden units give gates."""
    options = {"widths": [count(task, hp)]}
    return dataclasses.replace(task, model="mlp", model_options=options)


def steps(task: Task, hp: Mapping[str, Any]) -> int:
    """Of the network whose hidden units give gates."""
    return round(hp["gate_epochs"] * task.steps_per_epoch)


def flops(task: Task, hp: Mapping[str, Any]) -> int:
    """What the network that gives gates cost, if there is one."""
    if hp["gates_from"] != "sgd":
        return 0
    forward = _small(task, hp).counts.flops
    examples = steps(task, hp) * task.batch_size
    return 3 * forward * examples


def notes(task: Task, hp: Mapping[str, Any], units: Tensor) -> dict[str, Tensor]:
    """The gate of each hidden unit, (K, units); nothing of random units, which have none.

    units: anything of their shape; they lie as neurons (C, 2, P) do.
    """
    if hp["units_from"] != "convex":
        return {}
    of_program = torch.arange(count(task, hp), device=units.device)
    repeats = units.shape[1] // len(of_program)
    gate = of_program.repeat(repeats)
    return {"gate": gate.expand(units.shape)}
