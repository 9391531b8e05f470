"""What an algorithm offers to a study's standard controls: baselines, and checks of other arms.

Both are declared as class attributes of the algorithm that offers them, `standard` and `checks`;
the contract of algorithms knows neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .contract import Algorithm
from .domain import Value

Arm = Mapping[str, tuple[Value, ...]]
"""The values of hyper-parameters that an arm tries, by name."""


@dataclasses.dataclass(frozen=True)
class Check:
    """A sanity check of the settings that other arms found.

    called: what its arm is called behind the name of the arm it is about.  front: of settings on
    the front alone, not of all.
    smaller: of networks that have fewer units than the parent.  from_dense: of algorithms that
    start from dense networks.
    needs_initial: on initial weights that are drawn anew, which not every model has
    (`Task.loaded`).
    """

    called: str
    front: bool = True
    smaller: bool = False
    from_dense: bool = False
    needs_initial: bool = False


def baselines(algorithm: Algorithm) -> Mapping[str, Arm]:
    """The arms of an algorithm that standard controls give a study, by name: its `standard`."""
    return getattr(algorithm, "standard", {})


def checks(algorithm: Algorithm) -> Mapping[str, Check]:
    """The checks that an algorithm can make of a setting: its `checks`.

    They are named by the values of its hyper-parameter `check`; its hyper-parameter `of` is the
    setting.
    """
    return getattr(algorithm, "checks", {})
