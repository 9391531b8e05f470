"""Networks to take away: files that need nothing of ours, and an ONNX network that was compared
with torch's.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...analysis.rows.mistake import Mistake
from ...analysis.rows.storage import Where, atomic, locate
from ...analysis.rows.storage import save as publish
from ..data.splits import Data
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
    folder: Where, network: nn.Module, parent: Parent, found: Data, about: Mapping[str, Any]
) -> None:
    """Write WEIGHTS, as `physical.save` does, and ABOUT, JSON that says how to use them; what was
    there of ONNX is removed.

    found: the data that it was trained on.  about: what else to say.  Each file is complete or
    absent.
    """
    folder = locate(folder)
    for name in (WEIGHTS, ABOUT, ONNX):
        (folder / name).unlink(missing_ok=True)  # or files of two networks could stand side by side
    text = json.dumps({**describe(network, parent, found), **about}, indent=1)
    physical.save(folder / WEIGHTS, network, parent)
    with atomic(folder / ABOUT) as temporary:
        temporary.write_text(text + "\n")


def describe(network: nn.Module, parent: Parent, found: Data) -> dict[str, Any]:
    """Architecture and preprocessing of a network as `physical.shrunk` gives it, JSON.

    `forward` is Python code that calls `parts` by name; it is null, with the reason, where the
    model cannot be traced.
    """
    try:
        code, parts = graph.code(network)
        forward: dict[str, Any] = {"forward": code, "parts": parts}
    except Mistake as error:
        forward = {"forward": None, "reason": str(error), "parts": {"": repr(network)}}
    return {
        "model": parent.model,
        "options": dict(parent.options),
        "dtype": parent.dtype,
        "input": {"shape": ["batch", *parent.input_shape], "images": "channels, height, width"},
        "output": {
            "shape": ["batch", parent.classes],
            "what": "logits; the largest one is the class",
        },
        "preprocessing": {
            "rule": "(x - mean) / scale, x as the data set stores it (bytes: 0 to 255)",
            "mean": found.mean.tolist(),
            "scale": found.scale.tolist(),
        },
        "architecture": {
            "library": "torch",
            **forward,
            "tensors": {n: list(t.shape) for n, t in _tensors(network).items()},
        },
    }


def move(source: Where, target: Where) -> None:
    """Move the files that `save` and `convert` wrote to another folder; files of another network do
    not stay beside them.
    """
    source = locate(source)
    target = locate(target)
    for name in (WEIGHTS, ABOUT, ONNX):
        (target / name).unlink(missing_ok=True)
    for name in (WEIGHTS, ABOUT, ONNX):
        if (source / name).exists():
            publish(target / name, (source / name).read_bytes())


def convert(network: nn.Module, path: Where, parent: Parent, found: Data) -> Agreement:
    """Write `network` to an ONNX file, inputs `input` (batch, ...), outputs `logits`, any batch;
    complete or absent.

    network: on the CPU, in evaluation mode.  Its logits and its accuracy on the test split are
    compared with torch's. Raises Mistake if it cannot be exported, cannot be run, or does not
    agree. Whether it is the network of a row is `leaving`'s to say.
    """
    example = torch.zeros(2, *parent.input_shape, dtype=getattr(torch, parent.dtype))
    with atomic(path) as temporary:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter, about itself
                program = torch.onnx.export(
                    network,
                    (example,),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                    input_names=["input"],
                    output_names=["logits"],
                    verbose=False,
                )
            assert program is not None
            program.save(temporary, external_data=False)
            call = runtime(temporary.read_bytes())
            agreement = compare(network, call, found)
        except Exception as error:  # an exporter of anybody's code may fail in any way
            while error.__cause__ is not None and isinstance(error.__cause__, Exception):
                error = error.__cause__
            raise Mistake(
                f"{path}: no ONNX: the network can be exported and run; it raised {raised(error)}"
            ) from error
        if not agreement.difference <= TOLERANCE or agreement.right[0] != agreement.right[1]:
            got = f"{agreement.difference:.1e}, and {' and '.join(map(str, agreement.right))} of {agreement.examples}"
            rule = f"logits of ONNX Runtime and torch differ by {TOLERANCE:g} at most, and both are right as often"
            raise Mistake(f"{path}: no ONNX: {rule}; got {got}")
    return agreement


def runtime(content: bytes, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """The network of an ONNX file as a function of inputs, run by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def call(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])

    return call


@torch.no_grad()
def compare(network: nn.Module, other: Callable[[Tensor], Tensor], found: Data) -> Agreement:
    """The two, inputs -> logits, on the test split of `found`, which is on the CPU. The first is
    what differences are from.
    """
    difference, right, examples = 0.0, [0, 0], 0
    for x, labels in found.parts("test", EXAMPLES):
        logits, theirs = network(x), other(x)
        apart = (theirs - logits).abs() / logits.abs().clamp(min=1)
        difference = max(difference, float(apart.nan_to_num(float("inf")).max()))
        for which, given in enumerate((logits, theirs)):
            right[which] += int((given.argmax(1) == labels).sum())
        examples += len(labels)
    return Agreement(difference, (right[0], right[1]), examples)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
