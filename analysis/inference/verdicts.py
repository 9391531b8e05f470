"""Arms of one or several studies against one of them, at equal FLOPs: a table as CSV and Markdown,
and a picture.

Lines are in the order of names and FLOPs, never of accuracy. Every figure is computed from the rows
(`equal_flops.against`).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..draw import axes, intervals, render
from ..points import front, words
from ..rows.loaded import Loaded
from ..rows.mistake import Mistake
from ..rows.storage import Where, locate, save
from . import equal_flops, likeness, paired

ABOUT = (
    "Accuracies are of test data, at FLOPs that both reach: each seed's own front of validation accuracy, chosen by it alone, "
    "read linearly in the logarithm of FLOPs, level from its best network to the costliest one measured, and never beyond.",
    "Difference: accuracy minus the baseline's of the same seed, mean over n seeds, in percentage points, with its 95 % t "
    "interval; g: that mean over the differences' deviation, without its small-sample bias (Hedges 1981).",
    "Verdict: better or worse if the paired t test says so at 5 % after Holm's correction for all comparisons of its table; "
    "otherwise equivalent if two one-sided t tests both reject, at 5 % and without correction, a difference of "
    f"{100 * paired.MARGIN:g} percentage points or more; otherwise no difference shown.",
    f"Could show: the true difference that this table shows with probability {paired.POWER:g} at this n and deviation "
    "(noncentral t, strictest step of Holm's correction). Fewer levels (--at) and more seeds show smaller ones.",
    f"Permutation: of signs; from n = {paired.PERMUTED} on, as with fewer its p value cannot fall below 5 %.",
)


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """The comparisons of several arms with a baseline.

    name: of the studies.  lines: as from `equal_flops.against`, with `cost`, and `unlike`: in what the
    arm's training differs from the baseline's, empty if in nothing.  notes: sentences about what is
    unlike in the studies.
    """

    name: str
    baseline: str
    lines: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def cautions(self) -> list[str]:
        """What a reader should know of the likeness of training before any figure, one sentence
        each.
        """
        told = self.lines.drop_duplicates("arm")
        unlike = [
            f"{arm} trained unlike the baseline: {why}."
            for arm, why in zip(told["arm"], told["unlike"], strict=True)
            if why
        ]
        return [*self.notes, *unlike] or [
            "All arms share task, data, split, budget, learning rate and weight decay."
        ]


def build(
    folders: Sequence[Where | Loaded],
    baseline: str | None = None,
    flops: Sequence[float] = (),
    anyway: bool = False,
) -> Verdicts:
    """Compare the arms of the studies in `folders` with `baseline`, by masked and, where they
    differ, by shrunk FLOPs.

    baseline: an arm; of several studies "study: arm"; None: a control that is no parent, of several
    settings, one that removes nothing (narrower dense networks) first, then by the number of
    settings; or else such an arm.  flops: the levels; none: `equal_flops.levels`. Raises Mistake as
    `likeness.load` does, and if no pair can be compared.
    """
    if bad := [level for level in flops if not 0 < level < float("inf")]:
        raise Mistake(
            f"FLOPs at which arms are compared are finite and lie above 0; got {bad[0]:g}"
        )
    done, notes = likeness.load(folders, anyway)
    labels = sorted(done["label"].unique())
    if len(labels) < 2:
        raise Mistake(f"a comparison needs two arms; got {labels[0]} alone")
    chosen = _default(done) if baseline is None else _known(baseline, labels)
    unlike = {
        label: likeness.unlike(rows, done[done["label"] == chosen])
        for label, rows in done.groupby("label")
    }
    costs: list[front.Cost] = ["flops_masked"]
    if (done["flops_shrunk"] != done["flops_masked"]).any():
        costs.append("flops_shrunk")
    tables = [equal_flops.against(done, chosen, cost, flops).assign(cost=cost) for cost in costs]
    lines = pd.concat(tables, ignore_index=True).assign(unlike=lambda each: each["arm"].map(unlike))
    if not lines["difference_test_n"].any():
        why = lines["difference_test_verdict"].iloc[0].removeprefix("not compared: ")
        raise Mistake(f"nothing can be compared with {chosen}: {lines['arm'].iloc[0]}: {why}")
    return Verdicts(", ".join(done["study"].unique()), chosen, lines, tuple(notes))


def write(found: Verdicts, target: Where) -> None:
    """Write `compare.csv`, `compare.md` and, where pictures can be drawn, `compare.svg` and
    `compare.png` into a folder.
    """
    target = locate(target)
    save(target / "compare.csv", found.lines.to_csv(index=False, lineterminator="\n").encode())
    save(target / "compare.md", markdown(found).encode())
    if render.hindrance():
        return
    drawing = render.svg(picture(found))
    save(target / "compare.svg", render.paper(drawing).encode())
    save(target / "compare.png", render.png(drawing))


def picture(found: Verdicts) -> render.Picture:
    """The comparisons drawn."""
    return intervals.differences(drawn(found.lines), found.name, found.baseline, found.notes)


def drawn(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines with the differences on test data under the names that charts know: difference, low,
    high, n, verdict.
    """
    numbers = {
        "difference_test": "difference",
        "difference_test_low": "low",
        "difference_test_high": "high",
    }
    return lines.rename(
        columns={**numbers, "difference_test_n": "n", "difference_test_verdict": "verdict"}
    )


def markdown(found: Verdicts) -> str:
    """The comparison as Markdown: what is unlike first, then a table for each count of FLOPs, then
    how to read it.
    """
    parts = [f"# {found.name}: against {found.baseline}, at equal FLOPs", *found.cautions]
    for cost, lines in found.lines.groupby("cost", sort=False):
        rows = [texts(line) for line in lines.to_dict("records")]
        parts += [
            f"## {title(str(cost))}",
            words.grid(list(rows[0]), [list(row.values()) for row in rows]),
        ]
    return "\n\n".join([*parts, *ABOUT]) + "\n"


def title(cost: str) -> str:
    """The heading of a table."""
    return f"{'Masked' if cost == 'flops_masked' else 'Shrunk'} FLOPs: {axes.COSTS[cost]}"


def texts(line: dict[Any, Any]) -> dict[str, str]:
    """One line of a comparison as text, by heading."""
    verdict = line["difference_test_verdict"] + (" (trained unlike)" if line["unlike"] else "")
    if not line["difference_test_n"]:
        return dict.fromkeys(HEADINGS, "") | {"arm": line["arm"], "n": "0", "verdict": verdict}
    values = [
        line["arm"],
        words.large(line["flops"]),
        str(line["difference_test_n"]),
        words.number(100 * line["accuracy_test"], ".2f"),
        words.number(100 * line["baseline_test"], ".2f"),
        words.number(100 * line["difference_test"], "+z.2f"),
        words.interval(line["difference_test_low"], line["difference_test_high"], "+z.2f"),
        words.p(line["difference_test_holm"]),
        words.number(line["difference_test_effect"], "+z.2f"),
        words.p(line["difference_test_equivalence"]),
        words.p(line["difference_test_permutation"]),
        words.number(100 * line["difference_test_detectable"], ".2f"),
        words.number(100 * line["difference_valid"], "+z.2f"),
        verdict,
    ]
    return dict(zip(HEADINGS, values, strict=True))


HEADINGS = (
    "arm", "FLOPs", "n", "test %", "baseline %", "difference", "95 % interval", "p (Holm)", "g", "p (equivalence)",
    "p (permutation)", "could show", "difference, valid.", "verdict",
)  # fmt: skip


def _known(wanted: str, labels: Sequence[str]) -> str:
    if wanted not in labels:
        nearest = difflib.get_close_matches(wanted, labels, n=1)
        hint = f' did you mean "{nearest[0]}"?' if nearest else ""
        raise Mistake(f'no arm "{wanted}" to compare with;{hint} known: {"; ".join(labels)}')
    return wanted


def _default(done: pd.DataFrame) -> str:
    """The baseline if none is named."""
    parents = front.parents(done.assign(arm=done["label"]))
    arms = done.groupby("label").agg(
        control=("control", "all"), settings=("hp", "nunique"), removed=("sparsity", "max")
    )
    keys = [
        (
            label in parents,
            not row["control"],
            row["settings"] < 2,
            row["removed"] > 0,
            -row["settings"],
            str(label),
        )
        for label, row in arms.iterrows()
    ]
    return min(keys)[-1]
