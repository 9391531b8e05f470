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
from typing import TYPE_CHECKING, Any, NamedTuple

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


def discover(top: str | os.PathLike[str]) -> Iterator[Found]:
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
        classes_folder = here
        if has_train:
            classes_folder = here / "train"
        classes = _classes(classes_folder)
        if classes:
            task = _task("folder", root=here)
            yield Found(here, f"images in folders: {classes} classes", task)
            # What is left of them are other data sets; without splits, all of them are classes.
            others: set[str] = set()
            if has_train:
                others = set(folders) - SPLITS
            folders[:] = others
        for file in sorted(files):
            data_set = _look(here / file)
            if data_set is not None:
                yield data_set
        below = here.relative_to(top)
        if len(below.parts) == MOST_LEVELS:
            folders.clear()
        shown = [folder for folder in folders if not folder.startswith(".")]
        folders[:] = sorted(shown)


def _torchvision(folder: Path) -> Iterator[Found]:
    for title, name in TORCHVISION.items():
        file = folder / name
        if not os.path.isfile(file):
            continue
        task = _task("torchvision", name=title, root=folder)
        what = f"{title} of torchvision"
        yield Found(file.parent, what, task)


def _classes(folder: Path) -> int:
    """How many classes a folder holds: two or more folders, all with images; else 0."""
    _, names, _ = _inside(folder)
    if len(names) < 2:
        return 0
    if not all(_has_image(folder / name) for name in names):
        return 0
    return len(names)


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
    labels_name = images.name.replace("images-idx3", "labels-idx1")
    labels = images.with_name(labels_name)
    if _idx_shape(labels) != (count,):
        raise Mistake(f"there is not one label for each of {count:,} images")
    extents = map(str, size)
    pixels = " x ".join(extents)
    folder = images.parent
    task = _task("idx", root=folder)
    return Found(folder, f"IDX images: {count:,} of {pixels}", task)


def _idx_shape(path: Path) -> tuple[int, ...]:
    """What the header of an IDX file of bytes says."""
    packed = path.suffix == ".gz"
    opened: Any = gzip.open
    if not packed:
        opened = open
    with opened(path, "rb") as file:
        head = file.read(4)
        start, dimensions = struct.unpack(">3sB", head)
        extents = file.read(4 * dimensions)
        shape = struct.unpack(f">{dimensions}I", extents)
    header = 4 + 4 * dimensions
    size = header + math.prod(shape)
    whole = packed or path.stat().st_size == size
    if start != IDX_BYTES or not whole:
        raise Mistake(f"{quoted(path.name)} is no IDX file of bytes, or is cut short")
    return shape


def _npz(path: Path) -> Found | None:
    with zipfile.ZipFile(path) as archive:
        files = archive.namelist()
    names = {name.removesuffix(".npy") for name in files}
    if not names >= {"x_train", "y_train"}:
        return None
    arrays = ", ".join(sorted(names))
    task = _task("npz", path=path)
    return Found(path, f"arrays: {arrays}", task)


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
    if not labels:
        return None
    if train != path and train.is_file():
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
    task = _task("features", **files)
    return Found(path, what, task)


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
    base = os.environ.get("PRUNEFRONT_DATA") or os.devnull
    base = os.path.abspath(base)
    lines = [f"dataset = {quoted(dataset)}"]
    for key, value in options.items():
        if isinstance(value, Path) and value.is_relative_to(base):
            below = value.relative_to(base)
            value = Path("$PRUNEFRONT_DATA", below)
        text = quoted(value)
        lines.append(f"{key} = {text}")
    return "\n".join(lines)


def quoted(text: object) -> str:
    """A TOML string; line breaks and other control characters are escaped."""
    return json.dumps(str(text), ensure_ascii=False)


def raised(error: Exception) -> str:
    """An exception on one line. (That of `trainables.models` needs torch, which may be what is
    missing.)
    """
    first, *_ = str(error).splitlines() or [""]
    kind = type(error).__name__
    return f"{kind}: {first}"
