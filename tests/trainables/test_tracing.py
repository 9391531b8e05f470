"""Tracing: blocks found and refused, taken out and cut through; units against Torch-Pruning's
graph; costs against counters.
"""

from __future__ import annotations

import itertools
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import example_models
from prunefront.trainables import models
from prunefront.trainables.measure import flops
from prunefront.trainables.measure.removed import compression
from prunefront.trainables.structure import extract, graph, narrow, trace, trial
from prunefront.trainables.structure import units as structure
from prunefront.trainables.structure.units import Structure, node_masks
from prunefront.trainables.training import draws

IMAGE = (3, 16, 16)


def uniform(site: str, *shape: int) -> Tensor:
    return draws.uniform(draws.key(torch.tensor(7), site), shape)


def scrambled(module: nn.Module) -> nn.Module:
    """The module in float64 with random parameters and statistics, so that nothing is zero or one
    by chance.
    """
    module = module.double()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = uniform(name, *tensor.shape) + (0.5 if name.endswith("var") else -0.5)
    return module


def small(name: str) -> tuple[nn.Module, Structure, tuple[int, ...]]:
    shape, options = {
        "mlp": ((1, 8, 8), {"widths": [9, 7]}),
        "residual_mlp": ((1, 8, 8), {"units": 6, "hidden": 5, "blocks": 3}),
        "lenet5": ((1, 20, 20), {"width": 0.2}),
        "resnet": (IMAGE, {"depth": 8, "width": 0.25}),
        "vgg16_bn": ((3, 32, 32), {"width": 0.1}),
    }[name]
    module = scrambled(models.build(name, shape, 10, **options))
    return module, trial.structure_of(module, shape), shape


class Branch(nn.Module):
    """A model x -> sum of two things, both (batch, 6), given as modules."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.stem, self.one, self.other, self.head = nn.Linear(4, 6), one, other, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.one(x) + self.other(x))


def blocks(module: nn.Module, shape: tuple[int, ...] = (4,)) -> list[str]:
    found = trial.structure_of(module, shape)
    return [block.name for block in found.blocks]


def test_the_blocks_of_a_resnet_and_of_a_residual_mlp():
    _, found, _ = small("resnet")
    first = found.blocks[0]
    assert [block.name for block in found.blocks] == ["3.bn2", "4.bn2", "5.bn2"]
    assert (first.layers, first.last) == (("3.conv1", "3.conv2"), ("3.bn2.weight", "3.bn2.bias"))
    assert [norm.name for norm in first.norms] == ["3.bn1", "3.bn2"]
    assert [layer.name for layer in found.hidden] == ["3.conv1", "4.conv1", "5.conv1"]
    _, found, _ = small("residual_mlp")
    assert [block.layers for block in found.blocks] == [
        (f"{i}.inner", f"{i}.outer") for i in (2, 3, 4)
    ]
    assert found.blocks[0].last == ("2.outer.weight", "2.outer.bias")


@pytest.mark.parametrize("name", ["resnet", "residual_mlp"])
@pytest.mark.parametrize("training", [True, False])
def test_without_a_block_is_the_model_whose_last_affine_layer_gives_nothing(
    name: str, training: bool
):
    module, found, shape = small(name)
    x = uniform("x", 5, *shape)
    for lost in ([0], [1, 2], [0, 1, 2]):
        gone = [found.blocks[place] for place in lost]
        params = dict(module.named_parameters())
        zeroed = params | {n: torch.zeros_like(params[n]) for block in gone for n in block.last}
        expected = torch.func.functional_call(module.train(training), zeroed, (x,))
        small_module = graph.without(module, found, [block.name for block in gone])
        assert torch.equal(small_module.train(training)(x), expected)
        left = {name for name, _ in small_module.named_parameters()}
        assert left == params.keys() - {n for block in gone for n in found.inside(block)}
        assert not torch.equal(module(x), expected)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "residual_mlp"])
def test_halves_are_the_module_with_units_scaled_where_they_are_read_and_blocks_where_they_end(
    name: str,
):
    module, found, shape = small(name)
    module.eval()
    x, params = uniform("x", 5, *shape), dict(module.named_parameters())
    for layer, block in itertools.zip_longest(found.hidden, found.blocks):
        before, after = graph.halves(
            module, graph.divisible(module), found, layer and layer.name, block and block.name
        )
        values, ones = before(x), torch.ones(layer.units if layer else 1, dtype=torch.float64)
        torch.testing.assert_close(after(*values, ones, ones[0]), module(x), rtol=0, atol=1e-12)
        gates, switch = uniform("gates", *ones.shape), uniform("switch")
        units = {each.name: torch.ones(each.units, dtype=torch.float64) for each in found.hidden}
        there = {each.name: torch.ones((), dtype=torch.float64) for each in found.blocks}
        units |= {layer.name: gates} if layer else {}
        there |= {block.name: switch} if block else {}
        gated = structure.gated(found, params, units, there)
        expected = torch.func.functional_call(module, gated, (x,))
        torch.testing.assert_close(after(*values, gates, switch), expected, rtol=0, atol=1e-12)
        assert not torch.allclose(expected, module(x))


def test_what_is_no_branch_beside_a_shortcut_is_no_block():
    relu, linear = nn.ReLU(), lambda: nn.Linear(6, 6)
    assert blocks(Branch(nn.Identity(), nn.Sequential(linear(), relu, linear()))) == ["other.2"]
    assert blocks(Branch(linear(), nn.Sequential(linear(), relu, linear()))) == ["other.2"], (
        "a shortcut may have a layer"
    )
    assert blocks(Branch(linear(), linear())) == [], "both sides are as heavy"
    shared = linear()
    assert blocks(Branch(nn.Identity(), nn.Sequential(shared, relu, shared))) == [], (
        "a layer that is used twice"
    )
    assert blocks(Branch(nn.Identity(), nn.Sequential(linear(), nn.Sigmoid()))) == [], (
        "gives something when all is zero"
    )
    chain = nn.Sequential(nn.Linear(4, 6), relu, linear(), relu, nn.Linear(6, 2))
    assert blocks(chain) == []

    class Read(Branch):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            inner = self.other(x)
            return self.head(x + self.one(inner)) + inner[:, :2]

    assert blocks(Read(linear(), linear())) == [], "something else reads what is computed inside"


def test_a_shortcut_that_is_a_convolution_beside_a_longer_branch():
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.conv1 = nn.Conv2d(4, 8, 3, 2, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.conv2 = nn.Conv2d(8, 8, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(8)
            self.head = nn.Linear(8, 2)
            self.shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, 2, bias=False), nn.BatchNorm2d(8))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.after(
                self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)
            )

        def after(self, x: Tensor) -> Tensor:
            return self.head(F.relu(x).mean((2, 3)))

    module = Projected()
    scrambled(module).eval()
    found = trial.structure_of(module, IMAGE)
    assert [block.name for block in found.blocks] == ["bn2"]
    assert found.blocks[0].layers == ("conv1", "conv2")
    x = uniform("x", 2, *IMAGE)
    expected = module.after(module.shortcut(module.stem(x)))
    torch.testing.assert_close(
        graph.without(module, found, ["bn2"])(x), expected, rtol=0, atol=1e-12
    )


def test_code_that_asks_whether_it_is_in_training_has_no_blocks_and_is_not_cut_through():
    dropping = example_models.dropping((1, 2, 2), 3)
    found = trial.structure_of(dropping.train(), (1, 2, 2))
    assert found == trial.structure_of(dropping.eval(), (1, 2, 2))
    assert found.blocks == ()
    assert [layer.name for layer in found.hidden] == ["inner"]
    with pytest.raises(ValueError, match=r"dropout is a module \(nn.Dropout\)"):
        graph.divisible(dropping)

    class Asking(Branch):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x if self.training else x)

    asking = Asking(nn.Identity(), nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)))
    assert blocks(asking) == []
    with pytest.raises(ValueError, match="leaves it to its modules what differs in training"):
        graph.divisible(asking)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "resnet", "vgg16_bn"])
def test_torch_prunings_dependency_graph_names_the_same_entries_of_the_same_tensors(name: str):
    module, found, shape = small(name)
    graph = tp.DependencyGraph().build_dependency(
        module.eval(), torch.zeros(1, *shape, dtype=torch.float64)
    )
    names = {part: name for name, part in module.named_modules()}
    assert found.hidden
    for layer in found.hidden:
        part = module.get_submodule(layer.name)
        prune = tp.prune_linear_out_channels if layer.kind == "fc" else tp.prune_conv_out_channels
        for unit in range(layer.units):
            theirs: set[tuple[str, int, int]] = set()
            for dependency, indices in graph.get_pruning_group(part, prune, [unit]):
                target: Any = dependency.target.module
                if target not in names:
                    continue  # an operation
                dim = 0 if graph.is_out_channel_pruning_fn(dependency.handler) else 1
                for local, tensor in [*target.named_parameters(), *target.named_buffers()]:
                    if tensor.ndim > dim:
                        theirs |= {(f"{names[target]}.{local}", dim, index) for index in indices}
            ours = {
                (tensor, dim, unit * repeat + offset)
                for tensor, axes in found.axes.items()
                if tensor != layer.name
                for dim, producer, repeat in axes
                if producer == layer.name
                for offset in range(repeat)
            }
            assert ours == theirs


@pytest.mark.parametrize(
    ("depth", "macs", "params"),
    [(20, 40.55, 0.2697), (32, 68.86, 0.4642), (56, 125.49, 0.8530), (110, 252.89, 1.728)],
)
def test_published_costs_of_residual_networks(depth: int, macs: float, params: float):
    shape = (3, 32, 32)
    module = models.build(f"resnet{depth}", shape, 10)
    counts = flops.count(module, shape)
    assert round(counts.flops / 2e6, 2) == macs
    digits = 3 if depth == 110 else 4
    assert round(counts.params / 1e6, digits) == params
    assert counts.unknown == ()


@pytest.mark.parametrize("name", ["resnet", "residual_mlp", "mlp", "lenet5", "vgg16_bn"])
def test_expected_costs_at_zero_and_one_are_those_of_the_smaller_module(name: str):
    module, found, shape = small(name)
    counts = flops.count(module, shape)
    for draw in range(4):
        alive = {
            layer.name: uniform(f"{layer.name} {draw}", layer.units) < 0.6 for layer in found.hidden
        }
        alive = {name: live | (torch.arange(len(live)) == 0) for name, live in alive.items()}
        there = {block.name: uniform(f"{block.name} {draw}") < 0.6 for block in found.blocks}
        sums = {name: live.double().sum() for name, live in alive.items()}
        expected = structure.expected(
            found, counts, sums, {name: stays.double() for name, stays in there.items()}
        )
        kept = structure.node_masks(found, alive, dict(module.named_parameters()), there)
        measured = compression(found, counts, {name: mask[None] for name, mask in kept.items()})
        assert (float(expected[0]), float(expected[1])) == (
            measured["flops_shrunk"].item(),
            measured["params_shrunk"].item(),
        )
        gone = tuple(name for name, stays in there.items() if not stays)
        widths: dict[str, int] = {}
        for layer in found.hidden:
            block = found.block_of(layer.name)
            if block is None or block.name not in gone:
                widths[layer.name] = int(alive[layer.name].sum())
        smaller = narrow.narrowed_module(module, found, narrow.Cut(widths, gone))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            smaller.eval()(torch.zeros(1, *shape, dtype=torch.float64))
        assert counter.get_total_flops() == float(expected[0])
        assert sum(p.numel() for p in smaller.parameters()) == float(expected[1])


def test_expected_costs_are_the_mean_over_all_networks_that_may_be_drawn():
    """Enumerates 2^7 networks of two blocks with two and three units, each weighted by its
    probability.
    """
    module = models.build("residual_mlp", (4,), 3, units=3, hidden=3, blocks=2)
    found = trial.structure_of(module, (4,))
    found = narrow.narrowed(found, narrow.Cut({"2.inner": 2, "3.inner": 3}))
    module = narrow.narrowed_module(
        module, trial.structure_of(module, (4,)), narrow.Cut({"2.inner": 2, "3.inner": 3})
    )
    counts, like = flops.count(module, (4,)), dict(module.named_parameters())
    units = {layer.name: uniform(layer.name, layer.units) for layer in found.hidden}
    there = {block.name: uniform(block.name) for block in found.blocks}
    chances = torch.cat([*units.values(), *(p[None] for p in there.values())])
    everything = torch.tensor(list(itertools.product([False, True], repeat=len(chances))))
    weights = torch.where(everything, chances, 1 - chances).prod(1)
    rows = []
    for drawn in everything:
        two, three, *switches = drawn.split([2, 3, 1, 1])
        alive = {"2.inner": two, "3.inner": three}
        rows.append(
            structure.node_masks(
                found, alive, like, {n: s[0] for n, s in zip(there, switches, strict=True)}
            )
        )
    measured = compression(
        found, counts, {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    )
    expected = structure.expected(
        found, counts, {name: theta.sum() for name, theta in units.items()}, there
    )
    torch.testing.assert_close(
        (weights * measured["flops_shrunk"]).sum(), expected[0], rtol=0, atol=1e-9
    )
    torch.testing.assert_close(
        (weights * measured["params_shrunk"]).sum(), expected[1], rtol=0, atol=1e-9
    )


def test_a_model_may_declare_what_the_tracer_cannot_find():
    class Declared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self.one(x))
            return self.two(hidden) if hidden.sum() >= 0 else self.two(-hidden)

        def structure(self) -> Structure:
            return trial.structure_of(
                nn.Sequential(OrderedDict(one=self.one, act=nn.ReLU(), two=self.two)), (4,)
            )

    module = Declared()
    found = trial.structure_of(module, (4,))
    assert [(link.producer, link.consumer) for link in found.links] == [("one", "two")]
    with pytest.raises(
        ValueError,
        match=r"a model that is to be cut can be traced by torch\.fx; it raised TraceError",
    ):
        graph.divisible(module)


def unusual(values: Tensor) -> Tensor:
    """Values as they are, but in another order where one of them is far larger than any that a
    trial or a data set has.
    """
    return torch.where(values.abs().amax(1, keepdim=True) > 1e3, values.roll(1, 1), values)


def with_forward_hook(module: nn.Module, name: str) -> None:
    module.get_submodule(name).register_forward_hook(lambda part, given, out: unusual(out))  # type: ignore[arg-type]


def with_hook_before(module: nn.Module, name: str) -> None:
    module.get_submodule(name).register_forward_pre_hook(lambda part, given: (unusual(given[0]),))


def with_forward_of_its_own(module: nn.Module, name: str) -> None:
    part = module.get_submodule(name)
    usual = type(part).forward
    part.forward = types.MethodType(lambda own, x: unusual(usual(own, x)), part)  # type: ignore[method-assign]


@pytest.mark.parametrize("change", [with_forward_hook, with_hook_before, with_forward_of_its_own])
@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("0", {"0"}),  # its units go to the hook
        ("1", {"0"}),
        ("2", {"0"}),
        ("3", {"0", "3"}),  # a layer that is read, and whose units are
        ("4", {"3"}),
    ],
)
def test_what_stands_behind_a_hook_stays_whole(
    change: Callable[[nn.Module, str], None], name: str, whole: set[str]
):
    """The hook acts on values that no trial draws: it must be seen, not tried."""
    torch.manual_seed(0)
    hidden = [
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.BatchNorm1d(8),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.ReLU(),
    ]
    model = nn.Sequential(*hidden, nn.Linear(8, 3))
    change(model, name)
    found = trial.structure_of(model, (6,))
    assert {layer.name for layer in found.hidden} == {"0", "3", "5"} - whole
    assert any("hook" in reason for _, reason in found.obstacles), found.obstacles
    params = dict(model.named_parameters())
    alive = {layer.name: torch.arange(layer.units) % 3 > 0 for layer in found.hidden}
    kept = {name: torch.ones_like(params[name], dtype=torch.bool) for name in found.parameters}
    kept |= node_masks(found, alive, params)
    with torch.no_grad():
        for name, mask in kept.items():
            params[name].mul_(mask)
        smaller = extract.shrunk(model.eval(), found, kept, (6,))
        x = 1e4 * torch.randn(50, 6)
        torch.testing.assert_close(smaller(x), model(x), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("change", [with_forward_hook, with_hook_before, with_forward_of_its_own])
@pytest.mark.parametrize("name", ["branch.0", "branch.1", "branch.2"])
def test_a_branch_with_a_hook_is_no_block(change: Callable[[nn.Module, str], None], name: str):
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch(x)

    model = nn.Sequential(nn.Linear(6, 4), Branched(), nn.Linear(4, 3))
    assert [block.name for block in trial.structure_of(model, (6,)).blocks] == ["1.branch.2"]
    change(model[1], name)
    assert not trial.structure_of(model, (6,)).blocks


class InPlace(nn.Module):
    """Activations that are called as functions, or methods, which overwrite what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.layers[0](x))
        x = F.leaky_relu_(self.layers[1](x))
        x = F.elu_(self.layers[2](x))
        x = self.layers[3](x).sigmoid_()
        return self.layers[4](x)


def test_functions_in_place_let_units_go():
    torch.manual_seed(0)
    model = InPlace().double().eval()
    found = trial.structure_of(model, (6,))
    assert [layer.name for layer in found.hidden] == [f"layers.{place}" for place in range(4)]
    params = dict(model.named_parameters())
    alive = {layer.name: torch.arange(8) % 3 > 0 for layer in found.hidden}
    kept = {name: torch.ones_like(params[name], dtype=torch.bool) for name in found.parameters}
    kept |= node_masks(found, alive, params)
    with torch.no_grad():
        for name, mask in kept.items():
            params[name].mul_(mask)
        x = torch.randn(20, 6, dtype=torch.float64)
        torch.testing.assert_close(extract.shrunk(model, found, kept, (6,))(x), model(x))


def test_a_module_is_what_its_type_says_and_not_what_it_is_named():
    """One is named as a method that reads shapes alone, another as an activation that it is not."""
    sized = nn.Sequential(
        OrderedDict(one=nn.Linear(5, 6), size=nn.LayerNorm(6), two=nn.Linear(6, 3))
    )
    hints = trace.hints(sized, (5,))
    assert hints.links == ()
    assert ("one", "they are read by LayerNorm (size)") in hints.obstacles
    for activation, is_head in ((nn.ReLU(), True), (nn.GELU(), False)):
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            one=nn.Linear(5, 6), relu=activation, two=nn.Linear(6, 3)
        )
        module = nn.Sequential(parts)
        head = graph.head(module, trial.structure_of(module, (5,)))
        assert (head is not None) == is_head
