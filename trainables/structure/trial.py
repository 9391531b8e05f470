"""The structure of a model, tried: what cannot be taken out of it exactly stays whole.

`trace.hints` guesses from types of operations which units and blocks can go. Here they are taken
out of a copy with random weights, and what is left is held against the masked network: in outputs,
in evaluation and in training, and in counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..measure.flops import Counts, count
from ..measure.removed import compression
from ..models import raised
from ..training.dropout import CounterDropout
from ..training.stack import copied, restacked
from . import trace
from .extract import shrunk
from .operations import BATCH_NORMS
from .removals import KINDS, UNFOLDED, Kept, Network
from .units import Block, Link, Structure

Shape = tuple[int, ...]

EXAMPLES = 3
"""Inputs in a trial: few, and enough for batch-norm in training."""
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest difference of outputs, relative to the largest output, by the type that the model runs
in.
"""

_WITH_STATISTICS = (*BATCH_NORMS, nn.SyncBatchNorm)

Element = tuple[str, str]
"""("units", a hidden layer) or ("block", a block)."""
Reasons = dict[Element, str]


def structure_of(module: nn.Module, input_shape: Shape) -> Structure:
    """The structure of `module` for inputs of `input_shape` (without batch): what could be taken
    out exactly.

    What could not is among its `obstacles`, with what was seen.
    """
    hints = trace.hints(module, input_shape)
    elements = _elements(hints)
    if not elements:
        return hints
    device = next(module.parameters()).device
    generators: list[torch.device] = []
    if device.type == "cuda":
        generators.append(device)
    reasons: Reasons = {}
    with torch.random.fork_rng(devices=generators):
        try:
            trial = _Trial(module, input_shape)
        except Exception as error:
            # A model that runs in its own type and mode only: nothing can be said of it.
            why = f"the model cannot be tried: {raised(error)}"
            reasons[("", "")] = why
            return _with_reasons(hints, [], reasons)
        sound = _sound(trial, hints, elements, reasons)
    return _with_reasons(hints, sound, reasons)


def _elements(structure: Structure) -> list[Element]:
    """All that can be removed, as far as a structure says."""
    elements: list[Element] = []
    for layer in structure.hidden:
        elements.append(("units", layer.name))
    for block in structure.blocks:
        elements.append(("block", block.name))
    return elements


def _with_reasons(hints: Structure, sound: Sequence[Element], reasons: Reasons) -> Structure:
    """`hints` in which only what is `sound` can be removed, and why the rest cannot."""
    failed: list[tuple[str, str]] = []
    for (_, name), why in reasons.items():
        failed.append((name, why))
    left = _only(hints, sound)
    return dataclasses.replace(
        left,
        obstacles=(*hints.obstacles, *failed),
        failed=tuple(failed),
    )


def _only(structure: Structure, elements: Sequence[Element]) -> Structure:
    """`structure` in which nothing but `elements` can be removed."""
    links: list[Link] = []
    for link in structure.links:
        if ("units", link.producer) in elements:
            links.append(link)
    blocks: list[Block] = []
    for block in structure.blocks:
        if ("block", block.name) in elements:
            blocks.append(block)
    return dataclasses.replace(structure, links=tuple(links), blocks=tuple(blocks))


def _sound(
    trial: _Trial,
    structure: Structure,
    elements: Sequence[Element],
    reasons: Reasons,
) -> list[Element]:
    """Those of `elements` that can be removed together; why the others cannot is put into
    `reasons`.
    """
    why = trial.fault(_only(structure, elements))
    if why is None:
        return list(elements)
    if len(elements) == 1:
        reasons[elements[0]] = why
        return []
    middle = len(elements) // 2
    first = elements[:middle]
    second = elements[middle:]
    sound = _sound(trial, structure, first, reasons)
    others = _sound(trial, structure, second, reasons)
    together = [*sound, *others]
    if sound and others:
        why = trial.fault(_only(structure, together))
        if why is None:
            return together
    for element in others:
        one_more = [*sound, element]
        why = trial.fault(_only(structure, one_more))
        if why is None:
            sound.append(element)
        else:
            reasons[element] = why
    return sound


class _Trial:
    """A model with random weights, on which removals are tried. Raises what the model raises."""

    def __init__(self, module: nn.Module, input_shape: Shape) -> None:
        self.shape = input_shape
        self.random = torch.Generator().manual_seed(0)
        own = copied(module)
        self.module = _scrambled(own, self.random)
        self.x = self._suiting_inputs()
        self.counts: Counts = count(self.module, input_shape)

    def _suiting_inputs(self) -> Tensor:
        """Inputs with which the model runs in both modes; the model is brought to their type.

        Some models take no negative numbers, such as indices; some have their own type written in
        the code.
        """
        like = next(self.module.parameters())
        shape = (EXAMPLES, *self.shape)
        drawn = torch.randn(shape, generator=self.random, dtype=torch.float64)
        drawn = drawn.to(like.device)
        own = like.dtype
        for x in (drawn, drawn.abs()):
            with contextlib.suppress(Exception):
                self._run_both(x)
                return x
        x = drawn.abs().to(own)
        self._run_both(x)
        return x

    def _run_both(self, x: Tensor) -> None:
        self.module.to(x.dtype)
        for training in (False, True):
            outputs(self.module, x, training)

    def fault(self, structure: Structure) -> str | None:
        """What is seen where `structure` is wrong: outputs or counts that differ, or an error; None
        if nothing is.
        """
        params = dict(self.module.named_parameters())
        network = Network(structure, params, self._chance)
        for kind in KINDS:
            self.random.manual_seed(1)
            try:
                kept = kind(network)
                why = self._difference(structure, kept, in_training=kind in UNFOLDED)
            except Exception as error:  # taking parts out of anybody's code may fail in any way
                why = f"without some of it the model raises {raised(error)}"
            if why is not None:
                return why
        return None

    def _chance(self, *shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=self.random)
        return drawn.to(self.x.device)

    def _difference(
        self,
        structure: Structure,
        kept: Kept,
        in_training: bool,
    ) -> str | None:
        """How the masked and the smaller network differ; None if they do not."""
        masked = _masked(self.module, structure, kept)
        small = shrunk(masked, structure, kept, self.shape)
        why = self._outputs_differ(masked, small, training=False)
        if why is None and in_training:  # changes statistics of batch-norm, and so comes last
            why = self._outputs_differ(masked, small, training=True)
        return why or self._counts_differ(structure, kept, small)

    def _outputs_differ(
        self,
        masked: nn.Module,
        small: nn.Module,
        training: bool,
    ) -> str | None:
        expected = outputs(masked, self.x, training)
        got = outputs(small, self.x, training)
        if expected.shape != got.shape:
            shapes = f"{tuple(got.shape)}, not {tuple(expected.shape)}"
            return f"without some of it outputs have shape {shapes}"
        largest = expected.abs().max().clamp(min=1e-30)
        difference = (got - expected).abs().max()
        apart = float(difference / largest)
        tolerance = AGREEMENT.get(self.x.dtype, 1e-3)
        if apart <= tolerance:
            return None
        when = "in evaluation"
        if training:
            when = "in training"
        differ = f"outputs differ from the masked network's {when}"
        return f"without some of it {differ}, by {apart:.0e} of the largest"

    def _counts_differ(
        self,
        structure: Structure,
        kept: Kept,
        small: nn.Module,
    ) -> str | None:
        told = compression(structure, self.counts, restacked(kept))
        flops = int(told["flops_shrunk"])
        params = int(told["params_shrunk"])
        counted = (flops, params)
        real = count(small, self.shape)
        own = (real.flops, real.params)
        if counted == own:
            return None
        return f"FLOPs and parameters left are counted as {counted}, and are {own}"


@torch.no_grad()
def outputs(module: nn.Module, x: Tensor, training: bool) -> Tensor:
    """What the module gives for `x` with dropout off, in the mode; the same draws each time."""
    torch.manual_seed(0)
    with _NoDropout():
        module = module.train(training)
        logits = module(x.clone())
    if not isinstance(logits, Tensor):
        raise TypeError(f"a model gives a tensor of logits; got {type(logits).__name__}")
    return logits.detach().double()


class _NoDropout(TorchFunctionMode):
    """Dropout does nothing: what it draws depends on how many units there are."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if "dropout" not in name:
            return func(*args, **kwargs)
        if args:
            return args[0]
        return kwargs["input"]


@torch.no_grad()
def _scrambled(module: nn.Module, random: torch.Generator) -> nn.Module:
    """The module with random parameters and statistics, so that nothing is 0 or 1 by chance."""
    for part in module.modules():
        if isinstance(part, CounterDropout):
            part.p = 0.0
    for parameter in module.parameters():
        if parameter.is_floating_point():
            drawn = _like_parameter(parameter, random)
            parameter.copy_(drawn)
    for part in module.modules():
        if not isinstance(part, _WITH_STATISTICS):
            continue
        mean = part.running_mean
        variance = part.running_var
        if mean is None or variance is None:
            continue
        drawn = torch.rand(mean.shape, generator=random)
        mean.copy_(drawn)
        drawn = torch.rand(variance.shape, generator=random)
        variance.copy_(drawn + 0.5)
    return module


def _like_parameter(parameter: Tensor, random: torch.Generator) -> Tensor:
    """Random values for a matrix, as it might be initialised, or for a vector, about 0.3."""
    drawn = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    if parameter.ndim > 1:
        inputs = parameter[0].numel()
        deviation = inputs**-0.5
        return drawn * deviation
    return drawn * 0.5 + 0.3


@torch.no_grad()
def _masked(module: nn.Module, structure: Structure, kept: Kept) -> nn.Module:
    """A copy of the module with what is removed at zero; blocks that are gone give nothing."""
    masked = copied(module)
    params = dict(masked.named_parameters())
    for name in structure.parameters:
        params[name].mul_(kept[name])
    for block in structure.blocks:
        if kept[block.name]:
            continue
        for name in block.last:
            params[name].zero_()
    return masked
