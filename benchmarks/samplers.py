"""Samplers: hypervolume against members, on problems with a known front and on the digits study,
through the driver.

Each problem is a study whose arms are samplers with several `sampler_seed`s, run with rounds of 16
and of 1. Prints the share of the true front's hypervolume (digits: of the front of all arms) with
95 % t intervals over the seeds, and what rounds of 16 lose against one at a time, paired by seed;
draws `samplers.png`. A folder that holds finished studies is not run again.

    python benchmarks/samplers.py --out runs/samplers
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

import problems
from prunefront.analysis.draw import looks, render
from prunefront.analysis.inference.paired import paired
from prunefront.analysis.points import front
from prunefront.analysis.rows import table
from prunefront.trainables.algorithms import find
from prunefront.trainables.domain import canonical
from prunefront.trainables.records.cohort import Cohort

LEARNING, BLIND = ("tpe", "nsga2", "gp"), ("random", "sobol")
BATCHES = (16, 1)
AT_ONCE = 2
"""Studies at a time: proposals are made in the driver, on one core."""
VARIABLES = 10
"""Variables that are searched; the others of a problem have their best value: few members could not
find it for 30.
"""
BEST = {"DTLZ2": 0.5}
"""Value of the variables behind the first where they are on the front, if it is not 0."""
STUDY = """
[study]
name = "{problem}-{batch}"
seeds = [0]
keep = "none"
max_cohort = 16
batch = {batch}
{goals}
[task]
{task}
rungs = 1
"""
DRIVER = """
import sys
from pathlib import Path
from prunefront.search.console import Console
from prunefront.search.drive.run import run
from prunefront.search.study.parse import read
sys.exit(run(read(Path(sys.argv[1])), Path(sys.argv[2]), Console()))
"""
"""As `prunefront run` does it but for the report, which takes longer than a problem of thousands of
members.
"""
ARM = """
[[arm]]
name = "{sampler} {seed}"
algorithm = "{algorithm}"
sampler = "{sampler}"
sampler_seed = {seed}
members = {members}
"""
DIGITS = {
    "task": "widths = [16]\nepochs = 10\nlr = 0.05",
    "algorithm": "magnitude",
    "goals": "",
    "space": "space.sparsity = { low = 0.3, high = 0.99 }\nspace.lr = { low = 1e-3, high = 1.0, log = true }\n"
    "space.weight_decay = { low = 1e-6, high = 1e-2, log = true }\n",
}


def settings(problem: str) -> Mapping[str, str]:
    """What the study of a problem is made of."""
    if problem == "digits":
        return DIGITS
    found: type[problems.Problem] = getattr(problems, problem)
    names, best = list(found.space), BEST.get(problem, 0.0)
    space = [f"space.{name} = {{ low = 0, high = 1 }}\n" for name in names[:VARIABLES]]
    measures = [f"m_f{k + 1}" for k in range(found.objectives)]
    return {
        "task": "widths = [1]\nepochs = 1",
        "algorithm": f"problems.{problem}",
        "goals": f"maximize = []\nminimize = {json.dumps(measures)}",
        "space": "".join([*space, *(f"space.{name} = {best}\n" for name in names[VARIABLES:])]),
    }


def written(
    folder: Path, problem: str, batch: int, members: int, seeds: int, samplers: Sequence[str]
) -> Path:
    """The study file of a problem. Samplers that learn nothing have no rounds, and are in the one
    with the largest alone.
    """
    about = settings(problem)
    text = STUDY.format(problem=problem, batch=batch, **about)
    names = [name for name in samplers if name in LEARNING or batch == max(BATCHES)]
    for sampler, seed in itertools.product(names, range(seeds)):
        text += ARM.format(sampler=sampler, seed=seed, members=members, **about) + about["space"]
    path = folder / f"{problem}-{batch}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def driven(study: Path) -> Path:
    """The output folder of a study, run, or carried on."""
    here, folder = Path(__file__).resolve().parent, study.with_suffix("")
    path = os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", DRIVER, str(study), str(folder)]
    with study.with_suffix(".log").open("w") as log:
        subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log, check=True
        )
    return folder


def measured(folder: Path, problem: str) -> pd.DataFrame:
    """The members in the order in which they were proposed (of a round: in which they were
    planned), and their objectives.

    Columns: sampler, seed (of the sampler), place, from 1 on in each arm, and objectives, all to be
    minimized.
    """
    space, places = find(settings(problem)["algorithm"]).space, dict[tuple[str, str], int]()
    counts: dict[str, int] = {}
    for path in sorted((folder / "plan").glob("cohorts-*.jsonl")):
        for cohort in map(Cohort.from_json, path.read_text().splitlines()):
            for member in cohort.members if cohort.algorithm else ():
                counts[cohort.arm] = counts.get(cohort.arm, 0) + 1
                places[cohort.arm, canonical(space, member.hp)] = counts[cohort.arm]
    rows = table.last(table.read(folder))
    arms = rows["arm"].str.split(" ", expand=True)
    found = pd.DataFrame({"sampler": arms[0], "seed": arms[1].astype(int)})
    found["place"] = [places[key] for key in zip(rows["arm"], rows["hp"], strict=True)]
    if problem == "digits":
        found["f1"], found["f2"] = (
            1 - rows["accuracy_valid"],
            rows["flops_masked"] / rows["flops_dense"],
        )
    else:
        for name in (name for name in rows if str(name).startswith("m_f")):
            found[str(name)[2:]] = rows[name]
    return found.sort_values(["sampler", "seed", "place"], ignore_index=True)


def curves(seen: pd.DataFrame, reference: Sequence[float], whole: float) -> pd.DataFrame:
    """Share of the hypervolume `whole` after each member of each arm: sampler, batch, seed, place,
    share.
    """
    lines: list[dict[str, Any]] = []
    names = [name for name in seen if str(name).startswith("f")]
    for (sampler, batch, seed), arm in seen.groupby(["sampler", "batch", "seed"]):
        points = arm[names].to_numpy(float)
        for count in range(1, len(points) + 1):
            volume = front.hypervolume(points[:count], reference, [False] * len(reference))
            lines.append(
                {
                    "sampler": sampler,
                    "batch": batch,
                    "seed": seed,
                    "place": count,
                    "share": volume / whole,
                }
            )
    return pd.DataFrame(lines)


def shares(problem: str, folders: Mapping[int, Path]) -> pd.DataFrame:
    """The curves of a problem. folders: of its studies, by batch."""
    seen = pd.concat(
        [measured(folder, problem).assign(batch=batch) for batch, folder in folders.items()]
    )
    if problem == "digits":
        reference = [1.0, 1.0]
        whole = front.hypervolume(seen[["f1", "f2"]], reference, [False, False])
    else:
        found: type[problems.Problem] = getattr(problems, problem)
        reference, whole = [problems.REFERENCE] * found.objectives, found.hypervolume()
    return curves(seen, reference, whole).assign(problem=problem)


def means(lines: pd.DataFrame) -> pd.DataFrame:
    """Mean share over the seeds, with its interval, for each problem, sampler, batch and place."""
    found = []
    for key, group in lines.groupby(["problem", "sampler", "batch", "place"]):
        each = paired(group["share"])
        found.append([*key, each.n, each.mean, each.low, each.high])
    return pd.DataFrame(
        found, columns=["problem", "sampler", "batch", "place", "n", "share", "low", "high"]
    )


def told(lines: pd.DataFrame, members: int) -> None:
    """Print the table, and what rounds lose."""
    found = means(lines)
    print(
        "share of the hypervolume %, mean and 95 % t interval over sampler seeds, after so many members"
    )
    for (problem, sampler, batch), group in found.groupby(["problem", "sampler", "batch"]):
        here = group.set_index("place").loc[sorted({16, 32, members} & set(group["place"]))]
        cells = (
            f"{place}: {percent(line.share, line.low, line.high)}"
            for place, line in here.iterrows()
        )
        print(
            f"{problem:7s} {sampler:7s} rounds of {batch:2d}, n = {group['n'].iloc[0]}: {'; '.join(cells)}"
        )
    print(
        f"one at a time minus rounds of 16, after {members} members, percentage points, paired by sampler seed"
    )
    last = lines[(lines["place"] == members) & lines["sampler"].isin(LEARNING)]
    for (problem, sampler), group in last.groupby(["problem", "sampler"]):
        by_seed = group.pivot(index="seed", columns="batch", values="share")
        if len(by_seed.columns) == len(BATCHES):
            lost = paired(by_seed[min(BATCHES)] - by_seed[max(BATCHES)])
            print(
                f"{problem:7s} {sampler:7s} {percent(lost.mean, lost.low, lost.high)}, n = {lost.n}"
            )


def percent(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:5.1f} ({100 * low:.1f} to {100 * high:.1f})"


def picture(lines: pd.DataFrame) -> render.Picture:
    """Mean share against members, a panel for each problem; dashed: one at a time."""
    found = means(lines)
    names = [name for name in (*BLIND, *LEARNING) if name in set(found["sampler"])]
    colour = alt.Color(
        "sampler:N",
        scale=alt.Scale(domain=names, range=list(looks.COLOURS[: len(names)])),
        title=None,
    )
    panels = []
    for problem, group in found.groupby("problem", sort=False):
        base = alt.Chart(alt.Data(values=json.loads(group.to_json(orient="records"))))
        x = alt.X("place:Q", title="members")
        y = alt.Y(
            "share:Q", scale=alt.Scale(zero=False), axis=alt.Axis(format="~%"), title="hypervolume"
        )
        dashes = alt.StrokeDash(
            "batch:N",
            scale=alt.Scale(domain=list(BATCHES), range=[[1, 0], [4, 3]]),
            title="rounds of",
        )
        line = base.mark_line(strokeWidth=2).encode(x, y, colour, dashes)
        band = base.transform_filter(f"datum.batch == {max(BATCHES)}").mark_area(opacity=0.12)
        panels.append(
            alt.LayerChart(
                layer=[band.encode(x, alt.Y("low:Q", title="hypervolume"), alt.Y2("high:Q"), colour), line],
                width=320, height=220, title=str(problem),
            )
        )  # fmt: skip
    said = [f"Mean over {found['n'].max()} sampler seeds; bands (rounds of 16): 95 % t interval."]
    title = alt.TitleParams("Share of the front's hypervolume against members", subtitle=said)
    return alt.ConcatChart(concat=panels, columns=3, title=title).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/samplers"))
    parser.add_argument(
        "--problems", nargs="+", default=["ZDT1", "ZDT2", "ZDT3", "DTLZ2", "digits"]
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--members", type=int, default=48)
    parser.add_argument("--samplers", nargs="+", default=[*BLIND, *LEARNING])
    given = parser.parse_args()
    pairs: list[tuple[str, int]] = [
        (problem, batch) for problem in given.problems for batch in BATCHES
    ]
    studies = [
        written(given.out, problem, batch, given.members, given.seeds, given.samplers)
        for problem, batch in pairs
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        folders = dict(zip(pairs, pool.map(driven, studies), strict=True))
    lines = pd.concat(
        [
            shares(name, {batch: folders[name, batch] for batch in BATCHES})
            for name in given.problems
        ]
    )
    told(lines, given.members)
    (given.out / "samplers.png").write_bytes(render.png(render.svg(picture(lines))))


if __name__ == "__main__":
    main()
