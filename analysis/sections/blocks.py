"""The sections of a report, each as HTML from frames of figures; what is empty has none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, get_args

import pandas as pd

from .. import page
from ..draw import plot
from ..inference import attainment, dominance, latency, paired, verdicts
from ..points import front, words
from ..rows import goals, table
from ..rows import published as literature
from ..rows.mistake import Mistake, raised
from ..rows.storage import Location
from . import budget, certificates, controls

Drawings = Mapping[str, str]
"""The charts that there are, by name, as SVG text."""

TOLERANCE = 0.005
"""Requested and achieved sparsity further apart than this are listed."""

FORMULAS = {
    "mean ± standard deviation": "over the n done members of one setting, one for each seed; sample standard deviation "
    "(n - 1), “-” where n is 1",
    "front": "the points that no other point dominates by being at least as good in mean validation accuracy and in "
    "mean cost, and better in one; equal points all belong",
    "difference": "validation accuracy minus the parent's of the same seed, mean over seeds, in percentage points; the "
    "parent is the control from which nothing was removed",
    "compression": "params_dense / params_kept, a quotient of means",
    "speed-up ideal": "flops_dense / flops_masked, a quotient of means",
    "any hardware": "speed-up of the shrunk network, flops_dense / flops_shrunk, a quotient of means",
    "train FLOPs (search)": "mean of train_flops; in brackets the share that a search took, if there was one",
    "hypervolume": "area between the front of one seed's members and the reference point, in (validation accuracy, "
    "cost / flops_dense), both linear",
}


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame as mappings, whose keys are text."""
    return [{str(name): value for name, value in line.items()} for line in frame.to_dict("records")]


def _share(share: float) -> str:
    """What a search took of the training FLOPs; nothing if there was none."""
    return f" ({words.number(100 * share, '.2g')}%)" if share > 0 else ""


def point(line: Mapping[str, Any]) -> dict[str, str]:
    """One operating point as text, by heading; what operations without a FLOPs formula touch is
    marked.
    """
    uncounted = bool(line.get("unknown_ops"))
    doubt = "x ?" if uncounted else "x"
    return {
        "arm": named(line),
        "setting": str(line["setting"]),
        "n": str(line["done"]),
        "valid. accuracy %": words.spread(line["accuracy_valid"], line["accuracy_valid_std"]),
        "difference": words.spread(line["difference_valid"], line["difference_valid_std"], "+z.2f"),
        "test accuracy %": words.spread(line["accuracy_test"], line["accuracy_test_std"]),
        "FLOPs masked": _flops(line["flops_masked"], uncounted),
        "FLOPs shrunk": _flops(line["flops_shrunk"], uncounted),
        "compression": words.number(line["compression"], ".3g") + "x",
        "speed-up ideal": words.number(line["speedup_masked"], ".3g") + doubt,
        "any hardware": words.number(line["speedup_shrunk"], ".3g") + doubt,
        "train FLOPs (search)": words.large(line["train_flops"])
        + _share(line["search_flops"] / max(line["train_flops"], 1)),
        "seconds": words.large(line["seconds"]),
    }


def lacking(failed: Mapping[str, Exception]) -> Iterator[str]:
    """The parts that could not be made, before all else; nothing if there are none."""
    if failed:
        yield "<h2>Not in this report</h2>\n<ul>\n"
        for part, error in failed.items():
            why = (
                str(error)
                if isinstance(error, Mistake)
                else f"failed, by a fault of prunefront ({raised(error)})"
            )
            yield f"<li>{escape(part)}: {escape(why)}</li>\n"
        yield "</ul>\n"


def headline(rows: pd.DataFrame, cautions: Sequence[str]) -> Iterator[str]:
    """What was measured, in a sentence or two, and what to know before any verdict."""
    first = rows.iloc[0]
    last = table.last(rows)
    done = last[last["status"] == "done"]
    distinct = front.networks(done).nunique()
    alike = f" ({distinct} distinct networks)" if distinct < len(done) else ""
    yield page.say(
        f"Model {first['model']} on {first['dataset']}: {len(last)} members ended, {len(done)} of them done{alike}. "
        f"Charged to them: {words.large(last['train_flops'].sum())} training FLOPs and {last['seconds'].sum():.3g} s, with "
        "what members share, a dense phase or a search, charged to each."
    )
    if operations := front.unknown_operations(done):
        yield page.say(front.uncounted(operations))
    if waiting := len(table.unfinished(rows)):
        yield page.say(
            f"The study is not finished: {waiting} members have rows but no last row, and are not in the figures."
        )
    for caution in cautions:
        yield page.say(caution)


def question(
    arms: pd.DataFrame, compared: verdicts.Verdicts | str, uncounted: Sequence[str] = ()
) -> Iterator[str]:
    """What a reader came for, first: which arm, at which budget, and whether the difference is
    real.
    """
    yield "<h2>Which arm, at which budget, and is the difference real?</h2>\n"
    if uncounted:
        yield page.say(front.uncounted(uncounted))
    if isinstance(compared, str):
        yield page.say(f"No difference between arms was tested: {compared}.")
    else:
        yield page.say(
            f"Test accuracy minus that of {compared.baseline}, at equal masked FLOPs and paired by seed; better or worse only "
            "where the t test says so at 5 % after Holm's correction for all comparisons:"
        )
        lines = compared.lines[compared.lines["cost"] == "flops_masked"]
        said = (
            f"<li>{escape(_against(str(arm), group))}</li>\n"
            for arm, group in lines.groupby("arm", sort=False)
        )
        yield f"<ul>\n{''.join(said)}</ul>\n"
        for caution in compared.cautions:
            yield page.say(caution)
    head, lines = arms_table(arms, uncounted)
    yield page.grid(head, lines, kind="first")
    yield page.say(
        "FLOPs shrunk: of the dense network that `prunefront pick` hands over; masked: removed weights cost nothing. At a "
        "share: test accuracy in percent, mean ± standard deviation over seeds, at this share of the parent's FLOPs, read off "
        "each seed's own front of validation accuracy and these FLOPs, between its networks and never beyond them. Within: the "
        "fewest FLOPs of a network whose validation accuracy is at most so many percentage points below the parent's of the "
        "same seed, mean over seeds. “-”: not every seed gets there. Hypervolume: with its 95 % t interval. "
        "Charged: to all networks of a seed, search included. The same table is in arms.md and arms.csv."
    )


def arms_table(
    arms: pd.DataFrame, uncounted: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """The table of `answer.both` as text: headings, each with its cost, and lines.

    uncounted: operations without a FLOPs formula, which make counts lower bounds.
    """
    names = [str(name) for name in arms]
    head, columns = ["arm", "seeds", "networks"], list[str]()
    for cost in front.COSTS:
        kind = cost.removeprefix("flops_")
        for name in (name for name in names if name.endswith(f"_{kind}") and "_std" not in name):
            short = name.removesuffix(f"_{kind}")
            if short.startswith("accuracy_at_"):
                head.append(f"at {short.removeprefix('accuracy_at_')} % of FLOPs, {kind}")
            elif short.startswith("flops_within_"):
                head.append(f"FLOPs {kind}, within {short.removeprefix('flops_within_')}")
            elif short == "hypervolume":
                head += [f"hypervolume, {kind}", "interval"]
            else:
                continue
            columns.append(name)
    lines = []
    for line in records(arms):
        cells = [
            named(line),
            words.number(line["seeds"], ".0f"),
            words.number(line["networks"], ".0f"),
        ]
        for name in columns:
            cells += _cells(line, name, bool(uncounted))
        lines.append([*cells, words.large(line["train_flops"]), words.large(line["seconds"])])
    return [*head, "train FLOPs charged", "seconds charged"], lines


def _cells(line: Mapping[str, Any], name: str, uncounted: bool) -> list[str]:
    """A column of `answer.both` as cells: a hypervolume has two, its mean and its interval."""
    measure, _, kind = name.rpartition("_")
    doubt = " ?" if uncounted else ""
    if measure == "hypervolume":
        parts = {
            f"hypervolume{end}": line[f"hypervolume{end}_{kind}"]
            for end in ("", "_std", "_low", "_high")
        }
        mean, interval = _mean(parts, "hypervolume")
        return [mean + doubt, interval]
    if math.isnan(line[name]):
        return ["-"]
    if measure.startswith("accuracy_at_"):
        return [words.spread(line[name], line[f"{measure}_std_{kind}"]) + doubt]
    return [_flops(line[name], uncounted)]


def _flops(count: float, uncounted: bool) -> str:
    """A count of FLOPs; a lower bound where operations have no formula."""
    return f"{'≥ ' if uncounted else ''}{words.large(count)}"


def _against(arm: str, lines: pd.DataFrame) -> str:
    """What the comparisons of an arm say, in a sentence."""
    if not lines["difference_test_n"].any():
        return f"{arm}: {lines['difference_test_verdict'].iloc[0]}."
    said = []
    for kind, part in lines.groupby(
        lines["difference_test_verdict"].str.split("[:,]").str[0], sort=False
    ):
        means = 100 * part["difference_test"]
        if kind == "not compared":
            said.append(f"at {len(part)} not compared")
            continue
        ends = dict.fromkeys([f"{means.min():+z.2f}", f"{means.max():+z.2f}"])
        could, more = 100 * part["difference_test_detectable"].dropna(), ""
        if kind == "no difference shown" and len(could):
            least = dict.fromkeys([f"{could.min():.2f}", f"{could.max():.2f}"])
            more = (
                f"; could show: {' to '.join(least)}"
                if could.min() < 100
                else "; so few seeds could show none"
            )
        said.append(
            f"{kind} at {len(part)} of {len(lines)} counts of FLOPs ({' to '.join(ends)} points{more})"
        )
    return f"{arm}: {', '.join(said)}."


def differences(compared: verdicts.Verdicts | str, drawings: Drawings) -> Iterator[str]:
    """Every comparison at equal FLOPs."""
    if isinstance(compared, str):
        return
    yield "<h2>Differences at equal FLOPs</h2>\n"
    yield page.figure("differences", drawings)
    for sentence in verdicts.ABOUT:
        yield page.say(sentence)
    yield page.say(
        "`prunefront compare` compares with any other arm, at any FLOPs, and writes CSV and Markdown."
    )
    for cost, lines in compared.lines.groupby("cost", sort=False):
        rows = [verdicts.texts(line) for line in lines.to_dict("records")]
        grid = page.grid(list(rows[0]), [list(row.values()) for row in rows], kind="search")
        yield f"<details><summary>{escape(verdicts.title(str(cost)))}</summary>\n{grid}</details>\n"


def bands(refused: Mapping[tuple[str, bool], str], drawings: Drawings) -> Iterator[str]:
    """What shares of the seeds attain."""
    if "attained" in drawings:
        yield page.figure("attained", drawings)
    for reason in dict.fromkeys(refused.values()):
        names = [
            named({"arm": arm, "control": control})
            for (arm, control), why in refused.items()
            if why == reason
        ]
        yield page.say(f"No band for {', '.join(names)}: {reason}.")


def sanity(checked: pd.DataFrame, drawings: Drawings, cautions: Sequence[str]) -> Iterator[str]:
    """Settings against the sanity checks of them, and what those cannot say."""
    if checked.empty:
        return
    yield "<h2>Sanity checks</h2>\n"
    told = "; ".join(f"{check}: {meaning}" for check, meaning in controls.CHECKS.items())
    yield page.say(
        "What a setting found is trained again, for the same budget, on the same data and seeds, without its weights, its "
        f"mask, or both. {told[0].upper()}{told[1:]}. If a check is as accurate as the setting, what was taken from it was not "
        "needed."
    )
    for caution in cautions:
        yield page.say(caution)
    yield page.figure("checks", drawings)
    yield page.say(
        "Difference: test accuracy of the setting minus the check's of the same seed, mean over n seeds, in percentage points, "
        "with its 95 % t interval; verdicts after Holm's correction over all lines of this table, as in the other comparisons."
    )
    head = [
        "arm",
        "setting",
        "check",
        "FLOPs masked",
        "n",
        "difference",
        "interval",
        "p (Holm)",
        "p (equivalence)",
        "verdict",
    ]
    lines = [
        [
            line["arm"],
            line["setting"],
            line["check"],
            words.large(line["flops_masked"]),
            str(line["difference_test_n"]),
            words.number(100 * line["difference_test"], "+z.2f"),
            words.interval(line["difference_test_low"], line["difference_test_high"], "+z.2f"),
            words.p(line["difference_test_holm"]),
            words.p(line["difference_test_equivalence"]),
            line["difference_test_verdict"],
        ]
        for line in records(checked)
    ]
    yield f"<details><summary>All {len(lines)} lines</summary>\n{page.grid(head, lines, kind='search')}</details>\n"


def by_layer(drawings: Drawings) -> Iterator[str]:
    """What each layer keeps."""
    if "layers" in drawings:
        yield "<h2>Layer by layer</h2>\n"
        yield page.figure("layers", drawings)


def compute(drawings: Drawings) -> Iterator[str]:
    """Hypervolume against what was spent."""
    if "compute" in drawings:
        yield "<h2>Equal total compute</h2>\n"
        yield page.figure("compute", drawings)


def published_points(others: pd.DataFrame | None) -> Iterator[str]:
    """The published points that the fronts show."""
    if others is None:
        return
    yield "<h2>Published points</h2>\n"
    yield page.say(
        f"{literature.CAVEAT} They are as a file given with --published states them, on the same data set."
    )
    head = [
        "name",
        "source",
        "model",
        "protocol",
        "counted",
        "test accuracy %",
        "FLOPs",
        "parameters",
    ]
    lines = [
        [*(str(line[name]) for name in head[:5]), words.number(100 * line["accuracy"], ".2f"), words.large(line["flops"]),
         "-" if math.isnan(line["params"]) else words.large(line["params"])]
        for line in records(others)
    ]  # fmt: skip
    yield page.grid(head, lines)


def operating_points(summary: pd.DataFrame, listed: pd.DataFrame) -> Iterator[str]:
    """The table of operating points."""
    points = front.ordered(listed[(listed["done"] > 0) & ~controls.is_check(listed)])
    yield "<h2>Operating points</h2>\n"
    yield page.say(
        "The front of all arms comes first (validation accuracy up, masked FLOPs down), the others below it, paler; "
        "each from the most to the fewest FLOPs. Validation data marked and ordered them, test data did not. "
        "Full precision is in front.csv."
    )
    if (every := int(((summary["done"] > 0) & ~controls.is_check(summary)).sum())) > len(points):
        yield page.say(
            f"{len(points)} of {every} points are listed and drawn; all are in front.csv. Counts of candidates that chose the "
            "same networks in every seed are one point, with the costs of the fewest. Of these stay the counts at 1, 4, 16 "
            "and so on, the largest, and those on their arm's front: of many near-equal counts that is the luckiest."
        )
    for bend in records(points[front.knees(points, "flops_shrunk")]):
        where = f"{named(bend)}, {bend['setting']}"
        yield page.say(
            f"The knee of the front by shrunk FLOPs: {where} (`prunefront pick --knee` takes it)."
        )
    if operations := front.unknown_operations(points):
        yield page.say(front.uncounted(operations))
    kinds = ["front" if belongs else "other" for belongs in front.fronts(points)]
    lines = [point(line) for line in records(points)]
    yield page.grid(list(lines[0]), [list(line.values()) for line in lines], kinds)


def search_against_chance(
    found: pd.DataFrame, correlations: pd.DataFrame, drawings: Drawings
) -> Iterator[str]:
    """What searches over candidates found, against the first candidate, which is random."""
    if found.empty:
        return
    margin = f"{100 * paired.MARGIN:g} percentage points"
    yield "<h2>Search against chance</h2>\n"
    yield page.say(
        "Found: the best of the first n candidates by its score before training; random: candidate 1; worst: the worst "
        "of n; parent: the dense network. Accuracies are of test data, which chose nothing here; differences are to the "
        "random network of the same seed, in percentage points. Intervals are 95 %, Student's t over seeds. "
        "In search.csv: full precision, and the same for validation data."
    )
    yield page.say(
        "Verdict: better or worse if the paired t test says so at 5 % after Holm's correction for all comparisons of this "
        f"table; “by less than the margin” if the interval lies inside ± {margin}. Otherwise equivalent if two one-sided "
        f"t tests both reject, at 5 % and without correction, a difference of {margin} or more (the larger p is shown). "
        "Otherwise inconclusive."
    )
    lines, kinds = [], []
    for _, group in found.groupby(["algorithm", "setting"], sort=False):
        for place, line in enumerate(records(group)):
            first = place == 0
            kinds.append("first" if first else "")
            lines.append(
                [
                    line["algorithm"] if first else "",
                    line["setting"] if first else "",
                    *_found(line),
                ]
            )
    head = [
        "algorithm",
        "setting",
        "network",
        "train FLOPs",
        "n",
        "test accuracy %",
        "interval",
        "minus random",
        "interval",
        "p (Holm)",
    ]
    yield page.grid([*head, "p (equivalence)", "verdict"], lines, kinds, "search")
    yield page.figure("search", drawings)
    yield from _correlations(correlations)


def _found(line: Mapping[str, Any]) -> list[str]:
    """One network of a search as text, from its name on."""
    compared = line["network"] in ("found", "worst")
    return [
        f"{line['network']} of {line['candidates']}" if compared else line["network"],
        words.large(line["train_flops"]),
        str(line["accuracy_test_n"]),
        words.spread(line["accuracy_test"], line["accuracy_test_std"]),
        words.interval(line["accuracy_test_low"], line["accuracy_test_high"]),
        words.spread(line["difference_test"], line["difference_test_std"], "+z.2f")
        if compared
        else "",
        words.interval(line["difference_test_low"], line["difference_test_high"], "+z.2f")
        if compared
        else "",
        words.p(line["difference_test_holm"]) if compared else "",
        words.p(line["difference_test_equivalence"]) if compared else "",
        line["difference_test_verdict"] if compared else "",
    ]


def _correlations(correlations: pd.DataFrame) -> Iterator[str]:
    yield "<h3>Does the score before training tell the accuracy after it?</h3>\n"
    if correlations.empty:
        yield page.say(
            "The rows have no score before training (m_score) and no candidate's number (m_winner): not known."
        )
        return
    yield page.say(
        "Spearman's rank correlation of the untrained network's loss and the trained one's test accuracy, over the distinct "
        f"networks of one setting and seed where there are at least {paired.FEWEST}, then the mean over such seeds "
        "with its 95 % t interval. Negative: a lower loss before training goes with higher accuracy after it. The networks "
        "are candidate 1 and those that were at some count the best (or, where asked for, the worst) so far: extremes of "
        "the score, not a sample of all candidates."
    )
    lines = [
        [
            line["algorithm"],
            line["setting"],
            " to ".join(map(str, dict.fromkeys([line["networks_least"], line["networks_most"]]))),
            str(line["correlation_test_n"]),
            words.spread(line["correlation_test"], line["correlation_test_std"], "+z.2f", 1),
            words.interval(line["correlation_test_low"], line["correlation_test_high"], "+z.2f", 1),
            words.p(line["correlation_test_holm"]),
            line["correlation_test_verdict"],
        ]
        for line in records(correlations)
    ]
    head = [
        "algorithm",
        "setting",
        "networks for each seed",
        "seeds",
        "rank correlation",
        "interval",
        "p (Holm)",
        "verdict",
    ]
    yield page.grid(head, lines, kind="search")


def fronts(smaller: bool, last: pd.DataFrame, drawings: Drawings) -> Iterator[str]:
    """The figures of the fronts, and how many networks are no points of them.

    smaller: whether FLOPs after shrinking differ from the parent's.
    """
    yield "<h2>Fronts</h2>\n"
    for sentence in front.left_out(last):
        yield page.say(sentence)
    for name in (name for name in drawings if name in plot.COSTS):
        yield page.figure(name, drawings)
    if not smaller:
        yield page.say(
            "No unit died at any point: FLOPs after shrinking are the parent's, and have no figure."
        )


def over_the_budget(
    over: pd.DataFrame, early: pd.DataFrame, lacking: int, drawings: Drawings
) -> Iterator[str]:
    """Accuracy at every rung, and the settings that were better before the last one."""
    if over.empty:
        return
    yield "<h2>Over the budget</h2>\n"
    arms, drawn = over["arm"].nunique(), budget.shown(over)
    settings, lines = (len(frame.drop_duplicates(budget.SETTING)) for frame in (over, drawn))
    yield page.say(
        "Validation accuracy of the done members at their rungs. Epochs are as the rows count them (a solver's iterations). "
        "An earlier rung is a point on the way of the longer run, not the end of a shorter one."
        + (f" Drawn: {lines} of {settings} settings, {drawn['arm'].nunique()} of {arms} arms, those that lose most after "
           "their best rung; in budget.csv: all." if lines < settings else "")
        + (f" Left out: {lacking} members that lack a rung of their setting." if lacking else "")
    )  # fmt: skip
    yield page.figure("budget", drawings)
    yield "<h3>Early stopping</h3>\n"
    if early.empty:
        yield page.say(f"The last rung is the best one of each of {settings} settings.")
        return
    listed = (
        f" Listed: the {budget.LISTED} with the largest difference."
        if len(early) > budget.LISTED
        else ""
    )
    yield page.say(
        f"In {len(early)} of {settings} settings the best rung by mean validation accuracy is not the last.{listed} "
        "Difference: best minus last, mean over the pairs of the same seed, in percentage points, with its 95 % t interval. "
        "The best rung was chosen on the same validation data, so the difference is flattered by selection, and its interval "
        "does not allow for it. Where FLOPs differ too, it is not one of early stopping alone."
    )
    head = [
        "arm",
        "setting",
        "n",
        "best rung",
        "last rung",
        "epochs, best",
        "last",
        "accuracy %, best",
        "last",
    ]
    text = [
        [line["arm"], line["setting"], str(line["n"]), str(line["rung_best"]), str(line["rung_last"]),
         *(words.large(line[f"epochs_{end}"]) for end in ("best", "last")),
         *(words.number(100 * line[f"accuracy_valid_{end}"], ".2f") for end in ("best", "last")),
         f"{100 * line['difference']:+.2f}", words.interval(line["difference_low"], line["difference_high"], "+z.2f"),
         *(words.large(line[f"flops_masked_{end}"]) for end in ("best", "last"))]
        for line in records(early.head(budget.LISTED))
    ]  # fmt: skip
    yield page.grid([*head, "difference", "interval", "FLOPs masked, best", "last"], text)


def stopping_by_dominance(
    rows: pd.DataFrame,
    tried: pd.DataFrame,
    wanted: goals.Goals,
    departures: pd.DataFrame,
    drawings: Drawings,
) -> Iterator[str]:
    """What stopping by dominance took and spared, or would have."""
    if tried.empty and departures.empty:
        return
    yield "<h2>Stopping by dominance</h2>\n"
    if len(departures):
        share, charged = dominance.saved(rows)
        yield page.say(
            "At each rung but the last the dominated settings left, all seeds of a setting together; `reason` in the rows says "
            f"at which place. Epochs trained: {_percent(share)} of what all members would have taken ({_percent(charged)} as "
            "charged to each). Fronts are drawn from the members that are done."
        )
        yield page.grid(
            ["rung", "settings", "stopped"],
            [[str(value) for value in line.values()] for line in records(departures)],
        )
        return
    yield page.say(dominance.told(tried, wanted))
    yield page.figure("stopping", drawings)
    lines = [
        [f"{line['factor']:g}", str(line["settings"]), f"{_percent(line['share'])} ({_percent(line['share_charged'])})",
         words.spread(line["kept"], line["std"]), _percent(line["least"])]
        for line in records(dominance.means(tried))
    ]  # fmt: skip
    yield page.grid(
        ["one in", "settings at the end", "epochs", "hypervolume kept %", "least of a seed"], lines
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def proofs(
    rows: pd.DataFrame, proven: pd.DataFrame, shown: pd.DataFrame, drawings: Drawings
) -> Iterator[str]:
    """How near the optimum of its program each setting is, where that is proven."""
    if proven.empty:
        return
    yield "<h2>Certificates</h2>\n"
    yield page.say(
        "Relative gap: the value of the program at what is measured (primal) minus a lower bound on its optimum (dual), plus "
        "what violated constraints may hide of it, over primal. It is about the program that the algorithm solved (where gate "
        "patterns are sampled, with those patterns only), not about all networks, and a small gap says nothing about accuracy "
        "on new data."
    )
    if "certificates" in drawings:
        yield page.figure("certificates", drawings)
    for sentence in _gaps(rows, proven, shown):
        yield page.say(sentence)
    head = [
        "arm",
        "setting",
        "n",
        "primal",
        "dual",
        "relative gap",
        "largest",
        "violation, largest",
        "stationarity, largest",
    ]
    text = [
        [line["arm"], line["setting"], str(line["n"]) if line["known"] == line["n"] else f"{line['known']} of {line['n']}",
         *(words.number(line[name], ".6g") for name in ("primal", "dual")),
         *(words.number(line[name], ".2g")
           for name in ("relative", "relative_worst", "violation_worst", "stationarity_worst")),
         *(words.number(line[name], "g") for name in ("gates", "neurons"))]
        for line in records(shown[shown["last"]])
    ]  # fmt: skip
    yield page.grid([*head, "gates", "neurons"], text)


def _gaps(rows: pd.DataFrame, proven: pd.DataFrame, shown: pd.DataFrame) -> Iterator[str]:
    """What a reader should know of the gaps before the table of them."""
    gaps, settings = proven["relative"], len(proven.drop_duplicates(certificates.SETTING))
    small = gaps <= certificates.ROUNDING
    yield (
        f"Relative gaps at or below rounding ({certificates.ROUNDING:.1e}), over members and rungs: {small.sum()} of "
        f"{gaps.notna().sum()}"
        + (f", the least {gaps.min():.2g}. One far below zero would mean that what is measured violates the constraints, or "
           "that the bound is none." if small.any() else ".")
    )  # fmt: skip
    if unknown := int((~certificates.drawable(proven)).sum()):
        yield (
            f"Not on the axes: {unknown} of {len(proven)} measurements, whose gap is not finite, not known or relative to no "
            "positive primal, or which took no time."
        )
    every, here = (
        len(frame.drop_duplicates(["arm", "member"]))
        for frame in (certificates.holding(rows), proven)
    )
    if others := every - here:
        yield f"Members that hold certificates but are not done, and left out here: {others}."
    listed = len(shown.drop_duplicates(certificates.SETTING))
    yield (
        "At the last rung: medians over the n seeds, and the largest. Violation and stationarity are relative residuals of the "
        "optimality conditions (KKT). "
        + (f"Drawn and listed: {listed} of {settings} settings, evenly spread, the one with the largest gap among them. "
           if listed < settings else "")
        + "In certificates.csv: every setting at every rung, in full precision."
    )  # fmt: skip


def latencies(timed: pd.DataFrame, last: pd.DataFrame, drawings: Drawings) -> Iterator[str]:
    """How long the networks of the front took on a machine, and whether FLOPs told it."""
    if timed.empty:
        return
    yield "<h2>Latency</h2>\n"
    yield page.say(
        "The networks of the front without the units and blocks that cannot influence their output, and the dense parent, each "
        "run alone: eager, and compiled by torch.compile for each batch. A round is as many calls as fill a twentieth of a "
        "second, after a warm-up; figures are the median of the rounds and, in brackets, the fastest and the slowest. "
        f"Of a large front at most {latency.MOST} networks are measured, spread over their FLOPs."
    )
    if "latency" in drawings:
        yield page.figure("latency", drawings)
    yield page.say(
        "Spearman's rank correlation of FLOPs and milliseconds: 1 if more FLOPs always took longer. Not dominated: in "
        "validation accuracy, shrunk FLOPs and milliseconds, with their hypervolume (reference point: accuracy 0, the parent's "
        "FLOPs and milliseconds); “-” where the parent was not measured."
    )
    lines = [
        [line["device"], line["mode"], *(str(line[name]) for name in ("batch", "threads", "torch", "networks")),
         words.number(line["correlation"], "+z.2f"), *_three(timed, line, last)]
        for line in records(latency.correlations(timed))
    ]  # fmt: skip
    head = [
        "device",
        "mode",
        "batch",
        "threads",
        "torch",
        "networks",
        "rank correlation",
        "not dominated",
        "hypervolume",
    ]
    yield page.grid(head, lines)
    places = timed.groupby(list(latency.PLACE)).ngroups
    names = [*(latency.PLACE if places > 1 else ()), "arm", "setting", "FLOPs", "parameters"]
    kinds = (
        timed[["mode", "batch"]]
        .drop_duplicates()
        .sort_values(["batch", "mode"], ascending=[True, False])
    )
    columns = list(kinds.itertuples(index=False, name=None))
    grid: list[list[str]] = []
    key = [*latency.PLACE, "parent", "flops_shrunk", "member"]
    for _, group in timed.sort_values(
        key, ascending=[True, True, True, False, False, True]
    ).groupby(key, sort=False):
        first = group.iloc[0]
        times = {(line["mode"], line["batch"]): _took(line) for line in records(group)}
        about = [
            str(first[name]) for name in (*(latency.PLACE if places > 1 else ()), "arm", "setting")
        ]
        grid.append(
            [
                *about,
                words.large(first["flops_shrunk"]),
                words.large(first["params_shrunk"]),
                *(times.get(c, "-") for c in columns),
            ]
        )
    yield page.grid([*names, *(f"{mode}, batch {batch}, ms" for mode, batch in columns)], grid)


def _three(timed: pd.DataFrame, place: Mapping[str, Any], last: pd.DataFrame) -> tuple[str, str]:
    """How many timed networks none dominates in accuracy, FLOPs and latency, and their hypervolume."""
    here = timed[(timed[latency.GROUP] == [place[name] for name in latency.GROUP]).all(axis=1)]
    try:
        found = attainment.timed(attainment.points(last, "flops_shrunk"), here)
    except Mistake:
        return "-", "-"
    count, volume = attainment.together(found, attainment.TIMED)
    return f"{count} of {len(found)}", f"{volume:.4f}"


def _took(line: Mapping[str, Any]) -> str:
    """Milliseconds of a call, or why there are none."""
    if math.isnan(line["milliseconds"]):
        return f"not measured: {line['reason'][:80]}"
    low, high = (words.number(line[f"milliseconds_{end}"], ".3g") for end in ("min", "max"))
    return f"{words.number(line['milliseconds'], '.3g')} ({low} to {high})"


def hypervolumes(last: pd.DataFrame) -> Iterator[str]:
    """Hypervolume of each arm, what it adds to the joint front, and how far it is behind the
    others.
    """
    yield "<h2>Hypervolume</h2>\n"
    accuracy, cost = front.REFERENCE
    yield page.say(
        f"Validation data, reference point: accuracy {accuracy:g}, cost {cost:g} times the parent's FLOPs. One front for each "
        "seed, then the mean over seeds with its 95 % t interval; 1 is the most. Networks that cost more than the parent count "
        "for nothing. An arm with more distinct networks has had more tries. Adds: hypervolume of the joint front of all arms "
        "that is lost without this one, and in brackets how many of its points are this arm's. Behind: the largest additive "
        "epsilon to another arm (Zitzler et al. 2003), what must be added to accuracy and to the share of FLOPs so that one of "
        "its networks is as good as any of the other's; 0 or less: behind none."
    )
    last = last[~controls.is_check(last)]
    found = {kind: attainment.points(last, kind) for kind in get_args(front.Cost)}
    key, gaps = attainment.LABEL, attainment.epsilons(found["flops_masked"])
    whole = attainment.hypervolumes(found["flops_masked"])
    whole = whole.merge(
        attainment.hypervolumes(found["flops_shrunk"]), on=key, suffixes=("", "_shrunk")
    )
    lines = [
        [
            named(line),
            str(line["seeds"]),
            " to ".join(map(str, dict.fromkeys([line["points_least"], line["points_most"]]))),
            *_mean(line, "hypervolume"),
            f"{line['contribution']:.4f} ({line['own']:.1f} of {line['joint']:.1f})",
            _behind(line, gaps),
            *_mean(line, "hypervolume", "_shrunk"),
        ]
        for line in records(
            whole.merge(
                attainment.contributions(found["flops_masked"]).drop(columns="seeds"), on=key
            )
        )
    ]
    about = ["arm", "seeds", "networks for each seed"]
    head = [*about, "masked FLOPs", "interval", "adds", "behind", "shrunk FLOPs", "interval"]
    yield page.grid(head, lines)


def _behind(line: Mapping[str, Any], gaps: pd.DataFrame) -> str:
    """The other label that one is farthest behind, and by how much."""
    own = gaps[(gaps["arm"] == line["arm"]) & (gaps["control"] == line["control"])]
    if own.empty:
        return "-"
    most = own.loc[own["epsilon"].idxmax()]
    return f"{most['epsilon']:+.4f} ({named({'arm': most['against'], 'control': most['against_control']})})"


def _mean(line: Mapping[str, Any], name: str, end: str = "") -> tuple[str, str]:
    """A mean over seeds and its interval."""
    low, high = line[f"{name}_low{end}"], line[f"{name}_high{end}"]
    return words.number(line[f"{name}{end}"], ".4f"), words.interval(low, high, ".4f", 1)


def named(line: Mapping[str, Any]) -> str:
    """The label of a line with `arm` and `control`."""
    return f"{line['arm']} (control)" if line["control"] else str(line["arm"])


def measurement_checks(
    folder: Location, rows: pd.DataFrame, summary: pd.DataFrame
) -> Iterator[str]:
    last = table.last(rows)
    waiting = table.unfinished(rows).groupby("arm").size()
    arms = (
        summary.groupby("arm")[list(table.FINAL)]
        .sum()
        .join(waiting.rename("unfinished"), how="outer")
        .fillna(0)
    )
    counts = [
        [str(arm), *(f"{n:.0f}" for n in line)]
        for arm, line in zip(arms.index, arms.to_numpy(), strict=True)
    ]
    yield "<h2>Checks</h2>\n<h3>Members by the way they ended</h3>\n"
    yield page.grid(["arm", *arms.columns], counts)
    ended = last[last["status"] != "done"].fillna({"reason": "no reason given"})
    reasons = ended.groupby(["arm", "status", "reason"]).size().reset_index(name="members")
    if len(reasons):
        lines = [
            [arm, f"{status}: {reason}", str(n)]
            for arm, status, reason, n in reasons.to_numpy().tolist()
        ]
        yield page.grid(["arm", "reason", "members"], lines)
    yield "<h3>Measurements</h3>\n<ul>\n"
    for finding in _findings(folder, rows):
        yield f"<li>{escape(finding)}</li>\n"
    yield "</ul>\n"


def _findings(folder: Location, rows: pd.DataFrame) -> Iterator[str]:
    """What a reader should know before trusting the numbers, one sentence each."""
    last = table.last(rows)
    done = last[last["status"] == "done"]
    names = done["arm"] + " (" + front.settings(done) + ")"
    if "hp_sparsity" in done and done["hp_sparsity"].notna().any():
        apart = (done["hp_sparsity"] - done["sparsity"]).abs()
        if "hp_granularity" in done:
            apart = apart.where(done["hp_granularity"].isna() | done["hp_granularity"].eq("weight"))
        far, rest = apart > TOLERANCE, done["hp_sparsity"].notna() & apart.isna()
        yield (
            f"Requested (hp_sparsity) and achieved sparsity: at most {words.number(100 * apart.max(), '.2f')} percentage "
            f"points apart; {far.sum()} of {apart.notna().sum()} members by more than {100 * TOLERANCE:g}{_among(names[far])}."
        )
        if rest.any():
            yield f"Members whose requested sparsity is of units, and so not compared with that of parameters: {rest.sum()}."
    else:
        yield "No sparsity was requested (no column hp_sparsity), so none can be compared with what was achieved."
    dead = done["layers_dead"] > 0
    yield f"Dead layers (nothing kept): in {dead.sum()} of {len(done)} members{_among(names[dead])}."
    rungs = rows.sort_values("rung")
    back = done["member"].isin(
        rungs.loc[rungs.groupby("member")["params_kept"].diff() > 0, "member"]
    )
    yield (
        "Removed parameters that came back (more kept at a rung than at the one before; some algorithms may): in "
        f"{back.sum()} of {len(done)} members{_among(names[back])}."
    )
    unknown = front.unknown_operations(done)
    yield f"Operations without a FLOPs formula: {', '.join(unknown) or 'none'}."
    if not controls.is_check(last).any():
        yield 'Sanity checks of what was found: none; controls = "standard" in [study] trains them, and baselines.'
    alone = done["stacked"].eq(False)
    which = _among(done["arm"][alone])
    yield f"Trained one after the other rather than together: {alone.sum()} of {len(done)} members{which}."
    twice = done.duplicated(["arm", "hp", "seed"], keep=False)
    yield f"Members alike in arm, setting and seed, each counted as a seed: {twice.sum()}{_among(names[twice])}."
    parents = front.parents(done)
    yield f"Parent, to which differences are taken: {', '.join(parents) or 'none in this study, so no differences'}."
    others = len(table.last(table.read(folder))) - len(last)
    yield f"Members that the study file no longer holds, left out of all of this: {others}."
    rejected = sorted(path.name for path in (folder / "rejected").glob("*"))
    yield f"Files set aside because they could not be trusted: {', '.join(rejected) or 'none'}."


def _among(names: pd.Series) -> str:
    """Which ones, after a count: the first eight; nothing for none."""
    known = sorted(set(names))
    more = f"; and {len(known) - 8} more" if len(known) > 8 else ""
    return f": {'; '.join(known[:8])}{more}" if known else ""


def provenance(folder: Location) -> Iterator[str]:
    """Where the rows come from, and how the figures are computed from them."""
    yield "<h2>Provenance</h2>\n"
    facts: dict[str, dict[str, None]] = {}
    for footer in table.footers(folder):
        for name, value in _flat(footer):
            facts.setdefault(name, {})[value] = None
    yield page.terms({name: "; ".join(values) for name, values in facts.items()})
    yield "<h2>How the figures are computed</h2>\n"
    shown = (
        "flops_dense",
        "flops_masked",
        "flops_shrunk",
        "params_kept",
        "sparsity",
        "seconds",
        "train_flops",
        "search_flops",
    )
    meanings = {name: meaning for name, _, meaning in table.COLUMNS if name in shown}
    yield page.terms({**FORMULAS, **meanings})


def _flat(footer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in footer.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
