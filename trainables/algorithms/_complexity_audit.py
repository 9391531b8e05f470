"""Audits of complexity-aware training: what is kept, measured against its price."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import State
from ..structure.flips import Sample, Stack, worths
from ..structure.shapes import shaped
from ..task import Task
from ..training import draws
from ._complexity_gates import Gates, beside, draw, flat, flops_alive, unflat
from ._complexity_prices import prices
from ._complexity_schedule import AUDITS


def audited(task: Task, state: State, learns: Tensor) -> Gates:
    """The worse half of what does not pay its price: of two units that stand in for each other, one
    stays.

    learns: (K,) bool, the members of whom something may go. The audit is charged, and what it found
    becomes the slope of the gates.
    """
    pruning, sample = state.members["pruning"], _sample(task, state)
    costs = _costs(task, state, sample)
    cost = flat(costs)
    fails = (cost >= 0) & cost.isfinite() & learns[:, None]
    order = cost.masked_fill(~fails, -torch.inf).argsort(descending=True, stable=True)
    rank = order.argsort(stable=True)
    is_worse = fails & (2 * rank < fails.sum(1, keepdim=True))
    examples = sample.batches.to(cost.device) * min(task.batch_size, len(sample.rows))
    alive = {name: pruning["alive"][name] for name in sample.wanted}
    flips = (flat(sample.wanted) & flat(alive)).sum(1)
    pruning["spent"] = pruning["spent"] + flips * examples * flops_alive(task, state)
    pruning["slope"] = costs
    return unflat(is_worse, costs)


def certificate(task: Task, state: State) -> Tensor:
    """The share of what is kept, (K,) float64, that would cost more loss than its price if it went;
    NaN if nothing is.
    """
    costs = flat(_costs(task, state, _sample(task, state)))
    known = costs.isfinite()
    return ((costs < 0) & known).sum(1).double() / known.sum(1)


def _costs(task: Task, state: State, sample: Sample) -> dict[str, Tensor]:
    """What each gate adds to loss + nu J, all else as it is, (K, units) or (K,) by name: below 0 if
    it pays its price.

    Minus infinity where nothing is left, nothing is to be paid or nothing was measured.
    """
    structure = shaped(task, state.shape).structure
    alive, (price, _) = state.members["pruning"]["alive"], prices(task, state)
    params, buffers = state.members["params"], state.members.get("buffers", {})
    slopes = worths(Stack(task, state.shape, params, buffers, alive), sample)
    costs: dict[str, Tensor] = {}
    # Not in the order of a tree, which is another after it was saved.
    for part in (*structure.hidden, *structure.blocks):
        name = part.name
        cost = beside(price[name], alive[name])
        unknown = ~alive[name] | ~sample.wanted[name] | (cost == 0)
        costs[name] = (slopes[name] + cost).masked_fill(unknown, -torch.inf)
    return costs


def _sample(task: Task, state: State) -> Sample:
    """What an audit, or the certificate, measures of each member: what is alive, as far as
    `audit_share` allows.

    Each of them has an equal part of it, in forward passes of the network as it is now.
    """
    pruning, rows = state.members["pruning"], _rows(task, state)
    alive, size = pruning["alive"], min(task.batch_size, len(rows))
    passes = _passes(task, state)
    whole, gates = len(rows) // size, flat(alive).sum(1)
    part = passes / (len(rows) * gates.clamp(min=1))
    batches = (whole * part.sqrt()).long().clamp(1, whole)
    most = torch.minimum(gates, passes // (size * batches))
    pruning["audited"] = (batches * most).double() / (whole * gates)
    if bool((most == gates).all()):
        everything = {name: torch.ones_like(gate) for name, gate in alive.items()}
        return Sample(rows, batches, everything)
    return Sample(rows, batches, _drawn(task, state, most))


def _passes(task: Task, state: State) -> Tensor:
    """Forward passes of an example that one audit may take, (K,) int64."""
    steps, share = task.steps - state.scalars["before"], state.scalars["static"]["audit_share"]
    flops = 3 * share * steps * task.batch_size * task.counts.flops / (AUDITS + 1)
    return (flops / flops_alive(task, state).clamp(min=1)).long()


def _drawn(task: Task, state: State, count: Tensor) -> dict[str, Tensor]:
    """So many, (K,), of the gates that are alive, at random."""
    alive = state.members["pruning"]["alive"]
    _, lots = draw(task, state)
    last = {name: lots[name].masked_fill(~gate, 2.0) for name, gate in alive.items()}
    order = flat(last).argsort(dim=1, stable=True)
    is_first = order.argsort(1) < count[:, None]
    return unflat(flat(alive) & is_first, alive)


def _rows(task: Task, state: State) -> Tensor:
    """The training examples of audits and certificate: whole batches, or one if there are fewer."""
    examples = len(task.data.labels["train"])
    most = max(2, state.scalars["static"]["audit"])
    rows = draws.permutation(draws.key(torch.tensor(0), "audit"), examples)[:most]
    size = min(task.batch_size, len(rows))
    return rows[: len(rows) // size * size]
