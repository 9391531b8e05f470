"""How members are run: CUDA graphs with a pretended recorder, the planner with a clock of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_compiled import different, train
from test_contract import TASK, several
from torch import Tensor
from torch.fx import GraphModule

from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.records.cohort import Cohort
from prunefront.trainables.records.training import Training
from prunefront.trainables.task import Task
from prunefront.trainables.training import (
    captured,
    compact,
    compiled,
    engine,
    feed,
    graphs,
    kept,
    planner,
)
from prunefront.trainables.training.engine import Execution

# ---- CUDA graphs


@pytest.fixture(autouse=True)
def same_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled stacks narrow in coarser steps: here as others do, so that states compare."""
    monkeypatch.setattr(compact, "COMPILED_SHARE", compact.SHARE)


class Recorder:
    """What torch.cuda does with kernels, done with calls: while it records nothing is computed, and
    a replay computes with the tensors that were there when it was recorded.
    """

    def __init__(self) -> None:
        self.recording: Graph | None = None
        self.recorded = 0
        self.replayed = 0

    def kernel(self, call: Callable[..., Any]) -> Callable[..., None]:
        """A call as kernels that this can record."""

        def launched(*given: Tensor) -> None:
            if self.recording is not None:
                self.recording.launches.append((call, given))
                return
            call(*given)

        return launched

    def CUDAGraph(self) -> Graph:
        return Graph(self)

    @contextlib.contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        self.recording = graph
        yield
        self.recording = None
        self.recorded += 1

    def Stream(self) -> Stream:
        return Stream()

    def current_stream(self) -> Stream:
        return Stream()

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        yield


class Graph:
    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.launches: list[tuple[Callable[..., Any], Sequence[Tensor]]] = []

    def replay(self) -> None:
        self.recorder.replayed += 1
        for call, given in self.launches:
            call(*given)


class Stream:
    def wait_stream(self, other: Stream) -> None:
        """Nothing: it is never ahead."""


def step(state: Tensor, table: Tensor, place: Tensor) -> None:
    """Adds a row of a table, and moves on."""
    state.add_(table.index_select(0, place)[0])
    place.add_(1)


def test_a_captured_call_is_the_call():
    recorder = Recorder()
    call = captured.Captured(recorder.kernel(step), 1, recorder)
    state, expected = torch.zeros(2), torch.zeros(2)
    for part in range(3):
        table = torch.arange(20.0).view(10, 2) + 100 * part
        place = torch.zeros(1, dtype=torch.long)
        for row in table:
            call(state, table, place)
            expected += row
            assert torch.equal(state, expected)
    assert recorder.recorded == 1, "new tables and places are copied"
    assert recorder.replayed == 30 - captured.WARM


def test_another_state_is_recorded_anew_and_the_old_one_left_alone():
    recorder = Recorder()
    call = captured.Captured(recorder.kernel(step), 1, recorder)
    table = torch.ones(9, 2)
    first, second = torch.zeros(2), torch.zeros(2)
    for state, steps in ((first, 6), (second, 3), (first, 1)):
        place = torch.zeros(1, dtype=torch.long)
        for _ in range(steps):
            call(state, table, place)
    assert first.tolist() == [7, 7]
    assert second.tolist() == [3, 3]
    assert recorder.recorded == 3


def test_a_captured_call_keeps_no_state_alive():
    recorder = Recorder()
    call = captured.Captured(recorder.kernel(step), 1, recorder)
    state = torch.zeros(2)
    for _ in range(5):
        call(state, torch.ones(9, 2), torch.zeros(1, dtype=torch.long))
    held = [value for value in vars(call).values() if isinstance(value, list | tuple)]
    assert not any(item is state for items in held for item in items)


@pytest.mark.parametrize("name", ["dense", "dns", "group_lasso", "complexity_aware"])
@pytest.mark.parametrize("stream", ["auto", "always"])
def test_a_training_by_captured_steps(name: str, stream: Any, monkeypatch: pytest.MonkeyPatch):
    """In parts of a few steps, and between the graphs of two kinds of steps."""
    recorder = Recorder()

    def backend(graph: GraphModule) -> Any:
        kept = len(moved[-1])
        return captured.Captured(recorder.kernel(graph), kept, recorder)

    moved: list[list[Tensor]] = []
    moving = compiled.Moving

    def noted(members: Any) -> Any:
        made = moving(members)
        moved.append(made.tensors)
        return made

    def untried(call: Any, example: Any) -> None:
        """The first calls are made with the state itself."""

    monkeypatch.setattr(compiled, "Moving", noted)
    monkeypatch.setattr(compiled, "with_inductor", backend)
    monkeypatch.setattr(compiled, "_try", untried)
    for module in (compiled, feed, graphs):
        monkeypatch.setattr(module, "ROWS", 7)
    compiled.forget()
    algorithm = find(name)
    task = dataclasses.replace(TASK, stream=stream)
    members = several(algorithm, (0, 1))
    plain = train(algorithm, task.run_as(0, False), members)
    state = train(algorithm, task.run_as(0, True), members)
    compiled.forget()
    assert recorder.recorded
    assert recorder.replayed
    assert different(algorithm, task, plain, state, 1e-9) == []


# ---- what a task says


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"compile": "yes"}, '`compile` is true, false or "auto": whether steps are compiled; got'),
        ({"compile": 1}, '`compile` is true, false or "auto": whether steps are compiled; got 1'),
        ({"compile": None}, '`compile` is true, false or "auto": whether steps are compiled; got'),
        ({"together": -1}, 'a whole number, 0 for all of a cohort, or "auto"; got -1'),
        ({"together": 2.0}, 'a whole number, 0 for all of a cohort, or "auto"; got 2.0'),
        ({"together": True}, 'a whole number, 0 for all of a cohort, or "auto"; got True'),
        ({"together": "all"}, "a whole number, 0 for all of a cohort, or \"auto\"; got 'all'"),
        ({"together": []}, 'a whole number, 0 for all of a cohort, or "auto"; got []'),
    ],
    ids=str,
)
def test_values_that_say_nothing(keys: dict[str, Any], sentence: str):
    with pytest.raises(Mistake) as error:
        Task(**keys)
    assert sentence in str(error.value)


def test_what_is_missing_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    short = dataclasses.replace(TASK, epochs=0.1, rungs=1)
    for value in ("auto", False):
        dataclasses.replace(short, compile=value).check()
    with pytest.raises(Mistake) as error:
        dataclasses.replace(short, compile=True).check()
    assert str(error.value) == (
        "`compile` true needs a C++ compiler (/nonexistent/g++), which is not found; "
        '"auto" compiles where that is possible and pays'
    )


def test_a_gpu_needs_triton_and_a_c_compiler(monkeypatch: pytest.MonkeyPatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert engine.compiler_missing(cuda) == "Triton"
    monkeypatch.setattr(engine, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "/nonexistent/gcc")
    assert engine.compiler_missing(cuda) == "a C compiler (/nonexistent/gcc)"
    monkeypatch.setenv("CC", "sh")
    assert engine.compiler_missing(cuda) == ""


@pytest.mark.parametrize("size", range(1, 40))
@pytest.mark.parametrize("together", [0, 1, 5, 8, 16])
@pytest.mark.parametrize("compiles", [True, False])
def test_every_member_is_in_one_program(size: int, together: int, compiles: bool):
    chosen = Execution(together, compiles)
    parts = chosen.parts(size)
    assert [place for part in parts for place in part] == list(range(size))
    for part in parts:
        padded = chosen.padded(len(part))
        assert len(part) <= padded < len(part) + engine.MULTIPLE
        assert not together or padded <= together
        assert compiles or padded == len(part)


def test_rows_say_how_their_members_were_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(graph: GraphModule) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(compiled, "with_inductor", fails)
    compiled.forget()
    dense = find("dense")
    for name, together, compiles in (("00000-a", 2, False), ("00001-b", 0, True)):
        members = tuple(several(dense))
        cohort = Cohort(name, "arm", "dense", members, together=together, compile=compiles)
        training = Training(tmp_path / name, "study", TASK, cohort, False)
        while not training.finished:
            training.advance()
        (footer,) = table.footers(tmp_path / name)
        about = {"together": together, "compile": compiles}
        if compiles:
            about["refused"] = "RuntimeError: no compiler"
        assert footer["engine"] == about
    compiled.forget()


# ---- the planner


@dataclasses.dataclass
class Machine:
    """What members take on a machine that was made up, and a clock that goes with it.

    plain, compiled: seconds of a member-step, by how many are together.  compiling: seconds that
    this takes.  loading: what a first turn takes beside its steps.
    """

    plain: dict[int, float]
    compiled: float = 1.0
    compiling: float = 20.0
    loading: float = 0.0
    refused: str = ""
    now: float = 0.0
    turns: int = 0

    def clock(self) -> float:
        return self.now


def install(machine: Machine, monkeypatch: pytest.MonkeyPatch, cache: Path) -> Machine:
    class Runner:
        def __init__(self, task: Task, algorithm: Any, member: Any, size: int, chosen: Execution):
            self.chosen = chosen
            self.size = size
            self.steps = planner._steps_of_turn(task, size)
            self.first = True

        def turn(self) -> float:
            machine.turns += 1
            rate = machine.compiled if self.chosen.compile else machine.plain[self.chosen.together]
            if self.first:
                machine.now += machine.compiling if self.chosen.compile else machine.loading
            self.first = False
            machine.now += rate * self.steps * self.size
            return rate

    monkeypatch.setattr(planner, "_Runner", Runner)
    monkeypatch.setattr(planner, "perf_counter", machine.clock)
    monkeypatch.setattr(compiled, "refusal", lambda: machine.refused)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    return machine


LONG = Task(model_options={"widths": [16]}, epochs=1000, device="cpu")
DENSE = find("dense")
MEMBER = Member(complete(DENSE.space, {}), 0)


def choose(task: Task, count: int = 64, size: int = 32, workers: int = 1) -> planner.Choice:
    return planner.choose(task, DENSE, MEMBER, size, count, workers)


def test_a_short_training_is_not_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    machine = install(Machine({0: 1e-4, 1: 1e-3}), monkeypatch, tmp_path)
    short = dataclasses.replace(LONG, epochs=4)
    assert short.steps * 64 * planner._guessed(short) < planner.SHORT
    assert choose(short) == planner.Choice(Execution(), planner.BY_RULE)
    assert machine.turns == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("loading", [0.0, 5.0])
@pytest.mark.parametrize("epochs", [30, 100, 1000])
def test_timing_takes_its_share_of_what_training_takes(
    scale: float, loading: float, epochs: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """However wrong the guess was: but for the first turns, by which it is known."""
    task = dataclasses.replace(LONG, epochs=epochs, compile=False)
    guess = planner._guessed(task)
    rates = {0: scale * guess, 1: 3 * scale * guess}
    machine = install(Machine(rates, loading=loading), monkeypatch, tmp_path)
    choose(task)
    whole = task.steps * 64 * rates[0]
    first = sum(rates.values()) * planner._steps_of_turn(task, 32) * 32 + 2 * loading
    assert machine.now <= max(planner.SHARE * whole, first) + 1e-9


@pytest.mark.parametrize("size", [2, 32])
@pytest.mark.parametrize("epochs", [30, 300, 3000])
@pytest.mark.parametrize("fast", [0.1, 0.5, 0.97, 2.0])
@pytest.mark.parametrize("stacked", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("known", [False, True])
def test_what_is_chosen_is_nearly_the_fastest(
    size: int,
    epochs: float,
    fast: float,
    stacked: float,
    known: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    """Of what was timed; compiled steps with the seconds that each worker needs to load them."""
    task = dataclasses.replace(LONG, epochs=epochs)
    rates = {1: 1e-3, 0: stacked * 1e-3}
    machine = install(Machine(rates, fast * min(rates.values())), monkeypatch, tmp_path)
    choice = choose(task, size=size)
    if known:
        turns = machine.turns
        assert choose(task, size=size) == choice
        assert machine.turns == turns
    if choice.reason == planner.BY_RULE:
        return
    member_steps = task.steps * 64
    totals = {Execution(width): member_steps * rate for width, rate in rates.items()}
    if choice.execution.compile:
        loading = planner.FROM_DISK * machine.compiling
        totals[choice.execution] = member_steps * machine.compiled + loading
    assert 0.95 * totals[choice.execution] <= min(totals.values())
    worth = (1 - planner._gain(task)) * member_steps * min(rates.values())
    if worth > 2 * planner.COMPILING and fast < 0.9:
        assert choice.execution.compile


def test_steps_that_cannot_be_compiled_are_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    rates = {1: 1e-3, 0: 5e-4}
    machine = install(Machine(rates, 1e-5, refused="no"), monkeypatch, tmp_path)
    assert choose(LONG).execution == Execution()
    turns = machine.turns
    assert choose(LONG).execution == Execution()
    assert machine.turns == turns


def test_a_compiler_that_is_missing_is_said_where_it_would_pay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    install(Machine({1: 1e-3, 0: 5e-4}, 1e-5), monkeypatch, tmp_path)
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    choice = choose(LONG)
    assert choice.execution == Execution()
    assert choice.reason == (
        "0.5 ms a member and step; one member after the other: 1; "
        "not compiled: a C++ compiler (/nonexistent/g++) is not found"
    )
    monkeypatch.delenv("CXX")
    assert choose(LONG).execution.compile, "what was timed is no reason not to compile later"


@pytest.mark.parametrize(
    ("keys", "execution"),
    [
        ({"compile": True}, Execution(64, True)),
        ({"compile": True, "together": 0}, Execution(0, True)),
        ({"compile": False, "together": 4}, Execution(4)),
        ({"compile": False}, Execution(1)),
        ({"together": 4}, Execution(4)),
    ],
    ids=str,
)
def test_a_task_is_obeyed(
    keys: dict[str, Any],
    execution: Execution,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    install(Machine({1: 1e-4, 0: 1e-3, 4: 1e-3}, 1e-2), monkeypatch, tmp_path)
    task = dataclasses.replace(LONG, **keys)
    chosen = choose(task).execution
    assert chosen == execution
    assert planner.agrees(task, chosen)
    assert not planner.agrees(task, Execution(3, not chosen.compile))


def files(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(cache.rglob("*.json"))}


def test_another_task_is_timed_on_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    install(Machine({1: 1e-3, 0: 1e-4}), monkeypatch, tmp_path)
    changed: list[dict[str, Any]] = [
        {},
        {"batch_size": 16},
        {"precision": "float64"},
        {"model_options": {"widths": [24]}},
        {"optimizer": "adam"},
    ]
    for count, keys in enumerate(changed, 1):
        choose(dataclasses.replace(LONG, compile=False, **keys))
        assert len(files(tmp_path)) == count
    monkeypatch.setattr(kept, "_device", lambda device: "another one")
    choose(dataclasses.replace(LONG, compile=False))
    assert len(files(tmp_path)) == len(changed) + 1
    choose(dataclasses.replace(LONG, compile=False, epochs=2000, lr=0.1))
    assert len(files(tmp_path)) == len(changed) + 1, "which take as long a step"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"plain": {"0": 1.0',
        b"[]",
        b"3",
        b"{}",
        b'{"plain": {}, "compiled": {}, "compiling": 0, "refused": ""}',
        b'{"plain": [1], "compiled": {}, "compiling": 0, "refused": ""}',
        b'{"plain": {"a": 1}, "compiled": {}, "compiling": 0, "refused": ""}',
        b'{"plain": {"0": -1}, "compiled": {}, "compiling": 0, "refused": ""}',
        b'{"plain": {"0": NaN}, "compiled": {}, "compiling": 0, "refused": ""}',
        b'{"plain": {"0": "x"}, "compiled": {}, "compiling": 0, "refused": ""}',
        b"\xff\xfe\x00",
    ],
)
def test_a_file_that_is_torn_or_not_ours_is_written_again(
    content: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    machine = install(Machine({1: 1e-3, 0: 1e-4}), monkeypatch, tmp_path)
    task = dataclasses.replace(LONG, compile=False)
    choice = choose(task)
    (path,) = tmp_path.rglob("*.json")
    whole = path.read_bytes()
    path.write_bytes(content)
    turns = machine.turns
    assert choose(task) == choice
    assert machine.turns == 2 * turns, "all of it is timed again"
    assert path.read_bytes() == whole
    assert json.loads(whole)["plain"] == {"1": 1.0, "0": 0.1}


def test_a_cache_that_cannot_be_written_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    install(Machine({1: 1e-3, 0: 1e-4}), monkeypatch, tmp_path / "file")
    assert choose(dataclasses.replace(LONG, compile=False)).execution == Execution()


def test_timing_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With runners that train; no program, and no tensor of theirs."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled, "with_inductor", lambda graph: graph)
    monkeypatch.setattr(planner, "TURN", 1e-3)
    monkeypatch.setattr(planner, "SHORT", 0.0)
    monkeypatch.setattr(planner, "COMPILING", 0.0)
    random_state = torch.get_rng_state()
    task = dataclasses.replace(LONG, epochs=300)
    _ = task.counts, task.structure, task.stackable
    gc.collect()
    before = tensors()
    choice = choose(task, size=4)
    gc.collect()
    assert choice.reason != planner.BY_RULE
    assert json.loads(next(tmp_path.rglob("*.json")).read_text())["compiled"]
    assert not compiled._PROGRAMS
    assert tensors() - before <= 8
    assert torch.equal(torch.get_rng_state(), random_state)


def tensors() -> int:
    """How many there are; by their type, since some modules warn where they are asked anything."""
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())
