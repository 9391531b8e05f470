"""The command line: prunefront run, report, compare, pick, show, export, algorithms, doctor."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..analysis.rows import rundir
from ..analysis.rows.mistake import Mistake, Wrong
from ..analysis.rows.storage import Location, locate
from ..trainables.own import own_last
from . import BAD_INPUT, FAILED, INTERNAL, INTERRUPTED, WRONG
from .console import Console, columns, complain
from .drive import interrupts

if TYPE_CHECKING:
    from ..trainables.domain import Domain
    from .study.schema import Study

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=(
    "Searches for small, accurate neural networks: a study file goes in, a table of measured "
    "networks and fronts of accuracy against FLOPs come out."))  # fmt: skip


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file, TOML.")],
    out: Annotated[
        str | None,
        typer.Option(
            help="The output folder or its URI (s3://bucket/runs); default runs/<study's name>."
        ),
    ] = None,
    max_cohort: Annotated[
        int | None, typer.Option(help="Members trained together at most.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="study.KEY=VALUE or task.KEY=VALUE, over the file's."),
    ] = None,
    latency: Annotated[
        bool,
        typer.Option("--latency", help="Then time the front's shrunk networks on this machine."),
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster to join: HOST:PORT of its head, or auto.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Join a cluster that lets in anybody.")
    ] = False,
) -> None:
    """Do a study, or what is left of it, and report on it."""
    os.environ["RAY_AUTH_MODE"] = (
        "disabled" if insecure else "token"
    )  # before a user's own module imports Ray
    from .drive import early

    settings = list(set_ or [])
    if max_cohort is not None:
        settings.append(f"study.max_cohort={max_cohort}")
    console = Console()
    own = address is None and not insecure
    with early.started(study, out) if own else contextlib.nullcontext() as started:
        from .drive.swept import run as drive
        from .study import parse, swept

        studies = parse.read_swept(study, settings)
        folder = locate(out or Path("runs") / swept.named(studies))
        if latency:
            from .tools import latency as latencies

            for one in studies.values():
                latencies.check(one)
        code = drive(
            studies,
            folder,
            console,
            address,
            insecure,
            started,
        )
    if code == FAILED:
        console.say(
            "some members failed (`reason` in their rows); the same command tries them again"
        )
    if code != INTERRUPTED:
        for value, one in studies.items():
            _finish(one, swept.place(folder, value), console, latency)
        if "" not in studies:
            _say_across(folder, console)
    raise typer.Exit(code)


def _finish(study: Study, folder: Location, console: Console, latency: bool) -> None:
    """Time and report on a study that is done."""
    from ..analysis.report import Incomplete

    if latency:
        from .tools import latency as latencies

        latencies.measure(study, folder, console)
    try:
        _report(folder, console)
    except typer.Exit:  # a package's own section failed, as was said
        pass
    except Mistake as error:  # every member failed or diverged
        console.say(f"no report: {error}")
    except Incomplete:  # the study is done all the same
        complain(traceback.format_exc())


@app.command()
def report(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")
    ],
    published: Annotated[
        Path | None, typer.Option(help="A CSV file of published points, drawn faintly beside.")
    ] = None,
) -> None:
    """Write the report of what has been measured so far, and print the front."""
    from ..analysis.rows import swept

    place, console = locate(folder), Console()
    studies = swept.studies(place)
    if not studies:
        _report(place, console, published)
        return
    for study in studies.values():
        if study.is_dir():
            _report(study, console, published)
    _say_across(place, console)


def _say_across(folder: Location, console: Console) -> None:
    """Write, and print, what pruning changes at each value of [task] that was swept."""
    from ..analysis.inference import across

    try:
        lines, target = across.write(folder)
    except Mistake as error:  # a value without a parent
        console.say(f"values are not compared: {error}")
        return
    grid = columns(_ACROSS, left=_ACROSS[:1])
    for line in lines.head(_LINES).to_dict("records"):
        texts = across.texts(line)
        grid.add_row(*(texts[name] for name in _ACROSS))
    console.grid("what pruning changes at each value, in points of test accuracy", grid)
    if len(lines) > _LINES:
        console.say(f"... and {len(lines) - _LINES} lines more")
    console.say(f"across values: {target / 'across.md'}")


@app.command()
def compare(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="DIR...", help="Output folders of studies, or their URIs."),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(
            help='The arm to compare with ("study: arm" of several studies); default a control.'
        ),
    ] = None,
    at: Annotated[
        list[float] | None,
        typer.Option(help="FLOPs to compare at; default five levels in the common range."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="The folder for compare.csv, .md, .svg and .png; default DIR/report."),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Compare studies of other data, split, model or task too."),
    ] = False,
) -> None:
    """Compare arms at equal FLOPs, paired by seed, with intervals and tests."""
    from ..analysis.draw import render
    from ..analysis.inference import verdicts

    places, console = list(map(locate, folders)), Console()
    target = locate(out) if out is not None else rundir.report(places[0])
    try:
        found = verdicts.build(places, baseline, at or (), anyway)
        verdicts.write(found, target)
    except OSError as error:
        raise Mistake(
            f"{error.filename or target}: can be read, or written to; got: {error.strerror}"
        ) from error
    for cost, lines in found.lines.groupby("cost", sort=False):
        grid = columns(_COMPARED, left=("arm", "verdict"))
        for line in map(verdicts.texts, lines.to_dict("records")):
            grid.add_row(*(line[name] for name in _COMPARED))
        console.grid(f"against {found.baseline}. {verdicts.title(str(cost))}", grid)
    for caution in found.cautions:
        console.say(caution)
    if why := render.hindrance():
        console.say(f"without a picture: {why}")
    console.say(f"comparison: {target / 'compare.md'}")


@app.command()
def pick(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")
    ],
    max_flops: Annotated[
        float | None, typer.Option(help="The most accurate one of at most so many FLOPs.")
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="The cheapest one of at least this validation accuracy.")
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The one at the knee of the front.")] = False,
    cost: Annotated[
        str, typer.Option(help="The FLOPs meant: shrunk, of the file, or masked.")
    ] = "shrunk",
    out: Annotated[
        str | None,
        typer.Option(
            help="The folder or URI to export to; default DIR/picked/<member>.", metavar="FOLDER"
        ),
    ] = None,
) -> None:
    """Choose one network of the front on validation data; export safetensors, JSON, ONNX."""
    from ..analysis import pick as picking
    from ..analysis.rows import table
    from .study.schema import at
    from .tools.pick import pick as take

    if cost not in picking.COSTS:
        raise Mistake(f"--cost: is {' or '.join(picking.COSTS)}; got {cost}")
    place, target = locate(folder), None if out is None else locate(out)
    last = table.last(table.current(place, table.read(place)))
    with at(place):
        chosen = picking.pick(
            last,
            picking.COSTS[cost],
            max_flops,
            min_accuracy,
            knee,
        )
    raise typer.Exit(take(place, chosen, target, Console()))


@app.command()
def show(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")
    ],
    member: Annotated[
        str, typer.Argument(metavar="MEMBER", help="A member's name, or how it begins.")
    ],
) -> None:
    """Tell the story of one network: hyper-parameters, rungs, cost, what is left of each layer."""
    from .tools.show import show as tell

    tell(locate(folder), member, Console())


@app.command()
def export(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="A study's output folder, or its URI.")
    ],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="An Optuna storage: sqlite:///FILE.db, or a path ending in .log."
        ),
    ],
) -> None:
    """Write what has been measured into an Optuna storage, for optuna-dashboard."""
    from ..analysis.rows.goals import recorded
    from .tools.export import export as write

    place = locate(folder)
    for name in write(place, url, recorded(place)):
        Console().say(f"exported {name}")


@app.command()
def algorithms() -> None:
    """List the algorithms, each with its source and its hyper-parameters."""
    from ..trainables.algorithms import known

    console = Console()
    for name, algorithm in known().items():
        end = "  (control)\n" if algorithm.control else "\n"
        console.print(name, style="bold", end=end, soft_wrap=True)
        console.say(f"  {algorithm.source}")
        for key, domain in algorithm.space.items():
            console.say(f"    {key}: {_described(domain)}")


def _described(domain: Domain) -> str:
    """What a hyper-parameter is, which values it may have, and how it may change."""
    values = ", ".join(domain.choices) or f"{domain.kind} in {domain.range}"
    words = [domain.about, values]
    if domain.default is not None:
        words.append(f"default {domain.default}")
    if domain.static:
        words.append("static")
    if domain.tunable:
        words.append("tunable")
    return "; ".join(words)


@app.command()
def doctor(
    data: Annotated[
        Path | None, typer.Option(help="A folder with data sets, beside that of PRUNEFRONT_DATA.")
    ] = None,
) -> None:
    """Say whether a study will run here, which data sets there are, and what to do about what is
    missing.
    """
    from .tools.doctor import examine

    if data is not None and not data.is_dir():
        raise Mistake(f"--data: is a folder; got {data}")
    raise typer.Exit(examine(Console(), data))


_COLUMNS = {
    "n": "n",
    "valid. accuracy %": "valid %",
    "test accuracy %": "test %",
    "FLOPs shrunk": "shrunk",
    "FLOPs masked": "masked",
}
"""What a terminal of 80 columns has room for beside arm and setting, of the report's columns."""
_ON_FRONT = {"FLOPs shrunk": ("shrunk", "both"), "FLOPs masked": ("masked", "both")}
"""Column -> what the report's column `front` says where a point is on the front by these FLOPs."""
_MARK = "*"
_PICTURE_COLUMNS = 80
_ACROSS = (
    "arm: setting",
    "value",
    "FLOPs %",
    "minus parent",
    "95 % interval",
    "change",
    "p (Holm)",
)
"""What a terminal has room for of a comparison across values of the task."""
_LINES = 40
"""Of a table across values that a terminal has room for."""


_COMPARED = (
    "arm",
    "FLOPs",
    "n",
    "test %",
    "difference",
    "95 % interval",
    "p (Holm)",
    "could show",
    "verdict",
)
"""What a terminal has room for of a comparison's columns."""


def _report(folder: Location, console: Console, published: Path | None = None) -> None:
    from ..analysis import report
    from ..analysis.draw import render
    from ..analysis.rows.mistake import raised

    incomplete = None
    try:
        study = report.open_study(folder, published)
        try:
            page = report.build(study)
        except report.Incomplete as error:
            incomplete, page = error, error.page
        _say_fronts(report.front_table(study), console)
        _draw_front(folder, console)
        cautions = report.cautions(study)
    except OSError as error:
        rule = "rows can be read and the report written there"
        raise Mistake(f"{folder}: {rule}; got: {error.strerror}") from error
    for caution in cautions:
        console.say(caution)
    if why := render.hindrance():
        console.say(f"the report has no pictures: {why}")
    console.say(f"report: {page}")
    if incomplete is not None:
        for error in incomplete.exceptions:
            notes = "; ".join(error.__notes__)
            console.say(f"the report lacks a part, {notes}: {raised(error)}")
        if incomplete.ours:
            raise incomplete
        complain(f"prunefront: {incomplete.message}")
        raise typer.Exit(FAILED)


def _say_fronts(fronts: list[list[str]], console: Console) -> None:
    """Print the table of points on a front, as the report has it."""
    head, *lines = fronts
    headings = ["arm: setting", *_COLUMNS.values()]
    grid = columns(headings, left=("arm: setting",))
    for line in lines:
        point = dict(zip(head, line, strict=True))
        arm, setting, *_ = line
        cells: list[str] = []
        for name in _COLUMNS:
            mark = _mark(name, point["front"])
            cells.append(point[name] + mark)
        grid.add_row(f"{arm}: {setting}", *cells)
    axes = "mean validation accuracy, FLOPs shrunk (the file's) and masked"
    console.grid(f"the fronts ({_MARK}): {axes}", grid)


def _mark(column: str, front: str) -> str:
    """What marks a point that is on the front by these FLOPs; as wide where it is not."""
    if column not in _ON_FRONT:
        return ""
    return _MARK if front in _ON_FRONT[column] else " "


def _draw_front(folder: Location, console: Console) -> None:
    from . import terminal

    width = min(console.width, _PICTURE_COLUMNS)
    lines = terminal.picture(terminal.points(folder), width, console.encoding)
    if lines:
        console.say("validation accuracy in % against shrunk FLOPs; dots: the front")
    for line in lines:
        console.say(line)
    if lines:
        console.say("")


def main() -> None:
    """The console script. A user's mistake ends with one sentence and exit 2, a fault of ours with
    a traceback and 70.
    """
    with interrupts.bounded():
        _main()


def _main() -> None:
    own_last(os.getcwd())
    try:
        app()
    except Mistake as error:
        complain(f"prunefront: {error}")
        sys.exit(BAD_INPUT)
    except Wrong as error:
        complain(f"prunefront: {error}")
        sys.exit(WRONG)
    except OSError as error:  # a disk that is full, a store that does not answer
        what = f"{error.filename or ''}: {error.strerror or error}"
        complain(f"prunefront: {what}; the same command goes on")
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        complain("prunefront: interrupted; the same command goes on")
        sys.exit(INTERRUPTED)
    except Exception:
        complain(traceback.format_exc())
        complain(f"prunefront: {_OURS}")
        sys.exit(INTERNAL)


_OURS = (
    "this is a fault of prunefront, not of your input; what was measured is kept, and the same "
    "command goes on; please report the lines above"
)
