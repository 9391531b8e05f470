"""The heads of CRONOS-AM: how the last two layers are found for features as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .. import convex

TOLERANCE = 1e-4
"""At which a solve of the convex head ends, if it comes so near."""


@dataclasses.dataclass
class Problem:
    """What one member's head is solved for.

    features: (n, d) float64.  targets: (n, classes) float64.  size: of a feature, the root of the
    mean square.  own: the first layer that the member has, (units, d + 1), its bias last.
    flops: of computing the features.
    """

    features: Tensor
    targets: Tensor
    beta: Tensor
    seed: Tensor
    size: Tensor
    own: Tensor
    flops: int
    iterations: int
    gates: int

    @property
    def unit(self) -> Tensor:
        """The size, or 1 where features are all zero.

        Features are divided by it at every solve, so that beta and the gates keep their meaning.
        """
        is_positive = self.size > 0
        return torch.where(is_positive, self.size, 1.0)

    @property
    def vectors(self) -> Tensor:
        """The P vectors (P, d + 1) that give the gates."""
        columns = self.own.shape[1]
        return convex.gate_vectors(self.seed, self.gates, columns)

    @property
    def random_units(self) -> Tensor:
        """As many random vectors (units, d + 1) as the hidden layer has units."""
        units, columns = self.own.shape
        return convex.gate_vectors(self.seed, units, columns)


class Solved(NamedTuple):
    """A head. hidden: (m, d + 1), bias last, for features divided by `size`.  outer: (classes, m).
    bias: (classes,).  proof: primal value and gap.
    """

    hidden: Tensor
    size: Tensor
    outer: Tensor
    bias: Tensor
    flops: int
    proof: tuple[Tensor, Tensor] | None = None


def _convex(problem: Problem) -> Solved:
    """Both layers are the optimum of the convex program for these gates."""
    features = problem.features / problem.unit
    x = convex.with_ones(features)
    vectors = problem.vectors
    targets = problem.targets
    given = x @ vectors.mT
    optimum = convex.solve(
        x,
        targets.mT,
        given >= 0,
        problem.beta[None],
        iterations=problem.iterations,
        tolerance=TOLERANCE,
    )
    v = optimum.v[0]
    hidden, outer = convex.layers(v.mT)
    flops = _given_flops(problem, vectors)
    flops += int(optimum.flops[0])
    return Solved(
        hidden=hidden,
        size=problem.unit,
        outer=outer,
        bias=targets.new_zeros(targets.shape[1]),
        flops=flops,
        proof=(optimum.objective[0], optimum.gap[0]),
    )


def _least_squares(problem: Problem) -> Solved:
    """The hidden layer stays as it is, the last one is a ridge regression."""
    return _regressed(problem, problem.own, torch.ones_like(problem.size))


def _random_features(problem: Problem) -> Solved:
    """The hidden layer is random, drawn as gates are, and the last one a ridge regression."""
    return _regressed(problem, problem.random_units, problem.unit)


def _regressed(problem: Problem, hidden: Tensor, size: Tensor) -> Solved:
    features = problem.features / size
    x = convex.with_ones(features)
    given = x @ hidden.mT
    outer, bias = ridge(given.relu(), problem.targets, problem.beta)
    n, classes = problem.targets.shape
    m = len(hidden) + 1
    regression = 2 * n * m * (m + classes)  # Gram matrix and right-hand side
    return Solved(
        hidden=hidden,
        size=size,
        outer=outer,
        bias=bias,
        flops=_given_flops(problem, hidden) + regression,
    )


HEADS: Mapping[str, Callable[[Problem], Solved]] = {
    "convex": _convex,
    "least_squares": _least_squares,
    "random_features": _random_features,
}
"""How the last two layers are solved for; the other heads are not."""


def _given_flops(problem: Problem, hidden: Tensor) -> int:
    """FLOPs of what a hidden layer is given by all examples, their features included."""
    examples = len(problem.features)
    units, columns = hidden.shape
    return problem.flops + 2 * examples * columns * units


def ridge(hidden: Tensor, targets: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (C, m) and biases (C,) that minimise 1/2 |hidden W' + b - targets|^2 + beta/2 (|W|^2
    + |b|^2).

    hidden: (n, m).  targets: (n, C).  beta: () > 0.
    """
    x = convex.with_ones(hidden)
    identity = torch.eye(
        x.shape[1],
        dtype=x.dtype,
        device=x.device,
    )
    gram = x.mT @ x + beta * identity
    right = x.mT @ targets
    solved = torch.linalg.solve_ex(gram, right)
    solution = solved.result.mT
    weights = solution[:, :-1]
    biases = solution[:, -1]
    return weights, biases
