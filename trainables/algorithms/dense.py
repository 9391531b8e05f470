"""Dense training: no pruning, the parent that everything is compared with."""

from ..gradient import GradientPruner


class Dense(GradientPruner):
    """Plain training by gradient for the whole budget."""

    source = "baseline: ordinary training"
    control = True
    standard = {"dense": {}, "dense, narrower": {"width": (0.7, 0.5, 0.35, 0.25, 0.18, 0.125)}}
