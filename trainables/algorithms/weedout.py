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
those that they have scored, in generations that do not depend on N either.
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
from ..training.pruner import Context, Params, space
from ..training.start import Dense
from ..tree import take
from . import _weedout_strategies as strategies
from ._masked import SPARSITY, Masked
from ._structured import no_units

CHUNK = 128
"""Candidates computed at a time. Fixed: a score does not depend on the count."""
OUTPUTS = 1 << 26
"""Numbers that a layer gives for all candidates computed at a time."""


Key = tuple[int, Value, int]
"""Seed, sparsity and number, from 0, of a candidate."""


class _Candidate(Masked):
    """Step 4: candidate number `candidate`, from 0, trained with its mask frozen."""

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
            _draw(ctx),
            hp["sparsity"],
            hp["granularity"],
            hp["allocation"],
        )


def _draw(ctx: Context) -> masks.Draw:
    """Step 2: the numbers that make candidate `ctx.hp["candidate"]`; of the first one, those of
    `chance`.
    """

    def draw(site: str, shape: tuple[int, ...]) -> Tensor:
        number = ctx.hp["candidate"].long()
        name = f"chance/{site}"
        return ctx.uniform(name, shape, number)

    return draw


_TRAINING = _Candidate()
_INHERITED = [name for name in _TRAINING.space if name != "candidate"]


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
    """

    source = (
        "Farahani 2024 (arXiv 2403.08265); "
        "score, counts, and options other than node and uniform: derivation"
    )
    together = ("candidates",)
    space = {
        **{name: dataclasses.replace(_TRAINING.space[name], tunable=False) for name in _INHERITED},
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
        if hp["pick"] == "worst" and hp["strategy"] != "random":
            rule = "`pick` worst is a control of random search: `strategy` random"
            raise Mistake(f"{rule}; got {hp['strategy']}")
        warmup = _whole(hp["warmup"])
        most = task.steps - task.rungs
        if warmup > most:
            rule = f"`warmup` leaves at least a step for each rung: it is at most {most}"
            raise Mistake(f"{rule}; got {warmup}")

    def start(self, task: Task, members: Sequence[Member]) -> State:
        """Search once for each seed and sparsity, and begin to train the distinct winners."""
        hp = members[0].hp
        distinct = dict.fromkeys(member.seed for member in members)
        seeds = list(distinct)
        warmup = _whole(hp["warmup"])
        parents = dense_networks(task, seeds, warmup)
        columns, genomes = _choose(task, parents, seeds, members)
        winners = columns["winner"].tolist()
        networks, of = _distinct(members, winners)
        columns["slot"] = torch.arange(len(members))
        columns["of"] = torch.tensor(of)
        inner = _begin(task, parents, seeds, networks)
        if hp["strategy"] != "random":
            _put_masks(task, inner, networks, genomes)
        held: dict[str, Tensor] = {}
        for name, column in columns.items():
            held[name] = column.to(task.torch_device)
        return _around(inner, held)

    def advance(self, task: Task, state: State) -> State:
        """Train the networks that members still use."""
        members = dict(state.members)
        used, of = torch.unique(members["of"], return_inverse=True)
        members["of"] = of
        inner = _inside(state).select(used)
        inner = _TRAINING.advance(task, inner)
        return _around(inner, members)

    def networks(self, task: Task, state: State) -> Networks:
        """A network may belong to many members. score: its loss before training.  winner: which
        candidate it is, from 1.
        """
        held = state.members
        trained = _TRAINING.networks(task, _inside(state))
        return dataclasses.replace(
            trained,
            metrics={name: held[name] for name in ("score", "winner")},
            of=held["of"],
            search={name: held[name] for name in ("flops", "seconds")},
        )


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
    members: Sequence[Member],
    winners: Sequence[int],
) -> tuple[list[Member], list[int]]:
    """The networks that are trained, and for each member the place of its own among them."""
    networks: list[Member] = []
    places: dict[str, int] = {}
    of: list[int] = []
    for member, number in zip(members, winners, strict=True):
        network = _inherit(member, number - 1)
        key = repr(network)
        if key not in places:
            places[key] = len(networks)
            networks.append(network)
        place = places[key]
        of.append(place)
    return networks, of


def _begin(
    task: Task,
    parents: Dense,
    seeds: list[int],
    networks: Sequence[Member],
) -> State:
    """The state of the networks that are trained, each with its parent's weights."""
    places = [seeds.index(network.seed) for network in networks]
    index = torch.tensor(places, device=task.torch_device)
    dense = dataclasses.replace(
        parents,
        params=take(parents.params, index),
        buffers=take(parents.buffers, index),
    )
    return _TRAINING.begin(task, networks, dense)


def _put_masks(
    task: Task,
    inner: State,
    networks: Sequence[Member],
    genomes: Mapping[Key, strategies.Genomes],
) -> None:
    """Put the masks of found candidates in place of those that their numbers would draw."""
    mask = inner.members["pruning"]["mask"]
    for place, network in enumerate(networks):
        hp = network.hp
        genome = genomes[_key(network, _whole(hp["candidate"]))]
        own = masks.at_random(
            task.structure,
            take(inner.members["params"], place),
            strategies.drawn(genome),
            torch.tensor(hp["sparsity"], dtype=torch.float64, device=task.torch_device),
            str(hp["granularity"]),
            str(hp["allocation"]),
        )
        for name, kept in own.items():
            mask[name][place] = kept


def _key(member: Member, candidate: int) -> Key:
    return member.seed, member.hp["sparsity"], candidate


def _inherit(member: Member, candidate: int) -> Member:
    """The network that is trained for `member`: one for all members with this winner."""
    hp = {name: member.hp[name] for name in _INHERITED}
    hp["candidate"] = candidate
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
        candidates = [_whole(members[k].hp["candidates"]) for k in group]
        counts = torch.tensor(candidates)
        place = seeds.index(first.seed)
        searched = search(
            task,
            parents,
            place,
            first,
            counts=candidates,
        )
        for number, genome in searched.genomes.items():
            genomes[_key(first, number)] = genome
        ranked = searched.losses
        if first.hp["pick"] == "worst":
            ranked = -ranked
        winners = records(ranked)
        chosen = winners[counts - 1]
        score[group] = searched.losses[chosen]
        winner[group] = chosen + 1
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


class Search(NamedTuple):
    """Step 3. losses: (N,) float64, of candidates 1 to N before training.  flops, seconds: what one
    of them cost.  genomes: of the winners by number, from 0, unless they are drawn at random.
    """

    losses: Tensor
    flops: int
    seconds: float
    genomes: Mapping[int, strategies.Genomes]


@torch.no_grad()
def search(
    task: Task,
    parents: Dense,
    place: int,
    member: Member,
    counts: Sequence[int],
) -> Search:
    """Scores of as many candidates of the parent at `place` as the largest of `counts`, for the
    seed, sparsity and options of `member`; genomes of the winners of each count.
    """
    scoring = _Scoring(task, parents, place, member)
    begun = time.perf_counter()
    genomes: dict[int, strategies.Genomes] = {}
    if member.hp["strategy"] == "random":
        losses = _drawn_losses(scoring, max(counts))
    else:
        losses, genomes = _led_losses(scoring, str(member.hp["strategy"]), counts)
    spent = time.perf_counter() - begun
    return Search(
        losses=losses[: max(counts)],
        flops=len(scoring.rows) * task.counts.flops,
        seconds=spent / len(losses),
        genomes=genomes,
    )


def _drawn_losses(scoring: _Scoring, count: int) -> Tensor:
    """Losses of at least `count` candidates that are drawn at random."""
    losses: list[Tensor] = []
    for start in range(0, count, CHUNK):
        end = start + CHUNK
        numbers = torch.arange(start, end, device=scoring.seed.device)
        mask = vmap(scoring.mask)(numbers)
        losses.append(scoring.losses(mask))
        pulse.tell("candidate", end, count)
    return torch.cat(losses).cpu()


def _led_losses(
    scoring: _Scoring, strategy: str, counts: Sequence[int]
) -> tuple[Tensor, dict[int, strategies.Genomes]]:
    """Losses of at least as many candidates as the largest of `counts`, each generation out of
    those before it; and the genomes of the best of each count, by number.
    """
    size = strategies.GENERATION
    genomes = scoring.first_genomes(size)
    population: strategies.Population | None = None
    losses = torch.zeros(0, dtype=torch.float64)
    winners: dict[int, strategies.Genomes] = {}
    best: strategies.Genomes = {}
    for generation in range(-(-max(counts) // size)):
        if population is not None:
            genomes = strategies.offspring(strategy, population, scoring.seed, generation)
        scored = scoring.losses(vmap(scoring.mask_of)(genomes), size)
        before = len(losses)
        losses = torch.cat([losses, scored.cpu()])
        places = records(losses)
        for count in counts:
            winner = int(places[min(count, len(losses)) - 1])
            if before < count <= before + size:
                is_new = winner >= before
                winners[winner] = take(genomes, winner - before) if is_new else best
        last = int(places[-1])
        if last >= before:
            best = take(genomes, last - before)
        population = strategies.joined(population, genomes, scored)
        population.kept = scoring.kept_of(take(population.genomes, 0))
        pulse.tell("candidate", len(losses), max(counts))
    return losses, winners


class _Scoring:
    """The untrained candidates of one parent, and their loss on a fixed subset of training data."""

    def __init__(
        self,
        task: Task,
        parents: Dense,
        place: int,
        member: Member,
    ) -> None:
        hp = member.hp
        device = task.torch_device
        self.task = task
        self.hp = hp
        self.structure = task.structure  # found before `vmap`, under which no model can be built
        module = task.template
        if task.stackable:
            module = stack.features_first(module)
        self.call = stack.Call(module.eval())
        self.seed = torch.tensor(member.seed, device=device)
        self.sparsity = torch.tensor(
            hp["sparsity"],
            dtype=torch.float64,
            device=device,
        )
        self.kind = task.torch_dtype
        if hp["precision"] == "bfloat16":
            self.kind = torch.bfloat16
        self.params = self._in_kind(take(parents.params, place))
        self.buffers = self._in_kind(take(parents.buffers, place))
        examples = len(task.data.labels["train"])
        key = draws.key(self.seed, "weedout")
        order = draws.permutation(key, examples)
        self.rows = order[: _whole(hp["examples"])]

    def _in_kind(self, tensors: Params) -> dict[str, Tensor]:
        """Tensors in the type that candidates are scored in; whole numbers as they are."""
        converted: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensor = tensor.to(self.kind)
            converted[name] = tensor
        return converted

    def mask(self, number: Tensor) -> dict[str, Tensor]:
        """Step 2: the mask of one candidate, counted from 0."""
        return self._mask(self._draw(number))

    def mask_of(self, genome: strategies.Genomes) -> dict[str, Tensor]:
        """The mask of a genome."""
        return self._mask(strategies.drawn(genome))

    def first_genomes(self, count: int) -> strategies.Genomes:
        """Those of the first candidates of random search."""
        shapes = strategies.sites(self.structure, self.params, str(self.hp["granularity"]))

        def genome(number: Tensor) -> strategies.Genomes:
            draw = self._draw(number)
            return {site: draw(site, shape) for site, shape in shapes.items()}

        numbers = torch.arange(count, device=self.seed.device)
        return vmap(genome)(numbers)

    def kept_of(self, genome: strategies.Genomes) -> strategies.Genomes:
        """What a genome keeps, by site."""
        draw = strategies.drawn(genome)
        allocation = str(self.hp["allocation"])
        if self.hp["granularity"] == "node":
            return masks.random_units(self.structure, draw, self.sparsity, allocation)
        return masks.weights(self.structure, genome, self.sparsity, allocation)

    def _draw(self, number: Tensor) -> masks.Draw:
        ctx = Context(
            hp={"candidate": number},
            seed=self.seed,
            step=0,
            steps=self.task.steps,
            structure=self.structure,
        )
        return _draw(ctx)

    def _mask(self, draw: masks.Draw) -> dict[str, Tensor]:
        structure = self.structure
        allocation = str(self.hp["allocation"])
        if self.hp["granularity"] == "weight":
            return masks.at_random(
                structure,
                self.params,
                draw,
                self.sparsity,
                "weight",
                allocation,
            )
        # Rows stay whole: the first layer's product is then the same for all candidates, and is
        # computed once.
        units = masks.random_units(
            structure,
            draw,
            self.sparsity,
            allocation,
        )
        return column_masks(structure, units, self.params)

    def losses(self, mask: Params, count: int = CHUNK) -> Tensor:
        """(count,) float64: the mean loss of the candidates with these masks, (count, ...) each."""
        task = self.task
        data = task.data
        total = torch.zeros(count, dtype=torch.float64, device=task.torch_device)
        outputs_of_one = count * _largest(task)
        size = max(1, OUTPUTS // outputs_of_one)
        for part in self.rows.split(size):
            inputs = data.examples("train", part).to(self.kind)
            logits = self._logits(mask, inputs, count).mT  # (count, classes, examples)
            logits = logits.to(task.torch_dtype)
            labels = data.labels["train"][part]
            wanted = labels.expand(count, -1)
            losses = F.cross_entropy(logits, wanted, reduction="none")
            total += losses.sum(1)
        return total / len(self.rows)

    def _logits(self, mask: Params, inputs: Tensor, count: int) -> Tensor:
        """(count, examples, classes)."""
        if self.task.stackable:
            logits_of_all = vmap(self._logits_of_one, in_dims=(0, None))
            return logits_of_all(mask, inputs)
        alone: list[Tensor] = []
        for c in range(count):
            own = take(mask, c)
            logits = self._logits_of_one(own, inputs)
            alone.append(logits)
        return torch.stack(alone)

    def _logits_of_one(self, mask: Params, inputs: Tensor) -> Tensor:
        params = masks.apply(self.params, mask)
        return self.call(params, dict(self.buffers), inputs)


def _largest(task: Task) -> int:
    """Numbers that the largest layer gives for one example."""
    most = 1
    for layer in task.structure.layers:
        flops = task.counts.layers.get(layer.name, 0)
        products = layer.columns * math.prod(layer.kernel)
        outputs = flops // (2 * products)
        most = max(most, outputs)
    return most


def records(losses: Tensor) -> Tensor:
    """(N,) int64: for each n = 1, ..., N the place of the least of the first n losses; the earliest
    one of equals.

    losses: (N,); NaN counts as infinite.
    """
    losses = losses.nan_to_num(
        nan=torch.inf,
        posinf=torch.inf,
        neginf=-torch.inf,
    )
    infinite = torch.full((1,), torch.inf, dtype=losses.dtype)
    least = losses.cummin(0).values
    least_before = torch.cat([infinite, least[:-1]])
    is_record = losses < least_before
    places = torch.arange(len(losses))
    record_places = torch.where(is_record, places, 0)
    latest = record_places.cummax(0)
    return latest.values


def _whole(value: Value) -> int:
    assert isinstance(value, int)
    return value
