"""Which members go on from a rung, and what is told to samplers: decisions of a search, from its
rows and nothing else.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from ...analysis.inference.dominance import UNFIT, decide, settings_at
from ...analysis.rows import rundir, table
from ...analysis.rows.goals import Goals
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, atomic, source
from ...trainables.records.rows import hp_types
from ..study.schema import Arm, Study

KEYS = ["arm", "hp", "seed", "member", "cohort", "rung", "status"]

Setting = tuple[str, str]
"""Arm, hyper-parameters as rows have them."""
Measurement = tuple[tuple[float, ...] | None, tuple[float, ...]]
"""Values of the objectives, None where a seed diverged or failed; and violations."""


class Measured:
    """The rows of a study, as far as decisions need them; each file is read once."""

    def __init__(self, goals: Goals) -> None:
        self.goals = goals
        self._frames: dict[str, pd.DataFrame] = {}
        self._rows: pd.DataFrame | None = None

    def take(self, path: Location) -> None:
        """Read a file of rows, if it was not read before."""
        if path.name in self._frames:
            return
        file = pq.ParquetFile(source(path))
        known = set(file.schema_arrow.names)
        columns: list[str] = []
        for name in self._columns():
            if name in known:
                columns.append(name)
        frame = file.read(columns=columns).to_pandas()
        for name in self.goals.columns:
            if name not in frame:
                frame[name] = np.nan
        self._frames[path.name] = frame
        self._rows = None

    def rows(self) -> pd.DataFrame:
        """One row for each member and rung; a last row stands for the one that it was made from."""
        if not self._frames:
            return pd.DataFrame(columns=[*KEYS, *self.goals.columns])
        if self._rows is None:  # arms ask one after the other
            frames = [self._frames[name] for name in sorted(self._frames)]
            joined = pd.concat(frames, ignore_index=True)
            self._rows = table.settled(joined)
        return self._rows

    def _columns(self) -> list[str]:
        return list(dict.fromkeys([*KEYS, *self.goals.columns]))


def told(
    measured: pd.DataFrame,
    goals: Goals,
    arm: Arm,
    rungs: int,
) -> dict[str, Measurement]:
    """What a sampler is told of the configurations of `arm` all of whose seeds have ended, by their
    canonical JSON.

    Means over seeds of the objectives and of the violations; one more of these says how much of the
    budget was left when the configuration was stopped.
    """
    is_arm = measured["arm"] == arm.name
    has_ended = measured["status"] != table.RUNNING
    mine = measured[is_arm & has_ended]
    seed_count = measured["seed"].nunique()
    # Arrays: frames of a few rows each take milliseconds, for every arm.
    seeds = mine["seed"].to_numpy()
    reached = mine["rung"].to_numpy()
    unfit = mine["status"].isin(UNFIT).to_numpy()
    values = goals.values(mine)
    violations = goals.violations(mine)
    measurements: dict[str, Measurement] = {}
    for hp, places in mine.groupby("hp").indices.items():
        own_seeds = set(seeds[places].tolist())
        if len(own_seeds) < seed_count:
            continue
        mean = values[places].mean(axis=0)
        broken = violations[places].mean(axis=0).tolist()
        budget_spent = reached[places].mean() / rungs
        budget_left = 1 - budget_spent
        broken.append(float(budget_left))
        is_finite = np.isfinite([*mean, *broken]).all()
        objectives = None
        if is_finite and not unfit[places].any():
            objectives = tuple(mean.tolist())
        measurements[str(hp)] = objectives, tuple(broken)
    return measurements


def decided(
    measured: pd.DataFrame,
    study: Study,
    rung: int,
) -> dict[Setting, str]:
    """The settings, (arm, hp), all of whose seeds are at `rung`: why each does not go on, empty if
    it does.
    """
    about = study.about
    assert about.reduction_factor is not None
    pool = settings_at(measured, rung, study.goals)
    decisions = decide(pool, study.goals, about.reduction_factor, about.floor)
    stays = ~decisions["go"]
    reasons = decisions["reason"].where(stays, "")
    return dict(zip(decisions.index, reasons, strict=True))


@contextlib.contextmanager
def part_of_plan(path: Location) -> Iterator[None]:
    """Raise Mistake naming a file of the plan that is torn or not ours."""
    try:
        yield
    except Mistake:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "is a part of the plan that `prunefront run` wrote, JSON"
        cure = "put it back as it was, or give another --out"
        raise Mistake(f"{path} {rule}; {cure}; got: {error}") from None


def record(
    folder: Location,
    cohort: str,
    rung: int,
    gone: Mapping[str, str],
) -> str:
    """Write a decision down, before anything is done about it; returns the name of its file."""
    path = rundir.decision_file(folder, cohort, rung)
    in_order = dict(sorted(gone.items()))
    content = json.dumps(in_order)
    with atomic(path) as temporary:
        temporary.write_text(content)
    return path.name


def stop(
    study: Study,
    folder: Location,
    arm: Arm,
    cohort: str,
    rung: int,
) -> int:
    """Write the last rows of the members that a recorded decision stops: their rows at the rung,
    with the reason; how many.
    """
    recorded = rundir.decision_file(folder, cohort, rung)
    with part_of_plan(recorded):
        gone: dict[str, str] = dict(json.loads(recorded.read_text()))
    path = rundir.rows_file(folder, cohort, f"stopped-{rung}")
    if not path.exists():
        measured = rundir.rows_file(folder, cohort, rung)
        at_rung = pq.read_table(source(measured))
        last: list[dict[str, object]] = []
        for row in at_rung.to_pylist():
            reason = gone.get(row["member"])
            if reason is None:
                continue
            last.append({**row, "status": "stopped", "reason": reason})
        metadata = at_rung.schema.metadata or {}
        footer: dict[str, object] = json.loads(metadata[table.FOOTER])
        footer.pop("schema", None)
        types = hp_types(arm.algorithm.space)
        table.write(path, last, types, footer)
    return len(gone)
