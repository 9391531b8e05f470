"""The table of measured rows: the only statement of column names, types and units.

One Parquet file holds the rows of one cohort at one rung; a study is the folder of those files. A
file is complete or absent (`storage.atomic`). Files that are torn or foreign are named and set
aside.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from .mistake import Mistake
from .storage import Location, Where, atomic, each, locate, source

SCHEMA_VERSION = 3
FOOTER = b"prunefront"
RUNNING = "running"
FINAL = ("done", "stopped", "diverged", "failed", "skipped")

_text, _count, _real, _flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()

COLUMNS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("study", _text, "name of the study"),
    ("arm", _text, "label of the algorithm with its search space inside the study"),
    ("control", _flag, "whether the arm is there to be compared with, rather than proposed"),
    ("algorithm", _text, "name of the algorithm"),
    ("model", _text, "name or dotted path of the model"),
    ("dataset", _text, "name or dotted path of the data set"),
    ("seed", _count, "seed of the member: initial weights, order of examples, every random draw"),
    (
        "member",
        _text,
        "hash of algorithm and version, model, task with data digest, hyper-parameters, seed",
    ),
    ("cohort", _text, "the cohort that trained the member"),
    ("hp", _text, "hyper-parameters that differ from their defaults, canonical JSON"),
    ("rung", _count, "point of the training budget, 1 is the first"),
    (
        "epochs",
        _real,
        "epochs trained so far, dense phase included; a solver's iterations over all training examples",
    ),
    ("steps", _count, "optimiser steps so far, dense phase included; iterations of a solver"),
    ("examples", _count, "training examples used so far, dense phase included"),
    (
        "seconds",
        _real,
        "wall seconds charged to the member: its share of the cohort's training, all of the dense phase and search it rests on",
    ),
    (
        "train_flops",
        _count,
        "FLOPs charged to the member: 3 x dense forward FLOPs x examples, dense phase and search included (of a solver: its "
        "products of matrices); what members share is charged to each",
    ),
    (
        "search_flops",
        _count,
        "of train_flops, those spent on choosing the network, beside its training",
    ),
    (
        "stacked",
        _flag,
        "whether the cohort's members were computed together; false: one after the other",
    ),
    (
        "status",
        _text,
        "running | done | stopped | diverged | failed | skipped; all but running are last rows",
    ),
    ("reason", _text, "why the member ended, if not by finishing"),
    ("loss_train", _real, "mean cross-entropy on the training data, nats"),
    ("accuracy_train", _real, "share of training examples classified right"),
    ("loss_valid", _real, "mean cross-entropy on the validation data, nats"),
    ("accuracy_valid", _real, "share of validation examples classified right"),
    ("loss_test", _real, "mean cross-entropy on the test data, nats; last row only"),
    ("accuracy_test", _real, "share of test examples classified right; last row only"),
    (
        "sparsity",
        _real,
        "share of the removable parameters (weights and biases of linear and convolution layers) removed",
    ),
    (
        "flops_dense",
        _count,
        "FLOPs of the task's model: 2 per multiply-accumulate, one example, forward",
    ),
    (
        "flops_masked",
        _count,
        "FLOPs if every removed weight cost nothing: what ideal sparse hardware would do",
    ),
    (
        "flops_shrunk",
        _count,
        "FLOPs after units that cannot influence the output are removed: what any hardware does",
    ),
    ("params_dense", _count, "parameters of the task's model"),
    ("params_kept", _count, "parameters that are not removed"),
    (
        "params_shrunk",
        _count,
        "parameters after units that cannot influence the output are removed",
    ),
    ("layers_dead", _count, "removable layers in which nothing is kept"),
    (
        "layers",
        _text,
        "parameters kept in each removable layer and how many it has, JSON: name -> [kept, all], in their order",
    ),
    (
        "unknown_ops",
        _text,
        "operations without a FLOPs formula, comma-separated; empty: everything was counted",
    ),
)
"""Name, type and meaning (with unit) of every fixed column; `hp_<name>` and `m_<name>` come beside
them.
"""

NAMES = tuple(name for name, _, _ in COLUMNS)
CLOCK = ("seconds",)
"""The columns that a clock wrote: all others are the same, bit for bit, when a study is run again.
"""

NO_ROWS = "no rows; a study's output folder has them in rows/*.parquet"
ASIDE = "`prunefront run` sets such files aside"


def schema(rows: Sequence[Mapping[str, Any]], hp_types: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema of a file of `rows`: the fixed columns, one `hp_<name>` for each of `hp_types`,
    and the rows' `m_<name>`.
    """
    fields = [
        pa.field(name, kind, metadata={"meaning": meaning}) for name, kind, meaning in COLUMNS
    ]
    fields += [pa.field(f"hp_{name}", kind) for name, kind in sorted(hp_types.items())]
    fields += [
        pa.field(name, _real)
        for name in sorted({n for row in rows for n in row if n.startswith("m_")})
    ]
    return pa.schema(fields)


def write(
    path: Where,
    rows: Sequence[Mapping[str, Any]],
    hp_types: Mapping[str, pa.DataType],
    footer: Mapping[str, Any],
) -> None:
    """Write `rows` to `path`, complete or not at all. A column that a row lacks is null; an unknown
    one is an error.
    """
    layout = schema(rows, hp_types)
    unknown = {name for row in rows for name in row} - set(layout.names)
    if unknown:
        raise Mistake(
            f"rows have columns that the table does not know: {', '.join(sorted(unknown))}"
        )
    stamped = layout.with_metadata(
        {FOOTER: json.dumps({"schema": SCHEMA_VERSION, **footer}, sort_keys=True)}
    )
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=stamped), temporary)


def files(folder: Where) -> list[Location]:
    """The row files of a study's output folder, sorted by name."""
    folder = locate(folder)
    return sorted(
        (path for path in (folder / "rows").glob("*") if not path.name.startswith(".")), key=str
    )


def _content(path: Location, columns: Sequence[str] | None) -> pa.Table | str:
    """The rows in a file, or why it is no row file of ours.

    Raises OSError if a remote one cannot be had: that is no fault of the file.
    """
    if path.suffix != ".parquet":
        return "not a Parquet file"
    origin = source(path)
    try:
        with pq.ParquetFile(origin) as file:
            found = file.schema_arrow
            rows = file.read(None if columns is None else list(columns))
    except (pa.ArrowException, OSError, KeyError) as error:
        return _unreadable(error)
    return _foreign(found) or rows


def _unreadable(error: Exception) -> str:
    return f"unreadable ({str(error).splitlines()[0][:120]})"


def _foreign(found: pa.Schema) -> str | None:
    """Why a file of this schema is no row file of ours; None if it is."""
    stamp = (found.metadata or {}).get(FOOTER)
    if stamp is None:
        return "not written by prunefront"
    version = json.loads(stamp).get("schema")
    if version != SCHEMA_VERSION:
        return f"of schema version {version}, where {SCHEMA_VERSION} is read"
    missing = [
        name
        for name, kind, _ in COLUMNS
        if name not in found.names or _plain(found.field(name).type) != kind
    ]
    return f"without the column {missing[0]}" if missing else None


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _sound(
    folder: Where, columns: Sequence[str] | None
) -> tuple[list[pa.Table], dict[Location, str]]:
    """The rows in each file of `folder` that can be trusted, and the other files with what is wrong
    with each.
    """
    paths = files(folder)
    found = list(zip(paths, each(lambda path: _content(path, columns), paths), strict=True))
    return [rows for _, rows in found if isinstance(rows, pa.Table)], {
        p: why for p, why in found if isinstance(why, str)
    }


def set_aside(folder: Where) -> dict[Location, str]:
    """Move files that cannot be trusted from `rows/` to `rejected/`; returns where each was and
    what was wrong.
    """
    folder = locate(folder)
    _, bad = _sound(folder, ["member"])
    for path in bad:
        (folder / "rejected").mkdir(exist_ok=True)
        path.replace(str(folder / "rejected" / path.name))
    return bad


def read(folder: Where, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Every row of a study, sorted by arm, hyper-parameters, seed and rung.

    folder: a study's output folder.  columns: read only these of the fixed columns; None reads all,
    with `hp_` and `m_`. Raises Mistake if there are no rows, or naming a file that cannot be
    trusted.
    """
    key = ["arm", "hp", "seed", "member", "rung"]
    wanted = None if columns is None else list(dict.fromkeys([*columns, *key, "status"]))
    good, bad = _sound(folder, wanted)
    for path, why in bad.items():
        raise Mistake(f"{path}: {why}; {ASIDE}")
    if not good:
        raise Mistake(f"{folder}: {NO_ROWS}")
    table = pa.concat_tables(good, promote_options="permissive")
    frame = table.to_pandas().sort_values(key, ignore_index=True)
    frame = settled(frame)
    return frame if columns is None else frame[list(columns)]


def scan(folder: Where, columns: Sequence[str], status: str, most: int) -> Iterator[pa.Table]:
    """The rows with a `status`, in parts of about `most` rows, never all at once; in the order of
    the files.

    columns: all that is read of them, fixed ones; text comes as dictionaries.  Of files whose
    statistics show no such row the footer alone is read. A file is read while the one before it is
    in use. Raises Mistake if there are no files, or naming one that cannot be trusted.
    """
    paths, parts, size = files(folder), list[pa.Table](), 0
    if not paths:
        raise Mistake(f"{folder}: {NO_ROWS}")
    with ThreadPoolExecutor(1) as pool:
        coming = deque([pool.submit(_filtered, paths[0], columns, status)])
        for path, following in zip(paths, [*paths[1:], None], strict=True):
            rows = coming.popleft().result()
            if following is not None:
                coming.append(pool.submit(_filtered, following, columns, status))
            if isinstance(rows, str):
                raise Mistake(f"{path}: {rows}; {ASIDE}")
            parts.append(rows)
            size += rows.num_rows
            if size >= most:
                yield pa.concat_tables(parts)
                parts, size = [], 0
    if size:
        yield pa.concat_tables(parts)


def _filtered(path: Location, columns: Sequence[str], status: str) -> pa.Table | str:
    """The rows of a file that have a `status`, or why it is no row file of ours. Raises OSError as
    `_content` does.
    """
    if path.suffix != ".parquet":
        return "not a Parquet file"
    origin = source(path)
    system = fs.LocalFileSystem() if isinstance(origin, Path) else None
    try:
        text = [name for name, kind, _ in COLUMNS if kind == _text and name in (*columns, "status")]
        layout = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(dictionary_columns=text))
        file = layout.make_fragment(str(origin) if system else origin, system)
        return _foreign(file.physical_schema) or file.to_table(
            columns=list(columns), filter=ds.field("status") == status
        )
    except (pa.ArrowException, OSError) as error:
        return _unreadable(error)


def current(folder: Where, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the members that the study holds as it is now: what was taken out of the study
    file keeps its rows.

    folder: the output folder, whose plan/study.json names its arms, and members that were taken
    out; all rows if there is none.
    """
    about = planned(folder)
    if about is None:
        return frame
    arms = set(about["arms"].items())
    removed = {(arm, member) for arm, members in about["removed"].items() for member in members}
    held = [
        (arm, algorithm) in arms and (arm, member) not in removed
        for arm, algorithm, member in zip(
            frame["arm"], frame["algorithm"], frame["member"], strict=True
        )
    ]
    return frame[held].reset_index(drop=True)


def planned(folder: Where) -> dict[str, Any] | None:
    """What plan/study.json says of the study in `folder`; None without one. Raises Mistake if it is
    not ours.
    """
    folder = locate(folder)
    path = folder / "plan" / "study.json"
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        rule = "says what the folder holds, as JSON; without it `prunefront run` writes it again"
        raise Mistake(f"{path} {rule}; got: {error}") from None
    if (
        not isinstance(about, dict)
        or not {"name", "description", "arms", "removed", "goals"} <= about.keys()
    ):
        raise Mistake(
            f"{path} says what the folder holds; got one that this version of prunefront did not write"
        )
    return about


def cautions(folder: Where) -> list[str]:
    """What the plan of the study in `folder` says that a reader should know before any verdict, one
    sentence each.
    """
    about = planned(folder)
    return [] if about is None else list(about.get("cautions", []))


def ended(path: Where) -> set[str]:
    """The members whose last rows are in a row file."""
    rows = pq.read_table(source(path), columns=["member", "status"]).to_pylist()
    return {row["member"] for row in rows if row["status"] != RUNNING}


def length(path: Where) -> int:
    """How many rows a row file has."""
    return pq.read_metadata(source(path)).num_rows


def settled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the rows of a rung at which a decision was made, for members that it
    stopped: they have a last one.
    """
    twice = frame.duplicated(["arm", "member", "rung"], keep=False)
    return frame[~(twice & frame["status"].eq(RUNNING))].reset_index(drop=True)


def last(frame: pd.DataFrame) -> pd.DataFrame:
    """The last row of each member that has one (status is not `running`), in the frame's order."""
    return frame[frame["status"] != RUNNING].drop_duplicates(["arm", "member"], ignore_index=True)


def unfinished(frame: pd.DataFrame) -> pd.DataFrame:
    """The latest row of each member that has no last row."""
    ended = frame["status"].ne(RUNNING).groupby([frame["arm"], frame["member"]]).transform("any")
    return frame[~ended].drop_duplicates(["arm", "member"], keep="last")


def done(frame: pd.DataFrame) -> pd.DataFrame:
    """Every row, one for each rung, of the members that are done, in the frame's order."""
    ended = frame["status"].eq("done").groupby([frame["arm"], frame["member"]]).transform("any")
    return frame[ended].drop_duplicates(["arm", "member", "rung"])


def footers(folder: Where) -> list[dict[str, Any]]:
    """The distinct footers of a study's files: commit, versions, device, task description, data
    digest.
    """
    good, _ = _sound(folder, ["member"])
    stamps = {rows.schema.metadata[FOOTER] for rows in good}
    return [json.loads(stamp) for stamp in sorted(stamps)]
