"""The algorithms. This folder is the registry: a file here, or an entry point in the group `prunefront.algorithms`, is found.

A file's name is the algorithm's name; the file holds one class that implements the contract. Any other such class is named by
its dotted path.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil

from ...analysis.mistake import Mistake
from ..contract import Algorithm
from ..models import blamed, lookup, raised

GROUP = "prunefront.algorithms"


@functools.cache
def known() -> dict[str, Algorithm]:
    """Every algorithm by name, sorted. Raises Mistake naming an entry point that cannot be loaded."""
    found: dict[str, Algorithm] = {}
    for module in pkgutil.iter_modules(__path__):
        inside = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        own = [
            v
            for v in inside
            if inspect.isclass(v)
            and v.__module__.endswith(f".{module.name}")
            and issubclass(v, Algorithm)
            and v.__name__[0] != "_"
        ]
        assert len(own) == 1, f"{module.name}.py holds one algorithm; got {own}"
        found[module.name] = own[0]()
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load()()
        except (Exception, SystemExit) as error:  # another package's code: whatever it raises, say whose it is
            raise Mistake(f"algorithm {entry.name}: entry point {entry.value} cannot be loaded ({raised(error)})") from error
    return dict(sorted(found.items()))


def is_ours(algorithm: Algorithm) -> bool:
    """Whether an algorithm is of this folder, and not of a user's own."""
    return type(algorithm).__module__.startswith(f"{__name__}.")


@functools.cache
def find(name: str) -> Algorithm:
    """The algorithm `name`, a known one or the dotted path of a class. Raises Mistake that suggests the nearest one."""
    if name in known():
        return known()[name]
    found = lookup(name, dict.fromkeys(known(), object), "algorithm")
    if not (inspect.isclass(found) and issubclass(found, Algorithm)):
        raise Mistake(f"algorithm {name}: an algorithm is a class that implements the contract; got {found!r}")
    lacking = [method for method in ("source", "space") if not hasattr(found, method)]
    if lacking:
        raise Mistake(f"algorithm {name}: an algorithm has a `{lacking[0]}`; got none")
    with blamed(f"algorithm {name}: is made without arguments"):
        return found()
