"""A user's own modules: they lie where a study is started, and are looked up after everything that
is installed.

A file there may have the name of a module that Python or one of our dependencies has, and would
break its imports.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from ..analysis.rows.mistake import Mistake


def own_last(folder: str) -> None:
    """Make `folder`, the current one, the last place where modules are looked for."""
    sys.path[:] = [*_others(folder), folder]


def places() -> list[str]:
    """Where this process looks for modules, the current folder last: for processes that it
    starts.
    """
    here = os.getcwd()
    others = map(os.path.abspath, _others(here))
    return [*others, here]


def _others(folder: str) -> list[str]:
    """Where modules are looked for besides `folder`, the current one."""
    return [place for place in sys.path if place not in ("", folder)]


def look_in(wanted: Iterable[str]) -> None:
    """Look for modules in these places too, after those that this process knows."""
    sys.path.extend(place for place in wanted if place not in sys.path)


def imported(name: str) -> ModuleType:
    """The module of a dotted path that a study names.

    Raises Mistake if its first part is the name of a file in the current folder and of something
    else that is installed, which would be taken instead; and whatever importing it raises.
    """
    top = name.partition(".")[0]
    own = _own(name)
    if own is None:
        return importlib.import_module(name)
    installed = importlib.util.find_spec(top)
    if installed is not None and not _lies(own, installed):
        place = installed.origin if installed.has_location else "a part of Python itself"
        rule = f"`{top}` is the name of {place}, which is looked up before {own}"
        raise Mistake(f"{rule}; give your own module another name")
    return importlib.import_module(name)


def _own(name: str) -> Path | None:
    """The file in the current folder that would be read for `name` if the folder were looked up
    first.
    """
    top, *inner = name.split(".")
    folder = Path.cwd() / top
    files = [folder / "__init__.py", folder.with_suffix(".py")]
    if inner:
        part = folder / inner[0]
        files.append(folder / f"{inner[0]}.py")
        files.append(part / "__init__.py")
    for file in files:
        if file.is_file():
            return file
    return None


def _lies(own: Path, found: ModuleSpec) -> bool:
    """Whether a module that was found is that of the file `own`."""
    if found.origin is None:  # a folder without __init__.py
        folders = found.submodule_search_locations or []
        places = [Path(folder).absolute() for folder in folders]
        return any(own.is_relative_to(place) for place in places)
    origin = Path(found.origin)
    return origin.exists() and origin.parent.samefile(own.parent)
