"""How members are run, in a plan: chosen once, kept while a study grows, and followed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_plan import CHANCE, DENSE, MAGNITUDE, lines, prepare, study

from prunefront.analysis.rows import rundir
from prunefront.search.plan import cohorts as forming
from prunefront.search.plan import generations
from prunefront.search.study.schema import Study
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.training import Training
from prunefront.trainables.training import planner
from prunefront.trainables.training.engine import Execution


class Choices:
    """What is chosen in place of timing, and with how many threads it was asked."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.asked: list[int] = []
        self.threads: list[int] = []

    def __call__(self, task: object, algorithm: object, *rest: object) -> planner.Choice:
        self.asked.append(1)
        self.threads.append(torch.get_num_threads())
        return planner.Choice(self.execution, "it was timed")


def choosing(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> Choices:
    choices = Choices(execution)
    monkeypatch.setattr(planner, "choose", choices)
    return choices


def ways(cohorts: Sequence[Cohort]) -> set[Execution]:
    return {Execution(cohort.together, cohort.compile) for cohort in cohorts}


def told(found: Study, folder: Path) -> list[str]:
    """What a user is told of a study's plan."""
    sentences: list[str] = []
    plan = generations.Plan(found, folder, 2)
    plan.say = sentences.append
    plan.open()
    plan.grow(lambda arm, number, count: [])
    return sentences


def test_a_choice_is_written_down_and_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = study(tmp_path, DENSE, CHANCE, MAGNITUDE)
    choices = choosing(Execution(8, True), monkeypatch)
    sentences = told(found, tmp_path)
    assert sentences == [
        "dense, chance, magnitude: 8 members in one program, compiled (it was timed)"
    ]
    assert len(choices.asked) == 4, "chance has two code paths, and a dense phase is dense"
    assert told(found, tmp_path) == []
    assert ways(prepare(found, tmp_path, 2)) == {Execution(8, True)}
    for line in b"".join(lines(tmp_path).values()).splitlines():
        fields = json.loads(line)
        assert (fields["together"], fields["compile"]) == (8, True)


def test_a_choice_by_rule_is_not_told(tmp_path: Path):
    assert told(study(tmp_path, DENSE), tmp_path) == []


def test_a_worker_and_the_planner_have_as_many_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = study(tmp_path, DENSE)
    found = dataclasses.replace(found, about=found.about.model_copy(update={"cpus": 2}))
    choices = choosing(Execution(), monkeypatch)
    prepare(found, tmp_path, 2)
    assert choices.threads == [2]
    assert torch.get_num_threads() == 1


def test_a_study_that_grows_keeps_the_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a machine on which another one would be made; of its dense phases too."""
    choosing(Execution(8, True), monkeypatch)
    prepare(study(tmp_path, DENSE, MAGNITUDE), tmp_path, 2)
    before = lines(tmp_path)
    choices = choosing(Execution(1), monkeypatch)
    grown = prepare(study(tmp_path, DENSE, MAGNITUDE, seeds=range(5)), tmp_path, 2)
    assert not choices.asked
    assert ways(grown) == {Execution(8, True)}
    assert before.items() <= lines(tmp_path).items()
    grown = prepare(study(tmp_path, DENSE, MAGNITUDE, CHANCE, seeds=range(5)), tmp_path, 2)
    assert ways([cohort for cohort in grown if cohort.arm == "chance"]) == {Execution(1)}


def test_a_task_is_obeyed_in_what_is_planned_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    choosing(Execution(8, True), monkeypatch)
    prepare(study(tmp_path, DENSE), tmp_path, 2)
    choosing(Execution(4), monkeypatch)
    found = study(tmp_path, DENSE, seeds=range(5))
    said = dataclasses.replace(found.task, compile=False)
    grown = prepare(dataclasses.replace(found, task=said), tmp_path, 2)
    assert [Execution(cohort.together, cohort.compile) for cohort in grown] == [
        Execution(8, True),
        Execution(4),
    ]


def test_a_plan_that_is_copied_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = study(tmp_path, DENSE, MAGNITUDE)
    choosing(Execution(2), monkeypatch)
    (tmp_path / "a").mkdir()
    first = prepare(found, tmp_path / "a", 2)
    shutil.copytree(tmp_path / "a" / "plan", tmp_path / "b" / "plan")
    choices = choosing(Execution(1), monkeypatch)
    assert prepare(found, tmp_path / "b", 3) == first
    assert not choices.asked


def test_a_plan_of_an_older_version_runs_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = study(tmp_path, DENSE)
    prepare(found, tmp_path, 2)
    (name,) = lines(tmp_path)
    path = rundir.plan(tmp_path) / name
    older: list[str] = []
    for line in path.read_text().splitlines():
        fields = json.loads(line)
        del fields["together"], fields["compile"]
        older.append(json.dumps(fields) + "\n")
    path.write_text("".join(older))
    choices = choosing(Execution(8, True), monkeypatch)
    assert ways(prepare(found, tmp_path, 2)) == {Execution()}
    assert ways(prepare(study(tmp_path, DENSE, seeds=range(5)), tmp_path, 2)) == {Execution()}
    assert not choices.asked


def test_what_fails_to_be_timed_is_run_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(*given: object) -> planner.Choice:
        raise RuntimeError("a user's own")

    monkeypatch.setattr(forming.planner, "choose", fails)
    assert ways(prepare(study(tmp_path, DENSE, MAGNITUDE), tmp_path, 2)) == {Execution()}


@pytest.mark.parametrize("execution", [Execution(1), Execution(2), Execution()], ids=str)
def test_the_same_plan_has_the_same_bits(execution: Execution, tmp_path: Path):
    """And another one the same results but for rounding: rows, but for time and how it was run."""
    found = study(tmp_path, MAGNITUDE, epochs=1)
    own = dataclasses.replace(
        found.task, together=execution.together, compile=execution.compile, precision="float64"
    )
    found = dataclasses.replace(found, task=own)
    kept: list[list[bytes]] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        if name == "b":
            shutil.copytree(tmp_path / "a" / "plan", tmp_path / "b" / "plan")
        cohorts = prepare(found, tmp_path / name, 2)
        (cohort,) = [cohort for cohort in cohorts if cohort.algorithm]
        assert ways([cohort]) == {execution}
        task = dataclasses.replace(found.task, together=0)  # the plan has the say
        training = Training(tmp_path / name, "s", task, cohort, True)
        while not training.finished:
            training.advance()
        networks = sorted((tmp_path / name / "networks").iterdir())
        kept.append([path.read_bytes() for path in networks])
    assert kept[0] == kept[1] != []
