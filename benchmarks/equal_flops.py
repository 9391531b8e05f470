"""Arms of a finished study at equal FLOPs, against one of them, paired by seed; and scratch
training of what it found.

Each arm's accuracy on test data is read off its own front for each seed (`equal_flops.lines`),
chosen by validation accuracy. With --scratch the structures that the arm of --of found nearest to the
share are trained from initial weights, each with its own seed, in one cohort: this needs the
study's networks (`study.keep = "all"`).

    python benchmarks/equal_flops.py runs/complexity_digits [--of complexity_aware] [--share .25]
    [--scratch]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from prunefront.analysis.inference import equal_flops, paired
from prunefront.analysis.rows import table
from prunefront.trainables.algorithms import find
from prunefront.trainables.algorithms.scratch import found
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.records.networks import load_masks
from prunefront.trainables.task import Task


def at_share(rows: pd.DataFrame, share: float) -> pd.Series:
    """Test accuracy by seed, at a share of the dense FLOPs; a seed whose line does not reach it is
    NaN.
    """
    return equal_flops.at(
        equal_flops.lines(rows, "flops_shrunk"), share * rows["flops_dense"].max()
    )["accuracy_test"]


def scratch(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of members that train the structures of `rows` from initial weights, one for each."""
    about = json.loads((folder / "plan" / "study.json").read_text())
    task, algorithm = Task(**about["task"]), find("scratch")
    masks = load_masks(folder, rows["member"].tolist())
    structures = [found(task.structure, masks[member]) for member in rows["member"]]
    pairs = zip(structures, rows["seed"].tolist(), strict=True)
    members = [
        Member(complete(algorithm.space, {"units": list(units)}), seed) for units, seed in pairs
    ]
    state = algorithm.start(task, members)
    for _ in range(task.rungs):
        state = algorithm.advance(task, state)
    return pd.DataFrame(measure(task, algorithm, state, last=True)).assign(
        seed=rows["seed"].to_numpy()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--of", default="complexity_aware")
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--scratch", action="store_true")
    given = parser.parse_args()
    rows = table.last(table.current(given.folder, table.read(given.folder)))
    rows = rows[rows["status"] == "done"]
    own = at_share(rows[rows["arm"] == given.of], given.share)
    print(
        f"{given.of} at {given.share:g} of the dense FLOPs: {words(own)}; test accuracy %, mean +- deviation, paired by seed"
    )
    dense = rows[rows["arm"] == "dense"].set_index("seed")["accuracy_test"]
    differences = {"dense, at all its FLOPs": own - dense}
    for arm in sorted(set(rows["arm"]) - {given.of, "dense"}):
        differences[arm] = own - at_share(rows[rows["arm"] == arm], given.share)
    if given.scratch:
        mine = rows[rows["arm"] == given.of]
        distance = (
            np.log(mine["flops_shrunk"] / mine["flops_dense"]) - math.log(given.share)
        ).abs()
        nearest = mine.loc[distance.groupby(mine["seed"]).idxmin()]
        trained = scratch(given.folder, nearest)
        pairs = nearest["accuracy_test"].to_numpy() - trained["accuracy_test"].to_numpy()
        shares = nearest["flops_shrunk"] / nearest["flops_dense"]
        label = f"scratch training of its structures (at {shares.min():.2f} to {shares.max():.2f}, counted {shares_of(trained)})"
        differences[label] = pd.Series(pairs)
    pairs = {name: paired.paired(difference) for name, difference in differences.items()}
    adjusted = paired.holm([pair.p for pair in pairs.values()])
    for (name, pair), p in zip(pairs.items(), adjusted, strict=True):
        if not pair.n:
            print(f"  against {name}: its line does not reach this share")
            continue
        same = paired.equivalence(differences[name])
        print(f"  against {name}: {100 * pair.mean:+.2f} ({100 * pair.low:+.2f} to {100 * pair.high:+.2f}), n = {pair.n}: "
              f"{paired.verdict(pair, p, same)}")  # fmt: skip


def shares_of(rows: pd.DataFrame) -> str:
    """The smallest and largest share of FLOPs in rows."""
    shares = rows["flops_shrunk"] / rows["flops_dense"]
    return f"{shares.min():.2f} to {shares.max():.2f}"


def words(values: pd.Series) -> str:
    """Mean, deviation and number of what is known."""
    return f"{100 * values.mean():.2f} +- {100 * values.std():.2f} (n = {values.notna().sum()})"


if __name__ == "__main__":
    main()
