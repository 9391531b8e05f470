"""Reports of synthetic studies, written through `table.write` and read back as a user would."""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jsonschema import ValidationError

from prunefront.analysis import page, report
from prunefront.analysis.draw import render
from prunefront.analysis.inference import attainment
from prunefront.analysis.points import front
from prunefront.analysis.points import words as wording
from prunefront.analysis.rows import table
from prunefront.analysis.sections import answer, bands, fronts, headline, searches, stopping
from prunefront.search import cli
from prunefront.search.console import Console

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
FLOPS, PARAMS = 2 * 50890, 50890


def measured(arm: str, sparsity: float, seed: int, study: str) -> dict[str, Any]:
    """A plausible last row; `chance` collapses to guessing above 90 %, and `magnitude` at 98 %."""
    noise = random.Random(f"{arm}{sparsity}{seed}")
    loss = {"dense": 0.0, "dns": 0.05, "magnitude": 0.12, "chance": 0.5}[arm] * sparsity**4
    collapsed = (arm == "chance" and sparsity > 0.9) or (arm == "magnitude" and sparsity == 0.98)
    valid = 0.1 if collapsed else 0.975 - loss + noise.gauss(0, 0.003)
    kept = round(PARAMS * (1 - sparsity) * (1 + noise.uniform(-0.01, 0.01))) if sparsity else PARAMS
    hp = json.dumps({"sparsity": sparsity}) if sparsity else "{}"
    return {
        "study": study, "arm": arm, "control": arm in ("dense", "chance"), "algorithm": arm, "model": "mlp",
        "dataset": "digits", "seed": seed, "member": f"{arm}-{sparsity}-{seed}", "cohort": arm, "hp": hp, "rung": 2,
        "epochs": 40.0, "steps": 1600, "examples": 51200, "seconds": 1.5, "train_flops": 3 * FLOPS * 51200,
        "search_flops": 0, "stacked": arm != "dense", "status": "done", "reason": None,
        "loss_train": 0.01, "accuracy_train": 1.0,
        "loss_valid": 0.1, "accuracy_valid": valid, "loss_test": 0.2, "accuracy_test": valid - 0.01,
        "sparsity": 1 - kept / PARAMS, "flops_dense": FLOPS, "flops_masked": kept * 2,
        "flops_shrunk": round(FLOPS * (1 - sparsity / 3)), "params_dense": PARAMS,
        "params_kept": kept, "params_shrunk": round(PARAMS * (1 - sparsity / 3)),
        "layers_dead": int(collapsed), "unknown_ops": "", "hp_sparsity": sparsity if sparsity else None,
    }  # fmt: skip


def rows(study: str = "digits", seeds: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, Any]]:
    arms = {"dense": (0.0,), "dns": SPARSITIES, "magnitude": SPARSITIES, "chance": SPARSITIES}
    return [
        measured(arm, sparsity, seed, study)
        for arm, levels in arms.items()
        for sparsity in levels
        for seed in seeds
    ]


FOOTER = {
    "commit": "abc1234",
    "versions": {"torch": "2.6"},
    "device": "cpu",
    "task": {"epochs": 40},
    "data": "d1g",
}


def save(folder: Path, found: list[dict[str, Any]]) -> Path:
    """A study's folder with one file for each arm."""
    for arm in {row["arm"] for row in found}:
        part = [row for row in found if row["arm"] == arm]
        table.write(folder / "rows" / f"{arm}.parquet", part, {"sparsity": pa.float64()}, FOOTER)
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return save(tmp_path, rows())


def test_files_in_which_nothing_was_measured_say_nothing_of_the_machine(tmp_path: Path) -> None:
    """The driver writes the rows of members that were skipped or that failed, with threads of its
    own.
    """
    folder = save(tmp_path, rows())
    before = table.footers(folder)
    driver = {**FOOTER, "device": "cpu, 9 threads"}
    for status in ("skipped", "failed"):
        ends = [{**row, "arm": status, "status": status} for row in rows()[:2]]
        table.write(folder / "rows" / f"{status}.parquet", ends, {"sparsity": pa.float64()}, driver)
    assert table.footers(folder) == before


def searched(sparsity: float, seed: int, counts: range, **more: Any) -> list[dict[str, Any]]:
    """Rows of a search over candidates of every count; which one is best changes about ln N times,
    and nothing follows.
    """
    noise = random.Random(f"{sparsity}{seed}")
    scores = [noise.gauss(2.4, 0.1) for _ in range(counts[-1])]
    accuracies = [0.97 - sparsity / 50 + noise.gauss(0, 0.004) for _ in scores]
    found = []
    for count in counts:
        best = min(range(count), key=lambda i: scores[i])
        hp = json.dumps(
            {
                "candidates": count,
                "sparsity": sparsity,
                **{n[3:]: v for n, v in more.items() if n.startswith("hp_")},
            }
        )
        kept, spent = round(PARAMS * (1 - sparsity) ** 1.5), 1024 * count * FLOPS
        row = measured("dense", 0.0, seed, "digits") | {
            "arm": "search",
            "algorithm": "weedout",
            "control": count == 1,
            "hp": hp,
        }
        row |= {
            "member": f"{hp}{seed}",
            "accuracy_valid": accuracies[best],
            "accuracy_test": accuracies[best] - 0.01,
        }
        row |= {
            "sparsity": 1 - kept / PARAMS,
            "params_kept": kept,
            "flops_masked": 2 * kept,
            "flops_shrunk": 2 * kept,
        }
        row |= {
            "train_flops": row["train_flops"] + spent,
            "search_flops": spent,
            "m_score": scores[best],
        }
        row |= {
            "m_winner": best + 1.0,
            "hp_sparsity": sparsity,
            "hp_candidates": count,
            "hp_granularity": "node",
            **more,
        }
        found.append(row)
    return found


COUNTS = range(1, 101)
HP_TYPES = {
    "sparsity": pa.float64(),
    "candidates": pa.int64(),
    "granularity": pa.string(),
    "pick": pa.string(),
}


@pytest.fixture
def search(study: Path) -> Path:
    """A study with a search over every count to 100, at two sparsities, in three seeds."""
    found = [
        row
        for sparsity in (0.5, 0.9)
        for seed in range(3)
        for row in searched(sparsity, seed, COUNTS)
    ]
    table.write(study / "rows" / "search.parquet", found, HP_TYPES, FOOTER)
    return study


class Tags(HTMLParser):
    """What a page would fetch, and whether its blocks are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.opened, self.closed = 0, 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened += tag in BLOCKS
        self.fetched += [
            f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "xlink:href")
        ]

    def handle_endtag(self, tag: str) -> None:
        self.closed += tag in BLOCKS


BLOCKS = (
    "html",
    "head",
    "body",
    "table",
    "tr",
    "td",
    "th",
    "figure",
    "script",
    "style",
    "dl",
    "ul",
    "li",
    "p",
    "svg",
)


class Visible(HTMLParser):
    """The text of a page as a reader sees it, without scripts and pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.hidden = "", 0

    @classmethod
    def of(cls, page: str) -> str:
        reader = cls()
        reader.feed(page)
        return reader.text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("script", "style", "svg")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("script", "style", "svg")

    def handle_data(self, data: str) -> None:
        self.text += "" if self.hidden else data


def test_page_needs_nothing_from_outside(study: Path) -> None:
    page = report.build(study)
    assert page == study / "report" / "report.html"
    text = page.read_text()
    seen = Tags()
    seen.feed(text)
    assert not seen.fetched
    assert seen.opened == seen.closed
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "window.vegaEmbed=" in text.replace(" ", "")
    assert "nan" not in Visible.of(text).lower().replace("provenance", "")
    drawn = {
        f"{name}.{kind}"
        for name in ("front", "flops_shrunk", "attained", "differences", "compute")
        for kind in ("svg", "pdf")
    }
    assert {path.name for path in page.parent.iterdir()} == drawn | {
        "report.html",
        "front.png",
        "front.csv",
        "arms.csv",
        "arms.md",
    }


def test_pictures_are_drawn(study: Path) -> None:
    folder = report.build(study).parent
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "front.png").read_bytes()) > 20_000
    drawing = (folder / "front.svg").read_text()
    for text in (
        "dns",
        "magnitude",
        "chance (control)",
        "dense (control)",
        "parent",
        "Mean over 3 seeds",
    ):
        assert text in drawing
    assert "axis squeezed below 80%; 5 of 16 points are there" in drawing


def test_every_chart_is_valid_vega_lite(search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, render.Picture] = {}
    monkeypatch.setattr(page, "page", lambda study, body, pictures: drawn.update(pictures) or body)
    report.build(search)
    assert drawn.keys() == {
        "flops_masked",
        "flops_shrunk",
        "attained",
        "differences",
        "compute",
        "search",
    }
    for picture in drawn.values():
        alt.Chart.from_dict(picture)
    with pytest.raises(ValidationError, match="not of type 'number'"):
        alt.Chart.from_dict({**drawn["flops_masked"], "width": "wide"})


def test_every_figure_of_the_csv_comes_from_the_rows(study: Path) -> None:
    report.build(study)
    written = pd.read_csv(study / "report" / "front.csv").set_index(["arm", "hp"])
    assert len(written) == 16
    for (arm, hp), line in written.iterrows():  # pyright: ignore
        part = [row for row in rows() if row["arm"] == arm and row["hp"] == hp]
        dense = {row["seed"]: row for row in rows() if row["arm"] == "dense"}
        assert line["done"] == len(part) == 3
        for name in (
            "accuracy_valid",
            "accuracy_test",
            "sparsity",
            "flops_masked",
            "flops_shrunk",
            "params_kept",
        ):
            values = [row[name] for row in part]
            assert line[name] == pytest.approx(statistics.mean(values))
            assert line[f"{name}_std"] == pytest.approx(
                statistics.stdev(values), rel=1e-9, abs=1e-12
            )
        total = {
            name: sum(row[name] for row in part)
            for name in part[0]
            if name.startswith(("flops", "params"))
        }
        assert line["compression"] == pytest.approx(total["params_dense"] / total["params_kept"])
        assert line["speedup_masked"] == pytest.approx(total["flops_dense"] / total["flops_masked"])
        assert line["speedup_shrunk"] == pytest.approx(total["flops_dense"] / total["flops_shrunk"])
        gains = [row["accuracy_valid"] - dense[row["seed"]]["accuracy_valid"] for row in part]
        assert line["difference_valid"] == pytest.approx(statistics.mean(gains), abs=1e-12)
    best = written[written["front_masked"] | written["front_shrunk"]]
    head, *told = report.front_table(study)
    assert len(told) == len(best)
    words = {(True, True): "both", (True, False): "masked", (False, True): "shrunk"}
    expected = sorted(
        words[pair] for pair in zip(best["front_masked"], best["front_shrunk"], strict=True)
    )
    assert sorted(line[head.index("front")] for line in told) == expected
    assert written["front_masked"].tolist() == sorted(written["front_masked"], reverse=True)


def test_names_are_escaped(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    found = [{**row, "arm": row["arm"] + bad} for row in rows(study=bad)]
    found[0] |= {"status": "failed", "reason": bad}
    table.write(
        tmp_path / "rows" / "a.parquet",
        found,
        {"sparsity": pa.float64()},
        {**FOOTER, "device": bad},
    )
    text = report.build(tmp_path).read_text()
    assert bad not in text
    assert escape(bad) in text


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    save(tmp_path, rows(seeds=(7,)))
    text = Visible.of(report.build(tmp_path).read_text())
    assert f"{100 * measured('dense', 0.0, 7, '')['accuracy_valid']:.2f} ± -" in text
    assert "nan" not in text.lower().replace("provenance", "")
    assert all(line[2] == "1" for line in report.front_table(tmp_path)[1:])
    assert "Mean over 1 seed;" in (tmp_path / "report" / "front.svg").read_text()


def test_what_did_not_finish_is_counted_and_named(tmp_path: Path) -> None:
    found = rows()
    for index, status, reason in (
        (3, "diverged", "loss is not finite"),
        (4, "stopped", None),
        (5, "running", None),
    ):
        lost = {name: None for name in found[index] if name.startswith(("accuracy", "loss"))}
        found[index] |= {**lost, "status": status, "reason": reason}
    found[8] |= {
        "layers_dead": 2,
        "unknown_ops": "aten::fft,aten::sort",
        "sparsity": 0.7,
        "stacked": False,
    }
    text = Visible.of(report.build(save(tmp_path, found)).read_text())
    assert "1 members have rows but no last row" in text
    assert "diverged: loss is not finite" in text
    assert "stopped: no reason given" in text
    assert "aten::fft, aten::sort" in text
    assert "at most 10.00 percentage points apart" in text
    assert "dns (sparsity 0.8)" in text
    assert "Trained one after the other rather than together: 4 of 45 members: dense; dns" in text


def test_parameters_that_came_back_are_named(tmp_path: Path) -> None:
    found, lost = (
        rows(),
        {name: None for name in rows()[0] if name.startswith(("accuracy", "loss"))},
    )
    before = [
        {**found[6], **lost, "rung": rung, "status": "running", "params_kept": 5} for rung in (0, 1)
    ]
    before.append({**found[9], **lost, "rung": 1, "status": "running", "params_kept": PARAMS})
    assert found[6]["params_kept"] > 5
    text = Visible.of(report.build(save(tmp_path, [*before, *found])).read_text())
    assert f"at the one before; some algorithms may): in 1 of {len(found)} members: dns" in text


def test_shrunk_counts_like_the_parents_need_no_figure(tmp_path: Path) -> None:
    save(tmp_path, [{**row, "flops_shrunk": row["flops_dense"]} for row in rows()])
    text = report.build(tmp_path).read_text()
    assert "No unit died at any point" in text
    assert 'id="flops_shrunk"' not in text


def test_order_and_marks_do_not_depend_on_test_data(study: Path, tmp_path: Path) -> None:
    report.build(study)
    poisoned = save(
        tmp_path / "other", [{**row, "accuracy_test": 1 - row["accuracy_valid"]} for row in rows()]
    )
    report.build(poisoned)
    honest, other = (pd.read_csv(folder / "report" / "front.csv") for folder in (study, poisoned))
    pd.testing.assert_frame_equal(front.selectable(honest), front.selectable(other))


def test_a_study_that_cannot_be_reported_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        report.build(tmp_path / "absent")
    with pytest.raises(ValueError, match="no rows"):
        report.build(tmp_path)
    save(tmp_path, [{**row, "status": "diverged" if row["seed"] else "running"} for row in rows()])
    with pytest.raises(
        ValueError, match=r"needs a member that is done; got none \(32 diverged, 16 unfinished\)"
    ):
        report.front_table(tmp_path)


def test_torn_and_foreign_files_are_named(study: Path) -> None:
    torn = study / "rows" / "torn.parquet"
    torn.write_bytes((study / "rows" / "dns.parquet").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"torn\.parquet: unreadable"):
        report.build(study)
    torn.unlink()
    pq.write_table(pa.table({"member": ["a"]}), study / "rows" / "foreign.parquet")
    with pytest.raises(ValueError, match=r"foreign\.parquet: not written by prunefront"):
        report.build(study)


def test_a_level_whose_corners_have_no_flops_costs_no_report(tmp_path: Path) -> None:
    """One arm, two seeds, one at no FLOPs and better: half of the seeds attain nothing that an axis
    of logarithms can hold.
    """
    found = [measured("dns", 0.5, seed, "digits") for seed in (0, 1)]
    found[0] |= {"flops_masked": 0, "flops_shrunk": 0, "params_kept": 0, "accuracy_valid": 0.99}
    found[1] |= {"accuracy_valid": 0.5}
    text = Visible.of(report.build(save(tmp_path, found)).read_text())
    assert "Not in this report" not in text
    assert "1 of 2 networks have no FLOPs left, and are no points of a front." in text


PARTS = {
    "attained": (bands, "chart"),
    "the arms": (answer, "arms"),
    "the page's head": (headline, "told"),
    "spent": (attainment, "spent"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_fails_does_not_cost_the_report(
    part: str, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "pdf", str.encode)  # the slow part

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted <b>\nMore information at https://example.org")

    monkeypatch.setattr(*PARTS[part], fails)
    with pytest.raises(report.Incomplete) as incomplete:
        report.build(study)
    assert incomplete.value.page == study / "report" / "report.html"
    text = Visible.of(incomplete.value.page.read_text())
    assert "Not in this report" in text
    assert "failed, by a fault of prunefront (ZeroDivisionError: planted <b> ...)" in text
    assert "More information" not in text
    for heading in ("Operating points", "Hypervolume", "Checks", "Provenance"):
        assert heading in text, "the others are there"
    assert (study / "report" / "front.png").exists()
    assert (study / "report" / "arms.md").exists() == (part != "the arms")

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["prunefront", "report", str(study)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 70
    assert "the report lacks a part, in the " in said.out or "arms.md" in said.out
    assert "ZeroDivisionError: planted <b>" in said.out
    assert "Traceback" in said.err
    assert "this is a fault of prunefront" in said.err


def test_what_cannot_be_drawn_is_said_and_no_fault(tmp_path: Path) -> None:
    text = report.build(save(tmp_path, [{**row, "flops_masked": 0} for row in rows()])).read_text()
    assert "the figure flops_masked: digits: no point has FLOPs left" in Visible.of(text)
    assert "Operating points" in text


def test_names_are_no_paths_for_a_figure(study: Path) -> None:
    """Tooltips of columns whose names have what Vega takes for a path, and text that no XML may
    hold.
    """
    name = """m_a.b[0]'"\\\uffff"""
    lines = pd.DataFrame(
        {
            "factor": [2.0],
            "share": [0.5],
            "kept": [0.9],
            "low": [0.8],
            "high": [1.0],
            "n": [3],
            name: [1.5],
        }
    )
    picture = stopping.chart(lines, "it's \x1b[31m 😀 [/2]")
    tips = [tip for layer in picture["layer"] for tip in layer["encoding"].get("tooltip", [])]
    assert (
        next(tip for tip in tips if tip["title"].startswith("m a"))["field"]
        == """m_a\\.b\\[0\\]\\'\\"\\\\\uffff"""
    )
    drawing = render.svg(picture)
    assert "it's \\x1b[31m 😀 [/2]" in drawing
    assert render.pdf(drawing).startswith(b"%PDF")


@pytest.mark.parametrize("accuracies", [[0.5], [0.5, 0.5], [0.9, 0.1], [1.0, 1.0, 0.1, 0.1], [0.0]])
def test_a_chart_can_be_drawn_of_few_or_equal_points(accuracies: list[float]) -> None:
    sample = [
        {**measured("dns", s, 0, "x"), "accuracy_valid": a}
        for a, s in zip(accuracies, SPARSITIES, strict=False)
    ]
    picture = fronts.chart(front.summarise(pd.DataFrame(sample)), "x")
    assert "accuracy against FLOPs" in render.svg(picture)


def test_points_without_flops_are_counted_where_they_cannot_be_drawn() -> None:
    sample = rows()
    sample[5] |= {"flops_masked": 0, "hp": '{"sparsity": 1.0}'}
    assert "Not drawn: 1 of 17 points" in render.svg(
        fronts.chart(front.summarise(pd.DataFrame(sample)), "x")
    )
    nothing = front.summarise(pd.DataFrame([{**row, "flops_masked": 0} for row in rows()]))
    with pytest.raises(ValueError, match="no point has FLOPs left"):
        fronts.chart(nothing, "x")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1 k"),
        (51200, "51.2 k"),
        (999_499, "999 k"),
        (999_600, "1 M"),
        (2.5e9, "2.5 G"),
    ],
)
def test_counts_are_written_in_three_digits(count: float, text: str) -> None:
    assert wording.large(count) == text


def test_what_the_study_no_longer_holds_is_left_out_and_said_so(tmp_path: Path) -> None:
    folder = save(tmp_path, rows())
    out = next(str(row["member"]) for row in rows() if row["arm"] == "dns")
    about = {"name": "s", "description": {}, "arms": {"dns": "dns"}, "removed": {"dns": [out]}}
    about["goals"] = {
        "maximize": ["accuracy_valid"],
        "minimize": ["flops_masked"],
        "constraints": [],
    }
    (folder / "plan").mkdir()
    (folder / "plan" / "study.json").write_text(json.dumps(about))
    held = table.current(folder, table.read(folder))
    assert set(held["arm"]) == {"dns"}
    assert set(held["member"]) == {str(row["member"]) for row in rows() if row["arm"] == "dns"} - {
        out
    }
    text = Visible.of(report.build(folder).read_text())
    assert "the study file no longer holds, left out of all of this: 0" not in text
    assert "chance" not in text


def test_a_search_is_compared_with_chance(search: Path) -> None:
    page = report.build(search)
    text = Visible.of(page.read_text())
    for told in ("Search against chance", "± 0.5 percentage points", "Holm", "found of 100", "random", "candidate 1",
                 "Spearman", "accuracy after it?", "two one-sided"):  # fmt: skip
        assert told in text
    assert 'id="search"' in page.read_text()
    assert "nan" not in text.lower().replace("provenance", "").replace("chance", "")
    lines = pd.read_csv(search / "report" / "search.csv")
    assert lines["network"].tolist() == ["parent", "random", *["found"] * 4] * 2
    assert lines["candidates"].dropna().tolist() == [1, 4, 16, 64, 100] * 2
    rows = {
        (row["seed"], row["hp_candidates"]): row
        for seed in range(3)
        for row in searched(0.9, seed, COUNTS)
    }
    last = lines[lines["setting"] == "sparsity 0.9"].iloc[-1]
    for split in ("valid", "test"):
        gains = [
            rows[seed, 100][f"accuracy_{split}"] - rows[seed, 1][f"accuracy_{split}"]
            for seed in range(3)
        ]
        assert last[f"difference_{split}"] == pytest.approx(statistics.mean(gains))
        assert last[f"difference_{split}_std"] == pytest.approx(statistics.stdev(gains))
        assert last[f"difference_{split}_verdict"] in text
    assert last["networks_most"] == max(
        len({r["m_winner"] for r in searched(0.9, s, COUNTS)}) for s in range(3)
    )
    (search / "rows" / "search.parquet").unlink()
    assert "Search against chance" not in Visible.of(report.build(search).read_text())
    assert not (search / "report" / "search.csv").exists()


def test_a_search_does_not_drown_the_other_points(search: Path) -> None:
    text = Visible.of(report.build(search).read_text())
    written = pd.read_csv(search / "report" / "front.csv")
    assert len(written) == 216
    assert "of 216 points are listed and drawn; all are in front.csv" in text
    shown = int(text.split(" of 216 points")[0].split()[-1])
    assert 16 + 10 <= shown < 50
    front_lines = report.front_table(search)
    assert len({(line[0], line[1]) for line in front_lines}) == len(front_lines) < 12
    assert any(line[0] == "search" for line in front_lines)


def test_what_a_search_cost_and_shared_is_said(search: Path) -> None:
    text = Visible.of(report.build(search).read_text())
    rows = [
        row
        for sparsity in (0.5, 0.9)
        for seed in range(3)
        for row in searched(sparsity, seed, COUNTS)
    ]
    distinct = len({(row["hp_sparsity"], row["seed"], row["m_winner"]) for row in rows})
    assert f"648 members ended, 648 of them done ({48 + distinct} distinct networks)" in text
    assert "with what members share, a dense phase or a search, charged to each" in text
    most = rows[-1]
    assert most["hp_candidates"] == 100
    assert f"({100 * most['search_flops'] / most['train_flops']:.2g}%)" in text
    assert (
        "requested sparsity is of units, and so not compared with that of parameters: 600" in text
    )


def test_one_seed_of_a_search_is_inconclusive(tmp_path: Path) -> None:
    found = searched(0.9, 0, range(1, 3))
    table.write(tmp_path / "rows" / "search.parquet", found, HP_TYPES, FOOTER)
    text = Visible.of(report.build(tmp_path).read_text())
    assert "inconclusive: n = 1" in text
    assert "inconclusive: too few distinct networks" in text
    assert "(2 distinct networks)" not in text


def test_rows_of_a_search_without_its_scores(tmp_path: Path) -> None:
    found = [
        {n: v for n, v in row.items() if n[:2] != "m_"} for row in searched(0.9, 0, range(2, 5))
    ]
    table.write(tmp_path / "rows" / "search.parquet", found, HP_TYPES, FOOTER)
    assert "no score before training (m_score)" in Visible.of(report.build(tmp_path).read_text())


def test_many_settings_of_a_search_are_drawn_in_part() -> None:
    rows = pd.DataFrame([row for i in range(15) for row in searched(0.5 + i / 100, 0, range(1, 4))])
    found, curves = searches.against_chance(rows), searches.curves(rows)
    drawing = render.svg(searches.chart(curves, found[found["network"] == "random"], "x"))
    assert "Drawn: the first 12 of 15 settings." in drawing


def test_a_wider_network_is_no_parent(tmp_path: Path) -> None:
    wide = {
        "arm": "wide",
        "algorithm": "wide",
        "flops_masked": 4 * FLOPS,
        "flops_shrunk": 4 * FLOPS,
        "params_kept": 4 * PARAMS,
    }
    dense = [measured("dense", 0.0, seed, "digits") for seed in range(3)]
    save(tmp_path, [*dense, *[{**row, **wide, "member": f"wide{row['seed']}"} for row in dense]])
    text = Visible.of(report.build(tmp_path).read_text())
    assert "Parent, to which differences are taken: dense." in text
    assert "0.25x" in text
    assert 'id="flops_shrunk"' in (tmp_path / "report" / "report.html").read_text()


def test_operations_without_a_formula_are_said_beside_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, [{**row, "unknown_ops": "fft_r2c"} for row in rows()])
    cli._report(tmp_path, Console(width=200))
    said = capsys.readouterr().out
    assert "FLOPs leave out what has no formula here: fft_r2c." in said
    assert "≥ " in said
    text = Visible.of((tmp_path / "report" / "report.html").read_text())
    assert text.index("no formula here: fft_r2c") < text.index("Which arm, at which budget")
    arms = (tmp_path / "report" / "arms.md").read_text()
    assert arms.count("fft_r2c") == 1
    assert "≥ " in arms
    save(tmp_path / "known", rows())
    cli._report(tmp_path / "known", Console(width=200))
    assert not {"≥", "?"} & set(capsys.readouterr().out)
    assert "≥" not in (tmp_path / "known" / "report" / "arms.md").read_text()


def test_a_share_of_flops_names_its_cost_and_both_are_told(study: Path) -> None:
    report.build(study)
    head, *_ = (study / "report" / "arms.md").read_text().splitlines()
    shares = [cell.strip() for cell in head.split("|") if "%" in cell or "FLOPs within" in cell]
    assert shares
    assert all(cell.endswith(("shrunk", "masked")) for cell in shares)
    assert "FLOPs shrunk, within 2" in head
    assert "FLOPs masked, within 2" in head
    assert head.index("shrunk") < head.index("masked"), "what leaves comes first"
    written = pd.read_csv(study / "report" / "arms.csv").set_index("arm")
    last = pd.DataFrame(rows())
    for cost in ("shrunk", "masked"):
        expected = answer.arms(last, f"flops_{cost}").set_index("arm")  # type: ignore[arg-type]
        assert written[f"flops_within_2_{cost}"].to_numpy() == pytest.approx(
            expected["flops_within_2"].to_numpy(), nan_ok=True
        )


def test_networks_without_flops_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = {
        "accuracy_valid": 0.999,
        "flops_masked": 0,
        "flops_shrunk": 0,
        "params_kept": 10,
        "params_shrunk": 10,
    }
    found = [
        {**row, **dead} if (row["arm"], row["sparsity"] > 0.97) == ("dns", True) else row
        for row in rows()
    ]
    count = sum(row["flops_masked"] == 0 for row in found)
    assert count == 3
    save(tmp_path, found)
    cli._report(tmp_path, Console(width=200))
    said = capsys.readouterr().out
    sentence = f"{count} of {len(found)} networks have no FLOPs left, and are no points of a front."
    assert sentence in said
    assert "99.90" not in said, "none of them is in the table of the front"
    assert sentence in Visible.of((tmp_path / "report" / "report.html").read_text())
    assert sentence in (tmp_path / "report" / "arms.md").read_text()
    written = pd.read_csv(tmp_path / "report" / "front.csv")
    assert (
        not written.loc[written["flops_masked"] == 0, ["front_masked", "front_shrunk"]]
        .to_numpy()
        .any()
    )


def test_where_nothing_can_be_drawn_the_rest_of_the_report_is_written(
    study: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = study / "report"
    report.build(study)
    assert list(folder.glob("*.svg"))
    monkeypatch.setattr(render, "hindrance", lambda: "pictures take more than there is")
    text = report.build(study).read_text()
    assert "pictures take more than there is" in text
    assert (folder / "arms.csv").is_file()
    assert not [*folder.glob("*.svg"), *folder.glob("*.p[dn][fg]")], "no old pictures stay"


def test_a_process_with_few_addresses_says_so_instead_of_dying():
    code = "from prunefront.analysis.draw import render; print(render.hindrance())"
    limited = f"ulimit -Sv 30000000; exec {sys.executable} -c '{code}'"
    ran = subprocess.run(["sh", "-c", limited], capture_output=True, text=True, check=True)
    assert "`ulimit -v` allows 31 GB" in ran.stdout
    assert (
        render.hindrance() == ""
        or resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    )
