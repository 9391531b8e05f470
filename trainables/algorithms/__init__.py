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
from types import ModuleType
from typing import Any

from ...analysis.rows.mistake import Mistake
from ..contract import Algorithm
from ..domain import Domain
from ..models import lookup, raised
from ..training.hooks import Hooks, misdeclared
from ._masked import Masked
from ._structured import Structured

__all__ = ["Masked", "Structured", "find", "is_ours", "known", "of_dense_phase"]

GROUP = "prunefront.algorithms"
PACKAGE = __name__.rpartition(".")[0]


@functools.cache
def known() -> dict[str, Algorithm]:
    """Every algorithm by name, sorted. Raises Mistake for an entry point that cannot be loaded."""
    algorithms: dict[str, Algorithm] = {}
    for file in pkgutil.iter_modules(__path__):
        name = file.name
        if not name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{name}")
            algorithms[name] = _only(module)
    for entry in importlib.metadata.entry_points(group=GROUP):
        name = entry.name
        if name in algorithms:
            rule = f"algorithm {name}: its name is one of prunefront's own"
            raise Mistake(f"{rule}; got it from entry point {entry.value} too")
        kind = _loaded(entry)
        algorithms[name] = _made(name, kind)
    by_name = sorted(algorithms.items())
    return dict(by_name)


def _only(module: ModuleType) -> Algorithm:
    """The one algorithm of a module of this folder."""
    own: list[type[Algorithm]] = []
    for name, value in vars(module).items():
        if not inspect.isclass(value) or value.__module__ != module.__name__:
            continue
        is_part = name.startswith("_")
        if issubclass(value, Algorithm) and not is_part:
            own.append(value)
    assert len(own) == 1, f"{module.__name__} holds one algorithm; got {own}"
    return own[0]()


def _loaded(entry: importlib.metadata.EntryPoint) -> object:
    """What an entry point names."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # another package's code, and it may raise anything
        what = f"algorithm {entry.name}: entry point {entry.value}"
        raise Mistake(f"{what} cannot be loaded ({raised(error)})") from error


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
    names = dict.fromkeys(known(), object)
    kind = lookup(name, names, "algorithm")
    return _made(name, kind)


def _made(name: str, kind: object) -> Algorithm:
    """The algorithm of a user's own class. Raises Mistake if it is none, or says something of
    itself that is not so.
    """
    if not (inspect.isclass(kind) and issubclass(kind, Algorithm)):
        rule = "an algorithm is a class that implements the contract"
        raise Mistake(f"algorithm {name}: {rule}; got {kind!r}")
    if wrong := _misdescribed(kind):
        raise Mistake(f"algorithm {name}: {wrong}")
    for method, function in inspect.getmembers(kind, inspect.isfunction):
        _check_arguments(name, kind, method, function)
    try:
        return kind()
    except (Exception, SystemExit) as error:
        rule = "is made without arguments"
        raise Mistake(f"algorithm {name}: {rule}; it raised {raised(error)}") from error


def of_dense_phase() -> tuple[str, Algorithm]:
    """The algorithm, and its name, by which networks train that others start from."""
    return "dense", find("dense")


def _misdescribed(kind: type[Algorithm]) -> str | None:
    """What a class says of itself that is not so; None if all is well."""
    for attribute in ("source", "space"):
        if not hasattr(kind, attribute):
            return f"an algorithm has a `{attribute}`; got none"
    if not _is_space(kind.space):
        rule = "`space` is a dict of Domains by name"
        return f"{rule}; got {kind.space!r}"
    if type(kind.version) is not int:
        return f"`version` is a whole number; got {kind.version!r}"
    if issubclass(kind, Hooks):
        return misdeclared(kind)
    return None


def _is_space(space: object) -> bool:
    if not isinstance(space, Mapping):
        return False
    return all(isinstance(domain, Domain) for domain in space.values())


def _check_arguments(
    name: str,
    kind: type[Algorithm],
    method: str,
    function: Any,
) -> None:
    """Raise Mistake if a method takes other arguments than the one of ours that it overrides."""
    for base in kind.__mro__:
        ours = vars(base).get(method)
        if not base.__module__.startswith(PACKAGE) or not inspect.isfunction(ours):
            continue
        parameters = inspect.signature(ours).parameters.values()
        required = [given for given in parameters if given.default is given.empty]
        signature = inspect.signature(function)
        try:
            signature.bind(*required)
        except TypeError as error:
            names = ", ".join(given.name for given in required)
            rule = f"algorithm {name}: `{method}` takes {names}"
            raise Mistake(f"{rule}; with these, {error}") from None
