"""Complexity-aware training (Guenter, Sideris; arXiv 2411.09127, predecessors 2406.04549 and
2205.04650).

Units and residual blocks have gates that are 0 or 1 at random, theta_j = P(xi_j = 1), and training
minimises

    E[C] + 1/2 lambda |W|^2 + nu J J = (1 - beta) (alpha E[FLOPs] / FLOPs_0 + (1 - alpha) E[params]
    / params_0) + beta (mean theta of the blocks)

with C the training loss and J = 1 for the whole network. From the paper: gates learnt by projected
stochastic gradient, removal for good at 0, regularisers that follow from the complexity. The
equations are our derivation. The flattening hyper-prior makes the price of a gate linear in its
theta: price = d (nu J) / d theta, computed anew as the network shrinks. Every term is affine in
each theta, so that minima are at 0 and 1: the network ends deterministic.

The slope of E[C] is what a flip of the gate does, E[C(xi_j = 1) - C(xi_j = 0)], and is measured:
activations before a layer are computed once, and a few of its units, and the block around it, are
flipped behind. The usual straight-through derivative is wrong here: where weights are stationary it
reads off weight decay, -lambda |v_j|^2, not the unit's worth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..contract import Member, Networks, State
from ..domain import Domain, Value
from ..structure.flips import Sample, Stack, flip, on_batches, without_statistics, worths
from ..structure.shapes import Site, shaped
from ..structure.units import Structure, expected, gated, node_masks
from ..task import Task
from ..training import draws, stack
from ..training.hooks import contexts, varying
from ..training.pruner import Context, GradientPruner, Params, Pruning, space
from ..training.start import Dense
from ._masked import removed
from ._structured import obstacle

OFTEN = 40
"""How often a unit is flipped, on average, where `interval` is not given."""

LARGEST_MOVE = 0.2
"""The most that a theta changes in one update."""

PATIENCE = 3
"""Updates that a theta has spent at 0, in a row, before its gate may be removed."""

SMOOTHING = 0.3
"""Weight of the latest slope in the smoothed one."""

AUDITS = 2
"""How often, between the time that gates settle and the end, all that is kept is measured against
its price.
"""

LEARNT = 0.95
"""Gates are learnt where the loss is below this share of what the shares of the classes alone give.
"""

SUBSET = 0.1
"""Share of the gates that the subset estimator sets to a uniform number."""

Gates = Mapping[str, Tensor]
"""By name: of a hidden layer, one for each unit; of a block, one."""


class ComplexityAware(GradientPruner):
    """Prunes units and blocks while it trains, once, from scratch; the stack shrinks with its
    members.

    theta stays at 1 for the share `warmup` of the steps, is learnt up to the share `settle`, and is
    then rounded. What is left trains on, and twice on the way all of it is measured on `audit`
    examples: of what does not pay its price the worse half goes. Flips are charged as
    `search_flops`, each as a whole forward pass. Audits and certificate together take at most
    `audit_share` of the FLOPs of training: if all would take more, fewer examples are measured, a
    batch at least, and fewer units and blocks, drawn at random, both by about the same factor.

    A network that answers no better than the shares of the classes do has nothing to lose, and its
    gates would all go. They wait until it has learnt something, unless all that there is to learn
    is worth less than `nu`.

    estimator: exact flips; subset, the derivative at random gates set to u ~ U(0, 1), which is
    biased by as much as those gates matter to each other; straight-through, an ablation. The last
    two have no audits.
    """

    source = "Guenter & Sideris 2024 (arXiv 2411.09127) for the method; equations: derivation"
    version = 2
    charges = True
    narrows = True
    space = space(
        nu=Domain(
            "real", 0.1, "nats of training loss that the whole complexity may cost", low=0, log=True
        ),
        alpha=Domain("real", 1.0, "what complexity is: FLOPs (1) or parameters (0)", low=0, high=1),
        beta=Domain("real", 0.0, "what is to be saved: depth (1) or width (0)", low=0, high=1),
        rate=Domain(
            "real",
            0.2,
            "how far a gate moves at the mean price; falls linearly to 0",
            low=0,
            log=True,
        ),
        interval=Domain(
            "whole",
            None,
            f"steps between updates of gates (default: each unit is flipped {OFTEN} times)",
            low=1,
            static=True,
        ),
        flips=Domain(
            "whole", 8, "units of one layer that are flipped in an update", low=1, static=True
        ),
        share=Domain(
            "real",
            0.5,
            "the share of a batch that gates are updated with",
            low=0.01,
            high=1,
            static=True,
        ),
        warmup=Domain(
            "real",
            0.1,
            "the share of the steps before gates are learnt",
            low=0,
            high=1,
            static=True,
        ),
        settle=Domain(
            "real",
            0.7,
            "the share of the steps after which gates are rounded",
            low=0,
            high=1,
            static=True,
        ),
        audit=Domain(
            "whole",
            512,
            "training examples of the audits and of the certificate at the end",
            low=0,
            static=True,
        ),
        audit_share=Domain(
            "real",
            1.0,
            "FLOPs of audits and certificate at most, in those of training",
            low=0,
            high=1e6,
            static=True,
        ),
        estimator=Domain(
            "choice",
            "flips",
            "how gates are learnt",
            choices=("flips", "subset", "straight-through"),
            static=True,
        ),
    )

    def skip(self, task: Task) -> str | None:
        if task.structure.sites:
            return None
        needs = "it needs hidden units whose readers are all known, or residual blocks"
        return f"{needs}; model {task.model} has none{obstacle(task)}"

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        if hp["beta"] and not task.structure.blocks:
            raise Mistake(
                f"`beta` above 0 is for models with residual blocks; {task.model} has none"
            )
        warm, settle = _warm(hp, task.steps), _settle(hp, task.steps)
        interval = _interval(task, hp, task.steps)
        if not any(step % interval == 0 for step in range(warm + 1, settle)):
            where = f"between `warmup` and `settle`, after steps {warm + 1} to {settle - 1}"
            raise Mistake(f"`interval` is such that gates are learnt {where}; got {interval}")
        shaped(task, None).halves(task.structure.sites[0])

    def begin(self, task: Task, members: Sequence[Member], dense: Dense) -> State:
        state = super().begin(task, members, dense)
        state.scalars["static"]["interval"] = _interval(
            task, members[0].hp, task.steps - dense.steps
        )
        return state

    def init(self, params: Params, ctx: Context) -> Pruning:
        one = torch.ones((), dtype=torch.float64, device=ctx.seed.device)
        gates = {layer.name: one.expand(layer.units) for layer in ctx.structure.hidden}
        gates |= {block.name: one for block in ctx.structure.blocks}
        return {
            "theta": {name: gate.clone() for name, gate in gates.items()},
            "alive": {name: gate > 0 for name, gate in gates.items()},
            "lot": _split(
                torch.arange(sum(gate.numel() for gate in gates.values()), device=ctx.seed.device),
                gates,
            ),
            "zeros": {
                name: gate.long() * 0 for name, gate in gates.items()
            },  # updates at 0, in a row
            "slope": {
                name: gate * 0 for name, gate in gates.items()
            },  # d objective / d theta, smoothed
            "kappa": one * 0,  # the largest |d E[C] / d theta| seen, by the norm of the unit
            "held": ctx.seed * 0,
            "spent": ctx.seed * 0,  # FLOPs of learning the gates
            "certificate": one * torch.nan,
            "audited": one * torch.nan,
            "loss": one * torch.nan,  # of training, smoothed over updates
            "waited": ctx.seed * 0,
        }

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        if ctx.step < _warm(ctx.hp, ctx.steps) or not _gates(pruning, "theta"):
            return params
        gates = _drawn(pruning, ctx, "step")
        return gated(ctx.structure, params, gates, gates)

    def measured(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return removed(ctx.structure, params, self.kept(params, pruning, ctx))

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return _masks(ctx.structure, params, _rounded(ctx.structure, pruning))

    def lasting(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return _masks(ctx.structure, params, _gates(pruning, "alive"))

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """gates: units and blocks that are left.  interior: those with theta inside (0, 1).  held:
        how often the last unit of a layer stayed against the rule; above 0, `nu` asks for more than
        the layers allow.  certificate: share of the units and blocks kept whose removal costs more
        training loss than their price, at the end, among those measured.  audited: share of
        examples times units and blocks that the last audit or the certificate measured.  waited:
        updates without effect, since the network had not learnt anything.
        """
        inside = [((theta > 0) & (theta < 1)).sum() for theta in _gates(pruning, "theta").values()]
        interior = torch.stack([pruning["held"] * 0, *inside]).sum()
        left = torch.stack(
            [pruning["held"] * 0, *(alive.sum() for alive in _gates(pruning, "alive").values())]
        ).sum()
        own = {name: pruning[name] for name in ("held", "certificate", "audited", "waited")}
        return {"gates": left, "interior": interior, **own}

    def networks(self, task: Task, state: State) -> Networks:
        spent = state.members["pruning"]["spent"]
        return dataclasses.replace(
            super().networks(task, state), search={"flops": spent, "seconds": 0 * spent}
        )

    def due(self, hp: Mapping[str, Any], step: int, steps: int) -> bool:
        learns = _warm(hp, steps) < step < _settle(hp, steps)
        return step in (_settle(hp, steps), *_audits(hp, steps), steps) or (
            learns and step % hp["interval"] == 0
        )

    @torch.no_grad()
    def every(self, task: Task, state: State, x: Tensor, y: Tensor) -> State:
        """Learn gates; round them; let go what does not pay; and at the end certify what is kept."""
        hp, step, steps = (
            state.scalars["static"],
            state.scalars["step"],
            task.steps - state.scalars["before"],
        )
        if not _gates(state.members["pruning"], "alive"):
            return state  # nothing is left to learn in any member
        if _warm(hp, steps) < step < _settle(hp, steps):
            examples = max(2, round(hp["share"] * task.batch_size))  # batch-norm needs two
            state = self._learn(task, state, x[:, :examples], y[:, :examples])
        if step == _settle(hp, steps):
            state = self._round(task, state)
        exact = hp["audit"] and hp["estimator"] == "flips"
        if step in _audits(hp, steps) and exact and _gates(state.members["pruning"], "alive"):
            state = self._audit(task, state)
        if step == steps and hp["audit"] and _gates(state.members["pruning"], "alive"):
            state.members["pruning"]["certificate"] = self._certificate(task, state)
        return state

    def _learn(self, task: Task, state: State, x: Tensor, y: Tensor) -> State:
        """One projected step of the gates whose slope was measured; those that the rule condemns
        are removed.
        """
        hp, step, steps = (
            state.scalars["static"],
            state.scalars["step"],
            task.steps - state.scalars["before"],
        )
        slopes, tried = (
            self._flips(task, state, x, y)
            if hp["estimator"] == "flips"
            else self._derivatives(task, state, x, y)
        )
        learns = self._learnt(task, state)
        structure = shaped(task, state.shape).structure
        pruning, (price, mean) = state.members["pruning"], prices(task, state)
        progress = (step - _warm(hp, steps)) / (_settle(hp, steps) - _warm(hp, steps))
        rate, condemned = state.members["hp"]["rate"] * (1 - progress), dict[str, Tensor]()
        pruning["waited"] = pruning["waited"] + (~learns if slopes else 0 * learns.long())
        for name, slope in slopes.items():
            theta, alive, zeros, smooth = (
                pruning[key][name] for key in ("theta", "alive", "zeros", "slope")
            )
            cost, usual, pace, kappa = (
                _beside(t, theta) for t in (price[name], mean[name], rate, pruning["kappa"])
            )
            total = slope + cost
            move = (pace * total / usual).clamp(-LARGEST_MOVE, LARGEST_MOVE)
            now = tried[name] & alive & (cost > 0) & _beside(learns, theta)  # what is free stays
            pruning["theta"][name] = theta = torch.where(now, (theta - move).clamp(0, 1), theta)
            pruning["zeros"][name] = zeros = torch.where(
                now, torch.where(theta > 0, 0, zeros + 1), zeros
            )
            pruning["slope"][name] = smooth = torch.where(
                now, smooth.lerp(total, SMOOTHING), smooth
            )
            worthless = smooth > 0
            if theta.ndim > 1:
                norm = _norms(structure, state.members["params"], name)
                steepest = torch.where(now, slope.abs() / norm.clamp(min=1e-12), 0).amax(1)
                pruning["kappa"] = torch.maximum(pruning["kappa"], steepest)
                worthless = worthless | (theta + norm < cost / kappa.clamp(min=1e-12))
            condemned[name] = alive & (zeros >= PATIENCE) & worthless
        return self._remove(task, state, condemned)

    def _learnt(self, task: Task, state: State) -> Tensor:
        """(K,): whether gates may be learnt. If what can be learnt is worth less than `nu`, the
        empty network is right.
        """
        known = _entropy(task.data.labels["train"])
        return (state.members["pruning"]["loss"] < LEARNT * known) | (
            state.members["hp"]["nu"] >= known
        )

    def _round(self, task: Task, state: State) -> State:
        """Every theta at 0 or 1."""
        pruning = state.members["pruning"]
        pruning["slope"] = {
            name: -theta for name, theta in pruning["theta"].items()
        }  # if a last unit must stay, the likeliest
        state = self._remove(
            task, state, {name: theta < 0.5 for name, theta in pruning["theta"].items()}
        )
        pruning = state.members["pruning"]
        if alive := _gates(pruning, "alive"):
            pruning["theta"] = {name: live.double() for name, live in alive.items()}
        return state

    def _remove(self, task: Task, state: State, condemned: Gates) -> State:
        """Members without their condemned units and blocks; the last unit of a layer stays as long
        as its block does.
        """
        structure = shaped(task, state.shape).structure
        pruning = state.members["pruning"]
        dead = {
            block.name: condemned[block.name]
            for block in structure.blocks
            if block.name in condemned
        }
        for layer in structure.hidden:
            alive, block = pruning["alive"][layer.name], structure.block_of(layer.name)
            gone = (
                torch.zeros_like(alive[:, 0])
                if block is None
                else dead.get(block.name, torch.zeros_like(alive[:, 0]))
            )
            off = condemned.get(layer.name, torch.zeros_like(alive))
            best = torch.where(alive, pruning["slope"][layer.name], torch.inf).argmin(
                1, keepdim=True
            )
            bare = alive.any(1) & ~(alive & ~off).any(1) & ~gone
            held = torch.zeros_like(alive).scatter(1, best, bare[:, None])
            pruning["held"] = pruning["held"] + held.sum(1)
            pruning["theta"][layer.name] = torch.where(held, 1.0, pruning["theta"][layer.name])
            dead[layer.name] = (off & ~held) | gone[:, None]
        dead = {name: gone & pruning["alive"][name] for name, gone in dead.items()}
        if not torch.stack([gone.any() for gone in dead.values()]).any():
            return state
        for name, gone in dead.items():
            pruning["alive"][name] = pruning["alive"][name] & ~gone
            pruning["theta"][name] = torch.where(
                pruning["alive"][name], pruning["theta"][name], 0.0
            )
        return self.compact(task, state)

    def _flips(self, task: Task, state: State, x: Tensor, y: Tensor) -> tuple[Gates, Gates]:
        """C(xi = 1) - C(xi = 0) for some units of one layer and for its block, on one draw of all
        other gates; and which.
        """
        site, hp, pruning = (
            _chosen(task.structure, state.scalars["step"]),
            state.scalars["static"],
            state.members["pruning"],
        )
        structure = shaped(task, state.shape).structure
        own = next((layer for layer in structure.hidden if layer.name == site[0]), None)
        block = site[1] if site[1] in pruning["theta"] else None
        if own is None and block is None:
            return {}, {}  # gone in all members
        gates, lots = self._lots(task, state)
        none = torch.zeros(state.size, 0, device=x.device)
        picked = torch.where(pruning["alive"][own.name], lots[own.name], 2.0) if own else none
        order = picked.argsort(stable=True)[:, : hp["flips"]]
        networks, place = (
            (state.members["params"], state.members.get("buffers", {})),
            (own.name if own else None, block),
        )
        flipped = flip(Stack(task, state.shape, *networks, gates), place, order, x, y)
        units, whole = flipped.units, flipped.block
        _note_loss(pruning, flipped.base)
        there = [
            pruning["alive"][name].view(state.size, -1).sum(1) for name in place if name is not None
        ]
        count = torch.stack(there).sum(0).clamp(max=hp["flips"] + 1)
        pruning["spent"] = pruning["spent"] + torch.where(count > 0, count + 1, 0) * x.shape[
            1
        ] * _flops(task, state)
        slopes, tried = dict[str, Tensor](), dict[str, Tensor]()
        if own is not None:
            around = structure.block_of(own.name)
            weight = 1.0 if around is None else pruning["theta"][around.name][:, None]
            slopes[own.name] = torch.zeros_like(picked).scatter(1, order, weight * units)
            tried[own.name] = torch.zeros_like(picked, dtype=torch.bool).scatter(1, order, True)
        if block is not None:
            slopes[block], tried[block] = whole, torch.ones_like(whole, dtype=torch.bool)
        return slopes, tried

    def _lots(self, task: Task, state: State) -> tuple[Gates, Gates]:
        """A draw of all gates, and another number in [0, 1) for each of them."""
        context, step = contexts(task, state), state.scalars["step"]

        def draw(pruning: Pruning, given: Params) -> dict[str, Any]:
            ctx = context(given, step)
            return {
                "gates": _drawn(pruning, ctx, "other"),
                "lots": _split(_uniform(pruning, ctx, "lot"), pruning["theta"]),
            }

        found = stack.lift(draw, state.size)(state.members["pruning"], varying(state.members))
        return found["gates"], found["lots"]

    def _derivatives(self, task: Task, state: State, x: Tensor, y: Tensor) -> tuple[Gates, Gates]:
        """d C / d xi: at the gates that are set to u ~ U(0, 1) (subset), or at all, as they are
        drawn (straight-through).
        """
        shape = shaped(task, state.shape)
        module, structure = shape.module, shape.structure
        gates, lots = self._lots(task, state)
        tried = {name: torch.ones_like(lot, dtype=torch.bool) for name, lot in lots.items()}
        gates = {name: gate.double() for name, gate in gates.items()}
        if state.scalars["static"]["estimator"] == "subset":
            tried = {name: lot < SUBSET for name, lot in lots.items()}
            gates = {
                name: torch.where(tried[name], lots[name] / SUBSET, gate)
                for name, gate in gates.items()
            }
        call, held = (
            stack.Call(on_batches(module)),
            without_statistics(module, state.members.get("buffers", {})),
        )

        def loss(
            params: Params, held: Params, gates: Gates, x: Tensor, y: Tensor
        ) -> dict[str, Tensor]:
            return {
                "loss": F.cross_entropy(
                    call(gated(structure, params, gates, gates), dict(held), x), y
                )
            }

        with torch.enable_grad():
            leaves = {name: gate.requires_grad_() for name, gate in gates.items()}
            losses = stack.lift(loss, state.size)(state.members["params"], held, leaves, x, y)[
                "loss"
            ]
            found = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        pruning = state.members["pruning"]
        _note_loss(pruning, losses.detach().double())
        pruning["spent"] = pruning["spent"] + 3 * x.shape[1] * _flops(task, state)
        return dict(zip(leaves, found, strict=True)), tried

    def _audit(self, task: Task, state: State) -> State:
        """Members without the worse half of what does not pay: of two units that stand in for each
        other, one stays.
        """
        pruning, sample = state.members["pruning"], self._sample(task, state)
        costs = self._costs(task, state, sample)
        flat = _flat(costs)
        fails = (flat >= 0) & flat.isfinite() & self._learnt(task, state)[:, None]
        rank = (
            flat.masked_fill(~fails, -torch.inf)
            .argsort(descending=True, stable=True)
            .argsort(stable=True)
        )
        off = (fails & (2 * rank < fails.sum(1, keepdim=True))).split(
            [cost[0].numel() for cost in costs.values()], 1
        )
        examples = sample.batches.to(flat.device) * min(task.batch_size, len(sample.rows))
        flips = (
            _flat(sample.wanted) & _flat({name: pruning["alive"][name] for name in sample.wanted})
        ).sum(1)
        pruning["spent"] = pruning["spent"] + flips * examples * _flops(task, state)
        pruning["slope"] = costs
        return self._remove(
            task, state, {n: part.view(costs[n].shape) for n, part in zip(costs, off, strict=True)}
        )

    def _certificate(self, task: Task, state: State) -> Tensor:
        """The share of what is kept, (K,) float64, that would cost more loss than its price if it
        went; NaN if nothing is.
        """
        costs = _flat(self._costs(task, state, self._sample(task, state)))
        return ((costs < 0) & costs.isfinite()).sum(1).double() / costs.isfinite().sum(1)

    def _costs(self, task: Task, state: State, sample: Sample) -> dict[str, Tensor]:
        """What each gate adds to loss + nu J, all else as it is, (K, units) or (K,) by name: below
        0 if it pays its price.

        Minus infinity where nothing is left, nothing is to be paid or nothing was measured.
        """
        structure = shaped(task, state.shape).structure
        alive, (price, _) = state.members["pruning"]["alive"], prices(task, state)
        networks = state.members["params"], state.members.get("buffers", {})
        slopes = worths(Stack(task, state.shape, *networks, alive), sample)
        found: dict[str, Tensor] = {}
        for part in (
            *structure.hidden,
            *structure.blocks,
        ):  # not in the order of a tree, which is another after it was saved
            cost = _beside(price[part.name], alive[part.name])
            unknown = ~alive[part.name] | ~sample.wanted[part.name] | (cost == 0)
            found[part.name] = (slopes[part.name] + cost).masked_fill(unknown, -torch.inf)
        return found

    def _sample(self, task: Task, state: State) -> Sample:
        """What an audit, or the certificate, measures of each member: what is alive, as far as
        `audit_share` allows.

        Each of them has an equal part of it, in forward passes of the network as it is now.
        """
        pruning, rows = state.members["pruning"], self._audited(task, state)
        alive, size = pruning["alive"], min(task.batch_size, len(rows))
        steps, share = task.steps - state.scalars["before"], state.scalars["static"]["audit_share"]
        flops = 3 * share * steps * task.batch_size * task.counts.flops / (AUDITS + 1)
        passes = (flops / _flops(task, state).clamp(min=1)).long()
        whole, gates = len(rows) // size, _flat(alive).sum(1)
        part = passes / (len(rows) * gates.clamp(min=1))
        batches = (whole * part.sqrt()).long().clamp(1, whole)
        most = torch.minimum(gates, passes // (size * batches))
        pruning["audited"] = (batches * most).double() / (whole * gates)
        if bool((most == gates).all()):
            return Sample(
                rows, batches, {name: torch.ones_like(gate) for name, gate in alive.items()}
            )
        lots = self._lots(task, state)[1]
        names, sizes = list(alive), [gate[0].numel() for gate in alive.values()]
        order = _flat({name: lots[name].masked_fill(~alive[name], 2.0) for name in names}).argsort(
            dim=1, stable=True
        )
        first = _flat(alive) & (order.argsort(1) < most[:, None])
        parts = zip(names, first.split(sizes, 1), strict=True)
        return Sample(rows, batches, {name: part.view(alive[name].shape) for name, part in parts})

    def _audited(self, task: Task, state: State) -> Tensor:
        """The training examples of audits and certificate: whole batches, or one if there are
        fewer.
        """
        examples = len(task.data.labels["train"])
        rows = draws.permutation(draws.key(torch.tensor(0), "audit"), examples)[
            : max(2, state.scalars["static"]["audit"])
        ]
        size = min(task.batch_size, len(rows))
        return rows[: len(rows) // size * size]


def prices(task: Task, state: State) -> tuple[Gates, Gates]:
    """d (nu J) / d theta of any gate of each hidden layer and block, (K,) by name; and its mean
    over all units, or blocks.
    """
    hp, found, means = state.members["hp"], dict[str, Tensor](), dict[str, Tensor]()
    units, blocks = (
        {name: sums.requires_grad_() for name, sums in kind.items()}
        for kind in _sums(task, state, "theta")
    )
    with torch.enable_grad():
        cost = hp["nu"] * complexity(task, units, blocks, hp["alpha"], hp["beta"])
        leaves = {**units, **blocks}
        slopes = torch.autograd.grad(cost.sum(), list(leaves.values()), materialize_grads=True)
    for kind in _sums(task, state, "alive"):
        price = {name: slope for name, slope in zip(leaves, slopes, strict=True) if name in kind}
        none = torch.zeros_like(hp["nu"])
        total, count = (
            sum((price[name] * kind[name] for name in kind), none),
            sum(kind.values(), none),
        )
        found |= price
        means |= dict.fromkeys(kind, (total / count.clamp(min=1)).clamp(min=1e-12))
    return found, means


def _sums(task: Task, state: State, key: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums over gates, (K,) float64 by name, of the parent's hidden layers and of its blocks; 0 for
    those that are gone.
    """
    left = {
        name: gates.double().view(state.size, -1).sum(1)
        for name, gates in _gates(state.members["pruning"], key).items()
    }
    none = torch.zeros(state.size, dtype=torch.float64, device=task.torch_device)
    parent = task.structure
    units, blocks = ([part.name for part in kind] for kind in (parent.hidden, parent.blocks))
    return {name: left.get(name, none.clone()) for name in units}, {
        name: left.get(name, none.clone()) for name in blocks
    }


def complexity(task: Task, units: Gates, blocks: Gates, alpha: Tensor, beta: Tensor) -> Tensor:
    """J, (...): 1 for the whole network. units: hidden layer -> mean number of units (...).
    blocks: block -> theta (...).
    """
    flops, params = expected(task.structure, task.counts, units, blocks)
    width = alpha * flops / task.counts.flops + (1 - alpha) * params / task.counts.params
    return (1 - beta) * width + beta * sum(blocks.values()) / max(1, len(blocks))


def _entropy(labels: Tensor) -> Tensor:
    """The least loss, (), of answering the same for every example."""
    shares = labels.bincount().double() / len(labels)
    return -torch.special.xlogy(shares, shares).sum()


def _note_loss(pruning: dict[str, Any], losses: Tensor) -> None:
    """Take the latest losses (K,) into the smoothed ones."""
    before = pruning["loss"]
    pruning["loss"] = torch.where(before.isnan(), losses, before.lerp(losses, SMOOTHING))


def _flat(gates: Gates) -> Tensor:
    """(K, all gates)."""
    return torch.cat([gate.view(len(gate), -1) for gate in gates.values()], 1)


def _warm(hp: Mapping[str, Any], steps: int) -> int:
    return round(hp["warmup"] * steps)


def _settle(hp: Mapping[str, Any], steps: int) -> int:
    return round(hp["settle"] * steps)


def _interval(task: Task, hp: Mapping[str, Any], steps: int) -> int:
    """Steps between updates: as given, or such that a unit is flipped OFTEN times, as far as the
    steps allow.
    """
    units = sum(layer.units for layer in task.structure.hidden)
    chances = hp["flips"] * (_settle(hp, steps) - _warm(hp, steps))
    return hp["interval"] or max(1, chances // (OFTEN * max(1, units)))


def _gates(pruning: Pruning, key: str) -> Gates:
    """What `key` holds by name; nothing if no gates are left in any member, since a state keeps no
    empty trees.
    """
    return pruning.get(key, {})


def _audits(hp: Mapping[str, Any], steps: int) -> list[int]:
    """The steps after which all that is kept is measured: evenly spread between settling and the
    end.
    """
    begin = _settle(hp, steps)
    return [begin + (steps - begin) * (audit + 1) // (AUDITS + 1) for audit in range(AUDITS)]


def _chosen(structure: Structure, step: int) -> Site:
    """The site of an update, the same for all members: a layer is as likely as it has units, those
    removed included.
    """
    units = {layer.name: layer.units for layer in structure.hidden}
    ends = torch.tensor([units.get(layer or "", 1) for layer, _ in structure.sites]).cumsum(0)
    lot = draws.uniform(draws.key(torch.tensor(0), step, "site")) * ends[-1]
    return structure.sites[int((lot >= ends).sum())]


def _uniform(pruning: Pruning, ctx: Context, site: str) -> Tensor:
    """A number in [0, 1) for each gate, in one vector, whatever the stack's shape."""
    return ctx.uniform(
        site, (), torch.cat([pruning["lot"][name].flatten() for name in pruning["theta"]])
    )


def _split(vector: Tensor, like: Gates) -> dict[str, Tensor]:
    parts = vector.split([gates.numel() for gates in like.values()])
    return {
        name: part.view(gates.shape)
        for part, (name, gates) in zip(parts, like.items(), strict=True)
    }


def _drawn(pruning: Pruning, ctx: Context, site: str) -> dict[str, Tensor]:
    """Gates that are on with probability theta."""
    theta = torch.cat([theta.flatten() for theta in pruning["theta"].values()])
    return _split(_uniform(pruning, ctx, site) < theta, pruning["theta"])


def _rounded(structure: Structure, pruning: Pruning) -> dict[str, Tensor]:
    """Gates that are on where theta is 1/2 or more; if none of a layer is, then the one that pays
    most.
    """
    on = {name: theta >= 0.5 for name, theta in _gates(pruning, "theta").items()}
    for layer in structure.hidden:
        alive, slope = pruning["alive"][layer.name], pruning["slope"][layer.name]
        best = (
            torch.arange(layer.units, device=slope.device)
            == torch.where(alive, slope, torch.inf).argmin()
        )
        on[layer.name] = alive & (on[layer.name] | (best & ~(on[layer.name] & alive).any()))
    return on


def _masks(structure: Structure, params: Params, on: Gates) -> dict[str, Tensor]:
    """What is kept of each removable parameter, and the blocks."""
    return node_masks(
        structure, on, params, {block.name: on[block.name] for block in structure.blocks}
    )


def _norms(structure: Structure, params: Params, layer: str) -> Tensor:
    """(K, units): norms of what sets how much a unit gives."""
    squares = [params[name].double().square().flatten(2).sum(2) if params[name].ndim > 2 else params[name].double().square()
               for name in structure.scale(layer)]  # fmt: skip
    return torch.stack(squares).sum(0).sqrt()


def _flops(task: Task, state: State) -> Tensor:
    """FLOPs of an example's forward pass through what is alive, (K,) int64."""
    return expected(task.structure, task.counts, *_sums(task, state, "alive"))[0].round().long()


def _beside(column: Tensor, like: Tensor) -> Tensor:
    """(K,), broadcastable to `like`, (K,) or (K, units)."""
    return column.view(-1, *(1,) * (like.ndim - 1))
