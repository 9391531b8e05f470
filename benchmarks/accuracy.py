"""Time to accuracy: CRONOS against networks of as many hidden units, and of 64, trained by Adam;
everything included.

Both are tuned on validation data, for each seed: CRONOS in beta (as a share of the number of
training examples) and in iterations, Adam in eight learning rates, trained as one cohort, and in
epochs. The chosen run is then made again, alone, as far as it was chosen; test data is read at its
end only. Clocks include gates, products, factors and whatever else is set up, and looking at
validation data; imports and reading the data are left out. A neuron of CRONOS has a class of its
own: P gates are 2 P C units. Not compared here: the JAX package jaxcld, which needs a GPU, at equal
gates and iterations.

    python benchmarks/accuracy.py [--seeds 3] [--threads 2] [--device cpu] [--fashion FOLDER]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

import hand
from prunefront.trainables import convex
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.convex.solver import Mode
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import evaluate
from prunefront.trainables.task import Task

Scores = Callable[[str], Tensor]
"""Split -> accuracy on it, (K,)."""
Way = Callable[[Task, int, Sequence[float]], Iterator[Scores]]
"""(task, seed, settings) -> scores at one point of training after the other, all settings together.
"""

SHARES = (1e-6, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
ITERATIONS = (1, 2, 5, 10, 20, 40, 80)
RATES = (3e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
TARGETS = (0.9, 0.93, 0.95)


@torch.no_grad()
def cronos(
    mode: Mode, gates: int, task: Task, seed: int, shares: Sequence[float]
) -> Iterator[Scores]:
    """By convex optimisation, after each of ITERATIONS; shares: of the number of examples, beta."""
    labels, count, classes = (
        task.data.labels["train"],
        len(task.data.labels["train"]),
        task.data.classes,
    )
    X = convex.with_ones(torch.cat([x.flatten(1) for x, _ in task.data.parts("train", 1024)]))
    Y, betas = F.one_hot(labels, classes).mT.to(X), torch.tensor(shares).to(X) * count
    vectors = convex.gate_vectors(torch.tensor(seed, device=X.device), gates, X.shape[1])
    problem = convex.Problem(X, Y, convex.patterns(X, vectors), mode)
    at = problem.start(betas)

    def scores(v: Tensor, split: str) -> Tensor:
        hidden, outer = convex.relu_weights(v.to(X))
        right = torch.zeros(len(betas), dtype=torch.float64, device=X.device)
        for x, labels in task.data.parts(split, 1024):
            active = torch.einsum("nd,bcspd->bcspn", convex.with_ones(x.flatten(1)), hidden).clamp(
                min=0
            )
            right += (torch.einsum("bcspn,bcsp->bcn", active, outer).argmax(1) == labels).sum(1)
        return right / len(task.data.labels[split])

    for begin, end in itertools.pairwise((0, *ITERATIONS)):
        at, _ = problem.run(at, betas, begin, end - begin, 0.0)
        beta = (betas / problem.scale).repeat_interleave(classes)
        yield functools.partial(scores, at.v(beta).unflatten(0, (len(betas), classes)))


def adam(width: int, task: Task, seed: int, rates: Sequence[float]) -> Iterator[Scores]:
    """By Adam, at each rung."""
    dense, task = find("dense"), dataclasses.replace(task, model_options={"widths": [width]})
    state = dense.start(task, [Member(complete(dense.space, {"lr": rate}), seed) for rate in rates])
    for _ in range(task.rungs):
        state = dense.advance(task, state)
        networks = dense.networks(task, state)
        yield lambda split, networks=networks: evaluate(task, networks, split)[1]


def timed(
    way: Way, task: Task, seed: int, settings: Sequence[float], most: int
) -> tuple[list[float], Tensor, Scores]:
    """Seconds at each of the first `most` points, validation accuracies there (points, K), and
    scores at the last.
    """
    task = dataclasses.replace(task)  # so that nothing found out about the model is known
    assert task.data.classes  # what reads the data
    hand.synchronize(task.torch_device)
    begun, seconds, valid = time.perf_counter(), [], []
    for scores in itertools.islice(way(task, seed, settings), most):
        valid.append(scores("valid").cpu())
        seconds.append(time.perf_counter() - begun)
    return seconds, torch.stack(valid), scores  # type: ignore[possibly-unbound]


def row(
    way: Way, task: Task, seeds: int, settings: Sequence[float], points: Sequence[float]
) -> str:
    """One line of the table: medians over seeds, and ranges."""
    found = []
    for seed in range(seeds):
        tuning, valid, _ = timed(way, task, seed, settings, len(points))
        point, place = divmod(
            int(valid.flatten().argmax()), len(settings)
        )  # the earliest of equals
        seconds, line, scores = timed(way, task, seed, [settings[place]], point + 1)
        reached = [
            next((s for s, v in zip(seconds, line[:, 0], strict=True) if v >= t), math.inf)
            for t in TARGETS
        ]
        found.append(
            (
                seconds[-1],
                tuning[-1],
                100 * float(line[-1, 0]),
                100 * float(scores("test")[0]),
                *reached,
            )
        )
        found[-1] += (settings[place], points[point])
    return "".join(f"{words(column):>23}" for column in zip(*found, strict=True))


def words(values: Sequence[float]) -> str:
    """The median and the range; `-` where it was not reached."""
    text = [
        f"{value:.4g}" if math.isfinite(value) else "-"
        for value in (statistics.median(values), min(values), max(values))
    ]
    return f"{text[0]} ({text[1]}, {text[2]})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--gates", type=int, nargs="+", default=[8, 16])
    parser.add_argument(
        "--fashion", metavar="FOLDER", help="of the IDX files of Fashion-MNIST; digits if not given"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = {"dataset": "idx", "dataset_options": {"root": given.fashion}} if given.fashion else {}
    task = Task(
        epochs=given.epochs, rungs=20, batch_size=32, optimizer="adam", device=given.device, **data
    )
    classes, epochs = (
        task.data.classes,
        [given.epochs * rung / task.rungs for rung in range(1, task.rungs + 1)],
    )
    timed(
        functools.partial(adam, 8), dataclasses.replace(task, epochs=1), 0, [0.001], 1
    )  # not counted: torch's first calls
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, threads: {given.threads}"
    )
    print(
        f"{'Fashion-MNIST' if given.fashion else 'digits'}, {task.dtype}, {given.seeds} seeds: median (range), {where}"
    )
    heads = (
        "run, s",
        "tuning, s",
        "valid %",
        "test %",
        *(f"{100 * t:g} %, s" for t in TARGETS),
        "beta/n or lr",
        "its or epochs",
    )
    print(" " * 18 + "".join(f"{head:>23}" for head in heads))
    ways: dict[str, tuple[Way, Sequence[float], Sequence[float]]] = {}
    for gates in given.gates:
        for mode in ("paper", "solve"):
            ways[f"cronos {mode} {gates}"] = (
                functools.partial(cronos, mode, gates),
                SHARES,
                ITERATIONS,
            )
    for width in sorted({64, *(2 * gates * classes for gates in given.gates)}):
        ways[f"adam {width} units"] = functools.partial(adam, width), RATES, epochs
    for name, (way, settings, points) in ways.items():
        print(f"{name:<18}{row(way, task, given.seeds, settings, points)}", flush=True)


if __name__ == "__main__":
    main()
