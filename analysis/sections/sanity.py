"""What the sanity checks of a study say: each setting of an arm beside the checks of it, paired by
seed.

A check's rows name the setting that they are about (`hp_of`: its algorithm and its `hp`) and what
was made of it (`hp_check`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from .. import page
from ..draw import intervals
from ..draw.render import Picture
from ..inference import paired, verdicts
from ..points import front, words
from ._section import Drawings, Section
from ._study import Study

CHECKS = {
    "random": "random masks with as many weights (or units) in each layer, on initial weights",
    "shuffled": "such masks on the weights of the dense phase",
    "reinitialised": "the masks as they were found, on initial weights of another seed",
    "scratch": "whole layers of as many units as can influence the output, on initial weights",
}
"""What each check trains."""
COSTS = ["flops_masked", "flops_shrunk"]


def checked(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of settings minus that of each check of them: one line for each (arm, setting,
    check), in this order.

    last_rows: as from `table.last`.  Columns: arm, setting, flops_masked, flops_shrunk (means of
    the setting), check; for valid and test data `difference_*`: n, mean, sample deviation,
    interval, p value, that after Holm's correction over all lines, the larger p value of the
    equivalence tests, the verdict.  Empty if nothing was checked.
    """
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    if "hp_of" not in done or done["hp_of"].isna().all():
        return pd.DataFrame()
    by_check = _paired(done).groupby(["arm", "size", "of", "place"])
    keys = []
    groups = []
    for (arm, _, _, _), group in by_check:
        first = group.iloc[0]
        key = {"arm": arm, "setting": first["setting"], "check": first["check"]}
        for cost in COSTS:
            key[cost] = group[cost].mean()
        keys.append(key)
        groups.append(group)
    lines = pd.DataFrame(keys)
    for score in front.SCORES:
        name = score.replace("accuracy", "difference")
        differences = [group[score] - group[f"{score}_check"] for group in groups]
        tests = paired.tested(differences, name)
        lines = lines.join(tests)
    return lines


def _paired(done: pd.DataFrame) -> pd.DataFrame:
    """A line for each check and seed: the setting's measures, and the check's as `*_check`.

    `place` and `size` put checks in the order of `CHECKS`, and settings from the most FLOPs.
    """
    is_check = done["hp_of"].notna()
    checks = done[is_check]
    checks = checks.assign(check=_named(checks), of=checks["hp_of"])
    own = done[~is_check]
    identity = own["algorithm"] + " " + own["hp"]
    setting = front.settings(own)
    own = own.assign(of=identity, setting=setting)
    key = ["of", "seed"]
    one = checks[["check", *key, *front.SCORES]]
    other = own[["arm", "setting", *key, *COSTS, *front.SCORES]]
    pairs = one.merge(other, on=key, suffixes=("_check", ""))
    places = _places(pairs["check"])
    pairs["place"] = pairs["check"].map(places)
    by_setting = pairs.groupby(["arm", "of"])
    flops = by_setting["flops_masked"]
    pairs["size"] = -flops.transform("mean")
    return pairs


def _places(checks: pd.Series[str]) -> dict[str, int]:
    """The place of each check: first those of `CHECKS`, then the others by name."""
    others = sorted(checks.unique())
    order = dict.fromkeys([*CHECKS, *others])
    places: dict[str, int] = {}
    for place, check in enumerate(order):
        places[check] = place
    return places


def _named(checks: pd.DataFrame) -> pd.Series[str]:
    """The name of each check; where several algorithms make one of that name, with theirs."""
    names = checks["hp_check"]
    algorithms = checks["algorithm"]
    by_name = algorithms.groupby(names)
    makers = by_name.transform("nunique")
    longer = names + " (" + algorithms + ")"
    return names.where(makers == 1, longer)


def figures(study: Study) -> pd.DataFrame | None:
    lines = checked(study.last)
    if lines.empty:
        return None
    return lines


def picture(study: Study, lines: pd.DataFrame) -> Picture:
    return intervals.checks(verdicts.drawn(lines), study.name)


def table(_: Study, lines: pd.DataFrame) -> pd.DataFrame:
    return lines


def html(study: Study, lines: pd.DataFrame, drawings: Drawings) -> Iterator[str]:
    told = "; ".join(f"{check}: {meaning}" for check, meaning in CHECKS.items())
    yield page.say(
        "What a setting found is trained again, for the same budget, on the same data and seeds, "
        f"without its weights, its mask, or both. {told[0].upper()}{told[1:]}. If a check is as "
        "accurate as the setting, what was taken from it was not needed."
    )
    yield from map(page.say, study.cautions)
    yield page.figure("checks", drawings)
    yield page.say(
        "Difference: test accuracy of the setting minus the check's of the same seed, mean over n "
        "seeds, in percentage points, with its 95 % t interval; verdicts after Holm's correction "
        "over all lines of this table, as in the other comparisons."
    )
    rows = [_cells(line) for line in page.records(lines)]
    head, texts = list(rows[0]), [list(row.values()) for row in rows]
    yield page.details(f"All {len(rows)} lines", page.grid(head, texts, kind="search"))


def _cells(line: Mapping[str, Any]) -> dict[str, str]:
    low, high = line["difference_test_low"], line["difference_test_high"]
    return {
        "arm": line["arm"],
        "setting": line["setting"],
        "check": line["check"],
        "FLOPs masked": words.large(line["flops_masked"]),
        "n": str(line["difference_test_n"]),
        "difference": words.number(100 * line["difference_test"], "+z.2f"),
        "interval": words.interval(low, high, "+z.2f"),
        "p (Holm)": words.p(line["difference_test_holm"]),
        "p (equivalence)": words.p(line["difference_test_equivalence"]),
        "verdict": line["difference_test_verdict"],
    }


SECTION = Section(
    name="sanity_checks",
    title="Sanity checks",
    columns=("hp_of",),
    figures=figures,
    html=html,
    charts={"checks": picture},
    tables={"checks": table},
)
