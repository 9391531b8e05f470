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
    root = v.norm(dim=-1).sqrt()
    signs = torch.tensor([1.0, -1.0], dtype=v.dtype, device=v.device)[:, None]
    return torch.where(root[..., None] > 0, v / root[..., None], 0), signs * root


def layers(v: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden layer (m, d) and the second layer (C, m) of one solution v (C, 2, P, d), m = 2 C
    P.

    There is a unit for each class, sign and gate, which feeds its class only; all weights of a
    group that is zero are zero.
    """
    hidden, outer = relu_weights(v)
    return hidden.flatten(0, 2), torch.block_diag(*outer.flatten(1)[:, None])


def two_layer(v: Tensor) -> nn.Sequential:
    """The network without biases of one solution v (C, 2, P, d): d inputs, a hidden unit for each
    non-zero group, C outputs.
    """
    (hidden, outer), some = layers(v), v.norm(dim=-1).flatten() > 0
    return nn.Sequential(_linear(hidden[some]), nn.ReLU(), _linear(outer[:, some]))


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(
        1, 1, bias=False
    )  # a layer without units would warn that there is nothing to initialise
    layer.in_features, layer.out_features = weight.shape[1], weight.shape[0]
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
        while (alive := group.norm(dim=-1).nonzero()[:, 0]).numel() > 1:
            active = (X @ group[alive].mT).clamp(min=0).double()
            lengths = active.norm(dim=0)
            if (dead := lengths == 0).any():  # it answers nothing, anywhere on X
                group[alive[dead]] = 0
                continue
            few = len(active) < len(
                alive
            )  # then what depends is no row of a thin factor; of many examples U would be (n, n)
            _, singular, right = torch.linalg.svd(active / lengths, full_matrices=few)
            if len(singular) == len(alive) and singular[-1] > RANK * singular[0]:
                break
            change = right[-1] / lengths
            change = change if -change.min() > change.max() else -change
            first = change.argmin()
            factors = (1 - change / change[first]).clamp(min=0)
            factors[first] = 0
            group[alive] *= factors[:, None].to(v.dtype)
    return v


def refit(hidden: Tensor, Y: Tensor) -> Tensor:
    """The second layer (C, m + 1), bias last, that fits targets Y (C, n) best in squares, of least
    norm among equals.

    hidden: activations (n, m) of the first layer.
    """
    active = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1).double()
    return (
        torch.linalg.pinv(active.mT @ active, rtol=RANK, hermitian=True)
        @ (active.mT @ Y.mT.double())
    ).mT
