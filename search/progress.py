"""Live progress: members done, rate, time left, best points so far. A display on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.live import Live

from ..analysis.front import front
from ..analysis.table import RUNNING
from ..trainables.cohort import Cohort, rows_path

EVERY = 10.0
"""Seconds between lines where the output is no terminal."""


class Progress:
    """Counts what is done from the rows that were written. Used as a context: the display ends with it."""

    def __init__(self, folder: Path, cohorts: Sequence[Cohort], done: int, rungs: int, console: Console) -> None:
        self.folder, self.rungs, self.console = folder, rungs, console
        self.cohorts = {cohort.name: cohort for cohort in cohorts}
        self.total = done + sum(len(cohort.members) for cohort in cohorts if cohort.algorithm)
        self.before, self.done = done, done
        self.work = {cohort.name: 0.0 for cohort in cohorts if cohort.algorithm}  # members x share of the rungs
        self.points = np.empty((0, 2))  # non-dominated (accuracy, FLOPs)
        self.begun = self.said = time.monotonic()
        self.live = Live(self._line(), console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def reached(self, name: str, rung: int) -> None:
        """A cohort wrote the rows of `rung`."""
        if not self.cohorts[name].algorithm:
            return
        path = rows_path(self.folder, name, rung)
        rows = pq.read_table(path, columns=["status", "accuracy_valid", "flops_masked"]).to_pandas()
        ended = rows[rows["status"] != RUNNING]
        self.done += len(ended)
        self.work[name] = len(self.cohorts[name].members) * rung / self.rungs
        points = np.concatenate([self.points, ended[["accuracy_valid", "flops_masked"]].to_numpy(float)])
        self.points = np.unique(points[front(points, [True, False])], axis=0)
        self._show()

    def note(self, sentence: str) -> None:
        """Say something beside the display."""
        (self.live.console if self.live else self.console).print(sentence, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        if self.live:
            self.live.update(self._line())
        elif time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            self.console.print(self._line(), highlight=False, soft_wrap=True)

    def _line(self) -> str:
        seconds = time.monotonic() - self.begun
        work, all_work = sum(self.work.values()), self.total - self.before
        parts = [f"{self.done}/{self.total} members"]
        if work >= all_work / 20:  # before that it would be a guess
            parts.append(f"{60 * work / seconds:.0f} members/min, {_clock(seconds * (all_work - work) / work)} left")
        if len(self.points):
            shown = self.points[np.unique(np.linspace(0, len(self.points) - 1, 4).astype(int))][::-1]
            parts.append("best so far: " + ", ".join(f"{accuracy:.1%} at {flops:,.0f} FLOPs" for accuracy, flops in shown))
        return "; ".join(parts)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
