"""DepGraph: units chosen by Torch-Pruning's group importance (Fang et al. 2023), an optional peer
to be compared with.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..contract import Domain, Member, State, Value
from ..measure.flops import CONVOLUTIONS
from ..structure import masks
from ..structure.units import node_masks
from ..task import Task
from ..training import stack
from ..training.pruner import dense_networks, space
from ._structured import Structured


class DepGraph(Structured):
    """A trained network loses the share `sparsity` of each hidden layer's units, those of the least
    norm over their groups.

    A unit's importance is the mean of the squared norms of its row, its batch-norm weight and its
    outgoing columns, found by Torch-Pruning's dependency graph. Units of the residual stream and of
    the output are not pruned, so that the units are those that other arms may remove; a layer keeps
    as many as theirs. Then the rest is fine-tuned by our loop.
    """

    source = "Fang et al. 2023, DepGraph (arXiv 2301.12900), as in Torch-Pruning: GroupMagnitudeImportance, layer by layer"
    from_dense = True
    charges = True  # its graph takes one example, once: that is no search
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

    def skip(self, task: Task) -> str | None:
        if importlib.util.find_spec("torch_pruning") is None:
            return "it needs the package torch-pruning: pip install 'prunefront[peers]'"
        return super().skip(task)

    def fixed(self, hp: Mapping[str, Value]) -> bool:
        return True

    def start(self, task: Task, members: Sequence[Member]) -> State:
        dense = dense_networks(
            task, [member.seed for member in members], self.before(task, members[0].hp)
        )
        state = self.begin(task, members, dense)
        masks_ = []
        for k, member in enumerate(members):
            params, buffers = (
                {name: t[k] for name, t in tree.items()} for tree in (dense.params, dense.buffers)
            )
            alive = chosen(
                task, params, buffers, torch.tensor(member.hp["sparsity"], dtype=torch.float64)
            )
            masks_.append(stack.restacked({"mask": node_masks(task.structure, alive, params)}))
        joined = State.concatenate([State(tree, {}) for tree in masks_])
        state.members["pruning"] = joined.members
        return state


def chosen(
    task: Task, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], sparsity: Tensor
) -> dict[str, Tensor]:
    """Hidden layer -> (units,) bool: the units of one network that Torch-Pruning keeps."""
    hidden = {layer.name: layer for layer in task.structure.hidden}
    alive = {
        name: torch.ones(layer.units, dtype=torch.bool, device=task.torch_device)
        for name, layer in hidden.items()
    }
    if not hidden:
        return alive
    import torch_pruning as tp

    module = task.build(0).eval()
    module.load_state_dict({**params, **buffers}, strict=False)
    parts, affine = dict(module.named_modules()), (nn.Linear, *CONVOLUTIONS)
    names = {part: name for name, part in parts.items()}
    # Half a unit more than is kept, since the number that is left is rounded down there.
    shares = {
        parts[n]: 1 - (float(masks.kept_count(sparsity, x.units)) + 0.5) / x.units
        for n, x in hidden.items()
    }
    pruner = tp.pruner.GroupNormPruner(
        module,
        task.data.examples("train", torch.arange(1)),
        tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio_dict=shares,
        ignored_layers=[
            part for part, name in names.items() if isinstance(part, affine) and name not in hidden
        ],
    )
    for group in pruner.step(interactive=True) or ():
        dependency, units = group[0]
        alive[names[dependency.target.module]][units] = False
    return alive
