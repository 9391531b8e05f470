"""Precision of training: what is computed in bfloat16 and what is not, that cohorts stay what they
are under it, and what is refused.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_contract import FEW, HEADED, NORMED, REFUSED, TASK, several, train
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from example_models import Odd
from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Algorithm, Member, State
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import EXAMPLES, measure
from prunefront.trainables.records import deploy
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.networks import load_network, load_shrunk, load_with_masks
from prunefront.trainables.records.training import Training
from prunefront.trainables.rehearsal import rehearse
from prunefront.trainables.task import LATER, PLACES, Task, identity
from prunefront.trainables.training import precision
from prunefront.trainables.training.stack import Call
from prunefront.trainables.tree import leaves
from prunefront.trainables.watch import Watch, tensors_in


def low(task: Task, **changes: Any) -> Task:
    return dataclasses.replace(task, precision="bf16", **changes)


def shown(value: object) -> str:
    """What a test's name says of a parameter."""
    return value.model if isinstance(value, Task) else str(value)


RESIDUAL = dataclasses.replace(
    TASK, model="resnet", model_options={"depth": 8}, epochs=0.05, batch_size=16
)
TASKS = [low(TASK), low(NORMED), low(RESIDUAL)]
PRUNERS: list[tuple[str, dict[str, object]]] = [
    ("dense", {}),
    ("dns", {}),
    ("magnitude", {}),
    ("group_lasso", {}),
    ("complexity_aware", {}),
    ("weedout", FEW),
    ("weedout", {"again": 0.4, **FEW}),
]
"""Algorithms that train by gradient."""
ALTERNATING: tuple[str, dict[str, object]] = ("cronos_am", {"head": "trained"})
"""One that takes models of its own kind."""
KEPT = [(task, *pruner) for task in TASKS[:2] for pruner in PRUNERS]
KEPT += [(TASKS[2], *pruner) for pruner in PRUNERS[:5]]
KEPT.append((low(HEADED), *ALTERNATING))
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward")


# ---- the key


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_members_of_older_tasks_keep_their_names(name: str):
    old, new = Task(dtype=name), Task(precision=name)
    assert old.describe() == new.describe()
    assert new.describe()["dtype"] == name
    assert "precision" not in new.describe()
    dense = find("dense")
    member = Member(complete(dense.space, {}), 0)
    assert identity(old, "dense", dense, member) == identity(new, "dense", dense, member)


def test_every_field_of_a_description_is_as_it_was_before_there_was_a_precision():
    """With which a member's name begins: of the defaults, but for the data."""
    described = Task().describe()
    described.pop("data_digest")
    fields = {field.name: field.default for field in dataclasses.fields(Task)}
    for later in (*LATER, *PLACES, "precision"):
        fields.pop(later)
    settled = {"schedule": "cosine", "augment": [], "model_options": {}, "dtype": "float32"}
    assert described == {**fields, **settled}


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_a_described_task_is_made_again(name: str):
    task = Task(precision=name)
    described = task.describe()
    assert (described["dtype"], described["precision"]) == ("float32", name)
    described.pop("data_digest")
    assert Task(**described).precision == name
    assert Task(**task.to_json()) == task


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"dtype": "float64", "precision": "bf16"},
            "`precision` is given alone, or with the `dtype` that its parameters have; "
            "got bf16 and float64",
        ),
        ({"dtype": "float32", "precision": "float64"}, "got float64 and float32"),
        ({"dtype": "bf16"}, "`dtype` is the type of parameters: one of float32, float64"),
        (
            {"precision": "float16"},
            "`precision` is what training computes in: one of float64, float32, tf32, bf16; "
            "got 'float16'",
        ),
        ({"dtype": "float32", "precision": ["bf16"]}, r"`precision` is .* got \['bf16'\]"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_precision_is_one_sentence(keys: dict[str, Any], sentence: str):
    with pytest.raises(Mistake, match=sentence):
        Task(**keys)


# ---- what is computed in what


class Products(Watch):
    """The types of what products of matrices and convolutions are computed of."""

    def __init__(self) -> None:
        super().__init__()
        self.types = set[torch.dtype]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            self.types |= {tensor.dtype for tensor in tensors_in(args)}
        return func(*args, **(kwargs or {}))


def begun(task: Task, name: str, hp: dict[str, object]) -> tuple[Algorithm, Task, list[Member]]:
    """An algorithm, the task as it has it, and members."""
    algorithm = find(name)
    members = several(algorithm, task=task, hp=hp)
    task = algorithm.parent(task, members[0].hp)
    algorithm.check(task, members[0].hp)
    return algorithm, task, members


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.model)
def test_all_products_of_a_step_are_in_bfloat16(task: Task, members: int):
    assert task.stackable, "as in float32"
    dense = find("dense")
    state = dense.start(task, several(dense)[:members])
    with Products() as seen:
        dense.advance(task, state)
    assert seen.types == {torch.bfloat16}
    with Products() as seen:
        measure(task, dense, state, last=True)
    assert seen.types == {torch.float32}, "rows are measured as networks are exported"


@pytest.mark.parametrize(("task", "name", "hp"), KEPT, ids=shown)
def test_what_is_kept_has_the_types_that_it_has_in_float32(
    task: Task, name: str, hp: dict[str, object]
):
    types: list[dict[str, torch.dtype]] = []
    for kind in ("bf16", "float32"):
        each = dataclasses.replace(task, precision=kind)
        algorithm, own, members = begun(each, name, hp)
        state = train(algorithm, own, members, rungs=1)
        measure(own, algorithm, state, last=False)  # which refuses what is removed and not zero
        networks = algorithm.networks(own, state)
        kept = {**leaves(state.members), **leaves({"networks": networks.params})}
        types.append({path: tensor.dtype for path, tensor in kept.items()})
        rounded = [torch.equal(p, p.bfloat16().to(p.dtype)) for p in networks.params.values()]
        assert not all(rounded)
    assert types[0] == types[1]
    assert torch.bfloat16 not in types[0].values()


def test_a_trace_of_a_step_sees_the_casts():
    task = TASKS[0]
    call = precision.forward(task, Call(task.template.train()))
    params, buffers = task.initial([0])
    given = {name: value[0] for name, value in params.items()}
    x = task.data.examples("train", torch.arange(4))
    traced = make_fx(lambda inputs: call(given, dict(buffers), inputs))(x)
    assert "torch.bfloat16" in traced.code
    assert torch.equal(traced(x), call(given, dict(buffers), x))


class Counting(Odd):
    """Keeps what it computes last in a buffer, in whatever type that has."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.register_buffer("seen", torch.zeros(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.stem(x.flatten(1)).detach().mean(0)
        return super().forward(x)


def test_a_buffer_stays_what_it_is():
    task = TASKS[0]
    model = Counting(64, 10)
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    logits = precision.forward(task, Call(model))(params, buffers, torch.rand(5, 64))
    assert buffers["seen"].any()
    assert {tensor.dtype for tensor in (logits, buffers["seen"])} == {torch.float32}
    assert buffers["calls"].dtype == torch.long


class Attending(nn.Module):
    """Attention over the rows of an image; vmap takes its products, written out."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.norm, self.into, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.view(-1, 8, 8)
        queries, keys, values = self.into(self.norm(rows)).chunk(3, -1)
        share = (queries @ keys.mT / 8**0.5).softmax(-1)
        return self.out((rows + share @ values).mean(1))


class Recurrent(nn.Module):
    """An LSTM over the rows of an image, which vmap refuses."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.cells, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.cells(x.view(-1, 8, 8))
        return self.out(hidden[:, -1])


def attending(_: tuple[int, ...], classes: int) -> nn.Module:
    return Attending(classes)


def recurrent(_: tuple[int, ...], classes: int) -> nn.Module:
    return Recurrent(classes)


@pytest.mark.parametrize(
    "model", ["test_precision.attending", "test_precision.recurrent", REFUSED.model]
)
def test_models_of_other_kinds_train_in_bf16_as_in_float32(model: str):
    task = Task(model=model, epochs=3, rungs=1, precision="bf16")
    rehearse(task)
    same = dataclasses.replace(task, precision="float32")
    assert task.stackable == same.stackable == (model == "test_precision.attending")
    losses: list[float] = []
    dense = find("dense")
    for each in (task, same):
        state = train(dense, each, several(dense)[:2])
        losses.append(measure(each, dense, state, last=False)[0]["loss_train"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


# ---- cohorts in bf16


@pytest.mark.parametrize(("name", "hp"), PRUNERS, ids=str)
@pytest.mark.parametrize("task", TASKS[:2], ids=lambda task: task.model)
def test_resume_is_exact(task: Task, name: str, hp: dict[str, object], tmp_path: Path):
    algorithm, task, members = begun(task, name, hp)
    whole = train(algorithm, task, members)
    half = train(algorithm, task, members, rungs=1)
    half.save(tmp_path / "state.safetensors")
    resumed = algorithm.advance(task, State.load(tmp_path / "state.safetensors", task.torch_device))
    one, other = leaves(whole.members), leaves(resumed.members)
    assert one.keys() == other.keys()
    for path, value in one.items():
        if not path.endswith("seconds"):
            assert torch.equal(value, other[path]), path


@pytest.mark.parametrize(("name", "hp"), [*PRUNERS, ALTERNATING], ids=str)
def test_a_member_that_diverges_does_not_touch_the_others(name: str, hp: dict[str, object]):
    algorithm, task, calm = begun(low(HEADED), name, hp)
    wild = [Member({**calm[0].hp, "lr": 1e30}, 0), *calm[1:]]
    rest = range(1, len(calm))
    one, other = (train(algorithm, task, members) for members in (calm, wild))
    lost = measure(task, algorithm, other, last=False)[0]["loss_train"]
    assert not torch.isfinite(torch.tensor(lost))
    left, right = (algorithm.networks(task, state.select(rest)) for state in (one, other))
    for path, value in leaves(left.params).items():
        assert torch.equal(value[left.of], right.params[path][right.of]), path


@pytest.mark.parametrize("name", ["dense", "dns", "magnitude", "complexity_aware"])
def test_accuracy_is_near_that_of_float32(name: str):
    algorithm = find(name)
    means: list[float] = []
    for kind in ("float32", "bf16"):
        task = Task(model_options={"widths": [32]}, epochs=15, rungs=1, precision=kind)
        state = train(algorithm, task, several(algorithm)[:3])
        rows = measure(task, algorithm, state, last=True)
        means.append(sum(row["accuracy_test"] for row in rows) / len(rows))
    assert means[0] > 0.9
    assert means[1] == pytest.approx(means[0], abs=0.02)


def test_scores_of_weedout_are_in_bfloat16_too():
    """As its own hyper-parameter has them in another task."""
    weedout = find("weedout")
    found: list[list[float]] = []
    for kind, own in (("bf16", "task"), ("float32", "bfloat16"), ("float32", "task")):
        task = Task(model_options={"widths": [16]}, epochs=1, rungs=1, precision=kind)
        state = weedout.start(task, several(weedout, hp={**FEW, "precision": own}))
        found.append(state.members["score"].tolist())
    assert found[0] == found[1] != found[2]


# ---- what is measured


@pytest.mark.parametrize(("name", "hp"), [("dns", {}), ("complexity_aware", {})], ids=str)
@pytest.mark.parametrize("task", TASKS[:2], ids=lambda task: task.model)
def test_rows_are_of_the_networks_that_leave(
    task: Task, name: str, hp: dict[str, object], tmp_path: Path
):
    algorithm = find(name)
    cohort = Cohort("00000-test", "arm", name, tuple(several(algorithm, task=task, hp=hp)))
    training = Training(tmp_path, "study", task, cohort, True)
    while not training.finished:
        training.advance()
    assert table.footers(tmp_path)[0]["precision"] == {"trained": "bf16", "measured": "float32"}
    rows = table.last(table.read(tmp_path)).to_dict("records")
    labels = task.data.labels["test"]
    for row in rows:
        network = load_network(tmp_path, row["member"]).eval()
        with torch.no_grad():
            logits = torch.cat([network(x) for x, _ in task.data.parts("test", EXAMPLES)])
            with torch.autocast("cpu", torch.bfloat16):
                parts = task.data.parts("test", EXAMPLES)
                rounded = torch.cat([network(x).float() for x, _ in parts])
        right = int((logits.argmax(1) == labels).sum())
        assert row["accuracy_test"] == right / len(labels)
        loss = float(F.cross_entropy(logits.double(), labels))
        assert row["loss_test"] == pytest.approx(loss, rel=1e-6)
        in_bfloat16 = float(F.cross_entropy(rounded.double(), labels))
        assert in_bfloat16 != pytest.approx(loss, rel=1e-6), "or this test could not fail"
    small = load_shrunk(tmp_path, rows[0]["member"])
    _, _, parent = load_with_masks(tmp_path, rows[0]["member"])
    agreement = deploy.convert(small, tmp_path / "network.onnx", parent, task.data)
    assert agreement.right[1] / agreement.examples == rows[0]["accuracy_test"]


# ---- tf32


def test_tf32_is_allowed_while_a_cohort_trains_and_forbidden_while_it_is_measured(
    monkeypatch: pytest.MonkeyPatch,
):
    """torch's switches can be set without a GPU."""

    def allowed() -> tuple[bool, bool]:
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        return bool(products.allow_tf32), convolutions.allow_tf32

    tasks = {name: Task(precision=name) for name in precision.PARAMETERS}
    before = allowed()
    for task in tasks.values():
        with precision.training(task), precision.measuring(task):
            assert allowed() == before, "on a CPU nothing is touched"
    for task in tasks.values():
        monkeypatch.setattr(task.workbench, "device", torch.device("cuda"))
    for name, task in tasks.items():
        with precision.training(task):
            assert allowed() == (name == "tf32",) * 2
            with precision.measuring(task):
                assert allowed() == (False, False)
            assert allowed() == (name == "tf32",) * 2
        assert allowed() == before
    with pytest.raises(ZeroDivisionError), precision.training(tasks["tf32"]):
        raise ZeroDivisionError
    assert allowed() == before
    assert torch.get_float32_matmul_precision() == "highest", "which compilers ask for"


def test_tf32_changes_nothing_on_a_cpu():
    dense = find("dense")
    states: list[State] = []
    for kind in ("float32", "tf32"):
        task = dataclasses.replace(NORMED, precision=kind)
        states.append(train(dense, task, several(dense)))
    one, other = (leaves(state.members["params"]) for state in states)
    assert all(torch.equal(value, other[path]) for path, value in one.items())


# ---- what is refused


@pytest.mark.parametrize("kind", ["bf16", "tf32"])
@pytest.mark.parametrize(
    ("name", "hp", "what"),
    [
        ("cronos", {}, "a convex program"),
        ("cronos_am", {}, "the head convex"),
        ("cronos_am", {"head": "least_squares"}, "the head least_squares"),
    ],
)
def test_what_is_solved_for_is_refused(kind: str, name: str, hp: dict[str, object], what: str):
    algorithm = find(name)
    task = dataclasses.replace(HEADED, precision=kind)
    own = complete(algorithm.space, hp)
    sentence = (
        f"`precision` is float64 or float32 for {what}, which is solved for and not trained: "
        f"linear systems need its digits; got {kind}"
    )
    with pytest.raises(Mistake, match=sentence):
        algorithm.check(algorithm.parent(task, own), own)
