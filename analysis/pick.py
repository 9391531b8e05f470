"""One network out of a study: which member to take from the front, and which member a beginning of
a name means.

Validation data alone chooses.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

from .points import front
from .rows.mistake import Mistake

COSTS: dict[str, front.Cost] = {"masked": "flops_masked", "shrunk": "flops_shrunk"}
Choice = tuple[Any, str]
"""The index of an operating point, and why it was this one."""
NEAR = 3
"""Names that are told where one is not known."""


@dataclasses.dataclass(frozen=True)
class Pick:
    """A setting of the front, a line of `front.summarise`; one of its members, a last row; and why
    it was these.

    cost: which FLOPs chose.  max_flops: the most that was asked for, if it was.
    """

    point: dict[str, Any]
    member: dict[str, Any]
    why: tuple[str, str]
    cost: front.Cost = "flops_shrunk"
    max_flops: float | None = None


def pick(
    last_rows: pd.DataFrame,
    cost: front.Cost = "flops_shrunk",
    max_flops: float | None = None,
    min_accuracy: float | None = None,
    at_knee: bool = False,
) -> Pick:
    """One member on the front of all arms, in (mean validation accuracy up, mean `cost` down).

    last_rows: as from `table.last`; sanity checks are never taken.  cost: what leaves is a dense
    network, which costs its shrunk FLOPs; masked ones are for hardware that skips zeros.  Exactly
    one of the others says which setting: max_flops, the most accurate one of a mean cost of at most
    so many; min_accuracy, the cheapest one of at least that mean validation accuracy; at_knee, that
    of `front.knees`, the most accurate one if there is none. Of its seeds, the member is the one of
    the median validation accuracy (the lower one of two): the best one is the luckiest. With
    `max_flops`, members that cost more themselves are left out. Raises Mistake with the nearest
    setting if none is within the bound.
    """
    _check_bounds(max_flops, min_accuracy, at_knee)
    last_rows = last_rows[~front.is_check(last_rows)]
    points = _front(last_rows, cost)
    if max_flops is not None:
        chosen, why = _within_flops(points, cost, max_flops)
    elif min_accuracy is not None:
        chosen, why = _of_accuracy(points, cost, min_accuracy)
    else:
        chosen, why = _knee(points, cost)
    point = points.loc[chosen]
    member, among = _median(last_rows, point, cost, max_flops)
    reasons = f"{why}; means over seeds", f"of the median validation accuracy of {among}"
    return Pick(_record(point), _record(member), reasons, cost, max_flops)


def _check_bounds(max_flops: float | None, min_accuracy: float | None, at_knee: bool) -> None:
    """Raise Mistake unless exactly one bound is given, and within its range."""
    asked = {
        "--max-flops": max_flops is not None,
        "--min-accuracy": min_accuracy is not None,
        "--knee": at_knee,
    }
    given = [name for name, is_given in asked.items() if is_given]
    if len(given) != 1:
        got = ", ".join(given) or "none"
        raise Mistake(f"exactly one of {', '.join(asked)} says what to pick; got {got}")
    if max_flops is not None and not max_flops >= 0:
        raise Mistake(f"--max-flops: is a number of FLOPs from 0; got {max_flops:g}")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise Mistake(f"--min-accuracy: is a share, in [0, 1]; got {min_accuracy:g}")


def _front(last_rows: pd.DataFrame, cost: front.Cost) -> pd.DataFrame:
    """The operating points of the front, from the dearest and most accurate to the cheapest."""
    summary = front.summarise(last_rows)
    points = front.ordered(summary[front.fronts(summary, cost)], cost)
    if not points.empty:
        return points
    if summary["done"].any():
        raise Mistake(f"no member is on the front: {' '.join(front.left_out(last_rows))}")
    raise Mistake("no member is done, and so none is on the front")


def _within_flops(points: pd.DataFrame, cost: front.Cost, most: float) -> Choice:
    """The most accurate point of the front within so many FLOPs."""
    rule = f"at most {most:,.15g} FLOPs ({_kind(cost)})"
    seen = front.selectable(points)
    keeps = seen[cost] <= most
    within = seen[keeps]
    cheapest = seen.iloc[-1]
    _check_some(within, rule, cheapest, cost)
    best = within.index[0]
    return best, f"the most accurate point of the front with {rule}"


def _of_accuracy(points: pd.DataFrame, cost: front.Cost, least: float) -> Choice:
    """The cheapest point of the front of such an accuracy."""
    rule = f"a validation accuracy of at least {least:.15g}"
    seen = front.selectable(points)
    within = seen[seen["accuracy_valid"] >= least]
    dearest = seen.iloc[0]
    _check_some(within, rule, dearest, cost)
    ordered = within.sort_values(cost, kind="stable")
    why = f"the point of the fewest FLOPs ({_kind(cost)}) on the front with {rule}"
    return ordered.index[0], why


def _knee(points: pd.DataFrame, cost: front.Cost) -> Choice:
    """The knee of the front, or its most accurate point."""
    axes = f"validation accuracy and the logarithm of FLOPs ({_kind(cost)})"
    about = f"the front, {len(points)} points in {axes}"
    is_knee = front.knees(points, cost)
    if not is_knee.any():
        return points.index[0], f"the most accurate point of {about}, which has no knee"
    knee = points.index[is_knee.to_numpy()][0]
    return knee, f"the knee of {about}"


def _kind(cost: front.Cost) -> str:
    return cost.removeprefix("flops_")


def _median(
    last_rows: pd.DataFrame,
    point: pd.Series[Any],
    cost: front.Cost,
    max_flops: float | None,
) -> tuple[pd.Series[Any], str]:
    """The member of a setting of the median validation accuracy, and among which it is that."""
    own = last_rows["status"].eq("done")
    for name in ("arm", "hp"):
        own &= last_rows[name].eq(point[name])
    members = front.selectable(last_rows[own])
    able = members
    if max_flops is not None:
        within = members[cost] <= max_flops
        able = members[within]
    able = able.sort_values(["accuracy_valid", "seed"])
    place = (len(able) - 1) // 2
    middle = able.index[place]
    among = f"{len(members)} seeds"
    if len(able) < len(members):
        among = f"the {len(able)} of {among} within the bound"
    return last_rows.loc[middle], among


def full_name(rows: pd.DataFrame, member: str) -> str:
    """The name in full of the one member of `rows` whose name begins with `member`. Raises Mistake
    if it is not one.
    """
    known = [str(name) for name in rows["member"].unique()]
    if member in known:
        return member
    matching = sorted(name for name in known if name.startswith(member))
    count = len(matching)
    if count == 1:
        return matching[0]
    if matching:
        some = ", ".join(matching[:NEAR])
        if count > NEAR:
            some += ", ..."
        rule = "a member is named by a beginning that no other has"
        raise Mistake(f"{rule}; {member!r} begins {count}: {some}")
    near = _nearest(known, member)
    raise Mistake(f"no member {member!r} among {len(known)}; near: {near}")


def _nearest(known: list[str], member: str) -> str:
    """The names that begin most like a member's."""
    ranked: list[tuple[int, str]] = []
    for name in known:
        shared = _shared(name, member)
        ranked.append((-shared, name))
    nearest = sorted(ranked)[:NEAR]
    return ", ".join(name for _, name in nearest)


def _shared(one: str, other: str) -> int:
    """How many characters two names begin with in common."""
    count = 0
    for character, its in zip(one, other, strict=False):
        if character != its:
            break
        count += 1
    return count


def _check_some(
    within: pd.DataFrame,
    rule: str,
    nearest: pd.Series[Any],
    cost: str,
) -> None:
    """Raise Mistake, naming the nearest point, if no point keeps a rule."""
    if not within.empty:
        return
    accuracy = format(nearest["accuracy_valid"], ".4f")
    flops = format(nearest[cost], ",.0f")
    name = f"{nearest['arm']}: {nearest['setting']}"
    which = f"the nearest is {name} (validation accuracy {accuracy}, {flops} FLOPs)"
    raise Mistake(f"no point of the front has {rule}; {which}")


def _record(line: pd.Series[Any]) -> dict[str, Any]:
    names = map(str, line.index)
    return dict(zip(names, line, strict=True))
