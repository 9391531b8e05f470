"""A data set as training and measuring see it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from .stream import Stream


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
        x = self.inputs[split]
        device = self.labels[split].device
        rows = rows.to(device)
        if isinstance(x, Stream):
            return x[rows]
        flat_rows = rows.flatten()
        flat = x.index_select(0, flat_rows)
        return flat.view(*rows.shape, *self.shape)

    def feed(self, rows: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of training examples for each of `rows`, in turn; a data set that
        streams is read ahead.
        """
        x = self.inputs["train"]
        labels = self.labels["train"]
        if isinstance(x, Tensor):
            for chosen in rows:
                yield self.examples("train", chosen), labels[chosen]
            return
        asked, again = itertools.tee(rows)
        batches = x.feed(asked)
        for batch, chosen in zip(batches, again, strict=True):
            yield batch, labels[chosen]

    def parts(self, split: str, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All inputs and labels of a split in order, `size` at a time."""
        x = self.inputs[split]
        labels = self.labels[split]
        if isinstance(x, Tensor):
            inputs: Iterable[Tensor] = x.split(size)
        else:
            rows = torch.arange(len(labels))
            row_parts = rows.split(size)
            inputs = x.feed(row_parts)
        label_parts = labels.split(size)
        return zip(inputs, label_parts, strict=True)
