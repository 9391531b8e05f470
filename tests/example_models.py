"""Models of a user's own, named in tests by their dotted path."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def normed(input_shape: tuple[int, ...], classes: int, channels: int = 6) -> nn.Module:
    """Two convolutions with batch-norm, pooling and dropout, then a linear layer."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8 * (input_shape[1] // 2 - 2) * (input_shape[2] // 2 - 2), classes),
    )


class Refused(nn.Module):
    """Looks at a value, which vmap refuses, and draws from torch's own generator."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(inputs, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.one(x.flatten(1)))
        if hidden.sum().item() < 0:
            hidden = -hidden
        return self.two(F.dropout(hidden, 0.2, self.training))


def refused(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model that trains as a loop over its members."""
    inputs = 1
    for extent in input_shape:
        inputs *= extent
    return Refused(inputs, classes)


class Residual(nn.Module):
    """A branch that is added to its input: units of what is added cannot be removed one by one."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (
            nn.Linear(inputs, 12),
            nn.Linear(12, 9),
            nn.Linear(9, 12),
        )
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x.flatten(1)))
        return self.head(x + self.outer(torch.relu(self.inner(x))))


def residual(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One residual block between two linear layers."""
    return Residual(input_shape[0] * input_shape[1] * input_shape[2], classes)


def nothing_removable(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """No linear or convolution layer at all."""
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.AdaptiveAvgPool1d(classes))


class Odd(nn.Module):
    """No biases, tied and frozen layers, a parameter that nothing uses, a buffer of whole numbers."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.stem, self.tied = nn.Linear(inputs, 12, bias=False), nn.Linear(12, 12, bias=False)
        self.again = nn.Linear(12, 12, bias=False)
        self.again.weight = self.tied.weight
        self.frozen, self.head = nn.Linear(12, 12), nn.Linear(12, classes, bias=False)
        self.frozen.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(torch.relu(self.stem(x.flatten(1))))
        return self.head(torch.relu(self.frozen(torch.relu(self.again(torch.relu(x))))))


def odd(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model in which little is as usual."""
    return Odd(input_shape[0] * input_shape[1] * input_shape[2], classes)


def padded(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Convolutions without padding before one with it: a constant is folded into the first two, and
    not into the third.
    """
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.Sigmoid(),
        nn.Conv2d(5, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.Flatten(),
        nn.Linear(3 * (input_shape[1] - 6) * (input_shape[2] - 6), classes),
    )


class Dropping(nn.Module):
    """Dropout as a function beside a branch: can be traced, but vmap refuses it, and what it does
    depends on `training`.
    """

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = (
            nn.Linear(inputs, 12),
            nn.Linear(12, 16),
            nn.Linear(16, 12),
        )
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        return self.head(x + self.outer(F.dropout(torch.relu(self.inner(x)), 0.2, self.training)))


def dropping(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model with hidden units that trains as a loop over its members."""
    return Dropping(input_shape[0] * input_shape[1] * input_shape[2], classes)


class Written(nn.Module):
    """Its code has the number of a layer's outputs written in it."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(channels, 6, 3), nn.Linear(6 * 36, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).view(-1, 216))


def written(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model that cannot be made narrower, for images of 8 x 8."""
    return Written(input_shape[0], classes)


def scaled(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions, one with batch-norm, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(input_shape[0], 20, 3, padding=1),
        nn.BatchNorm2d(20),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 18, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(18 * (input_shape[1] // 2 - 2) * (input_shape[2] // 2 - 2), 14),
        nn.ReLU(),
        nn.Linear(14, classes),
    )


class Bottleneck(nn.Module):
    """A branch with two hidden layers of four units."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.three = (
            nn.Linear(*e) for e in ((inputs, 6), (6, 4), (4, 4), (4, 6))
        )
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x.flatten(1)))
        return self.head(x + self.three(torch.relu(self.two(torch.relu(self.one(x))))))


def bottleneck(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """One residual block with two hidden layers."""
    return Bottleneck(input_shape[0] * input_shape[1] * input_shape[2], classes)


class Fourier(nn.Module):
    """Two linear layers with a Fourier transform between them, which no FLOPs formula counts."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(inputs, 14), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.fft.rfft(self.one(x.flatten(1))).abs())


def fourier(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model that computes an operation without a FLOPs formula."""
    return Fourier(math.prod(input_shape), classes)


class Plain(nn.Module):
    """A chain written with functions; the last hidden layer keeps its width."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2)
        self.units = 6 * ((side - 1) // 2) ** 2
        self.one, self.two = nn.Linear(self.units, 9), nn.Linear(9, 9)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(9, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x), inplace=True)
        x = x.view(x.size(0), -1)
        x = torch.tanh(self.one(x))
        x = self.drop(F.relu(self.two(x)))
        return self.head(x)


def plain(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A chain written with functions."""
    return Plain(input_shape[1], classes)


def wraps(input_shape: tuple[int, ...], classes: int, wrap: int = 1) -> nn.Module:
    """A model with an option `wrap` of its own: how many units."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(input_shape), wrap), nn.ReLU(), nn.Linear(wrap, classes)
    )


def pixels(noise: float = 0.0, extent: int = 28) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images in a frame of constant pixels, with noise all over them."""
    draws = np.random.default_rng(0)
    inputs = np.zeros((256, 1, extent, extent))
    inputs[:, :, 6:-6, 6:-6] = draws.random((256, 1, extent - 12, extent - 12))
    inputs += noise * draws.random(inputs.shape)
    return {"train": (inputs, np.arange(256) % 10)}
