"""Folders that earlier schema versions wrote are read, reported on, and carried on or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prunefront.analysis import report
from prunefront.analysis.inference import attainment, verdicts
from prunefront.analysis.points import front
from prunefront.analysis.rows import goals, table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.analysis.rows.storage import Location
from prunefront.search.plan import generations
from prunefront.search.study.parse import read
from prunefront.trainables.records import leaving, networks

KEPT = Path(__file__).parent.parent / "kept"
Kept = Callable[[int], Path]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A copy of the folder that a schema version wrote."""

    def copied(version: int) -> Path:
        return Path(shutil.copytree(KEPT / f"schema{version}", tmp_path / f"schema{version}"))

    return copied


def opened(version: int, folder: Path) -> generations.Plan:
    """The plan in a folder, opened with the study file that it was made by."""
    plan = generations.Plan(read(KEPT / f"schema{version}.toml", []), folder, 1)
    plan.open()
    return plan


def stamped(file: Location, version: Any) -> None:
    """Have a row file say that it is of a schema version."""
    rows = pq.read_table(file)
    stamp = json.loads(rows.schema.metadata[table.FOOTER]) | {"schema": version}
    pq.write_table(rows.replace_schema_metadata({table.FOOTER: json.dumps(stamp)}), file)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_rows_are_read_with_every_column_of_today(kept: Kept, version: int) -> None:
    rows = table.read(kept(version))
    assert tuple(rows.columns[: len(table.NAMES)]) == table.NAMES
    assert rows["layers"].isna().all() == (version < 3)
    assert set(rows["train_share"]) == set(rows["imbalance"]) == {1.0}
    assert set(rows["label_noise"]) == {0.0}
    assert rows["search_flops"].dtype == "int64"
    dense = rows[rows["arm"] == "dense"]
    assert dense["train_flops"].tolist() == [4319232, 4319232]
    assert dense["search_flops"].tolist() == [0, 0]
    assert dense["accuracy_valid"].tolist() == [0.5, 0.6805555555555556]
    assert table.set_aside(KEPT / f"schema{version}") == {}


def test_what_was_charged_for_a_search_is_as_it_was_written(kept: Kept) -> None:
    rows = table.read(kept(2), ["arm", "search_flops"])
    searched = rows.loc[rows["arm"] == "weedout", "search_flops"]
    assert searched.tolist() == [606208, 606208, 2424832, 2424832]


def test_who_was_charged_nothing_has_no_search_either(kept: Kept) -> None:
    folder = kept(1)
    file = table.files(folder)[0]
    rows = pq.read_table(file)
    place = rows.schema.get_field_index("train_flops")
    charges = pa.array([None, 7], pa.int64())
    pq.write_table(rows.set_column(place, rows.schema.field(place), charges), file)
    read_back = table.read(folder, ["arm", "search_flops"])
    dense = read_back.loc[read_back["arm"] == "dense", "search_flops"]
    assert dense.isna().tolist() == [True, False]
    assert dense.iloc[1] == 0


def test_versions_may_lie_in_one_folder(kept: Kept) -> None:
    folder, newer = kept(1), kept(2)
    for file in (newer / "rows").iterdir():
        shutil.copy(file, folder / "rows")
    columns = ["layers", "search_flops", "arm", "seed"]
    (part,) = table.scan(folder, columns, "done", 100)
    assert part.column_names == columns
    assert part["layers"].null_count == part.num_rows == 10
    assert sorted(part["search_flops"].to_pylist())[-2:] == [2424832, 2424832]
    assert len(table.read(folder)) == 10


@pytest.mark.parametrize("version", [0, 5, None, "2", 1.5])
def test_a_version_that_is_not_known_is_refused_by_a_sentence(kept: Kept, version: Any) -> None:
    folder = kept(2)
    file = table.files(folder)[1]
    stamped(file, version)
    said = f"{file}: of schema version {version}, where 1 to 4 are read; {table.ASIDE}"
    with pytest.raises(Mistake) as caught:
        table.read(folder)
    assert str(caught.value) == said
    with pytest.raises(Mistake, match=f"of schema version {version}, where 1 to 4 are read"):
        list(table.scan(folder, ["arm"], "done", 100))


def test_a_file_lacks_nothing_that_its_version_had(kept: Kept) -> None:
    folder = kept(1)
    stamped(table.files(folder)[0], 2)
    with pytest.raises(Mistake, match="without the column search_flops"):
        table.read(folder)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_report_is_written(kept: Kept, version: int) -> None:
    folder = kept(version)
    assert report.build(folder).exists()  # parts that fail would raise
    points = pd.read_csv(folder / "report" / "front.csv")
    rows = table.last(table.read(folder))
    assert len(points) == len(front.summarise(rows))
    assert len(verdicts.build([folder]).lines)
    assert set(attainment.fronts_by_seed(folder)["arm"]) == set(rows["arm"])


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_plan_says_what_the_study_holds(kept: Kept, version: int) -> None:
    folder = kept(version)
    rows = table.read(folder)
    assert table.current(folder, rows).equals(rows)
    assert goals.recorded(folder) == goals.Goals()
    path = folder / "plan" / "study.json"
    about = json.loads(path.read_text())
    if version == 1:
        about["members"]["dense"] = about["members"]["dense"][1:]
    else:
        about["removed"] = {"dense": [rows["member"].iloc[0]]}
        del about["goals"]
    path.write_text(json.dumps(about))
    assert table.current(folder, rows)["member"].tolist() == rows["member"].tolist()[1:]
    assert goals.recorded(folder) == goals.Goals()


def test_a_study_of_another_task_is_refused_and_keeps_its_rows(kept: Kept) -> None:
    folder = kept(1)
    before = table.read(folder)
    with pytest.raises(Mistake, match="was begun with another task, and its rows would not comp"):
        opened(1, folder)
    assert table.read(folder).equals(before)


@pytest.mark.parametrize("version", [2, 3])
def test_a_study_of_the_same_task_is_carried_on(kept: Kept, version: int) -> None:
    """Also where its algorithms have gained hyper-parameters since."""
    folder = kept(version)
    plan = opened(version, folder)
    assert sum(cohort.size for cohort in plan.cohorts) == plan.total == len(table.read(folder))
    assert plan.grow(lambda arm, number, count: []) == []
    assert len(table.current(folder, table.read(folder))) == plan.total


@pytest.mark.parametrize("version", [1, 2, 3])
def test_kept_networks_are_loaded_and_answer_as_their_rows_say(kept: Kept, version: int) -> None:
    folder = kept(version)
    data = leaving.task(folder).data
    rows = table.read(folder).set_index("member", drop=False)
    for member in networks.kept_members(folder):
        network, _, parent = networks.load_with_masks(folder, member)
        shrunk = networks.load_shrunk(folder, member)
        row = {str(name): value for name, value in rows.loc[member].items()}
        leaving.check_counts(shrunk, row, parent.input_shape)
        leaving.check_answers(shrunk, network, row, data)
