"""Measuring: networks in, the measures of rows out. No algorithm has a say in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from ...analysis.rows.mistake import Mistake
from ..contract import Algorithm, Networks, State
from ..task import Task
from ..training import precision, stack
from ..tree import on_host
from .flops import Counts
from .removed import compression, layers

Named = dict[str, Tensor]

Columns = dict[str, list[Any]]
"""Column -> a value for each of the K members."""
Row = dict[str, Any]

OVER_TASK = "m_over_task"
"""FLOPs (shrunk) of a network as a multiple of the task's model's; null unless that is above 1."""
EXAMPLES, MEMBERS = 256, 16
"""Examples and networks (at most) computed at a time. The first is fixed, so that results do not
depend on the cohort.
"""


def measure(
    task: Task,
    algorithm: Algorithm,
    state: State,
    last: bool,
    dense: Counts | None = None,
) -> list[Row]:
    """For each of the K members: progress, losses, accuracies, counts and the algorithm's own
    figures, by column name; in the type of parameters, whatever precision they train in.

    task: with the network that the members started from.  last: test data is measured too; it is
    measured nowhere else.
    dense: counts of the network that they are compared with; of the one they started from, if it is
    not given.
    """
    networks = algorithm.networks(task, state)
    _expect_removed(algorithm, task, networks)
    with precision.measuring(task):
        columns = _columns(task, state, networks, last)
    compared = dense or task.counts
    progress = _progress(task, state, compared)
    members = len(networks.of)
    rows: list[Row] = []
    for member in range(members):
        row = dict(progress)
        for name, values in columns.items():
            row[name] = values[member]
        row |= _over_task(row)
        rows.append(row)
    return rows


def _over_task(row: Row) -> Row:
    """How many times the FLOPs of the task's model a network has, of one that has more."""
    own = row["flops_dense"]
    left = row["flops_shrunk"]
    if not 0 < own < left:
        return {}
    return {OVER_TASK: left / own}


def _columns(
    task: Task,
    state: State,
    networks: Networks,
    last: bool,
) -> Columns:
    """What members differ in."""
    columns: Columns = {}
    of = networks.of.cpu()
    measures = _measures(task, networks, last)
    for name, of_networks in on_host(measures).items():
        of_members = of_networks[of]
        columns[name] = of_members.tolist()
    for name, values in on_host(networks.metrics).items():
        columns[f"m_{name}"] = values.double().tolist()
    columns |= _spent(task, state, networks)
    for name, values in on_host(networks.progress).items():
        columns[name] = values.tolist()
    lines = layers(task.structure, networks.kept)
    columns["layers"] = [lines[network] for network in of.tolist()]
    return columns


def _measures(task: Task, networks: Networks, last: bool) -> Named:
    """Losses, accuracies and counts of the M networks, (M,) each."""
    measures: Named = {}
    splits = ["train", "valid"]
    if last:
        splits.append("test")
    for split in splits:
        loss, accuracy = evaluate(task, networks, split)
        measures[f"loss_{split}"] = loss
        measures[f"accuracy_{split}"] = accuracy
    measures |= compression(task.structure, task.counts, networks.kept)
    return measures


def _steps_done(state: State) -> int:
    return state.scalars["step"] + state.scalars["before"]


def _progress(task: Task, state: State, dense: Counts) -> Row:
    """What is the same for all members."""
    steps = _steps_done(state)
    return {
        "rung": state.scalars["rung"],
        "epochs": steps / task.steps_per_epoch,
        "steps": steps,
        "examples": steps * task.batch_size,
        "stacked": task.stackable,
        "flops_dense": dense.flops,
        "params_dense": dense.params,
        "unknown_ops": ",".join(task.counts.unknown),
    }


def _spent(task: Task, state: State, networks: Networks) -> Columns:
    """Seconds and FLOPs of each of the K members."""
    members = len(networks.of)
    nothing = torch.zeros(members, dtype=torch.long)
    search = on_host(networks.search)
    flops = search.get("flops", nothing)
    seconds = search.get("seconds", nothing)
    if "flops" not in networks.search:  # an algorithm that does not charge itself
        charged = state.scalars.get("charged", 0)
        flops = flops + round(charged)
    examples = _steps_done(state) * task.batch_size
    training = 3 * task.counts.flops * examples
    all_seconds = state.scalars["seconds"] + seconds.double()
    all_flops = training + flops
    return {
        "seconds": all_seconds.tolist(),
        "train_flops": all_flops.tolist(),
        "search_flops": flops.tolist(),
    }


def _expect_removed(algorithm: Algorithm, task: Task, networks: Networks) -> None:
    """Raise Mistake unless what `kept` leaves out is zero in the network: accuracy and FLOPs would
    be of two networks.

    Entries that are no number, of a network that has diverged, are left alone.
    """
    sums: dict[str, Tensor] = {}
    for name, kept in _wanted(task, networks).items():
        removed = networks.params[name].masked_fill(kept, 0)
        others = removed.isfinite() & (removed != 0)
        sums[name] = others.sum()
    for name, others in on_host(sums).items():
        count = int(others)
        if not count:
            continue
        kind = type(algorithm)
        place = f"algorithm {kind.__module__}.{kind.__qualname__}"
        rule = "what `kept` leaves out is zero in the network that `effective` gives"
        got = f"{count} other entries in {name}"
        raise Mistake(f"{place}: {rule}; got {got}")


def _wanted(task: Task, networks: Networks) -> Named:
    """What of parameters may be other than zero: name -> bool, broadcastable to (M, *shape)."""
    wanted: Named = {}
    for name in task.structure.parameters:
        wanted[name] = networks.kept[name]
    for block in task.structure.blocks:
        there = networks.kept[block.name]
        for name in block.last:
            parameter = networks.params[name]
            behind = [1] * (parameter.ndim - 1)
            entries = there.view(-1, *behind)
            if name in wanted:
                entries = wanted[name] & entries
            wanted[name] = entries
    return wanted


def evaluate(task: Task, networks: Networks, split: str) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (M,) float64 and accuracy (M,) float64 of the networks on a split."""
    parts = task.data.parts(split, EXAMPLES)
    labels = task.data.labels[split]
    sums = scored(task, networks, parts)
    loss, accuracy = sums / len(labels)
    return loss, accuracy


@torch.no_grad()
def scored(task: Task, networks: Networks, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Sums over all examples of `parts`, inputs and labels, of loss and of right answers, (2, M)
    float64.
    """
    template = task.template.eval()
    call = stack.Call(template)
    some = next(iter(networks.params.values()))
    count = len(some)
    stacked = count > 1 and task.stackable
    totals = torch.zeros(2, count, dtype=torch.float64, device=task.torch_device)
    groups = _groups(count, stacked)
    for x, labels in parts:
        for here in groups:
            params = _slice(networks.params, here)
            buffers = _slice(networks.buffers, here)
            if stacked:
                logits = _together(call, params, buffers, x)
            else:
                logits = _alone(call, params, buffers, x)
            scores = _scores(logits, labels)
            totals[:, here] += torch.stack(scores)
    return totals


def _together(
    call: stack.Call,
    params: Named,
    buffers: Named,
    x: Tensor,
) -> Tensor:
    """Logits of stacked networks, (M, n, classes), all for the same x (n, ...)."""
    some = next(iter(params.values()))
    same_inputs = x.expand(len(some), *x.shape)
    stacked_call = vmap(call)
    return stacked_call(params, buffers, same_inputs)


def _alone(
    call: stack.Call,
    params: Named,
    buffers: Named,
    x: Tensor,
) -> Tensor:
    """Logits of one network, (1, n, classes)."""
    own_params = stack.single(params)
    own_buffers = stack.single(buffers)
    logits = call(own_params, own_buffers, x)
    return logits[None]


def _groups(count: int, stacked: bool) -> list[slice]:
    """Which networks are computed together: about as many each time, or one after the other."""
    groups = -(-count // MEMBERS) if stacked else count
    networks = torch.arange(count)
    slices: list[slice] = []
    for places in networks.tensor_split(groups):
        first = int(places[0])
        behind = first + len(places)
        slices.append(slice(first, behind))
    return slices


def _slice(stacks: Mapping[str, Tensor], here: slice) -> Named:
    return {name: values[here] for name, values in stacks.items()}


def _scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over examples of loss and of right answers, (M,) float64 each. logits: (M, n, classes).
    labels: (n,).
    """
    wanted = labels.expand(len(logits), -1)
    classes = wanted.flatten()
    scores = logits.double().flatten(0, 1)
    losses = F.cross_entropy(scores, classes, reduction="none")
    loss = losses.view(wanted.shape).sum(1)
    is_right = logits.argmax(2) == labels
    right = is_right.double().sum(1)
    return loss, right
