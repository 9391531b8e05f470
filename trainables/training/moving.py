"""The trees of a stack while compiled steps are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..tree import leaves, nest

NAMES = ("params", "buffers", "pruning", "optimizer", "hp", "seed")
"""What a step reads and changes of a stack's trees."""

MASKS = torch.float32
"""The type of masks, bool at rest, while steps are taken."""


class Moving:
    """The trees of a stack as a list of tensors, each in memory of its own, which steps write in
    place.

    members: the trees at rest.  Tensors of theirs are taken over, not copied, where that can be.
    """

    def __init__(self, members: Mapping[str, Any]) -> None:
        trees = {name: members[name] for name in NAMES if name in members}
        flat = leaves(trees)
        self._given = list(flat)
        self._paths = sorted(flat)  # a tree that was saved has another order
        self._kinds = [flat[path].dtype for path in self._paths]
        self.tensors: list[Tensor] = []
        taken: set[int] = set()
        for path in self._paths:
            tensor = _owned(flat[path].detach(), taken)
            self.tensors.append(tensor)

    @property
    def device(self) -> torch.device:
        """Where the trees are."""
        return self.tensors[0].device

    def trees(self, tensors: Sequence[Tensor] | None = None) -> dict[str, Any]:
        """The trees at rest, of `tensors` in place of the own ones; all but masks are the same
        memory.
        """
        flat: dict[str, Tensor] = {}
        places = tensors or self.tensors
        for path, tensor, kind in zip(self._paths, places, self._kinds, strict=True):
            flat[path] = tensor
            if kind is torch.bool:
                flat[path] = tensor != 0
        whole: dict[str, Any] = {"params": {}, "buffers": {}, "pruning": {}, "optimizer": {}}
        whole |= nest({path: flat[path] for path in self._given})
        return whole

    def write(
        self,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        tensors: Sequence[Tensor] | None = None,
    ) -> None:
        """Put trees into the tensors. before: what `trees` gave; what is still the same tensor has
        been written in place.

        Raises ValueError where they are not as the stack's were.
        """
        old = leaves({name: before[name] for name in NAMES if name in before})
        new = leaves({name: after[name] for name in NAMES if name in after})
        _check_alike(sorted(new), self._paths)
        places = tensors or self.tensors
        changes: list[tuple[Tensor, Tensor]] = []
        for path, place, kind in zip(self._paths, places, self._kinds, strict=True):
            value = new[path]
            if value is old[path]:
                continue
            if value.dtype != kind or value.shape != place.shape:
                had = f"{kind} {tuple(place.shape)}"
                raise ValueError(f"{path} was {had} and became {value.dtype} {tuple(value.shape)}")
            # Copied before any is written: one may be a view of another.
            copied = value.detach().to(place.dtype, copy=True)
            changes.append((place, copied))
        for place, value in changes:
            place.copy_(value)


def _owned(tensor: Tensor, taken: set[int]) -> Tensor:
    """A tensor as steps hold it, whose memory is not `taken`; it is from now on."""
    if tensor.dtype is torch.bool:
        return tensor.to(MASKS, memory_format=torch.contiguous_format)
    storage = tensor.untyped_storage()
    if not tensor.is_contiguous() or storage._cdata in taken:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        storage = tensor.untyped_storage()
    taken.add(storage._cdata)
    return tensor


def _check_alike(after: Sequence[str], before: Sequence[str]) -> None:
    if after == before:
        return
    new = sorted(set(after) - set(before))
    gone = sorted(set(before) - set(after))
    raise ValueError(f"a step adds {new} to what a network has, and takes {gone} away")
