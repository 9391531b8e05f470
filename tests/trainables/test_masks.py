"""Masks by rank: exact counts whatever the ties, floors kept."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prunefront.trainables.structure import masks
from prunefront.trainables.structure.units import Layer, Structure

FIRST = Layer("a", "a.weight", "a.bias", "fc", 5, 4, (), False)
SECOND = Layer("b", "b.weight", None, "fc", 3, 5, (), False)
TWO = Structure((FIRST, SECOND), ())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.floats(0, 0.999))
def test_counts_are_exact_and_earlier_entries_win_ties(values: list[int], sparsity: float):
    scores = torch.tensor(values, dtype=torch.float64)
    share = torch.tensor(sparsity, dtype=torch.float64)
    size = len(values)
    count = int(masks.kept_count(share, size))
    assert count == max(1, round((1 - sparsity) * size))
    keep = masks.top(scores, count)
    order = sorted(range(size), key=values.__getitem__, reverse=True)  # stable, as sorting is
    assert keep.nonzero().flatten().tolist() == sorted(order[:count])


@given(st.integers(0, 1000), st.floats(0, 0.99), st.floats(0, 0.5))
def test_global_counts_are_exact_and_every_layer_keeps_its_floor(
    seed: int, sparsity: float, floor: float
):
    generator = torch.Generator().manual_seed(seed)
    scores = {
        "a.weight": torch.rand(5, 4, generator=generator),
        "a.bias": torch.rand(5, generator=generator),
    }
    # A global ranking alone would empty this layer.
    scores["b.weight"] = 1e-6 * torch.rand(3, 5, generator=generator)
    share = torch.tensor(sparsity, dtype=torch.float64)
    least = torch.tensor(floor, dtype=torch.float64)
    keep = masks.weights(TWO, scores, share, "global", least)
    wanted = max(1, round((1 - sparsity) * 40))
    first, second = kept_of(keep)
    assert first + second == wanted
    first_floor = max(1, math.ceil(floor * 25))
    second_floor = max(1, math.ceil(floor * 15))
    if wanted >= first_floor + second_floor:
        assert first >= first_floor
        assert second >= second_floor


def kept_of(keep: dict[str, Tensor]) -> tuple[int, int]:
    """How many entries each of the two layers keeps."""
    first = keep["a.weight"].sum() + keep["a.bias"].sum()
    second = keep["b.weight"].sum()
    return int(first), int(second)


def test_the_uniform_allocation_removes_the_same_share_of_each_layer():
    scores = {"a.weight": torch.rand(5, 4), "a.bias": torch.rand(5), "b.weight": torch.rand(3, 5)}
    sparsity = torch.tensor(0.6, dtype=torch.float64)
    keep = masks.weights(TWO, scores, sparsity)
    assert kept_of(keep) == (10, 6)


@given(st.floats(0, 0.98))
def test_erdos_renyi_spares_small_layers_and_keeps_the_total(sparsity: float):
    layers = (
        Layer("a", "a.weight", None, "fc", 40, 50, (), False),
        Layer("b", "b.weight", None, "conv", 8, 4, (3, 3), False),
    )
    structure = Structure(layers, ())
    share = torch.tensor(sparsity, dtype=torch.float64)
    vectors = {"a": torch.rand(2000), "b": torch.rand(288)}
    keep = masks.allocate(structure, vectors, share, "erdos-renyi")
    large = float(keep["a"].double().mean())
    small = float(keep["b"].double().mean())
    left = 2000 * large + 288 * small
    assert abs(left - (1 - sparsity) * 2288) <= 2
    if small < 1 and large > 0.01:
        # In proportion to (40 + 50) / 2000 and (8 + 4 + 3 + 3) / 288, by hand.
        assert abs(large / small - 0.045 / 0.0625) < 0.03 / small
    assert small >= large - 0.002
