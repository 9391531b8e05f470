"""Dynamic Network Surgery of one network, as a good user of PyTorch writes it by hand: an eager
loop, nothing of ours.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd

PLAIN: Any = {"dampening": 0.0, "nesterov": False, "maximize": False}


def surgery(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    sparsity: float,
    *,
    steps: int,
    rungs: int,
    batch_size: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    gamma: float = 1e-4,
    stop: float = 0.8,
) -> Iterator[int]:
    """Operate on a trained model whose parameters are pairs of weights and biases; gives the step
    at each of `rungs` points.

    x: inputs (n, ...); y: labels (n,).  The model's own parameters hold what it computes with, W *
    T. The learning rate follows a cosine to 0.
    """
    shown = list(model.parameters())
    dense = [p.detach().clone() for p in shown]
    velocity: list[Tensor | None] = [torch.zeros_like(w) for w in dense]
    limits: list[tuple[float, float]] = []
    for weight, bias in zip(dense[::2], dense[1::2], strict=True):
        size = torch.cat([weight.flatten(), bias]).abs().sort().values
        removed = round(sparsity * len(size))
        cut = float(size[max(removed - 1, 0) : removed + 1].mean())
        limits += 2 * [(cut, 1.1 / 0.9 * cut)]
    masks = [w.abs() > low for w, (low, _) in zip(dense, limits, strict=True)]
    show(shown, dense, masks)
    whole = len(y) // batch_size
    order = torch.randperm(len(y), device=y.device)
    points = {round(steps * rung / rungs) for rung in range(1, rungs + 1)}
    for step in range(steps):
        place = step % whole
        if place == 0:
            order = torch.randperm(len(y), device=y.device)
        rows = order[place * batch_size : (place + 1) * batch_size]
        grads = torch.autograd.grad(F.cross_entropy(model(x[rows]), y[rows]), shown)
        rate = 0.5 * lr * (1 + math.cos(math.pi * step / steps))
        sgd(
            dense,
            list(grads),
            velocity,
            weight_decay=weight_decay,
            momentum=momentum,
            lr=rate,
            fused=True,
            **PLAIN,
        )
        if step + 1 < round(stop * steps):
            for layer in range(0, len(dense), 2):
                if random.random() < 1 / (1 + gamma * (step + 1)):
                    for k in (layer, layer + 1):
                        size, (low, high) = dense[k].abs(), limits[k]
                        masks[k] = (size > high) | (masks[k] & (size > low))
        show(shown, dense, masks)
        if step + 1 in points:
            yield step + 1


@torch.no_grad()
def show(shown: list[Any], dense: list[Tensor], masks: list[Tensor]) -> None:
    """Write W * T into `shown`."""
    for p, w, mask in zip(shown, dense, masks, strict=True):
        torch.mul(
            w, mask.view(torch.uint8), out=p
        )  # as bytes: three times as fast as bool on a CPU


@torch.no_grad()
def score(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    logits = torch.cat([model(part) for part in x.split(256)])
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())


def synchronize(device: torch.device) -> None:
    """Wait for the device, before a clock is looked at."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def yardstick(steps: int) -> float:
    """Milliseconds of a fixed step: the least that plain PyTorch does to train 64-300-100-10 at
    batch 64, with momentum.
    """
    model = nn.Sequential(
        nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    params, x, y = list[Tensor](model.parameters()), torch.randn(64, 64), torch.arange(64) % 10
    velocity: list[Tensor | None] = [torch.zeros_like(p) for p in params]
    begun = time.perf_counter()
    for _ in range(steps):
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), params)
        with torch.no_grad():
            sgd(
                params,
                list(grads),
                velocity,
                weight_decay=0.0,
                momentum=0.9,
                lr=0.05,
                foreach=True,
                **PLAIN,
            )
    return 1e3 * (time.perf_counter() - begun) / steps
