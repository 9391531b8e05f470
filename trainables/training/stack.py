"""Stacks: parameters and buffers of many networks of one architecture, computed by `vmap`."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ..tree import Tree, map_tree
from . import dropout

Named = dict[str, Tensor]
Tensors = Mapping[str, Tensor]
Function = Callable[..., Any]

_PRIVATE = "torch._C._functorch"


_Computed = tuple[dict[str, Any], str, Tensor]
"""The attributes of a part, the name of one of them, and its value."""


def copied(module: nn.Module) -> nn.Module:
    """A copy of `module`. What a wrapper of a layer has computed, a weight under weight_norm say,
    is left behind as it was.

    Such tensors are attributes, made anew in each call, and may be of a call that is over and
    cannot be copied.
    """
    computed: list[_Computed] = []
    for part in module.modules():
        attributes = vars(part)
        for name, value in attributes.items():
            if not isinstance(value, Tensor) or _stands_alone(value):
                continue
            place = (attributes, name, value)
            computed.append(place)
    for attributes, name, value in computed:
        empty = torch.zeros(value.shape, dtype=value.dtype, device=value.device)
        attributes[name] = empty
    try:
        return copy.deepcopy(module)
    finally:
        for attributes, name, value in computed:
            attributes[name] = value


def _stands_alone(tensor: Tensor) -> bool:
    """Whether a tensor is no result of a call: not of autograd, and not of a call under `vmap`."""
    if tensor.layout is not torch.strided:
        return tensor.is_leaf
    try:
        tensor.untyped_storage()
    except NotImplementedError:  # it is a wrapper of functorch's, which has none
        return False
    return tensor.is_leaf


class FeaturesFirst(nn.Linear):
    """A linear layer that computes (W x^T)^T for x (examples, features).

    Under `vmap`, stacked weights that read one common x are then one matrix product, and examples
    lie side by side in memory: eight times faster than nn.Linear for 64 x (10, 32) and 512 examples
    on a CPU, and slower for a lone network.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input: (examples, features)."""
        if input.ndim != 2:
            return super().forward(input)
        product = self.weight @ input.mT
        if self.bias is not None:
            column = self.bias[:, None]
            product = product + column
        return product.mT


def features_first(module: nn.Module) -> nn.Module:
    """A copy of `module`, its linear layers computing as FeaturesFirst does."""
    first = copied(module)
    for part in first.modules():
        if type(part) is nn.Linear:
            part.__class__ = FeaturesFirst
    return first


def stacked(modules: Sequence[nn.Module]) -> tuple[Named, Named]:
    """Parameters and buffers of `modules`, name -> (K, ...); a frozen parameter is a buffer,
    dropout keys are left out.
    """
    first = modules[0]
    trained: list[str] = []
    for name, parameter in first.named_parameters():
        if parameter.requires_grad:
            trained.append(name)
    networks = [tensors(module) for module in modules]
    fixed = set(networks[0])
    fixed.difference_update(trained)
    fixed.difference_update(dropout.keys(first))
    params = _together(networks, trained)
    buffers = _together(networks, sorted(fixed))
    return params, buffers


def tensors(module: nn.Module) -> Named:
    """Parameters and buffers by name; tied ones have one name."""
    named: Named = dict(module.named_parameters())
    buffers = module.named_buffers()
    named.update(buffers)
    return named


def _together(networks: Sequence[Tensors], names: Sequence[str]) -> Named:
    """Stacks of the tensors called `names`."""
    stacks: Named = {}
    for name in names:
        values = [network[name].detach() for network in networks]
        stacks[name] = torch.stack(values)
    return stacks


def single(tree: Tree) -> dict[str, Any]:
    """The only member of a stack of one, as views without the leading dimension."""
    return map_tree(_only, tree)


def restacked(tree: Tree) -> dict[str, Any]:
    """A stack of one from its only member."""
    return map_tree(_alone, tree)


def _only(tensor: Tensor) -> Tensor:
    return tensor[0]


def _alone(tensor: Tensor) -> Tensor:
    return tensor[None]


def lift(function: Function, members: int) -> Function:
    """`function` of one member's trees or tensors, for those with a leading `members`: by `vmap`,
    only when there are several.

    The function returns a tree of tensors.
    """
    if members > 1:
        return mapped(function, members)

    def of_one(*trees: Any) -> Any:
        lone = [_over(_only, tree) for tree in trees]
        outputs = function(*lone)
        return restacked(outputs)

    return of_one


def mapped(function: Function, members: int) -> Function:
    """`function` of one member's trees or tensors, for those with a leading `members`; it returns a
    tree, or a tuple of them.

    Does what torch.func.vmap does, which took 500 microseconds to flatten and check a pruner's
    trees on a CPU; this, 60. It is torch.func.vmap where `functorch_in_use` says so.
    """
    vmap(torch.clone)(torch.zeros(1))  # its first call loads the rules of some operations
    functorch = _functorch
    if functorch is None:
        return _publicly_mapped(function)

    def stacked(*trees: Any) -> Any:
        level = functorch._vmap_increment_nesting(members, "error")

        def one_of(tensor: Tensor) -> Tensor:
            return functorch._add_batch_dim(tensor, 0, level)

        def all_of(tensor: Tensor) -> Tensor:
            return functorch._remove_batch_dim(tensor, level, members, 0)

        try:
            mapped_trees = [_over(one_of, tree) for tree in trees]
            outputs = function(*mapped_trees)
            return _over(all_of, outputs)
        finally:
            functorch._vmap_decrement_nesting()

    return stacked


def _publicly_mapped(function: Function) -> Function:
    """`mapped` by public functions alone."""

    def plain(*trees: Any) -> Any:
        outputs = function(*trees)
        return _over(_same, outputs)

    def stacked(*trees: Any) -> Any:
        plain_trees = [_over(_same, tree) for tree in trees]
        return vmap(plain)(*plain_trees)

    return stacked


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _over(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A tensor, a tree or a tuple of them, with `function` applied to each tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple):
        parts = (_over(function, part) for part in tree)
        return tuple(parts)
    return map_tree(function, tree)


def functorch_in_use() -> str:
    """What stacks are computed by: torch's private functions under `vmap`, or `vmap` itself where
    this torch has others.
    """
    if _functorch is None:
        return f"torch.func.vmap, for {_PRIVATE} is not as it was"
    return _PRIVATE


def _private_functions() -> Any:
    """torch's private functions under `vmap`; None where they do not do what they did."""
    try:
        functorch = importlib.import_module(_PRIVATE)
        if _works(functorch):
            return functorch
    except (ImportError, AttributeError, TypeError, RuntimeError):
        pass
    return None


def _works(functorch: Any) -> bool:
    """Whether the functions that `mapped` needs map the sum over two pairs."""
    level = functorch._vmap_increment_nesting(2, "error")
    try:
        pairs = torch.tensor([[1, 2], [3, 4]])
        pair = functorch._add_batch_dim(pairs, 0, level)
        total = pair.sum()
        sums = functorch._remove_batch_dim(total, level, 2, 0)
    finally:
        functorch._vmap_decrement_nesting()
    return sums.tolist() == [3, 7]


_functorch = _private_functions()


_Place = tuple[dict[str, Any], str, str]
"""The dict of a part that holds a tensor, its name there, and its name in the module."""


class Call:
    """A module as a function of (parameters, buffers, *inputs); what the module makes of `buffers`
    is left in there.

    Does what torch.func.functional_call does, which took 90 microseconds more than the module for
    an MLP on a CPU; this, 20. It is functional_call where modules keep tensors otherwise.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        # Tied tensors share a name.
        names: dict[int, str] = {}
        for name, tensor in tensors(module).items():
            names[id(tensor)] = name
        self.slots: list[_Place] = []
        for holder in _holders(module):
            for local, tensor in holder.items():
                if tensor is None:
                    continue
                name = names[id(tensor)]
                self.slots.append((holder, local, name))
        held = {name for _, _, name in self.slots}
        self.is_direct = held == set(names.values())

    def __call__(self, params: Tensors, buffers: Named, *inputs: Tensor) -> Any:
        if not self.is_direct:
            return self._public(params, buffers, *inputs)
        own = [holder[local] for holder, local, _ in self.slots]
        try:
            for holder, local, name in self.slots:
                if name in params:
                    holder[local] = params[name]
                else:
                    holder[local] = buffers.get(name)
            outputs = self.module(*inputs)
            for holder, local, name in self.slots:
                if name in buffers:
                    buffers[name] = holder[local]
            return outputs
        finally:
            for place, tensor in zip(self.slots, own, strict=True):
                holder, local, _ = place
                holder[local] = tensor

    def _public(self, params: Tensors, buffers: Named, *inputs: Tensor) -> Any:
        """The call by public functions alone."""
        given = {**buffers, **params}
        outputs = functional_call(self.module, given, inputs)
        for name in buffers:
            buffers[name] = given[name]
        return outputs


def _holders(module: nn.Module) -> list[dict[str, Any]]:
    """Where the parts of a module keep their tensors; none where torch keeps them otherwise."""
    holders: list[dict[str, Any]] = []
    for part in module.modules():
        attributes = vars(part)
        for held in ("_parameters", "_buffers"):
            holder = attributes.get(held, {})
            holders.append(holder)
    return holders


def can_stack(module: nn.Module, inputs: Tensor) -> bool:
    """Whether `vmap` takes the model's forward and backward pass in training, in which it leaves
    it. inputs: (batch, ...).
    """
    call = Call(module)

    def total(params: Tensors, buffers: Tensors, x: Tensor) -> Tensor:
        own = map_tree(torch.clone, buffers)
        outputs = call(params, own, x)
        return outputs.sum()

    twins = [module, module]
    params, buffers = stacked(twins)
    for name in dropout.keys(module):
        buffers[name] = torch.zeros(2, dtype=torch.long, device=inputs.device)
    module.train()
    try:
        with torch.enable_grad():  # the answer is the same where gradients are off
            leaves = [parameter.requires_grad_() for parameter in params.values()]
            twice = torch.stack([inputs, inputs])
            losses = vmap(total)(params, buffers, twice)
            torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
    except (RuntimeError, ValueError, NotImplementedError, TypeError):
        return False
    return True
