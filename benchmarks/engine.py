"""How members are best run: for each model and number of members, the rate of every execution that
the planner may choose, and that of the one it does choose over the best one's.

Executions are timed in turn, a few steps each, round after round, so that a machine whose speed
drifts slows all of them. Prints milliseconds per member-step, medians over rounds, and the ratio
with the range of its middle half. Compile seconds are not in it: they are printed beside.

    python benchmarks/engine.py [--models mlp64-32-10 lenet5 ...] [--members 2 4 8 16 32 64]
    [--algorithms dense dns] [--rounds 9] [--compile] [--device cpu]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import hand
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training import engine, planner

FASHION = {"root": "/usr/share/datasets/fashion-mnist"}
"""Where Debian's package dataset-fashion-mnist puts it."""

MODELS: dict[str, Callable[[], Task]] = {
    "64-32-10": lambda: Task(widths=[32], batch_size=32),
    "64-300-100-10": lambda: Task(batch_size=64),
    "residual_mlp": lambda: Task(model="residual_mlp", batch_size=32),
    "lenet5": lambda: Task("idx", "lenet5", batch_size=64, **FASHION),
    "resnet8": lambda: Task(model="resnet", depth=8, batch_size=32),
    "resnet8-narrow": lambda: Task(model="resnet", depth=8, width=0.25, batch_size=32),
    "vgg": lambda: Task(model="vgg", batch_size=32),
}


@dataclasses.dataclass
class Candidate:
    """One execution at work on one cohort."""

    chosen: engine.Execution
    task: Task
    state: State
    milliseconds: list[float] = dataclasses.field(default_factory=list)
    first: float = 0.0  # seconds of the first turn, with the compilation

    def turn(self, algorithm: Algorithm, steps: int) -> float:
        """Seconds of `steps` steps of all members."""
        hand.synchronize(self.task.torch_device)
        begun = time.perf_counter()
        self.state = algorithm.advance(self.task, self.state)
        hand.synchronize(self.task.torch_device)
        return time.perf_counter() - begun


def candidates(
    task: Task, algorithm: Algorithm, members: int, rungs: int, compiles: bool
) -> list[Candidate]:
    """The executions that a cohort of so many members may have."""
    wanted = [engine.Execution(1), engine.Execution(0)]
    if members > 8:
        wanted.append(engine.Execution(8))
    if compiles:
        wanted.append(engine.Execution(min(8, members), compile=True))
        if members > 8:
            wanted.append(engine.Execution(members, compile=True))
    made: list[Candidate] = []
    hp = complete(algorithm.space, {})
    for chosen in wanted:
        own = dataclasses.replace(task, together=chosen.together, compile=chosen.compile)
        state = algorithm.start(own, [Member(hp, seed) for seed in range(members)])
        made.append(Candidate(chosen, own, state))
    return made


def picked(task: Task, algorithm: Algorithm, members: int) -> engine.Execution:
    """What the planner takes of what is not compiled, by its own short timing."""
    long = dataclasses.replace(task, compile=False, epochs=1000 * task.epochs, rungs=1)
    long.workbench.share(task.workbench)
    member = Member(complete(algorithm.space, {}), 0)
    return planner.choose(long, algorithm, member, members, members, 1).execution


def timed(task: Task, name: str, members: int, rounds: int, steps: int, compiles: bool) -> None:
    """Print a line for each execution of a cohort."""
    algorithm = find(name)
    rungs = rounds + 1
    task = dataclasses.replace(
        task, epochs=rungs * steps / task.steps_per_epoch, rungs=rungs, dense_share=0.0
    )
    at_work = candidates(task, algorithm, members, rungs, compiles)
    for candidate in at_work:
        candidate.first = candidate.turn(algorithm, steps)
    for _ in range(rounds):
        for candidate in at_work:
            seconds = candidate.turn(algorithm, steps)
            candidate.milliseconds.append(1e3 * seconds / steps / members)
    best = min(at_work, key=lambda one: statistics.median(one.milliseconds))
    chosen = picked(task, algorithm, members)
    for candidate in at_work:
        middle = statistics.median(candidate.milliseconds)
        ratios = [b / a for a, b in zip(candidate.milliseconds, best.milliseconds, strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        mark = "*" if candidate.chosen == chosen else " "
        print(
            f"  {mark} {candidate.chosen!s:45} {middle:8.4f} ms; {ratio:.2f} of the best "
            f"({low:.2f} to {high:.2f}); first turn {candidate.first:.1f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--algorithms", nargs="+", default=["dense", "dns"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn, about")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="prunefront-") as scratch:
        if not given.compile:  # timed anew, in a folder of its own
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch
        every_model(given)


def every_model(given: argparse.Namespace) -> None:
    """Time the executions of all that is asked for."""
    for model in given.models:
        if model == "lenet5" and not Path(FASHION["root"]).exists():
            print("lenet5: no Fashion-MNIST; skipped")
            continue
        task = dataclasses.replace(MODELS[model](), device=given.device)
        for name in given.algorithms:
            for members in given.members:
                print(f"{model}, {name}, {members} members, batch {task.batch_size}")
                flops = 6 * task.counts.flops * task.batch_size * members
                steps = max(3, min(200, round(given.seconds / (flops / 2e10 + 1e-3))))
                timed(task, name, members, given.rounds, steps, given.compile)


if __name__ == "__main__":
    main()
