"""Every script of benchmarks/ runs in a tiny form, so that a table of the documents can always be
made again.

A new script has a line in `TINY` or, if its smallest form takes minutes, in `LONG`, which `make
long` runs.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import same_rows
from test_packaging import ROOT
from test_work import opened

from prunefront.search.plan import generations
from prunefront.search.study import parse
from prunefront.trainables.records.training import Training

FOLDER = ROOT / "benchmarks"
SCRIPTS = sorted(
    path.name for path in FOLDER.glob("*.py") if '\nif __name__ == "__main__":' in path.read_text()
)

TINY = {
    "accuracy.py": "--seeds 1 --epochs 0.2 --gates 2 --threads 1",
    "again.py": "--seeds 2 --candidates 16 --epochs 1 --pictures {scratch}",
    "alternating.py": "--seeds 2 --epochs 0.2 --lr 1 --beta 0.1 --hidden 20 --checkpoint 10",
    "analysis.py": "--rows 2000 --rows-a-file 1000 --repeats 1 --tools prunefront pandas --out {scratch}/rows",
    "engine.py": "--models 64-32-10 --members 2 --algorithms dense --rounds 2 --seconds 0.01",
    "equal_flops.py": "{finished} --of magnitude --share 0.7 --scratch",
    "intervals.py": "--studies 20 --tables 1",
    "kernels.py": "--steps 4 --members 2 --networks mlp --algorithms dense cronos cronos_am --out {scratch}/counts.json",
    "leaving.py": "--epochs 0.2 --models 1",
    "malformed_data.py": "--draws 3",
    "malformed_studies.py": "--count 3",
    "neurons.py": "--seeds 2 --neurons 25 --epochs 2 --gates 4",
    "path.py": "--rounds 1 --betas 2 --gates 2 --threads 1 --tolerance 0.1",
    "precisions.py": "accuracy --seeds 2 --epochs 0.2",
    "same_rows.py": "{finished} {finished}",
    "scoring.py": "--candidates 8 --examples 64 --rounds 1",
    "shrink.py": "--model mlp --steps 4 --rungs 1 --audit 8 --threads 1",
    "step.py": "--members 2 --steps 5 --rounds 1",
    "strategies.py": "--seeds 2 --candidates 2 --epochs 0.2",
    "surgery.py": "digits --seeds 2 --dense 10 --surgery 10",
    "wrapping.py": "mlp --seeds 1 --epochs 1 --nu 1",
}
"""Script -> arguments. Scripts of these run in the process of the tests."""
TINY_APART = {
    "gpu.py": "--device cpu --tiny --out {scratch}/gpu.json",
    "report.py": "60",
    "sharing.py": "--device cpu --processes 1 --members 2 --steps 5 --rounds 1",
}
"""Those that start copies of themselves."""
TINY_WITH_RAY = {
    "first_minutes.py": "--repeats 1",
    "cohort.py": "--members 8 --steps 60 --plain 2",
}
LONG = {
    "faults.py": "{study} --faults 2 --kinds driver,group",
    "launches.py": "--tiny --networks lenet300 --algorithms dense",
    "nodes.py": "{study} --rounds 1",
    "samplers.py": "--problems ZDT1 --seeds 2 --members 16 --samplers random tpe --out {scratch}",
    "scale.py": "--sizes 20 --plain 10 --reports 20",
    "stopping.py": "--study {study} --factor 2 --out {scratch}",
}

STUDY = """
[study]
name = "tiny"
seeds = [0, 1]
keep = "all"

[task]
widths = [8]
epochs = 2
rungs = 2

[[arm]]
algorithm = "dense"

[[arm]]
algorithm = "magnitude"
space.sparsity = [0.3, 0.6, 0.9]
"""


def arguments(text: str, scratch: Path) -> list[str]:
    """The arguments of a script, with the places that it needs."""
    path = scratch / "tiny.toml"
    path.write_text(STUDY)
    places = {"scratch": scratch, "study": path}
    if "{finished}" in text:
        places["finished"] = finished(path, scratch / "finished")
    return text.format(**places).split()


def finished(path: Path, folder: Path) -> Path:
    """The output folder of the study, done without Ray."""
    found = parse.read(path)
    work = opened(found, folder)
    while segment := work.next():
        cohort = generations.read_cohort(folder, segment.cohort)
        if cohort.algorithm:  # each trains the dense networks that it starts from
            training = Training(folder, found.about.name, found.task, cohort, keep=True)
            while not training.finished:
                training.advance()
        work.ended(cohort.name)
    return folder


def apart(script: str, text: str, scratch: Path) -> str:
    """What a script says in a process of its own, which ends well."""
    command = [sys.executable, str(FOLDER / script), *arguments(text, scratch)]
    ran = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def test_no_script_is_forgotten() -> None:
    assert sorted([*TINY, *TINY_APART, *TINY_WITH_RAY, *LONG]) == SCRIPTS, (
        "a script has one line, in one of the tables"
    )


@pytest.mark.parametrize("script", TINY)
def test_a_script_runs(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [script, *arguments(TINY[script], tmp_path)])
    code: object = 0
    try:
        runpy.run_path(str(FOLDER / script), run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().out
    assert not code, said
    assert said.strip()


def test_a_bit_that_changed_is_found() -> None:
    before = pd.DataFrame(
        {"key": [1, 2, 3], "loss": [0.5, np.nan, 0.25], "reason": ["", None, "x"]}
    ).set_index("key")
    assert same_rows.differences(before, before.copy()) == []
    after = before.copy()
    after.loc[3, "loss"] = np.nextafter(0.25, 1)
    assert same_rows.differences(before, after) == [
        "loss: 1 of 3 rows, the first 3: 0.25 became 0.25000000000000006"
    ]
    after = before.drop(index=2).assign(more=1.0)
    assert same_rows.differences(before, after) == [
        "1 rows are in before alone, the first 2",
        "more: in one table alone",
    ]
    after = before.assign(reason=["", "y", "x"], loss=[0.5, 1.0, 0.25])
    assert [line.split(":")[0] for line in same_rows.differences(before, after)] == [
        "loss",
        "reason",
    ]


@pytest.mark.parametrize("script", TINY_APART)
def test_a_script_that_starts_copies_of_itself_runs(script: str, tmp_path: Path) -> None:
    assert apart(script, TINY_APART[script], tmp_path)


@pytest.mark.parametrize("script", TINY_WITH_RAY)
def test_a_script_runs_with_ray(script: str, tmp_path: Path) -> None:
    assert apart(script, TINY_WITH_RAY[script], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("script", LONG)
def test_a_long_script_runs_with_ray(script: str, tmp_path: Path) -> None:
    assert apart(script, LONG[script], tmp_path)
