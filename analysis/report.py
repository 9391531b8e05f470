"""The report of a study: one page that needs no network, the front as SVG and PNG, and the operating points as CSV.

Everything is computed from the rows. Points are marked and ordered by validation data alone (`front.py`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from . import attainment, budget, certificates, compare, dominance, front, goals, latency, plot, searches, table
from . import published as literature
from .storage import Location
from .storage import save as _save
from .wording import interval as _interval
from .wording import large as _large
from .wording import number as _number
from .wording import p as _p
from .wording import spread as _spread

Pictures = dict[str, plot.Picture]
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

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --page: #ffffff; --line: #d4d9df; --soft: #f3f5f7; --faint: #5c6670; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e3e7eb; --page: #14171a; --line: #363c43; --soft: #1e2328; --faint: #9aa4ae; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 82rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } p, li { max-width: 52rem; }
figure { margin: 1.5rem 0; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .84rem; }
th, td { padding: .2rem .4rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { background: var(--soft); white-space: normal; vertical-align: bottom; }
th:nth-child(-n+2), td:nth-child(-n+2), .search :is(th, td):is(:nth-child(3), :last-child) { text-align: left; }
.search td:last-child { white-space: normal; min-width: 8rem; } .search tr.first td { border-top: 2px solid var(--faint); }
td:nth-child(-n+2) { white-space: normal; max-width: 22rem; } td:nth-child(2) { min-width: 8rem; }
tr.other { color: var(--faint); } tr.front td:first-child { font-weight: 600; }
dt { font-weight: 600; } dd { margin: 0 0 .4rem 1.5rem; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; font-size: 10px; } h2, figure { break-inside: avoid; } }
"""


def build(folder: Location, published: Path | None = None) -> Location:
    """Write `report/report.html`, `front.svg`, `front.png` and `front.csv` into a study's output folder.

    Beside them `search.csv`, if there was a search over candidates; `budget.csv`, if members were measured at two rungs or
    more; `certificates.csv`, if rows hold certificates; `stopping.csv`, if losers left, or could have.
    published: a file of published points (`published.read`), drawn in the fronts and listed.
    Returns the page's path. Raises ValueError if there are no rows, a file cannot be trusted, or no member is done.
    """
    rows, summary = _load(folder)
    last, study = table.last(rows), str(rows["study"].iloc[0])
    marked = summary.assign(front_masked=front.fronts(summary), front_shrunk=front.fronts(summary, "flops_shrunk"))
    points = front.listed(summary, last)
    found, correlations = searches.found(last), searches.correlations(last)
    others = (
        None if published is None else literature.beside(literature.read(published), str(rows["dataset"].iloc[0]), published)
    )
    pictures = _pictures(points, study, others)
    if len(found):
        pictures["search"] = plot.search(searches.curves(last), found[found["network"] == "random"], study)
    spent, lacking = budget.measured(rows, points)
    over = budget.curves(spent)
    if len(over):
        pictures["budget"] = plot.budget(budget.shown(over), study)
    wanted = goals.recorded(folder)
    tried, departures = dominance.tried(rows, wanted), dominance.departures(rows)
    if len(tried):
        pictures["stopping"] = plot.stopping(dominance.means(tried), study)
    proven = certificates.measured(rows, summary)
    gaps = certificates.curves(proven)
    proofs = certificates.shown(gaps)
    if certificates.drawable(proofs).any():
        pictures["certificates"] = plot.certificates(proofs[certificates.drawable(proofs)], study)
    timed = latency.shown(folder, last)
    if (timed["milliseconds"].notna() & (timed["flops_shrunk"] > 0)).any():
        pictures["latency"] = plot.latency(timed, study)
    main = pictures["flops_masked"]
    target = folder / "report"
    _save(target / "front.csv", _csv(front.ordered(marked)))
    _save(target / "front.svg", plot.svg(main).encode())
    _save(target / "front.png", plot.png(main))
    key = ["algorithm", "setting"]
    searched = found.merge(correlations, how="left", on=key) if len(correlations) else found
    stopping = tried if len(tried) else departures
    for name, frame in (("search", searched), ("budget", over), ("certificates", gaps), ("stopping", stopping)):
        (target / f"{name}.csv").unlink(missing_ok=True)
        if len(frame):
            _save(target / f"{name}.csv", _csv(frame))
    parts = [
        *_headline(rows),
        *_figures(pictures),
        *_published(others),
        *_points(summary, points),
        *_search(found, correlations, pictures),
        *_budget(over, budget.early(spent, over), lacking, pictures),
        *_stopping(rows, tried, wanted, departures, pictures),
        *_certificates(rows, proven, proofs, pictures),
        *_latency(timed, pictures),
        *_volumes(rows),
        *_checks(folder, rows, summary),
        *_origin(folder),
    ]
    _save(target / "report.html", _page(study, "".join(parts), pictures).encode())
    return target / "report.html"


def front_table(folder: Location) -> list[list[str]]:
    """The front of all arms as rows of text, the heading first; points as `front.listed` has them.

    Raises ValueError as `build` does.
    """
    rows, summary = _load(folder)
    points = front.listed(summary, table.last(rows))
    lines = [_line(point) for point in _records(front.ordered(points[front.fronts(points)]))]
    return [list(lines[0]), *[list(line.values()) for line in lines]]


def _load(folder: Location) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All rows, and the summary of the last ones."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; a report is made from a study's output folder")
    rows = table.current(folder, table.read(folder))
    summary = front.summarise(table.last(rows))
    if not summary["done"].sum():
        counts = [f"{summary[status].sum()} {status}" for status in table.FINAL if summary[status].sum()]
        counts.append(f"{len(_unfinished(rows))} unfinished")
        raise ValueError(f"{folder}: no member is done yet ({', '.join(counts)}); a report needs at least one")
    return rows, summary


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _unfinished(rows: pd.DataFrame) -> pd.DataFrame:
    """The latest row of each member that has no last row."""
    ended = rows["status"].ne(table.RUNNING).groupby([rows["arm"], rows["member"]]).transform("any")
    return rows[~ended].drop_duplicates(["arm", "member"], keep="last")


def _pictures(summary: pd.DataFrame, study: str, others: pd.DataFrame | None) -> Pictures:
    """The figure, and a second one where counts after shrinking differ from the parent's."""
    pictures: Pictures = {"flops_masked": plot.chart(summary, study, published=others)}
    done = summary[summary["done"] > 0]
    if (done["flops_shrunk"] != done["flops_dense"]).any():
        pictures["flops_shrunk"] = plot.chart(summary, study, "flops_shrunk", others)
    return pictures


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in line.items()} for line in frame.to_dict("records")]


def _share(share: float) -> str:
    """What a search took of the training FLOPs; nothing if there was none."""
    return f" ({_number(100 * share, '.2g')}%)" if share > 0 else ""


def _line(point: Mapping[str, Any]) -> dict[str, str]:
    """One operating point as text, by heading."""
    return {
        "arm": f"{point['arm']} (control)" if point["control"] else str(point["arm"]),
        "setting": str(point["setting"]),
        "n": str(point["done"]),
        "valid. accuracy %": _spread(point["accuracy_valid"], point["accuracy_valid_std"]),
        "difference": _spread(point["difference_valid"], point["difference_valid_std"], "+z.2f"),
        "test accuracy %": _spread(point["accuracy_test"], point["accuracy_test_std"]),
        "FLOPs masked": _large(point["flops_masked"]),
        "FLOPs shrunk": _large(point["flops_shrunk"]),
        "compression": _number(point["compression"], ".3g") + "x",
        "speed-up ideal": _number(point["speedup_masked"], ".3g") + "x",
        "any hardware": _number(point["speedup_shrunk"], ".3g") + "x",
        "train FLOPs (search)": _large(point["train_flops"]) + _share(point["search_flops"] / max(point["train_flops"], 1)),
        "seconds": _large(point["seconds"]),
    }


# ---- the page


def _page(study: str, body: str, pictures: Pictures) -> str:
    """The page, with everything it needs inside; the policy in its head forbids fetching anything."""
    study = escape(study)
    specs = json.dumps(pictures).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:;
script-src 'unsafe-inline' 'unsafe-eval'">
<title>{study}: accuracy against FLOPs</title><style>{STYLE}</style></head>
<body><h1>{study}: accuracy against FLOPs</h1>
{body}
<script>{plot.script()}</script>
<script>{{
const actions = {{export: true, source: false, compiled: false, editor: false}};
for (const [name, spec] of Object.entries({specs})) vegaEmbed("#" + name, spec, {{renderer: "svg", actions}});
}}</script></body></html>
"""


def _grid(head: Sequence[str], lines: Sequence[Sequence[str]], kinds: Sequence[str] = (), kind: str = "") -> str:
    """A table of text; `kinds` is the CSS class of each line, `kind` that of the table."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    classes = kinds or [""] * len(lines)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in line) for line in lines]
    filled = "".join(f'<tr class="{each}">{line}</tr>\n' for each, line in zip(classes, cells, strict=True))
    return f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>\n{filled}</tbody></table></div>\n'


def _terms(pairs: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in pairs.items()) + "</dl>\n"


def _say(sentence: str) -> str:
    return f"<p>{escape(sentence)}</p>\n"


def _headline(rows: pd.DataFrame) -> Iterator[str]:
    """What was measured, in a sentence or two."""
    first = rows.iloc[0]
    last = table.last(rows)
    done = last[last["status"] == "done"]
    distinct = front.networks(done).nunique()
    alike = f" ({distinct} distinct networks)" if distinct < len(done) else ""
    yield _say(
        f"Model {first['model']} on {first['dataset']}: {len(last)} members ended, {len(done)} of them done{alike}. "
        f"Charged to them: {_large(last['train_flops'].sum())} training FLOPs and {last['seconds'].sum():.3g} s, with what "
        "members share, a dense phase or a search, charged to each."
    )
    if waiting := len(_unfinished(rows)):
        yield _say(f"The study is not finished: {waiting} members have rows but no last row, and are not in the figures.")


def _published(others: pd.DataFrame | None) -> Iterator[str]:
    """The published points that the fronts show."""
    if others is None:
        return
    yield "<h2>Published points</h2>\n"
    yield _say(f"{literature.CAVEAT} They are as a file given with --published states them, on the same data set.")
    head = ["name", "source", "model", "protocol", "counted", "test accuracy %", "FLOPs", "parameters"]
    lines = [
        [*(str(line[name]) for name in head[:5]), _number(100 * line["accuracy"], ".2f"), _large(line["flops"]),
         "-" if math.isnan(line["params"]) else _large(line["params"])]
        for line in _records(others)
    ]  # fmt: skip
    yield _grid(head, lines)


def _points(summary: pd.DataFrame, listed: pd.DataFrame) -> Iterator[str]:
    """The table of operating points."""
    points = front.ordered(listed[listed["done"] > 0])
    yield "<h2>Operating points</h2>\n"
    yield _say(
        "The front of all arms comes first (validation accuracy up, masked FLOPs down), the others below it, paler; "
        "each from the most to the fewest FLOPs. Validation data marked and ordered them, test data did not. "
        "Full precision is in front.csv."
    )
    if (every := int((summary["done"] > 0).sum())) > len(points):
        yield _say(
            f"{len(points)} of {every} points are listed and drawn; all are in front.csv. Counts of candidates that chose the "
            "same networks in every seed are one point, with the costs of the fewest. Of these stay the counts at 1, 4, 16 "
            "and so on, the largest, and those on their arm's front: of many near-equal counts that is the luckiest."
        )
    kinds = ["front" if belongs else "other" for belongs in front.fronts(points)]
    lines = [_line(point) for point in _records(points)]
    yield _grid(list(lines[0]), [list(line.values()) for line in lines], kinds)


def _search(found: pd.DataFrame, correlations: pd.DataFrame, pictures: Pictures) -> Iterator[str]:
    """What searches over candidates found, against the first candidate, which is random."""
    if found.empty:
        return
    margin = f"{100 * compare.MARGIN:g} percentage points"
    yield "<h2>Search against chance</h2>\n"
    yield _say(
        "Found: the best of the first n candidates by its score before training; random: candidate 1; worst: the worst "
        "of n; parent: the dense network. Accuracies are of test data, which chose nothing here; differences are to the "
        "random network of the same seed, in percentage points. Intervals are 95 %, Student's t over seeds. "
        "In search.csv: full precision, and the same for validation data."
    )
    yield _say(
        "Verdict: better or worse if the paired t test says so at 5 % after Holm's correction for all comparisons of this "
        f"table; “by less than the margin” if the interval lies inside ± {margin}. Otherwise equivalent if two one-sided "
        f"t tests both reject, at 5 % and without correction, a difference of {margin} or more (the larger p is shown). "
        "Otherwise inconclusive."
    )
    lines, kinds = [], []
    for _, group in found.groupby(["algorithm", "setting"], sort=False):
        for place, line in enumerate(_records(group)):
            first = place == 0
            kinds.append("first" if first else "")
            lines.append([line["algorithm"] if first else "", line["setting"] if first else "", *_found(line)])
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
    yield _grid([*head, "p (equivalence)", "verdict"], lines, kinds, "search")
    yield f'<figure id="search">{plot.svg(pictures["search"], "transparent")}</figure>\n'
    yield from _correlations(correlations)


def _found(line: Mapping[str, Any]) -> list[str]:
    """One network of a search as text, from its name on."""
    compared = line["network"] in ("found", "worst")
    return [
        f"{line['network']} of {line['candidates']}" if compared else line["network"],
        _large(line["train_flops"]),
        str(line["accuracy_test_n"]),
        _spread(line["accuracy_test"], line["accuracy_test_std"]),
        _interval(line["accuracy_test_low"], line["accuracy_test_high"]),
        _spread(line["difference_test"], line["difference_test_std"], "+z.2f") if compared else "",
        _interval(line["difference_test_low"], line["difference_test_high"], "+z.2f") if compared else "",
        _p(line["difference_test_holm"]) if compared else "",
        _p(line["difference_test_equivalence"]) if compared else "",
        line["difference_test_verdict"] if compared else "",
    ]


def _correlations(correlations: pd.DataFrame) -> Iterator[str]:
    yield "<h3>Does the score before training tell the accuracy after it?</h3>\n"
    if correlations.empty:
        yield _say("The rows have no score before training (m_score) and no candidate's number (m_winner): not known.")
        return
    yield _say(
        "Spearman's rank correlation of the untrained network's loss and the trained one's test accuracy, over the distinct "
        f"networks of one setting and seed where there are at least {compare.FEWEST}, then the mean over such seeds "
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
            _spread(line["correlation_test"], line["correlation_test_std"], "+z.2f", 1),
            _interval(line["correlation_test_low"], line["correlation_test_high"], "+z.2f", 1),
            _p(line["correlation_test_holm"]),
            line["correlation_test_verdict"],
        ]
        for line in _records(correlations)
    ]
    head = ["algorithm", "setting", "networks for each seed", "seeds", "rank correlation", "interval", "p (Holm)", "verdict"]
    yield _grid(head, lines, kind="search")


def _figures(pictures: Pictures) -> Iterator[str]:
    yield "<h2>Fronts</h2>\n"
    # The SVG is what paper and readers without scripts see; the script replaces it by the same chart with tooltips.
    for name in [name for name in pictures if name in plot.COSTS]:
        yield f'<figure id="{name}">{plot.svg(pictures[name], "transparent")}</figure>\n'
    if "flops_shrunk" not in pictures:
        yield _say("No unit died at any point: FLOPs after shrinking are the parent's, and have no figure.")


def _budget(over: pd.DataFrame, early: pd.DataFrame, lacking: int, pictures: Pictures) -> Iterator[str]:
    """Accuracy at every rung, and the settings that were better before the last one."""
    if over.empty:
        return
    yield "<h2>Over the budget</h2>\n"
    arms, drawn = over["arm"].nunique(), budget.shown(over)
    settings, lines = (len(frame.drop_duplicates(budget.SETTING)) for frame in (over, drawn))
    yield _say(
        "Validation accuracy of the done members at their rungs. Epochs are as the rows count them (a solver's iterations). "
        "An earlier rung is a point on the way of the longer run, not the end of a shorter one."
        + (f" Drawn: {lines} of {settings} settings, {drawn['arm'].nunique()} of {arms} arms, those that lose most after "
           "their best rung; in budget.csv: all." if lines < settings else "")
        + (f" Left out: {lacking} members that lack a rung of their setting." if lacking else "")
    )  # fmt: skip
    yield f'<figure id="budget">{plot.svg(pictures["budget"], "transparent")}</figure>\n'
    yield "<h3>Early stopping</h3>\n"
    if early.empty:
        yield _say(f"The last rung is the best one of each of {settings} settings.")
        return
    listed = f" Listed: the {budget.LISTED} with the largest difference." if len(early) > budget.LISTED else ""
    yield _say(
        f"In {len(early)} of {settings} settings the best rung by mean validation accuracy is not the last.{listed} "
        "Difference: best minus last, mean over the pairs of the same seed, in percentage points, with its 95 % t interval. "
        "The best rung was chosen on the same validation data, so the difference is flattered by selection, and its interval "
        "does not allow for it. Where FLOPs differ too, it is not one of early stopping alone."
    )
    head = ["arm", "setting", "n", "best rung", "last rung", "epochs, best", "last", "accuracy %, best", "last"]
    text = [
        [line["arm"], line["setting"], str(line["n"]), str(line["rung_best"]), str(line["rung_last"]),
         *(_large(line[f"epochs_{end}"]) for end in ("best", "last")),
         *(_number(100 * line[f"accuracy_valid_{end}"], ".2f") for end in ("best", "last")),
         f"{100 * line['difference']:+.2f}", _interval(line["difference_low"], line["difference_high"], "+z.2f"),
         *(_large(line[f"flops_masked_{end}"]) for end in ("best", "last"))]
        for line in _records(early.head(budget.LISTED))
    ]  # fmt: skip
    yield _grid([*head, "difference", "interval", "FLOPs masked, best", "last"], text)


def _stopping(
    rows: pd.DataFrame, tried: pd.DataFrame, wanted: goals.Goals, departures: pd.DataFrame, pictures: Pictures
) -> Iterator[str]:
    """What stopping by dominance took and spared, or would have."""
    if tried.empty and departures.empty:
        return
    yield "<h2>Stopping by dominance</h2>\n"
    if len(departures):
        share, charged = dominance.saved(rows)
        yield _say(
            "At each rung but the last the dominated settings left, all seeds of a setting together; `reason` in the rows says "
            f"at which place. Epochs trained: {_percent(share)} of what all members would have taken ({_percent(charged)} as "
            "charged to each). Fronts are drawn from the members that are done."
        )
        yield _grid(["rung", "settings", "stopped"], [[str(value) for value in line.values()] for line in _records(departures)])
        return
    yield _say(dominance.told(tried, wanted))
    yield f'<figure id="stopping">{plot.svg(pictures["stopping"], "transparent")}</figure>\n'
    lines = [
        [f"{line['factor']:g}", str(line["settings"]), f"{_percent(line['share'])} ({_percent(line['share_charged'])})",
         _spread(line["kept"], line["std"]), _percent(line["least"])]
        for line in _records(dominance.means(tried))
    ]  # fmt: skip
    yield _grid(["one in", "settings at the end", "epochs", "hypervolume kept %", "least of a seed"], lines)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _certificates(rows: pd.DataFrame, proven: pd.DataFrame, shown: pd.DataFrame, pictures: Pictures) -> Iterator[str]:
    """How near the optimum of its program each setting is, where that is proven."""
    if proven.empty:
        return
    yield "<h2>Certificates</h2>\n"
    yield _say(
        "Relative gap: the value of the program at what is measured (primal) minus a lower bound on its optimum (dual), plus "
        "what violated constraints may hide of it, over primal. It is about the program that the algorithm solved (where gate "
        "patterns are sampled, with those patterns only), not about all networks, and a small gap says nothing about accuracy "
        "on new data."
    )
    if "certificates" in pictures:
        yield f'<figure id="certificates">{plot.svg(pictures["certificates"], "transparent")}</figure>\n'
    for sentence in _gaps(rows, proven, shown):
        yield _say(sentence)
    head = ["arm", "setting", "n", "primal", "dual", "relative gap", "largest", "violation, largest", "stationarity, largest"]
    text = [
        [line["arm"], line["setting"], str(line["n"]) if line["known"] == line["n"] else f"{line['known']} of {line['n']}",
         *(_number(line[name], ".6g") for name in ("primal", "dual")),
         *(_number(line[name], ".2g") for name in ("relative", "relative_worst", "violation_worst", "stationarity_worst")),
         *(_number(line[name], "g") for name in ("gates", "neurons"))]
        for line in _records(shown[shown["last"]])
    ]  # fmt: skip
    yield _grid([*head, "gates", "neurons"], text)


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
    every, here = (len(frame.drop_duplicates(["arm", "member"])) for frame in (certificates.holding(rows), proven))
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


def _latency(timed: pd.DataFrame, pictures: Pictures) -> Iterator[str]:
    """How long the networks of the front took on a machine, and whether FLOPs told it."""
    if timed.empty:
        return
    yield "<h2>Latency</h2>\n"
    yield _say(
        "The networks of the front without the units and blocks that cannot influence their output, and the dense parent, each "
        "run alone: eager, and compiled by torch.compile for each batch. A round is as many calls as fill a twentieth of a "
        "second, after a warm-up; figures are the median of the rounds and, in brackets, the fastest and the slowest. "
        f"Of a large front at most {latency.MOST} networks are measured, spread over their FLOPs."
    )
    if "latency" in pictures:
        yield f'<figure id="latency">{plot.svg(pictures["latency"], "transparent")}</figure>\n'
    yield _say("Spearman's rank correlation of FLOPs and milliseconds: 1 if more FLOPs always took longer.")
    lines = [
        [line["device"], line["mode"], *(str(line[name]) for name in ("batch", "threads", "torch", "networks")),
         _number(line["correlation"], "+z.2f")]
        for line in _records(latency.correlations(timed))
    ]  # fmt: skip
    yield _grid(["device", "mode", "batch", "threads", "torch", "networks", "rank correlation"], lines)
    places = timed.groupby(list(latency.PLACE)).ngroups
    names = [*(latency.PLACE if places > 1 else ()), "arm", "setting", "FLOPs", "parameters"]
    kinds = timed[["mode", "batch"]].drop_duplicates().sort_values(["batch", "mode"], ascending=[True, False])
    columns = list(kinds.itertuples(index=False, name=None))
    grid: list[list[str]] = []
    key = [*latency.PLACE, "parent", "flops_shrunk", "member"]
    for _, group in timed.sort_values(key, ascending=[True, True, True, False, False, True]).groupby(key, sort=False):
        first = group.iloc[0]
        times = {(line["mode"], line["batch"]): _took(line) for line in _records(group)}
        about = [str(first[name]) for name in (*(latency.PLACE if places > 1 else ()), "arm", "setting")]
        grid.append(
            [*about, _large(first["flops_shrunk"]), _large(first["params_shrunk"]), *(times.get(c, "-") for c in columns)]
        )
    yield _grid([*names, *(f"{mode}, batch {batch}, ms" for mode, batch in columns)], grid)


def _took(line: Mapping[str, Any]) -> str:
    """Milliseconds of a call, or why there are none."""
    if math.isnan(line["milliseconds"]):
        return f"not measured: {line['reason'][:80]}"
    low, high = (_number(line[f"milliseconds_{end}"], ".3g") for end in ("min", "max"))
    return f"{_number(line['milliseconds'], '.3g')} ({low} to {high})"


def _volumes(rows: pd.DataFrame) -> Iterator[str]:
    yield "<h2>Hypervolume</h2>\n"
    accuracy, cost = front.REFERENCE
    yield _say(
        f"Reference point: accuracy {accuracy:g}, cost {cost:g} times the parent's FLOPs. One front for each seed, "
        "then mean ± standard deviation over seeds; 1 is the most. Networks that cost more than the parent count for nothing. "
        "An arm with more distinct networks has had more tries."
    )
    last = table.last(rows)
    masked, shrunk = (_records(attainment.hypervolumes(attainment.points(last, cost))) for cost in get_args(front.Cost))
    lines = [
        [
            f"{one['arm']} (control)" if one["control"] else one["arm"],
            str(one["seeds"]),
            " to ".join(map(str, dict.fromkeys([one["points_least"], one["points_most"]]))),
            *(_spread(each["hypervolume"], each["hypervolume_std"], ".4f", 1) for each in (one, other)),
        ]
        for one, other in zip(masked, shrunk, strict=True)
    ]
    yield _grid(["arm", "seeds", "networks for each seed", "masked FLOPs", "shrunk FLOPs"], lines)


def _checks(folder: Location, rows: pd.DataFrame, summary: pd.DataFrame) -> Iterator[str]:
    last = table.last(rows)
    waiting = _unfinished(rows).groupby("arm").size()
    arms = summary.groupby("arm")[list(table.FINAL)].sum().join(waiting.rename("unfinished"), how="outer").fillna(0)
    counts = [[str(arm), *(f"{n:.0f}" for n in line)] for arm, line in zip(arms.index, arms.to_numpy(), strict=True)]
    yield "<h2>Checks</h2>\n<h3>Members by the way they ended</h3>\n"
    yield _grid(["arm", *arms.columns], counts)
    ended = last[last["status"] != "done"].fillna({"reason": "no reason given"})
    reasons = ended.groupby(["arm", "status", "reason"]).size().reset_index(name="members")
    if len(reasons):
        lines = [[arm, f"{status}: {reason}", str(n)] for arm, status, reason, n in reasons.to_numpy().tolist()]
        yield _grid(["arm", "reason", "members"], lines)
    yield "<h3>Measurements</h3>\n<ul>\n"
    for finding in _findings(folder, last):
        yield f"<li>{escape(finding)}</li>\n"
    yield "</ul>\n"


def _findings(folder: Location, last: pd.DataFrame) -> Iterator[str]:
    """What a reader should know before trusting the numbers, one sentence each."""
    done = last[last["status"] == "done"]
    names = done["arm"] + " (" + front.settings(done) + ")"
    if "hp_sparsity" in done and done["hp_sparsity"].notna().any():
        apart = (done["hp_sparsity"] - done["sparsity"]).abs()
        if "hp_granularity" in done:
            apart = apart.where(done["hp_granularity"].isna() | done["hp_granularity"].eq("weight"))
        far, rest = apart > TOLERANCE, done["hp_sparsity"].notna() & apart.isna()
        yield (
            f"Requested (hp_sparsity) and achieved sparsity: at most {_number(100 * apart.max(), '.2f')} percentage points "
            f"apart; {far.sum()} of {apart.notna().sum()} members by more than {100 * TOLERANCE:g}{_among(names[far])}."
        )
        if rest.any():
            yield f"Members whose requested sparsity is of units, and so not compared with that of parameters: {rest.sum()}."
    else:
        yield "No sparsity was requested (no column hp_sparsity), so none can be compared with what was achieved."
    dead = done["layers_dead"] > 0
    yield f"Dead layers (nothing kept): in {dead.sum()} of {len(done)} members{_among(names[dead])}."
    unknown = sorted({op for ops in done["unknown_ops"].dropna() for op in ops.split(",") if op})
    yield f"Operations without a FLOPs formula: {', '.join(unknown) or 'none'}."
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


def _origin(folder: Location) -> Iterator[str]:
    """Where the rows come from, and how the figures are computed from them."""
    yield "<h2>Provenance</h2>\n"
    facts: dict[str, dict[str, None]] = {}
    for footer in table.footers(folder):
        for name, value in _flat(footer):
            facts.setdefault(name, {})[value] = None
    yield _terms({name: "; ".join(values) for name, values in facts.items()})
    yield "<h2>How the figures are computed</h2>\n"
    shown = ("flops_dense", "flops_masked", "flops_shrunk", "params_kept", "sparsity", "seconds", "train_flops", "search_flops")
    meanings = {name: meaning for name, _, meaning in table.COLUMNS if name in shown}
    yield _terms({**FORMULAS, **meanings})


def _flat(footer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in footer.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)
