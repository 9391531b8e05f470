"""What is left of networks: sparsity, and counts masked and physically smaller, for M networks at
once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..structure.units import Layer, Norm, Structure, alive
from . import flow
from .flops import Counts

Kept = Mapping[str, Tensor]
"""Removable parameter -> (M, *shape) bool, block -> (M,) bool; True is kept."""


def compression(structure: Structure, counts: Counts, kept: Kept) -> dict[str, Tensor]:
    """What is left of M networks, (M,) each: sparsity, masked and shrunk counts, dead layers.

    counts: of the parent.
    """
    units, columns = alive(structure, kept)
    smaller = elsewhere(structure, counts, kept, columns)
    lines = by_layer(structure, counts, kept, units, columns, smaller)
    entries = torch.stack([line["kept"] for line in lines.values()])
    left = entries.sum(0)
    removable = sum(kept[name][0].numel() for name in structure.parameters)
    whole = counts.flops - sum(counts.layers.get(layer.name, 0) for layer in structure.layers)
    masked = torch.stack([line["flops_masked"] for line in lines.values()]).sum(0)
    flops_shrunk, params_shrunk = smaller["flops"], smaller["params"]
    for line in lines.values():
        flops_shrunk = flops_shrunk + line["flops_shrunk"]
        params_shrunk = params_shrunk + line["params_shrunk"]
    for norm, producer in _inner(structure).items():
        params_shrunk = (
            params_shrunk + len(norm.parameters) * units[producer].sum(1) * smaller[norm.name]
        )
    return {
        "sparsity": 1 - left.double() / removable,
        "flops_masked": whole + masked,
        "flops_shrunk": flops_shrunk,
        "params_kept": counts.params - (removable - left),
        "params_shrunk": params_shrunk,
        "layers_dead": (entries == 0).sum(0),
    }


def layers(structure: Structure, kept: Kept) -> list[str]:
    """The column `layers` of M networks."""
    masks = {layer.name: _flat(layer, kept) for layer in structure.layers}
    sizes = {name: mask.shape[1] for name, mask in masks.items()}
    counts = torch.stack([mask.sum(1) for mask in masks.values()], 1).tolist()
    told = []
    for line in counts:
        pairs = dict(zip(sizes, zip(line, sizes.values(), strict=True), strict=True))
        told.append(json.dumps(pairs, separators=(",", ":")))
    return told


def by_layer(
    structure: Structure,
    counts: Counts,
    kept: Kept,
    units: Mapping[str, Tensor],
    columns: Mapping[str, Tensor],
    called: Mapping[str, Tensor],
) -> dict[str, dict[str, Tensor]]:
    """What is left of each removable layer of M networks: layer -> `kept` parameters, live `units`,
    counts, (M,) int64 each.

    counts: of the parent.  units, columns: as from `structure.alive` of `kept`.  called: as from
    `elsewhere`.
    """
    lines: dict[str, dict[str, Tensor]] = {}
    for layer in structure.layers:
        weight, spent = kept[layer.weight], counts.layers.get(layer.name, 0)
        live = units[layer.name].sum(1) * called[layer.name]
        weights, each = weight[0].numel(), weight[0][0, 0].numel()
        whole = live * columns[layer.name].sum(1) * each
        lines[layer.name] = {
            "kept": _flat(layer, kept).sum(1),
            "units": live,
            "flops_masked": spent * weight.flatten(1).sum(1) // weights,
            "flops_shrunk": spent * whole // weights,
            "params_shrunk": whole if layer.bias is None else whole + live,
        }
    return lines


def _flat(layer: Layer, kept: Kept) -> Tensor:
    """What is kept of a layer's weights and biases, (M, n) bool."""
    return torch.cat([kept[name].flatten(1) for name in layer.parameters], 1)


def _inner(structure: Structure) -> dict[Norm, str]:
    """The batch-norm layers that lose entries with the units of a layer, and that layer."""
    return {norm: link.producer for link in structure.links for norm in link.norms}


def elsewhere(
    structure: Structure, counts: Counts, kept: Kept, columns: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`flops` and `params` of all but removable layers and their batch-norm, and by the name of
    each of these whether it is still called (1) or not (0), (M,) int64 each.

    A layer without columns reads nothing, and a block that is gone is not added: what only fed them
    is gone with them.
    """
    readers = list(dict.fromkeys(link.consumer for link in structure.links))
    blocks = [block.name for block in structure.blocks if block.name in kept]
    empty = [~columns[name].any(1) for name in readers]
    gone = [~kept[name] for name in blocks]
    if structure.flow and (empty or gone):
        patterns, of = torch.unique(torch.stack([*empty, *gone], 1), dim=0, return_inverse=True)
    else:  # what cannot be traced is never taken apart
        some = next(iter(kept.values()))
        patterns = torch.zeros(1, len(readers) + len(blocks), dtype=torch.bool)
        of = torch.zeros(len(some), dtype=torch.long, device=some.device)
    found: dict[str, list[int]] = {}
    for pattern in patterns.tolist():
        off = frozenset(name for name, is_off in zip(readers, pattern, strict=False) if is_off)
        lost = frozenset(
            name for name, is_off in zip(blocks, pattern[len(readers) :], strict=True) if is_off
        )
        for name, number in _whole_or_left(structure, counts, off, lost).items():
            found.setdefault(name, []).append(number)
    return {name: torch.tensor(numbers, device=of.device)[of] for name, numbers in found.items()}


def _whole_or_left(
    structure: Structure, counts: Counts, empty: frozenset[str], gone: frozenset[str]
) -> dict[str, int]:
    """What `elsewhere` returns, of one network."""
    norms = _inner(structure)
    apart = frozenset([*(norm.name for norm in norms), *(layer.name for layer in structure.layers)])
    if empty or gone:
        entries = frozenset(
            [*structure.parameters, *(name for norm in norms for name in norm.parameters)]
        )
        left = flow.left(structure.flow, empty, gone, apart, entries)
        return {
            "flops": left.flops,
            "params": left.params,
            **{name: int(name in left.modules) for name in apart},
        }
    flops, params = counts.flops, counts.params
    for layer in structure.layers:
        flops -= counts.layers.get(layer.name, 0)
        params -= layer.units * (layer.columns * math.prod(layer.kernel) + (layer.bias is not None))
    params -= sum(len(norm.parameters) * norm.units for norm in norms)
    return {"flops": flops, "params": params, **dict.fromkeys(apart, 1)}
