"""Latency: what is recorded, measured once, refused and shown. How long anything takes is never
asserted.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_report import Visible, measured, rows, save
from torch import nn

from prunefront.analysis import report
from prunefront.analysis.inference import latency
from prunefront.analysis.rows import table
from prunefront.search import BAD_INPUT, DONE, INTERRUPTED, cli
from prunefront.search.console import Console
from prunefront.search.plan import generations
from prunefront.search.study import parse as studies
from prunefront.search.tools import latency as measuring
from prunefront.trainables.measure import latency as timing
from prunefront.trainables.records.networks import keep_only
from prunefront.trainables.records.training import Training

STUDY = """
[study]
name = "timed"
seeds = [0]
keep = "all"

[task]
widths = [8]
epochs = 1
rungs = 1

[[arm]]
algorithm = "dense"

[[arm]]
algorithm = "chance"
space.sparsity = [0.5, 0.9]
"""
PLACE = {"device": "a <processor>", "threads": 1, "torch": "2.6"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Short rounds, and nothing compiled; gives the list of what would have been."""
    compiled: list[nn.Module] = []

    def compile(network: nn.Module, **_: Any) -> nn.Module:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(timing, "SECONDS", 1e-4)
    return compiled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study that was done, without Ray; its file is beside it."""
    file, folder = tmp_path / "study.toml", tmp_path / "run"
    file.write_text(STUDY)
    study = studies.read(file)
    planned = generations.Plan(study, folder, 1)
    planned.open()
    for each in planned.grow(lambda arm, number, count: []):
        cohort = generations.read_cohort(folder, each)
        if cohort.algorithm:
            training = Training(folder, "timed", study.task, cohort, True)
            while not training.finished:
                training.advance()
    return folder


def written(folder: Path, found: list[dict[str, Any]], **more: Any) -> None:
    """Latencies of some networks, twice their FLOPs in microseconds."""
    kinds = [(mode, batch) for mode in timing.MODES for batch in timing.BATCHES]
    for row in found:
        about = {
            "study": "x",
            "member": row["member"],
            "parent": False,
            **PLACE,
            "flops_shrunk": row["flops_shrunk"],
        }
        about |= {"params_shrunk": row["params_shrunk"], "rounds": 9, "reason": "", **more}
        times = {
            f"milliseconds{end}": row["flops_shrunk"] * share / 500
            for end, share in (("", 1), ("_min", 0.9), ("_max", 2))
        }
        lines = [
            about | times | {"mode": mode, "batch": batch, "examples_per_second": 1.0}
            for mode, batch in kinds
        ]
        latency.write(latency.path(folder, row["member"], about), lines)


def test_a_network_is_measured_in_both_modes_and_batches_and_left_as_it_was(quick: list[nn.Module]):
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = list(timing.measure(network, (3,)))
    assert [(row["mode"], row["batch"]) for row in found] == [
        (m, b) for m in ("eager", "compiled") for b in (1, 256)
    ]
    assert quick == [network, network]
    for row in found:
        assert 0 < row["milliseconds_min"] <= row["milliseconds"] <= row["milliseconds_max"]
        assert row["examples_per_second"] == pytest.approx(1e3 * row["batch"] / row["milliseconds"])
        assert (row["rounds"], row["reason"]) == (timing.ROUNDS, "")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_what_cannot_be_compiled_has_a_row_with_the_reason(
    quick: list[nn.Module], monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: Any, **__: Any) -> nn.Module:
        raise RuntimeError("no compiler\nsecond line")

    line = fails.__code__.co_firstlineno + 1
    monkeypatch.setattr(torch, "compile", fails)
    found = list(timing.measure(nn.Linear(3, 2), (3,)))
    assert [row["reason"] for row in found] == [
        "",
        "",
        *[f"RuntimeError: no compiler ... (test_latency.py, line {line})"] * 2,
    ]
    assert ["milliseconds" in row for row in found] == [True, True, False, False]


def test_threads_are_set_and_given_back():
    before = torch.get_num_threads()
    with timing.threads(before + 1):
        assert timing.place(torch.device("cpu"))["threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_study_is_measured_once_on_a_machine(
    folder: Path, quick: list[nn.Module], monkeypatch: pytest.MonkeyPatch
):
    study = studies.read(folder.parent / "study.toml")
    measuring.measure(study, folder, Console(quiet=True))
    found, last = latency.timings(folder), table.last(table.read(folder))
    networks = found.drop_duplicates("member")
    assert len(found) == 4 * len(networks)
    assert len(networks[~networks["parent"]]) >= 2
    assert not list((folder / "latency").glob(".*"))
    for line in networks.itertuples():
        if line.parent:
            assert line.flops_shrunk == last["flops_dense"].max()
        else:
            row = last.set_index("member").loc[str(line.member)]
            assert (line.flops_shrunk, line.params_shrunk) == (
                row["flops_shrunk"],
                row["params_shrunk"],
            )
    gone = next((folder / "latency").iterdir())
    gone.unlink()
    quick.clear()
    measuring.measure(study, folder, Console(quiet=True))
    assert len(quick) == 2, "one network in two batches"
    assert len(latency.timings(folder)) == len(found)
    quick.clear()
    monkeypatch.setattr(timing, "place", lambda _: PLACE)
    measuring.measure(study, folder, Console(quiet=True))
    assert len(latency.timings(folder)) == 2 * len(found), "another machine has rows of its own"
    text = Visible.of(report.build(folder).read_text())
    assert "parent" in text
    assert "a <processor>" in text


def test_the_command_measures_what_the_study_left(
    folder: Path, quick: list[nn.Module], monkeypatch: pytest.MonkeyPatch
):
    words = [
        "prunefront",
        "run",
        str(folder.parent / "study.toml"),
        "--latency",
        "--out",
        str(folder),
    ]
    for code, done in ((INTERRUPTED, False), (DONE, True)):
        monkeypatch.setattr("prunefront.search.drive.run.run", lambda *_, code=code: code)
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == code
        assert bool(quick) == (folder / "latency").exists() == done
    assert "Latency" in (folder / "report" / "report.html").read_text()


def test_networks_that_were_dropped_are_not_measured(folder: Path, quick: list[nn.Module]):
    keep_only(folder, set())
    measuring.measure(studies.read(folder.parent / "study.toml"), folder, Console(quiet=True))
    assert latency.timings(folder)["parent"].all()


def test_a_study_that_keeps_nothing_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "study.toml").write_text(STUDY.replace('"all"', '"none"'))
    out = tmp_path / "run"
    monkeypatch.setattr(
        "sys.argv",
        ["prunefront", "run", str(tmp_path / "study.toml"), "--latency", "--out", str(out)],
    )
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == BAD_INPUT
    told = capsys.readouterr().err
    assert '[study]: `keep` is "front" or "all" for --latency; got "none"' in told
    assert told.count("\n") == 1
    assert not out.exists()


def test_members_to_measure_lie_evenly_over_the_logarithm_of_flops():
    sample = [measured("dns", s, 0, "x") for s in (0.1 + 0.02 * i for i in range(40))]
    last = pd.DataFrame([{**row, "accuracy_valid": 0.9 - row["sparsity"] / 2} for row in sample])
    last["flops_shrunk"] = [round(2**i * 1.1) for i in range(30, -10, -1)]
    every = set(last["member"])
    chosen, front = latency.spread(last, every, most=5)
    assert front == (last["flops_shrunk"] > 0).sum() == 32, (
        "a network without FLOPs is no point of a front"
    )
    taken = last.set_index("member").loc[chosen, "flops_shrunk"].tolist()
    assert taken == sorted(taken)
    assert (taken[0], taken[-1]) == (1, max(last["flops_shrunk"]))
    steps = [math.log2(b / max(a, 1)) for a, b in pairwise(taken)]
    assert max(steps) - min(steps) <= 2
    assert latency.spread(last, every, most=5) == (chosen, front), (
        "the same again, or a second run would measure others"
    )
    assert len(latency.spread(last, every, most=100)[0]) == last["flops_shrunk"].nunique() - 1
    assert latency.spread(last, {chosen[0]}) == ([chosen[0]], 32)
    assert latency.spread(last, set()) == ([], 32)


def test_the_report_shows_latencies_and_their_rank_correlation(tmp_path: Path):
    save(tmp_path, rows())
    without = report.build(tmp_path).read_text()
    assert "Latency" not in Visible.of(without)
    chosen = [row for row in rows() if row["arm"] == "dns" and row["seed"] == 0]
    parent = measured("dense", 0.0, 0, "digits")
    written(tmp_path, chosen)
    written(tmp_path, [{**parent, "member": "parent-1"}], parent=True)
    written(
        tmp_path, [{**parent, "member": "parent-2", "flops_shrunk": 7}], parent=True
    )  # of a task that is no longer
    written(tmp_path, [{**parent, "member": "taken out"}])
    frame = latency.shown(tmp_path, table.last(table.read(tmp_path)))
    assert set(frame["member"]) == {"parent-1", *(row["member"] for row in chosen)}
    assert latency.correlations(frame)["correlation"].tolist() == pytest.approx([1.0] * 4)
    assert latency.correlations(frame)["networks"].tolist() == [6] * 4
    page = report.build(tmp_path).read_text()
    text = Visible.of(page)
    for told in (
        "Latency",
        "+1.00",
        "a <processor>",
        "sparsity 0.98",
        "parent",
        "compiled, batch 256, ms",
    ):
        assert told in text
    assert 'id="latency"' in page
    assert "a <processor>" not in page
    assert "nan" not in text.lower().replace("provenance", "")


def test_networks_that_could_not_be_measured_or_drawn_are_said_so(tmp_path: Path):
    save(tmp_path, rows())
    chosen = [row for row in rows() if row["arm"] == "dns" and row["seed"] == 0]
    written(tmp_path, [{**chosen[0], "flops_shrunk": 0}, *chosen[1:4]])
    nothing = {f"milliseconds{end}": None for end in ("", "_min", "_max")} | {
        "examples_per_second": None
    }
    about = {
        "study": "x",
        "member": chosen[4]["member"],
        "parent": False,
        **PLACE,
        "flops_shrunk": 1,
        "params_shrunk": 1,
    }
    lines = [
        about
        | nothing
        | {"mode": "compiled", "batch": 1, "rounds": 0, "reason": "RuntimeError: no compiler"}
    ]
    latency.write(latency.path(tmp_path, chosen[4]["member"], about), lines)
    page = report.build(tmp_path).read_text()
    assert "not measured: RuntimeError: no compiler" in Visible.of(page)
    assert "Not drawn: 1 networks have no FLOPs left" in page
    for file in (tmp_path / "latency").iterdir():
        if chosen[4]["member"] not in file.name:
            file.unlink()
    page = report.build(tmp_path).read_text()
    assert "not measured: RuntimeError: no compiler" in Visible.of(page)
    assert 'id="latency"' not in page


def test_files_that_cannot_be_trusted_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="columns that are not known: speed"):
        latency.write(tmp_path / "latency" / "a.parquet", [{"speed": 1}])
    assert not list((tmp_path / "latency").glob("*"))
    written(tmp_path, [measured("dns", 0.5, 0, "x")])
    (whole,) = (tmp_path / "latency").iterdir()
    whole.write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(
        ValueError,
        match=r"parquet: unreadable .*; without it, `prunefront run --latency` measures again",
    ):
        latency.timings(tmp_path)
    whole.unlink()
    pq.write_table(pa.table({"member": ["a"]}), tmp_path / "latency" / "foreign.parquet")
    with pytest.raises(
        ValueError, match=r"foreign\.parquet: not written by this version of prunefront"
    ):
        latency.timings(tmp_path)
