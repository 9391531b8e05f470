"""Arms compared at equal FLOPs, paired by seed: each seed's own front, read at the same FLOPs.

The tests are those of `paired`; every difference is accuracy minus the baseline's of the same seed.
"""

from __future__ import annotations

import dataclasses
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
Line = NDArray[np.float64]
Lines = dict[int, Line]
"""Of each seed, as from `lines`."""
UNREACHED = "not compared: no seed in which both reach these FLOPs"


def labels(rows: pd.DataFrame) -> pd.Series[str]:
    """What is compared, for each row: its arm; of an arm with controls and others in it, the
    controls apart.
    """
    arms = rows["arm"]
    control = rows["control"].astype(bool)
    by_arm = control.groupby(arms)
    kinds = by_arm.transform("nunique")
    apart = (kinds > 1) & control
    marked = arms + " (control)"
    return arms.where(~apart, marked)


def lines(rows: pd.DataFrame, cost: front.Cost) -> Lines:
    """The front of each seed as a line over FLOPs, chosen by validation accuracy, with test
    accuracy beside it.

    rows: done rows of one arm.  A line: (points, 3), the logarithm of FLOPs, ascending, and
    `front.SCORES`; means of networks alike in FLOPs.  From the best network on it is level, as more
    FLOPs buy nothing better there, up to the costliest that was measured.  Networks that are not
    `front.eligible` are left out: those of no FLOPs have no logarithm.
    """
    by_seed: Lines = {}
    eligible = rows[front.eligible(rows)]
    columns = ["accuracy_valid", cost, *front.SCORES]
    for seed, part in eligible.groupby("seed"):
        points = part[columns].to_numpy(dtype=float)
        number = int(seed)  # type: ignore[arg-type]
        by_seed[number] = _line(points)
    return by_seed


def _line(points: Line) -> Line:
    """The line of one seed.  points: (networks, 4), validation accuracy, FLOPs, `front.SCORES`."""
    objectives = points[:, :2]
    belongs = front.front(objectives, front.DIRECTIONS)
    chosen = points[belongs]
    flops, place = np.unique(chosen[:, 1], return_inverse=True)
    line: list[list[float]] = []
    for i, level in enumerate(flops):
        alike = chosen[place == i]
        scores = alike[:, 2:].mean(axis=0)
        start = math.log(level)
        line.append([start, *scores])
    most = points[:, 1].max()
    if most > flops[-1]:
        end = math.log(most)
        _, *best = line[-1]
        line.append([end, *best])
    return np.array(line)


def at(lines: Lines, flops: float) -> pd.DataFrame:
    """`front.SCORES` by seed at these FLOPs, linear in their logarithm between points; NaN where a
    line does not reach them.
    """
    x = math.log(flops)
    scores: dict[int, list[float]] = {}
    for seed, line in lines.items():
        scores[seed] = _read_off(line, x)
    return pd.DataFrame.from_dict(
        scores,
        orient="index",
        columns=front.SCORES,
        dtype=float,
    )


def _read_off(line: Line, x: float) -> list[float]:
    """The scores of a line at the logarithm of FLOPs; NaN where it does not reach it."""
    places, *heights = line.T
    start = places[0] - ALIKE
    end = places[-1] + ALIKE
    if not start <= x <= end:
        return [math.nan] * len(heights)
    scores: list[float] = []
    for height in heights:
        score = np.interp(x, places, height)
        scores.append(float(score))
    return scores


def levels(one: Lines, other: Lines) -> list[float]:
    """FLOPs that all lines of both reach, from the most to the fewest: `LEVELS` of them, the middle
    of a `NARROW` range.

    Raises Mistake, saying why, if there are none.
    """
    if not one or not other:
        raise Mistake("no network of it is done and has FLOPs left")
    own_low, own_high = _reach(one)
    base_low, base_high = _reach(other)
    low = max(own_low, base_low)
    high = min(own_high, base_high)
    if high < low - ALIKE:
        own = _range(own_low, own_high)
        base = _range(base_low, base_high)
        rule = "no FLOPs that both reach in every seed"
        raise Mistake(f"{rule}; it reaches {own}, the baseline {base}")
    if high - low < math.log(NARROW):
        middle = (low + high) / 2
        return [math.exp(middle)]
    spaced = np.linspace(high, low, LEVELS)
    flops = np.exp(spaced)
    return flops.tolist()


def _reach(lines: Lines) -> tuple[float, float]:
    """From where to where all lines reach, as logarithms; nowhere if the second is the smaller."""
    low = -math.inf
    high = math.inf
    for line in lines.values():
        places = line[:, 0]
        low = max(low, places[0])
        high = min(high, places[-1])
    return low, high


def _range(start: float, end: float) -> str:
    if start > end:
        return "none"
    return f"{math.exp(start):,.0f} to {math.exp(end):,.0f}"


def against(
    done: pd.DataFrame,
    baseline: str,
    cost: front.Cost,
    flops: Sequence[float] = (),
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
    known: dict[str, Lines] = {}
    for label, rows in done.groupby("label", sort=True):
        known[str(label)] = lines(rows, cost)
    pairs: list[_Pair] = []
    for label, own in known.items():
        if label != baseline:
            pairs += _pairs(label, own, known[baseline], flops)
    arms = [pair.label for pair in pairs]
    levels_of_pairs = [pair.flops for pair in pairs]
    table = pd.DataFrame({"arm": arms})
    table["baseline"] = baseline
    table["flops"] = np.array(levels_of_pairs, dtype=float)
    for score in front.SCORES:
        tested = _tested(pairs, score)
        table = table.join(tested)
    return table


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A label and the baseline at some FLOPs: `front.SCORES` of both by seed, or why not."""

    label: str
    flops: float
    own: pd.DataFrame
    base: pd.DataFrame
    reason: str | None = None

    def difference(self, score: str) -> NDArray[np.float64]:
        """The score minus the baseline's, by seed; NaN where one of them is missing."""
        difference = self.own[score] - self.base[score]
        return difference.to_numpy()


def _pairs(
    label: str,
    own: Lines,
    base: Lines,
    flops: Sequence[float],
) -> list[_Pair]:
    """A label and the baseline at each level; a pair without scores if they cannot be compared."""
    seeds = sorted(own.keys() & base.keys())
    own = {seed: own[seed] for seed in seeds}
    base = {seed: base[seed] for seed in seeds}
    try:
        chosen = _chosen(own, base, flops)
    except Mistake as error:
        reason = f"not compared: {error}"
        nothing = pd.DataFrame(columns=front.SCORES, dtype=float)
        return [_Pair(label, math.nan, nothing, nothing, reason)]
    pairs: list[_Pair] = []
    for level in chosen:
        own_scores = at(own, level)
        base_scores = at(base, level)
        pair = _Pair(label, level, own_scores, base_scores)
        pairs.append(pair)
    return pairs


def _chosen(own: Lines, base: Lines, flops: Sequence[float]) -> list[float]:
    """The levels at which lines of the same seeds are compared.  Raises Mistake as `levels` does,
    and for fewer than two seeds.
    """
    seeds = len(own)
    if seeds < 2:
        raise Mistake(f"a comparison needs two seeds that both have; got {seeds}")
    return list(flops) or levels(own, base)


def _tested(pairs: Sequence[_Pair], score: str) -> pd.DataFrame:
    """The columns of `against` for one score."""
    name = score.replace("accuracy", "difference")
    table = _means(pairs, score)
    differences = [pair.difference(score) for pair in pairs]
    tests = paired.paired_groups(differences)
    p_values = [test.p for test in tests]
    adjusted = paired.holm(p_values)
    is_known = ~np.isnan(adjusted)
    comparisons = int(np.count_nonzero(is_known))
    equivalents = [paired.equivalence(values) for values in differences]
    table = table.join(paired.columns(tests, name))
    table[f"{name}_holm"] = adjusted
    table[f"{name}_equivalence"] = equivalents
    table[f"{name}_effect"] = [paired.effect(test) for test in tests]
    table[f"{name}_permutation"] = [paired.permutation(values) for values in differences]
    detectable: list[float] = []
    for test in tests:
        least = paired.detectable(test, comparisons)
        detectable.append(least)
    table[f"{name}_detectable"] = detectable
    verdicts: list[str] = []
    tested = zip(pairs, tests, adjusted, equivalents, strict=True)
    for pair, test, p, equivalent in tested:
        verdict = pair.reason or _verdict(test, p, equivalent)
        verdicts.append(verdict)
    table[f"{name}_verdict"] = verdicts
    return table


def _means(pairs: Sequence[_Pair], score: str) -> pd.DataFrame:
    """Of each pair the means of a score, its own and the baseline's, over the seeds of both."""
    own: list[float] = []
    base: list[float] = []
    for pair in pairs:
        difference = pair.difference(score)
        both = ~np.isnan(difference)
        own_scores = pair.own[score][both]
        own.append(own_scores.mean())
        base_scores = pair.base[score][both]
        base.append(base_scores.mean())
    baseline = score.replace("accuracy", "baseline")
    means = {score: own, baseline: base}
    return pd.DataFrame(means, dtype=float)


def _verdict(test: Paired, adjusted: float, equivalent: float) -> str:
    """The verdict, where an interval was no reason to decide: no difference shown."""
    if not test.n:
        return UNREACHED
    verdict = paired.verdict(test, adjusted, equivalent)
    if math.isnan(test.p):
        return verdict
    return verdict.replace("inconclusive", "no difference shown", 1)
