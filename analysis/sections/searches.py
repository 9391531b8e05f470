"""What searches over candidate networks found, against the first candidate, which is random, paired
by seed.
"""

from __future__ import annotations

import math

import pandas as pd

from ..inference import paired
from ..points import front


def searches(last_rows: pd.DataFrame) -> pd.DataFrame:
    """The done rows of searches over candidates, from the most to the fewest FLOPs; known by the
    column `hp_candidates`.

    `rest`: the hyper-parameters but the search's, and `setting`: those in words; arms do not
    matter, so what one arm has found is compared with the first or worst candidate of another.
    `pick`: best where `hp_pick` does not say otherwise. Rows with the same (algorithm, rest, seed,
    m_winner) are of the same network, and so never independent.
    """
    done = last_rows[last_rows["status"] == "done"]
    if "hp_candidates" not in done:
        return done[:0]
    rows = done[done["hp_candidates"].notna()]
    rows = rows.assign(
        rest=front.unsearched(rows),
        pick=rows["hp_pick"].fillna("best") if "hp_pick" in rows else "best",
    )
    smaller = -rows.groupby(["algorithm", "rest"])["flops_masked"].transform("mean")
    rows = rows.assign(
        setting=front.settings(rows.assign(arm=rows["algorithm"], hp=rows["rest"])), smaller=smaller
    )
    return rows.sort_values(
        ["algorithm", "smaller", "setting", "pick", "hp_candidates", "seed"], ignore_index=True
    )


def found(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of what searches found beside the parent, the first candidate (`random`) and the
    worst of the most.

    One line per (algorithm, setting, network, candidates), `candidates` those of `front.marks`:
    mean `train_flops`; for valid and test data n, mean, sample deviation and interval of
    `accuracy_*`, and of `difference_*` to random in the same seed, its p value, that after Holm's
    correction over all lines, the larger p value of the equivalence tests, the verdict.
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
            counts = [
                n for n in front.marks(group.loc[group["pick"] == pick, "hp_candidates"]) if n > 1
            ]
            shown = counts if pick == "best" else counts[-1:]
            networks += [(network, n, _by_seed(group, n, pick)) for n in shown]
        seeds = sorted(group["seed"].unique())
        for network, n, each in networks:
            each = each.reindex(seeds)
            if each.notna().to_numpy().any():
                key = {
                    "algorithm": algorithm,
                    "setting": group["setting"].iloc[0],
                    "network": network,
                    "candidates": n,
                }
                keys.append({**key, "train_flops": each["train_flops"].mean()})
                scores.append(each)
                pairs.append(
                    each - random.reindex(seeds)
                    if network in ("found", "worst")
                    else each * math.nan
                )
    lines = pd.DataFrame(keys).astype({"candidates": "Int64"})
    for score in front.SCORES:
        difference = score.replace("accuracy", "difference")
        tests = [paired.paired(pair[score]) for pair in pairs]
        same = [paired.equivalence(pair[score]) for pair in pairs]
        adjusted = paired.holm([test.p for test in tests])
        compared = lines["network"].isin(["found", "worst"])
        lines = lines.join(
            paired.columns([paired.paired(each[score]) for each in scores], score).drop(
                columns=f"{score}_p"
            )
        )
        lines = lines.join(paired.columns(tests, difference).where(compared))
        lines[f"{difference}_holm"], lines[f"{difference}_equivalence"] = adjusted, same
        said = [paired.verdict(*each) for each in zip(tests, adjusted, same, strict=True)]
        lines[f"{difference}_verdict"] = pd.Series(said, dtype=object).where(compared)
    return lines


def _by_seed(group: pd.DataFrame, candidates: int, pick: str | None = None) -> pd.DataFrame:
    """Accuracies and charges, by seed, of one setting's rows of a count."""
    rows = group[
        (group["hp_candidates"] == candidates) & (True if pick is None else group["pick"] == pick)
    ]
    return rows.drop_duplicates("seed").set_index("seed")[[*front.SCORES, *front.CHARGES]]


def correlations(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of initial score (`m_score`, a loss) and final accuracy over the distinct
    networks of a seed.

    One line per (algorithm, setting): `networks_least` and `networks_most` of a seed; for valid and
    test data
    `correlation_*`: n (seeds in which it is defined), mean over them, sample deviation, interval
    (within -1 and 1), p value that it is 0, that p value after Holm's correction over all lines,
    and the verdict: negative (a lower loss goes with higher accuracy), positive, inconclusive or
    undefined. The networks are the successive best of a search, its worst, its first candidate: no
    sample of all candidates.
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
        values.append(
            {
                score: [paired.rank_correlation(part["m_score"], part[score]) for part in seeds]
                for score in front.SCORES
            }
        )
    lines = pd.DataFrame(keys)
    for score in front.SCORES:
        name = score.replace("accuracy", "correlation")
        tests = [paired.paired(value[score]) for value in values]
        lines = lines.join(paired.columns(tests, name))
        ends = [f"{name}_low", f"{name}_high"]
        lines[ends] = lines[ends].clip(-1, 1)
        lines[f"{name}_holm"] = adjusted = paired.holm([test.p for test in tests])
        sizes = lines["networks_most"]
        lines[f"{name}_verdict"] = [
            _related(*each) for each in zip(tests, adjusted, sizes, strict=True)
        ]
    return lines


def _related(found: paired.Paired, adjusted: float, networks: int) -> str:
    """The verdict on a rank correlation, of at most `networks` networks of a seed."""
    if networks < paired.FEWEST:
        return "inconclusive: too few distinct networks"
    if found.n == 0:
        return "undefined: score or accuracy does not vary"
    if math.isnan(found.p):
        return paired.undefined(found)
    return (
        "inconclusive" if adjusted >= paired.LEVEL else "negative" if found.mean < 0 else "positive"
    )


def curves(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Mean validation accuracy by (algorithm, setting, pick, candidates), and how many seeds are
    behind it.
    """
    rows = front.selectable(searches(last_rows))
    grouped = rows.groupby(["algorithm", "setting", "pick", "hp_candidates"], sort=False)[
        "accuracy_valid"
    ]
    return (
        grouped.agg(accuracy="mean", seeds="count")
        .reset_index()
        .rename(columns={"hp_candidates": "candidates"})
    )
