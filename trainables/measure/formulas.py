"""What an operation costs: formulas for those that count, and names of those that are free.

Convolutions and matrix products count, 2 FLOPs per multiply-accumulate (torch's own formulas:
padding and groups included), those inside of attention and of recurrent layers too; pointwise
operations, an outer product among them, norms, pooling, reductions and views are free; anything
else is unknown.

What a device computes by one kernel costs what its products cost when they are computed one by one,
so that a figure does not depend on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

Formula = Callable[..., int]
"""(*arguments, out=what it gave, **keywords) -> FLOPs."""
Sizes = Sequence[int]


def cost(func: Any, args: Any, kwargs: Any, out: Any) -> int | None:
    """FLOPs of a call; None without a formula."""
    packet = func.overloadpacket
    own = _formula(func)
    try:
        if own is not None:
            return own(*args, out=out, **kwargs)
        if packet in flop_registry:
            return int(flop_registry[packet](*args, **kwargs, out_val=out))
    except RuntimeError:  # a nested tensor has no shape
        return None
    return None


def is_free(func: Any) -> bool:
    """Whether an operation costs nothing: it is pointwise, a view, or free by convention."""
    if torch.Tag.pointwise in func.tags or func.is_view:
        return True
    name = func.overloadpacket.__name__
    return name.rstrip("_") in _FREE


def _formula(func: Any) -> Formula | None:
    """Our own formula of an operation, if there is one."""
    if func.namespace != "aten":
        return None
    return _OURS.get(func.overloadpacket.__name__)


# ---- products


def _product(x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    """Rows x (..., n) times a matrix, however that is stored: out (..., m)."""
    columns = out.shape[-1]
    return 2 * x.numel() * columns


def _added_product(
    y: Tensor,
    x: Tensor,
    *_: Any,
    out: Tensor,
    **__: Any,
) -> int:
    return _product(x, out=out)


def _matrix_vector(matrix: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(
    y: Tensor,
    matrix: Tensor,
    *_: Any,
    out: Tensor,
    **__: Any,
) -> int:
    return 2 * matrix.numel()


def _dot(x: Tensor, *_: Any, out: Tensor, **__: Any) -> int:
    return 2 * x.numel()


def _convolution_in_time(
    x: Tensor,
    weight: Tensor,
    *_: Any,
    out: Tensor,
    **__: Any,
) -> int:
    """weight: (kernel, inputs, outputs).  out: (time, batch, outputs)."""
    kernel, inputs, _outputs = weight.shape
    products = kernel * inputs
    return 2 * out.numel() * products


def _trilinear(
    one: Tensor,
    two: Tensor,
    three: Tensor,
    expand_one: Sizes,
    expand_two: Sizes,
    expand_three: Sizes,
    summed: Sizes,
    *_: Any,
    out: Tensor,
    **__: Any,
) -> int:
    """The product of two tensors, summed as far as the third one lets it, and then the product with
    that one.
    """
    first = _with_ones(one.shape, expand_one)
    second = _with_ones(two.shape, expand_two)
    third = _with_ones(three.shape, expand_three)
    pair = torch.broadcast_shapes(first, second)
    left = list(pair)
    for place in summed:
        if third[place] == 1:
            left[place] = 1
    whole = torch.broadcast_shapes(left, third)
    return 2 * math.prod(pair) + 2 * math.prod(whole)


def _with_ones(shape: Sizes, places: Sizes) -> list[int]:
    """A shape with further dimensions of size 1 at `places`."""
    wider = list(shape)
    for place in sorted(places):
        wider.insert(place, 1)
    return wider


# ---- attention


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    """Scores and their sums of values. query: (..., L, E), key: (..., S, E), value: (..., S, V)."""
    pairs = _pairs(query, key)
    scored = query.shape[-1]
    summed = value.shape[-1]
    return 2 * pairs * (scored + summed)


def _attention_backward(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    """Scores once more, and the gradients of both products' factors."""
    pairs = _pairs(query, key)
    scored = query.shape[-1]
    summed = value.shape[-1]
    return 2 * pairs * (3 * scored + 2 * summed)


def _pairs(query: Tensor, key: Tensor) -> int:
    """How many scores there are: one for each query and key."""
    *batch, queries, _ = query.shape
    keys = key.shape[-2]
    return math.prod(batch) * queries * keys


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
    inputs = query.numel() + key.numel() + value.numel()
    projected = inputs * width
    keys, outputs = key.shape[1], outer.shape[0]
    attended = 2 * query.numel() * keys
    return 2 * (projected + attended + query.numel() * outputs)


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
    attended = _multi_head_attention(x, x, x, width, heads, inner, bias, outer, out=out)
    tensors = [part for part in rest if isinstance(part, Tensor)]
    matrices = [tensor for tensor in tensors if tensor.ndim == 2]
    rows = x.numel() // width
    return attended + 2 * rows * _entries(matrices[:2])


def _entries(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


# ---- recurrent layers


def _recurrence(x: Tensor, weights: Iterable[Tensor]) -> int:
    """Every matrix is read once at each time step of each example. x: (time, batch, inputs), or
    packed (steps, inputs).
    """
    inputs = x.shape[-1]
    steps = x.numel() // inputs
    matrices = [weight for weight in weights if weight.ndim == 2]
    return 2 * steps * _entries(matrices)


def _recurrent(
    x: Tensor,
    weights: Sequence[Tensor],
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    return _recurrence(x, weights)


def _recurrent_backward(
    x: Tensor,
    weights: Sequence[Tensor],
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    return 2 * _recurrence(x, weights)


def _recurrent_layer(
    x: Tensor,
    of_input: Tensor,
    of_state: Tensor,
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    return _recurrence(x, (of_input, of_state))


def _recurrent_layer_backward(
    x: Tensor,
    of_input: Tensor,
    of_state: Tensor,
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    return 2 * _recurrence(x, (of_input, of_state))


def _recurrent_states(
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    *_: Any,
    out: Any,
    **__: Any,
) -> int:
    return _recurrence(x, weights)


# ---- names


_FORMULAS: Mapping[Formula, str] = {
    _dot: "dot vdot",
    _matrix_vector: "mv",
    _added_matrix_vector: "addmv addmv_",
    _product: """
        linear mkldnn_linear _int_mm _grouped_mm _weight_int8pack_mm _weight_int4pack_mm
        _weight_int4pack_mm_for_cpu
        """,
    _added_product: "addbmm addbmm_ _addmm_activation",
    _convolution_in_time: "conv_tbc",
    _trilinear: "_trilinear",
    _attention: """
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
        _scaled_dot_product_fused_attention_overrideable
        _scaled_dot_product_attention_math_for_mps
        """,
    _attention_backward: """
        _scaled_dot_product_flash_attention_for_cpu_backward
        _scaled_dot_product_fused_attention_overrideable_backward
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


def _by_name() -> dict[str, Formula]:
    formulas: dict[str, Formula] = {}
    for formula, names in _FORMULAS.items():
        formulas |= dict.fromkeys(names.split(), formula)
    return formulas


_OURS = _by_name()

_FREE = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _cudnn_batch_norm
    _cudnn_rnn_flatten_weight _embedding_bag _embedding_bag_forward_only _fused_sdp_choice
    _local_scalar_dense _log_softmax _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
    _pack_padded_sequence _safe_softmax _softmax _thnn_fused_gru_cell _thnn_fused_lstm_cell
    _unsafe_view _weight_norm_interface adaptive_max_pool2d adaptive_max_pool3d addr alias_copy
    all amax amin any arange argmax argmin avg_pool1d avg_pool2d avg_pool3d bernoulli cat clone
    col2im constant_pad_nd contiguous copy cudnn_batch_norm cumsum embedding empty empty_like
    eye fill flip full full_like gather glu im2col index index_select lift_fresh
    linalg_vector_norm logsumexp max max_pool2d_with_indices max_pool3d_with_indices mean median
    min miopen_batch_norm mkldnn_max_pool2d native_batch_norm native_dropout native_group_norm
    native_layer_norm new_zeros norm ones ones_like pixel_shuffle pixel_unshuffle
    reflection_pad2d repeat replication_pad2d roll scalar_tensor scatter sort stack std std_mean
    sum topk tril triu unsafe_split unsafe_split_with_sizes upsample_bilinear2d
    upsample_nearest2d var var_mean zeros zeros_like
    """.split()
)
"""Names of operations that are neither pointwise nor views, and free by convention: norms, pooling,
reductions, moves.
"""
