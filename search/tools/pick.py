"""Taking one network away from a study: chosen, shown, exported, checked and timed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ...analysis import pick as picking
from ...analysis.points import front
from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, locate
from ...trainables.measure import latency as timing
from ...trainables.records import deploy, leaving
from ...trainables.records.networks import load, shrink, written
from ...trainables.records.physical import Parent
from ...trainables.task import Task
from .. import DONE, FAILED
from ..console import Console
from ..study.schema import at


def pick(folder: Where, chosen: picking.Pick, out: Where | None, console: Console) -> int:
    """Say what was chosen, and write it to `out`, by default `folder`/picked/<member>; returns an
    exit code.

    The network is written in a temporary place, and leaves it complete, or not at all.  Raises
    Mistake if the study did not keep it, if the data that it was trained on are not here, or if
    `out` lies among the study's own files; Wrong if it is not the network that its row measured
    (`leaving`).
    """
    folder = locate(folder)
    out = None if out is None else locate(out)
    if out is not None:
        _apart(folder, out)

    say = console.say
    point, row = chosen.point, chosen.member
    member = str(row["member"])
    say(f"setting  {point['arm']}: {point['setting']} ({chosen.why[0]})")
    say(f"         {_figures(point, point['done'])}")
    say(f"member   {member}, seed {row['seed']} ({chosen.why[1]})")
    say(f"         {_figures(row)}")
    if uncounted := front.uncounted(front.unknown_operations(pd.DataFrame([row]))):
        say(f"beware   {uncounted}")
    module, kept, parent = load(folder, member)
    with at(folder):
        task = _task(folder)
    say(f"leaving  {_leaving(chosen)}")
    target = out or folder / "picked" / member
    columns = [
        "study",
        "arm",
        "algorithm",
        "dataset",
        "seed",
        "member",
        "hp",
        *front.SCORES,
        *front.COUNTS,
        "unknown_ops",
    ]
    about = {
        name: value.item() if hasattr(value, "item") else value
        for name, value in row.items()
        if name in columns
    }
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        small = written(
            place / deploy.WEIGHTS, shrink(module, kept, parent), module, parent, row, task.data
        )
        deploy.save(place, small, parent, task.data, {"row": about})
        code, told, call = _onnx(place, target, small, module, parent, row, task)
        try:
            deploy.move(place, target)
        except OSError as error:
            raise Mistake(f"{target}: can be written to; got: {error.strerror}") from error
    say(f"wrote    {_size(target / deploy.WEIGHTS)}")
    say(f"         {_size(target / deploy.ABOUT)}: architecture, preprocessing, the row")
    if call is not None:
        say(f"         {_size(target / deploy.ONNX)}, any batch")
    say(told)
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"torch, eager": small}
    if call is not None:
        calls["ONNX Runtime"] = call
    with timing.threads(1), torch.no_grad():
        place = timing.place(torch.device("cpu"))
        say(
            f"latency  {place['device']}, threads: 1, torch {place['torch']}; median of {timing.ROUNDS} rounds (range)"
        )
        for name, call in calls.items():
            for batch in timing.BATCHES:
                x = torch.zeros(
                    batch, *parent.input_shape, dtype=getattr(torch, parent.dtype)
                ).uniform_(-1, 1)
                found = timing.timed(call, x)
                least, most = found["milliseconds_min"], found["milliseconds_max"]
                say(
                    f"         {name}, batch {batch}: {found['milliseconds']:.3g} ms ({least:.3g} to {most:.3g})"
                )
    return code


def _onnx(
    place: Path,
    target: Location,
    small: nn.Module,
    kept: nn.Module,
    parent: Parent,
    row: Mapping[str, Any],
    task: Task,
) -> tuple[int, str, Callable[[torch.Tensor], torch.Tensor] | None]:
    """Write the network to an ONNX file in `place`, and hold it against the row: an exit code, a
    sentence, how to call it.

    Raises Wrong if it is not the network that the row measured.
    """
    if lacking := deploy.missing():
        which = ", ".join(lacking)
        told = f"no ONNX: {which} not installed; python -m pip install 'prunefront[onnx]' brings what it needs"
        return DONE, told, None
    path = place / deploy.ONNX
    try:
        agreement = deploy.convert(small, path, parent, task.data)
    except Mistake as error:
        return FAILED, str(error).replace(str(path), str(target / deploy.ONNX)), None
    call = deploy.runtime(path.read_bytes())
    recorded = leaving.check_answers(call, kept, row, task.data)
    told = (
        f"checked  {agreement.right[1]} of {agreement.examples} test examples right in ONNX Runtime and in torch, {recorded} "
        f"recorded; logits within {agreement.difference:.1e}"
    )
    return DONE, told, call


def _leaving(chosen: picking.Pick) -> str:
    """What the file computes, beside the cost that chose it."""
    flops, params = int(chosen.member["flops_shrunk"]), int(chosen.member["params_shrunk"])
    bound = "≥ " if chosen.member.get("unknown_ops") else ""
    file = f"a dense network of {bound}{flops:,} FLOPs and {params:,} parameters (shrunk)"
    if chosen.cost == "flops_shrunk":
        return file
    masked = int(chosen.member[chosen.cost])
    over = ""
    if chosen.max_flops is not None and flops > chosen.max_flops:
        over = f", more than the {chosen.max_flops:,.15g} of --max-flops: no hardware but a sparse one reaches those"
    return f"{file}{over}; the {bound}{masked:,} FLOPs it was chosen for (masked) count removed weights as free"


def _apart(folder: Location, out: Location) -> None:
    place, own = (
        f"{str(each.resolve() if isinstance(each, Path) else each).rstrip('/')}/"
        for each in (out, folder)
    )
    if place.startswith(own) and not place.startswith(f"{own}picked/"):
        raise Mistake(f"--out: is a folder outside of the study's, or in its picked/; got {out}")


def _figures(line: dict[str, Any], n: int | None = None) -> str:
    """Accuracies and counts of a member, or the means and deviations of `n` members of a setting;
    ≥: not all is counted.
    """
    told, bound = [], "≥ " if line.get("unknown_ops") else ""
    for score in front.SCORES:
        spread = "" if n is None else f" ± {100 * line[f'{score}_std']:.2f}" if n > 1 else " ± -"
        told.append(f"{score.removeprefix('accuracy_')} accuracy {100 * line[score]:.2f}{spread} %")
    flops, sizes = (
        ", ".join(
            f"{bound if kind == 'flops_' else ''}{line[name]:,.0f} {name.removeprefix(kind)}"
            for name in front.COUNTS
            if name.startswith(kind)
        )
        for kind in ("flops_", "params_")
    )
    return (
        f"{', '.join(told)}{'' if n is None else f' (n = {n})'}; FLOPs {flops}; parameters {sizes}"
    )


def _task(folder: Location) -> Task:
    """The task of the study in `folder`, on the CPU. Raises Mistake if its data are not here, or
    are others now.
    """
    about = table.planned(folder)
    if about is None or "task" not in about:
        raise Mistake(
            "plan/study.json says on which data a network was trained; without it none is exported"
        )
    return leaving.task(folder)


def _size(path: Location) -> str:
    return f"{path}, {len(path.read_bytes()):,} bytes"
