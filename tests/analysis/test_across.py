"""What pruning changes at each value that a study sweeps, against figures worked by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from typer.testing import CliRunner

from prunefront.analysis.inference import across
from prunefront.analysis.rows import swept, table
from prunefront.analysis.rows.loaded import open_rows
from prunefront.analysis.rows.mistake import Mistake
from prunefront.search import cli

PARENT = {"clean": [0.90, 0.91, 0.92], "noisy": [0.70, 0.75, 0.72]}
PRUNED = {"clean": [0.88, 0.90, 0.91], "noisy": [0.71, 0.77, 0.72]}
KEYS = {"clean": "label_noise=0", "noisy": "label_noise=0.3"}


def row(arm: str, seed: int, accuracy: float, value: str) -> dict[str, Any]:
    zero: dict[str, Any] = {
        name: 0
        for name, kind, _ in table.COLUMNS
        if pa.types.is_integer(kind) or pa.types.is_floating(kind)
    }
    is_parent = arm == "dense"
    sparsity = 0.0 if is_parent else 0.75
    kept = round(1000 * (1 - sparsity))
    return {
        **zero,
        "study": f"s, {KEYS[value]}",
        "arm": arm,
        "algorithm": arm,
        "control": is_parent,
        "member": f"{arm}{seed}",
        "seed": seed,
        "hp": json.dumps({} if is_parent else {"sparsity": sparsity}),
        "hp_sparsity": None if is_parent else sparsity,
        "model": "mlp",
        "dataset": "digits",
        "cohort": "c",
        "reason": None,
        "unknown_ops": "",
        "stacked": True,
        "status": "done",
        "rung": 1,
        "sparsity": sparsity,
        "flops_dense": 1000,
        "flops_masked": kept,
        "flops_shrunk": kept,
        "params_dense": 500,
        "params_kept": 500,
        "accuracy_valid": accuracy,
        "accuracy_test": accuracy,
    }


def folder(place: Path, arms: tuple[str, ...] = ("dense", "magnitude")) -> Path:
    swept.record(place, list(KEYS.values()))
    accuracies: Mapping[str, Any] = {"dense": PARENT, "magnitude": PRUNED}
    for value, key in KEYS.items():
        rows = [
            row(arm, seed, accuracies[arm][value][seed], value) for arm in arms for seed in range(3)
        ]
        footer = {"commit": "abc", "device": "cpu", "versions": {}, "task": {}}
        table.write(place / key / "rows" / "a.parquet", rows, {"sparsity": pa.float64()}, footer)
    return place


def test_differences_and_their_changes_are_those_by_hand(tmp_path: Path) -> None:
    place = folder(tmp_path)
    lines = across.lines({name: open_rows(path) for name, path in swept.studies(place).items()})
    assert lines["arm"].tolist() == ["magnitude", "magnitude"], "the parent has no line"
    assert lines["value"].tolist() == list(KEYS.values())
    assert lines["share"].tolist() == [0.25, 0.25]
    differences = {value: np.subtract(PRUNED[value], PARENT[value]) for value in KEYS}
    assert lines["difference"].tolist() == pytest.approx([d.mean() for d in differences.values()])
    change = differences["noisy"] - differences["clean"]
    test: Any = stats.ttest_1samp(change, 0.0)
    first, second = lines.to_dict("records")
    assert first["change_n"] == 0, "nothing comes before the first value"
    assert second["change_n"] == 3
    assert second["change"] == pytest.approx(change.mean())
    assert second["change_p"] == pytest.approx(test.pvalue)
    interval = test.confidence_interval()
    assert (second["change_low"], second["change_high"]) == pytest.approx(tuple(interval))


def test_files_and_what_the_command_prints_have_the_same_figures(tmp_path: Path) -> None:
    place = folder(tmp_path)
    done = CliRunner().invoke(cli.app, ["report", str(place)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    for key in KEYS.values():
        assert (place / key / "report" / "report.html").exists()
    text = (place / "across" / "across.md").read_text()
    assert text.startswith("# s: what pruning changes at each value")
    assert "+1.00" in text
    assert "+1.00" in done.output
    assert (place / "across" / "across.csv").read_text().count("\n") == 3
    assert (place / "across" / "across.svg").read_text().count("label_noise=0.3")


def test_a_value_without_a_parent_is_named(tmp_path: Path) -> None:
    place = folder(tmp_path, arms=("magnitude",))
    with pytest.raises(
        Mistake, match=r"label_noise=0: settings are compared with the dense parent"
    ):
        across.write(place)


def test_a_folder_of_one_study_has_none(tmp_path: Path) -> None:
    assert swept.studies(tmp_path) == {}


@pytest.mark.parametrize("command", ["compare", "pick", "show", "export"])
def test_what_takes_one_study_names_the_folder_of_one(tmp_path: Path, command: str) -> None:
    place = folder(tmp_path / "out")
    words = {"show": ["m"], "export": [f"sqlite:///{tmp_path}/o.db"], "pick": ["--knee"]}
    done = CliRunner().invoke(cli.app, [command, str(place), *words.get(command, [])])
    assert isinstance(done.exception, Mistake)
    assert f"takes the folder of one, such as {place}/label_noise=0" in str(done.exception)


def test_values_stay_in_the_order_of_the_list_though_their_flops_differ_a_little(
    tmp_path: Path,
) -> None:
    place = folder(tmp_path)
    studies = {name: open_rows(path) for name, path in swept.studies(place).items()}
    last = studies["label_noise=0.3"].rows
    is_pruned = last["arm"] == "magnitude"
    more = last["flops_masked"].where(~is_pruned, last["flops_masked"] + 3)
    studies["label_noise=0.3"].rows = last.assign(flops_masked=more)
    assert across.lines(studies)["value"].tolist() == list(KEYS.values())
