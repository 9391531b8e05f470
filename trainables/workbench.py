"""What is loaded and found out for a task, once: its data, and its model's code, structure and
counts.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..analysis.rows.mistake import Mistake
from . import models
from .data import splits
from .data.dataset import Data
from .measure.flops import Counts, count
from .structure import trial, wrapping
from .structure.narrow import Cut, narrowed_module
from .structure.units import Structure
from .training import dropout, precision, stack

if TYPE_CHECKING:
    from .task import Task


class Workbench:
    """The data and the model of one task, each part made when it is first asked for."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def share(self, other: Workbench) -> None:
        """Take over what another one has made already.

        Its task has the same data and model, and may have another budget.
        """
        for name in _SHARED:
            if name in vars(other):
                setattr(self, name, vars(other)[name])

    @functools.cached_property
    def device(self) -> torch.device:
        """The device that members train on."""
        wanted = self._task.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(wanted)

    @functools.cached_property
    def data(self) -> Data:
        """The data set, on the device."""
        task = self._task
        data = splits.load_data(
            task.dataset,
            task.dataset_options,
            task.split_seed,
            task.torch_dtype,
            self.device,
            task.stream,
            task.changes,
        )
        if task.augment and len(data.shape) != 3:
            rule = "`augment` is for images, (channels, height, width)"
            raise Mistake(f"{rule}; got inputs of shape {data.shape}")
        examples = len(data.labels["train"])
        if task.batch_size > examples:
            rule = f"`batch_size` is at most the number of training examples, {examples}"
            is_default = task.batch_size == type(task).batch_size
            note = ", the default" if is_default else ""
            raise Mistake(f"{rule}; got {task.batch_size}{note}")
        return data

    @functools.cached_property
    def loaded(self) -> str:
        """A layer's weight with the same initial values for two seeds, though they are not all one
        number; "" if none has.

        The model function then loads trained weights, or draws by a seed of its own, and no initial
        weights are new.
        """
        first = self._task.build(0)
        second = self._task.build(1)
        others = dict(second.named_parameters(remove_duplicate=False))
        for layer, part in first.named_modules():
            if not isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
                continue
            for name, weight in part.named_parameters(layer):
                if _is_drawn(weight) and torch.equal(weight, others[name]):
                    return name
        return ""

    @functools.cached_property
    def template(self) -> nn.Module:
        """The model's code, its dropout drawing by counter; its parameter values are not used."""
        return dropout.prepare(self._task.build(0))

    @functools.cached_property
    def stackable(self) -> bool:
        """Whether `vmap` takes the model; if not, members train one after the other."""
        module = dropout.prepare(self._task.build(0))
        examples = self._two_examples()
        with precision.autocast(self._task):
            return stack.can_stack(module, examples)

    def _two_examples(self) -> Tensor:
        return self.data.examples("train", torch.arange(2))

    @functools.cached_property
    def narrows(self) -> bool:
        """Whether a network trains in the same way with its removed units cut out.

        Not if dropout acts on hidden units: it draws by their place.
        """
        widths: dict[str, int] = {}
        for layer in self.structure.hidden:
            widths[layer.name] = max(1, layer.units - 1)
        cut = Cut(widths)
        narrower = narrowed_module(self.template, self.structure, cut)
        examples = self._two_examples()
        drawn = dropout.shapes(self.template, examples)
        drawn_narrower = dropout.shapes(narrower, examples)
        return drawn_narrower == drawn

    @functools.cached_property
    def counts(self) -> Counts:
        """FLOPs and parameters of the parent."""
        return count(self._task.build(0), self.data.shape)

    @functools.cached_property
    def structure(self) -> Structure:
        """The removable layers, and which units of one feed which columns of another.

        Tasks that differ in their budget alone have the same.
        """
        task = self._task
        data = self.data
        options = json.dumps(task.model_options, sort_keys=True)
        place = self.device, task.torch_dtype
        maker = models.lookup(task.model, models.MODELS, "model")  # another one after a reload
        return _structure(
            maker,
            task.model,
            options,
            data.shape,
            data.classes,
            place,
        )


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draws from torch's global random state begin at `seed`; afterwards it is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@functools.lru_cache(maxsize=64)  # a deep network takes seconds
def _structure(
    maker: object,
    model: str,
    options: str,
    input_shape: tuple[int, ...],
    classes: int,
    place: tuple[torch.device, torch.dtype],
) -> Structure:
    """maker: what `model` names now.  options: JSON."""
    keywords = json.loads(options)
    with seeded(0):
        module = wrapping.build(model, input_shape, classes, **keywords)
    return trial.structure_of(module.to(*place), input_shape)


_SHARED = ("data", "structure", "counts", "stackable", "narrows", "template")
"""What depends on data and model alone, whatever the budget."""


def _is_drawn(weight: nn.Parameter) -> bool:
    """Whether a parameter looks as if its initial values were drawn: they are not all the same."""
    if weight.ndim <= 1 or not weight.requires_grad:
        return False
    return bool((weight != weight.flatten()[0]).any())
