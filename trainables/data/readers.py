"""Data sets by name: what reads files into arrays.

A data set is a callable that returns, by split name (`train`, and `valid` and `test` if it has
them), inputs and labels. Paths may hold environment variables and ~; relative ones start from the
folder in which the command runs. Nothing is unpickled but what torchvision has checked against its
own list of checksums.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
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
            return _pixels(self.dataset[row][0], self.size, self.mode)
        except (
            Exception
        ) as error:  # Pillow raises a dozen kinds of errors for what it cannot decode
            samples = getattr(self.dataset, "samples", None)
            name = samples[row][0] if samples else f"image {row}"
            raise Mistake(
                f"{name}: not an image that can be decoded ({type(error).__name__})"
            ) from None


def digits() -> Arrays:
    """scikit-learn's digits: 1797 grey images, 1 x 8 x 8, 10 classes (UCI optical recognition of
    handwritten digits).
    """
    images, labels = _digits()
    return {"train": (images.reshape(-1, 1, 8, 8), labels)}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn's `load_digits` returns, from its file: its import takes two seconds."""
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1], table[:, -1].astype(int)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.asarray(images), np.asarray(labels)


def idx(root: str) -> Arrays:
    """Grey images in the four IDX files of the MNIST family, plain or with .gz, in the folder
    `root`.

    They are named train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k- for the test split,
    which may be missing.
    """
    folder, found = _folder("root", root), {}
    for split, prefix in {"train": "train", "test": "t10k"}.items():
        paths = [
            _plain_or_gz(folder / f"{prefix}-{kind}-ubyte")
            for kind in ("images-idx3", "labels-idx1")
        ]
        if split == "test" and not any(path.exists() for path in paths):
            continue
        images, labels = _idx(paths[0], 3), _idx(paths[1], 1)
        if len(images) != len(labels):
            raise Mistake(
                f"{paths[1]}: has a label for each of the {len(images)} images; got {len(labels)}"
            )
        found[split] = (images[:, None], labels)
    return found


def _plain_or_gz(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.exists() and not path.exists() else path


def _idx(path: Path, dimensions: int) -> np.ndarray:
    """The array in an IDX file of unsigned bytes: two zero bytes, type, number of dimensions,
    extents (big-endian), values.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise Mistake(f"{path}: cannot be read ({raised(error)})") from None
    if content[:4] != bytes((0, 0, 8, dimensions)):
        rule = f"an IDX file of unsigned bytes in {dimensions} dimensions begins with 00 00 08 0{dimensions}"
        raise Mistake(f"{path}: {rule}; got {content[:4].hex(' ') or 'an empty file'}")
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[place : place + 4], "big") for place in range(4, start, 4)]
    values = content[start:]
    if len(content) < start:
        raise Mistake(f"{path}: has a header of {start} bytes; got {len(content)}")
    if len(values) != np.prod(shape, dtype=object):
        raise Mistake(
            f"{path}: holds as many bytes as its header says, {' x '.join(map(str, shape))}; got {len(values)}"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def npz(path: str) -> Arrays:
    """Arrays in a NumPy archive: x_train and y_train, and the same with _valid and _test if it has
    them.

    Inputs are taken as they are, (n, ...): images are (n, channels, height, width).
    """
    file = _path("path", path)
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in names}
    except FileNotFoundError:
        raise Mistake(f"no file {file}") from None
    except Exception as error:  # NumPy raises a dozen kinds of errors for what it cannot read
        raise Mistake(
            f"{file}: is a NumPy archive (.npz) of arrays of numbers; {raised(error)}"
        ) from None
    pairs = {split: (f"x_{split}", f"y_{split}") for split in ("train", "valid", "test")}
    known = [name for pair in pairs.values() for name in pair]
    for name in arrays:
        if name not in known:
            raise Mistake(f"{file}: `{name}` is no array of a data set;{hint(name, known)}")
    present = {
        split: pair
        for split, pair in pairs.items()
        if split == "train" or arrays.keys() & set(pair)
    }
    for name in (name for pair in present.values() for name in pair):
        if name not in arrays:
            raise Mistake(f"{file}: `{name}` is missing; it has {', '.join(arrays) or 'no arrays'}")
    return {split: (arrays[x], arrays[y]) for split, (x, y) in present.items()}


def folder(root: str, size: int = 0, grey: bool = False) -> Arrays:
    """Image files in a folder for each class, inside root/train and, if there, root/valid (or val)
    and root/test; or in `root`.

    Classes are numbered in the order of their folders' names.  size: images are resized to size x
    size, whatever their shape; 0 leaves them, and then all have one shape.  grey: one channel
    instead of three.  Decoded when they are reached.
    """
    top, size, mode = _folder("root", root), _size(size), "L" if _flag("grey", grey) else "RGB"
    places = {"train": top / "train", "valid": top / "valid", "test": top / "test"}
    if not places["valid"].exists():
        places["valid"] = top / "val"
    found = {split: place for split, place in places.items() if place.exists()}
    if "train" not in found:
        if found:
            raise Mistake(
                f"{top}: has a folder `train` beside {', '.join(place.name for place in found.values())}"
            )
        found = {"train": top}
    datasets = {split: _image_folder(place) for split, place in found.items()}
    for split, dataset in datasets.items():
        if dataset.classes != datasets["train"].classes:
            odd = sorted(set(dataset.classes) ^ set(datasets["train"].classes))
            raise Mistake(
                f"{found[split]}: has the classes of {found['train']}; only one of them has {', '.join(odd[:5])}"
            )
    return {
        split: (
            Images(dataset, size, mode, _names_and_sizes(found[split], dataset)),
            np.asarray(dataset.targets),
        )
        for split, dataset in datasets.items()
    }


def _image_folder(place: Path) -> Any:
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(place)
    except FileNotFoundError as error:
        why = str(error).splitlines()[0]
        raise Mistake(f"{place}: holds a folder of images for each class; got: {why}") from None


def _names_and_sizes(place: Path, dataset: Any) -> str:
    files = [(os.path.relpath(path, place), os.path.getsize(path)) for path, _ in dataset.samples]
    return hashlib.sha256(repr(files).encode()).hexdigest()


def torchvision(
    name: str, root: str, download: bool = False, size: int = 0, **options: Any
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

    place, size, download = _path("root", root), _size(size), _flag("download", download)
    kind: Any = getattr(known, _text("name", name), None)
    # LSUN unpickles a file that nothing has checked.
    if name not in known.__all__ or not isinstance(kind, type) or name.startswith("LSUN"):
        raise Mistake(
            f"`name` is a data set of torchvision for classification, such as CIFAR10; got {name!r}"
        )
    takes = _arguments(kind)
    if "download" in takes:
        options["download"] = download
    elif download:
        raise Mistake(f"`download` is nothing that torchvision's {name} can do; got true")
    if "train" in takes and "train" not in options:
        splits: Mapping[str, Sequence[Any]] = {"train": (True,), "test": (False,)}
        asked = "train"
    elif "split" in takes and "split" not in options:
        splits, asked = (
            {"train": ("train", "trainval"), "valid": ("val", "valid"), "test": ("test",)},
            "split",
        )
    else:
        splits, asked = {"train": (None,)}, ""
    found: dict[str, tuple[np.ndarray | Lazy, np.ndarray]] = {}
    for split, words in splits.items():
        for word in words:
            try:
                dataset = kind(str(place), **options, **({asked: word} if asked else {}))
            except ValueError as error:  # it has no such split
                if split == "train" and word == words[-1]:
                    raise Mistake(str(error)) from None
                continue
            except (RuntimeError, OSError) as error:
                cure = (
                    "; `download = true` would fetch it"
                    if "download" in takes and not download
                    else ""
                )
                raise Mistake(
                    f"torchvision's {name} is not whole in {place} ({raised(error)}){cure}"
                ) from None
            found[split] = _arrays(dataset, size)
            break
    return found


def _arguments(kind: type) -> set[str]:
    """Names of the arguments of a class and of those that it inherits from."""
    codes = [
        parent.__init__.__code__ for parent in kind.__mro__ if hasattr(parent.__init__, "__code__")
    ]
    return {
        name
        for code in codes
        for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    }


def _arrays(dataset: Any, size: int) -> tuple[np.ndarray | Lazy, np.ndarray]:
    """Inputs and labels of a torchvision data set; labels that it does not list are read with the
    images.
    """
    lists = (getattr(dataset, name, None) for name in ("targets", "labels"))
    labels = next((found for found in lists if found is not None), None)
    if labels is None:
        labels = [dataset[row][1] for row in range(len(dataset))]
    images = Images(dataset, size, "")
    whole = hasattr(dataset, "data")
    return (np.stack([images[row] for row in range(len(images))]) if whole else images), np.asarray(
        labels
    )


def parquet(train: str, test: str = "", image: str = "image", label: str = "label") -> Arrays:
    """Images as encoded bytes in Parquet files, the layout of Hugging Face image data sets:
    `image{bytes, path}`, `label`.

    train, test: paths.  image, label: names of the columns.
    """
    for name, value in {"image": image, "label": label}.items():
        _text(name, value)
    paths = {"train": _path("train", train), **({"test": _path("test", test)} if test else {})}
    return {split: _decode(path, image, label) for split, path in paths.items()}


def _decode(path: Path, image: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rule = f"a Parquet file has the columns `{image}`, with a field `bytes`, and `{label}`"
    try:
        table = pq.read_table(path, columns=[image, label])
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise Mistake(f"{path}: {rule}; got: {str(error).splitlines()[0]}") from None
    kind, labels = table.schema.field(image).type, table[label].to_numpy()
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise Mistake(f"{path}: {rule}; got `{image}` of type {kind}")
    encoded = pa.chunked_array(table[image]).combine_chunks().field("bytes").to_pylist()
    images = []
    for row, code in enumerate(encoded):
        try:
            images.append(_pixels(Image.open(io.BytesIO(code)), 0, ""))
        except Exception:  # Pillow raises a dozen kinds of errors for what it cannot decode
            raise Mistake(
                f"{path}: row {row} of `{image}`: not an image that can be decoded"
            ) from None
    if len({pixels.shape for pixels in images}) != 1:
        shapes = sorted({pixels.shape for pixels in images})
        raise Mistake(
            f"{path}: images have one shape; got {', '.join(map(str, shapes[:3])) or 'no images'}"
        )
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
    given = [columns] if isinstance(columns, str) else columns
    if (
        not isinstance(given, list | tuple)
        or not all(isinstance(name, str) for name in given)
        or len(set(given)) < len(given)
    ):
        raise Mistake(f"`columns` is a list of distinct names of columns; got {columns!r}")
    if _text("label", label) in given:
        raise Mistake(
            f"`columns` are what the label is to be found from; got `{label}`, the label itself"
        )
    paths = {"train": _path("train", train)}
    paths |= {
        split: _path(split, place)
        for split, place in {"valid": valid, "test": test}.items()
        if place
    }
    names = list(given) or _features(_schema(paths["train"]), label)
    if not names:
        raise Mistake(
            f"{paths['train']}: has columns of numbers beside `{label}`, or lists of them that `columns` names"
        )
    return {split: _columns(path, names, label) for split, path in paths.items()}


def _schema(path: Path) -> Any:
    """The columns of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise Mistake(f"{path}: is a Parquet file; got: {str(error).splitlines()[0]}") from None


def _features(schema: Any, label: str) -> list[str]:
    """Columns of numbers, but the label, and but the index of the pandas table that was written:
    that numbers the rows.
    """
    try:
        index = (schema.pandas_metadata or {}).get("index_columns", [])
    except (ValueError, AttributeError):  # it is some other program's
        index = []
    return [
        field.name
        for field in schema
        if _number(field.type) and field.name != label and field.name not in index
    ]


def _number(kind: Any) -> bool:
    import pyarrow as pa

    return any(
        check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    )


def _columns(path: Path, names: Sequence[str], label: str) -> tuple[np.ndarray | Table, np.ndarray]:
    """Inputs (n, d) and labels (n,) in a Parquet file, of the type that they have there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(path)
    for name in (*names, label):
        if name not in schema.names:
            raise Mistake(f"{path}: no column `{name}`;{hint(name, schema.names)}")
        if (count := schema.names.count(name)) > 1:
            raise Mistake(f"{path}: a column has a name of its own; got {count} columns `{name}`")
    try:
        table = pq.read_table(path, columns=[*names, label])
    except (pa.ArrowException, OSError) as error:
        raise Mistake(f"{path}: cannot be read ({raised(error)})") from None
    for name in (*names, label):
        if table[name].null_count:
            raise Mistake(
                f"{path}: column `{name}` has a value in each row; got {table[name].null_count} nulls"
            )
    labels = table[label].to_numpy()
    if len(names) == 1 and _lists(schema.field(names[0]).type):
        return _rows(path, names[0], table[names[0]]), labels
    for name in names:
        if not _number(kind := schema.field(name).type):
            rule = "`columns` names columns of numbers, or one of lists of numbers"
            raise Mistake(f"{path}: {rule}; got `{name}` of type {kind}")
    return Table(np.stack([table[name].to_numpy() for name in names], 1), names), labels


def _lists(kind: Any) -> bool:
    import pyarrow as pa

    known = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in known) and _number(kind.value_type)


def _rows(path: Path, name: str, column: Any) -> np.ndarray:
    """A column of lists of numbers as an array (n, d)."""
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported
    lengths, values = pc.unique(pc.list_value_length(column)).to_pylist(), pc.list_flatten(column)
    if len(lengths) > 1:
        shown = ", ".join(map(str, sorted(lengths)[:3]))
        raise Mistake(f"{path}: lists in `{name}` are equally long; got lengths {shown}")
    if values.null_count:
        raise Mistake(f"{path}: lists in `{name}` hold numbers; got {values.null_count} nulls")
    return pa.chunked_array(values).to_numpy().reshape(len(column), *lengths or [0])


def _pixels(image: Any, size: int, mode: str) -> np.ndarray:
    """A Pillow image as an array (channels, height, width), resized and converted first; palettes
    become colours.
    """
    from PIL.Image import Resampling

    mode = mode or ("RGB" if image.mode == "P" else image.mode)
    image = image if image.mode == mode else image.convert(mode)
    pixels = np.asarray(image.resize((size, size), Resampling.BILINEAR) if size else image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Mistake(f"`{name}` is text; got {value!r}")
    return value


def _path(name: str, value: object) -> Path:
    return Path(os.path.expandvars(_text(name, value))).expanduser()


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
        raise Mistake(
            f"`size` is a whole number of pixels, or 0 to leave images as they are; got {value!r}"
        )
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
