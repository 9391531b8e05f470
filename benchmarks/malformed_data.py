"""Malformed data: data sets with mistakes that are drawn at random end with one sentence and exit
2, before Ray starts.

A sound data set is drawn (examples, features or images, classes, types), written in one of the
forms that can be read, and spoilt in one way. `prunefront run` has to refuse it: exit 2, nothing on
standard output, one line that names the data set and what is wrong with it. A traceback, another
exit code, a start of Ray, or a reader that raised where it foresaw nothing is a failure.

    python benchmarks/malformed_data.py [--draws 50] [--seed 0]

Prints each kind of mistake with how often it was drawn and a sentence; exits with 1 after a
failure.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gzip
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from prunefront.search import BAD_INPUT, cli
from prunefront.search.drive import cluster, handout
from prunefront.trainables.data import splits

STUDY = """[study]
name = "malformed"
seeds = [0]
[task]
model = "mlp"
widths = [4]
epochs = 1
rungs = 1
batch_size = 2
{task}
[[arm]]
algorithm = "dense"
"""
Random = np.random.Generator


class Started(BaseException):
    """Ray was about to be started."""


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """A data set in the working folder. task: the lines of [task] that read it.  says: what the
    refusal has to contain.
    """

    task: str
    says: str


@dataclasses.dataclass
class Sound:
    """A data set without a mistake: inputs and labels to train on, and the same to test with."""

    x: Any
    y: Any
    x_test: Any
    y_test: Any


def vectors(random: Random) -> Sound:
    """Features of one of the types that there are; a few classes, none of them rare."""
    count, features, classes = (
        random.integers(100, 400),
        random.integers(2, 9),
        random.integers(2, 6),
    )
    x = random.normal(size=(count + 60, features)).astype(random.choice(["float32", "float64"]))
    return _split(
        x,
        random.permutation(np.arange(count + 60) % classes).astype(
            random.choice(["int64", "uint8", "int32"])
        ),
    )


def images(random: Random) -> Sound:
    """Grey images of bytes."""
    count, classes = random.integers(100, 200), random.integers(2, 6)
    height, width = random.integers(4, 9, 2)
    x = random.integers(0, 256, (count + 60, 1, height, width)).astype(np.uint8)
    return _split(x, random.permutation(np.arange(count + 60) % classes).astype(np.uint8))


def _split(x: np.ndarray, y: np.ndarray) -> Sound:
    return Sound(x[:-60], y[:-60], x[-60:], y[-60:])


# What is written, and the lines of [task] that read it.


def npz(found: Sound) -> str:
    """A NumPy archive."""
    np.savez("a.npz", x_train=found.x, y_train=found.y, x_test=found.x_test, y_test=found.y_test)
    return 'dataset = "npz"\npath = "a.npz"'


def features(found: Sound) -> str:
    """Parquet files with a column for each feature, as pandas writes them."""
    for name, x, y in (("train", found.x, found.y), ("test", found.x_test, found.y_test)):
        frame = pd.DataFrame({f"f{place}": column for place, column in enumerate(np.asarray(x).T)})
        frame.assign(label=y).to_parquet(f"{name}.parquet")
    return 'dataset = "features"\ntrain = "train.parquet"\ntest = "test.parquet"'


def lists(found: Sound) -> str:
    """A Parquet file with a column of lists."""
    rows = [None if row is None else list(row) for row in found.x]
    pq.write_table(pa.table({"embedding": pa.array(rows), "label": found.y}), "train.parquet")
    return 'dataset = "features"\ntrain = "train.parquet"\ncolumns = "embedding"'


def pictures(found: Sound, column: str = "image", field: str = "bytes") -> str:
    """A Parquet file with encoded images, or with what stands for them."""
    encoded = [
        image if image is None or isinstance(image, bytes) else _png(image) for image in found.x
    ]
    cells = pa.array([{field: code} for code in encoded], pa.struct([(field, pa.binary())]))
    pq.write_table(pa.table({column: cells, "label": pa.array(list(found.y))}), "train.parquet")
    return 'dataset = "parquet"\ntrain = "train.parquet"'


def idx(found: Sound) -> str:
    """The four files of the MNIST family."""
    for prefix, x, y in (
        ("train", found.x[:, 0], found.y),
        ("t10k", found.x_test[:, 0], found.y_test),
    ):
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            extents = b"".join(int(extent).to_bytes(4, "big") for extent in array.shape)
            Path(f"{prefix}-{kind}-ubyte").write_bytes(
                bytes((0, 0, 8, array.ndim)) + extents + array.tobytes()
            )
    return 'dataset = "idx"\nroot = "."'


def folder(found: Sound) -> str:
    """Image files in a folder for each class, for both splits."""
    for name, x, y in (("train", found.x, found.y), ("test", found.x_test, found.y_test)):
        for row, (image, label) in enumerate(zip(x, y, strict=True)):
            place = Path(f"pictures/{name}/class{label}")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{row}.png").write_bytes(_png(image))
    return 'dataset = "folder"\nroot = "pictures"\ngrey = true'


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[0]).save(stream, "PNG")
    return stream.getvalue()


SOUND: dict[str, tuple[Callable[[Random], Sound], Callable[[Sound], str]]] = {
    "npz of features": (vectors, npz),
    "npz of images": (images, npz),
    "columns": (vectors, features),
    "lists": (vectors, lists),
    "pictures": (images, pictures),
    "idx": (images, idx),
    "folder": (images, folder),
}
"""Forms of data sets: what draws one, and what writes it."""
TABLES = ("npz of features", "columns")
ARRAYS = (*TABLES, "npz of images")
LABELLED = (*ARRAYS, "pictures")
FILES = {
    "npz of features": ["a.npz"],
    "npz of images": ["a.npz"],
    "columns": ["train.parquet", "test.parquet"],
    "lists": ["train.parquet"],
    "pictures": ["train.parquet"],
    "idx": [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ],
}
"""Files that a form consists of."""

Spoil = Callable[[Random, Sound], str]
"""Spoils a sound data set; returns what the refusal has to contain."""
KINDS: dict[str, Callable[[Random], Spoilt]] = {}
"""Kinds of mistakes, by name."""


def spoils(*forms: str) -> Callable[[Spoil], Spoil]:
    """Registers a mistake in arrays, once for each form in which they may be written."""

    def register(spoil: Spoil) -> Spoil:
        for form in forms:
            KINDS[f"{form}: {spoil.__name__.replace('_', ' ')}"] = _kind(form, spoil)
        return spoil

    return register


def _kind(form: str, spoil: Spoil) -> Callable[[Random], Spoilt]:
    draw, write = SOUND[form]

    def spoilt(random: Random) -> Spoilt:
        found = draw(random)
        says = spoil(random, found)
        return Spoilt(write(found), says)

    return spoilt


def some(random: Random, count: int) -> np.ndarray:
    """A few rows."""
    return random.choice(count, random.integers(1, 5), replace=False)


# Mistakes in labels.


@spoils(*LABELLED)
def negative_labels(random: Random, found: Sound) -> str:
    found.y = found.y.astype(np.int64)
    found.y[some(random, len(found.y))] = -random.integers(1, 1000)
    return "labels are whole numbers from 0; got -"


@spoils(*LABELLED)
def labels_that_are_no_whole_numbers(random: Random, found: Sound) -> str:
    kinds = [found.y + 0.5, found.y.astype(np.float32), found.y.astype(str)]
    found.y = kinds[random.integers(len(kinds))]
    return "labels are whole numbers from 0; got "


@spoils("npz of features", "npz of images")
def labels_of_a_strange_type(random: Random, found: Sound) -> str:
    found.y = found.y.astype(
        random.choice(
            ["complex64", "longdouble", "datetime64[D]", "timedelta64[s]", "S3", "float16"]
        )
    )
    return "labels are whole numbers from 0; got "


@spoils("columns", "pictures")
def missing_labels(random: Random, found: Sound) -> str:
    found.y = found.y.astype(object)
    found.y[some(random, len(found.y))] = None
    return "label"


@spoils(*LABELLED)
def a_label_for_no_class(random: Random, found: Sound) -> str:
    found.y = found.y.astype(np.int64)
    found.y[found.y == found.y.max()] = random.choice([99, 255, 30_000_000, 2**40, 2**62])
    return "without a gap, each with training examples; got "


@spoils(*LABELLED)
def labels_from_1(random: Random, found: Sound) -> str:
    found.y = found.y.astype(np.int64) + random.integers(1, 4)
    return "without a gap, each with training examples; got "


@spoils(*LABELLED)
def an_identifier_as_label(random: Random, found: Sound) -> str:
    found.y = random.permutation(len(found.y)) + random.choice([0, 1000, 30_000_000])
    return "is the label an identifier?"


@spoils(*LABELLED)
def one_class(random: Random, found: Sound) -> str:
    found.y = np.zeros(len(found.y), int)
    return "has two classes or more"


@spoils(*ARRAYS)
def a_class_without_training_examples(random: Random, found: Sound) -> str:
    found.y_test = found.y_test.astype(np.int64)
    found.y_test[some(random, 60)] = found.y.max() + random.integers(1, 5)
    return "which `train` lacks"


@spoils("npz of features", "npz of images")
def one_hot_labels(random: Random, found: Sound) -> str:
    found.y = np.eye(int(found.y.max()) + 1, dtype=int)[found.y]
    return "has one label for each input"


@spoils("npz of features", "npz of images")
def labels_of_other_lengths(random: Random, found: Sound) -> str:
    if random.random() < 0.5:
        found.y, found.y_test = found.y_test, found.y
    else:
        found.y = found.y[: -random.integers(1, 50)]
    return "has one label for each input"


# Mistakes in values.


@spoils(*ARRAYS, "lists")
def huge_values(random: Random, found: Sound) -> str:
    value = random.choice([-3.4028235e38, 9.96921e36, 1e30, -1e20, np.inf, -np.inf])
    found.x = found.x.astype(random.choice(["float32", "float64"]))
    found.x[some(random, len(found.x)), random.integers(found.x.shape[1])] = value
    return f"got {value:.6g} ("


@spoils("npz of features", "npz of images")
def missing_values(random: Random, found: Sound) -> str:
    found.x = found.x.astype(random.choice(["float16", "float32", "float64"]))
    found.x[some(random, len(found.x)), random.integers(found.x.shape[1])] = np.nan
    return "got nan ("


@spoils(*TABLES)
def huge_values_in_the_test_split(random: Random, found: Sound) -> str:
    found.x_test = found.x_test.astype(np.float64)
    found.x_test[some(random, 60), 0] = value = random.choice([1e300, -2e19, -np.inf])
    return f"split test: inputs are finite numbers of at most 1.8e+19, whose squares float32 can hold; got {value:.6g} (column"


@spoils(*TABLES)
def the_least_whole_number_for_no_value(random: Random, found: Sound) -> str:
    found.x = random.integers(0, 20, found.x.shape).astype(random.choice(["int32", "int64"]))
    found.x[some(random, len(found.x)), 1] = np.iinfo(found.x.dtype).min
    return "times as large as all others"


@spoils("npz of features", "npz of images")
def inputs_of_a_strange_type(random: Random, found: Sound) -> str:
    found.x = found.x.astype(
        random.choice(["complex128", "longdouble", "datetime64[D]", "timedelta64[s]", "U8", "S8"])
    )
    return "inputs are numbers (n, ...) of at most 64 bits; got "


# Features that tell what they should not.


@spoils(*TABLES)
def the_number_of_a_row(random: Random, found: Sound) -> str:
    order = np.argsort(found.y, kind="stable")
    number = np.arange(len(order)) * random.choice([1, 7, 0.5]) + random.choice([0, 1000])
    found.x, found.y = np.column_stack([found.x[order], number]), found.y[order]
    found.x_test = np.column_stack([found.x_test, np.arange(60)])
    return "no feature is the number of a row"


@spoils(*TABLES, "lists")
def a_copy_of_the_label(random: Random, found: Sound) -> str:
    values = random.permutation(
        np.arange(len(np.unique(found.y))) * random.normal() + random.integers(100)
    )
    found.x, found.x_test = (
        np.column_stack([values[y], x]) for x, y in ((found.x, found.y), (found.x_test, found.y_test))
    )  # fmt: skip
    return "features are no copies of the label"


@spoils(*TABLES)
def the_label_in_several_columns(random: Random, found: Sound) -> str:
    found.x, found.x_test = (
        np.column_stack([x, np.eye(6)[y][:, : int(found.y.max()) + 1]])
        for x, y in ((found.x, found.y), (found.x_test, found.y_test))
    )
    return "features are no copies of the label"


# Mistakes in shapes.


@spoils("npz of features", "npz of images")
def inputs_that_are_no_examples(random: Random, found: Sound) -> str:
    found.x = [found.x.reshape(-1), found.x.ravel()[0], found.x[:0], found.x[:, :0]][
        kind := random.integers(4)
    ]
    return [
        "inputs are numbers (n, ...); got",
        "inputs are numbers (n, ...); got",
        "one label",
        "one number or more",
    ][kind]


@spoils(*ARRAYS)
def a_test_split_of_another_shape(random: Random, found: Sound) -> str:
    found.x_test = found.x_test[:, :-1] if found.x_test.ndim == 2 else found.x_test[..., :-1]
    return "inputs of all splits have one shape" if found.x.ndim == 4 else ""


@spoils("npz of features", "npz of images")
def arrays_that_need_a_pickle(random: Random, found: Sound) -> str:
    ragged = np.empty(len(found.x), object)
    for row in range(len(ragged)):
        ragged[row] = found.x[row][: random.integers(1, 3)]
    found.x = [ragged, found.x.astype(object), found.y.astype(object)][random.integers(3)]
    return "Object arrays cannot be loaded"


@spoils("lists")
def lists_that_are_no_rows(random: Random, found: Sound) -> str:
    rows: list[Any] = [row.tolist() for row in found.x]
    spoilt = rows[random.integers(len(rows))]
    kind = random.integers(4)
    if kind == 0:
        spoilt.append(1.0)
    elif kind == 1:
        spoilt[0] = None
    elif kind == 2:
        rows = [list(map(str, row)) for row in rows]
    else:
        rows[random.integers(len(rows))] = None
    found.x = rows
    return ["equally long", "nulls", "lists of numbers", "nulls"][kind]


# Mistakes in pictures.


@spoils("pictures")
def what_is_no_picture(random: Random, found: Sound) -> str:
    found.x = list(found.x)
    code = _png(found.x[0])
    spoilt = [
        b"",
        b"no picture",
        None,
        code[: random.integers(1, len(code) - 30)],
        random.bytes(50),
    ][random.integers(5)]
    found.x[random.integers(len(found.x))] = spoilt
    return "not an image that can be decoded"


@spoils("pictures", "folder")
def pictures_of_several_sizes(random: Random, found: Sound) -> str:
    found.x = list(found.x)
    row = random.integers(len(found.x))
    found.x[row] = np.tile(found.x[row], (1, 2, 1) if random.random() < 0.5 else (1, 1, 2))
    return "one shape"


@spoils("folder")
def one_folder(random: Random, found: Sound) -> str:
    found.y, found.y_test = np.zeros_like(found.y), np.zeros_like(found.y_test)
    return "has two classes or more"


@spoils("folder")
def another_class_to_test(random: Random, found: Sound) -> str:
    found.y_test = found.y_test + np.uint8(random.integers(1, 3))
    return "has the classes of"


def kind(name: str) -> Callable[[Callable[[Random], Spoilt]], Callable[[Random], Spoilt]]:
    """Registers a mistake of a form's own."""

    def register(spoil: Callable[[Random], Spoilt]) -> Callable[[Random], Spoilt]:
        KINDS[f"{name}: {spoil.__name__.replace('_', ' ')}"] = spoil
        return spoil

    return register


def written(form: str, random: Random) -> str:
    """A sound data set in the working folder."""
    draw, write = SOUND[form]
    return write(draw(random))


def _broken(form: str) -> None:
    """Registers what may happen to each file of a form."""

    def a_file_that_is_cut_short(random: Random) -> Spoilt:
        task = written(form, random)
        path = Path(random.choice(FILES[form]))
        content = path.read_bytes()
        path.write_bytes(content[: random.integers(len(content))])
        return Spoilt(task, path.name)

    def a_file_that_is_another(random: Random) -> Spoilt:
        task = written(form, random)
        path = Path(random.choice(FILES[form]))
        others = [
            b"",
            b"label,a\n0,1\n",
            b"PK\x03\x04",
            b"PAR1" * 5,
            b"\x89PNG\r\n",
            gzip.compress(b"a"),
            random.bytes(300),
        ]
        path.write_bytes(others[random.integers(len(others))])
        return Spoilt(task, path.name)

    def a_file_that_is_none(random: Random) -> Spoilt:
        task = written(form, random)
        path = Path(random.choice([name for name in FILES[form] if "t10k" not in name]))
        path.unlink()
        if random.random() < 0.5:
            path.mkdir()
        return Spoilt(task, path.name)

    for spoil in (a_file_that_is_cut_short, a_file_that_is_another, a_file_that_is_none):
        kind(form)(spoil)


for _form in FILES:
    _broken(_form)


@kind("npz")
def arrays_of_other_names(random: Random) -> Spoilt:
    task = written("npz of features", random)
    with np.load("a.npz") as archive:
        arrays = dict(archive)
    name = random.choice(list(arrays))
    array = arrays.pop(name)
    if random.random() < 0.5:
        arrays[random.choice(["arr_0", "x_val", name.upper(), ""])] = array
    with Path("a.npz").open("wb") as file:
        np.savez(file, **arrays)
    return Spoilt(task, "`")


@kind("npz")
def an_array_that_is_larger_than_its_file(random: Random) -> Spoilt:
    task = written("npz of features", random)
    with zipfile.ZipFile("a.npz") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    header = files["x_train.npy"]
    place = header.index(b"'shape': (") + len(b"'shape': (")
    end = header.index(b",", place)
    digits = str(10 ** int(random.integers(6, 13))).encode()
    padding = header.index(b"\n") - len(header[end : header.index(b"\n")].rstrip()) - end
    assert padding >= len(digits) - (end - place)
    line = header[:place] + digits + header[end : header.index(b"\n")].rstrip()
    files["x_train.npy"] = line.ljust(header.index(b"\n")) + header[header.index(b"\n") :]
    with zipfile.ZipFile("a.npz", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return Spoilt(task, "a.npz: is a NumPy archive")


@kind("columns")
def columns_that_are_no_numbers(random: Random) -> Spoilt:
    task = written("columns", random)
    table = pq.read_table("train.parquet")
    strange = [
        pa.array(["a"] * len(table)),
        pa.array([{"a": 1.0}] * len(table)),
        pa.array([[[1.0]]] * len(table)),
        pa.array(pd.date_range("2020", periods=len(table))),
        pa.array([None] * len(table)),
    ]
    other = table.append_column("strange", strange[random.integers(len(strange))])
    pq.write_table(other, "train.parquet")
    return Spoilt(f'{task}\ncolumns = ["f0", "strange"]', "`strange`")


@kind("columns")
def cells_without_a_value(random: Random) -> Spoilt:
    task = written("columns", random)
    frame = pd.read_parquet("train.parquet").astype({"f1": object})
    frame.loc[some(random, len(frame)), "f1"] = None
    pq.write_table(pa.Table.from_pandas(frame), "train.parquet")
    return Spoilt(task, "column `f1`")


@kind("columns")
def two_columns_of_one_name(random: Random) -> Spoilt:
    task = written("columns", random)
    table = pq.read_table("train.parquet")
    name = str(random.choice(table.schema.names))
    pq.write_table(table.append_column(name, table[name]), "train.parquet")
    return Spoilt(task, f"2 columns `{name}`")


@kind("columns")
def a_column_that_the_test_split_lacks(random: Random) -> Spoilt:
    task = written("columns", random)
    table = pq.read_table("test.parquet")
    name = str(random.choice(table.schema.names))
    pq.write_table(table.drop_columns([name]), "test.parquet")
    return Spoilt(task, f"test.parquet: no column `{name}`")


@kind("columns")
def nothing_but_an_index(random: Random) -> Spoilt:
    task = written("columns", random)
    frame = pd.read_parquet("train.parquet")[["label"]]
    frame.index = pd.Index(np.arange(len(frame)) * 2, name=[None, "row", "id"][random.integers(3)])
    frame.to_parquet("train.parquet")
    return Spoilt(task, "has columns of numbers beside `label`")


@kind("columns")
def a_table_without_rows(random: Random) -> Spoilt:
    task = written("columns", random)
    name = str(random.choice(["train", "test"]))
    pq.write_table(pq.read_table(f"{name}.parquet")[:0], f"{name}.parquet")
    return Spoilt(task, f"split {name}: has one label for each input")


@kind("pictures")
def other_columns(random: Random) -> Spoilt:
    found = images(random)
    name, field = [("picture", "bytes"), ("image", "data")][random.integers(2)]
    return Spoilt(pictures(found, name, field), "a Parquet file has the columns `image`")


@kind("idx")
def a_header_that_is_wrong(random: Random) -> Spoilt:
    task = written("idx", random)
    path = Path(random.choice(FILES["idx"]))
    content = bytearray(path.read_bytes())
    place = random.integers(2, 4 + 4 * content[3])
    content[place] ^= int(random.integers(1, 256))
    path.write_bytes(content)
    return Spoilt(task, path.name)


@kind("idx")
def a_packed_file_that_is_broken(random: Random) -> Spoilt:
    task = written("idx", random)
    path = Path(random.choice(FILES["idx"]))
    packed = bytearray(gzip.compress(path.read_bytes()))
    path.unlink()
    spoilt = [packed[:-20], bytes(10) + packed, packed[:-8] + bytes(8)][random.integers(3)]
    Path(f"{path}.gz").write_bytes(spoilt)
    return Spoilt(task, f"{path}.gz: cannot be read")


@kind("folder")
def a_file_that_is_no_picture(random: Random) -> Spoilt:
    task = written("folder", random)
    paths = sorted(Path("pictures").rglob("*.png"))
    path = paths[random.integers(len(paths))]
    content = path.read_bytes()
    path.write_bytes([b"", b"no picture", content[:40], random.bytes(80)][random.integers(4)])
    return Spoilt(task, "not an image that can be decoded")


@kind("folder")
def folders_without_pictures(random: Random) -> Spoilt:
    written("folder", random)
    Path("pictures/train/empty").mkdir()
    Path("nothing").mkdir()
    Path("a file").touch()
    root = random.choice(["pictures", "nothing", "nowhere", "a file"])
    return Spoilt(f'dataset = "folder"\nroot = "{root}"', str(root))


# Running.


@contextlib.contextmanager
def working(place: Path) -> Iterator[None]:
    """In that folder; whatever is read there is read anew."""
    before = Path.cwd()
    os.chdir(place)
    splits._load.cache_clear()
    try:
        yield
    finally:
        os.chdir(before)
        splits._load.cache_clear()


def refusal(task: str) -> tuple[str, str]:
    """The sentence with which `prunefront run` refuses a task in the working folder, and what is
    wrong with how it ends.
    """
    Path("study.toml").write_text(STUDY.format(task=task))
    printed, said, code = io.StringIO(), io.StringIO(), None
    words = ["prunefront", "run", "study.toml", "--out", "out"]
    started = mock.Mock(side_effect=Started)
    with (
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "path", list(sys.path)),
        mock.patch.object(handout, "train", started),
        mock.patch.object(cluster.ray, "init", started),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(said),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        except Started:
            code = "Ray started"
    lines = said.getvalue().splitlines()
    sentence = lines[-1] if lines else ""
    name = task.split('"')[1]
    if code != BAD_INPUT:
        return sentence, f"ends with {code}: {said.getvalue()}"
    if len(lines) != 1 or printed.getvalue():
        return sentence, f"says more than one sentence: {said.getvalue()}{printed.getvalue()}"
    if not sentence.startswith(f"prunefront: study.toml: [task]: dataset {name}: "):
        return sentence, f"does not name the data set: {sentence}"
    if "it raised" in sentence:
        return sentence, f"a reader raised where it foresaw nothing: {sentence}"
    return sentence.partition(f"dataset {name}: ")[2], ""


def trial(name: str, seed: int) -> tuple[str, str]:
    """A mistake of a kind, drawn by seed: the sentence, and what is wrong with it; empty if
    nothing.
    """
    with tempfile.TemporaryDirectory(prefix="prunefront-data-") as place, working(Path(place)):
        spoilt = KINDS[name](np.random.default_rng(seed))
        sentence, wrong = refusal(spoilt.task)
        if not wrong and spoilt.says not in sentence:
            wrong = f'does not say "{spoilt.says}": {sentence}'
        return sentence, wrong


def sound(form: str, seed: int) -> str:
    """How a data set without a mistake ends: `Ray started`, or not as it should."""
    with tempfile.TemporaryDirectory(prefix="prunefront-data-") as place, working(Path(place)):
        return refusal(written(form, np.random.default_rng(seed)))[1].partition(": ")[0]


def drawn(draws: int, seed: int) -> list[tuple[str, int]]:
    """Kinds of mistakes, each with a seed: none twice before all were drawn."""
    random = np.random.default_rng(seed)
    names = [
        name for _ in range(-(-draws // len(KINDS))) for name in random.permutation(sorted(KINDS))
    ]
    return [(str(name), int(random.integers(2**31))) for name in names[:draws]]


def main() -> None:
    """Draws mistakes, prints a table, and exits with 1 after a failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=50, help="data sets that are drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    given = parser.parse_args()
    outcomes: dict[str, list[tuple[str, str]]] = {}
    for name, seed in drawn(given.draws, given.seed):
        outcomes.setdefault(name, []).append(trial(name, seed))
    failures = []
    print("| data set: mistake | drawn | failed | a sentence |\n|---|---|---|---|")
    for name, found in sorted(outcomes.items()):
        wrong = [why for _, why in found if why]
        failures += [f"{name}: {why}" for why in wrong]
        print(f"| {name} | {len(found)} | {len(wrong)} | {found[0][0]} |")
    total = sum(map(len, outcomes.values()))
    print(
        f"\n{total} malformed data sets of {len(outcomes)} kinds (out of {len(KINDS)}), {len(failures)} failures"
    )
    print("\n".join(failures))
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
