"""Complexity-aware training of a plain chain, and of the same chain wrapped (`wrap = true`).

    python benchmarks/wrapping.py mlp|vgg [--seeds 3] [--epochs 40] [--nu 0.1 1 10] [--beta 0]

Digits; 64-32-32-10, or a chain like VGG with stages 8-8 and 16-16-16-16. A line is one `nu`: means
over seeds of FLOPs that are left, test accuracy, and layers removed of those before the last.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch

from prunefront.analysis.points import words
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member, Networks
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task

CHAINS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"widths": [32, 32]},
    "vgg": {"stages": [[8, 8], [16, 16, 16, 16]]},
}
HEAD = ("chain", "nu", "FLOPs left", "of the plain chain's", "test accuracy", "layers removed")


def removed(task: Task, networks: Networks, member: int) -> int:
    """How many layers of a member's network went with their blocks."""
    place = networks.of[member]
    count = 0
    for block in task.structure.blocks:
        if not networks.kept[block.name][place]:
            count += len(block.layers)
    return count


def lines(task: Task, plain: int, given: argparse.Namespace) -> list[list[str]]:
    """A line of the table for each `nu`. plain: FLOPs of the chain that is not wrapped."""
    algorithm = find("complexity_aware")
    members: list[Member] = []
    for nu in given.nu:
        beta = given.beta if task.structure.blocks else 0.0
        hp = complete(algorithm.space, {"nu": nu, "beta": beta})
        members += [Member(hp, seed) for seed in range(given.seeds)]
    state = algorithm.advance(task, algorithm.start(task, members))
    networks = algorithm.networks(task, state)
    rows = measure(task, algorithm, state, last=True)
    label = "wrapped" if task.structure.blocks else "plain"
    table: list[list[str]] = []
    for start in range(0, len(members), given.seeds):
        own = range(start, start + given.seeds)
        flops = sum(rows[member]["flops_shrunk"] for member in own) / given.seeds
        accuracy = sum(rows[member]["accuracy_test"] for member in own) / given.seeds
        layers = [str(removed(task, networks, member)) for member in own]
        nu = f"{members[start].hp['nu']:g}"
        share = f"{100 * flops / plain:.0f} %"
        right = f"{100 * accuracy:.1f} %"
        table.append([label, nu, f"{flops:,.0f}", share, right, ", ".join(layers)])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("chain", choices=sorted(CHAINS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--nu", type=float, nargs="+", default=[0.01, 0.1, 0.3, 1, 3, 10])
    parser.add_argument("--beta", type=float, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    options = CHAINS[given.chain]
    task = Task(model=given.chain, model_options=options, epochs=given.epochs, rungs=1)
    plain = task.counts.flops
    table = lines(task, plain, given)
    wrapped = {**options, "wrap": True}
    task = Task(model=given.chain, model_options=wrapped, epochs=given.epochs, rungs=1)
    table += lines(task, plain, given)
    print(words.grid(HEAD, table, numbers=False))
    took = time.perf_counter() - begun
    print(f"\nFLOPs: {plain:,} plain, {task.counts.flops:,} wrapped; {took:.0f} s")


if __name__ == "__main__":
    main()
