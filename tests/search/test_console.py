"""What a user sees: every name as it is, or escaped, in any encoding; own modules beside installed
ones of the same name.
"""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from html import escape
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import RayActorError, RayTaskError
from test_report import FOOTER, measured

from prunefront.analysis.rows import table
from prunefront.analysis.rows.mistake import Mistake
from prunefront.search.console import Console, columns, complain, shown
from prunefront.search.drive import losses, progress
from prunefront.search.plan import generations
from prunefront.search.study import controls, parse
from prunefront.trainables import models, own, tuning
from prunefront.trainables.domain import complete


@pytest.fixture(autouse=True)
def any_width() -> Iterator[None]:
    """As it is where output goes to a file: processes of tests are told a width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COLUMNS", raising=False)
        yield


NASTY = [
    "[/2]",
    "[red]",
    "[/]",
    "[bold",
    "]",
    "\\",
    "\x1b[31m",
    "\x9b2J",
    "\r",
    "\n",
    "\t",
    "\x00",
    "\udcff",
    "\u202e",
    "±",
]
NASTY += [
    ":smile:",
    "😀",
    "é",
    "\u2028",
    "\ufeff",
    "<script>",
    "'",
    '"',
    "{x}",
    "%s",
    "a.b[0]",
    "https://x.y/z",
    "42",
    " ",
]
names = st.lists(st.one_of(st.sampled_from(NASTY), st.characters()), min_size=1, max_size=8).map(
    "".join
)
encodings = st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"])


class Page:
    """A file with an encoding, strict as stdout is, and a console that writes to it."""

    def __init__(self, encoding: str, **options: object) -> None:
        self.raw = io.BytesIO()
        self.file = io.TextIOWrapper(self.raw, encoding=encoding, newline="")
        self.encoding = encoding
        self.console = Console(file=self.file, **options)

    def text(self) -> str:
        self.file.flush()
        return self.raw.getvalue().decode(self.encoding)


def is_safe(text: str) -> bool:
    return all(letter.isprintable() or letter == "\n" for letter in text)


@given(names, encodings)
@settings(max_examples=300, deadline=None)
def test_a_name_is_printed_whole_or_escaped_wherever_it_stands(name: str, encoding: str) -> None:
    wanted = shown(name, encoding)
    wanted.encode(encoding)
    assert wanted.isprintable()
    page = Page(encoding)
    page.console.say(f"arm {name}: done")
    assert page.text() == f"arm {shown(name, encoding)}: done\n"
    page = Page(encoding)
    grid = columns(["arm", name], left=("arm",))
    grid.add_row(name, "1.00 ± 0.50")
    page.console.grid(f"against {name}", grid)
    text = page.text()
    assert is_safe(text)
    assert text.startswith(f"against {wanted}\n")
    assert text.count(wanted.strip()) >= 3, "title, heading and cell"
    assert ("1.00 ± 0.50" in text) == (encoding != "ascii")
    assert ("1.00 +- 0.50" in text) == (encoding == "ascii")


@given(names, encodings, st.integers(20, 60))
@settings(max_examples=200, deadline=None)
def test_a_narrow_terminal_folds_names_and_cuts_none(name: str, encoding: str, width: int) -> None:
    page = Page(encoding, width=width)
    grid = columns(["arm"], left=("arm",))
    grid.add_row(name * 10)
    page.console.grid("", grid)
    letters = "".join(page.text().split())
    whole = "".join(shown(name * 10, encoding).split())
    assert is_safe(page.text())
    assert whole in letters.replace("|", "") or whole.replace("|", "") in letters.replace("|", "")


def test_examples_of_the_issue() -> None:
    page = Page("utf-8")
    page.console.say("half [/2] and [red]x[/red] in [draft]")
    assert page.text() == "half [/2] and [red]x[/red] in [draft]\n"
    assert shown("a\x1b[2Jb\nc", "utf-8") == r"a\x1b[2Jb\nc"
    assert shown("\udcff", "utf-8") == r"\udcff"
    assert shown("naïve", "ascii") == r"na\xefve"
    assert shown("98.1 ± 0.2 %", "ascii") == "98.1 +- 0.2 %"


@given(names)
@settings(max_examples=50, deadline=None)
def test_an_error_is_said_on_stderr_in_any_encoding(name: str) -> None:
    for encoding in ("ascii", "utf-8"):
        stream, before = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline=""), sys.stderr
        sys.stderr = stream
        try:
            complain(f"prunefront: arm {name}")
        finally:
            sys.stderr = before
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        text = stream.buffer.getvalue().decode(encoding)
        assert is_safe(text)
        assert text.startswith("prunefront: arm ")


def command(monkeypatch: pytest.MonkeyPatch, encoding: str, *words: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process, both in this encoding and strict."""
    from prunefront.search import cli

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="") for _ in range(2))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", ["prunefront", *words])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = []
    for stream in (out, err):
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        said.append(stream.buffer.getvalue().decode(encoding))
    return int(ended.value.code or 0), said[0], said[1]


ARMS = ["half [/2]", "[red]x[/red]", "a.b[0]", "<script>alert(1)</script>", 'it\'s "quoted" ± 😀']
ARMS += ["\u202eevil\x9b2J", "\\ \uffff"]


def nasty(folder: Path) -> Path:
    """A study whose arms have such names."""
    found = []
    for arm, sparsity, seed in itertools.product(ARMS, (0.5, 0.9), (0, 1)):
        row = measured("dns", sparsity, seed, "[draft] ±")
        found.append(
            row | {"arm": arm, "member": f"{ARMS.index(arm)}{sparsity}{seed}", "m_a.b[0]": 1.0}
        )
    found += [measured("dense", 0.0, seed, "[draft] ±") for seed in (0, 1)]
    table.write(folder / "rows" / "all.parquet", found, {"sparsity": pa.float64()}, FOOTER)
    (folder / "rejected").mkdir()
    (folder / "rejected" / os.fsdecode(b"torn\xff\x1b.parquet")).touch()
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_commands_print_names_of_arms_whatever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    folder = nasty(tmp_path / "[draft]")
    code, said, wrong = command(monkeypatch, encoding, "report", str(folder))
    assert (code, wrong) == (0, "")
    assert is_safe(said)
    assert "[draft]/report/report.html" in said
    page = (folder / "report" / "report.html").read_text()
    assert "<script>alert" not in page
    assert r"torn\udcff" in page
    assert "Not in this report" not in page
    for arm in ARMS:
        assert f"<td>{escape(arm)}</td>" in page
    code, said, wrong = command(
        monkeypatch, encoding, "compare", str(folder), "--baseline", ARMS[0]
    )
    assert (code, wrong) == (0, "")
    assert is_safe(said)
    for arm in ARMS:
        assert shown(arm, encoding) in said
    for arm in (0, 1):
        code, said, wrong = command(monkeypatch, encoding, "show", str(folder), f"{arm}0.50")
        assert (code, wrong) == (0, "")
        assert (
            f"of {shown(ARMS[arm], encoding)} in the study {shown('[draft] ±', encoding)}" in said
        )
    for arm in ("nobody [/2] \x1b", "±"):
        code, _, wrong = command(monkeypatch, encoding, "compare", str(folder), "--baseline", arm)
        assert code == 2
        assert shown(arm, encoding) in wrong
        assert is_safe(wrong)


def test_algorithms_and_doctor_in_ascii(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, said, wrong = command(monkeypatch, "ascii", "algorithms")
    assert (code, wrong) == (0, "")
    assert "\ndense  (control)\n" in said
    monkeypatch.setenv("PRUNEFRONT_DATA", str(tmp_path / "[red]ü\x1b"))
    code, said, wrong = command(monkeypatch, "ascii", "doctor")
    assert wrong == ""
    assert r"[red]\u00fc\u001b" in said or r"[red]\xfc" in said
    assert is_safe(said)


SHADOWS = ("secrets", "calendar", "random", "torch", "types", "ray", "typer", "pandas", "rich")
"""Files with such names break whatever imports the module that is meant."""


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """A working folder with a file of each such name, and a model in one of them."""
    for name in SHADOWS:
        text = f"raise RuntimeError('the wrong {name}')\n"
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "statistics.py").write_text("def net(shape, classes): raise AssertionError\n")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "nets.py").write_text("def net(shape, classes): raise AssertionError\n")
    return tmp_path


STARTS = {
    "script": [str(Path(sys.executable).with_name("prunefront"))],
    "module": [
        sys.executable,
        "-P",
        "-c",
        "import runpy; runpy.run_module('prunefront.search', run_name='__main__')",
    ],
}


@pytest.mark.parametrize("how", STARTS)
def test_files_named_like_installed_modules_break_no_command(shadowed: Path, how: str) -> None:
    done = subprocess.run(
        [*STARTS[how], "algorithms"], cwd=shadowed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\ndense  (control)\n" in done.stdout


def test_a_name_that_another_module_has_is_refused(
    shadowed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shadowed)
    monkeypatch.setattr(sys, "path", [*sys.path])
    own.own_last(str(shadowed))
    for name, file in (
        ("statistics.net", "statistics.py"),
        ("torch.net", "torch.py"),
        ("json.nets.net", "json/nets.py"),
    ):
        with pytest.raises(Mistake) as refused:
            models.lookup(name, {}, "model")
        top = name.partition(".")[0]
        installed = sys.modules[top].__file__
        rule = f"model {name}: `{top}` is the name of {installed}, which is looked up before {shadowed / file}"
        assert str(refused.value) == f"{rule}; give your own module another name"
    (shadowed / "builtins.py").touch()
    with pytest.raises(Mistake, match=r"`builtins` is the name of a part of Python itself"):
        models.lookup("builtins.net", {}, "model")
    (shadowed / "mine_alone.py").write_text("def net(): return 3\n")
    assert models.lookup("mine_alone.net", {}, "model")() == 3
    (shadowed / "folder_of_mine").mkdir()
    (shadowed / "folder_of_mine" / "nets.py").write_text("def net(): return 4\n")
    assert models.lookup("folder_of_mine.nets.net", {}, "model")() == 4
    (shadowed / "torch.py").unlink()
    assert models.lookup("torch.nn.Identity", {}, "model") is torch.nn.Identity


def test_own_modules_are_looked_up_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["", "/here", "/installed"])
    own.own_last("/here")
    assert sys.path == ["/installed", "/here"]
    own.look_in(["/installed", "/more", "/here"])
    assert sys.path == ["/installed", "/here", "/more"]


# ---- how far a run is


class Clock:
    """A clock that only moves as somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_run_without_a_terminal_says_something_every_thirty_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a rung takes: here no member is measured in 200 s."""
    clock, page = Clock(), Page("ascii")
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    shows = progress.Progress(tmp_path, lambda: (40, True), 4, 2, page.console)
    waits = list[float]()

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        clock.now += max(seconds, 0.1)
        return clock.now > 1200

    monkeypatch.setattr(shows._over, "wait", wait)
    with shows:
        shows._heart.join(10)
    lines = page.text().splitlines()
    assert len(lines) == 6
    assert max(waits) <= 30
    assert lines[0] == "4/about 40 members; 30 s so far"
    assert lines[4] == "4/about 40 members; 2 min so far"


def test_time_left_and_the_members_of_checks_are_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, page = Clock(), Page("utf-8")
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    shows = progress.Progress(tmp_path, lambda: (40, True), 0, 2, page.console)
    shows.work["a"] = 10.0
    clock.now += 60
    assert "10 members/min, about 3 min left" in shows._line()
    shows.total = lambda: (40, False)
    assert "10 members/min, 3 min left" in shows._line()


STUDY = """
[study]
name = "checked"
seeds = [0, 1, 2]
controls = "standard"

[task]
widths = [8]
epochs = 2
rungs = 1

[[arm]]
algorithm = "dns"
space.sparsity = [0.5, 0.7, 0.8, 0.9]

[[arm]]
algorithm = "magnitude"
space.sparsity = [0.5, 0.9]
"""


def test_members_of_checks_are_in_the_count_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    read = parse.read(tmp_path / "study.toml")
    planned = generations.Plan(read, tmp_path / "out", 1)
    (tmp_path / "out").mkdir()
    planned.open()
    own = planned.total
    checks = [arm for arm in planned.arms if arm.follows]
    guessed = controls.expected(planned.arms, {"dns": 4, "magnitude": 2})
    assert {guessed[arm.name] for arm in checks if arm.follows == "dns"} == {4, 2}, (
        "every setting, or those on the front"
    )
    assert {guessed[arm.name] for arm in checks if arm.follows == "magnitude"} == {2, 1}
    assert planned.expected() == (own + 3 * sum(guessed.values()), True)
    planned.follow(
        {checks[0].name: [complete(checks[0].algorithm.space, {"check": "random", "of": "x"})]}
    )
    assert planned.expected() == (own + 3, False)


# ---- why a member failed


class Sick(Exception):
    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)


def raised(error: Exception) -> RayTaskError:
    """As it comes back from a worker."""
    try:
        raise error
    except Exception:
        return RayTaskError("step", traceback.format_exc(), error, "ray::x", 1, "127.0.0.1")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("no kernel [/2]\nMore information at https://example.org"),
            "RuntimeError: no kernel [/2]",
        ),
        (ValueError("\n\n  first  \nsecond"), "ValueError: first"),
        (KeyError("1.weight"), "KeyError: '1.weight'"),
        (AssertionError(), "AssertionError: "),
        (tuning.Told("Sick: seven\n\nTraceback ..."), "Sick: seven"),
        (ValueError("x" * 500), "ValueError: " + "x" * 288),
    ],
)
def test_a_reason_is_type_and_first_line(error: Exception, reason: str, tmp_path: Path) -> None:
    wrapped = raised(error)
    assert losses.reason(wrapped) == reason
    assert losses.reason(wrapped.as_instanceof_cause()) == reason
    said = [losses.logged(wrapped, tmp_path, "00001-abc") for _ in range(2)]
    assert said == [
        f"; traceback: {tmp_path / 'log' / f'00001-abc-{number}.txt'}" for number in (1, 2)
    ]
    text = (tmp_path / "log" / "00001-abc-2.txt").read_text()
    assert "in raised" in text
    assert "\x1b" not in text
    assert all(line in text for line in str(error).split("\n"))


def test_the_reason_of_what_ray_has_as_text_alone() -> None:
    unpicklable = RuntimeError("first\nsecond", (letter for letter in "ab"))
    assert losses.reason(raised(unpicklable)).startswith("RuntimeError: ('first")
    assert losses.reason(traceback_of(ZeroDivisionError("a\nb"))) == "ZeroDivisionError: a"
    assert losses.reason(None) == "its worker died"
    died = losses.reason(RayActorError())
    assert "\n" not in died


def traceback_of(error: Exception) -> str:
    try:
        raise error
    except Exception:
        return traceback.format_exc()


@tuning._portable()
def fail(error: Exception, cause: Exception | None = None) -> None:
    raise error from cause


def test_an_exception_that_cannot_be_copied_is_told() -> None:
    for error, cause, said in (
        (Sick("a", 8), None, "Sick: a"),
        (ValueError("b"), Sick("c", 7), "ValueError: b"),
    ):
        with pytest.raises(tuning.Told, match=said) as told:
            fail(error, cause)
        assert "in fail" in str(told.value)
    with pytest.raises(KeyError):
        fail(KeyError("x"), OSError("y"))


HELP = """
import sys
from prunefront.search import cli
try:
    cli.main()
finally:
    heavy = {"torch", "ray", "pandas", "altair", "scipy", "sklearn", "optuna"} & set(sys.modules)
    print("imported:", *sorted(heavy))
"""


def test_help_waits_for_none_of_the_large_packages() -> None:
    command = [sys.executable, "-c", HELP, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a study file goes in" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"


def test_the_table_of_a_report_fits_80_columns_and_the_front_is_drawn_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = nasty(tmp_path / "study")
    monkeypatch.setenv("COLUMNS", "80")
    code, said, wrong = command(monkeypatch, "utf-8", "report", str(folder))
    assert (code, wrong) == (0, "")
    lines = said.splitlines()
    grid = lines[1 : next(number for number, line in enumerate(lines) if "│" in line)]
    assert max(map(len, grid)) <= 80
    assert any(line.rstrip().endswith("*") for line in grid), "what is on a front is marked"
    assert "dots: the front" in said
    assert sum("│" in line for line in lines) == 12
    code, said, wrong = command(monkeypatch, "ascii", "report", str(folder))
    assert (code, wrong) == (0, "")
    assert sum("|" in line for line in said.splitlines()) >= 12, said
    assert is_safe(said)
