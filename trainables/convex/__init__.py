"""Two-layer ReLU networks by convex optimisation: pure functions of tensors, on any device and in
any real type.
"""

from __future__ import annotations

from .certificate import Certificate, certificate
from .gates import gate_vectors, pair_vectors, patterns, with_ones
from .network import layers, prune_dependent, refit, relu_weights, two_layer
from .program import Program, beta_max
from .room import Room
from .select import Selection
from .solver import Problem, Solution, solve

__all__ = [
    "Certificate",
    "Problem",
    "Program",
    "Room",
    "Selection",
    "Solution",
    "beta_max",
    "certificate",
    "gate_vectors",
    "layers",
    "pair_vectors",
    "patterns",
    "prune_dependent",
    "refit",
    "relu_weights",
    "solve",
    "two_layer",
    "with_ones",
]
