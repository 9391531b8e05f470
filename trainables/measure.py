"""Measuring: networks in, the measures of rows out. No algorithm has a say in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from . import stack, structure
from .contract import Algorithm, Networks, State
from .flops import Counts
from .task import Task

EXAMPLES, MEMBERS = 256, 16
"""Examples and networks (at most) computed at a time. The first is fixed, so that results do not depend on the cohort."""


def measure(task: Task, algorithm: Algorithm, state: State, last: bool) -> list[dict[str, Any]]:
    """For each of the K members: progress, losses, accuracies, counts and the algorithm's own figures, by column name.

    last: test data is measured too; it is measured nowhere else.
    """
    networks = algorithm.networks(task, state)
    columns: dict[str, Tensor] = {}
    for split in ("train", "valid", "test") if last else ("train", "valid"):
        columns[f"loss_{split}"], columns[f"accuracy_{split}"] = evaluate(task, networks, split)
    columns |= compression(task.structure, task.counts, networks.kept) | {
        f"m_{name}": value for name, value in networks.metrics.items()
    }
    done = state.scalars["step"] + task.dense_steps(algorithm)
    progress = {
        "rung": state.scalars["rung"],
        "epochs": done / task.steps_per_epoch,
        "steps": done,
        "examples": done * task.batch_size,
        "seconds": state.scalars["seconds"],
        "train_flops": 3 * task.counts.flops * done * task.batch_size,
        "stacked": task.stackable,
        "flops_dense": task.counts.flops,
        "params_dense": task.counts.params,
        "unknown_ops": ",".join(task.counts.unknown),
    }
    values = {name: column.cpu()[networks.of.cpu()].tolist() for name, column in columns.items()}
    metrics = {name for name in values if name.startswith("m_")}
    rows = [{**progress, **{name: column[k] for name, column in values.items()}} for k in range(len(networks.of))]
    return [{name: float(v) if name in metrics else v for name, v in row.items()} for row in rows]


@torch.no_grad()
def evaluate(task: Task, networks: Networks, split: str) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (M,) float64 and accuracy (M,) float64 of the networks on a split."""
    call, labels = stack.Call(task.template.eval()), task.data.labels[split]
    count = next(iter(networks.params.values())).shape[0]
    found: list[Tensor] = []
    if count == 1 or not task.stackable:
        for k in range(count):
            network = _pick(networks, k)
            logits = torch.cat([call(*network, x) for x, _ in task.data.parts(split, EXAMPLES)])
            found.append(_scores(logits, labels))
    else:
        for group in torch.arange(count).tensor_split(-(-count // MEMBERS)):
            network = _pick(networks, group)
            parts = (x.expand(len(group), *x.shape) for x, _ in task.data.parts(split, EXAMPLES))
            logits = torch.cat([vmap(call)(*network, x) for x in parts], 1)
            found += vmap(_scores, in_dims=(0, None))(logits, labels)
    columns = torch.stack(found)
    return columns[:, 0], columns[:, 1]


def _pick(networks: Networks, which: int | Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return {n: p[which] for n, p in networks.params.items()}, {n: b[which] for n, b in networks.buffers.items()}


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss and accuracy of one network, (2,) float64."""
    right = (logits.argmax(1) == labels).to(torch.float64).mean()
    return torch.stack([F.cross_entropy(logits.to(torch.float64), labels), right])


def compression(found: structure.Structure, counts: Counts, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is left of M networks, (M,) each: sparsity, masked and shrunk counts, dead layers.

    counts: of the parent.  kept: removable parameter -> (M, ...) bool.
    """
    units, columns = structure.alive(found, kept)
    entries = torch.stack([torch.cat([kept[p].flatten(1) for p in layer.parameters], 1).sum(1) for layer in found.layers])
    removable, left = sum(kept[name][0].numel() for name in found.parameters), entries.sum(0)
    flops_masked = torch.full_like(left, counts.flops)
    flops_shrunk, params_shrunk = flops_masked.clone(), torch.full_like(left, counts.params)
    for layer in found.layers:
        weight, spent = kept[layer.weight], counts.layers.get(layer.name, 0)
        weights, each = weight[0].numel(), weight[0][0, 0].numel()
        whole = units[layer.name].sum(1) * columns[layer.name].sum(1) * each
        flops_masked -= spent - spent * weight.flatten(1).sum(1) // weights
        flops_shrunk -= spent - spent * whole // weights
        params_shrunk -= weights - whole
        if layer.bias is not None:
            params_shrunk -= layer.units - units[layer.name].sum(1)
    for _, producer in {(norm, link.producer) for link in found.links for norm in link.norms}:
        params_shrunk -= (~units[producer]).sum(1)
    return {
        "sparsity": 1 - left.double() / removable,
        "flops_masked": flops_masked,
        "flops_shrunk": flops_shrunk,
        "params_kept": counts.params - (removable - left),
        "params_shrunk": params_shrunk,
        "layers_dead": (entries == 0).sum(0),
    }
