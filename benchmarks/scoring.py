"""What scoring a random sub-network costs: Weedout's stacked search against an ordinary loop,
candidates a second.

Both score the same parent on the same examples, in turn, so that a machine whose speed drifts slows
both. The loop is what a good user writes: masks from torch.randperm, one forward pass for each
candidate.

Needs torch, but neither Ray nor an installation: `make lint` leaves links in build/types that
PYTHONPATH may name.

    python benchmarks/scoring.py [--widths 32] [--candidates 4096] [--rounds 7] [--examples 1024]
    [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

import hand
from prunefront.trainables.algorithms import find
from prunefront.trainables.algorithms._weedout_search import search
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training.dense import dense_networks


@torch.no_grad()
def loop(task: Task, sparsity: float, examples: int, count: int) -> float:
    """Candidates a second of a plain loop over random node masks of an MLP."""
    model, device = task.build(0).eval(), task.torch_device
    rows = torch.arange(min(examples, len(task.data.labels["train"])), device=device)
    x, y = task.data.examples("train", rows).flatten(1), task.data.labels["train"][rows]
    layers = [part for part in model if isinstance(part, torch.nn.Linear)]  # type: ignore[attr-defined]
    best = float("inf")
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    for _ in range(count):
        h = x
        for layer in layers[:-1]:
            mask = torch.zeros(layer.out_features, device=device)
            mask[
                torch.randperm(layer.out_features, device=device)[
                    : round((1 - sparsity) * layer.out_features)
                ]
            ] = 1
            h = torch.relu(layer(h)) * mask
        best = min(best, F.cross_entropy(layers[-1](h), y).item())
    hand.synchronize(task.torch_device)
    return count / (time.perf_counter() - begun)


def stacked(task: Task, member: Member, count: int) -> float:
    """Candidates a second of the search."""
    parents = dense_networks(task, [member.seed], 0)
    hand.synchronize(task.torch_device)
    begun = time.perf_counter()
    search(task, parents, 0, member, [count])
    hand.synchronize(task.torch_device)
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[32])
    parser.add_argument("--candidates", type=int, default=4096)
    parser.add_argument("--examples", type=int, default=1024)
    parser.add_argument("--sparsity", type=float, default=0.8)
    parser.add_argument("--precision", default="task", choices=["task", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    task, weedout = (
        Task(model_options={"widths": given.widths}, device=given.device),
        find("weedout"),
    )
    hp = {"sparsity": given.sparsity, "examples": given.examples, "precision": given.precision}
    member = Member(complete(weedout.space, hp), 0)
    some = max(1, given.candidates // 8)  # the loop's rate does not depend on how many
    loop(task, given.sparsity, given.examples, some)  # not counted
    stacked(task, member, given.candidates)
    pairs = [
        (loop(task, given.sparsity, given.examples, some), stacked(task, member, given.candidates))
        for _ in range(given.rounds)
    ]
    where = (
        torch.cuda.get_device_name() if given.device == "cuda" else f"CPU, threads: {given.threads}"
    )
    print(
        f"MLP {given.widths} on digits, {given.examples} examples, sparsity {given.sparsity}, {given.precision}, {where}"
    )
    for name, rates in zip(("loop", "stacked"), zip(*pairs, strict=True), strict=True):
        print(
            f"{name:>8}: {statistics.median(rates):,.0f} candidates a second ({min(rates):,.0f} to {max(rates):,.0f})"
        )
    ratios = [fast / slow for slow, fast in pairs]
    print(
        f"   ratio: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}), paired in {len(pairs)} rounds"
    )


if __name__ == "__main__":
    main()
