"""Statistics against scipy, simulations and figures worked out by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

import intervals
from prunefront.analysis.inference import paired
from prunefront.analysis.inference.paired import Paired

NAN = math.nan
ACCURACIES = st.lists(st.tuples(st.integers(0, 360), st.integers(0, 360)), min_size=2, max_size=20)


def test_paired_is_what_a_hand_works_out() -> None:
    test = paired.paired(
        [1.0, 2.0, NAN, 3.0]
    )  # t = 2 sqrt 3 with 2 degrees of freedom, whose 97.5 % quantile is 4.30265
    assert (test.n, test.mean, test.std) == (3, 2.0, 1.0)
    assert test.low == pytest.approx(2 - 4.30265 / math.sqrt(3), abs=1e-5)
    assert test.high == pytest.approx(2 + 4.30265 / math.sqrt(3), abs=1e-5)
    assert test.p == pytest.approx(
        1 - math.sqrt(12 / 14), rel=1e-9
    )  # the closed form for 2 degrees: 1 - t / sqrt(2 + t^2)


@given(ACCURACIES)
def test_paired_and_equivalence_agree_with_scipy(counts: list[tuple[int, int]]) -> None:
    found, random = np.array(counts, dtype=float).T / 360
    difference = found - random
    assume(np.ptp(difference) > 1e-6)
    test, oracle = paired.paired(difference), stats.ttest_rel(found, random)
    interval = oracle.confidence_interval(0.95)
    assert [test.p, test.low, test.high] == pytest.approx(
        [oracle.pvalue, interval.low, interval.high], abs=1e-9
    )
    sides = [(-0.1, "greater"), (0.1, "less")]
    one_sided: list[Any] = [
        stats.ttest_1samp(difference, bound, alternative=side)[1] for bound, side in sides
    ]
    assert paired.equivalence(difference, 0.1) == pytest.approx(max(one_sided), abs=1e-9)


@pytest.mark.parametrize(
    ("values", "n", "mean"),
    [
        ([], 0, NAN),
        ([NAN], 0, NAN),
        ([0.2], 1, 0.2),
        ([0.1 + 0.2, 0.3, 0.3], 3, 0.3),
        ([0, 0], 2, 0),
    ],
)
def test_what_says_nothing_of_its_spread_has_no_interval(
    values: list[float], n: int, mean: float
) -> None:
    test = paired.paired(values)
    assert test.n == n
    assert test.mean == pytest.approx(mean, nan_ok=True)
    assert all(map(math.isnan, (test.low, test.high, test.p, paired.equivalence(values))))
    assert paired.verdict(test, NAN, NAN).startswith("inconclusive: ")


def test_holm_is_what_a_hand_works_out() -> None:
    assert paired.holm([0.04, NAN, 0.01, 0.03]) == pytest.approx(
        [0.06, NAN, 0.03, 0.06], nan_ok=True
    )
    assert paired.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert paired.holm([]).tolist() == []


@pytest.mark.parametrize(
    ("mean", "half", "p", "adjusted", "equivalent", "expected"),
    [
        (0.02, 0.005, 0.001, 0.004, 0.9, "better"),
        (-0.02, 0.005, 0.001, 0.004, 0.9, "worse"),
        (0.002, 0.001, 0.001, 0.004, 1e-4, "better, but by less than the margin"),
        (-0.002, 0.001, 0.001, 0.004, 1e-4, "worse, but by less than the margin"),
        (0.002, 0.001, 0.01, 0.2, 1e-4, "equivalent"),
        (0.0, 0.004, 1.0, 1.0, 0.02, "equivalent"),
        (0.004, 0.003, 0.01, 0.2, 0.3, "inconclusive: not after Holm's correction"),
        (0.0, 0.02, 1.0, 1.0, 0.5, "inconclusive"),
    ],
)
def test_verdicts(
    mean: float, half: float, p: float, adjusted: float, equivalent: float, expected: str
) -> None:
    assert (
        paired.verdict(Paired(9, mean, 0.01, mean - half, mean + half, p), adjusted, equivalent)
        == expected
    )


@given(ACCURACIES)
def test_rank_correlation_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = (list(map(float, column)) for column in zip(*pairs, strict=True))
    if len(pairs) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(paired.rank_correlation(x, y))
    else:
        assert paired.rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-9)
        assert paired.rank_correlation([*x, NAN], [*y, 1.0]) == paired.rank_correlation(x, y)


def test_effect_is_unbiased() -> None:
    assert paired.effect(Paired(5, 2.0, 1.0, 0.0, 0.0, 0.5)) == pytest.approx(
        2 * 0.797885, abs=1e-5
    )  # Hedges' J(4)
    noise = np.random.default_rng(0).normal(0.5, 1.0, (2000, 4))
    found = [paired.effect(paired.paired(each)) for each in noise]
    assert np.mean(found) == pytest.approx(
        0.5, abs=float(3 * np.std(found) / math.sqrt(len(found)))
    )
    assert math.isnan(paired.effect(paired.paired([0.1, 0.2])))


@pytest.mark.parametrize(("n", "comparisons"), [(5, 1), (5, 10), (3, 1), (12, 3)])
def test_what_can_be_shown_is_shown_in_eight_of_ten(n: int, comparisons: int) -> None:
    gap = paired.detectable(Paired(n, 0.0, 1.0, 0.0, 0.0, 0.5), comparisons)
    values = np.random.default_rng(n).normal(gap, 1.0, (20_000, n))
    p: Any = stats.ttest_1samp(values, 0, axis=1)[1]
    shown = p < 0.05 / comparisons
    assert shown.mean() == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / len(values)))
    assert math.isnan(paired.detectable(paired.paired([0.1, 0.1]), comparisons))
    assert (
        paired.detectable(Paired(2, 0.0, 0.01, 0.0, 0.0, 0.5), 1000) > 10
    )  # finite, and more than any accuracy


@pytest.mark.parametrize(
    "values", [[1, 2, 3, 4, 5, -1], [0.1, 0.2, 0.2, 0.4, 0.5, 0.6], [1, -2, 3, -4, 5, 6, 0]]
)
def test_permutation_counts_all_signs(values: list[float]) -> None:
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    means = (signs * np.array(values)).mean(axis=1)
    assert paired.permutation([*values, NAN]) == pytest.approx(
        np.mean(np.abs(means) >= abs(np.mean(values)) - 1e-12)
    )
    assert math.isnan(paired.permutation(values[:5]))


def test_permutation_agrees_with_wilcoxon_where_ranks_are_the_values() -> None:
    _, p = stats.wilcoxon([1, 2, -3, 4, 5, 6, 7])
    assert paired.permutation([1, 2, -3, 4, 5, 6, 7]) == pytest.approx(p)


def test_intervals_hold_the_truth_in_19_of_20_studies() -> None:
    t, bootstrap = intervals.covered(studies=1000, seeds=5, resamples=200)
    assert 0.93 <= t <= 0.97
    assert bootstrap < 0.9  # why it is not used
