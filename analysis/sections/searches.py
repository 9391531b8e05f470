"""What searches over candidate networks found, against the first candidate, which is random, paired
by seed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from .. import page
from ..draw import looks
from ..draw.looks import Data
from ..draw.render import Picture
from ..inference import paired
from ..points import front, words
from ._section import Drawings, Section
from ._study import Study

SETTING = ["algorithm", "rest"]
MEASURES = [*front.SCORES, *front.CHARGES]
NETWORKS = ["parent", "random", "found", "worst"]
"""What is told of a setting, in this order."""
COMPARED = ("found", "worst")
"""Networks that are compared with the random one."""
LINE = ["place", "algorithm", "setting", "network", "candidates"]
"""What a line of the comparison with chance is about: the same in all its seeds."""


def searches(last_rows: pd.DataFrame) -> pd.DataFrame:
    """The done rows of searches over candidates, from the most to the fewest FLOPs; known by the
    column `hp_candidates`.

    `rest`: the hyper-parameters but the search's, and `setting`: those in words; arms do not
    matter, so what one arm has found is compared with the first or worst candidate of another.
    `place`: of the setting, from 0. `pick`: best where `hp_pick` does not say otherwise. Rows with
    the same (algorithm, rest, seed, m_winner) are of the same network, and so never independent.
    """
    is_done = last_rows["status"] == "done"
    done = last_rows[is_done]
    if "hp_candidates" not in done:
        return done[:0]
    is_search = done["hp_candidates"].notna()
    rows = done[is_search]
    rest = front.unsearched(rows)
    alike = rows.assign(arm=rows["algorithm"], hp=rest)
    setting = front.settings(alike)
    rows = rows.assign(rest=rest, setting=setting, pick="best")
    if "hp_pick" in rows:
        rows["pick"] = rows["hp_pick"].fillna("best")
    by_setting = rows.groupby(SETTING)
    flops = by_setting["flops_masked"]
    rows["smaller"] = -flops.transform("mean")
    key = ["algorithm", "smaller", "setting", "pick", "hp_candidates", "seed"]
    rows = rows.sort_values(key, ignore_index=True)
    in_order = rows.groupby(SETTING, sort=False)
    rows["place"] = in_order.ngroup()
    return rows


def against_chance(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of what searches found beside the parent, the first candidate (`random`) and the
    worst of the most.

    One line per (algorithm, setting, network, candidates), `candidates` those of `front.marks`:
    mean `train_flops`; for valid and test data n, mean, sample deviation and interval of
    `accuracy_*`, and of `difference_*` to random in the same seed, its p value, that after Holm's
    correction over all lines, the larger p value of the equivalence tests, the verdict.
    """
    rows = searches(last_rows)
    if rows.empty:
        return pd.DataFrame()
    is_done = last_rows["status"] == "done"
    parent = front.parent_scores(last_rows[is_done])
    measured = _measured(rows, parent)
    by_line = measured.groupby(LINE, sort=False)
    train_flops = by_line["train_flops"].mean()
    lines = train_flops.reset_index()
    lines = lines.drop(columns="place")
    lines = lines.astype({"network": str, "candidates": "Int64"})
    has_count = lines["candidates"] > 0
    lines["candidates"] = lines["candidates"].where(has_count)
    compared = lines["network"].isin(COMPARED)
    for score in front.SCORES:
        accuracies = [values for _, values in by_line[score]]
        reached = _reached(accuracies, score)
        lines = lines.join(reached)
        name = _difference(score)
        differences = [values for _, values in by_line[name]]
        tests = _differences(differences, name, compared)
        lines = lines.join(tests)
    return lines


def _difference(score: str) -> str:
    """The column of a score's difference to that of the random network."""
    return score.replace("accuracy", "difference")


def _measured(rows: pd.DataFrame, parent: pd.DataFrame) -> pd.DataFrame:
    """`MEASURES` of the networks of each setting, a line for each seed, in the order of a table's
    lines; and differences to the random network of that seed, NaN for those not `COMPARED`.

    rows: as from `searches`.  parent: `MEASURES` by seed; its `candidates` are 0.
    """
    key = ["place", "seed"]
    seeds = rows[[*key, "algorithm", "setting"]]
    seeds = seeds.drop_duplicates()
    parents = seeds.join(parent, on="seed")
    parents = parents.assign(network="parent", candidates=0)
    own = _networks(rows)
    measured = pd.concat([parents, own])
    measured = measured.dropna(subset=MEASURES, how="all")
    network = pd.Categorical(measured["network"], NETWORKS)
    measured = measured.assign(network=network)
    measured = measured.sort_values([*LINE, "seed"])
    is_random = measured["network"] == "random"
    random = measured[is_random].set_index(key)
    random = random[front.SCORES].add_suffix("_random")
    measured = measured.join(random, on=key)
    compared = measured["network"].isin(COMPARED)
    for score in front.SCORES:
        other = measured[f"{score}_random"]
        difference = measured[score] - other
        name = _difference(score)
        measured[name] = difference.where(compared)
    return measured


def _networks(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of networks that are told of, one for each `LINE` and seed: the random one, those
    found at `front.marks`, and the worst of the most candidates.
    """
    pick = rows["pick"]
    counts = rows["hp_candidates"]
    alike = counts.groupby([rows["place"], pick])
    is_mark = alike.transform(front.is_mark)
    most = alike.transform("max")
    network = pd.Series("", index=rows.index)
    found = (pick == "best") & is_mark
    network[found] = "found"
    worst = (pick == "worst") & (counts == most)
    network[worst] = "worst"
    network[counts == 1] = "random"
    rows = rows.assign(network=network, candidates=counts)
    is_told = network != ""
    told = rows[is_told]
    key = [*LINE, "seed"]
    told = told.drop_duplicates(key)
    return told[[*key, *MEASURES]]


def _reached(accuracies: Sequence[pd.Series], score: str) -> pd.DataFrame:
    """n, mean, deviation and interval of an accuracy, a line for each network."""
    tests = paired.paired_groups(accuracies)
    lines = paired.columns(tests, score)
    return lines.drop(columns=f"{score}_p")


def _differences(
    differences: list[pd.Series], name: str, compared: pd.Series[bool]
) -> pd.DataFrame:
    """Tests of the differences to random, as from `paired.tested`; null where none is compared."""
    lines = paired.tested(differences, name)
    told = lines.where(compared)
    for end in (f"{name}_holm", f"{name}_equivalence"):  # these are NaN by themselves
        told[end] = lines[end]
    return told


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
    is_known = rows["m_winner"].notna()
    rows = rows[is_known]
    rows = rows.drop_duplicates([*SETTING, "seed", "m_winner"])
    by_setting = _ranked(rows).groupby("place")
    lines = rows.drop_duplicates("place")
    lines = lines[["algorithm", "setting"]]
    lines = lines.reset_index(drop=True)
    networks = by_setting["networks"].agg(["min", "max"])
    lines["networks_least"] = networks["min"].to_numpy()
    lines["networks_most"] = networks["max"].to_numpy()
    for score in front.SCORES:
        values = [correlations for _, correlations in by_setting[score]]
        name = score.replace("accuracy", "correlation")
        most = lines["networks_most"]
        tests = _correlations(values, most, name)
        lines = lines.join(tests)
    return lines


def _correlations(values: Sequence[pd.Series], networks: pd.Series, name: str) -> pd.DataFrame:
    """Tests of rank correlations over seeds, a line for each setting."""
    tests = paired.paired_groups(values)
    p_values = [test.p for test in tests]
    adjusted = paired.holm(p_values)
    verdicts = []
    for test, corrected, count in zip(tests, adjusted, networks, strict=True):
        verdict = _related(test, corrected, count)
        verdicts.append(verdict)
    lines = paired.columns(tests, name)
    for end in (f"{name}_low", f"{name}_high"):
        bounds = lines[end]
        lines[end] = bounds.clip(-1, 1)
    lines[f"{name}_holm"] = adjusted
    lines[f"{name}_verdict"] = verdicts
    return lines


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each seed of a setting: its `place`, how many `networks` there are, and over them
    the rank correlation of the score before training and each one after it.

    rows: as from `searches`, one for each network.
    """
    known = rows[["place", "seed", "m_score", *front.SCORES]]
    lines = []
    for (place, _), part in known.groupby(["place", "seed"]):
        line = {"place": place}
        line["networks"] = len(part)
        before = part["m_score"]
        for score in front.SCORES:
            after = part[score]
            line[score] = paired.rank_correlation(before, after)
        lines.append(line)
    return pd.DataFrame(lines)


def _related(test: paired.Paired, adjusted: float, networks: int) -> str:
    """The verdict on a rank correlation, of at most `networks` networks of a seed."""
    if networks < paired.FEWEST:
        return "inconclusive: too few distinct networks"
    if test.n == 0:
        return "undefined: score or accuracy does not vary"
    if math.isnan(test.p):
        return paired.undefined(test)
    if adjusted >= paired.LEVEL:
        return "inconclusive"
    return "negative" if test.mean < 0 else "positive"


def curves(last_rows: pd.DataFrame) -> pd.DataFrame:
    """Mean validation accuracy by (algorithm, setting, pick, candidates), and how many seeds are
    behind it.
    """
    rows = front.selectable(searches(last_rows))
    key = ["algorithm", "setting", "pick", "hp_candidates"]
    grouped = rows.groupby(key, sort=False)["accuracy_valid"]
    lines = grouped.agg(accuracy="mean", seeds="count").reset_index()
    return lines.rename(columns={"hp_candidates": "candidates"})


# ---- the chart


def chart(curves: pd.DataFrame, random: pd.DataFrame, study: str) -> Picture:
    """Mean validation accuracy against the number of candidates, a panel for each setting of a
    search.

    curves: as from `curves`.  random: the lines of `against_chance` whose network is `random`; its
    mean is a line, its interval a band.
    """
    settings = _several(curves)
    shown = settings.head(looks.PANELS)
    data = Data()
    panels = []
    for algorithm, setting in shown.itertuples(index=False):
        own = _of(curves, algorithm, setting)
        level = _of(random, algorithm, setting)
        panels.append(_panel(data, own, level, f"{algorithm}: {setting}"))
    least, most = int(curves["seeds"].min()), int(curves["seeds"].max())
    seeds = f"{most}" if least == most else f"{least} to {most}"
    said = [
        f"Mean over {seeds} seeds, validation data, an axis for each panel. "
        "Blue: the best of the first n; orange: the worst.",
        "Dotted, with its 95 % interval as a band: candidate 1, the random network.",
    ]
    if len(shown) < len(settings):
        said.append(f"Drawn: the first {len(shown)} of {len(settings)} settings.")
    title = alt.TitleParams(f"{study}: accuracy against candidates scored", subtitle=said)
    return looks.panelled(panels, data, title)


def _several(curves: pd.DataFrame) -> pd.DataFrame:
    """Algorithm and setting of each panel: a panel of one count shows nothing, if there are
    others.
    """
    key = ["algorithm", "setting"]
    counts = curves.groupby(key)["candidates"].transform("nunique")
    several = curves[counts > 1]
    shown = several if len(several) else curves
    return shown[key].drop_duplicates()


def _of(lines: pd.DataFrame, algorithm: str, setting: str) -> pd.DataFrame:
    same = lines["algorithm"] == algorithm
    same &= lines["setting"] == setting
    return lines[same]


def _panel(
    data: Data,
    curves: pd.DataFrame,
    random: pd.DataFrame,
    title: str,
) -> alt.LayerChart:
    level = random[["accuracy_valid", "accuracy_valid_low", "accuracy_valid_high"]]
    base = data.chart(level.set_axis(["accuracy", "low", "high"], axis=1))
    scale = alt.Scale(zero=False)
    percent = alt.Axis(format="~%", tickCount=5)
    y = alt.Y("accuracy:Q", scale=scale, axis=percent, title=None)
    low = alt.Y("low:Q", scale=scale, axis=percent, title=None)
    powers = [4**power for power in range(12)]
    x = alt.X(
        "candidates:Q",
        title="candidates",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=powers, format="~s"),
    )
    known = base.transform_filter("isValid(datum.low)")
    band = known.mark_rect(opacity=0.12, color=looks.TEXT)
    rule = base.mark_rule(opacity=0.6, strokeDash=looks.DOTTED, color=looks.TEXT)
    best = _line(data, curves, "best", looks.COLOURS[0], looks.SOLID)
    worst = _line(data, curves, "worst", looks.COLOURS[1], looks.DASHED)
    layers = [
        band.encode(low, alt.Y2("high:Q")),
        rule.encode(y),
        best.encode(x, y),
        worst.encode(x, y),
    ]
    head = looks.panel_title(title)
    return alt.LayerChart(layer=layers, width=200, height=150, title=head)


def _line(
    data: Data,
    curves: pd.DataFrame,
    pick: str,
    colour: str,
    dash: Sequence[int],
) -> alt.Chart:
    part = curves.loc[curves["pick"] == pick, ["candidates", "accuracy"]]
    rise, fall = part["accuracy"].diff(), part["accuracy"].diff(-1)
    flat = rise.eq(0) & fall.eq(0)  # adds nothing to the line
    marked = len(part) <= looks.FEW
    base = data.chart(part[~flat])
    return base.mark_line(
        strokeWidth=2,
        strokeDash=list(dash),
        color=colour,
        point=alt.OverlayMarkDef(color=colour) if marked else False,
    )


# ---- as text


@dataclasses.dataclass(frozen=True)
class Figures:
    """As from `against_chance` and `correlations`."""

    lines: pd.DataFrame
    correlations: pd.DataFrame


def figures(study: Study) -> Figures | None:
    lines = against_chance(study.last)
    if lines.empty:
        return None
    return Figures(lines, correlations(study.last))


def picture(study: Study, figures: Figures) -> Picture:
    is_random = figures.lines["network"] == "random"
    random = figures.lines[is_random]
    means = curves(study.last)
    return chart(means, random, study.name)


def table(_: Study, figures: Figures) -> pd.DataFrame:
    if figures.correlations.empty:
        return figures.lines
    return figures.lines.merge(
        figures.correlations,
        how="left",
        on=["algorithm", "setting"],
    )


def html(study: Study, figures: Figures, drawings: Drawings) -> Iterator[str]:
    margin = f"{100 * paired.MARGIN:g} percentage points"
    yield page.say(
        "Found: the best of the first n candidates by its score before training; random: candidate "
        "1; worst: the worst of n; parent: the dense network. Accuracies are of test data, which "
        "chose nothing here; differences are to the random network of the same seed, in percentage "
        "points. Intervals are 95 %, Student's t over seeds. In search.csv: full precision, and "
        "the same for validation data."
    )
    yield page.say(
        "Verdict: better or worse if the paired t test says so at 5 % after Holm's correction for "
        "all comparisons of this table; “by less than the margin” if the interval lies inside "
        f"± {margin}. Otherwise equivalent if two one-sided t tests both reject, at 5 % and "
        f"without correction, a difference of {margin} or more (the larger p is shown). Otherwise "
        "inconclusive."
    )
    lines, kinds = [], []
    told = figures.lines.duplicated(["algorithm", "setting"])
    for is_told, line in zip(told, page.records(figures.lines), strict=True):
        about = ["", ""] if is_told else [line["algorithm"], line["setting"]]
        lines.append([*about, *_cells(line)])
        kinds.append("" if is_told else "first")
    head = ["algorithm", "setting", "network", "train FLOPs", "n", "test accuracy %", "interval"]
    head += ["minus random", "interval", "p (Holm)", "p (equivalence)", "verdict"]
    yield page.grid(head, lines, kinds, "search")
    yield page.figure("search", drawings)
    yield from _correlated(figures.correlations)


def _cells(line: Mapping[str, Any]) -> list[str]:
    """One network of a search as text, from its name on."""
    low, high = line["accuracy_test_low"], line["accuracy_test_high"]
    compared = line["network"] in COMPARED
    return [
        f"{line['network']} of {line['candidates']}" if compared else line["network"],
        words.large(line["train_flops"]),
        str(line["accuracy_test_n"]),
        words.spread(line["accuracy_test"], line["accuracy_test_std"]),
        words.interval(low, high),
        *(_compared(line) if compared else [""] * 5),
    ]


def _compared(line: Mapping[str, Any]) -> list[str]:
    low, high = line["difference_test_low"], line["difference_test_high"]
    return [
        words.spread(line["difference_test"], line["difference_test_std"], "+z.2f"),
        words.interval(low, high, "+z.2f"),
        words.p(line["difference_test_holm"]),
        words.p(line["difference_test_equivalence"]),
        line["difference_test_verdict"],
    ]


def _correlated(correlations: pd.DataFrame) -> Iterator[str]:
    yield "<h3>Does the score before training tell the accuracy after it?</h3>\n"
    if correlations.empty:
        yield page.say(
            "The rows have no score before training (m_score) and no candidate's number "
            "(m_winner): not known."
        )
        return
    yield page.say(
        "Spearman's rank correlation of the untrained network's loss and the trained one's test "
        "accuracy, over the distinct networks of one setting and seed where there are at least "
        f"{paired.FEWEST}, then the mean over such seeds with its 95 % t interval. Negative: a "
        "lower loss before training goes with higher accuracy after it. The networks are candidate "
        "1 and those that were at some count the best (or, where asked for, the worst) so far: "
        "extremes of the score, not a sample of all candidates."
    )
    rows = [_correlation(line) for line in page.records(correlations)]
    yield page.grid(list(rows[0]), [list(row.values()) for row in rows], kind="search")


def _correlation(line: Mapping[str, Any]) -> dict[str, str]:
    networks = dict.fromkeys([line["networks_least"], line["networks_most"]])
    mean, deviation = line["correlation_test"], line["correlation_test_std"]
    low, high = line["correlation_test_low"], line["correlation_test_high"]
    return {
        "algorithm": line["algorithm"],
        "setting": line["setting"],
        "networks for each seed": " to ".join(map(str, networks)),
        "seeds": str(line["correlation_test_n"]),
        "rank correlation": words.spread(mean, deviation, "+z.2f", 1),
        "interval": words.interval(low, high, "+z.2f", 1),
        "p (Holm)": words.p(line["correlation_test_holm"]),
        "verdict": line["correlation_test_verdict"],
    }


SECTION = Section(
    name="search",
    title="Search against chance",
    columns=("hp_candidates",),
    figures=figures,
    html=html,
    charts={"search": picture},
    tables={"search": table},
)
