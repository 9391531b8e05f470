"""Latencies after a study: the networks of its front, shrunk, and their parent, timed on this
machine and recorded.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

from torch import nn

from ...analysis.inference import latency
from ...analysis.rows import table
from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, locate
from ...trainables.measure import flops
from ...trainables.measure import latency as timing
from ...trainables.records.networks import kept_members, load_shrunk
from ...trainables.task import Task
from ..console import Console
from ..drive.lock import locked
from ..study.schema import Study

PARENT = "parent-"
Row = dict[str, Any]
Networks = dict[str, Callable[[], nn.Module]]
"""Member -> how to get its network."""


def check(study: Study) -> None:
    """Raise Mistake if the study keeps no networks, so that none could be measured when it ends."""
    if study.about.keep == "none":
        rule = '`keep` is "front" or "all" for --latency'
        raise Mistake(f'{study.place}: [study]: {rule}; got "none"')


def measure(study: Study, folder: Where, console: Console) -> None:
    """Measure what has not been measured on this machine yet: the parent, and networks on the
    front.

    On a CPU with as many threads as a cohort has CPUs ([study] cpus).
    """
    folder = locate(folder)
    task = study.task
    device = task.torch_device
    with locked(folder), timing.threads(study.about.cpus):
        place = timing.place(device)
        networks, front_count = _networks(study, folder)
        pending: list[str] = []
        for member in networks:
            path = latency.path(folder, member, place)
            if not path.exists():
                pending.append(member)
        before = len(networks) - len(pending)
        console.say(
            f"latency on {place['device']}, threads: {place['threads']}; "
            f"the parent and {len(networks) - 1} of {front_count} members on the front, "
            f"of distinct FLOPs and spread over them, {latency.NETWORKS} at most; "
            f"{before} networks measured before"
        )
        for number, member in enumerate(pending, 1):
            network = networks[member]()
            network = network.to(device).eval()
            about: Row = {
                "study": study.about.name,
                "member": member,
                "parent": member.startswith(PARENT),
                **place,
            }
            progress = f"{number}/{len(pending)}"
            rows = _timed(network, task, about, progress, console)
            path = latency.path(folder, member, place)
            latency.write(path, rows)


def _timed(
    network: nn.Module,
    task: Task,
    about: Row,
    progress: str,
    console: Console,
) -> list[Row]:
    """The rows of one network, each said as it is measured. about: what all of them have."""
    counts = flops.count(network, task.data.shape)
    size = {"flops_shrunk": counts.flops, "params_shrunk": counts.params}
    rows: list[Row] = []
    for row in timing.measure(network, task.data.shape):
        rows.append({**about, **size, **row})
        taken = row["reason"] or f"{row['milliseconds']:.3g} ms"
        kind = f"{row['mode']}, batch {row['batch']}"
        console.say(f"  {progress} {counts.flops:,} FLOPs, {kind}: {taken}")
    return rows


def _networks(study: Study, folder: Location) -> tuple[Networks, int]:
    """How to get the networks to measure, by member, the parent first; and how many members are on
    the front.
    """
    current = table.current(folder, table.read(folder))
    last = table.last(current)
    task = study.task
    members: list[str] = []
    front_count = 0
    is_done = last["status"] == "done"
    if is_done.any():
        kept = kept_members(folder)
        members, front_count = latency.spread(last, kept)
    networks: Networks = {}
    parent = _parent_name(task)
    networks[parent] = functools.partial(task.build, 0)
    for member in members:
        networks[member] = functools.partial(load_shrunk, folder, member)
    return networks, front_count


def _parent_name(task: Task) -> str:
    data = task.data
    options = dict(task.model_options)
    parts = [task.model, options, data.shape, data.classes, task.dtype]
    content = json.dumps(parts)
    digest = hashlib.sha256(content.encode())
    return PARENT + digest.hexdigest()[:12]
