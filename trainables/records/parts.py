"""The States of a cohort on disk, in the parts that it is split into to fit the memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from ...analysis.rows import rundir
from ...analysis.rows.storage import Location, atomic
from ..contract import State


@dataclasses.dataclass(frozen=True)
class StateFiles:
    """The files of a cohort's States. folder: the study's output folder.  cohort: its name."""

    folder: Location
    cohort: str

    def save(self, states: list[State], part: int) -> None:
        """Write the State of one part of all."""
        path = self._path(part, len(states))
        states[part].save(path)

    def load(self, device: torch.device, has_rows: Callable[[int], bool]) -> list[State]:
        """The states that were saved, of the finest parts that are all there; none where rows of a
        rung before are missing.

        has_rows: whether the rows of a rung are there.  They may have been set aside: only training
        again can measure them again.
        """
        for parts in self._saved_parts():
            paths = self._paths(parts)
            states = [State.load(path, device) for path in paths]
            reached = max(state.scalars["rung"] for state in states)
            rungs_before = range(1, reached)
            if all(has_rows(rung) for rung in rungs_before):
                return states
        return []

    def remove(self, parts: int) -> None:
        """Drop the files of a cohort in so many parts."""
        for path in self._paths(parts):
            path.unlink(missing_ok=True)

    def _saved_parts(self) -> list[int]:
        """Into how many parts the cohort was split where all of them were saved, the most first."""
        files = rundir.state_files(self.folder, self.cohort)
        names = {path.name for path in files}
        begun: set[int] = set()
        for name in names:
            _, _, parts = Path(name).stem.rpartition("-")
            begun.add(int(parts))
        complete: list[int] = []
        for parts in sorted(begun, reverse=True):
            needed = {path.name for path in self._paths(parts)}
            if needed <= names:
                complete.append(parts)
        return complete

    def _paths(self, parts: int) -> list[Location]:
        return [self._path(part, parts) for part in range(parts)]

    def _path(self, part: int, parts: int) -> Location:
        return rundir.state_file(self.folder, self.cohort, part, parts)


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out: a GPU's, or this machine's, for which torch
    has no type.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "DefaultCPUAllocator" in str(error)


def ask_parts(folder: Location, cohort: str, factor: int) -> int:
    """Have a cohort split into `factor` times as many parts as before, by whoever trains it next;
    returns how many.
    """
    before = parts_asked(folder, cohort)
    parts = factor * before
    path = _parts_path(folder, cohort)
    with atomic(path) as temporary:
        temporary.write_text(str(parts))
    return parts


def parts_asked(folder: Location, cohort: str) -> int:
    """Into how many parts a cohort is to be split at least."""
    path = _parts_path(folder, cohort)
    if not path.exists():
        return 1
    return int(path.read_text())


def forget_parts(folder: Location, cohort: str) -> None:
    """Ask for no parts any more."""
    path = _parts_path(folder, cohort)
    path.unlink(missing_ok=True)


def _parts_path(folder: Location, cohort: str) -> Location:
    return rundir.parts_file(folder, cohort)
