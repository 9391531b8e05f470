"""Live progress: members done, rate, time left, best points so far. A display on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.live import Live

from ..analysis.front import COSTS, eligible, front
from ..analysis.storage import Location, source
from ..analysis.table import RUNNING
from ..trainables.cohort import rows_path
from .plan import Planned

EVERY = 10.0
"""Seconds between lines where the output is no terminal."""


class Progress:
    """Counts what is done from the rows that were written. Used as a context: the display ends with it.

    total: members of the study as far as they are known now; done: those that had a last row before.
    """

    def __init__(self, folder: Location, total: Callable[[], int], done: int, rungs: int, console: Console) -> None:
        self.folder, self.rungs, self.console = folder, rungs, console
        self.total, self.before, self.done = total, done, done
        self.stopped, self.spared = 0, 0.0  # members, and their share of the rungs that need no training
        self.work: dict[str, float] = {}  # cohort -> members x share of the rungs
        self.points = np.empty((0, 2))  # non-dominated (accuracy, masked FLOPs)
        self.begun = self.said = time.monotonic()
        self.live = Live(self._line(), console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def reached(self, planned: Planned, rung: int) -> None:
        """A cohort wrote the rows of `rung`."""
        if not planned.algorithm or not rung:
            return
        path = source(rows_path(self.folder, planned.name, rung))
        rows = pq.read_table(path, columns=["status", "accuracy_valid", *COSTS]).to_pandas()
        ended = rows[rows["status"] != RUNNING]
        self.done += len(ended)
        self.work[planned.name] = planned.size * rung / self.rungs
        measured = ended[eligible(ended)]
        points = np.concatenate([self.points, measured[["accuracy_valid", "flops_masked"]].to_numpy(float)])
        self.points = np.unique(points[front(points, [True, False])], axis=0)
        self._show()

    def left(self, count: int, rung: int) -> None:
        """So many members were stopped at `rung`."""
        self.done += count
        self.stopped += count
        self.spared += count * (1 - rung / self.rungs)
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
        work, all_work = sum(self.work.values()), self.total() - self.before - self.spared
        parts = [f"{self.done}/{self.total()} members" + (f" ({self.stopped} stopped at a rung)" if self.stopped else "")]
        if all_work / 20 <= work < all_work:  # before that it would be a guess
            parts.append(f"{60 * work / seconds:.0f} members/min, {_clock(seconds * (all_work - work) / work)} left")
        if len(self.points):
            shown = self.points[np.unique(np.linspace(0, len(self.points) - 1, 4).astype(int))][::-1]
            best = ", ".join(f"{accuracy:.1%} at {flops:,.0f} FLOPs" for accuracy, flops in shown)
            parts.append(f"best so far: {best} (masked)")
        return "; ".join(parts)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
