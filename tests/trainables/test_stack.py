"""Stacks: what a module makes of its buffers, dropout by counter, and the same in public ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.task import Task
from prunefront.trainables.training import dropout, stack
from prunefront.trainables.tree import leaves


class Counting(nn.Module):
    """Rebinds a buffer, as running averages and codebooks do."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.linear(x)


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch whose private functions are not as they were."""
    monkeypatch.setattr(stack, "_functorch", None)
    monkeypatch.setattr(stack, "_holders", lambda module: [])


def called(module: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What a call with other tensors gives, and makes of the buffers; the module stays as it is."""
    generator = torch.Generator().manual_seed(0)
    params: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        params[name] = torch.randn(parameter.shape, generator=generator)
    buffers = {name: buffer + 5 for name, buffer in module.named_buffers()}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    outputs = stack.Call(module)(params, buffers, x)
    for name, tensor in module.state_dict().items():
        assert torch.equal(before[name], tensor)
    return outputs, buffers


def test_a_call_is_functional_call_and_leaves_the_module_as_it_was():
    module, x = Counting(), torch.randn(4, 3)
    params = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    ours = {"calls": torch.tensor(5.0)}
    theirs = {"calls": torch.tensor(5.0)}
    outputs = stack.Call(module)(params, ours, x)
    expected = torch.func.functional_call(module, (params, theirs), (x,))
    assert torch.equal(outputs, expected)
    assert float(ours["calls"]) == 6


def normed() -> nn.Module:
    """A network whose buffers change in place, and one that is tied."""
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    return nn.Sequential(first, nn.BatchNorm1d(3), second).train()


@pytest.mark.parametrize("make", [Counting, normed])
def test_a_call_by_public_functions_gives_and_leaves_the_same(
    request: pytest.FixtureRequest, make: Any
):
    torch.manual_seed(0)
    module, x = make(), torch.randn(4, 3)
    outputs, buffers = called(module, x)
    request.getfixturevalue("public")
    assert not stack.Call(module).is_direct
    publicly, theirs = called(module, x)
    assert torch.equal(outputs, publicly)
    assert buffers.keys() == theirs.keys()
    assert all(torch.equal(buffers[name], theirs[name]) for name in buffers)
    assert any(not torch.equal(buffers[name], own + 5) for name, own in module.named_buffers())


def test_dropout_by_counter_drops_the_right_share_and_anew_at_each_call_of_a_pass():
    module = dropout.prepare(nn.Sequential(nn.Dropout(0.3))).train()
    x = torch.ones(2000, 5)

    def patterns(key: int) -> tuple[Tensor, Tensor]:
        module.get_submodule("0").key = torch.tensor(key)  # type: ignore[assignment]
        return module(x), module(x)

    first, second = patterns(1)
    dropped = (first == 0).float().mean()
    assert abs(float(dropped) - 0.3) < 0.02
    assert abs(float(first.mean()) - 1) < 0.03
    assert not torch.equal(first, second)
    again, second_again = patterns(1)
    assert torch.equal(first, again)
    assert torch.equal(second, second_again)
    other, _ = patterns(2)
    assert not torch.equal(first, other)
    assert torch.equal(module.eval()(x), x)
    all_dropped = dropout.prepare(nn.Sequential(nn.Dropout(1.0)))
    assert not all_dropped.train()(x).any()


def of_trees(tree: dict[str, Any], x: Tensor) -> tuple[dict[str, Any], Tensor]:
    """A function of one member: some of what it gives is the same for all."""
    inner = tree["inner"]["b"] * 2
    nested = {"b": inner > 1, "same": torch.ones(2)}
    return {"a": tree["a"] @ x, "inner": nested}, inner.sum()


def gradient(outputs: Any, tree: dict[str, Any]) -> Tensor:
    loss = outputs[0]["a"].square().sum()
    return torch.autograd.grad(loss, tree["a"])[0]


@pytest.mark.parametrize("private", [True, False])
def test_mapped_is_vmap(request: pytest.FixtureRequest, private: bool):
    if not private:
        request.getfixturevalue("public")
    x = torch.randn(3, 4)
    tree = {"a": torch.randn(3, 2, 4, requires_grad=True), "inner": {"b": torch.randn(3)}}
    ours = stack.mapped(of_trees, 3)(tree, x)
    theirs = torch.func.vmap(of_trees)(tree, x)
    assert torch.equal(ours[1], theirs[1])
    flat = leaves(ours[0])
    shapes = {name: tuple(tensor.shape) for name, tensor in flat.items()}
    assert shapes == {"a": (3, 2), "inner/b": (3,), "inner/same": (3, 2)}
    for name, tensor in leaves(theirs[0]).items():
        assert torch.equal(flat[name], tensor)
    assert torch.equal(gradient(ours, tree), gradient(theirs, tree))


@pytest.mark.parametrize("private", [True, False])
def test_mapped_leaves_no_level_behind_when_the_function_raises(
    request: pytest.FixtureRequest, private: bool
):
    if not private:
        request.getfixturevalue("public")

    def raises(x: Tensor) -> Tensor:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - our own
        stack.mapped(raises, 2)(torch.zeros(2))
    sums = torch.func.vmap(torch.sum)(torch.ones(2, 3))
    assert torch.equal(sums, torch.tensor([3.0, 3.0]))


def trained() -> dict[str, Tensor]:
    """Two members of a pruner with dropout and a mask after their first rung."""
    task = Task(model="example_models.normed", epochs=1, rungs=6)
    pruner = find("dns")
    members: list[Member] = []
    for seed in range(2):
        hp = complete(pruner.space, {"sparsity": 0.5})
        members.append(Member(hp, seed))
    state = pruner.advance(task, pruner.start(task, members))
    return leaves(state.members)


def test_a_cohort_trains_to_the_same_bits_by_public_functions(request: pytest.FixtureRequest):
    privately = trained()
    request.getfixturevalue("public")
    publicly = trained()
    assert privately.keys() == publicly.keys()
    for name, tensor in privately.items():
        assert torch.equal(tensor, publicly[name]), name


def test_which_functions_are_in_use_is_told(request: pytest.FixtureRequest):
    assert stack.functorch_in_use() == "torch._C._functorch"
    request.getfixturevalue("public")
    assert stack.functorch_in_use().startswith("torch.func.vmap, ")


@pytest.mark.parametrize("missing", ["torch.no_such_module", "torch.nn"])
def test_private_functions_that_are_not_as_they_were_are_not_used(
    monkeypatch: pytest.MonkeyPatch, missing: str
):
    """A module that is gone, and one that has other functions."""
    monkeypatch.setattr(stack, "_PRIVATE", missing)
    assert stack._private_functions() is None


def test_what_a_call_under_vmap_left_in_a_module_is_not_copied():
    module = nn.Linear(3, 2)
    plain = torch.ones(2)
    sparse = torch.eye(2).to_sparse()
    module.plain, module.sparse = plain, sparse  # type: ignore[assignment]

    def leave(x: Tensor) -> Tensor:
        module.left = x  # type: ignore[assignment]
        return x

    torch.func.vmap(leave)(torch.ones(4, 2))
    module.computed = module.weight * 2  # type: ignore[assignment]
    left, computed = module.left, module.computed
    copy = stack.copied(module)
    assert module.left is left
    assert module.computed is computed
    assert torch.equal(copy.left, torch.zeros(2))  # type: ignore[arg-type]
    assert not copy.computed.any()  # type: ignore[operator]
    assert torch.equal(copy.plain, plain)  # type: ignore[arg-type]
    assert torch.equal(copy.sparse.to_dense(), torch.eye(2))  # type: ignore[operator]
    assert torch.equal(copy.weight, module.weight)  # type: ignore[arg-type]


@pytest.mark.usefixtures("public")
def test_whether_a_model_stacks_is_the_same_by_public_functions():
    assert stack.can_stack(Counting(), torch.randn(2, 3))


def test_whether_a_model_stacks_does_not_depend_on_where_it_is_asked():
    with torch.no_grad():  # as a cohort that is carried on does: it is measured first
        assert stack.can_stack(Counting(), torch.randn(2, 3))
