"""The task: data set, model and training budget, the same for every arm of a study."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..analysis.rows.mistake import Mistake
from . import models
from .contract import Algorithm, Member
from .data.augment import AUGMENTATIONS
from .data.changes import Changes
from .data.dataset import Data
from .data.readers import DATASETS
from .domain import Domain, canonical
from .measure.flops import Counts
from .structure import wrapping
from .structure.units import Structure
from .training import dropout, engine, stack
from .training import precision as precisions
from .workbench import Workbench, seeded

MAX_STEPS = 1_000_000_000
"""Optimiser steps that a member may have: more is a slip of the pen."""


Takes = Mapping[str, tuple[Mapping[str, bool], bool]]
"""Of data set and model: its options, as from `models.options`."""


@dataclasses.dataclass(frozen=True, init=False)
class Task:
    """What every member is trained on, and with what budget.

    epochs: the whole budget; a dense phase is inside it.  dense_share: share of the budget that the
    dense phase takes, for algorithms that start from a trained network.  rungs: number of points,
    evenly spaced over what follows the dense phase, at which members are measured.  lr,
    weight_decay: an arm's hyper-parameters of the same names override them.  momentum: of sgd.
    schedule of the learning rate: constant; cosine or linear to 0; inverse, (1 + 1e-4 step)^-0.75
    (Caffe's LeNet); auto: the algorithm's own, and cosine for those without.  warmup: the share of
    the steps in which the rate rises first; the schedule has the rest.  split_seed: draws the
    splits that the data set lacks.  train_share, label_noise, imbalance: `data.changes.Changes` of
    the training split.  augment: what is done to training images, out of crop (up to 4
    pixels, zeros around) and flip (left and right).  precision: what training computes in.
    float64, float32: everything.  tf32: as float32, but on a GPU products of matrices and
    convolutions have the 10 bits of TF32; on a CPU it changes nothing.  bf16: these are computed in
    bfloat16, by autocast; parameters, masks, losses, gradients and statistics stay float32.  Rows
    are measured in float32, in float64 if that is the precision, as networks are exported.  There
    is no float16: its gradients vanish unless the loss is scaled, by a factor that is found by
    steps that fail.  device: auto takes a GPU if there is one.
    stream: whether inputs stay where they are and are read batch by batch; auto: if they would take
    more than half of the device's free memory; results are the same.  compile: whether steps of a
    cohort are compiled.  together: how many of its members are trained in one program, 1: one after
    the other, 0: all.  auto: what is fastest, as far as is known (`training.engine`).
    starts: a folder in which cohorts share the trained networks of a dense phase; empty: each
    trains its own.
    """

    dataset: str = "digits"
    model: str = "mlp"
    epochs: float = 40
    batch_size: int = 32
    optimizer: Literal["sgd", "adam", "dadapt_adam", "dadapt_adamw"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["auto", "constant", "cosine", "inverse", "linear"] = "auto"
    warmup: float = 0.0
    rungs: int = 4
    dense_share: float = 0.4
    split_seed: int = 0
    train_share: float = 1.0
    label_noise: float = 0.0
    imbalance: float = 1.0
    augment: Sequence[str] = ()
    precision: Literal["float64", "float32", "tf32", "bf16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    stream: Literal["auto", "always", "never"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    together: int | Literal["auto"] = "auto"
    starts: str = ""
    dataset_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __init__(self, dataset: str = "digits", model: str = "mlp", **keys: Any) -> None:
        """keys: as in a study's table [task], and like there options of the data set and of the
        model stand beside the rest.

        A recorded task has these apart, in `dataset_options` and `model_options`, which are taken
        as they are.  `dtype`, the type of parameters, is how older studies and tasks name their
        precision.  Raises Mistake for a key or a value that does not fit.
        """
        given = {"dataset": dataset, "model": model, **keys}
        named = precisions.settled(given.get("precision"), given.pop(OLD, None))
        if named is not None:
            given["precision"] = named
        for field in dataclasses.fields(Task):
            default = _default(field)
            self._keep(field.name, given.pop(field.name, default))
        self._check_values()
        if given:  # or a module could not name its own functions in a task while it is imported
            by_home = self._sorted(given)
            for home, options in by_home.items():
                self._keep(f"{home}_options", options)
        self._keep("_workbench", Workbench(self))  # not a field

    def _keep(self, name: str, value: Any) -> None:
        """Set an attribute while the frozen value is made."""
        object.__setattr__(self, name, value)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Task:
        """The task of a study's table [task]; what only recorded tasks have is no key of it."""
        own: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for key, value in table.items():
            home = own if key in (*KEYS, OLD) else others
            home[key] = value
        task = cls(**own)
        by_home = task._sorted(others)
        for home, options in by_home.items():
            task._keep(f"{home}_options", options)
        return task

    def _sorted(self, given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The options of data set and model, with those `given` of either.

        Raises Mistake for one that neither takes, and if one is missing.
        """
        dataset = models.lookup(self.dataset, DATASETS, "dataset")
        takes = {
            "dataset": models.options(dataset),
            "model": wrapping.options(self.model),
        }
        options = {
            "dataset": dict(self.dataset_options),
            "model": dict(self.model_options),
        }
        for key, value in given.items():
            home = _home(key, takes)
            if home is None:
                raise self._unknown(key, takes)
            options[home][key] = value
        for home, (names, _) in takes.items():
            owner = getattr(self, home)
            for name, is_required in names.items():
                if is_required and name not in options[home]:
                    raise Mistake(f"`{name}` is missing: {home} {owner} needs it")
        options["model"] = wrapping.settled(self.model, options["model"])
        return options

    def _unknown(self, key: str, takes: Takes) -> Mistake:
        known = set(KEYS)
        for names, _ in takes.values():
            known.update(names)
        whose = f"of a task with dataset {self.dataset} and model {self.model}"
        listed = sorted(known)
        hint = models.hint(key, listed)
        return Mistake(f"`{key}` is no key {whose};{hint}")

    def _check_values(self) -> None:
        for name in ("dataset", "model"):
            if not isinstance(getattr(self, name), str):
                raise Mistake(f"`{name}` is a name or a dotted path; got {getattr(self, name)!r}")
        for name, domain in DOMAINS.items():
            try:
                value = domain.check(getattr(self, name))
            except Mistake as error:
                raise Mistake(f"`{name}` {error}") from None
            self._keep(name, value)
        _check_execution(self.compile, self.together)
        self._keep("augment", _augmentations(self.augment))
        if self.train_share <= 0:
            rule = "`train_share` is the share of the training examples that is kept"
            raise Mistake(f"{rule} and lies above 0; got {self.train_share}")
        if self.epochs <= 0:
            raise Mistake(f"`epochs` is the training budget and lies above 0; got {self.epochs}")

    def __reduce__(self) -> tuple[Callable[[], Task], tuple[()]]:
        """Pickled as its fields: a worker loads the data itself, once."""
        fields = self._fields()
        again = functools.partial(Task, **fields)
        return again, ()

    def _fields(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    # What is loaded and found out, once.

    @property
    def workbench(self) -> Workbench:
        """Where the data, and what was found out about the model, are kept."""
        return vars(self)["_workbench"]

    def run_as(self, together: int, compiles: bool) -> Task:
        """The same task, its members run in this way; all that was found out is shared."""
        same = dataclasses.replace(self, together=together, compile=compiles)
        same._keep("_workbench", self.workbench)
        return same

    @property
    def torch_device(self) -> torch.device:
        """The device that members train on."""
        return self.workbench.device

    @property
    def data(self) -> Data:
        """The data set, on the device."""
        return self.workbench.data

    @property
    def loaded(self) -> str:
        """`Workbench.loaded`."""
        return self.workbench.loaded

    @property
    def template(self) -> nn.Module:
        """`Workbench.template`."""
        return self.workbench.template

    @property
    def stackable(self) -> bool:
        """`Workbench.stackable`."""
        return self.workbench.stackable

    @property
    def narrows(self) -> bool:
        """`Workbench.narrows`."""
        return self.workbench.narrows

    @property
    def counts(self) -> Counts:
        """FLOPs and parameters of the parent."""
        return self.workbench.counts

    @property
    def structure(self) -> Structure:
        """The removable layers, and which units of one feed which columns of another."""
        return self.workbench.structure

    # The model, and the budget.

    @property
    def changes(self) -> Changes:
        """What is done to the training split."""
        return Changes(self.train_share, self.label_noise, self.imbalance)

    @property
    def dtype(self) -> str:
        """The name of the type of parameters and inputs, in which networks are measured."""
        return precisions.PARAMETERS[self.precision]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of parameters and inputs."""
        return getattr(torch, self.dtype)

    def build(self, seed: int) -> nn.Module:
        """The model with the initial weights of `seed`, on the device; the global random state is
        left as it was.
        """
        with seeded(seed):
            data = self.data  # inside: its reader may draw too
            module = wrapping.build(self.model, data.shape, data.classes, **self.model_options)
        return module.to(self.torch_device, self.torch_dtype, non_blocking=True)

    @property
    def loaded_reason(self) -> str | None:
        """Why nothing can be trained from new initial weights, or None if it can."""
        if not self.loaded:
            return None
        rule = "it needs new initial weights"
        return f"{rule}; model {self.model} gives {self.loaded} the same ones for every seed"

    def initial(self, seeds: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers, name -> (K, ...), with the initial weights of `seeds`; equal
        seeds are drawn once.
        """
        modules: dict[int, nn.Module] = {}
        for seed in seeds:
            if seed in modules:
                continue
            module = self.build(seed)
            modules[seed] = dropout.prepare(module)
        members = [modules[seed] for seed in seeds]
        return stack.stacked(members)

    def check(self, rehearsed: bool = True) -> None:
        """Raise Mistake with one sentence if data, model and budget do not fit together.

        rehearsed: a training step, evaluation, shrinking and files are tried too
        (`rehearsal.rehearse`).
        """
        if self.torch_device.type == "cuda" and not torch.cuda.is_available():
            raise Mistake("`device` cuda is a GPU that torch can use; got none")
        self._sorted({})  # says which option is missing
        engine.check(self)
        from . import rehearsal  # it needs the loop that trains tasks

        rehearsal.fits(self)
        if rehearsed:
            rehearsal.rehearse(self)
        if self.steps > MAX_STEPS:
            most = f"`epochs` makes at most {MAX_STEPS:,} steps of {self.batch_size} examples"
            got = f"{self.epochs:g} epochs, {self.steps:,} steps"
            raise Mistake(f"{most}, a year at 30 a second; got {got}")
        after_dense = self.steps - self.dense_steps
        if self.rungs > after_dense:
            rule = "`rungs` is at most the number of steps after the dense phase"
            raise Mistake(f"{rule}, {after_dense}; got {self.rungs}")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training data; the remainder of each epoch's order is left out."""
        return len(self.data.labels["train"]) // self.batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps in the whole budget."""
        return max(1, round(self.epochs * self.steps_per_epoch))

    @property
    def dense_steps(self) -> int:
        """Optimiser steps of the dense phase, for algorithms that start from one."""
        return round(self.dense_share * self.steps)

    def rung_step(self, steps: int, rung: int) -> int:
        """The step, of `steps` after the dense phase, at which rung 1, 2, ..., `rungs` lies."""
        return round(steps * rung / self.rungs)

    def describe(self) -> dict[str, Any]:
        """All that results depend on, JSON: names, options and budget, and the data by its digest
        instead of its place.
        """
        fields = self._fields()
        for place in PLACES:
            fields.pop(place)
        fields["model_options"] = wrapping.settled(self.model, self.model_options)
        if fields["schedule"] == "auto":
            fields["schedule"] = "cosine"
        for key in LATER:
            if fields[key] == _default_of(key):
                fields.pop(key)
        if self.precision == self.dtype:
            fields.pop("precision")
        fields[OLD] = self.dtype
        return {**fields, "data_digest": self.data.digest}

    def to_json(self) -> dict[str, Any]:
        """Keyword arguments that build this task again."""
        return dataclasses.asdict(self)


PLACES = ("device", "stream", "compile", "together", "starts", "dataset_options")
"""Where and how a task is run: fields that its results do not depend on, but for rounding."""
LATER = ("warmup", "train_share", "label_noise", "imbalance")
"""Keys that came later. At their defaults they are no part of a member's name, so that members of
older studies keep theirs.
"""
OLD = "dtype"
"""The key that was there before `precision`: the type of parameters. It is taken still, and a
member's name has it, with the precision beside it where that is another.
"""
KEYS = tuple(
    field.name
    for field in dataclasses.fields(Task)
    if field.name not in ("starts", "dataset_options", "model_options")
)
"""The keys of a study's table [task] but for options of data set and model."""


def _home(key: str, takes: Takes) -> str | None:
    """What takes the option `key`: by its name, or else because it takes any."""
    for home, (names, _) in takes.items():
        if key in names:
            return home
    for home, (_, takes_any) in takes.items():
        if takes_any:
            return home
    return None


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _default_of(key: str) -> Any:
    """The default of a key."""
    (field,) = (field for field in dataclasses.fields(Task) if field.name == key)
    return _default(field)


def _augmentations(given: Any) -> list[str]:
    """The words of `augment` in the order in which they are known: theirs means nothing."""
    known = AUGMENTATIONS
    is_list = isinstance(given, list | tuple)
    are_known = is_list and all(kind in known for kind in given)
    are_distinct = are_known and len(set(given)) == len(given)
    if not are_distinct:
        words = ", ".join(known)
        rule = f"`augment` is a list of distinct words out of {words}"
        raise Mistake(f"{rule}; got {given!r}")
    return [kind for kind in known if kind in given]


def _check_execution(compiles: Any, together: Any) -> None:
    """Raise Mistake for what says nothing of how members are run."""
    if compiles != "auto" and not isinstance(compiles, bool):
        rule = '`compile` is true, false or "auto": whether steps are compiled'
        raise Mistake(f"{rule}; got {compiles!r}")
    is_count = isinstance(together, int) and not isinstance(together, bool) and together >= 0
    if together != "auto" and not is_count:
        rule = "`together` is how many members are trained in one program: a whole number, 0"
        raise Mistake(f'{rule} for all of a cohort, or "auto"; got {together!r}')


def identity(
    task: Task,
    name: str,
    algorithm: Algorithm,
    member: Member,
    version: int | None = None,
) -> str:
    """A member's name: the same network is found again under it, whatever the arm. version: if not
    the algorithm's.
    """
    parts = [
        name,
        algorithm.version if version is None else version,
        task.describe(),
        canonical(algorithm.space, member.hp),
        member.seed,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _word(about: str, *choices: str) -> Domain:
    return Domain("choice", "", about, choices=choices, static=True)


def _number(about: str, **limits: Any) -> Domain:
    return Domain("real", 0, about, low=0, **limits)


def _whole(about: str, low: int) -> Domain:
    return Domain("whole", 1, about, low=low)


DOMAINS = {
    "optimizer": _word("the optimiser", "sgd", "adam", "dadapt_adam", "dadapt_adamw"),
    "schedule": _word(
        "the learning rate's course", "auto", "constant", "cosine", "inverse", "linear"
    ),
    "warmup": _number("the share of the steps in which the rate rises", high=1, open_high=True),
    "precision": _word("what training computes in", *precisions.PARAMETERS),
    "device": _word("where members train", "auto", "cpu", "cuda"),
    "stream": _word("where inputs are kept", "auto", "always", "never"),
    "epochs": _number("the training budget in passes over the training data"),
    "batch_size": _whole("the number of examples in a step", low=1),
    "lr": _number("the learning rate"),
    "momentum": _number("the momentum of sgd", high=1, open_high=True),
    "weight_decay": _number("the weight of the L2 penalty"),
    "rungs": _whole("the number of measurements", low=1),
    "dense_share": _number("the share of the budget for a dense phase", high=1, open_high=True),
    "split_seed": _whole("the seed of the splits", low=0),
    "train_share": _number("the share of the training examples that is kept", high=1),
    "label_noise": _number(
        "the share of the training labels that are wrong", high=1, open_high=True
    ),
    "imbalance": Domain(
        "real", 1, "how many times the last class's examples the first class has", low=1
    ),
}
"""The keys of a task that hold one number or word, and the values that each may have."""
