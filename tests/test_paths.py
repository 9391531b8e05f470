"""A path is text, a `Path` or a URI, wherever a public function takes one."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from test_pick import done as done  # a study that was done
from torch import nn

import prunefront.analysis as analysis
import prunefront.trainables as trainables
from prunefront.analysis import pick as picking
from prunefront.analysis import report
from prunefront.analysis.inference import attainment, latency, likeness, verdicts
from prunefront.analysis.rows import goals, published, storage, table
from prunefront.search import DONE
from prunefront.search.console import Console
from prunefront.search.study import discovery
from prunefront.search.study import parse as studies
from prunefront.search.tools import export
from prunefront.search.tools import pick as picks
from prunefront.search.tools import show as story
from prunefront.trainables.records import leaving, networks, physical

INSIDE = {
    ("analysis.rows.storage", "each"),
    ("trainables.records.parts", "ask_parts"),
    ("trainables.records.parts", "parts_asked"),
    ("trainables.records.parts", "forget_parts"),
    ("trainables.records.networks", "written"),
    ("trainables.records.networks", "write_networks"),
    ("trainables.pulse", "left_in"),
    ("trainables.pulse", "path"),
    ("trainables.pulse", "last_word"),
}
"""Module and name of functions that are handed locations which were looked up already."""
POINTS = """name,source,dataset,model,protocol,counted,accuracy,flops,params
one,a paper,digits,mlp,as told,masked,0.9,1000,
"""


def functions(package: ModuleType) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Module, name and function, of all public functions."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for name, function in vars(module).items():
            if (
                inspect.isfunction(function)
                and function.__module__ == info.name
                and not name.startswith("_")
            ):
                yield info.name.removeprefix("prunefront."), name, function


@pytest.mark.parametrize("package", [analysis, trainables])
def test_no_public_function_wants_a_path_object(package: ModuleType):
    """`Where` is the type of what names a place; `Location` and `Path` are what `locate` makes of
    it.
    """
    strict = {
        (module, name)
        for module, name, function in functions(package)
        for parameter in inspect.signature(function).parameters.values()
        if "Location" in str(parameter.annotation) or "Path" in str(parameter.annotation)
    }
    assert strict == {
        place
        for place in INSIDE
        if place[0].startswith(package.__name__.removeprefix("prunefront."))
    }


def member(folder: Path) -> str:
    """The first of those whose networks were kept."""
    return min(networks.kept_members(folder))


def picked(folder: storage.Where, out: storage.Where | None) -> int:
    chosen = picking.pick(table.last(table.read(folder)), min_accuracy=0.1)
    return picks.pick(folder, chosen, out, Console())


CALLS: dict[str, Callable[[Any, str], Any]] = {
    "attainment.read": lambda folder, _: attainment.fronts_by_seed(folder),
    "goals.recorded": lambda folder, _: goals.recorded(folder),
    "kept.kept_members": lambda folder, _: networks.kept_members(folder),
    "kept.load_masks": lambda folder, name: networks.load_masks(folder, [name]),
    "kept.load_network": lambda folder, name: networks.load_network(folder, name),
    "kept.load_shrunk": lambda folder, name: networks.load_shrunk(folder, name),
    "kept.keep_only": lambda folder, name: networks.keep_only(folder, {name}),
    "latency.read": lambda folder, _: latency.timings(folder),
    "leaving.task": lambda folder, _: leaving.task(folder),
    "likeness.load": lambda folder, _: likeness.comparable_rows([folder]),
    "pick": lambda folder, _: picked(folder, None),
    "report.build": lambda folder, _: report.build(folder),
    "report.cautions": lambda folder, _: report.cautions(folder),
    "report.front_table": lambda folder, _: report.front_table(folder),
    "show": lambda folder, name: story.show(folder, name, Console()),
    "storage.sweep": lambda folder, _: storage.sweep(folder),
    "storage.remove_tree": lambda folder, _: storage.remove_tree(folder),
    "table.current": lambda folder, _: table.current(folder, table.read(folder)),
    "table.files": lambda folder, _: table.files(folder),
    "table.footers": lambda folder, _: table.footers(folder),
    "table.planned": lambda folder, _: table.planned(folder),
    "table.read": lambda folder, _: table.read(folder, ["accuracy_test"]),
    "table.scan": lambda folder, _: [
        part.to_pylist() for part in table.scan(folder, ["member"], "done", 10)
    ],
    "table.set_aside": lambda folder, _: table.set_aside(folder),
    "verdicts.build": lambda folder, _: verdicts.build([folder], anyway=True).lines,
}
"""What takes a study's folder, and a member's name."""


def plain(result: Any) -> str:
    """Text by which two results are compared."""
    if isinstance(result, nn.Module):
        return str({name: tensor.tolist() for name, tensor in result.state_dict().items()})
    if isinstance(result, pd.DataFrame):
        return result.to_csv()
    return str(result)


@pytest.mark.parametrize("call", CALLS)
def test_a_study_is_named_by_text_too(done: Path, tmp_path: Path, call: str):
    name, results = member(done), []
    for kind in (Path, str):
        folder = shutil.copytree(done, tmp_path / "run")
        results.append(plain(CALLS[call](kind(folder), name)))
        shutil.rmtree(folder, ignore_errors=True)
    assert results[0] == results[1]


def test_files_are_named_by_text_too(done: Path, tmp_path: Path):
    name, file = member(done), str(tmp_path / "network.safetensors")
    networks.export(str(done), name, file)
    small = physical.load(file)
    physical.save(
        str(tmp_path / "again.safetensors"), small, networks.load_with_masks(str(done), name)[2]
    )
    again = physical.load(str(tmp_path / "again.safetensors"))
    assert all(
        torch.equal(tensor, again.state_dict()[key]) for key, tensor in small.state_dict().items()
    )
    assert picked(str(done), str(tmp_path / "picked")) == DONE
    assert (tmp_path / "picked").is_dir()

    (tmp_path / "points.csv").write_text(POINTS)
    assert published.points_of(str(tmp_path / "points.csv"))["accuracy"].tolist() == [0.9]
    assert report.build(str(done), str(tmp_path / "points.csv")) == done / "report" / "report.html"
    verdicts.write(verdicts.build([str(done)]), str(tmp_path / "compared"))
    assert (tmp_path / "compared" / "compare.md").is_file()
    export.export(str(done), str(tmp_path / "trials.log"), goals.recorded(str(done)))
    assert (tmp_path / "trials.log").is_file()

    study = studies.read(str(done.parent / "study.toml"))
    assert study.path == done.parent / "study.toml"
    assert [*discovery.discover(str(tmp_path))] == [*discovery.discover(tmp_path)]


def test_bytes_are_written_and_read_by_text(tmp_path: Path):
    file = str(tmp_path / "deep" / "file")
    storage.save(file, b"some bytes")
    assert storage.read_range(file, 5, 5) == b"bytes"
    assert storage.source(file) == Path(file)
    with storage.local(file) as here:
        assert here.read_bytes() == b"some bytes"
    with storage.atomic(file) as temporary:
        temporary.write_bytes(b"others")
    assert Path(file).read_bytes() == b"others"
