"""From neurons of the convex program to a ReLU network, and what may be done to it afterwards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RANK = 1e-10
"""Activations are dependent if a unit combination of them, each scaled to length 1, is shorter than
this (in float64).
"""


def relu_weights(v: Tensor) -> tuple[Tensor, Tensor]:
    """First-layer weights (..., 2, P, d) and second-layer weights (..., 2, P) of neurons v: v /
    sqrt|v| and +-sqrt|v|.

    Half the squares of both layers' weights then sum to sum |v|. A group that is zero is no neuron:
    all its weights are.
    """
    lengths = v.norm(dim=-1, keepdim=True)
    roots = lengths.sqrt()
    is_neuron = roots > 0
    hidden = torch.where(is_neuron, v / roots, 0)
    signs = torch.tensor([1.0, -1.0], dtype=v.dtype)
    signs = signs.to(v.device, non_blocking=True)
    outer = signs[:, None] * roots[..., 0]
    return hidden, outer


def layers(v: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden layer (m, d) and the second layer (C, m) of one solution v (C, 2, P, d), m = 2 C
    P.

    There is a unit for each class, sign and gate, which feeds its class only; all weights of a
    group that is zero are zero.
    """
    hidden, outer = relu_weights(v)
    by_class = outer.flatten(1)
    rows = by_class[:, None]
    second = torch.block_diag(*rows)
    return hidden.flatten(0, 2), second


def two_layer(v: Tensor) -> nn.Sequential:
    """The network without biases of one solution v (C, 2, P, d): d inputs, a hidden unit for each
    non-zero group, C outputs.
    """
    hidden, outer = layers(v)
    lengths = v.norm(dim=-1)
    alive = lengths.flatten() > 0
    first = _linear(hidden[alive])
    second = _linear(outer[:, alive])
    return nn.Sequential(first, nn.ReLU(), second)


def _linear(weight: Tensor) -> nn.Linear:
    # A layer made without units would warn that there is nothing to initialise.
    layer = nn.Linear(1, 1, bias=False)
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.clone())
    return layer


def prune_dependent(v: Tensor, X: Tensor) -> Tensor:
    """Neurons (C, 2, P, d) that give the same predictions on X (n, d), no more of a class and sign
    than are independent there.

    Where activations of neurons of one class and sign are linearly dependent, sum_i a_i (X v_i)_+ =
    0, scaling v_i by 1 + t a_i changes no prediction until a neuron vanishes (Mishkin & Pilanci
    2023, optimal neuron pruning); at an optimum of the program it changes no sum of norms either.
    Other inputs than X may be answered differently.
    """
    v = v.clone()
    for group in v.flatten(0, 1):
        while _drop_dependent(group, X):
            continue
    return v


def _drop_dependent(group: Tensor, X: Tensor) -> bool:
    """Make a neuron of `group` (P, d) vanish that the others replace; False if there is none."""
    alive = group.norm(dim=-1).nonzero()[:, 0]
    if len(alive) <= 1:
        return False
    active = (X @ group[alive].mT).clamp(min=0).double()
    lengths = active.norm(dim=0)
    silent = lengths == 0  # on all of X
    if silent.any():
        group[alive[silent]] = 0
        return True
    dependence = _dependence(active / lengths)
    if dependence is None:
        return False
    change = dependence / lengths
    if not -change.min() > change.max():
        change = -change
    first = change.argmin()
    factors = (1 - change / change[first]).clamp(min=0)
    factors[first] = 0
    group[alive] *= factors[:, None].to(group.dtype)
    return True


def _dependence(columns: Tensor) -> Tensor | None:
    """A unit vector (m,) that combines the columns of (n, m) to as good as zero; None if they are
    independent.
    """
    n, m = columns.shape
    # With n < m what depends is no row of a thin factor; with many examples U would be (n, n).
    is_wide = n < m
    _, singular, right = torch.linalg.svd(columns, full_matrices=is_wide)
    if is_wide:
        return right[-1]
    rounding = RANK * singular[0]
    if singular[-1] > rounding:
        return None
    return right[-1]


def refit(hidden: Tensor, Y: Tensor) -> Tensor:
    """The second layer (C, m + 1), bias last, that fits targets Y (C, n) best in squares, of least
    norm among equals.

    hidden: activations (n, m) of the first layer.
    """
    ones = hidden.new_ones(len(hidden), 1)
    active = torch.cat([hidden, ones], 1).double()
    gram = active.mT @ active
    inverse = torch.linalg.pinv(gram, rtol=RANK, hermitian=True)
    right = active.mT @ Y.mT.double()
    fitted = inverse @ right
    return fitted.mT
