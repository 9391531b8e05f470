"""Taking one network away from a study: chosen, shown, exported, checked and timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..analysis import front, table
from ..analysis import pick as picking
from ..analysis.mistake import Mistake
from ..analysis.storage import Location
from ..trainables import deploy
from ..trainables import latency as timing
from ..trainables.kept import load, shrink
from ..trainables.task import Task
from . import DONE, FAILED
from .console import Console
from .study import at


def pick(folder: Location, chosen: picking.Pick, out: Location | None, console: Console) -> int:
    """Say what was chosen, and write it to `out`, by default `folder`/picked/<member>; returns an exit code.

    Raises Mistake if the study did not keep the network, if the data that it was trained on are not here, or if `out` lies
    among the study's own files.
    """
    if out is not None:
        _apart(folder, out)

    say = console.say
    point, row = chosen.point, chosen.member
    member = str(row["member"])
    say(f"setting  {point['arm']}: {point['setting']} ({chosen.why[0]})")
    say(f"         {_figures(point, point['done'])}")
    say(f"member   {member}, seed {row['seed']} ({chosen.why[1]})")
    say(f"         {_figures(row)}")
    module, kept, parent = load(folder, member)
    with at(folder):
        task = _task(folder)
    small, target = shrink(module, kept, parent), out or folder / "picked" / member
    columns = ["study", "arm", "algorithm", "dataset", "seed", "member", "hp", *front.SCORES, *front.COUNTS]
    about = {name: value.item() if hasattr(value, "item") else value for name, value in row.items() if name in columns}
    try:
        deploy.save(target, small, parent, task.data, {"row": about})
    except OSError as error:
        raise Mistake(f"{target}: can be written to; got: {error.strerror}") from error
    say(f"wrote    {_size(target / deploy.WEIGHTS)}")
    say(f"         {_size(target / deploy.ABOUT)}: architecture, preprocessing, the row")
    calls: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"torch, eager": small}
    code = DONE
    if lacking := deploy.missing():
        say(f"no ONNX: {', '.join(lacking)} not installed; python -m pip install 'prunefront[onnx]' brings what it needs")
    else:
        try:
            agreement = deploy.convert(small, target / deploy.ONNX, parent, task.data)
        except Mistake as error:
            say(str(error))
            code = FAILED
        else:
            say(f"         {_size(target / deploy.ONNX)}, any batch")
            say(
                f"checked  {agreement.right[1]} of {agreement.examples} test examples right in ONNX Runtime and in torch, "
                f"logits within {agreement.difference:.1e}"
            )
            calls["ONNX Runtime"] = deploy.runtime((target / deploy.ONNX).read_bytes())
    with timing.threads(1), torch.no_grad():
        place = timing.place(torch.device("cpu"))
        say(f"latency  {place['device']}, threads: 1, torch {place['torch']}; median of {timing.ROUNDS} rounds (range)")
        for name, call in calls.items():
            for batch in timing.BATCHES:
                x = torch.zeros(batch, *parent.input_shape, dtype=getattr(torch, parent.dtype)).uniform_(-1, 1)
                found = timing.timed(call, x)
                least, most = found["milliseconds_min"], found["milliseconds_max"]
                say(f"         {name}, batch {batch}: {found['milliseconds']:.3g} ms ({least:.3g} to {most:.3g})")
    return code


def _apart(folder: Location, out: Location) -> None:
    place, own = (f"{str(each.resolve() if isinstance(each, Path) else each).rstrip('/')}/" for each in (out, folder))
    if place.startswith(own) and not place.startswith(f"{own}picked/"):
        raise Mistake(f"--out: is a folder outside of the study's, or in its picked/; got {out}")


def _figures(line: dict[str, Any], n: int | None = None) -> str:
    """Accuracies and counts of a member, or the means and deviations of `n` members of a setting."""
    told = []
    for score in front.SCORES:
        spread = "" if n is None else f" ± {100 * line[f'{score}_std']:.2f}" if n > 1 else " ± -"
        told.append(f"{score.removeprefix('accuracy_')} accuracy {100 * line[score]:.2f}{spread} %")
    flops, sizes = (
        ", ".join(f"{line[name]:,.0f} {name.removeprefix(kind)}" for name in front.COUNTS if name.startswith(kind))
        for kind in ("flops_", "params_")
    )
    return f"{', '.join(told)}{'' if n is None else f' (n = {n})'}; FLOPs {flops}; parameters {sizes}"


def _task(folder: Location) -> Task:
    """The task of the study in `folder`, on the CPU. Raises Mistake if its data are not here, or are others now."""
    about = table.planned(folder)
    if about is None or "task" not in about:
        raise Mistake("plan/study.json says on which data a network was trained; without it none is exported")
    task = dataclasses.replace(Task(**about["task"]), device="cpu")
    if task.data.digest != (was := about["description"]["data_digest"]):
        raise Mistake(f"dataset {task.dataset}: is as it was when the study ran, with digest {was}; got {task.data.digest}")
    return task


def _size(path: Location) -> str:
    return f"{path}, {len(path.read_bytes()):,} bytes"
