"""Kept networks: what a study's output folder holds of its members beside their rows, and how they
are loaded again.

`networks/` holds one safetensors file for each cohort, or part of one: stacked networks with notes
for who reads them, and in the header which members they are of and what builds them. Nothing here
trains.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ...analysis.rows import rundir, table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, atomic, each, local, read_range, save
from ..contract import Networks
from ..data.dataset import Data
from ..measure.shallow import ACTIVE, layers
from ..structure.extract import shrunk
from ..tree import apart, leaves
from . import leaving, physical
from .physical import Parent

NOTES = "notes"
"""What the names of `Networks.notes` begin with in a file."""
_NOT_KEPT = "no kept network of member {}; `keep` says which are kept when a study ends"


def load_network(folder: Where, member: str) -> nn.Module:
    """The kept network of `member` in a study's output folder, removed parameters zero, in
    evaluation mode.

    Raises Mistake if the study did not keep it.
    """
    module, _, _ = load_with_masks(folder, member)
    return module


def load_masks(folder: Where, members: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    """What is kept of those networks: member -> removable parameter -> bool of its shape, block ->
    () bool.

    Raises Mistake if the study did not keep one of them.
    """
    wanted = set(members)
    masks: dict[str, dict[str, torch.Tensor]] = {}
    if not wanted:
        return masks
    for file in _files(folder):
        places = file.places
        here = wanted & places.keys()
        if not here:
            continue
        stacks = file.kept_stacks()
        for member in here:
            place = places[member]
            masks[member] = {name: stack[place] for name, stack in stacks.items()}
    lacking = wanted - masks.keys()
    if lacking:
        raise Mistake(f"{folder}: {_NOT_KEPT.format(min(lacking))}")
    return masks


def load_shrunk(folder: Where, member: str) -> nn.Module:
    """The same network, physically smaller: without the units and blocks that cannot influence its
    output.

    Raises Mistake if the study did not keep it.
    """
    module, kept, parent = load_with_masks(folder, member)
    return shrink(module, kept, parent)


def export(folder: Where, member: str, path: Where) -> None:
    """Write what `load_shrunk` gives to one safetensors file, which `physical.load` reads.

    Raises Mistake if the study did not keep it or its data are not here, and Wrong, with nothing
    written, if it is not the network that its row measured (`leaving`).
    """
    module, kept, parent = load_with_masks(folder, member)
    rows = table.last(table.read(folder))
    is_own = rows["member"] == member
    own = rows[is_own].iloc[0]
    row: dict[str, Any] = {}
    for name, value in own.items():
        row[str(name)] = value
    data = leaving.task(folder).data
    small = shrink(module, kept, parent)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "network.safetensors"
        written(file, small, module, parent, row, data)
        save(path, file.read_bytes())


def written(
    path: Path,
    network: nn.Module,
    kept: nn.Module,
    parent: Parent,
    row: Mapping[str, Any],
    data: Data,
) -> nn.Module:
    """Write `network` to a file, and return what is loaded back from it, held against its row.

    path: in a temporary place.  network, kept: shrunk, and as it was kept.  Raises Wrong as
    `leaving` does.
    """
    leaving.check_counts(network, row, parent.input_shape)
    physical.save(path, network, parent)
    file = physical.load(path)
    leaving.check_counts(file, row, parent.input_shape)
    leaving.check_answers(file, kept, row, data)
    return file


def write_networks(
    path: Location,
    members: Sequence[str],
    networks: Networks,
    positions: Sequence[int],
    parent: Parent,
) -> None:
    """Write the effective networks of members, each distinct one once, to one file.

    positions: of `members`, in that order, in `networks.of`.  parent: what builds them.
    """
    places = networks.of.cpu()[list(positions)]
    index, of = torch.unique(places, return_inverse=True)
    trees = {
        "params": networks.params,
        "buffers": networks.buffers,
        "kept": networks.kept,
        NOTES: networks.notes,
    }
    stacks: dict[str, torch.Tensor] = {}
    for name, tensor in leaves(trees).items():
        stack = tensor.detach().cpu()
        stacks[name] = stack[index]
    about = {
        "members": list(members),
        "of": of.tolist(),
        "model": parent.model,
        "options": dict(parent.options),
        "input_shape": list(parent.input_shape),
        "classes": parent.classes,
        "dtype": parent.dtype,
    }
    shallow = layers(parent.structure)
    if ACTIVE in networks.notes and shallow is not None:
        first, last = shallow
        about["shallow"] = {"hidden": first.weight, "outer": last.weight}
    header = {"about": json.dumps(about)}
    with atomic(path) as temporary:
        save_file(apart(stacks), temporary, metadata=header)


def kept_members(folder: Where) -> set[str]:
    """The members whose networks a study's output folder holds."""
    members: set[str] = set()
    for file in _files(folder):
        members.update(file.members)
    return members


@dataclasses.dataclass(frozen=True)
class _File:
    """A file of networks, and what its header says of it: `members`, and for each of them its place
    in the stacks, `of`; of all of them, what builds them.
    """

    path: Location
    about: dict[str, Any]

    @property
    def members(self) -> list[str]:
        return self.about["members"]

    @property
    def places(self) -> dict[str, int]:
        """The place of each member in the stacks."""
        of = self.about["of"]
        return dict(zip(self.members, of, strict=True))

    def kept_stacks(self) -> dict[str, torch.Tensor]:
        """What is kept of all networks, by removable parameter and block."""
        stacks: dict[str, torch.Tensor] = {}
        with _opened(self.path) as file:
            for name in list(file.keys()):
                kind, _, inner = name.partition("/")
                if kind == "kept":
                    stacks[inner] = file.get_tensor(name)
        return stacks

    def at(self, place: int) -> dict[str, torch.Tensor]:
        """The tensors of the network at a place; no others are read."""
        tensors: dict[str, torch.Tensor] = {}
        with _opened(self.path) as file:
            for name in list(file.keys()):
                stack = file.get_slice(name)
                tensors[name] = stack[place]
        return tensors

    def keep_only(self, members: set[str]) -> None:
        """Write the file again without the networks of others; drop it if it holds no other."""
        going: list[str] = []
        places: list[int] = []
        for member, place in zip(self.members, self.about["of"], strict=True):
            if member not in members:
                continue
            going.append(member)
            places.append(place)
        if len(going) == len(self.members):
            return
        if not going:
            self.path.unlink()
            return
        index = sorted(set(places))
        tensors: dict[str, torch.Tensor] = {}
        with _opened(self.path) as file:
            for name in list(file.keys()):
                stack = file.get_tensor(name)
                tensors[name] = stack[index].contiguous()
        of = [index.index(place) for place in places]
        about = {**self.about, "members": going, "of": of}
        header = {"about": json.dumps(about)}
        with atomic(self.path) as temporary:
            save_file(tensors, temporary, metadata=header)


def _files(folder: Where) -> list[_File]:
    """The files of kept networks; only their headers are read."""
    paths = rundir.networks_files(folder)
    headers = each(_about, paths)
    files: list[_File] = []
    for path, about in zip(paths, headers, strict=True):
        file = _File(path, about)
        files.append(file)
    return files


def _about(path: Location) -> dict[str, Any]:
    """What a file of networks says of itself in its header: JSON, after its length in 8 bytes."""
    with _trusted(path):
        code = read_range(path, 0, 8)
        length = int.from_bytes(code, "little")
        header = json.loads(read_range(path, 8, length))
        about = json.loads(header["__metadata__"]["about"])
        members = len(about["members"])
        a_network_each = list(range(members))
        about.setdefault("of", a_network_each)  # in schema 1
        return about


@contextlib.contextmanager
def _opened(path: Location) -> Iterator[Any]:
    """The file of networks, open."""
    with (
        _trusted(path),
        local(path) as here,
        safe_open(here, framework="pt") as file,
    ):
        yield file


@contextlib.contextmanager
def _trusted(path: Location) -> Iterator[None]:
    """Raises Mistake with the file's name for one that is torn or foreign."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, SafetensorError) as error:
        rule = "kept networks are a safetensors file that names its members"
        raise Mistake(f"{path}: {rule}; got: {error}") from error


def shrink(
    module: nn.Module,
    kept: Mapping[str, torch.Tensor],
    parent: Parent,
) -> nn.Module:
    """The network that `load` gives, physically smaller."""
    structure = parent.structure
    input_shape = parent.input_shape
    return shrunk(module, structure, kept, input_shape)


def load_with_masks(
    folder: Where, member: str
) -> tuple[nn.Module, dict[str, torch.Tensor], Parent]:
    """The kept network of a member as `load_network` gives it, what is kept of it, and what it was
    made from.

    Raises Mistake if the study did not keep it.
    """
    for file in _files(folder):
        place = file.places.get(member)
        if place is not None:
            return _load(file, place)
    raise Mistake(f"{folder}: {_NOT_KEPT.format(member)}")


@torch.no_grad()
def _load(file: _File, place: int) -> tuple[nn.Module, dict[str, torch.Tensor], Parent]:
    parent = Parent.from_json(file.about)
    tensors = file.at(place)
    module = parent.build()
    own = dict(module.named_parameters())
    own |= dict(module.named_buffers())
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        kind, _, inner = name.partition("/")
        if kind == "kept":
            kept[inner] = tensor
            continue
        if kind == NOTES:
            continue
        shape = tuple(tensor.shape)
        own_shape = "none of that name"
        if inner in own:
            own_shape = tuple(own[inner].shape)
        if own_shape != shape:
            rule = f"the model {parent.model} is as it was when the study ran"
            got = f"the file has {inner} {shape}, the model {own_shape}"
            raise Mistake(f"{file.path}: {rule}; {got}")
        own[inner].copy_(tensor)
    return module.eval(), kept, parent


def keep_only(folder: Where, members: set[str]) -> int:
    """Drop every kept network whose member is not in `members`; returns how many of `members` have
    none.
    """
    kept: set[str] = set()
    for file in _files(folder):
        kept |= members.intersection(file.members)
        file.keep_only(members)
    lacking = members - kept
    return len(lacking)
