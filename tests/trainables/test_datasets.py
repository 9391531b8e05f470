"""Readers of data sets, on files made from scikit-learn's digits: what was written is read, what is
wrong is said.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from prunefront.trainables.data import readers
from prunefront.trainables.data import splits as data
from prunefront.trainables.task import Task

DIGITS: Any = load_digits()
PIXELS, LABELS = (DIGITS.images * 15).astype(np.uint8), DIGITS.target.astype(np.uint8)


def to_idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return (
        bytes((0, 0, 8, array.ndim))
        + b"".join(n.to_bytes(4, "big") for n in array.shape)
        + array.tobytes()
    )


def idx_files(folder: Path, pack: bool = False) -> Path:
    """300 digits to train on and 100 to test with, in the files of the MNIST family."""
    folder.mkdir(parents=True)
    for prefix, rows in {"train": slice(0, 300), "t10k": slice(300, 400)}.items():
        for kind, array in {"images-idx3": PIXELS[rows], "labels-idx1": LABELS[rows]}.items():
            name, content = f"{prefix}-{kind}-ubyte", to_idx(array)
            (folder / (f"{name}.gz" if pack else name)).write_bytes(
                gzip.compress(content) if pack else content
            )
    return folder


def image_files(folder: Path, rows: range) -> Path:
    """Digits as PNG files in a folder for each class."""
    for row in rows:
        path = folder / f"digit{LABELS[row]}" / f"{row:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[row]).save(path)
    return folder


def load(dataset: str, /, **options: Any) -> data.Data:
    return data.load_data(dataset, options, 0, torch.float64, torch.device("cpu"))


def refusal(dataset: str, /, **options: Any) -> str:
    """The sentence with which a data set is refused."""
    with pytest.raises(ValueError, match=r"^dataset ") as caught:
        load(dataset, **options)
    (line,) = str(caught.value).splitlines()
    return line.removeprefix(f"dataset {dataset}: ")


@pytest.mark.parametrize("pack", [False, True])
def test_idx_files_are_read_plain_and_packed(
    tmp_path: Path, pack: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HERE", str(tmp_path))
    idx_files(tmp_path / "digits", pack)
    splits = readers.idx("$HERE/digits")
    assert np.array_equal(np.asarray(splits["train"][0]), PIXELS[:300, None])
    assert np.array_equal(np.asarray(splits["test"][0]), PIXELS[300:400, None])
    assert np.array_equal(splits["test"][1], LABELS[300:400])
    found = load("idx", root="$HERE/digits")
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 255,
        "valid": 45,
        "test": 100,
    }
    assert (found.shape, found.classes) == ((1, 8, 8), 10)


def test_paths_know_the_home_folder_and_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    idx_files(tmp_path / "digits")
    assert len(readers.idx("~/digits")["train"][1]) == len(readers.idx("digits")["train"][1]) == 300


GOOD = to_idx(PIXELS[:300])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "begins with 00 00 08 03; got an empty file"),
        (GOOD[:10], "train-images-idx3-ubyte: has a header of 16 bytes; got 10"),
        (GOOD[:-1], "holds as many bytes as its header says, 300 x 8 x 8; got 19199"),
        (GOOD + b"0", "holds as many bytes as its header says, 300 x 8 x 8; got 19201"),
        (
            to_idx(LABELS[:300]),
            "unsigned bytes in 3 dimensions begins with 00 00 08 03; got 00 00 08 01",
        ),
        (b"\0\0\x0d\3" + GOOD[4:], "begins with 00 00 08 03; got 00 00 0d 03"),
        (b"\x1f\x8b\x08\0" + GOOD, "begins with 00 00 08 03; got 1f 8b 08 00"),
        (
            to_idx(PIXELS[:299]),
            "train-labels-idx1-ubyte: has a label for each of the 299 images; got 300",
        ),
        (
            to_idx(PIXELS[:300, :4]),
            "inputs of all splits have one shape; got {'train': (1, 4, 8), 'test': (1, 8, 8)}",
        ),
    ],
)
def test_what_is_no_idx_file(tmp_path: Path, content: bytes, sentence: str):
    (idx_files(tmp_path / "digits") / "train-images-idx3-ubyte").write_bytes(content)
    assert refusal("idx", root=str(tmp_path / "digits")).endswith(sentence)


def test_idx_files_that_are_missing_or_packed_badly(tmp_path: Path):
    assert refusal("idx", root=str(tmp_path / "none")) == f"no folder {tmp_path}/none"
    assert refusal("idx", root=3) == "`root` is text; got 3"
    folder = idx_files(tmp_path / "digits", pack=True)
    packed = folder / "train-images-idx3-ubyte.gz"
    whole = packed.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        whole[:-8] + bytes(8),
        b"no gzip file",
        whole[:100] + bytes(50) + whole[150:],
    ):
        packed.write_bytes(broken)
        assert refusal("idx", root=str(folder)).startswith(f"{packed}: cannot be read (")
    packed.unlink()
    assert refusal("idx", root=str(folder)) == f"no file {folder}/train-images-idx3-ubyte"
    packed.write_bytes(whole)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert refusal("idx", root=str(folder)) == f"no file {folder}/t10k-labels-idx1-ubyte"
    (folder / "t10k-images-idx3-ubyte.gz").unlink()
    assert len(load("idx", root=str(folder)).labels["test"]) == 60, "carved out of `train`"


def test_arrays_in_an_npz_file_are_what_was_written(tmp_path: Path):
    arrays = {"x_train": DIGITS.data[:300], "y_train": DIGITS.target[:300]}
    np.savez(
        tmp_path / "digits.npz",
        **arrays,
        x_valid=DIGITS.data[300:350],
        y_valid=DIGITS.target[300:350],
    )
    splits = readers.npz(str(tmp_path / "digits.npz"))
    assert splits.keys() == {"train", "valid"}
    assert np.array_equal(np.asarray(splits["valid"][0]), DIGITS.data[300:350])
    found = load("npz", path=str(tmp_path / "digits.npz"))
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 240,
        "valid": 50,
        "test": 60,
    }
    swapped = {name: array.astype(array.dtype.newbyteorder()) for name, array in arrays.items()}
    np.savez_compressed(tmp_path / "swapped.npz", **swapped)
    np.savez(tmp_path / "same.npz", **arrays)
    same, other = (load("npz", path=str(tmp_path / name)) for name in ("same.npz", "swapped.npz"))
    rows = torch.arange(10)
    assert torch.equal(same.examples("train", rows), other.examples("train", rows)), (
        "the order of bytes means nothing"
    )


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise AssertionError('unpickled')",)


def test_what_is_no_npz_file(tmp_path: Path):
    path, x, y = tmp_path / "a.npz", DIGITS.data[:50], DIGITS.target[:50]
    rule = f"{path}: is a NumPy archive (.npz) of arrays of numbers; "

    def said(**arrays: Any) -> str:
        if arrays:
            np.savez(path, **arrays)
        data._load.cache_clear()
        return refusal("npz", path=str(path))

    assert said() == f"no file {path}"
    assert said(x_train=x) == f"{path}: `y_train` is missing; it has x_train"
    assert said(y_train=y) == f"{path}: `x_train` is missing; it has y_train"
    assert said(x_test=x, y_test=y) == f"{path}: `x_train` is missing; it has x_test, y_test"
    assert (
        said(x_train=x, y_train=y, x_test=x)
        == f"{path}: `y_test` is missing; it has x_train, y_train, x_test"
    )
    assert said(x_train=x, y_train=y, x_tset=x).startswith(
        f'{path}: `x_tset` is no array of a data set; did you mean "x_test"?'
    )
    assert said(x_train=x, y_train=np.array([Evil()] * 50)).startswith(
        f"{rule}ValueError: Object arrays cannot be loaded"
    )
    assert said(x_train=x, y_train=y.astype(str)).endswith(
        "labels are whole numbers from 0; got <U21 ['0', '1', '2']"
    )
    np.savez(path, x_train=x, y_train=y)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert said().startswith(f"{rule}BadZipFile: ")
    path.write_bytes(whole[:500] + bytes(20) + whole[520:])
    assert said().startswith(f"{rule}BadZipFile: Bad CRC-32")
    with path.open("wb") as file:
        np.save(file, x)
    assert said().startswith(f"{rule}BadZipFile: ")


@pytest.mark.parametrize("stream", ["never", "always"])
def test_an_image_folder_is_read_with_and_without_splits(tmp_path: Path, stream: str):
    image_files(tmp_path / "split" / "train", range(300))
    image_files(tmp_path / "split" / "val", range(300, 350))
    image_files(tmp_path / "split" / "test", range(350, 400))
    options: dict[str, Any] = {"root": str(tmp_path / "split"), "grey": True}
    found = data.load_data("folder", options, 0, torch.float64, torch.device("cpu"), stream)
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 300,
        "valid": 50,
        "test": 50,
    }
    assert (found.shape, found.classes) == ((1, 8, 8), 10)
    order = np.argsort(LABELS[350:400], kind="stable")
    assert found.labels["test"].tolist() == LABELS[350:400][order].tolist()
    expected = (PIXELS[350:400][order][:, None] - PIXELS[:300].mean()) / PIXELS[:300].std(ddof=1)
    ours = torch.cat([x for x, _ in found.parts("test", 16)])
    assert np.allclose(ours, expected)

    flat = image_files(tmp_path / "flat", range(300))
    found = data.load_data(
        "folder", {"root": str(flat), "size": 16}, 0, torch.float32, torch.device("cpu"), stream
    )
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 204,
        "valid": 36,
        "test": 60,
    }
    assert found.shape == (3, 16, 16)


def test_the_digest_of_an_image_folder_follows_its_files(tmp_path: Path):
    image_files(tmp_path, range(300))

    def digest(**options: Any) -> str:
        data._load.cache_clear()
        return load("folder", root=str(tmp_path), **options).digest

    first = digest()
    assert digest() == first
    assert digest(grey=True) != first
    path = next((tmp_path / "digit3").iterdir())
    path.rename(path.with_name("9999.png"))
    assert digest() != first


def test_what_is_no_image_folder(tmp_path: Path):
    def said(**options: Any) -> str:
        data._load.cache_clear()
        return refusal("folder", root=str(tmp_path), **options)

    assert (
        said() == f"{tmp_path}: holds a folder of images for each class; "
        f"got: Couldn't find any class folder in {tmp_path}."
    )
    image_files(tmp_path / "test", range(50))
    assert said() == f"{tmp_path}: has a folder `train` beside test"
    image_files(tmp_path / "train", range(300))
    (tmp_path / "train" / "extra").mkdir()
    assert "Found no valid file for the classes extra." in said()
    Image.fromarray(PIXELS[0]).save(tmp_path / "train" / "extra" / "a.png")
    assert (
        said()
        == f"{tmp_path}/test: has the classes of {tmp_path}/train; only one of them has extra"
    )
    (tmp_path / "train" / "extra" / "a.png").unlink()
    (tmp_path / "train" / "extra").rmdir()
    assert (
        said(size=-1)
        == "`size` is a whole number of pixels, or 0 to leave images as they are; got -1"
    )
    assert said(grey=1) == "`grey` is true or false; got 1"
    odd = next((tmp_path / "train" / "digit9").iterdir())
    Image.fromarray(PIXELS[0][:4]).save(odd)
    assert said().startswith("inputs have one shape and type; got (3, 8, 8) uint8 and, in row ")
    assert load("folder", root=str(tmp_path), size=8).shape == (3, 8, 8)
    whole = odd.read_bytes()
    odd.write_bytes(whole[:40])
    assert said().startswith(f"{odd}: not an image that can be decoded (UnidentifiedImageError)")
    odd.write_bytes(b"no image")
    assert said().startswith(f"{odd}: not an image that can be decoded (UnidentifiedImageError)")


def parquet_file(path: Path, rows: slice = slice(0, 300), **columns: Any) -> str:
    """Digits as a Parquet file with a label, a text, and the columns that are given as arrays of
    one entry for each digit.
    """
    label = pa.array(DIGITS.target[rows])
    text = pa.array([f"digit {each}" for each in DIGITS.target[rows]])
    others = {
        name: column if isinstance(column, pa.Array) else pa.array(column[rows])
        for name, column in columns.items()
    }
    pq.write_table(pa.table({"text": text, **others, "label": label}), path)
    return str(path)


PIXEL = {f"p{place}": DIGITS.data[:, place].astype(np.float32) for place in range(64)}


def test_features_are_columns_of_numbers_as_they_are(tmp_path: Path):
    train, test = (
        parquet_file(tmp_path / "a", **PIXEL),
        parquet_file(tmp_path / "b", slice(300, 400), **PIXEL),
    )
    splits = readers.features(train, test=test)
    assert splits.keys() == {"train", "test"}
    for split, rows in (("train", slice(0, 300)), ("test", slice(300, 400))):
        x, y = (np.asarray(each) for each in splits[split])
        assert x.dtype == np.float32
        assert np.array_equal(x, DIGITS.data[rows])
        assert np.array_equal(y, DIGITS.target[rows])
    few = np.asarray(readers.features(train, columns=["p9", "p2"])["train"][0])
    assert np.array_equal(few, DIGITS.data[:300, [9, 2]])
    whole = parquet_file(tmp_path / "c", one=DIGITS.target.astype(np.int8), two=DIGITS.target > 3)
    assert np.asarray(readers.features(whole)["train"][0]).dtype == np.int8
    found = load("features", train=train, valid=test)
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 240,
        "valid": 100,
        "test": 60,
    }
    assert (found.shape, found.classes) == ((64,), 10)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 64)]
)
def test_features_may_be_a_column_of_lists(tmp_path: Path, kind: pa.DataType):
    train = parquet_file(
        tmp_path / "a", embedding=pa.array(list(DIGITS.data[:300]), kind), size=DIGITS.target
    )
    for columns in ("embedding", ["embedding"]):
        x = np.asarray(readers.features(train, columns=columns)["train"][0])
        assert x.dtype == np.float32
        assert np.array_equal(x, DIGITS.data[:300])
    assert np.asarray(readers.features(train)["train"][0]).shape == (300, 1), (
        "lists are read only where they are named"
    )


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []
    real = pq.read_table
    monkeypatch.setattr(
        pq, "read_table", lambda path, columns: asked.append(columns) or real(path, columns=columns)
    )
    readers.features(parquet_file(tmp_path / "a", **PIXEL), columns=["p1"])
    assert asked == [["p1", "label"]]


def test_what_are_no_features(tmp_path: Path):
    path = tmp_path / "a"
    file = str(path)

    def said(columns: Any = (), label: Any = "label", **given: Any) -> str:
        if given:
            parquet_file(path, **given)
        data._load.cache_clear()
        return refusal("features", train=file, columns=columns, label=label)

    assert said() == f"no file {path}"
    assert said(p=[1.0, None] * 150) == f"{path}: column `p` has a value in each row; got 150 nulls"
    assert said(p=DIGITS.target, columns=["q"]) == f"{path}: no column `q`; known: text, p, label"
    assert (
        said(label="lable")
        == f'{path}: no column `lable`; did you mean "label"? known: text, p, label'
    )
    assert said(label="text", columns=["p"]).startswith(
        "split train: labels are whole numbers from 0; got object"
    )
    rule = f"{path}: `columns` names columns of numbers, or one of lists of numbers"
    assert said(columns=["text", "p"]) == f"{rule}; got `text` of type string"
    assert said(columns="text") == f"{rule}; got `text` of type string"
    assert (
        said(columns=["p", "label"])
        == "`columns` are what the label is to be found from; got `label`, the label itself"
    )
    for wrong in (["p", "p"], [3], 3):
        assert (
            said(columns=wrong)
            == f"`columns` is a list of distinct names of columns; got {wrong!r}"
        )
    ragged = pa.array([[1.0] * (2 + row % 2) for row in range(300)])
    assert said(e=ragged, columns="e") == f"{path}: lists in `e` are equally long; got lengths 2, 3"
    assert (
        said(e=pa.array([[1.0, None]] * 300), columns="e")
        == f"{path}: lists in `e` hold numbers; got 300 nulls"
    )
    assert said(e=pa.array([[1.0, 2.0], None] * 150), columns="e").endswith(
        "`e` has a value in each row; got 150 nulls"
    )
    assert (
        said(e=pa.array([["a"]] * 300), columns="e")
        == f"{rule}; got `e` of type list<element: string>"
    )
    assert (
        said(e=ragged)
        == f"{path}: has columns of numbers beside `label`, or lists of them that `columns` names"
    )
    assert "got nan (column `p`, row 1, and 268 more like it); " in said(
        p=np.where(DIGITS.target, np.nan, 1.0)
    )
    empty = pa.table(
        {
            "p": pa.array([], pa.float32()),
            "e": pa.array([], pa.list_(pa.float32())),
            "label": pa.array([], pa.int8()),
        }
    )
    pq.write_table(empty, path)
    assert said() == "split train: has one example at least; got none"
    assert said(columns="e") == "split train: has one example at least; got none"
    parquet_file(path, **PIXEL)
    path.write_bytes(path.read_bytes()[:1000])
    assert said().startswith(f"{path}: is a Parquet file; got: ")
    parquet_file(path, **PIXEL)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(5000) + whole[5004:])
    assert said().startswith(f"{path}: cannot be read (")


def test_torchvisions_data_sets_by_name(tmp_path: Path):
    idx_files(tmp_path / "MNIST" / "raw")
    found, own = (
        load("torchvision", name="MNIST", root=str(tmp_path)),
        load("idx", root=str(tmp_path / "MNIST" / "raw")),
    )
    for split in ("train", "valid", "test"):
        rows = torch.arange(len(own.labels[split]))
        assert torch.equal(found.labels[split], own.labels[split])
        assert torch.equal(found.examples(split, rows), own.examples(split, rows))
    resized = load("torchvision", name="MNIST", root=str(tmp_path), size=16)
    assert resized.shape == (1, 16, 16)


def test_a_split_of_torchvision_that_is_missing_is_not_carved_out(tmp_path: Path):
    folder = tmp_path / "gtsrb" / "GTSRB" / "Training" / "00000"
    folder.mkdir(parents=True)
    for row in range(20):
        Image.fromarray(PIXELS[row]).convert("RGB").save(folder / f"{row}.ppm")
    said = refusal("torchvision", name="GTSRB", root=str(tmp_path))
    assert said.startswith(f"torchvision's GTSRB is not whole in {tmp_path} (RuntimeError: ")


def test_torchvisions_images_in_files_are_decoded_when_they_are_reached(tmp_path: Path):
    image_files(tmp_path / "eurosat" / "2750", range(300))
    (train, labels), *others = readers.torchvision("EuroSAT", str(tmp_path), size=16).values()
    assert not others, "what torchvision does not split is carved"
    assert isinstance(train, readers.Images)
    order = np.argsort(LABELS[:300], kind="stable")
    assert np.array_equal(labels, LABELS[:300][order])
    inputs, _ = readers.torchvision("EuroSAT", str(tmp_path))["train"]
    assert isinstance(inputs, readers.Images)
    assert np.array_equal(inputs[7][0], PIXELS[order[7]])
    found = load("torchvision", name="EuroSAT", root=str(tmp_path), size=16)
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 204,
        "valid": 36,
        "test": 60,
    }
    assert found.shape == (3, 16, 16)


def test_what_torchvision_does_not_have(tmp_path: Path):
    def said(name: Any, **options: Any) -> str:
        return refusal("torchvision", name=name, **{"root": str(tmp_path), **options})

    for name in ("MNIST", "CIFAR10", "SVHN", "Flowers102"):
        sentence = said(name)
        assert sentence.startswith(
            f"torchvision's {name} is not whole in {tmp_path} (RuntimeError: Dataset not found"
        )
        assert sentence.endswith("; `download = true` would fetch it")
    assert said(3) == "`name` is text; got 3"
    for name in ("CIFAR1", "LSUN", "wrap_dataset_for_transforms_v2"):
        assert (
            said(name)
            == "`name` is a data set of torchvision for classification, such as CIFAR10; "
            f"got {name!r}"
        )
    assert said("MNIST", download="yes") == "`download` is true or false; got 'yes'"
    assert (
        said("FER2013", download=True)
        == "`download` is nothing that torchvision's FER2013 can do; got true"
    )
    assert said("EMNIST", split="letter").startswith(
        "Unknown value 'letter' for argument split. Valid values are"
    )
    assert "unexpected keyword argument 'nonsense'" in said("CIFAR10", nonsense=3)


def test_torchvision_is_imported_only_where_it_is_needed():
    """It takes seconds. That it gives no warnings is seen here, where they are errors."""
    folder = Path(__file__).resolve().parent.parent.parent / "trainables"
    assert not [
        path
        for path in folder.rglob("*.py")
        if re.search(r"^(import|from) torchvision", path.read_text(), re.MULTILINE)
    ]


def npz_file(path: Path) -> str:
    """Digits as feature vectors in a NumPy archive."""
    np.savez(path, x_train=DIGITS.data, y_train=DIGITS.target)
    return str(path)


FILES: dict[str, Callable[[Path], dict[str, str]]] = {
    "idx": lambda place: {"root": str(idx_files(place))},
    "folder": lambda place: {"root": str(image_files(place, range(600)))},
    "npz": lambda place: {"path": npz_file(place.with_suffix(".npz"))},
    "features": lambda place: {"train": parquet_file(place, slice(None), **PIXEL)},
}


@pytest.mark.parametrize("name", FILES)
def test_a_task_trains_on_files(tmp_path: Path, name: str):
    from prunefront.trainables.algorithms import find
    from prunefront.trainables.contract import Member
    from prunefront.trainables.domain import complete
    from prunefront.trainables.measure.members import measure

    task = Task(name, "mlp", epochs=10, rungs=1, dataset_options=FILES[name](tmp_path / "digits"))
    task.check()
    dense = find("dense")
    state = dense.advance(task, dense.start(task, [Member(complete(dense.space, {}), 0)]))
    assert measure(task, dense, state, last=True)[0]["accuracy_test"] > 0.7


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its file, or by its own function where the file is elsewhere."""
    quick: Any = readers.digits()["train"]
    monkeypatch.setattr(readers.importlib.util, "find_spec", lambda name: None)
    slow: Any = readers.digits()["train"]
    for own, theirs, flat in zip(quick, slow, (DIGITS.data, DIGITS.target), strict=True):
        assert own.dtype == theirs.dtype == flat.dtype
        assert own.tobytes() == theirs.tobytes() == np.ascontiguousarray(flat).tobytes()
