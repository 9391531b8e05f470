"""Inputs that stay where they are, on disk or in memory, and stream to the device."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ...analysis.rows.mistake import Mistake
from .sources import Source, fetch

PART_EXAMPLES = 256
"""Examples that are read at a time where all of them are."""


class Stream:
    """Inputs that stay where they are: read, brought to the device and standardised for the rows
    that are asked for.

    source: an array (n, *shape), or a sequence of n arrays.  mean, scale: (1, ...), broadcastable
    to it, on the device.
    """

    def __init__(self, source: Source, mean: Tensor, scale: Tensor) -> None:
        self.source = source
        self.mean = mean
        self.scale = scale

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Examples at rows (int64 of any shape): (*rows.shape, *shape)."""
        host_rows = rows.cpu().numpy()
        batch = fetch(self.source, host_rows)
        return self._standardised(batch, rows)

    def feed(self, rows: Iterable[Tensor]) -> Iterator[Tensor]:
        """Examples for each of `rows`, in turn, through torch's DataLoader.

        Where reading is more than a copy, as many processes as torch has threads read ahead.
        """
        asked, again = itertools.tee(rows)
        readers = 0
        if not isinstance(self.source, np.ndarray):
            readers = torch.get_num_threads()
        loader: Iterable[np.ndarray | Mistake] = DataLoader(
            _Batches(self.source),  # type: ignore[arg-type]
            sampler=(chosen.cpu().numpy() for chosen in asked),  # type: ignore[arg-type]
            batch_size=None,
            num_workers=readers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # or it would draw from torch's global one
        )
        for batch, chosen in zip(loader, again, strict=True):
            if isinstance(batch, Mistake):
                raise batch
            yield self._standardised(batch, chosen)

    def whole(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Examples (rows, *shape) at increasing rows, on the device: filled in parts, never a
        second copy of all.
        """
        all_of_them = (len(rows), *shape)
        mean = self.mean
        examples = torch.empty(all_of_them, dtype=mean.dtype, device=mean.device)
        begin = 0
        parts = rows.split(PART_EXAMPLES)
        for part in self.feed(parts):
            end = begin + len(part)
            examples[begin:end] = part
            begin = end
        return examples

    def _standardised(self, batch: np.ndarray, rows: Tensor) -> Tensor:
        x = torch.from_numpy(batch)
        x = x.to(self.mean.device, non_blocking=True)
        x = x.to(self.mean.dtype)
        centred = x - self.mean
        standard = centred / self.scale
        shape = x.shape[1:]
        return standard.view(*rows.shape, *shape)


@dataclasses.dataclass(frozen=True)
class _Batches:
    """A source in the form that DataLoader takes: an index is an array of rows."""

    source: Source

    def __getitem__(self, rows: np.ndarray) -> np.ndarray | Mistake:
        try:
            return fetch(self.source, rows)
        except Mistake as error:
            # Raised in another process it would come back inside the text of a traceback.
            return error


def _as_it_is(batch: Any) -> Any:
    """As arrays: tensors would come from other processes through shared memory, of which containers
    often have little.
    """
    return batch
