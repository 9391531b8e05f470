"""Published points: results from the literature in a CSV file, to be drawn faintly beside what was
measured here.

One line for each result. The columns are `COLUMNS`, in any order; others are refused. FLOPs are
counted as everywhere in this
package: 2 per multiply-accumulate, one example, forward; a source that counts multiply-accumulates
has its figure doubled.
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
CAVEAT = "Crosses: published test accuracies, not validation; protocols differ from this study's and from each other."


def read(path: Where) -> pd.DataFrame:
    """The points of a file, in its order: `COLUMNS`, `params` NaN where it is not given.

    Raises Mistake with one sentence, naming file and line, for what is no such point.
    """
    try:
        frame = pd.read_csv(
            io.BytesIO(locate(path).read_bytes()),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except OSError as error:
        raise Mistake(
            f"{path}: published points are read from a CSV file; got: {error.strerror}"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Mistake(
            f"{path}: published points are in a CSV file, UTF-8; got: {str(error).splitlines()[0]}"
        ) from error
    known = ", ".join(COLUMNS)
    if missing := [name for name in COLUMNS if name not in frame and name != "params"]:
        raise Mistake(
            f"{path}: published points have the columns {known}; `{missing[0]}` is missing"
        )
    if unknown := [str(name) for name in frame if name not in COLUMNS]:
        raise Mistake(f"{path}: published points have the columns {known}; got `{unknown[0]}`")
    if frame.empty:
        raise Mistake(f"{path}: there is a point at least; got the heading alone")
    frame = frame.reindex(columns=list(COLUMNS), fill_value="").apply(
        lambda column: column.str.strip()
    )
    for name in WORDS:
        _demand(path, frame, name, frame[name] != "", "is stated")
    _demand(
        path, frame, "counted", frame["counted"].isin(["masked", "shrunk"]), "is masked or shrunk"
    )
    numbers = {
        name: pd.to_numeric(frame[name], errors="coerce")
        for name in ("accuracy", "flops", "params")
    }
    accuracy, flops, params = numbers.values()
    _demand(
        path,
        frame,
        "accuracy",
        (accuracy > 0) & (accuracy <= 1),
        "is a share, above 0 and at most 1",
    )
    _demand(
        path, frame, "flops", (flops > 0) & (flops < float("inf")), "is a number of FLOPs above 0"
    )
    _demand(
        path,
        frame,
        "params",
        frame["params"].eq("") | ((params >= 0) & (params % 1 == 0)),
        "is a whole number or empty",
    )
    return frame.assign(**{name: values.astype(float) for name, values in numbers.items()})


def beside(points: pd.DataFrame, dataset: str, where: Where) -> pd.DataFrame:
    """The points of this data set. Raises Mistake if there are none; where: the file, to name it."""
    found = points[points["dataset"] == dataset]
    if found.empty:
        others = ", ".join(sorted(points["dataset"].unique()))
        raise Mistake(
            f"{where}: points on {dataset}, the study's data set, are drawn; got points on {others}"
        )
    return found


def _demand(path: Where, frame: pd.DataFrame, name: str, right: pd.Series[bool], rule: str) -> None:
    if not right.all():
        place = int((~right).to_numpy().argmax())
        raise Mistake(
            f"{path}: point {place + 1}: `{name}` {rule}; got {str(frame[name].iloc[place])!r}"
        )
