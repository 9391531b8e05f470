"""From neurons of a convex program to the network of CRONOS: selection, refit, two classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import convex


class _Layers(NamedTuple):
    """A hidden layer (m, d), bias last, of which `is_neuron` (m,) are units, and a second layer (C,
    m) with its bias (C,).
    """

    hidden: Tensor
    is_neuron: Tensor
    outer: Tensor
    offset: Tensor
    has_offset: bool


def network(v: Tensor, X: Tensor, Y: Tensor, hp: Mapping[str, Any], most: int) -> dict[str, Tensor]:
    """Steps 3 and 4 of CRONOS: the network of neurons v (C, 2, P, d), its bias apart, and what of
    it is kept.

    most: neurons at most; 0: as many as there are.
    """
    if most and hp["select"] != "greedy":
        v = _longest(v, most)
    layers = _as_solved(v)
    if hp["select"] == "greedy":
        layers = _selected(layers, X, Y, most)
    elif hp["refit"] == "yes":
        layers = _refitted(layers, X, Y)
    is_neuron = layers.is_neuron
    kept = layers.outer != 0
    if layers.has_offset:
        kept = is_neuron.expand_as(layers.outer)
    outer = _of_classes(layers.outer)
    offset = _of_classes(layers.offset)
    columns = layers.hidden.shape[1] - 1
    return {
        "hidden": layers.hidden[:, :-1],
        "hidden kept": is_neuron[:, None].expand(-1, columns),
        "bias": layers.hidden[:, -1],
        "bias kept": is_neuron,
        "outer": outer,
        "outer kept": kept.expand_as(outer),
        "offset": offset,
        "offset kept": torch.full_like(offset, layers.has_offset, dtype=torch.bool),
    }


def random_neurons(seed: Tensor, like: Tensor) -> Tensor:
    """Random ReLU units in the place of each neuron, (C, 2, P, d), whose class, sign and gate then
    mean nothing.
    """
    *places, columns = like.shape
    drawn = convex.gate_vectors(seed, torch.Size(places).numel(), columns)
    return drawn.to(like).view(like.shape)


def _longest(v: Tensor, most: int) -> Tensor:
    """The neurons v (C, 2, P, d) of the largest lengths, ties broken by place; others zero."""
    lengths = v.norm(dim=-1)
    order = lengths.flatten().argsort(descending=True, stable=True)
    is_longest = torch.zeros_like(order, dtype=torch.bool)
    is_longest[order[:most]] = True
    stays = is_longest.view(lengths.shape)
    return torch.where(stays[..., None], v, 0)


def _as_solved(v: Tensor) -> _Layers:
    hidden, outer = convex.layers(v)
    lengths = v.norm(dim=-1)
    offset = outer.new_zeros(len(outer))
    return _Layers(hidden, lengths.flatten() > 0, outer, offset, has_offset=False)


def _selected(layers: _Layers, X: Tensor, Y: Tensor, most: int) -> _Layers:
    """The neurons that explain most, with the second layer that fits them best."""
    places, active = _active(layers, X)
    choice = convex.Selection(active, Y)
    order = choice.order(most)
    fitted = choice.layer(order)
    fitted = fitted.to(layers.outer)
    selected = places[order]
    is_selected = torch.zeros_like(layers.is_neuron)
    is_selected[selected] = True
    rows = is_selected[:, None]
    outer = torch.zeros_like(layers.outer)
    outer[:, places] = fitted[:, :-1]
    return _Layers(
        hidden=torch.where(rows, layers.hidden, 0),
        is_neuron=is_selected,
        outer=outer,
        offset=fitted[:, -1],
        has_offset=True,
    )


def _refitted(layers: _Layers, X: Tensor, Y: Tensor) -> _Layers:
    """All neurons, with the second layer that fits them best."""
    places, active = _active(layers, X)
    fitted = convex.refit(active, Y)
    fitted = fitted.to(layers.outer)
    outer = torch.zeros_like(layers.outer)
    outer[:, places] = fitted[:, :-1]
    return layers._replace(
        outer=outer,
        offset=fitted[:, -1],
        has_offset=True,
    )


def _active(layers: _Layers, X: Tensor) -> tuple[Tensor, Tensor]:
    """The places (k,) of neurons, and their activations (n, k)."""
    (places,) = layers.is_neuron.nonzero(as_tuple=True)
    neurons = layers.hidden[places]
    given = X @ neurons.mT
    active = given.clamp(min=0)
    return places, active


def _of_classes(second: Tensor) -> Tensor:
    """What a second layer (C, ...) gives each class; of two, which have one program, the second's
    logit is its value and the first's the negative.
    """
    if len(second) > 1:
        return second
    return torch.cat([-second, second])
