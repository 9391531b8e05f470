"""Certificates on rows made by hand: what is shown of gaps, and that nothing about them is hidden
or rounded away.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from test_front import Guarded
from test_report import FOOTER, Visible, measured, rows, save

from prunefront.analysis import report
from prunefront.analysis.draw import render
from prunefront.analysis.points import front
from prunefront.analysis.rows import table
from prunefront.analysis.sections import certificates

NAN = math.nan
HP_TYPES = {"sparsity": pa.float64(), "beta": pa.float64(), "rho": pa.float64()}


def solved(
    beta: float, seed: int, gaps: list[float], arm: str = "solver", **more: Any
) -> list[dict[str, Any]]:
    """A member's rows, one for each gap; primal 2, test data at the last rung only."""
    point = measured("dns", 0.5, seed, "digits") | {
        "arm": arm,
        "member": f"{arm}{beta}{seed}",
        "hp_sparsity": None,
    }
    point |= {
        "hp": json.dumps({"beta": beta}),
        "hp_beta": beta,
        "m_violation": 0.25,
        "m_stationarity": beta,
        "m_neurons": 7.0,
    }
    found = []
    for rung, gap in enumerate(gaps, 1):
        row = point | {
            "rung": rung,
            "epochs": 10.0 * rung,
            "seconds": 0.5 * rung,
            "status": "running",
            "accuracy_test": None,
        }
        found.append(row | {"m_primal": 2.0, "m_gap": gap, "m_dual": 2.0 - gap} | more)
    found[-1] |= {"status": "done", "accuracy_test": 0.9} | more
    return found


def curves(found: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(found)
    return certificates.curves(certificates.measured(frame, front.summarise(table.last(frame))))


def page(folder: Path, found: list[dict[str, Any]]) -> str:
    table.write(save(folder, rows()) / "rows" / "solver.parquet", found, HP_TYPES, FOOTER)
    return report.build(folder).read_text()


def values(picture: render.Picture) -> list[dict[str, Any]]:
    [points] = picture["datasets"].values()
    return points


def test_lines_are_medians_and_the_largest_over_members() -> None:
    found = [
        row for seed, gap in enumerate((0.2, 0.02, 0.04)) for row in solved(1.0, seed, [1.0, gap])
    ]
    found += solved(0.1, 0, [0.5, NAN])
    lines = curves(found)
    assert lines[["hp_beta", "rung", "last"]].to_numpy().tolist() == [
        [0.1, 1, 0],
        [0.1, 2, 1],
        [1, 1, 0],
        [1, 2, 1],
    ]
    last = lines.iloc[-1]
    assert (last["n"], last["known"], last["seconds"], last["neurons"]) == (3, 3, 1.0, 7.0)
    assert (last["relative"], last["relative_worst"]) == (0.02, 0.1)
    assert (last["primal"], last["dual"]) == (2.0, 1.96)
    assert (last["violation_worst"], last["stationarity_worst"]) == (0.25, 1.0)
    assert math.isnan(last["gates"]), "a column that the rows lack"
    assert (lines["n"][1], lines["known"][1]) == (1, 0)


def test_a_gap_is_relative_to_a_positive_primal_only() -> None:
    found = [
        *solved(1.0, 0, [0.5], m_primal=0.0),
        *solved(2.0, 0, [0.5], m_primal=-1.0),
        *solved(3.0, 0, [0.5]),
    ]
    assert curves(found)["relative"].fillna(-9.0).tolist() == [-9.0, -9.0, 0.25]
    assert certificates.drawable(curves(found)).tolist() == [False, False, True]
    assert not certificates.drawable(curves(solved(1.0, 0, [math.inf]))).any()
    assert not certificates.drawable(curves(solved(1.0, 0, [0.1], seconds=0.0))).any()


def test_test_data_is_not_read() -> None:
    frame = pd.DataFrame([*solved(1.0, 0, [0.5, 0.1]), *rows()])
    summary = front.summarise(table.last(frame))
    assert len(certificates.measured(Guarded(frame), summary)) == 2
    assert not [name for name in certificates.measured(frame, summary) if "_test" in str(name)]


def test_gaps_are_drawn_as_small_as_they_are_and_rounding_at_the_foot() -> None:
    found = [
        row
        for beta, gap in enumerate((1.2345e-15, 0.0, -3e-17, 4e-16, 5e-3), 1)
        for row in solved(beta, 0, [1.0, gap])
    ]
    lines = curves(found)
    drawn = [point for point in values(certificates.chart(lines, "x")) if point["rung"] == 2]
    assert [point["rounded"] for point in drawn] == [False, True, True, True, False]
    assert drawn[0]["place"] == drawn[0]["relative"] == 1.2345e-15 / 2
    foot = certificates.ROUNDING
    assert [point["place"] for point in drawn[1:]] == [foot, foot, foot, 2.5e-3]
    assert [point["relative"] for point in drawn[1:4]] == [0.0, -1.5e-17, 2e-16], (
        "what is at the foot is told"
    )
    assert "3 of 10 points at or below rounding" in render.svg(certificates.chart(lines, "x"))
    far = curves([*solved(1, 0, [1e-6]), *solved(2, 0, [-1e-20])])
    assert [point["place"] for point in values(certificates.chart(far, "x"))] == pytest.approx(
        [5e-7, 5e-8]
    )
    assert "rounding" not in render.svg(certificates.chart(far[:1], "x"))


def test_colours_are_a_scale_where_one_number_varies() -> None:
    found = [
        row
        for arm in ("solver", "other")
        for beta in (0.01, 1.0)
        for row in solved(beta, 0, [0.5, 0.1], arm)
    ]
    scaled = certificates.chart(curves(found), "x")["layer"][0]["encoding"]["color"]
    assert (scaled["field"], scaled["scale"]["type"]) == ("hp_beta", "log")
    for place, row in enumerate(found):
        row["hp_rho"] = float(place // 2)
    assert certificates.chart(curves(found), "x")["layer"][0]["encoding"]["color"]["field"] == "arm"


def test_of_many_settings_some_are_shown_and_the_worst_is_one_of_them() -> None:
    every = curves(
        [row for i in range(100) for row in solved(float(i), 0, [0.9, 0.3 if i == 41 else 0.1])]
    )
    shown = certificates.shown(every)
    betas = shown["hp_beta"].unique().tolist()
    assert betas == sorted(betas)
    assert len(betas) == certificates.SETTINGS_SHOWN
    assert {0.0, 41.0, 99.0} <= set(betas)
    assert len(shown) == 2 * len(betas)
    assert certificates.shown(every, 100).equals(every)


def test_the_page_shows_gaps_and_what_they_do_not_say(tmp_path: Path) -> None:
    found = [
        row
        for beta in (0.001, 0.01, 0.1)
        for seed in range(3)
        for row in solved(beta, seed, [0.5, 2e-7 * (seed + 1)])
    ]
    found += [*solved(1.0, 0, [0.5, -1e-17]), *solved(1.0, 1, [0.5, math.inf])]
    found += [row | {"status": "running", "accuracy_test": None} for row in solved(1.0, 2, [0.5])]
    text = page(tmp_path, found)
    seen = Visible.of(text)
    assert 'id="certificates"' in text
    for told in ("those patterns only", "a small gap says nothing about accuracy on new data", "beta 0.001",
                 "at or below rounding (2.2e-16), over members and rungs: 1 of 22, the least -5e-18",
                 "Not on the axes: 1 of 22 measurements", "hold certificates but are not done, and left out here: 1",
                 "2e-073e-07", "∞"):  # fmt: skip
        assert told in seen
    assert "nan" not in seen.lower().replace("provenance", "")
    written = pd.read_csv(tmp_path / "report" / "certificates.csv")
    assert len(written) == 8
    assert written.loc[written["last"], "relative"].tolist()[:3] == [2e-7] * 3


def test_a_study_without_certificates_has_no_section(tmp_path: Path) -> None:
    page(tmp_path, solved(1.0, 0, [0.5]))
    (tmp_path / "rows" / "solver.parquet").unlink()
    assert "ertificate" not in Visible.of(report.build(tmp_path).read_text())
    assert not (tmp_path / "report" / "certificates.csv").exists()


def test_gaps_of_which_none_can_be_drawn_are_listed(tmp_path: Path) -> None:
    text = page(tmp_path, [*solved(1.0, 0, [math.inf]), *solved(1.0, 1, [NAN])])
    assert 'id="certificates"' not in text
    assert "Not on the axes: 2 of 2 measurements" in Visible.of(text)
    assert "1 of 2" in Visible.of(text)


odd = st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
number = st.one_of(odd, st.floats(-1e9, 1e9), st.floats(1e-18, 1e3))
seconds = st.one_of(st.sampled_from([math.nan, 0.0]), st.floats(1e-4, 1e6))


@settings(
    max_examples=15, deadline=None, phases=[Phase.generate]
)  # pictures are too slow to shrink an example
@given(st.lists(st.tuples(number, number, seconds, st.integers(0, 2)), min_size=1, max_size=8))
def test_whatever_the_numbers_are_the_section_is_drawn(
    sample: list[tuple[float, float, float, int]],
) -> None:
    found = [
        row | {"m_primal": primal, "seconds": seconds}
        for seed, (primal, gap, seconds, beta) in enumerate(sample)
        for row in solved(float(beta), seed, [gap, gap / 3])
    ]
    rows = pd.DataFrame(found)
    figures = certificates.proofs(rows, front.summarise(table.last(rows)))
    if figures is None:
        assert certificates.holding(rows).empty
        return
    drawn = figures.shown[certificates.drawable(figures.shown)]
    drawings = {}
    if len(drawn):
        drawings["certificates"] = render.svg(certificates.chart(drawn, "x"))
    text = "".join(certificates.told(figures, drawings))
    assert ("<svg" in text) == bool(drawings)
    assert "nan" not in Visible.of(text).lower()
