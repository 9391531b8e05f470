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
from ...analysis.rows import table
from ...analysis.rows.goals import Goals
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, atomic, source
from ...trainables.records.rows import hp_types, rows_path
from ..study.parse import Arm, Study

KEYS = ["arm", "hp", "seed", "member", "cohort", "rung", "status"]


class Measured:
    """The rows of a study, as far as decisions need them; each file is read once."""

    def __init__(self, goals: Goals) -> None:
        self.goals = goals
        self._frames: dict[str, pd.DataFrame] = {}
        self._rows: pd.DataFrame | None = None

    def take(self, path: Location) -> None:
        """Read a file of rows, if it was not read before."""
        if path.name not in self._frames:
            file = pq.ParquetFile(source(path))
            wanted = [
                name
                for name in dict.fromkeys([*KEYS, *self.goals.columns])
                if name in file.schema_arrow.names
            ]
            frame = file.read(columns=wanted).to_pandas()
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
            frame = pd.concat(
                [self._frames[name] for name in sorted(self._frames)], ignore_index=True
            )
            self._rows = table.settled(frame)
        return self._rows


def told(
    measured: pd.DataFrame, goals: Goals, arm: Arm, rungs: int
) -> dict[str, tuple[tuple[float, ...] | None, tuple[float, ...]]]:
    """What a sampler is told of the configurations of `arm` all of whose seeds have ended, by their
    canonical JSON.

    Means over seeds of the objectives, None where a seed diverged or failed, and of the violations;
    one more of these says how much of the budget was left when the configuration was stopped.
    """
    mine = measured[(measured["arm"] == arm.name) & (measured["status"] != table.RUNNING)]
    wanted, seeds, reached = (
        measured["seed"].nunique(),
        mine["seed"].to_numpy(),
        mine["rung"].to_numpy(),
    )
    values, violations, unfit = (
        goals.values(mine),
        goals.violations(mine),
        mine["status"].isin(UNFIT).to_numpy(),
    )
    found: dict[str, tuple[tuple[float, ...] | None, tuple[float, ...]]] = {}
    for hp, places in mine.groupby(
        "hp"
    ).indices.items():  # arrays: frames of a few rows each take milliseconds, for every arm
        if len(set(seeds[places].tolist())) < wanted:
            continue
        mean = values[places].mean(axis=0)
        broken = [
            *violations[places].mean(axis=0).tolist(),
            float(1 - reached[places].mean() / rungs),
        ]
        well = np.isfinite(mean).all() and np.isfinite(broken).all() and not unfit[places].any()
        found[str(hp)] = (tuple(mean.tolist()) if well else None, tuple(broken))
    return found


def decided(measured: pd.DataFrame, study: Study, rung: int) -> dict[tuple[str, str], str]:
    """The settings, (arm, hp), all of whose seeds are at `rung`: why each does not go on, empty if
    it does.
    """
    assert study.about.reduction_factor is not None
    pool = settings_at(measured, rung, study.goals)
    found = decide(pool, study.goals, study.about.reduction_factor, study.about.floor)
    return dict(zip(found.index, found["reason"].where(~found["go"], ""), strict=True))


def decision(folder: Location, cohort: str, rung: int) -> Location:
    """Where it is recorded who of a cohort does not go on from a rung: member -> reason."""
    return folder / "plan" / f"rung-{rung}-{cohort}.json"


@contextlib.contextmanager
def part_of_plan(path: Location) -> Iterator[None]:
    """Raise Mistake naming a file of the plan that is torn or not ours."""
    try:
        yield
    except Mistake:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        rule = "is a part of the plan that `prunefront run` wrote, JSON; put it back as it was, or give another --out"
        raise Mistake(f"{path} {rule}; got: {error}") from None


def record(folder: Location, cohort: str, rung: int, gone: Mapping[str, str]) -> str:
    """Write a decision down, before anything is done about it; returns the name of its file."""
    path = decision(folder, cohort, rung)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(dict(sorted(gone.items()))))
    return path.name


def stop(study: Study, folder: Location, arm: Arm, cohort: str, rung: int) -> int:
    """Write the last rows of the members that a recorded decision stops: their rows at the rung,
    with the reason; how many.
    """
    decided = decision(folder, cohort, rung)
    with part_of_plan(decided):
        gone: dict[str, str] = dict(json.loads(decided.read_text()))
    path = rows_path(folder, cohort, f"stopped-{rung}")
    if not path.exists():
        found = pq.read_table(source(rows_path(folder, cohort, rung)))
        rows = [row for row in found.to_pylist() if row["member"] in gone]
        stamp = json.loads((found.schema.metadata or {})[table.FOOTER])
        last = [row | {"status": "stopped", "reason": gone[row["member"]]} for row in rows]
        table.write(
            path,
            last,
            hp_types(arm.algorithm.space),
            {k: v for k, v in stamp.items() if k != "schema"},
        )
    return len(gone)
