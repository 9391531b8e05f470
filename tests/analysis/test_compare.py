"""Statistics against scipy, simulations and figures worked out by hand; arms at equal FLOPs, on
rows made by hand.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

import intervals
from prunefront.analysis.inference import compare
from prunefront.analysis.inference.compare import Paired

NAN = math.nan
ACCURACIES = st.lists(st.tuples(st.integers(0, 360), st.integers(0, 360)), min_size=2, max_size=20)


def test_paired_is_what_a_hand_works_out() -> None:
    test = compare.paired(
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
    test, oracle = compare.paired(difference), stats.ttest_rel(found, random)
    interval = oracle.confidence_interval(0.95)
    assert [test.p, test.low, test.high] == pytest.approx(
        [oracle.pvalue, interval.low, interval.high], abs=1e-9
    )
    sides = [(-0.1, "greater"), (0.1, "less")]
    one_sided: list[Any] = [
        stats.ttest_1samp(difference, bound, alternative=side)[1] for bound, side in sides
    ]
    assert compare.equivalence(difference, 0.1) == pytest.approx(max(one_sided), abs=1e-9)


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
    test = compare.paired(values)
    assert test.n == n
    assert test.mean == pytest.approx(mean, nan_ok=True)
    assert all(map(math.isnan, (test.low, test.high, test.p, compare.equivalence(values))))
    assert compare.verdict(test, NAN, NAN).startswith("inconclusive: ")


def test_holm_is_what_a_hand_works_out() -> None:
    assert compare.holm([0.04, NAN, 0.01, 0.03]) == pytest.approx(
        [0.06, NAN, 0.03, 0.06], nan_ok=True
    )
    assert compare.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert compare.holm([]).tolist() == []


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
        compare.verdict(Paired(9, mean, 0.01, mean - half, mean + half, p), adjusted, equivalent)
        == expected
    )


@given(ACCURACIES)
def test_rank_correlation_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = (list(map(float, column)) for column in zip(*pairs, strict=True))
    if len(pairs) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        assert math.isnan(compare.rank_correlation(x, y))
    else:
        assert compare.rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-9)
        assert compare.rank_correlation([*x, NAN], [*y, 1.0]) == compare.rank_correlation(x, y)


def test_effect_is_unbiased() -> None:
    assert compare.effect(Paired(5, 2.0, 1.0, 0.0, 0.0, 0.5)) == pytest.approx(
        2 * 0.797885, abs=1e-5
    )  # Hedges' J(4)
    noise = np.random.default_rng(0).normal(0.5, 1.0, (2000, 4))
    found = [compare.effect(compare.paired(each)) for each in noise]
    assert np.mean(found) == pytest.approx(
        0.5, abs=float(3 * np.std(found) / math.sqrt(len(found)))
    )
    assert math.isnan(compare.effect(compare.paired([0.1, 0.2])))


@pytest.mark.parametrize(("n", "comparisons"), [(5, 1), (5, 10), (3, 1), (12, 3)])
def test_what_can_be_shown_is_shown_in_eight_of_ten(n: int, comparisons: int) -> None:
    gap = compare.detectable(Paired(n, 0.0, 1.0, 0.0, 0.0, 0.5), comparisons)
    values = np.random.default_rng(n).normal(gap, 1.0, (20_000, n))
    p: Any = stats.ttest_1samp(values, 0, axis=1)[1]
    shown = p < 0.05 / comparisons
    assert shown.mean() == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / len(values)))
    assert math.isnan(compare.detectable(compare.paired([0.1, 0.1]), comparisons))
    assert (
        compare.detectable(Paired(2, 0.0, 0.01, 0.0, 0.0, 0.5), 1000) > 10
    )  # finite, and more than any accuracy


@pytest.mark.parametrize(
    "values", [[1, 2, 3, 4, 5, -1], [0.1, 0.2, 0.2, 0.4, 0.5, 0.6], [1, -2, 3, -4, 5, 6, 0]]
)
def test_permutation_counts_all_signs(values: list[float]) -> None:
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    means = (signs * np.array(values)).mean(axis=1)
    assert compare.permutation([*values, NAN]) == pytest.approx(
        np.mean(np.abs(means) >= abs(np.mean(values)) - 1e-12)
    )
    assert math.isnan(compare.permutation(values[:5]))


def test_permutation_agrees_with_wilcoxon_where_ranks_are_the_values() -> None:
    _, p = stats.wilcoxon([1, 2, -3, 4, 5, 6, 7])
    assert compare.permutation([1, 2, -3, 4, 5, 6, 7]) == pytest.approx(p)


def test_intervals_hold_the_truth_in_19_of_20_studies() -> None:
    t, bootstrap = intervals.covered(studies=1000, seeds=5, resamples=200)
    assert 0.93 <= t <= 0.97
    assert bootstrap < 0.9  # why it is not used


# ---- arms at equal FLOPs


def row(
    label: str, seed: int, flops: int, valid: float, test: float | None = None
) -> dict[str, Any]:
    scores = {"accuracy_valid": valid, "accuracy_test": valid - 0.01 if test is None else test}
    return {
        "label": label,
        "arm": label,
        "control": False,
        "seed": seed,
        "flops_masked": flops,
        "flops_shrunk": flops,
        **scores,
    }


def test_a_line_is_the_front_that_validation_chose_and_level_from_its_best_on() -> None:
    rows = [
        row("a", 0, 100, 0.5),
        row("a", 0, 1000, 0.9, 0.7),
        row("a", 0, 500, 0.4, 0.99),
        row("a", 0, 5000, 0.8, 0.95),
    ]
    lines = compare.lines(
        pd.DataFrame([*rows, row("a", 0, 0, 0.45), row("a", 1, 100, 0.5)]), "flops_masked"
    )
    assert lines[0] == pytest.approx(
        np.array(
            [[math.log(100), 0.5, 0.49], [math.log(1000), 0.9, 0.7], [math.log(5000), 0.9, 0.7]]
        )
    )
    assert len(lines[1]) == 1
    middle = compare.at(lines, math.sqrt(100 * 1000))  # halfway in the logarithm
    assert middle.to_numpy()[0].tolist() == pytest.approx([0.7, 0.595])
    assert np.isnan(middle.to_numpy()[1]).all()
    assert compare.at(lines, 3000).to_numpy()[0].tolist() == pytest.approx([0.9, 0.7])
    assert compare.at(lines, 5001).isna().all(axis=None)
    assert compare.at(lines, 99).isna().all(axis=None)


def test_networks_alike_in_flops_and_accuracy_are_averaged() -> None:
    lines = compare.lines(
        pd.DataFrame([row("a", 0, 100, 0.5, 0.4), row("a", 0, 100, 0.5, 0.6)]), "flops_masked"
    )
    assert lines[0][0, 1:].tolist() == [0.5, 0.5]


def test_levels_are_common_to_all_seeds_and_both_arms() -> None:
    one = {seed: np.log([[low, 2.0, 2.0], [4000, 2.0, 2.0]]) for seed, low in ((0, 100), (1, 250))}
    other = {
        seed: np.log([[50, 2.0, 2.0], [high, 2.0, 2.0]]) for seed, high in ((0, 9000), (1, 2500))
    }
    assert compare.levels(one, other) == pytest.approx(
        [2500, 2500 / 10**0.25, 2500 / 10**0.5, 2500 / 10**0.75, 250]
    )
    other[1] = np.log([[50, 2.0, 2.0], [260, 2.0, 2.0]])
    assert compare.levels(one, other) == pytest.approx([math.sqrt(250 * 260)])
    other[1] = np.log([[50, 2.0, 2.0], [249, 2.0, 2.0]])
    with pytest.raises(
        ValueError,
        match="no FLOPs that both reach in every seed; it reaches 250 to 4,000, the baseline 50 to 249",
    ):
        compare.levels(one, other)


def test_an_arm_with_controls_is_two_and_one_of_controls_is_itself() -> None:
    rows = pd.DataFrame({"arm": ["a", "a", "b", "c"], "control": [True, False, True, False]})
    assert compare.labels(rows).tolist() == ["a (control)", "a", "b", "c"]


def test_arms_are_compared_as_a_hand_would_and_scipy_agrees() -> None:
    gains = {0: 0.01, 1: 0.02, 2: 0.04, 3: 0.02}
    rows = [row("base", seed, flops, 0.8 + seed / 100) for seed in gains for flops in (100, 1000)]
    rows += [
        row("a", seed, flops, 0.8 + seed / 100 + gain)
        for seed, gain in gains.items()
        for flops in (100, 1000)
    ]
    rows += [
        row("a", 9, 100, 0.1),
        row("far", 0, 5000, 0.9),
        row("far", 1, 5000, 0.9),
        row("once", 3, 100, 0.9),
    ]
    table = compare.against(pd.DataFrame(rows), "base", "flops_masked")
    a = table[table["arm"] == "a"]
    assert a["flops"].tolist() == pytest.approx(
        [1000, 1000 / 10**0.25, 1000 / 10**0.5, 1000 / 10**0.75, 100]
    )
    oracle = stats.ttest_rel(
        [0.79 + s / 100 + g for s, g in gains.items()], [0.79 + s / 100 for s in gains]
    )
    first = a.iloc[0]
    assert (first["difference_test_n"], first["difference_test"]) == (4, pytest.approx(0.0225))
    assert first["difference_test_p"] == pytest.approx(oracle.pvalue)
    assert first["difference_test_high"] == pytest.approx(oracle.confidence_interval(0.95).high)
    assert first["difference_test_holm"] == pytest.approx(
        5 * oracle.pvalue
    )  # five levels, the others cannot be compared
    assert first["accuracy_test"] - first["baseline_test"] == pytest.approx(0.0225)
    assert first["difference_test_detectable"] == pytest.approx(
        compare.detectable(compare.paired([*gains.values()]), 5)
    )
    assert first["difference_test_verdict"] == "no difference shown: not after Holm's correction"
    others = table[table["arm"] != "a"].set_index("arm")["difference_test_verdict"]
    assert others["far"].startswith(
        "not compared: no FLOPs that both reach in every seed; it reaches 5,000 to 5,000"
    )
    assert others["once"] == "not compared: a comparison needs two seeds that both have; got 1"
    (given,) = (
        compare.against(pd.DataFrame(rows), "base", "flops_masked", [500.0])
        .query("arm == 'a'")
        .to_dict("records")
    )
    assert given["difference_test_holm"] == pytest.approx(oracle.pvalue)
    assert given["difference_test_verdict"] == "better"


def test_a_tie_is_called_a_tie_and_a_gap_that_can_be_shown_is_found() -> None:
    def said(gap: float) -> list[str]:
        tables = [
            compare.against(intervals.study(i, gap), "baseline", "flops_masked", [9000.0])
            for i in range(100)
        ]
        return [verdict for table in tables for verdict in table["difference_test_verdict"]]

    ties = said(0.0)
    assert sum(verdict.startswith(("better", "worse")) for verdict in ties) <= 5
    gap = compare.detectable(Paired(5, 0.0, intervals.NOISE, 0.0, 0.0, 0.5))
    assert 0.005 < gap < 0.01
    assert sum(verdict.startswith("better") for verdict in said(gap)) >= 80
