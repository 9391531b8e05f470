"""Structures that were tried: whatever is removed of them, the masked and the physically smaller
network are one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import example_models
from prunefront.trainables.measure import flops
from prunefront.trainables.measure.removed import compression
from prunefront.trainables.structure import extract, trial
from prunefront.trainables.structure import units as structure
from random_models import random_model

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
        kept |= {
            name: kept[name] & mask
            for name, mask in structure.node_masks(found, alive, params).items()
        }
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


def held(
    module: nn.Module, shape: tuple[int, ...], found: structure.Structure, kind: str, seed: int
) -> None:
    """Assert that the network computes and costs what is said of it, whole and small."""
    kept = drawn(module, found, kind, seed)
    whole = masked(module, found, kept)
    small = extract.shrunk(whole, found, kept, shape)
    x = torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(small(x.clone()), whole(x.clone()), rtol=1e-8, atol=1e-8)
    told = compression(
        found, flops.count(module, shape), {name: mask[None] for name, mask in kept.items()}
    )
    real = flops.count(small, shape)
    assert (int(told["flops_shrunk"]), int(told["params_shrunk"])) == (real.flops, real.params)


@pytest.mark.parametrize("seed", range(120))
def test_a_random_model_masked_and_shrunk_is_one_network_and_costs_what_its_row_says(seed: int):
    module, shape = random_model(seed)
    module = scrambled(module, seed)
    found = trial.structure_of(module, shape)
    for kind in KINDS:
        held(module, shape, found, kind, seed)


def test_of_random_models_much_can_be_removed():
    hidden = blocks = 0
    for seed in range(60):
        module, shape = random_model(seed)
        found = trial.structure_of(module, shape)
        hidden, blocks = hidden + bool(found.hidden), blocks + bool(found.blocks)
    assert hidden >= 25
    assert blocks >= 8


class Block(nn.Module):
    """stem -> a branch beside a shortcut, joined by `join` -> head; vectors of six."""

    def __init__(
        self, branch: nn.Module, join: Callable[[Tensor, Tensor], Tensor], ends: int = 6
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(5, ends)
        self.branch = branch
        self.head = nn.Linear(6, 3)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.stem(x)
        return self.head(self.join(self.branch(shortcut), shortcut))


def plus(one: Tensor, other: Tensor) -> Tensor:
    return one + other


def grown(one: Tensor, other: Tensor) -> Tensor:
    one += other
    return one


def half(one: Tensor, other: Tensor) -> Tensor:
    return torch.add(one, other, alpha=0.5)


def two(inputs: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 4), nn.ReLU(), nn.Linear(4, 6))


class Functional(nn.Module):
    """A layer whose weight is read by the code too, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 6)
        self.fc = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.way = way
        if way == "tied":
            self.other = nn.Linear(6, 6)
            self.other.weight = self.fc.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        again = torch.relu(self.fc(h))
        if self.way == "linear":
            again = again + F.linear(h, self.fc.weight)
        if self.way == "transposed":
            again = F.linear(again, self.fc.weight.t())
        if self.way == "product":
            again = again @ self.fc.weight
        if self.way == "tied":
            again = torch.relu(self.other(again))
        return self.head(again)


class SharedNorm(nn.Module):
    """One batch-norm after two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 6)
        self.two = nn.Linear(5, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 4)
        self.last = nn.Linear(6, 4)
        self.end = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = self.head(self.norm(self.one(x)))
        two = self.last(self.norm(self.two(x)))
        return self.end(torch.relu(one) + two)


class Keywords(nn.Module):
    """Every module is called with keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 6)
        self.norm = nn.BatchNorm1d(6)
        self.act = nn.ReLU()
        self.two = nn.Linear(6, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(input=self.norm(input=self.one(input=x)))
        return self.head(input=torch.relu(input=self.two(input=h)))


class Statement(nn.Module):
    """Activations in place, as statements of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(5, 6)
        self.act = nn.ReLU(inplace=True)
        self.two = nn.Linear(6, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        self.act(h)
        h = self.two(h)
        h.clamp_(min=0).sub_(0.1)
        return self.head(h)


class Unused(nn.Module):
    """A block, and a layer and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(two(), plus)
        self.spare = nn.Linear(3, 4)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


def depthwise() -> nn.Module:
    """A depthwise convolution, a pointwise one, and a last layer."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 2),
    )


def pooled(pool: nn.Module, units: int) -> nn.Module:
    first = nn.Linear(5, 6)
    second = nn.Linear(units, 4)
    return nn.Sequential(first, pool, second, nn.ReLU(), nn.Linear(4, 3))


def over_channels(pool: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), pool, nn.Conv2d(channels, 3, 1), nn.Flatten(), nn.Linear(48, 3)
    )


def wrapped(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(
        wrap(nn.Linear(5, 6)), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)
    )


def fraction(module: nn.Module) -> nn.Module:
    return prune.random_unstructured(module, "weight", 0.5)


VECTOR, IMAGE = (5,), (2, 6, 6)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str], list[str]]] = {
    # name: model, inputs, hidden layers, blocks
    "a branch opens in place": (
        lambda: Block(nn.Sequential(nn.ReLU(inplace=True), *two()), plus),
        VECTOR, ["branch.1"], ["branch.3"],
    ),
    "a branch ends in place": (lambda: Block(two(), grown), VECTOR, ["branch.0"], ["branch.2"]),
    "half a shortcut": (lambda: Block(two(), half), VECTOR, ["branch.0"], []),
    "a shortcut of one unit": (lambda: Block(two(1), plus, 1), VECTOR, ["branch.0"], []),
    "a shared batch-norm": (SharedNorm, VECTOR, [], []),
    "keywords": (Keywords, VECTOR, ["one", "two"], []),
    "statements": (Statement, VECTOR, ["one"], []),
    "unused": (Unused, VECTOR, ["block.branch.0"], ["block.branch.2"]),
    "read by linear": (lambda: Functional("linear"), VECTOR, [], []),
    "read transposed": (lambda: Functional("transposed"), VECTOR, [], []),
    "read by a product": (lambda: Functional("product"), VECTOR, [], []),
    "tied": (lambda: Functional("tied"), VECTOR, [], []),
    "1-d pool over units": (lambda: pooled(nn.MaxPool1d(2), 3), VECTOR, ["2"], []),
    "1-d average over units": (lambda: pooled(nn.AvgPool1d(3, 1, 1), 6), VECTOR, ["2"], []),
    "3-d pool over channels": (lambda: over_channels(nn.MaxPool3d((2, 1, 1)), 3), IMAGE, ["2"], []),
    "3-d average over channels": (
        lambda: over_channels(nn.AvgPool3d(3, 1, 1), 6), IMAGE, ["2"], []
    ),
    "depthwise": (depthwise, IMAGE, ["4"], []),
    "the number of units written down": (
        lambda: example_models.written((2, 8, 8), 3), (2, 8, 8), [], []
    ),
    "weight-norm": (lambda: wrapped(weight_norm), VECTOR, ["2"], []),
    "weight-norm of old": (lambda: wrapped(old_weight_norm), VECTOR, ["2"], []),
    "spectral norm": (lambda: wrapped(spectral_norm), VECTOR, ["2"], []),
    "torch's pruning": (lambda: wrapped(fraction), VECTOR, ["2"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`")
def test_what_other_people_write_leaves_as_the_network_that_it_was(name: str):
    make, shape, hidden, blocks = CASES[name]
    module = make().double()
    found = trial.structure_of(module, shape)
    assert [layer.name for layer in found.hidden] == hidden
    assert [block.name for block in found.blocks] == blocks
    for kind in KINDS:
        for seed in range(3):
            held(module, shape, found, kind, seed)


def test_a_depthwise_chain_whose_last_weight_is_masked_costs_nothing():
    module = depthwise()
    found = trial.structure_of(module, IMAGE)
    kept = {
        name: torch.ones(p.shape, dtype=torch.bool)[None] for name, p in module.named_parameters()
    }
    kept["7.weight"].zero_()
    counts = flops.count(module, IMAGE)
    told = compression(found, counts, kept)
    assert (counts.flops, counts.params) == (2304, 165)
    assert (int(told["flops_shrunk"]), int(told["params_shrunk"])) == (0, 2)


@pytest.mark.parametrize(
    ("name", "layer", "why"),
    [
        (
            "a shortcut of one unit",
            "branch.2",
            "without some of it the model raises RuntimeError: mat1 and mat2 ",
        ),
        (
            "a shared batch-norm",
            "one",
            "without some of it the model raises RuntimeError: running_mean should contain ",
        ),
        ("read by linear", "fc", "the code reads its parameters itself"),
        ("tied", "fc", "it shares parameters with another layer"),
        ("1-d pool over units", "0", "they are not what 2 takes for its columns"),
        ("depthwise", "0", "they are read by Conv2d (2)"),
        (
            "the number of units written down",
            "conv",
            "without some of it the model raises RuntimeError: mat1 and mat2 ",
        ),
        (
            "weight-norm",
            "0",
            "its weight is computed from bias, parametrizations.weight.original0, ",
        ),
    ],
)
def test_what_stays_whole_is_named_once_with_the_reason(name: str, layer: str, why: str):
    make, shape, _, _ = CASES[name]
    found = trial.structure_of(make(), shape)
    reasons = [reason for named, reason in found.obstacles if named == layer]
    matching = [reason for reason in reasons if reason.startswith(why)]
    assert len(matching) == 1, found.obstacles


def test_a_model_that_runs_in_its_own_type_and_one_that_takes_indices_are_tried_too():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.relu(self.one(x.float())))

    class Indices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.one, self.two = nn.Embedding(9, 4), nn.Linear(20, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(torch.relu(self.one(self.table(x.long()).flatten(1))))

    for module in (Own(), Indices()):
        assert [layer.name for layer in trial.structure_of(module, VECTOR).hidden] == ["one"]


def test_trying_leaves_the_model_and_the_random_state_as_they_were():
    module, shape = random_model(8)
    module.train()
    before = copy.deepcopy(module.state_dict())
    state = torch.random.get_rng_state()
    trial.structure_of(module, shape)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(part.training for part in module.modules())
