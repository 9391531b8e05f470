"""The linear systems of ADMM, (I + F'F / rho + G'G) u = r: preconditioners, and conjugate gradients
for many at once.

G'G repeats every eigenvalue of X'X 2P times, so that a sketch of the whole, as in the paper, cannot
thin out its spectrum; one Cholesky factor of the block A = I + X'X does. With u_0 + u_1 and u_0 -
u_1 as unknowns the sum needs A alone, and the difference A + 2 M / rho, where M = [X' D_i D_j X].
Whitened by A, M is the same for every rho: so is its sketch, and where it is small its whole
spectrum, which solves the systems of all rho exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .program import Program

CHUNK = 1 << 22
"""Numbers that an intermediate result of making a preconditioner holds at most, as far as it can be
cut.
"""

Kind = Literal["none", "nystrom", "block", "block+nystrom", "exact"]
Apply = Callable[[Tensor, Tensor], Tensor]
"""(residuals (S, 2, P, d), rho (S,)) -> about the solutions, of the same shape."""


class System(NamedTuple):
    """The operator of `rho`. program: its operators.  gram: (d, d), of G'G."""

    program: Program
    gram: Tensor

    def __call__(self, u: Tensor, rho: Tensor) -> Tensor:
        """(I + F'F / rho + G'G) u for u (S, 2, P, d) and rho (S,)."""
        return u + u @ self.gram + self.program.Ft(self.program.F(u) / rho[:, None])


def preconditioner(
    program: Program, kind: Kind, rank: int, generator: torch.Generator, rho: float | None = None
) -> Apply:
    """An approximate inverse of the systems. rank: of a sketch.  rho: of all systems, which only
    `nystrom` needs.

    none: the identity.  nystrom: the whole sketched (Frangella, Tropp & Udell 2023), as in the
    paper.  block: A, by Cholesky. block+nystrom: and the whitened rest sketched.  exact: and the
    whitened rest by all its eigenvectors. Raises ValueError if A has no Cholesky factor.
    """
    gram, (gates, d) = program.gram, (len(program.on), program.X.shape[1])
    if kind == "none":
        return lambda r, rho: r
    if kind == "nystrom":
        assert rho is not None
        system, ratio = (
            System(program, gram),
            torch.tensor([rho], dtype=gram.dtype, device=gram.device),
        )

        def whole(columns: Tensor) -> Tensor:
            u = columns.mT.reshape(-1, 2, gates, d)
            return (system(u, ratio.expand(len(u))) - u).reshape(len(u), -1).mT

        basis, values = sketch(whole, 2 * gates * d, rank, gram, generator, _columns(program))
        less = 1 - (values[-1] + 1) / (values + 1)

        def apply(r: Tensor, rho: Tensor) -> Tensor:
            flat = r.flatten(1)
            return (flat - ((flat @ basis) * less) @ basis.mT).view_as(r)

        return apply
    factor = _cholesky(gram + torch.eye(d, dtype=gram.dtype, device=gram.device))
    inverse = torch.cholesky_inverse(factor)
    if kind == "block":
        return lambda r, rho: r @ inverse
    if kind == "exact":
        values, basis = _spectrum(program, factor)
        tail = values.new_zeros(())
    else:

        def rest(columns: Tensor) -> Tensor:
            u = _solved(factor.mT, columns.mT.reshape(-1, gates, d), upper=True)
            back = program.Ft(program.F(torch.stack([u, torch.zeros_like(u)], 1)))[:, 0]
            return _solved(factor, back, upper=False).flatten(1).mT

        basis, values = sketch(rest, gates * d, rank, gram, generator, _columns(program))
        tail = values[-1]
    # Columns of the basis are whitened vectors (P d); back in the coordinates of u, so that no
    # solve is left for later.
    whitened = basis.mT.reshape(-1, gates, d)
    del basis
    basis = _solved(factor.mT, whitened, upper=True).flatten(1).mT.contiguous()

    def both(r: Tensor, rho: Tensor) -> Tensor:
        half = rho[:, None] / 2
        difference = (r[:, 0] - r[:, 1]).flatten(1) @ basis
        less = ((difference * (1 - (tail + half) / (values + half))) @ basis.mT) / 2
        return r @ inverse - torch.stack([less, -less], 1).view_as(r)

    return both


def _columns(program: Program) -> int:
    """How many vectors (P d) F is given at a time: what it makes of each is (P, n)."""
    return max(1, CHUNK // program.on.numel())


def _solved(factor: Tensor, rows: Tensor, upper: bool) -> Tensor:
    """factor^-1 r for each row r (d,) of `rows` (m, P, d); factor: (d, d), triangular.

    A few of the m at a time, since torch copies the factor for each of them.
    """
    found, step = (
        torch.empty(rows.shape, dtype=rows.dtype, device=rows.device),
        max(1, CHUNK // factor.numel()),
    )
    for part, of in zip(found.split(step), rows.split(step), strict=True):
        part.copy_(torch.linalg.solve_triangular(factor, of.mT, upper=upper).mT)
    return found


def sketch(
    product: Callable[[Tensor], Tensor],
    size: int,
    rank: int,
    like: Tensor,
    generator: torch.Generator,
    columns: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Eigenvectors (size, rank) and eigenvalues (rank,), falling, of a randomised Nystrom
    approximation.

    product: (size, m) -> (size, m), of a positive semi-definite matrix, for m up to `columns`.  The
    shift that keeps it so is the spacing of its type's numbers at the size of the product; a
    constant 1e-16 would do nothing in float32.
    """
    drawn = torch.randn(size, min(rank, size), generator=generator, dtype=torch.float64).to(like)
    test, _ = torch.linalg.qr(drawn)
    del drawn
    image = torch.cat([product(part).mT for part in test.split(columns, 1)]).mT
    shift = torch.finfo(like.dtype).eps * torch.linalg.matrix_norm(image)
    image = image + shift * test
    factor = _cholesky((inner := test.mT @ image) / 2 + inner.mT / 2)
    left, singular, _ = torch.linalg.svd(
        torch.linalg.solve_triangular(factor.mT, image, upper=True, left=False), full_matrices=False
    )
    return left, (singular.square() - shift).clamp(min=0)


def _spectrum(program: Program, factor: Tensor) -> tuple[Tensor, Tensor]:
    """All non-zero eigenvalues (r,) and eigenvectors (P d, r) of the whitened M, by the smaller of
    its two Gram matrices.
    """
    whitened = torch.linalg.solve_triangular(factor, program.X.mT, upper=False).mT  # (n, d)
    (n, d), gates = whitened.shape, len(program.on)

    def of(part: slice) -> Tensor:
        """Examples, each with its gates: (m, P d)."""
        return (program.on[:, part, None] * whitened[part]).permute(1, 0, 2).flatten(1)

    if gates * d <= n:
        step, gram = max(1, CHUNK // (gates * d)), factor.new_zeros(())
        for begin in range(0, n, step):
            rows = of(slice(begin, begin + step))
            gram = gram + rows.mT @ rows
            del rows  # before the next are made
        values, basis = torch.linalg.eigh(gram)
        return values.clamp(min=0), basis
    rows = of(slice(None))
    values, left = torch.linalg.eigh(rows @ rows.mT)
    some = values > torch.finfo(values.dtype).eps * len(values) * values[-1]
    values, left = values[some], left[:, some]
    return values, rows.mT @ left / values.sqrt()


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor; if rounding spoiled the matrix, of a shifted one. Raises
    ValueError if both fail.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        shift = len(matrix) * torch.finfo(matrix.dtype).eps * matrix.diagonal().abs().max()
        factor, failed = torch.linalg.cholesky_ex(
            matrix + shift * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        )
    if failed:
        raise ValueError(
            f"a matrix {tuple(matrix.shape)} has no Cholesky factor, even shifted: inputs too large for {matrix.dtype}?"
        )
    return factor


def pcg(
    system: System,
    apply: Apply,
    right: Tensor,
    rho: Tensor,
    start: Tensor,
    tolerance: float,
    most: int,
) -> tuple[Tensor, Tensor]:
    """Solutions (S, 2, P, d) by preconditioned conjugate gradients, and how many iterations each
    took, (S,).

    right: right-hand sides.  start: where to begin.  tolerance: of the residual's norm, relative to
    the right-hand side's. Every system has step lengths of its own, and stays as it is once it is
    solved.
    """

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2, 3))

    x, r = start, right - system(start, rho)
    z = apply(r, rho)
    p, rz = z, inner(r, z)
    enough = tolerance * inner(right, right).sqrt()
    counts = torch.zeros(len(right), dtype=torch.long, device=right.device)
    for _ in range(most):
        going = inner(r, r).sqrt() > enough
        if not going.any():
            break
        counts += going
        image = system(p, rho)
        step = torch.where(going, rz / inner(p, image), 0)[:, None, None, None]
        x, r = x + step * p, r - step * image
        z = apply(r, rho)
        rz, before = inner(r, z), rz
        p = z + torch.where(going, rz / before, 0)[:, None, None, None] * p
    return x, counts
