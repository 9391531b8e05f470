"""Fronts and hypervolumes against brute force and closed forms; summaries against hand-worked rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunefront.analysis.inference import attainment
from prunefront.analysis.points import front


@st.composite
def clouds(draw: st.DrawFn) -> tuple[list[list[float]], list[bool]]:
    """Points on a small grid, so that ties and duplicates are common, some with a NaN; and
    directions.
    """
    m = draw(st.integers(2, 3))
    number = st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, math.nan])
    points = draw(st.lists(st.lists(number, min_size=m, max_size=m), max_size=12))
    return points, draw(st.lists(st.booleans(), min_size=m, max_size=m))


def dominates(a: Sequence[float], b: Sequence[float], maximize: Sequence[bool]) -> bool:
    gains = [x - y if more else y - x for x, y, more in zip(a, b, maximize, strict=True)]
    return min(gains) >= 0 and max(gains) > 0


@given(clouds())
def test_front_is_what_brute_force_finds(cloud: tuple[list[list[float]], list[bool]]) -> None:
    points, maximize = cloud
    whole = [p for p in points if not any(map(math.isnan, p))]
    expected = [
        p in whole and not any(dominates(other, p, maximize) for other in whole) for p in points
    ]
    assert front.front(points, maximize).tolist() == expected


@given(clouds())
def test_hypervolume_counts_the_grid_cells_that_are_dominated(
    cloud: tuple[list[list[float]], list[bool]],
) -> None:
    points, maximize = cloud
    reference = [0.0 if more else 4.0 for more in maximize]
    cells = (
        np.stack(np.meshgrid(*[np.arange(4) + 0.5] * len(maximize)), axis=-1)
        .reshape(-1, len(maximize))
        .tolist()
    )
    covered = [
        any(dominates(p, cell, maximize) for p in points if not any(map(math.isnan, p)))
        for cell in cells
    ]
    assert front.hypervolume(points, reference, maximize) == pytest.approx(sum(covered))


def test_equal_points_on_the_front_all_belong_to_it() -> None:
    assert front.front([[0.9, 5], [0.9, 5], [0.8, 5], [0.9, 6]], (True, False)).tolist() == [
        True,
        True,
        False,
        False,
    ]


def test_hypervolume_of_one_and_of_two_boxes() -> None:
    assert front.hypervolume([[0.9, 0.25]], (0.0, 1.0), (True, False)) == pytest.approx(0.9 * 0.75)
    two = front.hypervolume([[0.9, 0.5], [0.6, 0.1]], (0.0, 1.0), (True, False))
    assert two == pytest.approx(0.9 * 0.5 + 0.6 * 0.4)


@pytest.mark.parametrize(
    "points", [[], [[0.0, 0.5]], [[0.9, 1.0]], [[-1.0, 2.0]], [[math.nan, 0.1]]]
)
def test_points_that_do_not_improve_on_the_reference_contribute_nothing(
    points: list[list[float]],
) -> None:
    assert front.hypervolume(points, (0.0, 1.0), (True, False)) == 0.0


def test_lengths_that_disagree_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"one entry per objective; got 3 for points of shape \(1, 2\)"
    ):
        front.front([[1.0, 2.0]], (True, False, True))
    with pytest.raises(ValueError, match="one entry per objective"):
        front.hypervolume([1.0, 2.0], (0.0, 1.0), (True, False))
    with pytest.raises(ValueError, match="got 1, should be 2"):
        front.hypervolume([[1.0, 2.0]], (0.0,), (True, False))


def row(
    arm: str, hp: str, seed: int, valid: float, test: float, flops: int, **more: Any
) -> dict[str, Any]:
    """A last row of a parent with 1000 FLOPs and 500 parameters, of which `flops // 10` are kept."""
    fixed = {
        "algorithm": arm,
        "control": arm == "whole",
        "member": f"{arm}{hp}{seed}",
        "status": "done",
    }
    measures = {"accuracy_valid": valid, "accuracy_test": test, "sparsity": 1 - flops / 1000}
    charges = {"seconds": 2.0, "train_flops": 10, "search_flops": 0}
    flop = {"flops_dense": 1000, "flops_masked": flops, "flops_shrunk": min(1000, 2 * flops)}
    params = {"params_dense": 500, "params_kept": flops // 10, "params_shrunk": 500}
    return {
        "arm": arm,
        "hp": hp,
        "seed": seed,
        **fixed,
        **measures,
        **charges,
        **flop,
        **params,
        **more,
    }


@pytest.fixture
def last_rows() -> pd.DataFrame:
    return pd.DataFrame(
        [
            row("whole", "{}", 0, 0.90, 0.80, 1000),
            row("whole", "{}", 1, 0.94, 0.90, 1000),
            row("dns", '{"sparsity":0.9}', 0, 0.88, 0.81, 100),
            row("dns", '{"sparsity":0.9}', 1, 0.90, 0.83, 200),
            row("dns", '{"sparsity":0.99}', 0, 0.30, 0.20, 50),
            row("dns", '{"sparsity":0.99}', 1, math.nan, math.nan, 0, status="diverged"),
            row("dns", '{"sparsity":0.5}', 0, 0.85, 0.99, 600),
        ]
    )


def hypervolumes(rows: pd.DataFrame) -> pd.DataFrame:
    return attainment.hypervolumes(attainment.points(rows))


def lines(frame: pd.DataFrame, *key: str) -> dict[str, dict[str, Any]]:
    return {"".join(line[name] for name in key): line for line in frame.to_dict("records")}  # pyright: ignore


def test_summary_is_what_a_hand_works_out(last_rows: pd.DataFrame) -> None:
    points = lines(front.summarise(last_rows), "arm", "hp")
    point = points['dns{"sparsity":0.9}']
    assert (point["done"], point["diverged"], point["failed"]) == (2, 0, 0)
    assert point["accuracy_valid"] == pytest.approx(0.89)
    assert point["accuracy_valid_std"] == pytest.approx(0.02 / math.sqrt(2))
    assert point["accuracy_test"] == pytest.approx(0.82)
    assert point["compression"] == pytest.approx(500 / 15)
    assert point["speedup_masked"] == pytest.approx(1000 / 150)
    assert point["speedup_shrunk"] == pytest.approx(1000 / 300)
    assert point["difference_valid"] == pytest.approx((-0.02 - 0.04) / 2)
    assert point["difference_valid_std"] == pytest.approx(0.02 / math.sqrt(2))
    assert point["difference_test"] == pytest.approx((0.01 - 0.07) / 2)
    lone = points['dns{"sparsity":0.99}']
    assert (lone["done"], lone["diverged"]) == (1, 1)
    assert lone["accuracy_valid"] == 0.30
    assert math.isnan(lone["accuracy_valid_std"])
    assert lone["difference_valid"] == pytest.approx(-0.60)


def test_without_a_parent_there_is_no_difference(last_rows: pd.DataFrame) -> None:
    summary = front.summarise(last_rows[last_rows["arm"] != "whole"])
    assert summary["difference_valid"].isna().all()
    assert summary["accuracy_valid"].notna().all()


def test_a_parent_is_a_control_from_which_nothing_was_removed(last_rows: pd.DataFrame) -> None:
    assert front.parents(last_rows) == ["whole"]
    assert front.parents(last_rows.assign(control=False)) == []
    narrow = pd.DataFrame([row("narrow", "{}", 0, 0.8, 0.8, 300, control=True, flops_dense=300)])
    assert front.parents(pd.concat([last_rows, narrow])) == ["whole"]


def test_a_parent_is_whole_and_as_large_as_the_task_s_model(last_rows: pd.DataFrame) -> None:
    wide = row("wide", "{}", 0, 0.8, 0.8, 2000, control=True, sparsity=0.0)
    thinned = row("thinned", "{}", 0, 0.8, 0.8, 1000, control=True, sparsity=0.5)
    some = [row("some", f'{{"n": {n}}}', 0, 0.8, 0.8, 1000, control=n == 1) for n in (1, 2)]
    frame = pd.concat([last_rows, pd.DataFrame([wide, thinned, *some])])
    assert front.parents(frame) == ["whole"]
    assert front.summarise(frame).set_index("arm").loc["wide", "speedup_masked"] == 0.5


def test_nothing_done_gives_points_without_measures(last_rows: pd.DataFrame) -> None:
    summary = front.summarise(last_rows.assign(status="failed"))
    assert len(summary) == 4
    assert summary["failed"].sum() == len(last_rows)
    assert summary["accuracy_valid"].isna().all()
    assert not front.fronts(summary).any()
    assert hypervolumes(last_rows.assign(status="failed")).empty


def test_rows_without_a_point_are_refused(last_rows: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="every row states its `hp`; 1 rows do not"):
        front.summarise(last_rows.assign(hp=last_rows["hp"].where(last_rows.index > 0)))


def test_fronts_of_the_study_and_of_each_arm(last_rows: pd.DataFrame) -> None:
    summary = front.summarise(last_rows)
    names = summary["arm"] + summary["hp"]
    everywhere = {"whole{}", 'dns{"sparsity":0.9}', 'dns{"sparsity":0.99}'}
    assert set(names[front.fronts(summary)]) == everywhere
    assert set(names[front.fronts(summary, within="arm")]) == everywhere
    assert (front.ordered(summary)["arm"] + front.ordered(summary)["hp"]).tolist() == [
        "whole{}", 'dns{"sparsity":0.9}', 'dns{"sparsity":0.99}', 'dns{"sparsity":0.5}',
    ]  # fmt: skip


def test_hypervolume_of_an_arm_is_the_mean_over_its_seeds(last_rows: pd.DataFrame) -> None:
    volumes = lines(hypervolumes(last_rows), "arm")
    seeds = [0.88 * 0.9 + 0.30 * 0.05, 0.90 * 0.8]
    assert volumes["dns"]["hypervolume"] == pytest.approx(np.mean(seeds))
    assert volumes["dns"]["hypervolume_std"] == pytest.approx(np.std(seeds, ddof=1))
    assert [volumes["dns"][name] for name in ("seeds", "points_least", "points_most")] == [2, 1, 3]
    assert volumes["whole"]["hypervolume"] == 0.0


def searched(count: int, seed: int, winner: int, valid: float = 0.8, **more: Any) -> dict[str, Any]:
    """A row of a search that took candidate `winner` of `count`."""
    hp = {"candidates": count, "sparsity": 0.5, "pick": more.get("hp_pick", "best")}
    columns = {
        "hp_candidates": count,
        "hp_sparsity": 0.5,
        "hp_pick": hp["pick"],
        "m_winner": float(winner),
        **more,
    }
    point = row(
        "search", json.dumps(hp), seed, valid, valid, 500, **{"control": count == 1, **columns}
    )
    return point | {"member": f"{hp}{seed}"}


WINNERS = {0: [1, 1, 3, 3, 3, 3, 7, 7, 7, 7], 1: [1, 2, 2, 2, 2, 2, 2, 2, 9, 9]}
"""Of two seeds: which candidate was the best of the first 1 to 10."""


@pytest.fixture
def search_rows() -> pd.DataFrame:
    every = [
        (count, seed, winner)
        for seed, found in WINNERS.items()
        for count, winner in enumerate(found, 1)
    ]
    return pd.DataFrame(
        [searched(count, seed, winner, 0.8 - winner / 1000) for count, seed, winner in every]
    )


def test_rows_that_took_the_same_candidate_are_of_one_network(
    last_rows: pd.DataFrame, search_rows: pd.DataFrame
) -> None:
    assert front.networks(search_rows).nunique() == 3 + 3
    assert front.networks(last_rows).tolist() == last_rows["member"].tolist()
    both = pd.concat([last_rows, search_rows])
    assert front.networks(both).nunique() == len(last_rows) + 6
    elsewhere = search_rows.assign(arm="other", hp=search_rows["hp"].str.replace("0.5", "0.6"))
    assert front.networks(pd.concat([search_rows, elsewhere], ignore_index=True)).nunique() == 12
    (found, lone) = hypervolumes(search_rows).to_dict("records")
    assert (found["points_least"], found["points_most"], lone["points_most"]) == (2, 3, 1)


def test_the_counts_that_are_shown() -> None:
    assert front.marks(range(1, 257)) == [1, 4, 16, 64, 256]
    assert front.marks([1, 10, 100]) == [1, 10, 100]
    assert front.marks([2.0, 3.0, 200.0]) == [2, 200]
    assert front.marks([7]) == [7]
    assert front.marks([]) == []


def test_counts_that_took_the_same_networks_in_every_seed_are_one_point(
    last_rows: pd.DataFrame, search_rows: pd.DataFrame
) -> None:
    worst = [
        searched(count, seed, 1, 0.799, hp_pick="worst", control=True)
        for count in (1, 10)
        for seed in WINNERS
    ]
    rows = pd.concat([last_rows, search_rows, pd.DataFrame(worst)], ignore_index=True)
    summary = front.summarise(rows)
    listed = front.listed(summary, rows)
    settings = listed["setting"][listed["arm"] == "search"]
    assert sorted(settings) == [  # 7 to 8 hold no shown count and are not on the front
        "candidates 1, pick best", "candidates 10, pick worst", "candidates 2, pick best",
        "candidates 3..6, pick best", "candidates 9..10, pick best",
    ]  # fmt: skip
    others = listed["arm"] != "search"
    pd.testing.assert_frame_equal(listed[others], summary[summary["arm"] != "search"])
    kept = summary.loc[listed.index].drop(columns="setting")
    pd.testing.assert_frame_equal(listed.drop(columns="setting"), kept)
    assert set(listed.index[front.fronts(listed)]) <= set(summary.index[front.fronts(summary)])


def test_a_setting_is_listed_whatever_its_count(search_rows: pd.DataFrame) -> None:
    lone = [searched(7, seed, 3, hp_pick="worst", control=True) for seed in WINNERS]
    other = [{**one, "hp": one["hp"].replace("0.5", "0.9"), "flops_masked": 900} for one in lone]
    rows = pd.concat([search_rows, pd.DataFrame(other)], ignore_index=True)
    listed = front.listed(front.summarise(rows), rows)
    assert "candidates 7, pick worst, sparsity 0.9" in set(listed["setting"])


def test_the_one_number_in_which_settings_differ() -> None:
    points = pd.DataFrame(
        {"arm": [*"aabb"], "hp_x": [1.0, 2.0, 1.0, 3.0], "hp_y": [4, 4, 5, 5], "hp_z": [*"uuuu"]}
    )
    assert front.varying(points) == "hp_x"
    assert front.varying(points.assign(hp_y=[4, 4, 5, 6])) is None, "two differ"
    assert front.varying(points.assign(hp_x=[*"uvuw"])) is None, "words are no scale"
    assert front.varying(points.assign(hp_x=[True, False] * 2)) is None
    assert front.varying(points.assign(hp_x=[1.0, math.nan, 1.0, 2.0])) is None
    assert front.varying(points[::2]) is None, "nothing differs within an arm"


def test_lines_are_picked_evenly_and_one_always() -> None:
    frame = pd.DataFrame({"i": range(100)})
    assert front.evenly(frame, 5, 98)["i"].tolist() == [0, 33, 66, 98, 99]
    assert front.evenly(frame, 5, 33)["i"].tolist() == [0, 33, 66, 99]
    assert front.evenly(frame, 100, 3) is frame


def test_without_a_search_every_point_is_listed(last_rows: pd.DataFrame) -> None:
    summary = front.summarise(last_rows)
    assert front.listed(summary, last_rows) is summary
    assert front.listed(summary, last_rows.assign(hp_candidates=None, m_winner=None)) is summary


def test_points_are_ordered_by_the_number_of_candidates(search_rows: pd.DataFrame) -> None:
    ordered = front.ordered(front.summarise(search_rows.assign(accuracy_valid=0.5)))
    counts = [int(setting.removeprefix("candidates ")) for setting in ordered["setting"]]
    assert counts == [2, 3, 4, 5, 6, 7, 8, 9, 10, 1]  # controls after the others


def test_the_knee_is_the_point_farthest_from_the_line_between_the_ends() -> None:
    accuracy, cost = [0.0, 0.7, 0.9, 1.0, 0.5], [1.0, 10.0, 100.0, 1000.0, 500.0]
    points = pd.DataFrame({"arm": "a", "accuracy_valid": accuracy, "flops_masked": cost})
    x, y = np.log10(cost) / 3, np.array(accuracy)  # the line between the ends is y = x
    distances = [abs(b - a) / math.sqrt(2) for a, b in zip(x[:4], y[:4], strict=True)]
    assert (
        front.knees(points).tolist()
        == [i == int(np.argmax(distances)) for i in range(5)]
        == [False, True] + 3 * [False]
    )
    assert not front.knees(points.assign(accuracy_valid=[0.0, 0.1, 0.2, 1.0, 0.1])).any(), (
        "none on the better side"
    )
    assert not front.knees(points[:2]).any(), "two points are both ends"
    assert not front.knees(points[:0]).any()
    free = pd.DataFrame({"arm": "b", "accuracy_valid": [0.0, 0.9], "flops_masked": [0.0, 5.0]})
    both = pd.concat([points, free], ignore_index=True)
    assert front.knees(both, within="arm").tolist() == [False, True] + 5 * [False], (
        "no cost has no logarithm"
    )


class Guarded(pd.DataFrame):
    """A frame in which reading a test column by name is an error."""

    @property
    def _constructor(self) -> type[Guarded]:
        return Guarded

    def __getitem__(self, key: Any) -> Any:
        names = [key] if isinstance(key, str) else key if isinstance(key, list) else []
        assert not any("_test" in str(name) for name in names), f"{key} was read"
        return super().__getitem__(key)


def test_nothing_that_selects_or_orders_reads_test_data(last_rows: pd.DataFrame) -> None:
    summary = front.summarise(last_rows)
    poisoned_rows, poisoned = last_rows.copy(), summary.copy()
    for frame in (poisoned_rows, poisoned):
        for name in [name for name in frame if "_test" in str(name)]:
            frame[name] = -1e9 * frame["accuracy_valid"]
    order = front.ordered(summary).index
    for seen in (
        poisoned,
        summary.drop(columns=[c for c in summary if "_test" in str(c)]),
        Guarded(summary),
    ):
        assert front.fronts(seen).tolist() == front.fronts(summary).tolist()
        assert (
            front.fronts(seen, within="arm").tolist()
            == front.fronts(summary, within="arm").tolist()
        )
        assert front.ordered(seen).index.equals(order)
    pd.testing.assert_frame_equal(hypervolumes(poisoned_rows), hypervolumes(last_rows))
    searched_rows = pd.DataFrame(
        [searched(count, 0, count, 0.9 - count / 100) for count in range(1, 30)]
    )
    points = front.summarise(searched_rows)
    spoilt = points.assign(accuracy_test=-points["accuracy_valid"])
    assert front.listed(Guarded(points), searched_rows).index.equals(
        front.listed(spoilt, searched_rows).index
    )
    pd.testing.assert_frame_equal(hypervolumes(Guarded(last_rows)), hypervolumes(last_rows))
    assert front.parents(poisoned_rows) == front.parents(last_rows)


def test_a_test_column_cannot_be_reached_in_a_selectable_frame(last_rows: pd.DataFrame) -> None:
    for frame in (last_rows, front.summarise(last_rows)):
        with pytest.raises(KeyError, match="accuracy_test"):
            front.selectable(frame)["accuracy_test"]
        assert not [name for name in front.selectable(frame) if "_test" in str(name)]


def test_a_network_without_flops_is_no_point_of_a_front(last_rows: pd.DataFrame) -> None:
    dead = [row("dead", "{}", seed, 0.98, 0.98, 0, flops_shrunk=0) for seed in (0, 1)]
    cut = row(
        "cut", "{}", 0, 0.98, 0.98, 10, flops_shrunk=0
    )  # weights are left, and none of them has a say
    rows = pd.concat([last_rows, pd.DataFrame([*dead, cut])], ignore_index=True)
    summary = front.summarise(rows)
    for cost in front.COSTS:
        on = summary["arm"][front.fronts(summary, cost)]
        assert not {"dead", "cut"} & set(on)
        assert "dns" in set(on), "it does not dominate either"
        assert not {"dead", "cut"} & set(attainment.points(rows, cost)["arm"])
    assert not {"dead", "cut"} & {
        member[:4].strip("{}0") for member in front.members_on_front(rows)
    }
    assert hypervolumes(rows)["arm"].tolist() == hypervolumes(last_rows)["arm"].tolist()
    pd.testing.assert_frame_equal(hypervolumes(rows), hypervolumes(last_rows))
    assert front.left_out(rows) == [
        "3 of 9 networks have no FLOPs left, and are no points of a front."
    ]
    assert front.left_out(last_rows) == []


@pytest.mark.parametrize("accuracy", [math.inf, math.nan])
def test_an_accuracy_that_is_no_finite_number_is_no_point_and_said(
    last_rows: pd.DataFrame, accuracy: float
) -> None:
    odd = row("odd", "{}", 0, accuracy, 0.9, 10)
    rows = pd.concat([last_rows, pd.DataFrame([odd])], ignore_index=True)
    summary = front.summarise(rows)
    assert set(summary["arm"][front.fronts(summary)]) == {"whole", "dns"}
    pd.testing.assert_frame_equal(hypervolumes(rows), hypervolumes(last_rows))
    (said,) = front.left_out(rows)
    assert said.startswith("1 of 7 networks have a validation accuracy that is no finite number")


def test_equal_accuracies_at_equal_flops_all_belong(last_rows: pd.DataFrame) -> None:
    twins = pd.DataFrame([row(arm, "{}", 0, 0.95, 0.9, 100) for arm in ("one", "two")])
    summary = front.summarise(pd.concat([last_rows, twins], ignore_index=True))
    assert {"one", "two"} <= set(summary["arm"][front.fronts(summary, "flops_shrunk")])


def test_kept_are_the_networks_of_both_fronts_and_not_only_beside_sanity_checks(
    last_rows: pd.DataFrame,
) -> None:
    sparse = row("sparse", "{}", 0, 0.95, 0.9, 40, flops_shrunk=900)
    small = row("small", "{}", 0, 0.93, 0.9, 200, flops_shrunk=60)
    better = row(
        "small, scratch",
        '{"of": "small"}',
        0,
        0.96,
        0.9,
        30,
        flops_shrunk=30,
        algorithm="sanity",
        control=True,
    )
    alone = pd.DataFrame([sparse, small])
    assert front.members_on_front(alone) == {"sparse{}0", "small{}0"}
    both = pd.DataFrame([sparse, small, better])
    assert front.members_on_front(both) >= {"sparse{}0", "small{}0"}, (
        "a check dominates them, and they may be picked"
    )


def test_operations_without_a_formula_are_named_once(last_rows: pd.DataFrame) -> None:
    rows = last_rows.assign(unknown_ops=["", "linalg_qr,fft_r2c", "fft_r2c", *[""] * 4])
    assert front.unknown_operations(rows) == ["fft_r2c", "linalg_qr"]
    assert front.unknown_operations(last_rows) == []
    assert front.uncounted([]) == ""
    assert "leave out what has no formula here: fft_r2c, linalg_qr. Every" in front.uncounted(
        front.unknown_operations(rows)
    )
    told = lines(front.summarise(rows), "arm", "hp")
    assert told['dns{"sparsity":0.9}']["unknown_ops"] == "fft_r2c"
    assert told['dns{"sparsity":0.5}']["unknown_ops"] == ""
