"""How the members of a cohort are run: how many in one program, and whether it is compiled.

Results agree to rounding whatever is chosen, and are the same bits where the same is chosen.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...analysis.rows.mistake import Mistake
from ..measure.flops import CONVOLUTIONS

if TYPE_CHECKING:
    from ..task import Task

MULTIPLE = 8
"""A compiled program has a multiple of so many members, the last ones repeated, so that few are
compiled while members leave.
"""
LARGE_FLOPS = 3e6
"""From here on, in a forward pass of one example, networks with convolutions gain nothing by being
stacked on a CPU: LeNet-5 on 28 x 28 does not, ResNet-8 on 8 x 8 does.
"""
CACHE_BYTES = 4 << 20
"""Of a CPU's cache, what the parameters of a compiled program may take, with a mask and a momentum
for each.
"""
MOST_COMPILED = 64
"""Members of a compiled program on a CPU: more gain nothing."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the members of a cohort are run.

    together: how many at a time in one program; 1: one after the other; 0: all of them.  compile:
    whether its steps are compiled.
    """

    together: int = 0
    compile: bool = False

    def parts(self, size: int) -> list[range]:
        """The places of the members that are run together, of `size` in all."""
        width = self.together or size
        parts: list[range] = []
        for first in range(0, size, width):
            end = min(first + width, size)
            parts.append(range(first, end))
        return parts

    def padded(self, size: int) -> int:
        """How many members a program for `size` of them has."""
        if not self.compile or size == 1 or size == self.together:
            return size
        multiples = -(-size // MULTIPLE)
        rounded = multiples * MULTIPLE
        return min(rounded, self.together) if self.together else rounded

    def __str__(self) -> str:
        words = "all members in one program"
        if self.together == 1:
            words = "one member after the other"
        elif self.together:
            words = f"{self.together} members in one program"
        return f"{words}, compiled" if self.compile else words


def execution(task: Task) -> Execution:
    """How a task runs its members: as it says, and as is usual where it leaves that open."""
    compiles = task.compile is True
    if task.together != "auto":
        return Execution(task.together, compiles)
    return Execution(usual_width(task) if compiles else 0, compiles)


def usual_width(task: Task) -> int:
    """How many members a compiled program of a task has: on a CPU, as many as stay in its cache."""
    if task.torch_device.type != "cpu":
        return 0
    bytes_each = 3 * 4 * task.counts.params
    fitting = max(1, CACHE_BYTES // bytes_each)
    rounded = fitting // MULTIPLE * MULTIPLE
    return min(max(rounded, MULTIPLE), MOST_COMPILED)


def by_rule(task: Task) -> Execution:
    """What is probably fastest without being compiled, when nothing was timed."""
    if task.torch_device.type != "cpu" or not has_convolutions(task):
        return Execution()
    return Execution(1 if task.counts.flops > LARGE_FLOPS else 0)


def has_convolutions(task: Task) -> bool:
    """Whether the task's model has convolutions, of which `vmap` makes grouped ones."""
    return any(isinstance(part, CONVOLUTIONS) for part in task.template.modules())


def compiler_missing(device: torch.device) -> str:
    """What torch needs to compile steps for a device and does not find; "" if nothing."""
    if device.type == "cuda":
        return _missing_for_triton()
    usual = "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        return f"a C++ compiler ({compiler})"
    headers = Path(sysconfig.get_paths()["include"], "Python.h")
    if not headers.exists():
        return f"Python's headers ({headers})"
    return ""


def _missing_for_triton() -> str:
    if find_spec("triton") is None:
        return "Triton"
    given = os.environ.get("CC")
    compilers = [given] if given else ["gcc", "clang", "cc"]
    if not any(map(shutil.which, compilers)):
        return f"a C compiler ({compilers[0]})"
    return ""


def check(task: Task) -> None:
    """Raise Mistake if steps are to be compiled and that cannot be."""
    if task.compile is not True:
        return
    missing = compiler_missing(task.torch_device)
    if missing:
        rule = f"`compile` true needs {missing}, which is not found"
        raise Mistake(f'{rule}; "auto" compiles where that is possible and pays')


def described(task: Task, refused: str) -> Mapping[str, Any]:
    """What rows record of how their members were run. refused: why steps were not compiled that
    should have been.
    """
    chosen = execution(task)
    about: dict[str, Any] = {"together": chosen.together, "compile": chosen.compile}
    if refused:
        about["refused"] = refused
    return about
