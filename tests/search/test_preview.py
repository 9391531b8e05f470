"""The first report of a study that goes on: drawn once, in another process, which never outlives
the driver.
"""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from test_report import FOOTER, measured

from prunefront.analysis.rows import table
from prunefront.search.console import Console
from prunefront.search.drive import preview


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "AFTER_SECONDS", 0.01)
    monkeypatch.setattr(preview, "AGAIN_SECONDS", 0.01)


def test_a_report_is_drawn_once_when_there_is_something_to_draw(
    soon: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [2, 0, 0]
    tried: list[int] = []
    enough = threading.Event()

    def report(self: Any) -> int:
        tried.append(codes[len(tried)])
        if tried[-1] == 0:
            enough.set()
        return tried[-1]

    monkeypatch.setattr(preview._Preview, "_report", report)
    page = io.StringIO()
    with preview.drawn(tmp_path, Console(file=page)):
        assert not enough.wait(0.1), "there are no rows yet"
        (tmp_path / "rows").mkdir()
        (tmp_path / "rows" / "a-1.parquet").touch()
        assert enough.wait(10)
    assert tried == [2, 0]
    assert page.getvalue().startswith("a first report, of what is measured so far: ")


def test_a_study_that_is_done_soon_has_none(tmp_path: Path) -> None:
    page = io.StringIO()
    with preview.drawn(tmp_path, Console(file=page)):
        pass
    assert page.getvalue() == ""


def test_the_process_ends_with_the_block(soon: None, tmp_path: Path) -> None:
    rows = [measured("dns", 0.5, seed, "x") for seed in (0, 1)]
    table.write(tmp_path / "rows" / "a-1.parquet", rows, {"sparsity": pa.float64()}, FOOTER)
    begun: list[Any] = []
    popen = preview.subprocess.Popen
    started = threading.Event()

    def start(*given: Any, **options: Any) -> Any:
        begun.append(popen(*given, **options))
        started.set()
        return begun[-1]

    with pytest.MonkeyPatch.context() as patch:
        spared = SimpleNamespace(Popen=start, DEVNULL=preview.subprocess.DEVNULL)
        patch.setattr(preview, "subprocess", spared)
        with preview.drawn(tmp_path, Console(file=io.StringIO())):
            assert started.wait(10)
    (process,) = begun
    assert process.returncode == -9


DRIVER = """
import io, os, pathlib, signal, sys, time
from prunefront.search.console import Console
from prunefront.search.drive import preview
preview.AFTER_SECONDS = 0.01
with preview.drawn(pathlib.Path(sys.argv[1]), Console(file=io.StringIO())):
    while True:
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and b"ctypes" in (path.parent / "cmdline").read_bytes():
                print(path.parent.name, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
"""


def test_the_process_goes_with_a_driver_that_is_killed(tmp_path: Path) -> None:
    rows = [measured("dns", 0.5, seed, "x") for seed in (0, 1)]
    table.write(tmp_path / "rows" / "a-1.parquet", rows, {"sparsity": pa.float64()}, FOOTER)
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    driver = subprocess.run(command, capture_output=True, text=True, check=False)
    assert driver.returncode == -9, driver.stderr
    stat = Path("/proc") / driver.stdout.strip() / "stat"
    end = time.monotonic() + 5
    while _lives(stat) and time.monotonic() < end:
        time.sleep(0.02)
    assert not _lives(stat)


def _lives(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
