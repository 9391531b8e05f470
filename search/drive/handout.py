"""The hand-out: one Tuner whose Searcher gives away what `Work` says; actors are reused, and Tune
keeps no record of its own.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from ...trainables.data.share import Packed
from ...trainables.own import places
from ...trainables.records.parts import ask_parts
from ...trainables.tuning import CohortTrainable
from ..plan.generations import Planned
from ..study.schema import Study
from . import cluster, interrupts, losses
from .progress import Progress
from .work import Work

RETRIES = 3
"""How often a cohort whose worker died is carried on from the same rung before its members count as
failed.
"""
RECOUNT_SECONDS = 5.0
"""After so long the nodes of a cluster are counted again."""


def train(
    study: Study,
    work: Work,
    scratch: Path,
    packed: Packed | None,
    progress: Progress,
) -> None:
    """Train what `work` hands out, on the Ray that runs and the nodes that it has at the time. An
    interrupt ends it early, without an error.

    packed: the data set for workers, put once into the object store.
    """
    hands = HandOut(work, _config(study, work), progress, lambda: cluster.slots_now(study))
    progress.at_work = lambda: list(hands.going.values())
    report = Report(hands)
    trainable = _trainable(study, packed)
    losses.deaths_only()
    for attempt in itertools.count():
        tuner = _tuner(
            trainable,
            hands,
            report,
            scratch,
            f"cohorts-{attempt}",
        )
        try:
            with interrupts.tune_listens():
                tuner.fit()
            break
        except Exception as error:
            if interrupts.heard():
                break
            if not losses.of_ray(error):
                raise
            report.all_lost(error)
    if hands.broken is not None:
        raise hands.broken


def _config(study: Study, work: Work) -> dict[str, Any]:
    """What every trial is given beside its segment."""
    gpus = cluster.gpus_each(study)
    limits = []
    if study.about.reduction_factor is not None:
        limits = [str(limit) for limit in study.goals.constraints]
    return {
        "folder": str(work.folder.absolute() if isinstance(work.folder, Path) else work.folder),
        "threads": study.about.cpus,
        "workers": max(1, int(1 / gpus)) if gpus else 0,
        "limit": study.about.limit,
        "limits": limits,
    }


def _trainable(study: Study, packed: Packed | None) -> Any:
    """The trainable of cohorts with what they share, and the resources of each."""
    settings = study.task.to_json()
    settings.pop("starts")  # workers have it from the folder
    shared = {
        "study": study.about.name,
        "task": json.dumps(settings),
        "keep": study.about.keep != "none",
        "data": packed,
        "places": places(),
    }
    trainable = tune.with_parameters(CohortTrainable, **shared)
    resources = {"cpu": study.about.cpus, "gpu": cluster.gpus_each(study)}
    return tune.with_resources(trainable, resources)


def _tuner(
    trainable: Any,
    hands: HandOut,
    report: Report,
    scratch: Path,
    name: str,
) -> tune.Tuner:
    no_checkpoints = tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False)
    run_config = tune.RunConfig(
        name=name,
        storage_path=str(scratch / "tune"),
        verbose=0,
        checkpoint_config=no_checkpoints,
        callbacks=[report],
    )
    tune_config = tune.TuneConfig(
        search_alg=hands,
        num_samples=-1,
        reuse_actors=True,
    )
    return tune.Tuner(trainable, tune_config=tune_config, run_config=run_config)


class HandOut(Searcher):
    """Gives each trial the next segment of a cohort, and tells `Work` how it ended.

    count: of cohorts that train at a time; asked again while the study goes on, as nodes come and
    go.
    broken: what went wrong in the driver itself, in writing rows or in proposing; nothing more is
    handed out then.
    """

    def __init__(
        self,
        work: Work,
        config: dict[str, Any],
        progress: Progress,
        count: Callable[[], int],
    ) -> None:
        super().__init__()
        self.work = work
        self.config = config
        self.progress = progress
        self.count = count
        self.slots = count()
        self.counted = time.monotonic()
        self.broken: Exception | None = None
        self.going: dict[str, Planned] = {}  # trial -> cohort

    def __getstate__(self) -> dict[str, Any]:
        """Nothing goes into Tune's snapshots."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        segment = None
        with self.guarded():
            self._recount()
            if self.broken is None:
                if len(self.going) >= self.slots:
                    return None
                segment = self.work.next()
        if segment is None:
            over = self.broken is not None or self.work.over
            return Searcher.FINISHED if over else None
        self.going[trial_id] = segment.cohort
        return {**self.config, "line": list(segment.cohort.line), "upto": segment.upto}

    def _recount(self) -> None:
        if time.monotonic() - self.counted > RECOUNT_SECONDS:
            self.slots = self.count()
            self.counted = time.monotonic()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if not error:
            self.ended(trial_id, None)

    def ended(self, trial_id: str, error: str | None) -> None:
        """A trial is over, well or for the reason `error`."""
        planned = self.going.pop(trial_id, None)
        if planned is not None:
            with self.guarded():
                self.work.ended(planned.name, error)

    def again(self, trial_id: str) -> None:
        """A trial was lost, and its cohort is the next to be handed out."""
        planned = self.going.pop(trial_id, None)
        if planned is not None:
            self.work.again(planned.name)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep what goes wrong for the end: an error in a Searcher would leave trials behind."""
        try:
            yield
        except Exception as error:
            self.broken = self.broken or error

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the rows say what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the rows say what is done."""


class Report(tune.Callback):
    """Tells the display how far cohorts are, and the hand-out why one failed."""

    def __init__(self, hands: HandOut) -> None:
        self.hands = hands
        self.heard: dict[str, float] = {}  # trial -> when it was last heard of
        self.tries = collections.Counter[str]()  # of each cohort, from the rung where it is
        self.uncompiled: set[str] = set()  # algorithms of which it was said
        self.kills = losses.kernel_kills()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of a display goes into Tune's snapshots."""
        return {}

    def on_trial_start(
        self,
        iteration: int,
        trials: Any,
        trial: Any,
        **info: Any,
    ) -> None:
        self.heard[trial.trial_id] = time.monotonic()

    def on_trial_result(
        self,
        iteration: int,
        trials: Any,
        trial: Any,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        self.heard[trial.trial_id] = time.monotonic()
        planned = self.hands.going[trial.trial_id]
        self.tries[planned.name] = 0
        with self.hands.guarded():
            self.hands.progress.reached(planned, result["rung"])
            self._note_uncompiled(planned.algorithm, result.get("uncompiled", ""))

    def _note_uncompiled(self, algorithm: str, reason: str) -> None:
        """Say once of an algorithm that its steps are not compiled, though the plan has it so."""
        if not reason or algorithm in self.uncompiled:
            return
        self.uncompiled.add(algorithm)
        self.hands.progress.note(f"{algorithm}: its steps run without being compiled: {reason}")

    def on_trial_error(
        self,
        iteration: int,
        trials: Any,
        trial: Any,
        **info: Any,
    ) -> None:
        """Try again, which Tune itself does not where a node dies under a trial that has not begun;
        at last give up.
        """
        self.lost(trial.trial_id, losses.of_trial(trial))

    def all_lost(self, error: Exception) -> None:
        """Tune itself ended for `error`, and each cohort that trained is tried again."""
        for trial_id in list(self.hands.going):
            self.lost(trial_id, error)

    def lost(self, trial_id: str, error: BaseException | str | None) -> None:
        """A trial was lost to `error`: its cohort is tried again, in the end failed."""
        hands = self.hands
        with hands.guarded():
            name = hands.going[trial_id].name
            log = losses.logged(error, hands.work.folder, name)
            self.tries[name] += 1
            kills = self._new_kills()
            memory = losses.memory(error, kills)
            cause = self._late(trial_id) or memory
            if self.tries[name] <= RETRIES:
                how = ""
                if memory:
                    parts = self._split(trial_id)
                    how = f", in {parts} parts"
                hands.again(trial_id)
                cause = cause or "lost to an error or a dead worker"
                after = f"carried on from its last rung{how}{log}"
                hands.progress.note(f"cohort {name}: {cause}; {after}")
                return
            folder = hands.config["folder"]
            refusal = losses.refused(error, folder)
            if refusal is not None:
                hands.broken = hands.broken or refusal
                return
            cause = cause or losses.reason(error)
            hands.ended(trial_id, cause)
            hands.progress.note(f"cohort {name}: failed for good: {cause}{log}")

    def _new_kills(self) -> int:
        """Processes that the kernel has killed for memory since this was last asked."""
        before, self.kills = self.kills, losses.kernel_kills()
        return self.kills - before

    def _split(self, trial_id: str) -> int:
        """Have the cohort of a trial trained in more parts; returns how many."""
        planned = self.hands.going[trial_id]
        folder = self.hands.work.folder
        parts = ask_parts(folder, planned.name, losses.PARTS)
        return min(planned.size, parts)

    def _late(self, trial_id: str) -> str:
        """That a trial took too long, if it did."""
        limit = self.hands.config["limit"]
        now = time.monotonic()
        if not limit or now - self.heard.get(trial_id, now) < limit:
            return ""
        return f"took more than the {limit:g} s that `limit` allows from rung to rung"
