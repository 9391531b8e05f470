"""Two-layer ReLU networks: known by what they compute, and how active their hidden units are."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..contract import Networks
from ..structure.units import Layer, Structure
from ..task import Task
from ..training import stack
from .members import EXAMPLES

ACTIVE = "active"
"""The note that says how active hidden units are."""
CLOSE = 1e-3
"""Outputs that differ by less, as a share of the largest, are of one network; that leaves room for
the tf32 of a GPU.
"""


def layers(structure: Structure) -> tuple[Layer, Layer] | None:
    """The two linear layers of a network that has no others, the first of which feeds the second;
    None for any other network.
    """
    if len(structure.layers) != 2 or len(structure.links) != 1:
        return None
    first, last = structure.layers
    (link,) = structure.links
    if (link.producer, link.consumer) != (first.name, last.name):
        return None
    is_plain = link.repeat == 1 and not link.norms
    if not is_plain or first.kind != "fc" or last.kind != "fc":
        return None
    return first, last


def noted(task: Task, networks: Networks) -> Networks:
    """The networks with a note of how active their hidden units are, if they are two-layer ReLU
    networks; others as they are.
    """
    active = activity(task, networks)
    if active is None:
        return networks
    notes = {**networks.notes, ACTIVE: active}
    return dataclasses.replace(networks, notes=notes)


@torch.no_grad()
def activity(task: Task, networks: Networks) -> Tensor | None:
    """The mean output of each hidden unit on the validation data, (M, m); None unless the networks
    are two linear layers with a ReLU between, which is tried on some examples.
    """
    found = layers(task.structure)
    if found is None:
        return None
    first, last = found
    weights = networks.params[first.weight]
    biases = _bias(networks, first)
    count = len(task.data.labels["valid"])
    sums = torch.zeros_like(biases)
    for number, (x, _) in enumerate(task.data.parts("valid", EXAMPLES)):
        flat = x.flatten(1)
        if flat.shape[1] != weights.shape[-1]:
            return None
        if number == 0 and not _is_relu(task, networks, last, x):
            return None
        for place, weight in enumerate(weights):
            outputs = _outputs(flat, weight, biases[place])
            sums[place] += outputs.sum(0)
    return sums / count


def _is_relu(task: Task, networks: Networks, last: Layer, x: Tensor) -> bool:
    """Whether the largest of the networks answers as two layers with a ReLU between do."""
    first = task.structure.layers[0]
    place = _largest(networks.params[first.weight])
    params = {name: values[place] for name, values in networks.params.items()}
    buffers = {name: values[place] for name, values in networks.buffers.items()}
    call = stack.Call(task.template.eval())
    answers = call(params, buffers, x)
    bias = _bias(networks, first)[place]
    offset = _bias(networks, last)[place]
    outputs = _outputs(x.flatten(1), params[first.weight], bias)
    expected = outputs @ params[last.weight].mT + offset
    if answers.shape != expected.shape:
        return False
    largest = expected.abs().max()
    apart = (answers - expected).abs().max()
    return bool(apart <= CLOSE * largest)


def _largest(weights: Tensor) -> int:
    """The place of the largest network, diverged ones aside."""
    lengths = weights.flatten(1).norm(dim=1)
    finite = lengths.nan_to_num(nan=-1, posinf=-1)
    return int(finite.argmax())


def _outputs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(n, m), of x (n, d)."""
    sums = x @ weight.mT + bias
    return sums.clamp(min=0)


def _bias(networks: Networks, layer: Layer) -> Tensor:
    """(M, units), zero where there is none."""
    if layer.bias is None:
        weight = networks.params[layer.weight]
        return weight.new_zeros(weight.shape[:2])
    return networks.params[layer.bias]
