"""What cohorts save: members per minute of one study of Dynamic Network Surgery on digits, three
ways in one run.

  actor per trial   plain Tune: a class Trainable around the hand-written loop of hand.py, a fresh
  actor for each trial reused actors     the same with reset_config and reuse_actors cohorts
  the same members as a study file, through `prunefront run`'s driver

All have the same slots of one CPU and one thread, Ray settings (no loggers, workers not niced),
data, batch size, learning rates, budget and measurements. The wall time of each holds its own start
of Ray, which is also shown apart. The plain ways get every seed's dense network for nothing;
cohorts train theirs, and that counts. Where the plain ways run fewer trials than there are members,
their time from the beginning of the first trial on is scaled up. Accuracies are of the members that
all ways ran.

The hand-written step is timed beside a fixed one (hand.yardstick), which took .33 ms on the machine
where hand-written surgery took .234 ms (64-32-10, batch 32) and .605 ms (64-300-100-10, batch 64):
that is this machine's scale. The comparison is VOID if the hand-written step is slower than 1.1
times what the scale makes of those.

    python benchmarks/cohort.py [--widths 32] [--batch-size 32] [--members 256] [--steps 1000]
    [--plain 256]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from prunefront.search.drive import cluster  # sets what Ray reads when it is imported

# isort: split
import ray
import torch
from ray import tune
from torch import nn

import hand
from prunefront.analysis.rows import table
from prunefront.search.console import Console
from prunefront.search.drive.run import run
from prunefront.search.study import parse
from prunefront.trainables.task import Task
from prunefront.trainables.training.dense import dense_networks

SPARSITIES = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98]
YARDSTICK, KNOWN = 0.33, {((32,), 32): 0.234, ((300, 100), 64): 0.605}
"""Milliseconds on the first machine: of the fixed step, and of hand-written surgery by (widths,
batch size).
"""


@dataclasses.dataclass
class Ran:
    """What one way did."""

    seconds: float  # for all members
    start: float  # of them, until Ray is there
    accuracy: dict[tuple[float, int], float]  # on test data, by sparsity and seed


class Plain(tune.Trainable):
    """One network; each step goes to the next rung and measures. Data and dense networks come out
    of Ray's object store.
    """

    def setup(self, config: dict[str, Any], shared: Any = None) -> None:
        torch.set_num_threads(1)
        self.shared, self.begun = shared, time.time()
        self.splits = {
            split: (torch.tensor(x), torch.tensor(y)) for split, (x, y) in shared["data"].items()
        }
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        sparsity, seed = new_config["member"]
        torch.manual_seed(seed)
        dense = {name: torch.tensor(array) for name, array in self.shared["dense"][seed].items()}
        layers: list[nn.Module] = [nn.Flatten()]
        for outputs, inputs in (dense[name].shape for name in dense if name.endswith("weight")):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.model.load_state_dict(dense)
        self.points = hand.surgery(
            self.model, *self.splits["train"], sparsity, **self.shared["budget"]
        )
        return True

    def step(self) -> dict[str, Any]:
        done = next(self.points) == self.shared["budget"]["steps"]
        found: dict[str, Any] = {"done": done, "begun": self.begun}
        for split in ("train", "valid", "test") if done else ("train", "valid"):
            found[f"loss_{split}"], found[f"accuracy_{split}"] = hand.score(
                self.model, *self.splits[split]
            )
        return found


def plain(
    task: Task,
    members: Sequence[tuple[float, int]],
    count: int,
    folder: Path,
    slots: int,
    reuse: bool,
) -> Ran:
    """The first `count` of `members`, each a trial. Their dense networks are those that the cohorts
    left in `folder`.
    """
    seeds = sorted({seed for _, seed in members[:count]})
    stored = dataclasses.replace(task, starts=str(folder / "cohorts" / "starts"))
    params = dense_networks(stored, seeds, task.dense_steps).params
    shared = {
        "data": {
            split: tuple(t.numpy() for t in next(task.data.parts(split, 1 << 30)))
            for split in task.data.labels
        },
        "dense": {
            seed: {name: p[k].numpy() for name, p in params.items()} for k, seed in enumerate(seeds)
        },
        "budget": budget(task),
    }
    begun = time.time()
    with (
        tempfile.TemporaryDirectory(prefix="prunefront-") as scratch,
        cluster.local_ray(Path(scratch), slots),
    ):
        start = time.time() - begun
        results = tune.Tuner(
            tune.with_resources(tune.with_parameters(Plain, shared=shared), {"cpu": 1}),
            param_space={"member": tune.grid_search(list(members[:count]))},
            tune_config=tune.TuneConfig(max_concurrent_trials=slots, reuse_actors=reuse),
            run_config=tune.RunConfig(
                storage_path=f"{scratch}/tune",
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
            ),
        ).fit()
        ended = time.time()
    assert not results.num_errors, results.errors
    done = [result.metrics for result in results if result.metrics]
    first = min(metrics["begun"] for metrics in done)
    seconds = first - begun + (ended - first) * len(members) / count
    return Ran(
        seconds,
        start,
        {tuple(metrics["config"]["member"]): metrics["accuracy_test"] for metrics in done},
    )


def cohorts(task: Task, seeds: Sequence[int], folder: Path) -> Ran:
    """All members of a study file, as `prunefront run` does it, but for the report."""
    own = {**task.to_json(), **task.model_options}
    lines = [
        f"{key} = {json.dumps(own[key])}"
        for key in own
        if key not in ("starts", "dataset_options", "model_options")
    ]
    about = f'[study]\nname = "cohorts"\nseeds = {list(seeds)}\nkeep = "none"\n'
    arm = f'[[arm]]\nalgorithm = "dns"\nspace.sparsity = {SPARSITIES}\n'
    path = folder / "study.toml"
    path.write_text("\n".join([about, "[task]", *lines, arm]))
    starts: list[float] = []
    init = ray.init

    def timed(**given: Any) -> Any:
        begun = time.time()
        context = init(**given)
        starts.append(time.time() - begun)
        return context

    begun = time.time()
    with mock.patch.object(ray, "init", timed):
        code = run(parse.read(path), folder / "cohorts", Console(quiet=True))
    seconds = time.time() - begun
    assert code == 0, code
    last = table.last(table.read(folder / "cohorts"))
    measured = zip(last["hp_sparsity"], last["seed"], last["accuracy_test"], strict=True)
    return Ran(
        seconds, sum(starts), {(sparsity, seed): accuracy for sparsity, seed, accuracy in measured}
    )


def budget(task: Task) -> dict[str, Any]:
    """What hand.surgery takes beside data and sparsity; its steps are those that follow the dense
    phase.
    """
    own = {
        name: getattr(task, name)
        for name in ("rungs", "batch_size", "lr", "momentum", "weight_decay")
    }
    return {**own, "steps": task.steps - task.dense_steps}


def hand_step(task: Task) -> float:
    """Milliseconds of a hand-written step of surgery."""
    given, (x, y) = budget(task), next(task.data.parts("train", 1 << 30))
    begun = time.perf_counter()
    for _ in hand.surgery(task.build(0), x, y, 0.9, **given):
        pass
    return 1e3 * (time.perf_counter() - begun) / given["steps"]


def check_hand_step(task: Task) -> None:
    """Print the hand-written step, this machine's scale, and whether the comparison is void."""
    short = dataclasses.replace(task, epochs=min(500, task.steps) / task.steps_per_epoch)
    pairs = [(hand_step(short), hand.yardstick(200)) for _ in range(9)]
    step, fixed = (statistics.median(column) for column in zip(*pairs, strict=True))
    scale = fixed / YARDSTICK
    print(
        f"hand-written step {step:.3f} ms; fixed step {fixed:.3f} ms, {scale:.2f} times the first machine's {YARDSTICK} ms"
    )
    known = KNOWN.get((tuple(task.model_options["widths"]), task.batch_size))
    if known:
        limit = 1.1 * known * scale
        verdict = "VOID: slower than" if step > limit else "within"
        print(f"{verdict} {limit:.3f} ms, 1.1 times the first machine's {known} ms, scaled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[32])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--members",
        type=int,
        default=256,
        help="a multiple of 8: as many seeds for each of 8 sparsities",
    )
    parser.add_argument(
        "--steps", type=int, default=1000, help="budget of a member, its dense phase included"
    )
    parser.add_argument(
        "--plain", type=int, help="trials that the plain ways run (default: all members)"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where workers find hand.py
    task = Task(
        model_options={"widths": given.widths},
        batch_size=given.batch_size,
        weight_decay=1e-4,
        device="cpu",
    )
    task = dataclasses.replace(task, epochs=given.steps / task.steps_per_epoch)
    seeds, slots = range(given.members // len(SPARSITIES)), len(os.sched_getaffinity(0))
    members = [(sparsity, seed) for seed in seeds for sparsity in SPARSITIES]
    count = min(given.plain or len(members), len(members))
    size = f"{len(members)} members, {slots} slots of one thread"
    print(f"MLP {given.widths}, batch {given.batch_size}, {task.steps} steps, {size}")
    check_hand_step(task)
    ways: dict[str, Ran] = {}
    with tempfile.TemporaryDirectory(prefix="prunefront-") as scratch:
        ways["cohorts"] = cohorts(task, seeds, Path(scratch))  # first: it leaves the dense networks
        ways["reused actors"] = plain(task, members, count, Path(scratch), slots, reuse=True)
        ways["actor per trial"] = plain(task, members, count, Path(scratch), slots, reuse=False)
    for name, way in ways.items():
        rates = [60 * len(members) / seconds for seconds in (way.seconds, way.seconds - way.start)]
        faster = way.seconds / ways["cohorts"].seconds
        accuracy = statistics.mean(way.accuracy[member] for member in members[:count])
        scaled = f", from {len(way.accuracy)} trials" if len(way.accuracy) < len(members) else ""
        print(
            f"{name:>15}: {rates[0]:7.1f} members a minute ({rates[1]:.1f} without Ray's start), {way.seconds:.1f} s{scaled}, "
            f"{way.start:.1f} s of it Ray's start; cohorts are {faster:.2f} times as fast; mean test accuracy {accuracy:.4f}"
        )


if __name__ == "__main__":
    main()
