"""The planner of execution: how members of an arm are run, chosen by timing a few steps.

What was timed on a machine is kept beside torch's compiled graphs, and goes with them.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from ..contract import Member, State
from . import compiled, engine, kept
from .engine import Execution
from .hooks import Hooks

if TYPE_CHECKING:
    from ..contract import Algorithm
    from ..task import Task

BY_RULE = "by rule"
SHORT = 30.0
"""Seconds of training below which nothing is timed."""
SHARE = 0.05
"""Share of the training that timing may take."""
TURN = 0.2
"""Seconds of a turn, about."""
ROUNDS = 3
CLEARLY = 2.0
"""So many times as slow in its first turn, a way is not timed again."""
TIMED = 32
"""Members that are timed, at most."""
FLOPS_A_SECOND = {"cpu": 4e10, "cuda": 5e12}
OVERHEAD = 2e-5
"""Seconds that a member-step takes at least."""
GAINS = {"cpu": 0.5, "cuda": 0.3}
"""What compiled steps take of the time of others, if that was not timed: without convolutions."""
GAIN_OF_CONVOLUTIONS = 0.9
COMPILING = 30.0
"""Seconds to compile the steps of an arm the first time, if that was not timed."""
SHAPES = 4
"""How often the steps of members that narrow while they train are compiled."""
READING = 6.0
"""Seconds that it takes, about, to have compiled graphs from the disk."""
FROM_DISK = 0.25
"""The share of it that is left where compiled graphs are on disk."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """How members are run, and why, in words."""

    execution: Execution
    reason: str


@dataclasses.dataclass
class Timings:
    """Milliseconds of a member-step, by how many members are run together; and the seconds that
    compiling took.  refused: why nothing was compiled.
    """

    plain: dict[int, float]
    compiled: dict[int, float] = dataclasses.field(default_factory=dict)
    compiling: float = 0.0
    refused: str = ""

    @property
    def fastest(self) -> Execution:
        """Of what is not compiled."""
        return Execution(min(self.plain, key=lambda together: self.plain[together]))


def choose(
    task: Task,
    algorithm: Algorithm,
    member: Member,
    size: int,
    count: int,
    workers: int,
) -> Choice:
    """How cohorts of `size` members like `member` are run, `count` of them in all on `workers`
    workers, each with as many threads as torch has now.

    task: what they start from.
    """
    fixed = _as_given(task)
    if fixed is not None:
        return fixed
    by_rule = Choice(_with_given(task, engine.by_rule(task)), BY_RULE)
    if not isinstance(algorithm, Hooks) or not task.stackable or size == 1:
        return by_rule
    known = _Known(task, algorithm, member, size)
    timings = known.read()
    member_steps = task.steps * count / workers
    if timings is None:
        seconds = member_steps * _guessed(task)
        if seconds < SHORT:
            return _from_disk(task, algorithm, member, size, seconds) or by_rule
        timings = _timed(task, algorithm, member, size, member_steps)
        if timings is None:
            return by_rule
        known.write(timings)
    plain = timings.fastest
    seconds = member_steps * timings.plain[plain.together] / 1e3
    if task.compile is False:
        return Choice(_with_given(task, plain), _reason(timings, plain))
    saved = (1 - _gain(task)) * seconds
    if not timings.compiled and not timings.refused and saved > 2 * COMPILING * _shapes(algorithm):
        missing = engine.compiler_missing(task.torch_device)
        if missing:
            reason = f"{_reason(timings, plain)}; not compiled: {missing} is not found"
            return Choice(_with_given(task, plain), reason)
        _time_compiled(timings, task, algorithm, member, size)
        known.write(timings)
    for together, milliseconds in timings.compiled.items():
        reading = FROM_DISK * timings.compiling * _shapes(algorithm)
        whole = member_steps * milliseconds / 1e3 + reading
        if whole < seconds:
            chosen = Execution(together, compile=True)
            return Choice(_with_given(task, chosen), _reason(timings, chosen))
    return Choice(_with_given(task, plain), _reason(timings, plain))


def _from_disk(
    task: Task,
    algorithm: Hooks,
    member: Member,
    size: int,
    seconds: float,
) -> Choice | None:
    """A compiled program that was never timed, where its graphs are on disk and it probably saves
    more than it takes to read them. seconds: of training without it, about.
    """
    width = min(_compiled_width(task), size)
    saved = (1 - _gain(task)) * seconds
    pays = saved > READING * _shapes(algorithm)
    if task.compile != "auto" or not pays or engine.compiler_missing(task.torch_device):
        return None
    if not kept.was_compiled(task, algorithm, _static(algorithm, member), width or size):
        return None
    return Choice(Execution(width, compile=True), "its compiled steps are on disk")


def _compiled_width(task: Task) -> int:
    """How many members a compiled program has; 0: all of a cohort."""
    if task.together != "auto":
        return task.together
    return engine.usual_width(task)


def _shapes(algorithm: Hooks) -> int:
    """How often steps are compiled."""
    return SHAPES if algorithm.narrows else 1


def agrees(task: Task, chosen: Execution) -> bool:
    """Whether what was chosen is as the task says, in what it says of that."""
    compiles = task.compile in ("auto", chosen.compile)
    return compiles and task.together in ("auto", chosen.together)


def _as_given(task: Task) -> Choice | None:
    """What the task says, if it leaves nothing open."""
    if task.compile == "auto":
        return None
    if task.compile is True or task.together != "auto":
        return Choice(engine.execution(task), "as [task] says")
    return None


def _with_given(task: Task, chosen: Execution) -> Execution:
    """What is chosen, but for what the task says."""
    if task.together != "auto":
        return dataclasses.replace(chosen, together=task.together)
    return chosen


def _reason(timings: Timings, chosen: Execution) -> str:
    """What was timed, in words."""
    milliseconds = timings.compiled if chosen.compile else timings.plain
    own = milliseconds[chosen.together]
    words = [f"{own:.3g} ms a member and step"]
    for together, other in timings.plain.items():
        if chosen.compile or together != chosen.together:
            words.append(f"{Execution(together)}: {other:.3g}")
    return "; ".join(words)


def _guessed(task: Task) -> float:
    """Seconds of a member-step, by its FLOPs."""
    flops = 3 * task.counts.flops * task.batch_size
    return OVERHEAD + flops / FLOPS_A_SECOND[task.torch_device.type]


def _gain(task: Task) -> float:
    """What a compiled step probably takes of the time of one that is not."""
    if task.torch_device.type == "cpu" and engine.has_convolutions(task):
        return GAIN_OF_CONVOLUTIONS
    return GAINS[task.torch_device.type]


# ---- timing


class _Runner:
    """A cohort that is run in one way, from initial weights, a few steps at a time."""

    def __init__(
        self,
        task: Task,
        algorithm: Algorithm,
        member: Member,
        size: int,
        chosen: Execution,
    ) -> None:
        self.chosen = chosen
        self._size = size
        short = dataclasses.replace(
            task,
            rungs=max(1, task.steps // _steps_of_turn(task, size)),
            dense_share=0.0,
            starts="",
            together=chosen.together,
            compile=chosen.compile,
        )
        short.workbench.share(task.workbench)
        self._task = short
        self._algorithm = algorithm
        hp = algorithm.alone(member.hp)
        members = [Member(hp, seed) for seed in range(size)]
        self._members = members
        self._state: State = algorithm.start(short, members)

    def turn(self) -> float:
        """Seconds of a member-step, over a turn."""
        device = self._task.torch_device
        if self._state.scalars["rung"] == self._task.rungs:
            self._state = self._algorithm.start(self._task, self._members)
        before = self._state.scalars["step"]
        _wait(device)
        begun = perf_counter()
        self._state = self._algorithm.advance(self._task, self._state)
        _wait(device)
        steps = self._state.scalars["step"] - before
        return (perf_counter() - begun) / steps / self._size


def _steps_of_turn(task: Task, size: int) -> int:
    """How many steps `size` members take in a turn, which is a rung."""
    fitting = round(TURN / (_guessed(task) * size))
    steps = min(max(2, fitting), task.steps // 2)
    return max(1, steps)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(
    task: Task,
    algorithm: Algorithm,
    member: Member,
    size: int,
    member_steps: float,
) -> Timings | None:
    """Time members one after the other, and together, in turn. What is clearly slower is not timed
    again.

    None if it cannot be told within the share of a training of `member_steps` which is faster.
    """
    size = min(size, TIMED)
    widths = [1, 0] if task.together == "auto" else [task.together]
    turn = _steps_of_turn(task, size) * size
    if 2 * len(widths) * turn > SHARE * member_steps:
        return None
    begun = perf_counter()
    runners = {width: _Runner(task, algorithm, member, size, Execution(width)) for width in widths}
    first = {width: runner.turn() for width, runner in runners.items()}  # which loads and chooses
    fastest = min(first.values())
    rivals = [width for width in widths if first[width] <= CLEARLY * fastest]
    another = turn * sum(first[width] for width in rivals)
    seconds: dict[int, list[float]] = {width: [] for width in widths}
    for _ in range(ROUNDS):
        spent = perf_counter() - begun
        if spent + another > SHARE * member_steps * fastest:
            break
        for width in rivals:
            seconds[width].append(runners[width].turn())
    if len(rivals) > 1 and not seconds[rivals[0]]:
        return None
    plain: dict[int, float] = {}
    for width in widths:
        plain[width] = 1e3 * statistics.median(seconds[width] or [first[width]])
    return Timings(plain)


def _time_compiled(
    timings: Timings, task: Task, algorithm: Algorithm, member: Member, size: int
) -> None:
    """Compile and time; the graphs are then on disk for those who train."""
    together = min(_compiled_width(task), size)
    size = together or min(size, TIMED)
    compiled.forget()
    try:
        begun = perf_counter()
        runner = _Runner(task, algorithm, member, size, Execution(together, compile=True))
        runner.turn()
        timings.compiling = perf_counter() - begun
        seconds = [runner.turn() for _ in range(ROUNDS)]
        timings.refused = compiled.refusal()
    finally:
        compiled.forget()  # who plans does not train, and programs hold memory
    if not timings.refused:
        timings.compiled = {together: 1e3 * statistics.median(seconds)}


class _Known:
    """What was timed on this machine before of members like these."""

    def __init__(self, task: Task, algorithm: Hooks, member: Member, size: int) -> None:
        static = _static(algorithm, member)
        self._path = kept.place(task, algorithm, static, task.together, min(size, TIMED))

    def read(self) -> Timings | None:
        """What the file says; None if there is none, or one that is not ours or torn."""
        fields = kept.read(self._path)
        try:
            timings = Timings(
                plain=_by_width(fields["plain"]),
                compiled=_by_width(fields["compiled"]),
                compiling=float(fields["compiling"]),
                refused=str(fields["refused"]),
            )
        except (ValueError, TypeError, LookupError, AttributeError):
            return None
        return timings if timings.plain else None

    def write(self, timings: Timings) -> None:
        """Keep what was timed."""
        kept.write(self._path, dataclasses.asdict(timings))


def _static(algorithm: Hooks, member: Member) -> dict[str, Any]:
    """A member's static hyper-parameters."""
    static: dict[str, Any] = {}
    for name, domain in algorithm.space.items():
        if domain.static:
            static[name] = member.hp[name]
    return static


def _by_width(milliseconds: Mapping[str, float]) -> dict[int, float]:
    """Of a file, whose keys are text."""
    by_width: dict[int, float] = {}
    for width, value in milliseconds.items():
        if not float(value) > 0:
            raise ValueError(f"a step takes time; got {value}")
        by_width[int(width)] = float(value)
    return by_width
