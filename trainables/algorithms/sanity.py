"""Sanity checks: what another member of the study found is trained again without its weights, its
mask, or both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import locate
from ..contract import Check, Domain, Member, State, Value, complete, hyperparameters
from ..records.networks import load_masks
from ..structure import masks
from ..structure.alive import alive
from ..structure.units import Structure, node_masks
from ..task import Task, identity
from ..training import draws
from ..training.pruner import Context, GradientPruner, Params, Pruning, space
from ._structured import removed
from .scratch import found


class Sanity(GradientPruner):
    """A fixed mask made of what the member of the setting `of` with the same seed kept.

    random: as many weights of each layer, drawn at random (of a mask of whole units as many units),
    on the initial weights.
    shuffled: such a mask on the weights of the dense phase, for those that started from them.
    reinitialised: the very mask, on initial weights of another seed.  scratch: whole layers of as
    many units as can influence the output, on initial weights. Blocks that are gone there are gone
    here. All train for the whole budget. Without `of` everything is kept.
    """

    source = "Frankle et al. 2021 (arXiv 2009.08576), Su et al. 2020 (arXiv 2009.11094); scratch: Liu et al. 2019"
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

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True

    def alone(self, hp: Mapping[str, Value]) -> Mapping[str, Value]:
        """A mask that keeps everything takes as much memory as any."""
        return {**hp, "of": None}

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if self.checks[str(hp["check"])].needs_initial and task.loaded_reason:
            raise Mistake(f"`check` {hp['check']}: {task.loaded_reason}")
        if hp["of"] is not None:
            member_of(task, str(hp["of"]), 0)

    def before(self, task: Task, hp: Mapping[str, Value]) -> int:
        return task.dense_steps if hp["check"] == "shuffled" else 0

    def start(self, task: Task, members: Sequence[Member]) -> State:
        state, check = super().start(task, members), str(members[0].hp["check"])
        if check == "reinitialised":
            others = [
                int(draws.key(torch.tensor(member.seed), "reinitialised")) for member in members
            ]
            state.members["params"], state.members["buffers"] = task.initial(others)
        names = [
            None if member.hp["of"] is None else member_of(task, str(member.hp["of"]), member.seed)
            for member in members
        ]
        kept = load_masks(locate(task.starts).parent, [name for name in names if name is not None])
        like = dict(task.template.named_parameters())
        whole = {
            name: torch.ones_like(like[name], dtype=torch.bool)
            for name in task.structure.parameters
        }
        whole |= {block.name: torch.ones((), dtype=torch.bool) for block in task.structure.blocks}
        made = [
            whole
            if name is None
            else whole | checked(task.structure, kept[name], check, member.seed)
            for name, member in zip(names, members, strict=True)
        ]
        stacked = {
            name: torch.stack([mask[name].to(task.torch_device) for mask in made]) for name in whole
        }
        state.members["pruning"] = {"mask": stacked}
        return state

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return removed(ctx.structure, params, pruning["mask"])

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]


def member_of(task: Task, of: str, seed: int) -> str:
    """The member of a setting that has the seed. Raises Mistake if there is no such algorithm or
    setting.
    """
    from . import find

    name, _, hp = of.partition(" ")
    algorithm = find(name)
    return identity(
        task, name, algorithm, Member(complete(algorithm.space, hyperparameters(hp)), seed)
    )


def checked(
    structure: Structure, kept: Mapping[str, Tensor], check: str, seed: int
) -> dict[str, Tensor]:
    """The mask of one network for a check.

    kept: as it was found, removable parameter -> bool of its shape, block -> () bool.
    """
    blocks = {block.name: kept[block.name] for block in structure.blocks if block.name in kept}
    if check == "reinitialised":
        return dict(kept)
    if check == "scratch":
        units = found(structure, kept)
        counts = {
            layer.name: int(count) for layer, count in zip(structure.hidden, units, strict=False)
        }
        first = {
            layer.name: torch.arange(layer.units) < counts[layer.name] for layer in structure.hidden
        }
        there = units[len(counts) :]
        blocks = {
            block.name: torch.tensor(bool(stays))
            for block, stays in zip(structure.blocks, there, strict=True)
        }
        return node_masks(structure, first, kept, blocks)

    def shuffled(site: str, mask: Tensor) -> Tensor:
        return mask[draws.permutation(draws.key(torch.tensor(seed), "sanity", site), len(mask))]

    live, _ = alive(structure, {name: mask[None] for name, mask in kept.items()})
    units = {layer.name: live[layer.name][0] for layer in structure.hidden}
    if all(
        torch.equal(kept[name], mask)
        for name, mask in node_masks(structure, units, kept, blocks).items()
    ):
        return node_masks(
            structure, {name: shuffled(name, mask) for name, mask in units.items()}, kept, blocks
        )
    mixed = dict(blocks)
    for layer in structure.layers:
        mixed |= masks.unflat(layer, shuffled(layer.name, masks.flat(layer, kept)), kept)
    return mixed
