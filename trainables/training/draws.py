"""Random draws as a function of a key: a counter, not a stream.

A draw depends on (seed, words such as step and site) alone, so it is the same at any place in any
cohort, and nothing has to be saved for an exact resume. Works under `vmap`, on any device. The
mixer is splitmix64's finaliser (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from .timed import Timed, timed

Shape = tuple[int, ...]

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def key(seed: Tensor, *words: int | str | Timed) -> Tensor:
    """A 64-bit key from a seed (...) int64 and words: counters, and names of the sites where
    numbers are drawn.
    """
    site = timed(_digest, *words)
    mixed_seed = _mix(seed)
    return _mix(mixed_seed ^ site)


def _digest(*words: int | str) -> int:
    """64 bits that stand for words."""
    told = repr(words).encode()
    hashed = hashlib.blake2b(told, digest_size=8)
    digest = hashed.digest()
    return int.from_bytes(digest, "big", signed=True)


def bits(key: Tensor, shape: Shape, index: Tensor | int = 0) -> Tensor:
    """Hashes, int64: shape (*key.shape, *shape).

    index: () of the draws of this shape that one key gives in turn, the draw at this place; 0, 1,
    ..., N - 1 together are the draw of shape (N, *shape).
    """
    count = math.prod(shape)
    first = torch.arange(1, count + 1, device=key.device)
    first = first.view(shape)
    places = first + index * count
    counter = places * _GOLDEN
    behind = (1,) * len(shape)
    broadcast = (*key.shape, *behind)
    start = key.view(broadcast)
    return _mix(start + counter)


def uniform(
    key: Tensor,
    shape: Shape = (),
    dtype: torch.dtype = torch.float64,
    index: Tensor | int = 0,
) -> Tensor:
    """Numbers in [0, 1), shape (*key.shape, *shape), on a grid of 2^-53 (float64) or 2^-24
    (others). index: as of `bits`.
    """
    digits = 24
    if dtype == torch.float64:
        digits = 53
    hashes = bits(key, shape, index)
    whole = _shift(hashes, 64 - digits)
    step = 2.0**-digits
    return whole.to(dtype) * step


def permutation(key: Tensor, length: int) -> Tensor:
    """A permutation of range(length) for each key: (*key.shape, length) int64."""
    hashes = bits(key, (length,))
    return torch.argsort(hashes, dim=-1, stable=True)


def _mix(x: Tensor) -> Tensor:
    x = x ^ _shift(x, 30)
    x = x * _FIRST
    x = x ^ _shift(x, 27)
    x = x * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical right shift: the arithmetic one of int64, its copied sign bits masked off."""
    low = (1 << (64 - by)) - 1
    return (x >> by) & low
