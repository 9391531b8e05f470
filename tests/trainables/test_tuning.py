"""An algorithm as an ordinary Tune trainable: ASHA stops it, PBT copies and mutates it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining

from prunefront.trainables.task import Task
from prunefront.trainables.tuning import trainable

TASK = Task(model_options={"widths": [8]}, epochs=4, rungs=4)


def tuned(
    scratch: Path,
    name: str,
    algorithm: str,
    space: dict[str, object],
    samples: int,
    scheduler: object,
) -> tune.ResultGrid:
    return tune.Tuner(
        trainable(algorithm, TASK),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="accuracy_valid",
            mode="max",
            num_samples=samples,
            scheduler=scheduler,  # type: ignore[arg-type]
            max_concurrent_trials=2,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(scratch / "tune"),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    ).fit()


@pytest.mark.filterwarnings("ignore")
def test_asha_stops_the_worst(small_ray: Path):
    space = {"sparsity": tune.grid_search([0.3, 0.5, 0.98, 0.99]), "seed": 1}
    found = tuned(
        small_ray,
        "asha",
        "dns",
        space,
        1,
        ASHAScheduler(max_t=4, grace_period=1, reduction_factor=2),
    )
    assert found.num_errors == 0
    rungs = {
        result.config["sparsity"]: result.metrics["training_iteration"]
        for result in found
        if result.metrics and result.config
    }
    assert max(rungs.values()) == 4
    assert min(rungs.values()) < 4
    best = found.get_best_result().metrics
    assert best is not None
    assert best["rung"] == best["training_iteration"]
    assert not any(name.endswith("_test") for name in best), "no scheduler can see test data"


@pytest.mark.filterwarnings("ignore")
def test_pbt_changes_what_is_tunable(small_ray: Path):
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        quantile_fraction=0.5,
        synch=True,  # so that who is replaced does not depend on who is faster
        hyperparam_mutations={"gamma": [1e-4, 1e-3, 1e-2], "lr": [0.01, 0.05, 0.1]},
    )
    space = {"sparsity": 0.7, "gamma": 1e-4, "lr": tune.grid_search([1e-6, 0.05, 2e-6, 0.1])}
    found = tuned(small_ray, "pbt", "dns", space, 1, scheduler)
    assert found.num_errors == 0
    assert all(result.metrics and result.metrics["training_iteration"] == 4 for result in found)
    rates = sorted(result.config["lr"] for result in found if result.config)
    assert rates != [1e-6, 2e-6, 0.05, 0.1], "no network was replaced"


def restore(trial: tune.Trainable, folder: Path) -> None:
    """As Tune does: it hands over the folder's path, whatever the annotation says."""
    trial.load_checkpoint(cast(Any, str(folder)))


def test_a_checkpoint_takes_new_values_of_what_is_tunable_and_refuses_others(tmp_path: Path):
    single = trainable("dns", TASK)
    first = single({"sparsity": 0.7, "seed": 3})
    first.step()
    first.save_checkpoint(str(tmp_path))
    assert json.loads((tmp_path / "member.json").read_text())["seed"] == 3
    calm, changed = (
        single({"sparsity": 0.7, "seed": 3}),
        single({"sparsity": 0.7, "seed": 3, "lr": 1e-9, "gamma": 0.5}),
    )
    for other in (calm, changed):
        restore(other, tmp_path)
    after, slow = calm.step(), changed.step()
    assert {**first.step(), "seconds": 0} == {**after, "seconds": 0}, (
        "restored, it goes on as if nothing had been"
    )
    assert after["loss_train"] != slow["loss_train"]
    for wrong, name in (
        ({"sparsity": 0.8, "seed": 3}, "sparsity"),
        ({"sparsity": 0.7, "seed": 4}, "seed"),
    ):
        refused = single(wrong)
        with pytest.raises(
            ValueError, match=f"only gamma, power, lr, weight_decay may change .* got `{name}`"
        ):
            restore(refused, tmp_path)


def test_what_is_wrong_is_said_before_any_trial():
    with pytest.raises(ValueError, match='no algorithm "dsn"; did you mean "dns"'):
        trainable("dsn", TASK)
    with pytest.raises(ValueError, match="`sparsity` is the share removed at the end: a number in"):
        trainable("dns", TASK)({"sparsity": 1.0})
