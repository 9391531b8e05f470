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
from .records.cohort import Cohort
from .records.training import Training
from .task import Task
from .training.dense import dense_networks


class Told(Exception):
    """What was raised, as text: type, message and traceback. An exception that cannot be copied is
    lost between processes.
    """


@contextlib.contextmanager
def _portable() -> Iterator[None]:
    """Raise what can be copied: Tune and Ray do, and exceptions of anybody's own may not allow it."""
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
        with contextlib.suppress(OSError):  # another machine may not have it
            os.chdir(places[-1] if places else ".")
        self._limit, self._upto = config["limit"], config["upto"]
        torch.set_num_threads(max(1, int(config["threads"])))
        self._folder = folder = locate(config["folder"])
        name, offset, length = config["line"]
        self._cohort = Cohort.from_json(read_range(folder / "plan" / name, offset, length).decode())
        self._task = _task(task, str(folder / "starts"))
        if data is not None:
            options, seed = self._task.dataset_options, self._task.split_seed
            share.give(self._task.dataset, options, seed, self._task.torch_dtype, data)
        self._training: Training | None = None
        if self._cohort.algorithm:
            workers = config["workers"] or max(1, (os.cpu_count() or 1) // int(config["threads"]))
            limits = [Limit.parse(limit) for limit in config["limits"]]
            self._training = Training(
                folder, study, self._task, self._cohort, keep, workers, limits
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
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _segment(self) -> dict[str, Any]:
        if self._training is None:
            dense_networks(
                self._task, [member.seed for member in self._cohort.members], self._task.dense_steps
            )
            return {"done": True, "rung": 0}
        if not self._training.finished and self._training.rung < self._upto:
            self._training.advance()
        rung = self._training.rung
        return {"done": self._training.finished or rung >= self._upto, "rung": rung}


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
            self._hp = complete(
                method.space, {name: value for name, value in config.items() if name != "seed"}
            )
            self._parent = method.parent(task, self._hp)
            method.check(self._parent, self._hp)
            self._seed = int(config.get("seed", 0))
            self._state: State | None = None

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            if self._state is None:
                self._state = method.start(self._parent, [Member(self._hp, self._seed)])
            self._state = method.advance(self._parent, self._state)
            (row,) = measure(self._parent, method, self._state, False, task.counts)
            return {**row, "done": row["rung"] == task.rungs}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            assert self._state is not None, "Tune checkpoints after a step"
            self._state.save(Path(checkpoint_dir) / "state.safetensors")
            (Path(checkpoint_dir) / "member.json").write_text(
                json.dumps({"hp": self._hp, "seed": self._seed})
            )

        def load_checkpoint(self, checkpoint: Any) -> None:
            folder = Path(checkpoint)
            saved = json.loads((folder / "member.json").read_text())
            before = {**complete(method.space, saved["hp"]), "seed": saved["seed"]}
            after = {**self._hp, "seed": self._seed}
            changed = {name for name, value in after.items() if value != before[name]}
            fixed = sorted(
                name for name in changed if name == "seed" or not method.space[name].tunable
            )
            if fixed:
                free = ", ".join(name for name, domain in method.space.items() if domain.tunable)
                rule = f"only {free or 'nothing'} may change in the middle of a run of {algorithm}"
                raise Mistake(
                    f"{rule}; got `{fixed[0]}` = {after[fixed[0]]!r}, was {before[fixed[0]]!r}"
                )
            self._state = State.load(folder / "state.safetensors", task.torch_device)
            for name in changed:
                value = getattr(task, name) if after[name] is None else after[name]
                self._state.members["hp"][name].fill_(value)

    Single.__name__ = f"{algorithm}_trainable"
    return Single
