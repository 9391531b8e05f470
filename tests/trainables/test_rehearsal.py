"""Rehearsals: what would fail in every member fails before the study starts, in one sentence; what
works is left alone.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from prunefront.analysis.rows.mistake import Mistake
from prunefront.search import INTERNAL, cli
from prunefront.search.plan import checks, generations
from prunefront.search.study import controls
from prunefront.search.study.parse import read
from prunefront.trainables import algorithms, models, rehearsal
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import Domain, complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.records.rows import hp_types
from prunefront.trainables.structure import extract
from prunefront.trainables.task import Task
from prunefront.trainables.training.pruner import GradientPruner, space

HERE = __name__


def task(model: str, **more: object) -> Task:
    """A short task with a model of this file."""
    return Task(model=f"{HERE}.{model}", epochs=2, rungs=1, **more)  # type: ignore[arg-type]


def normed(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, classes)
    )


def pooled(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.MaxPool1d(2), nn.Linear(12, classes))


class Own(nn.Module):
    """Two layers; what is done to their logits is up to subclasses."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(64, 6), nn.Linear(6, classes)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x.flatten(1))))


class Squeezing(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits(x).squeeze()


class Normalising(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.logits(x)
        return logits - logits.mean(0)


class Dropping(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.logits(x), 0.5, True)


class InTraining(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise KeyError("x")
        return self.logits(x)


class Pair(Own):
    def forward(self, x: torch.Tensor) -> object:
        return (self.logits(x), x) if self.training else self.logits(x)


class OneSize(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[0] == 30:  # what is left of 286 test examples
            raise ValueError("thirty")
        return self.logits(x)


REFUSED = (
    (
        "normed",
        {"batch_size": 1},
        "is trained with `batch_size` = 1; "
        "it raised ValueError: Expected more than 1 value per channel",
    ),
    ("Squeezing", {}, "gives one example logits of shape (1, 10) in evaluation; got (10,)"),
    (
        "Normalising",
        {},
        "gives an example the same logits in evaluation alone and beside 255 others; "
        "got a difference of ",
    ),
    ("Dropping", {}, "gives an example the same logits twice in evaluation; got a difference of "),
    (
        "InTraining",
        {},
        "is trained with `batch_size` = 32; it raised KeyError: 'x' (test_rehearsal.py, line ",
    ),
    ("Pair", {}, "gives 32 examples logits of shape (32, 10) in training; got tuple"),
)


@pytest.mark.parametrize(("model", "more", "sentence"), REFUSED)
def test_what_would_fail_in_every_member(
    model: str, more: dict[str, object], sentence: str
) -> None:
    with pytest.raises(Mistake) as refused:
        task(model, **more).check()
    assert str(refused.value).startswith(f"model {HERE}.{model}: ")
    assert sentence in str(refused.value)


def test_the_last_part_of_each_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """257 test examples leave one alone, 286 leave thirty."""
    found = task("OneSize")
    monkeypatch.setitem(found.data.labels, "test", found.data.labels["test"][:1].repeat(286))
    inputs = found.data.examples("test", torch.zeros(286, dtype=torch.long))
    monkeypatch.setitem(found.data.inputs, "test", inputs)
    with pytest.raises(
        Mistake, match=r"evaluates 30 examples at a time; it raised ValueError: thirty"
    ):
        found.check()


WRAPPERS = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "parametrized weight_norm": parametrizations.weight_norm,
    "parametrized spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


def wrapped(shape: tuple[int, ...], classes: int, by: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old hooks, which people still use
        layer = WRAPPERS[by](nn.Linear(64, 12))
    return nn.Sequential(
        nn.Flatten(), layer, nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, classes)
    )


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop because we have not yet implemented the batching rule"
)
@pytest.mark.parametrize("wrapper", sorted(WRAPPERS))
def test_wrapped_layers_are_whole_and_trained(wrapper: str) -> None:
    found = task("wrapped", model_options={"by": wrapper})
    found.check()
    assert [layer.name for layer in found.structure.layers] == ["3", "5"]
    plain = GradientPruner()
    members = [Member(complete(plain.space, {}), seed) for seed in range(2)]
    before, _ = found.initial([0, 1])
    after = plain.first_step(found, plain.start(found, members)).members["params"]
    own = [name for name in before if name.startswith("1.")]
    assert own
    for name in own:
        assert not torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("model", ["pooled", "normed"])
def test_what_works_is_left_alone(model: str) -> None:
    found = task(model)
    _ = found.data, found.structure
    begun = time.process_time()
    found.check()
    assert time.process_time() - begun < 2


def test_what_the_shrunk_network_computes_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = extract.shrunk

    def off(module: nn.Module, *rest: object) -> nn.Module:
        return nn.Sequential(sound(module, *rest), nn.Softplus())  # type: ignore[arg-type]

    monkeypatch.setattr(extract, "shrunk", off)
    with pytest.raises(
        Mistake,
        match="the same logits masked and made smaller with nothing removed; got a difference of",
    ):
        task("normed").check()


# ---- whose fault it is


def test_a_users_exception_is_theirs_and_ours_is_ours() -> None:
    def inner() -> None:
        raise KeyError("x")

    with (
        pytest.raises(
            Mistake, match=r"^the model; it raised KeyError: 'x' \(test_rehearsal.py, line \d+\)$"
        ),
        models.blamed("the model"),
    ):
        inner()
    with pytest.raises(AttributeError), models.blamed("the model"):
        rehearsal.fits(None)  # type: ignore[arg-type]  # raised in our file


def test_a_fault_of_ours_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "study.toml").write_text(STUDY.format(model='model = "mlp"', arms=DENSE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["prunefront", "run", "study.toml"])
    monkeypatch.setattr(
        rehearsal, "EXAMPLES", "planted"
    )  # `min` of a number and a text raises in our file
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == INTERNAL
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "rehearsal.py" in said
    assert "this is a fault of prunefront" in said.splitlines()[-1]


# ---- own algorithms


class Mine(GradientPruner):
    """An algorithm in which `method` is wrong in a subclass."""

    source = "a test"
    space = space(sparsity=Domain("real", 0.5, "the share removed", low=0, high=1, open_high=True))


class RaisesInStart(Mine):
    def start(self, task, members):
        raise KeyError("start")


class RaisesInStep(Mine):
    def effective(self, params, pruning, ctx):
        return {"nothing": params["nothing"]}


class ReturnsNothing(Mine):
    def advance(self, task, state):  # type: ignore[override]
        return None


class KeepsNoMask(Mine):
    def kept(self, params, pruning, ctx):
        return {"1.weight": params["1.weight"]}


class OtherArguments(Mine):
    def init(self, params):  # type: ignore[override]
        return {}


class RaisesInCheck(Mine):
    def check(self, task, hp):
        raise ValueError("check")


class Masked(Mine):
    """Removes every second entry, and is right about it."""

    def init(self, params, ctx):
        masks = {}
        for name in ctx.structure.parameters:
            masks[name] = (torch.arange(params[name].numel()) % 2 == 0).view(params[name].shape)
        return masks

    def effective(self, params, pruning, ctx):
        return {name: p * pruning[name] if name in pruning else p for name, p in params.items()}

    def kept(self, params, pruning, ctx):
        return pruning


class KeepsLessThanItSays(Masked):
    def kept(self, params, pruning, ctx):
        less = {}
        for name, mask in pruning.items():
            less[name] = mask & (torch.arange(mask.numel()) % 3 == 0).view(mask.shape)
        return less


class KeepsNothing(Masked):
    def kept(self, params, pruning, ctx):
        return {name: torch.zeros_like(mask) for name, mask in pruning.items()}


class MeasuresAnother(Masked):
    def measured(self, params, pruning, ctx):
        return params


class InitOfNothing(Masked):
    def init(self, params, ctx):  # type: ignore[override]
        return None


class InitOfText(Masked):
    def init(self, params, ctx):
        return {"mask": "abc"}


class EffectiveOfNothing(Masked):
    def effective(self, params, pruning, ctx):  # type: ignore[override]
        return None


class EffectiveOfPart(Masked):
    def effective(self, params, pruning, ctx):
        return {"1.weight": params["1.weight"]}


class KeptOfANumber(Masked):
    def kept(self, params, pruning, ctx):  # type: ignore[override]
        return 5


class PenaltyOfEachWeight(Masked):
    def penalty(self, params, pruning, ctx):
        return params["1.weight"].abs()


class AfterStepOfNothing(Masked):
    follows = True

    def after_step(self, params, pruning, ctx):  # type: ignore[override]
        return None


class MetricsOfNumbers(Masked):
    def metrics(self, params, pruning):  # type: ignore[override]
        return {"mine": 3.0}


class SpaceOfNumbers(Mine):
    space = 5  # type: ignore[assignment]


class VersionOfText(Mine):
    version = "x"  # type: ignore[assignment]


_ZERO = "what `kept` leaves out is zero in the network that `effective` gives; got "
OWN = (
    ("KeepsLessThanItSays", _ZERO),
    ("KeepsNothing", _ZERO),
    ("MeasuresAnother", _ZERO),
    ("InitOfNothing", "`init` returns a dict of tensors by name; got NoneType"),
    ("InitOfText", "`init` returns a dict of tensors by name; got str for 'mask'"),
    ("EffectiveOfNothing", "`effective` returns a dict of tensors by name; got NoneType"),
    (
        "EffectiveOfPart",
        "`effective` returns all parameters of the network by name; it lacks 1.bias",
    ),
    ("KeptOfANumber", "`kept` returns a dict of tensors by name; got int"),
    (
        "PenaltyOfEachWeight",
        "`penalty` returns a tensor of shape (), or None; got a tensor of shape (4, 64)",
    ),
    ("AfterStepOfNothing", "`after_step` returns parameters and pruning; got NoneType"),
    ("MetricsOfNumbers", "`metrics` returns a dict of tensors by name; got float for 'mine'"),
    ("RaisesInStart", "starts two members; it raised KeyError: 'start' (test_rehearsal.py, line "),
    (
        "RaisesInStep",
        "advances to the first rung; it raised KeyError: 'nothing' (test_rehearsal.py, line ",
    ),
    ("ReturnsNothing", "`advance` returns a State; got NoneType"),
    (
        "KeepsNoMask",
        "`kept` of its networks is True where an entry is kept; got torch.float32 for 1.weight",
    ),
    ("OtherArguments", "`init` takes self, params, ctx; with these, too many positional arguments"),
    (
        "RaisesInCheck",
        "checks its hyper-parameters; it raised ValueError: check (test_rehearsal.py, line ",
    ),
)

STUDY = '[study]\nname = "s"\nseeds = [0, 1]\n[task]\nepochs = 2\nrungs = 1\n{model}\n{arms}'
DENSE = '[[arm]]\nalgorithm = "dense"\n'


def planned(folder: Path, model: str, arms: str, controlled: bool = False):
    text = STUDY.format(model=model, arms=arms)
    if controlled:
        text = text.replace("[task]", 'controls = "standard"\n[task]')
    (folder / "study.toml").write_text(text)
    return read(folder / "study.toml")


@pytest.mark.parametrize(("name", "sentence"), OWN)
def test_own_algorithms(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(Mistake) as refused:
        checks.check(planned(tmp_path, "widths = [4]", f'[[arm]]\nalgorithm = "{HERE}.{name}"\n'))
    assert f'arm "{HERE}.{name}": algorithm {HERE}.{name}: {sentence}' in str(refused.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("SpaceOfNumbers", "`space` is a dict of Domains by name; got 5"),
        ("VersionOfText", "`version` is a whole number; got 'x'"),
    ],
)
def test_own_algorithms_that_say_wrong_things_of_themselves(name: str, sentence: str) -> None:
    with pytest.raises(Mistake) as refused:
        algorithms.find(f"{HERE}.{name}")
    assert sentence in str(refused.value)


@pytest.mark.parametrize("name", ["Mine", "Masked"])
def test_a_sound_algorithm_of_a_users_own(tmp_path: Path, name: str) -> None:
    checks.check(planned(tmp_path, "widths = [4]", f'[[arm]]\nalgorithm = "{HERE}.{name}"\n'))
    assert not algorithms.is_ours(algorithms.find(f"{HERE}.Mine"))
    assert all(map(algorithms.is_ours, algorithms.known().values()))


class TextForCandidates(algorithms.Masked):
    """What Weedout has as a number is text here."""

    source = "a test"
    space = {
        **algorithms.Masked.space,
        "candidates": Domain("choice", "few", "how many", choices=("few", "many"), static=True),
    }

    def scores(self, params: Any, ctx: Any) -> Any:
        return params


def test_hyper_parameters_of_one_name_are_one_column(tmp_path: Path) -> None:
    """A study that would write a column of text and of numbers could never be read again."""
    own = f'[[arm]]\nalgorithm = "{HERE}.TextForCandidates"\n'
    checks.check(planned(tmp_path, "widths = [4]", own))
    searched = '[[arm]]\nalgorithm = "weedout"\n'
    sentence = (
        f'arm "{HERE}.TextForCandidates": hyper-parameters `candidates` are one column of the rows'
        ', of text or of numbers; `candidates` is string here and int64 in arm "weedout"; give one'
    )
    with pytest.raises(Mistake) as refused:
        checks.check(planned(tmp_path, "widths = [4]", searched + own))
    assert sentence in str(refused.value)


def test_algorithms_of_ours_fit_into_one_table() -> None:
    kinds: dict[str, bool] = {}
    for name, algorithm in algorithms.known().items():
        for key, kind in hp_types(algorithm.space).items():
            is_text = str(kind) == "string"
            assert kinds.setdefault(key, is_text) == is_text, (name, key)


# ---- arms that cannot run


def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    return {"train": (random.normal(size=(200, 1, 16, 16)), random.integers(4, size=200))}


def test_structured_arms_are_skipped_with_what_stood_in_the_way(tmp_path: Path) -> None:
    model = f'model = "{HERE}.pooled"'
    obstacle = "1: they are not what 3 takes for its columns"
    why = (
        "it needs hidden units whose readers are all known; "
        f"model {HERE}.pooled has none ({obstacle})"
    )
    lasso = '[[arm]]\nalgorithm = "group_lasso"\n'
    study = planned(tmp_path, model, DENSE + lasso)
    checks.check(study)
    assert checks.skipped(study.arms[1], study.task) == why
    with pytest.raises(Mistake) as refused:
        checks.check(planned(tmp_path, model, lasso))
    assert (
        str(refused.value)
        == f'at least one arm can run on the task; got none: arm "group_lasso": {why}'
    )
    with pytest.raises(Mistake, match="`granularity` node: it needs hidden units"):
        checks.check(
            planned(tmp_path, model, '[[arm]]\nalgorithm = "chance"\nspace.granularity = "node"\n')
        )


IMAGES = 'model = "lenet5"\ndataset = "test_rehearsal.images"\n'


@pytest.mark.parametrize(
    ("model", "arm", "reason"),
    [
        (
            "widths = [12, 19]",
            "cronos_am",
            "the last hidden layer has two units for each class, 20 or more, and a layer before it; mlp has 19",
        ),
        (
            'model = "lenet5"\ndataset = "test_rehearsal.images"\naugment = ["flip"]',
            "cronos",
            "the data are trained on as they are",
        ),
    ],
)
def test_a_convex_arm_that_the_task_does_not_allow_is_skipped_where_others_can_run(
    tmp_path: Path, model: str, arm: str, reason: str
) -> None:
    table = f'[[arm]]\nalgorithm = "{arm}"\n'
    study = planned(tmp_path, model, DENSE + table)
    checks.check(study)
    assert reason in str(checks.skipped(study.arms[1], study.task))
    with pytest.raises(Mistake, match="at least one arm can run on the task; got none"):
        checks.check(planned(tmp_path, model, table))


# ---- trained weights


def trained(shape: tuple[int, ...], classes: int, width: float = 1) -> nn.Module:
    """A model that loads weights: those of one seed, as from a file. Its last layer is new."""
    units = round(8 * width)
    first = nn.Linear(64, units)
    with torch.no_grad():
        first.weight.copy_(torch.linspace(-1, 1, 64 * units).view(units, 64))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(units, classes))


def test_trained_weights_are_seen() -> None:
    assert task("trained").loaded == "1.weight"
    assert task("normed").loaded == ""
    assert Task(model="mlp").loaded == ""


def test_controls_that_need_new_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    magnitude = '[[arm]]\nalgorithm = "magnitude"\nspace.sparsity = [0.5]\n'
    other = planned(tmp_path, "", magnitude, controlled=True)
    assert controls.cautions(other) == []
    names = {arm.name for arm in other.arms}
    assert {"dense, narrower", "magnitude, from scratch", "magnitude, re-initialised"} <= names

    study = planned(tmp_path, f'model = "{HERE}.trained"', magnitude, controlled=True)
    assert names - {arm.name for arm in study.arms} == {
        "dense, narrower",
        "magnitude, from scratch",
        "magnitude, re-initialised",
    }
    first, second = controls.cautions(study)
    assert (
        f"model function {HERE}.trained gives 1.weight the same initial weights for every seed"
        in first
    )
    assert second.endswith("re-initialised, from scratch, dense, narrower.")

    scratch = planned(
        tmp_path, f'model = "{HERE}.trained"', DENSE + '[[arm]]\nalgorithm = "scratch"\n'
    )
    checks.check(scratch)
    assert str(checks.skipped(scratch.arms[1], scratch.task)).startswith(
        "it needs new initial weights; model "
    )


def test_the_plan_and_the_page_say_so(tmp_path: Path) -> None:
    from prunefront.analysis.rows import table
    from prunefront.analysis.sections import headline

    study = planned(tmp_path, f'model = "{HERE}.trained"', DENSE)
    generations.Plan(study, tmp_path / "out", 1).open()
    said = table.cautions(tmp_path / "out")
    assert said == controls.cautions(study)
    counts = headline.Counts("m", "d", 1, 1, 1, 1.0, 1.0, 0)
    page = "".join(headline.told(counts, [], said))
    assert "no figure here says whether the weights were needed" in page


# ---- models of other kinds


class Complex(nn.Module):
    def __init__(self, *given: object) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.complex(self.head(x.flatten(1)), x.flatten(1)[:, :10])


def lazy(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def frozen(shape: tuple[int, ...], classes: int) -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    module.requires_grad_(False)
    return module


def talkative(shape: tuple[int, ...], classes: int) -> nn.Module:
    raise RuntimeError("boom\nand more")


def silent(shape: tuple[int, ...], classes: int) -> nn.Module:
    raise MemoryError


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("Complex", "gives logits that are real numbers; got torch.complex64"),
        (
            "lazy",
            "is returned with all its parameters made: call a lazy module once before; "
            "got 1.weight without values",
        ),
        ("frozen", "has removable layers (linear or convolution); got none (1: it is frozen)"),
        ("talkative", "it raised RuntimeError: boom ... (test_rehearsal.py, line "),
        ("silent", "it raised MemoryError (test_rehearsal.py, line "),
    ],
)
def test_models_of_other_kinds_are_refused_in_plain_words(model: str, sentence: str) -> None:
    with pytest.raises(Mistake) as refused:
        Task(model=f"{HERE}.{model}").check()
    assert sentence in str(refused.value)


def test_a_budget_beyond_all_measure_is_refused() -> None:
    with pytest.raises(
        Mistake, match=r"`epochs` makes at most 1,000,000,000 steps .* got 1e\+18 epochs"
    ):
        Task(epochs=1e18, model_options={"widths": [4]}).check()


def test_tied_weights_do_not_hinder_a_study(tmp_path: Path) -> None:
    study = planned(tmp_path, 'model = "example_models.odd"', DENSE)
    checks.check(study)
    assert study.task.loaded == ""
    checks.cautions(study)


class Frozen(nn.Module):
    """A residual branch that ends with a batch-norm layer that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16)
        )
        self.branch[-1].requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def frozen_end(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Frozen(), nn.Linear(16, classes))


def frozen_between(shape: tuple[int, ...], classes: int) -> nn.Module:
    norm = nn.BatchNorm1d(16).requires_grad_(False)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 16),
        norm,
        nn.ReLU(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, classes),
    )


@pytest.mark.parametrize("model", ["frozen_end", "frozen_between"])
@pytest.mark.parametrize(
    "name",
    ["dense", "magnitude", "chance", "l1_filters", "group_lasso", "complexity_aware", "depgraph"],
)
def test_norms_that_are_not_trained_hinder_nobody(model: str, name: str) -> None:
    """As in a network whose trained weights were loaded: its parameters are no part of what a
    cohort trains.
    """
    task = Task(model=f"{HERE}.{model}", epochs=0.5, rungs=1)
    algorithm = algorithms.find(name)
    assert not task.structure.blocks, "a frozen layer is never at zero"
    assert task.structure.hidden
    members = [Member(complete(algorithm.space, {}), seed) for seed in range(2)]
    state = algorithm.advance(task, algorithm.start(task, members))
    assert len(measure(task, algorithm, state, last=True)) == 2
