"""Data sets in a folder, recognised by names and headers: nothing is decoded, nothing unpickled."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import itertools
import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FOLDERS, ENTRIES, DEPTH = 1000, 20_000, 4
"""What is looked through at most: folders, names in each, levels below the folder that was given."""

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SPLITS = ("train", "valid", "val", "test")
TORCHVISION = {
    "CIFAR10": ("cifar-10-batches-py", ("test_batch", *(f"data_batch_{number}" for number in range(1, 6)))),
    "CIFAR100": ("cifar-100-python", ("train", "test")),
    "SVHN": (".", ("train_32x32.mat", "test_32x32.mat")),
}
"""Name of a data set of torchvision -> the folder below its root, the files in it."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A data set and the options of [task] that read it, or a file that is none, and why."""

    path: Path
    what: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    advice: str = ""

    @property
    def task(self) -> str:
        """The lines of [task] that read it, TOML."""
        return "\n".join(f"{key} = {quoted(value)}" for key, value in self.options.items())


def quoted(text: str) -> str:
    """A TOML string; control characters are escaped, so it is also safe to show."""
    escape = re.compile("[\x7f-\x9f\u2028\u2029]")  # what JSON leaves as it is, and a terminal or an editor may not
    return escape.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def find(folder: Path) -> Iterator[Found]:
    """Data sets in `folder` and below, nearest first. Hidden folders are left out, links are followed once."""
    waiting, seen = [(Path(os.path.abspath(folder)), 0)], set[tuple[int, int]]()
    while waiting:
        here, depth = waiting.pop(0)
        try:
            stat = here.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            if len(seen) == FOLDERS:
                yield Found(
                    folder, f"only its first {FOLDERS:,} folders were looked into", advice="give a deeper one with --data"
                )
                return
            seen.add((stat.st_dev, stat.st_ino))
            names = _names(here)
        except OSError as error:
            yield Found(here, f"cannot be looked into ({error.strerror})")
            continue
        folders = [name for name in names if os.path.isdir(here / name) and not name.startswith(".")]
        files = [name for name in names if os.path.isfile(here / name)]
        taken: set[str] = set()
        for found in (*_torchvision(here), *_image_folder(here, folders, taken), *_idx(here, files),
                      *_parquet(here, files), *_npz(here, files)):  # fmt: skip
            yield _nameable(found)
        if depth < DEPTH:
            waiting += [(here / name, depth + 1) for name in folders if name not in taken]


def _names(folder: Path, most: int = ENTRIES) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in itertools.islice(entries, most))


def _nameable(found: Found) -> Found:
    """`found` with paths below $PRUNEFRONT_DATA written so; without options if a study file cannot name its path."""
    base = os.environ.get("PRUNEFRONT_DATA", "")
    options = dict(found.options)
    for key, value in found.options.items():
        if not value.startswith("/"):
            continue
        if base and Path(value).is_relative_to(os.path.abspath(base)):
            below = Path(value).relative_to(os.path.abspath(base))
            options[key] = f"$PRUNEFRONT_DATA/{below}" if below.parts else "$PRUNEFRONT_DATA"
        if os.path.abspath(os.path.expandvars(options[key])) != value or not _is_text(value):
            return Found(found.path, f"{found.what}, but a study file cannot name its path", advice="rename it")
    return dataclasses.replace(found, options=options)


def _is_text(name: str) -> bool:
    """Whether a name is Unicode: names of files are bytes, and those that are not UTF-8 arrive as lone surrogates."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)


def _torchvision(here: Path) -> Iterator[Found]:
    for name, (folder, files) in TORCHVISION.items():
        missing = [file for file in files if not os.path.isfile(here / folder / file)]
        options = {"dataset": "torchvision", "name": name, "root": str(here)}
        if len(missing) == len(files):
            continue
        if missing:
            yield Found(here / folder, f"{name} without {', '.join(missing)}", advice="download it again")
        elif importlib.util.find_spec("torchvision") is None:
            yield Found(here / folder, f"{name}, which torchvision reads", options, "python -m pip install torchvision")
        else:
            yield Found(here / folder, f"{name} of torchvision", options)


def _image_folder(here: Path, folders: Sequence[str], taken: set[str]) -> Iterator[Found]:
    """A folder of images by split and class, or by class; adds the folders that belong to it to `taken`."""
    splits = {split: _classes(here / split) for split in SPLITS if split in folders}
    if splits.get("train"):
        count, used = splits["train"], [split for split, classes in splits.items() if classes]
        what = f"images in folders: {', '.join(used)}; {count} classes"
    elif count := _classes(here):
        what, used = f"images in folders: {count} classes", folders
    else:
        return
    taken.update(used)
    yield Found(here, what, {"dataset": "folder", "root": str(here)})


def _classes(folder: Path) -> int:
    """How many classes a folder holds: two or more folders, each with images; else 0."""
    try:
        below = [folder / name for name in _names(folder) if os.path.isdir(folder / name)]
        full = all(any(name.lower().endswith(IMAGES) for name in _names(path, 50)) for path in below)
    except OSError:
        return 0
    return len(below) if full and len(below) > 1 else 0


def _idx(here: Path, files: Sequence[str]) -> Iterator[Found]:
    def shape(split: str, kind: str) -> tuple[int, ...] | None:
        name = f"{split}-{kind}-ubyte"
        there = [file for file in (name, f"{name}.gz") if file in files]
        return idx_shape(here / there[0]) if there else None

    counts = []
    try:
        for split in ("train", "t10k"):
            images, labels = shape(split, "images-idx3"), shape(split, "labels-idx1")
            if images is None or labels is None:
                continue
            if images[:1] != labels:
                yield Found(
                    here, f"IDX files: {images[0]:,} images but {labels[0]:,} labels in {split}", advice="download again"
                )
                return
            counts.append(f"{split} {images[0]:,} of {' x '.join(map(str, images[1:]))}")
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        yield Found(here, f"IDX files that cannot be read ({raised(error)})", advice="download them again")
        return
    if counts and counts[0].startswith("train"):
        yield Found(here, f"IDX images: {', '.join(counts)}", {"dataset": "idx", "root": str(here)})


def idx_shape(path: Path) -> tuple[int, ...]:
    """The shape that the header of an IDX file of bytes states. Raises ValueError if it is none or is cut short."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        zero, kind, dims = struct.unpack(">HBB", file.read(4))
        if zero or kind != 8:
            raise ValueError(f"{quoted(path.name)} does not begin like an IDX file of bytes")
        shape = struct.unpack(f">{dims}I", file.read(4 * dims))
    size = path.stat().st_size
    if path.suffix != ".gz" and size != (right := 4 + 4 * dims + math.prod(shape)):
        raise ValueError(f"{quoted(path.name)} has {size:,} bytes instead of {right:,}")
    return shape


def _parquet(here: Path, files: Sequence[str]) -> Iterator[Found]:
    known: dict[str, tuple[int, dict[str, str]]] = {}
    for name in files:
        if name.endswith(".parquet"):
            try:
                known[name] = _columns(here / name)
            except ImportError:
                raise
            except _Other as error:
                yield Found(here / name, f"no data set: {error}")
            except Exception as error:  # pyarrow raises a dozen kinds of errors for what it cannot read
                yield Found(here / name, f"cannot be read ({raised(error)})", advice="download it again")
    partner = {name: name.replace("train", "test") for name in known if "train" in name}
    tests = {test for train, test in partner.items() if test in known and known[test][1] == known[train][1]}
    for name, (rows, columns) in known.items():
        if name in tests:
            continue
        what, options = f"images in Parquet: {rows:,}", {"dataset": "parquet", "train": str(here / name)}
        if (test := partner.get(name)) in tests:
            what, options["test"] = f"{what}; {known[test][0]:,} in {quoted(test)}", str(here / test)
        yield Found(here / name, what, options | columns)


class _Other(Exception):
    """A file that can be read and is no data set."""


def _columns(path: Path) -> tuple[int, dict[str, str]]:
    """Rows of a Parquet file, and the options that name its columns, where those are not the ordinary ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    images = [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    labels = [f.name for f in schema if pa.types.is_integer(f.type)]
    if not images or not labels:
        raise _Other("no column of images (a struct with `bytes`) or none of labels (whole numbers)")
    chosen = {"image": next((n for n in ("image", "img") if n in images), images[0]),
              "label": next((n for n in ("label", "fine_label") if n in labels), labels[0])}  # fmt: skip
    return rows, {key: value for key, value in chosen.items() if value != key}


def _npz(here: Path, files: Sequence[str]) -> Iterator[Found]:
    for name in files:
        if not name.endswith(".npz"):
            continue
        try:
            shapes = _shapes(here / name)
        except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            yield Found(here / name, f"cannot be read ({raised(error)})", advice="write it again with numpy.savez")
            continue
        known = {split: {f"x_{split}", f"y_{split}"} for split in ("train", "valid", "test")}
        there = [split for split, pair in known.items() if pair <= shapes.keys()]
        if "train" not in there:
            yield Found(here / name, "no data set: no arrays `x_train` and `y_train`")
        elif odd := sorted(shapes.keys() - set().union(*(known[split] for split in there))):
            what = f"arrays that are no pair of `x_` and `y_` with train, valid or test: {', '.join(map(quoted, odd))}"
            yield Found(here / name, what, advice="store it without them")
        elif odd := [key for key, shape in shapes.items() if shape == "objects"]:
            what = f"arrays of Python objects, which are never unpickled: {', '.join(map(quoted, odd))}"
            yield Found(here / name, what, advice="store numbers in them")
        else:
            what = ", ".join(f"{split} {shapes[f'x_{split}']}" for split in there)
            yield Found(here / name, f"arrays: {what}", {"dataset": "npz", "path": str(here / name)})


def _shapes(path: Path) -> dict[str, str]:
    """Array name -> its shape in words, or "objects". Only headers are read."""
    from numpy.lib import format as npy

    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(file)
            found[member.removesuffix(".npy")] = "objects" if dtype.hasobject else " x ".join(f"{n:,}" for n in shape)
    return found


def raised(error: Exception) -> str:
    """An exception on one line. (That of `trainables.models` needs torch, which may be what is missing.)"""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
