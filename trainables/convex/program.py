"""The convex program of a two-layer ReLU network (Pilanci & Ergen 2020; Feng, Frangella & Pilanci
2024), matrix-free.

For gates D_i = diag(1[X h_i >= 0]), i = 1..P, and E_i = 2 D_i - I, one program for each class:

    min over v_i, w_i of  1/2 |sum_i D_i X (v_i - w_i) - y|^2 + beta sum_i (|v_i| + |w_i|),   E_i X
    v_i >= 0,  E_i X w_i >= 0

Variables of many programs are stacked: (..., 2, P, d), v before w, one row for each neuron that
there could be; what the constraints see is (..., 2, P, n), predictions are (..., n). The products
with X are then one matrix product for all programs.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Program:
    """All of the program that does not depend on labels and beta.

    X: (n, d).  on: (P, n), 1 where a gate is open, else 0.  weights: (n,) > 0, by which the
    constraints of an example are
    scaled: the program is the same, its conditioning is not.
    """

    X: Tensor
    on: Tensor
    weights: Tensor

    @staticmethod
    def of(X: Tensor, gates: Tensor, weights: Tensor | None = None) -> Program:
        """gates: (n, P) bool.  weights: ones if not given."""
        on = gates.mT.to(X.dtype)
        on = on.contiguous()
        if weights is None:
            ones = torch.ones_like(X[:, 0])
            return Program(X, on, ones)
        return Program(X, on, weights)

    def double(self) -> Program:
        """The same in float64."""
        return Program(self.X.double(), self.on.double(), self.weights.double())

    @functools.cached_property
    def sign(self) -> Tensor:
        """E, (P, n): 1 where a gate is open, else -1, times the weights."""
        return (2 * self.on - 1) * self.weights

    def F(self, u: Tensor) -> Tensor:
        """Predictions (..., n) of neurons u (..., 2, P, d), each with the gate of its place."""
        v, w = u.unbind(-3)
        predicted = (v - w) @ self.X.mT
        gated = predicted * self.on
        return gated.sum(-2)

    def Ft(self, r: Tensor) -> Tensor:
        """The adjoint of F: (..., n) -> (..., 2, P, d)."""
        rows = r[..., None, :]
        gated = rows * self.on
        one = gated @ self.X
        return torch.stack([one, -one], -3)

    def G(self, u: Tensor) -> Tensor:
        """What is to be at least 0, (..., 2, P, n): E X u, each example times its weight."""
        return (u @ self.X.mT).mul_(self.sign)

    def Gt(self, s: Tensor) -> Tensor:
        """The adjoint of G: (..., 2, P, n) -> (..., 2, P, d)."""
        return (s * self.sign) @ self.X

    @property
    def gram(self) -> Tensor:
        """(d, d): G'G is this matrix for every neuron, since E is its own inverse."""
        scaled = self.X * self.weights[:, None]
        return scaled.mT @ scaled

    def flops(self) -> int:
        """Of one product with X for one class: F and its adjoint cost one, G and G' two."""
        return 2 * self.X.numel() * len(self.on)


def beta_max(program: Program, Y: Tensor) -> Tensor:
    """(C,): from this weight on the empty network is optimal, max_i |X' D_i y|; Y: (C, n)."""
    v, _ = program.Ft(Y).unbind(-3)
    norms = v.norm(dim=-1)
    return norms.amax(-1)
