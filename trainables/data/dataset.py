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

    @property
    def streams(self) -> bool:
        """Whether training inputs stay where they are: the host reads them."""
        return isinstance(self.inputs["train"], Stream)

    def examples(self, split: str, rows: Tensor) -> Tensor:
        """Inputs at rows (int64 of any shape): (*rows.shape, *shape)."""
        x = self.inputs[split]
        if isinstance(x, Stream):
            return x[rows]
        flat_rows = rows.flatten().to(x.device, non_blocking=True)
        flat = x.index_select(0, flat_rows)
        return flat.view(*rows.shape, *self.shape)

    def labelled(self, split: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels at rows, as `examples`."""
        labels = self.labels[split]
        places = rows.to(labels.device, non_blocking=True)
        return self.examples(split, rows), labels[places]

    def feed(self, rows: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of training examples for each of `rows`, in turn; a data set that
        streams is read ahead.
        """
        x = self.inputs["train"]
        labels = self.labels["train"]
        if isinstance(x, Tensor):
            for chosen in rows:
                yield self.labelled("train", chosen)
            return
        asked, again = itertools.tee(rows)
        batches = x.feed(asked)
        for batch, chosen in zip(batches, again, strict=True):
            places = chosen.to(labels.device, non_blocking=True)
            yield batch, labels[places]

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
