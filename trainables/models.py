"""Models by name, or by the dotted path of anything that returns an `nn.Module`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn


def mlp(input_shape: tuple[int, ...], classes: int, widths: Sequence[int] = (300, 100)) -> nn.Module:
    """Linear layers of the given hidden widths with ReLU between them; LeNet-300-100 by default."""
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"model mlp: `widths` are whole numbers above 0; got {list(widths)}")
    inputs = 1
    for extent in input_shape:
        inputs *= extent
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def lenet5(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Caffe's LeNet-5, 20-50-500 (after LeCun et al. 1998): max-pooling and no activation after the convolutions."""
    if len(input_shape) != 3 or min(input_shape[1:]) < 16:
        raise ValueError(f"model lenet5 needs images (channels, height, width) of at least 16 x 16; got {input_shape}")
    channels, *sides = input_shape
    height, width = (((side - 4) // 2 - 4) // 2 for side in sides)
    return nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * height * width, 500),
        nn.ReLU(),
        nn.Linear(500, classes),
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "lenet5": lenet5}


def build(name: str, input_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """The model `name` for inputs of `input_shape` (without batch) and `classes` outputs.

    name: a key of MODELS, or the dotted path of a callable (input_shape, classes, **options) -> nn.Module.
    Raises ValueError naming what is wrong with the name or the options.
    """
    module = lookup(name, MODELS, "model")(input_shape, classes, **options)
    if not isinstance(module, nn.Module):
        raise ValueError(f"model {name}: a model returns an nn.Module; got {type(module).__name__}")
    return module


def lookup(name: str, known: dict[str, Callable[..., Any]], noun: str) -> Callable[..., Any]:
    """The callable that `name` stands for: one of ours, or one found by its dotted path."""
    if name in known:
        return known[name]
    if "." not in name:
        raise ValueError(f'no {noun} "{name}"; known: {", ".join(known)}, or a dotted path such as package.module.{noun}')
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{noun} {name}: cannot be imported ({error})") from error
    if not callable(found):
        raise ValueError(f"{noun} {name}: a {noun} is a callable; got {type(found).__name__}")
    return found


def option_names(function: Callable[..., Any], given: Sequence[str] = ()) -> tuple[str, ...] | None:
    """Names of the options that `function` takes beside `given`; None if it takes any name."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return tuple(p.name for p in parameters if p.name not in given and p.kind is not p.VAR_POSITIONAL)
