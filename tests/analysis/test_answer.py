"""What a study answers at a glance, against loops over the rows; what layers keep."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from test_report import FLOPS, FOOTER, Visible, measured, rows, save

from prunefront.analysis import report
from prunefront.analysis.draw import render
from prunefront.analysis.rows import table
from prunefront.analysis.sections import answer, fronts, layers, sanity


def test_every_figure_of_an_arm_is_a_loop_over_its_rows():
    last = pd.DataFrame(rows())
    found = answer.arms(last, "flops_masked", at=[0.1]).set_index("arm").to_dict("index")
    dense = {row["seed"]: row["accuracy_valid"] for row in rows() if row["arm"] == "dense"}
    for arm in ("dns", "magnitude", "chance"):
        tests, least, volumes, spent = [], [], [], []
        for seed in (0, 1, 2):
            own = sorted(
                (r["flops_masked"], r["accuracy_valid"], r["accuracy_test"])
                for r in rows()
                if r["arm"] == arm and r["seed"] == seed
            )
            front: list[tuple[float, float, float]] = []
            for (
                cost,
                valid,
                test,
            ) in own:  # from the cheapest: what is more accurate than all cheaper ones
                if not front or valid > front[-1][1]:
                    front.append((cost, valid, test))
            wanted = 0.1 * FLOPS
            place = sum(point[0] <= wanted for point in front)
            below, above = front[place - 1], front[place]
            share = math.log(wanted / below[0]) / math.log(above[0] / below[0])
            tests.append(below[2] + share * (above[2] - below[2]))
            enough = [cost for cost, valid, _ in own if valid >= dense[seed] - 0.02]
            least.append(min(enough) if enough else math.nan)
            edges = [cost / FLOPS for cost, _, _ in front] + [1.0]
            volumes.append(
                sum((edges[i + 1] - edges[i]) * valid for i, (_, valid, _) in enumerate(front))
            )
            spent.append(
                sum(r["train_flops"] for r in rows() if r["arm"] == arm and r["seed"] == seed)
            )
        line = found[arm]
        assert line["accuracy_at_10"] == pytest.approx(statistics.mean(tests), rel=1e-12)
        assert line["accuracy_at_10_std"] == pytest.approx(statistics.stdev(tests), rel=1e-9)
        assert line["flops_within_2"] == pytest.approx(
            statistics.mean(least), rel=1e-12, nan_ok=True
        )
        assert line["hypervolume"] == pytest.approx(statistics.mean(volumes), rel=1e-12)
        assert line["train_flops"] == statistics.mean(spent)
        assert (line["seeds"], line["networks"]) == (3, 5)
    assert not math.isnan(found["dns"]["flops_within_2"])
    assert math.isnan(found["dense"]["accuracy_at_10"]), "the dense network is not there at a tenth"


def test_accuracy_is_told_where_two_arms_get_in_every_seed():
    frame = pd.DataFrame(rows())
    assert answer.shares(frame, "flops_masked") == [0.25, 0.1, 0.05], (
        "at half the FLOPs are not all seeds"
    )
    short = frame[
        (frame["arm"] == "dns")
        | ((frame["arm"] == "magnitude") & (frame["sparsity"] < 0.85))
        | (frame["arm"] == "dense")
    ]
    assert answer.shares(short, "flops_masked") == [0.25]
    lacking = short[
        ~((short["arm"] == "magnitude") & (short["seed"] == 2) & (short["sparsity"] > 0.6))
    ]
    assert answer.shares(lacking, "flops_masked") == []


def test_the_page_answers_first_and_names_no_winner_without_an_interval(tmp_path: Path):
    seen = Visible.of(report.build(save(tmp_path, rows())).read_text())
    assert (
        seen.index("Which arm, at which budget")
        < seen.index("Fronts")
        < seen.index("Operating points")
    )
    assert "Test accuracy minus that of chance, at equal masked FLOPs" in seen
    assert "dns: better at" in seen
    told = (tmp_path / "report" / "arms.md").read_text()
    for line in answer.arms(pd.DataFrame(rows()), "flops_masked").to_dict("records"):
        assert f"{100 * line['accuracy_at_25']:.2f}" in told or math.isnan(line["accuracy_at_25"])
    alone = Visible.of(report.build(save(tmp_path / "one", rows(seeds=(0,)))).read_text())
    assert "No difference between arms was tested: " in alone
    assert "a comparison needs two seeds that both have; got 1" in alone
    assert "bands say how seeds differ, and need at least 2 of them; got 1" in alone
    assert "better at" not in alone


def checked(accuracy: float) -> list[dict[str, object]]:
    """The rows of three seeds of a study with random masks for one setting, less accurate than it."""
    hp = json.dumps({"sparsity": 0.9})
    of = {
        "hp_of": f"dns {hp}",
        "hp_check": "random",
        "algorithm": "sanity",
        "control": True,
        "arm": "dns, random masks",
    }
    own = [row for row in rows() if row["arm"] == "dns" and row["hp"] == hp]
    return [
        {
            **row,
            **of,
            "hp": json.dumps({"of": f"dns {hp}"}),
            "member": f"check{row['seed']}",
            "accuracy_test": row["accuracy_test"] - accuracy * (1 + row["seed"] / 10),
        }
        for row in own
    ]


def test_sanity_checks_have_their_own_figure_and_table_and_are_in_no_ranking(tmp_path: Path):
    last = pd.DataFrame([*rows(), *checked(0.05)])
    [line] = sanity.checked(last).to_dict("records")
    assert (line["arm"], line["setting"], line["check"]) == ("dns", "sparsity 0.9", "random")
    assert line["difference_test"] == pytest.approx(0.055)
    assert line["difference_test_verdict"] == "better"
    hyper = {"sparsity": pa.float64(), "of": pa.string(), "check": pa.string()}
    table.write(save(tmp_path, rows()) / "rows" / "checks.parquet", checked(0.05), hyper, FOOTER)
    page = report.build(tmp_path).read_text()
    assert "+5.50" in Visible.of(page)
    assert 'id="checks"' in page
    assert pd.read_csv(tmp_path / "report" / "checks.csv")["check"].tolist() == ["random"]
    assert "random masks" not in set(answer.arms(last)["arm"])
    assert not sanity.checked(pd.DataFrame(rows())).size
    assert fronts.gathered(last)["arm"].tolist()[-3:] == ["random masks"] * 3


def test_layers_keep_what_the_rows_say():
    kept = {0: '{"a":[5,10],"b":[1,4]}', 1: '{"a":[7,10],"b":[3,4]}', 2: '{"a":[6,10],"b":[2,4]}'}
    one = [{**measured("dns", 0.5, seed, "x"), "layers": text} for seed, text in kept.items()]
    found = layers.shares(
        pd.DataFrame([*one, *({**row, "layers": None} for row in rows() if row["arm"] == "dense")])
    )
    assert found[["layer", "place"]].to_numpy().tolist() == [["a", 1], ["b", 2]]
    assert found["kept"].tolist() == pytest.approx([0.6, 0.5])
    assert found["n"].tolist() == [3, 3]
    drawn = render.svg(layers.chart(found, "x"))
    assert "parameters kept, layer by layer" in drawn
