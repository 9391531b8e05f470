"""Weedout's steps 2 and 3: candidates of one parent, drawn or led, and the loss of each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from .. import pulse
from ..contract import Member
from ..domain import Value
from ..structure import masks
from ..structure.units import column_masks
from ..task import Task
from ..training import draws, stack
from ..training.pruner import Context, Params
from ..training.start import Dense
from ..tree import take
from . import _weedout_strategies as strategies

CHUNK = 128
"""Candidates computed at a time. Fixed: a score does not depend on the count."""
OUTPUTS = 1 << 26
"""Numbers that a layer gives for all candidates computed at a time."""
INCUMBENT = 1
"""The number, from 0, of the candidate that is trained already, in a search that is made again. The
first one stays what `chance` draws.
"""


class Incumbent(NamedTuple):
    """The candidate that is trained when a search is made again, after so many steps."""

    step: int
    genome: strategies.Genomes


class Search(NamedTuple):
    """Step 3. losses: (N,) float64, of candidates 1 to N before they are trained.  winners: the
    numbers, from 0, of those that are picked, one for each count.  flops, seconds: what one
    candidate cost.  genome: of a winner, by its number.
    """

    losses: Tensor
    winners: Tensor
    flops: int
    seconds: float
    genome: Callable[[int], strategies.Genomes]


@torch.no_grad()
def search(
    task: Task,
    parents: Dense,
    place: int,
    member: Member,
    counts: Sequence[int],
    incumbent: Incumbent | None = None,
) -> Search:
    """Scores of as many candidates of the parent at `place` as the largest of `counts`, for the
    seed, sparsity and options of `member`; the winner of each count.
    """
    scoring = _Scoring(task, parents, place, member, incumbent)
    begun = time.perf_counter()
    genome = scoring.genome
    if member.hp["strategy"] == "random":
        computed = _drawn_losses(scoring, max(counts))
    else:
        computed, led = _led_losses(scoring, str(member.hp["strategy"]), counts)
        genome = led.__getitem__
    spent = time.perf_counter() - begun
    losses = computed[: max(counts)]
    ranked = losses
    if member.hp["pick"] == "worst":
        ranked = -losses
    places = torch.tensor(counts) - 1
    return Search(
        losses=losses,
        winners=records(ranked)[places],
        flops=len(scoring.rows) * task.counts.flops,
        seconds=spent / len(computed),
        genome=genome,
    )


def _drawn_losses(scoring: _Scoring, count: int) -> Tensor:
    """Losses of at least `count` candidates that are drawn at random."""
    size = scoring.size
    losses: list[Tensor] = []
    for start in range(0, count, size):
        genomes = scoring.genomes(start, size)
        losses.append(scoring.losses(genomes, size))
        pulse.tell("candidate", start + size, count)
    return torch.cat(losses).cpu()


def _led_losses(
    scoring: _Scoring, strategy: str, counts: Sequence[int]
) -> tuple[Tensor, dict[int, strategies.Genomes]]:
    """Losses of at least as many candidates as the largest of `counts`, each generation out of
    those before it; and the genomes of the best of each count, by number.
    """
    size = strategies.GENERATION
    genomes = scoring.genomes(0, size)
    population: strategies.Population | None = None
    losses = torch.zeros(0, dtype=torch.float64)
    winners: dict[int, strategies.Genomes] = {}
    best: strategies.Genomes = {}
    for generation in range(-(-max(counts) // size)):
        if population is not None:
            genomes = strategies.offspring(strategy, population, scoring.stream, generation)
        scored = scoring.losses(genomes, size)
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
    """The candidates of one parent as it is, and their loss on a fixed subset of training data."""

    def __init__(
        self,
        task: Task,
        parents: Dense,
        place: int,
        member: Member,
        incumbent: Incumbent | None,
    ) -> None:
        hp = member.hp
        device = task.torch_device
        self.task = task
        self.hp = hp
        self.incumbent = incumbent
        self.structure = task.structure  # found before `vmap`, under which no model can be built
        seed = torch.tensor(member.seed)
        self.seed = seed.to(device, non_blocking=True)
        self.step = 0
        self.stream = self.seed
        self.size = CHUNK
        module = task.template
        if task.stackable:
            module = stack.features_first(module)
        module = module.eval()
        if incumbent is not None:
            self.step = incumbent.step
            self.stream = draws.key(self.seed, "again", incumbent.step)
            self.size = strategies.GENERATION
            module = _by_batch(module)
        self.call = stack.Call(module)
        sparsity = torch.tensor(hp["sparsity"], dtype=torch.float64)
        self.sparsity = sparsity.to(device, non_blocking=True)
        self.kind = task.torch_dtype
        if task.precision == "bf16" or hp["precision"] == "bfloat16":
            self.kind = torch.bfloat16
        self.params = self._in_kind(take(parents.params, place))
        self.buffers = self._in_kind(take(parents.buffers, place))
        examples = len(task.data.labels["train"])
        key = draws.key(seed, "weedout")
        order = draws.permutation(key, examples)
        self.rows = order[: whole(hp["examples"])]

    def _in_kind(self, tensors: Params) -> dict[str, Tensor]:
        """Tensors in the type that candidates are scored in; whole numbers as they are."""
        converted: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                tensor = tensor.to(self.kind)
            converted[name] = tensor
        return converted

    def genomes(self, start: int, count: int) -> strategies.Genomes:
        """Step 2: those of `count` candidates of random search, from number `start` on."""
        shapes = strategies.sites(self.structure, self.params, str(self.hp["granularity"]))

        def genome(number: Tensor) -> strategies.Genomes:
            draw = self._draw(number)
            drawn: strategies.Genomes = {}
            for site, shape in shapes.items():
                drawn[site] = draw(site, shape)
            return drawn

        numbers = torch.arange(start, start + count, device=self.seed.device)
        genomes = vmap(genome)(numbers)
        if self.incumbent is not None and start <= INCUMBENT < start + count:
            for site, own in self.incumbent.genome.items():
                genomes[site][INCUMBENT - start] = own
        return genomes

    def genome(self, number: int) -> strategies.Genomes:
        """That of one candidate of random search."""
        return take(self.genomes(number, 1), 0)

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
            step=self.step,
            steps=self.task.steps,
            structure=self.structure,
        )
        return draw_of(ctx)

    def _masks(self, genomes: strategies.Genomes) -> dict[str, Tensor]:
        """The masks of genomes."""
        if not genomes:  # a model without hidden units
            return {}
        return vmap(self._mask)(genomes)

    def _mask(self, genome: strategies.Genomes) -> dict[str, Tensor]:
        """The mask of one."""
        structure = self.structure
        allocation = str(self.hp["allocation"])
        draw = strategies.drawn(genome)
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

    def losses(self, genomes: strategies.Genomes, count: int) -> Tensor:
        """(count,) float64: the mean loss of the candidates with these genomes."""
        mask = self._masks(genomes)
        task = self.task
        data = task.data
        total = torch.zeros(count, dtype=torch.float64, device=task.torch_device)
        outputs_of_one = count * _largest(task)
        size = max(1, OUTPUTS // outputs_of_one)
        for part in self.rows.split(size):
            inputs, labels = data.labelled("train", part)
            inputs = inputs.to(self.kind)
            logits = self._logits(mask, inputs, count).mT  # (count, classes, examples)
            logits = logits.to(task.torch_dtype)
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


def draw_of(ctx: Context) -> masks.Draw:
    """Step 2: the numbers that make candidate `ctx.hp["candidate"]`; of the first one, those of
    `chance`.
    """

    def draw(site: str, shape: tuple[int, ...]) -> Tensor:
        number = ctx.hp["candidate"].long()
        name = f"chance/{site}"
        return ctx.uniform(name, shape, number)

    return draw


def _by_batch(module: nn.Module) -> nn.Module:
    """A copy of `module` in evaluation whose batch-norm goes by the examples at hand. What it has
    averaged in training is of the incumbent: a unit that was removed has a variance of 0 there, and
    no candidate with it would win.
    """
    own = stack.copied(module)
    for part in own.modules():
        if isinstance(part, _BatchNorm):
            part.train()
            part.track_running_stats = False
    return own


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


def whole(value: Value) -> int:
    assert isinstance(value, int)
    return value
