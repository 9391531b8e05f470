"""Weedout (Farahani 2024; arXiv 2403.08265): random search over sparse sub-networks of an
over-parameterised network.

    1.  Draw the parent's weights, once for each seed.
    2.  Candidate i = 1, 2, ..., N: in each hidden layer a uniform random subset of its nodes.
    3.  Score: the loss of the untrained candidate on a fixed subset of the training data. The best
    so far is kept.
    4.  Train it from the weights that it inherits, its mask frozen.

The paper gives neither N nor the score; 3 is our reading. Candidate i depends on (seed, i) alone:
the candidates of n are a prefix of those of N, and the winner for every n <= N is a prefix minimum.
So members that differ in `candidates` share one search, and only its distinct winners are trained,
about ln N + 0.58 of them. Candidate 1 is what `chance` draws.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from ...analysis.rows.mistake import Mistake
from .. import pulse
from ..contract import Algorithm, Member, Networks, State
from ..domain import Domain, Value
from ..structure import masks
from ..structure.units import column_masks
from ..task import Task
from ..training import draws, stack
from ..training.dense import dense_networks
from ..training.pruner import Context, GradientPruner, Params, Pruning, space
from ..training.start import Dense
from ._structured import no_units

CHUNK, OUTPUTS = 128, 1 << 26
"""Candidates, and numbers that a layer gives for them, computed at a time. Fixed: a score does not
depend on the count.
"""


class _Candidate(GradientPruner):
    """Step 4: candidate number `candidate`, from 0, trained with its mask frozen."""

    space = space(
        sparsity=Domain("real", 0.5, "the share removed", low=0, high=1, open_high=True),
        granularity=dataclasses.replace(masks.GRANULARITY, default="node"),
        allocation=masks.ALLOCATION,
        candidate=Domain("whole", 0, "which one", low=0),
    )

    def init(self, params: Params, ctx: Context) -> Pruning:
        hp = ctx.hp
        return {
            "mask": masks.at_random(
                ctx.structure,
                params,
                _draw(ctx),
                hp["sparsity"],
                hp["granularity"],
                hp["allocation"],
            )
        }

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return masks.apply(params, pruning["mask"])

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]


def _draw(ctx: Context) -> masks.Draw:
    """Step 2: the numbers that make candidate `ctx.hp["candidate"]`; of the first one, those of
    `chance`.
    """
    return lambda site, shape: ctx.uniform(f"chance/{site}", shape, ctx.hp["candidate"].long())


_TRAINING = _Candidate()
_INHERITED = [name for name in _TRAINING.space if name != "candidate"]


class Weedout(Algorithm):
    """The best of the first `candidates` random sub-networks by loss before training; or the worst
    of them, as a control.

    granularity, allocation: as for `chance`; the paper's are node and uniform.  width: a factor, of
    over-parameterisation.
    warmup: steps of dense training before the search, out of the budget.
    """

    source = "Farahani 2024 (arXiv 2403.08265); score, counts, and options other than node and uniform: derivation"
    together = ("candidates",)
    space = {
        **{name: dataclasses.replace(_TRAINING.space[name], tunable=False) for name in _INHERITED},
        "candidates": Domain(
            "whole", 64, "the number of sub-networks searched", low=1, high=10**7, log=True
        ),
        "pick": Domain(
            "choice", "best", "which of them is trained", choices=("best", "worst"), static=True
        ),
        "warmup": Domain(
            "whole", 0, "the steps of dense training before the search", low=0, static=True
        ),
        "examples": Domain(
            "whole",
            1024,
            "how many training examples score a candidate (at most all)",
            low=1,
            static=True,
        ),
        "precision": Domain(
            "choice", "task", "the type to score in", choices=("task", "bfloat16"), static=True
        ),
    }

    def is_control(self, hp: Mapping[str, Value]) -> bool:
        return hp["candidates"] == 1 or hp["pick"] == "worst"

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        return _TRAINING.parent(task, hp)

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["granularity"] == "node" and (why := no_units(task)):
            raise Mistake(f"`granularity` node: {why}")
        if _whole(hp["warmup"]) > task.steps - task.rungs:
            rule = f"`warmup` leaves at least a step for each rung: it is at most {task.steps - task.rungs}"
            raise Mistake(f"{rule}; got {hp['warmup']}")

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """Search once for each seed and sparsity, and begin to train the distinct winners."""
        seeds = list(dict.fromkeys(member.seed for member in members))
        parents = dense_networks(task, seeds, _whole(members[0].hp["warmup"]))
        held = _choose(task, parents, seeds, members)
        wanted = [
            _inherit(member, winner - 1)
            for member, winner in zip(members, held["winner"].tolist(), strict=True)
        ]
        trained = {repr(network): network for network in wanted}
        index = torch.tensor(
            [seeds.index(network.seed) for network in trained.values()], device=task.torch_device
        )
        dense = Dense(
            _pick(parents.params, index),
            _pick(parents.buffers, index),
            parents.steps,
            parents.seconds,
        )
        inner = _TRAINING.begin(task, list(trained.values()), dense)
        held |= {
            "slot": torch.arange(len(members)),
            "of": torch.tensor([list(trained).index(repr(each)) for each in wanted]),
        }
        return State(
            {name: column.to(task.torch_device) for name, column in held.items()},
            inner.scalars,
            inner.members,
        )

    def advance(self, task: Task, state: State) -> State:
        """Train the networks that members still use."""
        used, of = torch.unique(state.members["of"], return_inverse=True)
        inner = _TRAINING.advance(
            task, State(state.shared, state.scalars, shape=state.shape).select(used)
        )
        return State({**state.members, "of": of}, inner.scalars, inner.members, inner.shape)

    def networks(self, task: Task, state: State) -> Networks:
        """A network may belong to many members. score: its loss before training.  winner: which
        candidate it is, from 1.
        """
        held, found = (
            state.members,
            _TRAINING.networks(task, State(state.shared, state.scalars, shape=state.shape)),
        )
        metrics, spent = (
            {name: held[name] for name in names}
            for names in (("score", "winner"), ("flops", "seconds"))
        )
        return dataclasses.replace(found, metrics=metrics, of=held["of"], search=spent)


def _choose(
    task: Task, parents: Dense, seeds: list[int], members: Sequence[Member]
) -> dict[str, Tensor]:
    """Each member's candidate: its number from 1, its score, and what its own count of candidates
    cost, (K,) each.
    """
    groups: dict[Any, list[int]] = {}
    for k, member in enumerate(members):
        groups.setdefault((member.seed, member.hp["sparsity"]), []).append(k)
    score, seconds = torch.zeros(2, len(members), dtype=torch.float64)
    winner, flops = torch.zeros(2, len(members), dtype=torch.int64)
    for group in groups.values():
        first, counts = (
            members[group[0]],
            torch.tensor([_whole(members[k].hp["candidates"]) for k in group]),
        )
        found = search(task, parents, seeds.index(first.seed), first, int(counts.max()))
        chosen = records(found.losses if first.hp["pick"] == "best" else -found.losses)[counts - 1]
        score[group], winner[group] = found.losses[chosen], chosen + 1
        flops[group], seconds[group] = counts * found.flops, counts.double() * found.seconds
    return {"score": score, "winner": winner, "flops": flops, "seconds": seconds}


class Search(NamedTuple):
    """Step 3. losses: (N,) float64, of candidates 1 to N before training.  flops, seconds: what one
    of them cost.
    """

    losses: Tensor
    flops: int
    seconds: float


def search(task: Task, parents: Dense, place: int, member: Member, count: int) -> Search:
    """Scores of the first `count` candidates of the parent at `place`, for the seed, sparsity and
    options of `member`.
    """
    hp, device = member.hp, task.torch_device
    module = stack.features_first(task.template) if task.stackable else task.template
    call, structure = stack.Call(module.eval()), task.structure
    seed = torch.tensor(member.seed, device=device)
    sparsity = torch.tensor(hp["sparsity"], dtype=torch.float64, device=device)
    kind = torch.bfloat16 if hp["precision"] == "bfloat16" else task.torch_dtype
    params = {name: value[place].to(kind) for name, value in parents.params.items()}
    buffers = {
        name: v[place].to(kind) if v.is_floating_point() else v[place]
        for name, v in parents.buffers.items()
    }
    labels = task.data.labels["train"]
    rows = draws.permutation(draws.key(seed, "weedout"), len(labels))[: _whole(hp["examples"])]

    def disconnect(candidate: Tensor) -> dict[str, Tensor]:
        draw = _draw(Context({"candidate": candidate}, seed, 0, task.steps, structure))
        if hp["granularity"] == "node":
            # Rows stay whole: the first layer's product is then the same for all candidates, and is
            # computed once.
            return column_masks(
                structure,
                masks.random_units(structure, draw, sparsity, str(hp["allocation"])),
                params,
            )
        return masks.at_random(structure, params, draw, sparsity, "weight", str(hp["allocation"]))

    def logits(mask: Params, inputs: Tensor) -> Tensor:
        return call(masks.apply(params, mask), dict(buffers), inputs)

    begun, losses = time.perf_counter(), list[Tensor]()
    with torch.no_grad():
        for start in range(0, count, CHUNK):
            numbers = torch.arange(start, start + CHUNK, device=device)
            mask = vmap(disconnect)(numbers)
            total = torch.zeros(CHUNK, dtype=torch.float64, device=device)
            for part in rows.split(max(1, OUTPUTS // (CHUNK * _largest(task)))):
                inputs = task.data.examples("train", part).to(kind)
                if task.stackable:
                    found = vmap(logits, in_dims=(0, None))(mask, inputs)
                else:
                    found = torch.stack(
                        [logits({n: m[c] for n, m in mask.items()}, inputs) for c in range(CHUNK)]
                    )
                logits_ = found.mT.to(task.torch_dtype)  # (candidates, classes, examples)
                total += F.cross_entropy(
                    logits_, labels[part].expand(CHUNK, -1), reduction="none"
                ).sum(1)
            losses.append(total / len(rows))
            pulse.tell("candidate", start + CHUNK, count)
        joined = torch.cat(losses).cpu()
    return Search(
        joined[:count], len(rows) * task.counts.flops, (time.perf_counter() - begun) / len(joined)
    )


def _largest(task: Task) -> int:
    """Numbers that the largest layer gives for one example."""
    spent = task.counts.layers
    return (
        max(
            spent.get(each.name, 0) // (2 * each.columns * math.prod(each.kernel))
            for each in task.structure.layers
        )
        or 1
    )


def records(losses: Tensor) -> Tensor:
    """(N,) int64: for each n = 1, ..., N the place of the least of the first n losses; the earliest
    one of equals.

    losses: (N,); NaN counts as infinite.
    """
    losses = losses.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    before = torch.cat(
        [torch.full((1,), torch.inf, dtype=losses.dtype), losses.cummin(0).values[:-1]]
    )
    places = torch.arange(len(losses))
    return torch.where(losses < before, places, 0).cummax(0).values


def _inherit(member: Member, candidate: int) -> Member:
    """The network that is trained for `member`: one for all members with this winner."""
    return Member(
        {**{name: member.hp[name] for name in _INHERITED}, "candidate": candidate}, member.seed
    )


def _pick(tensors: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    return {name: value[index] for name, value in tensors.items()}


def _whole(value: Value) -> int:
    assert isinstance(value, int)
    return value
