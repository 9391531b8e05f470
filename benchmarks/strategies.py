"""Weedout against chance: by strategy, and when data are few, noisy or unequal.

    python benchmarks/strategies.py [--seeds 20] [--candidates 256] [--epochs 40]

Digits, 64-128-128-10. Each strategy has so many evaluations; `random` is the first candidate. Test
accuracy of what was found minus that of the first, paired by seed: 95 % t interval, p with Holm's
correction over the table, and p of the equivalence test (margin 0.5 points).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from prunefront.analysis.inference import paired
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task

MARGIN = 0.5
STRATEGIES = ("random", "mutation", "climb", "genetic")
SPARSITIES = (0.8, 0.9)
DATA: Mapping[str, Mapping[str, float]] = {
    "all data": {},
    "a quarter of the data": {"train_share": 0.25},
    "a tenth of the data": {"train_share": 0.1},
    "20 % wrong labels": {"label_noise": 0.2},
    "40 % wrong labels": {"label_noise": 0.4},
    "imbalance 10": {"imbalance": 10.0},
}


def accuracies(task: Task, settings: Sequence[Mapping[str, Any]], seeds: int) -> np.ndarray:
    """Test accuracy in %, (settings, seeds), and initial scores, (settings, seeds)."""
    algorithm = find("weedout")
    both: list[np.ndarray] = []
    for hp in settings:
        members = [Member(complete(algorithm.space, hp), seed) for seed in range(seeds)]
        state = algorithm.advance(task, algorithm.start(task, members))
        rows = measure(task, algorithm, state, last=True)
        values = [(100 * row["accuracy_test"], row["m_score"]) for row in rows]
        both.append(np.array(values).T)
    return np.stack(both)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--epochs", type=float, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    names: list[str] = []
    differences: list[np.ndarray] = []
    scores: list[str] = []
    for sparsity in SPARSITIES:
        task = _task(given.epochs)
        one = {"sparsity": sparsity, "candidates": 1}
        many = [
            {"sparsity": sparsity, "candidates": given.candidates, "strategy": strategy}
            for strategy in STRATEGIES
        ]
        measured = accuracies(task, [one, *many], given.seeds)
        for place, strategy in enumerate(STRATEGIES, start=1):
            names.append(f"{strategy}, sparsity {sparsity:g}")
            differences.append(measured[place, 0] - measured[0, 0])
            scores.append(f"{measured[place, 1].mean():.4f} ({measured[0, 1].mean():.4f})")
    for name, keys in DATA.items():
        begun = time.perf_counter()
        task = _task(given.epochs, **keys)
        pair = [{"sparsity": 0.8, "candidates": count} for count in (1, given.candidates)]
        measured = accuracies(task, pair, given.seeds)
        names.append(f"random, sparsity 0.8, {name}: {measured[0, 0].mean():.2f} %")
        differences.append(measured[1, 0] - measured[0, 0])
        scores.append(f"{measured[1, 1].mean():.4f} ({measured[0, 1].mean():.4f})")
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    tests = paired.paired_groups(differences)
    adjusted = paired.holm([test.p for test in tests])
    equivalent = paired.equivalence_groups(differences, MARGIN)
    print("| search | found - first, points (95 %) | p (Holm) | p of equivalence | score (first) |")
    print("|---|---|---|---|---|")
    for name, test, p, same, score in zip(names, tests, adjusted, equivalent, scores, strict=True):
        interval = f"{test.mean:+.2f} ({test.low:.2f} to {test.high:.2f})"
        print(f"| {name} | {interval} | {p:.3f} | {same:.3f} | {score} |")


def _task(epochs: float, **keys: Any) -> Task:
    options = {"widths": [128, 128]}
    steps = round(epochs * 38)  # as many steps whatever the data
    task = Task(model_options=options, epochs=epochs, rungs=1, **keys)
    return Task(model_options=options, epochs=steps / task.steps_per_epoch, rungs=1, **keys)


if __name__ == "__main__":
    main()
