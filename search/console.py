"""The console of all commands: what it prints is data, so there is no markup in it, and what cannot
be shown is escaped.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Collection, Iterable
from typing import IO, Any

import rich.console
from rich import box
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

NARROW = 20
"""Characters that a column of text has at least, however narrow the terminal."""
WIDE = 100_000
"""Columns where the output is no terminal: tables take what they need, and nothing is cut off."""


SPREAD = re.compile(r"(?<=[0-9∞]) ± (?=[-0-9∞])")
"""The sign between a mean and its deviation, for which there are plain letters."""


class Console(rich.console.Console):
    """A terminal or a file. Text is shown as it is: no markup, no emoji codes, no highlights.

    A character that would move the cursor, break the line or hide (`str.isprintable`), or that the
    encoding does not have, is shown as Python writes it in a literal: ``\\x1b``, ``\\n``,
    ``\\udcff``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(
            markup=False,
            emoji=False,
            highlight=False,
            **options,
        )
        forgiving(self.file)  # for what is drawn by rich itself
        has_width = options.get("width") is not None or "COLUMNS" in os.environ
        if not self.is_terminal and not has_width:
            self.width = WIDE

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        """Every text that is printed, in a table too, comes by here."""
        return super().render_str(shown(text, self.encoding), **options)

    def say(self, sentence: str) -> None:
        """Print one line, which the terminal wraps."""
        self.print(sentence, soft_wrap=True)

    def grid(self, title: str, grid: Table) -> None:
        """Print a table below its title."""
        self.say(title)
        terminal = self.width
        self.width = WIDE
        needed = Measurement.get(self, self.options, grid)
        self.width = max(terminal, needed.minimum)
        self.print(grid, crop=False)
        self.width = terminal


def columns(names: Iterable[str], left: Collection[str] = ()) -> Table:
    """An empty table; columns hold numbers but for those in `left`.

    Text is folded where the terminal is narrow, down to `NARROW` characters; numbers and headings
    never are: then the table is wider than the terminal.
    """
    grid = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in names:
        if name in left:
            grid.add_column(name, justify="left", overflow="fold", min_width=NARROW)
        else:
            grid.add_column(name, justify="right", no_wrap=True)
    return grid


def shown(text: str, encoding: str) -> str:
    """`text` on one line, in characters that can be seen and that `encoding` has."""
    if not "±".encode(encoding, "ignore"):
        text = SPREAD.sub(" +- ", text)
    seen = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
    return seen.encode(encoding, "backslashreplace").decode(encoding)


def forgiving(stream: IO[str]) -> None:
    """Make `stream` escape what its encoding does not have; strict ones would raise."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Print lines to stderr, as a console would show them."""
    forgiving(sys.stderr)
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    for line in text.splitlines():
        print(shown(line, encoding), file=sys.stderr)
