"""What a two-layer ReLU network says: how much each neuron contributes to each class, how much each
input matters, and which activation pattern (gate) serves which class.

A neuron's contribution to a class is its weight to that class times its mean output on the
validation data: what it adds to the class's score, on average. Summed over neurons that is the mean
score, but for the second layer's bias. An input's importance is the sum over neurons of |weight
from the input| times the length of the neuron's weights to the classes; it is in units of the
inputs as the network reads them.

Networks are known by how they were kept: a file of `networks/` says in its header which tensors are
the two layers, if its networks are such (`shallow`), and holds the mean outputs beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .rows import rundir
from .rows.mistake import Mistake
from .rows.storage import Location, Where, local, read_range

Array = NDArray[np.float64]
COLUMNS = ("neuron", "gate", "class", "contribution", "share", "inputs")
"""Of `Shallow.neurons`."""


@dataclasses.dataclass(frozen=True)
class Shallow:
    """A two-layer ReLU network.

    hidden: (m, d).  outer: (C, m).  active: (m,), mean outputs of neurons.  gates: (m,), the number
    of each one's activation pattern; None where that is not known.  shape: of an example.
    """

    hidden: Array
    outer: Array
    active: Array
    gates: NDArray[np.int64] | None
    shape: tuple[int, ...]

    @property
    def contributions(self) -> Array:
        """To each class of each neuron, (C, m)."""
        return self.outer * self.active

    @property
    def says(self) -> bool:
        """Whether there is anything to tell: a neuron that adds to a score, and only numbers."""
        numbers = (self.hidden, self.outer, self.active)
        if not all(np.isfinite(array).all() for array in numbers):
            return False
        return bool(self.contributions.any())

    @functools.cached_property
    def neurons(self) -> pd.DataFrame:
        """A line for each neuron that adds to a score, the one with the largest share first.

        neuron: its unit in the hidden layer.  gate: NaN where not known.  class: to which it
        contributes most, by size; contribution to that class, below zero if it speaks against it.
        share: of the sizes of all contributions, to all classes.  inputs: that it reads.
        """
        sizes = np.abs(self.contributions)
        total = sizes.sum()
        lines: list[tuple[Any, ...]] = []
        for neuron in np.flatnonzero(sizes.sum(0)):
            own = self.contributions[:, neuron]
            kind = _served(own)
            gate = np.nan if self.gates is None else self.gates[neuron]
            share = sizes[:, neuron].sum() / total
            inputs = np.count_nonzero(self.hidden[neuron])
            lines.append((neuron, gate, kind, own[kind], share, inputs))
        frame = pd.DataFrame(lines, columns=list(COLUMNS))
        frame = frame.sort_values(["share", "neuron"], ascending=[False, True])
        return frame.reset_index(drop=True)

    @property
    def by_gate(self) -> pd.DataFrame:
        """For each gate that a neuron uses, and each class: the sum of contributions, and how many
        neurons have the class for theirs. Empty where gates are not known.
        """
        lines: list[tuple[Any, ...]] = []
        neurons = self.neurons
        for gate in sorted(neurons["gate"].dropna().unique()):
            own = neurons[neurons["gate"] == gate]
            units = own["neuron"].to_numpy()
            sums = self.contributions[:, units].sum(1)
            for kind, contribution in enumerate(sums):
                count = int((own["class"] == kind).sum())
                lines.append((int(gate), kind, contribution, count))
        return pd.DataFrame(lines, columns=["gate", "class", "contribution", "neurons"])

    @functools.cached_property
    def importance(self) -> Array:
        """Of each input, (d,)."""
        lengths = np.linalg.norm(self.outer, axis=0)
        return lengths @ np.abs(self.hidden)

    @property
    def is_of_images(self) -> bool:
        """Whether inputs are images: channels, height, width."""
        return len(self.shape) == 3 and min(self.shape[1:]) > 1

    def image(self, of_inputs: Array) -> Array:
        """A number for each input as an image (height, width), channels summed."""
        return of_inputs.reshape(self.shape).sum(0)


def _served(contributions: Array) -> int:
    """The class of the largest contribution, by size; of two as large, that which it speaks for."""
    sizes = np.abs(contributions)
    is_largest = np.isclose(sizes, sizes.max(), rtol=1e-6, atol=0)
    return int(np.where(is_largest, contributions, -np.inf).argmax())


# ---- as they were kept


def kept(folder: Where) -> set[str]:
    """The members whose networks are kept in a study's output folder and can be read here."""
    members: set[str] = set()
    for _, about in _files(folder):
        members.update(about["members"])
    return members


def read(folder: Where, members: Collection[str]) -> dict[str, Shallow]:
    """The networks of those of `members` that are kept and can be read here, by member.

    Raises Mistake with its name for a file that is torn or foreign.
    """
    networks: dict[str, Shallow] = {}
    for path, about in _files(folder):
        wanted = set(members).intersection(about["members"])
        if wanted:
            networks |= _read(path, about, wanted)
    return networks


def _read(path: Location, about: dict[str, Any], members: Collection[str]) -> dict[str, Shallow]:
    networks: dict[str, Shallow] = {}
    with (
        _trusted(path),
        local(path) as here,
        safe_open(here, framework="np") as file,
    ):
        names = set(file.keys())
        for member, place in zip(about["members"], about["of"], strict=True):
            if member not in members:
                continue

            def tensor(name: str, place: int = place) -> Any:
                return file.get_slice(name)[place]

            gates = None
            if "notes/gate" in names:
                gates = tensor("notes/gate").astype(np.int64)
            networks[member] = Shallow(
                hidden=tensor(f"params/{about['shallow']['hidden']}").astype(np.float64),
                outer=tensor(f"params/{about['shallow']['outer']}").astype(np.float64),
                active=tensor("notes/active").astype(np.float64),
                gates=gates,
                shape=tuple(about["input_shape"]),
            )
    return networks


def _files(folder: Where) -> Iterator[tuple[Location, dict[str, Any]]]:
    """The files of kept networks that say that they are two-layer ReLU networks, with what their
    headers say; no more is read of others.
    """
    for path in rundir.networks_files(folder):
        with _trusted(path):
            length = int.from_bytes(read_range(path, 0, 8), "little")
            header = json.loads(read_range(path, 8, length))
            about = json.loads(header["__metadata__"]["about"])
        if "shallow" in about:
            yield path, about


@contextlib.contextmanager
def _trusted(path: Location) -> Iterator[None]:
    """Raises Mistake with the file's name for one that is torn or foreign."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, SafetensorError) as error:
        rule = "kept networks are a safetensors file that names its members"
        raise Mistake(f"{path}: {rule}; got: {error}") from error
