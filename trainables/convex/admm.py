"""ADMM for many convex programs at once (Feng et al. 2024, algorithm 1), with what makes it reach a
certificate.

With u = v, G u = s, scaled multipliers lam and nu, one iteration is

    (I + F'F / rho + G'G) u = F'y / rho + v - lam + G'(s - nu)
    v = group soft-threshold of u + lam at beta / rho        lam += u - v
    s = (G u + nu)_+                                         nu  += G u - s

v and lam are the two parts of t = u + lam, and s and nu the positive and negative part of z = G u +
nu: (t, z) is all that changes, and ADMM is a fixed-point iteration on it (Douglas-Rachford). Beside
the paper's: over-relaxation (Eckstein & Bertsekas 1992), a rho for every program that balances its
residuals (He, Yang & Wang 2000), Anderson's acceleration (Walker & Ni 2011).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from .program import Program

Solver = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(right-hand sides, rho, start, iteration from 0) -> solutions of the linear systems, and
iterations that each took.
"""

RELAXATION = 1.6
BALANCED = (25, 50, 100, 200, 400, 800, 1600, 3200)
"""Iterations after which rho is balanced: ever more rarely, since a change undoes what Anderson's
acceleration has learnt.
"""
UNBALANCED, LARGEST_CHANGE = 1.5, 5.0
"""Residuals whose quotient's root differs from 1 by less than the first factor are let be; the
second bounds a change.
"""
PERIOD = 5
"""Iterations between two accelerations: as many are taken as one step of the map."""
MEMORY = 5
"""Differences that Anderson's acceleration combines."""
RIDGE, LARGEST_WEIGHTS = 0.01, 1e4
"""Its least squares are damped by RIDGE times the root of the type's spacing; combinations whose
absolute weights sum to more than LARGEST_WEIGHTS are not used.
"""


@dataclasses.dataclass
class Iterate:
    """Where S programs are. t: (S, 2, P, d).  z: (S, 2, P, n).  u: like t, where the next linear
    solve starts.  rho: (S,).

    used: (S,) int64, iterations of the linear solver so far.
    """

    t: Tensor
    z: Tensor
    u: Tensor
    rho: Tensor
    used: Tensor

    @staticmethod
    def zero(program: Program, rho: Tensor) -> Iterate:
        """The start of ADMM."""
        X = program.X
        programs = len(rho)
        gates, n = program.on.shape
        t = X.new_zeros(programs, 2, gates, X.shape[1])
        z = X.new_zeros(programs, 2, gates, n)
        return Iterate(
            t=t,
            z=z,
            u=t.clone(),
            rho=rho,
            used=torch.zeros_like(rho, dtype=torch.long),
        )

    def select(self, index: Tensor) -> Iterate:
        """The programs at `index`."""
        return Iterate(
            t=self.t[index],
            z=self.z[index],
            u=self.u[index],
            rho=self.rho[index],
            used=self.used[index],
        )

    def put(self, index: Tensor, other: Iterate) -> None:
        """Write `other` in place of the programs at `index`."""
        for field in dataclasses.fields(self):
            column = getattr(self, field.name)
            column[index] = getattr(other, field.name)

    def v(self, beta: Tensor) -> Tensor:
        """The neurons (S, 2, P, d), most of them exactly zero; beta: (S,)."""
        threshold = beta / self.rho
        return group_soft_threshold(self.t, threshold[:, None, None])

    @property
    def s(self) -> Tensor:
        """What the constraints see of v, (S, 2, P, n), at least 0."""
        return self.z.clamp(min=0)

    @property
    def multipliers(self) -> Tensor:
        """Of the constraints G v >= 0, (S, 2, P, n), at least 0."""
        return -per_program(self.rho) * self.z.clamp(max=0)


def per_program(values: Tensor) -> Tensor:
    """A number for each program, (S,), as (S, 1, 1, 1)."""
    return values[:, None, None, None]


def between(
    low: Iterate,
    high: Iterate,
    betas: tuple[Tensor, Tensor],
    beta: Tensor,
) -> Iterate:
    """A start for weights beta (S,) from programs solved for weights around them, linear in log
    beta.

    betas: of `low` and `high`, (S,) each.  What is mixed is v, s and the multipliers as shares of
    beta, at a rho in between.
    """
    low_beta, high_beta = betas
    share = _log_share(low_beta, high_beta, beta)
    low_rate = (low.rho / low_beta).log()
    high_rate = (high.rho / high_beta).log()
    rate = torch.lerp(low_rate, high_rate, share)
    low_factor = (low_rate - rate).exp()
    high_factor = (high_rate - rate).exp()
    low_t, low_z = _with_multipliers(low, low_beta, low_factor)
    high_t, high_z = _with_multipliers(high, high_beta, high_factor)
    share = per_program(share)
    t = torch.lerp(low_t, high_t, share)
    z = torch.lerp(low_z, high_z, share)
    return Iterate(
        t=t,
        z=z,
        u=t,
        rho=beta * rate.exp(),
        used=torch.zeros_like(low.used),
    )


def _log_share(low: Tensor, high: Tensor, beta: Tensor) -> Tensor:
    """Where beta lies on the way from one weight to another, (S,), by logarithms."""
    way = (beta / low).log()
    whole = (high / low).log()
    share = way / whole
    return share.nan_to_num(0.0)  # equal weights: either will do


def _with_multipliers(at: Iterate, beta: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """t and z with the same v and s, and multipliers lam and nu times `factor` (S,)."""
    v = at.v(beta)
    s = at.s
    lam = at.t - v
    nu = at.z - s
    factor = per_program(factor)
    t = v + factor * lam
    z = s + factor * nu
    return t, z


def group_soft_threshold(t: Tensor, threshold: Tensor) -> Tensor:
    """Proximal operator of `threshold` times the sum of row norms (Yuan & Lin 2006).

    t: (..., P, d), groups over d.  threshold: broadcastable to (..., P).  Rows not longer than it
    become exactly 0.
    """
    norm = t.norm(dim=-1)
    is_longer = norm > threshold
    share_left = 1 - threshold / norm
    factor = torch.where(is_longer, share_left, 0)
    return t * factor[..., None]


def iterate(
    program: Program,
    y: Tensor,
    beta: Tensor,
    at: Iterate,
    solver: Solver,
    begin: int,
    count: int,
    anderson: Anderson | None,
) -> Iterate:
    """`count` iterations from `at`, of which `begin` were made before.

    y: (S, n).  beta: (S,).  anderson: what accelerates them; none: as in the paper, without
    relaxation and balance too.
    """
    data = program.Ft(y)
    alpha = 1.0 if anderson is None else RELAXATION
    for k in range(begin, begin + count):
        v = at.v(beta)
        # No name for the right-hand side and for s: large tensors that are let go at once.
        u, used = solver(_right_hand_side(program, data, at, v), at.rho, at.u, k)
        # alpha u + (1 - alpha) v + lam, and alike for z: t and z have moved by alpha times what u =
        # v and G u = s lack.
        t = at.t + alpha * (u - v)
        z = torch.add(at.z, program.G(u).sub_(at.s), alpha=alpha)
        before = at
        at = Iterate(t, z, u, at.rho, at.used + used)
        if anderson is None:
            continue
        if k + 1 in BALANCED:
            at = _balanced(program, before, at, beta)
            anderson.forget()
        elif (k + 1) % PERIOD == 0:
            at = anderson.faster(at)
    return at


def _right_hand_side(
    program: Program,
    data: Tensor,
    at: Iterate,
    v: Tensor,
) -> Tensor:
    """F'y / rho + v - lam + G'(s - nu), where v - lam = 2 v - t and s - nu = |z|; data: F'y."""
    right = data / per_program(at.rho)
    right = right + 2 * v
    right = right - at.t
    return right + program.Gt(at.z.abs())


def _balanced(
    program: Program,
    before: Iterate,
    at: Iterate,
    beta: Tensor,
) -> Iterate:
    """The point `at` with a rho for which primal and dual residual of its iteration were alike,
    each relative to its scale.
    """
    v = at.v(beta)
    s = at.s
    u = at.u
    seen = program.G(u)
    lam = at.t - v
    nu = at.z - s
    solved_scale = _norm(u, seen)
    kept_scale = _norm(v, s)
    primal_scale = torch.maximum(solved_scale, kept_scale)
    primal = _norm(u - v, seen - s) / primal_scale
    v_step = v - before.v(beta)
    s_step = s - before.s
    dual_scale = _norm(lam, nu)
    dual = _norm(v_step, s_step) / dual_scale
    factor = _rho_factor(primal, dual)
    # v and s stay; lam and nu are multipliers divided by rho.
    divisor = per_program(factor)
    return dataclasses.replace(
        at,
        t=v + lam / divisor,
        z=s + nu / divisor,
        rho=at.rho * factor,
    )


def _rho_factor(primal: Tensor, dual: Tensor) -> Tensor:
    """By how much rho changes for residuals (S,) of either kind."""
    factor = (primal / dual).sqrt()
    is_known = torch.isfinite(factor) & (factor > 0)
    is_large = factor > UNBALANCED
    is_small = factor < 1 / UNBALANCED
    is_unbalanced = is_large | is_small
    changes = is_known & is_unbalanced
    bounded = factor.clamp(1 / LARGEST_CHANGE, LARGEST_CHANGE)
    return torch.where(changes, bounded, 1)


def _norm(*parts: Tensor) -> Tensor:
    """(S,): Euclidean, of several parts together."""
    squares: list[Tensor] = []
    for part in parts:
        square = part.flatten(1).square()
        squares.append(square.sum(1))
        del square  # before the next is made
    total = torch.stack(squares).sum(0)
    return total.sqrt()


class Anderson:
    """Type II acceleration of x -> g(x) for S programs, x = (t, z) and g PERIOD iterations of ADMM.

    The next x is the combination of the last few g(x) for which that of the residuals g(x) - x is
    least. A program whose residual doubles forgets its past and goes on plainly.
    """

    def __init__(self, at: Iterate) -> None:
        programs = len(at.t)
        size = sum(_sizes(at))
        # Differences of residuals, and of g, in rings of MEMORY places.
        self.residuals = at.t.new_zeros(programs, MEMORY, size)
        self.images = at.t.new_zeros(programs, MEMORY, size)
        self.gram = at.t.new_zeros(programs, MEMORY, MEMORY)  # of the residuals' differences
        self.known: Tensor | None = None
        self.last: tuple[Tensor, Tensor] | None = None
        self.place = 0

    def forget(self) -> None:
        """Begin again, from wherever the programs are."""
        self.residuals.zero_()
        self.gram.zero_()
        self.known = self.last = None

    def select(self, index: Tensor) -> None:
        """Go on with the programs at `index`."""
        self.residuals = self.residuals[index]
        self.images = self.images[index]
        self.gram = self.gram[index]
        if self.known is not None:
            self.known = self.known[index]
        if self.last is not None:
            residual, image = self.last
            self.last = residual[index], image[index]

    def faster(self, at: Iterate) -> Iterate:
        """In place of `at`, the g of what was given out before."""
        parts = [at.t.flatten(1), at.z.flatten(1)]
        image = torch.cat(parts, 1)
        if self.known is None:
            self.known = image
            return at
        residual = image - self.known
        last = self.last
        self.known = image
        self.last = residual, image
        if last is None:
            return at
        here = self._remember(residual, image, last)
        weights = self._weights(here, residual)
        combined = torch.baddbmm(
            image[:, None],
            weights[:, None],
            self.images,
            alpha=-1,
        )
        self.known = combined[:, 0]
        t, z = self.known.split(_sizes(at), 1)
        return dataclasses.replace(
            at,
            t=t.view_as(at.t),
            z=z.view_as(at.z),
        )

    def _remember(
        self,
        residual: Tensor,
        image: Tensor,
        last: tuple[Tensor, Tensor],
    ) -> int:
        """Keep differences to the last residual and image; returns their place in the rings."""
        last_residual, last_image = last
        here = self.place
        self.place = (here + 1) % MEMORY
        torch.sub(residual, last_residual, out=self.residuals[:, here])
        torch.sub(image, last_image, out=self.images[:, here])
        length = residual.norm(dim=1)
        last_length = last_residual.norm(dim=1)
        worse = ~(length <= 2 * last_length)
        if worse.any():
            self.residuals[worse] = 0
            self.gram[worse] = 0
        return here

    def _weights(self, here: int, residual: Tensor) -> Tensor:
        """Of the differences (S, MEMORY), by least squares; zero where they would be too large."""
        difference = self.residuals[:, here]
        pair = torch.stack([difference, residual], 2)
        products = self.residuals @ pair
        with_difference, with_residual = products.unbind(2)
        self.gram[:, here] = with_difference
        self.gram[:, :, here] = with_difference
        damped = self.gram + self._damping()
        right = with_residual[..., None]
        weights = torch.linalg.solve(damped, right)
        weights = weights[..., 0]
        total = weights.abs().sum(1, keepdim=True)
        is_usable = total < LARGEST_WEIGHTS
        return torch.where(is_usable, weights, 0)

    def _damping(self) -> Tensor:
        """A multiple of the identity for each program, (S, MEMORY, MEMORY)."""
        trace = self.gram.diagonal(dim1=1, dim2=2).sum(1)
        size = torch.where(trace > 0, trace, 1)
        eye = torch.eye(
            MEMORY,
            dtype=size.dtype,
            device=size.device,
        )
        spacing = torch.finfo(size.dtype).eps
        ridge = RIDGE * spacing**0.5 * size
        return ridge[:, None, None] * eye


def _sizes(at: Iterate) -> list[int]:
    """Numbers in the t of one program, and in its z."""
    return [at.t[0].numel(), at.z[0].numel()]
