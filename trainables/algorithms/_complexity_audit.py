"""Audits of complexity-aware training: what is kept, measured against its price."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import State
from ..structure.flips import Sample, Stack, worths
from ..structure.shapes import shaped
from ..task import Task
from ..training import draws
from ._complexity_gates import Gates, beside, charge, draw, flat, flops_alive, unflat
from ._complexity_prices import prices
from ._complexity_schedule import AUDITS


def audited(task: Task, state: State, learns: Tensor) -> Gates:
    """The worse half of what does not pay its price: of two units that stand in for each other, one
    stays.

    learns: (K,) bool, the members of whom something may go. The audit is charged, and what it found
    becomes the slope of the gates.
    """
    sample = _sample(task, state)
    costs = _costs(task, state, sample)
    _charge(task, state, sample)
    state.members["pruning"]["slope"] = costs
    cost = flat(costs)
    is_known = cost.isfinite()
    fails = (cost >= 0) & is_known
    fails = fails & learns[:, None]
    ranked = cost.masked_fill(~fails, -torch.inf)
    order = ranked.argsort(descending=True, stable=True)
    rank = order.argsort(stable=True)
    count = fails.sum(1, keepdim=True)
    is_worse = 2 * rank < count
    return unflat(fails & is_worse, costs)


def _charge(task: Task, state: State, sample: Sample) -> None:
    """Charge each flip of an audit as a whole forward pass."""
    gates = state.members["pruning"]["alive"]
    wanted = sample.wanted
    alive = {name: gates[name] for name in wanted}
    is_flipped = flat(wanted) & flat(alive)
    flipped = is_flipped.sum(1)
    size = min(task.batch_size, len(sample.rows))
    batches = sample.batches.to(is_flipped.device)
    examples = batches * size
    passes = flipped * examples
    spent = passes * flops_alive(task, state)
    charge(state, spent)


def certificate(task: Task, state: State) -> Tensor:
    """The share of what is kept, (K,) float64, that would cost more loss than its price if it went;
    NaN if nothing is.
    """
    sample = _sample(task, state)
    costs = flat(_costs(task, state, sample))
    is_known = costs.isfinite()
    pays = (costs < 0) & is_known
    paying = pays.sum(1).double()
    return paying / is_known.sum(1)


def _costs(task: Task, state: State, sample: Sample) -> dict[str, Tensor]:
    """What each gate adds to loss + nu J, all else as it is, (K, units) or (K,) by name: below 0 if
    it pays its price.

    Minus infinity where nothing is left, nothing is to be paid or nothing was measured.
    """
    structure = shaped(task, state.shape).structure
    alive = state.members["pruning"]["alive"]
    price, _ = prices(task, state)
    networks = Stack.of(task, state, alive)
    slopes = worths(networks, sample)
    # Not in the order of a tree, which is another after it was saved.
    parts = (*structure.hidden, *structure.blocks)
    costs: dict[str, Tensor] = {}
    for part in parts:
        name = part.name
        there = alive[name]
        wanted = sample.wanted[name]
        cost = beside(price[name], there)
        is_free = cost == 0
        is_measured = there & wanted
        is_unknown = ~is_measured | is_free
        total = slopes[name] + cost
        costs[name] = total.masked_fill(is_unknown, -torch.inf)
    return costs


def _sample(task: Task, state: State) -> Sample:
    """What an audit, or the certificate, measures of each member: what is alive, as far as
    `audit_share` allows.

    Each of them has an equal part of it, in forward passes of the network as it is now. Examples
    and gates are cut by about the same factor.
    """
    pruning = state.members["pruning"]
    alive = pruning["alive"]
    rows = _rows(task, state)
    size = min(task.batch_size, len(rows))
    whole = len(rows) // size
    gates = flat(alive).sum(1)
    passes = _passes(task, state)
    wanted = len(rows) * gates.clamp(min=1)
    part = passes / wanted
    batches = whole * part.sqrt()
    batches = batches.long().clamp(1, whole)
    affordable = passes // (size * batches)
    count = torch.minimum(gates, affordable)
    measured = batches * count
    everything = whole * gates
    pruning["audited"] = measured.double() / everything
    is_whole = count == gates
    if bool(is_whole.all()):
        return Sample(rows, batches, _everything(alive))
    some = _drawn(task, state, count)
    return Sample(rows, batches, some)


def _everything(alive: Gates) -> dict[str, Tensor]:
    whole: dict[str, Tensor] = {}
    for name, gate in alive.items():
        whole[name] = torch.ones_like(gate)
    return whole


def _passes(task: Task, state: State) -> Tensor:
    """Forward passes of an example that one audit may take, (K,) int64."""
    steps = task.steps - state.scalars["before"]
    hp = state.scalars["static"]
    share = 3 * hp["audit_share"]
    examples = share * steps * task.batch_size
    flops = examples * task.counts.flops
    flops = flops / (AUDITS + 1)
    of_pass = flops_alive(task, state).clamp(min=1)
    affordable = flops / of_pass
    return affordable.long()


def _drawn(task: Task, state: State, count: Tensor) -> dict[str, Tensor]:
    """So many, (K,), of the gates that are alive, at random."""
    pruning = state.members["pruning"]
    alive = pruning["alive"]
    _, lots = draw(task, state)
    ranked: dict[str, Tensor] = {}
    for name, gate in alive.items():
        lot = lots[name]
        ranked[name] = lot.masked_fill(~gate, 2.0)
    ranks = flat(ranked)
    order = ranks.argsort(dim=1, stable=True)
    place = order.argsort(1)
    is_first = place < count[:, None]
    is_drawn = flat(alive) & is_first
    return unflat(is_drawn, alive)


def _rows(task: Task, state: State) -> Tensor:
    """The training examples of audits and certificate: whole batches, or one if there are fewer."""
    examples = len(task.data.labels["train"])
    hp = state.scalars["static"]
    most = max(2, hp["audit"])
    key = draws.key(torch.tensor(0), "audit")
    order = draws.permutation(key, examples)
    rows = order[:most]
    size = min(task.batch_size, len(rows))
    batches = len(rows) // size
    return rows[: batches * size]
