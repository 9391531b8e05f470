"""Data as a variable: fewer training examples, unequal classes, wrong labels.

The training split alone is changed, after all splits were made, by draws of the split's seed: what
a member is validated and tested on stays. A smaller share is part of a larger one, and so are the
labels that a smaller noise makes wrong.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ...analysis.rows.mistake import Mistake
from ..training import draws

Rows = np.ndarray


@dataclasses.dataclass(frozen=True)
class Changes:
    """What is done to the training split.

    share: of each class's examples that is kept, in (0, 1].  noise: the share of labels that are
    replaced by another class's, drawn evenly, in [0, 1).  imbalance: how many times as many
    examples the first class has as the last one; those between fall geometrically (Cui et al.
    2019).
    """

    share: float = 1.0
    noise: float = 0.0
    imbalance: float = 1.0

    def apply(self, labels: np.ndarray, classes: int, seed: int) -> tuple[Rows, np.ndarray]:
        """Which rows of the training split are kept, in their order, and their labels then.

        labels: (n,).  Raises Mistake if a class is left without an example.
        """
        rows = self._kept(labels, classes, seed)
        own = labels[rows]
        noisy = self._noisy(own, classes, seed)
        return rows, noisy

    def _kept(self, labels: np.ndarray, classes: int, seed: int) -> Rows:
        if self.share == 1 and self.imbalance == 1:
            return np.arange(len(labels))
        counts = np.bincount(labels, minlength=classes)
        places = np.arange(classes) / max(1, classes - 1)
        profile = self.imbalance**-places
        largest = np.min(counts / profile)
        wanted = largest * profile if self.imbalance > 1 else counts
        sizes = np.rint(self.share * wanted).astype(int)
        self._check(counts, sizes)
        kept: list[np.ndarray] = []
        for label, size in enumerate(sizes):
            members = np.flatnonzero(labels == label)
            order = _order(seed, f"class {label}", len(members))
            kept.append(members[order[:size]])
        return np.sort(np.concatenate(kept))

    def _check(self, counts: np.ndarray, sizes: np.ndarray) -> None:
        emptied = np.flatnonzero((sizes == 0) & (counts > 0))
        if not len(emptied):
            return
        label = emptied[0]
        rule = "`train_share` and `imbalance` leave every class an example"
        got = f"got {self.share:g} and {self.imbalance:g}, by which class {label} has none"
        raise Mistake(f"{rule}; {got} of its {counts[label]} in training")

    def _noisy(self, labels: np.ndarray, classes: int, seed: int) -> np.ndarray:
        wrong = round(self.noise * len(labels))
        if not wrong or classes < 2:
            return labels
        order = _order(seed, "noise", len(labels))
        places = order[:wrong]
        key = draws.key(torch.tensor(seed), "wrong labels")
        uniform = draws.uniform(key, (len(labels),)).numpy()
        shift = 1 + np.floor(uniform * (classes - 1)).astype(labels.dtype)
        noisy = labels.copy()
        noisy[places] = (labels[places] + shift[places]) % classes
        return noisy


AS_IT_IS = Changes()
"""Nothing is changed."""


def _order(seed: int, what: str, count: int) -> np.ndarray:
    """A permutation of `count` places, drawn from the split's seed."""
    drawn_by = torch.tensor(seed)
    key = draws.key(drawn_by, "changes", what)
    order = draws.permutation(key, count)
    return order.numpy()
