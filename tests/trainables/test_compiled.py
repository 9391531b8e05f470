"""Compiled steps against steps as they are written: the graph that is written down is run as it is,
and a few are compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_contract import FEW, NORMED, ODD, TASK, WRAPPED, several, taken, view
from torch.fx import GraphModule

from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import Domain, complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task
from prunefront.trainables.training import compact, compiled, lanes
from prunefront.trainables.training.hooks import Context
from prunefront.trainables.training.pruner import GradientPruner, Params, Pruning, space
from prunefront.trainables.tree import leaves

REAL = compiled.with_inductor


@pytest.fixture(autouse=True)
def same_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled stacks narrow in coarser steps: here as others do, so that states compare."""
    monkeypatch.setattr(compact, "COMPILED_SHARE", compact.SHARE)


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[GraphModule]]:
    """The graphs that were made, which are run as they are."""
    made: list[GraphModule] = []

    def kept(graph: GraphModule) -> GraphModule:
        made.append(graph)
        return graph

    monkeypatch.setattr(compiled, "with_inductor", kept)
    compiled.forget()
    yield made
    compiled.forget()


def train(algorithm: Algorithm, task: Task, members: list[Member], rungs: int = 0) -> State:
    state = algorithm.start(task, members)
    for _ in range(rungs or task.rungs):
        state = algorithm.advance(task, state)
    return state


def different(
    algorithm: Algorithm,
    task: Task,
    one: State,
    other: State,
    tolerance: float,
    company: bool = False,
) -> list[str]:
    """What of members and their networks differs by more than a tolerance, relative to the largest
    entry. company: they were trained with others, and stacks that shrink have other widths.
    """
    left, right = (view(algorithm, task, state) for state in (one, other))
    if not (company and getattr(algorithm, "narrows", False)):
        left |= leaves(one.members)
        right |= leaves(other.members)
    assert left.keys() == right.keys()
    found: list[str] = []
    for path, value in left.items():
        if path == "seconds":
            continue
        got = right[path].double()
        scale = max(1.0, float(value.double().abs().nan_to_num(posinf=0).max()))
        alike = value.shape == got.shape and torch.allclose(
            value.double(), got, rtol=0, atol=tolerance * scale, equal_nan=True
        )
        if not alike:
            found.append(path)
    return found


def expect_equal(
    algorithm: Algorithm,
    task: Task,
    members: list[Member],
    together: int = 0,
    tolerance: float = 1e-9,
) -> State:
    """The compiled training, which ends where the other one does."""
    plain = train(algorithm, task.run_as(0, False), members)
    state = train(algorithm, task.run_as(together, True), members)
    assert compiled.refusal() == state.scalars.get("uncompiled", "") == ""
    assert different(algorithm, task, plain, state, tolerance) == []
    return state


def with_hp(algorithm: Algorithm, members: list[Member], hp: dict[str, Any]) -> list[Member]:
    return [Member(complete(algorithm.space, {**m.hp, **hp}), m.seed) for m in members]


PRUNERS: list[tuple[str, dict[str, Any]]] = [
    ("dense", {}),
    ("chance", {}),
    ("magnitude", {}),
    ("magnitude", {"schedule": "gradual"}),
    ("dns", {}),
    ("dns", {"growth": "first half"}),
    ("dns", {"sigma": "linear"}),
    ("dns", {"sigma": "cosine"}),
    ("dns", {"sigma": "step"}),
    ("dns", {"scope": "global"}),
    ("l1_filters", {}),
    ("group_lasso", {}),
    ("complexity_aware", {}),
    ("complexity_aware", {"estimator": "straight-through"}),
    ("scratch", {}),
    ("weedout", FEW),
    ("weedout", {**FEW, "again": 0.4}),
    ("cronos_am", {"head": "trained"}),
    ("cronos_am", {"head": "frozen"}),
    ("cronos_am", {"head": "trained", "features": "dns"}),
]


@pytest.mark.parametrize(("name", "hp"), PRUNERS, ids=str)
def test_of_an_mlp(name: str, hp: dict[str, Any], graphs: list[GraphModule]):
    algorithm = find(name)
    (task,) = taken(algorithm, TASK)
    members = with_hp(algorithm, several(algorithm, (0, 1), task), hp)
    expect_equal(algorithm, algorithm.parent(task, members[0].hp), members)
    assert 1 <= len(graphs) <= 5
    before = len(graphs)
    train(algorithm, algorithm.parent(task, members[0].hp).run_as(0, True), members)
    assert len(graphs) == before, "a second training makes none"


@pytest.mark.parametrize("name", ["dense", "dns", "group_lasso", "complexity_aware"])
@pytest.mark.parametrize("task", [NORMED, ODD, WRAPPED], ids=["conv", "residual", "wrapped"])
def test_of_convolutions_and_residual_networks(name: str, task: Task, graphs: list[GraphModule]):
    """The first with batch-norm and dropout."""
    algorithm = find(name)
    task = dataclasses.replace(task, epochs=0.5)
    expect_equal(algorithm, task, several(algorithm, (0, 1), task))
    assert 1 <= len(graphs) <= 5


IMAGES = dataclasses.replace(NORMED, epochs=0.5)


@pytest.mark.parametrize(
    "task",
    [
        dataclasses.replace(TASK, optimizer="adam"),
        dataclasses.replace(TASK, optimizer="dadapt_adam", lr=1.0),
        dataclasses.replace(TASK, optimizer="dadapt_adamw", lr=1.0, weight_decay=1e-3),
        dataclasses.replace(TASK, warmup=0.3, schedule="linear"),
        dataclasses.replace(TASK, schedule="inverse", weight_decay=1e-3),
        dataclasses.replace(TASK, momentum=0.0),
        dataclasses.replace(TASK, stream="always"),
        dataclasses.replace(IMAGES, augment=["crop", "flip"]),
        dataclasses.replace(IMAGES, augment=["flip"], stream="always"),
    ],
    ids=lambda task: f"{task.optimizer} {task.schedule} {task.stream} {list(task.augment)}",
)
def test_of_optimisers_schedules_and_data(task: Task):
    dns = find("dns")
    expect_equal(dns, task, several(dns, (0, 1), task))


@pytest.mark.parametrize("name", ["dense", "dns"])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_in_other_precisions(name: str, precision: Any):
    """In few steps: roundings grow."""
    algorithm = find(name)
    task = Task(model_options={"widths": [16]}, epochs=0.2, rungs=2, precision=precision)
    expect_equal(algorithm, task, several(algorithm, (0, 1), task), tolerance=1e-6)


@pytest.mark.parametrize("name", ["dense", "dns", "complexity_aware", "weedout"])
def test_of_a_lone_member(name: str):
    algorithm = find(name)
    hp = FEW if name == "weedout" else {}
    (member, *_) = with_hp(algorithm, several(algorithm), hp)
    expect_equal(algorithm, TASK, [member])


@pytest.mark.parametrize("name", ["dense", "dns"])
def test_members_more_or_fewer_than_a_program_has(name: str, graphs: list[GraphModule]):
    """Five members are a program of eight, or of five; two programs of four; one after the other."""
    algorithm = find(name)
    members = with_hp(algorithm, several(algorithm, (0, 1, 2, 3, 4))[:5], {})
    padded = expect_equal(algorithm, TASK, members)
    for together in (4, 1):
        state = expect_equal(algorithm, TASK, members, together)
        assert different(algorithm, TASK, padded, state, 1e-12) == []
    exact = train(algorithm, TASK.run_as(5, True), members)
    assert different(algorithm, TASK, padded, exact, 0.0) == []


@pytest.mark.parametrize("name", ["dns", "complexity_aware", "group_lasso"])
def test_members_may_leave(name: str, graphs: list[GraphModule]):
    """And a program is as good for those that are left, up to a multiple."""
    algorithm = find(name)
    task = dataclasses.replace(TASK, rungs=3)
    members = several(algorithm, (0, 1, 2))
    states: list[State] = []
    for compiles in (False, True):
        own = task.run_as(0, compiles)
        state = train(algorithm, own, members, rungs=1)
        state = algorithm.advance(own, state.select([2, 1]))
        states.append(algorithm.advance(own, state.select([1])))
    assert different(algorithm, task, states[0], states[1], 1e-9) == []


@pytest.mark.parametrize(("name", "hp"), [PRUNERS[place] for place in (0, 3, 5, 11, 12)], ids=str)
def test_resume_is_exact(name: str, hp: dict[str, Any], tmp_path: Path):
    """Whatever the process has made before: graphs are found again, wherever the training is."""
    algorithm = find(name)
    task = dataclasses.replace(TASK, rungs=4).run_as(0, True)
    members = with_hp(algorithm, several(algorithm, (0, 1)), hp)
    whole = train(algorithm, task, members)
    state = algorithm.start(task, members)
    for rung in range(task.rungs):
        state.save(tmp_path / f"{rung}.safetensors")
        compiled.forget()
        loaded = State.load(tmp_path / f"{rung}.safetensors", torch.device("cpu"))
        state = algorithm.advance(task, loaded)
    assert different(algorithm, task, whole, state, 0.0) == []


@pytest.mark.parametrize("name", ["dense", "dns", "magnitude", "complexity_aware"])
def test_a_member_that_is_not_a_number_leaves_the_others_alone(name: str):
    algorithm = find(name)
    calm = several(algorithm, (0, 1))
    wild = [Member({**calm[0].hp, "lr": 1e300}, calm[0].seed), *calm[1:]]
    task = TASK.run_as(0, True)
    one, other = (train(algorithm, task, members) for members in (calm, wild))
    lost = measure(task, algorithm, other, last=False)[0]["loss_train"]
    assert not torch.isfinite(torch.tensor(lost))
    rest = list(range(1, len(calm)))
    tolerance = 1e-9 if algorithm.narrows else 0.0  # type: ignore[attr-defined]
    left, right = (state.select(rest) for state in (one, other))
    assert different(algorithm, task, left, right, tolerance, company=True) == []


def test_a_model_that_vmap_refuses_is_not_compiled_and_says_so():
    dense = find("dense")
    task = dataclasses.replace(TASK, model="example_models.refused", model_options={}, epochs=0.1)
    state = train(dense, task.run_as(0, True), several(dense, (0, 1), task))
    plain = train(dense, task.run_as(0, False), several(dense, (0, 1), task))
    assert state.scalars["uncompiled"] == "vmap refuses model example_models.refused"
    assert different(dense, task, plain, state, 0.0) == []


# ---- what cannot be compiled


class Own(GradientPruner):
    """A pruner of a user's own, which uses the step in its loss."""

    source = "test"
    space = space(scale=Domain("real", 1e-3, "of the penalty", low=0))

    def weight(self, ctx: Context) -> Any:
        return ctx.step

    def penalty(self, params: Params, pruning: Pruning, ctx: Context) -> torch.Tensor:
        total = sum(parameter.abs().sum() for parameter in params.values())
        return total * ctx.hp["scale"] * self.weight(ctx)


class Filled(Own):
    def weight(self, ctx: Context) -> Any:
        return torch.full((int(ctx.step) + 1,), 1.0).sum()


class Named(Own):
    def weight(self, ctx: Context) -> Any:
        return ctx.uniform(f"at {ctx.step}").to(torch.float64)


class InASet(Own):
    def weight(self, ctx: Context) -> Any:
        return 1.0 if ctx.step in {3, 4} else 0.0


class Typed(Own):
    def weight(self, ctx: Context) -> Any:
        return torch.tensor(ctx.step)


class Mixed(Own):
    def weight(self, ctx: Context) -> Any:
        from prunefront.trainables.training.timed import timed

        return timed(lambda step: 0 if step > 3 else 0.5, ctx.step)


class Many(Own):
    def weight(self, ctx: Context) -> Any:
        return [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0][ctx.step % 11]


class Decided(Own):
    """As a lone member it can look at values."""

    def penalty(self, params: Params, pruning: Pruning, ctx: Context) -> torch.Tensor:
        scale = 1e-3 if params["1.weight"].sum().item() > 0 else 0.0
        return params["1.weight"].abs().sum() * scale


class Sized(Own):
    def penalty(self, params: Params, pruning: Pruning, ctx: Context) -> torch.Tensor:
        weight = params["1.weight"]
        return weight[weight > 0].sum() * 1e-3


REFUSED: list[tuple[type[Own], str, int]] = [
    (Filled, "ValueError: its steps are of more than 64 kinds: Python looks at int(step)", 3),
    (Named, "ValueError: its steps are of more than 64 kinds: Python looks at step", 3),
    (InASet, "ValueError: its steps are of more than 64 kinds: Python looks at step", 3),
    (Typed, "RuntimeError: Could not infer dtype of Timed", 3),
    (Mixed, "is a whole number at some steps alone", 3),
    (Decided, "", 1),
]


@pytest.mark.parametrize(("kind", "reason", "count"), REFUSED, ids=str)
def test_what_cannot_be_compiled_runs_as_it_is_written(
    kind: type[Own], reason: str, count: int, graphs: list[GraphModule]
):
    algorithm = kind()
    members = [Member(complete(kind.space, {}), seed) for seed in range(count)]
    plain = train(algorithm, TASK.run_as(0, False), members)
    state = train(algorithm, TASK.run_as(0, True), members)
    assert reason in state.scalars["uncompiled"]
    assert "\n" not in state.scalars["uncompiled"]
    assert different(algorithm, TASK, plain, state, 0.0) == []
    assert not any(program.graphs[0].call for program in compiled._PROGRAMS.values())


def test_of_too_many_kinds_the_most_frequent_are_compiled(graphs: list[GraphModule]):
    members = [Member(complete(Many.space, {}), seed) for seed in range(3)]
    plain = train(Many(), TASK.run_as(0, False), members)
    state = train(Many(), TASK.run_as(0, True), members)
    assert len(graphs) == compiled.MOST_GRAPHS
    assert "more than 8 kinds" in state.scalars["uncompiled"]
    assert different(Many(), TASK, plain, state, 1e-9) == []


def test_own_pruners_that_keep_to_numbers_are_compiled(graphs: list[GraphModule]):
    members = [Member(complete(Own.space, {}), seed) for seed in range(3)]
    expect_equal(Own(), TASK, members)
    assert len(graphs) == 1


def test_a_lone_member_may_have_sizes_that_depend_on_values():
    """Whether they are compiled or not."""
    members = [Member(complete(Sized.space, {}), 0)]
    plain, state = (train(Sized(), TASK.run_as(0, compiles), members) for compiles in (False, True))
    assert different(Sized(), TASK, plain, state, 1e-9) == []


def test_a_compiler_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch):
    def fails(graph: GraphModule) -> Any:
        raise RuntimeError("no room\non this disk")

    monkeypatch.setattr(compiled, "with_inductor", fails)
    dns = find("dns")
    members = several(dns, (0, 1))
    plain = train(dns, TASK.run_as(0, False), members)
    state = train(dns, TASK.run_as(0, True), members)
    assert state.scalars["uncompiled"] == "RuntimeError: no room"
    assert different(dns, TASK, plain, state, 0.0) == []


def test_what_one_graph_is_refused_for_is_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Group lasso's steps with a penalty are not compiled here, and those after it are; so they are
    where it is carried on behind its penalty.
    """
    made: list[GraphModule] = []

    def first_fails(graph: GraphModule) -> Any:
        if len(graph.graph.nodes) > smallest:
            raise RuntimeError("too large")
        made.append(graph)
        return graph

    sizes: list[int] = []

    def sized(graph: GraphModule) -> Any:
        sizes.append(len(graph.graph.nodes))
        return graph

    lasso = find("group_lasso")
    members = several(lasso, (0, 1))
    task = dataclasses.replace(TASK, rungs=4).run_as(0, True)
    monkeypatch.setattr(compiled, "with_inductor", sized)
    train(lasso, task, members)
    smallest = min(sizes)
    assert len(set(sizes)) > 1
    compiled.forget()
    monkeypatch.setattr(compiled, "with_inductor", first_fails)
    whole = train(lasso, task, members)
    assert whole.scalars["uncompiled"] == "RuntimeError: too large"
    assert made
    before = train(lasso, task, members, rungs=3)
    compiled.forget()
    carried_on = lasso.advance(task, before)
    assert different(lasso, task, whole, carried_on, 0.0) == []


def test_memory_that_runs_out_is_no_refusal(monkeypatch: pytest.MonkeyPatch):
    def fails(graph: GraphModule) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compiled, "with_inductor", fails)
    dense = find("dense")
    with pytest.raises(torch.OutOfMemoryError):
        train(dense, TASK.run_as(0, True), several(dense, (0, 1)))


def test_a_step_that_is_rare_is_taken_as_it_is_written(graphs: list[GraphModule]):
    """Of dns the last one of surgery."""
    dns = find("dns")
    train(dns, TASK.run_as(0, True), several(dns, (0, 1)))
    *_, program = compiled._PROGRAMS.values()
    assert sorted(graph.compiles for graph in program.graphs) == [False, True, True]
    assert len(graphs) == 1 + 2, "with one of the dense phase"


def test_a_class_that_is_made_again_is_another_one():
    """As in a notebook."""

    def made(scale: float) -> GradientPruner:
        class Own(GradientPruner):
            source = "test"

            def penalty(
                self, params: Params, pruning: Pruning, ctx: Context
            ) -> torch.Tensor | None:
                return params["1.weight"].square().sum() * scale

        return Own()

    members = [Member(complete(GradientPruner.space, {}), seed) for seed in range(2)]
    for scale in (0.0, 0.1):
        expect_equal(made(scale), TASK, members)


def test_few_programs_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "MOST_PROGRAMS", 2)
    dense = find("dense")
    short = dataclasses.replace(TASK, epochs=0.1, rungs=1)
    for count in range(1, 5):
        members = [Member(complete(dense.space, {}), seed) for seed in range(count)]
        train(dense, short.run_as(count, True), members)
        assert len(compiled._PROGRAMS) == min(count, 2)
    compiled.forget()
    assert not compiled._PROGRAMS


def test_steps_in_a_program_without_graphs_are_the_steps_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
):
    """Bit for bit: a program may turn out to be vain in the middle of a rung."""
    monkeypatch.setattr(compiled, "OFTEN", 2.0)
    monkeypatch.setattr(compiled.Program, "is_vain", False)
    calls: list[int] = []
    steps = lanes.steps
    monkeypatch.setattr(lanes, "steps", lambda *given: calls.append(1) or steps(*given))
    for name in ("dense", "dns", "complexity_aware"):
        algorithm = find(name)
        members = several(algorithm, (0, 1))
        plain = train(algorithm, TASK.run_as(0, False), members)
        before = len(calls)
        state = train(algorithm, TASK.run_as(0, True), members)
        assert len(calls) == before
        assert different(algorithm, TASK, plain, state, 0.0) == []


# ---- compiled indeed


@pytest.mark.parametrize("name", ["dense", "dns"])
def test_compiled_by_inductor(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "with_inductor", REAL)
    algorithm = find(name)
    task = dataclasses.replace(TASK, model_options={"widths": [32]}, epochs=1)
    expect_equal(algorithm, task, several(algorithm, (0, 1), task)[:2])


@pytest.mark.long
def test_of_lenet5_compiled_by_inductor(monkeypatch: pytest.MonkeyPatch):
    """Of images without constant pixels. Where all pixels below a pooling window are the same, its
    entries tie; which of them has the gradient is the compiler's to choose, and makes no difference
    to weights that are kept. Removed ones of the first convolution get another gradient, and what
    is spliced back later begins elsewhere.
    """
    monkeypatch.setattr(compiled, "with_inductor", REAL)
    dns = find("dns")
    task = Task(
        dataset="example_models.pixels",
        noise=1e-3,
        model="lenet5",
        epochs=5,
        batch_size=16,
        rungs=1,
        lr=0.01,
        precision="float64",
    )
    expect_equal(dns, task, several(dns, (0,), task)[:2])


def test_a_compiled_stack_narrows_in_coarser_steps(monkeypatch: pytest.MonkeyPatch):
    """Since its steps are compiled for each shape anew; networks are the same."""
    monkeypatch.setattr(compact, "COMPILED_SHARE", 0.6)
    lasso = find("group_lasso")
    hp = {"penalty": 0.3, "stop": 0.5}
    members = with_hp(lasso, several(lasso, (0, 1)), hp)
    plain = train(lasso, TASK.run_as(0, False), members)
    state = train(lasso, TASK.run_as(0, True), members)
    assert different(lasso, TASK, plain, state, 1e-9, company=True) == []
    assert plain.shape is not None
    units = plain.shape.widths["1"]
    narrows = units < 0.6 * TASK.structure.hidden[0].units
    assert (state.shape is not None) == narrows
