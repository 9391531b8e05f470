"""What is wrong with data though they can be read: refused in one sentence, or cautioned about."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prunefront.search import cli
from prunefront.search.drive import cluster
from prunefront.trainables.data import doubts, readers, share, splits
from prunefront.trainables.data.dataset import Data
from prunefront.trainables.records import rows
from prunefront.trainables.task import Task

COUNT = 400
DRAWS = np.random.default_rng(0)
NOISE = DRAWS.normal(size=(COUNT, 3))
SORTED = np.arange(COUNT) * 4 // COUNT
"""Four classes in the order of the file."""
MIXED = DRAWS.permutation(SORTED)

given: dict[str, Any] = {}
"""What the data set `theirs` returns."""
given_before: list[int] = []
"""One entry for each data set so far."""


def theirs(number: int) -> Any:
    """A data set of a user. number: changes with each, so that none is taken for another."""
    return given


def load(arrays: Any, dtype: torch.dtype = torch.float32, stream: str = "never") -> Data:
    """The data set that a user's function returns."""
    given.clear()
    given.update(arrays)
    given_before.append(1)
    return splits.load_data(
        "test_doubts.theirs", {"number": len(given_before)}, 0, dtype, torch.device("cpu"), stream
    )


def refusal(arrays: Any, dtype: torch.dtype = torch.float32, stream: str = "never") -> str:
    """The sentence with which it is refused."""
    with pytest.raises(ValueError, match=r"^dataset test_doubts.theirs: ") as caught:
        load(arrays, dtype, stream)
    (line,) = str(caught.value).splitlines()
    return line.removeprefix("dataset test_doubts.theirs: ")


def cautions(arrays: Any, **how: Any) -> list[str]:
    """What is said of it."""
    return [
        line.removeprefix("dataset test_doubts.theirs: ") for line in load(arrays, **how).cautions
    ]


def features(*more: Any, labels: np.ndarray = MIXED) -> dict[str, Any]:
    """Noise, with more columns."""
    return {"train": (np.column_stack([NOISE, *more]), labels)}


def table(folder: Path, frame: pd.DataFrame) -> Data:
    """The data set `features` of a table that pandas wrote."""
    given_before.append(1)
    path = folder / f"{len(given_before)}.parquet"
    frame.to_parquet(path)
    return splits.load_data("features", {"train": str(path)}, 0, torch.float32, torch.device("cpu"))


@pytest.mark.parametrize("name", [None, "row", "label_id"])
def test_the_index_of_a_pandas_table_is_no_feature(tmp_path: Path, name: str | None):
    frame = pd.DataFrame({"a": NOISE[:, 0], "b": NOISE[:, 1], "label": SORTED})
    ranged = table(tmp_path, frame)  # its index is in the file's metadata only
    kept = frame.set_index(pd.Index(np.arange(COUNT), name=name))
    kept.index = pd.Index(np.arange(COUNT) * 3 + 7, name=name)
    for found in (ranged, table(tmp_path, kept)):
        assert (found.shape, found.cautions) == ((2,), ())
    two = frame.set_index([pd.Index(np.arange(COUNT)), pd.Index(np.arange(COUNT))])
    assert table(tmp_path, two).shape == (2,)
    path = tmp_path / "asked"
    kept.to_parquet(path)
    index = name or "__index_level_0__"
    with pytest.raises(
        ValueError,
        match=f"no feature is the number of a row .*; got column `{index}`, from 7 to 1204 in 400",
    ):
        splits.load_data(
            "features",
            {"train": str(path), "columns": ["a", index]},
            0,
            torch.float32,
            torch.device("cpu"),
        )


def test_metadata_of_other_programs_is_no_error(tmp_path: Path):
    columns = pa.table({"a": NOISE[:, 0], "label": MIXED})
    for content in (b"no JSON", b"[]", b"\xff", b'{"index_columns": ["b"]}'):
        pq.write_table(columns.replace_schema_metadata({b"pandas": content}), tmp_path / "a")
        assert readers.features(str(tmp_path / "a"))["train"][0].columns == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "number",
    [
        np.arange(COUNT),
        np.arange(COUNT)[::-1] * 10 + 3,
        np.cumsum(1 + np.arange(COUNT) % 5),
        np.arange(COUNT) / COUNT,
        (np.arange(COUNT) - 199.5) / 115.47,
        1.6e9 + 60 * np.arange(COUNT),
        np.arange(COUNT, dtype=np.uint16),
    ],
    ids=["from 0", "falling", "with gaps", "as a share", "standardised", "a time", "unsigned"],
)
def test_the_number_of_a_row_is_refused_where_classes_lie_in_blocks(number: np.ndarray):
    said = refusal(features(number, labels=SORTED))
    rule = (
        "split train: no feature is the number of a row where rows are in the order of "
        "their classes; got column 3, from "
    )
    assert said.startswith(rule)
    assert said.endswith("in 400 rows; leave it out")
    (caution,) = cautions(features(number, labels=MIXED))
    assert caution.startswith("split train: column 3 looks like an identifier of rows: leave out")


def test_the_number_of_a_row_is_seen_after_rows_were_shuffled():
    order = DRAWS.permutation(COUNT)
    shuffled = np.column_stack([NOISE, np.arange(COUNT)])[order]
    assert "got column 3, from" in refusal({"train": (shuffled, SORTED[order])})
    assert "column 3 looks like an identifier" in cautions({"train": (shuffled, MIXED)})[0]


def test_a_file_may_be_sorted_by_a_feature():
    measured = np.sort(DRAWS.normal(size=COUNT)) ** 3
    for column in (measured, np.sort(DRAWS.integers(20, 60, COUNT))):
        (caution,) = cautions(features(column, labels=SORTED))
        assert caution.startswith("split train: column 3 only grows or only falls from row to row")
    assert not cautions(features(DRAWS.integers(0, 10**6, COUNT), labels=SORTED)), (
        "different whole numbers are no identifier"
    )


@pytest.mark.parametrize("labels", [SORTED, MIXED], ids=["sorted", "mixed"])
@pytest.mark.parametrize(
    "copied",
    [
        lambda y: y,
        lambda y: y + 1000.0,
        lambda y: -y,
        lambda y: np.float32(0.1) * y,
        lambda y: np.array([3.5, -1, 0.25, 100])[y],
        lambda y: (y / 3).astype(np.float16).astype(np.float64),
    ],
    ids=["itself", "shifted", "negative", "scaled", "renamed", "rounded"],
)
def test_a_copy_of_the_label_is_refused(
    labels: np.ndarray, copied: Callable[[np.ndarray], np.ndarray]
):
    said = refusal(features(copied(labels), labels=labels))
    rule = "split train: features are no copies of the label, shifted or renamed"
    assert said == f"{rule}; got column 3, with one value for each class; leave it out"


def test_copies_of_the_label_in_several_columns_are_refused():
    one_hot = np.eye(4)[MIXED]
    assert (
        "got 4 of 7 columns (3, 4, 5, 6), with one value for each class; leave them out"
        in refusal(features(one_hot))
    )
    bits = np.column_stack([MIXED // 2, MIXED % 2])
    assert "got 2 of 5 columns (3, 4)" in refusal(features(bits))
    two = (MIXED > 1).astype(int)
    assert "got column 3, with one value for each class" in refusal(features(7.5 - two, labels=two))


def test_what_says_much_of_the_label_is_a_caution():
    (caution,) = cautions(features(MIXED == 2))
    assert (
        caution
        == "split train: column 3 has one value in each class: was that made from the label?"
    )
    finer = MIXED + 4 * DRAWS.integers(0, 3, COUNT)
    (caution,) = cautions(features(finer))
    assert (
        caution
        == "split train: column 3 tells the label without the other columns: was that made from it?"
    )
    few = np.arange(8) % 2
    found = {
        "train": (np.column_stack([NOISE[:8], few]), few),
        "valid": (NOISE[:8, [0, 1, 2, 0]], few),
    }
    assert not cautions({**found, "test": found["valid"]}), (
        "of eight examples it may be an accident"
    )


def test_constant_and_repeated_columns_are_cautions(tmp_path: Path):
    frame = pd.DataFrame(
        {"a": NOISE[:, 0], "none": 0, "b": NOISE[:, 1], "copy of a": NOISE[:, 0], "label": MIXED}
    )
    assert table(tmp_path, frame).cautions == (
        "dataset features: split train: column `copy of a` repeats an earlier column",
        "dataset features: split train: column `none` is constant in float32",
    )
    seconds = 1.7e9 + DRAWS.random(COUNT)
    assert cautions(features(seconds)) == ["split train: column 3 is constant in float32"]
    assert not cautions(features(seconds), dtype=torch.float64)
    rare = np.zeros((5000, 2))
    rare[:, 1] = DRAWS.normal(size=5000)
    rare[4321, 0] = 1
    assert not cautions({"train": (rare, np.arange(5000) % 7 % 2)}), "a single other value is seen"


def test_images_may_have_constant_pixels():
    images = DRAWS.integers(0, 256, (COUNT, 1, 4, 4)).astype(np.uint8)
    images[:, :, 0] = 0
    assert not cautions({"train": (images, MIXED)})
    flat = images.reshape(COUNT, 16)
    assert cautions({"train": (flat, MIXED)}) == [
        "split train: 4 of 16 columns (0, 1, 2, 3) are constant in float32"
    ]


def test_ordinary_data_are_not_doubted():
    assert not Task().data.cautions
    assert not cautions(features())
    assert not cautions({"train": (NOISE.astype(np.float16), MIXED)})
    assert not cautions({"train": (NOISE > 0, MIXED > 1)}), "truth values are numbers"
    assert load({"train": (NOISE, MIXED > 1)}).classes == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "value",
    [-3.4028235e38, 1e30, 9.96921e36, 1e20, np.inf, -np.inf, np.nan],
    ids=lambda value: f"{value:g}",
)
def test_values_that_cannot_be_meant_are_refused_with_their_place(dtype: torch.dtype, value: float):
    x = NOISE.copy()
    x[[17, 30], 1] = value
    rule = "inputs are finite numbers of at most 1.8e+19, whose squares float32 can hold"
    end = "; if it stands for a missing value, fill one in, or leave the row out"
    said = refusal({"train": (x, MIXED)}, dtype)
    assert (
        said == f"split train: {rule}; got {value:.6g} (column 1, row 17, and 1 more like it){end}"
    )
    said = refusal(
        {"train": (NOISE, MIXED), "test": (x.astype(np.float32)[17:], MIXED[17:])}, dtype
    )
    assert said.startswith(f"split test: {rule}; got {value:.6g} (column 1, row 0, and 1 more")
    images = np.zeros((COUNT, 1, 2, 2), np.float32)
    images[300, 0, 1, 0] = value
    said = refusal({"train": (images, MIXED)}, dtype)
    assert said == f"split train: {rule}; got {value:.6g} (row 300 at (0, 1, 0)){end}"


def test_a_value_is_named_by_its_column(tmp_path: Path):
    frame = pd.DataFrame({"a": NOISE[:, 0], "height in m": NOISE[:, 1], "label": MIXED})
    frame.loc[99, "height in m"] = -3.4028234663852886e38
    with pytest.raises(
        ValueError,
        match=r"^dataset features: split train: .*; "
        r"got -3.40282e\+38 \(column `height in m`, row 99",
    ):
        table(tmp_path, frame)
    frame["label"] = MIXED
    given.clear()
    given.update({"train": (frame[["a", "height in m"]], MIXED)})
    assert "column `height in m`, row 99" in refusal(dict(given)), (
        "of a table that a function returns, too"
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinity_is_seen_in_every_precision(dtype: type):
    x = NOISE.astype(dtype)
    x[5, 2] = np.inf
    assert "got inf (column 2, row 5)" in refusal({"train": (x, MIXED)})


@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_the_least_whole_number_is_no_value(kind: type):
    x = DRAWS.integers(0, 50, (COUNT, 3)).astype(kind)
    x[7, 2] = np.iinfo(kind).min
    said = refusal({"train": (x, MIXED)})
    assert said.startswith(
        "split train: a value is less than 1.7e+07 times as large as all others, or float32 "
        "cannot tell them"
    )
    assert (
        f"; got column 2: {float(np.iinfo(kind).min):.6g} in 1 of 400 rows, and from 0 to 49 "
        "in the others; " in said
    )


def test_a_mark_for_no_value_is_a_caution():
    column = DRAWS.random(COUNT)
    column[[3, 40, 77]] = -9999
    (caution,) = cautions(features(column))
    assert caution.startswith("split train: column 3: -9999 in 3 of 400 rows, and from 0.00")
    assert caution.endswith(
        " in the others; if it stands for a missing value, fill one in, or leave the row out"
    )
    assert not cautions(features(np.where(DRAWS.random(COUNT) < 0.1, 1e6, 0))), (
        "two values are two values"
    )
    assert not cautions(features(10 ** DRAWS.uniform(-300, 0, COUNT))), (
        "probabilities have many sizes"
    )
    assert not cautions(features(np.exp(3 * DRAWS.normal(size=COUNT))))


class Read:
    """Inputs that are read when they are reached, and how often."""

    def __init__(self, x: np.ndarray) -> None:
        self.x, self.reads = x, np.zeros(len(x), int)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> np.ndarray:
        self.reads[row] += 1
        return self.x[row]


def test_inputs_that_are_read_when_they_are_reached_are_doubted_then():
    x = NOISE.copy()
    x[33, 1] = 1e30
    said = "got 1e+30 (column 1, row 33); if it stands"
    assert said in refusal({"train": (Read(x), MIXED)})
    assert said in refusal({"train": (Read(x), MIXED)}, stream="always")
    found = load(
        {"train": (NOISE, MIXED), "test": (Read(np.r_[x, x, x]), np.r_[MIXED, MIXED, MIXED])},
        stream="always",
    )
    with pytest.raises(
        ValueError, match=r"^split test: inputs .*; got 1e\+30 \(column 1, row 33\)"
    ):
        list(found.parts("test", 16))
    assert "got column 3, from" in refusal(
        {"train": (Read(features(np.arange(COUNT))["train"][0]), SORTED)}
    )
    assert "features are no copies of the label" in refusal(
        {"train": (Read(features(MIXED)["train"][0]), MIXED)}
    )
    (caution,) = cautions({"train": (Read(features(np.zeros(COUNT))["train"][0]), MIXED)})
    assert (
        caution
        == "split train: column 3 is constant in float32 (in 256 examples that were looked at)"
    )


def test_doubts_read_nothing_twice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        torch, "get_num_threads", lambda: 0
    )  # or other processes would read, and count
    source = Read(NOISE)
    load({"train": (source, MIXED)}, stream="always")
    rows = doubts.spread(COUNT, splits.GLIMPSE_EXAMPLES)
    assert source.reads[rows[1:]].max() == 2, (
        "a glimpse, and mean and deviation; the first also tells the shape"
    )
    assert np.delete(source.reads, rows).max() == 1


@pytest.mark.parametrize(
    ("x", "told"),
    [
        (NOISE.astype(np.longdouble), "make them float64"),
        (NOISE.astype(complex), "give real and imaginary parts as two features"),
        (NOISE.astype(object), "become an array of numbers"),
        (np.full((COUNT, 3), None), "become an array of numbers"),
        (NOISE.astype(str), "make them numbers"),
        (NOISE.astype("S"), "make them numbers"),
        (NOISE.astype("datetime64[s]"), "give times as numbers"),
        (NOISE.astype("timedelta64[s]"), "give durations as numbers"),
        (np.zeros((COUNT, 3), [("a", float)]), "make them numbers"),
    ],
    ids=lambda given: str(given.dtype) if isinstance(given, np.ndarray) else "",
)
def test_types_that_are_no_numbers_are_refused(x: np.ndarray, told: str):
    for inputs in (x, Read(x)):
        said = refusal({"train": (inputs, MIXED)})
        assert said.startswith(
            "split train: inputs are numbers (n, ...) of at most 64 bits; "
            f"got {x.dtype} ({COUNT}, 3); "
        )
        assert told in said
    said = refusal({"train": (NOISE, x[:, 0])})
    assert said.startswith(f"split train: labels are whole numbers from 0; got {x.dtype}")


def test_arrays_that_are_not_what_they_seem():
    missing = np.ma.masked_less(NOISE, -2)
    assert (
        refusal({"train": (missing, MIXED)})
        == "split train: has a value in each place; got an array with masked ones"
    )
    assert "an input has one number or more; got shape (0,)" in refusal(
        {"train": (np.zeros((COUNT, 0)), MIXED)}
    )
    grown = torch.from_numpy(NOISE).requires_grad_()
    assert "is a pair, inputs and labels, that become NumPy arrays; got RuntimeError: " in refusal(
        {"train": (grown, MIXED)}
    )
    assert "is a pair, inputs and labels, that become NumPy arrays; got TypeError: " in refusal(
        {"train": (torch.zeros(9, 2).bfloat16(), MIXED)}
    )
    assert load({"train": (torch.from_numpy(NOISE), torch.from_numpy(MIXED))}).classes == 4


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        (
            np.array([0, 1, 2, 255])[MIXED],
            "4 labels in 400 examples: 0 (100 examples), 1 (100 examples), 2 (100 examples), 255",
        ),
        (MIXED + 1, "4 labels in 400 examples: 1 (100 examples), 2"),
        (2 * MIXED, "4 labels in 400 examples: 0 (100 examples), 2"),
        (
            30_000_000 * (MIXED == 3),
            "2 labels in 400 examples: 0 (300 examples), 30000000 (100 examples), and ",
        ),
        (np.array([0, 1, 2, 2**62])[MIXED], "4 labels in 400 examples: "),
        (np.array([0, 1, 2, 255])[MIXED].astype(np.uint8), "4 labels in 400 examples: "),
    ],
    ids=["255", "from 1", "even", "30,000,000", "2^62", "bytes"],
)
def test_labels_with_gaps_are_refused_with_their_counts(labels: np.ndarray, got: str):
    said = refusal({"train": (NOISE, labels)})
    rule = (
        "split train: labels number the classes 0, 1, 2, ... without a gap, each with "
        "training examples; got "
    )
    assert said.startswith(rule + got)
    gap = min(set(range(len(labels))) - set(labels.tolist()))
    assert said.endswith(
        f" examples), and no example of class {gap}; "
        "number the classes so, and leave out rows that have none"
    )


def test_labels_that_are_no_classes():
    for identifier in (np.arange(COUNT), 30_000_000 + 997 * np.arange(COUNT)):
        said = refusal({"train": (NOISE, identifier), "test": (NOISE, identifier)})
        assert said.startswith(
            "split train: a class has two training examples or more, on average; "
            "got 400 labels in 400 ex"
        )
        assert said.endswith(" (1 example); is the label an identifier?")
    one = refusal({"train": (NOISE, np.zeros(COUNT, int))})
    assert (
        one == "split train: has two classes or more; got 1 label in 400 examples: 0 (400 examples)"
    )
    assert refusal({"train": (NOISE, np.full(COUNT, 2**63, np.uint64))}).endswith(
        f"whole numbers from 0; got {2**63}"
    )
    assert refusal({"train": (NOISE, MIXED - 1)}).endswith("whole numbers from 0; got -1")


def test_a_class_has_examples_in_each_split():
    rare = np.array([0, 1, 2, 3, 4] * 79 + [0, 1, 2, 3, 5])
    most = {"train": (NOISE, MIXED), "valid": (NOISE + 1, MIXED)}
    said = refusal({**most, "test": (NOISE + 2, rare)})
    assert said.startswith(
        "split test: has the classes of `train`, 0 to 3; "
        "got class 4 (79 examples), which `train` lacks; "
    )
    (caution,) = cautions({**most, "test": (NOISE + 2, MIXED % 2)})
    assert (
        caution
        == "split test has no examples of classes 2, 3: its accuracy says nothing about that"
    )
    single = np.where(np.arange(COUNT) == 5, 4, MIXED)
    seeds = {}
    given.clear()
    for seed in range(12):
        given.update({"train": (NOISE, single)})
        given_before.append(1)
        try:
            found = splits.load_data(
                "test_doubts.theirs",
                {"number": len(given_before)},
                seed,
                torch.float32,
                torch.device("cpu"),
            )
            seeds[seed] = " ".join(found.cautions)
        except ValueError as error:
            seeds[seed] = str(error)
    drawn = [
        said
        for said in seeds.values()
        if "all 1 of class 4 were drawn for another split; give it more" in said
    ]
    kept = [said for said in seeds.values() if "split valid has no examples of class 4" in said]
    assert drawn
    assert kept
    assert len(drawn) + len(kept) == len(seeds)


def test_cautions_go_to_workers_with_the_data():
    given_before.append(1)
    found = load(features(np.zeros(COUNT)))
    packed = share.pack(found)
    assert packed is not None
    try:
        share.give("somewhere.else", {}, 0, torch.float32, packed)
        again = splits.load_data("somewhere.else", {}, 0, torch.float32, torch.device("cpu"))
    finally:
        share.forget()
    assert again.cautions == found.cautions != ()


class Started(BaseException):
    """Ray was about to be started."""


def test_a_run_says_cautions_before_it_starts_and_rows_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    np.savez(tmp_path / "a.npz", x_train=np.column_stack([NOISE, np.zeros(COUNT)]), y_train=MIXED)
    options = f'dataset = "npz"\npath = "{tmp_path}/a.npz"\nwidths = [4]\nepochs = 1\nrungs = 1'
    study = tmp_path / "study.toml"
    study.write_text(
        f'[study]\nname = "s"\nseeds = [0]\n[task]\n{options}\n[[arm]]\nalgorithm = "dense"\n'
    )
    monkeypatch.setattr(cluster.ray, "init", mock.Mock(side_effect=Started))
    monkeypatch.setattr(
        sys, "argv", ["prunefront", "run", str(study), "--out", str(tmp_path / "out")]
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(Started):
        cli.main()
    caution = "dataset npz: split train: column 3 is constant in float32"
    assert f"caution: {caution}\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/plan/study.json").read_text())["cautions"] == [caution]
    task = Task("npz", model_options={"widths": [4]}, dataset_options={"path": f"{tmp_path}/a.npz"})
    assert rows.footer(task)["cautions"] == [caution]
    assert "cautions" not in rows.footer(Task())
    assert "cautions" not in task.describe(), (
        "members are known by what they are trained on, not by what is said of it"
    )


def test_a_column_along_which_the_classes_lie_one_after_the_other_is_named():
    """A leaked score, a noisy copy of the label: values do not repeat, and yet they tell it."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=120)
    inputs = random.normal(size=(120, 4))
    inputs[:, 2] = labels * 100 + random.uniform(0, 99, 120)
    (caution,) = cautions_of(inputs, labels)
    assert "column 2 tells the label without the other columns" in caution
    inputs[5, 2] = 1e4 if labels[5] < 2 else -1e4  # one example is out of order
    assert not cautions_of(inputs, labels)


def cautions_of(inputs: np.ndarray, labels: np.ndarray) -> list[str]:
    return doubts.doubt_columns(inputs, labels, (), np.dtype("float32"))


def test_examples_of_another_split_that_are_trained_on_are_named():
    random = np.random.default_rng(0)
    train, test = random.normal(size=(200, 3)), random.normal(size=(50, 3))
    assert not list(doubts.doubt_overlap(train, {"test": test}))
    test[:20] = train[:20]
    assert list(doubts.doubt_overlap(train, {"test": test})) == [
        "split test: 20 of 50 examples that were looked at are training examples too"
    ]
