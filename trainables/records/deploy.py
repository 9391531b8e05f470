"""Networks to take away: files that need nothing of ours, and an ONNX network that was compared
with torch's.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Location, Where, atomic, locate
from ...analysis.rows.storage import save as publish
from ..data.dataset import Data
from ..measure.members import EXAMPLES
from ..models import raised
from ..structure import graph
from . import physical
from .physical import Parent

WEIGHTS, ABOUT, ONNX = "network.safetensors", "network.json", "network.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extra `onnx`."""
TOLERANCE = 1e-4
"""Logits may differ by so much: absolutely, and relatively where they are above 1."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How two forms of a network compare on a split: largest difference of logits, and right
    answers of each.
    """

    difference: float
    right: tuple[int, int]
    examples: int


def missing() -> list[str]:
    """The packages that ONNX needs and that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def save(
    folder: Where,
    network: nn.Module,
    parent: Parent,
    found: Data,
    about: Mapping[str, Any],
) -> None:
    """Write WEIGHTS, as `physical.save` does, and ABOUT, JSON that says how to use them; what was
    there of ONNX is removed.

    found: the data that it was trained on.  about: what else to say.  Each file is complete or
    absent.
    """
    folder = locate(folder)
    _clear(folder)  # or files of two networks could stand side by side
    described = {**describe(network, parent, found), **about}
    text = json.dumps(described, indent=1)
    physical.save(folder / WEIGHTS, network, parent)
    with atomic(folder / ABOUT) as temporary:
        temporary.write_text(text + "\n")


def _clear(folder: Location) -> None:
    for name in (WEIGHTS, ABOUT, ONNX):
        file = folder / name
        file.unlink(missing_ok=True)


def describe(network: nn.Module, parent: Parent, found: Data) -> dict[str, Any]:
    """Architecture and preprocessing of a network as `physical.shrunk` gives it, JSON.

    `forward` is Python code that calls `parts` by name; it is null, with the reason, where the
    model cannot be traced.
    """
    return {
        "model": parent.model,
        "options": dict(parent.options),
        "dtype": parent.dtype,
        "input": {
            "shape": ["batch", *parent.input_shape],
            "images": "channels, height, width",
        },
        "output": {
            "shape": ["batch", parent.classes],
            "what": "logits; the largest one is the class",
        },
        "preprocessing": {
            "rule": "(x - mean) / scale, x as the data set stores it (bytes: 0 to 255)",
            "mean": found.mean.tolist(),
            "scale": found.scale.tolist(),
        },
        "architecture": _architecture(network),
    }


def _architecture(network: nn.Module) -> dict[str, Any]:
    about: dict[str, Any] = {"library": "torch"}
    try:
        code, parts = graph.code(network)
        about |= {"forward": code, "parts": parts}
    except Mistake as error:
        about |= {
            "forward": None,
            "reason": str(error),
            "parts": {"": repr(network)},
        }
    tensors = dict(network.named_parameters())
    tensors |= dict(network.named_buffers())
    shapes: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        shapes[name] = list(tensor.shape)
    about["tensors"] = shapes
    return about


def move(source: Where, target: Where) -> None:
    """Move the files that `save` and `convert` wrote to another folder; files of another network do
    not stay beside them.
    """
    source = locate(source)
    target = locate(target)
    _clear(target)
    for name in (WEIGHTS, ABOUT, ONNX):
        file = source / name
        if file.exists():
            publish(target / name, file.read_bytes())


def convert(
    network: nn.Module,
    path: Where,
    parent: Parent,
    found: Data,
) -> Agreement:
    """Write `network` to an ONNX file, inputs `input` (batch, ...), outputs `logits`, any batch;
    complete or absent.

    network: on the CPU, in evaluation mode.  Its logits and its accuracy on the test split are
    compared with torch's. Raises Mistake if it cannot be exported, cannot be run, or does not
    agree. Whether it is the network of a row is `leaving`'s to say.
    """
    with atomic(path) as temporary:
        try:
            _export(network, temporary, parent)
            call = runtime(temporary.read_bytes())
            agreement = compare(network, call, found)
        except Exception as error:  # an exporter of anybody's code may fail in any way
            why = raised(_first_cause(error))
            rule = "the network can be exported and run"
            raise Mistake(f"{path}: no ONNX: {rule}; it raised {why}") from error
        _expect_agreement(path, agreement)
    return agreement


def _export(network: nn.Module, path: Path, parent: Parent) -> None:
    """Write an ONNX file by torch's exporter."""
    dtype: torch.dtype = getattr(torch, parent.dtype)
    example = torch.zeros(2, *parent.input_shape, dtype=dtype)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=["input"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


def _first_cause(error: Exception) -> Exception:
    cause = error.__cause__
    if not isinstance(cause, Exception):
        return error
    return _first_cause(cause)


def _expect_agreement(path: Where, agreement: Agreement) -> None:
    """Raise Mistake if ONNX Runtime and torch do not agree."""
    here, there = agreement.right
    if agreement.difference <= TOLERANCE and here == there:
        return
    bound = f"logits of ONNX Runtime and torch differ by {TOLERANCE:g} at most"
    rule = f"{bound}, and both are right as often"
    got = f"{agreement.difference:.1e}, and {here} and {there} of {agreement.examples}"
    raise Mistake(f"{path}: no ONNX: {rule}; got {got}")


def runtime(content: bytes, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """The network of an ONNX file as a function of inputs, run by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def call(x: Tensor) -> Tensor:
        inputs = {"input": x.numpy()}
        outputs = session.run(None, inputs)
        logits = outputs[0]
        return torch.from_numpy(logits)

    return call


@torch.no_grad()
def compare(
    network: nn.Module,
    other: Callable[[Tensor], Tensor],
    found: Data,
) -> Agreement:
    """The two, inputs -> logits, on the test split of `found`, which is on the CPU. The first is
    what differences are from.
    """
    difference = 0.0
    right = other_right = examples = 0
    for x, labels in found.parts("test", EXAMPLES):
        logits = network(x)
        other_logits = other(x)
        scale = logits.abs().clamp(min=1)
        apart = (other_logits - logits).abs()
        apart = apart / scale
        apart = apart.nan_to_num(float("inf"))
        largest = float(apart.max())
        difference = max(difference, largest)
        right += _count_right(logits, labels)
        other_right += _count_right(other_logits, labels)
        examples += len(labels)
    return Agreement(difference, (right, other_right), examples)


def _count_right(logits: Tensor, labels: Tensor) -> int:
    answers = logits.argmax(1)
    return int((answers == labels).sum())
