"""The first picture of a study that trains for longer: a report of what there is so far, drawn by
another process, since drawing would hold up the driver.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

from ...analysis.rows import rundir, table
from ...analysis.rows.storage import Location
from ..console import Console
from . import interrupts

AFTER_SECONDS = 25.0
"""A study that is done by then has its report at once."""
AGAIN_SECONDS = 10.0
"""Between two tries, where nothing could be drawn yet."""
REPORT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: the kernel ends it with the driver
if os.getppid() == int(sys.argv.pop(1)):
    os.nice(10)  # behind all that trains
    from prunefront.search.cli import main
    main()
"""


@contextlib.contextmanager
def drawn(folder: Location, console: Console) -> Iterator[None]:
    """While the block lasts, one report is drawn in the background as soon as there is something
    to draw.
    """
    preview = _Preview(folder, console)
    preview.thread.start()
    try:
        with interrupts.at_the_latest(preview.end):
            yield
    finally:
        preview.end()
        preview.thread.join()


class _Preview:
    def __init__(self, folder: Location, console: Console) -> None:
        self.folder = folder
        self.console = console
        self.over = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(
            target=self._try,
            name="preview",
            daemon=True,
        )

    def end(self) -> None:
        """Draw no more."""
        self.over.set()
        if self.process is not None:
            self.process.kill()

    def _try(self) -> None:
        """Draw until it worked once."""
        seconds = AFTER_SECONDS
        while not self.over.wait(seconds):
            if self._draws():
                page = rundir.page(self.folder)
                self.console.say(f"a first report, of what is measured so far: {page}")
                return
            seconds = AGAIN_SECONDS

    def _draws(self) -> bool:
        with contextlib.suppress(OSError):  # the folder may be away for a while
            if table.files(self.folder):
                return self._report() == 0
        return False

    def _report(self) -> int:
        """Run the command of that name; its exit code."""
        words = [str(os.getpid()), "report", str(self.folder)]
        with subprocess.Popen(
            [sys.executable, "-P", "-c", REPORT, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as self.process:
            if self.over.is_set():  # it was said while the process began
                self.process.kill()
            return self.process.wait()
