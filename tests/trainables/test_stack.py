"""Stacks: what a module makes of its buffers, and dropout by counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunefront.trainables.training import stack
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


def test_a_call_is_functional_call_and_leaves_the_module_as_it_was():
    module, x = Counting(), torch.randn(4, 3)
    params = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    ours, theirs = {"calls": torch.tensor(5.0)}, {"calls": torch.tensor(5.0)}
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    outputs = stack.Call(module)(params, ours, x)
    assert torch.equal(outputs, torch.func.functional_call(module, (params, theirs), (x,)))
    assert float(ours["calls"]) == 6
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_dropout_by_counter_drops_the_right_share_and_anew_at_each_call_of_a_pass():
    module = stack.prepare(nn.Sequential(nn.Dropout(0.3))).train()
    x = torch.ones(2000, 5)

    def pattern(key: int) -> tuple[Tensor, Tensor]:
        module.get_submodule("0").key = torch.tensor(key)  # type: ignore[assignment]
        return module(x), module(x)

    first, second = pattern(1)
    assert abs(float((first == 0).float().mean()) - 0.3) < 0.02
    assert abs(float(first.mean()) - 1) < 0.03
    assert not torch.equal(first, second)
    assert all(
        torch.equal(one, other) for one, other in zip((first, second), pattern(1), strict=True)
    )
    assert not torch.equal(first, pattern(2)[0])
    assert torch.equal(module.eval()(x), x)
    assert not stack.prepare(nn.Sequential(nn.Dropout(1.0))).train()(x).any()


def test_mapped_is_vmap():
    def function(tree: dict[str, Any], x: Tensor) -> tuple[dict[str, Any], Tensor]:
        inner = tree["inner"]["b"] * 2
        return {"a": tree["a"] @ x, "inner": {"b": inner > 1, "same": torch.ones(2)}}, inner.sum()

    tree, x = (
        {"a": torch.randn(3, 2, 4, requires_grad=True), "inner": {"b": torch.randn(3)}},
        torch.randn(3, 4),
    )
    ours, theirs = stack.mapped(function, 3)(tree, x), torch.func.vmap(function)(tree, x)
    assert torch.equal(ours[1], theirs[1])
    assert {name: tensor.shape for name, tensor in leaves(ours[0]).items()} == {
        "a": (3, 2),
        "inner/b": (3,),
        "inner/same": (3, 2),
    }
    assert all(
        torch.equal(leaves(ours[0])[name], tensor) for name, tensor in leaves(theirs[0]).items()
    )
    gradients = [
        torch.autograd.grad(found[0]["a"].square().sum(), tree["a"])[0] for found in (ours, theirs)
    ]
    assert torch.equal(*gradients)


def test_mapped_leaves_no_level_behind_when_the_function_raises():
    def raises(x: Tensor) -> Tensor:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - our own
        stack.mapped(raises, 2)(torch.zeros(2))
    assert torch.equal(torch.func.vmap(torch.sum)(torch.ones(2, 3)), torch.tensor([3.0, 3.0]))


def test_whether_a_model_stacks_does_not_depend_on_where_it_is_asked():
    with torch.no_grad():  # as a cohort that is carried on does: it is measured first
        assert stack.can_stack(Counting(), torch.randn(2, 3))
