"""How much memory solving takes, by shapes alone: nothing is tried, since what does not fit would
not survive it.

Counted are tensors that are alive at a time; what libraries hold while they factor a matrix comes
on top. The factors were fitted to measured peaks, which a test repeats.
"""

from __future__ import annotations

import dataclasses

import torch

from .linear import CHUNK
from .solver import Mode, directions, together, usual


@dataclasses.dataclass(frozen=True)
class Room:
    """Programs of one size. n: examples.  d: columns of X, ones included.  What it says are
    numbers, not bytes.
    """

    n: int
    d: int
    classes: int
    gates: int
    mode: Mode
    device: torch.device

    @property
    def data(self) -> int:
        """X."""
        return self.n * self.d

    @property
    def neurons(self) -> int:
        """t of one program."""
        return 2 * self.gates * self.d

    @property
    def seen(self) -> int:
        """z of one program."""
        return 2 * self.gates * self.n

    @property
    def member(self) -> int:
        """Iterates of all classes."""
        return self.classes * (2 * self.neurons + self.seen)

    @property
    def problem(self) -> int:
        """A Problem: X as given and scaled, gates and signs."""
        return 2 * self.data + self.seen + self.d**2

    @property
    def basis(self) -> int:
        """What a preconditioner keeps."""
        kind = usual(self.mode, self.n, self.gates, self.d)
        size = self.neurons if kind == "nystrom" else self.neurons // 2 + self.d
        return size * directions(kind, self.n, self.gates, self.d)

    @property
    def preconditioner(self) -> int:
        """Most that is held while one is made, beside the Problem."""
        n, size, lines = self.n, self.neurons // 2, self.gates * self.n
        kind = usual(self.mode, n, self.gates, self.d)
        rank = directions(kind, n, self.gates, self.d)
        if kind == "exact" and size <= n:
            cut = min(n * size, CHUNK)
            return max(2 * self.data + 2 * cut, self.data + cut + 2 * size**2, 3 * size**2)
        if kind == "exact":
            return self.data + 3 * size * n + 2 * n**2
        size *= 2 if kind == "nystrom" else 1
        columns = min(rank, max(1, CHUNK // lines))
        return max(2 * columns * lines + 4 * columns * size + size * rank, 5 * size * rank)

    def solving(self, members: int) -> int:
        """Most that solving for so many members at a time holds, beside what the state holds."""
        programs, both = self.classes * members, self.neurons + self.seen
        if self.mode == "paper":
            # The preconditioner is made in the first iteration.
            first, later = (
                programs * (4 * self.neurons + self.seen),
                programs * (16 * self.neurons + 5 * self.seen),
            )
        else:
            going = min(programs, together(self.n, self.gates, self.device))
            first, later = (
                2 * members * self.member + copies * going * both for copies in (12, 22)
            )
        return self.problem + max(first + self.preconditioner, later + self.basis)

    @property
    def proof(self) -> int:
        """Of one member's neurons, certificate and last layer."""
        return self.member + 5 * self.classes * (self.neurons + self.seen)
