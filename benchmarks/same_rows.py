"""Whether two tables of one study are the same, bit for bit: before a change of the code that may
change no figure, and after.

Rows are paired by arm, hyper-parameters, seed and rung. Every column that either table has is
compared, but for what a clock wrote (`table.CLOCK`) and for provenance: `member` is a hash of an
algorithm's version too, `cohort` says who trained beside it. Exit code 1, and the columns that
differ, if the tables are not the same.

    python benchmarks/same_rows.py BEFORE AFTER [--ignore COLUMN]...
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pandas as pd

from prunefront.analysis.rows import table

KEY = ["arm", "hp", "seed", "rung"]
PROVENANCE = ("member", "cohort")


def keyed(folder: str, ignored: set[str]) -> pd.DataFrame:
    """The rows of a study's output folder by `KEY`, without ignored columns."""
    rows = table.read(folder)
    rows = rows.drop(columns=[name for name in rows if name in ignored])
    rows = rows.set_index(KEY).sort_index()
    assert rows.index.is_unique, f"{folder}: a member has one row at a rung"
    return rows


def same(left: pd.Series, right: pd.Series) -> np.ndarray:
    """Where two columns have the same bits: (rows,) bool. What both lack is the same."""
    lacking = left.isna() & right.isna()
    if pd.api.types.is_float_dtype(left) and pd.api.types.is_float_dtype(right):
        bits = [column.to_numpy(np.float64).view(np.int64) for column in (left, right)]
        return (bits[0] == bits[1]) | lacking.to_numpy()
    return ((left == right) | lacking).to_numpy(bool)


def differences(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """What is not the same, one line each."""
    lines = list[str]()
    for name, one, other in (("before", before, after), ("after", after, before)):
        alone = one.index.difference(other.index)
        if len(alone):
            lines.append(f"{len(alone)} rows are in {name} alone, the first {alone[0]}")
    shared = before.index.intersection(after.index)
    for column in sorted(map(str, {*before, *after})):
        if column not in before or column not in after:
            lines.append(f"{column}: in one table alone")
            continue
        left, right = before.loc[shared, column], after.loc[shared, column]
        unlike = ~same(left, right)
        if unlike.any():
            place = int(unlike.argmax())
            values = f"{left.iloc[place]} became {right.iloc[place]}"
            lines.append(
                f"{column}: {unlike.sum()} of {len(shared)} rows, the first {shared[place]}: {values}"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        help="a column that is not compared; may be repeated",
    )
    given = parser.parse_args()
    ignored = {*table.CLOCK, *PROVENANCE, *given.ignore}
    before, after = keyed(given.before, ignored), keyed(given.after, ignored)
    lines = differences(before, after)
    for line in lines:
        print(line)
    if not lines:
        print(f"{len(before)} rows, {len(before.columns)} columns: equal bit for bit")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
