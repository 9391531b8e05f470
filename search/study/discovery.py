"""Data sets in a folder, recognised by names and headers: nothing is decoded, nothing unpickled."""

from __future__ import annotations

import gzip
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...analysis.rows.mistake import Mistake

if TYPE_CHECKING:
    import pyarrow as pa

Names = list[str]
MOST_FOLDERS = 1000
"""That are looked through."""
MOST_LEVELS = 4
"""Of folders below the first that are looked through."""
IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = {"train", "valid", "val", "test"}
IDX_IMAGES = ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")
IDX_BYTES = b"\0\0\x08"
"""What an IDX file of bytes begins with."""
TORCHVISION = {"CIFAR10": "cifar-10-batches-py/test_batch", "CIFAR100": "cifar-100-python/test"}
"""Name of a data set of torchvision -> a file of it, below its root."""


class Found(NamedTuple):
    """A data set and the lines of [task] that read it; without lines, a file that is broken."""

    path: Path
    what: str
    task: str = ""


def find(top: str | os.PathLike[str]) -> Iterator[Found]:
    """Data sets in `top` and below. Hidden folders are left out, links are followed once."""
    top = Path(os.path.abspath(top))
    seen: set[str] = set()
    for name, folders, files in os.walk(top, followlinks=True):
        here = Path(name)
        real = os.path.realpath(name)
        if real in seen or len(seen) == MOST_FOLDERS:
            folders.clear()
            continue
        seen.add(real)
        yield from _torchvision(here)
        has_train = "train" in folders
        classes = _classes(here / "train" if has_train else here)
        if classes:
            yield Found(here, f"images in folders: {classes} classes", _task("folder", root=here))
            # What is left of them are other data sets; without splits, all of them are classes.
            folders[:] = set(folders) - SPLITS if has_train else []
        for file in sorted(files):
            data_set = _look(here / file)
            if data_set is not None:
                yield data_set
        if len(here.relative_to(top).parts) == MOST_LEVELS:
            folders.clear()
        shown = [folder for folder in folders if not folder.startswith(".")]
        folders[:] = sorted(shown)


def _torchvision(folder: Path) -> Iterator[Found]:
    for title, name in TORCHVISION.items():
        file = folder / name
        if os.path.isfile(file):
            task = _task("torchvision", name=title, root=folder)
            yield Found(file.parent, f"{title} of torchvision", task)


def _classes(folder: Path) -> int:
    """How many classes a folder holds: two or more folders, all with images; else 0."""
    _, names, _ = _inside(folder)
    if len(names) < 2:
        return 0
    full = all(_has_image(folder / name) for name in names)
    return len(names) if full else 0


def _has_image(folder: Path) -> bool:
    _, _, files = _inside(folder)
    return any(file.lower().endswith(IMAGES) for file in files)


def _inside(folder: Path) -> tuple[str, list[str], list[str]]:
    """A folder, and what is in it: folders, files."""
    for inside in os.walk(folder):
        return inside
    return "", [], []


def _look(path: Path) -> Found | None:
    try:
        if path.name in IDX_IMAGES:
            return _idx(path)
        if path.suffix == ".npz":
            return _npz(path)
        if path.suffix == ".parquet":
            return _parquet(path)
    except ImportError:
        raise
    except Exception as error:  # pyarrow alone raises a dozen kinds for what it cannot read
        return Found(path, f"cannot be read ({raised(error)})")
    return None


def _idx(images: Path) -> Found:
    """The MNIST family, from the file of its training images."""
    count, *size = _idx_shape(images)
    labels = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
    if _idx_shape(labels) != (count,):
        raise Mistake(f"there is not one label for each of {count:,} images")
    pixels = " x ".join(map(str, size))
    task = _task("idx", root=images.parent)
    return Found(images.parent, f"IDX images: {count:,} of {pixels}", task)


def _idx_shape(path: Path) -> tuple[int, ...]:
    """What the header of an IDX file of bytes says."""
    packed = path.suffix == ".gz"
    with gzip.open(path) if packed else path.open("rb") as file:
        start, dimensions = struct.unpack(">3sB", file.read(4))
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    size = 4 + 4 * dimensions + math.prod(shape)
    whole = packed or path.stat().st_size == size
    if start != IDX_BYTES or not whole:
        raise Mistake(f"{quoted(path.name)} is no IDX file of bytes, or is cut short")
    return shape


def _npz(path: Path) -> Found | None:
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    if not names >= {"x_train", "y_train"}:
        return None
    arrays = ", ".join(sorted(names))
    return Found(path, f"arrays: {arrays}", _task("npz", path=path))


def _parquet(path: Path) -> Found | None:
    """Encoded images, or numbers in columns, and labels; a file named alike, with `test` for
    `train`, belongs to it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        rows = file.metadata.num_rows
    images = [field.name for field in schema if _is_image(field)]
    labels = [field.name for field in schema if pa.types.is_integer(field.type)]
    train = path.with_name(path.name.replace("test", "train"))
    test = path.with_name(path.name.replace("train", "test"))
    if not labels or (train != path and train.is_file()):
        return None
    files = {"train": path}
    if test != path and test.is_file():
        files["test"] = test
    if images:
        columns = _image_columns(images, labels)
        task = _task("parquet", **files, **columns)
        return Found(path, f"images in Parquet: {rows:,}", task)
    numbers = [field.name for field in schema if _is_number(field)]
    if "label" not in labels or len(numbers) < 2:
        return None
    what = f"features in Parquet: {rows:,} rows, {len(schema):,} columns"
    return Found(path, what, _task("features", **files))


def _is_image(field: pa.Field) -> bool:
    """Whether a column holds encoded images."""
    from pyarrow import types

    return types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0


def _is_number(field: pa.Field) -> bool:
    from pyarrow import types

    return types.is_floating(field.type) or types.is_integer(field.type)


def _image_columns(images: Names, labels: Names) -> dict[str, str]:
    """The options of [task] that name columns, where they are not the usual ones."""
    label = labels[0]
    for usual in ("fine_label", "label"):
        if usual in labels:
            label = usual
    columns: dict[str, str] = {}
    if images[0] != "image":
        columns["image"] = images[0]
    if label != "label":
        columns["label"] = label
    return columns


def _task(dataset: str, **options: str | Path) -> str:
    """Lines of [task], TOML; what lies below $PRUNEFRONT_DATA is written so."""
    base = os.path.abspath(os.environ.get("PRUNEFRONT_DATA") or os.devnull)
    lines = [f"dataset = {quoted(dataset)}"]
    for key, value in options.items():
        if isinstance(value, Path) and value.is_relative_to(base):
            value = Path("$PRUNEFRONT_DATA", value.relative_to(base))
        lines.append(f"{key} = {quoted(value)}")
    return "\n".join(lines)


def quoted(text: object) -> str:
    """A TOML string; line breaks and other control characters are escaped."""
    return json.dumps(str(text), ensure_ascii=False)


def raised(error: Exception) -> str:
    """An exception on one line. (That of `trainables.models` needs torch, which may be what is
    missing.)
    """
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
