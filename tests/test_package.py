"""`import prunefront as pf`: what it exports works, and is imported when it is asked for."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import prunefront as pf
from prunefront.search.study import parse
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.removed import compression
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.training import Training
from prunefront.trainables.structure import trial
from prunefront.trainables.task import Task

IMAGE = (1, 8, 8)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )


class Residual(nn.Module):
    """A stem, a branch beside its shortcut, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 12), nn.Linear(12, 10)
        self.inner, self.outer = nn.Linear(12, 9), nn.Linear(9, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x.flatten(1)))
        return self.head(x + self.outer(torch.relu(self.inner(x))))


def without_units(module: nn.Module, layer: str, units: int) -> dict[str, torch.Tensor]:
    """Masks that remove the first `units` of a layer."""
    masks = {}
    for name, parameter in module.get_submodule(layer).named_parameters(layer):
        masks[name] = torch.ones_like(parameter, dtype=torch.bool)
        masks[name][:units] = False
    return masks


def masked(module: nn.Module, masks: dict[str, torch.Tensor]) -> nn.Module:
    module = copy.deepcopy(module)
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name).mul_(mask)
    return module


def train(folder: Path) -> Path:
    """A study's output folder with the rows and networks of two members, without Ray."""
    space = find("magnitude").space
    members = tuple(Member(complete(space, {"sparsity": 0.5}), seed) for seed in (0, 1))
    task = Task(widths=[6], epochs=0.5, rungs=2)
    cohort = Cohort("00000-magnitude", "mine", "magnitude", members)
    training = Training(folder, "study", task, cohort, keep=True)
    while not training.finished:
        training.advance()
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("study"))


def test_importing_it_imports_nothing_heavy():
    code = (
        "import sys, prunefront as pf; assert 'shrink' in dir(pf)\n"
        "print(*{'torch', 'ray', 'pandas', 'optuna', 'numpy'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == ""


def test_all_that_it_exports_is_there_and_documented():
    assert set(pf.__all__) <= set(dir(pf))
    for name in pf.__all__:
        assert getattr(pf, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'shrunk'"):
        _ = pf.shrunk  # type: ignore[attr-defined]


def test_rows_are_read_for_every_rung(folder: Path):
    rows = pf.read(folder)
    assert rows.groupby("member")["rung"].apply(list).tolist() == [[1, 2], [1, 2]]
    with pytest.raises(pf.Mistake, match="no rows"):
        pf.read(folder / "networks")


def test_networks_are_loaded_whole_and_shrunk(folder: Path):
    rows = pf.read(folder)
    row = rows[rows["status"] == "done"].iloc[0]
    whole, small = pf.load_network(folder, row["member"]), pf.load_shrunk(folder, row["member"])
    assert pf.count(whole, IMAGE).flops == row["flops_dense"]
    assert pf.count(small, IMAGE).flops == row["flops_shrunk"]
    x = torch.rand(5, *IMAGE)
    torch.testing.assert_close(small(x), whole(x))
    with pytest.raises(pf.Mistake, match="no kept network of member nobody"):
        pf.load_network(folder, "nobody")


@pytest.mark.parametrize(
    ("module", "flops", "params"),
    [
        (mlp(), 2 * (64 * 12 + 12 * 10), 65 * 12 + 13 * 10),
        (
            conv(),
            2 * (36 * 9 * 6 + 16 * 54 * 8 + 128 * 10),
            60 + 12 + (54 + 1) * 8 + 129 * 10,
        ),
        (
            Residual(),
            2 * (64 * 12 + 2 * 12 * 9 + 12 * 10),
            65 * 12 + 13 * 9 + 10 * 12 + 13 * 10,
        ),
    ],
    ids=["mlp", "conv", "residual"],
)
def test_counts_are_those_by_hand(module: nn.Module, flops: int, params: int):
    module.train()
    counts = pf.count(module, IMAGE)
    assert (counts.flops, counts.params, counts.unknown) == (flops, params, ())
    assert module.training


@pytest.mark.parametrize(
    ("module", "layer"),
    [(mlp(), "1"), (conv(), "0"), (conv(), "3"), (Residual(), "inner")],
    ids=["mlp", "conv before a norm", "conv before a linear layer", "residual"],
)
def test_units_that_masks_remove_are_cut_out(module: nn.Module, layer: str):
    module.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    masks = without_units(module, layer, 4)
    small = pf.shrink(module, masks, list(IMAGE))
    x = torch.rand(7, *IMAGE)
    torch.testing.assert_close(small(x), masked(module, masks)(x))
    weight = module.get_parameter(f"{layer}.weight")
    assert len(small.get_parameter(f"{layer}.weight")) == len(weight) - 4
    structure = trial.structure_of(module, IMAGE)
    kept = {name: module.get_parameter(name)[None].isfinite() for name in structure.parameters}
    kept |= {name: mask[None] for name, mask in masks.items()}
    counted = compression(structure, pf.count(module, IMAGE), kept)
    counts = pf.count(small, IMAGE)
    assert counts.flops == counted["flops_shrunk"].item()
    assert counts.params == counted["params_shrunk"].item()
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)


def test_a_block_goes_by_its_name_or_with_its_last_weights():
    module = Residual().eval()
    last = without_units(module, "outer", 12)
    x = torch.rand(3, *IMAGE)
    for masks in ({"outer": torch.tensor(False)}, last):
        small = pf.shrink(module, masks, IMAGE)
        assert pf.count(small, IMAGE).flops == 2 * (64 * 12 + 12 * 10)
        torch.testing.assert_close(small(x), masked(module, last)(x))


def test_without_masks_nothing_goes_and_single_weights_are_zeros():
    module = mlp()
    assert pf.count(pf.shrink(module, {}, IMAGE), IMAGE) == pf.count(module, IMAGE)
    mask = torch.rand(12, 64) > 0.5
    small = pf.shrink(module, {"1.weight": mask}, IMAGE)
    assert pf.count(small, IMAGE).flops == pf.count(module, IMAGE).flops
    assert torch.equal(small.get_parameter("1.weight") != 0, mask)


@pytest.mark.parametrize(
    ("masks", "input_shape", "said"),
    [
        ({"2.weight": torch.ones(3)}, IMAGE, r'of parameters that can be removed; got .2\.weight.'),
        ({"1.bias": torch.ones(12)}, IMAGE, r"mask '1.bias' is a bool tensor.*got torch.float32"),
        ({"1.bias": [True] * 12}, IMAGE, r"mask '1.bias' is a bool tensor.*got list"),
        ({"1.bias": torch.ones(10).bool()}, IMAGE, r"shape of what it masks, \(12,\); got \(10,"),
        ({}, (1, 9, 9), r"example that the module takes; got \(1, 9, 9\); it raised Runtime"),
        ({}, (1, -8, 8), r"a list of whole numbers above 0, without the batch; got \(1, -8, 8\)"),
        ({}, 64, r"a list of whole numbers above 0, without the batch; got 64"),
    ],
)  # fmt: skip
def test_masks_and_shapes_that_do_not_fit_are_named(masks: dict, input_shape: tuple, said: str):
    with pytest.raises(pf.Mistake, match=said):
        pf.shrink(mlp(), masks, input_shape)
    if not masks:
        with pytest.raises(pf.Mistake, match=said):
            pf.count(mlp(), input_shape)


def test_what_is_no_module_is_refused():
    with pytest.raises(pf.Mistake, match=r"`module` is an nn\.Module; got dict"):
        pf.count({}, IMAGE)  # type: ignore[arg-type]


def test_fronts_and_hypervolumes_of_ones_own_points():
    points = [[0.9, 100], [0.8, 50], [0.7, 60]]
    assert pf.front(points, maximize=[True, False]).tolist() == [True, True, False]
    assert pf.hypervolume([[0.9, 0.5]], [0, 1], [True, False]) == pytest.approx(0.45)
    with pytest.raises(pf.Mistake, match="one entry per objective"):
        pf.front(points, maximize=[True])


def test_a_task_has_the_flat_keys_of_a_study(tmp_path: Path):
    task = pf.Task(dataset="digits", model="mlp", widths=[8], epochs=2, rungs=2)
    study = tmp_path / "study.toml"
    study.write_text(
        '[study]\nname = "s"\nseeds = [0]\n[task]\nwidths = [8]\nepochs = 2\nrungs = 2\n'
        '[[arm]]\nalgorithm = "dense"\n'
    )
    assert task == parse.read(study).task
    assert task == pf.Task(**task.to_json()), "as a folder records it"
    assert task == pickle.loads(pickle.dumps(task))
    assert task.model_options == {"widths": [8]}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"width_s": [8]}, "`width_s` is no key of a task with dataset digits and model mlp; did"),
        ({"dataset": "npz"}, "`path` is missing: dataset npz needs it"),
        ({"epochs": 0}, "`epochs` is the training budget and lies above 0; got 0"),
        ({"lr": "fast"}, "`lr` is the learning rate: a number in"),
        ({"model": 5}, "`model` is a name or a dotted path; got 5"),
        ({"model": "mpl"}, 'no model "mpl"; did you mean "mlp"'),
    ],
)  # fmt: skip
def test_a_task_says_what_is_wrong_with_its_keys(keys: dict, said: str):
    with pytest.raises(pf.Mistake, match=said):
        pf.Task(**keys).check()


def test_ones_own_algorithm_needs_no_other_import():
    class Halved(pf.GradientPruner):
        source = "a test"
        space = pf.space(share=pf.Domain("real", 0.5, "the share removed", low=0, high=1))

        def init(self, params, ctx):
            scores = {name: params[name].abs() for name in ctx.structure.parameters}
            return {"mask": pf.masks.weights(ctx.structure, scores, ctx.hp["share"])}

        def effective(self, params, pruning, ctx):
            return pf.masks.apply(params, pruning["mask"])

        def kept(self, params, pruning, ctx):
            return pruning["mask"]

    task = pf.Task(widths=[6], epochs=0.2, rungs=1)
    halved = Halved()
    member = Member(complete(halved.space, {"share": 0.75}), 0)
    state = halved.advance(task, halved.start(task, [member]))
    kept = halved.networks(task, state).kept
    assert int(kept["1.weight"].sum() + kept["1.bias"].sum()) == round(0.25 * 65 * 6)
