"""Differences paired by seed: intervals, tests, equivalence, power, and the verdict they allow.

A difference of arms in one seed shares data order and initial weights, so the pairs are compared,
not the means. All intervals and p values are Student's t, two-sided 95 % unless said otherwise; n
is the number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Values = NDArray[np.float64]
LEVEL = 0.05
MARGIN = 0.005
"""Differences of accuracy within it, either way, count as equivalent: half a percentage point."""
POWER = 0.8
"""The chance with which a difference is shown that a comparison is said to be able to show."""
PERMUTED = 6
"""Seeds that a permutation test needs: of five pairs the smallest p value is 2 / 2^5, over 0.05."""
FEWEST = 3
"""Distinct networks that a rank correlation needs."""
ALIKE = 1e-12
"""Numbers no further apart than this are equal: differences of accuracies carry rounding."""
FIELDS = {"n": "_n", "mean": "", "std": "_std", "low": "_low", "high": "_high", "p": "_p"}
"""What a table of `Paired` has behind the name of a column, for each field."""


@dataclass(frozen=True)
class Paired:
    """A mean difference with its 95 % interval, and the p value of no difference; NaN where they
    are undefined.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float
    p: float


def paired(difference: ArrayLike) -> Paired:
    """Mean of the paired differences, sample deviation, t interval, and p value of the t test that
    the mean is 0.

    difference: (n,); NaN (a seed without its pair) is left out.  Interval and p are NaN for n < 2
    and for differences that are all equal: they say nothing of their spread.
    """
    values = _known(difference)
    if not len(values):
        nan = math.nan
        return Paired(0, nan, nan, nan, nan, nan)
    row = values[np.newaxis]
    tests = paired_rows(row)
    return tests[0]


def paired_rows(differences: Values) -> list[Paired]:
    """`paired` of each row, all at once: a call of SciPy for each would take milliseconds.

    differences: (rows, n), n >= 1, without NaN.
    """
    rows, n = differences.shape
    mean = differences.mean(axis=1)
    undefined = np.full(rows, math.nan)
    std = undefined
    low = undefined.copy()
    high = undefined.copy()
    p = undefined.copy()
    ranges = np.ptp(differences, axis=1)
    varied = ranges > ALIKE
    if n > 1:
        deviations = differences.std(axis=1, ddof=1)
        std = np.where(varied, deviations, 0.0)
    if n > 1 and varied.any():
        testable = differences[varied]
        test: Any = stats.ttest_1samp(testable, 0.0, axis=1)
        interval = test.confidence_interval(1 - LEVEL)
        low[varied] = interval.low
        high[varied] = interval.high
        p[varied] = test.pvalue
    fields = np.stack([mean, std, low, high, p], axis=1)
    tests: list[Paired] = []
    for row in fields.tolist():
        tests.append(Paired(n, *row))
    return tests


def paired_groups(differences: Sequence[ArrayLike]) -> list[Paired]:
    """`paired` of each of some differences, those of one length at once."""
    known = [_known(values) for values in differences]
    sizes = [len(values) for values in known]
    lengths = np.array(sizes, dtype=np.int64)
    nothing = paired([])
    tests = [nothing] * len(known)
    present = lengths[lengths > 0]
    for n in np.unique(present):
        places = np.flatnonzero(lengths == n)
        rows = np.stack([known[place] for place in places])
        of_rows = paired_rows(rows)
        for place, test in zip(places, of_rows, strict=True):
            tests[place] = test
    return tests


def equivalence(difference: ArrayLike, margin: float = MARGIN) -> float:
    """The larger p value of two one-sided t tests: that the mean is at most -margin, and that it is
    at least margin.

    Schuirmann 1987.  difference: (n,), NaN left out.  NaN where `paired` has no interval.
    """
    values = _known(difference)
    if not _varies(values, 2):
        return math.nan
    above: Any = stats.ttest_1samp(values, -margin, alternative="greater")
    below: Any = stats.ttest_1samp(values, margin, alternative="less")
    larger = max(above.pvalue, below.pvalue)
    return float(larger)


def equivalence_groups(differences: Sequence[ArrayLike], margin: float = MARGIN) -> list[float]:
    """`equivalence` of each of some differences, those of one length at once."""
    known = [_known(values) for values in differences]
    count = len(known)
    lengths = np.zeros(count, dtype=int)
    for place, values in enumerate(known):
        if _varies(values, 2):
            lengths[place] = len(values)
    larger = np.full(count, math.nan)
    testable = lengths[lengths > 0]
    for n in np.unique(testable):
        places = np.flatnonzero(lengths == n)
        rows = np.stack([known[place] for place in places])
        above: Any = stats.ttest_1samp(rows, -margin, axis=1, alternative="greater")
        below: Any = stats.ttest_1samp(rows, margin, axis=1, alternative="less")
        larger[places] = np.maximum(above.pvalue, below.pvalue)
    return larger.tolist()


def effect(test: Paired) -> float:
    """Hedges' g of paired differences: mean over sample deviation, times the factor that removes
    its bias (Hedges 1981).

    NaN where `paired` has no interval, and for n = 2, where the factor is 0.
    """
    if math.isnan(test.p):
        return math.nan
    if test.n < 3:
        return math.nan
    half = (test.n - 1) / 2
    upper = special.gammaln(half)
    lower = special.gammaln(half - 0.5)
    ratio = math.exp(upper - lower)
    standardised = test.mean / test.std
    return standardised * ratio / math.sqrt(half)


def detectable(test: Paired, comparisons: int = 1) -> float:
    """The true difference that a t test of this n and deviation shows with probability `POWER`; NaN
    without an interval.

    The d at which T^2, noncentral F with 1 and n - 1 degrees of freedom and noncentrality n d^2 /
    std^2 (T itself is noncentral t; Cohen 1988, chapter 2), exceeds the squared two-sided quantile
    at `LEVEL / comparisons`: with several comparisons, the strictest step of Holm's correction.
    """
    if math.isnan(test.p):
        return math.nan
    freedom = test.n - 1
    level = LEVEL / comparisons
    quantile = stats.t.isf(level / 2, freedom)
    bound = float(quantile)
    squared = bound**2

    # statsmodels' TTestPower loses the root where few seeds meet many comparisons (0.15 gives 10
    # deviations for n = 2 and 5 comparisons, where it is 57.7): noncentral t is inexact there.
    def excess(shift: float) -> float:
        power = stats.ncf.sf(squared, 1, freedom, shift * shift)
        return float(power) - POWER

    beyond = 2 * bound + 10
    solution = optimize.root_scalar(excess, bracket=(0, beyond))
    shift = solution.root
    return shift * test.std / math.sqrt(test.n)


def permutation(difference: ArrayLike) -> float:
    """p value of the permutation test that flips signs of the differences; exact up to n = 13, else
    of 9999 draws.

    difference: (n,), NaN left out.  NaN where `paired` has no interval and for fewer than
    `PERMUTED`.
    """
    values = _known(difference)
    if not _varies(values, PERMUTED):
        return math.nan
    test = stats.permutation_test((values,), np.mean, permutation_type="samples", rng=0)
    return float(test.pvalue)


def holm(p: ArrayLike) -> Values:
    """p values adjusted for their number (Holm 1979).  p: (n,); NaN stays, and does not count."""
    # SciPy has no Holm; statsmodels' gives the same bits, and collects all garbage at each call.
    adjusted = np.array(p, dtype=float)
    is_known = ~np.isnan(adjusted)
    known = np.count_nonzero(is_known)
    order = np.argsort(adjusted)
    order = order[:known]  # NaN comes last
    factors = np.arange(known, 0, -1)
    stepped = adjusted[order] * factors
    largest = np.maximum.accumulate(stepped)
    adjusted[order] = np.minimum(largest, 1.0)
    return adjusted


def columns(tests: Sequence[Paired], name: str) -> pd.DataFrame:
    """The fields of the tests, a line for each: `name` is the mean, the others follow as `name_n`
    and so on.
    """
    count = len(tests)
    table = pd.DataFrame(index=range(count))
    for field, ending in FIELDS.items():
        column = f"{name}{ending}"
        table[column] = [getattr(test, field) for test in tests]
    return table


def verdict(
    test: Paired,
    adjusted: float,
    equivalent: float,
    margin: float = MARGIN,
) -> str:
    """better | worse | equivalent | inconclusive, with the reason or restriction behind it.

    adjusted: the p value of `test`, adjusted for the number of comparisons.  equivalent: from
    `equivalence`.
    """
    if math.isnan(test.p):
        return undefined(test)
    if adjusted < LEVEL:
        which = "better" if test.mean > 0 else "worse"
        inside = -margin < test.low and test.high < margin
        return f"{which}, but by less than the margin" if inside else which
    if equivalent < LEVEL:
        return "equivalent"
    if test.p < LEVEL:
        return "inconclusive: not after Holm's correction"
    return "inconclusive"


def tested(differences: Sequence[ArrayLike], name: str) -> pd.DataFrame:
    """Tests of paired differences, a line for each: the fields of `Paired` as `name` and
    `name_*`, and `holm`, corrected for all of them, `equivalence` and `verdict`.
    """
    tests = paired_groups(differences)
    same = equivalence_groups(differences)
    p_values = [test.p for test in tests]
    adjusted = holm(p_values)
    verdicts = []
    for test, corrected, equivalence in zip(tests, adjusted, same, strict=True):
        told = verdict(test, corrected, equivalence)
        verdicts.append(told)
    lines = columns(tests, name)
    lines[f"{name}_holm"] = adjusted
    lines[f"{name}_equivalence"] = same
    lines[f"{name}_verdict"] = verdicts
    return lines


def undefined(test: Paired) -> str:
    """Why there is no interval."""
    if test.n < 2:
        return f"inconclusive: n = {test.n}"
    return "inconclusive: the same in every seed, which says nothing of its spread"


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of x and y, (n,) each, ties at their mean rank; pairs with a NaN
    are left out.

    NaN for fewer than `FEWEST` pairs and where x or y does not vary.
    """
    first = np.asarray(x)
    second = np.asarray(y)
    pairs = np.stack([first, second], axis=1)
    pairs = pairs.astype(float)
    missing = np.isnan(pairs)
    whole = ~missing.any(axis=1)
    pairs = pairs[whole]
    for values in pairs.T:
        if not _varies(values, FEWEST):
            return math.nan
    ranks = stats.rankdata(pairs, axis=0)
    # What SciPy's spearmanr does, without its p value, which takes most of the time.
    correlations = np.corrcoef(ranks, rowvar=False)
    return float(correlations[1, 0])


def _known(values: ArrayLike) -> Values:
    known = np.asarray(values, dtype=float)
    return known[~np.isnan(known)]


def _varies(values: Values, fewest: int) -> bool:
    """Whether there are so many values, and not all of them equal."""
    if len(values) < fewest:
        return False
    spread = np.ptp(values)
    return bool(spread > ALIKE)
