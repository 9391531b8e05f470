"""The algorithms. This folder is the registry: a file here, or an entry point in the group
`prunefront.algorithms`, is found.

A file's name is the algorithm's name; the file holds one class that implements the contract. A file
whose name begins with an underscore holds no algorithm, but a base or a part of one. Any other such
class is named by its dotted path.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Mapping

from ...analysis.rows.mistake import Mistake
from ..contract import Algorithm
from ..domain import Domain
from ..models import lookup, raised

GROUP = "prunefront.algorithms"


@functools.cache
def known() -> dict[str, Algorithm]:
    """Every algorithm by name, sorted. Raises Mistake naming an entry point that cannot be loaded."""
    found: dict[str, Algorithm] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):  # a base, or a part of a method
            continue
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
        if entry.name in found:
            raise Mistake(
                f"algorithm {entry.name}: its name is one of prunefront's own; got it from entry point {entry.value} too"
            )
        try:
            loaded = entry.load()
        except (
            Exception,
            SystemExit,
        ) as error:  # another package's code: whatever it raises, say whose it is
            raise Mistake(
                f"algorithm {entry.name}: entry point {entry.value} cannot be loaded ({raised(error)})"
            ) from error
        found[entry.name] = _made(entry.name, loaded)
    return dict(sorted(found.items()))


def is_ours(algorithm: Algorithm) -> bool:
    """Whether an algorithm is of this folder, and not of a user's own."""
    return type(algorithm).__module__.startswith(f"{__name__}.")


@functools.cache
def find(name: str) -> Algorithm:
    """The algorithm `name`, a known one or the dotted path of a class. Raises Mistake that suggests
    the nearest one.
    """
    if name in known():
        return known()[name]
    found = lookup(name, dict.fromkeys(known(), object), "algorithm")
    return _made(name, found)


def _made(name: str, found: object) -> Algorithm:
    """The algorithm of a user's own class. Raises Mistake if it is none, or if a method takes other
    arguments than ours.
    """
    if not (inspect.isclass(found) and issubclass(found, Algorithm)):
        raise Mistake(
            f"algorithm {name}: an algorithm is a class that implements the contract; got {found!r}"
        )
    for attribute in ("source", "space"):
        if not hasattr(found, attribute):
            raise Mistake(f"algorithm {name}: an algorithm has a `{attribute}`; got none")
    if not isinstance(found.space, Mapping) or not all(
        isinstance(domain, Domain) for domain in found.space.values()
    ):
        raise Mistake(
            f"algorithm {name}: `space` is a dict of Domains by name; got {found.space!r}"
        )
    if type(found.version) is not int:
        raise Mistake(f"algorithm {name}: `version` is a whole number; got {found.version!r}")
    for method, own in inspect.getmembers(found, inspect.isfunction):
        for base in found.__mro__:
            ours = vars(base).get(method)
            if base.__module__.startswith(
                Algorithm.__module__.rpartition(".")[0]
            ) and inspect.isfunction(ours):
                wanted = [
                    p for p in inspect.signature(ours).parameters.values() if p.default is p.empty
                ]
                try:
                    inspect.signature(own).bind(*wanted)
                except TypeError as error:
                    rule = f"algorithm {name}: `{method}` takes {', '.join(p.name for p in wanted)}"
                    raise Mistake(f"{rule}; with these, {error}") from None
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise Mistake(
            f"algorithm {name}: is made without arguments; it raised {raised(error)}"
        ) from error
