"""Samplers by Optuna: the next configurations of an arm from what earlier ones measured.

Nothing is kept between calls: each makes a study in memory from what it is told. The same told, the
same proposals, whatever was killed in between.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...analysis.rows.goals import Goals
from ...trainables.domain import Value
from ..study.schema import Arm, Span
from .drawn import Configuration, active, digest, place, proposals, settled

if TYPE_CHECKING:  # optuna takes a second to import
    from optuna import Study
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

Params = dict[str, float | int]
"""Hyper-parameters as Optuna is given them: numbers of a span as they are, of several values the
place of one.
"""
STARTUP = 10
"""Configurations measured before tpe and gp propose, Optuna's own number."""
POPULATION = 16
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


def propose(
    arm: Arm, goals: Goals, told: Sequence[Told], round: int, count: int
) -> list[Configuration]:
    """`count` configurations of `arm`, distinct and none of them told; fewer only where the space
    has no more.

    told: in the order in which they were proposed.  round: the number of this round, above those
    told. Until enough are measured, and in place of a configuration that is known, the next one of
    the arm's Sobol' sequence.
    """
    known = {digest(each.hp) for each in told}
    unseen = _unseen(arm, known, len(told) + count)
    held = [(each, params) for each in told if (params := _params(arm, each.hp)) is not None]
    generations = _generations([each for each, _ in held])
    waits = (
        generations[-1] == 0
        if arm.sampler == "nsga2"
        else sum(_measured(each) for each, _ in held) < STARTUP
    )
    if waits:
        return list(itertools.islice(unseen, count))
    with quiet():
        study, found = _study(arm, goals, held, generations, round), list[Configuration]()
        average = _average(study) if arm.sampler == "gp" else None
        for _ in range(count):
            hp = _ask(arm, study, average)
            if digest(hp) in known:
                again = next(unseen, None)
                if again is None:
                    break
                hp = again
            known.add(digest(hp))
            found.append(hp)
    return found


def _unseen(arm: Arm, known: Set[bytes], count: int) -> Iterator[Configuration]:
    """Of the first `count` points of the arm's Sobol' sequence, each that is not known when it is
    asked for.
    """
    sequence = proposals(dataclasses.replace(arm, sampler="sobol", members=count))
    return (hp for hp in sequence if digest(hp) not in known)


def _measured(told: Told) -> bool:
    return told.values is not None and all(map(math.isfinite, told.values))


def _generations(told: Sequence[Told]) -> list[int]:
    """The generation of nsga2 that each belongs to, and that of the next round.

    A round belongs to the next generation if so many of the one before it were measured as a
    population has.
    """
    rounds = [list(group) for _, group in itertools.groupby(told, key=lambda each: each.round)]
    population, generation, measured, found = _population(told), 0, 0, list[int]()
    for group in [*rounds, []]:
        if measured >= population:
            generation, measured = generation + 1, 0
        found += [generation] * max(1, len(group))
        measured += sum(map(_measured, group))
    return found


def _population(told: Sequence[Told]) -> int:
    return max([POPULATION, *collections.Counter(each.round for each in told).values()])


def _study(
    arm: Arm,
    goals: Goals,
    held: Sequence[tuple[Told, Params]],
    generations: Sequence[int],
    round: int,
) -> Study:
    """What Optuna would hold had it lived through all rounds, and a sampler for this one."""
    import optuna
    from optuna.samplers import GPSampler, NSGAIISampler, TPESampler
    from optuna.study import StudyDirection
    from optuna.trial import TrialState

    seed = int(np.random.SeedSequence((arm.sampler_seed, round)).generate_state(1)[0])
    nsga2 = NSGAIISampler(population_size=_population([each for each, _ in held]), seed=seed)
    if arm.sampler == "tpe":
        sampler = TPESampler(
            n_startup_trials=STARTUP,
            multivariate=True,
            group=bool(arm.when),
            constant_liar=True,
            seed=seed,
        )
    else:
        sampler = (
            nsga2 if arm.sampler == "nsga2" else GPSampler(n_startup_trials=STARTUP, seed=seed)
        )
    ways = (StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE)
    study = optuna.create_study(directions=[ways[up] for up in goals.directions], sampler=sampler)
    distributions, broken = _distributions(arm), _padded([each.violations for each, _ in held])
    for (each, params), generation, violations in zip(held, generations, broken, strict=False):
        measured = _measured(each)
        study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if measured else TrialState.FAIL,
                values=each.values if measured else None,
                params=params,
                distributions={name: distributions[name] for name in params},
                system_attrs={nsga2._get_generation_key(): generation}
                if arm.sampler == "nsga2"
                else None,
                constraints={str(i): violation for i, violation in enumerate(violations)}
                if measured
                else None,
            )
        )
    if (
        arm.sampler == "nsga2"
    ):  # the parents of generations that have begun are chosen, each from those before it
        for generation in range(1, generations[len(held) - 1] + 1):
            nsga2.get_parent_population(study, generation)
    return study


def _padded(violations: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """As many for each as the one with most has: the gp needs that. What is added is kept by as
    much as others break it.
    """
    most = max(map(len, violations))
    added = [-max(column) for column in itertools.zip_longest(*violations, fillvalue=-math.inf)]
    return [(*each, *added[len(each) : most]) for each in violations]


def _average(study: Study) -> tuple[list[float], dict[str, float]]:
    """Means of values and constraints over what was measured."""
    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    values = np.mean([trial.values for trial in done], axis=0).tolist()
    return values, {
        name: float(np.mean([trial.constraints[name] for trial in done]))
        for name in done[0].constraints
    }


def _ask(
    arm: Arm, study: Study, average: tuple[list[float], dict[str, float]] | None
) -> Configuration:
    """The configuration that Optuna proposes next; the study takes it to be measured as `average`,
    or to be running.

    Running trials cost the gp of Optuna 5 time exponential in their number (it sums over their
    subsets).
    """
    trial, hp = study.ask(), Configuration()
    distributions = _distributions(arm)
    for name in [
        *(name for name in arm.space if name not in arm.when),
        *arm.when,
    ]:  # after those that it depends on
        values = arm.space[name]
        if name not in distributions:
            assert not isinstance(values, Span)
            hp[name] = values[0]
        elif arm.sampler != "tpe" or active(arm, hp, name):
            hp[name] = _decoded(values, trial._suggest(name, distributions[name]))
    if average is not None:
        for name, violation in average[1].items():
            trial.set_constraint(name, violation)
        study.tell(trial, average[0])
    return settled(arm, hp)


def _distributions(
    arm: Arm,
) -> dict[str, FloatDistribution | IntDistribution | CategoricalDistribution]:
    """What Optuna is told of each hyper-parameter that has several values; numbers keep their
    order.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, FloatDistribution | IntDistribution | CategoricalDistribution] = {}
    for name, values in arm.space.items():
        if isinstance(values, Span):
            if values.whole:
                found[name] = IntDistribution(int(values.low), int(values.high), log=values.log)
            else:
                found[name] = FloatDistribution(values.low, values.high, log=values.log)
        elif len(values) > 1:
            numbers = all(isinstance(value, int | float) for value in values)
            found[name] = (
                IntDistribution(0, len(values) - 1)
                if numbers
                else CategoricalDistribution(range(len(values)))
            )
    return found


def _params(arm: Arm, hp: Mapping[str, Value]) -> Params | None:
    """`hp` as Optuna is given it; None if it is out of the space, as the study may have changed.

    What is not searched in it is left out for tpe, which groups what comes together; the others
    know no conditions, and are given the middle.
    """
    middle = place(arm.space, np.full(len(arm.space), 0.5))
    found: Params = {}
    for name in _distributions(arm):
        if not active(arm, hp, name) and arm.sampler == "tpe":
            continue
        code = _encoded(arm.space[name], hp[name] if active(arm, hp, name) else middle[name])
        if code is None:
            return None
        found[name] = code
    return found


def _encoded(values: tuple[Value, ...] | Span, value: Value) -> float | int | None:
    if isinstance(values, Span):
        return (
            value if isinstance(value, int | float) and values.low <= value <= values.high else None
        )
    return _sorted(values).index(value) if value in values else None


def _decoded(values: tuple[Value, ...] | Span, code: float | int) -> Value:
    return code if isinstance(values, Span) else _sorted(values)[int(code)]


def _sorted(values: tuple[Value, ...]) -> list[Value]:
    """Values in the order of their codes: numbers from the least on, others as they are."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return [*sorted(numbers)] if len(numbers) == len(values) else [*values]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither Optuna's log nor its warnings, and one thread, as sums of several depend on their
    number.
    """
    import optuna

    threads, level = torch.get_num_threads(), optuna.logging.get_verbosity()
    try:
        torch.set_num_threads(1)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        torch.set_num_threads(threads)
        optuna.logging.set_verbosity(level)
