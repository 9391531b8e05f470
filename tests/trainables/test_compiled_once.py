"""What is compiled is compiled once, and the rows of many steps are those of each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule

from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training.batches import Batches
from prunefront.trainables.training.compiled import Program
from prunefront.trainables.training.pruner import GradientPruner

TASK = Task(widths=[8], batch_size=32, epochs=3, rungs=1, dense_share=0.0)


def started() -> tuple[GradientPruner, State]:
    dense = find("dense")
    assert isinstance(dense, GradientPruner)
    hp = complete(dense.space, {})
    return dense, dense.start(TASK, [Member(hp, 0), Member(hp, 1), Member(hp, 0)])


def test_a_graph_is_called_as_it_was_compiled() -> None:
    """torch compiles anew where gradients are asked for and were not before."""
    asked: list[bool] = []

    def backend(graph: GraphModule):
        def call(*given: Tensor) -> None:
            asked.append(torch.is_grad_enabled())
            graph(*given)

        return call

    dense, state = started()
    program = Program(dense, TASK, state, backend)
    program.run(state, 5, Batches(TASK, state, 5))
    assert not program.refused
    assert len(asked) == 6, "five steps, and a first one with copies"
    assert not any(asked)


def test_the_rows_of_many_steps_are_those_of_each() -> None:
    _, state = started()
    batches = Batches(TASK, state, TASK.steps)
    for steps in (range(2), range(3, TASK.steps), range(TASK.steps_per_epoch, TASK.steps)):
        together = batches.rows(steps)
        each = [batches.rows(range(step, step + 1)) for step in steps]
        assert together.shape == (len(steps), 3, TASK.batch_size)
        assert torch.equal(together, torch.cat(each))


def test_examples_of_a_batch_are_those_of_its_rows() -> None:
    _, state = started()
    batches = Batches(TASK, state, TASK.steps)
    rows = batches.rows(range(TASK.steps))
    for step, _, labels in batches.take(TASK.steps):
        assert torch.equal(labels, TASK.data.labels["train"][rows[step]])
