"""Rows that an earlier version of the schema wrote: which columns they lack, and what stands there.

A column that came later is derived where that is exact, and null otherwise. No column was renamed
so far, and none was taken out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

FIRST_VERSION = 1
SINCE = {
    "search_flops": 2,
    "layers": 3,
    "train_share": 4,
    "label_noise": 4,
    "imbalance": 4,
}
"""The schema version that a column came with; all others are as old as the table."""
BEFORE = {"train_share": 1.0, "label_noise": 0.0, "imbalance": 1.0}
"""What all rows had before a column said it."""
SOURCES = {"search_flops": "train_flops"}
"""The column that a later one is derived from."""


def stored_columns(wanted: Sequence[str], stored: Sequence[str]) -> list[str]:
    """What to read of a file to get `wanted`: sources stand for columns that it lacks.

    stored: the names of all columns of the file.
    """
    names = [name for name in wanted if name in stored]
    for name, source in SOURCES.items():
        is_lacking = name not in stored
        if name in wanted and is_lacking:
            names.append(source)
    distinct = dict.fromkeys(names)
    return list(distinct)


def completed(rows: pa.Table, fields: Sequence[pa.Field]) -> pa.Table:
    """The rows with the columns that they lack of `fields`, which are in the order of the table."""
    for place, field in enumerate(fields):
        if field.name in rows.column_names:
            continue
        column = _later(rows, field)
        rows = rows.add_column(place, field, column)
    return rows


def _later(rows: pa.Table, field: pa.Field) -> pa.Array:
    """What stands in a column that came later."""
    if field.name == "search_flops":
        return _search_flops(rows)
    if field.name in BEFORE:
        return pa.array([BEFORE[field.name]] * rows.num_rows, field.type)
    return pa.nulls(rows.num_rows, field.type)


def _search_flops(rows: pa.Table) -> pa.Array:
    """0 for each member that was charged at all: version 1 charged 3 x dense forward FLOPs x
    examples, and nothing for a search.
    """
    charges = rows["train_flops"]
    uncharged = charges.is_null()
    none = np.zeros(rows.num_rows, dtype=np.int64)
    return pa.array(none, mask=uncharged.to_numpy())
