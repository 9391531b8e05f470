"""The FLOPs contract against torch's own counter, figures worked by hand, and physically smaller
networks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunefront.trainables import models
from prunefront.trainables.measure import flops
from prunefront.trainables.measure.removed import compression
from prunefront.trainables.structure import trial
from prunefront.trainables.structure.alive import alive
from prunefront.trainables.training import draws


def counted_by_torch(module: nn.Module, shape: tuple[int, ...]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape, dtype=next(module.parameters()).dtype))
    return counter.get_total_flops()


def test_figures_worked_by_hand():
    lenet300 = flops.count(models.build("mlp", (1, 28, 28), 10, widths=[300, 100]), (1, 28, 28))
    assert (lenet300.flops, lenet300.params, lenet300.unknown) == (
        2 * (784 * 300 + 300 * 100 + 1000),
        266_610,
        (),
    )
    lenet5 = flops.count(models.build("lenet5", (1, 28, 28), 10), (1, 28, 28))
    macs = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10
    assert (lenet5.flops, lenet5.params, lenet5.unknown) == (2 * macs, 431_080, ())
    assert lenet5.layers == {"0": 2 * 288_000, "2": 2 * 1_600_000, "5": 800_000, "7": 10_000}
    assert "relu" in lenet5.free


CHAINS = [
    nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1)),
    nn.Sequential(
        nn.Conv2d(4, 8, 3, dilation=2, bias=False),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ),
    nn.Sequential(
        nn.ConvTranspose2d(4, 2, 3, stride=2), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(5)
    ),
]


@pytest.mark.parametrize("module", CHAINS)
def test_equals_torchs_counter_with_padding_stride_and_groups(module: nn.Module):
    shape = (4, 12, 12)
    module(torch.zeros(2, *shape))
    counts = flops.count(module, shape)
    assert counts.flops > 0
    assert counts.flops == counted_by_torch(module, shape)
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


class ToItself(nn.Module):
    """Attention of a sequence to itself."""

    def __init__(self, weights: bool = True, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=self.weights)[0]


class Called(nn.Module):
    """A function of tensors and, if there are any, of parameters; the input is not looked at."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.given = nn.ParameterList([torch.zeros(shape) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(*self.given)


def spent(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> int:
    """FLOPs of a function of tensors of these shapes, all of whose operations are known."""
    counts = flops.count(Called(function, *shapes), (1,))
    assert counts.unknown == ()
    return counts.flops


@pytest.mark.parametrize("weights", [True, False])
def test_attention_costs_its_projections_and_both_products(weights: bool):
    counts = flops.count(ToItself(weights), (5, 8))
    projections, products = 2 * 5 * 8 * (3 * 8 + 8), 2 * 2 * 5 * 5 * 8
    assert (counts.flops, counts.unknown) == (projections + products, ()) == (3360, ())
    assert counts.layers == {"attention.out_proj": 2 * 5 * 8 * 8}, (
        "read by its parent, never called"
    )


def test_an_encoder_layer_costs_the_same_in_any_form():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert flops.count(layer, (5, 8)).flops == 3360 + 2 * 2 * 5 * 8 * 16 == 5920
    encoder = nn.TransformerEncoder(layer, 3)
    before = torch.backends.mha.get_fastpath_enabled()
    assert flops.count(encoder, (5, 8)).flops == 3 * 5920
    assert torch.backends.mha.get_fastpath_enabled() == before
    with flops.Counter(as_written=False) as counter, torch.no_grad():
        layer.eval()(torch.zeros(1, 5, 8))
    assert counter.total == 5920, "by the one kernel that a device has for it"
    with flops.Counter(as_written=False) as counter, torch.no_grad():
        ToItself().eval()(torch.zeros(3, 5, 8))
    assert counter.total == 3 * 3360


def test_a_layer_that_is_read_and_not_called_has_its_flops():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(7, 5), nn.Linear(5, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.second.forward(F.relu(F.linear(x, self.first.weight)))

    counts = flops.count(Reads(), (7,))
    assert counts.layers == {"first": 70, "second": 70}
    assert counts.flops == 140


@settings(max_examples=25, deadline=None)
@given(*(st.integers(1, 6) for _ in range(6)), st.booleans(), st.booleans())
def test_scaled_dot_product_attention_costs_both_products(
    batch: int,
    heads: int,
    queries: int,
    keys: int,
    width: int,
    values: int,
    causal: bool,
    of_device: bool,
):
    q = torch.zeros(batch, heads, queries, width)
    k, v = torch.zeros(batch, heads, keys, width), torch.zeros(batch, heads, keys, values)
    with flops.Counter(as_written=not of_device) as counter:
        F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    assert counter.total == 2 * batch * heads * queries * keys * (width + values)
    assert not counter.unknown


KERNELS = ["flash_attention_for_cpu", "flash_attention", "cudnn_attention", "efficient_attention"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_costs_the_same_by_the_kernels_of_any_device(kernel: str):
    with torch.device("meta"):
        q, k = torch.zeros(3, 2, 6, 8), torch.zeros(3, 2, 7, 8)
    more = (None, False) if kernel in ("cudnn_attention", "efficient_attention") else ()
    with flops.Counter() as counter:
        getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}")(q, k, k, *more)
    assert counter.total == 2 * 3 * 2 * 6 * 7 * (8 + 8)


def by_hand(
    kind: Callable[..., nn.RNNBase], layers: int, both: bool, inputs: int, hidden: int, out: int
) -> int:
    """FLOPs of a recurrent layer at one time step."""
    gates = {nn.LSTM: 4, nn.GRU: 3}.get(kind, 1)
    directions, total = 1 + both, 0
    for layer in range(layers):
        read = inputs if layer == 0 else directions * out
        total += (
            directions * 2 * (gates * hidden * (read + out) + (hidden * out if out < hidden else 0))
        )
    return total


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    *(st.integers(1, 3) for _ in range(3)),
    *(st.booleans() for _ in range(4)),
)
@pytest.mark.filterwarnings("ignore:TF32", "ignore:LSTM with projections")
def test_recurrent_layers_cost_their_products_at_each_step(
    kind: Callable[..., nn.RNNBase],
    layers: int,
    inputs: int,
    more: int,
    both: bool,
    biases: bool,
    projected: bool,
    of_device: bool,
):
    hidden, steps, batch = 2 + more, 4, 3
    out = hidden - 1 if projected and kind is nn.LSTM else hidden
    options = {"proj_size": out} if out < hidden else {}
    layer = kind(inputs, hidden, layers, bidirectional=both, bias=biases, **options)
    with (
        torch.backends.mkldnn.flags(enabled=of_device),
        flops.Counter() as counter,
        torch.no_grad(),
    ):
        layer(torch.zeros(steps, batch, inputs))
    assert counter.total == steps * batch * by_hand(kind, layers, both, inputs, hidden, out)
    assert not counter.unknown


def test_recurrent_layers_cost_the_same_by_the_kernel_of_a_gpu():
    assert (
        flops.count(nn.LSTM(10, 20, batch_first=True), (5, 10)).flops
        == 2 * 5 * 4 * 20 * (10 + 20)
        == 24_000
    )
    layer = nn.LSTM(10, 20, 2, bidirectional=True, device="meta")
    x, state = torch.zeros(5, 3, 10, device="meta"), torch.zeros(4, 3, 20, device="meta")
    weights = [weight for group in layer.all_weights for weight in group]
    settings_ = (2, 20, 0, 2, False, 0.0, False, True, [], None)
    with flops.Counter() as counter:
        torch.ops.aten._cudnn_rnn(x, weights, 4, None, state, state, *settings_)
    assert counter.total == 5 * 3 * by_hand(nn.LSTM, 2, True, 10, 20, 20)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_cells_cost_both_products(kind: type[nn.Module], gates: int):
    counts = flops.count(kind(6, 5), (6,))
    products = gates * 5 * (6 + 5)
    assert counts.flops == 2 * products


def test_packed_sequences_cost_the_steps_that_are_there():
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(5, 2, 8), torch.tensor([5, 3]))
    layer = nn.GRU(8, 6)
    with flops.Counter() as counter, torch.no_grad():
        layer(packed)
    assert counter.total == (5 + 3) * by_hand(nn.GRU, 1, False, 8, 6, 6)
    assert not counter.unknown


@settings(max_examples=15, deadline=None)
@given(*(st.integers(2, 5) for _ in range(4)))
def test_a_fused_product_costs_what_its_parts_cost(b: int, n: int, m: int, p: int):
    one = 2 * n * m * p
    stacks = (b, n, m), (b, m, p)
    assert spent(torch.addbmm, (n, p), *stacks) == b * one
    assert spent(torch.baddbmm, (b, n, p), *stacks) == b * one
    assert spent(torch.bmm, *stacks) == b * one
    assert spent(torch.matmul, *stacks) == b * one
    assert spent(torch.addmm, (n, p), (n, m), (m, p)) == one
    assert spent(torch.addmv, (n,), (n, m), (m,)) == 2 * n * m
    assert spent(torch.mv, (n, m), (m,)) == 2 * n * m
    assert spent(torch.inner, (m,), (m,)) == 2 * m
    assert spent(torch.dot, (m,), (m,)) == 2 * m
    assert spent(torch.outer, (n,), (m,)) == 0
    assert spent(torch.addr, (n, m), (n,), (m,)) == 0

    def summed(x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("bnm,bmp->np", x, y)

    assert spent(summed, *stacks) == b * one


@settings(max_examples=15, deadline=None)
@given(*(st.integers(2, 5) for _ in range(4)))
def test_a_product_of_three_costs_its_cheaper_order(b: int, n: int, m: int, p: int):
    def product(*matrices: Tensor) -> Tensor:
        return torch.linalg.multi_dot(matrices)

    first_pair = n * m * p + n * p * b
    last_pair = m * p * b + n * m * b
    cheaper = min(first_pair, last_pair)
    assert spent(product, (n, m), (m, p), (p, b)) == 2 * cheaper


@settings(max_examples=15, deadline=None)
@given(*(st.integers(2, 5) for _ in range(4)))
def test_a_bilinear_map_costs_its_two_products(b: int, n: int, m: int, p: int):
    def bilinear(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return F.bilinear(x, y, w)

    def contracted(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("bom,bm->bo", torch.einsum("bn,onm->bom", x, w), y)

    shapes = (b, n), (p, n, m), (b, m)
    whole = 2 * b * p * n * m + 2 * b * p * m
    assert spent(bilinear, *shapes) == whole
    assert spent(contracted, *shapes) == whole


def test_convolutions_in_every_form_cost_the_same():
    plain = flops.count(nn.Conv1d(4, 6, 3), (4, 9)).flops
    assert (
        spent(lambda x, w, b: torch.conv_tbc(x, w, b), (9, 1, 4), (3, 4, 6), (6,))
        == plain
        == 2 * 7 * 6 * 4 * 3
    )
    unfolded = spent(lambda x, w: w @ F.unfold(x, 3), (1, 4, 5, 5), (6, 4 * 9))
    assert unfolded == flops.count(nn.Conv2d(4, 6, 3), (4, 5, 5)).flops
    transposed = nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2)
    assert flops.count(transposed, (4, 5, 5)).flops == 2 * 25 * 4 * (6 // 2) * 9


def distances(x: Tensor) -> Tensor:
    return torch.cdist(x, x)


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.fft(x).real


@pytest.mark.parametrize("call", [distances, spectrum, torch.matrix_exp])
def test_what_has_no_formula_is_named(call: Callable[[Tensor], Tensor]):
    module = Called(call, (3, 3))
    assert flops.count(module, (1,)).unknown


def test_counting_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).train()
    module[1].eval()
    flops.count(module, (3,))
    assert [part.training for part in module] == [True, False, True]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module)


def shrunk(
    module: nn.Sequential,
    params: dict[str, Tensor],
    units: dict[str, Tensor],
    columns: dict[str, Tensor],
) -> nn.Module:
    """The chain `module` with `params`, dead units cut out, and what they constantly give folded
    into the biases after them.

    Written for this test alone, from the chain's order: it shares no code with the counts that it
    checks.
    """
    parts: list[nn.Module] = []
    constant = torch.zeros(
        next(iter(columns.values())).shape, dtype=torch.float64
    )  # what dead units give, by column
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
        new = (
            nn.Linear(inputs, rows)
            if isinstance(part, nn.Linear)
            else nn.Conv2d(inputs, rows, weight.shape[2])
        )
        new.weight = nn.Parameter(weight[units[name]][:, columns[name]])
        new.bias = nn.Parameter(bias[units[name]])
        parts.append(new)
    return nn.Sequential(*parts)


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(
    ("model", "shape", "sparsity"),
    # torch runs no convolution without channels, so there is none at .995 for lenet5
    [
        *(("mlp", (1, 8, 8), s) for s in (0.9, 0.98, 0.995)),
        *(("lenet5", (1, 16, 16), s) for s in (0.9, 0.98)),
    ],
)
def test_shrunk_counts_are_those_of_the_physically_smaller_network(
    model: str, shape: tuple[int, ...], sparsity: float
):
    options = {"widths": [24, 12]} if model == "mlp" else {}
    torch.manual_seed(0)
    module = models.build(model, shape, 10, **options).double()
    found = trial.structure_of(module, shape)
    params = {name: p.detach() for name, p in module.named_parameters()}
    kept = {
        name: draws.uniform(draws.key(torch.arange(5), name), tuple(p.shape)) >= sparsity
        for name, p in params.items()
    }  # fmt: skip
    counts = flops.count(module, shape)
    measured = compression(found, counts, kept)
    units, columns = alive(found, kept)
    x = draws.uniform(torch.tensor(1), (4, *shape)) - 0.5
    assert any(not units[layer.name].all() for layer in found.hidden), (
        "no unit died, so nothing is tested"
    )
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
        by_hand = 0.0
        for name, whole_flops in counts.layers.items():
            mask = kept[f"{name}.weight"][k]
            by_hand += whole_flops * int(mask.sum()) / mask.numel()
        assert int(measured["flops_masked"][k]) == round(by_hand)
        assert int(measured["params_kept"][k]) == sum(int(mask[k].sum()) for mask in kept.values())


def test_pairs_of_layers_are_linked_by_structure_not_by_name():
    found = trial.structure_of(models.build("lenet5", (1, 28, 28), 10), (1, 28, 28))
    assert [(link.producer, link.consumer, link.repeat) for link in found.links] == [
        ("0", "2", 1),
        ("2", "5", 16),
        ("5", "7", 1),
    ]
    names = [layer.name for layer in found.layers]
    assert list(pairwise(names)) == [(link.producer, link.consumer) for link in found.links]


class SelfAttention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def test_the_attention_of_a_report_about_another_counter():
    """pytorch#195460: 12 heads of 64 tokens and 64 numbers, on a CPU."""
    found = flops.count(SelfAttention(), (12, 64, 64))
    assert (found.flops, found.unknown) == (12_582_912, ())
