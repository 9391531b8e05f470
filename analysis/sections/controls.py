"""What the sanity checks of a study say: each setting of an arm beside the checks of it, paired by
seed.

A check's rows name the setting that they are about (`hp_of`: its algorithm and its `hp`) and what
was made of it (`hp_check`).
"""

from __future__ import annotations

import pandas as pd

from ..inference import paired
from ..points import front
from ..points.front import is_check as is_check

CHECKS = {
    "random": "random masks with as many weights (or units) in each layer, on initial weights",
    "shuffled": "such masks on the weights of the dense phase",
    "reinitialised": "the masks as they were found, on initial weights of another seed",
    "scratch": "whole layers of as many units as can influence the output, on initial weights",
}
"""What each check trains."""


def checked(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of settings minus that of each check of them: one line for each (arm, setting,
    check), in this order.

    last_rows: as from `table.last`.  Columns: arm, setting, flops_masked, flops_shrunk (means of
    the setting), check; for valid and test data `difference_*`: n, mean, sample deviation,
    interval, p value, that after Holm's correction over all lines, the larger p value of the
    equivalence tests, the verdict.  Empty if nothing was checked.
    """
    done = last_rows[last_rows["status"] == "done"]
    if "hp_of" not in done or done["hp_of"].isna().all():
        return pd.DataFrame()
    checks = done[done["hp_of"].notna()].assign(check=_named)
    own = done[done["hp_of"].isna()]
    own = own.assign(of=own["algorithm"] + " " + own["hp"], setting=front.settings(own))
    pairs = checks[["hp_of", "check", "seed", *front.SCORES]].merge(
        own[["of", "arm", "setting", "seed", "flops_masked", "flops_shrunk", *front.SCORES]],
        left_on=["hp_of", "seed"], right_on=["of", "seed"], suffixes=("_check", ""),
    )  # fmt: skip
    keys, differences = [], []
    order = dict.fromkeys([*CHECKS, *sorted(pairs["check"].unique())])
    pairs["place"] = pairs["check"].map({check: place for place, check in enumerate(order)})
    pairs["size"] = -pairs.groupby(["arm", "of"])["flops_masked"].transform("mean")
    for (arm, _, _, _), group in pairs.groupby(["arm", "size", "of", "place"]):
        keys.append(
            {"arm": arm, "setting": group["setting"].iloc[0], "check": group["check"].iloc[0]}
            | {name: group[name].mean() for name in ("flops_masked", "flops_shrunk")}
        )
        differences.append(
            {score: group[score] - group[f"{score}_check"] for score in front.SCORES}
        )
    lines = pd.DataFrame(keys)
    for score in front.SCORES:
        name = score.replace("accuracy", "difference")
        tests = [paired.paired(each[score]) for each in differences]
        same = [paired.equivalence(each[score]) for each in differences]
        adjusted = paired.holm([test.p for test in tests])
        lines = lines.join(paired.columns(tests, name))
        lines[f"{name}_holm"], lines[f"{name}_equivalence"] = adjusted, same
        lines[f"{name}_verdict"] = [
            paired.verdict(*each) for each in zip(tests, adjusted, same, strict=True)
        ]
    return lines


def _named(checks: pd.DataFrame) -> pd.Series[str]:
    """The name of each check, with the algorithm's behind it where several make one of that name."""
    makers = checks.groupby("hp_check")["algorithm"].transform("nunique")
    return checks["hp_check"].where(
        makers == 1, checks["hp_check"] + " (" + checks["algorithm"] + ")"
    )


def gathered(points: pd.DataFrame) -> pd.DataFrame:
    """Operating points with those of sanity checks under the name of the check, one for all arms.

    Arms of checks are called after the arm that they are about, a comma, and what the check does.
    """
    return points.assign(
        arm=points["arm"].where(~is_check(points), points["arm"].str.rpartition(", ")[2])
    )
