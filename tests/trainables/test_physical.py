"""Physically smaller networks: they compute what the whole ones do, and cost what the rows say. And
their files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunefront.trainables import models
from prunefront.trainables.measure import flops
from prunefront.trainables.measure.removed import compression
from prunefront.trainables.records import physical
from prunefront.trainables.records.physical import Parent
from prunefront.trainables.structure import extract, trial, units

PARENTS = {
    "mlp": Parent("mlp", (1, 4, 4), 5, options={"widths": [12, 9]}),
    "lenet5": Parent("lenet5", (1, 16, 16), 5, options={"width": 0.2}),
    "resnet": Parent("resnet", (3, 8, 8), 5, options={"depth": 14, "width": 0.25}),
    "vgg16_bn": Parent("vgg16_bn", (3, 32, 32), 5, options={"width": 0.05}),
    "residual_mlp": Parent(
        "residual_mlp", (1, 4, 4), 5, options={"units": 8, "hidden": 6, "blocks": 3}
    ),
    "normed": Parent("example_models.normed", (1, 8, 8), 5),
    "residual": Parent("example_models.residual", (1, 8, 8), 5),
    "refused": Parent("example_models.refused", (1, 8, 8), 5),
    "odd": Parent("example_models.odd", (1, 8, 8), 5),
    "padded": Parent("example_models.padded", (1, 10, 10), 5),
    "wrapped mlp": Parent("mlp", (1, 4, 4), 5, options={"widths": [12, 9, 9], "wrap": True}),
    "wrapped lenet5": Parent("lenet5", (1, 16, 16), 5, options={"width": 0.2, "wrap": True}),
    "wrapped vgg": Parent(
        "vgg", (3, 8, 8), 5, options={"stages": [[6, 6, 6], [8, 7, 5]], "wrap": True}
    ),
    "wrapped normed": Parent("example_models.normed", (1, 8, 8), 5, options={"wrap": True}),
}
WITH_BLOCKS = ("res", "wrapped")
"""In the names of those that have some."""
KINDS = ("weights", "few weights", "units", "blocks", "all of these", "one layer", "everything")
CASES = [
    (name, kind)
    for name in PARENTS
    for kind in KINDS
    if kind != "blocks" or any(word in name for word in WITH_BLOCKS)
]
CASES = [
    case for case in CASES if case[0] not in ("refused", "odd") or case[1] == "all of these"
]  # no unit of those can go
Kept = dict[str, Tensor]


def randomised(parent: Parent, seed: int) -> nn.Module:
    """The model with random parameters and statistics, batch-norm's affine values among them."""
    random = torch.Generator().manual_seed(seed)
    module = parent.build()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=random, dtype=torch.float64)
                scale = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 1.0
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn * scale)
    return module


def masks(module: nn.Module, found: units.Structure, kind: str, seed: int) -> Kept:
    """What a pruner might keep, by name."""
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random)

    like = dict(module.named_parameters())
    kept = {name: torch.ones(like[name].shape, dtype=torch.bool) for name in found.parameters}
    kept |= {block.name: torch.tensor(True) for block in found.blocks}
    if kind in ("weights", "few weights", "all of these"):
        sparsity = {"weights": 0.8, "few weights": 0.985, "all of these": 0.6}[kind]
        kept |= {name: drawn(*like[name].shape) >= sparsity for name in found.parameters}
    if kind in ("units", "all of these"):
        live = {layer.name: drawn(layer.units) >= 0.6 for layer in found.hidden}
        kept |= {
            name: kept[name] & mask for name, mask in units.node_masks(found, live, like).items()
        }
    if kind in ("blocks", "all of these"):
        kept |= {block.name: drawn() >= 0.5 for block in found.blocks}
    if kind == "one layer":
        layer = found.layers[int(drawn() * len(found.layers))]
        kept |= {name: torch.zeros_like(kept[name]) for name in layer.parameters}
    if kind == "everything":
        kept = {name: torch.zeros_like(mask) for name, mask in kept.items()}
    return kept


def applied(module: nn.Module, found: units.Structure, kept: Kept) -> nn.Module:
    """`module` in evaluation, with what is removed at zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in kept:
                parameter *= kept[name]
            if any(name in found.inside(block) and not kept[block.name] for block in found.blocks):
                parameter.zero_()
    return module.eval()


def whole_and_small(
    name: str, kind: str, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, nn.Module, Kept]:
    parent = PARENTS[name]
    module = randomised(parent, seed)
    found = trial.structure_of(module, parent.input_shape)
    kept = masks(module, found, kind, seed)
    module = applied(module, found, kept).to(dtype)
    return module, extract.shrunk(module, found, kept, parent.input_shape), kept


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_computes_what_the_whole_network_does_and_costs_what_is_counted(name: str, kind: str):
    shape = PARENTS[name].input_shape
    for seed in range(3):
        module, small, kept = whole_and_small(name, kind, seed)
        x = torch.randn(
            3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        with torch.no_grad():
            torch.testing.assert_close(small(x), module(x), rtol=1e-10, atol=1e-10)
        counts, found = flops.count(module, shape), trial.structure_of(module, shape)
        counted = compression(found, counts, {name: mask[None] for name, mask in kept.items()})
        cost = flops.count(small, shape)
        assert cost.flops == int(counted["flops_shrunk"])
        assert cost.params == int(counted["params_shrunk"])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(x[:1])
        assert counter.get_total_flops() == cost.flops


def test_what_is_tested_above_has_lost_units_blocks_and_whole_layers():
    for name, kind, least in (
        ("vgg16_bn", "units", 0),
        ("resnet", "all of these", 1),
        ("vgg16_bn", "few weights", 1),
        ("wrapped vgg", "all of these", 0),
    ):
        module, small, _ = whole_and_small(name, kind, 0)
        assert len(list(small.parameters())) <= len(list(module.parameters())) - 2 * least
        assert sum(isinstance(part, extract.Constant) for part in small.modules()) >= least
        assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(
            p.numel() for p in module.parameters()
        )


@pytest.mark.parametrize(
    "name",
    [*"mlp lenet5 resnet vgg16_bn normed".split(), "wrapped mlp", "wrapped lenet5", "wrapped vgg"],
)
def test_in_float32_it_agrees_to_rounding_and_the_module_given_stays_as_it_was(name: str):
    parent = PARENTS[name]
    module = randomised(parent, 1)
    found = trial.structure_of(module, parent.input_shape)
    kept = masks(module, found, "all of these", 1)
    module = applied(module, found, kept).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    small = extract.shrunk(module, found, kept, parent.input_shape)
    assert module.training
    assert not small.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(part._forward_hooks for part in [*module.modules(), *small.modules()])
    x = torch.randn(3, *parent.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(small(x), module.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for n, k in CASES if k in ("units", "all of these", "everything")]
)
def test_a_file_holds_it_bit_for_bit(tmp_path: Path, name: str, kind: str):
    _, small, _ = whole_and_small(name, kind, 2, torch.float32)
    state, path = torch.random.get_rng_state(), tmp_path / "network.safetensors"
    physical.save(path, small, PARENTS[name])
    again = physical.load(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not again.training
    assert [n for n, _ in again.named_parameters()] == [n for n, _ in small.named_parameters()]
    assert all(
        torch.equal(tensor, again.state_dict()[name]) for name, tensor in small.state_dict().items()
    )
    x = torch.randn(3, *PARENTS[name].input_shape)
    with torch.no_grad():
        assert torch.equal(small(x), again(x))
    physical.save(path, again, PARENTS[name])
    assert physical.load(path).state_dict().keys() == small.state_dict().keys()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_files_that_are_no_networks_of_ours_say_so(tmp_path: Path):
    path, parent = tmp_path / "network.safetensors", PARENTS["mlp"]
    with pytest.raises(ValueError, match=r"network.safetensors: no such file"):
        physical.load(path)
    _, small, _ = whole_and_small("mlp", "units", 0, torch.float32)
    physical.save(path, small, parent)
    whole = path.read_bytes()
    for torn in (whole[:-20], whole[:100], b"", b"nothing of the kind"):
        path.write_bytes(torn)
        with pytest.raises(
            ValueError, match=r"a complete file that `physical.save` wrote; got"
        ) as error:
            physical.load(path)
        assert "\n" not in str(error.value)
    path.write_bytes(whole)
    tensors = load_file(path)
    for header in (
        None,
        {"other": "{}"},
        {physical.HEADER: "{"},
        {physical.HEADER: "{}"},
        {physical.HEADER: "[]"},
    ):
        save_file(tensors, path, metadata=header)
        with pytest.raises(ValueError, match=r"a complete file that `physical.save` wrote; got"):
            physical.load(path)
    about = {
        "model": "mlp",
        "input_shape": [1, 4, 4],
        "classes": 5,
        "dtype": "float32",
        "options": {"widths": [4, 4]},
    }
    about |= {"widths": {"1": 4, "3": 4}, "gone": [], "positions": {}}
    save_file(tensors, path, metadata={physical.HEADER: json.dumps(about)})
    with pytest.raises(
        ValueError, match=r"the model mlp is as it was when its network was saved; .*which only the"
    ):
        physical.load(path)


def test_only_what_was_cut_from_its_parent_is_saved(tmp_path: Path):
    with pytest.raises(ValueError, match="was cut from its parent, lenet5"):
        physical.save(
            tmp_path / "x", nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), PARENTS["lenet5"]
        )
    wider = models.build("mlp", (1, 4, 4), 5, widths=[20, 9])
    with pytest.raises(ValueError, match="was cut from its parent, mlp"):
        physical.save(
            tmp_path / "x", wider, Parent("mlp", (1, 4, 4), 5, "float64", {"widths": [12, 9]})
        )
    assert not list(tmp_path.iterdir())
