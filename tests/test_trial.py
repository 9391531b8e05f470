"""Structures that were tried: whatever is removed of them, the masked and the physically smaller network are one."""

from __future__ import annotations

import copy

import pytest
import torch
from random_models import random_model
from torch import Tensor, nn

from prunefront.trainables import extract, flops, structure, trial
from prunefront.trainables.removed import compression

KINDS = ("weights", "units", "constants", "blocks", "a layer", "all")
Kept = dict[str, Tensor]


def scrambled(module: nn.Module, seed: int) -> nn.Module:
    """The module in float64, with random parameters and statistics."""
    random = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=random, dtype=torch.float64)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else 0.7 * drawn)
    return module


def drawn(module: nn.Module, found: structure.Structure, kind: str, seed: int) -> Kept:
    """What a pruner might keep."""
    random = torch.Generator().manual_seed(seed)

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=random)

    params: dict[str, Tensor] = dict(module.named_parameters())
    kept = {name: torch.ones(params[name].shape, dtype=torch.bool) for name in found.parameters}
    kept |= {block.name: torch.tensor(True) for block in found.blocks}
    if kind in ("weights", "all"):
        kept |= {name: chance(*params[name].shape) >= 0.6 for name in found.parameters}
    if kind in ("units", "all"):
        alive = {layer.name: chance(layer.units) >= 0.4 for layer in found.hidden}
        kept |= {name: kept[name] & mask for name, mask in structure.node_masks(found, alive, params).items()}
    if kind == "constants":
        for layer in found.hidden:
            rows = chance(layer.units) >= 0.5
            kept[layer.weight] &= rows.view(-1, *(1,) * (kept[layer.weight].ndim - 1))
    if kind in ("blocks", "all"):
        kept |= {block.name: chance() >= 0.5 for block in found.blocks}
    if kind == "a layer":
        layer = found.layers[int(chance() * len(found.layers))]
        kept |= {name: torch.zeros_like(kept[name]) for name in layer.parameters}
    return kept


def masked(module: nn.Module, found: structure.Structure, kept: Kept) -> nn.Module:
    """A copy in evaluation, with what is removed at zero."""
    module = copy.deepcopy(module).eval()
    params: dict[str, Tensor] = dict(module.named_parameters())
    with torch.no_grad():
        for name in found.parameters:
            params[name] *= kept[name]
        for block in found.blocks:
            if not kept[block.name]:
                for name in found.inside(block):
                    if name in params:
                        params[name].zero_()
    return module


def held(module: nn.Module, shape: tuple[int, ...], found: structure.Structure, kind: str, seed: int) -> None:
    """Assert that the network computes and costs what is said of it, whole and small."""
    kept = drawn(module, found, kind, seed)
    whole = masked(module, found, kept)
    small = extract.shrunk(whole, found, kept, shape)
    x = torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(small(x.clone()), whole(x.clone()), rtol=1e-8, atol=1e-8)
    told = compression(found, flops.count(module, shape), {name: mask[None] for name, mask in kept.items()})
    real = flops.count(small, shape)
    assert (int(told["flops_shrunk"]), int(told["params_shrunk"])) == (real.flops, real.params)


@pytest.mark.parametrize("seed", range(120))
def test_a_random_model_masked_and_shrunk_is_one_network_and_costs_what_its_row_says(seed: int):
    module, shape = random_model(seed)
    module = scrambled(module, seed)
    found = trial.find(module, shape)
    for kind in KINDS:
        held(module, shape, found, kind, seed)


def test_of_random_models_much_can_be_removed():
    hidden = blocks = 0
    for seed in range(60):
        module, shape = random_model(seed)
        found = trial.find(module, shape)
        hidden, blocks = hidden + bool(found.hidden), blocks + bool(found.blocks)
    assert hidden >= 25
    assert blocks >= 8
