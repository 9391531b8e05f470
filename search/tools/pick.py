"""Taking one network away from a study: chosen, shown, exported, checked and timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from ...analysis import pick as picking
from ...analysis.points import front
from ...analysis.rows import rundir, table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, locate
from ...trainables.measure import latency as timing
from ...trainables.records import deploy, leaving
from ...trainables.records.networks import load_with_masks, shrink, written
from ...trainables.records.physical import Parent
from ...trainables.task import Task
from .. import DONE, FAILED
from ..console import Console
from ..study.schema import at

Call = Callable[[Tensor], Tensor]
Row = Mapping[str, Any]
TOLD = ("study", "arm", "algorithm", "dataset", "seed", "member", "hp")
"""Columns of its row that are written beside a network, with its scores and counts."""


class Network(NamedTuple):
    """What was kept of a member: the whole network, which of it is left, and its parent."""

    module: nn.Module
    kept: dict[str, Tensor]
    parent: Parent


class Converted(NamedTuple):
    """How writing an ONNX file went: exit code, a sentence, and how to call it if it is there."""

    code: int
    sentence: str
    call: Call | None = None


def pick(
    folder: Where,
    chosen: picking.Pick,
    out: Where | None,
    console: Console,
) -> int:
    """Say what was chosen, and write it to `out`, by default `folder`/picked/<member>; returns an
    exit code.

    The network is written in a temporary place, and leaves it complete, or not at all.  Raises
    Mistake if the study did not keep it, if the data that it was trained on are not here, or if
    `out` lies among the study's own files; Wrong if it is not the network that its row measured
    (`leaving`).
    """
    folder = locate(folder)
    row = chosen.member
    member = str(row["member"])
    target = rundir.picked(folder, member)
    if out is not None:
        target = locate(out)
        _check_apart(folder, target)
    _say_chosen(chosen, console)
    network = Network(*load_with_masks(folder, member))
    with at(folder):
        task = _task(folder)
    console.say(f"leaving  {_leaving(chosen)}")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        small = _write_network(place, network, row, task)
        converted = _convert(place, target, small, network, row, task)
        try:
            deploy.move(place, target)
        except OSError as error:
            raise Mistake(f"{target}: can be written to; got: {error.strerror}") from error
    _say_written(target, converted, console)
    _say_latencies(small, converted.call, network.parent, console)
    return converted.code


def _check_apart(folder: Location, out: Location) -> None:
    own = _path(folder)
    place = _path(out)
    picked = f"{own}picked/"
    if place.startswith(own) and not place.startswith(picked):
        raise Mistake(f"--out: is a folder outside of the study's, or in its picked/; got {out}")


def _path(location: Location) -> str:
    """The address of a folder, with a slash at its end."""
    if isinstance(location, Path):
        location = location.resolve()
    return f"{str(location).rstrip('/')}/"


def _say_chosen(chosen: picking.Pick, console: Console) -> None:
    point = chosen.point
    row = chosen.member
    why_setting, why_member = chosen.why
    setting = f"{point['arm']}: {point['setting']}"
    console.say(f"setting  {setting} ({why_setting})")
    figures = _figures(point, point["done"])
    console.say(f"         {figures}")
    member = f"{row['member']}, seed {row['seed']}"
    console.say(f"member   {member} ({why_member})")
    figures = _figures(row)
    console.say(f"         {figures}")
    unknown = front.unknown_operations(pd.DataFrame([row]))
    uncounted = front.uncounted(unknown)
    if uncounted:
        console.say(f"beware   {uncounted}")


def _write_network(
    place: Path,
    network: Network,
    row: Row,
    task: Task,
) -> nn.Module:
    """Write a network, shrunk, with what is to be known of it; returns it as read back.

    Raises Wrong if it is not the network that the row measured.
    """
    module, kept, parent = network
    small = shrink(module, kept, parent)
    file = place / deploy.WEIGHTS
    small = written(file, small, module, parent, row, task.data)
    columns = {*TOLD, *front.SCORES, *front.COUNTS, "unknown_ops"}
    about: dict[str, Any] = {}
    for name, value in row.items():
        if name not in columns:
            continue
        if hasattr(value, "item"):
            value = value.item()
        about[name] = value
    deploy.save(place, small, parent, task.data, {"row": about})
    return small


def _convert(
    place: Path,
    target: Location,
    small: nn.Module,
    network: Network,
    row: Row,
    task: Task,
) -> Converted:
    """Write the network to an ONNX file in `place`, and hold it against the row.

    target: where the file goes later.  Raises Wrong if it is not the network that the row measured.
    """
    lacking = deploy.missing()
    if lacking:
        cure = "python -m pip install 'prunefront[onnx]' brings what it needs"
        return Converted(DONE, f"no ONNX: {', '.join(lacking)} not installed; {cure}")
    path = place / deploy.ONNX
    try:
        agreement = deploy.convert(small, path, network.parent, task.data)
    except Mistake as error:
        later = str(target / deploy.ONNX)
        return Converted(FAILED, str(error).replace(str(path), later))
    call = deploy.runtime(path.read_bytes())
    recorded = leaving.check_answers(call, network.module, row, task.data)
    sentence = (
        f"checked  {agreement.right[1]} of {agreement.examples} test examples right "
        f"in ONNX Runtime and in torch, {recorded} recorded; "
        f"logits within {agreement.difference:.1e}"
    )
    return Converted(DONE, sentence, call)


def _say_written(target: Location, converted: Converted, console: Console) -> None:
    weights = _size(target / deploy.WEIGHTS)
    console.say(f"wrote    {weights}")
    about = _size(target / deploy.ABOUT)
    console.say(f"         {about}: architecture, preprocessing, the row")
    if converted.call is not None:
        onnx = _size(target / deploy.ONNX)
        console.say(f"         {onnx}, any batch")
    console.say(converted.sentence)


def _size(path: Location) -> str:
    content = path.read_bytes()
    return f"{path}, {len(content):,} bytes"


def _say_latencies(
    small: nn.Module,
    onnx: Call | None,
    parent: Parent,
    console: Console,
) -> None:
    calls: dict[str, Call] = {"torch, eager": small}
    if onnx is not None:
        calls["ONNX Runtime"] = onnx
    with timing.threads(1), torch.no_grad():
        machine = timing.place(torch.device("cpu"))
        console.say(
            f"latency  {machine['device']}, threads: 1, torch {machine['torch']}; "
            f"median of {timing.ROUNDS} rounds (range)"
        )
        for name, call in calls.items():
            for batch in timing.BATCHES:
                taken = _latency(call, batch, parent)
                console.say(f"         {name}, batch {batch}: {taken}")


def _latency(call: Call, batch: int, parent: Parent) -> str:
    dtype = getattr(torch, parent.dtype)
    x = torch.zeros(batch, *parent.input_shape, dtype=dtype)
    x.uniform_(-1, 1)
    times = timing.timed(call, x)
    least = times["milliseconds_min"]
    most = times["milliseconds_max"]
    median = times["milliseconds"]
    return f"{median:.3g} ms ({least:.3g} to {most:.3g})"


def _leaving(chosen: picking.Pick) -> str:
    """What the file computes, beside the cost that chose it."""
    row = chosen.member
    flops = int(row["flops_shrunk"])
    params = int(row["params_shrunk"])
    bound = _bound(row)
    file = f"a dense network of {bound}{flops:,} FLOPs and {params:,} parameters (shrunk)"
    if chosen.cost == "flops_shrunk":
        return file
    if chosen.max_flops is not None and flops > chosen.max_flops:
        limit = f"more than the {chosen.max_flops:,.15g} of --max-flops"
        file = f"{file}, {limit}: no hardware but a sparse one reaches those"
    masked = int(row[chosen.cost])
    free = "it was chosen for (masked) count removed weights as free"
    return f"{file}; the {bound}{masked:,} FLOPs {free}"


def _bound(line: Row) -> str:
    """A sign before FLOPs of which not all are counted."""
    if line.get("unknown_ops"):
        return "≥ "
    return ""


def _figures(line: Row, n: int | None = None) -> str:
    """Accuracies and counts of a member, or the means and deviations of `n` members of a
    setting.
    """
    accuracies = [_accuracy(line, score, n) for score in front.SCORES]
    listed = ", ".join(accuracies)
    count = ""
    if n is not None:
        count = f" (n = {n})"
    bound = _bound(line)
    flops = _counts(line, "flops_", bound)
    parameters = _counts(line, "params_", "")
    return f"{listed}{count}; FLOPs {flops}; parameters {parameters}"


def _accuracy(line: Row, score: str, n: int | None) -> str:
    spread = ""
    if n is not None:
        spread = " ± -"
    if n is not None and n > 1:
        deviation = 100 * line[f"{score}_std"]
        spread = f" ± {deviation:.2f}"
    split = score.removeprefix("accuracy_")
    percent = 100 * line[score]
    return f"{split} accuracy {percent:.2f}{spread} %"


def _counts(line: Row, kind: str, bound: str) -> str:
    counts: list[str] = []
    for name in front.COUNTS:
        if not name.startswith(kind):
            continue
        what = name.removeprefix(kind)
        count = line[name]
        counts.append(f"{bound}{count:,.0f} {what}")
    return ", ".join(counts)


def _task(folder: Location) -> Task:
    """The task of the study in `folder`, on the CPU. Raises Mistake if its data are not here, or
    are others now.
    """
    about = table.planned(folder)
    if about is None or "task" not in about:
        rule = "plan/study.json says on which data a network was trained"
        raise Mistake(f"{rule}; without it none is exported")
    return leaving.task(folder)
