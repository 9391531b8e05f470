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
from ..structure import trial, wrapping
from ..structure.extract import Constant, cut_module, fill
from ..structure.narrow import Cut
from ..structure.units import Structure
from ..task import Task
from ..training.stack import tensors

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

    @staticmethod
    def of(task: Task) -> Parent:
        """The network that members of a task are cut from."""
        data = task.data
        return Parent(
            model=task.model,
            input_shape=data.shape,
            classes=data.classes,
            dtype=task.dtype,
            options=task.model_options,
        )

    @staticmethod
    def from_json(about: Mapping[str, Any]) -> Parent:
        """A parent from the header of a file, which may say more."""
        return Parent(
            model=about["model"],
            input_shape=tuple(about["input_shape"]),
            classes=about["classes"],
            dtype=about["dtype"],
            options=about["options"],
        )

    def build(self) -> nn.Module:
        """The model with some initial weights; the global random state is left as it was."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        with torch.random.fork_rng(devices=[]):
            module = wrapping.build(self.model, self.input_shape, self.classes, **self.options)
        return module.to(dtype)

    @property
    def structure(self) -> Structure:
        """The model's structure; tried once in a process."""
        fields = dataclasses.asdict(self)
        about = json.dumps(fields, sort_keys=True)
        return _structure(about)


@functools.lru_cache(64)
def _structure(about: str) -> Structure:
    fields = json.loads(about)
    parent = Parent.from_json(fields)
    module = parent.build()
    return trial.structure_of(module, parent.input_shape)


def save(
    path: Where,
    network: nn.Module,
    parent: Parent,
    structure: Structure | None = None,
) -> None:
    """Write `network`, as from `shrunk`, to one safetensors file from which `load` makes it again;
    complete or absent.

    structure: the parent's, where it is known already.  Raises Mistake if it was not cut from
    `parent`.
    """
    structure = structure or parent.structure
    values: dict[str, Tensor] = {}
    for name, tensor in tensors(network).items():
        values[name] = tensor.detach().cpu().contiguous()
    try:
        about = _header(network, parent, structure)
        shape = _Shape.from_json(about)
        described = _described(parent, shape, structure)
        _restore(described, values)
    except (Mistake, AttributeError) as error:
        rule = f"what is saved was cut from its parent, {parent.model}"
        raise Mistake(f"{path}: {rule}; got: {error}") from None
    header = {HEADER: json.dumps(about)}
    with atomic(path) as temporary:
        save_file(values, temporary, metadata=header)


def _header(
    network: nn.Module,
    parent: Parent,
    structure: Structure,
) -> dict[str, Any]:
    """What a file says of its network: its parent, the width of each hidden layer that is left, the
    blocks that are gone, and what one example gives at each layer that is a Constant.
    """
    parts = dict(network.named_modules())
    gone = [block for block in structure.blocks if block.name not in parts]
    lost: set[str] = set()
    for block in gone:
        lost.update(block.layers)
    widths: dict[str, int] = {}
    for layer in structure.hidden:
        if layer.name in lost:
            continue
        part = parts.get(layer.name)
        widths[layer.name] = _width(part)
    positions: dict[str, list[int]] = {}
    for name, part in parts.items():
        if isinstance(part, Constant):
            positions[name] = list(part.shape[1:])
    return {
        **dataclasses.asdict(parent),
        "widths": widths,
        "gone": [block.name for block in gone],
        "positions": positions,
    }


def load(path: Where, structure: Structure | None = None) -> nn.Module:
    """The network in a file that `save` wrote, in evaluation mode, bit for bit.

    structure: the parent's, where it is known already. Raises Mistake if there is no such file, if
    it is torn or foreign, or if its model is now another one.
    """
    path = locate(path)
    if not path.is_file():
        raise Mistake(f"{path}: no such file; `physical.save` writes one")
    values: dict[str, Tensor] = {}
    try:
        with local(path) as here, safe_open(here, framework="pt") as file:
            header = file.metadata() or {}
            about = json.loads(header[HEADER])
            for name in list(file.keys()):
                values[name] = file.get_tensor(name)
            parent = Parent.from_json(about)
            shape = _Shape.from_json(about)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise Mistake(
            f"{path}: a complete file that `physical.save` wrote; got {models.raised(error)}"
        ) from None
    small = _described(parent, shape, structure or parent.structure)
    try:
        _restore(small, values)
    except Mistake as error:
        rule = f"the model {parent.model} is as it was when its network was saved"
        raise Mistake(f"{path}: {rule}; got: {error}") from None
    return small


@dataclasses.dataclass(frozen=True)
class _Shape:
    """The shape of a network beside its parent's. positions: what no example gives at each layer
    that is a Constant, (0, ...).
    """

    cut: Cut
    positions: Mapping[str, tuple[int, ...]]

    @staticmethod
    def from_json(about: Mapping[str, Any]) -> _Shape:
        """The shape in the header of a file."""
        widths = about["widths"]
        gone = tuple(about["gone"])
        cut = Cut(widths, gone)
        positions: dict[str, tuple[int, ...]] = {}
        for name, of_one in about["positions"].items():
            positions[name] = (0, *of_one)
        return _Shape(cut, positions)


def _described(parent: Parent, shape: _Shape, structure: Structure) -> nn.Module:
    """The module that the header of a file describes, with values of no meaning."""
    module = parent.build()
    module = module.eval()
    return cut_module(module, structure, shape.cut, shape.positions)


def _restore(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy `values` into a module. Raises Mistake unless it has just these, with their shapes and
    types.
    """
    own = _signature(tensors(module))
    given = _signature(values)
    if own != given:
        odd = min(own ^ given)
        owner = "network"
        if odd in own:
            owner = "model"
        raise Mistake(f"{odd}, which only the {owner} has")
    fill(module, values)


def _signature(values: Mapping[str, Tensor]) -> set[str]:
    """Name, shape and type of each tensor."""
    signature: set[str] = set()
    for name, tensor in values.items():
        shape = tuple(tensor.shape)
        signature.add(f"{name} {shape} {tensor.dtype}")
    return signature


def _width(part: nn.Module | None) -> int:
    """The units of a hidden layer; none if it is gone."""
    if part is None:
        return 0
    if isinstance(part, Constant):
        return part.shape[0]
    return len(part.weight)  # type: ignore[arg-type]
