"""Data sets on the device: splits, standardisation, augmentation, streaming, digest.

A data set is a callable that returns inputs and labels by split name: `train`, and `valid` and
`test` if it has them; what is missing is carved out of `train` by a permutation drawn from a
published seed. Inputs are standardised on the device with the training split's mean and deviation,
per channel (images) or per feature (vectors). They live there, or stream to it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ...analysis.rows.mistake import Mistake
from ..models import call, raised
from ..training import draws
from ..training.memory import free_bytes
from . import doubts
from .readers import DATASETS, Lazy

TEST_SHARE, VALID_SHARE = 0.2, 0.15
"""Shares of what is there that are carved out where a data set has no test or validation split."""

SAMPLE = 1 << 28
"""Mean and deviation are taken over all training examples, or over as many, drawn once for all, as
have so many numbers.
"""

GLIMPSE = 256
"""Examples read at a time; and how many of a split, evenly spread, enter the digest of inputs that
are read when reached.
"""

RESIDENT_SHARE = 0.5
"""Share of the device's free memory that a data set may take before it streams."""

PADDING = 4
"""Pixels by which a crop may be shifted, in each direction."""

AUGMENTATIONS = ("crop", "flip")


@dataclasses.dataclass(frozen=True)
class Guarded:
    """Inputs that are read when they are reached, whatever they are: arrays of one shape and type,
    of numbers that can be meant, or a Mistake."""

    source: Lazy
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    split: str

    @staticmethod
    def of(source: Lazy, split: str) -> Guarded:
        """`source`, with the shape and type of its first example."""
        first = _read(source, 0)
        return Guarded(source, first.shape, first.dtype, split)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> np.ndarray:
        found = _read(self.source, row)
        if (found.shape, found.dtype) != (self.shape, self.dtype):
            got = f"{self.shape} {self.dtype} and, in row {row}, {found.shape} {found.dtype}"
            raise Mistake(f"inputs have one shape and type; got {got}")
        doubts.numbers(f"split {self.split}", found[None], row=row)
        return found


def _read(source: Lazy, row: int) -> np.ndarray:
    try:
        return np.asarray(source[row])
    except Mistake:
        raise
    except Exception as error:  # anybody's code
        raise Mistake(
            f"row {row} of the inputs cannot be read; it raised {raised(error)}"
        ) from error


Source = np.ndarray | Guarded
"""Inputs (n, ...) as they were read, or a sequence of n."""

Split = tuple[Source, np.ndarray]


class Stream:
    """Inputs that stay where they are: read, brought to the device and standardised for the rows
    that are asked for.

    source: an array (n, *shape), or a sequence of n arrays.  mean, scale: (1, ...), broadcastable
    to it, on the device.
    """

    def __init__(self, source: Source, mean: Tensor, scale: Tensor) -> None:
        self.source, self.mean, self.scale = source, mean, scale

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Examples at rows (int64 of any shape): (*rows.shape, *shape)."""
        return self._standardised(read(self.source, rows.cpu().numpy()), rows)

    def feed(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Examples for each of `rows`, in turn, through torch's DataLoader.

        Where reading is more than a copy, as many processes as torch has threads read ahead.
        """
        asked, again = itertools.tee(rows)
        loader: Iterable[np.ndarray | Mistake] = DataLoader(
            _Batches(self.source),  # type: ignore[arg-type]
            sampler=(each.cpu().numpy() for each in asked),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=0 if isinstance(self.source, np.ndarray) else torch.get_num_threads(),
            collate_fn=_as_they_are,
            generator=torch.Generator(),  # or it would draw from torch's global one
        )
        for found, each in zip(loader, again, strict=True):
            if isinstance(found, Mistake):
                raise found
            yield self._standardised(found, each)

    def _standardised(self, found: np.ndarray, rows: Tensor) -> Tensor:
        x = torch.from_numpy(found).to(self.mean.device).to(self.mean.dtype)
        return ((x - self.mean) / self.scale).view(*rows.shape, *x.shape[1:])


@dataclasses.dataclass(frozen=True)
class _Batches:
    """A source in the form that DataLoader takes: an index is an array of rows."""

    source: Source

    def __getitem__(self, rows: np.ndarray) -> np.ndarray | Mistake:
        try:
            return read(self.source, rows)
        except Mistake as error:
            return (
                error  # raised in another process it would come back inside the text of a traceback
            )


def _as_they_are(batch: Any) -> Any:
    """As arrays: tensors would come from other processes through shared memory, of which containers
    often have little.
    """
    return batch


def read(source: Source, rows: np.ndarray) -> np.ndarray:
    """The examples of `source` at rows, one after the other, as they are stored: (rows.size,
    *shape).
    """
    if isinstance(source, np.ndarray):
        return source[rows.ravel()]
    return np.stack([source[int(row)] for row in rows.ravel()])


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set: split name -> inputs (n, *shape), standardised, on the device or streaming to it;
    labels (n,) int64 there.

    mean, scale: (1, ...), broadcastable to inputs, on the CPU: what was subtracted from them, and
    then divided by.
    cautions: a sentence about each thing that may be wrong with the data.
    """

    inputs: Mapping[str, Tensor | Stream]
    labels: Mapping[str, Tensor]
    shape: tuple[int, ...]  # of one input
    classes: int
    digest: str
    mean: Tensor
    scale: Tensor
    cautions: tuple[str, ...] = ()

    def examples(self, split: str, rows: Tensor) -> Tensor:
        """Inputs at rows (int64 of any shape): (*rows.shape, *shape)."""
        x, rows = self.inputs[split], rows.to(self.labels[split].device)
        return (
            x.index_select(0, rows.flatten()).view(*rows.shape, *self.shape)
            if isinstance(x, Tensor)
            else x[rows]
        )

    def feed(self, rows: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of training examples for each of `rows`, in turn; a data set that
        streams is read ahead.
        """
        x, labels = self.inputs["train"], self.labels["train"]
        if isinstance(x, Tensor):
            return ((self.examples("train", each), labels[each]) for each in rows)
        asked, again = itertools.tee(rows)
        return ((found, labels[each]) for found, each in zip(x.feed(asked), again, strict=True))

    def parts(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All inputs and labels of a split in order, `size` at a time."""
        x, labels = self.inputs[split], self.labels[split]
        if isinstance(x, Tensor):
            return zip(x.split(size), labels.split(size), strict=True)
        return zip(x.feed(torch.arange(len(labels)).split(size)), labels.split(size), strict=True)


def augment(x: Tensor, kinds: Sequence[str], key: Tensor) -> Tensor:
    """Images with each of `kinds` of augmentation, the same for equal keys.

    x: (U, B, channels, height, width), standardised.  key: (U,).  crop: PADDING zeros around an
    image, of which a window of the old size is cut out at random.  flip: left and right are
    exchanged, with probability 1/2.
    """
    batch, (height, width) = tuple(x.shape[:2]), x.shape[-2:]
    if "crop" in kinds:
        padded = F.pad(x.flatten(0, 1), (PADDING,) * 4)
        windows = padded.unfold(2, height, 1).unfold(
            3, width, 1
        )  # (U B, channels, top, left, height, width), a view
        top, left = (
            (draws.uniform(draws.key(key, "crop"), (batch[1], 2)) * (2 * PADDING + 1))
            .long()
            .view(-1, 2)
            .T
        )
        x = windows[torch.arange(len(padded), device=x.device), :, top, left].view(x.shape)
    if "flip" in kinds:
        flipped = draws.uniform(draws.key(key, "flip"), batch[1:]) < 0.5
        x = torch.where(flipped[..., None, None, None], x.flip(-1), x)
    return x


def load(
    name: str,
    options: Mapping[str, Any],
    split_seed: int,
    dtype: torch.dtype,
    device: torch.device,
    stream: str = "auto",
) -> Data:
    """The data set `name` (a key of DATASETS or a dotted path) on `device`, or streaming to it;
    read once per process.

    stream: always, never, or auto, if it takes more than RESIDENT_SHARE of the device's free
    memory. Raises Mistake naming what is wrong with the data.
    """
    key = name, json.dumps(options, sort_keys=True), split_seed, dtype
    return (
        _given(*key, device)
        if key in _GIVEN and stream != "always"
        else _load(*key, device, stream)
    )


Packed = Mapping[str, Any]
"""A data set as arrays, which processes of one machine can share."""
_GIVEN: dict[tuple[str, str, int, torch.dtype], Packed] = {}


def pack(found: Data) -> Packed | None:
    """`found` as arrays for `give`; None if it streams."""
    if any(isinstance(x, Stream) for x in found.inputs.values()):
        return None
    arrays = {
        part: {split: x.numpy(force=True) for split, x in getattr(found, part).items()}
        for part in ("inputs", "labels")
    }
    standard = {"mean": found.mean.numpy(), "scale": found.scale.numpy()}
    about = {name: getattr(found, name) for name in ("shape", "classes", "digest", "cautions")}
    return {**arrays, **standard, **about}


def give(
    name: str, options: Mapping[str, Any], split_seed: int, dtype: torch.dtype, packed: Packed
) -> None:
    """Let `load` use what another process read and packed, instead of reading files that may not be
    on this machine.
    """
    key = name, json.dumps(options, sort_keys=True), split_seed, dtype
    if key not in _GIVEN:
        _GIVEN.clear()  # one study at a time
        _GIVEN[key] = packed


@functools.lru_cache(maxsize=2)
def _given(
    name: str, options: str, split_seed: int, dtype: torch.dtype, device: torch.device
) -> Data:
    packed = _GIVEN[name, options, split_seed, dtype]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The given NumPy array is not writable"
        )  # nothing writes to it
        tensors = {
            part: {split: torch.from_numpy(x).to(device) for split, x in packed[part].items()}
            for part in ("inputs", "labels")
        }
        standard = torch.from_numpy(packed["mean"]), torch.from_numpy(packed["scale"])
    about = packed["shape"], packed["classes"], packed["digest"]
    return Data(tensors["inputs"], tensors["labels"], *about, *standard, packed["cautions"])


@functools.lru_cache(maxsize=2)
def _load(
    name: str, options: str, split_seed: int, dtype: torch.dtype, device: torch.device, stream: str
) -> Data:
    where = f"dataset {name}"
    splits, shape, names = _checked(where, call("dataset", name, DATASETS, **json.loads(options)))
    try:
        classes = doubts.classes({split: y for split, (_, y) in splits.items()})
        glimpses = {split: _glimpse(x) for split, (x, _) in splits.items()}
        cautions = _doubted(splits, glimpses, names, dtype)
        digest = _digest(splits, glimpses)
        for split, share in (("test", TEST_SHARE), ("valid", VALID_SHARE)):
            if split not in splits:
                splits["train"], splits[split] = _carve(splits["train"], share, split_seed, split)
                if not len(splits[split][1]):
                    raise Mistake(
                        f"has a split `{split}`, or enough examples in `train` to carve it out"
                    )
        cautions += doubts.lacking({split: y for split, (_, y) in splits.items()}, classes)
        sample = _sample(splits["train"][0], shape, dtype)
        across = [dim for dim in range(sample.ndim) if dim != 1]
        mean, deviation = sample.mean(across, keepdim=True), sample.std(across, keepdim=True)
        del sample
        scale = torch.where(deviation > 0, deviation, 1.0)
        streams = {
            split: Stream(x, mean.to(device), scale.to(device)) for split, (x, _) in splits.items()
        }
        numbers = math.prod(shape) * sum(len(y) for _, y in splits.values())
        streaming = stream == "always" or (
            stream == "auto" and numbers * dtype.itemsize > RESIDENT_SHARE * free_bytes(device)
        )
        labels = {split: torch.from_numpy(y).to(device) for split, (_, y) in splits.items()}
        inputs: Mapping[str, Tensor | Stream] = (
            streams
            if streaming
            else {
                split: _whole(streams[split], torch.arange(len(y)), shape)
                for split, y in labels.items()
            }
        )
    except Mistake as error:
        raise Mistake(f"{where}: {error}") from error
    told = tuple(f"{where}: {caution}" for caution in cautions)
    return Data(inputs, labels, shape, classes, digest, mean, scale, told)


def _whole(stream: Stream, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Examples of a stream at rows, increasing, on its device: filled in parts, never a second copy
    of all.
    """
    x, end = torch.empty((len(rows), *shape), dtype=stream.mean.dtype, device=stream.mean.device), 0
    for part in stream.feed(rows.split(GLIMPSE)):
        begin, end = end, end + len(part)
        x[begin:end] = part
    return x


def _sample(source: Source, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The training examples that give mean and deviation, as they are, on the CPU: the same
    wherever the data set lives.
    """
    count, most = len(source), max(1, SAMPLE // math.prod(shape))
    rows = (
        draws.permutation(draws.key(torch.tensor(0), "sample"), count)[:most]
        if count > most
        else torch.arange(count)
    )
    return _whole(
        Stream(source, torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype)),
        rows.sort().values,
        shape,
    )


def _doubted(
    splits: Mapping[str, Split],
    glimpses: Mapping[str, np.ndarray],
    names: Sequence[str],
    dtype: torch.dtype,
) -> list[str]:
    """Cautions about inputs; those that cannot be meant are refused. Before anything is carved out:
    rows are the user's.
    """
    cautions = []
    for split, (x, labels) in splits.items():
        where = f"split {split}"
        known = glimpses[split]
        if isinstance(x, np.ndarray):
            doubts.numbers(
                where, x, names
            )  # those that are read when they are reached are looked at then
        if known.ndim == 2:
            cautions += doubts.marks(where, known, names)
        if known.ndim == 2 and split == "train":
            kind = np.dtype(str(dtype).removeprefix("torch."))
            theirs = labels if isinstance(x, np.ndarray) else labels[doubts.spread(len(x), GLIMPSE)]
            cautions += doubts.columns(known, theirs, names, kind, isinstance(x, np.ndarray))
    arrays = {split: x for split, (x, _) in splits.items() if isinstance(x, np.ndarray)}
    if "train" in arrays and len(arrays) > 1:
        train = arrays.pop("train")
        cautions += doubts.shared(train, arrays)
    return cautions


def _glimpse(source: Source) -> np.ndarray:
    """Inputs that are known at once: all of an array; GLIMPSE of those that are read when they are
    reached.
    """
    return (
        source
        if isinstance(source, np.ndarray)
        else read(source, doubts.spread(len(source), GLIMPSE))
    )


def _digest(splits: Mapping[str, Split], glimpses: Mapping[str, np.ndarray]) -> str:
    """Names the data: 16 hexadecimal digits of a hash of all arrays.

    Of inputs that are read when they are reached, which would cost an epoch: their own `digest`, if
    they have one (of image
    folders: the files' names and sizes), and GLIMPSE examples.
    """
    digest = hashlib.sha256()
    for split in sorted(splits):
        x, labels = splits[split]
        if isinstance(x, Guarded):
            digest.update(str(getattr(x.source, "digest", "")).encode())
        for array in (glimpses[split], labels):
            digest.update(f"{split}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _checked(where: str, found: Any) -> tuple[dict[str, Split], tuple[int, ...], Sequence[str]]:
    """What a data set returned, the shape of an input, and names of features, if it has any.

    Raises Mistake naming what is wrong with it.
    """
    splits = ("train", "valid", "test")
    if not isinstance(found, Mapping) or "train" not in found or not found.keys() <= set(splits):
        got = list(found) if isinstance(found, Mapping) else type(found).__name__
        raise Mistake(
            f"{where}: is a mapping with a split `train`, and perhaps `valid` and `test`; got {got}"
        )
    checked: dict[str, Split] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    names: Sequence[str] = ()
    for split, pair in found.items():
        place = f"{where}: split {split}"
        try:
            given, labels = pair
            inputs = Guarded.of(given, split) if _lazy(given) and len(given) else np.asarray(given)
            hidden = [np.ma.is_masked(part) for part in (given, labels)]
            labels = np.asarray(labels)
        except Mistake as error:
            raise Mistake(f"{where}: {error}") from error
        except Exception as error:  # anybody's arrays
            raise Mistake(
                f"{place}: is a pair, inputs and labels, that become NumPy arrays; got {raised(error)}"
            ) from error
        if any(hidden):
            raise Mistake(f"{place}: has a value in each place; got an array with masked ones")
        shape = (len(inputs), *inputs.shape) if isinstance(inputs, Guarded) else inputs.shape
        doubts.kinds(place, inputs.dtype, shape)
        if len(shape) < 2:
            raise Mistake(f"{place}: inputs are numbers (n, ...); got {inputs.dtype} {shape}")
        if not shape[0]:
            raise Mistake(f"{place}: has one example at least; got none")
        if labels.shape != shape[:1]:
            raise Mistake(f"{place}: has one label for each input; got {labels.shape} for {shape}")
        if not math.prod(shape):
            raise Mistake(f"{place}: an input has one number or more; got shape {shape[1:]}")
        checked[split], shapes[split] = (
            (_native(inputs), doubts.whole_labels(place, labels)),
            shape[1:],
        )
        names = _columns(given, shape) if split == "train" else names
    if len(set(shapes.values())) > 1:
        raise Mistake(f"{where}: inputs of all splits have one shape; got {shapes}")
    return checked, shapes["train"], names


def _columns(given: Any, shape: tuple[int, ...]) -> Sequence[str]:
    """Names of the features of inputs (n, d), if what holds them has `columns`, as a table has."""
    try:
        names = [str(name) for name in getattr(given, "columns", ())]
    except Exception:  # anybody's code
        return ()
    return names if len(names) == shape[1] and len(shape) == 2 else ()


def _lazy(inputs: Any) -> bool:
    """Whether inputs are read one by one when they are reached."""
    has = all(hasattr(inputs, name) for name in ("__len__", "__getitem__"))
    return (
        has
        and not isinstance(inputs, list | tuple | str | bytes | Mapping)
        and not hasattr(inputs, "__array__")
    )


def _native(inputs: Source) -> Source:
    """An array in one piece and in the byte order of this machine, which is what torch takes."""
    return (
        np.ascontiguousarray(inputs, inputs.dtype.newbyteorder("="))
        if isinstance(inputs, np.ndarray)
        else inputs
    )


def _carve(pair: Split, share: float, seed: int, split: str) -> tuple[Split, Split]:
    """What is left and what is carved out of (inputs, labels)."""
    inputs, labels = pair
    order = draws.permutation(draws.key(torch.tensor(seed), "split", split), len(labels)).numpy()
    out, rest = np.split(order, [round(share * len(labels))])

    def taken(rows: np.ndarray) -> Split:
        if isinstance(inputs, np.ndarray):
            return inputs[rows], labels[rows]
        return dataclasses.replace(inputs, source=Subset(inputs, rows.tolist())), labels[rows]  # type: ignore[arg-type]

    return taken(rest), taken(out)
