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
UNBALANCED, MOST = 1.5, 5.0
"""Residuals whose quotient's root differs from 1 by less than the first factor are let be; the
second bounds a change.
"""
PERIOD = 5
"""Iterations between two accelerations: as many are taken as one step of the map."""
MEMORY = 5
"""Differences that Anderson's acceleration combines."""
RIDGE, LARGEST = 0.01, 1e4
"""Its least squares are damped by RIDGE times the root of the type's spacing; combinations larger
than LARGEST are not used.
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
        (count, n), d = program.on.shape, program.X.shape[1]
        t = program.X.new_zeros(len(rho), 2, count, d)
        return Iterate(
            t,
            program.X.new_zeros(len(rho), 2, count, n),
            t.clone(),
            rho,
            torch.zeros_like(rho, dtype=torch.long),
        )

    def select(self, index: Tensor) -> Iterate:
        """The programs at `index`."""
        return Iterate(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def put(self, index: Tensor, other: Iterate) -> None:
        """Write `other` in place of the programs at `index`."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)

    def v(self, beta: Tensor) -> Tensor:
        """The neurons (S, 2, P, d), most of them exactly zero; beta: (S,)."""
        return group_soft_threshold(self.t, (beta / self.rho)[:, None, None])

    @property
    def multipliers(self) -> Tensor:
        """Of the constraints G v >= 0, (S, 2, P, n), at least 0."""
        return -self.rho[:, None, None, None] * self.z.clamp(max=0)


def between(low: Iterate, high: Iterate, betas: tuple[Tensor, Tensor], beta: Tensor) -> Iterate:
    """A start for weights beta (S,) from programs solved for weights around them, linear in log
    beta.

    betas: of `low` and `high`, (S,) each.  What is mixed is v, s and the multipliers as shares of
    beta, at a rho in between.
    """
    share = (beta / betas[0]).log() / (betas[1] / betas[0]).log()
    share = share.nan_to_num(0.0)  # equal weights: either will do
    rates = [(at.rho / b).log() for at, b in zip((low, high), betas, strict=True)]
    rate, mixed = torch.lerp(rates[0], rates[1], share), []
    for at, own, b in zip((low, high), rates, betas, strict=True):
        v, s, wide = at.v(b), at.z.clamp(min=0), (own - rate).exp()[:, None, None, None]
        mixed.append((v + wide * (at.t - v), s + wide * (at.z - s)))
    t, z = (
        torch.lerp(one, other, share[:, None, None, None])
        for one, other in zip(*mixed, strict=True)
    )
    return Iterate(t, z, t, beta * rate.exp(), torch.zeros_like(low.used))


def group_soft_threshold(t: Tensor, threshold: Tensor) -> Tensor:
    """Proximal operator of `threshold` times the sum of row norms (Yuan & Lin 2006).

    t: (..., P, d), groups over d.  threshold: broadcastable to (..., P).  Rows not longer than it
    become exactly 0.
    """
    norm = t.norm(dim=-1)
    return t * torch.where(norm > threshold, 1 - threshold / norm, 0)[..., None]


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
    data, alpha = program.Ft(y), 1.0 if anderson is None else RELAXATION
    for k in range(begin, begin + count):
        rho, v = at.rho[:, None, None, None], at.v(beta)
        u, used = solver(data / rho + 2 * v - at.t + program.Gt(at.z.abs()), at.rho, at.u, k)
        # alpha u + (1 - alpha) v + lam, and alike for z: t and z have moved by alpha times what u =
        # v and G u = s lack.
        t = at.t + alpha * (u - v)
        z = torch.add(at.z, program.G(u).sub_(at.z.clamp(min=0)), alpha=alpha)
        before, at = at, Iterate(t, z, u, at.rho, at.used + used)
        if anderson is not None and k + 1 in BALANCED:
            at = _balanced(program, before, at, beta)
            anderson.forget()
        elif anderson is not None and (k + 1) % PERIOD == 0:
            at = anderson.faster(at)
    return at


def _balanced(program: Program, before: Iterate, at: Iterate, beta: Tensor) -> Iterate:
    """The point `at` with a rho for which primal and dual residual of its iteration were alike,
    each relative to its scale.
    """
    v, s, u, seen = before.v(beta), before.z.clamp(min=0), at.u, program.G(at.u)
    after, positive = at.v(beta), at.z.clamp(min=0)
    primal = _norm(u - after, seen - positive) / torch.maximum(
        _norm(u, seen), _norm(after, positive)
    )
    dual = _norm(after - v, positive - s) / _norm(at.t - after, at.z - positive)
    factor = (primal / dual).sqrt()
    known = (
        torch.isfinite(factor) & (factor > 0) & ((factor > UNBALANCED) | (factor < 1 / UNBALANCED))
    )
    factor = torch.where(known, factor.clamp(1 / MOST, MOST), 1)
    wide = factor[:, None, None, None]
    t, z = after + (at.t - after) / wide, positive + (at.z - positive) / wide
    return dataclasses.replace(at, t=t, z=z, rho=at.rho * factor)


def _norm(*parts: Tensor) -> Tensor:
    """(S,): Euclidean, of several parts together."""
    return torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0).sqrt()


class Anderson:
    """Type II acceleration of x -> g(x) for S programs, x = (t, z) and g PERIOD iterations of ADMM.

    The next x is the combination of the last few g(x) for which that of the residuals g(x) - x is
    least. A program whose residual doubles forgets its past and goes on plainly.
    """

    def __init__(self, at: Iterate) -> None:
        size = at.t[0].numel() + at.z[0].numel()
        # Differences of residuals, and of g, in rings of MEMORY places.
        self.residuals, self.images = (at.t.new_zeros(len(at.t), MEMORY, size) for _ in range(2))
        self.gram = at.t.new_zeros(len(at.t), MEMORY, MEMORY)
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
        self.residuals, self.images, self.gram = (
            self.residuals[index],
            self.images[index],
            self.gram[index],
        )
        self.known = None if self.known is None else self.known[index]
        self.last = None if self.last is None else (self.last[0][index], self.last[1][index])

    def faster(self, at: Iterate) -> Iterate:
        """In place of `at`, the g of what was given out before."""
        image = torch.cat([at.t.flatten(1), at.z.flatten(1)], 1)
        if self.known is None:
            self.known = image
            return at
        residual, last = image - self.known, self.last
        self.known, self.last = image, (residual, image)
        if last is None:
            return at
        here, self.place = self.place, (self.place + 1) % MEMORY
        torch.sub(residual, last[0], out=self.residuals[:, here])
        torch.sub(image, last[1], out=self.images[:, here])
        worse = ~(residual.norm(dim=1) <= 2 * last[0].norm(dim=1))
        if worse.any():
            self.residuals[worse], self.gram[worse] = 0, 0
        products = self.residuals @ torch.stack([self.residuals[:, here], residual], 2)
        self.gram[:, here], self.gram[:, :, here] = products[..., 0], products[..., 0]
        size = self.gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        eye = torch.eye(MEMORY, dtype=size.dtype, device=size.device)
        ridge = RIDGE * torch.finfo(size.dtype).eps ** 0.5 * torch.where(size > 0, size, 1)
        weights = torch.linalg.solve(self.gram + ridge * eye, products[..., 1:])[..., 0]
        weights = torch.where(weights.abs().sum(1, keepdim=True) < LARGEST, weights, 0)
        self.known = torch.baddbmm(image[:, None], weights[:, None], self.images, alpha=-1)[:, 0]
        t, z = self.known.split([at.t[0].numel(), at.z[0].numel()], 1)
        return dataclasses.replace(at, t=t.view_as(at.t), z=z.view_as(at.z))
