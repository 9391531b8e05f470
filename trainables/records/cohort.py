"""Members that train together, as a plan lists them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ..contract import Member


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Members of one arm that train together.

    algorithm: its name; empty for a cohort that only trains the dense networks of its members'
    seeds, from which others start, and that has no rows.  after: names of the cohorts that must be
    finished before.  version: the algorithm's, when it was planned.  bytes: memory that a member
    takes while it trains; 0 if that was not measured.  together, compile: how members are run
    (`training.engine.Execution`).
    """

    name: str
    arm: str
    algorithm: str
    members: tuple[Member, ...]
    after: tuple[str, ...] = ()
    version: int = 1
    bytes: int = 0
    together: int = 0
    compile: bool = False

    def to_json(self) -> str:
        """One line from which `from_json` makes the same cohort."""
        members = [vars(member) for member in self.members]
        fields = {**vars(self), "members": members}
        return json.dumps(fields)

    def with_members(self, members: Sequence[Member]) -> Cohort:
        """The same cohort of other members."""
        return dataclasses.replace(self, members=tuple(members))

    @staticmethod
    def from_json(line: str) -> Cohort:
        """The cohort of a line that `to_json` wrote."""
        fields = json.loads(line)
        members = [_member(about) for about in fields["members"]]
        fields["members"] = tuple(members)
        fields["after"] = tuple(fields["after"])
        return Cohort(**fields)


def _member(about: dict[str, Any]) -> Member:
    """A member from JSON, in which tuples are lists."""
    hp = dict(about["hp"])
    for name, value in hp.items():
        if isinstance(value, list):
            hp[name] = tuple(value)
    return Member(hp, about["seed"])
