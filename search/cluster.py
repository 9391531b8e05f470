"""Ray: one Tuner whose Searcher hands out the cohorts of a plan; actors are reused, and Tune keeps no record of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",  # workers keep freed stacks for the next step
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
for _name, _value in _SETTINGS.items():  # read when Ray is imported, and handed on to its workers
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
import torch  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from ..trainables.cohort import Cohort  # noqa: E402
from ..trainables.tuning import CohortTrainable  # noqa: E402
from .progress import Progress  # noqa: E402
from .study import Study  # noqa: E402

RETRIES = 3
"""How often a cohort whose worker died is carried on from its last rung before its members count as failed."""


def workers(study: Study) -> int:
    """How many cohorts of `study` train at a time on this machine. Raises ValueError if not one does."""
    cpus = len(os.sched_getaffinity(0))
    slots = cpus // study.about.cpus
    if not slots:
        raise ValueError(f"[study]: `cpus` is at most the {cpus} of this machine; got {study.about.cpus}")
    gpus = gpus_each(study)
    if gpus:
        have = torch.cuda.device_count()
        slots = min(slots, int(have / gpus))
        if not slots:
            raise ValueError(f"[study]: `gpus` is at most the {have} of this machine; got {gpus:g}")
    return slots


def gpus_each(study: Study) -> float:
    """GPUs, or the share of one, for each cohort."""
    if study.about.gpus == "auto":
        return 1.0 if study.task.torch_device.type == "cuda" else 0.0
    return float(study.about.gpus)


def train(study: Study, folder: Path, scratch: Path, cohorts: list[Cohort], slots: int, progress: Progress) -> dict[str, str]:
    """Train `cohorts`; returns what went wrong with those that failed for good, by name. What is done is in the rows.

    An interrupt ends it early, without an error.
    """
    with local_ray(scratch, slots * study.about.cpus):
        trainable = tune.with_resources(CohortTrainable, {"cpu": study.about.cpus, "gpu": gpus_each(study)})
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_HandOut(cohorts, {"folder": str(folder.absolute()), "threads": study.about.cpus}),
                num_samples=len(cohorts),
                max_concurrent_trials=slots,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="cohorts",
                storage_path=str(scratch / "tune"),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                callbacks=[_Report(progress)],
            ),
        )
        results = tuner.fit()
        return {r.config["cohort"]: _reason(r.error) for r in results if r.config and r.error is not None}


class _HandOut(Searcher):
    """Gives each trial the next cohort of the plan whose predecessors have ended."""

    def __init__(self, cohorts: list[Cohort], config: dict[str, Any]) -> None:
        super().__init__()
        self.waiting, self.config = list(cohorts), config
        self.going: dict[str, str] = {}  # trial -> cohort
        self.open = {cohort.name for cohort in cohorts}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        for cohort in self.waiting:
            if self.open.isdisjoint(cohort.after):
                self.waiting.remove(cohort)
                self.going[trial_id] = cohort.name
                return {**self.config, "cohort": cohort.name}
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.open.discard(self.going.pop(trial_id, ""))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the rows say what is done."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the rows say what is done."""


class _Report(tune.Callback):
    """Tells the display how far cohorts are."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __getstate__(self) -> dict[str, Any]:
        """Nothing of a display goes into Tune's snapshots."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self.progress.reached(trial.config["cohort"], result["rung"])

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.progress.note(f"cohort {trial.config['cohort']}: lost to an error or a dead worker; carried on from its last rung")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.progress.note(f"cohort {trial.config['cohort']}: failed for good; `status` and `reason` of its rows say why")


@contextlib.contextmanager
def local_ray(scratch: Path, cpus: int) -> Iterator[None]:
    """A Ray of our own on this machine, quiet, its files in `scratch`."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
        _temp_dir=str(scratch / "ray"),
    )
    # Tune stops gracefully on SIGUSR1, and not at all on SIGTERM.
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGUSR1))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def _reason(error: Exception) -> str:
    """The last line of an error that came back from a worker: its type and message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
