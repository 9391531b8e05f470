"""Test problems with a known front as algorithms that train nothing: hyper-parameters in,
objectives out as metrics.

ZDT1-3 (Zitzler, Deb, Thiele 2000) and DTLZ2 (Deb et al. 2005), all to be minimized: columns m_f1,
m_f2, (m_f3). In a study: `algorithm = "problems.ZDT1"`, with this folder on the path.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import ClassVar

import moocore
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunefront.trainables.contract import Algorithm, Member, Networks, State
from prunefront.trainables.domain import Domain
from prunefront.trainables.task import Task

REFERENCE = 1.1
"""Of each objective, the worst that counts for a hypervolume."""


class Problem(Algorithm):
    """Objectives of the variables x0, x1, ... in [0, 1]; one untrained network stands for all
    members.
    """

    objectives: ClassVar[int] = 2

    @staticmethod
    @abc.abstractmethod
    def values(x: Tensor) -> Tensor:
        """Objectives (..., m) at x (..., n)."""

    @classmethod
    @abc.abstractmethod
    def front(cls, count: int) -> NDArray[np.float64]:
        """About `count` points (p, m) spread over the true front."""

    @classmethod
    def hypervolume(cls) -> float:
        """Of the true front up to `REFERENCE`, from 40,000 points on it: too small by less than
        1e-4.
        """
        return float(moocore.hypervolume(cls.front(40_000), ref=[REFERENCE] * cls.objectives))

    def start(self, task: Task, members: Sequence[Member]) -> State:
        x = torch.tensor(
            [[member.hp[name] for name in _names(len(self.space))] for member in members],
            dtype=torch.float64,
        )
        held = {"x": x, "slot": torch.arange(len(members))}
        return State(
            {name: column.to(task.torch_device) for name, column in held.items()},
            {"rung": 0, "step": 0, "before": 0, "seconds": 0.0},
        )

    def advance(self, task: Task, state: State) -> State:
        state.scalars["rung"] += 1
        return state

    def networks(self, task: Task, state: State) -> Networks:
        params, buffers = task.initial([0])
        device = task.torch_device
        params, buffers = (
            {name: t.to(device) for name, t in tree.items()} for tree in (params, buffers)
        )
        kept = {
            name: torch.ones_like(params[name], dtype=torch.bool)
            for name in task.structure.parameters
        }
        found = self.values(state.members["x"])
        metrics = {f"f{k + 1}": found[:, k] for k in range(self.objectives)}
        return Networks(
            params, buffers, kept, metrics, torch.zeros(state.size, dtype=torch.long, device=device)
        )


def _names(count: int) -> list[str]:
    return [f"x{k}" for k in range(count)]


def _space(count: int) -> dict[str, Domain]:
    return {name: Domain("real", 0.5, "a variable", low=0, high=1) for name in _names(count)}


def _zdt(x: Tensor, second: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    f, g = x[..., 0], 1 + 9 * x[..., 1:].mean(-1)
    return torch.stack([f, g * second(f, g)], -1)


class ZDT1(Problem):
    """A convex front: f2 = 1 - sqrt(f1)."""

    source = "Zitzler, Deb, Thiele 2000, problem 1"
    space = _space(30)

    @staticmethod
    def values(x: Tensor) -> Tensor:
        return _zdt(x, lambda f, g: 1 - (f / g).sqrt())

    @classmethod
    def front(cls, count: int) -> NDArray[np.float64]:
        f = np.linspace(0, 1, count) ** 2  # dense where it is steep
        return np.stack([f, 1 - np.sqrt(f)], 1)


class Pair(ZDT1):
    """ZDT1 of two variables: members whose plan and rows are as short as those of ordinary studies."""

    space = _space(2)


class ZDT2(Problem):
    """A concave front: f2 = 1 - f1^2."""

    source = "Zitzler, Deb, Thiele 2000, problem 2"
    space = _space(30)

    @staticmethod
    def values(x: Tensor) -> Tensor:
        return _zdt(x, lambda f, g: 1 - (f / g) ** 2)

    @classmethod
    def front(cls, count: int) -> NDArray[np.float64]:
        f = np.linspace(0, 1, count)
        return np.stack([f, 1 - f**2], 1)


class ZDT3(Problem):
    """A front of five pieces: f2 = 1 - sqrt(f1) - f1 sin(10 pi f1), where nothing dominates it."""

    source = "Zitzler, Deb, Thiele 2000, problem 3"
    space = _space(30)

    @staticmethod
    def values(x: Tensor) -> Tensor:
        return _zdt(x, lambda f, g: 1 - (f / g).sqrt() - f / g * torch.sin(10 * torch.pi * f))

    @classmethod
    def front(cls, count: int) -> NDArray[np.float64]:
        f = np.linspace(0, 1, count) ** 2
        points = np.stack([f, 1 - np.sqrt(f) - f * np.sin(10 * np.pi * f)], 1)
        return points[moocore.is_nondominated(points)]


class DTLZ2(Problem):
    """A front on the unit sphere: f1^2 + f2^2 + f3^2 = 1."""

    source = "Deb, Thiele, Laumanns, Zitzler 2005, problem 2"
    space = _space(12)
    objectives = 3

    @staticmethod
    def values(x: Tensor) -> Tensor:
        radius = 1 + ((x[..., 2:] - 0.5) ** 2).sum(-1)
        a, b = x[..., 0] * torch.pi / 2, x[..., 1] * torch.pi / 2
        return radius[..., None] * torch.stack([a.cos() * b.cos(), a.cos() * b.sin(), a.sin()], -1)

    @classmethod
    def front(cls, count: int) -> NDArray[np.float64]:
        grid = torch.linspace(0, 1, round(count**0.5), dtype=torch.float64)
        return cls.values(
            torch.cat([torch.cartesian_prod(grid, grid), torch.full((len(grid) ** 2, 10), 0.5)], 1)
        ).numpy()

    @classmethod
    def hypervolume(cls) -> float:
        """The cube up to `REFERENCE` without the eighth of the unit ball."""
        return REFERENCE**3 - float(np.pi) / 6
