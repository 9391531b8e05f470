"""Gate patterns drawn at random, and examples with the column of ones that gives neurons a bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training import draws


def gate_vectors(seed: Tensor, count: int, length: int) -> Tensor:
    """h_1, ..., h_P ~ N(0, I), (count, length) float64, the same for a seed whenever they are asked
    for. seed: () int64.
    """
    key = draws.key(seed, "gates")
    uniform = draws.uniform(key, (count, length))
    symmetric = 2 * uniform - 1
    inside = symmetric + 2.0**-53  # never at an end of (-1, 1)
    normal = torch.erfinv(inside)
    return math.sqrt(2) * normal


def pair_vectors(seed: Tensor, count: int, X: Tensor) -> Tensor:
    """Vectors (count, d) float64 whose hyperplanes lie halfway between random pairs of examples.

    X: (n, d), its last column ones. seed: () int64. A gate opens for the first of its pair, which
    it separates from the second; of a pair of equal examples the gate is open for all.
    """
    n = len(X)
    key = draws.key(seed, "pairs")
    uniform = draws.uniform(key, (count, 2))
    first, shift = uniform.unbind(1)
    one = (first * n).long()
    other = (one + 1 + (shift * (n - 1)).long()) % n
    examples = X[:, :-1].double()
    across = examples[one] - examples[other]
    middle = (examples[one] + examples[other]) / 2
    offset = -(across * middle).sum(1, keepdim=True)
    return torch.cat([across, offset], 1)


def with_ones(features: Tensor) -> Tensor:
    """(n, d) as (n, d + 1), ones last."""
    return F.pad(features, (0, 1), value=1.0)


def patterns(X: Tensor, vectors: Tensor) -> Tensor:
    """(n, P) bool: on which examples X (n, d) a neuron with weights of `vectors` (P, d) would be
    active.
    """
    return (X.double() @ vectors.mT) >= 0
