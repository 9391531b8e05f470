"""Pruning algorithms as trainables: cohorts of networks trained together, and the rows measured
from them.

Only `tuning` imports Ray; `trainable` is loaded from there when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tuning import trainable

__all__ = ["trainable"]


def __getattr__(name: str) -> Any:
    if name == "trainable":
        from .tuning import trainable

        return trainable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
