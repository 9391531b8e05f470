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
        crop_key = draws.key(key, "crop")
        x = _cropped(x, crop_key)
    if "flip" in kinds:
        flip_key = draws.key(key, "flip")
        x = _flipped(x, flip_key)
    return x


def _cropped(x: Tensor, key: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    images = x.flatten(0, 1)
    all_sides = (PADDING,) * 4
    padded = F.pad(images, all_sides)
    # Views: (U B, channels, top, left, height, width).
    bands = padded.unfold(2, height, 1)
    windows = bands.unfold(3, width, 1)
    places = 2 * PADDING + 1
    batch = x.shape[1]
    drawn = draws.uniform(key, (batch, 2))
    corners = drawn * places
    corners = corners.long()
    top, left = corners.view(-1, 2).T
    which = torch.arange(len(images), device=x.device)
    crops = windows[which, :, top, left]
    return crops.view(x.shape)


def _flipped(x: Tensor, key: Tensor) -> Tensor:
    batch = x.shape[1]
    drawn = draws.uniform(key, (batch,))
    is_flipped = drawn < 0.5
    is_flipped = is_flipped[..., None, None, None]
    mirrored = x.flip(-1)
    return torch.where(is_flipped, mirrored, x)
