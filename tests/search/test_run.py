"""The driver with a real Ray: a study from its file to its report, through kills of workers and
drivers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from faults import processes, rows, start
from prunefront.analysis.rows import table
from prunefront.analysis.rows.storage import locate
from prunefront.trainables.algorithms import known
from prunefront.trainables.records.networks import load_network
from prunefront.trainables.task import Task

Moment = Callable[[subprocess.Popen[str], Path], bool]

TASK = """
[task]
widths = [8]
epochs = 12
rungs = 3
"""

STUDY = f"""
[study]
name = "tiny"
seeds = [0, 1]
keep = "all"
{TASK}
[[arm]]
algorithm = "dense"

[[arm]]
algorithm = "chance"
space.sparsity = [0.5, 0.9]

[[arm]]
algorithm = "dns"
space.sparsity = [0.5, 0.9]
"""

# An algorithm of a user's own: under 40 lines, installed by an entry point, and nothing else.
PLUGIN = '''
"""Halving: at each third of the steps the smaller half of what a layer keeps is removed."""

import os, pathlib, signal

import ray
import torch
from prunefront.trainables.structure import masks
from prunefront.trainables.domain import Domain
from prunefront.trainables.training.pruner import GradientPruner, space


class Halving(GradientPruner):
    source = "a test"
    space = space(share=Domain("real", 0.5, "the share removed at each third", low=0, high=1, open_high=True))
    follows = True  # `after_step` is called

    def init(self, params, ctx):
        return {"mask": {n: torch.ones_like(params[n], dtype=torch.bool) for n in ctx.structure.parameters}}

    def effective(self, params, pruning, ctx):
        return masks.apply(params, pruning["mask"])

    def after_step(self, params, pruning, ctx):
        if ctx.step % (ctx.steps // 3):
            return params, pruning
        wound = pathlib.Path(os.environ.get("WOUND", "/nonexistent"))
        if ctx.step > ctx.steps // 3 and wound.exists():
            wound.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        scores = {n: params[n].abs() * mask for n, mask in pruning["mask"].items()}
        done = ctx.step // (ctx.steps // 3)
        return params, {"mask": masks.weights(ctx.structure, scores, 1 - (1 - ctx.hp["share"]) ** done)}

    def kept(self, params, pruning, ctx):
        return pruning["mask"]


class NotPrime(ArithmeticError):
    """Cannot be pickled."""

    def __init__(self, number, why):
        super().__init__(f"{number} is not prime {why}")


class Broken(Halving):
    def after_step(self, params, pruning, ctx):
        if os.path.exists(os.environ["FAULT"]) and ray.is_initialized():  # in a worker, not when it is rehearsed
            raise NotPrime("seven", "enough")
        return super().after_step(params, pruning, ctx)
'''


OWN = """
[study]
name = "own"
seeds = [0, 1]

[task]
model = "my_models.normed"
channels = 4
epochs = 3
rungs = 3

[[arm]]
algorithm = "halving"
space.share = [0.3, 0.5, 0.7]

[[arm]]
algorithm = "halving_plugin.Broken"

[[arm]]
name = "wild"
algorithm = "dense"
space.lr = 1e30
"""


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process in which the plugin is installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "halving_plugin.py").write_text(PLUGIN)
    info = site / "halving_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: halving-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[prunefront.algorithms]\nhalving = halving_plugin:Halving\n"
    )
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "WOUND": str(site / "wound"),
        "FAULT": str(site / "fault"),
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "tiny.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def calm(study: Path) -> Path:
    """The output folder of a run in peace."""
    folder = study.parent / "calm"
    driver = start(study, folder)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert "report:" in said
    return folder


def test_a_study_goes_in_and_rows_networks_and_a_report_come_out(calm: Path):
    frame = table.read(calm)
    assert len(frame) == 3 * (2 + 4 + 4)
    last = table.last(frame)
    assert (last["status"] == "done").all()
    assert last["rung"].eq(3).all()
    assert last["accuracy_test"].notna().all()
    assert frame[frame["status"] == "running"]["accuracy_test"].isna().all(), (
        "test data is measured once"
    )
    assert not frame.duplicated(["arm", "member", "rung"]).any()
    for name in ("report.html", "front.svg", "front.png", "front.csv"):
        assert (calm / "report" / name).stat().st_size > 0
    assert {path.name for path in calm.iterdir()} == {
        "lock",
        "networks",
        "plan",
        "report",
        "rows",
        "starts",
    }
    assert len(list((calm / "starts").iterdir())) == 2, "one dense network for each seed"
    footer = table.footers(calm)[0]
    assert footer["task"]["data_digest"]
    assert footer["versions"]["torch"] == torch.__version__


def test_a_kept_network_has_the_accuracy_and_the_zeros_of_its_row(calm: Path):
    task = Task(model_options={"widths": [8]}, epochs=12, rungs=3)
    for row in table.last(table.read(calm)).itertuples():
        network = load_network(calm, str(row.member))
        with torch.no_grad():
            right = network(task.data.inputs["test"]).argmax(1) == task.data.labels["test"]
        assert float(right.double().mean()) == row.accuracy_test
        zeros = sum(int((p == 0).sum()) for p in network.parameters())
        assert zeros >= round(row.sparsity * 610)  # type: ignore[operator]


def test_what_is_done_is_not_done_again(calm: Path, study: Path):
    before = {path: path.stat().st_mtime_ns for path in (calm / "rows").iterdir()}
    driver = start(study, calm)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    assert "members/min" not in said, "nothing is left to train"
    assert {path: path.stat().st_mtime_ns for path in (calm / "rows").iterdir()} == before


def interrupted(driver: subprocess.Popen[str]) -> None:
    driver.send_signal(signal.SIGINT)


def closed(driver: subprocess.Popen[str]) -> None:
    """Its terminal was."""
    os.killpg(driver.pid, signal.SIGHUP)


def terminated(driver: subprocess.Popen[str]) -> None:
    """By `timeout`, again and again."""
    for _ in range(2):
        os.killpg(driver.pid, signal.SIGTERM)
        time.sleep(0.3)


def cancelled(driver: subprocess.Popen[str]) -> None:
    """By a scheduler that knows all processes of a job."""
    for process in processes(driver.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def starting(driver: subprocess.Popen[str], folder: Path) -> bool:
    return any("gcs_server" in called for called in processes(driver.pid).values())


def training(driver: subprocess.Popen[str], folder: Path) -> bool:
    return bool(table.files(folder))


def reporting(driver: subprocess.Popen[str], folder: Path) -> bool:
    return "vl_convert" in Path(f"/proc/{driver.pid}/maps").read_text()


def gone(driver: subprocess.Popen[str], seconds: float) -> bool:
    """Whether no process of the driver's session lives, at the latest after so many seconds."""
    end = time.monotonic() + seconds
    while processes(driver.pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes(driver.pid)


def stopped(
    study: Path, folder: Path, moment: Moment, stop: Callable[[subprocess.Popen[str]], None]
) -> str:
    """What a driver says that is stopped at a moment, and ends in time and in good order with all
    its processes.
    """
    driver = start(study, folder, start_new_session=True)
    while driver.poll() is None and not moment(driver, folder):
        time.sleep(0.02)
    begun = time.monotonic()
    stop(driver)
    said, _ = driver.communicate()
    assert time.monotonic() - begun < 15
    assert driver.returncode == 130, said
    assert said.strip().splitlines()[-1].endswith("the same command goes on"), said
    assert "Traceback" not in said
    assert gone(driver, 1)
    return said


def test_a_driver_that_is_stopped_and_killed_again_and_again_loses_nothing(calm: Path, study: Path):
    folder = study.parent / "killed"
    for moment, stop in (
        (starting, closed),
        (training, terminated),
        (training, cancelled),
        (training, interrupted),
    ):
        stopped(study, folder, moment, stop)
        if stop is not interrupted:
            shutil.rmtree(
                folder / "rows", ignore_errors=True
            )  # so that the next one too has all to do
    driver = start(study, folder, start_new_session=True)
    while driver.poll() is None and len(table.files(folder)) < 5:
        time.sleep(0.02)
    driver.kill()
    driver.communicate()
    assert gone(driver, 20)
    driver = start(study, folder)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    stopped(study, folder, reporting, terminated)
    pd.testing.assert_frame_equal(rows(folder), rows(calm), check_exact=True)


def test_torn_and_foreign_files_are_named_and_set_aside(calm: Path, study: Path):
    folder = study.parent / "torn"
    subprocess.run(["cp", "-r", str(calm), str(folder)], check=True)
    victim = table.files(folder)[3]
    victim.write_bytes(victim.read_bytes()[:-40])
    (folder / "rows" / "notes.txt").write_text("mine")
    pd.DataFrame({"member": ["x"]}).to_parquet(folder / "rows" / "theirs.parquet")
    driver = start(study, folder)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    for name in (victim.name, "notes.txt", "theirs.parquet"):
        assert name in said
        assert (folder / "rejected" / name).exists()
    pd.testing.assert_frame_equal(rows(folder), rows(calm), check_exact=True)


def test_a_users_own_algorithm_and_model_bad_runs_and_the_death_of_a_worker(
    plugins: dict[str, str], tmp_path: Path
):
    """A model beside the study and an installed algorithm, whose worker dies; an arm that fails,
    and one that diverges.
    """
    assert len(PLUGIN.split("class NotPrime")[0].strip().splitlines()) < 40
    assert "halving" not in known()
    (tmp_path / "my_models.py").write_text(
        (Path(__file__).parent.parent / "example_models.py").read_text()
    )
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    wound, fault = Path(plugins["WOUND"]), Path(plugins["FAULT"])

    def run(name: str) -> tuple[int, str, pd.DataFrame]:
        driver = start(path, tmp_path / name, env=plugins, cwd=tmp_path)
        said, _ = driver.communicate()
        assert "Traceback" not in said, said
        return driver.returncode, said, rows(tmp_path / name)

    wound.touch()
    fault.touch()
    code, said, first = run("hurt")
    assert not wound.exists(), "the worker was not killed"
    assert code == 1, said
    assert "lost to an error or a dead worker; carried on from its last rung" in said
    last = table.last(first)
    assert last.groupby("arm")["status"].unique().map(list).to_dict() == {
        "halving": ["done"],
        "halving_plugin.Broken": ["failed"],
        "wild": ["diverged"],
    }
    assert (
        last[last["status"] == "failed"]["reason"].str.contains("seven is not prime enough").all()
    )
    assert last[last["status"] == "diverged"]["accuracy_test"].isna().all()
    fault.unlink()
    code, said, second = run("hurt")  # what failed is tried again, and nothing else
    assert code == 0, said
    assert set(table.last(second)["status"]) == {"done", "diverged"}
    code, said, calm = run("calm")
    assert code == 0, said
    pd.testing.assert_frame_equal(second, calm, check_exact=True)
    halved = calm[(calm["arm"] == "halving") & (calm["status"] == "done")]
    assert len(halved) == 6
    assert (halved["sparsity"] - (1 - (1 - halved["hp_share"]) ** 3)).abs().max() < 0.02


# Own modules beside a study: a model, and files with names that break whatever imports the module
# that is meant.
SHADOWS = ("secrets", "calendar", "random", "torch", "types", "ray", "pyarrow")

NETS = """
import pathlib

from torch import nn


def small(shape, classes):
    pathlib.Path("beside.txt").read_text()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, classes))
"""

SICK = """
import ray

from prunefront.trainables.algorithms.dense import Dense


class Sick(Dense):
    follows = True

    def after_step(self, params, pruning, ctx):
        if ray.is_initialized():  # in a worker, not when it is rehearsed
            raise Unspeakable("seven is not prime enough", 7)
        return params, pruning


class Unspeakable(Exception):
    def __init__(self, text, number):
        super().__init__(f"{text} [/{number}]\\nMore information at https://example.org")
"""

MEAN = """
[study]
name = "mean [red]"
seeds = [0]

[task]
model = "my_nets.small"
epochs = 2
rungs = 1

[[arm]]
name = "half [/2] \u202e ±"
algorithm = "dense"

[[arm]]
algorithm = "my_sick.Sick"
"""


def test_files_named_like_modules_and_names_like_markup_harm_no_run(tmp_path: Path):
    """In an ASCII terminal, with an arm that fails: its reason is type and first line, and its
    traceback is in the log.
    """
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the wrong {name}')\n")
    (tmp_path / "my_nets.py").write_text(NETS)
    (tmp_path / "my_sick.py").write_text(SICK)
    (tmp_path / "beside.txt").write_text("found")
    (tmp_path / "mean.toml").write_text(MEAN, encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("prunefront")),
        "run",
        "mean.toml",
        "--out",
        "[draft]",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C"}
    environment.pop(
        "COLUMNS", None
    )  # processes of tests are told a width, and names would be folded
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, encoding="ascii", check=False
    )
    folder = tmp_path / "[draft]"
    assert done.returncode == 1, done
    assert r"half [/2] \u202e \xb1" in done.stdout
    assert "+- -" in done.stdout, "of one seed"
    assert "report: [draft]/report/report.html" in done.stdout
    last = table.last(table.read(folder)).set_index("algorithm")
    assert last.loc["dense", "status"] == "done"
    assert last.loc["my_sick.Sick", "status"] == "failed"
    assert last.loc["my_sick.Sick", "reason"] == "Unspeakable: seven is not prime enough [/7]"
    logs = sorted((folder / "log").iterdir())
    assert len(logs) == 4, "one for each try"
    for log in logs:
        assert f"traceback: {log.relative_to(tmp_path)}" in done.stdout
        assert "in after_step" in log.read_text()
        assert "More information at https://example.org" in log.read_text()
        assert "\x1b" not in log.read_text()


def test_a_study_is_done_in_an_object_store_as_it_is_here(calm: Path, study: Path, store: str):
    folder = locate(f"{store}/runs/tiny")
    driver = start(study, folder)
    said, _ = driver.communicate()
    assert driver.returncode == 0, said
    pd.testing.assert_frame_equal(rows(folder), rows(calm), check_exact=True)
    assert (folder / "report" / "front.png").exists()
    assert not (folder / "state").exists()
    assert not (folder / "lock").exists()
    member = table.last(table.read(folder))["member"].iloc[0]
    here, there = (load_network(place, member).state_dict() for place in (calm, folder))
    assert all(torch.equal(here[name], there[name]) for name in here)
