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
    "Accuracies are of test data, at FLOPs that both reach: each seed's own front of validation "
    "accuracy, chosen by it alone, read linearly in the logarithm of FLOPs, level from its best "
    "network to the costliest one measured, and never beyond.",
    "Difference: accuracy minus the baseline's of the same seed, mean over n seeds, in percentage "
    "points, with its 95 % t interval; g: that mean over the differences' deviation, without its "
    "small-sample bias (Hedges 1981).",
    "Verdict: better or worse if the paired t test says so at 5 % after Holm's correction for all "
    "comparisons of its table; otherwise equivalent if two one-sided t tests both reject, at 5 % "
    f"and without correction, a difference of {100 * paired.MARGIN:g} percentage points or more; "
    "otherwise no difference shown.",
    "Could show: the true difference that this table shows with probability "
    f"{paired.POWER:g} at this n and deviation (noncentral t, strictest step of Holm's "
    "correction). Fewer levels (--at) and more seeds show smaller ones.",
    f"Permutation: of signs; from n = {paired.PERMUTED} on, as with fewer its p value cannot fall "
    "below 5 %.",
)
TESTED = (
    "n", "low", "high", "holm", "effect", "equivalence", "permutation", "detectable", "verdict"
)  # fmt: skip
"""What a line of a comparison has of its differences on test data."""


@dataclasses.dataclass(frozen=True)
class Verdicts:
    """The comparisons of several arms with a baseline.

    name: of the studies.  lines: as from `equal_flops.against`, with `cost`, and `unlike`: in what
    the arm's training differs from the baseline's, empty if in nothing.  notes: sentences about
    what is unlike in the studies.
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
        cautions = list(self.notes)
        arms = self.lines.drop_duplicates("arm")
        for arm, why in zip(arms["arm"], arms["unlike"], strict=True):
            if why:
                cautions.append(f"{arm} trained unlike the baseline: {why}.")
        return cautions or [
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
    `likeness.comparable_rows` does, and if no pair can be compared.
    """
    for level in flops:
        if not 0 < level < float("inf"):
            rule = "FLOPs at which arms are compared are finite and lie above 0"
            raise Mistake(f"{rule}; got {level:g}")
    done, notes = likeness.comparable_rows(folders, anyway)
    labels = sorted(done["label"].unique())
    if len(labels) < 2:
        raise Mistake(f"a comparison needs two arms; got {labels[0]} alone")
    chosen = _default(done) if baseline is None else _known(baseline, labels)
    lines = _compared(done, chosen, flops)
    unlike = _unlike(done, chosen)
    lines["unlike"] = lines["arm"].map(unlike)
    if not lines["difference_test_n"].any():
        verdict = lines["difference_test_verdict"].iloc[0]
        why = verdict.removeprefix("not compared: ")
        first = lines["arm"].iloc[0]
        raise Mistake(f"nothing can be compared with {chosen}: {first}: {why}")
    name = ", ".join(done["study"].unique())
    return Verdicts(name, chosen, lines, tuple(notes))


def _compared(done: pd.DataFrame, chosen: str, flops: Sequence[float]) -> pd.DataFrame:
    """The lines of `equal_flops.against` for each count of FLOPs that says something of its own."""
    costs: list[front.Cost] = ["flops_masked"]
    differs = done["flops_shrunk"] != done["flops_masked"]
    if differs.any():
        costs.append("flops_shrunk")
    tables: list[pd.DataFrame] = []
    for cost in costs:
        lines = equal_flops.against(done, chosen, cost, flops)
        lines = lines.assign(cost=cost)
        tables.append(lines)
    return pd.concat(tables, ignore_index=True)


def _unlike(done: pd.DataFrame, chosen: str) -> dict[str, str]:
    """For each label in what its training differs from the baseline's."""
    is_baseline = done["label"] == chosen
    baseline = done[is_baseline]
    unlike: dict[str, str] = {}
    for label, rows in done.groupby("label"):
        name = str(label)
        unlike[name] = likeness.unlike(rows, baseline)
    return unlike


def write(found: Verdicts, target: Where) -> None:
    """Write `compare.csv`, `compare.md` and, where pictures can be drawn, `compare.svg` and
    `compare.png` into a folder.
    """
    target = locate(target)
    content = found.lines.to_csv(index=False, lineterminator="\n")
    save(target / "compare.csv", content.encode())
    text = markdown(found)
    save(target / "compare.md", text.encode())
    if render.hindrance():
        return
    drawing = render.svg(picture(found))
    paper = render.paper(drawing)
    save(target / "compare.svg", paper.encode())
    save(target / "compare.png", render.png(drawing))


def picture(found: Verdicts) -> render.Picture:
    """The comparisons drawn."""
    lines = drawn(found.lines)
    return intervals.differences(lines, found.name, found.baseline, found.notes)


def drawn(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines with the differences on test data under the names that charts know: difference, low,
    high, n, verdict.
    """
    names = {"difference_test": "difference"}
    for name in ("low", "high", "n", "verdict"):
        names[f"difference_test_{name}"] = name
    return lines.rename(columns=names)


def markdown(found: Verdicts) -> str:
    """The comparison as Markdown: what is unlike first, then a table for each count of FLOPs, then
    how to read it.
    """
    heading = f"# {found.name}: against {found.baseline}, at equal FLOPs"
    parts = [heading, *found.cautions]
    for cost, lines in found.lines.groupby("cost", sort=False):
        cells: list[list[str]] = []
        for line in lines.to_dict("records"):
            row = texts(line)
            cells.append(list(row.values()))
        table_title = title(str(cost))
        parts.append(f"## {table_title}")
        table = words.grid(HEADINGS, cells)
        parts.append(table)
    parts += ABOUT
    return "\n\n".join(parts) + "\n"


def title(cost: str) -> str:
    """The heading of a table."""
    kind = "Masked" if cost == "flops_masked" else "Shrunk"
    return f"{kind} FLOPs: {axes.COSTS[cost]}"


def texts(line: dict[Any, Any]) -> dict[str, str]:
    """One line of a comparison as text, by heading."""
    test = {name: line[f"difference_test_{name}"] for name in TESTED}
    verdict = test["verdict"]
    if line["unlike"]:
        verdict = f"{verdict} (trained unlike)"
    if not test["n"]:
        cells: dict[str, str] = dict.fromkeys(HEADINGS, "")
        cells["arm"] = line["arm"]
        cells["n"] = "0"
        cells["verdict"] = verdict
        return cells
    values = [
        line["arm"],
        words.large(line["flops"]),
        str(test["n"]),
        words.number(100 * line["accuracy_test"], ".2f"),
        words.number(100 * line["baseline_test"], ".2f"),
        words.number(100 * line["difference_test"], "+z.2f"),
        words.interval(test["low"], test["high"], "+z.2f"),
        words.p(test["holm"]),
        words.number(test["effect"], "+z.2f"),
        words.p(test["equivalence"]),
        words.p(test["permutation"]),
        words.number(100 * test["detectable"], ".2f"),
        words.number(100 * line["difference_valid"], "+z.2f"),
        verdict,
    ]
    return dict(zip(HEADINGS, values, strict=True))


HEADINGS = (
    "arm", "FLOPs", "n", "test %", "baseline %", "difference", "95 % interval", "p (Holm)", "g",
    "p (equivalence)", "p (permutation)", "could show", "difference, valid.", "verdict",
)  # fmt: skip


def _known(wanted: str, labels: Sequence[str]) -> str:
    if wanted in labels:
        return wanted
    nearest = difflib.get_close_matches(wanted, labels, n=1)
    hint = ""
    if nearest:
        hint = f' did you mean "{nearest[0]}"?'
    known = "; ".join(labels)
    raise Mistake(f'no arm "{wanted}" to compare with;{hint} known: {known}')


def _default(done: pd.DataFrame) -> str:
    """The baseline if none is named."""
    by_label = done.assign(arm=done["label"])
    parents = front.parents(by_label)
    keys: list[tuple[Any, ...]] = []
    for label, rows in done.groupby("label"):
        is_parent = label in parents
        settings = rows["hp"].nunique()
        is_control = rows["control"].all()
        most_removed = rows["sparsity"].max()
        removes = most_removed > 0
        key = (is_parent, not is_control, settings < 2, removes, -settings, str(label))
        keys.append(key)
    *_, baseline = min(keys)
    return baseline
