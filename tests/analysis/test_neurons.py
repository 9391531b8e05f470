"""What two-layer ReLU networks say: by hand, and of networks that studies kept, whatever trained
them.
"""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from prunefront.analysis import report, shallow
from prunefront.analysis.draw import render
from prunefront.analysis.draw import shallow as drawing
from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.analysis.sections import neurons, open_study
from prunefront.search.console import Console
from prunefront.search.plan import generations
from prunefront.search.study import parse
from prunefront.search.tools.show import show
from prunefront.trainables.records.networks import keep_only, load_masks, load_network, load_shrunk
from prunefront.trainables.records.training import Training

STUDY = """
[study]
name = "said"
seeds = [0, 1]
keep = "all"

[task]
model = "{model}"
epochs = 4
rungs = 1
{options}

[[arm]]
algorithm = "dense"

[[arm]]
algorithm = "cronos"
space.beta = [0.02, 0.1]
space.gates = 3

[[arm]]
name = "random"
algorithm = "cronos"
space.gates = 3
space.units_from = "random_features"
space.select = "greedy"
space.neurons = 5
"""


class Smooth(nn.Module):
    """Two linear layers, with something else than a ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x.flatten(1))))


def smooth(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return Smooth()


def run(place: Path, model: str = "mlp", options: str = "widths = [6]") -> Path:
    """The output folder of a study, without Ray."""
    text = STUDY.format(model=model, options=options)
    (place / "study.toml").write_text(text)
    study, folder = parse.read(place / "study.toml"), place / "run"
    planned = generations.Plan(study, folder, 1)
    planned.open()
    for each in planned.grow(lambda arm, number, count: []):
        cohort = generations.read_cohort(folder, each)
        if not cohort.algorithm:
            continue
        training = Training(folder, "said", study.task, cohort, keep=True)
        while not training.finished:
            training.advance()
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("said"))


def member(folder: Path, arm: str) -> str:
    last = table.last(table.read(folder))
    return str(last[last["arm"] == arm]["member"].iloc[0])


def by_hand(**more: Any) -> shallow.Shallow:
    """Three neurons, two classes, images of two by two: the third is never on."""
    network: dict[str, Any] = {
        "hidden": np.array([[1.0, 0, -2, 0], [0, 3, 0, 0], [5, 5, 5, 5]]),
        "outer": np.array([[2.0, 0, 1], [0, -4, 1]]),
        "active": np.array([0.5, 0.75, 0]),
        "gates": np.array([1, 0, 1]),
        "shape": (1, 2, 2),
    }
    return shallow.Shallow(**(network | more))


# ---- by hand


def test_contributions_are_weights_times_mean_outputs():
    network = by_hand()
    assert network.contributions.tolist() == [[1, 0, 0], [0, -3, 0]]
    lines = network.neurons.to_numpy().tolist()
    # neuron, gate, class, contribution, share, inputs
    assert lines == [[1, 0, 1, -3, 0.75, 1], [0, 1, 0, 1, 0.25, 2]]


def test_of_two_contributions_as_large_the_class_is_what_a_neuron_speaks_for():
    network = by_hand(outer=np.array([[-2.0, 1, 0], [2, -1, 0]]))
    assert network.neurons["class"].tolist() == [1, 0]
    assert (network.neurons["contribution"] > 0).all()


def test_importance_is_the_weights_from_an_input_by_the_length_of_those_to_the_classes():
    network = by_hand()
    last = 5 * np.sqrt(2)
    assert network.importance == pytest.approx([2 + last, 12 + last, 4 + last, last])
    assert network.image(network.importance).shape == (2, 2)
    coloured = by_hand(shape=(2, 1, 2))
    assert not coloured.is_of_images, "a line is no image"
    assert not by_hand(shape=(4,)).is_of_images


def test_gates_serve_classes_by_sums_and_numbers_of_neurons():
    network = by_hand(gates=np.array([1, 1, 0]))
    assert network.by_gate.to_numpy().tolist() == [[1, 0, 1, 1], [1, 1, -3, 1]]
    assert by_hand(gates=None).by_gate.empty
    assert by_hand(gates=None).neurons["gate"].isna().all()


def test_an_empty_network_and_one_that_diverged_say_nothing():
    assert by_hand().says
    for active in (0, np.nan, np.inf):
        assert not by_hand(active=np.full(3, active)).says


def test_large_images_are_averaged_over_squares():
    image = np.arange(15.0).reshape(3, 5)
    assert drawing.coarse(image, 15).tolist() == image.tolist()
    assert drawing.coarse(image, 6).tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"shape": (4,)},
        {"gates": None},
        {"gates": np.array([2**20, 7, 7])},
    ],
)
def test_every_kind_of_network_is_drawn(more: dict[str, Any]):
    svg = render.svg(drawing.picture({"mine": by_hand(**more)}, "title"))
    assert "mine" in svg
    assert "not 1: 75 %" in svg


# ---- as studies keep them


def test_what_is_read_is_what_the_network_computes(done: Path):
    """The sum of contributions is the mean score on the validation data, but for the last bias."""
    study = parse.read(done.parent / "study.toml")
    x = study.task.data.inputs["valid"]
    assert isinstance(x, torch.Tensor)
    for arm in ("dense", "cronos", "random"):
        name = member(done, arm)
        network = shallow.read(done, [name])[name]
        module = load_network(done, name)
        with torch.no_grad():
            scores = module(x).mean(0) - dict(module.named_parameters())["3.bias"]
        found = torch.from_numpy(network.contributions.sum(1))
        torch.testing.assert_close(found, scores.double(), rtol=1e-4, atol=1e-5)
        assert (network.gates is not None) == (arm == "cronos")


def test_gates_are_those_of_the_program(done: Path):
    rows = table.last(table.read(done)).set_index("member")
    networks = shallow.read(done, set(rows[rows["arm"] == "cronos"].index))
    assert len(networks) == 4
    for name, network in networks.items():
        assert len(network.neurons) <= rows["m_neurons"][name]
        used = np.abs(network.outer).sum(0) > 0
        assert network.gates is not None
        assert len(set(network.gates[used])) == rows["m_gates"][name]
        assert network.gates.max() == 2


def test_notes_are_no_part_of_the_network(done: Path, tmp_path: Path):
    folder = shutil.copytree(done, tmp_path / "run")
    name = member(folder, "cronos")
    before = shallow.read(folder, [name])[name]
    assert load_shrunk(folder, name)
    assert not [key for key in load_masks(folder, [name])[name] if "gate" in key]
    keep_only(folder, {name})
    assert shallow.kept(folder) == {name}
    after = shallow.read(folder, [name])[name]
    assert after.active.tolist() == before.active.tolist()


def test_a_network_of_another_kind_is_not_read(tmp_path: Path):
    folder = run(tmp_path, "test_neurons.smooth", "")
    assert member(folder, "dense") not in shallow.kept(folder)
    assert member(folder, "cronos") in shallow.kept(folder), "it is an MLP of its own"
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    assert member(other := run(deeper, options="widths = [6, 5]"), "dense") not in shallow.kept(
        other
    )


def test_a_torn_file_is_named(done: Path, tmp_path: Path):
    folder = shutil.copytree(done, tmp_path / "run")
    name = member(folder, "cronos")
    for path in (folder / "networks").glob("*"):
        path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(Mistake, match=r"safetensors: kept networks are a safetensors file"):
        shallow.read(folder, [name])


def test_networks_of_an_earlier_version_are_passed_over(done: Path, tmp_path: Path):
    """They say neither which tensors are the layers nor how active units are."""
    from safetensors.torch import save_file

    folder = shutil.copytree(done, tmp_path / "run")
    for path in (folder / "networks").glob("*"):
        tensors = {k: v for k, v in load_file(path).items() if not k.startswith("notes/")}
        about = re.sub(r', "shallow": {[^}]*}', "", _about(path))
        save_file(tensors, path, metadata={"about": about})
    assert shallow.kept(folder) == set()
    assert load_network(folder, member(folder, "cronos"))
    assert neurons.figures(open_study(folder)) is None


def _about(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()["about"]


# ---- the report, and show


def test_the_report_shows_networks_on_the_front_and_no_controls(done: Path, tmp_path: Path):
    folder = shutil.copytree(done, tmp_path / "run")
    page = report.build(folder).read_text()
    assert "What the neurons say" in page
    lines = neurons.figures(open_study(folder))
    assert lines is not None
    assert set(lines.lines["arm"]) == {"cronos"}
    written = (folder / "report" / "neurons.csv").read_text().splitlines()
    assert written[0] == "arm,setting,member,neuron,gate,class,contribution,share,inputs"
    assert len(written) == 1 + lines.lines["neurons"].sum()
    inputs = (folder / "report" / "inputs.csv").read_text().splitlines()
    assert len(inputs) == 1 + 64 * len(lines.lines)
    assert (folder / "report" / "neurons.svg").is_file()
    keep_only(folder, set())
    assert "What the neurons say" not in report.build(folder).read_text()


def test_test_data_choose_nothing(done: Path):
    last = open_study(done).own
    changed = last.assign(accuracy_test=last["accuracy_test"].to_numpy()[::-1])
    kept = shallow.kept(done)
    assert neurons.choose(last, kept).equals(neurons.choose(changed, kept))


def shown(folder: Path, name: str) -> str:
    console = Console(width=160, file=io.StringIO())
    show(folder, name, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_show_lists_neurons_and_says_where_it_drew(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(done, tmp_path / "run")
    name = member(folder, "cronos")
    said = shown(folder, name)
    first = shallow.read(folder, [name])[name].neurons.iloc[0]
    neuron, gate = int(first["neuron"]), int(first["gate"])
    served = rf"% +(not )?{int(first['class'])} +[-+][0-9.e-]+"
    assert re.search(rf"{served} +{neuron} +{gate} ", said)
    path = folder / "show" / f"{name}.svg"
    assert f"drawn: {path}" in said
    assert path.read_text().startswith("<svg")
    without = shown(folder, member(folder, "random"))
    assert "neurons, those that contribute most" in without
    monkeypatch.setattr(render, "hindrance", lambda: "no room")
    assert "not drawn: no room" in shown(folder, name)


def test_show_draws_nothing_of_a_network_that_says_nothing(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(done, tmp_path / "run")
    monkeypatch.setattr(shallow.Shallow, "says", False)
    said = shown(folder, member(folder, "cronos"))
    assert "neurons, those" not in said
    assert not (folder / "show").exists()
    assert neurons.figures(open_study(folder)) is None
