"""Differences paired by seed: intervals, tests, equivalence, power, and the verdict they allow.

A difference of arms in one seed shares data order and initial weights, so the pairs are compared,
not the means. All intervals and p values are Student's t, two-sided 95 % unless said otherwise; n
is the number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

LEVEL = 0.05
MARGIN = 0.005
"""Differences of accuracy within it, either way, count as equivalent: half a percentage point."""
POWER = 0.8
"""The chance with which a difference is shown that a comparison is said to be able to show."""
PERMUTED = 6
"""Seeds that a permutation test needs: of five pairs the smallest p value is 2 / 2^5, above .05."""
FEWEST = 3
"""Distinct networks that a rank correlation needs."""
ALIKE = 1e-12
"""Numbers no further apart than this are equal: differences of accuracies carry rounding."""


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
    n, nan = len(values), math.nan
    if n < 2:
        return Paired(n, float(values.mean()) if n else nan, nan, nan, nan, nan)
    mean, std = float(values.mean()), float(values.std(ddof=1))
    if np.ptp(values) <= ALIKE:
        return Paired(n, mean, 0.0, nan, nan, nan)
    error = std / math.sqrt(n)
    half = error * float(stats.t.ppf(1 - LEVEL / 2, n - 1))
    return Paired(
        n, mean, std, mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / error, n - 1))
    )


def equivalence(difference: ArrayLike, margin: float = MARGIN) -> float:
    """The larger p value of two one-sided t tests: that the mean is at most -margin, and that it is
    at least margin.

    Schuirmann 1987.  difference: (n,), NaN left out.  NaN where `paired` has no interval.
    """
    values = _known(difference)
    if len(values) < 2 or np.ptp(values) <= ALIKE:
        return math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    distance = margin - abs(
        float(values.mean())
    )  # the other test's is larger, and its p value smaller
    return float(stats.t.sf(distance / error, len(values) - 1))


def effect(found: Paired) -> float:
    """Hedges' g of paired differences: mean over sample deviation, times the factor that removes
    its bias (Hedges 1981).

    NaN where `paired` has no interval, and for n = 2, where the factor is 0.
    """
    if math.isnan(found.p) or found.n < 3:
        return math.nan
    half = (found.n - 1) / 2
    return (
        found.mean
        / found.std
        * math.exp(special.gammaln(half) - special.gammaln(half - 0.5))
        / math.sqrt(half)
    )


def detectable(found: Paired, comparisons: int = 1) -> float:
    """The true difference that a t test of this n and deviation shows with probability `POWER`; NaN
    without an interval.

    The d at which T^2, noncentral F with 1 and n - 1 degrees of freedom and noncentrality n d^2 /
    std^2 (T itself is noncentral t; Cohen 1988, chapter 2), exceeds the squared two-sided quantile
    at `LEVEL / comparisons`: with several comparisons, the strictest step of Holm's correction.
    """
    if math.isnan(found.p):
        return math.nan
    bound = float(stats.t.isf(LEVEL / comparisons / 2, found.n - 1))
    ends = (0, 2 * bound + 10)
    shift = optimize.root_scalar(
        lambda x: stats.ncf.sf(bound**2, 1, found.n - 1, x * x) - POWER, bracket=ends
    ).root
    return shift * found.std / math.sqrt(found.n)


def permutation(difference: ArrayLike) -> float:
    """p value of the permutation test that flips signs of the differences; exact up to n = 13, else
    of 9999 draws.

    difference: (n,), NaN left out.  NaN where `paired` has no interval and for fewer than
    `PERMUTED`.
    """
    values = _known(difference)
    if len(values) < PERMUTED or np.ptp(values) <= ALIKE:
        return math.nan
    return float(
        stats.permutation_test((values,), np.mean, permutation_type="samples", rng=0).pvalue
    )


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p values adjusted for their number (Holm 1979).  p: (n,); NaN stays, and does not count."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]  # NaN is sorted to the end
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(values.shape, math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def columns(found: Sequence[Paired], name: str) -> pd.DataFrame:
    """The fields of each, a line: `name` is the mean, the others follow as `name_n` and so on."""
    fields = {"n": "_n", "mean": "", "std": "_std", "low": "_low", "high": "_high", "p": "_p"}
    return pd.DataFrame(
        {f"{name}{end}": [getattr(one, field) for one in found] for field, end in fields.items()}
    )


def verdict(found: Paired, adjusted: float, equivalent: float, margin: float = MARGIN) -> str:
    """better | worse | equivalent | inconclusive, with the reason or restriction behind it.

    adjusted: the p value of `found`, adjusted for the number of comparisons.  equivalent: from
    `equivalence`.
    """
    if math.isnan(found.p):
        return undefined(found)
    if adjusted < LEVEL:
        inside = -margin < found.low and found.high < margin
        return ("better" if found.mean > 0 else "worse") + (
            ", but by less than the margin" if inside else ""
        )
    if equivalent < LEVEL:
        return "equivalent"
    return "inconclusive" + (": not after Holm's correction" if found.p < LEVEL else "")


def undefined(found: Paired) -> str:
    """Why there is no interval."""
    if found.n < 2:
        return f"inconclusive: n = {found.n}"
    return "inconclusive: the same in every seed, which says nothing of its spread"


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of x and y, (n,) each, ties at their mean rank; pairs with a NaN
    are left out.

    NaN for fewer than `FEWEST` pairs and where x or y does not vary.
    """
    pairs = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)], axis=1)
    pairs = pairs[~np.isnan(pairs).any(axis=1)]
    if len(pairs) < FEWEST or (np.ptp(pairs, axis=0) <= ALIKE).any():
        return math.nan
    ranks = stats.rankdata(pairs, axis=0)
    return float(np.corrcoef(ranks, rowvar=False)[0, 1])


def _known(values: ArrayLike) -> NDArray[np.float64]:
    known = np.asarray(values, dtype=float)
    return known[~np.isnan(known)]
