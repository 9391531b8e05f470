"""The report of a study of many members: processor time of reading it, of each section, and of the
whole.

Writes a synthetic study as `prunefront run` would (six arms: the dense parent, random and found
masks, a search over candidates, a convex solver with certificates; five seeds, four rungs, a file
for each cohort and rung), then reports on it in a process of its own. Seconds are of the processor
(`time.process_time`), which other work on the machine does not lengthen; wall seconds stand beside.

    python benchmarks/report.py 10000 [100000 ...] [--profile 40] [--folder DIR]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from prunefront.analysis import page, report, sections
from prunefront.analysis.draw import render
from prunefront.analysis.rows import table

SEEDS = 5
RUNGS = 4
COHORT = 256
"""Members of a cohort, and so rows of a file."""
DENSE = 531_200
PARAMETERS = DENSE // 2
EXAMPLES = 10_000
CANDIDATES = (1, 4, 16, 64, 256)
SHARES = {"magnitude": 0.3, "dns": 0.3, "chance": 0.1, "weedout": 0.2, "convex": 0.1}
"""The share of all settings that each arm has, beside the one of the dense parent."""
HYPER = {"sparsity": pa.float64(), "candidates": pa.int64(), "rho": pa.float64()}
SHOWN = 0.05
"""Seconds of the processor below which a step is not told."""
FOOTER = {"commit": "0", "versions": {}, "device": "cpu", "task": {"lr": 0.1}, "data": "0"}


def write(folder: Path, members: int) -> None:
    """A study of about so many members, all of them done."""
    draws = np.random.default_rng(0)
    settings = max(members // SEEDS - 1, 1)
    _write_arm(folder, "dense", [{}], draws)
    for arm, share in SHARES.items():
        count = max(round(share * settings), 1)
        _write_arm(folder, arm, _settings(arm, count, draws), draws)


def _settings(arm: str, count: int, draws: np.random.Generator) -> list[dict[str, Any]]:
    """The hyper-parameters of each setting of an arm."""
    sparsities = 1 - 10 ** draws.uniform(-2, 0, count)
    if arm == "convex":
        return [{"rho": float(value)} for value in sparsities]
    if arm != "weedout":
        return [{"sparsity": float(value)} for value in sparsities]
    shared = np.repeat(sparsities, len(CANDIDATES))[:count]
    counts = np.resize(CANDIDATES, count)
    pairs = zip(counts.tolist(), shared.tolist(), strict=True)
    return [{"candidates": number, "sparsity": sparsity} for number, sparsity in pairs]


def _write_arm(
    folder: Path, arm: str, settings: list[dict[str, Any]], draws: np.random.Generator
) -> None:
    """The row files of an arm: one for each cohort and rung."""
    members = _members(arm, settings, draws)
    for start in range(0, len(members), COHORT):
        cohort = members[start : start + COHORT].assign(cohort=f"{arm}-{start:07d}")
        for rung in range(1, RUNGS + 1):
            rows = page.records(_at_rung(cohort, rung, draws))
            path = folder / "rows" / f"{arm}-{start:07d}-{rung}.parquet"
            table.write(path, rows, HYPER, FOOTER)


def _members(arm: str, settings: list[dict[str, Any]], draws: np.random.Generator) -> pd.DataFrame:
    """What is the same at every rung, one line for each member."""
    single = pd.DataFrame(settings, index=range(len(settings))).add_prefix("hp_")
    single["hp"] = [json.dumps(setting, sort_keys=True) for setting in settings]
    members = single.loc[single.index.repeat(SEEDS)].reset_index(drop=True)
    count = len(members)
    members["seed"] = np.resize(np.arange(SEEDS), count)
    members["member"] = [f"{arm}-{number:08d}" for number in range(count)]
    sparsity = members.get("hp_sparsity", pd.Series(0.0, members.index)).to_numpy()
    kept = np.maximum(np.round(PARAMETERS * (1 - sparsity)), 1).astype(int)
    loss = 0.01 * (list(SHARES).index(arm) if arm in SHARES else 0) + 0.02 * sparsity**4
    members["level"] = 0.97 - loss + draws.normal(0, 0.004, count)
    members["winner"] = draws.integers(1, 20, count).astype(float)
    quarter = kept // 4
    layers = zip(quarter, kept - quarter, strict=True)
    small, large = PARAMETERS // 4, PARAMETERS - PARAMETERS // 4
    members["layers"] = [
        f'{{"hidden": [{first}, {small}], "out": [{rest}, {large}]}}' for first, rest in layers
    ]
    return members.assign(
        study="synthetic", arm=arm, algorithm=arm, control=arm in ("dense", "chance"),
        model="mlp", dataset="digits", stacked=True, reason=None, search_flops=0,
        sparsity=1 - kept / PARAMETERS, flops_dense=DENSE, flops_masked=2 * kept,
        flops_shrunk=np.minimum(4 * kept, DENSE), params_dense=PARAMETERS, params_kept=kept,
        params_shrunk=np.minimum(2 * kept, PARAMETERS), layers_dead=0, unknown_ops="",
    )  # fmt: skip


def _at_rung(cohort: pd.DataFrame, rung: int, draws: np.random.Generator) -> pd.DataFrame:
    """The rows of a cohort at a rung, without what the table has no column for."""
    reached = 1 - 0.3 * 0.3**rung
    accuracy = cohort["level"] * reached + draws.normal(0, 0.001, len(cohort))
    accuracy = (accuracy.clip(0.1, 1) * EXAMPLES).round() / EXAMPLES
    last = rung == RUNGS
    examples = EXAMPLES * rung
    rows = cohort.assign(
        rung=rung, epochs=float(rung), steps=100 * rung, examples=examples,
        seconds=draws.exponential(2.0, len(cohort)) * rung, train_flops=3 * DENSE * examples,
        status="done" if last else table.RUNNING, loss_train=0.1, accuracy_train=accuracy,
        loss_valid=0.1, accuracy_valid=accuracy,
    )  # fmt: skip
    if last:
        rows = rows.assign(loss_test=0.1, accuracy_test=accuracy - 0.01)
    if (cohort["arm"] == "convex").all():
        gap = 10.0 ** -(rung + draws.uniform(0, 1, len(cohort)))
        rows = rows.assign(m_primal=1 + gap, m_dual=1.0, m_gap=gap, m_violation=gap / 10)
    if (cohort["arm"] == "weedout").all():
        rows = rows.assign(m_winner=cohort["winner"], m_score=draws.normal(2.3, 0.1, len(cohort)))
    return rows.drop(columns=["level", "winner"])


# ---- what takes how long


def times(folder: Path) -> dict[str, list[float]]:
    """Seconds of the processor and of the wall: of reading, of each section, and of all with its
    pictures as files; of a section: figures, then charts and their SVG, then tables and text.
    """
    told: dict[str, list[float]] = {}
    begun = time.process_time(), time.perf_counter()
    study = _clocked("read", told, partial(report.open_study, folder))
    for entry in sections.entries():
        section = entry.section
        assert isinstance(section, sections.Section)
        if not section.lacks(study.rows):
            _clock_section(section, study, told)
    del study
    told["sections, one after the other"] = _since(*begun)
    begun = time.process_time(), time.perf_counter()
    report.build(folder)
    told["prunefront report"] = _since(*begun)
    return told


def _clock_section(
    section: sections.Section[Any], study: sections.Study, told: dict[str, list[float]]
) -> None:
    name = section.name
    figures = _clocked(f"{name}: figures", told, partial(section.figures, study))
    if figures is None:
        return
    drawings = {}
    for chart, draw in section.charts.items():
        picture = _clocked(f"{name}: chart {chart}", told, partial(draw, study, figures))
        if picture is not None:
            drawings[chart] = _clocked(f"{name}: SVG", told, partial(render.svg, picture))
    for table_name, make in section.tables.items():
        lines = _clocked(f"{name}: table {table_name}", told, partial(make, study, figures))
        _clocked(f"{name}: CSV", told, partial(lines.to_csv, index=False))
    _clocked(f"{name}: text", told, lambda: "".join(section.html(study, figures, drawings)))


def _clocked(what: str, told: dict[str, list[float]], function: Callable[[], Any]) -> Any:
    begun = time.process_time(), time.perf_counter()
    result = function()
    told[what] = _since(*begun)
    return result


def _since(processor: float, wall: float) -> list[float]:
    return [time.process_time() - processor, time.perf_counter() - wall]


def profiled(folder: Path, lines: int) -> None:
    """Print where the time of a report goes."""
    profile = cProfile.Profile()
    profile.runcall(report.build, folder)
    pstats.Stats(profile).sort_stats("cumulative").print_stats(lines)


def one(folder: Path, members: int, profile: int) -> None:
    """Write a study where there is none, and print what its report takes."""
    if not (folder / "rows").is_dir():
        write(folder, members)
    if profile:
        profiled(folder, profile)
        return
    for what, (processor, wall) in times(folder).items():
        if processor >= SHOWN:
            print(f"  {what:44} {processor:7.2f} s of the processor, {wall:7.2f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = (folder / "report" / "report.html").stat().st_size / 1e6
    print(f"  peak memory {peak:,.0f} MiB, page {size:.1f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("members", type=int, nargs="+")
    parser.add_argument("--folder", type=Path, help="keep the studies here, and use those there")
    parser.add_argument("--profile", type=int, default=0, help="print so many lines of a profile")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.folder, given.members[0], given.profile)
        return
    with tempfile.TemporaryDirectory(prefix="reports-") as scratch:
        for members in given.members:
            print(f"{members} members", flush=True)
            folder = (given.folder or Path(scratch)) / str(members)
            command = [sys.executable, __file__, str(members), "--one", "--folder", str(folder)]
            subprocess.run([*command, "--profile", str(given.profile)], check=True)


if __name__ == "__main__":
    main()
