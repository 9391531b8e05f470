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
        predicted = self.program.F(u)
        predicted = predicted / rho[:, None]
        through_constraints = u + u @ self.gram
        through_data = self.program.Ft(predicted)
        return through_constraints + through_data


def preconditioner(
    program: Program,
    kind: Kind,
    rank: int,
    generator: torch.Generator,
    rho: float | None = None,
) -> Apply:
    """An approximate inverse of the systems. rank: of a sketch.  rho: of all systems, which only
    `nystrom` needs.

    none: the identity.  nystrom: the whole sketched (Frangella, Tropp & Udell 2023), as in the
    paper.  block: A, by Cholesky. block+nystrom: and the whitened rest sketched.  exact: and the
    whitened rest by all its eigenvectors. Raises ValueError if A has no Cholesky factor.
    """
    if kind == "none":
        return _identity
    if kind == "nystrom":
        assert rho is not None
        return _nystrom(program, rank, generator, rho)
    gram = program.gram
    block = gram + _eye_like(gram)
    factor = _cholesky(block)
    inverse = torch.cholesky_inverse(factor)
    if kind == "block":
        return _block(inverse)
    if kind == "exact":
        values, basis = _spectrum(program, factor)
        tail = values.new_zeros(())
    else:
        values, basis = _sketched_rest(program, factor, rank, generator)
        tail = values[-1]
    # Columns of the basis are whitened vectors (P d); back in the coordinates of u, so that no
    # solve is left for later.
    gates, d = len(program.on), len(gram)
    whitened = basis.mT.reshape(-1, gates, d)
    del basis
    rows = _solved(factor.mT, whitened, upper=True).flatten(1)
    directions = rows.mT.contiguous()
    return _block_and_rest(inverse, directions, values, tail)


def _identity(r: Tensor, rho: Tensor) -> Tensor:
    return r


def _nystrom(
    program: Program,
    rank: int,
    generator: torch.Generator,
    rho: float,
) -> Apply:
    """The paper's: F'F / rho + G'G is sketched."""
    gram = program.gram
    gates, d = len(program.on), len(gram)
    system = System(program, gram)
    ratio = torch.tensor([rho], dtype=gram.dtype, device=gram.device)

    def product(columns: Tensor) -> Tensor:
        u = columns.mT.reshape(-1, 2, gates, d)
        programs = len(u)
        image = system(u, ratio.expand(programs))
        image = image - u
        return image.reshape(programs, -1).mT

    basis, values = sketch(
        product,
        2 * gates * d,
        rank,
        gram,
        generator,
        _columns(program),
    )
    smallest = values[-1] + 1
    less = 1 - smallest / (values + 1)

    def apply(r: Tensor, rho: Tensor) -> Tensor:
        flat = r.flatten(1)
        along = (flat @ basis) * less
        excess = along @ basis.mT
        return (flat - excess).view_as(r)

    return apply


def _block(inverse: Tensor) -> Apply:
    """A^-1 for each neuron; inverse: (d, d)."""

    def apply(r: Tensor, rho: Tensor) -> Tensor:
        return r @ inverse

    return apply


def _block_and_rest(
    inverse: Tensor,
    basis: Tensor,
    values: Tensor,
    tail: Tensor,
) -> Apply:
    """A^-1 for the sum of v and w, and (A + 2 M / rho)^-1 for their difference, M by its spectrum.

    basis: (P d, r).  values: (r,), of the whitened M.  tail: (), what its other eigenvalues are
    taken to be.
    """

    def apply(r: Tensor, rho: Tensor) -> Tensor:
        half = rho[:, None] / 2
        v, w = r.unbind(1)
        along = (v - w).flatten(1) @ basis
        rest = tail + half
        shares = 1 - rest / (values + half)
        along = along * shares
        less = (along @ basis.mT) / 2
        less = torch.stack([less, -less], 1)
        less = less.view_as(r)
        return r @ inverse - less

    return apply


def _sketched_rest(
    program: Program,
    factor: Tensor,
    rank: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Eigenvectors (P d, rank) and eigenvalues (rank,) of the whitened M, by a sketch; factor: (d,
    d), of A.
    """
    gates, d = len(program.on), len(factor)

    def product(columns: Tensor) -> Tensor:
        whitened = columns.mT.reshape(-1, gates, d)
        v = _solved(factor.mT, whitened, upper=True)
        pair = torch.stack([v, torch.zeros_like(v)], 1)
        predicted = program.F(pair)
        back, _ = program.Ft(predicted).unbind(1)
        image = _solved(factor, back, upper=False)
        return image.flatten(1).mT

    basis, values = sketch(
        product,
        gates * d,
        rank,
        factor,
        generator,
        _columns(program),
    )
    return values, basis


def _columns(program: Program) -> int:
    """How many vectors (P d) F is given at a time: what it makes of each is (P, n)."""
    return max(1, CHUNK // program.on.numel())


def _eye_like(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def _solved(factor: Tensor, rows: Tensor, upper: bool) -> Tensor:
    """factor^-1 r for each row r (d,) of `rows` (m, P, d); factor: (d, d), triangular.

    A few of the m at a time, since torch copies the factor for each of them.
    """
    solutions = torch.empty(
        rows.shape,
        dtype=rows.dtype,
        device=rows.device,
    )
    step = max(1, CHUNK // factor.numel())
    parts = zip(solutions.split(step), rows.split(step), strict=True)
    for solution, right in parts:
        solved = torch.linalg.solve_triangular(factor, right.mT, upper=upper)
        solution.copy_(solved.mT)
    return solutions


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
    drawn = torch.randn(
        size,
        min(rank, size),
        generator=generator,
        dtype=torch.float64,
    ).to(like)
    test, _ = torch.linalg.qr(drawn)
    del drawn
    images = [product(part).mT for part in test.split(columns, 1)]
    image = torch.cat(images).mT
    del images
    spacing = torch.finfo(like.dtype).eps
    shift = spacing * torch.linalg.matrix_norm(image)
    image = image + shift * test
    inner = test.mT @ image
    symmetric = inner / 2 + inner.mT / 2
    factor = _cholesky(symmetric)
    root = torch.linalg.solve_triangular(factor.mT, image, upper=True, left=False)
    left, singular, _ = torch.linalg.svd(root, full_matrices=False)
    values = singular.square() - shift
    return left, values.clamp(min=0)


def _spectrum(program: Program, factor: Tensor) -> tuple[Tensor, Tensor]:
    """All non-zero eigenvalues (r,) and eigenvectors (P d, r) of the whitened M, by the smaller of
    its two Gram matrices.
    """
    whitened = torch.linalg.solve_triangular(factor, program.X.mT, upper=False).mT  # (n, d)
    n, d = whitened.shape
    size = len(program.on) * d
    if size <= n:
        return _spectrum_by_columns(program, whitened, size)
    return _spectrum_by_examples(program, whitened)


def _spectrum_by_columns(program: Program, whitened: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """From the Gram matrix (P d, P d), summed over some of the examples at a time."""
    gram = whitened.new_zeros(())
    step = max(1, CHUNK // size)
    for begin in range(0, len(whitened), step):
        part = slice(begin, begin + step)
        rows = _gated(program, whitened, part)
        gram = gram + rows.mT @ rows
        del rows  # before the next are made
    values, basis = torch.linalg.eigh(gram)
    return values.clamp(min=0), basis


def _spectrum_by_examples(program: Program, whitened: Tensor) -> tuple[Tensor, Tensor]:
    """From the Gram matrix (n, n), without what is zero but for rounding."""
    everyone = slice(None)
    rows = _gated(program, whitened, everyone)
    values, left = torch.linalg.eigh(rows @ rows.mT)
    largest = values[-1]
    spacing = torch.finfo(values.dtype).eps
    rounding = spacing * len(values) * largest
    is_positive = values > rounding
    values = values[is_positive]
    left = left[:, is_positive]
    basis = rows.mT @ left / values.sqrt()
    return values, basis


def _gated(program: Program, whitened: Tensor, part: slice) -> Tensor:
    """Some of the examples (n, d), each with its gates: (m, P d)."""
    on = program.on[:, part]
    gated = on[..., None] * whitened[part]
    by_example = gated.permute(1, 0, 2)
    return by_example.flatten(1)


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower Cholesky factor; if rounding spoiled the matrix, of a shifted one. Raises
    ValueError if both fail.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        return factor
    spacing = torch.finfo(matrix.dtype).eps
    largest = matrix.diagonal().abs().max()
    shift = len(matrix) * spacing * largest
    shifted = matrix + shift * _eye_like(matrix)
    factor, failed = torch.linalg.cholesky_ex(shifted)
    if not failed:
        return factor
    raise ValueError(
        f"a matrix {tuple(matrix.shape)} has no Cholesky factor, even shifted: "
        f"inputs too large for {matrix.dtype}?"
    )


def pcg(
    system: System,
    apply: Apply,
    right: Tensor,
    rho: Tensor,
    start: Tensor,
    tolerance: float,
    most: int,
    absolute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Solutions (S, 2, P, d) by preconditioned conjugate gradients, and how many iterations each
    took, (S,).

    right: right-hand sides.  start: where to begin.  tolerance: of the residual's norm, relative to
    the right-hand side's unless it is absolute. Every system has step lengths of its own, and stays
    as it is once it is solved.
    """
    x = start
    r = right - system(start, rho)
    z = apply(r, rho)
    p = z
    rz = _inner(r, z)
    enough = torch.full_like(rz, tolerance)
    if not absolute:
        enough = tolerance * _inner(right, right).sqrt()
    counts = torch.zeros(len(right), dtype=torch.long, device=right.device)
    for _ in range(most):
        going = _inner(r, r).sqrt() > enough
        if not going.any():
            break
        counts += going
        image = system(p, rho)
        length = rz / _inner(p, image)
        step = torch.where(going, length, 0)
        step = step[:, None, None, None]
        x = x + step * p
        r = r - step * image
        z = apply(r, rho)
        before = rz
        rz = _inner(r, z)
        turn = torch.where(going, rz / before, 0)
        p = z + turn[:, None, None, None] * p
    return x, counts


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """(S,): inner products of what each system has."""
    return (a * b).sum((1, 2, 3))
