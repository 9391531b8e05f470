"""When Ray starts before the study is read, and when it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from prunefront.search.drive import early

STUDY = """
[study]
name = "tiny"
seeds = [0]

[task]
{task}

[[arm]]
algorithm = "{algorithm}"
"""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process that has not imported torch yet, in an empty folder."""
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(folder: Path, task: str = "epochs = 2", algorithm: str = "dense") -> Path:
    path = folder / "study.toml"
    path.write_text(STUDY.format(task=task, algorithm=algorithm))
    return path


def test_a_new_study_in_a_fresh_process_saves_time(fresh: Path) -> None:
    assert early._saves_time(study(fresh), None)
    assert early._saves_time(study(fresh), "out")


def test_where_torch_is_imported_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    assert "torch" in sys.modules
    assert not early._saves_time(study(tmp_path), str(tmp_path / "out"))


def test_a_study_that_was_begun_may_be_done(fresh: Path) -> None:
    (fresh / "runs" / "tiny" / "plan").mkdir(parents=True)
    assert not early._saves_time(study(fresh), None)
    assert early._saves_time(study(fresh), "elsewhere")


def test_a_store_is_not_asked(fresh: Path) -> None:
    assert not early._saves_time(study(fresh), "s3://bucket/runs")


@pytest.mark.parametrize(
    ("task", "algorithm"),
    [
        ("epochs = 2", "mine.Sick"),
        ('model = "mine.net"', "dense"),
        ('dataset = "mine.data"', "dense"),
    ],
)
def test_code_of_a_users_own_runs_before_ray_does(fresh: Path, task: str, algorithm: str) -> None:
    assert not early._saves_time(study(fresh, task, algorithm), None)


@pytest.mark.parametrize("text", ["", "[study", "[study]\nname = 3", "study = 1\narm = [1]"])
def test_what_is_no_study_starts_nothing(fresh: Path, text: str) -> None:
    path = fresh / "study.toml"
    path.write_text(text)
    assert not early._saves_time(path, None)
    path.write_bytes(b"\xff")
    assert not early._saves_time(path, None)
    assert not early._saves_time(fresh / "nothing.toml", None)
