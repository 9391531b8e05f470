"""Latencies after a study: the networks of its front, shrunk, and their parent, timed on this
machine and recorded.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable

from torch import nn

from ...analysis.inference import latency
from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, locate
from ...trainables.measure import flops
from ...trainables.measure import latency as timing
from ...trainables.records.networks import kept_members, load_shrunk
from ..console import Console
from ..drive.run import locked
from ..study.schema import Study

PARENT = "parent-"


def check(study: Study) -> None:
    """Raise Mistake if the study keeps no networks, so that none could be measured when it ends."""
    if study.about.keep == "none":
        raise Mistake(
            f'{study.place}: [study]: `keep` is "front" or "all" for --latency; got "none"'
        )


def measure(study: Study, folder: Where, console: Console) -> None:
    """Measure what has not been measured on this machine yet: the parent, and networks on the
    front.

    On a CPU with as many threads as a cohort has CPUs ([study] cpus).
    """
    folder = locate(folder)

    say = console.say
    task, device = study.task, study.task.torch_device
    with locked(folder), timing.threads(study.about.cpus):
        place, (networks, front) = timing.place(device), _networks(study, folder)
        pending = [
            member for member in networks if not latency.path(folder, member, place).exists()
        ]
        say(
            f"latency on {place['device']}, threads: {place['threads']}; the parent and {len(networks) - 1} of {front} members "
            f"on the front, of distinct FLOPs and spread over them, {latency.MOST} at most; "
            f"{len(networks) - len(pending)} networks measured before"
        )
        for done, member in enumerate(pending, 1):
            network = networks[member]().to(device).eval()
            counts = flops.count(network, task.data.shape)
            about = {
                "study": study.about.name,
                "member": member,
                "parent": member.startswith(PARENT),
                **place,
            }
            about |= {"flops_shrunk": counts.flops, "params_shrunk": counts.params}
            rows = []
            for row in timing.measure(network, task.data.shape):
                rows.append(about | row)
                taken = row["reason"] or f"{row['milliseconds']:.3g} ms"
                say(
                    f"  {done}/{len(pending)} {counts.flops:,} FLOPs, {row['mode']}, batch {row['batch']}: {taken}"
                )
            latency.write(latency.path(folder, member, place), rows)


def _networks(study: Study, folder: Location) -> tuple[dict[str, Callable[[], nn.Module]], int]:
    """How to get the networks to measure, by member, the parent first; and how many members are on
    the front.
    """
    last, task = table.last(table.current(folder, table.read(folder))), study.task
    done = (last["status"] == "done").any()
    members, front = latency.spread(last, kept_members(folder)) if done else ([], 0)
    about = json.dumps(
        [task.model, dict(task.model_options), task.data.shape, task.data.classes, task.dtype]
    )
    parent = PARENT + hashlib.sha256(about.encode()).hexdigest()[:12]
    shrunk = {member: functools.partial(load_shrunk, folder, member) for member in members}
    return {parent: functools.partial(task.build, 0), **shrunk}, front
