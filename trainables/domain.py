"""Domains: the values that hyper-parameters may take, and hyper-parameters in canonical form."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Literal, TypeGuard

from ..analysis.rows.mistake import Mistake

Value = float | int | str | tuple[float, ...] | None


@dataclasses.dataclass(frozen=True)
class Domain:
    """The values that one hyper-parameter may take.

    kind: `real` and `whole` are numbers in [low, high] (`open_high`: [low, high)); `choice` is one
    of `choices`; `reals` is a list of numbers in the range, one for each removable layer; `text` is
    any text.  default: None means "as the algorithm says in `about`".  log: proposals are spread
    evenly over the logarithm.  static: members of one cohort share the value, since it changes
    shapes or code paths.  tunable: the value may be changed in the middle of a run (by population
    based training, say).
    """

    kind: Literal["real", "whole", "choice", "reals", "text"]
    default: Value
    about: str
    low: float = -math.inf
    high: float = math.inf
    open_high: bool = False
    log: bool = False
    choices: tuple[str, ...] = ()
    static: bool = False
    tunable: bool = False

    def __post_init__(self) -> None:
        assert self.static or self.kind != "choice", "a choice is a code path, and so static"

    def check(self, value: object) -> Value:
        """`value` in canonical form. Raises Mistake that ends a sentence beginning with the
        hyper-parameter's name.
        """
        if value is None and self.default is None:
            return None
        accepted = self._canonical(value)
        if accepted is None:
            raise Mistake(f"is {self.about}: {self._wanted}; got {value!r}")
        return accepted

    def _canonical(self, value: object) -> Value:
        """`value` in canonical form; None if it is not in the domain."""
        if self.kind == "choice":
            return str(value) if value in self.choices else None
        if self.kind == "text":
            return value if isinstance(value, str) and value else None
        if self.kind == "reals":
            return self._numbers(value)
        if not self._holds(value):
            return None
        if self.kind == "real":
            return float(value)
        return int(value) if float(value) == int(value) else None

    def _numbers(self, value: object) -> tuple[float, ...] | None:
        """`value` as a tuple of numbers; None if it is not one, or empty."""
        if not isinstance(value, list | tuple) or not value:
            return None
        if not all(self._holds(number) for number in value):
            return None
        return tuple(float(number) for number in value)

    def _holds(self, value: object) -> TypeGuard[float]:
        """Whether a value is a number in the range, and one that a float or an int64 can hold."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        most = sys.float_info.max
        if self.kind == "whole":
            representable = -(2**63) < value < 2**63
        else:
            representable = -most <= value <= most
        if not representable:
            return False
        beyond = self.open_high and value == self.high
        return self.low <= value <= self.high and not beyond

    @property
    def _wanted(self) -> str:
        """What a value has to be, in words."""
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        if self.kind == "text":
            return "text"
        if self.kind == "reals":
            return f"a list of numbers in {self.range}, one for each layer"
        noun = "a number" if self.kind == "real" else "a whole number"
        return f"{noun} in {self.range}"

    @property
    def range(self) -> str:
        """The range in words: `[0, 1)`."""
        left = "(-inf" if self.low == -math.inf else f"[{self.low:g}"
        if self.high == math.inf:
            return f"{left}, inf)"
        bracket = ")" if self.open_high else "]"
        return f"{left}, {self.high:g}{bracket}"


def complete(space: Mapping[str, Domain], hp: Mapping[str, object]) -> dict[str, Value]:
    """`hp` in canonical form with defaults filled in, names sorted. Raises Mistake for a name or
    value out of the space.
    """
    _expect_known(space, hp)
    completed: dict[str, Value] = {}
    for name, domain in sorted(space.items()):
        value = hp.get(name, domain.default)
        try:
            completed[name] = domain.check(value)
        except Mistake as error:
            raise Mistake(f"`{name}` {error}") from None
    return completed


def _expect_known(space: Mapping[str, Domain], hp: Mapping[str, object]) -> None:
    """Raise Mistake for a name out of the space."""
    unknown = sorted(set(hp) - set(space))
    if not unknown:
        return
    first = unknown[0]
    known = ", ".join(sorted(space)) or "none"
    raise Mistake(f"`{first}` is no hyper-parameter; known: {known}")


def expect_defaults(
    space: Mapping[str, Domain], hp: Mapping[str, Value], names: Sequence[str], when: str
) -> None:
    """Raise Mistake if one of the hyper-parameters `names` is not at its default, though it does
    something only `when`: settings that differ in it alone would be the same twice.
    """
    for name in names:
        if hp[name] != space[name].default:
            raise Mistake(f"`{name}` is used {when} alone; got {hp[name]}")


def canonical(space: Mapping[str, Domain], hp: Mapping[str, Value]) -> str:
    """The hyper-parameters that differ from their defaults, as JSON with sorted names."""
    changed: dict[str, Value] = {}
    for name, value in sorted(hp.items()):
        default = space[name].default
        if value != default:
            changed[name] = value
    return json.dumps(changed, separators=(",", ":"))


def setting(algorithm: str, hp: str) -> str:
    """The setting of an algorithm with hyper-parameters as rows have them, canonical JSON: its
    name, a space, and these.
    """
    return f"{algorithm} {hp}"


def hyperparameters(hp: str) -> dict[str, Value]:
    """Those in `hp` of a row. Raises Mistake if it is no JSON object."""
    given = None
    with contextlib.suppress(json.JSONDecodeError):
        given = json.loads(hp)
    if not isinstance(given, dict):
        rule = 'hyper-parameters are a JSON object, as in dns {"sparsity": 0.9}'
        raise Mistake(f"{rule}; got {hp!r}")
    values: dict[str, Value] = {}
    for name, value in given.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return values


def code_path(
    space: Mapping[str, Domain], hp: Mapping[str, Value]
) -> tuple[tuple[str, Value], ...]:
    """What members of one cohort have in common: static values, and which values are left to the
    algorithm (None).
    """
    common: list[tuple[str, Value]] = []
    for name, domain in sorted(space.items()):
        value = hp[name]
        if domain.static or value is None:
            common.append((name, value))
    return tuple(common)
