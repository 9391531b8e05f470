"""Samplers by Optuna: the next configurations of an arm from what earlier ones measured.

Nothing is kept between calls: each makes a study in memory from what it is told. The same told, the
same proposals, whatever was killed in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...analysis.rows.goals import Goals
from ...trainables.domain import Value
from ..study.schema import Arm, Hp, Span, Values
from . import population
from .drawn import Configuration, active, digest, place, proposals, settled
from .population import Past, Told

if TYPE_CHECKING:  # optuna takes a second to import
    from optuna import Study
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    Distribution = FloatDistribution | IntDistribution | CategoricalDistribution

Params = dict[str, float | int]
"""Hyper-parameters as Optuna is given them: numbers of a span as they are, of several values the
place of one.
"""
Held = tuple[Told, Params]
Violations = tuple[float, ...]
STARTUP = 10
"""Configurations measured before tpe and gp propose, Optuna's own number."""


@dataclasses.dataclass(frozen=True)
class Average:
    """Means over the trials that were measured."""

    values: list[float]
    constraints: dict[str, float]


def propose(
    arm: Arm,
    goals: Goals,
    told: Sequence[Told],
    round: int,
    count: int,
) -> list[Configuration]:
    """`count` configurations of `arm`, distinct and none of them told; fewer only where the space
    has no more.

    told: in the order in which they were proposed.  round: the number of this round, above those
    told. Until enough are measured, and in place of a configuration that is known, the next one of
    the arm's Sobol' sequence.
    """
    known = {digest(configuration.hp) for configuration in told}
    unseen = _unseen(arm, known, len(told) + count)
    held = _in_space(arm, told)
    told_in_space = [configuration for configuration, _ in held]
    if _starts_up(arm, told_in_space):
        return list(itertools.islice(unseen, count))
    configurations: list[Configuration] = []
    with quiet():
        study = _study(arm, goals, held, round)
        average = None
        if arm.sampler == "gp":
            average = _average(study)
        for _ in range(count):
            hp = _ask(arm, study, average)
            if digest(hp) in known:
                hp = next(unseen, None)
                if hp is None:
                    break
            known.add(digest(hp))
            configurations.append(hp)
    return configurations


def _unseen(arm: Arm, known: Set[bytes], count: int) -> Iterator[Configuration]:
    """Of the first `count` points of the arm's Sobol' sequence, each that is not known when it is
    asked for.
    """
    sequence = dataclasses.replace(arm, sampler="sobol", members=count)
    for hp in proposals(sequence):
        if digest(hp) not in known:
            yield hp


def _in_space(arm: Arm, told: Sequence[Told]) -> list[Held]:
    """Those of the space as it is now."""
    held: list[Held] = []
    for configuration in told:
        params = _params(arm, configuration.hp)
        if params is not None:
            held.append((configuration, params))
    return held


def _starts_up(arm: Arm, told: Sequence[Told]) -> bool:
    """Whether too few are measured to learn from."""
    if arm.sampler == "nsga2":
        *_, current = population.generations(told)
        return current == 0
    measured = sum(configuration.measured for configuration in told)
    return measured < STARTUP


def _study(arm: Arm, goals: Goals, held: Sequence[Held], round: int) -> Study:
    """What Optuna would hold had it lived through all rounds, and a sampler for this one."""
    import optuna
    from optuna.samplers import NSGAIISampler
    from optuna.study import StudyDirection

    ways = (StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE)
    directions = [ways[up] for up in goals.directions]
    told = [configuration for configuration, _ in held]
    sampler = _sampler(arm, told, round)
    study = optuna.create_study(directions=directions, sampler=sampler)
    past = _past(arm, held)
    if isinstance(sampler, NSGAIISampler):
        *generations, _ = population.generations(told)
        population.enter(study, sampler, past, generations)
        return study
    for trial in past:
        study.add_trial(trial.frozen())
    return study


def _sampler(arm: Arm, told: Sequence[Told], round: int) -> BaseSampler:
    from optuna.samplers import GPSampler, NSGAIISampler, TPESampler

    sequence = np.random.SeedSequence((arm.sampler_seed, round))
    seed = int(sequence.generate_state(1)[0])
    if arm.sampler == "nsga2":
        return NSGAIISampler(population_size=population.size(told), seed=seed)
    if arm.sampler == "gp":
        return GPSampler(n_startup_trials=STARTUP, seed=seed)
    return TPESampler(
        n_startup_trials=STARTUP,
        multivariate=True,
        group=bool(arm.when),
        constant_liar=True,
        seed=seed,
    )


def _past(arm: Arm, held: Sequence[Held]) -> list[Past]:
    distributions = _distributions(arm)
    violations = _padded([configuration.violations for configuration, _ in held])
    trials: list[Past] = []
    for (configuration, params), broken in zip(held, violations, strict=True):
        values = None
        if configuration.measured:
            values = configuration.values
        constraints: dict[str, float] = {}
        for index, violation in enumerate(broken):
            constraints[str(index)] = violation
        trial = Past(
            round=configuration.round,
            params=params,
            distributions={name: distributions[name] for name in params},
            values=values,
            constraints=constraints,
        )
        trials.append(trial)
    return trials


def _padded(violations: Sequence[Violations]) -> list[Violations]:
    """As many for each as the one with most has: the gp needs that. What is added is kept by as
    much as others break it.
    """
    columns = itertools.zip_longest(*violations, fillvalue=-math.inf)
    added = [-max(column) for column in columns]
    padded: list[Violations] = []
    for own in violations:
        lacking = added[len(own) :]
        padded.append((*own, *lacking))
    return padded


def _average(study: Study) -> Average:
    done: list[FrozenTrial] = []
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            done.append(trial)
    values = np.mean([trial.values for trial in done], axis=0)
    constraints: dict[str, float] = {}
    for name in done[0].constraints:
        violations = [trial.constraints[name] for trial in done]
        mean = np.mean(violations)
        constraints[name] = float(mean)
    return Average(values.tolist(), constraints)


def _ask(arm: Arm, study: Study, average: Average | None) -> Configuration:
    """The configuration that Optuna proposes next; the study takes it to be measured as `average`,
    or to be running.

    Running trials cost the gp of Optuna 5 time exponential in their number (it sums over their
    subsets).
    """
    trial = study.ask()
    hp = Configuration()
    distributions = _distributions(arm)
    unconditional = [name for name in arm.space if name not in arm.when]
    for name in (*unconditional, *arm.when):  # each after those that it depends on
        values = arm.space[name]
        if name not in distributions:
            assert not isinstance(values, Span)
            hp[name] = values[0]
        elif arm.sampler != "tpe" or active(arm, hp, name):
            code = population.suggest(trial, name, distributions[name])
            hp[name] = _decoded(values, code)
    if average is not None:
        for name, violation in average.constraints.items():
            trial.set_constraint(name, violation)
        study.tell(trial, average.values)
    return settled(arm, hp)


def _distributions(arm: Arm) -> dict[str, Distribution]:
    """What Optuna is told of each hyper-parameter that has several values."""
    distributions: dict[str, Distribution] = {}
    for name, values in arm.space.items():
        has_several = isinstance(values, Span) or len(values) > 1
        if has_several:
            distributions[name] = _distribution(values)
    return distributions


def _distribution(values: Values) -> Distribution:
    """Numbers keep their order."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, Span):
        if values.whole:
            return IntDistribution(int(values.low), int(values.high), log=values.log)
        return FloatDistribution(values.low, values.high, log=values.log)
    if all(isinstance(value, int | float) for value in values):
        return IntDistribution(0, len(values) - 1)
    return CategoricalDistribution(range(len(values)))


def _params(arm: Arm, hp: Hp) -> Params | None:
    """`hp` as Optuna is given it; None if it is out of the space, as the study may have changed.

    What is not searched in it is left out for tpe, which groups what comes together; the others
    know no conditions, and are given the middle.
    """
    middle = place(arm.space, np.full(len(arm.space), 0.5))
    params: Params = {}
    for name in _distributions(arm):
        is_active = active(arm, hp, name)
        if not is_active and arm.sampler == "tpe":
            continue
        value = middle[name]
        if is_active:
            value = hp[name]
        code = _encoded(arm.space[name], value)
        if code is None:
            return None
        params[name] = code
    return params


def _encoded(values: Values, value: Value) -> float | int | None:
    """None if the value is none of `values`."""
    if isinstance(values, Span):
        if not isinstance(value, int | float):
            return None
        if not values.low <= value <= values.high:
            return None
        return value
    if value not in values:
        return None
    return _sorted(values).index(value)


def _decoded(values: Values, code: float | int) -> Value:
    if isinstance(values, Span):
        return code
    return _sorted(values)[int(code)]


def _sorted(values: tuple[Value, ...]) -> list[Value]:
    """Values in the order of their codes: numbers from the least on, others as they are."""
    numbers: list[int | float] = []
    for value in values:
        if isinstance(value, int | float):
            numbers.append(value)
    if len(numbers) < len(values):
        return list(values)
    return [*sorted(numbers)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither Optuna's log nor its warnings, and one thread, as sums of several depend on their
    number.
    """
    import optuna

    threads = torch.get_num_threads()
    level = optuna.logging.get_verbosity()
    try:
        torch.set_num_threads(1)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        torch.set_num_threads(threads)
        optuna.logging.set_verbosity(level)
