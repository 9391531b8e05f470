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
        return Dense(*task.initial(seeds), 0, 0.0)
    phase = _phase(task, steps)
    places = {seed: _place(task, phase, seed) for seed in seeds}
    missing: list[int] = []
    for seed, place in places.items():
        if place is None or not place.exists():
            missing.append(seed)
    trained = _trained(task, phase, missing) if missing else {}
    for seed, place in places.items():
        if place is None:
            continue
        if seed in trained:
            trained[seed].save(place)
        else:
            trained[seed] = State.load(place, task.torch_device)
    states = [trained[seed] for seed in seeds]
    joined = State.concatenate(states).members
    seconds = sum(state.scalars["seconds"] for state in states) / len(seeds)
    return Dense(joined["params"], joined.get("buffers", {}), steps, seconds)


def _trained(task: Task, phase: Task, seeds: list[int]) -> dict[int, State]:
    """The state of each seed at the end of the phase."""
    # What is shared must not depend on who trains it, and a stack of one rounds differently: train
    # two.
    has_twin = len(seeds) == 1 and task.starts and task.stackable
    doubled = seeds * 2 if has_twin else seeds
    plain = Hooks()
    hp = complete(plain.space, {})
    members = [Member(hp, seed) for seed in doubled]
    initial = Dense(*task.initial(doubled), 0, 0.0)
    state = begin(plain, phase, members, initial)
    state = loop.advance(plain, phase, state)
    state.scalars["seconds"] *= len(doubled) / len(seeds)  # a twin is paid by its original
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
    return dataclasses.replace(task, epochs=steps / task.steps_per_epoch, rungs=1, starts="")


def _place(task: Task, phase: Task, seed: int) -> Location | None:
    """Where the dense network of `seed` is kept for other cohorts."""
    if not task.starts:
        return None
    identity = json.dumps([phase.describe(), seed], sort_keys=True)
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return locate(task.starts) / f"{name}.safetensors"
