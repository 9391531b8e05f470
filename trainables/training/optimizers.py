"""Optimisers and learning rate schedules for a stack: every member has a learning rate and a weight
decay of its own.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .timed import timed

if TYPE_CHECKING:
    from ..task import Task

Named = dict[str, Tensor]
Tensors = Mapping[str, Tensor]
Slots = dict[str, Any]
Update = Callable[[Tensors, Tensors, int], None]
"""(params, grads, step): one step in place, at the learning rate that the schedule gives for it."""


def _constant(step: int, steps: int) -> float:
    return 1.0


def _cosine(step: int, steps: int) -> float:
    angle = math.pi * step / steps
    raised = 1 + math.cos(angle)
    return 0.5 * raised


def _inverse(step: int, steps: int) -> float:
    return (1 + 1e-4 * step) ** -0.75


def _linear(step: int, steps: int) -> float:
    return 1 - step / steps


SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "auto": _cosine,
    "constant": _constant,
    "cosine": _cosine,
    "inverse": _inverse,
    "linear": _linear,
}
"""Factor of the learning rate at a step of `steps`, without a warm-up."""


def course(task: Task) -> Callable[[int, int], float]:
    """Factor of the learning rate at a step of so many, by the task's schedule and warm-up.

    In a warm-up the factor rises in equal steps from nearly 0 to 1; the schedule has the steps that
    follow.
    """
    if not task.warmup:
        return SCHEDULES[task.schedule]
    return _warmed(task.schedule, task.warmup)


@functools.cache  # one function: numbers of a compiled step are known by what computes them
def _warmed(name: str, share: float) -> Callable[[int, int], float]:
    schedule = SCHEDULES[name]

    def warmed(step: int, steps: int) -> float:
        warm = max(1, round(share * steps))
        if step < warm:
            return (step + 1) / (warm + 1)
        rest = max(1, steps - warm)
        return schedule(step - warm, rest)

    return warmed


DISTANCE, NUMERATOR = "d.", "numerator."
"""Slots of dadapt_adam with one number for each member, as saved states name them: the estimated
distance to a solution, and what it comes from.
"""

FIRST_DISTANCE = 1e-6
BETA = math.sqrt(0.999)
"""How much of them the sums of dadapt_adam keep at a step."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """What an optimiser keeps under one name: numbers that are `start` at first.

    shaped: there is a tensor like each parameter, (K, *shape), which is narrowed with it; otherwise
    there is one float64 number for each member, (K,).  moves: a parameter moves by it, even one
    whose gradient is zero.
    """

    shaped: bool = True
    start: float = 0.0
    moves: bool = False


class Optimizer(abc.ABC):
    """One optimiser of a stack, or of a lone member whose tensors have no leading dimension.

    hp: `lr` and `weight_decay`, (K,) or ().  kept: its slots, written in place.  steps: the horizon
    of the schedule.  decays: whether any weight decay is above 0.
    """

    def __init__(
        self,
        task: Task,
        hp: Tensors,
        kept: Mapping[str, Any],
        steps: int,
        decays: bool,
    ) -> None:
        self.lr = hp["lr"]
        self.decay = hp["weight_decay"]
        self.decays = decays
        self.kept = kept
        self.schedule = course(task)
        self.steps = steps
        self.momentum = task.momentum

    @classmethod
    @abc.abstractmethod
    def slots(cls, task: Task) -> Mapping[str, Slot]:
        """What it keeps, by name."""

    @abc.abstractmethod
    def update(self, params: Tensors, grads: Tensors, step: int) -> None:
        """One step of the parameters, in place."""

    def rate(self, step: int) -> Tensor:
        """The learning rates at a step, (K,) or ()."""
        factor = timed(self.schedule, step, self.steps)
        return self.lr * factor

    def decayed(self, change: Tensor, parameter: Tensor) -> Tensor:
        """`change`, and the weight decay's share of it."""
        if not self.decays:
            return change
        decay = _like(self.decay, parameter)
        return torch.addcmul(change, parameter, decay)


class Sgd(Optimizer):
    """Heavy-ball momentum, as torch.optim.SGD."""

    @classmethod
    def slots(cls, task: Task) -> Mapping[str, Slot]:
        if not task.momentum:
            return {}
        return {"momentum": Slot(moves=True)}

    def update(self, params: Tensors, grads: Tensors, step: int) -> None:
        rate = self.rate(step)
        for name, parameter in params.items():
            grad = grads[name]
            change = self._change(name, grad, parameter)
            own_rate = _like(rate, parameter)
            parameter.addcmul_(change, own_rate, value=-1)

    def _change(self, name: str, grad: Tensor, parameter: Tensor) -> Tensor:
        if not self.momentum:
            return self.decayed(grad, parameter)
        change = self.kept["momentum"][name]
        change.mul_(self.momentum)
        change.add_(grad)
        if self.decays:
            decay = _like(self.decay, parameter)
            change.addcmul_(parameter, decay)
        return change


class Adam(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), betas 0.9 and 0.999."""

    @classmethod
    def slots(cls, task: Task) -> Mapping[str, Slot]:
        return {"mean": Slot(moves=True), "square": Slot()}

    def update(self, params: Tensors, grads: Tensors, step: int) -> None:
        rate = self.rate(step)
        means = self.kept["mean"]
        squares = self.kept["square"]
        # Both averages start at zero, and are divided by the weights that they have summed up.
        weight_of_mean = 1 - 0.9 ** (step + 1)
        weight_of_square = 1 - 0.999 ** (step + 1)
        for name, parameter in params.items():
            grad = grads[name]
            mean = means[name].lerp_(grad, 0.1)
            square = squares[name].lerp_(grad.square(), 0.001)
            scale = (square / weight_of_square).sqrt() + 1e-8
            direction = (mean / weight_of_mean) / scale
            change = self.decayed(direction, parameter)
            own_rate = _like(rate, parameter)
            parameter.addcmul_(change, own_rate, value=-1)


class DAdaptAdam(Optimizer):
    """Adam that finds its learning rate (Defazio & Mishchenko 2023, arXiv 2301.07733; without bias
    correction, weight decay decoupled); `lr` is a factor of what it finds, usually 1.
    """

    corrects: ClassVar[bool] = False

    @classmethod
    def slots(cls, task: Task) -> Mapping[str, Slot]:
        return {
            "mean": Slot(moves=True),
            "square": Slot(),
            "sum": Slot(),
            DISTANCE: Slot(shaped=False, start=FIRST_DISTANCE),
            NUMERATOR: Slot(shaped=False),
        }

    def update(self, params: Tensors, grads: Tensors, step: int) -> None:
        factor = timed(self.schedule, step, self.steps)
        rate = self.kept[DISTANCE] * self.lr
        rate = rate * factor
        if self.corrects:
            rate = rate * _correction(step)
        along = torch.zeros_like(rate)
        length = torch.zeros_like(rate)
        # Sums do not depend on a tree's order, which is another after it was saved.
        for name in sorted(grads):
            grad = grads[name]
            along += self._along(name, grad, rate)
            length += self._averaged(name, grad, rate)
        moved = length != 0  # a member that has had no gradient yet stays as it is
        self._estimate(rate, along, length, moved)
        decay = rate * self.decay
        decay = torch.where(moved, decay, 0.0)
        self._move(params, decay)

    def _along(self, name: str, grad: Tensor, rate: Tensor) -> Tensor:
        """How far a gradient goes along the sum of those before it."""
        square = self.kept["square"][name]
        total = self.kept["sum"][name]
        scale = square.sqrt() + 1e-8
        products = grad * total / scale
        return _sums(products, rate)

    def _averaged(self, name: str, grad: Tensor, rate: Tensor) -> Tensor:
        """Put a gradient into the averages; the length of the sum then."""
        mean = self.kept["mean"][name]
        square = self.kept["square"][name]
        total = self.kept["sum"][name]
        weight = 0.1 * rate
        part = _like(weight, grad)
        mean.mul_(0.9)
        mean.addcmul_(grad, part)
        square.mul_(0.999)
        square.addcmul_(grad, grad, value=0.001)
        weight = (1 - BETA) * rate
        part = _like(weight, grad)
        total.mul_(BETA)
        total.addcmul_(grad, part)
        return _sums(total.abs(), rate)

    def _estimate(
        self,
        rate: Tensor,
        along: Tensor,
        length: Tensor,
        moved: Tensor,
    ) -> None:
        """The distance as far as it is now known: it never shrinks."""
        distance = self.kept[DISTANCE]
        numerator = self.kept[NUMERATOR]
        gain = (1 - BETA) * rate * along
        grown = BETA * numerator + gain
        grown = torch.where(moved, grown, numerator)
        numerator.copy_(grown)
        denominator = (1 - BETA) * length
        estimate = numerator / denominator
        grows = estimate > distance  # not where the estimate is NaN
        longest = torch.where(grows, estimate, distance)
        distance.copy_(longest)

    def _move(self, params: Tensors, decay: Tensor) -> None:
        means = self.kept["mean"]
        squares = self.kept["square"]
        for name, parameter in params.items():
            if self.decays:
                share = _like(decay, parameter)
                parameter.addcmul_(parameter, share, value=-1)
            mean = means[name]
            scale = squares[name].sqrt() + 1e-8
            parameter.addcdiv_(mean, scale, value=-1)


class DAdaptAdamW(DAdaptAdam):
    """The same with Adam's bias correction, as the authors of CRONOS use it."""

    corrects = True


def _correction(step: int) -> float:
    """What a step of Adam is multiplied by, since both of its averages started at zero."""
    weight_of_mean = 1 - 0.9 ** (step + 1)
    weight_of_square = 1 - 0.999 ** (step + 1)
    return np.sqrt(weight_of_square) / weight_of_mean


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": Sgd,
    "adam": Adam,
    "dadapt_adam": DAdaptAdam,
    "dadapt_adamw": DAdaptAdamW,
}


def slots(task: Task, params: Tensors) -> Slots:
    """What the task's optimiser keeps, at its start: slot -> name -> a tensor like the parameter,
    or slot -> (K,) float64.
    """
    kept: Slots = {}
    for name, slot in _declared(task).items():
        kept[name] = _started(slot, params)
    return kept


def _declared(task: Task) -> Mapping[str, Slot]:
    kind = OPTIMIZERS[task.optimizer]
    return kind.slots(task)


def _started(slot: Slot, params: Tensors) -> Any:
    """A slot for `params`, (K, *shape) each, before the first step."""
    if slot.shaped:
        shaped: Named = {}
        for name, values in params.items():
            shaped[name] = torch.full_like(values, slot.start)
        return shaped
    some = next(iter(params.values()))
    members = (len(some),)
    device = some.device
    return torch.full(members, slot.start, dtype=torch.float64, device=device)


def reshaped(task: Task, kept: Mapping[str, Any], reshape: Callable[[Tensors], Slots]) -> Slots:
    """The slots `kept` of the task's optimiser, `reshape` applied to all that are shaped like
    parameters.
    """
    declared = _declared(task)
    slots = dict(kept)
    for name, values in kept.items():
        slot = declared[name]
        if slot.shaped:
            slots[name] = reshape(values)
    return slots


def stilled(task: Task, kept: Mapping[str, Any], masks: Tensors) -> Slots:
    """The slots `kept` of the task's optimiser, by which nothing that masks remove moves any more.

    masks: parameter -> bool, shaped like it.
    """
    declared = _declared(task)
    slots = dict(kept)
    for name, values in kept.items():
        if not declared[name].moves:
            continue
        still = dict(values)
        for parameter, mask in masks.items():
            if parameter in still:  # a mask may be of a block
                still[parameter] = still[parameter].masked_fill(~mask, 0)
        slots[name] = still
    return slots


def decaying(hp: Tensors) -> bool:
    """Whether any member has a weight decay above 0; the device is waited for."""
    return bool((hp["weight_decay"] != 0).any())


def updater(
    task: Task,
    hp: Tensors,
    kept: Mapping[str, Any],
    steps: int,
    decays: bool | None = None,
) -> Update:
    """The task's optimiser as a function; `kept` are its slots, written in place.

    hp: `lr` and `weight_decay`, (K,) for a stack, () for a lone member.  steps: the horizon of the
    schedule.  decays: whether any weight decay is above 0; None: it is looked at.
    """
    if decays is None:
        decays = decaying(hp)
    kind = OPTIMIZERS[task.optimizer]
    optimizer = kind(task, hp, kept, steps, decays)
    return optimizer.update


def _like(scale: Tensor, parameter: Tensor) -> Tensor:
    """`scale`, (K,) or (), in the type of a parameter and broadcastable to it."""
    scale = scale.to(parameter.dtype)
    if not scale.ndim:
        return scale
    behind = (1,) * (parameter.ndim - 1)
    return scale.view(*scale.shape, *behind)


def _sums(values: Tensor, like: Tensor) -> Tensor:
    """Sums of each member's entries of a parameter, float64, shaped like `like`, (K,) or ()."""
    # In one piece, so that the order of additions does not depend on the cohort.
    entries = values.reshape(*like.shape, -1)
    whole = entries.contiguous()
    return whole.sum(-1, dtype=torch.float64)
