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

    source = "Guo, Yao, Chen 2016 (arXiv 1608.04493), eq. 1-2 and the authors' released code; c from a sparsity: derivation"
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
        c, layers = hp["c"], len(task.structure.layers)
        if isinstance(c, tuple) and len(c) != layers:
            raise Mistake(
                f"`c` has one number for each of the model's {layers} removable layers; got {len(c)}"
            )

    def init(self, params: Params, ctx: Context) -> Pruning:
        every = {
            name: torch.ones_like(params[name], dtype=torch.bool)
            for name in ctx.structure.parameters
        }
        limits = _thresholds(params, ctx)
        first = dict(every)
        for layer in _operated(ctx):
            first |= _surgery(layer, params, every, limits[layer.name])
        return {
            "mask": first,
            "threshold": limits,
            "returned": {
                name: torch.zeros_like(mask) for name, mask in first.items()
            },  # brought back at any time
            "splices": torch.zeros_like(ctx.seed),
            "first": _count(first),
        }

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        masked = masks.apply(params, pruning["mask"])
        return {
            name: w + (masked[name] - w).detach() for name, w in params.items()
        }  # the gradient reaches all of w

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        layers, begun = _operated(ctx), _begun(ctx)
        if not layers:
            return params, pruning
        limits = (
            pruning["threshold"]
            if ctx.step > begun
            else {**pruning["threshold"], **_thresholds(params, ctx)}
        )
        mask, returned, splices = (
            dict(pruning["mask"]),
            dict(pruning["returned"]),
            pruning["splices"],
        )
        probability = (1 + ctx.hp["gamma"] * (ctx.step - begun)) ** -ctx.hp["power"]
        updates = probability > ctx.uniform("dns", (len(layers),))
        for layer, update in zip(layers, updates.unbind(), strict=True):
            for name, after in _surgery(layer, params, mask, limits[layer.name], update).items():
                spliced = after > mask[name]
                splices = splices + spliced.sum()
                mask[name], returned[name] = after, returned[name] | spliced
        return params, {
            **pruning,
            "mask": mask,
            "threshold": limits,
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
        returned = _count({name: kept & pruning["returned"][name] for name, kept in mask.items()})
        return {
            "splices": pruning["splices"],
            "returned": returned / _count(mask).clamp(min=1),
            "kept_first": pruning["first"],
        }


def threshold(theta: Tensor, c: float) -> float:
    """t of one layer: max(mean + c * deviation, 0) of |theta|, zeros left out. theta: weights and
    biases, flattened (n,).
    """
    mean, deviation = _moments(torch.as_tensor(theta))
    return float((mean + c * deviation).clamp(min=0))


def _moments(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of |theta| over the non-zero entries of theta (n,)."""
    count = (theta != 0).sum().clamp(min=1)
    mean = theta.abs().sum() / count
    return mean, (theta.square().sum() / count - mean.square()).clamp(min=0).sqrt()


def _thresholds(params: Params, ctx: Context) -> dict[str, Tensor]:
    """t by layer: from `c` if it is given, and else from the sparsity of the first mask."""
    theta = {layer.name: masks.flat(layer, params) for layer in ctx.structure.layers}
    moments = {name: _moments(t) for name, t in theta.items()}
    if "c" in ctx.hp:
        rows = zip(ctx.hp["c"].unbind(), moments.items(), strict=True)
        return {
            name: (mean + c.to(mean.dtype) * std).clamp(min=0) for c, (name, (mean, std)) in rows
        }
    sparsity = ctx.hp["sparsity"]
    if ctx.hp["scope"] == "layerwise":
        return {name: _cut(t.abs(), sparsity) / 0.9 for name, t in theta.items()}
    # |w| <= 0.9 (mu + c std) at the c of its own for every entry: the sparsity's quantile of those
    # is the common c.
    own = [(theta[name].abs() / 0.9 - mean) / std for name, (mean, std) in moments.items()]
    common = _cut(torch.cat(own), sparsity)
    return {name: (mean + common * std).clamp(min=0) for name, (mean, std) in moments.items()}


def _cut(values: Tensor, sparsity: Tensor) -> Tensor:
    """A value that exactly round(sparsity n) of values (n,) do not exceed, but for ties; below all
    of them at sparsity 0.
    """
    ranked = torch.cat([values.min()[None] - 1, values.sort().values])
    removed = len(values) - masks.kept_count(sparsity, len(values)).long()
    return ranked.take_along_dim(torch.stack([removed, removed + 1]), 0).mean()


def _surgery(
    layer: Layer, params: Params, mask: Params, t: Tensor, update: Tensor | None = None
) -> dict[str, Tensor]:
    """Equation (2) for one layer, where `update` () bool says so (None: always)."""
    low, high = 0.9 * t, 1.1 * t
    if update is not None:  # |w| > -1 keeps what is kept, |w| > inf brings nothing back
        low, high = torch.where(update, low, -1.0), torch.where(update, high, torch.inf)
    size = {name: params[name].abs() for name in layer.parameters}
    return {name: (a > high) | (mask[name] & (a > low)) for name, a in size.items()}


def _begun(ctx: Context) -> int:
    """The step at which the present phase of surgery began."""
    half = round(ctx.hp["stop"] * ctx.steps / 2)
    return half if ctx.hp["phases"] == "conv,fc" and ctx.step >= half else 0


def _operated(ctx: Context) -> list[Layer]:
    """The layers whose masks may change at this step."""
    if ctx.step > 0 and ctx.step >= round(ctx.hp["stop"] * ctx.steps):
        return []
    if ctx.hp["phases"] == "all":
        return list(ctx.structure.layers)
    return [
        layer for layer in ctx.structure.layers if layer.kind == ("fc" if _begun(ctx) else "conv")
    ]


def _count(mask: Params) -> Tensor:
    return torch.stack([kept.sum() for kept in mask.values()]).sum()
