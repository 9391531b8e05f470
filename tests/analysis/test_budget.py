"""Accuracy over the budget, on rows made by hand: which rung is the best, what it would have
gained, what is left out.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats
from test_front import Guarded
from test_report import FOOTER, Visible, measured, rows, save

from prunefront.analysis import report
from prunefront.analysis.draw import axes, render
from prunefront.analysis.points import front
from prunefront.analysis.rows import table
from prunefront.analysis.sections import budget


def member(
    sparsity: float, seed: int, accuracies: list[float], arm: str = "slow", **more: Any
) -> list[dict[str, Any]]:
    """A member's rows, one for each accuracy; its FLOPs halve from rung to rung, test data are at
    the last rung only.
    """
    point = measured("dns", sparsity, seed, "digits") | {
        "arm": arm,
        "member": f"{arm}{sparsity}{seed}",
    }
    found = []
    for rung, accuracy in enumerate(accuracies, 1):
        row = point | {
            "rung": rung,
            "epochs": 10.0 * rung,
            "flops_masked": round(1e6 * (1 - sparsity)) >> rung,
        }
        found.append(
            row | {"accuracy_valid": accuracy, "accuracy_test": None, "status": "running"} | more
        )
    found[-1] |= {"status": "done", "accuracy_test": 0.5} | more
    return found


def over(found: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The members' rows that count, the curves, and how many members lack a rung."""
    frame = pd.DataFrame(found)
    seen, lacking = budget.measured(frame, front.summarise(table.last(frame)))
    return seen, budget.curves(seen), lacking


def many(arms: int, levels: int) -> list[dict[str, Any]]:
    """Arms that lose the more the later their name, at their fifth setting most."""
    return [
        row
        for arm in range(arms)
        for level in range(levels)
        for seed in range(2)
        for row in member(
            0.1 + level / 100, seed, [0.9, 0.9 - 0.01 * arm - 0.002 * (level == 4)], f"arm{arm}"
        )
    ]


def page(folder: Path, found: list[dict[str, Any]]) -> str:
    table.write(
        save(folder, rows()) / "rows" / "slow.parquet", found, {"sparsity": pa.float64()}, FOOTER
    )
    return report.build(folder).read_text()


def test_the_best_rung_is_that_of_the_largest_mean() -> None:
    found = [
        *member(0.5, 0, [0.7, 0.9, 0.8]),
        *member(0.5, 1, [0.8, 0.94, 0.9]),
        *member(0.9, 0, [0.6, 0.7, 0.7]),
    ]
    seen, lines, lacking = over([*found, *member(0.99, 0, [0.3])])
    assert (len(seen), lacking) == (9, 0)
    assert lines["hp_sparsity"].tolist() == [0.9] * 3 + [0.5] * 3, (
        "from the fewest FLOPs to the most"
    )
    assert lines["best"].tolist() == [False, False, True, False, True, False], (
        "the last rung wins ties"
    )
    assert lines["last"].tolist() == [False, False, True] * 2
    assert lines["accuracy_valid"].tolist() == pytest.approx([0.6, 0.7, 0.7, 0.75, 0.92, 0.85])
    assert lines["n"].tolist() == [1, 1, 1, 2, 2, 2]


def test_early_stopping_is_compared_within_each_seed() -> None:
    losses = (0.05, 0.07, 0.03)
    found = [
        row
        for seed, loss in enumerate(losses)
        for row in member(0.5, seed, [0.6, 0.9 + seed / 50, 0.9 + seed / 50 - loss])
    ]
    seen, lines, _ = over([*found, *member(0.9, 0, [0.5, 0.6]), *member(0.8, 0, [0.9, 0.6])])
    first, second = budget.early(seen.sample(frac=1, random_state=0), lines).to_dict("records")
    assert (second["hp"], second["n"], second["rung_best"], second["rung_last"]) == (
        '{"sparsity": 0.5}',
        3,
        2,
        3,
    )
    interval = stats.ttest_1samp(losses, 0).confidence_interval(0.95)
    assert second["difference"] == pytest.approx(0.05)
    assert [second["difference_low"], second["difference_high"]] == pytest.approx(
        [interval.low, interval.high]
    )
    assert (second["epochs_best"], second["epochs_last"]) == (20.0, 30.0)
    assert (second["flops_masked_best"], second["flops_masked_last"]) == (125000, 62500)
    assert first["difference"] == pytest.approx(0.3), "the largest comes first"
    assert math.isnan(first["difference_low"]), "one seed has no interval"


def test_members_that_lack_a_rung_or_did_not_finish_are_left_out() -> None:
    whole = member(0.5, 0, [0.7, 0.9, 0.8])
    unknown, short = member(0.5, 1, [0.1, math.nan, 0.1]), member(0.5, 2, [0.1, 0.1, 0.1])[1:]
    lost = member(0.5, 3, [0.1, 0.1, math.nan], status="diverged")
    stopped = member(0.5, 4, [0.1, 0.1], status="stopped")
    seen, lines, lacking = over([*whole, *unknown, *short, *lost, *stopped])
    assert set(seen["seed"]) == {0}
    assert lacking == 2
    assert lines["accuracy_valid"].tolist() == [0.7, 0.9, 0.8]


def test_test_data_is_not_read() -> None:
    frame = pd.DataFrame(many(2, 3))
    points = front.summarise(table.last(frame))
    seen, _ = budget.measured(Guarded(frame), points)
    assert not [name for name in seen if "_test" in str(name)]
    lines = budget.curves(seen)
    poisoned = frame.assign(accuracy_test=-frame["accuracy_valid"])
    other, _ = budget.measured(poisoned, front.summarise(table.last(poisoned)))
    pd.testing.assert_frame_equal(pd.DataFrame(lines), budget.curves(other))
    assert len(budget.early(seen, lines)) == 3


def test_arms_that_lose_most_are_drawn_and_the_setting_that_does() -> None:
    _, lines, _ = over(many(8, 30))
    shown = budget.shown(lines)
    assert shown["arm"].unique().tolist() == [f"arm{i}" for i in range(7, 1, -1)]
    for _, group in shown.groupby("arm"):
        assert group["hp"].nunique() == budget.LINES
        assert {0.1, 0.14, 0.39} <= set(group["hp_sparsity"].round(2))
    few = lines[lines["arm"] == "arm0"].groupby("hp").head(2).iloc[:4]
    assert len(budget.shown(few)) == 4


def test_epochs_are_logarithmic_where_they_span_more_than_a_factor_ten() -> None:
    _, lines, _ = over(many(1, 2))
    for last, kind in ((90.0, "linear"), (110.0, "log")):
        spread = lines.assign(epochs=lines["epochs"].where(~lines["last"], last))
        panel = budget.chart(spread, "x")["concat"][0]
        assert panel["layer"][0]["encoding"]["x"]["scale"]["type"] == kind
        drawn = render.svg(budget.chart(spread, "x"))
        assert "sparsity 0.1 (blue) to 0.11 (ochre)" in drawn
    assert axes.kind(pd.Series([0.0, 50.0])) == "linear", "epoch 0 has no logarithm"


def test_ticks_are_round_numbers_inside_the_range() -> None:
    assert axes.round_ticks(pd.Series([3.0, 60.0])) == [5.0, 10.0, 20.0, 50.0]
    assert axes.round_ticks(pd.Series([0.003, 60.0])) == [0.01, 0.1, 1.0, 10.0]
    assert axes.round_ticks(pd.Series([6.0, 7.0])) == [6.0, 7.0]


def test_the_page_names_early_stopping_and_its_selection(tmp_path: Path) -> None:
    noise = random.Random(0)
    found = [
        row for s in range(3) for row in member(0.5, s, [0.9 + noise.gauss(0, 0.01), 0.8])
    ] + member(0.9, 5, [0.5, 0.6])
    text = page(tmp_path, found)
    seen = Visible.of(text)
    assert 'id="budget"' in text
    for told in (
        "Over the budget",
        "Early stopping",
        "In 1 of 2 settings",
        "flattered by selection",
        "slowsparsity 0.5312",
    ):
        assert told in seen
    assert seen.index("Operating points") < seen.index("Over the budget") < seen.index("Checks")
    assert "nan" not in seen.lower().replace("provenance", "")
    written = pd.read_csv(tmp_path / "report" / "budget.csv")
    mean = (
        sum(
            row["accuracy_valid"] for row in found if row["rung"] == 1 and row["hp_sparsity"] == 0.5
        )
        / 3
    )
    (best,) = written[written["best"] & (written["hp"] == json.dumps({"sparsity": 0.5}))].to_dict(
        "records"
    )
    assert best["accuracy_valid"] == pytest.approx(mean)
    assert "accuracy_test" not in written


def test_a_study_of_one_rung_has_no_section(tmp_path: Path) -> None:
    page(tmp_path, member(0.5, 0, [0.9, 0.8]))
    (tmp_path / "rows" / "slow.parquet").unlink()
    assert "Over the budget" not in Visible.of(report.build(tmp_path).read_text())
    assert not (tmp_path / "report" / "budget.csv").exists()


def test_a_study_that_loses_nothing_says_so(tmp_path: Path) -> None:
    seen = Visible.of(
        page(
            tmp_path,
            [
                *member(0.5, 0, [0.8, 0.9]),
                *member(0.5, 1, [0.8, math.nan]),
                *member(0.9, 0, [0.6, 0.6]),
            ],
        )
    )
    assert "The last rung is the best one of each of 2 settings." in seen
    assert "Left out: 1 members that lack a rung" in seen
