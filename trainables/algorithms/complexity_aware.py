"""Complexity-aware training (Guenter, Sideris; arXiv 2411.09127, predecessors 2406.04549 and
2205.04650).

Units and residual blocks have gates that are 0 or 1 at random, theta_j = P(xi_j = 1), and training
minimises

    E[C] + 1/2 lambda |W|^2 + nu J
    J = (1 - beta) width + beta (mean theta of the blocks)
    width = alpha E[FLOPs] / FLOPs_0 + (1 - alpha) E[params] / params_0

with C the training loss, and FLOPs_0 and params_0 those of the task's model, whatever `width` of it
training starts from: J = 1 for the task's whole model. From the paper: gates learnt by projected
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
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..contract import Member, Networks, State
from ..domain import Domain, Value
from ..structure.shapes import shaped
from ..structure.units import gated
from ..task import Task
from ..training.pruner import Context, GradientPruner, Params, Pruning, space
from ..training.start import Dense
from . import _complexity_gates as gates
from ._complexity_audit import audited, certificate
from ._complexity_gates import Gates, gates_of
from ._complexity_prices import unit_of
from ._complexity_schedule import OFTEN, Schedule, schedule_of
from ._complexity_update import has_learnt, learn
from ._masked import removed
from ._structured import obstacle


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
    version = 3
    charges = True
    narrows = True
    space = space(
        nu=Domain(
            "real",
            0.1,
            "nats of training loss that the complexity of the task's model may cost",
            low=0,
            log=True,
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
        structure = task.structure
        if hp["beta"] and not structure.blocks:
            rule = "`beta` above 0 is for models with residual blocks"
            raise Mistake(f"{rule}; {task.model} has none")
        warmup, settle = hp["warmup"], hp["settle"]
        if not warmup < settle:  # type: ignore[operator]
            rule = "`warmup` lies below `settle`: gates are learnt between them"
            raise Mistake(f"{rule}; got {warmup} and {settle}")
        schedule = Schedule(hp, task.steps)
        first = schedule.warm + 1
        last = schedule.settle - 1
        interval = schedule.interval(structure)
        learning = range(first, last + 1)
        if not any(step % interval == 0 for step in learning):
            where = f"between `warmup` and `settle`, after steps {first} to {last}"
            raise Mistake(f"`interval` is such that gates are learnt {where}; got {interval}")
        model = shaped(task, None)
        model.halves(structure.sites[0])

    def begin(
        self,
        task: Task,
        members: Sequence[Member],
        dense: Dense,
    ) -> State:
        state = super().begin(task, members, dense)
        hp = members[0].hp
        schedule = Schedule(hp, task.steps - dense.steps)
        static = state.scalars["static"]
        static["interval"] = schedule.interval(task.structure)
        unit = unit_of(task, float(hp["width"]))  # type: ignore[arg-type]
        static["unit"] = list(unit)  # as it is when it was saved
        return state

    def init(self, params: Params, ctx: Context) -> Pruning:
        return gates.initial(ctx.structure, ctx.seed)

    def effective(
        self,
        params: Params,
        pruning: Pruning,
        ctx: Context,
    ) -> Params:
        schedule = Schedule(ctx.hp, ctx.steps)
        is_warming_up = ctx.step < schedule.warm
        if is_warming_up or not gates_of(pruning, "theta"):
            return params
        xi = gates.drawn(pruning, ctx, "step")
        return gated(ctx.structure, params, xi, xi)

    def measured(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        mask = self.kept(params, pruning, ctx)
        return removed(ctx.structure, params, mask)

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        on = gates.rounded(ctx.structure, pruning)
        return gates.kept_by(ctx.structure, params, on)

    def lasting(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        alive = gates_of(pruning, "alive")
        return gates.kept_by(ctx.structure, params, alive)

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """gates: units and blocks that are left.  interior: those with theta inside (0, 1).  held:
        how often the last unit of a layer stayed against the rule; above 0, `nu` asks for more than
        the layers allow.  certificate: share of the units and blocks kept whose removal costs more
        training loss than their price, at the end, among those measured.  audited: share of
        examples times units and blocks that the last audit or the certificate measured.  waited:
        updates without effect, since the network had not learnt anything.
        """
        left = interior = pruning["held"] * 0
        for theta in gates_of(pruning, "theta").values():
            is_inside = (theta > 0) & (theta < 1)
            interior = interior + is_inside.sum()
        for alive in gates_of(pruning, "alive").values():
            left = left + alive.sum()
        return {
            "gates": left,
            "interior": interior,
            "held": pruning["held"],
            "certificate": pruning["certificate"],
            "audited": pruning["audited"],
            "waited": pruning["waited"],
        }

    def networks(self, task: Task, state: State) -> Networks:
        networks = super().networks(task, state)
        spent = state.members["pruning"]["spent"]
        search = {"flops": spent, "seconds": 0 * spent}
        return dataclasses.replace(networks, search=search)

    def due(self, hp: Mapping[str, Any], step: int, steps: int) -> bool:
        schedule = Schedule(hp, steps)
        certain = (schedule.settle, *schedule.audits, steps)
        if step in certain:
            return True
        if not schedule.learns(step):
            return False
        return step % hp["interval"] == 0

    @torch.no_grad()
    def every(
        self,
        task: Task,
        state: State,
        x: Tensor,
        y: Tensor,
    ) -> State:
        """Learn gates; round them; let go what does not pay; at the end certify what is kept."""
        if not _any_left(state):
            return state
        hp = state.scalars["static"]
        step = state.scalars["step"]
        schedule = schedule_of(task.steps, state)
        if schedule.learns(step):
            state = self._learn(task, state, x, y)
        if step == schedule.settle:
            state = self._round(task, state)
        if step in schedule.audits:
            state = self._audit(task, state)
        is_last = step == schedule.steps
        if is_last and hp["audit"] and _any_left(state):
            pruning = state.members["pruning"]
            pruning["certificate"] = certificate(task, state)
        return state

    def _learn(
        self,
        task: Task,
        state: State,
        x: Tensor,
        y: Tensor,
    ) -> State:
        """Update gates on a part of the batch."""
        hp = state.scalars["static"]
        examples = round(hp["share"] * task.batch_size)
        examples = max(2, examples)  # batch-norm needs two
        condemned = learn(
            task,
            state,
            x[:, :examples],
            y[:, :examples],
        )
        return self._without(task, state, condemned)

    def _audit(self, task: Task, state: State) -> State:
        """Measure what is left, if flips are what gates are learnt by."""
        hp = state.scalars["static"]
        is_exact = hp["audit"] and hp["estimator"] == "flips"
        if not is_exact or not _any_left(state):
            return state
        learns = has_learnt(task, state)
        condemned = audited(task, state, learns)
        return self._without(task, state, condemned)

    def _round(self, task: Task, state: State) -> State:
        """Every theta at 0 or 1."""
        pruning = state.members["pruning"]
        slope: dict[str, Tensor] = {}
        is_off: dict[str, Tensor] = {}
        for name, gate in pruning["theta"].items():
            slope[name] = -gate  # if a last unit must stay, the likeliest
            is_off[name] = gate < 0.5
        pruning["slope"] = slope
        state = self._without(task, state, is_off)
        pruning = state.members["pruning"]
        alive = gates_of(pruning, "alive")
        if not alive:
            return state
        pruning["theta"] = {name: there.double() for name, there in alive.items()}
        return state

    def _without(self, task: Task, state: State, condemned: Gates) -> State:
        """Members without their condemned units and blocks."""
        if not gates.remove(task, state, condemned):
            return state
        return self.compact(task, state)


def _any_left(state: State) -> bool:
    """Whether any gate is left in any member."""
    return bool(gates_of(state.members["pruning"], "alive"))
