"""Data sets: splits, standardisation, images in Parquet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn import datasets
from torch import Tensor

from prunefront.trainables import data
from prunefront.trainables.task import Task

CPU = torch.device("cpu")
DIGITS: Any = datasets.load_digits()


def images(path: Path, count: int, start: int = 0) -> Path:
    """Digits as PNG bytes in Parquet, in the layout of Hugging Face image data sets."""
    rows = []
    for pixels, label in zip(DIGITS.images[start : start + count], DIGITS.target[start : start + count], strict=True):
        buffer = io.BytesIO()
        Image.fromarray((pixels * 15).astype(np.uint8)).save(buffer, format="PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": int(label)})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def load(name: str, options: dict[str, str], seed: int = 0) -> data.Data:
    return data.load(name, options, seed, torch.float64, CPU)


def whole(found: data.Data, split: str) -> Tensor:
    """All inputs of a split."""
    return found.examples(split, torch.arange(len(found.labels[split])))


def test_digits_are_split_by_a_published_seed_and_standardised_by_their_training_part():
    found = load("digits", {})
    assert {split: len(y) for split, y in found.labels.items()} == {"train": 1222, "valid": 216, "test": 359}
    assert (found.shape, found.classes) == ((1, 8, 8), 10)
    assert abs(float(whole(found, "train").mean())) < 1e-12
    assert float(whole(found, "train").std()) == pytest.approx(1)
    other = load("digits", {}, seed=1)
    assert other.digest == found.digest, "the digest names the data, not the split"
    assert not torch.equal(other.labels["test"], found.labels["test"])
    everything = torch.cat([whole(found, split).flatten(1) for split in ("train", "valid", "test")])
    assert len(everything) == 1797
    assert len(torch.unique(everything, dim=0)) == len(np.unique(DIGITS.data, axis=0)), "no example is in two splits"


def test_images_in_parquet_are_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    images(tmp_path / "train.parquet", 200)
    images(tmp_path / "test.parquet", 50, start=200)
    found = load("parquet", {"train": "$HERE/train.parquet", "test": str(tmp_path / "test.parquet")})
    assert {split: len(y) for split, y in found.labels.items()} == {"train": 170, "valid": 30, "test": 50}
    assert found.labels["test"].tolist() == DIGITS.target[200:250].tolist()
    pixels = torch.from_numpy(DIGITS.images[200:250] * 15)[:, None]
    scale = torch.corrcoef(torch.stack([whole(found, "test").flatten(), pixels.flatten()]))
    assert float(scale[0, 1]) == pytest.approx(1)


def test_a_task_trains_on_images(tmp_path: Path):
    from prunefront.trainables.algorithms import find
    from prunefront.trainables.contract import Member, complete
    from prunefront.trainables.measure import measure

    task = Task("parquet", "mlp", epochs=3, rungs=1, dataset_options={"train": str(images(tmp_path / "t.parquet", 900))})
    task.check()
    dense = find("dense")
    state = dense.advance(task, dense.start(task, [Member(complete(dense.space, {}), 0)]))
    assert measure(task, dense, state, last=True)[0]["accuracy_test"] > 0.7


def test_cifar10_as_it_is_stored(shared_data: Path):
    table = pq.read_table(shared_data / "cifar10-test.parquet")
    found = load("parquet", {"train": str(shared_data / "cifar10-test.parquet")})
    assert found.classes == 10
    assert found.shape == (3, 32, 32)
    assert sum(len(y) for y in found.labels.values()) == table.num_rows
    task = Task("parquet", "lenet5", dataset_options={"train": str(shared_data / "cifar10-test.parquet")})
    task.check()
    assert task.counts.flops == 2 * (28 * 28 * 20 * 75 + 10 * 10 * 50 * 500 + 1250 * 500 + 5000)


def test_initial_weights_depend_on_the_seed_alone_and_leave_torchs_generator_as_it_was():
    task = Task(model_options={"widths": [8]})
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, _ = task.initial([4, 5])
    assert torch.equal(torch.rand(2), expected)
    again, _ = task.initial([5, 6, 5])
    assert torch.equal(first["1.weight"][1], again["1.weight"][0])
    assert torch.equal(again["1.weight"][0], again["1.weight"][2])
    assert not torch.equal(again["1.weight"][0], again["1.weight"][1])
