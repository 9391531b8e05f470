"""The FLOPs contract against torch's own counter, figures worked by hand, and physically smaller networks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunefront.trainables import draws, flops, models, structure, trial
from prunefront.trainables.removed import compression


def counted_by_torch(module: nn.Module, shape: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape, dtype=next(module.parameters()).dtype))
    return counter.get_total_flops()


def test_figures_worked_by_hand():
    lenet300 = flops.count(models.build("mlp", (1, 28, 28), 10, widths=[300, 100]), (1, 28, 28))
    assert (lenet300.flops, lenet300.params, lenet300.unknown) == (2 * (784 * 300 + 300 * 100 + 1000), 266_610, ())
    lenet5 = flops.count(models.build("lenet5", (1, 28, 28), 10), (1, 28, 28))
    macs = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10
    assert (lenet5.flops, lenet5.params, lenet5.unknown) == (2 * macs, 431_080, ())
    assert lenet5.layers == {"0": 2 * 288_000, "2": 2 * 1_600_000, "5": 800_000, "7": 10_000}
    assert "relu" in lenet5.free


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1)),
        nn.Sequential(nn.Conv2d(4, 8, 3, dilation=2, bias=False), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Sequential(nn.ConvTranspose2d(4, 2, 3, stride=2), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(5)),
    ],
)
def test_equals_torchs_counter_with_padding_stride_and_groups(module: nn.Module):
    module(torch.zeros(2, 4, 12, 12))
    counts = flops.count(module, (4, 12, 12))
    assert counts.flops == counted_by_torch(module, (4, 12, 12)) > 0
    assert counts.unknown == ()


def test_products_that_torch_forgets_count_and_the_unknown_is_named():
    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.zeros(5, 7))

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(self.matrix @ x[0]).real + torch.dot(x[0], x[0])

    counts = flops.count(Forgotten(), (7,))
    assert counts.flops == 2 * 5 * 7 + 2 * 7
    assert counts.unknown == ("_fft_r2c",)
    assert flops.count(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)).unknown


def test_counting_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    module[1].eval()
    flops.count(module, (3,))
    assert [part.training for part in module] == [True, False, True]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module)


def shrunk(module: nn.Sequential, params: dict[str, Tensor], units: dict[str, Tensor], columns: dict[str, Tensor]) -> nn.Module:
    """The chain `module` with `params`, dead units cut out, and what they constantly give folded into the biases after them.

    Written for this test alone, from the chain's order: it shares no code with the counts that it checks.
    """
    parts: list[nn.Module] = []
    constant = torch.zeros(next(iter(columns.values())).shape, dtype=torch.float64)  # what dead units give, by column
    for name, part in module.named_children():
        if isinstance(part, nn.ReLU):
            constant = constant.relu()
        if not isinstance(part, nn.Linear | nn.Conv2d):
            parts.append(part)
            continue
        weight, dead = params[f"{name}.weight"], ~units[name]
        constant = constant.repeat_interleave(weight.shape[1] // len(constant))
        bias = params[f"{name}.bias"] + weight.reshape(*weight.shape[:2], -1).sum(-1) @ constant
        constant = bias * dead
        rows, inputs = int(units[name].sum()), int(columns[name].sum())
        new = nn.Linear(inputs, rows) if isinstance(part, nn.Linear) else nn.Conv2d(inputs, rows, weight.shape[2])
        new.weight = nn.Parameter(weight[units[name]][:, columns[name]])
        new.bias = nn.Parameter(bias[units[name]])
        parts.append(new)
    return nn.Sequential(*parts)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("model", "shape", "sparsity"),
    # torch runs no convolution without channels, so there is none at .995 for lenet5
    [*(("mlp", (1, 8, 8), s) for s in (0.9, 0.98, 0.995)), *(("lenet5", (1, 16, 16), s) for s in (0.9, 0.98))],
)
def test_shrunk_counts_are_those_of_the_physically_smaller_network(model: str, shape: tuple[int, ...], sparsity: float):
    options = {"widths": [24, 12]} if model == "mlp" else {}
    torch.manual_seed(0)
    module = models.build(model, shape, 10, **options).double()
    found = trial.find(module, shape)
    params = {name: p.detach() for name, p in module.named_parameters()}
    kept = {
        name: draws.uniform(draws.key(torch.arange(5), name), tuple(p.shape)) >= sparsity
        for name, p in params.items()
    }  # fmt: skip
    counts = flops.count(module, shape)
    measured = compression(found, counts, kept)
    units, columns = structure.alive(found, kept)
    x = draws.uniform(torch.tensor(1), (4, *shape)) - 0.5
    assert any(not units[layer.name].all() for layer in found.hidden), "no unit died, so nothing is tested"
    for k in range(5):
        masked = {name: p * kept[name][k] for name, p in params.items()}
        small = shrunk(
            module,  # type: ignore[arg-type]
            masked,
            {n: u[k] for n, u in units.items()},
            {n: c[k] for n, c in columns.items()},
        )
        whole = torch.func.functional_call(module, masked, (x,))
        torch.testing.assert_close(small(x), whole, rtol=0, atol=1e-12)
        assert int(measured["flops_shrunk"][k]) == counted_by_torch(small, shape)
        assert int(measured["params_shrunk"][k]) == sum(p.numel() for p in small.parameters())
        by_hand = sum(counts.layers[n] * int(kept[f"{n}.weight"][k].sum()) / kept[f"{n}.weight"][k].numel()
                      for n in counts.layers)  # fmt: skip
        assert int(measured["flops_masked"][k]) == round(by_hand)
        assert int(measured["params_kept"][k]) == sum(int(mask[k].sum()) for mask in kept.values())


def test_pairs_of_layers_are_linked_by_structure_not_by_name():
    found = trial.find(models.build("lenet5", (1, 28, 28), 10), (1, 28, 28))
    assert [(link.producer, link.consumer, link.repeat) for link in found.links] == [
        ("0", "2", 1),
        ("2", "5", 16),
        ("5", "7", 1),
    ]
    names = [layer.name for layer in found.layers]
    assert list(pairwise(names)) == [(link.producer, link.consumer) for link in found.links]
