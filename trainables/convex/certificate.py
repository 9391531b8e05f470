"""How near its optimum a point of the convex program is: a lower bound by duality, and what is left
of the KKT conditions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .program import Program

_CONSTRAINTS = (-3, -2, -1)
"""Dimensions of what the constraints of one program see."""
_GROUPS = (-2, -1)
"""Dimensions of one program's groups."""


class Certificate(NamedTuple):
    """For each program, all (...,).

    primal: value of the program at v.  dual: no feasible point has a lower value.  price:
    multipliers times violated constraints; 0 for a feasible point.  With optimal multipliers primal
    + price is no less than the optimum; before, the value of a point that is not feasible may be
    too low by more.
    violation: of G v >= 0, relative to the largest entry of G v.  stationarity: relative to beta.
    All of it is about the sampled gates: networks with other patterns may do better.
    """

    primal: Tensor
    dual: Tensor
    price: Tensor
    violation: Tensor
    stationarity: Tensor

    @property
    def gap(self) -> Tensor:
        """primal + price - dual, never negative but for rounding; 0 only at an optimum."""
        return self.primal + self.price - self.dual


def certificate(
    program: Program,
    y: Tensor,
    beta: Tensor,
    v: Tensor,
    multipliers: Tensor,
) -> Certificate:
    """Of neurons v (..., 2, P, d) and multipliers (..., 2, P, n), at least 0, of G v >= 0. y: (...,
    n).  beta: (...,).

    With theta = F v - y and m the multipliers, (s theta, s m) is dual feasible if no |F' theta - G'
    m| of a group, the largest of which is a, exceeds beta / s; the dual value -s^2 |theta|^2 / 2 -
    s theta'y is largest at s = clip(-theta'y / |theta|^2, 0, beta / a).
    """
    theta = program.F(v) - y
    seen = program.G(v)
    square = theta.square().sum(-1)
    along = (theta * y).sum(-1)
    gradient = program.Ft(theta) - program.Gt(multipliers)
    steep = gradient.norm(dim=-1)
    norms = v.norm(dim=-1)
    most = beta / steep.amax(_GROUPS)
    best = (-along / square).clamp(min=0)
    best = best.nan_to_num(0.0)
    scale = torch.minimum(best, most)
    below = (-seen).clamp(min=0)
    price = (below * multipliers).sum(_CONSTRAINTS)
    largest = seen.abs().amax(_CONSTRAINTS)
    violation = below.amax(_CONSTRAINTS) / largest
    apart = _apart(gradient, steep, beta, v, norms)
    penalty = beta * norms.sum(_GROUPS)
    quadratic = -(scale.square()) * square / 2
    return Certificate(
        primal=square / 2 + penalty,
        dual=quadratic - scale * along,
        price=scale * price,
        violation=torch.where(largest > 0, violation, 0),
        stationarity=apart / beta,
    )


def _apart(
    gradient: Tensor,
    steep: Tensor,
    beta: Tensor,
    v: Tensor,
    norms: Tensor,
) -> Tensor:
    """How far 0 is from the subdifferential at v, of the group where it is farthest, (...,).

    gradient: (..., 2, P, d), of what is smooth.  steep, norms: (..., 2, P), lengths of its rows and
    of those of v.
    """
    beta = beta[..., None, None]
    smallest = torch.finfo(v.dtype).tiny
    lengths = norms.clamp(min=smallest)
    pull = beta[..., None] * v
    pull = pull / lengths[..., None]
    alive = (gradient + pull).norm(dim=-1)
    at_zero = (steep - beta).clamp(min=0)
    is_neuron = norms > 0
    apart = torch.where(is_neuron, alive, at_zero)
    return apart.amax(_GROUPS)
