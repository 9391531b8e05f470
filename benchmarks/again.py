"""Weedout throughout training, from wider parents, and after some training, against chance.

    python benchmarks/again.py [--part again] [--seeds 20] [--candidates 256] [--pictures docs/pictures]

Digits, 64-32-10 trained for 40 epochs, differences of test accuracy in points, paired by seed: 95 %
t interval, p with Holm's correction over the table, and p of the equivalence test (margin 0.5).

again: as many evaluations as a single search has, spread over training; minus that single search.
With one candidate each time, a new random mask (not drawn); minus a single one.
width: parents of 0.5 to 4 times the width, as many nodes kept of each; found minus random.
warmup: dense training before the search, out of the budget; found minus random.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd
import torch

from prunefront.analysis.draw import looks, render
from prunefront.analysis.inference import paired
from prunefront.trainables.algorithms import find
from prunefront.trainables.contract import Member
from prunefront.trainables.domain import complete
from prunefront.trainables.measure.members import measure
from prunefront.trainables.task import Task

MARGIN = 0.5
NODES = 32
KEPT = 6
"""Hidden nodes that are kept of any parent: all that is left has one size."""
WIDTHS = (0.5, 1.0, 2.0, 4.0)
WARMUPS = (0.0, 1 / 80, 1 / 20, 1 / 5)
"""Shares of the budget: 0, 0.5, 2 and 8 of 40 epochs."""
SEARCHES = 8
HEIGHT = 24
"""Pixels of a line of a picture."""
Setting = Mapping[str, Any]


class Line(NamedTuple):
    """One line of a table: what it is of, its accuracies and those that they are compared with, in
    % by seed, and words beside them.  control: too far from the others to be drawn with them.
    """

    name: str
    measured: np.ndarray
    reference: np.ndarray
    beside: str = ""
    control: bool = False


def rows_of(task: Task, settings: Sequence[Setting], seeds: int) -> list[list[dict[str, Any]]]:
    """The last rows of each setting, by seed; all settings in one cohort."""
    algorithm = find("weedout")
    members: list[Member] = []
    for hp in settings:
        for seed in range(seeds):
            members.append(Member(complete(algorithm.space, hp), seed))
    for member in members:
        algorithm.check(task, member.hp)
    parent = algorithm.parent(task, members[0].hp)
    state = algorithm.advance(parent, algorithm.start(parent, members))
    rows = measure(parent, algorithm, state, True, task.counts)
    return [rows[first : first + seeds] for first in range(0, len(rows), seeds)]


def accuracies(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    return 100 * np.array([row["accuracy_test"] for row in rows])


def throughout(task: Task, seeds: int, candidates: int) -> list[Line]:
    """Searches spread over training, against one with as many evaluations before it; and a new
    random mask each time, against one.
    """
    again = float(task.epochs) / SEARCHES
    each = candidates // SEARCHES
    lines: list[Line] = []
    for kept in (0.2, 0.1):
        for granularity, strategy, once, count in (
            ("node", "random", candidates, each),
            ("node", "climb", candidates, each),
            ("weight", "random", candidates, each),
            ("weight", "climb", candidates, each),
            ("node", "random", 1, 1),
        ):
            hp = {"sparsity": 1 - kept, "granularity": granularity, "strategy": strategy}
            (single,) = rows_of(task, [{**hp, "candidates": once}], seeds)
            (rows,) = rows_of(task, [{**hp, "candidates": count, "again": again}], seeds)
            is_chance = count == 1
            how = "a new random mask" if is_chance else f"{count}, {strategy}"
            name = f"{SEARCHES} x {how}, {granularity}s, {100 * kept:.0f} % kept"
            pair = accuracies(rows), accuracies(single)
            lines.append(Line(name, *pair, changes(rows), control=is_chance))
    return lines


def changes(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often masks became others, the mean over seeds."""
    return f"{np.mean([row['m_changes'] for row in rows]):.2f}"


def wider(task: Task, seeds: int, candidates: int) -> list[Line]:
    """Found and random from parents of several widths, as many nodes kept of each."""
    lines: list[Line] = []
    for width in WIDTHS:
        hp = {"width": width, "sparsity": 1 - KEPT / (NODES * width)}
        both = [{**hp, "candidates": count} for count in (1, candidates)]
        random, found = rows_of(task, both, seeds)
        sizes = {row["params_shrunk"] for row in random + found}
        name = f"{width:g}"
        beside = f"{NODES * width:g} -> {KEPT} nodes, {sizes.pop()} parameters"
        assert not sizes, "all are of one size"
        lines.append(Line(name, accuracies(found), accuracies(random), beside))
    return lines


def warmer(task: Task, seeds: int, candidates: int) -> list[Line]:
    """Found and random after some dense training."""
    lines: list[Line] = []
    for share in WARMUPS:
        steps = round(share * task.steps)
        hp = {"warmup": steps, "sparsity": 1 - KEPT / NODES}
        both = [{**hp, "candidates": count} for count in (1, candidates)]
        random, found = rows_of(task, both, seeds)
        name = f"{share * task.epochs:g}"
        lines.append(Line(name, accuracies(found), accuracies(random), f"{steps} steps"))
    return lines


class Part(NamedTuple):
    """What is measured, and how it is told: the heads of columns (the first, the difference, the
    last), and the picture's title and axis.
    """

    lines: Any
    heads: tuple[str, str, str]
    title: str
    axis: str


PARTS = {
    "again": Part(
        throughout,
        ("searches", "minus a single search", "changes of the mask"),
        "Searching throughout training, against one search before it",
        "minus a single search, points",
    ),
    "width": Part(
        wider,
        ("width of the parent", "found - random", "what is kept"),
        "Over-parameterisation: the best candidate against a random one",
        "found - random, points",
    ),
    "warmup": Part(
        warmer,
        ("epochs before the search", "found - random", "of them"),
        "Limited training: the best candidate against a random one",
        "found - random, points",
    ),
}


def table(part: Part, lines: Sequence[Line]) -> pd.DataFrame:
    """Print the table; what of it is drawn."""
    differences = [line.measured - line.reference for line in lines]
    tests = paired.paired_groups(differences)
    adjusted = paired.holm([test.p for test in tests])
    equivalent = paired.equivalence_groups(differences, MARGIN)
    first, difference, beside = part.heads
    heads = (first, "accuracy, %", f"{difference} (95 %)", "p (Holm)", "p of equivalence", beside)
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    drawn: list[dict[str, Any]] = []
    for line, test, p, same in zip(lines, tests, adjusted, equivalent, strict=True):
        interval = f"{test.mean:+.2f} ({test.low:.2f} to {test.high:.2f})"
        mean = line.measured.mean()
        print(f"| {line.name} | {mean:.2f} | {interval} | {p:.3f} | {same:.3f} | {line.beside} |")
        if line.control:
            continue
        drawn.append({"name": line.name, "mean": test.mean, "low": test.low, "high": test.high})
    return pd.DataFrame(drawn)


def picture(part: Part, drawn: pd.DataFrame, seeds: int) -> str:
    """The differences with their intervals, and the margin, as SVG."""
    data = looks.Data()
    base = data.chart(drawn)
    shown = alt.Axis(labelLimit=400)
    y = alt.Y("name:N", sort=None, title=part.heads[0], axis=shown)
    x = alt.X("mean:Q", title=part.axis)
    margin = looks.one_mark().mark_rect(opacity=0.15, color=looks.COLOURS[6])
    zero = looks.one_mark().mark_rule(strokeDash=looks.DASHED, **looks.FAINT)
    bar = base.mark_rule(strokeWidth=2, color=looks.COLOURS[0])
    point = base.mark_point(size=60, filled=True, color=looks.COLOURS[0])
    layers = [
        margin.encode(alt.X(datum=-MARGIN), alt.X2(datum=MARGIN)),
        zero.encode(alt.X(datum=0)),
        bar.encode(y, alt.X("low:Q", title=part.axis), alt.X2("high:Q")),
        point.encode(y, x),
    ]
    said = f"Test accuracy on digits, {seeds} seeds, 95 % intervals; grey: half a point either way."
    title = alt.TitleParams(part.title, subtitle=said)
    return render.paper(render.svg(looks.layered(layers, data, title, HEIGHT * len(drawn))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=list(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--candidates", type=int, default=256)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--pictures", type=Path, help="a folder for weedout_<part>.svg")
    given = parser.parse_args()
    torch.set_num_threads(1)
    task = Task(model_options={"widths": [NODES]}, epochs=given.epochs, rungs=1)
    for name in given.part:
        part = PARTS[name]
        begun = time.perf_counter()
        lines = part.lines(task, given.seeds, given.candidates)
        print(f"\n{name}: {time.perf_counter() - begun:.0f} s, {given.seeds} seeds")
        drawn = table(part, lines)
        if given.pictures:
            drawing = picture(part, drawn, given.seeds)
            (given.pictures / f"weedout_{name}.svg").write_text(drawing + "\n")


if __name__ == "__main__":
    main()
