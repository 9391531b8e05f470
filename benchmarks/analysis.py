"""Fronts, hypervolumes and bands of tables with millions of rows: time and peak memory, beside
pandas and Optuna.

Writes tables in the schema of `table` (random networks of 5 arms and 5 seeds, accuracy rising with
FLOPs), then runs each tool in a process of its own: seconds without imports, peak memory with them
and above them. All tools but `optuna study` compute the fronts and hypervolumes of each arm and
seed, and must agree on their sum.

    python benchmarks/analysis.py --rows 1000000 10000000 [--rows-a-file 100000] [--rungs 1] [--out
    /tmp/rows]

prunefront       table.scan -> attainment.read -> hypervolumes, attainment surfaces pandas
the whole table by pandas.read_parquet, numpy's sort and running maximum pandas, columns  the same,
of the columns and rows that are needed optuna arrays    reads as `pandas, columns`; Optuna's own
functions on its arrays, which are private optuna study     the front of ONE arm and seed's
objectives, by the public way: trials in a study in memory, best_trials
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prunefront.analysis.inference import attainment
from prunefront.analysis.rows import table

ARMS = ("complexity_aware", "dns", "dense", "random", "weedout")
SEEDS = 5
DENSE = 531_200
EXAMPLES = 10_000
NEEDED = ["arm", "control", "seed", "status", "accuracy_valid", "flops_masked", "flops_dense"]
Loss = NDArray[np.float64]


def write(folder: Path, rows: int, each: int, rungs: int) -> None:
    """A study's row files: `each` rows a file, one rung a file; of `rungs` files one has the rows
    that are done.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "rows").mkdir(parents=True)
    layout = table.schema([], {"sparsity": pa.float64()}).with_metadata(
        {table.FOOTER: json.dumps({"schema": table.SCHEMA_VERSION})}
    )
    draws = np.random.default_rng(0)
    for number in range(rows // each):
        done = number % rungs == rungs - 1
        columns = synthetic(draws, each, number, done, layout)
        pq.write_table(pa.table(columns, schema=layout), folder / "rows" / f"{number:06d}.parquet")


def synthetic(
    draws: np.random.Generator, n: int, number: int, done: bool, layout: pa.Schema
) -> list[pa.Array]:
    """The columns of one file."""
    share = 10 ** draws.uniform(-2, 0, n)
    arm = draws.integers(len(ARMS), size=n)
    accuracy = 0.98 - 0.01 * arm - 0.02 / np.sqrt(share) + draws.normal(0, 0.01, n)
    accuracy = np.round(np.clip(accuracy, 0.1, 1) * EXAMPLES) / EXAMPLES
    flops = np.round(share * DENSE).astype(int)
    hp = np.round(1 - share, 3)
    known = {
        "arm": np.array(ARMS)[arm],
        "control": arm == ARMS.index("random"),
        "seed": draws.integers(SEEDS, size=n),
        "member": np.char.mod("%016x", draws.integers(2**62, size=n)),
        "hp": np.char.add(np.char.add('{"sparsity":', np.char.mod("%.3f", hp)), "}"),
        "hp_sparsity": hp,
        "cohort": np.full(n, f"{number:06d}"),
        "status": np.full(n, "done" if done else table.RUNNING),
        "flops_masked": flops,
        "flops_shrunk": np.minimum(2 * flops, DENSE),
        "flops_dense": np.full(n, DENSE),
        "train_flops": np.full(n, 3 * DENSE * EXAMPLES),
        "rung": np.full(n, number % 4),
        "seconds": draws.exponential(2.0, n),
        "loss_train": draws.exponential(0.1, n),
        "loss_valid": draws.exponential(0.1, n),
        "accuracy_train": accuracy,
        "accuracy_valid": accuracy,
        "sparsity": hp,
    }
    empty = {pa.string(): "", pa.int64(): 0, pa.float64(): 0.0, pa.bool_(): False}
    return [pa.array(known.get(f.name, np.full(n, empty[f.type])), type=f.type) for f in layout]


def by_prunefront(folder: Path) -> float:
    found = attainment.fronts_by_seed(folder)
    attainment.surfaces(found)
    return float(attainment.volumes(found)["hypervolume"].sum())


def by_pandas(folder: Path) -> float:
    return _each(pd.read_parquet(folder / "rows"), _sorted)


def by_pandas_columns(folder: Path) -> float:
    return _each(_columns(folder), _sorted)


def by_optuna_arrays(folder: Path) -> float:
    return _each(_columns(folder), _optuna)


def by_optuna_study(folder: Path) -> float:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    frame = _columns(folder)
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials(
        [
            optuna.create_trial(values=values)
            for values in zip(frame["accuracy_valid"], frame["flops_masked"], strict=True)
        ]
    )
    return float(len(study.best_trials))


def _columns(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "rows", columns=NEEDED, filters=[("status", "==", "done")])


def _each(frame: pd.DataFrame, volume: Callable[[Loss], float]) -> float:
    """The sum, over arms and seeds of the rows that are done, of `volume` of (-accuracy, cost)."""
    frame = frame[frame["status"] == "done"]
    losses = pd.DataFrame(
        {"accuracy": -frame["accuracy_valid"], "cost": frame["flops_masked"] / frame["flops_dense"]}
    )
    return sum(
        volume(group.to_numpy())
        for _, group in losses.groupby([frame["arm"], frame["control"], frame["seed"]])
    )


def _sorted(losses: Loss) -> float:
    """Hypervolume of the front that sorting by cost and a running maximum of accuracy find."""
    losses = losses[np.lexsort(losses.T)]
    before = np.concatenate([[0.0], np.minimum.accumulate(losses[:, 0])[:-1]])
    belongs = losses[losses[:, 0] < before]
    heights = -np.diff(belongs[:, 0], prepend=0.0)
    return float((heights * (1 - belongs[:, 1])).sum())


def _optuna(losses: Loss) -> float:
    """The same by Optuna's functions."""
    from optuna._hypervolume import compute_hypervolume
    from optuna.study._multi_objective import _is_pareto_front

    belongs = losses[_is_pareto_front(losses, assume_unique_lexsorted=False)]
    return float(compute_hypervolume(belongs, np.array([0.0, 1.0])))


TOOLS: dict[str, Callable[[Path], float]] = {
    "prunefront": by_prunefront,
    "pandas": by_pandas,
    "pandas, columns": by_pandas_columns,
    "optuna arrays": by_optuna_arrays,
    "optuna study": by_optuna_study,
}


def measured(tool: str, folder: Path) -> dict[str, float]:
    """Seconds, those of processors, peak MiB, MiB above what the imports take, and the answer of a
    tool, in this process.
    """
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun, started = time.perf_counter(), time.process_time()
    answer = TOOLS[tool](folder)
    seconds, processor = time.perf_counter() - begun, time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "processor": processor,
        "peak": peak / 1024,
        "above": (peak - before) / 1024,
        "answer": answer,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--rows-a-file", type=int, default=100_000)
    parser.add_argument("--rungs", type=int, default=1)
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument(
        "--most", type=int, default=1_000_000, help="rows that `optuna study` is asked to hold"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/rows"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(given.one, given.out)))
        return 0
    agree = True
    for rows in given.rows:
        folder = given.out / f"{rows}_{given.rows_a_file}_{given.rungs}"
        if not folder.exists():
            write(folder, rows, given.rows_a_file, given.rungs)
        size = sum(file.stat().st_size for file in (folder / "rows").iterdir()) / 2**20
        print(
            f"{rows:,} rows, {given.rows_a_file:,} a file, one in {given.rungs} done: {size:,.0f} MiB of Parquet",
            flush=True,
        )
        answers = []
        for tool in given.tools:
            if tool == "optuna study" and rows > given.most:
                continue
            command = [sys.executable, __file__, "--out", str(folder), "--one", tool]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(given.repeats)]
            took = sorted(run["seconds"] for run in runs)
            cpu = sorted(run["processor"] for run in runs)[len(runs) // 2]
            median = took[len(took) // 2]
            told = f"{median:8.2f} s ({took[0]:.2f} to {took[-1]:.2f}), {cpu:.2f} s of CPU, peak {runs[0]['peak']:6,.0f} MiB"
            print(
                f"  {tool:16} {told}, {runs[0]['above']:6,.0f} above imports; {runs[0]['answer']:.9f}",
                flush=True,
            )
            answers += [run["answer"] for run in runs if tool != "optuna study"]
        agree &= bool(np.allclose(answers, answers[0], rtol=1e-9))
    print(f"answers agree: {agree}")
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
