"""The contract between algorithms and everything else: Member, State, Networks, Algorithm."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..analysis.rows.storage import Location, atomic, local
from .domain import Domain, Value
from .structure.narrow import Cut
from .tree import apart, first_leaf, leaves, map_tree, nest

if TYPE_CHECKING:
    from .task import Task


@dataclasses.dataclass(frozen=True)
class Member:
    """One network to be: hyper-parameters (every name of the algorithm's space) and a seed."""

    hp: Mapping[str, Value]
    seed: int


@dataclasses.dataclass
class State:
    """All that changes while a cohort trains.

    members: a tree of tensors with a leading K, one entry for each member; `slot` (K,) is its place
    in the cohort's plan, `hp` its hyper-parameters that are tunable.  scalars: JSON values that all
    members share; `rung`, `step` (optimiser steps since `start`), `before` (steps of a dense phase
    before it), `seconds` (of training, a member) and, if there are such, `charged` (FLOPs of a
    member beside its steps) and `uncompiled` (why steps that should have been compiled were not)
    among them.  shared: a tree of tensors that are not one for each member.
    shape: of the stack, where it is narrower than the parent; None: it has the parent's.
    """

    members: dict[str, Any]
    scalars: dict[str, Any]
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)
    shape: Cut | None = None

    @property
    def size(self) -> int:
        """K, the number of members."""
        return first_leaf(self.members).shape[0]

    def select(self, index: Sequence[int] | Tensor) -> State:
        """The members at `index` (M,), in that order: leaves losers behind, or splits a cohort. All
        that is shared stays.
        """
        places = torch.as_tensor(index, dtype=torch.long)

        on: dict[torch.device, Tensor] = {}

        def choose(tensor: Tensor) -> Tensor:
            device = tensor.device
            if device not in on:
                on[device] = places.to(device, non_blocking=True)
            return tensor[on[device]]

        members = map_tree(choose, self.members)
        scalars = dict(self.scalars)
        return dataclasses.replace(self, members=members, scalars=scalars)

    @staticmethod
    def concatenate(states: Sequence[State]) -> State:
        """The members of several states of one cohort, in one; all that is no member's own is that
        of the first.
        """
        first = states[0]
        columns = [leaves(state.members) for state in states]
        joined: dict[str, Tensor] = {}
        for name in columns[0]:
            stacks = [column[name] for column in columns]
            joined[name] = torch.cat(stacks)
        members = nest(joined)
        scalars = dict(first.scalars)
        return dataclasses.replace(first, members=members, scalars=scalars)

    def save(self, path: Location) -> None:
        """Write the whole state to one safetensors file, JSON in its header; complete or not at
        all.
        """
        tree = {"members": self.members, "shared": self.shared}
        tensors = apart(leaves(tree))
        header = {"scalars": json.dumps(self.scalars)}
        if self.shape is not None:
            fields = dataclasses.asdict(self.shape)
            header["shape"] = json.dumps(fields)
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata=header)

    @staticmethod
    def load(path: Location, device: torch.device) -> State:
        """Read what `save` wrote, bit for bit."""
        tensors: dict[str, Tensor] = {}
        with local(path) as here, safe_open(here, framework="pt") as file:
            header = file.metadata()
            for name in file.keys():  # noqa: SIM118 - not a mapping
                # Cloned: in the file tensors lie as the header's length has it, and some kernels
                # round by how memory is aligned.
                tensor = file.get_tensor(name).clone()
                tensors[name] = tensor.to(device, non_blocking=True)
        tree = nest(tensors)
        shape = None
        if "shape" in header:
            fields = json.loads(header["shape"])
            gone = tuple(fields["gone"])
            shape = Cut(fields["widths"], gone)
        scalars = json.loads(header["scalars"])
        shared = tree.get("shared", {})
        return State(tree["members"], scalars, shared, shape)


@dataclasses.dataclass
class Networks:
    """M distinct networks to be measured, and the network of each of the K members.

    params, buffers: name -> (M, ...), what the networks compute with.  kept: name -> (M, ...) bool,
    shaped like the removable parameters.  metrics: the algorithm's own figures, name -> (K,),
    recorded as `m_<name>`.  of: (K,) indices below M.
    search: what each member spent on choosing its network beside training, `flops` (K,) int64,
    `seconds` (K,); empty: nothing.
    progress: `steps`, `epochs`, `examples`, `train_flops`, (K,) each, of an algorithm that does not
    train by batches of the task's size; empty: counted from the state's steps.
    notes: name -> (M, ...), kept beside the networks for who reads them, never computed with;
    `gate` (M, units): of a network with one hidden layer, the number of the activation pattern
    that each unit belongs to.
    """

    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]
    of: Tensor
    search: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    progress: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    notes: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


class Algorithm(abc.ABC):
    """A way to obtain sparse networks. Stateless: everything that changes is in State.

    source: paper and equation numbers, or "derivation" where it is ours.  version: raised when
    results change, since it is part of a member's identity.  control: there to be compared with.
    space: the hyper-parameters.  together: names of those whose values must share a cohort.
    from_dense: members start from trained dense networks, one for each seed.
    lighter: what to lower where one member does not fit memory, to end a sentence.
    """

    source: ClassVar[str]
    version: ClassVar[int] = 1
    control: ClassVar[bool] = False
    space: ClassVar[Mapping[str, Domain]]
    together: ClassVar[tuple[str, ...]] = ()
    from_dense: ClassVar[bool] = False
    lighter: ClassVar[str] = "the model, or the number of training examples"

    def skip(self, task: Task) -> str | None:
        """Why the algorithm cannot run on `task`, or None if it can."""
        return None

    def is_control(self, hp: Mapping[str, Value]) -> bool:
        """Whether a member with `hp` is there to be compared with, rather than proposed."""
        return self.control

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        """Whether what a member with the static values of `hp` keeps never changes: its FLOPs are
        known before it trains.
        """
        return False

    def alone(self, hp: Mapping[str, Value]) -> Mapping[str, Value]:
        """Hyper-parameters of a member that takes as much memory as one with `hp`, and needs
        nothing that others left.
        """
        return hp

    def parent(self, task: Task, hp: Mapping[str, Value]) -> Task:
        """The task with the network that members with the static values of `hp` start from: another
        width of it, say.

        Raises Mistake if there is none. All methods below are given this task.
        """
        return task

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        """Raise Mistake if hyper-parameters that are each in their domain do not fit together, or
        not the task.
        """

    def footprint(self, task: Task, hp: Mapping[str, Value], count: int) -> int | None:
        """Most bytes that `count` members with the static values of `hp` hold at a time, by shapes
        alone, and never fewer for more members. None: not known without training, and so measured
        on a few members.

        To be given where members share much that training a few does not show, or where even few
        may not fit.
        """
        return None

    def in_run(self, folder: Location) -> Algorithm:
        """The algorithm as it works in a run's folder: one that reads what other members left there
        returns one of its kind that knows the folder.
        """
        return self

    @abc.abstractmethod
    def start(self, task: Task, members: Sequence[Member]) -> State:
        """The state of `members` before their first step."""

    @abc.abstractmethod
    def advance(self, task: Task, state: State) -> State:
        """Train every member to the next rung. The state that was handed in may be consumed."""

    @abc.abstractmethod
    def networks(self, task: Task, state: State) -> Networks:
        """What is measured, and which member it belongs to."""
