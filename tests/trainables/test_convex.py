"""The convex solver: its operators against dense matrices, its optima against cvxpy and the exact
two-dimensional case.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor

from prunefront.trainables import convex
from prunefront.trainables.convex import solver
from prunefront.trainables.convex.admm import group_soft_threshold
from prunefront.trainables.convex.linear import Kind, System, _cholesky, pcg, preconditioner, sketch
from prunefront.trainables.convex.program import Program

RHO = torch.tensor([0.03, 1.0, 20.0], dtype=torch.float64)


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(
    seed: int, n: int = 30, d: int = 5, gates: int = 6, classes: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """X (n, d) with ones, Y (C, n), gates (n, P)."""
    X = convex.with_ones(randn(seed, n, d - 1))
    return X, randn(seed + 1000, classes, n), convex.patterns(X, randn(seed + 2000, gates, d))


def program(seed: int, n: int, d: int, gates: int, weighted: bool = True) -> Program:
    X, _, on = problem(seed, n, d, gates)
    return Program.of(X, on, randn(seed + 3000, n).abs() + 0.1 if weighted else None)


def dense(of: Program, rho: Tensor) -> Tensor:
    """The matrix (2 P d, 2 P d) of the system of one rho, from the definition, block by block."""
    blocks_F, blocks_G = [], []
    for sign in (1, -1):
        for on in of.on:
            blocks_F.append(sign * on[:, None] * of.X)
            blocks_G.append((2 * on - 1)[:, None] * of.weights[:, None] * of.X)
    whole_F, whole_G = torch.cat(blocks_F, 1), torch.block_diag(*blocks_G)
    return torch.eye(whole_F.shape[1]).double() + whole_F.mT @ whole_F / rho + whole_G.mT @ whole_G


def inverted(of: Program, right: Tensor) -> Tensor:
    """Solutions of the systems of RHO by elimination; right: (3, 2, P, d)."""
    each = [
        torch.linalg.solve(dense(of, rho), r.flatten()) for rho, r in zip(RHO, right, strict=True)
    ]
    return torch.stack(each).view_as(right)


def optima(X: Tensor, Y: Tensor, gates: Tensor, betas: Tensor) -> Tensor:
    """(B, C), by an interior-point method. cvxpy warns where that is not sure, and a test then
    fails.
    """
    on, x = gates.double().numpy(), X.numpy()
    (v, w), y, beta = (
        (cp.Variable((X.shape[1], gates.shape[1])) for _ in range(2)),
        cp.Parameter(len(X)),
        cp.Parameter(nonneg=True),
    )
    misfit = cp.sum(cp.multiply(on, x @ (v - w)), axis=1) - y
    norms = cp.sum(cp.norm(v, 2, axis=0)) + cp.sum(cp.norm(w, 2, axis=0))
    seen: list[cp.Constraint] = [cp.multiply(2 * on - 1, x @ each) >= 0 for each in (v, w)]
    whole = cp.Problem(cp.Minimize(cp.sum_squares(misfit) / 2 + beta * norms), seen)
    found = torch.empty(len(betas), len(Y), dtype=torch.float64)
    for b, c in itertools.product(range(len(betas)), range(len(Y))):
        beta.value, y.value = float(betas[b]), Y[c].numpy()
        whole.solve(solver="CLARABEL")
        found[b, c] = float(np.asarray(whole.value))
    return found


def network_objective(network: torch.nn.Module, X: Tensor, Y: Tensor, beta: float) -> float:
    """Half a sum of squares and beta / 2 of the squares of all weights."""
    with torch.no_grad():
        squares = sum(float(p.square().sum()) for p in network.parameters())
        return float((network(X).mT - Y).square().sum()) / 2 + beta / 2 * squares


shapes = st.tuples(
    st.integers(0, 99), st.integers(1, 12), st.integers(1, 7), st.integers(1, 6), st.booleans()
)


@settings(deadline=None, max_examples=50)
@given(shapes)
def test_adjoints_are_adjoint(shape: tuple[int, int, int, int, bool]):
    of, (seed, n, d, gates, _) = program(*shape), shape
    u, r, s = (
        randn(seed + 1, 3, 2, gates, d),
        randn(seed + 2, 3, n),
        randn(seed + 3, 3, 2, gates, n),
    )
    torch.testing.assert_close((of.F(u) * r).sum(), (u * of.Ft(r)).sum(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close((of.G(u) * s).sum(), (u * of.Gt(s)).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_system_is_the_matrix_of_its_definition(weighted: bool):
    of = program(1, 11, 4, 3, weighted)
    columns = torch.eye(24, dtype=torch.float64).view(24, 2, 3, 4)
    for rho in RHO:
        found = System(of, of.gram)(columns, rho.expand(24)).flatten(1).mT
        torch.testing.assert_close(found, dense(of, rho), rtol=0, atol=1e-10)
    assert of.flops() == 2 * 11 * 4 * 3


@pytest.mark.parametrize(
    ("n", "d", "gates"), [(40, 4, 3), (9, 4, 5), (5, 9, 3)], ids=["P d <= n", "P d > n", "d > n"]
)
def test_preconditioners_are_the_inverses_that_they_say(n: int, d: int, gates: int):
    """exact: of the whole, for every rho at once.  block: of I + G'G.  Sketches of full rank: of
    the whole.
    """
    of, right, generator = (
        program(2, n, d, gates),
        randn(5, 3, 2, gates, d),
        torch.Generator().manual_seed(0),
    )
    close: dict[str, Any] = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(
        preconditioner(of, "exact", 0, generator)(right, RHO), inverted(of, right), **close
    )
    scaled = of.X * of.weights[:, None]
    block = torch.eye(d).double() + scaled.mT @ scaled
    torch.testing.assert_close(
        preconditioner(of, "block", 0, generator)(right, RHO) @ block, right, **close
    )
    assert preconditioner(of, "none", 0, generator)(right, RHO) is right
    # The sketch's last eigenvalue stands for all that it left out: the inverse is exact up to that
    # factor, 1 + the last.
    last = torch.linalg.eigvalsh(dense(of, RHO[1]))[0]
    whole = preconditioner(of, "nystrom", 2 * gates * d, generator, float(RHO[1]))
    applied = whole(System(of, of.gram)(right, RHO[1].expand(3)), RHO[1].expand(3))
    torch.testing.assert_close(applied, last * right, rtol=0, atol=1e-7)
    if gates * d > n:  # the last eigenvalue of the rest is 0
        rest = preconditioner(of, "block+nystrom", gates * d, generator)
        torch.testing.assert_close(rest(right, RHO), inverted(of, right), rtol=0, atol=1e-7)


def test_a_sketch_finds_eigenvalues_that_are_few():
    basis, generator = torch.linalg.qr(randn(0, 40, 6))[0], torch.Generator().manual_seed(0)
    values = torch.tensor([9.0, 7, 5, 3, 2, 1], dtype=torch.float64)
    vectors, found = sketch(lambda x: basis * values @ (basis.mT @ x), 40, 6, basis, generator)
    torch.testing.assert_close(found, values, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        vectors * found @ vectors.mT, basis * values @ basis.mT, rtol=0, atol=1e-9
    )


def digits() -> tuple[Tensor, Tensor]:
    """Standardised, with ones, and one-hot targets."""
    x, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    spread = x.std(0, correction=0)
    return convex.with_ones((x - x.mean(0)) / torch.where(spread > 0, spread, 1)), F.one_hot(
        labels.long()
    ).double().mT


def test_the_better_the_preconditioner_the_fewer_iterations():
    """Of ten classes: 92-98, 83-91, 19-20, 10 each.

    With 10 directions block+nystrom takes 19-20 as block does (and 19, 16, 10 with 20, 65, 130):
    the eigenvalues of the whitened rest come as many at a time as X has columns, so that a sketch
    of it begins to help from there on.
    """
    X, Y = digits()
    of = Program.of(X, convex.patterns(X, convex.gate_vectors(torch.tensor(0), 8, X.shape[1])))
    right, rho, system = of.Ft(Y), torch.ones(10, dtype=torch.float64), System(of, of.gram)
    counts = []
    kinds: tuple[tuple[Kind, int], ...] = (
        ("none", 0),
        ("nystrom", 10),
        ("block", 0),
        ("block+nystrom", 2 * X.shape[1]),
    )
    for kind, rank in kinds:
        apply = preconditioner(of, kind, rank, torch.Generator().manual_seed(0), 1.0)
        found, count = pcg(system, apply, right, rho, torch.zeros_like(right), 1e-6, 1000)
        assert (
            (system(found, rho) - right).flatten(1).norm(dim=1)
            <= 2e-6 * right.flatten(1).norm(dim=1)
        ).all()
        counts.append(count)
    assert all((fewer < more).all() for more, fewer in itertools.pairwise(counts)), counts


@pytest.mark.parametrize("kind", ["none", "block", "block+nystrom"])
def test_systems_are_solved_together_as_they_are_alone(kind: Any):
    of, right, start = program(3, 30, 5, 4), randn(1, 3, 2, 4, 5), randn(2, 3, 2, 4, 5)
    system, apply = (
        System(of, of.gram),
        preconditioner(of, kind, 4, torch.Generator().manual_seed(0)),
    )
    found, counts = pcg(system, apply, right, RHO, start, 1e-10, 500)
    torch.testing.assert_close(found, inverted(of, right), rtol=0, atol=1e-8)
    assert len(set(counts.tolist())) > 1, "some end before others"
    for k in range(3):
        here = slice(k, k + 1)
        alone, count = pcg(system, apply, right[here], RHO[here], start[here], 1e-10, 500)
        torch.testing.assert_close(alone, found[here], rtol=0, atol=1e-9)
        assert abs(int(count - counts[k])) <= 1, "a last bit may decide about one"
    # What is solved at the start stays, bit for bit, while others go on; so does the answer to
    # nothing.
    right[1], start[0], start[1] = 0, found[0], 0
    absolute, counts = pcg(system, apply, right, RHO, 0 * start, 0.1, 500, absolute=True)
    residual = (system(absolute, RHO) - right).flatten(1).norm(dim=1)
    assert (residual <= 0.1 * (1 + 1e-9)).all(), "whatever the right-hand side's length"
    again, counts = pcg(system, apply, right, RHO, start, 1e-6, 2)
    assert torch.equal(again[:2], start[:2])
    assert counts.tolist() == [0, 0, 2]


@pytest.mark.parametrize("seed", range(20))
def test_objectives_are_those_of_cvxpy(seed: int):
    X, Y, gates = problem(seed, gates=6 + seed % 3, classes=1 + seed % 3)
    most = convex.beta_max(Program.of(X, gates), Y).max()
    betas = most * torch.tensor([0.02, 0.1, 0.5], dtype=torch.float64)
    found = convex.solve(X, Y, gates, betas, tolerance=1e-8)
    expected = optima(X, Y, gates, betas)
    torch.testing.assert_close(found.objective, expected.sum(1), rtol=1e-6, atol=0)
    proof = found.certificate
    assert (proof.gap >= -1e-9).all()
    assert (proof.gap <= 1e-8 * proof.primal).all()
    assert (proof.dual <= expected * (1 + 1e-7)).all()
    torch.testing.assert_close(found.gap, proof.gap.sum(1))
    assert (proof.violation <= 1e-8).all()


def test_objectives_are_as_near_the_optimum_as_is_asked_from_either_side():
    """By the gap alone a solve for 1e-4 ended up to 1.7e-3 below the optimum, at points that were
    far from feasible.
    """
    for seed in range(20):
        X, Y, gates = problem(seed, classes=1)
        betas = convex.beta_max(Program.of(X, gates), Y).max() * torch.tensor(
            [0.2, 0.5, 0.8], dtype=torch.float64
        )
        found = convex.solve(X, Y, gates, betas, tolerance=1e-4)
        torch.testing.assert_close(
            found.objective, optima(X, Y, gates, betas).sum(1), rtol=1e-4, atol=0
        )
        assert (found.certificate.violation <= 1e-4).all()


def test_a_certificate_by_hand():
    """X = 1, one open gate, y = 2, beta = 1/2: v = 3/2 and w = 0, of the value 1/8 + 3/4."""
    of, one = (
        Program.of(torch.ones(1, 1).double(), torch.ones(1, 1, dtype=torch.bool)),
        torch.ones(1).double(),
    )

    def proof(v: float, multiplier: float) -> list[float]:
        pair = [torch.tensor([x, 0]).double().view(1, 2, 1, 1) for x in (v, multiplier)]
        found = convex.certificate(of, 2 * one[None], one / 2, *pair)
        return [float(part) for part in (*found, found.gap)]

    # primal, dual, price, violation, stationarity, gap
    assert proof(1.5, 0) == [0.875, 0.875, 0, 0, 0, 0]
    assert proof(1, 0) == [1, 0.875, 0, 0, 1, 0.125]  # theta = -1, scaled by beta / 1
    assert proof(0, 0) == [2, 0.875, 0, 0, 3, 1.125]  # theta = -2, scaled by beta / 2
    # theta = -3, gradients -3 - 1 and 3: scaled by beta / 4, and so is the price of v = -1
    assert proof(-1, 1) == [5, 0.6796875, 0.125, 1, 9, 5 + 0.125 - 0.6796875]


@pytest.mark.parametrize("mode", ["solve", "paper"])
def test_bounds_hold_far_from_the_optimum(mode: Any):
    """The dual value is no more than the optimum, and the objective at most the gap above it.

    Below it by more than the price can be a point that is not feasible, while its multipliers are
    not yet optimal.
    """
    for seed in range(3):
        X, Y, gates = problem(seed, classes=1)
        betas = torch.tensor([0.5, 5.0], dtype=torch.float64)
        best = optima(X, Y, gates, betas)
        for iterations in (0, 1, 3, 10, 30, 60):
            proof = convex.solve(X, Y, gates, betas, mode=mode, iterations=iterations).certificate
            assert (proof.dual <= best * (1 + 1e-7)).all()
            assert (proof.primal - best <= proof.gap + 1e-7 * best).all()
            assert (proof.gap >= -1e-9 * proof.primal).all()
            assert (proof.primal >= best * (1 - 1e-7))[proof.violation == 0].all()


def all_patterns(X: Tensor) -> Tensor:
    """(n, P) bool, all patterns 1[X h >= 0] of examples (n, 3) in general position but those of h
    on a border between two.

    Every cone of directions h with one pattern has an edge, where two examples' borders meet: four
    cones lie around it.
    """
    found = set()
    for i, j in itertools.combinations(range(len(X)), 2):
        edge = X @ torch.linalg.cross(X[i], X[j])
        for side, first, second in itertools.product((1, -1), (True, False), (True, False)):
            pattern = side * edge >= 0
            pattern[i], pattern[j] = first, second
            found.add(tuple(pattern.tolist()))
    return torch.tensor(sorted(found)).mT


def adam(X: Tensor, y: Tensor, beta: float, runs: int, width: int, steps: int) -> Tensor:
    """Objectives (runs,) of two-layer networks trained from different starts, all at once, with
    falling steps.
    """
    weights = [randn(1, runs, X.shape[1], width) / 2, randn(2, runs, width, 1) / 2]
    weights = [weight.requires_grad_() for weight in weights]
    optimizer = torch.optim.Adam(weights, lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    values = torch.zeros(runs)
    for _ in range(steps):
        misfit = ((X @ weights[0]).clamp(min=0) @ weights[1])[..., 0] - y
        values = misfit.square().sum(1) / 2 + beta / 2 * sum(
            weight.square().sum((1, 2)) for weight in weights
        )
        optimizer.zero_grad()
        values.sum().backward()
        optimizer.step()
        schedule.step()
    return values.detach()


def test_with_all_patterns_of_the_plane_the_optimum_is_that_of_the_network():
    X, Y, _ = problem(4, n=8, d=3, classes=1)
    gates, beta = all_patterns(X), 0.25  # exact in any type
    assert gates.shape[1] == 2 * sum(math.comb(7, k) for k in range(3)), "Cover's count"
    drawn = convex.patterns(X, randn(0, 20_000, 3)).mT.unique(dim=0)
    assert {tuple(pattern) for pattern in drawn.tolist()} <= {
        tuple(pattern) for pattern in gates.mT.tolist()
    }
    found = convex.solve(X, Y, gates, torch.tensor([beta]), tolerance=1e-11, iterations=20_000)
    primal, dual = float(found.objective), float(found.certificate.dual)
    assert primal == pytest.approx(dual, rel=1e-8)
    assert primal == pytest.approx(network_objective(found.network(0), X, Y, beta), rel=1e-8)
    assert primal == pytest.approx(float(optima(X, Y, gates, torch.tensor([beta]))), rel=1e-7)
    best = float(adam(X, Y[0], beta, 30, 20, 3000).min())
    assert primal <= best * (1 + 1e-8)
    assert best <= (1 + 1e-4) * primal, "Adam was given a chance"


def test_from_beta_max_on_the_network_is_empty_at_once():
    """Where no example is below zero no constraint is in the way, and the weight is sharp."""
    X, y = randn(1, 20, 4).abs(), randn(2, 1, 20).abs()
    gates = torch.cat([torch.ones(20, 1, dtype=torch.bool), convex.patterns(X, randn(3, 5, 4))], 1)
    most = convex.beta_max(Program.of(X, gates), y)
    torch.testing.assert_close(most, (y @ X).norm(dim=1))
    shares = torch.tensor([1.0, 3.0, 0.999], dtype=torch.float64)
    found = convex.solve(X, y, gates, most * shares, tolerance=1e-10)
    assert found.iterations[:2].tolist() == [0, 0]
    assert not found.v[:2].any()
    assert found.iterations[2] > 0
    assert found.v[2].any()
    torch.testing.assert_close(found.objective[:2], y.square().sum().expand(2) / 2)
    empty = found.network(0)
    assert torch.equal(empty(X), torch.zeros(20, 1, dtype=torch.float64))
    assert sum(p.numel() for p in empty.parameters()) == 0


def test_the_network_computes_what_the_program_does():
    X, Y, gates = problem(6, classes=3)
    betas = torch.tensor([0.5, 3.0], dtype=torch.float64)
    found = convex.solve(X, Y, gates, betas, tolerance=1e-10, iterations=20_000)
    of = Program.of(X, gates)
    assert found.v.shape == (2, 3, 2, 5, 6)
    for b, beta in enumerate(betas.tolist()):
        network, v = found.network(b), found.v[b].mT
        assert isinstance(network, torch.nn.Sequential)
        neurons = int((v.norm(dim=-1) > 0).sum())
        assert [tuple(p.shape) for p in network.parameters()] == [(neurons, 5), (3, neurons)]
        assert int((network.get_parameter("2.weight") != 0).sum()) == neurons, (
            "a neuron belongs to one class"
        )
        torch.testing.assert_close(network(X).mT.detach(), of.F(v), rtol=0, atol=1e-5)
        assert network_objective(network, X, Y, beta) == pytest.approx(
            float(found.objective[b]), rel=1e-6
        )
        assert float(found.objective[b]) == pytest.approx(
            float((of.F(v) - Y).square().sum() / 2 + beta * v.norm(dim=-1).sum()), rel=1e-12
        )


def test_weights_of_neurons_are_balanced_and_no_neuron_is_none():
    v = randn(0, 3, 2, 4, 5)
    v[1, 0, 2] = 0
    first, second = convex.relu_weights(v)
    torch.testing.assert_close(first * second.abs()[..., None], v)
    torch.testing.assert_close(first.norm(dim=-1), second.abs())
    assert (second[:, 0] >= 0).all()
    assert (second[:, 1] <= 0).all()
    assert not first[1, 0, 2].any()
    assert second[1, 0, 2] == 0
    torch.testing.assert_close(
        (first.square().sum() + second.square().sum()) / 2, v.norm(dim=-1).sum()
    )


def test_soft_thresholding_of_groups():
    t = randn(0, 2, 2, 50, 3)
    t[0, 0, 0], t[0, 0, 1] = torch.tensor([3.0, 0, 4]), 0
    found = group_soft_threshold(t, torch.tensor([1.5, 5.0])[:, None, None])
    # The minimum of |x - t|^2 / 2 + threshold |x|: the subgradient there holds t - x.
    for x, before, threshold in zip(found, t, (1.5, 5.0), strict=True):
        norms, far = x.norm(dim=-1, keepdim=True), before.norm(dim=-1)
        assert torch.equal((norms > 0)[..., 0], far > threshold)
        torch.testing.assert_close(
            before - x, torch.where(norms > 0, threshold * x / norms, before)
        )
    assert found[0, 0, 0].tolist() == pytest.approx([2.1, 0, 2.8])
    assert not group_soft_threshold(t[0, 0, :2], torch.tensor([5.0])).any(), (
        "not longer than the threshold is zero"
    )
    assert torch.equal(group_soft_threshold(t[0], torch.zeros(1)), t[0])


def predictions(v: Tensor, X: Tensor) -> Tensor:
    return convex.two_layer(v)(X).detach()


def test_dependent_neurons_go_and_predictions_stay():
    X, v = convex.with_ones(randn(0, 6, 3)), randn(1, 2, 2, 30, 4)
    pruned = convex.prune_dependent(v, X)
    torch.testing.assert_close(predictions(pruned, X), predictions(v, X), rtol=0, atol=1e-9)
    for group in pruned.flatten(0, 1):
        alive = group[group.norm(dim=-1) > 0]
        active = (X @ alive.mT).clamp(min=0)
        assert 0 < len(alive) <= 6
        assert torch.linalg.matrix_rank(active) == len(alive)
    assert torch.equal(convex.prune_dependent(pruned, X), pruned), "what is independent is let be"
    few = randn(2, 1, 2, 3, 4)
    assert torch.equal(convex.prune_dependent(few, convex.with_ones(randn(3, 40, 3))), few)
    near = few[:, :, :1] + 1e-6 * randn(4, 1, 2, 2, 4)
    assert torch.equal(convex.prune_dependent(near, convex.with_ones(randn(3, 40, 3))), near), (
        "nearly is not dependent"
    )
    assert not convex.prune_dependent(torch.zeros(1, 2, 3, 4).double(), X).any()


def test_neurons_that_answer_nothing_go():
    X = convex.with_ones(randn(0, 6, 3))
    v = torch.zeros(1, 2, 3, 4).double()
    v[0, 0, 0, 3], v[0, 0, 1, 3] = 1, -1
    assert convex.prune_dependent(v, X).norm(dim=-1)[0].tolist() == [[1, 0, 0], [0, 0, 0]]


def test_at_an_optimum_dependent_neurons_cost_nothing():
    X, Y, gates = problem(8, n=12, gates=10)
    found = convex.solve(
        X, Y, torch.cat([gates, gates], 1), torch.tensor([0.3]), tolerance=1e-10, iterations=20_000
    )
    v = found.v[0].mT
    pruned = convex.prune_dependent(v, X)
    before, after = (int((each.norm(dim=-1) > 0).sum()) for each in (v, pruned))
    assert 0 < after <= before / 2, "every gate was there twice"
    torch.testing.assert_close(predictions(pruned, X), predictions(v, X), rtol=0, atol=1e-9)
    torch.testing.assert_close(pruned.norm(dim=-1).sum(), v.norm(dim=-1).sum(), rtol=1e-5, atol=0)


def test_refit_is_least_squares():
    hidden, Y = randn(0, 30, 6).clamp(min=0), randn(1, 3, 30)
    for columns in (hidden, torch.cat([hidden, hidden[:, :2] * 2], 1), hidden[:4], hidden[:, :0]):
        targets = Y[:, : len(columns)]
        active = np.concatenate([columns.numpy(), np.ones((len(columns), 1))], 1)
        expected, *_ = np.linalg.lstsq(active, targets.mT.numpy())
        found = convex.refit(columns, targets)
        torch.testing.assert_close(found.mT, torch.tensor(expected), rtol=0, atol=1e-8)
        torch.testing.assert_close(
            torch.tensor(active) @ found.mT, torch.tensor(active @ expected), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize("seed", range(4))
def test_forward_selection_is_the_best_next_unit_by_brute_force(seed: int):
    """At each size the unit is tried that leaves the least squares, with a second layer for all
    classes and a bias.
    """
    active, Y = randn(seed, 40, 7).clamp(min=0), randn(seed + 9, 3, 40)
    choice = convex.Selection(active, Y)
    order = choice.order(7).tolist()
    assert sorted(order) == list(range(7))

    def squares(units: list[int]) -> float:
        layer = choice.layer(torch.tensor(units, dtype=torch.long))
        assert not layer[:, [k for k in range(7) if k not in units]].any()
        return float((active @ layer[:, :-1].mT + layer[:, -1] - Y.mT).square().sum())

    for size in range(7):
        tried = {
            unit: squares([*order[:size], unit]) for unit in range(7) if unit not in order[:size]
        }
        assert squares(order[: size + 1]) == pytest.approx(min(tried.values()), rel=1e-6)
        assert choice.order(size).tolist() == order[:size], "a prefix of one order"
    expected, *_ = np.linalg.lstsq(
        np.concatenate([active.numpy(), np.ones((40, 1))], 1), Y.mT.numpy()
    )
    np.testing.assert_allclose(choice.layer(torch.tensor(order)).mT.numpy(), expected, atol=1e-4)


def test_units_that_say_the_same_are_chosen_once():
    active, Y = randn(0, 30, 3).clamp(min=0), randn(1, 2, 30)
    again = torch.cat([active, 2 * active, torch.zeros(30, 1).double()], 1)
    order = convex.Selection(again, Y).order(7).tolist()
    assert len(order) == 3
    assert sorted(unit % 3 for unit in order) == [0, 1, 2]
    assert convex.Selection(active[:, :0], Y).order(5).tolist() == []
    assert convex.Selection(active, Y).order(0).tolist() == []


def test_gates_of_pairs_lie_halfway_and_open_for_the_first():
    X = convex.with_ones(randn(3, 20, 4))
    vectors = convex.pair_vectors(torch.tensor(5), 50, X)
    assert torch.equal(vectors, convex.pair_vectors(torch.tensor(5), 50, X))
    given = X @ vectors.mT
    lengths = vectors[:, :-1].square().sum(1)
    for gate in range(50):
        halves = (given[:, gate] - lengths[gate] / 2).abs() < 1e-9 * lengths[gate]
        others = (given[:, gate] + lengths[gate] / 2).abs() < 1e-9 * lengths[gate]
        assert halves.sum() == 1, "one example of the pair lies half its distance inside"
        assert others.sum() == 1, "the other lies as far outside"
    assert not torch.equal(vectors, convex.pair_vectors(torch.tensor(6), 50, X))


def test_the_mode_of_the_paper_runs_as_long_as_it_is_told():
    X, Y, gates = problem(1)
    betas = torch.tensor([0.1, 1e9], dtype=torch.float64)
    for iterations in (2, 7):
        found = convex.solve(X, Y, gates, betas, mode="paper", iterations=iterations)
        assert found.iterations.tolist() == [iterations] * 2
        assert found.inner[0] <= 32 * iterations
        assert (found.inner > 0).all()
    assert convex.solve(X, Y, gates, betas, mode="paper").iterations.tolist() == [5, 5]


def test_without_convergence_the_gap_is_told():
    X, Y, gates = problem(1)
    found = convex.solve(X, Y, gates, torch.tensor([0.1]), iterations=25)
    assert found.iterations.tolist() == [25]
    assert found.gap > 1e-6 * found.objective


def test_in_float32_the_gap_has_a_floor():
    """Asked for nothing it stays above nothing: 2e-5 of the objective here, where float64 comes
    below 1e-8.
    """
    X, Y, gates = problem(2)
    betas = torch.tensor([0.1])
    found = convex.solve(X.float(), Y.float(), gates, betas, tolerance=0.0, iterations=3000)
    assert found.v.dtype == torch.float32
    assert found.gap.dtype == torch.float64
    assert found.iterations.tolist() == [3000]
    assert 1e-6 < found.gap / found.objective < 1e-3
    exact = convex.solve(X, Y, gates, betas, tolerance=1e-8, iterations=3000)
    assert exact.gap < 1e-8 * exact.objective
    assert abs(float(found.objective - exact.objective)) < float(found.gap)
    # An easy one ends where it is told to.
    assert (
        convex.solve(X.float(), Y.float(), gates, torch.tensor([3.0]), tolerance=1e-4).iterations
        < 1000
    )


@pytest.mark.parametrize("mode", ["solve", "paper"])
def test_constant_columns_do_no_harm(mode: Any):
    X, Y, gates = problem(3)
    more = torch.cat([X, torch.zeros(30, 1).double(), torch.full((30, 1), 2.0).double()], 1)
    settings: dict[str, Any] = {
        "mode": mode,
        "tolerance": 1e-8,
        "iterations": 4000 if mode == "solve" else 20,
    }
    found = convex.solve(more, Y, gates, torch.tensor([1.0]), **settings)
    assert torch.isfinite(found.objective).all()
    assert not found.v[:, :, :, 5].any(), "the weight of a column of zeros"
    if mode == "solve":
        # Ones and twos are one column of the length of both.
        both = torch.cat([X[:, :4], torch.full((30, 1), 5**0.5).double()], 1)
        expected = convex.solve(both, Y, gates, torch.tensor([1.0]), **settings)
        torch.testing.assert_close(found.objective, expected.objective, rtol=1e-6, atol=0)


def test_examples_that_are_zero_are_no_constraint():
    X, Y, gates = problem(3)
    zeros, some = torch.zeros(3, 5).double(), torch.ones(3, 6, dtype=torch.bool)
    settings: dict[str, Any] = {"tolerance": 1e-8}
    one = convex.solve(X, Y, gates, torch.tensor([1.0]), **settings)
    two = convex.solve(
        torch.cat([X, zeros]),
        F.pad(Y, (0, 3)),
        torch.cat([gates, some]),
        torch.tensor([1.0]),
        **settings,
    )
    torch.testing.assert_close(one.objective, two.objective, rtol=1e-6, atol=0)


def test_a_cholesky_factor_that_fails_is_tried_again_once():
    singular = torch.ones(3, 3, dtype=torch.float64)
    assert torch.linalg.cholesky_ex(singular).info > 0
    factor = _cholesky(singular)
    torch.testing.assert_close(factor @ factor.mT, singular, rtol=0, atol=1e-14)
    with pytest.raises(
        ValueError,
        match=r"a matrix \(2, 2\) has no Cholesky factor, even shifted: inputs too large for torch",
    ):
        _cholesky(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    X, Y, gates = problem(0)
    with pytest.raises(ValueError, match="no Cholesky factor"):
        convex.solve(X * 1e180, Y, gates, torch.tensor([1.0]), mode="paper")
    with pytest.raises(ValueError, match="no Cholesky factor"):
        convex.solve(X * 1e180, Y, gates, torch.tensor([1.0]))


def test_all_weights_are_solved_as_each_alone():
    X, Y, gates = problem(5)
    betas = torch.tensor([0.1, 0.5, 2.0, 8.0], dtype=torch.float64)
    together = convex.solve(X, Y, gates, betas)
    for b in range(4):
        alone = convex.solve(X, Y, gates, betas[b : b + 1])
        torch.testing.assert_close(alone.objective[0], together.objective[b], rtol=2e-6, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 10, 17, 25])
def test_a_path_in_any_order_ends_where_single_solves_do(count: int):
    """Its weights start from their neighbours; those that give an empty network from nothing."""
    X, Y, gates = problem(6)
    most = float(convex.beta_max(Program.of(X, gates), Y).max())
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    betas = most * torch.logspace(-1.5, 0.3, count, dtype=torch.float64)[order]
    found = convex.solve(X, Y, gates, betas, tolerance=1e-5)
    assert (found.gap <= 1e-5 * found.objective + 1e-12).all()
    assert (found.iterations[betas >= most] == 0).all()
    for b in range(0, count, 5):
        alone = convex.solve(X, Y, gates, betas[b : b + 1], tolerance=1e-5)
        assert float(alone.objective) == pytest.approx(float(found.objective[b]), rel=3e-5)


def test_many_small_groups_end_where_one_does(monkeypatch: pytest.MonkeyPatch):
    X, Y, gates = problem(5)
    betas = torch.tensor([0.1, 0.5, 2.0, 8.0], dtype=torch.float64)
    whole = convex.solve(X, Y, gates, betas)
    monkeypatch.setattr(solver, "CACHED", 1)
    torch.testing.assert_close(
        convex.solve(X, Y, gates, betas).objective, whole.objective, rtol=1e-8, atol=0
    )


def test_preconditioners_lead_to_the_same_optimum():
    X, Y, gates = problem(5)
    objectives = [
        float(
            convex.solve(
                X, Y, gates, torch.tensor([1.0]), preconditioning=kind, tolerance=1e-7
            ).objective
        )
        for kind in ("exact", "block", "block+nystrom")
    ]
    assert objectives == pytest.approx([objectives[0]] * 3, rel=1e-6)


NAN = torch.full((30, 5), torch.nan)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"X": randn(0, 29, 5)},
            r"shapes are X \(n, d\), Y \(C, n\), gates \(n, P\), betas \(B,\); got X \(29, 5\), Y",
        ),
        ({"Y": randn(0, 30)}, r"shapes are .* Y \(30,\)"),
        ({"gates": torch.ones(6, 30, dtype=torch.bool)}, r"shapes are .* gates \(6, 30\)"),
        ({"betas": torch.tensor(1.0)}, r"shapes are .* betas \(\)"),
        (
            {"gates": torch.ones(30, 0, dtype=torch.bool)},
            r"gates and weights, at least one each; got .* gates \(30, 0\)",
        ),
        ({"betas": torch.ones(0)}, r"at least one each; got .* betas \(0,\)"),
        ({"gates": torch.ones(30, 6)}, "gates truth values; got torch.float64 and torch.float32"),
        (
            {"X": torch.ones(30, 5, dtype=torch.long)},
            "X holds real numbers .*; got torch.int64 and torch.bool",
        ),
        ({"X": NAN}, "X and Y are finite; got NaN or infinity"),
        ({"Y": torch.full((2, 30), torch.inf)}, "X and Y are finite; got NaN or infinity"),
        ({"betas": torch.tensor([1.0, 0.0])}, "regularisation weights are above 0; got 0.0"),
        ({"betas": torch.tensor([1.0, -2.0])}, "regularisation weights are above 0; got -2.0"),
        ({"betas": torch.tensor([1.0, torch.nan])}, "regularisation weights are above 0; got nan"),
        ({"betas": torch.tensor([torch.inf])}, "regularisation weights are above 0; got inf"),
    ],
)
def test_what_cannot_be_solved(change: dict[str, Tensor], sentence: str):
    X, Y, gates = problem(0)
    given = {"X": X, "Y": Y, "gates": gates, "betas": torch.ones(1), **change}
    with pytest.raises(ValueError, match=sentence):
        convex.solve(given["X"], given["Y"], given["gates"], given["betas"])
