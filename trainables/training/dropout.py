"""Dropout by counter: its pattern is a function of a key, so it is the same in any cohort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import draws

Shape = tuple[int, ...]

_OF_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class CounterDropout(nn.Module):
    """Dropout whose pattern is a function of its buffer `key`, which the training loop sets: the
    same in any cohort.

    channels: whole channels are dropped together (Dropout1d, 2d, 3d).
    """

    key: Tensor

    def __init__(self, p: float, channels: bool) -> None:
        super().__init__()
        self.p = p
        self.channels = channels
        key = torch.zeros((), dtype=torch.long)
        self.register_buffer("key", key, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, ...)."""
        if not self.training or self.p == 0:
            return x
        key = self.key.to(x.device)
        pattern = self._pattern(x)
        drawn = draws.uniform(key, pattern, torch.float32)
        keep = drawn >= self.p
        self.key = draws.key(self.key, "again")  # for the next call in the same pass
        share = max(1 - self.p, 1e-12)
        return x * keep / share

    def _pattern(self, x: Tensor) -> Shape:
        """The shape of what is drawn for x."""
        if not self.channels:
            return tuple(x.shape)
        behind = (1,) * (x.ndim - 2)
        return (*x.shape[:2], *behind)


def prepare(module: nn.Module) -> nn.Module:
    """`module`, with its dropout layers replaced by CounterDropout."""
    for name, part in module.named_children():
        if isinstance(part, (nn.Dropout, *_OF_CHANNELS)):
            channels = isinstance(part, _OF_CHANNELS)
            by_counter = CounterDropout(part.p, channels)
            setattr(module, name, by_counter)
        else:
            prepare(part)
    return module


def shapes(module: nn.Module, inputs: Tensor) -> dict[str, Shape]:
    """What each dropout layer is given by `module` for `inputs`, by name; "" for what the module
    gives.
    """
    seen: dict[str, Shape] = {}

    def watch(name: str) -> Callable[..., None]:
        def note(part: nn.Module, given: Any) -> None:
            inputs = given[0]
            seen[name] = tuple(inputs.shape)

        return note

    hooks = []
    for name, part in module.named_modules():
        if isinstance(part, CounterDropout):
            hook = part.register_forward_pre_hook(watch(name))
            hooks.append(hook)
    try:
        with torch.no_grad():
            outputs = module.eval()(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    seen[""] = tuple(outputs.shape)
    return seen


def keys(module: nn.Module) -> tuple[str, ...]:
    """Names of the buffers that hold the keys of dropout layers."""
    names: list[str] = []
    for name, part in module.named_modules():
        if not isinstance(part, CounterDropout):
            continue
        if name:
            names.append(f"{name}.key")
        else:
            names.append("key")
    return tuple(names)
