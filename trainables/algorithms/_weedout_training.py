"""Weedout's steps 4 and 5: training with a frozen mask, or with one that is searched again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from ..contract import Member, State
from ..domain import Domain, Value
from ..structure import masks
from ..task import Task
from ..training import optimizers
from ..training.pruner import Context, Params, Pruning, space
from ..training.start import Dense
from ..tree import take
from . import _weedout_strategies as strategies
from ._masked import SPARSITY, Masked
from ._weedout_search import Incumbent, draw_of, search, whole

OPTIONS: Mapping[str, Domain] = {
    "candidates": Domain(
        "whole", 64, "the number of sub-networks searched", low=1, high=10**7, log=True
    ),
    "strategy": Domain(
        "choice",
        "random",
        "where candidates come from",
        choices=("random", *strategies.STRATEGIES),
        static=True,
    ),
    "pick": Domain(
        "choice", "best", "which of them is trained", choices=("best", "worst"), static=True
    ),
    "examples": Domain(
        "whole",
        1024,
        "how many training examples score a candidate (at most all)",
        low=1,
        static=True,
    ),
    "precision": Domain(
        "choice",
        "task",
        "what candidates are scored in: as the task's `precision` says, or in bfloat16 anyway",
        choices=("task", "bfloat16"),
        static=True,
    ),
}
"""Hyper-parameters of a search."""


class Candidate(Masked):
    """Candidate number `candidate`, from 0, trained with its mask frozen."""

    space = space(
        sparsity=SPARSITY,
        granularity=dataclasses.replace(masks.GRANULARITY, default="node"),
        allocation=masks.ALLOCATION,
        candidate=Domain("whole", 0, "which one", low=0),
    )

    def mask(self, params: Params, ctx: Context) -> Params:
        hp = ctx.hp
        return masks.at_random(
            ctx.structure,
            params,
            draw_of(ctx),
            hp["sparsity"],
            hp["granularity"],
            hp["allocation"],
        )


class Again(Candidate):
    """A candidate that is searched again after every `interval` steps, for its weights as they are
    then.

    pruning: its genome beside its mask.  members["found"]: what its searches came to, (K,) each:
    `score`, of the last one; `flops` and `seconds` of all; `changes`, how often the mask became
    another.
    """

    charges = True
    space = {
        **Candidate.space,
        **OPTIONS,
        "interval": Domain("whole", 1, "the steps from one search to the next", low=1, static=True),
    }

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return False

    def init(self, params: Params, ctx: Context) -> Pruning:
        shapes = strategies.sites(ctx.structure, params, ctx.hp["granularity"])
        draw = draw_of(ctx)
        genome: strategies.Genomes = {}
        for site, shape in shapes.items():
            genome[site] = draw(site, shape)
        return {"mask": self.mask(params, ctx), "genome": genome}

    def due(self, hp: Mapping[str, Value], step: int, steps: int) -> bool:
        interval = whole(hp["interval"])
        is_last = step == steps
        return step % interval == 0 and not is_last

    def every(self, task: Task, state: State, x: Tensor, y: Tensor) -> State:
        begun = time.perf_counter()
        for place in range(state.size):
            _search_again(task, state, place)
        members = dict(state.members)
        mask = members["pruning"]["mask"]
        members["optimizer"] = optimizers.stilled(task, members["optimizer"], mask)
        scalars = dict(state.scalars)
        spent = time.perf_counter() - begun
        scalars["seconds"] -= spent / state.size  # each member is charged for its own
        return dataclasses.replace(state, members=members, scalars=scalars)


def _search_again(task: Task, state: State, place: int) -> None:
    """Search for one network, whose mask is a candidate too, and give it what is picked."""
    members = state.members
    step = state.scalars["step"]
    member = _searcher(state, place)
    count = whole(member.hp["candidates"])
    trained = Dense(members["params"], members.get("buffers", {}), step, seconds=0.0)
    own = take(members["pruning"].get("genome", {}), place)
    incumbent = Incumbent(step, own)
    searched = search(task, trained, place, member, [count], incumbent)
    winner = int(searched.winners[0])
    genome = searched.genome(winner)
    has_changed = give(task, state, place, genome)
    found = members["found"]
    found["score"][place] = searched.losses[winner]
    found["flops"][place] += count * searched.flops
    found["seconds"][place] += count * searched.seconds
    found["changes"][place] += has_changed


def _searcher(state: State, place: int) -> Member:
    """The member, with hyper-parameters that a search looks at, whose network is at a place."""
    hp: dict[str, Value] = dict(state.scalars["static"])
    columns = state.members["hp"]
    hp["sparsity"] = float(columns["sparsity"][place])
    hp["candidates"] = int(columns["candidates"][place])
    seed = int(state.members["seed"][place])
    return Member(hp, seed)


def give(task: Task, state: State, place: int, genome: strategies.Genomes) -> bool:
    """Give the network at a place the mask of a genome; whether it is another one."""
    members = state.members
    static = state.scalars["static"]
    own = masks.at_random(
        task.structure,
        take(members["params"], place),
        strategies.drawn(genome),
        members["hp"]["sparsity"][place],
        static["granularity"],
        static["allocation"],
    )
    pruning = members["pruning"]
    has_changed = False
    for name, kept in own.items():
        row = pruning["mask"][name][place]
        has_changed |= not torch.equal(row, kept)
        row.copy_(kept)
    for site, numbers in pruning.get("genome", {}).items():
        numbers[place] = genome[site]
    return has_changed
