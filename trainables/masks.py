"""Masks by rank: exact counts, ties broken by position. Functions of one network, fit for `vmap`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .structure import Layer, Structure

Tensors = Mapping[str, Tensor]


def flat(layer: Layer, values: Tensors) -> Tensor:
    """One layer's weights and biases in one vector (n,)."""
    return torch.cat([values[name].flatten() for name in layer.parameters])


def unflat(layer: Layer, vector: Tensor, like: Tensors) -> dict[str, Tensor]:
    """The tensors of `layer`, shaped like `like`, out of a vector (n,)."""
    parts = vector.split([like[name].numel() for name in layer.parameters])
    return {name: part.view(like[name].shape) for name, part in zip(layer.parameters, parts, strict=True)}


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


def layerwise(structure: Structure, scores: Tensors, sparsity: Tensor) -> dict[str, Tensor]:
    """Each layer keeps its highest scores: the same share removed of every layer."""
    masks: dict[str, Tensor] = {}
    for layer in structure.layers:
        vector = flat(layer, scores)
        masks |= unflat(layer, top(vector, kept_count(sparsity, len(vector))), scores)
    return masks


def everywhere(structure: Structure, scores: Tensors, sparsity: Tensor, floor: Tensor) -> dict[str, Tensor]:
    """The network keeps its highest scores wherever they are, but every layer at least the share `floor` of its own."""
    vectors = {layer.name: flat(layer, scores) for layer in structure.layers}
    lifted = [vector.masked_fill(top(vector, floor_count(floor, len(vector))), torch.inf) for vector in vectors.values()]
    joined = torch.cat(lifted)
    keep = top(joined, kept_count(sparsity, len(joined)))
    parts = keep.split([len(vector) for vector in vectors.values()])
    masks: dict[str, Tensor] = {}
    for layer, part in zip(structure.layers, parts, strict=True):
        masks |= unflat(layer, part, scores)
    return masks


def apply(params: Tensors, masks: Tensors) -> dict[str, Tensor]:
    """Parameters with what is removed set to zero; the gradient of a removed entry is zero."""
    # As bytes: torch multiplies by a bool mask entry by entry on a CPU, three times slower.
    return {name: p * masks[name].view(torch.uint8) if name in masks else p for name, p in params.items()}
