"""Counter draws: the same anywhere, and as random as they should be."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor
from torch.func import vmap

from prunefront.trainables.training import draws


def test_a_draw_depends_on_seed_and_words_alone():
    seeds = torch.tensor([3, 1, 4, 1, 5])
    four = torch.tensor(4)

    def at_site(seed: Tensor) -> Tensor:
        return draws.uniform(draws.key(seed, 7, "site"), (6, 2))

    together = at_site(seeds)
    alone = at_site(four)
    assert torch.equal(together[2], alone)
    assert torch.equal(together[1], together[3])
    assert torch.equal(vmap(at_site)(seeds), together)
    for words in ((8, "site"), (7, "other")):
        other = draws.key(four, *words)
        assert not torch.equal(draws.uniform(other, (6, 2)), alone)


def test_draws_are_what_they_were():
    """Studies that were begun go on with them."""
    key = draws.key(torch.tensor([3, 1]), 7, "site")
    assert key.tolist() == [-4186744420016584650, 7101600537254191901]
    assert draws.bits(key, (2,), index=1).tolist() == [
        [5104716587113196445, -959435572717823018],
        [-2934868060935713834, 8035219803399384290],
    ]
    assert draws.uniform(key).tolist() == [0.582427506177712, 0.7759664176447141]
    assert draws.permutation(key, 6).tolist() == [[0, 5, 1, 3, 2, 4], [1, 0, 2, 5, 4, 3]]


def test_an_index_counts_the_draws_of_one_shape():
    key = draws.key(torch.tensor([3, 1]), 7, "site")
    together = draws.uniform(key, (4, 6, 2))
    assert torch.equal(together[:, 0], draws.uniform(key, (6, 2)))
    for place in range(4):
        alone = draws.uniform(key, (6, 2), index=place)
        assert torch.equal(together[:, place], alone)

    def of_first(index: Tensor) -> Tensor:
        return draws.uniform(key[0], (6, 2), index=index)

    lifted = vmap(of_first)(torch.arange(4))
    assert torch.equal(lifted, together[0])


def test_uniform_is_uniform_and_uncorrelated():
    # Fixed keys, so the p-values are fixed too: a mixer that is broken gives p-values near 0.
    key = draws.key(torch.arange(50), 3, "test")
    for dtype in (torch.float32, torch.float64):
        sample = draws.uniform(key, (2000,), dtype)
        assert sample.dtype == dtype
        assert float(sample.min()) >= 0
        assert float(sample.max()) < 1
        numbers = sample.double()
        assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
        assert largest_correlation(numbers) < 0.1
    steps: list[Tensor] = []
    for step in range(8):
        at_step = draws.key(torch.tensor(0), step, "test")
        steps.append(draws.uniform(at_step, (5000,)))
    assert largest_correlation(torch.stack(steps)) < 0.06


def largest_correlation(rows: Tensor) -> float:
    """Between two of the rows."""
    correlations = torch.corrcoef(rows).fill_diagonal_(0)
    return float(correlations.abs().max())


def test_permutations_are_permutations_and_differ():
    orders = draws.permutation(draws.key(torch.arange(4), 0, "order"), 1000)
    places = torch.arange(1000).expand(4, 1000)
    assert torch.equal(orders.sort(dim=1).values, places)
    assert len(set(map(tuple, orders.tolist()))) == 4
    key = draws.key(torch.arange(3000), 0, "first")
    first = draws.permutation(key, 5)[:, 0]
    counts = torch.bincount(first, minlength=5)
    assert stats.chisquare(counts.numpy()).pvalue > 0.01
