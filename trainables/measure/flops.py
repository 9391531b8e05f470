"""The FLOPs contract: what counts, what is free, what is unknown.

Convolutions and matrix products count, 2 FLOPs per multiply-accumulate (torch's own formulas:
padding and groups included), those inside of attention and of recurrent layers too; pointwise
operations, an outer product among them, norms, pooling, reductions and views are free and listed
so; anything else is unknown and named.

What a device computes by one kernel costs what its products cost when they are computed one by one,
so that a figure does not depend on the device.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from ..watch import Watch


def _product(x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    """Rows x (..., n) times a matrix, however that is stored: out (..., m)."""
    return 2 * x.numel() * out.shape[-1]


def _added_product(y: Tensor, x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    return _product(x, out=out)


def _matrix_vector(matrix: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(y: Tensor, matrix: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    return 2 * matrix.numel()


def _convolution_in_time(x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    """weight: (kernel, inputs, outputs).  out: (time, batch, outputs)."""
    return 2 * out.numel() * weight[..., 0].numel()


def _trilinear(
    one: Tensor,
    two: Tensor,
    three: Tensor,
    expand_one: Sequence[int],
    expand_two: Sequence[int],
    expand_three: Sequence[int],
    summed: Sequence[int],
    *_: Any,
    out: Tensor,
    **__: Any,
) -> int:
    """The product of two tensors, summed as far as the third one lets it, and then the product with
    that one.
    """
    first, second, third = (
        _with_ones(tensor.shape, places)
        for tensor, places in ((one, expand_one), (two, expand_two), (three, expand_three))
    )
    pair = torch.broadcast_shapes(first, second)
    left = [1 if place in summed and third[place] == 1 else size for place, size in enumerate(pair)]
    return 2 * math.prod(pair) + 2 * math.prod(torch.broadcast_shapes(left, third))


def _with_ones(shape: Sequence[int], places: Sequence[int]) -> list[int]:
    """A shape with further dimensions of size 1 at `places`."""
    wider = list(shape)
    for place in sorted(places):
        wider.insert(place, 1)
    return wider


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any) -> int:
    """Scores and their sums of values. query: (..., L, E).  key: (..., S, E).  value: (..., S, V)."""
    return 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, out: Any, **__: Any
) -> int:
    """Scores once more, and the gradients of both products' factors."""
    return 2 * query[..., 0].numel() * key.shape[-2] * (3 * query.shape[-1] + 2 * value.shape[-1])


def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    inner: Tensor,
    bias: Tensor,
    outer: Tensor,
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    """Attention of (batch, L, width) queries to (batch, S, width) keys and values, and the
    projections around it.
    """
    projected = (query.numel() + key.numel() + value.numel()) * width
    attended = 2 * query.numel() * key.shape[1]
    return 2 * (projected + attended + query.numel() * outer.shape[0])


def _encoder_layer(
    x: Tensor,
    width: int,
    heads: int,
    inner: Tensor,
    bias: Tensor,
    outer: Tensor,
    *rest: Any,
    out: Any,
    **_: Any,
) -> int:
    """Attention of x (batch, L, width) to itself, and the two linear layers behind it."""
    matrices = [part for part in rest if isinstance(part, Tensor) and part.ndim == 2][:2]
    attended = _multi_head_attention(x, x, x, width, heads, inner, bias, outer, out=out)
    return attended + 2 * (x.numel() // width) * sum(matrix.numel() for matrix in matrices)


def _recurrence(x: Tensor, weights: Sequence[Tensor]) -> int:
    """Every matrix is read once at each time step of each example. x: (time, batch, inputs), or
    packed (steps, inputs).
    """
    steps = x.numel() // x.shape[-1]
    return 2 * steps * sum(weight.numel() for weight in weights if weight.ndim == 2)


def _recurrent(x: Tensor, weights: Sequence[Tensor], *_: Any, out: Any, **__: Any) -> int:
    return _recurrence(x, weights)


def _recurrent_backward(x: Tensor, weights: Sequence[Tensor], *_: Any, out: Any, **__: Any) -> int:
    return 2 * _recurrence(x, weights)


def _recurrent_layer(
    x: Tensor, of_input: Tensor, of_state: Tensor, *_: Any, out: Any, **__: Any
) -> int:
    return _recurrence(x, (of_input, of_state))


def _recurrent_layer_backward(
    x: Tensor, of_input: Tensor, of_state: Tensor, *_: Any, out: Any, **__: Any
) -> int:
    return 2 * _recurrence(x, (of_input, of_state))


def _recurrent_states(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], *_: Any, out: Any, **__: Any
) -> int:
    return _recurrence(x, weights)


def _dot(x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    return 2 * x.numel()


_FORMULAS: Mapping[Callable[..., int], str] = {
    _dot: "dot vdot",
    _matrix_vector: "mv",
    _added_matrix_vector: "addmv addmv_",
    _product: """
        linear mkldnn_linear _int_mm _grouped_mm _weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu
        """,
    _added_product: "addbmm addbmm_ _addmm_activation",
    _convolution_in_time: "conv_tbc",
    _trilinear: "_trilinear",
    _attention: """
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention
        _scaled_dot_product_cudnn_attention _scaled_dot_product_fused_attention_overrideable
        _scaled_dot_product_attention_math_for_mps
        """,
    _attention_backward: """
        _scaled_dot_product_flash_attention_for_cpu_backward _scaled_dot_product_fused_attention_overrideable_backward
        """,
    _multi_head_attention: "_native_multi_head_attention _triton_multi_head_attention",
    _encoder_layer: "_transformer_encoder_layer_fwd",
    _recurrent: "_cudnn_rnn miopen_rnn",
    _recurrent_backward: "_cudnn_rnn_backward miopen_rnn_backward",
    _recurrent_layer: "mkldnn_rnn_layer",
    _recurrent_layer_backward: "mkldnn_rnn_layer_backward",
    _recurrent_states: "_lstm_mps",
}
"""Formulas for products that torch's registry lacks, and so would count as nothing, by names of
operations.
"""

_OURS = {name: formula for formula, names in _FORMULAS.items() for name in names.split()}

_FREE = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _cudnn_batch_norm _cudnn_rnn_flatten_weight
    _embedding_bag _embedding_bag_forward_only _fused_sdp_choice _local_scalar_dense _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _pack_padded_sequence _safe_softmax _softmax
    _thnn_fused_gru_cell _thnn_fused_lstm_cell _unsafe_view _weight_norm_interface adaptive_max_pool2d adaptive_max_pool3d
    addr alias_copy all amax amin any arange argmax argmin avg_pool1d avg_pool2d avg_pool3d bernoulli cat clone col2im
    constant_pad_nd contiguous copy cudnn_batch_norm cumsum embedding empty empty_like eye fill flip full full_like gather
    glu im2col index index_select lift_fresh linalg_vector_norm logsumexp max max_pool2d_with_indices
    max_pool3d_with_indices mean median min miopen_batch_norm mkldnn_max_pool2d native_batch_norm native_dropout
    native_group_norm native_layer_norm new_zeros norm ones ones_like pixel_shuffle pixel_unshuffle reflection_pad2d repeat
    replication_pad2d roll scalar_tensor scatter sort stack std std_mean sum topk tril triu unsafe_split
    unsafe_split_with_sizes upsample_bilinear2d upsample_nearest2d var var_mean zeros zeros_like
    """.split()
)
"""Names of operations that are neither pointwise nor views, and free by convention: norms, pooling,
reductions, moves.
"""


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
        self._owners: dict[int, str] = {}  # storage of a weight -> layer
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
            if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
                hooks.append(
                    part.register_forward_pre_hook(
                        lambda *_, name=name: setattr(self, "_layer", name)
                    )
                )
                hooks.append(part.register_forward_hook(lambda *_: setattr(self, "_layer", "")))
                weight = part._parameters.get("weight")
                if weight is not None:
                    self._owners.setdefault(weight.untyped_storage()._cdata, name)
        try:
            yield
        finally:
            self._owners.clear()
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        spent = _cost(func, args, kwargs, out)
        name = func.overloadpacket.__name__
        if spent is not None:
            self.spent[self._layer or self._owner(args)] += spent
        elif torch.Tag.pointwise in func.tags or func.is_view or name.rstrip("_") in _FREE:
            self.free.add(name)
        else:
            self.unknown.add(name)
        return out

    def _owner(self, args: Any) -> str:
        """The layer one of whose weights is among the arguments: its parent reads it without
        calling it.
        """
        for value in tree_iter(args) if self._owners else ():
            if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested:
                name = self._owners.get(value.untyped_storage()._cdata)
                if name is not None:
                    return name
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


def _cost(func: Any, args: Any, kwargs: Any, out: Any) -> int | None:
    """FLOPs of a call; None without a formula."""
    packet = func.overloadpacket
    own = _OURS.get(packet.__name__) if func.namespace == "aten" else None
    try:
        if own is not None:
            return own(*args, out=out, **kwargs)
        return (
            int(flop_registry[packet](*args, **kwargs, out_val=out))
            if packet in flop_registry
            else None
        )
    except RuntimeError:  # a nested tensor has no shape
        return None


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
