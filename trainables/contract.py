"""The contract between algorithms and everything else: Domain, Member, State, Networks, Algorithm."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..analysis.rows.mistake import Mistake
from ..analysis.rows.storage import Location, atomic, local

if TYPE_CHECKING:
    from .task import Task

Value = float | int | str | tuple[float, ...] | None
Tree = Mapping[str, Any]
"""Nested mappings whose leaves are tensors."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """The values that one hyper-parameter may take.

    kind: `real` and `whole` are numbers in [low, high] (`open_high`: [low, high)); `choice` is one
    of `choices`; `reals` is a list of numbers in the range, one for each removable layer; `text` is
    any text.  default: None means "as the algorithm says in `about`".  log: proposals are spread
    evenly over the logarithm.  static: members of one cohort share the value, since it changes
    shapes or code paths.  tunable: the value may be changed in the middle of a run (by population
    based training, say).
    """

    kind: Literal["real", "whole", "choice", "reals", "text"]
    default: Value
    about: str
    low: float = -math.inf
    high: float = math.inf
    open_high: bool = False
    log: bool = False
    choices: tuple[str, ...] = ()
    static: bool = False
    tunable: bool = False

    def __post_init__(self) -> None:
        assert self.static or self.kind != "choice", "a choice is a code path, and so static"

    def check(self, value: object) -> Value:
        """`value` in canonical form. Raises Mistake that ends a sentence beginning with the
        hyper-parameter's name.
        """
        if value is None and self.default is None:
            return None
        if self.kind == "choice":
            if value in self.choices:
                return str(value)
            raise Mistake(f"is {self.about}: one of {', '.join(self.choices)}; got {value!r}")
        if self.kind == "text":
            if isinstance(value, str) and value:
                return value
            raise Mistake(f"is {self.about}: text; got {value!r}")
        if self.kind == "reals":
            if isinstance(value, list | tuple) and value and all(self._holds(v) for v in value):
                return tuple(float(v) for v in value)
            raise Mistake(
                f"is {self.about}: a list of numbers in {self.range}, one for each layer; got {value!r}"
            )
        if self._holds(value) and (self.kind == "real" or float(value) == int(value)):  # type: ignore[arg-type]
            return float(value) if self.kind == "real" else int(value)  # type: ignore[arg-type]
        noun = "a number" if self.kind == "real" else "a whole number"
        raise Mistake(f"is {self.about}: {noun} in {self.range}; got {value!r}")

    def _holds(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not (
            -(2**63) < value < 2**63
            if self.kind == "whole"
            else -sys.float_info.max <= value <= sys.float_info.max
        ):
            return False
        return self.low <= value <= self.high and not (self.open_high and value == self.high)

    @property
    def range(self) -> str:
        """The range in words: `[0, 1)`."""
        left = "(-inf" if self.low == -math.inf else f"[{self.low:g}"
        right = (
            "inf)" if self.high == math.inf else f"{self.high:g}{')' if self.open_high else ']'}"
        )
        return f"{left}, {right}"


@dataclasses.dataclass(frozen=True)
class Member:
    """One network to be: hyper-parameters (every name of the algorithm's space) and a seed."""

    hp: Mapping[str, Value]
    seed: int


@dataclasses.dataclass(frozen=True)
class Check:
    """A sanity check of the settings that other arms found.

    called: what its arm is called behind the name of the arm it is about.  front: of settings on
    the front alone, not of all.
    smaller: of networks that have fewer units than the parent.  from_dense: of algorithms that
    start from dense networks.
    needs_initial: on initial weights that are drawn anew, which not every model has
    (`Task.loaded`).
    """

    called: str
    front: bool = True
    smaller: bool = False
    from_dense: bool = False
    needs_initial: bool = False


@dataclasses.dataclass
class State:
    """All that changes while a cohort trains.

    members: a tree of tensors with a leading K, one entry for each member; `slot` (K,) is its place
    in the cohort's plan, `hp` its hyper-parameters that are tunable.  scalars: JSON values that all
    members share; `rung`, `step` (optimiser steps since `start`), `before` (steps of a dense phase
    before it), `seconds` (of training, a member) and, if counted, `charged` (FLOPs of a member
    beside its steps) among them.  shared: a tree of tensors that are not one for each member.
    """

    members: dict[str, Any]
    scalars: dict[str, Any]
    shared: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """K, the number of members."""
        return _first(self.members).shape[0]

    def select(self, index: Sequence[int] | Tensor) -> State:
        """The members at `index` (M,), in that order: leaves losers behind, or splits a cohort. All
        that is shared stays.
        """
        where = torch.as_tensor(index, dtype=torch.long)
        return State(
            map_tree(lambda t: t[where.to(t.device)], self.members), dict(self.scalars), self.shared
        )

    @staticmethod
    def concatenate(states: Sequence[State]) -> State:
        """The members of several states of one cohort, in one; scalars and what is shared are those
        of the first.
        """
        columns = [leaves(state.members) for state in states]
        joined = {name: torch.cat([column[name] for column in columns]) for name in columns[0]}
        return State(nest(joined), dict(states[0].scalars), states[0].shared)

    def save(self, path: Location) -> None:
        """Write the whole state to one safetensors file, JSON in its header; complete or not at
        all.
        """
        tensors = apart(leaves({"members": self.members, "shared": self.shared}))
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"scalars": json.dumps(self.scalars)})

    @staticmethod
    def load(path: Location, device: torch.device) -> State:
        """Read what `save` wrote, bit for bit."""
        with local(path) as here, safe_open(here, framework="pt", device=str(device)) as file:
            # Cloned: in the file tensors lie as the header's length has it, and some kernels round
            # by how memory is aligned.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
            tree = nest(tensors)
            return State(
                tree["members"], json.loads(file.metadata()["scalars"]), tree.get("shared", {})
            )


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
    """

    params: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor]
    of: Tensor
    search: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    progress: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


class Algorithm(abc.ABC):
    """A way to obtain sparse networks. Stateless: everything that changes is in State.

    source: paper and equation numbers, or "derivation" where it is ours.  version: raised when
    results change, since it is part of a member's identity.  control: there to be compared with.
    space: the hyper-parameters.  together: names of those whose values must share a cohort.
    from_dense: members start from trained dense networks, one for each seed.
    standard: the arms of it that standard controls give a study, by name, each a space.  checks:
    the sanity checks that it can make of a setting, by the value of its hyper-parameter `check`;
    `of` is the `setting`.
    lighter: what to lower where one member does not fit memory, to end a sentence.
    """

    source: ClassVar[str]
    version: ClassVar[int] = 1
    control: ClassVar[bool] = False
    space: ClassVar[Mapping[str, Domain]]
    together: ClassVar[tuple[str, ...]] = ()
    from_dense: ClassVar[bool] = False
    standard: ClassVar[Mapping[str, Mapping[str, tuple[Value, ...]]]] = {}
    checks: ClassVar[Mapping[str, Check]] = {}
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

    @abc.abstractmethod
    def start(self, task: Task, members: Sequence[Member]) -> State:
        """The state of `members` before their first step."""

    @abc.abstractmethod
    def advance(self, task: Task, state: State) -> State:
        """Train every member to the next rung. The state that was handed in may be consumed."""

    @abc.abstractmethod
    def networks(self, task: Task, state: State) -> Networks:
        """What is measured, and which member it belongs to."""


def complete(space: Mapping[str, Domain], hp: Mapping[str, object]) -> dict[str, Value]:
    """`hp` in canonical form with defaults filled in, names sorted. Raises Mistake for a name or
    value out of the space.
    """
    unknown = sorted(set(hp) - set(space))
    if unknown:
        raise Mistake(
            f"`{unknown[0]}` is no hyper-parameter; known: {', '.join(sorted(space)) or 'none'}"
        )
    done: dict[str, Value] = {}
    for name in sorted(space):
        try:
            done[name] = space[name].check(hp.get(name, space[name].default))
        except Mistake as error:
            raise Mistake(f"`{name}` {error}") from None
    return done


def canonical(space: Mapping[str, Domain], hp: Mapping[str, Value]) -> str:
    """The hyper-parameters that differ from their defaults, as JSON with sorted names."""
    return json.dumps(
        {n: v for n, v in sorted(hp.items()) if v != space[n].default}, separators=(",", ":")
    )


def setting(algorithm: str, hp: str) -> str:
    """The setting of an algorithm with hyper-parameters as rows have them, canonical JSON: its
    name, a space, and these.
    """
    return f"{algorithm} {hp}"


def hyperparameters(hp: str) -> dict[str, Value]:
    """Those in `hp` of a row. Raises Mistake if it is no JSON object."""
    with contextlib.suppress(json.JSONDecodeError):
        if isinstance(given := json.loads(hp), dict):
            return {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in given.items()
            }
    raise Mistake(f'hyper-parameters are a JSON object, as in dns {{"sparsity": 0.9}}; got {hp!r}')


def code_path(
    space: Mapping[str, Domain], hp: Mapping[str, Value]
) -> tuple[tuple[str, Value], ...]:
    """What members of one cohort have in common: static values, and which values are left to the
    algorithm (None).
    """
    return tuple(
        (name, hp[name])
        for name, domain in sorted(space.items())
        if domain.static or hp[name] is None
    )


def leaves(tree: Tree, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a tree by their path, `outer/inner`."""
    flat: dict[str, Tensor] = {}
    for name, value in tree.items():
        flat |= (
            leaves(value, f"{prefix}{name}/")
            if isinstance(value, Mapping)
            else {f"{prefix}{name}": value}
        )
    return flat


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own, as a file of them needs it: those that
    share memory are cloned.
    """
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
        storage = own.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() > own.nbytes:
            own = own.clone(memory_format=torch.contiguous_format)
        taken.add(own.untyped_storage().data_ptr())
        found[name] = own
    return found


def _first(tree: Tree) -> Tensor:
    value = next(iter(tree.values()))
    return _first(value) if isinstance(value, Mapping) else value


def nest(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tree whose `leaves` are `flat`."""
    tree: dict[str, Any] = {}
    for path, tensor in flat.items():
        *outer, name = path.split("/")
        node = tree
        for step in outer:
            node = node.setdefault(step, {})
        node[name] = tensor
    return tree


def map_tree(function: Callable[[Tensor], Tensor], tree: Tree) -> dict[str, Any]:
    """The tree with `function` applied to each tensor."""
    return {
        n: map_tree(function, v) if isinstance(v, Mapping) else function(v) for n, v in tree.items()
    }
