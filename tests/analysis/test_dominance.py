"""Stopping by dominance: the order against brute force, who goes on, and what stopping would have
kept against a simulation.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_front import Guarded
from test_report import FOOTER, Visible, measured

from prunefront.analysis import report
from prunefront.analysis.inference import dominance
from prunefront.analysis.points import front
from prunefront.analysis.rows import table
from prunefront.analysis.rows.goals import Goals

GOALS = Goals()
UP_DOWN = (True, False)
POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether the first (accuracy, cost) dominates the second."""
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def peeled(points: list[tuple[int, int]]) -> list[int]:
    """The layer of each point, by taking away what nothing left dominates."""
    found: dict[int, int] = {}
    while len(found) < len(points):
        left = [i for i in range(len(points)) if i not in found]
        top = [i for i in left if not any(beats(points[j], points[i]) for j in left)]
        found |= dict.fromkeys(top, max(found.values(), default=-1) + 1)
    return [found[i] for i in range(len(points))]


@given(POINTS)
@settings(deadline=None)
def test_layers_come_one_after_the_other(points: list[tuple[int, int]]) -> None:
    order = dominance.order(points, UP_DOWN)
    assert sorted(order) == list(range(len(points)))
    layers = peeled(points)
    assert [layers[i] for i in order] == sorted(layers)


@given(POINTS, st.randoms())
@settings(deadline=None)
def test_shuffled_points_are_ordered_alike(
    points: list[tuple[int, int]], chance: random.Random
) -> None:
    other = points.copy()
    chance.shuffle(other)
    assert [points[i] for i in dominance.order(points, UP_DOWN)] == [
        other[i] for i in dominance.order(other, UP_DOWN)
    ]


@given(st.lists(st.integers(0, 60), min_size=2, max_size=12, unique=True))
@settings(deadline=None)
def test_the_next_of_a_layer_is_the_farthest_from_those_before(costs: list[int]) -> None:
    points = [(cost, cost) for cost in costs]  # more accuracy for more cost: one layer
    order = dominance.order(points, UP_DOWN)
    assert points[order[0]] == (max(costs), max(costs)), "the most accurate one first"
    for k in range(1, len(order)):
        gaps = [min(abs(costs[i] - costs[j]) for j in order[:k]) for i in order[k:]]
        assert gaps[0] == max(gaps)


def test_both_axes_of_a_layer_count_alike_whatever_their_units() -> None:
    points = [(0.1, 1.0), (0.5, 3e5), (0.9, 5e5), (1.0, 1e6)]
    assert dominance.order(points, UP_DOWN).tolist() == [3, 0, 1, 2]
    assert dominance.order([(a, c / 1e6) for a, c in points], UP_DOWN).tolist() == [3, 0, 1, 2]


def test_directions_are_obeyed() -> None:
    points = [(0.9, 5.0), (0.8, 6.0), (0.7, 7.0)]
    assert dominance.order(points, UP_DOWN).tolist() == [0, 1, 2]
    assert dominance.order(points, (False, True)).tolist() == [2, 1, 0]
    assert dominance.order([(c, a) for a, c in points], (False, True)).tolist() == [0, 1, 2]


def test_limits_come_before_objectives() -> None:
    points = [
        (0.9, 1.0),
        (0.8, 2.0),
        (0.1, 9.0),
        (0.7, 3.0),
    ]  # each dominates the next, but for the third
    broken = [(2.0, 0.0), (1.0, -1.0), (0.0, -5.0), (0.5, 3.0)]
    assert dominance.order(points, UP_DOWN, broken).tolist() == [2, 1, 0, 3], (
        "none, one little, one much, two"
    )
    assert dominance.order(points, UP_DOWN, [(-1.0, 0.0)] * 4).tolist() == [0, 1, 3, 2], (
        "kept by more is not better"
    )


def test_what_is_not_finite_comes_last() -> None:
    points = [(math.nan, 1.0), (0.1, 9.0), (math.inf, 0.0), (0.2, 8.0)]
    assert dominance.order(points, UP_DOWN, [(0.0,), (1.0,), (0.0,), (2.0,)]).tolist() == [
        1,
        3,
        0,
        2,
    ]
    assert dominance.order(np.empty((0, 2)), UP_DOWN).tolist() == []


def test_equal_points_stand_side_by_side_in_the_order_of_their_index() -> None:
    points = [(0.5, 5.0), (0.9, 9.0), (0.5, 5.0), (0.1, 1.0), (0.9, 9.0)]
    assert dominance.order(points, UP_DOWN).tolist() == [1, 4, 3, 0, 2]


def pool(points: list[tuple[float, float]], rung: int = 2) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(
        [("arm", str(i)) for i in range(len(points))], names=["arm", "hp"]
    )
    return pd.DataFrame(points, columns=list(GOALS.columns), index=index).assign(rung=rung)


def going(points: list[tuple[float, float]], factor: float, floor: int) -> list[int]:
    return np.flatnonzero(dominance.decide(pool(points), GOALS, factor, floor)["go"]).tolist()


LADDER = [
    (0.99 - i / 100, 1000.0 + i) for i in range(7)
]  # each dominates the next, all in one decade


def test_one_in_so_many_goes_on_rounded_up() -> None:
    assert [len(going(LADDER, factor, 0)) for factor in (1.5, 2, 3, 8)] == [5, 4, 3, 1]
    assert going(LADDER, 3, 0) == [0, 1, 2]


def test_the_floor_keeps_the_best_of_each_decade() -> None:
    ends = [(0.5, 10_000.0), (0.6, 99_999.0), (0.4, 20_000.0), (0.0, 0.0), (0.1, 100_000.0)]
    points = [*LADDER, *ends]
    assert going(points, 12, 0) == [0]
    kept = going(points, 12, 1)
    assert {0, 10, 11} < set(kept), "0 and 100,000 are decades of their own"
    assert len({7, 8} & set(kept)) == len(kept) - 3 == 1, "10,000 to 99,999 is one"
    assert len(going(points, 12, 2)) == 6
    swapped = Goals(maximize=("flops_masked",), minimize=("accuracy_valid",))
    assert not dominance.decide(pool(points), swapped, 12, 0)["go"].iloc[0], "as cheap is now worse"
    assert dominance.decide(pool(points), Goals(minimize=()), 12, 5)["go"].sum() == 1, (
        "nothing to minimize has no decades"
    )


def test_equal_settings_share_their_fate() -> None:
    assert going([LADDER[0], LADDER[1], LADDER[0], LADDER[0]], 4, 0) == [0, 2, 3]


def test_a_setting_that_ended_badly_never_goes_on() -> None:
    decided = dominance.decide(
        pool([(math.nan, math.nan), LADDER[0], (math.nan, 5.0)]), GOALS, 1.1, 3
    )
    assert decided["go"].tolist() == [False, True, False]
    assert decided["reason"].tolist()[1] == "rung 2: layer 1, place 1 of 3; 1 go on"
    assert "a seed diverged" in decided["reason"].iloc[0]


def study(
    levels: int = 12, seeds: int = 3, rungs: int = 4, dense: float = 0.0
) -> list[dict[str, Any]]:
    """A whole study of one arm: accuracy rises with the budget and falls with sparsity, each
    setting at its own pace.
    """
    found = []
    for level in range(levels):
        for seed in range(seeds):
            chance = random.Random(f"{level}{seed}")
            pace, top = random.Random(level).uniform(0.2, 3), 0.98 - 0.3 * (level / levels) ** 4
            point = measured("dns", 0.3 + 0.69 * level / levels, seed, "digits")
            for rung in range(1, rungs + 1):
                epochs = dense + (40 - dense) * rung / rungs
                row = point | {
                    "rung": rung,
                    "epochs": epochs,
                    "steps": round(40 * epochs),
                    "accuracy_test": None,
                }
                row |= {
                    "accuracy_valid": top * (1 - math.exp(-pace * rung)) + chance.gauss(0, 0.01)
                }
                found.append(row | {"status": "done" if rung == rungs else "running"})
    return found


def simulated(
    found: list[dict[str, Any]], factor: float, floor: int
) -> tuple[dict[str, int], float, dict[int, float]]:
    """Last rung of each setting, epochs charged and hypervolume by seed, training one rung after
    the other.
    """
    going, last, charged = (
        sorted({row["hp"] for row in found}),
        max(row["rung"] for row in found),
        0.0,
    )
    ends, points = {}, {}
    for rung in range(1, last + 1):
        now = [row for row in found if row["rung"] == rung and row["hp"] in going]
        charged += sum(row["epochs"] - max([0.0, *(r["epochs"] for r in found if r["member"] == row["member"]
                                                   and r["rung"] == rung - 1)]) for row in now)  # fmt: skip
        means = {
            hp: [np.mean([r[name] for r in now if r["hp"] == hp]) for name in GOALS.measures]
            for hp in going
        }
        if rung == last:
            ends |= dict.fromkeys(going, last)
            for seed in {row["seed"] for row in now}:
                kept = [
                    (r["accuracy_valid"], r["flops_masked"] / r["flops_dense"])
                    for r in now
                    if r["seed"] == seed
                ]
                points[seed] = front.hypervolume(kept, front.REFERENCE, front.DIRECTIONS)
            break
        order = [going[i] for i in dominance.order([means[hp] for hp in going], UP_DOWN)]
        chosen = set(order[: math.ceil(len(order) / factor)])
        for decade in {math.floor(math.log10(means[hp][1])) for hp in going}:
            chosen |= set(
                [hp for hp in order if math.floor(math.log10(means[hp][1])) == decade][:floor]
            )
        ends |= {hp: rung for hp in going if hp not in chosen}
        going = sorted(chosen)
    return ends, charged, points


@pytest.mark.parametrize(("factor", "floor"), [(1.5, 0), (2, 1), (4, 2)])
def test_replayed_is_what_a_simulation_does(factor: float, floor: int) -> None:
    found = study()
    ends, charged, volumes = simulated(found, factor, floor)
    known = dominance.ended(pd.DataFrame(found).sample(frac=1, random_state=1), GOALS)
    got = dominance.ends(known, GOALS, factor, floor)
    assert {hp: rung for (_, hp), rung in got["rung"].items()} == ends  # type: ignore[misc]
    assert len(set(ends.values())) >= 2, "some leave, some do not"
    lines = dominance.replayed(known, GOALS, factor, floor)
    assert lines["rung"].tolist() == [1, 2, 3, 4]
    assert lines["settings"].tolist() == [
        sum(end >= rung for end in ends.values()) for rung in range(1, 5)
    ]
    assert lines["go"].tolist() == [*lines["settings"].tolist()[1:], lines["settings"].tolist()[-1]]
    assert lines["charged"].iloc[-1] == pytest.approx(charged)
    assert lines["share"].iloc[-1] == pytest.approx(charged / (12 * 3 * 40))
    (_, curve), *_ = dominance.curve(known, GOALS, floor, [factor]).groupby("factor")
    assert dict(zip(curve["seed"], curve["hypervolume"], strict=True)) == pytest.approx(volumes)
    assert curve["kept"].max() < 1
    assert curve["share"].unique().tolist() == [lines["share"].iloc[-1]]


def test_a_dense_phase_is_trained_once_for_each_seed_and_charged_to_each_member() -> None:
    known = dominance.ended(pd.DataFrame(study(dense=16)), GOALS)
    dense = dominance.dense_epochs(known)
    assert dense.to_dict() == pytest.approx({"dns": 16})
    assert dominance.spent(known, dense) == pytest.approx((12 * 3 * 24 + 3 * 16, 12 * 3 * 40))
    assert dominance.spent(known[known["rung"] == 1], dense) == pytest.approx(
        (12 * 3 * 6 + 3 * 16, 12 * 3 * 22)
    )
    assert dominance.dense_epochs(pd.DataFrame(study())).to_dict() == {"dns": 0}
    bent = pd.DataFrame(study(dense=16)).assign(
        epochs=lambda rows: rows["epochs"] + 5 * (rows["rung"] == 3)
    )
    assert dominance.dense_epochs(bent).to_dict() == {"dns": 0}, (
        "rungs on no line tell nothing of a dense phase"
    )


def test_settings_are_means_over_all_seeds_and_wait_for_them() -> None:
    frame = pd.DataFrame(study(levels=4, rungs=2))
    first, second, third, _ = frame["hp"].unique()
    missing = (frame["hp"] == first) & (frame["seed"] == 1) & (frame["rung"] == 2)
    frame.loc[(frame["hp"] == second) & (frame["seed"] == 2) & (frame["rung"] == 1), "status"] = (
        "diverged"
    )
    frame = frame[
        ~missing & ~((frame["hp"] == second) & (frame["seed"] == 2) & (frame["rung"] == 2))
    ]
    at = dominance.settings_at(frame, 2, GOALS).droplevel("arm")
    assert set(at.index) == set(frame["hp"]) - {first}
    assert at.loc[second, list(GOALS.columns)].isna().to_numpy().all()
    assert bool(
        dominance.settings_at(frame, 1, GOALS)
        .droplevel("arm")["accuracy_valid"]
        .isna()[str(second)]
    )
    own = frame[(frame["hp"] == third) & (frame["rung"] == 2)]
    assert at["accuracy_valid"][str(third)] == pytest.approx(own["accuracy_valid"].mean())
    ends = dominance.ends(dominance.ended(frame, GOALS), GOALS, 1.01, 0).droplevel("arm")
    assert set(ends.index) == set(frame["hp"]) - {first}, (
        "a member without a last row has not ended"
    )
    assert "a seed diverged" in str(ends.loc[second, "reason"])


def test_nothing_that_stops_reads_test_data() -> None:
    frame = pd.DataFrame(study())
    poisoned = frame.assign(
        accuracy_test=-1e9 * frame["accuracy_valid"], loss_test=1e9 * frame["accuracy_valid"]
    )
    expected = dominance.ends(dominance.ended(frame, GOALS), GOALS, 2, 1)
    for seen in (poisoned, Guarded(frame)):
        pd.testing.assert_frame_equal(
            dominance.ends(dominance.ended(seen, GOALS), GOALS, 2, 1), expected
        )


def page(folder: Path, found: list[dict[str, Any]]) -> str:
    table.write(folder / "rows" / "dns.parquet", found, {"sparsity": pa.float64()}, FOOTER)
    return Visible.of(report.build(folder).read_text())


def test_the_report_tells_what_stopping_would_have_kept(tmp_path: Path) -> None:
    text = page(tmp_path, study())
    assert "Stopping by dominance" in text
    assert "for each of 3 seeds" in text
    lines = pd.read_csv(tmp_path / "report" / "stopping.csv")
    assert lines["factor"].tolist() == [factor for factor in dominance.FACTORS for _ in range(3)]
    for line in dominance.means(lines).itertuples():
        assert f"{100 * float(line.share):.1f} %" in text  # type: ignore[arg-type]
        assert f"{100 * float(line.kept):.2f} ±" in text  # type: ignore[arg-type]
    few = page(tmp_path, study(levels=7))
    assert "Stopping by dominance" not in few
    assert not (tmp_path / "report" / "stopping.csv").exists()


def test_few_settings_one_rung_or_a_stopped_study_have_no_curve() -> None:
    assert len(dominance.tried(pd.DataFrame(study(levels=8)), Goals()))
    assert dominance.tried(pd.DataFrame(study(levels=7)), Goals()).empty
    assert dominance.tried(pd.DataFrame(study(rungs=1)), Goals()).empty
    frame = pd.DataFrame(study())
    frame.loc[3, "status"] = "stopped"
    assert dominance.tried(frame, Goals()).empty
    assert dominance.departures(pd.DataFrame(study())).empty


def test_the_report_of_a_stopped_study_says_who_left_where(tmp_path: Path) -> None:
    found = pd.DataFrame(study(dense=16))
    ends = dominance.ends(dominance.ended(found, GOALS), GOALS, 4, 0)
    left = dominance.until(found, ends)
    last = left["hp"].map(ends.droplevel("arm")["rung"]) == left["rung"]
    left = left.assign(status=left["status"].mask(last & (left["rung"] < 4), "stopped"))
    counts = dominance.departures(left)
    assert counts.to_numpy().tolist() == [[1, 12, 9], [2, 3, 2], [3, 1, 0], [4, 1, 0]]
    share, charged = dominance.saved(left)
    assert charged == pytest.approx((9 * 22 + 2 * 28 + 40) / (12 * 40))
    assert share == pytest.approx((3 * (9 * 6 + 2 * 12 + 24) + 48) / (12 * 3 * 24 + 48))
    text = page(tmp_path, json.loads(left.to_json(orient="records")))
    assert (
        f"{100 * share:.1f} % of what all members would have taken ({100 * charged:.1f} % as"
        in text
    )
    assert "members that are done" in text
    assert pd.read_csv(tmp_path / "report" / "stopping.csv")["stopped"].tolist() == [9, 2, 0, 0]
