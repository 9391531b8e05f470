"""Measuring: networks in, the measures of rows out. No algorithm has a say in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from ...analysis.rows.mistake import Mistake
from ..contract import Algorithm, Networks, State
from ..task import Task
from ..training import stack
from .flops import Counts
from .removed import compression, layers

EXAMPLES, MEMBERS = 256, 16
"""Examples and networks (at most) computed at a time. The first is fixed, so that results do not
depend on the cohort.
"""


def measure(
    task: Task, algorithm: Algorithm, state: State, last: bool, dense: Counts | None = None
) -> list[dict[str, Any]]:
    """For each of the K members: progress, losses, accuracies, counts and the algorithm's own
    figures, by column name.

    task: with the network that the members started from.  last: test data is measured too; it is
    measured nowhere else.
    dense: counts of the network that they are compared with; of the one they started from, if it is
    not given.
    """
    networks = algorithm.networks(task, state)
    _expect_removed(algorithm, task, networks)
    columns: dict[str, Tensor] = {}
    for split in ("train", "valid", "test") if last else ("train", "valid"):
        columns[f"loss_{split}"], columns[f"accuracy_{split}"] = evaluate(task, networks, split)
    columns |= compression(task.structure, task.counts, networks.kept)
    done = state.scalars["step"] + state.scalars["before"]
    dense = dense or task.counts
    progress = {
        "rung": state.scalars["rung"],
        "epochs": done / task.steps_per_epoch,
        "steps": done,
        "examples": done * task.batch_size,
        "stacked": task.stackable,
        "flops_dense": dense.flops,
        "params_dense": dense.params,
        "unknown_ops": ",".join(task.counts.unknown),
    }
    values = {name: column.cpu()[networks.of.cpu()].tolist() for name, column in columns.items()}
    values |= {f"m_{name}": column.double().tolist() for name, column in networks.metrics.items()}
    nothing = torch.zeros(len(networks.of), dtype=torch.long)
    flops, seconds = (networks.search.get(name, nothing).cpu() for name in ("flops", "seconds"))
    if "flops" not in networks.search:  # an algorithm that does not charge itself
        flops = flops + round(state.scalars.get("charged", 0))
    values |= {
        "seconds": (state.scalars["seconds"] + seconds.double()).tolist(),
        "train_flops": (3 * task.counts.flops * done * task.batch_size + flops).tolist(),
        "search_flops": flops.tolist(),
    }
    values |= {name: column.tolist() for name, column in networks.progress.items()}
    lines = layers(task.structure, networks.kept)
    values["layers"] = [lines[m] for m in networks.of.tolist()]
    return [
        {**progress, **{name: column[k] for name, column in values.items()}}
        for k in range(len(networks.of))
    ]


def _expect_removed(algorithm: Algorithm, task: Task, networks: Networks) -> None:
    """Raise Mistake unless what `kept` leaves out is zero in the network: accuracy and FLOPs would
    be of two networks.

    Entries that are no number, of a network that has diverged, are left alone.
    """
    wanted = {name: networks.kept[name] for name in task.structure.parameters}
    for block in task.structure.blocks:
        for name in block.last:
            there = networks.kept[block.name].view(-1, *[1] * (networks.params[name].ndim - 1))
            wanted[name] = wanted.get(name, there.new_ones(())) & there
    for name, kept in wanted.items():
        removed = networks.params[name].masked_fill(kept, 0)
        count = int((removed.isfinite() & (removed != 0)).sum())
        if count:
            kind = type(algorithm)
            rule = "what `kept` leaves out is zero in the network that `effective` gives"
            raise Mistake(
                f"algorithm {kind.__module__}.{kind.__qualname__}: {rule}; got {count} other entries in {name}"
            )


def evaluate(task: Task, networks: Networks, split: str) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (M,) float64 and accuracy (M,) float64 of the networks on a split."""
    loss, right = scored(task, networks, task.data.parts(split, EXAMPLES)) / len(
        task.data.labels[split]
    )
    return loss, right


@torch.no_grad()
def scored(task: Task, networks: Networks, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums over all examples of `parts`, inputs and labels, of loss and of right answers, (2, M)
    float64.
    """
    call, count = stack.Call(task.template.eval()), next(iter(networks.params.values())).shape[0]
    together = count > 1 and task.stackable
    groups = torch.arange(count).tensor_split(-(-count // MEMBERS) if together else count)
    totals = torch.zeros(2, count, dtype=torch.float64, device=task.torch_device)
    for x, labels in parts:
        for group in groups:
            here = slice(int(group[0]), int(group[-1]) + 1)
            params, buffers = (
                {name: t[here] for name, t in tree.items()}
                for tree in (networks.params, networks.buffers)
            )
            if together:
                logits = vmap(call)(params, buffers, x.expand(len(group), *x.shape))
            else:
                logits = call(stack.single(params), stack.single(buffers), x)[None]
            totals[:, here] += torch.stack(_scores(logits, labels))
    return totals


def _scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over examples of loss and of right answers, (M,) float64 each. logits: (M, n, classes).
    labels: (n,).
    """
    wanted = labels.expand(len(logits), -1)
    loss = F.cross_entropy(logits.double().flatten(0, 1), wanted.flatten(), reduction="none").view(
        wanted.shape
    )
    return loss.sum(1), (logits.argmax(2) == labels).double().sum(1)
