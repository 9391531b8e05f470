"""Watching torch's operations as they are dispatched."""

from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """A dispatch mode that is never compiled: torch would import its compiler for it, which takes
    two seconds.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
