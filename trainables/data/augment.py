"""Random changes to training images, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..training import draws

PADDING = 4
"""Pixels by which a crop may be shifted, in each direction."""

AUGMENTATIONS = ("crop", "flip")


def augment(x: Tensor, kinds: Sequence[str], key: Tensor) -> Tensor:
    """Images with each of `kinds` of augmentation, the same for equal keys.

    x: (U, B, channels, height, width), standardised.  key: (U,).  crop: PADDING zeros around an
    image, of which a window of the old size is cut out at random.  flip: left and right are
    exchanged, with probability 1/2.
    """
    if "crop" in kinds:
        x = _cropped(x, draws.key(key, "crop"))
    if "flip" in kinds:
        x = _flipped(x, draws.key(key, "flip"))
    return x


def _cropped(x: Tensor, key: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    images = x.flatten(0, 1)
    padded = F.pad(images, (PADDING,) * 4)
    # Views: (U B, channels, top, left, height, width).
    rows = padded.unfold(2, height, 1)
    windows = rows.unfold(3, width, 1)
    places = 2 * PADDING + 1
    corners = draws.uniform(key, (x.shape[1], 2)) * places
    top, left = corners.long().view(-1, 2).T
    which = torch.arange(len(images), device=x.device)
    return windows[which, :, top, left].view(x.shape)


def _flipped(x: Tensor, key: Tensor) -> Tensor:
    batch = x.shape[1]
    drawn = draws.uniform(key, (batch,))
    is_flipped = drawn < 0.5
    is_flipped = is_flipped[..., None, None, None]
    return torch.where(is_flipped, x.flip(-1), x)
