"""The device that members train on: how its memory is cut up, and whether it is still there."""

from __future__ import annotations

import os
import re

import torch

_CUDA_ERROR = re.compile(r"\b(CUDA|cuDNN|CUBLAS|cuBLAS)\b.*\berror\b", re.IGNORECASE | re.DOTALL)


def settle() -> None:
    """Have memory of a GPU grow in place, so that stacks of changing widths leave no gaps in it;
    before the first tensor is there. What the user has set stays.
    """
    by_version = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    if any(name in os.environ for name in by_version):
        return
    major, minor = torch.__version__.split(".")[:2]
    is_new = (int(major), int(minor)) >= (2, 9)
    os.environ[by_version[0] if is_new else by_version[1]] = "expandable_segments:True"


def is_lost(device: torch.device, error: BaseException) -> bool:
    """Whether a GPU, after an error, fails at whatever it is asked to do: so it does in this
    process until that ends.
    """
    if device.type != "cuda" or isinstance(error, torch.OutOfMemoryError):
        return False
    if not _CUDA_ERROR.search(f"{type(error).__name__}: {error}"):
        return False
    try:
        torch.ones(1, device=device).add(1).item()
    except RuntimeError:
        return True
    return False
