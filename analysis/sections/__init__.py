"""The sections of the report. A file here is one of them: what it computes, its chart, its text and
its table. A package adds its own by an entry point in the group `prunefront.sections`.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
from collections.abc import Iterator
from typing import Any

from ..rows.mistake import Mistake, raised
from ._section import Drawings as Drawings
from ._section import Section as Section
from ._study import Study as Study
from ._study import open_study as open_study

GROUP = "prunefront.sections"
ORDER = (
    "headline",
    "answer",
    "fronts",
    "bands",
    "literature",
    "operating",
    "differences",
    "sanity",
    "hypervolumes",
    "compute",
    "layers",
    "latencies",
    "searches",
    "budget",
    "stopping",
    "certificates",
    "neurons",
)
"""Files of this folder, in the order of the page; then come the sections of other packages, sorted
by name, and then `CLOSING`.
"""
CLOSING = ("measurements", "provenance")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A section where it was found, or why there is none.

    origin: the entry point of another package; empty for ours.
    """

    name: str
    section: Section[Any] | Mistake
    origin: str = ""


def entries() -> list[Entry]:
    """Every section, in the order of the page."""
    opening = [_own(name) for name in ORDER]
    closing = [_own(name) for name in CLOSING]
    own = [*opening, *closing]
    others = _others(own)
    return [*opening, *others, *closing]


def _own(module: str) -> Entry:
    section = importlib.import_module(f"{__name__}.{module}").SECTION
    return Entry(section.name, section)


def _others(own: list[Entry]) -> Iterator[Entry]:
    """The sections of other packages."""
    taken: dict[str, str] = {}
    for entry in own:
        taken |= dict.fromkeys(_names(entry), "prunefront")
    points = importlib.metadata.entry_points(group=GROUP)
    for point in sorted(points, key=_place):
        entry = _loaded(point, taken)
        taken |= dict.fromkeys(_names(entry), point.value)
        yield entry


def _place(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    return point.name, point.value


def _loaded(point: importlib.metadata.EntryPoint, taken: dict[str, str]) -> Entry:
    """The section behind an entry point. It is another package's code: whatever it raises becomes a
    sentence that says whose it is.
    """
    try:
        section = point.load()
    except (Exception, SystemExit) as error:
        why = f"entry point {point.value} cannot be loaded ({raised(error)})"
        return _refused(point, why)
    if not isinstance(section, Section):
        rule = f"an entry point in {GROUP} is a Section"
        got = f"{section!r} from {point.value}"
        return _refused(point, f"{rule}; got {got}")
    entry = Entry(section.name, section, point.value)
    for name in _names(entry):
        if name in taken:
            rule = f"its name {name!r} is taken, by {taken[name]}"
            got = f"it from {point.value} too"
            return _refused(point, f"{rule}; got {got}")
    return entry


def _refused(point: importlib.metadata.EntryPoint, why: str) -> Entry:
    """An entry point that gives no section; the page says why."""
    mistake = Mistake(why)
    return Entry(point.name, mistake, point.value)


def _names(entry: Entry) -> list[str]:
    """What no other section may be called, nor its files."""
    if isinstance(entry.section, Mistake):
        return []
    section = entry.section
    names = [section.name, *section.charts, *section.tables, *section.texts]
    distinct = dict.fromkeys(names)
    return list(distinct)
