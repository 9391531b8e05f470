"""Masks by rank: exact counts, ties broken by position. Functions of one network, fit for `vmap`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..domain import Domain
from .units import Layer, Structure, node_masks

Tensors = Mapping[str, Tensor]
Draw = Callable[[str, tuple[int, ...]], Tensor]
"""(site, shape) -> numbers in [0, 1)."""

GRANULARITY = Domain("choice", "weight", "what is removed", choices=("weight", "node"), static=True)
ALLOCATION = Domain(
    "choice",
    "uniform",
    "how removal is spread over layers",
    choices=("uniform", "global", "erdos-renyi"),
    static=True,
)


def flat(layer: Layer, values: Tensors) -> Tensor:
    """One layer's weights and biases in one vector (n,)."""
    return torch.cat([values[name].flatten() for name in layer.parameters])


def unflat(layer: Layer, vector: Tensor, like: Tensors) -> dict[str, Tensor]:
    """The tensors of `layer`, shaped like `like`, out of a vector (n,)."""
    parts = vector.split([like[name].numel() for name in layer.parameters])
    return {
        name: part.view(like[name].shape)
        for name, part in zip(layer.parameters, parts, strict=True)
    }


def top(scores: Tensor, count: Tensor | int) -> Tensor:
    """(n,) bool: exactly the `count` highest of scores (n,), earlier positions first among equals."""
    ranks = torch.argsort(torch.argsort(scores, descending=True, stable=True), stable=True)
    return ranks < count


def kept_count(sparsity: Tensor, size: int) -> Tensor:
    """How many of `size` a sparsity keeps: the nearest whole number, and at least one."""
    return torch.clamp(torch.round((1 - sparsity) * size), min=1)


def floor_count(floor: Tensor, size: int) -> Tensor:
    """The least that a share `floor` of `size` comes to: rounded up, and at least one."""
    return torch.clamp(torch.ceil(floor * size), min=1)


def allocate(
    structure: Structure,
    vectors: Tensors,
    sparsity: Tensor,
    allocation: str,
    floor: Tensor | None = None,
) -> dict[str, Tensor]:
    """Layer -> (n,) bool: the highest of the layer's scores (n,), one score for each thing that can
    be removed.

    uniform: every layer loses the same share.  global: one ranking of all scores, but a layer keeps
    at least one, or the share `floor`.  erdos-renyi: shares kept are in proportion to (sum of the
    weight's extents) / (product of them), so that small layers lose less (Mocanu et al. 2018; with
    kernels, Evci et al. 2020).
    """
    if allocation == "uniform":
        return {
            name: top(vector, kept_count(sparsity, len(vector))) for name, vector in vectors.items()
        }
    if allocation == "erdos-renyi":
        shares = _erdos_renyi(
            structure, {name: len(vector) for name, vector in vectors.items()}, sparsity
        )
        return {
            name: top(vector, kept_count(1 - shares[name], len(vector)))
            for name, vector in vectors.items()
        }
    least = {
        name: 1 if floor is None else floor_count(floor, len(vector))
        for name, vector in vectors.items()
    }
    lifted = [
        vector.masked_fill(top(vector, least[name]), torch.inf) for name, vector in vectors.items()
    ]
    joined = torch.cat(lifted)
    keep = top(joined, kept_count(sparsity, len(joined)))
    parts = keep.split([len(vector) for vector in vectors.values()])
    return dict(zip(vectors, parts, strict=True))


def _erdos_renyi(
    structure: Structure, sizes: Mapping[str, int], sparsity: Tensor
) -> dict[str, Tensor]:
    """Layer -> the share () that it keeps, 1 - sparsity over all layers."""
    extents = {
        layer.name: (layer.units, layer.columns, *layer.kernel) for layer in structure.layers
    }
    raw = torch.tensor(
        [sum(extents[name]) / math.prod(extents[name]) for name in sizes], dtype=torch.float64
    )
    size = torch.tensor(list(sizes.values()), dtype=torch.float64)
    raw, size = raw.to(sparsity.device), size.to(sparsity.device)
    whole = torch.zeros_like(raw, dtype=torch.bool)
    shares = torch.zeros_like(raw)
    for _ in (
        sizes
    ):  # in each turn, layers whose share would exceed 1 are kept whole, and the others lose more
        budget = (1 - sparsity) * size.sum() - (size * whole).sum()
        shares = torch.where(
            whole, 1.0, raw * budget / (raw * size * ~whole).sum().clamp(min=1e-12)
        )
        whole = whole | (shares >= 1)
    return dict(zip(sizes, shares.clamp(0, 1).unbind(), strict=True))


def weights(
    structure: Structure,
    scores: Tensors,
    sparsity: Tensor,
    allocation: str = "uniform",
    floor: Tensor | None = None,
) -> dict[str, Tensor]:
    """Masks that keep the highest scores of weights and biases; `allocate` says how many of each
    layer.

    scores: removable parameter -> scores of its shape.
    """
    found = allocate(
        structure,
        {layer.name: flat(layer, scores) for layer in structure.layers},
        sparsity,
        allocation,
        floor,
    )
    masks: dict[str, Tensor] = {}
    for layer in structure.layers:
        masks |= unflat(layer, found[layer.name], scores)
    return masks


def random_units(
    structure: Structure, draw: Draw, sparsity: Tensor, allocation: str
) -> dict[str, Tensor]:
    """Hidden layer -> (units,) bool: a random subset of its units; `allocate` says how large."""
    drawn = {layer.name: draw(layer.name, (layer.units,)) for layer in structure.hidden}
    return allocate(structure, drawn, sparsity, allocation)


def at_random(
    structure: Structure,
    like: Tensors,
    draw: Draw,
    sparsity: Tensor,
    granularity: str,
    allocation: str,
) -> dict[str, Tensor]:
    """Random masks of parameters shaped like `like`.

    weight: of a layer's weights and biases together.  node: of hidden units; removing one removes
    its row, its bias and its outgoing columns.
    """
    if granularity == "node":
        return node_masks(structure, random_units(structure, draw, sparsity, allocation), like)
    drawn = {name: draw(name, tuple(like[name].shape)) for name in structure.parameters}
    return weights(structure, drawn, sparsity, allocation)


def apply(params: Tensors, masks: Tensors) -> dict[str, Tensor]:
    """Parameters with what is removed set to zero; the gradient of a removed entry is zero."""
    # As bytes: torch multiplies by a bool mask entry by entry on a CPU, three times slower.
    return {
        name: p * masks[name].view(torch.uint8) if name in masks else p
        for name, p in params.items()
    }
