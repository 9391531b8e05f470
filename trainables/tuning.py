"""Ray Tune trainables: a cohort of a study's plan, and one configuration for any Tune search of the
user's own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import os
import pickle
import signal
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from ray import tune

from ..analysis.rows import rundir
from ..analysis.rows.goals import Limit
from ..analysis.rows.mistake import Mistake
from ..analysis.rows.storage import locate, read_range
from . import pulse
from .algorithms import find
from .contract import Member, State
from .data import share
from .domain import complete
from .measure.members import measure
from .own import look_in
from .records.planned import read_line
from .records.training import Training
from .task import Task
from .training import device
from .training.dense import dense_networks


class Told(Exception):
    """What was raised, as text: type, message and traceback. An exception that cannot be copied is
    lost between processes.
    """


@contextlib.contextmanager
def _portable() -> Iterator[None]:
    """Raise what can be copied: Tune and Ray do, and exceptions of anybody's own may not allow
    it.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        try:
            while cause is not None:
                pickle.loads(pickle.dumps(cause))
                cause = cause.__cause__
        except Exception:
            text = "".join(traceback.format_exception(error))
            raise Told(f"{type(error).__name__}: {error}\n\n{text}") from None
        raise


LOST = 70
"""The exit code of a worker whose GPU is lost."""


class CohortTrainable(tune.Trainable):
    """One trial trains one cohort, up to a rung. Rows and States are files of ours; Tune is told
    only how far the cohort is.

    config: `folder`, the study's output folder; `line`, the file of its plan, and the bytes of it
    from where and how many, that hold the cohort; `upto`, the rung; `threads`; `workers`, how many
    cohorts share the device (0: as many as this machine's CPUs are enough for); `limit`, the most
    seconds from rung to rung, or None; `limits`, which members may not break. Beside it, by
    `tune.with_parameters`, what cohorts share: `study`, its name; `task`; `keep`; `data`, packed,
    or None; `places`, where the driver looks for modules, its current folder last, which becomes
    that of the worker if it is there. A retried trial carries on from the saved States.
    """

    @_portable()
    def setup(
        self,
        config: dict[str, Any],
        study: str = "",
        task: str = "",
        keep: bool = True,
        data: Any = None,
        places: Sequence[str] = (),
    ) -> None:
        # The driver's Ray starts with these blocked, but processes of a loader of data must end
        # when they are told to.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGHUP))
        look_in(places)
        here = places[-1] if places else "."
        with contextlib.suppress(OSError):  # another machine may not have it
            os.chdir(here)
        device.settle()
        self._limit = config["limit"]
        self._upto = config["upto"]
        threads = int(config["threads"])
        torch.set_num_threads(max(1, threads))
        self._folder = folder = locate(config["folder"])
        name, offset, length = config["line"]
        line = read_range(rundir.plan(folder) / name, offset, length)
        self._cohort = cohort = read_line(line.decode())
        starts = rundir.starts(folder)
        self._task = shared = _task(task, str(starts))
        if data is not None:
            share.give(
                shared.dataset,
                shared.dataset_options,
                shared.split_seed,
                shared.torch_dtype,
                data,
                shared.changes,
            )
        self._training: Training | None = None
        if cohort.algorithm:
            limits = [Limit.parse(limit) for limit in config["limits"]]
            workers = config["workers"] or _workers(threads)
            self._training = Training(
                folder,
                study,
                shared,
                cohort,
                keep,
                workers,
                limits,
            )

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become the actor of another cohort."""
        self.setup(new_config)
        return True

    @_portable()
    def step(self) -> dict[str, Any]:
        """Train to the next rung and write its rows. A process that takes too long for it ends
        itself.
        """
        if self._limit is not None:
            faulthandler.dump_traceback_later(self._limit, exit=True)
        try:
            with pulse.left_in(self._folder, self._cohort.name):
                return self._segment()
        except Exception as error:
            if device.is_lost(self._task.torch_device, error):
                # Another process may have a GPU that works, and carries the cohort on.
                traceback.print_exc()
                os._exit(LOST)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _segment(self) -> dict[str, Any]:
        training = self._training
        if training is None:
            cohort = self._cohort
            seeds = [member.seed for member in cohort.members]
            task = self._task.run_as(cohort.together, cohort.compile)
            dense_networks(task, seeds, task.dense_steps)
            return {"done": True, "rung": 0}
        if not training.finished and training.rung < self._upto:
            training.advance()
        is_done = training.finished or training.rung >= self._upto
        return {"done": is_done, "rung": training.rung, "uncompiled": training.uncompiled}


def _workers(threads: int) -> int:
    """How many cohorts this machine's CPUs are enough for."""
    cpus = os.cpu_count() or 1
    return max(1, cpus // threads)


@functools.lru_cache(maxsize=1)
def _task(settings: str, starts: str) -> Task:
    """The task, with all that was found out about it, once for a process."""
    return Task(**json.loads(settings), starts=starts)


def trainable(algorithm: str, task: Task) -> type[tune.Trainable]:
    """An algorithm on a task as an ordinary Tune trainable: one network from a flat config, one
    result per rung.

    The config holds hyper-parameters of the algorithm, and `seed` (default 0). Results hold the
    columns of a row but those of test data; `training_iteration` is the rung. Checkpoints are the
    State: schedulers such as ASHA and PBT work. On restore, hyper-parameters that are tunable in
    the middle of a run are taken from the config; another value of any other is an error. No rows
    are written. Raises Mistake if the algorithm is not known or cannot run on the task.
    """
    method = find(algorithm)
    task.check()
    reason = method.skip(task)
    if reason is not None:
        raise Mistake(f"{algorithm} cannot run on this task: {reason}")

    class Single(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            given = dict(config)
            given.pop("seed", None)
            self._hp = complete(method.space, given)
            self._parent = method.parent(task, self._hp)
            method.check(self._parent, self._hp)
            self._seed = int(config.get("seed", 0))
            self._state: State | None = None

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            parent = self._parent
            state = self._state
            if state is None:
                member = Member(self._hp, self._seed)
                state = method.start(parent, [member])
            self._state = state = method.advance(parent, state)
            (row,) = measure(parent, method, state, False, task.counts)
            is_last = row["rung"] == task.rungs
            return {**row, "done": is_last}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            assert self._state is not None, "Tune checkpoints after a step"
            folder = Path(checkpoint_dir)
            self._state.save(folder / "state.safetensors")
            member = {"hp": self._hp, "seed": self._seed}
            path = folder / "member.json"
            path.write_text(json.dumps(member))

        def load_checkpoint(self, checkpoint: Any) -> None:
            folder = Path(checkpoint)
            path = folder / "member.json"
            saved = json.loads(path.read_text())
            hp = complete(method.space, saved["hp"])
            before = {**hp, "seed": saved["seed"]}
            after = {**self._hp, "seed": self._seed}
            changed = sorted(name for name in after if after[name] != before[name])
            free = [name for name, domain in method.space.items() if domain.tunable]
            for name in changed:
                if name in free:
                    continue
                may = ", ".join(free) or "nothing"
                rule = f"only {may} may change in the middle of a run of {algorithm}"
                got = f"`{name}` = {after[name]!r}, was {before[name]!r}"
                raise Mistake(f"{rule}; got {got}")
            path = folder / "state.safetensors"
            state = State.load(path, task.torch_device)
            hp_of_members = state.members["hp"]
            for name in changed:
                value = after[name]
                if value is None:  # left to the task
                    value = getattr(task, name)
                hp_of_members[name].fill_(value)
            self._state = state

    Single.__name__ = f"{algorithm}_trainable"
    return Single
