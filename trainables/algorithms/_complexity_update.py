"""The gates' update of complexity-aware training: a projected step, and the rule of removal.

    theta <- [theta - r / (mean price) * (slope + price)] to [0, 1],  at most LARGEST_MOVE a step

A gate goes that has been at 0 for PATIENCE updates, if it would not come back: if its smoothed
slope + price is above 0 or, of a unit, if theta + |w| < price / kappa.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import State
from ..structure.shapes import shaped
from ..task import Task
from ._complexity_gates import Gates, beside
from ._complexity_prices import prices
from ._complexity_schedule import schedule_of
from ._complexity_slopes import ESTIMATORS, SMOOTHING

LARGEST_MOVE = 0.2
"""The most that a theta changes in one update."""

PATIENCE = 3
"""Updates that a theta has spent at 0, in a row, before its gate may be removed."""

LEARNT = 0.95
"""Gates are learnt where the loss is below this share of what the shares of the classes alone give.
"""

TINY = 1e-12
"""Norms and slopes below this count as this where they divide."""


def learn(
    task: Task,
    state: State,
    x: Tensor,
    y: Tensor,
) -> Gates:
    """Make one projected step of the gates whose slope is measured; returns those that the rule
    condemns.
    """
    pruning = state.members["pruning"]
    hp = state.scalars["static"]
    estimate = ESTIMATORS[hp["estimator"]]
    slopes = estimate(task, state, x, y)
    learns = has_learnt(task, state)
    if slopes:
        pruning["waited"] = pruning["waited"] + ~learns
    price, mean = prices(task, state)
    rate = _rate(task, state)
    condemned: dict[str, Tensor] = {}
    for name, slope in slopes.items():
        value = slope.value
        alive = pruning["alive"][name]
        cost = beside(price[name], value)
        total = value + cost
        pace = beside(rate, total)
        move = pace * total / beside(mean[name], total)
        is_priced = cost > 0  # what is free stays
        may_move = alive & is_priced
        may_move = may_move & beside(learns, total)
        now = slope.tried & may_move
        _step(pruning, name, total, move, now)
        worthless = _is_worthless(
            task,
            state,
            name,
            value,
            cost,
            now,
        )
        is_patient = pruning["zeros"][name] >= PATIENCE
        condemned[name] = alive & is_patient & worthless
    return condemned


def _rate(task: Task, state: State) -> Tensor:
    """How far a gate moves at the mean price, (K,): falls linearly to 0."""
    schedule = schedule_of(task.steps, state)
    step = state.scalars["step"]
    left = 1 - schedule.progress(step)
    rate = state.members["hp"]["rate"]
    return rate * left


def _step(
    pruning: dict[str, Any],
    name: str,
    total: Tensor,
    move: Tensor,
    now: Tensor,
) -> None:
    """Step the gates of a layer or block that are moved now, and note their slope."""
    theta = pruning["theta"][name]
    zeros = pruning["zeros"][name]
    smooth = pruning["slope"][name]
    move = move.clamp(-LARGEST_MOVE, LARGEST_MOVE)
    moved = (theta - move).clamp(0, 1)
    theta = torch.where(now, moved, theta)
    is_above = theta > 0
    in_a_row = torch.where(is_above, 0, zeros + 1)
    smoothed = smooth.lerp(total, SMOOTHING)
    pruning["theta"][name] = theta
    pruning["zeros"][name] = torch.where(now, in_a_row, zeros)
    pruning["slope"][name] = torch.where(now, smoothed, smooth)


def _is_worthless(
    task: Task,
    state: State,
    name: str,
    slope: Tensor,
    cost: Tensor,
    now: Tensor,
) -> Tensor:
    """Whether a gate at 0 is in the domain of attraction of 0: smoothed slope + price > 0 or, of a
    unit, theta + |w| < price / kappa.
    """
    pruning = state.members["pruning"]
    worthless = pruning["slope"][name] > 0
    if slope.ndim == 1:  # of a block
        return worthless
    norm = _norms(task, state, name)
    before = pruning["kappa"]
    steepness = slope.abs() / norm.clamp(min=TINY)
    steepest = torch.where(now, steepness, 0).amax(1)
    pruning["kappa"] = torch.maximum(before, steepest)
    kappa = beside(before, cost).clamp(min=TINY)
    radius = cost / kappa
    reach = pruning["theta"][name] + norm
    return worthless | (reach < radius)


def _norms(task: Task, state: State, layer: str) -> Tensor:
    """(K, units): norms of what sets how much a unit gives."""
    structure = shaped(task, state.shape).structure
    params = state.members["params"]
    squares: list[Tensor] = []
    for name in structure.scale(layer):
        square = params[name].double().square()
        if square.ndim > 2:
            square = square.flatten(2).sum(2)
        squares.append(square)
    total = torch.stack(squares).sum(0)
    return total.sqrt()


def has_learnt(task: Task, state: State) -> Tensor:
    """(K,): whether gates may be learnt. If what can be learnt is worth less than `nu`, the empty
    network is right.
    """
    labels = task.data.labels["train"]
    known = entropy(labels, task.data.classes)
    loss = state.members["pruning"]["loss"]
    has_learnt_something = loss < LEARNT * known
    is_dear = state.members["hp"]["nu"] >= known
    return has_learnt_something | is_dear


def entropy(labels: Tensor, classes: int) -> Tensor:
    """The least loss, (), of answering the same for every example."""
    # Not by `bincount`, for which the host waits.
    counts = labels.new_zeros(classes)
    counts = counts.scatter_add(0, labels, torch.ones_like(labels))
    shares = counts.double() / len(labels)
    terms = torch.special.xlogy(shares, shares)
    return -terms.sum()
