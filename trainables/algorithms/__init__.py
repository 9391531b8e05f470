"""The algorithms. This folder is the registry: a file here, or an entry point in the group `prunefront.algorithms`, is found.

A file's name is the algorithm's name; the file holds one class that implements the contract.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import inspect
import pkgutil

from ..contract import Algorithm

GROUP = "prunefront.algorithms"


@functools.cache
def known() -> dict[str, Algorithm]:
    """Every algorithm by name, sorted. Raises ValueError naming an entry point that cannot be loaded."""
    found: dict[str, Algorithm] = {}
    for module in pkgutil.iter_modules(__path__):
        inside = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        own = [
            v for v in inside if inspect.isclass(v) and v.__module__.endswith(f".{module.name}") and issubclass(v, Algorithm)
        ]
        assert len(own) == 1, f"{module.name}.py holds one algorithm; got {own}"
        found[module.name] = own[0]()
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            found[entry.name] = entry.load()()
        except Exception as error:  # another package's code: whatever it raises, say whose it is
            raise ValueError(f"algorithm {entry.name}: entry point {entry.value} cannot be loaded ({error})") from error
    return dict(sorted(found.items()))


def find(name: str) -> Algorithm:
    """The algorithm `name`. Raises ValueError that suggests the nearest one."""
    if name in known():
        return known()[name]
    nearest = difflib.get_close_matches(name, known(), n=1)
    hint = f' did you mean "{nearest[0]}"?' if nearest else ""
    raise ValueError(f'no algorithm "{name}";{hint} known: {", ".join(known())}')
