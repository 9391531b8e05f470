"""Counter draws: the same anywhere, and as random as they should be."""

from __future__ import annotations

import torch
from scipy import stats
from torch.func import vmap

from prunefront.trainables.training import draws


def test_a_draw_depends_on_seed_and_words_alone():
    seeds = torch.tensor([3, 1, 4, 1, 5])
    together = draws.uniform(draws.key(seeds, 7, "site"), (6, 2))
    alone = draws.uniform(draws.key(torch.tensor(4), 7, "site"), (6, 2))
    lifted = vmap(lambda seed: draws.uniform(draws.key(seed, 7, "site"), (6, 2)))(seeds)
    assert torch.equal(together[2], alone)
    assert torch.equal(together[1], together[3])
    assert torch.equal(lifted, together)
    for other in (draws.key(torch.tensor(4), 8, "site"), draws.key(torch.tensor(4), 7, "other")):
        assert not torch.equal(draws.uniform(other, (6, 2)), alone)


def test_an_index_counts_the_draws_of_one_shape():
    key = draws.key(torch.tensor([3, 1]), 7, "site")
    together = draws.uniform(key, (4, 6, 2))
    assert torch.equal(together[:, 0], draws.uniform(key, (6, 2)))
    assert all(torch.equal(together[:, i], draws.uniform(key, (6, 2), index=i)) for i in range(4))
    lifted = vmap(lambda i: draws.uniform(key[0], (6, 2), index=i))(torch.arange(4))
    assert torch.equal(lifted, together[0])


def test_uniform_is_uniform_and_uncorrelated():
    # Fixed keys, so the p-values are fixed too: a mixer that is broken gives p-values near 0.
    for dtype in (torch.float32, torch.float64):
        sample = draws.uniform(draws.key(torch.arange(50), 3, "test"), (2000,), dtype)
        assert sample.dtype == dtype
        assert float(sample.min()) >= 0
        assert float(sample.max()) < 1
        assert stats.kstest(sample.flatten().double().numpy(), "uniform").pvalue > 0.01
        assert torch.corrcoef(sample.double()).fill_diagonal_(0).abs().max() < 0.1
    steps = torch.stack(
        [draws.uniform(draws.key(torch.tensor(0), step, "test"), (5000,)) for step in range(8)]
    )
    assert torch.corrcoef(steps).fill_diagonal_(0).abs().max() < 0.06


def test_permutations_are_permutations_and_differ():
    orders = draws.permutation(draws.key(torch.arange(4), 0, "order"), 1000)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(1000).expand(4, 1000))
    assert len({tuple(order.tolist()) for order in orders}) == 4
    first = draws.permutation(draws.key(torch.arange(3000), 0, "first"), 5)[:, 0]
    assert stats.chisquare(torch.bincount(first, minlength=5).numpy()).pvalue > 0.01
