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
from .models import call, raised

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
    for name, value in {"train": train, "test": test, "image": image, "label": label}.items():
        if not isinstance(value, str):
            raise ValueError(f"`{name}` is text; got {value!r}")
    return {split: _decode(Path(os.path.expandvars(path)), image, label) for split, path in
            {"train": train, "test": test}.items() if path}  # fmt: skip


def _decode(path: Path, image: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    rule = f"a Parquet file has the columns `{image}`, with a field `bytes`, and `{label}`"
    try:
        table = pq.read_table(path, columns=[image, label])
    except FileNotFoundError:
        raise ValueError(f"no file {path}") from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {rule}; got: {str(error).splitlines()[0]}") from None
    kind, labels = table.schema.field(image).type, table[label].to_numpy()
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise ValueError(f"{path}: {rule}; got `{image}` of type {kind}")
    encoded = pa.chunked_array(table[image]).combine_chunks().field("bytes").to_pylist()
    images = []
    for row, code in enumerate(encoded):
        try:
            opened = Image.open(io.BytesIO(code))
            pixels = np.asarray(opened.convert("RGB") if opened.mode == "P" else opened)
        except Exception:  # Pillow raises a dozen kinds of errors for what it cannot decode
            raise ValueError(f"{path}: row {row} of `{image}`: not an image that can be decoded") from None
        images.append(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
    if len({pixels.shape for pixels in images}) != 1:
        shapes = sorted({pixels.shape for pixels in images})
        raise ValueError(f"{path}: images have one shape; got {', '.join(map(str, shapes[:3])) or 'no images'}")
    return np.stack(images), labels


DATASETS: dict[str, Callable[..., Arrays]] = {"digits": digits, "parquet": parquet}


def load(name: str, options: Mapping[str, Any], split_seed: int, dtype: torch.dtype, device: torch.device) -> Data:
    """The data set `name` (a key of DATASETS or a dotted path) on `device`; read once per process.

    Raises ValueError naming what is wrong with the data.
    """
    return _load(name, json.dumps(options, sort_keys=True), split_seed, dtype, device)


@functools.lru_cache(maxsize=2)
def _load(name: str, options: str, split_seed: int, dtype: torch.dtype, device: torch.device) -> Data:
    arrays = _checked(f"dataset {name}", call("dataset", name, DATASETS, **json.loads(options)))
    digest = hashlib.sha256()
    for split in sorted(arrays):
        for array in arrays[split]:
            digest.update(f"{split}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    for split, share in (("test", TEST_SHARE), ("valid", VALID_SHARE)):
        if split not in arrays:
            arrays["train"], arrays[split] = _carve(arrays["train"], share, split_seed, split)
            if not len(arrays[split][1]):
                raise ValueError(f"dataset {name}: has a split `{split}`, or enough examples in `train` to carve it out")
    inputs = {split: torch.from_numpy(np.ascontiguousarray(x)).to(dtype) for split, (x, _) in arrays.items()}
    if not all(torch.isfinite(x).all() for x in inputs.values()):
        raise ValueError(f"dataset {name}: inputs are finite numbers; got NaN or infinity")
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


def _checked(where: str, found: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What a data set returned, as arrays. Raises ValueError naming what is wrong with it."""
    splits = ("train", "valid", "test")
    if not isinstance(found, Mapping) or "train" not in found or not found.keys() <= set(splits):
        got = list(found) if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(f"{where}: is a mapping with a split `train`, and perhaps `valid` and `test`; got {got}")
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, pair in found.items():
        try:
            inputs, labels = map(np.asarray, pair)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: split {split}: is a pair of arrays, inputs and labels; {raised(error)}") from error
        if inputs.ndim < 2 or inputs.dtype.kind not in "biuf":
            raise ValueError(f"{where}: split {split}: inputs are numbers (n, ...); got {inputs.dtype} {inputs.shape}")
        if labels.shape != inputs.shape[:1] or not len(labels):
            raise ValueError(f"{where}: split {split}: has one label for each input; got {labels.shape} for {inputs.shape}")
        if labels.dtype.kind not in "iu" or (labels := labels.astype(np.int64)).min() < 0:
            got = labels.min() if labels.dtype.kind == "i" else f"{labels.dtype} {labels[:3].tolist()}"
            raise ValueError(f"{where}: split {split}: labels are whole numbers from 0; got {got}")
        arrays[split] = (inputs, labels)
    shapes = {split: inputs.shape[1:] for split, (inputs, _) in arrays.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"{where}: inputs of all splits have one shape; got {shapes}")
    return arrays


def _carve(
    arrays: tuple[np.ndarray, np.ndarray], share: float, seed: int, split: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What is left and what is carved out of (inputs, labels)."""
    inputs, labels = arrays
    order = draws.permutation(draws.key(torch.tensor(seed), "split", split), len(labels)).numpy()
    out, rest = np.split(order, [round(share * len(labels))])
    return (inputs[rest], labels[rest]), (inputs[out], labels[out])
