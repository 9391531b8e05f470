"""Convex networks at few neurons: where gates come from, how neurons are selected, and random
features beside them.

    python benchmarks/neurons.py [--seeds 5] [--neurons 12 25 50] [--gates 32] [--epochs 40]

Digits. The mode paper with its defaults; then, at so many neurons or fewer, selection by beta alone
(the path of `betas`, the best on validation data), greedy selection with gates drawn at random, from
pairs and from SGD, and random features. Differences to normal gates are paired by seed, with Holm's
correction over all of the table.
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

Row = dict[str, Any]
PAPER: Mapping[str, Any] = {"mode": "paper"}
NORMAL = "normal, all gates"
SHARES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def ways(gates: int) -> dict[str, dict[str, Any]]:
    """Where neurons come from, for so many gates in the largest programs."""
    few, half = gates // 4, gates // 2
    return {
        f"normal, {few} gates": {"gates": few},
        NORMAL: {"gates": gates},
        f"pairs, {gates} gates": {"gates": gates, "gates_from": "pairs"},
        f"sgd, {half} gates, 5 epochs": {"gates": half, "gates_from": "sgd"},
        f"random features, {20 * half}": {"gates": half, "units_from": "random_features"},
        f"random features, {20 * gates}": {"gates": gates, "units_from": "random_features"},
    }


def trained(settings: Sequence[Mapping[str, Any]], seeds: int, epochs: float) -> list[Row]:
    """Last rows of members of all settings on digits, a setting's seeds after each other."""
    algorithm = find("cronos")
    members: list[Member] = []
    for hp in settings:
        members += [Member(complete(algorithm.space, hp), seed) for seed in range(seeds)]
    task = algorithm.parent(Task(rungs=1, epochs=epochs), members[0].hp)
    algorithm.check(task, members[0].hp)
    state = algorithm.advance(task, algorithm.start(task, members))
    return measure(task, algorithm, state, last=True)


def by_beta(gates: int, sizes: Sequence[int], seeds: int, epochs: float) -> dict[int, list[float]]:
    """Test accuracy at each size: of the members of a path that are small enough, the best on
    validation data.
    """
    rows = trained([{"gates": gates, "beta": share} for share in SHARES], seeds, epochs)
    accuracy: dict[int, list[float]] = {}
    for size in sizes:
        accuracy[size] = []
        for seed in range(seeds):
            small = [row for row in rows[seed::seeds] if row["m_neurons"] <= size]
            best = max(small, key=lambda row: row["accuracy_valid"], default=None)
            accuracy[size].append(100 * best["accuracy_test"] if best else np.nan)
    return accuracy


def greedy(
    hp: Mapping[str, Any], sizes: Sequence[int], seeds: int, epochs: float
) -> dict[int, list[float]]:
    """Test accuracy at each size: the better on validation data of two weights."""
    settings: list[dict[str, Any]] = []
    for size in sizes:
        setting = {**hp, "select": "greedy", "neurons": size}
        shares = [{}, {}] if "units_from" in hp else [{"beta": 0.01}, {"beta": 0.05}]
        settings += [{**setting, **share} for share in shares]
    rows = trained(settings, seeds, epochs)
    accuracy: dict[int, list[float]] = {}
    for place, size in enumerate(sizes):
        accuracy[size] = []
        for seed in range(seeds):
            first = 2 * place * seeds + seed
            both = (rows[first], rows[first + seeds])
            best = max(both, key=lambda row: row["accuracy_valid"])
            accuracy[size].append(100 * best["accuracy_test"])
    return accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--gates", type=int, default=32)
    parser.add_argument("--neurons", type=int, nargs="+", default=[12, 25, 50])
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = trained([PAPER], given.seeds, given.epochs)
    accuracy = [100 * row["accuracy_test"] for row in rows]
    print(f"paper: {_told(accuracy)} %, CG {[row['m_cg'] for row in rows]}, ", end="")
    print(f"neurons {[int(row['m_neurons']) for row in rows]}, steps {rows[0]['steps']}")
    table: dict[str, dict[int, list[float]]] = {}
    for gates in (given.gates // 4, given.gates):
        table[f"beta alone, {gates} gates"] = by_beta(
            gates, given.neurons, given.seeds, given.epochs
        )
    for name, hp in ways(given.gates).items():
        begun = time.perf_counter()
        table[f"greedy, {name}"] = greedy(hp, given.neurons, given.seeds, given.epochs)
        print(f"{name}: {time.perf_counter() - begun:.0f} s")
    print("| test accuracy in % at most | " + " | ".join(map(str, given.neurons)) + " |")
    print("|---|" + "---|" * len(given.neurons))
    for name, by_size in table.items():
        print(f"| {name} | " + " | ".join(_told(values) for values in by_size.values()) + " |")
    _compare(table)


def _compare(table: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    normal = table[f"greedy, {NORMAL}"]
    names = [name for name in table if name.startswith("greedy") and "normal" not in name]
    tests: list[tuple[str, int, Any]] = []
    for name in names:
        for size, values in table[name].items():
            differences = np.subtract(values, normal[size])
            tests.append((name, size, differences))
    p = [test.p for test in paired.paired_groups([differences for _, _, differences in tests])]
    for (name, size, differences), adjusted in zip(tests, paired.holm(p), strict=True):
        print(f"{name} minus normal at {size}: {_told(differences)}, p {adjusted:.4f}")


def _told(values: Sequence[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


if __name__ == "__main__":
    main()
