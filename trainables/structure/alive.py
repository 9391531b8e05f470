"""What is alive: units that anything reads, and units and columns that can influence the output."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .units import Layer, Link, Structure

Kept = Mapping[str, Tensor]
"""Removable parameter -> (M, *shape) bool, block -> (M,) bool; True is kept."""
Live = dict[str, Tensor]
"""Layer -> (M, units) or (M, columns) bool."""


def units_read(structure: Structure, kept: Kept) -> Live:
    """Which units anything reads, for M networks: hidden layer -> (M, units) bool.

    kept: weight of each layer that reads hidden units -> (M, *shape) bool; block -> (M,) bool, if
    it may be gone.
    """
    units: Live = {}
    for link in structure.links:
        weight = kept[structure.weights[link.consumer]]
        connected = _connections(weight)
        columns = connected.any(1)
        live = _of_units(columns, link)
        block = structure.block_of(link.producer)
        if block is not None and block.name in kept:
            there = kept[block.name][:, None]
            live = live & there
        if link.producer in units:
            live = units[link.producer] | live
        units[link.producer] = live
    return units


def alive(structure: Structure, kept: Kept) -> tuple[Live, Live]:
    """Units and columns that can influence the output, for M networks at once.

    kept: removable parameter -> (M, *shape) bool.  Returns layer -> (M, units) bool and layer ->
    (M, columns) bool. A unit is dead if nothing live reads it, or if it has no live input and what
    it then constantly gives is nothing (no bias) or folds into the next bias. All units of a block
    that is gone are dead.
    """
    paths = _all_open(structure, kept)
    outgoing: dict[str, list[Link]] = defaultdict(list)
    for link in structure.links:
        outgoing[link.producer].append(link)
    before = -1
    while (count := paths.count()) != before:
        before = count
        for layer in structure.hidden:
            links = outgoing[layer.name]
            paths.settle(layer, links)
    return paths.units, paths.columns


@dataclasses.dataclass
class _Paths:
    """What of M networks may be alive, as far as is known.

    biases: layer -> (M, units), what is kept of it.  connected: layer -> (M, units, columns), which
    columns a unit reads.  folded: layer -> (M, columns), columns that are gone and were constant.
    """

    biases: Live
    connected: Live
    units: Live
    columns: Live
    folded: Live

    def count(self) -> int:
        """How many units there are."""
        counts = [live.sum() for live in self.units.values()]
        return int(torch.stack(counts).sum())

    def settle(self, layer: Layer, links: Sequence[Link]) -> None:
        """Which units of a hidden layer live, and which columns of its readers then do."""
        name = layer.name
        fed = self._reads(name, self.columns)
        # What a unit without an input gives is constant: nothing, or foldable, or to be kept.
        constant = self._constant(name)
        needed = fed
        if not all(link.folds for link in links):
            shifts = any(link.shifts for link in links)
            needed = fed | constant | shifts
        is_read = self._read(links)
        live = self.units[name] & is_read
        live = live & needed
        self.units[name] = live
        dropped = ~live & ~fed
        for link in links:
            left = dropped & (constant | link.shifts)
            self.columns[link.consumer] = _of_columns(live, link)
            self.folded[link.consumer] = _of_columns(left, link)

    def _reads(self, name: str, columns: Live) -> Tensor:
        """Units of a layer that read any of its `columns`."""
        some = columns[name][:, None, :]
        connected = self.connected[name] & some
        return connected.any(-1)

    def _constant(self, name: str) -> Tensor:
        """Units that give something without an input: a bias, or what was folded into one."""
        folded = self._reads(name, self.folded)
        bias = self.biases.get(name)
        if bias is None:
            return folded
        return folded | bias

    def _read(self, links: Sequence[Link]) -> Tensor:
        """Units that a live unit reads."""
        units: Tensor | None = None
        for link in links:
            readers = self.units[link.consumer]
            connected = self.connected[link.consumer] & readers[:, :, None]
            columns = connected.any(1)
            live = _of_units(columns, link)
            if units is not None:
                live = units | live
            units = live
        assert units is not None, "a hidden layer has a link"
        return units


def _of_columns(units: Tensor, link: Link) -> Tensor:
    """The columns of a link's consumer that units of its producer feed."""
    return units.repeat_interleave(link.repeat, dim=1)


def _of_units(columns: Tensor, link: Link) -> Tensor:
    """Which units of a link's producer feed any of the columns of its consumer."""
    of_unit = columns.unflatten(1, (-1, link.repeat))
    return of_unit.any(-1)


def _all_open(structure: Structure, kept: Kept) -> _Paths:
    """Everything alive but what a block takes with it."""
    paths = _Paths({}, {}, {}, {}, {})
    gone = _gone(structure, kept)
    for layer in structure.layers:
        name = layer.name
        connected = _connections(kept[layer.weight])
        units = torch.ones_like(connected[:, :, 0])
        if name in gone:
            off = gone[name]
            there = ~off[:, None]
            units = units & there
            connected = connected & there[:, :, None]
        columns = torch.ones_like(connected[:, 0, :])
        paths.connected[name] = connected
        paths.units[name] = units
        paths.columns[name] = columns
        paths.folded[name] = torch.zeros_like(columns)
        if layer.bias is not None:
            paths.biases[name] = kept[layer.bias]
    return paths


def _gone(structure: Structure, kept: Kept) -> Live:
    """Layers in blocks that may be gone: layer -> (M,) bool, where they are."""
    gone: Live = {}
    for block in structure.blocks:
        if block.name not in kept:
            continue
        off = ~kept[block.name]
        gone |= dict.fromkeys(block.layers, off)
    return gone


def _connections(weights: Tensor) -> Tensor:
    """Which columns units read, (M, units, columns) bool: any entry of the kernel counts."""
    if weights.ndim > 3:
        return weights.flatten(3).any(-1)
    return weights
