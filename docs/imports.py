"""The picture of which room imports which: docs/pictures/imports.svg.

python docs/imports.py          writes it, and says if modules import each other in a circle
A room is a folder with modules, or a module beside them. Statements at the head of a module are
looked at, not those in functions or for types.
"""

from __future__ import annotations

import ast
import graphlib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = Path(__file__).parent / "pictures" / "imports.svg"
FOLDERS = {"search": "#0072b2", "trainables": "#009e73", "analysis": "#d55e00"}
"""From top to bottom, with the colour of each."""
CELL = 22
"""Width and height of a cell, in pixels."""
LABELS = 170
"""Room for names, in pixels: left of the cells, and above them."""

Imports = Counter[tuple[str, str]]
"""(room, room that it imports) -> by how many statements."""


def sources() -> list[Path]:
    """Every module of the library."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> list[Path]:
    """The files of ours that a module imports at its head, with repetition."""
    files = []
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
        for alias in node.names:
            files.append(_file(base, alias.name))
    return [file for file in files if file is not None]


def _file(base: Path, name: str) -> Path | None:
    """What `from base import name` reads: a module of that name, or the one that holds it."""
    inner, outer = base / name, base
    for place in (inner, outer):
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def room(path: Path) -> str:
    """`trainables/data`, or `trainables/task` for a module that lies in no room."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "/".join(parts[:2])


def between_rooms() -> Imports:
    """How often each room imports each other one."""
    counts: Imports = Counter()
    for path in sources():
        for target in imported(path):
            if room(path) != room(target):
                counts[room(path), room(target)] += 1
    return counts


def in_order(counts: Imports) -> list[str]:
    """The rooms, folder by folder, so that as few imports as can be go upwards."""
    rooms = []
    for folder in FOLDERS:
        own = sorted({name for pair in counts for name in pair if name.startswith(f"{folder}/")})
        rooms += _sorted(own, counts)
    return [name for name in rooms if not name.endswith("/__init__")]


def _sorted(rooms: list[str], counts: Imports) -> list[str]:
    """By moving one room at a time to where it has the fewest imports that go upwards."""
    while True:
        before = list(rooms)
        for name in before:
            others = [other for other in rooms if other != name]
            upwards = [_upwards(name, others, place, counts) for place in range(len(rooms))]
            others.insert(upwards.index(min(upwards)), name)
            if min(upwards) < upwards[rooms.index(name)]:
                rooms = others
        if rooms == before:
            return rooms


def _upwards(name: str, others: list[str], place: int, counts: Imports) -> int:
    above = sum(counts[name, other] for other in others[:place])
    below = sum(counts[other, name] for other in others[place:])
    return above + below


def picture(counts: Imports) -> str:
    """A matrix, SVG: a row for what imports, a column for what is imported."""
    rooms = in_order(counts)
    side = LABELS + CELL * len(rooms) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{side}" height="{side}" fill="white"/>',
    ]
    for row, name in enumerate(rooms):
        start = LABELS + CELL * row
        middle = start + CELL // 2
        colour = FOLDERS[name.partition("/")[0]]
        label = f'fill="{colour}" dominant-baseline="central"'
        parts.append(f'<text x="{LABELS - 8}" y="{middle}" text-anchor="end" {label}>{name}</text>')
        turned = f'transform="translate({middle} {LABELS - 8}) rotate(-90)"'
        parts.append(f"<text {turned} {label}>{name}</text>")
        parts.append(_square(start, start, "#dddddd"))
        for column, target in enumerate(rooms):
            if counts[name, target]:
                upwards = column < row
                left = LABELS + CELL * column
                parts.append(_square(left, start, "#bbbbbb" if upwards else colour))
                number = f'<text x="{left + CELL // 2}" y="{middle}" text-anchor="middle"'
                look = 'fill="white" font-size="10" dominant-baseline="central"'
                parts.append(f"{number} {look}>{counts[name, target]}</text>")
    return "\n".join([*parts, "</svg>", ""])


def _square(left: int, top: int, colour: str) -> str:
    size = CELL - 2
    return f'<rect x="{left + 1}" y="{top + 1}" width="{size}" height="{size}" fill="{colour}"/>'


def check_modules() -> None:
    """Raise CycleError, which names the circle, if modules import each other in one."""
    graph = {path: set(imported(path)) - {path} for path in sources()}
    graphlib.TopologicalSorter(graph).prepare()


if __name__ == "__main__":
    PICTURE.write_text(picture(between_rooms()))
    check_modules()
