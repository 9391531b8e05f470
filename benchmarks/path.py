"""A path of regularisation weights of CRONOS in one solve against single solves, and its linear
solvers; digits, all classes.

The single solves go from the largest weight down, each from the solution before it. `fresh`: each
sets up products and factors of its own, as with a solver that knows no paths; `shared`: they are
set up once. Setup and certificates are in all. All ways take turns, so that a machine whose speed
drifts slows all. The first round has torch's first calls in it.

    python benchmarks/path.py [--rounds 3] [--betas 32] [--lowest .02] [--tolerance 1e-4] [--threads
    2] [--dtype float64]
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import hand
from prunefront.trainables import convex
from prunefront.trainables.convex.linear import Kind, pcg, preconditioner
from prunefront.trainables.task import Task

MOST = 4000
Data = tuple[Tensor, Tensor, Tensor]
"""X (n, d), Y (C, n), gates (n, P)."""
Solved = tuple[Tensor, Tensor]
"""Objectives (B,) and iterations (B,), summed over classes."""


def prepared(task: Task, count: int) -> Data:
    """What a task's CRONOS solves with `count` gates."""
    inputs = [x.flatten(1) for x, _ in task.data.parts("train", 1024)]
    X = convex.with_ones(torch.cat(inputs))
    Y = F.one_hot(task.data.labels["train"], task.data.classes).mT.to(X)
    seed = torch.tensor(0, device=X.device)
    gates = convex.patterns(X, convex.gate_vectors(seed, count, X.shape[1]))
    return X, Y, gates


def weights(data: Data, count: int, lowest: float) -> Tensor:
    """So many weights from 0.8 of the largest useful one to `lowest` of it."""
    X, Y, gates = data
    top = float(convex.beta_max(convex.Program.of(X, gates), Y).max())
    first = math.log10(0.8)
    last = math.log10(lowest)
    return top * torch.logspace(first, last, count, dtype=X.dtype, device=X.device)


def together(data: Data, betas: Tensor, tolerance: float) -> Solved:
    """In one solve."""
    problem = convex.Problem(*data, "solve")
    at, made = problem.path(betas, MOST, tolerance)
    return problem.found(at, betas)[1].primal.sum(1), made.view(len(betas), -1).sum(1)


def cold(data: Data, betas: Tensor, tolerance: float) -> Solved:
    """In one solve, every weight from zero."""
    problem = convex.Problem(*data, "solve")
    at, made = problem.run(problem.start(betas), betas, 0, MOST, tolerance)
    return problem.found(at, betas)[1].primal.sum(1), made.view(len(betas), -1).sum(1)


def singles(data: Data, betas: Tensor, tolerance: float, shared: bool) -> Solved:
    """One after the other: v and s of the one before, its multipliers scaled with beta."""
    problem, at, objectives, counts = convex.Problem(*data, "solve"), None, [], []
    for k, beta in enumerate(betas.split(1)):
        if k and not shared:
            problem = convex.Problem(*data, "solve")
        start = (
            problem.start(beta)
            if at is None
            else dataclasses.replace(at, rho=at.rho * beta / betas[k - 1])
        )
        at, made = problem.run(start, beta, 0, MOST, tolerance)
        objectives.append(problem.found(at, beta)[1].primal.sum())
        counts.append(made.sum())
    return torch.stack(objectives), torch.stack(counts)


def timed(work: Callable[[], Solved], device: torch.device) -> tuple[float, Solved]:
    """Seconds, and what was found."""
    hand.synchronize(device)
    begun = time.perf_counter()
    found = work()
    hand.synchronize(device)
    return time.perf_counter() - begun, found


def paths(data: Data, betas: Tensor, tolerance: float, rounds: int) -> None:
    """The first table."""
    ways: dict[str, Callable[[], Solved]] = {
        "one path": lambda: together(data, betas, tolerance),
        "one path, all from zero": lambda: cold(data, betas, tolerance),
        "singles, shared setup": lambda: singles(data, betas, tolerance, True),
        "singles, fresh setup": lambda: singles(data, betas, tolerance, False),
    }
    found = [
        {name: timed(way, data[0].device) for name, way in ways.items()} for _ in range(rounds)
    ]
    truth = found[0]["singles, fresh setup"][1][0]
    print(
        f"{'':>26}{'first, s':>10}{'later, s':>10}{'iterations':>12}{'objectives':>12}   path's time as a share (range)"
    )
    for name in ways:
        first, *later = (one[name][0] for one in found)
        objectives, made = found[0][name][1]
        apart = float(((objectives - truth) / truth).abs().max())
        ratios = [one["one path"][0] / one[name][0] for one in found]
        words = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        steady = f"{statistics.median(later):.2f}" if later else "-"
        print(f"{name:>26}{first:>10.2f}{steady:>10}{int(made.sum()):>12,}{apart:>12.1e}   {words}")


def solvers(data: Data, rounds: int) -> None:
    """The second table: one right-hand side for each class, F'y / rho + a normal draw."""
    print(
        f"{'':>16}{'rho':>6}{'setup, ms':>11}{'solve, ms':>11}{'(range)':>16}{'iterations':>12}{'residual':>10}"
    )
    kinds: dict[str, tuple[Kind, int]] = {
        "none": ("none", 0),
        "nystrom-10": ("nystrom", 10),
        "nystrom-20": ("nystrom", 20),
        "block": ("block", 0),
        "block+nystrom-20": ("block+nystrom", 20),
        "block+nystrom-130": ("block+nystrom", 130),
        "exact": ("exact", 0),
    }
    for ratio in (1.0, 0.01):
        for name, (kind, rank) in kinds.items():
            begun = time.perf_counter()
            problem = convex.Problem(*data, "paper", kind, rank)  # the paper's scale: X as it is
            program, generator = problem.program, torch.Generator().manual_seed(0)
            apply = preconditioner(program, kind, rank, generator, ratio)
            hand.synchronize(program.X.device)
            setup = time.perf_counter() - begun
            right = program.Ft(problem.Y) / ratio
            right += torch.randn(right.shape, generator=generator, dtype=torch.float64).to(right)
            rho, zero = torch.full_like(right[:, 0, 0, 0], ratio), torch.zeros_like(right)
            times, counts, found = [], torch.zeros(1), zero
            for _ in range(rounds + 1):
                begun = time.perf_counter()
                if kind == "exact":
                    found = apply(right, rho)
                else:
                    found, counts = pcg(problem.system, apply, right, rho, zero, 1e-6, 5000)
                hand.synchronize(program.X.device)
                times.append(1e3 * (time.perf_counter() - begun))
            left = float((right - problem.system(found, rho)).norm() / right.norm())
            times = times[1:]
            span = f"({min(times):.1f}, {max(times):.1f})"
            line = f"{name:>16}{ratio:>6g}{1e3 * setup:>11.1f}{statistics.median(times):>11.1f}{span:>16}"
            print(f"{line}{int(counts.max()):>12}{left:>10.0e}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--betas", type=int, default=32)
    parser.add_argument(
        "--lowest",
        type=float,
        default=0.02,
        help="the least weight, as a share of the largest useful one",
    )
    parser.add_argument("--gates", type=int, default=8)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float64", choices=["float64", "float32"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    task = Task(device=given.device, precision=given.dtype)
    data = prepared(task, given.gates)
    betas = weights(data, given.betas, given.lowest)
    X, Y, _ = data
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, threads: {given.threads}"
    )
    print(
        f"digits, n, d = {tuple(X.shape)}, {len(Y)} classes, {given.gates} gates, {given.dtype}, {where}"
    )
    solvers(data, given.rounds)
    print(
        f"{given.betas} weights from .8 to {given.lowest:g} of the largest useful, to a gap of {given.tolerance:g}; "
        f"{given.rounds} rounds"
    )
    paths(data, betas, given.tolerance, given.rounds)


if __name__ == "__main__":
    main()
