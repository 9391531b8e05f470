"""A cohort on disk: members trained together from rung to rung, their State kept, their rows
written.

Files are complete or absent and their contents a function of the plan, so a cohort may be killed at
any moment and carried on: the State is saved before the rows of its rung, and rows that are missing
are measured again from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch

from ...analysis.rows import rundir, table
from ...analysis.rows.goals import Limit
from ...analysis.rows.storage import Location
from ..algorithms import find
from ..contract import Algorithm, State
from ..measure import shallow
from ..measure.members import measure
from ..measure.removed import compression
from ..task import Task, identity
from ..training.memory import fitting, fitting_shapes, free_bytes
from .cohort import Cohort
from .networks import write_networks
from .parts import StateFiles, forget_parts, out_of_memory, parts_asked
from .physical import Parent
from .rows import footer, hp_types, labels


class Training:
    """A cohort in training, writing into the output folder of a study. Opened again, it carries on
    from its last rung.

    folder: the study's output folder.  keep: whether to write the networks at the end.  workers:
    how many cohorts share the device. A cohort that does not fit it, or for which `ask_parts` was
    called, is split: its parts take turns; if one member is known not to fit, Mistake is raised.
    limits: members whose counts are known to break one are stopped before they train.
    finished: no member is left to train.
    """

    def __init__(
        self,
        folder: Location,
        study: str,
        task: Task,
        cohort: Cohort,
        keep: bool,
        workers: int = 1,
        limits: Sequence[Limit] = (),
    ) -> None:
        self.folder = folder
        self.study = study
        self.task = task = task.run_as(cohort.together, cohort.compile)
        self.cohort = cohort
        self.keep = keep
        first = cohort.members[0].hp
        self.algorithm: Algorithm = find(cohort.algorithm).in_run(folder)
        self.parent = self.algorithm.parent(task, first)
        self.ids: list[str] = []
        for member in cohort.members:
            name = identity(task, cohort.algorithm, self.algorithm, member)
            self.ids.append(name)
        self.files = StateFiles(folder, cohort.name)
        self.states = self._saved() or self._begun(self._parts_needed(workers))
        while len(self.states) < parts_asked(folder, cohort.name) and self._halve():
            continue
        if self.rung and not self._has_rows(self.rung):
            self._in_parts(self._settle)
            return
        if not self.rung and limits and self.algorithm.fixed(first):
            self._refuse(limits)
        self._leave()

    @property
    def rung(self) -> int:
        """The last rung that every member left has reached; that of the states, if none is left."""
        going = [state for state in self.states if state.size]
        if not going:
            return self.states[0].scalars["rung"]
        return min(state.scalars["rung"] for state in going)

    @property
    def finished(self) -> bool:
        return not any(state.size for state in self.states)

    @property
    def uncompiled(self) -> str:
        """Why steps that the plan would have compiled were not; "" if all were."""
        for state in self.states:
            if state.scalars.get("uncompiled"):
                return state.scalars["uncompiled"]
        return ""

    def advance(self) -> None:
        """Train to the next rung, save the States, write the rows."""
        self._in_parts(self._train)
        self._in_parts(self._settle)

    def _in_parts(self, work: Callable[[], None]) -> None:
        """Do something with the States that begins again where they are split: if they do not fit
        the memory they are.
        """
        while not self._fits_memory(work, len(self.states)):
            self._halve()

    def _fits_memory(self, work: Callable[[], None], parts: int) -> bool:
        """Whether there was memory for `work`, which is done then. Its own is free again if not:
        nothing holds the error that knows its frames.

        parts: those that it is done in; what does not fit is raised where there cannot be more.
        """
        try:
            work()
        except Exception as error:
            if not out_of_memory(error) or not self._can_halve(parts):
                raise
            return False
        return True

    def _train(self) -> None:
        """Train the States to the next rung, and save them."""
        rung = self.rung
        for part, state in enumerate(self.states):
            if not state.size:
                continue
            if state.scalars["rung"] != rung:
                continue
            self.states[part] = self.algorithm.advance(self.parent, state)
            self.files.save(self.states, part)

    # ---- parts, as the memory has room for

    def _parts_needed(self, workers: int) -> int:
        asked = parts_asked(self.folder, self.cohort.name)
        members = len(self.cohort.members)
        needed = math.ceil(members / self._fits(workers))
        return max(asked, needed)

    def _fits(self, workers: int) -> int:
        """How many members the device has memory for at a time. Raises Mistake if it is known that
        it has none for one.
        """
        device = self.task.torch_device
        members = self.cohort.members
        count = len(members)
        # All that is free: what others hold is gone already, and what the plan was made for should
        # not be cut again.
        room = free_bytes(device)
        known = fitting_shapes(self.parent, self.algorithm, members[0].hp, count, room)
        if known is not None:
            return known
        if not self.cohort.bytes:
            return count
        measured = fitting(self.cohort.bytes, device, workers)
        return max(2, measured)

    def _begun(self, parts: int) -> list[State]:
        """The states before their first step, of as many parts of the cohort, or of more, as many
        as it takes to start them.
        """
        states: list[State] = []

        def start() -> None:
            states[:] = self._started(parts)

        while not self._fits_memory(start, parts):
            parts *= 2
        return states

    def _started(self, parts: int) -> list[State]:
        """The states of as many parts of the cohort, before their first step."""
        members = self.cohort.members
        count = len(members)
        all_slots = torch.arange(count)
        states: list[State] = []
        for slots in all_slots.tensor_split(min(parts, count)):
            of_part = [members[slot] for slot in slots.tolist()]
            state = self.algorithm.start(self.parent, of_part)
            state.members["slot"] += int(slots[0])
            states.append(state)
        return states

    def _saved(self) -> list[State]:
        """The states that were saved; none if training begins again."""
        return self.files.load(self.task.torch_device, self._has_rows)

    def _can_halve(self, parts: int) -> bool:
        """Whether there are as many members as parts would be, were so many halved."""
        return 2 * parts <= len(self.cohort.members)

    def _halve(self) -> bool:
        """Split each part in two, as it was at its last rung; returns whether there was something
        to split.
        """
        before = len(self.states)
        if not self._can_halve(before):
            return False
        parts = 2 * before
        self.states = []
        # Halved on the CPU: the device may have no room for the whole and its halves.
        saved = self.files.load(torch.device("cpu"), self._has_rows)
        if len(saved) == before:
            halves: list[State] = []
            for state in saved:
                slots = torch.arange(state.size)
                for half in slots.tensor_split(2):
                    halves.append(state.select(half))
            for part in range(parts):
                self.files.save(halves, part)
            self.states = self._saved()
        else:
            self.states = self._begun(parts)
        self.files.remove(before)
        self._leave()
        return True

    # ---- rows, and who goes on

    def _has_rows(self, rung: int) -> bool:
        path = rundir.rows_file(self.folder, self.cohort.name, rung)
        return path.exists()

    def _write_rows(
        self,
        rung: int | str,
        rows: list[dict[str, Any]],
    ) -> None:
        path = rundir.rows_file(self.folder, self.cohort.name, rung)
        types = hp_types(self.algorithm.space)
        about = footer(self.task, self.uncompiled)
        table.write(path, rows, types, about)

    def _labels(self, slot: int) -> dict[str, Any]:
        """The key columns of a member's rows."""
        return labels(
            study=self.study,
            task=self.task,
            cohort=self.cohort,
            algorithm=self.algorithm,
            slot=slot,
            member=self.ids[slot],
        )

    def _refuse(self, limits: Sequence[Limit]) -> None:
        """Last rows, at rung 0, of the members that break a limit: what is kept of them is fixed,
        and so are its counts.

        A configuration's seeds share its fate, by their mean.
        """
        path = rundir.rows_file(self.folder, self.cohort.name, "stopped-0")
        if path.exists():
            return
        rows: list[dict[str, Any]] = []
        for state in self.states:
            rows += self._counted(state)
        known = pd.DataFrame(rows)
        for limit in limits:
            if limit.measure not in known:
                continue
            violations = pd.Series(limit.violation(known))
            of_configuration = violations.groupby(known["hp"])
            violations = of_configuration.transform("mean")
            for row, violation in zip(rows, violations, strict=True):
                if violation > 0:
                    row["status"] = "stopped"
                    row["reason"] = f"rung 0: breaks {limit}, and what it keeps is fixed"
        stopped = [row for row in rows if "status" in row]
        self._write_rows("stopped-0", stopped)

    def _counted(self, state: State) -> list[dict[str, Any]]:
        """Rows of a State's members that hold counts, and nothing that is measured with data."""
        networks = self.algorithm.networks(self.parent, state)
        of = networks.of.cpu()
        columns: dict[str, list[Any]] = {}
        parent = self.parent
        counts = compression(parent.structure, parent.counts, networks.kept)
        for name, column in counts.items():
            of_members = column.cpu()[of]
            columns[name] = of_members.tolist()
        dense = self.task.counts
        slots = state.members["slot"].tolist()
        rows: list[dict[str, Any]] = []
        for k, slot in enumerate(slots):
            row = self._labels(slot)
            row["flops_dense"] = dense.flops
            row["params_dense"] = dense.params
            for name, column in columns.items():
                row[name] = column[k]
            row["rung"] = 0
            rows.append(row)
        return rows

    def _settle(self) -> None:
        """Measure the States, write their rows if they are missing, and let members go that have
        ended.
        """
        rung = self.rung
        is_last = rung == self.task.rungs
        rows: list[dict[str, Any]] = []
        for part, state in enumerate(self.states):
            if not state.size:
                continue
            measured = self._measured(state, is_last)
            done: list[int] = []
            for k, row in enumerate(measured):
                if row["status"] == "done":
                    done.append(k)
            if self.keep and done:
                self._keep_networks(part, state, done)
            rows += measured
        if not self._has_rows(rung):
            self._write_rows(rung, rows)
        self._leave()
        if self.finished:
            self.files.remove(len(self.states))
            forget_parts(self.folder, self.cohort.name)

    def _leave(self) -> None:
        """Let the members go that have a last row: they are done, diverged, or were stopped."""
        rungs = {state.scalars["rung"] for state in self.states}
        ended = {rung: self._ended(rung) for rung in rungs}
        for part, state in enumerate(self.states):
            rung = state.scalars["rung"]
            gone = ended[rung]
            slots = state.members["slot"].tolist()
            going: list[int] = []
            for k, slot in enumerate(slots):
                if self.ids[slot] not in gone:
                    going.append(k)
            if len(going) < state.size:
                self.states[part] = state.select(going)

    def _ended(self, rung: int) -> set[str]:
        """Members with a last row at a rung."""
        ended: set[str] = set()
        for name in (rung, f"stopped-{rung}"):
            path = rundir.rows_file(self.folder, self.cohort.name, name)
            if path.exists():
                ended |= table.ended(path)
        return ended

    def _measured(self, state: State, is_last: bool) -> list[dict[str, Any]]:
        """The rows of a State's members."""
        rows = measure(self.parent, self.algorithm, state, is_last, self.task.counts)
        slots = state.members["slot"].tolist()
        status = table.RUNNING
        if is_last:
            status = "done"
        for slot, row in zip(slots, rows, strict=True):
            row |= self._labels(slot)
            row["status"] = status
            row["reason"] = ""
            loss = row["loss_train"]
            if not math.isfinite(loss):
                row["status"] = "diverged"
                row["reason"] = f"training loss {loss}"
                row["loss_test"] = None
                row["accuracy_test"] = None
        return rows

    def _keep_networks(self, part: int, state: State, positions: list[int]) -> None:
        """Write the networks of the members at these positions of a State."""
        slots = state.members["slot"][positions].tolist()
        name = self.cohort.name
        if part:
            name = f"{name}-{part}"
        networks = self.algorithm.networks(self.parent, state)
        write_networks(
            rundir.networks_file(self.folder, name),
            members=[self.ids[slot] for slot in slots],
            networks=shallow.noted(self.parent, networks),
            positions=positions,
            parent=Parent.of(self.parent),
        )
