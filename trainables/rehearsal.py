"""Rehearsals: all that a study will do with a model or an algorithm is done once, small, before it
starts.

What fails then would have failed in every member, after it was trained.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..analysis.rows.mistake import Mistake
from .algorithms._masked import removed
from .contract import Algorithm, Member, Networks, State
from .domain import Value, complete
from .measure.members import EXAMPLES, measure, scored
from .models import blamed
from .records import physical
from .structure import extract
from .structure.units import node_masks
from .task import Task
from .training import dropout
from .training.pruner import GradientPruner
from .training.start import Dense
from .tree import leaves

LIKE = 1e-2
"""Largest difference between logits that are called the same, relative to the largest one: rounding
is far below, and what an example takes from others beside it far above."""


def fits(task: Task) -> None:
    """Raise Mistake with one sentence if the task's model does not take its data, or has nothing to
    remove.
    """
    model = f"model {task.model}"
    for name, parameter in task.build(0).named_parameters():
        if is_lazy(parameter):
            rule = "is returned with all its parameters made: call a lazy module once before"
            raise Mistake(f"{model}: {rule}; got {name} without values")
    with blamed(f"{model}: takes inputs of shape {task.data.shape}"):
        module = task.build(0).eval()
        logits = _logits(module, _training_inputs(task, 2))
        task.initial([0])
    _expect_logits(task, logits, 2)
    with blamed(f"{model}: is computed for one example"):
        module = task.build(0).eval()
        _logits(module, _training_inputs(task, 1))
    with blamed(f"{model}: is taken apart into layers"):
        layers = task.structure.layers
    if not layers:
        raise Mistake(
            f"{model}: has removable layers (linear or convolution); "
            f"got none{_first_obstacle(task)}"
        )


def _first_obstacle(task: Task) -> str:
    """Why a named part of the model is no layer, in brackets; empty if no part is."""
    for name, reason in task.structure.obstacles:
        if name:
            return f" ({name}: {reason})"
    return ""


def _training_inputs(task: Task, count: int) -> Tensor:
    """The first `count` training inputs."""
    return task.data.examples("train", torch.arange(count))


def rehearse(task: Task) -> None:
    """Raise Mistake with one sentence if the task's model cannot be evaluated, trained, counted,
    shrunk, saved and loaded.

    Costs a few training steps, whatever the budget.
    """
    model = f"model {task.model}"
    _evaluates(task)
    with blamed(f"{model}: its operations are counted for one example"):
        _ = task.counts
    state = _trains(task)
    with blamed(f"{model}: is measured after training"):
        networks = GradientPruner().networks(task, state)
        parts = sorted(_parts(task), key=_size)
        scored(task, networks, [parts[0], parts[-1]])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with blamed(f"{model}: is saved and loaded while it trains"):
            _keeps(state, folder)
        _shrinks(task, folder)


@torch.no_grad()
def _logits(module: nn.Module, x: Tensor) -> Any:
    return module(x)


_COUNTED = {1: "one example", 2: "two examples"}


def _expect_logits(task: Task, output: Any, count: int, when: str = "") -> None:
    """Raise Mistake unless `output` has one line of logits for each of `count` examples."""
    model = f"model {task.model}"
    want = (count, task.data.classes)
    if isinstance(output, Tensor):
        if not output.is_floating_point():
            raise Mistake(f"{model}: gives logits that are real numbers{when}; got {output.dtype}")
        if output.shape == want:
            return
        got = str(tuple(output.shape))
    else:
        got = type(output).__name__
    examples = _COUNTED.get(count, f"{count} examples")
    raise Mistake(f"{model}: gives {examples} logits of shape {want}{when}; got {got}")


def _parts(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels in the sizes in which splits are evaluated: whole parts, what is left at
    the end, and one example.

    Each size once. All end with the last example of their split.
    """
    seen: set[int] = set()
    for split, labels in task.data.labels.items():
        count = len(labels)
        whole = min(count, EXAMPLES)
        left = (count - 1) % EXAMPLES + 1
        for size in (whole, left, 1):
            if size in seen:
                continue
            seen.add(size)
            rows = torch.arange(count - size, count)
            x = task.data.examples(split, rows)
            yield x, labels[-size:]


def _size(part: tuple[Tensor, Tensor]) -> int:
    _, labels = part
    return len(labels)


def _evaluates(task: Task) -> None:
    """One network gives logits for each size of part, and an example the same ones alone as beside
    others.
    """
    model = f"model {task.model}"
    module = dropout.prepare(task.build(0)).eval()
    for x, _ in _parts(task):
        count = len(x)
        with blamed(f"{model}: evaluates {count} examples at a time"):
            together = _logits(module, x)
        _expect_logits(task, together, count, " in evaluation")
        last = x[-1:]
        with blamed(f"{model}: evaluates one example alone"):
            alone = _logits(module, last)
            again = _logits(module, last)
        _expect_logits(task, alone, 1, " in evaluation")
        _expect_same(task, alone, again, "the same logits twice in evaluation")
        rule = f"the same logits in evaluation alone and beside {count - 1} others"
        _expect_same(task, alone, together[-1:], rule)


def _expect_same(task: Task, one: Tensor, other: Tensor, rule: str) -> None:
    """Raise Mistake if the logits of an example differ."""
    both = torch.stack([one, other])
    largest = both.abs().max()
    difference = (one - other).abs().max()
    apart = float(difference)
    scale = float(largest)
    if apart > LIKE * scale:  # not where either is NaN: members that diverge are rows
        got = f"a difference of {apart:.3g} in {scale:.3g}"
        raise Mistake(f"model {task.model}: gives an example {rule}; got {got}")


def _trains(task: Task) -> State:
    """The state of a cohort after its first step at the task's batch size; of two members, where
    they train together.
    """
    rule = f"model {task.model}: is trained with `batch_size` = {task.batch_size}"
    x = _training_inputs(task, task.batch_size)
    prepared = dropout.prepare(task.build(0))
    module = prepared.train()
    with blamed(rule):
        logits = _logits(module, x)
    _expect_logits(task, logits, task.batch_size, " in training")
    plain = GradientPruner()
    hp = complete(plain.space, {})
    seeds = range(2 if task.stackable else 1)
    members = [Member(hp, seed) for seed in seeds]
    with blamed(rule):
        params, buffers = task.initial(seeds)
        untrained = Dense(params, buffers, 0, 0.0)
        state = plain.begin(task, members, untrained)
        return plain.first_step(task, state)


def _keeps(state: State, folder: Path) -> None:
    """A state comes back from its file as it was."""
    path = folder / "state.safetensors"
    state.save(path)
    saved = leaves(state.members)
    device = next(iter(saved.values())).device
    again = State.load(path, device)
    loaded = leaves(again.members)
    for name, tensor in saved.items():
        before = tensor.nan_to_num()
        after = loaded[name].nan_to_num()
        assert torch.equal(before, after), f"{name} is not what was saved"


def _shrinks(task: Task, folder: Path) -> None:
    """With no unit removed, and with half of them, the network can be cut out, saved and loaded,
    and computes the same.
    """
    model = f"model {task.model}"
    examples = len(task.data.labels["train"])
    x = _training_inputs(task, min(2, examples))
    whole = _kept(task, 1.0)
    half = _kept(task, 0.5)
    _cuts_out(task, x, "nothing", whole)
    small, logits = _cuts_out(task, x, "half of its units", half)
    path = folder / "network.safetensors"
    parent = physical.Parent.of(task)
    with blamed(f"{model}: is saved and loaded when it was made smaller"):
        physical.save(path, small, parent, task.structure)
        loaded = physical.load(path, task.structure)
        there = loaded.to(task.torch_device)
        again = _logits(there, x)
    _expect_same(task, logits[:1], again[:1], "the same logits from its file")


def _cuts_out(
    task: Task,
    x: Tensor,
    what: str,
    kept: Mapping[str, Tensor],
) -> tuple[nn.Module, Tensor]:
    """The smaller network without what is not kept, and its logits for x: those of the masked
    network.
    """
    module = task.build(0).eval()
    parameters = dict(module.named_parameters())
    params = removed(task.structure, parameters, kept)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(params[name])
    with blamed(f"model {task.model}: is made smaller with {what} removed"):
        masked = _logits(module, x)
        small = extract.shrunk(module, task.structure, kept, task.data.shape)
        logits = _logits(small, x)
    rule = f"the same logits masked and made smaller with {what} removed"
    _expect_same(task, masked[:1], logits[:1], rule)
    return small, logits


def _kept(task: Task, share: float) -> dict[str, Tensor]:
    """What is kept of one network if each hidden layer keeps a random `share` of its units, and
    every second block goes.
    """
    structure = task.structure
    like = dict(task.template.named_parameters())
    kept: dict[str, Tensor] = {}
    for name in structure.parameters:
        kept[name] = torch.ones_like(like[name], dtype=torch.bool)
    alive = _random_units(task, share)
    blocks: dict[str, Tensor] = {}
    for place, block in enumerate(structure.blocks):
        stays = share == 1 or place % 2 == 0
        blocks[block.name] = torch.tensor(stays, device=task.torch_device)
    masks = node_masks(structure, alive, like, blocks)
    return kept | masks


def _random_units(task: Task, share: float) -> dict[str, Tensor]:
    """A random `share` of the units of each hidden layer, at least one: layer -> (units,) bool."""
    random = torch.Generator().manual_seed(0)
    alive: dict[str, Tensor] = {}
    for layer in task.structure.hidden:
        shuffled = torch.randperm(layer.units, generator=random)
        order = shuffled.to(task.torch_device)
        most = max(1, round(share * layer.units))
        alive[layer.name] = order < most
    return alive


# ---- algorithms of a user's own


def rehearse_algorithm(
    name: str,
    algorithm: Algorithm,
    task: Task,
    hp: Mapping[str, Value],
) -> None:
    """Raise Mistake with one sentence if an algorithm does not start, make a step and give networks
    that can be measured.

    task: with the network that members with `hp` start from.  Two members start from initial
    weights; a rung is one step.
    """
    short = _shortened(task)
    members = [Member(hp, 0), Member(hp, 1)]
    algorithm = _asked(name, algorithm, task)
    with blamed(f"algorithm {name}: starts two members"):
        state = algorithm.start(short, members)
    _expect(name, "`start`", state, State)
    with blamed(f"algorithm {name}: advances to the first rung"):
        state = algorithm.advance(short, state)
    _expect(name, "`advance`", state, State)
    _expect_scalars(name, state)
    with blamed(f"algorithm {name}: gives networks"):
        networks = algorithm.networks(short, state)
    _expect(name, "`networks`", networks, Networks)
    _conform(name, task, networks, len(members))
    with blamed(f"algorithm {name}: is measured"):
        measure(short, algorithm, state, False)
    rule = f"algorithm {name}: its state is saved and loaded"
    with tempfile.TemporaryDirectory() as folder, blamed(rule):
        _keeps(state, Path(folder))


def _shortened(task: Task) -> Task:
    """The task with a rung after each step, and no dense phase."""
    short = dataclasses.replace(
        task,
        rungs=task.steps,
        dense_share=0.0,
        starts="",
    )
    short.workbench.share(task.workbench)
    return short


def _expect_scalars(name: str, state: State) -> None:
    for key in ("step", "rung", "before", "seconds"):
        if key in state.scalars:
            continue
        rule = f"the state has `{key}` among its scalars"
        got = ", ".join(state.scalars) or "none"
        raise Mistake(f"algorithm {name}: {rule}; got {got}")


def _asked(name: str, algorithm: Algorithm, task: Task) -> Algorithm:
    """The algorithm; of a pruner one whose own functions of one network are asked whether they
    return what they should.
    """
    if not isinstance(algorithm, GradientPruner):
        return algorithm
    kind = type(algorithm)
    members: dict[str, Any] = {"__module__": kind.__module__}
    for method, rule in _RETURNED.items():
        own = getattr(kind, method)
        inherited = getattr(GradientPruner, method)
        if own is not inherited:
            says = f"algorithm {name}: `{method}` returns"
            members[method] = _asking(says, own, rule, task)
    asked = type(kind.__name__, (kind,), members)
    return asked()


def _asking(
    says: str,
    method: Callable[..., Any],
    rule: Callable[[Any, Task], str],
    task: Task,
) -> Callable[..., Any]:
    """`method`, which raises Mistake, beginning with `says`, if what it returns is not as `rule`
    wants it.
    """

    @functools.wraps(method)
    def checked(*given: Any) -> Any:
        returned = method(*given)
        wanted = rule(returned, task)
        if wanted:
            raise Mistake(f"{says} {wanted}")
        return returned

    return checked


def _tensors(returned: Any, task: Task) -> str:
    """Why something is no tree of tensors by name; empty if it is one."""
    rule = "a dict of tensors by name"
    if not isinstance(returned, Mapping):
        return f"{rule}; got {type(returned).__name__}"
    for key, value in returned.items():
        if isinstance(value, Tensor):
            continue
        if not isinstance(value, Mapping) or _tensors(value, task):
            return f"{rule}; got {type(value).__name__} for {key!r}"
    return ""


def _parameters(returned: Any, task: Task) -> str:
    """Why something does not have the model's parameters; empty if it has."""
    wrong = _tensors(returned, task)
    if wrong:
        return wrong
    for name, parameter in task.template.named_parameters():
        if parameter.requires_grad and name not in returned:
            return f"all parameters of the network by name; it lacks {name}"
    return ""


def _pair(returned: Any, task: Task) -> str:
    """Why something is not (parameters, pruning); empty if it is."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        return f"parameters and pruning; got {type(returned).__name__}"
    parameters, pruning = returned
    return _parameters(parameters, task) or _tensors(pruning, task)


def _number(returned: Any, task: Task) -> str:
    """Why something is neither one number in a tensor nor None; empty if it is."""
    if returned is None:
        return ""
    got = type(returned).__name__
    if isinstance(returned, Tensor):
        if not returned.ndim:
            return ""
        got = f"a tensor of shape {tuple(returned.shape)}"
    return f"a tensor of shape (), or None; got {got}"


_RETURNED: dict[str, Callable[[Any, Task], str]] = {
    "init": _tensors,
    "init_member": _tensors,
    "effective": _parameters,
    "measured": _parameters,
    "kept": _tensors,
    "metrics": _tensors,
    "after_step": _pair,
    "penalty": _number,
}
"""Functions of one network that a pruner may have, and what is wrong with what they returned."""


def _expect(name: str, method: str, returned: object, kind: type) -> None:
    if not isinstance(returned, kind):
        raise Mistake(
            f"algorithm {name}: {method} returns a {kind.__name__}; got {type(returned).__name__}"
        )


def _conform(name: str, task: Task, networks: Networks, members: int) -> None:
    """Raise Mistake unless networks have what they are measured by, in its shape."""
    of = networks.of
    if of.shape != (members,):
        rule = f"`of` of its networks has an entry for each member, ({members},)"
        got = tuple(of.shape)
        raise Mistake(f"algorithm {name}: {rule}; got {got}")
    count = int(of.max()) + 1
    parameters = dict(task.template.named_parameters())
    whole: dict[str, torch.Size] = {}
    frozen: list[str] = []
    for key, parameter in parameters.items():
        whole[key] = parameter.shape
        if not parameter.requires_grad:
            frozen.append(key)
    removable = {key: whole[key] for key in task.structure.parameters}
    for block in task.structure.blocks:
        removable[block.name] = torch.Size()
    kept = f"algorithm {name}: `kept`"
    _expect_stacks(kept, networks.kept, count, removable)
    params = f"algorithm {name}: `params`"
    _expect_stacks(params, networks.params, count, whole, frozen)
    for key in removable:
        dtype = networks.kept[key].dtype
        if dtype != torch.bool:
            rule = "`kept` of its networks is True where an entry is kept"
            got = f"{dtype} for {key}"
            raise Mistake(f"algorithm {name}: {rule}; got {got}")


def _expect_stacks(
    what: str,
    stacks: Mapping[str, Tensor],
    count: int,
    shapes: Mapping[str, torch.Size],
    free: Sequence[str] = (),
) -> None:
    """Raise Mistake unless `count` networks have an entry of each shape. free: names that may be
    absent.
    """
    for key, shape in shapes.items():
        if key not in stacks:
            if key in free:
                continue
            raise Mistake(
                f"{what} of its networks has an entry for {key}; got {_listed(list(stacks))}"
            )
        stack_shape = stacks[key].shape
        if stack_shape[0] < count or stack_shape[1:] != shape:
            raise Mistake(
                f"{what} of its networks has the shape {(count, *shape)} for {key}; "
                f"got {tuple(stack_shape)}"
            )


def _listed(names: Sequence[str]) -> str:
    """The first few, with commas."""
    if not names:
        return "none"
    shown = list(names[:5])
    if len(names) > 5:
        shown.append("...")
    return ", ".join(shown)
