"""Samplers by Optuna: the same told, the same proposals; better than chance; directions, limits,
conditions are kept.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
import pytest

from prunefront.analysis.points import front
from prunefront.analysis.rows import table
from prunefront.analysis.rows.goals import Goals, Limit
from prunefront.search.propose import learnt, population
from prunefront.search.propose.drawn import proposals, settled
from prunefront.search.propose.learnt import propose
from prunefront.search.propose.population import Told
from prunefront.search.study.schema import MODELLED, Arm, Span
from prunefront.search.tools import export
from prunefront.trainables.algorithms import find
from prunefront.trainables.domain import Value

GOALS = Goals((), ("m_a", "m_b"))
SHARES = {name: Span(0.0, 0.9, log=False, whole=False) for name in ("sparsity", "floor")}
SHARES["ramp"] = Span(0.1, 1.0, log=False, whole=False)
CHOICES: dict[str, tuple[Value, ...] | Span] = {
    "schedule": ("one-shot", "gradual"), "ramp": Span(0.2, 1.0, log=False, whole=False), "sparsity": (0.5, 0.7, 0.9)
}  # fmt: skip
WHEN = {"ramp": {"schedule": ("gradual",)}}


def arm(
    sampler: str,
    space: Mapping[str, tuple[Value, ...] | Span] = SHARES,
    when: object = None,
    seed: int = 0,
) -> Arm:
    return Arm("a", "magnitude", find("magnitude"), sampler, 999, space, seed, when or {})  # type: ignore[arg-type]


def toy(hp: Mapping[str, Value]) -> tuple[float, ...]:
    """Two objectives in conflict over `sparsity`, both better where the others are near a point."""
    x, y, z = (float(hp[name]) for name in ("sparsity", "floor", "ramp"))  # type: ignore[arg-type]
    far = (y - 0.2) ** 2 + (z - 0.8) ** 2
    return x**2 + far, (x - 0.9) ** 2 + far


def searched(
    of: Arm,
    rounds: int,
    batch: int = 16,
    goals: Goals = GOALS,
    measure: Callable[..., object] = toy,
) -> list[Told]:
    told: list[Told] = []
    for number in range(rounds):
        for hp in propose(of, goals, told, number, batch):
            found = measure(hp)
            told.append(found if isinstance(found, Told) else Told(number, hp, found))  # type: ignore[arg-type]
    return told


def volume(told: list[Told]) -> float:
    return front.hypervolume([t.values for t in told if t.values], (1, 1), (False, False))


@pytest.mark.parametrize("sampler", MODELLED)
def test_the_same_told_gives_the_same_proposals_also_in_another_process(sampler: str) -> None:
    told = searched(arm(sampler), 1)
    asked = propose(arm(sampler), GOALS, told, 1, 3)
    assert asked == propose(arm(sampler), GOALS, told, 1, 3)
    assert asked != propose(arm(sampler, seed=1), GOALS, told, 1, 3)
    code = (
        "import test_samplers as t; from prunefront.search.propose.learnt import propose\n"
        f"a = t.arm({sampler!r}); print(propose(a, t.GOALS, t.searched(a, 1), 1, 3))"
    )
    here = Path(__file__).parent
    again = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=here,
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.strip() == str(asked)
    assert again.stderr == ""


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_better_than_random_in_few_rounds(sampler: str) -> None:
    found = [volume(searched(arm(sampler, seed=seed), 5)) for seed in range(3)]
    chance = [
        front.hypervolume([toy(hp) for hp in proposals(Arm("a", "magnitude", find("magnitude"), "random", 80, SHARES, seed))],
                          (1, 1), (False, False))
        for seed in range(3)
    ]  # fmt: skip
    assert sum(found) > sum(chance) + 0.05


def test_the_gp_is_better_than_random_in_one_round() -> None:
    told = searched(arm("gp"), 1, batch=12)
    hps = propose(arm("gp"), GOALS, told, 1, 3)
    far = [sum((float(hp[n]) - at) ** 2 for n, at in (("floor", 0.2), ("ramp", 0.8))) for hp in hps]  # type: ignore[arg-type]
    assert max(far) < 0.1  # 0.2 on average at random


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_directions_are_honoured(sampler: str) -> None:
    """One objective, `sparsity` itself: to maximize it goes up, to minimize down."""
    up, down = (
        searched(arm(sampler), 5, goals=goals, measure=lambda hp: (hp["sparsity"],))[-16:]
        for goals in (Goals(("m_a",), ()), Goals((), ("m_a",)))
    )
    high, low = (sum(float(t.hp["sparsity"]) for t in found) / 16 for found in (up, down))  # type: ignore[arg-type]
    assert high > 0.6
    assert low < 0.3


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_constraints_pull_proposals_to_where_they_are_kept(sampler: str) -> None:
    of, told = arm(sampler), list[Told]()
    for number in range(6):
        for hp in propose(of, GOALS, told, number, 16):
            more = (1.0,) if len(told) % 16 == 0 else ()  # some have one more
            told.append(Told(number, hp, toy(hp), (0.7 - float(hp["sparsity"]), *more)))  # type: ignore[arg-type]
    kept = [t.violations[0] <= 0 for t in told]
    assert sum(kept[-32:]) > 2 * sum(kept[:32]) * 0.9


@pytest.mark.parametrize("sampler", MODELLED)
def test_failures_are_no_measurements_and_nothing_is_proposed_twice(sampler: str) -> None:
    def measure(hp: Mapping[str, Value]) -> object:
        return toy(hp) if float(hp["floor"]) < 0.5 else None  # type: ignore[arg-type]

    told = (
        searched(arm(sampler), 2, batch=12, measure=measure)
        if sampler != "gp"
        else searched(arm(sampler), 1, 24, measure=measure)
    )
    assert 10 <= sum(t.values is not None for t in told) < 24
    told += [Told(2, hp, None) for hp in propose(arm(sampler), GOALS, told, 2, 2)]
    assert len({str(t.hp) for t in told}) == 26


@pytest.mark.parametrize("sampler", MODELLED)
def test_conditions_are_kept_and_a_small_space_is_exhausted(sampler: str) -> None:
    space = {**CHOICES, "ramp": (0.25, 1.0)}
    of = arm(sampler, space, WHEN)
    told = searched(of, 2, batch=9, measure=lambda hp: (hp["sparsity"], hp["ramp"]))
    assert len(told) == len({str(t.hp) for t in told}) == 3 + 3 * 2
    wide = arm(sampler, CHOICES, WHEN)
    told = searched(wide, 1, batch=20, measure=lambda hp: (hp["sparsity"], hp["ramp"]))
    for hp in propose(wide, GOALS, told, 1, 2):
        assert hp == settled(wide, hp)
        assert hp["ramp"] == 0.5 or hp["schedule"] == "gradual"


def test_generations_advance_as_those_of_a_live_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study of Optuna that lives through all rounds, with a sampler anew in each, is asked
    beside.
    """
    of, told = arm("nsga2"), list[Told]()
    live = optuna.create_study(directions=["minimize", "minimize"])
    made: list[optuna.Study] = []
    build = learnt._study
    monkeypatch.setattr(learnt, "_study", lambda *given: made.append(build(*given)) or made[-1])
    for number in range(7):
        batch = 10  # two rounds to a generation
        if number == 2:  # a live study repeats what it knows
            monkeypatch.setattr(learnt, "digest", lambda hp: object())
        hps = propose(of, GOALS, told, number, batch)
        if made:
            seed = int(learnt.np.random.SeedSequence((0, number)).generate_state(1)[0])
            live.sampler = optuna.samplers.NSGAIISampler(population_size=16, seed=seed)
            trials = [live.ask(learnt._distributions(of)) for _ in hps]  # type: ignore[arg-type]
            assert [{n: hp[n] for n in SHARES} for hp in hps] == [trial.params for trial in trials]
            for trial, hp in zip(trials, hps, strict=True):
                live.tell(trial, toy(hp))
        else:
            for hp in hps:
                attrs = {"NSGAIISampler:generation": 0}
                params = {n: hp[n] for n in SHARES}
                given = {
                    "params": params,
                    "distributions": learnt._distributions(of),
                    "system_attrs": attrs,
                }
                live.add_trial(optuna.create_trial(values=toy(hp), **given))  # type: ignore[arg-type]
        told += [Told(number, hp, toy(hp)) for hp in hps]
    assert population.generations(told) == [0] * 20 + [1] * 20 + [2] * 20 + [3] * 10 + [3]


@pytest.mark.parametrize("when", [{}, WHEN])
def test_without_the_private_key_of_optuna_nsga2_proposes_the_same(
    monkeypatch: pytest.MonkeyPatch, when: dict[str, object]
) -> None:
    """Failures and violations are lived through too; a round is half a generation, and more."""
    of, told = arm("nsga2", CHOICES if when else SHARES, when), list[Told]()
    assert population.generation_key() is not None
    goals = Goals((), ("m_a", "m_b"))
    for number, count in enumerate((10, 10, 20, 7, 9, 12)):
        hps = propose(of, goals, told, number, count)
        with monkeypatch.context() as without:
            without.setattr(population, "generation_key", lambda: None)
            assert propose(of, goals, told, number, count) == hps
        for place, hp in enumerate(hps):
            sparsity, ramp = float(hp["sparsity"]), float(hp["ramp"])  # type: ignore[arg-type]
            values = (sparsity, 1 - sparsity + ramp) if place % 9 != 4 else None
            told.append(Told(number, hp, values, (0.6 - sparsity,)))
    assert population.generations(told)[-1] >= 2


@pytest.mark.parametrize("private", [None, lambda: "NSGAIISampler:other", lambda: 1 / 0])
def test_a_private_key_that_optuna_does_not_go_by_is_not_used(
    monkeypatch: pytest.MonkeyPatch, private: object
) -> None:
    """Optuna itself may have given up the function, or keep generations elsewhere."""
    population.generation_key.cache_clear()
    with monkeypatch.context() as other:

        class Other(optuna.samplers.NSGAIISampler):
            _get_generation_key = private  # type: ignore[assignment]

            def get_population(
                self, study: optuna.Study, generation: int
            ) -> list[optuna.trial.FrozenTrial]:
                trials = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
                return [t for t in trials if t.system_attrs.get("its own") == generation]

        other.setattr(optuna.samplers, "NSGAIISampler", Other)
        assert population.generation_key() is None
    population.generation_key.cache_clear()


def rows_of(folder: Path) -> None:
    """Rows of two arms: done, stopped and failed members."""
    rows = []
    for k in range(12):
        status = "stopped" if k == 3 else "failed" if k == 7 else "done"
        measures = (
            {}
            if status == "failed"
            else {"accuracy_valid": 0.5 + 0.04 * (k % 5), "flops_masked": 100 + 7 * k}
        )
        base = {
            "study": "s",
            "arm": "ab"[k % 2],
            "member": str(k),
            "seed": 0,
            "hp": "{}",
            "hp_x": k / 12,
            "reason": "",
        }
        rows += [
            base | {"rung": 1, "status": "running", "accuracy_valid": 0.1},
            base | {"rung": 2, "status": status} | measures,
        ]
    table.write(folder / "rows" / "c-1.parquet", rows, {"x": table._real}, {})


@pytest.mark.parametrize("kind", ["sqlite:///{}/o.db", "{}/o.log"])
def test_exported_rows_have_the_same_front(tmp_path: Path, kind: str) -> None:
    rows_of(tmp_path)
    url, goals = kind.format(tmp_path), Goals(constraints=(Limit("flops_masked", 1, 160),))
    assert export.export(tmp_path, url, goals) == ["s/a", "s/b"]
    last = table.last(table.read(tmp_path))
    for name in "ab":
        study = optuna.load_study(study_name=f"s/{name}", storage=export._storage(url))
        mine = last[
            (last["arm"] == name) & (last["status"] == "done") & (last["flops_masked"] <= 160)
        ]
        best = mine[front.front(mine[["accuracy_valid", "flops_masked"]].to_numpy(), (True, False))]
        assert {trial.user_attrs["member"] for trial in study.best_trials} == set(best["member"])
        states = {trial.user_attrs["status"]: trial.state.name for trial in study.trials}
        assert (
            states
            == {"done": "COMPLETE"}
            | {"a": {}, "b": {"stopped": "COMPLETE", "failed": "FAIL"}}[name]
        )
        assert all(trial.user_attrs["rung 1"]["accuracy_valid"] == 0.1 for trial in study.trials)
    with pytest.raises(ValueError, match="the storage has 's/a' already"):
        export.export(tmp_path, url, goals)
    with pytest.raises(ValueError, match="a storage is the URL of a database"):
        export.export(tmp_path, "nonsense", goals)
