"""Fewer, unequal and wrongly labelled training examples: exact counts, nested draws, and nothing
else changed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.data.changes import AS_IT_IS, Changes
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task

LABELS = np.tile(np.arange(10), 50)[:480]
"""48 of each of ten classes."""


@settings(deadline=None, max_examples=60)
@given(
    share=st.floats(0.1, 1.0),
    noise=st.floats(0.0, 0.99),
    imbalance=st.floats(1.0, 10.0),
    seed=st.integers(0, 2**31),
)
def test_counts_are_exact(share: float, noise: float, imbalance: float, seed: int):
    changes = Changes(share, noise, imbalance)
    if np.rint(share * 48 / imbalance) == 0:
        with pytest.raises(Mistake, match="leave every class an example"):
            changes.apply(LABELS, 10, seed)
        return
    rows, labels = changes.apply(LABELS, 10, seed)
    assert (np.diff(rows) > 0).all(), "in their order, each once"
    sizes = np.bincount(LABELS[rows], minlength=10)
    expected = share * 48 * imbalance ** (-np.arange(10) / 9)
    assert np.abs(sizes - expected).max() <= 0.5 + 1e-9
    wrong = labels != LABELS[rows]
    assert wrong.sum() == round(noise * len(rows))
    assert labels.min() >= 0
    assert labels.max() < 10


def test_draws_are_nested_and_of_the_split_seed():
    whole = Changes(share=0.8, noise=0.4)
    less = Changes(share=0.3, noise=0.4)
    rows, _ = whole.apply(LABELS, 10, 7)
    fewer, _ = less.apply(LABELS, 10, 7)
    assert set(fewer) < set(rows)
    assert not np.array_equal(fewer, less.apply(LABELS, 10, 8)[0])
    _, noisy = Changes(noise=0.4).apply(LABELS, 10, 7)
    _, calmer = Changes(noise=0.1).apply(LABELS, 10, 7)
    is_wrong = calmer != LABELS
    assert np.array_equal(calmer[is_wrong], noisy[is_wrong])
    replaced = noisy[noisy != LABELS]
    assert (np.bincount(replaced, minlength=10) > 5).all(), "by all of the others"


def test_nothing_is_changed_by_default():
    rows, labels = AS_IT_IS.apply(LABELS, 10, 3)
    assert np.array_equal(rows, np.arange(480))
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize("stream", ["never", "always"])
def test_the_training_split_alone_is_changed(stream: str):
    plain = Task(epochs=1, stream=stream)  # type: ignore[arg-type]
    task = dataclasses.replace(plain, train_share=0.5, label_noise=0.2, imbalance=4)
    for split in ("valid", "test"):
        assert torch.equal(task.data.labels[split], plain.data.labels[split])
    sizes = torch.bincount(task.data.labels["train"])
    assert len(task.data.labels["train"]) < 0.5 * len(plain.data.labels["train"])
    assert sizes[0] > sizes[9]
    whole = plain.data.examples("train", torch.arange(len(plain.data.labels["train"])))
    some = task.data.examples("train", torch.arange(3))
    raw = some * task.data.scale + task.data.mean
    everything = whole * plain.data.scale + plain.data.mean
    for example in raw:
        away = (everything - example).flatten(1).abs().amax(1)
        assert away.min() < 1e-4, "its inputs are those of the data set"
    assert task.data.digest == plain.data.digest
    assert task.describe() != plain.describe()


def test_rows_say_what_the_training_data_were():
    task = Task(epochs=2, rungs=1, train_share=0.5, label_noise=0.25)
    algorithm = find("dense")
    member = Member(complete(algorithm.space, {}), 0)
    state = algorithm.advance(task, algorithm.start(task, [member]))
    (row,) = measure(task, algorithm, state, last=True)
    assert row["epochs"] == pytest.approx(2, abs=0.05)
    assert row["examples"] == state.scalars["step"] * 32
    assert row["accuracy_train"] < 0.85, "a quarter of the labels is wrong"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"label_noise": 1}, r"`label_noise` is the share .*\[0, 1\); got 1"),
        ({"train_share": 0}, r"`train_share` is the share .* lies above 0; got 0"),
        ({"train_share": 1.5}, r"`train_share` is the share .*\[0, 1\]; got 1.5"),
        ({"imbalance": 0.5}, r"`imbalance` is how many times .*\[1, inf\); got 0.5"),
        ({"imbalance": float("nan")}, r"`imbalance` is how many times .*; got nan"),
        (
            {"imbalance": 1000},
            r"dataset digits: `train_share` and `imbalance` leave every class an example; "
            r"got 1 and 1000, by which class \d has none of its \d+ in training",
        ),
        (
            {"train_share": 0.001},
            r"leave every class an example; got 0.001 and 1, by which class 0",
        ),
    ],
)
def test_what_leaves_no_data_is_refused(keys: dict[str, float], sentence: str):
    with pytest.raises(Mistake, match=sentence):
        Task(**keys).check()  # type: ignore[arg-type]
