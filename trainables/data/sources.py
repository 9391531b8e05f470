"""What a data set returned, checked: arrays, or inputs that are read when they are reached."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...analysis.rows.mistake import Mistake
from ..models import raised
from . import doubts
from .readers import Lazy

SPLITS = ("train", "valid", "test")


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
        first = _example(source, 0)
        return Guarded(source, first.shape, first.dtype, split)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> np.ndarray:
        example = _example(self.source, row)
        is_alike = example.shape == self.shape and example.dtype == self.dtype
        if not is_alike:
            first = f"{self.shape} {self.dtype}"
            other = f"{example.shape} {example.dtype}"
            got = f"{first} and, in row {row}, {other}"
            raise Mistake(f"inputs have one shape and type; got {got}")
        alone = example[None]
        doubts.check_numbers(f"split {self.split}", alone, row=row)
        return example


def _example(source: Lazy, row: int) -> np.ndarray:
    try:
        return np.asarray(source[row])
    except Mistake:
        raise
    except Exception as error:  # anybody's code
        why = raised(error)
        raise Mistake(f"row {row} of the inputs cannot be read; it raised {why}") from error


Source = np.ndarray | Guarded
"""Inputs (n, ...) as they were read, or a sequence of n."""

Split = tuple[Source, np.ndarray]
"""Inputs, and labels (n,) int64."""


@dataclasses.dataclass(frozen=True)
class Sources:
    """A data set as it was returned: its splits by name, the shape of an input, and names of
    features (d,), if they have any.
    """

    splits: Mapping[str, Split]
    shape: tuple[int, ...]
    names: Sequence[str]


def fetch(source: Source, rows: np.ndarray) -> np.ndarray:
    """The examples of `source` at rows, one after the other, as they are stored: (rows.size,
    *shape).
    """
    if isinstance(source, np.ndarray):
        return source[rows.ravel()]
    examples: list[np.ndarray] = []
    for row in rows.ravel():
        example = source[int(row)]
        examples.append(example)
    return np.stack(examples)


def check_sources(where: str, returned: Any) -> Sources:
    """What a data set returned, as sources. Raises Mistake naming what is wrong with it."""
    _check_splits(where, returned)
    splits: dict[str, Split] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    names: Sequence[str] = ()
    for split, pair in returned.items():
        inputs, labels = _split(where, split, pair)
        splits[split] = inputs, labels
        whole_shape = _whole_shape(inputs)
        shapes[split] = whole_shape[1:]
        if split == "train":
            names = _feature_names(pair[0], shapes[split])
    distinct = set(shapes.values())
    if len(distinct) > 1:
        raise Mistake(f"{where}: inputs of all splits have one shape; got {shapes}")
    return Sources(splits, shapes["train"], names)


def _check_splits(where: str, returned: Any) -> None:
    """Refuses what is no mapping of splits with one to train on."""
    rule = f"{where}: is a mapping with a split `train`, and perhaps `valid` and `test`"
    if not isinstance(returned, Mapping):
        got = type(returned).__name__
        raise Mistake(f"{rule}; got {got}")
    known = set(SPLITS)
    if "train" not in returned or not returned.keys() <= known:
        raise Mistake(f"{rule}; got {list(returned)}")


def _split(where: str, split: str, pair: Any) -> Split:
    """A source and whole labels from what a data set returned for a split."""
    place = f"{where}: split {split}"
    try:
        inputs, labels, masked = _arrays(split, pair)
    except Mistake as error:
        raise Mistake(f"{where}: {error}") from error
    except Exception as error:  # anybody's arrays
        raise Mistake(
            f"{place}: is a pair, inputs and labels, that become NumPy arrays; got {raised(error)}"
        ) from error
    if masked:
        raise Mistake(f"{place}: has a value in each place; got an array with masked ones")
    shape = _whole_shape(inputs)
    doubts.check_types(place, inputs.dtype, shape)
    if len(shape) < 2:
        raise Mistake(f"{place}: inputs are numbers (n, ...); got {inputs.dtype} {shape}")
    if not shape[0]:
        raise Mistake(f"{place}: has one example at least; got none")
    if labels.shape != shape[:1]:
        raise Mistake(f"{place}: has one label for each input; got {labels.shape} for {shape}")
    if not math.prod(shape):
        raise Mistake(f"{place}: an input has one number or more; got shape {shape[1:]}")
    if isinstance(inputs, np.ndarray):
        # In one piece and in the byte order of this machine, which is what torch takes.
        native = inputs.dtype.newbyteorder("=")
        inputs = np.ascontiguousarray(inputs, native)
    whole_labels = doubts.whole_labels(place, labels)
    return inputs, whole_labels


def _arrays(split: str, pair: Any) -> tuple[Source, np.ndarray, bool]:
    """Inputs and labels, and whether either of them had masked values."""
    given, given_labels = pair
    if _is_lazy(given) and len(given):
        inputs: Source = Guarded.of(given, split)
    else:
        inputs = np.asarray(given)
    masked = np.ma.is_masked(given) or np.ma.is_masked(given_labels)
    labels = np.asarray(given_labels)
    return inputs, labels, masked


def _whole_shape(inputs: Source) -> tuple[int, ...]:
    if isinstance(inputs, Guarded):
        return (len(inputs), *inputs.shape)
    return inputs.shape


def _feature_names(given: Any, shape: tuple[int, ...]) -> Sequence[str]:
    """Names of the features of inputs of this shape, if what holds them has `columns`, as a table
    has.
    """
    try:
        columns = getattr(given, "columns", ())
        names = [str(name) for name in columns]
    except Exception:  # anybody's code
        return ()
    if shape != (len(names),):
        return ()
    return names


def _is_lazy(inputs: Any) -> bool:
    """Whether inputs are read one by one when they are reached."""
    if isinstance(inputs, list | tuple | str | bytes | Mapping):
        return False
    if hasattr(inputs, "__array__"):
        return False
    return hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")
