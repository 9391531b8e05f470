"""L1-norm filter pruning (Li et al. 2017): a trained network loses its units of least weight and
trains on, narrower.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..domain import Domain, Value
from ..structure import masks
from ..structure.units import node_masks
from ..training.pruner import Context, Params, Pruning, space
from ._structured import Structured


class L1Filters(Structured):
    """Every hidden layer loses the share `sparsity` of its units, those whose rows have the
    smallest sums of |weight|.

    Removed at once, in all layers by their own weights ("independently", section 3.3), then
    fine-tuned. In residual networks only units inside a branch are removed, as in section 3.3.
    """

    source = "Li et al. 2017 (arXiv 1608.08710), section 3"
    from_dense = True
    space = space(
        sparsity=Domain(
            "real",
            0.5,
            "the share of each hidden layer's units that is removed",
            low=0,
            high=1,
            open_high=True,
        )
    )

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True

    def init(self, params: Params, ctx: Context) -> Pruning:
        alive = {
            layer.name: masks.top(
                params[layer.weight].abs().flatten(1).sum(1),
                masks.kept_count(ctx.hp["sparsity"], layer.units),
            )
            for layer in ctx.structure.hidden
        }
        return {"mask": node_masks(ctx.structure, alive, params)}
