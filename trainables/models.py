"""Models by name, or by the dotted path of anything that returns an `nn.Module`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn


def mlp(input_shape: tuple[int, ...], classes: int, widths: Sequence[int] = (300, 100), width: float = 1) -> nn.Module:
    """Linear layers of the given hidden widths (times `width`) with ReLU between them; LeNet-300-100 by default."""
    if not isinstance(widths, Sequence) or not all(type(units) is int and units > 0 for units in widths):
        raise ValueError(f"`widths` is a list of whole numbers above 0; got {widths!r}")
    inputs = 1
    for extent in input_shape:
        inputs *= extent
    layers: list[nn.Module] = [nn.Flatten()]
    for units in (_times(width, units) for units in widths):
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def _times(width: float, units: int) -> int:
    """A layer's units at a multiple of its width: the nearest whole number, and at least one."""
    if not isinstance(width, int | float) or isinstance(width, bool) or not 0 < width < math.inf:
        raise ValueError(f"`width` is a number above 0; got {width!r}")
    return max(1, round(width * units))


def lenet5(input_shape: tuple[int, ...], classes: int, width: float = 1) -> nn.Module:
    """Caffe's LeNet-5, 20-50-500 (after LeCun et al. 1998): max-pooling and no activation after the convolutions.

    width: a factor of 20, 50 and 500.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 16:
        raise ValueError(f"it needs images (channels, height, width) of at least 16 x 16; got {input_shape}")
    channels, *sides = input_shape
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in sides)
    first, second, hidden = (_times(width, units) for units in (20, 50, 500))
    return nn.Sequential(
        nn.Conv2d(channels, first, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * rows * columns, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "lenet5": lenet5}


def build(name: str, input_shape: tuple[int, ...], classes: int, **options: Any) -> nn.Module:
    """The model `name` for inputs of `input_shape` (without batch) and `classes` outputs.

    name: a key of MODELS, or the dotted path of a callable (input_shape, classes, **options) -> nn.Module.
    Raises ValueError naming what is wrong with the name or the options.
    """
    module = call("model", name, MODELS, input_shape, classes, **options)
    if not isinstance(module, nn.Module):
        raise ValueError(f"model {name}: a model returns an nn.Module; got {type(module).__name__}")
    return module


def lookup(name: str, known: dict[str, Callable[..., Any]], noun: str) -> Callable[..., Any]:
    """The callable that `name` stands for: one of ours, or one found by its dotted path."""
    if name in known:
        return known[name]
    if "." not in name:
        raise ValueError(f'no {noun} "{name}";{hint(name, known)}, or a dotted path such as package.module.{noun}')
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # importing runs anybody's code
        raise ValueError(f"{noun} {name}: cannot be imported ({raised(error)})") from error
    if not callable(found):
        raise ValueError(f"{noun} {name}: a {noun} is a callable; got {type(found).__name__}")
    return found


def call(noun: str, name: str, known: dict[str, Callable[..., Any]], /, *given: Any, **options: Any) -> Any:
    """What the callable that `name` stands for returns. Raises ValueError naming it, whatever it raises."""
    function = lookup(name, known, noun)
    try:
        return function(*given, **options)
    except ValueError as error:
        raise ValueError(f"{noun} {name}: {error}") from error
    except Exception as error:  # anybody's code
        what = ", ".join([*map(repr, given), *(f"{key}={value!r}" for key, value in options.items())])
        raise ValueError(f"{noun} {name}: called with ({what}) it raised {raised(error)}") from error


def raised(error: Exception) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def options(function: Callable[..., Any], given: int = 0) -> tuple[dict[str, bool], bool]:
    """Options that `function` takes after its first `given` arguments, name -> whether it must be there; and if others too."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # some that are written in C do not say
        return {}, True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {p.name: p.default is p.empty for p in parameters[given:] if p.kind in named}
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def hint(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: the nearest one, and all."""
    known = list(known)
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    return (f' did you mean "{nearest[0]}"?' if nearest else "") + f" known: {', '.join(known) or 'none'}"
