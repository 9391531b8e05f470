"""Operations of models by type: which of them work unit by unit, and what else is known of them."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from ..training.dropout import CounterDropout

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_UNITWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Softplus, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Identity, nn.Dropout,
    nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, CounterDropout,
)  # fmt: skip
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_FUNCTIONS = {
    F.relu, torch.relu, F.relu_, F.relu6, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.selu,
    F.celu, F.gelu, F.silu, F.mish, F.hardtanh, F.hardswish, F.tanh, F.sigmoid, F.softplus,
    F.hardsigmoid, torch.tanh, torch.sigmoid, F.dropout,
    F.max_pool1d, F.max_pool2d, F.max_pool3d,
    F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
    F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d,
}  # fmt: skip
_METHODS = {"relu", "relu_", "tanh", "tanh_", "sigmoid", "sigmoid_", "contiguous"}
_SHIFTS = (
    nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, torch.sigmoid, F.sigmoid, F.softplus, F.hardsigmoid,
    "sigmoid", "sigmoid_",
)  # fmt: skip
_SHAPES = {torch.flatten, torch.reshape, "flatten", "view", "reshape"}
_SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_RANDOM = {
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
    F.rrelu, torch.bernoulli, torch.normal, torch.rand, torch.rand_like, torch.randint, torch.randn,
    torch.randn_like, "bernoulli", "bernoulli_", "normal_", "uniform_",
}  # fmt: skip
_NO_PADDING = (0, (0,), (0, 0), (0, 0, 0))
_RELUS = (F.relu, torch.relu, "relu")
_ATTRIBUTES = ("shape", "ndim", "dtype")


def is_unitwise(node: fx.Node, part: Any) -> bool:
    """Whether what an operation gives for a unit depends on that unit alone. part: the module that
    it calls.
    """
    if node.op == "call_function":
        return node.target in _FUNCTIONS
    if node.op == "call_method":
        return node.target in _METHODS
    return isinstance(part, _UNITWISE)


def is_average(part: Any) -> bool:
    """Whether a module averages neighbours of the same unit, padding among them."""
    return isinstance(part, _AVERAGES)


def is_unpadded_average(part: Any) -> bool:
    """Whether a module averages neighbours of the same unit, and nothing else."""
    return is_average(part) and part.padding in _NO_PADDING


def shifts(node: fx.Node, part: Any) -> bool:
    """Whether an operation that works unit by unit makes something of nothing."""
    return type(part) in _SHIFTS or node.target in _SHIFTS


def reshapes(node: fx.Node, part: Any) -> bool:
    """Whether an operation gives the values that it reads in another shape."""
    if node.op in ("call_function", "call_method"):
        return node.target in _SHAPES
    return isinstance(part, nn.Flatten)


def asks_shape(node: fx.Node) -> bool:
    """Whether an operation reads the shape or type of a tensor, and not its values."""
    if node.target is getattr:
        name = node.args[1]
        return name in _ATTRIBUTES
    return node.op == "call_method" and node.target in ("size", "dim")


def is_relu(node: fx.Node) -> bool:
    """Whether an operation is a call of ReLU that is not a module's."""
    return node.op != "call_module" and node.target in _RELUS


def is_sum_of_two(node: fx.Node) -> bool:
    """Whether an operation adds two values, neither of them scaled."""
    if node.target not in _SUMS or node.kwargs:
        return False
    return len(node.all_input_nodes) == len(node.args) == 2


def is_random(node: fx.Node) -> bool:
    """Whether an operation draws from torch's generator."""
    return node.target in _RANDOM
