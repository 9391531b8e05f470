"""Test problems: points on the true front, its hypervolume, and a cohort through the ordinary
training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import problems
from prunefront.analysis.rows import table
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.training import Training
from prunefront.trainables.task import Task


@pytest.mark.parametrize("problem", [problems.ZDT1, problems.ZDT2, problems.ZDT3])
def test_zdt_reaches_its_front_where_all_but_the_first_variable_are_zero(
    problem: type[problems.Problem],
) -> None:
    front = problem.front(2001)
    x = torch.zeros(len(front), 30, dtype=torch.float64)
    x[:, 0] = torch.from_numpy(front[:, 0])
    np.testing.assert_allclose(problem.values(x).numpy(), front, atol=1e-12)
    x[:, 1:] = 0.1
    assert (problem.values(x).numpy()[1:, 1] > front[1:, 1]).all()


def test_by_hand() -> None:
    x = torch.zeros(30, dtype=torch.float64)
    x[0] = 0.25
    assert problems.ZDT1.values(x).tolist() == [0.25, 0.5]
    assert problems.ZDT2.values(x).tolist() == [0.25, 0.9375]
    assert problems.ZDT3.values(x).tolist() == pytest.approx([0.25, 0.25])  # sin(2.5 pi) = 1
    half = torch.full((12,), 0.5, dtype=torch.float64)
    assert problems.DTLZ2.values(half).tolist() == pytest.approx([0.5, 0.5, 0.5**0.5])
    assert float(
        problems.DTLZ2.values(torch.ones(12, dtype=torch.float64)).norm()
    ) == pytest.approx(3.5)


def test_hypervolumes_of_true_fronts() -> None:
    assert problems.ZDT1.hypervolume() == pytest.approx(1.1**2 - 1 / 3, abs=1e-4)
    assert problems.ZDT2.hypervolume() == pytest.approx(1.1**2 - 2 / 3, abs=1e-4)
    assert len(problems.ZDT3.front(5000)) < 2500
    points = problems.DTLZ2.front(10_000)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    sampled = float(problems.moocore.hypervolume(points, ref=[1.1] * 3))
    assert sampled < problems.DTLZ2.hypervolume() < sampled + 0.03


def test_a_cohort_of_many_goes_through_training(tmp_path: Path) -> None:
    space = problems.ZDT1.space
    members = tuple(Member(complete(space, {"x0": k / 63}), 0) for k in range(64))
    task = Task(epochs=0.1, rungs=1, model_options={"widths": [1]})
    training = Training(tmp_path, "s", task, Cohort("c", "a", "problems.ZDT1", members), False)
    training.advance()
    rows = table.read(tmp_path)
    assert set(rows["status"]) == {"done"}
    g = 1 + 9 * 0.5
    np.testing.assert_allclose(rows["m_f1"], rows["hp_x0"])
    np.testing.assert_allclose(rows["m_f2"], g * (1 - np.sqrt(rows["hp_x0"] / g)))
