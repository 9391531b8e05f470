"""Many convex programs solved together: labels of several classes, and a whole path of
regularisation weights.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Literal

import torch
from torch import Tensor, nn

from .. import pulse
from .admm import Anderson, Iterate, between, iterate
from .certificate import Certificate, certificate
from .linear import Apply, Kind, System, pcg, preconditioner
from .network import two_layer
from .program import Program, beta_max

Mode = Literal["solve", "paper"]

EXACT = 4096
"""Systems of at most so many unknowns, or examples, are solved by their whole spectrum, larger ones
by conjugate gradients.
"""
RANK = 20
"""Of the paper's sketch, which has 10 to 20. One of the whitened rest needs twice as many
directions as there are features.
"""
RHO = 0.01
"""The paper's rho is 1 to 1e-4, for all programs."""
INNER = 32, 200
"""Most iterations of conjugate gradients for one linear system, in the mode `paper` and in the mode
`solve`.
"""
LOOK = 25
"""Iterations of the mode `solve` between two looks at the certificate."""
STRIDES = 8, 4, 2, 1
"""Of a path, every eighth weight is solved for from zero, then those halfway between, and so on."""
CACHED = 400_000
"""Numbers in the z of programs that a CPU solves at a time: more would leave its cache, fewer cost
calls.
"""


@dataclasses.dataclass(frozen=True)
class Solution:
    """What `solve` found for B weights beta.

    objective: (B,), value of the convex program at v, summed over classes.  gap: (B,), at most so
    much above the optimum, as of `Certificate.gap`, summed over classes.  v: (B, C, 2, d, P),
    neurons as columns, most of them exactly zero.
    certificate: by class, (B, C) each.  iterations: (B,) of ADMM.  inner: (B,) of the linear
    solver, the most of any class.
    flops: (B,), as of `Problem.flops`.
    """

    objective: Tensor
    gap: Tensor
    v: Tensor
    certificate: Certificate
    iterations: Tensor
    inner: Tensor
    flops: Tensor

    def network(self, b: int) -> nn.Module:
        """The two-layer ReLU network of the weight at place b: (..., d) -> (..., C), without
        biases.
        """
        return two_layer(self.v[b].mT)


def usual(mode: Mode, n: int, gates: int, d: int) -> Kind:
    """The preconditioner of a mode, for n examples with d columns."""
    if mode == "paper":
        return "nystrom"
    return "exact" if min(gates * d, n) <= EXACT else "block+nystrom"


def directions(kind: Kind, n: int, gates: int, d: int) -> int:
    """The rank of a preconditioner."""
    return {"nystrom": RANK, "exact": min(gates * d, n)}.get(kind, 2 * d)


def together(n: int, gates: int, device: torch.device) -> int:
    """How many programs of the mode `solve` are iterated at a time, of however many there are."""
    return max(1, CACHED // (2 * gates * n)) if device.type == "cpu" else sys.maxsize


class Problem:
    """The programs of all classes and weights for one choice of gates, scaled, with what their
    linear systems share.

    X is divided by the mean norm of its rows, v multiplied and beta divided by it: the objective is
    the same. In the mode `solve` each example's constraints are scaled to length 1.
    """

    def __init__(
        self,
        X: Tensor,
        Y: Tensor,
        gates: Tensor,
        mode: Mode,
        preconditioning: Kind | None = None,
        rank: int | None = None,
    ) -> None:
        norms = X.norm(dim=1)
        self.mode: Mode = mode
        self.scale = 1.0 if mode == "paper" else float(norms.mean()) or 1.0
        scaled = X / self.scale
        weights = None if mode == "paper" else torch.where(norms > 0, self.scale / norms, 1)
        self.program, self.Y = Program.of(scaled, gates, weights), Y
        (n, d), count = X.shape, gates.shape[1]
        self.kind: Kind = preconditioning or usual(mode, n, count, d)
        self.rank = rank or directions(self.kind, n, count, d)
        self.system = System(self.program, self.program.gram)

    @functools.cached_property
    def apply(self) -> Apply:
        """The preconditioner; the costly part of what is shared."""
        generator = torch.Generator().manual_seed(
            0
        )  # of a sketch, which changes how fast a system is solved, not what it is
        return preconditioner(self.program, self.kind, self.rank, generator, RHO)

    @property
    def refined(self) -> bool:
        """Whether an exact solve is repeated for its residual: or the gap in float32 ends at a
        hundredth, not at 1e-5.
        """
        return self.kind == "exact" and self.program.X.dtype == torch.float32

    def flops(self, made: Tensor, used: Tensor) -> Tensor:
        """Of the products of matrices that weights rest on, (B,) int64; what they share is charged
        to each.

        made, used: (B, C), iterations of ADMM and of conjugate gradients. An iteration is four
        products with X, and one with the basis of the preconditioner and its transpose; one of
        conjugate gradients, or of refinement, is two products with X, one with the Gram matrix, and
        the preconditioner's.
        """
        (n, d), gates, one = self.program.X.shape, len(self.program.on), self.program.flops()
        thin = 4 * gates * d * self.rank
        inner = 2 * one + 4 * gates * d * d + thin
        setup = 2 * n * d * d + (
            2 * n * (gates * d) ** 2 if self.kind == "exact" else 2 * one * self.rank
        )
        return setup + made.sum(-1) * (4 * one + thin + self.refined * inner) + used.sum(-1) * inner

    def start(self, betas: Tensor) -> Iterate:
        """ADMM's start for all classes of each of the weights (B,): B C programs, the classes of a
        weight after each other.
        """
        rho = torch.full_like(betas, RHO) if self.mode == "paper" else 2 * betas / self.scale
        return Iterate.zero(self.program, rho.repeat_interleave(len(self.Y)))

    def labels(self, count: int) -> Tensor:
        """(count C, n)."""
        return self.Y.repeat(count, 1)

    def solver(self, right: Tensor, rho: Tensor, start: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The linear systems of iteration k."""
        if self.kind == "exact":
            u = self.apply(right, rho)
            if self.refined:
                u = u + self.apply(right - self.system(u, rho), rho)
            return u, torch.zeros_like(rho, dtype=torch.long)
        tolerance, most = (
            ((2 + k) ** -1.2, INNER[0])
            if self.mode == "paper"
            else (min(1e-4, (1 + k) ** -2.0), INNER[1])
        )
        return pcg(self.system, self.apply, right, rho, start, tolerance, most)

    def run(
        self, at: Iterate, betas: Tensor, begin: int, count: int, tolerance: float
    ) -> tuple[Iterate, Tensor]:
        """`count` iterations for the programs `at`, of which `begin` were made before; and how many
        each needed, (B C,).

        A program of the mode `solve` stops when its gap is at most `tolerance` of its value, and
        its violation too.
        """
        beta, y = (betas / self.scale).repeat_interleave(len(self.Y)), self.labels(len(betas))
        made = torch.zeros(len(beta), dtype=torch.long, device=beta.device)
        if self.mode == "paper":
            return iterate(self.program, y, beta, at, self.solver, begin, count, None), made + count
        at = at.select(index := torch.arange(len(beta), device=beta.device))
        (gates, n), device = self.program.on.shape, beta.device
        for going in index.split(min(len(beta), together(n, gates, device))):
            here = at.select(going)
            anderson = Anderson(here)
            for k in range(begin, begin + count, LOOK):
                found = certificate(
                    self.program, y[going], beta[going], here.v(beta[going]), here.multipliers
                )
                # Of a point that is not feasible the value may be too low by more than the price,
                # and the gap too small.
                if (
                    open_ := ~(
                        (found.gap <= tolerance * found.primal) & (found.violation <= tolerance)
                    )
                ).sum() < len(going):
                    going, here = going[open_], here.select(open_)
                    anderson.select(open_)
                if not len(going):
                    break
                steps = min(LOOK, begin + count - k)
                here = iterate(
                    self.program, y[going], beta[going], here, self.solver, k, steps, anderson
                )
                at.put(going, here)
                made[going] += steps
                pulse.tell("iteration", k + steps, begin + count)
        return at, made

    def path(self, betas: Tensor, count: int, tolerance: float) -> tuple[Iterate, Tensor]:
        """`run` from zero for many weights, (B,) in any order: about half the iterations, since
        neighbours start each other.

        Every eighth weight from zero; then, level by level, those halfway between, from what is
        `between` their neighbours.
        """
        order, last, classes = betas.argsort(), len(betas) - 1, len(self.Y)
        beta, most = (
            (betas / self.scale).repeat_interleave(classes),
            beta_max(self.program, self.Y).repeat(len(betas)),
        )
        at, made = self.start(betas), torch.zeros_like(beta, dtype=torch.long)

        def programs(places: list[int]) -> Tensor:
            return (
                order[places][:, None] * classes + torch.arange(classes, device=order.device)
            ).flatten()

        for stride in STRIDES:
            level = list(range(stride, last, 2 * stride))
            if stride == STRIDES[0]:
                level = sorted({*range(0, last, stride), last})
            elif level:
                low, high = (
                    programs([k - stride for k in level]),
                    programs([min(k + stride, last) for k in level]),
                )
                here = programs(level)
                near = between(at.select(low), at.select(high), (beta[low], beta[high]), beta[here])
                some = beta[here] < most[here]  # the others are solved by nothing
                at.put(here[some], near.select(some))
            if level:
                here = programs(level)
                found, made[here] = self.run(
                    at.select(here), betas[order[level]], 0, count, tolerance
                )
                at.put(here, found)
        return at, made

    def found(self, at: Iterate, betas: Tensor) -> tuple[Tensor, Certificate]:
        """Neurons (B, C, 2, P, d) in the scale of X, and their certificate, (B, C) each, in float64
        whatever they are.
        """
        beta, shape = (betas / self.scale).repeat_interleave(len(self.Y)), (len(betas), len(self.Y))
        v = at.v(beta)
        given = (self.labels(len(betas)), beta, v, at.multipliers)
        proof = certificate(self.program.double(), *(each.double() for each in given))
        return v.view(*shape, *v.shape[1:]) / self.scale, Certificate(
            *(part.view(shape) for part in proof)
        )


def solve(
    X: Tensor,
    Y: Tensor,
    gates: Tensor,
    betas: Tensor,
    *,
    mode: Mode = "solve",
    tolerance: float = 1e-6,
    iterations: int | None = None,
    preconditioning: Kind | None = None,
) -> Solution:
    """Two-layer ReLU networks by convex optimisation, one for each of B regularisation weights,
    solved together.

    X: (n, d), with a column of ones if there is to be a bias.  Y: (C, n), targets of each class.
    gates: (n, P) bool, the patterns 1[X h >= 0].  betas: (B,) > 0; the loss is half a sum of
    squares, so that beta grows with n.
    mode: `paper` is Feng et al. 2024 (PCG with a Nystrom sketch, rho .01, no stopping: 20
    iterations unless given); `solve` ends where the gap is at most `tolerance` of the objective and
    the violation at most `tolerance`, both of `Certificate`, or after 4000 iterations unless given;
    it says its gap anyway.
    preconditioning: of the linear systems, if not the mode's own. Raises ValueError if shapes,
    types or weights are none of these.
    """
    _check(X, Y, gates, betas)
    betas = betas.to(X)
    problem = Problem(X, Y.to(X), gates, mode, preconditioning)
    most = iterations if iterations is not None else (20 if mode == "paper" else 4000)
    at, made = (
        problem.path(betas, most, tolerance)
        if mode == "solve"
        else problem.run(problem.start(betas), betas, 0, most, tolerance)
    )
    v, proof = problem.found(at, betas)
    made, inner = (count.view(len(betas), len(Y)) for count in (made, at.used))
    spent = problem.flops(made, inner)
    return Solution(
        proof.primal.sum(1), proof.gap.sum(1), v.mT, proof, made.amax(1), inner.amax(1), spent
    )


def _check(X: Tensor, Y: Tensor, gates: Tensor, betas: Tensor) -> None:
    shapes = f"X {tuple(X.shape)}, Y {tuple(Y.shape)}, gates {tuple(gates.shape)}, betas {tuple(betas.shape)}"
    if not (
        X.ndim == Y.ndim == gates.ndim == 2
        and betas.ndim == 1
        and X.shape[0] == Y.shape[1] == gates.shape[0]
    ):
        raise ValueError(f"shapes are X (n, d), Y (C, n), gates (n, P), betas (B,); got {shapes}")
    if 0 in (*X.shape, *Y.shape, *gates.shape, *betas.shape):
        raise ValueError(
            f"there are examples, features, classes, gates and weights, at least one each; got {shapes}"
        )
    if not X.is_floating_point() or gates.dtype != torch.bool:
        raise ValueError(
            f"X holds real numbers and gates truth values; got {X.dtype} and {gates.dtype}"
        )
    if not (torch.isfinite(X).all() and torch.isfinite(Y).all()):
        raise ValueError("X and Y are finite; got NaN or infinity")
    if not ((betas > 0) & torch.isfinite(betas)).all():
        raise ValueError(
            f"regularisation weights are above 0; got {betas[~((betas > 0) & torch.isfinite(betas))][0]}"
        )
