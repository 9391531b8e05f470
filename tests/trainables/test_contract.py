"""The contract suite, run over every algorithm that is found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import Masked, find, known
from prunefront.trainables.algorithms.cronos import Cronos
from prunefront.trainables.contract import Algorithm, Member, Networks, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task, identity
from prunefront.trainables.training.hooks import misdeclared
from prunefront.trainables.training.pruner import Context, GradientPruner, Params, Pruning
from prunefront.trainables.tree import leaves

TASK = Task(model_options={"widths": [16]}, epochs=2, rungs=2, dtype="float64")
NORMED = dataclasses.replace(TASK, model="example_models.normed", model_options={})
ODD = dataclasses.replace(TASK, model="example_models.odd", model_options={})
REFUSED = dataclasses.replace(TASK, model="example_models.refused", model_options={}, epochs=0.5)
WRAPPED = dataclasses.replace(TASK, model_options={"widths": [16, 12, 12], "wrap": True})

HEADED = dataclasses.replace(TASK, model_options={"widths": [12, 40]})
"""In place of TASK for an algorithm that refuses it: a model with two hidden layers, of which the
last is wide.
"""


def taken(algorithm: Algorithm, *tasks: Task) -> list[Task]:
    """Those of `tasks` that the algorithm does not refuse, as its `parent` makes them; skips the
    test if there are none.

    Every algorithm takes TASK, or HEADED in its place. One that makes a model of its own takes none
    of the others.
    """
    found: list[Task] = []
    for task in tasks:
        for each in (task, HEADED) if task is TASK else (task,):
            if algorithm.skip(each) is not None:
                continue
            (member, *_) = several(algorithm, task=each)
            parent = algorithm.parent(each, member.hp)
            if parent.model != each.model and each is not TASK:
                break
            try:
                algorithm.check(parent, member.hp)
            except ValueError:
                continue
            found.append(parent)
            break
    assert found or TASK not in tasks
    if not found:
        pytest.skip(f"refuses {', '.join(task.model for task in tasks)}")
    return found


def several(
    algorithm: Algorithm,
    seeds: tuple[int, ...] = (0, 1, 2),
    task: Task = TASK,
    hp: dict[str, object] | None = None,
) -> list[Member]:
    """Members that differ in seed and, if the algorithm has them, in sparsity or beta; with
    defaults that can run on `task`.
    """
    tried = {"sparsity": (0.5, 0.9), "beta": (0.001, 0.01)}
    settings: list[dict[str, object]] = [
        {name: value}
        for name, values in tried.items()
        if name in algorithm.space
        and algorithm.space[name].default  # 0 may be all that a model takes
        for value in values
    ] or [{}]
    if not task.structure.hidden and "granularity" in algorithm.space:
        settings = [{**hp, "granularity": "weight"} for hp in settings]
    return [
        Member(complete(algorithm.space, {**setting, **(hp or {})}), seed)
        for setting in settings
        for seed in seeds
    ]


FEW: dict[str, object] = {"candidates": 6, "examples": 64}
OTHERWISE: list[tuple[str, dict[str, object]]] = [
    ("weedout", {"again": 0.4, **FEW}),
    ("weedout", {"again": 0.4, **FEW, "candidates": 1}),
    ("weedout", {"again": 0.3, **FEW, "granularity": "weight", "allocation": "global"}),
    ("weedout", {"again": 0.7, **FEW, "strategy": "genetic", "candidates": 20}),
]
"""Code paths that no choice alone leads to."""


def variants() -> list[tuple[str, dict[str, object]]]:
    """Every algorithm with its defaults, with each other value of each of its choices, and
    otherwise.
    """
    found: list[tuple[str, dict[str, object]]] = []
    for name, algorithm in known().items():
        found.append((name, {}))
        for key, domain in algorithm.space.items():
            found.extend(
                (name, {key: choice}) for choice in domain.choices if choice != domain.default
            )
    return found + OTHERWISE


def paths() -> list[tuple[str, dict[str, object]]]:
    """Every algorithm with its defaults, and otherwise."""
    return [(name, {}) for name in known()] + OTHERWISE


def train(
    algorithm: Algorithm, task: Task, members: list[Member], rungs: int | None = None
) -> State:
    state = algorithm.start(task, members)
    for _ in range(task.rungs if rungs is None else rungs):
        state = algorithm.advance(task, state)
    return state


def same(algorithm: Algorithm, task: Task, one: State, other: State, company: bool = False) -> bool:
    """Whether two states hold the same members, bit for bit: all that is theirs, and the networks
    that they have.

    company: the members were trained with others. A stack that shrinks is then cut to other widths,
    in which sums round differently, and so do those of convex programs, all in one matrix product:
    networks agree to 1e-9.
    """
    shrinks = isinstance(algorithm, GradientPruner) and algorithm.narrows
    if company and (shrinks or isinstance(algorithm, Cronos)):
        left, right = (view(algorithm, task, state) for state in (one, other))
        assert left.keys() == right.keys()
        return all(
            torch.allclose(
                left[name].double(), right[name].double(), rtol=0, atol=1e-9, equal_nan=True
            )
            for name in left
        )
    left, right = (leaves(state.members) | view(algorithm, task, state) for state in (one, other))
    assert left.keys() == right.keys()
    return all(
        bool(((a == (b := right[name])) | ((a != a) & (b != b))).all())
        for name, a in left.items()
        if name not in MINE
    )


MINE = ("of", "seconds")
"""Where a member's network is in the state, and what a clock says."""


def view(algorithm: Algorithm, task: Task, state: State) -> dict[str, torch.Tensor]:
    """Each member's network, metrics and kept masks, name -> (K, ...)."""
    found = algorithm.networks(task, state)
    trees = {"params": found.params, "buffers": found.buffers, "kept": found.kept}
    return {name: tensor[found.of] for name, tensor in leaves(trees).items()} | dict(found.metrics)


def epochs_of(algorithm: Algorithm, hp: dict[str, object]) -> float:
    """What a member with these hyper-parameters trains for: TASK's epochs, but the paper's five
    iterations of CRONOS, and none of its random features.
    """
    if isinstance(algorithm, Cronos):
        if hp.get("mode") == "paper":
            return 5
        if hp.get("units_from") == "random_features":
            return 0
    return TASK.epochs


def at(networks: Networks, k: int) -> dict[str, torch.Tensor]:
    return {name: p[networks.of[k]] for name, p in networks.params.items()}


@pytest.mark.parametrize(("name", "hp"), variants(), ids=str)
def test_networks_have_exactly_what_is_kept(name: str, hp: dict[str, object]):
    algorithm = known()[name]
    (task,) = taken(algorithm, TASK)
    members = [
        Member(complete(algorithm.space, {**member.hp, **hp}), member.seed)
        for member in several(algorithm)
    ]
    task = algorithm.parent(task, members[0].hp)
    state = train(algorithm, task, members)
    networks = algorithm.networks(task, state)
    assert state.size == len(members) == len(networks.of)
    assert set(networks.kept) == set(task.structure.parameters)
    for parameter, mask in networks.kept.items():
        values = networks.params[parameter]
        assert mask.dtype == torch.bool
        assert mask.shape == values.shape
        assert not values[~mask].any(), "what is removed computes nothing"
        assert torch.isfinite(values).all()
    rows = measure(task, algorithm, state, last=True)
    for row in rows:
        assert row["epochs"] == epochs_of(algorithm, hp), "one budget for every arm"
        assert 0 <= row["flops_shrunk"] <= row["flops_dense"] == task.counts.flops
        assert 0 <= row["flops_masked"] <= row["flops_dense"]
        assert row["params_kept"] == task.counts.params - round(
            row["sparsity"] * task.counts.params
        )
        assert 0 <= row["accuracy_test"] <= 1


@pytest.mark.parametrize(("name", "hp"), variants(), ids=str)
def test_a_cohort_is_neutral(name: str, hp: dict[str, object]):
    """The same member alone agrees to rounding, with others bit for bit; the order of members does
    not matter. How far float32 without convergence is from that depends on the processor.
    """
    algorithm = known()[name]
    for task in taken(algorithm, *((TASK, NORMED, ODD, WRAPPED) if not hp else (TASK,))):
        members = [
            Member(complete(algorithm.space, {**m.hp, **hp}), m.seed)
            for m in several(algorithm, task=task)
        ]
        together = train(algorithm, task, members)
        backwards = train(algorithm, task, members[::-1]).select(range(len(members) - 1, -1, -1))
        backwards.members["slot"] = together.members["slot"]
        assert same(algorithm, task, together, backwards)
        pair = train(algorithm, task, members[1:3])
        if hp.get("precision") == "float32":
            left, right = (view(algorithm, task, s) for s in (together.select([1, 2]), pair))
            for path, value in left.items():
                if path.startswith(("params/", "kept/")):
                    torch.testing.assert_close(value, right[path], rtol=0, atol=0.05)
            continue
        pair.members["slot"] = together.select([1, 2]).members["slot"]
        assert same(algorithm, task, together.select([1, 2]), pair, company=True)
        alone, among = (
            algorithm.networks(task, train(algorithm, task, members[2:3])),
            algorithm.networks(task, together),
        )
        for parameter, value in at(alone, 0).items():
            torch.testing.assert_close(value, at(among, 2)[parameter], rtol=0, atol=1e-9)
        assert all(
            torch.equal(mask[alone.of[0]], among.kept[p][among.of[2]])
            for p, mask in alone.kept.items()
        )


@pytest.mark.parametrize("name", known())
def test_what_is_frozen_stays_and_what_is_tied_stays_tied(name: str):
    algorithm = known()[name]
    (task,) = taken(algorithm, ODD)
    before, _ = task.initial([0, 1, 2])
    state = train(algorithm, task, several(algorithm, task=task))
    after = algorithm.networks(task, state)
    assert set(after.kept) == {"stem.weight", "head.weight"}
    assert "again.weight" not in after.params
    frozen = task.build(1).get_parameter("frozen.weight")
    assert torch.equal(after.buffers["frozen.weight"][1], frozen)
    assert not torch.equal(after.params["tied.weight"][1], before["tied.weight"][1])
    assert torch.equal(after.params["unused"][1], before["unused"][1])


def test_a_loaded_state_lies_in_memory_as_one_that_was_computed(tmp_path: Path):
    """Whatever the length of the header before it: some kernels round by how their operands are
    aligned.
    """
    for length in range(64):
        State(
            {"params": {"x": torch.ones(3), "y": torch.ones(2, 5)}}, {"words": "a" * length}
        ).save(tmp_path / "state")
        loaded = State.load(tmp_path / "state", torch.device("cpu"))
        assert {tensor.data_ptr() % 64 for tensor in leaves(loaded.members).values()} == {0}


@pytest.mark.parametrize(("name", "hp"), paths(), ids=str)
def test_resume_is_exact(name: str, hp: dict[str, object], tmp_path: Path):
    algorithm = known()[name]
    for task in taken(algorithm, TASK, NORMED, WRAPPED):
        whole = train(algorithm, task, several(algorithm, hp=hp))
        half = train(algorithm, task, several(algorithm, hp=hp), rungs=1)
        half.save(tmp_path / "state.safetensors")
        resumed = algorithm.advance(
            task, State.load(tmp_path / "state.safetensors", task.torch_device)
        )
        assert same(algorithm, task, whole, resumed)
        assert {**whole.scalars, "seconds": 0} == {**resumed.scalars, "seconds": 0}


@pytest.mark.parametrize(("name", "hp"), paths(), ids=str)
def test_members_may_leave(name: str, hp: dict[str, object]):
    algorithm = known()[name]
    (task,) = taken(algorithm, TASK)
    half = train(algorithm, task, several(algorithm, hp=hp), rungs=1)
    stay = [0, 2, len(several(algorithm, hp=hp)) - 1]
    left = algorithm.advance(task, half.select(stay))
    assert same(algorithm, task, algorithm.advance(task, half).select(stay), left, company=True)
    assert left.members["slot"].tolist() == stay


@pytest.mark.parametrize(("name", "hp"), paths(), ids=str)
def test_a_member_that_diverges_does_not_touch_the_others(name: str, hp: dict[str, object]):
    algorithm = known()[name]
    (task,) = taken(algorithm, TASK)
    if "lr" not in algorithm.space:
        pytest.skip("has no learning rate to diverge with")
    calm = several(algorithm, hp=hp)
    wild = [Member({**calm[0].hp, "lr": 1e300}, 0), *calm[1:]]
    left, right = (
        train(algorithm, task, members).select(range(1, len(calm))) for members in (calm, wild)
    )
    assert same(algorithm, task, left, right, company=True)
    assert not torch.isfinite(
        torch.tensor(
            measure(task, algorithm, train(algorithm, task, wild), last=False)[0]["loss_train"]
        )
    )


@pytest.mark.parametrize(("name", "hp"), paths(), ids=str)
def test_a_model_that_vmap_refuses_trains_one_after_the_other(name: str, hp: dict[str, object]):
    algorithm = known()[name]
    assert TASK.stackable
    assert NORMED.stackable
    assert not REFUSED.stackable
    (task,) = taken(algorithm, REFUSED)
    members = several(algorithm, seeds=(0, 1), hp=hp)
    together = train(algorithm, task, members)
    alone = train(algorithm, task, members[1:2])
    for parameter, value in at(algorithm.networks(task, alone), 0).items():
        torch.testing.assert_close(
            value, at(algorithm.networks(task, together), 1)[parameter], rtol=0, atol=0
        )
    assert all(row["stacked"] is False for row in measure(task, algorithm, together, last=False))


@pytest.mark.parametrize("name", known())
def test_every_algorithm_says_where_it_comes_from_and_what_it_takes(name: str):
    algorithm = known()[name]
    assert algorithm.source
    defaults = complete(algorithm.space, {})
    assert set(defaults) == set(algorithm.space)
    assert set(algorithm.together) <= set(algorithm.space)
    assert all(domain.about for domain in algorithm.space.values())
    assert algorithm.skip(TASK) is None or isinstance(algorithm.skip(TASK), str)


def test_the_algorithm_in_the_readme_works():
    text = (Path(__file__).parent.parent.parent / "README.md").read_text()
    code = next(block for block in text.split("```python\n") if "class Smallest" in block).split(
        "```"
    )[0]
    inside: dict[str, Any] = {}
    exec(code, inside)
    algorithm: Algorithm = inside["Smallest"]()
    state = train(
        algorithm,
        TASK,
        [Member(complete(algorithm.space, {"sparsity": 0.75}), seed) for seed in (0, 1)],
    )
    assert all(
        abs(row["sparsity"] - 0.75) < 1e-3 for row in measure(TASK, algorithm, state, last=False)
    )


class Largest(Masked):
    """An algorithm of fixed masks, as short as it can be."""

    source = "a test"

    def scores(self, params: Params, ctx: Context) -> Params:
        return {name: params[name].abs() for name in ctx.structure.parameters}


class Tilted(Masked):
    """Made of what `vmap` refuses: of the value of a member's hyper-parameter, and of one entry."""

    source = "a test"

    def init(self, params: Params, ctx: Context) -> Pruning:
        return {}

    def init_member(self, task: Task, member: Member, params: Params, buffers: Params) -> Pruning:
        layer = task.structure.layers[-1]
        mask = torch.ones_like(params[layer.weight], dtype=torch.bool)
        if params[layer.weight].flatten()[0].item() < 1:
            mask[:, : round(float(str(member.hp["sparsity"])) * layer.columns)] = False
        return {"mask": {layer.weight: mask}}


@pytest.mark.parametrize("kind", [Largest, Tilted])
@pytest.mark.parametrize("task", [TASK, NORMED, REFUSED], ids=lambda task: task.model)
def test_an_algorithm_of_fixed_masks_is_how_they_are_made(
    kind: type[Masked], task: Task, tmp_path: Path
):
    algorithm = kind()
    members = [
        Member(complete(algorithm.space, {"sparsity": sparsity}), seed)
        for sparsity in (0.25, 0.75)
        for seed in (0, 1)
    ]
    half = train(algorithm, task, members, rungs=1)
    half.save(tmp_path / "state")
    whole = algorithm.advance(task, State.load(tmp_path / "state", task.torch_device))
    assert same(algorithm, task, algorithm.advance(task, half), whole)
    pair = train(algorithm, task, members[1:3])
    pair.members["slot"] = whole.select([1, 2]).members["slot"]
    assert same(algorithm, task, whole.select([1, 2]), pair)
    first = algorithm.networks(task, algorithm.start(task, members))
    last = algorithm.networks(task, whole)
    assert algorithm.fixed(members[0].hp)
    for name, mask in first.kept.items():
        assert torch.equal(mask, last.kept[name])
        assert not last.params[name][~mask].any()
    few, many = (measure(task, algorithm, whole, last=True)[k]["sparsity"] for k in (0, 2))
    assert 0 < few < many
    if kind is Largest:
        assert few == pytest.approx(0.25, abs=0.01)


class Undeclared(GradientPruner):
    source = "a test"

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        return params, pruning


class Overdeclared(GradientPruner):
    source = "a test"
    narrows = True


def test_what_a_class_says_of_its_hooks_is_so():
    for name, algorithm in known().items():
        if isinstance(algorithm, GradientPruner):
            assert misdeclared(type(algorithm)) is None, name
    with pytest.raises(
        Mistake, match="`after_step` is called only where `follows` = True; got False"
    ):
        find("test_contract.Undeclared")
    with pytest.raises(Mistake, match="`narrows` says that there is a `lasting`"):
        find("test_contract.Overdeclared")


def test_a_member_is_named_by_what_results_depend_on():
    dns = known()["dns"]
    member = Member(complete(dns.space, {}), 0)
    name = identity(TASK, "dns", dns, member)
    assert name == identity(dataclasses.replace(TASK, device="cpu"), "dns", dns, member)
    assert name == identity(TASK, "dns", dns, Member(complete(dns.space, {"sparsity": 0.9}), 0)), (
        "a default is no difference"
    )
    others = [
        identity(TASK, "dns", dns, Member(complete(dns.space, {"sparsity": 0.8}), 0)),
        identity(TASK, "dns", dns, Member(member.hp, 1)),
        identity(dataclasses.replace(TASK, lr=0.1), "dns", dns, member),
        identity(dataclasses.replace(TASK, split_seed=1), "dns", dns, member),
        identity(TASK, "magnitude", dns, member),
    ]
    assert len({name, *others}) == 6


def test_only_the_last_measurement_sees_test_data():
    dense = known()["dense"]
    state = train(dense, TASK, several(dense))
    assert "accuracy_test" not in measure(TASK, dense, state, last=False)[0]
    assert "accuracy_test" in measure(TASK, dense, state, last=True)[0]


FIXED = [(n, hp) for n, hp in variants() if known()[n].fixed(complete(known()[n].space, hp))]


SHARED = {
    "expanded": lambda: {"x": torch.arange(3.0)[:, None].expand(3, 4)},
    "the same twice": lambda: dict.fromkeys("xy", torch.rand(3, 2)),
    "parts of one": lambda: dict(zip("xy", torch.rand(6, 2).split(3), strict=True)),
    "a part of a large one": lambda: {"x": torch.rand(100, 3)[50:53]},
    "transposed": lambda: (lambda x: {"x": x, "y": x.mT, "z": x[:, ::2]})(torch.rand(3, 3)),
    "nothing": lambda: {"x": torch.zeros(3, 0), "y": torch.zeros(3, 0)},
    "a conjugate": lambda: (lambda x: {"x": x, "y": x.conj()})(
        torch.rand(3, dtype=torch.complex64)
    ),
}


@pytest.mark.parametrize("kind", SHARED)
def test_tensors_that_share_memory_are_saved_each_for_itself(kind: str, tmp_path: Path):
    tree = SHARED[kind]()
    State({"pruning": tree}, {"rung": 1}, {"also": tree}).save(tmp_path / "state")
    loaded = State.load(tmp_path / "state", torch.device("cpu"))
    for found in (loaded.members["pruning"], loaded.shared["also"]):
        assert found.keys() == tree.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in tree.items())
    assert (tmp_path / "state").stat().st_size < 2000, "no more is written than there is"


class Sharing(GradientPruner):
    """Keeps its initial weights as they are, ties the biases of two layers, and makes a bias one
    number.
    """

    source = "a test"
    follows = True

    def init(self, params: Params, ctx: Context) -> Pruning:
        return {"initial": dict(params)}

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        one, two, last = (str(layer.bias) for layer in ctx.structure.layers)
        flat = params[last].mean().expand(params[last].shape)
        return {**params, two: params[one], last: flat}, {**pruning, "latest": params[one]}


@pytest.mark.parametrize("size", [1, 3])
def test_what_an_algorithm_returns_may_share_memory(size: int, tmp_path: Path):
    task, sharing = dataclasses.replace(TASK, model_options={"widths": [8, 8]}, rungs=2), Sharing()
    members = [Member(complete(sharing.space, {}), seed) for seed in range(size)]
    half = sharing.advance(task, sharing.start(task, members))
    half.save(tmp_path / "state")
    resumed = sharing.advance(task, State.load(tmp_path / "state", torch.device("cpu")))
    straight = sharing.advance(task, half)
    for path, tensor in leaves(straight.members).items():
        assert torch.equal(tensor, leaves(resumed.members)[path]), path
    initial, _ = task.initial(range(size))
    assert all(
        torch.equal(tensor, initial[name])
        for name, tensor in straight.members["pruning"]["initial"].items()
    )
    assert not torch.equal(straight.members["params"]["1.weight"], initial["1.weight"])


class Sinking(GradientPruner):
    """What is kept is what is above zero: it changes though neither `after_step` nor `due` is its
    own.
    """

    source = "a test"

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return {name: params[name] > 0 for name in ctx.structure.parameters}


def test_a_pruner_is_not_taken_to_be_fixed_unless_it_says_so():
    sinking = Sinking()
    hp = complete(sinking.space, {})
    assert not sinking.fixed(hp)
    start = sinking.start(TASK, [Member(hp, 0)])
    before = sinking.networks(TASK, start).kept
    after = sinking.networks(TASK, sinking.advance(TASK, start)).kept
    assert any(not torch.equal(before[name], after[name]) for name in before), (
        "what it keeps did change"
    )


@pytest.mark.parametrize(("name", "hp"), FIXED, ids=str)
def test_what_is_called_fixed_is_kept_from_the_start_to_the_end(name: str, hp: dict[str, object]):
    algorithm = known()[name]
    (task,) = taken(algorithm, TASK)
    members = [
        Member(complete(algorithm.space, {**member.hp, **hp}), member.seed)
        for member in several(algorithm)
    ]
    before = algorithm.networks(task, algorithm.start(task, members))
    after = algorithm.networks(task, train(algorithm, task, members))
    for key, kept in before.kept.items():
        assert torch.equal(kept[before.of], after.kept[key][after.of])


def test_some_algorithms_are_fixed_and_some_are_not():
    assert {"chance", "dense", "l1_filters", "magnitude", "sanity", "scratch", "weedout"} <= {
        name for name, _ in FIXED
    }
    assert not {"dns", "group_lasso", "complexity_aware", "cronos_am"} & {name for name, _ in FIXED}
