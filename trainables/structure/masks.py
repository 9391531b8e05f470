"""Masks by rank: exact counts, ties broken by position. Functions of one network, for `vmap`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..domain import Domain
from .units import Layer, Structure, node_masks

Named = dict[str, Tensor]
Tensors = Mapping[str, Tensor]
Masks = Named
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
    vectors = [values[name].flatten() for name in layer.parameters]
    return torch.cat(vectors)


def unflat(layer: Layer, vector: Tensor, like: Tensors) -> Named:
    """The tensors of `layer`, shaped like `like`, out of a vector (n,)."""
    sizes = [like[name].numel() for name in layer.parameters]
    parts = vector.split(sizes)
    tensors: Named = {}
    for name, part in zip(layer.parameters, parts, strict=True):
        shape = like[name].shape
        tensors[name] = part.view(shape)
    return tensors


def top(scores: Tensor, count: Tensor | int) -> Tensor:
    """(n,) bool: exactly the `count` highest of scores (n,), earlier ones first among equals."""
    order = torch.argsort(scores, descending=True, stable=True)
    ranks = torch.argsort(order, stable=True)
    return ranks < count


def kept_count(sparsity: Tensor, size: int) -> Tensor:
    """How many of `size` a sparsity keeps: the nearest whole number, and at least one."""
    share = 1 - sparsity
    count = torch.round(share * size)
    return torch.clamp(count, min=1)


def floor_count(floor: Tensor, size: int) -> Tensor:
    """The least that a share `floor` of `size` comes to: rounded up, and at least one."""
    count = torch.ceil(floor * size)
    return torch.clamp(count, min=1)


def allocate(
    structure: Structure,
    vectors: Tensors,
    sparsity: Tensor,
    allocation: str,
    floor: Tensor | None = None,
) -> Masks:
    """Layer -> (n,) bool: the highest of the layer's scores (n,), one score for each thing that can
    be removed.

    uniform: every layer loses the same share.  global: one ranking of all scores, but a layer keeps
    at least one, or the share `floor`.  erdos-renyi: shares kept are in proportion to (sum of the
    weight's extents) / (product of them), so that small layers lose less (Mocanu et al. 2018; with
    kernels, Evci et al. 2020).
    """
    if allocation == "global":
        return _ranked_together(vectors, sparsity, floor)
    shares: Tensors = {}
    if allocation == "erdos-renyi":
        shares = _erdos_renyi(structure, vectors, sparsity)
    masks: Masks = {}
    for name, vector in vectors.items():
        removed = sparsity
        if name in shares:
            removed = 1 - shares[name]
        count = kept_count(removed, len(vector))
        masks[name] = top(vector, count)
    return masks


def _ranked_together(vectors: Tensors, sparsity: Tensor, floor: Tensor | None) -> Masks:
    """The highest of all scores, and of each layer at least one, or the share `floor`."""
    lifted: list[Tensor] = []
    for vector in vectors.values():
        least: Tensor | int = 1
        if floor is not None:
            least = floor_count(floor, len(vector))
        is_protected = top(vector, least)
        safe = vector.masked_fill(is_protected, torch.inf)
        lifted.append(safe)
    joined = torch.cat(lifted)
    count = kept_count(sparsity, len(joined))
    sizes = [len(vector) for vector in lifted]
    kept = top(joined, count)
    parts = kept.split(sizes)
    return dict(zip(vectors, parts, strict=True))


def _erdos_renyi(structure: Structure, vectors: Tensors, sparsity: Tensor) -> Tensors:
    """Layer -> the share () that it keeps, 1 - sparsity over all layers."""
    densities: list[float] = []
    sizes: list[int] = []
    layers = {layer.name: layer for layer in structure.layers}
    for name, vector in vectors.items():
        layer = layers[name]
        extents = (layer.units, layer.columns, *layer.kernel)
        density_of_layer = sum(extents) / math.prod(extents)
        densities.append(density_of_layer)
        sizes.append(len(vector))
    device = sparsity.device
    density = torch.tensor(densities, dtype=torch.float64).to(device)
    size = torch.tensor(sizes, dtype=torch.float64).to(device)
    whole = torch.zeros_like(density, dtype=torch.bool)
    shares = torch.zeros_like(density)
    # In each turn, layers whose share would exceed 1 are kept whole, and the others lose more.
    for _ in sizes:
        taken = (size * whole).sum()
        kept_in_all = (1 - sparsity) * size.sum()
        budget = kept_in_all - taken
        weight = (density * size * ~whole).sum()
        scaled = density * budget / weight.clamp(min=1e-12)
        shares = torch.where(whole, 1.0, scaled)
        exceeds = shares >= 1
        whole = whole | exceeds
    kept = shares.clamp(0, 1).unbind()
    return dict(zip(vectors, kept, strict=True))


def weights(
    structure: Structure,
    scores: Tensors,
    sparsity: Tensor,
    allocation: str = "uniform",
    floor: Tensor | None = None,
) -> Masks:
    """Masks that keep the highest scores of weights and biases; `allocate` says how many of each
    layer.

    scores: removable parameter -> scores of its shape.
    """
    vectors = {layer.name: flat(layer, scores) for layer in structure.layers}
    keep = allocate(structure, vectors, sparsity, allocation, floor)
    masks: Masks = {}
    for layer in structure.layers:
        masks |= unflat(layer, keep[layer.name], scores)
    return masks


def random_units(
    structure: Structure,
    draw: Draw,
    sparsity: Tensor,
    allocation: str,
) -> Masks:
    """Hidden layer -> (units,) bool: a random subset of its units; `allocate` says how large."""
    scores: Named = {}
    for layer in structure.hidden:
        scores[layer.name] = draw(layer.name, (layer.units,))
    return allocate(structure, scores, sparsity, allocation)


def at_random(
    structure: Structure,
    like: Tensors,
    draw: Draw,
    sparsity: Tensor,
    granularity: str,
    allocation: str,
) -> Masks:
    """Random masks of parameters shaped like `like`.

    weight: of a layer's weights and biases together.  node: of hidden units; removing one removes
    its row, its bias and its outgoing columns.
    """
    if granularity == "node":
        alive = random_units(structure, draw, sparsity, allocation)
        return node_masks(structure, alive, like)
    scores: Named = {}
    for name in structure.parameters:
        shape = tuple(like[name].shape)
        scores[name] = draw(name, shape)
    return weights(structure, scores, sparsity, allocation)


def apply(params: Tensors, masks: Tensors) -> Named:
    """Parameters with what is removed set to zero; the gradient of a removed entry is zero."""
    left = dict(params)
    for name, parameter in params.items():
        if name not in masks:
            continue
        # As bytes: torch multiplies by a bool mask entry by entry on a CPU, three times slower.
        mask = masks[name].view(torch.uint8)
        left[name] = parameter * mask
    return left
