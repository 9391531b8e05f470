"""Live progress: members done, rate, time left, best points so far. A display on a terminal, a line
now and then elsewhere.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.live import Live

from ...analysis.points.front import COSTS, eligible, front
from ...analysis.rows import rundir
from ...analysis.rows.storage import Location, source
from ...analysis.rows.table import RUNNING
from ...trainables import pulse
from ..console import Console
from ..plan.generations import Planned

NAMED = 2
"""Cohorts that are told about while they train."""
SHOWN_POINTS = 4
"""Of the best ones so far, spread over the front."""
EVERY_SECONDS, SILENT_SECONDS = 10.0, 30.0
"""Where the output is no terminal: between lines as members are measured, and the most without any
line.
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
        self.folder = folder
        self.rungs = rungs
        self.console = console
        self.total = total
        self.before = self.done = done
        self.stopped = 0  # members
        self.spared = 0.0  # their share of the rungs, which needs no training
        self.work: dict[str, float] = {}  # cohort -> members x share of the rungs
        self.points = np.empty((0, 2))  # non-dominated (accuracy, masked FLOPs)
        self.begun = self.said = time.monotonic()
        # Cohorts that train, in the order in which they began.
        self.at_work: Callable[[], list[Planned]] = list
        self.live: Live | None = None
        if console.is_terminal:
            self.live = Live(self._line(), console=console, transient=True)
        self._over = threading.Event()
        self._heart = threading.Thread(
            target=self._beat,
            name="progress",
            daemon=True,
        )

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
        while not self._over.wait(self._pause()):
            silent = time.monotonic() - self.said
            if self.live or silent >= SILENT_SECONDS:
                self._show(self.live is None)

    def _pause(self) -> float:
        """Seconds until there is something to say."""
        if self.live:
            return pulse.EVERY
        return max(0.0, self.said + SILENT_SECONDS - time.monotonic())

    def reached(self, planned: Planned, rung: int) -> None:
        """A cohort wrote the rows of `rung`."""
        if not planned.algorithm or not rung:
            return
        path = rundir.rows_file(self.folder, planned.name, rung)
        columns = ["status", "accuracy_valid", *COSTS]
        written = pq.read_table(source(path), columns=columns)
        rows = written.to_pandas()
        ended = rows[rows["status"] != RUNNING]
        self.done += len(ended)
        self.work[planned.name] = planned.size * rung / self.rungs
        self._add_points(ended)
        self._show()

    def _add_points(self, ended: pd.DataFrame) -> None:
        """Take the best of these members' last rows for the line."""
        is_measured = (ended["status"] == "done") & eligible(ended)
        measured = ended[is_measured]
        pairs = measured[["accuracy_valid", "flops_masked"]]
        new = pairs.to_numpy(float)
        points = np.concatenate([self.points, new])
        on_front = front(points, [True, False])
        self.points = np.unique(points[on_front], axis=0)

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
        now = time.monotonic()
        if self.live:
            self.live.update(self._line())
        elif anyway or now - self.said >= EVERY_SECONDS:
            self.said = now
            self.console.say(self._line())

    def _line(self) -> str:
        total, guessed = self.total()
        about = "about " if guessed else ""
        members = f"{self.done}/{about}{total} members"
        if self.stopped:
            members += f" ({self.stopped} stopped at a rung)"
        parts = [members, self._pace(total, about)]
        if len(self.points):
            parts.append(f"best so far: {self._best()} (masked)")
        if words := self._words():
            parts.append(f"now {words}")
        return "; ".join(parts)

    def _pace(self, total: int, about: str) -> str:
        """How fast it goes and how long it will take, where that is more than a guess."""
        seconds = time.monotonic() - self.begun
        parts = list(self.work.values())
        work = sum(parts)
        all_work = total - self.before - self.spared
        if not all_work / 20 <= work < all_work:
            return f"{_clock(seconds)} so far"
        left = seconds * (all_work - work) / work
        a_minute = 60 * work / seconds
        still = f"{about}{_clock(left)} left"
        return f"{a_minute:.0f} members/min, {still}"

    def _best(self) -> str:
        last = len(self.points) - 1
        places = np.linspace(0, last, SHOWN_POINTS).astype(int)
        distinct = np.unique(places)
        shown = self.points[distinct]
        words: list[str] = []
        for accuracy, flops in shown[::-1]:
            words.append(f"{accuracy:.1%} at {flops:,.0f} FLOPs")
        return ", ".join(words)

    def _words(self) -> str:
        """What the cohorts that have trained for longest say of themselves; empty: nothing."""
        said: list[str] = []
        for planned in self.at_work()[:NAMED]:
            word = pulse.last_word(self.folder, planned.name)
            if word is not None:
                said.append(f"{planned.arm or 'dense networks'}: {word}")
        return ", ".join(said)


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
