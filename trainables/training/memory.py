"""How much memory members take while they train: as the algorithm says of their shapes, or measured
by training a few.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ...analysis.rows.mistake import Mistake
from ..contract import Member
from ..watch import Watch, tensors_in

if TYPE_CHECKING:
    from ..contract import Algorithm
    from ..domain import Value
    from ..task import Task

SHARE = 0.5
"""Share of the free memory that cohorts may fill: the rest is for libraries, measuring and other
people.
"""


def member_bytes(task: Task, algorithm: Algorithm, member: Member) -> int:
    """Memory that one more member like `member` takes in a cohort while it trains, bytes; at least
    1.
    """
    parent = algorithm.parent(task, member.hp)
    of_two = _peak(parent, algorithm, member, 2)
    of_four = _peak(parent, algorithm, member, 4)
    of_one_more = (of_four - of_two) // 2
    return max(1, of_one_more)


def fitting(each: int, device: torch.device, workers: int) -> int:
    """How many members of `each` bytes one of `workers` equal workers can train together on a
    device; at least 1.
    """
    room = allowance(device, workers)
    return max(1, room // each)


def allowance(device: torch.device, workers: int) -> int:
    """Bytes of a device that the cohorts of one of `workers` equal workers may fill."""
    allowed = SHARE * free_bytes(device)
    return int(allowed / workers)


def fitting_shapes(
    task: Task,
    algorithm: Algorithm,
    hp: Mapping[str, Value],
    most: int,
    room: int,
) -> int | None:
    """How many members with the static values of `hp`, up to `most`, fit `room` bytes by what the
    algorithm says of their shapes; None if it says nothing. task: their parent.

    Raises Mistake, what one takes and what there is, if not one does.
    """

    def needed(count: int) -> int:
        footprint = algorithm.footprint(task, hp, count)
        assert footprint is not None, "a footprint is known for every count or for none"
        return footprint

    if algorithm.footprint(task, hp, 1) is None:
        return None
    counts = range(1, most + 1)
    fits = bisect.bisect_right(counts, room, key=needed)
    if not fits:
        labels = task.data.labels["train"]
        examples = len(labels)
        one = _size(needed(1))
        rule = f"one member holds about {one} while it trains on {examples:,} examples"
        fewer = "let fewer workers share the memory (`cpus` and `gpus` of [study])"
        cure = f"lower {algorithm.lighter}, or {fewer}"
        raise Mistake(f"{rule}, and a worker may fill {_size(room)}; {cure}")
    return fits


def _size(count: int) -> str:
    """Bytes in words."""
    if count >= 1e8:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:,.1f} MB"


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    pages = os.sysconf("SC_AVPHYS_PAGES")
    page_size = os.sysconf("SC_PAGE_SIZE")
    return pages * page_size


def _peak(task: Task, algorithm: Algorithm, member: Member, count: int) -> int:
    """Most bytes of tensors alive at a time in the first step of `count` members, started from
    initial weights.
    """
    # A rung at each step.
    short = dataclasses.replace(
        task,
        rungs=task.steps,
        dense_share=0.0,
        starts="",
        together=0,
        compile=False,
    )
    hp = algorithm.alone(member.hp)
    members = [Member(hp, seed) for seed in range(count)]
    # What belongs to the process and not to a member is made before counting begins.
    _ = short.data
    _ = short.stackable
    _ = short.structure
    with _Peak() as peak:
        algorithm.advance(short, algorithm.start(short, members))
    return peak.most


class _Peak(Watch):
    """Sums the storages that operations return, as long as they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        named = kwargs or {}
        out = func(*args, **named)
        for tensor in tensors_in(out):
            storage = tensor.untyped_storage()
            if storage not in self._known:
                self._add(storage)
        self.most = max(self.most, self.now)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        weakref.finalize(storage, self._freed, size)

    def _freed(self, size: int) -> None:
        self.now -= size
