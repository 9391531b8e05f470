"""The table of measured rows: the only statement of column names, types and units.

One Parquet file holds the rows of one cohort at one rung; a study is the folder of those files. A
file is complete or absent (`storage.atomic`). Files that are torn or foreign are named and set
aside. Files of an earlier schema version are read as if they were of this one (`earlier`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from . import earlier, rundir, swept
from .mistake import Mistake
from .storage import Location, Where, atomic, each, locate, source

SCHEMA_VERSION = 4
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
    ("train_share", _real, "share of the training examples that is kept; 1: all"),
    ("label_noise", _real, "share of the training labels that were made wrong"),
    (
        "imbalance",
        _real,
        "how many times the last class's training examples the first class has; 1: as they are",
    ),
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
        "epochs trained so far, dense phase included; a solver's iterations over all training "
        "examples",
    ),
    ("steps", _count, "optimiser steps so far, dense phase included; iterations of a solver"),
    ("examples", _count, "training examples used so far, dense phase included"),
    (
        "seconds",
        _real,
        "wall seconds charged to the member: its share of the cohort's training, all of the dense "
        "phase and search it rests on",
    ),
    (
        "train_flops",
        _count,
        "FLOPs charged to the member: 3 x dense forward FLOPs x examples, dense phase and search "
        "included (of a solver: its products of matrices); what members share is charged to each",
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
        "share of the removable parameters (weights and biases of linear and convolution layers) "
        "removed",
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
        "parameters kept in each removable layer and how many it has, JSON: name -> [kept, all], "
        "in their order",
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
TEXTS = [name for name, kind, _ in COLUMNS if kind == _text]
CLOCK = ("seconds",)
"""The columns that a clock wrote: all others are the same, bit for bit, when a study is run again.
"""

NO_ROWS = "no rows; a study's output folder has them in rows/*.parquet"
ASIDE = "`prunefront run` sets such files aside"
ORDER = ("arm", "hp", "seed", "member", "rung")
"""What the rows of a study are sorted by."""
MEMBER = ["arm", "member"]
"""What tells the members of a study apart."""
GOALS = {"maximize": ["accuracy_valid"], "minimize": ["flops_masked"], "constraints": []}
"""What a study looked for before studies could say it."""
T = TypeVar("T")


def schema(rows: Sequence[Mapping[str, Any]], hp_types: Mapping[str, pa.DataType]) -> pa.Schema:
    """The schema of a file of `rows`: the fixed columns, one `hp_<name>` for each of `hp_types`,
    and the rows' `m_<name>`.
    """
    fields = _fields(NAMES)
    for name, kind in sorted(hp_types.items()):
        field = pa.field(f"hp_{name}", kind)
        fields.append(field)
    measures = set[str]()
    for row in rows:
        for name in row:
            if name.startswith("m_"):
                measures.add(name)
    for name in sorted(measures):
        field = pa.field(name, _real)
        fields.append(field)
    return pa.schema(fields)


def _fields(wanted: Sequence[str]) -> list[pa.Field]:
    """The fixed columns among `wanted`, in the order of the table."""
    fields: list[pa.Field] = []
    for name, kind, meaning in COLUMNS:
        if name in wanted:
            field = pa.field(name, kind, metadata={"meaning": meaning})
            fields.append(field)
    return fields


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
    known = set(layout.names)
    given = set[str]().union(*rows)
    unknown = given - known
    if unknown:
        names = ", ".join(sorted(unknown))
        raise Mistake(f"rows have columns that the table does not know: {names}")
    about = {"schema": SCHEMA_VERSION, **footer}
    stamp = json.dumps(about, sort_keys=True)
    stamped = layout.with_metadata({FOOTER: stamp})
    with atomic(path) as temporary:
        content = pa.Table.from_pylist(list(rows), schema=stamped)
        pq.write_table(content, temporary)


def files(folder: Where) -> list[Location]:
    """The row files of a study's output folder, sorted by name."""
    rows = rundir.rows(folder)
    named: list[Location] = []
    for path in rows.glob("*"):
        if not path.name.startswith("."):
            named.append(path)
    return sorted(named, key=str)


# ---- one file


def _content(path: Location, columns: Sequence[str] | None) -> pa.Table | str:
    """The rows in a file, or why it is no row file of ours.

    Raises OSError if a remote one cannot be had: that is no fault of the file.
    """
    if path.suffix != ".parquet":
        return "not a Parquet file"
    origin = source(path)
    try:
        with pq.ParquetFile(origin) as file:
            layout = file.schema_arrow
            if fault := _foreign(layout):
                return fault
            if columns is None:
                return earlier.completed(file.read(), _fields(NAMES))
            rows = file.read(earlier.stored_columns(columns, layout.names))
            return earlier.completed(rows, _fields(columns))
    except (pa.ArrowException, OSError, KeyError) as error:
        return _unreadable(error)


def _unreadable(error: Exception) -> str:
    lines = str(error).splitlines()
    reason = lines[0][:120]
    return f"unreadable ({reason})"


def _foreign(layout: pa.Schema) -> str | None:
    """Why a file of this schema is no row file of ours; None if it is."""
    stamp = (layout.metadata or {}).get(FOOTER)
    if stamp is None:
        return "not written by prunefront"
    version = json.loads(stamp).get("schema")
    readable = range(earlier.FIRST_VERSION, SCHEMA_VERSION + 1)
    if version not in readable:
        return f"of schema version {version}, where {readable[0]} to {readable[-1]} are read"
    for name, kind, _ in COLUMNS:
        if earlier.SINCE.get(name, earlier.FIRST_VERSION) > version:
            continue
        if name not in layout.names or _plain(layout.field(name).type) != kind:
            return f"without the column {name}"
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


# ---- a folder


def _sound(
    folder: Where, columns: Sequence[str] | None
) -> tuple[list[pa.Table], dict[Location, str]]:
    """The rows in each file of `folder` that can be trusted, and the other files with what is wrong
    with each.
    """
    paths = files(folder)
    contents = each(partial(_content, columns=columns), paths)
    good: list[pa.Table] = []
    bad: dict[Location, str] = {}
    for path, content in zip(paths, contents, strict=True):
        if isinstance(content, str):
            bad[path] = content
        else:
            good.append(content)
    return good, bad


def set_aside(folder: Where) -> dict[Location, str]:
    """Move files that cannot be trusted from `rows/` to `rejected/`; returns where each was and
    what was wrong.
    """
    rejected = rundir.rejected(folder)
    _, bad = _sound(folder, ["member"])
    for path in bad:
        rejected.mkdir(exist_ok=True)
        path.replace(str(rejected / path.name))
    return bad


def _no_rows(folder: Where) -> Mistake:
    """That a folder has no rows, and where they are if it holds several studies."""
    places = list(swept.studies(folder).values())
    if not places:
        return Mistake(f"{locate(folder)}: {NO_ROWS}")
    rule = "a study for each value of [task] that is swept; this takes the folder of one"
    return Mistake(f"{locate(folder)}: {rule}, such as {places[0]}")


def read(folder: Where, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Every row of a study, sorted by arm, hyper-parameters, seed and rung.

    folder: a study's output folder.  columns: read only these of the fixed columns; None reads all,
    with `hp_` and `m_`.  Rows of an earlier schema version are null in a column that came later,
    unless it can be derived. Raises Mistake if there are no rows, or naming a file that cannot be
    trusted.
    """
    wanted = None
    if columns is not None:
        needed = dict.fromkeys([*columns, *ORDER, "status"])
        wanted = list(needed)
    good, bad = _sound(folder, wanted)
    for path, why in bad.items():
        raise Mistake(f"{path}: {why}; {ASIDE}")
    if not good:
        raise _no_rows(folder)
    rows = pa.concat_tables(good, promote_options="permissive")
    frame = rows.to_pandas()
    frame = frame.sort_values(list(ORDER), ignore_index=True)
    frame = settled(frame)
    if columns is None:
        return frame
    return frame[list(columns)]


def scan(
    folder: Where,
    columns: Sequence[str],
    status: str,
    most: int,
) -> Iterator[pa.Table]:
    """The rows with a `status`, in parts of about `most` rows, never all at once; in the order of
    the files.

    columns: all that is read of them, fixed ones; text comes as dictionaries.  Of files whose
    statistics show no such row the footer alone is read. A file is read while the one before it is
    in use. Raises Mistake if there are no files, or naming one that cannot be trusted.
    """
    paths = files(folder)
    if not paths:
        raise _no_rows(folder)
    parts: list[pa.Table] = []
    size = 0
    for path, rows in _read_ahead(partial(_filtered, columns=columns, status=status), paths):
        if isinstance(rows, str):
            raise Mistake(f"{path}: {rows}; {ASIDE}")
        parts.append(rows)
        size += rows.num_rows
        if size >= most:
            yield pa.concat_tables(parts)
            parts, size = [], 0
    if size:
        yield pa.concat_tables(parts)


def _read_ahead(
    content: Callable[[Location], T], paths: Sequence[Location]
) -> Iterator[tuple[Location, T]]:
    """Each path with its content, which is read while the one before it is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(content, paths[0])
        for path, following in zip(paths, [*paths[1:], None], strict=True):
            rows = coming.result()
            if following is not None:
                coming = pool.submit(content, following)
            yield path, rows


def _filtered(path: Location, columns: Sequence[str], status: str) -> pa.Table | str:
    """The rows of a file that have a `status`, or why it is no row file of ours. Raises OSError as
    `_content` does.
    """
    if path.suffix != ".parquet":
        return "not a Parquet file"
    origin = source(path)
    if isinstance(origin, Path):
        place, system = str(origin), fs.LocalFileSystem()
    else:
        place, system = origin, None
    try:
        options = ds.ParquetReadOptions(dictionary_columns=TEXTS)
        file = ds.ParquetFileFormat(read_options=options).make_fragment(place, system)
        layout = file.physical_schema
        if fault := _foreign(layout):
            return fault
        stored = earlier.stored_columns(columns, layout.names)
        rows = file.to_table(columns=stored, filter=ds.field("status") == status)
        fields = [_as_dictionary(field) for field in _fields(columns)]
        return earlier.completed(rows, fields).select(list(columns))
    except (pa.ArrowException, OSError) as error:
        return _unreadable(error)


def _as_dictionary(field: pa.Field) -> pa.Field:
    if field.name not in TEXTS:
        return field
    return field.with_type(pa.dictionary(pa.int32(), field.type))


# ---- the plan beside the rows


def current(folder: Where, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the members that the study holds as it is now: what was taken out of the study
    file keeps its rows.

    folder: the output folder, whose plan/study.json names its arms, and members that were taken
    out; all rows if there is none.
    """
    about = planned(folder)
    if about is None:
        return frame
    held = _held_by_name(about, frame) if "members" in about else _held(about, frame)
    return frame[held].reset_index(drop=True)


def _held(about: Mapping[str, Any], frame: pd.DataFrame) -> list[bool]:
    """Which rows are of an arm of the study as it is now, and of no member that was taken out."""
    arms = set(about["arms"].items())
    removed = _pairs(about["removed"])
    held: list[bool] = []
    keys = zip(frame["arm"], frame["algorithm"], frame["member"], strict=True)
    for arm, algorithm, member in keys:
        is_of_study = (arm, algorithm) in arms
        was_removed = (arm, member) in removed
        held.append(is_of_study and not was_removed)
    return held


def _held_by_name(about: Mapping[str, Any], frame: pd.DataFrame) -> list[bool]:
    """The same by the first form of a plan, which names all members that the study holds."""
    members = _pairs(about["members"])
    held: list[bool] = []
    pairs = zip(frame["arm"], frame["member"], strict=True)
    for pair in pairs:
        is_held = pair in members
        held.append(is_held)
    return held


def _pairs(members: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
    pairs = set[tuple[str, str]]()
    for arm, names in members.items():
        for name in names:
            pairs.add((arm, name))
    return pairs


def planned(folder: Where) -> dict[str, Any] | None:
    """What plan/study.json says of the study in `folder`; None without one. Raises Mistake if it is
    not ours.

    A plan of an earlier version comes with its goals, which were the same for all studies; `arms`
    and `removed`, or in the first form of a plan `members`, say what the study holds.
    """
    path = rundir.study_file(folder)
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        rule = "says what the folder holds, as JSON; without it `prunefront run` writes it again"
        raise Mistake(f"{path} {rule}; got: {error}") from None
    if not _is_plan(about):
        rule = "says what the folder holds"
        raise Mistake(f"{path} {rule}; got one that no version of prunefront wrote")
    about.setdefault("goals", GOALS)
    return about


def _is_plan(about: Any) -> bool:
    if not isinstance(about, dict) or not {"name", "description"} <= about.keys():
        return False
    return "members" in about or {"arms", "removed"} <= about.keys()


def cautions(folder: Where) -> list[str]:
    """What the plan of the study in `folder` says that a reader should know before any verdict, one
    sentence each.
    """
    about = planned(folder)
    if about is None:
        return []
    stated = about.get("cautions", [])
    return list(stated)


# ---- what is asked of rows


def ended(path: Where) -> set[str]:
    """The members whose last rows are in a row file."""
    rows = pq.read_table(source(path), columns=["member", "status"])
    members = set[str]()
    for row in rows.to_pylist():
        if row["status"] != RUNNING:
            members.add(row["member"])
    return members


def length(path: Where) -> int:
    """How many rows a row file has."""
    return pq.read_metadata(source(path)).num_rows


def settled(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame without the rows of a rung at which a decision was made, for members that it
    stopped: they have a last one.
    """
    twice = frame.duplicated([*MEMBER, "rung"], keep=False)
    running = frame["status"].eq(RUNNING)
    stays = ~(twice & running)
    rows = frame[stays]
    return rows.reset_index(drop=True)


def last(frame: pd.DataFrame) -> pd.DataFrame:
    """The last row of each member that has one (status is not `running`), in the frame's order."""
    has_ended = frame["status"] != RUNNING
    ending = frame[has_ended]
    return ending.drop_duplicates(MEMBER, ignore_index=True)


def unfinished(frame: pd.DataFrame) -> pd.DataFrame:
    """The latest row of each member that has no last row."""
    ends = frame["status"].ne(RUNNING)
    has_ended = _of_member(frame, ends)
    going = frame[~has_ended]
    return going.drop_duplicates(MEMBER, keep="last")


def done(frame: pd.DataFrame) -> pd.DataFrame:
    """Every row, one for each rung, of the members that are done, in the frame's order."""
    is_last = frame["status"].eq("done")
    is_done = _of_member(frame, is_last)
    rows = frame[is_done]
    return rows.drop_duplicates([*MEMBER, "rung"])


def _of_member(frame: pd.DataFrame, holds: pd.Series[bool]) -> pd.Series[bool]:
    """Whether something holds for any row of a row's member."""
    members = [frame[name] for name in MEMBER]
    of_member = holds.groupby(members)
    return of_member.transform("any")


def _was_measured(rows: pa.Table) -> bool:
    """Whether any row says what a network did."""
    statuses = set(rows["status"].to_pylist())
    return not statuses <= {"skipped", "failed"}


def footers(folder: Where) -> list[dict[str, Any]]:
    """The distinct footers of a study's files: commit, versions, device, task description, data
    digest. Files in which nothing was measured, by the driver about members that were skipped or
    failed, count only where there are no others.
    """
    good, _ = _sound(folder, ["member", "status"])
    measured = [rows for rows in good if _was_measured(rows)]
    stamps = set[bytes]()
    for rows in measured or good:
        stamp = rows.schema.metadata[FOOTER]
        stamps.add(stamp)
    ordered = sorted(stamps)
    return [json.loads(stamp) for stamp in ordered]
