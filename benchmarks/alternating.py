"""CRONOS-AM against its ablations on a small convolutional network and digits, paired by seed.

The heads of cronos_am - the convex program, a least-squares last layer, random features with the
same gates, a frozen head, and D-Adaptation Adam on all parameters - each with its own learning-rate
factor and beta, chosen on validation data out of --lr and --beta by the mean over seeds; what is
compared is test accuracy at the end of one budget. A setting's run is a cohort of all.

    python benchmarks/alternating.py [--seeds 5] [--epochs 20] [--lr 1 .1] [--beta .001 .1 1 10]
    [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import pandas as pd
import torch
from torch import nn

import hand
from prunefront.analysis.inference import paired
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task

ALGORITHM = find("cronos_am")


def convolutional(input_shape: tuple[int, ...], classes: int, hidden: int = 160) -> nn.Module:
    """Two convolutions with pooling, then linear, ReLU, linear."""
    channels, rows, columns = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * (rows // 4) * (columns // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def trained(task: Task, seeds: int, **hp: Any) -> pd.DataFrame:
    """The last rows of a cohort of all seeds."""
    given = complete(ALGORITHM.space, hp)
    parent = ALGORITHM.parent(task, given)
    ALGORITHM.check(parent, given)
    hand.synchronize(parent.torch_device)
    begun = time.perf_counter()
    state = ALGORITHM.start(parent, [Member(given, seed) for seed in range(seeds)])
    for _ in range(task.rungs):
        state = ALGORITHM.advance(parent, state)
    hand.synchronize(parent.torch_device)
    return pd.DataFrame(measure(parent, ALGORITHM, state, last=True)).assign(
        **hp, wall=(time.perf_counter() - begun) / seeds
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--lr", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--beta", type=float, nargs="+", default=[1e-3, 0.1, 1.0, 10.0])
    parser.add_argument("--checkpoint", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=160)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = {"hidden": given.hidden}
    task = Task(
        model="alternating.convolutional",
        model_options=options,
        epochs=given.epochs,
        rungs=1,
        precision=given.dtype,
        device=given.device,
    )
    where = torch.cuda.get_device_name() if given.device == "cuda" else "CPU, one thread"
    print(f"digits, {given.epochs:g} epochs of {task.batch_size}, {given.seeds} seeds, {where}")
    chosen: dict[str, pd.DataFrame] = {}
    for head in ALGORITHM.space["head"].choices:
        betas = (
            given.beta if head in ("convex", "least_squares", "random_features") else given.beta[:1]
        )
        settings = [{"lr": lr, "beta": beta} for lr in given.lr for beta in betas]
        runs = [
            trained(task, given.seeds, head=head, checkpoint=given.checkpoint, **setting)
            for setting in settings
        ]
        for rows, setting in zip(runs, settings, strict=True):
            print(
                f"  {head:>15}, lr {setting['lr']:<4g}, beta {setting['beta']:<5g}: {words(rows)}",
                flush=True,
            )
        chosen[head] = max(runs, key=lambda rows: rows["accuracy_valid"].mean())
    print(
        "test accuracy of the convex head minus that of the others, %, paired by seed, settings chosen on validation data"
    )
    others = {
        head: chosen["convex"]["accuracy_test"] - rows["accuracy_test"]
        for head, rows in chosen.items()
        if head != "convex"
    }
    pairs = {head: paired.paired(difference) for head, difference in others.items()}
    adjusted = paired.holm([pair.p for pair in pairs.values()])
    for (head, pair), p in zip(pairs.items(), adjusted, strict=True):
        verdict = paired.verdict(pair, p, paired.equivalence(others[head]))
        lr, beta = chosen[head][["lr", "beta"]].iloc[0]
        interval = f"{100 * pair.low:+.2f} to {100 * pair.high:+.2f}"
        print(
            f"  {head:>15} (lr {lr:g}, beta {beta:g}): {100 * pair.mean:+.2f} ({interval}): {verdict}"
        )


def words(rows: pd.DataFrame) -> str:
    """Accuracies, what is left, and the costs of a member."""
    mean, spread = rows.mean(numeric_only=True), rows.std(numeric_only=True)
    return (
        f"valid {100 * mean['accuracy_valid']:.2f} +- {100 * spread['accuracy_valid']:.2f}, "
        f"test {100 * mean['accuracy_test']:.2f} +- {100 * spread['accuracy_test']:.2f} %; "
        f"{mean['m_neurons']:.0f} neurons, {mean['flops_shrunk'] / 1e3:.1f} of {mean['flops_dense'] / 1e3:.1f} kFLOP, "
        f"d {mean['m_d']:.1e}; {mean['wall']:.1f} s, {mean['train_flops'] / 1e9:.1f} GFLOP "
        f"({mean['search_flops'] / 1e9:.1f} in solves) a member"
    )


if __name__ == "__main__":
    main()
