"""Dynamic Network Surgery (Guo, Yao, Chen; NIPS 2016; arXiv 1608.04493): prune, and splice back
what turns out to matter.

    min L(W * T)  subject to  T = h(W),  T binary, W kept dense
    (1)  W <- W - lr dL/d(W * T), for all entries, removed ones too
    (2)  h(w) = 0 if |w| <= a;  T unchanged if a < |w| <= b;  1 if b < |w|

with a = 0.9 t, b = 1.1 t, and one t = max(mu + c std, 0) for each layer, from mean and deviation of
|w| before the first step. The rules that the paper leaves open are those of the authors' released
code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..domain import Domain, Value
from ..structure import masks
from ..structure.units import Layer
from ..task import Task
from ..training.pruner import Context, GradientPruner, Params, Pruning, space

LOW, HIGH = 0.9, 1.1
"""a and b of equation (2), in thresholds t."""


class DNS(GradientPruner):
    """Surgery on weights and biases of every layer, at random times that grow rarer, until `stop`;
    then the masks are frozen.

    Each layer updates its mask after step i with probability (1 + gamma i)^-power, and certainly
    before the first step.
    c: one for each layer.  Without it `sparsity` gives c: the first mask removes that share of
    every layer (layerwise), or of the network with one c for all layers (global). Splicing brings
    weights back, so less than `sparsity` is removed at the end. phases "conv,fc": convolutions are
    operated on in the first half of the time, fully connected layers in the second.
    """

    source = (
        "Guo, Yao, Chen 2016 (arXiv 1608.04493), eq. 1-2 and the authors' released code; "
        "c from a sparsity: derivation"
    )
    from_dense = True
    follows = True
    space = space(
        sparsity=Domain(
            "real", 0.9, "the share removed by the first mask", low=0, high=1, open_high=True
        ),
        scope=Domain(
            "choice",
            "layerwise",
            "what `sparsity` counts",
            choices=("layerwise", "global"),
            static=True,
        ),
        c=Domain(
            "reals", None, "the threshold in deviations above the mean (default: from `sparsity`)"
        ),
        gamma=Domain("real", 1e-4, "how fast updates grow rarer", low=0, log=True, tunable=True),
        power=Domain("real", 1.0, "how much rarer updates grow", low=0, tunable=True),
        stop=Domain(
            "real",
            0.8,
            "the share of the steps after which masks are frozen",
            low=0,
            high=1,
            static=True,
        ),
        phases=Domain(
            "choice",
            "all",
            "which layers are operated on together",
            choices=("all", "conv,fc"),
            static=True,
        ),
    )

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        c = hp["c"]
        layers = len(task.structure.layers)
        if not isinstance(c, tuple) or len(c) == layers:
            return
        rule = f"`c` has one number for each of the model's {layers} removable layers"
        raise Mistake(f"{rule}; got {len(c)}")

    def init(self, params: Params, ctx: Context) -> Pruning:
        mask: dict[str, Tensor] = {}
        returned: dict[str, Tensor] = {}
        for name in ctx.structure.parameters:
            whole = torch.ones_like(params[name], dtype=torch.bool)
            mask[name] = whole
            returned[name] = torch.zeros_like(whole)
        thresholds = _thresholds(params, ctx)
        for layer in _operated(ctx):
            t = thresholds[layer.name]
            mask |= _surgery(layer, params, mask, t)
        return {
            "mask": mask,
            "threshold": thresholds,
            "returned": returned,  # what was brought back at any time
            "splices": torch.zeros_like(ctx.seed),
            "first": _count(mask),
        }

    def effective(
        self,
        params: Params,
        pruning: Pruning,
        ctx: Context,
    ) -> Params:
        masked = masks.apply(params, pruning["mask"])
        straight: dict[str, Tensor] = {}
        for name, w in params.items():
            change = masked[name] - w
            straight[name] = w + change.detach()  # the gradient reaches all of w
        return straight

    def after_step(
        self,
        params: Params,
        pruning: Pruning,
        ctx: Context,
    ) -> tuple[Params, Pruning]:
        layers = _operated(ctx)
        if not layers:
            return params, pruning
        begun = _begun(ctx)
        thresholds = dict(pruning["threshold"])
        if ctx.step <= begun:
            thresholds |= _thresholds(params, ctx)
        mask = dict(pruning["mask"])
        returned = dict(pruning["returned"])
        splices = pruning["splices"]
        rarity = 1 + ctx.hp["gamma"] * (ctx.step - begun)
        probability = rarity ** -ctx.hp["power"]
        lots = ctx.uniform("dns", (len(layers),))
        updates = (probability > lots).unbind()
        for layer, update in zip(layers, updates, strict=True):
            t = thresholds[layer.name]
            operated = _surgery(layer, params, mask, t, update)
            for name, after in operated.items():
                spliced = after > mask[name]
                splices = splices + spliced.sum()
                returned[name] = returned[name] | spliced
                mask[name] = after
        return params, {
            **pruning,
            "mask": mask,
            "threshold": thresholds,
            "returned": returned,
            "splices": splices,
        }

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]

    def metrics(self, params: Params, pruning: Pruning) -> Params:
        """splices: entries brought back so far.  returned: share of the kept once removed.
        kept_first: in the first mask.
        """
        mask = pruning["mask"]
        returned = pruning["returned"]
        both: dict[str, Tensor] = {}
        for name, kept in mask.items():
            both[name] = kept & returned[name]
        count = _count(mask).clamp(min=1)
        return {
            "splices": pruning["splices"],
            "returned": _count(both) / count,
            "kept_first": pruning["first"],
        }


def threshold(theta: Tensor, c: float) -> float:
    """t of one layer: max(mean + c * deviation, 0) of |theta|, zeros left out. theta: weights and
    biases, flattened (n,).
    """
    tensor = torch.as_tensor(theta)
    mean, deviation = _moments(tensor)
    t = mean + c * deviation
    return float(t.clamp(min=0))


def _moments(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of |theta| over the non-zero entries of theta (n,)."""
    is_counted = theta != 0
    count = is_counted.sum().clamp(min=1)
    total = theta.abs().sum()
    total_square = theta.square().sum()
    mean = total / count
    mean_square = total_square / count
    variance = mean_square - mean.square()
    deviation = variance.clamp(min=0).sqrt()
    return mean, deviation


def _thresholds(params: Params, ctx: Context) -> dict[str, Tensor]:
    """t by layer: from `c` if it is given, and else from the sparsity of the first mask."""
    hp = ctx.hp
    theta: dict[str, Tensor] = {}
    for layer in ctx.structure.layers:
        theta[layer.name] = masks.flat(layer, params)
    if "c" in hp:
        return _from_c(theta, hp["c"])
    sparsity = hp["sparsity"]
    if hp["scope"] == "global":
        return _from_global_sparsity(theta, sparsity)
    thresholds: dict[str, Tensor] = {}
    for name, values in theta.items():
        cut = _cut(values.abs(), sparsity)
        thresholds[name] = cut / LOW
    return thresholds


def _from_c(theta: Params, c: Tensor) -> dict[str, Tensor]:
    """t by layer for the c (layers,) of each layer."""
    thresholds: dict[str, Tensor] = {}
    of_layers = c.unbind()
    for name, own in zip(theta, of_layers, strict=True):
        values = theta[name]
        mean, deviation = _moments(values)
        factor = own.to(mean.dtype)
        t = mean + factor * deviation
        thresholds[name] = t.clamp(min=0)
    return thresholds


def _from_global_sparsity(theta: Params, sparsity: Tensor) -> dict[str, Tensor]:
    """t by layer for the one c that removes the share `sparsity` of the network.

    |w| <= 0.9 (mu + c std) at the c of its own for every entry: the sparsity's quantile of those is
    the common c.
    """
    moments: dict[str, tuple[Tensor, Tensor]] = {}
    own: list[Tensor] = []
    for name, values in theta.items():
        mean, deviation = _moments(values)
        size = values.abs() / LOW
        c = (size - mean) / deviation
        moments[name] = mean, deviation
        own.append(c)
    entries = torch.cat(own)
    common = _cut(entries, sparsity)
    thresholds: dict[str, Tensor] = {}
    for name, (mean, deviation) in moments.items():
        t = mean + common * deviation
        thresholds[name] = t.clamp(min=0)
    return thresholds


def _cut(values: Tensor, sparsity: Tensor) -> Tensor:
    """A value that exactly round(sparsity n) of values (n,) do not exceed, but for ties; below all
    of them at sparsity 0.
    """
    below_all = values.min()[None] - 1
    size = len(values)
    ordered = values.sort().values
    ranked = torch.cat([below_all, ordered])
    kept = masks.kept_count(sparsity, size)
    removed = size - kept.long()
    neighbours = torch.stack([removed, removed + 1])
    around = ranked.take_along_dim(neighbours, 0)
    return around.mean()


def _surgery(
    layer: Layer,
    params: Params,
    mask: Params,
    t: Tensor,
    update: Tensor | None = None,
) -> dict[str, Tensor]:
    """Equation (2) for one layer, where `update` () bool says so (None: always)."""
    low = LOW * t
    high = HIGH * t
    if update is not None:  # |w| > -1 keeps what is kept, |w| > inf brings nothing back
        low = torch.where(update, low, -1.0)
        high = torch.where(update, high, torch.inf)
    operated: dict[str, Tensor] = {}
    for name in layer.parameters:
        size = params[name].abs()
        stays = mask[name] & (size > low)
        operated[name] = (size > high) | stays
    return operated


def _begun(ctx: Context) -> int:
    """The step at which the present phase of surgery began."""
    if ctx.hp["phases"] != "conv,fc":
        return 0
    operating = ctx.hp["stop"] * ctx.steps
    half = round(operating / 2)
    return half if ctx.step >= half else 0


def _operated(ctx: Context) -> list[Layer]:
    """The layers whose masks may change at this step."""
    layers = ctx.structure.layers
    stop = round(ctx.hp["stop"] * ctx.steps)
    if ctx.step > 0 and ctx.step >= stop:
        return []
    if ctx.hp["phases"] == "all":
        return list(layers)
    kind = "fc" if _begun(ctx) else "conv"
    return [layer for layer in layers if layer.kind == kind]


def _count(mask: Params) -> Tensor:
    counts = [kept.sum() for kept in mask.values()]
    return torch.stack(counts).sum()
