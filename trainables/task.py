"""The task: data set, model and training budget, the same for every arm of a study."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from ..analysis.rows.mistake import Mistake
from . import models
from .contract import Algorithm, Domain, Member, canonical
from .data import splits
from .measure.flops import CONVOLUTIONS, Counts, count
from .structure import graph, trial
from .structure.narrow import Cut, narrowed, narrowed_module
from .structure.units import Structure
from .training import dropout, stack

MOST_STEPS = 1_000_000_000
"""Optimiser steps that a member may have: more is a slip of the pen."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What every member is trained on, and with what budget.

    epochs: the whole budget; a dense phase is inside it.  dense_share: share of the budget that the
    dense phase takes, for algorithms that start from a trained network.  rungs: number of points,
    evenly spaced over what follows the dense phase, at which members are measured.  lr,
    weight_decay: an arm's hyper-parameters of the same names override them.  momentum: of sgd.
    schedule of the learning rate: constant; cosine to 0; inverse, (1 + 1e-4 step)^-0.75 (Caffe's
    LeNet).  split_seed: draws the splits that the data set lacks.  augment: what is done to
    training images, out of crop (up to 4 pixels, zeros around) and flip (left and right).  device:
    auto takes a GPU if there is one.  stream: whether inputs stay where they are and are read batch
    by batch; auto: if they would take more than half of the device's free memory; results are the
    same.  starts: a folder in which cohorts share the trained networks of a dense phase; empty:
    each trains its own.
    """

    dataset: str = "digits"
    model: str = "mlp"
    epochs: float = 40
    batch_size: int = 32
    optimizer: Literal["sgd", "adam", "dadapt_adam"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "inverse"] = "cosine"
    rungs: int = 4
    dense_share: float = 0.4
    split_seed: int = 0
    augment: Sequence[str] = ()
    dtype: Literal["float32", "float64"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    stream: Literal["auto", "always", "never"] = "auto"
    starts: str = ""
    dataset_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("dataset", "model"):
            if not isinstance(getattr(self, name), str):
                raise Mistake(f"`{name}` is a name or a dotted path; got {getattr(self, name)!r}")
        for name, domain in DOMAINS.items():
            try:
                object.__setattr__(self, name, domain.check(getattr(self, name)))
            except Mistake as error:
                raise Mistake(f"`{name}` {error}") from None
        given, known = self.augment, splits.AUGMENTATIONS
        if (
            not isinstance(given, list | tuple)
            or not all(kind in known for kind in given)
            or len(set(given)) < len(given)
        ):
            raise Mistake(
                f"`augment` is a list of distinct words out of {', '.join(known)}; got {given!r}"
            )
        object.__setattr__(
            self, "augment", [kind for kind in known if kind in given]
        )  # their order means nothing
        if self.epochs <= 0:
            raise Mistake(f"`epochs` is the training budget and lies above 0; got {self.epochs}")

    def __reduce__(self) -> tuple[type[Task], tuple[Any, ...]]:
        """Pickled as its fields: a worker loads the data itself, once."""
        return Task, tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @functools.cached_property
    def torch_device(self) -> torch.device:
        """The device that members train on."""
        return torch.device("cuda" if self.device == "auto" and torch.cuda.is_available() else
                            "cpu" if self.device == "auto" else self.device)  # fmt: skip

    @functools.cached_property
    def torch_dtype(self) -> torch.dtype:
        """The type of parameters and inputs."""
        return getattr(torch, self.dtype)

    @functools.cached_property
    def data(self) -> splits.Data:
        """The data set, on the device."""
        place = (self.torch_dtype, self.torch_device, self.stream)
        found = splits.load(self.dataset, self.dataset_options, self.split_seed, *place)
        if self.augment and len(found.shape) != 3:
            raise Mistake(
                f"`augment` is for images, (channels, height, width); got inputs of shape {found.shape}"
            )
        if self.batch_size > len(found.labels["train"]):
            have = len(found.labels["train"])
            default = ", the default" if self.batch_size == type(self).batch_size else ""
            raise Mistake(
                f"`batch_size` is at most the number of training examples, {have}; got {self.batch_size}{default}"
            )
        return found

    def build(self, seed: int) -> nn.Module:
        """The model with the initial weights of `seed`, on the device; the global random state is
        left as it was.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = models.build(
                self.model, self.data.shape, self.data.classes, **self.model_options
            )
        return module.to(self.torch_device, self.torch_dtype)

    @functools.cached_property
    def loaded(self) -> str:
        """A layer's weight with the same initial values for two seeds, though they are not all one
        number; "" if none has.

        The model function then loads trained weights, or draws by a seed of its own, and no initial
        weights are new.
        """
        one, other = self.build(0), self.build(1)
        values = dict(other.named_parameters(remove_duplicate=False))
        for layer, part in one.named_modules():
            if isinstance(part, (nn.Linear, *CONVOLUTIONS)):
                for name, parameter in part.named_parameters(layer):
                    varies = (
                        parameter.ndim > 1
                        and parameter.requires_grad
                        and bool((parameter != parameter.flatten()[0]).any())
                    )
                    if varies and torch.equal(parameter, values[name]):
                        return name
        return ""

    @property
    def loaded_reason(self) -> str | None:
        """Why nothing can be trained from new initial weights, or None if it can."""
        if not self.loaded:
            return None
        return f"it needs new initial weights; model {self.model} gives {self.loaded} the same ones for every seed"

    def initial(self, seeds: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers, name -> (K, ...), with the initial weights of `seeds`; equal
        seeds are drawn once.
        """
        distinct = {seed: dropout.prepare(self.build(seed)) for seed in dict.fromkeys(seeds)}
        return stack.stacked([distinct[seed] for seed in seeds])

    @functools.cached_property
    def template(self) -> nn.Module:
        """The model's code, its dropout drawing by counter; its parameter values are not used."""
        return dropout.prepare(self.build(0))

    @functools.cached_property
    def stackable(self) -> bool:
        """Whether `vmap` takes the model; if not, members train one after the other."""
        return stack.can_stack(
            dropout.prepare(self.build(0)), self.data.examples("train", torch.arange(2))
        )

    @functools.cached_property
    def narrows(self) -> bool:
        """Whether a network trains in the same way with its removed units cut out.

        Not if dropout acts on hidden units: it draws by their place.
        """
        found, examples = self.structure, self.data.examples("train", torch.arange(2))
        widths = {layer.name: max(1, layer.units - 1) for layer in found.hidden}
        narrower = narrowed_module(self.template, found, Cut(widths))
        return dropout.shapes(narrower, examples) == dropout.shapes(self.template, examples)

    @functools.cached_property
    def counts(self) -> Counts:
        """FLOPs and parameters of the parent."""
        return count(self.build(0), self.data.shape)

    @functools.cached_property
    def structure(self) -> Structure:
        """The removable layers, and which units of one feed which columns of another."""
        return trial.find(self.build(0), self.data.shape)

    def cut(self, settings: Mapping[str, Any] | None) -> tuple[nn.Module, Structure]:
        """Template and structure of a stack that was cut to the shape of `Cut(**settings)`; None:
        of one that was not.
        """
        if settings is None:
            return self.template, self.structure
        key = json.dumps(settings, sort_keys=True)
        if key not in self._cuts:
            cut = Cut(settings["widths"], tuple(settings["gone"]))
            found = (
                narrowed_module(self.template, self.structure, cut),
                narrowed(self.structure, cut),
            )
            self._cuts.clear()  # a cohort has one shape at a time
            self._halves.clear()
            self._cuts[key] = found
        return self._cuts[key]

    def halves(
        self, settings: Mapping[str, Any] | None, layer: str | None, block: str | None
    ) -> tuple[nn.Module, nn.Module]:
        """The template of `cut`, cut in two by `tracing.halves`."""
        module, structure = self.cut(settings)
        shape = json.dumps(settings, sort_keys=True)
        if shape not in self._halves:
            self._halves[shape] = graph.divisible(module), {}
        whole, known = self._halves[shape]
        if (layer, block) not in known:
            known[layer, block] = graph.halves(module, whole, structure, layer, block)
        return known[layer, block]

    @functools.cached_property
    def _halves(
        self,
    ) -> dict[
        str, tuple[fx.Graph, dict[tuple[str | None, str | None], tuple[nn.Module, nn.Module]]]
    ]:
        return {}

    @functools.cached_property
    def _cuts(self) -> dict[str, tuple[nn.Module, Structure]]:
        return {}

    def check(self, rehearsed: bool = True) -> None:
        """Raise Mistake with one sentence if data, model and budget do not fit together.

        rehearsed: a training step, evaluation, shrinking and files are tried too
        (`rehearsal.rehearse`).
        """
        if self.torch_device.type == "cuda" and not torch.cuda.is_available():
            raise Mistake("`device` cuda is a GPU that torch can use; got none")
        from . import rehearsal  # it needs the loop that trains tasks

        rehearsal.fits(self)
        if rehearsed:
            rehearsal.rehearse(self)
        if self.steps > MOST_STEPS:
            rule = f"`epochs` makes at most {MOST_STEPS:,} steps of {self.batch_size} examples, a year at 30 a second"
            raise Mistake(f"{rule}; got {self.epochs:g} epochs, {self.steps:,} steps")
        after_dense = self.steps - self.dense_steps
        if self.rungs > after_dense:
            raise Mistake(
                f"`rungs` is at most the number of steps after the dense phase, {after_dense}; got {self.rungs}"
            )

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
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for place in ("device", "stream", "starts", "dataset_options"):
            fields.pop(place)
        return {
            **fields,
            "model_options": dict(self.model_options),
            "data_digest": self.data.digest,
        }

    def to_json(self) -> dict[str, Any]:
        """Keyword arguments that build this task again."""
        return dataclasses.asdict(self)


def identity(
    task: Task, name: str, algorithm: Algorithm, member: Member, version: int | None = None
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


DOMAINS = {
    "optimizer": Domain(
        "choice", "", "the optimiser", choices=("sgd", "adam", "dadapt_adam"), static=True
    ),
    "schedule": Domain(
        "choice",
        "",
        "the learning rate's course",
        choices=("constant", "cosine", "inverse"),
        static=True,
    ),
    "dtype": Domain(
        "choice", "", "the type of parameters", choices=("float32", "float64"), static=True
    ),
    "device": Domain(
        "choice", "", "where members train", choices=("auto", "cpu", "cuda"), static=True
    ),
    "stream": Domain(
        "choice", "", "where inputs are kept", choices=("auto", "always", "never"), static=True
    ),
    "epochs": Domain("real", 0, "the training budget in passes over the training data", low=0),
    "batch_size": Domain("whole", 1, "the number of examples in a step", low=1),
    "lr": Domain("real", 0, "the learning rate", low=0),
    "momentum": Domain("real", 0, "the momentum of sgd", low=0, high=1, open_high=True),
    "weight_decay": Domain("real", 0, "the weight of the L2 penalty", low=0),
    "rungs": Domain("whole", 1, "the number of measurements", low=1),
    "dense_share": Domain(
        "real", 0, "the share of the budget for a dense phase", low=0, high=1, open_high=True
    ),
    "split_seed": Domain("whole", 1, "the seed of the splits", low=0),
}
"""The keys of a task that hold one number or word, and the values that each may have."""
