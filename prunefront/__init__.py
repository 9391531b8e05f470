"""Searches for small, accurate networks on Ray Tune; every figure comes from a measured row.

    import prunefront as pf

What is exported here is imported when it is first asked for: `import prunefront` alone imports
neither torch nor Ray nor pandas.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    # In full: below this file a checkout has no such folders, and type checkers look there.
    from prunefront.analysis.points.front import front, hypervolume
    from prunefront.analysis.rows.mistake import Mistake
    from prunefront.trainables import convex
    from prunefront.trainables.domain import Domain
    from prunefront.trainables.modules import count, shrink
    from prunefront.trainables.records.networks import load_network, load_shrunk
    from prunefront.trainables.structure import masks
    from prunefront.trainables.task import Task
    from prunefront.trainables.training.pruner import GradientPruner, space
    from prunefront.trainables.tuning import trainable

__all__ = [
    "Domain",
    "GradientPruner",
    "Mistake",
    "Task",
    "convex",
    "count",
    "front",
    "hypervolume",
    "load_network",
    "load_shrunk",
    "masks",
    "read",
    "shrink",
    "space",
    "trainable",
]

_HOMES = {
    "Domain": "trainables.contract:Domain",
    "GradientPruner": "trainables.training.pruner:GradientPruner",
    "Mistake": "analysis.rows.mistake:Mistake",
    "Task": "trainables.task:Task",
    "convex": "trainables.convex",
    "count": "trainables.modules:count",
    "front": "analysis.points.front:front",
    "hypervolume": "analysis.points.front:hypervolume",
    "load_network": "trainables.records.networks:load_network",
    "load_shrunk": "trainables.records.networks:load_shrunk",
    "masks": "trainables.structure.masks",
    "shrink": "trainables.modules:shrink",
    "space": "trainables.training.pruner:space",
    "trainable": "trainables.tuning:trainable",
}
"""Where each name of `__all__` that is not defined here is: a module, or module:attribute."""

_FOLDER = Path(__file__).resolve().parent
if not (_FOLDER / "search").is_dir():  # a checkout, where the three folders lie beside this one
    __path__.append(str(_FOLDER.parent))


def read(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """The rows of a study as it is now, one for each network at each rung.

    folder: the study's output folder, or the URI of one; also while the study runs.  Columns are
    those of `analysis/rows/table.py`, with `hp_<name>` and `m_<name>`.  What was taken out of the
    study is left out.  Raises Mistake if there are no rows, or naming a file that cannot be read.
    """
    from prunefront.analysis.rows import table

    return table.current(folder, table.read(folder))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module_name, _, attribute = _HOMES[name].partition(":")
    module = importlib.import_module(f"{__name__}.{module_name}")
    value = getattr(module, attribute) if attribute else module
    globals()[name] = value  # the next look does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
