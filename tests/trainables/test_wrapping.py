"""Chains wrapped in residual connections: what they compute, cost and lose; and what is no chain."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables import models
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure import flops
from prunefront.trainables.measure.members import measure
from prunefront.trainables.structure import extract, trial, wrapping
from prunefront.trainables.structure.units import Structure
from prunefront.trainables.task import Task, identity

LENET = 2 * (20 * 25 * 24**2 + 50 * 20 * 25 * 8**2 + 800 * 500 + 500 * 10)
VGG = 2 * (8**2 * (16 * 9 + 16 * 16 * 9) + 4**2 * (16 * 32 * 9 + 32 * 32 * 9) + 32 * 10)
COSTS = [
    ("mlp", (1, 8, 8), {"widths": [32, 32]}, 2 * (64 * 32 + 32 * 32 + 32 * 10), 2 * 64),
    ("lenet5", (1, 28, 28), {}, LENET, 2 * (20 * 24**2 + 3 * 20 * 8**2 + 2 * 500)),
    ("vgg", (1, 8, 8), {}, VGG, 2 * (16 * 8**2 + 32 * 4**2)),
]
"""Model, input shape, options, FLOPs of the plain chain, and those of the projections."""


def wrapped(model: str, shape: tuple[int, ...], **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrapping.build(model, shape, 5, wrap=True, **options).eval()


def structure_of(model: str, shape: tuple[int, ...], **options: Any) -> Structure:
    return trial.structure_of(wrapped(model, shape, **options), shape)


@pytest.mark.parametrize(("model", "shape", "options", "plain", "projections"), COSTS)
def test_flops_are_those_of_the_chain_and_its_projections(
    model: str, shape: tuple[int, ...], options: Any, plain: int, projections: int
):
    module = wrapping.build(model, shape, 10, wrap=True, **options)
    counts = flops.count(module, shape)
    assert counts.flops == plain + projections
    assert counts.unknown == ()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
    assert counter.get_total_flops() == counts.flops
    bare = models.build(model, shape, 10, **options)
    assert flops.count(bare, shape).flops == plain
    assert {name for name, _ in module.named_parameters()} == {
        name for name, _ in bare.named_parameters()
    }


@pytest.mark.parametrize(
    ("model", "shape", "options", "blocks", "hidden"),
    [
        ("mlp", (1, 8, 8), {"widths": [32, 32]}, [("1", "3")], ["1"]),
        ("mlp", (1, 8, 8), {"widths": [9, 9, 9]}, [("1", "3"), ("5",)], ["1"]),
        ("mlp", (1, 8, 8), {"widths": [9]}, [("1",)], []),
        ("lenet5", (1, 28, 28), {}, [("0",), ("2",), ("5",)], []),
        ("vgg", (1, 8, 8), {}, [("0", "3"), ("7", "10")], ["0", "7"]),
        (
            "vgg",
            (1, 8, 8),
            {"stages": [[4], [4, 5, 6]]},
            [("0",), ("4", "7"), ("10",)],
            ["4"],
        ),
        ("example_models.normed", (1, 8, 8), {}, [("0",), ("4",)], []),
        ("example_models.plain", (1, 8, 8), {}, [("conv",), ("one", "two")], ["one"]),
    ],
)
def test_sections_of_up_to_two_layers_are_blocks_and_the_last_layer_is_in_none(
    model: str,
    shape: tuple[int, ...],
    options: Any,
    blocks: list[tuple[str, ...]],
    hidden: list[str],
):
    found = structure_of(model, shape, **options)
    assert [block.layers for block in found.blocks] == blocks
    assert [layer.name for layer in found.hidden] == hidden
    assert not found.failed


def test_a_chain_without_its_sections_is_what_its_shortcuts_give():
    shape = (1, 8, 8)
    module = wrapped("mlp", shape, widths=[32, 32])
    found = trial.structure_of(module, shape)
    kept: dict[str, Tensor] = {block.name: torch.tensor(False) for block in found.blocks}
    like = dict(module.named_parameters())
    for name in found.parameters:
        kept[name] = torch.full(like[name].shape, name.startswith("5"))
    for block in found.blocks:
        for name in block.last:
            like[name].data.zero_()
    small = extract.shrunk(module, found, kept, shape)
    x = torch.randn(3, *shape)
    pixels = x.flatten(1)
    halves = (pixels[:, :32] + pixels[:, 32:]) / 2**0.5
    expected = halves @ like["5.weight"].T + like["5.bias"]
    torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-5)
    assert [name for name, _ in small.named_parameters()] == ["5.weight", "5.bias"]
    assert flops.count(small, shape).flops == 2 * 64 + 2 * 32 * 5


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(64, 32), (32, 64), (5, 3), (3, 5), (80, 50), (1, 20), (20, 1)]
)
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_a_projection_is_orthonormal_and_reads_or_writes_each_channel_once(
    inputs: int, outputs: int, dims: int
):
    projection = wrapping.Projection(inputs, outputs, dims)
    assert not list(projection.parameters())
    positions = (3, 2, 4)[:dims]
    unit = torch.eye(inputs)
    unit = unit.view(inputs, inputs, *(1,) * dims).expand(inputs, inputs, *positions)
    images = projection(unit.contiguous())
    assert images.shape == (inputs, outputs, *positions)
    matrix = images.flatten(2)[..., 0] if dims else images
    gram = matrix @ matrix.T if inputs < outputs else matrix.T @ matrix
    torch.testing.assert_close(gram, torch.eye(len(gram)))
    nonzero = matrix != 0
    longer = nonzero.sum(1) if inputs > outputs else nonzero.sum(0)
    assert longer.tolist() == [1] * max(inputs, outputs)
    counted = flops.count(nn.Sequential(projection), (inputs, *positions)).flops
    groups = min(inputs, outputs)
    assert (
        counted == 2 * groups * -(-max(inputs, outputs) // groups) * torch.Size(positions).numel()
    )


@pytest.mark.parametrize(
    "convolutions",
    [
        [{"kernel_size": 5}],
        [{"kernel_size": 3, "stride": 2, "padding": 1}],
        [{"kernel_size": 1, "padding": 2}],
        [{"kernel_size": (3, 5), "stride": (1, 3), "dilation": (2, 1), "padding": (0, 2)}],
        [{"kernel_size": 3, "padding": "valid"}, {"kernel_size": 3, "padding": "same"}],
        [{"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1}],
    ],
)
def test_a_shortcut_passes_convolutions_as_the_centres_of_their_kernels_would(
    convolutions: list[dict[str, Any]],
):
    layers = [nn.Conv2d(2, 2, bias=False, **options) for options in convolutions]
    with torch.no_grad():
        for layer in layers:
            rows, columns = layer.kernel_size
            layer.weight.zero_()
            for channel in range(2):
                layer.weight[channel, channel, (rows - 1) // 2, (columns - 1) // 2] = 1
        x = torch.randn(3, 2, 14, 15)
        chain = nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(2))
        chain(x)
        twice = wrapping.wrapped(chain, (2, 14, 15)).eval()
        twice.set_submodule(str(len(layers) + 1), nn.Identity())
        torch.testing.assert_close(twice(x), 2 * nn.Sequential(*layers)(x).flatten(1))


def test_initial_weights_are_those_of_the_plain_chain():
    plain = Task(model_options={"widths": [16, 16]})
    other = dataclasses.replace(plain, model_options={"widths": [16, 16], "wrap": True})
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    params, buffers = plain.initial([0, 1])
    same, more = other.initial([0, 1])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert params.keys() == same.keys()
    assert all(torch.equal(params[name], same[name]) for name in params)
    assert more.keys() - buffers.keys() == {"1_shortcut.weight"}
    assert other.stackable
    assert other.narrows


# ---- complexity-aware training


def test_complexity_aware_training_removes_layers_of_a_chain_like_vgg():
    algorithm = find("complexity_aware")
    options = {"stages": [[4, 4], [6, 6]], "wrap": True}
    task = Task(model="vgg", model_options=options, epochs=3, rungs=1)
    hps = [{"nu": 1.0, "beta": 0.9}, {"nu": 0.01}]
    members = [Member(complete(algorithm.space, hp), 0) for hp in hps]
    state = algorithm.advance(task, algorithm.start(task, members))
    networks = algorithm.networks(task, state)
    rows = measure(task, algorithm, state, last=True)
    x = task.data.examples("valid", torch.arange(64))
    gone = []
    for place, row in enumerate(rows):
        one = networks.of[place]
        module = task.build(0).eval()
        values = {name: stack[one] for name, stack in networks.params.items()}
        values |= {name: stack[one] for name, stack in networks.buffers.items()}
        module.load_state_dict(values, strict=False)
        kept = {name: stack[one] for name, stack in networks.kept.items()}
        small = extract.shrunk(module, task.structure, kept, task.data.shape)
        with torch.no_grad():
            torch.testing.assert_close(small(x), module(x), rtol=1e-5, atol=1e-5)
        assert flops.count(small, task.data.shape).flops == row["flops_shrunk"]
        convolutions = sum(isinstance(part, nn.Conv2d) for part in small.modules())
        gone.append(4 - convolutions)
    assert gone == [4, 0]


# ---- what it is a part of


def test_it_is_a_part_of_a_task_only_where_it_is_true():
    dense = find("dense")
    member = Member(complete(dense.space, {}), 0)
    table = {"widths": [8, 8], "epochs": 1}
    plain, off, on = (
        Task.from_table({**table, **more}) for more in ({}, {"wrap": False}, {"wrap": True})
    )
    assert plain == off
    assert "wrap" not in off.describe()["model_options"]
    assert on.describe()["model_options"] == {"widths": [8, 8], "wrap": True}
    direct = Task(model_options={"widths": [8, 8], "wrap": False}, epochs=1)
    names = [identity(task, "dense", dense, member) for task in (plain, off, on, direct)]
    assert names[0] == names[1] == names[3] != names[2]
    assert off.counts.flops == plain.counts.flops < on.counts.flops
    assert Task(**on.to_json()) == on


def test_a_model_with_an_option_of_that_name_keeps_it():
    task = Task.from_table({"model": "example_models.wraps", "wrap": 3, "epochs": 1})
    assert task.template[1].out_features == 3  # type: ignore[index]
    assert not task.structure.blocks
    off = Task.from_table({"model": "example_models.wraps", "wrap": 0, "epochs": 1})
    assert off.model_options == {"wrap": 0}


@pytest.mark.parametrize("value", [3, 1, 0, "yes", None, [True]])
def test_it_is_true_or_false(value: object):
    with pytest.raises(Mistake, match=r"^`wrap` is true or false; got ") as error:
        Task.from_table({"wrap": value})
    assert repr(value) in str(error.value)
    with pytest.raises(Mistake, match=r"^`wrap` is true or false; got "):
        Task(model_options={"wrap": value}).check()


class Asks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x)
        if self.training:
            hidden = hidden.relu()
        return self.two(hidden)


class Looks(Asks):
    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x) if x.sum() > 0 else self.one(-x))


CHAIN = "`wrap` is for a plain chain, in which each operation reads the one before it alone; "
FEW = "`wrap` is for a chain with a linear or ungrouped convolution layer before the last layer; "


@pytest.mark.parametrize(
    ("module", "shape", "sentence"),
    [
        (
            models.resnet((3, 8, 8), 2),
            (3, 8, 8),
            rf"{CHAIN}got ReLU \(2\), which 2 operations read",
        ),
        (Asks(), (4,), f"{CHAIN}got code that asks whether it is in training"),
        (Looks(), (4,), f"{CHAIN}following it by torch.fx raised TraceError"),
        (nn.Sequential(nn.Linear(4, 2)), (4,), f"{FEW}got none that can be wrapped"),
        (nn.Sequential(nn.ReLU()), (4,), f"{FEW}got none that can be wrapped"),
    ],
)
def test_what_is_no_chain_says_where(module: nn.Module, shape: tuple[int, ...], sentence: str):
    with pytest.raises(Mistake, match=f"^{sentence}"):
        wrapping.wrapped(module, shape)


def test_a_model_that_is_no_chain_is_refused_before_a_study_starts():
    task = Task.from_table({"model": "residual_mlp", "wrap": True, "epochs": 1})
    with pytest.raises(Mistake, match=f"^model residual_mlp: {CHAIN}got Linear"):
        task.check()


@pytest.mark.parametrize("stages", [3, [], [3], [[]], [[3], [0]], [[3.0]], "ab", [[True]]])
def test_stages_are_lists_of_whole_numbers(stages: object):
    with pytest.raises(Mistake, match=r"`stages` is a list of lists of whole numbers above 0, .*"):
        models.build("vgg", (1, 8, 8), 10, stages=stages)
