"""Published points: results from the literature in a CSV file, to be drawn faintly beside what was
measured here.

One line for each result. The columns are `COLUMNS`, in any order; others are refused. FLOPs are
counted as everywhere in this package: 2 per multiply-accumulate, one example, forward; a source
that counts multiply-accumulates has its figure doubled.
"""

from __future__ import annotations

import io

import pandas as pd

from .mistake import Mistake
from .storage import Where, locate

COLUMNS = {
    "name": "of the method, as it is written beside its mark",
    "source": "where the figures stand: paper, year, table",
    "dataset": "name of the data set, as in a study's rows",
    "model": "name of the architecture that was pruned",
    "protocol": "how it was trained, split and chosen, as far as the source says",
    "counted": "masked (removed weights cost nothing) or shrunk (what any hardware does)",
    "accuracy": "share of test examples classified right, above 0 and at most 1",
    "flops": "FLOPs left, above 0",
    "params": "parameters left, a whole number of at least 0; may be empty or absent",
}
"""Name and meaning of every column."""
WORDS = ("name", "source", "dataset", "model", "protocol", "counted")
NUMBERS = ("accuracy", "flops", "params")
CAVEAT = (
    "Crosses: published test accuracies, not validation; protocols differ from this study's and "
    "from each other."
)


def points_of(path: Where) -> pd.DataFrame:
    """The points of a file, in its order: `COLUMNS`, `params` NaN where it is not given.

    Raises Mistake with one sentence, naming file and line, for what is no such point.
    """
    frame = _table(path)
    _check_columns(path, frame)
    frame = frame.reindex(columns=list(COLUMNS), fill_value="")
    for name in COLUMNS:
        frame[name] = frame[name].str.strip()
    for name in WORDS:
        values = frame[name]
        is_stated = values != ""
        _demand(path, values, is_stated, "is stated")
    counted = frame["counted"]
    is_count = counted.isin(["masked", "shrunk"])
    _demand(path, counted, is_count, "is masked or shrunk")
    numbers = _numbers(path, frame)
    return frame.assign(**numbers)


def _table(path: Where) -> pd.DataFrame:
    """What a CSV file holds, as text."""
    try:
        content = io.BytesIO(locate(path).read_bytes())
        return pd.read_csv(content, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except OSError as error:
        rule = "published points are read from a CSV file"
        raise Mistake(f"{path}: {rule}; got: {error.strerror}") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        rule = "published points are in a CSV file, UTF-8"
        raise Mistake(f"{path}: {rule}; got: {str(error).splitlines()[0]}") from error


def _check_columns(path: Where, frame: pd.DataFrame) -> None:
    rule = f"published points have the columns {', '.join(COLUMNS)}"
    for name in COLUMNS:
        if name not in frame and name != "params":
            raise Mistake(f"{path}: {rule}; `{name}` is missing")
    for name in map(str, frame):
        if name not in COLUMNS:
            raise Mistake(f"{path}: {rule}; got `{name}`")
    if frame.empty:
        raise Mistake(f"{path}: there is a point at least; got the heading alone")


def _numbers(path: Where, frame: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """The columns that hold numbers."""
    numbers: dict[str, pd.Series[float]] = {}
    for name in NUMBERS:
        values = pd.to_numeric(frame[name], errors="coerce")
        numbers[name] = values.astype(float)
    accuracy, flops, params = numbers.values()
    is_share = accuracy.gt(0) & accuracy.le(1)
    _demand(path, frame["accuracy"], is_share, "is a share, above 0 and at most 1")
    is_positive = flops.gt(0)
    is_finite = flops.lt(float("inf"))
    is_count = is_positive & is_finite
    _demand(path, frame["flops"], is_count, "is a number of FLOPs above 0")
    remainder = params % 1
    is_whole = params.ge(0) & remainder.eq(0)
    is_empty = frame["params"].eq("")
    fits = is_whole | is_empty
    _demand(path, frame["params"], fits, "is a whole number or empty")
    return numbers


def beside(points: pd.DataFrame, dataset: str, where: Where) -> pd.DataFrame:
    """The points of this data set.  where: the file, to name it. Raises Mistake without any."""
    own = points[points["dataset"] == dataset]
    if own.empty:
        others = ", ".join(sorted(points["dataset"].unique()))
        rule = f"points on {dataset}, the study's data set, are drawn"
        raise Mistake(f"{where}: {rule}; got points on {others}")
    return own


def _demand(
    path: Where,
    values: pd.Series[str],
    right: pd.Series[bool],
    rule: str,
) -> None:
    if right.all():
        return
    place = int((~right).to_numpy().argmax())
    got = str(values.iloc[place])
    raise Mistake(f"{path}: point {place + 1}: `{values.name}` {rule}; got {got!r}")
