"""The command line: prunefront run | report | compare | pick | show | export | algorithms | doctor."""

from __future__ import annotations

import io
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ..analysis.mistake import Mistake, Wrong
from ..analysis.storage import Location, locate
from . import BAD_INPUT, FAILED, INTERNAL, INTERRUPTED, WRONG

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=(
    "Searches for small, accurate neural networks: a study file goes in, a table of measured networks and fronts of "
    "accuracy against FLOPs come out."))  # fmt: skip


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file, TOML.")],
    out: Annotated[
        str | None, typer.Option(help="The output folder or its URI (s3://bucket/runs); default runs/<name of the study>.")
    ] = None,
    max_cohort: Annotated[int | None, typer.Option(help="Members trained together at most.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="study.KEY=VALUE or task.KEY=VALUE, over the file's.")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Then time the front's shrunk networks on this machine.")] = False,
    address: Annotated[str | None, typer.Option(help="A Ray cluster to join: HOST:PORT of its head, or auto.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Join a cluster that lets in anybody.")] = False,
) -> None:
    """Do a study, or what is left of it, and report on it."""
    os.environ["RAY_AUTH_MODE"] = "disabled" if insecure else "token"  # before a user's own module imports Ray
    from . import latency as latencies
    from . import study as studies
    from .run import run as drive

    settings = [*(set_ or []), *([f"study.max_cohort={max_cohort}"] if max_cohort is not None else [])]
    read = studies.read(study, settings)
    folder = locate(out or Path("runs") / read.about.name)
    if latency:
        latencies.check(read)
    console = Console()
    code = drive(read, folder, console, address, insecure)
    if code == FAILED:
        console.print("some members failed (`reason` in their rows); the same command tries them again", soft_wrap=True)
    if code != INTERRUPTED:
        if latency:
            latencies.measure(read, folder, console)
        try:
            _report(folder, console)
        except Mistake as error:  # every member failed or diverged
            console.print(f"no report: {error}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")],
    published: Annotated[Path | None, typer.Option(help="A CSV file of published points, drawn faintly beside.")] = None,
) -> None:
    """Write the report of what has been measured so far, and print the front."""
    _report(locate(folder), Console(), published)


@app.command()
def compare(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Output folders of studies, or their URIs.")],
    baseline: Annotated[
        str | None, typer.Option(help='The arm to compare with ("study: arm" of several studies); default a control.')
    ] = None,
    at: Annotated[
        list[float] | None, typer.Option(help="FLOPs to compare at; default five levels in the common range.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="The folder for compare.csv, .md, .svg and .png; default DIR/report.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Compare studies of other data, split, model or task too.")] = False,
) -> None:
    """Compare arms at equal FLOPs, paired by seed, with intervals and tests."""
    from ..analysis import verdicts

    places, console = list(map(locate, folders)), Console()
    target = locate(out) if out is not None else places[0] / "report"
    try:
        found = verdicts.build(places, baseline, at or (), anyway)
        verdicts.write(found, target)
    except OSError as error:
        raise Mistake(f"{error.filename or target}: can be read, or written to; got: {error.strerror}") from error
    for cost, lines in found.lines.groupby("cost", sort=False):
        table = Table(title=f"against {found.baseline}. {verdicts.title(str(cost))}", title_justify="left", box=box.SIMPLE_HEAD)
        for name in _COMPARED:
            table.add_column(name, justify="left" if name in ("arm", "verdict") else "right")
        for line in map(verdicts.texts, lines.to_dict("records")):
            table.add_row(*(line[name] for name in _COMPARED))
        console.print(table)
    for caution in found.cautions:
        console.print(caution, highlight=False, markup=False, soft_wrap=True)
    console.print(f"comparison: {target / 'compare.md'}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def pick(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")],
    max_flops: Annotated[float | None, typer.Option(help="The most accurate one of at most so many FLOPs.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="The cheapest one of at least this validation accuracy.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The one at the knee of the front.")] = False,
    cost: Annotated[str, typer.Option(help="The FLOPs meant: shrunk, of the file, or masked.")] = "shrunk",
    out: Annotated[
        str | None, typer.Option(help="The folder or URI to export to; default DIR/picked/<member>.", metavar="FOLDER")
    ] = None,
) -> None:
    """Choose one network of the front on validation data, and export it: safetensors, JSON, ONNX."""
    from ..analysis import pick as picking
    from ..analysis import table
    from .pick import pick as take
    from .study import at

    if cost not in picking.COSTS:
        raise Mistake(f"--cost: is {' or '.join(picking.COSTS)}; got {cost}")
    place, target = locate(folder), None if out is None else locate(out)
    last = table.last(table.current(place, table.read(place)))
    with at(place):
        chosen = picking.pick(last, picking.COSTS[cost], max_flops, min_accuracy, knee)
    raise typer.Exit(take(place, chosen, target, Console()))


@app.command()
def show(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")],
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="A member's name, or how it begins.")],
) -> None:
    """Tell the story of one network: hyper-parameters, rungs, cost, and what is left of each layer."""
    from .show import show as tell

    tell(locate(folder), member, Console())


@app.command()
def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="An Optuna storage: sqlite:///FILE.db, or a path ending in .log.")],
) -> None:
    """Write what has been measured into an Optuna storage, for optuna-dashboard."""
    from ..analysis.goals import recorded
    from .optuna_export import export as write

    place = locate(folder)
    for name in write(place, url, recorded(place)):
        Console().print(f"exported {name}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def algorithms() -> None:
    """List the algorithms, each with its source and its hyper-parameters."""
    from ..trainables.algorithms import known

    console = Console()
    for name, algorithm in known().items():
        console.print(f"[bold]{name}[/bold]{'  (control)' if algorithm.control else ''}\n  {algorithm.source}", highlight=False)
        for key, domain in algorithm.space.items():
            what = ", ".join(domain.choices) if domain.choices else f"{domain.kind} in {domain.range}"
            default = "" if domain.default is None else f"; default {domain.default}"
            marks = "".join(f"; {mark}" for mark in ("static", "tunable") if getattr(domain, mark))
            console.print(f"    {key}: {domain.about}; {what}{default}{marks}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def doctor(
    data: Annotated[Path | None, typer.Option(help="A folder with data sets, beside that of PRUNEFRONT_DATA.")] = None,
) -> None:
    """Say whether a study will run here, which data sets there are, and what to do about what is missing."""
    from .doctor import examine

    if data is not None and not data.is_dir():
        raise Mistake(f"--data: is a folder; got {data}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show is no reason to stop
    raise typer.Exit(examine(Console(), data))


_COLUMNS = {
    "n": "n",
    "valid. accuracy %": "valid %",
    "test accuracy %": "test %",
    "FLOPs shrunk": "shrunk",
    "FLOPs masked": "masked",
    "any hardware": "speed-up",
    "front": "front",
}
"""What a terminal has room for beside arm and setting, of the report's columns."""


_COMPARED = ("arm", "FLOPs", "n", "test %", "difference", "95 % interval", "p (Holm)", "could show", "verdict")
"""What a terminal has room for of a comparison's columns."""


def _report(folder: Location, console: Console, published: Path | None = None) -> None:
    from ..analysis import report

    try:
        page = report.build(folder, published)
        head, *lines = report.front_table(folder)
        cautions = report.cautions(folder)
    except OSError as error:
        raise Mistake(f"{folder}: rows can be read and the report written there; got: {error.strerror}") from error
    table = Table(
        title="the fronts: mean validation accuracy against FLOPs, shrunk (the file's) and masked",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("arm: setting")
    for short in _COLUMNS.values():
        table.add_column(short, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(f"{line[0]}: {line[1]}", *(line[head.index(name)] for name in _COLUMNS))
    console.print(table)
    for caution in cautions:
        console.print(caution, highlight=False, markup=False, soft_wrap=True)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)


def main() -> None:
    """The console script. A user's mistake ends with one sentence and exit 2, a fault of ours with a traceback and 70."""
    sys.path.insert(0, os.getcwd())  # a user's own model, data set or algorithm, as `python -m` would find it
    try:
        app()
    except Mistake as error:
        print(f"prunefront: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except Wrong as error:
        print(f"prunefront: {error}", file=sys.stderr)
        sys.exit(WRONG)
    except OSError as error:  # a disk that is full, a store that does not answer
        print(f"prunefront: {error.filename or ''}: {error.strerror or error}; the same command goes on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        print("prunefront: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception:
        traceback.print_exc()
        print(f"prunefront: {_OURS}", file=sys.stderr)
        sys.exit(INTERNAL)


_OURS = (
    "this is a fault of prunefront, not of your input; what was measured is kept, and the same command goes on; "
    "please report the lines above"
)
