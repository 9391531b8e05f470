"""The file of a physically smaller network, as `extract.shrunk` gives it, and what such a network
was cut from.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Where, atomic, local, locate
from .. import models
from ..structure import trial
from ..structure.extract import Constant, cut_module, fill, tensors
from ..structure.narrow import Cut
from ..structure.units import Structure

HEADER = "prunefront"
"""Key of the description in the header of an exported file."""


@dataclasses.dataclass(frozen=True)
class Parent:
    """What a network was cut from: a model by name or dotted path, with its options, and the type
    of its parameters.
    """

    model: str
    input_shape: tuple[int, ...]
    classes: int
    dtype: str = "float32"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self) -> nn.Module:
        """The model with some initial weights; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            module = models.build(self.model, self.input_shape, self.classes, **self.options)
        return module.to(getattr(torch, self.dtype))

    @property
    def structure(self) -> Structure:
        """The model's structure; tried once in a process."""
        return _structure(json.dumps(dataclasses.asdict(self), sort_keys=True))


@functools.lru_cache(64)
def _structure(parent: str) -> Structure:
    about = json.loads(parent)
    about["input_shape"] = tuple(about["input_shape"])
    found = Parent(**about)
    return trial.find(found.build(), found.input_shape)


def save(
    path: Where, network: nn.Module, parent: Parent, structure: Structure | None = None
) -> None:
    """Write `network`, as from `shrunk`, to one safetensors file from which `load` makes it again;
    complete or absent.

    structure: the parent's, where it is known already.  Raises Mistake if it was not cut from
    `parent`.
    """
    structure = structure or parent.structure
    parts = dict(network.named_modules())
    gone = [block.name for block in structure.blocks if block.name not in parts]
    lost = {name for block in structure.blocks if block.name in gone for name in block.layers}
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors(network).items()}
    try:
        about = {
            **dataclasses.asdict(parent),
            "widths": {
                layer.name: _width(parts.get(layer.name))
                for layer in structure.hidden
                if layer.name not in lost
            },
            "gone": gone,
            "positions": {
                name: list(part.shape[1:])
                for name, part in parts.items()
                if isinstance(part, Constant)
            },
        }
        _restore(_described(*_read(about), structure), values)
    except (Mistake, AttributeError) as error:
        raise Mistake(
            f"{path}: what is saved was cut from its parent, {parent.model}; got: {error}"
        ) from None
    with atomic(path) as temporary:
        save_file(values, temporary, metadata={HEADER: json.dumps(about)})


def load(path: Where, structure: Structure | None = None) -> nn.Module:
    """The network in a file that `save` wrote, in evaluation mode, bit for bit.

    structure: the parent's, where it is known already. Raises Mistake if there is no such file, if
    it is torn or foreign, or if its model is now another one.
    """
    path = locate(path)
    if not path.is_file():
        raise Mistake(f"{path}: no such file; `physical.save` writes one")
    try:
        with local(path) as here, safe_open(here, framework="pt") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            parent, cut, shapes = _read(about)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise Mistake(
            f"{path}: a complete file that `physical.save` wrote; got {models.raised(error)}"
        ) from None
    small = _described(parent, cut, shapes, structure or parent.structure)
    try:
        _restore(small, values)
    except Mistake as error:
        raise Mistake(
            f"{path}: the model {parent.model} is as it was when its network was saved; got: {error}"
        ) from None
    return small


def _read(about: Mapping[str, Any]) -> tuple[Parent, Cut, dict[str, tuple[int, ...]]]:
    """What the header of a file says: the parent, the shape, and what one example gives at each
    layer that is a Constant.
    """
    parent = Parent(
        about["model"],
        tuple(about["input_shape"]),
        about["classes"],
        about["dtype"],
        about["options"],
    )
    return (
        parent,
        Cut(about["widths"], tuple(about["gone"])),
        {n: (0, *shape) for n, shape in about["positions"].items()},
    )


def _described(
    parent: Parent, cut: Cut, shapes: Mapping[str, tuple[int, ...]], structure: Structure
) -> nn.Module:
    """The module that the header of a file describes, with values of no meaning."""
    module = parent.build().eval()
    return cut_module(module, structure, cut, shapes)


def _restore(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy `values` into a module. Raises Mistake unless it has just these, with their shapes and
    types.
    """
    own, given = (
        {f"{name} {tuple(t.shape)} {t.dtype}" for name, t in each.items()}
        for each in (tensors(module), values)
    )
    if own != given:
        raise Mistake(
            f"{min(own ^ given)}, which only the {'model' if min(own ^ given) in own else 'network'} has"
        )
    fill(module, values)


def _width(part: nn.Module | None) -> int:
    """The units of a hidden layer; none if it is gone."""
    if part is None:
        return 0
    return part.shape[0] if isinstance(part, Constant) else len(part.weight)  # type: ignore[arg-type]
