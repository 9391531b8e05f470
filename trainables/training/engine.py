"""How the members of a cohort are run: how many in one program, and whether it is compiled.

Results agree to rounding whatever is chosen, and are the same bits where the same is chosen.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..measure.flops import CONVOLUTIONS

if TYPE_CHECKING:
    from ..task import Task

Together = int | Literal["auto"]
Compile = bool | Literal["auto"]

FEW = 4
"""Up to so many small networks are faster one after the other than stacked, on a CPU."""
COMPILED_TOGETHER = 8
"""Members of a compiled stack on a CPU: what they hold stays in a cache of its own."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the members of a cohort are run.

    together: how many at a time in one program; 1: one after the other; 0: all of them.  compile:
    whether steps are compiled.  A compiled program always has `together` members, the last ones
    repeated where they are fewer, so that it need not be compiled for another number.
    """

    together: int = 0
    compile: bool = False

    def parts(self, size: int) -> list[range]:
        """The places of the members that are run together, of `size` in all."""
        width = self.together or size
        return [range(first, min(first + width, size)) for first in range(0, size, width)]

    def padded(self, size: int) -> int:
        """How many members a program for `size` of them has."""
        if not self.compile:
            return size
        return max(size, self.together)

    def __str__(self) -> str:
        words = "all members in one program"
        if self.together == 1:
            words = "one member after the other"
        elif self.together:
            words = f"{self.together} members in one program"
        return f"{words}, compiled" if self.compile else words


def execution(task: Task, members: int) -> Execution:
    """How a task runs so many members: as it says, and by rule where it leaves that open."""
    compiles = task.compile is True
    together = task.together
    if together == "auto":
        together = _together(task, members, compiles)
    return Execution(together, compiles)


def _together(task: Task, members: int, compiles: bool) -> int:
    """How many members go into one program where the task does not say."""
    if not task.stackable:
        return 1
    if task.torch_device.type != "cpu":
        return 0
    if compiles:
        return min(COMPILED_TOGETHER, members)
    return 1 if loops(task, members) else 0


def loops(task: Task, members: int) -> bool:
    """Whether so many members are faster one after the other than stacked, by rule: on a CPU,
    networks with convolutions, and few networks of any kind.
    """
    if task.torch_device.type != "cpu":
        return False
    has_convolutions = any(isinstance(part, CONVOLUTIONS) for part in task.template.modules())
    return has_convolutions or members <= FEW


def compiler_missing(device: torch.device) -> str:
    """What torch needs to compile steps for a device and does not find; "" if nothing."""
    if device.type == "cuda":
        return "" if find_spec("triton") else "Triton"
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        return f"a C++ compiler ({compiler})"
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").exists():
        return f"Python's headers ({headers / 'Python.h'})"
    return ""


def describe(task: Task) -> Mapping[str, Any]:
    """What rows record of how their members were run."""
    return {"compile": task.compile, "together": task.together}
