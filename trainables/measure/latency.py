"""Latency: how long one network takes on this machine, eager and compiled, for one example and for
many.
"""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import models
from .flops import blank_inputs

MODES = ("eager", "compiled")
BATCHES = (1, 256)
ROUNDS = 9
SECONDS = 0.05
"""What a round takes at least: as many calls as fit."""


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` threads inside, and as before afterwards.

    Two threads on two cores that others used as well took 24 ms for what one did in 0.2: each waits
    for the one that sleeps.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def place(device: torch.device) -> dict[str, Any]:
    """What a latency belongs to, by column: device, threads, version of torch."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else _processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def measure(network: nn.Module, input_shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """For each mode and batch, by column: milliseconds of a call (median and range of the rounds),
    examples a second.

    network: on the device, in evaluation mode; not changed.  input_shape: without batch. A round is
    as many calls, one after the other, as fill `SECONDS`; rounds before the first are for warming
    up. Where a network cannot be compiled or called, the figures are null and `reason` says why.
    """
    for mode in MODES:
        for batch in BATCHES:
            blank = blank_inputs(network, input_shape, batch)
            x = blank.uniform_(-1, 1)
            row: dict[str, Any] = {
                "mode": mode,
                "batch": batch,
                "reason": "",
                "rounds": ROUNDS,
            }
            try:
                call = _compiled(network) if mode == "compiled" else network
                yield row | timed(call, x)
            except Exception as error:  # a compiler may fail in any way
                yield row | {"rounds": 0, "reason": models.raised(error)}


def timed(call: Callable[..., Any], x: torch.Tensor) -> dict[str, float]:
    """The time that `call` takes for a batch `x`, by column: median and range of the rounds,
    examples a second.
    """
    rounds = _rounds(call, x)
    median = statistics.median(rounds)
    return {
        "milliseconds": median,
        "milliseconds_min": min(rounds),
        "milliseconds_max": max(rounds),
        "examples_per_second": 1e3 * len(x) / median,
    }


def _compiled(network: nn.Module) -> Callable[..., Any]:
    """The network compiled for one shape; what was compiled before is dropped, as torch gives up
    after a few versions.
    """
    torch.compiler.reset()
    return torch.compile(network, dynamic=False)


@torch.no_grad()
def _rounds(call: Callable[..., Any], x: torch.Tensor) -> list[float]:
    """Milliseconds of a call, the mean of each round."""
    call(x)  # compiles
    calls = _fitting(call, x)
    milliseconds: list[float] = []
    for _ in range(ROUNDS):
        seconds = _taken(call, x, calls)
        of_a_call = 1e3 * seconds / calls
        milliseconds.append(of_a_call)
    return milliseconds


def _fitting(call: Callable[..., Any], x: torch.Tensor) -> int:
    """How many calls fill a round."""
    calls = 1
    while True:
        taken = _taken(call, x, calls)
        if taken >= SECONDS:
            return calls
        if taken <= SECONDS / 8:
            calls = 4 * calls
        else:
            needed = 1.2 * calls * SECONDS / max(taken, 1e-9)
            calls = max(2 * calls, int(needed))


def _taken(call: Callable[..., Any], x: torch.Tensor, calls: int) -> float:
    """Seconds that `calls` calls take together."""
    _wait(x.device)
    begun = time.perf_counter()
    for _ in range(calls):
        call(x)
    _wait(x.device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    """The name of the CPU."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
