"""Data sets by name: what reads files into arrays.

A data set is a callable that returns, by split name (`train`, and `valid` and `test` if it has
them), inputs and labels. Paths may hold environment variables and ~; relative ones start from the
folder in which the command runs. Nothing is unpickled but what torchvision has checked against its
own list of checksums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import importlib.util
import io
import itertools
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...analysis.rows.mistake import Mistake
from ..models import hint, raised


class Lazy(Protocol):
    """Inputs that are read when they are reached: `len`, and `[row]` an array, all of one shape.

    If it has a `digest`, a text that changes with what lies behind it, that text becomes part of
    the data set's.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Any: ...


Arrays = Mapping[str, tuple["np.ndarray | Table | Lazy", np.ndarray]]
"""Split name -> inputs (n, ...) of any number type, or a sequence of n; labels (n,) whole numbers
from 0.
"""


@dataclasses.dataclass(frozen=True)
class Table:
    """Features (n, d), with a name for each column."""

    values: np.ndarray
    columns: Sequence[str]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The features, as NumPy asks for them."""
        return np.array(self.values, dtype, copy=copy)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a torchvision data set as arrays (channels, height, width), decoded when they
    are reached.

    size: images are resized to size x size; 0 leaves them.  mode: Pillow's, to which they are
    converted; empty leaves them.
    """

    dataset: Any
    size: int
    mode: str
    digest: str = ""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> np.ndarray:
        try:
            example = self.dataset[row]
            image = example[0]
            return _pixels(image, self.size, self.mode)
        except Exception as error:  # Pillow raises a dozen kinds for what it cannot decode
            samples = getattr(self.dataset, "samples", None)
            name = f"image {row}"
            if samples:
                name = samples[row][0]
            kind = type(error).__name__
            raise Mistake(f"{name}: not an image that can be decoded ({kind})") from None


def digits() -> Arrays:
    """scikit-learn's digits: 1797 grey images, 1 x 8 x 8, 10 classes (UCI optical recognition of
    handwritten digits).
    """
    pixels, labels = _digits()
    images = pixels.reshape(-1, 1, 8, 8)
    return {"train": (images, labels)}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn's `load_digits` returns, from its file: its import takes two seconds."""
    package = importlib.util.find_spec("sklearn")
    folders = (package and package.submodule_search_locations) or ()
    for folder in folders:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if not path.is_file():
            continue
        table = np.loadtxt(path, delimiter=",")
        pixels = table[:, :-1]
        classes = table[:, -1].astype(int)
        return pixels, classes
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.asarray(images), np.asarray(labels)


def idx(root: str) -> Arrays:
    """Grey images in the four IDX files of the MNIST family, plain or with .gz, in the folder
    `root`.

    They are named train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- for the test split,
    which may be missing.
    """
    folder = _folder("root", root)
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images_path = _plain_or_gz(folder / f"{prefix}-images-idx3-ubyte")
        labels_path = _plain_or_gz(folder / f"{prefix}-labels-idx1-ubyte")
        is_there = images_path.exists() or labels_path.exists()
        if split == "test" and not is_there:
            continue
        splits[split] = _idx_pair(images_path, labels_path)
    return splits


def _idx_pair(
    images_path: Path,
    labels_path: Path,
) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, height, width) and labels (n,) in two IDX files."""
    images = _idx(images_path, 3)
    labels = _idx(labels_path, 1)
    count = len(images)
    if len(labels) != count:
        rule = f"has a label for each of the {count} images"
        raise Mistake(f"{labels_path}: {rule}; got {len(labels)}")
    with_channel = images[:, None]
    return with_channel, labels


def _plain_or_gz(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    if packed.exists() and not path.exists():
        return packed
    return path


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes: two zero bytes, type, number of dimensions,
    extents (big-endian), values.
    """
    content = _decompressed(path)
    magic = content[:4]
    if magic != bytes((0, 0, 8, dimensions)):
        got = magic.hex(" ") or "an empty file"
        file = f"an IDX file of unsigned bytes in {dimensions} dimensions"
        begin = f"00 00 08 0{dimensions}"
        raise Mistake(f"{path}: {file} begins with {begin}; got {got}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise Mistake(f"{path}: has a header of {start} bytes; got {len(content)}")
    shape: list[int] = []
    for place in range(4, start, 4):
        code = content[place : place + 4]
        extent = int.from_bytes(code, "big")
        shape.append(extent)
    values = content[start:]
    if len(values) != math.prod(shape):
        extents = map(str, shape)
        told = " x ".join(extents)
        raise Mistake(f"{path}: holds as many bytes as its header says, {told}; got {len(values)}")
    array = np.frombuffer(values, np.uint8)
    return array.reshape(shape)


def _decompressed(path: Path) -> bytes:
    """What is in a file, plain or packed by gzip."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            return gzip.decompress(content)
        return content
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise Mistake(f"{path}: cannot be read ({raised(error)})") from None


def npz(path: str) -> Arrays:
    """Arrays in a NumPy archive: x_train and y_train, and the same with _valid and _test if it has
    them.

    Inputs are taken as they are, (n, ...): images are (n, channels, height, width).
    """
    file = _path("path", path)
    arrays = _archive(file)
    pairs: dict[str, tuple[str, str]] = {}
    for split in ("train", "valid", "test"):
        pairs[split] = (f"x_{split}", f"y_{split}")
    known = list(itertools.chain.from_iterable(pairs.values()))
    for name in arrays:
        if name not in known:
            raise Mistake(f"{file}: `{name}` is no array of a data set;{hint(name, known)}")
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, (x, y) in pairs.items():
        is_there = x in arrays or y in arrays
        if split != "train" and not is_there:
            continue
        for name in (x, y):
            if name in arrays:
                continue
            has = ", ".join(arrays) or "no arrays"
            raise Mistake(f"{file}: `{name}` is missing; it has {has}")
        splits[split] = arrays[x], arrays[y]
    return splits


def _archive(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a NumPy archive by name."""
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            files = archive.namelist()
        names = [file_name.removesuffix(".npy") for file_name in files]
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except FileNotFoundError:
        raise Mistake(f"no file {file}") from None
    except Exception as error:  # NumPy raises a dozen kinds of errors for what it cannot read
        rule = "is a NumPy archive (.npz) of arrays of numbers"
        raise Mistake(f"{file}: {rule}; {raised(error)}") from None


def folder(root: str, size: int = 0, grey: bool = False) -> Arrays:
    """Image files in a folder for each class, inside root/train and, if there, root/valid (or val)
    and root/test; or in `root`.

    Classes are numbered in the order of their folders' names.  size: images are resized to size x
    size, whatever their shape; 0 leaves them, and then all have one shape.  grey: one channel
    instead of three.  Decoded when they are reached.
    """
    top = _folder("root", root)
    size = _size(size)
    mode = "RGB"
    if _flag("grey", grey):
        mode = "L"
    places = _split_folders(top)
    datasets = {split: _image_folder(place) for split, place in places.items()}
    train_classes = datasets["train"].classes
    splits: dict[str, tuple[Images, np.ndarray]] = {}
    for split, dataset in datasets.items():
        place = places[split]
        classes = dataset.classes
        if classes != train_classes:
            odd = sorted(set(classes) ^ set(train_classes))
            rule = f"has the classes of {places['train']}"
            got = ", ".join(odd[:5])
            raise Mistake(f"{place}: {rule}; only one of them has {got}")
        digest = _names_and_sizes(place, dataset)
        images = Images(dataset, size, mode, digest)
        labels = np.asarray(dataset.targets)
        splits[split] = images, labels
    return splits


def _split_folders(top: Path) -> dict[str, Path]:
    """The folders of splits inside `top`; `top` alone, of the training split, if there are none."""
    places = {
        "train": top / "train",
        "valid": top / "valid",
        "test": top / "test",
    }
    if not places["valid"].exists():
        places["valid"] = top / "val"
    present: dict[str, Path] = {}
    for split, place in places.items():
        if place.exists():
            present[split] = place
    if not present:
        return {"train": top}
    if "train" not in present:
        names = ", ".join(place.name for place in present.values())
        raise Mistake(f"{top}: has a folder `train` beside {names}")
    return present


def _image_folder(place: Path) -> Any:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(place)
    except FileNotFoundError as error:
        why = str(error).splitlines()[0]
        raise Mistake(f"{place}: holds a folder of images for each class; got: {why}") from None


def _names_and_sizes(place: Path, dataset: Any) -> str:
    """A digest of the names and sizes of image files."""
    files: list[tuple[str, int]] = []
    for path, _ in dataset.samples:
        name = os.path.relpath(path, place)
        size = os.path.getsize(path)
        files.append((name, size))
    listed = repr(files).encode()
    digest = hashlib.sha256(listed)
    return digest.hexdigest()


def torchvision(
    name: str,
    root: str,
    download: bool = False,
    size: int = 0,
    **options: Any,
) -> Arrays:
    """A data set of torchvision for classification, by the name of its class: CIFAR10, CIFAR100,
    MNIST, SVHN, ...

    root, download: where its files are, and whether to fetch them.  size: as of `folder`.  Other
    options go to the class, which is asked for the training and the test split by its argument
    `train` or `split`. What it holds in memory is taken as an array, images in files are decoded
    when they are reached. CIFAR's files are pickles; torchvision reads them after it has checked
    them against its own list of checksums.
    """
    import torchvision.datasets as known

    place = _path("root", root)
    size = _size(size)
    download = _flag("download", download)
    kind: Any = getattr(known, _text("name", name), None)
    is_kind = name in known.__all__ and isinstance(kind, type)
    # LSUN unpickles a file that nothing has checked.
    if not is_kind or name.startswith("LSUN"):
        rule = "`name` is a data set of torchvision for classification, such as CIFAR10"
        raise Mistake(f"{rule}; got {name!r}")
    takes = _arguments(kind)
    cure = ""
    if "download" in takes:
        options["download"] = download
        if not download:
            cure = "; `download = true` would fetch it"
    elif download:
        raise Mistake(f"`download` is nothing that torchvision's {name} can do; got true")
    splits: dict[str, tuple[np.ndarray | Lazy, np.ndarray]] = {}
    left = takes - options.keys()
    for split, words in _split_words(left).items():
        try:
            dataset = _first_made(kind, str(place), options, words)
        except ValueError as error:  # it has no such split
            if split == "train":
                raise Mistake(str(error)) from None
            continue
        except (RuntimeError, OSError) as error:
            got = f"torchvision's {name} is not whole in {place}"
            raise Mistake(f"{got} ({raised(error)}){cure}") from None
        splits[split] = _arrays(dataset, size)
    return splits


def _split_words(takes: Set[str]) -> dict[str, list[dict[str, Any]]]:
    """By which arguments, out of those that are left, a class of torchvision is asked for each
    split; they are tried in turn.
    """
    if "train" in takes:
        return {
            "train": [{"train": True}],
            "test": [{"train": False}],
        }
    if "split" in takes:
        return {
            "train": [{"split": "train"}, {"split": "trainval"}],
            "valid": [{"split": "val"}, {"split": "valid"}],
            "test": [{"split": "test"}],
        }
    return {"train": [{}]}


def _first_made(
    kind: Any,
    place: str,
    options: dict[str, Any],
    words: list[dict[str, Any]],
) -> Any:
    """A data set by the first of `words` that its class knows; the last one's ValueError if it
    knows none.
    """
    *others, last = words
    for word in others:
        with contextlib.suppress(ValueError):
            return kind(place, **options, **word)
    return kind(place, **options, **last)


def _arguments(kind: type) -> set[str]:
    """Names of the arguments of a class and of those that it inherits from."""
    names: set[str] = set()
    for parent in kind.__mro__:
        code = getattr(parent.__init__, "__code__", None)
        if code is not None:
            count = code.co_argcount + code.co_kwonlyargcount
            arguments = code.co_varnames[:count]
            names.update(arguments)
    return names


def _arrays(dataset: Any, size: int) -> tuple[np.ndarray | Lazy, np.ndarray]:
    """Inputs and labels of a torchvision data set; labels that it does not list are read with the
    images.
    """
    labels = getattr(dataset, "targets", None)
    if labels is None:
        labels = getattr(dataset, "labels", None)
    if labels is None:
        labels = []
        for row in range(len(dataset)):
            example = dataset[row]
            labels.append(example[1])
    images = Images(dataset, size, "")
    label_array = np.asarray(labels)
    if not hasattr(dataset, "data"):
        return images, label_array
    pixels = [images[row] for row in range(len(images))]
    return np.stack(pixels), label_array


def parquet(
    train: str,
    test: str = "",
    image: str = "image",
    label: str = "label",
) -> Arrays:
    """Images as encoded bytes in Parquet files, the layout of Hugging Face image data sets:
    `image{bytes, path}`, `label`.

    train, test: paths.  image, label: names of the columns.
    """
    _text("image", image)
    _text("label", label)
    paths = {"train": _path("train", train)}
    if test:
        paths["test"] = _path("test", test)
    return {split: _decode(path, image, label) for split, path in paths.items()}


def _picture(where: str, code: Any) -> np.ndarray:
    """The pixels of an encoded image."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(code))
        return _pixels(picture, 0, "")
    except Exception:  # Pillow raises a dozen kinds of errors for what it cannot decode
        raise Mistake(f"{where}: not an image that can be decoded") from None


def _decode(
    path: Path,
    image: str,
    label: str,
) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rule = f"a Parquet file has the columns `{image}`, with a field `bytes`, and `{label}`"
    try:
        table = pq.read_table(path, columns=[image, label])
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise Mistake(f"{path}: {rule}; got: {why}") from None
    kind = table.schema.field(image).type
    labels = table[label].to_numpy()
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise Mistake(f"{path}: {rule}; got `{image}` of type {kind}")
    column = pa.chunked_array(table[image]).combine_chunks()
    codes = column.field("bytes").to_pylist()
    images: list[np.ndarray] = []
    for row, code in enumerate(codes):
        where = f"{path}: row {row} of `{image}`"
        images.append(_picture(where, code))
    shapes = sorted({pixels.shape for pixels in images})
    if len(shapes) != 1:
        some = map(str, shapes[:3])
        got = ", ".join(some) or "no images"
        raise Mistake(f"{path}: images have one shape; got {got}")
    return np.stack(images), labels


def features(
    train: str,
    valid: str = "",
    test: str = "",
    columns: Sequence[str] | str = (),
    label: str = "label",
) -> Arrays:
    """Feature vectors in the columns of Parquet files: tables of numbers, or embeddings in a column
    of lists.

    train, valid, test: paths.  columns: names of columns of numbers, or of one column of lists of
    numbers, all equally long;
    empty: all columns of numbers but the label, as `train` has them, and but the index of a pandas
    table.  label: name of a column.  Nothing else is read.
    """
    names = _distinct("columns", columns)
    label = _text("label", label)
    if label in names:
        rule = "`columns` are what the label is to be found from"
        raise Mistake(f"{rule}; got `{label}`, the label itself")
    paths = {"train": _path("train", train)}
    if valid:
        paths["valid"] = _path("valid", valid)
    if test:
        paths["test"] = _path("test", test)
    if not names:
        schema = _schema(paths["train"])
        names = _features(schema, label)
    if not names:
        rule = f"has columns of numbers beside `{label}`, or lists of them that `columns` names"
        raise Mistake(f"{paths['train']}: {rule}")
    return {split: _columns(path, names, label) for split, path in paths.items()}


def _distinct(name: str, value: object) -> list[str]:
    """Distinct texts in a list, or one text."""
    if isinstance(value, str):
        return [value]
    mistake = Mistake(f"`{name}` is a list of distinct names of columns; got {value!r}")
    if not isinstance(value, list | tuple):
        raise mistake
    texts: list[Any] = list(value)
    if not all(isinstance(text, str) for text in texts):
        raise mistake
    distinct = set(texts)
    if len(distinct) != len(texts):
        raise mistake
    return texts


def _schema(path: Path) -> Any:
    """The columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except (pa.ArrowException, OSError) as error:
        why = str(error).splitlines()[0]
        raise Mistake(f"{path}: is a Parquet file; got: {why}") from None


def _features(schema: Any, label: str) -> list[str]:
    """Columns of numbers, but the label, and but the index of the pandas table that was written:
    that numbers the rows.
    """
    try:
        about = schema.pandas_metadata or {}
        index = about.get("index_columns", [])
    except (ValueError, AttributeError):  # it is some other program's
        index = []
    names: list[str] = []
    for field in schema:
        name = field.name
        if name == label or name in index:
            continue
        if _is_number(field.type):
            names.append(name)
    return names


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)


def _columns(
    path: Path,
    names: Sequence[str],
    label: str,
) -> tuple[np.ndarray | Table, np.ndarray]:
    """Inputs (n, d) and labels (n,) in a Parquet file, of the type that they have there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(path)
    for name in (*names, label):
        if name not in schema.names:
            raise Mistake(f"{path}: no column `{name}`;{hint(name, schema.names)}")
        count = schema.names.count(name)
        if count > 1:
            raise Mistake(f"{path}: a column has a name of its own; got {count} columns `{name}`")
    try:
        table = pq.read_table(path, columns=[*names, label])
    except (pa.ArrowException, OSError) as error:
        raise Mistake(f"{path}: cannot be read ({raised(error)})") from None
    for name in (*names, label):
        nulls = table[name].null_count
        if nulls:
            raise Mistake(f"{path}: column `{name}` has a value in each row; got {nulls} nulls")
    labels = table[label].to_numpy()
    first = names[0]
    if len(names) == 1 and _is_list(schema.field(first).type):
        return _rows(path, first, table[first]), labels
    for name in names:
        kind = schema.field(name).type
        if not _is_number(kind):
            rule = "`columns` names columns of numbers, or one of lists of numbers"
            raise Mistake(f"{path}: {rule}; got `{name}` of type {kind}")
    columns = [table[name].to_numpy() for name in names]
    inputs = Table(np.stack(columns, 1), names)
    return inputs, labels


def _is_list(kind: Any) -> bool:
    """Whether values are lists of numbers."""
    from pyarrow import types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list:
        return False
    return _is_number(kind.value_type)


def _rows(path: Path, name: str, column: Any) -> np.ndarray:
    """A column of lists of numbers as an array (n, d)."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported
    row_lengths = pc.list_value_length(column)
    lengths = pc.unique(row_lengths).to_pylist()
    values = pc.list_flatten(column)
    if len(lengths) > 1:
        some = sorted(lengths)[:3]
        shown = ", ".join(map(str, some))
        raise Mistake(f"{path}: lists in `{name}` are equally long; got lengths {shown}")
    if values.null_count:
        raise Mistake(f"{path}: lists in `{name}` hold numbers; got {values.null_count} nulls")
    length = 0
    if lengths:
        length = lengths[0]
    chunks = pa.chunked_array(values)
    flat = chunks.to_numpy()
    return flat.reshape(len(column), length)


def _pixels(image: Any, size: int, mode: str) -> np.ndarray:
    """A Pillow image as an array (channels, height, width), resized and converted first; palettes
    become colours.
    """
    from PIL.Image import Resampling

    if not mode:
        mode = image.mode
        if mode == "P":
            mode = "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if size:
        image = image.resize((size, size), Resampling.BILINEAR)
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return pixels[None]
    return pixels.transpose(2, 0, 1)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Mistake(f"`{name}` is text; got {value!r}")
    return value


def _path(name: str, value: object) -> Path:
    text = _text(name, value)
    path = Path(os.path.expandvars(text))
    return path.expanduser()


def _folder(name: str, value: object) -> Path:
    place = _path(name, value)
    if not place.is_dir():
        raise Mistake(f"no folder {place}")
    return place


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise Mistake(f"`{name}` is true or false; got {value!r}")
    return value


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        rule = "`size` is a whole number of pixels, or 0 to leave images as they are"
        raise Mistake(f"{rule}; got {value!r}")
    return value


DATASETS: dict[str, Callable[..., Arrays]] = {
    "digits": digits,
    "features": features,
    "folder": folder,
    "idx": idx,
    "npz": npz,
    "parquet": parquet,
    "torchvision": torchvision,
}
