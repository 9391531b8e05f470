"""The search space of an arm: values, ranges and conditions, checked against an algorithm's own."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping
from typing import Any

from ...analysis.rows.mistake import Mistake
from ...trainables import models
from ...trainables.contract import Algorithm
from ...trainables.domain import Domain, Value
from .schema import (
    MOST_CONFIGURATIONS,
    Conditions,
    Content,
    Listed,
    Space,
    Span,
    Values,
)

MOST_SHOWN = 80
"""Characters of a value in a sentence."""


def values_of(algorithm: Algorithm, key: str, given: Any) -> Values:
    """The values that `space.key` names: a list of values, one value, or a range; a condition
    beside them is left out.
    """
    if key not in algorithm.space:
        hint = models.hint(key, algorithm.space)
        raise Mistake(f"`{key}` is no hyper-parameter of its algorithm;{hint}")
    domain = algorithm.space[key]
    if isinstance(given, Mapping):
        given = {name: given[name] for name in given if name != "when"}
        if given.keys() == {"values"}:
            given = given["values"]
    try:
        if isinstance(given, Mapping):
            return _span(domain, given)
        return _listed(domain, given)
    except Mistake as error:
        raise Mistake(f"`{key}` {error}") from None


def every_whole(values: Values) -> Values:
    """Of a range of whole numbers each one, for a grid."""
    if not isinstance(values, Span) or not values.whole:
        return values
    if values.high - values.low >= MOST_CONFIGURATIONS:
        return values
    low = int(values.low)
    high = int(values.high)
    return tuple(range(low, high + 1))


def conditions(algorithm: Algorithm, given: Content, space: Space) -> Conditions:
    """The conditions in an arm's `space`, each after those that it depends on.

    given: as the study has it.  space: the values of all hyper-parameters there.
    """
    needs: dict[str, dict[str, Listed]] = {}
    for key, value in given.items():
        if _has_condition(value):
            needs[key] = _condition(algorithm, key, given, space)
    others: dict[str, list[str]] = {}
    for key, condition in needs.items():
        others[key] = list(condition)
    sorter = graphlib.TopologicalSorter(others)
    try:
        order = list(sorter.static_order())
    except graphlib.CycleError as error:
        _, cycle = error.args
        names = [f"`{name}`" for name in reversed(cycle)]
        circle = " on ".join(names)
        raise Mistake(f"no hyper-parameter depends on itself; got {circle}") from None
    in_order: dict[str, dict[str, Listed]] = {}
    for key in order:
        if key in needs:
            in_order[key] = needs[key]
    return in_order


def shown(value: object) -> str:
    """A value as a sentence has it: cut if it is long."""
    text = repr(value)
    if len(text) <= MOST_SHOWN:
        return text
    start = text[: MOST_SHOWN - 3]
    return f"{start}..."


def _has_condition(given: Any) -> bool:
    return isinstance(given, Mapping) and "when" in given


def _condition(
    algorithm: Algorithm,
    key: str,
    given: Content,
    space: Space,
) -> dict[str, Listed]:
    """Other hyper-parameter -> values with which `key` is searched."""
    condition = given[key]["when"]
    if not isinstance(condition, Mapping) or not condition:
        rule = f"`{key}` has a condition such as when = {{NAME = VALUE}}, or a list of values"
        raise Mistake(f"{rule}; got {shown(condition)}")
    needs: dict[str, Listed] = {}
    for other, wanted in condition.items():
        if other not in space:
            rule = f"`{key}` depends on another key of the same `space`"
            raise Mistake(f"{rule}; got {other!r};{models.hint(other, space)}")
        domain = algorithm.space[other]
        try:
            needs[other] = _listed(domain, wanted)
        except Mistake as error:
            raise Mistake(f"`{key}` depends on `{other}`, which {error}") from None
        possible = _possible(space[other], needs[other])
        if _has_condition(given[other]):  # where that is not searched it has its default
            possible = (*possible, domain.default)
        for value in needs[other]:
            if value not in possible:
                rule = f"`{key}` depends on a value of `{other}` that `space` has"
                raise Mistake(f"{rule}; got {value!r}")
    return needs


def _possible(values: Values, wanted: Listed) -> Listed:
    """Which of the values `wanted` a hyper-parameter may have; of a list, all that are in it."""
    if not isinstance(values, Span):
        return values
    possible: list[Value] = []
    for value in wanted:
        is_number = isinstance(value, int | float)
        if is_number and values.low <= value <= values.high:
            possible.append(value)
    return tuple(possible)


def _listed(domain: Domain, given: Any) -> Listed:
    """A value, or a list of them, checked."""
    several = isinstance(given, list)
    if several and domain.kind == "reals":  # of which one is a list
        several = bool(given) and isinstance(given[0], list)
    candidates = [given]
    if several:
        candidates = given
    values = tuple(domain.check(value) for value in candidates)
    if not values or len(set(values)) < len(values):
        raise Mistake(f"has distinct values, at least one; got {shown(given)}")
    return values


def _span(domain: Domain, given: Content) -> Span:
    if domain.kind not in ("real", "whole"):
        raise Mistake(f"is {domain.about}: a list of values; got the range {given}")
    log = given.get("log", domain.log)
    required = {"low", "high"}
    known = required <= given.keys() <= {*required, "log"}
    if not known or not isinstance(log, bool):
        raise Mistake(f"has a range of low, high and, if need be, log = true or false; got {given}")
    for end in ("low", "high"):
        domain.check(given[end])
    low = float(given["low"])
    high = float(given["high"])
    if low >= high:
        raise Mistake(f"has a range with low < high; got low {low:g}, high {high:g}")
    if log and low <= 0:
        rule = "has a logarithmic range above 0 (log = false makes it linear)"
        raise Mistake(f"{rule}; got low {low:g}")
    whole = domain.kind == "whole"
    return Span(low, high, log, whole)
