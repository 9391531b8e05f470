"""Where a study's files are: a folder of this machine, or any location that pyarrow.fs reaches.

A file is complete or absent in both. On this machine it is written under a temporary name and
renamed; elsewhere it is written here and put in one go, which object stores show when it is whole;
of others (hdfs://) a kill may leave a part. With `table`, this is all that `trainables` imports of
the package.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fnmatch
import functools
import os
import re
import shutil
import tempfile
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from .mistake import Mistake

AT_ONCE = 16
"""Requests to a remote location that wait for their answers at the same time."""
PART = 1 << 26
"""Bytes that a download asks for at a time."""
ONE_PUT = "allow_delayed_open=true"
"""What pyarrow is told of S3: a small object in one request. By itself it makes three."""
PATIENCE = "retry_limit_seconds=10"
"""What pyarrow is told of Google's store, where it tries for 15 minutes by itself; S3 is given up
after some 6 seconds.
"""
OPTIONS = {"s3": ONE_PUT, "gs": PATIENCE, "gcs": PATIENCE}
FORM = (
    "a location is SCHEME://PLACE/PATH, its credentials in the environment or in the provider's "
    "own files"
)
KNOWN = (
    "a location is a path or a URI that pyarrow.fs knows, such as s3://, gs://, abfs:// or hdfs://"
)
REACHABLE = "a location can be reached from this machine"
NOISE = r"^\[Errno \d+\] |[;.] Details?: .*$| \(Request ID: \S*\)"
"""What pyarrow says beside what went wrong."""
TEMPORARY = re.compile(r"[.-][0-9a-f]{32}$")
"""How the name of a temporary file ends."""
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, order=True)
class Remote:
    """A file or folder at a location of pyarrow.fs, with those methods of `pathlib.Path` that
    studies need.

    root: scheme and place, `s3://bucket`.  key: the path below it, `runs/digits`.  options: what
    follows `?` in its URI. Folders come with the files in them. Methods raise OSError
    (FileNotFoundError and so on) whose `strerror` is one sentence.
    """

    root: str
    key: str
    options: str = ""

    def __str__(self) -> str:
        """The URI, from which `locate` makes it again."""
        options = ""
        if self.options:
            options = f"?{self.options}"
        path = urllib.parse.quote(self.key)
        return f"{self.root}/{path}{options}"

    def __truediv__(self, name: str) -> Remote:
        key = f"{self.key}/{name}"
        return dataclasses.replace(self, key=key.strip("/"))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.key).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        """What follows the last dot of the name, with the dot."""
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> Remote:
        """The folder that it is in."""
        folder, _, _ = self.key.rpartition("/")
        return dataclasses.replace(self, key=folder)

    def exists(self) -> bool:
        """Whether there is a file, or a folder with a file in it."""
        return self._kind() != fs.FileType.NotFound

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self._kind() == fs.FileType.File

    def is_dir(self) -> bool:
        """Whether it is a folder with a file in it."""
        return self._kind() == fs.FileType.Directory

    def read_bytes(self) -> bytes:
        """The content of the file."""
        with self._reached() as (system, path), system.open_input_stream(path) as file:
            return file.read()

    def read_text(self) -> str:
        """The content of the file, UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        """Make it a file with this content, at once."""
        with atomic(self) as temporary:
            temporary.write_bytes(content)

    def write_text(self, content: str) -> None:
        """Make it a file with this content, UTF-8, at once."""
        self.write_bytes(content.encode())

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders come with the files in them."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            with self._reached() as (system, path):
                system.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: str | Remote) -> None:
        """Move the file to `target`, a location of the same root."""
        place = target if isinstance(target, Remote) else _parsed(target)
        _, goal = _opened(place)
        with self._reached() as (system, path):
            system.move(path, goal)

    def glob(self, pattern: str) -> list[Remote]:
        """Files and folders right in the folder whose names match `pattern`, in order; one listing.
        None if it is absent.
        """
        with self._reached() as (system, path):
            selector = fs.FileSelector(path, allow_not_found=True)
            entries = system.get_file_info(selector)
        names = [entry.base_name for entry in entries]
        matching = fnmatch.filter(names, pattern)
        return sorted(self / name for name in matching)

    def iterdir(self) -> list[Remote]:
        """Files and folders right in the folder."""
        return self.glob("*")

    def _kind(self) -> fs.FileType:
        with self._reached() as (system, path):
            info = system.get_file_info(path)
            return info.type

    @contextlib.contextmanager
    def _reached(self) -> Iterator[tuple[fs.FileSystem, str]]:
        """The file system and the path in it; what goes wrong there is said in one sentence."""
        try:
            yield _opened(self)
        except (pa.ArrowException, OSError) as error:
            number = getattr(error, "errno", None) or errno.EIO
            raise OSError(number, _sentence(error), str(self)) from None


Location = Path | Remote
"""Where a file or folder of a study is."""
Where = str | os.PathLike[str] | Remote
"""What names a location; public functions take it and ask `locate`."""


def locate(where: Where) -> Location:
    """The location that `where` names: a URI (`s3://bucket/runs`; also `gs://`, `abfs://`,
    `hdfs://`), or a path.

    Nothing is asked of a server yet, but for the region of a bucket where none is set. Raises
    Mistake if it is no URI that pyarrow knows.
    """
    if isinstance(where, Remote):
        return where
    text = os.fspath(where)
    is_uri = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text)
    if not is_uri:
        return Path(text)
    parsed = _parsed(text)
    system, path = _opened(parsed)
    if isinstance(system, fs.LocalFileSystem):
        return Path(path)
    return parsed


def _parsed(uri: str) -> Remote:
    parts = urllib.parse.urlsplit(uri)
    is_local = parts.scheme in ("file", "local")
    placeless = not parts.netloc and not is_local
    if parts.fragment or parts.password or placeless:
        shown = uri.replace(f":{parts.password}@", ":***@")
        raise Mistake(f"{shown}: {FORM}")
    root = f"{parts.scheme}://{parts.netloc}"
    path = urllib.parse.unquote(parts.path)
    key = path.strip("/")
    return Remote(root, key, parts.query)


def _opened(place: Remote) -> tuple[fs.FileSystem, str]:
    """The file system of a location, and the path in it."""
    system, base = _system(place.root, place.options)
    if not base:
        return system, place.key
    folder = base.rstrip("/")
    path = f"{folder}/{place.key}"
    return system, path.rstrip("/")


@functools.cache
def _system(root: str, options: str) -> tuple[fs.FileSystem, str]:
    """The file system behind a root, and the path of the root in it. Raises Mistake if pyarrow does
    not know it.
    """
    scheme, _, _ = root.partition(":")
    needed = OPTIONS.get(scheme)
    parts = [part for part in (options, needed) if part]
    query = ""
    if parts:
        query = "?" + "&".join(parts)
    try:
        return fs.FileSystem.from_uri(f"{root}/{query}")
    except (pa.ArrowException, OSError) as error:
        rule = REACHABLE if isinstance(error, OSError) else KNOWN
        reason = _sentence(error)
        raise Mistake(f"{root}: {rule}; got: {reason}") from None


def _sentence(error: Exception) -> str:
    """What pyarrow says went wrong, without the numbers of requests and of errors that mean nothing
    to a reader.
    """
    said = getattr(error, "strerror", None)
    text = said or str(error) or type(error).__name__
    lines = text.splitlines()
    sentence = re.sub(NOISE, "", lines[0])
    return sentence[:300]


@contextlib.contextmanager
def atomic(path: Where) -> Iterator[Path]:
    """A temporary path on this machine that becomes `path` when the block ends well, and vanishes
    when it does not.

    An OSError names `path`.
    """
    path = locate(path)
    writing = _replacing(path) if isinstance(path, Path) else _uploading(path)
    with writing as temporary:
        yield temporary


@contextlib.contextmanager
def _uploading(path: Remote) -> Iterator[Path]:
    """`atomic` for another location."""
    with _temporary(path) as temporary:
        yield temporary
        # In a thread, which an interrupt does not reach: it would close, and so publish, half a
        # file. Not by pyarrow's `copy_files`, which loses the error of a close (tried on 26).
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_put, path, temporary).result()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """`atomic` for this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:  # which file it was is not always said
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def save(path: Where, content: bytes) -> None:
    """Make `path` a file with this content, complete or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def local(path: Where) -> Iterator[Path]:
    """A path on this machine with the content of the file `path`: itself, or a copy that is removed
    afterwards.
    """
    path = locate(path)
    if isinstance(path, Path):
        yield path
        return
    with _temporary(path) as temporary:
        _fetch(path, temporary)
        yield temporary


def _fetch(path: Remote, target: Path) -> None:
    """Write the content of an object to the local file `target`."""
    with (
        path._reached() as (system, origin),
        system.open_input_stream(origin) as remote,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(remote, copy, PART)


def _put(path: Remote, source: Path) -> None:
    """Make `path` an object with the content of the local file `source`: one write, so that it is
    whole or absent.
    """
    content = source.read_bytes()
    with path._reached() as (system, goal), system.open_output_stream(goal) as remote:
        remote.write(content)


@contextlib.contextmanager
def _temporary(path: Remote) -> Iterator[Path]:
    """A path of that name in a folder of its own, which is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="prunefront-file-") as folder:
        yield Path(folder) / path.name


def source(path: Where) -> Path | pa.BufferReader:
    """What pyarrow reads the file `path` from: itself, or its content, fetched whole."""
    path = locate(path)
    if isinstance(path, Path):
        return path
    return pa.BufferReader(path.read_bytes())


def read_range(path: Where, offset: int, length: int) -> bytes:
    """`length` bytes of the file `path` from `offset` on; fewer where it ends."""
    path = locate(path)
    if isinstance(path, Remote):
        return _remote_range(path, offset, length)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def _remote_range(path: Remote, offset: int, length: int) -> bytes:
    with path._reached() as (system, origin), system.open_input_file(origin) as remote:
        return remote.read_at(length, offset)


def remove_tree(folder: Where) -> None:
    """Remove `folder` with all that is in it, if it is there."""
    folder = locate(folder)
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError), folder._reached() as (system, path):
        system.delete_dir(path)


def sweep(folder: Where) -> None:
    """Remove the temporary files that processes which were killed in the middle of writing left in
    `folder` and its folders.
    """
    folder = locate(folder)
    if isinstance(folder, Remote):
        return
    for pattern in (".*", "*/.*"):
        for path in folder.glob(pattern):
            if TEMPORARY.search(path.name):
                path.unlink(missing_ok=True)


def each(function: Callable[[Location], T], paths: Sequence[Location]) -> list[T]:
    """`function` of each of `paths`, in their order; of remote ones several at a time."""
    remote = any(isinstance(path, Remote) for path in paths)
    if not remote:
        return [function(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = pool.map(function, paths)
        return list(results)
