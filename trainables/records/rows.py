"""What rows of a cohort say beside measures: whose they are, and where they come from."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..contract import Algorithm
from ..domain import Domain, canonical
from ..task import Task
from ..training.engine import described
from .cohort import Cohort

_COLUMN_TYPES = {
    "real": pa.float64(),
    "whole": pa.int64(),
    "choice": pa.string(),
    "text": pa.string(),
}
"""By the kind of a hyper-parameter's domain."""


def labels(
    study: str,
    task: Task,
    cohort: Cohort,
    algorithm: Algorithm,
    slot: int,
    member: str,
) -> dict[str, Any]:
    """The key columns of a member's rows, and its hyper-parameters."""
    own = cohort.members[slot]
    hp = own.hp
    columns = {
        "study": study,
        "arm": cohort.arm,
        "control": algorithm.is_control(hp),
        "algorithm": cohort.algorithm,
        "model": task.model,
        "dataset": task.dataset,
        "train_share": task.train_share,
        "label_noise": task.label_noise,
        "imbalance": task.imbalance,
        "seed": own.seed,
        "member": member,
        "cohort": cohort.name,
        "hp": canonical(algorithm.space, hp),
    }
    for name in hp_types(algorithm.space):
        columns[f"hp_{name}"] = hp[name]
    return columns


def hp_types(space: Mapping[str, Domain]) -> dict[str, pa.DataType]:
    """The column types of hyper-parameters; lists are in the JSON column `hp` only."""
    types: dict[str, pa.DataType] = {}
    for name, domain in space.items():
        kind = domain.kind
        if kind in _COLUMN_TYPES:
            types[name] = _COLUMN_TYPES[kind]
    return types


def footer(task: Task, refused: str = "") -> dict[str, Any]:
    """Where rows come from: commit, versions, device, precision, task with data digest, and how
    members were run. refused: `engine.described`.
    """
    # The package's own version does not say which build of torch it is.
    versions: dict[str, str] = {"torch": torch.__version__}
    for name in ("prunefront", "numpy", "pyarrow"):
        versions[name] = importlib.metadata.version(name)
    about = {
        "commit": _commit(),
        "versions": versions,
        "device": _device_name(task.torch_device),
        "precision": {"trained": task.precision, "measured": task.dtype},
        "task": task.describe(),
        "engine": described(task, refused),
    }
    if task.data.cautions:
        about["cautions"] = list(task.data.cautions)
    return about


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


@functools.cache
def _commit() -> str:
    """The commit of the source that runs, if it runs from a checkout."""
    here = Path(__file__).resolve().parent
    root = here.parent.parent
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip()
