"""Dense training: no pruning, the parent that everything is compared with."""

from ..gradient import GradientPruner


class Dense(GradientPruner):
    """Plain training by gradient for the whole budget."""

    source = "baseline: ordinary training"
    control = True
