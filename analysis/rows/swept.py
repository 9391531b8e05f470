"""The studies of an output folder in which values of [task] are swept."""

from __future__ import annotations

import json

from . import rundir
from .storage import Location, Where, locate, save


def studies(folder: Where) -> dict[str, Location]:
    """The folders of the studies of an output folder by value, in the order of the study file;
    empty if it holds one study or none.
    """
    place = locate(folder)
    path = rundir.values_file(place)
    if not path.exists():
        return {}
    names = json.loads(path.read_text())["studies"]
    return {name: place / name for name in names}


def record(folder: Where, values: list[str]) -> None:
    """Write which studies an output folder holds."""
    content = json.dumps({"studies": values}, indent=1)
    save(rundir.values_file(folder), content.encode())
