"""CUDA graphs: a call on a GPU whose kernels are recorded once and launched together from then
on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Call = Callable[..., object]

WARM = 3
"""Calls before kernels are recorded: the first ones still choose and load them."""


class Captured:
    """A call that writes its results into its first `kept` tensors, in place.

    When these lie elsewhere than before, the call is recorded anew. What others hold is copied to
    where the recorded kernels read it, if they are not the ones that were given before. The first
    ones are not kept alive: a graph is not replayed unless there are such tensors at their place.
    recorder: torch.cuda, or what does the same.
    """

    def __init__(self, call: Call, kept: int, recorder: Any = torch.cuda) -> None:
        self._call = call
        self._kept = kept
        self._recorder = recorder
        self._graph: Any = None
        self._recorded: Sequence[Tensor] = ()
        self._before: Sequence[Tensor] = ()
        self._places: list[int] = []
        self._calls = 0

    def __call__(self, *given: Tensor) -> None:
        places = [tensor.data_ptr() for tensor in given[: self._kept]]
        if places != self._places:
            self._graph = None
            self._places = places
        if self._calls < WARM:
            self._warmed(given)
            return
        graph = self._graph or self._record(given)
        read = given[self._kept :]
        for place, (now, before) in enumerate(zip(read, self._before, strict=True)):
            if now is not before:
                self._recorded[place].copy_(now, non_blocking=True)
        self._before = read
        graph.replay()

    def _warmed(self, given: Sequence[Tensor]) -> None:
        """A call on a stream of its own, as recording needs them to have been made."""
        self._calls += 1
        here = self._recorder.current_stream()
        aside = self._recorder.Stream()
        aside.wait_stream(here)
        with self._recorder.stream(aside):
            self._call(*given)
        here.wait_stream(aside)

    def _record(self, given: Sequence[Tensor]) -> Any:
        """A graph of the call's kernels, which are not run."""
        self._recorded = given[self._kept :]
        self._before = self._recorded
        self._graph = self._recorder.CUDAGraph()
        with self._recorder.graph(self._graph):
            self._call(*given)
        return self._graph
