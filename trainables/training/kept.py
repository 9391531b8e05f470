"""What this machine knows of how members run, kept beside torch's compiled graphs."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...analysis.rows.storage import atomic
from .hooks import Hooks

if TYPE_CHECKING:
    from ..task import Task

Facts = dict[str, Any]


def folder() -> Path:
    """Where torch keeps compiled graphs."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if given:
        return Path(given)
    return Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"


def place(task: Task, pruner: Hooks, static: Mapping[str, Any], *more: object) -> str:
    """The file of what is known of members with these static hyper-parameters.

    more: whatever else it depends on.
    """
    parts: Sequence[Any] = [
        _name(pruner),
        dict(static),
        task.model,
        task.model_options,
        task.data.shape,
        task.data.classes,
        task.batch_size,
        task.precision,
        task.optimizer,
        task.momentum,
        task.augment,
        _device(task.torch_device),
        torch.__version__,
        more,
    ]
    told = json.dumps(parts, sort_keys=True, default=str)
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    return str(folder() / "prunefront" / f"{digest}.json")


def was_compiled(task: Task, pruner: Hooks, static: Mapping[str, Any], width: int) -> bool:
    """Whether this machine has compiled steps of `width` members before."""
    return bool(read(_compiled_at(task, pruner, static, width)))


def note_compiled(task: Task, pruner: Hooks, static: Mapping[str, Any], width: int) -> None:
    """Keep that steps of `width` members were compiled."""
    write(_compiled_at(task, pruner, static, width), {"compiled": True})


def _compiled_at(task: Task, pruner: Hooks, static: Mapping[str, Any], width: int) -> str:
    own = {name: value for name, value in static.items() if name in pruner.space}
    return place(task, pruner, own, "compiled", width)


def read(path: str) -> Facts:
    """What a file says; nothing if it is not there, or torn."""
    try:
        facts = json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def write(path: str, facts: Facts) -> None:
    """Keep facts. Where nothing can be written they are found out again."""
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(facts))
    except OSError:
        return


def _name(pruner: Hooks) -> str:
    """What a pruner's steps are known by."""
    kind = type(pruner)
    version = getattr(kind, "version", 1)
    is_plain = kind is Hooks or kind.__name__ == "Dense"  # a dense phase, and the arm, are one
    return "dense" if is_plain else f"{kind.__module__}.{kind.__qualname__} {version}"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu of {platform.node()}, {torch.get_num_threads()} of {os.cpu_count()} threads"
