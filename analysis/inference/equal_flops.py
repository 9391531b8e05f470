"""Arms compared at equal FLOPs, paired by seed: each seed's own front, read at the same FLOPs.

The tests are those of `paired`; every difference is accuracy minus the baseline's of the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..points import front
from ..rows.mistake import Mistake
from . import paired
from .paired import ALIKE, Paired

LEVELS = 5
"""FLOPs at which two arms are compared, evenly spaced in the logarithm."""
NARROW = 1.1
"""Two arms whose common range of FLOPs is narrower than this factor are compared in its middle
alone.
"""
UNREACHED = "not compared: no seed in which both reach these FLOPs"


def labels(rows: pd.DataFrame) -> pd.Series[str]:
    """What is compared, for each row: its arm; of an arm with controls and others in it, the
    controls apart.
    """
    control = rows["control"].astype(bool)
    mixed = control.groupby(rows["arm"]).transform("nunique") > 1
    return rows["arm"].where(~(mixed & control), rows["arm"] + " (control)")


def lines(rows: pd.DataFrame, cost: front.Cost) -> dict[int, NDArray[np.float64]]:
    """The front of each seed as a line over FLOPs, chosen by validation accuracy, with test
    accuracy beside it.

    rows: done rows of one arm.  A line: (points, 3), the logarithm of FLOPs, ascending, and
    `front.SCORES`; means of networks alike in FLOPs.  From the best network on it is level, as more
    FLOPs buy nothing better there, up to the costliest that was measured.  Networks that are not
    `front.eligible` are left out: those of no FLOPs have no logarithm.
    """
    found: dict[int, NDArray[np.float64]] = {}
    for seed, part in rows[front.eligible(rows)].groupby("seed"):
        points = part[["accuracy_valid", cost, *front.SCORES]].to_numpy(dtype=float)
        chosen = points[front.front(points[:, :2], front.DIRECTIONS)]
        flops, place = np.unique(chosen[:, 1], return_inverse=True)
        line = np.array(
            [[math.log(x), *chosen[place == i, 2:].mean(axis=0)] for i, x in enumerate(flops)]
        )
        if (most := points[:, 1].max()) > flops[-1]:
            line = np.vstack([line, [math.log(most), *line[-1, 1:]]])
        found[int(seed)] = line  # type: ignore[arg-type]
    return found


def at(lines: dict[int, NDArray[np.float64]], flops: float) -> pd.DataFrame:
    """`front.SCORES` by seed at these FLOPs, linear in their logarithm between points; NaN where a
    line does not reach them.
    """
    x = math.log(flops)
    found = {
        seed: [float(np.interp(x, line[:, 0], heights)) for heights in line[:, 1:].T]
        if line[0, 0] - ALIKE <= x <= line[-1, 0] + ALIKE
        else [math.nan] * len(front.SCORES)
        for seed, line in lines.items()
    }
    return pd.DataFrame.from_dict(found, orient="index", columns=front.SCORES, dtype=float)


def levels(
    one: dict[int, NDArray[np.float64]], other: dict[int, NDArray[np.float64]]
) -> list[float]:
    """FLOPs that all lines of both reach, from the most to the fewest: `LEVELS` of them, the middle
    of a `NARROW` range.

    Raises Mistake, saying why, if there are none.
    """
    if not one or not other:
        raise Mistake("no network of it is done and has FLOPs left")
    ends = [
        (max(line[0, 0] for line in each.values()), min(line[-1, 0] for line in each.values()))
        for each in (one, other)
    ]
    low, high = max(start for start, _ in ends), min(end for _, end in ends)
    if high < low - ALIKE:
        own, others = (
            f"{math.exp(start):,.0f} to {math.exp(end):,.0f}" if start <= end else "none"
            for start, end in ends
        )
        raise Mistake(
            f"no FLOPs that both reach in every seed; it reaches {own}, the baseline {others}"
        )
    if high - low < math.log(NARROW):
        return [math.exp((low + high) / 2)]
    return np.exp(np.linspace(high, low, LEVELS)).tolist()


def against(
    done: pd.DataFrame, baseline: str, cost: front.Cost, flops: Sequence[float] = ()
) -> pd.DataFrame:
    """Every other label against `baseline` at equal FLOPs, paired by seed: one line for each label
    and level.

    done: done rows with `label`.  flops: the levels; none: those of `levels`.  Columns: arm,
    baseline, flops; for each of `front.SCORES`, say of test data: `accuracy_test` and
    `baseline_test`, means over the pairs; the fields of `Paired` as `difference_test*`, of accuracy
    minus baseline's; and `difference_test_*`: `holm` (p, corrected for all lines), `effect`,
    `equivalence` (the larger p of its tests), `permutation` (p), `detectable` (in a table of so
    many lines), `verdict`. A label that cannot be compared has one line without numbers, whose
    verdicts say why.
    """
    known = {str(label): lines(rows, cost) for label, rows in done.groupby("label", sort=True)}
    keys: list[dict[str, object]] = []
    pairs: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    reasons: dict[int, str] = {}
    nothing = pd.DataFrame(columns=front.SCORES, dtype=float)
    for label in known:
        if label == baseline:
            continue
        seeds = sorted(known[label].keys() & known[baseline].keys())
        one, other = ({seed: known[name][seed] for seed in seeds} for name in (label, baseline))
        try:
            if len(seeds) < 2:
                raise Mistake(f"a comparison needs two seeds that both have; got {len(seeds)}")
            here = list(flops) or levels(one, other)
        except Mistake as error:
            reasons[len(keys)] = f"not compared: {error}"
            here = [math.nan]
        for level in here:
            pairs.append(
                (nothing, nothing) if math.isnan(level) else (at(one, level), at(other, level))
            )
            keys.append({"arm": label, "baseline": baseline, "flops": level})
    table = pd.DataFrame(keys, columns=["arm", "baseline", "flops"])
    for score in front.SCORES:
        name = score.replace("accuracy", "difference")
        values = [(one[score] - other[score]).to_numpy() for one, other in pairs]
        tests = [paired.paired(each) for each in values]
        adjusted, same = (
            paired.holm([test.p for test in tests]),
            [paired.equivalence(each) for each in values],
        )
        count = int((~np.isnan(adjusted)).sum())
        for place, head in enumerate((score, score.replace("accuracy", "baseline"))):
            both = [pair[place][score][(pair[0][score] + pair[1][score]).notna()] for pair in pairs]
            table[head] = [each.mean() for each in both]
        table = table.join(paired.columns(tests, name))
        table[f"{name}_holm"], table[f"{name}_equivalence"] = adjusted, same
        table[f"{name}_effect"] = [paired.effect(test) for test in tests]
        table[f"{name}_permutation"] = [paired.permutation(each) for each in values]
        table[f"{name}_detectable"] = [paired.detectable(test, count) for test in tests]
        said = [
            _said(*each) if each[0].n else UNREACHED
            for each in zip(tests, adjusted, same, strict=True)
        ]
        table[f"{name}_verdict"] = [
            reasons.get(place, verdict) for place, verdict in enumerate(said)
        ]
    return table


def _said(found: Paired, adjusted: float, equivalent: float) -> str:
    """The verdict, where an interval was no reason to decide: no difference shown."""
    said = paired.verdict(found, adjusted, equivalent)
    return said if math.isnan(found.p) else said.replace("inconclusive", "no difference shown", 1)
