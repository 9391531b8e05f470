"""Bands, indicators and compute against direct counts over grids, all orders, and hand-worked
points; tables read in parts.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prunefront.analysis.draw import render
from prunefront.analysis.inference import attainment
from prunefront.analysis.points import front
from prunefront.analysis.rows import table
from prunefront.analysis.sections import bands
from prunefront.analysis.sections import compute as spending

GRID = [i / 4 for i in range(6)]


def cloud(arm: str, seeds: list[list[tuple[float, float]]], control: bool = False) -> pd.DataFrame:
    """Points (accuracy, relative) of the seeds of an arm, the seeds' lines mixed as in a table."""
    lines = [(arm, control, seed, *point) for seed, points in enumerate(seeds) for point in points]
    lines = lines[::2] + lines[1::2]
    return pd.DataFrame(lines, columns=[*attainment.LABEL, "seed", *attainment.OBJECTIVES])


level = st.sampled_from(GRID[:5])
runs = st.lists(st.lists(st.tuples(level, level), min_size=1, max_size=4), min_size=2, max_size=5)


def attains(points: Sequence[Sequence[float]], accuracy: float, relative: float) -> bool:
    return any(a >= accuracy and c <= relative for a, c in points)


@given(runs)
@settings(max_examples=25, deadline=None)
def test_surfaces_are_a_direct_count(seeds: list[list[tuple[float, float]]]) -> None:
    surfaces, refused = attainment.surfaces(cloud("a", seeds))
    assert not refused
    assert set(surfaces["seeds"]) == {len(seeds)}
    for percent, (accuracy, relative) in itertools.product(
        (25, 50, 75), itertools.product(GRID, GRID)
    ):
        count = sum(attains(points, accuracy, relative) for points in seeds)
        corners = (
            surfaces.loc[surfaces["percent"] == percent, list(attainment.OBJECTIVES)]
            .to_numpy()
            .tolist()
        )
        assert attains(corners, accuracy, relative) == (100 * count >= percent * len(seeds))


@given(runs, runs)
@settings(max_examples=25, deadline=None)
def test_differences_are_a_direct_count(
    one: list[list[tuple[float, float]]], other: list[list[tuple[float, float]]]
) -> None:
    n = min(len(one), len(other))
    boxes = attainment.differences(cloud("a", one), cloud("b", other))
    for accuracy, relative in itertools.product(np.array(GRID) - 0.1, np.array(GRID) + 0.1):
        counts = [
            sum(attains(points, accuracy, relative) for points in side[:n]) for side in (one, other)
        ]
        inside = boxes[
            boxes["accuracy_low"].lt(accuracy) & boxes["accuracy_high"].gt(accuracy)
            & boxes["relative_low"].lt(relative) & boxes["relative_high"].gt(relative)
        ]  # fmt: skip
        assert inside["difference"].sum() == pytest.approx((counts[0] - counts[1]) / n)
        assert len(inside) <= 1


def test_surfaces_of_three_objectives_are_a_direct_count() -> None:
    draws = np.random.default_rng(0)
    found = pd.DataFrame(draws.integers(0, 4, (30, 3)) / 4, columns=list(attainment.TIMED))
    found = found.assign(arm="a", control=False, seed=np.tile(range(5), 6))
    surfaces, _ = attainment.surfaces(found, attainment.TIMED)
    signs = np.array([-1, 1, 1])
    for point in itertools.product([0.25, 0.5, 0.75], repeat=3):
        better = (found[list(attainment.TIMED)].to_numpy() * signs <= np.array(point) * signs).all(
            axis=1
        )
        count = len(set(found["seed"].to_numpy()[better]))
        for percent, group in surfaces.groupby("percent"):
            corners = group[list(attainment.TIMED)].to_numpy() * signs
            attains = (corners <= np.array(point) * signs).all(axis=1).any()
            assert attains == (100 * count >= percent * 5)  # type: ignore[operator]


def test_one_seed_has_no_band_and_the_reason_is_said() -> None:
    lone, two = (
        cloud("lone", [[(0.9, 0.5)]]),
        cloud("two", [[(0.9, 0.5)], [(0.8, 0.4)]], control=True),
    )
    surfaces, refused = attainment.surfaces(pd.concat([lone, two]))
    assert set(surfaces["arm"]) == {"two"}
    assert refused == {
        ("lone", False): "bands say how seeds differ, and need at least 2 of them; got 1"
    }
    with pytest.raises(ValueError, match="at least 2 seeds that both have; got 1"):
        attainment.differences(lone, two)
    empty, refused = attainment.surfaces(lone[:0])
    assert empty.empty
    assert not refused


def test_hypervolume_of_seeds_with_its_interval() -> None:
    (line,) = attainment.hypervolumes(
        cloud("a", [[(0.9, 0.5), (0.6, 0.1)], [(0.8, 0.5)], [(0.7, 0.4)]])
    ).to_dict("records")
    seeds = [0.9 * 0.5 + 0.6 * 0.4, 0.8 * 0.5, 0.7 * 0.6]
    interval = stats.t.interval(0.95, 2, np.mean(seeds), stats.sem(seeds))
    assert line["hypervolume"] == pytest.approx(np.mean(seeds))
    assert (line["hypervolume_low"], line["hypervolume_high"]) == pytest.approx(interval)
    assert (line["seeds"], line["points_least"], line["points_most"]) == (3, 1, 2)
    (lone,) = attainment.hypervolumes(cloud("a", [[(0.9, 0.5)]])).to_dict("records")
    assert math.isnan(lone["hypervolume_low"])
    timed = cloud("a", [[(0.9, 0.5)], [(0.8, 0.5)]]).assign(latency=0.25)
    assert attainment.hypervolumes(timed, attainment.TIMED)["hypervolume"][0] == pytest.approx(
        0.85 * 0.5 * 0.75
    )


def test_contributions_are_what_is_lost_without_an_arm() -> None:
    one, other = (
        cloud("a", [[(0.8, 0.5)], [(0.8, 0.5)]]),
        cloud("b", [[(0.4, 0.25)], [(0.8, 0.5), (0.1, 0.9)]], control=True),
    )
    lines = attainment.contributions(pd.concat([one, other])).set_index("arm")
    assert lines.loc["a", "contribution"] == pytest.approx(np.mean([0.4 * 0.5, 0.0]))
    assert lines.loc["b", "contribution"] == pytest.approx(np.mean([0.4 * 0.25, 0.0]))
    assert lines["own"].tolist() == [1.0, 1.0], "equal points are of both"
    assert lines["joint"].tolist() == [2.0, 2.0]


@given(st.lists(st.lists(st.tuples(level, level), min_size=1, max_size=4), min_size=2, max_size=2))
@settings(max_examples=25, deadline=None)
def test_epsilon_is_the_least_that_makes_one_as_good(
    sides: list[list[tuple[float, float]]],
) -> None:
    found = pd.concat([cloud("a", [sides[0]]), cloud("b", [sides[1]])])
    epsilon = attainment.epsilons(found).set_index("arm").loc["a", "epsilon"]
    steps = [step / 4 for step in range(-5, 6)]
    enough = [
        e
        for e in steps
        if all(attains([(a + e, c - e) for a, c in sides[0]], *point) for point in sides[1])
    ]
    assert epsilon == pytest.approx(min(enough))


@given(st.lists(st.tuples(level, st.sampled_from([*GRID, math.nan])), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_expected_hypervolume_is_the_mean_over_all_orders(
    points: list[tuple[float, float]],
) -> None:
    orders = list(itertools.permutations(points))
    for k, expected in enumerate(attainment.expected(np.array(points) * [-1, 1]), 1):
        volumes = [
            front.hypervolume(order[:k], front.REFERENCE, front.DIRECTIONS) for order in orders
        ]
        assert expected == pytest.approx(np.mean(volumes), abs=1e-12)


def test_expected_best_of_many_is_finite_and_ends_at_the_whole() -> None:
    points = np.random.default_rng(0).uniform(size=(700, 2))
    curve = attainment.expected(points * [-1, 1])
    assert (np.diff(curve) > -1e-12).all()
    assert curve[0] == pytest.approx((points[:, 0] * (1 - points[:, 1])).mean())
    assert curve[-1] == pytest.approx(front.hypervolume(points, front.REFERENCE, front.DIRECTIONS))


def row(arm: str, seed: int, valid: float, flops: int, **more: Any) -> dict[str, Any]:
    fixed = {
        "arm": arm,
        "control": False,
        "algorithm": arm,
        "hp": json.dumps({"flops": flops}),
        "seed": seed,
        "status": "done",
    }
    measures = {
        "accuracy_valid": valid,
        "accuracy_test": 1 - valid,
        "flops_masked": flops,
        "flops_shrunk": flops,
    }
    charges = {"flops_dense": 1000, "train_flops": 10, "seconds": 2.0, "rung": 1}
    return {**fixed, **measures, **charges, "member": f"{arm}{seed}{flops}", **more}


@pytest.fixture
def last_rows() -> pd.DataFrame:
    ends = {"status": "diverged", "accuracy_valid": math.nan, "train_flops": 4}
    return pd.DataFrame(
        [
            row("a", 0, 0.8, 500), row("a", 0, 0.4, 250, train_flops=30), row("a", 0, 0.0, 100, **ends),
            row("a", 1, 0.6, 500), row("a", 1, 0.9, 1000), row("a", 1, math.nan, 10),
            row("b", 0, 0.7, 100, status="skipped", train_flops=None, seconds=None, accuracy_valid=math.nan),
        ]
    )  # fmt: skip


def test_compute_charges_every_network_and_counts_the_done(last_rows: pd.DataFrame) -> None:
    curves = attainment.compute(last_rows)
    first = curves[curves["seed"] == 0]
    assert first["train_flops"].tolist() == pytest.approx([44 / 3, 88 / 3, 44])
    assert first["seconds"].tolist() == pytest.approx([2, 4, 6])
    one, other, both = 0.4, 0.3, 0.8 * 0.5 + 0.4 * 0.25
    assert first["hypervolume"].tolist() == pytest.approx(
        [(one + other) / 3, (one + other + both) / 3, both]
    )
    assert set(curves["arm"]) == {"a"}
    means = attainment.spent(curves)
    assert means["seeds"].tolist() == [2, 2, 2]
    assert means["hypervolume"].iloc[-1] == pytest.approx((both + 0.3) / 2)
    assert len(attainment.spent(curves.drop(index=first.index[-1]))) == 2, (
        "three networks are not of every seed"
    )
    assert attainment.spent(attainment.compute(last_rows[:0])).empty


def test_a_network_that_several_rows_took_is_charged_once() -> None:
    took = [
        row("a", 0, 0.5, 500, hp=json.dumps({"candidates": n}), m_winner=1.0, train_flops=10 * n)
        for n in (2, 1, 4)
    ]
    rows = pd.DataFrame(took)
    assert attainment.compute(rows)["train_flops"].tolist() == [10]
    assert attainment.points(rows)["train_flops"].tolist() == [10]


def test_points_are_done_and_measured(last_rows: pd.DataFrame) -> None:
    found = attainment.points(last_rows)
    assert found["member"].tolist() == ["a0500", "a0250", "a1500", "a11000"]
    assert found["relative"].tolist() == [0.5, 0.25, 0.5, 1.0]
    assert attainment.points(last_rows.assign(status="failed")).empty
    assert attainment.hypervolumes(attainment.points(last_rows[:0])).empty
    for compute in (attainment.contributions, attainment.epsilons, attainment.hypervolumes):
        assert compute(found[:0]).empty
    unseen = last_rows.drop(columns="accuracy_test")
    pd.testing.assert_frame_equal(attainment.points(unseen), found)
    pd.testing.assert_frame_equal(attainment.compute(unseen), attainment.compute(last_rows))


def test_latencies_are_shares_of_the_parent_s(last_rows: pd.DataFrame) -> None:
    place = {"device": "d", "threads": 1, "torch": "2", "mode": "eager", "batch": 1}
    lines = [("p", True, 4.0), ("a0500", False, 1.0), ("a1500", False, None)]
    measured = pd.DataFrame(
        [{**place, "member": m, "parent": p, "milliseconds": t} for m, p, t in lines]
    )
    found = attainment.timed(attainment.points(last_rows), measured)
    assert found[["member", "latency"]].to_numpy().tolist() == [["a0500", 0.25]]
    with pytest.raises(ValueError, match="dense parent's, which was not measured"):
        attainment.timed(attainment.points(last_rows), measured[1:])
    with pytest.raises(ValueError, match="within one device"):
        attainment.timed(
            attainment.points(last_rows), pd.concat([measured, measured.assign(batch=2)])
        )


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    table.write(folder / "rows" / f"{name}.parquet", rows, {}, {})


def test_a_table_read_in_parts_gives_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(0)
    every: list[dict[str, Any]] = []
    for file in range(6):
        rows = [
            row(f"arm{draws.integers(2)}", int(draws.integers(3)), draws.integers(20) / 20, int(draws.integers(1, 1000)),
                member=f"{file}-{i}", status=["done", "running"][file % 2], control=bool(draws.integers(2)))
            for i in range(40)
        ]  # fmt: skip
        rows[0]["accuracy_valid"] = math.nan
        write(tmp_path, str(file), rows)
        every += rows
    monkeypatch.setattr(attainment, "BATCH", 50)
    found, whole = (
        attainment.fronts_by_seed(tmp_path),
        attainment.points(table.last(pd.DataFrame(every))),
    )
    volumes, expected = (
        attainment.volumes(points).drop(columns="points") for points in (found, whole)
    )
    pd.testing.assert_frame_equal(volumes, expected)
    pd.testing.assert_frame_equal(attainment.surfaces(found)[0], attainment.surfaces(whole)[0])
    pd.testing.assert_frame_equal(attainment.epsilons(found), attainment.epsilons(whole))
    sizes = [part.num_rows for part in table.scan(tmp_path, ["arm"], "done", 50)]
    assert sizes == [80, 40]
    assert attainment.fronts_by_seed(tmp_path, "flops_shrunk")["relative"].max() <= 1


def test_parts_of_a_table_are_trusted_no_more_than_the_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows; a study's output folder"):
        attainment.fronts_by_seed(tmp_path)
    write(tmp_path, "a", [row("a", 0, 0.5, 100, status="running")])
    assert attainment.fronts_by_seed(tmp_path).empty
    assert attainment.hypervolumes(attainment.fronts_by_seed(tmp_path)).empty
    foreign = tmp_path / "rows" / "b.parquet"
    pq.write_table(pa.table({"arm": ["a"]}), foreign)
    with pytest.raises(
        ValueError,
        match=r"b\.parquet: not written by prunefront; `prunefront run` sets such files aside",
    ):
        attainment.fronts_by_seed(tmp_path)
    foreign.write_bytes((tmp_path / "rows" / "a.parquet").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.parquet: unreadable"):
        attainment.fronts_by_seed(tmp_path)
    foreign.rename(tmp_path / "rows" / "b.txt")
    with pytest.raises(ValueError, match=r"b\.txt: not a Parquet file"):
        attainment.fronts_by_seed(tmp_path)


def test_pictures_hold_the_stairs_and_the_curves(last_rows: pd.DataFrame) -> None:
    found = pd.concat(
        [
            cloud("a", [[(0.8, 0.5), (0.7, 0.25)], [(0.6, 0.5)]]),
            cloud("c", [[(0.5, 1.0)], [(0.5, 0.0)]], True),
        ]
    )
    picture = bands.chart(attainment.surfaces(found)[0], "study")
    stairs = {(line["label"], line["relative"]): line for line in picture["datasets"]["lines0"]}
    assert (stairs["a", 0.5]["low"], stairs["a", 0.5]["accuracy"], stairs["a", 0.5]["high"]) == (
        0.6,
        0.8,
        0.8,
    )
    assert stairs["a", 0.25]["low"] < 0.5, "nothing is attained there by 75 %"
    assert stairs["c (control)", 1.0]["accuracy"] is None, "left out: no FLOPs"
    assert "have no FLOPs left" in json.dumps(picture["title"])
    curves = spending.chart(attainment.spent(attainment.compute(last_rows)), "study")
    assert [line["networks"] for line in curves["datasets"]["lines0"]] == [1, 2, 3]
    for one in (picture, curves):
        assert render.png(render.svg(one))[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no hypervolume can be drawn"):
        spending.chart(
            attainment.spent(attainment.compute(last_rows.assign(flops_masked=1000))), "study"
        )
    with pytest.raises(ValueError, match="no attained point has FLOPs left"):
        bands.chart(attainment.surfaces(found.assign(relative=0.0))[0], "study")
