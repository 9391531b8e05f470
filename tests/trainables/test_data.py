"""Data sets: splits, standardisation, images in Parquet, streaming, augmentation."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn import datasets
from torch import Tensor

from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member, State
from prunefront.trainables.data import splits
from prunefront.trainables.data.augment import augment
from prunefront.trainables.data.changes import AS_IT_IS
from prunefront.trainables.data.dataset import Data
from prunefront.trainables.data.stream import Stream
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task
from prunefront.trainables.training import batches, draws
from prunefront.trainables.tree import leaves

CPU = torch.device("cpu")
DIGITS: Any = datasets.load_digits()


def images(path: Path, count: int, start: int = 0) -> Path:
    """Digits as PNG bytes in Parquet, in the layout of Hugging Face image data sets."""
    rows = []
    for pixels, label in zip(
        DIGITS.images[start : start + count], DIGITS.target[start : start + count], strict=True
    ):
        buffer = io.BytesIO()
        Image.fromarray((pixels * 15).astype(np.uint8)).save(buffer, format="PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": int(label)})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def load(name: str, options: dict[str, str], seed: int = 0) -> Data:
    return splits.load_data(name, options, seed, torch.float64, CPU)


def whole(found: Data, split: str) -> Tensor:
    """All inputs of a split."""
    return found.examples(split, torch.arange(len(found.labels[split])))


def test_digits_are_split_by_a_published_seed_and_standardised_by_their_training_part():
    found = load("digits", {})
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 1222,
        "valid": 216,
        "test": 359,
    }
    assert (found.shape, found.classes) == ((1, 8, 8), 10)
    assert abs(float(whole(found, "train").mean())) < 1e-12
    assert float(whole(found, "train").std()) == pytest.approx(1)
    other = load("digits", {}, seed=1)
    assert other.digest == found.digest, "the digest names the data, not the split"
    assert not torch.equal(other.labels["test"], found.labels["test"])
    everything = torch.cat([whole(found, split).flatten(1) for split in ("train", "valid", "test")])
    assert len(everything) == 1797
    assert len(torch.unique(everything, dim=0)) == len(np.unique(DIGITS.data, axis=0)), (
        "no example is in two splits"
    )


def test_images_in_parquet_are_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HERE", str(tmp_path))
    images(tmp_path / "train.parquet", 200)
    images(tmp_path / "test.parquet", 50, start=200)
    found = load(
        "parquet", {"train": "$HERE/train.parquet", "test": str(tmp_path / "test.parquet")}
    )
    assert {split: len(y) for split, y in found.labels.items()} == {
        "train": 170,
        "valid": 30,
        "test": 50,
    }
    assert found.labels["test"].tolist() == DIGITS.target[200:250].tolist()
    pixels = torch.from_numpy(DIGITS.images[200:250] * 15)[:, None]
    scale = torch.corrcoef(torch.stack([whole(found, "test").flatten(), pixels.flatten()]))
    assert float(scale[0, 1]) == pytest.approx(1)


def trained(task: Task, name: str, members: list[Member]) -> State:
    """The members at the last rung."""
    algorithm = find(name)
    state = algorithm.start(task, members)
    for _ in range(task.rungs):
        state = algorithm.advance(task, state)
    return state


def member(name: str, seed: int, **hp: Any) -> Member:
    return Member(complete(find(name).space, hp), seed)


def test_a_task_trains_on_images(tmp_path: Path):
    task = Task(
        "parquet",
        "mlp",
        epochs=3,
        rungs=1,
        dataset_options={"train": str(images(tmp_path / "t.parquet", 900))},
    )
    task.check()
    state = trained(task, "dense", [member("dense", 0)])
    assert measure(task, find("dense"), state, last=True)[0]["accuracy_test"] > 0.7


class Decoded:
    """Digits that are made when they are reached."""

    digest = "1"
    broken = -1

    def __len__(self) -> int:
        return 600

    def __getitem__(self, row: int) -> Any:
        if row == self.broken:
            raise KeyError(row)
        return torch.from_numpy(DIGITS.images[row])[None]


def lazy() -> dict[str, Any]:
    return {"train": (Decoded(), DIGITS.target[:600])}


def eager() -> dict[str, Any]:
    return {"train": (DIGITS.images[:600, None], DIGITS.target[:600])}


@pytest.mark.parametrize("dataset", ["digits", "test_data.lazy"])
@pytest.mark.parametrize("model", ["mlp", "example_models.normed"])
def test_data_that_streams_gives_the_same_bits(dataset: str, model: str):
    task = Task(dataset, model, epochs=3, rungs=2, augment=["crop", "flip"])
    found = []
    for stream in ("never", "always"):
        one = dataclasses.replace(task, stream=stream)  # type: ignore[arg-type]
        assert isinstance(one.data.inputs["train"], Tensor) == (stream == "never")
        torch.manual_seed(1)
        state = trained(one, "dns", [member("dns", seed) for seed in (3, 1, 3)])
        rows = measure(one, find("dns"), state, last=True)
        found.append(
            (
                leaves(state.members),
                [{**row, "seconds": 0} for row in rows],
                torch.rand(1),
                one.describe(),
            )
        )
    (ours, rows, drawn, described), (theirs, *others) = found
    assert all(torch.equal(tensor, theirs[path]) for path, tensor in ours.items())
    assert [rows, drawn, described] == others


def test_what_is_read_when_reached_is_what_an_array_would_be():
    ours, theirs = load("test_data.lazy", {}), load("test_data.eager", {})
    assert (ours.shape, ours.classes) == (theirs.shape, theirs.classes)
    for split in ("train", "valid", "test"):
        assert torch.equal(ours.labels[split], theirs.labels[split])
        assert torch.equal(whole(ours, split), whole(theirs, split))


def test_mean_and_deviation_of_a_large_data_set_are_those_of_a_sample(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(splits, "SAMPLE_NUMBERS", 64 * 200)
    never, always, other = (
        splits._load.__wrapped__(name, "{}", 0, torch.float64, AS_IT_IS, CPU, stream)
        for name, stream in (
            ("test_data.lazy", "never"),
            ("test_data.lazy", "always"),
            ("test_data.eager", "never"),
        )
    )
    assert torch.equal(whole(never, "train"), whole(always, "train"))
    assert torch.equal(whole(never, "train"), whole(other, "train"))
    everything = whole(load("test_data.lazy", {}), "train")
    assert not torch.equal(whole(never, "train"), everything)
    torch.testing.assert_close(whole(never, "train"), everything, rtol=0, atol=0.1)


def test_data_stream_if_they_would_take_more_than_half_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
):
    size = 1797 * 64 * 8
    for free, streams in ((2 * size, False), (2 * size - 1, True)):
        monkeypatch.setattr(splits, "free_bytes", lambda _, free=free: free)
        found = splits._load.__wrapped__("digits", "{}", 0, torch.float64, AS_IT_IS, CPU, "auto")
        assert isinstance(found.inputs["train"], Stream) == streams


def test_a_row_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch):
    code, first = inspect.getsourcelines(Decoded)
    line = first + next(k for k, text in enumerate(code) if "raise KeyError(row)" in text)
    monkeypatch.setattr(Decoded, "broken", 77)
    for stream in ("never", "always"):
        with pytest.raises(
            ValueError,
            match=r"^dataset test_data.lazy: row 77 of .* it raised KeyError: 77 "
            rf"\(test_data.py, line {line}\)$",
        ):
            splits._load.__wrapped__(
                "test_data.lazy", "{}", 0, torch.float32, AS_IT_IS, CPU, stream
            )
    monkeypatch.setattr(Decoded, "broken", -1)
    found = splits._load.__wrapped__(
        "test_data.lazy", "{}", 0, torch.float32, AS_IT_IS, CPU, "always"
    )
    monkeypatch.setattr(Decoded, "broken", 77)
    with pytest.raises(
        ValueError,
        match=r"^row 77 of the inputs cannot be read; "
        rf"it raised KeyError: 77 \(test_data.py, line {line}\)$",
    ):
        list(found.parts("train", 16))


def test_crops_are_windows_of_the_padded_image_and_flips_mirror_half_of_them():
    x = torch.arange(1.0, 1 + 2 * 500 * 2 * 5 * 6).view(2, 500, 2, 5, 6)
    key = draws.key(torch.tensor([3, 4]), 7, "order augment")
    cropped, flipped, both = (
        augment(x, kinds, key) for kinds in (["crop"], ["flip"], ["flip", "crop"])
    )
    padded = F.pad(x.flatten(0, 1), (4, 4, 4, 4))
    seen = torch.zeros(9, 9, dtype=torch.long)
    for image, found in zip(padded, cropped.flatten(0, 1), strict=True):
        same = [
            (i, j)
            for i in range(9)
            for j in range(9)
            if torch.equal(image[:, i : i + 5, j : j + 6], found)
        ]
        empty = not found.any()
        assert same if not empty else True
        if len(same) == 1:
            seen[same[0]] += 1
    assert int((seen > 0).sum()) == 81, "each shift, from -4 to 4, occurs"
    turned = (flipped == x.flip(-1)).flatten(2).all(2)
    assert torch.equal(turned, ~(flipped == x).flatten(2).all(2))
    assert 400 < int(turned.sum()) < 600
    assert torch.equal(both, torch.where(turned[..., None, None, None], cropped.flip(-1), cropped))
    assert not torch.equal(turned[0], turned[1]), "each seed draws its own"


def test_augmentation_is_a_function_of_seed_and_step_alone():
    task = Task(
        model_options={"widths": [16]}, epochs=3, rungs=3, augment=["crop", "flip"], dtype="float64"
    )
    everyone = [member("dns", seed, sparsity=0.6) for seed in (4, 2, 4, 7)]
    together, two = trained(task, "dns", everyone), trained(task, "dns", everyone[1:3])
    for path, tensor in leaves(two.members).items():
        assert path == "slot" or torch.equal(tensor, leaves(together.members)[path][1:3]), path
    alone = trained(task, "dns", everyone[3:])
    for path, tensor in leaves(alone.members).items():
        if tensor.dtype == torch.float64:
            torch.testing.assert_close(
                tensor[0], leaves(together.members)[path][3], rtol=0, atol=1e-9
            )
    at_once = trained(dataclasses.replace(task, rungs=1), "dns", everyone)
    for path, tensor in leaves(at_once.members).items():
        assert torch.equal(tensor, leaves(together.members)[path]), (
            "rungs, where a resumed cohort begins, leave no trace"
        )
    plain = trained(dataclasses.replace(task, augment=[]), "dns", everyone)
    assert not torch.equal(
        plain.members["params"]["1.weight"], together.members["params"]["1.weight"]
    )


def test_no_two_steps_and_no_dense_phase_draw_the_same_augmentation(
    monkeypatch: pytest.MonkeyPatch,
):
    keys: list[int] = []

    def spy(x: Tensor, kinds: Any, key: Tensor) -> Tensor:
        keys.extend(key.tolist())
        assert len(key) == x.shape[0] == 2, "drawn once for each distinct seed"
        return x

    monkeypatch.setattr(batches, "augment", spy)
    task = Task(model_options={"widths": [4]}, epochs=2, rungs=2, augment=["flip"])
    state = trained(task, "dns", [member("dns", seed) for seed in (1, 0, 1)])
    measure(task, find("dns"), state, last=True)
    assert len(set(keys)) == len(keys) == 2 * task.steps, "measuring draws none"


def test_augment_is_for_images_and_knows_its_words(tmp_path: Path):
    np.savez(tmp_path / "flat.npz", x_train=DIGITS.data, y_train=DIGITS.target)
    task = Task("npz", augment=["flip"], dataset_options={"path": str(tmp_path / "flat.npz")})
    with pytest.raises(
        ValueError, match=r"^`augment` is for images, .*; got inputs of shape \(64,\)$"
    ):
        task.check()
    for wrong in ("flip", ["flop"], ["flip", "flip"], [["flip"]], None):
        with pytest.raises(
            ValueError, match=r"^`augment` is a list of distinct words out of crop, flip; got "
        ):
            Task(augment=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`stream` "):
        Task(stream="sometimes")  # type: ignore[arg-type]
    assert Task(augment=["flip", "crop"]).describe() == Task(augment=("crop", "flip")).describe()
    assert Task(augment=["flip"]).describe() != Task().describe()
    assert Task(
        **json.loads(json.dumps(Task(augment=["flip"], stream="always").to_json()))
    ).augment == ["flip"]


def test_dns_learns_from_a_few_real_images(shared_data: Path, tmp_path: Path):
    table = pq.read_table(shared_data / "cifar10-train.parquet")
    pq.write_table(table.slice(0, 400), tmp_path / "few.parquet")
    task = Task("parquet", "lenet5", epochs=6, lr=0.01, rungs=2, augment=["crop", "flip"],
                dataset_options={"train": str(tmp_path / "few.parquet")})  # fmt: skip
    task.check()
    dns, members = find("dns"), [member("dns", 0, sparsity=0.5)]
    state = dns.start(task, members)
    untrained = measure(
        task, find("dense"), find("dense").start(task, [member("dense", 0)]), last=False
    )[0]["loss_train"]
    losses = [untrained]
    for _ in range(task.rungs):
        state = dns.advance(task, state)
        losses.append(measure(task, dns, state, last=False)[0]["loss_train"])
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 2.2 < losses[0]


def test_cifar10_as_it_is_stored(shared_data: Path):
    table = pq.read_table(shared_data / "cifar10-test.parquet")
    found = load("parquet", {"train": str(shared_data / "cifar10-test.parquet")})
    assert found.classes == 10
    assert found.shape == (3, 32, 32)
    assert sum(len(y) for y in found.labels.values()) == table.num_rows
    task = Task(
        "parquet", "lenet5", dataset_options={"train": str(shared_data / "cifar10-test.parquet")}
    )
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
