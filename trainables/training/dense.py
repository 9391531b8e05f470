"""The dense phase: networks that several members, and cohorts, start from, trained once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...analysis.rows.storage import Location, locate
from ..contract import Member, State
from ..domain import complete
from ..measure.flops import uncharged
from . import loop
from .hooks import Hooks
from .start import Dense, begin

if TYPE_CHECKING:
    from ..task import Task


def dense_networks(task: Task, seeds: Sequence[int], steps: int) -> Dense:
    """Networks of `seeds` after `steps` of dense training with a schedule of their own, as phases
    of the budget have it.

    Every distinct seed is trained once; with `task.starts`, once for all cohorts of the task.
    """
    with uncharged():  # it is charged by its steps
        return _dense_networks(task, seeds, steps)


def _dense_networks(task: Task, seeds: Sequence[int], steps: int) -> Dense:
    if not steps:
        return _untrained(task, seeds)
    phase = _phase(task, steps)
    places: dict[int, Location | None] = {}
    missing: list[int] = []
    for seed in dict.fromkeys(seeds):
        place = _place(task, phase, seed)
        places[seed] = place
        if place is None or not place.exists():
            missing.append(seed)
    trained: dict[int, State] = {}
    if missing:
        trained = _trained(task, phase, missing)
    for seed, place in places.items():
        if place is None:
            continue
        if seed in trained:
            trained[seed].save(place)
        else:
            trained[seed] = State.load(place, task.torch_device)
    states = [trained[seed] for seed in seeds]
    cohort = State.concatenate(states)
    joined = cohort.members
    params = joined["params"]
    buffers = joined.get("buffers", {})
    spent = sum(state.scalars["seconds"] for state in states)
    seconds = spent / len(seeds)
    return Dense(params, buffers, steps, seconds)


def _untrained(task: Task, seeds: Sequence[int]) -> Dense:
    """The initial networks of `seeds`."""
    params, buffers = task.initial(seeds)
    return Dense(params, buffers, steps=0, seconds=0.0)


def _trained(task: Task, phase: Task, seeds: list[int]) -> dict[int, State]:
    """The state of each seed at the end of the phase."""
    # What is shared must not depend on who trains it, and a stack of one rounds differently: train
    # two.
    has_twin = len(seeds) == 1 and task.starts and task.stackable
    doubled = seeds
    if has_twin:
        doubled = seeds * 2
    plain = Hooks()
    hp = complete(plain.space, {})
    members = [Member(hp, seed) for seed in doubled]
    initial = _untrained(task, doubled)
    state = begin(plain, phase, members, initial)
    state = loop.advance(plain, phase, state)
    networks_of_seed = len(doubled) / len(seeds)
    state.scalars["seconds"] *= networks_of_seed  # a twin is paid by its original
    trained: dict[int, State] = {}
    for k, seed in enumerate(seeds):
        trained[seed] = state.select([k])
    return trained


def dense_ready(task: Task, seeds: Sequence[int]) -> bool:
    """Whether the networks of `seeds` after the task's dense phase are in `task.starts`."""
    if not task.dense_steps:
        return True
    phase = _phase(task, task.dense_steps)
    for seed in seeds:
        place = _place(task, phase, seed)
        if place is None or not place.exists():
            return False
    return True


def _phase(task: Task, steps: int) -> Task:
    """Dense training for `steps` as a task of its own, with a schedule of its own."""
    epochs = steps / task.steps_per_epoch
    return dataclasses.replace(task, epochs=epochs, rungs=1, starts="")


def _place(task: Task, phase: Task, seed: int) -> Location | None:
    """Where the dense network of `seed` is kept for other cohorts."""
    if not task.starts:
        return None
    description = phase.describe()
    identity = json.dumps([description, seed], sort_keys=True)
    digest = hashlib.sha256(identity.encode())
    name = digest.hexdigest()[:16]
    folder = locate(task.starts)
    return folder / f"{name}.safetensors"
