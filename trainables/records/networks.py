"""Kept networks: what a study's output folder holds of its members beside their rows, and how they
are loaded again.

`networks/` holds one safetensors file for each cohort, or part of one: stacked networks, and in the
header which members they are of and what builds them. Nothing here trains.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, atomic, each, local, locate, read_range, save
from ..data.dataset import Data
from ..structure.extract import shrunk
from . import leaving, physical
from .physical import Parent

_NOT_KEPT = "no kept network of member {}; `keep` says which are kept when a study ends"


def load_network(folder: Where, member: str) -> nn.Module:
    """The kept network of `member` in a study's output folder, removed parameters zero, in
    evaluation mode.

    Raises Mistake if the study did not keep it.
    """
    return load(folder, member)[0]


def load_masks(folder: Where, members: Sequence[str]) -> dict[str, dict[str, torch.Tensor]]:
    """What is kept of those networks: member -> removable parameter -> bool of its shape, block ->
    () bool.

    Raises Mistake if the study did not keep one of them.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    wanted = set(members)
    for path, about in _networks(folder) if wanted else ():
        places = {
            member: place
            for member, place in zip(about["members"], about["of"], strict=True)
            if member in wanted
        }
        if places:
            with _opened(path) as file:
                entries = list(file.keys())
                names = {
                    name: name.removeprefix("kept/") for name in entries if name.startswith("kept/")
                }
                stacks = {short: file.get_tensor(name) for name, short in names.items()}
            found |= {
                member: {name: stack[place] for name, stack in stacks.items()}
                for member, place in places.items()
            }
    if lacking := wanted - found.keys():
        raise Mistake(f"{folder}: {_NOT_KEPT.format(min(lacking))}")
    return found


def load_shrunk(folder: Where, member: str) -> nn.Module:
    """The same network, physically smaller: without the units and blocks that cannot influence its
    output.

    Raises Mistake if the study did not keep it.
    """
    return shrink(*load(folder, member))


def export(folder: Where, member: str, path: Where) -> None:
    """Write what `load_shrunk` gives to one safetensors file, which `physical.load` reads.

    Raises Mistake if the study did not keep it or its data are not here, and Wrong, with nothing
    written, if it is not the network that its row measured (`leaving`).
    """
    module, kept, parent = load(folder, member)
    rows = table.last(table.read(folder))
    own = rows[rows["member"] == member].iloc[0]
    row = {str(name): value for name, value in own.items()}
    data = leaving.task(folder).data
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "network.safetensors"
        written(file, shrink(module, kept, parent), module, parent, row, data)
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


def kept_members(folder: Where) -> set[str]:
    """The members whose networks a study's output folder holds."""
    return {member for _, about in _networks(folder) for member in about["members"]}


def _networks(folder: Where) -> list[tuple[Location, dict[str, Any]]]:
    """The files of kept networks and what each says of itself; only their headers are read."""
    folder = locate(folder)
    paths = sorted((folder / "networks").glob("*.safetensors"), key=str)
    return list(zip(paths, each(_about, paths), strict=True))


def _about(path: Location) -> dict[str, Any]:
    """What a file of networks says of itself in its header: JSON, after its length in 8 bytes."""
    with _trusted(path):
        header = read_range(path, 8, int.from_bytes(read_range(path, 0, 8), "little"))
        return json.loads(json.loads(header)["__metadata__"]["about"])


@contextlib.contextmanager
def _opened(path: Location) -> Iterator[Any]:
    """The file of networks, open."""
    with _trusted(path), local(path) as here, safe_open(here, framework="pt") as file:
        yield file


@contextlib.contextmanager
def _trusted(path: Location) -> Iterator[None]:
    """Raises Mistake with the file's name for one that is torn or foreign."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, SafetensorError) as error:
        raise Mistake(
            f"{path}: kept networks are a safetensors file that names its members; got: {error}"
        ) from error


def shrink(module: nn.Module, kept: Mapping[str, torch.Tensor], parent: Parent) -> nn.Module:
    """The network that `load` gives, physically smaller."""
    return shrunk(module, parent.structure, kept, parent.input_shape)


def load(folder: Where, member: str) -> tuple[nn.Module, dict[str, torch.Tensor], Parent]:
    """The kept network of a member as `load_network` gives it, what is kept of it, and what it was
    made from.

    Raises Mistake if the study did not keep it.
    """
    for path, about in _networks(folder):
        if member not in about["members"]:
            continue
        place = about["of"][about["members"].index(member)]
        parent = Parent(
            about["model"],
            tuple(about["input_shape"]),
            about["classes"],
            about["dtype"],
            about["options"],
        )
        with _opened(path) as file:
            tensors = {name: file.get_slice(name)[place] for name in file.keys()}  # noqa: SIM118 - not a mapping
        module = parent.build()
        own, kept = {**dict(module.named_parameters()), **dict(module.named_buffers())}, {}
        with torch.no_grad():
            for name, tensor in tensors.items():
                kind, _, inner = name.partition("/")
                if kind == "kept":
                    kept[inner] = tensor
                elif inner in own and own[inner].shape == tensor.shape:
                    own[inner].copy_(tensor)
                else:
                    has = tuple(own[inner].shape) if inner in own else "none of that name"
                    rule = f"the model {parent.model} is as it was when the study ran"
                    raise Mistake(
                        f"{path}: {rule}; the file has {inner} {tuple(tensor.shape)}, the model {has}"
                    )
        return module.eval(), kept, parent
    raise Mistake(f"{folder}: {_NOT_KEPT.format(member)}")


def keep_only(folder: Where, members: set[str]) -> int:
    """Drop every kept network whose member is not in `members`; returns how many of `members` have
    none.
    """
    found: set[str] = set()
    for path, about in _networks(folder):
        stay = [
            (member, place)
            for member, place in zip(about["members"], about["of"], strict=True)
            if member in members
        ]
        found |= members.intersection(about["members"])
        if len(stay) == len(about["members"]):
            continue
        if not stay:
            path.unlink()
            continue
        index = sorted({place for _, place in stay})
        with _opened(path) as file:
            tensors = {name: file.get_tensor(name)[index].contiguous() for name in file.keys()}  # noqa: SIM118
        with atomic(path) as temporary:
            about |= {
                "members": [member for member, _ in stay],
                "of": [index.index(place) for _, place in stay],
            }
            save_file(tensors, temporary, metadata={"about": json.dumps(about)})
    return len(members - found)
