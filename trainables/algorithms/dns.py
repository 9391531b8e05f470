"""Dynamic Network Surgery (Guo, Yao, Chen; NIPS 2016; arXiv 1608.04493): prune, and splice back
what turns out to matter.

    min L(W * T)  subject to  T = h(W),  T binary, W kept dense
    (1)  W <- W - lr dL/d(W * T), for all entries, removed ones too
    (2)  h(w) = 0 if |w| <= a;  T unchanged if a < |w| <= b;  1 if b < |w|

with a = 0.9 t, b = 1.1 t, and t = max(mu + c std, 0) for each layer, from mean and deviation of |w|
before the first step. The rules that the paper leaves open are those of the authors' released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...analysis.rows.mistake import Mistake
from ..domain import Domain, Value, expect_defaults
from ..structure import masks
from ..structure.units import Layer
from ..task import Task
from ..training.pruner import Context, GradientPruner, Params, Pruning, space
from . import _dns_schedule as schedule

LOW, HIGH = 0.9, 1.1
"""a and b of equation (2), in thresholds t."""
GAIN = 0.2
"""By how many deviations c moves at a step while e times as many entries would be kept as are asked
for.
"""


class DNS(GradientPruner):
    """Surgery on weights and biases of every layer, at random times that grow rarer, until `stop`;
    then the masks are frozen.

    Each layer updates its mask after step i with probability sigma(i), and certainly before the
    first step. sigma inverse is the released code's, (1 + gamma i)^-power.
    c: the paper's knob, a number for each layer: [[5, 3, 3]] is one setting. Splicing brings
    weights back, so much less is removed at the end than at first.  Without it `sparsity` is what
    remains removed: c follows from it on the first mask, moves a little at every step towards the
    one by which the rule, its dead band included, keeps as many entries as are asked for, and is
    solved for again before the last update, which is certain; of every layer (layerwise), or of the
    network with one c for all layers (global).
    growth first half: thresholds grow from 0 to t over the first half of the surgery.
    phases: groups of layers that are operated on one after the other, in equal parts of the time,
    each layer in one of them: a group is `conv`, `fc` (all of that kind), or names of layers as the
    module has them, joined by +: "1,3+5".
    """

    source = (
        "Guo, Yao, Chen 2016 (arXiv 1608.04493), eq. 1-2 and the authors' released code; "
        "c from a sparsity, growth: derivation"
    )
    version = 2
    from_dense = True
    follows = True
    space = space(
        sparsity=Domain("real", 0.9, "the share removed at the end", low=0, high=1, open_high=True),
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
        sigma=Domain(
            "choice",
            "inverse",
            "how updates grow rarer",
            choices=tuple(schedule.SIGMAS),
            static=True,
        ),
        gamma=Domain(
            "real", 1e-4, "how fast updates grow rarer: inverse", low=0, log=True, tunable=True
        ),
        power=Domain("real", 1.0, "how much rarer updates grow: inverse", low=0, tunable=True),
        growth=Domain(
            "choice",
            "no",
            "whether thresholds grow from 0",
            choices=("no", "first half"),
            static=True,
        ),
        stop=Domain(
            "real",
            0.8,
            "the share of the steps after which masks are frozen",
            low=0,
            high=1,
            static=True,
        ),
        phases=Domain(
            "text",
            "all",
            "the groups of layers that are operated on one after the other",
            static=True,
        ),
    )

    def check(self, task: Task, hp: Mapping[str, Value]) -> None:
        c = hp["c"]
        layers = len(task.structure.layers)
        if isinstance(c, tuple) and len(c) != layers:
            rule = f"`c` has one number for each of the model's {layers} removable layers"
            raise Mistake(f"{rule}; got {len(c)}")
        if c is not None:
            expect_defaults(self.space, hp, ("sparsity", "scope"), "without `c`")
        if hp["sigma"] != "inverse":
            expect_defaults(self.space, hp, ("gamma", "power"), "with `sigma` inverse")
        schedule.check_phases(str(hp["phases"]), task.structure)

    def init(self, params: Params, ctx: Context) -> Pruning:
        mask: dict[str, Tensor] = {}
        returned: dict[str, Tensor] = {}
        for name in ctx.structure.parameters:
            mask[name] = torch.ones_like(params[name], dtype=torch.bool)
            returned[name] = torch.zeros_like(mask[name], dtype=torch.int32)
        moments = _moments_by_layer(ctx.structure.layers, params)
        c = _given_c(moments, ctx) or _solved_c(ctx.structure.layers, params, mask, moments, ctx)
        phase = schedule.phase(ctx)
        for layer in phase.layers:
            t = _threshold(moments[layer.name], c[layer.name]) * phase.growth
            mask |= _surgery(layer, params, mask, t)
        return {
            "mask": mask,
            "moments": moments,
            "c": c,
            "returned": returned,  # how often each entry was brought back
            "first": _count(mask),
        }

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        masked = masks.apply(params, pruning["mask"])
        straight: dict[str, Tensor] = {}
        for name, w in params.items():
            straight[name] = w + (masked[name] - w).detach()  # the gradient reaches all of w
        return straight

    def after_step(self, params: Params, pruning: Pruning, ctx: Context) -> tuple[Params, Pruning]:
        phase = schedule.phase(ctx)
        if not phase.layers:
            return params, pruning
        moments, c = dict(pruning["moments"]), dict(pruning["c"])
        if ctx.step == phase.begun:
            moments |= _moments_by_layer(phase.layers, params)
        mask = dict(pruning["mask"])
        if "c" not in ctx.hp:
            c |= _adapted_c(phase, params, {**pruning, "moments": moments}, ctx)
        returned = dict(pruning["returned"])
        for layer, update in zip(phase.layers, schedule.updates(phase, ctx), strict=True):
            t = _threshold(moments[layer.name], c[layer.name]) * phase.growth
            operated = _surgery(layer, params, mask, t, update)
            for name, after in operated.items():
                spliced = after & ~mask[name]
                # Added up when it is measured: a sum at every step costs as much as the surgery.
                returned[name] = returned[name] + spliced
                mask[name] = after
        return params, {
            **pruning,
            "mask": mask,
            "moments": moments,
            "c": c,
            "returned": returned,
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
            both[name] = kept & (returned[name] > 0)
        count = _count(mask).clamp(min=1)
        return {
            "splices": _count(returned),
            "returned": _count(both) / count,
            "kept_first": pruning["first"],
        }


def threshold(theta: Tensor, c: float) -> float:
    """t of one layer: max(mean + c * deviation, 0) of |theta|, zeros left out. theta: weights and
    biases, flattened (n,).
    """
    moments = _moments(torch.as_tensor(theta))
    return float(_threshold(moments, torch.as_tensor(c)))


def _threshold(moments: Tensor, c: Tensor) -> Tensor:
    mean, deviation = moments.unbind()
    t = mean + c.to(mean.dtype) * deviation
    return t.clamp(min=0)


def _moments(theta: Tensor) -> Tensor:
    """Mean and deviation, (2,), of |theta| over the non-zero entries of theta (n,)."""
    count = (theta != 0).sum().clamp(min=1)
    mean = theta.abs().sum() / count
    mean_square = theta.square().sum() / count
    variance = mean_square - mean.square()
    deviation = variance.clamp(min=0).sqrt()
    return torch.stack([mean, deviation])


def _moments_by_layer(layers: Sequence[Layer], params: Params) -> dict[str, Tensor]:
    moments: dict[str, Tensor] = {}
    for layer in layers:
        theta = masks.flat(layer, params)
        moments[layer.name] = _moments(theta)
    return moments


# ---- c, as given or from what is to remain removed


def _given_c(moments: Params, ctx: Context) -> dict[str, Tensor]:
    """c of each layer as the hyper-parameter has it; empty if it is left to `sparsity`."""
    c: dict[str, Tensor] = {}
    if "c" not in ctx.hp:
        return c
    given = ctx.hp["c"].unbind()
    for layer, own in zip(ctx.structure.layers, given, strict=True):
        kind = moments[layer.name].dtype
        c[layer.name] = own.to(kind)
    return c


def _adapted_c(
    phase: schedule.Phase, params: Params, pruning: Pruning, ctx: Context
) -> dict[str, Tensor]:
    """c of the layers that are operated on, at this step: exact at the first and last, when it is
    worth sorting all entries.
    """
    if ctx.step == phase.begun or phase.is_last(ctx.step):
        return _solved_c(phase.layers, params, pruning["mask"], pruning["moments"], ctx)
    return _next_c(phase.layers, params, pruning, ctx)


def _solved_c(
    layers: Sequence[Layer], params: Params, mask: Params, moments: Params, ctx: Context
) -> dict[str, Tensor]:
    """The c by which the rule keeps as many entries as are asked for."""
    c: dict[str, Tensor] = {}
    for group in _counted_together(layers, ctx):
        own = [_own_c(layer, params, mask, moments) for layer in group]
        common = _cut(torch.cat(own), ctx.hp["sparsity"])
        c |= {layer.name: common for layer in group}
    return c


def _own_c(layer: Layer, params: Params, mask: Params, moments: Params) -> Tensor:
    """The c from which on each entry of a layer (n,) is removed."""
    mean, deviation = moments[layer.name].unbind()
    theta = masks.flat(layer, params)
    size = theta.abs()
    is_kept = masks.flat(layer, mask)
    removed_at = size / LOW
    kept_out_at = size / HIGH
    t = torch.where(is_kept, removed_at, kept_out_at)
    tiny = torch.finfo(t.dtype).tiny
    spread = deviation.clamp(min=tiny)
    return (t - mean) / spread


def _next_c(
    layers: Sequence[Layer], params: Params, pruning: Pruning, ctx: Context
) -> dict[str, Tensor]:
    """c of each layer, nearer to the one by which the rule would now keep as many entries as are
    asked for.
    """
    c: dict[str, Tensor] = {}
    for group in _counted_together(layers, ctx):
        left: dict[str, Tensor] = {}
        for layer in group:
            t = _threshold(pruning["moments"][layer.name], pruning["c"][layer.name])
            left |= _surgery(layer, params, pruning["mask"], t)
        size = sum(kept.numel() for kept in left.values())
        asked = masks.kept_count(ctx.hp["sparsity"], size)
        excess = (_count(left).clamp(min=1) / asked).log()
        for layer in group:
            own = pruning["c"][layer.name]
            c[layer.name] = own + GAIN * excess.to(own.dtype)
    return c


def _counted_together(layers: Sequence[Layer], ctx: Context) -> list[Sequence[Layer]]:
    """The layers that lose the asked share as a whole, with one c."""
    if ctx.hp["scope"] == "global":
        return [layers] if layers else []
    return [[layer] for layer in layers]


def _cut(values: Tensor, sparsity: Tensor) -> Tensor:
    """A value that exactly round(sparsity n) of values (n,) do not exceed, but for ties; below all
    of them at sparsity 0.
    """
    below_all = values.min()[None] - 1
    ordered = values.sort().values
    ranked = torch.cat([below_all, ordered])
    kept = masks.kept_count(sparsity, len(values))
    removed = len(values) - kept.long()
    neighbours = torch.stack([removed, removed + 1])
    return ranked.take_along_dim(neighbours, 0).mean()


# ---- surgery


def _surgery(
    layer: Layer, params: Params, mask: Params, t: Tensor, update: Tensor | None = None
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


def _count(mask: Params) -> Tensor:
    counts = [kept.sum() for kept in mask.values()]
    return torch.stack(counts).sum()
