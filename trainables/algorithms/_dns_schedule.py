"""When Dynamic Network Surgery operates: how often, on which layers, with which share of the
thresholds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..structure.units import Layer, Structure
from ..training.pruner import Context

STEPS = 4
"""Levels of the step schedule: on each, layers are updated half as often as on the one before."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """The steps from `begun` to `end`, in which `layers` are operated on.

    growth: the share of the thresholds that counts at the present step.  full: the step from which
    on it is all.
    """

    layers: Sequence[Layer]
    begun: int
    end: int
    full: int
    growth: float

    def done(self, step: int) -> float:
        """The share of its steps that are done, in [0, 1]."""
        return (step - self.begun) / max(1, self.end - self.begun)

    def is_last(self, step: int) -> bool:
        """Whether no step follows in which its layers are operated on."""
        return step == self.end - 1


def phase(ctx: Context) -> Phase:
    """The phase of surgery at the present step. After the last one no layer is operated on."""
    groups = _groups(ctx.hp["phases"], ctx.structure)
    stop = ctx.hp["stop"] * ctx.steps
    ends = [round(stop * (k + 1) / len(groups)) for k in range(len(groups))]
    begun = 0
    for layers, end in zip(groups, ends, strict=True):
        if ctx.step < end or ctx.step == 0:
            return _grown(layers, begun, end, ctx)
        begun = end
    return Phase([], begun, begun, begun, 1.0)


def _grown(layers: Sequence[Layer], begun: int, end: int, ctx: Context) -> Phase:
    if ctx.hp["growth"] == "no":
        return Phase(layers, begun, end, begun, 1.0)
    steps = (end - begun) // 2
    full = begun + steps
    done = ctx.step - begun
    growth = 1.0
    if ctx.step < full:
        growth = done / steps
    return Phase(layers, begun, end, full, growth)


def updates(phase: Phase, ctx: Context) -> Sequence[Tensor]:
    """Whether the mask of each layer is updated now, () bool each: at random, and certainly when
    its surgery begins, when its thresholds have grown, and at the end if a sparsity is asked for.
    """
    probability = SIGMAS[ctx.hp["sigma"]](phase, ctx)
    drawn = ctx.uniform("dns", (len(phase.layers),))
    is_asked = "c" not in ctx.hp and phase.is_last(ctx.step)
    if is_asked or ctx.step in (phase.begun, phase.full):
        probability = 1.0  # what is drawn is less
    return (probability > drawn).unbind()


# ---- sigma


def _inverse(phase: Phase, ctx: Context) -> Tensor:
    step = ctx.step - phase.begun
    rarity = 1 + ctx.hp["gamma"] * step
    power = ctx.hp["power"]
    return rarity**-power


def _linear(phase: Phase, ctx: Context) -> float:
    return 1 - phase.done(ctx.step)


def _cosine(phase: Phase, ctx: Context) -> float:
    angle = math.pi * phase.done(ctx.step)
    return 0.5 * (1 + np.cos(angle))


def _step(phase: Phase, ctx: Context) -> float:
    level = math.floor(STEPS * phase.done(ctx.step))
    return 0.5**level


SIGMAS: Mapping[str, Callable[[Phase, Context], Any]] = {
    "inverse": _inverse,
    "linear": _linear,
    "cosine": _cosine,
    "step": _step,
}
"""The probability of an update: never rising within a phase, and 1 at its first step."""


# ---- groups of layers


def _groups(phases: str, structure: Structure) -> list[list[Layer]]:
    """The layers of each phase: "all", or groups apart by commas, each a kind of layers or names
    joined by +.
    """
    if phases == "all":
        return [list(structure.layers)]
    groups: list[list[Layer]] = []
    for words in phases.split(","):
        names = [word.strip() for word in words.split("+")]
        groups.append([layer for layer in structure.layers if _belongs(layer, names)])
    return groups


def _belongs(layer: Layer, names: Sequence[str]) -> bool:
    return layer.name in names or layer.kind in names


def check_phases(phases: str, structure: Structure) -> None:
    """Raise Mistake if groups hold a layer twice or none, or name one that does not exist."""
    if phases == "all":
        return
    known = {"conv", "fc", *(layer.name for layer in structure.layers)}
    for word in phases.replace("+", ",").split(","):
        if word.strip() not in known:
            layers = ", ".join(layer.name for layer in structure.layers)
            rule = "`phases` names layers, or conv or fc, in groups such as conv,fc"
            raise Mistake(f"{rule}; the model's layers: {layers}; got {word.strip()!r}")
    groups = _groups(phases, structure)
    wrong = _wrong(groups, structure)
    if wrong:
        layers = ", ".join(f"{layer.name} ({layer.kind})" for layer in structure.layers)
        rule = "`phases` has each layer of the model in one group, and no group without layers"
        raise Mistake(f"{rule}; the model's layers: {layers}; got {phases!r}, {wrong}")


def _wrong(groups: Sequence[Sequence[Layer]], structure: Structure) -> str:
    """What is wrong with groups of layers; "" if nothing."""
    for number, group in enumerate(groups, start=1):
        if not group:
            return f"whose group {number} has none"
    for layer in structure.layers:
        count = sum(layer in group for group in groups)
        if count != 1:
            where = "none" if not count else f"{count} groups"
            return f"by which layer {layer.name} is in {where}"
    return ""
