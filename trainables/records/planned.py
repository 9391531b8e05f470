"""Cohorts as a plan has them on disk, whatever version of their algorithm was planned."""

from __future__ import annotations

import contextlib

from ...analysis.rows.mistake import Mistake
from ..algorithms import find
from ..contract import Member
from .cohort import Cohort


def read_line(line: str) -> Cohort:
    """The cohort of a line of the plan. Hyper-parameters that its algorithm has gained since have
    their defaults, which mean "as before".
    """
    cohort = Cohort.from_json(line)
    if not cohort.algorithm:
        return cohort
    with contextlib.suppress(Mistake):  # an algorithm that is gone has nothing to say
        space = find(cohort.algorithm).space
        if space.keys() <= cohort.members[0].hp.keys():
            return cohort
        defaults = {name: domain.default for name, domain in space.items()}
        members: list[Member] = []
        for member in cohort.members:
            hp = {**defaults, **member.hp}
            in_order = dict(sorted(hp.items()))
            members.append(Member(in_order, member.seed))
        return cohort.with_members(members)
    return cohort
