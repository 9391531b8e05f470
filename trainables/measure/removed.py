"""What is left of networks: sparsity, and counts masked and physically smaller, for M networks at
once.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from ..structure.alive import Kept, alive
from ..structure.units import Layer, Structure, norm_producers
from . import flow
from .flops import Counts

Tensors = Mapping[str, Tensor]
Named = dict[str, Tensor]


def compression(structure: Structure, counts: Counts, kept: Kept) -> Named:
    """What is left of M networks, (M,) each: sparsity, masked and shrunk counts, dead layers.

    counts: of the parent.
    """
    units, columns = alive(structure, kept)
    smaller = elsewhere(structure, counts, kept, columns)
    of_layers = by_layer(structure, counts, kept, units, columns, smaller)
    lines = of_layers.values()
    entries = torch.stack([line["kept"] for line in lines])
    left = entries.sum(0)
    sizes = [kept[name][0].numel() for name in structure.parameters]
    removable = sum(sizes)
    removed = removable - left
    elsewhere_spent = counts.flops - _in_layers(structure, counts)
    flops_masked = torch.full_like(left, elsewhere_spent)
    flops_shrunk = smaller["flops"]
    params_shrunk = smaller["params"]
    for line in lines:
        flops_masked = flops_masked + line["flops_masked"]
        flops_shrunk = flops_shrunk + line["flops_shrunk"]
        params_shrunk = params_shrunk + line["params_shrunk"]
    for norm, producer in norm_producers(structure).items():
        live = units[producer].sum(1) * smaller[norm.name]
        entries_left = len(norm.parameters) * live
        params_shrunk = params_shrunk + entries_left
    share_left = left.double() / removable
    is_dead = entries == 0
    return {
        "sparsity": 1 - share_left,
        "flops_masked": flops_masked,
        "flops_shrunk": flops_shrunk,
        "params_kept": counts.params - removed,
        "params_shrunk": params_shrunk,
        "layers_dead": is_dead.sum(0),
    }


def _in_layers(structure: Structure, counts: Counts) -> int:
    """FLOPs of the removable layers together."""
    spent = [counts.layers.get(layer.name, 0) for layer in structure.layers]
    return sum(spent)


def layers(structure: Structure, kept: Kept) -> list[str]:
    """The column `layers` of M networks."""
    sizes: dict[str, int] = {}
    left: list[Tensor] = []
    for layer in structure.layers:
        mask = _flat(layer, kept)
        sizes[layer.name] = mask.shape[1]
        left.append(mask.sum(1))
    column: list[str] = []
    by_network = torch.stack(left, 1)
    for network in by_network.tolist():
        pairs = zip(network, sizes.values(), strict=True)
        line = dict(zip(sizes, pairs, strict=True))
        text = json.dumps(line, separators=(",", ":"))
        column.append(text)
    return column


def by_layer(
    structure: Structure,
    counts: Counts,
    kept: Kept,
    units: Tensors,
    columns: Tensors,
    called: Tensors,
) -> dict[str, Named]:
    """What is left of each removable layer of M networks: layer -> `kept` parameters, live `units`,
    counts, (M,) int64 each.

    counts: of the parent.  units, columns: as from `structure.alive` of `kept`.  called: as from
    `elsewhere`.
    """
    lines: dict[str, Named] = {}
    for layer in structure.layers:
        weight = kept[layer.weight]
        spent = counts.layers.get(layer.name, 0)
        entries = weight[0].numel()
        name = layer.name
        live = units[name].sum(1) * called[name]
        inputs = columns[name].sum(1)
        whole = live * inputs * math.prod(layer.kernel)
        weights = weight.flatten(1).sum(1)
        lines[name] = {
            "kept": _flat(layer, kept).sum(1),
            "units": live,
            "flops_masked": spent * weights // entries,
            "flops_shrunk": spent * whole // entries,
            "params_shrunk": whole if layer.bias is None else whole + live,
        }
    return lines


def _flat(layer: Layer, kept: Kept) -> Tensor:
    """What is kept of a layer's weights and biases, (M, n) bool."""
    entries = [kept[name].flatten(1) for name in layer.parameters]
    return torch.cat(entries, 1)


def elsewhere(
    structure: Structure,
    counts: Counts,
    kept: Kept,
    columns: Tensors,
) -> Named:
    """`flops` and `params` of all but removable layers and their batch-norm, and by the name of
    each of these whether it is still called (1) or not (0), (M,) int64 each.

    A layer without columns reads nothing, and a block that is gone is not added: what only fed them
    is gone with them.
    """
    readers = {link.consumer: None for link in structure.links}  # a set in order
    off: list[Tensor] = []
    for name in readers:
        fed = columns[name].any(1)
        off.append(~fed)
    blocks: list[str] = []
    for block in structure.blocks:
        if block.name in kept:
            blocks.append(block.name)
            off.append(~kept[block.name])
    some = next(iter(kept.values()))
    patterns, of = _patterns(structure, len(some), off)
    numbers: dict[str, list[int]] = defaultdict(list)
    for pattern in patterns.tolist():
        of_blocks = pattern[len(readers) :]
        empty = itertools.compress(readers, pattern)
        gone = itertools.compress(blocks, of_blocks)
        network = _whole_or_left(structure, counts, frozenset(empty), frozenset(gone))
        for name, number in network.items():
            numbers[name].append(number)
    stacks: Named = {}
    for name, of_patterns in numbers.items():
        by_pattern = torch.tensor(of_patterns)
        of_networks = by_pattern[of]
        stacks[name] = of_networks.to(some.device, non_blocking=True)
    return stacks


def _patterns(structure: Structure, networks: int, off: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The distinct patterns of what is off, and the pattern of each of the M networks, on the CPU.

    off: one (M,) bool for each part.
    """
    if structure.flow and off:
        states = torch.stack(off, 1).cpu()
        patterns, of = torch.unique(states, dim=0, return_inverse=True)
        return patterns, of
    # What cannot be traced is never taken apart.
    nothing_off = torch.zeros(1, len(off), dtype=torch.bool)
    first = torch.zeros(networks, dtype=torch.long)
    return nothing_off, first


def _whole_or_left(
    structure: Structure,
    counts: Counts,
    empty: frozenset[str],
    gone: frozenset[str],
) -> dict[str, int]:
    """What `elsewhere` returns, of one network."""
    norms = norm_producers(structure)
    names = set(structure.by_name)
    names.update(norm.name for norm in norms)
    apart = frozenset(names)
    if empty or gone:
        params = set(structure.parameters)
        for norm in norms:
            params.update(norm.parameters)
        entries = frozenset(params)
        left = flow.left(structure.flow, empty, gone, apart, entries)
        called: dict[str, int] = {}
        for name in apart:
            called[name] = int(name in left.modules)
        return {"flops": left.flops, "params": left.params, **called}
    flops = counts.flops - _in_layers(structure, counts)
    total = counts.params
    for layer in structure.layers:
        weights = layer.columns * math.prod(layer.kernel)
        biases = 0 if layer.bias is None else 1
        total -= layer.units * (weights + biases)
    for norm in norms:
        total -= len(norm.parameters) * norm.units
    all_called = dict.fromkeys(apart, 1)
    return {"flops": flops, "params": total, **all_called}
