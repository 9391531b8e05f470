"""Masks by rank: exact counts whatever the ties, floors kept."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunefront.trainables.structure import masks
from prunefront.trainables.structure.units import Layer, Structure

TWO = Structure(
    (Layer("a", "a.weight", "a.bias", "fc", 5, 4, (), False), Layer("b", "b.weight", None, "fc", 3, 5, (), False)), ()
)  # fmt: skip


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.floats(0, 0.999))
def test_counts_are_exact_and_earlier_entries_win_ties(values: list[int], sparsity: float):
    scores = torch.tensor(values, dtype=torch.float64)
    count = int(masks.kept_count(torch.tensor(sparsity, dtype=torch.float64), len(values)))
    keep = masks.top(scores, count)
    assert int(keep.sum()) == count == max(1, round((1 - sparsity) * len(values)))
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert sorted(expected) == keep.nonzero().flatten().tolist()


@given(st.integers(0, 1000), st.floats(0, 0.99), st.floats(0, 0.5))
def test_global_counts_are_exact_and_every_layer_keeps_its_floor(
    seed: int, sparsity: float, floor: float
):
    generator = torch.Generator().manual_seed(seed)
    scores = {
        "a.weight": torch.rand(5, 4, generator=generator),
        "a.bias": torch.rand(5, generator=generator),
    }
    scores["b.weight"] = 1e-6 * torch.rand(
        3, 5, generator=generator
    )  # a global ranking alone would empty this layer
    share, least = (torch.tensor(value, dtype=torch.float64) for value in (sparsity, floor))
    keep = masks.weights(TWO, scores, share, "global", least)
    wanted = max(1, round((1 - sparsity) * 40))
    floors = {"a": max(1, -(-floor * 25 // 1)), "b": max(1, -(-floor * 15 // 1))}
    kept = {
        "a": int(keep["a.weight"].sum() + keep["a.bias"].sum()),
        "b": int(keep["b.weight"].sum()),
    }
    assert sum(kept.values()) == wanted
    if wanted >= sum(floors.values()):
        assert all(kept[name] >= floors[name] for name in kept)


def test_the_uniform_allocation_removes_the_same_share_of_each_layer():
    scores = {"a.weight": torch.rand(5, 4), "a.bias": torch.rand(5), "b.weight": torch.rand(3, 5)}
    keep = masks.weights(TWO, scores, torch.tensor(0.6, dtype=torch.float64))
    assert int(keep["a.weight"].sum() + keep["a.bias"].sum()) == 10
    assert int(keep["b.weight"].sum()) == 6


@given(st.floats(0, 0.98))
def test_erdos_renyi_spares_small_layers_and_keeps_the_total(sparsity: float):
    layers = (
        Layer("a", "a.weight", None, "fc", 40, 50, (), False),
        Layer("b", "b.weight", None, "conv", 8, 4, (3, 3), False),
    )
    structure, share = Structure(layers, ()), torch.tensor(sparsity, dtype=torch.float64)
    vectors = {"a": torch.rand(2000), "b": torch.rand(288)}
    kept = {
        name: float(k.double().mean())
        for name, k in masks.allocate(structure, vectors, share, "erdos-renyi").items()
    }
    assert abs(2000 * kept["a"] + 288 * kept["b"] - (1 - sparsity) * 2288) <= 2
    if (
        kept["b"] < 1 and kept["a"] > 0.01
    ):  # in proportion to (40 + 50) / 2000 and (8 + 4 + 3 + 3) / 288, by hand
        assert abs(kept["a"] / kept["b"] - 0.045 / 0.0625) < 0.03 / kept["b"]
    assert kept["b"] >= kept["a"] - 0.002
