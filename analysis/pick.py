"""One network out of a study: which member to take from the front, and which member a beginning of
a name means.

Validation data alone chooses.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pandas as pd

from .points import front
from .rows.mistake import Mistake

COSTS: dict[str, front.Cost] = {"masked": "flops_masked", "shrunk": "flops_shrunk"}
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
    given = [
        name
        for name, value in (("--max-flops", max_flops), ("--min-accuracy", min_accuracy))
        if value is not None
    ]
    given += ["--knee"] if at_knee else []
    if len(given) != 1:
        got = ", ".join(given) or "none"
        raise Mistake(
            f"exactly one of --max-flops, --min-accuracy, --knee says what to pick; got {got}"
        )
    if max_flops is not None and not max_flops >= 0:
        raise Mistake(f"--max-flops: is a number of FLOPs from 0; got {max_flops:g}")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise Mistake(f"--min-accuracy: is a share, in [0, 1]; got {min_accuracy:g}")
    last_rows = last_rows[~front.is_check(last_rows)]
    summary = front.summarise(last_rows)
    points = front.ordered(
        summary[front.fronts(summary, cost)], cost
    )  # from the dearest, most accurate to the cheapest
    if points.empty:
        if summary["done"].any():
            raise Mistake(f"no member is on the front: {' '.join(front.left_out(last_rows))}")
        raise Mistake("no member is done, and so none is on the front")
    seen, kind = front.selectable(points), cost.removeprefix("flops_")
    if max_flops is not None:
        rule = f"at most {max_flops:,.15g} FLOPs ({kind})"
        within = seen[seen[cost] <= max_flops]
        _some(within, rule, seen.iloc[-1], cost)
        chosen, why = within.index[0], f"the most accurate point of the front with {rule}"
    elif min_accuracy is not None:
        rule = f"a validation accuracy of at least {min_accuracy:.15g}"
        within = seen[seen["accuracy_valid"] >= min_accuracy].sort_values(cost, kind="stable")
        _some(within, rule, seen.iloc[0], cost)
        chosen, why = (
            within.index[0],
            f"the point of the fewest FLOPs ({kind}) on the front with {rule}",
        )
    else:
        knee = front.knees(points, cost)
        chosen = (seen.index[knee.to_numpy()] if knee.any() else seen.index)[0]
        about = f"the front, {len(seen)} points in validation accuracy and the logarithm of FLOPs ({kind})"
        why = (
            f"the knee of {about}"
            if knee.any()
            else f"the most accurate point of {about}, which has no knee"
        )
    point = points.loc[chosen]
    own = (
        last_rows["arm"].eq(point["arm"])
        & last_rows["hp"].eq(point["hp"])
        & last_rows["status"].eq("done")
    )
    members = front.selectable(last_rows[own])
    able = members if max_flops is None else members[members[cost] <= max_flops]
    able = able.sort_values(["accuracy_valid", "seed"])
    middle = able.index[(len(able) - 1) // 2]
    among = (
        f"the {len(able)} of {len(members)} seeds within the bound"
        if len(able) < len(members)
        else f"{len(members)} seeds"
    )
    reasons = f"{why}; means over seeds", f"of the median validation accuracy of {among}"
    return Pick(_record(point), _record(last_rows.loc[middle]), reasons, cost, max_flops)


def find(rows: pd.DataFrame, member: str) -> str:
    """The name in full of the one member of `rows` whose name begins with `member`. Raises Mistake
    if it is not one.
    """
    known = [str(name) for name in rows["member"].unique()]
    found = [name for name in known if name.startswith(member)]
    if member in found or len(found) == 1:
        return member if member in found else found[0]
    if found:
        some = f"{', '.join(sorted(found)[:NEAR])}{', ...' if len(found) > NEAR else ''}"
        raise Mistake(
            f"a member is named by a beginning that no other has; {member!r} begins {len(found)}: {some}"
        )

    def alike(name: str) -> int:
        return sum(
            1
            for _ in itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(name, member, strict=False)
            )
        )

    near = sorted(known, key=lambda name: (-alike(name), name))[:NEAR]
    raise Mistake(f"no member {member!r} among {len(known)}; near: {', '.join(near)}")


def _some(within: pd.DataFrame, rule: str, nearest: pd.Series[Any], cost: front.Cost) -> None:
    if within.empty:
        has = f"validation accuracy {nearest['accuracy_valid']:.4f}, {nearest[cost]:,.0f} FLOPs"
        raise Mistake(
            f"no point of the front has {rule}; the nearest is {nearest['arm']}: {nearest['setting']} ({has})"
        )


def _record(line: pd.Series[Any]) -> dict[str, Any]:
    return {str(name): value for name, value in line.items()}
