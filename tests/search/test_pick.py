"""Networks taken away and told about: which one, in what files, and whether others run it as torch
does.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from test_contract import TASK, several, taken
from test_physical import PARENTS, whole_and_small
from test_report import measured, rows
from torch import nn

from prunefront.analysis import pick
from prunefront.analysis.points import front
from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Wrong
from prunefront.analysis.rows.storage import locate
from prunefront.search import BAD_INPUT, DONE, FAILED, WRONG, cli
from prunefront.search.console import Console
from prunefront.search.plan import generations
from prunefront.search.study import parse as studies
from prunefront.search.tools.show import layers, show
from prunefront.trainables.algorithms import known
from prunefront.trainables.data import share, splits
from prunefront.trainables.data.dataset import Data
from prunefront.trainables.measure import latency as timing
from prunefront.trainables.records import deploy, leaving, physical
from prunefront.trainables.records import networks as kept
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.networks import keep_only, load_shrunk, load_with_masks
from prunefront.trainables.records.training import Training
from prunefront.trainables.structure import extract
from prunefront.trainables.task import Task

STUDY = """
[study]
name = "taken"
seeds = [0, 1, 2]
keep = "all"

[task]
widths = [12]
epochs = 2
rungs = 2

[[arm]]
algorithm = "dense"

[[arm]]
algorithm = "dns"
space.sparsity = [0.4, 0.9]

[[arm]]
algorithm = "chance"
space.sparsity = [0.5]
space.granularity = ["node"]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a study that was done, without Ray."""
    place = tmp_path_factory.mktemp("taken")
    (place / "study.toml").write_text(STUDY)
    study, folder = studies.read(place / "study.toml"), place / "run"
    planned = generations.Plan(study, folder, 1)
    planned.open()
    for each in planned.grow(lambda arm, number, count: []):
        finish(folder, study.task, generations.read_cohort(folder, each))
    return folder


def finish(folder: Path, task: Task, cohort: Cohort) -> None:
    if cohort.algorithm:
        training = Training(folder, "taken", task, cohort, True)
        while not training.finished:
            training.advance()


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line, timing next to nothing; returns its exit code and what it said on both
    streams.
    """
    monkeypatch.setattr(timing, "SECONDS", 1e-5)
    monkeypatch.setattr(timing, "ROUNDS", 1)
    monkeypatch.setenv("COLUMNS", "40")

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prunefront", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


# ---- which one


def last() -> pd.DataFrame:
    return pd.DataFrame(rows())


@pytest.mark.parametrize("cost", ["flops_masked", "flops_shrunk"])
def test_bounds_choose_what_trying_every_setting_chooses(cost: front.Cost):
    means = last().groupby(["arm", "hp"])[["accuracy_valid", cost]].mean()
    for most in (*means[cost].iloc[::4], 5e3, 1e9):
        within = means[means[cost] <= most]
        if len(within):
            chosen = pick.pick(last(), cost, max_flops=most)
            assert chosen.point["accuracy_valid"] == within["accuracy_valid"].max()
            assert chosen.member[cost] <= most
            assert (chosen.member["arm"], chosen.member["hp"]) == (
                chosen.point["arm"],
                chosen.point["hp"],
            )
    for least in (*means["accuracy_valid"].iloc[::4], 0.0, 0.5):
        within = means[means["accuracy_valid"] >= least]
        assert pick.pick(last(), cost, min_accuracy=least).point[cost] == within[cost].min()


def test_nothing_of_test_data_chooses():
    scrambled = last()
    for name in [name for name in scrambled if str(name).endswith("_test")]:
        scrambled[name] = np.random.default_rng(1).random(len(scrambled))
    for most, least, knee in ((3e4, None, False), (None, 0.9, False), (None, None, True)):
        one, other = (
            pick.pick(frame, "flops_masked", most, least, knee) for frame in (last(), scrambled)
        )
        assert one.member["member"] == other.member["member"]
        assert one.member["accuracy_test"] != other.member["accuracy_test"]


def test_the_member_is_the_one_of_the_median_validation_accuracy():
    scores = [0.91, 0.99, 0.93, 0.92, 0.95]
    lines = [
        {**measured("dns", 0.5, seed, "x"), "accuracy_valid": score}
        for seed, score in enumerate(scores)
    ]
    frame = pd.DataFrame(lines).assign(flops_shrunk=[10, 20, 30, 40, 50])
    assert pick.pick(frame, at_knee=True).member["seed"] == 2
    assert pick.pick(frame.iloc[:4], at_knee=True).member["seed"] == 3, "the lower one of two"
    within = pick.pick(frame, max_flops=30)  # the mean is 30, and seeds 3 and 4 cost more
    assert within.member["seed"] == 2
    assert "the 3 of 5 seeds within the bound" in within.why[1]
    assert (
        pick.pick(frame.assign(status=["done", *["diverged"] * 4]), at_knee=True).member["seed"]
        == 0
    )


def test_bounds_that_no_point_keeps_name_the_nearest():
    cheapest = (
        r"no point of the front has at most 10 FLOPs \(shrunk\); the nearest is \w+: sparsity 0.98 "
    )
    with pytest.raises(ValueError, match=cheapest):
        pick.pick(last(), max_flops=10)
    with pytest.raises(
        ValueError,
        match=r"has a validation accuracy of at least 1; the nearest is \w+: .* accuracy 0\.97",
    ):
        pick.pick(last(), min_accuracy=1)
    with pytest.raises(ValueError, match="no member is done, and so none is on the front"):
        pick.pick(last().assign(status="diverged", accuracy_valid=np.nan), at_knee=True)


def test_a_member_is_found_by_the_beginning_of_its_name():
    frame = pd.DataFrame({"member": ["abc1", "abd2", "abd23", "f000", "f000"]})
    assert pick.full_name(frame, "f") == "f000"
    assert pick.full_name(frame, "abd2") == "abd2", "in full, though another one begins with it"
    with pytest.raises(ValueError, match="'ab' begins 3: abc1, abd2, abd23"):
        pick.full_name(frame, "ab")
    with pytest.raises(ValueError, match="no member 'abx' among 4; near: abc1, abd2, abd23"):
        pick.full_name(frame, "abx")


# ---- what is taken away


@pytest.mark.parametrize("name", known())
def test_a_network_of_every_algorithm_is_the_same_in_onnx_and_is_told_as_its_row_counts_it(
    name: str, tmp_path: Path
):
    algorithm = known()[name]
    (task,) = taken(algorithm, TASK)
    task = dataclasses.replace(task, precision="float32", epochs=1, rungs=1)
    member = several(algorithm, seeds=(0,), task=task)[-1]
    finish(tmp_path, task, Cohort("00000-test", "arm", name, (member,)))
    (row,) = table.last(table.read(tmp_path)).to_dict("records")
    module, kept, parent = load_with_masks(tmp_path, row["member"])
    small, path = load_shrunk(tmp_path, row["member"]), tmp_path / "network.onnx"
    agreement = deploy.convert(small, path, parent, task.data)
    assert agreement.difference <= 1e-4
    assert agreement.right[0] == agreement.right[1]
    assert agreement.examples == len(task.data.labels["test"])
    assert agreement.right[1] / agreement.examples == pytest.approx(
        row["accuracy_test"], abs=2 / agreement.examples
    )
    lines, whole = layers(module, kept, parent)
    assert (whole["masked"], whole["shrunk"]) == (row["flops_masked"], row["flops_shrunk"])
    for kind in ("dense", "masked", "shrunk"):
        assert sum(line[kind] for line in lines) == whole[kind]
    removable = [line for line in lines if "shape" in line]
    assert 1 - sum(line["kept"] for line in removable) / sum(
        line["parameters"] for line in removable
    ) == pytest.approx(row["sparsity"])
    by_name = {part: layer for part, layer in small.named_modules() if isinstance(layer, nn.Linear)}
    for line in removable:
        if line["layer"] in by_name:
            assert line["units"] == by_name[line["layer"]].out_features


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("normed", "units"),
        ("resnet", "all of these"),
        ("lenet5", "everything"),
        ("wrapped vgg", "blocks"),
        ("wrapped lenet5", "all of these"),
    ],
)
def test_convolutions_batch_norm_and_branches_are_the_same_in_onnx(
    name: str, kind: str, tmp_path: Path
):
    _, small, _ = whole_and_small(name, kind, 0, torch.float32)
    found = drawn(name)
    agreement = deploy.convert(small, tmp_path / "network.onnx", PARENTS[name], found)
    assert agreement.difference <= 1e-4
    assert agreement.right[0] == agreement.right[1]
    assert len(list(tmp_path.iterdir())) == 1


def drawn(name: str) -> Data:
    """Random test data of a parent's shape."""
    parent, random = PARENTS[name], torch.Generator().manual_seed(0)
    x = torch.randn(300, *parent.input_shape, generator=random)
    labels = torch.randint(parent.classes, (300,), generator=random)
    return Data(
        {"test": x}, {"test": labels}, parent.input_shape, parent.classes, "", x[:1, :1], x[:1, :1]
    )


def test_what_cannot_be_exported_or_does_not_agree_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, small, _ = whole_and_small("refused", "all of these", 0, torch.float32)
    path = tmp_path / "network.onnx"
    with pytest.raises(
        ValueError, match=r"onnx: no ONNX: the network can be exported and run; it raised \w+: "
    ) as error:
        deploy.convert(small, path, PARENTS["refused"], drawn("refused"))
    assert "\n" not in str(error.value)
    about = deploy.describe(small, PARENTS["refused"], drawn("refused"))["architecture"]
    assert about["forward"] is None
    assert "can be traced" in about["reason"]
    _, small, _ = whole_and_small("mlp", "weights", 0, torch.float32)
    right = deploy.runtime

    def wrong(content: bytes, threads: int = 1) -> Callable[[torch.Tensor], torch.Tensor]:
        call = right(content, threads)
        return lambda x: call(x) + 1e-3

    monkeypatch.setattr(deploy, "runtime", wrong)
    with pytest.raises(
        ValueError, match=r"differ by 0\.0001 at most, and both are right as often; got .*e-"
    ):
        deploy.convert(small, path, PARENTS["mlp"], drawn("mlp"))
    assert not list(tmp_path.iterdir())


def test_a_difference_is_found_wherever_it_is():
    network, found = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), drawn("mlp")
    one = found.examples("test", torch.tensor([290]))  # in the second part of the data

    def other(x: torch.Tensor) -> torch.Tensor:
        same = (x == one).flatten(1).all(1, keepdim=True)
        return torch.where(same, network(x) + 100 * torch.eye(5)[0], network(x))

    with torch.no_grad():
        assert deploy.compare(network, network, found).difference == 0
        assert deploy.compare(
            network, lambda x: network(x) * float("nan"), found
        ).difference == float("inf")
        agreement = deploy.compare(network, other, found)
        before = network(one)[0]
    label = int(found.labels["test"][290])
    assert agreement.difference == pytest.approx(100 / max(1, abs(float(before[0]))))
    assert agreement.right[1] - agreement.right[0] == int(label == 0) - int(
        label == int(before.argmax())
    )


WITHOUT = """
import json, sys
class Never:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("torch", "prunefront", "ray"):
            raise ImportError(name)
sys.meta_path.insert(0, Never())
import numpy as np, onnxruntime
from sklearn.datasets import load_digits
session = onnxruntime.InferenceSession(sys.argv[1] + "/network.onnx", providers=["CPUExecutionProvider"])
rule = json.load(open(sys.argv[1] + "/network.json"))["preprocessing"]
x = (load_digits().images[:, None].astype("float32") - np.array(rule["mean"], "f")) / np.array(rule["scale"], "f")
print(json.dumps([session.run(None, {"input": x[:count]})[0].tolist() for count in (1, 100)]))
"""


@pytest.fixture(scope="module")
def exported(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a network with fewer units than its parent."""
    target = tmp_path_factory.mktemp("exported")
    last = table.last(table.read(done))
    member = str(last["member"][last["arm"] == "chance"].iloc[0])
    module, kept, parent = load_with_masks(done, member)
    small, task = (
        extract.shrunk(module, task_of(done).structure, kept, parent.input_shape),
        task_of(done),
    )
    deploy.save(target, small, parent, task.data, {"member": member})
    deploy.convert(small, target / deploy.ONNX, parent, task.data)
    return target


def digits() -> torch.Tensor:
    """All images of the data set, as scikit-learn has them."""
    flat, _ = load_digits(return_X_y=True)
    return torch.tensor(np.asarray(flat), dtype=torch.float32).view(-1, 1, 8, 8)


def task_of(folder: Path) -> Task:
    return Task(**json.loads((folder / "plan" / "study.json").read_text())["task"])


def test_the_onnx_file_needs_neither_torch_nor_this_package(exported: Path, done: Path):
    asked = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(exported)], capture_output=True, text=True, check=False
    )
    assert asked.returncode == 0, asked.stderr
    one, hundred = json.loads(asked.stdout)
    network = physical.load(exported / deploy.WEIGHTS)
    task = task_of(done)
    raw = digits()
    with torch.no_grad():
        logits = network((raw - task.data.mean) / task.data.scale)
    torch.testing.assert_close(torch.tensor(one), logits[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.tensor(hundred), logits[:100], rtol=1e-4, atol=1e-4)


def test_the_json_says_what_it_takes_to_build_the_network_with_torch_alone(
    exported: Path, done: Path
):
    about = json.loads((exported / deploy.ABOUT).read_text())
    tensors = load_file(exported / deploy.WEIGHTS)
    assert {name: list(t.shape) for name, t in tensors.items()} == about["architecture"]["tensors"]
    built = nn.Module()
    for name, words in about["architecture"]["parts"].items():
        built.add_module(name, eval(f"nn.{words}", {"nn": nn}))
    built.load_state_dict(tensors)
    inside: dict[str, Any] = {"torch": torch}
    exec(about["architecture"]["forward"], inside)
    rule = about["preprocessing"]
    raw = digits()
    x = (raw - torch.tensor(rule["mean"])) / torch.tensor(rule["scale"])
    ours = task_of(done).data.inputs["test"]
    assert isinstance(ours, torch.Tensor)
    assert float(torch.cdist(ours.flatten(1), x.flatten(1)).min(1).values.max()) < 1e-2, (
        "each of ours is one of these"
    )
    with torch.no_grad():
        torch.testing.assert_close(
            inside["forward"](built, ours), physical.load(exported / deploy.WEIGHTS)(ours)
        )
    assert about["input"]["shape"] == ["batch", 1, 8, 8]
    assert about["output"]["shape"] == ["batch", 10]


def test_a_data_set_that_came_from_another_process_knows_its_mean(done: Path):
    found = task_of(done).data
    packed = share.pack(found)
    assert packed is not None
    try:
        share.give("digits", {}, 0, torch.float32, packed)
        given = splits.load_data("digits", {}, 0, torch.float32, torch.device("cpu"))
    finally:
        share.forget()
    assert given is not found
    assert torch.equal(given.mean, found.mean)
    assert torch.equal(given.scale, found.scale)


# ---- what leaves is what was measured


def wrongly(module: nn.Module, *_: Any) -> nn.Module:
    """What a wrong structure would give: a network of the right size whose classes are exchanged."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in list(module.parameters())[-2:]:
            parameter.copy_(parameter.roll(1, 0))
    return module


def spoilt(path: Path) -> None:
    """Edit a file of networks: each reads its inputs in another order."""
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in [
        name for name in tensors if name.endswith("weight") and not name.startswith("kept/")
    ]:
        tensors[name] = tensors[name].flip(-1).contiguous()
    save_file(tensors, path, about)


@pytest.mark.parametrize("fault", ["shrunk", "file", "accuracy", "counts", "broken", "onnx"])
def test_a_network_that_is_not_the_one_measured_does_not_leave(
    done: Path,
    command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
):
    folder, out = shutil.copytree(done, tmp_path / "run"), tmp_path / "out"
    words = ["pick", folder, "--min-accuracy", 0.1, "--out", out]
    row = pick.pick(table.last(table.read(folder)), min_accuracy=0.1).member
    right = round(359 * row["accuracy_test"])
    share = f"{100 * row['accuracy_test']:.2f}"
    figures = (
        rf"its row has {right} of 359 \({share} %\) test examples right, the file \d+ of 359 \("
    )
    if fault == "shrunk":
        monkeypatch.setattr(kept, "shrunk", lambda *given: wrongly(extract.shrunk(*given)))
    if fault == "file":
        for path in (folder / "networks").iterdir():
            spoilt(path)
    if fault in ("accuracy", "counts"):
        for path in (folder / "rows").iterdir():
            rows = pq.read_table(path)
            name = "accuracy_test" if fault == "accuracy" else "flops_shrunk"
            more = 3 / 359 if fault == "accuracy" else 2
            change = pa.array(
                [None if one is None else one + more for one in rows[name].to_pylist()],
                rows[name].type,
            )
            place = rows.schema.get_field_index(name)
            pq.write_table(rows.set_column(place, rows.schema.field(name), change), path)
    if fault == "accuracy":
        right += 3
        figures = rf"its row has {right} of 359 \(.* %\) test examples right, the file {right - 3} of 359 \("
    if fault == "counts":
        counts, params = row["flops_shrunk"], f"{row['params_shrunk']:,}"
        figures = f"its row counts {counts + 2:,} FLOPs and {params} parameters, the file {counts:,} and {params};"
    if fault == "broken":
        monkeypatch.setattr(kept, "shrunk", lambda *_: nn.Linear(3, 10))
        figures = r"its row counts .* FLOPs and .* parameters, and what would leave cannot be run: RuntimeError"
    if fault == "onnx":
        runtime = deploy.runtime
        monkeypatch.setattr(
            deploy, "runtime", lambda *given: lambda x: runtime(*given)(x).roll(1, 1)
        )
        monkeypatch.setattr(
            deploy, "compare", lambda *_: deploy.Agreement(0.0, (right, right), 359)
        )
    code, _, told = command(*words)
    assert code == WRONG
    assert re.search(figures, told), told
    assert told.endswith("nothing was written\n")
    assert told.count("\n") == 1
    assert not out.exists()
    assert not (folder / "picked").exists()


def test_export_refuses_too(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    member = pick.pick(table.last(table.read(done)), min_accuracy=0.1).member["member"]
    monkeypatch.setattr(kept, "shrunk", lambda *given: wrongly(extract.shrunk(*given)))
    with pytest.raises(
        Wrong, match=r"its row has \d+ of 359 .* the file \d+ of 359 .*; nothing was written"
    ):
        kept.export(done, member, tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    kept.export(done, member, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").is_file()


class Fixed(nn.Module):
    """Logits that are what it is told."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(x)].to(x.dtype)


def test_rounding_may_break_a_tie_and_nothing_else():
    labels = torch.tensor([0, 0, 1, 2])
    logits = torch.tensor(
        [[9.0, 1, 0], [5, 5, 0], [5, 5 + 1e-4, 0], [0, 3, 1]]
    )  # certain, two ties, never right
    x = torch.zeros(4, 1)
    found = Data({"test": x}, {"test": labels}, (1,), 3, "", x[:1], x[:1])
    whole = Fixed(logits)
    same = leaving.compare(whole, whole, found)
    assert (same.right, same.least, same.most, same.other) == (3, 1, 3, 0)
    other = logits.clone()
    other[1, 1] += 1e-5
    other[2, 0] += 1e-3
    rounded = leaving.compare(Fixed(other), whole, found)
    assert (rounded.right, rounded.other) == (1, 0)
    row = {"member": "m", "accuracy_test": 3 / 4}
    assert leaving.check_answers(Fixed(other), whole, row, found) == 3
    with pytest.raises(
        Wrong,
        match=r"its row has 4 of 4 \(100.00 %\) test examples right, the file 3 of 4 \(75.00 %\); nothing",
    ):
        leaving.check_answers(whole, whole, {**row, "accuracy_test": 1.0}, found)
    other[0, 2] = 10  # as many right as could be, and an answer that no tie explains
    other[3, 2] = 10
    with pytest.raises(Wrong, match="and answers 2 of them as the network that was kept does not"):
        leaving.check_answers(Fixed(other), whole, {**row, "accuracy_test": 1 / 4}, found)
    exact = leaving.compare(
        whole.double(), whole.double(), dataclasses.replace(found, inputs={"test": x.double()})
    )
    assert (exact.least, exact.most) == (2, 3), (
        "in float64 two logits are a tie only if they are nearer"
    )


def test_a_sparse_pick_says_what_its_file_costs(
    done: Path, command: Callable[..., Any], tmp_path: Path
):
    summary = front.summarise(table.last(table.read(done)))
    on = summary[
        front.fronts(summary, "flops_masked") & (summary["flops_masked"] < summary["flops_shrunk"])
    ]
    most = int(on["flops_masked"].max()) + 1
    code, said, _ = command(
        "pick", done, "--cost", "masked", "--max-flops", most, "--out", tmp_path / "out"
    )
    assert code == DONE
    row = json.loads((tmp_path / "out" / deploy.ABOUT).read_text())["row"]
    assert row["flops_masked"] <= most < row["flops_shrunk"]
    assert f"a dense network of {row['flops_shrunk']:,} FLOPs" in said
    assert f"more than the {most:,} of --max-flops" in said
    assert f"the {row['flops_masked']:,} FLOPs it was chosen for (masked)" in said
    code, said, _ = command(
        "pick", done, "--max-flops", row["flops_shrunk"], "--out", tmp_path / "out"
    )
    about = json.loads((tmp_path / "out" / deploy.ABOUT).read_text())["row"]
    assert about["flops_shrunk"] <= row["flops_shrunk"], "what leaves is counted as what leaves"
    assert "--max-flops: no" not in said


# ---- the commands


def test_pick_prints_recorded_figures_and_exports(
    done: Path, command: Callable[..., Any], tmp_path: Path
):
    code, said, told = command(
        "pick", done, "--min-accuracy", 0.1, "--cost", "shrunk", "--out", tmp_path / "out"
    )
    assert (code, told) == (DONE, "")
    about = json.loads((tmp_path / "out" / deploy.ABOUT).read_text())["row"]
    last = table.last(table.read(done))
    row = last[last["member"] == about["member"]].iloc[0]
    setting = last[(last["arm"] == row["arm"]) & (last["hp"] == row["hp"])]
    for score in front.SCORES:
        assert about[score] == row[score]
        mean, std = 100 * setting[score].mean(), 100 * setting[score].std()
        assert f"{score.removeprefix('accuracy_')} accuracy {100 * row[score]:.2f} %" in said
        assert f"{score.removeprefix('accuracy_')} accuracy {mean:.2f} ± {std:.2f} %" in said
    assert row["accuracy_valid"] == setting["accuracy_valid"].median()
    right = round(row["accuracy_test"] * 359)
    assert (
        f"{right} of 359 test examples right in ONNX Runtime and in torch, {right} recorded" in said
    )
    assert (
        f"leaving  a dense network of {row['flops_shrunk']:,} FLOPs and {row['params_shrunk']:,} parameters (shrunk)\n"
        in said
    )
    names = {deploy.WEIGHTS, deploy.ABOUT, deploy.ONNX}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names:
        assert f"{name}, {(tmp_path / 'out' / name).stat().st_size:,} bytes" in said
    for name in ("torch, eager", "ONNX Runtime"):
        assert all(f"{name}, batch {batch}: " in said for batch in timing.BATCHES)


def test_without_onnx_the_rest_is_exported_and_nothing_old_stays(
    done: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(deploy, "missing", lambda: ["onnxruntime"])
    (tmp_path / deploy.ONNX).write_bytes(b"of another network")
    code, said, _ = command("pick", done, "--knee", "--out", tmp_path)
    assert code == DONE
    assert "no ONNX: onnxruntime not installed; python -m pip install 'prunefront[onnx]'" in said
    assert {path.name for path in tmp_path.iterdir()} == {deploy.WEIGHTS, deploy.ABOUT}
    assert "ONNX Runtime, batch" not in said


def test_onnx_that_fails_is_said_and_the_rest_is_there(
    done: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(deploy, "compare", lambda *_: deploy.Agreement(0.0, (5, 6), 359))
    code, said, _ = command("pick", done, "--max-flops", 1e9, "--out", tmp_path)
    assert code == FAILED
    assert "both are right as often; got 0.0e+00, and 5 and 6 of 359" in said
    assert {path.name for path in tmp_path.iterdir()} == {deploy.WEIGHTS, deploy.ABOUT}


def test_show_tells_rungs_and_layers(done: Path, command: Callable[..., Any]):
    row = table.last(table.read(done)).query("arm == 'dns'").iloc[0]
    code, said, told = command("show", done, row["member"][:8])
    assert (code, told) == (DONE, "")
    assert f"member {row['member']}: dns, mlp on digits, seed {row['seed']}" in said
    assert "sparsity 0.4" in said or "sparsity 0.9" in said
    whole = next(line for line in said.splitlines() if line.split()[:1] == ["all"])
    assert whole.split()[1:] == [
        f"{row[f'flops_{kind}']:,}" for kind in ("dense", "masked", "shrunk")
    ]
    rungs = [
        line.split()
        for line in said.splitlines()
        if line.split()[:1] in (["1"], ["2"]) and "x" not in line
    ]
    assert [len(line) for line in rungs] == [8, 9], "test data in the last row alone"
    assert rungs[1][5] == f"{100 * row['accuracy_test']:.2f}"


@pytest.fixture(scope="module")
def uncounted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a study whose model transforms by Fourier, which has no FLOPs formula."""
    place = tmp_path_factory.mktemp("uncounted")
    text = STUDY.replace("widths = [12]", 'model = "example_models.fourier"').split(
        '[[arm]]\nalgorithm = "chance"'
    )[0]
    (place / "study.toml").write_text(text.replace("seeds = [0, 1, 2]", "seeds = [0]"))
    study, folder = studies.read(place / "study.toml"), place / "run"
    planned = generations.Plan(study, folder, 1)
    planned.open()
    for each in planned.grow(lambda arm, number, count: []):
        finish(folder, study.task, generations.read_cohort(folder, each))
    return folder


def test_operations_that_are_not_counted_are_said_by_pick_and_show(
    uncounted: Path, command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(deploy, "missing", lambda: ["onnx"])
    last = table.last(table.read(uncounted))
    (name,) = set(last["unknown_ops"])
    assert "fft" in name
    sentence = (
        f"FLOPs leave out what has no formula here: {name}. Every count of FLOPs is a lower bound"
    )
    code, said, _ = command("pick", uncounted, "--min-accuracy", 0.1, "--out", tmp_path / "out")
    assert code == DONE
    about = json.loads((tmp_path / "out" / deploy.ABOUT).read_text())["row"]
    assert about["unknown_ops"] == name
    assert said.count(name) == 1
    assert sentence in said
    assert f"≥ {about['flops_shrunk']:,} FLOPs" in said
    assert f"≥ {about['flops_masked']:,} masked" in said
    code, said, _ = command("show", uncounted, about["member"])
    assert code == DONE
    assert said.count(name) == 1
    assert sentence in said
    assert said.count(f"≥ {about['flops_shrunk']:,}") >= 2, "of the last rung, and of all layers"


def test_show_tells_what_it_can_of_a_network_that_was_not_kept(done: Path, tmp_path: Path):
    folder = shutil.copytree(done, tmp_path / "run")
    keep_only(folder, set())
    console = Console(width=160, file=io.StringIO())
    show(folder, str(table.read(folder)["member"].iloc[0]), console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "rung by rung" in said
    assert "layers are not shown: the study kept no network of it" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["pick", "run"],
            "exactly one of --max-flops, --min-accuracy, --knee says what to pick; got none",
        ),
        (
            ["pick", "run", "--knee", "--max-flops", "1"],
            "says what to pick; got --max-flops, --knee",
        ),
        (
            ["pick", "run", "--max-flops", "nan"],
            "--max-flops: is a number of FLOPs from 0; got nan",
        ),
        (["pick", "run", "--min-accuracy", "97"], "--min-accuracy: is a share, in [0, 1]; got 97"),
        (
            ["pick", "run", "--max-flops", "1"],
            "no point of the front has at most 1 FLOPs (shrunk); the nearest is ",
        ),
        (
            ["pick", "run", "--min-accuracy", "1"],
            "no point of the front has a validation accuracy of at least 1; the nearest is ",
        ),
        (["pick", "run", "--knee", "--cost", "dense"], "--cost: is masked or shrunk; got dense"),
        (["pick", "run", "--knee", "--out", "study.toml"], "study.toml: can be written to; got: "),
        (
            ["pick", "run", "--knee", "--out", "run/rows"],
            "--out: is a folder outside of the study's, or in its picked/; got run/rows",
        ),
        (
            ["pick", "run", "--knee", "--out", "run"],
            "--out: is a folder outside of the study's, or in its picked/; got run",
        ),
        (
            ["pick", "torn", "--knee"],
            ".safetensors: kept networks are a safetensors file that names its members; got: ",
        ),
        (
            ["pick", "cut", "--knee"],
            ".safetensors: kept networks are a safetensors file that names its members; got: ",
        ),
        (["pick", "dropped", "--knee"], "dropped: no kept network of member "),
        (
            ["pick", "elsewhere", "--knee"],
            "elsewhere: dataset digits: is as it was when the study ran, with digest 0; got ",
        ),
        (
            ["pick", "unplanned", "--knee"],
            "unplanned: plan/study.json says on which data a network was trained",
        ),
        (["pick", "nowhere", "--knee"], "nowhere: no rows; "),
        (["show", "nowhere", "a"], "nowhere: no rows; "),
        (["show", "run", "x"], "no member 'x' among 12; near: "),
        (["show", "run", ""], "'' begins 12: "),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_bad_input_is_one_sentence(
    done: Path,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: list[str],
    sentence: str,
):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(done, tmp_path / (words[1] if words[1] != "nowhere" else "run"))
    (tmp_path / "study.toml").touch()
    if words[1] == "dropped":
        keep_only(folder, set())
    if words[1] in ("torn", "cut"):  # in the header, and after it
        for path in (folder / "networks").iterdir():
            path.write_bytes(path.read_bytes()[: 20 if words[1] == "torn" else -20])
    if words[1] == "elsewhere":
        about = folder / "plan" / "study.json"
        about.write_text(about.read_text().replace(task_of(done).data.digest, "0"))
    if words[1] == "unplanned":
        shutil.rmtree(folder / "plan")
    code, _, told = command(*words)
    assert code == BAD_INPUT
    assert sentence in told
    assert told.count("\n") == 1
    assert not list(tmp_path.glob("*/picked/*/*"))


def test_a_folder_elsewhere_is_picked_from_and_exported_to(
    done: Path, command: Callable[..., Any], store: str
):
    uri = f"{store}/taken"
    for path in (path for path in done.rglob("*") if path.is_file()):
        place = locate(uri)
        for part in path.relative_to(done).parts:
            place = place / part
        place.write_bytes(path.read_bytes())
    code, said, told = command("pick", uri, "--knee")
    assert (code, told) == (DONE, "")
    member = said.split("member   ")[1].split(",")[0]
    found = locate(f"{uri}/picked/{member}")
    assert sorted(path.name for path in found.iterdir()) == sorted(
        [deploy.WEIGHTS, deploy.ABOUT, deploy.ONNX]
    )
    code, said, _ = command("show", uri, member)
    assert code == DONE
    assert "layer by layer" in said
