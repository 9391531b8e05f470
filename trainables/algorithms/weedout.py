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

Other strategies than random search, which the paper names as future work, make candidates out of
those that they have scored, in generations that do not depend on N either. So is step 5, `again`:

    5.  After every m epochs of training, 2 and 3 again, with the weights as they are then. The mask
    so far is candidate 2, so that with two candidates or more no search makes the score worse.
    Candidate i depends on (seed, step, i) alone; candidate 1 is random, and so alone the control.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..contract import Algorithm, Member, Networks, State
from ..domain import Domain, Value
from ..task import Task
from ..training.dense import dense_networks
from ..training.start import Dense
from ..tree import take
from . import _weedout_strategies as strategies
from ._structured import no_units
from ._weedout_search import search, whole
from ._weedout_training import OPTIONS, Again, Candidate, give

Key = tuple[int, Value, int]
"""Seed, sparsity and number, from 0, of a candidate."""
_FROZEN = Candidate()
_AGAIN = Again()
_INHERITED = [name for name in _FROZEN.space if name != "candidate"]


class Weedout(Algorithm):
    """The best of the first `candidates` random sub-networks by loss before training; or the worst
    of them, as a control.

    strategy random: the paper's.  mutation: (1 + lambda), of the best so far.  climb: swaps of a
    kept and a removed node (or weight, by granularity) of the best so far.  genetic: crossover and
    mutation of the best 16 so far. All are compared at equal numbers of evaluations, `candidates`;
    lambda, neighbourhood and population are 16.
    granularity, allocation: as for `chance`; the paper's are node and uniform.  width: a factor, of
    over-parameterisation.
    warmup: steps of dense training before the search, out of the budget.
    again: epochs after which a search is made again, on and on while training is left. Candidates
    are masks for the weights as they are then; the mask so far is among them, unless there is one
    candidate, which is a new random one each time. What is removed rests, without momentum: an
    entry that returns has the value that it had when it left, or at the start, less what weight
    decay has taken. Every search is charged.  Batch-norm goes by the scoring examples from the
    second search on.  Members that differ in `candidates` soon differ in weights, so that each
    trains and searches for itself.
    """

    source = (
        "Farahani 2024 (arXiv 2403.08265); "
        "score, counts, and options other than node and uniform: derivation"
    )
    together = ("candidates",)
    space = {
        **{name: dataclasses.replace(_FROZEN.space[name], tunable=False) for name in _INHERITED},
        **OPTIONS,
        "warmup": Domain(
            "whole", 0, "the steps of dense training before the search", low=0, static=True
        ),
        "again": Domain(
            "real",
            None,
            "the epochs from one search to the next (default: a single search, before training)",
            low=0,
            static=True,
        ),
    }

    def is_control(self, hp: Mapping[str, Value]) -> bool:
        return hp["candidates"] == 1 or hp["pick"] == "worst"

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return hp["again"] is None

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        return _FROZEN.parent(task, hp)

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["granularity"] == "node" and (why := no_units(task)):
            raise Mistake(f"`granularity` node: {why}")
        if hp["pick"] == "worst" and hp["strategy"] != "random":
            rule = "`pick` worst is a control of random search: `strategy` random"
            raise Mistake(f"{rule}; got {hp['strategy']}")
        warmup = whole(hp["warmup"])
        most = task.steps - task.rungs
        if warmup > most:
            rule = f"`warmup` leaves at least a step for each rung: it is at most {most}"
            raise Mistake(f"{rule}; got {warmup}")
        if hp["again"] is not None:
            _check_again(task, hp["again"], task.steps - warmup)

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """Search once for each seed and sparsity, and begin to train the distinct winners."""
        hp = members[0].hp
        distinct = dict.fromkeys(member.seed for member in members)
        seeds = list(distinct)
        warmup = whole(hp["warmup"])
        parents = dense_networks(task, seeds, warmup)
        columns, genomes = _choose(task, parents, seeds, members)
        winners = columns["winner"].tolist()
        networks, of = _distinct(task, members, winners)
        training = _FROZEN if hp["again"] is None else _AGAIN
        inner = _begin(task, training, parents, seeds, networks)
        if hp["strategy"] != "random":
            _put_masks(task, inner, networks, genomes)
        held = {"slot": torch.arange(len(members)), "of": torch.tensor(of)}
        if hp["again"] is None:
            held |= columns
        else:
            inner.members["found"] = _of_networks(task, columns, of)
        for name, column in held.items():
            held[name] = column.to(task.torch_device, non_blocking=True)
        return _around(inner, held)

    def advance(self, task: Task, state: State) -> State:
        """Train the networks that members still use."""
        members = dict(state.members)
        used, of = torch.unique(members["of"], return_inverse=True)
        members["of"] = of
        inner = _inside(state).select(used)
        inner = _training(inner).advance(task, inner)
        return _around(inner, members)

    def networks(self, task: Task, state: State) -> Networks:
        """A network may belong to many members. score: its loss before training, or in the latest
        search.  winner: which candidate it is, from 1; with `again` it is none of the first search,
        and `changes` is how often its mask became another.
        """
        inner = _inside(state)
        trained = _training(inner).networks(task, inner)
        of = state.members["of"]
        found = state.members
        metrics = ("score", "winner")
        if "found" in inner.members:
            found = take(inner.members["found"], of)
            metrics = ("score", "changes")
        return dataclasses.replace(
            trained,
            metrics={name: found[name] for name in metrics},
            of=of,
            search={name: found[name] for name in ("flops", "seconds")},
        )


def _check_again(task: Task, again: Value, steps: int) -> None:
    """Raise Mistake unless a search after so many epochs lies between the first step and the last
    of `steps`.
    """
    assert isinstance(again, float)
    interval = _interval(task, again)
    if 0 < interval < steps:
        return
    least = 1 / task.steps_per_epoch
    left = steps / task.steps_per_epoch
    rule = f"`again` is at least a step, {least:.3g} epochs, and less than the {left:.3g} trained"
    raise Mistake(f"{rule}; got {again:g}")


def _interval(task: Task, again: float) -> int:
    """The steps from one search to the next."""
    return round(again * task.steps_per_epoch)


def _training(inner: State) -> Candidate:
    """How networks are trained, by their state."""
    if "interval" in inner.scalars["static"]:
        return _AGAIN
    return _FROZEN


def _of_networks(task: Task, columns: Mapping[str, Tensor], of: Sequence[int]) -> dict[str, Tensor]:
    """Each network's part of members' columns, which with `again` is the same for all that share
    it.
    """
    first: list[int] = []
    for network in range(max(of) + 1):
        first.append(of.index(network))
    found: dict[str, Tensor] = {}
    for name, column in columns.items():
        found[name] = column[first].to(task.torch_device, non_blocking=True)
    found["changes"] = torch.zeros_like(found.pop("winner"))
    return found


def _inside(state: State) -> State:
    """The state of the networks that are trained."""
    return State(state.shared, state.scalars, shape=state.shape)


def _around(inner: State, members: dict[str, Any]) -> State:
    """The state of members who share the networks of `inner`."""
    return State(
        members,
        inner.scalars,
        shared=inner.members,
        shape=inner.shape,
    )


def _distinct(
    task: Task,
    members: Sequence[Member],
    winners: Sequence[int],
) -> tuple[list[Member], list[int]]:
    """The networks that are trained, and for each member the place of its own among them."""
    networks: list[Member] = []
    places: dict[str, int] = {}
    of: list[int] = []
    for member, number in zip(members, winners, strict=True):
        network = _inherit(task, member, number - 1)
        key = repr(network)
        if key not in places:
            places[key] = len(networks)
            networks.append(network)
        place = places[key]
        of.append(place)
    return networks, of


def _begin(
    task: Task,
    training: Candidate,
    parents: Dense,
    seeds: list[int],
    networks: Sequence[Member],
) -> State:
    """The state of the networks that are trained, each with its parent's weights."""
    places = [seeds.index(network.seed) for network in networks]
    index = torch.tensor(places).to(task.torch_device, non_blocking=True)
    dense = dataclasses.replace(
        parents,
        params=take(parents.params, index),
        buffers=take(parents.buffers, index),
    )
    return training.begin(task, networks, dense)


def _put_masks(
    task: Task,
    inner: State,
    networks: Sequence[Member],
    genomes: Mapping[Key, strategies.Genomes],
) -> None:
    """Put the masks of found candidates in place of those that their numbers would draw."""
    for place, network in enumerate(networks):
        genome = genomes[_key(network, whole(network.hp["candidate"]))]
        give(task, inner, place, genome)


def _key(member: Member, candidate: int) -> Key:
    return member.seed, member.hp["sparsity"], candidate


def _inherit(task: Task, member: Member, candidate: int) -> Member:
    """The network that is trained for `member`: one for all members with this winner, unless they
    search again.
    """
    hp = {name: member.hp[name] for name in _INHERITED}
    hp["candidate"] = candidate
    again = member.hp["again"]
    if again is not None:
        assert isinstance(again, float)
        hp |= {name: member.hp[name] for name in OPTIONS}
        hp["interval"] = _interval(task, again)
    return Member(hp, member.seed)


def _choose(
    task: Task,
    parents: Dense,
    seeds: list[int],
    members: Sequence[Member],
) -> tuple[dict[str, Tensor], dict[Key, strategies.Genomes]]:
    """Each member's candidate: its number from 1, its score, and what its own count of candidates
    cost, (K,) each; and the genomes of those that were not drawn at random.
    """
    genomes: dict[Key, strategies.Genomes] = {}
    score, seconds = torch.zeros(2, len(members), dtype=torch.float64)
    winner, flops = torch.zeros(2, len(members), dtype=torch.int64)
    for group in _sharing(members):
        first = members[group[0]]
        candidates = [whole(members[k].hp["candidates"]) for k in group]
        counts = torch.tensor(candidates)
        place = seeds.index(first.seed)
        searched = search(
            task,
            parents,
            place,
            first,
            counts=candidates,
        )
        if first.hp["strategy"] != "random":
            for number in set(searched.winners.tolist()):
                genomes[_key(first, number)] = searched.genome(number)
        score[group] = searched.losses[searched.winners]
        winner[group] = searched.winners + 1
        flops[group] = counts * searched.flops
        seconds[group] = counts.double() * searched.seconds
    columns = {
        "score": score,
        "winner": winner,
        "flops": flops,
        "seconds": seconds,
    }
    return columns, genomes


def _sharing(members: Sequence[Member]) -> list[list[int]]:
    """Which members share a search: those of one seed and sparsity."""
    searches: dict[Any, list[int]] = {}
    for k, member in enumerate(members):
        shared = member.seed, member.hp["sparsity"]
        group = searches.setdefault(shared, [])
        group.append(k)
    return list(searches.values())
