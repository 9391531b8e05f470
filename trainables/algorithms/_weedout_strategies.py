"""How Weedout goes on from the candidates that it has scored: mutation, swaps of nodes, crossover.

A candidate is a genome: a number in [0, 1) for each unit or weight, of which a layer keeps those
with the highest. So whatever a strategy does, exactly as many are kept as the sparsity says. A
generation has GENERATION candidates, the first one is drawn as in random search, and nothing
depends on how many there will be: a smaller budget is a prefix of a larger one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..structure.masks import Draw
from ..structure.units import Structure
from ..training import draws

GENERATION = 16
"""Candidates that are drawn from the same ones before them: lambda, the neighbourhood, the
population.
"""
Genomes = dict[str, Tensor]
"""Site -> numbers (G, *shape): of G candidates, or without the first dimension of one."""


@dataclasses.dataclass
class Population:
    """The best GENERATION candidates so far, best first: genomes, and losses (G,) float64.

    kept: of the best one, by site, what its mask keeps of what has a number.
    """

    genomes: Genomes
    losses: Tensor
    kept: Genomes = dataclasses.field(default_factory=dict)


def joined(population: Population | None, genomes: Genomes, losses: Tensor) -> Population:
    """The best of a population and of another generation; of equals the earlier ones."""
    if population is not None:
        losses = torch.cat([population.losses, losses])
        for site, numbers in population.genomes.items():
            genomes = {**genomes, site: torch.cat([numbers, genomes[site]])}
    worth = losses.nan_to_num(nan=torch.inf)
    order = torch.argsort(worth, stable=True)
    best = order[:GENERATION]
    left = {site: numbers[best] for site, numbers in genomes.items()}
    return Population(left, worth[best])


def sites(
    structure: Structure, params: Mapping[str, Tensor], granularity: str
) -> dict[str, tuple[int, ...]]:
    """The shapes of what is drawn for a candidate, by site."""
    shapes: dict[str, tuple[int, ...]] = {}
    if granularity == "node":
        for layer in structure.hidden:
            shapes[layer.name] = (layer.units,)
        return shapes
    for name in structure.parameters:
        shapes[name] = tuple(params[name].shape)
    return shapes


def drawn(genome: Genomes) -> Draw:
    """One genome as what masks are drawn from."""

    def draw(site: str, shape: tuple[int, ...]) -> Tensor:
        return genome[site]

    return draw


def offspring(strategy: str, population: Population, seed: Tensor, generation: int) -> Genomes:
    """The genomes of a generation, the second one being 1."""

    def draw(what: str, shape: tuple[int, ...]) -> Tensor:
        key = draws.key(seed, "weedout", strategy, generation, what)
        return draws.uniform(key, shape)

    return STRATEGIES[strategy](population, draw)


def mutation(population: Population, draw: Draw) -> Genomes:
    """(1 + lambda): of the best candidate, each number of a layer of n is drawn anew with
    probability 1/n.
    """
    best: Genomes = {}
    for site, numbers in population.genomes.items():
        best[site] = numbers[:1].expand(GENERATION, *numbers.shape[1:])
    return _mutated(best, draw)


def climb(population: Population, draw: Draw) -> Genomes:
    """Hill climbing: of the best candidate, a kept and a removed node of one layer are swapped."""
    names: list[str] = []
    for name, kept in population.kept.items():
        if kept.any() and not kept.all():  # of a layer's biases none may be kept
            names.append(name)
    names = names or list(population.kept)
    layers = _place(draw("layer", (GENERATION,)), len(names))
    swapped: Genomes = {}
    for name, numbers in population.genomes.items():
        best = numbers[:1].expand(GENERATION, *numbers.shape[1:])
        swapped[name] = best
        if name in names:
            is_here = layers == names.index(name)
            swapped[name] = _swapped(best, population.kept[name], is_here, name, draw)
    return swapped


def _swapped(best: Tensor, kept: Tensor, is_here: Tensor, name: str, draw: Draw) -> Tensor:
    """The numbers (G, ...) of a layer, those of two random places exchanged where it `is_here`,
    (G,): one that is kept and one that is removed.
    """
    flat = best.flatten(1)
    is_kept = kept.flatten()
    (inside,) = is_kept.nonzero(as_tuple=True)
    (outside,) = torch.logical_not(is_kept).nonzero(as_tuple=True)
    if not len(inside) or not len(outside):
        return best
    pairs = draw(f"swap {name}", (GENERATION, 2))
    one, other = pairs.unbind(1)
    first = inside[_place(one, len(inside))]
    second = outside[_place(other, len(outside))]
    rows = torch.arange(GENERATION, device=best.device)
    exchanged = flat.clone()
    exchanged[rows, first] = flat[rows, second]
    exchanged[rows, second] = flat[rows, first]
    chosen = torch.where(is_here[:, None], exchanged, flat)
    return chosen.view(best.shape)


def _place(uniform: Tensor, count: int) -> Tensor:
    """Places out of `count`, from numbers in [0, 1)."""
    scaled = uniform * count
    return scaled.long()


def genetic(population: Population, draw: Draw) -> Genomes:
    """Two parents, each the better of two drawn from the population; every number is of either one,
    and then mutated.
    """
    count = len(population.losses)
    rivals = _place(draw("parents", (GENERATION, 2, 2)), count)
    parents = rivals.amin(-1)  # the population is sorted
    mother, father = parents.unbind(1)
    crossed: Genomes = {}
    for site, numbers in population.genomes.items():
        of_mother = draw(f"cross {site}", (GENERATION, *numbers.shape[1:])) < 0.5
        crossed[site] = torch.where(of_mother, numbers[mother], numbers[father])
    return _mutated(crossed, draw)


def _mutated(genomes: Genomes, draw: Draw) -> Genomes:
    mutated: Genomes = {}
    for site, numbers in genomes.items():
        shape = tuple(numbers.shape)
        rate = 1 / max(1, numbers[0].numel())
        is_new = draw(f"where {site}", shape) < rate
        fresh = draw(f"number {site}", shape)
        mutated[site] = torch.where(is_new, fresh, numbers)
    return mutated


STRATEGIES: Mapping[str, Callable[[Population, Draw], Genomes]] = {
    "mutation": mutation,
    "climb": climb,
    "genetic": genetic,
}
"""How the next generation comes from those before it; random search needs none."""
