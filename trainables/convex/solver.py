"""Many convex programs solved together: labels of several classes, and a whole path of
regularisation weights.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping
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
INNER: Mapping[Mode, int] = {"paper": 32, "solve": 200}
"""Most iterations of conjugate gradients for one linear system, unless another number is given."""
LOOK = 25
"""Iterations of the mode `solve` between two looks at the certificate."""
ITERATIONS: Mapping[Mode, int] = {"paper": 5, "solve": 4000}
"""Of ADMM, unless another number is given; of the mode `solve` at most."""
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
    unknowns = gates * d
    if min(unknowns, n) <= EXACT:
        return "exact"
    return "block+nystrom"


def directions(kind: Kind, n: int, gates: int, d: int) -> int:
    """The rank of a preconditioner."""
    if kind == "nystrom":
        return RANK
    if kind == "exact":
        return min(gates * d, n)
    return 2 * d


def together(n: int, gates: int, device: torch.device) -> int:
    """How many programs of the mode `solve` are iterated at a time, of however many there are."""
    if device.type != "cpu":
        return sys.maxsize
    seen = 2 * gates * n
    return max(1, CACHED // seen)


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
        inner: int | None = None,
    ) -> None:
        norms = X.norm(dim=1)
        self.mode: Mode = mode
        self.inner = inner or INNER[mode]  # most iterations of conjugate gradients
        self.scale = 1.0
        weights = None
        if mode == "solve":
            self.scale = float(norms.mean()) or 1.0
            weights = torch.where(norms > 0, self.scale / norms, 1)
        self.program = Program.of(X / self.scale, gates, weights)
        self.Y = Y
        n, d = X.shape
        count = gates.shape[1]
        self.kind: Kind = preconditioning or usual(mode, n, count, d)
        self.rank = rank or directions(self.kind, n, count, d)
        self.system = System(self.program, self.program.gram)

    @functools.cached_property
    def apply(self) -> Apply:
        """The preconditioner; the costly part of what is shared."""
        # Of a sketch, which changes how fast a system is solved, not what it is.
        generator = torch.Generator().manual_seed(0)
        return preconditioner(
            self.program,
            self.kind,
            self.rank,
            generator,
            rho=RHO,
        )

    @property
    def refined(self) -> bool:
        """Whether an exact solve is repeated for its residual: or the gap in float32 ends at a
        hundredth, not at 1e-5.
        """
        is_single = self.program.X.dtype == torch.float32
        return self.kind == "exact" and is_single

    def flops(self, made: Tensor, used: Tensor) -> Tensor:
        """Of the products of matrices that weights rest on, (B,) int64; what they share is charged
        to each.

        made, used: (B, C), iterations of ADMM and of conjugate gradients. An iteration is four
        products with X, and one with the basis of the preconditioner and its transpose; one of
        conjugate gradients, or of refinement, is two products with X, one with the Gram matrix, and
        the preconditioner's.
        """
        n, d = self.program.X.shape
        size = len(self.program.on) * d
        product = self.program.flops()
        basis = 4 * size * self.rank
        gram = 4 * size * d
        inner = 2 * product + gram + basis
        outer = 4 * product + basis
        if self.refined:
            outer += inner
        setup = 2 * n * d**2
        setup += self._preconditioner_flops()
        iterations = made.sum(-1)
        inner_iterations = used.sum(-1)
        outer_flops = iterations * outer
        inner_flops = inner_iterations * inner
        return setup + outer_flops + inner_flops

    def _preconditioner_flops(self) -> int:
        n, d = self.program.X.shape
        if self.kind == "exact":
            size = len(self.program.on) * d
            return 2 * n * size**2
        sketched = 2 * self.program.flops()
        return sketched * self.rank

    def start(self, betas: Tensor) -> Iterate:
        """ADMM's start for all classes of each of the weights (B,): B C programs, the classes of a
        weight after each other.
        """
        rho = self._first_rho(betas)
        by_class = rho.repeat_interleave(len(self.Y))
        return Iterate.zero(self.program, by_class)

    def _first_rho(self, betas: Tensor) -> Tensor:
        if self.mode == "paper":
            return torch.full_like(betas, RHO)
        return 2 * betas / self.scale

    def labels(self, count: int) -> Tensor:
        """(count C, n)."""
        return self.Y.repeat(count, 1)

    def solver(
        self,
        right: Tensor,
        rho: Tensor,
        start: Tensor,
        k: int,
    ) -> tuple[Tensor, Tensor]:
        """The linear systems of iteration k."""
        if self.kind == "exact":
            u = self._solved_exactly(right, rho)
            return u, torch.zeros_like(rho, dtype=torch.long)
        if self.mode == "paper":
            # As in the authors' code: from zero, to an absolute residual.
            start = torch.zeros_like(start)
            tolerance = (1 + k) ** -1.2
            return pcg(
                self.system, self.apply, right, rho, start, tolerance, self.inner, absolute=True
            )
        tolerance = min(1e-4, (1 + k) ** -2.0)
        return pcg(self.system, self.apply, right, rho, start, tolerance, self.inner)

    def _solved_exactly(self, right: Tensor, rho: Tensor) -> Tensor:
        u = self.apply(right, rho)
        if self.refined:
            u = u + self.apply(right - self.system(u, rho), rho)
        return u

    def run(
        self,
        at: Iterate,
        betas: Tensor,
        begin: int,
        count: int,
        tolerance: float,
    ) -> tuple[Iterate, Tensor]:
        """`count` iterations for the programs `at`, of which `begin` were made before; and how many
        each needed, (B C,).

        A program of the mode `solve` stops when its gap is at most `tolerance` of its value, and
        its violation too.
        """
        beta = self._scaled(betas)
        y = self.labels(len(betas))
        made = torch.zeros(len(beta), dtype=torch.long, device=beta.device)
        if self.mode == "paper":
            at = iterate(
                self.program,
                y,
                beta,
                at,
                self.solver,
                begin,
                count,
                anderson=None,
            )
            return at, made + count
        gates, n = self.program.on.shape
        programs = torch.arange(len(beta), device=beta.device)
        at = at.select(programs)  # a copy, since solutions are put into it
        most = together(n, gates, beta.device)
        size = min(len(beta), most)
        for group in programs.split(size):
            looks = self._solved(
                at.select(group),
                group,
                y,
                beta,
                begin,
                begin + count,
                tolerance,
            )
            for going, here, steps in looks:
                at.put(going, here)
                made[going] += steps
        return at, made

    def _solved(
        self,
        here: Iterate,
        going: Tensor,
        y: Tensor,
        beta: Tensor,
        begin: int,
        end: int,
        tolerance: float,
    ) -> Iterator[tuple[Tensor, Iterate, int]]:
        """Iterate the programs `going` until each has its certificate, or to iteration `end`.

        Yields after each LOOK iterations which programs went on, where they are, and how many
        iterations that were.  y, beta: of all programs.
        """
        anderson = Anderson(here)
        for k in range(begin, end, LOOK):
            is_open = self._is_open(here, y[going], beta[going], tolerance)
            if not is_open.all():
                going = going[is_open]
                here = here.select(is_open)
                anderson.select(is_open)
            if not len(going):
                return
            steps = min(LOOK, end - k)
            here = iterate(
                self.program,
                y[going],
                beta[going],
                here,
                self.solver,
                k,
                steps,
                anderson,
            )
            yield going, here, steps
            pulse.tell("iteration", k + steps, end)

    def _is_open(
        self,
        at: Iterate,
        y: Tensor,
        beta: Tensor,
        tolerance: float,
    ) -> Tensor:
        """(S,): whether a program has no certificate yet."""
        proof = certificate(self.program, y, beta, at.v(beta), at.multipliers)
        # Of a point that is not feasible the value may be too low by more than the price, and the
        # gap too small.
        allowed = tolerance * proof.primal
        is_near = proof.gap <= allowed
        is_feasible = proof.violation <= tolerance
        return ~(is_near & is_feasible)

    def path(self, betas: Tensor, count: int, tolerance: float) -> tuple[Iterate, Tensor]:
        """`run` from zero for many weights, (B,) in any order: about half the iterations, since
        neighbours start each other.

        Every eighth weight from zero; then, level by level, those halfway between, from what is
        `between` their neighbours.
        """
        order = betas.argsort()
        beta = self._scaled(betas)
        at = self.start(betas)
        made = torch.zeros_like(beta, dtype=torch.long)
        last = len(betas) - 1
        for stride in STRIDES:
            level = _level(stride, last)
            if not level:
                continue
            here = self._programs(order, level)
            if stride != STRIDES[0]:
                self._start_between(at, beta, order, level, stride)
            solved, made[here] = self.run(
                at.select(here),
                betas[order[level]],
                0,
                count,
                tolerance,
            )
            at.put(here, solved)
        return at, made

    def _start_between(
        self,
        at: Iterate,
        beta: Tensor,
        order: Tensor,
        level: list[int],
        stride: int,
    ) -> None:
        """Put what is `between` their neighbours in place of the programs at `level` of an order.

        beta: of all programs.
        """
        last = len(order) - 1
        lower: list[int] = []
        higher: list[int] = []
        for place in level:
            lower.append(place - stride)
            higher.append(min(place + stride, last))
        low = self._programs(order, lower)
        high = self._programs(order, higher)
        here = self._programs(order, level)
        near = between(
            at.select(low),
            at.select(high),
            (beta[low], beta[high]),
            beta[here],
        )
        # The others are solved by nothing.
        some = self._has_neurons(beta[here])
        at.put(here[some], near.select(some))

    def _has_neurons(self, beta: Tensor) -> Tensor:
        """Whether the optimum at a weight is not the empty network; beta: (B C,)."""
        weights = len(beta) // len(self.Y)
        most = beta_max(self.program, self.Y)
        most = most.repeat(weights)
        # How `most` is rounded differs by machine.
        rounding = 16 * torch.finfo(most.dtype).eps
        bound = most * (1 - rounding)
        return beta < bound

    def _scaled(self, betas: Tensor) -> Tensor:
        """The weight of each program, (B C,), in the scale of its X."""
        scaled = betas / self.scale
        return scaled.repeat_interleave(len(self.Y))

    def _programs(self, order: Tensor, places: list[int]) -> Tensor:
        """The programs of all classes of the weights at `places` of an order."""
        count = len(self.Y)
        firsts = order[places] * count
        classes = torch.arange(count, device=order.device)
        programs = firsts[:, None] + classes
        return programs.flatten()

    def found(self, at: Iterate, betas: Tensor) -> tuple[Tensor, Certificate]:
        """Neurons (B, C, 2, P, d) in the scale of X, and their certificate, (B, C) each, in float64
        whatever they are.
        """
        beta = self._scaled(betas)
        y = self.labels(len(betas))
        v = at.v(beta)
        proof = certificate(
            self.program.double(),
            y.double(),
            beta.double(),
            v.double(),
            at.multipliers.double(),
        )
        shape = len(betas), len(self.Y)
        by_class = [part.view(shape) for part in proof]
        neurons = v.view(*shape, *v.shape[1:])
        return neurons / self.scale, Certificate(*by_class)


def _level(stride: int, last: int) -> list[int]:
    """Places in a sorted path, from 0 to `last`, that are solved for at a stride."""
    if stride == STRIDES[0]:
        places = range(0, last, stride)
        return sorted({*places, last})
    halfway = range(stride, last, 2 * stride)
    return list(halfway)


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
    mode: `paper` is Feng et al. 2024 (PCG with a Nystrom sketch, rho 0.01, no stopping: five
    iterations unless given); `solve` ends where the gap is at most `tolerance` of the objective and
    the violation at most `tolerance`, both of `Certificate`, or after 4000 iterations unless given;
    it says its gap anyway.
    preconditioning: of the linear systems, if not the mode's own. Raises ValueError if shapes,
    types or weights are none of these.
    """
    _check(X, Y, gates, betas)
    betas = betas.to(X)
    problem = Problem(X, Y.to(X), gates, mode, preconditioning)
    if iterations is None:
        iterations = ITERATIONS[mode]
    if mode == "paper":
        at, made = problem.run(problem.start(betas), betas, 0, iterations, tolerance)
    else:
        at, made = problem.path(betas, iterations, tolerance)
    v, proof = problem.found(at, betas)
    made = made.view(len(betas), len(Y))
    inner = at.used.view(len(betas), len(Y))
    return Solution(
        objective=proof.primal.sum(1),
        gap=proof.gap.sum(1),
        v=v.mT,
        certificate=proof,
        iterations=made.amax(1),
        inner=inner.amax(1),
        flops=problem.flops(made, inner),
    )


def _check(
    X: Tensor,
    Y: Tensor,
    gates: Tensor,
    betas: Tensor,
) -> None:
    given = {"X": X, "Y": Y, "gates": gates, "betas": betas}
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in given.items())
    if not _fit(X, Y, gates, betas):
        raise ValueError(f"shapes are X (n, d), Y (C, n), gates (n, P), betas (B,); got {shapes}")
    if not all(tensor.numel() for tensor in given.values()):
        rule = "there are examples, features, classes, gates and weights, at least one each"
        raise ValueError(f"{rule}; got {shapes}")
    if not X.is_floating_point() or gates.dtype != torch.bool:
        rule = "X holds real numbers and gates truth values"
        raise ValueError(f"{rule}; got {X.dtype} and {gates.dtype}")
    for data in (X, Y):
        if not torch.isfinite(data).all():
            raise ValueError("X and Y are finite; got NaN or infinity")
    is_right = (betas > 0) & torch.isfinite(betas)
    if not is_right.all():
        wrong = betas[~is_right][0]
        raise ValueError(f"regularisation weights are above 0; got {wrong}")


def _fit(
    X: Tensor,
    Y: Tensor,
    gates: Tensor,
    betas: Tensor,
) -> bool:
    """Whether the shapes fit each other."""
    dimensions = X.ndim, Y.ndim, gates.ndim, betas.ndim
    if dimensions != (2, 2, 2, 1):
        return False
    examples = len(X)
    return Y.shape[1] == examples and len(gates) == examples
