"""A data set that one process read and others of the same machine use."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .changes import AS_IT_IS, Changes
from .dataset import Data
from .stream import Stream

Packed = Mapping[str, Any]
"""A data set as arrays, which processes of one machine can share."""

Key = tuple[str, str, int, torch.dtype, Changes]
"""Name, options as JSON, seed of the split, type of inputs, changes of the training split: the same
for the same data.
"""

_GIVEN: dict[Key, Packed] = {}


def key(
    name: str,
    options: Mapping[str, Any],
    split_seed: int,
    dtype: torch.dtype,
    changes: Changes = AS_IT_IS,
) -> Key:
    """What a data set is known by in a process."""
    # Text, since mappings have no hash.
    sorted_options = json.dumps(options, sort_keys=True)
    return name, sorted_options, split_seed, dtype, changes


def pack(data: Data) -> Packed | None:
    """`data` as arrays for `give`; None if it streams."""
    inputs: dict[str, np.ndarray] = {}
    for split, x in data.inputs.items():
        if isinstance(x, Stream):
            return None
        inputs[split] = x.numpy(force=True)
    labels: dict[str, np.ndarray] = {}
    for split, y in data.labels.items():
        labels[split] = y.numpy(force=True)
    return {
        "inputs": inputs,
        "labels": labels,
        "mean": data.mean.numpy(),
        "scale": data.scale.numpy(),
        "shape": data.shape,
        "classes": data.classes,
        "digest": data.digest,
        "cautions": data.cautions,
    }


def give(
    name: str,
    options: Mapping[str, Any],
    split_seed: int,
    dtype: torch.dtype,
    packed: Packed,
    changes: Changes = AS_IT_IS,
) -> None:
    """Let `splits.load_data` use what another process read and packed, instead of reading files
    that may not be on this machine.
    """
    known_by = key(name, options, split_seed, dtype, changes)
    if known_by not in _GIVEN:
        _GIVEN.clear()  # one study at a time
        _GIVEN[known_by] = packed


def is_given(known_by: Key) -> bool:
    """Whether another process gave these data."""
    return known_by in _GIVEN


@functools.lru_cache(maxsize=2)
def unpack(known_by: Key, device: torch.device) -> Data:
    """The data that another process gave, on the device."""
    packed = _GIVEN[known_by]
    with warnings.catch_warnings():
        # Nothing writes to it.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return Data(
            inputs=_on(device, packed["inputs"]),
            labels=_on(device, packed["labels"]),
            shape=packed["shape"],
            classes=packed["classes"],
            digest=packed["digest"],
            mean=torch.from_numpy(packed["mean"]),
            scale=torch.from_numpy(packed["scale"]),
            cautions=packed["cautions"],
        )


def forget() -> None:
    """Read all data again from now on."""
    _GIVEN.clear()
    unpack.cache_clear()


def _on(
    device: torch.device,
    arrays: Mapping[str, np.ndarray],
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for split, array in arrays.items():
        tensor = torch.from_numpy(array)
        tensors[split] = tensor.to(device)
    return tensors
