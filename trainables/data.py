"""Data sets: splits, preprocessing, digest.

A data set is a callable that returns arrays by split name: `train`, and `valid` and `test` if it has them; what is missing
is carved out of `train` by a permutation drawn from a published seed. Inputs are standardised with the training split's mean
and deviation, per channel (images) or per feature (vectors). Everything lives on the training device.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import draws
from .models import lookup

TEST_SHARE, VALID_SHARE = 0.2, 0.15
"""Shares of what is there that are carved out where a data set has no test or validation split."""

Arrays = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Split name -> inputs (n, ...) of any number type, labels (n,) whole numbers from 0."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set on its device: split name -> inputs (n, *shape) standardised, labels (n,) int64."""

    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    classes: int
    digest: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs["train"].shape[1:])


def digits() -> Arrays:
    """scikit-learn's digits: 1797 grey images, 1 x 8 x 8, 10 classes (UCI optical recognition of handwritten digits)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return {"train": (np.asarray(images).reshape(-1, 1, 8, 8), np.asarray(labels))}


def parquet(train: str, test: str = "", image: str = "image", label: str = "label") -> Arrays:
    """Images as encoded bytes in Parquet files, the layout of Hugging Face image data sets: `image{bytes, path}`, `label`.

    train, test: paths (environment variables are expanded).  image, label: names of the columns.
    """
    return {split: _decode(Path(os.path.expandvars(path)), image, label) for split, path in
            {"train": train, "test": test}.items() if path}  # fmt: skip


def _decode(path: Path, image: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    try:
        table = pq.read_table(path, columns=[image, label])
        encoded = pa.chunked_array(table[image]).combine_chunks().field("bytes").to_pylist()
        labels = table[label].to_numpy()
    except FileNotFoundError:
        raise ValueError(f"data set parquet: no file {path}") from None
    except (pa.ArrowException, OSError, KeyError, AttributeError) as error:
        rule = f"columns `{image}` (with `bytes`) and `{label}` are read from a Parquet file"
        raise ValueError(f"data set parquet: {path}: {rule}; got: {str(error).splitlines()[0]}") from None
    images = []
    for row, code in enumerate(encoded):
        try:
            pixels = np.asarray(Image.open(io.BytesIO(code)))
        except (OSError, TypeError) as error:
            raise ValueError(f"data set parquet: {path}: row {row}: not an image ({error})") from None
        images.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    if len({pixels.shape for pixels in images}) != 1:
        shapes = sorted({pixels.shape for pixels in images})
        raise ValueError(f"data set parquet: {path}: images have one shape; got {shapes[:3] or 'no images'}")
    return np.stack(images), labels


DATASETS: dict[str, Callable[..., Arrays]] = {"digits": digits, "parquet": parquet}


def load(name: str, options: Mapping[str, Any], split_seed: int, dtype: torch.dtype, device: torch.device) -> Data:
    """The data set `name` (a key of DATASETS or a dotted path) on `device`; read once per process.

    Raises ValueError naming what is wrong with the data.
    """
    return _load(name, json.dumps(options, sort_keys=True), split_seed, dtype, device)


@functools.lru_cache(maxsize=2)
def _load(name: str, options: str, split_seed: int, dtype: torch.dtype, device: torch.device) -> Data:
    arrays = dict(lookup(name, DATASETS, "dataset")(**json.loads(options)))
    if "train" not in arrays:
        raise ValueError(f"data set {name}: has a split `train`; got {sorted(arrays)}")
    for split, (inputs, labels) in arrays.items():
        arrays[split] = (np.asarray(inputs), _labels(f"data set {name}: split {split}", inputs, labels))
    digest = hashlib.sha256()
    for split in sorted(arrays):
        for array in arrays[split]:
            digest.update(f"{split}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    for split, share in (("test", TEST_SHARE), ("valid", VALID_SHARE)):
        if split not in arrays:
            arrays["train"], arrays[split] = _carve(arrays["train"], share, split_seed, split)
    inputs = {split: torch.from_numpy(np.ascontiguousarray(x)).to(dtype) for split, (x, _) in arrays.items()}
    if not all(torch.isfinite(x).all() for x in inputs.values()):
        raise ValueError(f"data set {name}: inputs are finite numbers; got NaN or infinity")
    across = [dim for dim in range(inputs["train"].ndim) if dim != 1]
    mean = inputs["train"].mean(across, keepdim=True)
    deviation = inputs["train"].std(across, keepdim=True)
    scale = torch.where(deviation > 0, deviation, 1.0)
    return Data(
        {split: ((x - mean) / scale).to(device) for split, x in inputs.items()},
        {split: torch.from_numpy(y).to(device) for split, (_, y) in arrays.items()},
        classes=1 + max(int(y.max()) for _, y in arrays.values()),
        digest=digest.hexdigest()[:16],
    )


def _labels(where: str, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or len(labels) != len(inputs) or len(labels) == 0:
        raise ValueError(f"{where}: one label for each of the inputs; got {labels.shape} for {len(inputs)} inputs")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(f"{where}: labels are whole numbers from 0; got {labels.dtype} from {labels.min()}")
    return labels.astype(np.int64)


def _carve(
    arrays: tuple[np.ndarray, np.ndarray], share: float, seed: int, split: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What is left and what is carved out of (inputs, labels)."""
    inputs, labels = arrays
    order = draws.permutation(draws.key(torch.tensor(seed), "split", split), len(labels)).numpy()
    out, rest = np.split(order, [round(share * len(labels))])
    return (inputs[rest], labels[rest]), (inputs[out], labels[out])
