"""A cohort on disk: members trained together from rung to rung, their State kept, their rows
written.

Files are complete or absent and their contents a function of the plan, so a cohort may be killed at
any moment and carried on: the State is saved before the rows of its rung, and rows that are missing
are measured again from it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import math
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from safetensors.torch import save_file

from ...analysis.rows import table
from ...analysis.rows.goals import Limit
from ...analysis.rows.storage import Location, atomic
from ..algorithms import find
from ..contract import Algorithm, Member, State
from ..domain import Domain, canonical
from ..measure.members import measure
from ..measure.removed import compression
from ..task import Task, identity
from ..training.memory import fitting, fitting_shapes, free_bytes
from ..tree import apart, leaves


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Members of one arm that train together.

    algorithm: its name; empty for a cohort that only trains the dense networks of its members'
    seeds, from which others start, and that has no rows.  after: names of the cohorts that must be
    finished before.  version: the algorithm's, when it was planned.  bytes: memory that a member
    takes while it trains; 0 if that was not measured.
    """

    name: str
    arm: str
    algorithm: str
    members: tuple[Member, ...]
    after: tuple[str, ...] = ()
    version: int = 1
    bytes: int = 0

    def to_json(self) -> str:
        """One line from which `from_json` makes the same cohort."""
        return json.dumps({**vars(self), "members": [vars(member) for member in self.members]})

    @staticmethod
    def from_json(line: str) -> Cohort:
        """The cohort of a line that `to_json` wrote."""
        found = json.loads(line)
        members = tuple(
            Member(
                {n: tuple(v) if isinstance(v, list) else v for n, v in m["hp"].items()}, m["seed"]
            )
            for m in found["members"]
        )
        return Cohort(**{**found, "members": members, "after": tuple(found["after"])})


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
        self.folder, self.study, self.task, self.cohort, self.keep = (
            folder,
            study,
            task,
            cohort,
            keep,
        )
        self.algorithm: Algorithm = find(cohort.algorithm).in_run(folder)
        self.parent = self.algorithm.parent(task, cohort.members[0].hp)
        self.ids = [
            identity(task, cohort.algorithm, self.algorithm, member) for member in cohort.members
        ]
        asked = parts_asked(folder, cohort.name)
        self.states = self._saved() or self._started(
            max(asked, -(-len(cohort.members) // self._fits(workers)))
        )
        while len(self.states) < asked and self._halve():
            continue
        if self.rung and not self._rows_path(self.rung).exists():
            self._settle()
        else:
            if not self.rung and limits and self.algorithm.fixed(cohort.members[0].hp):
                self._refuse(limits)
            self._leave()

    @property
    def rung(self) -> int:
        """The last rung that every member left has reached; that of the states, if none is left."""
        return min(
            [state.scalars["rung"] for state in self.states if state.size]
            or [self.states[0].scalars["rung"]]
        )

    @property
    def finished(self) -> bool:
        return not any(state.size for state in self.states)

    def advance(self) -> None:
        """Train to the next rung, save the States, write the rows."""
        while not self._advanced():
            continue
        self._settle()

    def _advanced(self) -> bool:
        """Train the States to the next rung; False: they did not fit the memory, and were split."""
        rung = self.rung
        try:
            for part, state in enumerate(self.states):
                if state.size and state.scalars["rung"] == rung:
                    self.states[part] = self.algorithm.advance(self.parent, state)
                    self.states[part].save(self._place(part, len(self.states)))
        except Exception as error:
            if not out_of_memory(error) or not self._halve():
                raise
            return False
        return True

    def _fits(self, workers: int) -> int:
        """How many members the device has memory for at a time. Raises Mistake if it is known that
        it has none for one.
        """
        device, members = self.task.torch_device, self.cohort.members
        # All that is free: what others hold is gone already, and what the plan was made for should
        # not be cut again.
        known = fitting_shapes(
            self.parent, self.algorithm, members[0].hp, len(members), free_bytes(device)
        )
        if known is not None:
            return known
        return (
            max(2, fitting(self.cohort.bytes, device, workers))
            if self.cohort.bytes
            else len(members)
        )

    def _place(self, part: int, parts: int) -> Location:
        return self.folder / "state" / f"{self.cohort.name}-{part}-{parts}.safetensors"

    def _rows_path(self, rung: int) -> Location:
        return rows_path(self.folder, self.cohort.name, rung)

    def _started(self, parts: int) -> list[State]:
        """The states of as many parts of the cohort, before their first step."""
        states = []
        for slots in torch.arange(len(self.cohort.members)).tensor_split(
            min(parts, len(self.cohort.members))
        ):
            states.append(
                self.algorithm.start(
                    self.parent, [self.cohort.members[slot] for slot in slots.tolist()]
                )
            )
            states[-1].members["slot"] += int(slots[0])
        return states

    def _saved(self) -> list[State]:
        """The states that were saved, of the finest parts that are all there; none where rows of a
        rung before are missing.

        Rows may have been set aside: only training again can measure them again.
        """
        names = {
            path.name for path in (self.folder / "state").glob(f"{self.cohort.name}-*.safetensors")
        }
        for parts in sorted(
            {int(Path(name).stem.rpartition("-")[2]) for name in names}, reverse=True
        ):
            places = [self._place(part, parts) for part in range(parts)]
            if names.issuperset(place.name for place in places):
                states = [State.load(place, self.task.torch_device) for place in places]
                if all(
                    self._rows_path(r).exists()
                    for r in range(1, max(state.scalars["rung"] for state in states))
                ):
                    return states
        return []

    def _halve(self) -> bool:
        """Split each part in two, as it was at its last rung; returns whether there was something
        to split.
        """
        before = [self._place(part, len(self.states)) for part in range(len(self.states))]
        states, parts = self._saved(), 2 * len(self.states)
        if parts > len(self.cohort.members):
            return False
        if len(states) == len(before):
            halves = [half for state in states for half in torch.arange(state.size).tensor_split(2)]
            self.states = [states[part // 2].select(half) for part, half in enumerate(halves)]
            for part, state in enumerate(self.states):
                state.save(self._place(part, parts))
        else:
            self.states = self._started(parts)
        for place in before:
            place.unlink(missing_ok=True)
        self._leave()
        return True

    def _refuse(self, limits: Sequence[Limit]) -> None:
        """Last rows, at rung 0, of the members that break a limit: what is kept of them is fixed,
        and so are its counts.

        A configuration's seeds share its fate, by their mean.
        """
        path = rows_path(self.folder, self.cohort.name, "stopped-0")
        if path.exists():
            return
        rows: list[dict[str, Any]] = []
        for state in self.states:
            networks = self.algorithm.networks(self.parent, state)
            found = compression(self.parent.structure, self.parent.counts, networks.kept)
            columns = {
                name: column.cpu()[networks.of.cpu()].tolist() for name, column in found.items()
            }
            dense = {"flops_dense": self.task.counts.flops, "params_dense": self.task.counts.params}
            for k, slot in enumerate(state.members["slot"].tolist()):
                row = labels(
                    self.study, self.task, self.cohort, self.algorithm, slot, self.ids[slot]
                )
                rows.append(
                    row
                    | dense
                    | {name: column[k] for name, column in columns.items()}
                    | {"rung": 0}
                )
        known = pd.DataFrame(rows)
        for limit in (limit for limit in limits if limit.measure in known):
            broken = pd.Series(limit.violation(known)).groupby(known["hp"]).transform("mean") > 0
            for row in (row for row, out in zip(rows, broken, strict=True) if out):
                row |= {
                    "status": "stopped",
                    "reason": f"rung 0: breaks {limit}, and what it keeps is fixed",
                }
        stopped = [row for row in rows if "status" in row]
        table.write(path, stopped, hp_types(self.algorithm.space), footer(self.task))

    def _settle(self) -> None:
        """Measure the States, write their rows if they are missing, and let members go that have
        ended.
        """
        rung = self.rung
        last = rung == self.task.rungs
        rows: list[dict[str, Any]] = []
        for part, state in enumerate(self.states):
            if state.size:
                found = self._rows(state, last)
                done = [k for k, row in enumerate(found) if row["status"] == "done"]
                if last and self.keep and done:
                    self._write_networks(part, state, done)
                rows += found
        if not self._rows_path(rung).exists():
            table.write(
                self._rows_path(rung), rows, hp_types(self.algorithm.space), footer(self.task)
            )
        self._leave()
        if self.finished:
            for part in range(len(self.states)):
                self._place(part, len(self.states)).unlink(missing_ok=True)
            _parts_path(self.folder, self.cohort.name).unlink(missing_ok=True)

    def _leave(self) -> None:
        """Let the members go that have a last row: they are done, diverged, or were stopped."""
        ended = {
            rung: self._ended(rung) for rung in {state.scalars["rung"] for state in self.states}
        }
        for part, state in enumerate(self.states):
            gone = ended[state.scalars["rung"]]
            going = [
                k
                for k, slot in enumerate(state.members["slot"].tolist())
                if self.ids[slot] not in gone
            ]
            self.states[part] = state if len(going) == state.size else state.select(going)

    def _ended(self, rung: int) -> set[str]:
        paths = [self._rows_path(rung), rows_path(self.folder, self.cohort.name, f"stopped-{rung}")]
        return set[str]().union(*(table.ended(path) for path in paths if path.exists()))

    def _rows(self, state: State, last: bool) -> list[dict[str, Any]]:
        rows = measure(self.parent, self.algorithm, state, last, self.task.counts)
        for slot, row in zip(state.members["slot"].tolist(), rows, strict=True):
            row |= labels(self.study, self.task, self.cohort, self.algorithm, slot, self.ids[slot])
            row |= {"status": "done" if last else table.RUNNING, "reason": ""}
            if not math.isfinite(row["loss_train"]):
                row |= {"status": "diverged", "reason": f"training loss {row['loss_train']}"}
                row |= {"loss_test": None, "accuracy_test": None}
        return rows

    def _write_networks(self, part: int, state: State, members: Sequence[int]) -> None:
        """The effective networks of the members at these positions of a State, each distinct one
        once, in one file.
        """
        found = self.algorithm.networks(self.parent, state)
        index, of = torch.unique(found.of.cpu()[list(members)], return_inverse=True)
        trees = {"params": found.params, "buffers": found.buffers, "kept": found.kept}
        stacks = apart(
            {name: tensor.detach().cpu()[index] for name, tensor in leaves(trees).items()}
        )
        about = {
            "members": [self.ids[slot] for slot in state.members["slot"][list(members)].tolist()],
            "of": of.tolist(),
            "model": self.parent.model,
            "options": dict(self.parent.model_options),
            "input_shape": list(self.task.data.shape),
            "classes": self.task.data.classes,
            "dtype": self.task.dtype,
        }
        with atomic(
            self.folder / "networks" / f"{self.cohort.name}{f'-{part}' if part else ''}.safetensors"
        ) as temporary:
            save_file(stacks, temporary, metadata={"about": json.dumps(about)})


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out: a GPU's, or this machine's, for which torch
    has no type.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(
        error
    )


def ask_parts(folder: Location, cohort: str, factor: int) -> int:
    """Have a cohort split into `factor` times as many parts as before, by whoever trains it next;
    returns how many.
    """
    parts = factor * parts_asked(folder, cohort)
    with atomic(_parts_path(folder, cohort)) as temporary:
        temporary.write_text(str(parts))
    return parts


def parts_asked(folder: Location, cohort: str) -> int:
    """Into how many parts a cohort is to be split at least."""
    path = _parts_path(folder, cohort)
    return int(path.read_text()) if path.exists() else 1


def _parts_path(folder: Location, cohort: str) -> Location:
    return folder / "state" / f"{cohort}-parts.txt"


def rows_path(folder: Location, cohort: str, rung: int | str) -> Location:
    """Where the rows of a cohort at a rung are."""
    return folder / "rows" / f"{cohort}-{rung}.parquet"


def labels(
    study: str, task: Task, cohort: Cohort, algorithm: Algorithm, slot: int, member: str
) -> dict[str, Any]:
    """The key columns of a member's rows, and its hyper-parameters."""
    hp, seed = cohort.members[slot].hp, cohort.members[slot].seed
    return {
        "study": study,
        "arm": cohort.arm,
        "control": algorithm.is_control(hp),
        "algorithm": cohort.algorithm,
        "model": task.model,
        "dataset": task.dataset,
        "seed": seed,
        "member": member,
        "cohort": cohort.name,
        "hp": canonical(algorithm.space, hp),
        **{f"hp_{name}": hp[name] for name in hp_types(algorithm.space)},
    }


def hp_types(space: Mapping[str, Domain]) -> dict[str, pa.DataType]:
    """The column types of hyper-parameters; lists are in the JSON column `hp` only."""
    kinds = {"real": pa.float64(), "whole": pa.int64(), "choice": pa.string(), "text": pa.string()}
    return {name: kinds[domain.kind] for name, domain in space.items() if domain.kind in kinds}


def footer(task: Task) -> dict[str, Any]:
    """Where rows come from: commit, versions, device, task with data digest."""
    cuda = task.torch_device.type == "cuda"
    return {
        "commit": _commit(),
        "versions": {
            "torch": torch.__version__
        }  # says which build, as the package's own version does not
        | {name: importlib.metadata.version(name) for name in ("prunefront", "numpy", "pyarrow")},
        "device": torch.cuda.get_device_name()
        if cuda
        else f"cpu, {torch.get_num_threads()} threads",
        "task": task.describe(),
        **({"cautions": list(task.data.cautions)} if task.data.cautions else {}),
    }


@functools.cache
def _commit() -> str:
    """The commit of the source that runs, if it runs from a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parent.parent / ".git").exists():
        return ""
    asked = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip()
