"""Training of one network, as a good user of PyTorch writes it by hand: Dynamic Network Surgery as an
eager loop, and a loop that a CUDA graph holds. Nothing of ours, but for data that can be made
anywhere.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
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


class Loop:
    """Training of one network by SGD with momentum, whose steps ask nothing of the host: on a GPU
    they are recorded once, as a CUDA graph, and replayed.

    x: inputs (n, ...); y: labels (n,).  sparsity: of Dynamic Network Surgery, whose masks follow
    every step; 0: dense training.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int,
        lr: float = 0.05,
        momentum: float = 0.9,
        sparsity: float = 0.0,
    ) -> None:
        self._model = model.train()
        self._x = x
        self._y = y
        self._lr = lr
        self._momentum = momentum
        self._shown: list[Tensor] = list(model.parameters())
        self._dense: list[Tensor] = []
        if sparsity:
            self._dense = [p.detach().clone() for p in self._shown]
        self._velocity: list[Tensor | None] = [torch.zeros_like(p) for p in self._shown]
        self._cuts = [_cut(w, sparsity) for w in self._dense]
        self._masks = [torch.ones_like(w) for w in self._dense]
        self._whole = len(y) // batch_size
        self._order = torch.randperm(len(y), device=y.device)
        self._batch = torch.arange(batch_size, device=y.device)
        self._place = torch.zeros((), dtype=torch.long, device=y.device)
        self._done = 0
        self._replay = recorded(self._step, y.device)

    def run(self, steps: int) -> None:
        """Take steps; returns when the device has done them."""
        for _ in range(steps):
            if self._done % self._whole == 0:
                self._order.copy_(torch.randperm(len(self._order), device=self._order.device))
                self._place.zero_()
            self._replay()
            self._done += 1
        synchronize(self._order.device)

    def _step(self) -> None:
        rows = self._order.index_select(0, self._place * len(self._batch) + self._batch)
        logits = self._model(self._x.index_select(0, rows))
        loss = F.cross_entropy(logits, self._y.index_select(0, rows))
        grads = torch.autograd.grad(loss, self._shown)
        with torch.no_grad():
            sgd(
                self._dense or self._shown,
                list(grads),
                self._velocity,
                weight_decay=0.0,
                momentum=self._momentum,
                lr=self._lr,
                foreach=True,
                **PLAIN,
            )
            for place, weight in enumerate(self._dense):
                self._operate(place, weight)
            self._place.add_(1)

    def _operate(self, place: int, weight: Tensor) -> None:
        """Follow a layer's weights with its mask."""
        low = self._cuts[place]
        mask = self._masks[place]
        size = weight.abs()
        stays = (size > 1.1 / 0.9 * low) | ((mask > 0) & (size > low))
        mask.copy_(stays)
        self._shown[place].copy_(weight * mask)


def _cut(weight: Tensor, sparsity: float) -> float:
    """Below it lies the share `sparsity` of a layer's weights, in size."""
    removed = int(sparsity * weight.numel())
    if removed == 0:
        return -1.0
    return float(weight.abs().flatten().kthvalue(removed).values)


def recorded(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A step that launches all its kernels together, on a GPU; elsewhere the step itself."""
    if device.type != "cuda":
        return step
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(3):  # kernels are chosen and loaded
            step()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def images(
    size: int = 28, channels: int = 1, classes: int = 10, count: int = 8192
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A data set that needs no file: noise around a picture for each class, always the same.

    Takes the place of MNIST (28, 1) or CIFAR-10 (32, 3) where only time matters.
    """
    draws = np.random.default_rng(0)
    pictures = draws.normal(size=(classes, channels, size, size)).astype(np.float32)
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, examples in (("train", count), ("valid", 512), ("test", 512)):
        labels = draws.integers(classes, size=examples)
        noise = draws.normal(size=(examples, channels, size, size)).astype(np.float32)
        splits[split] = 0.3 * pictures[labels] + noise, labels
    return splits


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
