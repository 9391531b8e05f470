"""The splits of a data set: read, doubted, carved out where they are missing, standardised, named
by a digest.

A data set is a callable that returns inputs and labels by split name: `train`, and `valid` and
`test` if it has them; what is missing is carved out of `train` by a permutation drawn from a
published seed. Inputs are standardised on the device with the training split's mean and deviation,
per channel (images) or per feature (vectors). They live there, or stream to it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from ...analysis.rows.mistake import Mistake
from ..models import call
from ..training import draws
from ..training.memory import free_bytes
from . import doubts, share
from .changes import AS_IT_IS, Changes
from .dataset import Data
from .readers import DATASETS
from .sources import Guarded, Source, Sources, Split, check_sources, fetch
from .stream import Stream

TEST_SHARE, VALID_SHARE = 0.2, 0.15
"""Shares of what is there that are carved out where a data set has no test or validation split."""

SAMPLE_NUMBERS = 1 << 28
"""Mean and deviation are taken over all training examples, or over as many, drawn once for all, as
have so many numbers.
"""

GLIMPSE_EXAMPLES = 256
"""Examples of a split, evenly spread, that enter the digest of inputs that are read when they are
reached.
"""

RESIDENT_SHARE = 0.5
"""Share of the device's free memory that a data set may take before it streams."""


def load_data(
    name: str,
    options: Mapping[str, Any],
    split_seed: int,
    dtype: torch.dtype,
    device: torch.device,
    stream: str = "auto",
    changes: Changes = AS_IT_IS,
) -> Data:
    """The data set `name` (a key of DATASETS or a dotted path) on `device`, or streaming to it;
    read once per process.

    stream: always, never, or auto, if it takes more than RESIDENT_SHARE of the device's free
    memory.  changes: of the training split.  Raises Mistake naming what is wrong with the data.
    """
    key = share.key(name, options, split_seed, dtype, changes)
    may_be_shared = stream != "always"
    if may_be_shared and share.is_given(key):
        return share.unpack(key, device)
    return _load(*key, device, stream)


@functools.lru_cache(maxsize=2)
def _load(
    name: str,
    options: str,
    split_seed: int,
    dtype: torch.dtype,
    changes: Changes,
    device: torch.device,
    stream: str,
) -> Data:
    where = f"dataset {name}"
    given: dict[str, Any] = json.loads(options)
    returned = call("dataset", name, DATASETS, **given)
    sources = check_sources(where, returned)
    try:
        data = _prepared(sources, split_seed, dtype, changes, device, stream)
    except Mistake as error:
        raise Mistake(f"{where}: {error}") from error
    cautions = [f"{where}: {caution}" for caution in data.cautions]
    return dataclasses.replace(data, cautions=tuple(cautions))


def _prepared(
    sources: Sources,
    split_seed: int,
    dtype: torch.dtype,
    changes: Changes,
    device: torch.device,
    stream: str,
) -> Data:
    """The data of `sources`, with all splits; cautions do not say yet which data set they are
    about.
    """
    given_labels = _labels(sources.splits)
    classes = doubts.count_classes(given_labels)
    glimpses: dict[str, np.ndarray] = {}
    for split, (x, _) in sources.splits.items():
        glimpses[split] = _glimpse(x)
    # Before anything is carved out: rows are the user's.
    cautions = _doubted(sources, glimpses, dtype)
    digest = _digest(sources.splits, glimpses)
    splits = _completed(sources.splits, split_seed)
    splits["train"] = _changed(splits["train"], changes, classes, split_seed)
    cautions += doubts.missing_classes(_labels(splits), classes)
    train, _ = splits["train"]
    mean, scale = _standard(train, sources.shape, dtype)
    device_mean = mean.to(device)
    device_scale = scale.to(device)
    labels: dict[str, Tensor] = {}
    streams: dict[str, Stream] = {}
    for split, (x, whole_labels) in splits.items():
        host_labels = torch.from_numpy(whole_labels)
        labels[split] = host_labels.to(device)
        streams[split] = Stream(x, device_mean, device_scale)
    inputs: Mapping[str, Tensor | Stream] = streams
    examples = sum(len(y) for y in labels.values())
    numbers = math.prod(sources.shape) * examples
    size = numbers * dtype.itemsize
    if not _must_stream(stream, size, device):
        inputs = {split: _resident(x, sources.shape) for split, x in streams.items()}
    return Data(
        inputs=inputs,
        labels=labels,
        shape=sources.shape,
        classes=classes,
        digest=digest,
        mean=mean,
        scale=scale,
        cautions=tuple(cautions),
    )


def _labels(splits: Mapping[str, Split]) -> dict[str, np.ndarray]:
    of_splits: dict[str, np.ndarray] = {}
    for split, (_, labels) in splits.items():
        of_splits[split] = labels
    return of_splits


def _must_stream(stream: str, size: int, device: torch.device) -> bool:
    """Whether inputs of so many bytes stay where they are."""
    if stream == "auto":
        room = RESIDENT_SHARE * free_bytes(device)
        return size > room
    return stream == "always"


def _resident(x: Stream, shape: tuple[int, ...]) -> Tensor:
    """All inputs of a stream, on its device."""
    count = len(x.source)
    rows = torch.arange(count)
    return x.whole(rows, shape)


def _standard(
    source: Source,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """What is subtracted from inputs, and what they are divided by then: (1, ...) each, on the
    CPU.
    """
    sample = _sample(source, shape, dtype)
    across = [dim for dim in range(sample.ndim) if dim != 1]
    mean = sample.mean(across, keepdim=True)
    deviation = sample.std(across, keepdim=True)
    scale = torch.where(deviation > 0, deviation, 1.0)
    return mean, scale


def _sample(source: Source, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The training examples that give mean and deviation, as they are, on the CPU: the same
    wherever the data set lives.
    """
    count = len(source)
    numbers = math.prod(shape)
    most = max(1, SAMPLE_NUMBERS // numbers)
    rows = torch.arange(count)
    if count > most:
        seed = torch.tensor(0)
        key = draws.key(seed, "sample")
        order = draws.permutation(key, count)
        drawn = order[:most]
        rows = drawn.sort().values
    zero = torch.zeros((), dtype=dtype)
    one = torch.ones((), dtype=dtype)
    unchanged = Stream(source, zero, one)
    return unchanged.whole(rows, shape)


def _doubted(
    sources: Sources,
    glimpses: Mapping[str, np.ndarray],
    dtype: torch.dtype,
) -> list[str]:
    """Cautions about inputs; those that cannot be meant are refused."""
    names = sources.names
    kind = np.dtype(str(dtype).removeprefix("torch."))
    cautions: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    for split, (x, labels) in sources.splits.items():
        where = f"split {split}"
        known = glimpses[split]
        is_array = isinstance(x, np.ndarray)
        if is_array:
            # Those that are read when they are reached are looked at then.
            doubts.check_numbers(where, x, names)
            arrays[split] = x
        else:
            rows = doubts.spread(len(x), GLIMPSE_EXAMPLES)
            labels = labels[rows]
        if known.ndim != 2:
            continue
        cautions += doubts.doubt_marks(where, known, names)
        if split == "train":
            cautions += doubts.doubt_columns(known, labels, names, kind, is_array)
    train = arrays.pop("train", None)
    if train is None or not arrays:
        return cautions
    cautions += doubts.doubt_overlap(train, arrays)
    return cautions


def _glimpse(source: Source) -> np.ndarray:
    """Inputs that are known at once: all of an array; GLIMPSE_EXAMPLES of those that are read when
    they are reached.
    """
    if isinstance(source, np.ndarray):
        return source
    rows = doubts.spread(len(source), GLIMPSE_EXAMPLES)
    return fetch(source, rows)


def _digest(
    splits: Mapping[str, Split],
    glimpses: Mapping[str, np.ndarray],
) -> str:
    """Names the data: 16 hexadecimal digits of a hash of all arrays.

    Of inputs that are read when they are reached, which would cost an epoch: their own `digest`, if
    they have one (of image folders: the files' names and sizes), and GLIMPSE_EXAMPLES examples.
    """
    digest = hashlib.sha256()
    for split in sorted(splits):
        x, labels = splits[split]
        if isinstance(x, Guarded):
            own = str(getattr(x.source, "digest", ""))
            digest.update(own.encode())
        glimpse = glimpses[split]
        for array in (glimpse, labels):
            head = f"{split}{array.dtype}{array.shape}"
            digest.update(head.encode())
            values = np.ascontiguousarray(array)
            digest.update(values.data)
    return digest.hexdigest()[:16]


def _completed(given: Mapping[str, Split], seed: int) -> dict[str, Split]:
    """The splits, with what is missing of them carved out of `train`. Raises Mistake if that has
    too few examples.
    """
    splits = dict(given)
    for split, share_of_train in (("test", TEST_SHARE), ("valid", VALID_SHARE)):
        if split in splits:
            continue
        train, carved = _carve(splits["train"], share_of_train, seed, split)
        _, carved_labels = carved
        if not len(carved_labels):
            raise Mistake(f"has a split `{split}`, or enough examples in `train` to carve it out")
        splits["train"] = train
        splits[split] = carved
    return splits


def _carve(
    train: Split,
    share_of_train: float,
    seed: int,
    split: str,
) -> tuple[Split, Split]:
    """What is left of the training split, and what is carved out of it."""
    _, labels = train
    count = len(labels)
    key = draws.key(torch.tensor(seed), "split", split)
    order = draws.permutation(key, count)
    size = round(share_of_train * count)
    carved, rest = np.split(order.numpy(), [size])
    left = _part(train, rest)
    taken = _part(train, carved)
    return left, taken


def _changed(train: Split, changes: Changes, classes: int, seed: int) -> Split:
    """The training split as a study wants it."""
    if changes == AS_IT_IS:
        return train
    _, labels = train
    rows, changed_labels = changes.apply(labels, classes, seed)
    inputs, _ = _part(train, rows)
    return inputs, changed_labels


def _part(pair: Split, rows: np.ndarray) -> Split:
    """The examples at rows."""
    inputs, labels = pair
    part_labels = labels[rows]
    if isinstance(inputs, np.ndarray):
        return inputs[rows], part_labels
    subset: Any = Subset(inputs, rows.tolist())  # type: ignore[arg-type]
    part = dataclasses.replace(inputs, source=subset)
    return part, part_labels
