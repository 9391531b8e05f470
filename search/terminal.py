"""The front drawn in the terminal: accuracy against FLOPs, as lines of text."""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Iterator, Sequence

import pandas as pd

from ..analysis.points.front import is_check
from ..analysis.rows import rundir
from ..analysis.rows.storage import Location, source

WIDTH, HEIGHT = 60, 12
"""Characters of the field in which points are drawn; a terminal may have room for fewer columns."""
LEAST_WIDTH = 24
"""A narrower picture is none."""
LETTERS = string.ascii_uppercase + string.ascii_lowercase
"""One for each arm, in the order of their first points; arms beyond these share `OTHERS`."""
OTHERS = "*"

_LABEL = 7  # characters left of the vertical axis, as in " 100.0 "


@dataclasses.dataclass(frozen=True)
class Point:
    """A setting of an arm, with its means over seeds."""

    arm: str
    flops: float
    accuracy: float
    on_front: bool


@dataclasses.dataclass(frozen=True)
class Lines:
    """What the lines and dots of a picture are drawn with."""

    vertical: str
    horizontal: str
    corner: str
    tick: str
    front: str


UNICODE = Lines("│", "─", "└", "┬", "·")
ASCII = Lines("|", "-", "+", "+", ".")


def points(folder: Location) -> list[Point]:
    """The points of a study, from the table that its report wrote; its sanity checks are none."""
    path = rundir.report(folder) / "front.csv"
    frame = pd.read_csv(source(path), keep_default_na=False)
    numbers = frame[["flops_shrunk", "accuracy_valid"]]
    numbers = numbers.apply(pd.to_numeric, errors="coerce")
    is_finite = numbers.abs() < math.inf
    is_number = is_finite.all(axis=1)
    is_drawn = is_number & (numbers["flops_shrunk"] > 0) & ~is_check(frame)
    drawn = frame[is_drawn]
    columns = ["arm", "flops_shrunk", "accuracy_valid", "front_shrunk"]
    lines = [drawn[column] for column in columns]
    listed: list[Point] = []
    for arm, flops, accuracy, on_front in zip(*lines, strict=True):
        point = Point(
            arm=str(arm),
            flops=float(flops),
            accuracy=float(accuracy),
            on_front=str(on_front) == "True",
        )
        listed.append(point)
    return listed


def picture(listed: Sequence[Point], columns: int, encoding: str) -> list[str]:
    """Lines of at most `columns` characters that `encoding` has; none where there is no front, or
    no room.

    Horizontal: FLOPs, by their logarithm. Vertical: accuracy from that of the front's cheapest
    point up, and so points below are not drawn. Dots: what the front reaches between its points.
    """
    front = [point for point in listed if point.on_front]
    room = columns - _LABEL - 2
    width = min(WIDTH, room)
    if not front or width < LEAST_WIDTH:
        return []
    lines = UNICODE if _has(encoding, UNICODE) else ASCII
    floor = min(point.accuracy for point in front)
    drawn = [point for point in listed if point.accuracy >= floor]
    letters = _letters(drawn)
    field = _Field(drawn, width)
    field.draw_front(front, lines.front)
    below = [point for point in drawn if not point.on_front]
    for point in reversed(front + below):  # what comes later covers what was there
        letter = letters[point.arm]
        field.put(point, letter)
    framed = field.framed(lines)
    key = _key(letters, columns)
    return [*framed, *key]


def _has(encoding: str, lines: Lines) -> bool:
    letters = "".join(dataclasses.astuple(lines))
    encoded = letters.encode(encoding, "ignore")
    return encoded.decode(encoding) == letters


def _flops(point: Point) -> float:
    return point.flops


def _letters(drawn: Sequence[Point]) -> dict[str, str]:
    """Arm -> its letter."""
    arms = dict.fromkeys(point.arm for point in drawn)
    letters: dict[str, str] = {}
    for number, arm in enumerate(arms):
        has_own = number < len(LETTERS)
        letters[arm] = LETTERS[number] if has_own else OTHERS
    return letters


def _key(letters: dict[str, str], columns: int) -> Iterator[str]:
    """Which letter is which arm, as many in a line as fit."""
    line = ""
    for arm, letter in letters.items():
        entry = f"{letter} {arm}"
        if line and len(line) + 3 + len(entry) > columns:
            yield line
            line = ""
        line += f"   {entry}" if line else entry
    yield line


class _Field:
    """The characters between the axes, and what they stand for."""

    def __init__(self, drawn: Sequence[Point], width: int) -> None:
        flops = [math.log10(point.flops) for point in drawn]
        accuracies = [point.accuracy for point in drawn]
        self.width = width
        self.left, self.right = _range(flops, 0.5)
        self.bottom, self.top = _range(accuracies, 0.005)
        self.cells: list[list[str]] = []
        for _ in range(HEIGHT):
            blank = [" "] * width
            self.cells.append(blank)

    def column(self, flops: float) -> int:
        along = math.log10(flops) - self.left
        share = along / (self.right - self.left)
        return round(share * (self.width - 1))

    def row(self, accuracy: float) -> int:
        """Counted from the top."""
        down = self.top - accuracy
        share = down / (self.top - self.bottom)
        return round(share * (HEIGHT - 1))

    def put(self, point: Point, letter: str) -> None:
        self.cells[self.row(point.accuracy)][self.column(point.flops)] = letter

    def draw_front(self, front: Sequence[Point], dot: str) -> None:
        """From each point to the next: that much accuracy is to be had for so many FLOPs."""
        end = self.width
        for point in sorted(front, key=_flops, reverse=True):
            begin = self.column(point.flops)
            cells = self.cells[self.row(point.accuracy)]
            for column in range(begin, end):
                cells[column] = dot
            end = begin

    def framed(self, lines: Lines) -> Iterator[str]:
        """The field with its axes and what they say."""
        yield from self._with_accuracies(lines)
        yield from self._horizontal(lines)

    def _with_accuracies(self, lines: Lines) -> Iterator[str]:
        """The field with its vertical axis."""
        middle = HEIGHT // 2
        last = HEIGHT - 1
        for number, cells in enumerate(self.cells):
            label = ""
            if number in (0, middle, last):
                share = number / last
                accuracy = self.top - share * (self.top - self.bottom)
                label = f"{100 * accuracy:.1f}"
            margin = label.rjust(_LABEL - 1)
            drawn = "".join(cells)
            yield f"{margin} {lines.vertical}{drawn}".rstrip()

    def _horizontal(self, lines: Lines) -> Iterator[str]:
        """The horizontal axis, and the numbers below it."""
        axis = [lines.horizontal] * self.width
        labels = [" "] * self.width
        for column, word in self._ticks():
            axis[column] = lines.tick
            begin = self._begin(column, word)
            end = begin + len(word)
            labels[begin:end] = word
        indent = " " * _LABEL
        ticks = "".join(axis)
        words = "".join(labels)
        yield f"{indent}{lines.corner}{ticks}"
        yield f"{indent} {words}".rstrip()

    def _begin(self, column: int, word: str) -> int:
        """Where a word begins that has its middle below a column, all of it within the field."""
        centred = column - len(word) // 2
        latest = self.width - len(word)
        return min(max(0, centred), latest)

    def _ticks(self) -> list[tuple[int, str]]:
        """Columns of round numbers of FLOPs with their words, far enough from each other."""
        ticks: list[tuple[int, str]] = []
        free = 0  # the first column where a word may begin
        for flops in _round_numbers(self.left, self.right):
            word = _short(flops)
            column = self.column(flops)
            begin = self._begin(column, word)
            if begin >= free:
                ticks.append((column, word))
                free = begin + len(word) + 3
        return ticks


def _range(values: Sequence[float], least: float) -> tuple[float, float]:
    """From the lowest to the highest value, widened by `least` at both ends where they are one."""
    low = min(values)
    high = max(values)
    if high > low:
        return low, high
    return low - least, high + least


def _round_numbers(left: float, right: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two logarithms; the powers alone where there are
    three or more, and the ends of the range where there is not even a pair.
    """
    powers: list[float] = []
    others: list[float] = []
    lowest = math.floor(left)
    highest = math.ceil(right)
    for exponent in range(lowest, highest + 1):
        for factor in (1, 2, 5):
            number = factor * 10.0**exponent
            if not left <= math.log10(number) <= right:
                continue
            numbers = powers if factor == 1 else others
            numbers.append(number)
    if len(powers) >= 3:
        return powers
    if len(powers) + len(others) >= 2:
        return sorted(powers + others)
    return [10**left, 10**right]


def _short(flops: float) -> str:
    """A count in a few letters: 500, 20 k, 1 M."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return f"{flops:.3g}"
