"""Comparisons that are paired by seed: differences with intervals, equivalence, and what a search over candidates found.

A difference of arms in one seed shares data order and initial weights, so the pairs are compared, not the means. All
intervals and p values are Student's t, two-sided 95 % unless said otherwise; n is the number of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from . import front

LEVEL = 0.05
MARGIN = 0.005
"""Differences of accuracy within it, either way, count as equivalent: half a percentage point."""
FEWEST = 3
"""Distinct networks that a rank correlation needs."""
ALIKE = 1e-12
"""Numbers no further apart than this are equal: differences of accuracies carry rounding."""


@dataclass(frozen=True)
class Paired:
    """A mean difference with its 95 % interval, and the p value of no difference; NaN where they are undefined."""

    n: int
    mean: float
    std: float
    low: float
    high: float
    p: float


def paired(difference: ArrayLike) -> Paired:
    """Mean of the paired differences, sample deviation, t interval, and p value of the t test that the mean is 0.

    difference: (n,); NaN (a seed without its pair) is left out.  Interval and p are NaN for n < 2 and for differences
    that are all equal: they say nothing of their spread.
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
    return Paired(n, mean, std, mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / error, n - 1)))


def equivalence(difference: ArrayLike, margin: float = MARGIN) -> float:
    """The larger p value of two one-sided t tests: that the mean is at most -margin, and that it is at least margin.

    Schuirmann 1987.  difference: (n,), NaN left out.  NaN where `paired` has no interval.
    """
    values = _known(difference)
    if len(values) < 2 or np.ptp(values) <= ALIKE:
        return math.nan
    error = values.std(ddof=1) / math.sqrt(len(values))
    distance = margin - abs(float(values.mean()))  # the other test's is larger, and its p value smaller
    return float(stats.t.sf(distance / error, len(values) - 1))


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """p values adjusted for their number (Holm 1979).  p: (n,); NaN stays, and does not count."""
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]  # NaN is sorted to the end
    stepped = values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(values.shape, math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def verdict(found: Paired, adjusted: float, equivalent: float, margin: float = MARGIN) -> str:
    """better | worse | equivalent | inconclusive, with the reason or restriction behind it.

    adjusted: the p value of `found`, adjusted for the number of comparisons.  equivalent: from `equivalence`.
    """
    if math.isnan(found.p):
        return _undefined(found)
    if adjusted < LEVEL:
        inside = -margin < found.low and found.high < margin
        return ("better" if found.mean > 0 else "worse") + (", but by less than the margin" if inside else "")
    if equivalent < LEVEL:
        return "equivalent"
    return "inconclusive" + (": not after Holm's correction" if found.p < LEVEL else "")


def _undefined(found: Paired) -> str:
    """Why there is no interval."""
    if found.n < 2:
        return f"inconclusive: n = {found.n}"
    return "inconclusive: the same in every seed, which says nothing of its spread"


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation of x and y, (n,) each, ties at their mean rank; pairs with a NaN are left out.

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


# ---- what a search over candidates found


def searches(last_rows: pd.DataFrame) -> pd.DataFrame:
    """The done rows of searches over candidates, from the most to the fewest FLOPs; known by the column `hp_candidates`.

    `rest`: the hyper-parameters but the search's, and `setting`: those in words; arms do not matter, so what one arm has found
    is compared with the first or worst candidate of another.  `pick`: best where `hp_pick` does not say otherwise.
    Rows with the same (algorithm, rest, seed, m_winner) are of the same network, and so never independent.
    """
    done = last_rows[last_rows["status"] == "done"]
    if "hp_candidates" not in done:
        return done[:0]
    rows = done[done["hp_candidates"].notna()]
    rows = rows.assign(rest=front.unsearched(rows), pick=rows["hp_pick"].fillna("best") if "hp_pick" in rows else "best")
    smaller = -rows.groupby(["algorithm", "rest"])["flops_masked"].transform("mean")
    rows = rows.assign(setting=front.settings(rows.assign(arm=rows["algorithm"], hp=rows["rest"])), smaller=smaller)
    return rows.sort_values(["algorithm", "smaller", "setting", "pick", "hp_candidates", "seed"], ignore_index=True)


def found(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of what searches found beside the parent, the first candidate (`random`) and the worst of the most.

    One line per (algorithm, setting, network, candidates), `candidates` those of `front.marks`: mean `train_flops`; for valid
    and test data n, mean, sample deviation and interval of `accuracy_*`, and of `difference_*` to random in the same seed,
    its p value, that after Holm's correction over all lines, the larger p value of the equivalence tests, the verdict.
    """
    done, rows = last_rows[last_rows["status"] == "done"], searches(last_rows)
    if rows.empty:
        return pd.DataFrame()
    parent = front.parent_scores(done)
    keys, scores, pairs = [], [], []
    for (algorithm, _), group in rows.groupby(["algorithm", "rest"], sort=False):
        random = _by_seed(group, 1)
        networks = [("parent", None, parent), ("random", 1, random)]
        for network, pick in (("found", "best"), ("worst", "worst")):
            counts = [n for n in front.marks(group.loc[group["pick"] == pick, "hp_candidates"]) if n > 1]
            shown = counts if pick == "best" else counts[-1:]
            networks += [(network, n, _by_seed(group, n, pick)) for n in shown]
        seeds = sorted(group["seed"].unique())
        for network, n, each in networks:
            each = each.reindex(seeds)
            if each.notna().to_numpy().any():
                key = {"algorithm": algorithm, "setting": group["setting"].iloc[0], "network": network, "candidates": n}
                keys.append({**key, "train_flops": each["train_flops"].mean()})
                scores.append(each)
                pairs.append(each - random.reindex(seeds) if network in ("found", "worst") else each * math.nan)
    lines = pd.DataFrame(keys).astype({"candidates": "Int64"})
    for score in front.SCORES:
        difference = score.replace("accuracy", "difference")
        tests = [paired(pair[score]) for pair in pairs]
        same = [equivalence(pair[score]) for pair in pairs]
        adjusted = holm([test.p for test in tests])
        compared = lines["network"].isin(["found", "worst"])
        lines = lines.join(_columns([paired(each[score]) for each in scores], score).drop(columns=f"{score}_p"))
        lines = lines.join(_columns(tests, difference).where(compared))
        lines[f"{difference}_holm"], lines[f"{difference}_equivalence"] = adjusted, same
        said = [verdict(*each) for each in zip(tests, adjusted, same, strict=True)]
        lines[f"{difference}_verdict"] = pd.Series(said, dtype=object).where(compared)
    return lines


def _by_seed(group: pd.DataFrame, candidates: int, pick: str | None = None) -> pd.DataFrame:
    """Accuracies and charges, by seed, of one setting's rows of a count."""
    rows = group[(group["hp_candidates"] == candidates) & (True if pick is None else group["pick"] == pick)]
    return rows.drop_duplicates("seed").set_index("seed")[[*front.SCORES, *front.CHARGES]]


def _columns(found: Sequence[Paired], name: str) -> pd.DataFrame:
    fields = {"n": "_n", "mean": "", "std": "_std", "low": "_low", "high": "_high", "p": "_p"}
    return pd.DataFrame({f"{name}{end}": [getattr(one, field) for one in found] for field, end in fields.items()})


def correlations(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of initial score (`m_score`, a loss) and final accuracy over the distinct networks of a seed.

    One line per (algorithm, setting): `networks_least` and `networks_most` of a seed; for valid and test data
    `correlation_*`: n (seeds in which it is defined), mean over them, sample deviation, interval (within -1 and 1), p value
    that it is 0, that p value after Holm's correction over all lines, and the verdict: negative (a lower loss goes with
    higher accuracy), positive, inconclusive or undefined.
    The networks are the successive best of a search, its worst, its first candidate: no sample of all candidates.
    """
    rows = searches(last_rows)
    if rows.empty or not {"m_score", "m_winner"} <= set(rows):
        return pd.DataFrame()
    rows = rows[rows["m_winner"].notna()].drop_duplicates(["algorithm", "rest", "seed", "m_winner"])
    keys, values = [], []
    for (algorithm, _), group in rows.groupby(["algorithm", "rest"], sort=False):
        seeds = [part for _, part in group.groupby("seed")]
        sizes = [len(part) for part in seeds]
        key = {
            "algorithm": algorithm,
            "setting": group["setting"].iloc[0],
            "networks_least": min(sizes),
            "networks_most": max(sizes),
        }
        keys.append(key)
        values.append({score: [rank_correlation(part["m_score"], part[score]) for part in seeds] for score in front.SCORES})
    lines = pd.DataFrame(keys)
    for score in front.SCORES:
        name = score.replace("accuracy", "correlation")
        tests = [paired(value[score]) for value in values]
        lines = lines.join(_columns(tests, name))
        ends = [f"{name}_low", f"{name}_high"]
        lines[ends] = lines[ends].clip(-1, 1)
        lines[f"{name}_holm"] = adjusted = holm([test.p for test in tests])
        sizes = lines["networks_most"]
        lines[f"{name}_verdict"] = [_related(*each) for each in zip(tests, adjusted, sizes, strict=True)]
    return lines


def _related(found: Paired, adjusted: float, networks: int) -> str:
    """The verdict on a rank correlation, of at most `networks` networks of a seed."""
    if networks < FEWEST:
        return "inconclusive: too few distinct networks"
    if found.n == 0:
        return "undefined: score or accuracy does not vary"
    if math.isnan(found.p):
        return _undefined(found)
    return "inconclusive" if adjusted >= LEVEL else "negative" if found.mean < 0 else "positive"


def curves(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Mean validation accuracy by (algorithm, setting, pick, candidates), and how many seeds are behind it."""
    rows = front.selectable(searches(last_rows))
    grouped = rows.groupby(["algorithm", "setting", "pick", "hp_candidates"], sort=False)["accuracy_valid"]
    return grouped.agg(accuracy="mean", seeds="count").reset_index().rename(columns={"hp_candidates": "candidates"})
