"""Structure: found by tracing, cautious where the tracer cannot follow, and right about which units
are dead.
"""

from __future__ import annotations

import torch
from torch import nn

import example_models
from prunefront.trainables.models import build
from prunefront.trainables.structure import trial
from prunefront.trainables.structure import units as structure
from prunefront.trainables.structure.alive import alive
from prunefront.trainables.training import draws


def test_batch_norm_dropout_and_pooling_are_passed_and_remembered():
    found = trial.structure_of(example_models.normed((1, 8, 8), 10), (1, 8, 8))
    assert [(link.producer, link.consumer, link.repeat) for link in found.links] == [
        ("0", "4", 1),
        ("4", "8", 4),
    ]
    assert found.links[0].norms[0].parameters == ("1.weight", "1.bias")
    assert [link.folds for link in found.links] == [True, True]


def test_units_of_an_addition_stay_and_inner_units_of_a_branch_go():
    found = trial.structure_of(example_models.residual((1, 8, 8), 10), (1, 8, 8))
    assert [(link.producer, link.consumer) for link in found.links] == [("inner", "outer")]
    assert [layer.name for layer in found.hidden] == ["inner"]


def test_what_cannot_be_traced_has_layers_but_no_links():
    found = trial.structure_of(example_models.refused((1, 8, 8), 10), (1, 8, 8))
    assert [layer.name for layer in found.layers] == ["one", "two"]
    assert found.links == ()


def test_a_padded_consumer_does_not_fold_constants_and_a_shared_layer_is_not_linked():
    padded = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.Flatten(), nn.Linear(72, 3)
    )
    assert [link.folds for link in trial.structure_of(padded, (1, 8, 8)).links] == [False, True]
    shared = nn.Linear(6, 6)
    twice = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), shared, nn.ReLU(), shared, nn.Linear(6, 2))
    assert trial.structure_of(twice, (4,)).links == ()


def test_tied_and_frozen_layers_are_not_removable():
    found = trial.structure_of(example_models.odd((1, 8, 8), 10), (1, 8, 8))
    assert [layer.name for layer in found.layers] == ["stem", "head"]
    assert found.links == ()


def test_transposed_flattening_that_breaks_units_apart_is_not_linked():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(144, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.conv(x).permute(0, 2, 3, 1).flatten(1))

    assert trial.structure_of(Mixed(), (1, 8, 8)).links == ()


def test_a_unit_lives_if_a_path_leads_from_an_input_through_it_to_an_output():
    """The oracle counts paths with matrix products: forwards from the inputs, backwards from the
    outputs.
    """
    module = build("mlp", (6,), 3, widths=[8, 7])
    found = trial.structure_of(module, (6,))
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    kept = {
        name: draws.uniform(draws.key(torch.arange(50), name), shape) < 0.2
        for name, shape in shapes.items()
    }
    units, _ = alive(found, kept)
    first, second, third = (kept[f"{name}.weight"].double() for name in ("1", "3", "5"))
    into_first = first.sum(2)
    into_second = torch.einsum("koi,ki->ko", second, into_first)
    from_second = third.sum(1)
    from_first = torch.einsum("koi,ko->ki", second, from_second)
    assert torch.equal(units["1"], (into_first > 0) & (from_first > 0))
    assert torch.equal(units["3"], (into_second > 0) & (from_second > 0))
    assert units["1"].any()
    assert not units["1"].all()


def test_node_masks_remove_row_bias_and_columns_and_nothing_else():
    module = build("lenet5", (1, 16, 16), 10)
    found = trial.structure_of(module, (1, 16, 16))
    params = dict(module.named_parameters())
    alive = {layer.name: torch.ones(layer.units, dtype=torch.bool) for layer in found.hidden}
    alive["2"][7] = False
    masks = structure.node_masks(found, alive, params)
    assert not masks["2.weight"][7].any()
    assert not masks["2.bias"][7]
    assert not masks["5.weight"][:, 7:8].any(), "one map of 1 x 1 feeds one column"
    removed = sum(int((~mask).sum()) for mask in masks.values())
    assert removed == 20 * 25 + 1 + 500


def test_a_constant_that_cannot_be_folded_keeps_its_unit():
    """A unit without inputs, behind a shift (a norm, a sigmoid), before a layer that has no bias or
    pads.
    """
    for between in (nn.BatchNorm2d(4), nn.Sigmoid()):
        chain = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), between, nn.Conv2d(4, 2, 3, padding=1, bias=False)
        )
        found = trial.structure_of(chain, (1, 8, 8))
        assert [link.shifts for link in found.links] == [True]
        kept = {
            name: torch.ones(1, *chain.get_parameter(name).shape, dtype=torch.bool)
            for name in found.parameters
        }
        kept["0.weight"][0, 1] = False
        assert alive(found, kept)[0]["0"].all()
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1, bias=False)
    )
    assert alive(trial.structure_of(plain, (1, 8, 8)), kept)[0]["0"].tolist() == [
        [True, False, True, True]
    ]


def test_a_constant_that_was_folded_into_a_unit_makes_it_one_that_cannot_be_folded():
    """The second unit has no bias of its own and no input, but what the first, folded into it,
    gives: the third one pads.
    """
    chain = nn.Sequential(
        nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Conv2d(1, 2, 3, padding=1)
    )
    found = trial.structure_of(chain, (1, 8, 8))
    kept = {
        name: torch.ones(2, *chain.get_parameter(name).shape, dtype=torch.bool)
        for name in found.parameters
    }
    kept["0.weight"][:], kept["2.bias"][:], kept["0.bias"][1] = False, False, False
    units, _ = alive(found, kept)
    assert units["0"].tolist() == [[False], [False]]
    assert units["2"].tolist() == [[True], [False]]


def test_what_reads_values_by_index_or_along_another_dimension_is_not_understood():
    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.out = nn.Linear(6, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.inner(x)
            return self.out(hidden) + hidden[:, :2]

    class Transposed(Sliced):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.inner(x).T.T)

    assert trial.structure_of(Sliced(), (6,)).links == ()
    assert trial.structure_of(Transposed(), (6,)).links == ()
    mixer = nn.Sequential(
        nn.Linear(5, 4), nn.Flatten(), nn.Linear(16, 2)
    )  # units along the last of two dimensions
    assert trial.structure_of(mixer, (4, 5)).links == ()
