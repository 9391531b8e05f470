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
from typing import NamedTuple

from ...analysis.rows.mistake import Mistake

FOLDERS, DEPTH = 1000, 4
"""What is looked through at most: folders, and levels of them below the first."""

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TORCHVISION = {"CIFAR10": "cifar-10-batches-py/test_batch", "CIFAR100": "cifar-100-python/test"}
"""Name of a data set of torchvision -> a file of it, below its root."""


class Found(NamedTuple):
    """A data set and the lines of [task] that read it; without lines, a file that is broken."""

    path: Path
    what: str
    task: str = ""


def find(top: str | os.PathLike[str]) -> Iterator[Found]:
    """Data sets in `top` and below. Hidden folders are left out, links are followed once."""
    top, seen = Path(os.path.abspath(top)), set[str]()
    for name, folders, files in os.walk(top, followlinks=True):
        here, real = Path(name), os.path.realpath(name)
        if real in seen or len(seen) == FOLDERS:
            folders.clear()
            continue
        seen.add(real)
        for title, file in TORCHVISION.items():
            if os.path.isfile(here / file):
                yield Found(
                    (here / file).parent,
                    f"{title} of torchvision",
                    _task("torchvision", name=title, root=here),
                )
        train = "train" in folders
        if classes := _classes(here / "train" if train else here):
            yield Found(here, f"images in folders: {classes} classes", _task("folder", root=here))
            folders[:] = sorted(set(folders) - {"train", "valid", "val", "test"}) if train else []
        yield from filter(None, map(_look, (here / file for file in sorted(files))))
        deep = len(here.relative_to(top).parts) == DEPTH
        folders[:] = (
            [] if deep else sorted(folder for folder in folders if not folder.startswith("."))
        )


def _classes(folder: Path) -> int:
    """How many classes a folder holds: two or more folders, all with images; else 0."""

    def inside(path: Path) -> tuple[str, list[str], list[str]]:
        return next(os.walk(path), ("", [], []))

    _, names, _ = inside(folder)
    full = all(
        any(file.lower().endswith(IMAGES) for file in inside(folder / name)[2]) for name in names
    )
    return len(names) if full and len(names) > 1 else 0


def _look(path: Path) -> Found | None:
    try:
        if path.name in ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"):
            return _idx(path)
        return {".npz": _npz, ".parquet": _parquet}.get(path.suffix, lambda _: None)(path)
    except ImportError:
        raise
    except Exception as error:  # pyarrow alone raises a dozen kinds for what it cannot read
        return Found(path, f"cannot be read ({raised(error)})")


def _idx(images: Path) -> Found:
    """The MNIST family, from the file of its training images."""
    count, *size = _shape(images)
    if _shape(images.with_name(images.name.replace("images-idx3", "labels-idx1"))) != (count,):
        raise Mistake(f"there is not one label for each of {count:,} images")
    return Found(
        images.parent,
        f"IDX images: {count:,} of {' x '.join(map(str, size))}",
        _task("idx", root=images.parent),
    )


def _shape(path: Path) -> tuple[int, ...]:
    """What the header of an IDX file of bytes says."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        start, dimensions = struct.unpack(">3sB", file.read(4))
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    if start != b"\0\0\x08" or (
        path.suffix != ".gz" and path.stat().st_size != 4 + 4 * dimensions + math.prod(shape)
    ):
        raise Mistake(f"{quoted(path.name)} is no IDX file of bytes, or is cut short")
    return shape


def _npz(path: Path) -> Found | None:
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    whole = {"x_train", "y_train"} <= names
    return (
        Found(path, f"arrays: {', '.join(sorted(names))}", _task("npz", path=path))
        if whole
        else None
    )


def _parquet(path: Path) -> Found | None:
    """Encoded images, or numbers in columns, and labels; a file named alike, with `test` for
    `train`, belongs to it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    images = [
        f.name
        for f in schema
        if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0
    ]
    labels = [f.name for f in schema if pa.types.is_integer(f.type)]
    train, test = (
        path.with_name(path.name.replace(*words))
        for words in (("test", "train"), ("train", "test"))
    )
    if not labels or (train != path and train.is_file()):
        return None
    tests = {"test": test} if test != path and test.is_file() else {}
    if not images:
        numbers = [
            f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)
        ]
        whole = "label" in labels and len(numbers) > 1
        task = _task("features", train=path, **tests)
        return (
            Found(path, f"features in Parquet: {rows:,} rows, {len(schema):,} columns", task)
            if whole
            else None
        )
    label = next((name for name in ("label", "fine_label") if name in labels), labels[0])
    columns = {
        key: name for key, name in {"image": images[0], "label": label}.items() if name != key
    }
    return Found(
        path, f"images in Parquet: {rows:,}", _task("parquet", train=path, **tests, **columns)
    )


def _task(dataset: str, **options: str | Path) -> str:
    """Lines of [task], TOML; what lies below $PRUNEFRONT_DATA is written so."""
    base = os.path.abspath(os.environ.get("PRUNEFRONT_DATA") or os.devnull)
    for key, value in options.items():
        if isinstance(value, Path) and value.is_relative_to(base):
            options[key] = Path("$PRUNEFRONT_DATA", value.relative_to(base))
    return "\n".join(
        f"{key} = {quoted(value)}" for key, value in {"dataset": dataset, **options}.items()
    )


def quoted(text: object) -> str:
    """A TOML string; line breaks and other control characters are escaped."""
    return json.dumps(str(text), ensure_ascii=False)


def raised(error: Exception) -> str:
    """An exception on one line. (That of `trainables.models` needs torch, which may be what is
    missing.)
    """
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
