"""Live progress: members done, rate, time left, best points so far. A display on a terminal, a line
now and then elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pyarrow.parquet as pq
from rich.live import Live

from ...analysis.points.front import COSTS, eligible, front
from ...analysis.rows.storage import Location, source
from ...analysis.rows.table import RUNNING
from ...trainables import pulse
from ...trainables.records.rows import rows_path
from ..console import Console
from ..plan.generations import Planned

NAMED = 2
"""Cohorts that are told about while they train."""
EVERY, SILENT = 10.0, 30.0
"""Where the output is no terminal: seconds between lines as members are measured, and the most
without any line.
"""


class Progress:
    """Counts what is done from the rows that were written. Used as a context: the display ends with
    it.

    total: members of the study as far as they are known now, and whether that is an estimate; done:
    those that had a last row before.
    """

    def __init__(
        self,
        folder: Location,
        total: Callable[[], tuple[int, bool]],
        done: int,
        rungs: int,
        console: Console,
    ) -> None:
        self.folder, self.rungs, self.console = folder, rungs, console
        self.total, self.before, self.done = total, done, done
        self.stopped, self.spared = (
            0,
            0.0,
        )  # members, and their share of the rungs that need no training
        self.work: dict[str, float] = {}  # cohort -> members x share of the rungs
        self.points = np.empty((0, 2))  # non-dominated (accuracy, masked FLOPs)
        self.begun = self.said = time.monotonic()
        self.at_work: Callable[[], list[Planned]] = (
            list  # cohorts that train, in the order in which they began
        )
        self.live = (
            Live(self._line(), console=console, transient=True) if console.is_terminal else None
        )
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        if self.live:
            self.live.start()
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._heart.join()
        if self.live:
            self.live.stop()

    def _beat(self) -> None:
        """Say how far it is, however long a rung takes."""
        while not self._over.wait(
            pulse.EVERY if self.live else max(0.0, self.said + SILENT - time.monotonic())
        ):
            if self.live or time.monotonic() - self.said >= SILENT:
                self._show(self.live is None)

    def reached(self, planned: Planned, rung: int) -> None:
        """A cohort wrote the rows of `rung`."""
        if not planned.algorithm or not rung:
            return
        path = source(rows_path(self.folder, planned.name, rung))
        rows = pq.read_table(path, columns=["status", "accuracy_valid", *COSTS]).to_pandas()
        ended = rows[rows["status"] != RUNNING]
        self.done += len(ended)
        self.work[planned.name] = planned.size * rung / self.rungs
        measured = ended[(ended["status"] == "done") & eligible(ended)]
        points = np.concatenate(
            [self.points, measured[["accuracy_valid", "flops_masked"]].to_numpy(float)]
        )
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
        self.console.say(sentence)

    def _show(self, anyway: bool = False) -> None:
        if self.live:
            self.live.update(self._line())
        elif anyway or time.monotonic() - self.said >= EVERY:
            self.said = time.monotonic()
            self.console.say(self._line())

    def _line(self) -> str:
        seconds = time.monotonic() - self.begun
        total, guessed = self.total()
        work, all_work = sum(list(self.work.values())), total - self.before - self.spared
        about = "about " if guessed else ""
        parts = [
            f"{self.done}/{about}{total} members"
            + (f" ({self.stopped} stopped at a rung)" if self.stopped else "")
        ]
        if all_work / 20 <= work < all_work:  # before that it would be a guess
            left = f"{about}{_clock(seconds * (all_work - work) / work)} left"
            parts.append(f"{60 * work / seconds:.0f} members/min, {left}")
        else:
            parts.append(f"{_clock(seconds)} so far")
        if len(self.points):
            shown = self.points[np.unique(np.linspace(0, len(self.points) - 1, 4).astype(int))][
                ::-1
            ]
            best = ", ".join(f"{accuracy:.1%} at {flops:,.0f} FLOPs" for accuracy, flops in shown)
            parts.append(f"best so far: {best} (masked)")
        parts += self._words()
        return "; ".join(parts)

    def _words(self) -> list[str]:
        """What the cohorts that have trained for longest say of themselves, as long as they say
        something.
        """
        oldest = self.at_work()[:NAMED]
        words = [
            (planned.arm or "dense networks", pulse.read(self.folder, planned.name))
            for planned in oldest
        ]
        said = [f"{arm}: {word}" for arm, word in words if word is not None]
        return [f"now {', '.join(said)}"] if said else []


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
