"""DepGraph: units chosen by Torch-Pruning's group importance (Fang et al. 2023), an optional peer
to be compared with.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..contract import Member
from ..structure import masks
from ..structure.units import node_masks
from ..task import Task
from ..training.pruner import Context, Params, Pruning, space
from ._structured import Structured
from .l1_filters import UNIT_SPARSITY


class DepGraph(Structured):
    """A trained network loses the share `sparsity` of each hidden layer's units, those of the least
    norm over their groups.

    A unit's importance is the mean of the squared norms of its row, its batch-norm weight and its
    outgoing columns, found by Torch-Pruning's dependency graph. Units of the residual stream and of
    the output are not pruned, so that the units are those that other arms may remove; a layer keeps
    as many as theirs. Then the rest is fine-tuned by our loop.
    """

    source = (
        "Fang et al. 2023, DepGraph (arXiv 2301.12900), as in Torch-Pruning: "
        "GroupMagnitudeImportance, layer by layer"
    )
    from_dense = True
    charges = True  # its graph takes one example, once: that is no search
    space = space(sparsity=UNIT_SPARSITY)

    def skip(self, task: Task) -> str | None:
        if importlib.util.find_spec("torch_pruning") is None:
            return "it needs the package torch-pruning: pip install 'prunefront[peers]'"
        return super().skip(task)

    def init(self, params: Params, ctx: Context) -> Pruning:
        return {}

    def init_member(
        self,
        task: Task,
        member: Member,
        params: Params,
        buffers: Params,
    ) -> Pruning:
        sparsity = torch.tensor(member.hp["sparsity"], dtype=torch.float64)
        alive = chosen(task, params, buffers, sparsity)
        mask = node_masks(task.structure, alive, params)
        return {"mask": mask}


def chosen(
    task: Task,
    params: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    sparsity: Tensor,
) -> dict[str, Tensor]:
    """Hidden layer -> (units,) bool: the units of one network that Torch-Pruning keeps."""
    alive: dict[str, Tensor] = {}
    for layer in task.structure.hidden:
        alive[layer.name] = torch.ones(
            layer.units,
            dtype=torch.bool,
            device=task.torch_device,
        )
    if not alive:
        return alive
    import torch_pruning as tp

    module = task.build(0).eval()
    module.load_state_dict({**params, **buffers}, strict=False)
    names: dict[nn.Module, str] = {}
    ignored: list[nn.Module] = []
    for name, part in module.named_modules():
        names[part] = name
        is_layer = isinstance(part, nn.Linear | nn.modules.conv._ConvNd)
        if is_layer and name not in alive:
            ignored.append(part)
    pruner = tp.pruner.GroupNormPruner(
        module,
        task.data.examples("train", torch.arange(1)),
        tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio_dict=_ratios(task, module, sparsity),
        ignored_layers=ignored,
    )
    for group in pruner.step(interactive=True) or ():
        dependency, units = group[0]
        layer_name = names[dependency.target.module]
        alive[layer_name][units] = False
    return alive


def _ratios(
    task: Task,
    module: nn.Module,
    sparsity: Tensor,
) -> dict[nn.Module, float]:
    """The share of its units that Torch-Pruning is to remove from each hidden layer."""
    ratios: dict[nn.Module, float] = {}
    for layer in task.structure.hidden:
        # Half a unit more than is kept, since the number that is left is rounded down there.
        kept = masks.kept_count(sparsity, layer.units)
        left = float(kept) + 0.5
        share_left = left / layer.units
        part = module.get_submodule(layer.name)
        ratios[part] = 1 - share_left
    return ratios
