"""Forward selection: few hidden units out of many, with one second layer refitted to all classes.

Orthogonal least squares (Chen, Billings & Luo 1989) on the Gram matrix, so that a step does not
depend on the number of examples; the units of every size are a prefix of one order.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-6
"""The weight of the second layer's squares, in the mean square of an activation, summed over
examples.
"""
DEPENDENT = 10.0
"""A unit of which those chosen leave fewer squares unexplained, in units of that weight, adds
nothing.
"""


class Selection:
    """Hidden units to choose from, by what they give on n examples.

    active: activations (n, m).  Y: targets (C, n).
    """

    def __init__(self, active: Tensor, Y: Tensor) -> None:
        ones = active.new_ones(len(active), 1)
        units = torch.cat([active, ones], 1).double()  # a bias, last
        gram = units.mT @ units
        squares = gram.diagonal()[:-1]
        weight = RIDGE * squares.mean() if len(squares) else 0.0
        damping = torch.full_like(gram.diagonal(), 1.0) * weight
        damping[-1] = 0.0
        self.floor = DEPENDENT * damping
        self.gram = gram + damping.diag()
        self.right = units.mT @ Y.mT.double()

    def order(self, count: int) -> Tensor:
        """At most `count` units, (k,) int64: each lowers the sum of squares most, beside those
        before it and a bias. Fewer, where none is left that would lower it.
        """
        left = self.gram.diagonal().clone()  # of each unit, what those chosen do not explain
        gained = self.right.clone()  # of the targets, along what is left of each unit
        is_open = torch.ones_like(left, dtype=torch.bool)
        factors: list[Tensor] = []
        order: list[Tensor] = []
        chosen = torch.tensor(len(left) - 1, device=left.device)
        for _ in range(count):
            factor = self._orthogonal(chosen, factors, left)
            share = gained[chosen] / left[chosen].sqrt()
            factors.append(factor)
            gained = gained - factor[:, None] * share
            left = left - factor.square()
            is_open[chosen] = False
            gain = gained.square().sum(1) / left
            is_possible = is_open & (left > self.floor)
            gain = torch.where(is_possible, gain, -1.0)
            chosen = gain.argmax()
            if gain[chosen] <= 0:
                break
            order.append(chosen)
        if not order:
            return torch.zeros(0, dtype=torch.long, device=left.device)
        return torch.stack(order)

    def _orthogonal(self, chosen: Tensor, factors: list[Tensor], left: Tensor) -> Tensor:
        """A column of the Cholesky factor: each unit's share in what is left of the chosen one."""
        column = self.gram[:, chosen].clone()
        for factor in factors:
            column -= factor[chosen] * factor
        return column / left[chosen].sqrt()

    def layer(self, units: Tensor) -> Tensor:
        """The second layer (C, m + 1), bias last, of these units (k,); zero at the others."""
        last = torch.tensor([len(self.gram) - 1], device=units.device)
        rows = torch.cat([units, last])
        among = self.gram[rows][:, rows]
        layer = torch.zeros_like(self.right)
        layer[rows] = torch.linalg.solve(among, self.right[rows])
        return layer.mT
