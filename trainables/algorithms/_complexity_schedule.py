"""When complexity-aware training learns its gates, rounds them, and measures what is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..contract import State
from ..structure.units import Structure

OFTEN = 40
"""How often a unit is flipped, on average, where `interval` is not given."""

AUDITS = 2
"""How often, between the time that gates settle and the end, all that is kept is measured against
its price.
"""


class Schedule(NamedTuple):
    """The course of a training of `steps` optimiser steps. hp: the static hyper-parameters."""

    hp: Mapping[str, Any]
    steps: int

    @property
    def warm(self) -> int:
        """The step after which gates are learnt."""
        return round(self.hp["warmup"] * self.steps)

    @property
    def settle(self) -> int:
        """The step after which gates are rounded."""
        return round(self.hp["settle"] * self.steps)

    @property
    def audits(self) -> list[int]:
        """The steps after which all that is kept is measured: evenly spread between settling and
        the end.
        """
        rest = self.steps - self.settle
        parts = AUDITS + 1
        after: list[int] = []
        for number in range(1, parts):
            waited = rest * number // parts
            after.append(self.settle + waited)
        return after

    def learns(self, step: int) -> bool:
        """Whether gates are being learnt."""
        return self.warm < step < self.settle

    def progress(self, step: int) -> float:
        """The share of the time of learning that is over."""
        learning = self.settle - self.warm
        return (step - self.warm) / learning

    def interval(self, structure: Structure) -> int:
        """Steps between updates: as given, or such that a unit is flipped OFTEN times, as far as
        the steps allow.
        """
        given = self.hp["interval"]
        if given:
            return given
        units = sum(layer.units for layer in structure.hidden)
        learning = self.settle - self.warm
        chances = self.hp["flips"] * learning
        wanted = OFTEN * max(1, units)
        return max(1, chances // wanted)


def schedule_of(steps: int, state: State) -> Schedule:
    """The schedule of a cohort whose task has so many steps."""
    return Schedule(state.scalars["static"], steps - state.scalars["before"])
