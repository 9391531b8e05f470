"""What searches found, on rows made by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from prunefront.analysis.inference import paired
from prunefront.analysis.inference.paired import MARGIN
from prunefront.analysis.sections import searches

TESTED = {1: 0.90, 2: 0.92, 3: 0.91, 4: 0.93}
"""Test accuracy of seed 0's candidates; each other seed's are .001 higher, and a shift of its own.
"""
SCORES = {1: 2.0, 2: 1.9, 3: 2.3, 4: 1.8}
BEST, WORST = {1: 1, 2: 2, 3: 2, 4: 4}, {1: 1, 2: 1, 3: 3, 4: 3}


def row(
    count: int,
    seed: int,
    pick: str = "best",
    arm: str = "search",
    sparsity: float = 0.5,
    **more: Any,
) -> dict[str, Any]:
    winner = (BEST if pick == "best" else WORST)[count]
    test = TESTED[winner] + 0.001 * seed + (0.0005 * seed * seed if winner > 1 else 0)
    hp = {"candidates": count, "pick": pick, "sparsity": sparsity}
    chosen = {
        name: value
        for name, value in hp.items()
        if (name, value) not in (("candidates", 4), ("pick", "best"))
    }
    key = {
        "arm": arm,
        "algorithm": "weedout",
        "hp": json.dumps(chosen),
        "seed": seed,
        "member": f"{hp}{seed}",
    }
    flops = {"flops_dense": 1000, "flops_masked": round(1000 * (1 - sparsity)), "flops_shrunk": 500}
    charges = {"train_flops": 100 + count, "search_flops": count, "seconds": 1.0}
    measures = {
        "accuracy_valid": test + 0.01,
        "accuracy_test": test,
        "sparsity": sparsity,
        "status": "done",
    }
    searched = {f"hp_{name}": value for name, value in hp.items()} | {
        "m_score": SCORES[winner],
        "m_winner": float(winner),
    }
    return {
        **key,
        "control": count == 1 or pick == "worst",
        **flops,
        **charges,
        **measures,
        **searched,
        **more,
    }


def parent(seed: int) -> dict[str, Any]:
    more = {
        "arm": "dense",
        "algorithm": "dense",
        "hp": "{}",
        "control": True,
        "flops_masked": 1000,
        "sparsity": 0.0,
    }
    nothing = {name: None for name in row(1, 0) if name.startswith(("hp_", "m_"))}
    return (
        row(1, seed)
        | nothing
        | more
        | {"member": f"dense{seed}", "accuracy_test": 0.95 + 0.01 * seed}
    )


@pytest.fixture
def last_rows() -> pd.DataFrame:
    """Three seeds of counts 1 to 4, and the worst of 4 in an arm of its own."""
    seeds = range(3)
    rows = [row(count, seed) for count in (1, 2, 3, 4) for seed in seeds]
    rows += [row(4, seed, "worst", arm="worst") for seed in seeds]
    return pd.DataFrame([*rows, *map(parent, seeds)])


def networks(found: pd.DataFrame) -> dict[tuple[str, int], dict[str, Any]]:
    return {(line["network"], line["candidates"]): line for line in found.to_dict("records")}  # pyright: ignore


def test_found_is_compared_with_the_first_candidate_of_the_same_seed(
    last_rows: pd.DataFrame,
) -> None:
    found = searches.against_chance(last_rows.sample(frac=1, random_state=0))
    assert found[["network", "candidates"]].fillna(0).to_numpy().tolist() == [
        ["parent", 0], ["random", 1], ["found", 4], ["worst", 4],
    ]  # fmt: skip
    assert set(found["setting"]) == {"sparsity 0.5"}
    lines = networks(found.fillna({"candidates": 0}))
    assert lines["parent", 0]["accuracy_test"] == pytest.approx(0.96)
    assert lines["random", 1]["accuracy_test"] == pytest.approx(0.901)
    assert lines["random", 1]["train_flops"] == 101
    best, worst = lines["found", 4], lines["worst", 4]
    gains = [0.03, 0.0305, 0.032]
    _, oracle = stats.ttest_1samp(gains, 0)
    assert best["difference_test"] == pytest.approx(np.mean(gains))
    assert best["difference_test_p"] == pytest.approx(oracle)
    assert best["difference_test_holm"] == pytest.approx(
        2 * min(oracle, worst["difference_test_p"])
    )
    assert best["difference_test_equivalence"] == pytest.approx(paired.equivalence(gains, MARGIN))
    assert best["difference_test_verdict"] == "better"
    assert worst["difference_test"] == pytest.approx(np.mean(gains) - 0.02)
    assert worst["difference_valid_verdict"] == "better"
    assert best["difference_valid"] == pytest.approx(best["difference_test"])


def test_seeds_without_a_pair_are_left_out(last_rows: pd.DataFrame) -> None:
    first = last_rows["hp_candidates"].eq(1) & last_rows["seed"].eq(0)
    last_rows.loc[first, "status"] = "diverged"
    best = networks(searches.against_chance(last_rows).fillna({"candidates": 0}))["found", 4]
    assert (best["accuracy_test_n"], best["difference_test_n"]) == (3, 2)
    assert best["difference_test"] == pytest.approx((0.0305 + 0.032) / 2)
    nothing = searches.against_chance(last_rows[last_rows["hp_candidates"] != 1])
    assert (
        networks(nothing.fillna({"candidates": 0}))["found", 4]["difference_test_verdict"]
        == "inconclusive: n = 0"
    )


def test_settings_are_compared_apart_and_the_largest_comes_first(last_rows: pd.DataFrame) -> None:
    sparser = [row(count, seed, sparsity=0.9) for count in (1, 4) for seed in range(3)]
    found = searches.against_chance(pd.concat([pd.DataFrame(sparser), last_rows]))
    assert found["setting"].drop_duplicates().tolist() == ["sparsity 0.5", "sparsity 0.9"]
    assert (found["accuracy_test_n"] == 3).all()


def test_studies_without_a_search_have_nothing_to_compare(last_rows: pd.DataFrame) -> None:
    dense = last_rows[last_rows["arm"] == "dense"]
    for rows in (
        dense,
        dense.drop(columns=["hp_candidates", "hp_pick", "m_score", "m_winner"]),
        last_rows.assign(status="failed"),
    ):
        assert searches.against_chance(rows).empty
        assert searches.correlations(rows).empty


def test_rank_correlation_is_over_distinct_networks(last_rows: pd.DataFrame) -> None:
    rows = pd.concat(
        [last_rows, *[last_rows.assign(member=last_rows["member"] + str(i)) for i in range(3)]]
    )
    (line,) = searches.correlations(rows).to_dict("records")
    assert (line["networks_least"], line["networks_most"], line["correlation_test_n"]) == (4, 4, 3)
    every: list[Any] = [stats.spearmanr([2.0, 1.9, 1.8, 2.3], [0.90, 0.92, 0.93, 0.91])[0]] * 3
    assert line["correlation_test"] == pytest.approx(np.mean(every))
    assert line["correlation_test_verdict"].startswith("inconclusive: the same in every seed")


def test_rank_correlations_have_a_verdict(last_rows: pd.DataFrame) -> None:
    def verdict(rows: pd.DataFrame) -> str:
        (line,) = searches.correlations(rows)["correlation_test_verdict"]
        return line

    assert verdict(
        last_rows[last_rows["hp_candidates"].isin([1, 4]) & (last_rows["arm"] == "search")]
    ) == ("inconclusive: too few distinct networks")
    assert (
        verdict(last_rows.assign(accuracy_test=0.5)) == "undefined: score or accuracy does not vary"
    )
    assert verdict(last_rows[last_rows["seed"] == 0]) == "inconclusive: n = 1"
    noise = np.random.default_rng(0)
    many = pd.concat([last_rows.assign(seed=last_rows["seed"] + 3 * i) for i in range(5)])
    score = many["m_score"] + noise.normal(0, 0.15, len(many)) * many["m_winner"].eq(1)
    assert verdict(many.assign(m_score=score, accuracy_test=1 - many["m_score"] / 10)) == "negative"
    assert (
        verdict(many.assign(m_score=-score, accuracy_test=1 - many["m_score"] / 10)) == "positive"
    )


def test_curves_are_means_over_seeds_by_count(last_rows: pd.DataFrame) -> None:
    curves = searches.curves(last_rows)
    best = curves[curves["pick"] == "best"]
    assert best["candidates"].tolist() == [1, 2, 3, 4]
    assert best["accuracy"].iloc[0] == pytest.approx(0.911)
    assert (curves["seeds"] == 3).all()
