"""Generations of nsga2: which one a configuration belongs to, and how a study of Optuna has them.

Optuna keeps a trial's generation under a key that only a private function says. Where that is not
to be had, the trials are lived through again by public functions: slower, and the same.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...trainables.domain import Value

if TYPE_CHECKING:  # optuna takes a second to import
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import NSGAIISampler
    from optuna.trial import FrozenTrial, Trial

LEAST_POPULATION = 16
"""Members of a generation of nsga2 at least; those of the largest round, if they are more. Optuna's
50 is for longer ones.
"""


@dataclasses.dataclass(frozen=True)
class Told:
    """A configuration that was proposed before.

    hp: complete.  values: one for each of the goals' measures; None: it failed or diverged.
    violations: at most 0 where a constraint is kept; some may have more of them than others, which
    count as kept by those.
    """

    round: int
    hp: Mapping[str, Value]
    values: tuple[float, ...] | None
    violations: tuple[float, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether there are values, all of them finite."""
        return self.values is not None and all(map(math.isfinite, self.values))


@dataclasses.dataclass(frozen=True)
class Past:
    """A trial that has ended, as Optuna is told of it. values: None if it failed."""

    round: int
    params: Mapping[str, float | int]
    distributions: Mapping[str, BaseDistribution]
    values: tuple[float, ...] | None
    constraints: Mapping[str, float]

    def frozen(self, attributes: dict[str, int] | None = None) -> FrozenTrial:
        """The trial of Optuna, with attributes of its sampler."""
        import optuna
        from optuna.trial import TrialState

        state = TrialState.FAIL
        constraints = None
        if self.values is not None:
            state = TrialState.COMPLETE
            constraints = dict(self.constraints)
        return optuna.create_trial(
            state=state,
            values=self.values,
            params=dict(self.params),
            distributions=dict(self.distributions),
            system_attrs=attributes,
            constraints=constraints,
        )


def size(told: Sequence[Told]) -> int:
    """Members of a generation."""
    rounds = collections.Counter(configuration.round for configuration in told)
    sizes = rounds.values()
    return max([LEAST_POPULATION, *sizes])


def generations(told: Sequence[Told]) -> list[int]:
    """The generation that each belongs to, and that of the next round.

    A round belongs to the next generation if so many of the one before it were measured as a
    population has.
    """
    numbers: list[int] = []
    population = size(told)
    generation = 0
    measured = 0
    for _, group in itertools.groupby(told, key=lambda configuration: configuration.round):
        if measured >= population:
            generation += 1
            measured = 0
        for configuration in group:
            numbers.append(generation)
            measured += configuration.measured
    if measured >= population:
        generation += 1
    return [*numbers, generation]


def in_use() -> str:
    """How generations are kept: by a function that Optuna does not promise, or without it."""
    if generation_key() is None:
        return "nsga2 lives through earlier rounds again, by public functions: slower, and the same"
    return "nsga2 keeps generations by a private function (`_get_generation_key`)"


@functools.cache
def generation_key() -> str | None:
    """The attribute of a trial that holds its generation; None if this Optuna has no such one, or
    does not go by it.
    """
    import optuna
    from optuna.samplers import NSGAIISampler

    private = getattr(NSGAIISampler, "_get_generation_key", None)
    if private is None:
        return None
    sampler = NSGAIISampler()
    study = optuna.create_study(sampler=sampler)
    try:
        key = private()
        trial = Past(0, {}, {}, (0.0,), {}).frozen({key: 3})
        study.add_trial(trial)
    except Exception:  # of a function that promises nothing
        return None
    members = sampler.get_population(study, 3)
    if len(members) != 1:
        return None
    return key


def enter(
    study: Study,
    sampler: NSGAIISampler,
    past: Sequence[Past],
    numbers: Sequence[int],
) -> None:
    """Give a study its past, the trials of each generation and their parents.

    numbers: the generation of each.  sampler: the study's; nothing is drawn from it.
    """
    from optuna.samplers import NSGAIISampler

    population = sampler.population_size
    assert population is not None
    key = generation_key()
    if key is None:
        study.sampler = NSGAIISampler(population_size=population, seed=0)
        _live_through(study, past)
        study.sampler = sampler
    else:
        for trial, generation in zip(past, numbers, strict=True):
            study.add_trial(trial.frozen({key: generation}))
    # The parents of generations that have begun are chosen, each from those before it.
    for generation in range(1, numbers[-1] + 1):
        sampler.get_parent_population(study, generation)


def _live_through(study: Study, past: Sequence[Past]) -> None:
    """Ask and tell a study all rounds: its sampler, when asked, sets the generation of a trial."""
    from optuna.trial import TrialState

    for _, group in itertools.groupby(past, key=lambda trial: trial.round):
        asked: list[tuple[Past, Trial]] = []
        for trial in group:
            study.enqueue_trial(dict(trial.params))
            running = study.ask()
            _ = running.relative_params  # for which the generation is looked at
            _suggest_all(running, trial.distributions)
            asked.append((trial, running))
        for trial, running in asked:
            if trial.values is None:
                study.tell(running, state=TrialState.FAIL)
                continue
            for name, violation in trial.constraints.items():
                running.set_constraint(name, violation)
            study.tell(running, trial.values)


def _suggest_all(trial: Trial, distributions: Mapping[str, BaseDistribution]) -> None:
    for name, distribution in distributions.items():
        suggest(trial, name, distribution)


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> float | int:
    """What a trial has for a hyper-parameter, asked of the sampler if it has nothing yet."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name,
            distribution.low,
            distribution.high,
            log=distribution.log,
        )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name,
            distribution.low,
            distribution.high,
            log=distribution.log,
        )
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)  # type: ignore[return-value]
