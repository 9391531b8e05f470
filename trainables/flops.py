"""The FLOPs contract: what counts, what is free, what is unknown.

Convolutions and matrix products count, 2 FLOPs per multiply-accumulate (torch's own formulas: padding and groups included);
pointwise operations, norms, pooling, reductions and views are free and listed so; anything else is unknown and named.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import flop_registry

from .watch import Watch

_aten = torch.ops.aten

_OURS = {
    _aten.mv: lambda a, x, out: 2 * a.numel(),
    _aten.addmv: lambda y, a, x, out: 2 * a.numel(),
    _aten.dot: lambda x, y, out: 2 * x.numel(),
    _aten.vdot: lambda x, y, out: 2 * x.numel(),
}
"""Formulas for products that torch's registry lacks, and so would count as nothing."""

_FREE = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _cudnn_batch_norm _local_scalar_dense _log_softmax
    _native_batch_norm_legit _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _softmax _unsafe_view
    adaptive_max_pool2d adaptive_max_pool3d alias_copy all amax amin any arange argmax argmin avg_pool1d avg_pool2d avg_pool3d
    bernoulli cat clone constant_pad_nd contiguous copy cudnn_batch_norm cumsum embedding empty empty_like fill full full_like
    gather glu index index_select lift_fresh linalg_vector_norm logsumexp max max_pool2d_with_indices max_pool3d_with_indices
    mean median min miopen_batch_norm mkldnn_max_pool2d native_batch_norm native_dropout native_group_norm native_layer_norm
    new_zeros norm ones ones_like pixel_shuffle pixel_unshuffle reflection_pad2d repeat replication_pad2d roll scalar_tensor
    scatter sort stack std std_mean sum topk upsample_bilinear2d upsample_nearest2d var var_mean zeros zeros_like
    """.split()
)
"""Names of operations that are neither pointwise nor views, and free by convention: norms, pooling, reductions, moves."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """FLOPs of one example's forward pass and parameters of a module.

    layers: FLOPs by name of the linear or convolution layer they were spent in.  unknown, free: names of operations without a
    formula, and of those that are free by convention.
    """

    flops: int
    params: int
    unknown: tuple[str, ...]
    free: tuple[str, ...]
    layers: Mapping[str, int]


def count(module: nn.Module, input_shape: tuple[int, ...]) -> Counts:
    """FLOPs and parameters of `module` in evaluation for one example of `input_shape` (without batch)."""
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros(1, *input_shape, device=parameter.device, dtype=parameter.dtype)
    counter = Counter()
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad(), counter.watching(module), counter:
            module.eval()(example)
    finally:
        for part, training in modes.items():
            part.training = training
    return Counts(
        flops=sum(counter.spent.values()),
        params=sum(p.numel() for p in module.parameters()),
        unknown=tuple(sorted(counter.unknown)),
        free=tuple(sorted(counter.free)),
        layers={name: spent for name, spent in counter.spent.items() if name},
    )


class Counter(Watch):
    def __init__(self) -> None:
        super().__init__()
        self.spent: dict[str, int] = defaultdict(int)  # by layer; "" outside of all
        self.unknown: set[str] = set()
        self.free: set[str] = set()
        self._layer = ""

    @contextlib.contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Attribute what is computed inside a linear or convolution layer to its name."""
        hooks = []
        for name, part in module.named_modules():
            if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
                hooks.append(part.register_forward_pre_hook(lambda *_, name=name: setattr(self, "_layer", name)))
                hooks.append(part.register_forward_hook(lambda *_: setattr(self, "_layer", "")))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet, name = func.overloadpacket, func.overloadpacket.__name__
        if packet in flop_registry:
            self.spent[self._layer] += int(flop_registry[packet](*args, **kwargs, out_val=out))
        elif packet in _OURS:
            self.spent[self._layer] += _OURS[packet](*args, out)
        elif torch.Tag.pointwise in func.tags or func.is_view or name.rstrip("_") in _FREE:
            self.free.add(name)
        else:
            self.unknown.add(name)
        return out
