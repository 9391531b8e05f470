"""Arms at equal FLOPs, on rows made by hand and on simulated studies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import intervals
from prunefront.analysis.inference import equal_flops, paired
from prunefront.analysis.inference.paired import Paired


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
    lines = equal_flops.lines(
        pd.DataFrame([*rows, row("a", 0, 0, 0.45), row("a", 1, 100, 0.5)]), "flops_masked"
    )
    assert lines[0] == pytest.approx(
        np.array(
            [[math.log(100), 0.5, 0.49], [math.log(1000), 0.9, 0.7], [math.log(5000), 0.9, 0.7]]
        )
    )
    assert len(lines[1]) == 1
    middle = equal_flops.at(lines, math.sqrt(100 * 1000))  # halfway in the logarithm
    assert middle.to_numpy()[0].tolist() == pytest.approx([0.7, 0.595])
    assert np.isnan(middle.to_numpy()[1]).all()
    assert equal_flops.at(lines, 3000).to_numpy()[0].tolist() == pytest.approx([0.9, 0.7])
    assert equal_flops.at(lines, 5001).isna().all(axis=None)
    assert equal_flops.at(lines, 99).isna().all(axis=None)


def test_networks_alike_in_flops_and_accuracy_are_averaged() -> None:
    lines = equal_flops.lines(
        pd.DataFrame([row("a", 0, 100, 0.5, 0.4), row("a", 0, 100, 0.5, 0.6)]), "flops_masked"
    )
    assert lines[0][0, 1:].tolist() == [0.5, 0.5]


def test_levels_are_common_to_all_seeds_and_both_arms() -> None:
    one = {seed: np.log([[low, 2.0, 2.0], [4000, 2.0, 2.0]]) for seed, low in ((0, 100), (1, 250))}
    other = {
        seed: np.log([[50, 2.0, 2.0], [high, 2.0, 2.0]]) for seed, high in ((0, 9000), (1, 2500))
    }
    assert equal_flops.levels(one, other) == pytest.approx(
        [2500, 2500 / 10**0.25, 2500 / 10**0.5, 2500 / 10**0.75, 250]
    )
    other[1] = np.log([[50, 2.0, 2.0], [260, 2.0, 2.0]])
    assert equal_flops.levels(one, other) == pytest.approx([math.sqrt(250 * 260)])
    other[1] = np.log([[50, 2.0, 2.0], [249, 2.0, 2.0]])
    with pytest.raises(
        ValueError,
        match="no FLOPs that both reach in every seed; it reaches 250 to 4,000, the baseline 50 to 249",
    ):
        equal_flops.levels(one, other)


def test_an_arm_with_controls_is_two_and_one_of_controls_is_itself() -> None:
    rows = pd.DataFrame({"arm": ["a", "a", "b", "c"], "control": [True, False, True, False]})
    assert equal_flops.labels(rows).tolist() == ["a (control)", "a", "b", "c"]


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
    table = equal_flops.against(pd.DataFrame(rows), "base", "flops_masked")
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
        paired.detectable(paired.paired([*gains.values()]), 5)
    )
    assert first["difference_test_verdict"] == "no difference shown: not after Holm's correction"
    others = table[table["arm"] != "a"].set_index("arm")["difference_test_verdict"]
    assert others["far"].startswith(
        "not compared: no FLOPs that both reach in every seed; it reaches 5,000 to 5,000"
    )
    assert others["once"] == "not compared: a comparison needs two seeds that both have; got 1"
    (given,) = (
        equal_flops.against(pd.DataFrame(rows), "base", "flops_masked", [500.0])
        .query("arm == 'a'")
        .to_dict("records")
    )
    assert given["difference_test_holm"] == pytest.approx(oracle.pvalue)
    assert given["difference_test_verdict"] == "better"


def test_a_tie_is_called_a_tie_and_a_gap_that_can_be_shown_is_found() -> None:
    def said(gap: float) -> list[str]:
        tables = [
            equal_flops.against(intervals.study(i, gap), "baseline", "flops_masked", [9000.0])
            for i in range(100)
        ]
        return [verdict for table in tables for verdict in table["difference_test_verdict"]]

    ties = said(0.0)
    assert sum(verdict.startswith(("better", "worse")) for verdict in ties) <= 5
    gap = paired.detectable(Paired(5, 0.0, intervals.NOISE, 0.0, 0.0, 0.5))
    assert 0.005 < gap < 0.01
    assert sum(verdict.startswith("better") for verdict in said(gap)) >= 80
