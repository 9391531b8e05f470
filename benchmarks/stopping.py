"""Stopping by dominance against none: one study twice through the real driver, and what the rows of
the whole one foretold.

Prints epochs, wall seconds and hypervolume by seed; fails unless the stopped run's decisions are
the foretold ones and its rows are the whole run's, bit for bit but for clocks, status and what is
measured at a last row alone.

    python benchmarks/stopping.py --study studies/stopping_digits.toml --factor 4 --out
    runs/stopping
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from prunefront.analysis.inference import dominance
from prunefront.analysis.rows import table
from prunefront.search.study.parse import read

KEY = ["arm", "hp", "seed", "rung"]
ENDS = ["cohort", "status", "reason", "loss_test", "accuracy_test", *table.CLOCK]
"""Columns in which rows may differ: who trained with whom, and how a member ended."""


def driven(study: Path, folder: Path, *settings: str) -> tuple[pd.DataFrame, float]:
    """The rows of a study run into `folder`, and the seconds that took, Ray's start included."""
    command = [
        sys.executable,
        "-c",
        "from prunefront.search.cli import app; app()",
        "run",
        str(study),
        "--out",
        str(folder),
    ]
    begun = time.perf_counter()
    subprocess.run(
        [*command, *(f"--set={setting}" for setting in settings)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return table.read(folder), time.perf_counter() - begun


def alike(whole: pd.DataFrame, stopped: pd.DataFrame) -> bool:
    """Whether each measured row of the stopped run is the whole run's of the same member and rung."""
    names = [name for name in whole if name not in ENDS]
    rows = stopped[stopped["rung"] > 0].drop_duplicates(KEY)
    both = rows[KEY].merge(whole, on=KEY)[names]
    return both.equals(rows[names].reset_index(drop=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, default=Path("studies/stopping_digits.toml"))
    parser.add_argument("--factor", type=float, nargs="+", default=[2.0, 3.0, 4.0])
    parser.add_argument("--out", type=Path, default=Path("runs/stopping"))
    options = parser.parse_args()
    about = read(options.study)
    goals, floor = about.goals, about.about.floor
    rows, seconds = driven(options.study, options.out / "whole")
    whole = dominance.ended(rows, goals)
    dense = dominance.dense_epochs(whole)
    every, volumes, fair = dominance.spent(whole, dense), dominance.volumes(whole, goals), True
    print(
        f"whole: {whole.groupby(dominance.SETTING).ngroups} settings, {seconds:.1f} s, {every[0]:.0f} epochs trained",
        end="",
    )
    print(f" ({every[1]:.0f} charged), hypervolume by seed {volumes.round(4).to_dict()}")
    for factor in options.factor:
        told = dominance.ends(whole, goals, factor, floor)
        stopped, took = driven(
            options.study,
            options.out / f"factor_{factor:g}",
            f"study.reduction_factor={factor}",
            f"study.floor={floor}",
        )
        measured = stopped[stopped["rung"] > 0]
        decided = measured.groupby(dominance.SETTING)["rung"].max()
        foretold = decided.sort_index().to_dict() == told["rung"].sort_index().to_dict()
        epochs, charged = dominance.spent(measured, dense)
        kept = dominance.volumes(measured, goals) / volumes
        same = alike(whole, stopped)
        fair &= foretold and same
        print(
            f"one in {factor:g}: epochs {epochs / every[0]:.1%} ({charged / every[1]:.1%} charged), {took:.1f} s, ",
            end="",
        )
        print(
            f"hypervolume kept {kept.mean():.2%}, by seed {kept.round(4).to_dict()}; decisions as foretold: {foretold}; ",
            end="",
        )
        print(f"rows the same: {same}", flush=True)
    return 0 if fair else 1


if __name__ == "__main__":
    sys.exit(main())
