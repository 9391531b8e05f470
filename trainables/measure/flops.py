"""The FLOPs contract: what a module costs, and what a computation has cost.

What counts, what is free and what is unknown is said in `formulas`; what is free or unknown is
listed by name.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..watch import Watch, tensors_in
from .formulas import cost, is_free

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
LAYERS = (nn.Linear, *CONVOLUTIONS)


@dataclasses.dataclass(frozen=True)
class Counts:
    """FLOPs of one example's forward pass and parameters of a module.

    layers: FLOPs by name of the linear or convolution layer that they were spent in, or on whose
    weight.  unknown, free: names of operations without a formula, and of those that are free by
    convention.
    """

    flops: int
    params: int
    unknown: tuple[str, ...]
    free: tuple[str, ...]
    layers: Mapping[str, int]


def count(module: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """FLOPs and parameters of `module` in evaluation for one example of `input_shape` (without
    batch).
    """
    example = blank_inputs(module, input_shape)
    counter = Counter()
    with evaluating(module), counter.watching(module), counter:
        module(example)
    layers = {name: spent for name, spent in counter.spent.items() if name}
    sizes = [parameter.numel() for parameter in module.parameters()]
    return Counts(
        flops=counter.total,
        params=sum(sizes),
        unknown=tuple(sorted(counter.unknown)),
        free=tuple(sorted(counter.free)),
        layers=layers,
    )


def blank_inputs(module: nn.Module, input_shape: tuple[int, ...], examples: int = 1) -> Tensor:
    """Inputs of no meaning, of the type and on the device of the model's parameters."""
    nothing = torch.empty(0)
    like = next(module.parameters(), nothing)
    shape = (examples, *input_shape)
    return like.new_zeros(shape)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients; then each part is in the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            module.eval()
            yield
    finally:
        for part, training in modes.items():
            part.training = training


class Counter(Watch):
    """Sums the FLOPs of what is computed inside of it.

    as_written: attention and encoder layers are computed by the products that they are written as,
    and not by kernels of a device's own, some of which hide what they compute. It may change the
    last bits of a result.
    """

    def __init__(self, as_written: bool = True) -> None:
        super().__init__()
        self.spent: dict[str, int] = defaultdict(int)  # by layer; "" outside of all
        self.unknown: set[str] = set()
        self.free: set[str] = set()
        self._layer = ""
        self._owners: dict[torch.UntypedStorage, str] = {}  # memory of a weight -> layer
        self._as_written = as_written
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Counter:
        if self._as_written:
            self._held.enter_context(_written_out())
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._held.close()

    @property
    def total(self) -> int:
        """FLOPs of all that was computed so far."""
        return sum(self.spent.values())

    @contextlib.contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Attribute what is computed inside a linear or convolution layer, or elsewhere with its
        weight, to its name.
        """
        hooks = []
        for name, part in module.named_modules():
            if not isinstance(part, LAYERS):
                continue
            hooks.append(part.register_forward_pre_hook(self._entering(name)))
            hooks.append(part.register_forward_hook(self._entering("")))
            weight = dict(part.named_parameters(recurse=False)).get("weight")
            if weight is not None:
                self._owners.setdefault(weight.untyped_storage(), name)
        try:
            yield
        finally:
            self._owners.clear()
            for hook in hooks:
                hook.remove()

    def _entering(self, layer: str) -> Callable[..., None]:
        """A hook after which all is spent in `layer`."""

        def enter(*_: Any) -> None:
            self._layer = layer

        return enter

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        spent = cost(func, args, kwargs, out)
        if spent is not None:
            layer = self._layer or self._owner(args)
            self.spent[layer] += spent
            return out
        name = func.overloadpacket.__name__
        names = self.free if is_free(func) else self.unknown
        names.add(name)
        return out

    def _owner(self, args: Any) -> str:
        """The layer one of whose weights is among the arguments: its parent reads it without
        calling it.
        """
        if not self._owners:
            return ""
        for tensor in tensors_in(args):
            if tensor.layout is torch.strided and not tensor.is_nested:
                layer = self._owners.get(tensor.untyped_storage())
                if layer is not None:
                    return layer
        return ""


@contextlib.contextmanager
def _written_out() -> Iterator[None]:
    """Attention by matrix products, and encoder layers by what they are made of."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


_charging: contextvars.ContextVar[Counter | None] = contextvars.ContextVar(
    "_charging", default=None
)


@contextlib.contextmanager
def charging() -> Iterator[Counter]:
    """Counts what is computed inside, forward and backward, for all members together; results stay
    as they are.

    Inside of another `charging`, which counts it too, the counter stays at 0.
    """
    counter = Counter(as_written=False)
    if _charging.get() is not None:
        yield counter
        return
    token = _charging.set(counter)
    try:
        with counter:
            yield counter
    finally:
        _charging.reset(token)


@contextlib.contextmanager
def uncharged() -> Iterator[None]:
    """What is computed inside is charged elsewhere: no `charging` counts it, and none slows it
    down.
    """
    counter = _charging.get()
    if counter is None:
        yield
        return
    token = _charging.set(None)
    counter.__exit__(None, None, None)
    try:
        yield
    finally:
        counter.__enter__()
        _charging.reset(token)
