"""Comparisons of studies from their folders: files, likeness of training, what is refused;
published points.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prunefront.analysis import report
from prunefront.analysis.draw import render
from prunefront.analysis.inference import equal_flops, likeness, paired, verdicts
from prunefront.analysis.points import front
from prunefront.analysis.rows import published, table
from prunefront.analysis.sections import fronts
from prunefront.search import cli

SETTINGS = {"base": 0.0, "tie": 0.0, "better": 0.02}
"""Arms with six settings each, and what they gain on `base`; noise of the seeds aside."""
TASK = {
    "dataset": "digits",
    "model": "mlp",
    "data_digest": "d1g",
    "split_seed": 0,
    "lr": 0.1,
    "weight_decay": 0.0,
    "epochs": 4,
}
Change = Callable[[dict[str, Any]], dict[str, Any]]


def rows(seeds: Sequence[int], study: str) -> list[dict[str, Any]]:
    zero: dict[str, Any] = {
        name: 0
        for name, kind, _ in table.COLUMNS
        if pa.types.is_integer(kind) or pa.types.is_floating(kind)
    }
    words = {
        "study": study,
        "model": "mlp",
        "dataset": "digits",
        "cohort": "c",
        "reason": None,
        "unknown_ops": "",
    }
    common = {
        **zero,
        **words,
        "stacked": True,
        "status": "done",
        "rung": 1,
        "epochs": 4.0,
        "steps": 8,
        "examples": 64,
    }
    found = []
    for arm, gain in SETTINGS.items():
        for sparsity in (0.0, 0.3, 0.5, 0.7, 0.8, 0.9):
            for seed in seeds:
                wobble = ((seed * 7 + len(arm) * 3 + int(10 * sparsity)) % 5 - 2) / 4000
                test = 0.9 - sparsity / 50 + gain + seed / 1000 + wobble
                hp = json.dumps({"sparsity": sparsity})
                key = {
                    "arm": arm,
                    "algorithm": arm,
                    "control": arm == "base",
                    "seed": seed,
                    "hp": hp,
                    "hp_sparsity": sparsity,
                }
                masked, shrunk = round(10_000 * (1 - sparsity)), round(10_000 * (1 - sparsity / 2))
                counts = {
                    "flops_dense": 10_000,
                    "flops_masked": masked,
                    "flops_shrunk": shrunk,
                    "params_dense": 5000,
                }
                scores = {
                    "accuracy_valid": test + 0.01,
                    "accuracy_test": test,
                    "sparsity": sparsity,
                }
                found.append(
                    {
                        **common,
                        **key,
                        **counts,
                        **scores,
                        "member": f"{arm}{sparsity}{seed}",
                        "params_kept": masked // 2,
                    }
                )
    return found


def save(
    folder: Path,
    change: Change = dict,
    seeds: Sequence[int] = range(5),
    study: str = "digits",
    **task: Any,
) -> Path:
    """The folder of a study whose rows were changed, with a footer of that task."""
    footer = {"commit": "abc", "device": "cpu", "versions": {}, "task": {**TASK, **task}}
    changed = [change(row) for row in rows(seeds, study)]
    table.write(
        folder / "rows" / "a.parquet",
        changed,
        {"sparsity": pa.float64(), "lr": pa.float64()},
        footer,
    )
    return folder


def command(*words: str | Path) -> str:
    """What `prunefront compare` prints; its sentence, if it refuses."""
    done = CliRunner().invoke(
        cli.app, ["compare", *map(str, words)], env={"COLUMNS": "200"}, catch_exceptions=True
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, ValueError), (
            done.exception
        )  # which `cli.main` prints, for exit code 2
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return done.output


def test_compare_writes_table_text_and_picture_of_the_same_numbers(tmp_path: Path) -> None:
    printed = command(save(tmp_path / "run"), "--out", tmp_path / "out")
    lines = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert lines.groupby(["cost", "arm"]).size().to_dict() == {
        (cost, arm): 5 for cost in ("flops_masked", "flops_shrunk") for arm in ("better", "tie")
    }
    assert set(lines["baseline"]) == {"base"}  # the control
    assert set(lines.loc[lines["arm"] == "better", "difference_test_verdict"]) == {"better"}
    assert set(lines.loc[lines["arm"] == "tie", "difference_test_verdict"]) == {"equivalent"}
    assert lines.loc[lines["arm"] == "better", "difference_test"].between(0.0195, 0.0205).all()
    text = (tmp_path / "out" / "compare.md").read_text()
    for line in lines.to_dict("records"):
        told = f"| {100 * line['difference_test']:+.2f} |"
        assert told in text
        assert f"{100 * line['difference_test']:+.2f}" in printed
    assert "All arms share task, data, split, budget, learning rate and weight decay." in printed
    assert "better" in (tmp_path / "out" / "compare.svg").read_text()
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_levels_and_baseline_may_be_given_and_the_default_place_is_the_first_report(
    tmp_path: Path,
) -> None:
    printed = command(save(tmp_path), "--baseline", "better", "--at", "5000", "--at", "2000")
    assert f"comparison: {tmp_path / 'report' / 'compare.md'}" in printed
    lines = pd.read_csv(tmp_path / "report" / "compare.csv")
    assert lines[lines["cost"] == "flops_masked"]["flops"].tolist() == [5000, 2000] * 2
    shrunk = lines[(lines["cost"] == "flops_shrunk") & (lines["flops"] == 2000)]
    assert set(shrunk["difference_test_verdict"]) == {equal_flops.UNREACHED}
    assert "worse" in set(lines["difference_test_verdict"])


def test_studies_are_compared_by_arm_of_study_and_alike_ones_are_called_so(tmp_path: Path) -> None:
    one, other = save(tmp_path / "one", study="one"), save(tmp_path / "two", study="two")
    found = verdicts.build([one, other], "one: base")
    assert set(found.lines["arm"]) == {
        "one: better",
        "one: tie",
        "two: base",
        "two: better",
        "two: tie",
    }
    same = found.lines[found.lines["arm"] == "two: base"]
    assert set(same["difference_test_verdict"]) == {
        "inconclusive: the same in every seed, which says nothing of its spread"
    }
    assert not found.lines["unlike"].any()
    names = set(verdicts.build([one, save(tmp_path / "three", study="one")]).lines["arm"])
    assert f"{one}: tie" in names  # two studies of one name go by their folders


def test_other_tasks_are_refused_and_named_where_they_are_compared_anyway(tmp_path: Path) -> None:
    one = save(tmp_path / "one", study="one")
    other = save(tmp_path / "two", study="two", split_seed=3, lr=0.2)
    why = "lr 0.1 (one) against 0.2 (two); split_seed 0 (one) against 3 (two)"
    assert command(one, other) == (
        f"studies are compared that share data, split, model and task; got {why} (--anyway compares them)"
    )
    printed = command(one, other, "--anyway", "--baseline", "one: base")
    assert f"The studies differ in their task: {why}." in printed
    assert "two: tie trained unlike the baseline: lr 0.1 against 0.2" not in printed
    assert "two: tie trained unlike the baseline: lr 0.2 against 0.1." in printed
    text = (one / "report" / "compare.md").read_text()
    assert f"The studies differ in their task: {why}." in text
    assert "better (trained unlike)" in text
    drawn = (one / "report" / "compare.svg").read_text()
    assert "The studies differ in their task: lr 0.1 (one)" in drawn
    assert "trained unlike: lr 0.2 against 0.1" in drawn


def test_tables_that_differ_in_precision_are_told_apart(tmp_path: Path) -> None:
    one = save(tmp_path / "one", study="one", dtype="float32", precision="bf16")
    other = save(tmp_path / "two", study="two", dtype="float32")
    why = "precision bf16 (one) against its default (two)"
    assert command(one, other).endswith(f"got {why} (--anyway compares them)")
    assert likeness.comparable_rows([one, other], anyway=True)[1][0] == (
        f"The studies differ in their task: {why}."
    )


def test_parents_apart_are_named(tmp_path: Path) -> None:
    def parent(row: dict[str, Any], shift: float) -> dict[str, Any]:
        whole = row["arm"] == "base" and row["sparsity"] == 0.0
        return {
            **row,
            "arm": "dense" if whole else row["arm"],
            "accuracy_valid": row["accuracy_valid"] + shift * whole,
        }

    one = save(tmp_path / "one", lambda row: parent(row, 0.0), study="one")
    other = save(tmp_path / "two", lambda row: parent(row, 0.003 * (row["seed"] == 2)), study="two")
    assert likeness.comparable_rows([one, other])[1] == [
        "The parents of one and two are up to 0.30 percentage points apart in the same seed (validation accuracy)."
    ]
    none = save(tmp_path / "none", lambda row: {**row, "control": False}, study="none")
    assert likeness.comparable_rows([one, none])[1] == [
        "Whether one and none start from the same parent is not known: none that both have in a seed."
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"steps": 9}, "steps 9 against 8"),
        ({"search_flops": 5_000_000}, "search flops 5,000,000 against 0"),
        ({"hp_lr": 0.3}, "lr 0.3 against 0.1"),
        ({"hp_lr": 0.1}, ""),
    ],
)
def test_an_arm_trained_otherwise_is_named(
    tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    folder = save(tmp_path, lambda row: {**row, **change} if row["arm"] == "tie" else row)
    lines = verdicts.build([folder]).lines
    assert set(lines.loc[lines["arm"] == "tie", "unlike"]) == {expected}
    assert not lines.loc[lines["arm"] == "better", "unlike"].any()


def test_test_data_chooses_and_orders_nothing(tmp_path: Path) -> None:
    """With other test accuracies the same networks are read at the same levels, in the same order."""
    one = verdicts.build([save(tmp_path / "one")]).lines
    turned = save(tmp_path / "two", lambda row: {**row, "accuracy_test": 1 - row["accuracy_test"]})
    other = verdicts.build([turned]).lines
    kept = [name for name in one if "_test" not in str(name)]
    pd.testing.assert_frame_equal(one[kept], other[kept])
    assert (one["accuracy_test"] + other["accuracy_test"]).to_numpy() == pytest.approx(1.0)


def far(row: dict[str, Any]) -> dict[str, Any]:
    flops = row["flops_masked"] + 50_000 * (row["arm"] != "base")
    return {**row, "flops_masked": flops, "flops_shrunk": flops}


@pytest.mark.parametrize(
    ("change", "seeds", "words", "expected"),
    [
        (dict, [3], [], "nothing can be compared with base: better: a comparison needs two seeds that both have; got 1"),
        (far, range(5), [], "both reach in every seed; it reaches 51,000 to 60,000, the baseline 1,000 to 10,000"),
        (dict, range(2), ["--baseline", "beter"],
         'no arm "beter" to compare with; did you mean "better"? known: base; better; tie'),
        (dict, range(2), ["--baseline", "?"], 'no arm "?" to compare with; known: base; better; tie'),
        (dict, range(2), ["--at", "0"], "FLOPs at which arms are compared are finite and lie above 0; got 0"),
        (lambda row: {**row, "accuracy_valid": None if row["member"] == "tie0.51" else 0.9}, range(2), [],
         'every done member has its `accuracy_valid`; 1 have none, the first of them of arm "tie", seed 1'),
        (lambda row: {**row, "accuracy_test": None}, range(2), [],
         'every done member has its `accuracy_test`; 36 have none, the first of them of arm "base", seed 0'),
        (lambda row: {**row, "status": "failed"}, range(2), [], "no member is done; a comparison needs those of two seeds"),
        (lambda row: {**row, "arm": "base", "control": False}, range(2), [], "a comparison needs two arms; got base alone"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(
    tmp_path: Path, change: Change, seeds: Sequence[int], words: list[str], expected: str
) -> None:
    said = command(save(tmp_path, change, seeds), *words)
    assert expected in said
    assert "\n" not in said
    assert not (tmp_path / "report").exists()


def test_bad_folders_are_one_sentence(tmp_path: Path) -> None:
    folder = save(tmp_path / "run")
    assert (
        command(tmp_path / "no")
        == f"{tmp_path / 'no'}: no such folder; studies are compared by their output folders"
    )
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'}: no rows" in command(folder, tmp_path / "empty")
    assert command(folder, folder) == f"a study is compared once; got {folder}, {folder}"
    pq.write_table(pa.table({"a": [1]}), folder / "rows" / "b.parquet")
    assert f"{folder / 'rows' / 'b.parquet'}: not written by prunefront" in command(folder)
    found = pq.read_table(folder / "rows" / "a.parquet")
    stamp = {table.FOOTER: json.dumps({"schema": 0})}
    pq.write_table(found.replace_schema_metadata(stamp), folder / "rows" / "b.parquet")
    assert f"b.parquet: of schema version 0, where 1 to {table.SCHEMA_VERSION} are read" in command(
        folder
    )


def test_exit_code_of_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prunefront", "compare", str(tmp_path / "no")])
    monkeypatch.setattr("sys.path", ["."])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert (
        capsys.readouterr().err
        == f"prunefront: {tmp_path / 'no'}: no such folder; studies are compared by their output folders\n"
    )


# ---- published points

POINT = {
    "name": "A < B", "source": "Nobody 2020, table 1", "dataset": "digits", "model": "mlp", "protocol": "best epoch on test",
    "counted": "masked", "accuracy": "0.99", "flops": "1.5e3", "params": "",
}  # fmt: skip


def points(path: Path, *changes: dict[str, str], without: str = "") -> Path:
    lines = [
        {name: value for name, value in {**POINT, **change}.items() if name != without}
        for change in changes
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else list(POINT))
    writer.writeheader()
    writer.writerows(lines)
    path.write_text(text.getvalue())
    return path


def test_points_of_are_read(tmp_path: Path) -> None:
    found = published.points_of(
        points(tmp_path / "p.csv", {}, {"params": "500", "dataset": "mnist"})
    )
    assert found["flops"].tolist() == [1500.0, 1500.0]
    assert found["params"].isna().tolist() == [True, False]
    assert (
        published.points_of(points(tmp_path / "p.csv", {}, without="params"))["params"].isna().all()
    )
    assert len(published.beside(found, "digits", tmp_path / "p.csv")) == 1
    with pytest.raises(
        ValueError,
        match="points on cifar10, the study's data set, are drawn; got points on digits, mnist",
    ):
        published.beside(found, "cifar10", tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"accuracy": "97.5"}, "point 2: `accuracy` is a share, above 0 and at most 1; got '97.5'"),
        ({"accuracy": "high"}, "point 2: `accuracy` is a share, above 0 and at most 1; got 'high'"),
        ({"flops": "-1"}, "point 2: `flops` is a number of FLOPs above 0; got '-1'"),
        ({"flops": "inf"}, "point 2: `flops` is a number of FLOPs above 0; got 'inf'"),
        ({"params": "1.5"}, "point 2: `params` is a whole number or empty; got '1.5'"),
        ({"counted": "MACs"}, "point 2: `counted` is masked or shrunk; got 'MACs'"),
        ({"protocol": " "}, "point 2: `protocol` is stated; got ''"),
        ({"year": "2020"}, "params; got `year`"),
    ],
)
def test_a_wrong_published_point_is_one_sentence(
    tmp_path: Path, change: dict[str, str], expected: str
) -> None:
    path = points(tmp_path / "p.csv", {**change, **POINT} if "year" in change else {}, change)
    with pytest.raises(ValueError, match=r"p\.csv: ") as error:
        published.points_of(path)
    assert str(error.value).endswith(expected)


def test_files_without_points_of_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    wrong = {
        "": "No columns to parse from file",
        "name\n": "`source` is missing",
        "\xff": "can't decode",
        '"a': "EOF",
    }
    for content, expected in wrong.items():
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(ValueError, match=expected) as error:
            published.points_of(path)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is a point at least; got the heading alone"):
        published.points_of(points(path))
    with pytest.raises(ValueError, match="read from a CSV file; got: No such file"):
        published.points_of(tmp_path / "no.csv")


def test_points_of_are_drawn_and_listed_with_their_caveat(tmp_path: Path) -> None:
    folder = save(tmp_path / "run")
    path = points(
        tmp_path / "p.csv",
        {},
        {"name": "shrunken", "counted": "shrunk"},
        {"dataset": "mnist", "name": "elsewhere"},
    )
    page = report.build(folder, path).read_text()
    assert published.CAVEAT.replace("'", "&#x27;") in page
    assert "<td>A &lt; B</td><td>Nobody 2020, table 1</td>" in page
    assert "elsewhere" not in page
    assert (folder / "report" / "front.svg").read_text().count("A &lt; B") >= 1
    summary = front.summarise(table.last(table.read(folder)))
    shrunk = render.svg(fronts.chart(summary, "digits", "flops_shrunk", published.points_of(path)))
    assert "shrunken" in shrunk
    assert "A &lt; B" not in shrunk
    unmarked = fronts.chart(summary, "digits")
    assert unmarked == fronts.chart(summary, "digits", published=None)
    assert published.CAVEAT not in json.dumps(unmarked)


def test_margin_is_stated_in_the_text() -> None:
    assert any(
        f"{100 * paired.MARGIN:g} percentage points or more" in sentence
        for sentence in verdicts.ABOUT
    )
