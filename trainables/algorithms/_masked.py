"""Masked: the base of pruners whose mask is made before the first step and never changes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..domain import Domain, Value
from ..structure import masks
from ..structure.units import Structure
from ..training.pruner import Context, GradientPruner, Params, Pruning, space

SPARSITY = Domain("real", 0.5, "the share removed", low=0, high=1, open_high=True)


class Masked(GradientPruner):
    """What is left of a network trains on under a fixed mask, `pruning["mask"]`.

    A subclass gives `scores`, and every layer keeps the share 1 - `sparsity` of its weights and
    biases with the highest; or it gives the whole `mask`.
    """

    space = space(sparsity=SPARSITY)

    def scores(self, params: Params, ctx: Context) -> Params:
        """Removable parameter -> scores of its shape."""
        raise NotImplementedError

    def mask(self, params: Params, ctx: Context) -> Params:
        """What is kept, name -> bool: removable parameters, and blocks if they may be gone."""
        scores = self.scores(params, ctx)
        return masks.weights(ctx.structure, scores, ctx.hp["sparsity"])

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True

    def init(self, params: Params, ctx: Context) -> Pruning:
        return {"mask": self.mask(params, ctx)}

    def effective(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return removed(ctx.structure, params, pruning["mask"])

    def kept(self, params: Params, pruning: Pruning, ctx: Context) -> Params:
        return pruning["mask"]


def removed(structure: Structure, params: Params, mask: Params) -> dict[str, Tensor]:
    """Parameters with all that `mask` removes at zero, and with the last affine layer of blocks
    that it removes at zero.
    """
    left = masks.apply(params, mask)
    for block in structure.blocks:
        if block.name not in mask:
            continue
        stays = mask[block.name]
        for name in block.last:
            left[name] = left[name] * stays
    return left
