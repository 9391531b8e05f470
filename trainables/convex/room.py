"""How much memory solving takes, by shapes alone: nothing is tried, since what does not fit would
not survive it.

Counted are tensors that are alive at a time; what libraries hold while they factor a matrix comes
on top. The factors were fitted to measured peaks, which a test repeats.
"""

from __future__ import annotations

import dataclasses

import torch

from .linear import CHUNK, Kind
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
        if self.kind == "nystrom":
            return self.neurons * self.rank
        size = self.neurons // 2 + self.d
        return size * self.rank

    @property
    def kind(self) -> Kind:
        """The preconditioner."""
        return usual(self.mode, self.n, self.gates, self.d)

    @property
    def rank(self) -> int:
        """Of the preconditioner."""
        return directions(self.kind, self.n, self.gates, self.d)

    @property
    def preconditioner(self) -> int:
        """Most that is held while one is made, beside the Problem."""
        size = self.neurons // 2
        if self.kind == "exact":
            return self._spectrum(size)
        if self.kind == "nystrom":
            return self._sketch(2 * size)
        return self._sketch(size)

    def _spectrum(self, size: int) -> int:
        """While all eigenvectors of `size` numbers are computed."""
        n = self.n
        if size > n:
            gated = 3 * size * n
            return self.data + gated + 2 * n**2
        gram = size**2
        rows = min(n * size, CHUNK)
        gating = 2 * self.data + 2 * rows
        summing = self.data + rows + 2 * gram
        factoring = 3 * gram
        return max(gating, summing, factoring)

    def _sketch(self, size: int) -> int:
        """While a sketch of directions of `size` numbers is made."""
        predicted = self.gates * self.n
        at_a_time = max(1, CHUNK // predicted)
        columns = min(self.rank, at_a_time)
        basis = size * self.rank
        vectors = 2 * predicted + 4 * size
        multiplying = columns * vectors + basis
        factoring = 5 * basis
        return max(multiplying, factoring)

    def solving(self, members: int) -> int:
        """Most that solving for so many members at a time holds, beside what the state holds."""
        programs = self.classes * members
        if self.mode == "paper":
            in_first = 4 * self.neurons + self.seen
            in_later = 16 * self.neurons + 5 * self.seen
            first = programs * in_first
            later = programs * in_later
        else:
            most = together(self.n, self.gates, self.device)
            going = min(programs, most)
            iterate = going * (self.neurons + self.seen)
            held = 2 * members * self.member
            first = held + 12 * iterate
            later = held + 20 * iterate
        # The preconditioner is made in the first iteration.
        first += self.preconditioner
        later += self.basis
        return self.problem + max(first, later)

    @property
    def proof(self) -> int:
        """Of one member's neurons, certificate and last layer."""
        return self.member + 5 * self.classes * (self.neurons + self.seen)
