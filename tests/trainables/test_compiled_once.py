"""What is compiled is compiled once, what cannot be goes on as it is written, and the rows of many
steps are those of each.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training import compact, compiled
from prunefront.trainables.training.batches import Batches
from prunefront.trainables.training.compiled import Program
from prunefront.trainables.training.pruner import GradientPruner
from prunefront.trainables.tree import leaves

TASK = Task(widths=[8], batch_size=32, epochs=3, rungs=1, dense_share=0.0)


@pytest.fixture(autouse=True)
def same_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled stacks narrow in coarser steps: here as others do, so that states compare."""
    monkeypatch.setattr(compact, "COMPILED_SHARE", compact.SHARE)


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


def test_a_warm_up_can_be_compiled() -> None:
    dense, _ = started()
    task = dataclasses.replace(TASK, warmup=0.2)
    hp = complete(dense.space, {})
    state = dense.start(task, [Member(hp, 0), Member(hp, 1)])
    program = Program(dense, task, state, lambda graph: graph)
    program.run(state, 5, Batches(task, state, 5))
    assert not program.refused
    assert len(program.graphs) == 1


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
    for step, _, labels in batches.take(range(TASK.steps)):
        assert torch.equal(labels, TASK.data.labels["train"][rows[step]])


def test_what_cannot_be_compiled_goes_on_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a rung: its next batches are those of its next steps."""

    def broken(call: object, example: object) -> None:
        raise RuntimeError("no compiler")

    pruner = find("complexity_aware")
    task = dataclasses.replace(TASK, precision="float64", rungs=2, compile=False)
    hp = complete(pruner.space, {"interval": 4, "warmup": 0.0, "settle": 1.0, "audit": 32})
    ends: list[State] = []
    monkeypatch.setattr(compiled, "_try", broken)
    for compiles in (False, True):
        compiled.forget()
        own = dataclasses.replace(task, compile=compiles)
        state = pruner.start(own, [Member(hp, 0), Member(hp, 1)])
        for _ in range(task.rungs):
            state = pruner.advance(own, state)
        ends.append(state)
    assert compiled.refusal() == "RuntimeError: no compiler"
    compiled.forget()
    as_written, refused = (leaves(state.members["params"]) for state in ends)
    for path, tensor in as_written.items():
        torch.testing.assert_close(refused[path], tensor, rtol=1e-9, atol=1e-12)
