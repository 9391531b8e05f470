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
    if lazy := [name for name, p in task.build(0).named_parameters() if is_lazy(p)]:
        rule = "is returned with all its parameters made: call a lazy module once before"
        raise Mistake(f"{model}: {rule}; got {lazy[0]} without values")
    with blamed(f"{model}: takes inputs of shape {task.data.shape}"):
        logits = _logits(task.build(0).eval(), task.data.examples("train", torch.arange(2)))
        task.initial([0])
    _expect_logits(task, logits, 2)
    with blamed(f"{model}: is computed for one example"):
        _logits(task.build(0).eval(), task.data.examples("train", torch.arange(1)))
    with blamed(f"{model}: is taken apart into layers"):
        layers = task.structure.layers
    if not layers:
        why = [f" ({name}: {reason})" for name, reason in task.structure.obstacles if name][:1]
        raise Mistake(
            f"{model}: has removable layers (linear or convolution); got none{''.join(why)}"
        )


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
        sizes = sorted(_parts(task), key=_size)
        scored(task, networks, [sizes[0], sizes[-1]])
    with tempfile.TemporaryDirectory() as folder:
        with blamed(f"{model}: is saved and loaded while it trains"):
            _keeps(state, Path(folder))
        _shrinks(task, Path(folder))


@torch.no_grad()
def _logits(module: nn.Module, x: Tensor) -> Any:
    return module(x)


def _expect_logits(task: Task, found: Any, count: int, when: str = "") -> None:
    """Raise Mistake unless `found` has one line of logits for each of `count` examples."""
    want = (count, task.data.classes)
    if isinstance(found, Tensor) and not found.is_floating_point():
        raise Mistake(
            f"model {task.model}: gives logits that are real numbers{when}; got {found.dtype}"
        )
    if not isinstance(found, Tensor) or found.shape != want:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        examples = {1: "one example", 2: "two examples"}.get(count, f"{count} examples")
        raise Mistake(
            f"model {task.model}: gives {examples} logits of shape {want}{when}; got {got}"
        )


def _parts(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels in the sizes in which splits are evaluated: whole parts, what is left at
    the end, and one example.

    Each size once. All end with the last example of their split.
    """
    seen = set[int]()
    for split, labels in task.data.labels.items():
        count = len(labels)
        for size in (min(count, EXAMPLES), (count - 1) % EXAMPLES + 1, 1):
            if size not in seen:
                seen.add(size)
                rows = torch.arange(count - size, count)
                yield task.data.examples(split, rows), labels[count - size :]


def _size(part: tuple[Tensor, Tensor]) -> int:
    return len(part[1])


def _evaluates(task: Task) -> None:
    """One network gives logits for each size of part, and an example the same ones alone as beside
    others.
    """
    module = dropout.prepare(task.build(0)).eval()
    for x, _ in _parts(task):
        with blamed(f"model {task.model}: evaluates {len(x)} examples at a time"):
            together = _logits(module, x)
        _expect_logits(task, together, len(x), " in evaluation")
        with blamed(f"model {task.model}: evaluates one example alone"):
            alone, again = _logits(module, x[-1:]), _logits(module, x[-1:])
        _expect_logits(task, alone, 1, " in evaluation")
        _expect_same(task, alone, again, "the same logits twice in evaluation")
        _expect_same(
            task,
            alone,
            together[-1:],
            f"the same logits in evaluation alone and beside {len(x) - 1} others",
        )


def _expect_same(task: Task, one: Tensor, other: Tensor, rule: str) -> None:
    """Raise Mistake if the logits of an example differ."""
    apart, scale = float((one - other).abs().max()), float(torch.stack([one, other]).abs().max())
    if apart > LIKE * scale:  # not where either is NaN: members that diverge are rows
        raise Mistake(
            f"model {task.model}: gives an example {rule}; got a difference of {apart:.3g} in {scale:.3g}"
        )


def _trains(task: Task) -> State:
    """The state of a cohort after its first step at the task's batch size; of two members, where
    they train together.
    """
    rule = f"model {task.model}: is trained with `batch_size` = {task.batch_size}"
    x = task.data.examples("train", torch.arange(task.batch_size))
    module = dropout.prepare(task.build(0)).train()
    with blamed(rule):
        found = _logits(module, x)
    _expect_logits(task, found, task.batch_size, " in training")
    plain = GradientPruner()
    hp = complete(plain.space, {})
    seeds = range(2 if task.stackable else 1)
    with blamed(rule):
        untrained = Dense(*task.initial(seeds), 0, 0.0)
        state = plain.begin(task, [Member(hp, seed) for seed in seeds], untrained)
        return plain.first_step(task, state)


def _keeps(state: State, folder: Path) -> None:
    """A state comes back from its file as it was."""
    state.save(folder / "state.safetensors")
    device = next(iter(leaves(state.members).values())).device
    again = State.load(folder / "state.safetensors", device)
    found = leaves(again.members)
    for name, tensor in leaves(state.members).items():
        assert torch.equal(tensor.nan_to_num(), found[name].nan_to_num()), (
            f"{name} is not what was saved"
        )


def _shrinks(task: Task, folder: Path) -> None:
    """With no unit removed, and with half of them, the network can be cut out, saved and loaded,
    and computes the same.
    """
    model = f"model {task.model}"
    x = task.data.examples("train", torch.arange(min(2, len(task.data.labels["train"]))))
    parent = physical.Parent(
        task.model, task.data.shape, task.data.classes, task.dtype, task.model_options
    )
    for what, kept in (("nothing", _kept(task, 1.0)), ("half of its units", _kept(task, 0.5))):
        module = task.build(0).eval()
        params = removed(task.structure, dict(module.named_parameters()), kept)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(params[name])
        with blamed(f"{model}: is made smaller with {what} removed"):
            masked = _logits(module, x)
            small = extract.shrunk(module, task.structure, kept, task.data.shape)
            found = _logits(small, x)
        _expect_same(
            task,
            masked[:1],
            found[:1],
            f"the same logits masked and made smaller with {what} removed",
        )
    with blamed(f"{model}: is saved and loaded when it was made smaller"):
        physical.save(folder / "network.safetensors", small, parent, task.structure)
        again = physical.load(folder / "network.safetensors", task.structure).to(task.torch_device)
        found_again = _logits(again, x)
    _expect_same(task, found[:1], found_again[:1], "the same logits from its file")


def _kept(task: Task, share: float) -> dict[str, Tensor]:
    """What is kept of one network if each hidden layer keeps a random `share` of its units, and
    every second block goes.
    """
    structure, device = task.structure, task.torch_device
    random = torch.Generator().manual_seed(0)
    like = dict(task.template.named_parameters())
    kept = {name: torch.ones_like(like[name], dtype=torch.bool) for name in structure.parameters}
    alive = {}
    for layer in structure.hidden:
        order = torch.randperm(layer.units, generator=random).to(device)
        alive[layer.name] = order < max(1, round(share * layer.units))
    blocks = {}
    for place, block in enumerate(structure.blocks):
        blocks[block.name] = torch.tensor(share == 1 or place % 2 == 0, device=device)
    return kept | node_masks(structure, alive, like, blocks)


# ---- algorithms of a user's own


def rehearse_algorithm(
    name: str, algorithm: Algorithm, task: Task, hp: Mapping[str, Value]
) -> None:
    """Raise Mistake with one sentence if an algorithm does not start, make a step and give networks
    that can be measured.

    task: with the network that members with `hp` start from.  Two members start from initial
    weights; a rung is one step.
    """
    short = dataclasses.replace(task, rungs=task.steps, dense_share=0.0, starts="")
    short.workbench.share(task.workbench)
    members = [Member(hp, seed) for seed in range(2)]
    algorithm = _asked(name, algorithm, task)
    with blamed(f"algorithm {name}: starts two members"):
        state = algorithm.start(short, members)
    _expect(name, "`start`", state, State)
    with blamed(f"algorithm {name}: advances to the first rung"):
        state = algorithm.advance(short, state)
    _expect(name, "`advance`", state, State)
    for key in ("step", "rung", "before", "seconds"):
        if key not in state.scalars:
            raise Mistake(
                f"algorithm {name}: the state has `{key}` among its scalars; got {', '.join(state.scalars) or 'none'}"
            )
    with blamed(f"algorithm {name}: gives networks"):
        networks = algorithm.networks(short, state)
    _expect(name, "`networks`", networks, Networks)
    _conform(name, task, networks, len(members))
    with blamed(f"algorithm {name}: is measured"):
        measure(short, algorithm, state, False)
    with (
        tempfile.TemporaryDirectory() as folder,
        blamed(f"algorithm {name}: its state is saved and loaded"),
    ):
        _keeps(state, Path(folder))


def _asked(name: str, algorithm: Algorithm, task: Task) -> Algorithm:
    """The algorithm; of a pruner one whose own functions of one network are asked whether they
    return what they should.
    """
    if not isinstance(algorithm, GradientPruner):
        return algorithm
    kind, asked = type(algorithm), dict[str, Any]()
    for method, rule in _RETURNED.items():
        if getattr(kind, method) is not getattr(GradientPruner, method):
            asked[method] = _asking(
                f"algorithm {name}: `{method}` returns", getattr(kind, method), rule, task
            )
    return type(kind.__name__, (kind,), {"__module__": kind.__module__, **asked})()


def _asking(
    says: str, method: Callable[..., Any], rule: Callable[[Any, Task], str], task: Task
) -> Callable[..., Any]:
    """`method`, which raises Mistake, beginning with `says`, if what it returns is not as `rule`
    wants it.
    """

    @functools.wraps(method)
    def checked(*given: Any) -> Any:
        found = method(*given)
        if wanted := rule(found, task):
            raise Mistake(f"{says} {wanted}")
        return found

    return checked


def _tensors(found: Any, task: Task) -> str:
    """Why something is no tree of tensors by name; empty if it is one."""
    if not isinstance(found, Mapping):
        return f"a dict of tensors by name; got {type(found).__name__}"
    for key, value in found.items():
        if not isinstance(value, Tensor) and (
            not isinstance(value, Mapping) or _tensors(value, task)
        ):
            return f"a dict of tensors by name; got {type(value).__name__} for {key!r}"
    return ""


def _parameters(found: Any, task: Task) -> str:
    """Why something does not have the model's parameters; empty if it has."""
    wrong = _tensors(found, task)
    lacking = (
        []
        if wrong
        else [
            name
            for name, p in task.template.named_parameters()
            if p.requires_grad and name not in found
        ]
    )
    return f"all parameters of the network by name; it lacks {lacking[0]}" if lacking else wrong


def _pair(found: Any, task: Task) -> str:
    """Why something is not (parameters, pruning); empty if it is."""
    if not isinstance(found, tuple) or len(found) != 2:
        return f"parameters and pruning; got {type(found).__name__}"
    return _parameters(found[0], task) or _tensors(found[1], task)


def _number(found: Any, task: Task) -> str:
    """Why something is neither one number in a tensor nor None; empty if it is."""
    if found is None or (isinstance(found, Tensor) and not found.ndim):
        return ""
    got = (
        f"a tensor of shape {tuple(found.shape)}"
        if isinstance(found, Tensor)
        else type(found).__name__
    )
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


def _expect(name: str, method: str, found: object, kind: type) -> None:
    if not isinstance(found, kind):
        raise Mistake(
            f"algorithm {name}: {method} returns a {kind.__name__}; got {type(found).__name__}"
        )


def _conform(name: str, task: Task, networks: Networks, members: int) -> None:
    """Raise Mistake unless networks have what they are measured by, in its shape."""
    of = networks.of
    if of.shape != (members,):
        raise Mistake(
            f"algorithm {name}: `of` of its networks has an entry for each member, ({members},); got {tuple(of.shape)}"
        )
    count = int(of.max()) + 1
    like = {
        **dict(task.template.named_parameters()),
        **{block.name: of[0] for block in task.structure.blocks},
    }
    removable = (*task.structure.parameters, *(block.name for block in task.structure.blocks))
    for field, wanted in (
        ("kept", removable),
        ("params", tuple(dict(task.template.named_parameters()))),
    ):
        held = getattr(networks, field)
        for key in wanted:
            if key not in held and not (field == "params" and not like[key].requires_grad):
                raise Mistake(
                    f"algorithm {name}: `{field}` of its networks has an entry for {key}; got {_listed(list(held))}"
                )
            if key in held and (len(held[key]) < count or held[key].shape[1:] != like[key].shape):
                want, got = (count, *like[key].shape), tuple(held[key].shape)
                raise Mistake(
                    f"algorithm {name}: `{field}` of its networks has the shape {want} for {key}; got {got}"
                )
    for key in removable:
        if networks.kept[key].dtype != torch.bool:
            got = networks.kept[key].dtype
            raise Mistake(
                f"algorithm {name}: `kept` of its networks is True where an entry is kept; got {got} for {key}"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"
