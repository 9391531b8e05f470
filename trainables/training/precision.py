"""Precision: what a cohort's forward and backward passes are computed in while it trains.

Parameters, masks, losses, statistics and what an optimiser keeps are float32, or float64 where the
task says so, whatever the passes are computed in; and so is everything that is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...analysis.rows.mistake import Mistake

if TYPE_CHECKING:
    from ..task import Task

Forward = Callable[..., Tensor]
PARAMETERS: Mapping[str, str] = {
    "float64": "float64",
    "float32": "float32",
    "tf32": "float32",
    "bf16": "float32",
}
"""Precision -> the type of parameters, in which networks are measured and exported."""
CONVOLUTIONS: Collection[Callable[..., Any]] = (
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
)
STATISTICS: Collection[Callable[..., Any]] = (
    F.batch_norm,
    F.group_norm,
    F.instance_norm,
    F.layer_norm,
)
"""What is computed by mean and variance."""


def settled(precision: Any, dtype: Any) -> Any:
    """The precision of a task that may name the type of its parameters, `dtype`, as studies did
    before there was a precision. None: not given.

    Raises Mistake if the two disagree.
    """
    if dtype is None:
        return precision
    types = sorted(set(PARAMETERS.values()))
    if dtype not in types:
        words = ", ".join(types)
        raise Mistake(f"`dtype` is the type of parameters: one of {words}; got {dtype!r}")
    if precision is None:
        return dtype
    if precision not in list(PARAMETERS):
        return precision  # the task says what is wrong with it
    if PARAMETERS[precision] != dtype:
        rule = "`precision` is given alone, or with the `dtype` that its parameters have"
        raise Mistake(f"{rule}; got {precision} and {dtype}")
    return precision


def forward(task: Task, call: Forward) -> Forward:
    """`call` of (parameters, buffers, *inputs), as it is computed in training: its logits, and what
    it leaves in buffers, have the types that they have without.
    """
    if task.precision != "bf16":
        return call

    def autocasting(
        params: Mapping[str, Tensor],
        buffers: dict[str, Tensor],
        *inputs: Tensor,
    ) -> Tensor:
        before = dict(buffers)
        with autocast(task):
            logits = call(params, buffers, *inputs)
        for name, tensor in before.items():
            after = buffers[name]
            buffers[name] = after.to(tensor.dtype)
        return logits.to(task.torch_dtype)

    return autocasting


@contextlib.contextmanager
def autocast(task: Task) -> Iterator[None]:
    """In here products of matrices and convolutions are computed in bfloat16, and statistics in
    float32, where the task says so.
    """
    if task.precision != "bf16":
        yield
        return
    # A cast weight is not kept: under `vmap` it would be of a call that is over.
    kind = task.torch_device.type
    with torch.autocast(kind, torch.bfloat16, cache_enabled=False), _Casts():
        yield


class _Casts(TorchFunctionMode):
    """Casts where autocast does not: under `vmap`, which makes other operations of a convolution
    before autocast on a CPU sees it, and of a batch-norm those that take one type only.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in CONVOLUTIONS:
            return _in_type(torch.bfloat16, func, args, named)
        if func in STATISTICS:
            x = args[0] if args else named["input"]
            normed = _in_type(torch.float32, func, args, named)
            return normed.to(x.dtype)  # activations stay half as large
        return func(*args, **named)


def _in_type(
    kind: torch.dtype,
    func: Callable[..., Tensor],
    args: Sequence[Any],
    named: Mapping[str, Any],
) -> Tensor:
    """What `func` makes of its arguments, the tensors among them in a type."""
    cast = [_cast(value, kind) for value in args]
    cast_by_name: dict[str, Any] = {}
    for name, value in named.items():
        cast_by_name[name] = _cast(value, kind)
    return func(*cast, **cast_by_name)


def _cast(value: Any, kind: torch.dtype) -> Any:
    """An argument in a type; what is no tensor as it is."""
    return value.to(kind) if isinstance(value, Tensor) else value


def training(task: Task) -> contextlib.AbstractContextManager[None]:
    """In here a GPU computes products of float32 as the task says."""
    return _products(task.torch_device, in_tf32=task.precision == "tf32")


def measuring(task: Task) -> contextlib.AbstractContextManager[None]:
    """In here a GPU computes products of float32 in float32."""
    return _products(task.torch_device, in_tf32=False)


@contextlib.contextmanager
def _products(device: torch.device, in_tf32: bool) -> Iterator[None]:
    """In here a GPU computes products of float32 matrices, and convolutions, in tf32 or in float32;
    what torch was told before holds again afterwards.

    By the switches that torch 2.6 has too. Beside the newer `fp32_precision`, that of matrices
    alone makes torch 2.14 refuse to say its `get_float32_matmul_precision`, which its compiler
    asks for.
    """
    if device.type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul
    convolutions = torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = in_tf32
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def expect_solvable(task: Task, what: str) -> None:
    """Raise Mistake where `what` is solved for, and the task's precision is made for training."""
    if task.precision in ("float64", "float32"):
        return
    rule = f"`precision` is float64 or float32 for {what}, which is solved for and not trained"
    raise Mistake(f"{rule}: linear systems need its digits; got {task.precision}")
