"""How often the intervals and verdicts of a comparison are right, on simulated studies of two arms.

First differences of n seeds alone: coverage of the 95 % t interval, the bootstrap's percentile
interval beside it. Then whole tables of rows (settings, seeds, FLOPs), compared as `prunefront
compare` does: coverage at each level, and the verdicts where the arms are alike, and where one is
better by what n seeds can show.

    python benchmarks/intervals.py [--studies 1000] [--tables 100] [--seeds 5] [--noise .0045]
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from prunefront.analysis.inference import equal_flops, paired

NOISE = 0.0045
"""Deviation of paired differences of test accuracy: the median over pairs of settings of a study of
digits was .44 points.
"""
SHARES = np.array([0.9, 0.6, 0.4, 0.25, 0.15, 0.1])
DENSE = 50_000


def covered(studies: int, seeds: int, resamples: int = 2000) -> tuple[float, float]:
    """Shares of simulated studies whose t interval, and whose bootstrap percentile interval, hold
    the true difference.
    """
    noise = np.random.default_rng(0)
    truth = 0.002
    differences = noise.normal(truth, NOISE, (studies, seeds))
    tests = paired.paired_rows(differences)
    inside = np.mean([test.low <= truth <= test.high for test in tests])
    means = np.array(
        [each[noise.integers(seeds, size=(resamples, seeds))].mean(axis=1) for each in differences]
    )
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return float(inside), float(np.mean((low <= truth) & (truth <= high)))


def study(number: int, gap: float, seeds: int = 5, noise: float = NOISE) -> pd.DataFrame:
    """Done rows of two arms in `seeds` seeds, `arm` better than `baseline` by `gap` at all FLOPs
    but for chance.

    A seed shifts both arms alike. What is left of a network is chance: half of its variance is the
    arm's in that seed, half its own; validation and test data share the former. FLOPs of a setting
    vary by a hundredth.
    """
    random = np.random.default_rng(number)
    shape = (2, len(SHARES), seeds)
    flops = np.round(DENSE * SHARES[:, None] * random.uniform(0.99, 1.01, shape)).astype(np.int64)
    curve = 0.98 - 0.002 / SHARES[:, None] + np.array([gap, 0.0])[:, None, None]
    deviation = noise / 2  # four such parts in a difference
    shared = random.normal(0, 0.005, seeds) + random.normal(0, deviation, (2, 1, seeds))
    scores = [curve + shared + random.normal(0, deviation, shape) for _ in ("valid", "test")]
    arm, setting, seed = (index.ravel() for index in np.indices(shape))
    labels = np.array(["arm", "baseline"])[arm]
    counts = {
        "flops_masked": flops.ravel(),
        "flops_shrunk": flops.ravel(),
        "hp": setting.astype(str),
    }
    return pd.DataFrame(
        {
            "label": labels,
            "seed": seed,
            **counts,
            "accuracy_valid": scores[0].ravel(),
            "accuracy_test": scores[1].ravel(),
        }
    )


def verdicts(tables: int, gap: float, seeds: int, noise: float) -> pd.DataFrame:
    """The comparisons of `tables` simulated studies at five levels: one line for each study and
    level.
    """
    found = [
        equal_flops.against(study(i, gap, seeds, noise), "baseline", "flops_masked").assign(study=i)
        for i in range(tables)
    ]
    return pd.concat(found, ignore_index=True)


def shown(seeds: int, noise: float) -> float:
    """The gap that a table of five levels can show."""
    return paired.detectable(paired.Paired(seeds, 0.0, noise, 0.0, 0.0, 1.0), equal_flops.LEVELS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--tables", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noise", type=float, default=NOISE)
    given = parser.parse_args()
    t, bootstrap = covered(given.studies, given.seeds)
    print(f"{given.studies} studies of {given.seeds} seeds: the true difference lies in the t interval of {100 * t:.1f} %, "
          f"in the bootstrap's percentile interval of {100 * bootstrap:.1f} %")  # fmt: skip
    gap = shown(given.seeds, given.noise)
    for name, size in (("alike", 0.0), (f"{100 * gap:.2f} percentage points better", gap)):
        lines = verdicts(given.tables, size, given.seeds, given.noise)
        inside = (lines["difference_test_low"] <= size) & (size <= lines["difference_test_high"])
        said = lines["difference_test_verdict"].str.extract(
            "^(better|worse|equivalent|no difference shown)"
        )[0]
        shares = ", ".join(f"{word} {count}" for word, count in said.value_counts().items())
        better = said.eq("better").groupby(lines["study"])
        wrong = said.isin(["better", "worse"]).groupby(lines["study"]).any().sum()
        print(f"{given.tables} tables, {name}: coverage {100 * inside.mean():.1f} %, deviation of differences "
              f"{100 * lines['difference_test_std'].mean():.2f} points; {shares} of {len(lines)} comparisons; "
              f"tables with any difference {wrong}, with better at half of the levels {(better.mean() >= 0.5).sum()}, "
              f"at any {better.any().sum()}")  # fmt: skip


if __name__ == "__main__":
    main()
