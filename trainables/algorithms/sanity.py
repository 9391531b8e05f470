"""Sanity checks: what another member of the study found is trained again without its weights, its
mask, or both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location
from ..contract import Algorithm, Member, State
from ..controls import Check
from ..domain import Domain, Value, complete, hyperparameters
from ..records.networks import load_masks
from ..structure import masks
from ..structure.units import Structure, node_masks
from ..task import Task, identity
from ..training import draws
from ..training.pruner import Context, Params, Pruning, space
from ..training.start import Dense
from ._masked import Masked
from .scratch import found, live_units


class Sanity(Masked):
    """A fixed mask made of what the member of the setting `of` with the same seed kept.

    random: as many weights of each layer, drawn at random (of a mask of whole units as many units),
    on the initial weights.
    shuffled: such a mask on the weights of the dense phase, for those that started from them.
    reinitialised: the very mask, on initial weights of another seed.  scratch: whole layers of as
    many units as can influence the output, on initial weights. Blocks that are gone there are gone
    here. All train for the whole budget. Without `of` everything is kept.
    """

    source = (
        "Frankle et al. 2021 (arXiv 2009.08576), Su et al. 2020 (arXiv 2009.11094); "
        "scratch: Liu et al. 2019"
    )
    control = True
    space = space(
        of=Domain(
            "text",
            None,
            "the setting that is checked, as its algorithm, a space, and `hp` of its rows",
        ),
        check=Domain(
            "choice",
            "random",
            "what is made of it",
            choices=("random", "shuffled", "reinitialised", "scratch"),
            static=True,
        ),
    )
    checks = {
        "random": Check("random masks", front=False),
        "shuffled": Check("shuffled masks", from_dense=True),
        "reinitialised": Check("re-initialised", needs_initial=True),
        "scratch": Check("from scratch", smaller=True, needs_initial=True),
    }

    def __init__(self, folder: Location | None = None) -> None:
        self.folder = folder  # of the run whose members are checked

    def in_run(self, folder: Location) -> Algorithm:
        return Sanity(folder)

    def alone(self, hp: Mapping[str, Value]) -> Mapping[str, Value]:
        """A mask that keeps everything takes as much memory as any."""
        return {**hp, "of": None}

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        name = str(hp["check"])
        of = hp["of"]
        check = self.checks[name]
        if check.needs_initial and task.loaded_reason:
            raise Mistake(f"`check` {name}: {task.loaded_reason}")
        if of is not None:
            member_of(task, str(of), 0)

    def before(self, task: Task, hp: Mapping[str, Value]) -> int:
        return task.dense_steps if hp["check"] == "shuffled" else 0

    def begin(
        self,
        task: Task,
        members: Sequence[Member],
        dense: Dense,
    ) -> State:
        check = members[0].hp["check"]
        if check == "reinitialised":
            drawn = _drawn_anew(task, members)
            dense = dataclasses.replace(dense, **drawn)
        state = super().begin(task, members, dense)
        rows = self._masks(task, members)
        stacked: dict[str, Tensor] = {}
        for name in rows[0]:
            column = torch.stack([row[name] for row in rows])
            stacked[name] = column.to(task.torch_device)
        state.members["pruning"] = {"mask": stacked}
        return state

    def init(self, params: Params, ctx: Context) -> Pruning:
        return {}

    def _masks(self, task: Task, members: Sequence[Member]) -> list[dict[str, Tensor]]:
        """The mask of each member; files are read once for all of them."""
        names = _names(task, members)
        kept: Mapping[str, Params] = {}
        if names:
            if self.folder is None:
                raise Mistake("`of` is a setting of a run, and is checked in the run; got no run")
            kept = load_masks(self.folder, list(names.values()))
        made = [_whole(task) for _ in members]
        for k, name in names.items():
            member = members[k]
            check = str(member.hp["check"])
            made[k] |= checked(
                task.structure,
                kept[name],
                check,
                member.seed,
            )
        return made


def _names(task: Task, members: Sequence[Member]) -> dict[int, str]:
    """The member that each of `members` checks, by its place; without those that check none."""
    names: dict[int, str] = {}
    for k, member in enumerate(members):
        of = member.hp["of"]
        if of is not None:
            names[k] = member_of(task, str(of), member.seed)
    return names


def member_of(task: Task, of: str, seed: int) -> str:
    """The member of a setting that has the seed. Raises Mistake if there is no such algorithm or
    setting.
    """
    from . import find

    name, _, hp = of.partition(" ")
    algorithm = find(name)
    given = hyperparameters(hp)
    setting = complete(algorithm.space, given)
    member = Member(setting, seed)
    return identity(task, name, algorithm, member)


def _drawn_anew(task: Task, members: Sequence[Member]) -> dict[str, dict[str, Tensor]]:
    """Parameters and buffers of networks with the initial weights of other seeds."""
    seeds: list[int] = []
    for member in members:
        seed = torch.tensor(member.seed)
        key = draws.key(seed, "reinitialised")
        seeds.append(int(key))
    params, buffers = task.initial(seeds)
    return {"params": params, "buffers": buffers}


def _whole(task: Task) -> dict[str, Tensor]:
    """The mask of one network that keeps everything."""
    structure = task.structure
    like = dict(task.template.named_parameters())
    mask: dict[str, Tensor] = {}
    for name in structure.parameters:
        parameter = like[name]
        mask[name] = torch.ones_like(parameter, dtype=torch.bool)
    for block in structure.blocks:
        mask[block.name] = torch.ones((), dtype=torch.bool)
    return mask


def checked(
    structure: Structure,
    kept: Mapping[str, Tensor],
    check: str,
    seed: int,
) -> dict[str, Tensor]:
    """The mask of one network for a check.

    kept: as it was found, removable parameter -> bool of its shape, block -> () bool.
    """
    if check == "reinitialised":
        return dict(kept)
    if check == "scratch":
        return _first_units(structure, kept)
    return _shuffled(structure, kept, seed)


def _first_units(structure: Structure, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole layers of as many units as can influence the output."""
    counts = found(structure, kept)
    hidden = structure.hidden
    blocks = structure.blocks
    widths = counts[: len(hidden)]
    stay = counts[len(hidden) :]
    first: dict[str, Tensor] = {}
    for layer, width in zip(hidden, widths, strict=True):
        count = int(width)
        places = torch.arange(layer.units)
        first[layer.name] = places < count
    there: dict[str, Tensor] = {}
    for block, stays in zip(blocks, stay, strict=True):
        is_there = bool(stays)
        there[block.name] = torch.tensor(is_there)
    return node_masks(structure, first, kept, there)


def _shuffled(
    structure: Structure,
    kept: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """As many weights of each layer, or units where the mask is one of whole units, at random."""

    def shuffled(site: str, mask: Tensor) -> Tensor:
        number = torch.tensor(seed)
        key = draws.key(number, "sanity", site)
        order = draws.permutation(key, len(mask))
        return mask[order]

    blocks: dict[str, Tensor] = {}
    for block in structure.blocks:
        name = block.name
        if name in kept:
            blocks[name] = kept[name]
    units = live_units(structure, kept)
    of_units = node_masks(structure, units, kept, blocks)
    is_of_units = True
    for name, mask in of_units.items():
        is_of_units &= torch.equal(kept[name], mask)
    if is_of_units:
        mixed_units: dict[str, Tensor] = {}
        for name, mask in units.items():
            mixed_units[name] = shuffled(name, mask)
        return node_masks(structure, mixed_units, kept, blocks)
    mixed = dict(blocks)
    for layer in structure.layers:
        mask = masks.flat(layer, kept)
        mask = shuffled(layer.name, mask)
        mixed |= masks.unflat(layer, mask, kept)
    return mixed
