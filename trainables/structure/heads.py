"""A model with a head of another width: its last two layers, of a model that ends linear, ReLU,
linear.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ...analysis.rows.mistake import Mistake
from .. import models
from . import graph, trace

PATH = f"{__name__}.headed"
"""The model below, as a task names it."""


def headed(
    input_shape: tuple[int, ...], classes: int, of: str, units: int, **options: Any
) -> nn.Module:
    """The model `of` with its `options`, but `units` units in its last hidden layer.

    Raises Mistake if the model does not end linear, ReLU, linear.
    """
    module = models.build(of, input_shape, classes, **options)
    head = graph.head(module, trace.hints(module, input_shape))
    if head is None:
        raise Mistake(
            f"a head of other units needs a model that ends linear, ReLU, linear; got {of}"
        )
    first, last = (module.get_submodule(layer.name) for layer in head)
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    wider = nn.Linear(first.in_features, units, first.bias is not None)
    reader = nn.Linear(units, last.out_features, last.bias is not None)
    module.set_submodule(head[0].name, wider)
    module.set_submodule(head[1].name, reader)
    return module
