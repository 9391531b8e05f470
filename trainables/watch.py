"""Watching torch's operations as they are dispatched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode
else:
    # The class has no public home; this public module has it among its names.
    from torch.utils.flop_counter import TorchDispatchMode


class Watch(TorchDispatchMode):
    """A dispatch mode that is never compiled: torch would import its compiler for it, which takes
    two seconds.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of an operation's arguments or results: it, or those in its tuples, lists and
    dicts.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
