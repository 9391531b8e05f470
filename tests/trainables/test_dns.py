"""Dynamic Network Surgery: golden figures of the released networks, and what makes it surgery and
not pruning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import _dns_schedule as schedule
from prunefront.trainables.algorithms import dns, find
from prunefront.trainables.contract import Algorithm, Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.models import build
from prunefront.trainables.structure import masks
from prunefront.trainables.structure.trace import hints as structure_of
from prunefront.trainables.task import Task
from prunefront.trainables.training.pruner import Context, Params, Pruning

C = {"conv1": 2.0, "conv2": 3.0, "ip1": 4.0, "ip2": 2.5}


def test_thresholds_and_first_mask_of_the_released_lenet5(shared_data: Path):
    """The authors' dense LeNet-5: t by layer, and 896 parameters in the first mask."""
    with np.load(shared_data / "dns_lenet5_dense.npz") as file:
        theta = {
            layer: torch.from_numpy(
                np.concatenate([file[f"{layer}_weight"].ravel(), file[f"{layer}_bias"]])
            )
            for layer in C
        }
        names = dict(zip(["0", "2", "5", "7"], C, strict=True))
        params = {}
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                params[f"{ours}.{part}"] = torch.from_numpy(file[f"{theirs}_{part}"])
    found = {layer: dns.threshold(theta[layer], c) for layer, c in C.items()}
    assert found == pytest.approx(
        {"conv1": 0.41980, "conv2": 0.10674, "ip1": 0.07557, "ip2": 0.16300}, abs=5e-6
    )
    structure = structure_of(build("lenet5", (1, 28, 28), 10), (1, 28, 28))
    hp = {**complete(dns.DNS.space, {}), "c": torch.tensor(list(C.values()), dtype=torch.float64)}
    pruning = dns.DNS().init(params, Context(hp, torch.tensor(0), 0, 100, structure))
    assert sum(int(mask.sum()) for mask in pruning["mask"].values()) == 896 == int(pruning["first"])


def test_threshold_leaves_zeros_out_and_is_never_negative():
    theta = torch.tensor([3.0, -1.0, 0.0, 0.0])
    assert dns.threshold(theta, 0.0) == pytest.approx(2.0)
    assert dns.threshold(theta, 1.0) == pytest.approx(3.0)
    assert dns.threshold(theta, -5.0) == 0.0


@pytest.mark.parametrize("scope", ["layerwise", "global"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.98])
def test_a_sparsity_fixes_c_on_the_first_mask(scope: str, sparsity: float):
    task = Task(model_options={"widths": [32]}, epochs=0.2, rungs=1)
    surgery = dns.DNS()
    members = [
        Member(complete(surgery.space, {"sparsity": sparsity, "scope": scope}), seed)
        for seed in range(3)
    ]
    first = surgery.networks(task, surgery.start(task, members)).kept
    total = sum(mask[0].numel() for mask in first.values())
    for k in range(3):
        kept = sum(int(mask[k].sum()) for mask in first.values())
        assert abs(kept - round((1 - sparsity) * total)) <= (1 if scope == "layerwise" else 0)


def test_equation_2_on_numbers_worked_by_hand():
    """t = 1: removed at 0.9 and below, brought back above 1.1, unchanged between."""
    layer = structure_of(torch.nn.Linear(6, 1, bias=False), (6,)).layers[0]
    weight = {"weight": torch.tensor([[0.5, 0.9, -1.0, 1.0, -1.1, 1.2]])}
    mask = {"weight": torch.tensor([[True, True, True, False, False, False]])}
    after = dns._surgery(layer, weight, mask, torch.tensor(1.0, dtype=torch.float32))
    assert after["weight"].tolist() == [[False, False, True, False, False, True]]
    unchanged = dns._surgery(layer, weight, mask, torch.tensor(1.0), torch.tensor(False))
    assert torch.equal(unchanged["weight"], mask["weight"])


class MaskedGradient(dns.DNS):
    """The classic bug: the gradient of what is removed is masked, so nothing can come back."""

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return masks.apply(params, pruning["mask"])


def on_digits(
    algorithm: Algorithm, hp: Mapping[str, object], task: Task, seeds: int
) -> list[dict[str, float]]:
    """Last rows, test data included, of `seeds` members."""
    state = algorithm.start(
        task, [Member(complete(algorithm.space, hp), seed) for seed in range(seeds)]
    )
    for _ in range(task.rungs):
        state = algorithm.advance(task, state)
    return measure(task, algorithm, state, last=True)


def test_surgery_grows_back_what_the_masked_gradient_cannot():
    task = Task(model_options={"widths": [32]}, epochs=20, rungs=1, lr=0.05)
    surgery = on_digits(dns.DNS(), {"c": [1.5, 1.5]}, task, 3)
    ablation = on_digits(MaskedGradient(), {"c": [1.5, 1.5]}, task, 3)
    for row in surgery:
        assert row["m_splices"] > 100
        assert row["m_returned"] > 0.2
        assert row["params_kept"] > row["m_kept_first"], (
            "a run whose count of kept weights never rises is not DNS"
        )
    for row in ablation:
        assert row["m_splices"] == 0
        assert row["m_returned"] == 0


def test_masks_are_frozen_after_stop_while_training_goes_on():
    task = Task(model_options={"widths": [32]}, epochs=4, rungs=4, dtype="float64")
    surgery = dns.DNS()
    state = surgery.start(
        task, [Member(complete(surgery.space, {"stop": 0.5}), seed) for seed in (0, 1)]
    )
    kept, weights = [], []
    for _ in range(4):
        state = surgery.advance(task, state)
        networks = surgery.networks(task, state)
        kept.append(networks.kept["1.weight"].clone())
        weights.append(networks.params["1.weight"].clone())
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(kept[1], kept[2])
    assert torch.equal(kept[2], kept[3])
    assert not torch.equal(weights[2], weights[3])


def test_phases_operate_on_convolutions_first_and_on_fully_connected_layers_second():
    task = Task(model="example_models.normed", epochs=2, rungs=4, dtype="float64", dense_share=0.2)
    surgery = dns.DNS()
    hp = {"phases": "conv,fc", "stop": 1.0}
    state = surgery.start(task, [Member(complete(surgery.space, hp), seed) for seed in (0, 1)])
    kept = [surgery.networks(task, state).kept]
    for _ in range(4):
        state = surgery.advance(task, state)
        kept.append(surgery.networks(task, state).kept)
    assert not kept[0]["0.weight"].all()
    assert kept[1]["8.weight"].all()
    assert torch.equal(kept[3]["0.weight"], kept[4]["0.weight"]), (
        "convolutions are frozen in the second half"
    )
    assert not kept[3]["8.weight"].all()


MODELS = {
    "mlp": {"widths": [32, 24]},
    "example_models.normed": {},
    "resnet": {"depth": 8, "width": 0.25},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"growth": "first half"},
        {"sigma": "step"},
        {"scope": "global", "sigma": "linear"},
        {"scope": "global", "growth": "first half", "sigma": "cosine"},
    ],
)
def test_the_asked_share_is_what_remains_removed(model: str, extra: dict[str, object]):
    """Splicing brings back what the first mask took; c moves so that as much is removed at the end
    as was asked for, whatever weights do meanwhile.
    """
    task = Task(model=model, model_options=MODELS[model], epochs=3, rungs=1)
    surgery = dns.DNS()
    asked = (0.0, 0.37, 0.8, 0.97)
    members = [Member(complete(surgery.space, {"sparsity": s, **extra}), 3) for s in asked]
    state = surgery.advance(task, surgery.start(task, members))
    masks_of_all = surgery.networks(task, state).kept
    names = task.structure.parameters
    total = sum(masks_of_all[name][0].numel() for name in names)
    for k, sparsity in enumerate(asked):
        kept = sum(int(masks_of_all[name][k].sum()) for name in names)
        assert 1 - kept / total == pytest.approx(sparsity, abs=0.002)


@pytest.mark.parametrize("phases", ["all", "conv,fc", "0 + 4,8"])
@pytest.mark.parametrize("growth", ["no", "first half"])
@pytest.mark.parametrize("sigma", list(schedule.SIGMAS))
def test_updates_grow_rarer_and_are_certain_when_a_group_begins(
    sigma: str, growth: str, phases: str
):
    structure = structure_of(build("example_models.normed", (1, 8, 8), 10), (1, 8, 8))
    hp = complete(dns.DNS.space, {"sigma": sigma, "growth": growth, "phases": phases})
    hp |= {name: torch.tensor(hp[name]) for name in ("gamma", "power")}
    seen: dict[tuple[str, ...], list[float]] = {}
    for step in range(81):
        ctx = Context(hp, torch.tensor(0), step, 100, structure)
        phase = schedule.phase(ctx)
        names = tuple(layer.name for layer in phase.layers)
        if not names:
            assert step == 80, "surgery ends at the share `stop` of the steps"
            continue
        seen.setdefault(names, []).append(float(schedule.SIGMAS[sigma](phase, ctx)))
        if step in (phase.begun, phase.full):
            assert all(schedule.updates(phase, ctx))
        if step >= phase.full:
            assert phase.growth == 1
    assert len(seen) == len(phases.split(","))
    for probabilities in seen.values():
        assert probabilities[0] == 1
        assert probabilities == sorted(probabilities, reverse=True)
        assert min(probabilities) >= 0


@pytest.mark.parametrize(
    ("phases", "sentence"),
    [
        ("conv,fcc", "`phases` names layers, or conv or fc, .*got 'fcc'"),
        ("", "`phases` is the groups of layers"),
        ("1,,3", "`phases` names layers.*the model's layers: 1, 3; got ''"),
        ("1", "each layer of the model in one group.*got '1', by which layer 3 is in none"),
        ("1,fc", r"layers: 1 \(fc\), 3 \(fc\); got '1,fc', by which layer 1 is in 2 groups"),
        ("conv,fc", "no group without layers; .*got 'conv,fc', whose group 1 has none"),
    ],
)
def test_groups_that_do_not_fit_the_model_are_refused(phases: str, sentence: str):
    task = Task(model_options={"widths": [32]})
    with pytest.raises(Mistake, match=sentence):
        dns.DNS().check(task, complete(dns.DNS.space, {"phases": phases}))


@pytest.mark.parametrize(
    ("hp", "sentence"),
    [
        ({"c": [1.0, 2.0], "sparsity": 0.5}, "`sparsity` is used without `c` alone; got 0.5"),
        ({"c": [1.0, 2.0], "scope": "global"}, "`scope` is used without `c` alone; got global"),
        ({"sigma": "linear", "gamma": 0.1}, "`gamma` is used with `sigma` inverse alone; got 0.1"),
    ],
)
def test_what_would_do_nothing_is_refused(hp: dict[str, object], sentence: str):
    """Settings that differ in it alone would be the same network twice."""
    task = Task(model_options={"widths": [32]})
    with pytest.raises(Mistake, match=sentence):
        dns.DNS().check(task, complete(dns.DNS.space, hp))


def test_c_has_one_number_for_each_layer():
    task = Task(model_options={"widths": [32]})
    with pytest.raises(
        ValueError, match="`c` has one number for each of the model's 2 removable layers; got 3"
    ):
        dns.DNS().check(task, complete(dns.DNS.space, {"c": [1.0, 2.0, 3.0]}))


@pytest.mark.long
def test_the_papers_thresholds_on_digits():
    """64-300-100-10, the paper's c = 5, 3, 3, 2500 dense and 4000 surgery steps: 50 to 65 times
    smaller, within a point of dense.
    """
    task = Task(
        model_options={"widths": [300, 100]},
        batch_size=64,
        lr=0.05,
        schedule="inverse",
        weight_decay=5e-4,
        rungs=1,
    )
    task = dataclasses.replace(task, epochs=6_500 / task.steps_per_epoch, dense_share=2_500 / 6_500)
    parent = dataclasses.replace(task, epochs=2_500 / task.steps_per_epoch)
    dense = on_digits(find("dense"), {}, parent, 5)
    surgery = on_digits(dns.DNS(), {"c": [5.0, 3.0, 3.0]}, task, 5)
    for row in surgery:
        assert row["m_splices"] > 500
        assert row["m_returned"] >= 0.2
    compression = [row["params_dense"] / row["params_kept"] for row in surgery]
    differences = [
        100 * (s["accuracy_test"] - d["accuracy_test"]) for s, d in zip(surgery, dense, strict=True)
    ]
    assert 50 <= np.mean(compression) <= 65
    assert abs(np.mean(differences)) <= 1


def test_the_papers_mechanism_on_digits():
    """64-300-100-10, c = 2, 2, 2, 5000 dense and 8000 surgery steps: 15 to 18 times smaller, within
    a point of dense.
    """
    task = Task(
        model_options={"widths": [300, 100]},
        batch_size=64,
        lr=0.05,
        schedule="inverse",
        weight_decay=5e-4,
        rungs=1,
    )
    task = dataclasses.replace(task, epochs=13_000 / task.steps_per_epoch, dense_share=5 / 13)
    dense = on_digits(find("dense"), {}, task, 5)
    surgery = on_digits(dns.DNS(), {"c": [2.0, 2.0, 2.0], "stop": 6500 / 8000}, task, 5)
    for row in surgery:
        assert row["m_splices"] > 500
        assert row["m_returned"] >= 0.2
    compression = [row["params_dense"] / row["params_kept"] for row in surgery]
    differences = [
        100 * (s["accuracy_test"] - d["accuracy_test"]) for s, d in zip(surgery, dense, strict=True)
    ]
    assert 15 <= np.mean(compression) <= 18
    assert abs(np.mean(differences)) <= 1
