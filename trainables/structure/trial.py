"""The structure of a model, tried: what cannot be taken out of it exactly stays whole.

`tracing.find` guesses from types of operations which units and blocks can go. Here they are taken
out of a copy with random weights, and what is left is held against the masked network: in outputs,
in evaluation and in training, and in counts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..measure.flops import Counts, count
from ..measure.removed import compression
from ..models import raised
from ..training.stack import CounterDropout, copied
from . import trace
from .extract import shrunk
from .units import Structure, node_masks

EXAMPLES = 3
"""Inputs in a trial: few, and enough for batch-norm in training."""
AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest difference of outputs, relative to the largest output, by the type that the model runs
in.
"""

Kept = dict[str, Tensor]
"""Removable parameter -> bool of its shape, block -> () bool."""
Kind = Callable[["_Trial", Structure], Kept]
"""Draws what is kept of a network of some structure."""


def find(module: nn.Module, input_shape: tuple[int, ...]) -> Structure:
    """The structure of `module` for inputs of `input_shape` (without batch): what could be taken
    out exactly.

    What could not is among its `obstacles`, with what was seen.
    """
    hints = trace.find(module, input_shape)
    elements = [
        *(("units", layer.name) for layer in hints.hidden),
        *(("block", block.name) for block in hints.blocks),
    ]
    if not elements:
        return hints
    device = next(module.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            trial = _Trial(module, input_shape)
        except Exception as error:
            # A model that runs in its own type and mode only: nothing can be said of it.
            why = f"the model cannot be tried: {raised(error)}"
            told = (("", why),)
            return dataclasses.replace(
                hints, links=(), blocks=(), obstacles=(*hints.obstacles, *told), failed=told
            )
        reasons: dict[tuple[str, str], str] = {}
        sound = _sound(trial, hints, elements, reasons)
    told = tuple((name, why) for (_, name), why in reasons.items())
    return dataclasses.replace(
        _only(hints, sound), obstacles=(*hints.obstacles, *told), failed=told
    )


_Element = tuple[str, str]
"""("units", a hidden layer) or ("block", a block)."""


def _only(structure: Structure, elements: Sequence[_Element]) -> Structure:
    """`structure` in which nothing but `elements` can be removed."""
    links = tuple(link for link in structure.links if ("units", link.producer) in elements)
    blocks = tuple(block for block in structure.blocks if ("block", block.name) in elements)
    return dataclasses.replace(structure, links=links, blocks=blocks)


def _sound(
    trial: _Trial, structure: Structure, elements: Sequence[_Element], reasons: dict[_Element, str]
) -> list[_Element]:
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
    sound = _sound(trial, structure, elements[:middle], reasons)
    others = _sound(trial, structure, elements[middle:], reasons)
    if sound and others and (trial.fault(_only(structure, [*sound, *others]))) is None:
        return [*sound, *others]
    for element in others:
        why = trial.fault(_only(structure, [*sound, element]))
        if why is None:
            sound.append(element)
        else:
            reasons[element] = why
    return sound


class _Trial:
    """A model with random weights, on which removals are tried. Raises whatever the model raises."""

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...]) -> None:
        self.shape = input_shape
        self.random = torch.Generator().manual_seed(0)
        self.module = _scrambled(copied(module), self.random)
        device = next(module.parameters()).device
        drawn = torch.randn(EXAMPLES, *input_shape, generator=self.random, dtype=torch.float64).to(
            device
        )
        own = next(module.parameters()).dtype
        self.x, self.dtype = self._runs(
            [(drawn, torch.float64), (drawn.abs(), torch.float64), (drawn.abs(), own)]
        )
        self.counts: Counts = count(self.module, input_shape)

    def _runs(self, inputs: Sequence[tuple[Tensor, torch.dtype]]) -> tuple[Tensor, torch.dtype]:
        """The first of the inputs with which the model runs in both modes, the model brought to
        their type.

        Some take no negative numbers, such as indices; some have their own type written in the
        code.
        """
        for x, dtype in inputs[:-1]:
            with contextlib.suppress(Exception):
                self._run_both(x.to(dtype), dtype)
                return x.to(dtype), dtype
        x, dtype = inputs[-1]
        self._run_both(x.to(dtype), dtype)
        return x.to(dtype), dtype

    def _run_both(self, x: Tensor, dtype: torch.dtype) -> None:
        self.module.to(dtype)
        for training in (False, True):
            outputs(self.module, x, training)

    def fault(self, structure: Structure) -> str | None:
        """What is seen where `structure` is wrong: outputs or counts that differ, or an error; None
        if nothing is.
        """
        for kind in _KINDS:
            self.random.manual_seed(1)
            try:
                why = self._differs(structure, kind(self, structure), training=kind in _IN_TRAINING)
            except Exception as error:  # taking parts out of anybody's code may fail in any way
                why = f"without some of it the model raises {raised(error)}"
            if why is not None:
                return why
        return None

    def _differs(self, structure: Structure, kept: Kept, training: bool) -> str | None:
        masked = _masked(self.module, structure, kept)
        small = shrunk(masked, structure, kept, self.shape)
        for mode in (False, True)[
            : 1 + training
        ]:  # training changes statistics of batch-norm, and comes last
            expected, got = outputs(masked, self.x, mode), outputs(small, self.x, mode)
            if expected.shape != got.shape:
                return f"without some of it outputs have shape {tuple(got.shape)}, not {tuple(expected.shape)}"
            apart = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
            if not apart <= AGREEMENT.get(self.dtype, 1e-3):
                when = "in training" if mode else "in evaluation"
                return f"without some of it outputs differ from the masked network's {when}, by {apart:.0e} of the largest"
        stacks = {name: mask[None] for name, mask in kept.items()}
        told = compression(structure, self.counts, stacks)
        real = count(small, self.shape)
        counted = int(told["flops_shrunk"]), int(told["params_shrunk"])
        if counted != (real.flops, real.params):
            return f"FLOPs and parameters left are counted as {counted}, and are {(real.flops, real.params)}"
        return None

    def drawn(self, *shape: int) -> Tensor:
        """Numbers in [0, 1)."""
        return torch.rand(shape, generator=self.random).to(self.x.device)


@torch.no_grad()
def outputs(module: nn.Module, x: Tensor, training: bool) -> Tensor:
    """What the module gives for `x` with dropout off, in the mode; the same draws each time."""
    torch.manual_seed(0)
    with _NoDropout():
        found = module.train(training)(x.clone())
    if not isinstance(found, Tensor):
        raise TypeError(f"a model gives a tensor of logits; got {type(found).__name__}")
    return found.detach().double()


class _NoDropout(TorchFunctionMode):
    """Dropout does nothing: what it draws depends on how many units there are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "dropout" in getattr(func, "__name__", ""):
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _scrambled(module: nn.Module, random: torch.Generator) -> nn.Module:
    """The module with random parameters and statistics, so that nothing is zero or one by chance."""
    for part in module.modules():
        if isinstance(part, CounterDropout):
            part.p = 0.0
    for parameter in module.parameters():
        if parameter.is_floating_point():
            drawn = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
            offset = 0.0 if parameter.ndim > 1 else 0.3
            parameter.copy_(drawn * scale + offset)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            assert part.running_var is not None
            part.running_mean.copy_(torch.rand(part.running_mean.shape, generator=random))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=random) + 0.5)
    return module


@torch.no_grad()
def _masked(module: nn.Module, structure: Structure, kept: Kept) -> nn.Module:
    """A copy of the module with what is removed at zero, and blocks that are gone giving nothing."""
    masked = copied(module)
    params = dict(masked.named_parameters())
    for name, mask in kept.items():
        if name in structure.parameters:
            params[name].mul_(mask)
    for block in structure.blocks:
        if not kept[block.name]:
            for name in block.last:
                params[name].zero_()
    return masked


# ---- what is removed in a trial


def _whole(trial: _Trial, structure: Structure) -> Kept:
    """Nothing is removed."""
    params = dict(trial.module.named_parameters())
    kept = {name: torch.ones_like(params[name], dtype=torch.bool) for name in structure.parameters}
    there = torch.ones((), dtype=torch.bool, device=trial.x.device)
    return {**kept, **{block.name: there for block in structure.blocks}}


def _nodes(trial: _Trial, structure: Structure, share: Callable[[], float]) -> Kept:
    """Units of every hidden layer are removed whole, with the probability that `share` gives for
    the layer.
    """
    alive: dict[str, Tensor] = {}
    for layer in structure.hidden:
        alive[layer.name] = trial.drawn(layer.units) >= share()
    return _with_units(trial, structure, alive)


def _with_units(trial: _Trial, structure: Structure, alive: Mapping[str, Tensor]) -> Kept:
    """Nothing is removed but the units of hidden layers that are not `alive`: layer -> (units,)
    bool.
    """
    return _whole(trial, structure) | node_masks(
        structure, alive, dict(trial.module.named_parameters())
    )


def _some_units(trial: _Trial, structure: Structure) -> Kept:
    """Some units of each layer, and at least one, where there are several; nothing else."""
    alive: dict[str, Tensor] = {}
    for layer in structure.hidden:
        order = trial.drawn(layer.units).argsort()
        alive[layer.name] = order >= (layer.units + 2) // 3 if layer.units > 1 else order >= 0
    return _with_units(trial, structure, alive)


def _unread(trial: _Trial, structure: Structure) -> Kept:
    """Some units are only disconnected from what reads them."""
    kept = _some_units(trial, structure)
    for layer in structure.hidden:
        for name in layer.parameters:
            mask = kept[name]
            rows = mask.flatten(1).any(1) if mask.ndim > 1 else mask
            kept[name] = mask | ~_rows(rows, mask.ndim)
    return kept


def _unfed(trial: _Trial, structure: Structure) -> Kept:
    """Some units lose what they read, and half of these their bias: what they give is constant."""
    kept = _whole(trial, structure)
    for layer in structure.hidden:
        stay = trial.drawn(layer.units) >= 0.4
        kept[layer.weight] = kept[layer.weight] & _rows(stay, kept[layer.weight].ndim)
        if layer.bias is not None:
            kept[layer.bias] = stay | (trial.drawn(layer.units) >= 0.5)
    return kept


def _dead_layers(trial: _Trial, structure: Structure) -> Kept:
    """A third of the layers lose all units, others some."""

    def share() -> float:
        return 1.0 if float(trial.drawn()) < 0.34 else 0.3

    return _nodes(trial, structure, share)


def _first_dead(trial: _Trial, structure: Structure) -> Kept:
    """The first hidden layer loses all units."""
    shares: Iterator[float] = iter([1.0] + [0.0] * len(structure.hidden))
    return _nodes(trial, structure, shares.__next__)


def _some_blocks(trial: _Trial, structure: Structure) -> Kept:
    """Each second block."""
    return _blocks(trial, structure, 0)


def _other_blocks(trial: _Trial, structure: Structure) -> Kept:
    """The other ones."""
    return _blocks(trial, structure, 1)


def _blocks(trial: _Trial, structure: Structure, first: int) -> Kept:
    kept = _whole(trial, structure)
    for block in structure.blocks[first::2]:
        kept[block.name] = ~kept[block.name]
        for name in structure.inside(block):
            if name in structure.parameters:
                kept[name] = torch.zeros_like(kept[name])
    return kept


def _everything(trial: _Trial, structure: Structure) -> Kept:
    """Weights, units, layers and blocks at random."""
    kept = _dead_layers(trial, structure)
    for name in structure.parameters:
        kept[name] = kept[name] & (trial.drawn(*kept[name].shape) >= 0.3)
    for block in structure.blocks:
        kept[block.name] = trial.drawn() >= 0.4
    return kept


def _rows(stay: Tensor, ndim: int) -> Tensor:
    return stay.view(-1, *(1,) * (ndim - 1))


_KINDS: tuple[Kind, ...] = (
    _some_units, _some_blocks, _other_blocks, _unread, _unfed, _first_dead, _dead_layers, _everything
)  # fmt: skip
_IN_TRAINING: tuple[Kind, ...] = (_some_units, _some_blocks, _other_blocks)
"""Kinds in which nothing constant is folded: stacks in training are cut so."""
