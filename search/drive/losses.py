"""Losses of workers: whatever ended one, Tune takes it for the end of that worker alone; and
whether it was memory.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ray import exceptions

from ...trainables.records.parts import out_of_memory

PARTS = 4
"""Into how many parts each part of a cohort is cut when a worker with it runs out of memory; they
take turns.
"""
_RAN_LOW = re.compile(
    r"running low on memory.*?was (?P<used>\S+) used / (?P<limit>\S+) limit", re.DOTALL
)


def deaths_only() -> bool:
    """Let Tune take every error of Ray's own, such as a worker killed for memory, as the death of
    an actor.

    Tune knows two kinds, the death of an actor and an exception in a task, and ends the whole
    search for any other. The function is private to Ray: returns whether it is there. Without it,
    `cluster.train` starts Tune again.
    """
    try:
        from ray.air.execution._internal.actor_manager import RayActorManager

        failed = RayActorManager._actor_task_failed
    except (ImportError, AttributeError):
        return False
    if not hasattr(failed, "deaths_only"):

        def translated(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
            if not isinstance(exception, exceptions.RayActorError | exceptions.RayTaskError):
                exception = exceptions.RayActorError(
                    error_msg=f"{type(exception).__name__}: {exception}"
                )
            failed(self, tracked_actor_task, exception)

        translated.deaths_only = True  # type: ignore[attr-defined]
        RayActorManager._actor_task_failed = translated
    return True


def of_ray(error: BaseException | None) -> bool:
    """Whether an error that ended Tune came from Ray, so that another worker may do better."""
    while error is not None and not isinstance(error, exceptions.RayError):
        error = error.__cause__
    return error is not None


def memory(error: object, kills: int) -> str:
    """How a worker ran out of memory, from the error that it left; empty: it did not, as far as is
    known.

    kills: processes that the kernel has killed for memory while the worker trained.
    """
    cause = getattr(error, "cause", error)
    if isinstance(cause, Exception) and out_of_memory(cause):
        return "it ran out of memory"
    if found := _RAN_LOW.search(str(error)):
        return f"Ray ended its worker as memory ran low, at {found['used']} of {found['limit']}"
    if kills and not isinstance(error, exceptions.RayTaskError):
        return "the kernel ended its worker as memory ran out"
    return ""


def kernel_kills() -> int:
    """How many processes the kernel of this machine has killed for memory since it started; 0 where
    it does not tell.
    """
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
