"""Latencies of a study's networks: the schema of their files, which networks to measure, and what
FLOPs say of them.

RUN_DIR/latency holds one Parquet file for each network and place (device, threads, version of
torch), complete or absent, with one row for each mode and batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..points import front
from ..rows import rundir
from ..rows.mistake import Mistake
from ..rows.storage import Location, Where, atomic, each, source
from . import paired

NETWORKS = 12
"""Networks on the front that are measured at most."""
SCHEMA_VERSION = 1
STAMP = b"prunefront latency"
_text, _count, _real, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()

COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("study", _text, "name of the study"),
    ("member", _text, "the member, as in the rows; for the parent a hash of its model"),
    ("parent", _flag, "whether it is the dense parent, with initial weights"),
    ("mode", _text, "eager | compiled (torch.compile)"),
    ("batch", _count, "examples in a call"),
    (
        "milliseconds",
        _real,
        "of a call, the median of the rounds; null if the network could not be measured",
    ),
    ("milliseconds_min", _real, "of a call, in the fastest round"),
    ("milliseconds_max", _real, "of a call, in the slowest round"),
    ("examples_per_second", _real, "batch / milliseconds x 1000"),
    ("rounds", _count, "rounds of calls behind the median"),
    ("reason", _text, "why it could not be measured; empty if it was"),
    ("device", _text, "name of the processor or GPU"),
    ("threads", _count, "threads that torch used"),
    ("torch", _text, "version of torch"),
    (
        "flops_shrunk",
        _count,
        "FLOPs of the network that was run: 2 per multiply-accumulate, one example, forward",
    ),
    ("params_shrunk", _count, "parameters of the network that was run"),
)
"""Name, type and meaning (with unit) of every column."""
PLACE = ("device", "threads", "torch")
AGAIN = "without it, `prunefront run --latency` measures again"
GROUP = [*PLACE, "mode", "batch"]


def path(folder: Where, member: str, place: Mapping[str, Any]) -> Location:
    """Where the latencies of a member at a place (`PLACE`) are."""
    values = [place[name] for name in PLACE]
    text = json.dumps(values)
    key = hashlib.sha256(text.encode())
    digest = key.hexdigest()
    name = f"{member}-{digest[:12]}.parquet"
    return rundir.latencies(folder) / name


def write(target: Where, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of one network to `target`, complete or not at all. Raises Mistake for a
    column that is unknown.
    """
    known = {name for name, _, _ in COLUMNS}
    given = set().union(*rows)
    unknown = given - known
    if unknown:
        names = ", ".join(sorted(unknown))
        raise Mistake(f"latencies have columns that are not known: {names}")
    fields = []
    for name, kind, meaning in COLUMNS:
        field = pa.field(name, kind, metadata={"meaning": meaning})
        fields.append(field)
    stamp = {STAMP: str(SCHEMA_VERSION)}
    layout = pa.schema(fields, metadata=stamp)
    table = pa.Table.from_pylist(list(rows), schema=layout)
    with atomic(target) as temporary:
        pq.write_table(table, temporary)


def timings(folder: Where) -> pd.DataFrame:
    """All latencies in a study's output folder, empty without any, sorted by `GROUP` and FLOPs.

    Raises Mistake naming a file that cannot be trusted.
    """
    where = rundir.latencies(folder)
    files = sorted(where.glob("[!.]*"), key=str)
    origins = each(source, files)
    tables = []
    for file, origin in zip(files, origins, strict=True):
        table = _trusted(file, origin)
        tables.append(table)
    if not tables:
        return pd.DataFrame({name: pd.Series(dtype=object) for name, _, _ in COLUMNS})
    joined = pa.concat_tables(tables)
    frame = joined.to_pandas()
    keys = [*GROUP, "flops_shrunk", "member"]
    return frame.sort_values(keys, ignore_index=True)


def _trusted(file: Location, origin: Any) -> pa.Table:
    """What a file holds, read from `origin`. Raises Mistake if it is none of ours."""
    try:
        table = pq.read_table(origin)
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0]
        reason = first_line[:120]
        raise Mistake(f"{file}: unreadable ({reason}); {AGAIN}") from error
    metadata = table.schema.metadata or {}
    version = str(SCHEMA_VERSION)
    if metadata.get(STAMP) != version.encode():
        raise Mistake(f"{file}: not written by this version of prunefront; {AGAIN}")
    return table


def shown(folder: Where, last_rows: pd.DataFrame) -> pd.DataFrame:
    """Latencies of the members in `last_rows` and of their parent, with `arm` and `setting` of
    each.
    """
    frame = timings(folder)
    if frame.empty:
        return frame.assign(arm=None, setting=None)
    naming = ["arm", "setting"]
    setting = front.settings(last_rows)
    rows = last_rows.assign(setting=setting)
    rows = rows.drop_duplicates("member")
    by_member = rows.set_index("member")[naming]
    known = by_member.reindex(frame["member"])
    frame[naming] = known.to_numpy()
    dense = last_rows["flops_dense"].dropna()
    is_dense = frame["flops_shrunk"].isin(dense)
    parent = frame["parent"].astype(bool) & is_dense
    frame.loc[parent, naming] = ("parent", "dense")
    named = frame["arm"].notna()
    frame = frame[named]
    return frame.reset_index(drop=True)


def spread(
    last_rows: pd.DataFrame, members: set[str], most: int = NETWORKS
) -> tuple[list[str], int]:
    """Which of `members` on the front to measure, from the fewest FLOPs to the most, and how many
    there are.

    Members on the front of all arms (`front.members_on_front`), one for each count of shrunk FLOPs;
    if these are more than `most`, the nearest ones to levels that lie evenly between the least and
    the most, over the logarithm.
    """
    there = front.members_on_front(last_rows)
    chosen = last_rows["member"].isin(there & members)
    rows = last_rows[chosen]
    rows = rows.sort_values(["flops_shrunk", "member"])
    rows = rows.drop_duplicates("flops_shrunk")
    names = rows["member"].astype(str).tolist()
    if len(rows) > most:
        flops = rows["flops_shrunk"].clip(lower=1)
        levels = np.log(flops.to_numpy(float))
        places = _evenly(levels, most)
        names = [names[place] for place in places]
    return names, len(there)


def _evenly(levels: NDArray[np.float64], most: int) -> list[int]:
    """The places of so many levels, the nearest that are left to evenly spaced ones."""
    left = list(range(len(levels)))
    taken = []
    spaced = np.linspace(levels[0], levels[-1], most)
    for wanted in spaced:
        distances = np.abs(levels[left] - wanted)
        place = int(distances.argmin())
        nearest = left[place]
        left.remove(nearest)
        taken.append(nearest)
    return sorted(taken)


def correlations(frame: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation of FLOPs and milliseconds, one line for each of `GROUP`:
    `networks`, `correlation`.

    frame: as from `read`; what could not be measured is left out. The correlation is NaN where
    `paired.rank_correlation` is.
    """
    was_timed = frame["milliseconds"].notna()
    measured = frame[was_timed]
    lines = []
    for key, group in measured.groupby(GROUP):
        flops = group["flops_shrunk"]
        correlation = paired.rank_correlation(flops, group["milliseconds"])
        line = [*key, len(group), correlation]
        lines.append(line)
    columns = [*GROUP, "networks", "correlation"]
    return pd.DataFrame(lines, columns=columns)
