"""Trees: nested mappings whose leaves are tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Tree = Mapping[str, Any]
"""Nested mappings whose leaves are tensors."""
Named = dict[str, Tensor]


def leaves(tree: Tree, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a tree by their path, `outer/inner`."""
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= leaves(value, f"{path}/")
        else:
            flat[path] = value
    return flat


def nest(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tree whose `leaves` are `flat`."""
    tree: dict[str, Any] = {}
    for path, tensor in flat.items():
        *outer, name = path.split("/")
        node = tree
        for step in outer:
            node = node.setdefault(step, {})
        node[name] = tensor
    return tree


def map_tree(function: Callable[[Tensor], Tensor], tree: Tree) -> dict[str, Any]:
    """The tree with `function` applied to each tensor."""
    mapped: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            mapped[name] = map_tree(function, value)
        else:
            mapped[name] = function(value)
    return mapped


def take(tensors: Mapping[str, Tensor], index: int | Tensor) -> Named:
    """What stacked tensors hold at a place, or at several."""
    taken: Named = {}
    for name, tensor in tensors.items():
        taken[name] = tensor[index]
    return taken


def first_leaf(tree: Tree) -> Tensor:
    """The tensor that comes first in a tree."""
    value = next(iter(tree.values()))
    if isinstance(value, Mapping):
        return first_leaf(value)
    return value


TOGETHER = 1 << 24
"""Bytes of tensors that are brought to the CPU in one copy, at most, if they are several."""


def on_host(tensors: Mapping[str, Tensor]) -> Named:
    """The tensors on the CPU, detached. Those of another device come together: the host waits once
    for each type, and not for each tensor.
    """
    host: Named = {}
    waiting: dict[torch.dtype, Named] = {}
    for name, tensor in tensors.items():
        host[name] = tensor.detach()
        if tensor.device.type == "cpu":
            continue
        others = waiting.setdefault(tensor.dtype, {})
        others[name] = host[name]
        if sum(other.nbytes for other in others.values()) > TOGETHER:
            host |= _brought(waiting.pop(tensor.dtype))
    for others in waiting.values():
        host |= _brought(others)
    return host


def _brought(tensors: Named) -> Named:
    """Tensors of one type on the CPU, by one copy."""
    vectors = [tensor.flatten() for tensor in tensors.values()]
    sizes = [len(vector) for vector in vectors]
    joined = vectors[0] if len(vectors) == 1 else torch.cat(vectors)
    parts = joined.cpu().split(sizes)
    brought: Named = {}
    for (name, tensor), part in zip(tensors.items(), parts, strict=True):
        brought[name] = part.view(tensor.shape)
    return brought


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own, as a file of them needs it: those that
    share memory are cloned.
    """
    separate: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in on_host(tensors).items():
        own = tensor.contiguous().resolve_conj().resolve_neg()
        storage = own.untyped_storage()
        is_part = storage.nbytes() > own.nbytes
        is_taken = storage.data_ptr() in taken
        if is_part or is_taken:
            own = own.clone(memory_format=torch.contiguous_format)
            storage = own.untyped_storage()
        taken.add(storage.data_ptr())
        separate[name] = own
    return separate
