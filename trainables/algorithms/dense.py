"""Dense training: no pruning, the parent that everything is compared with."""

from __future__ import annotations

from collections.abc import Mapping

from ..domain import Value
from ..training.pruner import GradientPruner


class Dense(GradientPruner):
    """Plain training by gradient for the whole budget."""

    source = "baseline: ordinary training"
    control = True
    standard = {"dense": {}, "dense, narrower": {"width": (0.7, 0.5, 0.35, 0.25, 0.18, 0.125)}}

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True
