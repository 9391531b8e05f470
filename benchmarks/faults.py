"""Kills of the driver: a study that is killed again and again ends with the table of a calm run, bit for bit.

Runs STUDY once in peace, then kills drivers with SIGKILL at times uniform over the calm run's, up to three times for each
output folder, lets that folder finish, and compares its table with the calm one.

    python benchmarks/faults.py [STUDY] [--kills 20] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from prunefront.analysis import table


def start(study: Path, folder: Path, **options: object) -> subprocess.Popen[str]:
    """A driver of `study` in `folder`, its output captured."""
    command = [sys.executable, "-c", "from prunefront.search.cli import main; main()", "run", str(study), "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]


def rows(folder: Path) -> pd.DataFrame:
    """A study's table without the columns that a clock wrote, in an order of its own."""
    frame = table.read(folder).drop(columns=list(table.CLOCK))
    return frame.sort_values(["arm", "member", "rung"], ignore_index=True)[sorted(frame.columns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", default=Path("studies/digits.toml"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    scratch = Path(tempfile.mkdtemp(prefix="prunefront-faults-"))
    begun = time.monotonic()
    assert start(given.study, scratch / "calm").wait() == 0
    calm, seconds = rows(scratch / "calm"), time.monotonic() - begun
    print(f"calm run: {seconds:.1f} s, {len(calm)} rows", flush=True)
    killed = late = number = 0
    while killed < given.kills:
        number += 1
        folder = scratch / f"killed-{number}"
        for _ in range(min(3, given.kills - killed)):
            driver, wait = start(given.study, folder), chance.uniform(0, seconds)
            try:
                driver.wait(wait)
                break  # finished before it was killed
            except subprocess.TimeoutExpired:
                driver.kill()
                driver.wait()
            killed += 1
            written = len(table.files(folder))
            late += written > 0
            print(f"kill {killed} after {wait:.1f} s, {written} row files written", flush=True)
        last = start(given.study, folder)
        said, _ = last.communicate()
        assert last.returncode == 0, said
        pd.testing.assert_frame_equal(rows(folder), calm, check_exact=True)
        print(f"folder {number}: {len(calm)} rows, the same as the calm run's bit for bit", flush=True)
    print(f"{killed} kills, {late} of them after the first row; no row lost, none twice, all tables equal")
    shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
