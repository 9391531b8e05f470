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


def with_ones(features: Tensor) -> Tensor:
    """(n, d) as (n, d + 1), ones last."""
    return F.pad(features, (0, 1), value=1.0)


def patterns(X: Tensor, vectors: Tensor) -> Tensor:
    """(n, P) bool: on which examples X (n, d) a neuron with weights of `vectors` (P, d) would be
    active.
    """
    return (X.double() @ vectors.mT) >= 0
