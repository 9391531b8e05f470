"""L1-norm filter pruning (Li et al. 2017): a trained network loses its units of least weight and
trains on, narrower.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ..structure import masks
from ..structure.units import node_masks
from ..training.pruner import Context, Params, space
from ._masked import SPARSITY
from ._structured import Structured

UNIT_SPARSITY = dataclasses.replace(
    SPARSITY, about="the share of each hidden layer's units that is removed"
)


class L1Filters(Structured):
    """Every hidden layer loses the share `sparsity` of its units, those whose rows have the
    smallest sums of |weight|.

    Removed at once, in all layers by their own weights ("independently", section 3.3), then
    fine-tuned. In residual networks only units inside a branch are removed, as in section 3.3.
    """

    source = "Li et al. 2017 (arXiv 1608.08710), section 3"
    from_dense = True
    space = space(sparsity=UNIT_SPARSITY)

    def mask(self, params: Params, ctx: Context) -> Params:
        structure = ctx.structure
        sparsity = ctx.hp["sparsity"]
        alive: dict[str, Tensor] = {}
        for layer in structure.hidden:
            weight = params[layer.weight]
            sums = weight.abs().flatten(1).sum(1)
            count = masks.kept_count(sparsity, layer.units)
            alive[layer.name] = masks.top(sums, count)
        return node_masks(structure, alive, params)
