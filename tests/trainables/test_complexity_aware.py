"""Complexity-aware training: the checks of its page, against enumeration, counted networks and
other code.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from prunefront.trainables.algorithms import (
    _complexity_prices,
    _complexity_slopes,
    _complexity_update,
    find,
)
from prunefront.trainables.algorithms.complexity_aware import ComplexityAware
from prunefront.trainables.contract import Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.structure import flips
from prunefront.trainables.structure import units as structure
from prunefront.trainables.structure.alive import units_read
from prunefront.trainables.task import Task
from prunefront.trainables.training.pruner import GradientPruner
from prunefront.trainables.tree import leaves

AWARE = ComplexityAware()
TASK = Task(
    model="residual_mlp",
    model_options={"hidden": 24, "blocks": 3},
    epochs=20,
    rungs=2,
    weight_decay=1e-4,
)
EXACT = dataclasses.replace(TASK, precision="float64")
SMALL = dataclasses.replace(
    EXACT, model_options={"units": 12, "hidden": 12, "blocks": 2}, epochs=100 / 38, rungs=2
)
"""One hundred steps in which much happens."""


def member(seed: int = 0, **hp: Any) -> Member:
    return Member(complete(AWARE.space, hp), seed)


def trained(
    task: Task, members: list[Member], rungs: int | None = None, algorithm: GradientPruner = AWARE
) -> State:
    state = algorithm.start(task, members)
    for _ in range(task.rungs if rungs is None else rungs):
        state = algorithm.advance(task, state)
    return state


def rows(
    task: Task, members: list[Member], algorithm: GradientPruner = AWARE
) -> list[dict[str, Any]]:
    return measure(task, algorithm, trained(task, members, algorithm=algorithm), last=True)


@pytest.mark.parametrize("g", [1.5, 10.0, 1e4])
@pytest.mark.parametrize("theta", [0.01, 0.3, 0.5, 0.97])
def test_the_flattening_prior_makes_the_price_linear_in_theta(g: float, theta: float):
    """min over pi of KL(Bernoulli(theta) | Bernoulli(pi)) - log p(pi | g) = theta log g + a
    constant of g.
    """

    def cost(pi: float) -> float:
        kl = theta * math.log(theta / pi) + (1 - theta) * math.log((1 - theta) / (1 - pi))
        return kl - math.log((g - 1) / math.log(g) / (1 + (g - 1) * pi))

    found = minimize_scalar(
        cost, bounds=(1e-9, 1 - 1e-9), method="bounded", options={"xatol": 1e-12}
    )
    assert found.fun == pytest.approx(
        theta * math.log(g) - math.log((g - 1) / math.log(g)), abs=1e-8
    )


class Ten:
    """A trained network with ten gates, 2 blocks of 4 units, and its loss for every setting of
    them.
    """

    def __init__(self) -> None:
        options = {"units": 8, "hidden": 4, "blocks": 2}
        self.task = dataclasses.replace(
            EXACT, model_options=options, epochs=4, rungs=1, weight_decay=1e-2
        )
        dense = find("dense")
        member = Member(complete(dense.space, {}), 0)
        state = trained(self.task, [member], algorithm=dense)  # type: ignore[arg-type]
        self.params, self.structure = state.members["params"], self.task.structure
        rows = torch.arange(200)
        self.x, self.y = (
            self.task.data.examples("train", rows),
            self.task.data.labels["train"][rows],
        )
        self.names = [
            *(layer.name for layer in self.structure.hidden),
            *(block.name for block in self.structure.blocks),
        ]
        self.sizes = [
            *(layer.units for layer in self.structure.hidden),
            *(1 for _ in self.structure.blocks),
        ]
        generator = torch.Generator().manual_seed(1)
        self.theta = torch.rand(10, dtype=torch.float64, generator=generator) * 0.8 + 0.1
        self.settings = torch.tensor(
            list(itertools.product((0.0, 1.0), repeat=10)), dtype=torch.float64
        )

    def gates(self, vector: Tensor) -> dict[str, Tensor]:
        parts = vector.split(self.sizes)
        return {
            n: p if s > 1 else p.view(())
            for n, s, p in zip(self.names, self.sizes, parts, strict=True)
        }

    def loss(self, vector: Tensor) -> Tensor:
        gates = self.gates(vector)
        params = {name: value[0] for name, value in self.params.items()}
        there = structure.gated(self.structure, params, gates, gates)
        return F.cross_entropy(
            torch.func.functional_call(self.task.template, there, (self.x,)), self.y
        )

    def probabilities(self, theta: Tensor) -> Tensor:
        return torch.where(self.settings > 0.5, theta, 1 - theta).prod(1)


@pytest.fixture(scope="module")
def ten() -> Ten:
    return Ten()


@pytest.fixture(scope="module")
def exact(ten: Ten) -> Tensor:
    """Gradient of the expected loss, by autograd through all 2^10 settings."""
    losses = torch.func.vmap(ten.loss)(ten.settings).detach()
    theta = ten.theta.clone().requires_grad_()
    (slope,) = torch.autograd.grad((ten.probabilities(theta) * losses).sum(), theta)
    on = ten.settings > 0.5
    for gate in range(10):  # which is what flips do, on average
        rest = torch.where(on, ten.theta, 1 - ten.theta)
        rest[:, gate] = 1
        change = (rest.prod(1) * torch.where(on[:, gate], losses, -losses)).sum()
        assert change == pytest.approx(float(slope[gate]), abs=1e-10)
    return slope


def test_flips_are_unbiased(ten: Ten, exact: Tensor):
    """Averaged over every setting of the other gates, by its probability, they are the gradient."""
    weights, found = ten.probabilities(ten.theta), torch.zeros(10, dtype=torch.float64)
    gates = {
        name: torch.stack([ten.gates(row)[name] for row in ten.settings]) for name in ten.names
    }
    count = len(ten.settings)
    stacks = {name: value.expand(count, *value.shape[1:]) for name, value in ten.params.items()}
    x, y = (t.expand(count, *t.shape) for t in (ten.x, ten.y))
    order = torch.arange(4).expand(count, 4)
    for place, site in enumerate(ten.structure.sites):
        networks = flips.Stack(ten.task, None, stacks, {}, gates)
        flipped = flips.flip(networks, site, order, x, y)
        units, block = flipped.units, flipped.block
        phi = ten.theta[8 + place]
        found[4 * place : 4 * place + 4] = (weights[:, None] * units * phi).sum(0)
        found[8 + place] = (weights * block).sum()
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-10)


def test_flips_are_weighted_by_the_block_around_every_layer_of_it():
    """Two hidden layers in a block: the mean over draws of the slope of either is that of all 2^9
    settings.
    """
    task = dataclasses.replace(
        EXACT, model="example_models.bottleneck", model_options={}, epochs=1, rungs=1, batch_size=64
    )
    count = 3000
    state = AWARE.start(task, [member(seed, flips=4, share=1.0) for seed in range(count)])
    found, names = task.structure, [layer.name for layer in task.structure.hidden]
    block, generator = found.blocks[0].name, torch.Generator().manual_seed(3)
    theta = {name: torch.rand(4, dtype=torch.float64, generator=generator) for name in names}
    theta[block] = torch.tensor(0.3, dtype=torch.float64)
    for tree in (state.members["params"], state.members["pruning"]["theta"]):
        for name, value in tree.items():
            tree[name] = (
                (theta[name] if name in theta else value[0]).expand(count, *value.shape[1:]).clone()
            )
    params = {name: value[0] for name, value in state.members["params"].items()}
    x, y = task.data.examples("train", torch.arange(64)), task.data.labels["train"][:64]
    settings = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64)

    def loss(setting: Tensor) -> Tensor:
        gates = dict(zip([*names, block], [setting[:4], setting[4:8], setting[8]], strict=True))
        there = structure.gated(found, params, gates, gates)
        return F.cross_entropy(torch.func.functional_call(task.template, there, (x,)), y)

    vector = torch.cat([theta[names[0]], theta[names[1]], theta[block][None]]).requires_grad_()
    losses = torch.func.vmap(loss)(settings).detach()
    (slope,) = torch.autograd.grad(
        (torch.where(settings > 0.5, vector, 1 - vector).prod(1) * losses).sum(), vector
    )
    seen: dict[str, Tensor] = {}
    for step in range(40):
        state.scalars["step"] = step
        slopes = _complexity_slopes.flips(
            task, state, x.expand(count, *x.shape), y.expand(count, *y.shape)
        )
        for name, measured in slopes.items():
            assert bool(measured.tried.all())
            seen[name] = measured.value
        if len(seen) == 3:
            break
    for name, exact in zip([*names, block], slope.split([4, 4, 1]), strict=True):
        mean, error = seen[name].mean(0), seen[name].std(0) / count**0.5
        assert ((mean - exact).abs() < 5 * error + 1e-12).all(), name
        assert (exact.abs() > 5 * error).any(), "the test can tell phi from phi squared"


def test_what_is_free_stays():
    free = dataclasses.replace(TASK, epochs=6)
    (row,) = rows(free, [member(nu=0.0, interval=1)])
    assert row["flops_shrunk"] == row["flops_dense"]


def test_straight_through_is_biased(ten: Ten, exact: Tensor):
    slopes = torch.func.vmap(torch.func.grad(ten.loss))(ten.settings)
    mean = (ten.probabilities(ten.theta)[:, None] * slopes).sum(0)
    bias = float((mean - exact).norm() / exact.norm())
    assert bias > 0.1, "the page's networks had .28 to 3.8"


def test_straight_through_reads_off_weight_decay_where_weights_are_stationary():
    """There v . dC/dv = -lambda |v|^2 for the outgoing weights v of any unit, whatever the unit is
    worth.
    """
    torch.manual_seed(0)
    x, y = torch.randn(60, 5, dtype=torch.float64), torch.randint(0, 3, (60,))
    u = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    decay = 0.01

    def loss(gates: Tensor) -> Tensor:
        return F.cross_entropy((torch.tanh(x @ u.T) * gates) @ v.T, y)

    optimizer = torch.optim.LBFGS(
        [u, v],
        max_iter=4000,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = loss(torch.ones(6, dtype=torch.float64)) + decay / 2 * (
            u.square().sum() + v.square().sum()
        )
        total.backward()
        return total

    optimizer.step(closure)
    gates = torch.ones(6, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(gates), gates)
    torch.testing.assert_close(
        slope.detach(), -decay * v.square().sum(0).detach(), rtol=1e-3, atol=1e-7
    )
    with torch.no_grad():
        worth = torch.stack(
            [loss(torch.ones(6)) - loss(1 - F.one_hot(torch.tensor(j), 6)) for j in range(6)]
        )
    assert float((slope - worth).norm() / worth.norm()) > 0.28


def test_prices_are_derivatives_of_complexity_and_say_what_alpha_and_beta_say():
    """On a residual network, blocks of all stages cost the same FLOPs and 1 : 4 : 16 times the
    parameters.
    """
    task = Task(model="resnet", model_options={"depth": 14}, rungs=1, epochs=1)
    ends = [member(nu=1.0, alpha=1.0), member(nu=1.0, alpha=0.0), member(nu=1.0, beta=1.0)]
    found, _ = _complexity_prices.prices(task, AWARE.start(task, ends))
    second, fourth, sixth = (task.structure.blocks[place].name for place in (1, 3, 5))
    flops, params, depth = (
        torch.stack([found[name][k] for name in (second, fourth, sixth)]) for k in range(3)
    )
    torch.testing.assert_close(flops, flops[0].expand(3))
    torch.testing.assert_close(
        params / params[0], torch.tensor([1.0, 4.0, 16.0], dtype=torch.float64), rtol=0.03, atol=0
    )
    torch.testing.assert_close(depth, torch.full((3,), 1 / 6, dtype=torch.float64))
    whole = AWARE.start(task, [member(nu=1.0)])
    theta = whole.members["pruning"]["theta"]
    units = {layer.name: theta[layer.name].sum(1) for layer in task.structure.hidden}
    blocks = {block.name: theta[block.name] for block in task.structure.blocks}
    half = torch.tensor([0.5], dtype=torch.float64)
    assert _complexity_prices.complexity(task, units, blocks, half, half).item() == pytest.approx(1)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_prices_are_in_units_of_the_tasks_model_whatever_width_training_starts_from(width: float):
    """A unit with the same fan-in and fan-out costs as much in a wider network: J is the ratio of
    complexities.
    """
    task = dataclasses.replace(TASK, model_options={**TASK.model_options, "width": 1.5})
    wider = AWARE.parent(task, member(width=width).hp)
    state = AWARE.start(wider, [member(width=width, nu=1.0)])
    unit = state.scalars["static"]["unit"]
    assert tuple(unit) == (task.counts.flops, task.counts.params)
    theta = state.members["pruning"]["theta"]
    units = {layer.name: theta[layer.name].sum(1) for layer in wider.structure.hidden}
    blocks = {block.name: theta[block.name] for block in wider.structure.blocks}
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    J = _complexity_prices.complexity(wider, units, blocks, one, zero, tuple(unit))
    assert J.item() == pytest.approx(wider.counts.flops / task.counts.flops)


def test_kept_units_and_blocks_pay_their_price_and_gates_end_at_0_or_1():
    """The certificate: at least 95 % of what is kept costs more loss over all training data, when
    removed, than its price.
    """
    task = dataclasses.replace(TASK, epochs=60)
    found = rows(task, [member(seed, nu=nu, audit=2000) for nu in (0.003, 0.01) for seed in (0, 1)])
    assert all(row["m_interior"] == 0 for row in found)
    assert all(row["flops_shrunk"] < 0.6 * row["flops_dense"] for row in found)
    gates = [row["m_gates"] for row in found]
    assert sum(gates) > 50
    pays = sum(row["m_gates"] * row["m_certificate"] for row in found)
    assert pays / sum(gates) >= 0.95, [(row["m_gates"], row["m_certificate"]) for row in found]


def test_straight_through_ends_at_a_worse_objective():
    """It takes units for nearly worthless, prunes what is needed, and pays more in loss than it
    saves.
    """
    chain = dataclasses.replace(TASK, model="mlp", model_options={"widths": [32]})
    nu = 0.05
    found = rows(chain, [member(seed, nu=nu, audit=0) for seed in range(3)])
    wrong = rows(
        chain, [member(seed, nu=nu, audit=0, estimator="straight-through") for seed in range(3)]
    )
    right, other = (
        [row["loss_train"] + nu * row["flops_shrunk"] / row["flops_dense"] for row in each]
        for each in (found, wrong)
    )
    assert sum(right) < sum(other)


def test_gates_move_to_the_ends_before_they_are_rounded():
    task = dataclasses.replace(TASK, epochs=60, rungs=6)
    state = AWARE.start(task, [member(seed, nu=0.01, settle=1.0, audit=0) for seed in range(4)])
    interior: list[float] = []
    for _ in range(5):
        state = AWARE.advance(task, state)
        interior.append(sum(row["m_interior"] for row in measure(task, AWARE, state, last=False)))
    assert interior[-1] < 0.2 * max(interior), interior


def test_more_is_pruned_for_a_larger_nu_and_beta_removes_blocks():
    nus = (0.001, 0.01, 0.1, 1.0)
    found = rows(TASK, [member(seed, nu=nu) for nu in nus for seed in (0, 1)])
    mean = [sum(row["flops_shrunk"] for row in found[k : k + 2]) / 2 for k in range(0, 8, 2)]
    assert mean == sorted(mean, reverse=True)
    assert mean[-1] < 0.7 * mean[0]


def test_alpha_moves_pruning_between_stages_and_beta_from_units_to_blocks():
    task = Task(
        model="resnet",
        model_options={"depth": 14, "width": 0.5},
        epochs=12,
        rungs=1,
        lr=0.1,
        weight_decay=5e-4,
    )
    ends = [
        member(nu=0.15, interval=1, alpha=1.0),
        member(nu=0.15, interval=1, alpha=0.0),
        member(nu=0.6, interval=1, beta=1.0),
    ]
    state = trained(task, ends)
    kept = AWARE.networks(task, state).kept
    blocks = task.structure.blocks
    units = torch.stack(
        [units_read(task.structure, kept)[block.layers[0]].double().mean(1) for block in blocks],
        1,
    )
    first, last = units[:, :2].mean(1), units[:, 4:].mean(1)
    assert first[1] - last[1] > first[0] - last[0], "parameters are in the last stage"
    there = torch.stack([kept[block.name] for block in blocks], 1)
    assert (~there[2]).sum() > (~there[0]).sum(), "beta = 1 has a price for blocks alone"
    assert (units[2][there[2]] == 1).all(), "and none for units, and what is free stays"


def test_what_is_removed_changes_nothing_at_once_nor_afterwards(monkeypatch: pytest.MonkeyPatch):
    """Stacks that shrink, momentum and all, against stacks of one width with gates at 0."""
    task = dataclasses.replace(EXACT, epochs=8)
    members = [member(seed, nu=nu, interval=1, audit=64) for nu in (0.003, 0.02) for seed in (0, 1)]
    narrow = trained(task, members)
    assert narrow.shape is not None
    assert narrow.shape.widths["2.inner"] < 24
    monkeypatch.setattr(ComplexityAware, "narrows", False)
    wide = trained(task, members)
    assert wide.shape is None
    one, other = (AWARE.networks(task, state) for state in (narrow, wide))
    for name, value in one.params.items():
        torch.testing.assert_close(value, other.params[name], rtol=0, atol=1e-9)
    assert all(torch.equal(mask, other.kept[name]) for name, mask in one.kept.items())


@pytest.mark.parametrize("model", ["residual_mlp", "resnet"])
def test_a_cohort_is_neutral_while_it_shrinks(model: str):
    """16 values of nu together are 16 cohorts of one after a hundred steps, to 1e-9 in float64."""
    task, nus, more = SMALL, [0.01 * 2.0**k for k in range(16)], {"audit": 64}
    if model == "resnet":
        options = {"depth": 8, "width": 0.5}
        task = dataclasses.replace(
            SMALL, model=model, model_options=options, batch_size=16, epochs=60 / 76
        )
        nus, more = [0.5, 3.0, 100.0], {"flips": 32, "audit": 0}
    members = [member(0, nu=nu, interval=1, warmup=0.05, rate=1.0, **more) for nu in nus]
    together = trained(task, members)
    among = AWARE.networks(task, together)
    assert together.shape is not None
    shares = [
        row["flops_shrunk"] / row["flops_dense"]
        for row in measure(task, AWARE, together, last=False)
    ]
    assert max(shares) - min(shares) > 0.05, shares
    for k, each in enumerate(members):
        alone = AWARE.networks(task, trained(task, [each]))
        for name, value in alone.params.items():
            torch.testing.assert_close(value[0], among.params[name][k], rtol=0, atol=1e-9)
        assert all(torch.equal(mask[0], among.kept[name][k]) for name, mask in alone.kept.items())
        assert alone.search["flops"][0] == among.search["flops"][k], (
            "what a member is charged is its own"
        )


@pytest.mark.parametrize(("rung", "blocks", "nu"), [(4, 3, 3.0), (5, 11, 0.3)])
def test_a_run_is_resumed_while_it_shrinks_and_between_audits(
    rung: int, blocks: int, nu: float, tmp_path: Path
):
    task = dataclasses.replace(
        SMALL, rungs=6, model_options={"units": 12, "hidden": 8, "blocks": blocks}
    )
    members = [member(seed, nu=nu, interval=1, rate=1.0) for seed in (0, 1)]
    part = trained(task, members, rungs=rung)
    assert part.shape is not None
    part.save(tmp_path / "state.safetensors")
    resumed = State.load(tmp_path / "state.safetensors", task.torch_device)
    for _ in range(task.rungs - rung):
        resumed = AWARE.advance(task, resumed)
    whole = trained(task, members)
    one, other = (leaves({**state.members, "seconds": {}}) for state in (resumed, whole))
    assert one.keys() == other.keys()
    assert all(
        torch.equal(one[name].nan_to_num(), value.nan_to_num()) for name, value in other.items()
    )


def test_a_price_that_nothing_is_worth_leaves_the_last_unit_of_a_needed_layer_and_says_so():
    chain = dataclasses.replace(TASK, model="mlp", model_options={"widths": [16, 12]})
    (row,) = rows(chain, [member(nu=1e4)])
    assert row["m_held"] > 0
    assert row["flops_shrunk"] == 2 * (64 + 1 + 10)
    (row,) = rows(TASK, [member(nu=1e4)])
    assert row["flops_shrunk"] == 2 * (64 * 32 + 32 * 10), "all blocks are gone"


def test_a_member_that_is_not_a_number_does_not_touch_the_others():
    wild = Member({**member(0, nu=0.1, interval=1).hp, "lr": 1e300}, 0)
    calm = [member(seed, nu=0.1, interval=1) for seed in (1, 2)]
    among = trained(SMALL, [wild, *calm]).select([1, 2])
    alone = trained(SMALL, calm)
    one, other = (AWARE.networks(SMALL, state) for state in (among, alone))
    for name, value in one.params.items():
        torch.testing.assert_close(value, other.params[name], rtol=0, atol=1e-9)


CHAIN = dataclasses.replace(
    EXACT, model="mlp", model_options={"widths": [32, 16]}, epochs=3, rungs=1
)


def test_audits_take_no_more_than_their_share_of_training_and_say_what_they_left_out():
    """Nothing is flipped after gates settle: what audits add to the charge is theirs alone, two
    parts of three.
    """
    (none,) = rows(CHAIN, [member(audit=0)])
    training = none["train_flops"] - none["search_flops"]
    shares = []
    for share in (0.1, 0.5, 1e6):
        (row,) = rows(CHAIN, [member(audit_share=share)])
        cost = (row["search_flops"] - none["search_flops"]) / training
        assert cost <= 2 / 3 * share
        assert cost > 2 / 3 * min(share, 0.5) / 3, "and they use it"
        shares.append(row["m_audited"])
        assert math.isfinite(row["m_certificate"])
    assert shares[0] < shares[1] < shares[2] == 1
    (nothing,) = rows(CHAIN, [member(audit_share=0.0)])
    assert (nothing["search_flops"], nothing["m_audited"]) == (none["search_flops"], 0)
    assert math.isnan(nothing["m_certificate"])


def test_audits_within_their_share_are_whole():
    """As if there were no bound, to the last bit; and a bound is known by each member alone."""
    task = dataclasses.replace(CHAIN, epochs=4)
    (bounded,) = rows(task, [member(nu=0.3, audit=64)])
    (free,) = rows(task, [member(nu=0.3, audit=64, audit_share=1e6)])
    assert bounded["m_audited"] == free["m_audited"] == 1
    differ = {name for name in bounded if bounded[name] != free[name]}
    assert differ <= {"seconds"}
    members = [member(seed, nu=nu, audit_share=0.3) for nu in (0.003, 0.3, 2.0) for seed in (0, 1)]
    together = trained(CHAIN, members)
    among = AWARE.networks(CHAIN, together)
    assert len(set(among.metrics["audited"].tolist())) > 2
    for k, each in enumerate(members):
        alone = AWARE.networks(CHAIN, trained(CHAIN, [each]))
        for name, value in alone.params.items():
            torch.testing.assert_close(value[0], among.params[name][k], rtol=0, atol=1e-9)
        for name in ("audited", "certificate", "gates"):
            assert alone.metrics[name][0] == among.metrics[name][k], name
        assert alone.search["flops"][0] == among.search["flops"][k]


def test_what_a_sample_wants_is_worth_what_it_is_worth_in_all():
    """Of some batches for one member and all for another; a member that wants nothing of a layer
    does not matter to it.
    """
    state = trained(CHAIN, [member(seed, audit=0) for seed in (0, 1)])
    gates = state.members["pruning"]["alive"]
    networks = flips.Stack(CHAIN, state.shape, state.members["params"], {}, gates)
    examples = torch.arange(96)
    ones = {name: torch.ones_like(gate) for name, gate in gates.items()}

    def worth(count: int) -> dict[str, Tensor]:
        sample = flips.Sample(examples[: 32 * count], torch.tensor([count] * 2), ones)
        return flips.worths(networks, sample)

    one, three = worth(1), worth(3)
    first, second = gates
    wanted = {name: torch.zeros_like(gate) for name, gate in gates.items()}
    wanted[first][0, [1, 3, 4]] = wanted[first][1, [0, 5]] = wanted[second][1, 2] = True
    found = flips.worths(networks, flips.Sample(examples, torch.tensor([1, 3]), wanted))
    for name in gates:
        for k, whole in enumerate((one, three)):
            mask = wanted[name][k]
            torch.testing.assert_close(
                found[name][k][mask], whole[name][k][mask], rtol=0, atol=1e-12
            )
    assert not torch.allclose(one[first], three[first])


def test_a_network_that_has_learnt_nothing_is_not_pruned_to_nothing():
    """All that is left of it would be the last units, and it never gets the chance to learn."""
    stuck = dataclasses.replace(CHAIN, lr=1e-9)
    (row,) = rows(stuck, [member(nu=0.5)])
    assert row["m_waited"] > 0
    assert row["flops_shrunk"] == row["flops_dense"]
    (learnt,) = rows(dataclasses.replace(CHAIN, epochs=10), [member(nu=0.5)])
    assert learnt["m_waited"] == 0
    assert learnt["flops_shrunk"] < 0.8 * learnt["flops_dense"]
    assert learnt["accuracy_test"] > 0.8
    (worth,) = rows(stuck, [member(nu=3.0)])
    assert worth["m_waited"] == 0, "not even all classes known is worth the price"
    assert worth["flops_shrunk"] < 0.1 * worth["flops_dense"]
    (other,) = rows(stuck, [member(nu=0.5, estimator="straight-through", audit=0)])
    assert other["flops_shrunk"] == other["flops_dense"]


def test_what_answers_without_an_input_knows_the_entropy_of_the_classes():
    labels = torch.tensor([0] * 6 + [1] * 3 + [3])
    expected = -sum(share * math.log(share) for share in (0.6, 0.3, 0.1))
    assert _complexity_update.entropy(labels, 5).item() == pytest.approx(expected, abs=1e-12)


def test_the_subset_estimator_prunes_too():
    (row,) = rows(TASK, [member(nu=0.1, estimator="subset")])
    assert row["flops_shrunk"] < 0.8 * row["flops_dense"]
    assert row["accuracy_test"] > 0.9


def test_resnet_20_shrinks_on_real_images(shared_data: Path, tmp_path: Path):
    images = pq.read_table(shared_data / "cifar10-test.parquet")
    for split, rows_ in (("train", images.slice(0, 480)), ("test", images.slice(480, 100))):
        pq.write_table(rows_, tmp_path / f"{split}.parquet")
    options = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    task = Task(
        dataset="parquet", dataset_options=options, model="resnet20", batch_size=8, lr=0.02, rungs=2
    )
    task = dataclasses.replace(task, epochs=60 / task.steps_per_epoch)
    state = trained(task, [member(nu=100.0, interval=1, flips=4, warmup=0.02, rate=1.0, audit=0)])
    assert state.shape is not None
    assert state.shape.gone, "blocks have left the stack"
    (row,) = measure(task, AWARE, state, last=True)
    assert row["flops_dense"] == 2 * 40_551_040
    assert row["flops_shrunk"] < 0.8 * row["flops_dense"]
    assert row["search_flops"] > 0
    assert math.isfinite(row["loss_train"])


@pytest.mark.parametrize(
    ("model", "hp", "sentence"),
    [
        ("mlp", {"beta": 0.5}, "`beta` above 0 is for models with residual blocks"),
        (
            "mlp",
            {"warmup": 0.9},
            "`warmup` lies below `settle`: gates are learnt between them; got 0.9 and 0.7",
        ),
        (
            "mlp",
            {"warmup": 0.69999},
            "`interval` is such that gates are learnt between `warmup` and `settle`",
        ),
        ("mlp", {"interval": 10_000}, "got 10000"),
        ("example_models.dropping", {}, "dropout is a module"),
    ],
)
def test_bad_input_is_one_sentence(model: str, hp: dict[str, Any], sentence: str):
    task = dataclasses.replace(TASK, model=model, model_options={})
    with pytest.raises(ValueError, match=sentence):
        AWARE.check(task, member(**hp).hp)


def test_a_model_without_units_and_blocks_is_skipped_with_the_reason():
    task = dataclasses.replace(TASK, model="example_models.odd", model_options={})
    reason = AWARE.skip(task)
    assert reason is not None
    assert "model example_models.odd has none" in reason
